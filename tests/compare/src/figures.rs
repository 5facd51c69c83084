//! Figures: latencies in histograms, and the time that processes have spent on the cores.

use std::fs;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// Histograms that callers are spread over, so that they rarely wait for each other.
const SHARDS: usize = 8;

/// The longest latency that is told apart; what takes longer counts as this, in nanoseconds.
const LATENCY_NS_MAX: u64 = 120_000_000_000;

/// Returns the nanoseconds since the first call, which is never 0.
pub fn now_ns() -> u64 {
    static BEGIN: OnceLock<Instant> = OnceLock::new();
    let since = BEGIN.get_or_init(Instant::now).elapsed();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX).max(1)
}

/// Latencies of many callers.
#[derive(Debug)]
pub struct Latencies {
    shards: Vec<Mutex<Histogram<u64>>>,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::new(empty())).collect() }
    }
}

fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("a histogram of these bounds")
}

impl Latencies {
    /// Adds one, of the caller of this number.
    pub fn record(&self, caller: usize, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(LATENCY_NS_MAX);
        if let Some(shard) = self.shards.get(caller % SHARDS) {
            shard.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(nanos);
        }
    }

    /// Tells them all.
    pub fn json(&self) -> Value {
        let mut sum = empty();
        for shard in &self.shards {
            sum += &*shard.lock().unwrap_or_else(PoisonError::into_inner);
        }
        let ms = |quantile: f64| sum.value_at_quantile(quantile) as f64 / 1e6;
        json!({"count": sum.len(), "p50_ms": ms(0.5), "p90_ms": ms(0.9), "p99_ms": ms(0.99), "max_ms": ms(1.0)})
    }
}

/// Seconds that were spent on the cores up to a moment.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    at: Instant,
    own: f64,
    servers: f64,
    machine: f64,
}

/// What was spent between two moments.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    secs: f64,
    own: f64,
    servers: f64,
    machine: f64,
}

impl Reading {
    /// Takes a reading: this process, the servers, the whole machine.
    pub fn take(pids: &[u32]) -> Self {
        Self {
            at: Instant::now(),
            own: spent_by("self"),
            servers: pids.iter().map(|pid| spent_by(&pid.to_string())).sum(),
            machine: spent_by_all(),
        }
    }

    /// Returns what was spent since an earlier one.
    pub fn since(&self, earlier: &Self) -> Used {
        Used {
            secs: (self.at - earlier.at).as_secs_f64().max(f64::MIN_POSITIVE),
            own: self.own - earlier.own,
            servers: self.servers - earlier.servers,
            machine: self.machine - earlier.machine,
        }
    }
}

impl Used {
    /// Tells it, for so many jobs.
    pub fn json(&self, jobs: u64) -> Value {
        json!({
            "secs": self.secs, "jobs": jobs, "jobs_per_s": jobs as f64 / self.secs,
            "driver_cores": self.own / self.secs, "server_cores": self.servers / self.secs,
            // What other programs had, and the host of a virtual machine.
            "other_cores": (self.machine - self.own - self.servers).max(0.0) / self.secs,
            "server_us_per_job": self.servers * 1e6 / (jobs as f64).max(1.0),
        })
    }
}

fn ticks_per_s() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}

/// Returns the seconds of a process; 0 if it is gone.
fn spent_by(process: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name, which may hold anything, ends with the last bracket.
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let user_and_system = rest.split_whitespace().skip(11).take(2);
    user_and_system.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / ticks_per_s()
}

/// Returns the seconds that all cores were busy with anything, or taken away by the host.
fn spent_by_all() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let first = text.lines().next().unwrap_or_default();
    let ticks: Vec<f64> =
        first.split_whitespace().skip(1).filter_map(|ticks| ticks.parse().ok()).collect();
    // user, nice, system, irq, softirq, steal
    [0, 1, 2, 5, 6, 7].iter().filter_map(|at| ticks.get(*at)).sum::<f64>() / ticks_per_s()
}

//! `bench cycle`, `latency` and `failover`: whole jobs, by workers of the client library, and a leader that is killed.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use futures::channel::oneshot;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::bench::load::{self, Gate, Window, latencies, nanos};
use crate::bench::meter::Servers;
use crate::bench::own::Own;
use crate::bench::stop::Stop;
use crate::bench::submits::{self, QUEUE, Submits};
use crate::cli::bench_end::Run;
use crate::cli::exit::{Exit, Failure, Outcome, narrate};
use crate::cli::out::{Column, Out, Table};
use crate::cli::session::Session;
use crate::client::blocking::{Client, run_worker};
use crate::client::client::Client as AsyncClient;
use crate::client::job::{Job, new_id};
use crate::client::worker::Worker;
use crate::node::clock::monotonic;
use crate::types::JobId;

/// Threads that submit at a steady rate.
const SUBMITTERS: usize = 16;

/// How long a leader is sought, and work under way may take at the end.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long workers may take to end the last jobs before those are cancelled.
const SETTLING_MAX: Duration = Duration::from_secs(2);

/// How long one look at a cluster may take whose leader is killed.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// The pause between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(20);

/// The longest time that a thread which submits does not look at whether it is to end.
const HALT_LOOK: Duration = Duration::from_millis(200);

/// How long a submit may take while the leader is killed, with all its tries.
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(30);

/// Options of `bench cycle`.
#[derive(Clone, Debug, Args)]
pub struct CycleArgs {
    /// Workers of the client library, which do nothing with a job but end it.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers: u16,

    /// Jobs that each runs at once.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub slots: u32,

    /// Jobs between submit and completion, at most.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub in_flight: u16,

    /// Seconds that count.
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=3600))]
    pub secs: u16,

    /// Bytes of each job's payload.
    #[arg(long, value_name = "BYTES", default_value = "256", value_parser = crate::cli::bench::payload)]
    pub payload: usize,
}

/// Options of `bench latency`.
#[derive(Clone, Debug, Args)]
pub struct LatencyArgs {
    /// Jobs a second, whatever becomes of them.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=5000))]
    pub rate: u16,

    /// Idle workers that wait for them.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers: u16,

    /// Seconds that count.
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=3600))]
    pub secs: u16,
}

/// Options of `bench failover`.
#[derive(Clone, Debug, Args)]
pub struct FailoverArgs {
    /// Nodes of the cluster that is started for this.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(3..=7))]
    pub nodes: u16,

    /// How often the leader is killed.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub kills: u16,

    /// Submits a second, whatever becomes of them.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u16).range(1..=5000))]
    pub rate: u16,

    /// Where its data is kept while it runs [default: the directory for temporary files].
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

fn failed(why: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Failure, why.to_string())
}

/// Workers on threads of their own.
struct Workers {
    /// Dropped, each tells its worker to go.
    stops: Vec<oneshot::Sender<()>>,
    threads: Vec<JoinHandle<Result<(), String>>>,
}

impl Workers {
    fn start(
        addrs: &[String],
        count: u16,
        slots: u32,
        handle: impl Fn(Bytes) + Clone + Send + Sync + 'static,
    ) -> Result<Self, Failure> {
        let (mut stops, mut threads) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let client =
                AsyncClient::builder().seeds(addrs.iter().cloned()).build().map_err(failed)?;
            let handle = handle.clone();
            let worker =
                Worker::new(&client).slots(slots).queue(QUEUE, move |_context, payload| {
                    handle(payload);
                    std::future::ready(Ok::<Bytes, String>(Bytes::new()))
                });
            let (stop, stopped) = oneshot::channel::<()>();
            let run = move || {
                let asked = async move {
                    // The sender is dropped, which is the word.
                    let (Ok(()) | Err(oneshot::Canceled)) = stopped.await;
                };
                run_worker(worker, asked).map(drop).map_err(|error| error.to_string())
            };
            let thread = thread::Builder::new().name("worker".into()).spawn(run).map_err(failed)?;
            stops.push(stop);
            threads.push(thread);
        }
        Ok(Self { stops, threads })
    }

    /// Lets them end what they have, and go.
    fn stop(self) -> Result<(), Failure> {
        drop(self.stops);
        for thread in self.threads {
            let ended = thread.join().map_err(|_panic| failed("a worker ended badly"))?;
            ended.map_err(failed)?;
        }
        Ok(())
    }
}

/// Waits until something holds.
fn until(stop: &Stop, what: &str, mut holds: impl FnMut() -> bool) -> Result<(), Failure> {
    let since = monotonic();
    while !holds() {
        if monotonic().saturating_sub(since) > PATIENCE {
            return Err(failed(format!("{what}: not within {PATIENCE:?}")));
        }
        stop.sleep(LOOK).map_err(failed)?;
    }
    Ok(())
}

fn millis(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1e6
}

/// Measures whole jobs: submitted, assigned, run by workers, completed.
///
/// # Errors
/// A [`Failure`] of the cluster or of stdout.
pub fn cycle(args: &CycleArgs, session: &Session, run: &Run, out: &mut Out) -> Outcome {
    let status = session.status()?;
    let leader = status.nodes.iter().find(|node| Some(node.id) == status.leader);
    let leader = leader.ok_or_else(|| failed("the cluster has no leader at the moment"))?;
    let addrs: Vec<String> = status.nodes.iter().map(|node| node.addr.clone()).collect();
    let servers = Servers::at(&addrs);
    let gate = Arc::new(Gate {
        jobs_max: args.in_flight.into(),
        begun: AtomicU64::new(0),
        done: AtomicU64::new(0),
    });
    let done = Arc::clone(&gate);
    let workers = Workers::start(&addrs, args.workers, args.slots, move |_payload| {
        done.done.fetch_add(1, Ordering::Relaxed);
    })?;
    narrate(&format!("cycle: {} s with {} workers", args.secs, args.workers));
    let places = 64;
    let lines = (0..2)
        .map(|_| {
            let submits = Submits::new(args.payload, 1, places, run.traces.block());
            submits::connect(&leader.addr, submits, places)
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    let window =
        Window { warm_up: Duration::from_secs(2), time: Duration::from_secs(args.secs.into()) };
    let mut marks = Vec::new();
    let ran = load::run(lines, window, Some(&gate), &run.stop, || {
        marks.push((servers.read(), gate.done.load(Ordering::Relaxed)));
    });
    let done = || gate.done.load(Ordering::Relaxed);
    // What the workers still end need not be cancelled.
    let since = monotonic();
    while done() < run.traces.jobs_count() && monotonic().saturating_sub(since) < SETTLING_MAX {
        thread::sleep(LOOK);
    }
    let measured = ran.map_err(failed)?;
    until(&run.stop, "the last jobs are done", || done() >= measured.done_ever)?;
    workers.stop()?;
    let [(before, done_before), (after, done_after)] = &marks[..] else {
        return Err(failed("the window has not two ends"));
    };
    let used = after.since(before);
    let jobs = done_after.saturating_sub(*done_before);
    let per_s = jobs as f64 / used.secs;
    let server_us = used.server_cores * used.secs * 1e6 / (jobs as f64).max(1.0);
    let [p50, p99] = [0.5, 0.99].map(|quantile| millis(&measured.latency, quantile));
    let errors = measured.failed.values().sum::<u64>();
    if session.json() {
        out.json(&json!({
            "what": "cycle", "nodes": addrs.len(), "workers": args.workers, "slots": args.slots,
            "in_flight": args.in_flight, "payload_bytes": args.payload, "secs": args.secs,
            "per_s": per_s, "p50_ms": p50, "p99_ms": p99, "errors": errors,
            "client_cores": used.own_cores, "server_cores": used.server_cores,
            "server_cpu_us_per_job": server_us, "stolen_cores": used.stolen_cores,
        }))?;
    } else {
        out.line(&format!(
            "cycle: {} nodes, {} workers of {} slots, {} B a job, at most {} on their way",
            addrs.len(),
            args.workers,
            args.slots,
            args.payload,
            args.in_flight
        ))?;
        let mut table = Table::new(&[
            Column::Right("JOBS/S"),
            Column::Right("SUBMIT P50 MS"),
            Column::Right("P99"),
            Column::Right("ERRORS"),
            Column::Right("CLIENT CORES"),
            Column::Right("SERVER CORES"),
            Column::Right("SERVER US/JOB"),
        ]);
        table.row(vec![
            format!("{per_s:.0}"),
            format!("{p50:.2}"),
            format!("{p99:.2}"),
            errors.to_string(),
            format!("{:.2}", used.own_cores),
            format!("{:.2}", used.server_cores),
            format!("{server_us:.1}"),
        ]);
        table.write(out, true)?;
    }
    out.flush()?;
    Ok(Exit::Ok)
}

/// Submits at a steady rate from several threads: what takes long holds up the ones after it, and its time
/// counts from when it was due. Returns what each thread made of it.
fn steadily<T: Send + 'static>(
    client: &Client,
    rate: u16,
    halt: &Arc<AtomicBool>,
    submit: impl Fn(&Client, Duration) -> T + Clone + Send + 'static,
) -> Result<Vec<JoinHandle<Vec<T>>>, Failure> {
    let begin = monotonic();
    let every = Duration::from_secs(1) / rate.into();
    (0..SUBMITTERS)
        .map(|first| {
            let (client, halt, submit) = (client.clone(), Arc::clone(halt), submit.clone());
            let run = move || {
                let mut made = Vec::new();
                let mut number = u32::try_from(first).unwrap_or_default();
                while !halt.load(Ordering::Relaxed) {
                    let due = begin + every * number;
                    let wait = due.saturating_sub(monotonic());
                    thread::sleep(wait.min(HALT_LOOK));
                    if wait <= HALT_LOOK {
                        made.push(submit(&client, due));
                        number += u32::try_from(SUBMITTERS).unwrap_or(1);
                    }
                }
                made
            };
            thread::Builder::new().name("submits".into()).spawn(run).map_err(failed)
        })
        .collect()
}

fn joined<T>(threads: Vec<JoinHandle<Vec<T>>>) -> Result<Vec<T>, Failure> {
    let mut all = Vec::new();
    for thread in threads {
        all.extend(thread.join().map_err(|_panic| failed("a submitter ended badly"))?);
    }
    Ok(all)
}

/// Measures how soon a job is in the hands of an idle worker.
///
/// # Errors
/// A [`Failure`] of the cluster or of stdout.
pub fn latency(args: &LatencyArgs, session: &Session, run: &Run, out: &mut Out) -> Outcome {
    let addrs: Vec<String> = session.status()?.nodes.iter().map(|node| node.addr.clone()).collect();
    let delivered = Arc::new(Mutex::new(latencies()));
    let arrived = Arc::clone(&delivered);
    let workers = Workers::start(&addrs, args.workers, 64, move |payload| {
        let due = payload.get(..8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
        if let Some(due) = due.filter(|due| *due > 0) {
            let took = monotonic().saturating_sub(Duration::from_nanos(due));
            arrived.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(nanos(took));
        }
    })?;
    let client = Client::builder().seeds(addrs.iter().cloned()).build().map_err(failed)?;
    narrate(&format!("latency: {} jobs/s for {} s", args.rate, args.secs));
    let counts_from = monotonic() + Duration::from_secs(2);
    let ids = run.traces.block();
    let submit = move |client: &Client, due: Duration| {
        let counts = due >= counts_from;
        // What is sent while all warms up carries no time.
        let stamp = if counts { nanos_since_start(due) } else { 0 };
        let mut payload = stamp.to_be_bytes().to_vec();
        payload.resize(256, 7);
        let result = client.submit(Job::payload(QUEUE, payload).id(ids.make()));
        counts.then(|| (monotonic().saturating_sub(due), result.is_ok()))
    };
    let halt = Arc::new(AtomicBool::new(false));
    let threads = steadily(&client, args.rate, &halt, submit)?;
    let slept = run.stop.sleep(Duration::from_secs(2 + u64::from(args.secs)));
    halt.store(true, Ordering::Relaxed);
    let told: Vec<(Duration, bool)> = joined(threads)?.into_iter().flatten().collect();
    slept.map_err(failed)?;
    let good = told.iter().filter(|(_, is_good)| *is_good).count();
    let count = || delivered.lock().unwrap_or_else(PoisonError::into_inner).len();
    until(&run.stop, "every job was delivered", || count() >= good as u64)?;
    workers.stop()?;
    client.close();
    let mut acknowledged = latencies();
    for (took, _) in told.iter().filter(|(_, is_good)| *is_good) {
        acknowledged.saturating_record(nanos(*took));
    }
    let delivered = delivered.lock().unwrap_or_else(PoisonError::into_inner);
    let errors = told.len() - good;
    if session.json() {
        let figures = |histogram: &Histogram<u64>| -> Value {
            json!({"p50_ms": millis(histogram, 0.5), "p90_ms": millis(histogram, 0.9),
                "p99_ms": millis(histogram, 0.99), "max_ms": millis(histogram, 1.0)})
        };
        out.json(&json!({
            "what": "latency", "nodes": addrs.len(), "workers": args.workers, "rate": args.rate,
            "per_s": good as f64 / f64::from(args.secs), "errors": errors,
            "p50_ms": millis(&delivered, 0.5), "p99_ms": millis(&delivered, 0.99),
            "acknowledged": figures(&acknowledged), "delivered": figures(&delivered),
            "delivered_of_acknowledged": millis(&delivered, 0.5) / millis(&acknowledged, 0.5),
        }))?;
    } else {
        out.line(&format!(
            "latency: {} nodes, {} jobs/s, {} idle workers, {good} jobs, {errors} errors",
            addrs.len(),
            args.rate,
            args.workers
        ))?;
        let mut table = Table::new(&[
            Column::Left("FROM SUBMIT TO"),
            Column::Right("P50 MS"),
            Column::Right("P90"),
            Column::Right("P99"),
            Column::Right("MAX"),
        ]);
        for (name, histogram) in [("acknowledged", &acknowledged), ("delivered", &delivered)] {
            let cells =
                [0.5, 0.9, 0.99, 1.0].map(|quantile| format!("{:.2}", millis(histogram, quantile)));
            table.row([vec![name.into()], cells.to_vec()].concat());
        }
        table.write(out, true)?;
    }
    out.flush()?;
    Ok(Exit::Ok)
}

fn nanos_since_start(moment: Duration) -> u64 {
    u64::try_from(moment.as_nanos()).unwrap_or(u64::MAX).max(1)
}

/// Kills the leader again and again while jobs are submitted, and tells how long nothing was acknowledged.
///
/// # Errors
/// A [`Failure`] of the cluster or of stdout; also if an acknowledged job is gone.
pub fn failover(args: &FailoverArgs, json: bool, run: &Run, out: &mut Out) -> Outcome {
    let dir = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let mut own = Own::start(args.nodes.into(), &dir, &run.traces).map_err(failed)?;
    let seeds = own.addrs().to_vec();
    let client = |time| {
        let builder = Client::builder().seeds(seeds.iter().cloned()).request_timeout(time);
        builder.build().map_err(failed)
    };
    let (client, looks) = (client(FAILOVER_TIMEOUT)?, client(LOOK_TIMEOUT)?);
    let submit = |client: &Client, due: Duration| -> (JobId, Duration, Duration, bool) {
        let id = new_id();
        let result = client.submit(Job::payload(QUEUE, vec![7; 256]).id(id));
        let now = monotonic();
        (id, now, now.saturating_sub(due), result.is_ok())
    };
    let halt = Arc::new(AtomicBool::new(false));
    let mut threads = None;
    let mut kills = Vec::new();
    for number in 1..=args.kills {
        until(&run.stop, "all nodes are there", || whole(&looks))?;
        if threads.is_none() {
            threads = Some(steadily(&client, args.rate, &halt, submit)?);
        }
        run.stop.sleep(Duration::from_secs(2)).map_err(failed)?;
        let mut found = None;
        until(&run.stop, "there is a leader", || {
            found = leader(&looks);
            found.is_some()
        })?;
        let leader = found.unwrap_or_default();
        narrate(&format!("failover: kill {number} of {}: the leader at {leader}", args.kills));
        kills.push(monotonic());
        own.kill(&leader).map_err(failed)?;
        run.stop.sleep(Duration::from_secs(2)).map_err(failed)?;
        own.restart(&leader).map_err(failed)?;
    }
    halt.store(true, Ordering::Relaxed);
    let told = joined(threads.unwrap_or_default())?;
    let mut times: Vec<Duration> =
        told.iter().filter(|(.., is_good)| *is_good).map(|(_, at, ..)| *at).collect();
    times.sort_unstable();
    let mut gaps: Vec<f64> = kills
        .iter()
        .map(|kill| {
            let near = |pair: &&[Duration]| {
                pair.iter().any(|at| *at + LOOK >= *kill && *at <= *kill + Duration::from_secs(4))
            };
            let gaps = times.windows(2).filter(near).filter_map(|pair| match pair {
                [one, next] => Some(next.saturating_sub(*one).as_secs_f64() * 1e3),
                _ => None,
            });
            gaps.fold(0.0, f64::max)
        })
        .collect();
    gaps.sort_by(f64::total_cmp);
    let kept = check_kept(&client, &told)?;
    client.close();
    looks.close();
    let (median, worst) =
        (crate::cli::bench::median(gaps.clone()), gaps.last().copied().unwrap_or_default());
    let mut latency = latencies();
    told.iter()
        .filter(|(.., is_good)| *is_good)
        .for_each(|(_, _, took, _)| latency.saturating_record(nanos(*took)));
    let errors = told.len() - times.len();
    if json {
        out.json(&json!({
            "what": "failover", "nodes": args.nodes, "rate": args.rate, "kills": args.kills,
            "gap_median_ms": median, "gap_worst_ms": worst, "gaps_ms": gaps,
            "per_s": times.len() as f64 / span(&times), "errors": errors, "acknowledged": kept, "lost": 0,
            "p50_ms": millis(&latency, 0.5), "p99_ms": millis(&latency, 0.99), "max_ms": millis(&latency, 1.0),
        }))?;
    } else {
        out.line(&format!(
            "failover: {} nodes, {} submits/s, the leader killed {} times: longest time without an acknowledgement \
             {median:.0} ms (median), {worst:.0} ms (worst); {kept} acknowledged, all there; {errors} errors",
            args.nodes, args.rate, args.kills
        ))?;
    }
    out.flush()?;
    Ok(Exit::Ok)
}

fn span(times: &[Duration]) -> f64 {
    let ends = times.first().zip(times.last());
    ends.map_or(1.0, |(first, last)| {
        last.saturating_sub(*first).as_secs_f64().max(f64::MIN_POSITIVE)
    })
}

fn leader(client: &Client) -> Option<String> {
    let status = client.cluster_status().ok().filter(|status| status.from_leader)?;
    status.nodes.into_iter().find(|node| Some(node.id) == status.leader).map(|node| node.addr)
}

fn whole(client: &Client) -> bool {
    client.cluster_status().is_ok_and(|status| {
        status.from_leader
            && status
                .nodes
                .iter()
                .all(|node| node.is_alive && node.match_index >= status.commit_index)
    })
}

/// Looks for every acknowledged job; returns how many there are.
fn check_kept(
    client: &Client,
    told: &[(JobId, Duration, Duration, bool)],
) -> Result<usize, Failure> {
    let ids: Vec<JobId> =
        told.iter().filter(|(.., is_good)| *is_good).map(|(id, ..)| *id).collect();
    for some in ids.chunks(1000) {
        for (id, result) in some.iter().zip(client.cancel(some).map_err(failed)?) {
            result
                .map_err(|refusal| failed(format!("acknowledged job {id} is gone: {refusal}")))?;
        }
    }
    Ok(ids.len())
}

//! What processes and the machine have used: time on the cores, and syncs as the nodes count them.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use crate::node::clock::monotonic;

/// How long a node may take to tell its metrics.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes read of them, at most.
const METRICS_BYTES_MAX: u64 = 1 << 20;

/// What was used up to a moment.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    at: Duration,
    own: f64,
    servers: f64,
    busy: f64,
    stolen: f64,
    syncs: Option<u64>,
}

/// What was used between two moments.
#[derive(Clone, Copy, Debug, Default)]
pub struct Used {
    /// Seconds between them.
    pub secs: f64,
    /// Cores that this process has used.
    pub own_cores: f64,
    /// Cores that the servers have used.
    pub server_cores: f64,
    /// Cores that anybody has used.
    pub machine_cores: f64,
    /// Cores that the host took away.
    pub stolen_cores: f64,
    /// Syncs of all servers, where they tell.
    pub syncs: Option<u64>,
}

/// The servers that are watched.
#[derive(Clone, Debug, Default)]
pub struct Servers {
    /// Their processes, as far as they run here.
    pub pids: Vec<u32>,
    /// Where they tell their metrics.
    pub addrs: Vec<String>,
}

impl Servers {
    /// Finds the processes of this machine that listen at these addresses.
    #[must_use]
    pub fn at(addrs: &[String]) -> Self {
        let pids = addrs.iter().filter_map(|addr| listener_of(addr)).collect();
        Self { pids, addrs: addrs.to_vec() }
    }

    /// Takes a reading.
    #[must_use]
    pub fn read(&self) -> Reading {
        let (busy, stolen) = machine();
        let syncs = self.addrs.iter().map(|addr| syncs_of(addr)).collect::<Option<Vec<u64>>>();
        Reading {
            at: monotonic(),
            own: cpu_of("self"),
            servers: self.pids.iter().map(|pid| cpu_of(&pid.to_string())).sum(),
            busy,
            stolen,
            syncs: syncs.filter(|counts| !counts.is_empty()).map(|counts| counts.iter().sum()),
        }
    }
}

impl Reading {
    /// Returns what was used since an earlier one.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Used {
        let secs = (self.at.saturating_sub(earlier.at)).as_secs_f64().max(f64::MIN_POSITIVE);
        let syncs = self.syncs.zip(earlier.syncs);
        Used {
            secs,
            own_cores: (self.own - earlier.own) / secs,
            server_cores: (self.servers - earlier.servers) / secs,
            machine_cores: (self.busy - earlier.busy) / secs,
            stolen_cores: (self.stolen - earlier.stolen) / secs,
            syncs: syncs.map(|(now, before)| now.saturating_sub(before)),
        }
    }
}

fn ticks_per_s() -> f64 {
    f64::from(u32::try_from(rustix::param::clock_ticks_per_second()).unwrap_or(100))
}

/// Returns the seconds that a process has spent on the cores; 0 if it is gone.
fn cpu_of(process: &str) -> f64 {
    let Ok(text) = fs::read_to_string(format!("/proc/{process}/stat")) else { return 0.0 };
    // The name, which may hold anything, ends with the last bracket.
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let numbers = rest.split_whitespace().skip(11).take(2);
    numbers.filter_map(|number| number.parse::<f64>().ok()).sum::<f64>() / ticks_per_s()
}

/// Returns the seconds that all cores were busy, and that the host took away from them.
fn machine() -> (f64, f64) {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let numbers: Vec<f64> =
        line.split_whitespace().skip(1).filter_map(|number| number.parse().ok()).collect();
    let at = |place: usize| numbers.get(place).copied().unwrap_or_default() / ticks_per_s();
    (at(0) + at(1) + at(2) + at(5) + at(6), at(7))
}

/// Returns how many batches a node has written and synced; `None` if it does not say.
fn syncs_of(addr: &str) -> Option<u64> {
    let text = metrics_of(addr)?;
    let line = text.lines().find_map(|line| line.strip_prefix("raftq_sync_seconds_count "))?;
    line.trim().parse().ok()
}

fn metrics_of(addr: &str) -> Option<String> {
    let found = addr.to_socket_addrs().ok()?.next()?;
    let mut stream = TcpStream::connect_timeout(&found, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.set_write_timeout(Some(PATIENCE)).ok()?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut text = String::new();
    stream.take(METRICS_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Finds the process of this machine that listens at an address; `None` if there is none, or none that may be
/// looked at.
fn listener_of(addr: &str) -> Option<u32> {
    let found = addr.to_socket_addrs().ok()?.next()?;
    if !found.ip().is_loopback() {
        return None;
    }
    let port = format!(":{:04X}", found.port());
    let sockets = ["/proc/net/tcp", "/proc/net/tcp6"].map(fs::read_to_string);
    let inode = sockets.iter().flatten().flat_map(|text| text.lines()).find_map(|line| {
        let mut fields = line.split_whitespace();
        let is_port = fields.nth(1)?.ends_with(&port);
        // The state "listening".
        let is_listening = fields.nth(1)? == "0A";
        let inode = fields.nth(5)?;
        (is_port && is_listening).then(|| format!("socket:[{inode}]"))
    })?;
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .find(|pid| holds(*pid, &inode))
}

fn holds(pid: u32, socket: &str) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let mut targets = descriptors.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.any(|target| target.as_os_str() == socket)
}

//! The nodes: real processes, their clocks, and what becomes of them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::args::Args;
use crate::net::Net;

/// The flags of every node: small files and snapshots, so that a short run sees many of them, and
/// nothing forgotten, so that every job can be asked for at the end.
const FLAGS: [&str; 14] = [
    "--slots",
    "3",
    "--grace",
    "1s",
    "--log-keep",
    "256KiB",
    "--segment",
    "128KiB",
    "--snapshot-at",
    "256KiB",
    "--finished-keep",
    "10000000",
    "--finished-bytes",
    "3GiB",
];

/// A nemesis with this in its environment is a node with that bug.
pub const PLANTED: &str = "NEMESIS_PLANTED";

/// How long a node may take to end after SIGTERM.
const ENDING_MAX: Duration = Duration::from_secs(20);

/// One node: its process, if it should run.
#[derive(Debug, Default)]
struct Node {
    child: Option<Child>,
}

/// A cluster of processes.
#[derive(Debug)]
pub struct Cluster {
    /// How they reach each other.
    pub net: Net,
    nodes: Mutex<Vec<Node>>,
    dir: PathBuf,
    program: PathBuf,
    /// The bug that all nodes have.
    plant: Option<String>,
    /// The library that bends wall clocks, where there is one.
    faketime: Option<PathBuf>,
}

impl Cluster {
    /// Prepares a cluster; nothing runs yet.
    pub fn new(net: Net, args: &Args, dir: &Path) -> Self {
        let nodes = (0..args.nodes).map(|_| Node::default()).collect();
        Self {
            net,
            nodes: Mutex::new(nodes),
            dir: dir.to_owned(),
            program: args.program.clone(),
            plant: args.plant.clone(),
            // Kills need no clocks.
            faketime: faketime().filter(|_| args.kill9.is_none()),
        }
    }

    fn nodes(&self) -> MutexGuard<'_, Vec<Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the numbers of all nodes.
    pub fn ids(&self) -> Vec<usize> {
        (1..=self.nodes().len()).collect()
    }

    /// Returns the addresses of all nodes.
    pub fn addrs(&self) -> Vec<String> {
        self.ids().into_iter().map(|id| self.net.addr(id)).collect()
    }

    fn clock_file(&self, id: usize) -> PathBuf {
        self.dir.join(format!("node{id}.clock"))
    }

    /// Returns a node's log.
    pub fn log_file(&self, id: usize) -> PathBuf {
        self.dir.join(format!("node{id}.log"))
    }

    /// Sets how many seconds a node's wall clock is off.
    ///
    /// # Errors
    /// What the system said.
    pub fn bend_clock(&self, id: usize, seconds: i64) -> Result<(), String> {
        // A reader must see the old text or the new one.
        let (file, aside) = (self.clock_file(id), self.dir.join(format!("node{id}.clock.new")));
        fs::write(&aside, format!("{seconds:+}\n"))
            .and_then(|()| fs::rename(&aside, &file))
            .map_err(|error| format!("{}: {error}", file.display()))
    }

    fn command(&self, id: usize) -> Command {
        let peers: Vec<String> =
            self.ids().iter().map(|id| format!("{id}={}", self.net.addr(*id))).collect();
        let mut words = self.net.prefix(id);
        if let Some(library) = &self.faketime {
            words.push("env".into());
            words.push(format!("LD_PRELOAD={}", library.display()));
            words.push(format!("FAKETIME_TIMESTAMP_FILE={}", self.clock_file(id).display()));
            for flag in ["NO_CACHE", "DONT_FAKE_MONOTONIC"] {
                words.push(format!("FAKETIME_{flag}=1"));
            }
        }
        words.push(self.program.display().to_string());
        let mut words = words.into_iter();
        let plant = self.plant.as_ref().map(|bug| (PLANTED, bug));
        let mut command = Command::new(words.next().unwrap_or_default());
        command
            .args(words)
            .args(["node", "--insecure", "--id", &id.to_string()])
            .args(["--listen", &self.net.listen(id), "--peers", &peers.join(","), "--data"])
            .arg(self.dir.join(format!("node{id}")))
            .args(FLAGS)
            .env("RUST_LOG", "info")
            .envs(plant)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }

    /// Starts a node that is down.
    ///
    /// # Errors
    /// What the system said.
    pub fn start(&self, id: usize) -> Result<(), String> {
        let said = |error: std::io::Error| format!("node {id} does not start: {error}");
        let mut command = self.command(id);
        let log =
            File::options().create(true).append(true).open(self.log_file(id)).map_err(said)?;
        let child = command.stderr(log).spawn().map_err(said)?;
        // For the script, which ends what a killed nemesis leaves behind.
        fs::write(self.dir.join(format!("node{id}.pid")), child.id().to_string()).map_err(said)?;
        self.nodes()[id - 1].child = Some(child);
        Ok(())
    }

    /// Sends a signal to a node that runs.
    pub fn signal(&self, id: usize, signal: Signal) {
        let nodes = self.nodes();
        let pid = nodes[id - 1]
            .child
            .as_ref()
            .and_then(|child| Pid::from_raw(i32::try_from(child.id()).ok()?));
        if let Some(Err(error)) = pid.map(|pid| kill_process(pid, signal)) {
            eprintln!("nemesis: no signal reaches node {id}: {error}");
        }
    }

    /// Kills nodes as `kill -9` does, all at once; those that do not run are left out.
    pub fn kill(&self, ids: &[usize]) {
        // They are taken out first: whoever looks for nodes that ended by themselves finds none of these.
        let mut children: Vec<Child> = {
            let mut nodes = self.nodes();
            ids.iter().filter_map(|id| nodes[*id - 1].child.take()).collect()
        };
        for child in &mut children {
            if let Err(error) = child.kill() {
                eprintln!("nemesis: a node cannot be killed: {error}");
            }
        }
        for child in &mut children {
            if let Err(error) = child.wait() {
                eprintln!("nemesis: a node has no end: {error}");
            }
        }
    }

    /// Asks a node to end and waits for it. Returns what is wrong with how it did.
    pub fn stop(&self, id: usize) -> Option<String> {
        let mut child = self.nodes()[id - 1].child.take()?;
        let pid = Pid::from_raw(i32::try_from(child.id()).ok()?)?;
        if let Err(error) = kill_process(pid, Signal::TERM) {
            return Some(format!("no signal reaches node {id}: {error}"));
        }
        let end = Instant::now() + ENDING_MAX;
        loop {
            match child.try_wait() {
                Ok(Some(status)) if status.success() => return None,
                Ok(Some(status)) => {
                    return Some(format!("node {id} ended with {status} after SIGTERM"));
                }
                Ok(None) if Instant::now() < end => {
                    std::thread::park_timeout(Duration::from_millis(20));
                }
                Ok(None) | Err(_) => {
                    let _dead = (child.kill().is_ok(), child.wait().is_ok());
                    return Some(format!("node {id} did not end within {ENDING_MAX:?} of SIGTERM"));
                }
            }
        }
    }

    /// Tells whether a node should run and does.
    pub fn runs(&self, id: usize) -> bool {
        self.nodes()[id - 1].child.is_some()
    }

    /// Finds nodes that ended without being asked to.
    pub fn ended_by_themselves(&self) -> Vec<String> {
        let mut nodes = self.nodes();
        let mut ended = Vec::new();
        for (at, node) in nodes.iter_mut().enumerate() {
            let status = node.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if let Some(status) = status {
                node.child = None;
                ended.push(format!("node {} ended by itself: {status}", at + 1));
            }
        }
        ended
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill(&self.ids());
        if self.faketime.is_some() {
            sweep();
        }
    }
}

/// Takes away what the library that bends clocks leaves of processes that were killed.
fn sweep() {
    for entry in fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| {
            let of_shm = name.strip_prefix("faketime_shm_");
            of_shm.or_else(|| name.strip_prefix("sem.faketime_sem_"))
        });
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _somebody_else_did = fs::remove_file(entry.path()).is_err();
        }
    }
}

/// Tells whether wall clocks can be bent here.
pub fn bends_clocks() -> bool {
    faketime().is_some()
}

/// Finds the library that bends wall clocks.
fn faketime() -> Option<PathBuf> {
    let mut folders = vec![PathBuf::from("/usr/lib/faketime"), "/usr/local/lib/faketime".into()];
    let found = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    folders.extend(found.map(|entry| entry.path().join("faketime")));
    folders.into_iter().map(|folder| folder.join("libfaketime.so.1")).find(|path| path.is_file())
}

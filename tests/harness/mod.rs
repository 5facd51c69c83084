//! A real cluster of real processes on free ports of loopback, in a temporary directory of its own.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long a condition may take before a test says that it never came.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// One node: its process, if it runs.
struct Node {
    child: Option<Child>,
    addr: String,
}

/// A cluster; every process of it ends with it.
pub struct Cluster {
    nodes: Vec<Node>,
    dir: PathBuf,
    flags: Vec<String>,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Makes a new directory for one test.
pub fn scratch(name: &str) -> PathBuf {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("raftq test {name} {}-{number}", std::process::id());
    let dir = std::env::temp_dir().join(name);
    fs::create_dir_all(&dir).expect("a temporary directory");
    dir
}

/// Finds free ports by holding them all at once, then letting go.
fn free_ports(count: usize) -> Vec<u16> {
    let held: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    held.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

/// Polls until `done` gives something, or fails with `what` after [`PATIENCE`].
pub fn until<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

impl Cluster {
    /// Starts `count` nodes with extra flags and waits for a ready leader that sees all of them, and
    /// for their workers, unless the flags give them no slots.
    pub fn start(name: &str, count: usize, flags: &[&str]) -> Self {
        let nodes = free_ports(count)
            .into_iter()
            .map(|port| Node { child: None, addr: format!("127.0.0.1:{port}") })
            .collect();
        let has_workers = !flags.windows(2).any(|pair| pair == ["--slots", "0"]);
        let flags = flags.iter().map(ToString::to_string).collect();
        let mut cluster = Self { nodes, dir: scratch(name), flags };
        for id in cluster.ids() {
            cluster.spawn(id);
        }
        cluster.wait_whole();
        if has_workers {
            cluster.wait_workers();
        }
        cluster
    }

    /// Returns the ids of all nodes.
    pub fn ids(&self) -> Vec<usize> {
        (1..=self.nodes.len()).collect()
    }

    /// Returns the directory that the test may use.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns a node's address.
    pub fn addr(&self, id: usize) -> &str {
        &self.nodes[id - 1].addr
    }

    /// Returns all addresses, as `--addrs` takes them.
    pub fn addrs(&self) -> String {
        self.nodes.iter().map(|node| node.addr.as_str()).collect::<Vec<_>>().join(",")
    }

    /// Returns a node's data directory.
    pub fn data(&self, id: usize) -> PathBuf {
        self.dir.join(format!("node{id}"))
    }

    /// Returns a node's process id.
    pub fn pid(&self, id: usize) -> u32 {
        self.nodes[id - 1].child.as_ref().expect("the node runs").id()
    }

    /// Returns what a node has logged.
    pub fn log(&self, id: usize) -> String {
        fs::read_to_string(self.dir.join(format!("node{id}.log"))).unwrap_or_default()
    }

    /// Returns the `--peers` text.
    pub fn peers(&self) -> String {
        let peers: Vec<String> =
            self.ids().into_iter().map(|id| format!("{id}={}", self.addr(id))).collect();
        peers.join(",")
    }

    /// Returns the command that starts a node.
    pub fn node_command(&self, id: usize) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_raftq"));
        command
            .args(["node", "--id", &id.to_string(), "--listen", self.addr(id)])
            .args(["--peers", &self.peers(), "--data"])
            .arg(self.data(id))
            .args(&self.flags)
            .stdin(Stdio::null());
        command
    }

    /// Starts a node that is down.
    pub fn spawn(&mut self, id: usize) {
        self.spawn_with(id, &[]);
    }

    /// Starts a node that is down, with more flags for this once.
    pub fn spawn_with(&mut self, id: usize, more: &[&str]) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.join(format!("node{id}.log")))
            .expect("a log file");
        let mut command = self.node_command(id);
        command.args(more).stdout(Stdio::null()).stderr(log);
        self.nodes[id - 1].child = Some(command.spawn().expect("the node starts"));
    }

    /// Sends a signal to a node, by its number.
    pub fn signal(&self, id: usize, signal: &str) {
        let done = Command::new("kill")
            .args([&format!("-{signal}"), &self.pid(id).to_string()])
            .status()
            .expect("kill");
        assert!(done.success(), "kill -{signal} node {id}");
    }

    /// Kills a node as `kill -9` does.
    pub fn kill(&mut self, id: usize) {
        if let Some(mut child) = self.nodes[id - 1].child.take() {
            child.kill().expect("kill -9");
            child.wait().expect("the node has ended");
        }
    }

    /// Sends SIGTERM and waits; returns the exit code.
    pub fn stop(&mut self, id: usize) -> Option<i32> {
        self.signal(id, "TERM");
        self.wait_end(id)
    }

    /// Waits for the end of a node that ends by itself; returns the exit code.
    pub fn wait_end(&mut self, id: usize) -> Option<i32> {
        let mut child = self.nodes[id - 1].child.take().expect("the node runs");
        child.wait().expect("the node has ended").code()
    }

    /// Runs the command line against this cluster.
    pub fn raftq(&self, args: &[&str]) -> Output {
        self.raftq_in(args, b"")
    }

    /// Runs the command line with something on its standard input.
    pub fn raftq_in(&self, args: &[&str], input: &[u8]) -> Output {
        // A wait without an end would hide what it waits for.
        let mut child = Command::new("timeout")
            .arg(PATIENCE.as_secs().to_string())
            .arg(env!("CARGO_BIN_EXE_raftq"))
            .args(args)
            .env("RAFTQ_ADDRS", self.addrs())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("raftq starts");
        child.stdin.take().expect("a pipe").write_all(input).expect("raftq reads");
        child.wait_with_output().expect("raftq ends")
    }

    /// Runs the command line and returns its standard output; it must succeed.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.raftq(args);
        assert!(
            output.status.success(),
            "raftq {args:?}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("text")
    }

    /// Runs the command line with `--json` and returns the one object it prints.
    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        let text = self.ok(&[args, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"))
    }

    /// Returns the leader's status, once some node leads.
    pub fn status(&self) -> Option<serde_json::Value> {
        let output = self.raftq(&["cluster", "status", "--json", "--timeout", "2s"]);
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        (output.status.success() && status["leader"].is_u64()).then_some(status)
    }

    /// Waits for a leader and returns its id.
    pub fn leader(&self) -> usize {
        until("a leader", || {
            let status = self.status()?;
            usize::try_from(status["leader"].as_u64()?).ok()
        })
    }

    /// Waits until there is a leader that hears every node.
    pub fn wait_whole(&self) {
        let count = self.nodes.len();
        until("every node alive", || {
            let status = self.status()?;
            let alive = status["nodes"].as_array()?.iter().filter(|node| node["is_alive"] == true);
            (alive.count() == count).then_some(())
        });
    }

    /// Waits until every node's worker is given jobs.
    pub fn wait_workers(&self) {
        until("every worker live", || {
            let workers = self.ok(&["workers", "--json"]);
            (workers.matches("\"state\":\"live\"").count() == self.nodes.len()).then_some(())
        });
    }

    /// Waits until all nodes have the same digest at one index above `above`; returns the index.
    pub fn wait_digests(&self, above: u64) -> u64 {
        until("equal digests on all nodes", || {
            let status = self.status()?;
            let nodes = status["nodes"].as_array()?;
            let first = nodes.first()?;
            let index = first["digest_index"].as_u64()?;
            let digests: Vec<&str> =
                nodes.iter().filter_map(|node| node["digest"].as_str()).collect();
            let same = digests.iter().all(|digest| *digest == digests[0] && !digest.is_empty());
            (index > above && same && digests.len() == self.nodes.len()).then_some(index)
        })
    }

    /// Sends text to a node's port and returns all it answers.
    pub fn text(&self, id: usize, lines: &str) -> String {
        let mut stream = TcpStream::connect(self.addr(id)).expect("the node listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.write_all(lines.as_bytes()).expect("the node reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the node answers and closes");
        answer
    }

    /// Returns one value of a `key=value` answer in text mode.
    pub fn text_value(&self, id: usize, command: &str, key: &str) -> Option<String> {
        let answer = self.text(id, &format!("{command}\n"));
        answer
            .split_whitespace()
            .find_map(|word| word.strip_prefix(key)?.strip_prefix('=').map(ToString::to_string))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Some(child) = &mut node.child {
                // A paused process dies of SIGKILL as well.
                if child.kill().is_ok() && child.wait().is_err() {
                    eprintln!("node {} has no end", node.addr);
                }
            }
        }
        if std::thread::panicking() {
            for id in self.ids() {
                let log = self.log(id);
                let tail: Vec<&str> = log.lines().rev().take(15).collect();
                eprintln!("--- node {id}");
                tail.iter().rev().for_each(|line| eprintln!("{line}"));
            }
        }
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            eprintln!("{} is left behind: {error}", self.dir.display());
        }
    }
}

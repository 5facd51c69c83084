//! A node as who starts it sees it: what it warns of, and the settings it tells.

#![expect(clippy::unwrap_used, reason = "a helper that fails has to fail its test")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// How long a node may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

/// A cluster of one; it and its directory end with it.
struct Node {
    child: Child,
    dir: PathBuf,
    log: Receiver<String>,
}

impl Node {
    fn start(name: &str, listen: &str, own: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("raftq-{name}-{}", std::process::id()));
        let mut child = Command::new(env!("CARGO_BIN_EXE_raftq"))
            .args(["node", "--id", "1", "--listen", listen, "--peers", &format!("1={own}")])
            .args(["--slots", "0", "--data"])
            .arg(&dir)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (tell, log) = channel();
        let read = move || {
            stderr.lines().map_while(Result::ok).for_each(|line| {
                tell.send(line).ok();
            });
        };
        std::thread::Builder::new().name("log".into()).spawn(read).unwrap();
        Self { child, dir, log }
    }

    /// Returns the log up to the line that says that the node listens.
    fn first_words(&self) -> String {
        let mut words = String::new();
        loop {
            let line = self.log.recv_timeout(PATIENCE).unwrap();
            words.push_str(&line);
            words.push('\n');
            if line.contains("node 1 listens on") {
                return words;
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        std::fs::remove_dir_all(&self.dir).ok();
    }
}

fn two_free_addrs() -> [String; 2] {
    let held = [0; 2].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|one| one.local_addr().unwrap().to_string())
}

#[test]
fn node_that_listens_elsewhere_than_its_peers_are_told_warns() {
    let [listen, own] = two_free_addrs();
    let log = Node::start("elsewhere", &listen, &own).first_words();
    let warning = log.lines().find(|line| line.contains("WARN")).unwrap_or_default();
    for word in [listen.as_str(), &own, "--listen", "--peers", "NAT"] {
        assert!(warning.contains(word), "{word:?} is missing: {log}");
    }
}

#[test]
fn node_that_listens_where_it_is_reached_warns_of_nothing_and_tells_each_setting_once() {
    let [addr, _] = two_free_addrs();
    let node = Node::start("settings", &addr, &addr);
    let log = node.first_words();
    assert!(!log.contains("WARN"), "{log}");
    let mut stream = TcpStream::connect(&addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"config\nquit\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let keys: Vec<&str> =
        text.lines().filter_map(|line| line.split_once('=')).map(|(key, _)| key).collect();
    let once: BTreeSet<&str> = keys.iter().copied().collect();
    assert_eq!(keys.len(), once.len(), "a setting stands there twice:\n{text}");
    for key in ["node", "listen", "data", "peers", "slots"] {
        assert!(once.contains(key), "{key} is missing:\n{text}");
    }
    let values = text.lines().filter_map(|line| line.split_once('=')).map(|(_, value)| value);
    assert_eq!(values.filter(|value| *value == addr).count(), 1, "{text}");
}

//! Watching real nodes: the history is one, whichever node tells it, and whatever becomes of that node.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a test that meets the unexpected fails there; it watches the real clock"
)]

#[expect(dead_code, reason = "shared with the tests of whole clusters")]
mod harness;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use harness::Cluster;
use raftq::client::blocking::Client;
use raftq::client::job::Job;

/// A `raftq watch` of one node, and what it prints.
struct Watching {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Watching {
    fn begin(addr: &str, from: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_raftq"))
            .args(["--addrs", addr, "--json", "watch", "--from", from])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn read(&mut self, count: usize) -> Vec<String> {
        let lines = self.lines.by_ref().take(count).map(Result::unwrap).collect::<Vec<_>>();
        assert_eq!(lines.len(), count, "the watch ended");
        lines
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().unwrap();
    }
}

fn position(line: &str) -> String {
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    line["position"].as_str().unwrap().to_owned()
}

#[test]
fn a_watch_of_a_node_that_is_killed_goes_on_elsewhere_without_gap_or_repetition() {
    let mut cluster = Cluster::start("watch", 3, &[]);
    let stop = Arc::new(AtomicBool::new(false));
    let (addrs, stopped) = (cluster.addrs(), Arc::clone(&stop));
    let load = std::thread::spawn(move || {
        let client = Client::builder().seeds(addrs.split(',').map(String::from)).build().unwrap();
        let mut count = 0;
        while !stopped.load(Ordering::Relaxed) {
            client.submit(Job::command(["true"])).unwrap();
            count += 1;
        }
        count
    });
    let leader = cluster.leader();
    let mut all: Vec<String> = Vec::new();
    let mut from = "oldest".to_owned();
    // Each node in turn tells a part; it is killed while it tells, and the next one goes on. The leader comes last.
    let mut ids = cluster.ids();
    ids.sort_by_key(|id| *id == leader);
    for id in ids {
        let mut watching = Watching::begin(cluster.addr(id), &from);
        all.extend(watching.read(150));
        cluster.kill(id);
        drop(watching);
        from = position(all.last().unwrap());
        cluster.spawn(id);
        cluster.wait_whole();
    }
    stop.store(true, Ordering::Relaxed);
    let submitted: usize = load.join().unwrap();
    assert!(submitted > 20, "{submitted}");
    // A node that was not restarted since its part has the end of it; the one that told the last part has been.
    let first: usize = cluster.ids().into_iter().find(|id| *id != cluster.leader()).unwrap();
    let whole = Watching::begin(cluster.addr(first), &position(&all[0])).read(all.len() - 1);
    assert_eq!(all[1..], whole, "the parts are not the whole");
}

#[test]
fn a_place_that_no_node_has_any_more_is_an_error_that_names_the_first() {
    let cluster = Cluster::start("watch gone", 3, &["--history", "64KiB", "--slots", "0"]);
    let line = serde_json::json!({"queue": "kept", "payload": "x"});
    let batch = format!("{line}\n").repeat(1000);
    assert!(cluster.raftq_in(&["submit", "--batch", "-"], batch.as_bytes()).status.success());
    let output = cluster.raftq(&["watch", "--from", "1"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    for word in ["not kept here any more", "FAILED_PRECONDITION", "--from oldest"] {
        assert!(told.contains(word), "{word}: {told}");
    }
    let text = cluster.ok(&["watch", "--from", "oldest", "--queue", "kept", "--limit", "3"]);
    assert_eq!(text.lines().count(), 3);
    assert!(text.lines().all(|line| line.contains("submitted") && line.contains("queue=kept")));
    let wrong = cluster.raftq(&["watch", "--from", "yesterday"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("INDEX.N"));
}

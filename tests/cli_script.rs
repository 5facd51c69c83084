//! `scripts/cluster.sh` as users meet it, with a small stand-in for the program: nodes that sleep.

#![expect(clippy::unwrap_used, reason = "a helper that fails has to fail its test")]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

/// A node that sleeps until it is told to end, and a command line that says what is expected.
/// `STUBBORN` in its flags makes a node that ignores SIGTERM; `DIES` one that ends at once.
const STAND_IN: &str = r#"#!/usr/bin/env bash
case "$*" in
    node*DIES*) echo "the last word"; exit 1 ;;
    node*STUBBORN*) trap '' TERM ;;
    node*) trap 'exit 0' TERM ;;
esac
case "$*" in
    node*) while :; do read -r -t 0.05 _ <> <(:) || true; done ;;
    *'cluster leader'*) echo 2 ;;
    *'cluster ready'*) case ${NODE_FLAGS:-} in *DIES*) exit 5 ;; esac ;;
    *'cluster status'*) echo "asked $RAFTQ_ADDRS" ;;
    submit*) echo hello ;;
esac
"#;

/// A place to run the script in, with a space in its path; everything in it ends with it.
struct Place {
    dir: PathBuf,
    port: u16,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Place {
    fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("raftq script {} {number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).unwrap();
        let program = dir.join("stand in");
        fs::write(&program, STAND_IN).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir, port: three_free_ports() }
    }

    fn state(&self) -> PathBuf {
        self.dir.join("my cluster")
    }

    fn command(&self, args: &[&str]) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/cluster.sh");
        let mut command = Command::new("bash");
        command
            .arg(script)
            .args(args)
            .current_dir(&self.dir)
            .env("CLUSTER_DIR", self.state())
            .env("BASE_PORT", self.port.to_string())
            .env("RAFTQ", self.dir.join("stand in"))
            .env("RAFTQ_ADDRS", "elsewhere:1")
            .env_remove("NODE_FLAGS");
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    fn refused(&self, args: &[&str]) -> (Option<i32>, String) {
        let output = self.run(args);
        (output.status.code(), said(&output))
    }

    fn pid(&self, id: u32) -> String {
        let file = self.state().join(format!("node{id}/pid"));
        fs::read_to_string(file).unwrap().trim().to_owned()
    }

    fn states(&self) -> Vec<String> {
        let states = self.run(&["status"]);
        let states = String::from_utf8(states.stdout).unwrap();
        let nodes = states.lines().skip(1).filter(|line| line.contains("127.0.0.1:"));
        let third = |line: &str| line.split_whitespace().nth(2).map(str::to_owned);
        nodes.filter(|line| !line.starts_with("asked")).filter_map(third).collect()
    }

    fn addrs(&self) -> String {
        let ports = [self.port, self.port + 1, self.port + 2];
        ports.map(|port| format!("127.0.0.1:{port}")).join(",")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for id in 1..=3 {
            let file = self.state().join(format!("node{id}/pid"));
            let Ok(pid) = fs::read_to_string(file) else { continue };
            let words = fs::read(format!("/proc/{}/cmdline", pid.trim())).unwrap_or_default();
            if String::from_utf8_lossy(&words).contains("stand in") {
                Command::new("kill").args(["-9", pid.trim()]).status().ok();
            }
        }
        fs::remove_dir_all(&self.dir).ok();
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn lives(pid: &str) -> bool {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    !words.is_empty()
}

/// Finds three ports in a row that nobody listens on.
fn three_free_ports() -> u16 {
    for _ in 0..100 {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let first = held.local_addr().unwrap().port();
        let others = [first.checked_add(1), first.checked_add(2)];
        let free = |port: &Option<u16>| {
            port.is_some_and(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
        };
        if others.iter().all(free) {
            return first;
        }
    }
    panic!("no three free ports in a row")
}

#[test]
fn start_runs_the_nodes_and_a_second_start_changes_nothing() {
    let place = Place::new();
    let output = place.run(&["3"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(output.stdout.is_empty(), "what is said goes to stderr");
    assert!(said(&output).contains("node 2 leads"), "{}", said(&output));
    let pids = [1, 2, 3].map(|id| place.pid(id));
    let again = place.run(&["3"]);
    assert!(
        again.status.success() && said(&again).contains("were running already"),
        "{}",
        said(&again)
    );
    assert_eq!(pids, [1, 2, 3].map(|id| place.pid(id)));
    assert_eq!(place.states(), ["running"; 3]);
    assert_eq!(place.ok(&["leader"]), "2\n");
    assert_eq!(place.ok(&["addrs"]).trim(), place.addrs());
    assert_eq!(place.ok(&["raftq", "submit", "--", "x"]), "hello\n");
    let asked = place.ok(&["raftq", "cluster", "status"]);
    assert_eq!(asked.trim(), format!("asked {}", place.addrs()), "this cluster, not RAFTQ_ADDRS");
}

#[test]
fn killed_node_is_dead_and_restart_brings_it_back() {
    let place = Place::new();
    place.ok(&["3"]);
    let pid = place.pid(2);
    place.ok(&["kill", "2"]);
    assert!(!lives(&pid));
    assert_eq!(place.states(), ["running", "dead", "running"]);
    assert_eq!(
        place.refused(&["kill", "2"]),
        (Some(1), "cluster.sh: node 2 does not run\n".into())
    );
    place.ok(&["restart", "2"]);
    assert_eq!(place.states(), ["running"; 3]);
    assert_ne!(place.pid(2), pid);
    place.ok(&["kill", "1"]);
    place.ok(&["3"]);
    assert_eq!(place.states(), ["running"; 3], "a start brings the dead ones back");
}

#[test]
fn stop_ends_paused_and_stubborn_nodes_too() {
    let place = Place::new();
    place.ok(&["3"]);
    place.ok(&["pause", "3"]);
    assert_eq!(place.states(), ["running", "running", "paused"]);
    place.ok(&["resume", "3"]);
    assert_eq!(place.states(), ["running"; 3]);
    place.ok(&["pause", "3"]);
    let pids = [1, 2, 3].map(|id| place.pid(id));
    place.ok(&["stop"]);
    assert!(!pids.iter().any(|pid| lives(pid)), "somebody is still there");
    place.command(&["3"]).env("NODE_FLAGS", "STUBBORN").output().unwrap();
    let pids = [1, 2, 3].map(|id| place.pid(id));
    let stopped = place.command(&["stop"]).env("STOP_SECONDS", "1").output().unwrap();
    assert!(said(&stopped).contains("SIGKILL"), "{}", said(&stopped));
    assert!(!pids.iter().any(|pid| lives(pid)), "somebody is still there");
    assert!(place.run(&["stop"]).status.success(), "nothing to stop is no mistake");
}

#[test]
fn pid_of_another_program_is_never_touched() {
    let place = Place::new();
    place.ok(&["3"]);
    place.ok(&["stop"]);
    let mut stranger = Command::new("sleep").arg("600").spawn().unwrap();
    fs::write(place.state().join("node1/pid"), format!("{}\n", stranger.id())).unwrap();
    assert_eq!(place.refused(&["kill", "1"]).0, Some(1));
    place.ok(&["stop"]);
    assert!(stranger.try_wait().unwrap().is_none(), "the stranger was ended");
    place.ok(&["3"]);
    assert_eq!(place.states(), ["running"; 3], "a stale pid keeps no node from starting");
    assert!(stranger.try_wait().unwrap().is_none(), "the stranger was ended");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn busy_port_is_named_and_nothing_is_started() {
    let place = Place::new();
    let held = TcpListener::bind(("127.0.0.1", place.port + 1)).unwrap();
    let (code, text) = place.refused(&["3"]);
    assert_eq!(code, Some(1));
    assert!(text.contains(&format!("port {} (node 2) is taken", place.port + 1)), "{text}");
    assert!(text.contains("BASE_PORT="), "{text}");
    assert!(!place.state().join("node1/pid").exists(), "node 1 was started all the same");
    drop(held);
    place.ok(&["3"]);
}

#[test]
fn node_that_ends_at_once_shows_its_last_words() {
    let place = Place::new();
    let output = place.command(&["3"]).env("NODE_FLAGS", "DIES").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("the last word"), "{}", said(&output));
}

#[test]
fn flags_of_the_start_hold_for_a_restart() {
    let place = Place::new();
    let started = place.command(&["3"]).env("NODE_FLAGS", "--slots 7").output().unwrap();
    assert!(started.status.success(), "{}", said(&started));
    place.ok(&["kill", "1"]);
    place.ok(&["restart", "1"]);
    let words = fs::read_to_string(format!("/proc/{}/cmdline", place.pid(1))).unwrap();
    assert!(words.contains("--slots\x007\0"), "{words:?}");
}

#[test]
fn clean_deletes_only_a_stopped_cluster_of_its_own() {
    let place = Place::new();
    place.ok(&["3"]);
    let (code, text) = place.refused(&["clean"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("node 1 runs"), "{text}");
    place.ok(&["stop"]);
    place.ok(&["clean"]);
    assert!(!place.state().exists());
    place.ok(&["clean"]);

    fs::create_dir(place.state()).unwrap();
    fs::write(place.state().join("precious"), "mine").unwrap();
    assert_eq!(place.refused(&["clean"]).0, Some(2));
    assert_eq!(place.refused(&["3"]).0, Some(2), "nor is it used");
    assert!(place.state().join("precious").exists());
}

#[test]
fn cluster_keeps_its_size_and_its_ports() {
    let place = Place::new();
    place.ok(&["3"]);
    let (code, text) = place.refused(&["5"]);
    assert_eq!(code, Some(2));
    assert!(text.contains("has 3 nodes") && text.contains("clean"), "{text}");
    let moved = place.command(&["3"]).env("BASE_PORT", "9").output().unwrap();
    assert_eq!(moved.status.code(), Some(2));
    assert!(said(&moved).contains("CLUSTER_DIR"), "{}", said(&moved));
}

#[test]
fn wrong_words_are_refused_with_the_way_out() {
    let place = Place::new();
    assert_eq!(place.refused(&["frobnicate"]).0, Some(2));
    assert_eq!(place.refused(&["8"]).0, Some(2));
    assert_eq!(place.refused(&["0"]).0, Some(2));
    assert_eq!(place.refused(&["leader"]).0, Some(4), "no cluster has no leader");
    let (code, text) = place.refused(&["kill", "1"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("scripts/cluster.sh 5"), "{text}");
    place.ok(&["3"]);
    for wrong in
        [&["kill"][..], &["kill", "4"], &["kill", "x"], &["restart", "0"], &["logs", "1", "-x"]]
    {
        assert_eq!(place.refused(wrong).0, Some(2), "{wrong:?}");
    }
    assert!(place.ok(&["help"]).contains("pause ID"));
}

//! `scripts/cluster.sh` as users meet it, with a small stand-in for the program: nodes that sleep.

#![expect(clippy::unwrap_used, reason = "a helper that fails has to fail its test")]

use std::fs::{self, File, TryLockError};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::ops::Range;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

/// A node that sleeps until it is told to end, and a command line that says what is expected.
/// `STUBBORN` in its flags makes a node that ignores SIGTERM; `DIES` one that ends at once.
/// It waits at a FIFO that nobody writes to: a child of its own would be taken for a node.
const STAND_IN: &str = r#"#!/bin/bash
case "$*" in
    node*DIES*) echo "the last word"; exit 1 ;;
    node*STUBBORN*) trap '' TERM ;;
    node*) trap 'exit 0' TERM ;;
esac
case "$*" in
    node*) exec 8<>"$0.fifo"; while :; do read -r -t 0.05 _ <&8 || true; done ;;
    *'cluster leader'*) echo 2 ;;
    *'cluster ready'*)
        case ${NODE_FLAGS:-} in *DIES*) exit 5 ;; esac
        [ -z "${HOLDS:-}" ] || [ -z "$(ls "$HOLDS")" ] || exit 5
        ;;
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
        let fifo = dir.join("stand in.fifo");
        assert!(Command::new("mkfifo").arg(fifo).status().unwrap().success());
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

    /// The processes that run as nodes of this place, whatever the pid files say.
    fn nodes(&self) -> Vec<String> {
        let state = self.state().display().to_string();
        let is_node = |pid: &String| {
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).into_owned();
            words.contains("\0node\0") && words.contains(&format!("\0--data\0{state}"))
        };
        let names = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name());
        let names = names.filter_map(|name| name.into_string().ok());
        names.filter(|name| name.parse::<u32>().is_ok()).filter(is_node).collect()
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
        for pid in self.nodes() {
            Command::new("kill").args(["-9", &pid]).status().ok();
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

/// Where ports are looked for: below those that the system gives to whoever connects, so that nobody takes one
/// between the look and the use.
const PORTS: Range<u16> = 10_000..30_000;

/// Finds three ports in a row that nobody listens on, and that no other test of this process has found.
fn three_free_ports() -> u16 {
    static NEXT: LazyLock<AtomicU16> =
        LazyLock::new(|| AtomicU16::new(fastrand::u16(PORTS.start..PORTS.end - 3000)));
    for _ in 0..500 {
        let first = NEXT.fetch_add(3, Ordering::Relaxed);
        if (first..first + 3).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
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
    let (code, text) = place.refused(&["kill", "2"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("node 2 does not run") && text.contains("restart 2"), "{text}");
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
fn lost_and_wrong_pid_files_mislead_nobody() {
    let place = Place::new();
    place.ok(&["3"]);
    let mut stranger = Command::new("sleep").arg("600").spawn().unwrap();
    let file = |id: u32| place.state().join(format!("node{id}/pid"));
    fs::remove_file(file(1)).unwrap();
    fs::write(file(2), format!("{}\n", stranger.id())).unwrap();
    fs::write(file(3), "none of your business").unwrap();
    assert_eq!(place.states(), ["running"; 3]);
    assert_eq!(place.refused(&["clean"]).0, Some(1));
    place.ok(&["kill", "2"]);
    assert_eq!(place.states(), ["running", "dead", "running"]);
    place.ok(&["stop"]);
    assert!(place.nodes().is_empty(), "somebody is still there");
    fs::write(file(1), format!("{}\n", stranger.id())).unwrap();
    place.ok(&["3"]);
    assert_eq!(place.states(), ["running"; 3], "a stale pid keeps no node from starting");
    fs::remove_dir_all(place.state()).unwrap();
    assert_eq!(place.refused(&["clean"]).0, Some(1), "they run, even if nothing is left of them");
    assert_eq!(place.refused(&["3"]).0, Some(1), "nor are they taken for a new cluster");
    place.ok(&["stop"]);
    assert!(place.nodes().is_empty(), "somebody is still there");
    assert!(stranger.try_wait().unwrap().is_none(), "the stranger was ended");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn clean_spares_a_directory_that_somebody_holds() {
    let place = Place::new();
    place.ok(&["3"]);
    place.ok(&["stop"]);
    let data = place.state().join("node2/data");
    fs::create_dir(&data).unwrap();
    let lock = File::create(data.join("lock")).unwrap();
    lock.lock().unwrap();
    let (code, text) = place.refused(&["clean"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("node2/data") && text.contains("lslocks"), "{text}");
    drop(lock);
    place.ok(&["clean"]);
}

#[test]
fn starts_at_the_same_moment_make_one_cluster() {
    let place = Place::new();
    let starts = [(); 3].map(|()| {
        place.command(&["3"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    });
    for start in starts {
        let output = start.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
    }
    let mut nodes = place.nodes();
    let mut known = [1, 2, 3].map(|id| place.pid(id)).to_vec();
    nodes.sort();
    known.sort();
    assert_eq!(nodes, known);
}

#[test]
fn call_waits_for_another_and_gives_up_in_the_end() {
    let place = Place::new();
    place.ok(&["3"]);
    let pids = place.nodes();
    let mark = File::open(place.state().join("raftq-cluster")).unwrap();
    match mark.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => panic!("the nodes hold the lock of the script"),
        Err(TryLockError::Error(error)) => panic!("{error}"),
    }
    for verb in [&["3"][..], &["stop"], &["kill", "1"], &["pause", "1"], &["restart", "1"]] {
        let output = place.command(verb).env("LOCK_SECONDS", "1").output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{verb:?}");
        assert!(said(&output).contains("still at work"), "{}", said(&output));
    }
    assert_eq!(place.states(), ["running"; 3], "who only looks need not wait");
    assert_eq!(place.nodes(), pids);
    let mut stop = place.command(&["stop"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut told = BufReader::new(stop.stderr.take().unwrap());
    told.read_line(&mut line).unwrap();
    assert!(line.contains("waiting"), "{line}");
    drop(mark);
    assert!(stop.wait().unwrap().success());
    assert!(place.nodes().is_empty(), "somebody is still there");
}

#[test]
fn busy_port_is_named_and_nothing_is_written() {
    // Somebody else on this machine may be as quick.
    let held = |place: &Place| TcpListener::bind(("127.0.0.1", place.port + 1)).ok();
    let find = || Some(Place::new()).and_then(|place| held(&place).map(|held| (place, held)));
    let (place, held) = (0..10).find_map(|_| find()).unwrap();
    let (code, text) = place.refused(&["3"]);
    assert_eq!(code, Some(1));
    assert!(text.contains(&format!("port {} (node 2) is taken", place.port + 1)), "{text}");
    assert!(text.contains("BASE_PORT="), "{text}");
    assert!(!place.state().exists(), "the advice would lead nowhere");
    let other = place.command(&["3"]).env("BASE_PORT", three_free_ports().to_string()).output();
    let other = other.unwrap();
    assert!(other.status.success(), "{}", said(&other));
    drop(held);
}

#[test]
fn what_the_caller_has_open_stays_out_of_the_nodes() {
    let place = Place::new();
    let open = place.dir.join("open");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/cluster.sh");
    let command = place.command(&[]);
    let args = command.get_args().map(ToOwned::to_owned).collect::<Vec<_>>();
    assert_eq!(args, [script.as_os_str()]);
    let mut caller = Command::new("bash");
    caller.args(["-c", "exec 3<>open 7>>open 42>>open; exec bash \"$0\" 3"]).args(args);
    caller.current_dir(&place.dir);
    caller.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = caller.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let nodes = place.nodes();
    assert_eq!(nodes.len(), 3);
    for pid in nodes {
        let links = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        let files: Vec<_> = links.filter_map(|link| fs::read_link(link.path()).ok()).collect();
        assert!(files.iter().any(|file| file.ends_with("log")), "{files:?}");
        assert!(!files.contains(&open), "{files:?}");
        assert!(!files.iter().any(|file| file.ends_with("raftq-cluster")), "{files:?}");
    }
}

#[test]
fn other_shell_and_a_symbolic_link_do() {
    let place = Place::new();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/cluster.sh");
    symlink(script, place.dir.join("link")).unwrap();
    place.ok(&["3"]);
    let mut command = Command::new("sh");
    command.args(["link", "addrs"]).current_dir(&place.dir).env("CLUSTER_DIR", "my cluster");
    let output = command.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), place.addrs(), "{}", said(&output));
}

#[test]
fn real_nodes_are_found_and_ended_without_a_pid_file() {
    let place = Place::new();
    let real = |args: &[&str]| {
        let mut command = place.command(args);
        command
            .env("RAFTQ", env!("CARGO_BIN_EXE_raftq"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    };
    let starts = [(); 2].map(|()| real(&["3"]).spawn().unwrap());
    for start in starts {
        let output = start.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
    }
    assert_eq!(place.nodes().len(), 3);
    for id in 1..=3 {
        fs::remove_file(place.state().join(format!("node{id}/pid"))).unwrap();
    }
    fs::rename(place.state(), place.dir.join("moved")).unwrap();
    let moved = real(&["clean"]).env("CLUSTER_DIR", place.dir.join("moved")).output().unwrap();
    assert_eq!(moved.status.code(), Some(1), "{}", said(&moved));
    assert!(said(&moved).contains("lslocks"), "{}", said(&moved));
    fs::rename(place.dir.join("moved"), place.state()).unwrap();
    assert_eq!(real(&["clean"]).output().unwrap().status.code(), Some(1));
    let stopped = real(&["stop"]).output().unwrap();
    assert!(said(&stopped).contains("stopped: 1 2 3"), "{}", said(&stopped));
    assert!(place.nodes().is_empty(), "somebody is still there");
    assert!(real(&["clean"]).output().unwrap().status.success());
}

#[test]
fn node_that_ends_at_once_shows_its_last_words() {
    let place = Place::new();
    let output = place.command(&["3"]).env("NODE_FLAGS", "DIES").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("the last word"), "{}", said(&output));
}

/// While one program takes the place of another, a process has no words by which to know it.
#[test]
fn node_that_cannot_be_known_for_a_moment_has_not_ended() {
    const NOHUP: &str = r#"#!/usr/bin/env bash
hold=$(mktemp "$HOLDS/XXXXXX")
printf '%s\0' "$@" >"$hold"
sleep 0.3
exec bash -c 'sleep 0.4; mapfile -d "" words <"$0"; rm "$0"; exec "${words[@]}"' "$hold"
"#;
    let place = Place::new();
    let holds = place.dir.join("holds");
    fs::create_dir(&holds).unwrap();
    let nohup = place.dir.join("nohup");
    fs::write(&nohup, NOHUP).unwrap();
    fs::set_permissions(&nohup, fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", place.dir.display());
    let started = place.command(&["3"]).env("PATH", path).env("HOLDS", holds).output().unwrap();
    assert!(started.status.success(), "{}", said(&started));
    assert_eq!(place.states(), ["running"; 3]);
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
    for wrong in [&["8"][..], &["0"], &["100000"], &["3x"], &[""], &["3", "4"], &["stop", "3"]] {
        assert_eq!(place.refused(wrong).0, Some(2), "{wrong:?}");
    }
    let no_program = place.command(&["3"]).env("RAFTQ", "/nowhere").output().unwrap();
    assert_eq!(no_program.status.code(), Some(2), "{}", said(&no_program));
    assert!(!place.state().exists(), "nothing is written before all is well");
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

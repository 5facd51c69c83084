//! `raftq bench` against real nodes: what it prints, and that it leaves nothing behind. No figure is judged.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a test that meets the unexpected fails there; the harness watches the real clock"
)]

#[expect(dead_code, reason = "shared with the other tests of real clusters, which use all of it")]
mod harness;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use harness::{Cluster, scratch, until};
use serde_json::Value;

fn raftq(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_raftq")).args(args).output().unwrap()
}

/// The last line of stdout, as JSON.
fn last_object(out: &Output) -> Value {
    let stdout = String::from_utf8_lossy(&out.stdout);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{}: {stdout}{stderr}", out.status);
    serde_json::from_str(stdout.lines().last().unwrap()).unwrap()
}

/// What every measurement tells.
fn check(object: &Value, what: &str) {
    assert_eq!(object["what"], what, "{object}");
    // An election on a busy machine makes some; no figure is judged here.
    assert!(object["errors"].is_u64(), "{object}");
    for key in ["per_s", "p50_ms", "p99_ms"] {
        assert!(object[key].as_f64().unwrap() > 0.0, "{key} of {object}");
    }
}

#[test]
fn submits_are_measured_beside_the_floor_and_removed() {
    let cluster = Cluster::start("bench", 3, &["--slots", "0"]);
    let dir = scratch("bench-floor");
    let floor = dir.to_str().unwrap();
    let addrs = cluster.addrs();
    let load = ["--secs", "1", "--repeats", "1", "--json", "--addrs", &addrs, "--floor-dir", floor];
    for (what, more) in [("submit", "--in-flight=8"), ("batch", "--jobs=10")] {
        let object = last_object(&raftq(&[&["bench", what, more], &load[..]].concat()));
        check(&object, what);
        let share = object["share_of_floor"].as_f64().unwrap();
        let (ours, floor) = (&object["per_s"], &object["floor"]["per_s"]);
        assert!(
            (share - ours.as_f64().unwrap() / floor.as_f64().unwrap()).abs() < 1e-9,
            "{object}"
        );
        assert!(object["syncs_per_job"].as_f64().unwrap() > 0.0, "{object}");
    }
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "the floor left something behind");
    assert_eq!(cluster.ok(&["list", "--status", "pending", "--json"]), "");
}

#[test]
fn loads_are_drawn() {
    let cluster = Cluster::start("bench-plot", 1, &["--slots", "0"]);
    let file = scratch("bench-plot").join("latency.svg");
    let addrs = cluster.addrs();
    let plot = file.to_str().unwrap();
    let args = [
        "bench",
        "submit",
        "--secs",
        "1",
        "--repeats",
        "1",
        "--no-floor",
        "--plot",
        plot,
        "--addrs",
        &addrs,
    ];
    let out = raftq(&args);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let svg = fs::read_to_string(&file).unwrap();
    assert_eq!(svg.matches("<circle").count(), 16, "{svg}");
    let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(stderr.contains("1024 in flight: round 1 of 1"), "{stderr}");
}

#[test]
fn whole_jobs_are_measured() {
    let cluster = Cluster::start("bench-jobs", 3, &["--slots", "0"]);
    let addrs = cluster.addrs();
    for more in [["cycle", "--workers=2"], ["latency", "--rate=20"]] {
        let args = [&["bench"], &more[..], &["--secs", "1", "--json", "--addrs", &addrs]].concat();
        check(&last_object(&raftq(&args)), more[0]);
    }
}

#[test]
fn a_leader_is_killed_and_nothing_acknowledged_is_lost() {
    let dir = scratch("bench-failover");
    let args = [
        "bench",
        "failover",
        "--kills",
        "1",
        "--rate",
        "50",
        "--json",
        "--dir",
        dir.to_str().unwrap(),
    ];
    let object = last_object(&raftq(&args));
    check(&object, "failover");
    assert!(object["gap_worst_ms"].as_f64().unwrap() > 0.0, "{object}");
    assert!(object["acknowledged"].as_u64().unwrap() > 50, "{object}");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "the cluster left something behind");
}

/// A bench under way. What it says on stderr is in a file, to be read meanwhile.
struct Bench {
    child: Child,
    said: PathBuf,
}

impl Bench {
    fn start(dir: &Path, args: &[&str]) -> Self {
        let said = dir.join(format!("{}.said", args[0]));
        let child = Command::new(env!("CARGO_BIN_EXE_raftq"))
            .arg("bench")
            .args(args)
            .stdout(Stdio::null())
            .stderr(File::create(&said).unwrap())
            .spawn()
            .unwrap();
        Self { child, said }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap()
    }

    /// Waits until it has so many processes below it, and returns them.
    fn children(&self, count: usize) -> Vec<String> {
        let children = format!("/proc/{0}/task/{0}/children", self.child.id());
        until("the processes of a bench", || {
            let known = fs::read_to_string(&children).unwrap_or_default();
            let known: Vec<String> = known.split_whitespace().map(str::to_owned).collect();
            (known.len() == count).then_some(known)
        })
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Waits for its end, and returns the exit code.
    fn end(&mut self) -> Option<i32> {
        until("the end of a bench", || self.child.try_wait().unwrap()).code()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if self.child.kill().and_then(|()| self.child.wait()).is_err() || std::thread::panicking() {
            eprintln!("--- a bench said\n{}", self.said());
        }
    }
}

/// Waits until none of these processes runs. One that has ended may wait for a parent that looks at it.
fn until_ended(pids: &[String]) {
    until("the end of what a bench has started", || {
        let runs = |pid: &String| {
            let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            status.contains("(raftq)") && !status.contains(") Z ")
        };
        (!pids.iter().any(runs)).then_some(())
    });
}

fn entries(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Lists the jobs of a bench that have not ended.
fn left(cluster: &Cluster) -> String {
    let list = |status| cluster.ok(&["list", "--queue", "bench", "--status", status, "--json"]);
    list("pending") + &list("running")
}

fn wait_for_jobs(cluster: &Cluster) {
    let first = ["list", "--queue", "bench", "--limit", "1", "--json"];
    until("a job of a bench", || (!cluster.ok(&first).is_empty()).then_some(()));
}

#[test]
fn a_bench_that_is_told_to_stop_cancels_its_jobs_and_ends_its_floor() {
    let dir = scratch("bench-stopped");
    let floor = dir.join("floor");
    for (args, floor_nodes, signal, code) in [
        (&["submit", "--repeats=2"][..], 1, "-INT", 130),
        (&["batch", "--jobs=10"], 1, "-TERM", 143),
        (&["cycle", "--workers=2"], 0, "-INT", 130),
        (&["latency", "--rate=500"], 0, "-TERM", 143),
    ] {
        let cluster = Cluster::start("bench-stopped", 1, &["--slots", "0"]);
        let addrs = cluster.addrs();
        let mut args = [args, &["--secs", "600", "--addrs", &addrs]].concat();
        if floor_nodes > 0 {
            args.extend(["--floor-dir", floor.to_str().unwrap()]);
        }
        let mut bench = Bench::start(&dir, &args);
        wait_for_jobs(&cluster);
        let children = bench.children(floor_nodes);
        bench.signal(signal);
        assert_eq!(bench.end(), Some(code), "{args:?}");
        assert_eq!(left(&cluster), "", "{args:?}");
        assert!(!bench.said().contains("Left behind"), "{args:?}");
        until_ended(&children);
        if floor_nodes > 0 {
            assert_eq!(entries(&floor), [""; 0], "{args:?}");
        }
    }
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_bench_whose_leader_is_killed_cancels_its_jobs() {
    let mut cluster = Cluster::start("bench-broken", 3, &["--slots", "0"]);
    let (dir, addrs) = (scratch("bench-broken"), cluster.addrs());
    let floor = dir.join("floor");
    let args = ["submit", "--secs", "600", "--addrs", &addrs, "--floor-dir"];
    let mut bench = Bench::start(&dir, &[&args[..], &[floor.to_str().unwrap()]].concat());
    wait_for_jobs(&cluster);
    cluster.kill(cluster.leader());
    assert_eq!(bench.end(), Some(1));
    assert!(!bench.said().contains("Left behind"));
    assert_eq!(left(&cluster), "");
    assert_eq!(entries(&floor), [""; 0]);
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_second_signal_ends_a_bench_at_once_and_what_it_leaves_can_be_cancelled() {
    let cluster = Cluster::start("bench-hurried", 1, &["--slots", "0"]);
    let (dir, addrs) = (scratch("bench-hurried"), cluster.addrs());
    let args = ["submit", "--secs", "600", "--timeout", "600s", "--addrs", &addrs, "--floor-dir"];
    let mut bench = Bench::start(&dir, &[&args[..], &[dir.to_str().unwrap()]].concat());
    wait_for_jobs(&cluster);
    let children = bench.children(1);
    // A node that stands still answers no cancel.
    cluster.signal(1, "STOP");
    bench.signal("-TERM");
    until("its word that it stops", || bench.said().contains("stopping").then_some(()));
    bench.signal("-INT");
    assert_eq!(bench.end(), Some(143));
    let said = bench.said();
    until_ended(&children);
    assert!(!entries(&dir).iter().any(|name| name.starts_with("raftq-floor")), "{said}");
    cluster.signal(1, "CONT");
    assert_ne!(left(&cluster), "");
    assert!(said.contains("Left behind"), "{said}");
    let advice = said.lines().find(|line| line.contains("xargs")).unwrap();
    let program = format!("raftq() {{ '{}' \"$@\"; }}; ", env!("CARGO_BIN_EXE_raftq"));
    let advice =
        advice.replace("xargs -r raftq", &format!("xargs -r '{}'", env!("CARGO_BIN_EXE_raftq")));
    let done = Command::new("sh").args(["-c", &(program + &advice)]).status().unwrap();
    assert!(done.success(), "{advice}");
    assert_eq!(left(&cluster), "");
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_failover_that_is_told_to_stop_leaves_nothing() {
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let dir = scratch("bench-failover-stopped");
        let data = dir.join("data");
        let mut bench = Bench::start(&dir, &["failover", "--dir", data.to_str().unwrap()]);
        let nodes = bench.children(3);
        bench.signal(signal);
        assert_eq!(bench.end(), Some(code));
        until_ended(&nodes);
        assert_eq!(entries(&data), [""; 0]);
        fs::remove_dir_all(&dir).unwrap();
    }
}

#[test]
fn what_a_killed_bench_leaves_ends_with_it_or_goes_at_the_next_start() {
    let dir = scratch("bench-killed");
    let data = dir.join("data");
    let at = data.to_str().unwrap();
    let mut killed = Bench::start(&dir, &["failover", "--dir", at]);
    let nodes = killed.children(3);
    let dead = entries(&data);
    killed.signal("-KILL");
    assert_eq!(killed.end(), None);
    until_ended(&nodes);
    assert_eq!(entries(&data), dead);

    let living = Bench::start(&dir, &["failover", "--dir", at]);
    living.children(3);
    let now = entries(&data);
    assert!(now.len() == 1 && now != dead, "{now:?} after {dead:?}");
    let kept = entries(&data.join(&now[0]));
    let mut other = Bench::start(&dir, &["failover", "--dir", at]);
    other.children(3);
    let left = entries(&data.join(&now[0]));
    assert!(kept.iter().all(|name| left.contains(name)), "{left:?} of {kept:?} of one that lives");
    other.signal("-INT");
    assert_eq!(other.end(), Some(130));
    assert_eq!(entries(&data), now);
    drop(living);
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn what_cannot_be_measured_is_said() {
    for (args, code, word) in [
        (&["bench", "submit", "--payload", "1GiB"][..], 2, "bytes at most"),
        (&["bench", "submit", "--in-flight", "0"][..], 2, "1..=4096"),
        (&["bench", "submit", "--addrs", "127.0.0.1:1", "--timeout", "1s"][..], 4, "127.0.0.1:1"),
        (&["bench", "floor", "--floor-dir", "/proc/nowhere"][..], 1, "--floor-dir"),
    ] {
        let out = raftq(args);
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(stderr.contains(word), "{args:?}: {stderr}");
    }
}

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

use std::fs;
use std::process::{Command, Output, Stdio};

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

#[test]
fn nodes_of_a_bench_that_is_killed_end_with_it() {
    let dir = scratch("bench-killed");
    let args = ["bench", "failover", "--dir", dir.to_str().unwrap()];
    let mut bench = Command::new(env!("CARGO_BIN_EXE_raftq"))
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let children = format!("/proc/{0}/task/{0}/children", bench.id());
    let nodes: Vec<String> = until("three nodes", || {
        let known = fs::read_to_string(&children).unwrap_or_default();
        let known: Vec<String> = known.split_whitespace().map(str::to_owned).collect();
        (known.len() == 3).then_some(known)
    });
    bench.kill().unwrap();
    bench.wait().unwrap();
    until("the end of its nodes", || {
        // One that has ended may wait for a parent that looks at it.
        let runs = |pid: &String| {
            let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            status.contains("(raftq)") && !status.contains(") Z ")
        };
        (!nodes.iter().any(runs)).then_some(())
    });
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

//! Real nodes, real commands, real kills: what a user relies on, seen from outside.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a test that meets the unexpected fails there; it watches the real clock"
)]

mod harness;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use harness::{Cluster, until};
use raftq::client::client::Client;
use raftq::client::worker::Worker;

/// The lines of a file that jobs write to; none while it is missing.
fn lines(path: &std::path::Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(ToString::to_string).collect()
}

/// Tells whether a process lives.
fn lives(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
    state.is_some_and(|state| state != "Z")
}

#[test]
fn a_command_prints_its_output_and_its_exit_code_is_kept() {
    let cluster = Cluster::start("echo", 3, &[]);
    let output = cluster.raftq(&["submit", "--wait", "--", "echo", "hello"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hello\n");
    assert_eq!(output.status.code(), Some(0));

    let output = cluster.raftq(&["submit", "--wait", "--", "sh", "-c", "exit 3"]);
    assert_eq!(output.status.code(), Some(8));
    let id = cluster.ok(&["submit", "--", "sh", "-c", "echo out; echo err >&2; exit 3"]);
    let id = id.trim();
    assert_eq!(cluster.raftq(&["wait", id]).status.code(), Some(8));
    let job = cluster.json(&["get", id]);
    assert_eq!((&job["exit_code"], &job["status"]), (&3.into(), &"failed".into()), "{job}");
    assert_eq!(job["output"], "out\nerr\n");

    let output = cluster.raftq(&["submit", "--wait", "--", "/no/such/program"]);
    assert_eq!(output.status.code(), Some(8));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("/no/such/program"), "the reason is named: {told}");
    assert_eq!(cluster.raftq(&["get", "00000000000000000000000000000000"]).status.code(), Some(3));
}

#[test]
fn sixty_jobs_run_once_each_never_beyond_the_slots_and_spread_evenly() {
    let cluster = Cluster::start("spread", 3, &["--slots", "4"]);
    let file = cluster.dir().join("ran");
    // Each job notes when it began and ended, and on which node's worker.
    let script = format!(
        "echo begin $RAFTQ_FENCE >> '{0}'; sleep 0.2; echo $RAFTQ_JOB_ID >> '{0}'",
        file.display()
    );
    let batch: String = (0..60)
        .map(|_| serde_json::json!({"command": ["sh", "-c", script]}).to_string() + "\n")
        .collect();
    let output = cluster.raftq_in(&["submit", "--batch", "-"], batch.as_bytes());
    let ids: Vec<String> =
        String::from_utf8(output.stdout).unwrap().lines().map(Into::into).collect();
    assert_eq!(ids.len(), 60, "{}", String::from_utf8_lossy(&output.stderr));
    let all: Vec<&str> = ids.iter().map(String::as_str).collect();
    let mut worst = 0;
    let start = Instant::now();
    let done = loop {
        for line in cluster.ok(&["workers", "--json"]).lines() {
            let worker: serde_json::Value = serde_json::from_str(line).unwrap();
            worst = worst.max(worker["running"].as_u64().unwrap());
        }
        let jobs = cluster.ok(&["list", "--status", "completed", "--limit", "1000", "--json"]);
        if jobs.lines().count() == 60 {
            break jobs;
        }
        assert!(start.elapsed() < harness::PATIENCE, "the jobs do not end: {jobs}");
    };
    assert!(worst <= 4, "a worker had {worst} jobs at once");
    assert!(worst >= 2, "slots were used: {worst}");
    let ran: Vec<String> =
        lines(&file).into_iter().filter(|line| !line.starts_with("begin")).collect();
    assert_eq!(ran.len(), 60, "each job ran once");
    assert_eq!(
        ran.iter().map(String::as_str).collect::<BTreeSet<_>>(),
        all.iter().copied().collect::<BTreeSet<_>>()
    );
    for node in 1..=3 {
        let share = done.matches(&format!("\"worker\":\"node-{node}\"")).count();
        assert!((15..=25).contains(&share), "node {node} ran {share} of 60");
    }
}

#[test]
fn killing_the_leader_again_and_again_loses_nothing_acknowledged() {
    let mut cluster = Cluster::start("leader kill", 3, &[]);
    let mut acknowledged = Vec::new();
    for round in 0..4 {
        let leader = cluster.leader();
        for _ in 0..5 {
            acknowledged.push(cluster.ok(&["submit", "--", "true"]).trim().to_string());
        }
        cluster.kill(leader);
        for _ in 0..5 {
            acknowledged.push(cluster.ok(&["submit", "--", "true"]).trim().to_string());
        }
        cluster.spawn(leader);
        cluster.wait_whole();
        assert_eq!(acknowledged.len(), (round + 1) * 10);
    }
    let ids: Vec<&str> = acknowledged.iter().map(String::as_str).collect();
    let waited = cluster.raftq(&[&["wait"], &ids[..]].concat());
    assert_eq!(waited.status.code(), Some(0), "{}", String::from_utf8_lossy(&waited.stderr));
    for id in ids {
        assert_eq!(cluster.json(&["get", id])["status"], "completed");
    }
    cluster.wait_digests(0);
}

#[test]
fn a_minority_paused_changes_nothing_and_a_majority_paused_is_said() {
    let cluster = Cluster::start("pause", 5, &[]);
    let leader = cluster.leader();
    let others: Vec<usize> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    for id in &others[..2] {
        cluster.signal(*id, "STOP");
    }
    cluster.ok(&["submit", "--", "true"]);
    cluster.signal(others[2], "STOP");
    let start = Instant::now();
    let output = cluster.raftq(&["submit", "--timeout", "5s", "--", "true"]);
    let code = output.status.code().unwrap();
    assert!(code == 6 || code == 4 || code == 1, "never success: {code}");
    assert!(output.stdout.is_empty(), "no id before it is acknowledged");
    assert!(start.elapsed() < Duration::from_millis(6500), "never silence: {:?}", start.elapsed());
    for id in &others[..3] {
        cluster.signal(*id, "CONT");
    }
    cluster.wait_whole();
    cluster.ok(&["submit", "--wait", "--", "true"]);
}

#[test]
fn jobs_of_a_dead_node_and_of_a_frozen_one_run_elsewhere_under_a_higher_fence() {
    // Each has a free slot, so that the jobs of one victim could be given to the other.
    let mut cluster = Cluster::start("node death", 5, &["--slots", "2"]);
    let file = cluster.dir().join("pids");
    let script = format!("echo $RAFTQ_JOB_ID $RAFTQ_FENCE $$ >> '{}'; sleep 600", file.display());
    let ids: Vec<String> = (0..5)
        .map(|_| cluster.ok(&["submit", "--", "sh", "-c", &script]).trim().to_string())
        .collect();
    until("five running commands", || (lines(&file).len() == 5).then_some(()));
    let leader = cluster.leader();
    let jobs: Vec<serde_json::Value> = ids.iter().map(|id| cluster.json(&["get", id])).collect();
    let jobs_of = |node: usize| -> Vec<serde_json::Value> {
        let worker = format!("node-{node}");
        jobs.iter().filter(|job| job["worker"] == worker.as_str()).cloned().collect()
    };
    // A worker that was slow to be heard may have none, and another two: but five jobs are on three nodes.
    let victims: Vec<usize> = cluster
        .ids()
        .into_iter()
        .filter(|id| *id != leader && !jobs_of(*id).is_empty())
        .take(2)
        .collect();
    let (dead, frozen) = (victims[0], victims[1]);
    let before = [jobs_of(dead), jobs_of(frozen)].concat();
    let pid_of = |id: &str, fence: &str| {
        lines(&file).iter().find_map(|line| {
            let mut words = line.split(' ');
            (words.next() == Some(id) && words.next() == Some(fence))
                .then(|| words.next().unwrap().to_string())
        })
    };
    let text = |value: &serde_json::Value| {
        value.as_str().map_or_else(|| value.to_string(), ToString::to_string)
    };
    let old: Vec<String> = before
        .iter()
        .map(|job| pid_of(&text(&job["id"]), &text(&job["fence"])).expect("its process"))
        .collect();
    let start = Instant::now();
    cluster.kill(dead);
    cluster.signal(frozen, "STOP");
    for job in &before {
        let id = text(&job["id"]);
        let after = until("running elsewhere", || {
            let now = cluster.json(&["get", &id]);
            (now["status"] == "running" && now["fence"] != job["fence"]).then_some(now)
        });
        let fence = |job: &serde_json::Value| text(&job["fence"]).parse::<u64>().unwrap();
        assert!(fence(&after) > fence(job), "{after}");
        assert_eq!(after["attempt"], 2, "{after}");
        until("its new process", || pid_of(&id, &text(&after["fence"])));
    }
    println!("running elsewhere after {:?}", start.elapsed());
    for pid in &old {
        until("the old command is gone", || (!lives(pid)).then_some(()));
    }
    cluster.signal(frozen, "CONT");
    cluster.spawn(dead);
    cluster.wait_whole();
    for job in &before {
        let now = cluster.json(&["get", &text(&job["id"])]);
        assert_eq!(now["attempt"], 2, "waking up changed nothing: {now}");
        cluster.ok(&["cancel", &text(&job["id"])]);
    }
}

#[test]
fn all_nodes_killed_at_once_keep_every_acknowledged_job() {
    let mut cluster = Cluster::start("power", 5, &[]);
    let batch: String = "{\"command\":[\"true\"]}\n".repeat(300);
    let output = cluster.raftq_in(&["submit", "--batch", "-"], batch.as_bytes());
    let ids = String::from_utf8(output.stdout).unwrap();
    assert_eq!(ids.lines().count(), 300);
    for id in cluster.ids() {
        cluster.kill(id);
    }
    for id in cluster.ids() {
        cluster.spawn(id);
    }
    cluster.wait_whole();
    let ids: Vec<&str> = ids.lines().collect();
    let waited = cluster.raftq(&[&["wait"], &ids[..]].concat());
    assert_eq!(waited.status.code(), Some(0), "{}", String::from_utf8_lossy(&waited.stderr));
    cluster.wait_digests(0);
}

#[test]
fn a_node_far_behind_catches_up_by_a_streamed_snapshot_without_a_new_term() {
    let small = ["--segment", "64KiB", "--log-keep", "64KiB", "--snapshot-at", "256KiB"];
    let mut cluster = Cluster::start("snapshot", 3, &[&small[..], &["--slots", "0"]].concat());
    let leader = cluster.leader();
    let behind = cluster.ids().into_iter().find(|id| *id != leader).unwrap();
    let term = cluster.status().unwrap()["term"].clone();
    cluster.stop(behind);
    let payload = "x".repeat(300);
    let line = serde_json::json!({"queue": "mail", "payload": payload}).to_string() + "\n";
    for _ in 0..5 {
        let output = cluster.raftq_in(&["submit", "--batch", "-"], line.repeat(1000).as_bytes());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    until("the log on disk begins later", || {
        let first: u64 = cluster.text_value(leader, "raft", "first_index")?.parse().ok()?;
        (first > 1).then_some(())
    });
    let window: u64 =
        cluster.text_value(leader, "raft", "memory_entries").unwrap().parse().unwrap();
    assert!(window <= 1000, "{window} entries in memory");
    assert!(metric(&cluster, leader, "raftq_snapshots_written_total") >= 1);
    cluster.spawn(behind);
    cluster.wait_whole();
    // Digests are taken every 64 entries, and a batch is one.
    for _ in 0..70 {
        cluster.ok(&["submit", "--queue", "mail", "--payload", "x"]);
    }
    cluster.wait_digests(0);
    assert_eq!(cluster.status().unwrap()["term"], term, "no election was needed");
    assert!(cluster.log(behind).contains("snapshot"), "{}", cluster.log(behind));
    assert!(metric(&cluster, leader, "raftq_snapshots_sent_total") >= 1);
    assert!(metric(&cluster, behind, "raftq_snapshots_received_total") >= 1);
}

/// Asks a node over HTTP for one number.
fn metric(cluster: &Cluster, node: usize, name: &str) -> u64 {
    let answer = cluster.text(node, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let value = answer.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in {answer}"))
}

#[test]
fn turns_of_a_quiet_cluster_are_taken_by_those_who_bring_something() {
    let cluster = Cluster::start("visits", 3, &["--slots", "0"]);
    (0..20).for_each(|_| drop(cluster.ok(&["submit", "--", "true"])));
    for node in cluster.ids() {
        // At the least one for each job: what a leader sent, or that it is durable.
        let visited = metric(&cluster, node, "raftq_turns_visited_total");
        assert!(visited >= 20, "{visited} visits on node {node}");
    }
}

#[test]
fn every_node_finds_a_job_right_after_its_submit() {
    let cluster = Cluster::start("read", 5, &["--slots", "0"]);
    for _ in 0..5 {
        let id = cluster.ok(&["submit", "--", "true"]);
        for node in cluster.ids() {
            let output = cluster.raftq(&["--addrs", cluster.addr(node), "get", id.trim()]);
            assert_eq!(output.status.code(), Some(0), "node {node}");
        }
    }
}

#[test]
fn sigterm_gives_jobs_back_without_using_up_an_attempt() {
    let mut cluster = Cluster::start("term", 3, &["--slots", "1", "--grace", "300ms"]);
    let ids: Vec<String> =
        (0..3).map(|_| cluster.ok(&["submit", "--", "sleep", "600"]).trim().into()).collect();
    let running = until("three running jobs", || {
        let jobs: Vec<_> = ids.iter().map(|id| cluster.json(&["get", id])).collect();
        jobs.iter().all(|job| job["status"] == "running").then_some(jobs)
    });
    let leader = cluster.leader();
    let worker = format!("node-{leader}");
    let given = running.iter().find(|job| job["worker"] == worker.as_str()).unwrap();
    let other = running.iter().find(|job| job["worker"] != worker.as_str()).unwrap();
    assert_eq!(cluster.stop(leader), Some(0), "{}", cluster.log(leader));
    cluster.ok(&["cancel", other["id"].as_str().unwrap()]);
    let id = given["id"].as_str().unwrap();
    let after = until("running elsewhere", || {
        let job = cluster.json(&["get", id]);
        (job["status"] == "running" && job["worker"] != worker.as_str()).then_some(job)
    });
    assert_eq!(after["attempt"], 1, "{after}");
    for id in &ids {
        cluster.raftq(&["cancel", id]);
    }
}

#[test]
fn a_second_process_and_an_empty_directory_under_a_known_id_are_refused() {
    let mut cluster = Cluster::start("identity", 3, &[]);
    cluster.ok(&["submit", "--wait", "--", "true"]);
    let output = cluster.node_command(1).arg("--slots").arg("0").output().unwrap();
    assert_ne!(output.status.code(), Some(0));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("in use") || told.contains("lock"), "{told}");

    // The directories are recorded within a second or so of the first leader.
    until("three directories in the log", || {
        let log = cluster.ok(&["log", "list", "--limit", "1000"]);
        log.contains("3 directories known").then_some(())
    });
    let victim = cluster.ids().into_iter().find(|id| *id != cluster.leader()).unwrap();
    cluster.kill(victim);
    fs::rename(cluster.data(victim), cluster.dir().join("lost")).unwrap();
    cluster.spawn(victim);
    until("a refusal that names the directory", || {
        cluster.log(victim).contains("directory").then_some(())
    });
    cluster.ok(&["submit", "--wait", "--", "true"]);
    let status = cluster.status().unwrap();
    let dead = status["nodes"].as_array().unwrap().iter().find(|n| n["id"] == victim).unwrap();
    assert_eq!(dead["match_index"].as_u64(), Some(dead["match_index"].as_u64().unwrap_or(0)));
}

#[test]
fn text_and_http_share_the_port_and_end_by_themselves() {
    let cluster = Cluster::start("text", 3, &[]);
    let answer = cluster.text(1, "status\nnodes\njobs\n");
    assert!(answer.matches("\nOK\n").count() >= 2 && answer.ends_with("OK\n"), "{answer}");
    assert!(answer.contains("127.0.0.1"), "{answer}");
    let answer = cluster.text(2, "statsu\n");
    assert!(answer.contains("ERR "), "{answer}");
    for (path, status, word) in [
        ("/readyz", "200", ""),
        ("/healthz", "200", ""),
        ("/metrics", "200", "raftq_"),
        ("/nothing", "404", ""),
    ] {
        let answer = cluster.text(1, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
        assert!(answer.contains(word), "{path}: {answer}");
    }
}

#[test]
fn noise_on_the_port_disturbs_nobody() {
    let cluster = Cluster::start("noise", 3, &[]);
    let term = cluster.status().unwrap()["term"].clone();
    let leader = cluster.leader();
    let silent: Vec<TcpStream> =
        (0..500).map(|_| TcpStream::connect(cluster.addr(leader)).unwrap()).collect();
    let mut noise = TcpStream::connect(cluster.addr(leader)).unwrap();
    let junk: Vec<u8> =
        (0..1_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    // The node may hang up in the middle: that is an answer too.
    if noise.write_all(&junk).is_ok() {
        let mut rest = Vec::new();
        if noise.read_to_end(&mut rest).is_err() {
            println!("the noisy connection was reset");
        }
    }
    let mut greedy = TcpStream::connect(cluster.addr(leader)).unwrap();
    greedy.write_all(b"\xc1RJQ\r\n\x1a\n\xff\xff\xff\xff\x01\x00\x00\x00").unwrap();
    cluster.ok(&["submit", "--wait", "--", "echo", "fine"]);
    drop(silent);
    assert_eq!(cluster.status().unwrap()["term"], term, "no election");
}

#[test]
fn a_bad_configuration_is_refused_with_what_to_do() {
    let dir = harness::scratch("config");
    let data = dir.join("data");
    let node = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_raftq"))
            .arg("node")
            .args(args)
            .arg("--data")
            .arg(&data)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let good = ["--id", "1", "--listen", "127.0.0.1:1", "--peers"];
    for (peers, word) in [
        ("2=127.0.0.1:2", "not in it"),
        ("1=127.0.0.1:1,1=127.0.0.1:2", "twice"),
        ("1=nowhere", "HOST:PORT"),
    ] {
        let (code, told) = node(&[&good[..], &[peers]].concat());
        assert_eq!(code, Some(2), "{told}");
        assert!(told.contains(word), "{peers}: {told}");
    }
    let (code, told) = node(&["--id", "1", "--listen", "0.0.0.0:1", "--peers", "1=127.0.0.1:1"]);
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("--insecure"), "{told}");
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("thesis.txt"), "mine").unwrap();
    let (code, told) = node(&[&good[..], &["1=127.0.0.1:1"]].concat());
    assert_eq!(code, Some(1), "{told}");
    assert!(fs::read_to_string(data.join("thesis.txt")).unwrap() == "mine");
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_library_worker_completes_a_thousand_jobs_across_the_death_of_the_leader() {
    let mut cluster = Cluster::start("library worker", 3, &["--slots", "0"]);
    let seeds: Vec<String> = cluster.addrs().split(',').map(ToString::to_string).collect();
    let client = Client::builder().seeds(seeds).build().unwrap();
    let (stop, stopped) = futures::channel::oneshot::channel::<()>();
    let handled = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = Arc::clone(&handled);
    let worker = Worker::new(&client)
        .name("counter")
        .slots(16)
        .queue("count", move |context, payload| {
            let seen = Arc::clone(&seen);
            async move {
                assert!(seen.lock().unwrap().insert(context.fence()), "one token, one attempt");
                Ok::<_, String>(payload)
            }
        })
        .run_until(stopped.map(|_| ()));
    let running = async_std::task::spawn(worker);
    let line = "{\"queue\":\"count\",\"payload\":\"one\"}\n";
    let first = cluster.raftq_in(&["submit", "--batch", "-"], line.repeat(500).as_bytes());
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    let leader = cluster.leader();
    cluster.kill(leader);
    let second = cluster.raftq_in(&["submit", "--batch", "-"], line.repeat(500).as_bytes());
    assert!(second.status.success(), "{}", String::from_utf8_lossy(&second.stderr));
    cluster.spawn(leader);
    let ids = [first.stdout, second.stdout].concat();
    let ids = String::from_utf8(ids).unwrap();
    let ids: Vec<&str> = ids.lines().collect();
    assert_eq!(ids.len(), 1000);
    let waited = cluster.raftq(&[&["wait"], &ids[..]].concat());
    assert_eq!(waited.status.code(), Some(0), "{}", String::from_utf8_lossy(&waited.stderr));
    stop.send(()).unwrap();
    let report = async_std::task::block_on(running).unwrap();
    assert!(report.finished >= 1000 - 16, "{report:?}");
    assert!(handled.lock().unwrap().len() >= 1000);
}

/// What a Python program does with jobs that ask for something, and with queues.
const PYTHON_LIBRARY: &str = r#"
import sys
from raftq import Client, Refused
with Client(sys.argv[1].split(",")) as client:
    job = client.submit(command=["sh", "-c", "exit 3"], retries=1, backoff_ms=0, priority=9, timeout_ms=60_000)
    ended = client.wait([job])[job]
    assert (ended["status"], ended["attempt"], ended["options"]["priority"]) == ("failed", 2, 9), ended
    past = client.get(job)["past"]
    assert [(it["attempt"], it["exit_code"]) for it in past] == [(1, 3)], past
    assert client.retry([job]) == {job: {}}
    assert client.wait([job])[job]["attempt"] == 4
    assert client.purge([job]) == {job: {}}
    client.change_queue("slow", {"limit": 2})
    client.change_queue("slow", "drain")
    slow = [queue for queue in client.queues() if queue["name"] == "slow"]
    assert slow[0]["limit"] == 2 and slow[0]["draining_ms"] > 0, slow
    try:
        client.submit(payload=b"x", queue="slow")
    except Refused as no:
        assert no.name == "FAILED_PRECONDITION", no
    else:
        raise AssertionError("taken")
    try:
        client.submit(command=["true"], prio=1)
    except ValueError as no:
        assert "prio" in str(no)
print("all is well")
"#;

#[test]
fn the_python_client_speaks_to_the_cluster() {
    let Ok(python) = std::env::var("RAFTQ_PYTHON") else {
        println!("left out: RAFTQ_PYTHON names no Python with msgpack (.ci/run makes one)");
        return;
    };
    let cluster = Cluster::start("python", 3, &[]);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/raftq.py");
    let run = |args: &[&str]| {
        let output = Command::new(&python)
            .arg(script)
            .args(["--addrs", &cluster.addrs()])
            .args(args)
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), told)
    };
    let (code, out, told) = run(&["submit", "--wait", "--", "echo", "from python"]);
    assert_eq!((code, out.as_str()), (Some(0), "from python\n"), "{told}");
    let (code, _, told) = run(&["submit", "--wait", "--", "sh", "-c", "exit 3"]);
    assert_eq!(code, Some(8), "{told}");
    let (code, out, told) = run(&["list", "--status", "completed"]);
    assert!(code == Some(0) && out.contains("node-"), "{out}{told}");
    let library = Command::new(&python)
        .arg("-c")
        .arg(PYTHON_LIBRARY)
        .arg(cluster.addrs())
        .env("PYTHONPATH", concat!(env!("CARGO_MANIFEST_DIR"), "/scripts"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&library.stdout), "all is well\n", "{library:?}");
    let spec = concat!(env!("CARGO_MANIFEST_DIR"), "/wire-spec.md");
    let (code, out, told) = run(&["selftest", "--spec", spec]);
    assert_eq!(code, Some(0), "{out}{told}");
}

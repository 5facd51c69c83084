//! Crons on a real cluster: each slot becomes one job, while leaders are killed.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a test that meets the unexpected fails there; it watches the real clock"
)]

#[expect(dead_code, reason = "what it knows of text mode and of signals is for other tests")]
mod harness;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use harness::{Cluster, until};
use serde_json::Value;

/// A leader is killed so often, and starts again a little later; no whole seconds, so that the kills meet slots anywhere.
const KILL_EVERY: Duration = Duration::from_millis(7_700);

/// How long the cron runs; `RAFTQ_CRON_SECS` asks for more.
fn length() -> Duration {
    let asked = std::env::var("RAFTQ_CRON_SECS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(asked.unwrap_or(20))
}

/// The jobs of a queue, each an object.
fn jobs(cluster: &Cluster, queue: &str) -> Vec<Value> {
    let text = cluster.ok(&["list", "--queue", queue, "--limit", "100000", "--json"]);
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The slot that a cron's job is of: its id begins with it.
fn slot(job: &Value) -> u64 {
    u64::from_str_radix(&job["id"].as_str().unwrap()[..12], 16).unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn every_slot_becomes_one_job_while_leaders_are_killed() {
    let mut cluster = Cluster::start("crons", 3, &[]);
    cluster.ok(&["cron", "add", "beat", "* * * * * *", "--queue", "beats", "--", "true"]);
    let (start, mut kills, mut down) = (Instant::now(), 0, None);
    while start.elapsed() < length() {
        if start.elapsed() > KILL_EVERY * (kills + 1) - KILL_EVERY / 2 {
            let leader = cluster.leader();
            cluster.kill(leader);
            (kills, down) = (kills + 1, Some((leader, Instant::now())));
        }
        if let Some((node, _)) = down.take_if(|(_, at)| at.elapsed() > KILL_EVERY / 4) {
            cluster.spawn(node);
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
    if let Some((node, _)) = down {
        cluster.spawn(node);
    }
    cluster.wait_whole();
    cluster.ok(&["cron", "pause", "beat"]);
    let cron = cluster.json(&["cron", "show", "beat"]);
    let jobs = until("every job ended", || {
        let jobs = jobs(&cluster, "beats");
        jobs.iter().all(|job| job["status"] == "completed").then_some(jobs)
    });
    let slots: Vec<u64> = jobs.iter().map(slot).collect();
    println!("{kills} leaders killed, {} slots fired, {} jobs", number(&cron["fired"]), jobs.len());
    assert!(kills >= 2, "{kills} leaders were killed");
    assert_eq!(jobs.len() as u64, number(&cron["fired"]), "{cron}");
    assert_eq!(slots.iter().collect::<BTreeSet<_>>().len(), slots.len(), "a slot has two jobs");
    for pair in slots.windows(2) {
        assert_eq!(pair[1], pair[0] + 1000, "a slot between has no job");
    }
    assert_eq!(slots.last(), Some(&number(&cron["last_slot_ms"])));
    assert!(slots.len() as u64 >= length().as_secs() - 1, "{} slots", slots.len());
    assert_eq!((&cron["skipped"], &cron["last_error"]), (&0.into(), &Value::Null), "{cron}");
    // None is early, and the longest wait is that for a new leader.
    let late = jobs.iter().map(|job| number(&job["created_ms"]) - slot(job)).max().unwrap();
    println!("the latest was {late} ms late");
    assert!(late < 10_000, "a slot became a job {late} ms late");
}

#[test]
fn crons_are_added_shown_triggered_and_removed() {
    let cluster = Cluster::start("cron verbs", 1, &[]);
    let add = ["cron", "add", "nightly", "30 2 * * *", "--tz", "Europe/Berlin", "--queue", "n"];
    let add = [&add[..], &["--retries", "2", "--json", "--", "echo", "hi"]].concat();
    let added = || serde_json::from_str::<Value>(&cluster.ok(&add)).unwrap();
    let (added, again) = (added(), added());
    assert_eq!(added["created"], true);
    // 02:30 there is 00:30 or 01:30 here.
    let of_day = number(&added["next_ms"]) % 86_400_000;
    assert!([1_800_000, 5_400_000].contains(&of_day), "{added}");
    assert_eq!((&again["created"], &again["next_ms"]), (&false.into(), &added["next_ms"]));
    let other = cluster.raftq(&["cron", "add", "nightly", "@daily", "--", "true"]);
    assert_eq!(other.status.code(), Some(1), "{}", String::from_utf8_lossy(&other.stderr));
    let zone =
        cluster.raftq(&["cron", "add", "x", "@daily", "--tz", "Europe/Atlantis", "--", "true"]);
    let told = String::from_utf8_lossy(&zone.stderr).into_owned();
    assert!(told.contains("no time zone `Europe/Atlantis` is known"), "{told}");
    let id = cluster.ok(&["cron", "trigger", "nightly"]);
    assert_eq!(cluster.raftq(&["wait", id.trim()]).status.code(), Some(0));
    assert_eq!(cluster.json(&["get", id.trim()])["output"], "hi\n");
    let shown = cluster.json(&["cron", "show", "nightly"]);
    assert_eq!((&shown["last_job"], &shown["fired"]), (&id.trim().into(), &0.into()), "{shown}");
    assert_eq!(shown["options"]["retries"], 2, "{shown}");
    assert!(cluster.ok(&["cron", "list"]).contains("Europe/Berlin"));
    assert_eq!(cluster.json(&["cron", "pause", "nightly"])["next_ms"], Value::Null);
    assert!(cluster.ok(&["cron", "list"]).contains("paused"));
    assert_eq!(cluster.json(&["cron", "resume", "nightly"])["next_ms"], added["next_ms"]);
    let text = cluster.text(1, "cron\n");
    assert!(text.contains("nightly") && text.ends_with("OK\n"), "{text}");
    cluster.ok(&["cron", "remove", "nightly"]);
    for verb in ["remove", "pause", "show", "trigger"] {
        let output = cluster.raftq(&["cron", verb, "nightly"]);
        assert_eq!(output.status.code(), Some(3), "{verb}");
    }
}

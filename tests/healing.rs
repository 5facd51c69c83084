//! Real nodes whose data is damaged: they say which file, heal from their peers when told to, and a
//! majority of them stops and deletes nothing.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a test that meets the unexpected fails there; it watches the real clock"
)]

#[expect(dead_code, reason = "shared with the tests of whole clusters")]
mod harness;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use harness::{Cluster, until};
use raftq::client::blocking::Client;
use raftq::client::job::Job;
use raftq::types::JobId;

/// Small files, so that there is log before a snapshot and behind it, and little to send.
const SMALL: [&str; 8] =
    ["--segment", "64KiB", "--log-keep", "64KiB", "--snapshot-at", "128KiB", "--slots", "0"];

/// Bytes of a job that nobody takes.
const PAYLOAD_BYTES: usize = 400;

fn small(name: &str, count: usize) -> Cluster {
    let cluster = Cluster::start(name, count, &SMALL);
    // The directories must be known before one of them is damaged: an unknown one cannot be told.
    until("all directories in the log", || {
        let log = cluster.ok(&["log", "list", "--limit", "1000"]);
        log.contains(&format!("{count} directories known")).then_some(())
    });
    cluster
}

/// Submits a batch of jobs that stay.
fn fill(cluster: &Cluster, count: usize) {
    let line = serde_json::json!({"queue": "kept", "payload": "x".repeat(PAYLOAD_BYTES)});
    let batch = format!("{line}\n").repeat(count);
    let output = cluster.raftq_in(&["submit", "--batch", "-"], batch.as_bytes());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The files of a data directory whose names begin so, oldest first.
fn files(data: &Path, prefix: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(data)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(prefix))
        .collect();
    found.sort();
    found
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// What is done to a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    FlipLog,
    CutLog,
    DeleteLog,
    DeleteAllLog,
    FlipSnapshot,
    CutSnapshot,
    DeleteSnapshots,
}

const DAMAGES: [Damage; 7] = [
    Damage::FlipLog,
    Damage::CutLog,
    Damage::DeleteLog,
    Damage::DeleteAllLog,
    Damage::FlipSnapshot,
    Damage::CutSnapshot,
    Damage::DeleteSnapshots,
];

fn flip(path: &Path, at: u64) {
    let mut bytes = fs::read(path).unwrap();
    let at = usize::try_from(at).unwrap() % bytes.len();
    bytes[at] ^= 0x40;
    fs::write(path, bytes).unwrap();
}

fn cut(path: &Path, to: u64) {
    fs::File::options().write(true).open(path).unwrap().set_len(to).unwrap();
}

impl Damage {
    /// Does it; returns a word that the refusal must have. Of the log only what others follow is touched:
    /// the end of the last file may be a torn write, and cutting it off is no damage that can be seen.
    fn strike(self, data: &Path, dice: &mut fastrand::Rng) -> String {
        let logs = files(data, "log-");
        let snapshots = files(data, "snap-");
        assert!(logs.len() > 1 && !snapshots.is_empty(), "{logs:?} {snapshots:?}");
        let log = &logs[0];
        match self {
            Self::FlipLog => {
                flip(log, dice.u64(24..400));
                name(log)
            }
            Self::CutLog => {
                cut(log, dice.u64(0..400));
                name(log)
            }
            Self::DeleteLog => {
                let victim = &logs[logs.len() - 2];
                fs::remove_file(victim).unwrap();
                if logs.len() == 2 { "log".into() } else { name(victim) }
            }
            Self::DeleteAllLog => {
                logs.iter().for_each(|log| fs::remove_file(log).unwrap());
                "the log is gone".into()
            }
            Self::FlipSnapshot => {
                let newest = snapshots.last().unwrap();
                // An older one that reaches the log would do, and is no damage then.
                snapshots.iter().rev().skip(1).for_each(|old| fs::remove_file(old).unwrap());
                flip(newest, dice.u64(0..fs::metadata(newest).unwrap().len()));
                name(newest)
            }
            Self::CutSnapshot => {
                let newest = snapshots.last().unwrap();
                snapshots.iter().rev().skip(1).for_each(|old| fs::remove_file(old).unwrap());
                cut(newest, dice.u64(0..fs::metadata(newest).unwrap().len()));
                name(newest)
            }
            Self::DeleteSnapshots => {
                snapshots.iter().for_each(|path| fs::remove_file(path).unwrap());
                "no whole snapshot".into()
            }
        }
    }
}

/// Kills a node that has a snapshot and a log of more than one file: there is something to damage then.
fn kill_with_snapshot(cluster: &mut Cluster, victim: usize) {
    let data = cluster.data(victim);
    until("a snapshot on the disk", || {
        let is_there = files(&data, "log-").len() > 1 && !files(&data, "snap-").is_empty();
        is_there.then_some(())
    });
    cluster.kill(victim);
}

/// Starts a node as it is; it must refuse, and say why and what to do.
fn refusal(cluster: &Cluster, id: usize) -> String {
    let output = cluster.node_command(id).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "node {id} starts on damaged data: {told}");
    told
}

/// Waits until a node is whole and ready.
fn wait_healed(cluster: &Cluster, id: usize) {
    until("healed", || {
        let log = cluster.log(id);
        assert!(!log.contains("this node stops"), "{log}");
        // A node that heals is not ready.
        let ready = cluster.raftq(&["--addrs", cluster.addr(id), "cluster", "ready"]);
        ready.status.success().then_some(())
    });
}

fn others(cluster: &Cluster, id: usize) -> Vec<usize> {
    cluster.ids().into_iter().filter(|other| *other != id).collect()
}

/// Returns every file below a directory with what is in it.
fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for prefix in ["log-", "snap-"] {
        for path in files(dir, prefix) {
            found.insert(name(&path), fs::read(&path).unwrap());
        }
    }
    found
}

#[test]
fn damaged_node_names_the_file_heals_and_votes_again() {
    let mut cluster = small("damage", 3);
    let mut dice = fastrand::Rng::with_seed(7);
    fill(&cluster, 1000);
    for (number, damage) in DAMAGES.into_iter().enumerate() {
        let victim = number % 3 + 1;
        fill(&cluster, 400);
        cluster.wait_whole();
        kill_with_snapshot(&mut cluster, victim);
        let word = damage.strike(&cluster.data(victim), &mut dice);
        let told = refusal(&cluster, victim);
        for word in [word.as_str(), "--heal", "raftq doctor --data", "must not vote"] {
            let is_there = told.contains(word) || (word == "must not vote" && told.contains("log"));
            assert!(is_there, "{damage:?}: {word}: {told}");
        }
        let before = contents(&cluster.data(victim));
        cluster.spawn_with(victim, &["--heal"]);
        wait_healed(&cluster, victim);
        // What was damaged is all there.
        let asides = files(&cluster.data(victim), "damaged-");
        assert_eq!(contents(asides.last().unwrap()), before, "{damage:?}");
        // With it, and without another one, the cluster goes on: it votes, and it is counted.
        let rest = others(&cluster, victim);
        let leader = cluster.leader();
        let dead = if rest.contains(&leader) { leader } else { rest[0] };
        cluster.kill(dead);
        fill(&cluster, 130);
        cluster.spawn(dead);
        cluster.wait_whole();
        fill(&cluster, 70);
        for _ in 0..70 {
            cluster.ok(&["submit", "--queue", "kept", "--payload", "x"]);
        }
        cluster.wait_digests(0);
    }
    // Given once more, where nothing is damaged, the flag does nothing.
    cluster.stop(1);
    cluster.spawn_with(1, &["--heal"]);
    cluster.wait_whole();
    until("a word that nothing is damaged", || {
        cluster.log(1).contains("--heal: nothing is damaged").then_some(())
    });
}

#[test]
fn damaged_identity_is_named_and_cannot_be_healed() {
    let mut cluster = small("identity damage", 3);
    cluster.kill(2);
    cut(&cluster.data(2).join("identity"), 30);
    let told = refusal(&cluster, 2);
    assert!(told.contains("identity is damaged") && told.contains("cannot be healed"), "{told}");
    let output = cluster.node_command(2).arg("--heal").output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("cannot be healed"), "{told}");
    assert!(files(&cluster.data(2), "damaged-").is_empty());
    cluster.ok(&["submit", "--queue", "kept", "--payload", "x"]);
}

#[test]
fn majority_that_is_damaged_stops_says_so_and_deletes_nothing() {
    let mut cluster = small("majority damage", 3);
    let mut dice = fastrand::Rng::with_seed(3);
    fill(&cluster, 1500);
    cluster.wait_whole();
    let whole = cluster.leader();
    let damaged = others(&cluster, whole);
    cluster.ids().into_iter().for_each(|id| kill_with_snapshot(&mut cluster, id));
    let mut before = BTreeMap::new();
    for id in &damaged {
        Damage::FlipLog.strike(&cluster.data(*id), &mut dice);
        before.insert(*id, contents(&cluster.data(*id)));
    }
    let begun = Instant::now();
    cluster.spawn(whole);
    damaged.iter().for_each(|id| cluster.spawn_with(*id, &["--heal"]));
    // It waits for a minute that the others might come.
    let ended = |cluster: &Cluster, id: usize| cluster.log(id).contains("cannot heal");
    while !damaged.iter().all(|id| ended(&cluster, *id)) {
        assert!(begun.elapsed() < Duration::from_secs(100), "it waits for ever");
        assert!(cluster.status().is_none(), "one whole node and two that heal elect nobody");
        std::thread::park_timeout(Duration::from_millis(500));
    }
    assert!(begun.elapsed() > Duration::from_secs(50), "no patience");
    for id in &damaged {
        assert_eq!(cluster.wait_end(*id), Some(1));
        let log = cluster.log(*id);
        for word in ["of the 2 other nodes 1 answer", "2 are needed", "majority", "damaged-"] {
            assert!(log.contains(word), "{word}: {log}");
        }
        let asides = files(&cluster.data(*id), "damaged-");
        assert_eq!(contents(&asides[0]), before[id]);
        // Not told again, it goes on healing, and still has no vote.
        cluster.spawn(*id);
    }
    let until_then = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until_then {
        assert!(cluster.status().is_none());
    }
}

/// Submits jobs until told to stop; keeps the ids of those that were acknowledged.
fn load(addrs: &str, stop: &Arc<AtomicBool>) -> std::thread::JoinHandle<Vec<JobId>> {
    let seeds: Vec<String> = addrs.split(',').map(ToString::to_string).collect();
    let stop = Arc::clone(stop);
    std::thread::spawn(move || {
        let client = Client::builder().seeds(seeds).build().unwrap();
        let mut acknowledged = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let job = Job::payload("kept", "x".repeat(PAYLOAD_BYTES));
            match client.submit(job) {
                Ok(submitted) => acknowledged.push(submitted.id),
                Err(error) => eprintln!("a submit without an answer: {error}"),
            }
        }
        acknowledged
    })
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Damages a minority of a live cluster under load again and again: `scripts/damage.sh` runs it for long.
#[test]
fn minority_damaged_under_load_loses_no_acknowledged_job() {
    let cycles = number("RAFTQ_DAMAGE_CYCLES", 5);
    let first = number("RAFTQ_DAMAGE_FIRST", 1);
    let nodes = usize::try_from(number("RAFTQ_DAMAGE_NODES", 3)).unwrap();
    let mut cluster = small("damage cycles", nodes);
    fill(&cluster, 1500);
    let stop = Arc::new(AtomicBool::new(false));
    let loads = [load(&cluster.addrs(), &stop), load(&cluster.addrs(), &stop)];
    let begun = Instant::now();
    for cycle in first..first + cycles {
        let mut dice = fastrand::Rng::with_seed(cycle);
        let minority = dice.usize(1..=(nodes - 1) / 2);
        let mut victims = cluster.ids();
        dice.shuffle(&mut victims);
        victims.truncate(minority);
        let started = Instant::now();
        let mut told = Vec::new();
        for victim in &victims {
            kill_with_snapshot(&mut cluster, *victim);
            let damage = DAMAGES[dice.usize(0..DAMAGES.len())];
            told.push(format!("node {victim}: {damage:?}"));
            damage.strike(&cluster.data(*victim), &mut dice);
        }
        for victim in &victims {
            refusal(&cluster, *victim);
            cluster.spawn_with(*victim, &["--heal"]);
        }
        // Now and then it is killed in the middle, and goes on without being told.
        if dice.bool() {
            std::thread::park_timeout(Duration::from_millis(dice.u64(0..600)));
            cluster.kill(victims[0]);
            // Killed before its mark was written it still is what it was: damaged, and to be told.
            cluster.spawn_with(victims[0], &["--heal"]);
        }
        victims.iter().for_each(|victim| wait_healed(&cluster, *victim));
        cluster.wait_whole();
        for victim in &victims {
            for aside in files(&cluster.data(*victim), "damaged-") {
                assert!(!contents(&aside).is_empty() || told.iter().any(|t| t.contains("Delete")));
                fs::remove_dir_all(aside).unwrap();
            }
        }
        println!("cycle {cycle}: {} healed in {:?}", told.join(", "), started.elapsed());
        std::io::stdout().flush().unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    let acknowledged: Vec<JobId> =
        loads.into_iter().flat_map(|load| load.join().expect("the load ends")).collect();
    assert!(!acknowledged.is_empty());
    let seeds: Vec<String> = cluster.addrs().split(',').map(ToString::to_string).collect();
    let client = Client::builder().seeds(seeds).build().unwrap();
    for id in &acknowledged {
        client.get(*id).unwrap_or_else(|error| panic!("acknowledged, and lost: {id}: {error}"));
    }
    for _ in 0..70 {
        cluster.ok(&["submit", "--queue", "kept", "--payload", "x"]);
    }
    cluster.wait_digests(0);
    println!(
        "{cycles} cycles on {nodes} nodes in {:?}: {} jobs acknowledged, none lost, digests equal",
        begun.elapsed(),
        acknowledged.len()
    );
}

//! A real cluster under every kind of nuisance at once, while good clients go on as if nothing were.
//!
//! A slice takes a quarter of a minute; `scripts/hostile.sh` runs it in full: a million malformed frames and ten
//! thousand idle connections (`RAFTQ_HOSTILE=full`).

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a helper that fails has to fail its test; figures are for whoever runs it"
)]

#[path = "hostile/attacks.rs"]
mod attacks;
#[expect(dead_code, reason = "shared with the other tests of real clusters, which use all of it")]
#[path = "harness/mod.rs"]
mod harness;
#[path = "hostile/machine.rs"]
mod machine;
#[path = "hostile/mutator.rs"]
mod mutator;
#[path = "hostile/raw.rs"]
mod raw;

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use harness::{Cluster, PATIENCE, until};
use raftq::client::blocking::Client;
use raftq::client::job::Job;
use raftq::types::{JobId, NodeId};

use machine::Machine;
use raw::{Guest, now};

/// Memory that a node may have more afterwards than before, in KiB.
const GROWTH_KB: u64 = 32 << 10;

/// And for each connection that was idle, in KiB: the allocator does not give everything back that was taken in
/// small pieces, and has it for those who come next.
const GROWTH_IDLE_KB: u64 = 40;

/// What a node may take more for as many idle connections again, in KiB, and for each of them: were those of
/// before not freed, each would take some 20 again.
const AGAIN_KB: u64 = 8 << 10;
const AGAIN_IDLE_KB: u64 = 6;

/// How much of everything.
struct Size {
    frames: u32,
    broken: u32,
    foreign: u32,
    silent: u32,
    slow: u32,
    readers: u32,
    idle: usize,
    peers: u32,
    is_full: bool,
}

fn size() -> Size {
    if std::env::var("RAFTQ_HOSTILE").is_ok_and(|it| it == "full") {
        return Size {
            frames: 1_000_000,
            broken: 20_000,
            foreign: 5000,
            silent: 2000,
            slow: 300,
            readers: 40,
            idle: 10_000,
            peers: 5000,
            is_full: true,
        };
    }
    Size {
        frames: 20_000,
        broken: 600,
        foreign: 200,
        silent: 200,
        slow: 60,
        readers: 8,
        idle: 500,
        peers: 200,
        is_full: false,
    }
}

/// What a node holds of this machine.
#[derive(Clone, Copy, Debug)]
struct Holds {
    resident_kb: u64,
    descriptors: usize,
}

fn holds(pid: u32) -> Holds {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the node lives");
    let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("a line of memory");
    let resident_kb = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("the node lives").count();
    Holds { resident_kb, descriptors }
}

/// Waits until a node holds about what it held before.
fn until_given_back(pid: u32, before: &Holds, idle: usize) {
    let since = now();
    let growth_kb = GROWTH_KB + GROWTH_IDLE_KB * u64::try_from(idle).unwrap();
    loop {
        let after = holds(pid);
        if after.resident_kb < before.resident_kb + growth_kb
            && after.descriptors <= before.descriptors + 4
        {
            return;
        }
        assert!(since.elapsed() < PATIENCE, "not given back within {PATIENCE:?}: {after:?}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// What good clients have done so far.
#[derive(Default)]
struct Good {
    micros: Mutex<Vec<u64>>,
    failures: Mutex<Vec<String>>,
}

impl Good {
    /// Submits, looks and cancels, over and over.
    fn work(&self, addrs: &str, stop: &AtomicBool) {
        let client = Client::builder().seeds(addrs.split(',')).build().expect("addresses");
        while !stop.load(Ordering::Relaxed) {
            let since = now();
            let worked =
                client.submit(Job::payload("nobody", &b"good"[..])).and_then(|submitted| {
                    let micros = u64::try_from(since.elapsed().as_micros()).unwrap();
                    self.micros.lock().unwrap().push(micros);
                    client.get(submitted.id)?;
                    client.cancel(&[submitted.id])
                });
            match worked {
                Ok(results) if results.iter().all(Result::is_ok) => {}
                other => self.failures.lock().unwrap().push(format!("{other:?}")),
            }
        }
        client.close();
    }

    fn report(&self) {
        let mut micros = self.micros.lock().unwrap().clone();
        micros.sort_unstable();
        let at = |part: usize| micros[(micros.len() - 1) * part / 1000] / 1000;
        println!(
            "good submits: {}, p50 {} ms, p99 {} ms, p99.9 {} ms, longest {} ms",
            micros.len(),
            at(500),
            at(990),
            at(999),
            at(1000)
        );
    }
}

/// Stops the good clients, also when an attack has failed and its test unwinds.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The bodies of all vectors and seeds of the wire, to be changed.
fn bodies() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus/request");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|it| it.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap().split_off(2)).collect()
}

/// Jobs that make answers long: many, and some of many bytes.
fn fill(client: &Client) -> Vec<JobId> {
    for _ in 0..16 {
        let jobs = (0..125).map(|_| Job::payload("nobody", &b"one of many"[..]));
        assert!(client.submit_batch(jobs).expect("taken").iter().all(Result::is_ok));
    }
    let large = || client.submit(Job::payload("nobody", vec![7; 512 << 10])).expect("taken").id;
    (0..8).map(|_| large()).collect()
}

#[test]
fn nuisances_of_every_kind_harm_no_good_client_and_leave_nothing_behind() {
    let (size, machine) = (size(), Machine::watched());
    // What is kept for those who watch grows to its bound, and would be taken for what the attacks leave.
    let flags = ["--slots", "0", "--finished-keep", "200", "--history", "64KiB"];
    let cluster = Cluster::start("hostile", 3, &flags);
    let client = Client::builder().seeds(cluster.addrs().split(',')).build().unwrap();
    let large = fill(&client);
    let leader = cluster.leader();
    let followers: Vec<usize> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    let (stop, good) = (AtomicBool::new(false), Good::default());
    thread::scope(|scope| {
        let stopping = Stop(&stop);
        for _ in 0..2 {
            scope.spawn(|| good.work(&cluster.addrs(), &stop));
        }
        // Memory before is that of a node at work.
        until("the good clients are at work", || {
            (good.micros.lock().unwrap().len() > 300).then_some(())
        });
        let term = cluster.status().expect("a leader")["term"].clone();
        let before: Vec<Holds> = cluster.ids().iter().map(|id| holds(cluster.pid(*id))).collect();
        let attacked = attack(&cluster, leader, &followers, &size, &large);
        drop(stopping);
        let peak: Vec<Holds> = cluster.ids().iter().map(|id| holds(cluster.pid(*id))).collect();
        for (id, before) in cluster.ids().into_iter().zip(&before) {
            let peak = peak[id - 1];
            println!("node {id}: {before:?} before, {peak:?} at the end of the attacks");
            let idle = if id == leader { size.idle } else { 0 };
            until_given_back(cluster.pid(id), before, idle);
            println!("node {id}: {:?} after", holds(cluster.pid(id)));
        }
        let pid = cluster.pid(leader);
        let freed = holds(pid);
        let idle = attacks::idlers(cluster.addr(leader), size.idle);
        let again = holds(pid);
        println!("node {leader}: {again:?} with {} idle connections again", idle.len());
        let more_kb = AGAIN_KB + AGAIN_IDLE_KB * u64::try_from(size.idle).unwrap();
        assert!(again.resident_kb < freed.resident_kb + more_kb, "{freed:?}, then {again:?}");
        drop(idle);
        let status = cluster.status().expect("a leader");
        machine.elected_nobody(status["term"] == term);
        println!("{attacked}");
    });
    good.report();
    let failures = good.failures.lock().unwrap();
    assert!(failures.is_empty(), "{} failures: {:?}", failures.len(), failures.first());
    client.submit(Job::payload("nobody", &b"after all"[..])).expect("all is well");
    client.close();
}

/// Runs all attacks side by side, and says how many of each there were.
fn attack(
    cluster: &Cluster,
    leader: usize,
    followers: &[usize],
    size: &Size,
    large: &[JobId],
) -> String {
    let (at, other) = (cluster.addr(leader), cluster.addr(followers[0]));
    let bodies = bodies();
    let idle = attacks::idlers(at, size.idle);
    let peers_crc = crc32fast::hash(cluster.peers().as_bytes());
    // A follower hears nothing from the other one but votes: to come in its name disturbs nobody.
    let from = u64::try_from(followers[1]).unwrap();
    let to = u64::try_from(followers[0]).unwrap();
    let welcome = Guest::client(cluster.addr(followers[1])).welcome;
    assert_eq!(welcome.node, NodeId(from));
    let half = size.frames / 2;
    let counted = thread::scope(|scope| {
        let runs = [
            ("malformed frames", scope.spawn(|| attacks::nonsense(at, half, &bodies))),
            (
                "malformed frames to a follower",
                scope.spawn(|| attacks::nonsense(other, half, &bodies)),
            ),
            ("broken streams", scope.spawn(|| attacks::broken_streams(at, size.broken))),
            ("other protocols", scope.spawn(|| attacks::foreign_protocols(at, size.foreign))),
            ("silent connections", scope.spawn(|| attacks::silence(at, size.silent))),
            ("slow senders", scope.spawn(|| attacks::slow_senders(at, size.slow, size.is_full))),
            (
                "readers that never read",
                scope.spawn(|| attacks::readers_that_never_read(at, size.readers, large)),
            ),
            (
                "bad peers",
                scope.spawn(|| {
                    attacks::bad_peers(other, to, (from, welcome.dir), peers_crc, size.peers)
                }),
            ),
        ];
        runs.map(|(what, run)| {
            format!("{what}: {}", run.join().expect("the attack ended as it must"))
        })
    });
    format!("{}, idle connections: {}", counted.join(", "), idle.len())
}

//! Three times as many submits as a cluster can take, under a limit on each node's memory: refusals, not
//! deaths; no election; nothing acknowledged lost; and an ordinary submit works within 5 s afterwards.
//!
//! The slice that `cargo test` runs takes some twenty seconds; `scripts/overload.sh` sets
//! `RAFTQ_OVERLOAD_SECS`.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a helper that fails has to fail its test; figures are for whoever runs it"
)]

#[expect(dead_code, reason = "shared with the other tests of real clusters, which use all of it")]
#[path = "harness/mod.rs"]
mod harness;
#[path = "hostile/limit.rs"]
mod limit;
#[path = "hostile/machine.rs"]
mod machine;
#[expect(dead_code, reason = "shared with the attacks on a node, which use all of it")]
#[path = "hostile/raw.rs"]
mod raw;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use harness::Cluster;
use raftq::client::blocking::Client;
use raftq::client::job::{Job, new_id};
use raftq::jobs::job::{Body, NewJob, Status};
use raftq::types::{JobId, QueueName};
use raftq::wire::message::{Reply, Request};

use limit::Limited;
use machine::Machine;
use raw::{Guest, encoded, now};

/// Memory that each node may take.
const NODE_BYTES_MAX: u64 = 512 << 20;

/// Connections that submit.
const CONNECTIONS: usize = 8;

/// Bytes of each payload.
const PAYLOAD_BYTES: usize = 256;

/// Requests in flight on one connection while the capacity is measured.
const CLOSED_LOOP: usize = 64;

/// Offered work is sent in slices of this length.
const SLICE: Duration = Duration::from_millis(5);

/// So soon an ordinary submit must work again.
const RECOVERED: Duration = Duration::from_secs(5);

fn overload_secs() -> u64 {
    std::env::var("RAFTQ_OVERLOAD_SECS").ok().and_then(|it| it.parse().ok()).unwrap_or(12)
}

fn submit(corr: u32) -> (JobId, Vec<u8>) {
    let body = Body::Payload(Bytes::from_static(&[9; PAYLOAD_BYTES]));
    let job =
        NewJob { id: new_id(), queue: QueueName::new("nobody").unwrap(), body, options: None };
    (job.id, encoded(&Request::SubmitJob(job).to_frame(corr)))
}

/// What came back.
#[derive(Default)]
struct Told {
    acknowledged: u64,
    refused: BTreeMap<&'static str, u64>,
}

impl Told {
    fn add(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        for (code, count) in other.refused {
            *self.refused.entry(code).or_default() += count;
        }
    }
}

/// Reads replies until `sent` says that all have come, and passes acknowledged ids on.
fn hear(
    mut guest: Guest,
    acks: &Sender<JobId>,
    in_flight: &AtomicUsize,
    stop: &AtomicBool,
) -> Told {
    let mut told = Told::default();
    loop {
        if stop.load(Ordering::SeqCst) && in_flight.load(Ordering::SeqCst) == 0 {
            return told;
        }
        let (_, reply) = guest.reply().expect("the node answers everything, and closes nothing");
        in_flight.fetch_sub(1, Ordering::SeqCst);
        match reply {
            Reply::Submitted(submitted) => {
                told.acknowledged += 1;
                acks.send(submitted.id).unwrap();
            }
            Reply::Refused(no) => {
                *told.refused.entry(no.code.as_str()).or_default() += 1;
            }
            Reply::Pong => {}
            other => panic!("a submit was answered with {other:?}"),
        }
    }
}

/// Submits through every connection for some time: as fast as answers come, or `per_s` whatever comes.
fn load(addr: &str, time: Duration, per_s: Option<u64>, acks: &Sender<JobId>) -> (u64, Told) {
    let mut offered = 0;
    let mut told = Told::default();
    thread::scope(|scope| {
        let runs: Vec<_> = (0..CONNECTIONS)
            .map(|_| scope.spawn(|| one_connection(addr, time, per_s, acks)))
            .collect();
        for run in runs {
            let (sent, heard) = run.join().expect("the load ran");
            offered += sent;
            told.add(heard);
        }
    });
    (offered, told)
}

fn one_connection(
    addr: &str,
    time: Duration,
    per_s: Option<u64>,
    acks: &Sender<JobId>,
) -> (u64, Told) {
    let guest = Guest::client(addr);
    let mut stream = guest.stream.try_clone().unwrap();
    let (in_flight, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let hearing = scope.spawn(|| hear(guest, acks, &in_flight, &stop));
        let (start, mut sent) = (now(), 0_u64);
        while start.elapsed() < time {
            let due = match per_s {
                Some(per_s) => due(start, per_s / CONNECTIONS as u64).saturating_sub(sent),
                None => (CLOSED_LOOP.saturating_sub(in_flight.load(Ordering::SeqCst))) as u64,
            };
            let mut bytes = Vec::new();
            for _ in 0..due.min(4096) {
                bytes.extend(submit(u32::try_from(sent % (1 << 31)).unwrap()).1);
                in_flight.fetch_add(1, Ordering::SeqCst);
                sent += 1;
            }
            stream.write_all(&bytes).expect("the node reads in time");
            thread::sleep(if per_s.is_some() { SLICE } else { SLICE / 5 });
        }
        // One more answer wakes the one who reads, if all have come before it was told to stop.
        in_flight.fetch_add(1, Ordering::SeqCst);
        stop.store(true, Ordering::SeqCst);
        stream.write_all(&encoded(&Request::Ping.to_frame(u32::MAX))).unwrap();
        (sent, hearing.join().expect("all was answered"))
    })
}

fn due(start: Instant, per_s: u64) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap() * per_s / 1000
}

/// Cancels every acknowledged job, which makes room for others and shows that it was kept. Returns how
/// many there were.
fn drain(addrs: &str, acks: &Receiver<JobId>) -> u64 {
    let client = Client::builder().seeds(addrs.split(',')).build().unwrap();
    let mut kept = 0;
    while let Ok(first) = acks.recv() {
        let ids: Vec<JobId> = std::iter::once(first).chain(acks.try_iter().take(999)).collect();
        // The drain is a client like any other: it is refused, too, and asks again.
        let since = now();
        let results = loop {
            match client.cancel(&ids) {
                Ok(results) if results.iter().all(|it| *it == Ok(Status::Cancelled)) => {
                    break results;
                }
                Ok(results) => {
                    let bad = results.iter().find(|it| **it != Ok(Status::Cancelled));
                    panic!("an acknowledged job is gone: {bad:?}");
                }
                Err(error) => {
                    assert!(since.elapsed() < Duration::from_secs(120), "no cancel: {error}");
                }
            }
        };
        kept += results.len() as u64;
    }
    client.close();
    kept
}

#[test]
fn three_times_the_capacity_is_refused_and_kills_nobody() {
    let machine = Machine::watched();
    let flags = ["--slots", "0", "--resident-max", "160MiB", "--finished-bytes", "64MiB"];
    let cluster = Cluster::start("overload", 3, &flags);
    let limits: Vec<Limited> =
        cluster.ids().into_iter().map(|id| Limited::new(cluster.pid(id), NODE_BYTES_MAX)).collect();
    println!("each node has {} MiB: {}", NODE_BYTES_MAX >> 20, limits.first().unwrap().how());
    let leader = cluster.leader();
    let term = cluster.status().unwrap()["term"].clone();
    let addr = cluster.addr(leader);
    let (acks, acknowledged) = channel();
    let kept = thread::scope(|scope| {
        let addrs = cluster.addrs();
        let draining = scope.spawn(move || drain(&addrs, &acknowledged));
        let measured = Duration::from_secs(4);
        let (_, told) = load(addr, measured, None, &acks);
        let capacity = told.acknowledged / measured.as_secs();
        let mut total = told.acknowledged;
        println!("capacity: {capacity} acknowledged submits/s in a closed loop");
        let time = Duration::from_secs(overload_secs());
        let (offered, told) = load(addr, time, Some(3 * capacity), &acks);
        let stopped = now();
        let client = Client::builder().seeds(cluster.addrs().split(',')).build().unwrap();
        let ordinary = client.submit(Job::payload("nobody", &b"after all"[..]));
        let recovered = stopped.elapsed();
        println!(
            "overload: {} submits/s offered for {time:?}, {} acknowledged/s, refused {:?}; an ordinary \
             submit worked {recovered:?} after it",
            offered / time.as_secs(),
            told.acknowledged / time.as_secs(),
            told.refused
        );
        ordinary.expect("an ordinary submit works afterwards");
        client.close();
        assert!(recovered < RECOVERED, "{recovered:?}");
        assert!(told.acknowledged > 0, "overloaded, and nothing was taken");
        let others = told.refused.keys().any(|code| ["NOT_LEADER", "UNAVAILABLE"].contains(code));
        // Who has lost its leader refuses for another reason.
        if machine.elected_nobody(!others) {
            assert!(
                told.refused.contains_key("RESOURCE_EXHAUSTED"),
                "three times too much, and no refusal"
            );
        }
        total += told.acknowledged;
        drop(acks);
        (draining.join().expect("every acknowledged job is there"), total)
    });
    assert_eq!(kept.0, kept.1, "kept, acknowledged");
    println!("{} jobs were acknowledged, and all of them kept", kept.0);
    for (id, limit) in cluster.ids().into_iter().zip(&limits) {
        println!("node {id}: {}", limit.used(cluster.pid(id)));
    }
    cluster.wait_whole();
    machine.elected_nobody(cluster.status().unwrap()["term"] == term);
}

//! The whole queue on trial: many jobs of every kind over ten queues, leaders killed meanwhile, and the watched history
//! judged by a checker that knows nothing but that history.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::wildcard_enum_match_arm,
    unreachable_pub,
    reason = "a test that meets the unexpected fails there; it watches the real clock"
)]

#[path = "trial/checker.rs"]
mod checker;
#[expect(dead_code, reason = "shared with the tests of whole clusters")]
mod harness;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use checker::Checker;
use futures::FutureExt as _;
use harness::{Cluster, until};
use raftq::client::blocking::{Client, run_worker};
use raftq::client::context::Context;
use raftq::client::job::{Job, new_id};
use raftq::client::watch::From;
use raftq::client::worker::Worker;
use raftq::jobs::change::{Event, What};
use raftq::jobs::job::Status;
use raftq::jobs::rules::QueueChange;
use raftq::replica::history::CHANGES_PER_ANSWER_MAX;
use raftq::types::{JobId, QueueName, UniqueKey};

const QUEUES: usize = 10;
const WORKERS: u64 = 5;
const SLOTS: u32 = 16;
const BATCH: usize = 100;

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// How a job has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Completed,
    /// After so many retries.
    Failed(u32),
    /// Somebody cancelled it, or tried to.
    MaybeCancelled,
    Cancelled,
    /// Nobody knows whether it was taken.
    MaybeTaken,
}

/// Draws a job, and says how it has to end.
fn draw(dice: &mut fastrand::Rng) -> (JobId, Job, Expected) {
    let queue = format!("q{}", dice.usize(..QUEUES));
    let retries = dice.u32(0..3);
    let (payload, retries, expected) = match dice.u32(0..20) {
        0 => ("bad", retries, Expected::Failed(retries)),
        1 | 2 => ("flaky", 3, Expected::Completed),
        3 => ("slow", 0, Expected::Completed),
        _ => ("ok", 0, Expected::Completed),
    };
    let id = new_id();
    let mut job = Job::payload(queue, payload).id(id).retries(retries);
    job = job.backoff(Duration::from_millis(20), Duration::from_millis(200));
    if dice.bool() {
        job = job.priority(dice.u8(0..=9));
    }
    if dice.u32(0..10) == 0 {
        job = job.delay(Duration::from_millis(dice.u64(0..2000)));
    }
    if dice.u32(0..20) == 0 {
        let key = UniqueKey::new(&format!("key {}", dice.u32(0..5))).unwrap();
        job = job.unique(key);
    }
    (id, job, expected)
}

/// What the workers see: no job is in two hands at once.
#[derive(Default)]
struct Hands {
    held: Mutex<BTreeMap<JobId, Context>>,
    faults: Mutex<Vec<String>>,
    runs: AtomicU64,
}

impl Hands {
    fn handle(&self, context: &Context, payload: &[u8]) -> Result<&'static str, &'static str> {
        self.runs.fetch_add(1, Ordering::Relaxed);
        let former = self.held.lock().unwrap().insert(context.id(), context.clone());
        if let Some(former) = former.filter(|former| !former.is_abandoned()) {
            let fault =
                format!("{} runs under {} and {}", context.id(), former.fence(), context.fence());
            self.faults.lock().unwrap().push(fault);
        }
        if payload == b"slow" {
            std::thread::park_timeout(Duration::from_millis(30));
        }
        let mut held = self.held.lock().unwrap();
        if held.get(&context.id()).is_some_and(|holder| holder.fence() == context.fence()) {
            held.remove(&context.id());
        }
        match payload {
            b"bad" => Err("it is bad"),
            b"flaky" if context.attempt() == 1 => Err("not the first time"),
            _ => Ok("done"),
        }
    }
}

fn work(
    seeds: &[String],
    name: String,
    hands: &Arc<Hands>,
    stop: async_std::channel::Receiver<()>,
) {
    let client = raftq::client::client::Client::builder().seeds(seeds.to_vec()).build().unwrap();
    let mut worker = Worker::new(&client).name(name).slots(SLOTS);
    for queue in 0..QUEUES {
        let hands = Arc::clone(hands);
        worker = worker.queue_blocking(format!("q{queue}"), move |context, payload| {
            hands.handle(&context, &payload)
        });
    }
    run_worker(worker, async move { stop.recv().map(|_closed| ()).await }).unwrap();
}

#[test]
fn history_of_many_jobs_of_every_kind_across_dead_leaders_keeps_every_promise() {
    let jobs = usize::try_from(number("RAFTQ_TRIAL_JOBS", 4_000)).unwrap();
    let gap = Duration::from_millis(number("RAFTQ_TRIAL_KILL_MS", 1_500));
    let mut cluster = Cluster::start("trial", 5, &["--slots", "0", "--history", "256MiB"]);
    let seeds: Vec<String> = cluster.addrs().split(',').map(String::from).collect();
    let client = Client::builder().seeds(seeds.clone()).build().unwrap();
    for (queue, limit) in [("q0", 3), ("q1", 3), ("q2", 1)] {
        let queue = QueueName::new(queue).unwrap();
        client.change_queue(queue, QueueChange::Limit(Some(limit))).unwrap();
    }

    let hands = Arc::new(Hands::default());
    let (stop_workers, stopped) = async_std::channel::bounded::<()>(1);
    let workers: Vec<_> = (1..=WORKERS)
        .map(|n| {
            let (seeds, hands, stopped) = (seeds.clone(), Arc::clone(&hands), stopped.clone());
            std::thread::spawn(move || work(&seeds, format!("w{n}"), &hands, stopped))
        })
        .collect();

    let watching = client.clone();
    let watcher = std::thread::spawn(move || {
        let mut watcher = watching.watch(From::Oldest);
        let mut events: Vec<Event> = Vec::new();
        while !events.iter().rev().take(CHANGES_PER_ANSWER_MAX).any(is_mark) {
            events.extend(watcher.next().unwrap());
        }
        events
    });

    let is_submitted = Arc::new(AtomicBool::new(false));
    let (submitting, told) = (client.clone(), Arc::clone(&is_submitted));
    let submitter = std::thread::spawn(move || {
        let expected = submit(&submitting, jobs);
        told.store(true, Ordering::Release);
        expected
    });
    let (mut kills, begun) = (0, Instant::now());
    while !is_submitted.load(Ordering::Acquire) || kills < 2 {
        std::thread::park_timeout(gap);
        let leader = cluster.leader();
        cluster.kill(leader);
        kills += 1;
        std::thread::park_timeout(Duration::from_millis(300));
        cluster.spawn(leader);
        cluster.wait_whole();
    }
    let expected = submitter.join().unwrap();
    let mut left = u64::MAX;
    while left > 0 {
        // A queue of one at a time takes its time; it gets on all the same.
        left = until("fewer jobs that have not ended", || {
            let queues = client.queues().ok()?;
            let open = queues.iter().map(|queue| queue.pending + queue.running).sum();
            (open < left).then_some(open)
        });
    }
    let took = begun.elapsed();
    // The last that the watcher is to see.
    client.change_queue(QueueName::new("mark").unwrap(), QueueChange::Limit(Some(1))).unwrap();
    let events = watcher.join().unwrap();
    drop(stop_workers);
    workers.into_iter().for_each(|worker| worker.join().unwrap());

    let mut checker = Checker::default();
    events.iter().for_each(|event| checker.take(event));
    judge(&checker, &expected);
    let faults = hands.faults.lock().unwrap();
    assert!(faults.is_empty(), "{} in two hands: {:?}", faults.len(), &faults[..1]);
    assert!(checker.limited > 0 && checker.queues() == QUEUES, "{checker:?}");
    println!(
        "{} jobs over {} queues, {kills} leaders killed, {} changes watched, {} assignments looked at ({} of limited \
         queues), {} handlers run, in {took:.1?}: no promise broken",
        expected.len(),
        checker.queues(),
        events.len(),
        checker.assignments,
        checker.limited,
        hands.runs.load(Ordering::Relaxed)
    );
}

fn is_mark(event: &Event) -> bool {
    event.change.queue.as_ref().is_some_and(|queue| queue.as_str() == "mark")
}

/// Submits jobs in batches and cancels some; returns how each job that was made has to end.
fn submit(client: &Client, jobs: usize) -> BTreeMap<JobId, Expected> {
    let mut dice = fastrand::Rng::with_seed(7);
    let mut expected = BTreeMap::new();
    let mut left = jobs;
    while left > 0 {
        let batch: Vec<_> = (0..left.min(BATCH)).map(|_| draw(&mut dice)).collect();
        left -= batch.len();
        let results = client.submit_batch(batch.iter().map(|(_, job, _)| job.clone())).unwrap();
        for ((id, _, ends), result) in batch.iter().zip(results) {
            match result {
                Ok(submitted) if submitted.id == *id => expected.insert(*id, *ends),
                // Another one has its key.
                Ok(_) => None,
                Err(refusal) if refusal.unknown => expected.insert(*id, Expected::MaybeTaken),
                Err(refusal) => panic!("{refusal}"),
            };
        }
        let victims: Vec<JobId> =
            batch.iter().map(|(id, ..)| *id).filter(|_| dice.u32(0..40) == 0).collect();
        let Ok(results) = client.cancel(&victims) else {
            victims.iter().for_each(|id| _ = maybe(&mut expected, *id, Expected::MaybeCancelled));
            continue;
        };
        for (id, result) in victims.into_iter().zip(results) {
            if result == Ok(Status::Cancelled) {
                maybe(&mut expected, id, Expected::Cancelled);
            }
        }
    }
    expected
}

fn maybe(expected: &mut BTreeMap<JobId, Expected>, id: JobId, ends: Expected) -> Option<Expected> {
    expected.get_mut(&id).map(|place| std::mem::replace(place, ends))
}

fn judge(checker: &Checker, expected: &BTreeMap<JobId, Expected>) {
    assert!(
        checker.faults.is_empty(),
        "{} faults, the first: {:#?}",
        checker.faults.len(),
        &checker.faults[..checker.faults.len().min(5)]
    );
    let (submitted, open) = checker.open();
    assert!(open.is_empty(), "{} have not ended: {:?}", open.len(), &open[..1]);
    for (id, ends) in expected {
        let Some((ended, _, failures)) = checker.end_of(*id) else {
            assert_eq!(*ends, Expected::MaybeTaken, "job {id} was acknowledged, and never was");
            continue;
        };
        let ended = ended.unwrap();
        match ends {
            Expected::Completed => assert_eq!(ended, What::Completed, "job {id}"),
            Expected::Failed(retries) => {
                assert_eq!((ended, failures), (What::Failed, *retries), "job {id}");
            }
            Expected::Cancelled => assert_eq!(ended, What::Cancelled, "job {id}"),
            Expected::MaybeCancelled | Expected::MaybeTaken => {}
        }
    }
    assert!(submitted <= expected.len(), "{submitted} of {} were made", expected.len());
}

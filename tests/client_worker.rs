//! The library worker over real sockets, against a cluster that a test holds in its hand.

#![expect(clippy::unwrap_used, reason = "a helper that fails has to fail its test")]
#![expect(clippy::disallowed_methods, reason = "a test's threads need no names")]
#![expect(clippy::wildcard_enum_match_arm, reason = "a script answers a few requests of many")]
#![expect(dead_code, reason = "the node of these tests can do more than each of them needs")]

mod client_node;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use async_std::future::timeout;
use async_std::task;
use bytes::Bytes;
use futures::channel::oneshot;
use raftq::client::client::Client;
use raftq::client::duty::{StopReason, StopReport, Timing};
use raftq::client::error::Error;
use raftq::client::worker::Worker;
use raftq::jobs::command::{Registration, Release, StatusUpdate};
use raftq::jobs::intake::Intake;
use raftq::jobs::job::{Assignment, Body};
use raftq::types::{Fence, Incarnation, JobId, QueueName, Term};
use raftq::wire::message::{Refusal, Reply, Request, Withdrawn};

use client_node::{LONG, Line, Node, hint};

/// What the nodes of one cluster know together.
#[derive(Default)]
struct Known {
    registrations: Vec<Registration>,
    heartbeats: usize,
    draining: bool,
    /// Jobs given to the present start, and not yet reported.
    assigned: BTreeMap<Fence, Assignment>,
    updates: Vec<StatusUpdate>,
    releases: Vec<Release>,
    /// What the next heartbeats hear.
    intake: Intake,
    withdrawn: Vec<Withdrawn>,
    /// Heartbeats get no answer.
    is_deaf: bool,
    /// The next heartbeat hears that its start is over.
    supersedes: bool,
    /// Reports whose connection breaks before they are answered.
    reports_lost: usize,
}

/// A cluster as a worker sees it.
#[derive(Clone, Default)]
struct World {
    known: Arc<Mutex<Known>>,
    changed: Arc<Condvar>,
}

impl World {
    fn change<T>(&self, with: impl FnOnce(&mut Known) -> T) -> T {
        let result = with(&mut self.known.lock().unwrap());
        self.changed.notify_all();
        result
    }

    /// Waits until something is so.
    fn until(&self, what: &str, is: impl Fn(&Known) -> bool) {
        let known = self.known.lock().unwrap();
        let (_known, late) =
            self.changed.wait_timeout_while(known, LONG, |known| !is(known)).unwrap();
        assert!(!late.timed_out(), "it never came to pass: {what}");
    }

    fn assign(&self, fences: impl IntoIterator<Item = u64>) {
        self.change(|known| {
            for fence in fences {
                let queue = QueueName::new("mail").unwrap();
                let id = JobId::new(raftq::types::Millis(fence), 0);
                let body = Body::Payload(Bytes::from(fence.to_string()));
                let assignment = Assignment {
                    id,
                    queue,
                    attempt: 1,
                    fence: Fence(fence),
                    timeout_ms: None,
                    body,
                };
                known.assigned.insert(Fence(fence), assignment);
            }
        });
    }

    /// A node that leads.
    fn lead(&self, node: Node) -> client_node::Seen {
        let world = self.clone();
        node.serve(move |line, corr, request| world.answer(line, corr, request))
    }

    fn answer(&self, line: &Line, corr: u32, request: Request) {
        let reply = match request {
            Request::RegisterWorker(registration) => self.change(|known| {
                known.registrations.push(registration);
                known.assigned.clear();
                Reply::Registered
            }),
            Request::Heartbeat { incarnation, draining, .. } => {
                match self.change(|known| heartbeat(known, incarnation, draining)) {
                    Some(reply) => reply,
                    None => return,
                }
            }
            Request::Reserve { incarnation, after, max, wait_ms, .. } => {
                // A long poll waits on a thread of its own.
                let (world, line) = (self.clone(), line.clone());
                thread::spawn(move || {
                    let jobs = world.reserve(incarnation, after, max, wait_ms);
                    line.reply(corr, Reply::Reserved(jobs));
                });
                return;
            }
            Request::BatchUpdateJobStatus(updates) => {
                let lost = self.change(|known| {
                    let lost = known.reports_lost > 0;
                    known.reports_lost = known.reports_lost.saturating_sub(1);
                    lost
                });
                let results = updates.iter().map(|update| self.update(update)).collect();
                if lost {
                    line.close();
                    return;
                }
                Reply::Updated(results)
            }
            Request::ReleaseJobs(release) => {
                let count = u32::try_from(release.jobs.len()).unwrap();
                self.change(|known| known.releases.push(release));
                Reply::Released { count }
            }
            other => Reply::Refused(Refusal::invalid(format!("{other:?}"))),
        };
        line.reply(corr, reply);
    }

    fn reserve(&self, by: Incarnation, after: Fence, max: u32, wait_ms: u64) -> Vec<Assignment> {
        let is_his =
            |known: &Known| known.registrations.last().is_some_and(|r| r.incarnation == by);
        let known = self.known.lock().unwrap();
        let wait = Duration::from_millis(wait_ms);
        let (known, _late) = self
            .changed
            .wait_timeout_while(known, wait, |known| {
                is_his(known) && known.assigned.keys().all(|fence| *fence <= after)
            })
            .unwrap();
        if !is_his(&known) {
            return Vec::new();
        }
        let new =
            known.assigned.range((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded));
        new.take(usize::try_from(max).unwrap()).map(|(_, job)| job.clone()).collect()
    }

    /// The first report of an attempt counts; the same one again is fine.
    fn update(&self, update: &StatusUpdate) -> Result<(), Refusal> {
        self.change(|known| {
            if known.assigned.remove(&update.fence).is_some() {
                known.updates.push(update.clone());
                Ok(())
            } else if known.updates.contains(update) {
                Ok(())
            } else {
                Err(Refusal::stale_fence("somebody else has it"))
            }
        })
    }
}

fn heartbeat(known: &mut Known, incarnation: Incarnation, draining: bool) -> Option<Reply> {
    known.heartbeats += 1;
    known.draining |= draining;
    let is_current = known.registrations.last().is_some_and(|r| r.incarnation == incarnation);
    if std::mem::take(&mut known.supersedes) || !is_current {
        return Some(Reply::Refused(Refusal::failed_precondition("this start is over")));
    }
    (!known.is_deaf).then(|| Reply::HeartbeatAck {
        term: Term(1),
        intake: known.intake,
        withdrawn: std::mem::take(&mut known.withdrawn),
    })
}

/// Times a tenth of the real ones.
const QUICK: Timing =
    Timing { heartbeat: Duration::from_millis(100), lease: Duration::from_millis(300) };

/// A worker that runs in the background until it is told to stop.
struct Runs {
    stop: oneshot::Sender<()>,
    report: task::JoinHandle<Result<StopReport, Error>>,
}

impl Runs {
    fn begin(worker: Worker) -> Self {
        let (stop, stopped) = oneshot::channel();
        let shutdown = async move {
            let _told = stopped.await;
        };
        Self { stop, report: task::spawn(worker.run_until(shutdown)) }
    }

    fn stop(self) -> StopReport {
        self.stop.send(()).unwrap();
        run(self.report).unwrap()
    }
}

fn run<T>(what: impl Future<Output = T>) -> T {
    task::block_on(timeout(LONG, what)).expect("it takes for ever")
}

fn worker(seeds: &[&str]) -> Worker {
    let client = Client::builder().seeds(seeds.iter().copied()).build().unwrap();
    Worker::new(&client).name("w").slots(8)
}

/// Counts futures that are dropped before they are done.
struct Guard(Arc<AtomicUsize>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn eventually(what: &str, is: impl Fn() -> bool) {
    let begun = AtomicUsize::new(0);
    while !is() {
        assert!(begun.fetch_add(1, Ordering::SeqCst) < 20_000, "it never came to pass: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn worker_runs_its_handlers_and_reports_what_they_return() {
    let world = World::default();
    let node = Node::bind();
    let addr = node.addr.clone();
    world.lead(node);
    let worker = worker(&[&addr]).queue("mail", |context, payload: Bytes| async move {
        match context.fence().0 {
            1 => Ok(payload),
            2 => Err("no such address"),
            _ => panic!("boom"),
        }
    });
    let runs = Runs::begin(worker);
    world.until("registered", |known| !known.registrations.is_empty());
    world.assign([1, 2, 3]);
    world.until("all reported", |known| known.updates.len() == 3);
    let report = runs.stop();
    assert_eq!((report.reason, report.finished, report.abandoned), (StopReason::Asked, 3, 0));
    world.change(|known| {
        let verdict = |fence| {
            let found = known.updates.iter().find(|update| update.fence == Fence(fence));
            found.unwrap().verdict.clone()
        };
        assert_eq!((verdict(1).completed, verdict(1).output), (true, Bytes::from_static(b"1")));
        assert_eq!(verdict(2).error.as_deref(), Some("no such address"));
        assert_eq!(verdict(3).error.as_deref(), Some("the handler panicked: boom"));
        assert!(known.releases.last().unwrap().leaving);
    });
}

#[test]
fn worker_goes_on_when_the_leader_changes_and_loses_no_report() {
    let world = World::default();
    let (first, second) = (Node::bind(), Node::bind());
    let seeds = [first.addr.clone(), second.addr.clone()];
    // The first node leads until half of the reports have come; the report in hand is taken, and its
    // answer lost.
    let deposed = Arc::new(AtomicBool::new(false));
    let (leads, shared, new_leader) = (Arc::clone(&deposed), world.clone(), seeds[1].clone());
    first.serve(move |line, corr, request| {
        if leads.load(Ordering::SeqCst) {
            let refusal = Refusal::not_leader(hint(&new_leader, 2));
            line.reply(corr, Reply::Refused(refusal));
            return;
        }
        let reports = matches!(request, Request::BatchUpdateJobStatus(_));
        let many = shared.change(|known| known.updates.len() > 500);
        if reports && many {
            leads.store(true, Ordering::SeqCst);
            shared.change(|known| known.reports_lost = 1);
        }
        shared.answer(line, corr, request);
    });
    world.lead(second);
    let worker = worker(&[&seeds[0], &seeds[1]])
        .queue("mail", |_, payload: Bytes| async move { Ok::<_, String>(payload) });
    let runs = Runs::begin(worker);
    world.until("registered", |known| !known.registrations.is_empty());
    world.assign(1..=1000);
    world.until("all reported", |known| known.updates.len() == 1000);
    let report = runs.stop();
    assert_eq!((report.finished, report.abandoned), (1000, 0));
    assert!(deposed.load(Ordering::SeqCst));
    assert_eq!(world.change(|known| known.registrations.len()), 1, "one start did it all");
}

#[test]
fn worker_without_an_answer_ends_its_handlers_and_registers_anew() {
    let world = World::default();
    let node = Node::bind();
    let addr = node.addr.clone();
    world.lead(node);
    let dropped = Arc::new(AtomicUsize::new(0));
    let begun = Arc::new(AtomicUsize::new(0));
    let (drops, begins) = (Arc::clone(&dropped), Arc::clone(&begun));
    let worker = worker(&[&addr]).timing(QUICK).queue("mail", move |context, _| {
        let guard = Guard(Arc::clone(&drops));
        begins.fetch_add(1, Ordering::SeqCst);
        async move {
            let _guard = guard;
            if context.fence().0 < 10 {
                futures::future::pending::<()>().await;
            }
            Ok::<_, String>("second")
        }
    });
    let runs = Runs::begin(worker);
    world.until("registered", |known| !known.registrations.is_empty());
    world.assign([1, 2]);
    eventually("both run", || begun.load(Ordering::SeqCst) == 2);
    world.change(|known| known.is_deaf = true);
    world.until("registered anew", |known| known.registrations.len() == 2);
    eventually("both dropped", || dropped.load(Ordering::SeqCst) == 2);
    world.change(|known| {
        assert_eq!(known.registrations[0].gave_up, None);
        assert_eq!(known.registrations[1].gave_up, Some(known.registrations[0].incarnation));
        assert_ne!(known.registrations[0].incarnation, known.registrations[1].incarnation);
        known.is_deaf = false;
    });
    world.assign([11]);
    world.until("the new start works", |known| known.updates.len() == 1);
    let report = runs.stop();
    assert_eq!((report.finished, report.abandoned), (1, 2));
}

#[test]
fn worker_that_hears_it_was_judged_lost_drops_the_results_of_blocking_handlers() {
    let world = World::default();
    let node = Node::bind();
    let addr = node.addr.clone();
    world.lead(node);
    let (saw, seen) = std::sync::mpsc::channel();
    let worker = worker(&[&addr]).timing(QUICK).queue_blocking("mail", move |context, payload| {
        if context.fence().0 == 1 {
            saw.send("begun").unwrap();
            while !context.is_abandoned() {
                thread::sleep(Duration::from_millis(1));
            }
            saw.send("abandoned").unwrap();
        }
        Ok::<_, String>(payload)
    });
    let runs = Runs::begin(worker);
    world.until("registered", |known| !known.registrations.is_empty());
    world.assign([1]);
    assert_eq!(seen.recv_timeout(LONG), Ok("begun"));
    // It blocks its thread, and heartbeats go on.
    let beats = world.change(|known| known.heartbeats);
    world.until("more heartbeats", |known| known.heartbeats >= beats + 3);
    world.change(|known| known.supersedes = true);
    assert_eq!(seen.recv_timeout(LONG), Ok("abandoned"));
    world.until("registered anew", |known| known.registrations.len() == 2);
    world.assign([2]);
    world.until("the new start works", |known| !known.updates.is_empty());
    let report = runs.stop();
    assert_eq!((report.finished, report.abandoned), (1, 1));
    assert_eq!(world.change(|known| known.updates[0].fence), Fence(2));
}

#[test]
fn worker_asked_to_stop_gives_back_what_does_not_end_within_the_grace() {
    let world = World::default();
    let node = Node::bind();
    let addr = node.addr.clone();
    world.lead(node);
    let begun = Arc::new(AtomicUsize::new(0));
    let dropped = Arc::new(AtomicUsize::new(0));
    let (begins, drops) = (Arc::clone(&begun), Arc::clone(&dropped));
    let (finish, finished) = oneshot::channel::<()>();
    let finished = Mutex::new(Some(finished));
    let grace = Duration::from_millis(300);
    let worker = worker(&[&addr]).timing(QUICK).grace(grace).queue("mail", move |context, _| {
        let mine = (context.fence().0 == 1).then(|| finished.lock().unwrap().take().unwrap());
        let guard = Guard(Arc::clone(&drops));
        begins.fetch_add(1, Ordering::SeqCst);
        async move {
            let _guard = guard;
            match mine {
                Some(finished) => drop(finished.await),
                None => futures::future::pending().await,
            }
            Ok::<_, String>("in time")
        }
    });
    let runs = Runs::begin(worker);
    world.until("registered", |known| !known.registrations.is_empty());
    world.assign([1, 2]);
    eventually("both run", || begun.load(Ordering::SeqCst) == 2);
    runs.stop.send(()).unwrap();
    world.until("the leader knows", |known| known.draining);
    world.assign([3]);
    finish.send(()).unwrap();
    let report = run(runs.report).unwrap();
    assert_eq!((report.finished, report.abandoned), (1, 1));
    assert_eq!(begun.load(Ordering::SeqCst), 2, "nothing is begun after that");
    eventually("the other dropped", || dropped.load(Ordering::SeqCst) == 2);
    world.change(|known| {
        let release = known.releases.last().unwrap();
        assert!(release.leaving);
        assert_eq!(release.jobs.iter().map(|(_, fence)| *fence).collect::<Vec<_>>(), [Fence(2)]);
    });
}

#[test]
fn worker_that_is_dropped_drops_its_handlers() {
    let world = World::default();
    let node = Node::bind();
    let addr = node.addr.clone();
    world.lead(node);
    let dropped = Arc::new(AtomicUsize::new(0));
    let begun = Arc::new(AtomicBool::new(false));
    let (drops, begins) = (Arc::clone(&dropped), Arc::clone(&begun));
    let worker = worker(&[&addr]).queue("mail", move |_, _| {
        let guard = Guard(Arc::clone(&drops));
        begins.store(true, Ordering::SeqCst);
        async move {
            let _guard = guard;
            futures::future::pending::<Result<String, String>>().await
        }
    });
    let running = task::spawn(worker.run_until(futures::future::pending()));
    world.until("registered", |known| !known.registrations.is_empty());
    world.assign([1]);
    eventually("it runs", || begun.load(Ordering::SeqCst));
    run(running.cancel());
    eventually("it is dropped", || dropped.load(Ordering::SeqCst) == 1);
}

#[test]
fn worker_that_cannot_be_right_is_refused_before_it_registers() {
    let handler = |_, payload: Bytes| async move { Ok::<_, String>(payload) };
    let wrong = [
        (worker(&["127.0.0.1:1"]), "at least one queue"),
        (worker(&["127.0.0.1:1"]).queue("mail", handler).queue("mail", handler), "two handlers"),
        (worker(&["127.0.0.1:1"]).queue("no/name", handler), "no/name"),
        (worker(&["127.0.0.1:1"]).queue("mail", handler).slots(0), "slots"),
        (worker(&["127.0.0.1:1"]).queue("mail", handler).name("no name"), "no name"),
        (
            (0..65)
                .fold(worker(&["127.0.0.1:1"]), |worker, n| worker.queue(format!("q{n}"), handler)),
            "65 queues",
        ),
    ];
    for (worker, text) in wrong {
        let refused = run(worker.run_until(futures::future::pending()));
        assert!(matches!(&refused, Err(Error::Invalid(why)) if why.contains(text)), "{refused:?}");
    }
}

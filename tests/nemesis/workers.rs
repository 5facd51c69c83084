//! Workers for payloads: two good ones of the library, and one that is often late, silent or wrong.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_std::task;
use fastrand::Rng;
use futures::FutureExt as _;
use raftq::client::client::{CallOptions, Client};
use raftq::client::error::Error;
use raftq::client::worker::Worker;
use raftq::jobs::command::{Registration, Release, StatusUpdate};
use raftq::jobs::job::{Assignment, Serves, Verdict};
use raftq::jobs::options::Tags;
use raftq::sim::job_model::{Op, Reported};
use raftq::types::{Fence, Incarnation, JobId, Millis, QueueName, WorkerId};
use raftq::wire::message::{Code, Reply, Request};

use crate::clients::{Load, QUEUE};
use crate::record::{FAILED_ON_PURPOSE, result_of};

/// The late worker's number in the history.
const LATE: u64 = 1_000;

/// The numbers of the good ones.
const GOOD: std::ops::RangeInclusive<u64> = 1_001..=1_002;

/// How often workers look whether the load is over.
const OVER_PAUSE: Duration = Duration::from_millis(50);

/// One call of the late worker, with all its tries.
const CALL_MAX: Duration = Duration::from_secs(3);

/// From one heartbeat of the late worker to the next.
const HEARTBEAT: Duration = Duration::from_millis(900);

/// How long the late worker is silent: more and less than the cluster bears (3 s).
const SILENCE_MS: std::ops::Range<u64> = 2_000..6_000;

/// Returns when the load and all that it left to do are over.
async fn over(load: Arc<Load>) {
    while !load.is_over() {
        task::sleep(OVER_PAUSE).await;
    }
}

/// Runs a worker of the library until `load` is over.
///
/// # Errors
/// Why it stopped by itself.
pub async fn good(load: Arc<Load>, number: u64) -> Result<(), Error> {
    let name = format!("nemesis-{number}");
    let client = load.client(&name, &mut Rng::new())?;
    let until = over(Arc::clone(&load));
    let worker = Worker::new(&client).name(name).slots(6).queue(QUEUE, move |context, _payload| {
        let load = Arc::clone(&load);
        async move {
            let (job, fence) = (context.id(), context.fence());
            assigned(&load, number, job, context.attempt(), fence);
            let (outcome, took) = decide(fence);
            task::sleep(took).await;
            let (output, error) = match &outcome {
                Ok(output) => (output.as_bytes(), None),
                Err(error) => (&b""[..], Some(error.as_str())),
            };
            // It is sent, and sent again, until it is answered; nobody but the library hears what.
            let op = Op::Report {
                fence: fence.0,
                completed: outcome.is_ok(),
                result: result_of(None, output, error),
                outcome: None,
            };
            load.record.operation(number, job, load.record.now_us(), None, op);
            outcome
        }
    });
    worker.run_until(until).await.map(|_report| ())
}

/// A worker was told of an assignment, which was made at some time before.
fn assigned(load: &Load, worker: u64, job: JobId, attempt: u32, fence: Fence) {
    let now_us = load.record.now_us();
    load.record.operation(
        worker,
        job,
        now_us,
        Some(now_us),
        Op::Assigned { attempt, fence: fence.0 },
    );
}

/// What becomes of an attempt, and how long it takes: most are quick, a few outlive a failover.
fn decide(fence: Fence) -> (Result<String, String>, Duration) {
    let mut dice = Rng::with_seed(fence.0);
    let took_ms = match dice.u32(0..100) {
        0..70 => dice.u64(2..30),
        70..97 => dice.u64(30..300),
        _ => dice.u64(1_000..5_000),
    };
    let outcome = match dice.u32(0..100) {
        0..5 => Err(format!("{FAILED_ON_PURPOSE} under {fence}")),
        _ => Ok(format!("done under {fence}")),
    };
    (outcome, Duration::from_millis(took_ms))
}

/// The late worker.
pub struct Late {
    load: Arc<Load>,
    client: Client,
    worker: WorkerId,
    queue: QueueName,
    incarnation: Incarnation,
    after: Fence,
    beaten: Option<Instant>,
    silent_until: Option<Instant>,
    dice: Rng,
    held: Vec<(Assignment, Instant)>,
}

impl Late {
    /// Makes one.
    ///
    /// # Errors
    /// Never, with addresses of nodes.
    pub fn new(load: &Arc<Load>, seed: u64) -> Result<Self, String> {
        let mut dice = Rng::with_seed(seed);
        let said = |error: &dyn std::fmt::Display| error.to_string();
        Ok(Self {
            client: load.client("late", &mut dice).map_err(|error| said(&error))?,
            load: Arc::clone(load),
            worker: WorkerId::new("nemesis-late").map_err(|error| said(&error))?,
            queue: QueueName::new(QUEUE).map_err(|error| said(&error))?,
            incarnation: Incarnation(0),
            after: Fence(0),
            beaten: None,
            silent_until: None,
            dice,
            held: Vec::new(),
        })
    }

    /// Works, if badly, until the load is over; then it gives back what it holds.
    pub async fn run(mut self) {
        while !self.load.is_over() {
            let now = Instant::now();
            if self.silent_until.is_some_and(|until| now < until) {
                task::sleep(OVER_PAUSE).await;
                continue;
            }
            if self.silent_until.take().is_some() {
                // Late, and without a word in between: the cluster may have given the jobs away.
                for (assignment, _) in std::mem::take(&mut self.held) {
                    let _it_registers_anew = self.report(&assignment, assignment.fence).await;
                }
                self.incarnation = Incarnation(0);
            }
            if self.incarnation == Incarnation(0) {
                self.register().await;
            }
            if self.beaten.is_none_or(|beaten| now >= beaten + HEARTBEAT) {
                self.beat().await;
            }
            self.reserve().await;
            self.work().await;
        }
        let jobs = self.held.drain(..).map(|(assignment, _)| (assignment.id, assignment.fence));
        let release = Release {
            worker: self.worker.clone(),
            incarnation: self.incarnation,
            jobs: jobs.collect(),
            leaving: true,
        };
        // If nobody hears it, the cluster finds it lost.
        let _heard = self.call(Request::ReleaseJobs(release)).await.is_ok();
        self.client.close().await;
    }

    async fn call(&self, request: Request) -> Result<Reply, Error> {
        self.client.call(request, CallOptions::timeout(CALL_MAX)).await
    }

    async fn register(&mut self) {
        let incarnation = Incarnation::first(wall(), self.dice.u64(..));
        let registration = Registration {
            worker: self.worker.clone(),
            incarnation,
            slots: 3,
            serves: Serves::Payloads(vec![self.queue.clone()]),
            gave_up: None,
            tags: Tags::default(),
        };
        if self.call(Request::RegisterWorker(registration)).await.is_ok() {
            self.incarnation = incarnation;
            self.held.clear();
        } else {
            task::sleep(OVER_PAUSE).await;
        }
    }

    async fn beat(&mut self) {
        self.beaten = Some(Instant::now());
        let beat = Request::Heartbeat {
            worker: self.worker.clone(),
            incarnation: self.incarnation,
            draining: false,
            held: Vec::new(),
        };
        if let Err(error) = self.call(beat).await
            && error.refusal().is_some_and(|no| no.code == Code::FailedPrecondition)
        {
            // Judged lost; what it holds is reported all the same.
            self.silent_until = Some(Instant::now());
        }
    }

    async fn reserve(&mut self) {
        if self.incarnation == Incarnation(0) {
            return;
        }
        let reserve = Request::Reserve {
            worker: self.worker.clone(),
            incarnation: self.incarnation,
            after: self.after,
            max: 3,
            wait_ms: 100,
        };
        let Ok(Reply::Reserved(assignments)) = self.call(reserve).await else { return };
        for assignment in assignments {
            assigned(&self.load, LATE, assignment.id, assignment.attempt, assignment.fence);
            self.after = self.after.max(assignment.fence);
            let takes = Duration::from_millis(self.dice.u64(5..400));
            self.held.push((assignment, Instant::now() + takes));
        }
    }

    /// Ends what is due, in one of the ways a worker should not.
    async fn work(&mut self) {
        let now = Instant::now();
        let (due, held) =
            std::mem::take(&mut self.held).into_iter().partition(|(_, at)| *at <= now);
        self.held = held;
        let due: Vec<(Assignment, Instant)> = due;
        for (assignment, at) in due {
            let fence = assignment.fence;
            match self.dice.u32(0..100) {
                // Twice: the second report finds its own work done.
                0..30 => {
                    self.report(&assignment, fence).await;
                }
                // First under a token that was never its own.
                30..50 => {
                    self.report(&assignment, Fence(fence.0 - 1)).await;
                }
                // It says nothing for a while, holding what it holds.
                50..54 => {
                    self.held.push((assignment, at));
                    let silence = Duration::from_millis(self.dice.u64(SILENCE_MS));
                    self.silent_until = Some(now + silence);
                    continue;
                }
                _ => {}
            }
            // While it says that it lives, nobody else does its jobs: it reports until it is answered.
            if !self.report(&assignment, fence).await {
                self.held.push((assignment, at));
            }
        }
    }

    /// Reports an attempt; returns whether there was an answer.
    async fn report(&self, assignment: &Assignment, fence: Fence) -> bool {
        let record = &self.load.record;
        let (outcome, _) = decide(assignment.fence);
        let completed = outcome.is_ok();
        let (output, error) = match outcome {
            Ok(output) => (output, None),
            Err(error) => (String::new(), Some(error)),
        };
        let result = result_of(None, output.as_bytes(), error.as_deref());
        let verdict =
            Verdict { completed, exit_code: None, output: output.into(), output_cut: false, error };
        let update = StatusUpdate { job: assignment.id, fence, verdict };
        let call_us = record.now_us();
        let answer = self.call(Request::UpdateJobStatus(update)).await;
        let return_us = record.now_us();
        let refusal = match answer {
            Ok(Reply::Updated(mut results)) => results.pop().map(Result::err),
            Err(Error::Refused { refusal, .. }) => Some(Some(*refusal)),
            Err(error) if error.is_definite() => return false,
            Ok(_) | Err(_) => None,
        };
        let outcome = match refusal {
            Some(None) => Some(Reported::Applied),
            Some(Some(refusal)) if refusal.code == Code::StaleFence => Some(Reported::StaleFence),
            Some(Some(refusal)) if refusal.code == Code::NotFound => Some(Reported::NotFound),
            Some(Some(refusal)) if !refusal.unknown => return false,
            Some(Some(_)) | None => None,
        };
        let op = Op::Report { fence: fence.0, completed, result, outcome };
        let return_us = outcome.map(|_| return_us);
        record.operation(LATE, assignment.id, call_us, return_us, op);
        outcome.is_some()
    }
}

/// Runs one of everything until the load is over.
pub async fn all(load: Arc<Load>, seed: u64) -> Vec<String> {
    let late = match Late::new(&load, seed) {
        Ok(late) => late,
        Err(why) => return vec![why],
    };
    let good = GOOD.map(|number| good(Arc::clone(&load), number));
    let ended =
        futures::future::join(futures::future::join_all(good), late.run().map(|()| ())).await;
    ended.0.into_iter().filter_map(Result::err).map(|error| format!("a worker: {error}")).collect()
}

/// Reads this machine's wall clock, which the nemesis leaves alone.
fn wall() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

//! What a library worker owes the cluster, without a socket or a clock: when to register, beat, look for jobs,
//! report, give up and leave (`wire-spec.md` §12).
//!
//! The driver ([`crate::client::worker`]) makes the calls and runs the handlers that `Duty::step` orders,
//! and tells what came of them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::client::context::Abandoned;
use crate::client::duty::notes::Notes;
use crate::client::error::Error;
use crate::client::moment::Moment;
use crate::jobs::command::{Registration, StatusUpdate};
use crate::jobs::job::{Assignment, Serves, Verdict};
use crate::jobs::options::Tags;
use crate::types::{Fence, Incarnation, JobId, QueueName, WorkerId};
use crate::wire::message::{BATCH_UPDATES_MAX, Code, RESERVE_JOBS_MAX, Refusal, Reply, Request};
use crate::wire::request::{BATCH_BYTES_MAX, update_bytes_max};

/// How long one look for jobs waits for some.
const RESERVE_MS: u64 = 20_000;

/// How long a report, a registration or a release may take before it is made anew; a leader has answered
/// by then in any case.
const CALL_TIME: Duration = Duration::from_secs(6);

/// Heartbeats without an answer yet, at most. The next one waits then.
const HEARTBEATS_MAX: u32 = 3;

/// After a first failure a call is made again so much later, at most; it doubles with each further one.
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// It doubles up to this.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// An empty answer that came at once does not lead to the next question at once.
const RESERVE_PAUSE: Duration = Duration::from_millis(20);

/// How long ends of attempts that came before it gave up are reported before it registers anew, at
/// most: registering makes their jobs wait again, and the work would have been for nothing.
const REPORTS_FIRST: Duration = Duration::from_secs(6);

/// How long a worker that leaves tries to say so, and to report what is left to report, beyond its grace.
const LEAVE_TIME: Duration = Duration::from_secs(6);

/// The times a worker keeps. Those of the cluster are the default; only tests change them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// From one heartbeat to the next.
    pub heartbeat: Duration,
    /// So long after it *sent* the last heartbeat that was answered, a worker ends its jobs: others are
    /// given them.
    pub lease: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { heartbeat: Duration::from_secs(1), lease: Duration::from_secs(3) }
    }
}

/// A call that was made, to know its answer by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    Register { incarnation: Incarnation, sent: Moment },
    Heartbeat { incarnation: Incarnation, sent: Moment },
    Reserve { incarnation: Incarnation },
    Report,
    Release,
    Progress { fence: Fence },
}

/// What the driver does.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Order {
    /// Make this call, and tell `Duty::heard`.
    Call { ask: Ask, request: Request, timeout: Duration },
    /// Run the handler for this, and tell `Duty::ended`.
    Start(Assignment),
    /// End the handler of this attempt; what it returns does not count any more.
    Abandon(Fence, Abandoned),
}

/// Why a worker stopped.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// It was asked to.
    Asked,
    /// It was drained, and had nothing left to run.
    Drained,
    /// Another worker of the same name has begun after it: the cluster knows one at a time, the newest, and gave
    /// the jobs of this one to others. Names of workers that run at the same time must differ.
    Superseded,
    /// The cluster does not take it: its registration cannot be right.
    Refused(Error),
}

/// What a worker did in its life.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopReport {
    /// Why it stopped.
    pub reason: StopReason,
    /// Attempts it ended and whose end was recorded.
    pub finished: u64,
    /// Attempts it gave up or gave back: for want of a leader, because the grace was over, or because the job was
    /// cancelled or taken away.
    pub abandoned: u64,
}

/// A call that is made again and again, one at a time.
#[derive(Clone, Copy, Debug, Default)]
struct Lane {
    in_flight: bool,
    due: Moment,
    failures: u32,
}

impl Lane {
    fn due_at(due: Moment) -> Self {
        Self { due, ..Self::default() }
    }

    fn begin(&mut self, now: Moment) -> bool {
        let ready = !self.in_flight && self.due <= now;
        self.in_flight |= ready;
        ready
    }

    fn failed(&mut self, now: Moment, dice: &mut fastrand::Rng) {
        let bound = PAUSE_MIN.saturating_mul(1 << self.failures.min(10)).min(PAUSE_MAX);
        self.in_flight = false;
        self.failures = self.failures.saturating_add(1);
        self.due = now.after(bound.mul_f64(0.5 + dice.f64() / 2.0));
    }

    fn wake_at(&self) -> Option<Moment> {
        (!self.in_flight).then_some(self.due)
    }
}

/// The handler of an attempt.
#[derive(Clone, Copy, Debug)]
struct Running {
    job: JobId,
    /// When it has taken as long as it may, and how long that is.
    times_out: Option<(Moment, Duration)>,
}

/// The worker's state.
///
/// - `running` and `starts` are empty unless it is registered.
/// - Handlers are never more than were assigned; the leader assigns no more than `slots`.
#[derive(Debug)]
pub(crate) struct Duty {
    worker: WorkerId,
    queues: Vec<QueueName>,
    tags: Tags,
    slots: u32,
    timing: Timing,
    grace: Duration,
    dice: fastrand::Rng,
    incarnation: Incarnation,
    is_registered: bool,
    /// Whether this start may have been registered, as far as former calls tell.
    maybe_registered: bool,
    /// The former start, which ended what it held.
    gave_up: Option<Incarnation>,
    /// Times in a row that a start was over before a heartbeat of it was answered.
    short_lives: u32,
    /// When the last heartbeat (or registration) that was answered was sent.
    heard_from: Moment,
    heartbeat_due: Moment,
    heartbeats: u32,
    registering: Lane,
    reserving: Lane,
    reporting: Lane,
    releasing: Lane,
    /// Until when reports go before a registration.
    reports_first: Moment,
    after: Fence,
    starts: Vec<Assignment>,
    running: BTreeMap<Fence, Running>,
    /// Ends to report; bounded by the slots, for a slot is free only when its report has been answered.
    outbox: VecDeque<StatusUpdate>,
    /// Those in the report in flight.
    reported: Vec<StatusUpdate>,
    /// When the grace is over.
    stop_at: Option<Moment>,
    /// Whether its users want it to end once nothing runs.
    drains: bool,
    /// Why it stops, once it does.
    stop_reason: StopReason,
    /// Whether a start of this process was registered, ever.
    has_lived: bool,
    /// The last job that a heartbeat named.
    held_to: Fence,
    /// What the jobs that run have said of themselves.
    notes: Notes,
    /// What is given back.
    released: Vec<(JobId, Fence)>,
    ends: Option<StopReason>,
    finished: u64,
    abandoned: u64,
    orders: Vec<Order>,
}

impl Duty {
    pub(crate) fn new(
        worker: WorkerId,
        first: Incarnation,
        queues: Vec<QueueName>,
        slots: u32,
        timing: Timing,
        grace: Duration,
        seed: u64,
    ) -> Self {
        let dice = fastrand::Rng::with_seed(seed);
        Self {
            worker,
            queues,
            tags: Tags::default(),
            slots,
            timing,
            grace,
            dice,
            incarnation: first,
            is_registered: false,
            maybe_registered: false,
            gave_up: None,
            short_lives: 0,
            heard_from: Moment(0),
            heartbeat_due: Moment(0),
            heartbeats: 0,
            registering: Lane::default(),
            reserving: Lane::default(),
            reporting: Lane::default(),
            releasing: Lane::default(),
            reports_first: Moment(0),
            after: Fence(0),
            starts: Vec::new(),
            running: BTreeMap::new(),
            outbox: VecDeque::new(),
            reported: Vec::new(),
            stop_at: None,
            drains: false,
            stop_reason: StopReason::Asked,
            has_lived: false,
            held_to: Fence(0),
            notes: Notes::default(),
            released: Vec::new(),
            ends: None,
            finished: 0,
            abandoned: 0,
            orders: Vec::new(),
        }
    }

    /// Sets what the worker has, for jobs that ask for it.
    pub(crate) fn with_tags(mut self, tags: Tags) -> Self {
        self.tags = tags;
        self
    }

    /// Decides what to do now.
    pub(crate) fn step(&mut self, now: Moment) -> Vec<Order> {
        if self.ends.is_some() {
            return std::mem::take(&mut self.orders);
        }
        // First of all: a worker that was frozen must not begin or count anything before it looks.
        if self.lease_matters() && now >= self.lease_end() {
            log::warn!(
                "worker {}: no heartbeat answered for {:?}; its jobs are ended and it registers anew",
                self.worker,
                self.timing.lease
            );
            self.give_up(now, now, None);
        }
        self.time_out(now);
        for assignment in std::mem::take(&mut self.starts) {
            let timeout = assignment.timeout_ms.map(Duration::from_millis);
            let times_out = timeout.map(|timeout| (now.after(timeout), timeout));
            self.running.insert(assignment.fence, Running { job: assignment.id, times_out });
            self.orders.push(Order::Start(assignment));
        }
        self.tell_progress(now);
        self.report(now);
        if self.drains && self.is_idle() {
            self.stop_reason = StopReason::Drained;
            self.stop(now);
        }
        match self.stop_at {
            Some(stop_at) => self.leave(stop_at, now),
            None if self.is_registered => self.reserve(now),
            None => self.register(now),
        }
        self.beat(now);
        std::mem::take(&mut self.orders)
    }

    /// Returns when to take the next step if nothing happens before; the driver never waits for less
    /// than a few milliseconds, so what is due and cannot be done yet costs little.
    pub(crate) fn wake_at(&self) -> Moment {
        let lease_end = self.lease_matters().then(|| self.lease_end());
        let beat = self.beats().then_some(self.heartbeat_due);
        let report = self.reporting.wake_at().filter(|_| !self.outbox.is_empty());
        let lane = match self.stop_at {
            Some(stop_at) if !self.running.is_empty() => Some(stop_at),
            Some(_) if self.reports_wait() => None,
            Some(_) if self.registration_is_open() => self.registering.wake_at(),
            Some(_) => self.releasing.wake_at(),
            None if self.is_registered => self.reserving.wake_at(),
            None if self.reports_wait() => {
                self.registering.wake_at().map(|due| due.max(self.reports_first))
            }
            None => self.registering.wake_at(),
        };
        let leave_end = self.stop_at.map(|stop_at| stop_at.after(LEAVE_TIME));
        let timeout = self.running.values().filter_map(|it| it.times_out).map(|(at, _)| at).min();
        let all = [lease_end, beat, report, lane, leave_end, timeout, self.notes.wake_at()];
        all.into_iter().flatten().min().unwrap_or(Moment(u64::MAX))
    }

    /// Returns how it ended, once it has.
    pub(crate) fn ended_with(&self) -> Option<StopReport> {
        let reason = self.ends.clone()?;
        Some(StopReport { reason, finished: self.finished, abandoned: self.abandoned })
    }

    /// Hears that a handler ended.
    pub(crate) fn ended(&mut self, fence: Fence, verdict: Verdict, now: Moment) {
        // One that was abandoned is another worker's by now.
        if let Some(Running { job, .. }) = self.running.remove(&fence) {
            if let Some(report) = self.notes.last_word(fence, now) {
                self.call_progress(report);
            }
            self.outbox.push_back(StatusUpdate { job, fence, verdict });
            if self.reporting.failures == 0 {
                self.reporting.due = self.reporting.due.min(now);
            }
        }
    }

    /// Hears the answer to a call.
    pub(crate) fn heard(&mut self, ask: Ask, answer: Result<Reply, Error>, now: Moment) {
        match ask {
            Ask::Register { incarnation, sent } => {
                if incarnation == self.incarnation {
                    self.registered(sent, answer, now);
                }
            }
            Ask::Heartbeat { incarnation, sent } => {
                if incarnation == self.incarnation {
                    self.heartbeats = self.heartbeats.saturating_sub(1);
                    self.acknowledged(sent, answer, now);
                }
            }
            Ask::Reserve { incarnation } => {
                if incarnation == self.incarnation {
                    self.reserved(answer, now);
                }
            }
            Ask::Report => self.updated(answer, now),
            Ask::Progress { fence } => self.noted(fence, answer, now),
            Ask::Release => match answer {
                Ok(_) => self.ends = Some(self.stop_reason.clone()),
                Err(error) => {
                    log::debug!("worker {}: {error}", self.worker);
                    self.releasing.failed(now, &mut self.dice);
                }
            },
        }
    }

    fn lease_end(&self) -> Moment {
        self.heard_from.after(self.timing.lease)
    }

    /// Returns until when jobs may run, unless that is over.
    pub(crate) fn lease(&self) -> Option<Moment> {
        self.lease_matters().then(|| self.lease_end())
    }

    /// Once it says goodbye it has nothing that a lease could end.
    fn lease_matters(&self) -> bool {
        self.is_registered && !self.releasing.in_flight
    }

    fn beats(&self) -> bool {
        self.lease_matters() && self.heartbeats < HEARTBEATS_MAX
    }

    /// Whether this start has asked to be registered, and whether it was is not known.
    fn registration_is_open(&self) -> bool {
        !self.is_registered && (self.maybe_registered || self.registering.in_flight)
    }

    fn reports_wait(&self) -> bool {
        !self.outbox.is_empty() || !self.reported.is_empty()
    }

    fn call(&mut self, ask: Ask, request: Request, timeout: Duration) {
        self.orders.push(Order::Call { ask, request, timeout });
    }

    fn register(&mut self, now: Moment) {
        if self.reports_wait() && now < self.reports_first || !self.registering.begin(now) {
            return;
        }
        let ask = Ask::Register { incarnation: self.incarnation, sent: now };
        let request = Request::RegisterWorker(Registration {
            worker: self.worker.clone(),
            incarnation: self.incarnation,
            slots: self.slots,
            serves: Serves::Payloads(self.queues.clone()),
            tags: self.tags.clone(),
            gave_up: self.gave_up,
        });
        // An answer that comes when the lease would be over is of no use.
        self.call(ask, request, self.timing.lease);
    }

    fn registered(&mut self, sent: Moment, answer: Result<Reply, Error>, now: Moment) {
        match answer {
            Ok(_) => {
                log::debug!("worker {} is registered", self.worker);
                self.is_registered = true;
                self.has_lived = true;
                self.registering = Lane::default();
                self.reserving = Lane::due_at(now);
                self.heard_from = sent;
                self.heartbeat_due = sent.after(self.timing.heartbeat);
            }
            Err(error) if is_over(&error) => {
                self.superseded(now, error.refusal().and_then(|no| no.incarnation));
            }
            Err(error) if !error.is_retryable() => {
                log::error!("worker {}: {error}", self.worker);
                self.ends = Some(StopReason::Refused(error));
            }
            Err(error) => {
                log::debug!("worker {}: {error}", self.worker);
                self.maybe_registered |= !error.is_definite();
                self.registering.failed(now, &mut self.dice);
            }
        }
    }

    fn beat(&mut self, now: Moment) {
        if !self.beats() || now < self.heartbeat_due {
            return;
        }
        self.heartbeat_due = now.after(self.timing.heartbeat);
        self.heartbeats += 1;
        let ask = Ask::Heartbeat { incarnation: self.incarnation, sent: now };
        let request = Request::Heartbeat {
            worker: self.worker.clone(),
            incarnation: self.incarnation,
            draining: self.stop_at.is_some() || self.drains,
            held: self.held(),
        };
        self.call(ask, request, self.timing.lease);
    }

    fn acknowledged(&mut self, sent: Moment, answer: Result<Reply, Error>, now: Moment) {
        match answer {
            Ok(reply) => {
                self.heard_from = self.heard_from.max(sent);
                self.short_lives = 0;
                if let Reply::HeartbeatAck { intake, withdrawn, .. } = reply {
                    self.heed(intake, &withdrawn);
                }
            }
            Err(error) if is_over(&error) => {
                self.superseded(now, error.refusal().and_then(|no| no.incarnation));
            }
            Err(error) => log::debug!("worker {}: {error}", self.worker),
        }
    }

    /// This start is over: it was judged lost, or another process registers under the same name.
    fn superseded(&mut self, now: Moment, named: Option<Incarnation>) {
        // Of two that live, the one that began first is told of a start above its own, which it did not draw. It
        // ends: if it drew a higher one in its turn, the two would take the jobs from each other for ever.
        if self.has_lived && named.is_some_and(|named| named > self.incarnation) {
            log::error!("worker {}: another worker of this name has begun after it", self.worker);
            self.abandon_all();
            self.ends = Some(StopReason::Superseded);
            return;
        }
        log::warn!(
            "worker {}: the cluster says that this start of it is over; its jobs are ended and it registers \
             anew",
            self.worker
        );
        let pause = PAUSE_MIN.saturating_mul(1 << self.short_lives.min(10)).min(PAUSE_MAX);
        self.short_lives = self.short_lives.saturating_add(1);
        let pause = pause.mul_f64(self.dice.f64());
        self.give_up(now, now.after(pause), named);
    }

    /// Ends what runs, and draws a new start, above the one that was `named`.
    fn give_up(&mut self, now: Moment, register_at: Moment, named: Option<Incarnation>) {
        self.abandon_all();
        self.released.clear();
        self.starts.clear();
        // A start that was refused before it was registered held nothing, and what a former one held has
        // been taken from it.
        self.gave_up = self.is_registered.then_some(self.incarnation);
        self.is_registered = false;
        self.maybe_registered = false;
        // Whether it is to be drained still, the first answer to a heartbeat says.
        self.drains = false;
        self.incarnation = self.incarnation.next(named, self.dice.u64(..));
        self.after = Fence(0);
        self.heartbeats = 0;
        self.registering = Lane::due_at(register_at);
        self.reserving = Lane::default();
        self.reports_first = now.after(REPORTS_FIRST);
    }

    fn abandon_all(&mut self) {
        for (fence, Running { job, .. }) in std::mem::take(&mut self.running) {
            self.abandoned += 1;
            self.released.push((job, fence));
            self.orders.push(Order::Abandon(fence, Abandoned::TakenAway));
        }
        self.notes.clear();
    }

    fn reserve(&mut self, now: Moment) {
        if !self.reserving.begin(now) {
            return;
        }
        let max = self.slots.min(u32::try_from(RESERVE_JOBS_MAX).unwrap_or(u32::MAX));
        let ask = Ask::Reserve { incarnation: self.incarnation };
        let request = Request::Reserve {
            worker: self.worker.clone(),
            incarnation: self.incarnation,
            after: self.after,
            max,
            wait_ms: RESERVE_MS,
        };
        self.call(ask, request, Duration::from_millis(RESERVE_MS).saturating_add(CALL_TIME));
    }

    fn reserved(&mut self, answer: Result<Reply, Error>, now: Moment) {
        match answer {
            Ok(Reply::Reserved(assignments)) => {
                let pause = if assignments.is_empty() { RESERVE_PAUSE } else { Duration::ZERO };
                self.reserving = Lane::due_at(now.after(pause));
                for assignment in assignments {
                    // What was received before, or comes when it leaves, is not begun.
                    if assignment.fence > self.after && self.is_registered && self.stop_at.is_none()
                    {
                        self.after = assignment.fence;
                        self.starts.push(assignment);
                    }
                }
            }
            Ok(_) => self.reserving.failed(now, &mut self.dice),
            Err(error) => {
                log::debug!("worker {}: {error}", self.worker);
                self.reserving.failed(now, &mut self.dice);
            }
        }
    }

    fn report(&mut self, now: Moment) {
        if self.outbox.is_empty() || !self.reporting.begin(now) {
            return;
        }
        let mut bytes = 0;
        while let Some(update) = self.outbox.front() {
            bytes += update_bytes_max(update);
            let is_full = self.reported.len() == BATCH_UPDATES_MAX || bytes > BATCH_BYTES_MAX / 2;
            if is_full && !self.reported.is_empty() {
                break;
            }
            self.reported.extend(self.outbox.pop_front());
        }
        let request = Request::BatchUpdateJobStatus(self.reported.clone());
        self.call(Ask::Report, request, CALL_TIME);
    }

    fn updated(&mut self, answer: Result<Reply, Error>, now: Moment) {
        let reported = std::mem::take(&mut self.reported);
        match answer {
            Ok(Reply::Updated(results)) => {
                self.reporting = Lane::due_at(now);
                for (update, result) in reported.into_iter().zip(results) {
                    match result {
                        Ok(()) => self.finished += 1,
                        Err(refusal) => self.report_refused(update, &refusal, now),
                    }
                }
            }
            Err(error) if !error.is_retryable() => {
                log::error!("worker {}: {error}; its reports are dropped", self.worker);
                self.reporting = Lane::due_at(now);
            }
            Ok(_) | Err(_) => {
                for update in reported.into_iter().rev() {
                    self.outbox.push_front(update);
                }
                self.reporting.failed(now, &mut self.dice);
            }
        }
    }

    fn report_refused(&mut self, update: StatusUpdate, refusal: &Refusal, now: Moment) {
        if refusal.is_retryable() || refusal.unknown {
            self.outbox.push_back(update);
            self.reporting.due = now.after(PAUSE_MIN);
        } else {
            // Somebody else has the job, or it was cancelled: the result does not count.
            log::info!(
                "worker {}: the end of job {} came to nothing: {refusal}",
                self.worker,
                update.job
            );
        }
    }
}

/// Tells whether the cluster says that this start of the worker is over.
fn is_over(error: &Error) -> bool {
    error.refusal().is_some_and(|refusal| refusal.code == Code::FailedPrecondition)
}

mod leaving;
mod notes;
mod sayings;
#[cfg(test)]
mod tests;

//! A virtual client: what it wants next, in bursts, and what it writes down of the answers.

use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;

use crate::client::error::Error;
use crate::jobs::job::{Body, JobView, NewJob, Status};
use crate::jobs::options::{Options, Tags};
use crate::jobs::rules::{QueueChange, Rate};
use crate::sim::calling::{Calling, Done, Sending, Up};
use crate::sim::crons;
use crate::sim::generate::seen;
use crate::sim::job_model::{Asks, Cancelled, Op, Submitted};
use crate::sim::recorder::{Recorder, new_id};
use crate::types::{JobId, NodeId, QueueName, Tag, UniqueKey};
use crate::wire;
use crate::wire::message::{Code, Filter, Refusal, Reply, Request};

/// Calls of one client under way at one time, at most.
const CALLS_MAX: usize = 4;

/// Jobs that clients think of in one round, at most, so that a round can be remembered.
pub const ROUND_JOBS_MAX: usize = 600;

/// A client that gives up early does so after a time of up to this, ms.
const IMPATIENCE_MS_MAX: u64 = 1500;

/// A patient client waits so long for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How a client goes about it; drawn from the seed, so that some worlds are busy and some are about few jobs.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// From one operation to the next within a burst, on average, ms.
    pub gap_ms: u64,
    /// A burst, on average, ms.
    pub burst_ms: u64,
    /// The quiet time after it, on average, ms.
    pub quiet_ms: u64,
    /// Of a hundred calls, so many are given up early.
    pub impatient_percent: u32,
    /// Of a hundred operations, so many begin a new job.
    pub new_percent: u32,
}

impl Pace {
    /// Draws one.
    #[must_use]
    pub fn draw(rng: &mut Rng) -> Self {
        Self {
            gap_ms: rng.u64(5..120),
            burst_ms: rng.u64(200..3000),
            quiet_ms: rng.u64(200..8000),
            impatient_percent: if rng.bool() { rng.u32(0..30) } else { 0 },
            new_percent: rng.u32(15..60),
        }
    }
}

/// A virtual client.
#[derive(Debug)]
pub struct Client {
    number: u64,
    nodes: u64,
    rng: Rng,
    pace: Pace,
    calling: Calling<()>,
    next_at: u64,
    burst_ends: u64,
    acknowledged: u64,
    reads: u64,
    /// It may have made rules for queues, or crons, that still stand.
    rules_changed: bool,
}

impl Client {
    /// Makes a client with its own dice.
    #[must_use]
    pub fn new(number: u64, seed: u64, nodes: u64, pace: Pace) -> Self {
        let mut rng = Rng::with_seed(seed);
        let calling = Calling::new(nodes, rng.u64(..));
        Self {
            number,
            nodes,
            rng,
            pace,
            calling,
            next_at: 0,
            burst_ends: 0,
            acknowledged: 0,
            reads: 0,
            rules_changed: false,
        }
    }

    /// Takes what has come, begins what is due, and says what to send. `more` tells whether to begin anything.
    pub fn step(
        &mut self,
        now: u64,
        more: bool,
        up: Up<'_>,
        recorder: &mut Recorder,
        sendings: &mut Vec<Sending>,
    ) {
        self.settle(now, recorder);
        if !more && self.rules_changed && self.calling.is_empty() {
            self.settle_rules(now, recorder);
        }
        if more && now >= self.next_at {
            self.next_at = now + self.pause(now);
            if self.calling.len() < CALLS_MAX {
                self.begin(now, recorder);
            }
        }
        self.calling.step(now, up, sendings);
        self.settle(now, recorder);
    }

    /// Returns when it wants to be asked again.
    #[must_use]
    pub fn wake_at(&self, more: bool) -> u64 {
        let own = match (more, self.rules_changed) {
            (true, _) => self.next_at,
            // What is left to take back is taken back as soon as nothing is open.
            (false, true) if self.calling.is_empty() => 0,
            (false, _) => u64::MAX,
        };
        own.min(self.calling.wake_at())
    }

    /// Hears an answer.
    pub fn answered(&mut self, corr: u64, reply: Reply, now: u64) {
        self.calling.answered(corr, reply, now);
    }

    /// Hears that a node died.
    pub fn broke(&mut self, node: NodeId, now: u64) {
        self.calling.broke(node, now);
    }

    /// Tells whether nothing is open.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.calling.is_empty() && !self.rules_changed
    }

    /// Returns how many submits were acknowledged to it, and how many reads.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.acknowledged, self.reads)
    }

    fn pause(&mut self, now: u64) -> u64 {
        if now < self.burst_ends {
            return self.rng.u64(1..=self.pace.gap_ms * 2);
        }
        let quiet = self.rng.u64(1..=self.pace.quiet_ms * 2);
        self.burst_ends = now + quiet + self.rng.u64(1..=self.pace.burst_ms * 2);
        quiet
    }

    fn begin(&mut self, now: u64, recorder: &mut Recorder) {
        if self.rng.u32(0..60) == 0 {
            let request = crons::draw(&mut self.rng);
            let began = recorder.moment(now);
            self.rules_changed = true;
            return self.calling.begin_at((), request, None, now, PATIENCE, began);
        }
        if self.rng.u32(0..40) == 0 {
            let (queue, change) = (self.queue(), self.change());
            let began = recorder.moment(now);
            self.rules_changed = true;
            let request = Request::ChangeQueue { queue, change };
            return self.calling.begin_at((), request, None, now, PATIENCE, began);
        }
        let dice = self.rng.u32(0..100);
        let is_new = dice < self.pace.new_percent && recorder.jobs().len() < ROUND_JOBS_MAX;
        let request =
            if is_new { self.submit_new(now, recorder) } else { self.ask_about(recorder) };
        let Some(request) = request else { return };
        let timeout = match self.rng.u32(0..100) < self.pace.impatient_percent {
            true => Duration::from_millis(self.rng.u64(20..IMPATIENCE_MS_MAX)),
            false => PATIENCE,
        };
        // Any node answers a read, and must not answer it from the past.
        let is_aimed = !request.is_change() && self.rng.bool();
        let only = is_aimed.then(|| NodeId(self.rng.u64(1..=self.nodes)));
        let began = recorder.moment(now);
        self.calling.begin_at((), request, only, now, timeout, began);
    }

    fn queue(&mut self) -> QueueName {
        QueueName::new(if self.rng.bool() { "a" } else { "b" }).unwrap_or_default()
    }

    /// Draws a change of a queue's rules.
    fn change(&mut self) -> QueueChange {
        match self.rng.u32(0..6) {
            0 => QueueChange::Pause,
            1 => QueueChange::Resume,
            2 => QueueChange::Limit(Some(self.rng.u32(1..4))),
            3 => QueueChange::Limit(None),
            4 => {
                let rate = Rate { count: self.rng.u32(1..20), per_ms: self.rng.u64(100..1000) };
                QueueChange::Rate(Some(rate))
            }
            _ => QueueChange::Rate(None),
        }
    }

    /// Takes back the rules and the crons that it may have made, so that every job has the time to end.
    fn settle_rules(&mut self, now: u64, recorder: &mut Recorder) {
        let changes = [QueueChange::Resume, QueueChange::Limit(None), QueueChange::Rate(None)];
        for name in ["a", "b"] {
            for change in changes {
                let queue = QueueName::new(name).unwrap_or_default();
                let request = Request::ChangeQueue { queue, change };
                let began = recorder.moment(now);
                self.calling.begin_at((), request, None, now, PATIENCE, began);
            }
        }
        for request in crons::removals() {
            let began = recorder.moment(now);
            self.calling.begin_at((), request, None, now, PATIENCE, began);
        }
        self.rules_changed = false;
    }

    fn submit_new(&mut self, now: u64, recorder: &mut Recorder) -> Option<Request> {
        let mut draw = || {
            let id = new_id(now, &mut self.rng);
            recorder.add_job(id, 0);
            recorder.open(id).then(|| new_job(id, 0))
        };
        let (first, second) = (draw()?, draw());
        let third = draw();
        if self.rng.u32(0..4) > 0 {
            // The others were only thought of; somebody may ask for them in vain, or submit them.
            for unused in second.into_iter().chain(third) {
                recorder.close(unused.id);
            }
            return Some(Request::SubmitJob(first));
        }
        Some(Request::SubmitBatch([first].into_iter().chain(second).chain(third).collect()))
    }

    /// Asks about jobs that somebody has thought of, the newest rather than old ones.
    fn ask_about(&mut self, recorder: &mut Recorder) -> Option<Request> {
        let id = self.choose(recorder)?;
        match self.rng.u32(0..100) {
            0..45 => Some(Request::GetJob { id }),
            45..60 => {
                let content = u64::from(self.rng.u32(0..10) == 0);
                Some(Request::SubmitJob(new_job(id, content)))
            }
            60..75 => Some(Request::CancelJobs { ids: self.several(id, recorder) }),
            75..92 => {
                let wait_ms = if self.rng.bool() { 0 } else { self.rng.u64(0..3000) };
                Some(Request::WaitJobs { ids: self.several(id, recorder), wait_ms })
            }
            _ => {
                recorder.close(id);
                let filter = Filter {
                    queue: self.rng.bool().then(|| queue_of(id)),
                    after: Some(id),
                    limit: self.rng.u32(1..12),
                    ..Filter::default()
                };
                Some(Request::ListJobs(Box::new(filter)))
            }
        }
    }

    /// Opens an operation on a job of this round.
    fn choose(&mut self, recorder: &mut Recorder) -> Option<JobId> {
        let count = recorder.jobs().len();
        let from = if self.rng.u32(0..3) > 0 { count.saturating_sub(12) } else { 0 };
        let at = (from < count).then(|| self.rng.usize(from..count))?;
        let id = recorder.jobs().get(at).copied()?;
        recorder.open(id).then_some(id)
    }

    fn several(&mut self, first: JobId, recorder: &mut Recorder) -> Vec<JobId> {
        let mut ids = vec![first];
        while self.rng.u32(0..3) == 0 && ids.len() < 5 {
            match self.choose(recorder) {
                Some(id) if !ids.contains(&id) => ids.push(id),
                Some(id) => recorder.close(id),
                None => break,
            }
        }
        ids
    }

    /// Writes down what is over.
    fn settle(&mut self, now: u64, recorder: &mut Recorder) {
        for done in self.calling.take_done() {
            let is_rule = matches!(*done.request, Request::ChangeQueue { .. });
            if is_rule || matches!(*done.request, Request::AddCron(_) | Request::ChangeCron { .. })
            {
                self.rules_changed |= done.result.as_ref().is_err_and(|error| !is_answered(error));
                continue;
            }
            let (acknowledged, reads) = write_down(self.number, &done, now, recorder);
            self.acknowledged += acknowledged;
            self.reads += reads;
        }
    }
}

/// Tells whether the state itself said no: there is nothing to take back for it.
fn is_answered(error: &Error) -> bool {
    matches!(fault(error), Fault::Refused(Code::NotFound | Code::AlreadyExists))
}

/// Writes down a call that is over. Returns how many submits were acknowledged, and how many reads answered.
pub fn write_down(client: u64, done: &Done<()>, now: u64, recorder: &mut Recorder) -> (u64, u64) {
    Book { client, began: done.began, now, recorder }.settle(done)
}

/// Where one call's outcome is written.
struct Book<'a> {
    client: u64,
    began: u64,
    now: u64,
    recorder: &'a mut Recorder,
}

impl Book<'_> {
    /// Writes an outcome that is known.
    fn known(&mut self, job: JobId, op: Op) {
        self.recorder.close(job);
        self.recorder.write(self.client, job, self.began, Some(self.now), op);
    }

    fn unknown(&mut self, job: JobId, op: Op) {
        self.recorder.write(self.client, job, self.began, None, op);
    }

    fn settle(&mut self, done: &Done<()>) -> (u64, u64) {
        let repeated = done.sent > 1;
        match (&*done.request, &done.result) {
            (Request::SubmitJob(job), result) => {
                let result = match result {
                    Ok(Reply::Submitted(submitted)) => Ok(outcome_of(job, submitted)),
                    Ok(_) => return (0, 0),
                    Err(error) => Err(fault(error)),
                };
                (self.submitted(job, result, repeated), 0)
            }
            (Request::SubmitBatch(jobs), Ok(Reply::SubmittedBatch(results))) => {
                let each = jobs.iter().zip(results).map(|(job, result)| {
                    let result = match result {
                        Ok(submitted) => Ok(outcome_of(job, submitted)),
                        // What a former try of the whole came to is not told.
                        Err(refusal) => Err(refused(refusal, repeated)),
                    };
                    self.submitted(job, result, repeated)
                });
                (each.sum(), 0)
            }
            (Request::SubmitBatch(jobs), Err(error)) => {
                for job in jobs {
                    self.submitted(job, Err(fault(error)), repeated);
                }
                (0, 0)
            }
            (Request::CancelJobs { ids }, result) => {
                for (at, id) in ids.iter().enumerate() {
                    let result = match result {
                        Ok(Reply::Cancelled(results)) => {
                            results.get(at).cloned().ok_or(Fault::Unknown)
                        }
                        Ok(_) => Err(Fault::Unknown),
                        Err(error) => Err(fault(error)),
                    };
                    self.cancelled(*id, result, repeated);
                }
                (0, 0)
            }
            (Request::GetJob { id }, Ok(Reply::Job(job))) => self.saw(*id, Some(job)),
            (Request::GetJob { id }, Err(error)) => match fault(error) {
                Fault::Refused(Code::NotFound) => self.saw(*id, None),
                Fault::Refused(_) | Fault::Unknown => self.nothing(&[*id]),
            },
            (Request::WaitJobs { ids, .. }, Ok(Reply::Waited(results))) => {
                for (id, result) in ids.iter().zip(results) {
                    match result {
                        Ok(job) => self.saw(*id, Some(job)),
                        Err(no) if no.code == Code::NotFound => self.saw(*id, None),
                        Err(_) => self.nothing(&[*id]),
                    };
                }
                (0, ids.len() as u64)
            }
            (Request::WaitJobs { ids, .. }, Err(_)) => self.nothing(ids),
            (Request::ListJobs(filter), Ok(Reply::Jobs { jobs, more, .. })) => {
                self.listed(filter, jobs, *more)
            }
            _ => (0, 0),
        }
    }

    fn nothing(&mut self, ids: &[JobId]) -> (u64, u64) {
        ids.iter().for_each(|id| self.recorder.close(*id));
        (0, 0)
    }

    fn submitted(&mut self, job: &NewJob, result: Result<Submitted, Fault>, repeated: bool) -> u64 {
        let content = content_of(job);
        let op = |outcome| Op::Submit { content, repeated, outcome };
        match result {
            Ok(outcome) => self.known(job.id, op(Some(outcome))),
            Err(Fault::Refused(Code::AlreadyExists)) => {
                self.known(job.id, op(Some(Submitted::AlreadyExists)));
            }
            Err(Fault::Refused(_)) => self.recorder.close(job.id),
            Err(Fault::Unknown) => self.unknown(job.id, op(None)),
        }
        u64::from(result.is_ok())
    }

    fn cancelled(
        &mut self,
        id: JobId,
        result: Result<Result<Status, Refusal>, Fault>,
        repeated: bool,
    ) {
        let op = |outcome| Op::Cancel { repeated, outcome };
        match result {
            Ok(Ok(_)) => self.known(id, op(Some(Cancelled::Cancelled))),
            Ok(Err(no)) => match no.code {
                Code::NotFound => self.known(id, op(Some(Cancelled::NotFound))),
                Code::FailedPrecondition => {
                    let said = |status: &Status| no.message.contains(status.as_str());
                    let status = Status::ALL.into_iter().find(said);
                    self.known(id, op(Some(Cancelled::Ended(status))));
                }
                Code::InvalidArgument
                | Code::AlreadyExists
                | Code::NotLeader
                | Code::ResourceExhausted
                | Code::DeadlineExceeded
                | Code::Unavailable
                | Code::Unauthenticated
                | Code::PermissionDenied
                | Code::StaleFence
                | Code::Internal => self.unknown(id, op(None)),
            },
            Err(Fault::Refused(_)) => self.recorder.close(id),
            Err(Fault::Unknown) => self.unknown(id, op(None)),
        }
    }

    fn saw(&mut self, id: JobId, job: Option<&JobView>) -> (u64, u64) {
        self.known(id, Op::Look { seen: job.map(seen) });
        (0, 1)
    }

    /// Writes down what a page showed, and which jobs it would have shown if they were there.
    fn listed(&mut self, filter: &Filter, jobs: &[JobView], more: bool) -> (u64, u64) {
        for job in jobs {
            if self.recorder.content(job.id).is_some() {
                self.saw(job.id, Some(job));
            }
        }
        let last = jobs.last().map(|job| job.id).filter(|_| more);
        let missing: Vec<JobId> = self
            .recorder
            .jobs()
            .iter()
            .filter(|id| filter.after.is_none_or(|after| **id > after))
            .filter(|id| last.is_none_or(|last| **id < last) && !(more && jobs.is_empty()))
            .filter(|id| filter.queue.as_ref().is_none_or(|queue| queue_of(**id) == *queue))
            .filter(|id| jobs.iter().all(|job| job.id != **id))
            .copied()
            .collect();
        for id in missing {
            self.saw(id, None);
        }
        (0, 1)
    }
}

/// Why a call came to nothing that is known.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// It was certainly not done; or this is the answer.
    Refused(Code),
    Unknown,
}

fn fault(error: &Error) -> Fault {
    if !error.is_definite() {
        return Fault::Unknown;
    }
    Fault::Refused(error.refusal().map_or(Code::Unavailable, |refusal| refusal.code))
}

fn refused(refusal: &Refusal, repeated: bool) -> Fault {
    if refusal.unknown || repeated && refusal.code != Code::AlreadyExists {
        return Fault::Unknown;
    }
    Fault::Refused(refusal.code)
}

/// Returns the queue of a job: an id is enough to submit the same job again.
#[must_use]
pub fn queue_of(id: JobId) -> QueueName {
    let [.., last] = id.0;
    let name = if last.is_multiple_of(3) { "b" } else { "a" };
    QueueName::new(name).unwrap_or_default()
}

/// Makes the job of an id, or another one with the same id.
#[must_use]
pub fn new_job(id: JobId, content: u64) -> NewJob {
    let [.., size, last] = id.0;
    let body = if last.is_multiple_of(4) {
        Body::Command(vec!["true".into(), content.to_string()])
    } else {
        // A few are so large that they are shown from an image.
        let bytes = if size == 0 { 20_000 } else { usize::from(size) };
        let mut payload = vec![size; bytes];
        payload.push(u8::try_from(content).unwrap_or(u8::MAX));
        Body::Payload(Bytes::from(payload))
    };
    NewJob { id, queue: queue_of(id), body, options: Options::shared(options_of(id)) }
}

/// Returns what the job of an id asks for: half of them nothing.
fn options_of(id: JobId) -> Options {
    let none = Options::default();
    let [.., dice, _, _] = id.0;
    match dice % 20 {
        0 => Options { priority: 9, ..none },
        1 => Options { priority: 0, retries: 1, backoff_ms: 50, ..none },
        2 => Options { retries: 2, backoff_ms: 200, ..none },
        3 => Options { retries: 4, backoff_ms: 0, priority: 7, ..none },
        4 => Options { delay_ms: Some(1500), ..none },
        5 => Options { timeout_ms: Some(100), ..none },
        6 => Options { timeout_ms: Some(400), retries: 1, backoff_ms: 100, ..none },
        7 => Options { ttl_ms: Some(700), ..none },
        8 => Options { ttl_ms: Some(300), delay_ms: Some(200), ..none },
        9 => Options { tags: tagged(), ..none },
        10 | 11 => Options { unique: key(id), ..none },
        12 => Options { unique: key(id), unique_for_ms: Some(900), retries: 1, ..none },
        _ => none,
    }
}

/// Returns one of few keys.
fn key(id: JobId) -> Option<UniqueKey> {
    let [.., last] = id.0;
    UniqueKey::new(if last.is_multiple_of(2) { "one" } else { "other" }).ok()
}

/// Returns what the model must know of it.
#[must_use]
pub fn asks_of(id: JobId) -> Asks {
    let options = options_of(id);
    Asks { retries: options.retries, expires: options.ttl_ms.is_some() }
}

/// Returns the tags that some jobs ask for, and that some workers have.
#[must_use]
pub fn tagged() -> Tags {
    Tags::new(Tag::new("t"))
}

/// Says what an answer to a submit means for the job.
fn outcome_of(job: &NewJob, answer: &wire::message::Submitted) -> Submitted {
    match answer.created {
        true => Submitted::Created,
        false if answer.id == job.id => Submitted::Known,
        false => Submitted::Taken,
    }
}

fn content_of(job: &NewJob) -> u64 {
    u64::from(job.body != new_job(job.id, 0).body)
}

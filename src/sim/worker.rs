//! A virtual worker: the production's duties, with handlers that take a while, and a life that goes wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;

use crate::client::duty::{Ask, Duty, Order, Timing};
use crate::client::error::Error;
use crate::client::moment::Moment;
use crate::jobs::command::StatusUpdate;
use crate::jobs::job::{Assignment, Serves, Verdict};
use crate::jobs::options::Tags;
use crate::replica::view::Notice;
use crate::sim::calling::{Calling, Done, Sending, Up};
use crate::sim::checks::Violation;
use crate::sim::client::tagged;
use crate::sim::generate::result_of;
use crate::sim::holders::Holders;
use crate::sim::home::{Home, News};
use crate::sim::job_model::{Op, Reported};
use crate::sim::recorder::Recorder;
use crate::types::{Fence, Incarnation, JobId, Millis, NodeId, QueueName, WorkerId};
use crate::wire::message::{Code, Refusal, Reply, Request};

/// Reports that somebody still means to send although they are worth nothing, at most.
const LATE_MAX: usize = 8;

/// How long a worker that is asked to leave lets its handlers go on.
const GRACE: Duration = Duration::from_secs(1);

/// Of so many starts of a process one finds the clock set back, ...
const CLOCK_SET_BACK_ONE_IN: u32 = 4;

/// ... by less than this, ms: its first number is below those of its former starts.
const CLOCK_SET_BACK_MS_MAX: u64 = 600_000;

/// Of so many looks of a worker one finds that it is asked to leave, whatever it is doing.
const LEAVES_ONE_IN: u32 = 20_000;

/// What a call was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// The worker's duty.
    Duty(Ask),
    /// A report that comes twice, or late, or under a token that is not the job's: the network and broken programs
    /// do that.
    Late,
}

/// How a worker goes about it.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// How long a handler takes, at most, ms; some take much longer.
    pub handler_ms_max: u64,
    /// Of a hundred jobs, so many fail.
    pub fail_percent: u32,
    /// Of a hundred attempts that ended or were abandoned, so many are reported once more.
    pub late_percent: u32,
    /// Of a thousand handlers, so many end with the worker being asked to leave.
    pub leave_permille: u32,
}

impl Habits {
    /// Draws some.
    #[must_use]
    pub fn draw(rng: &mut Rng) -> Self {
        Self {
            handler_ms_max: rng.u64(10..800),
            fail_percent: rng.u32(0..30),
            late_percent: rng.u32(0..25),
            leave_permille: rng.u32(0..15),
        }
    }
}

/// A handler that runs.
#[derive(Debug)]
struct Running {
    job: JobId,
    ends: u64,
}

/// A virtual worker.
#[derive(Debug)]
pub struct Worker {
    number: u64,
    rng: Rng,
    habits: Habits,
    name: WorkerId,
    serves: Serves,
    slots: u32,
    duty: Duty,
    calling: Calling<Purpose>,
    running: BTreeMap<Fence, Running>,
    /// Reports that come when they are not wanted, each with its time.
    late: Vec<(u64, StatusUpdate)>,
    /// Dead, or standing still, until then.
    asleep_until: u64,
    /// What came while it stood still.
    waiting: Vec<(u64, Reply)>,
    /// When what was acknowledged last was sent, and of which start.
    acknowledged: Option<(Incarnation, u64)>,
    /// The start that registers, or has: what is said of former ones it brought about itself.
    start: Option<Incarnation>,
    leaves: bool,
    reports: u64,
    home: Option<Home>,
}

impl Worker {
    /// Makes a worker with its own dice.
    ///
    /// # Panics
    /// Never: the name is one.
    #[must_use]
    pub fn new(number: u64, seed: u64, nodes: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let queue = |name| QueueName::new(name).expect("a plain name");
        let serves = match number % 3 {
            0 => Serves::Commands,
            1 => Serves::Payloads(vec![queue("a"), queue("b")]),
            _ => Serves::Payloads(vec![queue(if rng.bool() { "a" } else { "b" })]),
        };
        let name = WorkerId::new(&format!("sim-{number}")).expect("a plain name");
        let slots = rng.u32(1..6);
        let duty = duty(number, &name, &serves, slots, 0, &mut rng);
        Self {
            number,
            habits: Habits::draw(&mut rng),
            calling: Calling::new(nodes, rng.u64(..)),
            rng,
            name,
            serves,
            slots,
            duty,
            running: BTreeMap::new(),
            late: Vec::new(),
            asleep_until: 0,
            waiting: Vec::new(),
            acknowledged: None,
            start: None,
            leaves: false,
            reports: 0,
            home: None,
        }
    }

    /// Builds it into a node: it is told of its jobs by the node's replica, and dies with it.
    #[must_use]
    pub fn built_into(mut self, node: NodeId) -> Self {
        self.home = Some(Home::new(node));
        self
    }

    /// Returns the node it is built into.
    #[must_use]
    pub fn home(&self) -> Option<NodeId> {
        self.home.as_ref().map(Home::node)
    }

    /// Hears what the replica of its node says about its jobs.
    pub fn noticed(&mut self, notices: Vec<Notice>) {
        if let Some(home) = &mut self.home {
            home.hear(notices);
        }
    }

    /// Returns the start of which the replica of its node must hear before it registers.
    pub fn announcement(&mut self) -> Option<(NodeId, WorkerId, Incarnation)> {
        let home = self.home.as_mut()?;
        home.take_announcement().map(|incarnation| (home.node(), self.name.clone(), incarnation))
    }

    /// Its node is back.
    pub fn wake(&mut self, at: u64) {
        self.asleep_until = at;
    }

    /// Returns its number, by which others know it.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Returns how many reports were accepted.
    #[must_use]
    pub fn reports(&self) -> u64 {
        self.reports
    }

    /// Dies with all it held, and starts anew later under the same name.
    pub fn die(&mut self, now: u64, until: u64, recorder: &mut Recorder, holders: &mut Holders) {
        self.start_anew(now, recorder, holders);
        self.asleep_until = until;
    }

    fn start_anew(&mut self, now: u64, recorder: &mut Recorder, holders: &mut Holders) {
        for done in self.calling.forget() {
            self.write_reports(&done, now, recorder);
        }
        holders.leave_all(self.number);
        self.running.clear();
        self.late.clear();
        self.waiting.clear();
        self.acknowledged = None;
        self.start = None;
        self.leaves = false;
        if let Some(home) = &mut self.home {
            home.forget();
        }
        let set_back = match self.rng.u32(0..CLOCK_SET_BACK_ONE_IN) {
            0 => self.rng.u64(0..CLOCK_SET_BACK_MS_MAX),
            _ => 0,
        };
        let wall = now.saturating_sub(set_back);
        self.duty = duty(self.number, &self.name, &self.serves, self.slots, wall, &mut self.rng);
    }

    /// Stands still, and does not know it.
    pub fn pause(&mut self, until: u64, holders: &mut Holders) {
        self.asleep_until = self.asleep_until.max(until);
        holders.leave_all(self.number);
    }

    /// Tells whether it is dead or stands still.
    #[must_use]
    pub fn sleeps(&self, now: u64) -> bool {
        now < self.asleep_until
    }

    /// Hears an answer, when it wakes.
    pub fn answered(&mut self, corr: u64, reply: Reply, now: u64) {
        if self.sleeps(now) {
            self.waiting.push((corr, reply));
        } else {
            self.calling.answered(corr, reply, now);
        }
    }

    /// Hears that a node died.
    pub fn broke(&mut self, node: NodeId, now: u64) {
        self.calling.broke(node, now);
    }

    /// Ends what is to end, before anybody begins anything at this time.
    ///
    /// # Errors
    /// A promise that was broken.
    pub fn step(
        &mut self,
        now: u64,
        recorder: &mut Recorder,
        holders: &mut Holders,
    ) -> Result<Vec<Assignment>, Violation> {
        if self.sleeps(now) {
            return Ok(Vec::new());
        }
        for (corr, reply) in std::mem::take(&mut self.waiting) {
            self.calling.answered(corr, reply, now);
        }
        self.settle(now, recorder)?;
        self.heed(now, recorder, holders);
        self.end_handlers(now, holders);
        self.speak_late(now, recorder);
        if !self.leaves && self.rng.u32(0..LEAVES_ONE_IN) == 0 {
            self.leaves = true;
            self.duty.stop(Moment(now));
        }
        let mut begins = Vec::new();
        for order in self.duty.step(Moment(now)) {
            match order {
                Order::Call { ask, request, timeout } => {
                    if let Ask::Register { incarnation, .. } = ask {
                        self.start = Some(incarnation);
                    }
                    if let Some(home) = &mut self.home
                        && home.replaces(ask)
                    {
                        continue;
                    }
                    let request = self.as_served(request);
                    let began = recorder.moment(now);
                    self.calling.begin(Purpose::Duty(ask), request, now, timeout, began);
                }
                Order::Start(assignment) => begins.push(assignment),
                Order::Abandon(fence, _) => {
                    if let Some(running) = self.running.remove(&fence) {
                        holders.leave(self.number, running.job);
                        self.come_late(running.job, fence, now);
                    }
                }
            }
        }
        if self.duty.ended_with().is_some() {
            self.start_anew(now, recorder, holders);
            self.asleep_until = now + self.rng.u64(0..4000);
        }
        // Whatever ended while it stood still is held by nobody any more.
        for (fence, running) in &self.running {
            holders.hold(self.number, running.job, *fence)?;
        }
        Ok(begins)
    }

    /// Begins handlers.
    ///
    /// # Errors
    /// A promise that was broken.
    pub fn begin(
        &mut self,
        assignments: Vec<Assignment>,
        now: u64,
        holders: &mut Holders,
    ) -> Result<(), Violation> {
        for Assignment { id, fence, .. } in assignments {
            holders.begin(self.number, id, fence)?;
            let long = if self.rng.u32(0..40) == 0 { 8 } else { 1 };
            let ends = now + self.rng.u64(0..=self.habits.handler_ms_max * long);
            // These may be more than its slots: a worker hears with its next heartbeat that a job was cancelled.
            self.running.insert(fence, Running { job: id, ends });
        }
        Ok(())
    }

    /// Says what to send.
    pub fn send(&mut self, now: u64, up: Up<'_>, sendings: &mut Vec<Sending>) {
        if !self.sleeps(now) {
            self.calling.step(now, up, sendings);
        }
    }

    /// Returns when it wants to be asked again.
    #[must_use]
    pub fn wake_at(&self) -> u64 {
        let ends = self.running.values().map(|running| running.ends).min().unwrap_or(u64::MAX);
        let late = self.late.iter().map(|(at, _)| *at).min().unwrap_or(u64::MAX);
        let told = match self.home.as_ref().is_some_and(Home::has_news) {
            true => 0,
            false => u64::MAX,
        };
        let own = self.duty.wake_at().0.min(self.calling.wake_at()).min(ends).min(late).min(told);
        own.max(self.asleep_until)
    }

    /// Follows the replica of its node.
    fn heed(&mut self, now: u64, recorder: &mut Recorder, holders: &mut Holders) {
        let Some(home) = &mut self.home else { return };
        let registered = self.acknowledged.map(|(start, _)| start);
        let running = self.running.keys().copied().collect();
        let Some(News { incarnation, begin, end }) = home.news(registered, &running) else {
            return;
        };
        for fence in end {
            if let Some(running) = self.running.remove(&fence) {
                holders.leave(self.number, running.job);
                let verdict = self.verdict(fence);
                // Nobody wants to hear of it any more.
                self.duty.ended(fence, verdict, Moment(now));
            }
        }
        for Assignment { id, attempt, fence, .. } in &begin {
            let told = recorder.moment(now);
            let op = Op::Assigned { attempt: *attempt, fence: fence.0 };
            recorder.write(self.client(), *id, told, Some(now), op);
        }
        if !begin.is_empty() {
            self.duty.heard(Ask::Reserve { incarnation }, Ok(Reply::Reserved(begin)), Moment(now));
        }
    }

    /// The library's worker serves payloads only; a built-in one says that it serves commands.
    fn as_served(&self, request: Request) -> Request {
        match (request, &self.serves) {
            (Request::RegisterWorker(mut registration), Serves::Commands) => {
                registration.serves = Serves::Commands;
                Request::RegisterWorker(registration)
            }
            (request, Serves::Commands | Serves::Payloads(_)) => request,
        }
    }

    fn end_handlers(&mut self, now: u64, holders: &mut Holders) {
        let is_over = |(_, running): &(&Fence, &Running)| running.ends <= now;
        let over: Vec<Fence> =
            self.running.iter().filter(is_over).map(|(fence, _)| *fence).collect();
        for fence in over {
            let Some(running) = self.running.remove(&fence) else { continue };
            holders.leave(self.number, running.job);
            let verdict = self.verdict(fence);
            self.duty.ended(fence, verdict, Moment(now));
            self.come_late(running.job, fence, now);
            if !self.leaves && self.rng.u32(0..1000) < self.habits.leave_permille {
                self.leaves = true;
                self.duty.stop(Moment(now));
            }
        }
    }

    /// Makes up how an attempt ended, so that each tells from all others.
    fn verdict(&mut self, fence: Fence) -> Verdict {
        let completed = self.rng.u32(0..100) >= self.habits.fail_percent;
        Verdict {
            completed,
            exit_code: Some(i32::from(!completed)),
            output: Bytes::from(format!("{fence}-{}", self.rng.u32(..))),
            output_cut: false,
            error: None,
        }
    }

    /// Now and then an attempt is reported once more, some time later, by whoever should not; and under a token
    /// that is not its own.
    fn come_late(&mut self, job: JobId, fence: Fence, now: u64) {
        if self.late.len() >= LATE_MAX || self.rng.u32(0..100) >= self.habits.late_percent {
            return;
        }
        let fence = match self.rng.u32(0..6) {
            0 => Fence(fence.0.saturating_sub(1)),
            1 => Fence(fence.0 + 1),
            _ => fence,
        };
        let verdict = self.verdict(fence);
        let at = now + self.rng.u64(0..5000);
        self.late.push((at, StatusUpdate { job, fence, verdict }));
    }

    fn speak_late(&mut self, now: u64, recorder: &mut Recorder) {
        let due = |(at, _): &mut (u64, StatusUpdate)| *at <= now;
        let due: Vec<_> = self.late.extract_if(.., due).collect();
        for (_, update) in due {
            if recorder.open(update.job) {
                let began = recorder.moment(now);
                let request = Request::UpdateJobStatus(update);
                self.calling.begin(Purpose::Late, request, now, Duration::from_secs(6), began);
            }
        }
    }

    /// Takes what is over.
    fn settle(&mut self, now: u64, recorder: &mut Recorder) -> Result<(), Violation> {
        for done in self.calling.take_done() {
            self.write_reports(&done, now, recorder);
            self.write_assignments(&done, now, recorder);
            if let Purpose::Duty(ask) = done.tag {
                self.judge(ask, &done.result, now)?;
                self.duty.heard(ask, done.result, Moment(now));
            }
        }
        Ok(())
    }

    /// A worker that was acknowledged may count on 3 s from when it sent that, whoever leads meanwhile.
    fn judge(
        &mut self,
        ask: Ask,
        result: &Result<Reply, Error>,
        now: u64,
    ) -> Result<(), Violation> {
        let (Ask::Heartbeat { incarnation, sent } | Ask::Register { incarnation, sent }) = ask
        else {
            return Ok(());
        };
        if self.start != Some(incarnation) {
            return Ok(());
        }
        let before = self.acknowledged.filter(|(start, _)| *start == incarnation);
        match result {
            Ok(_) => {
                let newest = before.map_or(sent.0, |(_, at)| at.max(sent.0));
                self.acknowledged = Some((incarnation, newest));
            }
            Err(error) if error.refusal().is_some_and(|no| no.code == Code::FailedPrecondition) => {
                let lease = Timing::default().lease;
                if let Some((_, at)) = before
                    && Moment(now) < Moment(at).after(lease)
                    && !self.leaves
                {
                    return Err(format!(
                        "{} is told that its start is over {} ms after it sent what was acknowledged last",
                        self.name,
                        now - at
                    ));
                }
            }
            Err(_) => {}
        }
        Ok(())
    }

    fn write_assignments(&self, done: &Done<Purpose>, now: u64, recorder: &mut Recorder) {
        let Ok(Reply::Reserved(assignments)) = &done.result else { return };
        for Assignment { id, attempt, fence, .. } in assignments {
            let op = Op::Assigned { attempt: *attempt, fence: fence.0 };
            recorder.write(self.client(), *id, done.began, Some(now), op);
        }
    }

    /// Writes down the reports whose answers it has not looked at yet: the round is over, and they may have counted.
    pub fn end_round(&self, recorder: &mut Recorder) {
        for (request, began) in self.calling.under_way() {
            for update in reports(request) {
                let op = Op::Report {
                    fence: update.fence.0,
                    completed: update.verdict.completed,
                    result: result_of(update.verdict.exit_code, &update.verdict.output),
                    outcome: None,
                };
                recorder.write(self.client(), update.job, began, None, op);
            }
        }
    }

    fn write_reports(&mut self, done: &Done<Purpose>, now: u64, recorder: &mut Recorder) {
        let updates = reports(&done.request);
        for (at, update) in updates.iter().enumerate() {
            let outcome = match &done.result {
                Ok(Reply::Updated(results)) => match results.get(at) {
                    Some(Ok(())) => Outcome::Known(Reported::Applied),
                    Some(Err(no)) => outcome(no, done.sent > 1),
                    None => Outcome::Unknown,
                },
                Ok(_) => Outcome::Unknown,
                // It died with the call under way.
                Err(Error::Invalid(_)) => Outcome::Unknown,
                Err(error) if error.is_definite() && done.sent < 2 => Outcome::NotDone,
                Err(_) => Outcome::Unknown,
            };
            self.reports += u64::from(outcome == Outcome::Known(Reported::Applied));
            let op = |outcome| Op::Report {
                fence: update.fence.0,
                completed: update.verdict.completed,
                result: result_of(update.verdict.exit_code, &update.verdict.output),
                outcome,
            };
            let is_late = done.tag == Purpose::Late;
            match outcome {
                Outcome::Known(known) => {
                    recorder.write(
                        self.client(),
                        update.job,
                        done.began,
                        Some(now),
                        op(Some(known)),
                    );
                }
                Outcome::Unknown => {
                    recorder.write(self.client(), update.job, done.began, None, op(None));
                }
                Outcome::NotDone => {}
            }
            if is_late && outcome != Outcome::Unknown {
                recorder.close(update.job);
            }
        }
    }

    fn client(&self) -> u64 {
        1000 + self.number
    }
}

/// What came of one report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Known(Reported),
    Unknown,
    NotDone,
}

fn outcome(no: &Refusal, repeated: bool) -> Outcome {
    match no.code {
        Code::StaleFence => Outcome::Known(Reported::StaleFence),
        Code::NotFound => Outcome::Known(Reported::NotFound),
        Code::InvalidArgument
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::NotLeader
        | Code::ResourceExhausted
        | Code::DeadlineExceeded
        | Code::Unavailable
        | Code::Unauthenticated
        | Code::PermissionDenied
        | Code::Internal => match no.unknown || repeated {
            true => Outcome::Unknown,
            false => Outcome::NotDone,
        },
    }
}

/// Returns the reports in a request.
fn reports(request: &Request) -> &[StatusUpdate] {
    #[expect(clippy::wildcard_enum_match_arm, reason = "nothing else reports")]
    match request {
        Request::BatchUpdateJobStatus(updates) => updates,
        Request::UpdateJobStatus(update) => std::slice::from_ref(update),
        _ => &[],
    }
}

fn duty(
    number: u64,
    name: &WorkerId,
    serves: &Serves,
    slots: u32,
    wall: u64,
    rng: &mut Rng,
) -> Duty {
    let queues = match serves {
        Serves::Commands => Vec::new(),
        Serves::Payloads(queues) => queues.clone(),
    };
    let first = Incarnation::first(Millis(wall), rng.u64(..));
    // The first of each kind can do everything, or some jobs never end.
    let tags = if number < 3 { tagged() } else { Tags::default() };
    Duty::new(name.clone(), first, queues, slots, Timing::default(), GRACE, rng.u64(..))
        .with_tags(tags)
}

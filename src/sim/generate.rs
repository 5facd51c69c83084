//! Histories that are legal by construction: a real machine, one command after the other, seen through operations
//! that overlap.

use std::collections::BTreeMap;

use bytes::Bytes;
use fastrand::Rng;

use crate::jobs::command::{
    CancelOutcome, Command, Limits, Outcome, Pair, Registration, Release, Stamped, StatusUpdate,
    SubmitOutcome, UpdateOutcome,
};
use crate::jobs::job::{Body, JobView, NewJob, Serves, Status, Verdict};
use crate::jobs::machine::Machine;
use crate::jobs::options::Tags;
use crate::sim::history::Record;
use crate::sim::job_model::{Cancelled, Op, Reported, Seen, Submitted};
use crate::types::{Fence, Incarnation, JobId, Millis, QueueName, WorkerId};

/// One command takes so long, in microseconds of the history.
const STEP_US: u64 = 100;

/// What a history is to look like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// All dice come from it.
    pub seed: u64,
    /// Operations, about.
    pub operations: usize,
    /// Jobs they are on.
    pub jobs: usize,
    /// How many operations overlap at one time, about.
    pub clients: u64,
    /// Of a hundred changes, so many have no known outcome.
    pub unknown_percent: u32,
}

/// Stands for exit code and output of an attempt.
#[must_use]
pub fn result_of(exit_code: Option<i32>, output: &[u8]) -> u64 {
    if exit_code.is_none() && output.is_empty() {
        return 0;
    }
    let code = u64::from(exit_code.unwrap_or(-1).cast_unsigned());
    let mix = |hash: u64, value: u64| (hash ^ value).wrapping_mul(0x0000_0100_0000_01b3);
    output.iter().fold(mix(0xcbf2_9ce4_8422_2325, code), |hash, byte| mix(hash, u64::from(*byte)))
        | 1
}

/// Says what a view shows of a job.
#[must_use]
pub fn seen(view: &JobView) -> Seen {
    Seen {
        status: view.status,
        attempt: view.attempt,
        fence: view.fence.map_or(0, |fence| fence.0),
        result: result_of(view.exit_code, &view.output),
    }
}

/// Makes a history.
#[must_use]
pub fn history(shape: Shape) -> Vec<Record> {
    let mut world = World {
        rng: Rng::with_seed(shape.seed),
        shape,
        machine: Machine::new(),
        records: Vec::new(),
        known: BTreeMap::new(),
    };
    world.command(Command::SetLimits(Limits {
        finished_age_ms_max: u64::MAX / 4,
        ..Limits::default()
    }));
    world.register();
    while world.records.len() < shape.operations {
        world.turn();
    }
    world.records
}

struct World {
    shape: Shape,
    rng: Rng,
    machine: Machine,
    records: Vec<Record>,
    /// The tokens under which each job was ever assigned.
    known: BTreeMap<JobId, Vec<(u32, Fence)>>,
}

fn worker() -> WorkerId {
    WorkerId::built_in(crate::types::NodeId(1))
}

impl World {
    fn command(&mut self, command: Command) -> Outcome {
        let index = self.machine.applied_index().next();
        self.machine.apply(index, &Stamped { now: Millis(index.0), command }).outcome
    }

    fn register(&mut self) {
        let former = self.incarnation();
        let registration = Registration {
            worker: worker(),
            incarnation: former.next(None, self.rng.u64(..)),
            slots: 4096,
            serves: Serves::Commands,
            tags: Tags::default(),
            gave_up: self.rng.bool().then_some(former),
        };
        self.command(Command::RegisterWorker(registration));
    }

    fn incarnation(&self) -> Incarnation {
        self.machine.worker(&worker()).map_or(Incarnation(0), |worker| worker.incarnation)
    }

    fn job(&mut self) -> JobId {
        JobId::new(Millis(1), self.rng.u128(0..self.shape.jobs.max(1) as u128))
    }

    /// Records an operation that was done just now.
    fn record(&mut self, job: JobId, op: Op, may_be_unknown: bool) {
        let now = 1_000_000 + self.machine.applied_index().0 * STEP_US;
        // So wide that `clients` of them overlap on average.
        let wide = STEP_US * self.shape.clients;
        let invoked_us = now - self.rng.u64(0..wide);
        let is_unknown = may_be_unknown && self.rng.u32(0..100) < self.shape.unknown_percent;
        let returned_us = (!is_unknown).then(|| now + self.rng.u64(0..wide));
        let op = if is_unknown { unknown(op) } else { op };
        let client = self.rng.u64(0..self.shape.clients.max(1));
        self.records.push(Record { client, job, invoked_us, returned_us, op });
    }

    fn turn(&mut self) {
        let job = self.job();
        match self.rng.u32(0..100) {
            0..25 => self.submit(job),
            25..55 => self.look(job),
            55..60 => self.cancel(job),
            60..78 => self.assign(job),
            78..94 => self.report(job),
            94..97 => self.give_back(job),
            97 => self.register(),
            _ => self.never(job),
        }
    }

    fn submit(&mut self, id: JobId) {
        // Now and then the id is used for something else.
        let content = u64::from(self.rng.u32(0..12) == 0);
        let body = Body::Command(vec!["true".into(), content.to_string()]);
        let new = NewJob::plain(id, QueueName::default(), body);
        let Outcome::Submitted(results) = self.command(Command::SubmitJob(vec![new])) else {
            return;
        };
        let outcome = match results.first() {
            Some(SubmitOutcome::Created) => Submitted::Created,
            Some(SubmitOutcome::Known) => Submitted::Known,
            Some(SubmitOutcome::AlreadyExists) => Submitted::AlreadyExists,
            Some(SubmitOutcome::Taken(_)) => Submitted::Taken,
            Some(
                SubmitOutcome::Exhausted | SubmitOutcome::Draining | SubmitOutcome::Invalid(_),
            )
            | None => return,
        };
        self.record(id, Op::Submit { content, repeated: false, outcome: Some(outcome) }, true);
    }

    fn look(&mut self, id: JobId) {
        let index = self.machine.applied_index().next();
        self.machine.apply_noop(index);
        let seen = self.machine.view(id).map(|view| seen(&view));
        self.record(id, Op::Look { seen }, false);
    }

    fn cancel(&mut self, id: JobId) {
        let Outcome::Cancelled(results) = self.command(Command::CancelJob(vec![id])) else {
            return;
        };
        let outcome = match results.first() {
            Some(CancelOutcome::Cancelled) => Cancelled::Cancelled,
            Some(CancelOutcome::Ended(status)) => {
                Cancelled::Ended(self.rng.bool().then_some(*status))
            }
            Some(CancelOutcome::NotFound) => Cancelled::NotFound,
            None => return,
        };
        self.record(id, Op::Cancel { repeated: false, outcome: Some(outcome) }, true);
    }

    fn assign(&mut self, job: JobId) {
        let pair = Pair { job, worker: worker(), incarnation: self.incarnation() };
        self.command(Command::AssignJob(vec![pair]));
        let Some(view) = self.machine.view(job).filter(|view| view.status == Status::Running)
        else {
            return;
        };
        let Some(fence) = view.fence else { return };
        let known = self.known.entry(job).or_default();
        if known.last().is_none_or(|(_, last)| *last < fence) {
            known.push((view.attempt, fence));
            // Workers are not always seen to begin.
            if self.rng.u32(0..3) > 0 {
                self.record(job, Op::Assigned { attempt: view.attempt, fence: fence.0 }, false);
            }
        }
    }

    /// Reports the newest attempt, or an older one.
    fn report(&mut self, job: JobId) {
        let fences = self.known.get(&job).map(Vec::as_slice).unwrap_or_default();
        let newest = self.rng.u32(0..4) > 0;
        let chosen = if newest { fences.last().copied() } else { self.rng.choice(fences).copied() };
        let Some((_, fence)) = chosen else { return };
        let verdict = Verdict {
            completed: self.rng.u32(0..4) > 0,
            exit_code: Some(0),
            output: Bytes::from(self.rng.u32(..).to_string()),
            output_cut: false,
            error: None,
        };
        let (completed, result) = (verdict.completed, result_of(Some(0), &verdict.output));
        let update = StatusUpdate { job, fence, verdict };
        let Outcome::Updated(results) = self.command(Command::UpdateJobStatus(update)) else {
            return;
        };
        let outcome = match results.first() {
            Some(UpdateOutcome::Applied) => Reported::Applied,
            Some(UpdateOutcome::StaleFence { .. }) => Reported::StaleFence,
            Some(UpdateOutcome::NotFound) => Reported::NotFound,
            None => return,
        };
        let op = Op::Report { fence: fence.0, completed, result, outcome: Some(outcome) };
        self.record(job, op, true);
    }

    fn give_back(&mut self, job: JobId) {
        let Some(fence) = self.machine.job(job).and_then(|job| job.fence()) else { return };
        let release = Release {
            worker: worker(),
            incarnation: self.incarnation(),
            jobs: vec![(job, fence)],
            leaving: false,
        };
        self.command(Command::ReleaseJob(release));
    }

    /// Records a change that was asked for and never done.
    fn never(&mut self, job: JobId) {
        let op = match self.rng.u32(0..3) {
            0 => Op::Submit { content: 0, repeated: false, outcome: None },
            1 => Op::Cancel { repeated: false, outcome: None },
            _ => Op::Report { fence: 1 << 40, completed: true, result: 1, outcome: None },
        };
        let invoked_us = 1_000_000 + self.machine.applied_index().0 * STEP_US;
        self.records.push(Record { client: 0, job, invoked_us, returned_us: None, op });
    }
}

fn unknown(op: Op) -> Op {
    match op {
        Op::Submit { content, .. } => Op::Submit { content, repeated: false, outcome: None },
        Op::Cancel { .. } => Op::Cancel { repeated: false, outcome: None },
        Op::Report { fence, completed, result, .. } => {
            Op::Report { fence, completed, result, outcome: None }
        }
        Op::Look { .. } | Op::Assigned { .. } => op,
    }
}

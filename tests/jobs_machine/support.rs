//! A machine with a log of its own, and short words for commands.

use bytes::Bytes;
use raftq::jobs::change::Change;
use raftq::jobs::command::{
    CancelOutcome, Command, Event, Limits, Outcome, Pair, RegisterOutcome, Registration, Release,
    Stamped, StatusUpdate, SubmitOutcome, UpdateOutcome,
};
use raftq::jobs::job::{Body, NewJob, Serves, Verdict};
use raftq::jobs::machine::{Applied, Machine};
use raftq::jobs::options::Tags;
use raftq::types::{Fence, Incarnation, JobId, Millis, QueueName, WorkerId};

/// A machine, the time, and what the last entry told.
pub(crate) struct Rig {
    pub(crate) machine: Machine,
    pub(crate) now: u64,
    pub(crate) events: Vec<Event>,
    pub(crate) changes: Vec<Change>,
}

pub(crate) fn id(number: u64) -> JobId {
    JobId::new(Millis(number), 7)
}

pub(crate) fn queue(name: &str) -> QueueName {
    QueueName::new(name).unwrap()
}

pub(crate) fn worker(name: &str) -> WorkerId {
    WorkerId::new(name).unwrap()
}

pub(crate) fn command(number: u64) -> NewJob {
    let words = ["echo".into(), number.to_string()];
    NewJob {
        id: id(number),
        queue: QueueName::default(),
        body: Body::Command(words.into()),
        options: None,
    }
}

pub(crate) fn payload(number: u64, name: &str, bytes: &'static [u8]) -> NewJob {
    NewJob {
        id: id(number),
        queue: queue(name),
        body: Body::Payload(Bytes::from_static(bytes)),
        options: None,
    }
}

pub(crate) fn pair(number: u64, name: &str, start: u64) -> Pair {
    Pair { job: id(number), worker: worker(name), incarnation: Incarnation(start) }
}

pub(crate) fn registration(name: &str, start: u64, slots: u32, serves: Serves) -> Registration {
    let incarnation = Incarnation(start);
    Registration {
        worker: worker(name),
        incarnation,
        slots,
        serves,
        tags: Tags::default(),
        gave_up: None,
    }
}

pub(crate) fn verdict(completed: bool) -> Verdict {
    Verdict {
        completed,
        exit_code: Some(i32::from(!completed)),
        output: Bytes::from_static(b"said\n"),
        output_cut: false,
        error: (!completed).then(|| "exit code 1".into()),
    }
}

pub(crate) fn update(number: u64, fence: Fence, completed: bool) -> StatusUpdate {
    StatusUpdate { job: id(number), fence, verdict: verdict(completed) }
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self { machine: Machine::new(), now: 1_000, events: Vec::new(), changes: Vec::new() }
    }

    pub(crate) fn with_limits(limits: Limits) -> Self {
        let mut rig = Self::new();
        assert_eq!(rig.apply(Command::SetLimits(limits)), Outcome::LimitsSet);
        rig
    }

    pub(crate) fn apply(&mut self, command: Command) -> Outcome {
        let stamped = Stamped { now: Millis(self.now), command };
        let Applied { outcome, events, changes } =
            self.machine.apply(self.machine.applied_index().next(), &stamped);
        self.machine.assert_consistent();
        (self.events, self.changes) = (events, changes);
        outcome
    }

    pub(crate) fn submit(&mut self, job: NewJob) -> SubmitOutcome {
        let Outcome::Submitted(mut outcomes) = self.apply(Command::SubmitJob(vec![job])) else {
            panic!("not the outcome of a submit")
        };
        assert_eq!(outcomes.len(), 1);
        outcomes.pop().unwrap()
    }

    /// Submits commands of these numbers.
    pub(crate) fn submit_commands(&mut self, numbers: impl IntoIterator<Item = u64>) {
        for number in numbers {
            assert_eq!(self.submit(command(number)), SubmitOutcome::Created);
        }
    }

    pub(crate) fn register(&mut self, new: Registration) -> RegisterOutcome {
        let Outcome::Registered(outcome) = self.apply(Command::RegisterWorker(new)) else {
            panic!("not the outcome of a registration")
        };
        outcome
    }

    /// Registers a worker of commands under start 1.
    pub(crate) fn register_commands(&mut self, name: &str, slots: u32) {
        let outcome = self.register(registration(name, 1, slots, Serves::Commands));
        assert_eq!(outcome, RegisterOutcome::Registered);
    }

    pub(crate) fn assign(&mut self, pairs: Vec<Pair>) -> usize {
        let Outcome::Assigned(count) = self.apply(Command::AssignJob(pairs)) else {
            panic!("not the outcome of an assignment")
        };
        count
    }

    /// Assigns one job, which must work, and returns its token.
    pub(crate) fn assign_one(&mut self, number: u64, name: &str, start: u64) -> Fence {
        assert_eq!(self.assign(vec![pair(number, name, start)]), 1);
        let fence = Fence::new(self.machine.applied_index(), 0);
        assert_eq!(self.machine.job(id(number)).unwrap().fence(), Some(fence));
        fence
    }

    pub(crate) fn report(&mut self, update: StatusUpdate) -> UpdateOutcome {
        let Outcome::Updated(mut outcomes) = self.apply(Command::UpdateJobStatus(update)) else {
            panic!("not the outcome of a report")
        };
        assert_eq!(outcomes.len(), 1);
        outcomes.pop().unwrap()
    }

    pub(crate) fn cancel(&mut self, number: u64) -> CancelOutcome {
        let Outcome::Cancelled(mut outcomes) = self.apply(Command::CancelJob(vec![id(number)]))
        else {
            panic!("not the outcome of a cancellation")
        };
        assert_eq!(outcomes.len(), 1);
        outcomes.pop().unwrap()
    }

    pub(crate) fn release(
        &mut self,
        name: &str,
        start: u64,
        jobs: &[(u64, Fence)],
        leaving: bool,
    ) -> usize {
        let jobs = jobs.iter().map(|(number, fence)| (id(*number), *fence)).collect();
        let incarnation = Incarnation(start);
        let release = Release { worker: worker(name), incarnation, jobs, leaving };
        let Outcome::Released(count) = self.apply(Command::ReleaseJob(release)) else {
            panic!("not the outcome of a release")
        };
        count
    }

    pub(crate) fn lose(&mut self, name: &str, start: u64) -> usize {
        let Outcome::Lost(count) =
            self.apply(Command::WorkerLost(vec![(worker(name), Incarnation(start))]))
        else {
            panic!("not the outcome of a loss")
        };
        count
    }

    /// The numbers of the jobs that wait, in the order in which workers of this kind get them.
    pub(crate) fn waiting(&self) -> Vec<JobId> {
        let lines = self.machine_lines();
        lines.into_iter().map(|(_, id)| id).collect()
    }

    fn machine_lines(&self) -> Vec<(u64, JobId)> {
        let filter = raftq::jobs::list::Filter {
            status: Some(raftq::jobs::job::Status::Pending),
            limit: usize::MAX,
            ..Default::default()
        };
        let (views, _) = self.machine.list(&filter);
        let mut waiting: Vec<_> = views
            .iter()
            .map(|view| (self.machine.job(view.id).unwrap().sequence, view.id))
            .collect();
        waiting.sort_unstable();
        waiting
    }
}

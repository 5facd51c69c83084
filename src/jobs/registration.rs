//! What the commands about workers do: register, release, lost.

use imbl::OrdMap;

use crate::jobs::change::{Change, What};
use crate::jobs::command::{Event, RegisterOutcome, Registration, Release};
use crate::jobs::intake::Intake;
use crate::jobs::job::{Serves, Status, WORKER_QUEUES_MAX, WORKER_SLOTS_MAX};
use crate::jobs::machine::Machine;
use crate::jobs::registry::{Worker, WorkerState};
use crate::jobs::resident::End;
use crate::types::{Fence, Incarnation, JobId, WorkerId};

/// How many gone workers one registration drops at most, to make room for itself. More than one is
/// needed only after the limit was lowered; the registrations that follow do the rest.
const DROPPED_PER_REGISTRATION_MAX: usize = 16;

/// What a job taken away from its worker has to pay for it.
#[derive(Clone, Copy, Debug)]
enum Price {
    /// Nothing: it was given back.
    Nothing,
    /// An attempt: the worker died with it, in this way.
    Attempt(&'static str),
}

impl Machine {
    /// Records a worker, or a new start of it; what a former start held waits again at once.
    pub(in crate::jobs) fn register(
        &mut self,
        new: &Registration,
        events: &mut Vec<Event>,
    ) -> RegisterOutcome {
        if !is_valid(new) {
            return RegisterOutcome::Invalid;
        }
        let former = self.registry.get(&new.worker).cloned();
        if !new.incarnation.may_follow(former.as_ref().map(|it| it.incarnation)) {
            return RegisterOutcome::Invalid;
        }
        let Some(former) = former else {
            if !self.make_room_for_worker() {
                return RegisterOutcome::Exhausted;
            }
            self.put_start(new, Fence(0), Intake::Open);
            return RegisterOutcome::Registered;
        };
        if former.incarnation == new.incarnation {
            return match former.state {
                WorkerState::Live => RegisterOutcome::Registered,
                // A start that left has ended its commands for good, too: a registration of it that
                // comes late must not bring it back.
                WorkerState::Lost | WorkerState::Left => RegisterOutcome::Superseded,
            };
        }
        // The order of starts is theirs, not that of their registrations: that of a process which died long
        // ago may still be on its way, and must not end the one that lives.
        if new.incarnation < former.incarnation {
            return RegisterOutcome::Superseded;
        }
        let same_process = new.gave_up == Some(former.incarnation);
        let price = match same_process {
            true => Price::Nothing,
            false => Price::Attempt("was restarted"),
        };
        for job in former.running.values() {
            self.take_back(*job, price, events);
        }
        let intake = former.intake.after_restart(same_process);
        self.put_start(new, former.last_assigned, intake);
        RegisterOutcome::Registered
    }

    fn put_start(&mut self, new: &Registration, last_assigned: Fence, intake: Intake) {
        self.registry.put(Worker {
            id: new.worker.clone(),
            incarnation: new.incarnation,
            slots: new.slots,
            serves: new.serves.clone(),
            tags: new.tags.clone(),
            state: WorkerState::Live,
            intake,
            registered_ms: self.now,
            since_ms: self.now,
            last_assigned,
            running: OrdMap::new(),
        });
        self.note_worker(What::WorkerRegistered, &new.worker);
    }

    /// Drops workers that are gone longest until one more fits. Returns whether one does.
    fn make_room_for_worker(&mut self) -> bool {
        let max = u64::from(self.limits.workers_max);
        for _ in 0..DROPPED_PER_REGISTRATION_MAX {
            if self.registry.len() < max || !self.registry.drop_longest_gone() {
                break;
            }
        }
        self.registry.len() < max
    }

    /// Takes back what a worker gives back; returns how many jobs that were. A job that it does not
    /// hold under the token it names is left alone.
    pub(in crate::jobs) fn release(&mut self, given: &Release, events: &mut Vec<Event>) -> usize {
        let Some(worker) = self.registry.get(&given.worker).cloned() else { return 0 };
        if worker.incarnation != given.incarnation || worker.state != WorkerState::Live {
            return 0;
        }
        if given.leaving {
            self.set_gone(&worker, WorkerState::Left);
        }
        let mut count = 0;
        for (job, fence) in &given.jobs {
            if worker.running.get(fence) == Some(job) && self.runs_under(*job, *fence) {
                self.take_back(*job, Price::Nothing, events);
                count += 1;
            }
        }
        if given.leaving {
            for (fence, job) in &worker.running {
                if self.runs_under(*job, *fence) {
                    self.take_back(*job, Price::Nothing, events);
                    count += 1;
                }
            }
        }
        count
    }

    /// Writes down the leader's verdict that a start of a worker is lost. Returns whether it was
    /// that start, and live.
    pub(in crate::jobs) fn lose(
        &mut self,
        worker: &WorkerId,
        incarnation: Incarnation,
        events: &mut Vec<Event>,
    ) -> bool {
        let Some(worker) = self.registry.get(worker).cloned() else { return false };
        if worker.incarnation != incarnation || worker.state != WorkerState::Live {
            return false;
        }
        self.set_gone(&worker, WorkerState::Lost);
        for job in worker.running.values() {
            self.take_back(*job, Price::Attempt("was lost"), events);
        }
        true
    }

    fn note_worker(&mut self, what: What, worker: &WorkerId) {
        self.note(Change { worker: Some(worker.clone()), ..Change::new(what) });
    }

    fn set_gone(&mut self, worker: &Worker, state: WorkerState) {
        let what = match state {
            WorkerState::Left => What::WorkerLeft,
            WorkerState::Lost | WorkerState::Live => What::WorkerLost,
        };
        self.note_worker(what, &worker.id);
        self.registry.put(Worker { state, since_ms: self.now, ..worker.clone() });
    }

    fn runs_under(&self, job: JobId, fence: Fence) -> bool {
        self.jobs
            .get(&job)
            .is_some_and(|job| job.status == Status::Running && job.fence() == Some(fence))
    }

    /// Takes a running job from its worker: it waits again in its old place, or fails for good if it
    /// has no attempt left to pay with.
    fn take_back(&mut self, id: JobId, price: Price, events: &mut Vec<Event>) {
        let Some(job) = self.jobs.get(&id) else { return };
        let used = job.attempts_used();
        let attempts_max =
            self.limits.attempts_max.max(job.options().retries.saturating_add(1)).max(1);
        let Price::Attempt(fate) = price else {
            self.tell_withdrawn(id, events);
            return self.change(id, |job| job.status = Status::Pending);
        };
        let worker = job.worker().map_or("nobody", WorkerId::as_str);
        let reason = format!("worker {worker} {fate}; {used} of {attempts_max} attempts used");
        let end = End::decided(Status::Failed, &reason);
        self.tell_withdrawn(id, events);
        if used < attempts_max {
            self.try_again(id, &end, None);
        } else {
            self.end(id, end, events);
        }
    }
}

/// Tells whether a registration is within bounds.
pub(in crate::jobs) fn is_valid(new: &Registration) -> bool {
    (1..=WORKER_SLOTS_MAX).contains(&new.slots)
        && serves_is_valid(&new.serves)
        && new.tags.fault().is_none()
}

/// Tells whether a worker can serve this: at least one queue, each once, not too many.
pub(in crate::jobs) fn serves_is_valid(serves: &Serves) -> bool {
    match serves {
        Serves::Commands => true,
        Serves::Payloads(queues) => {
            let mut sorted: Vec<_> = queues.iter().collect();
            sorted.sort();
            sorted.dedup();
            (1..=WORKER_QUEUES_MAX).contains(&queues.len()) && sorted.len() == queues.len()
        }
    }
}

//! Answers on their way out: what an entry came to, in the words of the wire.

use crate::jobs::command::{
    CancelOutcome, Outcome, PurgeOutcome, QueueOutcome, RegisterOutcome, RetryOutcome,
    SubmitOutcome, UpdateOutcome, WorkerOutcome,
};
use crate::jobs::job::Status;
use crate::jobs::machine::Machine;
use crate::jobs::queue::RULED_QUEUES_MAX;
use crate::jobs::registry::{Worker, WorkerState};
use crate::raft::core::{ProposeError, Role};
use crate::replica::core::Replica;
use crate::replica::crons;
use crate::replica::reading;
use crate::replica::reads::{Parked, Read};
use crate::replica::requests::nothing_changed;
use crate::replica::view::Answer;
use crate::replica::waiters::{Wait, submitted};
use crate::types::{ASSIGNMENTS_PER_ENTRY_MAX, Fence, Incarnation, JobId, WorkerId};
use crate::wire::message::{Code, QueueChanged, Refusal, Reply, Request, Submitted, Withdrawn};
use crate::wire::reads::Consistency;

/// What a client waits at least before it tries a full queue again, in ms.
pub(super) const RETRY_AFTER_MS: u64 = 50;

/// Jobs of a wait that are looked up in a turn, at most: hundreds of waits may end in one.
const WAITED_HERE_MAX: usize = 16;

impl<W> Replica<W> {
    /// Answers.
    pub(super) fn answer(&mut self, waiter: W, reply: Reply) {
        self.out.answers.push((waiter, Answer::Reply(reply)));
    }

    /// Refuses.
    pub(super) fn refuse(&mut self, waiter: W, refusal: Refusal) {
        self.answer(waiter, Reply::Refused(refusal));
    }

    /// Says who leads instead, or that nobody does.
    pub(super) fn not_leader(&self) -> Refusal {
        match self.leader_hint() {
            Some(hint) if hint.id != self.config.raft.id => Refusal::not_leader(hint),
            Some(_) | None => {
                Refusal::unavailable("no leader is known here; ask again in a moment")
            }
        }
    }

    /// Says that another entry was committed in the place of a proposal: it was not done and will not be.
    pub(super) fn displaced(&self) -> Refusal {
        match self.leader_hint() {
            Some(hint) if hint.id != self.config.raft.id => Refusal::not_leader(hint),
            Some(_) | None => {
                Refusal::unavailable("leadership changed, and it was not done; ask again")
            }
        }
    }

    /// Says why consensus did not take a proposal.
    pub(super) fn not_proposed(&self, error: &ProposeError) -> Refusal {
        match error {
            ProposeError::NotLeader => self.not_leader(),
            ProposeError::Overfull => Refusal::exhausted(
                "too much is accepted and not yet committed; ask again later",
                RETRY_AFTER_MS,
            ),
            ProposeError::Transferring => {
                Refusal::unavailable("leadership is being handed over; ask again in a moment")
            }
        }
    }

    /// Answers those who waited for an entry with what it came to.
    ///
    /// # Panics
    /// If the outcome is not of the kind that was proposed: the machine contradicts the log.
    pub(super) fn answer_outcome(&mut self, waits: Vec<Wait<W>>, outcome: &Outcome) {
        match outcome {
            Outcome::Submitted(results) => self.answer_submitted(waits, results),
            Outcome::Updated(results) => self.answer_updated(waits, results),
            Outcome::Registered(result) => {
                for wait in waits {
                    let Wait::Register { waiter, worker, incarnation } = wait else {
                        panic!("a registration answers no other wait")
                    };
                    self.answer_registered(waiter, &worker, incarnation, *result);
                }
            }
            Outcome::Cancelled(results) => {
                for wait in waits {
                    let replies = results.iter().map(cancelled).collect();
                    self.answer(wait.into_waiter(), Reply::Cancelled(replies));
                }
            }
            Outcome::Released(count) => {
                let count = u32::try_from(*count).unwrap_or(u32::MAX);
                for wait in waits {
                    self.answer(wait.into_waiter(), Reply::Released { count });
                }
            }
            Outcome::QueueChanged(result) => {
                for wait in waits {
                    self.answer(wait.into_waiter(), queue_changed(result));
                }
            }
            Outcome::Retried(results) => {
                for wait in waits {
                    let replies = results.iter().map(retried).collect();
                    self.answer(wait.into_waiter(), Reply::Retried(replies));
                }
            }
            Outcome::Purged(results) => {
                for wait in waits {
                    let replies = results.iter().map(purged).collect();
                    self.answer(wait.into_waiter(), Reply::Purged(replies));
                }
            }
            Outcome::WorkerChanged(result) => {
                for wait in waits {
                    self.answer(wait.into_waiter(), worker_changed(*result));
                }
            }
            Outcome::ProgressNoted(result) => {
                for wait in waits {
                    let reply = match updated(result) {
                        Ok(()) => Reply::ProgressNoted,
                        Err(refusal) => Reply::Refused(refusal),
                    };
                    self.answer(wait.into_waiter(), reply);
                }
            }
            Outcome::CronAdded(result) => {
                for wait in waits {
                    self.answer(wait.into_waiter(), crons::added(result));
                }
            }
            Outcome::CronChanged(result) => {
                for wait in waits {
                    let Wait::Cron { waiter, change } = wait else {
                        panic!("a change of a cron answers no other wait")
                    };
                    self.answer(waiter, crons::changed(change, result));
                }
            }
            Outcome::Assigned(_)
            | Outcome::Lost(_)
            | Outcome::LimitsSet
            | Outcome::Ticked
            | Outcome::CronsFired(_) => {
                assert!(waits.is_empty(), "nobody waits for the leader's own commands");
            }
        }
    }

    fn answer_submitted(&mut self, waits: Vec<Wait<W>>, results: &[SubmitOutcome]) {
        let mut results = results.iter();
        let mut next = || results.next().expect("an entry decides each job that was put into it");
        let mut answers = Vec::with_capacity(waits.len());
        for wait in waits {
            match wait {
                Wait::Submit { waiter, id } => {
                    let reply = match submit_result(id, next()) {
                        Ok(submitted) => Reply::Submitted(submitted),
                        Err(refusal) => Reply::Refused(refusal),
                    };
                    answers.push((waiter, reply));
                }
                Wait::SubmitBatch { waiter, ids, refused } => {
                    let results = ids.into_iter().zip(refused).map(|(id, refused)| match refused {
                        Some(refusal) => Err(refusal),
                        None => submit_result(id, next()),
                    });
                    let results = results.collect();
                    answers.push((waiter, Reply::SubmittedBatch(results)));
                }
                Wait::Update { .. }
                | Wait::Register { .. }
                | Wait::Cancel { .. }
                | Wait::Whole { .. }
                | Wait::Cron { .. }
                | Wait::Release { .. } => panic!("a submit answers no other wait"),
            }
        }
        for (waiter, reply) in answers {
            self.answer(waiter, reply);
        }
    }

    fn answer_updated(&mut self, waits: Vec<Wait<W>>, results: &[UpdateOutcome]) {
        let mut rest = results;
        for wait in waits {
            let Wait::Update { waiter, count } = wait else {
                panic!("a report answers no other wait")
            };
            let Some((own, others)) = rest.split_at_checked(count) else {
                panic!("{} results for {count} reports", rest.len())
            };
            rest = others;
            self.answer(waiter, Reply::Updated(own.iter().map(updated).collect()));
        }
    }

    fn answer_registered(
        &mut self,
        waiter: W,
        worker: &WorkerId,
        incarnation: Incarnation,
        result: RegisterOutcome,
    ) {
        match result {
            // To be registered is a word of life, and only a leader that has not judged this start may give
            // one: its loss may be in the log already, behind the very entry that is answered here. Of what
            // was judged in another term it knows nothing, be it its own.
            RegisterOutcome::Registered
                if self.raft.role() != Role::Leader
                    || self.raft.term() != self.applied_term
                    || self.liveness.is_judged(worker, incarnation) =>
            {
                let text = format!("{worker} is registered, but may be lost again; ask again");
                let refusal = Refusal::unavailable(text).with_unknown_outcome();
                let retry_after_ms = Some(RETRY_AFTER_MS);
                self.refuse(waiter, Refusal { retry_after_ms, ..refusal });
            }
            RegisterOutcome::Registered => {
                self.liveness.hear(worker, incarnation, false, self.lease_clock());
                self.answer(waiter, Reply::Registered);
            }
            RegisterOutcome::Exhausted => {
                self.refuse(waiter, Refusal::exhausted("the registry of workers is full", 1000));
            }
            RegisterOutcome::Invalid => self.refuse(
                waiter,
                Refusal::invalid(
                    "a worker has 1 to 4096 slots, an incarnation of at most 2^62 + 2^20 (or 2^21 above its last) and, for payloads, 1 to 64 queues",
                ),
            ),
            RegisterOutcome::Superseded => {
                let text = format!(
                    "this start of {worker} is over, or a higher one has registered: draw a higher one"
                );
                self.refuse_start(waiter, worker, text);
            }
        }
    }

    /// Tells a worker that its start is over, and which one stands.
    fn refuse_start(&mut self, waiter: W, worker: &WorkerId, text: String) {
        let incarnation = self.machine.worker(worker).map(|known| known.incarnation);
        let refusal = Refusal::new(Code::FailedPrecondition, text);
        self.refuse(waiter, Refusal { incarnation, ..refusal });
    }

    /// Acknowledges a heartbeat: this node led when it arrived.
    pub(super) fn heartbeat(
        &mut self,
        waiter: W,
        worker: &WorkerId,
        incarnation: Incarnation,
        draining: bool,
        held: &[(JobId, Fence)],
    ) {
        if self.raft.role() != Role::Leader {
            let refusal = self.not_leader();
            return self.refuse(waiter, refusal);
        }
        let known = self
            .machine
            .worker(worker)
            .filter(|known| known.incarnation == incarnation && known.state == WorkerState::Live);
        let Some(known) = known else {
            let text = format!("{worker} was judged lost or has registered anew: register again");
            return self.refuse_start(waiter, worker, text);
        };
        let intake = known.intake;
        let withdrawn = withdrawn(&self.machine, known, held);
        if self.liveness.is_judged(worker, incarnation) {
            // What is on its way cannot be taken back, and a word of life would contradict it.
            let text = format!("the loss of {worker} is being decided; ask again in a moment");
            let refusal = Refusal::unavailable(text);
            let retry_after_ms = Some(RETRY_AFTER_MS);
            return self.refuse(waiter, Refusal { retry_after_ms, ..refusal });
        }
        self.liveness.hear(worker, incarnation, draining, self.lease_clock());
        let term = self.raft.term();
        self.answer(waiter, Reply::HeartbeatAck { term, intake, withdrawn });
    }

    /// Answers a wait with its jobs as they are: a long one from an image, elsewhere.
    pub(super) fn answer_waited(&mut self, waiter: W, ids: Vec<JobId>) {
        if ids.len() <= WAITED_HERE_MAX {
            let reply = reading::waited(&self.machine, &ids);
            return self.answer(waiter, reply);
        }
        self.answer_from_image(waiter, Request::WaitJobs { ids, wait_ms: 0 });
    }

    /// Has a request answered from an image of now, outside the Raft thread.
    pub(super) fn answer_from_image(&mut self, waiter: W, request: Request) {
        let machine = Box::new(self.machine.clone());
        self.out.answers.push((waiter, Answer::Image { machine, request }));
    }

    /// A snapshot took the place of everything waited for: all waits are looked at afresh.
    pub(super) fn park_again(&mut self) {
        for (waiter, parked, deadline) in self.lot.take_all() {
            match parked {
                Parked::Jobs { ids, .. } => self.wait_jobs(waiter, ids, deadline),
                worker @ Parked::Worker { .. } => self.reserve(waiter, worker, deadline),
                Parked::Changes(watch) => self.watch(waiter, watch, deadline),
            }
        }
    }

    /// Answers everyone whose time is up: a proposal's outcome is unknown, a read's did no harm.
    pub(super) fn expire(&mut self) {
        for waiting in self.waiters.expired(self.now) {
            for wait in waiting.waits {
                self.refuse(wait.into_waiter(), Refusal::deadline_exceeded());
            }
        }
        for read in self.rounds.expired(self.now) {
            self.refuse_read(read);
        }
        for (waiter, parked) in self.lot.expired(self.now) {
            match parked {
                Parked::Jobs { ids, .. } => self.answer_waited(waiter, ids),
                Parked::Worker { .. } => self.answer(waiter, Reply::Reserved(Vec::new())),
                Parked::Changes(watch) => {
                    let reply = nothing_changed(&watch, self.machine.applied_index());
                    self.answer(waiter, reply);
                }
            }
        }
    }

    /// Refuses a read that no leader confirmed.
    pub(super) fn refuse_read(&mut self, read: Read<W>) {
        match read {
            Read::Client {
                waiter,
                request: Request::ReadAt { consistency: Consistency::MinIndex(index), .. },
                ..
            } => {
                let applied = self.machine.applied_index();
                let text = format!(
                    "this node has applied the log to entry {applied}, and {index} was asked for; ask again, or \
                     another node"
                );
                self.refuse(waiter, Refusal::unavailable(text));
            }
            Read::Client { waiter, .. } => {
                let text = "no leader confirmed the read; ask again in a moment";
                self.refuse(waiter, Refusal::unavailable(text));
            }
            Read::Heartbeat { waiter, .. } => {
                let refusal = self.not_leader();
                self.refuse(waiter, refusal);
            }
            Read::Ready => self.not_ready_yet(),
        }
    }
}

/// What a submit hears that finds no room.
pub(super) fn no_room() -> Refusal {
    let message = "the queue holds all the bytes it may; ask again when jobs have ended";
    Refusal::exhausted(message, 1000)
}

pub(super) fn submit_result(id: JobId, outcome: &SubmitOutcome) -> Result<Submitted, Refusal> {
    match outcome {
        SubmitOutcome::Created => Ok(submitted(id, true)),
        SubmitOutcome::Known => Ok(submitted(id, false)),
        // Another one has its unique key, and is what the caller wants.
        SubmitOutcome::Taken(holder) => Ok(submitted(*holder, false)),
        SubmitOutcome::AlreadyExists => Err(Refusal::new(
            Code::AlreadyExists,
            format!("job {id} exists with other content; a new job needs a new id"),
        )),
        SubmitOutcome::Exhausted => Err(no_room()),
        SubmitOutcome::Draining => Err(Refusal::new(
            Code::FailedPrecondition,
            "the queue is being drained and takes no new jobs; `queue resume` ends that",
        )),
        SubmitOutcome::Invalid(fault) => Err(Refusal::invalid(fault.clone())),
    }
}

fn updated(outcome: &UpdateOutcome) -> Result<(), Refusal> {
    match outcome {
        UpdateOutcome::Applied => Ok(()),
        UpdateOutcome::StaleFence { status, fence, worker } => {
            let by = worker.as_ref().map_or(String::new(), |worker| format!(" by {worker}"));
            let under = fence.map_or(String::new(), |fence| format!(" under fence {fence}"));
            Err(Refusal::stale_fence(format!(
                "the attempt was taken away: the job is {}{by}{under}",
                status.as_str()
            )))
        }
        UpdateOutcome::NotFound => Err(Refusal::not_found("no such job (any more)")),
    }
}

fn cancelled(outcome: &CancelOutcome) -> Result<Status, Refusal> {
    match outcome {
        CancelOutcome::Cancelled => Ok(Status::Cancelled),
        CancelOutcome::Ended(status) => Err(Refusal::new(
            Code::FailedPrecondition,
            format!("it had {} already", status.as_str()),
        )),
        CancelOutcome::NotFound => Err(Refusal::not_found("no such job (any more)")),
    }
}

/// Returns those of the jobs named that a worker has no more. Of an assignment that is not applied here yet
/// nothing can be said: the worker may have it from another node, which is further.
fn withdrawn(machine: &Machine, worker: &Worker, held: &[(JobId, Fence)]) -> Vec<Withdrawn> {
    let applied = machine.applied_index().0;
    let over = held.iter().filter(|(_, fence)| {
        fence.0 / ASSIGNMENTS_PER_ENTRY_MAX <= applied && !worker.running.contains_key(fence)
    });
    over.map(|(job, fence)| Withdrawn {
        fence: *fence,
        status: machine.job(*job).map(|job| job.status),
    })
    .collect()
}

fn worker_changed(outcome: WorkerOutcome) -> Reply {
    match outcome {
        WorkerOutcome::Changed { running } => Reply::WorkerChanged { running },
        WorkerOutcome::NotFound => Reply::Refused(Refusal::not_found(
            "no worker of this name; `raftq workers` lists those that are known",
        )),
        WorkerOutcome::Gone => Reply::Refused(Refusal::new(
            Code::FailedPrecondition,
            "the worker does not run, so that there is nothing to drain; `worker quiet` keeps its next start \
             from jobs",
        )),
    }
}

fn queue_changed(outcome: &QueueOutcome) -> Reply {
    match outcome {
        QueueOutcome::Changed { pending, running } => {
            Reply::QueueChanged(QueueChanged { pending: *pending, running: *running })
        }
        QueueOutcome::Exhausted => Reply::Refused(Refusal::exhausted(
            format!("{RULED_QUEUES_MAX} queues have rules, and no more can; resume one"),
            1000,
        )),
        QueueOutcome::Invalid(fault) => Reply::Refused(Refusal::invalid(fault.clone())),
    }
}

fn retried(outcome: &RetryOutcome) -> Result<(), Refusal> {
    match outcome {
        RetryOutcome::Retried => Ok(()),
        RetryOutcome::Refused(status) => Err(Refusal::new(
            Code::FailedPrecondition,
            format!(
                "the job is {}: only what failed or was cancelled can be tried again",
                status.as_str()
            ),
        )),
        RetryOutcome::Taken(holder) => Err(Refusal::new(
            Code::FailedPrecondition,
            format!("job {holder} has its unique key now: wait for its end, or cancel it"),
        )),
        RetryOutcome::NotFound => Err(Refusal::not_found("no such job (any more)")),
    }
}

fn purged(outcome: &PurgeOutcome) -> Result<(), Refusal> {
    match outcome {
        PurgeOutcome::Purged => Ok(()),
        PurgeOutcome::Open(status) => Err(Refusal::new(
            Code::FailedPrecondition,
            format!("the job is {}: only what has ended can be forgotten", status.as_str()),
        )),
        PurgeOutcome::NotFound => Err(Refusal::not_found("no such job (any more)")),
    }
}

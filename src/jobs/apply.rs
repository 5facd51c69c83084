//! What the commands about jobs do: submit, assign, report, cancel.

use std::borrow::Cow;
use std::sync::Arc;

use crate::jobs::command::{
    CancelOutcome, Event, Pair, StatusUpdate, SubmitOutcome, UpdateOutcome,
};
use crate::jobs::extra::Extra;
use crate::jobs::job::{NewJob, Status};
use crate::jobs::machine::Machine;
use crate::jobs::options::Options;
use crate::jobs::resident::{self, End, Job, Run};
use crate::planted::{self, Bug, is_planted};
use crate::types::{ASSIGNMENTS_PER_ENTRY_MAX, Fence, JobId, Millis};

impl Machine {
    /// Adds one job, unless its id is known or there is no room.
    pub(in crate::jobs) fn submit(&mut self, new: &NewJob) -> SubmitOutcome {
        if let Some(fault) = new.fault() {
            return SubmitOutcome::Invalid(fault);
        }
        let (kind, body) = resident::pack(&new.body);
        let options = new.options.as_ref().filter(|options| ***options != *Options::NONE);
        let content = resident::job_content(&new.queue, kind, &body, options.map(|it| &**it));
        match self.content(new.id) {
            Some(known) if known == content => {
                if is_planted(Bug::SubmitTwice) && self.jobs.contains_key(&new.id) {
                    self.change(new.id, |job| {
                        (job.status, job.attempt) = (Status::Pending, 1);
                        (job.run, job.ending) = (None, None);
                    });
                }
                return SubmitOutcome::Known;
            }
            Some(_) => return SubmitOutcome::AlreadyExists,
            None => {}
        }
        if let Some(holder) = options.and_then(|options| self.holder_of(&new.queue, options)) {
            return SubmitOutcome::Taken(holder);
        }
        if self.resident_bytes().saturating_add(resident::weight(new))
            > self.limits.resident_bytes_max
        {
            return SubmitOutcome::Exhausted;
        }
        if self.is_draining(&new.queue) {
            return SubmitOutcome::Draining;
        }
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let job = Job {
            id: new.id,
            queue: self.books.shared(&new.queue),
            body,
            content,
            sequence,
            created_ms: self.now,
            attempt: 1,
            status: Status::Pending,
            kind,
            run: None,
            ending: None,
            extra: options.map(|options| Arc::new(self.extra_of(options))),
        };
        self.lock_for_a_time(&job);
        self.note_submitted(&job);
        self.insert(job);
        SubmitOutcome::Created
    }

    /// Works out the times that the options of a new job speak of.
    fn extra_of(&self, options: &Arc<Options>) -> Extra {
        let after = |ms: u64| Millis(self.now.0.saturating_add(ms));
        let start = options.delay_ms.map(after).or(options.at_ms);
        Extra {
            held_ms: start.filter(|at| *at > self.now),
            expires_ms: options.ttl_ms.map(after),
            options: Some(Arc::clone(options)),
            ..Extra::default()
        }
    }

    /// Gives jobs to workers and returns how many pairs held. Everything is looked at again: the
    /// leader chose from an older state. What does not fit any more is skipped, and so is whatever
    /// comes after the last position that has a token.
    pub(in crate::jobs) fn assign(&mut self, pairs: &[Pair], events: &mut Vec<Event>) -> usize {
        let positions = 0..ASSIGNMENTS_PER_ENTRY_MAX;
        let mut held = 0;
        let mut pairs = Cow::Borrowed(pairs);
        if planted::tosses(Bug::UnstableOrder) {
            pairs.to_mut().reverse();
        }
        for (position, pair) in positions.zip(pairs.iter()) {
            let Some(run) = self.run(pair, Fence::new(self.applied, position)) else { continue };
            events.push(Event::Assigned {
                worker: run.worker.clone(),
                incarnation: run.incarnation,
                job: pair.job,
                fence: run.fence,
            });
            self.change(pair.job, |job| {
                job.status = Status::Running;
                job.run = Some(Arc::new(run));
                if job.extra.is_some() {
                    job.with_extra(|extra| {
                        extra.expires_ms = None;
                        extra.progress = None;
                    });
                }
            });
            self.count_start(pair.job);
            held += 1;
        }
        held
    }

    /// Makes the assignment of a pair, if it still fits.
    fn run(&self, pair: &Pair, fence: Fence) -> Option<Run> {
        let job = self.jobs.get(&pair.job)?;
        let worker = self.registry.get(&pair.worker)?;
        let class = job.class();
        let fits = job.status == Status::Pending
            && !job.is_held()
            && worker.incarnation == pair.incarnation
            && worker.is_free()
            && worker.takes(&class)
            && self.books.queues().get(&job.queue).is_none_or(|it| it.room(self.now) > 0);
        fits.then(|| Run {
            worker: worker.id.clone(),
            incarnation: worker.incarnation,
            fence,
            started_ms: self.now,
            chosen: self.chosen(worker, &class),
        })
    }

    /// Ends an attempt as its worker reports, if the job is still its own.
    pub(in crate::jobs) fn report(
        &mut self,
        update: &StatusUpdate,
        events: &mut Vec<Event>,
    ) -> UpdateOutcome {
        let Some(job) = self.jobs.get(&update.job) else { return UpdateOutcome::NotFound };
        let current = job.fence() == Some(update.fence) || is_planted(Bug::FenceUnchecked);
        let is_open = job.status == Status::Running
            || is_planted(Bug::CompletedAfterCancel) && job.status == Status::Cancelled;
        if current && is_open {
            self.end_attempt(update.job, End::reported(&update.verdict), events);
            return UpdateOutcome::Applied;
        }
        // A report is sent again until it is answered: the second one finds its own work done. What was not the
        // last attempt had failed.
        if current && job.ending.as_ref().is_some_and(|ending| ending.reported)
            || !update.verdict.completed && job.has_past_report(update.fence)
        {
            return UpdateOutcome::Applied;
        }
        UpdateOutcome::StaleFence {
            status: job.status,
            fence: job.fence(),
            worker: job.worker().cloned(),
        }
    }

    /// Cancels a job that has not ended. One that runs is over for the queue at once; its worker
    /// hears of it and ends it.
    pub(in crate::jobs) fn cancel(&mut self, id: JobId, events: &mut Vec<Event>) -> CancelOutcome {
        let Some(job) = self.jobs.get(&id) else { return CancelOutcome::NotFound };
        let reason = match job.status {
            Status::Pending => "cancelled while it waited",
            Status::Running => "cancelled while it ran",
            Status::Cancelled => return CancelOutcome::Cancelled,
            Status::Completed | Status::Failed => return CancelOutcome::Ended(job.status),
        };
        self.tell_withdrawn(id, events);
        self.end(id, End::decided(Status::Cancelled, reason), events);
        CancelOutcome::Cancelled
    }

    /// Tells the worker that runs a job, if there is one, that the job is taken away.
    pub(in crate::jobs) fn tell_withdrawn(&self, id: JobId, events: &mut Vec<Event>) {
        if let Some(job) = self.jobs.get(&id)
            && job.status == Status::Running
            && let Some(run) = &job.run
        {
            events.push(Event::Withdrawn {
                worker: run.worker.clone(),
                incarnation: run.incarnation,
                job: id,
                fence: run.fence,
            });
        }
    }
}

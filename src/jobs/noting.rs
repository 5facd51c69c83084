//! Writing down what an entry changes, for those who watch: told from the job before and the job after.

use crate::jobs::change::{CHANGE_ERROR_BYTES_MAX, Change, What};
use crate::jobs::job::Status;
use crate::jobs::machine::Machine;
use crate::jobs::resident::{Job, cut};

/// What has to be known of a job before it is changed.
#[derive(Clone, Copy, Debug)]
pub(in crate::jobs) struct Before {
    status: Status,
    attempt: u32,
    was_held: bool,
}

impl Before {
    pub(in crate::jobs) fn of(job: &Job) -> Self {
        Self { status: job.status, attempt: job.attempt, was_held: job.is_held() }
    }

    /// Says what happened to a job since, if it is anything that users know of.
    pub(in crate::jobs) fn change(self, job: &Job) -> Option<Change> {
        let what = match (self.status, job.status) {
            (Status::Pending, Status::Pending) if self.was_held && !job.is_held() => What::Due,
            (Status::Pending, Status::Running) => What::Assigned,
            (Status::Running, Status::Pending) if job.attempt > self.attempt => What::Retrying,
            (Status::Running, Status::Pending) => What::Released,
            (Status::Completed | Status::Failed | Status::Cancelled, Status::Pending) => {
                What::Revived
            }
            (Status::Pending | Status::Running, Status::Completed) => What::Completed,
            (Status::Pending | Status::Running, Status::Failed) => What::Failed,
            (Status::Pending | Status::Running, Status::Cancelled) => What::Cancelled,
            (_, Status::Pending | Status::Running)
            | (
                Status::Completed | Status::Failed | Status::Cancelled,
                Status::Completed | Status::Failed | Status::Cancelled,
            ) => return None,
        };
        let mut change = of_job(what, job);
        change.attempt = Some(if what == What::Retrying { self.attempt } else { job.attempt });
        let ran = self.status == Status::Running || job.status == Status::Running;
        if let Some(run) = job.run.as_ref().filter(|_| ran) {
            change.worker = Some(run.worker.clone());
            change.fence = Some(run.fence);
        }
        let error = |text: &str| Some(Box::from(cut(text, CHANGE_ERROR_BYTES_MAX)));
        if let Some(ending) = &job.ending {
            change.exit_code = ending.exit_code;
            change.error = ending.error.as_deref().and_then(error);
        } else if what == What::Retrying
            && let Some(past) = job.extra.as_ref().and_then(|extra| extra.past.back())
        {
            change.exit_code = past.exit_code;
            change.error = error(&past.error);
        }
        Some(change)
    }
}

fn of_job(what: What, job: &Job) -> Change {
    Change {
        job: Some(job.id),
        queue: Some(job.queue.clone()),
        held_ms: job.held_ms().filter(|_| job.status == Status::Pending),
        ..Change::new(what)
    }
}

impl Machine {
    /// Writes a change down.
    pub(in crate::jobs) fn note(&mut self, change: Change) {
        self.changes.push(change);
    }

    /// Writes down that a job was submitted.
    pub(in crate::jobs) fn note_submitted(&mut self, job: &Job) {
        let priority = Some(job.options().priority);
        self.note(Change { priority, ..of_job(What::Submitted, job) });
    }

    /// Writes down that a job is not kept any more.
    pub(in crate::jobs) fn note_forgotten(&mut self, job: &Job) {
        self.note(of_job(What::Forgotten, job));
    }
}

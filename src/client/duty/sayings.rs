//! What a worker's users and its jobs have to say, between the heartbeats: drains, jobs taken away, progress.

use std::ops::Bound;
use std::time::Duration;

use crate::client::context::Abandoned;
use crate::client::duty::{Ask, CALL_TIME, Duty, Order};
use crate::client::error::Error;
use crate::client::moment::Moment;
use crate::jobs::intake::{Intake, ProgressReport};
use crate::types::{Fence, JobId};
use crate::wire::message::{Code, HELD_MAX, Reply, Request, Withdrawn};

impl Duty {
    /// Hears what the leader says beside that it leads.
    pub(super) fn heed(&mut self, intake: Intake, withdrawn: &[Withdrawn]) {
        if self.stop_at.is_none() {
            if self.drains != (intake == Intake::Drain) {
                log::info!("worker {}: its users decide: {}", self.worker, intake.as_str());
            }
            self.drains = intake == Intake::Drain;
        }
        for Withdrawn { fence, status } in withdrawn {
            // What has ended here meanwhile is reported, and refused then.
            if self.running.remove(fence).is_some() {
                self.abandoned += 1;
                self.notes.forget(*fence);
                self.orders.push(Order::Abandon(*fence, Abandoned::by(*status)));
            }
        }
    }

    /// Tells whether it is registered and nothing is left to do.
    pub(super) fn is_idle(&self) -> bool {
        self.is_registered
            && self.stop_at.is_none()
            && self.running.is_empty()
            && self.starts.is_empty()
            && !self.reports_wait()
    }

    /// Returns the jobs that the next heartbeat names. Of more than it may name, others are named each time.
    pub(super) fn held(&mut self) -> Vec<(JobId, Fence)> {
        let next = self.running.range((Bound::Excluded(self.held_to), Bound::Unbounded));
        let first = self.running.range(..=self.held_to);
        let named = next.chain(first).take(HELD_MAX);
        let held: Vec<_> = named.map(|(fence, running)| (running.job, *fence)).collect();
        self.held_to = held.last().map_or(Fence(0), |(_, fence)| *fence);
        held
    }

    /// Puts off the time at which an attempt has taken too long.
    pub(crate) fn extend(&mut self, fence: Fence, more: Duration) {
        if let Some(running) = self.running.get_mut(&fence)
            && let Some((at, timeout)) = &mut running.times_out
        {
            *at = at.after(more);
            *timeout = timeout.saturating_add(more);
        }
    }

    /// Takes what a handler says of its job.
    pub(crate) fn say(&mut self, fence: Fence, progress: (u8, String), now: Moment) {
        if let Some(running) = self.running.get(&fence) {
            self.notes.say(running.job, fence, progress, now);
        }
    }

    pub(super) fn tell_progress(&mut self, now: Moment) {
        for report in self.notes.due(now) {
            self.call_progress(report);
        }
    }

    pub(super) fn call_progress(&mut self, report: ProgressReport) {
        let ask = Ask::Progress { fence: report.fence };
        self.call(ask, Request::ReportProgress(report), CALL_TIME);
    }

    /// Hears what became of a report of progress. If the job is taken away, the next heartbeat says why, and is
    /// sent at once.
    pub(super) fn noted(&mut self, fence: Fence, answer: Result<Reply, Error>, now: Moment) {
        let again = answer.as_ref().is_err_and(Error::is_retryable);
        self.notes.heard(fence, again);
        if let Err(error) = answer {
            log::debug!("worker {}: {error}", self.worker);
            let is_stale = |code| matches!(code, Code::StaleFence | Code::NotFound);
            if error.refusal().is_some_and(|refusal| is_stale(refusal.code)) {
                self.heartbeat_due = self.heartbeat_due.min(now);
            }
        }
    }
}

//! How a worker ends: its attempts when they take too long, and itself when it is asked to.

use std::time::Duration;

use bytes::Bytes;

use crate::client::clock;
use crate::client::context::Abandoned;
use crate::client::duty::{Ask, CALL_TIME, Duty, LEAVE_TIME, Order, Running};
use crate::client::moment::Moment;
use crate::jobs::command::Release;
use crate::jobs::job::Verdict;
use crate::jobs::rules::in_words;
use crate::types::Fence;
use crate::wire::message::Request;

impl Duty {
    /// Begins to stop: no more jobs, and those that run have the grace to end.
    pub(crate) fn stop(&mut self, now: Moment) {
        if self.stop_at.is_none() {
            self.stop_at = Some(now.after(self.grace));
            // The leader hears at once that it is to assign nothing more.
            self.heartbeat_due = self.heartbeat_due.min(now);
            self.starts.clear();
        }
    }

    /// Ends the handlers that have taken as long as their jobs allow.
    pub(super) fn time_out(&mut self, now: Moment) {
        let is_due = |it: &Running| it.times_out.is_some_and(|(at, _)| at <= now);
        let due = self.running.iter().filter(|(_, running)| is_due(running));
        let due: Vec<(Fence, Running)> = due.map(|(fence, running)| (*fence, *running)).collect();
        for (fence, running) in due {
            let (_, timeout) = running.times_out.unwrap_or((now, Duration::ZERO));
            self.orders.push(Order::Abandon(fence, Abandoned::TimedOut));
            let error = format!("timed out after {}", in_words(clock::whole_ms(timeout)));
            let verdict = Verdict {
                completed: false,
                exit_code: None,
                output: Bytes::new(),
                output_cut: false,
                error: Some(error),
            };
            self.ended(fence, verdict, now);
        }
    }

    /// Lets what runs end, gives the rest back, and says goodbye.
    pub(super) fn leave(&mut self, stop_at: Moment, now: Moment) {
        if now >= stop_at {
            self.abandon_all();
        }
        let leave_end = stop_at.after(LEAVE_TIME);
        if now >= leave_end {
            self.ends = Some(self.stop_reason.clone());
            return;
        }
        if !self.running.is_empty() || self.reports_wait() {
            return;
        }
        // What the leader may have heard of has to be answered before it can be told of the end, too.
        if self.registration_is_open() {
            return self.register(now);
        }
        let leaver = if self.is_registered { Some(self.incarnation) } else { self.gave_up };
        let Some(incarnation) = leaver else {
            self.ends = Some(self.stop_reason.clone());
            return;
        };
        if self.releasing.begin(now) {
            let release = Release {
                worker: self.worker.clone(),
                incarnation,
                jobs: self.released.clone(),
                leaving: true,
            };
            self.call(
                Ask::Release,
                Request::ReleaseJobs(release),
                CALL_TIME.min(leave_end.since(now)),
            );
        }
    }
}

//! A queue: how many jobs are in it, what its users have decided about it, and whether it gives out jobs now.

use serde::{Deserialize, Serialize};

use crate::jobs::change::{Change, What};
use crate::jobs::command::QueueOutcome;
use crate::jobs::digest::Fold;
use crate::jobs::job::Status;
use crate::jobs::machine::Machine;
use crate::jobs::resident::{Job, Kind};
use crate::jobs::rules::{QueueChange, Rate};
use crate::types::{JobId, Millis, QueueName};

/// What a queue's rules weigh in the limit on resident bytes.
pub const RULES_BYTES: u64 = 512;

/// Queues with rules, at most; one more is refused.
pub const RULED_QUEUES_MAX: usize = 10_000;

/// Starts that came late may be made up for so long, in microseconds: the clock of the log has steps.
const SLACK_US: u64 = 10_000;

/// How many jobs of one queue there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueCounts {
    /// Commands that wait.
    pub pending_commands: u64,
    /// Payloads that wait.
    pub pending_payloads: u64,
    /// Those of both that wait for a time to come.
    pub held: u64,
    /// Jobs that run.
    pub running: u64,
    /// Jobs that ended well and are still kept.
    pub completed: u64,
    /// Jobs that ended badly and are still kept.
    pub failed: u64,
    /// Jobs that were cancelled and are still kept.
    pub cancelled: u64,
}

impl QueueCounts {
    /// Counts a job in.
    pub fn add(&mut self, job: &Job) {
        *self.of(job) += 1;
        self.held += u64::from(job.is_held());
    }

    /// Counts a job out.
    pub fn take(&mut self, job: &Job) {
        *self.of(job) -= 1;
        self.held -= u64::from(job.is_held());
    }

    fn of(&mut self, job: &Job) -> &mut u64 {
        match (job.status, job.kind) {
            (Status::Pending, Kind::Command) => &mut self.pending_commands,
            (Status::Pending, Kind::Payload) => &mut self.pending_payloads,
            (Status::Running, _) => &mut self.running,
            (Status::Completed, _) => &mut self.completed,
            (Status::Failed, _) => &mut self.failed,
            (Status::Cancelled, _) => &mut self.cancelled,
        }
    }

    /// Returns how many jobs wait.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.pending_commands + self.pending_payloads
    }

    /// Returns how many jobs are kept of those that ended.
    #[must_use]
    pub fn finished(&self) -> u64 {
        self.completed + self.failed + self.cancelled
    }

    /// Returns how many jobs there are.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.pending() + self.running + self.finished()
    }
}

/// What the users of a queue have decided about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// It gives out no jobs since then.
    pub paused_ms: Option<Millis>,
    /// It takes no new jobs since then.
    pub draining_ms: Option<Millis>,
    /// So many of its jobs run at once, at most, in the whole cluster.
    pub limit: Option<u32>,
    /// So many of its jobs begin in a time, at most.
    pub rate: Option<Rate>,
    /// Before this time no job begins, in microseconds of the log's clock: what the rate comes to.
    pub next_start_us: u64,
    /// The rate has closed it, until `next_start_us`.
    pub rests: bool,
}

impl Rules {
    /// Makes a change.
    pub fn change(&mut self, change: QueueChange, now: Millis) {
        match change {
            QueueChange::Pause => self.paused_ms = self.paused_ms.or(Some(now)),
            QueueChange::Drain => self.draining_ms = self.draining_ms.or(Some(now)),
            QueueChange::Resume => (self.paused_ms, self.draining_ms) = (None, None),
            QueueChange::Limit(limit) => self.limit = limit,
            QueueChange::Rate(rate) => {
                (self.rate, self.next_start_us, self.rests) = (rate, 0, false);
            }
        }
    }

    /// Tells whether nothing is decided: as good as no rules.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { paused_ms, draining_ms, limit, rate, .. } = self;
        paused_ms.is_none() && draining_ms.is_none() && limit.is_none() && rate.is_none()
    }

    /// Returns how many jobs may begin now, of so many that run.
    #[must_use]
    pub fn room(&self, running: u64, now: Millis) -> u64 {
        if self.paused_ms.is_some() || self.rests {
            return 0;
        }
        let by_limit =
            self.limit.map_or(u64::MAX, |limit| u64::from(limit).saturating_sub(running));
        let by_rate = self.rate.map_or(u64::MAX, |rate| {
            let now_us = now.0.saturating_mul(1000);
            let from = self.next_start_us.max(now_us.saturating_sub(SLACK_US));
            match now_us.checked_sub(from) {
                Some(gone) => gone / rate.interval_us() + 1,
                None => 0,
            }
        });
        by_limit.min(by_rate)
    }

    /// Notes that a job begins: the next one may have to wait.
    pub fn started(&mut self, now: Millis) {
        let Some(rate) = self.rate else { return };
        let now_us = now.0.saturating_mul(1000);
        let from = self.next_start_us.max(now_us.saturating_sub(SLACK_US));
        self.next_start_us = from.saturating_add(rate.interval_us());
        self.rests = self.next_start_us > now_us;
    }

    /// Returns when its rate lets it go on, if that is what it waits for.
    #[must_use]
    pub fn wakes_ms(&self) -> Option<Millis> {
        self.rests.then(|| Millis(self.next_start_us.div_ceil(1000)))
    }

    /// Hashes them.
    #[must_use]
    pub fn record(&self, queue: &QueueName) -> u128 {
        let Self { paused_ms, draining_ms, limit, rate, next_start_us, rests } = self;
        let number = |value: Option<u64>| value.map_or(0, |value| value.saturating_add(1));
        Fold::new(b'q')
            .bytes(queue.as_str().as_bytes())
            .u64(number(paused_ms.map(|at| at.0)))
            .u64(number(draining_ms.map(|at| at.0)))
            .u64(number(limit.map(u64::from)))
            .u64(number(rate.map(|rate| u64::from(rate.count))))
            .u64(number(rate.map(|rate| rate.per_ms)))
            .u64(*next_start_us)
            .u8(u8::from(*rests))
            .finish()
    }
}

/// A queue as the machine keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// Its jobs.
    pub counts: QueueCounts,
    /// Its rules; most have none.
    pub rules: Option<Box<Rules>>,
}

impl Queue {
    /// Returns how many of its jobs may begin now.
    #[must_use]
    pub fn room(&self, now: Millis) -> u64 {
        self.rules.as_ref().map_or(u64::MAX, |rules| rules.room(self.counts.running, now))
    }

    /// Tells whether its lines are open. A rate that has not closed it lets one more begin, whatever the time.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.rules.as_ref().is_none_or(|rules| {
            rules.paused_ms.is_none()
                && !rules.rests
                && rules.limit.is_none_or(|limit| self.counts.running < u64::from(limit))
        })
    }

    /// Tells whether nothing needs to be known of it.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.rules.is_none() && self.counts.total() == 0
    }
}

impl Machine {
    /// Notes that a job begins: its queue's rate may close the queue.
    pub(in crate::jobs) fn count_start(&mut self, id: JobId) {
        let Some(job) = self.jobs.get(&id) else { return };
        if self.rules(&job.queue).is_some_and(|rules| rules.rate.is_some()) {
            let (queue, now) = (job.queue.clone(), self.now);
            self.books.change_rules(&queue, |rules| rules.started(now));
        }
    }

    /// Tells whether a queue takes no new jobs.
    #[must_use]
    pub fn is_draining(&self, queue: &QueueName) -> bool {
        self.rules(queue).is_some_and(|rules| rules.draining_ms.is_some())
    }

    /// Changes the rules of a queue, which need not have a job.
    pub(in crate::jobs) fn change_queue(
        &mut self,
        name: &QueueName,
        change: QueueChange,
    ) -> QueueOutcome {
        if let Some(fault) = change.fault() {
            return QueueOutcome::Invalid(fault);
        }
        if self.rules(name).is_none() && self.books.ruled() >= RULED_QUEUES_MAX {
            return QueueOutcome::Exhausted;
        }
        let now = self.now;
        self.books.change_rules(name, |rules| rules.change(change, now));
        let (queue, rule) = (Some(name.clone()), Some(change));
        self.note(Change { queue, rule, ..Change::new(What::QueueChanged) });
        let counts = self.books.queues().get(name).map(|queue| queue.counts).unwrap_or_default();
        QueueOutcome::Changed { pending: counts.pending(), running: counts.running }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_spreads_starts_and_closes_between_them() {
        let rate = Some(Rate { count: 10, per_ms: 1000 });
        let mut rules = Rules { rate, ..Rules::default() };
        let mut started = 0;
        for now in 0..2000 {
            if rules.wakes_ms().is_some_and(|at| at <= Millis(now)) {
                rules.rests = false;
            }
            while rules.room(0, Millis(now)) > 0 {
                rules.started(Millis(now));
                started += 1;
            }
        }
        assert_eq!(started, 20);
        assert_eq!(rules.wakes_ms(), Some(Millis(2000)));
    }

    #[test]
    fn rate_faster_than_the_clock_is_kept_over_its_steps() {
        let rate = Some(Rate { count: 5000, per_ms: 1000 });
        let mut rules = Rules { rate, ..Rules::default() };
        let mut started = 0;
        for now in (0..1000).step_by(10) {
            rules.rests &= rules.wakes_ms().is_some_and(|at| at > Millis(now));
            while rules.room(0, Millis(now)) > 0 {
                rules.started(Millis(now));
                started += 1;
            }
        }
        assert!((4900..=5060).contains(&started), "{started}");
    }

    #[test]
    fn limit_and_pause_leave_no_room() {
        let rules = Rules { limit: Some(2), ..Rules::default() };
        assert_eq!([0, 1, 2, 3].map(|running| rules.room(running, Millis(0))), [2, 1, 0, 0]);
        let paused = Rules { paused_ms: Some(Millis(1)), ..rules };
        assert_eq!(paused.room(0, Millis(5)), 0);
    }
}

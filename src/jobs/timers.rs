//! What happens by itself when its time has come on the log's clock: a job begins to wait in its line, has waited
//! too long, or has run too long; a queue's rate lets it go on.

use crate::jobs::books::Timer;
use crate::jobs::command::{Event, QueueOutcome};
use crate::jobs::job::Status;
use crate::jobs::machine::Machine;
use crate::jobs::queue::RULED_QUEUES_MAX;
use crate::jobs::resident::End;
use crate::jobs::rules::{QueueChange, in_words};
use crate::types::{JobId, Millis, QueueName};

/// How much happens by itself in one entry, at most; the rest follows in the next ones.
pub(in crate::jobs) const FIRED_PER_ENTRY_MAX: usize = 256;

impl Machine {
    /// Returns when something happens by itself next.
    #[must_use]
    pub fn next_wake_ms(&self) -> Option<Millis> {
        self.books.timers().get_min().map(|((at, _), ())| *at)
    }

    /// Does what is due, and returns how much that was.
    pub(in crate::jobs) fn fire(&mut self, events: &mut Vec<Event>) {
        for _ in 0..FIRED_PER_ENTRY_MAX {
            let Some(((at, timer), ())) = self.books.timers().get_min() else { break };
            if *at > self.now {
                break;
            }
            match timer.clone() {
                Timer::Job(id) => self.wake(id, events),
                Timer::Queue(name) => {
                    self.books.change_rules(&name, |rules| rules.rests = false);
                }
            }
        }
    }

    /// Does what a job's time has come for.
    fn wake(&mut self, id: JobId, events: &mut Vec<Event>) {
        let Some(job) = self.jobs.get(&id) else { return };
        let is_due = |at: Option<Millis>| at.is_some_and(|at| at <= self.now);
        match (job.status, job.extra.as_deref()) {
            (Status::Pending, Some(extra)) if is_due(extra.expires_ms) => {
                let ttl = job.options().ttl_ms.unwrap_or_default();
                let reason = format!("not begun within its ttl of {}", in_words(ttl));
                self.end(id, End::decided(Status::Failed, &reason), events);
            }
            (Status::Pending, Some(extra)) if is_due(extra.held_ms) => {
                self.change(id, |job| job.with_extra(|extra| extra.held_ms = None));
            }
            (Status::Running, Some(extra)) if is_due(extra.deadline_ms) => {
                let timeout = job.options().timeout_ms.unwrap_or_default();
                let reason =
                    format!("timed out after {}, and its worker said nothing", in_words(timeout));
                self.tell_withdrawn(id, events);
                self.end_attempt(id, End::decided(Status::Failed, &reason), events);
            }
            _ => unreachable!("job {id} waits for no time"),
        }
    }

    /// Notes that a job of a queue begins: its rate may close it.
    pub(in crate::jobs) fn count_start(&mut self, queue: &QueueName) {
        if self.rules(queue).is_some_and(|rules| rules.rate.is_some()) {
            let now = self.now;
            self.books.change_rules(queue, |rules| rules.started(now));
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
        let counts = self.books.queues().get(name).map(|queue| queue.counts).unwrap_or_default();
        QueueOutcome::Changed { pending: counts.pending(), running: counts.running }
    }
}

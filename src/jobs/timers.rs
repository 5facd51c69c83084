//! What happens by itself when its time has come on the log's clock: a job begins to wait in its line, or has waited
//! too long; a queue's rate lets it go on.

use crate::jobs::books::Timer;
use crate::jobs::command::Event;
use crate::jobs::job::Status;
use crate::jobs::machine::Machine;
use crate::jobs::resident::End;
use crate::jobs::rules::in_words;
use crate::types::{JobId, Millis};

/// How much happens by itself in one entry, at most; the rest follows in the next ones.
pub(in crate::jobs) const FIRED_PER_ENTRY_MAX: usize = 256;

impl Machine {
    /// Returns when something happens by itself next.
    #[must_use]
    pub fn next_wake_ms(&self) -> Option<Millis> {
        self.books.timers().get_min().map(|((at, _), ())| *at)
    }

    /// Does what is due, at most [`FIRED_PER_ENTRY_MAX`].
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
            _ => unreachable!("job {id} waits for no time"),
        }
    }
}

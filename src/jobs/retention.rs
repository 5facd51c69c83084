//! What is forgotten, and when: finished jobs by count, age and bytes, their ids by time.

use crate::jobs::forgotten::Forgotten;
use crate::jobs::machine::Machine;
use crate::types::{JobId, Millis};

/// How many jobs, and how many ids, one entry forgets at most, beside two for each job that ended in
/// it. So an entry's cost is bounded by what is in it, and forgetting keeps ahead of ending; a limit
/// that was lowered takes effect over the entries that follow.
pub(in crate::jobs) const FORGOTTEN_PER_ENTRY_MAX: usize = 64;

impl Machine {
    /// Forgets what the limits no longer keep, after an entry in which `ended` jobs ended.
    pub(in crate::jobs) fn retain(&mut self, ended: usize) {
        let most = FORGOTTEN_PER_ENTRY_MAX.saturating_add(ended.saturating_mul(2));
        for _ in 0..most {
            if !self.forget_oldest() {
                break;
            }
        }
        for _ in 0..most {
            if !self.uniques.drop_expired(self.now) {
                break;
            }
        }
        for _ in 0..most {
            if !self.forgotten.drop_expired(self.now) {
                break;
            }
        }
    }

    /// Forgets the job that ended first, if a limit asks for it. Returns whether it did.
    fn forget_oldest(&mut self) -> bool {
        let limits = &self.limits;
        // Jobs that ended never take more than half of all the room, however the limits are set: they must not
        // be what keeps new ones out. A quarter each is for those that failed, and for the others.
        let quarter = limits.resident_bytes_max / 4;
        let (finished, dead) = (self.books.finished(), self.books.dead());
        if let Some((_, id)) = finished.get_min()
            && (finished.len() as u64 > limits.finished_count_max
                || self.books.finished_bytes() > limits.finished_bytes_max.min(quarter)
                || self.ended_before(*id, limits.finished_age_ms_max))
        {
            self.forget(*id);
            return true;
        }
        if let Some((_, id)) = dead.get_min()
            && (self.books.dead_bytes() > limits.dead_bytes_max.min(quarter)
                || self.ended_before(*id, limits.dead_age_ms_max))
        {
            self.forget(*id);
            self.dead_dropped += 1;
            return true;
        }
        false
    }

    /// Tells whether a job ended longer ago than so many milliseconds.
    fn ended_before(&self, id: JobId, age_ms: u64) -> bool {
        let ending = self.jobs.get(&id).and_then(|job| job.ending.as_ref());
        ending.is_some_and(|ending| self.now.since(ending.finished_ms) > age_ms)
    }

    /// Forgets a job that has ended; its id is still known for a while.
    ///
    /// # Panics
    /// If it is not there, or is known as forgotten: the caller looked.
    pub(in crate::jobs) fn forget(&mut self, id: JobId) {
        let expires_ms = Millis(self.now.0.saturating_add(self.limits.id_kept_ms));
        let job = self.jobs.remove(&id).expect("the job to forget is there");
        self.note_forgotten(&job);
        self.books.leave(&job);
        self.forgotten.keep(id, Forgotten { content: job.content, expires_ms });
    }
}

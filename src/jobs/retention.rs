//! What is forgotten, and when: finished jobs by count, age and bytes, their ids by time.

use crate::jobs::forgotten::Forgotten;
use crate::jobs::machine::Machine;
use crate::types::Millis;

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
            if !self.forgotten.drop_expired(self.now) {
                break;
            }
        }
    }

    /// Forgets the job that ended first, if a limit asks for it. Returns whether it did.
    fn forget_oldest(&mut self) -> bool {
        let Some((_, id)) = self.books.ended().get_min() else { return false };
        let id = *id;
        let Some(job) = self.jobs.get(&id) else { return false };
        let finished_ms = job.ending.as_ref().map_or(Millis(0), |ending| ending.finished_ms);
        let limits = &self.limits;
        // Finished jobs never take more than half of all the room, however the limits are set: they
        // must not be what keeps new ones out.
        let bytes_max = limits.finished_bytes_max.min(limits.resident_bytes_max / 2);
        let over = self.books.ended().len() as u64 > limits.finished_count_max
            || self.books.finished_bytes() > bytes_max
            || self.now.since(finished_ms) > limits.finished_age_ms_max;
        if !over {
            return false;
        }
        let expires_ms = Millis(self.now.0.saturating_add(limits.id_kept_ms));
        self.books.leave(job);
        let content = job.content;
        self.jobs.remove(&id);
        self.forgotten.keep(id, Forgotten { content, expires_ms });
        true
    }
}

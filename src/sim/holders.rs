//! Who runs which job: never two workers at one time, and no token twice.

use std::collections::{BTreeMap, BTreeSet};

use crate::sim::checks::Violation;
use crate::types::{Fence, JobId};

/// Handlers that run, of workers that are awake.
///
/// A worker that keeps its duties ends what it runs before the cluster gives it to another (`wire-spec.md` §12, the
/// 3 s rule); one that stands still ends it when it wakes, before it does anything else.
#[derive(Debug, Default)]
pub struct Holders {
    held: BTreeMap<JobId, (u64, Fence)>,
    begun: BTreeSet<Fence>,
    begun_ever: u64,
}

impl Holders {
    /// Notes that a worker begins an assignment.
    ///
    /// # Errors
    /// If the token was begun before, by whomever, or another worker runs the job.
    pub fn begin(&mut self, worker: u64, job: JobId, fence: Fence) -> Result<(), Violation> {
        if !self.begun.insert(fence) {
            return Err(format!(
                "fence {fence} is begun twice, now by worker {worker} with job {job}"
            ));
        }
        self.begun_ever += 1;
        self.hold(worker, job, fence)
    }

    /// Notes that a worker runs a job.
    ///
    /// # Errors
    /// If another worker does too, or the same one under another token.
    pub fn hold(&mut self, worker: u64, job: JobId, fence: Fence) -> Result<(), Violation> {
        let (holder, held) = *self.held.entry(job).or_insert((worker, fence));
        if (holder, held) != (worker, fence) {
            return Err(format!(
                "two workers run job {job}: {holder} under fence {held}, {worker} under fence {fence}"
            ));
        }
        Ok(())
    }

    /// Notes that a worker runs a job no more.
    pub fn leave(&mut self, worker: u64, job: JobId) {
        if self.held.get(&job).is_some_and(|(holder, _)| *holder == worker) {
            self.held.remove(&job);
        }
    }

    /// Notes that a worker runs nothing any more, or stands still.
    pub fn leave_all(&mut self, worker: u64) {
        self.held.retain(|_, (holder, _)| *holder != worker);
    }

    /// Returns how many assignments were begun in all.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.begun_ever
    }

    /// Forgets old tokens, so that memory stays bounded.
    pub fn forget_below(&mut self, fence: Fence) {
        self.begun = self.begun.split_off(&fence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: JobId = JobId([1; 16]);

    #[test]
    fn two_workers_that_are_awake_never_run_one_job() {
        let mut holders = Holders::default();
        assert_eq!(holders.begin(1, JOB, Fence(10)), Ok(()));
        let fault = holders.begin(2, JOB, Fence(20)).unwrap_err();
        assert!(fault.contains("two workers"), "{fault}");
        assert!(holders.hold(1, JOB, Fence(11)).is_err(), "the same one under another token");
    }

    #[test]
    fn job_is_free_once_its_worker_ends_it_or_stands_still() {
        let mut holders = Holders::default();
        holders.begin(1, JOB, Fence(10)).unwrap();
        holders.leave(2, JOB);
        assert!(holders.begin(2, JOB, Fence(20)).is_err(), "another worker cannot end it");
        holders.leave(1, JOB);
        assert_eq!(holders.begin(2, JOB, Fence(30)), Ok(()));
        holders.leave_all(2);
        assert_eq!(holders.begin(3, JOB, Fence(40)), Ok(()));
        assert!(holders.hold(2, JOB, Fence(30)).is_err(), "it woke, and went on");
    }

    #[test]
    fn no_token_is_begun_twice() {
        let mut holders = Holders::default();
        holders.begin(1, JOB, Fence(10)).unwrap();
        holders.leave(1, JOB);
        assert!(holders.begin(1, JOB, Fence(10)).unwrap_err().contains("twice"));
        holders.forget_below(Fence(11));
        assert_eq!(holders.begin(1, JOB, Fence(12)), Ok(()));
    }
}

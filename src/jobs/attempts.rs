//! What follows an attempt that failed: another one after a pause, or the dead set; and the way out of it.

use std::sync::Arc;

use crate::jobs::command::{Event, PurgeOutcome, RetryOutcome};
use crate::jobs::digest::Fold;
use crate::jobs::extra::{PAST_ERROR_BYTES_MAX, Past};
use crate::jobs::job::{EXIT_TRY_LATER, Status};
use crate::jobs::machine::Machine;
use crate::jobs::options::{Options, RETRIES_MAX};
use crate::jobs::resident::{End, Job, cut};
use crate::types::{Fence, JobId, Millis};

/// The pause grows by no more than this part of it (1 / 4), by lot: what failed together does not come back
/// together.
const JITTER_PART: u64 = 4;

impl Machine {
    /// Ends an attempt of a job that runs: the job ends with it, or waits for the next one.
    pub(in crate::jobs) fn end_attempt(&mut self, id: JobId, end: End, events: &mut Vec<Event>) {
        let Some(job) = self.jobs.get(&id) else { return };
        let put_off = job.extra.as_ref().map_or(0, |extra| extra.put_off);
        let asks_for_later =
            end.reported && end.exit_code == Some(EXIT_TRY_LATER) && put_off < RETRIES_MAX;
        if end.status != Status::Failed
            || !asks_for_later && job.attempts_used() > job.options().retries
        {
            return self.end(id, end, events);
        }
        let failed = job.attempts_used().saturating_add(put_off);
        let pause = backoff_ms(job.options(), failed, id, job.fence());
        let held = Millis(self.now.0.saturating_add(pause));
        self.try_again(id, &end, Some(held));
        if asks_for_later {
            self.change(id, |job| job.with_extra(|extra| extra.put_off = put_off + 1));
        }
    }

    /// Has a job that runs wait for its next attempt, at once or until a time.
    pub(in crate::jobs) fn try_again(&mut self, id: JobId, end: &End, held: Option<Millis>) {
        let now = self.now;
        self.change(id, |job| {
            let end = (end.reported, end.exit_code, end.error.as_deref());
            let past = past_of(job, end, now);
            job.status = Status::Pending;
            job.attempt = job.attempt.saturating_add(1);
            job.with_extra(|extra| {
                extra.remember(past);
                extra.held_ms = held.filter(|at| *at > now);
            });
        });
    }

    /// Takes a job out of the dead set, or back from those cancelled: it waits as if it were new, with as many
    /// attempts, in its old place.
    pub(in crate::jobs) fn retry(&mut self, id: JobId) -> RetryOutcome {
        let Some(job) = self.jobs.get(&id) else { return RetryOutcome::NotFound };
        if !matches!(job.status, Status::Failed | Status::Cancelled) {
            return RetryOutcome::Refused(job.status);
        }
        if let Some(holder) =
            self.holder_of(&job.queue, job.options()).filter(|holder| *holder != id)
        {
            return RetryOutcome::Taken(holder);
        }
        let now = self.now;
        let expires = job.options().ttl_ms.map(|ttl| Millis(now.0.saturating_add(ttl)));
        self.change(id, |job| {
            let Some(ending) = job.ending.take() else { return };
            let end = (ending.reported, ending.exit_code, ending.error.as_deref());
            let past = past_of(job, end, ending.finished_ms);
            let used = job.attempt;
            job.status = Status::Pending;
            job.attempt = job.attempt.saturating_add(1);
            job.with_extra(|extra| {
                extra.remember(past);
                extra.forgiven = used;
                extra.put_off = 0;
                extra.expires_ms = expires;
                extra.held_ms = None;
            });
        });
        if let Some(job) = self.jobs.get(&id).map(Arc::clone) {
            self.lock_until_end(&job);
            self.lock_for_a_time(&job);
        }
        RetryOutcome::Retried
    }

    /// Forgets a job that has ended. Its id stays known for a while, as that of any job.
    pub(in crate::jobs) fn purge(&mut self, id: JobId) -> PurgeOutcome {
        match self.jobs.get(&id) {
            None => PurgeOutcome::NotFound,
            Some(job) if !job.status.is_final() => PurgeOutcome::Open(job.status),
            Some(_) => {
                // Whoever forgets a job forgets its key as well.
                self.unlock(id);
                self.forget(id);
                PurgeOutcome::Purged
            }
        }
    }
}

/// Returns how long a job waits after its attempt failed: twice as long as the time before, and a little more.
fn backoff_ms(options: &Options, failed: u32, id: JobId, fence: Option<Fence>) -> u64 {
    let doublings = failed.saturating_sub(1).min(63);
    let pause = options.backoff_ms.checked_shl(doublings).unwrap_or(u64::MAX);
    // What is shifted out is as good as too long.
    let pause = if pause >> doublings == options.backoff_ms { pause } else { u64::MAX };
    let pause = pause.min(options.backoff_max_ms);
    let lot = Fold::new(b'l').id(&id.0).fence(fence.unwrap_or_default()).finish();
    let [lot, ..] = lot.to_le_bytes().map(u64::from);
    pause + pause / JITTER_PART * lot / 255
}

/// Writes down the last attempt of a job: whether its worker reported the end, with which exit code, and why it
/// ended. One that never began has no worker: what the job ran under last was the attempt before.
fn past_of(job: &Job, end: (bool, Option<i32>, Option<&str>), ended_ms: Millis) -> Past {
    let (reported, exit_code, error) = end;
    let before = job.extra.iter().flat_map(|extra| &extra.past).next_back();
    let began = |fence: Fence| before.is_none_or(|before| before.fence != fence);
    let run = job.run.as_deref().filter(|run| began(run.fence));
    Past {
        attempt: job.attempt,
        worker: run.map(|run| run.worker.clone()),
        fence: run.map_or(Fence(0), |run| run.fence),
        started_ms: run.map_or(ended_ms, |run| run.started_ms),
        ended_ms,
        reported,
        exit_code,
        error: Box::from(cut(error.unwrap_or_default(), PAST_ERROR_BYTES_MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pause_doubles_to_its_longest_and_grows_by_a_quarter_at_most() {
        let options = Options { backoff_ms: 100, backoff_max_ms: 1000, ..Options::default() };
        let pause = |failed, lot| backoff_ms(&options, failed, JobId([lot; 16]), None);
        for (failed, least) in [(1, 100), (2, 200), (3, 400), (4, 800), (5, 1000), (90, 1000)] {
            let pauses: Vec<u64> = (0..64).map(|lot| pause(failed, lot)).collect();
            assert!(pauses.iter().all(|it| (least..=least + least / 4).contains(it)), "{pauses:?}");
            assert!(pauses.iter().any(|it| *it != pauses[0]), "all the same: {pauses:?}");
        }
        let none = Options { backoff_ms: 0, ..options };
        assert_eq!(backoff_ms(&none, 7, JobId([1; 16]), None), 0);
    }
}

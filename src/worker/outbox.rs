//! What a worker still has to tell the leader: ends of attempts and jobs given back, until answered.

use std::collections::VecDeque;

use crate::jobs::command::StatusUpdate;
use crate::jobs::job::WORKER_SLOTS_MAX;
use crate::types::{Fence, JobId};
use crate::wire::message::{BATCH_UPDATES_MAX, Code, Refusal};

/// Bytes of reports in one batch, at most (a first one is taken whatever its size).
pub const BATCH_BYTES_MAX: usize = 1 << 20;

/// Reports that wait, at most. A worker has one for each job it holds, and holds no more than its
/// slots; as many again may be left of a start that gave up. Past it the oldest is dropped: its job
/// was given to somebody else long ago.
pub const REPORTS_MAX: usize = 2 * WORKER_SLOTS_MAX as usize;

/// What a report takes beside its texts, in bytes, generously.
const REPORT_OVERHEAD_BYTES: usize = 64;

/// Reports and jobs to give back that the leader has not answered yet.
#[derive(Debug, Default)]
pub struct Outbox {
    reports: VecDeque<StatusUpdate>,
    /// How many of the first reports are in the batch that is on its way.
    sent: usize,
    /// At most one for each slot, running or waiting.
    releases: Vec<(JobId, Fence)>,
    /// How many of the first of them are on their way.
    releases_sent: usize,
}

impl Outbox {
    /// Adds the end of an attempt.
    pub fn report(&mut self, update: StatusUpdate) {
        if self.reports.len() >= REPORTS_MAX && self.sent == 0 {
            let dropped = self.reports.pop_front();
            log::warn!("a report was never answered: {:?}", dropped.map(|update| update.job));
        }
        self.reports.push_back(update);
    }

    /// Returns the next batch, of at most [`BATCH_UPDATES_MAX`], and marks it as on its way; `None` when there is none, or one is on
    /// its way already.
    pub fn batch(&mut self) -> Option<Vec<StatusUpdate>> {
        if self.sent > 0 || self.reports.is_empty() {
            return None;
        }
        let mut bytes = 0;
        let fits = |update: &&StatusUpdate| {
            let first = bytes == 0;
            bytes += size(update);
            first || bytes <= BATCH_BYTES_MAX
        };
        let batch: Vec<_> =
            self.reports.iter().take(BATCH_UPDATES_MAX).take_while(fits).cloned().collect();
        self.sent = batch.len();
        Some(batch)
    }

    /// Takes in the answer to the batch on its way: whatever was decided is done with; what was
    /// refused for the moment goes to the end of the line. Returns how many were decided.
    pub fn answered(&mut self, results: Vec<Result<(), Refusal>>) -> usize {
        let batch: Vec<_> = self.reports.drain(..self.sent).collect();
        self.sent = 0;
        let mut results = results.into_iter();
        let mut decided = 0;
        for update in batch {
            match results.next() {
                Some(Ok(())) => decided += 1,
                Some(Err(refusal)) if !is_passing(refusal.code) => {
                    decided += 1;
                    log::warn!(
                        "the report on job {} under fence {} is void: {}",
                        update.job,
                        update.fence,
                        refusal.message
                    );
                }
                Some(Err(_)) | None => self.reports.push_back(update),
            }
        }
        decided
    }

    /// Takes in that the batch on its way was not answered: it goes again.
    pub fn unanswered(&mut self) {
        self.sent = 0;
    }

    /// Returns how many reports are not answered.
    #[must_use]
    pub fn reports_count(&self) -> usize {
        self.reports.len()
    }

    /// Adds jobs to give back.
    pub fn give_back(&mut self, jobs: impl IntoIterator<Item = (JobId, Fence)>) {
        self.releases.extend(jobs);
    }

    /// Returns all jobs to give back, and marks them as on their way.
    pub fn releases(&mut self) -> Vec<(JobId, Fence)> {
        self.releases_sent = self.releases.len();
        self.releases.clone()
    }

    /// Takes in that the jobs on their way were given back, or are not ours to give.
    pub fn releases_answered(&mut self) {
        self.releases.drain(..self.releases_sent);
        self.releases_sent = 0;
    }

    /// Takes in that nobody answered: they go again.
    pub fn releases_unanswered(&mut self) {
        self.releases_sent = 0;
    }

    /// Forgets the jobs to give back: the start that held them has given everything up.
    pub fn clear_releases(&mut self) {
        self.releases.clear();
        self.releases_sent = 0;
    }

    /// Returns how many jobs are to be given back.
    #[must_use]
    pub fn releases_count(&self) -> usize {
        self.releases.len()
    }
}

/// A refusal that asking again may turn into a yes.
fn is_passing(code: Code) -> bool {
    match code {
        Code::NotLeader | Code::ResourceExhausted | Code::DeadlineExceeded | Code::Unavailable => {
            true
        }
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::Unauthenticated
        | Code::PermissionDenied
        | Code::StaleFence
        | Code::Internal => false,
    }
}

fn size(update: &StatusUpdate) -> usize {
    let error = update.verdict.error.as_ref().map_or(0, String::len);
    update.verdict.output.len() + error + REPORT_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::job::Verdict;
    use crate::wire::message::Request;

    fn update(fence: u64, bytes: usize) -> StatusUpdate {
        let verdict = Verdict {
            completed: true,
            exit_code: Some(0),
            output: vec![b'x'; bytes].into(),
            output_cut: false,
            error: None,
        };
        StatusUpdate { job: JobId([1; 16]), fence: Fence(fence), verdict }
    }

    fn refusal(code: Code) -> Result<(), Refusal> {
        Err(Refusal::new(code, "no"))
    }

    fn fences(batch: Option<Vec<StatusUpdate>>) -> Vec<u64> {
        batch.into_iter().flatten().map(|update| update.fence.0).collect()
    }

    #[test]
    fn batch_unanswered_goes_again_with_what_came_meanwhile() {
        let mut outbox = Outbox::default();
        outbox.report(update(1, 0));
        assert_eq!(fences(outbox.batch()), [1]);
        outbox.report(update(2, 0));
        assert_eq!(outbox.batch(), None, "one batch at a time");
        outbox.unanswered();
        assert_eq!(fences(outbox.batch()), [1, 2]);
        assert_eq!(outbox.answered(vec![Ok(()), Ok(())]), 2);
        assert_eq!((outbox.batch(), outbox.reports_count()), (None, 0));
    }

    #[test]
    fn report_void_is_dropped_and_report_refused_for_now_is_kept() {
        let mut outbox = Outbox::default();
        for fence in 1..=4 {
            outbox.report(update(fence, 0));
        }
        outbox.batch();
        let stale = refusal(Code::StaleFence);
        let unknown = refusal(Code::NotFound);
        let later = refusal(Code::Unavailable);
        assert_eq!(outbox.answered(vec![later, stale, unknown]), 2);
        assert_eq!(fences(outbox.batch()), [1, 4], "the fourth had no answer");
    }

    #[test]
    fn release_unanswered_goes_again_and_one_answered_goes_alone() {
        let mut outbox = Outbox::default();
        let job = |fence| (JobId([1; 16]), Fence(fence));
        outbox.give_back([job(1)]);
        assert_eq!(outbox.releases(), [job(1)]);
        outbox.releases_unanswered();
        outbox.give_back([job(2)]);
        assert_eq!(outbox.releases(), [job(1), job(2)]);
        outbox.give_back([job(3)]);
        outbox.releases_answered();
        assert_eq!((outbox.releases(), outbox.releases_count()), (vec![job(3)], 1));
        outbox.clear_releases();
        outbox.releases_answered();
        assert_eq!(outbox.releases_count(), 0);
    }

    #[test]
    fn batch_is_bounded_in_count_and_bytes() {
        let mut outbox = Outbox::default();
        for fence in 1..=300 {
            outbox.report(update(fence, 0));
        }
        let batch = outbox.batch().unwrap();
        assert_eq!(batch.len(), BATCH_UPDATES_MAX);
        let request = Request::BatchUpdateJobStatus(batch);
        assert_eq!(Request::from_frame(&request.to_frame(1)), Ok(request), "a node takes it");
        let mut outbox = Outbox::default();
        outbox.report(update(1, 2 * BATCH_BYTES_MAX));
        outbox.report(update(2, 0));
        assert_eq!(fences(outbox.batch()), [1]);
        assert_eq!(outbox.answered(vec![Ok(())]), 1);
        assert_eq!(fences(outbox.batch()), [2]);
    }

    #[test]
    fn reports_that_wait_are_bounded_and_the_oldest_goes() {
        let mut outbox = Outbox::default();
        for fence in 0..=u64::try_from(REPORTS_MAX).unwrap() {
            outbox.report(update(fence, 0));
        }
        assert_eq!(outbox.reports_count(), REPORTS_MAX);
        assert_eq!(fences(outbox.batch()).first(), Some(&1));
    }
}

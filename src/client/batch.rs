//! Many jobs at once: cut into requests, sent in order, each decided for itself.

use std::time::Duration;

use crate::client::client::{Client, misplaced};
use crate::client::clock;
use crate::client::core::SUBMIT_REPEATED_MAX;
use crate::client::error::Error;
use crate::client::job::Job;
use crate::jobs::job::NewJob;
use crate::wire::message::{BATCH_JOBS_MAX, Code, Refusal, Reply, Request, Submitted};
use crate::wire::request::job_bytes_max;

/// Bytes of one request of [`Client::submit_batch`], at most, one large job aside; a quarter of what a
/// node takes, so that a batch never holds up the requests behind it for long.
const BATCH_BYTES: usize = 512 << 10;

/// Jobs of a batch that were refused only for now are sent again after so long, unless the node said
/// when; never longer than the batch's time.
const ITEMS_PAUSE: Duration = Duration::from_millis(50);

impl Client {
    /// Submits many jobs, in order, in as few requests as fit, and returns what became of each.
    ///
    /// A job that is refused for itself alone stands as a refusal in its place; where a request failed as
    /// a whole after others had succeeded, so do its jobs. Jobs refused only for now (the queue is full)
    /// are sent again until the time of a request is over, and for 50 s at most.
    ///
    /// # Errors
    /// When no request succeeded: that of the first.
    pub async fn submit_batch<J: Into<Job>>(
        &self,
        jobs: impl IntoIterator<Item = J>,
    ) -> Result<Vec<Result<Submitted, Refusal>>, Error> {
        let jobs: Vec<_> = jobs.into_iter().map(|job| job.into().into_new()).collect();
        let mut results = Vec::with_capacity(jobs.len());
        let mut valid = Vec::with_capacity(jobs.len());
        for job in jobs {
            results.push(Err(match job {
                Ok(job) => {
                    valid.push((results.len(), job));
                    Refusal::unavailable("not sent")
                }
                Err(error) => Refusal::from(&error),
            }));
        }
        let mut first_error = None;
        let mut any_succeeded = valid.is_empty();
        for chunk in chunks(valid) {
            match self.submit_chunk(chunk, &mut results).await {
                Ok(()) => any_succeeded = true,
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        match first_error {
            Some(error) if !any_succeeded => Err(error),
            Some(_) | None => Ok(results),
        }
    }

    /// Sends one request's worth of jobs until each is decided or the time is over.
    async fn submit_chunk(
        &self,
        mut chunk: Vec<(usize, NewJob)>,
        results: &mut [Result<Submitted, Refusal>],
    ) -> Result<(), Error> {
        let deadline = clock::now().after(self.request_timeout.min(SUBMIT_REPEATED_MAX));
        let mut is_first = true;
        loop {
            let request = Request::SubmitBatch(chunk.iter().map(|(_, job)| job.clone()).collect());
            let answered = match self.call_until(request, None, deadline).await {
                Ok(Reply::SubmittedBatch(answered)) => answered,
                Ok(_) => return Err(misplaced()),
                // What the former tries said of each job stands, but for what this one left open.
                Err(error) => {
                    for (at, _) in &chunk {
                        if let Some(result) = results.get_mut(*at)
                            && (is_first || !error.is_definite())
                        {
                            *result = Err(Refusal::from(&error));
                        }
                    }
                    return if is_first { Err(error) } else { Ok(()) };
                }
            };
            is_first = false;
            let mut pause = ITEMS_PAUSE;
            let mut again = Vec::new();
            for ((at, job), result) in chunk.into_iter().zip(answered) {
                if let Err(refusal) = &result
                    && (refusal.is_retryable() || refusal.unknown)
                {
                    let asked = Duration::from_millis(refusal.retry_after_ms.unwrap_or(0));
                    pause = pause.max(asked);
                    again.push((at, job));
                }
                if let Some(place) = results.get_mut(at) {
                    *place = keep_unknown(place, result);
                }
            }
            let next = clock::now().after(pause);
            if again.is_empty() || next >= deadline {
                return Ok(());
            }
            clock::sleep_until(next).await;
            chunk = again;
        }
    }
}

/// Cuts jobs into requests: each of at most [`BATCH_JOBS_MAX`] jobs, and of [`BATCH_BYTES`] unless one job
/// alone has more.
fn chunks(jobs: Vec<(usize, NewJob)>) -> Vec<Vec<(usize, NewJob)>> {
    let mut chunks = Vec::new();
    let mut chunk = Vec::new();
    let mut bytes = 0;
    for (at, job) in jobs {
        let job_bytes = job_bytes_max(&job);
        let is_full = chunk.len() == BATCH_JOBS_MAX || bytes + job_bytes > BATCH_BYTES;
        if is_full && !chunk.is_empty() {
            chunks.push(std::mem::take(&mut chunk));
            bytes = 0;
        }
        bytes += job_bytes;
        chunk.push((at, job));
    }
    if !chunk.is_empty() {
        chunks.push(chunk);
    }
    chunks
}

/// Once a try of a job may have been done, a refusal of a later try says nothing of the former.
fn keep_unknown(
    former: &Result<Submitted, Refusal>,
    newer: Result<Submitted, Refusal>,
) -> Result<Submitted, Refusal> {
    let was_unknown = former.as_ref().is_err_and(|refusal| refusal.unknown);
    newer.map_err(|refusal| {
        let settles = refusal.code == Code::AlreadyExists;
        Refusal { unknown: refusal.unknown || was_unknown && !settles, ..refusal }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(at: usize, bytes: usize) -> (usize, NewJob) {
        (at, Job::payload("mail", vec![0; bytes]).into_new().unwrap())
    }

    #[test]
    fn batch_is_cut_by_count_and_by_bytes_and_keeps_its_order() {
        let many = chunks((0..300).map(|at| job(at, 10)).collect());
        let counts: Vec<usize> = many.iter().map(Vec::len).collect();
        assert_eq!(counts, [128, 128, 44]);
        assert!(many.iter().flatten().map(|(at, _)| *at).eq(0..300));
        let large =
            chunks(vec![job(0, 10), job(1, 1 << 20), job(2, 10), job(3, 500_000), job(4, 600_000)]);
        let counts: Vec<usize> = large.iter().map(Vec::len).collect();
        assert_eq!(counts, [1, 1, 2, 1]);
        assert_eq!(chunks(Vec::new()).len(), 0);
    }

    #[test]
    fn job_that_may_have_been_taken_stays_unknown_through_later_refusals() {
        let unknown = Err(Refusal::deadline_exceeded());
        let full = keep_unknown(&unknown, Err(Refusal::exhausted("full", 5)));
        assert!(full.is_err_and(|refusal| refusal.unknown));
        let other = keep_unknown(&unknown, Err(Refusal::already_exists("other content")));
        assert!(other.is_err_and(|refusal| !refusal.unknown));
        let definite =
            keep_unknown(&Err(Refusal::exhausted("", 1)), Err(Refusal::exhausted("", 1)));
        assert!(definite.is_err_and(|refusal| !refusal.unknown));
    }
}

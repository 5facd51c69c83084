//! Rules for a whole history, across its jobs: each looks at every record once.

use std::collections::BTreeMap;

use crate::sim::history::Record;
use crate::sim::job_model::{Op, Reported, Seen, Submitted};
use crate::types::JobId;

/// What there is at the end of a history, and what of it is to be expected.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Every job that there is, as it was seen when all was quiet.
    pub jobs: &'a BTreeMap<JobId, Seen>,
    /// Ended jobs may have been forgotten.
    pub may_forget: bool,
    /// Every job has had the time to end.
    pub must_be_over: bool,
    /// Every assignment is in the history, so that a report accepted under a token nobody was given is none.
    pub tells_assignments: bool,
}

/// Checks the rules:
///
/// - nothing acknowledged is lost, nothing is there that nobody submitted, and every job has ended;
/// - a token is of one assignment, over all jobs; of one job they rise with its attempts;
/// - what there is at the end has the newest token told of, and no report counts under one that was never given.
///
/// # Errors
/// The first rule that is broken, and by what.
pub fn check(records: &[Record], end: End<'_>) -> Result<(), String> {
    let mut submitted: BTreeMap<JobId, bool> = BTreeMap::new();
    let mut tokens: BTreeMap<u64, (JobId, u32)> = BTreeMap::new();
    let mut by_job: BTreeMap<JobId, BTreeMap<u64, u32>> = BTreeMap::new();
    for Record { job, op, .. } in records {
        match op {
            Op::Submit { outcome, .. } => {
                let is_there = matches!(outcome, Some(Submitted::Created | Submitted::Known));
                *submitted.entry(*job).or_default() |= is_there;
            }
            Op::Assigned { attempt, fence } => {
                let told = *tokens.entry(*fence).or_insert((*job, *attempt));
                if told != (*job, *attempt) {
                    return Err(format!(
                        "fence {fence} is of attempt {} of job {} and of attempt {attempt} of job {job}",
                        told.1, told.0
                    ));
                }
                by_job.entry(*job).or_default().insert(*fence, *attempt);
            }
            Op::Look { .. } | Op::Cancel { .. } | Op::Report { .. } => {}
        }
    }
    for (job, fences) in &by_job {
        rising(*job, fences, end)?;
    }
    for (job, is_acknowledged) in &submitted {
        if *is_acknowledged && !end.may_forget && !end.jobs.contains_key(job) {
            return Err(format!("the acknowledged job {job} is lost"));
        }
    }
    for (job, seen) in end.jobs {
        if !submitted.contains_key(job) {
            return Err(format!("job {job} is there, and nobody submitted it: {seen:?}"));
        }
        if end.must_be_over && !seen.status.is_final() {
            return Err(format!("job {job} has not ended: {seen:?}"));
        }
    }
    if end.tells_assignments {
        return accepted(records, &by_job);
    }
    Ok(())
}

/// The attempts of a job rise with its tokens, and it ended with the newest.
fn rising(job: JobId, fences: &BTreeMap<u64, u32>, end: End<'_>) -> Result<(), String> {
    for ((fence, attempt), (later, next)) in fences.iter().zip(fences.iter().skip(1)) {
        if next < attempt {
            return Err(format!(
                "job {job} had attempt {attempt} under fence {fence} and {next} under the later {later}"
            ));
        }
    }
    if let (Some(seen), Some((newest, _))) = (end.jobs.get(&job), fences.last_key_value())
        && seen.fence < *newest
    {
        return Err(format!("job {job} was assigned under fence {newest} and ended as {seen:?}"));
    }
    Ok(())
}

/// A report counts only under a token that somebody was given.
fn accepted(
    records: &[Record],
    by_job: &BTreeMap<JobId, BTreeMap<u64, u32>>,
) -> Result<(), String> {
    for Record { job, op, .. } in records {
        if let Op::Report { fence, outcome: Some(Reported::Applied), .. } = op
            && by_job.get(job).is_none_or(|fences| !fences.contains_key(fence))
        {
            return Err(format!(
                "a report of job {job} was accepted under fence {fence}, which nobody was given"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::job::Status;

    const ONE: JobId = JobId([1; 16]);
    const TWO: JobId = JobId([2; 16]);
    const ENDED: Seen = Seen { status: Status::Completed, attempt: 2, fence: 20, result: 5 };

    fn record(job: JobId, op: Op) -> Record {
        Record { client: 1, job, invoked_us: 1, returned_us: Some(2), op }
    }

    fn submitted(job: JobId, outcome: Option<Submitted>) -> Record {
        record(job, Op::Submit { content: 0, repeated: false, outcome })
    }

    fn assigned(job: JobId, attempt: u32, fence: u64) -> Record {
        record(job, Op::Assigned { attempt, fence })
    }

    fn good() -> Vec<Record> {
        let outcome = Some(Reported::Applied);
        let report = Op::Report { fence: 20, completed: true, result: 5, outcome };
        vec![
            submitted(ONE, Some(Submitted::Created)),
            assigned(ONE, 1, 10),
            assigned(ONE, 2, 20),
            assigned(ONE, 2, 20),
            record(ONE, report),
            submitted(TWO, None),
        ]
    }

    fn verdict(records: &[Record], jobs: &[(JobId, Seen)]) -> Result<(), String> {
        let jobs = jobs.iter().copied().collect();
        let (must_be_over, tells_assignments) = (true, true);
        check(records, End { jobs: &jobs, may_forget: false, must_be_over, tells_assignments })
    }

    fn assert_red(records: &[Record], jobs: &[(JobId, Seen)], why: &str) {
        let fault = verdict(records, jobs).expect_err(why);
        assert!(fault.contains(why), "{fault}");
    }

    #[test]
    fn good_history_passes_whatever_became_of_the_unknown_submit() {
        assert_eq!(verdict(&good(), &[(ONE, ENDED)]), Ok(()));
        assert_eq!(verdict(&good(), &[(ONE, ENDED), (TWO, ENDED)]), Ok(()));
    }

    #[test]
    fn each_rule_goes_red() {
        assert_red(&good(), &[], "is lost");
        assert_red(&good(), &[(ONE, ENDED), (JobId([3; 16]), ENDED)], "nobody submitted");
        let pending = Seen { status: Status::Pending, ..ENDED };
        assert_red(&good(), &[(ONE, pending)], "has not ended");
        assert_red(&good(), &[(ONE, Seen { fence: 10, ..ENDED })], "ended as");
        let with = |record| good().into_iter().chain([record]).collect::<Vec<_>>();
        assert_red(&with(assigned(TWO, 1, 20)), &[(ONE, ENDED)], "fence 20 is of");
    }

    #[test]
    fn attempts_rise_with_tokens() {
        let mut records = good();
        records.push(assigned(ONE, 3, 15));
        assert_red(&records, &[(ONE, ENDED)], "the later 20");
    }

    #[test]
    fn report_counts_only_under_a_token_that_was_given() {
        let outcome = Some(Reported::Applied);
        let mut records = good();
        records.push(record(ONE, Op::Report { fence: 21, completed: true, result: 5, outcome }));
        assert_red(&records, &[(ONE, ENDED)], "which nobody was given");
    }
}

//! What clients asked and were told: records of operations, one a line, and the check of each job's own history.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::sim::job_model::{JobModel, Op};
use crate::sim::linear::{self, Operation, Verdict};
use crate::types::JobId;

/// One operation of one client on one job. A request about many jobs is a record for each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Who.
    pub client: u64,
    /// On which job.
    #[serde(with = "as_text")]
    pub job: JobId,
    /// When it was begun, in microseconds of one clock for the whole history.
    pub invoked_us: u64,
    /// When its outcome was known. `None`: it never was.
    pub returned_us: Option<u64>,
    /// What, and what came of it.
    #[serde(flatten)]
    pub op: Op,
}

mod as_text {
    //! A job id as its 32 digits.

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::types::JobId;

    pub(super) fn serialize<S: Serializer>(id: &JobId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(id)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<JobId, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl Record {
    /// Writes it as a line of JSON, without its end.
    ///
    /// # Panics
    /// Never: nothing in it can fail to be written.
    #[must_use]
    pub fn to_line(&self) -> String {
        serde_json::to_string(self).expect("numbers and texts can be written")
    }

    /// Reads a line of JSON.
    ///
    /// # Errors
    /// If it is none.
    pub fn from_line(line: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(line)
    }

    /// Returns the operations that the checker sees for it.
    fn operations(&self) -> impl Iterator<Item = Operation<Op>> {
        let (invoked, returned) = match self.op {
            // Whoever told of it may have been late, and the assignment is older.
            Op::Assigned { .. } => (0, self.returned_us),
            Op::Submit { .. } | Op::Look { .. } | Op::Cancel { .. } | Op::Report { .. } => {
                (self.invoked_us, self.returned_us)
            }
        };
        let ghost = self.op.ghost().map(|op| Operation { op, invoked, returned: None });
        let told = returned.is_some() || self.op.is_change();
        let own = told.then(|| Operation { op: self.op.clone(), invoked, returned });
        own.into_iter().chain(ghost)
    }
}

/// What the check of many jobs came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Jobs whose history was looked at.
    pub jobs: u64,
    /// Operations in them.
    pub operations: u64,
    /// Steps that took.
    pub steps: u64,
    /// Histories that no single copy could have produced, each told in words.
    pub illegal: Vec<String>,
    /// Jobs for which the bound on steps was reached: no pass.
    pub undecided: Vec<JobId>,
}

impl Checked {
    /// Adds what another check came to.
    pub fn add(&mut self, other: Self) {
        self.jobs += other.jobs;
        self.operations += other.operations;
        self.steps += other.steps;
        self.illegal.extend(other.illegal);
        self.undecided.extend(other.undecided);
    }

    /// Says what is wrong, if anything is.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        if let Some(first) = self.illegal.first() {
            return Some(format!("{} of {} jobs; {first}", self.illegal.len(), self.jobs));
        }
        let first = self.undecided.first()?;
        Some(format!("{} of {} jobs are undecided, as {first} is", self.undecided.len(), self.jobs))
    }
}

/// Checks the history of every job on its own: that is as good as checking all at once (Herlihy and Wing 1990,
/// "locality").
#[must_use]
pub fn check_jobs(model: &JobModel, records: &[Record], steps_max: u64) -> Checked {
    let mut by_job: BTreeMap<JobId, Vec<&Record>> = BTreeMap::new();
    for record in records {
        by_job.entry(record.job).or_default().push(record);
    }
    let mut checked = Checked::default();
    for (job, records) in by_job {
        let history = operations(&records);
        checked.jobs += 1;
        checked.operations += history.len() as u64;
        match linear::check(&model.of(job), &history, steps_max) {
            Verdict::Legal { steps } => checked.steps += steps,
            Verdict::Undecided { steps } => {
                checked.steps += steps;
                checked.undecided.push(job);
            }
            Verdict::Illegal(illegal) => {
                let text = illegal.describe(show, &history);
                checked.illegal.push(format!("job {job}: {text}"));
            }
        }
    }
    checked
}

/// Gathers the operations of one job. Of what tells of one assignment, the first to be told counts.
fn operations(records: &[&Record]) -> Vec<Operation<Op>> {
    let mut assigned: BTreeMap<(u64, u32), Operation<Op>> = BTreeMap::new();
    let mut history = Vec::with_capacity(records.len());
    for operation in records.iter().flat_map(|record| record.operations()) {
        let Op::Assigned { attempt, fence } = operation.op else {
            history.push(operation);
            continue;
        };
        let first = assigned.entry((fence, attempt)).or_insert_with(|| operation.clone());
        if operation.returned < first.returned {
            *first = operation;
        }
    }
    history.extend(assigned.into_values());
    history
}

fn show(operation: &Operation<Op>) -> String {
    let Operation { op, invoked, returned } = operation;
    let until = returned.map_or("?".into(), |returned| returned.to_string());
    format!("{invoked}..{until} us  {op:?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::job::Status;
    use crate::sim::job_model::{Cancelled, Reported, Seen, Submitted};
    use crate::sim::linear::STEPS_MAX;

    fn record(invoked_us: u64, returned_us: Option<u64>, op: Op) -> Record {
        Record { client: 7, job: JobId([1; 16]), invoked_us, returned_us, op }
    }

    fn created() -> Op {
        Op::Submit { content: 1 << 60, repeated: false, outcome: Some(Submitted::Created) }
    }

    fn verdict(records: &[Record]) -> Option<String> {
        check_jobs(&JobModel::default(), records, STEPS_MAX).fault()
    }

    #[test]
    fn record_is_a_line_that_reads_back() {
        let seen = Seen { status: Status::Running, attempt: 1, fence: u64::MAX, result: 0 };
        let ops = [
            created(),
            Op::Look { seen: Some(seen) },
            Op::Look { seen: None },
            Op::Cancel { repeated: true, outcome: Some(Cancelled::Ended(Some(Status::Failed))) },
            Op::Cancel { repeated: true, outcome: None },
            Op::Report {
                fence: 4,
                completed: true,
                result: 9,
                outcome: Some(Reported::StaleFence),
            },
            Op::Assigned { attempt: 2, fence: 8 },
        ];
        for op in ops {
            for returned_us in [Some(12), None] {
                let record = record(5, returned_us, op.clone());
                let line = record.to_line();
                assert_eq!(Record::from_line(&line).unwrap(), record, "{line}");
            }
        }
        let line = record(5, Some(6), Op::Look { seen: None }).to_line();
        let text = r#"{"client":7,"job":"01010101010101010101010101010101","invoked_us":5,"returned_us":6,"op":"look","seen":null}"#;
        assert_eq!(line, text);
        assert!(Record::from_line("{}").is_err());
    }

    #[test]
    fn former_try_of_a_cancellation_may_still_be_done() {
        let gone = |repeated| {
            let outcome = Some(Cancelled::NotFound);
            let seen = Seen { status: Status::Cancelled, attempt: 1, fence: 0, result: 0 };
            [
                record(0, Some(10), Op::Cancel { repeated, outcome }),
                record(20, Some(30), created()),
                record(40, Some(50), Op::Look { seen: Some(seen) }),
            ]
        };
        assert_eq!(verdict(&gone(true)), None);
        assert!(verdict(&gone(false)).unwrap().contains("no order of these operations"));
    }

    #[test]
    fn assignment_is_older_than_whoever_tells_of_it() {
        let told = Op::Assigned { attempt: 1, fence: 4096 };
        let seen = Seen { status: Status::Running, attempt: 1, fence: 4096, result: 0 };
        let look = Op::Look { seen: Some(seen) };
        let late = [
            record(0, Some(1), created()),
            record(10, Some(11), look.clone()),
            record(20, Some(21), told.clone()),
        ];
        assert_eq!(verdict(&late), None);
        let pending = Seen { status: Status::Pending, fence: 0, ..seen };
        let back = [
            record(0, Some(1), created()),
            record(10, Some(11), told),
            record(20, Some(21), Op::Look { seen: Some(pending) }),
        ];
        assert!(verdict(&back).is_some(), "it ran, and never was assigned");
    }

    #[test]
    fn undecided_history_is_a_fault() {
        let records = [record(0, Some(1), created()), record(2, Some(3), Op::Look { seen: None })];
        let checked = check_jobs(&JobModel::default(), &records, 1);
        assert!(checked.fault().unwrap().contains("undecided"));
    }
}

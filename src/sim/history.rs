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
        match linear::check(model, &history, steps_max) {
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

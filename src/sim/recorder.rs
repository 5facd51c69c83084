//! The history of one round of a simulation, as it is written down.

use std::collections::BTreeMap;

use crate::sim::history::Record;
use crate::sim::job_model::Op;
use crate::types::{JobId, Millis};

/// Operations on one job that are open at one time, at most: the checker's cost grows with their powers. Those of
/// unknown outcome stay open.
pub const OPEN_MAX: u32 = 5;

/// What clients and workers know together: the jobs of this round, and the history of it.
#[derive(Debug, Default)]
pub struct Recorder {
    records: Vec<Record>,
    /// The last moment given out.
    last_us: u64,
    jobs: Vec<JobId>,
    contents: BTreeMap<JobId, u64>,
    open: BTreeMap<JobId, u32>,
    /// Operations that were ever begun.
    begun: u64,
}

impl Recorder {
    /// Gives out a moment, later than every one before.
    pub fn moment(&mut self, now_ms: u64) -> u64 {
        self.last_us = (self.last_us + 1).max(now_ms * 1000);
        self.last_us
    }

    /// Adds a job that a client is about to submit.
    pub fn add_job(&mut self, job: JobId, content: u64) {
        if self.contents.insert(job, content).is_none() {
            self.jobs.push(job);
        }
    }

    /// Returns the jobs of this round, in the order in which they were thought of.
    #[must_use]
    pub fn jobs(&self) -> &[JobId] {
        &self.jobs
    }

    /// Returns what a job of this round is.
    #[must_use]
    pub fn content(&self, job: JobId) -> Option<u64> {
        self.contents.get(&job).copied()
    }

    /// Opens an operation on a job, unless too many are.
    pub fn open(&mut self, job: JobId) -> bool {
        let open = self.open.entry(job).or_default();
        if *open >= OPEN_MAX {
            return false;
        }
        *open += 1;
        self.begun += 1;
        true
    }

    /// Closes an operation whose outcome is known, or that was certainly not done.
    pub fn close(&mut self, job: JobId) {
        if let Some(open) = self.open.get_mut(&job) {
            *open = open.saturating_sub(1);
        }
    }

    /// Writes down what came of an operation; with `now_ms` of `None` its outcome is unknown.
    pub fn write(&mut self, client: u64, job: JobId, invoked_us: u64, now_ms: Option<u64>, op: Op) {
        let returned_us = now_ms.map(|now_ms| self.moment(now_ms));
        self.records.push(Record { client, job, invoked_us, returned_us, op });
    }

    /// Returns what was written.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Returns how many operations clients ever began.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.begun
    }

    /// Begins a new round: jobs and history of the last one are forgotten.
    pub fn clear(&mut self) -> Vec<Record> {
        self.jobs.clear();
        self.contents.clear();
        self.open.clear();
        std::mem::take(&mut self.records)
    }
}

/// Makes an id no other job of a simulation has.
#[must_use]
pub fn new_id(now_ms: u64, dice: &mut fastrand::Rng) -> JobId {
    JobId::new(Millis(now_ms), dice.u128(..))
}

//! The books over the jobs: who waits in which line, who ended when, how many there are, what they
//! weigh and what they hash to.

use imbl::OrdMap;

use crate::jobs::digest::Sum;
use crate::jobs::job::Status;
use crate::jobs::ordered::Ordered;
use crate::jobs::resident::{Job, Kind, Lane};
use crate::types::{JobId, QueueName};

/// How many jobs of one queue there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueCounts {
    /// Commands that wait.
    pub pending_commands: u64,
    /// Payloads that wait.
    pub pending_payloads: u64,
    /// Jobs that run.
    pub running: u64,
    /// Jobs that ended well and are still kept.
    pub completed: u64,
    /// Jobs that ended badly and are still kept.
    pub failed: u64,
    /// Jobs that were cancelled and are still kept.
    pub cancelled: u64,
}

impl QueueCounts {
    fn of(&mut self, job: &Job) -> &mut u64 {
        match (job.status, job.kind) {
            (Status::Pending, Kind::Command) => &mut self.pending_commands,
            (Status::Pending, Kind::Payload) => &mut self.pending_payloads,
            (Status::Running, _) => &mut self.running,
            (Status::Completed, _) => &mut self.completed,
            (Status::Failed, _) => &mut self.failed,
            (Status::Cancelled, _) => &mut self.cancelled,
        }
    }

    /// Returns how many jobs wait.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.pending_commands + self.pending_payloads
    }

    /// Returns how many jobs are kept of those that ended.
    #[must_use]
    pub fn finished(&self) -> u64 {
        self.completed + self.failed + self.cancelled
    }

    /// Returns how many jobs there are.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.pending() + self.running + self.finished()
    }
}

/// The books over the jobs. A job's every change is one [`Books::leave`] with the former state and
/// one [`Books::enter`] with the new one; there is no other way to write here.
///
/// - `pending` names exactly the pending jobs, by lane and by sequence; no lane in it is empty.
/// - `ended` names exactly the jobs that ended, by the order of their endings.
/// - `queues` has an entry for exactly the queues that some job is in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Books {
    pending: OrdMap<Lane, Ordered<u64, JobId>>,
    ended: Ordered<u64, JobId>,
    queues: OrdMap<QueueName, QueueCounts>,
    totals: QueueCounts,
    job_bytes: u64,
    finished_bytes: u64,
    sum: Sum,
}

impl Books {
    /// Writes a job in.
    pub fn enter(&mut self, job: &Job) {
        self.sum.add(job.record());
        self.job_bytes += job.weight();
        *self.totals.of(job) += 1;
        match self.queues.get_mut(&job.queue) {
            Some(counts) => *counts.of(job) += 1,
            None => *self.queues.entry(job.queue.clone()).or_default().of(job) += 1,
        }
        match (job.status, &job.ending) {
            (Status::Pending, _) => {
                let lane = job.lane();
                match self.pending.get_mut(&lane) {
                    Some(line) => line.insert(job.sequence, job.id),
                    None => self.pending.entry(lane).or_default().insert(job.sequence, job.id),
                };
            }
            (Status::Running, _) | (_, None) => {}
            (Status::Completed | Status::Failed | Status::Cancelled, Some(ending)) => {
                self.finished_bytes += job.weight();
                self.ended.insert(ending.order, job.id);
            }
        }
    }

    /// Strikes a job out, exactly as it was written in.
    ///
    /// # Panics
    /// If it is not in the books.
    pub fn leave(&mut self, job: &Job) {
        self.sum.take(job.record());
        self.job_bytes -= job.weight();
        *self.totals.of(job) -= 1;
        let counts = self.queues.get_mut(&job.queue).expect("a job's queue is counted");
        *counts.of(job) -= 1;
        if counts.total() == 0 {
            self.queues.remove(&job.queue);
        }
        match (job.status, &job.ending) {
            (Status::Pending, _) => {
                let lane = job.lane();
                let line = self.pending.get_mut(&lane).expect("a pending job stands in its line");
                line.remove(&job.sequence).expect("a pending job has its place");
                if line.is_empty() {
                    self.pending.remove(&lane);
                }
            }
            (Status::Running, _) | (_, None) => {}
            (Status::Completed | Status::Failed | Status::Cancelled, Some(ending)) => {
                self.finished_bytes -= job.weight();
                self.ended.remove(&ending.order).expect("a job that ended has its place");
            }
        }
    }

    /// Returns the queue's name as the other jobs of the queue hold it, so that they share its text.
    #[must_use]
    pub fn shared(&self, queue: &QueueName) -> QueueName {
        self.queues.get_key_value(queue).map_or_else(|| queue.clone(), |(name, _)| name.clone())
    }

    /// Returns the lines in which jobs wait; none of them is empty.
    #[must_use]
    pub fn lines(&self) -> &OrdMap<Lane, Ordered<u64, JobId>> {
        &self.pending
    }

    /// Returns the jobs that ended, in the order in which they did.
    #[must_use]
    pub fn ended(&self) -> &Ordered<u64, JobId> {
        &self.ended
    }

    /// Returns the queues that some job is in, with their counts.
    #[must_use]
    pub fn queues(&self) -> &OrdMap<QueueName, QueueCounts> {
        &self.queues
    }

    /// Returns the counts of all queues together.
    #[must_use]
    pub fn totals(&self) -> &QueueCounts {
        &self.totals
    }

    /// Returns what all jobs weigh.
    #[must_use]
    pub fn job_bytes(&self) -> u64 {
        self.job_bytes
    }

    /// Returns what the jobs that ended weigh.
    #[must_use]
    pub fn finished_bytes(&self) -> u64 {
        self.finished_bytes
    }

    /// Returns its share of the digest.
    #[must_use]
    pub fn sum(&self) -> u128 {
        self.sum.value()
    }
}

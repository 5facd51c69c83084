//! What must hold at every step of a simulated world, and when it has healed.

use std::collections::{BTreeMap, BTreeSet};

use crate::jobs::job::{JobView, Status};
use crate::raft::core::Role;
use crate::replica::core::Replica;
use crate::types::{Fence, Index, JobId, NodeId, Term};

/// The memory of the checks.
#[derive(Debug, Default)]
pub struct Checks {
    leaders: BTreeMap<Term, NodeId>,
    digests: BTreeMap<Index, u128>,
    commits: BTreeMap<NodeId, Index>,
    fences: BTreeMap<JobId, Fence>,
    begun: BTreeSet<Fence>,
    acknowledged: BTreeSet<JobId>,
    /// Jobs whose report was accepted, and under which token.
    done: BTreeMap<JobId, Fence>,
    /// What a read told last of a job.
    told: BTreeMap<JobId, Told>,
    reads: usize,
}

/// What a read told of a job, as far as it can never be taken back.
#[derive(Clone, Copy, Debug)]
struct Told {
    fence: Option<Fence>,
    ended: Option<Status>,
}

/// A promise that was broken; the text says which.
pub type Violation = String;

impl Checks {
    /// Looks at a replica after its turn.
    ///
    /// # Errors
    /// The promise it broke.
    pub fn after_turn<W>(&mut self, node: NodeId, replica: &Replica<W>) -> Result<(), Violation> {
        let status = replica.raft().status();
        if status.role == Role::Leader {
            let leader = *self.leaders.entry(status.term).or_insert(node);
            if leader != node {
                return Err(format!("term {} has two leaders: {leader} and {node}", status.term));
            }
        }
        let before = self.commits.insert(node, status.commit_index).unwrap_or_default();
        if status.commit_index < before {
            return Err(format!(
                "node {node}: commit went from {before} to {}",
                status.commit_index
            ));
        }
        if replica.machine().applied_index() > status.commit_index {
            return Err(format!("node {node} applied what is not committed"));
        }
        let machine = replica.machine();
        let newest = (machine.applied_index(), machine.digest());
        for (index, digest) in machine.digests().into_iter().chain([newest]) {
            let known = *self.digests.entry(index).or_insert(digest.0);
            if known != digest.0 {
                return Err(format!("node {node} has another machine at {index}"));
            }
        }
        while self.digests.len() > 4096 {
            self.digests.pop_first();
        }
        Ok(())
    }

    /// Notes that a node lost its memory: its commit index may begin anew.
    pub fn restarted(&mut self, node: NodeId) {
        self.commits.remove(&node);
    }

    /// Notes an acknowledged submit.
    pub fn acknowledge(&mut self, id: JobId) {
        self.acknowledged.insert(id);
    }

    /// Returns how many submits were acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }

    /// Notes what a read told of a job that was acknowledged before it was asked for; reads of one job come
    /// one after the other.
    ///
    /// # Errors
    /// If the job is not there, or what a former read told was taken back.
    pub fn read(&mut self, id: JobId, job: Option<&JobView>) -> Result<(), Violation> {
        let Some(job) = job else {
            return Err(format!("a read found nothing of the acknowledged job {id}"));
        };
        self.reads += 1;
        let now = Told { fence: job.fence, ended: job.status.is_final().then_some(job.status) };
        let before = self.told.insert(id, now);
        if before
            .is_some_and(|it| it.fence > now.fence || it.ended.is_some() && it.ended != now.ended)
        {
            return Err(format!("a read went back in time: {before:?}, then {now:?}, of job {id}"));
        }
        Ok(())
    }

    /// Returns how many reads were answered.
    #[must_use]
    pub fn reads(&self) -> usize {
        self.reads
    }

    /// Notes that a worker begins an assignment.
    ///
    /// # Errors
    /// If the same token was begun before, or the job was done under an older one.
    pub fn begin(&mut self, job: JobId, fence: Fence) -> Result<(), Violation> {
        if !self.begun.insert(fence) {
            return Err(format!("fence {fence} was begun twice"));
        }
        if self.done.get(&job).is_some_and(|done| fence > *done) {
            return Err(format!("job {job} was done, and is begun again under fence {fence}"));
        }
        // A worker may hear late of an assignment that is void already; it begins it in vain.
        let newest = self.fences.entry(job).or_default();
        *newest = fence.max(*newest);
        Ok(())
    }

    /// Notes that a report was accepted.
    ///
    /// # Errors
    /// If a report under an older token than one already begun was accepted, or two under two tokens.
    pub fn reported(&mut self, job: JobId, fence: Fence) -> Result<(), Violation> {
        if *self.done.entry(job).or_insert(fence) != fence {
            return Err(format!("two reports of job {job} were accepted, one under fence {fence}"));
        }
        match self.fences.get(&job) {
            Some(newest) if *newest > fence && self.begun.contains(newest) => {
                Err(format!("a report of job {job} under the old fence {fence} was accepted"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// After healing: every acknowledged job must be there and have ended, on this replica.
    ///
    /// # Errors
    /// The first that is not.
    pub fn at_end<W>(&self, node: NodeId, replica: &Replica<W>) -> Result<(), Violation> {
        for id in &self.acknowledged {
            match replica.machine().job(*id) {
                None => return Err(format!("node {node} lost the acknowledged job {id}")),
                Some(job) if !job.status.is_final() => {
                    return Err(format!(
                        "node {node} at {}: job {id} is {} still; in all {:?}",
                        replica.machine().applied_index(),
                        job.status.as_str(),
                        replica.machine().counts()
                    ));
                }
                Some(job) => {
                    let done = self.done.get(id);
                    let as_reported = match done {
                        Some(fence) => {
                            job.status == Status::Completed && job.fence() == Some(*fence)
                        }
                        // Its report was accepted and the answer lost, or it was lost with its workers.
                        None => {
                            job.status == Status::Completed
                                || job.attempt >= replica.machine().limits().attempts_max
                        }
                    };
                    if !as_reported || job.status == Status::Cancelled {
                        let (status, fence) = (job.status.as_str(), job.fence());
                        return Err(format!(
                            "job {id} ended as {status} under {fence:?}; its report: {done:?}"
                        ));
                    }
                }
            }
        }
        if replica.machine().recount() != replica.machine().digest() {
            return Err(format!("node {node}: the digest is not that of its jobs"));
        }
        Ok(())
    }
}

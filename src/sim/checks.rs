//! What must hold at every step of a simulated world, and when it has healed.

use std::collections::{BTreeMap, BTreeSet};

use crate::raft::core::Role;
use crate::replica::core::Replica;
use crate::types::{Fence, Index, JobId, NodeId, Term, WorkerId};

/// The memory of the checks.
#[derive(Debug, Default)]
pub struct Checks {
    leaders: BTreeMap<Term, NodeId>,
    digests: BTreeMap<Index, u128>,
    commits: BTreeMap<NodeId, Index>,
    fences: BTreeMap<JobId, Fence>,
    begun: BTreeSet<Fence>,
    acknowledged: BTreeSet<JobId>,
    holders: BTreeMap<Fence, WorkerId>,
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
        for (index, digest) in replica.machine().digests() {
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

    /// Notes that a worker begins an assignment.
    ///
    /// # Errors
    /// If the same token was begun before, or a token of the job goes back.
    pub fn begin(&mut self, job: JobId, fence: Fence, worker: &WorkerId) -> Result<(), Violation> {
        if !self.begun.insert(fence) {
            return Err(format!("fence {fence} was begun twice"));
        }
        let newest = self.fences.entry(job).or_default();
        if fence < *newest {
            // A worker may hear late of an assignment that is void already; it begins it in vain.
            return Ok(());
        }
        *newest = fence;
        self.holders.insert(fence, worker.clone());
        Ok(())
    }

    /// Notes that a report was accepted.
    ///
    /// # Errors
    /// If a report under an older token than one already reported was accepted.
    pub fn reported(&self, job: JobId, fence: Fence) -> Result<(), Violation> {
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
                Some(_) => {}
            }
        }
        if replica.machine().recount() != replica.machine().digest() {
            return Err(format!("node {node}: the digest is not that of its jobs"));
        }
        Ok(())
    }
}

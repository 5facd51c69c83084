//! What the world knows and no node does: who led when, what is committed, and what is durable where. Each turn and
//! each message of each node is held against it.

use std::collections::BTreeMap;

use crate::raft::core::Role;
use crate::raft::effects::Persist;
use crate::raft::message::{AppendOutcome, Entry, Message};
use crate::raft::quorum::majority;
use crate::replica::core::Replica;
use crate::sim::checks::Violation;
use crate::sim::healing;
use crate::sim::store::Durable;
use crate::sim::world::place;
use crate::types::{Index, NodeId, Term};

/// Entries, committed indexes and digests remembered, at most; the oldest are forgotten first.
const REMEMBERED_MAX: usize = 8192;

/// How far back the commit of a node is compared when it moves, at most.
const COMPARED_MAX: u64 = 512;

/// What was seen last of one node.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    commit_index: Index,
    applied_index: Index,
    /// The term it leads in, and its last entry.
    led: Option<(Term, Index)>,
}

/// The memory of it.
#[derive(Debug, Default)]
pub(super) struct Truth {
    leaders: BTreeMap<Term, NodeId>,
    /// The checksum of each entry that was handed to a disk.
    entries: BTreeMap<(Index, Term), u32>,
    committed: BTreeMap<Index, Term>,
    /// The newest entry that is committed.
    top: (Index, Term),
    digests: BTreeMap<Index, u128>,
    /// For whom each node said that it votes.
    votes: BTreeMap<(Term, NodeId), NodeId>,
    seen: BTreeMap<NodeId, Seen>,
}

impl Truth {
    /// Takes a batch that goes to a disk: one index and one term are one entry, everywhere and for ever.
    pub(super) fn written(&mut self, node: NodeId, batch: &Persist) -> Result<(), Violation> {
        for entry in &batch.entries {
            let sum = sum(entry);
            if *self.entries.entry((entry.index, entry.term)).or_insert(sum) != sum {
                return Err(format!(
                    "node {node}: entry {} of term {} is another one than elsewhere",
                    entry.index, entry.term
                ));
            }
        }
        while self.entries.len() > REMEMBERED_MAX {
            self.entries.pop_first();
        }
        Ok(())
    }

    /// Takes entries that a disk gave back at a start.
    pub(super) fn found(&self, node: NodeId, entries: &[Entry]) -> Result<(), Violation> {
        for entry in entries {
            if self
                .entries
                .get(&(entry.index, entry.term))
                .is_some_and(|known| *known != sum(entry))
            {
                return Err(format!(
                    "node {node}: entry {} of term {} came back as another one from its disk",
                    entry.index, entry.term
                ));
            }
        }
        Ok(())
    }

    /// Returns the newest committed entry and its term.
    pub(super) fn committed(&self) -> (Index, Term) {
        self.top
    }

    /// Returns the newest committed entry.
    pub(super) fn commit_index(&self) -> Index {
        self.top.0
    }

    /// Notes that a node begins a new life: its commit index may begin anew.
    pub(super) fn restarted(&mut self, node: NodeId) {
        self.seen.remove(&node);
    }

    /// Notes that a node begins anew as one that heals: what it voted before counts for nobody any more.
    pub(super) fn begun_anew(&mut self, node: NodeId) {
        self.votes.retain(|(_, voter), _| *voter != node);
    }

    /// Takes a message that leaves: in one term a node votes for one candidate, whatever it has lived through.
    pub(super) fn leaves(
        &mut self,
        from: NodeId,
        to: NodeId,
        message: &Message,
    ) -> Result<(), Violation> {
        let Some(candidate) = granted(from, to, message) else { return Ok(()) };
        let term = message.term();
        let voted = *self.votes.entry((term, from)).or_insert(candidate);
        while self.votes.len() > REMEMBERED_MAX {
            self.votes.pop_first();
        }
        if voted == candidate {
            return Ok(());
        }
        Err(format!(
            "node {from} votes for node {candidate} in term {term}, and voted for node {voted}"
        ))
    }

    /// Looks at a replica after its turn. `durable` is what each node has on its disk for certain.
    pub(super) fn after_turn<W>(
        &mut self,
        node: NodeId,
        replica: &Replica<W>,
        durable: &[Durable],
    ) -> Result<(), Violation> {
        let raft = replica.raft();
        if raft.is_healing() && raft.role() != Role::Follower {
            return Err(format!("node {node} heals and is a {:?}", raft.role()));
        }
        let is_marked = durable.get(place(node)).is_some_and(|disk| disk.healing);
        if is_marked && !raft.is_healing() {
            return Err(format!("node {node} counts as whole, and its disk has the mark still"));
        }
        let mut seen = self.seen.get(&node).copied().unwrap_or_default();
        // Only with an entry of its own term does a leader commit what is older (Raft paper §5.4.2, Figure 8).
        let led_before =
            raft.role() == Role::Leader && seen.led.is_some_and(|(term, _)| term == raft.term());
        if raft.role() == Role::Leader {
            let (term, last) = (raft.term(), raft.last_index());
            match seen.led {
                Some((led, before)) if led == term => {
                    if last < before {
                        return Err(format!(
                            "node {node} leads in term {term} and cut its own log from {before} to {last}"
                        ));
                    }
                }
                Some(_) | None => self.elected(node, replica)?,
            }
            seen.led = Some((term, last));
        } else {
            seen.led = None;
        }
        let commit = raft.commit_index();
        if led_before
            && commit > seen.commit_index
            && let Some(of) = raft.term_at(commit).filter(|of| *of != raft.term())
        {
            return Err(format!(
                "node {node} leads in term {} and counts entry {commit} of term {of} as committed",
                raft.term()
            ));
        }
        if commit < seen.commit_index {
            return Err(format!("node {node}: commit went from {} to {commit}", seen.commit_index));
        }
        if commit > seen.commit_index {
            self.commits(node, replica, seen.commit_index, durable)?;
            seen.commit_index = commit;
        }
        let applied = replica.machine().applied_index();
        if applied > commit {
            return Err(format!("node {node} applied {applied}, and only {commit} is committed"));
        }
        if applied != seen.applied_index {
            self.applied(node, replica, seen.applied_index)?;
            seen.applied_index = applied;
        }
        self.seen.insert(node, seen);
        Ok(())
    }

    /// A leader is alone in its term, and has all that is committed (Raft paper §5.4.3).
    fn elected<W>(&mut self, node: NodeId, replica: &Replica<W>) -> Result<(), Violation> {
        let raft = replica.raft();
        let term = raft.term();
        let leader = *self.leaders.entry(term).or_insert(node);
        if leader != node {
            return Err(format!("term {term} has two leaders: {leader} and {node}"));
        }
        let (index, of) = self.top;
        // What a later leader has committed meanwhile, one of a former term need not have.
        if of < term && index > Index(0) {
            let has = match raft.term_at(index) {
                Some(here) => here == of,
                None => raft.applied_index() >= index,
            };
            if !has {
                return Err(format!(
                    "node {node} leads in term {term} without entry {index} of term {of}, which is committed"
                ));
            }
        }
        Ok(())
    }

    /// What is committed is the same everywhere, for ever, and on the disks of a majority.
    fn commits<W>(
        &mut self,
        node: NodeId,
        replica: &Replica<W>,
        before: Index,
        durable: &[Durable],
    ) -> Result<(), Violation> {
        let raft = replica.raft();
        let commit = raft.commit_index();
        let from = before.0.max(commit.0.saturating_sub(COMPARED_MAX)) + 1;
        for index in (from..=commit.0).map(Index) {
            let Some(term) = raft.term_at(index) else { continue };
            let known = *self.committed.entry(index).or_insert(term);
            if known != term {
                return Err(format!(
                    "node {node}: entry {index} of term {term} is committed, and was committed of term {known}"
                ));
            }
        }
        while self.committed.len() > REMEMBERED_MAX {
            self.committed.pop_first();
        }
        if commit > self.top.0
            && let Some(term) = raft.term_at(commit)
        {
            let holders = durable.iter().filter(|disk| disk.counts(commit, term)).count();
            if holders < majority(durable.len()) {
                return Err(format!(
                    "node {node}: entry {commit} of term {term} counts as committed, and only {holders} of {} \
                     disks have it",
                    durable.len()
                ));
            }
            self.top = (commit, term);
        }
        Ok(())
    }

    /// Replicas at one index are the same.
    fn applied<W>(
        &mut self,
        node: NodeId,
        replica: &Replica<W>,
        before: Index,
    ) -> Result<(), Violation> {
        let machine = replica.machine();
        let newest = (machine.applied_index(), machine.digest());
        let crossed = newest.0.0 / 64 != before.0 / 64;
        let taken = if crossed { machine.digests() } else { Vec::new() };
        for (index, digest) in taken.into_iter().chain([newest]) {
            if *self.digests.entry(index).or_insert(digest.0) != digest.0 {
                return Err(format!("node {node} has another queue at entry {index} than others"));
            }
        }
        while self.digests.len() > REMEMBERED_MAX {
            self.digests.pop_first();
        }
        Ok(())
    }
}

fn sum(entry: &Entry) -> u32 {
    crc32fast::hash(&entry.data) ^ entry.kind as u32
}

/// Returns for whom a message is a vote.
fn granted(from: NodeId, to: NodeId, message: &Message) -> Option<NodeId> {
    match message {
        Message::Vote { .. } => Some(from),
        Message::VoteReply { granted: true, .. } => Some(to),
        Message::VoteReply { .. }
        | Message::PreVote { .. }
        | Message::PreVoteReply { .. }
        | Message::AppendEntries { .. }
        | Message::AppendReply { .. }
        | Message::InstallSnapshot { .. }
        | Message::TimeoutNow { .. }
        | Message::ReadIndex { .. }
        | Message::ReadIndexReply { .. } => None,
    }
}

/// Holds a message that leaves against the disk of the one who says it: what it speaks of must be durable
/// (Raft paper, Figure 2).
pub(super) fn may_leave(
    from: NodeId,
    to: NodeId,
    message: &Message,
    disk: &Durable,
) -> Result<(), Violation> {
    let hard = disk.hard;
    let said = |what: &str| {
        Err(format!(
            "node {from} {what}, and its disk has term {}, vote {:?}, entry {}",
            hard.term, hard.vote, disk.last
        ))
    };
    let term = message.term();
    if disk.healing {
        healing::may_say(from, to, message)?;
    }
    match message {
        Message::PreVote { .. } | Message::PreVoteReply { .. } => return Ok(()),
        Message::AppendReply { outcome: AppendOutcome::Accepted { match_index }, .. }
            if *match_index > disk.last.max(disk.snapshot) =>
        {
            return said(&format!("tells that entry {match_index} is durable"));
        }
        Message::Vote { .. }
        | Message::VoteReply { .. }
        | Message::AppendEntries { .. }
        | Message::AppendReply { .. }
        | Message::InstallSnapshot { .. }
        | Message::TimeoutNow { .. }
        | Message::ReadIndex { .. }
        | Message::ReadIndexReply { .. } => {}
    }
    if hard.term < term {
        return said(&format!("speaks in term {term}"));
    }
    if let Some(candidate) = granted(from, to, message)
        && hard.term == term
        && hard.vote != Some(candidate)
    {
        return said(&format!("votes for node {candidate} in term {term}"));
    }
    Ok(())
}

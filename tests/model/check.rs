//! What must hold in every state (Raft paper, Figure 3, and what our own words add to it).

use std::sync::Arc;

use raftq::raft::core::Role;
use raftq::raft::message::{AppendOutcome, HardState, Message};
use raftq::types::{Index, NodeId, Term};

use crate::world::{NODES, State};

/// A promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Check {
    /// At most one leader a term, over all time.
    ElectionSafety,
    /// Two logs that have an entry in common have all before it in common.
    LogMatching,
    /// What was committed in a term is in the log of the leader of every later one.
    LeaderCompleteness,
    /// No two nodes commit (or apply, or restore) different entries at one index.
    StateMachineSafety,
    /// A commit index never falls while its node lives.
    CommitNeverFalls,
    /// What is committed is on the disks of a majority, and what is applied on the own one.
    DurableOnMajority,
    /// Nothing is said that a crash of the speaker could undo.
    SaidBeforeDurable,
    /// A read sees all that was committed before it was asked.
    FreshReads,
    /// No assert of the core, or of its disk, fails.
    CoreAsserts,
}

impl Check {
    pub(crate) const ALL: [Self; 9] = [
        Self::ElectionSafety,
        Self::LogMatching,
        Self::LeaderCompleteness,
        Self::StateMachineSafety,
        Self::CommitNeverFalls,
        Self::DurableOnMajority,
        Self::SaidBeforeDurable,
        Self::FreshReads,
        Self::CoreAsserts,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ElectionSafety => "election-safety",
            Self::LogMatching => "log-matching",
            Self::LeaderCompleteness => "leader-completeness",
            Self::StateMachineSafety => "state-machine-safety",
            Self::CommitNeverFalls => "commit-never-falls",
            Self::DurableOnMajority => "durable-on-majority",
            Self::SaidBeforeDurable => "said-before-durable",
            Self::FreshReads => "fresh-reads",
            Self::CoreAsserts => "core-asserts",
        }
    }
}

impl State {
    /// Notes who leads, and that nobody else ever did in that term.
    pub(crate) fn note_leader(&mut self, node: usize) {
        let raft = &self.nodes[node].raft;
        if raft.role() != Role::Leader {
            return;
        }
        match self.history.leaders.get(&raft.term()) {
            Some(leader) if *leader == node => {}
            Some(_) => self.break_promise(Check::ElectionSafety),
            None => {
                let term = raft.term();
                Arc::make_mut(&mut self.history).leaders.insert(term, node);
            }
        }
    }

    /// Notes what a node has committed beyond `known`, which its machine holds already.
    pub(crate) fn note_commit(&mut self, node: usize, known: Index) {
        let own = Arc::clone(&self.nodes[node]);
        let commit = own.raft.commit_index();
        if commit < known {
            self.break_promise(Check::CommitNeverFalls);
        }
        let machine = own.machine.iter().zip(&self.history.committed);
        if machine.clone().any(|(applied, (committed, _))| applied != committed) {
            self.break_promise(Check::StateMachineSafety);
        }
        for index in known.0 + 1..=commit.0 {
            let entries = own.raft.entries(Index(index), Index(index), usize::MAX);
            // Compacted away: then the machine holds it.
            let Some(entry) = entries.and_then(|mut entries| entries.pop()) else { continue };
            let position = usize::try_from(index).unwrap() - 1;
            match self.history.committed.get(position) {
                Some((first, _)) if *first == entry => {}
                Some(_) => self.break_promise(Check::StateMachineSafety),
                None => {
                    let length = self.history.committed.len();
                    assert_eq!(length, position, "commits beyond what anybody committed");
                    let by = own.raft.term();
                    Arc::make_mut(&mut self.history).committed.push((entry, by));
                }
            }
        }
    }

    /// Asks all that can be seen in one state.
    pub(crate) fn check(&mut self) {
        if !self.logs_match() {
            self.break_promise(Check::LogMatching);
        }
        let history = Arc::clone(&self.history);
        for (entry, by) in &history.committed {
            let on_disk = |node: &&Arc<_>| node_holds(node, entry.index, entry);
            // A disk that lost everything takes its copies along.
            let lost = usize::from(self.damages);
            if (self.nodes.iter().filter(on_disk).count() + lost) * 2 <= NODES {
                self.break_promise(Check::DurableOnMajority);
            }
            let lacks = |node: &&Arc<crate::world::Node>| {
                node.raft.role() == Role::Leader && node.raft.term() > *by && !node.has(entry)
            };
            if self.nodes.iter().any(|node| lacks(&node)) {
                self.break_promise(Check::LeaderCompleteness);
            }
        }
        if let Some(endangered) = self.in_danger()
            && !history.endangered.contains(&endangered)
        {
            Arc::make_mut(&mut self.history).endangered.insert(endangered);
        }
    }

    /// Figure 8 (c): an entry of a former term is durable on a majority, its leader leads, and it is
    /// not committed. Returns the entry.
    pub(crate) fn in_danger(&self) -> Option<(Index, Term)> {
        self.nodes.iter().find_map(|node| {
            let next = node.raft.commit_index().next();
            let old = node.disk.get(next.0).filter(|entry| entry.term < node.raft.term())?;
            let holds = |other: &&Arc<_>| node_holds(other, next, old);
            let is_in_danger = node.raft.role() == Role::Leader
                && self.history.committed.len() as u64 == node.raft.commit_index().0
                && self.nodes.iter().filter(holds).count() * 2 > NODES;
            is_in_danger.then_some((next, old.term))
        })
    }

    fn logs_match(&self) -> bool {
        let pairs = [(0, 1), (0, 2), (1, 2)];
        pairs.iter().all(|(one, other)| {
            let (one, other) = (&self.nodes[*one].raft, &self.nodes[*other].raft);
            let last = one.last_index().min(other.last_index());
            let mut agreed = false;
            (1..=last.0).rev().all(|index| {
                let terms = (one.term_at(Index(index)), other.term_at(Index(index)));
                let (Some(one), Some(other)) = terms else { return true };
                agreed |= one == other;
                !agreed || one == other
            })
        })
    }

    /// Tells whether the speaker's disk holds all that a message claims.
    pub(crate) fn may_say(&self, from: usize, to: usize, message: &Message) -> bool {
        let (own, to) = (&self.nodes[from], NodeId(to as u64 + 1));
        let from = NodeId(from as u64 + 1);
        let hard = own.disk.hard;
        match message {
            Message::PreVote { term, .. } => *term <= hard.term.next(),
            Message::PreVoteReply { .. } => true,
            Message::Vote { term, .. } => hard == HardState { term: *term, vote: Some(from) },
            Message::VoteReply { term, granted: true } => {
                hard == HardState { term: *term, vote: Some(to) }
            }
            Message::AppendReply { term, outcome, .. } => {
                let covered = own.disk.snapshot.as_ref().map_or(0, |(meta, _)| meta.index.0);
                let durable = own.disk.last().max(covered);
                *term <= hard.term
                    && match outcome {
                        AppendOutcome::Accepted { match_index } => match_index.0 <= durable,
                        AppendOutcome::Rejected { .. } => true,
                    }
            }
            Message::VoteReply { granted: false, .. }
            | Message::AppendEntries { .. }
            | Message::InstallSnapshot { .. }
            | Message::TimeoutNow { .. }
            | Message::ReadIndex { .. }
            | Message::ReadIndexReply { .. } => message.term() <= hard.term,
        }
    }
}

fn node_holds(
    node: &Arc<crate::world::Node>,
    index: Index,
    entry: &raftq::raft::message::Entry,
) -> bool {
    node.disk.holds(index, entry.term)
}

//! The essence of a node: all of its state that decides what it may do, and nothing else. A model
//! checker takes two nodes of the same essence for the same node.
//!
//! Left out is what only tells the time (clock, deadlines, dice), what only counts (refused
//! messages, bytes in flight), and what follows from the rest (configurations: they are in the log
//! and the snapshot). Node ids and replication sessions go through [`Names`]: a checker that gives
//! nodes and sessions other names finds the states that differ in their names alone.
//!
//! Each struct is taken apart without `..`, so that a new field asks whether it belongs.

use std::hash::{Hash, Hasher};

use crate::raft::core::{Raft, Role};
use crate::raft::durability::Held;
use crate::raft::message::{Entry, HardState, Message, SnapshotMeta};
use crate::raft::peer::Peer;
use crate::types::{NodeId, Term};

/// How a checker calls things whose own names do not matter.
pub trait Names {
    /// Returns another name of a node, below 32; each name belongs to one node.
    fn node(&self, id: NodeId) -> u8;

    /// Returns another name of the session in which the leader of `term` feeds `follower`. The order
    /// of one follower's sessions in one term must stay.
    fn session(&self, term: Term, follower: NodeId, session: u64) -> u64;
}

/// Hashes term and vote.
pub fn hash_hard_state<H: Hasher>(hard: HardState, names: &impl Names, into: &mut H) {
    let HardState { term, vote } = hard;
    term.hash(into);
    vote.map(|id| names.node(id)).hash(into);
}

/// Hashes what a snapshot stands for.
pub fn hash_meta<H: Hasher>(meta: &SnapshotMeta, into: &mut H) {
    // The configuration follows from the log that the snapshot stands for.
    let SnapshotMeta { index, term, configuration: _ } = meta;
    (index, term).hash(into);
}

/// Hashes a message between two nodes.
pub fn hash_message<H: Hasher>(
    from: NodeId,
    to: NodeId,
    message: &Message,
    names: &impl Names,
    into: &mut H,
) {
    names.node(from).hash(into);
    names.node(to).hash(into);
    std::mem::discriminant(message).hash(into);
    match message {
        Message::PreVote { term, last_index, last_term } => {
            (term, last_index, last_term).hash(into);
        }
        Message::PreVoteReply { term, granted } | Message::VoteReply { term, granted } => {
            (term, granted).hash(into);
        }
        Message::Vote { term, last_index, last_term, transfer } => {
            (term, last_index, last_term, transfer).hash(into);
        }
        Message::AppendEntries {
            term,
            prev_index,
            prev_term,
            entries,
            commit_index,
            session,
            round,
        } => {
            (term, prev_index, prev_term, entries, commit_index, round).hash(into);
            names.session(*term, to, *session).hash(into);
        }
        Message::AppendReply { term, outcome, session, round, healing } => {
            (term, outcome, round, healing).hash(into);
            names.session(*term, from, *session).hash(into);
        }
        Message::InstallSnapshot { term, meta } => {
            term.hash(into);
            hash_meta(meta, into);
        }
        Message::TimeoutNow { term } => term.hash(into),
        Message::ReadIndex { term, token, healing } => (term, token, healing).hash(into),
        Message::ReadIndexReply { term, token, index } => (term, token, index).hash(into),
    }
}

/// Names the session that a message speaks of, with its term and follower, if it speaks of one.
#[must_use]
pub fn session_of(from: NodeId, to: NodeId, message: &Message) -> Option<(Term, NodeId, u64)> {
    match message {
        Message::AppendEntries { term, session, .. } => Some((*term, to, *session)),
        Message::AppendReply { term, session, .. } => Some((*term, from, *session)),
        Message::PreVote { .. }
        | Message::PreVoteReply { .. }
        | Message::Vote { .. }
        | Message::VoteReply { .. }
        | Message::InstallSnapshot { .. }
        | Message::TimeoutNow { .. }
        | Message::ReadIndex { .. }
        | Message::ReadIndexReply { .. } => None,
    }
}

impl Raft {
    /// Hashes the essence of this node.
    pub fn hash_essence<H: Hasher>(&self, names: &impl Names, into: &mut H) {
        let Self {
            config: _,
            is_voter: _,
            dice: _,
            now,
            role,
            hard,
            leader,
            leader_seen: _,
            election_deadline: _,
            votes,
            log,
            configurations: _,
            commit_index,
            applied_index,
            snapshot_index,
            disk,
            held,
            following,
            peers,
            leading,
            reads,
            applying,
            healing,
            numbers: _,
            refused_messages: _,
            out: _,
        } = self;
        role.hash(into);
        hash_hard_state(*hard, names, into);
        leader.map(|id| names.node(id)).hash(into);
        let mark = |sum: u64, (id, granted): (&NodeId, &bool)| {
            sum | (1 + u64::from(*granted)) << (2 * names.node(*id))
        };
        votes.iter().fold(0, mark).hash(into);
        (commit_index, applied_index, snapshot_index).hash(into);
        log.hash_essence(into);
        disk.hash_essence(names, into);
        // They leave together, and what order a broadcast was in is an order of ids, which has no
        // other name: to each node what waits for it.
        let mut waiting: Vec<&Held> = held.iter().collect();
        waiting.sort_by_key(|held| match held {
            Held::Message(to, _) | Held::Offer(to, _, _) => names.node(*to),
        });
        waiting.len().hash(into);
        for held in waiting {
            match held {
                Held::Message(to, message) => {
                    hash_message(self.config.id, *to, message, names, into);
                }
                Held::Offer(to, index, offer) => (names.node(*to), index, offer).hash(into),
            }
        }
        let session = |number| names.session(hard.term, self.config.id, number);
        following.hash_essence(*now, session, into);
        reads.hash_essence(names, into);
        applying.hash_essence(into);
        healing.is_some().hash(into);
        if let Some(healing) = healing {
            healing.hash_essence(into);
        }
        if *role == Role::Leader {
            // Nobody but a leader looks at what it knows of its peers; a new term forgets it.
            leading.hash_essence(names, into);
            let mut peers: Vec<&Peer> = peers.iter().collect();
            peers.sort_by_key(|peer| names.node(peer.id));
            for peer in peers {
                let session = names.session(hard.term, peer.id, peer.session);
                peer.hash_essence(session, into);
            }
        }
    }

    /// Tells each session that this node's essence names, as [`session_of`] does.
    pub fn each_session(&self, mut tell: impl FnMut(Term, NodeId, u64)) {
        let (term, own) = (self.hard.term, self.config.id);
        tell(term, own, self.following.session());
        if self.role == Role::Leader {
            self.peers.iter().for_each(|peer| tell(term, peer.id, peer.session));
        }
        for held in &self.held {
            if let Held::Message(to, message) = held
                && let Some((term, follower, session)) = session_of(own, *to, message)
            {
                tell(term, follower, session);
            }
        }
    }
}

/// Hashes entries that a node or a disk holds.
pub(super) fn hash_entries<'a, H: Hasher>(
    entries: impl ExactSizeIterator<Item = &'a Entry>,
    into: &mut H,
) {
    entries.len().hash(into);
    entries.for_each(|entry| entry.hash(into));
}

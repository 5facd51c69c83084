//! A follower: takes a leader's entries and snapshots, and says how far it agrees.

use std::hash::{Hash, Hasher};

use crate::planted::{Bug, is_planted};
use crate::raft::config::PEER_NUMBER_MAX;
use crate::raft::configuration;
use crate::raft::core::{Raft, Role};
use crate::raft::effects::Offer;
use crate::raft::message::{AppendOutcome, Entry, Message, SnapshotMeta};
use crate::types::{Index, NodeId, Term};

/// The fields of [`Message::AppendEntries`].
#[derive(Debug)]
pub(super) struct Append {
    pub(super) term: Term,
    pub(super) prev_index: Index,
    pub(super) prev_term: Term,
    pub(super) entries: Vec<Entry>,
    pub(super) commit_index: Index,
    pub(super) session: u64,
    pub(super) round: u64,
}

impl Append {
    /// Tells whether the message could come from a leader: entries without a gap, terms that never
    /// fall and are none of the future, numbers that no cluster outgrows.
    fn is_well_formed(&self) -> bool {
        let (mut index, mut term) = (self.prev_index, self.prev_term);
        let follow = self.entries.iter().all(|entry| {
            let follows = entry.index == index.next() && entry.term >= term;
            (index, term) = (entry.index, entry.term);
            follows
        });
        follow && term <= self.term && self.prev_index.0.max(self.commit_index.0) <= PEER_NUMBER_MAX
    }

    /// Returns the last entry that the message speaks of.
    fn last_index(&self) -> Index {
        self.entries.last().map_or(self.prev_index, |entry| entry.index)
    }
}

/// What a follower knows about its agreement with the leader of this term.
#[derive(Clone, Debug, Default)]
pub(super) struct Following {
    /// Up to here the log is the same as the leader's, durable or not. Never falls in a term, since
    /// a leader only appends.
    verified_index: Index,
    /// The newest session heard of, and the newest round in it.
    session: u64,
    round: u64,
    /// What the last acknowledgement in this session said.
    sent_match: Index,
    sent_round: u64,
    /// When that was; `None`: nothing was said in this session yet.
    sent_at: Option<u64>,
    /// One is due even if nothing new is durable.
    owes: bool,
}

impl Following {
    /// Returns the newest session heard of; 0 if there is none.
    pub(super) fn session(&self) -> u64 {
        self.session
    }

    /// Hashes the follower's part of a node's essence.
    pub(super) fn hash_essence<H: Hasher>(
        &self,
        now: u64,
        rename: impl Fn(u64) -> u64,
        into: &mut H,
    ) {
        let Self { verified_index, session, round, sent_match, sent_round, sent_at, owes } = self;
        (verified_index, round, sent_match, sent_round, owes).hash(into);
        (sent_at.map(|at| at == now), rename(*session)).hash(into);
    }

    /// Makes an acknowledgement due, even if nothing new is durable.
    pub(super) fn owe(&mut self) {
        self.owes = true;
    }
}

impl Raft {
    /// Handles `AppendEntries` (Raft paper, Figure 2).
    pub(super) fn on_append(&mut self, from: NodeId, append: Append) {
        if !append.is_well_formed() {
            self.refuse();
            return;
        }
        if append.term < self.hard.term {
            // The old leader learns from the term that it is none any more. Should it lead this term by now, having
            // fallen in between, then its sessions and rounds are numbered anew: none of them is meant here.
            let append = Append { session: 0, round: 0, ..append };
            self.reject(from, &append, Index(0), Term(0));
            return;
        }
        if !self.follow(from, append.term) {
            return;
        }
        // Up to the commit index every leader's log is the same (leader completeness), so that an
        // entry compacted away here still agrees. Its term is unknown then, not 0.
        let here = self.log.term_at(append.prev_index);
        let is_committed = append.prev_index <= self.commit_index;
        if here == Some(append.prev_term) || (is_committed && here.is_none()) {
            self.accept(append);
        } else if is_committed {
            // No leader disagrees about a committed entry.
            self.refuse();
        } else {
            let (hint_index, hint_term) = self.hint(append.prev_index, append.prev_term);
            self.reject(from, &append, hint_index, hint_term);
        }
    }

    /// Takes `from` for the leader of `term`, which is this node's or later. Returns false if it
    /// cannot be: another node leads in that term.
    fn follow(&mut self, from: NodeId, term: Term) -> bool {
        let another = self.leader.is_some_and(|leader| leader != from);
        if term == self.hard.term && another {
            self.refuse();
            return false;
        }
        self.become_follower(term, Some(from));
        self.heard_leader_while_healing(from);
        self.leader_seen = self.now;
        self.reset_election_timer();
        let now = self.now;
        if let Some(peer) = self.peer_mut(from) {
            peer.heard = Some(now);
        }
        true
    }

    /// Takes the entries of a message whose predecessor agrees.
    fn accept(&mut self, append: Append) {
        let (is_heartbeat, last_index) = (append.entries.is_empty(), append.last_index());
        if !self.merge(append.entries) {
            self.refuse();
            return;
        }
        // Only what this very message verified may be called committed: what else is in the log
        // may be the remains of another leader (Raft paper, Figure 2, rule 5 of AppendEntries).
        let last_index = last_index.max(self.commit_index);
        let verified = match is_planted(Bug::CommitUnverified) {
            true => self.log.last_index(),
            false => last_index,
        };
        let commit_index = append.commit_index.min(verified);
        let commit_moved = commit_index > self.commit_index;
        self.commit_to(commit_index);
        let following = &mut self.following;
        following.verified_index = following.verified_index.max(last_index);
        if append.session < following.session {
            return;
        }
        if append.session > following.session {
            *following = Following {
                verified_index: following.verified_index,
                session: append.session,
                ..Following::default()
            };
        }
        following.round = following.round.max(append.round);
        let is_durable = last_index <= self.disk.durable_index();
        // News of the commit index come many a tick and look like heartbeats. One answer a tick
        // tells the leader enough.
        let is_news = commit_moved && following.sent_at.is_some_and(|at| at == self.now);
        following.owes |= (is_heartbeat && !is_news)
            || (!is_heartbeat && is_durable)
            || append.round > following.sent_round;
    }

    /// Appends the entries that are not here yet, after dropping those that conflict with them.
    /// An old message must not cut off what a newer one brought, so that the log is cut at the
    /// first conflict only. Returns false, and changes nothing, if they conflict with what is
    /// committed.
    fn merge(&mut self, mut entries: Vec<Entry>) -> bool {
        if is_planted(Bug::TruncateWithoutConflict)
            && let Some(first) = entries.first().map(|entry| entry.index)
            && (self.commit_index.next()..=self.log.last_index()).contains(&first)
        {
            self.truncate_from(first);
        }
        let last_index = self.log.last_index();
        let known = entries.iter().take_while(|entry| {
            let term = self.log.term_at(entry.index);
            entry.index <= last_index && term.is_none_or(|term| term == entry.term)
        });
        let known = known.count();
        entries.drain(..known);
        if let Some(first) = entries.first().map(|entry| entry.index)
            && first <= last_index
        {
            if first <= self.commit_index {
                return false;
            }
            self.truncate_from(first);
        }
        self.extend(entries);
        true
    }

    /// Drops the entry at `from` and all after it.
    ///
    /// # Panics
    /// If one of them is committed: then this node, or its leader, has broken Raft's promise.
    fn truncate_from(&mut self, from: Index) {
        let commit_index = self.commit_index;
        assert!(from > commit_index, "truncation at {from}, but {commit_index} is committed");
        self.log.truncate_from(from);
        self.disk.truncate_from(from);
        self.configurations.truncate_from(from);
    }

    /// Returns the largest index where this log could agree with one that has an entry of
    /// `prev_term` at `prev_index`: the last entry before it of a term that is not later.
    fn hint(&self, prev_index: Index, prev_term: Term) -> (Index, Term) {
        // What is committed agrees in any case.
        let committed = || Some((self.commit_index, self.log.term_at(self.commit_index)?));
        let found = self.log.last_at_most(prev_index, prev_term);
        let found = found.filter(|(index, _)| *index >= self.commit_index);
        found.or_else(committed).expect("the term of the committed entry is known")
    }

    fn reject(&mut self, to: NodeId, append: &Append, hint_index: Index, hint_term: Term) {
        let prev_index = append.prev_index;
        let outcome = AppendOutcome::Rejected { prev_index, hint_index, hint_term };
        let (session, round) = (append.session, append.round);
        let (term, healing) = (self.hard.term, self.healing_number());
        self.post(to, Message::AppendReply { term, outcome, session, round, healing });
    }

    /// Sends the acknowledgement that has come due, one for all messages since the last. It claims
    /// what is durable; that more arrived is said once that is durable too. Heartbeats are
    /// answered meanwhile: a slow disk is no silent node.
    pub(super) fn acknowledge(&mut self) {
        let Some(leader) = self.leader.filter(|_| self.role == Role::Follower) else { return };
        let match_index = self.following.verified_index.min(self.disk.durable_index());
        let is_due = self.following.owes || match_index > self.following.sent_match;
        if !is_due || self.following.session == 0 || !self.is_hard_durable() {
            return;
        }
        let healing = self.healing_number();
        let following = &mut self.following;
        following.owes = false;
        following.sent_match = following.sent_match.max(match_index);
        following.sent_round = following.round;
        following.sent_at = Some(self.now);
        let reply = Message::AppendReply {
            term: self.hard.term,
            outcome: AppendOutcome::Accepted { match_index },
            session: following.session,
            round: following.round,
            healing,
        };
        self.out.send.push((leader, reply));
    }

    /// Handles the offer of a snapshot, also as a candidate (Raft paper §7).
    pub(super) fn on_offer(&mut self, from: NodeId, term: Term, meta: &SnapshotMeta) {
        if !self.is_plausible(meta) || meta.term > term {
            self.refuse();
            return;
        }
        if term < self.hard.term {
            self.post_offer(from, meta.index, Offer::Stale(self.hard.term));
            return;
        }
        if !self.follow(from, term) {
            return;
        }
        let is_held = meta.index <= self.commit_index || self.has_entry(meta);
        if is_held {
            self.catch_up_with(meta);
        }
        let offer = if is_held { Offer::Held } else { Offer::Wanted };
        self.post_offer(from, meta.index, offer);
    }

    /// Takes a snapshot whose file is durable and verified here. One that is newer than what is
    /// committed takes the log's place, unless the log continues it (Raft paper, Figure 13, rules
    /// 6 and 7); its sender hears of it once that is durable.
    pub fn snapshot_received(&mut self, from: NodeId, meta: &SnapshotMeta) {
        let is_known = self.peer(from).is_some() && self.is_plausible(meta);
        let is_of_future = meta.term > self.hard.term;
        let conflicts = meta.index <= self.commit_index
            && self.log.term_at(meta.index).is_some_and(|term| term != meta.term);
        if !is_known || is_of_future || conflicts {
            self.refuse();
            return;
        }
        if self.role == Role::Leader {
            // Elected while it travelled: a leader's log holds all that is committed.
            return;
        }
        if meta.index <= self.commit_index || self.has_entry(meta) {
            self.catch_up_with(meta);
            return;
        }
        self.become_follower(self.hard.term, self.leader);
        self.reset_log(meta);
        self.following.verified_index = meta.index;
        self.out.install = Some(meta.clone());
    }

    /// Tells whether a snapshot could be one of this cluster.
    fn is_plausible(&self, meta: &SnapshotMeta) -> bool {
        (1..=PEER_NUMBER_MAX).contains(&meta.index.0)
            && configuration::check(&meta.configuration).is_ok()
            && configuration::same_voters(&meta.configuration, self.configurations.in_force())
    }

    fn has_entry(&self, meta: &SnapshotMeta) -> bool {
        self.log.term_at(meta.index) == Some(meta.term)
    }

    /// Notes what a snapshot proves about a log that needs it not: everything in it is committed.
    fn catch_up_with(&mut self, meta: &SnapshotMeta) {
        self.commit_to(meta.index.max(self.commit_index));
        let verified = self.following.verified_index.max(meta.index);
        self.following.verified_index = verified.max(self.commit_index);
        self.following.owes = true;
    }
}

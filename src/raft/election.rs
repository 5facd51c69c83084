//! Elections: timeouts, pre-votes, votes, and the change from one role to another.

use crate::planted::{Bug, is_planted};
use crate::raft::core::{Raft, Role};
use crate::raft::follower::Following;
use crate::raft::message::{HardState, Message};
use crate::raft::quorum::{Tally, tally};
use crate::types::{Index, NodeId, Term};

impl Raft {
    /// Lets time pass for a node that does not lead.
    pub(super) fn tick_election(&mut self) {
        // A candidate whose vote for itself is still on its way to the disk has not begun to ask;
        // another term would have to wait for the same disk.
        let is_unheard = self.role == Role::Candidate && !self.is_hard_durable();
        if self.now >= self.election_deadline && !is_unheard {
            self.campaign();
        }
    }

    /// Begins an election as if the timeout had passed, with the question whether it could be won.
    /// Does nothing but restart the timeout while this node must not lead.
    pub fn campaign(&mut self) {
        self.reset_election_timer();
        if self.role == Role::Leader || !self.may_campaign() {
            return;
        }
        self.become_pre_candidate();
        let last_index = self.log.last_index();
        let last_term = self.log.last_term();
        let term = self.hard.term.next();
        self.broadcast(&Message::PreVote { term, last_index, last_term });
        self.count_vote(self.config.id, true);
    }

    /// Tells whether this node may lead: it is a voter and whole, its disk answers, and it is not in the
    /// middle of installing a snapshot.
    fn may_campaign(&self) -> bool {
        self.is_voter && !self.is_healing() && !self.is_disk_hung() && !self.disk.has_reset()
    }

    pub(super) fn reset_election_timer(&mut self) {
        let (min, max) = (self.config.election_ticks_min, self.config.election_ticks_max);
        self.election_deadline = self.now + self.dice.between(min, max);
    }

    pub(super) fn broadcast(&mut self, message: &Message) {
        let others: Vec<NodeId> = self.peers.iter().map(|peer| peer.id).collect();
        others.into_iter().for_each(|to| self.post(to, message.clone()));
    }

    /// Asks for votes in a new term. The requests leave once term and vote are durable.
    fn begin_election(&mut self, transfer: bool) {
        let id = self.config.id;
        self.enter_term(self.hard.term.next());
        self.hard.vote = Some(id);
        self.role = Role::Candidate;
        self.reset_election_timer();
        self.broadcast(&Message::Vote {
            term: self.hard.term,
            last_index: self.log.last_index(),
            last_term: self.log.last_term(),
            transfer,
        });
        self.count_own_vote();
    }

    /// Counts a candidate's vote for itself, once it is durable like any other.
    pub(super) fn count_own_vote(&mut self) {
        if self.is_hard_durable() {
            self.count_vote(self.config.id, true);
        }
    }

    fn count_vote(&mut self, from: NodeId, granted: bool) {
        self.votes.entry(from).or_insert(granted);
        let yes = self.votes.values().filter(|granted| **granted).count();
        let no = self.votes.len() - yes;
        match (self.role, tally(self.peers.len() + 1, yes, no)) {
            (Role::PreCandidate, Tally::Won) => self.begin_election(false),
            (Role::Candidate, Tally::Won) => self.become_leader(),
            (Role::PreCandidate | Role::Candidate, Tally::Lost) => {
                self.become_follower(self.hard.term, None);
            }
            (Role::PreCandidate | Role::Candidate, Tally::Open)
            | (Role::Follower | Role::Leader, _) => {}
        }
    }

    /// Answers a pre-vote, and changes nothing: no vote, no term, no timer (Ongaro thesis §9.6).
    pub(super) fn on_pre_vote(
        &mut self,
        from: NodeId,
        term: Term,
        last_index: Index,
        last_term: Term,
    ) {
        if self.is_healing() && !is_planted(Bug::HealVotes) {
            // It has no say, and its silence tells others that heal that it is not whole.
            return;
        }
        let granted = term > self.hard.term
            && self.is_up_to_date(last_index, last_term)
            && !self.hears_leader()
            // A node that cannot write could not vote either when it came to that.
            && !self.is_disk_hung();
        let term = if granted { term } else { self.hard.term };
        self.post(from, Message::PreVoteReply { term, granted });
    }

    /// Takes an answer to a pre-vote. A refusal from a later term is how a node that fell behind
    /// learns of it; without that it would be refused for ever.
    pub(super) fn on_pre_vote_reply(&mut self, from: NodeId, term: Term, granted: bool) {
        self.heard_whole(from);
        if !granted && term > self.hard.term {
            self.become_follower(term, None);
        } else if self.role == Role::PreCandidate && (!granted || term == self.hard.term.next()) {
            self.count_vote(from, granted);
        }
    }

    /// Handles `RequestVote` (Raft paper, Figure 2). A voter that hears a live leader ignores it,
    /// term and all, so that a node which lost touch cannot unseat one that others hear (Raft paper
    /// §6), unless that leader itself asked for the election.
    pub(super) fn on_vote(
        &mut self,
        from: NodeId,
        term: Term,
        last_index: Index,
        last_term: Term,
        transfer: bool,
    ) {
        if term > self.hard.term {
            if self.hears_leader() && !transfer {
                return;
            }
            self.become_follower(term, None);
        }
        if self.is_healing() && !is_planted(Bug::HealVotes) {
            return;
        }
        let is_free = match self.hard.vote {
            Some(vote) => vote == from,
            None => self.leader.is_none(),
        };
        let is_current = term == self.hard.term;
        let granted = is_current && is_free && self.is_up_to_date(last_index, last_term);
        if granted {
            self.hard.vote = Some(from);
            // Only a vote that was granted buys time; a candidate that cannot win must not keep
            // others from trying.
            self.reset_election_timer();
        }
        self.post(from, Message::VoteReply { term: self.hard.term, granted });
    }

    /// Takes an answer to a vote. A refusal may bring a later term, never a vote.
    pub(super) fn on_vote_reply(&mut self, from: NodeId, term: Term, granted: bool) {
        if term > self.hard.term {
            self.become_follower(term, None);
        } else if term == self.hard.term && self.role == Role::Candidate {
            self.count_vote(from, granted);
        }
    }

    /// Campaigns at once: the leader says that this log is as long as its own (Ongaro thesis
    /// §3.10).
    pub(super) fn on_timeout_now(&mut self, from: NodeId, term: Term) {
        if term < self.hard.term {
            return;
        }
        if term > self.hard.term {
            self.become_follower(term, Some(from));
            self.heard_leader_while_healing(from);
        }
        if self.role == Role::Follower && self.leader == Some(from) && self.may_campaign() {
            self.begin_election(true);
        }
    }

    /// Tells whether a log that ends so is at least as up to date as this one (Raft paper §5.4.1).
    fn is_up_to_date(&self, last_index: Index, last_term: Term) -> bool {
        (last_term, last_index) >= (self.log.last_term(), self.log.last_index())
    }

    /// Tells whether this node leads, or heard its leader within the shortest election timeout.
    fn hears_leader(&self) -> bool {
        let silence = self.now - self.leader_seen;
        self.role == Role::Leader
            || (self.leader.is_some() && silence < self.config.election_ticks_min)
    }

    /// Follows `leader` in `term`, which is this node's or later. In the same term the vote stays.
    pub(super) fn become_follower(&mut self, term: Term, leader: Option<NodeId>) {
        let was_leader = self.role == Role::Leader;
        if term > self.hard.term {
            self.enter_term(term);
        }
        if self.leader != leader {
            self.fail_reads();
        }
        if was_leader {
            self.stop_leading();
            self.reset_election_timer();
        }
        self.role = Role::Follower;
        self.leader = leader;
    }

    fn become_pre_candidate(&mut self) {
        self.fail_reads();
        self.role = Role::PreCandidate;
        self.leader = None;
        self.votes.clear();
    }

    fn become_leader(&mut self) {
        assert!(self.is_hard_durable(), "elected by a vote that is not durable");
        self.votes.clear();
        self.role = Role::Leader;
        self.leader = Some(self.config.id);
        self.begin_leading();
    }

    /// Enters a later term: what belonged to the former one is void.
    fn enter_term(&mut self, term: Term) {
        assert!(term > self.hard.term, "term {} after {term}", self.hard.term);
        self.fail_reads();
        self.hard = HardState { term, vote: None };
        self.leader = None;
        self.votes.clear();
        self.held.clear();
        self.following = Following::default();
    }
}

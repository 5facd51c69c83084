//! Healing: how a node that lost synced data becomes one that may vote and be counted again.
//!
//! Its log is gone, and with it all that it promised: which term it voted in and for whom, which
//! entries it said were durable. A healing node therefore takes part in nothing that is counted. It
//! follows, and is fed like any other, but it never campaigns, answers neither votes nor pre-votes,
//! says in each acknowledgement that it is healing, and no leader counts such an acknowledgement: not
//! for a commit, not for a read, not as a sign that it still has a majority. It ends so:
//!
//! 1. It asks the leader it follows, in that leader's term T, with a number that only this process
//!    knows. The leader then appends one entry more, E, and answers once E is committed: by itself and
//!    others that make up a majority of the whole cluster, in which the one that asks is not counted.
//!    These nodes, W, are more than half of all, all of them other than the one that heals.
//! 2. It has applied everything up to the index in the answer, E among it, and holds it durably.
//! 3. Its term is T or later, and in every term in which it follows a leader while it heals its vote
//!    is used up for that leader. So it votes only in terms above T: above every term that a node of
//!    W had seen when it took E.
//! 4. All that is durable, then the mark on its disk is taken away, then it votes and is counted.
//!
//! Why that is enough. Call H the node that heals, *old* all it said before this process began (some of
//! it may still be on its way), *new* what it says after it has healed. What must hold is that no new
//! vote goes against an old vote or an old acknowledgement.
//!
//! - **A term T' <= T.** H never votes in it again.
//! - **An election of a term T' > T that an old vote of H helped to win before E was made**, its own too. It
//!   needed half of the other nodes as well, W is more than half of them, so a node in both had entered
//!   T' before it took E in T < T'. It had not: a node takes no entries of a former term.
//! - **An election of a term T' > T with an old vote of H, still open when E was made.** Its candidate C
//!   entered T' before this process began, is not in W, and holds no E: nobody gave it entries while it
//!   stood for T'. Its last entry is of term T at most: the leader of a later one would have been
//!   elected before, and the former case excludes that. So its log is behind the log of every node of W.
//!   Beside H and itself C needs votes of at least half of the nodes less one, W leaves fewer than
//!   that over, and a node of W refuses it (Raft paper §5.4.1). In a cluster of three W is both other
//!   nodes, so that there is no such C at all. C never wins, and H is free to vote for another in T'.
//!   *A confirmed read without a new entry would not do*: C might be as up to date as the others, win
//!   with the old vote, and another candidate of the same term with the new one. This is the case of a
//!   vote in a term that none of those asked has seen.
//! - **An old acknowledgement of an entry M that counts, or will.** The leader of T has M, before E:
//!   were M of a later term than T, its leader would have been elected as in the cases above; if it is
//!   of T, the leader had it before it was asked; if it is of a former term, then what elected the
//!   leader of T met what committed M, in a node that was whole then or, if both times in H, in the
//!   old H, which kept its word. As long as H heals, half of the other nodes hold M, and each election
//!   needs more than half of them. Once it has healed it refuses every candidate whose log lacks E, and a
//!   log with E has M.
//! - **An old confirmation of a read.** It was true when it was given, and speaks of no later time.
//! - **Old answers that come late.** What a former process acknowledged is of a session that the leader ends
//!   when it first hears of this one, whose acknowledgements carry the number of its question; an answer to
//!   the question carries that number too.
//! - **Several nodes that heal, at once or one after the other.** None of them is counted in another's
//!   W while it heals. Afterwards it acts as if it had never lost anything, and only that was asked of
//!   the nodes of W above.
//! - **A crash on the way.** The mark is durable before the damaged files leave their place, and until
//!   the very end. The next process asks anew.
//!
//! In a cluster of one or two nodes there is no majority without the damaged one, so that it cannot heal.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use crate::planted::{Bug, is_planted};
use crate::raft::config::{HEALING_ASK_TICKS, HEALING_PATIENCE_TICKS, HEALING_POLL_TICKS};
use crate::raft::core::{Raft, Role};
use crate::raft::essence::Names;
use crate::raft::message::{EntryKind, Message};
use crate::raft::quorum::majority;
use crate::raft::status::HealingStatus;
use crate::types::{Index, NodeId, Term};

/// Questions of healing nodes are numbered from here on, so that they are told from those of reads.
const HEALING_QUESTION_MIN: u64 = 1 << 63;

/// How far a healing node is.
#[derive(Clone, Debug)]
pub(super) struct Healing {
    /// The number of this process's question.
    token: u64,
    /// When it was asked last, and in which term.
    asked: Option<(u64, Term)>,
    /// When the others were asked last whether they are whole.
    polled: Option<u64>,
    /// When each whole node was heard last.
    whole: BTreeMap<NodeId, u64>,
    /// When a leader was heard last, or so many whole nodes that they could have one.
    hopeful: u64,
    /// What must be held: the answer to the question.
    goal: Option<Index>,
}

impl Healing {
    /// Starts as a node that holds nothing; `dice` names this process's question.
    pub(super) fn new(dice: u64) -> Self {
        Self {
            token: HEALING_QUESTION_MIN | dice,
            asked: None,
            polled: None,
            whole: BTreeMap::new(),
            hopeful: 0,
            goal: None,
        }
    }

    /// Hashes healing's part of a node's essence. Who is whole decides nothing but what an operator reads.
    pub(super) fn hash_essence<H: Hasher>(&self, into: &mut H) {
        let Self { token, asked, polled, whole: _, hopeful: _, goal } = self;
        (token, asked.map(|(_, term)| term), polled.is_some(), goal).hash(into);
    }

    /// Returns how many whole nodes were heard in the last `ticks`.
    fn whole(&self, now: u64, ticks: u64) -> usize {
        self.whole.values().filter(|heard| now - **heard <= ticks).count()
    }
}

/// A healing node's question that waits for its entry to be committed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Witness {
    of: NodeId,
    token: u64,
    /// The entry made for it.
    index: Index,
}

/// Hashes the questions that wait at a leader, at most one of each peer, in the order of their names.
pub(super) fn hash_witnesses<H: Hasher>(witnesses: &[Witness], names: &impl Names, into: &mut H) {
    let mut waiting: Vec<(u8, u64, Index)> = witnesses
        .iter()
        .map(|Witness { of, token, index }| (names.node(*of), *token, *index))
        .collect();
    waiting.sort_unstable();
    waiting.hash(into);
}

impl Raft {
    /// Tells whether this node has lost synced data and is not whole yet: it neither votes nor counts.
    #[must_use]
    pub fn is_healing(&self) -> bool {
        self.healing.is_some()
    }

    /// Returns what marks this process's acknowledgements while it heals.
    pub(super) fn healing_number(&self) -> Option<u64> {
        self.healing.as_ref().map(|healing| healing.token)
    }

    /// Returns how far the healing of this node is; `None`: it is whole.
    #[must_use]
    pub fn healing(&self) -> Option<HealingStatus> {
        let healing = self.healing.as_ref()?;
        Some(HealingStatus {
            others: self.peers.len(),
            whole: healing.whole(self.now, self.config.liveness_ticks),
            needed: majority(self.peers.len() + 1),
            goal: healing.goal,
            is_hopeless: self.now - healing.hopeful >= HEALING_PATIENCE_TICKS,
        })
    }

    /// Lets time pass for a node that heals: it asks who is whole, and its leader for a goal.
    pub(super) fn tick_healing(&mut self) {
        let now = self.now;
        let needed = majority(self.peers.len() + 1);
        let Some(healing) = &mut self.healing else { return };
        if healing.whole(now, self.config.liveness_ticks) >= needed {
            healing.hopeful = now;
        }
        if healing.polled.is_none_or(|at| now >= at + HEALING_POLL_TICKS) {
            healing.polled = Some(now);
            // A pre-vote for no term at all: it changes nothing and is granted by nobody, and a node
            // that is whole answers with its term, which becomes this node's if it is later.
            let poll = Message::PreVote { term: Term(0), last_index: Index(0), last_term: Term(0) };
            self.broadcast(&poll);
        }
        self.ask_for_goal();
    }

    fn ask_for_goal(&mut self) {
        let (now, term) = (self.now, self.hard.term);
        let (Role::Follower, Some(leader)) = (self.role, self.leader) else { return };
        let Some(healing) = &mut self.healing else { return };
        let is_due = healing
            .asked
            .is_none_or(|(at, asked_in)| now >= at + HEALING_ASK_TICKS || asked_in != term);
        if healing.goal.is_none() && is_due {
            healing.asked = Some((now, term));
            let token = healing.token;
            self.post(leader, Message::ReadIndex { term, token, healing: true });
        }
    }

    /// Notes that a whole node has answered.
    pub(super) fn heard_whole(&mut self, from: NodeId) {
        let now = self.now;
        if let Some(healing) = &mut self.healing {
            healing.whole.insert(from, now);
        }
    }

    /// Notes that a leader was heard, and uses up this term's vote for it: in a term in which this node
    /// may have voted before it must not vote again.
    pub(super) fn heard_leader_while_healing(&mut self, leader: NodeId) {
        let now = self.now;
        if let Some(healing) = &mut self.healing {
            healing.hopeful = now;
            self.hard.vote.get_or_insert(leader);
        }
    }

    /// Takes the leader's answer to the question for a goal, given in this node's term by its leader.
    /// Returns false if it answers something else.
    pub(super) fn take_goal(&mut self, token: u64, index: Option<Index>) -> bool {
        match &mut self.healing {
            Some(healing) if healing.token == token => {
                healing.goal = healing.goal.or(index);
                true
            }
            Some(_) | None => false,
        }
    }

    /// Tells whether all is held that must be: the next batch may take the mark away.
    pub(super) fn has_healed(&self) -> bool {
        let goal = self.healing.as_ref().and_then(|healing| healing.goal);
        goal.is_some_and(|goal| {
            self.applied_index >= goal
                && self.disk.durable_index() >= goal
                && !self.disk.has_reset()
        })
    }

    /// Becomes whole: the mark is gone from the disk.
    pub(super) fn become_whole(&mut self) {
        self.healing = None;
        self.following.owe();
        self.reset_election_timer();
    }

    /// Takes a healing node's question: a leader appends an entry for it. The same question again
    /// changes nothing while that entry waits.
    pub(super) fn on_healing_question(&mut self, from: NodeId, term: Term, token: u64) {
        if term > self.hard.term {
            self.become_follower(term, None);
        }
        let waits = |witness: &Witness| witness.of == from && witness.token == token;
        if self.role != Role::Leader
            || term != self.hard.term
            || self.leading.transfer.is_some()
            || self.leading.witnesses.iter().any(waits)
        {
            return;
        }
        if is_planted(Bug::HealUnwitnessed) {
            let index = Some(self.commit_index);
            return self.post(from, Message::ReadIndexReply { term, token, index });
        }
        self.append_own(EntryKind::Noop, bytes::Bytes::new());
        let index = self.log.last_index();
        self.leading.witnesses.retain(|witness| witness.of != from);
        self.leading.witnesses.push(Witness { of: from, token, index });
    }

    /// Answers the healing nodes whose entries are committed.
    pub(super) fn answer_witnesses(&mut self) {
        let commit_index = self.commit_index;
        let is_done = |witness: &mut Witness| witness.index <= commit_index;
        let done: Vec<Witness> = self.leading.witnesses.extract_if(.., is_done).collect();
        for Witness { of, token, .. } in done {
            let (term, index) = (self.hard.term, Some(commit_index));
            self.post(of, Message::ReadIndexReply { term, token, index });
        }
    }
}

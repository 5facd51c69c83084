//! Linearizable reads by ReadIndex (Ongaro thesis §6.4), on the leader and on followers. No lease
//! reads: clocks may jump, and a process may stand still without noticing.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::mem;

use crate::planted::{Bug, is_planted};
use crate::raft::config::{READ_ROUNDS_MAX, READ_TICKS_MAX, READS_MAX};
use crate::raft::core::{Raft, Role};
use crate::raft::effects::ReadReady;
use crate::raft::essence::Names;
use crate::raft::message::Message;
use crate::raft::quorum::reached_by_majority;
use crate::types::{Index, NodeId, Term};

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asker {
    /// This node, by its token.
    Here(u64),
    /// A follower, by its token.
    Follower(NodeId, u64),
}

/// One read that waits.
#[derive(Clone, Copy, Debug)]
struct Read {
    asker: Asker,
    since: u64,
}

/// Reads that share one confirmation.
#[derive(Clone, Debug)]
struct Batch {
    /// On a leader the round of its confirmation; on a follower the token of the question. Made by
    /// this node, unique and rising; nothing a caller says is ever compared.
    number: u64,
    /// On a leader the commit index when the round began.
    index: Index,
    /// When the round began, or the question was last asked.
    asked: u64,
    /// Ascending by age, the oldest first; never empty.
    reads: Vec<Read>,
}

/// All reads that wait.
#[derive(Clone, Debug, Default)]
pub(super) struct Reads {
    /// Not yet part of a round or a question.
    waiting: Vec<Read>,
    /// Rounds (leader) or questions (follower) under way, oldest first.
    batches: VecDeque<Batch>,
    /// How many reads there are in all.
    count: usize,
    /// The last question's number. The first is drawn, so that a late answer to a question of a
    /// former start of this node is not taken for one to a question of this start.
    question: u64,
}

impl Reads {
    /// Starts without any; questions are numbered from `question` on.
    pub(super) fn new(question: u64) -> Self {
        Self { question, ..Self::default() }
    }
}

impl Reads {
    /// Hashes the reads' part of a node's essence.
    pub(super) fn hash_essence<H: Hasher>(&self, names: &impl Names, into: &mut H) {
        let Self { waiting, batches, count: _, question: _ } = self;
        let mut hash_reads = |reads: &[Read]| {
            reads.len().hash(into);
            for Read { asker, since: _ } in reads {
                match asker {
                    Asker::Here(token) => (0_u8, token).hash(into),
                    Asker::Follower(id, token) => (1_u8, names.node(*id), token).hash(into),
                }
            }
        };
        hash_reads(waiting);
        for Batch { number: _, index: _, asked: _, reads } in batches {
            hash_reads(reads);
        }
        for Batch { number, index, asked: _, reads: _ } in batches {
            (number, index).hash(into);
        }
    }
}

impl Raft {
    /// Asks for an index such that a read of the machine, once that is applied, sees everything
    /// committed before now. Answered by one item of [`crate::raft::effects::Effects::reads`] with
    /// this `token`; without an index if no leader is known, if leadership moves, if too many wait,
    /// or after [`READ_TICKS_MAX`].
    pub fn read(&mut self, token: u64) {
        self.ask(Asker::Here(token));
    }

    fn ask(&mut self, asker: Asker) {
        let is_hopeless = self.leader.is_none() || self.leading.transfer.is_some();
        if is_hopeless || self.reads.count >= READS_MAX {
            self.answer(asker, None);
            return;
        }
        self.reads.count += 1;
        self.reads.waiting.push(Read { asker, since: self.now });
    }

    fn answer(&mut self, asker: Asker, index: Option<Index>) {
        match asker {
            Asker::Here(token) => self.out.reads.push(ReadReady { token, index }),
            Asker::Follower(to, token) => {
                self.post(to, Message::ReadIndexReply { term: self.hard.term, token, index });
            }
        }
    }

    fn answer_all(&mut self, reads: Vec<Read>, index: Option<Index>) {
        self.reads.count -= reads.len();
        reads.into_iter().for_each(|read| self.answer(read.asker, index));
    }

    /// Begins one round, or asks the leader one question, for all reads that came together.
    pub(super) fn issue_reads(&mut self) {
        if self.reads.waiting.is_empty() || self.reads.batches.len() >= READ_ROUNDS_MAX {
            return;
        }
        match self.role {
            Role::Leader => self.begin_round(),
            Role::Follower => self.ask_leader(),
            // Reads were failed when the role was taken.
            Role::PreCandidate | Role::Candidate => {}
        }
    }

    fn begin_round(&mut self) {
        // Before that a new leader does not know what is committed.
        if !self.own_term_committed() {
            return;
        }
        let reads = mem::take(&mut self.reads.waiting);
        if is_planted(Bug::StaleRead) {
            return self.answer_all(reads, Some(self.commit_index));
        }
        self.leading.round += 1;
        self.reads.batches.push_back(Batch {
            number: self.leading.round,
            index: self.commit_index,
            asked: self.now,
            reads,
        });
        // A group of one has confirmed it by itself.
        self.confirm_reads();
    }

    fn ask_leader(&mut self) {
        let Some(leader) = self.leader else { return };
        self.reads.question += 1;
        let token = self.reads.question;
        let reads = mem::take(&mut self.reads.waiting);
        let batch = Batch { number: token, index: Index(0), asked: self.now, reads };
        self.reads.batches.push_back(batch);
        self.post(leader, Message::ReadIndex { term: self.hard.term, token, healing: false });
    }

    /// Answers the rounds that a majority of the voters has confirmed: each of them answered a
    /// message of that round or a later one, and so one that was sent after the read arrived.
    pub(super) fn confirm_reads(&mut self) {
        if self.reads.batches.is_empty() {
            return;
        }
        let own = self.leading.round;
        let acked = self.peers.iter().map(|peer| peer.counted(peer.acked_round));
        let confirmed = reached_by_majority(acked.chain([own]));
        while let Some(batch) = self.reads.batches.pop_front_if(|b| b.number <= confirmed) {
            self.answer_all(batch.reads, Some(batch.index));
        }
    }

    /// Takes a follower's question.
    pub(super) fn on_read_index(&mut self, from: NodeId, term: Term, token: u64) {
        if term > self.hard.term {
            self.become_follower(term, None);
        }
        let asker = Asker::Follower(from, token);
        if self.role == Role::Leader && term == self.hard.term {
            self.ask(asker);
        } else {
            self.answer(asker, None);
        }
    }

    /// Takes the leader's answer. One to a question of a former term or leader finds nothing here.
    pub(super) fn on_read_index_reply(
        &mut self,
        from: NodeId,
        term: Term,
        token: u64,
        index: Option<Index>,
    ) {
        if term > self.hard.term {
            self.become_follower(term, None);
            return;
        }
        if term < self.hard.term || self.role != Role::Follower || self.leader != Some(from) {
            return;
        }
        if self.take_goal(token, index) {
            return;
        }
        let position = self.reads.batches.iter().position(|batch| batch.number == token);
        if let Some(batch) = position.and_then(|at| self.reads.batches.remove(at)) {
            self.answer_all(batch.reads, index);
        }
    }

    /// Answers all reads with none: their leader is not the leader any more, or not for long.
    pub(super) fn fail_reads(&mut self) {
        for batch in mem::take(&mut self.reads.batches) {
            self.answer_all(batch.reads, None);
        }
        let waiting = mem::take(&mut self.reads.waiting);
        self.answer_all(waiting, None);
    }

    /// Asks again what got no answer, and gives up on what waited too long.
    pub(super) fn tick_reads(&mut self) {
        let now = self.now;
        let is_late = |reads: &[Read]| {
            reads.first().is_some_and(|oldest| now >= oldest.since + READ_TICKS_MAX)
        };
        while let Some(batch) = self.reads.batches.pop_front_if(|batch| is_late(&batch.reads)) {
            self.answer_all(batch.reads, None);
        }
        if is_late(&self.reads.waiting) {
            let late = mem::take(&mut self.reads.waiting);
            self.answer_all(late, None);
        }
        if let (Role::Follower, Some(leader)) = (self.role, self.leader) {
            self.ask_again(leader);
        }
    }

    /// A question may be lost, and so may its answer. Whichever answer comes first will do: all are
    /// newer than the reads.
    fn ask_again(&mut self, leader: NodeId) {
        let (now, term) = (self.now, self.hard.term);
        let pause = self.config.election_ticks_min;
        let mut tokens = Vec::new();
        for batch in self.reads.batches.iter_mut().filter(|batch| now >= batch.asked + pause) {
            batch.asked = now;
            tokens.push(batch.number);
        }
        for token in tokens {
            self.post(leader, Message::ReadIndex { term, token, healing: false });
        }
    }
}

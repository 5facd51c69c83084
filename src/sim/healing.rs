//! What must hold of a node that heals: it has no say, it asks, and it is whole only once it holds what it must.

use std::collections::BTreeMap;

use crate::raft::message::Message;
use crate::sim::checks::Violation;
use crate::sim::store::Durable;
use crate::types::{Index, NodeId, Term};

/// What a leader said must be held.
#[derive(Clone, Copy, Debug)]
struct Goal {
    term: Term,
    index: Index,
}

/// The question of one start of a node that heals.
#[derive(Debug)]
struct Question {
    token: u64,
    /// The newest entry that was committed when it was asked first.
    committed: (Index, Term),
    /// The last entry of each leader when the question first came to it in its term.
    found: BTreeMap<(NodeId, Term), Index>,
    goals: Vec<Goal>,
}

/// All of them, each by the node that asks.
#[derive(Debug, Default)]
pub(super) struct Questions(BTreeMap<NodeId, Question>);

impl Questions {
    /// Forgets what was asked: the node has begun another life, and asks anew.
    pub(super) fn restarted(&mut self, node: NodeId) {
        self.0.remove(&node);
    }

    /// Takes a message that leaves; `committed` is the newest committed entry.
    pub(super) fn leaves(
        &mut self,
        from: NodeId,
        to: NodeId,
        message: &Message,
        committed: (Index, Term),
    ) -> Result<(), Violation> {
        match message {
            Message::ReadIndex { token, healing: true, .. } => {
                let (token, found, goals) = (*token, BTreeMap::new(), Vec::new());
                let asked = Question { token, committed, found, goals };
                if self.0.entry(from).or_insert(asked).token != token {
                    return Err(format!("node {from} heals and asks a second question"));
                }
                Ok(())
            }
            Message::ReadIndexReply { term, token, index: Some(index) } => {
                let asked = self.0.get_mut(&to).filter(|asked| asked.token == *token);
                let Some(asked) = asked else { return Ok(()) };
                let made_anew = asked.found.get(&(from, *term)).is_some_and(|found| index > found);
                if !made_anew || *index > committed.0 {
                    return Err(format!(
                        "node {from} tells node {to}, which heals, that {index} is enough: no entry made after the \
                         question is committed"
                    ));
                }
                asked.goals.push(Goal { term: *term, index: *index });
                Ok(())
            }
            Message::ReadIndex { healing: false, .. }
            | Message::ReadIndexReply { index: None, .. }
            | Message::PreVote { .. }
            | Message::PreVoteReply { .. }
            | Message::Vote { .. }
            | Message::VoteReply { .. }
            | Message::AppendEntries { .. }
            | Message::AppendReply { .. }
            | Message::InstallSnapshot { .. }
            | Message::TimeoutNow { .. } => Ok(()),
        }
    }

    /// Takes a message that comes to a node whose log ends there.
    pub(super) fn arrives(&mut self, from: NodeId, to: NodeId, message: &Message, last: Index) {
        if let Message::ReadIndex { term, token, healing: true } = message
            && let Some(asked) = self.0.get_mut(&from).filter(|asked| asked.token == *token)
        {
            asked.found.entry((to, *term)).or_insert(last);
        }
    }

    /// Looks at a node whose mark has just been taken away from its disk.
    pub(super) fn healed(&mut self, node: NodeId, disk: &Durable) -> Result<(), Violation> {
        let Some(Question { committed: (index, term), goals, .. }) = self.0.remove(&node) else {
            return Err(format!("node {node} counts as whole, and asked nobody"));
        };
        if !disk.holds(index, term) {
            return Err(format!(
                "node {node} counts as whole without entry {index} of term {term}, which was committed before it asked"
            ));
        }
        let reach = disk.last.max(disk.snapshot);
        // In the term of the answer its vote is used up: it may have voted there before.
        let is_met = |goal: &Goal| {
            let has_term = disk.hard.term > goal.term
                || disk.hard.term == goal.term && disk.hard.vote.is_some();
            reach >= goal.index && has_term
        };
        if goals.iter().any(is_met) {
            return Ok(());
        }
        Err(format!(
            "node {node} counts as whole with {:?} and a log up to {reach}, and was told {goals:?}",
            disk.hard
        ))
    }
}

/// Holds a message against the mark on the disk of the one who says it: as long as it heals, it follows and asks, and
/// every acknowledgement says that it does not count (`raft/healing.rs`).
pub(super) fn may_say(from: NodeId, to: NodeId, message: &Message) -> Result<(), Violation> {
    let what = match message {
        Message::ReadIndex { .. }
        | Message::AppendReply { healing: Some(_), .. }
        | Message::ReadIndexReply { index: None, .. } => return Ok(()),
        // The question who is whole: nobody grants it.
        Message::PreVote { term: Term(0), .. } => return Ok(()),
        Message::PreVote { .. } | Message::Vote { .. } => "stands for election",
        Message::PreVoteReply { .. } | Message::VoteReply { .. } => "votes",
        Message::AppendReply { healing: None, .. } => "acknowledges as if it counted",
        Message::AppendEntries { .. }
        | Message::InstallSnapshot { .. }
        | Message::TimeoutNow { .. }
        | Message::ReadIndexReply { index: Some(_), .. } => "leads",
    };
    Err(format!("node {from} heals and {what}: {message:?} to node {to}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::effects::Persist;
    use crate::raft::message::{AppendOutcome, Entry, EntryKind, HardState};

    const HEALS: NodeId = NodeId(1);
    const LEADS: NodeId = NodeId(2);
    const COMMITTED: (Index, Term) = (Index(3), Term(4));

    fn question(token: u64) -> Message {
        Message::ReadIndex { term: Term(5), token, healing: true }
    }

    fn answer(index: u64) -> Message {
        Message::ReadIndexReply { term: Term(5), token: 7, index: Some(Index(index)) }
    }

    /// A node that has asked; the leader had entry 4 when it heard of it.
    fn asked() -> Questions {
        let mut questions = Questions::default();
        questions.leaves(HEALS, LEADS, &question(7), COMMITTED).unwrap();
        questions.arrives(HEALS, LEADS, &question(7), Index(4));
        questions.arrives(HEALS, LEADS, &question(7), Index(6));
        questions
    }

    fn disk(last: u64, hard: HardState) -> Durable {
        let entry = |index| Entry {
            index: Index(index),
            term: Term(4),
            kind: EntryKind::Noop,
            data: bytes::Bytes::new(),
        };
        let entries = (1..=last).map(entry).collect();
        let mut disk = Durable::default();
        disk.take(&Persist { hard_state: Some(hard), entries, ..Persist::default() });
        disk
    }

    fn hard(term: u64, vote: Option<NodeId>) -> HardState {
        HardState { term: Term(term), vote }
    }

    #[test]
    fn answer_takes_an_entry_made_after_the_question_and_committed() {
        assert!(asked().leaves(LEADS, HEALS, &answer(4), (Index(9), Term(5))).is_err());
        assert!(asked().leaves(LEADS, HEALS, &answer(5), (Index(4), Term(5))).is_err());
        assert!(asked().leaves(NodeId(3), HEALS, &answer(5), (Index(9), Term(5))).is_err());
        assert_eq!(asked().leaves(LEADS, HEALS, &answer(5), (Index(5), Term(5))), Ok(()));
    }

    #[test]
    fn whole_is_who_holds_the_goal_and_has_used_its_vote_up() {
        let mut questions = asked();
        assert!(questions.healed(HEALS, &disk(9, hard(6, None))).is_err(), "nobody answered");
        let told = || {
            let mut questions = asked();
            questions.leaves(LEADS, HEALS, &answer(5), (Index(5), Term(5))).unwrap();
            questions
        };
        assert_eq!(told().healed(HEALS, &disk(5, hard(5, Some(LEADS)))), Ok(()));
        assert_eq!(told().healed(HEALS, &disk(5, hard(6, None))), Ok(()));
        assert!(told().healed(HEALS, &disk(5, hard(5, None))).is_err(), "it could vote again");
        assert!(told().healed(HEALS, &disk(4, hard(5, Some(LEADS)))).is_err(), "not all is held");
        assert!(told().healed(HEALS, &disk(2, hard(6, None))).is_err(), "what was committed");
        assert!(told().healed(LEADS, &disk(5, hard(6, None))).is_err(), "it never asked");
    }

    #[test]
    fn node_that_heals_has_no_say() {
        let outcome = AppendOutcome::Accepted { match_index: Index(1) };
        let reply = |healing| Message::AppendReply {
            term: Term(5),
            outcome,
            session: 1,
            round: 1,
            healing,
        };
        let poll = |term| Message::PreVote { term, last_index: Index(0), last_term: Term(0) };
        for allowed in [question(7), reply(Some(7)), poll(Term(0))] {
            assert_eq!(may_say(HEALS, LEADS, &allowed), Ok(()));
        }
        let vote = Message::VoteReply { term: Term(5), granted: false };
        for forbidden in [vote, reply(None), poll(Term(1)), answer(5)] {
            assert!(may_say(HEALS, LEADS, &forbidden).is_err(), "{forbidden:?}");
        }
    }
}

//! The scopes: how far each search goes, and where it begins.

use std::sync::Arc;

use bytes::Bytes;
use raftq::raft::core::Role;
use raftq::raft::message::{Entry, EntryKind, HardState};
use raftq::types::{Index, NodeId, Term};

use crate::check::Check;
use crate::disk::Disk;
use crate::world::{Action, History, NODES, State};

/// How far a search goes. Whatever would go further is not looked at.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    /// What it is called.
    pub(crate) name: &'static str,
    /// Where it begins.
    pub(crate) start: Start,
    /// The last term there is.
    pub(crate) terms: u64,
    /// The last entry there is.
    pub(crate) entries: u64,
    /// Things on their way at once; of more than that, any are lost.
    pub(crate) messages: usize,
    /// Crashes in all.
    pub(crate) crashes: u8,
    /// Disks that lose everything, in all.
    pub(crate) damages: u8,
    /// Messages that arrive twice, in all.
    pub(crate) duplicates: u8,
    /// Reads in all.
    pub(crate) reads: u8,
    /// Clients propose; without it there are the leaders' own entries only.
    pub(crate) proposes: bool,
    /// Leaders send heartbeats beside what they have to say.
    pub(crate) heartbeats: bool,
    /// Nodes write snapshots.
    pub(crate) compacts: bool,
    /// Pre-votes travel like any message; without it they are granted at once.
    pub(crate) pre_votes: bool,
    /// Disks sync at once, so that no crash finds anything unsynced.
    pub(crate) syncs_at_once: bool,
    /// One entry a message.
    pub(crate) one_by_one: bool,
    /// Asks of every message whether the disk holds what it says.
    pub(crate) watches_words: bool,
    /// What must be seen somewhere: a scope in which it is not proves nothing.
    pub(crate) sights: &'static [Sight],
}

/// Where a search begins.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start {
    /// Empty disks.
    Empty,
    /// The first node leads term 1, and its first entry is committed everywhere.
    Led,
    /// Two nodes have two committed entries and no log of them, the first one leads; the third has
    /// nothing.
    Behind,
    /// Figure 8 (b), with three nodes: the first led term 1, the third term 2, each with an entry
    /// that nobody else has; the second has none. All have fallen.
    Figure8,
}

/// Something that must be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    /// A leader.
    Leader,
    /// Two leaders at once, of different terms.
    TwoLeaders,
    /// A committed entry.
    Commit,
    /// Entries of two terms are committed.
    CommitOfTwoTerms,
    /// A node holds a committed entry, fell, and serves again.
    CommitAfterCrash,
    /// A snapshot has taken the place of a log.
    Install,
    /// ... and an entry was committed after it, at the node that has it.
    CommitAfterInstall,
    /// An entry of a former term on a majority, not committed.
    Danger,
    /// ... and another one was committed in that one's place.
    DangerOverwritten,
    /// ... or that very one was committed, along with a later one of its leader's own term.
    DangerCommitted,
    /// A read was answered.
    ReadAnswered,
    /// A node that lost everything is whole again.
    Healed,
    /// ... and leads.
    HealedLeads,
}

impl Sight {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Leader => "a leader",
            Self::TwoLeaders => "two leaders of different terms",
            Self::Commit => "a commit",
            Self::CommitOfTwoTerms => "commits of two terms",
            Self::CommitAfterCrash => "a commit after a crash",
            Self::Install => "a snapshot installed",
            Self::CommitAfterInstall => "a commit beyond an installed snapshot",
            Self::Danger => "an old entry on a majority",
            Self::DangerOverwritten => "an old entry on a majority overwritten",
            Self::DangerCommitted => "an old entry on a majority committed with a new one",
            Self::ReadAnswered => "a read answered",
            Self::Healed => "a node healed",
            Self::HealedLeads => "a node that healed leads",
        }
    }

    pub(crate) fn is_in(self, state: &State) -> bool {
        let History { leaders: _, committed, endangered, installs } = &*state.history;
        let leaders = state.nodes.iter().filter(|node| node.raft.role() == Role::Leader);
        let first = committed.first().map(|(entry, _)| entry.term);
        match self {
            Self::Leader => leaders.count() > 0,
            Self::TwoLeaders => leaders.count() > 1,
            Self::Commit => first.is_some(),
            Self::CommitOfTwoTerms => committed.iter().any(|(entry, _)| Some(entry.term) != first),
            Self::CommitAfterCrash => state.crashes > 0 && first.is_some(),
            Self::Install => *installs > 0,
            Self::CommitAfterInstall => {
                let last = &state.nodes[NODES - 1];
                let reach = last.disk.snapshot.as_ref().map(|(meta, _)| meta.index);
                *installs > 0 && reach.is_some_and(|reach| last.raft.applied_index() > reach)
            }
            Self::Danger => state.in_danger().is_some(),
            Self::DangerOverwritten => endangered.iter().any(|(index, term)| {
                committed.iter().any(|(entry, _)| entry.index == *index && entry.term != *term)
            }),
            Self::DangerCommitted => endangered.iter().any(|(index, term)| {
                let is_it =
                    |(entry, _): &(Entry, Term)| (entry.index, entry.term) == (*index, *term);
                let is_own =
                    |(entry, by): &(Entry, Term)| entry.index > *index && entry.term == *by;
                committed.iter().any(is_it) && committed.iter().any(is_own)
            }),
            Self::Healed => state.damages > 0 && state.nodes.iter().all(|node| !node.disk.healing),
            Self::HealedLeads => {
                let healed = state.damaged.map(|node| &state.nodes[node]);
                healed.is_some_and(|node| node.raft.role() == Role::Leader)
            }
            Self::ReadAnswered => state.reads > 0 && state.read.is_none() && state.crashes == 0,
        }
    }
}

fn entry(index: u64, term: u64) -> Entry {
    Entry { index: Index(index), term: Term(term), kind: EntryKind::Noop, data: Bytes::new() }
}

/// A disk that was written before the search begins.
fn disk(term: u64, vote: u64, entries: Vec<Entry>) -> Disk {
    let hard = HardState { term: Term(term), vote: Some(NodeId(vote)) };
    Disk { hard, entries, ..Disk::new() }
}

impl Scope {
    /// Builds the state in which the search begins.
    pub(crate) fn begin(&self) -> State {
        let empty = || [Disk::new(), Disk::new(), Disk::new()];
        let quiet = Self { syncs_at_once: true, pre_votes: false, ..self.clone() };
        match self.start {
            Start::Empty => State::new(self, empty()),
            Start::Led => {
                let mut state = State::new(&quiet, empty());
                quiet.elect_first(&mut state, &[]);
                self.reset(state)
            }
            Start::Behind => {
                let mut state = State::new(&quiet, empty());
                quiet.elect_first(&mut state, &[2]);
                state.act(&quiet, Action::Propose(0));
                quiet.settle(&mut state, &[2]);
                state.act(&quiet, Action::Compact(0));
                state.act(&quiet, Action::Compact(1));
                self.reset(state)
            }
            Start::Figure8 => {
                let disks = [
                    disk(1, 1, vec![entry(1, 1)]),
                    disk(2, 3, vec![]),
                    disk(2, 3, vec![entry(1, 2)]),
                ];
                let mut state = State::new(self, disks);
                let history = Arc::make_mut(&mut state.history);
                history.leaders.extend([(Term(1), 0), (Term(2), 2)]);
                state.seal();
                state
            }
        }
    }

    fn elect_first(&self, state: &mut State, deaf: &[usize]) {
        state.act(self, Action::Timeout(0));
        self.settle(state, deaf);
        assert!(self.sees(state, Sight::Commit), "the first node leads");
    }

    /// Delivers what is on its way, but to nodes that are deaf, until nothing is.
    fn settle(&self, state: &mut State, deaf: &[usize]) {
        while let Some(packet) = state.wire.first() {
            let is_lost = deaf.contains(&packet.to);
            state.act(self, if is_lost { Action::Drop(0) } else { Action::Deliver(0) });
        }
    }

    fn sees(&self, state: &State, sight: Sight) -> bool {
        sight.is_in(state)
    }

    fn reset(&self, mut state: State) -> State {
        assert!(state.broken.is_none(), "{:?}", state.broken);
        state.seal();
        state
    }

    /// Names all that may happen next.
    pub(crate) fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken.is_some() {
            return;
        }
        // A message need not arrive, so that one is lost only where there is no room for it: which one,
        // is any.
        if state.wire.len() > self.messages {
            actions.extend((0..state.wire.len()).map(Action::Drop));
            return;
        }
        for position in 0..state.wire.len() {
            actions.push(Action::Deliver(position));
            if state.duplicates < self.duplicates {
                actions.push(Action::Duplicate(position));
            }
        }
        for (node, own) in state.nodes.iter().enumerate() {
            let is_leader = own.raft.role() == Role::Leader;
            let is_asking = own.raft.role() == Role::Candidate;
            if !is_leader && own.raft.term().0 < self.terms && (!is_asking || own.is_hard_durable())
            {
                actions.push(Action::Timeout(node));
            }
            if own.outstanding.is_some() {
                actions.push(Action::Synced(node));
            }
            if state.crashes < self.crashes {
                actions.push(Action::Crash(node, false));
                if own.outstanding.is_some() {
                    actions.push(Action::Crash(node, true));
                }
            }
            if state.damages < self.damages && !own.raft.is_healing() {
                actions.push(Action::Damage(node));
            }
            if own.raft.is_healing() {
                actions.push(Action::Ask(node));
            }
            if is_leader && self.heartbeats {
                actions.push(Action::Heartbeat(node));
            }
            if is_leader && self.proposes && own.raft.last_index().0 < self.entries {
                actions.push(Action::Propose(node));
            }
            let held = own.disk.snapshot.as_ref().map_or(Index(0), |(meta, _)| meta.index);
            if self.compacts && own.raft.applied_index() > held {
                actions.push(Action::Compact(node));
            }
            if is_leader && state.read.is_none() && state.reads < self.reads {
                actions.push(Action::Read(node));
            }
        }
    }

    /// Tells whether a state is within the scope.
    pub(crate) fn holds(&self, state: &State) -> bool {
        state.nodes.iter().all(|node| {
            node.raft.term().0 <= self.terms && node.raft.last_index().0 <= self.entries
        })
    }

    /// Returns what happens next, if it is within the scope and changes anything. A panic of the core
    /// breaks a promise like any other.
    pub(crate) fn next(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        let step = std::panic::AssertUnwindSafe(|| next.act(self, action));
        if std::panic::catch_unwind(step).is_err() {
            next = state.clone();
            next.break_promise(Check::CoreAsserts);
        }
        if next.broken.is_none() && !self.holds(&next) {
            return None;
        }
        next.seal();
        (next.print != state.print).then_some(next)
    }
}

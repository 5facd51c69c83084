//! Three replicas of the raft crate's core.

use std::array;
use std::collections::VecDeque;
use std::hint::black_box;
use std::mem;

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, HardState, Message, MessageType, Snapshot};
use raft::storage::{GetEntriesContext, RaftState};
use raft::{Config, Error, RawNode, StateRole, Storage, StorageError, util};
use slog::{Discard, Logger, o};

use crate::{Group, LEADER, NODES, Telling, first_to_keep, settle};

/// The log on a node's disk. The crate's own memory store copies entries in and moves the rest when the first go;
/// this one does neither, and takes no lock.
pub struct Kept {
    hard: HardState,
    voters: ConfState,
    entries: VecDeque<Entry>,
    /// The first entry in there, or the one after the last.
    first: u64,
    /// The term of the entry before.
    base_term: u64,
}

/// One replica, and all that is around it.
struct Node {
    raw: RawNode<Kept>,
    inbox: Vec<Message>,
    handed_out: u64,
}

/// The group.
pub struct Theirs {
    nodes: [Node; NODES],
}

impl Theirs {
    /// Makes a group that has a leader and is at rest.
    ///
    /// # Panics
    /// If the group comes to another end than a leader.
    #[must_use]
    pub fn new(telling: Telling) -> Self {
        let logger = Logger::root(Discard, o!());
        let nodes = array::from_fn(|at| {
            let raw = RawNode::new(&config(at, telling), Kept::new(), &logger);
            Node { raw: raw.expect("a sound configuration"), inbox: Vec::new(), handed_out: 0 }
        });
        let mut group = Self { nodes };
        group.nodes[LEADER].raw.campaign().expect("it may campaign");
        group.look(LEADER);
        settle(|at| group.hear(at));
        // A heartbeat says what is committed.
        group.nodes[LEADER].raw.ping();
        group.look(LEADER);
        settle(|at| group.hear(at));
        assert_eq!(group.nodes[LEADER].raw.raft.state, StateRole::Leader, "it was not elected");
        group
    }

    /// Lets a node take in all that has arrived.
    fn hear(&mut self, at: usize) -> bool {
        let node = &mut self.nodes[at];
        if node.inbox.is_empty() {
            return false;
        }
        let mut inbox = mem::take(&mut node.inbox);
        for message in inbox.drain(..) {
            node.raw.step(message).expect("a message of the group");
        }
        node.inbox = inbox;
        self.look(at);
        true
    }

    /// Does what a node's core asks for, until it asks for nothing: the loop of the crate's documentation.
    fn look(&mut self, at: usize) {
        while self.nodes[at].raw.has_ready() {
            let node = &mut self.nodes[at];
            let mut ready = node.raw.ready();
            assert!(ready.snapshot().is_empty(), "the log is not in memory");
            let mut send = ready.take_messages();
            node.hand_out(ready.take_committed_entries());
            let kept = node.raw.mut_store();
            kept.append(ready.take_entries());
            if let Some(hard) = ready.hs() {
                kept.hard = hard.clone();
            }
            self.post(&mut send);
            self.post(&mut ready.take_persisted_messages());
            let node = &mut self.nodes[at];
            let mut light = node.raw.advance(ready);
            if let Some(commit) = light.commit_index() {
                node.raw.mut_store().hard.set_commit(commit);
            }
            node.hand_out(light.take_committed_entries());
            self.post(&mut light.take_messages());
            let node = &mut self.nodes[at];
            node.raw.advance_apply();
            if let Some(first) = first_to_keep(node.raw.store().first, node.handed_out) {
                node.raw.mut_store().compact(first);
            }
        }
    }

    fn post(&mut self, messages: &mut Vec<Message>) {
        for message in messages.drain(..) {
            self.nodes[position_of(message.to)].inbox.push(message);
        }
    }
}

impl Node {
    fn hand_out(&mut self, entries: Vec<Entry>) {
        let Some(last) = entries.last() else { return };
        self.handed_out += entries.len() as u64;
        assert_eq!(last.index, self.handed_out, "a gap in what is handed out");
        drop(black_box(entries));
    }
}

impl Group for Theirs {
    fn turn(&mut self, data: Vec<Bytes>) {
        // One message for all proposals: the crate takes that, and is faster with it than with a call for each.
        let entry = |data| Entry { data, ..Entry::default() };
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = id_of(LEADER);
        message.entries = data.into_iter().map(entry).collect();
        self.nodes[LEADER].raw.step(message).expect("the leader takes proposals");
        self.look(LEADER);
        settle(|at| self.hear(at));
    }

    fn handed_out(&self) -> [u64; NODES] {
        array::from_fn(|at| self.nodes[at].handed_out)
    }
}

impl Kept {
    fn new() -> Self {
        let voters = ConfState { voters: (0..NODES).map(id_of).collect(), ..ConfState::default() };
        let (hard, entries) = (HardState::default(), VecDeque::new());
        Self { hard, voters, entries, first: 1, base_term: 0 }
    }

    fn append(&mut self, entries: Vec<Entry>) {
        let next = self.first + self.entries.len() as u64;
        assert!(entries.first().is_none_or(|entry| entry.index == next), "no log is ever cut here");
        self.entries.extend(entries);
    }

    fn compact(&mut self, first: u64) {
        self.base_term = self.term(first - 1).expect("it is handed out");
        self.entries.drain(..self.offset(first));
        self.first = first;
    }

    fn offset(&self, index: u64) -> usize {
        usize::try_from(index - self.first).expect("it is in memory")
    }
}

impl Storage for Kept {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard.clone(), self.voters.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low < self.first {
            return Err(Error::Store(StorageError::Compacted));
        }
        let range = self.offset(low)..self.offset(high);
        let mut entries = self.entries.range(range).cloned().collect();
        util::limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index + 1 == self.first {
            return Ok(self.base_term);
        }
        if index < self.first {
            return Err(Error::Store(StorageError::Compacted));
        }
        let entry = self.entries.get(self.offset(index));
        entry.map(|entry| entry.term).ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.first + self.entries.len() as u64 - 1)
    }

    fn snapshot(&self, _: u64, _: u64) -> raft::Result<Snapshot> {
        panic!("the log is not in memory");
    }
}

/// The timeouts and votes are set like ours. The limits are none where the crate knows that word, so that it need not
/// weigh an entry, and beyond reach elsewhere.
fn config(at: usize, telling: Telling) -> Config {
    Config {
        id: id_of(at),
        election_tick: 15,
        heartbeat_tick: 5,
        max_size_per_msg: raft::NO_LIMIT,
        max_inflight_msgs: 1_024,
        check_quorum: true,
        pre_vote: true,
        skip_bcast_commit: telling == Telling::WithNext,
        ..Config::default()
    }
}

fn id_of(at: usize) -> u64 {
    at as u64 + 1
}

fn position_of(id: u64) -> usize {
    usize::try_from(id - 1).expect("an id of the group")
}

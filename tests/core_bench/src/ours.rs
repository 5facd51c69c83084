//! Three replicas of our core.

use std::array;
use std::collections::VecDeque;
use std::hint::black_box;
use std::mem;

use bytes::Bytes;
use raftq::raft::core::{Boot, Config, Raft, Role};
use raftq::raft::effects::Effects;
use raftq::raft::message::{Configuration, Entry, EntryKind, Message, Voter};
use raftq::types::{ClusterId, Index, NodeId, Ticks};

use crate::{Group, LEADER, NODES, Telling, first_to_keep, settle};

/// One replica, and all that is around it.
struct Node {
    raft: Raft,
    inbox: Vec<(NodeId, Message)>,
    /// The log on its disk.
    kept: VecDeque<Entry>,
    /// The first entry in there, or the one after the last.
    kept_first: u64,
    handed_out: u64,
}

/// The group.
pub struct Ours {
    nodes: [Node; NODES],
    telling: Telling,
}

impl Ours {
    /// Makes a group that has a leader and is at rest. The limits and timeouts are those of a real node.
    ///
    /// # Panics
    /// If the group comes to another end than a leader.
    #[must_use]
    pub fn new(telling: Telling) -> Self {
        let voter = |at| Voter { id: id_of(at), addr: format!("node-{at}:7100"), dir: None };
        let voters = (0..NODES).map(voter).collect();
        let configuration = Configuration { cluster: ClusterId::default(), voters };
        let nodes = array::from_fn(|at| Node {
            raft: Raft::new(
                Config::new(id_of(at)),
                Boot::empty(configuration.clone()),
                at as u64 + 1,
            ),
            inbox: Vec::new(),
            kept: VecDeque::new(),
            kept_first: 1,
            handed_out: 0,
        });
        let mut group = Self { nodes, telling };
        group.nodes[LEADER].raft.campaign();
        group.look(LEADER);
        settle(|at| group.hear(at));
        // Whoever leads says within a tick what is committed.
        group.nodes[LEADER].raft.tick(Ticks(1));
        group.look(LEADER);
        settle(|at| group.hear(at));
        assert_eq!(group.nodes[LEADER].raft.role(), Role::Leader, "another leader than planned");
        group
    }

    /// Lets a node take in all that has arrived.
    fn hear(&mut self, at: usize) -> bool {
        let node = &mut self.nodes[at];
        if node.inbox.is_empty() {
            return false;
        }
        let mut inbox = mem::take(&mut node.inbox);
        for (from, message) in inbox.drain(..) {
            node.raft.step(from, message);
        }
        node.inbox = inbox;
        self.look(at);
        true
    }

    /// Does what a node's core asks for, until it asks for nothing.
    fn look(&mut self, at: usize) {
        loop {
            let node = &mut self.nodes[at];
            let Effects { persist, send, apply, reads, read_log, send_snapshot, install, .. } =
                node.raft.effects();
            assert!(read_log.is_empty() && send_snapshot.is_empty(), "the log is not in memory");
            assert!(reads.is_empty() && install.is_none(), "nobody has asked for that");
            let mut again = false;
            if let Some(batch) = persist {
                node.kept.extend(batch.entries);
                node.raft.persisted(batch.seq);
                again = true;
            }
            if !apply.is_empty() {
                node.hand_out(apply);
                if at == LEADER && self.telling == Telling::AtOnce {
                    node.raft.announce_commit();
                    again = true;
                }
            }
            again |= node.raft.has_ready();
            for (to, message) in send {
                self.nodes[position_of(to)].inbox.push((id_of(at), message));
            }
            if !again {
                return;
            }
        }
    }
}

impl Node {
    fn hand_out(&mut self, entries: Vec<Entry>) {
        self.handed_out += entries.len() as u64;
        let last = entries.last().map_or(0, |entry| entry.index.0);
        assert_eq!(last, self.handed_out, "a gap in what is handed out");
        drop(black_box(entries));
        if let Some(first) = first_to_keep(self.kept_first, self.handed_out) {
            self.compact(first);
        }
    }

    fn compact(&mut self, first: u64) {
        let meta = self.raft.snapshot_meta(Index(first - 1)).expect("it is handed out");
        self.raft.snapshot_written(&meta);
        let gone = usize::try_from(first - self.kept_first).expect("it is in memory");
        self.kept.drain(..gone);
        self.kept_first = first;
        self.raft.log_released(Index(first));
    }
}

impl Group for Ours {
    fn turn(&mut self, data: Vec<Bytes>) {
        let raft = &mut self.nodes[LEADER].raft;
        raft.propose(EntryKind::Command, data).expect("the leader takes proposals");
        self.look(LEADER);
        settle(|at| self.hear(at));
    }

    fn handed_out(&self) -> [u64; NODES] {
        array::from_fn(|at| self.nodes[at].handed_out)
    }
}

fn id_of(at: usize) -> NodeId {
    NodeId(at as u64 + 1)
}

fn position_of(id: NodeId) -> usize {
    usize::try_from(id.0 - 1).expect("an id of the group")
}

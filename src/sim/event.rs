//! What can happen in a simulated world, and in which order it does.

use crate::raft::effects::ReadLog;
use crate::raft::message::SnapshotMeta;
use crate::sim::actors::Actor;
use crate::types::{Index, NodeId, Term};
use crate::wire::message::{PeerMessage, Reply, Request};

/// Who waits for an answer, and to what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asker {
    pub(super) actor: Actor,
    pub(super) corr: u64,
}

/// Something that happens at a time.
#[derive(Debug)]
pub(super) enum Happening {
    Tick(NodeId),
    Message { from: NodeId, to: NodeId, message: Box<PeerMessage> },
    Synced { node: NodeId, life: u64, seq: u64 },
    Read { node: NodeId, life: u64, read: ReadLog },
    SnapshotWritten { node: NodeId, life: u64, meta: SnapshotMeta },
    SnapshotOffer { from: NodeId, to: NodeId, term: Term },
    SnapshotArrived { from: NodeId, to: NodeId, sent: usize },
    SnapshotEnded { from: NodeId, life: u64, to: NodeId, ok: bool },
    Ask { to: NodeId, request: Box<Request>, asker: Asker },
    Answered { asker: Asker, reply: Box<Reply> },
    Actors,
    Crash,
    Released { node: NodeId, life: u64, first_index: Index },
    Restart(NodeId),
    Partition,
    Heal,
    Pause,
    WorkerDies,
}

/// Something that happens, and when.
pub(super) struct Event {
    pub(super) at: u64,
    pub(super) order: u64,
    pub(super) what: Happening,
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    /// The earliest is the greatest, as the heap hands out the greatest first.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

//! What can happen in a simulated world, and in which order it does.

use std::collections::BinaryHeap;

use crate::raft::effects::ReadLog;
use crate::sim::actors::Actor;
use crate::types::{Index, NodeId};
use crate::wire::message::{Reply, Request};
use crate::wire::peer::PeerMessage;

/// Who waits for an answer, and to what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asker {
    pub(super) actor: Actor,
    pub(super) corr: u64,
}

/// Something that happens at a time. What a node does itself is void once it has begun another life.
#[derive(Debug)]
pub(super) enum Happening {
    Tick {
        node: NodeId,
        life: u64,
    },
    Message {
        from: NodeId,
        to: NodeId,
        message: Box<PeerMessage>,
    },
    PeerLost {
        node: NodeId,
        lost: NodeId,
    },
    Synced {
        node: NodeId,
        life: u64,
        seq: u64,
    },
    Read {
        node: NodeId,
        life: u64,
        read: ReadLog,
    },
    SnapshotWritten {
        node: NodeId,
        life: u64,
    },
    Release {
        node: NodeId,
        life: u64,
        up_to: Index,
    },
    Prepare {
        node: NodeId,
        life: u64,
    },
    Bulk {
        from: NodeId,
        to: NodeId,
        token: u64,
        step: Step,
    },
    SnapshotEnded {
        from: NodeId,
        life: u64,
        to: NodeId,
        outcome: Option<Index>,
    },
    Ask {
        to: NodeId,
        request: Box<Request>,
        asker: Asker,
    },
    Answered {
        asker: Asker,
        reply: Box<Reply>,
    },
    Actors,
    Start(NodeId),
    /// The power of a node fails if it heals still.
    Relapse {
        node: NodeId,
        life: u64,
    },
    Fault(usize),
    /// The faulty time of a round is over.
    Heal,
    /// Somebody looks whether the healed world is whole.
    Settle,
}

/// What is next with a snapshot on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Connect,
    NoVerdict,
    Chunk,
    Finish,
    Done,
}

/// Something that happens, and when.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) at: u64,
    order: u64,
    pub(super) what: Happening,
}

/// All that is to happen.
#[derive(Debug, Default)]
pub(super) struct Queue {
    heap: BinaryHeap<Event>,
    order: u64,
}

impl Queue {
    /// Lets something happen at a time.
    pub(super) fn at(&mut self, at: u64, what: Happening) {
        self.order += 1;
        self.heap.push(Event { at, order: self.order, what });
    }

    /// Takes what happens next.
    pub(super) fn next(&mut self) -> Option<Event> {
        self.heap.pop()
    }

    /// Returns how much has been put in.
    pub(super) fn count(&self) -> u64 {
        self.order
    }
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

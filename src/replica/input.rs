//! What one turn of a replica takes in and what it hands out: values only.

use crate::jobs::job::NewJob;
use crate::jobs::machine::Machine;
use crate::raft::core::{LogGone, SendError};
use crate::raft::effects::{Offer, Persist, ReadLog, SendSnapshot};
use crate::raft::message::{Entry, SnapshotMeta};
use crate::replica::view::{Answer, Notice, View};
use crate::types::{DirId, Incarnation, Index, Millis, NodeId, Term, Ticks, WorkerId};
use crate::wire::message::Request;
use crate::wire::peer::PeerMessage;

/// The world's time at the start of a turn; nothing else of it enters.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// Monotonic time since the node started.
    pub now: Ticks,
    /// The wall clock, as wrong as it may be.
    pub wall: Millis,
}

/// Something that happened since the last turn. `W` is whoever waits for an answer.
#[derive(Debug)]
pub enum Input<W> {
    /// A batch is durable.
    Persisted {
        /// Its number.
        seq: u64,
    },
    /// Entries read from the log on disk.
    LogRead {
        /// The read's number.
        token: u64,
        /// The entries, or the first index the disk still has.
        result: Result<Vec<Entry>, LogGone>,
    },
    /// The log on disk now begins here.
    Released {
        /// Its first entry.
        first_index: Index,
    },
    /// An image is on disk as a snapshot.
    SnapshotWritten {
        /// What it stands for.
        meta: SnapshotMeta,
        /// Its file's bytes.
        bytes: u64,
    },
    /// A message of a peer.
    Peer {
        /// Who.
        from: NodeId,
        /// Its data directory.
        dir: DirId,
        /// What.
        message: PeerMessage,
    },
    /// The link to a peer broke.
    PeerLost(NodeId),
    /// A peer offers a snapshot.
    SnapshotOffered {
        /// Who.
        from: NodeId,
        /// Its data directory.
        dir: DirId,
        /// Its term.
        term: Term,
        /// What.
        meta: SnapshotMeta,
    },
    /// A peer's snapshot is durable and decoded.
    SnapshotReceived {
        /// Who sent it.
        from: NodeId,
        /// What.
        meta: SnapshotMeta,
        /// Its file's bytes.
        bytes: u64,
        /// Its queue.
        machine: Box<Machine>,
    },
    /// Sending a snapshot ended.
    SnapshotSent {
        /// To whom.
        to: NodeId,
        /// The snapshot's index, or a failure.
        outcome: Result<Index, SendError>,
    },
    /// A request.
    Request {
        /// What.
        request: Request,
        /// Who waits.
        waiter: W,
        /// When it arrived.
        arrived: Ticks,
    },
    /// Submits that arrived together.
    Submits {
        /// Each with its waiter.
        jobs: Vec<(NewJob, W)>,
        /// When they arrived.
        arrived: Ticks,
    },
    /// The built-in worker begins a new start.
    LocalWorker {
        /// Its name.
        worker: WorkerId,
        /// The start.
        incarnation: Incarnation,
    },
    /// The local view, please.
    Look {
        /// Who waits.
        waiter: W,
    },
    /// No new work from now on; leadership goes to another node if it can.
    Stop,
}

/// What a turn asks of the world, in the order in which it must be done: the disk first (it works
/// while the rest goes on), then the network, then the answers.
#[must_use]
#[derive(Debug)]
pub struct Output<W> {
    /// One batch to write and sync.
    pub persist: Option<Persist>,
    /// Messages to peers.
    pub send: Vec<(NodeId, PeerMessage)>,
    /// Reads of the log on disk.
    pub read_log: Vec<ReadLog>,
    /// An image to write as a snapshot.
    pub write_snapshot: Option<(SnapshotMeta, Machine)>,
    /// Entries up to here may leave the disk: a durable snapshot covers them.
    pub release: Option<Index>,
    /// Followers to send the newest snapshot to.
    pub send_snapshot: Vec<SendSnapshot>,
    /// Transfers to break off.
    pub abort_snapshots: Vec<NodeId>,
    /// Verdicts on offered snapshots: from whom, up to which entry.
    pub offers: Vec<(NodeId, Index, Offer)>,
    /// Answers.
    pub answers: Vec<(W, Answer)>,
    /// News for the worker built into this node.
    pub notices: Vec<Notice>,
    /// The view, when it changed.
    pub view: Option<View>,
    /// Images to drop elsewhere: freeing a large one takes longer than a turn may.
    pub discard: Vec<Machine>,
    /// More waits inside: take another turn without waiting for input.
    pub again: bool,
}

impl<W> Default for Output<W> {
    fn default() -> Self {
        Self {
            persist: None,
            send: Vec::new(),
            read_log: Vec::new(),
            write_snapshot: None,
            release: None,
            send_snapshot: Vec::new(),
            abort_snapshots: Vec::new(),
            offers: Vec::new(),
            answers: Vec::new(),
            notices: Vec::new(),
            view: None,
            discard: Vec::new(),
            again: false,
        }
    }
}

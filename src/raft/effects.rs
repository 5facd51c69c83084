//! What one turn of consensus asks of the world, in the order in which it must be done.

use crate::raft::message::{Entry, HardState, Message, SnapshotMeta};
use crate::types::{Index, NodeId, Term};

/// Everything a turn produced. The order of the fields is the contract: hand `persist` to the disk
/// first (it works while the rest goes on), then send, then apply, then answer.
///
/// A message that speaks of something not yet durable is not in here: the core holds it back until
/// [`crate::raft::core::Raft::persisted`] names the batch, and hands it out in a later turn.
#[must_use]
#[derive(Clone, Debug, Default)]
pub struct Effects {
    /// One batch to write and sync; at most one is outstanding at any time.
    pub persist: Option<Persist>,
    /// Messages that may leave now.
    pub send: Vec<(NodeId, Message)>,
    /// Committed entries to apply, without a gap, in order.
    pub apply: Vec<Entry>,
    /// Reads that may be served: each once this index is applied.
    pub reads: Vec<ReadReady>,
    /// Reads of the log on disk to start; each is answered by one
    /// [`crate::raft::core::Raft::log_read`].
    pub read_log: Vec<ReadLog>,
    /// Followers that need the newest snapshot file, whose transfer is to start (or start again).
    /// Answered by [`crate::raft::core::Raft::snapshot_sent`].
    pub send_snapshot: Vec<SendSnapshot>,
    /// Transfers to break off: the term has changed, or the follower needs none any more.
    pub abort_snapshots: Vec<NodeId>,
    /// Answers to offers of a snapshot, each with its sender and index, for the lane that carries its
    /// chunks.
    pub offers: Vec<(NodeId, Index, Offer)>,
    /// A received snapshot that takes the place of the log and the machine: restore the machine from
    /// it, before anything in `apply`. Its [`Persist::reset`] is in this turn's or a later batch.
    pub install: Option<SnapshotMeta>,
}

/// One batch for the disk: one record, one sync. Everything in it becomes durable together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Persist {
    /// Rises by one with each batch; named in [`crate::raft::core::Raft::persisted`].
    pub seq: u64,
    /// Term and vote, when they changed.
    pub hard_state: Option<HardState>,
    /// The log now begins after this snapshot and holds nothing of what it held before. The
    /// snapshot's file is durable already.
    pub reset: Option<SnapshotMeta>,
    /// Entries to append. An entry at or below the last one takes the place of it and of all that
    /// follow it.
    pub entries: Vec<Entry>,
    /// The commit index, a hint for the next start.
    pub commit_index: Index,
    /// This node has healed: once all the rest of the batch is durable, take the mark away that says
    /// it is healing, durably, before the batch counts as persisted.
    pub healed: bool,
}

/// A read that may be served as soon as `index` is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadReady {
    /// The caller's token from [`crate::raft::core::Raft::read`].
    pub token: u64,
    /// `None`: no leader confirmed it, ask again.
    pub index: Option<Index>,
}

/// A read of entries that are on disk and no longer in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadLog {
    /// Names the read in its answer.
    pub token: u64,
    /// The first entry wanted.
    pub from: Index,
    /// The last entry wanted.
    pub to: Index,
    /// Stop after this many bytes of data, but return at least one entry.
    pub bytes_max: usize,
}

/// A follower that is behind the log on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendSnapshot {
    /// The follower.
    pub to: NodeId,
    /// The leader's term, for the offer.
    pub term: Term,
    /// What the follower needs at least: the snapshot must reach this far.
    pub index_min: Index,
}

/// What a follower says to the offer of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Offer {
    /// Send it.
    Wanted,
    /// Everything in it is committed here already.
    Held,
    /// The offer's term is old; this is the current one.
    Stale(Term),
}

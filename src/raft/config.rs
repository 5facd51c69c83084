//! The numbers of the core, and what it starts from.

use crate::raft::message::{Configuration, Entry, HardState, SnapshotMeta};
use crate::types::{Index, NodeId, TICK_MS, Term};

/// The shortest election timeout: 150 ms (`raft-consensus.md`, timing).
pub const ELECTION_TICKS_MIN: u64 = 150 / TICK_MS;

/// The longest election timeout: 300 ms (`raft-consensus.md`, timing).
pub const ELECTION_TICKS_MAX: u64 = 300 / TICK_MS;

/// How often a leader speaks to each follower: every 50 ms (`raft-consensus.md`, timing).
pub const HEARTBEAT_TICKS: u64 = 50 / TICK_MS;

/// How long a leader stays leader without an answer of a majority: 600 ms.
pub const CHECK_QUORUM_TICKS: u64 = 600 / TICK_MS;

/// How long a batch may be on its way to the disk before the disk counts as hung: 3 s.
pub const DISK_HUNG_TICKS: u64 = 3_000 / TICK_MS;

/// How long a peer that was heard counts as alive: 3 s (`raft-consensus.md`, timing).
pub const LIVENESS_TICKS: u64 = 3_000 / TICK_MS;

/// How long a read waits for its confirmation before it is answered with none: 1 s.
pub const READ_TICKS_MAX: u64 = 1_000 / TICK_MS;

/// How long a leader waits after a failed transfer of a snapshot before the next: 1 s.
pub const SNAPSHOT_RETRY_TICKS: u64 = 1_000 / TICK_MS;

/// How long a follower may take to install a snapshot that was sent in full before it is offered
/// again: 30 s.
pub const SNAPSHOT_INSTALL_TICKS: u64 = 30_000 / TICK_MS;

/// How often a healing node asks the others whether they are whole: every 500 ms.
pub const HEALING_POLL_TICKS: u64 = 500 / TICK_MS;

/// How long a healing node waits for its leader's answer before it asks again: 300 ms.
pub const HEALING_ASK_TICKS: u64 = 300 / TICK_MS;

/// How long a healing node may hear neither a leader nor so many whole nodes that they could have one
/// before there is no hope: 60 s.
pub const HEALING_PATIENCE_TICKS: u64 = 60_000 / TICK_MS;

/// How much time one call of `tick` lets pass at most: half the shortest election timeout. A node
/// that itself stood still for longer has heard nobody because it did not listen; the time it
/// missed is no evidence against anyone.
pub const TICK_ELAPSED_MAX: u64 = ELECTION_TICKS_MIN / 2;

/// Reads that wait for their confirmation, at most; one more is answered with none at once.
pub const READS_MAX: usize = 65_536;

/// Rounds of confirmation (or questions to the leader) under way, at most; reads that arrive
/// meanwhile wait and share the next one.
pub const READ_ROUNDS_MAX: usize = 8;

/// Messages that wait for the disk, at most; one more is dropped, as a network may drop it.
pub const HELD_MAX: usize = 256;

/// The largest term and index believed of a peer; what says more is refused. Far beyond what a
/// cluster reaches, and far enough below `u64::MAX` that fences and sums do not overflow.
pub const PEER_NUMBER_MAX: u64 = 1 << 50;

/// The most entries in flight to one follower; then it is sent heartbeats only until it answers.
pub const INFLIGHT_ENTRIES_MAX: usize = 16_384;

/// The most bytes in flight to one follower; one message may exceed it.
pub const INFLIGHT_BYTES_MAX: usize = 16 << 20;

/// The most bytes of entries in one message; a single entry may exceed it.
pub const APPEND_BYTES_MAX: usize = 1 << 20;

/// The most bodies in memory of entries that are committed, applied and durable here
/// (`raft-consensus.md`, log compaction).
pub const WINDOW_ENTRIES_MAX: usize = 1000;

/// What all bodies in memory may weigh before those of applied entries are dropped.
pub const WINDOW_BYTES_MAX: usize = 64 << 20;

/// The most entries accepted by a leader and not yet committed; then it refuses proposals.
pub const UNCOMMITTED_ENTRIES_MAX: usize = 65_536;

/// The most bytes accepted by a leader and not yet committed; then it refuses proposals.
pub const UNCOMMITTED_BYTES_MAX: usize = 64 << 20;

/// The most entries handed out to be applied in one turn; the rest waits for the next, which follows
/// at once. Small, so that no turn is long: what waits meanwhile is looked at in between.
pub const APPLY_ENTRIES_MAX: usize = 256;

/// The most bytes handed out to be applied in one turn; a single entry may exceed it.
pub const APPLY_BYTES_MAX: usize = 128 << 10;

/// The most bytes fetched at once from the log on disk to be applied; a single entry may exceed it.
pub const APPLY_READ_BYTES_MAX: usize = 512 << 10;

/// The most entries in one batch for the disk; the rest waits for the next.
pub const PERSIST_ENTRIES_MAX: usize = 16_384;

/// The most bytes in one batch for the disk; a single entry may exceed it.
pub const PERSIST_BYTES_MAX: usize = 8 << 20;

const _: () = assert!(HEARTBEAT_TICKS * 2 < ELECTION_TICKS_MIN, "one lost heartbeat, no election");
const _: () = assert!(ELECTION_TICKS_MIN < ELECTION_TICKS_MAX, "equal timeouts split every vote");
const _: () = assert!(CHECK_QUORUM_TICKS >= ELECTION_TICKS_MAX, "followers give up first");
const _: () = assert!(DISK_HUNG_TICKS > CHECK_QUORUM_TICKS, "a slow disk is no hung disk");
const _: () = assert!(0 < TICK_ELAPSED_MAX && TICK_ELAPSED_MAX < ELECTION_TICKS_MIN);
const _: () = assert!(APPEND_BYTES_MAX <= INFLIGHT_BYTES_MAX && APPEND_BYTES_MAX <= 4 << 20);
const _: () = assert!(UNCOMMITTED_BYTES_MAX <= WINDOW_BYTES_MAX);

/// The limits and timeouts of one node.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub id: NodeId,
    /// See [`ELECTION_TICKS_MIN`].
    pub election_ticks_min: u64,
    /// See [`ELECTION_TICKS_MAX`].
    pub election_ticks_max: u64,
    /// See [`HEARTBEAT_TICKS`].
    pub heartbeat_ticks: u64,
    /// See [`CHECK_QUORUM_TICKS`].
    pub check_quorum_ticks: u64,
    /// See [`DISK_HUNG_TICKS`].
    pub disk_hung_ticks: u64,
    /// See [`LIVENESS_TICKS`].
    pub liveness_ticks: u64,
    /// See [`APPEND_BYTES_MAX`].
    pub append_bytes_max: usize,
    /// See [`INFLIGHT_ENTRIES_MAX`].
    pub inflight_entries_max: usize,
    /// See [`INFLIGHT_BYTES_MAX`].
    pub inflight_bytes_max: usize,
    /// See [`WINDOW_ENTRIES_MAX`].
    pub window_entries_max: usize,
    /// See [`WINDOW_BYTES_MAX`].
    pub window_bytes_max: usize,
    /// See [`UNCOMMITTED_ENTRIES_MAX`].
    pub uncommitted_entries_max: usize,
    /// See [`UNCOMMITTED_BYTES_MAX`].
    pub uncommitted_bytes_max: usize,
    /// See [`APPLY_ENTRIES_MAX`].
    pub apply_entries_max: usize,
    /// See [`APPLY_BYTES_MAX`].
    pub apply_bytes_max: usize,
    /// See [`APPLY_READ_BYTES_MAX`].
    pub apply_read_bytes_max: usize,
    /// See [`PERSIST_ENTRIES_MAX`].
    pub persist_entries_max: usize,
    /// See [`PERSIST_BYTES_MAX`].
    pub persist_bytes_max: usize,
}

impl Config {
    /// Returns the numbers of a real node.
    #[must_use]
    pub fn new(id: NodeId) -> Self {
        Self {
            id,
            election_ticks_min: ELECTION_TICKS_MIN,
            election_ticks_max: ELECTION_TICKS_MAX,
            heartbeat_ticks: HEARTBEAT_TICKS,
            check_quorum_ticks: CHECK_QUORUM_TICKS,
            disk_hung_ticks: DISK_HUNG_TICKS,
            liveness_ticks: LIVENESS_TICKS,
            append_bytes_max: APPEND_BYTES_MAX,
            inflight_entries_max: INFLIGHT_ENTRIES_MAX,
            inflight_bytes_max: INFLIGHT_BYTES_MAX,
            window_entries_max: WINDOW_ENTRIES_MAX,
            window_bytes_max: WINDOW_BYTES_MAX,
            uncommitted_entries_max: UNCOMMITTED_ENTRIES_MAX,
            uncommitted_bytes_max: UNCOMMITTED_BYTES_MAX,
            apply_entries_max: APPLY_ENTRIES_MAX,
            apply_bytes_max: APPLY_BYTES_MAX,
            apply_read_bytes_max: APPLY_READ_BYTES_MAX,
            persist_entries_max: PERSIST_ENTRIES_MAX,
            persist_bytes_max: PERSIST_BYTES_MAX,
        }
    }
}

/// What storage found at the start.
#[derive(Clone, Debug)]
pub struct Boot {
    /// Term and vote; all zero in a new directory.
    pub hard_state: HardState,
    /// The newest snapshot whose file is durable and whole.
    pub snapshot: Option<SnapshotMeta>,
    /// The configuration of the command line, in force until the log or a snapshot has another.
    pub configuration: Configuration,
    /// The first entry on disk, or the one after the last if there is none.
    pub first_index: Index,
    /// The last entry on disk; `first_index - 1` if there is none.
    pub last_index: Index,
    /// The first index of each run of equal terms on disk, ascending.
    pub runs: Vec<(Index, Term)>,
    /// The last entries, a window full at most.
    pub tail: Vec<Entry>,
    /// Every configuration entry on disk, ascending.
    pub configurations: Vec<(Index, Configuration)>,
    /// The commit index that was persisted as a hint.
    pub commit_index: Index,
    /// What the machine already holds: the snapshot's index, or 0.
    pub applied_index: Index,
    /// Synced data was lost here, and this node is not whole again: it must neither vote nor count.
    pub healing: bool,
}

impl Boot {
    /// Returns what storage finds in a new directory.
    #[must_use]
    pub fn empty(configuration: Configuration) -> Self {
        Self {
            hard_state: HardState::default(),
            snapshot: None,
            configuration,
            first_index: Index(1),
            last_index: Index(0),
            runs: Vec::new(),
            tail: Vec::new(),
            configurations: Vec::new(),
            commit_index: Index(0),
            applied_index: Index(0),
            healing: false,
        }
    }
}

//! What the core tells about itself, and the ways it says no.

use crate::types::{Index, NodeId, Term};

/// What a node is in its term (Raft paper, Figure 4; the pre-candidate: Ongaro thesis §9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Takes entries from a leader.
    Follower,
    /// Asks whether an election could be won, before it makes one.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Makes entries.
    Leader,
}

/// How a leader feeds a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// One question at a time, until it is known where the logs agree.
    Probe,
    /// A stream of entries.
    Replicate,
    /// It needs a snapshot.
    Snapshot,
}

/// One other voter, as this node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Who.
    pub id: NodeId,
    /// How it is fed; means something on a leader only.
    pub state: PeerState,
    /// The last entry known to be durable there; means something on a leader only.
    pub match_index: Index,
    /// The next entry to send it; means something on a leader only.
    pub next_index: Index,
    /// Heard within the liveness window: a leader hears everyone, a follower its leader only.
    pub is_alive: bool,
    /// How long ago it was heard; `None`: never.
    pub ticks_since_heard: Option<u64>,
    /// It has lost synced data and is not whole again; a leader knows it of those that answer.
    pub is_healing: bool,
}

/// How far a node is that heals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealingStatus {
    /// The other voters.
    pub others: usize,
    /// How many of them are whole and have answered lately.
    pub whole: usize,
    /// How many of them it takes.
    pub needed: usize,
    /// What it must hold to be whole again, once its leader has said so.
    pub goal: Option<Index>,
    /// For a minute there was neither a leader nor enough whole nodes.
    pub is_hopeless: bool,
}

/// One node at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// This node.
    pub id: NodeId,
    /// What it is.
    pub role: Role,
    /// The latest term it has seen.
    pub term: Term,
    /// Whom it voted for in that term.
    pub vote: Option<NodeId>,
    /// Who leads in that term, as far as known; itself if it does.
    pub leader: Option<NodeId>,
    /// The last entry known to be committed.
    pub commit_index: Index,
    /// The last entry handed out to be applied.
    pub applied_index: Index,
    /// The last entry that is durable here.
    pub durable_index: Index,
    /// The last entry.
    pub last_index: Index,
    /// The first entry on disk.
    pub first_index: Index,
    /// The first entry whose body is in memory.
    pub window_first_index: Index,
    /// How many bodies are in memory.
    pub window_entries: usize,
    /// What they weigh.
    pub window_bytes: usize,
    /// The last entry of the newest durable snapshot; 0 if there is none.
    pub snapshot_index: Index,
    /// Entries that this leader accepted and that are not committed.
    pub uncommitted_entries: usize,
    /// What they weigh.
    pub uncommitted_bytes: usize,
    /// Whom leadership is being handed to.
    pub transferring: Option<NodeId>,
    /// An entry of this leader's own term is committed: it may answer reads.
    pub own_term_committed: bool,
    /// Messages that made no sense and were ignored, since the start.
    pub refused_messages: u64,
    /// How far it is if it heals; `None`: it is whole.
    pub healing: Option<HealingStatus>,
    /// The other voters, in the order of their ids.
    pub peers: Vec<PeerStatus>,
}

/// Why a proposal was not taken. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Another node leads, or none.
    #[error("not the leader")]
    NotLeader,
    /// So much is accepted and uncommitted that more would only wait.
    #[error("too much is waiting to be committed")]
    Overfull,
    /// Leadership is being handed over.
    #[error("leadership is being handed over")]
    Transferring,
}

/// Why a transfer of leadership was not begun. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// Another node leads, or none.
    #[error("not the leader")]
    NotLeader,
    /// Another transfer is under way.
    #[error("leadership is being handed to another node already")]
    Transferring,
    /// The target is no other voter, or none was named and none is alive.
    #[error("no voter to hand leadership to")]
    NoTarget,
}

/// The log on disk does not go back that far any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogGone {
    /// Its first entry.
    pub first_index: Index,
}

/// The transfer of a snapshot failed; it is begun again after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendError;

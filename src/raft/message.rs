//! What Raft nodes say to each other, and the few things they keep: entries, votes, configurations.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::types::{ClusterId, DirId, Index, NodeId, Term};

/// What an entry is for. `raft/` reads the first two kinds and never looks into the third.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EntryKind {
    /// Empty: the first entry of a leader's term (Raft paper §8).
    Noop,
    /// A [`Configuration`], in force from the moment it is appended.
    Configuration,
    /// Bytes of the state machine.
    Command,
}

/// One entry of the replicated log. Its data is encoded once, where it was proposed; log, wire and
/// apply share those bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Its position, 1 or more.
    pub index: Index,
    /// The term of the leader that made it.
    pub term: Term,
    /// What `data` is.
    pub kind: EntryKind,
    /// Empty for a no-op; MessagePack otherwise.
    pub data: Bytes,
}

/// What a node counts an entry to weigh beside its data, in bytes, in every limit on bytes.
pub const ENTRY_OVERHEAD_BYTES: usize = 32;

impl Entry {
    /// Returns what the entry counts in a limit on bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.data.len() + ENTRY_OVERHEAD_BYTES
    }
}

/// One voter of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Voter {
    /// Its id.
    pub id: NodeId,
    /// Where its peers and clients reach it, `HOST:PORT`.
    pub addr: String,
    /// Its data directory; `None` until the first leader has heard from it. From then on a voter
    /// with another directory is refused: it has forgotten its votes.
    pub dir: Option<DirId>,
}

/// Who is in the cluster: a log entry and part of every snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// Unknown (all zero) until the first leader has drawn it.
    pub cluster: ClusterId,
    /// The voters, in ascending order of id, each id once; 1 to 7 of them.
    pub voters: Vec<Voter>,
}

/// What must be durable before any message that speaks of it (Raft paper, Figure 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardState {
    /// The latest term this node has seen.
    pub term: Term,
    /// Whom it voted for in that term.
    pub vote: Option<NodeId>,
}

/// What a snapshot stands for: everything up to and including an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotMeta {
    /// Index of the last entry it covers.
    pub index: Index,
    /// Term of that entry.
    pub term: Term,
    /// The configuration in force at that entry: a committed one, never a later one.
    pub configuration: Configuration,
}

/// A message between two nodes. `term` is always the sender's, but for [`Message::PreVote`], whose
/// term is the one the sender would campaign in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Would you vote for me? No side effect on the one asked (Ongaro thesis §9.6).
    PreVote {
        /// The term the sender would campaign in: its own + 1.
        term: Term,
        /// The sender's last entry.
        last_index: Index,
        /// Its term.
        last_term: Term,
    },
    /// Answers [`Message::PreVote`]; never mistaken for a real vote.
    PreVoteReply {
        /// The pre-vote's term when granted, else the voter's own.
        term: Term,
        /// Whether the voter would.
        granted: bool,
    },
    /// `RequestVote` (Raft paper §5.2).
    Vote {
        /// The candidate's term.
        term: Term,
        /// The candidate's last entry.
        last_index: Index,
        /// Its term.
        last_term: Term,
        /// The old leader asked for this election ([`Message::TimeoutNow`]): a voter that hears a
        /// live leader grants it all the same.
        transfer: bool,
    },
    /// Answers [`Message::Vote`].
    VoteReply {
        /// The voter's term, after handling the request.
        term: Term,
        /// Whether it voted for the candidate.
        granted: bool,
    },
    /// `AppendEntries`; without entries a heartbeat or a probe (Raft paper §5.3).
    AppendEntries {
        /// The leader's term.
        term: Term,
        /// The entry just before `entries`.
        prev_index: Index,
        /// Its term.
        prev_term: Term,
        /// Entries that follow `prev_index` without a gap.
        entries: Vec<Entry>,
        /// The leader's commit index.
        commit_index: Index,
        /// The leader's replication session with this follower; echoed, so that an answer to a
        /// former session does nothing.
        session: u64,
        /// The leader's newest round of leadership confirmation, rising in its term; echoed.
        round: u64,
    },
    /// Answers [`Message::AppendEntries`], once what it claims is durable.
    AppendReply {
        /// The follower's term.
        term: Term,
        /// What became of the entries.
        outcome: AppendOutcome,
        /// From the request.
        session: u64,
        /// From the request.
        round: u64,
        /// The follower has lost synced data and is not whole again: what it holds is true, and must not be
        /// counted. The number is that of its process's question: another one has begun anew.
        healing: Option<u64>,
    },
    /// Offers a snapshot; its chunks travel on a lane of their own (Raft paper §7).
    InstallSnapshot {
        /// The leader's term.
        term: Term,
        /// What is offered.
        meta: SnapshotMeta,
    },
    /// Hands leadership over: campaign at once, without a pre-vote (Ongaro thesis §3.10).
    TimeoutNow {
        /// The leader's term.
        term: Term,
    },
    /// A follower asks its leader for a read index (Ongaro thesis §6.4), or, if it is healing, for the
    /// index of an entry that is made and committed after the question.
    ReadIndex {
        /// The follower's term.
        term: Term,
        /// The follower's name for its question; the leader echoes it and reads nothing into it.
        token: u64,
        /// The follower is healing.
        healing: bool,
    },
    /// Answers [`Message::ReadIndex`].
    ReadIndexReply {
        /// The leader's term.
        term: Term,
        /// From the question.
        token: u64,
        /// The commit index confirmed after the question arrived; `None`: not the leader (any more).
        index: Option<Index>,
    },
}

/// What became of an `AppendEntries`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AppendOutcome {
    /// Everything up to `match_index` is durable here and the same as the leader's.
    Accepted {
        /// The last entry that this message verified, and that is durable.
        match_index: Index,
    },
    /// The entry at `prev_index` is missing here, or of another term.
    Rejected {
        /// `prev_index` of the request, so that an old rejection is told from a new one.
        prev_index: Index,
        /// The largest index at which the follower's log could still match: its last index, or the
        /// last entry before the run of the conflicting term.
        hint_index: Index,
        /// The follower's term at `hint_index`.
        hint_term: Term,
    },
}

impl Message {
    /// Returns the term the message carries.
    #[must_use]
    pub fn term(&self) -> Term {
        match self {
            Self::PreVote { term, .. }
            | Self::PreVoteReply { term, .. }
            | Self::Vote { term, .. }
            | Self::VoteReply { term, .. }
            | Self::AppendEntries { term, .. }
            | Self::AppendReply { term, .. }
            | Self::InstallSnapshot { term, .. }
            | Self::TimeoutNow { term }
            | Self::ReadIndex { term, .. }
            | Self::ReadIndexReply { term, .. } => *term,
        }
    }
}

//! One other voter, as a leader feeds it: probe, replicate or snapshot.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};

use crate::raft::status::{PeerState, PeerStatus};
use crate::types::{Index, NodeId};

/// How a follower is fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Feed {
    /// Where its log agrees is not known: one empty question at a time.
    Probe {
        /// The question is asked; only a heartbeat asks it again.
        asked: bool,
    },
    /// Entries are sent as they come, ahead of its answers.
    Replicate,
    /// Its next entry is no longer in the log.
    Snapshot(Transfer),
}

/// How far the transfer of a snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Transfer {
    /// To be asked for in this turn's effects.
    Due,
    /// Under way.
    Running,
    /// All of it arrived; the follower has yet to say that it is installed.
    Sent {
        /// The snapshot's last entry.
        index: Index,
        /// When it ended.
        since: u64,
    },
    /// It failed; the next begins at `until`.
    Paused {
        /// A point in time.
        until: u64,
    },
}

/// A read of the log on disk on behalf of a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DiskRead {
    /// Names it in its answer.
    pub(super) token: u64,
    /// The first entry asked for.
    pub(super) from: Index,
}

/// One other voter.
///
/// - `match_index < next_index <= last_index + 1`, always.
/// - What is in flight is what was sent in this session and not yet answered.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) id: NodeId,
    /// When it was last heard; `None`: never since the start.
    pub(super) heard: Option<u64>,
    /// When it last answered this leader, or this leader's election if it never did.
    pub(super) contact: u64,
    pub(super) feed: Feed,
    pub(super) match_index: Index,
    pub(super) next_index: Index,
    /// The replication session: a new one begins with each probe and each stream, so that answers
    /// to what was sent before do nothing.
    pub(super) session: u64,
    /// Last index and bytes of each message in flight, oldest first.
    inflight: VecDeque<(Index, usize)>,
    inflight_bytes: usize,
    /// The highest commit index that was sent where the follower could use it.
    pub(super) sent_commit: Index,
    /// The newest round that was sent, and the newest that was answered.
    pub(super) sent_round: u64,
    pub(super) acked_round: u64,
    /// A heartbeat is due.
    pub(super) heartbeat: bool,
    pub(super) read: Option<DiskRead>,
    /// It has lost synced data and is not whole again: it is fed, and not counted. The number is that of
    /// its process.
    pub(super) healing: Option<u64>,
}

impl Peer {
    /// Makes a peer of which nothing is known.
    pub(super) fn new(id: NodeId) -> Self {
        Self {
            id,
            heard: None,
            contact: 0,
            feed: Feed::Probe { asked: false },
            match_index: Index(0),
            next_index: Index(1),
            session: 0,
            inflight: VecDeque::new(),
            inflight_bytes: 0,
            sent_commit: Index(0),
            sent_round: 0,
            acked_round: 0,
            heartbeat: false,
            read: None,
            healing: None,
        }
    }

    /// Forgets what a former term knew; a new leader probes from the end of its own log.
    pub(super) fn begin_term(&mut self, now: u64, next_index: Index, session: u64) {
        *self = Self { heard: self.heard, contact: now, ..Self::new(self.id) };
        self.probe(next_index, session);
    }

    /// Forgets all it said in this term: it has lost that.
    pub(super) fn begin_healing(&mut self, healing: Option<u64>, next_index: Index, session: u64) {
        *self = Self { heard: self.heard, contact: self.contact, healing, ..Self::new(self.id) };
        self.probe(next_index, session);
    }

    /// Returns what a majority may be made up of: nothing of a node that is healing.
    pub(super) fn counted(&self, reached: u64) -> u64 {
        if self.healing.is_some() { 0 } else { reached }
    }

    /// Begins a session that asks where the logs agree, at `next_index` or after `match_index`,
    /// whichever is later.
    pub(super) fn probe(&mut self, next_index: Index, session: u64) {
        self.begin_session(Feed::Probe { asked: false }, session);
        self.next_index = next_index.max(self.match_index.next());
    }

    /// Forgets what only a leader knows of it: how it is now, whoever leads next is told.
    pub(super) fn forget(&mut self) {
        self.healing = None;
        self.match_index = Index(0);
        self.probe(Index(1), self.session);
    }

    /// Begins a session that waits for a snapshot to arrive there.
    pub(super) fn await_snapshot(&mut self, session: u64) {
        self.begin_session(Feed::Snapshot(Transfer::Due), session);
    }

    /// Begins a session that sends entries, from `next_index` on: the one before it agrees, as the
    /// answer to the probe said, even if it is not durable there yet.
    pub(super) fn stream(&mut self, session: u64) {
        self.begin_session(Feed::Replicate, session);
    }

    /// Begins a session that sends entries, from `match_index` on, which is known to agree.
    pub(super) fn stream_after_match(&mut self, session: u64) {
        self.begin_session(Feed::Replicate, session);
        self.next_index = self.match_index.next();
    }

    fn begin_session(&mut self, feed: Feed, session: u64) {
        self.feed = feed;
        self.session = session;
        self.inflight.clear();
        self.inflight_bytes = 0;
        self.sent_commit = Index(0);
        self.read = None;
    }

    /// Notes a message with entries up to `last_index`, which weigh `bytes`.
    pub(super) fn sent(&mut self, last_index: Index, bytes: usize) {
        self.inflight.push_back((last_index, bytes));
        self.inflight_bytes += bytes;
        self.next_index = last_index.next();
    }

    /// Notes that everything up to `match_index` is durable there.
    pub(super) fn accepted(&mut self, match_index: Index) {
        self.match_index = self.match_index.max(match_index);
        self.next_index = self.next_index.max(self.match_index.next());
        while let Some((last_index, bytes)) = self.inflight.front().copied() {
            if last_index > self.match_index {
                break;
            }
            self.inflight.pop_front();
            self.inflight_bytes -= bytes;
        }
    }

    /// Tells whether as much is in flight as may be.
    pub(super) fn is_throttled(&self, entries_max: usize, bytes_max: usize) -> bool {
        let entries = self.next_index.0 - 1 - self.match_index.0;
        !self.inflight.is_empty()
            && (entries >= entries_max as u64 || self.inflight_bytes >= bytes_max)
    }

    /// Returns what others may know.
    pub(super) fn status(&self, now: u64, liveness_ticks: u64) -> PeerStatus {
        let ticks_since_heard = self.heard.map(|heard| now - heard);
        PeerStatus {
            id: self.id,
            state: match self.feed {
                Feed::Probe { .. } => PeerState::Probe,
                Feed::Replicate => PeerState::Replicate,
                Feed::Snapshot(_) => PeerState::Snapshot,
            },
            match_index: self.match_index,
            next_index: self.next_index,
            is_alive: ticks_since_heard.is_some_and(|ticks| ticks <= liveness_ticks),
            ticks_since_heard,
            is_healing: self.healing.is_some(),
        }
    }

    /// Hashes a peer's part of a leader's essence, under another name of its session. What is in
    /// flight counts only against bounds that no checker reaches.
    pub(super) fn hash_essence<H: Hasher>(&self, session: u64, into: &mut H) {
        let Self {
            id: _,
            heard: _,
            contact: _,
            feed,
            match_index,
            next_index,
            session: _,
            inflight: _,
            inflight_bytes: _,
            sent_commit,
            sent_round,
            acked_round,
            heartbeat,
            healing,
            read,
        } = self;
        (feed, match_index, next_index, session).hash(into);
        (sent_commit, sent_round, acked_round, heartbeat, healing).hash(into);
        read.map(|DiskRead { token, from }| (token, from)).hash(into);
    }

    /// Checks what is cheap to check.
    ///
    /// # Panics
    /// If the peer contradicts itself or the log.
    pub(super) fn assert_invariants(&self, last_index: Index) {
        assert!(self.next_index > self.match_index, "next not after match: {self:?}");
        assert!(self.next_index <= last_index.next(), "next beyond the log: {self:?}");
        let newest = self.inflight.back().map_or(Index(0), |(last, _)| *last);
        assert!(newest < self.next_index, "in flight, but not sent: {self:?}");
        assert!(
            self.inflight.is_empty() == (self.inflight_bytes == 0),
            "bytes in flight without messages, or the reverse: {self:?}"
        );
    }
}

//! A leader: feeds its followers, counts what they hold, and commits.

use std::hash::{Hash, Hasher};
use std::mem;

use bytes::Bytes;

use crate::planted::{Bug, is_planted};
use crate::raft::config::{SNAPSHOT_INSTALL_TICKS, SNAPSHOT_RETRY_TICKS};
use crate::raft::core::{LogGone, ProposeError, Raft, Role, SendError};
use crate::raft::effects::{ReadLog, SendSnapshot};
use crate::raft::essence::Names;
use crate::raft::healing::{Witness, hash_witnesses};
use crate::raft::message::{
    AppendOutcome, ENTRY_OVERHEAD_BYTES, Entry, EntryKind, Message, SnapshotMeta,
};
use crate::raft::peer::{DiskRead, Feed, Peer, Transfer};
use crate::raft::quorum::reached_by_majority;
use crate::raft::transfer::Handover;
use crate::types::{Index, NodeId, Term};

/// What only a leader knows, all of it of its own term.
#[derive(Clone, Debug, Default)]
pub(super) struct Leading {
    /// The no-op that opened the term.
    pub(super) first_index: Index,
    /// The newest round of confirmation; every message carries it.
    pub(super) round: u64,
    heartbeat_due: u64,
    /// Up to here followers are told at once what is committed; beyond, with the next entries, or after a tick.
    news: Index,
    /// What the uncommitted proposals of this term weigh.
    pub(super) uncommitted_bytes: usize,
    pub(super) transfer: Option<Handover>,
    /// Questions of healing nodes, at most one of each peer.
    pub(super) witnesses: Vec<Witness>,
}

/// The fields of [`Message::AppendReply`].
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) term: Term,
    pub(super) outcome: AppendOutcome,
    pub(super) session: u64,
    pub(super) round: u64,
    pub(super) healing: Option<u64>,
}

impl Leading {
    /// Hashes the leader's part of a node's essence.
    pub(super) fn hash_essence<H: Hasher>(&self, names: &impl Names, into: &mut H) {
        // The proposals' bytes follow from the log.
        let Self {
            first_index,
            round,
            heartbeat_due: _,
            news,
            uncommitted_bytes: _,
            transfer,
            witnesses,
        } = self;
        (first_index, round, news).hash(into);
        let told =
            |Handover { to, deadline: _, told }: &Handover| (names.node(*to), told.is_some());
        transfer.as_ref().map(told).hash(into);
        hash_witnesses(witnesses, names, into);
    }
}

impl Raft {
    /// Begins a term as leader: every follower is asked where it agrees, and the term's first entry
    /// is appended, without which nothing of former terms could be called committed (Raft paper
    /// §5.4.2, §8).
    pub(super) fn begin_leading(&mut self) {
        let next_index = self.log.last_index().next();
        self.leading = Leading {
            first_index: next_index,
            heartbeat_due: self.now + self.config.heartbeat_ticks,
            ..Leading::default()
        };
        let session = self.number();
        for peer in &mut self.peers {
            peer.begin_term(self.now, next_index, session);
        }
        let term = self.hard.term;
        self.append(Entry { index: next_index, term, kind: EntryKind::Noop, data: Bytes::new() });
    }

    /// Ends what only a leader does. Entries stay in the log: the next leader may commit them.
    pub(super) fn stop_leading(&mut self) {
        for peer in &mut self.peers {
            if matches!(peer.feed, Feed::Snapshot(Transfer::Running)) {
                self.out.abort_snapshots.push(peer.id);
            }
            peer.forget();
        }
        self.leading = Leading::default();
    }

    /// Lets time pass for a leader.
    pub(super) fn tick_leader(&mut self) {
        if self.is_disk_hung() || !self.is_in_touch() {
            self.become_follower(self.hard.term, None);
            return;
        }
        self.tick_transfer();
        self.announce_commit();
        for peer in &mut self.peers {
            let is_due = match peer.feed {
                Feed::Snapshot(Transfer::Paused { until }) => self.now >= until,
                Feed::Snapshot(Transfer::Sent { since, .. }) => {
                    self.now >= since + SNAPSHOT_INSTALL_TICKS
                }
                Feed::Snapshot(Transfer::Due | Transfer::Running)
                | Feed::Probe { .. }
                | Feed::Replicate => false,
            };
            if is_due {
                peer.feed = Feed::Snapshot(Transfer::Due);
            }
        }
        if self.now >= self.leading.heartbeat_due {
            self.leading.heartbeat_due = self.now + self.config.heartbeat_ticks;
            self.peers.iter_mut().for_each(|peer| peer.heartbeat = true);
        }
    }

    /// Has followers told at once, in a message of its own if need be, what is committed by now: somebody there may
    /// wait for it. Without this they hear of it with the next entries, or within a tick.
    pub fn announce_commit(&mut self) {
        self.leading.news = self.commit_index;
    }

    /// Tells whether a majority has answered lately. Without one this leader could not commit, and
    /// another may lead already.
    fn is_in_touch(&self) -> bool {
        let contacts = self.peers.iter().map(|peer| peer.counted(peer.contact));
        let since = reached_by_majority(contacts.chain([self.now]));
        self.now - since <= self.config.check_quorum_ticks
    }

    /// Tells whether a proposal would be taken.
    pub(super) fn may_propose(&self, data: &[Bytes]) -> Result<(), ProposeError> {
        if self.role != Role::Leader {
            return Err(ProposeError::NotLeader);
        }
        if self.leading.transfer.is_some() {
            return Err(ProposeError::Transferring);
        }
        let more: usize = data.iter().map(|data| data.len() + ENTRY_OVERHEAD_BYTES).sum();
        let bytes = self.leading.uncommitted_bytes + more;
        let entries = self.uncommitted_entries() + data.len();
        let is_over = entries > self.config.uncommitted_entries_max
            || bytes > self.config.uncommitted_bytes_max;
        // Alone, even one above the bound is taken: it would be refused for ever otherwise.
        if is_over && self.uncommitted_entries() > 0 {
            return Err(ProposeError::Overfull);
        }
        Ok(())
    }

    /// Appends an entry of this leader's term.
    pub(super) fn append_own(&mut self, kind: EntryKind, data: Bytes) {
        let index = self.log.last_index().next();
        let entry = Entry { index, term: self.hard.term, kind, data };
        self.leading.uncommitted_bytes += entry.weight();
        self.append(entry);
    }

    /// Returns how many proposals of this term are not committed.
    pub(super) fn uncommitted_entries(&self) -> usize {
        if self.role != Role::Leader {
            return 0;
        }
        let counted = self.commit_index.max(self.leading.first_index);
        let count = self.log.last_index().0.saturating_sub(counted.0);
        usize::try_from(count).unwrap_or(usize::MAX)
    }

    /// Accounts for entries that become committed, before the commit index moves.
    pub(super) fn note_committed(&mut self, index: Index) {
        if self.role != Role::Leader {
            return;
        }
        let next = self.commit_index.max(self.leading.first_index).next();
        if next <= index {
            assert!(next >= self.log.window_first(), "what is not committed is in memory");
            self.leading.uncommitted_bytes -= self.log.weigh(next, index);
        }
    }

    /// Commits what a majority holds durably, this node counting only as far as its own disk is.
    /// Entries of former terms are never committed by count, only along with one of this term
    /// (Raft paper §5.4.2, Figure 8).
    pub(super) fn advance_commit(&mut self) {
        let matches = self.peers.iter().map(|peer| peer.counted(peer.match_index.0));
        let reached = Index(reached_by_majority(matches.chain([self.disk.durable_index().0])));
        let is_own = self.log.term_at(reached) == Some(self.hard.term);
        if reached > self.commit_index && (is_own || is_planted(Bug::OldTermCommit)) {
            self.commit_to(reached);
        }
    }

    /// Sends each follower what it is due, at most one message without entries among it.
    pub(super) fn replicate(&mut self) {
        let mut peers = mem::take(&mut self.peers);
        for peer in &mut peers {
            self.feed(peer);
        }
        self.peers = peers;
        self.drive_transfer();
    }

    fn feed(&mut self, peer: &mut Peer) {
        let is_fed_by_log = !matches!(peer.feed, Feed::Snapshot(_));
        if is_fed_by_log && self.log.term_at(peer.next_index.prev()).is_none() {
            // The entry before is gone here: no message could be built that the follower can check.
            let session = self.number();
            peer.await_snapshot(session);
        }
        let is_asking = match peer.feed {
            Feed::Probe { asked } => !asked,
            Feed::Replicate => {
                self.stream(peer);
                // It has all entries, but does not know yet that they are committed.
                peer.next_index > self.log.last_index() && peer.sent_commit < self.leading.news
            }
            Feed::Snapshot(Transfer::Due) => {
                let index_min = self.log.first_index().prev();
                let (to, term) = (peer.id, self.hard.term);
                self.out.send_snapshot.push(SendSnapshot { to, term, index_min });
                peer.feed = Feed::Snapshot(Transfer::Running);
                false
            }
            Feed::Snapshot(Transfer::Running | Transfer::Sent { .. } | Transfer::Paused { .. }) => {
                false
            }
        };
        if is_asking || peer.heartbeat || peer.sent_round < self.leading.round {
            self.send_append(peer, Vec::new());
        }
    }

    /// Sends the entries that the follower has room for, from memory as they are, from the disk by
    /// way of a read.
    fn stream(&mut self, peer: &mut Peer) {
        let (entries_max, bytes_max) =
            (self.config.inflight_entries_max, self.config.inflight_bytes_max);
        let last_index = self.log.last_index();
        let append_bytes_max = self.config.append_bytes_max;
        while peer.next_index <= last_index
            && peer.read.is_none()
            && !peer.is_throttled(entries_max, bytes_max)
        {
            match self.log.slice(peer.next_index, last_index, append_bytes_max) {
                Some(entries) => self.send_append(peer, entries),
                None => self.read_for(peer),
            }
        }
    }

    fn read_for(&mut self, peer: &mut Peer) {
        let (token, from) = (self.number(), peer.next_index);
        let to = self.log.window_first().prev();
        peer.read = Some(DiskRead { token, from });
        let bytes_max = self.config.append_bytes_max;
        self.out.read_log.push(ReadLog { token, from, to, bytes_max });
    }

    /// Sends entries that follow `next_index - 1`, or none: then it is a heartbeat, a probe, or news
    /// of the commit index. A follower that waits for a snapshot is sent heartbeats that ask about
    /// index 0, where all logs agree; it answers with what it has committed.
    fn send_append(&mut self, peer: &mut Peer, entries: Vec<Entry>) {
        let prev_index = match peer.feed {
            Feed::Probe { .. } => {
                peer.feed = Feed::Probe { asked: true };
                peer.next_index.prev()
            }
            Feed::Replicate => peer.next_index.prev(),
            Feed::Snapshot(_) => Index(0),
        };
        let prev_term = if prev_index == Index(0) {
            Term(0)
        } else {
            self.log.term_at(prev_index).expect("a follower whose next entry is gone has no stream")
        };
        if let Some(last) = entries.last() {
            peer.sent(last.index, entries.iter().map(Entry::weight).sum());
        }
        peer.heartbeat = false;
        peer.sent_commit = self.commit_index;
        peer.sent_round = self.leading.round;
        let message = Message::AppendEntries {
            term: self.hard.term,
            prev_index,
            prev_term,
            entries,
            commit_index: self.commit_index,
            session: peer.session,
            round: self.leading.round,
        };
        self.out.send.push((peer.id, message));
    }

    /// Handles the answer to an `AppendEntries`.
    pub(super) fn on_append_reply(&mut self, from: NodeId, reply: Reply) {
        let Reply { term, outcome, session, round, healing } = reply;
        if term > self.hard.term {
            self.become_follower(term, None);
            return;
        }
        if term < self.hard.term || self.role != Role::Leader {
            return;
        }
        let (now, newest_round) = (self.now, self.leading.round);
        let Some(peer) = self.peer_mut(from) else { return };
        peer.heard = Some(now);
        peer.contact = now;
        if session != peer.session {
            // An answer to a former session: what it says may be long untrue.
            return;
        }
        if healing.is_some() && healing != peer.healing {
            self.on_damaged(from, healing);
            return;
        }
        peer.healing = healing;
        if round > newest_round {
            self.refuse();
            return;
        }
        if healing.is_none() {
            peer.acked_round = peer.acked_round.max(round);
        }
        match outcome {
            AppendOutcome::Accepted { match_index } => self.on_accepted(from, match_index),
            AppendOutcome::Rejected { prev_index, hint_index, hint_term } => {
                self.on_rejected(from, prev_index, hint_index, hint_term);
            }
        }
        self.confirm_reads();
    }

    /// Notes that a follower has lost what it said was durable. What is in flight, and what it answered
    /// before, belongs to a former session from now on; it is asked anew, from the start.
    fn on_damaged(&mut self, from: NodeId, healing: Option<u64>) {
        let (session, next_index) = (self.number(), self.log.last_index().next());
        let Some(peer) = self.peer_mut(from) else { return };
        let was_sending = peer.feed == Feed::Snapshot(Transfer::Running);
        peer.begin_healing(healing, next_index, session);
        if was_sending {
            self.out.abort_snapshots.push(from);
        }
    }

    fn on_accepted(&mut self, from: NodeId, match_index: Index) {
        if match_index > self.log.last_index() {
            self.refuse();
            return;
        }
        let session = self.number();
        let first_index = self.log.first_index();
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.id == from) else { return };
        let is_news = match_index > peer.match_index;
        peer.accepted(match_index);
        match peer.feed {
            Feed::Replicate => {}
            Feed::Probe { .. } => peer.stream(session),
            Feed::Snapshot(transfer) => {
                // The log goes back to what it holds: it needs no snapshot, or none any more.
                if self.log.term_at(peer.match_index).is_some() {
                    if transfer == Transfer::Running {
                        self.out.abort_snapshots.push(from);
                    }
                    peer.stream_after_match(session);
                } else if let Transfer::Sent { index, .. } = transfer
                    && peer.match_index >= index
                {
                    // The log was released beyond it while it travelled.
                    assert!(first_index > index, "a released log that holds the next entry");
                    peer.feed = Feed::Snapshot(Transfer::Due);
                }
            }
        }
        if is_news {
            self.advance_commit();
        }
    }

    /// Goes back to where the follower's log could agree (Raft paper §5.3, fast backtracking). The
    /// session tells rejections of what was sent before from this one.
    fn on_rejected(&mut self, from: NodeId, prev_index: Index, hint_index: Index, hint_term: Term) {
        let session = self.number();
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.id == from) else { return };
        let is_expected = match peer.feed {
            Feed::Probe { .. } => prev_index == peer.next_index.prev(),
            Feed::Replicate => prev_index < peer.next_index,
            Feed::Snapshot(_) => false,
        };
        if !is_expected {
            return;
        }
        if prev_index <= peer.match_index {
            // Overtaken by a later answer. Or else it has lost what it said was durable and does not know:
            // then it must come back as one that heals, for its votes are lost too, and is not fed before.
            return;
        }
        let hint_index = hint_index.min(prev_index.prev());
        match self.log.last_at_most(hint_index, hint_term) {
            Some((agreed, _)) => peer.probe(agreed.next(), session),
            None => peer.await_snapshot(session),
        }
    }

    /// Takes the answer to one of [`crate::raft::effects::Effects::read_log`]. An answer that no
    /// longer fits, because the log or the follower moved on, does nothing.
    ///
    /// # Panics
    /// If storage has released entries that no durable snapshot covers.
    pub fn log_read(&mut self, token: u64, result: Result<Vec<Entry>, LogGone>) {
        let is_to_apply = self.applying.read == Some(token);
        if is_to_apply {
            let gone = "entries left the disk before they were applied";
            self.loaded_to_apply(result.unwrap_or_else(|LogGone { first_index }| {
                panic!("{gone}: applied {}, on disk from {first_index}", self.applied_index)
            }));
            return;
        }
        let mut peers = mem::take(&mut self.peers);
        let is_asker = |peer: &Peer| peer.read.is_some_and(|read| read.token == token);
        if let Some(peer) = peers.iter_mut().find(|peer| is_asker(peer))
            && let Some(read) = peer.read.take()
        {
            match result {
                // The follower may have said meanwhile that it has them.
                Ok(entries)
                    if read.from == peer.next_index && self.are_current(&entries, read.from) =>
                {
                    self.send_append(peer, entries);
                }
                Ok(_) => {}
                Err(LogGone { first_index }) => {
                    self.log_released(first_index.max(read.from.next()));
                }
            }
        }
        self.peers = peers;
    }

    /// Notes that storage has dropped the entries below `first_index`.
    ///
    /// # Panics
    /// If no durable snapshot covers them.
    pub fn log_released(&mut self, first_index: Index) {
        let reach = self.snapshot_index;
        assert!(first_index <= reach.next(), "released to {first_index}, snapshot to {reach}");
        if first_index > self.log.first_index() {
            self.log.release(first_index);
            self.configurations.release(first_index);
        }
    }

    /// Notes that a snapshot made here is durable. One that was overtaken by an installed one does
    /// nothing.
    ///
    /// # Panics
    /// If it holds what was not applied here.
    pub fn snapshot_written(&mut self, meta: &SnapshotMeta) {
        assert!(meta.index <= self.applied_index, "a snapshot of what is not applied");
        self.snapshot_index = self.snapshot_index.max(meta.index);
    }

    /// Notes how the transfer of a snapshot ended: with the snapshot's index once the follower has
    /// all of it, or with a failure, after which it begins again.
    pub fn snapshot_sent(&mut self, to: NodeId, outcome: Result<Index, SendError>) {
        let now = self.now;
        let Some(peer) = self.peer_mut(to) else { return };
        if peer.feed != Feed::Snapshot(Transfer::Running) {
            return;
        }
        peer.feed = Feed::Snapshot(match outcome {
            Ok(index) => Transfer::Sent { index, since: now },
            Err(SendError) => Transfer::Paused { until: now + SNAPSHOT_RETRY_TICKS },
        });
    }

    /// Notes that the link to a peer broke: what was in flight may be lost, so that the follower is
    /// asked anew. A snapshot travels on a lane of its own and is left alone.
    pub fn peer_lost(&mut self, id: NodeId) {
        let session = self.number();
        let is_leader = self.role == Role::Leader;
        let Some(peer) = self.peer_mut(id) else { return };
        if is_leader && !matches!(peer.feed, Feed::Snapshot(_)) {
            // From where the stream stood: what did arrive need not be sent again, and a rejection
            // says how much did not.
            peer.probe(peer.next_index, session);
        }
    }
}

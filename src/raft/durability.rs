//! What is durable here, what is on its way to the disk, and what must not be said before.

use std::hash::{Hash, Hasher};

use crate::planted::{Bug, is_planted};
use crate::raft::config::HELD_MAX;
use crate::raft::core::{Raft, Role};
use crate::raft::effects::{Offer, Persist};
use crate::raft::essence::{Names, hash_hard_state, hash_meta};
use crate::raft::message::{HardState, Message, SnapshotMeta};
use crate::types::{Index, NodeId};

/// What waits until term and vote are durable.
#[derive(Clone, Debug)]
pub(super) enum Held {
    /// A message.
    Message(NodeId, Message),
    /// An answer to the offer of a snapshot.
    Offer(NodeId, Index, Offer),
}

/// The batch on its way to the disk.
#[derive(Clone, Debug)]
struct Outstanding {
    seq: u64,
    hard: Option<HardState>,
    has_reset: bool,
    healed: bool,
    /// The last entry that is durable once the batch is. A truncation lowers it at once: the batch
    /// then holds entries that are in the log no more, and must not confirm what took their place.
    upto: Index,
    since: u64,
}

/// What the disk holds and what it is being given.
///
/// - `durable_index < unwritten <= last_index + 1`.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    durable_hard: HardState,
    /// The last term and vote that were handed to the disk.
    written_hard: HardState,
    durable_index: Index,
    /// The first entry that was not handed to the disk yet.
    unwritten: Index,
    /// A snapshot that takes the log's place with the next batch.
    reset: Option<SnapshotMeta>,
    outstanding: Option<Outstanding>,
    seq: u64,
}

impl Disk {
    /// Starts from a disk whose whole content is durable.
    pub(super) fn new(hard: HardState, last_index: Index) -> Self {
        Self {
            durable_hard: hard,
            written_hard: hard,
            durable_index: last_index,
            unwritten: last_index.next(),
            reset: None,
            outstanding: None,
            seq: 0,
        }
    }

    /// Returns the last entry that is durable here, and the same as in memory.
    pub(super) fn durable_index(&self) -> Index {
        if is_planted(Bug::AckBeforeSync) {
            return self.unwritten.prev();
        }
        self.durable_index
    }

    /// Tells whether a snapshot has taken the log's place in memory, and not durably yet.
    pub(super) fn has_reset(&self) -> bool {
        self.reset.is_some() || self.outstanding.as_ref().is_some_and(|batch| batch.has_reset)
    }

    /// Notes that the log was cut at `from`, in memory: nothing from there on is durable any more.
    pub(super) fn truncate_from(&mut self, from: Index) {
        self.durable_index = self.durable_index.min(from.prev());
        self.unwritten = self.unwritten.min(from);
        if let Some(batch) = &mut self.outstanding {
            batch.upto = batch.upto.min(from.prev());
        }
    }

    /// Notes that the log begins anew after a snapshot, in memory. Until that is durable nothing is
    /// said to be: less than the truth is never wrong.
    fn reset(&mut self, meta: &SnapshotMeta) {
        self.truncate_from(Index(1));
        self.unwritten = meta.index.next();
        self.reset = Some(meta.clone());
    }

    /// Hashes the disk's part of a node's essence.
    pub(super) fn hash_essence<H: Hasher>(&self, names: &impl Names, into: &mut H) {
        let Self {
            durable_hard,
            written_hard,
            durable_index,
            unwritten,
            reset,
            outstanding,
            seq: _,
        } = self;
        hash_hard_state(*durable_hard, names, into);
        hash_hard_state(*written_hard, names, into);
        (durable_index, unwritten, reset.is_some(), outstanding.is_some()).hash(into);
        if let Some(meta) = reset {
            hash_meta(meta, into);
        }
        if let Some(Outstanding { seq: _, hard, has_reset, upto, since: _, healed }) = outstanding {
            (hard.is_some(), has_reset, upto, healed).hash(into);
            if let Some(hard) = hard {
                hash_hard_state(*hard, names, into);
            }
        }
    }

    /// Checks what is cheap to check.
    ///
    /// # Panics
    /// If the state of the disk contradicts itself or the log.
    pub(super) fn assert_invariants(&self, hard: HardState, last_index: Index) {
        assert!(self.durable_index <= last_index, "durable beyond the log");
        assert!(self.durable_index < self.unwritten, "durable before it was written");
        assert!(self.unwritten <= last_index.next(), "written beyond the log");
        assert!(self.durable_hard.term <= hard.term, "a term fell");
    }
}

impl Raft {
    /// Notes that batch `seq` of [`crate::raft::effects::Effects::persist`] is durable.
    ///
    /// # Panics
    /// If no such batch is outstanding: storage has lost count.
    pub fn persisted(&mut self, seq: u64) {
        let batch =
            self.disk.outstanding.take().expect("a batch is durable that was never written");
        assert_eq!(batch.seq, seq, "another batch is durable than the one outstanding");
        self.disk.durable_index = self.disk.durable_index.max(batch.upto);
        if let Some(hard) = batch.hard {
            self.disk.durable_hard = hard;
        }
        if batch.healed {
            self.become_whole();
        }
        if self.is_hard_durable() {
            self.release_held();
        }
        match self.role {
            Role::Leader => self.advance_commit(),
            Role::Candidate if batch.hard.is_some() && self.is_hard_durable() => {
                // Only now do its requests leave; the answers get their full time.
                self.reset_election_timer();
                self.count_own_vote();
            }
            Role::Candidate => {}
            Role::Follower | Role::PreCandidate => {}
        }
    }

    /// Tells whether the term and the vote of now are durable.
    pub(super) fn is_hard_durable(&self) -> bool {
        self.disk.durable_hard == self.hard
    }

    /// Tells whether the disk has been silent for so long that this node must not lead: its
    /// heartbeats would hide that nothing can be written.
    pub(super) fn is_disk_hung(&self) -> bool {
        let outstanding = self.disk.outstanding.as_ref();
        outstanding.is_some_and(|batch| self.now - batch.since > self.config.disk_hung_ticks)
    }

    /// Sends a message now, or as soon as the term and vote that it speaks of are durable. They
    /// are dropped when the term moves on: they would be stale where they arrive.
    pub(super) fn post(&mut self, to: NodeId, message: Message) {
        if self.is_hard_durable() {
            self.out.send.push((to, message));
        } else if self.held.len() < HELD_MAX {
            self.held.push(Held::Message(to, message));
        }
    }

    /// Answers the offer of a snapshot, under the same rule.
    pub(super) fn post_offer(&mut self, to: NodeId, index: Index, offer: Offer) {
        if self.is_hard_durable() {
            self.out.offers.push((to, index, offer));
        } else if self.held.len() < HELD_MAX {
            self.held.push(Held::Offer(to, index, offer));
        }
    }

    fn release_held(&mut self) {
        for held in self.held.drain(..) {
            match held {
                Held::Message(to, message) => self.out.send.push((to, message)),
                Held::Offer(to, index, offer) => self.out.offers.push((to, index, offer)),
            }
        }
    }

    /// Puts a snapshot in the place of the log and the machine, in memory; the next batch makes it
    /// durable.
    pub(super) fn reset_log(&mut self, meta: &SnapshotMeta) {
        self.disk.reset(meta);
        self.log.reset(meta);
        self.configurations.reset(meta);
        self.applying = crate::raft::apply::Applying::default();
        self.commit_index = meta.index;
        self.applied_index = meta.index;
        self.snapshot_index = meta.index;
    }

    /// Hands the disk all that waits, as one batch within its bounds, unless one is outstanding.
    pub(super) fn write_batch(&mut self) {
        let healed = self.has_healed();
        let disk = &mut self.disk;
        let last_index = self.log.last_index();
        let hard = (disk.written_hard != self.hard).then_some(self.hard);
        let idle = hard.is_none() && disk.reset.is_none() && disk.unwritten > last_index;
        let idle = idle && !healed;
        if idle || disk.outstanding.is_some() {
            return;
        }
        let mut entries = Vec::new();
        if disk.unwritten <= last_index {
            let count_max = self.config.persist_entries_max as u64;
            let to = last_index.min(Index(disk.unwritten.0 + count_max - 1));
            let slice = self.log.slice(disk.unwritten, to, self.config.persist_bytes_max);
            entries = slice.expect("what is not durable is in memory");
        }
        disk.unwritten = entries.last().map_or(disk.unwritten, |entry| entry.index.next());
        let upto = disk.unwritten.prev();
        let reset = disk.reset.take();
        disk.seq += 1;
        disk.written_hard = self.hard;
        disk.outstanding = Some(Outstanding {
            seq: disk.seq,
            hard,
            has_reset: reset.is_some(),
            healed,
            upto,
            since: self.now,
        });
        let hard = hard.map(|hard| match is_planted(Bug::VoteNotPersisted) {
            true => HardState { vote: None, ..hard },
            false => hard,
        });
        self.out.persist = Some(Persist {
            seq: disk.seq,
            hard_state: hard,
            reset,
            entries,
            // Never beyond what this batch makes durable: after a crash the hint must not reach
            // into entries that this log was about to replace.
            commit_index: self.commit_index.min(upto),
            healed,
        });
    }
}

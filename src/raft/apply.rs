//! Committed entries on their way to the machine, from memory or from the log on disk.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};

use crate::raft::core::Raft;
use crate::raft::effects::ReadLog;
use crate::raft::essence::hash_entries;
use crate::raft::message::Entry;
use crate::types::Index;

/// What is being fetched for the machine.
#[derive(Clone, Debug, Default)]
pub(super) struct Applying {
    /// The read of the log on disk that is under way, by its number; one at most.
    pub(super) read: Option<u64>,
    /// What the last one brought, ascending, beginning with the next entry to apply. No larger than
    /// one read: the next begins when this is used up.
    pub(super) loaded: VecDeque<Entry>,
}

impl Applying {
    /// Takes entries up to `to` from what was read, as many as weigh `bytes_max`, but at least one.
    fn take(&mut self, to: Index, bytes_max: usize) -> Vec<Entry> {
        let mut bytes = 0;
        let fits = self.loaded.iter().take_while(|entry| {
            bytes += entry.weight();
            entry.index <= to && bytes <= bytes_max
        });
        let count = fits.count().max(1).min(self.loaded.len());
        self.loaded.drain(..count).collect()
    }

    /// Hashes this part of a node's essence.
    pub(super) fn hash_essence<H: Hasher>(&self, into: &mut H) {
        let Self { read, loaded } = self;
        read.hash(into);
        hash_entries(loaded.iter(), into);
    }
}

impl Raft {
    /// Returns up to where entries may be applied: committed, and durable here. Not waiting for the
    /// own disk would be correct for the group, but then this node's machine could hold what its
    /// log has lost after a restart.
    pub(super) fn applicable(&self) -> Index {
        self.commit_index.min(self.disk.durable_index())
    }

    /// Returns the next entry to apply, if its body is in memory.
    pub(super) fn next_to_apply(&self) -> Option<&Entry> {
        self.applying.loaded.front().or_else(|| self.log.get(self.applied_index.next()))
    }

    /// Hands out committed entries, bounded in number and bytes: what was read from the disk, or else
    /// what is in memory. What is in neither is fetched by [`Raft::trim_window`].
    pub(super) fn hand_out_committed(&mut self) {
        let next = self.applied_index.next();
        let most = Index(self.applied_index.0.saturating_add(self.config.apply_entries_max as u64));
        let to = self.applicable().min(most);
        if to < next {
            return;
        }
        let bytes_max = self.config.apply_bytes_max;
        let entries = match self.applying.loaded.is_empty() {
            true => self.log.slice(next, to, bytes_max).unwrap_or_default(),
            false => self.applying.take(to, bytes_max),
        };
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return };
        assert_eq!(first.index, next, "gap in what is applied");
        self.applied_index = last.index;
        self.out.apply = entries;
    }

    fn read_to_apply(&mut self, applicable: Index) {
        if self.applying.read.is_some() {
            return;
        }
        let token = self.number();
        self.applying.read = Some(token);
        self.out.read_log.push(ReadLog {
            token,
            from: self.applied_index.next(),
            to: applicable.min(self.log.window_first().prev()),
            bytes_max: self.config.apply_read_bytes_max,
        });
    }

    /// Takes entries that were read for the machine.
    pub(super) fn loaded_to_apply(&mut self, entries: Vec<Entry>) {
        self.applying.read = None;
        if self.are_current(&entries, self.applied_index.next()) {
            self.applying.loaded = VecDeque::from(entries);
        }
    }

    /// Tells whether entries read from the disk begin at `from`, follow each other, and are the
    /// ones that the log holds now: it may have been cut and continued between the order and its
    /// answer.
    pub(super) fn are_current(&self, entries: &[Entry], from: Index) -> bool {
        let mut expected = from;
        let current = entries.iter().all(|entry| {
            let fits = entry.index == expected && self.log.term_at(expected) == Some(entry.term);
            expected = expected.next();
            fits
        });
        current && !entries.is_empty()
    }

    /// Drops bodies that memory need not hold any more. An entry that waits to be applied stays,
    /// unless the machine is being fed from the disk and will get it from there; that is also the way
    /// out when so much waits that all bodies together weigh more than they may.
    pub(super) fn trim_window(&mut self) {
        let fed_from_disk = self.applied_index.next() < self.log.window_first();
        let overfull = self.log.window_bytes() > self.config.window_bytes_max;
        let droppable = if fed_from_disk || overfull {
            self.applicable()
        } else {
            self.applicable().min(self.applied_index)
        };
        self.log.trim(droppable, self.config.window_entries_max, self.config.window_bytes_max);
        if self.applied_index < self.applicable() && self.next_to_apply().is_none() {
            self.read_to_apply(self.applicable());
        }
    }
}

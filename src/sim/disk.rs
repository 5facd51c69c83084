//! A virtual disk: batches that are durable, one that may not be, and snapshots.

use std::collections::BTreeMap;

use crate::jobs::image::Restore;
use crate::jobs::machine::Machine;
use crate::raft::configuration;
use crate::raft::core::{Boot, LogGone};
use crate::raft::effects::{Persist, ReadLog};
use crate::raft::message::{Configuration, Entry, EntryKind, HardState, SnapshotMeta};
use crate::types::{Index, Term};

/// How many entries a node finds in memory after a start.
const TAIL_MAX: usize = 1000;

/// What a node has on its disk. Only [`Disk::complete`] makes a batch durable; a crash forgets the one
/// under way.
#[derive(Debug, Default)]
pub struct Disk {
    hard_state: HardState,
    entries: BTreeMap<Index, Entry>,
    commit_index: Index,
    /// Where the log begins after a snapshot took its place.
    base: Index,
    snapshots: Vec<(SnapshotMeta, Vec<Vec<u8>>)>,
    writing: Option<Persist>,
}

impl Disk {
    /// Begins to write a batch.
    ///
    /// # Panics
    /// If one is under way: at most one may be outstanding.
    pub fn begin(&mut self, batch: Persist) {
        assert!(self.writing.is_none(), "two batches under way");
        self.writing = Some(batch);
    }

    /// Makes the batch under way durable, if it is the one named. Returns whether it was.
    pub fn complete(&mut self, seq: u64) -> bool {
        let Some(batch) = self.writing.take_if(|batch| batch.seq == seq) else { return false };
        if let Some(hard_state) = batch.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(meta) = batch.reset {
            self.entries.clear();
            self.base = meta.index;
        }
        for entry in batch.entries {
            self.entries.split_off(&entry.index);
            self.entries.insert(entry.index, entry);
        }
        self.commit_index = self.commit_index.max(batch.commit_index);
        true
    }

    /// Loses what is not durable.
    pub fn crash(&mut self) {
        self.writing = None;
    }

    /// Stores an image as a snapshot, through its bytes.
    pub fn write_snapshot(&mut self, meta: SnapshotMeta, machine: &Machine) {
        let records = machine.records().collect();
        self.store_snapshot(meta, records);
    }

    /// Stores a received snapshot. An older one than the newest changes nothing.
    pub fn store_snapshot(&mut self, meta: SnapshotMeta, records: Vec<Vec<u8>>) {
        let newest = self.snapshots.last().map_or(Index(0), |(meta, _)| meta.index);
        if meta.index > newest {
            self.snapshots.push((meta, records));
        }
        if self.snapshots.len() > 2 {
            self.snapshots.remove(0);
        }
    }

    /// Returns the newest snapshot.
    #[must_use]
    pub fn newest_snapshot(&self) -> Option<&(SnapshotMeta, Vec<Vec<u8>>)> {
        self.snapshots.last()
    }

    /// Drops entries up to `index`, but for the last `keep`. Returns the first that is left.
    ///
    /// # Panics
    /// If no snapshot covers them.
    pub fn release(&mut self, index: Index, keep: usize) -> Index {
        let covered = self.newest_snapshot().map_or(Index(0), |(meta, _)| meta.index);
        assert!(index <= covered, "no snapshot covers {index}");
        let first = Index((index.0 + 1).saturating_sub(keep as u64));
        self.entries = self.entries.split_off(&first);
        self.first_index()
    }

    /// Answers a read of the log.
    ///
    /// # Errors
    /// [`LogGone`] if the disk does not reach back so far.
    pub fn read(&self, read: &ReadLog) -> Result<Vec<Entry>, LogGone> {
        if read.from < self.first_index() {
            return Err(LogGone { first_index: self.first_index() });
        }
        let mut bytes = 0;
        let mut entries = Vec::new();
        for entry in self.entries.range(read.from..=read.to).map(|(_, entry)| entry) {
            if !entries.is_empty() && bytes + entry.data.len() > read.bytes_max {
                break;
            }
            bytes += entry.data.len();
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    /// Returns what consensus starts from, and the machine of the newest snapshot.
    ///
    /// # Panics
    /// If a snapshot cannot be read back: this disk damages nothing.
    #[must_use]
    pub fn boot(&self, bootstrap: &Configuration) -> (Boot, Machine) {
        let snapshot = self.newest_snapshot();
        let machine = snapshot.map_or_else(Machine::new, |(_, records)| restore(records));
        let mut runs: Vec<(Index, Term)> = Vec::new();
        for entry in self.entries.values() {
            if runs.last().is_none_or(|(_, term)| *term != entry.term) {
                runs.push((entry.index, entry.term));
            }
        }
        let skipped = self.entries.len().saturating_sub(TAIL_MAX);
        let base = self.base.max(machine.applied_index());
        let boot = Boot {
            hard_state: self.hard_state,
            snapshot: snapshot.map(|(meta, _)| meta.clone()),
            configuration: bootstrap.clone(),
            first_index: self.entries.keys().next().copied().unwrap_or(base.next()),
            last_index: self.entries.keys().next_back().copied().unwrap_or(base),
            runs,
            tail: self.entries.values().skip(skipped).cloned().collect(),
            configurations: self
                .entries
                .values()
                .filter(|entry| entry.kind == EntryKind::Configuration)
                .map(|entry| {
                    let decoded = configuration::decode(&entry.data).expect("written by consensus");
                    (entry.index, decoded)
                })
                .collect(),
            commit_index: self.commit_index,
            applied_index: machine.applied_index(),
        };
        (boot, machine)
    }

    /// Returns the term of a durable entry, for checks.
    #[must_use]
    pub fn term_at(&self, index: Index) -> Option<Term> {
        self.entries.get(&index).map(|entry| entry.term)
    }

    /// Returns the durable hard state, for checks.
    #[must_use]
    pub fn hard_state(&self) -> HardState {
        self.hard_state
    }

    fn first_index(&self) -> Index {
        let base = self.base.max(self.newest_snapshot().map_or(Index(0), |(meta, _)| meta.index));
        self.entries.keys().next().copied().unwrap_or(base.next())
    }
}

/// Restores a machine from its records.
///
/// # Panics
/// If the records are not those of a machine.
#[must_use]
pub fn restore(records: &[Vec<u8>]) -> Machine {
    let mut restore = Restore::new();
    for record in records {
        restore.push(record).expect("records of a machine");
    }
    restore.finish().expect("all records of a machine")
}

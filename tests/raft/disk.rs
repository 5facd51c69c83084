//! The disk of a node: what was synced survives a crash, and nothing else does.

use raftq::raft::configuration::decode;
use raftq::raft::core::Boot;
use raftq::raft::effects::Persist;
use raftq::raft::message::{Configuration, Entry, EntryKind, HardState, SnapshotMeta};
use raftq::types::{Index, Term};

/// What survives a crash.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) hard: HardState,
    pub(crate) snapshot: Option<(SnapshotMeta, Vec<Entry>)>,
    pub(crate) first: u64,
    pub(crate) entries: Vec<Entry>,
    pub(crate) commit: Index,
    /// It was damaged, and its node is not whole again.
    pub(crate) healing: bool,
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self {
            hard: HardState::default(),
            snapshot: None,
            first: 1,
            entries: Vec::new(),
            commit: Index(0),
            healing: false,
        }
    }

    /// Loses everything; what damaged it is known, and the node is told to heal.
    pub(crate) fn lose(&mut self) {
        *self = Self { healing: true, ..Self::new() };
    }

    pub(crate) fn last(&self) -> u64 {
        self.first + self.entries.len() as u64 - 1
    }

    pub(crate) fn get(&self, index: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(index.checked_sub(self.first)?).unwrap())
    }

    /// Tells whether the entry, or a snapshot that covers it, is here.
    pub(crate) fn holds(&self, index: Index, term: Term) -> bool {
        let covered = self.snapshot.as_ref().is_some_and(|(meta, _)| meta.index >= index);
        covered || self.get(index.0).is_some_and(|entry| entry.term == term)
    }

    pub(crate) fn write(&mut self, batch: Persist) {
        if let Some(hard) = batch.hard_state {
            assert!(hard.term >= self.hard.term, "a durable term fell");
            self.hard = hard;
        }
        if let Some(meta) = batch.reset {
            assert!(self.snapshot.as_ref().is_some_and(|(held, _)| *held == meta));
            self.first = meta.index.0 + 1;
            self.entries.clear();
        }
        for entry in batch.entries {
            assert!(entry.index.0 <= self.last() + 1, "a gap on disk");
            assert!(entry.index.0 >= self.first, "an entry before the log");
            assert!(entry.term <= self.hard.term, "an entry before its term");
            self.entries.truncate(usize::try_from(entry.index.0 - self.first).unwrap());
            self.entries.push(entry);
        }
        assert!(batch.commit_index.0 <= self.last(), "a hint beyond the log");
        self.commit = self.commit.max(batch.commit_index);
        self.healing &= !batch.healed;
    }

    pub(crate) fn boot(&self, configuration: &Configuration, window: usize) -> Boot {
        let mut runs: Vec<(Index, Term)> = Vec::new();
        for entry in &self.entries {
            if runs.last().is_none_or(|(_, term)| *term != entry.term) {
                runs.push((entry.index, entry.term));
            }
        }
        let configurations = self.entries.iter().filter(|e| e.kind == EntryKind::Configuration);
        let skip = self.entries.len().saturating_sub(window);
        Boot {
            hard_state: self.hard,
            snapshot: self.snapshot.as_ref().map(|(meta, _)| meta.clone()),
            configuration: configuration.clone(),
            first_index: Index(self.first),
            last_index: Index(self.last()),
            runs,
            tail: self.entries.iter().skip(skip).cloned().collect(),
            configurations: configurations.map(|e| (e.index, decode(&e.data).unwrap())).collect(),
            commit_index: self.commit,
            applied_index: self.snapshot.as_ref().map_or(Index(0), |(meta, _)| meta.index),
            healing: self.healing,
        }
    }
}

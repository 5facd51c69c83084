//! The log as the core knows it: the terms of everything on disk, the bodies of the newest entries.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};

use crate::raft::config::Boot;
use crate::raft::essence::hash_entries;
use crate::raft::message::{Entry, SnapshotMeta};
use crate::types::{Index, Term};

/// The log of one node.
///
/// - Entries `first_index ..= last_index` are on disk or on their way there.
/// - `runs` holds the first index of each run of equal terms among them, ascending.
/// - `window` holds the bodies of the last of them, without a gap, up to `last_index`.
/// - The term of the entry before `first_index` is kept too, where it is known: a leader needs it
///   to send the first entry.
#[derive(Clone, Debug)]
pub(super) struct Log {
    first_index: Index,
    last_index: Index,
    /// `None`: compacted away, and so an error to ask for, never 0 (a term of 0 would match).
    base_term: Option<Term>,
    runs: VecDeque<(Index, Term)>,
    window: VecDeque<Entry>,
    window_bytes: usize,
}

impl Log {
    /// Builds the log from what storage found.
    ///
    /// # Panics
    /// If what storage found contradicts itself: the node must not vote with such a log.
    pub(super) fn new(boot: &Boot) -> Self {
        let (first_index, last_index) = (boot.first_index, boot.last_index);
        assert!(first_index >= Index(1), "the log begins at index 0");
        assert!(first_index <= last_index.next(), "the log begins after its end");
        let base_index = first_index.prev();
        let base_term = match &boot.snapshot {
            _ if base_index == Index(0) => Some(Term(0)),
            Some(meta) if meta.index == base_index => Some(meta.term),
            Some(_) | None => None,
        };
        let reach = boot.snapshot.as_ref().map_or(Index(0), |meta| meta.index);
        assert!(
            reach >= base_index,
            "entries {} to {base_index} are neither in the log nor in the snapshot, which ends at \
             {reach}",
            reach.next()
        );
        let mut log = Self {
            first_index,
            last_index,
            base_term,
            runs: boot.runs.iter().copied().collect(),
            window: boot.tail.iter().cloned().collect(),
            window_bytes: boot.tail.iter().map(Entry::weight).sum(),
        };
        // A log that ends before its snapshot has no base to continue from; the caller resets it.
        if log.is_empty() && log.base_term.is_none() {
            log.base_term = Some(Term(0));
        }
        log.assert_boot();
        log
    }

    fn assert_boot(&self) {
        let starts = self.runs.front().map_or(self.last_index.next(), |(index, _)| *index);
        assert_eq!(starts, self.first_index, "the first run of terms is not where the log begins");
        for (one, next) in self.runs.iter().zip(self.runs.iter().skip(1)) {
            assert!(one.0 < next.0, "runs of terms out of order: {one:?}, {next:?}");
            assert!(one.1 < next.1, "terms fall in the log: {one:?}, {next:?}");
        }
        let end = self.runs.back().map_or(self.last_index, |(index, _)| *index);
        assert!(end <= self.last_index, "a run of terms begins after the last entry");
        let mut expected = self.window_first();
        assert!(expected >= self.first_index, "the tail begins before the log");
        for entry in &self.window {
            assert_eq!(entry.index, expected, "gap in the tail of the log");
            assert_eq!(Some(entry.term), self.term_at(entry.index), "term of entry {expected}");
            expected = expected.next();
        }
    }

    /// Returns the first entry on disk, or the one after the last if there is none.
    pub(super) fn first_index(&self) -> Index {
        self.first_index
    }

    /// Returns the last entry, durable or not.
    pub(super) fn last_index(&self) -> Index {
        self.last_index
    }

    /// Returns the term of the last entry, or of the snapshot before it.
    pub(super) fn last_term(&self) -> Term {
        let last = self.runs.back().map(|(_, term)| *term);
        last.or(self.base_term).expect("the term before an empty log is that of its snapshot")
    }

    /// Tells whether there is no entry at all, in memory or on disk.
    pub(super) fn is_empty(&self) -> bool {
        self.last_index < self.first_index
    }

    /// Returns the first entry whose body is in memory, or the one after the last.
    pub(super) fn window_first(&self) -> Index {
        Index(self.last_index.0 + 1 - self.window.len() as u64)
    }

    /// Returns how many bodies are in memory.
    pub(super) fn window_entries(&self) -> usize {
        self.window.len()
    }

    /// Returns what the bodies in memory weigh.
    pub(super) fn window_bytes(&self) -> usize {
        self.window_bytes
    }

    /// Returns the term of an entry; `None` if it is not here or not here any more.
    pub(super) fn term_at(&self, index: Index) -> Option<Term> {
        if index < self.first_index {
            return if index.next() == self.first_index { self.base_term } else { None };
        }
        if index > self.last_index {
            return None;
        }
        // Nearly every question is about the newest term.
        match self.runs.back() {
            Some((start, term)) if *start <= index => return Some(*term),
            Some(_) | None => {}
        }
        let after = self.runs.partition_point(|(start, _)| *start <= index);
        self.runs.get(after.checked_sub(1)?).map(|(_, term)| *term)
    }

    /// Returns the last entry at or before `index` whose term is at most `term`, and its term;
    /// `None` if that is compacted away.
    pub(super) fn last_at_most(&self, index: Index, term: Term) -> Option<(Index, Term)> {
        let mut index = index.min(self.last_index);
        for (start, run_term) in self.runs.iter().rev() {
            if *start > index {
                continue;
            }
            if *run_term <= term {
                return Some((index, *run_term));
            }
            index = start.prev();
        }
        let base_index = self.first_index.prev();
        match self.base_term {
            Some(base_term) if index >= base_index && base_term <= term => {
                Some((base_index, base_term))
            }
            Some(_) | None => None,
        }
    }

    /// Returns an entry if its body is in memory.
    pub(super) fn get(&self, index: Index) -> Option<&Entry> {
        let offset = index.0.checked_sub(self.window_first().0)?;
        self.window.get(usize::try_from(offset).ok()?)
    }

    /// Returns the entries `from ..= to` from memory, as many as weigh `bytes_max`, but at least
    /// one; `None` if the first is not in memory.
    pub(super) fn slice(&self, from: Index, to: Index, bytes_max: usize) -> Option<Vec<Entry>> {
        self.get(from)?;
        let offset = self.offset(from);
        let end = self.offset(to.next()).max(offset);
        let mut count = end - offset;
        // All of the window weighs as much as its parts, and mostly less than the bound.
        if self.window_bytes > bytes_max {
            let mut bytes = 0;
            let fits = self.window.range(offset..end).take_while(|entry| {
                bytes += entry.weight();
                bytes <= bytes_max
            });
            count = fits.count().max(1).min(count);
        }
        Some(self.window.range(offset..offset + count).cloned().collect())
    }

    /// Returns what the entries `from ..= to` weigh, as far as their bodies are in memory.
    pub(super) fn weigh(&self, from: Index, to: Index) -> usize {
        let (offset, end) = (self.offset(from), self.offset(to.next()));
        self.window.range(offset..end.max(offset)).map(Entry::weight).sum()
    }

    /// Returns the place of an entry in the window; of one before or after it, the nearest end.
    fn offset(&self, index: Index) -> usize {
        let offset = index.0.saturating_sub(self.window_first().0);
        usize::try_from(offset).unwrap_or(usize::MAX).min(self.window.len())
    }

    /// Appends the entry that follows the last.
    pub(super) fn append(&mut self, entry: Entry) {
        self.admit(&entry);
        self.window.push_back(entry);
    }

    /// Appends entries that follow the last, and each other.
    pub(super) fn extend(&mut self, entries: Vec<Entry>) {
        entries.iter().for_each(|entry| self.admit(entry));
        self.window.extend(entries);
    }

    /// Accounts for an entry that follows the last and is about to enter the window.
    fn admit(&mut self, entry: &Entry) {
        assert_eq!(entry.index, self.last_index.next(), "gap in the log");
        let last_term = self.last_term();
        assert!(entry.term >= last_term, "term {} after {last_term}", entry.term);
        if entry.term > last_term || self.runs.is_empty() {
            self.runs.push_back((entry.index, entry.term));
        }
        self.last_index = entry.index;
        self.window_bytes += entry.weight();
    }

    /// Makes room for so many more entries.
    pub(super) fn reserve(&mut self, count: usize) {
        self.window.reserve(count);
    }

    /// Drops the entry at `from` and all that follow it. That they are not committed is for the
    /// caller to have asserted.
    pub(super) fn truncate_from(&mut self, from: Index) {
        assert!(from >= self.first_index, "truncation at {from}, below the log");
        while self.last_index >= from {
            if let Some(entry) = self.window.pop_back() {
                self.window_bytes -= entry.weight();
                self.last_index = self.last_index.prev();
            } else {
                // Nothing is left in memory: what remains on disk is named by its terms alone.
                self.last_index = from.prev();
            }
        }
        while self.runs.back().is_some_and(|(start, _)| *start >= from) {
            self.runs.pop_back();
        }
    }

    /// Starts anew after a snapshot: nothing of the former log remains.
    pub(super) fn reset(&mut self, meta: &SnapshotMeta) {
        *self = Self {
            first_index: meta.index.next(),
            last_index: meta.index,
            base_term: Some(meta.term),
            runs: VecDeque::new(),
            window: VecDeque::new(),
            window_bytes: 0,
        };
    }

    /// Forgets the entries before `first`, which left the disk.
    pub(super) fn release(&mut self, first: Index) {
        if first <= self.first_index {
            return;
        }
        assert!(first <= self.last_index.next(), "released to {first}, beyond the log");
        self.base_term = self.term_at(first.prev());
        let gone = self.runs.partition_point(|(start, _)| *start < first);
        // The run that `first` is in the middle of now begins at `first`.
        let cut = gone.checked_sub(1).and_then(|run| self.runs.get(run)).copied();
        self.runs.drain(..gone);
        let starts_here = self.runs.front().is_some_and(|(start, _)| *start == first);
        if let (Some((_, term)), false, true) = (cut, starts_here, first <= self.last_index) {
            self.runs.push_front((first, term));
        }
        self.first_index = first;
        while self.window_first() < first {
            self.pop_front();
        }
    }

    /// Drops bodies from memory: those up to `droppable`, as far as more than `entries_max` of
    /// them are held or all bodies weigh more than `bytes_max`.
    pub(super) fn trim(&mut self, droppable: Index, entries_max: usize, bytes_max: usize) {
        while self.window_first() <= droppable {
            let held = (droppable.0 - self.window_first().0) + 1;
            if held <= entries_max as u64 && self.window_bytes <= bytes_max {
                break;
            }
            self.pop_front();
        }
    }

    fn pop_front(&mut self) {
        if let Some(entry) = self.window.pop_front() {
            self.window_bytes -= entry.weight();
        }
    }

    /// Hashes the log's part of a node's essence.
    pub(super) fn hash_essence<H: Hasher>(&self, into: &mut H) {
        let Self { first_index, last_index, base_term, runs, window, window_bytes: _ } = self;
        (first_index, last_index, base_term).hash(into);
        runs.hash(into);
        hash_entries(window.iter(), into);
    }

    /// Checks what is cheap to check.
    ///
    /// # Panics
    /// If the log contradicts itself.
    pub(super) fn assert_invariants(&self) {
        assert!(self.first_index <= self.last_index.next(), "the log begins after its end");
        assert!(self.window.len() as u64 <= self.last_index.0, "more bodies than entries");
        assert!(self.window_first() >= self.first_index, "a body of an entry before the log");
        let newest = self.window.back().map_or(self.last_index, |entry| entry.index);
        assert_eq!(newest, self.last_index, "the newest body is not the last entry");
        assert_eq!(self.runs.is_empty(), self.is_empty(), "runs of terms without entries");
    }
}

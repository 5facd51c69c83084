//! What the newest entries changed, kept in memory for those who watch; the oldest makes room for the newest.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::jobs::change::{Change, Event, Position};
use crate::types::{Index, JobId, Millis, QueueName};
use crate::wire::message::{Reply, Watched};

/// Changes looked at for one answer, at most; the entry that passes it is cut, and the answer says where.
pub const CHANGES_PER_ANSWER_MAX: usize = 1024;

/// What one entry counts beside its changes.
const ENTRY_BYTES: usize = 96;

/// What one entry changed.
#[derive(Debug)]
struct Changed {
    index: Index,
    now_ms: Millis,
    changes: Vec<Change>,
    /// What it counts; once counted, for the oldest are no more in any cache when they go.
    bytes: u64,
}

/// The changes of the newest entries.
///
/// - `entries` is in order of index; every one is above `first`, and none that changed anything and was
///   applied since is missing.
/// - `bytes` is what they count together; more than one entry are never above the limit.
#[derive(Debug)]
pub struct History {
    first: Position,
    entries: VecDeque<Arc<Changed>>,
    bytes: u64,
    bytes_max: u64,
}

/// What is asked of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// What comes after this place.
    pub after: Position,
    /// Only of this queue.
    pub queue: Option<QueueName>,
    /// Only of this job.
    pub job: Option<JobId>,
}

/// Changes handed out: shared, so that the Raft thread copies none of them.
#[derive(Debug)]
pub struct Slice {
    watch: Watch,
    entries: Vec<Arc<Changed>>,
    next: Position,
}

impl History {
    /// Begins with what comes after `applied`.
    #[must_use]
    pub fn new(applied: Index, bytes_max: u64) -> Self {
        Self {
            first: Position::before(applied.next()),
            entries: VecDeque::new(),
            bytes: 0,
            bytes_max,
        }
    }

    /// Begins anew: what came before `applied` is unknown here.
    pub fn begin_anew(&mut self, applied: Index) {
        *self = Self::new(applied, self.bytes_max);
    }

    /// Returns the first place from which nothing is missing.
    #[must_use]
    pub fn first(&self) -> Position {
        self.first
    }

    /// Returns what the kept changes count, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds what an entry changed.
    pub fn push(&mut self, index: Index, now_ms: Millis, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        let bytes = (ENTRY_BYTES + changes.iter().map(Change::memory).sum::<usize>()) as u64;
        self.bytes += bytes;
        self.entries.push_back(Arc::new(Changed { index, now_ms, changes, bytes }));
        while self.bytes > self.bytes_max && self.entries.len() > 1 {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes -= oldest.bytes;
            self.first = oldest.end();
        }
    }

    /// Returns what comes after a place, of entries up to `applied`; nothing if there is none yet.
    ///
    /// # Errors
    /// The first place it has, if changes between are gone.
    pub fn after(&self, watch: &Watch, applied: Index) -> Result<Option<Slice>, Position> {
        let after = watch.after;
        if after < self.first() {
            return Err(self.first());
        }
        let from = self.entries.partition_point(|entry| entry.end() <= after);
        let mut looked = 0usize;
        let mut entries = Vec::new();
        let mut next = Position::before(applied.next()).max(after);
        for entry in self.entries.range(from..) {
            let skipped = if entry.index == after.index { after.n as usize } else { 0 };
            let rest = entry.changes.len().saturating_sub(skipped);
            entries.push(Arc::clone(entry));
            looked += rest;
            if looked >= CHANGES_PER_ANSWER_MAX {
                let taken = entry.changes.len() - (looked - CHANGES_PER_ANSWER_MAX);
                next = entry.place(taken);
                break;
            }
        }
        if entries.is_empty() {
            return Ok(None);
        }
        Ok(Some(Slice { watch: watch.clone(), entries, next }))
    }
}

impl Changed {
    /// Returns the place behind its `n` first changes: behind all of them, it is before the next entry.
    fn place(&self, n: usize) -> Position {
        match u32::try_from(n) {
            Ok(n) if (n as usize) < self.changes.len() => Position { index: self.index, n },
            Ok(_) | Err(_) => Position::before(self.index.next()),
        }
    }

    /// Returns the place behind its last change.
    fn end(&self) -> Position {
        let n = u32::try_from(self.changes.len()).unwrap_or(u32::MAX);
        Position { index: self.index, n }
    }
}

impl Slice {
    /// Makes the answer of it.
    #[must_use]
    pub fn reply(&self) -> Reply {
        let mut events = Vec::new();
        for entry in &self.entries {
            for (change, n) in entry.changes.iter().zip(1..) {
                let position = Position { index: entry.index, n };
                if position > self.watch.after && position <= self.next && self.watch.takes(change)
                {
                    let (change, now_ms) = (change.clone(), entry.now_ms);
                    events.push(Event { position, now_ms, change });
                }
            }
        }
        Reply::Watched(Watched { events, next: self.next })
    }
}

impl Watch {
    fn takes(&self, change: &Change) -> bool {
        self.queue.as_ref().is_none_or(|queue| change.queue.as_ref() == Some(queue))
            && self.job.is_none_or(|job| change.job == Some(job))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::change::What;

    fn changes(count: usize) -> Vec<Change> {
        vec![Change::new(What::Due); count]
    }

    fn watch(after: Position) -> Watch {
        Watch { after, queue: None, job: None }
    }

    fn read(history: &History, after: Position, applied: u64) -> (Vec<Position>, Position) {
        let slice = history.after(&watch(after), Index(applied)).unwrap().unwrap();
        let Reply::Watched(Watched { events, next }) = slice.reply() else { panic!() };
        (events.into_iter().map(|event| event.position).collect(), next)
    }

    fn at(index: u64, n: u32) -> Position {
        Position { index: Index(index), n }
    }

    #[test]
    fn reader_goes_on_from_any_place() {
        let mut history = History::new(Index(4), 1 << 20);
        history.push(Index(5), Millis(1), changes(2));
        history.push(Index(6), Millis(1), changes(0));
        history.push(Index(7), Millis(1), changes(1));
        assert_eq!(read(&history, at(5, 0), 9), (vec![at(5, 1), at(5, 2), at(7, 1)], at(10, 0)));
        assert_eq!(read(&history, at(5, 1), 9), (vec![at(5, 2), at(7, 1)], at(10, 0)));
        assert_eq!(read(&history, at(5, 2), 7), (vec![at(7, 1)], at(8, 0)));
        assert!(history.after(&watch(at(7, 1)), Index(7)).unwrap().is_none());
        assert!(history.after(&watch(at(99, 0)), Index(7)).unwrap().is_none());
        assert_eq!(history.after(&watch(at(4, 9)), Index(7)).unwrap_err(), at(5, 0));
    }

    #[test]
    fn oldest_makes_room_and_the_first_place_says_so() {
        let mut history = History::new(Index(0), 4000);
        for index in 1..=100 {
            history.push(Index(index), Millis(1), changes(3));
            assert!(history.bytes() <= 4000);
        }
        let first = history.first();
        assert!(first > at(80, 0) && first < at(100, 0), "{first}");
        let (read, _) = read(&history, first, 100);
        assert_eq!(read.first(), Some(&at(first.index.0 + 1, 1)), "{first} is the end of an entry");
        assert_eq!(read.len() as u64, (100 - first.index.0) * 3);
        let before = Position { n: first.n - 1, ..first };
        assert_eq!(history.after(&watch(before), Index(100)).unwrap_err(), first);
        // One entry is kept, however much it is.
        history.push(Index(101), Millis(1), changes(1000));
        assert_eq!(history.first(), at(100, 3));
    }

    #[test]
    fn long_entry_is_cut_and_nothing_is_lost_or_doubled() {
        let mut history = History::new(Index(0), 10 << 20);
        history.push(Index(1), Millis(1), changes(CHANGES_PER_ANSWER_MAX * 2 + 5));
        history.push(Index(2), Millis(1), changes(CHANGES_PER_ANSWER_MAX - 5));
        history.push(Index(3), Millis(1), changes(1));
        let mut after = at(1, 0);
        let mut all = Vec::new();
        while let Some(slice) = history.after(&watch(after), Index(3)).unwrap() {
            let Reply::Watched(Watched { events, next }) = slice.reply() else { panic!() };
            assert!(events.len() <= CHANGES_PER_ANSWER_MAX && next > after);
            all.extend(events.into_iter().map(|event| event.position));
            after = next;
        }
        assert_eq!(all.len(), CHANGES_PER_ANSWER_MAX * 3 + 1);
        assert!(all.is_sorted_by(|one, next| one < next));
        assert_eq!(after, at(4, 0));
    }
}

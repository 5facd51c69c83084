//! The commands that this node has proposed itself, as they were before they became bytes.

use std::collections::VecDeque;

use crate::jobs::codec;
use crate::jobs::command::Stamped;
use crate::raft::message::Entry;
use crate::types::{Index, Term};

/// Commands kept, at most. One more is not kept, and read from its entry like that of another leader.
const KEPT_MAX: usize = 1024;

/// Bytes of their entries, at most, as above. A command of many short words takes some twenty times its entry's
/// bytes in memory; a payload takes no more than them.
const KEPT_BYTES_MAX: usize = 8 << 20;

/// The commands of a leader's own proposals, kept until they are applied: it need not read what it has just
/// written.
///
/// - Indexes rise.
/// - `bytes` is the sum of the lengths of what is kept.
#[derive(Debug, Default)]
pub(super) struct OwnCommands {
    kept: VecDeque<Own>,
    bytes: usize,
}

#[derive(Debug)]
struct Own {
    index: Index,
    term: Term,
    /// Of the entry.
    bytes: usize,
    command: Stamped,
}

impl OwnCommands {
    /// Keeps the command of the entry that was proposed in this term at this index.
    pub(super) fn keep(&mut self, index: Index, term: Term, bytes: usize, command: Stamped) {
        // What stood here or behind was of a term before, and has been displaced.
        while self.kept.back().is_some_and(|last| last.index >= index) {
            self.bytes -= self.kept.pop_back().map_or(0, |own| own.bytes);
        }
        if self.kept.len() < KEPT_MAX && self.bytes + bytes <= KEPT_BYTES_MAX {
            self.bytes += bytes;
            self.kept.push_back(Own { index, term, bytes, command });
        }
    }

    /// Forgets all: it leads no more, and what becomes of its proposals is not its own doing.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Returns the command of an entry that is applied now, if it is that very proposal. Whatever is kept for
    /// it and for those before it is dropped.
    pub(super) fn take(&mut self, entry: &Entry) -> Option<Stamped> {
        while self.kept.front().is_some_and(|first| first.index <= entry.index) {
            let own = self.kept.pop_front()?;
            self.bytes -= own.bytes;
            if own.index == entry.index && own.term == entry.term {
                debug_assert_eq!(codec::decode(&entry.data).as_ref(), Ok(&own.command));
                return Some(own.command);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::command::Command;
    use crate::raft::message::EntryKind;
    use crate::types::Millis;

    fn command(now: u64) -> Stamped {
        Stamped { now: Millis(now), command: Command::CancelJob(Vec::new()) }
    }

    fn entry(index: u64, term: u64, now: u64) -> Entry {
        let data = codec::encode(&command(now));
        Entry { index: Index(index), term: Term(term), kind: EntryKind::Command, data }
    }

    fn keep(own: &mut OwnCommands, index: u64, term: u64) {
        own.keep(Index(index), Term(term), 1000, command(index));
    }

    #[test]
    fn entry_of_another_term_is_not_taken_for_ones_own() {
        let mut own = OwnCommands::default();
        (5..=7).for_each(|index| keep(&mut own, index, 2));
        assert_eq!(own.take(&entry(5, 2, 5)), Some(command(5)));
        assert_eq!(own.take(&entry(6, 3, 9)), None, "another leader's");
        keep(&mut own, 7, 4);
        assert_eq!(own.take(&entry(7, 4, 7)), Some(command(7)));
        assert_eq!((own.kept.len(), own.bytes), (0, 0));
    }

    #[test]
    fn what_was_skipped_by_a_snapshot_is_dropped() {
        let mut own = OwnCommands::default();
        (1..=9).for_each(|index| keep(&mut own, index, 1));
        assert_eq!(own.take(&entry(20, 3, 1)), None);
        assert_eq!((own.kept.len(), own.bytes), (0, 0));
    }

    #[test]
    fn full_is_full_by_count_and_by_bytes() {
        let mut own = OwnCommands::default();
        (1..=2000).for_each(|index| keep(&mut own, index, 1));
        assert_eq!(own.kept.len(), KEPT_MAX);
        let mut own = OwnCommands::default();
        (1..=20).for_each(|n| own.keep(Index(n), Term(1), 1 << 20, command(n)));
        assert_eq!(own.bytes, KEPT_BYTES_MAX);
        assert_eq!(own.take(&entry(1, 1, 1)), Some(command(1)));
        assert_eq!(own.take(&entry(19, 1, 19)), None, "beyond the bound: read from its entry");
    }
}

//! Where each entry lies: runs of records in segments, so that old entries can be read again.

use std::collections::VecDeque;

use crate::types::{Index, Term};

/// Records that follow each other are one block up to this many bytes: reading an entry scans no more.
const BLOCK_BYTES_MAX: u64 = 64 << 10;

/// Records of one segment that follow each other and hold entries without a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The first entry in force of them.
    pub first: Index,
    /// The last entry in force; what they hold beyond it was superseded.
    pub last: Index,
    /// The segment's number.
    pub segment: u64,
    /// Where the first record begins.
    pub from: u64,
    /// Where the last one ends.
    pub to: u64,
}

/// The entries on disk: blocks without a gap, and the runs of equal terms.
///
/// - Blocks are in ascending order; each begins where the former ends.
/// - Runs are in ascending order of first index, and of term.
#[derive(Clone, Debug, Default)]
pub struct Blocks {
    blocks: VecDeque<Block>,
    runs: VecDeque<(Index, Term)>,
    /// The last entry before the first block.
    base: Index,
}

impl Blocks {
    /// Returns the first entry on disk, or the one that would be first.
    #[must_use]
    pub fn first_index(&self) -> Index {
        self.blocks.front().map_or(self.base.next(), |block| block.first)
    }

    /// Returns the last entry on disk; the one before the first if there is none.
    #[must_use]
    pub fn last_index(&self) -> Index {
        self.blocks.back().map_or(self.base, |block| block.last)
    }

    /// Returns the runs of terms.
    #[must_use]
    pub fn runs(&self) -> Vec<(Index, Term)> {
        self.runs.iter().copied().collect()
    }

    /// Returns the term of the last entry.
    #[must_use]
    pub fn last_term(&self) -> Option<Term> {
        self.runs.back().map(|(_, term)| *term)
    }

    /// Empties the log: it begins after `base` now.
    pub fn reset(&mut self, base: Index) {
        self.blocks.clear();
        self.runs.clear();
        self.base = base;
    }

    /// Says that the log begins after `base`, if it holds nothing yet.
    pub fn set_base(&mut self, base: Index) {
        if self.blocks.is_empty() {
            self.base = base;
        }
    }

    /// Drops the entries from `index` on: others take their place.
    pub fn truncate(&mut self, index: Index) {
        while self.blocks.back().is_some_and(|block| block.first >= index) {
            self.blocks.pop_back();
        }
        if let Some(block) = self.blocks.back_mut() {
            block.last = block.last.min(index.prev());
        }
        while self.runs.back().is_some_and(|(first, _)| *first >= index) {
            self.runs.pop_back();
        }
        if self.blocks.is_empty() {
            self.base = self.base.min(index.prev());
        }
    }

    /// Notes a record with entries `terms`, the first of which is `first`, between the offsets `from`
    /// and `to` of a segment. Entries at and above `first` are superseded.
    ///
    /// # Errors
    /// If there is a gap before `first`.
    pub fn append(
        &mut self,
        first: Index,
        terms: &[Term],
        segment: u64,
        from: u64,
        to: u64,
    ) -> Result<(), &'static str> {
        let Some(more) = (terms.len() as u64).checked_sub(1) else { return Ok(()) };
        if first > self.last_index().next() || first <= self.base {
            return Err("entries that do not follow those before them");
        }
        let continues = first == self.last_index().next();
        self.truncate(first);
        for (position, term) in (0..).zip(terms) {
            if self.last_term() != Some(*term) {
                self.runs.push_back((Index(first.0 + position), *term));
            }
        }
        let last = Index(first.0 + more);
        match self.blocks.back_mut() {
            Some(block)
                if continues
                    && block.segment == segment
                    && block.to == from
                    && to - block.from <= BLOCK_BYTES_MAX =>
            {
                block.last = last;
                block.to = to;
            }
            Some(_) | None => self.blocks.push_back(Block { first, last, segment, from, to }),
        }
        Ok(())
    }

    /// Drops everything in segments below `segment`.
    pub fn release(&mut self, segment: u64) {
        while let Some(block) = self.blocks.front().copied() {
            if block.segment >= segment {
                break;
            }
            self.blocks.pop_front();
            self.base = block.last;
        }
        let first = self.first_index();
        while let (Some(_), Some((next, _))) = (self.runs.front(), self.runs.get(1)) {
            if *next > first {
                break;
            }
            self.runs.pop_front();
        }
        if let Some(run) = self.runs.front_mut() {
            run.0 = run.0.max(first);
        }
    }

    /// Returns the last entry in force that lies in a segment, if any does.
    #[must_use]
    pub fn last_in(&self, segment: u64) -> Option<Index> {
        let place = self.blocks.partition_point(|block| block.segment <= segment);
        let block = self.blocks.get(place.checked_sub(1)?)?;
        (block.segment == segment).then_some(block.last)
    }

    /// Returns the first of the last `entries_max` entries, or a later one: reading from there on reads
    /// at most one block more than `bytes_max`. `None` if there are no entries.
    #[must_use]
    pub fn tail_from(&self, entries_max: u64, bytes_max: u64) -> Option<Index> {
        let mut bytes = 0;
        let mut blocks = self.blocks.iter().rev().take_while(|block| {
            let enough = bytes > bytes_max;
            bytes += block.to - block.from;
            !enough
        });
        let newest = blocks.next()?;
        let oldest = blocks.last().unwrap_or(newest);
        Some(oldest.first.max(Index((newest.last.0 + 1).saturating_sub(entries_max))))
    }

    /// Returns the blocks that hold the entries `from` to `to`.
    #[must_use]
    pub fn covering(&self, from: Index, to: Index) -> Vec<Block> {
        let start = self.blocks.partition_point(|block| block.last < from);
        self.blocks.range(start..).take_while(|block| block.first <= to).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn superseded_entries_are_forgotten_where_they_lay() {
        let mut blocks = Blocks::default();
        blocks.append(Index(1), &[Term(1); 10], 0, 0, 100).unwrap();
        blocks.append(Index(5), &[Term(2); 2], 0, 100, 150).unwrap();
        assert_eq!(blocks.last_index(), Index(6));
        assert_eq!(blocks.runs(), [(Index(1), Term(1)), (Index(5), Term(2))]);
        let covering = blocks.covering(Index(4), Index(6));
        assert_eq!(covering.len(), 2);
        assert_eq!(covering[0].last, Index(4));
    }

    #[test]
    fn the_tail_is_bounded_by_entries_and_by_bytes() {
        let mut blocks = Blocks::default();
        assert_eq!(blocks.tail_from(10, 100), None);
        for (at, first) in (0..).zip([1, 11, 21]) {
            let (from, to) = (at * BLOCK_BYTES_MAX, (at + 1) * BLOCK_BYTES_MAX);
            blocks.append(Index(first), &[Term(1); 10], 0, from, to).unwrap();
        }
        assert_eq!(blocks.tail_from(3, u64::MAX), Some(Index(28)));
        assert_eq!(blocks.tail_from(1000, u64::MAX), Some(Index(1)));
        assert_eq!(blocks.tail_from(1000, BLOCK_BYTES_MAX), Some(Index(11)));
        assert_eq!(blocks.tail_from(1000, 0), Some(Index(21)));
    }

    #[test]
    fn a_gap_is_refused() {
        let mut blocks = Blocks::default();
        assert!(blocks.append(Index(2), &[Term(1)], 0, 0, 10).is_err());
        blocks.reset(Index(7));
        assert!(blocks.append(Index(7), &[Term(1)], 0, 0, 10).is_err());
        assert!(blocks.append(Index(8), &[Term(1)], 0, 0, 10).is_ok());
    }

    #[test]
    fn released_segments_take_their_runs_along() {
        let mut blocks = Blocks::default();
        blocks.append(Index(1), &[Term(1); 3], 0, 0, 10).unwrap();
        blocks.append(Index(4), &[Term(2); 3], 1, 0, 10).unwrap();
        blocks.append(Index(7), &[Term(2); 3], 2, 0, 10).unwrap();
        assert_eq!(blocks.last_in(1), Some(Index(6)));
        blocks.release(2);
        assert_eq!((blocks.first_index(), blocks.last_index()), (Index(7), Index(9)));
        assert_eq!(blocks.runs(), [(Index(7), Term(2))]);
    }
}

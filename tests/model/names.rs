//! Other names for nodes and sessions, so that states which differ in their names alone are one state.

use std::collections::BTreeSet;
use std::hash::Hasher;

use raftq::raft::essence::Names;
use raftq::types::{NodeId, Term};

/// All orders of three nodes: the second id of each is what the first node is called, and so on.
pub(crate) const ORDERS: [[u8; 3]; 6] =
    [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/// The sessions that a state names, by term and follower, ascending. A session's name is its rank:
/// how large its number is says only how much happened before.
#[derive(Debug, Default)]
pub(crate) struct Sessions(BTreeSet<(Term, NodeId, u64)>);

impl Sessions {
    /// Adds a session; 0 is none.
    pub(crate) fn note(&mut self, term: Term, follower: NodeId, session: u64) {
        if session > 0 {
            self.0.insert((term, follower, session));
        }
    }

    fn rank(&self, term: Term, follower: NodeId, session: u64) -> u64 {
        self.0.range((term, follower, 0)..(term, follower, session + 1)).count() as u64
    }
}

/// Names in one order of the nodes.
#[derive(Debug)]
pub(crate) struct Renamed<'a> {
    /// What each node is called.
    pub(crate) order: [u8; 3],
    /// The sessions of the state.
    pub(crate) sessions: &'a Sessions,
}

impl Names for Renamed<'_> {
    fn node(&self, id: NodeId) -> u8 {
        self.order[usize::try_from(id.0).unwrap() - 1]
    }

    fn session(&self, term: Term, follower: NodeId, session: u64) -> u64 {
        if session == 0 { 0 } else { self.sessions.rank(term, follower, session) }
    }
}

/// A hasher of 128 bits, quick on the small numbers that states are made of: two lanes of
/// multiply-and-fold (Yi, wyhash). What it is to withstand is chance, not malice.
#[derive(Clone, Debug)]
pub(crate) struct Folding(u64, u64);

impl Folding {
    pub(crate) fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03)
    }

    fn fold(one: u64, other: u64) -> u64 {
        let wide = u128::from(one) * u128::from(other);
        #[expect(clippy::cast_possible_truncation, reason = "the two halves, folded")]
        {
            (wide as u64) ^ ((wide >> 64) as u64)
        }
    }

    fn add(&mut self, word: u64) {
        self.0 = Self::fold(self.0 ^ word, 0xa076_1d64_78bd_642f).wrapping_add(self.1);
        self.1 = Self::fold(self.1 ^ word.rotate_left(32), 0xe703_7ed1_a0b4_28db) ^ self.0;
    }
}

impl Hasher for Folding {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.add(u64::from_le_bytes(word));
        }
        self.add(bytes.len() as u64);
    }

    fn write_u8(&mut self, number: u8) {
        self.add(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        self.add(number);
    }

    fn write_usize(&mut self, number: usize) {
        self.add(number as u64);
    }

    fn write_isize(&mut self, number: isize) {
        self.add(number.cast_unsigned() as u64);
    }

    fn finish(&self) -> u64 {
        Self::fold(self.0 ^ 0x8ebc_6af0_9c88_c6e3, self.1 ^ 0x5899_65cc_7537_4cc3)
    }
}

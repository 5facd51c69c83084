//! Two groups of three replicas in memory, one of our core and one of the raft crate, driven alike.
//!
//! A turn proposes some entries at the leader, all in one call, and then delivers messages until none is left. Whoever
//! has heard something takes all of it in, then looks at what its core asks for: entries are kept in memory at once,
//! which is all the disk there is; messages go into the receiver's inbox as values; committed entries are counted and
//! dropped.
//!
//! Neither log grows: once a node keeps more than [`KEPT_MAX`] entries that it has handed out, all but the last
//! [`KEPT_MIN`] of these go. No time passes while turns are measured, so that no heartbeats and no timeouts are.

pub mod ours;
pub mod theirs;

use bytes::Bytes;

/// How many nodes there are.
pub const NODES: usize = 3;

/// Where the leader is among them.
pub const LEADER: usize = 0;

/// What an entry carries, in bytes.
pub const PAYLOAD_BYTES: usize = 256;

/// How many entries that were handed out a node keeps at least, once it has had so many.
pub const KEPT_MIN: u64 = 1_000;

/// How many such entries a node keeps at most.
pub const KEPT_MAX: u64 = 2_000;

/// How followers hear that an entry is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    /// In a message of its own.
    AtOnce,
    /// With the next entries.
    WithNext,
}

/// One group of replicas.
pub trait Group {
    /// Proposes an entry for each of `data` at the leader and lets the group come to rest.
    fn turn(&mut self, data: Vec<Bytes>);

    /// Returns how many entries each node has handed out as committed since the start.
    fn handed_out(&self) -> [u64; NODES];
}

/// Makes what so many entries carry: a buffer of its own for each, as a caller would have it.
#[must_use]
pub fn payloads(count: usize) -> Vec<Bytes> {
    (0..count).map(|_| Bytes::from(vec![7; PAYLOAD_BYTES])).collect()
}

/// Lets all nodes `hear`, one after the other, until none has anything to take in any more.
fn settle(mut hear: impl FnMut(usize) -> bool) {
    while (0..NODES).fold(false, |is_busy, at| is_busy | hear(at)) {}
}

/// Returns the first entry to keep for a node that keeps those from `first` on and has handed out those up to
/// `applied`; `None`: nothing is to go yet.
fn first_to_keep(first: u64, applied: u64) -> Option<u64> {
    (applied + 1 - first > KEPT_MAX).then(|| applied + 1 - KEPT_MIN)
}

#[cfg(test)]
mod tests {
    use super::{Group, NODES, Telling, ours::Ours, payloads, theirs::Theirs};

    fn check(mut group: impl Group, telling: Telling) {
        let start = group.handed_out();
        assert_eq!(start, [start[0]; NODES], "the election has left something to hand out");
        for proposals in [1, 16, 64, 256, 256, 256].repeat(20) {
            let before = group.handed_out();
            group.turn(payloads(proposals));
            let after = group.handed_out();
            let added = proposals as u64;
            assert_eq!(after[0], before[0] + added);
            match telling {
                Telling::AtOnce => assert_eq!(after, [after[0]; NODES]),
                Telling::WithNext => assert_eq!(after, [after[0], before[0], before[0]]),
            }
        }
    }

    #[test]
    fn each_turn_of_ours_commits_its_proposals() {
        for telling in [Telling::AtOnce, Telling::WithNext] {
            check(Ours::new(telling), telling);
        }
    }

    #[test]
    fn each_turn_of_the_raft_crate_commits_its_proposals() {
        for telling in [Telling::AtOnce, Telling::WithNext] {
            check(Theirs::new(telling), telling);
        }
    }
}

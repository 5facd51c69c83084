//! What a majority of the voters has reached.

/// Voters in one configuration, at most (`raft-consensus.md`, cluster sizing).
pub const VOTERS_MAX: usize = 7;

/// Returns how many of `voters` make a majority.
#[must_use]
pub fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// Returns the largest value that a majority of the voters has reached or passed, given what each
/// of them has reached (Raft paper §5.3).
///
/// The values are sorted here, each time: seven numbers are cheaper to sort than an order kept
/// elsewhere is to trust.
///
/// # Panics
/// If there is no voter, or more than [`VOTERS_MAX`]: no configuration is like that.
#[must_use]
pub fn reached_by_majority(values: impl IntoIterator<Item = u64>) -> u64 {
    let mut buffer = [0; VOTERS_MAX];
    let mut count = 0;
    for value in values {
        let slot = buffer.get_mut(count).expect("a configuration has at most VOTERS_MAX voters");
        *slot = value;
        count += 1;
    }
    let reached = buffer.get_mut(..count).expect("count is at most the buffer's length");
    reached.sort_unstable_by(|a, b| b.cmp(a));
    *reached.get(majority(count) - 1).expect("a configuration has a voter")
}

/// How an election stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tally {
    /// A majority said yes.
    Won,
    /// So many said no that no majority can say yes.
    Lost,
    /// Neither yet.
    Open,
}

/// Counts the votes of an election among `voters`.
#[must_use]
pub fn tally(voters: usize, granted: usize, refused: usize) -> Tally {
    if granted >= majority(voters) {
        Tally::Won
    } else if voters.saturating_sub(refused) < majority(voters) {
        Tally::Lost
    } else {
        Tally::Open
    }
}

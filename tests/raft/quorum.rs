//! Majorities against a naive count: openraft #1802 committed with 2 of 5, hashicorp/raft 163a55f
//! was off by one for even clusters (R17).

use proptest::prelude::*;
use raftq::raft::quorum::{Tally, majority, reached_by_majority, tally};

/// Counts, for each value, how many have reached it, and takes the largest with a majority.
fn naive(values: &[u64]) -> u64 {
    let has_majority = |wanted: &u64| {
        let reached = values.iter().filter(|value| *value >= wanted).count();
        2 * reached > values.len()
    };
    values.iter().copied().filter(has_majority).max().unwrap()
}

#[test]
fn r17_majority_is_more_than_half() {
    let majorities: Vec<usize> = (1..=7).map(majority).collect();
    assert_eq!(majorities, [1, 2, 2, 3, 3, 4, 4]);
}

#[test]
fn r17_two_of_five_is_no_majority() {
    assert_eq!(reached_by_majority([9, 9, 1, 1, 1]), 1);
    assert_eq!(reached_by_majority([9, 9, 9, 1, 1]), 9);
    assert_eq!(reached_by_majority([9, 9, 1, 1]), 1);
    assert_eq!(reached_by_majority([5]), 5);
}

#[test]
#[should_panic(expected = "at most VOTERS_MAX")]
fn quorum_of_eight_is_a_broken_configuration() {
    assert_eq!(reached_by_majority([0; 8]), 0);
}

proptest! {
    #[test]
    fn r17_quorum_equals_the_naive_count(values in prop::collection::vec(0_u64..12, 1..=7)) {
        prop_assert_eq!(reached_by_majority(values.iter().copied()), naive(&values));
    }

    #[test]
    fn tally_is_won_or_lost_exactly_when_nothing_can_change_it(
        voters in 1_usize..=7,
        granted in 0_usize..=7,
        refused in 0_usize..=7,
    ) {
        prop_assume!(granted + refused <= voters);
        let best = voters - refused;
        let expected = if 2 * granted > voters {
            Tally::Won
        } else if 2 * best > voters {
            Tally::Open
        } else {
            Tally::Lost
        };
        prop_assert_eq!(tally(voters, granted, refused), expected);
    }
}

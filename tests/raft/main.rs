//! The Raft core, tested by itself: the paper sentence by sentence, the rules that real engines
//! broke, scripts of whole scenes, and random runs that check every promise after every turn.
//!
//! R-numbers in names (`r14_...`) are those of the project's list of rules that real Raft engines
//! broke; each such test says the rule in full and where it was broken.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test that meets the unexpected should stop there"
)]

mod disk;
mod golden;
mod healing;
mod paper;
mod quorum;
mod random;
mod reads;
mod rules_log;
mod rules_more;
mod rules_votes;
mod world;

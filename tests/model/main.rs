//! Small scopes of the real core as a model for stateright: every state of a scope, if the search comes to its
//! end, which it says. States are known by prints of 64 bits: that among 4 million of them two differ and are
//! taken for one has a chance of about one in a million. Time, disks that damage a part of what they hold, changes
//! of configuration and transfers of leadership are in no scope.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a search that meets the unexpected should stop there, and says what it saw"
)]

mod check;
#[path = "../raft/disk.rs"]
mod disk;
mod names;
mod scope;
mod scopes;
mod search;
mod world;

//! Small scopes, exhaustively: the real core as a model for stateright.

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

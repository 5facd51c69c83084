//! The sockets of a node over real loopback connections, with the test in the Raft thread's place.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a helper that fails has to fail its test"
)]

mod attending;
mod bulk;
mod client;
mod direct;
mod http;
mod node;
mod opening;
mod peers;
mod session;
mod text;

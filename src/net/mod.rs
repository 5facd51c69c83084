//! Sockets: one port for frames, text and HTTP, and the links to the other nodes.
//!
//! A connection's way through the house:
//!
//! - [`listener`] accepts it and counts it; [`sniff`] tells by its first byte what it speaks.
//! - Frames: [`handshake`] decides whether the caller is welcome, then [`session`] serves a client
//!   (its state is [`flights`], its rules are [`gate`], its codec is [`guard`], its answers' short way is [`direct`]), [`link`] a node's Raft lane and [`bulk`] a
//!   node's lane for snapshots.
//! - Text: [`text`] reads lines and answers from the node's own view; [`http`] answers `/metrics`,
//!   `/healthz` and `/readyz`.
//!
//! The other way, [`peers`] keeps one link to each other node, and [`bulk`] carries a snapshot to one
//! that is far behind. Everything that reaches the Raft thread goes through [`inbox`]; what the whole
//! room shares is [`shared`], what it counts is [`metrics`], and [`server`] starts and ends it all.
//!
//! No task waits for the Raft thread to have room, and the Raft thread never waits for a task: lanes
//! are bounded and taken with `try_send`, in both directions.

pub mod bulk;
pub mod conn;
pub mod direct;
pub mod flights;
pub mod gate;
pub mod guard;
pub mod handshake;
pub mod http;
pub mod inbox;
pub mod link;
pub mod listener;
pub mod metrics;
pub mod peers;
pub mod server;
pub mod session;
pub mod shared;
pub mod sniff;
pub mod text;

//! One snapshot on its way to one follower, on a connection of its own: chunks, a window, and resuming.
//!
//! A snapshot never shares a connection with heartbeats, nor a thread with the Raft thread: files are
//! read, written, checked and decoded on threads that may block. [`sending`] is the leader's end,
//! [`receiving`] the follower's.

pub mod receiving;
pub mod sending;

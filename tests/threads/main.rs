//! The thread wall: the hand-off between the sessions, the Raft thread and the disk's threads, in
//! many thousand orders of events, chosen by shuttle.
//!
//! What runs is the code itself: `src/storage` as a whole, `src/net/inbox.rs` and `src/node/seat.rs` are compiled into
//! this test once more, unchanged. Only what they import as `crossbeam_channel` and
//! `async_std::channel` is `lanes` here, whose every call is a point at which another thread may go on.

#![expect(clippy::unwrap_used, reason = "a search that meets the unexpected should stop there")]

// The names by which that code imports its channels.
extern crate self as async_std;
extern crate self as crossbeam_channel;

pub(crate) use lanes::{
    Receiver, RecvTimeoutError, Sender, TryRecvError, TrySendError, bounded, channel,
};
pub(crate) use raftq::{jobs, pack, planted, raft, replica, types, wire};

mod disk;
#[path = "../../src/net/inbox.rs"]
#[expect(dead_code, unreachable_pub, reason = "only a part of it is called from here")]
mod inbox;
mod lanes;
#[path = "../../src/node/seat.rs"]
mod room;
mod seat;
mod sessions;
#[path = "../../src/storage/mod.rs"]
#[expect(dead_code, unreachable_pub, reason = "only a part of it is called from here")]
mod storage;

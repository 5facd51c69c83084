//! The disk: the log in segments, snapshots in files, and the threads that wait for both.
//!
//! - `disk`: the few things asked of a file system, and the real one; `memory`: one in memory that can
//!   crash and fail, for tests;
//! - `format`: records of the log, bytes to items and back;
//! - `log`: the segmented log: append, roll, release; `recover`: what a start makes of it; `blocks`:
//!   where each entry lies, so that old ones can be read;
//! - `snapshot`: snapshot files, written, received, sent, loaded; `snapshot_file`: the bytes of one;
//! - `healing`: damaged files set aside, so that a node can heal from its peers;
//! - `identity`: whose directory it is, and the lock on it;
//! - `doctor`: what a directory holds and what of it is broken, with `autopsy`, which reads a log past its
//!   damage, and `read_only`, a disk that cannot be changed;
//! - `threads`: the handle the Raft thread holds, and what works behind it.

pub mod autopsy;
pub mod blocks;
mod clock;
pub mod disk;
pub mod doctor;
pub mod error;
pub mod format;
pub mod healing;
pub mod identity;
pub mod log;
pub mod memory;
pub mod read_only;
pub mod recover;
pub mod snapshot;
pub mod snapshot_file;
pub mod threads;

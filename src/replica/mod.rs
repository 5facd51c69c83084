//! One turn of a replica: consensus and the queue joined, without a clock, a thread or a disk.
//!
//! [`core::Replica::turn`] takes the world's time and everything that happened ([`input::Input`]),
//! and returns what the world must do ([`input::Output`]), in the order in which it must be done.
//! The node's Raft thread and the simulator run the same turns.
//!
//! - `requests`: submits and reports share entries, reads share a confirmation;
//! - `answering`: every waiter hears once, definite or unknown;
//! - `leading`: the leader gives out jobs, judges workers, completes the configuration;
//! - `own`: the commands of its own proposals, which it need not read again;
//! - `waiters`, `reads`: who waits for which entry, which index, which job;
//! - `clock`, `liveness`: the log's time, and who is alive;
//! - `reading`, `status`, `view`: what a replica shows of itself.

mod answering;
pub mod clock;
pub mod core;
mod crons;
pub mod history;
pub mod input;
mod leading;
pub mod liveness;
mod own;
mod readiness;
pub mod reading;
pub mod reads;
mod requests;
mod status;
pub mod view;
pub mod waiters;

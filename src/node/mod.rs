//! Wiring: a node's configuration, its clock, its threads, its start and its end.
//!
//! - `config`: what a node is told, checked;
//! - `clock`: the one room with a clock;
//! - `thread`: the Raft thread's loop;
//! - `seat`: where it leaves its state, so that others take a turn;
//! - `snapshots`, `reports`: what the sockets and the built-in worker need of the rest;
//! - `process`: start, signals, stop.

pub mod clock;
pub mod config;
pub mod process;
mod reports;
mod seat;
pub(crate) mod snapshots;
mod thread;

//! Running jobs: the guard process, its commands, and the worker built into a node.
//!
//! Two processes share this room. The **node** decides what runs; the **guard**, a child of the node
//! started once, is the parent of every command and the one who ends them when the node may no
//! longer run them, even if the node is dead (`kill -9`) or stands still (`SIGSTOP`):
//!
//! ```text
//! node: runner -> link == orders, lease ==> guard -> command, command, command
//!              <- link <== how they ended ==       (each in a process group of its own)
//! ```
//!
//! The guard's side:
//! - `guard`: its loop: orders, the lease, the end;
//! - `command`: one command from start to verdict;
//! - `table`: what runs, and who may signal or reap whom;
//! - `proc`: what `/proc` tells of processes that left their group.
//!
//! Between them: `protocol`, the frames on the two pipes, and `clock`, the one clock both read.
//!
//! The node's side:
//! - `runner`: the built-in worker from outside: start, watch, stop;
//! - `life`: its one task: registers, keeps its lease, begins, reports;
//! - `answers`: what the leader's answers mean to it;
//! - `watch`: how it looks after its guard;
//! - `leaving`: how it stops;
//! - `holdings`: what it holds, as a value without a clock or a process;
//! - `outbox`: what it still has to tell the leader;
//! - `reports`: how it tells (a trait, so that tests can play the leader);
//! - `call`: when it tells again;
//! - `link`: the guard as the node sees it;

pub mod answers;
mod call;
pub mod clock;
mod command;
pub mod guard;
pub mod holdings;
pub mod leaving;
mod life;
pub mod link;
pub mod outbox;
pub(crate) mod proc;
pub mod protocol;
pub mod reports;
pub mod runner;
mod table;
mod watch;

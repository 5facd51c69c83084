//! Consensus, sans-IO: one Raft group that takes messages and ticks and returns effects.
//!
//! `message` and `effects` are what comes in and goes out, `core` is the state and its calls.
//! `election`, `follower`, `replication`, `read`, `transfer` and `healing` are what a node does in its
//! roles;
//! `log`, `durability` and `apply` are an entry's way from memory to disk to machine;
//! `peer`, `quorum`, `configuration`, `config`, `status` and `dice` are the parts they share;
//! `essence` is what a checker compares of all that.

mod apply;
pub mod config;
pub mod configuration;
pub mod core;
mod dice;
mod durability;
pub mod effects;
mod election;
pub mod essence;
mod follower;
mod healing;
mod log;
pub mod message;
mod peer;
pub mod quorum;
mod read;
mod replication;
pub mod status;
mod transfer;

//! A world in one thread: whole replicas and their storage on a virtual network, disk and clock, with virtual clients
//! and workers, checked while it runs. The same seed gives the same history.
//!
//! - `world`: the nodes, what is on its way between them, and how time passes; `event`: what can happen, and in
//!   which order; `turning`: the turns of a node; `transfers`: snapshots on their way;
//! - `node`: one node; `store`: the production storage under it; `disk`: what of it survives; `settings`: its limits;
//! - `faults`: what goes wrong, as a list; `trouble`: how it does; `network`: who hears whom;
//! - `truth`: what must hold at every step; `checks`: what clients and workers must see;
//! - `actors`: clients that submit and workers that run jobs.

pub mod actors;
pub mod checks;
pub mod disk;
mod event;
pub mod faults;
mod network;
mod node;
mod settings;
mod store;
mod transfers;
mod trouble;
mod truth;
mod turning;
pub mod world;

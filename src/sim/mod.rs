//! A world in one thread: whole replicas and their storage on a virtual network, disk and clock, with virtual clients
//! and workers, checked while it runs. The same seed gives the same history.
//!
//! - `world`: the nodes, what is on its way between them, and how time passes; `event`: what can happen, and in
//!   which order; `turning`: the turns of a node; `transfers`: snapshots on their way;
//! - `node`: one node; `starting`: its starts, whole or healing; `store`: the production storage under it; `disk`: what of it survives; `settings`: its limits;
//! - `faults`: what goes wrong, as a list; `trouble`: how it does; `network`: who hears whom;
//! - `truth`: what must hold of every node at every step; `healing`: and of one that heals, its disk damaged;
//! - `actors`: everybody outside: each `client`, `newcomer` and `worker`, with the production's own decisions
//!   (`calling`, `home`);
//! - `recorder`, `holders`: what they were told, and who runs what;
//! - `checks`: what must hold for them at every step and at the end of a round; `shadow`: what each entry came to, `crons`: and each slot of a cron;
//! - `history`, `rules`: what clients asked and were told, and the rules for all of it;
//! - `generate`: histories that are legal by construction;
//! - `linear`, `job_model`: whether a history is one that a single copy could have produced;
//! - `runner`: many worlds, one after the other, and what came of them; `shrink`: fewer faults that do the same.

pub mod actors;
pub mod calling;
pub mod checks;
pub mod client;
pub mod crons;
pub mod disk;
mod event;
pub mod faults;
pub mod generate;
mod healing;
pub mod history;
pub mod holders;
pub mod home;
pub mod job_model;
pub mod linear;
mod network;
pub mod newcomer;
mod node;
pub mod recorder;
pub mod rules;
pub mod runner;
mod settings;
pub mod shadow;
pub mod shrink;
mod starting;
mod store;
mod transfers;
mod trouble;
mod truth;
mod turning;
pub mod watcher;
pub mod worker;
pub mod world;

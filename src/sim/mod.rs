//! A world in one thread: whole replicas on a virtual network, disk and clock, with virtual clients
//! and workers, checked while it runs. The same seed gives the same history.
//!
//! - `world`: the nodes, what is on its way between them, and what goes wrong;
//! - `event`: what can happen, and in which order;
//! - `disk`: what a node has written, and what of it survives a crash;
//! - `actors`: everybody outside: each `client` and each `worker`, with the production's own decisions (`calling`, `home`);
//! - `recorder`, `holders`: what they were told, and who runs what;
//! - `checks`: what must hold at every step and at the end of a round; `shadow`: what each entry came to;
//! - `history`, `rules`: what clients asked and were told, and the rules for all of it;
//! - `generate`: histories that are legal by construction;
//! - `linear`, `job_model`: whether a history is one that a single copy could have produced.

pub mod actors;
pub mod calling;
pub mod checks;
pub mod client;
pub mod disk;
mod event;
pub mod generate;
pub mod history;
pub mod holders;
pub mod home;
pub mod job_model;
pub mod linear;
pub mod recorder;
pub mod rules;
pub mod shadow;
pub mod worker;
pub mod world;

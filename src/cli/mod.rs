//! The command line: one file for each group of verbs, and what they share.
//!
//! - [`args`] is the grammar (what clap parses), [`run`] sends each verb to its file.
//! - Verbs: [`submit`] and [`batch`], with [`asks`] (what a job asks for), [`jobs`] (get, list, wait, cancel),
//!   [`list_watch`], [`show`], [`why`], [`dead`], [`queues`], [`cron`], [`workers`], [`worker`] with [`mod@exec`],
//!   [`saying`] (progress, result), [`watch`], [`top`], [`cluster`], [`log`], [`node`], [`sim`], [`mod@bench`],
//!   [`bench_jobs`] and [`bench_end`], [`doctor`].
//! - Shared: [`values`] (durations, sizes, addresses), [`times`] (points in time), [`progress`], [`target`] (which nodes to ask), [`session`]
//!   (the client library and what its errors mean for a user), [`shape`] (the JSON objects),
//!   [`out`] (stdout, tables), [`exit`] (exit codes), [`deadline`] (time left),
//!   [`reads`] (how a read is done).
//!
//! Data goes to stdout, everything said to a person goes to stderr, and the exit code tells a
//! script what happened ([`exit::Exit`]).

pub mod args;
pub mod asks;
pub mod batch;
pub mod bench;
pub mod bench_end;
pub mod bench_jobs;
pub mod cluster;
pub mod cron;
pub mod dead;
pub mod deadline;
pub mod doctor;
pub mod exec;
pub mod exit;
pub mod jobs;
pub mod list_watch;
pub mod log;
pub mod node;
pub mod out;
pub mod progress;
pub mod queues;
pub mod reads;
pub mod run;
pub mod saying;
pub mod screen;
pub mod session;
pub mod shape;
pub mod show;
pub mod sim;
pub mod submit;
pub mod target;
pub mod times;
pub mod top;
pub mod values;
pub mod watch;
pub mod why;
pub mod worker;
pub mod workers;

//! The replicated job queue: a fold of the log, and nothing else.
//!
//! Read [`job`] and [`command`] first: they are the language spoken with everybody else. Then the
//! machine, from the outside in:
//!
//! - [`codec`]: a stamped command to bytes of the log, and back.
//! - [`machine`]: the state, what can be asked of it, and `apply`; the commands themselves are in
//!   `apply` (jobs), `attempts` (what follows a failure), `registration` and `saying` (workers), [`queue`] (the rules of
//!   queues), [`timers`] (what happens by itself) and `retention` (forgetting).
//! - The books that `apply` keeps beside the jobs, each with its own indexes, counts and share of
//!   the [`digest`]: [`books`] (of jobs), [`registry`] (of workers), [`forgotten`] (of ids).
//! - [`unique`]: the keys of unique jobs.
//! - [`ordered`]: the maps of what there may be millions of, of which an image costs nothing.
//! - [`cron`] and [`cron_spec`]: jobs that are submitted again and again, and when; [`crons`]: their table;
//!   [`cron_slots`]: their next slot, worked out by the leader only.
//! - [`scheduler`]: which pending job goes to which worker; pure, run by the leader only.
//! - [`list`]: pages of jobs, with [`find`] for a text in them; [`why`]: what a job waits for, as [`reason`]s.
//! - [`image`]: the machine as records of a snapshot; [`restore`]: the way back.
//! - [`change`]: what each entry changed, for those who watch.
//! - [`check`]: everything counted anew, for tests and after a restore.
//!
//! Nothing here reads a clock, draws a number or depends on the order of anything but its input.

#[cfg(feature = "server")]
mod apply;
#[cfg(feature = "server")]
mod attempts;
#[cfg(feature = "server")]
pub mod books;
pub mod change;
#[cfg(feature = "server")]
pub mod check;
#[cfg(feature = "server")]
pub mod codec;
pub mod command;
pub mod cron;
#[cfg(feature = "server")]
pub mod cron_slots;
pub mod cron_spec;
#[cfg(feature = "server")]
pub mod crons;
#[cfg(feature = "server")]
pub mod digest;
#[cfg(feature = "server")]
pub mod extra;
pub mod find;
#[cfg(feature = "server")]
pub mod forgotten;
#[cfg(feature = "server")]
pub mod image;
pub mod intake;
pub mod job;
#[cfg(feature = "server")]
pub mod lane;
#[cfg(feature = "server")]
pub mod list;
#[cfg(feature = "server")]
pub mod machine;
#[cfg(feature = "server")]
mod noting;
pub mod options;
#[cfg(feature = "server")]
pub mod ordered;
#[cfg(feature = "server")]
pub mod queue;
pub mod reason;
#[cfg(feature = "server")]
mod registration;
#[cfg(feature = "server")]
pub mod registry;
#[cfg(feature = "server")]
pub mod resident;
#[cfg(feature = "server")]
pub mod restore;
#[cfg(feature = "server")]
mod retention;
pub mod rules;
#[cfg(feature = "server")]
mod saying;
#[cfg(feature = "server")]
pub mod scheduler;
#[cfg(feature = "server")]
pub mod timers;
#[cfg(feature = "server")]
pub mod unique;
#[cfg(feature = "server")]
pub mod why;

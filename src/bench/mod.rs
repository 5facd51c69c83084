//! Measuring: what a cluster can do, beside the least that this machine allows, in one run.
//!
//! - [`load`] keeps so many requests in flight and takes the time of each; what it says are [`submits`] to a
//!   cluster, or requests to a floor.
//! - [`floor`] is the yardstick: a leader and followers that write, sync and count a majority, and nothing
//!   else. What a replicated queue can reach at most is what it reaches here.
//! - [`meter`] tells what processes and the machine have used; [`plot`] draws latency against load; [`own`] is a
//!   cluster whose leader may be killed.
//! - [`traces`] knows what was made meanwhile and has to go in the end; [`stop`] is the word to end early.
//!
//! A figure says something only beside another of the same run: machines differ, and one machine differs from
//! minute to minute.

pub mod floor;
pub mod load;
pub mod meter;
pub mod own;
pub mod plot;
pub mod stop;
pub mod submits;
pub mod traces;

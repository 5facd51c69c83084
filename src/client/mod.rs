//! The client library: jobs in, answers out, and workers of one's own. It brings no part of the server.
//!
//! [`client::Client`] is what programs use; [`blocking::Client`] is the same without async; and
//! [`worker::Worker`] runs handlers for payloads. [`error::Error`] says what failed and whether it may have
//! happened all the same.
//!
//! # Jobs
//!
//! ```no_run
//! use raftq::client::client::Client;
//! use raftq::client::error::Error;
//! use raftq::client::job::{Job, new_id};
//!
//! # async fn example() -> Result<(), Error> {
//! // A few nodes of the cluster: any of them may be down, the others are found.
//! let client = Client::builder().seeds(["127.0.0.1:7101", "127.0.0.1:7102"]).build()?;
//!
//! // A command for the workers built into the nodes. With an id of one's own it can be submitted again
//! // when the outcome is unknown, and still exists once.
//! let job = Job::command(["sh", "-c", "echo hello"]).id(new_id());
//! let submitted = match client.submit(job.clone()).await {
//!     Err(Error::Unknown(_)) => client.submit(job).await?,
//!     answer => answer?,
//! };
//! for ended in client.wait(&[submitted.id], None).await? {
//!     match ended {
//!         Ok(job) => println!("{} {}", job.id, job.status.as_str()),
//!         Err(refusal) => println!("{refusal}"),
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # A worker
//!
//! ```no_run
//! use raftq::client::client::Client;
//! use raftq::client::error::Error;
//! use raftq::client::worker::Worker;
//!
//! # async fn example(shutdown: impl Future<Output = ()>) -> Result<(), Error> {
//! let client = Client::builder().seeds(["127.0.0.1:7101", "127.0.0.1:7102"]).build()?;
//! let report = Worker::new(&client)
//!     .name("mailer-1")
//!     .slots(8)
//!     .queue("mail", |context, payload| async move {
//!         // The fence rises with every attempt: a store that remembers the highest can refuse a worker
//!         // that was taken for dead and is not.
//!         println!("job {} attempt {} fence {}", context.id(), context.attempt(), context.fence());
//!         if payload.is_empty() { Err("an empty mail") } else { Ok("sent") }
//!     })
//!     .queue_blocking("thumbnails", |context, _payload| {
//!         context.progress(50, "half of it");
//!         if context.is_cancelled() { Err("nobody wants it") } else { Ok(vec![1, 2, 3]) }
//!     })
//!     .run_until(shutdown)
//!     .await?;
//! println!("{} jobs done, {} given back", report.finished, report.abandoned);
//! # Ok(())
//! # }
//! ```
//!
//! # Without async
//!
//! ```no_run
//! use raftq::client::blocking::Client;
//! use raftq::client::job::Job;
//!
//! # fn example() -> Result<(), raftq::client::error::Error> {
//! let client = Client::builder().seeds(["127.0.0.1:7101"]).build()?;
//! let jobs = ["one", "two", "three"].map(|text| Job::payload("mail", text));
//! for result in client.submit_batch(jobs)? {
//!     match result {
//!         Ok(submitted) => println!("{}", submitted.id),
//!         Err(refusal) => println!("not taken: {refusal}"),
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Inside
//!
//! [`core`] and [`cluster`] decide whom to ask, when, and what the caller is told; `duty` what a worker owes
//! the cluster. They see no clock and no socket: time comes in as a [`moment::Moment`]. Around them,
//! `connection` carries many requests at once (`in_flight` holds them), `pool` keeps one connection to a node, and `client` and
//! `worker` drive it all.

mod batch;
pub mod blocking;
#[expect(clippy::module_inception, reason = "the room's main thing has the room's name")]
pub mod client;
pub(crate) mod clock;
pub mod cluster;
mod connection;
pub mod context;
pub mod core;
pub mod crons;
mod describe;
pub mod duty;
pub mod error;
pub mod handler;
mod in_flight;
pub mod job;
pub mod moment;
mod pool;
pub mod reads;
pub mod watch;
pub mod worker;

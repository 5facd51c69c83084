//! The client library: how a program submits jobs, waits for them, and handles them itself.
//!
//! [`client`] sends every request to whoever can answer it: [`core`] decides (pure, no socket), with what
//! [`directory`] knows of the cluster; [`pool`] keeps a [`connection`] to each node, shared by all calls.
//! [`job`] builds jobs, [`worker`] runs handlers, [`blocking`] is all of it for programs without async.
//! [`error`] tells *no* from *unknown*; [`clock`] is the only place that looks at a clock.
//!
//! Submit a job and wait for its output:
//!
//! ```no_run
//! use raftq::client::{client::Client, error::Error, job::Job};
//!
//! # async fn example() -> Result<(), Error> {
//! let client = Client::builder().seeds(["127.0.0.1:7101", "127.0.0.1:7102"]).build()?;
//! let job = Job::command(["sh", "-c", "echo hello"]).build();
//! // With Error::Unknown the same job may be submitted again: its id makes it one job.
//! client.submit(job.clone()).await?;
//! for ended in client.wait(&[job.id], None).await?.into_iter().flatten() {
//!     println!("{}: {:?}", ended.status.as_str(), ended.output);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Handle the jobs of a queue:
//!
//! ```no_run
//! use raftq::client::{client::Client, error::Error, worker::Worker};
//!
//! # async fn example(shutdown: impl Future<Output = ()>) -> Result<(), Error> {
//! let client = Client::builder().seeds(["127.0.0.1:7101"]).build()?;
//! let report = Worker::new(client)
//!     .name("mailer-7")
//!     .handle("mail", |job| async move { Ok(format!("sent {} bytes", job.payload.len())) })
//!     .handle_blocking("resize", |job| Ok(job.payload.to_vec()))
//!     .slots(8)
//!     .run_until(shutdown)
//!     .await?;
//! println!("{} completed, {} failed", report.completed, report.failed);
//! # Ok(())
//! # }
//! ```
//!
//! Without async:
//!
//! ```no_run
//! use raftq::client::{blocking::Client, error::Error, job::Job};
//!
//! # fn example() -> Result<(), Error> {
//! let client = Client::builder().seeds(["127.0.0.1:7101"]).build()?;
//! let submitted = client.submit(Job::command(["true"]))?;
//! println!("{}", client.get(submitted.id)?.status.as_str());
//! # Ok(())
//! # }
//! ```

pub mod blocking;
#[expect(clippy::module_inception, reason = "the client is what the room is named for")]
pub mod client;
pub mod clock;
pub mod connection;
pub mod core;
pub mod directory;
pub mod error;
pub mod job;
mod life;
pub mod pool;
pub mod worker;

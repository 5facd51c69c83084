//! A worker of one's own: functions that handle the payloads of queues, run by the cluster's rules.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_std::task;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;

use crate::client::client::Client;
use crate::client::error::Error;
use crate::client::life;
use crate::jobs::job::{WORKER_QUEUES_MAX, WORKER_SLOTS_MAX};
use crate::types::{Fence, JobId, QueueName, WorkerId};

/// Jobs handled at once, unless [`Worker::slots`] says otherwise.
const SLOTS: u32 = 8;

/// How long running jobs may go on after a shutdown, unless [`Worker::grace`] says otherwise.
const GRACE: Duration = Duration::from_secs(10);

/// One attempt of one job, handed to a handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// The job.
    pub id: JobId,
    /// 1 for the first attempt; more when a worker was lost with it.
    pub attempt: u32,
    /// Rises with every assignment in the cluster. Hand it to whatever the handler writes to, so that the store
    /// can refuse a lower one than it has seen: then two attempts cannot both write.
    pub fence: Fence,
    /// Its queue.
    pub queue: QueueName,
    /// What was submitted.
    pub payload: Bytes,
}

/// What a worker came to when it was shut down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StopReport {
    /// Jobs reported as completed.
    pub completed: u64,
    /// Jobs reported as failed.
    pub failed: u64,
    /// Results that did not count: the job was cancelled, or taken away.
    pub refused: u64,
    /// Jobs abandoned because the cluster was out of reach for 3 s; they run again elsewhere.
    pub abandoned: u64,
    /// Jobs given back at the end, because they were not done within the grace.
    pub released: u64,
    /// Jobs whose result could not be reported any more at the end; they run again.
    pub unreported: u64,
}

pub(super) type Handler =
    Arc<dyn Fn(Context) -> BoxFuture<'static, Result<Bytes, String>> + Send + Sync>;

/// A worker in the making: give it handlers, then [`Worker::run_until`].
#[must_use]
pub struct Worker {
    client: Client,
    name: Option<String>,
    handlers: BTreeMap<QueueName, Handler>,
    slots: u32,
    grace: Duration,
    /// The first thing that is wrong with it, told when it is run.
    fault: Option<String>,
}

/// What a worker is, once it was checked.
pub(super) struct Config {
    pub(super) client: Client,
    pub(super) name: WorkerId,
    /// At least one.
    pub(super) handlers: BTreeMap<QueueName, Handler>,
    pub(super) slots: u32,
    pub(super) grace: Duration,
}

impl Worker {
    /// Begins a worker that speaks through this client.
    pub fn new(client: Client) -> Self {
        let handlers = BTreeMap::new();
        Self { client, name: None, handlers, slots: SLOTS, grace: GRACE, fault: None }
    }

    /// Names it. A worker started again under its name takes over at once what its former start held; no two
    /// workers may run under one name. Unless named, it gets a random one.
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets how many jobs it handles at once, 1 to [`WORKER_SLOTS_MAX`].
    pub fn slots(mut self, slots: u32) -> Self {
        self.slots = slots;
        self
    }

    /// Sets how long running jobs may go on after a shutdown.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Handles the jobs of a queue with an async function. Its result is the job's output, of which the last
    /// 16 KiB are kept; an error or a panic fails the attempt. It is dropped at an await when the job was taken
    /// away. A function that blocks its thread belongs into [`Worker::handle_blocking`].
    pub fn handle<F, R, O>(self, queue: &str, handler: F) -> Self
    where
        F: Fn(Context) -> R + Send + Sync + 'static,
        R: Future<Output = Result<O, String>> + Send + 'static,
        O: Into<Bytes>,
    {
        let handler = Arc::new(handler);
        self.with(
            queue,
            Arc::new(move |context| {
                let handler = Arc::clone(&handler);
                // Called inside the future, so that a panic before the first await is caught as well.
                async move { handler(context).await.map(Into::into) }.boxed()
            }),
        )
    }

    /// Handles the jobs of a queue with a function that blocks, each on a thread. It cannot be stopped: when the
    /// job was taken away, its result is ignored.
    pub fn handle_blocking<F, O>(self, queue: &str, handler: F) -> Self
    where
        F: Fn(Context) -> Result<O, String> + Send + Sync + 'static,
        O: Into<Bytes>,
    {
        let handler = Arc::new(handler);
        self.with(
            queue,
            Arc::new(move |context| {
                let handler = Arc::clone(&handler);
                let run = move || {
                    let guarded = AssertUnwindSafe(|| handler(context).map(Into::into));
                    match std::panic::catch_unwind(guarded) {
                        Ok(result) => result,
                        Err(panic) => Err(life::panic_text(panic.as_ref())),
                    }
                };
                async move { task::spawn_blocking(run).await }.boxed()
            }),
        )
    }

    fn with(mut self, queue: &str, handler: Handler) -> Self {
        match QueueName::new(queue) {
            Err(error) => self.blame(format!("{queue:?} is no queue: {error}")),
            Ok(name) => {
                if self.handlers.insert(name, handler).is_some() {
                    self.blame(format!("queue {queue:?} has two handlers"));
                }
            }
        }
        self
    }

    fn blame(&mut self, fault: String) {
        self.fault.get_or_insert(fault);
    }

    fn check(self) -> Result<Config, Error> {
        let invalid = |text: String| Err(Error::Invalid(format!("worker: {text}")));
        if let Some(fault) = self.fault {
            return invalid(fault);
        }
        let queues = self.handlers.len();
        if queues == 0 || queues > WORKER_QUEUES_MAX {
            return invalid(format!("{queues} queues; 1 to {WORKER_QUEUES_MAX}"));
        }
        let Self { client, handlers, slots, grace, .. } = self;
        if slots == 0 || slots > WORKER_SLOTS_MAX {
            return invalid(format!("{slots} slots; 1 to {WORKER_SLOTS_MAX}"));
        }
        let name = self.name.unwrap_or_else(|| format!("worker-{:016x}", fastrand::u64(..)));
        let Ok(name) = WorkerId::new(&name) else {
            return invalid(format!("{name:?} is no name: 1 to 64 of A-Z a-z 0-9 . _ -"));
        };
        Ok(Config { client, name, handlers, slots, grace })
    }

    /// Registers and handles jobs until `shutdown` is done; then lets what runs end within the grace, and gives
    /// the rest back. Elections, outages and being judged lost are survived. Dropping the future stops all
    /// handlers, and the cluster gives their jobs to others after 3 s.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a queue has two handlers, or names and numbers are out of bounds;
    /// [`Error::Refused`] if the cluster does not take such a worker.
    pub async fn run_until(self, shutdown: impl Future) -> Result<StopReport, Error> {
        life::run(self.check()?, shutdown).await
    }
}

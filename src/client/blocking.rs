//! The same client for programs without async: each method waits for its answer.

use std::future::Future;
use std::time::Duration;

use async_std::task;
use bytes::Bytes;
use futures::future::{Either, select};

use crate::client::client;
use crate::client::duty::StopReport;
use crate::client::error::Error;
use crate::client::job::Job;
use crate::client::reads::Page;
use crate::client::watch;
use crate::client::worker::Worker;
use crate::jobs::change::{Event, Position};
use crate::jobs::intake::{Intake, ProgressReport};
use crate::jobs::job::{JobView, Status};
use crate::jobs::reason::Explanation;
use crate::jobs::rules::QueueChange;
use crate::types::{Index, JobId, NodeId, QueueName, WorkerId};
use crate::wire::message::{
    ClusterStatus, Filter, LogLine, QueueChanged, QueueView, Refusal, Reply, Request, Submitted,
    WorkerView,
};
use crate::wire::reads::Consistency;

/// A [`client::Client`] whose methods block. Clones share everything; threads may share one.
#[derive(Clone, Debug)]
pub struct Client {
    inner: client::Client,
}

/// Makes a [`Client`].
#[derive(Clone, Debug)]
pub struct Builder {
    inner: client::Builder,
}

impl Builder {
    /// See [`client::Builder::seeds`].
    #[must_use]
    pub fn seeds<S: Into<String>>(self, seeds: impl IntoIterator<Item = S>) -> Self {
        Self { inner: self.inner.seeds(seeds) }
    }

    /// See [`client::Builder::connect_timeout`].
    #[must_use]
    pub fn connect_timeout(self, timeout: Duration) -> Self {
        Self { inner: self.inner.connect_timeout(timeout) }
    }

    /// See [`client::Builder::request_timeout`].
    #[must_use]
    pub fn request_timeout(self, timeout: Duration) -> Self {
        Self { inner: self.inner.request_timeout(timeout) }
    }

    /// See [`client::Builder::name`].
    #[must_use]
    pub fn name(self, agent: impl Into<String>) -> Self {
        Self { inner: self.inner.name(agent) }
    }

    /// See [`client::Builder::build`].
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn build(self) -> Result<Client, Error> {
        self.inner.build().map(Client::from)
    }
}

impl From<client::Client> for Client {
    fn from(inner: client::Client) -> Self {
        Self { inner }
    }
}

impl Client {
    /// Begins to make a client.
    #[must_use]
    pub fn builder() -> Builder {
        Builder { inner: client::Client::builder() }
    }

    /// Returns the async client that it is made of; both share their connections.
    #[must_use]
    pub fn as_async(&self) -> &client::Client {
        &self.inner
    }

    /// See [`client::Client::submit`].
    ///
    /// # Errors
    /// As there.
    pub fn submit(&self, job: impl Into<Job>) -> Result<Submitted, Error> {
        task::block_on(self.inner.submit(job))
    }

    /// See [`client::Client::submit_batch`].
    ///
    /// # Errors
    /// As there.
    pub fn submit_batch<J: Into<Job>>(
        &self,
        jobs: impl IntoIterator<Item = J>,
    ) -> Result<Vec<Result<Submitted, Refusal>>, Error> {
        task::block_on(self.inner.submit_batch(jobs))
    }

    /// See [`client::Client::get`].
    ///
    /// # Errors
    /// As there.
    pub fn get(&self, id: JobId) -> Result<JobView, Error> {
        task::block_on(self.inner.get(id))
    }

    /// See [`client::Client::list`].
    ///
    /// # Errors
    /// As there.
    pub fn list(&self, filter: Filter) -> Result<(Vec<JobView>, bool), Error> {
        task::block_on(self.inner.list(filter))
    }

    /// See [`client::Client::page`].
    ///
    /// # Errors
    /// As there.
    pub fn page(&self, filter: Filter) -> Result<Page, Error> {
        task::block_on(self.inner.page(filter))
    }

    /// See [`client::Client::why`].
    ///
    /// # Errors
    /// As there.
    pub fn why(&self, id: JobId) -> Result<Explanation, Error> {
        task::block_on(self.inner.why(id))
    }

    /// See [`client::Client::read`].
    ///
    /// # Errors
    /// As there.
    pub fn read(
        &self,
        read: Request,
        consistency: Consistency,
        options: client::CallOptions,
    ) -> Result<(Reply, Index), Error> {
        task::block_on(self.inner.read(read, consistency, options))
    }

    /// See [`client::Client::wait`].
    ///
    /// # Errors
    /// As there.
    pub fn wait(
        &self,
        ids: &[JobId],
        limit: Option<Duration>,
    ) -> Result<Vec<Result<JobView, Refusal>>, Error> {
        task::block_on(self.inner.wait(ids, limit))
    }

    /// See [`client::Client::cancel`].
    ///
    /// # Errors
    /// As there.
    pub fn cancel(&self, ids: &[JobId]) -> Result<Vec<Result<Status, Refusal>>, Error> {
        task::block_on(self.inner.cancel(ids))
    }

    /// See [`client::Client::retry`].
    ///
    /// # Errors
    /// As there.
    pub fn retry(&self, ids: &[JobId]) -> Result<Vec<Result<(), Refusal>>, Error> {
        task::block_on(self.inner.retry(ids))
    }

    /// See [`client::Client::purge`].
    ///
    /// # Errors
    /// As there.
    pub fn purge(&self, ids: &[JobId]) -> Result<Vec<Result<(), Refusal>>, Error> {
        task::block_on(self.inner.purge(ids))
    }

    /// See [`client::Client::change_queue`].
    ///
    /// # Errors
    /// As there.
    pub fn change_queue(
        &self,
        queue: QueueName,
        change: QueueChange,
    ) -> Result<QueueChanged, Error> {
        task::block_on(self.inner.change_queue(queue, change))
    }

    /// See [`client::Client::change_worker`].
    ///
    /// # Errors
    /// As there.
    pub fn change_worker(&self, worker: WorkerId, intake: Intake) -> Result<u32, Error> {
        task::block_on(self.inner.change_worker(worker, intake))
    }

    /// See [`client::Client::report_progress`].
    ///
    /// # Errors
    /// As there.
    pub fn report_progress(&self, report: ProgressReport) -> Result<(), Error> {
        task::block_on(self.inner.report_progress(report))
    }

    /// See [`client::Client::result`].
    ///
    /// # Errors
    /// As there.
    pub fn result(&self, id: JobId) -> Result<Bytes, Error> {
        task::block_on(self.inner.result(id))
    }

    /// See [`client::Client::queues`].
    ///
    /// # Errors
    /// As there.
    pub fn queues(&self) -> Result<Vec<QueueView>, Error> {
        task::block_on(self.inner.queues())
    }

    /// See [`client::Client::workers`].
    ///
    /// # Errors
    /// As there.
    pub fn workers(&self) -> Result<Vec<WorkerView>, Error> {
        task::block_on(self.inner.workers())
    }

    /// See [`client::Client::cluster_status`].
    ///
    /// # Errors
    /// As there.
    pub fn cluster_status(&self) -> Result<ClusterStatus, Error> {
        task::block_on(self.inner.cluster_status())
    }

    /// See [`client::Client::log`].
    ///
    /// # Errors
    /// As there.
    pub fn log(&self, from: Index, limit: u32) -> Result<Vec<LogLine>, Error> {
        task::block_on(self.inner.log(from, limit))
    }

    /// See [`client::Client::log_of`].
    ///
    /// # Errors
    /// As there.
    pub fn log_of(&self, addr: &str, from: Index, limit: u32) -> Result<Vec<LogLine>, Error> {
        task::block_on(self.inner.log_of(addr, from, limit))
    }

    /// See [`client::Client::transfer`].
    ///
    /// # Errors
    /// As there.
    pub fn transfer(&self, to: Option<NodeId>) -> Result<NodeId, Error> {
        task::block_on(self.inner.transfer(to))
    }

    /// See [`client::Client::call`].
    ///
    /// # Errors
    /// As there.
    pub fn call(&self, request: Request, options: client::CallOptions) -> Result<Reply, Error> {
        task::block_on(self.inner.call(request, options))
    }

    /// See [`client::Client::watch`].
    #[must_use]
    pub fn watch(&self, from: watch::From) -> Watcher {
        Watcher { inner: self.inner.watch(from) }
    }

    /// See [`client::Client::close`].
    pub fn close(&self) {
        task::block_on(self.inner.close());
    }
}

/// A [`watch::Watcher`] whose methods block.
#[derive(Debug)]
pub struct Watcher {
    inner: watch::Watcher,
}

impl Watcher {
    /// See [`watch::Watcher::begin_anew`].
    pub fn begin_anew(&mut self, from: watch::From) {
        self.inner.begin_anew(from);
    }

    /// See [`watch::Watcher::queue`].
    #[must_use]
    pub fn queue(self, queue: QueueName) -> Self {
        Self { inner: self.inner.queue(queue) }
    }

    /// See [`watch::Watcher::job`].
    #[must_use]
    pub fn job(self, job: JobId) -> Self {
        Self { inner: self.inner.job(job) }
    }

    /// See [`watch::Watcher::position`].
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.inner.position()
    }

    /// See [`watch::Watcher::next`].
    ///
    /// # Errors
    /// As there.
    #[expect(clippy::should_implement_trait, reason = "it never ends, and may fail and go on")]
    pub fn next(&mut self) -> Result<Vec<Event>, Error> {
        task::block_on(self.inner.next())
    }
}

/// Runs a worker as [`run_worker`] does, unless `at_once` is ready before it has ended: then it is dropped, which
/// tells nobody, and what `at_once` gave is the error.
///
/// # Errors
/// As said.
pub fn run_worker_or<T>(
    worker: Worker,
    shutdown: impl Future<Output = ()>,
    at_once: impl Future<Output = T>,
) -> Result<Result<StopReport, Error>, T> {
    let working = Box::pin(worker.run_until(shutdown));
    match task::block_on(select(working, Box::pin(at_once))) {
        Either::Left((ended, _)) => Ok(ended),
        Either::Right((why, _)) => Err(why),
    }
}

/// Runs a worker on this thread until `shutdown` is ready. See [`Worker::run_until`].
///
/// # Errors
/// As there.
pub fn run_worker(worker: Worker, shutdown: impl Future<Output = ()>) -> Result<StopReport, Error> {
    task::block_on(worker.run_until(shutdown))
}

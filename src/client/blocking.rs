//! The client for programs without async: the same methods, each waiting for its answer.

use std::time::Duration;

use async_std::task::block_on;

use crate::client::client;
use crate::client::client::CallOptions;
use crate::client::error::Error;
use crate::jobs::job::{JobView, NewJob, Status};
use crate::types::{Index, JobId, NodeId};
use crate::wire::message::{
    ClusterStatus, Filter, LogLine, Refusal, Reply, Request, Submitted, WorkerView,
};

/// A client of one cluster whose methods wait. Not to be called from async code: it would hold up a thread of
/// the executor.
#[derive(Clone)]
pub struct Client {
    client: client::Client,
}

/// How a [`Client`] is made.
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    builder: client::Builder,
}

impl Builder {
    /// See [`client::Builder::seeds`].
    pub fn seeds<S: Into<String>>(self, seeds: impl IntoIterator<Item = S>) -> Self {
        Self { builder: self.builder.seeds(seeds) }
    }

    /// See [`client::Builder::connect_timeout`].
    pub fn connect_timeout(self, time: Duration) -> Self {
        Self { builder: self.builder.connect_timeout(time) }
    }

    /// See [`client::Builder::request_timeout`].
    pub fn request_timeout(self, time: Duration) -> Self {
        Self { builder: self.builder.request_timeout(time) }
    }

    /// See [`client::Builder::name`].
    pub fn name(self, name: &str) -> Self {
        Self { builder: self.builder.name(name) }
    }

    /// See [`client::Builder::build`].
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn build(self) -> Result<Client, Error> {
        self.builder.build().map(Client::from)
    }
}

impl From<client::Client> for Client {
    fn from(client: client::Client) -> Self {
        Self { client }
    }
}

impl Client {
    /// Begins to make a client.
    pub fn builder() -> Builder {
        Builder { builder: client::Client::builder() }
    }

    /// Returns the async client behind this one; the two share their connections.
    #[must_use]
    pub fn as_async(&self) -> &client::Client {
        &self.client
    }

    /// See [`client::Client::close`].
    pub fn close(&self) {
        self.client.close();
    }

    /// See [`client::Client::call`].
    ///
    /// # Errors
    /// [`Error`].
    pub fn call(&self, request: Request, options: CallOptions) -> Result<Reply, Error> {
        block_on(self.client.call(request, options))
    }

    /// See [`client::Client::submit`].
    ///
    /// # Errors
    /// [`Error`].
    pub fn submit(&self, job: impl Into<NewJob>) -> Result<Submitted, Error> {
        block_on(self.client.submit(job))
    }

    /// See [`client::Client::submit_batch`].
    ///
    /// # Errors
    /// [`Error`].
    pub fn submit_batch(
        &self,
        jobs: Vec<NewJob>,
    ) -> Result<Vec<Result<Submitted, Refusal>>, Error> {
        block_on(self.client.submit_batch(jobs))
    }

    /// See [`client::Client::get`].
    ///
    /// # Errors
    /// [`Error`].
    pub fn get(&self, id: JobId) -> Result<JobView, Error> {
        block_on(self.client.get(id))
    }

    /// See [`client::Client::list`].
    ///
    /// # Errors
    /// [`Error`].
    pub fn list(&self, filter: Filter) -> Result<(Vec<JobView>, bool), Error> {
        block_on(self.client.list(filter))
    }

    /// See [`client::Client::wait`].
    ///
    /// # Errors
    /// [`Error`].
    pub fn wait(
        &self,
        ids: &[JobId],
        time: Option<Duration>,
    ) -> Result<Vec<Result<JobView, Refusal>>, Error> {
        block_on(self.client.wait(ids, time))
    }

    /// See [`client::Client::cancel`].
    ///
    /// # Errors
    /// [`Error`].
    pub fn cancel(&self, ids: &[JobId]) -> Result<Vec<Result<Status, Refusal>>, Error> {
        block_on(self.client.cancel(ids))
    }

    /// See [`client::Client::workers`].
    ///
    /// # Errors
    /// [`Error`].
    pub fn workers(&self) -> Result<Vec<WorkerView>, Error> {
        block_on(self.client.workers())
    }

    /// See [`client::Client::cluster_status`].
    ///
    /// # Errors
    /// [`Error`].
    pub fn cluster_status(&self) -> Result<ClusterStatus, Error> {
        block_on(self.client.cluster_status())
    }

    /// See [`client::Client::log`].
    ///
    /// # Errors
    /// [`Error`].
    pub fn log(&self, from: Index, limit: u32) -> Result<Vec<LogLine>, Error> {
        block_on(self.client.log(from, limit))
    }

    /// See [`client::Client::transfer`].
    ///
    /// # Errors
    /// [`Error`].
    pub fn transfer(&self, to: Option<NodeId>) -> Result<NodeId, Error> {
        block_on(self.client.transfer(to))
    }
}

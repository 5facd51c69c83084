//! The built-in worker's way to the leader: through the client library, as any worker's.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use crate::client::client::{CallOptions, Client};
use crate::client::error::Error;
use crate::jobs::command::{Registration, Release, StatusUpdate};
use crate::net::shared::Shared;
use crate::types::{Incarnation, Term, WorkerId};
use crate::wire::message::{Code, Refusal, Reply, Request};
use crate::worker::reports::{ReportError, Reports};

/// A heartbeat that has no answer after so long is given up: the next one is due.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_millis(1500);

/// Everything else is tried for so long, and then again by the worker.
const REPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Reports over the client library.
#[derive(Clone)]
pub(super) struct ClientReports {
    /// The cluster.
    pub(super) client: Client,
    /// This node: a worker whose replica follows nobody would be given jobs it never hears of, so it
    /// says that it lives only while this node is ready.
    pub(super) shared: Arc<Shared>,
}

impl ClientReports {
    fn is_ready(&self) -> Result<(), ReportError> {
        if self.shared.view.load().ready {
            return Ok(());
        }
        let text = "this node follows no leader, or has not caught up with it".into();
        Err(ReportError { superseded: false, unknown: false, incarnation: None, text })
    }

    async fn call(&self, request: Request, timeout: Duration) -> Result<Reply, ReportError> {
        let options = CallOptions::timeout(timeout);
        match self.client.call(request, options).await {
            Ok(Reply::Refused(refusal)) => Err(refused(&refusal)),
            Ok(reply) => Ok(reply),
            Err(Error::Refused { refusal, .. }) => Err(refused(&refusal)),
            Err(error) => Err(ReportError {
                superseded: false,
                unknown: !error.is_definite(),
                incarnation: None,
                text: error.to_string(),
            }),
        }
    }
}

fn refused(refusal: &Refusal) -> ReportError {
    ReportError {
        superseded: refusal.code == Code::FailedPrecondition,
        unknown: refusal.unknown,
        incarnation: refusal.incarnation,
        text: refusal.message.clone(),
    }
}

fn unexpected(reply: &Reply) -> ReportError {
    ReportError {
        superseded: false,
        unknown: true,
        incarnation: None,
        text: format!("an answer to another question: {reply:?}"),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "every other answer is to another question")]
impl Reports for ClientReports {
    fn register(&self, registration: Registration) -> BoxFuture<'static, Result<(), ReportError>> {
        let this = self.clone();
        async move {
            this.is_ready()?;
            let request = Request::RegisterWorker(registration);
            match this.call(request, REPORT_TIMEOUT).await? {
                Reply::Registered => Ok(()),
                other => Err(unexpected(&other)),
            }
        }
        .boxed()
    }

    fn heartbeat(
        &self,
        worker: WorkerId,
        incarnation: Incarnation,
        draining: bool,
    ) -> BoxFuture<'static, Result<Term, ReportError>> {
        let this = self.clone();
        async move {
            this.is_ready()?;
            let request = Request::Heartbeat { worker, incarnation, draining, held: Vec::new() };
            match this.call(request, HEARTBEAT_TIMEOUT).await? {
                Reply::HeartbeatAck { term, .. } => Ok(term),
                other => Err(unexpected(&other)),
            }
        }
        .boxed()
    }

    fn update(
        &self,
        updates: Vec<StatusUpdate>,
    ) -> BoxFuture<'static, Result<Vec<Result<(), Refusal>>, ReportError>> {
        let this = self.clone();
        async move {
            let request = Request::BatchUpdateJobStatus(updates);
            match this.call(request, REPORT_TIMEOUT).await? {
                Reply::Updated(results) => Ok(results),
                other => Err(unexpected(&other)),
            }
        }
        .boxed()
    }

    fn release(&self, release: Release) -> BoxFuture<'static, Result<(), ReportError>> {
        let this = self.clone();
        async move {
            match this.call(Request::ReleaseJobs(release), REPORT_TIMEOUT).await? {
                Reply::Released { .. } => Ok(()),
                other => Err(unexpected(&other)),
            }
        }
        .boxed()
    }
}

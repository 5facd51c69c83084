//! How a built-in worker speaks to the leader: a trait, so that the room below the client needs none.

use futures::future::BoxFuture;

use crate::jobs::command::{Registration, Release, StatusUpdate};
use crate::types::{Incarnation, Term, WorkerId};
use crate::wire::message::Refusal;

/// The way to the leader, whoever leads. The node implements it over the client library.
///
/// Every call is bounded in time by the caller, who drops the future then: the outcome is unknown,
/// and the same is said again. All of them bear repetition.
pub trait Reports: Send + Sync + 'static {
    /// Announces a start of the worker to the registry.
    fn register(&self, registration: Registration) -> BoxFuture<'static, Result<(), ReportError>>;

    /// Says that a start of the worker lives; `draining`: it takes no more jobs. Answers the term of
    /// the leader who heard it.
    fn heartbeat(
        &self,
        worker: WorkerId,
        incarnation: Incarnation,
        draining: bool,
    ) -> BoxFuture<'static, Result<Term, ReportError>>;

    /// Reports the ends of attempts; answers one result for each, in order.
    fn update(
        &self,
        updates: Vec<StatusUpdate>,
    ) -> BoxFuture<'static, Result<Vec<Result<(), Refusal>>, ReportError>>;

    /// Gives jobs back.
    fn release(&self, release: Release) -> BoxFuture<'static, Result<(), ReportError>>;
}

/// The leader did not say yes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct ReportError {
    /// It said that this start of the worker is void (`FAILED_PRECONDITION`): asking again does not
    /// help. Otherwise nobody answered, or not now.
    pub superseded: bool,
    /// It may have been done, or may still be. Otherwise it was not and will not be.
    pub unknown: bool,
    /// The highest start that registered, where that was said.
    pub incarnation: Option<Incarnation>,
    /// What a person should know.
    pub text: String,
}

impl ReportError {
    /// Nobody answered in time.
    #[must_use]
    pub fn unanswered() -> Self {
        Self {
            superseded: false,
            unknown: true,
            incarnation: None,
            text: "no answer in time".into(),
        }
    }
}

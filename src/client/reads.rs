//! Reads that say how they are done, pages that say where to go on, and why a job waits.

use crate::client::client::{CallOptions, Client, misplaced};
use crate::client::error::Error;
use crate::jobs::job::JobView;
use crate::jobs::reason::Explanation;
use crate::types::{Index, JobId};
use crate::wire::message::{Filter, Reply, Request};
use crate::wire::reads::Consistency;

/// A page of jobs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// The jobs, without their bodies. There may be none, and more after them: a node looks at so many jobs for one
    /// page, and few may pass the filter.
    pub jobs: Vec<JobView>,
    /// Ask again with this as `after`; `None`: there is no more.
    pub next: Option<JobId>,
    /// The last entry of the log that the page saw, where the read asked to be told.
    pub index: Option<Index>,
}

impl Page {
    /// Takes a page from the answer to a [`Request::ListJobs`].
    ///
    /// # Errors
    /// [`Error::Refused`] if it answers another question.
    pub fn of(reply: Reply) -> Result<Self, Error> {
        let (reply, index) = told_index(reply);
        let Reply::Jobs { jobs, more, after } = reply else { return Err(misplaced()) };
        // A node that says nothing of where to go on is an older one: it never sends an empty page then.
        let next = after.or_else(|| jobs.last().map(|job| job.id)).filter(|_| more);
        Ok(Self { jobs, next, index })
    }
}

/// Takes from an answer where it was read, if it says so.
#[must_use]
pub fn told_index(reply: Reply) -> (Reply, Option<Index>) {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the others were not read, or do not say where"
    )]
    match reply {
        Reply::ReadAt { index, reply } => (*reply, Some(index)),
        Reply::Explained(explanation) => {
            let index = explanation.index;
            (Reply::Explained(explanation), Some(index))
        }
        other => (other, None),
    }
}

impl Client {
    /// Asks why a job is where it is: what it waits for, who runs it, or how it ended.
    ///
    /// # Errors
    /// [`Error::Refused`] with `NOT_FOUND` if there is no such job (any more).
    pub async fn why(&self, id: JobId) -> Result<Explanation, Error> {
        let options = CallOptions::timeout(self.request_timeout);
        let Reply::Explained(explanation) = self.call(Request::WhyJob { id }, options).await?
        else {
            return Err(misplaced());
        };
        Ok(*explanation)
    }

    /// Asks for a page of jobs, and where the next one begins.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn page(&self, filter: Filter) -> Result<Page, Error> {
        let options = CallOptions::timeout(self.request_timeout);
        Page::of(self.call(Request::ListJobs(Box::new(filter)), options).await?)
    }

    /// Does a read ([`Request::GetJob`], `ListJobs`, `ListWorkers`, `ListQueues`, `WhyJob`) in this way, and returns
    /// the last entry of the log that it saw. Name a node in the options to read what that one has applied; else any
    /// node is asked.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is no such read; with [`Consistency::MinIndex`] the refusal `UNAVAILABLE`, if the time
    /// is up before the entry is applied.
    pub async fn read(
        &self,
        read: Request,
        consistency: Consistency,
        options: CallOptions,
    ) -> Result<(Reply, Index), Error> {
        if !crate::wire::reads::is_read(read.kind()) || read.plain() != &read {
            return Err(Error::Invalid(format!("{} is no read of this kind", read.name())));
        }
        let request = Request::ReadAt { consistency, read: Box::new(read) };
        match told_index(self.call(request, options).await?) {
            (reply, Some(index)) => Ok((reply, index)),
            (_, None) => Err(misplaced()),
        }
    }
}

//! A job as a caller describes it, before it has an id.

use bytes::Bytes;

use crate::client::clock;
use crate::client::error::Error;
use crate::jobs::job::{Body, NewJob};
use crate::types::{JobId, QueueName};

/// A job to submit.
///
/// Without [`Job::id`] each submit of it makes a new job. With an id of your own (see [`new_id`]) the same
/// submit can be made again, also by another process, and the job still exists once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    id: Option<JobId>,
    queue: Option<String>,
    body: Body,
}

impl Job {
    /// Describes a command for the workers built into the nodes: a program and its arguments.
    #[must_use]
    pub fn command<W: Into<String>>(words: impl IntoIterator<Item = W>) -> Self {
        let words = words.into_iter().map(Into::into).collect();
        Self { id: None, queue: None, body: Body::Command(words) }
    }

    /// Describes bytes for a worker of one's own that serves the queue.
    #[must_use]
    pub fn payload(queue: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Self { id: None, queue: Some(queue.into()), body: Body::Payload(payload.into()) }
    }

    /// Sets the id, which must never be used for another job.
    #[must_use]
    pub fn id(mut self, id: JobId) -> Self {
        self.id = Some(id);
        self
    }

    /// Sets the queue it waits in; `default` otherwise.
    #[must_use]
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.queue = Some(queue.into());
        self
    }

    /// Makes it what is sent.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the queue's name is none, or the body is none: an empty command, or too large.
    pub fn into_new(self) -> Result<NewJob, Error> {
        let queue = match &self.queue {
            Some(text) => QueueName::new(text).map_err(|error| {
                Error::Invalid(format!("the queue {text:?} is no name: {error}"))
            })?,
            None => QueueName::default(),
        };
        if let Some(fault) = self.body.fault() {
            return Err(Error::Invalid(fault));
        }
        Ok(NewJob { id: self.id.unwrap_or_else(new_id), queue, body: self.body })
    }
}

impl From<NewJob> for Job {
    fn from(job: NewJob) -> Self {
        Self { id: Some(job.id), queue: Some(job.queue.as_str().into()), body: job.body }
    }
}

/// Makes an id for a new job: the time and 80 random bits (`wire-spec.md` §16).
#[must_use]
pub fn new_id() -> JobId {
    JobId::new(clock::wall(), fastrand::u128(..))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn job_without_an_id_gets_a_new_one_each_time() {
        let job = Job::command(["echo", "hello"]);
        let one = job.clone().into_new().unwrap();
        assert_ne!(one.id, job.into_new().unwrap().id);
        assert_eq!(one.queue, QueueName::default());
        assert_eq!(Job::from(one.clone()).into_new(), Ok(one));
    }

    #[test]
    fn job_that_cannot_be_right_is_refused_before_it_is_sent() {
        let empty = Job::command(Vec::<String>::new()).into_new();
        assert!(matches!(empty, Err(Error::Invalid(text)) if text.contains("name a program")));
        let queue = Job::payload("no such/queue", "x").into_new();
        assert!(matches!(queue, Err(Error::Invalid(text)) if text.contains("no such/queue")));
    }
}

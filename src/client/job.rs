//! A job in the making: what to run or hand over, where, and under which id.

use bytes::Bytes;

use crate::client::clock;
use crate::jobs::job::{Body, NewJob};
use crate::types::{JobId, QueueName};

/// Builds a [`NewJob`]. The id is made when the job is built, so that submitting the same [`NewJob`] twice is
/// one job.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Job {
    id: Option<JobId>,
    queue: QueueName,
    body: Body,
}

impl Job {
    /// Makes a job that runs a program with these arguments on a built-in worker. No shell reads it.
    pub fn command<W: Into<String>>(words: impl IntoIterator<Item = W>) -> Self {
        let words = words.into_iter().map(Into::into).collect();
        Self { id: None, queue: QueueName::default(), body: Body::Command(words) }
    }

    /// Makes a job that hands these bytes to a worker of one's own that serves the queue.
    pub fn payload(queue: QueueName, bytes: impl Into<Bytes>) -> Self {
        Self { id: None, queue, body: Body::Payload(bytes.into()) }
    }

    /// Gives it an id made elsewhere, such as one written down before the first submit.
    pub fn id(mut self, id: JobId) -> Self {
        self.id = Some(id);
        self
    }

    /// Puts it in this queue.
    pub fn queue(mut self, queue: QueueName) -> Self {
        self.queue = queue;
        self
    }

    /// Makes an id where none was given, and the job.
    #[must_use]
    pub fn build(self) -> NewJob {
        let id = self.id.unwrap_or_else(clock::new_job_id);
        NewJob { id, queue: self.queue, body: self.body }
    }
}

impl From<Job> for NewJob {
    fn from(job: Job) -> Self {
        job.build()
    }
}

//! A job as a caller describes it, before it has an id.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::client::clock;
use crate::client::error::Error;
use crate::jobs::job::{Body, NewJob};
use crate::jobs::options::{Options, Tags};
use crate::types::{JobId, Millis, QueueName, Tag, UniqueKey};

/// A job to submit.
///
/// Without [`Job::id`] each submit of it makes a new job. With an id of your own (see [`new_id`]) the same
/// submit can be made again, also by another process, and the job still exists once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    id: Option<JobId>,
    queue: Option<String>,
    body: Body,
    options: Options,
}

impl Job {
    /// Describes a command for the workers built into the nodes: a program and its arguments.
    #[must_use]
    pub fn command<W: Into<String>>(words: impl IntoIterator<Item = W>) -> Self {
        let words = words.into_iter().map(Into::into).collect();
        Self { id: None, queue: None, body: Body::Command(words), options: Options::default() }
    }

    /// Describes bytes for a worker of one's own that serves the queue.
    #[must_use]
    pub fn payload(queue: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        let (queue, body) = (Some(queue.into()), Body::Payload(payload.into()));
        Self { id: None, queue, body, options: Options::default() }
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

    /// Sets everything that it asks for at once; see [`Options`].
    #[must_use]
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Sets its priority, 0 to 9; 5 otherwise. Of two jobs that wait, the higher one is given out first.
    #[must_use]
    pub fn priority(mut self, priority: u8) -> Self {
        self.options.priority = priority;
        self
    }

    /// Has it wait so long before it is given out.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.options.delay_ms = Some(clock::whole_ms(delay));
        self
    }

    /// Has it wait until this time.
    #[must_use]
    pub fn at(mut self, at: Millis) -> Self {
        self.options.at_ms = Some(at);
        self
    }

    /// Has it fail if it was not begun so long after the submit.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.options.ttl_ms = Some(clock::whole_ms(ttl));
        self
    }

    /// Bounds the time that one attempt takes: its worker ends it then, and it has failed.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout_ms = Some(clock::whole_ms(timeout));
        self
    }

    /// Has it tried again when an attempt failed, so often at most.
    #[must_use]
    pub fn retries(mut self, retries: u32) -> Self {
        self.options.retries = retries;
        self
    }

    /// Sets the pause after the first failed attempt, which doubles with each further one, and the longest.
    #[must_use]
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.options.backoff_ms = clock::whole_ms(first);
        self.options.backoff_max_ms = clock::whole_ms(longest);
        self
    }

    /// Has it run by a worker that has this tag, beside those named before.
    #[must_use]
    pub fn tag(mut self, tag: Tag) -> Self {
        let tags = self.options.tags.as_slice().iter().cloned();
        self.options.tags = Tags::new(tags.chain([tag]));
        self
    }

    /// Makes it unique: while another job of its queue has this key, a submit makes no new job and returns that
    /// one's id, with `created: false`. The key is held until the job ends.
    #[must_use]
    pub fn unique(mut self, key: UniqueKey) -> Self {
        self.options.unique = Some(key);
        self
    }

    /// Makes it unique for a time, whatever becomes of it meanwhile; see [`Job::unique`].
    #[must_use]
    pub fn unique_for(self, key: UniqueKey, time: Duration) -> Self {
        let mut job = self.unique(key);
        job.options.unique_for_ms = Some(clock::whole_ms(time));
        job
    }

    /// Makes it what is sent.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the queue's name is none, the body is none (an empty command, or too large), or it
    /// asks for something out of bounds.
    pub fn into_new(self) -> Result<NewJob, Error> {
        let queue = match &self.queue {
            Some(text) => QueueName::new(text).map_err(|error| {
                Error::Invalid(format!("the queue {text:?} is no name: {error}"))
            })?,
            None => QueueName::default(),
        };
        let options = Options::shared(self.options);
        let job = NewJob { id: self.id.unwrap_or_else(new_id), queue, body: self.body, options };
        job.fault().map_or(Ok(job), |fault| Err(Error::Invalid(fault)))
    }
}

impl From<NewJob> for Job {
    fn from(job: NewJob) -> Self {
        let options = job.options.map_or_else(Options::default, Arc::unwrap_or_clone);
        let queue = Some(job.queue.as_str().into());
        Self { id: Some(job.id), queue, body: job.body, options }
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

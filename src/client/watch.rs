//! Watching: every change of the cluster in order, from any node, without gap or repetition.

use std::collections::VecDeque;
use std::time::Duration;

use futures::Stream;
use futures::stream::unfold;

use crate::client::client::{Client, misplaced};
use crate::client::clock;
use crate::client::cluster::Addr;
use crate::client::error::Error;
use crate::client::moment::Moment;
use crate::jobs::change::{Event, Position};
use crate::types::{JobId, QueueName};
use crate::wire::message::{Code, Reply, Request, WAIT_MS_MAX, Watch, Watched};

/// One long poll, at most. Shorter than a node allows: a node that dies is left sooner.
const POLL_MS_MAX: u64 = 20_000;

/// The shortest time from one answer to the next question: changes that come one by one share an answer.
const POLL_PAUSE: Duration = Duration::from_millis(10);

const _: () = assert!(POLL_MS_MAX <= WAIT_MS_MAX);

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// With what comes after now.
    Now,
    /// With the oldest change that the node asked first still has.
    Oldest,
    /// Right behind a place: what comes next is the first change after it.
    After(Position),
}

/// Reads changes in order. Which node it asks may change at any time; what it gets does not: the position of a
/// change is the same on all of them.
///
/// A node keeps a bounded number of changes. If no node has all those after this watcher's place any more, it
/// hears `FAILED_PRECONDITION` with the first place to go on from, and never a gap.
#[derive(Debug)]
pub struct Watcher {
    client: Client,
    watch: Watch,
    /// The one node that still had what was asked for.
    node: Option<Addr>,
    not_before: Moment,
}

impl Client {
    /// Begins to watch; nothing is asked before the first [`Watcher::next`].
    #[must_use]
    pub fn watch(&self, from: From) -> Watcher {
        let watch = Watch::default();
        let mut watcher =
            Watcher { client: self.clone(), watch, node: None, not_before: Moment(0) };
        watcher.begin_anew(from);
        watcher
    }
}

impl Watcher {
    /// Goes on from elsewhere: what lies between is left out.
    pub fn begin_anew(&mut self, from: From) {
        (self.watch.after, self.watch.oldest) = match from {
            From::Now => (None, false),
            From::Oldest => (None, true),
            From::After(position) => (Some(position), false),
        };
        self.node = None;
    }

    /// Leaves out what does not concern this queue.
    #[must_use]
    pub fn queue(mut self, queue: QueueName) -> Self {
        self.watch.queue = Some(queue);
        self
    }

    /// Leaves out what does not concern this job.
    #[must_use]
    pub fn job(mut self, job: JobId) -> Self {
        self.watch.job = Some(job);
        self
    }

    /// Returns the place up to which everything was read; `None` before the first answer.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.watch.after
    }

    /// Waits for changes, at most about 20 s, and returns those that came, in order; none if there were none.
    ///
    /// # Errors
    /// Any [`Error`]; the place is kept, and asking again goes on from it.
    pub async fn next(&mut self) -> Result<Vec<Event>, Error> {
        clock::sleep_until(self.not_before).await;
        let Watched { events, next } = match self.ask(self.node.clone()).await {
            Err(error) if is_gone(&error) => self.ask_everybody(error).await?,
            Err(error) => {
                self.node = None;
                return Err(error);
            }
            Ok(watched) => watched,
        };
        self.watch.oldest = false;
        self.watch.after = Some(next);
        self.not_before = clock::now().after(POLL_PAUSE);
        Ok(events)
    }

    /// Returns the changes one by one, for ever. After an error it goes on where it was.
    pub fn into_stream(self) -> impl Stream<Item = Result<Event, Error>> {
        unfold((self, VecDeque::new()), |(mut watcher, mut ready)| async move {
            loop {
                if let Some(event) = ready.pop_front() {
                    return Some((Ok(event), (watcher, ready)));
                }
                match watcher.next().await {
                    Ok(events) => ready.extend(events),
                    Err(error) => return Some((Err(error), (watcher, ready))),
                }
            }
        })
    }

    /// Asks a node for what comes next; any node, if none is named.
    async fn ask(&self, node: Option<Addr>) -> Result<Watched, Error> {
        // From where on, the first answer says at once.
        let wait_ms = if self.watch.after.is_some() { POLL_MS_MAX } else { 0 };
        let request = Request::Watch(Watch { wait_ms, ..self.watch.clone() });
        let time = Duration::from_millis(wait_ms).saturating_add(self.client.request_timeout);
        let until = clock::now().after(time);
        let Reply::Watched(watched) = self.client.call_until(request, node, until).await? else {
            return Err(misplaced());
        };
        Ok(watched)
    }

    /// Looks for a node that still has what one node has dropped: they do not drop it at the same time.
    async fn ask_everybody(&mut self, mut error: Error) -> Result<Watched, Error> {
        for addr in self.client.addrs() {
            match self.ask(Some(addr.clone())).await {
                Ok(watched) => {
                    self.node = Some(addr);
                    return Ok(watched);
                }
                // A node that does not answer is no better than one that said no.
                Err(other) if is_gone(&other) => error = other,
                Err(_) => {}
            }
        }
        self.node = None;
        Err(error)
    }
}

fn is_gone(error: &Error) -> bool {
    error.refusal().is_some_and(|refusal| refusal.code == Code::FailedPrecondition)
}

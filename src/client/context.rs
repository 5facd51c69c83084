//! What a handler knows of the attempt it runs, and what it can say about it while it runs.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::channel::{mpsc, oneshot};
use futures::future::{FutureExt, Shared};

use crate::jobs::intake::{NOTE_BYTES_MAX, PERCENT_MAX};
use crate::jobs::job::{Assignment, Status};
use crate::types::{Fence, JobId, QueueName};
use crate::wire::refusal::cut;

/// Why an attempt is its worker's own no more, before it has ended.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abandoned {
    /// Somebody cancelled the job.
    Cancelled,
    /// It took longer than the job allows; it has failed.
    TimedOut,
    /// Somebody else has the job, or will have it: the worker was out of touch with its cluster for too long,
    /// stops, or was superseded.
    TakenAway,
}

impl Abandoned {
    /// Makes it of what has become of the job, as a node says it.
    pub(crate) fn by(status: Option<Status>) -> Self {
        match status {
            Some(Status::Cancelled) => Self::Cancelled,
            Some(Status::Pending | Status::Running | Status::Completed | Status::Failed) | None => {
                Self::TakenAway
            }
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Cancelled => 1,
            Self::TimedOut => 2,
            Self::TakenAway => 3,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [Self::Cancelled, Self::TimedOut, Self::TakenAway].into_iter().find(|it| it.code() == code)
    }
}

/// What a handler said and the worker has not heard yet: the newest progress, and all the time it asked for.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// In percent, with a note.
    pub(crate) progress: Option<(u8, String)>,
    /// How much later it may end.
    pub(crate) more: Duration,
}

/// What a handler and its worker share.
#[derive(Debug)]
struct Ties {
    /// [`Abandoned`], once it is; 0 before.
    abandoned: AtomicU8,
    /// What was said, and how the worker is woken to hear it. There is room for one call to wake, and a second
    /// one says nothing new.
    said: Mutex<(Said, mpsc::Sender<()>)>,
}

impl Ties {
    fn said(&self) -> MutexGuard<'_, (Said, mpsc::Sender<()>)> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, change: impl FnOnce(&mut Said)) {
        let (said, wake) = &mut *self.said();
        change(said);
        // Full: the worker is being woken already. Gone: nobody listens any more.
        let _is_on_its_way = wake.try_send(()).is_err();
    }
}

/// What a handler is told about the attempt it runs. Clones are the same attempt's.
#[derive(Clone, Debug)]
pub struct Context {
    id: JobId,
    queue: QueueName,
    attempt: u32,
    fence: Fence,
    timeout: Option<Duration>,
    ties: Arc<Ties>,
    /// Ready once the worker has let go.
    over: Shared<oneshot::Receiver<()>>,
}

/// The worker's end of a [`Context`].
#[derive(Debug)]
pub(crate) struct Hold {
    ties: Arc<Ties>,
    /// Dropped, it tells whoever waits for the end.
    _over: oneshot::Sender<()>,
}

impl Hold {
    /// Takes what the handler said since the last time.
    pub(crate) fn take_said(&self) -> Said {
        std::mem::take(&mut self.ties.said().0)
    }

    /// Lets go of the attempt: what its handler returns does not count any more. Only the first reason stays.
    pub(crate) fn let_go(&self, why: Abandoned) {
        let (is_new, not) = (Ordering::AcqRel, Ordering::Acquire);
        let _was_before = self.ties.abandoned.compare_exchange(0, why.code(), is_new, not).is_err();
    }
}

impl Context {
    /// Makes both ends for an assignment; `wake` is how the worker hears that there is something to take.
    pub(crate) fn new(assignment: &Assignment, wake: mpsc::Sender<()>) -> (Self, Hold) {
        let said = Mutex::new((Said::default(), wake));
        let ties = Arc::new(Ties { abandoned: AtomicU8::new(0), said });
        let (sender, over) = oneshot::channel();
        let hold = Hold { ties: Arc::clone(&ties), _over: sender };
        let context = Self {
            id: assignment.id,
            queue: assignment.queue.clone(),
            attempt: assignment.attempt,
            fence: assignment.fence,
            timeout: assignment.timeout_ms.map(Duration::from_millis),
            ties,
            over: over.shared(),
        };
        (context, hold)
    }

    /// Returns the job's id.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.id
    }

    /// Returns the job's queue.
    #[must_use]
    pub fn queue(&self) -> &QueueName {
        &self.queue
    }

    /// Returns which attempt this is, from 1 on: above 1, a former one has failed, or its worker was lost with it.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Returns the token of the attempt, higher than that of every former one. Hand it to whatever the job
    /// writes to, so that it can refuse a lower one than it has seen.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.fence
    }

    /// Returns how long the attempt may take, where its job has a timeout; [`Context::extend`] puts that off.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// Says how far the job is, in percent (more than 100 is 100) and in words (their first 256 bytes): `raftq get`
    /// and `list` show it. The worker passes on one a second at most, and the newest wins, so this can be called
    /// as often as one likes; it does not wait.
    pub fn progress(&self, percent: u8, note: impl AsRef<str>) {
        let note = cut(note.as_ref(), NOTE_BYTES_MAX).to_owned();
        self.ties.say(|said| said.progress = Some((percent.min(PERCENT_MAX), note)));
    }

    /// Puts off the time at which the attempt has taken too long, where its job has a timeout. Nothing happens
    /// if that time has come already.
    pub fn extend(&self, more: Duration) {
        self.ties.say(|said| said.more = said.more.saturating_add(more));
    }

    /// Tells whether the job is not this attempt's any more, so that its result will not count. Async handlers
    /// are dropped then; a blocking one should look here from time to time, and return.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.why_abandoned().is_some()
    }

    /// Says why, if it is.
    #[must_use]
    pub fn why_abandoned(&self) -> Option<Abandoned> {
        Abandoned::from_code(self.ties.abandoned.load(Ordering::Acquire))
    }

    /// Tells whether somebody cancelled the job, which a worker hears within about a second.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.why_abandoned() == Some(Abandoned::Cancelled)
    }

    /// Waits until the job is not this attempt's any more, and says why. An async handler is dropped at that
    /// moment: this is for what it has started elsewhere, and for blocking ones.
    pub async fn cancelled(&self) -> Abandoned {
        // The worker's end is dropped, never used.
        let _gone = self.over.clone().await.is_err();
        self.why_abandoned().unwrap_or(Abandoned::TakenAway)
    }
}

#[cfg(test)]
mod tests {
    use async_std::task::block_on;

    use super::*;
    use crate::jobs::job::Body;

    fn context() -> (Context, Hold, mpsc::Receiver<()>) {
        let (wake, woken) = mpsc::channel(1);
        let assignment = Assignment {
            id: JobId([1; 16]),
            queue: QueueName::default(),
            attempt: 1,
            fence: Fence(7),
            timeout_ms: None,
            body: Body::Payload(bytes::Bytes::new()),
        };
        let (context, hold) = Context::new(&assignment, wake);
        (context, hold, woken)
    }

    #[test]
    fn newest_progress_wins_and_extensions_add_up() {
        let (context, hold, _woken) = context();
        for percent in 0..200 {
            context.progress(percent, "é".repeat(200));
            context.extend(Duration::from_secs(1));
        }
        let said = hold.take_said();
        let (percent, note) = said.progress.unwrap();
        assert_eq!((percent, note.len(), said.more), (100, 256, Duration::from_secs(200)));
        assert!(hold.take_said().progress.is_none());
    }

    #[test]
    fn cancelled_says_why_and_only_the_first_reason_stays() {
        let (context, hold, _woken) = context();
        assert!(!context.is_abandoned() && !context.is_cancelled());
        hold.let_go(Abandoned::Cancelled);
        hold.let_go(Abandoned::TakenAway);
        assert!(context.is_abandoned() && context.is_cancelled());
        drop(hold);
        assert_eq!(block_on(context.cancelled()), Abandoned::Cancelled);
    }

    #[test]
    fn wait_for_the_end_ends_when_the_worker_is_dropped() {
        let (context, hold, _woken) = context();
        let waiting = std::thread::Builder::new().spawn({
            let context = context.clone();
            move || block_on(context.cancelled())
        });
        hold.let_go(Abandoned::TimedOut);
        drop(hold);
        assert_eq!(waiting.unwrap().join().unwrap(), Abandoned::TimedOut);
    }
}

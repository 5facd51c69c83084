//! The library worker: handlers in Rust for the payloads of some queues.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::time::Duration;

use async_std::task;
use bytes::Bytes;
use futures::channel::mpsc;
use futures::future::{AbortHandle, BoxFuture, abortable};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};

use crate::client::client::{CallOptions, Client};
use crate::client::clock;
use crate::client::context::{Abandoned, Context, Hold};
use crate::client::duty::{Ask, Duty, Order, StopReport, Timing};
use crate::client::error::Error;
use crate::client::handler::{Handler, Handlers, of_async, of_blocking, run};
use crate::client::moment::Moment;
use crate::jobs::job::{Assignment, Verdict, WORKER_QUEUES_MAX, WORKER_SLOTS_MAX};
use crate::jobs::options::Tags;
use crate::types::{Fence, Incarnation, QueueName, Tag, WorkerId};
use crate::wire::message::Reply;

/// How many jobs a worker runs at once, unless told otherwise.
pub const SLOTS: u32 = 4;

/// How long handlers may go on once a worker is asked to stop, unless told otherwise.
pub const GRACE: Duration = Duration::from_secs(10);

/// The shortest time from one look at what is due to the next: what is due may have to wait for
/// something else, whose coming wakes the worker sooner.
const TURN_MIN: Duration = Duration::from_millis(5);

/// A worker in the making, then run by [`Worker::run_until`].
///
/// It registers under a name, hears of its jobs, runs a handler for each, and reports what came of it until
/// the report is answered. It survives changes of leader and restarts of nodes. When no leader has
/// acknowledged it for 3 s, its jobs are given to others; so it ends them itself, and registers anew.
///
/// Every job runs at least once, and counts exactly once: see [`Context::fence`].
pub struct Worker {
    client: Client,
    name: Option<String>,
    handlers: Handlers,
    tags: Vec<Tag>,
    slots: u32,
    grace: Duration,
    timing: Timing,
    lease: Option<LeaseHook>,
    fault: Option<String>,
}

/// Called when the time until which the worker may run jobs has changed, with what tells how long that is from
/// now on; zero: no longer.
pub(crate) type LeaseHook = Box<dyn Fn(&dyn Fn() -> Duration) + Send>;

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("name", &self.name)
            .field("queues", &self.handlers.keys())
            .field("slots", &self.slots)
            .finish_non_exhaustive()
    }
}

impl Worker {
    /// Begins to make a worker that finds its cluster through the client. It has connections of its own,
    /// so that nothing else the client does holds up its heartbeats.
    #[must_use]
    pub fn new(client: &Client) -> Self {
        Self {
            client: client.sibling(),
            name: None,
            handlers: Handlers::new(),
            tags: Vec::new(),
            slots: SLOTS,
            grace: GRACE,
            timing: Timing::default(),
            lease: None,
            fault: None,
        }
    }

    /// Sets its name, which no other worker that runs may have. The same name after a restart tells the
    /// cluster at once that the former start is over. Without a name, one is drawn at random.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Serves a queue with an async handler: the job's result, or why it failed. A panic fails the attempt, and so
    /// does a result of more than [`OUTPUT_BYTES_MAX`](crate::jobs::job::OUTPUT_BYTES_MAX) bytes.
    ///
    /// It must not block its thread: that would hold up the heartbeats. See [`Worker::queue_blocking`].
    #[must_use]
    pub fn queue<H, F, O, E>(self, queue: impl AsRef<str>, handler: H) -> Self
    where
        H: Fn(Context, Bytes) -> F + Send + Sync + 'static,
        F: Future<Output = Result<O, E>> + Send + 'static,
        O: Into<Bytes>,
        E: fmt::Display,
    {
        self.serve(queue.as_ref(), of_async(handler))
    }

    /// Serves a queue with a handler that blocks its thread. It cannot be ended from outside: it should
    /// look at [`Context::is_abandoned`] from time to time ([`Context::why_abandoned`] says whether the job was
    /// cancelled).
    #[must_use]
    pub fn queue_blocking<H, O, E>(self, queue: impl AsRef<str>, handler: H) -> Self
    where
        H: Fn(Context, Bytes) -> Result<O, E> + Send + Sync + 'static,
        O: Into<Bytes>,
        E: fmt::Display,
    {
        self.serve(queue.as_ref(), of_blocking(handler))
    }

    /// Serves a queue with a handler of any kind.
    pub(crate) fn serve(mut self, queue: &str, handler: Handler) -> Self {
        match QueueName::new(queue) {
            Ok(name) => {
                if self.handlers.insert(name, handler).is_some() {
                    self.wrong(format!("the queue {queue:?} has two handlers"));
                }
            }
            Err(error) => self.wrong(format!("the queue {queue:?} is no name: {error}")),
        }
        self
    }

    /// Sets how many jobs it runs at once ([`SLOTS`]), at most [`WORKER_SLOTS_MAX`].
    #[must_use]
    pub fn slots(mut self, slots: u32) -> Self {
        self.slots = slots;
        self
    }

    /// Says that it has something, such as `gpu` or `zone=a`, beside what was said before: jobs that ask for
    /// it come here. At most [`TAGS_MAX`](crate::jobs::options::TAGS_MAX).
    #[must_use]
    pub fn tag(mut self, tag: impl AsRef<str>) -> Self {
        match Tag::new(tag.as_ref()) {
            Ok(tag) => self.tags.push(tag),
            Err(error) => self.wrong(format!("the tag {:?} is none: {error}", tag.as_ref())),
        }
        self
    }

    /// Sets how long handlers may go on once it is asked to stop ([`GRACE`]).
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Sets the times it keeps; only for tests with a cluster that keeps other times.
    #[must_use]
    pub fn timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self
    }

    /// Has somebody told how long jobs may run, who ends them should this process stand still.
    #[cfg(feature = "server")]
    pub(crate) fn on_lease(mut self, hook: LeaseHook) -> Self {
        self.lease = Some(hook);
        self
    }

    fn wrong(&mut self, fault: String) {
        self.fault.get_or_insert(fault);
    }

    /// Checks what was set.
    fn check(&self) -> Result<WorkerId, Error> {
        let fault = match self.handlers.len() {
            _ if self.fault.is_some() => self.fault.clone(),
            0 => Some("a worker needs a handler for at least one queue".into()),
            queues if queues > WORKER_QUEUES_MAX => {
                Some(format!("{queues} queues for one worker; at most {WORKER_QUEUES_MAX}"))
            }
            _ if !(1..=WORKER_SLOTS_MAX).contains(&self.slots) => {
                Some(format!("{} slots; 1 to {WORKER_SLOTS_MAX}", self.slots))
            }
            _ => Tags::new(self.tags.iter().cloned()).fault(),
        };
        if let Some(fault) = fault {
            return Err(Error::Invalid(fault));
        }
        let name =
            self.name.clone().unwrap_or_else(|| format!("worker-{:016x}", fastrand::u64(..)));
        WorkerId::new(&name)
            .map_err(|error| Error::Invalid(format!("the worker's name {name:?} is none: {error}")))
    }

    /// Runs until `shutdown` is ready, then stops gracefully: no more jobs, the running ones may end within
    /// the grace, the rest is given back without using up an attempt. It also stops by itself: when it was drained
    /// (`raftq worker drain NAME`) and has nothing left to run, and when another worker of its name has begun
    /// after it ([`StopReason`](crate::client::duty::StopReason) says which).
    ///
    /// If this future is dropped, handlers are dropped too, and the cluster judges the worker lost after 3 s.
    ///
    /// # Errors
    /// [`Error::Invalid`] if what was set cannot be right: two handlers for a queue, no queue, no slots.
    pub async fn run_until(self, shutdown: impl Future<Output = ()>) -> Result<StopReport, Error> {
        let worker = self.check()?;
        let queues = self.handlers.keys().cloned().collect();
        let (seed, random) = (fastrand::u64(..), fastrand::u64(..));
        let first = Incarnation::first(clock::wall(), random);
        let duty = Duty::new(worker, first, queues, self.slots, self.timing, self.grace, seed)
            .with_tags(Tags::new(self.tags));
        let (ended, endings) = mpsc::unbounded();
        let client = self.client.clone();
        let (wake, woken) = mpsc::channel(1);
        let shift = Shift {
            client,
            handlers: self.handlers,
            running: BTreeMap::new(),
            ended,
            wake,
            lease: self.lease,
        };
        let report = shift.work(duty, endings, woken, shutdown).await;
        self.client.close().await;
        Ok(report)
    }
}

/// A call on its way, and what it was.
type Calling = BoxFuture<'static, (Ask, Result<Reply, Error>)>;

/// The handler of one attempt.
struct Running {
    abort: AbortHandle,
    hold: Hold,
}

impl Drop for Running {
    /// An attempt that is let go is over, also when the whole worker is dropped. (Of one that has ended,
    /// there is nothing left to abort.)
    fn drop(&mut self) {
        self.hold.let_go(Abandoned::TakenAway);
        self.abort.abort();
    }
}

/// What does the worker's duties.
struct Shift {
    client: Client,
    handlers: Handlers,
    running: BTreeMap<Fence, Running>,
    /// How handlers tell that they ended; bounded by how many run.
    ended: mpsc::UnboundedSender<(Fence, Verdict)>,
    /// How handlers tell that they have something to say.
    wake: mpsc::Sender<()>,
    lease: Option<LeaseHook>,
}

impl Shift {
    async fn work(
        mut self,
        mut duty: Duty,
        mut endings: mpsc::UnboundedReceiver<(Fence, Verdict)>,
        mut woken: mpsc::Receiver<()>,
        shutdown: impl Future<Output = ()>,
    ) -> StopReport {
        let mut calls: FuturesUnordered<Calling> = FuturesUnordered::new();
        let mut shutdown = std::pin::pin!(shutdown.fuse());
        // Set anew only when it is to end at another time.
        let (mut timer, mut timer_at) = (task::sleep(TURN_MIN).boxed().fuse(), Moment(0));
        let mut lease = None;
        loop {
            for order in duty.step(clock::now()) {
                match order {
                    Order::Call { ask, request, timeout } => {
                        let client = self.client.clone();
                        let options = CallOptions::timeout(timeout);
                        calls.push(
                            async move { (ask, client.call(request, options).await) }.boxed(),
                        );
                    }
                    Order::Start(assignment) => self.start(assignment),
                    Order::Abandon(fence, why) => {
                        if let Some(running) = self.running.remove(&fence) {
                            running.hold.let_go(why);
                        }
                    }
                }
            }
            if let Some(hook) = &self.lease
                && lease != duty.lease()
            {
                lease = duty.lease();
                hook(&|| lease.map_or(Duration::ZERO, |end| end.since(clock::now())));
            }
            if let Some(report) = duty.ended_with() {
                return report;
            }
            let wake_at = duty.wake_at().max(clock::now().after(TURN_MIN));
            if wake_at != timer_at {
                timer = clock::sleep_until(wake_at).boxed().fuse();
                timer_at = wake_at;
            }
            futures::select! {
                (ask, answer) = calls.select_next_some() => duty.heard(ask, answer, clock::now()),
                first = endings.select_next_some() => {
                    let now = clock::now();
                    // All that have ended go into one report.
                    let mut next = Some(first);
                    while let Some((fence, verdict)) = next {
                        self.hear_out(fence, &mut duty, now);
                        self.running.remove(&fence);
                        duty.ended(fence, verdict, now);
                        next = endings.next().now_or_never().flatten();
                    }
                }
                () = woken.select_next_some() => {
                    let now = clock::now();
                    let fences: Vec<Fence> = self.running.keys().copied().collect();
                    for fence in fences {
                        self.hear_out(fence, &mut duty, now);
                    }
                }
                () = shutdown => duty.stop(clock::now()),
                () = timer => timer_at = Moment(0),
            }
        }
    }

    /// Passes on what a handler has said.
    fn hear_out(&self, fence: Fence, duty: &mut Duty, now: Moment) {
        let Some(running) = self.running.get(&fence) else { return };
        let said = running.hold.take_said();
        if said.more > Duration::ZERO {
            duty.extend(fence, said.more);
        }
        if let Some(progress) = said.progress {
            duty.say(fence, progress, now);
        }
    }

    /// Runs the handler in a task of its own, so that the worker's duties never wait for it.
    fn start(&mut self, assignment: Assignment) {
        let fence = assignment.fence;
        let (context, hold) = Context::new(&assignment, self.wake.clone());
        let (handling, abort) = abortable(run(&self.handlers, context, assignment));
        let ended = self.ended.clone();
        self.running.insert(fence, Running { abort, hold });
        task::spawn(async move {
            if let Ok(verdict) = handling.await {
                let _nobody_asks = ended.unbounded_send((fence, verdict)).is_err();
            }
        });
    }
}

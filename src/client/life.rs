//! The life of a library worker: register, heartbeat, reserve, handle, report, and leave (`wire-spec.md` §12).

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_std::channel::{self, Receiver, Sender};
use async_std::future::timeout;
use async_std::task::{self, JoinHandle};
use bytes::Bytes;
use futures::future::{AbortHandle, BoxFuture, Fuse, FusedFuture, abortable};
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _, select_biased};

use crate::client::client::{CallOptions, Client, unexpected};
use crate::client::clock::now_ms;
use crate::client::error::Error;
use crate::client::worker::{Config, Context, StopReport};
use crate::jobs::command::{Registration, Release, StatusUpdate};
use crate::jobs::job::{Assignment, Body, ERROR_BYTES_MAX, OUTPUT_BYTES_MAX, Serves, Verdict};
use crate::types::{Fence, Incarnation, JobId, WorkerId};
use crate::wire::message::{BATCH_UPDATES_MAX, Code, RESERVE_JOBS_MAX, Refusal, Reply, Request};
use crate::wire::refusal::cut;
use crate::wire::request::{BATCH_BYTES_MAX, update_bytes_max};

/// Between two heartbeats, in ms.
const HEARTBEAT_MS: u64 = 1_000;

/// A heartbeat without an answer is given up after so long, in ms: the next is due.
const HEARTBEAT_TIMEOUT_MS: u64 = 1_500;

/// A start of a worker is void so long after it sent the last heartbeat that was answered, in ms: the leader may
/// have given its jobs to others by then.
const VOID_MS: u64 = 3_000;

/// One long poll for jobs waits so long at most, in ms.
const RESERVE_WAIT_MS: u64 = 10_000;

/// What an answer to a long poll may take beyond its wait.
const RESERVE_TIMEOUT: Duration = Duration::from_millis(RESERVE_WAIT_MS + 8_000);

/// One try to report takes so long at most; it is repeated until it is answered.
const REPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// For so long the last reports are tried after the grace, and the jobs that are left are given back.
const LEAVE_TIME: Duration = Duration::from_secs(5);

/// A try that failed at once is repeated after a random time up to this, in ms.
const PAUSE_MS_MAX: u64 = 500;

/// Bytes of one batch of reports.
const REPORT_BYTES: usize = BATCH_BYTES_MAX / 2;

const _: () = assert!(REPORT_BYTES > OUTPUT_BYTES_MAX + ERROR_BYTES_MAX + 1024);
const _: () = assert!(HEARTBEAT_MS + HEARTBEAT_TIMEOUT_MS < VOID_MS);

/// How one start of a worker ended.
enum End {
    Stopped,
    /// It was judged lost, or may have been: another start has to follow.
    Void,
}

/// Runs a worker, start after start, until it is shut down.
pub(super) async fn run(config: Config, shutdown: impl Future) -> Result<StopReport, Error> {
    let mut shutdown = pin!(shutdown.fuse());
    let mut report = StopReport::default();
    let mut gave_up = false;
    loop {
        let incarnation = Incarnation(fastrand::u64(1..));
        let registered = {
            let mut registering = pin!(register(&config, incarnation, gave_up).fuse());
            select_biased! {
                _ = shutdown => None,
                registered = registering => Some(registered?),
            }
        };
        let Some(registered) = registered else {
            // It may have been registered just now: no jobs for it, please.
            give_back(&config, incarnation, Vec::new()).await;
            return Ok(report);
        };
        // Superseded: a start of this name is newer, or this one was lost before it lived.
        let Some(sent_ms) = registered else {
            pause().await;
            continue;
        };
        log::info!("worker {}: registered as start {incarnation}", config.name);
        let mut life = Life::begin(&config, incarnation, sent_ms);
        match life.live(shutdown.as_mut(), &mut report).await {
            End::Stopped => return Ok(report),
            End::Void => {
                report.abandoned += u64::try_from(life.held.len()).unwrap_or(u64::MAX);
                log::warn!("worker {}: start {incarnation} is void, beginning anew", config.name);
                if shutdown.is_terminated() {
                    return Ok(report);
                }
                gave_up = true;
            }
        }
    }
}

/// Registers until it is answered, and returns when the request that was answered began; `None` if this start is
/// refused as superseded.
async fn register(
    config: &Config,
    incarnation: Incarnation,
    gave_up: bool,
) -> Result<Option<u64>, Error> {
    let registration = Registration {
        worker: config.name.clone(),
        incarnation,
        slots: config.slots,
        serves: Serves::Payloads(config.handlers.keys().cloned().collect()),
        gave_up,
    };
    loop {
        let sent_ms = now_ms();
        let options = CallOptions::timeout(Duration::from_millis(HEARTBEAT_TIMEOUT_MS));
        match config.client.call(Request::RegisterWorker(registration.clone()), options).await {
            Ok(Reply::Registered) => return Ok(Some(sent_ms)),
            Ok(other) => return Err(unexpected(&other)),
            Err(error) if is_superseded(&error) => return Ok(None),
            Err(error) if error.is_retryable() => {
                log::warn!("worker {}: not registered yet: {error}", config.name);
                pause().await;
            }
            Err(error) => return Err(error),
        }
    }
}

fn is_superseded(error: &Error) -> bool {
    error.refusal().is_some_and(|refusal| refusal.code == Code::FailedPrecondition)
}

async fn pause() {
    task::sleep(Duration::from_millis(fastrand::u64(PAUSE_MS_MAX / 5..PAUSE_MS_MAX))).await;
}

/// Gives jobs back and says goodbye; if that is not heard, the leader judges the worker lost after 3 s.
async fn give_back(
    config: &Config,
    incarnation: Incarnation,
    jobs: Vec<(JobId, Fence)>,
) -> Option<u32> {
    let release = Release { worker: config.name.clone(), incarnation, jobs, leaving: true };
    let options = CallOptions::timeout(LEAVE_TIME);
    match config.client.call(Request::ReleaseJobs(release), options).await {
        Ok(Reply::Released { count }) => Some(count),
        Ok(other) => {
            log::warn!("worker {}: left without a goodbye: {}", config.name, unexpected(&other));
            None
        }
        Err(error) => {
            log::warn!("worker {}: left without a goodbye: {error}", config.name);
            None
        }
    }
}

/// The heartbeats of one start, in a task of their own: no handler can hold them up.
struct Heart {
    draining: Arc<AtomicBool>,
    wake: Sender<()>,
    /// Ends when the start is void.
    beating: Fuse<JoinHandle<()>>,
    abort: AbortHandle,
}

impl Heart {
    fn begin(client: Client, worker: WorkerId, incarnation: Incarnation, sent_ms: u64) -> Self {
        let draining = Arc::new(AtomicBool::new(false));
        let (wake, woken) = channel::bounded(1);
        let beats = beat(client, worker, incarnation, Arc::clone(&draining), woken, sent_ms);
        let (beats, abort) = abortable(beats);
        // Aborted only when nobody looks at it any more.
        let beating = task::spawn(beats.map(|_ended| ())).fuse();
        Self { draining, wake, beating, abort }
    }

    /// Says from now on, and at once, that no more jobs are taken.
    fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        if self.wake.try_send(()).is_err() {
            log::trace!("the heartbeat task is awake, or has ended");
        }
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        self.abort.abort();
    }
}

/// Beats until this start is void by the 3 s rule, or because the leader says so.
async fn beat(
    client: Client,
    worker: WorkerId,
    incarnation: Incarnation,
    draining: Arc<AtomicBool>,
    woken: Receiver<()>,
    registered_ms: u64,
) {
    let mut answered_ms = registered_ms;
    let mut due_ms = registered_ms + HEARTBEAT_MS;
    loop {
        let void_ms = answered_ms + VOID_MS;
        let rest_ms = due_ms.min(void_ms).saturating_sub(now_ms());
        if let Ok(Err(_closed)) = timeout(Duration::from_millis(rest_ms), woken.recv()).await {
            return;
        }
        let sent_ms = now_ms();
        let left_ms = void_ms.saturating_sub(sent_ms);
        if left_ms == 0 {
            return;
        }
        let draining = draining.load(Ordering::Acquire);
        let request = Request::Heartbeat { worker: worker.clone(), incarnation, draining };
        let time = Duration::from_millis(left_ms.min(HEARTBEAT_TIMEOUT_MS));
        match client.call(request, CallOptions::timeout(time)).await {
            Ok(_ack) => answered_ms = sent_ms,
            Err(error) if is_superseded(&error) => {
                log::warn!("worker {worker}: {error}");
                return;
            }
            Err(error) => log::warn!("worker {worker}: no heartbeat: {error}"),
        }
        due_ms = sent_ms + HEARTBEAT_MS;
    }
}

/// A job between its assignment and the answer to its report; dropping it stops its handler.
struct Held {
    job: JobId,
    abort: AbortHandle,
    is_running: bool,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.abort.abort();
    }
}

/// How a handler ended; `None`: it was stopped.
type Ended = (Fence, JobId, Option<Verdict>);
type Reserved = Result<Vec<Assignment>, Error>;
type Reported = Result<Vec<Result<(), Refusal>>, Error>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Working,
    /// No new jobs; the running ones have the grace.
    Draining,
    /// The handlers were stopped; reports may still go out.
    Leaving,
}

/// One start of a worker.
///
/// - `held` never has more than `slots` jobs that the leader knows to be ours: a job holds its slot until its
///   report is answered, here as there.
/// - `outbox` holds the reports of held jobs, so it is bounded by the slots as well.
struct Life<'a> {
    config: &'a Config,
    incarnation: Incarnation,
    heart: Heart,
    phase: Phase,
    /// The highest fence received.
    after: Fence,
    held: BTreeMap<Fence, Held>,
    tasks: FuturesUnordered<JoinHandle<Ended>>,
    outbox: VecDeque<StatusUpdate>,
    reserving: Fuse<BoxFuture<'static, Reserved>>,
    /// The report of the first `reporting_count` of the outbox.
    reporting: Fuse<BoxFuture<'static, Reported>>,
    reporting_count: usize,
    timer: Fuse<BoxFuture<'static, ()>>,
}

impl<'a> Life<'a> {
    fn begin(config: &'a Config, incarnation: Incarnation, sent_ms: u64) -> Self {
        let (client, name) = (config.client.clone(), config.name.clone());
        Self {
            config,
            incarnation,
            heart: Heart::begin(client, name, incarnation, sent_ms),
            phase: Phase::Working,
            after: Fence(0),
            held: BTreeMap::new(),
            tasks: FuturesUnordered::new(),
            outbox: VecDeque::new(),
            reserving: Fuse::terminated(),
            reporting: Fuse::terminated(),
            reporting_count: 0,
            timer: Fuse::terminated(),
        }
    }

    async fn live<S: Future>(
        &mut self,
        mut shutdown: Pin<&mut Fuse<S>>,
        report: &mut StopReport,
    ) -> End {
        loop {
            self.begin_calls();
            let is_done = self.tasks.is_empty() && self.outbox.is_empty();
            if self.phase != Phase::Working && is_done {
                return self.leave(report).await;
            }
            select_biased! {
                () = &mut self.heart.beating => return End::Void,
                _ = shutdown => self.drain(),
                () = &mut self.timer => match self.phase {
                    Phase::Working | Phase::Draining => self.stop_handlers(),
                    Phase::Leaving => return self.leave(report).await,
                },
                (fence, job, verdict) = self.tasks.select_next_some() => {
                    self.on_ended(fence, job, verdict);
                }
                reported = &mut self.reporting => match reported {
                    Ok(results) => self.on_reported(results, report),
                    Err(error) if error.is_retryable() && !is_superseded(&error) => {
                        log::warn!("worker {}: not reported yet: {error}", self.config.name);
                    }
                    Err(error) => {
                        log::error!("worker {}: reports are refused: {error}", self.config.name);
                        return End::Void;
                    }
                },
                reserved = &mut self.reserving => match reserved {
                    Ok(assignments) => assignments.into_iter().for_each(|job| self.start(job)),
                    Err(error) if is_superseded(&error) => return End::Void,
                    Err(error) => {
                        log::warn!("worker {}: no jobs: {error}", self.config.name);
                    }
                },
            }
        }
    }

    /// Begins the next long poll and the next report, where there is none and there is a reason.
    fn begin_calls(&mut self) {
        let slots = usize::try_from(self.config.slots).unwrap_or(usize::MAX);
        let free = slots.saturating_sub(self.held.len()).min(RESERVE_JOBS_MAX);
        if self.phase == Phase::Working && free > 0 && self.reserving.is_terminated() {
            let request = Request::Reserve {
                worker: self.config.name.clone(),
                incarnation: self.incarnation,
                after: self.after,
                max: u32::try_from(free).unwrap_or(u32::MAX),
                wait_ms: RESERVE_WAIT_MS,
            };
            self.reserving = reserve(self.config.client.clone(), request).boxed().fuse();
        }
        if !self.outbox.is_empty() && self.reporting.is_terminated() {
            let batch = self.first_batch();
            self.reporting_count = batch.len();
            self.reporting = send_reports(self.config.client.clone(), batch).boxed().fuse();
        }
    }

    fn first_batch(&self) -> Vec<StatusUpdate> {
        let mut bytes = 0;
        let fits = |update: &&StatusUpdate| {
            bytes += update_bytes_max(update);
            bytes <= REPORT_BYTES
        };
        self.outbox.iter().take(BATCH_UPDATES_MAX).take_while(fits).cloned().collect()
    }

    fn start(&mut self, assignment: Assignment) {
        let Assignment { id, queue, attempt, fence, body } = assignment;
        if fence <= self.after {
            return;
        }
        self.after = fence;
        let handler = self.config.handlers.get(&queue).cloned();
        let work = async move {
            let (handler, payload) = match (handler, body) {
                (Some(handler), Body::Payload(payload)) => (handler, payload),
                (None, _) => return Err(format!("this worker has no handler for queue {queue}")),
                (_, Body::Command(_)) => return Err("this worker runs no commands".into()),
            };
            handler(Context { id, attempt, fence, queue, payload }).await
        };
        let (work, abort) = abortable(AssertUnwindSafe(work).catch_unwind());
        self.held.insert(fence, Held { job: id, abort, is_running: true });
        self.tasks.push(task::spawn(async move {
            let verdict = match work.await {
                Err(_aborted) => None,
                Ok(Ok(result)) => Some(verdict(result)),
                Ok(Err(panic)) => Some(verdict(Err(panic_text(panic.as_ref())))),
            };
            (fence, id, verdict)
        }));
    }

    fn on_ended(&mut self, fence: Fence, job: JobId, verdict: Option<Verdict>) {
        if let (Some(held), Some(verdict)) = (self.held.get_mut(&fence), verdict) {
            held.is_running = false;
            self.outbox.push_back(StatusUpdate { job, fence, verdict });
        }
    }

    fn on_reported(&mut self, results: Vec<Result<(), Refusal>>, report: &mut StopReport) {
        let reported: Vec<_> = self.outbox.drain(..self.reporting_count).collect();
        for (update, result) in reported.into_iter().zip(results) {
            match result {
                Ok(()) if update.verdict.completed => report.completed += 1,
                Ok(()) => report.failed += 1,
                Err(refusal) if refusal.is_retryable() => {
                    self.outbox.push_back(update);
                    continue;
                }
                Err(refusal) => {
                    log::warn!("job {}: its result does not count: {refusal}", update.job);
                    report.refused += 1;
                }
            }
            self.held.remove(&update.fence);
        }
    }

    fn drain(&mut self) {
        self.phase = Phase::Draining;
        // Jobs that were assigned meanwhile are given back at the end, unseen.
        self.reserving = Fuse::terminated();
        self.heart.drain();
        self.timer = task::sleep(self.config.grace).boxed().fuse();
    }

    fn stop_handlers(&mut self) {
        self.phase = Phase::Leaving;
        self.held.values().for_each(|held| held.abort.abort());
        self.tasks = FuturesUnordered::new();
        self.timer = task::sleep(LEAVE_TIME).boxed().fuse();
    }

    async fn leave(&mut self, report: &mut StopReport) -> End {
        let running = self.held.iter().filter(|(_, held)| held.is_running);
        let jobs: Vec<_> = running.map(|(fence, held)| (held.job, *fence)).collect();
        report.unreported += u64::try_from(self.outbox.len()).unwrap_or(u64::MAX);
        if let Some(count) = give_back(self.config, self.incarnation, jobs).await {
            report.released += u64::from(count);
        }
        End::Stopped
    }
}

/// Asks for jobs. A failure is told after a pause, so that it can be tried again at once.
async fn reserve(client: Client, request: Request) -> Reserved {
    let error = match client.call(request, CallOptions::timeout(RESERVE_TIMEOUT)).await {
        Ok(Reply::Reserved(jobs)) => return Ok(jobs),
        Ok(other) => unexpected(&other),
        Err(error) => error,
    };
    pause().await;
    Err(error)
}

/// Sends reports. A failure, of all or of some, is told after a pause, so that it can be tried again at once.
async fn send_reports(client: Client, updates: Vec<StatusUpdate>) -> Reported {
    let count = updates.len();
    let request = Request::BatchUpdateJobStatus(updates);
    let error = match client.call(request, CallOptions::timeout(REPORT_TIMEOUT)).await {
        Ok(Reply::Updated(results)) if results.len() == count => {
            let is_no =
                |result: &Result<(), Refusal>| result.as_ref().is_err_and(Refusal::is_retryable);
            if results.iter().any(is_no) {
                pause().await;
            }
            return Ok(results);
        }
        Ok(other) => unexpected(&other),
        Err(error) => error,
    };
    pause().await;
    Err(error)
}

/// Makes a verdict of what a handler returned, cut to what is kept.
fn verdict(result: Result<Bytes, String>) -> Verdict {
    let completed = result.is_ok();
    let (mut output, error) = match result {
        Ok(output) => (output, None),
        Err(error) => (Bytes::new(), Some(cut(&error, ERROR_BYTES_MAX).to_owned())),
    };
    let surplus = output.len().saturating_sub(OUTPUT_BYTES_MAX);
    if surplus > 0 {
        // Copied, so that 16 KiB do not keep a large output in memory.
        output = Bytes::copy_from_slice(&output.split_off(surplus));
    }
    Verdict { completed, exit_code: None, output, output_cut: surplus > 0, error }
}

/// Returns what a panic said.
pub(super) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (None, Some(text)) => text.as_str(),
        (None, None) => "of an unknown kind",
    };
    format!("the handler panicked: {text}")
}

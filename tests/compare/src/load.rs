//! What is measured: the trait that each system implements, and the loops that load all of them alike.

use std::error::Error;
use std::future::{Future, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::figures::{Latencies, Reading, Used, now_ns};

/// What may go wrong, in words.
pub type Res<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Bytes of a job.
const JOB_BYTES: usize = 256;

/// Workers of the cells that have some.
pub const WORKERS: usize = 4;

/// Jobs that a worker may have at once.
pub const SLOTS: usize = 64;

/// Jobs between submit and completion, at most.
const ON_THEIR_WAY_MAX: usize = 512;

/// Callers that submit them.
const CYCLE_CALLERS: usize = 128;

/// Submits a second of the latency cell.
const RATE: u64 = 50;

/// Time for workers to be there before anything is submitted.
const WORKERS_READY: Duration = Duration::from_millis(1500);

/// Before a worker that broke is started again.
const WORKER_PAUSE: Duration = Duration::from_millis(300);

/// Before a refused submit is tried again.
const REFUSED_PAUSE: Duration = Duration::from_millis(20);

/// A submit that is refused for so long has failed.
const REFUSED_MAX: Duration = Duration::from_secs(30);

/// After a submit that failed: what fails at once must not be all that is measured.
const FAILED_PAUSE: Duration = Duration::from_millis(5);

/// How long what is under way at the end may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Failures shown on stderr.
const SHOWN_MAX: u64 = 3;

/// Why a submit was not taken.
#[derive(Debug)]
pub enum Failure {
    /// Refused for now: the same submit is tried again.
    Busy,
    /// It failed, in words.
    Broken(String),
}

impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Broken(error.to_string())
    }
}

/// A system that takes jobs.
pub trait System: Send + Sync + 'static {
    /// Makes an empty queue, where one has to be made.
    fn prepare(&self) -> impl Future<Output = Res<()>> + Send {
        ready(Ok(()))
    }

    /// Submits one job and waits until it is taken. `slot` spreads callers over connections, `number` is
    /// the job's own: the same number is the same job.
    fn submit(
        &self,
        slot: usize,
        number: u64,
        body: Bytes,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Submits many in one request, the first with this number.
    fn submit_many(
        &self,
        _slot: usize,
        _first: u64,
        _bodies: Vec<Bytes>,
    ) -> impl Future<Output = Result<(), Failure>> + Send {
        ready(Err(Failure::Broken("no request takes many jobs".into())))
    }

    /// Runs a worker of [`SLOTS`] jobs at once, until it breaks.
    fn work(&self, worker: usize, sink: Arc<Sink>) -> impl Future<Output = Res<()>> + Send;

    /// Returns how many submits its servers have refused for now, if they count that themselves because the
    /// client library tries again by itself.
    fn refused(&self) -> impl Future<Output = Option<u64>> + Send {
        ready(None)
    }
}

/// How one cell is measured.
#[derive(Clone, Debug)]
pub struct Load {
    /// Requests in flight.
    pub in_flight: usize,
    /// Jobs in one request; 1 is a plain submit.
    pub batch: usize,
    /// Time that counts.
    pub time: Duration,
    /// Time before it.
    pub warm_up: Duration,
    /// The processes of the servers.
    pub pids: Vec<u32>,
}

/// Makes the body of a job: a stamp, and bytes that nothing on the way could compress.
fn body(number: u64, stamp: u64) -> Bytes {
    let mut bytes = Vec::with_capacity(JOB_BYTES);
    bytes.extend_from_slice(&stamp.to_le_bytes());
    let mut dice = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    while bytes.len() < JOB_BYTES {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        bytes.extend_from_slice(&dice.to_le_bytes());
    }
    bytes.into()
}

/// What all callers of a cell share.
struct Shared<S> {
    system: Arc<S>,
    next: AtomicU64,
    counts: AtomicBool,
    stop: AtomicBool,
    done: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    latencies: Latencies,
}

impl<S: System> Shared<S> {
    fn new(system: Arc<S>) -> Arc<Self> {
        Arc::new(Self {
            system,
            next: AtomicU64::new(1),
            counts: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            done: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            latencies: Latencies::default(),
        })
    }

    /// Makes one request until it is taken; what is refused for now is made again as the same. Returns how
    /// long it took from its first try on.
    async fn request(&self, slot: usize, batch: usize, stamped: bool) -> Option<Duration> {
        let batch = batch.max(1);
        let first = self.next.fetch_add(batch as u64, Relaxed);
        let stamp = if stamped { now_ns() } else { 0 };
        let bodies: Vec<Bytes> = (0..batch as u64).map(|at| body(first + at, stamp)).collect();
        let began = Instant::now();
        loop {
            let tried = match bodies.as_slice() {
                [only] => self.system.submit(slot, first, only.clone()).await,
                many => self.system.submit_many(slot, first, many.to_vec()).await,
            };
            let why = match tried {
                Ok(()) => return Some(began.elapsed()),
                Err(Failure::Busy) => {
                    self.refused.fetch_add(1, Relaxed);
                    if began.elapsed() < REFUSED_MAX {
                        sleep(REFUSED_PAUSE).await;
                        continue;
                    }
                    format!("refused for {REFUSED_MAX:?}")
                }
                Err(Failure::Broken(why)) => why,
            };
            if self.failed.fetch_add(1, Relaxed) < SHOWN_MAX {
                eprintln!("a submit failed: {why}");
            }
            sleep(FAILED_PAUSE).await;
            return None;
        }
    }

    async fn refused_so_far(&self) -> u64 {
        self.system.refused().await.unwrap_or_else(|| self.refused.load(Relaxed))
    }

    fn failures(&self) -> u64 {
        self.failed.load(Relaxed)
    }
}

/// Returns the part of all tries that was refused.
fn share(refused: u64, done: u64) -> f64 {
    refused as f64 / ((refused + done) as f64).max(1.0)
}

/// A closed loop: so many callers, each with one request under way.
pub async fn submits<S: System>(system: Arc<S>, load: &Load) -> Res<Value> {
    let shared = Shared::new(system);
    let callers: Vec<JoinHandle<()>> = (0..load.in_flight)
        .map(|slot| {
            let (shared, batch) = (Arc::clone(&shared), load.batch);
            tokio::spawn(async move {
                while !shared.stop.load(Relaxed) {
                    let took = shared.request(slot, batch, false).await;
                    if let Some(took) = took.filter(|_| shared.counts.load(Relaxed)) {
                        shared.latencies.record(slot, took);
                        shared.done.fetch_add(1, Relaxed);
                    }
                }
            })
        })
        .collect();
    let (used, refused) = window(&shared, &shared.counts, load).await;
    shared.stop.store(true, Relaxed);
    let requests = shared.done.load(Relaxed);
    let end = Instant::now() + PATIENCE;
    for caller in callers {
        // One that is stuck beyond the end has its request neither counted nor waited for.
        if timeout(end.saturating_duration_since(Instant::now()), caller).await.is_err() {
            eprintln!("a request was still under way {PATIENCE:?} after the end");
        }
    }
    if requests == 0 {
        return Err("no submit was taken in the time that counts".into());
    }
    let mut result = used.json(requests * load.batch.max(1) as u64);
    result["latency"] = shared.latencies.json();
    result["refused_share"] = json!(share(refused, requests));
    result["failed"] = json!(shared.failures());
    Ok(result)
}

/// What workers tell of the jobs they get.
pub struct Sink {
    counts: AtomicBool,
    completed: AtomicU64,
    arrived: AtomicU64,
    room: Semaphore,
    latencies: Latencies,
}

impl Sink {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            counts: AtomicBool::new(false),
            completed: AtomicU64::new(0),
            arrived: AtomicU64::new(0),
            room: Semaphore::new(ON_THEIR_WAY_MAX),
            latencies: Latencies::default(),
        })
    }

    /// Takes note that a worker holds a job.
    pub fn delivered(&self, body: &[u8]) {
        let stamp = body.first_chunk().map_or(0, |stamp| u64::from_le_bytes(*stamp));
        if stamp > 0 {
            let number = self.arrived.fetch_add(1, Relaxed);
            let took = Duration::from_nanos(now_ns().saturating_sub(stamp));
            self.latencies.record(number as usize, took);
        }
    }

    /// Takes note that a job is completed: another may be submitted.
    pub fn completed(&self) {
        self.room.add_permits(1);
        if self.counts.load(Relaxed) {
            self.completed.fetch_add(1, Relaxed);
        }
    }
}

/// Lets all warm up, then what `counts` for the time that does. Returns what that took, and the tries refused in it.
async fn window<S: System>(shared: &Shared<S>, counts: &AtomicBool, load: &Load) -> (Used, u64) {
    sleep(load.warm_up).await;
    let refused = shared.refused_so_far().await;
    let before = Reading::take(&load.pids);
    counts.store(true, Relaxed);
    sleep(load.time).await;
    counts.store(false, Relaxed);
    let used = Reading::take(&load.pids).since(&before);
    (used, shared.refused_so_far().await.saturating_sub(refused))
}

/// Keeps workers running; one that breaks is started again.
fn start_workers<S: System>(system: &Arc<S>, sink: &Arc<Sink>) {
    for number in 0..WORKERS {
        let (system, sink) = (Arc::clone(system), Arc::clone(sink));
        tokio::spawn(async move {
            loop {
                match system.work(number, Arc::clone(&sink)).await {
                    Ok(()) => eprintln!("worker {number} ended"),
                    Err(error) => eprintln!("worker {number}: {error}"),
                }
                sleep(WORKER_PAUSE).await;
            }
        });
    }
}

/// Whole jobs: submitted, assigned, completed, as many as go.
pub async fn cycle<S: System>(system: Arc<S>, load: &Load) -> Res<Value> {
    let sink = Sink::new();
    start_workers(&system, &sink);
    sleep(WORKERS_READY).await;
    let shared = Shared::new(system);
    for slot in 0..CYCLE_CALLERS {
        let (shared, sink) = (Arc::clone(&shared), Arc::clone(&sink));
        tokio::spawn(async move {
            while let Ok(room) = sink.room.acquire().await {
                if shared.request(slot, 1, false).await.is_some() {
                    // It comes back when the job is completed.
                    room.forget();
                }
            }
        });
    }
    let (used, refused) = window(&shared, &sink.counts, load).await;
    // Workers and callers end with the process.
    let jobs = sink.completed.load(Relaxed);
    if jobs == 0 {
        return Err("no job was completed in the time that counts".into());
    }
    let mut result = used.json(jobs);
    result["refused_share"] = json!(share(refused, jobs));
    result["failed"] = json!(shared.failures());
    Ok(result)
}

/// Few jobs and idle workers: how soon a submit is acknowledged, and how soon a worker has the job.
pub async fn latency<S: System>(system: Arc<S>, load: &Load) -> Res<Value> {
    let sink = Sink::new();
    start_workers(&system, &sink);
    sleep(WORKERS_READY).await;
    let shared = Shared::new(system);
    let mut callers = Vec::new();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / RATE as u32);
    let warm_ups = RATE * load.warm_up.as_secs();
    let mut before = Reading::take(&load.pids);
    for number in 0..warm_ups + RATE * load.time.as_secs() {
        ticks.tick().await;
        if number == warm_ups {
            before = Reading::take(&load.pids);
        }
        let (shared, is_counted) = (Arc::clone(&shared), number >= warm_ups);
        callers.push(tokio::spawn(async move {
            let took = shared.request(number as usize, 1, is_counted).await;
            if let Some(took) = took.filter(|_| is_counted) {
                shared.latencies.record(number as usize, took);
                shared.done.fetch_add(1, Relaxed);
            }
        }));
    }
    let used = Reading::take(&load.pids).since(&before);
    let end = Instant::now() + PATIENCE;
    for caller in callers {
        if timeout(end.saturating_duration_since(Instant::now()), caller).await.is_err() {
            return Err(format!("a submit was not answered {PATIENCE:?} after the end").into());
        }
    }
    let jobs = shared.done.load(Relaxed);
    while sink.arrived.load(Relaxed) < jobs {
        if Instant::now() > end {
            let arrived = sink.arrived.load(Relaxed);
            return Err(format!("{arrived} of {jobs} jobs came to a worker").into());
        }
        sleep(Duration::from_millis(10)).await;
    }
    if jobs == 0 {
        return Err("no submit was taken".into());
    }
    let mut result = used.json(jobs);
    result["acknowledged"] = shared.latencies.json();
    result["delivered"] = sink.latencies.json();
    result["failed"] = json!(shared.failures());
    Ok(result)
}

//! The disk's threads, and the handle through which the Raft thread uses them without ever waiting.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, TrySendError, bounded};

use crate::raft::effects::{Persist, ReadLog};
use crate::raft::message::{Entry, HardState, SnapshotMeta};
use crate::storage::disk::{Directory, Disk, DiskFile};
use crate::storage::error::OpenError;
use crate::storage::healing;
use crate::storage::identity::{self, Identity, Mark};
use crate::storage::log::{
    Gone, Log, Options, Pace, Segments, Shared, lock, make_segment, read_entries,
};
use crate::storage::recover::{Recovery, open_log};
use crate::storage::snapshot::{SnapshotError, Snapshots, Source};
use crate::types::{DirId, Index, NodeId, Term};

/// Batches and releases that wait for the log thread: one batch and a few releases. A release that
/// finds no room is dropped; the next snapshot brings another.
const LOG_WAITING_MAX: usize = 16;

/// Reads of old entries that wait. One too many is answered as an empty read and asked again.
const READS_WAITING_MAX: usize = 256;

/// Snapshots that wait to be written: consensus asks for one at a time.
const SNAPSHOTS_WAITING_MAX: usize = 2;

/// An idle log is sealed after so long, so that damage to its last batch can be told from a torn end.
const SEAL_AFTER: Duration = Duration::from_millis(200);

/// What the disk has done.
#[derive(Debug)]
pub enum Event {
    /// A batch is durable.
    Persisted {
        /// Its number.
        seq: u64,
        /// How long its sync took.
        sync: Duration,
    },
    /// Entries were read.
    LogRead {
        /// The read's number.
        token: u64,
        /// The entries, or the first one the disk still has.
        result: Result<Vec<Entry>, Gone>,
    },
    /// Old segments are gone.
    Released {
        /// The first entry left.
        first_index: Index,
    },
    /// A snapshot is durable.
    SnapshotWritten {
        /// What it stands for.
        meta: SnapshotMeta,
        /// Its size.
        bytes: u64,
    },
    /// A write or a sync failed, or synced data could not be read. The node must stop with this word;
    /// nothing is tried again.
    Failed {
        /// What failed, and how.
        what: String,
    },
}

/// What a start found.
#[derive(Debug)]
pub struct Recovered {
    /// The directory's id.
    pub dir: DirId,
    /// Term and vote.
    pub hard_state: HardState,
    /// The first entry on disk, or the one that would be first.
    pub first_index: Index,
    /// The last entry on disk; the one before the first if there is none.
    pub last_index: Index,
    /// The first index of each run of equal terms.
    pub runs: Vec<(Index, Term)>,
    /// The last entries, a window full at most.
    pub tail: Vec<Entry>,
    /// The data of every configuration entry on disk.
    pub configurations: Vec<(Index, Bytes)>,
    /// The commit index, a hint.
    pub commit_index: Index,
    /// Synced data was lost, and the node is not whole again: it must neither vote nor count.
    pub healing: bool,
}

impl Recovered {
    /// Tells what a log holds that was opened, and what consensus needs of it; the log itself is left.
    #[must_use]
    pub fn of<D: Disk>(identity: Identity, recovery: Recovery<D>) -> (Ready<D>, Self) {
        let Recovery { log, spare, hard_state, tail, configurations, commit_index } = recovery;
        let shared = log.shared();
        let catalogue = lock(&shared);
        let blocks = &catalogue.blocks;
        let recovered = Self {
            dir: identity.dir,
            hard_state,
            first_index: blocks.first_index(),
            last_index: blocks.last_index(),
            runs: blocks.runs(),
            tail,
            configurations,
            commit_index,
            healing: identity.mark != Mark::Whole,
        };
        drop(catalogue);
        (Ready { log, spare }, recovered)
    }
}

/// A log that was opened and is ready to be written.
#[derive(Debug)]
pub struct Ready<D: Disk> {
    /// Its writing end.
    pub log: Log<D>,
    /// A segment that was prepared and not used yet: the next one.
    pub spare: Option<D::File>,
}

/// An open data directory.
#[derive(Debug)]
pub struct Opened<D: Disk = Directory> {
    /// The handle.
    pub storage: Storage<D>,
    /// What was found.
    pub recovered: Recovered,
}

/// Counters of the disk.
#[derive(Debug, Default)]
pub struct Stats {
    /// Syncs of the log.
    pub syncs: AtomicU64,
    /// Microseconds they took in all.
    pub sync_micros: AtomicU64,
    /// Bytes of records written.
    pub written_bytes: AtomicU64,
    /// Bytes of log on disk.
    pub log_bytes: AtomicU64,
}

enum LogTask {
    Persist(Persist),
    Release(Index),
    Attend(Attendant),
}

/// Is told of each durable batch ([`Event::Persisted`]) by the thread that has just written it, and must not wait.
/// What it gives back goes to the events, as if it had not been asked; `None`: it has seen to it.
pub type Attendant = Box<dyn Fn(Event) -> Option<Event> + Send>;

/// The Raft thread's handle. Every method hands something to a thread and returns at once.
#[derive(Clone, Debug)]
pub struct Storage<D: Disk = Directory> {
    log: Sender<LogTask>,
    reads: Sender<ReadLog>,
    images: Sender<(SnapshotMeta, SourceBox)>,
    events: Sender<Event>,
    snapshots: Snapshots<D>,
    stats: Arc<Stats>,
    log_first: Index,
}

/// A source on its way; it has no text of its own.
struct SourceBox(Source);

impl std::fmt::Debug for SourceBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Source")
    }
}

/// Opens a node's data directory, or makes it, and starts the disk's threads. They end when the last
/// clone of the handle is gone; then the directory's lock is free and `events` is closed.
///
/// # Errors
/// [`OpenError`], in words for the one who started the node. Nothing was changed then.
pub fn open(
    path: &Path,
    node: NodeId,
    options: &Options,
    events: Sender<Event>,
) -> Result<Opened, OpenError> {
    let (disk, identity, lock) = identity::enter(path, node)?;
    open_on(disk, identity, Some(lock), options, events)
}

/// Opens a directory whose identity is known, on any disk; `directory_lock` is held as long as a
/// thread may write.
///
/// # Errors
/// As [`open`].
pub fn open_on<D: Disk>(
    disk: D,
    identity: Identity,
    directory_lock: Option<File>,
    options: &Options,
    events: Sender<Event>,
) -> Result<Opened<D>, OpenError> {
    let identity = healing::resume(&disk, identity)?;
    let snapshots = Snapshots::open(&disk).map_err(|error| {
        let path = "a snapshot".into();
        if let SnapshotError::Io(error) = error {
            return OpenError::Io { path, error };
        }
        OpenError::Io { path, error: io::Error::other(error) }
    })?;
    let (recovery, identity) = open_log(&disk, identity, snapshots.reach(), options)?;
    let (ready, recovered) = Recovered::of(identity, recovery);
    let stats = Arc::new(Stats::default());
    stats.log_bytes.store(ready.log.used_bytes(), Ordering::Relaxed);
    let alarm = events.clone();
    let snapshots = snapshots.with_alarm(move |what| tell(&alarm, Event::Failed { what }));
    let parts = Parts {
        disk,
        identity,
        options: *options,
        spare: ready.spare,
        log: ready.log,
        log_first: recovered.first_index,
        snapshots,
        stats,
    };
    let life = Life { _lock: Arc::new(directory_lock), events };
    let storage = start(parts, &life).map_err(OpenError::io("a thread of the disk"))?;
    Ok(Opened { storage, recovered })
}

struct Parts<D: Disk> {
    disk: D,
    identity: Identity,
    options: Options,
    spare: Option<D::File>,
    log: Log<D>,
    log_first: Index,
    snapshots: Snapshots<D>,
    stats: Arc<Stats>,
}

/// What each thread of the disk holds while it lives. The lock goes first: who hears that all events
/// have ended may open the directory again.
#[derive(Clone)]
struct Life {
    _lock: Arc<Option<File>>,
    events: Sender<Event>,
}

impl Life {
    fn tell(&self, event: Event) {
        tell(&self.events, event);
    }
}

/// A thread that panics is a node that must stop: nobody would ever hear of what it was to do. (A build
/// that aborts on a panic never comes here.)
impl Drop for Life {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell(Event::Failed { what: "a thread of the disk panicked".into() });
        }
    }
}

fn start<D: Disk>(parts: Parts<D>, life: &Life) -> io::Result<Storage<D>> {
    let (log, log_tasks) = bounded(LOG_WAITING_MAX);
    let (reads, read_tasks) = bounded(READS_WAITING_MAX);
    let (images, image_tasks) = bounded::<(SnapshotMeta, SourceBox)>(SNAPSHOTS_WAITING_MAX);
    let (shared, salt) = (parts.log.shared(), parts.identity.salt);
    let bytes = parts.options.segment_bytes;
    let background = Background::start(parts.disk, bytes, parts.spare, life.clone())?;
    let writer = LogThread {
        log: parts.log,
        identity: parts.identity,
        background,
        tasks: log_tasks,
        stats: Arc::clone(&parts.stats),
        life: life.clone(),
        attendant: None,
    };
    D::spawn("disk-log", move || writer.run())?;
    let alive = life.clone();
    D::spawn("disk-read", move || read_thread(&shared, salt, &read_tasks, &alive))?;
    let (alive, files) = (life.clone(), parts.snapshots.clone());
    D::spawn("disk-snapshot", move || snapshot_thread(files, image_tasks, &alive))?;
    Ok(Storage {
        log,
        reads,
        images,
        events: life.events.clone(),
        snapshots: parts.snapshots,
        stats: parts.stats,
        log_first: parts.log_first,
    })
}

/// Tells the Raft thread; one that is gone needs no telling.
fn tell(events: &Sender<Event>, event: Event) {
    if events.send(event).is_err() {
        log::debug!("the Raft thread is gone");
    }
}

impl<D: Disk> Storage<D> {
    /// Writes and syncs a batch; answered by [`Event::Persisted`]. At most one may be outstanding.
    pub fn persist(&self, batch: Persist) {
        let seq = batch.seq;
        if self.log.try_send(LogTask::Persist(batch)).is_err() {
            // The thread has failed and said so, or more than one batch is outstanding.
            self.fail(format!("the log took no batch {seq}"));
        }
    }

    /// From now on `attendant` hears first of what is durable. To be called before the first batch, once.
    pub fn attend(&self, attendant: Attendant) {
        if self.log.try_send(LogTask::Attend(attendant)).is_err() {
            self.fail("the log took nobody who attends".into());
        }
    }

    /// Reads old entries; answered by [`Event::LogRead`].
    pub fn read_log(&self, read: ReadLog) {
        if let Err(TrySendError::Full(read)) = self.reads.try_send(read) {
            let event = Event::LogRead { token: read.token, result: Ok(Vec::new()) };
            if self.events.try_send(event).is_err() {
                log::warn!("a read of the log found no room");
            }
        }
    }

    /// Lets go of entries that a durable snapshot covers; answered by [`Event::Released`].
    pub fn release(&self, up_to: Index) {
        if self.log.try_send(LogTask::Release(up_to)).is_err() {
            log::debug!("the log is busy; it is released another time");
        }
    }

    /// Writes an image as a snapshot and drops it there; answered by [`Event::SnapshotWritten`].
    pub fn write_snapshot(&self, meta: SnapshotMeta, source: Source) {
        if self.images.try_send((meta, SourceBox(source))).is_err() {
            self.fail("the snapshot thread took no image".into());
        }
    }

    /// Returns the bytes of log on disk.
    #[must_use]
    pub fn log_bytes(&self) -> u64 {
        self.stats.log_bytes.load(Ordering::Relaxed)
    }

    /// Returns the snapshot files.
    #[must_use]
    pub fn snapshots(&self) -> Snapshots<D> {
        self.snapshots.clone()
    }

    /// Returns the first entry the log had at the start.
    #[must_use]
    pub fn log_first(&self) -> Index {
        self.log_first
    }

    /// Returns the counters.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    fn fail(&self, what: String) {
        if self.events.try_send(Event::Failed { what }).is_err() {
            log::error!("the disk has failed, and nobody hears it");
        }
    }
}

/// Owns the log's writing end.
struct LogThread<D: Disk> {
    log: Log<D>,
    identity: Identity,
    background: Background<D::File>,
    tasks: Receiver<LogTask>,
    stats: Arc<Stats>,
    life: Life,
    attendant: Option<Attendant>,
}

impl<D: Disk> LogThread<D> {
    fn run(mut self) {
        if let Err(what) = self.serve() {
            self.life.tell(Event::Failed { what });
        }
    }

    /// Works until the node is gone. What may be released is released segment by segment, between
    /// batches or when there are none: thousands of them may go at once, and no batch waits for more
    /// than one.
    fn serve(&mut self) -> Result<(), String> {
        let mut releasing = None;
        loop {
            let task = if releasing.is_some() {
                match self.tasks.try_recv() {
                    Ok(task) => Some(task),
                    Err(TryRecvError::Empty) => None,
                    Err(TryRecvError::Disconnected) => return Ok(()),
                }
            } else {
                match self.next_task()? {
                    Some(task) => Some(task),
                    None => return Ok(()),
                }
            };
            match task {
                Some(LogTask::Persist(batch)) => self
                    .persist(&batch)
                    .map_err(|error| format!("the log cannot be written: {error}"))?,
                Some(LogTask::Release(up_to)) => releasing = releasing.max(Some(up_to)),
                Some(LogTask::Attend(attendant)) => self.attendant = Some(attendant),
                None => {}
            }
            if let Some(up_to) = releasing
                && !self.release_oldest(up_to)?
            {
                releasing = None;
                let first_index = self.log.first_index();
                self.life.tell(Event::Released { first_index });
            }
        }
    }

    /// Waits for something to do; seals the log when nothing came for a while. `None` when the node is
    /// gone.
    fn next_task(&mut self) -> Result<Option<LogTask>, String> {
        match self.tasks.recv_timeout(SEAL_AFTER) {
            Ok(task) => return Ok(Some(task)),
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
            Err(RecvTimeoutError::Timeout) => {}
        }
        self.log.seal().map_err(|error| format!("the log cannot be sealed: {error}"))?;
        Ok(self.tasks.recv().ok())
    }

    /// Tells whether there may be more to release.
    fn release_oldest(&mut self, up_to: Index) -> Result<bool, String> {
        let released = self
            .log
            .release_oldest(up_to)
            .map_err(|error| format!("old log files cannot be removed: {error}"))?;
        self.stats.log_bytes.store(self.log.used_bytes(), Ordering::Relaxed);
        Ok(released)
    }

    fn persist(&mut self, batch: &Persist) -> io::Result<()> {
        let cost = self.log.append(batch, &mut self.background)?;
        if batch.healed {
            self.identity = identity::mark(self.log.disk(), self.identity, Mark::Whole)
                .map_err(io::Error::other)?;
            log::info!("this node is whole again: it votes and counts");
        }
        let micros = u64::try_from(cost.sync.as_micros()).unwrap_or(u64::MAX);
        self.stats.syncs.fetch_add(1, Ordering::Relaxed);
        self.stats.sync_micros.fetch_add(micros, Ordering::Relaxed);
        self.stats.written_bytes.fetch_add(cost.bytes, Ordering::Relaxed);
        self.stats.log_bytes.store(self.log.used_bytes(), Ordering::Relaxed);
        self.background.prepare(self.log.segment() + 1);
        let persisted = Event::Persisted { seq: batch.seq, sync: cost.sync };
        let left = match &self.attendant {
            Some(attendant) => attendant(persisted),
            None => Some(persisted),
        };
        if let Some(persisted) = left {
            self.life.tell(persisted);
        }
        Ok(())
    }
}

/// Prepares the next segment before it is needed, on a thread of its own.
struct Background<F> {
    asks: Sender<u64>,
    made: Receiver<io::Result<F>>,
    /// The number asked for and not fetched yet.
    asked: Option<u64>,
    spare: Option<F>,
}

impl<F: DiskFile> Background<F> {
    fn start<D: Disk<File = F>>(
        disk: D,
        bytes: u64,
        spare: Option<F>,
        life: Life,
    ) -> io::Result<Self> {
        let (asks, asked) = bounded::<u64>(1);
        let (hand, made) = bounded(1);
        D::spawn("disk-prepare", move || {
            let _alive = life;
            for number in asked {
                if hand.send(make_segment(&disk, number, bytes, Pace::Half)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { asks, made, asked: None, spare })
    }

    /// Asks for a segment, if none is ready or on its way.
    fn prepare(&mut self, number: u64) {
        if self.spare.is_none() && self.asked.is_none() && self.asks.try_send(number).is_ok() {
            self.asked = Some(number);
        }
    }
}

impl<F: DiskFile> Segments<F> for Background<F> {
    fn next(&mut self, number: u64) -> io::Result<F> {
        if let Some(file) = self.spare.take() {
            return Ok(file);
        }
        self.prepare(number);
        self.asked = None;
        self.made.recv().map_err(io::Error::other)?
    }
}

fn read_thread<F: DiskFile>(shared: &Shared<F>, salt: u64, tasks: &Receiver<ReadLog>, life: &Life) {
    for read in tasks {
        match read_entries(shared, salt, &read) {
            Ok(result) => life.tell(Event::LogRead { token: read.token, result }),
            Err(error) => {
                let what = format!("synced entries cannot be read: {error}");
                return life.tell(Event::Failed { what });
            }
        }
    }
}

/// How far behind the rest of the node the snapshot thread stands in the queue for a core. Writing an
/// image of millions of jobs takes seconds of one; the Raft thread must not wait behind it.
const SNAPSHOT_NICENESS: i32 = 10;

/// Lets this thread, and no other, yield to the rest (Linux keeps a niceness for each thread).
fn step_back() {
    if let Err(error) = rustix::process::setpriority_process(None, SNAPSHOT_NICENESS) {
        log::debug!("the snapshot thread keeps its priority: {error}");
    }
}

fn snapshot_thread<D: Disk>(
    snapshots: Snapshots<D>,
    tasks: Receiver<(SnapshotMeta, SourceBox)>,
    life: &Life,
) {
    step_back();
    for (meta, source) in tasks {
        match snapshots.write(&meta, source.0) {
            Ok(bytes) => {
                log::info!("a snapshot at {} is written: {bytes} bytes", meta.index);
                life.tell(Event::SnapshotWritten { meta, bytes });
            }
            Err(error) => {
                let what = format!("a snapshot cannot be written: {error}");
                return life.tell(Event::Failed { what });
            }
        }
    }
}

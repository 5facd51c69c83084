//! What every connection of a node shares: its settings, its published view, its clock, its files.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use async_std::channel;

use crate::jobs::machine::Machine;
use crate::net::guard::PARTIAL_BYTES_MAX;
use crate::net::inbox::Inbox;
use crate::net::metrics::Metrics;
use crate::raft::message::SnapshotMeta;
use crate::replica::view::View;
use crate::types::{DirId, Millis, NodeId, TICK_MS, Ticks};

/// Connections open at once, unless the node is told otherwise: ten thousand silent ones and all
/// the good ones besides.
pub const CONNECTIONS_MAX: usize = 16_384;

/// Connections above [`NetConfig::connections_max`] that are still taken, for the other nodes alone:
/// a node that is full of clients must hear its leader. Whoever takes such a place has
/// [`RESERVED_FIRST_BYTE`] to begin and must then prove to be a node.
pub const PEER_RESERVE: usize = 64;

/// How long a connection in the reserve may stay silent.
pub const RESERVED_FIRST_BYTE: Duration = Duration::from_millis(500);

/// Text connections open at once; one more is told so and closed.
pub const TEXT_CONNECTIONS_MAX: usize = 64;

/// Images of the queue that are read for answers at once, so that lists never take every thread.
pub const IMAGES_MAX: usize = 16;

/// Answers that wait for one of those places: hundreds of waits may end with one job. One more is refused
/// with `RESOURCE_EXHAUSTED`, for each pins an old image of the queue in memory.
pub const IMAGES_WAITING_MAX: usize = 4096;

/// Memory of submits that are read and not yet answered, over all connections. One more is refused with
/// `RESOURCE_EXHAUSTED`: what waits in lanes is counted in places, and a place may hold megabytes.
pub const SUBMIT_BYTES_MAX: usize = 256 << 20;

/// Memory of long lists that are made and not yet on their way, over all connections. One more is refused
/// with `RESOURCE_EXHAUSTED`: those who ask and do not read hold each of theirs until they are cut off.
pub const LISTED_BYTES_MAX: usize = 256 << 20;

/// What a node's sockets need to be told.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// This node.
    pub node: NodeId,
    /// Its data directory.
    pub dir: DirId,
    /// Where to listen, `HOST:PORT`; port 0 takes a free one.
    pub listen: String,
    /// Every voter with the address others reach it by, this node included, in order of id.
    pub peers: Vec<(NodeId, String)>,
    /// CRC-32 of that list, compared in the handshake.
    pub peers_crc: u32,
    /// Connections at once; above it only nodes are taken ([`PEER_RESERVE`]).
    pub connections_max: usize,
    /// How long to wait for what.
    pub patience: Patience,
}

/// How long each kind of waiting lasts. Tests shorten them; users have no reason to.
#[derive(Clone, Debug)]
pub struct Patience {
    /// Silence before a connection's first byte.
    pub first_byte: Duration,
    /// From the first byte to the end of the handshake.
    pub handshake: Duration,
    /// From a frame's first byte to its last.
    pub frame: Duration,
    /// From a request's frame to the answer that the session gives by itself. A little above the
    /// 5 s after which the Raft thread gives it, so that its better answer comes first.
    pub request: Duration,
    /// For what is written to leave: a reader slower than that is cut off.
    pub write: Duration,
    /// For a connection to a peer to stand.
    pub connect: Duration,
    /// For the Raft thread to say whether it wants an offered snapshot.
    pub verdict: Duration,
    /// Without any progress of a snapshot transfer.
    pub bulk: Duration,
    /// For the local view in text mode.
    pub look: Duration,
    /// Silence on a text connection after its last answer, before it is closed.
    pub text_pause: Duration,
    /// Silence on an interactive text connection.
    pub shell: Duration,
    /// For a text client to close its side after the last answer.
    pub linger: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            first_byte: Duration::from_secs(5),
            handshake: Duration::from_secs(2),
            frame: Duration::from_secs(30),
            request: Duration::from_millis(5250),
            write: Duration::from_secs(10),
            connect: Duration::from_millis(500),
            verdict: Duration::from_secs(5),
            bulk: Duration::from_secs(10),
            look: Duration::from_secs(2),
            text_pause: Duration::from_millis(100),
            shell: Duration::from_secs(300),
            linger: Duration::from_secs(1),
        }
    }
}

/// What a node can say of itself without asking anybody, for people.
#[derive(Clone, Debug, Default)]
pub struct Info {
    /// The program's version.
    pub version: String,
    /// The data directory's path.
    pub data: String,
    /// The settings in force, for the text command `config`.
    pub config: Vec<(String, String)>,
    /// When the process started, on its wall clock.
    pub started: Millis,
}

/// One snapshot file that can be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotFile {
    /// What it stands for.
    pub meta: SnapshotMeta,
    /// Its id: a broken transfer is resumed only for the same file.
    pub id: [u8; 16],
    /// Its size.
    pub bytes: u64,
}

/// The snapshot files of this node. Every call may block, and is made on a thread that may.
pub trait SnapshotFiles: Send + Sync + 'static {
    /// Returns the newest whole snapshot file, if there is one.
    fn newest(&self) -> Option<SnapshotFile>;

    /// Reads at most `max` bytes at `offset`; `None` if that file is gone.
    ///
    /// # Errors
    /// What the disk says.
    fn read_chunk(&self, id: [u8; 16], offset: u64, max: usize) -> io::Result<Option<Vec<u8>>>;

    /// Begins or goes on receiving a file; returns the offset of the first byte wanted.
    ///
    /// # Errors
    /// Why it cannot be received.
    fn begin(&self, file: &SnapshotFile) -> Result<u64, String>;

    /// Writes bytes at `offset` and returns the offset of the next byte wanted.
    ///
    /// # Errors
    /// Why they cannot be written.
    fn write_chunk(&self, id: [u8; 16], offset: u64, data: &[u8]) -> Result<u64, String>;

    /// Checks the whole file, makes it durable and decodes it.
    ///
    /// # Errors
    /// What is wrong with it.
    fn finish(&self, id: [u8; 16]) -> Result<(SnapshotMeta, Box<Machine>), String>;
}

/// The replica's published view: written by the Raft thread when it changes, read by every session
/// before it asks anything.
#[derive(Debug)]
pub struct ViewCell(RwLock<Arc<View>>);

impl ViewCell {
    /// Publishes a first view.
    #[must_use]
    pub fn new(view: View) -> Self {
        Self(RwLock::new(Arc::new(view)))
    }

    /// Returns the view last published.
    #[must_use]
    pub fn load(&self) -> Arc<View> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Publishes another view. Readers hold the lock for the copy of a pointer only, so the Raft
    /// thread waits for nobody.
    pub fn set(&self, view: View) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
    }
}

/// What the sockets share with the rest of the node.
pub struct Shared {
    /// The replica's view.
    pub view: ViewCell,
    /// The lanes into the Raft thread.
    pub inbox: Inbox,
    /// The node's monotonic clock, the same as the Raft thread's.
    pub clock: fn() -> Ticks,
    /// The wall clock.
    pub wall: fn() -> Millis,
    /// Snapshot files.
    pub snapshots: Arc<dyn SnapshotFiles>,
    /// For people.
    pub info: Info,
    /// Counters, shared with the Raft thread.
    pub metrics: Arc<Metrics>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("view", &self.view).finish_non_exhaustive()
    }
}

/// Whole ticks in a duration, rounded up.
#[must_use]
pub fn ticks_in(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).div_ceil(TICK_MS)
}

/// What every task of the room holds: settings, what is shared with the node, and the room's own
/// few common things.
#[derive(Debug)]
pub struct Ctx {
    /// Settings.
    pub config: NetConfig,
    /// What is shared with the node.
    pub shared: Arc<Shared>,
    /// Tells when to stop.
    pub stop: Stop,
    /// Places among the connections.
    pub connections: Places,
    /// Places among the text connections.
    pub text: Places,
    /// Places among the answers that read an image.
    pub images: Images,
    /// Bytes of submits that are read and not yet answered.
    pub bytes_in_flight: Budget,
    /// Memory of long lists on their way out.
    pub bytes_listed: Budget,
    /// Bytes of frames of clients that are not whole yet.
    pub bytes_partial: Budget,
    /// What callers that are turned away make us say in the log.
    pub turned_away: Sparing,
    /// Who is connected on which lane, so that a node that dials again takes its own old place.
    pub lanes: Lanes,
    /// Held while a snapshot is received: one at a time, whoever sends it.
    pub receiving: async_std::sync::Mutex<()>,
}

impl Ctx {
    /// Puts settings and what is shared together.
    #[must_use]
    pub fn new(config: NetConfig, shared: Arc<Shared>) -> Self {
        Self {
            connections: Places::new(config.connections_max.saturating_add(PEER_RESERVE)),
            text: Places::new(TEXT_CONNECTIONS_MAX),
            images: Images::new(),
            bytes_in_flight: Budget::new(SUBMIT_BYTES_MAX),
            bytes_listed: Budget::new(LISTED_BYTES_MAX),
            bytes_partial: Budget::new(PARTIAL_BYTES_MAX),
            turned_away: Sparing::default(),
            lanes: Lanes::default(),
            receiving: async_std::sync::Mutex::new(()),
            stop: Stop::new(),
            config,
            shared,
        }
    }

    /// Returns the metrics.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }
}

/// The two steps of stopping, each a channel that is closed when its time has come.
#[derive(Debug)]
pub struct Stop {
    drain: (channel::Sender<()>, channel::Receiver<()>),
    cut: (channel::Sender<()>, channel::Receiver<()>),
}

impl Stop {
    fn new() -> Self {
        Self { drain: channel::bounded(1), cut: channel::bounded(1) }
    }

    /// From now on nobody new is accepted, and sessions answer what they have and end.
    pub fn drain(&self) {
        self.drain.0.close();
    }

    /// From now on every connection is cut.
    pub fn cut(&self) {
        self.drain();
        self.cut.0.close();
    }

    /// Returns a receiver whose `recv` fails once draining begins.
    #[must_use]
    pub fn draining(&self) -> channel::Receiver<()> {
        self.drain.1.clone()
    }

    /// Returns a receiver whose `recv` fails once connections are cut.
    #[must_use]
    pub fn cutting(&self) -> channel::Receiver<()> {
        self.cut.1.clone()
    }

    /// Tells whether draining has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.drain.1.is_closed()
    }
}

/// A number of places, some taken; a [`Place`] gives its own back when it is dropped.
#[derive(Clone, Debug)]
pub struct Places {
    taken: Arc<AtomicUsize>,
    places_max: usize,
}

/// One taken place.
#[derive(Debug)]
pub struct Place {
    taken: Arc<AtomicUsize>,
    /// How many were taken with it.
    pub ordinal: usize,
}

impl Places {
    /// Makes so many places.
    #[must_use]
    pub fn new(places_max: usize) -> Self {
        Self { taken: Arc::new(AtomicUsize::new(0)), places_max }
    }

    /// Takes a place, or returns `None` when all are taken.
    #[must_use]
    pub fn take(&self) -> Option<Place> {
        let ordinal = self.taken.fetch_add(1, Ordering::Relaxed) + 1;
        let place = Place { taken: Arc::clone(&self.taken), ordinal };
        (ordinal <= self.places_max).then_some(place)
    }

    /// Returns how many are taken now.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A number of bytes, some held; a [`Hold`] gives its own back when it is dropped.
#[derive(Clone, Debug)]
pub struct Budget {
    held: Arc<AtomicUsize>,
    bytes_max: usize,
}

/// Some held bytes.
#[derive(Debug)]
pub struct Hold {
    held: Arc<AtomicUsize>,
    bytes: usize,
}

impl Budget {
    /// Makes a budget of so many bytes.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self { held: Arc::new(AtomicUsize::new(0)), bytes_max }
    }

    /// Holds so many bytes, or returns `None` when too many are held. Nothing always fits.
    #[must_use]
    pub fn hold(&self, bytes: usize) -> Option<Hold> {
        let before = self.held.fetch_add(bytes, Ordering::Relaxed);
        let hold = Hold { held: Arc::clone(&self.held), bytes };
        (bytes == 0 || before.saturating_add(bytes) <= self.bytes_max).then_some(hold)
    }

    /// Returns how many bytes are held now.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

impl Hold {
    /// Returns how many bytes it holds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Places among the answers that read an image of the queue: [`IMAGES_MAX`] at work,
/// [`IMAGES_WAITING_MAX`] more waiting.
#[derive(Debug)]
pub struct Images {
    places: Places,
    working: (channel::Sender<()>, channel::Receiver<()>),
}

/// A place at work; given back when dropped.
#[derive(Debug)]
pub struct Working {
    working: channel::Receiver<()>,
    _place: Place,
}

impl Images {
    fn new() -> Self {
        Self {
            places: Places::new(IMAGES_MAX + IMAGES_WAITING_MAX),
            working: channel::bounded(IMAGES_MAX),
        }
    }

    /// Takes a place in the queue, or returns `None` when it is full.
    #[must_use]
    pub fn queue(&self) -> Option<Place> {
        self.places.take()
    }

    /// Waits for a place at work. The channel is the semaphore: what is in it works.
    pub async fn work(&self, place: Place) -> Working {
        if self.working.0.send(()).await.is_err() {
            log::debug!("the channel of working images is never closed");
        }
        Working { working: self.working.1.clone(), _place: place }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        if self.working.try_recv().is_err() {
            log::debug!("a working image had lost its place");
        }
    }
}

/// Keeps a log from filling with what others make us say: one line a second at most, and the same line
/// only once a minute.
#[derive(Debug, Default)]
pub struct Sparing(Mutex<Option<(String, Ticks)>>);

impl Sparing {
    /// Tells whether a line may be said now.
    pub fn may_say(&self, line: &str, now: Ticks) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pause = |said: &str| Duration::from_secs(if said == line { 60 } else { 1 });
        let is_early = last.as_ref().is_some_and(|(said, at)| now.0 < at.0 + ticks_in(pause(said)));
        if !is_early {
            *last = Some((line.to_owned(), now));
        }
        !is_early
    }
}

/// What only one connection may have at a time; the newest one wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// The Raft lane of that node into this one.
    Raft(NodeId),
    /// The snapshot being received, whoever sends it.
    Receiving,
    /// The snapshot being sent to that node.
    Sending(NodeId),
}

/// Who holds which lane. A node that dials again has lost its former connection, whatever the kernel
/// thinks of it; an old one must not deliver after a new one has begun.
#[derive(Debug, Default)]
pub struct Lanes(Mutex<BTreeMap<Lane, channel::Sender<()>>>);

impl Lanes {
    fn held(&self) -> MutexGuard<'_, BTreeMap<Lane, channel::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a lane from whoever holds it. The returned receiver's `recv` fails once somebody else
    /// takes it, or it is ended.
    #[must_use]
    pub fn take(&self, lane: Lane) -> channel::Receiver<()> {
        let (holder, taken_away) = channel::bounded(1);
        if let Some(former) = self.held().insert(lane, holder) {
            former.close();
        }
        taken_away
    }

    /// Ends whoever holds a lane, with a word that tells it from being superseded.
    pub fn end(&self, lane: Lane) {
        if let Some(holder) = self.held().remove(&lane)
            && holder.try_send(()).is_err()
        {
            log::debug!("{lane:?} had ended already");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_line_is_said_once_a_minute_and_any_once_a_second() {
        let sparing = Sparing::default();
        assert!(sparing.may_say("a", Ticks(0)));
        assert!(!sparing.may_say("b", Ticks(99)));
        assert!(!sparing.may_say("a", Ticks(5999)));
        assert!(sparing.may_say("a", Ticks(6000)));
        assert!(sparing.may_say("b", Ticks(6100)));
    }

    #[test]
    fn places_and_bytes_are_given_back() {
        let places = Places::new(1);
        let taken = places.take();
        assert!(taken.is_some() && places.take().is_none());
        drop(taken);
        assert!(places.take().is_some());
        assert_eq!(places.taken(), 0);
    }

    #[test]
    fn lane_is_taken_from_its_holder_and_ended_with_a_word() {
        let lanes = Lanes::default();
        let former = lanes.take(Lane::Receiving);
        let newer = lanes.take(Lane::Receiving);
        assert!(matches!(former.try_recv(), Err(channel::TryRecvError::Closed)));
        assert!(matches!(newer.try_recv(), Err(channel::TryRecvError::Empty)));
        lanes.end(Lane::Receiving);
        assert_eq!(newer.try_recv(), Ok(()));
    }
}

//! The links to the other nodes: one queue and one task each, which dials, sends, and dials again.

use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_std::channel;
use async_std::task;
use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use socket2::SockRef;
use tokio_util::codec::Encoder;

use crate::net::conn::{self, CallError, Frames};
use crate::net::inbox::PeerEvent;
use crate::net::shared::Ctx;
use crate::raft::message::Message;
use crate::types::NodeId;
use crate::wire::frame::{BODY_BYTES_MAX, FrameCodec, FrameError};
use crate::wire::hello::Role;
use crate::wire::peer::PeerMessage;

/// Messages that wait for one peer, at most. One more is dropped and counted: Raft sends anew what
/// was lost, and a follower that far behind must not fill the leader's memory.
pub const QUEUE_MESSAGES_MAX: usize = 1024;

/// Bytes that wait for one peer, at most; above it messages are dropped as well. One message always
/// fits into an empty queue.
pub const QUEUE_BYTES_MAX: usize = 16 << 20;

/// A message of at most so many bytes is written by the Raft thread itself when nothing waits before it: to wake
/// the link's task for it costs more than to write it. Larger ones are encoded and written by the task, beside
/// the Raft thread.
const DIRECT_BYTES_MAX: usize = 8 << 10;

/// Messages collected for one write.
const BATCH_MESSAGES_MAX: usize = 256;

/// Bytes collected for one write.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// What a message weighs beside its entries.
const MESSAGE_BYTES: usize = 256;

/// The first pause before a peer is dialled again.
const PAUSE_MIN: Duration = Duration::from_millis(20);

/// The longest pause; each is twice the one before, less a random part so that nodes started together
/// do not dial together.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The Raft thread's end of one link: takes messages, never waits.
#[derive(Debug)]
pub struct PeerQueue {
    queue: channel::Sender<Item>,
    /// What waits or is being written by the task; at 0 it writes nothing, and the socket is free.
    bytes: Arc<AtomicUsize>,
    is_up: Arc<AtomicBool>,
    direct: Arc<Mutex<Direct>>,
}

/// The link's end of the queue.
#[derive(Debug)]
pub struct Outbox {
    queue: channel::Receiver<Item>,
    bytes: Arc<AtomicUsize>,
    is_up: Arc<AtomicBool>,
    direct: Arc<Mutex<Direct>>,
}

/// What waits for the task.
#[derive(Debug)]
enum Item {
    Message(PeerMessage),
    /// The end of a frame whose beginning the Raft thread has written to the socket that stands. It is first in
    /// the queue, and in none once that socket is gone.
    Rest(Bytes),
}

/// The Raft thread's own way to the socket of a link that stands.
#[derive(Debug, Default)]
struct Direct {
    socket: Option<TcpStream>,
}

fn lock(direct: &Mutex<Direct>) -> MutexGuard<'_, Direct> {
    direct.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Direct {
    /// Writes as much of a message as the socket takes at once; returns what is left, or `None` if it cannot be
    /// written this way.
    fn write(&mut self, message: &PeerMessage) -> Option<Bytes> {
        let socket = self.socket.as_ref()?;
        let mut out = BytesMut::new();
        if let Err(error) = FrameCodec::new(BODY_BYTES_MAX).encode(message.to_frame(), &mut out) {
            log::error!("not sent: {error}");
            return None;
        }
        // The task hears of a socket that breaks as the end of the connection.
        conn::write_now(SockRef::from(socket), out)
            .inspect_err(|error| log::debug!("a link broke under a message: {error}"))
            .inspect_err(|_broken| self.socket = None)
            .ok()
    }
}

/// Makes the queue of one peer. It takes nothing before the link stands.
#[must_use]
pub fn queue() -> (PeerQueue, Outbox) {
    let (sender, receiver) = channel::bounded(QUEUE_MESSAGES_MAX);
    let bytes = Arc::new(AtomicUsize::new(0));
    let is_up = Arc::new(AtomicBool::new(false));
    let direct = Arc::new(Mutex::new(Direct::default()));
    let raft = PeerQueue {
        queue: sender,
        bytes: Arc::clone(&bytes),
        is_up: Arc::clone(&is_up),
        direct: Arc::clone(&direct),
    };
    (raft, Outbox { queue: receiver, bytes, is_up, direct })
}

impl PeerQueue {
    /// Queues a message, or drops it when the link is down or the queue full. Returns whether it went
    /// in. What would be sent after a link came back would be old by then: it is not kept.
    #[must_use]
    pub fn send(&self, message: PeerMessage) -> bool {
        if !self.is_up.load(Ordering::Relaxed) {
            return false;
        }
        // Held to the end: nothing comes between what is written and the rest of it, and no other link either.
        let mut direct = lock(&self.direct);
        if self.bytes.load(Ordering::Acquire) == 0
            && weight(&message) <= DIRECT_BYTES_MAX
            && let Some(rest) = direct.write(&message)
        {
            return rest.is_empty() || self.push(Item::Rest(rest));
        }
        self.push(Item::Message(message))
    }

    fn push(&self, item: Item) -> bool {
        let weight = item.weight();
        let waiting = self.bytes.fetch_add(weight, Ordering::Relaxed);
        let fits = waiting == 0 || waiting + weight <= QUEUE_BYTES_MAX;
        let taken = fits && self.queue.try_send(item).is_ok();
        if !taken {
            self.bytes.fetch_sub(weight, Ordering::Relaxed);
        }
        taken
    }

    /// Tells whether the link stands.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Relaxed)
    }
}

fn weight(message: &PeerMessage) -> usize {
    let entries = match &message.message {
        Message::AppendEntries { entries, .. } => entries.iter().map(|entry| entry.weight()).sum(),
        Message::PreVote { .. }
        | Message::PreVoteReply { .. }
        | Message::Vote { .. }
        | Message::VoteReply { .. }
        | Message::AppendReply { .. }
        | Message::InstallSnapshot { .. }
        | Message::TimeoutNow { .. }
        | Message::ReadIndex { .. }
        | Message::ReadIndexReply { .. } => 0,
    };
    MESSAGE_BYTES + entries
}

impl Item {
    fn weight(&self) -> usize {
        match self {
            Self::Message(message) => weight(message),
            Self::Rest(bytes) => bytes.len(),
        }
    }
}

/// One write's worth; its bytes count as waiting until [`Outbox::written`] is told of it.
#[derive(Debug)]
struct Batch {
    items: Vec<Item>,
    bytes: usize,
}

impl Outbox {
    /// Waits for something to write, then takes what else is there, up to one write's worth. `None`: the node
    /// is gone.
    async fn batch(&self) -> Option<Batch> {
        let first = self.queue.recv().await.ok()?;
        let mut bytes = first.weight();
        let mut items = vec![first];
        while items.len() < BATCH_MESSAGES_MAX && bytes < BATCH_BYTES_MAX {
            let Ok(next) = self.queue.try_recv() else { break };
            bytes += next.weight();
            items.push(next);
        }
        Some(Batch { items, bytes })
    }

    /// The bytes of a batch wait no more: they have left, or their link has ended.
    fn written(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Release);
    }

    /// The link stands: from now on messages are taken.
    fn open(&self, socket: TcpStream) {
        self.clear();
        lock(&self.direct).socket = Some(socket);
        self.is_up.store(true, Ordering::Relaxed);
    }

    /// It does no more. What waits is dropped, the end of a frame above all.
    fn close(&self) {
        self.is_up.store(false, Ordering::Relaxed);
        lock(&self.direct).socket = None;
        self.clear();
    }

    fn clear(&self) {
        while let Ok(item) = self.queue.try_recv() {
            self.written(item.weight());
        }
    }
}

/// A pause that doubles, with a random part.
#[derive(Debug)]
struct Pause(Duration);

impl Pause {
    fn next(&mut self) -> Duration {
        let most = self.0;
        self.0 = (most * 2).min(PAUSE_MAX);
        most.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

/// Keeps the link to one peer for as long as the node runs.
pub async fn keep_link(ctx: Arc<Ctx>, to: NodeId, addr: String, outbox: Outbox) {
    let mut pause = Pause(PAUSE_MIN);
    let mut last_said = String::new();
    loop {
        match conn::call(&ctx, to, &addr, Role::Raft).await {
            Ok((frames, socket)) => {
                log::info!("linked to node {to} at {addr}");
                last_said.clear();
                pause = Pause(PAUSE_MIN);
                outbox.open(socket);
                let ended = use_link(&ctx, to, frames, &outbox).await;
                log::info!("the link to node {to} ended: {ended}");
            }
            Err(error) => {
                if matches!(error, CallError::Refused(_)) {
                    pause = Pause(PAUSE_MAX);
                }
                say_once(&mut last_said, to, &addr, &error);
            }
        }
        task::sleep(pause.next()).await;
    }
}

/// A node that is down is dialled every second; its log must not fill with it.
fn say_once(last_said: &mut String, to: NodeId, addr: &str, error: &CallError) {
    let said = error.to_string();
    if *last_said == said {
        return;
    }
    match error {
        CallError::Unreachable(_) => log::info!("node {to} at {addr} is {said}"),
        CallError::Refused(_) => log::error!("no link to node {to} at {addr}: {said}"),
    }
    *last_said = said;
}

/// Sends what is queued until the link breaks; returns why it did.
async fn use_link(ctx: &Ctx, to: NodeId, mut frames: Frames, outbox: &Outbox) -> io::Error {
    ctx.metrics().peer_links_up.raise();
    let ended = loop {
        let sent = futures::select_biased! {
            said = conn::next(&mut frames).fuse() => Err(unexpected(said)),
            batch = outbox.batch().fuse() => match batch {
                Some(Batch { items, bytes }) => {
                    let sent = send(ctx, &mut frames, items).await;
                    outbox.written(bytes);
                    sent
                }
                None => Err(io::Error::other("the node is stopping")),
            },
        };
        if let Err(error) = sent {
            break error;
        }
    };
    outbox.close();
    ctx.metrics().peer_links_up.lower();
    if !ctx.shared.inbox.peer_event(PeerEvent::Lost(to)) {
        log::warn!("the Raft thread does not hear that the link to node {to} broke");
    }
    ended
}

/// After its welcome a peer says nothing on this connection; its answers come on its own.
fn unexpected(said: Result<crate::wire::frame::Frame, FrameError>) -> io::Error {
    match said {
        Ok(_) => io::Error::new(ErrorKind::InvalidData, "it spoke on a connection that is ours"),
        Err(error) => conn::io_error(error),
    }
}

async fn send(ctx: &Ctx, frames: &mut Frames, items: Vec<Item>) -> io::Result<()> {
    let mut messages = Vec::with_capacity(items.len());
    for item in items {
        match item {
            Item::Message(message) => messages.push(message),
            Item::Rest(bytes) => frames.write_buffer_mut().extend_from_slice(&bytes),
        }
    }
    let encoded = messages.iter().map(PeerMessage::to_frame);
    conn::write(frames, encoded, ctx.config.patience.write).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::message::{Entry, EntryKind};
    use crate::types::{Index, Millis, Term};
    use std::io::{Read, Write};
    use tokio_util::codec::Decoder;

    fn append(bytes: usize) -> PeerMessage {
        let data = Bytes::from(vec![0; bytes]);
        let entry = Entry { index: Index(1), term: Term(1), kind: EntryKind::Command, data };
        let message = Message::AppendEntries {
            term: Term(1),
            prev_index: Index(0),
            prev_term: Term(0),
            entries: vec![entry],
            commit_index: Index(0),
            session: 1,
            round: 1,
        };
        PeerMessage {
            group: 0,
            wall_ms: Millis(0),
            applied_index: Index(0),
            digests: Vec::new(),
            message,
        }
    }

    #[test]
    fn queue_without_link_takes_nothing() {
        let (queue, outbox) = queue();
        assert!(!queue.send(append(1)));
        assert!(outbox.queue.is_empty());
    }

    #[test]
    fn full_queue_drops_by_count_and_by_bytes_and_recovers() {
        let (queue, outbox) = queue();
        outbox.is_up.store(true, Ordering::Relaxed);
        assert_eq!((0..2000).filter(|_| queue.send(append(1))).count(), QUEUE_MESSAGES_MAX);
        outbox.clear();
        assert_eq!(outbox.bytes.load(Ordering::Relaxed), 0, "every byte is given back");
        assert_eq!((0..100).filter(|_| queue.send(append(4 << 20))).count(), 3);
        outbox.clear();
        assert!(queue.send(append(QUEUE_BYTES_MAX + 1)), "one always fits");
        assert!(!queue.send(append(1)));
    }

    /// A socket that does not wait, and its other end.
    fn sockets() -> (TcpStream, TcpStream) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        near.set_nonblocking(true).unwrap();
        (near, listener.accept().unwrap().0)
    }

    /// Reads one message; whatever is no whole frame fails the test.
    fn heard(far: &mut TcpStream, received: &mut BytesMut) -> PeerMessage {
        let mut chunk = [0; 4096];
        loop {
            if let Some(frame) = FrameCodec::new(BODY_BYTES_MAX).decode(received).unwrap() {
                return PeerMessage::from_frame(&frame).unwrap();
            }
            let count = far.read(&mut chunk).unwrap();
            received.extend_from_slice(&chunk[..count]);
        }
    }

    #[test]
    fn small_message_is_written_at_once_and_a_large_one_by_the_task() {
        let (queue, outbox) = queue();
        let (near, mut far) = sockets();
        outbox.open(near);
        assert!(queue.send(append(10)));
        assert!(outbox.queue.is_empty());
        assert_eq!(heard(&mut far, &mut BytesMut::new()), append(10));
        assert!(queue.send(append(DIRECT_BYTES_MAX)));
        assert!(queue.send(append(11)), "behind what waits");
        assert_eq!(outbox.queue.len(), 2);
        let batch = task::block_on(outbox.batch()).unwrap();
        assert!(queue.send(append(12)), "and behind what is being written");
        assert_eq!((batch.items.len(), outbox.queue.len()), (2, 1));
        outbox.written(batch.bytes);
        outbox.written(task::block_on(outbox.batch()).unwrap().bytes);
        assert!(queue.send(append(13)));
        assert_eq!(heard(&mut far, &mut BytesMut::new()), append(13), "nothing waits any more");
    }

    /// The socket takes half a message: the rest goes first, and nothing comes between.
    #[test]
    fn message_that_does_not_fit_into_the_socket_is_ended_by_the_task() {
        let (queue, outbox) = queue();
        let (near, mut far) = sockets();
        let mut task = near.try_clone().unwrap();
        outbox.open(near);
        let mut sent = 0;
        while outbox.queue.is_empty() {
            assert!(queue.send(append(4000 + sent)));
            sent += 1;
        }
        assert!(queue.send(append(7)));
        let reader = std::thread::Builder::new().spawn(move || {
            let mut received = BytesMut::new();
            for number in 0..sent {
                assert_eq!(heard(&mut far, &mut received), append(4000 + number));
            }
            assert_eq!(heard(&mut far, &mut received), append(7));
        });
        task.set_nonblocking(false).unwrap();
        for item in task::block_on(outbox.batch()).unwrap().items {
            match item {
                Item::Rest(bytes) => task.write_all(&bytes).unwrap(),
                Item::Message(message) => {
                    let mut out = BytesMut::new();
                    FrameCodec::new(BODY_BYTES_MAX).encode(message.to_frame(), &mut out).unwrap();
                    task.write_all(&out).unwrap();
                }
            }
        }
        reader.unwrap().join().unwrap();
    }

    #[test]
    fn rest_of_a_message_never_reaches_another_link() {
        let (queue, outbox) = queue();
        let (near, _far) = sockets();
        outbox.open(near);
        while outbox.queue.is_empty() {
            assert!(queue.send(append(4000)));
        }
        outbox.close();
        assert!(!queue.send(append(1)));
        assert_eq!((outbox.queue.len(), outbox.bytes.load(Ordering::Relaxed)), (0, 0));
        let (near, mut far) = sockets();
        outbox.open(near);
        assert!(queue.send(append(2)));
        assert_eq!(heard(&mut far, &mut BytesMut::new()), append(2));
    }

    #[test]
    fn link_that_breaks_under_a_message_takes_no_more_of_it() {
        let (queue, outbox) = queue();
        let (near, far) = sockets();
        outbox.open(near);
        drop(far);
        // The first write may still go out: the other end answers it with a reset.
        while lock(&outbox.direct).socket.is_some() {
            assert!(queue.send(append(1)));
        }
        assert!(queue.send(append(2)), "the task will find that the connection has ended");
        assert!(!outbox.queue.is_empty());
    }

    #[test]
    fn pauses_double_up_to_a_second_and_differ() {
        let mut pause = Pause(PAUSE_MIN);
        let pauses: Vec<Duration> = (0..20).map(|_| pause.next()).collect();
        assert!(pauses.iter().all(|pause| *pause >= PAUSE_MIN / 2 && *pause <= PAUSE_MAX));
        assert!(pauses.last().is_some_and(|pause| *pause >= PAUSE_MAX / 2));
    }
}

//! The links to the other nodes: one queue and one task each, which dials, sends, and dials again.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_std::channel;
use async_std::task;
use futures::FutureExt;

use crate::net::conn::{self, CallError, Frames};
use crate::net::inbox::PeerEvent;
use crate::net::shared::Ctx;
use crate::raft::message::Message;
use crate::types::NodeId;
use crate::wire::frame::FrameError;
use crate::wire::message::{PeerMessage, Role};

/// Messages that wait for one peer, at most. One more is dropped and counted: Raft sends anew what
/// was lost, and a follower that far behind must not fill the leader's memory.
pub const QUEUE_MESSAGES_MAX: usize = 1024;

/// Bytes that wait for one peer, at most; above it messages are dropped as well. One message always
/// fits into an empty queue.
pub const QUEUE_BYTES_MAX: usize = 16 << 20;

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
#[derive(Clone, Debug)]
pub struct PeerQueue {
    queue: channel::Sender<PeerMessage>,
    bytes: Arc<AtomicUsize>,
    is_up: Arc<AtomicBool>,
}

/// The link's end of the queue.
#[derive(Debug)]
pub struct Outbox {
    queue: channel::Receiver<PeerMessage>,
    bytes: Arc<AtomicUsize>,
    is_up: Arc<AtomicBool>,
}

/// Makes the queue of one peer. It takes nothing before the link stands.
#[must_use]
pub fn queue() -> (PeerQueue, Outbox) {
    let (sender, receiver) = channel::bounded(QUEUE_MESSAGES_MAX);
    let bytes = Arc::new(AtomicUsize::new(0));
    let is_up = Arc::new(AtomicBool::new(false));
    (
        PeerQueue { queue: sender, bytes: Arc::clone(&bytes), is_up: Arc::clone(&is_up) },
        Outbox { queue: receiver, bytes, is_up },
    )
}

impl PeerQueue {
    /// Queues a message, or drops it when the link is down or the queue full. Returns whether it went
    /// in. What would be sent after a link came back would be old by then: it is not kept.
    #[must_use]
    pub fn send(&self, message: PeerMessage) -> bool {
        if !self.is_up.load(Ordering::Relaxed) {
            return false;
        }
        let weight = weight(&message);
        let waiting = self.bytes.fetch_add(weight, Ordering::Relaxed);
        let fits = waiting == 0 || waiting + weight <= QUEUE_BYTES_MAX;
        let taken = fits && self.queue.try_send(message).is_ok();
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

impl Outbox {
    fn taken(&self, message: PeerMessage) -> PeerMessage {
        self.bytes.fetch_sub(weight(&message), Ordering::Relaxed);
        message
    }

    /// Waits for a message, then takes what else is there, up to one write's worth. `None`: the node
    /// is gone.
    async fn batch(&self) -> Option<Vec<PeerMessage>> {
        let first = self.taken(self.queue.recv().await.ok()?);
        let mut bytes = weight(&first);
        let mut batch = vec![first];
        while batch.len() < BATCH_MESSAGES_MAX && bytes < BATCH_BYTES_MAX {
            let Ok(next) = self.queue.try_recv() else { break };
            bytes += weight(&next);
            batch.push(self.taken(next));
        }
        Some(batch)
    }

    fn clear(&self) {
        while let Ok(message) = self.queue.try_recv() {
            drop(self.taken(message));
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
            Ok(frames) => {
                log::info!("linked to node {to} at {addr}");
                last_said.clear();
                pause = Pause(PAUSE_MIN);
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
    outbox.clear();
    outbox.is_up.store(true, Ordering::Relaxed);
    ctx.metrics().peer_links_up.raise();
    let ended = loop {
        let sent = futures::select_biased! {
            said = conn::next(&mut frames).fuse() => Err(unexpected(said)),
            batch = outbox.batch().fuse() => match batch {
                Some(batch) => send(ctx, &mut frames, batch).await,
                None => Err(io::Error::other("the node is stopping")),
            },
        };
        if let Err(error) = sent {
            break error;
        }
    };
    outbox.is_up.store(false, Ordering::Relaxed);
    outbox.clear();
    ctx.metrics().peer_links_up.lower();
    if !ctx.shared.inbox.peer_event(PeerEvent::Lost(to)) {
        log::warn!("the Raft thread does not hear that the link to node {to} broke");
    }
    ended
}

/// After its welcome a peer says nothing on this connection; its answers come on its own.
fn unexpected(said: Result<crate::wire::frame::Frame, FrameError>) -> io::Error {
    match said {
        Ok(_) => {
            io::Error::new(io::ErrorKind::InvalidData, "it spoke on a connection that is ours")
        }
        Err(error) => conn::io_error(error),
    }
}

async fn send(ctx: &Ctx, frames: &mut Frames, batch: Vec<PeerMessage>) -> io::Result<()> {
    let count = batch.len();
    let encoded = batch.iter().map(PeerMessage::to_frame);
    conn::write(frames, encoded, ctx.config.patience.write).await?;
    ctx.metrics().peer_messages_sent.add(u64::try_from(count).unwrap_or(u64::MAX));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::message::{Entry, EntryKind};
    use crate::types::{Index, Millis, Term};
    use bytes::Bytes;

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

    #[test]
    fn pauses_double_up_to_a_second_and_differ() {
        let mut pause = Pause(PAUSE_MIN);
        let pauses: Vec<Duration> = (0..20).map(|_| pause.next()).collect();
        assert!(pauses.iter().all(|pause| *pause >= PAUSE_MIN / 2 && *pause <= PAUSE_MAX));
        assert!(pauses.last().is_some_and(|pause| *pause >= PAUSE_MAX / 2));
    }
}

//! The leader's end of a snapshot transfer: offer, chunks within the window, and again from where it broke.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_std::channel::Receiver;
use async_std::task;
use futures::FutureExt;

use crate::net::conn::{self, CallError, Frames};
use crate::net::inbox::PeerEvent;
use crate::net::shared::{Ctx, SnapshotFile};
use crate::types::{Index, NodeId, Term};
use crate::wire::bulk::{BulkMessage, CHUNK_BYTES, WINDOW_BYTES};
use crate::wire::hello::Role;

/// How often a transfer that broke is gone on with before it counts as failed; the Raft thread may
/// then ask for another. Progress made in one attempt is kept by the receiver.
const ATTEMPTS_MAX: u32 = 5;

/// The pause before each further attempt.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(200);

/// How one attempt ended, when not with the snapshot delivered.
#[derive(Debug)]
enum Failure {
    /// The connection broke or stood still: worth another attempt.
    Broken(io::Error),
    /// Another attempt would end alike.
    Final(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Unreachable(error) => Self::Broken(error),
            CallError::Refused(reason) => Self::Final(reason),
        }
    }
}

/// What is to be sent where.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// The follower.
    pub to: NodeId,
    /// Its address.
    pub addr: String,
    /// The leader's term.
    pub term: Term,
    /// The snapshot must reach this far.
    pub index_min: Index,
}

/// Sends the newest snapshot and reports the end of it to the Raft thread, once: unless `ended` tells
/// that another transfer to the same peer takes the place of this one.
pub async fn run(ctx: Arc<Ctx>, transfer: Transfer, ended: Receiver<()>) {
    let to = transfer.to;
    let outcome = futures::select_biased! {
        word = ended.recv().fuse() => match word {
            Ok(()) => Err(None),
            Err(_) => {
                log::debug!("another transfer to node {to} takes the place of this one");
                return;
            }
        },
        outcome = deliver(&ctx, &transfer).fuse() => outcome.map_err(Some),
    };
    match &outcome {
        Ok(index) => {
            ctx.metrics().snapshots_sent.raise();
            log::info!("node {to} has the snapshot up to entry {index}");
        }
        Err(Some(reason)) => log::warn!("the snapshot for node {to} was not delivered: {reason}"),
        Err(None) => log::info!("the snapshot for node {to} was broken off"),
    }
    if !ctx.shared.inbox.peer_event(PeerEvent::Sent { to, outcome }) {
        log::warn!("the Raft thread does not hear that a snapshot for node {to} ended");
    }
}

async fn deliver(ctx: &Ctx, transfer: &Transfer) -> Result<Index, String> {
    let to = transfer.to;
    let mut attempt = 1;
    loop {
        match attempt_once(ctx, transfer).await {
            Ok(index) => return Ok(index),
            Err(Failure::Final(reason)) => return Err(reason),
            Err(Failure::Broken(error)) if attempt == ATTEMPTS_MAX => {
                return Err(format!("{error}, after {attempt} attempts"));
            }
            Err(Failure::Broken(error)) => {
                log::info!("the snapshot for node {to} broke off, attempt {attempt}: {error}");
            }
        }
        attempt += 1;
        ctx.metrics().snapshots_resumed.raise();
        task::sleep(ATTEMPT_PAUSE).await;
    }
}

async fn attempt_once(ctx: &Ctx, transfer: &Transfer) -> Result<Index, Failure> {
    let Transfer { to, addr, term, index_min } = transfer;
    let (to, term, index_min) = (*to, *term, *index_min);
    let files = Arc::clone(&ctx.shared.snapshots);
    let newest = task::spawn_blocking(move || files.newest()).await;
    let file = newest.filter(|file| file.meta.index >= index_min).ok_or_else(|| {
        Failure::Final(format!("there is no snapshot file yet that reaches entry {index_min}"))
    })?;
    let (mut frames, _) = conn::call(ctx, to, addr, Role::Bulk).await?;
    let SnapshotFile { meta, id, bytes } = file.clone();
    say(ctx, &mut frames, BulkMessage::Offer { term, meta, id, bytes }).await?;
    match hear(ctx, &mut frames, ctx.config.patience.verdict + ctx.config.patience.bulk).await? {
        BulkMessage::Accept { id, offset } if id == file.id && offset <= file.bytes => {
            if offset > 0 {
                log::info!(
                    "node {to} has {offset} of {} bytes of the snapshot already",
                    file.bytes
                );
            }
            stream(ctx, &mut frames, &file, offset).await?;
            Ok(file.meta.index)
        }
        BulkMessage::Decline { held: true, .. } => Ok(file.meta.index),
        BulkMessage::Decline { term, reason, .. } => {
            Err(Failure::Final(format!("declined in term {term}: {reason}")))
        }
        out_of_place @ (BulkMessage::Offer { .. }
        | BulkMessage::Accept { .. }
        | BulkMessage::Chunk { .. }
        | BulkMessage::Window { .. }
        | BulkMessage::Done { .. }) => Err(out_of_turn(&out_of_place)),
    }
}

/// Sends chunks from `offset` on, at most a window ahead of what was acknowledged, until the receiver
/// says that the file is whole and its own.
async fn stream(
    ctx: &Ctx,
    frames: &mut Frames,
    file: &SnapshotFile,
    mut offset: u64,
) -> Result<(), Failure> {
    let mut acked = offset;
    loop {
        while offset < file.bytes && offset - acked < WINDOW_BYTES {
            let data = read_chunk(ctx, file, offset).await?;
            let count = u64::try_from(data.len()).unwrap_or(u64::MAX);
            say(ctx, frames, BulkMessage::Chunk { id: file.id, offset, data: data.into() }).await?;
            ctx.metrics().snapshot_sent_bytes.add(count);
            offset += count;
        }
        match hear(ctx, frames, ctx.config.patience.bulk).await? {
            BulkMessage::Window { id, offset: next } if id == file.id && next <= offset => {
                acked = acked.max(next);
            }
            BulkMessage::Done { id } if id == file.id && offset == file.bytes => return Ok(()),
            BulkMessage::Decline { reason, .. } => return Err(Failure::Final(reason)),
            out_of_place @ (BulkMessage::Offer { .. }
            | BulkMessage::Accept { .. }
            | BulkMessage::Chunk { .. }
            | BulkMessage::Window { .. }
            | BulkMessage::Done { .. }) => return Err(out_of_turn(&out_of_place)),
        }
    }
}

async fn read_chunk(ctx: &Ctx, file: &SnapshotFile, offset: u64) -> Result<Vec<u8>, Failure> {
    let files = Arc::clone(&ctx.shared.snapshots);
    let id = file.id;
    let read = task::spawn_blocking(move || files.read_chunk(id, offset, CHUNK_BYTES)).await;
    match read {
        Ok(Some(data)) if !data.is_empty() && data.len() <= CHUNK_BYTES => Ok(data),
        Ok(Some(data)) => {
            Err(Failure::Final(format!("{} bytes read at {offset} of the file", data.len())))
        }
        Ok(None) => Err(Failure::Broken(io::Error::other("a newer snapshot took its place"))),
        Err(error) => Err(Failure::Final(format!("the file cannot be read: {error}"))),
    }
}

fn out_of_turn(message: &BulkMessage) -> Failure {
    let what = match message {
        BulkMessage::Offer { .. } => "an offer",
        BulkMessage::Accept { .. } => "an acceptance of another file",
        BulkMessage::Decline { .. } => "a refusal",
        BulkMessage::Chunk { .. } => "a chunk",
        BulkMessage::Window { .. } => "a window beyond what was sent",
        BulkMessage::Done { .. } => "an end before the end",
    };
    Failure::Final(format!("{what} out of turn"))
}

/// Sends one message.
async fn say(ctx: &Ctx, frames: &mut Frames, message: BulkMessage) -> io::Result<()> {
    conn::write(frames, [message.to_frame()], ctx.config.patience.bulk).await
}

/// Waits for one message.
async fn hear(ctx: &Ctx, frames: &mut Frames, patience: Duration) -> io::Result<BulkMessage> {
    super::receiving::hear(ctx, frames, patience).await
}

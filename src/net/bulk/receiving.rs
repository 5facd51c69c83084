//! The follower's end of a snapshot transfer: ask the Raft thread, take chunks, acknowledge, hand over.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_std::channel;
use async_std::future::timeout;
use async_std::task;
use bytes::Bytes;
use futures::FutureExt;

use crate::jobs::machine::Machine;
use crate::net::conn::{self, Frames};
use crate::net::inbox::PeerEvent;
use crate::net::shared::{Ctx, Lane, SnapshotFile};
use crate::raft::effects::Offer;
use crate::raft::message::SnapshotMeta;
use crate::types::{DirId, NodeId, Term};
use crate::wire::bulk::{BulkMessage, CHUNK_BYTES};

/// While a received file is checked and decoded, the sender is told so often that we still live.
const ALIVE_EVERY: Duration = Duration::from_secs(1);

/// Takes what one bulk connection offers: one snapshot, then the connection is done.
pub async fn serve(ctx: &Ctx, mut frames: Frames, node: NodeId, dir: DirId) {
    let ended = receive(ctx, &mut frames, node, dir).await;
    let last_word = match ended {
        Ok(last_word) => last_word,
        Err(error) => {
            log::info!("a snapshot from node {node} broke off: {error}");
            return;
        }
    };
    if let BulkMessage::Decline { reason, .. } = &last_word {
        log::info!("a snapshot from node {node} is not taken: {reason}");
    }
    if let Err(error) = say(ctx, &mut frames, &last_word).await {
        log::debug!("node {node} does not hear the end of its snapshot: {error}");
        return;
    }
    conn::linger_frames(frames, ctx.config.patience.linger).await;
}

/// Returns the last word to say: that it is done, or why it is declined.
async fn receive(
    ctx: &Ctx,
    frames: &mut Frames,
    node: NodeId,
    dir: DirId,
) -> io::Result<BulkMessage> {
    let BulkMessage::Offer { term, meta, id, bytes } =
        hear(ctx, frames, ctx.config.patience.bulk).await?
    else {
        return Ok(decline(Term(0), "a bulk connection begins with an offer"));
    };
    match ask(ctx, node, dir, term, meta.clone()).await {
        Some(Offer::Wanted) => {}
        Some(Offer::Held) => {
            let reason = "everything in it is committed here already".into();
            return Ok(BulkMessage::Decline { term, held: true, reason });
        }
        Some(Offer::Stale(current)) => return Ok(decline(current, "the offer is of an old term")),
        None => return Ok(decline(term, "this node could not decide in time")),
    }
    // The newest offer wins; the former transfer lets go between two chunks.
    let taken_away = ctx.lanes.take(Lane::Receiving);
    let Ok(one_at_a_time) = timeout(ctx.config.patience.bulk, ctx.receiving.lock()).await else {
        return Ok(decline(term, "another snapshot is being received"));
    };
    let file = SnapshotFile { meta, id, bytes };
    let taken = take_file(ctx, frames, &file, &taken_away).await;
    drop(one_at_a_time);
    match taken? {
        Ok((meta, machine)) => {
            log::info!("received the snapshot of node {node} up to entry {}", meta.index);
            let received = PeerEvent::Received { from: node, meta, bytes, machine };
            Ok(hand_over(ctx, term, id, received))
        }
        Err(reason) => Ok(decline(term, &reason)),
    }
}

fn hand_over(ctx: &Ctx, term: Term, id: [u8; 16], received: PeerEvent) -> BulkMessage {
    if !ctx.shared.inbox.peer_event(received) {
        return decline(term, "this node is busy; the file is kept");
    }
    ctx.metrics().snapshots_received.raise();
    BulkMessage::Done { id }
}

fn decline(term: Term, reason: &str) -> BulkMessage {
    BulkMessage::Decline { term, held: false, reason: reason.into() }
}

/// Asks the Raft thread; `None` if it does not answer in time.
async fn ask(ctx: &Ctx, from: NodeId, dir: DirId, term: Term, meta: SnapshotMeta) -> Option<Offer> {
    let (verdict, answer) = channel::bounded(1);
    if !ctx.shared.inbox.peer_event(PeerEvent::Offered { from, dir, term, meta, verdict }) {
        return None;
    }
    timeout(ctx.config.patience.verdict, answer.recv()).await.ok()?.ok()
}

/// Takes the chunks from the first missing byte on. The inner error is one to tell the sender.
async fn take_file(
    ctx: &Ctx,
    frames: &mut Frames,
    file: &SnapshotFile,
    taken_away: &channel::Receiver<()>,
) -> io::Result<Result<(SnapshotMeta, Box<Machine>), String>> {
    let (files, begun) = (Arc::clone(&ctx.shared.snapshots), file.clone());
    let mut next = match alive(ctx, frames, None, move || files.begin(&begun)).await {
        Ok(offset) if offset <= file.bytes => offset,
        Ok(offset) => return Ok(Err(format!("{offset} of {} bytes are here", file.bytes))),
        Err(reason) => return Ok(Err(reason)),
    };
    say(ctx, frames, &BulkMessage::Accept { id: file.id, offset: next }).await?;
    while next < file.bytes {
        let heard = futures::select_biased! {
            _ = taken_away.recv().fuse() => return Ok(Err("a newer offer takes its place".into())),
            heard = hear(ctx, frames, ctx.config.patience.bulk).fuse() => heard?,
        };
        let BulkMessage::Chunk { id, offset, data } = heard else {
            return Ok(Err("something else than a chunk".into()));
        };
        let fits = id == file.id && offset == next && !data.is_empty() && data.len() <= CHUNK_BYTES;
        if !fits || !ends_within(offset, &data, file.bytes) {
            return Ok(Err(format!("a chunk at {offset} that does not fit at {next}")));
        }
        ctx.metrics().snapshot_received_bytes.add(u64::try_from(data.len()).unwrap_or(u64::MAX));
        let (files, id) = (Arc::clone(&ctx.shared.snapshots), file.id);
        next = match task::spawn_blocking(move || files.write_chunk(id, offset, &data)).await {
            Ok(next) => next,
            Err(reason) => return Ok(Err(reason)),
        };
        say(ctx, frames, &BulkMessage::Window { id: file.id, offset: next }).await?;
    }
    let (files, id) = (Arc::clone(&ctx.shared.snapshots), file.id);
    let whole = BulkMessage::Window { id, offset: next };
    Ok(alive(ctx, frames, Some(&whole), move || files.finish(id)).await)
}

fn ends_within(offset: u64, data: &Bytes, bytes: u64) -> bool {
    let end = u64::try_from(data.len()).ok().and_then(|count| offset.checked_add(count));
    end.is_some_and(|end| end <= bytes)
}

/// Runs something long on a thread that may block, and meanwhile repeats a word to the sender, so
/// that it does not take us for dead. A sender that has gone takes nothing with it: what is whole
/// here needs nothing more from there.
async fn alive<T: Send + 'static>(
    ctx: &Ctx,
    frames: &mut Frames,
    mut word: Option<&BulkMessage>,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let mut working = task::spawn_blocking(work);
    loop {
        if let Ok(done) = timeout(ALIVE_EVERY, &mut working).await {
            return done;
        }
        if let Some(repeated) = word
            && let Err(error) = say(ctx, frames, repeated).await
        {
            log::debug!("the sender of a snapshot has gone, which is whole here: {error}");
            word = None;
        }
    }
}

/// Sends one message.
async fn say(ctx: &Ctx, frames: &mut Frames, message: &BulkMessage) -> io::Result<()> {
    conn::write(frames, [message.to_frame()], ctx.config.patience.bulk).await
}

/// Waits for one message, skipping what may be skipped.
///
/// # Errors
/// The end of the connection, a frame that is none, or nothing in time.
pub async fn hear(ctx: &Ctx, frames: &mut Frames, patience: Duration) -> io::Result<BulkMessage> {
    conn::within(patience, async {
        loop {
            let frame = conn::next(frames).await.map_err(conn::io_error)?;
            match BulkMessage::from_frame(&frame) {
                Ok(message) => return Ok(message),
                Err(error) if error.is_skippable() => {}
                Err(error) => {
                    ctx.metrics().frames_bad.raise();
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error.to_string()));
                }
            }
        }
    })
    .await
}

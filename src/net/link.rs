//! The receiving end of a peer's Raft lane: messages in, and nothing out after the welcome.

use futures::FutureExt;

use crate::net::conn::{self, Frames};
use crate::net::shared::{Ctx, Lane};
use crate::types::{DirId, NodeId};
use crate::wire::frame::FrameError;
use crate::wire::peer::PeerMessage;

/// Messages taken from one link before the others have their turn.
const MESSAGES_PER_TURN: u32 = 256;

/// The last message that has come counts for so many: the turn it makes due may be taken here.
const LAST_MESSAGE_COUNTS: u32 = 16;

/// Hands a peer's messages to the Raft thread until the connection ends, a newer one of the same node
/// takes its place, or a frame comes that has no business here. Who sent a message is known from the
/// handshake, so no message can claim another sender.
pub async fn serve(ctx: &Ctx, mut frames: Frames, node: NodeId, dir: DirId) {
    let taken_away = ctx.lanes.take(Lane::Raft(node));
    let mut superseded = Box::pin(taken_away.recv().fuse());
    let mut since_yield = 0;
    loop {
        let next = futures::select_biased! {
            _ = superseded => {
                log::debug!("node {node} has connected again; its former link is closed");
                return;
            }
            next = conn::next(&mut frames).fuse() => next,
        };
        let message = match next {
            Ok(frame) => PeerMessage::from_frame(&frame),
            Err(FrameError::Io(error)) => {
                log::debug!("the link from node {node} ended: {error}");
                return;
            }
            Err(error) => {
                ctx.metrics().frames_bad.raise();
                log::warn!("the link from node {node} is closed: {error}");
                return;
            }
        };
        let is_last = frames.read_buffer().is_empty();
        match message {
            Ok(message) => deliver(ctx, node, dir, message, is_last),
            Err(error) if error.is_skippable() => {}
            Err(error) => {
                ctx.metrics().frames_bad.raise();
                log::warn!(
                    "the link from node {node} is closed: it sent what is no message: {error}"
                );
                return;
            }
        }
        since_yield += if is_last { LAST_MESSAGE_COUNTS } else { 1 };
        if since_yield >= MESSAGES_PER_TURN {
            since_yield = 0;
            async_std::task::yield_now().await;
        }
    }
}

/// Hands a message over. One with others behind it goes to the Raft thread, which takes all that wait in one turn.
fn deliver(ctx: &Ctx, node: NodeId, dir: DirId, message: PeerMessage, is_last: bool) {
    ctx.metrics().peer_messages_received.raise();
    let inbox = &ctx.shared.inbox;
    let is_taken = match is_last {
        true => inbox.last_peer_message(node, dir, message),
        false => inbox.peer_message(node, dir, message),
    };
    if !is_taken {
        ctx.metrics().peer_messages_refused.raise();
    }
}

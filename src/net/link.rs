//! The receiving end of a peer's Raft lane: messages in, and nothing out after the welcome.

use futures::FutureExt;

use crate::net::conn::{self, Frames};
use crate::net::shared::{Ctx, Lane};
use crate::types::{DirId, NodeId};
use crate::wire::frame::FrameError;
use crate::wire::message::PeerMessage;

/// Messages taken from one link before the others have their turn.
const MESSAGES_PER_TURN: u32 = 256;

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
        match message {
            Ok(message) => deliver(ctx, node, dir, message),
            Err(error) if error.is_skippable() => {}
            Err(error) => {
                ctx.metrics().frames_bad.raise();
                log::warn!(
                    "the link from node {node} is closed: it sent what is no message: {error}"
                );
                return;
            }
        }
        since_yield += 1;
        if since_yield == MESSAGES_PER_TURN {
            since_yield = 0;
            async_std::task::yield_now().await;
        }
    }
}

fn deliver(ctx: &Ctx, node: NodeId, dir: DirId, message: PeerMessage) {
    ctx.metrics().peer_messages_received.raise();
    if !ctx.shared.inbox.peer_message(node, dir, message) {
        ctx.metrics().peer_messages_refused.raise();
    }
}

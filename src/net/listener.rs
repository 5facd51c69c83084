//! The accept loop, and the first moments of a connection, until it is known what it speaks.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_std::channel::Sender;
use async_std::net::{TcpListener, TcpStream};
use async_std::task;
use futures::FutureExt;

use crate::net::bulk::receiving;
use crate::net::conn::{self, within};
use crate::net::handshake::Entry;
use crate::net::shared::{Ctx, Place, RESERVED_FIRST_BYTE};
use crate::net::sniff::{self, Opening};
use crate::net::text::dialogue;
use crate::net::{link, session};

/// The pause after a failure to accept: for want of descriptors nothing else helps, and connections
/// wait in the kernel meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Accepts connections until the node drains. Every connection's task holds a clone of `alive`.
pub async fn run(ctx: Arc<Ctx>, listener: TcpListener, alive: Sender<()>) {
    let draining = ctx.stop.draining();
    let mut is_failing = false;
    loop {
        let accepted = futures::select_biased! {
            _ = draining.recv().fuse() => return,
            accepted = listener.accept().fuse() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                is_failing = false;
                admit(&ctx, stream, &alive);
            }
            Err(error) => {
                ctx.metrics().accept_errors.raise();
                if !is_failing {
                    log::error!("cannot accept connections for the moment: {error}");
                    is_failing = true;
                }
                task::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Gives a connection a task, or closes it at once when there is no room.
fn admit(ctx: &Arc<Ctx>, stream: TcpStream, alive: &Sender<()>) {
    let Some(place) = ctx.connections.take() else {
        ctx.metrics().connections_refused.raise();
        return;
    };
    ctx.metrics().connections_accepted.raise();
    let (ctx, alive) = (Arc::clone(ctx), alive.clone());
    task::spawn(async move {
        let cutting = ctx.stop.cutting();
        ctx.metrics().connections_open.raise();
        futures::select_biased! {
            _ = cutting.recv().fuse() => {}
            () = serve(&ctx, stream, &place).fuse() => {}
        }
        ctx.metrics().connections_open.lower();
        drop(place);
        drop(alive);
    });
}

/// Serves one connection from its first byte to its end.
async fn serve(ctx: &Arc<Ctx>, stream: TcpStream, place: &Place) {
    let is_reserved = place.ordinal > ctx.config.connections_max;
    let patience = &ctx.config.patience;
    let silence = if is_reserved {
        patience.first_byte.min(RESERVED_FIRST_BYTE)
    } else {
        patience.first_byte
    };
    let mut first = [0];
    match within(silence, stream.peek(&mut first)).await {
        Ok(0) => return log::trace!("a connection ended before its first byte"),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            return ctx.metrics().connections_silent.raise();
        }
        Err(error) => return log::trace!("a connection broke before its first byte: {error}"),
    }
    let [first] = first;
    match sniff::opening(first) {
        // Boxed, so that a silent connection costs no more than what it takes to wait for it.
        Opening::Frames => Box::pin(frames(ctx, stream, is_reserved)).await,
        Opening::Text if !is_reserved => Box::pin(dialogue::serve(ctx, stream)).await,
        Opening::Text => ctx.metrics().connections_refused.raise(),
        Opening::Noise => {
            ctx.metrics().connections_noise.raise();
            log::debug!("a connection began with {first:#04x}, which means nothing");
        }
    }
}

/// Greets a caller and serves it as what it is.
async fn frames(ctx: &Arc<Ctx>, stream: TcpStream, is_reserved: bool) {
    let (frames, guest) = match conn::greet(ctx, stream, is_reserved).await {
        Ok(welcome) => welcome,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            if ctx.turned_away.may_say(&error.to_string(), (ctx.shared.clock)()) {
                log::warn!("a caller was turned away: {error}");
            }
            return;
        }
        Err(error) => return log::debug!("a handshake was not finished: {error}"),
    };
    match guest.entry {
        Entry::Client => session::serve(Arc::clone(ctx), frames, &guest).await,
        Entry::Raft { node, dir } => link::serve(ctx, frames, node, dir).await,
        Entry::Bulk { node, dir } => receiving::serve(ctx, frames, node, dir).await,
    }
}

//! The whole room for one node: started once, spoken to by the Raft thread, stopped in two steps.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_std::channel::{self, Receiver, Sender};
use async_std::future::timeout;
use async_std::net::TcpListener;
use async_std::task;
use futures::FutureExt;

use crate::net::bulk::sending;
use crate::net::inbox::PeerEvent;
use crate::net::peers::{self, PeerQueue};
use crate::net::shared::{Ctx, Lane, NetConfig, Shared};
use crate::net::{conn, listener};
use crate::types::{Index, NodeId, Term};
use crate::wire::peer::PeerMessage;

/// How long sessions have, when the node closes, to write the answers they have.
const DRAIN: Duration = Duration::from_secs(1);

/// How long cut connections have to end.
const CUT: Duration = Duration::from_secs(1);

/// The sockets of one node. Everything but [`Net::close`] is called by the Raft thread and never
/// waits.
#[derive(Debug)]
pub struct Net {
    ctx: Arc<Ctx>,
    local_addr: SocketAddr,
    links: BTreeMap<NodeId, Link>,
    /// Every task holds a clone, so that the last one to end is noticed; gone once closing.
    alive: Mutex<Option<Sender<()>>>,
    ended: Receiver<()>,
}

#[derive(Debug)]
struct Link {
    addr: String,
    queue: PeerQueue,
}

/// Binds the port, and starts the accept loop and one link to each other node.
///
/// # Errors
/// Why the port cannot be had, with its address and what to do.
pub fn start(config: NetConfig, shared: Arc<Shared>) -> io::Result<Net> {
    let bound = conn::listen(&config.listen)?;
    let local_addr = bound.local_addr()?;
    bound.set_nonblocking(true)?;
    let ctx = Arc::new(Ctx::new(config, shared));
    let (alive, ended) = channel::bounded(1);
    task::spawn(listener::run(Arc::clone(&ctx), TcpListener::from(bound), alive.clone()));
    let mut links = BTreeMap::new();
    for (id, addr) in &ctx.config.peers {
        if *id != ctx.config.node {
            let (queue, outbox) = peers::queue();
            spawn(&ctx, &alive, peers::keep_link(Arc::clone(&ctx), *id, addr.clone(), outbox));
            links.insert(*id, Link { addr: addr.clone(), queue });
        }
    }
    Ok(Net { ctx, local_addr, links, alive: Mutex::new(Some(alive)), ended })
}

/// Runs something until it ends or connections are cut.
fn spawn(ctx: &Arc<Ctx>, alive: &Sender<()>, work: impl Future<Output = ()> + Send + 'static) {
    let (cutting, alive) = (ctx.stop.cutting(), alive.clone());
    task::spawn(async move {
        let mut work = Box::pin(work.fuse());
        futures::select_biased! {
            _ = cutting.recv().fuse() => {}
            () = work => {}
        }
        drop(alive);
    });
}

impl Net {
    /// Sends a message to a peer, or drops it and counts that: no link, no room, no such peer. Returns
    /// whether it is on its way, which says nothing about its arrival.
    #[must_use]
    pub fn send(&self, to: NodeId, message: PeerMessage) -> bool {
        let is_sent = self.links.get(&to).is_some_and(|link| link.queue.send(message));
        match is_sent {
            true => self.ctx.metrics().peer_messages_sent.raise(),
            false => self.ctx.metrics().peer_messages_dropped.raise(),
        }
        is_sent
    }

    /// Tells whether the link to a peer stands.
    #[must_use]
    pub fn is_linked(&self, to: NodeId) -> bool {
        self.links.get(&to).is_some_and(|link| link.queue.is_up())
    }

    /// Begins to send a peer the newest snapshot, which must reach `index_min`; one that is on its way
    /// there already is dropped without a word. The end comes as [`PeerEvent::Sent`].
    pub fn send_snapshot(&self, to: NodeId, term: Term, index_min: Index) {
        let Some(link) = self.links.get(&to) else {
            let outcome = Err(Some(format!("node {to} is no peer")));
            if !self.ctx.shared.inbox.peer_event(PeerEvent::Sent { to, outcome }) {
                log::error!("node {to} is no peer, and a snapshot was to be sent there");
            }
            return;
        };
        let Some(alive) = self.alive.lock().unwrap_or_else(PoisonError::into_inner).clone() else {
            return log::debug!("no snapshot for node {to}: the node is closing");
        };
        // Taken here and not in the task, so that an abort that follows at once finds it.
        let ended = self.ctx.lanes.take(Lane::Sending(to));
        let transfer = sending::Transfer { to, addr: link.addr.clone(), term, index_min };
        spawn(&self.ctx, &alive, sending::run(Arc::clone(&self.ctx), transfer, ended));
    }

    /// Breaks off the sending of a snapshot to a peer, if one is on its way.
    pub fn abort_snapshot(&self, to: NodeId) {
        self.ctx.lanes.end(Lane::Sending(to));
    }

    /// Returns the address that is listened on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Accepts no more connections and reads no more requests; what was asked is still answered, and
    /// the links to the peers stay.
    pub fn stop_listening(&self) {
        self.ctx.stop.drain();
    }

    /// Ends everything: sessions write what they have, then every connection is cut. What is sent
    /// afterwards is dropped.
    pub async fn close(&self) {
        let ctx = &self.ctx;
        ctx.stop.drain();
        drop(self.alive.lock().unwrap_or_else(PoisonError::into_inner).take());
        let sessions_ended = timeout(DRAIN, async {
            while ctx.metrics().sessions_open.value() > 0 {
                task::sleep(Duration::from_millis(5)).await;
            }
        });
        if sessions_ended.await.is_err() {
            log::info!("{} sessions are cut", ctx.metrics().sessions_open.value());
        }
        ctx.stop.cut();
        if timeout(CUT, self.ended.recv()).await.is_err() {
            log::warn!("some connections did not end in time");
        }
    }
}

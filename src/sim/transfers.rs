//! Snapshots on their way from one simulated node to another, chunk by chunk, as the connection that carries them
//! would have it.

use std::collections::BTreeMap;

use fastrand::Rng;

use crate::raft::core::SendError;
use crate::raft::effects::{Offer, SendSnapshot};
use crate::replica::input::Input;
use crate::sim::checks::Violation;
use crate::sim::event::{Happening, Step};
use crate::sim::store::is_io;
use crate::sim::world::World;
use crate::storage::snapshot::{SnapshotError, SnapshotFile};
use crate::types::{Index, NodeId};

/// How often a transfer that broke is gone on with before it counts as failed, and the pause before, in ms: as the
/// sending end has it.
const ATTEMPTS_MAX: u32 = 5;
const ATTEMPT_PAUSE_MS: u64 = 200;

/// How long the receiving end waits for the verdict of its replica, in ms.
const VERDICT_MS: u64 = 5_000;

/// A snapshot on its way.
#[derive(Debug)]
struct Transfer {
    token: u64,
    send: SendSnapshot,
    /// The lives of the two nodes when it began.
    lives: (u64, u64),
    attempt: u32,
    chunk_bytes: usize,
    /// What was offered, once something was.
    file: Option<SnapshotFile>,
    /// The next byte wanted, once the offer was accepted.
    offset: Option<u64>,
}

/// All that are on their way.
#[derive(Debug)]
pub(super) struct Transfers {
    dice: Rng,
    under_way: BTreeMap<(NodeId, NodeId), Transfer>,
    tokens: u64,
}

impl Transfers {
    pub(super) fn new(dice: Rng) -> Self {
        Self { dice, under_way: BTreeMap::new(), tokens: 0 }
    }
}

/// How one step ended.
enum End {
    /// Worth another attempt.
    Broken,
    /// Another attempt would end alike.
    Final,
    /// The receiver has it, up to that entry.
    Delivered(Index),
}

impl World {
    /// Begins to send the newest snapshot; a former transfer between the two ends without a word.
    pub(super) fn begin_transfer(&mut self, from: NodeId, send: SendSnapshot) {
        let lives = (self.life(from), self.life(send.to));
        let transfers = &mut self.transfers;
        transfers.tokens += 1;
        let token = transfers.tokens;
        let chunk_bytes = 1 << transfers.dice.u32(7..16);
        let transfer =
            Transfer { token, send, lives, attempt: 1, chunk_bytes, file: None, offset: None };
        transfers.under_way.insert((from, send.to), transfer);
        let after = transfers.dice.u64(1..20);
        self.later(after, Happening::Bulk { from, to: send.to, token, step: Step::Connect });
    }

    /// Breaks a transfer off, and tells its sender so.
    pub(super) fn abort_transfer(&mut self, from: NodeId, to: NodeId) {
        if self.transfers.under_way.remove(&(from, to)).is_some() {
            let life = self.life(from);
            self.later(1, Happening::SnapshotEnded { from, life, to, outcome: None });
        }
    }

    fn life(&self, id: NodeId) -> u64 {
        self.nodes.get(super::world::place(id)).map_or(0, |node| node.life)
    }

    /// Takes the next step of a transfer.
    pub(super) fn bulk(
        &mut self,
        from: NodeId,
        to: NodeId,
        token: u64,
        step: Step,
    ) -> Result<(), Violation> {
        let lives = (self.life(from), self.life(to));
        let Some(transfer) = self.transfers.under_way.get_mut(&(from, to)) else { return Ok(()) };
        if transfer.token != token {
            return Ok(());
        }
        if transfer.lives.0 != lives.0 {
            // The sender has begun another life: nobody remembers it.
            self.transfers.under_way.remove(&(from, to));
            return Ok(());
        }
        let met_anew = step == Step::Connect;
        let same_peer = transfer.lives.1 == lives.1;
        if met_anew {
            transfer.lives = lives;
        }
        let now = self.now;
        let up = |node: &super::node::Node| node.replica.is_some();
        let reaches = self.network.reaches(now, from, to) && self.network.reaches(now, to, from);
        let there = self.nodes.get(super::world::place(to)).is_some_and(up);
        if !reaches || !there || !met_anew && !same_peer {
            self.end_step(from, to, &End::Broken);
            return Ok(());
        }
        let asleep = self.nodes.get(super::world::place(to)).map_or(0, |node| node.paused_until);
        if asleep > now {
            self.queue.at(asleep, Happening::Bulk { from, to, token, step });
            return Ok(());
        }
        match step {
            Step::Connect => self.offer(from, to, token),
            Step::NoVerdict => {
                let decided = self.transfers.under_way.get(&(from, to));
                if decided.is_some_and(|transfer| transfer.offset.is_none()) {
                    self.end_step(from, to, &End::Final);
                }
                Ok(())
            }
            Step::Chunk => self.chunk(from, to, token),
            Step::Finish => self.finish(from, to, token),
            Step::Done => {
                let file =
                    self.transfers.under_way.get(&(from, to)).and_then(|it| it.file.as_ref());
                let end = match file {
                    Some(file) => End::Delivered(file.meta.index),
                    None => End::Final,
                };
                self.end_step(from, to, &end);
                Ok(())
            }
        }
    }

    /// Offers the newest snapshot.
    fn offer(&mut self, from: NodeId, to: NodeId, token: u64) -> Result<(), Violation> {
        let Some(transfer) = self.transfers.under_way.get(&(from, to)) else { return Ok(()) };
        let (term, index_min) = (transfer.send.term, transfer.send.index_min);
        let Some(node) = self.node(from) else { return Ok(()) };
        let dir = node.dir;
        let newest = node.store.as_ref().and_then(|store| store.snapshots().newest());
        let Some(file) = newest.filter(|file| file.meta.index >= index_min) else {
            self.end_step(from, to, &End::Final);
            return Ok(());
        };
        let meta = file.meta.clone();
        if let Some(transfer) = self.transfers.under_way.get_mut(&(from, to)) {
            (transfer.file, transfer.offset) = (Some(file), None);
        }
        self.later(VERDICT_MS, Happening::Bulk { from, to, token, step: Step::NoVerdict });
        self.turn(to, Input::SnapshotOffered { from, dir, term, meta })
    }

    /// The replica to which a snapshot was offered says what it thinks of it.
    pub(super) fn verdict(&mut self, from: NodeId, to: NodeId, index: Index, offer: Offer) {
        let Some(transfer) = self.transfers.under_way.get(&(from, to)) else { return };
        let Some(file) = transfer.file.clone().filter(|file| file.meta.index == index) else {
            return;
        };
        if transfer.offset.is_some() {
            return;
        }
        let token = transfer.token;
        match offer {
            Offer::Held => return self.end_step(from, to, &End::Delivered(index)),
            Offer::Stale(_) => return self.end_step(from, to, &End::Final),
            Offer::Wanted => {}
        }
        // The newest offer wins; the former transfer into this node lets go.
        let others: Vec<NodeId> = self
            .transfers
            .under_way
            .iter()
            .filter(|((other, into), it)| *into == to && *other != from && it.offset.is_some())
            .map(|((other, _), _)| *other)
            .collect();
        for other in others {
            self.end_step(other, to, &End::Final);
        }
        let Some(store) = self.node(to).and_then(|node| node.store.as_ref()) else { return };
        match store.snapshots().begin(&file) {
            Ok(offset) if offset <= file.bytes => {
                if let Some(transfer) = self.transfers.under_way.get_mut(&(from, to)) {
                    transfer.offset = Some(offset);
                }
                let after = self.network.takes(self.now) * 2;
                let step = if offset < file.bytes { Step::Chunk } else { Step::Finish };
                self.later(after, Happening::Bulk { from, to, token, step });
            }
            Ok(_) => self.end_step(from, to, &End::Final),
            Err(error) => {
                self.stop(to, &format!("a received snapshot cannot be written: {error}"));
                self.end_step(from, to, &End::Broken);
            }
        }
    }

    /// Sends one chunk, and takes it at the other end.
    fn chunk(&mut self, from: NodeId, to: NodeId, token: u64) -> Result<(), Violation> {
        let Some(transfer) = self.transfers.under_way.get(&(from, to)) else { return Ok(()) };
        let (Some(file), Some(offset)) = (transfer.file.clone(), transfer.offset) else {
            return Ok(());
        };
        let chunk_bytes = transfer.chunk_bytes;
        let strays = self.network.strays(self.now);
        if strays && self.network.dice.bool() {
            self.end_step(from, to, &End::Broken);
            return Ok(());
        }
        let sender = self.nodes.get(super::world::place(from)).and_then(|node| node.store.as_ref());
        let receiver = self.nodes.get(super::world::place(to)).and_then(|node| node.store.as_ref());
        let (Some(sender), Some(receiver)) = (sender, receiver) else { return Ok(()) };
        let data = match sender.snapshots().read_chunk(file.id, offset, chunk_bytes) {
            Ok(Some(data)) if !data.is_empty() => data,
            Ok(Some(_)) => return Err(format!("node {from}: nothing at {offset} of its snapshot")),
            Ok(None) => {
                // A newer one took its place.
                self.end_step(from, to, &End::Broken);
                return Ok(());
            }
            Err(error) => return Err(format!("node {from}: its snapshot cannot be read: {error}")),
        };
        let wrong =
            if strays { offset.wrapping_add(self.network.dice.u64(1..5) * 64) } else { offset };
        match receiver.snapshots().write_chunk(file.id, wrong, &data) {
            Ok(_) if wrong != offset => Err(format!(
                "node {to} took a chunk for {wrong} of a snapshot where {offset} was wanted"
            )),
            Ok(next) => {
                if let Some(transfer) = self.transfers.under_way.get_mut(&(from, to)) {
                    transfer.offset = Some(next);
                }
                let step = if next < file.bytes { Step::Chunk } else { Step::Finish };
                let after = self.network.takes(self.now);
                self.later(after, Happening::Bulk { from, to, token, step });
                Ok(())
            }
            Err(SnapshotError::OutOfOrder { .. }) if wrong != offset => {
                self.end_step(from, to, &End::Final);
                Ok(())
            }
            Err(error) if is_io(&error) => {
                self.stop(to, &format!("a received snapshot cannot be written: {error}"));
                self.end_step(from, to, &End::Broken);
                Ok(())
            }
            Err(error) => {
                Err(format!("node {to} does not take the right chunk at {offset}: {error}"))
            }
        }
    }

    /// All chunks are there: the receiver checks the file and takes it for its own.
    fn finish(&mut self, from: NodeId, to: NodeId, token: u64) -> Result<(), Violation> {
        let Some(transfer) = self.transfers.under_way.get(&(from, to)) else { return Ok(()) };
        let Some(file) = transfer.file.clone() else { return Ok(()) };
        let Some(store) = self.node(to).and_then(|node| node.store.as_ref()) else { return Ok(()) };
        let (meta, machine) = match store.receive(file.id) {
            Ok(received) => received,
            Err(why) if why.starts_with("a snapshot file:") => {
                self.stop(to, &format!("a received snapshot cannot be written: {why}"));
                self.end_step(from, to, &End::Broken);
                return Ok(());
            }
            Err(why) => {
                return Err(format!("node {to} received a snapshot that it cannot use: {why}"));
            }
        };
        self.report.installs += 1;
        if let Some(durable) = self.durable.get_mut(super::world::place(to)) {
            durable.snapshot = durable.snapshot.max(meta.index);
        }
        // The last word may be lost: then it is offered once more, and is held already.
        let step = if self.network.strays(self.now) { Step::Connect } else { Step::Done };
        let after = self.network.takes(self.now);
        self.later(after, Happening::Bulk { from, to, token, step });
        let bytes = file.bytes;
        self.turn(to, Input::SnapshotReceived { from, meta, bytes, machine })
    }

    /// Ends a step: with another attempt, or with a word to the sender.
    fn end_step(&mut self, from: NodeId, to: NodeId, end: &End) {
        let Some(transfer) = self.transfers.under_way.get_mut(&(from, to)) else { return };
        let (token, life) = (transfer.token, transfer.lives.0);
        let outcome = match end {
            End::Broken if transfer.attempt < ATTEMPTS_MAX => {
                transfer.attempt += 1;
                // What is still under way for the former attempt is void.
                self.transfers.tokens += 1;
                let token = self.transfers.tokens;
                if let Some(transfer) = self.transfers.under_way.get_mut(&(from, to)) {
                    transfer.token = token;
                    transfer.offset = None;
                }
                let step = Step::Connect;
                self.later(ATTEMPT_PAUSE_MS, Happening::Bulk { from, to, token, step });
                return;
            }
            End::Broken | End::Final => None,
            End::Delivered(index) => Some(*index),
        };
        self.transfers.under_way.remove(&(from, to));
        self.note(token);
        self.later(1, Happening::SnapshotEnded { from, life, to, outcome });
    }

    /// The sender hears how a transfer ended.
    pub(super) fn snapshot_ended(
        &mut self,
        from: NodeId,
        life: u64,
        to: NodeId,
        outcome: Option<Index>,
    ) -> Result<(), Violation> {
        if self.alive(from, life).is_none() {
            return Ok(());
        }
        self.turn(from, Input::SnapshotSent { to, outcome: outcome.ok_or(SendError) })
    }
}

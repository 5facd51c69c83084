//! The turns of a simulated node, and what its disk does for it.

use crate::raft::effects::ReadLog;
use crate::replica::input::{Input, Output, Turn};
use crate::replica::reading;
use crate::replica::view::Answer;
use crate::sim::checks::Violation;
use crate::sim::event::{Asker, Happening};
use crate::sim::store::{Refused, Store};
use crate::sim::truth::may_leave;
use crate::sim::world::{World, mix, place};
use crate::types::{Index, NodeId};
use crate::wire::peer::PeerMessage;

/// One in so many messages is held against what the disk would give back after a power cut.
const SAMPLED_EVERY: u64 = 4096;

impl World {
    /// Lets a node look at its clock.
    pub(super) fn tick(&mut self, id: NodeId, life: u64) -> Result<(), Violation> {
        let now = self.now;
        let Some(node) = self.alive(id, life) else { return Ok(()) };
        let after = node.tick_ms(now);
        let sleeps = now < node.paused_until;
        let sealed = if sleeps {
            Ok(())
        } else {
            node.store.as_mut().map_or(Ok(()), |store| store.seal(now))
        };
        self.later(after, Happening::Tick { node: id, life });
        if let Err(why) = sealed {
            self.stop(id, &why);
            return Ok(());
        }
        if sleeps {
            return Ok(());
        }
        self.turns(id)?;
        let replica = self.node(id).and_then(|node| node.replica.as_ref());
        let healing = replica.and_then(|replica| replica.raft().healing());
        if healing.is_some_and(|healing| healing.is_hopeless) {
            // As a real one gives up; its next start goes on.
            self.stop(id, "it cannot heal");
        }
        Ok(())
    }

    /// Hands a node something, and lets it take a turn unless it sleeps or waits for more.
    pub(super) fn turn(&mut self, id: NodeId, input: Input<Asker>) -> Result<(), Violation> {
        let now = self.now;
        let Some(node) = self.node(id).filter(|node| node.replica.is_some()) else { return Ok(()) };
        // What comes while a node sleeps it hears all at once when it wakes.
        node.wait(input);
        if now < node.paused_until || node.gathers(now) {
            return Ok(());
        }
        self.turns(id)
    }

    /// Takes a turn with all that waits, and further ones while the replica has more to do.
    fn turns(&mut self, id: NodeId) -> Result<(), Violation> {
        loop {
            let Some(node) = self.nodes.get_mut(place(id)) else { return Ok(()) };
            let turn = Turn { now: node.ticks(self.now), wall: node.wall(self.now) };
            let life = node.life;
            let Some(replica) = &mut node.replica else { return Ok(()) };
            let output = replica.turn(turn, node.waiting.drain(..));
            let raft = replica.raft();
            let state = [
                id.0,
                raft.term().0,
                raft.commit_index().0,
                raft.last_index().0,
                replica.machine().applied_index().0,
            ];
            self.truth.after_turn(id, replica, &self.durable)?;
            if node.state != state {
                node.state = state;
                self.checks.after_turn(id, replica)?;
                for value in state {
                    self.report.trace = mix(self.report.trace, value);
                }
            }
            let again = output.again;
            self.carry_out(id, life, output)?;
            if !again {
                return Ok(());
            }
        }
    }

    fn carry_out(&mut self, id: NodeId, life: u64, output: Output<Asker>) -> Result<(), Violation> {
        let now = self.now;
        if !output.notices.is_empty() {
            self.actors.noticed(id, output.notices);
            self.wake_actors();
        }
        if let Some(batch) = output.persist {
            self.truth.written(id, &batch)?;
            let seq = batch.seq;
            let Some(node) = self.node(id) else { return Ok(()) };
            let after = node.sync_ms(now);
            if let Some(store) = &mut node.store {
                if store.batch.is_some() {
                    return Err(format!("node {id} hands its disk two batches at once"));
                }
                store.batch = Some(batch);
            }
            self.later(after, Happening::Synced { node: id, life, seq });
        }
        for (to, message) in output.send {
            self.send(id, to, message)?;
        }
        for read in output.read_log {
            let after = self.disk_ms(id);
            self.later(after, Happening::Read { node: id, life, read });
        }
        if let Some(image) = output.write_snapshot {
            let after = self.disk_ms(id) + self.dice.u64(1..60);
            if let Some(store) = self.node(id).and_then(|node| node.store.as_mut()) {
                store.image = Some(image);
            }
            self.later(after, Happening::SnapshotWritten { node: id, life });
        }
        if let Some(up_to) = output.release {
            self.later(1, Happening::Release { node: id, life, up_to });
        }
        for to in output.abort_snapshots {
            self.abort_transfer(id, to);
        }
        for send in output.send_snapshot {
            self.begin_transfer(id, send);
        }
        for (from, index, offer) in output.offers {
            self.verdict(from, id, index, offer);
        }
        for (asker, answer) in output.answers {
            let reply = match answer {
                Answer::Reply(reply) => reply,
                Answer::Changes(slice) => slice.reply(),
                Answer::Image { machine, request } => reading::answer(&machine, &request),
                Answer::Look(_) => continue,
            };
            if !self.network.loses(now) {
                let after = self.network.takes(now);
                self.later(after, Happening::Answered { asker, reply: Box::new(reply) });
            }
        }
        Ok(())
    }

    fn disk_ms(&mut self, id: NodeId) -> u64 {
        let now = self.now;
        self.node(id).map_or(1, |node| node.sync_ms(now))
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: PeerMessage) -> Result<(), Violation> {
        let now = self.now;
        let Some(disk) = self.durable.get(place(from)) else { return Ok(()) };
        may_leave(from, to, &message.message, disk)?;
        self.truth.leaves(from, to, &message.message)?;
        self.questions.leaves(from, to, &message.message, self.truth.committed())?;
        self.sampled += 1;
        if self.sampled.is_multiple_of(SAMPLED_EVERY) {
            self.sample(from)?;
        }
        if !self.network.reaches(now, from, to) || self.network.loses(now) {
            return Ok(());
        }
        let message = Box::new(message);
        if self.network.repeats(now) {
            let again = self.network.takes(now) + self.network.takes(now);
            self.later(again, Happening::Message { from, to, message: message.clone() });
        }
        let after = self.network.takes(now);
        self.later(after, Happening::Message { from, to, message });
        Ok(())
    }

    /// Opens a copy of a node's disk as a power cut now would leave it: it must hold what counts as durable.
    fn sample(&mut self, id: NodeId) -> Result<(), Violation> {
        let Some(node) = self.nodes.get(place(id)) else { return Ok(()) };
        let Some(durable) = self.durable.get(place(id)) else { return Ok(()) };
        let copy = node.disk.synced_copy();
        match Store::open(&copy, id, &node.settings.storage, false) {
            Ok(opened) => {
                let snapshot = opened.snapshot.map_or(Index(0), |meta| meta.index);
                if durable.is_found(&opened.recovered, snapshot) {
                    return Ok(());
                }
                Err(format!(
                    "node {id}: after a power cut its disk would give back {:?} up to {}, and {:?} up to {} counts \
                     as durable",
                    opened.recovered.hard_state,
                    opened.recovered.last_index,
                    durable.hard,
                    durable.last
                ))
            }
            Err(Refused::Failed(why) | Refused::Damaged(why) | Refused::Lost(why)) => {
                Err(format!("node {id}: after a power cut it would not start: {why}"))
            }
        }
    }

    /// The batch under way is durable.
    pub(super) fn synced(&mut self, id: NodeId, life: u64, seq: u64) -> Result<(), Violation> {
        let now = self.now;
        let Some(node) = self.alive(id, life) else { return Ok(()) };
        let prepares = now + node.dice.u64(1..40);
        let Some(store) = &mut node.store else { return Ok(()) };
        if store.batch.as_ref().is_none_or(|batch| batch.seq != seq) {
            return Ok(());
        }
        let written = store.append(now);
        let wants_segment = store.wants_segment();
        match written {
            Ok(Some(batch)) => {
                if let Some(durable) = self.durable.get_mut(place(id)) {
                    durable.take(&batch);
                    if batch.healed {
                        self.questions.healed(id, durable)?;
                        self.report.healed += 1;
                    }
                }
                if batch.healed
                    && let Some(node) = self.node(id)
                {
                    node.healed();
                }
                if wants_segment {
                    self.queue.at(prepares, Happening::Prepare { node: id, life });
                }
                self.turn(id, Input::Persisted { seq })
            }
            Ok(None) => Ok(()),
            Err(why) => {
                self.stop(id, &why);
                Ok(())
            }
        }
    }

    /// Old entries are read.
    pub(super) fn read(&mut self, id: NodeId, life: u64, read: &ReadLog) -> Result<(), Violation> {
        let Some(store) = self.alive(id, life).and_then(|node| node.store.as_ref()) else {
            return Ok(());
        };
        match store.read(read) {
            Ok(result) => self.turn(id, Input::LogRead { token: read.token, result }),
            Err(why) => Err(format!("node {id}: {why}")),
        }
    }

    /// The image is a snapshot.
    pub(super) fn snapshot_written(&mut self, id: NodeId, life: u64) -> Result<(), Violation> {
        let Some(store) = self.alive(id, life).and_then(|node| node.store.as_mut()) else {
            return Ok(());
        };
        match store.write_snapshot() {
            Ok(Some((meta, bytes))) => self.turn(id, Input::SnapshotWritten { meta, bytes }),
            Ok(None) => Ok(()),
            Err(why) => {
                self.stop(id, &why);
                Ok(())
            }
        }
    }

    /// One old segment is let go of.
    pub(super) fn release(&mut self, id: NodeId, life: u64, up_to: Index) -> Result<(), Violation> {
        let Some(store) = self.alive(id, life).and_then(|node| node.store.as_mut()) else {
            return Ok(());
        };
        match store.release(up_to) {
            Ok(None) => {
                self.later(1, Happening::Release { node: id, life, up_to });
                Ok(())
            }
            Ok(Some(first_index)) => self.turn(id, Input::Released { first_index }),
            Err(why) => {
                self.stop(id, &why);
                Ok(())
            }
        }
    }
}

//! The starts of simulated nodes: from what is on the disk, as a real one starts, or told to heal what is damaged there.

use crate::node::process::boot;
use crate::replica::core::{Config, Replica};
use crate::replica::input::Turn;
use crate::sim::checks::Violation;
use crate::sim::event::Happening;
use crate::sim::settings::Settings;
use crate::sim::store::{Opened, Refused, Store};
use crate::sim::world::{World, place};
use crate::storage::threads::Recovered;
use crate::types::{Index, NodeId, Ticks};

/// Calls of the disk of a start that is told to heal, about: setting aside takes a dozen, a new log some more.
const HEALING_CALLS: u64 = 25;

impl World {
    /// Starts a node, if that is still wanted.
    pub(super) fn start(&mut self, id: NodeId) -> Result<(), Violation> {
        let now = self.now;
        let hurts = self.healed_at.is_none();
        let Some(node) = self.nodes.get_mut(place(id)) else { return Ok(()) };
        if node.replica.is_some() || node.out.is_some() || node.starts_at != now {
            return Ok(());
        }
        if let Some(rot) = node.rots.take() {
            node.rotted |= node.rot(rot.dice).is_some();
            node.heal_after_ms = rot.heal_after_ms;
            node.told_to_heal |= rot.heal_after_ms == Some(0);
        }
        let heals = std::mem::take(&mut node.told_to_heal);
        if heals && node.rotted && hurts && node.dice.u32(0..3) == 0 {
            node.cut_at_start = Some(node.dice.u64(0..HEALING_CALLS));
        }
        if let Some(calls) = node.cut_at_start.take() {
            node.disk.cut_after(calls);
        }
        node.disk.set_full(now < node.full_until);
        node.settings = Settings::draw(id, &mut node.dice);
        match Store::open(&node.disk, id, &node.settings.storage, heals) {
            Ok(opened) => self.begin_life(id, opened),
            Err(refused) => self.refused(id, heals, refused),
        }
    }

    /// A start came to nothing.
    fn refused(&mut self, id: NodeId, heals: bool, refused: Refused) -> Result<(), Violation> {
        let now = self.now;
        let hurts = self.healed_at.is_none();
        let Some(node) = self.nodes.get_mut(place(id)) else { return Ok(()) };
        match refused {
            Refused::Failed(_) => {
                // Its power failed, or there is no room.
                let torn = node.dice.bool();
                node.disk.cut(&mut node.dice, torn);
                let after = node.dice.u64(20..1000);
                // One that has begun to heal goes on, told once more or not.
                node.told_to_heal = heals && (!hurts || node.dice.bool());
                self.start_at(id, now + after);
                Ok(())
            }
            Refused::Damaged(why) if node.rotted && !heals => {
                self.report.damaged += u64::from(node.damage.replace(why).is_none());
                if let Some(after_ms) = if hurts { node.heal_after_ms } else { Some(0) } {
                    node.told_to_heal = true;
                    self.start_at(id, now + after_ms.max(1));
                }
                Ok(())
            }
            Refused::Lost(why) if node.rotted => {
                self.report.damaged += 1;
                node.out = Some(why);
                Ok(())
            }
            Refused::Damaged(why) | Refused::Lost(why) => Err(match node.rotted {
                true => format!("node {id} is told to heal, and does not: {why}"),
                false => format!("node {id} does not start, and its disk is not damaged: {why}"),
            }),
        }
    }

    /// Begins another life of a node with what its disk gave back.
    fn begin_life(&mut self, id: NodeId, opened: Opened) -> Result<(), Violation> {
        let now = self.now;
        let peers: Vec<(NodeId, String)> =
            (1..=self.plan.nodes).map(|id| (NodeId(id), format!("sim:{id}"))).collect();
        let Opened { store, recovered, snapshot, machine } = opened;
        let reach = snapshot.as_ref().map_or(Index(0), |meta| meta.index);
        self.found(id, &recovered, reach)?;
        let heals = recovered.healing;
        let Some(node) = self.nodes.get_mut(place(id)) else { return Ok(()) };
        node.disk.mend();
        node.dir = recovered.dir;
        let boot = boot(&peers, recovered, snapshot)?;
        let config = Config {
            raft: node.settings.raft.clone(),
            dir: node.dir,
            limits: self.limits,
            snapshot_bytes_min: node.settings.snapshot_bytes_min,
            history_bytes_max: node.settings.history_bytes_max,
            snapshot_bytes: store.snapshots().newest().map_or(0, |file| file.bytes),
            seed: node.dice.u128(..),
        };
        node.life += 1;
        node.started = now;
        node.paused_until = 0;
        node.store = Some(store);
        let turn = Turn { now: Ticks(0), wall: node.wall(now) };
        node.replica = Some(Replica::new(config, boot, machine, turn));
        let life = node.life;
        if heals && node.dice.u32(0..3) == 0 {
            let magnitude = node.dice.u32(0..11);
            let after = node.dice.u64(1..2 << magnitude);
            self.later(after, Happening::Relapse { node: id, life });
        }
        self.report.starts += 1;
        self.truth.restarted(id);
        self.questions.restarted(id);
        self.actors.started(id, now);
        self.wake_actors();
        self.later(1, Happening::Tick { node: id, life });
        Ok(())
    }

    /// Holds what a start found against what was durable.
    fn found(&mut self, id: NodeId, found: &Recovered, reach: Index) -> Result<(), Violation> {
        let committed = self.truth.commit_index();
        let Some(node) = self.nodes.get_mut(place(id)) else { return Ok(()) };
        let Some(durable) = self.durable.get_mut(place(id)) else { return Ok(()) };
        if found.healing && !durable.healing && node.rotted {
            self.report.damaged += u64::from(node.damage.take().is_none());
            node.doubtful = None;
            durable.begin_anew();
            self.truth.begun_anew(id);
        }
        if let Some(batch) = node.doubtful.take()
            && !durable.is_found(found, reach)
        {
            // It had reached the disk, and only the word of it was lost.
            durable.take_log(&batch);
            if batch.healed && !found.healing {
                durable.take(&batch);
                self.questions.healed(id, durable)?;
                self.report.healed += 1;
                node.healed();
            }
        }
        if !durable.is_found(found, reach) {
            let mark = |heals| if heals { ", with the mark of one that heals" } else { "" };
            return Err(format!(
                "node {id} finds {:?} and a log of {} to {} on its disk{}, with a snapshot at {reach}; {:?} and a log \
                 up to {} were durable{}",
                found.hard_state,
                found.first_index,
                found.last_index,
                mark(found.healing),
                durable.hard,
                durable.last,
                mark(durable.healing)
            ));
        }
        durable.snapshot = reach;
        if found.commit_index > committed {
            return Err(format!(
                "node {id} finds that {} is committed, and only {committed} is",
                found.commit_index
            ));
        }
        self.truth.found(id, &found.tail)
    }
}

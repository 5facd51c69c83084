//! Faults as they happen: crashes, walls, clocks, disks; and the end of all of it.

use fastrand::Rng;

use crate::sim::event::Happening;
use crate::sim::faults::{Nodes, Victim, What};
use crate::sim::network::For;
use crate::sim::node::{Node, Rot};
use crate::sim::world::{World, place};
use crate::types::NodeId;

/// How an ending takes a node.
#[derive(Clone, Copy, Debug)]
struct Ending {
    power: bool,
    torn: bool,
    down_ms: u64,
}

impl World {
    /// Lets a node start at a time; an earlier wish is void.
    pub(super) fn start_at(&mut self, id: NodeId, at: u64) {
        let Some(node) = self.node(id) else { return };
        node.starts_at = at;
        self.queue.at(at, Happening::Start(id));
    }

    /// Cuts the power of a node that heals still.
    pub(super) fn relapse(&mut self, id: NodeId, life: u64) {
        let heals = self.durable.get(place(id)).is_some_and(|disk| disk.healing);
        if heals && self.healed_at.is_none() && self.alive(id, life).is_some() {
            let down_ms = self.dice.u64(20..2000);
            self.end(id, Ending { power: true, torn: true, down_ms });
        }
    }

    /// Ends a node whose disk failed, as a real one ends with that word; somebody starts it again later.
    pub(super) fn stop(&mut self, id: NodeId, _why: &str) {
        let down_ms = self.dice.u64(50..3000);
        self.end(id, Ending { power: false, torn: false, down_ms });
    }

    fn end(&mut self, id: NodeId, ending: Ending) {
        let now = self.now;
        let Some(node) = self.node(id) else { return };
        if node.replica.take().is_none() {
            if ending.power {
                node.disk.cut(&mut node.dice, ending.torn);
            }
            return;
        }
        node.waiting.clear();
        node.disk.mend();
        self.actors.ended(id, now, &mut self.checks);
        let Some(node) = self.node(id) else { return };
        if let Some(store) = node.store.take() {
            (node.doubtful, node.last_record) = store.die(&mut node.dice);
        }
        if ending.power {
            node.disk.cut(&mut node.dice, ending.torn);
        }
        self.start_at(id, now + ending.down_ms);
        // The connections of a process that ends are closed; those of a machine without power just fall silent.
        if !ending.power {
            self.actors.broke(id, now);
            self.wake_actors();
            for peer in (1..=self.plan.nodes).map(NodeId).filter(|peer| *peer != id) {
                if self.network.reaches(now, id, peer) {
                    let after = self.network.takes(now);
                    self.later(after, Happening::PeerLost { node: peer, lost: id });
                }
            }
        }
    }

    fn victims(&self, who: Victim) -> Vec<NodeId> {
        match who {
            Victim::Leader => self.leader().into_iter().collect(),
            Victim::Of(nodes) => {
                (1..=self.plan.nodes).map(NodeId).filter(|id| nodes.has(*id)).collect()
            }
        }
    }

    fn each(&mut self, who: Victim, mut change: impl FnMut(&mut Node)) {
        for id in self.victims(who) {
            if let Some(node) = self.node(id) {
                change(node);
            }
        }
    }

    /// Lets a fault happen.
    pub(super) fn go_wrong(&mut self, what: What) {
        let now = self.now;
        self.report.faults += 1;
        match what {
            What::Crash { who, power, torn, down_ms, again } => {
                for id in self.victims(who) {
                    self.end(id, Ending { power, torn, down_ms });
                    if let Some(node) = self.node(id) {
                        node.cut_at_start = again;
                    }
                }
            }
            What::Cut { from, to, both, flap_ms, for_ms } => {
                self.network.cut(now, from, to, both, flap_ms, for_ms);
            }
            What::LeaderAlone { leave, reach, for_ms } => self.leave_alone(leave, reach, for_ms),
            What::Asleep { for_ms, alone_ms } => {
                self.leave_alone(true, true, for_ms + alone_ms);
                self.pause(Victim::Leader, for_ms);
            }
            What::Lose { percent, for_ms } => self.network.lose = For::new(percent, now + for_ms),
            What::Repeat { percent, for_ms } => {
                self.network.repeat = For::new(percent, now + for_ms);
            }
            What::Delay { ms, for_ms } => self.network.delay = For::new(ms, now + for_ms),
            What::BreakTransfers { percent, for_ms } => {
                self.network.astray = For::new(percent, now + for_ms);
            }
            What::Pause { who, for_ms } => self.pause(who, for_ms),
            What::Starve { who, every_ms, for_ms } => {
                self.each(who, |node| node.starved = For::new(every_ms, now + for_ms));
            }
            What::Jump { who, by_ms } => self.each(who, |node| node.wall_ahead_ms += by_ms),
            What::SlowDisk { who, sync_ms, for_ms } => {
                self.each(who, |node| node.slow = For::new(sync_ms, now + for_ms));
            }
            What::HangDisk { who, for_ms } => {
                self.each(who, |node| node.hung_until = node.hung_until.max(now + for_ms));
            }
            What::FailDisk { who, calls } => self.each(who, |node| {
                if node.replica.is_some() {
                    node.disk.fail_after(calls);
                }
            }),
            What::FullDisk { who, for_ms } => self.each(who, |node| {
                node.full_until = now + for_ms;
                node.disk.set_full(true);
            }),
            What::Rot { node, dice, down_ms, heal_after_ms } => {
                self.rot(node, Rot { dice, heal_after_ms }, down_ms);
            }
            What::Worker { dice } => {
                let mut dice = Rng::with_seed(dice);
                self.actors.trouble_a_worker(now, &mut dice, &mut self.checks);
            }
        }
    }

    /// Cuts the leader off: what it says, what is said to it, or both.
    fn leave_alone(&mut self, leave: bool, reach: bool, for_ms: u64) {
        let now = self.now;
        let Some(leader) = self.leader() else { return };
        let it = Nodes(1 << place(leader));
        let others = Nodes(!it.0);
        if leave {
            self.network.cut(now, it, others, false, 0, for_ms);
        }
        if reach {
            self.network.cut(now, others, it, false, 0, for_ms);
        }
    }

    /// Has nodes stand still, and the workers built into them.
    fn pause(&mut self, who: Victim, for_ms: u64) {
        let now = self.now;
        self.each(who, |node| node.paused_until = node.paused_until.max(now + for_ms));
        let paused = self.nodes.iter().filter(|node| node.paused_until > now);
        for (node, until) in paused.map(|node| (node.id, node.paused_until)) {
            self.actors.paused(node, until, &mut self.checks);
        }
    }

    /// Damages the disk of a node, if a majority stays whole: one that heals is not whole yet.
    fn rot(&mut self, id: NodeId, rot: Rot, down_ms: u64) {
        let is_hurt = |node: &Node| node.rotted || node.rots.is_some();
        let rotted = self.nodes.iter().filter(|node| is_hurt(node)).count();
        let spared = self.nodes.get(place(id)).is_none_or(is_hurt);
        if spared || (rotted + 1) * 2 >= self.nodes.len() {
            return;
        }
        self.end(id, Ending { power: true, torn: true, down_ms });
        if let Some(node) = self.node(id) {
            node.rots = Some(rot);
        }
    }

    /// Ends all that is wrong: from now on the world has to become whole.
    pub(super) fn heal_all(&mut self) {
        let now = self.now;
        self.network.heal();
        for id in (1..=self.plan.nodes).map(NodeId) {
            let Some(node) = self.node(id) else { continue };
            node.starved = For::default();
            node.slow = For::default();
            node.hung_until = 0;
            node.full_until = 0;
            node.disk.set_full(false);
            node.disk.mend();
            node.cut_at_start = None;
            if node.paused_until > now {
                // It wakes when its next tick was to be.
                node.paused_until = now;
            }
            if node.replica.is_none() && node.out.is_none() {
                node.told_to_heal = node.rotted || node.rots.is_some();
                self.start_at(id, now);
            }
        }
    }
}

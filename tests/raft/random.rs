//! Random runs: loss, duplication, reordering, crashes that lose unsynced data, partitions,
//! compaction, transfers. Every turn is checked by the world; at the end everything heals, and a
//! leader and equal logs are demanded.

use raftq::raft::core::{Config, Role};
use raftq::types::NodeId;

use crate::world::World;

/// Numbers so small that every bound is met all the time.
fn tight(config: &mut Config) {
    config.window_entries_max = 6;
    config.inflight_entries_max = 5;
    config.append_bytes_max = 120;
    config.inflight_bytes_max = 300;
    config.apply_entries_max = 3;
    config.persist_entries_max = 4;
    config.uncommitted_entries_max = 40;
}

/// SplitMix64, so that a seed is a run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).unwrap()
    }
}

struct Run {
    world: World,
    random: Random,
    proposed: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let count = [1, 2, 3, 3, 5, 5, 5, 4][usize::try_from(seed % 8).unwrap()];
        let world = World::tuned(count, seed, tight);
        Self { world, random: Random(seed), proposed: 0 }
    }

    fn some_node(&mut self) -> u64 {
        self.random.below(self.world.nodes.len()) as u64 + 1
    }

    /// Does one random thing. `chaos`: also what breaks things.
    fn act(&mut self, chaos: bool) {
        let id = self.some_node();
        let up = self.world.is_up(id);
        match self.random.below(100) {
            0..=24 => {
                let ticks = if self.random.below(20) == 0 { 20 } else { 1 };
                self.world.tick(id, ticks);
            }
            25..=54 => self.deliver(chaos),
            55..=69 if up => drop(self.world.persist(id)),
            70..=74 if up => drop(self.world.serve_log_read(id)),
            75..=77 => drop(self.world.deliver_shipment()),
            78..=87 if up => self.propose(id),
            88..=90 if up => drop(self.world.read(id)),
            91 if up => {
                let keep = self.random.below(12) as u64;
                self.world.compact(id, keep);
            }
            _ if chaos => self.break_something(id),
            _ => {}
        }
    }

    fn deliver(&mut self, chaos: bool) {
        for _ in 0..3 {
            if self.world.wire.is_empty() {
                return;
            }
            let fate = self.random.below(100);
            let len = self.world.wire.len();
            let at = if chaos && fate < 30 { self.random.below(len.min(40)) } else { 0 };
            if chaos && fate < 4 {
                self.world.wire.remove(at);
            } else if chaos && fate < 7 {
                let copy = self.world.wire[at].clone();
                self.world.wire.push_back(copy);
            } else {
                self.world.deliver(at);
            }
        }
    }

    fn propose(&mut self, id: u64) {
        let many = 1 + self.random.below(3);
        for _ in 0..many {
            self.proposed += 1;
            let text = format!("command {}", self.proposed);
            self.world.propose(id, &text);
        }
    }

    fn break_something(&mut self, id: u64) {
        match self.random.below(12) {
            0 | 1 if self.world.is_up(id) => {
                let keeps = self.random.below(2) == 0;
                self.world.crash(id, keeps);
            }
            2..=4 if !self.world.is_up(id) => self.world.start(id),
            5 => {
                let other = self.some_node();
                self.world.cut.insert((id, other));
            }
            6 => self.world.cut_off(id),
            7 | 8 => self.world.cut.clear(),
            9 if self.world.is_up(id) => {
                let other = self.some_node();
                if self.world.raft_mut(id).transfer(Some(NodeId(other))).is_ok() {
                    self.world.turn(id);
                }
            }
            10 if self.world.is_up(id) => {
                let other = self.some_node();
                self.world.raft_mut(id).peer_lost(NodeId(other));
                self.world.turn(id);
            }
            11 => {
                if let Some(shipment) = self.world.shipments.pop_back() {
                    self.world.shipment_failed(&shipment);
                }
            }
            _ => {}
        }
    }

    /// Lets everything work again until there is one leader and all nodes hold the same.
    fn heal(&mut self) {
        self.world.cut.clear();
        for id in self.world.ids() {
            if !self.world.is_up(id) {
                self.world.start(id);
            }
        }
        for _ in 0..2_000 {
            self.world.tick_all(1);
            self.world.settle();
            if self.is_whole() {
                return;
            }
        }
        let all = self.world.ids().into_iter().map(|id| self.world.status(id));
        panic!("healed, but not whole: {:#?}", all.collect::<Vec<_>>());
    }

    fn is_whole(&self) -> bool {
        let ids = self.world.ids();
        let Some(leader) = self.world.leader() else { return false };
        let all = self.world.status(leader);
        self.world.leaders().len() == 1
            && all.own_term_committed
            && all.commit_index == all.last_index
            && ids.into_iter().all(|id| {
                let status = self.world.status(id);
                status.applied_index == all.commit_index && status.last_index == all.last_index
            })
    }
}

fn run(seed: u64, steps: usize) -> (u64, usize) {
    let mut run = Run::new(seed);
    for step in 0..steps {
        // Now and then the world is kind for a while, so that the runs get somewhere.
        let chaos = step % 600 < 450;
        run.act(chaos);
    }
    run.heal();
    let ids = run.world.ids();
    let leader = run.world.leader().unwrap();
    for id in &ids {
        assert_eq!(run.world.node(*id).machine, run.world.node(leader).machine);
        assert_eq!(run.world.raft(*id).role() == Role::Leader, *id == leader);
        // Whatever the network did to them, no message of an honest node makes no sense.
        assert_eq!(run.world.status(*id).refused_messages, 0, "node {id} refused messages");
    }
    let installs = ids.iter().map(|id| run.world.node(*id).installs).sum();
    (run.world.status(leader).commit_index.0, installs)
}

#[test]
fn random_runs_keep_every_promise_and_heal() {
    let (mut committed, mut installs) = (0, 0);
    let first: u64 = std::env::var("RAFT_SEED").map_or(0, |seed| seed.parse().unwrap());
    let count: u64 = std::env::var("RAFT_SEEDS").map_or(200, |count| count.parse().unwrap());
    for seed in first..first + count {
        let result = std::panic::catch_unwind(|| run(seed, 3_000));
        let Ok((index, installed)) = result else {
            panic!("seed {seed} fails; RAFT_SEED={seed} RAFT_SEEDS=1 cargo test replays it");
        };
        committed += index;
        installs += installed;
    }
    // A run in which nothing happens keeps every promise too.
    assert!(committed > 50 * count, "only {committed} entries committed in {count} runs");
    assert!(count < 100 || installs > 20, "only {installs} snapshots installed");
}

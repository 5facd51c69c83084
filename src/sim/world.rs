//! The world: nodes, what is on its way between them, and what goes wrong.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use fastrand::Rng;

use crate::jobs::command::Limits;
use crate::raft::core::{Config as RaftConfig, SendError};
use crate::raft::effects::Offer;
use crate::raft::message::{Configuration, SnapshotMeta, Voter};
use crate::replica::core::{Config, Replica};
use crate::replica::input::{Input, Output, Turn};
use crate::replica::reading;
use crate::replica::view::Answer;
use crate::sim::actors::Actors;
use crate::sim::calling::Sending;
use crate::sim::checks::{Checks, RoundReport, Violation};
use crate::sim::disk::{Disk, restore};
use crate::sim::event::{Asker, Event, Happening};
use crate::types::{ClusterId, DirId, Index, Millis, NodeId, TICK_MS, Term, Ticks};
use crate::wire::message::PeerMessage;

/// What a simulation is to be.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// All dice come from it: rates of faults, bounds, timing.
    pub seed: u64,
    /// Nodes.
    pub nodes: u64,
    /// How long things go wrong, in virtual ms.
    pub faulty_ms: u64,
    /// How long the healed world has to end every job, in virtual ms.
    pub healed_ms: u64,
}

/// How often what goes wrong, drawn from the seed: some worlds lose packets, others only crash.
#[derive(Debug)]
struct Faults {
    loss_percent: u32,
    duplicate_percent: u32,
    delay_ms_max: u64,
    sync_ms_max: u64,
    crash_ms_mean: u64,
    partition_ms_mean: u64,
    pause_ms_mean: u64,
    worker_death_ms_mean: u64,
    /// How much of what comes for a node waits for its next tick, to be one turn with what else comes.
    together_percent: u32,
}

/// A snapshot as a file: what it stands for, and its records.
type SnapshotFile = (SnapshotMeta, Vec<Vec<u8>>);

struct Node {
    replica: Option<Replica<Asker>>,
    disk: Disk,
    dir: DirId,
    /// Rises with each start: what was under way in a former life is void.
    life: u64,
    started: u64,
    paused_until: u64,
    clock_skew_ms: i64,
    /// What came and is not looked at yet.
    waiting: Vec<Input<Asker>>,
}

/// A simulated cluster with its clients and workers.
pub struct World {
    plan: Plan,
    rng: Rng,
    faults: Faults,
    now: u64,
    order: u64,
    heap: BinaryHeap<Event>,
    nodes: BTreeMap<NodeId, Node>,
    cut: BTreeSet<(NodeId, NodeId)>,
    healed: bool,
    actors: Actors,
    checks: Checks,
    /// Snapshots offered and not yet judged.
    offers: BTreeMap<(NodeId, NodeId), SnapshotFile>,
    /// Snapshots on their way.
    sent: Vec<Option<SnapshotFile>>,
    trace: u64,
    snapshot_bytes_min: u64,
    log_keep: usize,
    window: usize,
    installs: u64,
}

/// What a simulation came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// A hash of everything that happened: the same for the same seed.
    pub trace: u64,
    /// Submits acknowledged.
    pub acknowledged: u64,
    /// Reads answered.
    pub reads: u64,
    /// Snapshots installed from a peer.
    pub installs: u64,
    /// What the history came to.
    pub round: RoundReport,
    /// Reports accepted.
    pub reports: u64,
}

impl World {
    /// Builds a world from its plan.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        let mut rng = Rng::with_seed(plan.seed);
        let sometimes = |rng: &mut Rng, value: u64| if rng.bool() { value } else { 0 };
        let faults = Faults {
            loss_percent: u32::try_from(sometimes(&mut rng, 20)).unwrap_or(0) * rng.u32(0..=2),
            duplicate_percent: u32::try_from(sometimes(&mut rng, 10)).unwrap_or(0),
            delay_ms_max: 1 + sometimes(&mut rng, 40),
            sync_ms_max: 1 + sometimes(&mut rng, 60),
            crash_ms_mean: sometimes(&mut rng, 4000),
            partition_ms_mean: sometimes(&mut rng, 5000),
            pause_ms_mean: sometimes(&mut rng, 6000),
            worker_death_ms_mean: sometimes(&mut rng, 8000),
            together_percent: u32::try_from(sometimes(&mut rng, 80)).unwrap_or(0),
        };
        let mut world = Self {
            snapshot_bytes_min: if rng.bool() { 2 << 10 } else { 16 << 10 },
            log_keep: rng.usize(0..40),
            window: rng.usize(8..200),
            faults,
            now: 1_000_000,
            order: 0,
            heap: BinaryHeap::new(),
            nodes: BTreeMap::new(),
            cut: BTreeSet::new(),
            healed: false,
            actors: Actors::new(&mut rng, plan.nodes),
            checks: Checks::default(),
            offers: BTreeMap::new(),
            sent: Vec::new(),
            trace: 0,
            installs: 0,
            plan,
            rng,
        };
        for id in 1..=plan.nodes {
            // One clock of each world may be an hour wrong, either way.
            let skew = if id == 1 { world.rng.i64(-1..=1) * 3_600_000 } else { 0 };
            let node = Node {
                replica: None,
                disk: Disk::default(),
                dir: DirId(world.rng.u128(..).to_be_bytes()),
                life: 0,
                started: 0,
                paused_until: 0,
                clock_skew_ms: skew,
                waiting: Vec::new(),
            };
            world.nodes.insert(NodeId(id), node);
            world.start(NodeId(id));
        }
        world.later(1, Happening::Actors);
        world.schedule_faults();
        world
    }

    /// Runs the world to its end.
    ///
    /// # Errors
    /// The first promise that was broken, with the time.
    pub fn run(mut self) -> Result<Report, Violation> {
        let start = self.now;
        let faulty_until = start + self.plan.faulty_ms;
        let end = faulty_until + self.plan.healed_ms;
        while let Some(event) = self.heap.pop() {
            self.now = event.at;
            if self.now >= faulty_until && !self.healed {
                self.heal_all();
            }
            if self.now >= end {
                break;
            }
            let place = format!("at {} ms", self.now - start);
            self.happen(event.what).map_err(|why| format!("{place}: {why}"))?;
        }
        if !self.actors.is_idle() {
            return Err("healed, and a client never got its answer".into());
        }
        for (id, node) in &self.nodes {
            if node.replica.is_none() {
                return Err(format!("node {id} is down"));
            }
        }
        let replicas = self.nodes.values().filter_map(|node| node.replica.as_ref());
        let newest = replicas.max_by_key(|replica| replica.machine().applied_index());
        let Some(machine) = newest.map(|replica| replica.machine().clone()) else {
            return Err("there is no node".into());
        };
        let round = self.checks.end_of_round(&machine, self.now);
        let round = round.map_err(|why| format!("{why}\n{}", self.describe()))?;
        let (acknowledged, reads) = self.actors.counts();
        Ok(Report {
            trace: self.trace,
            acknowledged,
            reads,
            installs: self.installs,
            round,
            reports: self.actors.reports(),
        })
    }

    /// One line a node, for the one who reads of a violation.
    fn describe(&self) -> String {
        let line = |(id, node): (&NodeId, &Node)| {
            let status = node.replica.as_ref().map(|replica| replica.raft().status());
            format!("node {id}: {status:?}\n")
        };
        self.nodes.iter().map(line).collect()
    }

    fn later(&mut self, after: u64, what: Happening) {
        self.order += 1;
        self.heap.push(Event { at: self.now + after, order: self.order, what });
    }

    fn mean(&mut self, mean_ms: u64) -> u64 {
        self.rng.u64(mean_ms / 4..=mean_ms * 2)
    }

    fn schedule_faults(&mut self) {
        let kinds = [
            (self.faults.crash_ms_mean, Happening::Crash),
            (self.faults.partition_ms_mean, Happening::Partition),
            (self.faults.pause_ms_mean, Happening::Pause),
            (self.faults.worker_death_ms_mean, Happening::WorkerDies),
        ];
        for (mean, what) in kinds {
            if mean > 0 {
                let after = self.mean(mean);
                self.later(after, what);
            }
        }
    }

    fn note(&mut self, value: u64) {
        self.trace = (self.trace ^ value).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(17);
    }

    fn start(&mut self, id: NodeId) {
        let bootstrap = Configuration {
            cluster: ClusterId::default(),
            voters: (1..=self.plan.nodes)
                .map(|id| Voter { id: NodeId(id), addr: format!("sim:{id}"), dir: None })
                .collect(),
        };
        let seed = self.rng.u128(..);
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let (boot, machine) = node.disk.boot(&bootstrap);
        let mut raft = RaftConfig::new(id);
        raft.window_entries_max = self.window;
        let config = Config {
            raft,
            dir: node.dir,
            limits: Limits { finished_age_ms_max: u64::MAX / 4, ..Limits::default() },
            snapshot_bytes_min: self.snapshot_bytes_min,
            snapshot_bytes: 0,
            seed,
        };
        node.life += 1;
        node.started = now;
        node.paused_until = 0;
        node.replica =
            Some(Replica::new(config, boot, machine, Turn { now: Ticks(0), wall: Millis(now) }));
        self.checks.restarted(id);
        self.later(1, Happening::Tick(id));
    }

    fn happen(&mut self, what: Happening) -> Result<(), Violation> {
        self.note(self.now);
        if let Some(awake) = self.wakes(&what) {
            // What a node's own disk did while it slept, it hears when it wakes.
            let after = awake - self.now;
            self.later(after, what);
            return Ok(());
        }
        match what {
            Happening::Tick(id) => {
                if self.nodes.get(&id).is_some_and(|node| node.replica.is_some()) {
                    self.later(TICK_MS, Happening::Tick(id));
                    self.turn(id, Vec::new())?;
                }
                Ok(())
            }
            Happening::Message { from, to, message } => {
                let Some(dir) = self.nodes.get(&from).map(|node| node.dir) else { return Ok(()) };
                self.turn(to, vec![Input::Peer { from, dir, message: *message }])
            }
            Happening::Synced { node, life, seq } => {
                let Some(place) = self.alive(node, life) else { return Ok(()) };
                if !place.disk.complete(seq) {
                    return Ok(());
                }
                self.turn(node, vec![Input::Persisted { seq }])
            }
            Happening::Read { node, life, read } => {
                let Some(place) = self.alive(node, life) else { return Ok(()) };
                let result = place.disk.read(&read);
                self.turn(node, vec![Input::LogRead { token: read.token, result }])
            }
            Happening::SnapshotWritten { node, life, meta } => {
                if self.alive(node, life).is_none() {
                    return Ok(());
                }
                self.turn(node, vec![Input::SnapshotWritten { meta, bytes: 1 }])
            }
            Happening::SnapshotOffer { from, to, term } => self.offer(from, to, term),
            Happening::SnapshotArrived { from, to, sent } => self.arrived(from, to, sent),
            Happening::SnapshotEnded { from, life, to, ok } => {
                if self.alive(from, life).is_none() {
                    return Ok(());
                }
                let index = self.nodes.get(&from).and_then(|node| node.disk.newest_snapshot());
                let outcome = match index {
                    Some((meta, _)) if ok => Ok(meta.index),
                    Some(_) | None => Err(SendError),
                };
                self.turn(from, vec![Input::SnapshotSent { to, outcome }])
            }
            Happening::Ask { to, request, asker } => {
                let arrived = self.ticks(to);
                self.turn(to, vec![Input::Request { request: *request, waiter: asker, arrived }])
            }
            Happening::Answered { asker, reply } => {
                self.actors.answered(asker.actor, asker.corr, *reply, self.now);
                Ok(())
            }
            Happening::Actors => {
                self.later(5, Happening::Actors);
                self.act()
            }
            Happening::Released { node, life, first_index } => {
                if self.alive(node, life).is_none() {
                    return Ok(());
                }
                self.turn(node, vec![Input::Released { first_index }])
            }
            Happening::Restart(id) => {
                if self.nodes.get(&id).is_some_and(|node| node.replica.is_none()) {
                    self.start(id);
                }
                Ok(())
            }
            fault @ (Happening::Crash
            | Happening::Partition
            | Happening::Heal
            | Happening::Pause
            | Happening::WorkerDies) => {
                if !self.healed {
                    self.go_wrong(fault);
                }
                Ok(())
            }
        }
    }

    /// When the node that is to hear of its own disk wakes, if it sleeps.
    fn wakes(&self, what: &Happening) -> Option<u64> {
        let node = match what {
            Happening::Synced { node, .. }
            | Happening::Read { node, .. }
            | Happening::SnapshotWritten { node, .. }
            | Happening::Released { node, .. } => node,
            Happening::SnapshotArrived { to, .. } => to,
            Happening::SnapshotEnded { from, .. } => from,
            Happening::Tick(_)
            | Happening::Message { .. }
            | Happening::SnapshotOffer { .. }
            | Happening::Ask { .. }
            | Happening::Answered { .. }
            | Happening::Actors
            | Happening::Crash
            | Happening::Restart(_)
            | Happening::Partition
            | Happening::Heal
            | Happening::Pause
            | Happening::WorkerDies => return None,
        };
        let until = self.nodes.get(node)?.paused_until;
        (self.now < until).then_some(until)
    }

    fn alive(&mut self, id: NodeId, life: u64) -> Option<&mut Node> {
        self.nodes.get_mut(&id).filter(|node| node.life == life && node.replica.is_some())
    }

    fn ticks(&self, id: NodeId) -> Ticks {
        let started = self.nodes.get(&id).map_or(self.now, |node| node.started);
        Ticks((self.now - started) / TICK_MS)
    }

    fn turn(&mut self, id: NodeId, inputs: Vec<Input<Asker>>) -> Result<(), Violation> {
        let now = self.ticks(id);
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        if node.replica.is_none() {
            return Ok(());
        }
        // What comes while a node sleeps it hears all at once when it wakes; what comes while it works, now
        // and then together, at its next tick.
        let is_tick = inputs.is_empty();
        let sleeps = self.now < node.paused_until;
        node.waiting.extend(inputs);
        if sleeps || !is_tick && !self.healed && self.rng.u32(0..100) < self.faults.together_percent
        {
            return Ok(());
        }
        let inputs = std::mem::take(&mut node.waiting);
        let Some(mut replica) = node.replica.take() else { return Ok(()) };
        let life = node.life;
        let wall = Millis(self.now.saturating_add_signed(node.clock_skew_ms));
        let mut inputs = inputs;
        let outcome = loop {
            let output = replica.turn(Turn { now, wall }, std::mem::take(&mut inputs));
            let status = replica.raft().status();
            let digest = replica.machine().digest().0;
            let digest = u64::try_from(digest & u128::from(u64::MAX)).unwrap_or_default();
            for value in [id.0, status.term.0, status.commit_index.0, status.last_index.0, digest] {
                self.note(value);
            }
            let checked = self.checks.after_turn(id, &replica);
            let again = output.again;
            self.carry_out(id, life, output);
            if checked.is_err() || !again {
                break checked;
            }
        };
        if let Some(node) = self.nodes.get_mut(&id) {
            node.replica = Some(replica);
        }
        outcome
    }

    fn carry_out(&mut self, id: NodeId, life: u64, output: Output<Asker>) {
        if let Some(batch) = output.persist {
            let seq = batch.seq;
            if let Some(node) = self.nodes.get_mut(&id) {
                node.disk.begin(batch);
            }
            let after = if self.healed { 1 } else { self.rng.u64(1..=self.faults.sync_ms_max) };
            self.later(after, Happening::Synced { node: id, life, seq });
        }
        for (to, message) in output.send {
            self.send(id, to, message);
        }
        for read in output.read_log {
            self.later(1, Happening::Read { node: id, life, read });
        }
        if let Some((meta, machine)) = output.write_snapshot {
            // The file appears with its event; a crash before it leaves nothing behind.
            if let Some(node) = self.nodes.get_mut(&id) {
                node.disk.write_snapshot(meta.clone(), &machine);
            }
            let after = self.rng.u64(1..50);
            self.later(after, Happening::SnapshotWritten { node: id, life, meta });
        }
        if let Some(index) = output.release {
            let keep = self.log_keep;
            let first_index = self.nodes.get_mut(&id).map(|node| node.disk.release(index, keep));
            if let Some(first_index) = first_index {
                self.later(1, Happening::Released { node: id, life, first_index });
            }
        }
        for send in output.send_snapshot {
            let after = self.rng.u64(1..20);
            self.later(after, Happening::SnapshotOffer { from: id, to: send.to, term: send.term });
        }
        for (from, index, offer) in output.offers {
            self.verdict(from, id, index, offer);
        }
        for (asker, answer) in output.answers {
            let reply = match answer {
                Answer::Reply(reply) => reply,
                Answer::Image { machine, request } => reading::answer(&machine, &request),
                Answer::Look(_) => continue,
            };
            let after = self.rng.u64(1..5);
            if self.healed || self.rng.u32(0..100) >= self.faults.loss_percent {
                self.later(after, Happening::Answered { asker, reply: Box::new(reply) });
            }
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: PeerMessage) {
        if self.cut.contains(&(from, to)) {
            return;
        }
        let lossy = !self.healed;
        if lossy && self.rng.u32(0..100) < self.faults.loss_percent {
            return;
        }
        let max = if lossy { self.faults.delay_ms_max } else { 2 };
        let after = self.rng.u64(1..=max);
        let message = Box::new(message);
        if lossy && self.rng.u32(0..100) < self.faults.duplicate_percent {
            let again = self.rng.u64(1..=max * 3);
            self.later(again, Happening::Message { from, to, message: message.clone() });
        }
        self.later(after, Happening::Message { from, to, message });
    }

    fn offer(&mut self, from: NodeId, to: NodeId, term: Term) -> Result<(), Violation> {
        let Some(node) = self.nodes.get(&from) else { return Ok(()) };
        let (life, dir) = (node.life, node.dir);
        let Some((meta, records)) = node.disk.newest_snapshot().cloned() else { return Ok(()) };
        let now = self.now;
        let hears = |node: &Node| node.replica.is_some() && node.paused_until <= now;
        let up = self.nodes.get(&to).is_some_and(hears);
        if self.cut.contains(&(from, to)) || !up {
            self.later(50, Happening::SnapshotEnded { from, life, to, ok: false });
            return Ok(());
        }
        self.offers.insert((from, to), (meta.clone(), records));
        self.turn(to, vec![Input::SnapshotOffered { from, dir, term, meta }])
    }

    fn verdict(&mut self, from: NodeId, to: NodeId, index: Index, offer: Offer) {
        let life = self.nodes.get(&from).map_or(0, |node| node.life);
        if self.offers.get(&(from, to)).is_none_or(|(meta, _)| meta.index != index) {
            return;
        }
        let Some(file) = self.offers.remove(&(from, to)) else { return };
        match offer {
            Offer::Wanted => {
                let broken = !self.healed && self.rng.u32(0..100) < 20;
                let after = self.rng.u64(5..200);
                if broken {
                    self.later(after, Happening::SnapshotEnded { from, life, to, ok: false });
                } else {
                    self.sent.push(Some(file));
                    let sent = self.sent.len() - 1;
                    self.later(after, Happening::SnapshotArrived { from, to, sent });
                    self.later(after + 2, Happening::SnapshotEnded { from, life, to, ok: true });
                }
            }
            Offer::Held | Offer::Stale(_) => {
                self.later(
                    1,
                    Happening::SnapshotEnded { from, life, to, ok: offer == Offer::Held },
                );
            }
        }
    }

    fn arrived(&mut self, from: NodeId, to: NodeId, sent: usize) -> Result<(), Violation> {
        let Some((meta, records)) = self.sent.get_mut(sent).and_then(Option::take) else {
            return Ok(());
        };
        let Some(node) = self.nodes.get_mut(&to) else { return Ok(()) };
        if node.replica.is_none() {
            return Ok(());
        }
        node.disk.store_snapshot(meta.clone(), records.clone());
        let machine = Box::new(restore(&records));
        let bytes = records.iter().map(|record| record.len() as u64).sum();
        self.installs += 1;
        self.turn(to, vec![Input::SnapshotReceived { from, meta, bytes, machine }])
    }

    fn act(&mut self) -> Result<(), Violation> {
        let nodes = &self.nodes;
        let up = |id: NodeId| nodes.get(&id).is_some_and(|node| node.replica.is_some());
        let sendings = self.actors.step(self.now, !self.healed, &up, &mut self.checks)?;
        for (actor, Sending { to, request, corr }) in sendings {
            if self.healed || self.rng.u32(0..100) >= self.faults.loss_percent {
                let after = self.rng.u64(1..5);
                let asker = Asker { actor, corr };
                self.later(after, Happening::Ask { to, request: Box::new(request), asker });
            }
        }
        Ok(())
    }

    fn go_wrong(&mut self, fault: Happening) {
        let victim = NodeId(self.rng.u64(1..=self.plan.nodes));
        let (mean, next) = match fault {
            Happening::Crash => {
                // Now and then all of them at once, as a power cut does.
                let all = self.rng.u32(0..10) == 0;
                for id in 1..=self.plan.nodes {
                    if all || NodeId(id) == victim {
                        self.crash(NodeId(id));
                    }
                }
                (self.faults.crash_ms_mean, Happening::Crash)
            }
            Happening::Partition => {
                self.partition();
                let after = self.rng.u64(200..4000);
                self.later(after, Happening::Heal);
                (self.faults.partition_ms_mean, Happening::Partition)
            }
            Happening::Pause => {
                let until = self.now + self.rng.u64(100..5000);
                if let Some(node) = self.nodes.get_mut(&victim) {
                    node.paused_until = until;
                }
                (self.faults.pause_ms_mean, Happening::Pause)
            }
            Happening::WorkerDies => {
                self.actors.trouble_a_worker(self.now, &mut self.rng, &mut self.checks);
                (self.faults.worker_death_ms_mean, Happening::WorkerDies)
            }
            Happening::Heal => {
                self.cut.clear();
                return;
            }
            Happening::Tick(_)
            | Happening::Message { .. }
            | Happening::Synced { .. }
            | Happening::Read { .. }
            | Happening::SnapshotWritten { .. }
            | Happening::SnapshotOffer { .. }
            | Happening::SnapshotArrived { .. }
            | Happening::SnapshotEnded { .. }
            | Happening::Ask { .. }
            | Happening::Answered { .. }
            | Happening::Actors
            | Happening::Released { .. }
            | Happening::Restart(_) => return,
        };
        let after = self.mean(mean);
        self.later(after, next);
    }

    fn crash(&mut self, id: NodeId) {
        // Some stay down for long: they need a snapshot then.
        let longest = if self.rng.u32(0..3) == 0 { 12_000 } else { 2000 };
        let after = self.rng.u64(20..longest);
        if let Some(node) = self.nodes.get_mut(&id)
            && node.replica.take().is_some()
        {
            node.disk.crash();
            node.waiting.clear();
            self.actors.broke(id, self.now);
            self.later(after, Happening::Restart(id));
        }
    }

    /// Cuts the network in one of its ugly shapes: one node alone, halves, or one direction only.
    fn partition(&mut self) {
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        let alone = NodeId(self.rng.u64(1..=self.plan.nodes));
        let shape = self.rng.u32(0..4);
        let half = self.rng.u64(1..=self.plan.nodes);
        for from in &nodes {
            for to in nodes.iter().filter(|to| *to != from) {
                let cut = match shape {
                    0 => *from == alone || *to == alone,
                    1 => (from.0 < half) != (to.0 < half),
                    2 => *from == alone,
                    _ => *to == alone,
                };
                if cut {
                    self.cut.insert((*from, *to));
                }
            }
        }
    }

    fn heal_all(&mut self) {
        self.healed = true;
        self.cut.clear();
        let down: Vec<NodeId> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.replica.is_none())
            .map(|(id, _)| *id)
            .collect();
        for id in down {
            self.start(id);
        }
        for node in self.nodes.values_mut() {
            node.paused_until = 0;
        }
    }
}

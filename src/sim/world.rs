//! The world: nodes, what is on its way between them, and how time passes.

use std::collections::BTreeMap;
use std::fmt;

use fastrand::Rng;

use crate::jobs::command::Limits;
use crate::replica::input::Input;
use crate::sim::actors::Actors;
use crate::sim::checks::{Checks, Violation};
use crate::sim::event::{Asker, Event, Happening, Queue};
use crate::sim::faults::{Fault, Groups, draw};
use crate::sim::healing::Questions;
use crate::sim::network::Network;
use crate::sim::node::Node;
use crate::sim::settings::limits;
use crate::sim::store::Durable;
use crate::sim::transfers::Transfers;
use crate::sim::truth::Truth;
use crate::types::NodeId;

/// When each world begins, in ms of its clocks.
pub(super) const BEGIN_MS: u64 = 100_000_000;

/// How many nodes a world has, at most.
pub const NODES_MAX: u64 = 7;

/// How often a healed world is looked at, in ms.
const SETTLE_MS: u64 = 200;

/// How long a healed world may take to have a leader, in ms.
const LEADER_MS_MAX: u64 = 15_000;

/// How long a healed world may take to end all it was given and to agree, in ms.
const WHOLE_MS_MAX: u64 = 120_000;

/// What one world is to be. The same plan gives the same world.
#[derive(Clone, Debug)]
pub struct Plan {
    /// All dice come from it.
    pub seed: u64,
    /// Nodes, 1 to [`NODES_MAX`].
    pub nodes: u64,
    /// What may go wrong.
    pub groups: Groups,
    /// The faults that happen, by their numbers; all of them if there is no list.
    pub only: Option<Vec<u32>>,
}

/// What a world came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// A hash of everything that happened: the same for the same plan.
    pub trace: u64,
    /// How much time has passed in it, in ms.
    pub simulated_ms: u64,
    /// Things that happened.
    pub events: u64,
    /// Faults.
    pub faults: u64,
    /// Submits acknowledged.
    pub acknowledged: u64,
    /// Reads answered.
    pub reads: u64,
    /// Reports of workers accepted.
    pub reports: u64,
    /// Changes told to those who watch.
    pub watched: u64,
    /// Histories of one job that were checked to be linearizable.
    pub histories: u64,
    /// Operations in them.
    pub operations: u64,
    /// Starts of nodes.
    pub starts: u64,
    /// Snapshots installed from a peer.
    pub installs: u64,
    /// Disks whose damage was noticed.
    pub damaged: u64,
    /// Nodes that healed from it.
    pub healed: u64,
    /// Entries committed.
    pub committed: u64,
    /// Slots of crons that became jobs.
    pub slots: u64,
}

impl Report {
    /// Adds another one; the hashes are combined in order.
    pub fn add(&mut self, other: &Self) {
        self.trace = mix(self.trace, other.trace);
        self.simulated_ms += other.simulated_ms;
        self.events += other.events;
        self.faults += other.faults;
        self.acknowledged += other.acknowledged;
        self.reads += other.reads;
        self.reports += other.reports;
        self.watched += other.watched;
        self.histories += other.histories;
        self.operations += other.operations;
        self.starts += other.starts;
        self.installs += other.installs;
        self.damaged += other.damaged;
        self.healed += other.healed;
        self.committed += other.committed;
        self.slots += other.slots;
    }
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Which.
    pub what: String,
    /// When, in ms from the world's beginning.
    pub at_ms: u64,
    /// The round, from 0, and the ms from its beginning: faults that come later had no part in it.
    pub round: (usize, u64),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (after {}.{:03} s)", self.what, self.at_ms / 1000, self.at_ms % 1000)
    }
}

/// A simulated cluster with its clients and workers.
pub struct World {
    pub(super) plan: Plan,
    pub(super) dice: Rng,
    pub(super) now: u64,
    pub(super) queue: Queue,
    pub(super) nodes: Vec<Node>,
    /// What is durable for certain on the disk of each node, in the order of the nodes.
    pub(super) durable: Vec<Durable>,
    pub(super) network: Network,
    pub(super) transfers: Transfers,
    pub(super) truth: Truth,
    pub(super) questions: Questions,
    pub(super) limits: Limits,
    pub(super) faults: Vec<Fault>,
    /// The faulty time of each round, in ms.
    rounds: Vec<u64>,
    round: usize,
    round_began: u64,
    pub(super) healed_at: Option<u64>,
    pub(super) actors: Actors,
    /// When clients and workers look around next.
    actors_at: u64,
    pub(super) checks: Checks,
    pub(super) report: Report,
    pub(super) sampled: u64,
}

/// Stirs a value into a hash.
#[must_use]
pub fn mix(hash: u64, value: u64) -> u64 {
    (hash ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23)
}

impl World {
    /// Builds a world from its plan.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        let nodes = plan.nodes.clamp(1, NODES_MAX);
        let mut dice = Rng::with_seed(mix(0x7261_6674_712d_7369, plan.seed));
        // With these dice of their own newcomers and sleep leave the rest of the world as it is.
        let mut own = Rng::with_seed(mix(0x6e65_7763_6f6d_6572, plan.seed));
        // The storage draws ids of its own accord.
        fastrand::seed(dice.u64(..));
        let rounds: Vec<u64> = (0..dice.usize(1..=4)).map(|_| dice.u64(3_000..60_000)).collect();
        let mut faults = draw(plan.groups, nodes, &rounds, &mut dice.fork(), &mut own.fork());
        if let Some(only) = &plan.only {
            faults.retain(|fault| only.contains(&fault.id));
        }
        let mut world = Self {
            now: BEGIN_MS,
            queue: Queue::default(),
            nodes: (1..=nodes).map(|id| Node::new(NodeId(id), dice.fork())).collect(),
            durable: (1..=nodes).map(|_| Durable::default()).collect(),
            network: Network::new(dice.fork()),
            transfers: Transfers::new(dice.fork()),
            truth: Truth::default(),
            questions: Questions::default(),
            limits: limits(&mut dice.fork()),
            faults,
            rounds,
            round: 0,
            round_began: 0,
            healed_at: None,
            actors: Actors::new(&mut dice.fork(), &mut own, nodes),
            actors_at: 0,
            checks: Checks::default(),
            report: Report::default(),
            sampled: 0,
            plan: Plan { nodes, ..plan },
            dice,
        };
        for id in 1..=nodes {
            world.start_at(NodeId(id), BEGIN_MS);
        }
        world.begin_round();
        world
    }

    /// Returns what came of the world so far.
    #[must_use]
    pub fn report(&self) -> Report {
        let mut report = self.report;
        report.simulated_ms = self.now - BEGIN_MS;
        report.events = self.queue.count();
        (report.acknowledged, report.reads) = self.actors.counts();
        report.reports = self.actors.reports();
        report.watched = self.actors.watched();
        let checked = self.checks.total();
        (report.histories, report.operations) = (checked.histories, checked.operations);
        report.committed = self.truth.commit_index().0;
        report.slots = self.checks.crons_fired();
        report
    }

    /// Says of a broken promise when it was broken.
    #[must_use]
    pub fn broken(&self, what: Violation) -> Broken {
        let at_ms = self.now - BEGIN_MS;
        Broken { what, at_ms, round: (self.round, self.now - self.round_began) }
    }

    /// Lets the next thing happen; false when the world has come to its end.
    ///
    /// # Errors
    /// The promise that was broken.
    pub fn step(&mut self) -> Result<bool, Violation> {
        let Some(Event { at, what, .. }) = self.queue.next() else { return Ok(false) };
        self.now = at;
        self.note(at);
        if matches!(what, Happening::Settle) {
            return self.settle();
        }
        self.happen(what)?;
        Ok(true)
    }

    /// Returns the faults of this world.
    #[must_use]
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    pub(super) fn later(&mut self, after: u64, what: Happening) {
        self.queue.at(self.now + after, what);
    }

    pub(super) fn note(&mut self, value: u64) {
        self.report.trace = mix(self.report.trace, value);
    }

    pub(super) fn node(&mut self, id: NodeId) -> Option<&mut Node> {
        self.nodes.get_mut(place(id))
    }

    /// Returns a node that is in this life still.
    pub(super) fn alive(&mut self, id: NodeId, life: u64) -> Option<&mut Node> {
        self.node(id).filter(|node| node.life == life && node.replica.is_some())
    }

    /// Returns who leads, as far as anybody who leads knows: the one of the latest term.
    pub(super) fn leader(&self) -> Option<NodeId> {
        let leading = self.nodes.iter().filter_map(|node| {
            let raft = node.replica.as_ref()?.raft();
            (raft.leader() == Some(node.id)).then(|| (raft.term(), node.id))
        });
        leading.max().map(|(_, id)| id)
    }

    fn begin_round(&mut self) {
        self.round_began = self.now;
        self.healed_at = None;
        for (number, fault) in self.faults.iter().enumerate() {
            if fault.round == self.round {
                self.queue.at(self.now + fault.at_ms, Happening::Fault(number));
            }
        }
        let faulty_ms = self.rounds.get(self.round).copied().unwrap_or_default();
        self.later(faulty_ms, Happening::Heal);
        self.wake_actors();
    }

    fn happen(&mut self, what: Happening) -> Result<(), Violation> {
        if let Some(awake) = self.wakes(&what) {
            // What a node's own disk did while it slept, it hears when it wakes.
            self.queue.at(awake, what);
            return Ok(());
        }
        match what {
            Happening::Tick { node, life } => self.tick(node, life),
            Happening::Message { from, to, message } => {
                let Some(dir) = self.node(from).map(|node| node.dir) else { return Ok(()) };
                if let Some(replica) =
                    self.nodes.get(place(to)).and_then(|node| node.replica.as_ref())
                {
                    let last = replica.raft().last_index();
                    self.questions.arrives(from, to, &message.message, last);
                }
                self.turn(to, Input::Peer { from, dir, message: *message })
            }
            Happening::PeerLost { node, lost } => self.turn(node, Input::PeerLost(lost)),
            Happening::Synced { node, life, seq } => self.synced(node, life, seq),
            Happening::Read { node, life, read } => self.read(node, life, &read),
            Happening::SnapshotWritten { node, life } => self.snapshot_written(node, life),
            Happening::Release { node, life, up_to } => self.release(node, life, up_to),
            Happening::Prepare { node, life } => {
                if let Some(store) = self.alive(node, life).and_then(|node| node.store.as_mut()) {
                    store.prepare();
                }
                Ok(())
            }
            Happening::Bulk { from, to, token, step } => self.bulk(from, to, token, step),
            Happening::SnapshotEnded { from, life, to, outcome } => {
                self.snapshot_ended(from, life, to, outcome)
            }
            Happening::Ask { to, request, asker } => {
                let now = self.now;
                let Some(node) = self.node(to) else { return Ok(()) };
                let arrived = node.ticks(now);
                self.turn(to, Input::Request { request: *request, waiter: asker, arrived })
            }
            Happening::Answered { asker, reply } => {
                self.actors.answered(asker.actor, asker.corr, *reply, self.now);
                self.wake_actors();
                Ok(())
            }
            Happening::Actors => self.act(),
            Happening::Start(id) => self.start(id),
            Happening::Relapse { node, life } => {
                self.relapse(node, life);
                Ok(())
            }
            Happening::Fault(number) => {
                let Some(fault) = self.faults.get(number).copied() else { return Ok(()) };
                if self.healed_at.is_none() {
                    self.go_wrong(fault.what);
                }
                Ok(())
            }
            Happening::Heal => {
                self.heal_all();
                self.healed_at = Some(self.now);
                self.later(SETTLE_MS, Happening::Settle);
                Ok(())
            }
            Happening::Settle => Ok(()),
        }
    }

    /// When the node that is to hear of its own disk wakes, if it sleeps.
    fn wakes(&self, what: &Happening) -> Option<u64> {
        let node = match what {
            Happening::Synced { node, .. }
            | Happening::Read { node, .. }
            | Happening::SnapshotWritten { node, .. }
            | Happening::Release { node, .. }
            | Happening::Prepare { node, .. }
            | Happening::PeerLost { node, .. }
            | Happening::SnapshotEnded { from: node, .. }
            | Happening::Bulk { from: node, .. } => node,
            Happening::Tick { .. }
            | Happening::Message { .. }
            | Happening::Ask { .. }
            | Happening::Answered { .. }
            | Happening::Actors
            | Happening::Start(_)
            | Happening::Relapse { .. }
            | Happening::Fault(_)
            | Happening::Heal
            | Happening::Settle => return None,
        };
        let until = self.nodes.get(place(*node))?.paused_until;
        (self.now < until).then_some(until)
    }

    /// Lets clients and workers look around when they want to, at the latest.
    pub(super) fn wake_actors(&mut self) {
        let at = self.actors.wake_at(self.now, self.healed_at.is_none());
        if at < self.actors_at || self.actors_at <= self.now {
            self.actors_at = at;
            self.queue.at(at, Happening::Actors);
        }
    }

    fn act(&mut self) -> Result<(), Violation> {
        let now = self.now;
        if now != self.actors_at {
            return Ok(());
        }
        let more = self.healed_at.is_none();
        let nodes = &self.nodes;
        let up = |id: NodeId| nodes.get(place(id)).is_some_and(|node| node.replica.is_some());
        let sendings = self.actors.step(now, more, &up, &mut self.checks)?;
        for (node, worker, incarnation) in self.actors.announcements() {
            self.turn(node, Input::LocalWorker { worker, incarnation })?;
        }
        for (actor, sending) in sendings {
            if !self.network.loses(now) {
                let after = self.network.takes(now);
                let asker = Asker { actor, corr: sending.corr };
                let request = Box::new(sending.request);
                self.later(after, Happening::Ask { to: sending.to, request, asker });
            }
        }
        self.wake_actors();
        Ok(())
    }

    /// Looks whether a healed world is whole, and ends the round if it is. Returns false after the last one.
    fn settle(&mut self) -> Result<bool, Violation> {
        let since = self.now - self.healed_at.unwrap_or(self.now);
        if let Some(why) = self.unsettled() {
            if since > WHOLE_MS_MAX {
                let state = self.describe();
                return Err(format!("healed for {since} ms, and {why}\n{state}"));
            }
            if since > LEADER_MS_MAX && self.leader().is_none() {
                let state = self.describe();
                return Err(format!("healed for {since} ms, and nobody leads\n{state}"));
            }
            self.later(SETTLE_MS, Happening::Settle);
            return Ok(true);
        }
        let whole = self.nodes.iter().find_map(|node| node.replica.as_ref());
        let Some(machine) = whole.map(|replica| replica.machine().clone()) else {
            return Err("there is no node".into());
        };
        self.actors.end_round(&mut self.checks);
        self.checks
            .end_of_round(&machine, self.now)
            .map_err(|why| format!("{why}\n{}", self.describe()))?;
        self.round += 1;
        if self.round >= self.rounds.len() {
            return Ok(false);
        }
        self.begin_round();
        Ok(true)
    }

    /// Says what a healed world still waits for.
    fn unsettled(&self) -> Option<String> {
        if !self.actors.is_idle() {
            return Some("a client still waits for an answer".into());
        }
        let commit = self.truth.commit_index();
        let mut digests = BTreeMap::new();
        for node in &self.nodes {
            let Some(replica) = &node.replica else {
                match node.out {
                    Some(_) => continue,
                    None => return Some(format!("node {} is down", node.id)),
                }
            };
            if replica.raft().is_healing() {
                return Some(format!("node {} heals still", node.id));
            }
            let machine = replica.machine();
            let counts = machine.counts();
            if counts.pending + counts.running > 0 {
                let open = counts.pending + counts.running;
                return Some(format!("node {} has {open} jobs that have not ended", node.id));
            }
            let (applied, last) = (machine.applied_index(), replica.raft().last_index());
            if applied != commit || last != commit {
                return Some(format!(
                    "node {} stands at {applied} of {last}, not {commit}",
                    node.id
                ));
            }
            digests.insert(machine.digest().0, node.id);
        }
        (digests.len() > 1).then(|| format!("they do not agree: {digests:?}"))
    }

    /// One line a node, for the one who reads of a violation.
    pub(super) fn describe(&self) -> String {
        let line = |node: &Node| match (&node.replica, &node.out) {
            (Some(replica), _) => {
                let raft = replica.raft();
                let healing = if raft.is_healing() { " that heals" } else { "" };
                format!(
                    "  node {}: {:?}{healing} in term {}, log {}, committed {}, applied {}, {:?}\n",
                    node.id,
                    raft.role(),
                    raft.term(),
                    raft.last_index(),
                    raft.commit_index(),
                    replica.machine().applied_index(),
                    replica.machine().counts(),
                )
            }
            (None, Some(why)) => format!("  node {}: out: {why}\n", node.id),
            (None, None) => {
                let damage =
                    node.damage.as_deref().unwrap_or("as far as it knows nothing is damaged");
                format!("  node {}: down; {damage}\n", node.id)
            }
        };
        self.nodes.iter().map(line).collect()
    }
}

/// Returns the place of a node among the nodes.
pub(super) fn place(id: NodeId) -> usize {
    usize::try_from(id.0).unwrap_or_default().wrapping_sub(1)
}

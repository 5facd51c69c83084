//! Everybody outside the cluster: clients and workers, their life, and what they send.

use fastrand::Rng;

use crate::replica::view::Notice;
use crate::sim::calling::{Sending, Up};
use crate::sim::checks::{Checks, Violation};
use crate::sim::client::{Client, Pace};
use crate::sim::newcomer::Newcomer;
use crate::sim::watcher::Watcher;
use crate::sim::worker::Worker;
use crate::types::{Incarnation, NodeId, WorkerId};
use crate::wire::message::Reply;

/// Who asked something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Actor {
    /// A client, by its place.
    Client(usize),
    /// A client that has just come, by its place.
    Newcomer(usize),
    /// A worker, by its place.
    Worker(usize),
    /// Somebody who watches, by the place.
    Watcher(usize),
}

/// In the history newcomers are numbered from here on.
const NEWCOMERS_FROM: u64 = 500;

/// Clients and workers.
///
/// Each is looked at when something is due for it, and in a fixed order, so that the same dice give the same history.
#[derive(Debug)]
pub struct Actors {
    clients: Vec<Client>,
    newcomers: Vec<Newcomer>,
    workers: Vec<Worker>,
    watchers: Vec<Watcher>,
}

impl Actors {
    /// Draws a crowd for a cluster of so many nodes; newcomers have dice of their own.
    #[must_use]
    pub fn new(rng: &mut Rng, newcomers: &mut Rng, nodes: u64) -> Self {
        let count = newcomers.u64(0..3).saturating_sub(1);
        let watchers = newcomers.u64(0..3);
        let pace = Pace::draw(rng);
        let clients = rng.u64(2..6);
        let workers = rng.u64(3..10);
        Self {
            clients: (0..clients).map(|n| Client::new(n, rng.u64(..), nodes, pace)).collect(),
            newcomers: (0..count)
                .map(|n| Newcomer::new(NEWCOMERS_FROM + n, newcomers.u64(..), nodes))
                .collect(),
            watchers: (0..watchers).map(|_| Watcher::new(newcomers.u64(..), nodes)).collect(),
            // At least one of each kind, or some jobs never end.
            workers: (0..workers).map(|n| worker(n, rng, nodes)).collect(),
        }
    }

    /// Takes everybody's turn and says what to send; `more` tells whether clients begin anything new.
    ///
    /// # Errors
    /// A promise that was broken.
    pub fn step(
        &mut self,
        now: u64,
        more: bool,
        up: Up<'_>,
        checks: &mut Checks,
    ) -> Result<Vec<(Actor, Sending)>, Violation> {
        let (recorder, holders) = checks.outside();
        // Whoever must end something ends it before anybody begins something at this very time.
        let mut begins = Vec::new();
        for worker in self.workers.iter_mut().filter(|worker| worker.wake_at() <= now) {
            let begun = worker.step(now, recorder, holders)?;
            begins.push((worker, begun));
        }
        for (worker, begun) in begins {
            worker.begin(begun, now, holders)?;
        }
        let mut all = Vec::new();
        let mut sendings = Vec::new();
        for (at, worker) in self.workers.iter_mut().enumerate() {
            worker.send(now, up, &mut sendings);
            all.extend(sendings.drain(..).map(|sending| (Actor::Worker(at), sending)));
        }
        for (at, client) in self.clients.iter_mut().enumerate() {
            if client.wake_at(more) <= now {
                client.step(now, more, up, recorder, &mut sendings);
                all.extend(sendings.drain(..).map(|sending| (Actor::Client(at), sending)));
            }
        }
        for (at, newcomer) in self.newcomers.iter_mut().enumerate() {
            if newcomer.wake_at(more) <= now {
                newcomer.step(now, more, up, recorder, &mut sendings);
                all.extend(sendings.drain(..).map(|sending| (Actor::Newcomer(at), sending)));
            }
        }
        for (at, watcher) in self.watchers.iter_mut().enumerate() {
            if watcher.wake_at(more) <= now {
                watcher.step(now, more, up, checks.told(), &mut sendings)?;
                all.extend(sendings.drain(..).map(|sending| (Actor::Watcher(at), sending)));
            }
        }
        Ok(all)
    }

    /// Returns when somebody wants to be asked again, after `now`.
    #[must_use]
    pub fn wake_at(&self, now: u64, more: bool) -> u64 {
        let clients = self.clients.iter().map(|client| client.wake_at(more));
        let workers = self.workers.iter().map(Worker::wake_at);
        let newcomers = self.newcomers.iter().map(|newcomer| newcomer.wake_at(more));
        let watchers = self.watchers.iter().map(|watcher| watcher.wake_at(more));
        clients
            .chain(newcomers)
            .chain(workers)
            .chain(watchers)
            .min()
            .unwrap_or(u64::MAX)
            .max(now + 1)
    }

    /// Hands an answer to whoever asked.
    pub fn answered(&mut self, actor: Actor, corr: u64, reply: Reply, now: u64) {
        match actor {
            Actor::Client(at) => {
                if let Some(client) = self.clients.get_mut(at) {
                    client.answered(corr, reply, now);
                }
            }
            Actor::Newcomer(at) => {
                if let Some(newcomer) = self.newcomers.get_mut(at) {
                    newcomer.answered(corr, reply, now);
                }
            }
            Actor::Worker(at) => {
                if let Some(worker) = self.workers.get_mut(at) {
                    worker.answered(corr, reply, now);
                }
            }
            Actor::Watcher(at) => {
                if let Some(watcher) = self.watchers.get_mut(at) {
                    watcher.answered(corr, reply, now);
                }
            }
        }
    }

    /// Returns the starts of built-in workers of which the replicas of their nodes must hear, before what
    /// [`Actors::step`] wants sent is.
    pub fn announcements(&mut self) -> Vec<(NodeId, WorkerId, Incarnation)> {
        self.workers.iter_mut().filter_map(Worker::announcement).collect()
    }

    /// Hands on what the replica of a node tells the worker built into it.
    pub fn noticed(&mut self, node: NodeId, notices: Vec<Notice>) {
        if notices.is_empty() {
            return;
        }
        if let Some(worker) = self.workers.iter_mut().find(|worker| worker.home() == Some(node)) {
            worker.noticed(notices);
        }
    }

    /// Tells everybody that their connections to a node broke.
    pub fn broke(&mut self, node: NodeId, now: u64) {
        self.clients.iter_mut().for_each(|client| client.broke(node, now));
        self.newcomers.iter_mut().for_each(|newcomer| newcomer.broke(node, now));
        self.workers.iter_mut().for_each(|worker| worker.broke(node, now));
        self.watchers.iter_mut().for_each(|watcher| watcher.broke(node, now));
    }

    /// Has the worker built into a node die with it.
    pub fn ended(&mut self, node: NodeId, now: u64, checks: &mut Checks) {
        let (recorder, holders) = checks.outside();
        for worker in self.workers.iter_mut().filter(|worker| worker.home() == Some(node)) {
            worker.die(now, u64::MAX, recorder, holders);
        }
    }

    /// Tells the worker built into a node that the node is up.
    pub fn started(&mut self, node: NodeId, now: u64) {
        for worker in self.workers.iter_mut().filter(|worker| worker.home() == Some(node)) {
            worker.wake(now);
        }
    }

    /// Has the worker built into a node stand still with it.
    pub fn paused(&mut self, node: NodeId, until: u64, checks: &mut Checks) {
        let (_, holders) = checks.outside();
        for worker in self.workers.iter_mut().filter(|worker| worker.home() == Some(node)) {
            worker.pause(until, holders);
        }
    }

    /// Has one of the workers die, or stand still for a while, past its right to what it runs or not.
    pub fn trouble_a_worker(&mut self, now: u64, rng: &mut Rng, checks: &mut Checks) {
        let (recorder, holders) = checks.outside();
        let Some(worker) = rng.choice(self.workers.iter_mut()) else { return };
        if worker.sleeps(now) {
            return;
        }
        let until = now + rng.u64(0..6000);
        if rng.bool() {
            worker.die(now, until, recorder, holders);
        } else {
            worker.pause(until, holders);
        }
    }

    /// Tells whether no client waits for anything.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.clients.iter().all(Client::is_idle)
            && self.newcomers.iter().all(Newcomer::is_idle)
            && self.watchers.iter().all(Watcher::is_idle)
    }

    /// Writes down what is under way at the end of a round.
    pub fn end_round(&self, checks: &mut Checks) {
        let (recorder, _) = checks.outside();
        self.workers.iter().for_each(|worker| worker.end_round(recorder));
    }

    /// Returns how many submits were acknowledged, and how many reads answered.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        self.clients
            .iter()
            .map(Client::counts)
            .chain(self.newcomers.iter().map(Newcomer::counts))
            .fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
    }

    /// Returns how many changes were told to those who watch.
    #[must_use]
    pub fn watched(&self) -> u64 {
        self.watchers.iter().map(Watcher::checked).sum()
    }

    /// Returns how many reports were accepted.
    #[must_use]
    pub fn reports(&self) -> u64 {
        self.workers.iter().map(Worker::reports).sum()
    }
}

/// Makes a worker. Those of commands are built into nodes, as long as there are nodes; one of them is not, so that
/// commands go on when nodes are down for long.
fn worker(number: u64, rng: &mut Rng, nodes: u64) -> Worker {
    let worker = Worker::new(number, rng.u64(..), nodes);
    let (kind, place) = (number % 3, number / 3);
    match kind == 0 && place > 0 && place <= nodes {
        true => worker.built_into(NodeId(place)),
        false => worker,
    }
}

//! Does what the schedule says: begins each fault at its time, heals it at its time, and notes both.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::cluster::Cluster;
use crate::net::{Link, Links, Pair, all, between};
use crate::plan::{Fault, Kind, Shape, Step, Who};
use crate::watch::Watch;

/// How long a flapping link is apart, and how long together.
const FLAP: Duration = Duration::from_millis(400);

/// The shortest look at the clock.
const TURN: Duration = Duration::from_millis(25);

/// A fault as it was, on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bar {
    /// The node.
    pub node: usize,
    /// What kind it was.
    pub kind: Kind,
    /// When it began.
    pub from_ms: u64,
    /// When it was healed.
    pub to_ms: u64,
    /// The node could not act with the others meanwhile.
    pub is_away: bool,
}

/// A fault as it was, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// When it began.
    pub from_ms: u64,
    /// When it was healed.
    pub to_ms: u64,
    /// What it was.
    pub words: String,
    /// What kind it was.
    pub kind: Kind,
    /// Whom it hit.
    pub nodes: Vec<usize>,
    /// These could not act with the others meanwhile.
    pub is_away: bool,
}

/// What drives the faults of one run.
#[derive(Debug)]
pub struct Driver {
    cluster: Arc<Cluster>,
    watch: Arc<Watch>,
    began: Instant,
    /// Once set, everything is healed and nothing more goes wrong.
    pub over: AtomicBool,
    told: Mutex<Vec<Told>>,
    wrong: Mutex<Vec<String>>,
}

impl Driver {
    /// Makes one.
    pub fn new(cluster: Arc<Cluster>, watch: Arc<Watch>, began: Instant) -> Self {
        let over = AtomicBool::new(false);
        Self { cluster, watch, began, over, told: Mutex::default(), wrong: Mutex::default() }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Returns the faults that were.
    pub fn told(&self) -> Vec<Told> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner).clone();
        told.sort_by_key(|one| one.from_ms);
        told
    }

    /// Returns what did not go as it should.
    pub fn wrong(&self) -> Vec<String> {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, done: Result<(), String>) {
        if let Err(why) = done {
            eprintln!("nemesis: {why}");
            self.wrong.lock().unwrap_or_else(PoisonError::into_inner).push(why);
        }
    }

    /// Waits for a moment; returns whether it came before the end of everything.
    fn until(&self, at_ms: u64) -> bool {
        loop {
            if self.over.load(Ordering::SeqCst) {
                return false;
            }
            let left_ms = at_ms.saturating_sub(self.now_ms());
            if left_ms == 0 {
                return true;
            }
            std::thread::park_timeout(TURN.min(Duration::from_millis(left_ms)));
        }
    }

    /// Does one fault after the other.
    pub fn run(&self, steps: &[Step]) {
        for step in steps {
            if !self.until(step.at_ms) {
                return;
            }
            let nodes = self.nodes(&step.fault);
            let from_ms = self.now_ms();
            println!("{:>8.1} s  {}", from_ms as f64 / 1000.0, describe(&step.fault, &nodes));
            self.one(step, &nodes);
            let to_ms = self.now_ms();
            let told = Told {
                from_ms,
                to_ms,
                words: describe(&step.fault, &nodes),
                kind: step.fault.kind(),
                nodes,
                is_away: step.fault.takes_away(),
            };
            self.told.lock().unwrap_or_else(PoisonError::into_inner).push(told);
        }
    }

    /// Finds out whom a fault hits.
    fn nodes(&self, fault: &Fault) -> Vec<usize> {
        let ids = self.cluster.ids();
        let leader = self.watch.leader().unwrap_or(1);
        let resolve = |who: &Who| match who {
            Who::Leader => vec![leader],
            Who::These(nodes) => nodes.clone(),
            Who::All => ids.clone(),
        };
        match fault {
            Fault::Kill(who) | Fault::Restart(who) | Fault::Pause(who) | Fault::Clock(who, _) => {
                resolve(who)
            }
            Fault::Cut(
                Shape::Alone(who) | Shape::Mute(who) | Shape::Deaf(who) | Shape::Flapping(who),
            ) => resolve(who),
            Fault::Cut(Shape::Bridge { group, .. }) => group.clone(),
            Fault::Delay { .. } | Fault::Loss { .. } | Fault::Narrow { .. } | Fault::Reset => ids,
        }
    }

    /// Begins a fault, waits, and heals it.
    fn one(&self, step: &Step, nodes: &[usize]) {
        let cluster = &self.cluster;
        match &step.fault {
            Fault::Kill(_) => {
                cluster.kill(nodes);
                self.until(step.until_ms);
                nodes.iter().for_each(|node| self.note(cluster.start(*node)));
            }
            Fault::Restart(_) => {
                for node in nodes {
                    self.note(cluster.stop(*node).map_or(Ok(()), Err));
                }
                self.until(step.until_ms);
                nodes.iter().for_each(|node| self.note(cluster.start(*node)));
            }
            Fault::Pause(_) => {
                nodes.iter().for_each(|node| cluster.signal(*node, Signal::STOP));
                self.until(step.until_ms);
                nodes.iter().for_each(|node| cluster.signal(*node, Signal::CONT));
            }
            Fault::Clock(_, seconds) => {
                for node in nodes {
                    self.note(cluster.bend_clock(*node, *seconds));
                }
                self.until(step.until_ms);
                nodes.iter().for_each(|node| self.note(cluster.bend_clock(*node, 0)));
            }
            Fault::Cut(Shape::Flapping(_)) => self.flap(step, nodes),
            Fault::Reset => {
                self.note(cluster.net.reset());
                self.until(step.until_ms);
            }
            Fault::Cut(_) | Fault::Delay { .. } | Fault::Loss { .. } | Fault::Narrow { .. } => {
                self.note(cluster.net.set(&self.links(&step.fault, nodes)));
                self.until(step.until_ms);
                self.note(cluster.net.set(&Links::new()));
            }
        }
    }

    fn flap(&self, step: &Step, nodes: &[usize]) {
        let apart = self.links(&step.fault, nodes);
        let half_ms = u64::try_from(FLAP.as_millis()).unwrap_or_default();
        let mut at_ms = step.at_ms;
        let mut is_apart = false;
        while at_ms < step.until_ms && self.until(at_ms) {
            is_apart = !is_apart;
            let links = if is_apart { apart.clone() } else { Links::new() };
            self.note(self.cluster.net.set(&links));
            at_ms += half_ms;
        }
        self.note(self.cluster.net.set(&Links::new()));
    }

    /// Returns what a fault of the network does to each link.
    fn links(&self, fault: &Fault, nodes: &[usize]) -> Links {
        let ids = self.cluster.ids();
        let rest: Vec<usize> = ids.iter().copied().filter(|id| !nodes.contains(id)).collect();
        let blocked = Link { blocked: true, ..Link::default() };
        let same =
            |link: Link, pairs: Vec<Pair>| pairs.into_iter().map(|pair| (pair, link)).collect();
        let everywhere = |link: Link| same(link, all(ids.len()));
        match fault {
            Fault::Cut(Shape::Alone(_) | Shape::Flapping(_)) => {
                same(blocked, between(nodes, &rest).collect())
            }
            Fault::Cut(Shape::Mute(_)) => {
                let out = between(nodes, &rest).filter(|(from, _)| nodes.contains(from));
                same(blocked, out.collect())
            }
            Fault::Cut(Shape::Deaf(_)) => {
                let into = between(nodes, &rest).filter(|(_, to)| nodes.contains(to));
                same(blocked, into.collect())
            }
            Fault::Cut(Shape::Bridge { middle, .. }) => {
                let others: Vec<usize> = rest.into_iter().filter(|id| id != middle).collect();
                same(blocked, between(nodes, &others).collect())
            }
            Fault::Delay { ms, jitter_ms } => {
                everywhere(Link { delay_ms: *ms, jitter_ms: *jitter_ms, ..Link::default() })
            }
            Fault::Loss { percent } => {
                everywhere(Link { loss_percent: *percent, ..Link::default() })
            }
            Fault::Narrow { kb_s } => {
                everywhere(Link { bytes_s: u64::from(*kb_s) * 1000, ..Link::default() })
            }
            Fault::Kill(_)
            | Fault::Restart(_)
            | Fault::Pause(_)
            | Fault::Clock(..)
            | Fault::Reset => Links::new(),
        }
    }

    /// Heals whatever is left: every node runs, at the right time, and hears every other.
    pub fn heal(&self) {
        self.note(self.cluster.net.set(&Links::new()));
        for node in self.cluster.ids() {
            if self.cluster.runs(node) {
                self.cluster.signal(node, Signal::CONT);
            } else {
                self.note(self.cluster.start(node));
            }
            self.note(self.cluster.bend_clock(node, 0));
        }
    }
}

fn describe(fault: &Fault, nodes: &[usize]) -> String {
    let words = fault.words();
    if !words.contains("the leader") {
        return words;
    }
    let names: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    words.replace("the leader", &format!("the leader (node {})", names.join(", ")))
}

/// Returns the faults on each node, for the picture.
pub fn bars(told: &[Told]) -> Vec<Bar> {
    told.iter()
        .flat_map(|one| {
            one.nodes.iter().map(|node| Bar {
                node: *node,
                kind: one.kind,
                from_ms: one.from_ms,
                to_ms: one.to_ms,
                is_away: one.is_away,
            })
        })
        .collect()
}

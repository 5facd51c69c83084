//! What a client knows of the cluster: addresses, who leads, and how much repeating it may do.

use std::sync::Arc;
use std::time::Duration;

use crate::client::moment::Moment;
use crate::types::{ClusterId, Term};
use crate::wire::hello::NODES_MAX;
use crate::wire::hello::Welcome;
use crate::wire::message::LeaderHint;

/// A node's address, `HOST:PORT`, as a seed or another node wrote it.
pub type Addr = Arc<str>;

/// Seeds one client takes, at most; the builder refuses more.
pub const SEEDS_MAX: usize = 64;

/// Addresses known at once, at most: seeds and voters.
pub const ADDRS_MAX: usize = SEEDS_MAX + NODES_MAX;

/// How long an address that failed is tried after all others.
const FAILED_LAST: Duration = Duration::from_secs(1);

/// What is known of a cluster, shared by all calls of one client.
///
/// - Seeds are never forgotten; voters are those of the newest `WELCOME`.
/// - `term` only rises, and `leader` is of that term.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    id: ClusterId,
    leader: Option<Addr>,
    hint: Option<LeaderHint>,
    term: Term,
    /// Where the round over the addresses stands.
    cursor: usize,
    budget: Budget,
    rng: fastrand::Rng,
}

#[derive(Debug)]
struct Node {
    addr: Addr,
    is_seed: bool,
    failed_at: Option<Moment>,
}

impl Node {
    fn fails(&self, now: Moment) -> bool {
        self.failed_at.is_some_and(|at| now.since(at) < FAILED_LAST)
    }
}

impl Cluster {
    /// Knows the seeds, of which the first [`SEEDS_MAX`] count; all chance comes from `seed`.
    #[must_use]
    pub fn new(seeds: impl IntoIterator<Item = Addr>, seed: u64) -> Self {
        let mut nodes: Vec<Node> = Vec::new();
        for addr in seeds.into_iter().take(SEEDS_MAX) {
            if nodes.iter().all(|node| node.addr != addr) {
                nodes.push(Node { addr, is_seed: true, failed_at: None });
            }
        }
        Self {
            nodes,
            id: ClusterId::default(),
            leader: None,
            hint: None,
            term: Term(0),
            cursor: 0,
            budget: Budget::default(),
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// Returns the cluster's id, unknown until a node has told it. From then on it is said in every
    /// `HELLO`, so that a client cannot end up in another cluster by mistake.
    #[must_use]
    pub fn id(&self) -> ClusterId {
        self.id
    }

    /// Returns the address of whoever leads, as far as is known.
    #[must_use]
    pub fn leader(&self) -> Option<&Addr> {
        self.leader.as_ref()
    }

    /// Returns the newest word on who leads; it may have ended.
    #[must_use]
    pub fn hint(&self) -> Option<&LeaderHint> {
        self.hint.as_ref()
    }

    /// Returns every address known: seeds first.
    #[must_use]
    pub fn addrs(&self) -> Vec<Addr> {
        self.nodes.iter().map(|node| node.addr.clone()).collect()
    }

    /// Returns the same knowledge for another client of this cluster.
    pub(crate) fn sibling(&mut self) -> Self {
        let nodes = self.nodes.iter().map(|node| Node { addr: node.addr.clone(), ..*node });
        Self {
            nodes: nodes.collect(),
            id: self.id,
            leader: self.leader.clone(),
            hint: self.hint.clone(),
            term: self.term,
            cursor: self.cursor,
            budget: Budget::default(),
            rng: self.rng.fork(),
        }
    }

    /// Draws dice for one call.
    pub(crate) fn dice(&mut self) -> fastrand::Rng {
        self.rng.fork()
    }

    /// Takes note of what a node said when it let us in. Returns `false`, and learns nothing, if the node
    /// is of another cluster than the first one met: nothing is to be asked there (`wire-spec.md` §8).
    #[must_use]
    pub fn welcomed(&mut self, addr: &Addr, welcome: &Welcome) -> bool {
        if self.id.is_unknown() {
            self.id = welcome.cluster;
        } else if !welcome.cluster.is_unknown() && welcome.cluster != self.id {
            return false;
        }
        let voters = welcome.nodes.iter().take(NODES_MAX);
        self.nodes.retain(|node| {
            node.is_seed || welcome.nodes.iter().any(|(_, addr)| **addr == *node.addr)
        });
        for (_, voter) in voters {
            if self.nodes.iter().all(|node| *node.addr != **voter) {
                let addr = Addr::from(voter.as_str());
                self.nodes.push(Node { addr, is_seed: false, failed_at: None });
            }
        }
        if let Some(node) = self.nodes.iter_mut().find(|node| node.addr == *addr) {
            node.failed_at = None;
        }
        if let Some(hint) = &welcome.leader {
            self.learn(hint);
        }
        true
    }

    /// Takes note of who leads. Returns `false` for a hint of a lower term than one heard before: it
    /// is old, and following it would lead in circles.
    pub fn learn(&mut self, hint: &LeaderHint) -> bool {
        if hint.term < self.term {
            return false;
        }
        self.term = hint.term;
        self.hint = Some(hint.clone());
        if self.leader.as_deref() != Some(hint.addr.as_str()) {
            self.leader = Some(Addr::from(hint.addr.as_str()));
        }
        true
    }

    /// Takes note that a node does not lead, or cannot be reached: whoever is asked next is another.
    pub fn does_not_lead(&mut self, addr: &Addr) {
        if self.leader.as_ref() == Some(addr) {
            self.leader = None;
        }
        // Only the one the round stands at moves it on: ten thousand calls that lose one node at once
        // must not spin the round.
        let count = self.nodes.len().max(1);
        if self.nodes.get(self.cursor).is_some_and(|node| node.addr == *addr) {
            self.cursor = (self.cursor + 1) % count;
        }
    }

    /// Takes note that a node could not be reached, or that its connection broke.
    pub fn failed(&mut self, addr: &Addr, now: Moment) {
        self.does_not_lead(addr);
        if let Some(node) = self.nodes.iter_mut().find(|node| node.addr == *addr) {
            node.failed_at = Some(now);
        }
    }

    /// Puts the addresses in the order in which to try them: `first`, then the round of those that
    /// did not fail lately, then those that did, then `last`.
    #[must_use]
    pub fn order(&self, first: Option<&Addr>, last: Option<&Addr>, now: Moment) -> Vec<Addr> {
        let mut order: Vec<Addr> = Vec::with_capacity(self.nodes.len() + 1);
        order.extend(first.cloned());
        let start = self.cursor.min(self.nodes.len());
        let (before, from) = self.nodes.split_at(start);
        for fails in [false, true] {
            for node in from.iter().chain(before) {
                let is_placed = first == Some(&node.addr) || last == Some(&node.addr);
                if node.fails(now) == fails && !is_placed {
                    order.push(node.addr.clone());
                }
            }
        }
        order.extend(last.filter(|last| first != Some(*last)).cloned());
        order
    }

    /// Counts a call: it earns a part of a repetition.
    pub(crate) fn count_call(&mut self) {
        self.budget.earn(BUDGET_PER_CALL);
    }

    /// Takes one repetition from what was earned; `false` if nothing is left.
    pub(crate) fn may_repeat(&mut self, now: Moment) -> bool {
        self.budget.spend(now)
    }
}

/// A repetition costs so much.
const BUDGET_PER_REPEAT: u64 = 100;

/// What one call earns: repetitions are a fifth of the traffic in the long run.
const BUDGET_PER_CALL: u64 = 20;

/// What one millisecond earns, so that a client of few calls is never short: 100 repetitions a second.
const BUDGET_PER_MS: u64 = 10;

/// What can be saved up, and what there is at first: 1000 repetitions.
const BUDGET_MAX: u64 = 1000 * BUDGET_PER_REPEAT;

/// How much repeating is good for a cluster in trouble. When it is used up, calls pause for longer; they do
/// not fail: only their deadline ends them.
#[derive(Debug)]
struct Budget {
    left: u64,
    at: Moment,
}

impl Default for Budget {
    fn default() -> Self {
        Self { left: BUDGET_MAX, at: Moment(0) }
    }
}

impl Budget {
    fn earn(&mut self, amount: u64) {
        self.left = self.left.saturating_add(amount).min(BUDGET_MAX);
    }

    fn spend(&mut self, now: Moment) -> bool {
        let elapsed_ms = now.0.saturating_sub(self.at.0);
        self.at = self.at.max(now);
        self.earn(elapsed_ms.saturating_mul(BUDGET_PER_MS));
        match self.left.checked_sub(BUDGET_PER_REPEAT) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{DirId, NodeId};

    fn cluster(seeds: &[&str]) -> Cluster {
        Cluster::new(seeds.iter().map(|seed| Addr::from(*seed)), 1)
    }

    fn hint(id: u64, addr: &str, term: u64) -> LeaderHint {
        LeaderHint { id: NodeId(id), addr: addr.into(), term: Term(term) }
    }

    fn order(cluster: &Cluster, now: u64) -> Vec<String> {
        cluster.order(cluster.leader(), None, Moment(now)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn address_that_failed_goes_last_for_a_second() {
        let mut cluster = cluster(&["a", "b", "c", "a"]);
        assert_eq!(order(&cluster, 0), ["a", "b", "c"]);
        cluster.failed(&"a".into(), Moment(100));
        assert_eq!(order(&cluster, 100), ["b", "c", "a"]);
        cluster.failed(&"b".into(), Moment(200));
        assert_eq!(order(&cluster, 1099), ["c", "a", "b"]);
        assert_eq!(order(&cluster, 1250), ["c", "a", "b"], "the round goes on from where it stood");
    }

    #[test]
    fn node_that_fails_many_calls_at_once_moves_the_round_once() {
        let mut cluster = cluster(&["a", "b", "c"]);
        for _ in 0..10_000 {
            cluster.failed(&"a".into(), Moment(100));
        }
        assert_eq!(order(&cluster, 5000), ["b", "c", "a"]);
    }

    #[test]
    fn hint_of_a_lower_term_is_ignored() {
        let mut cluster = cluster(&["a"]);
        assert!(cluster.learn(&hint(2, "b", 7)));
        assert!(!cluster.learn(&hint(1, "a", 6)));
        assert_eq!(cluster.leader().map(|addr| &**addr), Some("b"));
        cluster.failed(&"b".into(), Moment(5));
        assert_eq!(cluster.leader(), None);
        assert!(!cluster.learn(&hint(1, "a", 6)), "the term outlives the leader");
        assert!(cluster.learn(&hint(3, "c", 8)));
    }

    #[test]
    fn welcome_adds_voters_and_forgets_former_ones_but_no_seed() {
        let mut cluster = cluster(&["a"]);
        let mut welcome = Welcome {
            version: 1,
            cluster: ClusterId([7; 16]),
            node: NodeId(1),
            dir: DirId::default(),
            leader: None,
            nodes: vec![(NodeId(1), "b".into()), (NodeId(2), "c".into())],
            frame_bytes_max: 1,
            in_flight_max: 1,
        };
        assert!(cluster.welcomed(&"a".into(), &welcome));
        assert_eq!(order(&cluster, 0), ["a", "b", "c"]);
        assert_eq!(cluster.id(), ClusterId([7; 16]));
        welcome.nodes = vec![(NodeId(2), "c".into()), (NodeId(3), "d".into())];
        welcome.cluster = ClusterId::default();
        assert!(cluster.welcomed(&"a".into(), &welcome), "a node may not know its cluster yet");
        assert_eq!(order(&cluster, 0), ["a", "c", "d"]);
        welcome.nodes = vec![(NodeId(9), "z".into())];
        welcome.cluster = ClusterId([8; 16]);
        assert!(!cluster.welcomed(&"a".into(), &welcome), "the first cluster met is the one meant");
        assert_eq!(order(&cluster, 0), ["a", "c", "d"]);
        assert_eq!(cluster.id(), ClusterId([7; 16]));
    }

    #[test]
    fn budget_used_up_comes_back_with_time_and_calls() {
        let mut budget = Budget::default();
        assert!((0..1000).all(|_| budget.spend(Moment(0))));
        assert!(!budget.spend(Moment(9)));
        assert!(budget.spend(Moment(10)));
        assert!(!budget.spend(Moment(10)));
        (0..5).for_each(|_| budget.earn(BUDGET_PER_CALL));
        assert!(budget.spend(Moment(10)));
    }
}

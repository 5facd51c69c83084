//! Asks every node again and again who leads, behind all faults of the network, and remembers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_std::task;
use raftq::client::client::{CallOptions, Client};
use raftq::wire::message::{ClusterStatus, Reply, Request};

/// How often a node is asked.
const PAUSE: Duration = Duration::from_millis(150);

/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_millis(700);

/// A time that a node led for, as far as it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reign {
    /// The term.
    pub term: u64,
    /// The leader.
    pub node: usize,
    /// First seen.
    pub from_ms: u64,
    /// Last seen.
    pub to_ms: u64,
}

/// What was seen.
#[derive(Debug)]
pub struct Watch {
    began: Instant,
    over: AtomicBool,
    /// By term and node.
    reigns: Mutex<BTreeMap<(u64, usize), Reign>>,
}

impl Watch {
    /// Makes one that has seen nothing.
    pub fn new(began: Instant) -> Self {
        Self { began, over: AtomicBool::new(false), reigns: Mutex::default() }
    }

    fn reigns_now(&self) -> MutexGuard<'_, BTreeMap<(u64, usize), Reign>> {
        self.reigns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Ends it.
    pub fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    /// Returns who led last, in the highest term.
    pub fn leader(&self) -> Option<usize> {
        self.reigns_now().last_key_value().map(|((_, node), _)| *node)
    }

    /// Returns all that was seen, by term.
    pub fn reigns(&self) -> Vec<Reign> {
        self.reigns_now().values().copied().collect()
    }

    /// Finds terms with more than one leader.
    pub fn faults(&self) -> Vec<String> {
        let reigns = self.reigns();
        reigns
            .windows(2)
            .filter_map(|pair| match pair {
                [one, other] if one.term == other.term => Some(format!(
                    "term {} has two leaders: node {} and node {}",
                    one.term, one.node, other.node
                )),
                _ => None,
            })
            .collect()
    }

    /// Watches one node until the end.
    pub async fn run(self: Arc<Self>, node: usize, addr: String) {
        let builder = Client::builder().seeds([addr.clone()]).name("nemesis-watch");
        let Ok(client) = builder.connect_timeout(PATIENCE).build() else { return };
        while !self.over.load(Ordering::SeqCst) {
            let options = CallOptions::timeout(PATIENCE).node(addr.as_str());
            let asked = client.call(Request::GetClusterStatus { local: true }, options).await;
            if let Ok(Reply::ClusterStatus(status)) = asked {
                self.saw(node, &status);
            }
            task::sleep(PAUSE).await;
        }
        client.close().await;
    }

    fn saw(&self, node: usize, status: &ClusterStatus) {
        let own = status.nodes.iter().find(|one| one.id.0 == node as u64);
        if own.is_none_or(|own| own.role != "leader") {
            return;
        }
        let now_ms = self.now_ms();
        let fresh = Reign { term: status.term.0, node, from_ms: now_ms, to_ms: now_ms };
        self.reigns_now().entry((status.term.0, node)).or_insert(fresh).to_ms = now_ms;
    }
}

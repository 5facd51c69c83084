//! Whom a client can ask: the addresses it was given and those it was told, who leads, and who fell silent.

use std::collections::BTreeMap;

use crate::types::{ClusterId, Term};
use crate::wire::message::{LeaderHint, Welcome};

/// Addresses kept at most; what is told beyond is not learnt. A cluster has 7 nodes at most.
pub const ADDRS_MAX: usize = 64;

/// For how long an address that failed is asked after all others, and a hint to it is not followed, in ms.
/// About the time an election takes: a node that comes back is found again at the next round at the latest.
pub const SUSPECT_MS: u64 = 1_000;

/// The addresses of one cluster. Pure: times come in.
#[derive(Clone, Debug)]
pub struct Directory {
    /// The seeds, then what a `WELCOME` named, in the order learnt.
    addrs: Vec<String>,
    cluster: ClusterId,
    leader: Option<String>,
    /// The highest term of any hint taken; hints below are older than what is known.
    term: Term,
    /// The one that answered last.
    last: Option<String>,
    /// Until when each is suspect.
    suspects: BTreeMap<String, u64>,
}

impl Directory {
    /// Begins with these addresses; doubles and what is beyond [`ADDRS_MAX`] are left out.
    #[must_use]
    pub fn new(seeds: impl IntoIterator<Item = String>) -> Self {
        let mut this = Self {
            addrs: Vec::new(),
            cluster: ClusterId::default(),
            leader: None,
            term: Term(0),
            last: None,
            suspects: BTreeMap::new(),
        };
        seeds.into_iter().for_each(|seed| this.add(&seed));
        this
    }

    fn add(&mut self, addr: &str) {
        let is_new = !self.addrs.iter().any(|known| known == addr);
        if is_new && !addr.is_empty() && self.addrs.len() < ADDRS_MAX {
            self.addrs.push(addr.into());
        }
    }

    /// Returns every address known.
    #[must_use]
    pub fn addrs(&self) -> &[String] {
        &self.addrs
    }

    /// Returns the cluster, unknown before the first node of it that knew.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Returns the address of the leader, where one is known.
    #[must_use]
    pub fn leader(&self) -> Option<&str> {
        self.leader.as_deref()
    }

    /// Takes in what a node says in its greeting.
    pub fn learn(&mut self, welcome: &Welcome) {
        if self.cluster.is_unknown() {
            self.cluster = welcome.cluster;
        }
        for (_, addr) in &welcome.nodes {
            self.add(addr);
        }
        if let Some(hint) = &welcome.leader {
            self.hint(hint);
        }
    }

    /// Takes a hint, unless it is older than one taken before; tells whether it was taken.
    pub fn hint(&mut self, hint: &LeaderHint) -> bool {
        if hint.term < self.term || hint.addr.is_empty() {
            return false;
        }
        self.term = hint.term;
        self.add(&hint.addr);
        self.leader = Some(hint.addr.clone());
        true
    }

    /// Notes that a node says it does not lead: nothing is believed of it until a hint says so again.
    pub fn does_not_lead(&mut self, addr: &str) {
        if self.leader.as_deref() == Some(addr) {
            self.leader = None;
        }
    }

    /// Notes that a node could not be asked, or did not answer.
    pub fn failed(&mut self, addr: &str, now_ms: u64) {
        self.does_not_lead(addr);
        if self.last.as_deref() == Some(addr) {
            self.last = None;
        }
        self.suspects.retain(|_, until_ms| *until_ms > now_ms);
        if self.suspects.len() < ADDRS_MAX {
            self.suspects.insert(addr.into(), now_ms.saturating_add(SUSPECT_MS));
        }
    }

    /// Notes that a node could be connected.
    pub fn reached(&mut self, addr: &str) {
        self.suspects.remove(addr);
    }

    /// Notes that a node answered.
    pub fn answered(&mut self, addr: &str) {
        self.suspects.remove(addr);
        if self.last.as_deref() != Some(addr) {
            self.last = Some(addr.into());
        }
    }

    /// Notes that a node did what only a leader does.
    pub fn leads(&mut self, addr: &str) {
        if self.leader.is_none() {
            self.leader = Some(addr.into());
        }
    }

    /// Tells whether a node failed a moment ago.
    #[must_use]
    pub fn is_suspect(&self, addr: &str, now_ms: u64) -> bool {
        self.suspects.get(addr).is_some_and(|until_ms| *until_ms > now_ms)
    }

    /// Returns whom to ask, best first: the leader, the one that answered last, the others in the order
    /// learnt, and then in the same order those that failed a moment ago.
    #[must_use]
    pub fn order(&self, now_ms: u64) -> Vec<&str> {
        let mut order: Vec<&str> = Vec::with_capacity(self.addrs.len());
        let favourites = [self.leader.as_deref(), self.last.as_deref()].into_iter().flatten();
        for addr in favourites.chain(self.addrs.iter().map(String::as_str)) {
            if !order.contains(&addr) {
                order.push(addr);
            }
        }
        order.sort_by_key(|addr| self.is_suspect(addr, now_ms));
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NodeId;

    fn hint(addr: &str, term: u64) -> LeaderHint {
        LeaderHint { id: NodeId(1), addr: addr.into(), term: Term(term) }
    }

    #[test]
    fn hint_of_lower_term_is_ignored() {
        let mut directory = Directory::new(["a:1".to_owned(), "b:1".to_owned()]);
        assert!(directory.hint(&hint("b:1", 5)));
        assert!(!directory.hint(&hint("a:1", 4)));
        assert_eq!(directory.leader(), Some("b:1"));
    }

    #[test]
    fn leader_comes_first_and_suspects_last() {
        let mut directory = Directory::new(["a:1", "b:1", "c:1"].map(String::from));
        directory.hint(&hint("c:1", 1));
        directory.failed("a:1", 0);
        assert_eq!(directory.order(1), ["c:1", "b:1", "a:1"]);
        directory.failed("c:1", 0);
        assert_eq!(directory.order(1), ["b:1", "a:1", "c:1"]);
        assert_eq!(directory.order(SUSPECT_MS), ["a:1", "b:1", "c:1"]);
    }

    #[test]
    fn addresses_told_are_learnt_once_and_bounded() {
        let mut directory = Directory::new((0..100).map(|n| format!("h{}:1", n % 80)));
        assert_eq!(directory.addrs().len(), ADDRS_MAX);
        directory.hint(&hint("x:1", 1));
        assert_eq!(directory.addrs().len(), ADDRS_MAX);
        assert_eq!(directory.order(0)[0], "x:1");
    }
}

//! The network between the nodes: which links carry what, by namespaces or by proxies.

use std::collections::BTreeMap;

use crate::netns::Netns;
use crate::proxy::Proxies;

/// A direction between two nodes; 0 is the clients.
pub type Pair = (usize, usize);

/// What one direction of a link does to what it carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Nothing arrives.
    pub blocked: bool,
    /// Everything arrives so much later.
    pub delay_ms: u64,
    /// And up to so much more.
    pub jitter_ms: u64,
    /// Of a hundred packets so many are lost.
    pub loss_percent: u32,
    /// Bytes a second; 0 is no limit.
    pub bytes_s: u64,
}

/// The links that are not well.
pub type Links = BTreeMap<Pair, Link>;

/// The network of one cluster.
#[derive(Debug)]
pub enum Net {
    /// A namespace a node.
    Netns(Netns),
    /// A proxy a node.
    Proxy(Proxies),
}

impl Net {
    /// Returns the word for `--net`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Netns(_) => "netns",
            Self::Proxy(_) => "proxy",
        }
    }

    /// Makes these links ill and all others well.
    ///
    /// # Errors
    /// What the system said.
    pub fn set(&self, links: &Links) -> Result<(), String> {
        match self {
            Self::Netns(netns) => netns.set(links),
            Self::Proxy(proxies) => {
                proxies.set(links);
                Ok(())
            }
        }
    }

    /// Tears every connection between nodes.
    ///
    /// # Errors
    /// What the system said.
    pub fn reset(&self) -> Result<(), String> {
        match self {
            Self::Netns(netns) => netns.reset(),
            Self::Proxy(proxies) => {
                proxies.reset();
                Ok(())
            }
        }
    }

    /// Returns where everybody reaches a node.
    pub fn addr(&self, node: usize) -> String {
        match self {
            Self::Netns(netns) => netns.addr(node),
            Self::Proxy(proxies) => proxies.addr(node),
        }
    }

    /// Returns where a node listens, and where nothing comes between it and a watcher.
    pub fn listen(&self, node: usize) -> String {
        match self {
            Self::Netns(netns) => netns.addr(node),
            Self::Proxy(proxies) => proxies.target(node),
        }
    }

    /// Returns the words before a node's own command.
    pub fn prefix(&self, node: usize) -> Vec<String> {
        match self {
            Self::Netns(netns) => netns.prefix(node),
            Self::Proxy(_) => Vec::new(),
        }
    }
}

/// Returns the links between two groups, both ways.
pub fn between(one: &[usize], other: &[usize]) -> impl Iterator<Item = Pair> {
    let pairs: Vec<Pair> = one
        .iter()
        .flat_map(|from| other.iter().map(move |to| (*from, *to)))
        .filter(|(from, to)| from != to)
        .flat_map(|(from, to)| [(from, to), (to, from)])
        .collect();
    pairs.into_iter()
}

/// Returns every link between nodes.
pub fn all(nodes: usize) -> Vec<Pair> {
    (1..=nodes)
        .flat_map(|from| (1..=nodes).map(move |to| (from, to)))
        .filter(|(from, to)| from != to)
        .collect()
}

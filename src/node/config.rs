//! What a node is told at its start, checked before anything is touched.

use std::collections::BTreeSet;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use crate::jobs::command::Limits;
use crate::jobs::job::WORKER_SLOTS_MAX;
use crate::jobs::options::Tags;
use crate::types::NodeId;

/// Voters of one cluster, at most: more cost more and survive little more.
pub const VOTERS_MAX: usize = 7;

/// A node's settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub id: NodeId,
    /// Where it listens, `HOST:PORT`.
    pub listen: String,
    /// Every voter and where it is reached, this node included.
    pub peers: Vec<(NodeId, String)>,
    /// Its data directory, made if missing.
    pub data: PathBuf,
    /// Damaged data is set aside, and the node heals from its peers.
    pub heal: bool,
    /// How many commands its built-in worker runs at once; 0: it has none.
    pub slots: u32,
    /// What its built-in worker has, for jobs that ask for it.
    pub tags: Tags,
    /// It may listen on an address that others reach, though it runs commands for anyone.
    pub insecure: bool,
    /// Log kept on disk behind a snapshot, in bytes.
    pub log_keep_bytes: u64,
    /// Size of one file of the log, in bytes.
    pub segment_bytes: u64,
    /// Log written since the last snapshot that makes the next one due, in bytes.
    pub snapshot_bytes_min: u64,
    /// Changes kept in memory for those who watch, in bytes.
    pub history_bytes_max: u64,
    /// Limits that the first leader proposes for the whole cluster.
    pub limits: Limits,
    /// How long running commands may still run after SIGTERM.
    pub grace: Duration,
}

/// The others reach a node at another address than the one it listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Elsewhere {
    /// It listens on every address of its machine and at the right port: most likely as it should be.
    Wildcard(String),
    /// Something in between has to bring them together.
    Other(String),
}

/// The smallest file of the log.
pub const SEGMENT_BYTES_MIN: u64 = 64 << 10;

/// The largest file of the log.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;

impl Config {
    /// Checks everything that can be checked without touching the world but for name look-ups.
    ///
    /// # Errors
    /// What is wrong and what to do, in one sentence for the one who typed it.
    pub fn check(&self) -> Result<(), String> {
        if self.id == NodeId(0) {
            return Err("--id 0: a node's id is 1 or more".into());
        }
        self.check_peers()?;
        let listen = resolve(&self.listen).map_err(|why| format!("--listen {why}"))?;
        if !listen.iter().all(|address| address.ip().is_loopback()) && !self.insecure {
            return Err(format!(
                "--listen {}: others could reach this node, and it runs commands for anyone who \
                 connects: there is no authentication yet. Listen on 127.0.0.1, or say --insecure if \
                 the network is yours alone",
                self.listen
            ));
        }
        if self.slots > WORKER_SLOTS_MAX {
            return Err(format!("--slots {}: at most {WORKER_SLOTS_MAX}", self.slots));
        }
        if let Some(fault) = self.tags.fault() {
            return Err(format!("--tag: {fault}"));
        }
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes) {
            return Err(format!(
                "--segment {}: between {SEGMENT_BYTES_MIN} and {SEGMENT_BYTES_MAX} bytes",
                self.segment_bytes
            ));
        }
        if self.limits.resident_bytes_max < (1 << 20) {
            return Err("--resident-max: at least 1MiB, or no job fits".into());
        }
        Ok(())
    }

    /// Says how the others reach this node, where that is not simply the address it listens on. Names
    /// are looked up; one that cannot be is no reason to say anything here.
    #[must_use]
    pub fn reached_elsewhere(&self) -> Option<Elsewhere> {
        let own = self.peers.iter().find(|(id, _)| *id == self.id).map(|(_, address)| address)?;
        let listens = resolve(&self.listen).ok()?;
        let reached: BTreeSet<SocketAddr> = resolve(own).ok()?.into_iter().collect();
        if *own == self.listen || listens.iter().any(|address| reached.contains(address)) {
            return None;
        }
        let all_of_it = |address: &SocketAddr| {
            address.ip().is_unspecified() && reached.iter().any(|own| own.port() == address.port())
        };
        let text = format!(
            "this node listens on {} (--listen), and the others and all clients are told to reach it at \
             {own} (node {} in --peers)",
            self.listen, self.id
        );
        if listens.iter().any(all_of_it) {
            return Some(Elsewhere::Wildcard(text));
        }
        let text = format!(
            "{text}: the two differ. That is right behind a port forwarding or NAT; otherwise nobody \
             reaches this node, so make them the same"
        );
        Some(Elsewhere::Other(text))
    }

    fn check_peers(&self) -> Result<(), String> {
        if self.peers.len() > VOTERS_MAX {
            return Err(format!("--peers: {} nodes; at most {VOTERS_MAX}", self.peers.len()));
        }
        let mut ids = BTreeSet::new();
        let mut addresses = BTreeSet::new();
        for (id, address) in &self.peers {
            if *id == NodeId(0) {
                return Err("--peers: a node's id is 1 or more".into());
            }
            if !ids.insert(*id) {
                return Err(format!("--peers: node {id} stands in it twice"));
            }
            if !addresses.insert(address.as_str()) {
                return Err(format!("--peers: {address} stands in it twice"));
            }
            split(address).map_err(|why| format!("--peers: node {id}: {why}"))?;
        }
        if !ids.contains(&self.id) {
            return Err(format!(
                "--peers: this node ({}) is not in it; name all nodes, this one too, such as \
                 {}={}",
                self.id, self.id, self.listen
            ));
        }
        Ok(())
    }

    /// Returns the peers in order of id, as they are compared in handshakes.
    #[must_use]
    pub fn peers_sorted(&self) -> Vec<(NodeId, String)> {
        let mut peers = self.peers.clone();
        peers.sort();
        peers
    }

    /// Returns the text of the peer list that handshakes compare: `1=HOST:PORT,2=...`, by id.
    #[must_use]
    pub fn peers_text(&self) -> String {
        peers_text(&self.peers_sorted())
    }
}

/// Returns nodes as one text, `1=HOST:PORT,...`.
pub(crate) fn peers_text(peers: &[(NodeId, String)]) -> String {
    let peers: Vec<String> = peers.iter().map(|(id, address)| format!("{id}={address}")).collect();
    peers.join(",")
}

fn split(address: &str) -> Result<(), String> {
    let fault = || format!("{address:?} is no HOST:PORT, such as 127.0.0.1:7101");
    let (host, port) = address.rsplit_once(':').ok_or_else(fault)?;
    if host.is_empty() || !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return Err(fault());
    }
    Ok(())
}

fn resolve(address: &str) -> Result<Vec<SocketAddr>, String> {
    split(address)?;
    let found: Vec<SocketAddr> = address
        .to_socket_addrs()
        .map_err(|error| format!("{address}: {error}; name an address of this machine"))?
        .collect();
    if found.is_empty() {
        return Err(format!("{address}: no such address; name one of this machine"));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(peers: &[(u64, &str)]) -> Config {
        Config {
            id: NodeId(1),
            listen: "127.0.0.1:7101".into(),
            peers: peers.iter().map(|(id, addr)| (NodeId(*id), (*addr).into())).collect(),
            data: "data".into(),
            heal: false,
            slots: 4,
            tags: Tags::default(),
            insecure: false,
            log_keep_bytes: 64 << 20,
            segment_bytes: 16 << 20,
            snapshot_bytes_min: 64 << 20,
            history_bytes_max: 32 << 20,
            limits: Limits::default(),
            grace: Duration::from_secs(10),
        }
    }

    fn fault(config: &Config) -> String {
        config.check().unwrap_err()
    }

    #[test]
    fn a_good_configuration_passes() {
        assert_eq!(config(&[(1, "127.0.0.1:7101"), (2, "127.0.0.1:7102")]).check(), Ok(()));
    }

    #[test]
    fn each_fault_of_a_peer_list_is_named() {
        assert!(fault(&config(&[(2, "127.0.0.1:7102")])).contains("this node (1) is not in it"));
        let twice = config(&[(1, "127.0.0.1:7101"), (1, "127.0.0.1:7102")]);
        assert!(fault(&twice).contains("node 1 stands in it twice"));
        let same = config(&[(1, "127.0.0.1:7101"), (2, "127.0.0.1:7101")]);
        assert!(fault(&same).contains("127.0.0.1:7101 stands in it twice"));
        assert!(fault(&config(&[(1, "nowhere")])).contains("no HOST:PORT"));
        assert!(fault(&config(&[(1, "127.0.0.1:0")])).contains("no HOST:PORT"));
        assert!(fault(&config(&[(0, "127.0.0.1:1")])).contains("1 or more"));
    }

    #[test]
    fn an_open_address_needs_a_word() {
        let mut open = config(&[(1, "127.0.0.1:7101")]);
        open.listen = "0.0.0.0:7101".into();
        assert!(fault(&open).contains("--insecure"));
        open.insecure = true;
        assert_eq!(open.check(), Ok(()));
    }

    #[test]
    fn an_address_that_differs_from_the_peer_list_is_named() {
        let same = config(&[(1, "127.0.0.1:7101"), (2, "127.0.0.1:7102")]);
        assert_eq!(same.reached_elsewhere(), None);
        let by_name = Config { listen: "localhost:7101".into(), ..same.clone() };
        assert_eq!(by_name.reached_elsewhere(), None, "the same address by another name");
        let other = Config { listen: "127.0.0.1:7109".into(), ..same.clone() };
        let Some(Elsewhere::Other(text)) = other.reached_elsewhere() else { panic!("not told") };
        for word in ["127.0.0.1:7109", "127.0.0.1:7101", "--listen", "--peers"] {
            assert!(text.contains(word), "{word}: {text}");
        }
        let all = Config { listen: "0.0.0.0:7101".into(), ..same.clone() };
        assert!(matches!(all.reached_elsewhere(), Some(Elsewhere::Wildcard(_))));
        let port = Config { listen: "0.0.0.0:7109".into(), ..same };
        assert!(matches!(port.reached_elsewhere(), Some(Elsewhere::Other(_))));
    }
}

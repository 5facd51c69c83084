//! Who is welcome: the rules of the handshake, for both ends, and the words of a refusal.

use crate::net::shared::NetConfig;
use crate::raft::message::Configuration;
use crate::replica::view::View;
use crate::types::{DirId, NodeId};
use crate::wire::frame::BODY_BYTES_MAX;
use crate::wire::hello::{Hello, PeerHello, Role, Welcome};
use crate::wire::hello::{IN_FLIGHT_MAX, Reject, VERSION};
use crate::wire::message::Code;

/// A caller that is welcome: from here on its role says which frames it may send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// The version both speak.
    pub version: u32,
    /// What it came for.
    pub entry: Entry,
    /// What it calls itself, for logs.
    pub agent: String,
}

/// Which of the three kinds of frames a guest may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Requests.
    Client,
    /// Messages between nodes.
    Raft {
        /// Who.
        node: NodeId,
        /// Its data directory.
        dir: DirId,
    },
    /// A snapshot.
    Bulk {
        /// Who.
        node: NodeId,
        /// Its data directory.
        dir: DirId,
    },
}

/// Checks a caller's first frame against what this node is.
///
/// # Errors
/// [`Reject`] at the first rule that is broken: versions, cluster, then for nodes the node meant,
/// the peer lists, the voter and its data directory.
pub fn check(hello: &Hello, config: &NetConfig, view: &View) -> Result<Guest, Reject> {
    let version = hello.version().ok_or_else(|| {
        precondition(format!(
            "this node speaks version {VERSION} of the protocol, and the caller {} to {}: upgrade the \
             older of the two",
            hello.version_min, hello.version_max
        ))
    })?;
    let cluster = view.configuration.cluster;
    if !hello.cluster.is_unknown() && !cluster.is_unknown() && hello.cluster != cluster {
        return Err(precondition(format!(
            "node {} belongs to cluster {cluster}, and the caller means cluster {}: check the \
             caller's --addrs or --peers, and its --data directory if it is a node",
            config.node, hello.cluster
        )));
    }
    let entry = match (hello.role, &hello.peer) {
        (Role::Client, _) => Entry::Client,
        (Role::Raft | Role::Bulk, None) => {
            return Err(Reject::new(
                Code::InvalidArgument,
                "a node's hello must say which node it is",
            ));
        }
        (Role::Raft, Some(peer)) => {
            check_peer(peer, config, &view.configuration)?;
            Entry::Raft { node: peer.node, dir: peer.dir }
        }
        (Role::Bulk, Some(peer)) => {
            check_peer(peer, config, &view.configuration)?;
            Entry::Bulk { node: peer.node, dir: peer.dir }
        }
    };
    let agent = hello.agent.chars().filter(|c| !c.is_control()).collect();
    Ok(Guest { version, entry, agent })
}

fn precondition(message: String) -> Reject {
    Reject::new(Code::FailedPrecondition, message)
}

fn check_peer(peer: &PeerHello, config: &NetConfig, known: &Configuration) -> Result<(), Reject> {
    let me = config.node;
    if peer.expects != me {
        return Err(precondition(format!(
            "this is node {me}, and node {} means to reach node {}: an address in its --peers leads \
             to the wrong node",
            peer.node, peer.expects
        )));
    }
    if peer.node == me {
        return Err(precondition(format!(
            "the caller says it is node {me}, and so am I: two nodes were started with --id {me}"
        )));
    }
    if peer.peers_crc != config.peers_crc {
        return Err(precondition(format!(
            "the peer lists differ: node {me} has {} (checksum {:08x}), node {} has a list with \
             checksum {:08x}; start every node with the same --peers",
            peer_list(&config.peers),
            config.peers_crc,
            peer.node,
            peer.peers_crc
        )));
    }
    check_voter(peer.node, peer.dir, config, known)
}

/// Checks that a node is a voter and comes with the directory the cluster has recorded for it.
fn check_voter(
    node: NodeId,
    dir: DirId,
    config: &NetConfig,
    known: &Configuration,
) -> Result<(), Reject> {
    let voter = known.voters.iter().find(|voter| voter.id == node);
    let is_listed = config.peers.iter().any(|(id, _)| *id == node);
    if !is_listed || (voter.is_none() && !known.voters.is_empty()) {
        return Err(precondition(format!(
            "node {node} is no voter of this cluster, whose nodes are {}; nodes cannot be added yet",
            peer_list(&config.peers)
        )));
    }
    match voter.and_then(|voter| voter.dir) {
        Some(recorded) if recorded != dir => Err(precondition(format!(
            "node {node} comes with data directory {dir}, and the cluster has recorded {recorded} for \
             it: its directory was emptied or replaced, so it has forgotten its votes and may not \
             vote; start it with the directory it had"
        ))),
        Some(_) | None => Ok(()),
    }
}

/// Checks what the node at the other end of a dialled connection says of itself.
///
/// # Errors
/// Why the link must not be used, in words for the log.
pub fn check_welcome(
    welcome: &Welcome,
    expected: NodeId,
    config: &NetConfig,
    view: &View,
) -> Result<(), String> {
    if welcome.node != expected {
        return Err(format!(
            "the address leads to node {} instead of node {expected}: correct --peers",
            welcome.node
        ));
    }
    if welcome.version != VERSION {
        let theirs = welcome.version;
        return Err(format!(
            "it chose version {theirs} of the protocol, and this node speaks {VERSION}"
        ));
    }
    let cluster = view.configuration.cluster;
    if !cluster.is_unknown() && !welcome.cluster.is_unknown() && cluster != welcome.cluster {
        return Err(format!(
            "it belongs to cluster {}, and this node to {cluster}: check --peers and --data",
            welcome.cluster
        ));
    }
    check_voter(expected, welcome.dir, config, &view.configuration).map_err(|no| no.message)
}

/// Makes this node's first frame to another node.
#[must_use]
pub fn hello(config: &NetConfig, view: &View, role: Role, expects: NodeId) -> Hello {
    Hello {
        version_min: VERSION,
        version_max: VERSION,
        cluster: view.configuration.cluster,
        role,
        agent: concat!("raftq-node/", env!("CARGO_PKG_VERSION")).into(),
        peer: Some(PeerHello {
            node: config.node,
            dir: config.dir,
            expects,
            peers_crc: config.peers_crc,
        }),
    }
}

/// Makes the answer to a caller that is welcome.
#[must_use]
pub fn welcome(config: &NetConfig, view: &View, version: u32) -> Welcome {
    Welcome {
        version,
        cluster: view.configuration.cluster,
        node: config.node,
        dir: config.dir,
        leader: view.leader.clone(),
        nodes: config.peers.clone(),
        frame_bytes_max: u32::try_from(BODY_BYTES_MAX).unwrap_or(u32::MAX),
        in_flight_max: IN_FLIGHT_MAX,
    }
}

/// Writes a peer list as `--peers` takes it.
#[must_use]
pub fn peer_list(peers: &[(NodeId, String)]) -> String {
    let items: Vec<String> = peers.iter().map(|(id, addr)| format!("{id}={addr}")).collect();
    items.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::shared::Patience;
    use crate::raft::message::Voter;
    use crate::types::{ClusterId, Term};

    fn config() -> NetConfig {
        NetConfig {
            node: NodeId(1),
            dir: DirId([1; 16]),
            listen: "127.0.0.1:0".into(),
            peers: vec![(NodeId(1), "a:1".into()), (NodeId(2), "b:2".into())],
            peers_crc: 7,
            connections_max: 10,
            patience: Patience::default(),
        }
    }

    fn view(cluster: ClusterId, dir_of_2: Option<DirId>) -> View {
        let voter = |id, dir| Voter { id: NodeId(id), addr: String::new(), dir };
        View {
            node: NodeId(1),
            leads: false,
            term: Term(1),
            leader: None,
            configuration: Configuration {
                cluster,
                voters: vec![voter(1, None), voter(2, dir_of_2)],
            },
            ready: false,
            healing: false,
            stopping: false,
        }
    }

    fn from_node_2() -> Hello {
        let mut hello = hello(&config(), &view(ClusterId::default(), None), Role::Raft, NodeId(1));
        hello.peer = Some(PeerHello {
            node: NodeId(2),
            dir: DirId([2; 16]),
            expects: NodeId(1),
            peers_crc: 7,
        });
        hello
    }

    fn refusal(hello: &Hello, view: &View) -> String {
        check(hello, &config(), view).expect_err("must be refused").message
    }

    #[test]
    fn peer_of_the_same_cluster_and_list_is_welcome() {
        let guest =
            check(&from_node_2(), &config(), &view(ClusterId([9; 16]), Some(DirId([2; 16]))));
        let entry = Entry::Raft { node: NodeId(2), dir: DirId([2; 16]) };
        assert_eq!(guest.map(|guest| guest.entry), Ok(entry));
    }

    #[test]
    fn each_broken_rule_is_named_with_what_to_do() {
        let plain = view(ClusterId::default(), None);
        let peer = |change: fn(&mut PeerHello)| {
            let mut hello = from_node_2();
            change(hello.peer.as_mut().expect("it is a node's"));
            hello
        };
        assert!(
            refusal(&peer(|p| p.expects = NodeId(3)), &plain).contains("means to reach node 3")
        );
        assert!(refusal(&peer(|p| p.node = NodeId(1)), &plain).contains("--id 1"));
        assert!(refusal(&peer(|p| p.node = NodeId(9)), &plain).contains("no voter"));
        let differs = refusal(&peer(|p| p.peers_crc = 0xAB), &plain);
        assert!(
            differs.contains("1=a:1,2=b:2")
                && differs.contains("00000007")
                && differs.contains("000000ab")
        );
        let forgot = refusal(&from_node_2(), &view(ClusterId::default(), Some(DirId([8; 16]))));
        assert!(forgot.contains("forgotten its votes"), "{forgot}");
    }

    #[test]
    fn foreign_cluster_is_refused_only_when_both_are_known() {
        let mut hello = from_node_2();
        hello.cluster = ClusterId([5; 16]);
        assert!(check(&hello, &config(), &view(ClusterId::default(), None)).is_ok());
        assert!(check(&hello, &config(), &view(ClusterId([5; 16]), None)).is_ok());
        assert!(refusal(&hello, &view(ClusterId([6; 16]), None)).contains("belongs to cluster"));
    }

    #[test]
    fn versions_without_overlap_are_refused() {
        let mut hello = from_node_2();
        (hello.version_min, hello.version_max) = (VERSION + 1, VERSION + 2);
        assert!(refusal(&hello, &view(ClusterId::default(), None)).contains("upgrade"));
        (hello.version_min, hello.version_max) = (0, VERSION + 9);
        let guest = check(&hello, &config(), &view(ClusterId::default(), None));
        assert_eq!(guest.map(|guest| guest.version), Ok(VERSION));
    }

    #[test]
    fn node_without_its_part_of_the_hello_is_refused() {
        let mut hello = from_node_2();
        hello.peer = None;
        assert!(refusal(&hello, &view(ClusterId::default(), None)).contains("which node"));
    }

    #[test]
    fn welcome_of_another_node_or_directory_is_not_used() {
        let recorded = view(ClusterId::default(), Some(DirId([2; 16])));
        let mut theirs = welcome(&config(), &recorded, VERSION);
        theirs.node = NodeId(2);
        theirs.dir = DirId([2; 16]);
        assert_eq!(check_welcome(&theirs, NodeId(2), &config(), &recorded), Ok(()));
        assert!(check_welcome(&theirs, NodeId(1), &config(), &recorded).is_err());
        theirs.dir = DirId([3; 16]);
        assert!(check_welcome(&theirs, NodeId(2), &config(), &recorded).is_err());
    }
}

//! The cluster as this replica sees it.

use crate::raft::core::Role;
use crate::replica::core::Replica;
use crate::replica::view::Look;
use crate::types::{Index, NodeId};
use crate::wire::message::{ClusterStatus, NodeStatus};

impl<W> Replica<W> {
    /// Shows the cluster: of a leader, what it knows of everybody; of another node, what it knows of
    /// itself and who it thinks leads.
    #[must_use]
    pub fn cluster_status(&self) -> ClusterStatus {
        let status = self.raft.status();
        let leads = status.role == Role::Leader;
        let own = self.config.raft.id;
        let is_alive = |id: NodeId| {
            id == own || status.peers.iter().any(|peer| peer.id == id && peer.is_alive)
        };
        let configuration = self.raft.configuration();
        let alive: Vec<NodeId> =
            configuration.voters.iter().map(|voter| voter.id).filter(|id| is_alive(*id)).collect();
        let digest_index = if leads { self.common_digest(&alive) } else { self.newest_digest() };
        let nodes = configuration
            .voters
            .iter()
            .map(|voter| {
                let peer = status.peers.iter().find(|peer| peer.id == voter.id);
                let role = if voter.id == own {
                    match status.role {
                        _ if status.healing.is_some() => "healing",
                        Role::Leader => "leader",
                        Role::Follower => "follower",
                        Role::PreCandidate | Role::Candidate => "candidate",
                    }
                } else if peer.is_some_and(|peer| peer.is_healing) {
                    "healing"
                } else if leads {
                    "follower"
                } else if status.leader == Some(voter.id) {
                    "leader"
                } else if status.leader.is_some() {
                    "follower"
                } else {
                    "unknown"
                };
                NodeStatus {
                    id: voter.id,
                    addr: voter.addr.clone(),
                    role: role.into(),
                    is_alive: is_alive(voter.id),
                    match_index: if voter.id == own {
                        status.durable_index
                    } else {
                        peer.map_or(Index(0), |peer| peer.match_index)
                    },
                    applied_index: if voter.id == own {
                        self.machine.applied_index()
                    } else {
                        self.peers.get(&voter.id).map_or(Index(0), |facts| facts.applied_index)
                    },
                    digest_index,
                    digest: self
                        .digest_of(voter.id, digest_index)
                        .map_or(String::new(), |digest| format!("{digest:032x}")),
                }
            })
            .collect();
        ClusterStatus {
            cluster_id: configuration.cluster,
            node: own,
            from_leader: leads,
            term: status.term,
            leader: status.leader,
            commit_index: status.commit_index,
            nodes,
        }
    }

    /// Everything this node knows of itself, for text mode and metrics.
    pub(super) fn look(&self) -> Look {
        Look {
            machine: self.machine.clone(),
            raft: self.raft.status(),
            cluster: self.cluster_status(),
            waiting: (self.waiters.len() + self.lot.waiting_count() + self.rounds.open_count())
                as u64,
            log_now: self.machine.now(),
        }
    }

    /// The newest index at which all of these have a digest; 0 if there is none.
    fn common_digest(&self, nodes: &[NodeId]) -> Index {
        let own: Vec<Index> = self.machine.digests().into_iter().map(|(index, _)| index).collect();
        own.into_iter()
            .rev()
            .find(|index| nodes.iter().all(|node| self.digest_of(*node, *index).is_some()))
            .unwrap_or_default()
    }

    fn newest_digest(&self) -> Index {
        self.machine.digests().into_iter().next_back().map_or(Index(0), |(index, _)| index)
    }

    fn digest_of(&self, node: NodeId, index: Index) -> Option<u128> {
        if node == self.config.raft.id {
            self.machine.digest_at(index).map(|digest| digest.0)
        } else {
            self.peers.get(&node).and_then(|facts| facts.digests.get(&index).copied())
        }
    }
}

//! What a replica shows of itself: the small view every session reads, and the answers it gives.

use crate::jobs::job::Assignment;
use crate::jobs::machine::Machine;
use crate::raft::core::Role;
use crate::raft::message::Configuration;
use crate::replica::core::Replica;
use crate::replica::history::Slice;
use crate::types::{Fence, Incarnation, JobId, Millis, NodeId, Term};
use crate::wire::message::{ClusterStatus, LeaderHint, Refusal, Reply, Request};

/// What sessions need to know without asking the Raft thread: published when it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// This node.
    pub node: NodeId,
    /// Whether it leads and may take proposals.
    pub leads: bool,
    /// Its term.
    pub term: Term,
    /// Who leads, where known.
    pub leader: Option<LeaderHint>,
    /// Who is in the cluster: its id, the voters, their directories.
    pub configuration: Configuration,
    /// It has a leader and has applied what that leader had committed when it was first heard.
    pub ready: bool,
    /// It has lost synced data and is not whole again: it neither votes nor counts.
    pub healing: bool,
    /// On its way out: it takes no new work.
    pub stopping: bool,
}

/// An answer on its way from the Raft thread to whoever waits.
#[derive(Debug)]
pub enum Answer {
    /// The reply itself.
    Reply(Reply),
    /// A consistent image of the queue, from which [`crate::replica::reading::answer`] makes the
    /// reply outside the Raft thread; the request comes back with it.
    Image {
        /// The queue at one index.
        machine: Box<Machine>,
        /// What was asked.
        request: Request,
    },
    /// What changed, from which the reply is made outside the Raft thread.
    Changes(Slice),
    /// The local view that text mode and metrics are made of.
    Look(Box<Look>),
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        Self::Reply(reply)
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        Self::Reply(Reply::Refused(refusal))
    }
}

/// Everything a node knows of itself at one moment, without asking anybody.
#[derive(Clone, Debug)]
pub struct Look {
    /// The queue.
    pub machine: Machine,
    /// Consensus.
    pub raft: crate::raft::core::Status,
    /// The cluster, as this node sees it.
    pub cluster: ClusterStatus,
    /// Waiters of all kinds.
    pub waiting: u64,
    /// The log's clock here.
    pub log_now: Millis,
}

/// What the worker built into this node should know: what happened to its jobs, and to its leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Begin it.
    Begin {
        /// The start of the worker that was meant.
        incarnation: Incarnation,
        /// The job.
        assignment: Assignment,
    },
    /// All it holds, at the start of listening and after a snapshot was installed: begin what is new,
    /// end what is missing.
    Held {
        /// The start of the worker that holds them.
        incarnation: Incarnation,
        /// What it holds, in order of fence.
        assignments: Vec<Assignment>,
    },
    /// End it: it was cancelled, or somebody else has it now.
    End {
        /// The start of the worker that held it.
        incarnation: Incarnation,
        /// The job.
        job: JobId,
        /// The token that is void now.
        fence: Fence,
    },
    /// This node follows another leader now, or leads: whoever leads should hear at once that the
    /// worker lives.
    Leader,
}

impl<W> Replica<W> {
    /// Publishes the view if it changed.
    pub(super) fn publish(&mut self) {
        let leads = self.raft.role() == Role::Leader && !self.stopping;
        let term = self.raft.term();
        let leader = self.raft.leader();
        let healing = self.raft.is_healing();
        let ready = self.readiness.is_ready() && !healing;
        // Whoever names a cluster is refused by those of another: an id that is not committed may
        // never be, and would lock this node out.
        let cluster = self.raft.committed_configuration().cluster;
        let same = self.view.as_ref().is_some_and(|view| {
            view.leads == leads
                && view.term == term
                && view.leader.as_ref().map(|hint| hint.id) == leader
                && view.ready == ready
                && view.healing == healing
                && view.stopping == self.stopping
                && view.configuration.cluster == cluster
                && view.configuration.voters == self.raft.configuration().voters
        });
        if same {
            return;
        }
        let view = View {
            node: self.config.raft.id,
            leads,
            term,
            leader: self.leader_hint(),
            configuration: Configuration { cluster, ..self.raft.configuration().clone() },
            ready,
            healing,
            stopping: self.stopping,
        };
        self.view = Some(view.clone());
        self.out.view = Some(view);
    }

    /// Returns who leads, as far as this node knows.
    pub(super) fn leader_hint(&self) -> Option<LeaderHint> {
        let id = self.raft.leader()?;
        let voter = self.raft.configuration().voters.iter().find(|voter| voter.id == id)?;
        Some(LeaderHint { id, addr: voter.addr.clone(), term: self.raft.term() })
    }
}

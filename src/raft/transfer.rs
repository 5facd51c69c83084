//! Handing leadership to another node, on purpose and without an election timeout.

use crate::raft::core::{Raft, Role, TransferError};
use crate::raft::message::Message;
use crate::raft::peer::{Feed, Peer};
use crate::types::NodeId;

/// A transfer under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handover {
    pub(super) to: NodeId,
    /// Given up then: the target may have died, and nothing is accepted meanwhile.
    pub(super) deadline: u64,
    /// When the target was last told to campaign.
    pub(super) told: Option<u64>,
}

impl Raft {
    /// Begins to hand leadership to `to`, or to the follower that has most of the log, and returns
    /// which. Until it is done, or given up after an election timeout, proposals and reads are
    /// refused (Ongaro thesis §3.10).
    ///
    /// # Errors
    /// [`TransferError`] if it was not begun.
    pub fn transfer(&mut self, to: Option<NodeId>) -> Result<NodeId, TransferError> {
        if self.role != Role::Leader {
            return Err(TransferError::NotLeader);
        }
        if self.leading.transfer.is_some() {
            return Err(TransferError::Transferring);
        }
        let target = match to {
            Some(to) => self.peer(to).filter(|peer| peer.healing.is_none()).map(|peer| peer.id),
            None => self.successor(|_id| true),
        };
        let to = target.ok_or(TransferError::NoTarget)?;
        let deadline = self.now + self.config.election_ticks_max;
        self.leading.transfer = Some(Handover { to, deadline, told: None });
        // The target may lead before this node knows: from now on it cannot vouch for any read.
        self.fail_reads();
        Ok(to)
    }

    /// Finds the follower that could take over soonest, among those heard lately: one of those preferred,
    /// if there are any, then the one that has most of the log.
    #[must_use]
    pub fn successor(&self, prefers: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        let is_near = |peer: &&Peer| {
            let silence = peer.heard.map(|heard| self.now - heard);
            silence.is_some_and(|ticks| ticks <= self.config.check_quorum_ticks)
                && peer.feed == Feed::Replicate
                && peer.healing.is_none()
        };
        let near = self.peers.iter().filter(is_near);
        let best = near.max_by_key(|peer| (prefers(peer.id), peer.match_index, peer.heard));
        best.map(|peer| peer.id)
    }

    /// Tells the target to campaign once it holds the whole log, durable there and here; again with
    /// each heartbeat, in case the message was lost.
    pub(super) fn drive_transfer(&mut self) {
        let Some(mut handover) = self.leading.transfer else { return };
        let last_index = self.log.last_index();
        let has_all = self.peer(handover.to).is_some_and(|peer| peer.match_index == last_index);
        let is_due = handover.told.is_none_or(|at| self.now >= at + self.config.heartbeat_ticks);
        if has_all && is_due && self.disk.durable_index() == last_index {
            handover.told = Some(self.now);
            self.leading.transfer = Some(handover);
            self.out.send.push((handover.to, Message::TimeoutNow { term: self.hard.term }));
        }
    }

    /// Gives up a transfer that took too long.
    pub(super) fn tick_transfer(&mut self) {
        if self.leading.transfer.is_some_and(|transfer| self.now >= transfer.deadline) {
            self.leading.transfer = None;
        }
    }
}

//! What a leader does beside consensus: it gives out jobs, judges workers, and completes the
//! configuration.

use crate::jobs::command::Command;
use crate::jobs::scheduler::schedule;
use crate::raft::configuration;
use crate::raft::core::Role;
use crate::raft::message::EntryKind;
use crate::replica::core::Replica;
use crate::types::{ASSIGNMENTS_PER_ENTRY_MAX, ClusterId, Ticks};

/// Assignments in one entry; what remains goes into the next turn's. Few, so that no turn is long.
const ASSIGNMENTS_MAX: usize = 256;

const _: () = assert!(ASSIGNMENTS_MAX as u64 <= ASSIGNMENTS_PER_ENTRY_MAX);

/// Workers judged lost by one entry, at most.
const LOST_MAX: usize = 256;

/// How long a leader collects the directories of its voters before it records those it has, ticks.
const CONFIGURE_TICKS: u64 = 100;

impl<W> Replica<W> {
    /// Takes up or lays down the leader's duties when the role has changed.
    pub(super) fn follow_leadership(&mut self) {
        let leads = self.raft.role() == Role::Leader;
        let term = self.raft.term();
        if leads && self.led != Some(term) {
            self.led = Some(term);
            self.liveness.clear();
            self.liveness.fresh_window(&self.machine, self.now);
            self.proposed.clear();
            self.proposed_at.clear();
            self.configured_at = None;
            self.clock.observe(self.machine.now(), self.now);
        }
        if !leads && self.led.is_some() {
            self.led = None;
            self.liveness.clear();
            self.proposed.clear();
            self.proposed_at.clear();
        }
    }

    /// Does the leader's duties of this turn; before an entry of its own term is committed it knows
    /// too little for them.
    pub(super) fn lead(&mut self) {
        if self.led.is_none() || !self.raft.own_term_committed() {
            return;
        }
        self.complete_configuration();
        self.judge();
        self.give_out();
    }

    /// Gives pending jobs to workers. All of it goes through the log, where it is checked again.
    fn give_out(&mut self) {
        let now = self.now;
        let liveness = &self.liveness;
        let pairs = schedule(
            &self.machine,
            &|worker, incarnation| liveness.takes_jobs(worker, incarnation, now),
            &self.proposed,
            ASSIGNMENTS_MAX,
        );
        if pairs.is_empty() {
            return;
        }
        if let Some(index) = self.propose(Command::AssignJob(pairs.clone()), now, Vec::new()) {
            self.proposed.add(&pairs);
            self.proposed_at.insert(index, pairs);
        }
    }

    /// Judges the workers unheard for too long.
    fn judge(&mut self) {
        let lost = self.liveness.lost(&self.machine, self.now, LOST_MAX);
        if !lost.is_empty() {
            for (worker, _) in &lost {
                log::warn!("{worker} has not been heard for 3 s: lost, its jobs wait again");
            }
            self.propose(Command::WorkerLost(lost), self.now, Vec::new());
        }
    }

    /// Draws the cluster's id, sets the limits, and records the voters' directories as they become
    /// known. The limits stand before the id in the log, so that an id is never without them.
    fn complete_configuration(&mut self) {
        let mut next = self.raft.configuration().clone();
        let first = next.cluster.is_unknown();
        let missing = next.voters.iter().filter(|voter| voter.dir.is_none()).count();
        if !first && missing == 0 {
            return;
        }
        let mut learned = 0;
        for voter in next.voters.iter_mut().filter(|voter| voter.dir.is_none()) {
            voter.dir = if voter.id == self.config.raft.id {
                Some(self.config.dir)
            } else {
                self.peers.get(&voter.id).and_then(|facts| facts.dir)
            };
            learned += usize::from(voter.dir.is_some());
        }
        let since = *self.configured_at.get_or_insert(self.now);
        let waited = self.now.0.saturating_sub(since.0) >= CONFIGURE_TICKS;
        if !first && (learned == 0 || (learned < missing && !waited)) {
            return;
        }
        if first {
            next.cluster = ClusterId(self.config.seed.to_be_bytes());
            if self.propose(Command::SetLimits(self.config.limits), self.now, Vec::new()).is_none()
            {
                return;
            }
        }
        self.configured_at = Some(Ticks(self.now.0));
        let data = configuration::encode(&next);
        if let Err(error) = self.raft.propose(EntryKind::Configuration, vec![data]) {
            log::debug!("the configuration is not completed yet: {error}");
        }
    }
}

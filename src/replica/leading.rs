//! What a leader does beside consensus: it gives out jobs, judges workers, fires crons, and completes the
//! configuration.

use crate::jobs::command::Command;
use crate::jobs::scheduler::schedule;
use crate::planted::{Bug, is_planted};
use crate::raft::configuration;
use crate::raft::core::Role;
use crate::raft::message::EntryKind;
use crate::replica::core::Replica;
use crate::types::{ASSIGNMENTS_PER_ENTRY_MAX, ClusterId, NodeId, TICK_MS, Ticks};

/// Assignments in one entry; what remains goes into the next turn's. Few, so that no turn is long.
const ASSIGNMENTS_MAX: usize = 256;

const _: () = assert!(ASSIGNMENTS_MAX as u64 <= ASSIGNMENTS_PER_ENTRY_MAX);

/// Workers are judged so often, in ticks: 100 ms.
const JUDGE_TICKS: u64 = 10;

/// A follower with more entries yet to apply is handed leadership only if all have.
const SUCCESSOR_LAG_MAX: u64 = 1000;

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
            self.judged_at = None;
            self.liveness.clear();
            self.proposed.clear();
            self.proposed_at.clear();
            self.fired_at = None;
            self.configured_at = None;
            self.clock.observe(self.machine.now(), self.now);
        }
        if !leads && self.led.is_some() {
            self.led = None;
            self.own.clear();
            self.liveness.clear();
            self.proposed.clear();
            self.proposed_at.clear();
            self.fired_at = None;
        }
    }

    /// Does the leader's duties of this turn; before an entry of its own term is applied it knows too
    /// little for them. Until then it acknowledges no heartbeat either: from then on each worker has its
    /// window.
    pub(super) fn lead(&mut self) {
        if self.led.is_none() || !self.raft.own_term_applied() {
            return;
        }
        if self.judged_at.is_none() {
            self.judged_at = Some(self.now);
            self.liveness.fresh_window(&self.machine, self.lease_clock());
        }
        self.complete_configuration();
        self.judge();
        self.give_out();
        self.fire_crons();
        self.move_clock();
    }

    /// Gives pending jobs to workers. All of it goes through the log, where it is checked again.
    fn give_out(&mut self) {
        let now = self.now;
        let lease_now = self.lease_clock();
        let liveness = &self.liveness;
        let pairs = schedule(
            &self.machine,
            &|worker, incarnation| liveness.takes_jobs(worker, incarnation, lease_now),
            &self.proposed,
            ASSIGNMENTS_MAX,
        );
        if pairs.is_empty() {
            return;
        }
        if let Some(index) = self.propose(Command::AssignJob(pairs.clone()), now, Vec::new()) {
            self.proposed.add(&pairs, &self.machine);
            self.proposed_at.insert(index, pairs);
        }
    }

    /// Moves the log's clock when somebody waits for a time that has come, and no other entry is on its way.
    fn move_clock(&mut self) {
        let Some(at) = self.machine.next_wake_ms() else { return };
        if self.raft.last_index() > self.machine.applied_index() {
            return;
        }
        let voters = self.raft.configuration().voters.len();
        if at <= self.clock.peek(self.wall, self.now, voters) {
            self.propose(Command::Tick, self.now, Vec::new());
        }
    }

    /// Returns the clock by which workers are judged: the time that has passed, never the time of day.
    pub(super) fn lease_clock(&self) -> Ticks {
        match is_planted(Bug::LeaseByWallClock) {
            true => Ticks(self.wall.0 / TICK_MS),
            false => self.now,
        }
    }

    /// Judges the workers unheard for too long, now and then: it goes through the whole registry.
    fn judge(&mut self) {
        if self.judged_at.is_some_and(|at| self.now.0.saturating_sub(at.0) < JUDGE_TICKS) {
            return;
        }
        self.judged_at = Some(self.now);
        let lost = self.liveness.lost(&self.machine, self.lease_clock(), LOST_MAX);
        if lost.is_empty() {
            return;
        }
        if self.propose(Command::WorkerLost(lost.clone()), self.now, Vec::new()).is_none() {
            self.liveness.acquit(&lost);
            return;
        }
        for (worker, _) in &lost {
            log::warn!("{worker} has not been heard for 3 s: lost, its jobs wait again");
        }
    }

    /// Finds the follower to hand leadership to: one whose queue is nearly as far as the log, if there is
    /// one, for a leader that must first apply much serves nobody meanwhile.
    pub(super) fn successor(&self) -> Option<NodeId> {
        let least = self.raft.commit_index().0.saturating_sub(SUCCESSOR_LAG_MAX);
        self.raft
            .successor(|id| self.peers.get(&id).is_some_and(|facts| facts.applied_index.0 >= least))
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

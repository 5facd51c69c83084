//! Which workers live, in the leader's memory only: the verdict alone goes through the log.

use std::collections::BTreeMap;

use crate::jobs::machine::Machine;
use crate::jobs::registry::WorkerState;
use crate::planted::{Bug, is_planted};
use crate::types::{Incarnation, Ticks, WorkerId};

/// A worker unheard for so long is lost, in ticks: 3 s.
pub const LOST_TICKS: u64 = 300;

/// A worker unheard for so long is given nothing new, in ticks: 1.5 s, a heartbeat and a half. Without
/// this, the jobs of a node that died would go to others that died with it, and wait for their loss too.
pub const DOUBTED_TICKS: u64 = 150;

/// A leader that stood still for so long gives every worker a fresh window, in ticks: what was sent
/// meanwhile still waits in its sockets (etcd issue 15247).
pub const STOOD_STILL_TICKS: u64 = 50;

/// One worker as the leader hears it.
#[derive(Debug)]
struct Heard {
    incarnation: Incarnation,
    /// The last heartbeat or registration, or the start of the window a new leader gives.
    at: Ticks,
    /// It has spoken to this leader, so it may be given jobs.
    spoke: bool,
    /// It takes no new jobs.
    draining: bool,
    /// Its loss was proposed. While this node leads, that will be committed and cannot be taken back,
    /// whatever is heard meanwhile; when it is applied, this start is over.
    judged: bool,
}

/// The leader's ear for workers. Bounded by the registry, which is.
#[derive(Debug, Default)]
pub struct Liveness {
    heard: BTreeMap<WorkerId, Heard>,
}

impl Liveness {
    /// Forgets everything: leadership was lost.
    pub fn clear(&mut self) {
        self.heard.clear();
    }

    /// Gives every registered worker one window from now: leadership was won, or the leader itself
    /// stood still. A worker is given no job before it has spoken to this leader.
    pub fn fresh_window(&mut self, machine: &Machine, now: Ticks) {
        for worker in machine.workers() {
            if worker.state != WorkerState::Live {
                continue;
            }
            let heard = self.heard.entry(worker.id.clone()).or_insert(Heard {
                incarnation: worker.incarnation,
                at: now,
                spoke: false,
                draining: false,
                judged: false,
            });
            heard.at = match is_planted(Bug::LostWithoutGrace) {
                true => Ticks(now.0.saturating_sub(LOST_TICKS)),
                false => now,
            };
        }
    }

    /// Notes a sign of life.
    pub fn hear(
        &mut self,
        worker: &WorkerId,
        incarnation: Incarnation,
        draining: bool,
        now: Ticks,
    ) {
        match self.heard.get_mut(worker) {
            Some(heard) if heard.incarnation == incarnation => {
                heard.at = now;
                heard.spoke = true;
                heard.draining = draining;
            }
            Some(_) | None => {
                let heard = Heard { incarnation, at: now, spoke: true, draining, judged: false };
                self.heard.insert(worker.clone(), heard);
            }
        }
    }

    /// Tells whether this start of a worker may be given jobs.
    #[must_use]
    pub fn takes_jobs(&self, worker: &WorkerId, incarnation: Incarnation, now: Ticks) -> bool {
        self.heard.get(worker).is_some_and(|heard| {
            heard.incarnation == incarnation
                && heard.spoke
                && !heard.draining
                && now.0.saturating_sub(heard.at.0) < DOUBTED_TICKS
        })
    }

    /// Returns the workers to judge lost, at most `max`, and notes that they are being judged.
    pub fn lost(
        &mut self,
        machine: &Machine,
        now: Ticks,
        max: usize,
    ) -> Vec<(WorkerId, Incarnation)> {
        let mut lost = Vec::new();
        let mut unknown = Vec::new();
        let mut live = 0;
        for worker in machine.workers().filter(|worker| worker.state == WorkerState::Live) {
            live += 1;
            if lost.len() == max {
                break;
            }
            let Some(heard) = self.heard.get_mut(&worker.id) else {
                unknown.push((worker.id.clone(), worker.incarnation));
                continue;
            };
            if heard.incarnation != worker.incarnation {
                unknown.push((worker.id.clone(), worker.incarnation));
                continue;
            }
            let waits = |since: Ticks, ticks: u64| now.0.saturating_sub(since.0) < ticks;
            if !waits(heard.at, LOST_TICKS) && !heard.judged {
                heard.judged = true;
                lost.push((worker.id.clone(), worker.incarnation));
            }
        }
        // Applied here, but not yet heard of: its window begins now.
        for (id, incarnation) in unknown {
            let heard =
                Heard { incarnation, at: now, spoke: false, draining: false, judged: false };
            self.heard.insert(id, heard);
        }
        if self.heard.len() > live {
            // Those that the registry no longer has as living.
            self.heard.retain(|id, _| {
                machine.worker(id).is_some_and(|worker| worker.state == WorkerState::Live)
            });
        }
        lost
    }

    /// Takes a verdict back that could not be proposed; it is passed again.
    pub fn acquit(&mut self, judged: &[(WorkerId, Incarnation)]) {
        for (worker, _) in judged {
            if let Some(heard) = self.heard.get_mut(worker) {
                heard.judged = false;
            }
        }
    }

    /// Tells whether a verdict on this start of a worker is on its way.
    #[must_use]
    pub fn is_judged(&self, worker: &WorkerId, incarnation: Incarnation) -> bool {
        self.heard.get(worker).is_some_and(|heard| heard.incarnation == incarnation && heard.judged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worker_that_missed_a_heartbeat_is_given_nothing_until_the_next() {
        let (worker, start) = (WorkerId::new("w").unwrap(), Incarnation(7));
        let mut liveness = Liveness::default();
        assert!(!liveness.takes_jobs(&worker, start, Ticks(0)), "never heard");
        liveness.hear(&worker, start, false, Ticks(1000));
        assert!(liveness.takes_jobs(&worker, start, Ticks(1000 + DOUBTED_TICKS - 1)));
        assert!(!liveness.takes_jobs(&worker, start, Ticks(1000 + DOUBTED_TICKS)));
        assert!(!liveness.takes_jobs(&worker, Incarnation(8), Ticks(1000)), "another start");
        liveness.hear(&worker, start, false, Ticks(1200));
        assert!(liveness.takes_jobs(&worker, start, Ticks(1200 + 100)));
        liveness.hear(&worker, start, true, Ticks(1300));
        assert!(!liveness.takes_jobs(&worker, start, Ticks(1300)), "it drains");
    }
}

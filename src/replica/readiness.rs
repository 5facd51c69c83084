//! Whether a node is as far as its leader: asked again and again, for a disk may hang at any time.

use crate::replica::core::Replica;
use crate::replica::reads::Read;
use crate::types::{NodeId, Term, Ticks};

/// A node that was ready asks again after so long, in ticks: 1 s.
const AGAIN_TICKS: u64 = 100;

/// A node is ready for so long after it asked, in ticks, if the answer was yes: 3 s, as long as a
/// worker may be unheard. One whose disk hangs, or that slept, has by then lost its right to jobs.
const LAPSE_TICKS: u64 = 300;

/// What a node knows of its own readiness. It is ready while it applies what its leader has committed
/// no later than [`LAPSE_TICKS`] after the leader had.
#[derive(Debug, Default)]
pub(super) struct Readiness {
    /// The leader that was asked, and its term.
    leader: Option<(NodeId, Term)>,
    /// When a question was asked whose answer is not here yet.
    asked: Option<Ticks>,
    /// When the last question was asked that was answered, as long as that counts.
    ready: Option<Ticks>,
}

impl Readiness {
    /// Takes in who leads and what time it is. Returns whether to ask now.
    pub(super) fn asks(&mut self, leader: Option<(NodeId, Term)>, now: Ticks) -> bool {
        if leader.is_none() || leader != self.leader {
            *self = Self { leader, asked: None, ready: None };
        }
        let passed = |since: Ticks, ticks: u64| now.0.saturating_sub(since.0) >= ticks;
        if self.ready.is_some_and(|asked| passed(asked, LAPSE_TICKS)) {
            self.ready = None;
        }
        let due = self.ready.is_none_or(|asked| passed(asked, AGAIN_TICKS));
        let asks = leader.is_some() && due && self.asked.is_none();
        if asks {
            self.asked = Some(now);
        }
        asks
    }

    /// Notes that the open question was confirmed by the leader, and its index applied here. An answer
    /// to a question that another leader was asked says as much.
    pub(super) fn answered(&mut self) {
        if let Some(asked) = self.asked.take() {
            self.ready = Some(asked);
        }
    }

    /// Notes that nobody confirmed the open question.
    pub(super) fn not_answered(&mut self) {
        self.asked = None;
    }

    /// Tells whether this node is as far as its leader.
    pub(super) fn is_ready(&self) -> bool {
        self.ready.is_some()
    }
}

impl<W> Replica<W> {
    /// Asks the leader now and then for an index at which this node is as far as that leader was.
    pub(super) fn seek_readiness(&mut self) {
        let leader = self.raft.leader().map(|id| (id, self.raft.term()));
        if self.readiness.asks(leader, self.now) {
            self.arriving_reads.push(Read::Ready);
        }
    }

    /// Notes that this node holds all that its leader had committed when it was asked.
    pub(super) fn became_ready(&mut self) {
        self.readiness.answered();
        if !self.limits_compared && !self.raft.configuration().cluster.is_unknown() {
            self.limits_compared = true;
            if *self.machine.limits() != self.config.limits {
                log::warn!(
                    "this node's limits differ from the cluster's, which hold: {:?}",
                    self.machine.limits()
                );
            }
        }
    }

    /// Notes that the question for readiness was not answered; it is asked again next turn.
    pub(super) fn not_ready_yet(&mut self) {
        self.readiness.not_answered();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEADER: Option<(NodeId, Term)> = Some((NodeId(1), Term(1)));

    #[test]
    fn readiness_is_asked_for_again_and_lapses_without_an_answer() {
        let mut readiness = Readiness::default();
        assert!(!readiness.asks(None, Ticks(5)));
        assert!(readiness.asks(LEADER, Ticks(10)));
        assert!(!readiness.asks(LEADER, Ticks(20)), "one question at a time");
        assert!(!readiness.is_ready());
        readiness.answered();
        assert!(readiness.is_ready());
        assert!(!readiness.asks(LEADER, Ticks(109)));
        assert!(readiness.asks(LEADER, Ticks(110)));
        // The disk hangs: what the leader has committed is not applied here.
        assert!(!readiness.asks(LEADER, Ticks(309)));
        assert!(readiness.is_ready());
        assert!(!readiness.asks(LEADER, Ticks(310)));
        assert!(!readiness.is_ready());
        readiness.not_answered();
        assert!(readiness.asks(LEADER, Ticks(600)));
        readiness.answered();
        assert!(readiness.is_ready());
    }

    #[test]
    fn readiness_ends_with_its_leader() {
        let mut readiness = Readiness::default();
        assert!(readiness.asks(LEADER, Ticks(10)));
        readiness.answered();
        assert!(
            readiness.asks(Some((NodeId(1), Term(2))), Ticks(11)),
            "the same node, elected anew"
        );
        assert!(!readiness.is_ready());
        assert!(!readiness.asks(None, Ticks(12)));
        readiness.answered();
        assert!(!readiness.is_ready());
    }

    #[test]
    fn answer_that_took_too_long_makes_nobody_ready_for_long() {
        let mut readiness = Readiness::default();
        assert!(readiness.asks(LEADER, Ticks(10)));
        assert!(!readiness.asks(LEADER, Ticks(400)));
        readiness.answered();
        assert!(readiness.asks(LEADER, Ticks(400)), "it was asked long ago");
        assert!(!readiness.is_ready());
    }
}

//! A virtual client that has just come: it asks whoever it meets, and then the node that served the one before it.
//!
//! Ordinary clients hold on to the leader they know. When that one is cut off or stands still, what they change waits
//! for it, and nobody is acknowledged elsewhere while it still believes to lead. A newcomer knows no leader and finds
//! the new one; that it was served there it tells the next, who looks at the same job where the former leader is.

use std::time::Duration;

use fastrand::Rng;

use crate::sim::calling::{Calling, Sending, Up};
use crate::sim::client::{ROUND_JOBS_MAX, new_job, write_down};
use crate::sim::recorder::{Recorder, new_id};
use crate::types::NodeId;
use crate::wire::message::{Reply, Request};

/// How long a newcomer tries to submit its job.
const SUBMIT_TIME: Duration = Duration::from_secs(1);

/// How long the look at the former leader may take: that one may stand still meanwhile.
const LOOK_TIME: Duration = Duration::from_secs(5);

/// Calls under way at one time, at most.
const CALLS_MAX: usize = 4;

/// One newcomer after the other.
#[derive(Debug)]
pub struct Newcomer {
    number: u64,
    rng: Rng,
    calling: Calling<()>,
    /// From one to the next, on average, ms.
    gap_ms: u64,
    next_at: u64,
    /// Who served the one before.
    served_by: Option<NodeId>,
    acknowledged: u64,
    reads: u64,
}

impl Newcomer {
    /// Makes the first one; `number` is its name in the history.
    #[must_use]
    pub fn new(number: u64, seed: u64, nodes: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        Self {
            number,
            calling: Calling::new(nodes, rng.u64(..)),
            gap_ms: rng.u64(200..1200),
            rng,
            next_at: 0,
            served_by: None,
            acknowledged: 0,
            reads: 0,
        }
    }

    /// Takes what has come, lets the next one come, and says what to send. `more` tells whether one may come.
    pub fn step(
        &mut self,
        now: u64,
        more: bool,
        up: Up<'_>,
        recorder: &mut Recorder,
        sendings: &mut Vec<Sending>,
    ) {
        self.settle(now, recorder);
        if more && now >= self.next_at {
            self.next_at = now + self.rng.u64(1..=self.gap_ms * 2);
            if self.calling.len() < CALLS_MAX && recorder.jobs().len() < ROUND_JOBS_MAX {
                self.submit(now, recorder);
            }
        }
        self.calling.step(now, up, sendings);
        self.settle(now, recorder);
    }

    /// Returns when it wants to be asked again.
    #[must_use]
    pub fn wake_at(&self, more: bool) -> u64 {
        let own = if more { self.next_at } else { u64::MAX };
        own.min(self.calling.wake_at())
    }

    /// Hears an answer.
    pub fn answered(&mut self, corr: u64, reply: Reply, now: u64) {
        self.calling.answered(corr, reply, now);
    }

    /// Hears that a node died.
    pub fn broke(&mut self, node: NodeId, now: u64) {
        self.calling.broke(node, now);
    }

    /// Tells whether nothing is open.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.calling.is_empty()
    }

    /// Returns how many submits were acknowledged, and how many reads.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.acknowledged, self.reads)
    }

    fn submit(&mut self, now: u64, recorder: &mut Recorder) {
        let id = new_id(now, &mut self.rng);
        recorder.add_job(id, 0);
        if !recorder.open(id) {
            return;
        }
        self.calling.meet_anew(self.rng.u64(..));
        let began = recorder.moment(now);
        let request = Request::SubmitJob(new_job(id, 0));
        self.calling.begin((), request, now, SUBMIT_TIME, began);
    }

    /// Writes down what is over, and looks where the former leader is for what another one acknowledged.
    fn settle(&mut self, now: u64, recorder: &mut Recorder) {
        for done in self.calling.take_done() {
            let (acknowledged, reads) = write_down(self.number, &done, now, recorder);
            self.acknowledged += acknowledged;
            self.reads += reads;
            let (Request::SubmitJob(job), 1, Some(by)) =
                (&*done.request, acknowledged, done.answered_by)
            else {
                continue;
            };
            let former = self.served_by.replace(by).filter(|former| *former != by);
            if former.is_some() && recorder.open(job.id) {
                let began = recorder.moment(now);
                let request = Request::GetJob { id: job.id };
                self.calling.begin_at((), request, former, now, LOOK_TIME, began);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message::Submitted;

    /// Lets newcomers come until one submits, and has that node acknowledge it; returns what is sent then, if anything.
    fn come(newcomer: &mut Newcomer, now: &mut u64, by: NodeId) -> Option<Sending> {
        let mut recorder = Recorder::default();
        let mut sendings = Vec::new();
        loop {
            *now += 1;
            newcomer.step(*now, true, &|node| node == by, &mut recorder, &mut sendings);
            let Some(Sending { request: Request::SubmitJob(job), corr, .. }) = sendings.pop()
            else {
                continue;
            };
            let submitted = Submitted { id: job.id, created: true };
            newcomer.answered(corr, Reply::Submitted(submitted), *now);
            newcomer.step(*now, false, &|_| true, &mut recorder, &mut sendings);
            return sendings.pop();
        }
    }

    #[test]
    fn who_is_served_by_another_node_looks_where_the_one_before_was_served() {
        let (mut newcomer, mut now) = (Newcomer::new(1, 7, 3), 0);
        assert!(come(&mut newcomer, &mut now, NodeId(1)).is_none(), "nobody came before");
        assert!(come(&mut newcomer, &mut now, NodeId(1)).is_none(), "the same node");
        let look = come(&mut newcomer, &mut now, NodeId(2)).unwrap();
        assert_eq!(look.to, NodeId(1));
        assert!(matches!(look.request, Request::GetJob { .. }), "{look:?}");
    }
}

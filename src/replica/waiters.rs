//! Who waits for which entry: every proposal is answered once, by what its entry came to.

use std::collections::{BTreeMap, VecDeque};

use crate::jobs::cron::CronChange;
use crate::types::{Incarnation, Index, JobId, Term, Ticks, WorkerId};
use crate::wire::message::Submitted;

/// A proposal waits so long for its outcome, in ticks: 5 s (specification, "Proposal backpressure").
/// Then its waiter hears `DEADLINE_EXCEEDED`: the outcome is unknown.
pub const PROPOSAL_TICKS_MAX: u64 = 500;

/// Someone whose answer is part of one entry's outcome.
#[derive(Debug)]
pub enum Wait<W> {
    /// One submitted job.
    Submit {
        /// Who.
        waiter: W,
        /// Its id, so that the machine can tell when the entry cannot.
        id: JobId,
    },
    /// Jobs submitted in one request.
    SubmitBatch {
        /// Who.
        waiter: W,
        /// Their ids, in order.
        ids: Vec<JobId>,
        /// Answers known before the proposal, by position.
        refused: Vec<Option<crate::wire::message::Refusal>>,
    },
    /// Reports.
    Update {
        /// Who.
        waiter: W,
        /// How many of the entry's reports are theirs, in order.
        count: usize,
    },
    /// A registration.
    Register {
        /// Who.
        waiter: W,
        /// The worker.
        worker: WorkerId,
        /// Its start.
        incarnation: Incarnation,
    },
    /// Cancellations.
    Cancel {
        /// Who.
        waiter: W,
    },
    /// Something that the entry is about as a whole: jobs to be tried again or forgotten, a queue's rules.
    Whole {
        /// Who.
        waiter: W,
    },
    /// A change of a cron.
    Cron {
        /// Who.
        waiter: W,
        /// Which.
        change: CronChange,
    },
    /// Jobs given back.
    Release {
        /// Who.
        waiter: W,
    },
}

impl<W> Wait<W> {
    /// Returns whoever waits.
    pub fn into_waiter(self) -> W {
        match self {
            Self::Submit { waiter, .. }
            | Self::SubmitBatch { waiter, .. }
            | Self::Update { waiter, .. }
            | Self::Register { waiter, .. }
            | Self::Cancel { waiter }
            | Self::Whole { waiter }
            | Self::Cron { waiter, .. }
            | Self::Release { waiter } => waiter,
        }
    }
}

/// All who wait for one entry.
#[derive(Debug)]
pub struct Waiting<W> {
    /// The term in which it was proposed: an entry of another term at its index is another entry.
    pub term: Term,
    /// In the order in which their parts stand in the entry.
    pub waits: Vec<Wait<W>>,
}

/// Everyone who waits for an entry. Bounded by what may be accepted and uncommitted, and by
/// [`PROPOSAL_TICKS_MAX`]: nobody waits longer.
#[derive(Debug)]
pub struct Waiters<W> {
    by_index: BTreeMap<Index, Vec<Waiting<W>>>,
    /// In order of deadline.
    deadlines: VecDeque<(Ticks, Index, Term)>,
}

impl<W> Default for Waiters<W> {
    fn default() -> Self {
        Self { by_index: BTreeMap::new(), deadlines: VecDeque::new() }
    }
}

impl<W> Waiters<W> {
    /// How many entries are waited for.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_index.len()
    }

    /// Tells whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_index.is_empty()
    }

    /// Adds those who wait for the entry proposed at `index` in `term`; the first of them arrived at
    /// `arrived`.
    pub fn add(&mut self, index: Index, term: Term, arrived: Ticks, waits: Vec<Wait<W>>) {
        let deadline = Ticks(arrived.0 + PROPOSAL_TICKS_MAX);
        self.by_index.entry(index).or_default().push(Waiting { term, waits });
        let place = self.deadlines.partition_point(|(other, ..)| *other <= deadline);
        self.deadlines.insert(place, (deadline, index, term));
    }

    /// Takes everyone who waits at `index`: the entry there is committed, whoever proposed it.
    pub fn take(&mut self, index: Index) -> Vec<Waiting<W>> {
        self.by_index.remove(&index).unwrap_or_default()
    }

    /// Takes everyone who waits at or below `index`: a snapshot covers their entries.
    pub fn take_to(&mut self, index: Index) -> Vec<Waiting<W>> {
        let later = self.by_index.split_off(&index.next());
        let taken = std::mem::replace(&mut self.by_index, later);
        taken.into_values().flatten().collect()
    }

    /// Takes everyone whose time is up.
    pub fn expired(&mut self, now: Ticks) -> Vec<Waiting<W>> {
        let mut expired = Vec::new();
        while let Some((deadline, index, term)) = self.deadlines.front().copied() {
            if deadline > now {
                break;
            }
            self.deadlines.pop_front();
            let Some(waiting) = self.by_index.get_mut(&index) else { continue };
            let (taken, kept): (Vec<_>, Vec<_>) =
                std::mem::take(waiting).into_iter().partition(|waiting| waiting.term == term);
            *waiting = kept;
            if waiting.is_empty() {
                self.by_index.remove(&index);
            }
            expired.extend(taken);
        }
        expired
    }

    /// Returns the next deadline.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Ticks> {
        self.deadlines.front().map(|(deadline, ..)| *deadline)
    }
}

/// Makes the answer for a job that is in the queue.
#[must_use]
pub fn submitted(id: JobId, created: bool) -> Submitted {
    Submitted { id, created }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cancel(waiter: u32) -> Vec<Wait<u32>> {
        vec![Wait::Cancel { waiter }]
    }

    fn names(waiting: Vec<Waiting<u32>>) -> Vec<u32> {
        waiting.into_iter().flat_map(|w| w.waits).map(Wait::into_waiter).collect()
    }

    #[test]
    fn waiters_of_two_terms_at_one_index_expire_each_at_its_time() {
        let mut waiters = Waiters::default();
        waiters.add(Index(5), Term(2), Ticks(100), cancel(1));
        waiters.add(Index(5), Term(4), Ticks(200), cancel(2));
        assert!(names(waiters.expired(Ticks(599))).is_empty());
        assert_eq!(names(waiters.expired(Ticks(600))), [1]);
        assert_eq!(names(waiters.take(Index(5))), [2]);
        assert!(names(waiters.expired(Ticks(9999))).is_empty());
        assert!(waiters.is_empty());
    }

    #[test]
    fn a_snapshot_takes_everyone_it_covers() {
        let mut waiters = Waiters::default();
        for index in 1..=4 {
            waiters.add(Index(index), Term(1), Ticks(0), cancel(u32::try_from(index).unwrap()));
        }
        assert_eq!(names(waiters.take_to(Index(3))), [1, 2, 3]);
        assert_eq!(names(waiters.take(Index(4))), [4]);
    }
}

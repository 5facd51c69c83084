//! Which waiting job goes to which worker: a pure choice, made by the leader after every turn.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use crate::jobs::command::Pair;
use crate::jobs::machine::Machine;
use crate::jobs::registry::{Load, Place};
use crate::jobs::resident::Lane;
use crate::types::{ASSIGNMENTS_PER_ENTRY_MAX, Fence, Incarnation, JobId, WorkerId};

/// What the leader has proposed and not yet applied: these jobs are spoken for, and these slots
/// taken. The replica adds what [`schedule`] returns when it proposes it, and removes it when the
/// entry is applied or lost; a new leader begins with an empty one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proposed {
    jobs: BTreeSet<JobId>,
    workers: BTreeMap<(WorkerId, Incarnation), Taken>,
    /// Rises with every pair added: who was chosen last.
    turn: u64,
}

/// What is proposed for one start of a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Taken {
    /// How many slots.
    slots: u32,
    /// The turn of the newest one.
    turn: u64,
}

impl Proposed {
    /// Counts pairs as spoken for.
    pub fn add(&mut self, pairs: &[Pair]) {
        for pair in pairs {
            self.turn += 1;
            if self.jobs.insert(pair.job) {
                let start = (pair.worker.clone(), pair.incarnation);
                let taken = self.workers.entry(start).or_default();
                taken.slots += 1;
                taken.turn = self.turn;
            }
        }
    }

    /// Takes pairs back, whatever became of them. Pairs that were never added are ignored.
    pub fn remove(&mut self, pairs: &[Pair]) {
        for pair in pairs {
            if !self.jobs.remove(&pair.job) {
                continue;
            }
            let start = (pair.worker.clone(), pair.incarnation);
            if let Some(taken) = self.workers.get_mut(&start) {
                taken.slots = taken.slots.saturating_sub(1);
                if taken.slots == 0 {
                    self.workers.remove(&start);
                }
            }
        }
    }

    /// Forgets everything: somebody else leads now.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Tells whether nothing is proposed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Returns how many pairs are proposed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.jobs.len()
    }
}

/// When a worker was last chosen. What is proposed comes after all that is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Chosen {
    Applied(Fence),
    Proposed(u64),
}

/// A worker's place in the order of choice, with what is proposed counted in. It only ever moves
/// back during a run, since a run gives and never takes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Standing {
    load: Load,
    chosen: Chosen,
    worker: WorkerId,
}

/// One worker with a free slot, as far as this run has looked.
#[derive(Debug)]
struct Candidate {
    incarnation: Incarnation,
    standing: Standing,
}

/// Chooses workers for waiting jobs, at most `max` (and never more than an entry has tokens for).
///
/// Jobs are taken in commit order, passing over those that no live worker with a free slot takes, so
/// that such a job holds up nobody. Each goes to the least loaded worker that takes it, jobs
/// proposed for it included; of equals, to the one that was chosen longest ago, then by name.
///
/// A run without a job to give or a slot to give it to costs a few looks into the books. Otherwise
/// it costs about one look for each job already proposed and a few for each pair; workers are looked
/// at in the order of choice, and only as many as are needed.
#[must_use]
pub fn schedule(
    machine: &Machine,
    alive: &dyn Fn(&WorkerId, Incarnation) -> bool,
    proposed: &Proposed,
    max: usize,
) -> Vec<Pair> {
    let most = max.min(usize::try_from(ASSIGNMENTS_PER_ENTRY_MAX).unwrap_or(usize::MAX));
    let mut run = Round::new(machine, alive, proposed);
    let mut pairs = Vec::new();
    while pairs.len() < most {
        let Some(pair) = run.next_pair() else { break };
        pairs.push(pair);
    }
    pairs
}

/// One line that has waiting jobs and workers that take them.
struct Line<'a> {
    lane: &'a Lane,
    /// The jobs that wait in it, those already proposed left out.
    jobs: Box<dyn Iterator<Item = (u64, JobId)> + 'a>,
    /// The workers found so far that take from it, best first. A standing in here may be older than
    /// the worker's own; then it is renewed when it comes up.
    workers: BinaryHeap<Reverse<Standing>>,
}

/// One run of the scheduler.
struct Round<'a> {
    machine: &'a Machine,
    alive: &'a dyn Fn(&WorkerId, Incarnation) -> bool,
    proposed: &'a Proposed,
    lines: Vec<Line<'a>>,
    /// The head of each line that is still open: its job's place in commit order, and the line.
    heads: BinaryHeap<Reverse<(u64, usize, JobId)>>,
    /// Workers not looked at yet, in the order of choice as the machine knows it.
    rest: std::iter::Peekable<Box<dyn Iterator<Item = &'a Place> + 'a>>,
    /// Workers looked at.
    candidates: BTreeMap<WorkerId, Candidate>,
    turn: u64,
}

impl<'a> Round<'a> {
    fn new(
        machine: &'a Machine,
        alive: &'a dyn Fn(&WorkerId, Incarnation) -> bool,
        proposed: &'a Proposed,
    ) -> Self {
        let rest: Box<dyn Iterator<Item = &'a Place> + 'a> = Box::new(machine.registry.free());
        let mut round = Self {
            machine,
            alive,
            proposed,
            lines: Vec::new(),
            heads: BinaryHeap::new(),
            rest: rest.peekable(),
            candidates: BTreeMap::new(),
            turn: proposed.turn,
        };
        for lane in open_lanes(machine) {
            let Some(line) = machine.books.lines().get(lane) else { continue };
            let jobs = line.iter().map(|(sequence, id)| (*sequence, *id));
            let jobs = Box::new(jobs.filter(|(_, id)| !proposed.jobs.contains(id)));
            round.lines.push(Line { lane, jobs, workers: BinaryHeap::new() });
            round.advance(round.lines.len() - 1);
        }
        round
    }

    /// Puts the next job of a line among the heads; a line without one is closed.
    fn advance(&mut self, line: usize) {
        if let Some((sequence, id)) = self.lines.get_mut(line).and_then(|it| it.jobs.next()) {
            self.heads.push(Reverse((sequence, line, id)));
        }
    }

    /// Chooses for the job that is first in commit order; a line that nobody can take from any more
    /// is closed, since slots do not come free during a run.
    fn next_pair(&mut self) -> Option<Pair> {
        while let Some(Reverse((_, line, job))) = self.heads.pop() {
            let Some(worker) = self.best(line) else { continue };
            let incarnation = self.take_slot(&worker)?;
            self.advance(line);
            return Some(Pair { job, worker, incarnation });
        }
        None
    }

    /// Finds the best worker for a line and leaves it in the line's heap.
    fn best(&mut self, line: usize) -> Option<WorkerId> {
        loop {
            self.renew(line);
            let best = self.lines.get(line)?.workers.peek().map(|it| &it.0);
            // A worker not looked at yet is no better than its place as the machine knows it.
            let unseen_is_no_better = match (best, self.rest.peek()) {
                (_, None) => true,
                (None, Some(_)) => false,
                (Some(best), Some(place)) => *best < standing_without_proposals(place),
            };
            if unseen_is_no_better {
                return best.map(|best| best.worker.clone());
            }
            self.look_at_next();
        }
    }

    /// Renews the heap's first standings until the first one is its worker's own.
    fn renew(&mut self, line: usize) {
        let Some(line) = self.lines.get_mut(line) else { return };
        while let Some(mut first) = line.workers.peek_mut() {
            let Some(candidate) = self.candidates.get(&first.0.worker) else { return };
            let standing = &candidate.standing;
            if standing.load.running >= standing.load.slots {
                std::collections::binary_heap::PeekMut::pop(first);
            } else if first.0 == *standing {
                return;
            } else {
                first.0 = standing.clone();
            }
        }
    }

    /// Takes the next worker of the machine's order and puts it where it may be chosen.
    fn look_at_next(&mut self) {
        let Some(place) = self.rest.next() else { return };
        let Some(worker) = self.machine.registry.get(&place.worker) else { return };
        if !(self.alive)(&worker.id, worker.incarnation) {
            return;
        }
        let mut standing = standing_without_proposals(place);
        if let Some(taken) = self.proposed.workers.get(&(worker.id.clone(), worker.incarnation)) {
            standing.load.running += taken.slots;
            standing.chosen = Chosen::Proposed(taken.turn);
        }
        if standing.load.running >= standing.load.slots {
            return;
        }
        for line in self.lines.iter_mut().filter(|line| worker.takes(line.lane)) {
            line.workers.push(Reverse(standing.clone()));
        }
        let candidate = Candidate { incarnation: worker.incarnation, standing };
        self.candidates.insert(worker.id.clone(), candidate);
    }

    fn take_slot(&mut self, worker: &WorkerId) -> Option<Incarnation> {
        let candidate = self.candidates.get_mut(worker)?;
        self.turn += 1;
        candidate.standing.load.running += 1;
        candidate.standing.chosen = Chosen::Proposed(self.turn);
        Some(candidate.incarnation)
    }
}

fn standing_without_proposals(place: &Place) -> Standing {
    Standing {
        load: place.load,
        chosen: Chosen::Applied(place.last_assigned),
        worker: place.worker.clone(),
    }
}

/// Returns the lines in which jobs wait and from which a worker with a free slot takes. Both sides
/// are sorted, so the shorter one is gone through and looked up in the other.
fn open_lanes(machine: &Machine) -> Vec<&Lane> {
    let (lines, offers) = (machine.books.lines(), machine.registry.offers());
    if lines.len() <= offers.len() {
        lines.keys().filter(|lane| offers.contains_key(*lane)).collect()
    } else {
        offers.keys().filter(|lane| lines.contains_key(*lane)).collect()
    }
}

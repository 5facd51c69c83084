//! Which waiting job goes to which worker: a pure choice, made by the leader after every turn.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use crate::jobs::command::Pair;
use crate::jobs::lane::{Class, Lane, Work};
use crate::jobs::machine::Machine;
use crate::jobs::ordered::{Iter, Ordered};
use crate::jobs::registry::{Load, Place};
use crate::types::{ASSIGNMENTS_PER_ENTRY_MAX, Fence, Incarnation, JobId, QueueName, WorkerId};

/// What the leader has proposed and not yet applied: these jobs are spoken for, and these slots
/// taken. The replica adds what [`schedule`] returns when it proposes it, and removes it when the
/// entry is applied or lost; a new leader begins with an empty one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proposed {
    /// The jobs, each with its queue if that gives out no more than its rules allow.
    jobs: BTreeMap<JobId, Option<QueueName>>,
    workers: BTreeMap<(WorkerId, Incarnation), Taken>,
    /// How many jobs of each such queue.
    queues: BTreeMap<QueueName, u64>,
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
    /// Counts pairs as spoken for, that were chosen from this machine.
    pub fn add(&mut self, pairs: &[Pair], machine: &Machine) {
        for pair in pairs {
            self.turn += 1;
            if self.jobs.contains_key(&pair.job) {
                continue;
            }
            let queue = machine.job(pair.job).map(|job| &job.queue);
            let ruled = queue.filter(|queue| machine.rules(queue).is_some()).cloned();
            if let Some(queue) = &ruled {
                *self.queues.entry(queue.clone()).or_default() += 1;
            }
            self.jobs.insert(pair.job, ruled);
            let start = (pair.worker.clone(), pair.incarnation);
            let taken = self.workers.entry(start).or_default();
            taken.slots += 1;
            taken.turn = self.turn;
        }
    }

    /// Takes pairs back, whatever became of them. Pairs that were never added are ignored.
    pub fn remove(&mut self, pairs: &[Pair]) {
        for pair in pairs {
            let Some(ruled) = self.jobs.remove(&pair.job) else { continue };
            if let Some(queue) = ruled
                && let Some(count) = self.queues.get_mut(&queue)
            {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.queues.remove(&queue);
                }
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
/// Jobs are taken by priority and, within one, in commit order, passing over those that no live worker with a
/// free slot takes and those whose queue gives out no more, so that such a job holds up nobody. Each goes to
/// the least loaded worker that takes it, jobs proposed for it included; of equals, to the one that was chosen
/// longest ago, then by name.
///
/// A run without a job to give or a slot to give it to costs a few looks into the books. Otherwise it costs
/// about one look for each job already proposed and for each class of jobs that wait, and a few for each pair;
/// workers are looked at in the order of choice, and lines in that of their first jobs, and only as many as are
/// needed.
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

/// All lines of one class.
struct Group<'a> {
    class: &'a Class,
    /// The lines not looked at yet, by the place of their first job.
    fronts: Iter<'a, u64, QueueName>,
    /// The workers found so far that take from it, best first. A standing in here may be older than
    /// the worker's own; then it is renewed when it comes up.
    workers: BinaryHeap<Reverse<Standing>>,
}

/// One line that was looked at.
struct Line<'a> {
    group: usize,
    queue: &'a QueueName,
    /// The jobs that wait in it.
    jobs: Iter<'a, u64, JobId>,
}

/// What comes next in the order of jobs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Head<'a> {
    /// The first job of a line that was not looked at yet, and the line's queue.
    Front(usize, &'a QueueName),
    /// A job of a line.
    Job(usize, JobId),
}

/// One run of the scheduler.
struct Round<'a> {
    machine: &'a Machine,
    alive: &'a dyn Fn(&WorkerId, Incarnation) -> bool,
    proposed: &'a Proposed,
    groups: Vec<Group<'a>>,
    lines: Vec<Line<'a>>,
    /// One for each group with lines to look at, and for each line that is still open, by place.
    heads: BinaryHeap<Reverse<(u64, Head<'a>)>>,
    /// How many jobs each queue with rules may still give out.
    rooms: BTreeMap<&'a QueueName, u64>,
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
            groups: Vec::new(),
            lines: Vec::new(),
            heads: BinaryHeap::new(),
            rooms: BTreeMap::new(),
            rest: rest.peekable(),
            candidates: BTreeMap::new(),
            turn: proposed.turn,
        };
        for (class, fronts) in open_classes(machine) {
            round.groups.push(Group { class, fronts: fronts.iter(), workers: BinaryHeap::new() });
            round.next_front(round.groups.len() - 1);
        }
        round
    }

    /// Puts the next line of a group among the heads.
    fn next_front(&mut self, group: usize) {
        if let Some((place, queue)) = self.groups.get_mut(group).and_then(|it| it.fronts.next()) {
            self.heads.push(Reverse((*place, Head::Front(group, queue))));
        }
    }

    /// Begins with a line.
    fn open_line(&mut self, group: usize, queue: &'a QueueName) {
        let Some(class) = self.groups.get(group).map(|group| group.class) else { return };
        let lane = Lane { queue: queue.clone(), class: class.clone() };
        let Some(line) = self.machine.books.lines().get(&lane) else { return };
        self.lines.push(Line { group, queue, jobs: line.iter() });
        self.next_job(self.lines.len() - 1);
    }

    /// Puts the next job of a line, one that is not proposed, among the heads; a line without one is closed.
    fn next_job(&mut self, at: usize) {
        let Some(line) = self.lines.get_mut(at) else { return };
        let jobs = &self.proposed.jobs;
        if let Some((place, id)) = line.jobs.find(|(_, id)| !jobs.contains_key(*id)) {
            self.heads.push(Reverse((*place, Head::Job(at, *id))));
        }
    }

    /// Chooses for the job that is first in order; a line from which nobody takes any more, or whose queue
    /// gives out no more, is closed: neither slots nor room come free during a run.
    fn next_pair(&mut self) -> Option<Pair> {
        while let Some(Reverse((_, head))) = self.heads.pop() {
            match head {
                Head::Front(group, queue) => {
                    // A group that no worker takes from is closed with all its lines.
                    if self.best(group).is_some() {
                        self.next_front(group);
                        self.open_line(group, queue);
                    }
                }
                Head::Job(at, job) => {
                    let Some(line) = self.lines.get(at) else { continue };
                    let (group, queue) = (line.group, line.queue);
                    if self.room(queue) == 0 {
                        continue;
                    }
                    let Some(worker) = self.best(group) else { continue };
                    let incarnation = self.take_slot(&worker)?;
                    if let Some(room) = self.rooms.get_mut(queue) {
                        *room -= 1;
                    }
                    self.next_job(at);
                    return Some(Pair { job, worker, incarnation });
                }
            }
        }
        None
    }

    /// Returns how many more jobs a queue may give out in this run.
    fn room(&mut self, queue: &'a QueueName) -> u64 {
        if let Some(room) = self.rooms.get(queue) {
            return *room;
        }
        let Some(known) = self.machine.books.queues().get(queue) else { return u64::MAX };
        if known.rules.is_none() {
            return u64::MAX;
        }
        let proposed = self.proposed.queues.get(queue).copied().unwrap_or_default();
        let room = known.room(self.machine.now()).saturating_sub(proposed);
        self.rooms.insert(queue, room);
        room
    }

    /// Finds the best worker for a group and leaves it in the group's heap.
    fn best(&mut self, group: usize) -> Option<WorkerId> {
        loop {
            self.renew(group);
            let best = self.groups.get(group)?.workers.peek().map(|it| &it.0);
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
    fn renew(&mut self, group: usize) {
        let Some(group) = self.groups.get_mut(group) else { return };
        while let Some(mut first) = group.workers.peek_mut() {
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
        for group in self.groups.iter_mut().filter(|group| worker.takes(group.class)) {
            group.workers.push(Reverse(standing.clone()));
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

/// Returns the classes in which jobs wait for a worker, and whose work one with a free slot does. Both sides are
/// sorted, so the shorter one is gone through and looked up in the other.
fn open_classes(machine: &Machine) -> Vec<(&Class, &Ordered<u64, QueueName>)> {
    let (fronts, offers) = (machine.books.fronts(), machine.registry.offers());
    if fronts.len() <= offers.len() {
        return fronts.iter().filter(|(class, _)| offers.contains_key(&class.work)).collect();
    }
    let of_work = |work: &Work| {
        let work = work.clone();
        let classes = fronts.range(Class::untagged(work.clone())..);
        classes.take_while(move |(class, _)| class.work == work)
    };
    offers.keys().flat_map(of_work).collect()
}

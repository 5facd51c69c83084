//! The registry of workers: who they are, what they hold, and who of them has a free slot.

use std::cmp::Ordering;
use std::sync::Arc;

use imbl::OrdMap;

use crate::jobs::digest::{Fold, Sum};
use crate::jobs::intake::Intake;
use crate::jobs::job::Serves;
use crate::jobs::lane::{Class, Work};
use crate::jobs::options::Tags;
use crate::types::{Fence, Incarnation, JobId, Millis, WorkerId};

/// What a worker weighs in the limit on resident bytes, beside the names of its queues.
pub const WORKER_BYTES: u64 = 768;

/// Where a worker is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WorkerState {
    /// Registered; jobs are assigned to it.
    Live,
    /// Judged lost; it holds nothing and gets nothing until it registers anew.
    Lost,
    /// Gone by its own will; it holds nothing and gets nothing until it registers anew.
    Left,
}

impl WorkerState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Live, Self::Lost, Self::Left];

    /// Returns the word for it, as users read it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Lost => "lost",
            Self::Left => "left",
        }
    }

    /// Returns the number that stands for it in digests and images.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Live => 0,
            Self::Lost => 1,
            Self::Left => 2,
        }
    }

    /// Finds the state that a number stands for.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.code() == code)
    }
}

/// One worker.
///
/// `running` holds at most `slots` jobs, and none unless the worker is live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// Its name, the same over its restarts.
    pub id: WorkerId,
    /// Its newest start: the highest that ever registered.
    pub incarnation: Incarnation,
    /// How many jobs it runs at once.
    pub slots: u32,
    /// What it takes.
    pub serves: Serves,
    /// What it has: jobs that ask for more go elsewhere.
    pub tags: Tags,
    /// Where it is in its life.
    pub state: WorkerState,
    /// Whether its users want it to be given jobs.
    pub intake: Intake,
    /// When this start registered.
    pub registered_ms: Millis,
    /// When it came into its state.
    pub since_ms: Millis,
    /// The token of the last job it was given, over all its starts; 0 for none.
    pub last_assigned: Fence,
    /// What it runs.
    pub running: OrdMap<Fence, JobId>,
}

impl Worker {
    /// Tells whether it can be given one more job now.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.intake == Intake::Open && self.has_slot()
    }

    /// Tells whether one more job can be its own. One that is quiet keeps what it has, so this is what a
    /// machine that is built again asks.
    #[must_use]
    pub fn has_slot(&self) -> bool {
        self.state == WorkerState::Live && self.running.len() < self.slots as usize
    }

    /// Tells whether it takes jobs of this class.
    #[must_use]
    pub fn takes(&self, class: &Class) -> bool {
        let does = match (&self.serves, &class.work) {
            (Serves::Commands, Work::Commands) => true,
            (Serves::Payloads(queues), Work::Payloads(queue)) => queues.contains(queue),
            (Serves::Commands, Work::Payloads(_)) | (Serves::Payloads(_), Work::Commands) => false,
        };
        does && class.tags.are_among(&self.tags)
    }

    /// Returns the work it does.
    #[must_use]
    pub fn works(&self) -> Vec<Work> {
        match &self.serves {
            Serves::Commands => vec![Work::Commands],
            Serves::Payloads(queues) => queues.iter().cloned().map(Work::Payloads).collect(),
        }
    }

    /// Returns what it counts in the limit on resident bytes.
    #[must_use]
    pub fn weight(&self) -> u64 {
        WORKER_BYTES
            + self.tags.memory() as u64
            + match &self.serves {
                Serves::Commands => 0,
                Serves::Payloads(queues) => {
                    queues.iter().map(|queue| queue.as_str().len() as u64 + 48).sum()
                }
            }
    }

    /// Returns its place among the workers that have a free slot.
    #[must_use]
    pub fn place(&self) -> Place {
        let running = u32::try_from(self.running.len()).unwrap_or(u32::MAX);
        Place {
            load: Load { running, slots: self.slots },
            last_assigned: self.last_assigned,
            worker: self.id.clone(),
        }
    }

    /// Hashes everything that changes seldom.
    fn record(&self) -> u128 {
        let mut fold = Fold::new(b'w');
        fold.bytes(self.id.as_str().as_bytes())
            .u64(self.incarnation.0)
            .u64(u64::from(self.slots))
            .u8(self.state.code())
            .u8(self.intake.code())
            .millis(self.registered_ms)
            .millis(self.since_ms)
            .u64(self.tags.as_slice().len() as u64);
        for tag in self.tags.as_slice() {
            fold.bytes(tag.as_str().as_bytes());
        }
        match &self.serves {
            Serves::Commands => fold.u8(0),
            Serves::Payloads(queues) => {
                queues.iter().fold(fold.u8(1).u64(queues.len() as u64), |fold, queue| {
                    fold.bytes(queue.as_str().as_bytes())
                })
            }
        }
        .finish()
    }

    /// Hashes what changes with every assignment. What it runs is in the records of those jobs.
    fn assigned_record(&self) -> u128 {
        Fold::new(b'a').bytes(self.id.as_str().as_bytes()).fence(self.last_assigned).finish()
    }
}

/// How busy a worker is: a fraction, compared exactly.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Jobs it has.
    pub running: u32,
    /// Jobs it can have, 1 or more.
    pub slots: u32,
}

impl Ord for Load {
    fn cmp(&self, other: &Self) -> Ordering {
        let left = u64::from(self.running) * u64::from(other.slots);
        let right = u64::from(other.running) * u64::from(self.slots);
        left.cmp(&right)
    }
}

impl PartialOrd for Load {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Load {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Load {}

/// A worker's place in the order of choice: the least loaded first, then the one that has waited
/// longest for a job, then by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// How busy it is.
    pub load: Load,
    /// When it was last given a job.
    pub last_assigned: Fence,
    /// Its name.
    pub worker: WorkerId,
}

/// The registry.
///
/// - `gone` names exactly the workers that are lost or left, by when that happened.
/// - `free` holds the places of exactly the workers that are live, open and have a free slot.
/// - `offers` counts, for each kind of work, the workers in `free` that do it; no count is 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registry {
    workers: OrdMap<WorkerId, Arc<Worker>>,
    gone: OrdMap<(Millis, WorkerId), ()>,
    free: OrdMap<Place, ()>,
    offers: OrdMap<Work, u64>,
    slots_live: u64,
    bytes: u64,
    sum: Sum,
}

impl Registry {
    /// Returns a worker.
    #[must_use]
    pub fn get(&self, id: &WorkerId) -> Option<&Arc<Worker>> {
        self.workers.get(id)
    }

    /// Goes through the workers in order of name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Worker>> {
        self.workers.values()
    }

    /// Returns how many there are, the lost and left ones included.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.workers.len() as u64
    }

    /// Tells whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    /// Returns how many are live.
    #[must_use]
    pub fn live(&self) -> u64 {
        (self.workers.len() - self.gone.len()) as u64
    }

    /// Returns how many slots the live ones have together.
    #[must_use]
    pub fn slots_live(&self) -> u64 {
        self.slots_live
    }

    /// Returns what they weigh.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns its share of the digest.
    #[must_use]
    pub fn sum(&self) -> u128 {
        self.sum.value()
    }

    /// Goes through the workers that have a free slot, in the order of choice.
    pub fn free(&self) -> impl Iterator<Item = &Place> {
        self.free.keys()
    }

    /// Returns, for each kind of work, how many workers with a free slot do it.
    #[must_use]
    pub fn offers(&self) -> &OrdMap<Work, u64> {
        &self.offers
    }

    /// Records a worker in place of what was recorded of it.
    pub fn put(&mut self, worker: Worker) {
        self.remove(&worker.id);
        self.sum.add(worker.record());
        self.sum.add(worker.assigned_record());
        self.bytes += worker.weight();
        if worker.state == WorkerState::Live {
            self.slots_live += u64::from(worker.slots);
        } else {
            self.gone.insert((worker.since_ms, worker.id.clone()), ());
        }
        if worker.is_free() {
            self.free.insert(worker.place(), ());
            offer(&mut self.offers, &worker);
        }
        self.workers.insert(worker.id.clone(), Arc::new(worker));
    }

    fn remove(&mut self, id: &WorkerId) {
        let Some(worker) = self.workers.remove(id) else { return };
        self.sum.take(worker.record());
        self.sum.take(worker.assigned_record());
        self.bytes -= worker.weight();
        if worker.state == WorkerState::Live {
            self.slots_live -= u64::from(worker.slots);
        } else {
            self.gone.remove(&(worker.since_ms, worker.id.clone()));
        }
        if worker.is_free() {
            self.free.remove(&worker.place());
            withdraw_offer(&mut self.offers, &worker);
        }
    }

    /// Drops the worker that is gone longest. Returns whether there was one.
    pub fn drop_longest_gone(&mut self) -> bool {
        let Some(((_, id), ())) = self.gone.get_min() else { return false };
        let id = id.clone();
        self.remove(&id);
        true
    }

    /// Writes down that a worker has a job now.
    ///
    /// # Panics
    /// If it is not recorded, has no free slot or has a job under this token: the caller looked.
    pub fn hold(&mut self, id: &WorkerId, fence: Fence, job: JobId) {
        self.change(id, |worker| {
            assert!(worker.has_slot(), "worker {} has no free slot", worker.id);
            worker.last_assigned = worker.last_assigned.max(fence);
            let former = worker.running.insert(fence, job);
            assert!(former.is_none(), "two jobs under the token {fence}");
        });
    }

    /// Writes down that a worker has a job no more.
    ///
    /// # Panics
    /// If it did not have it.
    pub fn release(&mut self, id: &WorkerId, fence: Fence) {
        self.change(id, |worker| {
            let held = worker.running.remove(&fence);
            assert!(held.is_some(), "worker {} holds nothing under {fence}", worker.id);
        });
    }

    fn change(&mut self, id: &WorkerId, change: impl FnOnce(&mut Worker)) {
        let Self { workers, free, offers, sum, .. } = self;
        let slot = workers.get_mut(id).expect("who holds a job is registered");
        let before = slot.is_free().then(|| slot.place());
        let assigned = slot.last_assigned;
        let record = slot.assigned_record();
        let worker = Arc::make_mut(slot);
        change(worker);
        if worker.last_assigned != assigned {
            sum.take(record);
            sum.add(worker.assigned_record());
        }
        match (before, worker.is_free()) {
            (Some(before), true) => {
                free.remove(&before);
                free.insert(worker.place(), ());
            }
            (Some(before), false) => {
                free.remove(&before);
                withdraw_offer(offers, worker);
            }
            (None, true) => {
                free.insert(worker.place(), ());
                offer(offers, worker);
            }
            (None, false) => {}
        }
    }
}

fn offer(offers: &mut OrdMap<Work, u64>, worker: &Worker) {
    for work in worker.works() {
        *offers.entry(work).or_default() += 1;
    }
}

fn withdraw_offer(offers: &mut OrdMap<Work, u64>, worker: &Worker) {
    for work in worker.works() {
        let count = offers.get_mut(&work).expect("an offer was counted");
        *count -= 1;
        if *count == 0 {
            offers.remove(&work);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_compare_as_fractions() {
        let load = |running, slots| Load { running, slots };
        assert_eq!(load(1, 2), load(2, 4));
        assert!(load(1, 3) < load(1, 2));
        assert!(load(4095, 4096) < load(1, 1));
        assert!(load(0, 1) < load(1, 4096));
    }
}

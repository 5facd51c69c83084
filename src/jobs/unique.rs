//! The keys of unique jobs: who holds which, and until when.

use imbl::OrdMap;

use crate::jobs::digest::{Fold, Sum};
use crate::jobs::machine::Machine;
use crate::jobs::options::Options;
use crate::jobs::resident::Job;
use crate::types::{JobId, Millis, QueueName, UniqueKey};

/// What a held key weighs in the limit on resident bytes, beside its text and that of its queue.
const LOCK_BYTES: u64 = 256;

/// A key is one queue's own.
pub type Place = (QueueName, UniqueKey);

/// Who holds a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    /// The job; with a time it need not be kept any more.
    pub job: JobId,
    /// Until this time, whatever becomes of the job; `None`: until the job ends.
    pub until: Option<Millis>,
}

impl Lock {
    fn record(&self, (queue, key): &Place) -> u128 {
        Fold::new(b'u')
            .bytes(queue.as_str().as_bytes())
            .bytes(key.as_str().as_bytes())
            .id(&self.job.0)
            .u64(self.until.map_or(0, |at| at.0.saturating_add(1)))
            .finish()
    }
}

/// The keys that are held.
///
/// - `expiries` names exactly the locks that have a time, by it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uniques {
    locks: OrdMap<Place, Lock>,
    expiries: OrdMap<(Millis, Place), ()>,
    bytes: u64,
    sum: Sum,
}

impl Uniques {
    /// Returns who holds a key at a time.
    #[must_use]
    pub fn holder(&self, place: &Place, now: Millis) -> Option<JobId> {
        let lock = self.locks.get(place)?;
        lock.until.is_none_or(|until| until > now).then_some(lock.job)
    }

    /// Goes through the locks that have a time: those without one are told by their jobs.
    pub fn timed(&self) -> impl Iterator<Item = (&Place, &Lock)> {
        self.locks.iter().filter(|(_, lock)| lock.until.is_some())
    }

    /// Tells whether no key is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.locks.is_empty()
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

    /// Gives a key to a job, in place of whoever held it and holds it no more.
    pub fn lock(&mut self, place: Place, lock: Lock) {
        self.unlock(&place);
        self.sum.add(lock.record(&place));
        self.bytes += weight(&place);
        if let Some(until) = lock.until {
            self.expiries.insert((until, place.clone()), ());
        }
        self.locks.insert(place, lock);
    }

    /// Takes a key back, if anybody has it.
    pub fn unlock(&mut self, place: &Place) {
        let Some(lock) = self.locks.remove(place) else { return };
        self.sum.take(lock.record(place));
        self.bytes -= weight(place);
        if let Some(until) = lock.until {
            self.expiries.remove(&(until, place.clone()));
        }
    }

    /// Drops the lock that expires first, if its time has come. Returns whether there was one.
    pub fn drop_expired(&mut self, now: Millis) -> bool {
        let Some(((until, place), ())) = self.expiries.get_min() else { return false };
        if *until > now {
            return false;
        }
        let place = place.clone();
        self.unlock(&place);
        true
    }
}

fn weight((queue, key): &Place) -> u64 {
    LOCK_BYTES + (queue.as_str().len() + key.as_str().len()) as u64
}

/// Returns what the key of a new job will weigh.
#[must_use]
pub fn weight_of_new(queue: &QueueName, options: &Options) -> u64 {
    options.unique.as_ref().map_or(0, |key| weight(&(queue.clone(), key.clone())))
}

/// Returns the key that a job has until it ends, if it has such a one.
#[must_use]
pub fn held_until_end(job: &Job) -> Option<Place> {
    let options = job.options();
    let key = options.unique.as_ref().filter(|_| options.unique_for_ms.is_none())?;
    Some((job.queue.clone(), key.clone()))
}

impl Machine {
    /// Returns who holds the key that a new job of these options would have.
    pub(in crate::jobs) fn holder_of(&self, queue: &QueueName, options: &Options) -> Option<JobId> {
        let key = options.unique.as_ref()?;
        self.uniques.holder(&(queue.clone(), key.clone()), self.now)
    }

    /// Gives a job the key that it holds until it ends, if it has one and has not ended.
    pub(in crate::jobs) fn lock_until_end(&mut self, job: &Job) {
        if let Some(place) = held_until_end(job).filter(|_| !job.status.is_final()) {
            self.uniques.lock(place, Lock { job: job.id, until: None });
        }
    }

    /// Gives a new job its key for the time that it asks for.
    pub(in crate::jobs) fn lock_for_a_time(&mut self, job: &Job) {
        let options = job.options();
        if let (Some(key), Some(ms)) = (&options.unique, options.unique_for_ms) {
            let until = Some(Millis(self.now.0.saturating_add(ms)));
            let place = (job.queue.clone(), key.clone());
            self.uniques.lock(place, Lock { job: job.id, until });
        }
    }

    /// Takes a job's key back, if it still has it.
    pub(in crate::jobs) fn unlock(&mut self, id: JobId) {
        let Some(job) = self.jobs.get(&id) else { return };
        let Some(key) = job.options().unique.clone() else { return };
        let place = (job.queue.clone(), key);
        if self.uniques.holder(&place, self.now) == Some(id) {
            self.uniques.unlock(&place);
        }
    }

    /// Takes the key back that a job held until its end.
    pub(in crate::jobs) fn unlock_ended(&mut self, id: JobId) {
        // Most jobs have no key: those of a queue without any are not looked up for it.
        if self.uniques.is_empty() {
            return;
        }
        let Some(place) = self.jobs.get(&id).and_then(|job| held_until_end(job)) else { return };
        if self.uniques.holder(&place, self.now) == Some(id) {
            self.uniques.unlock(&place);
        }
    }
}

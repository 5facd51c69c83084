//! The ids of jobs that are forgotten, kept a while so that a late repeat of a submit is known.

use crate::jobs::digest::{Content, Fold, Sum};
use crate::jobs::ordered::Ordered;
use crate::types::{JobId, Millis};

/// What one forgotten id weighs in the limit on resident bytes.
pub const FORGOTTEN_BYTES: u64 = 160;

/// What is left of a forgotten job. Small enough to stand in the map itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forgotten {
    /// What it was.
    pub content: Content,
    /// When the id is dropped too.
    pub expires_ms: Millis,
}

impl Forgotten {
    fn record(&self, id: JobId) -> u128 {
        Fold::new(b'f').id(&id.0).id(&self.content.0).millis(self.expires_ms).finish()
    }
}

/// The forgotten ids, by id and by time.
///
/// - `expiries` holds `(expires_ms, id)` for exactly the pairs in `ids`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForgottenIds {
    ids: Ordered<JobId, Forgotten>,
    expiries: Ordered<(Millis, JobId), ()>,
    sum: Sum,
}

impl ForgottenIds {
    /// Returns what is left of a job.
    #[must_use]
    pub fn get(&self, id: JobId) -> Option<&Forgotten> {
        self.ids.get(&id)
    }

    /// Returns how many there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.ids.len() as u64
    }

    /// Tells whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Goes through them in order of id.
    pub fn iter(&self) -> impl Iterator<Item = (JobId, Forgotten)> + '_ {
        self.ids.iter().map(|(id, forgotten)| (*id, *forgotten))
    }

    /// Keeps an id.
    ///
    /// # Panics
    /// If it is kept already: a job is forgotten once.
    pub fn keep(&mut self, id: JobId, forgotten: Forgotten) {
        self.sum.add(forgotten.record(id));
        let former = self.ids.insert(id, forgotten);
        assert!(former.is_none(), "job {id} forgotten twice");
        self.expiries.insert((forgotten.expires_ms, id), ());
    }

    /// Drops the id that expires first, if its time has come. Returns whether there was one.
    pub fn drop_expired(&mut self, now: Millis) -> bool {
        let Some((key, ())) = self.expiries.get_min() else { return false };
        let (expires_ms, id) = *key;
        if expires_ms > now {
            return false;
        }
        self.expiries.remove(&(expires_ms, id));
        if let Some(forgotten) = self.ids.remove(&id) {
            self.sum.take(forgotten.record(id));
        }
        true
    }

    /// Returns its share of the digest.
    #[must_use]
    pub fn sum(&self) -> u128 {
        self.sum.value()
    }
}

//! One number for the whole machine, kept up to date record by record.

use std::fmt;
use std::hash::Hasher;

use serde::{Deserialize, Serialize};
use siphasher::sip128::{Hasher128, SipHasher24};

use crate::types::{Fence, Index, Millis};

/// How often a digest is taken: after every entry whose index is a multiple of this.
pub const DIGEST_EVERY: u64 = 64;

/// How many digests are kept; the oldest is dropped for a new one.
pub const DIGESTS_KEPT: usize = 64;

/// The key of every hash here. It is fixed, so that all nodes agree; it is no secret.
const KEY: [u8; 16] = *b"raftq machine 01";

/// A sum over all records of a machine: equal machines have equal digests, and two machines that
/// differ have the same one by an accident of one in 2^128 only. It guards against faults, not
/// against somebody who searches for a collision.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub u128);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Written as 16 raw bytes (MessagePack `bin`), the highest first.
impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0.to_be_bytes())
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <serde_bytes::ByteArray<16>>::deserialize(deserializer)
            .map(|bytes| Self(u128::from_be_bytes(bytes.into_array())))
    }
}

/// A wrapping sum of record hashes: the order in which records came does not matter, and one that
/// leaves takes exactly its share with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u128);

impl Sum {
    /// Adds a record's hash.
    pub fn add(&mut self, record: u128) {
        self.0 = self.0.wrapping_add(record);
    }

    /// Takes a record's hash away again.
    pub fn take(&mut self, record: u128) {
        self.0 = self.0.wrapping_sub(record);
    }

    /// Returns the sum so far.
    #[must_use]
    pub fn value(self) -> u128 {
        self.0
    }
}

/// Hashes one record, field by field. Each kind of record begins with a letter of its own and every
/// field has a fixed length or says its length, so that no two records feed the same bytes.
#[derive(Clone, Debug)]
pub struct Fold(SipHasher24);

impl Fold {
    /// Begins a record of this kind.
    #[must_use]
    pub fn new(kind: u8) -> Self {
        let mut hasher = SipHasher24::new_with_key(&KEY);
        hasher.write(&[kind]);
        Self(hasher)
    }

    /// Adds a small number, such as the code of a variant.
    #[must_use]
    pub fn u8(mut self, value: u8) -> Self {
        self.0.write(&[value]);
        self
    }

    /// Adds a number.
    #[must_use]
    pub fn u64(mut self, value: u64) -> Self {
        self.0.write(&value.to_le_bytes());
        self
    }

    /// Adds an index.
    #[must_use]
    pub fn index(self, value: Index) -> Self {
        self.u64(value.0)
    }

    /// Adds a time.
    #[must_use]
    pub fn millis(self, value: Millis) -> Self {
        self.u64(value.0)
    }

    /// Adds a fence.
    #[must_use]
    pub fn fence(self, value: Fence) -> Self {
        self.u64(value.0)
    }

    /// Adds sixteen bytes.
    #[must_use]
    pub fn id(mut self, value: &[u8; 16]) -> Self {
        self.0.write(value);
        self
    }

    /// Adds bytes of any length, with their length.
    #[must_use]
    pub fn bytes(mut self, value: &[u8]) -> Self {
        self.0.write(&(value.len() as u64).to_le_bytes());
        self.0.write(value);
        self
    }

    /// Ends the record.
    #[must_use]
    pub fn finish(self) -> u128 {
        self.0.finish128().as_u128()
    }
}

/// What is left of a long text or body in the digest: its hash, computed once.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Content(pub [u8; 16]);

impl Content {
    /// Ends a record whose hash is kept.
    #[must_use]
    pub fn of(fold: Fold) -> Self {
        Self(fold.finish().to_be_bytes())
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl Serialize for Content {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <serde_bytes::ByteArray<16>>::deserialize(deserializer)
            .map(|bytes| Self(bytes.into_array()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sum_is_back_to_zero_when_every_record_left_in_another_order() {
        let records = [Fold::new(b'a').u64(1).finish(), Fold::new(b'a').u64(2).finish(), u128::MAX];
        let mut sum = Sum::default();
        records.iter().for_each(|record| sum.add(*record));
        assert_ne!(sum, Sum::default());
        records.iter().rev().for_each(|record| sum.take(*record));
        assert_eq!(sum, Sum::default());
    }

    #[test]
    fn fields_of_other_lengths_hash_apart() {
        let one = Fold::new(b'x').bytes(b"ab").bytes(b"c").finish();
        let other = Fold::new(b'x').bytes(b"a").bytes(b"bc").finish();
        assert_ne!(one, other);
    }

    #[test]
    fn hash_is_the_same_on_every_build() {
        // A pinned value: a change of key, of hash or of byte order would split a mixed cluster.
        let hash = Fold::new(b'x').u64(7).id(&[1; 16]).bytes(b"raftq").finish();
        assert_eq!(Digest(hash).to_string(), PINNED);
    }

    const PINNED: &str = "1298d2aaa64331c1d60ea65e25672935";
}

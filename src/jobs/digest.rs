//! One number for the whole machine, kept up to date record by record.

use std::fmt;

use serde::{Deserialize, Serialize};
use twox_hash::xxhash3_128::Hasher;

use crate::types::{Fence, Index, Millis};

/// How often a digest is taken: after every entry whose index is a multiple of this.
pub const DIGEST_EVERY: u64 = 64;

/// How many digests are kept; the oldest is dropped for a new one.
pub const DIGESTS_KEPT: usize = 64;

/// The seed of every hash here. It is fixed, so that all nodes agree; it is no secret.
const SEED: u64 = u64::from_le_bytes(*b"raftq 01");

/// How many bytes of a record are hashed at once: those of a job's are fewer.
const GATHERED_BYTES: usize = 256;

/// Bytes that are no more than so many take part as they are.
const SHORT_BYTES_MAX: usize = 64;

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
///
/// The fields are gathered and hashed at once by XXH3 of 128 bits: many small strokes of a hash cost more than
/// the hash. Long bytes take part by their own hash, and what does not fit begins anew with the hash so far.
#[derive(Clone, Debug)]
pub struct Fold {
    gathered: [u8; GATHERED_BYTES],
    len: usize,
}

impl Fold {
    /// Begins a record of this kind.
    #[must_use]
    pub fn new(kind: u8) -> Self {
        let mut fold = Self { gathered: [0; GATHERED_BYTES], len: 0 };
        fold.put(&[kind]);
        fold
    }

    /// Adds a small number, such as the code of a variant.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.put(&[value])
    }

    /// Adds a number.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    /// Adds an index.
    pub fn index(&mut self, value: Index) -> &mut Self {
        self.u64(value.0)
    }

    /// Adds a time.
    pub fn millis(&mut self, value: Millis) -> &mut Self {
        self.u64(value.0)
    }

    /// Adds a fence.
    pub fn fence(&mut self, value: Fence) -> &mut Self {
        self.u64(value.0)
    }

    /// Adds sixteen bytes.
    pub fn id(&mut self, value: &[u8; 16]) -> &mut Self {
        self.put(value)
    }

    /// Adds bytes of any length, with their length.
    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.u64(value.len() as u64);
        match value.len() <= SHORT_BYTES_MAX {
            true => self.put_short(value),
            false => self.put(&hash(value).to_le_bytes()),
        }
    }

    /// Ends the record.
    #[must_use]
    pub fn finish(&self) -> u128 {
        hash(self.gathered.get(..self.len).unwrap_or_default())
    }

    /// Adds a field of a fixed length, in one stroke: most are a word, and a call for each would cost more than they.
    #[inline]
    fn put<const N: usize>(&mut self, value: &[u8; N]) -> &mut Self {
        if self.len + N > GATHERED_BYTES {
            self.begin_anew();
        }
        let room = self.gathered.get_mut(self.len..).and_then(<[u8]>::first_chunk_mut);
        *room.expect("a field is shorter than the room") = *value;
        self.len += N;
        self
    }

    /// Adds up to [`SHORT_BYTES_MAX`] bytes.
    fn put_short(&mut self, value: &[u8]) -> &mut Self {
        if self.len + value.len() > GATHERED_BYTES {
            self.begin_anew();
        }
        let end = self.len + value.len();
        let room = self.gathered.get_mut(self.len..end);
        room.expect("a field is shorter than the room").copy_from_slice(value);
        self.len = end;
        self
    }

    /// Begins anew with the hash so far.
    #[cold]
    fn begin_anew(&mut self) {
        let so_far = self.finish().to_le_bytes();
        self.len = 0;
        self.put(&so_far);
    }
}

/// Hashes bytes.
fn hash(bytes: &[u8]) -> u128 {
    Hasher::oneshot_with_seed(SEED, bytes)
}

/// What is left of a long text or body in the digest: its hash, computed once.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Content(pub [u8; 16]);

impl Content {
    /// Ends a record whose hash is kept.
    #[must_use]
    pub fn of(fold: &Fold) -> Self {
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
    fn long_bytes_and_many_fields_hash_apart() {
        let long =
            |last: u8| Fold::new(b'x').bytes(&[[1; 100].as_slice(), &[last]].concat()).finish();
        assert_ne!(long(1), long(2));
        let many = |first: u8, last: u8| {
            let mut fold = Fold::new(b'x');
            fold.u8(first);
            (0..100).for_each(|n| _ = fold.u64(n));
            fold.u8(last).finish()
        };
        assert_ne!(many(1, 3), many(2, 3));
        assert_ne!(many(1, 3), many(1, 4));
    }

    #[test]
    fn hash_is_the_same_on_every_build() {
        // A pinned value: a change of key, of hash or of byte order would split a mixed cluster.
        let mut fold = Fold::new(b'x');
        fold.u64(7).id(&[1; 16]).bytes(b"raftq").bytes(&[7; 300]);
        (0..32).for_each(|n| _ = fold.u64(n));
        let hash = fold.finish();
        assert_eq!(Digest(hash).to_string(), PINNED);
    }

    const PINNED: &str = "767de8d875ceb26017813bf32ad6d0d5";
}

//! Records of the log: one batch each, bytes to items and back, with nothing of a file in it.
//!
//! A record is a header of 24 bytes and a payload, all numbers little-endian:
//!
//! ```text
//! magic u32 | payload length u32 | CRC-32 u32 | group u32 | sequence u64 | payload: items
//! ```
//!
//! The CRC (as zlib has it) covers the directory's random salt, the segment's number, the length, the
//! group, the sequence and the payload. The salt is never in the file, so no payload can look like a record; the
//! segment's number keeps a record from being taken for one of another segment.

use bytes::Bytes;

use crate::pack::unpack::{Structs, unpack};
use crate::raft::message::{Entry, EntryKind, HardState, SnapshotMeta};
use crate::types::{Index, NodeId, Term};

/// The first bytes of a record.
pub const MAGIC: [u8; 4] = *b"rqL1";

/// Bytes before a record's payload.
pub const HEADER_BYTES: usize = 24;

/// The Raft group of a record. There is one today; its number has a place, so that more of them can
/// share a log one day.
pub const GROUP: u32 = 0;

/// Bytes of a payload, at most: far above what consensus puts into one batch. A longer claim is no
/// record.
pub const PAYLOAD_BYTES_MAX: usize = 256 << 20;

/// No record, entry or term has a number above this: at a million a second that would take 146,000 years. A
/// larger one is damage, whatever its checksum says, and numbers below can be counted on.
pub const NUMBER_MAX: u64 = 1 << 62;

const HARD_STATE: u8 = 1;
const RESET: u8 = 2;
const ENTRY: u8 = 3;
const COMMIT: u8 = 4;
const BASE: u8 = 5;

/// What a record is checked against beside itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The directory's salt.
    pub salt: u64,
    /// The segment's number.
    pub segment: u64,
}

/// One thing a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// Term and vote.
    HardState(HardState),
    /// The log begins anew after a snapshot.
    Reset(SnapshotMeta),
    /// An entry; one at or below the last takes the place of it and of all that follow it.
    Entry(Entry),
    /// The commit index, a hint.
    Commit(Index),
    /// The first item of a segment: the last entry before it. Entries that follow may take the place
    /// of earlier ones all the same.
    Base(Index),
}

/// Builds one record in a buffer that is used again and again.
#[derive(Debug, Default)]
pub struct RecordBuilder {
    buffer: Vec<u8>,
}

impl RecordBuilder {
    /// Begins a record.
    pub fn begin(&mut self) {
        self.buffer.clear();
        self.buffer.resize(HEADER_BYTES, 0);
    }

    /// Adds an item.
    ///
    /// # Panics
    /// Never: an entry's data is far shorter than 4 GiB, and a meta encodes.
    pub fn add(&mut self, item: &Item) {
        match item {
            Item::HardState(hard) => {
                self.buffer.push(HARD_STATE);
                self.u64(hard.term.0);
                self.u64(hard.vote.map_or(0, |id| id.0));
            }
            Item::Reset(meta) => {
                let bytes = rmp_serde::to_vec_named(meta).expect("a meta has nothing unencodable");
                self.buffer.push(RESET);
                self.bytes(&bytes);
            }
            Item::Entry(entry) => self.add_entry(entry),
            Item::Commit(index) => {
                self.buffer.push(COMMIT);
                self.u64(index.0);
            }
            Item::Base(index) => {
                self.buffer.push(BASE);
                self.u64(index.0);
            }
        }
    }

    /// Adds an entry without a copy of it in between.
    pub fn add_entry(&mut self, entry: &Entry) {
        self.buffer.push(ENTRY);
        self.u64(entry.index.0);
        self.u64(entry.term.0);
        self.buffer.push(match entry.kind {
            EntryKind::Noop => 0,
            EntryKind::Configuration => 1,
            EntryKind::Command => 2,
        });
        self.bytes(&entry.data);
    }

    /// Ends the record and returns its bytes.
    ///
    /// # Panics
    /// If the payload is above [`PAYLOAD_BYTES_MAX`]: consensus bounds its batches far below.
    pub fn finish(&mut self, place: Place, seq: u64) -> &[u8] {
        let payload = self.buffer.len() - HEADER_BYTES;
        assert!(payload <= PAYLOAD_BYTES_MAX, "a batch of {payload} bytes");
        let length = u32::try_from(payload).expect("at most 256 MiB");
        let crc = self
            .buffer
            .get(HEADER_BYTES..)
            .map_or(0, |payload| checksum(place, length, seq, payload));
        let header = MAGIC
            .into_iter()
            .chain(length.to_le_bytes())
            .chain(crc.to_le_bytes())
            .chain(GROUP.to_le_bytes())
            .chain(seq.to_le_bytes());
        for (into, byte) in self.buffer.iter_mut().zip(header) {
            *into = byte;
        }
        &self.buffer
    }

    fn u64(&mut self, value: u64) {
        self.buffer.extend_from_slice(&value.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        let length = u32::try_from(bytes.len()).expect("data is far shorter than 4 GiB");
        self.buffer.extend_from_slice(&length.to_le_bytes());
        self.buffer.extend_from_slice(bytes);
    }
}

fn checksum(place: Place, length: u32, seq: u64, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&place.salt.to_le_bytes());
    hasher.update(&place.segment.to_le_bytes());
    hasher.update(&length.to_le_bytes());
    hasher.update(&GROUP.to_le_bytes());
    hasher.update(&seq.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

/// A record that is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its number in the log, rising by one with each.
    pub seq: u64,
    /// Its items, not yet looked at.
    pub payload: &'a [u8],
}

impl Record<'_> {
    /// Returns the bytes it takes in the file.
    #[must_use]
    pub fn len(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }

    /// Tells whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.payload.is_empty()
    }
}

/// What lies at a place where a record may begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// A whole record.
    Record(Record<'a>),
    /// Nothing: zeroes, or the end.
    Nothing,
    /// Something that is no whole record, and why.
    Bad(&'static str),
    /// Something that would reach beyond the end of the file. A write that was cut off leaves no such thing, as a
    /// file of the log has its whole size before its first record: the file was cut, or its bytes have changed.
    Beyond(&'static str),
}

/// Looks for a record at the start of `bytes`.
#[must_use]
pub fn read(bytes: &[u8], place: Place) -> Found<'_> {
    let Some((header, rest)) = bytes.split_at_checked(HEADER_BYTES) else {
        let blank = bytes.iter().all(|byte| *byte == 0);
        return if blank { Found::Nothing } else { Found::Beyond("a cut header") };
    };
    if header.iter().all(|byte| *byte == 0) {
        return Found::Nothing;
    }
    let header = match Header::read(header) {
        Ok(header) => header,
        Err(what) => return Found::Bad(what),
    };
    let Header { length, crc, seq } = header;
    let bytes = usize::try_from(length).unwrap_or(usize::MAX);
    let Some(payload) = rest.get(..bytes) else {
        return Found::Beyond("a length beyond the file");
    };
    if checksum(place, length, seq, payload) != crc {
        return Found::Bad("a wrong checksum");
    }
    Found::Record(Record { seq, payload })
}

/// The first bytes of a record, as far as they can be checked alone.
struct Header {
    length: u32,
    crc: u32,
    seq: u64,
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Self, &'static str> {
        let cut = "a cut header";
        let mut reader = Reader(bytes);
        if reader.take(4) != Some(&MAGIC) {
            return Err("no magic number");
        }
        let length = reader.u32().ok_or(cut)?;
        let crc = reader.u32().ok_or(cut)?;
        let group = reader.u32().ok_or(cut)?;
        let seq = reader.u64().ok_or(cut)?;
        if usize::try_from(length).is_ok_and(|length| length > PAYLOAD_BYTES_MAX) {
            return Err("an impossible length");
        }
        if group != GROUP {
            return Err("a group that does not exist");
        }
        if seq > NUMBER_MAX {
            return Err("an impossible number of a record");
        }
        Ok(Self { length, crc, seq })
    }
}

/// Finds the next whole record anywhere in `bytes` whose number is above `after`, with its offset.
///
/// The number is what tells a later record from a copy of an earlier one: somebody may have queued
/// the very bytes of this log as a job. It is looked at before the checksum is, and it cannot be
/// higher than the records that fit into `bytes` could make it: bytes that are full of magic numbers
/// are not checked to their end at each of them.
#[must_use]
pub fn search(bytes: &[u8], place: Place, after: Option<u64>) -> Option<(usize, Record<'_>)> {
    let most = after.map(|seq| seq.saturating_add(1 + (bytes.len() / HEADER_BYTES) as u64));
    let fits =
        |seq: u64| after.is_none_or(|after| seq > after) && most.is_none_or(|most| seq <= most);
    let mut at = 0;
    while let Some(rest) = bytes.get(at..) {
        at += rest.windows(MAGIC.len()).position(|window| *window == MAGIC)?;
        if let Some(rest) = bytes.get(at..)
            && Header::read(rest).is_ok_and(|header| fits(header.seq))
            && let Found::Record(record) = read(rest, place)
        {
            return Some((at, record));
        }
        at += 1;
    }
    None
}

/// Reads the items of a payload, each with its bytes copied out, in order.
///
/// # Errors
/// What is wrong; a payload with a right checksum always reads, unless another version wrote it.
pub fn items(payload: &[u8], mut each: impl FnMut(Item)) -> Result<(), &'static str> {
    let mut reader = Reader(payload);
    while !reader.0.is_empty() {
        each(reader.item()?);
    }
    Ok(())
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.u32()?).ok()?;
        self.take(length)
    }

    /// Reads an index or a term.
    fn number(&mut self) -> Result<u64, &'static str> {
        let number = self.u64().ok_or("a cut item")?;
        if number > NUMBER_MAX { Err("an impossible index or term") } else { Ok(number) }
    }

    fn item(&mut self) -> Result<Item, &'static str> {
        let cut = "a cut item";
        match self.u8().ok_or(cut)? {
            HARD_STATE => {
                let term = Term(self.number()?);
                let vote = self.u64().ok_or(cut)?;
                let vote = (vote > 0).then_some(NodeId(vote));
                Ok(Item::HardState(HardState { term, vote }))
            }
            RESET => unpack(self.bytes().ok_or(cut)?, Structs::Either)
                .map_err(|_unreadable| "an unreadable snapshot meta")
                .and_then(|meta: SnapshotMeta| {
                    let is_possible = meta.index.0.max(meta.term.0) <= NUMBER_MAX;
                    is_possible.then_some(Item::Reset(meta)).ok_or("an impossible index or term")
                }),
            ENTRY => {
                let index = Index(self.number()?);
                let term = Term(self.number()?);
                let kind = match self.u8().ok_or(cut)? {
                    0 => EntryKind::Noop,
                    1 => EntryKind::Configuration,
                    2 => EntryKind::Command,
                    _ => return Err("an entry of an unknown kind"),
                };
                let data = Bytes::copy_from_slice(self.bytes().ok_or(cut)?);
                Ok(Item::Entry(Entry { index, term, kind, data }))
            }
            COMMIT => Ok(Item::Commit(Index(self.number()?))),
            BASE => Ok(Item::Base(Index(self.number()?))),
            _ => Err("an item of an unknown kind"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place { salt: 7, segment: 3 };

    #[test]
    fn numbers_that_nobody_can_have_reached_are_damage() {
        for number in [NUMBER_MAX + 1, u64::MAX] {
            let bytes = [&[COMMIT][..], &number.to_le_bytes()].concat();
            assert_eq!(items(&bytes, drop), Err("an impossible index or term"));
            let hard = [&[HARD_STATE][..], &number.to_le_bytes(), &[0; 8]].concat();
            assert_eq!(items(&hard, drop), Err("an impossible index or term"));
        }
        let most = [&[COMMIT][..], &NUMBER_MAX.to_le_bytes()].concat();
        assert_eq!(items(&most, drop), Ok(()));
    }

    fn record() -> Vec<u8> {
        let mut builder = RecordBuilder::default();
        builder.begin();
        builder.add(&Item::Base(Index(4)));
        builder.add(&Item::HardState(HardState { term: Term(9), vote: Some(NodeId(2)) }));
        builder.add(&Item::Entry(Entry {
            index: Index(5),
            term: Term(9),
            kind: EntryKind::Command,
            data: Bytes::from_static(b"rqL1 looks like magic"),
        }));
        builder.add(&Item::Commit(Index(4)));
        builder.finish(PLACE, 11).to_vec()
    }

    #[test]
    fn a_record_reads_back() {
        let bytes = record();
        let Found::Record(record) = read(&bytes, PLACE) else { panic!("no record") };
        assert_eq!((record.seq, record.len()), (11, bytes.len()));
        let mut read = Vec::new();
        items(record.payload, |item| read.push(item)).unwrap();
        assert_eq!(read.len(), 4);
        assert_eq!(read[0], Item::Base(Index(4)));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_seen() {
        let bytes = record();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(read(&flipped, PLACE), Found::Record(_)), "bit {bit}");
        }
        for cut in 0..bytes.len() {
            assert!(!matches!(read(&bytes[..cut], PLACE), Found::Record(_)), "cut at {cut}");
        }
    }

    #[test]
    fn a_record_of_another_directory_or_segment_is_none() {
        let bytes = record();
        assert!(!matches!(read(&bytes, Place { salt: 8, ..PLACE }), Found::Record(_)));
        assert!(!matches!(read(&bytes, Place { segment: 4, ..PLACE }), Found::Record(_)));
    }

    #[test]
    fn a_record_is_found_behind_noise() {
        let mut noise = b"rqL1rqL1 noise".to_vec();
        noise.extend(record());
        let found = |noise, after| search(noise, PLACE, after).map(|(at, record)| (at, record.seq));
        assert_eq!(found(&noise, None), Some((14, 11)));
        assert_eq!(found(&noise, Some(10)), Some((14, 11)));
        assert_eq!(found(&noise[..noise.len() - 1], None), None);
    }

    #[test]
    fn an_earlier_record_or_one_far_too_late_is_not_found() {
        let bytes = record();
        assert_eq!(search(&bytes, PLACE, Some(11)), None);
        assert_eq!(search(&bytes, PLACE, Some(1)), None);
    }
}

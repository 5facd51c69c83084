//! The bytes of a snapshot file: written front to back, and checked to the last one when read.
//!
//! ```text
//! "RQSNAP01" | id 16 | group u32 | meta length u32 | CRC-32 of id, group and meta u32
//! meta (MessagePack)
//! records: length u32 | CRC-32 u32 | bytes
//! trailer: ff ff ff ff | count u64 | CRC-32 of everything before the trailer u32
//! ```
//!
//! All numbers are little-endian; a checksum is the CRC-32 that zlib has.

use std::io;

use crate::pack::PackError;
use crate::pack::unpack::{Structs, unpack};
use crate::raft::message::SnapshotMeta;
use crate::storage::disk::DiskFile;
use crate::storage::format::{GROUP, NUMBER_MAX};
use crate::storage::snapshot::{Push, SnapshotError, SnapshotFile};

const MAGIC: &[u8; 8] = b"RQSNAP01";
const HEAD_BYTES: usize = 36;
const RECORD_HEAD_BYTES: u64 = 8;
const TRAILER_BYTES: u64 = 16;

/// A record's bytes, at most; a longer claim is damage.
const RECORD_BYTES_MAX: u32 = 16 << 20;

/// What is written is synced this often, so that no sync of the log waits behind much of it.
pub(super) const SYNC_BYTES: u64 = 1 << 20;

/// A meta's bytes, at most.
const META_BYTES_MAX: u32 = 64 << 10;

/// How much is read at once.
const READ_BYTES: usize = 1 << 20;

/// Writes a snapshot file from its start to its end.
pub(super) struct Writer<'a, F> {
    file: &'a F,
    buffer: Vec<u8>,
    at: u64,
    synced: u64,
    count: u64,
    crc: crc32fast::Hasher,
}

impl<'a, F: DiskFile> Writer<'a, F> {
    pub(super) fn new(file: &'a F) -> Self {
        let crc = crc32fast::Hasher::new();
        Self { file, buffer: Vec::new(), at: 0, synced: 0, count: 0, crc }
    }

    pub(super) fn head(&mut self, meta: &SnapshotMeta, id: &[u8; 16]) -> io::Result<()> {
        let meta = rmp_serde::to_vec_named(meta).map_err(io::Error::other)?;
        let length = u32::try_from(meta.len()).map_err(io::Error::other)?;
        let group = GROUP.to_le_bytes();
        let crc = crc32fast::hash(&[&id[..], &group, &meta].concat()).to_le_bytes();
        self.put(&[MAGIC, &id[..], &group, &length.to_le_bytes(), &crc, &meta].concat())
    }

    pub(super) fn record(&mut self, record: &[u8]) -> io::Result<()> {
        let length = u32::try_from(record.len()).map_err(io::Error::other)?;
        if length > RECORD_BYTES_MAX {
            return Err(io::Error::other(format!("a record of {length} bytes")));
        }
        self.count += 1;
        self.put(&length.to_le_bytes())?;
        self.put(&crc32fast::hash(record).to_le_bytes())?;
        self.put(record)
    }

    pub(super) fn trailer(&mut self) -> io::Result<u64> {
        let crc = self.crc.clone().finalize();
        self.buffer.extend_from_slice(&[0xff; 4]);
        self.buffer.extend_from_slice(&self.count.to_le_bytes());
        self.buffer.extend_from_slice(&crc.to_le_bytes());
        self.flush()?;
        Ok(self.at)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.crc.update(bytes);
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= READ_BYTES / 4 { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_at(&self.buffer, self.at)?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        if self.at - self.synced >= SYNC_BYTES {
            self.file.sync()?;
            self.synced = self.at;
        }
        Ok(())
    }
}

/// Reads a file's head: what it stands for, and where its records begin.
///
/// # Errors
/// [`SnapshotError::Damaged`] if it is not what a writer of ours leaves, and what the system says.
pub fn read_head<F: DiskFile>(file: &F, name: &str) -> Result<(SnapshotFile, u64), SnapshotError> {
    let damaged =
        |what: &str| SnapshotError::Damaged { file: name.into(), offset: 0, what: what.into() };
    let mut head = [0; HEAD_BYTES];
    if file.read_at(&mut head, 0)? < HEAD_BYTES {
        return Err(damaged("its head is cut"));
    }
    let (magic, rest) = head.split_at(8);
    let (id, rest) = rest.split_at(16);
    let (group, rest) = rest.split_at(4);
    let (length, crc) = rest.split_at(4);
    if magic != MAGIC {
        return Err(damaged("it is no snapshot file of this version"));
    }
    let length = u32_of(length);
    if length > META_BYTES_MAX {
        return Err(damaged("an impossible length of its meta"));
    }
    let mut meta = vec![0; length as usize];
    if file.read_at(&mut meta, HEAD_BYTES as u64)? < meta.len() {
        return Err(damaged("its meta is cut"));
    }
    if crc32fast::hash(&[id, group, &meta].concat()) != u32_of(crc) {
        return Err(damaged("a wrong checksum of its head"));
    }
    if u32_of(group) != GROUP {
        return Err(damaged("it is of a group that does not exist"));
    }
    let id = <[u8; 16]>::try_from(id).map_err(|_short| damaged("its id is cut"))?;
    let meta: SnapshotMeta =
        unpack(&meta, Structs::Either).map_err(|error: PackError| damaged(&error.to_string()))?;
    if meta.index.0.max(meta.term.0) > NUMBER_MAX {
        return Err(damaged("an impossible index or term"));
    }
    let start = HEAD_BYTES as u64 + u64::from(length);
    Ok((SnapshotFile { meta, id, bytes: file.size()? }, start))
}

/// Reads all records from `start` on, checks each and the whole, and hands them to `push`.
///
/// # Errors
/// As [`read_head`], and [`SnapshotError::Refused`] if `push` says no.
pub fn scan<F: DiskFile>(
    file: &F,
    name: &str,
    start: u64,
    push: &mut Push<'_>,
) -> Result<(), SnapshotError> {
    let end = file.size()?;
    let mut at = 0;
    let damaged = |offset: u64, what: &str| SnapshotError::Damaged {
        file: name.into(),
        offset,
        what: what.into(),
    };
    let mut crc = crc32fast::Hasher::new();
    let mut reader = Buffered { file, buffer: Vec::new(), from: 0, end };
    let head = usize::try_from(start).map_err(io::Error::other)?;
    crc.update(reader.take(&mut at, head)?.ok_or_else(|| damaged(0, "it is cut"))?);
    let mut count = 0;
    loop {
        let here = at;
        let length = reader.take(&mut at, 4)?.ok_or_else(|| damaged(here, "it is cut"))?;
        let length_bytes = [0, 1, 2, 3].map(|i| length.get(i).copied().unwrap_or_default());
        let length = u32::from_le_bytes(length_bytes);
        if length == u32::MAX {
            let tail = reader.take(&mut at, 12)?.ok_or_else(|| damaged(here, "it is cut"))?;
            let (written, whole) = tail.split_at(8);
            let written = u64::from(u32_of(written))
                | u64::from(u32_of(written.get(4..).unwrap_or_default())) << 32;
            if written != count || u32_of(whole) != crc.finalize() {
                return Err(damaged(here, "its trailer does not match what it closes"));
            }
            if at != end {
                return Err(damaged(at, "something follows its trailer"));
            }
            return Ok(());
        }
        // A record that cannot be there is not looked for: its length is only a claim.
        let needed = RECORD_HEAD_BYTES + u64::from(length) + TRAILER_BYTES;
        if length > RECORD_BYTES_MAX || here + needed > end {
            return Err(damaged(here, "an impossible length of a record"));
        }
        crc.update(&length_bytes);
        let sum = reader.take(&mut at, 4)?.ok_or_else(|| damaged(here, "it is cut"))?;
        crc.update(sum);
        let sum = u32_of(sum);
        let record = reader
            .take(&mut at, length as usize)?
            .ok_or_else(|| damaged(here, "a record is cut"))?;
        if crc32fast::hash(record) != sum {
            return Err(damaged(here, "a wrong checksum of a record"));
        }
        crc.update(record);
        push(record).map_err(|what| SnapshotError::Refused { file: name.into(), what })?;
        count += 1;
    }
}

/// Reads a file forward through one buffer.
struct Buffered<'a, F> {
    file: &'a F,
    buffer: Vec<u8>,
    /// The offset of the buffer's first byte.
    from: u64,
    /// The file's size.
    end: u64,
}

impl<F: DiskFile> Buffered<'_, F> {
    /// Returns `count` bytes at `at` and moves `at` behind them; `None` if the file ends before.
    fn take(&mut self, at: &mut u64, count: usize) -> io::Result<Option<&[u8]>> {
        let held = self.from + self.buffer.len() as u64;
        if *at < self.from || *at + count as u64 > held {
            let left = usize::try_from(self.end.saturating_sub(*at)).map_err(io::Error::other)?;
            if count > left {
                return Ok(None);
            }
            let mut fresh = vec![0; count.max(READ_BYTES).min(left)];
            let read = self.file.read_at(&mut fresh, *at)?;
            fresh.truncate(read);
            self.buffer = fresh;
            self.from = *at;
        }
        let start = usize::try_from(*at - self.from).map_err(io::Error::other)?;
        let Some(bytes) = self.buffer.get(start..start + count) else { return Ok(None) };
        *at += count as u64;
        Ok(Some(bytes))
    }
}

fn u32_of(bytes: &[u8]) -> u32 {
    let byte = |place: usize| bytes.get(place).copied().unwrap_or_default();
    u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)])
}

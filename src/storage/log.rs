//! The log in segments: one batch is one record, one write and one sync; old segments are let go.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::planted::{Bug, is_planted};
use crate::raft::effects::{Persist, ReadLog};
use crate::raft::message::{Entry, HardState};
use crate::storage::blocks::Blocks;
use crate::storage::clock::timed;
use crate::storage::disk::{Disk, DiskFile};
use crate::storage::format::{Found, Item, Place, RecordBuilder, items, read};
use crate::types::{Index, Term};

/// How large the log's files are and how much of it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes of one segment; a larger batch gets a segment of its own size.
    pub segment_bytes: u64,
    /// Log kept behind a snapshot, in bytes, so that a follower a little behind needs no snapshot.
    pub log_keep_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: 16 << 20, log_keep_bytes: 64 << 20 }
    }
}

/// Zeroes written at once into a new segment.
const ZEROES_BYTES: usize = 256 << 10;

/// How long [`Pace::Half`] rests after one write, at most: a disk that hangs is no reason to wait twice.
const ZEROES_REST_MAX: Duration = Duration::from_millis(10);

/// How fast zeroes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Somebody waits for them.
    Full,
    /// Nobody does, as a rule: half of the time is left to others. Zeroing fills the page cache as fast as a core
    /// can, and where cores are few the Raft thread would wait for that core in the middle of a turn. Entries that
    /// fill a segment faster than the next is zeroed wait for it, up to twice as long as at full pace.
    Half,
}

/// What each segment begins with beside the batch itself, in bytes, at most.
const HEAD_BYTES: u64 = 64;

/// Returns a segment's file name.
#[must_use]
pub fn segment_name(number: u64) -> String {
    format!("log-{number:016x}")
}

/// Makes a segment: real zeroes, synced, under its name only when it is whole. A write into zeroes
/// that are on the disk costs no journal commit of the file system.
///
/// # Errors
/// What the system says.
pub fn make_segment<D: Disk>(disk: &D, number: u64, bytes: u64, pace: Pace) -> io::Result<D::File> {
    let aside = format!("log.tmp-{number:016x}");
    let file = disk.create(&aside)?;
    write_zeroes(&file, 0, bytes, pace)?;
    disk.rename(&aside, &segment_name(number))?;
    if !is_planted(Bug::DirectoryNotSynced) {
        disk.sync_dir()?;
    }
    Ok(file)
}

/// Writes zeroes from `from` to `to` and syncs.
///
/// # Errors
/// What the system says.
pub fn write_zeroes<F: DiskFile>(file: &F, from: u64, to: u64, pace: Pace) -> io::Result<()> {
    let longest =
        usize::try_from(to.saturating_sub(from)).unwrap_or(ZEROES_BYTES).min(ZEROES_BYTES);
    let zeroes = vec![0; longest];
    let mut at = from;
    while at < to {
        let count = usize::try_from(to - at).unwrap_or(ZEROES_BYTES).min(ZEROES_BYTES);
        let write = || file.write_at(zeroes.get(..count).unwrap_or_default(), at);
        let (written, took) = timed(write);
        written?;
        if pace == Pace::Half {
            std::thread::sleep(took.min(ZEROES_REST_MAX));
        }
        at += count as u64;
    }
    file.sync()
}

/// Where a log gets its next segment from.
pub trait Segments<F> {
    /// Returns the segment of that number, zeroed, at least of the usual size.
    ///
    /// # Errors
    /// What the system says.
    fn next(&mut self, number: u64) -> io::Result<F>;
}

/// Makes each segment when it is needed.
#[derive(Debug)]
pub struct MakeNow<'a, D: Disk> {
    /// Where.
    pub disk: &'a D,
    /// How large.
    pub bytes: u64,
}

impl<D: Disk> Segments<D::File> for MakeNow<'_, D> {
    fn next(&mut self, number: u64) -> io::Result<D::File> {
        make_segment(self.disk, number, self.bytes, Pace::Full)
    }
}

/// What the writer and the readers of a log share.
#[derive(Debug)]
pub struct Catalogue<F> {
    /// Where each entry lies.
    pub blocks: Blocks,
    /// The segments, by number, with their sizes.
    pub segments: BTreeMap<u64, (Arc<F>, u64)>,
}

/// A catalogue in common hands. It is locked for look-ups only, never while a disk works.
pub type Shared<F> = Arc<Mutex<Catalogue<F>>>;

/// Locks a catalogue.
pub fn lock<F>(shared: &Shared<F>) -> MutexGuard<'_, Catalogue<F>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The log's writing end.
#[derive(Debug)]
pub struct Log<D: Disk> {
    pub(super) disk: D,
    pub(super) salt: u64,
    pub(super) options: Options,
    pub(super) shared: Shared<D::File>,
    /// The segment written to: its number, file and size, and where the next record goes.
    pub(super) number: u64,
    pub(super) file: Arc<D::File>,
    pub(super) bytes: u64,
    pub(super) at: u64,
    /// The last record's number.
    pub(super) seq: u64,
    pub(super) hard: HardState,
    pub(super) commit_index: Index,
    pub(super) builder: RecordBuilder,
}

/// What one batch cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Bytes of its record.
    pub bytes: u64,
    /// How long its sync took.
    pub sync: Duration,
}

impl<D: Disk> Log<D> {
    /// Writes a batch and syncs it. When this returns, all of it is durable.
    ///
    /// # Errors
    /// What the system says, or a batch that leaves a gap, of which nothing was written. The log must
    /// not be used any more: nobody knows what of the batch is on the disk.
    pub fn append(
        &mut self,
        batch: &Persist,
        segments: &mut dyn Segments<D::File>,
    ) -> io::Result<Cost> {
        self.check(batch)?;
        self.hard = batch.hard_state.unwrap_or(self.hard);
        self.commit_index = self.commit_index.max(batch.commit_index);
        self.build(batch);
        let place = Place { salt: self.salt, segment: self.number };
        let mut length = self.builder.finish(place, self.seq + 1).len() as u64;
        if self.at + length > self.bytes {
            self.roll(length + HEAD_BYTES, segments)?;
        }
        if self.at == 0 {
            let last = lock(&self.shared).blocks.last_index();
            self.builder.begin();
            self.builder.add(&Item::Base(last));
            self.builder.add(&Item::HardState(self.hard));
            self.add_body(batch);
        }
        let place = Place { salt: self.salt, segment: self.number };
        let record = self.builder.finish(place, self.seq + 1);
        length = record.len() as u64;
        self.file.write_at(record, self.at)?;
        let (synced, sync) = timed(|| self.file.sync());
        synced?;
        self.seq += 1;
        self.note(batch, self.at, self.at + length)?;
        self.at += length;
        Ok(Cost { bytes: length, sync })
    }

    /// Writes an empty record and syncs it: from now on the last batch is no longer the last record,
    /// so that damage to it is told from a torn end. For idle moments; does nothing at a segment's
    /// end or start.
    ///
    /// # Errors
    /// What the system says; then as [`Log::append`].
    pub fn seal(&mut self) -> io::Result<()> {
        self.builder.begin();
        let place = Place { salt: self.salt, segment: self.number };
        let record = self.builder.finish(place, self.seq + 1);
        if self.at == 0 || self.at + record.len() as u64 > self.bytes {
            return Ok(());
        }
        self.file.write_at(record, self.at)?;
        self.file.sync()?;
        self.seq += 1;
        self.at += record.len() as u64;
        Ok(())
    }

    /// Checks that a batch continues the log: one that does not must not reach the disk, where the
    /// next start would take it for damage.
    fn check(&self, batch: &Persist) -> io::Result<()> {
        let Some(first) = batch.entries.first() else { return Ok(()) };
        let (base, last) = match &batch.reset {
            Some(meta) => (meta.index, meta.index),
            None => {
                let catalogue = lock(&self.shared);
                (catalogue.blocks.first_index().prev(), catalogue.blocks.last_index())
            }
        };
        let mut expected = first.index;
        let joined = batch.entries.iter().all(|entry| {
            let follows = entry.index == expected;
            expected = expected.next();
            follows
        });
        if joined && first.index > base && first.index <= last.next() {
            return Ok(());
        }
        let first = first.index;
        Err(io::Error::other(format!(
            "entries from {first} do not follow a log of {base} to {last}"
        )))
    }

    fn build(&mut self, batch: &Persist) {
        self.builder.begin();
        if let Some(hard) = batch.hard_state {
            self.builder.add(&Item::HardState(hard));
        }
        self.add_body(batch);
    }

    fn add_body(&mut self, batch: &Persist) {
        if let Some(meta) = &batch.reset {
            self.builder.add(&Item::Reset(meta.clone()));
        }
        for entry in &batch.entries {
            self.builder.add_entry(entry);
        }
        self.builder.add(&Item::Commit(self.commit_index));
    }

    fn roll(&mut self, bytes_min: u64, segments: &mut dyn Segments<D::File>) -> io::Result<()> {
        let number = self.number + 1;
        let file = segments.next(number)?;
        let mut bytes = file.size()?;
        if bytes < bytes_min {
            write_zeroes(&file, bytes, bytes_min, Pace::Full)?;
            bytes = bytes_min;
        }
        self.file = Arc::new(file);
        (self.number, self.bytes, self.at) = (number, bytes, 0);
        lock(&self.shared).segments.insert(number, (Arc::clone(&self.file), bytes));
        Ok(())
    }

    /// Notes where a batch lies.
    fn note(&mut self, batch: &Persist, from: u64, to: u64) -> io::Result<()> {
        let mut catalogue = lock(&self.shared);
        if let Some(meta) = &batch.reset {
            catalogue.blocks.reset(meta.index);
        }
        if let Some(first) = batch.entries.first() {
            let terms: Vec<Term> = batch.entries.iter().map(|entry| entry.term).collect();
            catalogue
                .blocks
                .append(first.index, &terms, self.number, from, to)
                .map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// Lets go of the oldest segment if its entries are all at or below `up_to` and
    /// [`Options::log_keep_bytes`] remain without it. Returns whether it is gone, and
    /// the next may be due. One at a time: a file and its directory are changed and synced for it, and the caller may
    /// have entries to write.
    ///
    /// # Errors
    /// What the system says; then as [`Log::append`].
    pub fn release_oldest(&mut self, up_to: Index) -> io::Result<bool> {
        let oldest = {
            let catalogue = lock(&self.shared);
            let Some((number, _)) = catalogue.segments.first_key_value() else { return Ok(false) };
            let number = *number;
            if number >= self.number {
                return Ok(false);
            }
            let covered = catalogue.blocks.last_in(number).is_none_or(|last| last <= up_to);
            let closed = catalogue.segments.range(number + 1..self.number);
            let younger = closed.map(|(_, (_, bytes))| bytes).sum::<u64>() + self.at;
            if !covered || younger < self.options.log_keep_bytes {
                return Ok(false);
            }
            number
        };
        self.disk.remove(&segment_name(oldest))?;
        // Synced before the next one goes: a cut must not leave a hole in the middle.
        self.disk.sync_dir()?;
        let mut catalogue = lock(&self.shared);
        catalogue.segments.remove(&oldest);
        catalogue.blocks.release(oldest + 1);
        Ok(true)
    }

    /// Returns the first entry that has not been let go.
    #[must_use]
    pub fn first_index(&self) -> Index {
        lock(&self.shared).blocks.first_index()
    }

    /// Returns the directory it lies in.
    #[must_use]
    pub fn disk(&self) -> &D {
        &self.disk
    }

    /// Returns what its readers share.
    #[must_use]
    pub fn shared(&self) -> Shared<D::File> {
        Arc::clone(&self.shared)
    }

    /// Tells whether nothing was ever written.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.seq == 0
    }

    /// Returns where the next record goes: the segment's number, and the offset in it.
    #[must_use]
    pub fn position(&self) -> (u64, u64) {
        (self.number, self.at)
    }

    /// Returns the number of the segment written to.
    #[must_use]
    pub fn segment(&self) -> u64 {
        self.number
    }

    /// Returns the bytes of records on disk, whole older segments and the used part of the newest.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        let catalogue = lock(&self.shared);
        let closed = catalogue.segments.range(..self.number);
        closed.map(|(_, (_, bytes))| bytes).sum::<u64>() + self.at
    }
}

/// The log on disk no longer reaches back so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone {
    /// The first entry it has.
    pub first_index: Index,
}

/// Reads entries from disk, in order, without a gap: from `read.from` on, up to `read.to`, at least
/// one and otherwise at most `read.bytes_max` bytes of data. Fewer if the log ends before.
///
/// # Errors
/// What the system says, or damage: an entry that was synced cannot be read.
pub fn read_entries<F: DiskFile>(
    shared: &Shared<F>,
    salt: u64,
    read_log: &ReadLog,
) -> io::Result<Result<Vec<Entry>, Gone>> {
    let mut plan = Vec::new();
    {
        let catalogue = lock(shared);
        let first_index = catalogue.blocks.first_index();
        if read_log.from < first_index {
            return Ok(Err(Gone { first_index }));
        }
        for block in catalogue.blocks.covering(read_log.from, read_log.to) {
            let Some((file, _)) = catalogue.segments.get(&block.segment) else {
                return Err(io::Error::other(format!("segment {} is missing", block.segment)));
            };
            plan.push((block, Arc::clone(file)));
        }
    }
    let mut entries: Vec<Entry> = Vec::new();
    let mut bytes = 0;
    let mut buffer = Vec::new();
    for (block, file) in plan {
        let place = Place { salt, segment: block.segment };
        let damaged = |what: &str| {
            let name = segment_name(block.segment);
            io::Error::other(format!("{name} is damaged behind byte {}: {what}", block.from))
        };
        let length = usize::try_from(block.to - block.from).map_err(io::Error::other)?;
        buffer.resize(length, 0);
        if file.read_at(&mut buffer, block.from)? < length {
            return Err(damaged("it is cut"));
        }
        let mut rest = buffer.as_slice();
        while !rest.is_empty() {
            let Found::Record(record) = read(rest, place) else {
                return Err(damaged("a record cannot be read"));
            };
            rest = rest.get(record.len()..).unwrap_or_default();
            let mut full = false;
            items(record.payload, |item| {
                let Item::Entry(entry) = item else { return };
                let next = entries.last().map_or(read_log.from, |last| last.index.next());
                if entry.index != next || entry.index > block.last.min(read_log.to) || full {
                    return;
                }
                full = !entries.is_empty() && bytes + entry.data.len() > read_log.bytes_max;
                if !full {
                    bytes += entry.data.len();
                    entries.push(entry);
                }
            })
            .map_err(damaged)?;
            if full {
                return Ok(Ok(entries));
            }
        }
    }
    Ok(Ok(entries))
}

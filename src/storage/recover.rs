//! What a start makes of the log on disk: everything that was synced, or a refusal.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::planted::{Bug, is_planted};
use crate::raft::effects::{Persist, ReadLog};
use crate::raft::message::{Entry, EntryKind, HardState};
use crate::storage::blocks::Blocks;
use crate::storage::disk::{Disk, DiskFile};
use crate::storage::error::OpenError;
use crate::storage::format::{Found, Item, Place, Record, RecordBuilder, items, read, search};
use crate::storage::identity::{self, Identity};
use crate::storage::log::{
    Catalogue, Log, MakeNow, Options, Pace, make_segment, read_entries, segment_name, write_zeroes,
};
use crate::types::{Index, Term};

/// Entries handed to consensus at a start, at most: a window full.
const TAIL_ENTRIES_MAX: u64 = 1000;

/// Bytes of them, at most.
const TAIL_BYTES_MAX: usize = 64 << 20;

/// What was found.
#[derive(Debug)]
pub struct Recovery<D: Disk> {
    /// The log, ready to be written.
    pub log: Log<D>,
    /// A segment that was prepared and not used yet: the next one.
    pub spare: Option<D::File>,
    /// Term and vote.
    pub hard_state: HardState,
    /// The last entries.
    pub tail: Vec<Entry>,
    /// The data of every configuration entry in force.
    pub configurations: Vec<(Index, Bytes)>,
    /// The commit index, a hint.
    pub commit_index: Index,
}

/// What reading the segments has told so far.
#[derive(Default)]
struct Story {
    blocks: Blocks,
    hard: HardState,
    commit_index: Index,
    configurations: Vec<(Index, Bytes)>,
    seq: Option<u64>,
    /// Where the last record lies: its segment, offset and length.
    last: Option<(u64, u64, usize)>,
    /// The log's beginning was released, so that what the oldest segment says of it may be superseded.
    released: bool,
    /// The segment before, and where its records end: a record missing between the two is missing
    /// there.
    former: Option<(String, usize)>,
}

/// Where the records of one segment end.
struct End {
    at: usize,
    records: u64,
    /// What lies behind is not blank.
    dirty: bool,
}

/// Reads the log of a directory, cuts a torn end, and prepares it for writing. A log without any
/// record is a new one.
///
/// When this returns, all that was found is durable, and not only in the system's memory: a record
/// whose sync was cut off by the end of the process, or failed, is written and synced once more.
///
/// # Errors
/// [`OpenError::Damaged`] if synced data cannot be read, and whatever the system says.
pub fn recover<D: Disk>(disk: &D, salt: u64, options: &Options) -> Result<Recovery<D>, OpenError> {
    Survey::of(disk, salt)?.finish(disk, salt, options)
}

/// Opens the log of a directory, or begins it: its first record is there before the identity says so, so that a
/// log that lost all its records is told from one that never had any. `reach` is the index of the newest
/// snapshot.
///
/// # Errors
/// [`OpenError`]: a log that is gone, damaged or does not follow a snapshot, and whatever the system says.
pub fn open_log<D: Disk>(
    disk: &D,
    identity: Identity,
    reach: Index,
    options: &Options,
) -> Result<(Recovery<D>, Identity), OpenError> {
    let survey = Survey::of(disk, identity.salt)?;
    check(&survey, identity, reach)?;
    let mut recovery = survey.finish(disk, identity.salt, options)?;
    if recovery.log.is_blank() {
        let mut segments = MakeNow { disk, bytes: options.segment_bytes };
        let first = recovery.log.append(&Persist::default(), &mut segments);
        first.map_err(OpenError::io("the log"))?;
    }
    let identity = if identity.begun { identity } else { identity::begin(disk, identity)? };
    Ok((recovery, identity))
}

/// Checks what was found in the log against what else the directory says; `reach` is the index of its
/// newest snapshot.
///
/// # Errors
/// [`OpenError::NoLog`] and [`OpenError::Gap`].
pub fn check<D: Disk>(
    survey: &Survey<D>,
    identity: Identity,
    reach: Index,
) -> Result<(), OpenError> {
    if identity.begun && survey.is_blank() {
        return Err(OpenError::NoLog);
    }
    if survey.first_index() > reach.next() {
        return Err(OpenError::Gap { first: survey.first_index() });
    }
    Ok(())
}

/// What lies in the segments of a directory. Nothing has been changed yet.
pub struct Survey<D: Disk> {
    story: Story,
    segments: BTreeMap<u64, (Arc<D::File>, u64)>,
    ends: BTreeMap<u64, End>,
    unfinished: Vec<String>,
}

impl<D: Disk> Survey<D> {
    /// Reads all segments.
    ///
    /// # Errors
    /// [`OpenError::Damaged`] if synced data cannot be read, and whatever the system says.
    pub fn of(disk: &D, salt: u64) -> Result<Self, OpenError> {
        let mut story = Story::default();
        let mut segments: BTreeMap<u64, (Arc<D::File>, u64)> = BTreeMap::new();
        let mut ends: BTreeMap<u64, End> = BTreeMap::new();
        let (numbers, unfinished) = list(disk)?;
        for number in numbers {
            let name = segment_name(number);
            if let Some((last, _)) = segments.last_key_value()
                && *last + 1 != number
            {
                let what = format!("{} is missing", segment_name(last + 1));
                return Err(OpenError::Contradiction(what));
            }
            let file = disk.open(&name).map_err(OpenError::io(name.as_str()))?;
            let bytes = whole(&file).map_err(OpenError::io(name.as_str()))?;
            let end = story.read_segment(&bytes, Place { salt, segment: number }, &name)?;
            if end.records > 0 {
                check_former(&ends, number)?;
            }
            ends.insert(number, end);
            segments.insert(number, (Arc::new(file), bytes.len() as u64));
        }
        Ok(Self { story, segments, ends, unfinished })
    }

    /// Tells whether there is not one record.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.story.seq.is_none()
    }

    /// Returns the first entry found, or the one that would be first.
    #[must_use]
    pub fn first_index(&self) -> Index {
        self.story.blocks.first_index()
    }

    /// Cuts a torn end, makes the rest durable and prepares it for writing.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn finish(
        mut self,
        disk: &D,
        salt: u64,
        options: &Options,
    ) -> Result<Recovery<D>, OpenError> {
        for name in &self.unfinished {
            disk.remove(name).map_err(OpenError::io(name.as_str()))?;
        }
        let recorded = self.ends.iter().rev().find(|(_, end)| end.records > 0);
        let current = recorded.or(self.ends.first_key_value()).map(|(number, _)| *number);
        let spare = take_spare(disk, &mut self.segments, &self.ends, current)?;
        let number = match current {
            Some(number) => number,
            None => {
                let file = make_segment(disk, 0, options.segment_bytes, Pace::Full)
                    .map_err(OpenError::io(segment_name(0)))?;
                self.segments.insert(0, (Arc::new(file), options.segment_bytes));
                0
            }
        };
        let (file, bytes) =
            self.segments.get(&number).cloned().ok_or_else(|| {
                OpenError::Contradiction(format!("{} is gone", segment_name(number)))
            })?;
        let at = self.ends.get(&number).map_or(0, |end| end.at as u64);
        self.harden(file.as_ref(), number, bytes).map_err(OpenError::io(segment_name(number)))?;
        disk.sync_dir().map_err(OpenError::io("the data directory"))?;
        let Self { story, segments, .. } = self;
        let shared = Arc::new(Mutex::new(Catalogue { blocks: story.blocks.clone(), segments }));
        let log = Log {
            disk: disk.clone(),
            salt,
            options: *options,
            shared,
            number,
            file,
            bytes,
            at,
            seq: story.seq.unwrap_or(0),
            hard: story.hard,
            commit_index: story.commit_index,
            builder: RecordBuilder::default(),
        };
        let tail = tail(&log, &story.blocks)?;
        Ok(Recovery {
            log,
            spare,
            hard_state: story.hard,
            tail,
            configurations: story.configurations,
            commit_index: story.commit_index,
        })
    }

    /// Writes the last record once more, blanks what is torn behind it, and syncs both.
    ///
    /// A process that died between the write of its last batch and the sync, or in a sync that failed,
    /// leaves a record that reads well and may not be on the disk. Consensus will speak of it, so it has
    /// to be there; and as the system may hold its pages for clean, a sync alone could be an empty word.
    fn harden(&self, file: &D::File, number: u64, bytes: u64) -> std::io::Result<()> {
        if let Some((segment, from, length)) = self.story.last
            && segment == number
        {
            let mut record = vec![0; length];
            file.read_at(&mut record, from)?;
            file.write_at(&record, from)?;
        }
        match self.ends.get(&number) {
            Some(end) if end.dirty => {
                let at = end.at as u64;
                log::warn!("{}: a torn write behind byte {at} is cut", segment_name(number));
                write_zeroes(file, at, bytes, Pace::Full)
            }
            Some(_) | None => file.sync(),
        }
    }
}

/// Lists the segments in order, and those that were not finished.
fn list<D: Disk>(disk: &D) -> Result<(Vec<u64>, Vec<String>), OpenError> {
    let (mut numbers, mut unfinished) = (Vec::new(), Vec::new());
    for name in disk.list().map_err(OpenError::io("the data directory"))? {
        if name.starts_with("log.tmp-") {
            unfinished.push(name);
        } else if let Some(digits) = name.strip_prefix("log-") {
            let number = u64::from_str_radix(digits, 16)
                .map_err(|_no_number| OpenError::Contradiction(format!("{name} is no segment")))?;
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok((numbers, unfinished))
}

/// A segment with records follows: the one before it must have ended cleanly.
fn check_former(ends: &BTreeMap<u64, End>, number: u64) -> Result<(), OpenError> {
    match ends.last_key_value() {
        Some((former, end)) if end.dirty || end.records == 0 => Err(OpenError::Damaged {
            file: segment_name(*former),
            offset: end.at as u64,
            what: format!("records follow in {}", segment_name(number)),
        }),
        Some(_) | None => Ok(()),
    }
}

/// Takes the prepared segment behind the current one, blank again; removes any others.
fn take_spare<D: Disk>(
    disk: &D,
    segments: &mut BTreeMap<u64, (Arc<D::File>, u64)>,
    ends: &BTreeMap<u64, End>,
    current: Option<u64>,
) -> Result<Option<D::File>, OpenError> {
    let Some(current) = current else { return Ok(None) };
    let mut spare = None;
    let later: Vec<u64> = segments.range(current + 1..).map(|(number, _)| *number).collect();
    for number in later {
        let name = segment_name(number);
        let Some((file, bytes)) = segments.remove(&number) else { continue };
        let Some(file) = Arc::into_inner(file) else { continue };
        let dirty = ends.get(&number).is_some_and(|end| end.dirty);
        if number > current + 1 {
            if dirty {
                let what = format!("{name} is not blank, but the log ends two segments before it");
                return Err(OpenError::Contradiction(what));
            }
            disk.remove(&name).map_err(OpenError::io(name.as_str()))?;
            continue;
        }
        if dirty {
            log::warn!("{name}: a torn write at its beginning is cut");
            write_zeroes(&file, 0, bytes, Pace::Full).map_err(OpenError::io(name.as_str()))?;
        }
        spare = Some(file);
    }
    Ok(spare)
}

impl Story {
    fn read_segment(&mut self, bytes: &[u8], place: Place, name: &str) -> Result<End, OpenError> {
        let mut at = 0;
        let mut records = 0;
        let damaged = |at: usize, what: String| {
            Err(OpenError::Damaged { file: name.into(), offset: at as u64, what })
        };
        if bytes.is_empty() {
            return damaged(0, "the file is empty, and none is made so".into());
        }
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            let what = match read(rest, place) {
                Found::Record(record) => {
                    self.read_record(record, place.segment, at, name)?;
                    at += record.len();
                    records += 1;
                    continue;
                }
                Found::Nothing => "nothing where a record should be",
                Found::Bad(what) | Found::Beyond(what) => what,
            };
            if !is_planted(Bug::DamageAsTornTail)
                && let Some((behind, _)) = search(rest, place, self.seq)
            {
                let what = format!("{what}; the next intact record begins at byte {}", at + behind);
                return damaged(at, what);
            }
            if let Found::Beyond(what) = read(rest, place) {
                return damaged(at, format!("{what}: the file was cut, or its bytes have changed"));
            }
            let dirty = rest.iter().any(|byte| *byte != 0);
            self.former = Some((name.into(), at));
            return Ok(End { at, records, dirty });
        }
    }

    fn read_record(
        &mut self,
        record: Record<'_>,
        segment: u64,
        at: usize,
        name: &str,
    ) -> Result<(), OpenError> {
        let damaged =
            |what: String| OpenError::Damaged { file: name.into(), offset: at as u64, what };
        if let Some(before) = self.seq
            && record.seq != before + 1
        {
            let what = format!("record {} follows record {before}", record.seq);
            return Err(match self.former.take().filter(|_| at == 0) {
                Some((file, end)) => OpenError::Damaged { file, offset: end as u64, what },
                None => damaged(what),
            });
        }
        let first_of_all = self.seq.is_none();
        self.seq = Some(record.seq);
        self.last = Some((segment, at as u64, record.len()));
        let mut first = None;
        let mut terms: Vec<Term> = Vec::new();
        let mut fault = None;
        items(record.payload, |item| match item {
            Item::HardState(hard) => self.hard = hard,
            Item::Commit(index) => self.commit_index = self.commit_index.max(index),
            Item::Base(index) if first_of_all => {
                self.blocks.set_base(index);
                self.released = index > Index(0);
            }
            Item::Base(index) => {
                if index != self.blocks.last_index() {
                    fault = Some(format!("it continues {index}, not {}", self.blocks.last_index()));
                }
            }
            Item::Reset(meta) => {
                self.blocks.reset(meta.index);
                self.released = false;
                self.configurations.clear();
            }
            Item::Entry(entry) => {
                let start = *first.get_or_insert(entry.index);
                if terms.is_empty() {
                    self.configurations.retain(|(index, _)| *index < start);
                }
                if entry.index.0 != start.0 + terms.len() as u64 {
                    fault = Some(format!("entry {} is out of order", entry.index));
                }
                terms.push(entry.term);
                if entry.kind == EntryKind::Configuration {
                    self.configurations.push((entry.index, entry.data));
                }
            }
        })
        .map_err(|what| damaged(what.into()))?;
        if let Some(fault) = fault {
            return Err(damaged(fault));
        }
        if let Some(first) = first {
            let to = at + record.len();
            if self.released && first < self.blocks.first_index() {
                // A new leader's entries took the place of some in segments that are gone by now.
                self.blocks.reset(first.prev());
            }
            self.blocks
                .append(first, &terms, segment, at as u64, to as u64)
                .map_err(|what| damaged(what.into()))?;
        }
        Ok(())
    }
}

fn whole<F: DiskFile>(file: &F) -> std::io::Result<Vec<u8>> {
    let length = usize::try_from(file.size()?).map_err(std::io::Error::other)?;
    let mut bytes = vec![0; length];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Reads the last entries: as many as fit into the window, by count and by bytes.
fn tail<D: Disk>(log: &Log<D>, blocks: &Blocks) -> Result<Vec<Entry>, OpenError> {
    let last = blocks.last_index();
    let Some(from) = blocks.tail_from(TAIL_ENTRIES_MAX, TAIL_BYTES_MAX as u64) else {
        return Ok(Vec::new());
    };
    let read = ReadLog { token: 0, from, to: last, bytes_max: usize::MAX };
    let entries = read_entries(&log.shared, log.salt, &read)
        .map_err(OpenError::io("the log"))?
        .map_err(|gone| OpenError::Gap { first: gone.first_index })?;
    if entries.last().map(|entry| entry.index) != Some(last) {
        return Err(OpenError::Contradiction(format!("the log's entries do not reach {last}")));
    }
    let mut bytes = 0;
    let fitting = entries
        .iter()
        .rev()
        .take_while(|entry| {
            bytes += entry.weight();
            bytes <= TAIL_BYTES_MAX
        })
        .count();
    let skipped = entries.len() - fitting.max(1);
    Ok(entries.into_iter().skip(skipped).collect())
}

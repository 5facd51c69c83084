//! The log as it lies there, read past what is damaged: every file, and every fault in it.

use std::collections::BTreeSet;

use crate::raft::message::HardState;
use crate::storage::disk::{Disk, DiskFile};
use crate::storage::doctor::{Finding, Kind};
use crate::storage::format::{Found, Item, Place, Record, items, read, search};
use crate::storage::log::segment_name;
use crate::types::{Index, Term};

/// Faults told of one log, at most: a disk full of noise is told from a small fault by then.
pub const FINDINGS_MAX: usize = 1000;

/// One file of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its number.
    pub number: u64,
    /// Its size.
    pub bytes: u64,
    /// Bytes up to the end of its last record.
    pub used_bytes: u64,
    /// Whole records in it.
    pub records: u64,
    /// The first and the last entry in it, in the order of writing, with their terms.
    pub entries: Option<(Mark, Mark)>,
    /// How it stands.
    pub state: SegmentState,
}

/// An entry's place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Its index.
    pub index: Index,
    /// Its term.
    pub term: Term,
}

/// How a file of the log stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentState {
    /// Every record is whole.
    Whole,
    /// Every record is whole, and what lies behind the last one is a write that was cut off: it was never
    /// acknowledged, and a start cuts it.
    Torn,
    /// Blank, prepared for later.
    Spare,
    /// Something that was synced cannot be read.
    Damaged,
    /// Without the identity its records cannot be checked.
    Unchecked,
}

/// All of the log that can be read.
#[derive(Debug, Default)]
pub struct LogView {
    /// Its files, by number.
    pub segments: Vec<Segment>,
    /// The last term and vote that can be read.
    pub hard_state: HardState,
    /// The highest commit index that can be read: a hint.
    pub commit_index: Index,
    /// The last entry, or the one that stands before the first.
    pub last_index: Index,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// Reads the files of these numbers; without a salt only their sizes.
pub(super) fn read_log<D: Disk>(disk: &D, salt: Option<u64>, numbers: &BTreeSet<u64>) -> LogView {
    let mut reading = Reading::default();
    let mut before: Option<u64> = None;
    for &number in numbers {
        if let Some(before) = before.filter(|before| before + 1 < number) {
            // The next record's number is another one with good reason.
            reading.is_broken = true;
            for gone in (before + 1..number).take(FINDINGS_MAX) {
                reading.find(Finding::file(Kind::Missing, segment_name(gone), "it is missing"));
            }
        }
        before = Some(number);
        reading.segment(disk, salt, number);
    }
    reading.view
}

/// What has been read so far.
#[derive(Default)]
struct Reading {
    view: LogView,
    /// The number of the last record.
    seq: Option<u64>,
    /// A fault was told of since the last record: the next one need not follow it.
    is_broken: bool,
}

impl Reading {
    fn find(&mut self, finding: Finding) {
        if self.view.findings.len() < FINDINGS_MAX {
            self.view.findings.push(finding);
        }
    }

    fn segment<D: Disk>(&mut self, disk: &D, salt: Option<u64>, number: u64) {
        let name = segment_name(number);
        let bytes = match whole(disk, &name) {
            Ok(bytes) => bytes,
            Err(error) => {
                let what = format!("it cannot be read: {error}");
                self.is_broken = true;
                return self.find(Finding::file(Kind::Damage, name, what));
            }
        };
        let size = bytes.len() as u64;
        let mut segment = Segment {
            number,
            bytes: size,
            used_bytes: 0,
            records: 0,
            entries: None,
            state: SegmentState::Unchecked,
        };
        if let Some(salt) = salt {
            let found = self.view.findings.len();
            let is_dirty = self.records(&bytes, Place { salt, segment: number }, &mut segment);
            segment.state = match (found < self.view.findings.len(), is_dirty) {
                (true, _) => SegmentState::Damaged,
                (false, true) => SegmentState::Torn,
                (false, false) if segment.records == 0 => SegmentState::Spare,
                (false, false) => SegmentState::Whole,
            };
            self.close_former(&segment);
        }
        self.view.segments.push(segment);
    }

    /// Reads all records of a segment; tells whether what lies behind the last one is not blank.
    fn records(&mut self, bytes: &[u8], place: Place, segment: &mut Segment) -> bool {
        let name = segment_name(segment.number);
        let mut at = 0;
        if bytes.is_empty() {
            let what = "the file is empty, and none is made so";
            self.find(Finding::at(Kind::Damage, name, 0, what.into()));
            self.is_broken = true;
            return false;
        }
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            let what = match read(rest, place) {
                Found::Record(record) => {
                    self.record(record, &name, at as u64, segment);
                    at += record.len();
                    continue;
                }
                Found::Nothing => "nothing where a record should be",
                Found::Bad(what) | Found::Beyond(what) => what,
            };
            segment.used_bytes = at as u64;
            let Some((behind, _)) = search(rest, place, self.seq) else {
                if let Found::Beyond(what) = read(rest, place) {
                    let what = format!("{what}: the file was cut, or its bytes have changed");
                    self.find(Finding::at(Kind::Damage, name, at as u64, what));
                    self.is_broken = true;
                }
                return rest.iter().any(|byte| *byte != 0);
            };
            let what = format!("{what}; the next intact record begins at byte {}", at + behind);
            self.find(Finding::at(Kind::Damage, name.clone(), at as u64, what));
            self.is_broken = true;
            at += behind;
        }
    }

    fn record(&mut self, record: Record<'_>, name: &str, at: u64, segment: &mut Segment) {
        if let Some(before) = self.seq
            && record.seq != before + 1
            && !self.is_broken
        {
            let what = format!("record {} follows record {before}", record.seq);
            let former = self.view.segments.last().filter(|_| at == 0);
            let (file, at) = match former {
                Some(former) => (segment_name(former.number), former.used_bytes),
                None => (name.to_owned(), at),
            };
            self.find(Finding::at(Kind::Damage, file, at, what));
        }
        self.is_broken = false;
        self.seq = Some(record.seq);
        segment.records += 1;
        let view = &mut self.view;
        let read = items(record.payload, |item| match item {
            Item::HardState(hard) => view.hard_state = hard,
            Item::Commit(index) => view.commit_index = view.commit_index.max(index),
            Item::Base(index) => view.last_index = index,
            Item::Reset(meta) => view.last_index = meta.index,
            Item::Entry(entry) => {
                let mark = Mark { index: entry.index, term: entry.term };
                let first = segment.entries.map_or(mark, |(first, _)| first);
                segment.entries = Some((first, mark));
                view.last_index = entry.index;
            }
        });
        if let Err(what) = read {
            self.find(Finding::at(Kind::Damage, name.to_owned(), at, what.to_owned()));
        }
    }

    /// A segment with records follows: the ones before it must have ended cleanly.
    fn close_former(&mut self, segment: &Segment) {
        if segment.records == 0 {
            return;
        }
        let Some(former) = self.view.segments.last_mut() else { return };
        if former.number + 1 != segment.number {
            return;
        }
        match former.state {
            SegmentState::Torn | SegmentState::Spare => {}
            SegmentState::Whole | SegmentState::Damaged | SegmentState::Unchecked => return,
        }
        former.state = SegmentState::Damaged;
        let (file, at) = (segment_name(former.number), former.used_bytes);
        // A lost record was told of already, by the number of the one that follows it.
        if self.view.findings.iter().any(|known| known.file == file && known.offset == Some(at)) {
            return;
        }
        let what = format!("records follow in {}", segment_name(segment.number));
        self.find(Finding::at(Kind::Damage, file, at, what));
    }
}

/// Reads a file whole: one of the log is as large as its segments are.
fn whole<D: Disk>(disk: &D, name: &str) -> std::io::Result<Vec<u8>> {
    let file = disk.open(name)?;
    let length = usize::try_from(file.size()?).map_err(std::io::Error::other)?;
    let mut bytes = vec![0; length];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

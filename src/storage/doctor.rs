//! What a data directory holds, what of it is broken, and what to do: found without changing a byte.
//!
//! A start stops at the first fault; this goes on and tells of all. Whether a node would start on the
//! directory is asked of the code that starts it, so that the two cannot differ.

use std::collections::BTreeSet;

use crate::storage::autopsy::{LogView, SegmentState, read_log};
use crate::storage::disk::{Disk, DiskFile};
use crate::storage::error::OpenError;
use crate::storage::identity::{self, Identity};
use crate::storage::log::segment_name;
use crate::storage::recover::Survey;
use crate::storage::snapshot::{SnapshotError, index_in, name_of};
use crate::storage::snapshot_file::{read_head, scan};
use crate::types::{Index, Term};

/// What kind of fault it is: what to do follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A snapshot cannot be read, and the node starts without it.
    Spare,
    /// Synced data cannot be read back.
    Damage,
    /// A file is not there.
    Missing,
    /// The file that says whose directory it is cannot be read, or is not there.
    Identity,
    /// Another version of the program wrote it.
    Version,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What kind of fault.
    pub kind: Kind,
    /// In which file.
    pub file: String,
    /// Where in it, if it is a place.
    pub offset: Option<u64>,
    /// What is wrong.
    pub what: String,
}

impl Finding {
    /// Tells of a file as a whole.
    pub(super) fn file(kind: Kind, file: impl Into<String>, what: impl Into<String>) -> Self {
        Self { kind, file: file.into(), offset: None, what: what.into() }
    }

    /// Tells of a place in a file.
    pub(super) fn at(kind: Kind, file: String, offset: u64, what: String) -> Self {
        Self { kind, file, offset: Some(offset), what }
    }
}

/// A snapshot file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotView {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// The index it stands for; of a damaged head, as the name has it.
    pub index: Index,
    /// The term of that entry, if the head can be read.
    pub term: Option<Term>,
    /// Its records, if all of it can be read.
    pub records: Option<u64>,
}

/// A file that needs no more words than its name and size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// Its size, as the system has it.
    pub bytes: u64,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Nothing is wrong.
    Nothing,
    /// A write was cut off. A start cuts its remains; nothing acknowledged is in them.
    CutTorn,
    /// A snapshot is damaged, and the node starts without it.
    StartWithout,
    /// Synced data is lost here, and the other nodes have it.
    Heal,
    /// Files are missing: whoever has them puts them back. Else the other nodes have what was in them.
    RestoreFiles,
    /// The identity is lost, and with it what the log's checksums need.
    RestoreIdentity,
    /// Another version of the program knows what to do.
    OtherVersion,
}

/// A data directory, looked at.
#[derive(Debug)]
pub struct Report {
    /// Whose it is, if that can be read.
    pub identity: Option<Identity>,
    /// The log.
    pub log: LogView,
    /// The first entry of the log, or the one that would be first; unknown if the log is damaged.
    pub first_index: Option<Index>,
    /// The snapshots, oldest first.
    pub snapshots: Vec<SnapshotView>,
    /// Snapshots that were being received.
    pub transfers: Vec<Named>,
    /// What was being written aside when the node ended; a start removes it or makes it anew.
    pub leftovers: Vec<Named>,
    /// What is none of the node's.
    pub others: Vec<Named>,
    /// What is wrong, the log's first.
    pub findings: Vec<Finding>,
    /// A node would start on it.
    pub starts: bool,
    /// What to do.
    pub advice: Advice,
}

impl Report {
    /// Tells whether nothing that was ever promised is damaged. A torn end is no damage.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.findings.is_empty()
    }

    /// Returns the files whose end was torn, and where.
    pub fn torn(&self) -> impl Iterator<Item = (String, u64)> {
        let torn = |state| state == SegmentState::Torn;
        let segments = self.log.segments.iter().filter(move |segment| torn(segment.state));
        segments.map(|segment| (segment_name(segment.number), segment.used_bytes))
    }
}

/// A directory that is none of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// Nothing is in it, or what a first start leaves that was cut off before it had drawn an identity.
    Empty,
    /// It holds other files, and none of a node.
    Others,
}

/// The names in a directory, by what they are.
#[derive(Default)]
struct Names {
    identity: bool,
    segments: BTreeSet<u64>,
    snapshots: Vec<String>,
    transfers: Vec<String>,
    leftovers: Vec<String>,
    others: Vec<String>,
    /// Names that only this program gives, and no number in them.
    odd: Vec<String>,
}

impl Names {
    fn of(names: Vec<String>) -> Self {
        let mut sorted = Self::default();
        for name in names {
            if name == identity::NAME {
                sorted.identity = true;
            } else if name == identity::LOCK {
            } else if name == identity::ASIDE || name == "snap.tmp" || name.starts_with("log.tmp-")
            {
                sorted.leftovers.push(name);
            } else if name.starts_with("snap.part-") {
                sorted.transfers.push(name);
            } else if name.starts_with("snap-") {
                sorted.snapshots.push(name);
            } else if let Some(digits) = name.strip_prefix("log-") {
                match u64::from_str_radix(digits, 16) {
                    Ok(number) if segment_name(number) == name => {
                        sorted.segments.insert(number);
                    }
                    Ok(_) | Err(_) => sorted.odd.push(name),
                }
            } else {
                sorted.others.push(name);
            }
        }
        sorted
    }

    fn foreign(&self) -> Option<Foreign> {
        let has_own = self.identity || !self.segments.is_empty() || !self.snapshots.is_empty();
        match (has_own, self.others.is_empty() && self.odd.is_empty()) {
            (true, _) => None,
            (false, true) => Some(Foreign::Empty),
            (false, false) => Some(Foreign::Others),
        }
    }
}

/// Looks at everything in a directory; changes nothing.
///
/// # Errors
/// What the system says of the directory itself, and [`Foreign`] if it is none of a node. A file that
/// cannot be read is a finding.
pub fn examine<D: Disk>(disk: &D) -> std::io::Result<Result<Report, Foreign>> {
    let names = Names::of(disk.list()?);
    if let Some(foreign) = names.foreign() {
        return Ok(Err(foreign));
    }
    let mut findings = Vec::new();
    let identity = read_identity(disk, names.identity, &mut findings);
    let mut log = read_log(disk, identity.map(|identity| identity.salt), &names.segments);
    findings.append(&mut log.findings);
    for name in &names.odd {
        findings.push(Finding::file(Kind::Damage, name, "it is named as a segment and is none"));
    }
    let mut report = Report {
        identity,
        log,
        first_index: None,
        snapshots: Vec::new(),
        transfers: sized(disk, &names.transfers),
        leftovers: sized(disk, &names.leftovers),
        others: sized(disk, &names.others),
        findings,
        starts: false,
        advice: Advice::Nothing,
    };
    let mut faults = Vec::new();
    for name in &names.snapshots {
        let (view, fault) = read_snapshot(disk, name);
        report.snapshots.push(view);
        faults.extend(fault);
    }
    report.snapshots.sort_by_key(|snapshot| snapshot.index);
    report.judge(disk, faults);
    Ok(Ok(report))
}

impl Report {
    /// Asks what a start would say, and what follows from all of it.
    fn judge<D: Disk>(&mut self, disk: &D, mut faults: Vec<Finding>) {
        let log_starts = self.judge_log(disk);
        let snapshot_starts = self.judge_snapshots();
        for fault in &mut faults {
            fault.kind = if snapshot_starts { Kind::Spare } else { Kind::Damage };
        }
        self.findings.append(&mut faults);
        self.starts = log_starts && snapshot_starts;
        self.advice = match self.findings.iter().map(|finding| finding.kind).max() {
            None if self.torn().next().is_some() => Advice::CutTorn,
            None => Advice::Nothing,
            Some(Kind::Spare) => Advice::StartWithout,
            Some(Kind::Damage) => Advice::Heal,
            Some(Kind::Missing) => Advice::RestoreFiles,
            Some(Kind::Identity) => Advice::RestoreIdentity,
            Some(Kind::Version) => Advice::OtherVersion,
        };
    }

    /// Reads the log as a start does; tells whether that would go well.
    fn judge_log<D: Disk>(&mut self, disk: &D) -> bool {
        let Some(identity) = self.identity else { return false };
        let survey = match Survey::of(disk, identity.salt) {
            Ok(survey) => survey,
            Err(error) => {
                self.add_if_new(error);
                return false;
            }
        };
        if identity.begun && survey.is_blank() {
            let what = "not one record of it is left, and it had begun: term and votes are lost";
            self.findings.push(Finding::file(Kind::Missing, "the log", what));
            return false;
        }
        let first = survey.first_index();
        self.first_index = Some(first);
        let reach = self.snapshots.iter().map(|snapshot| snapshot.index).max();
        if first > reach.unwrap_or_default().next() {
            let what = format!("it begins at {first}, and no snapshot reaches so far");
            self.findings.push(Finding::file(Kind::Missing, "the log", what));
            return false;
        }
        self.judge_spares()
    }

    /// What lies two segments behind the last record cannot be a torn end.
    fn judge_spares(&mut self) -> bool {
        let segments = &self.log.segments;
        let last = segments.iter().rev().find(|segment| segment.records > 0);
        let Some(last) = last.or(segments.first()).map(|last| last.number) else { return true };
        let strange: Vec<Finding> = segments
            .iter()
            .filter(|segment| segment.number > last + 1 && segment.state == SegmentState::Torn)
            .map(|segment| {
                let what = "it is not blank, but the log ends two files before it";
                Finding::file(Kind::Damage, segment_name(segment.number), what)
            })
            .collect();
        let is_good = strange.is_empty();
        self.findings.extend(strange);
        is_good
    }

    /// Tells whether a start finds a whole snapshot that reaches the log, or needs none (see
    /// [`crate::storage::snapshot::Snapshots::load`]).
    fn judge_snapshots(&self) -> bool {
        let mut is_fault = false;
        for snapshot in self.snapshots.iter().rev() {
            let reaches = self.first_index.is_none_or(|first| snapshot.index.next() >= first);
            if is_fault && !reaches {
                break;
            }
            if snapshot.records.is_some() {
                return true;
            }
            is_fault = true;
        }
        !is_fault
    }

    /// Adds what a start says, unless it was found already.
    fn add_if_new(&mut self, error: OpenError) {
        let finding = if let OpenError::Damaged { file, offset, what } = error {
            Finding::at(Kind::Damage, file, offset, what)
        } else if let OpenError::Io { path, error } = error {
            Finding::file(Kind::Damage, path, format!("it cannot be read: {error}"))
        } else {
            Finding::file(Kind::Damage, "the log", error.to_string())
        };
        let is_place = finding.offset.is_some();
        let same = |known: &Finding| {
            !is_place || (known.file == finding.file && known.offset == finding.offset)
        };
        if !self.findings.iter().any(same) {
            self.findings.push(finding);
        }
    }
}

fn read_identity<D: Disk>(disk: &D, exists: bool, findings: &mut Vec<Finding>) -> Option<Identity> {
    let finding = if exists {
        let error = match identity::load(disk) {
            Ok(identity) => return Some(identity),
            Err(error) => error,
        };
        if let OpenError::Identity { file, what } = error {
            Finding::file(Kind::Identity, file, what)
        } else if let OpenError::Io { path, error } = error {
            Finding::file(Kind::Identity, path, format!("it cannot be read: {error}"))
        } else {
            Finding::file(Kind::Version, identity::NAME, error.to_string())
        }
    } else {
        let what = "it is missing, and files of a node are there";
        Finding::file(Kind::Identity, identity::NAME, what)
    };
    findings.push(finding);
    None
}

/// Reads a snapshot to its last byte.
fn read_snapshot<D: Disk>(disk: &D, name: &str) -> (SnapshotView, Option<Finding>) {
    let mut view = SnapshotView {
        name: name.into(),
        bytes: 0,
        index: index_in(name),
        term: None,
        records: None,
    };
    let fault = match look(disk, name, &mut view) {
        Ok(()) => return (view, None),
        Err(SnapshotError::Damaged { offset, what, .. }) => {
            Finding::at(Kind::Damage, name.into(), offset, what)
        }
        Err(
            error @ (SnapshotError::OutOfOrder { .. }
            | SnapshotError::NoTransfer
            | SnapshotError::Refused { .. }
            | SnapshotError::Io(_)),
        ) => Finding::file(Kind::Damage, name, error.to_string()),
    };
    view.records = None;
    (view, Some(fault))
}

fn look<D: Disk>(disk: &D, name: &str, view: &mut SnapshotView) -> Result<(), SnapshotError> {
    let file = disk.open(name)?;
    view.bytes = file.size()?;
    let (head, start) = read_head(&file, name)?;
    if name_of(&head) != name {
        let what = "its head is that of another file".into();
        return Err(SnapshotError::Damaged { file: name.into(), offset: 0, what });
    }
    view.index = head.meta.index;
    view.term = Some(head.meta.term);
    let mut records = 0;
    scan(&file, name, start, &mut |_record| {
        records += 1;
        Ok(())
    })?;
    view.records = Some(records);
    Ok(())
}

/// Adds the sizes; what cannot be opened as a file has none.
fn sized<D: Disk>(disk: &D, names: &[String]) -> Vec<Named> {
    let size = |name: &str| disk.open(name).and_then(|file| file.size()).unwrap_or_default();
    names.iter().map(|name| Named { name: name.clone(), bytes: size(name) }).collect()
}

//! The production storage of a simulated node: what the disk's threads do in a real one is done here when the
//! world says that it is done.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use fastrand::Rng;

use crate::jobs::machine::Machine;
use crate::node::snapshots::{load, receive};
use crate::raft::core::LogGone;
use crate::raft::effects::{Persist, ReadLog};
use crate::raft::message::{Entry, HardState, SnapshotMeta};
use crate::sim::disk::{SimDisk, SimFile};
use crate::storage::error::OpenError;
use crate::storage::healing;
use crate::storage::identity::{self, Identity, Mark};
use crate::storage::log::{Log, Options, Pace, Segments, make_segment, read_entries};
use crate::storage::recover::open_log;
use crate::storage::snapshot::{SnapshotError, Snapshots};
use crate::storage::threads::{Ready, Recovered};
use crate::types::{Index, NodeId, Term};

/// An idle log is sealed after so long, as the log's thread does it, in ms.
const SEAL_AFTER_MS: u64 = 200;

/// Why a node did not start.
#[derive(Debug)]
pub(super) enum Refused {
    /// The disk failed at it; another try may do.
    Failed(String),
    /// What is on the disk is not what was written; the node could heal.
    Damaged(String),
    /// The same, and the node cannot heal.
    Lost(String),
}

/// What a start found.
pub(super) struct Opened {
    pub(super) store: Store,
    pub(super) recovered: Recovered,
    pub(super) snapshot: Option<SnapshotMeta>,
    pub(super) machine: Machine,
}

/// The open directory of a running node.
pub(super) struct Store {
    disk: SimDisk,
    log: Log<SimDisk>,
    identity: Identity,
    snapshots: Snapshots<SimDisk>,
    spare: Spare,
    /// The batch on its way.
    pub(super) batch: Option<Persist>,
    /// The image that is being written as a snapshot.
    pub(super) image: Option<(SnapshotMeta, Machine)>,
    worked_at: u64,
    is_sealed: bool,
    /// A write or a sync of the log failed: it is not touched any more.
    has_failed: bool,
    /// Where the last record begins: damage from there on may pass for a torn end.
    last_record: (u64, u64),
}

struct Spare {
    disk: SimDisk,
    bytes: u64,
    file: Option<SimFile>,
}

impl Segments<SimFile> for Spare {
    fn next(&mut self, number: u64) -> io::Result<SimFile> {
        match self.file.take() {
            Some(file) => Ok(file),
            None => make_segment(&self.disk, number, self.bytes, Pace::Full),
        }
    }
}

impl From<OpenError> for Refused {
    fn from(error: OpenError) -> Self {
        let text = error.to_string();
        if matches!(error, OpenError::Io { .. }) {
            Self::Failed(text)
        } else if error.is_damage() {
            Self::Damaged(text)
        } else {
            Self::Lost(text)
        }
    }
}

impl Store {
    /// Opens a node's directory, or makes it, as a node does at its start. With `heal` what is damaged is set aside,
    /// as `raftq node --heal` does it.
    pub(super) fn open(
        disk: &SimDisk,
        node: NodeId,
        options: &Options,
        heal: bool,
    ) -> Result<Opened, Refused> {
        let mut identity = if identity::is_known(disk, Path::new("sim"))? {
            identity::load(disk)?
        } else {
            identity::make(disk, node)?
        };
        let mut aside = None;
        if heal {
            (identity, aside) = healing::set_aside(disk, identity)?;
        }
        let (store, recovered) = match Self::open_on(disk, identity, options) {
            Err(error) if heal && error.is_damage() && aside.is_none() => {
                // Damage that only the second look finds.
                let (identity, _) = healing::begin_anew(disk, identity, error.to_string())?;
                Self::open_on(disk, identity, options)?
            }
            opened => opened?,
        };
        let (snapshot, machine) = load(&store.snapshots, recovered.first_index, Path::new("sim"))
            .map_err(Refused::Damaged)?;
        Ok(Opened { store, recovered, snapshot, machine })
    }

    fn open_on(
        disk: &SimDisk,
        identity: Identity,
        options: &Options,
    ) -> Result<(Self, Recovered), OpenError> {
        let identity = healing::resume(disk, identity)?;
        let snapshots = Snapshots::open(disk)
            .map_err(io::Error::other)
            .map_err(OpenError::io("the data directory"))?;
        let (recovery, identity) = open_log(disk, identity, snapshots.reach(), options)?;
        let (Ready { log, spare }, recovered) = Recovered::of(identity, recovery);
        let store = Self {
            disk: disk.clone(),
            // Which of its records is the last one is not known: all of that segment is spared.
            last_record: (log.position().0, 0),
            log,
            identity,
            snapshots,
            spare: Spare { disk: disk.clone(), bytes: options.segment_bytes, file: spare },
            batch: None,
            image: None,
            worked_at: 0,
            is_sealed: true,
            has_failed: false,
        };
        Ok((store, recovered))
    }

    /// Writes and syncs the batch on its way, and takes the mark of a node that has healed away.
    pub(super) fn append(&mut self, now: u64) -> Result<Option<Persist>, String> {
        let Some(batch) = self.batch.take() else { return Ok(None) };
        let before = self.log.position();
        if let Err(error) = self.log.append(&batch, &mut self.spare) {
            // Nobody knows what of it is on the disk.
            (self.batch, self.has_failed) = (Some(batch), true);
            return Err(format!("the log cannot be written: {error}"));
        }
        if batch.healed {
            match identity::mark(&self.disk, self.identity, Mark::Whole) {
                Ok(identity) => self.identity = identity,
                Err(error) => {
                    (self.batch, self.has_failed) = (Some(batch), true);
                    return Err(format!("the mark cannot be taken away: {error}"));
                }
            }
        }
        let after = self.log.position();
        self.last_record = if after.0 == before.0 { before } else { (after.0, 0) };
        (self.worked_at, self.is_sealed) = (now, false);
        Ok(Some(batch))
    }

    /// Tells whether the next segment is to be prepared.
    pub(super) fn wants_segment(&self) -> bool {
        self.spare.file.is_none()
    }

    /// Prepares the next segment.
    pub(super) fn prepare(&mut self) {
        if self.spare.file.is_none() {
            let number = self.log.segment() + 1;
            // A failure is met again, and told, when the segment is needed.
            self.spare.file = make_segment(&self.disk, number, self.spare.bytes, Pace::Full).ok();
        }
    }

    /// Seals the log if it was idle for long enough.
    pub(super) fn seal(&mut self, now: u64) -> Result<(), String> {
        if self.is_sealed || self.batch.is_some() || now < self.worked_at + SEAL_AFTER_MS {
            return Ok(());
        }
        self.is_sealed = true;
        let before = self.log.position();
        self.log.seal().map_err(|error| {
            self.has_failed = true;
            format!("the log cannot be sealed: {error}")
        })?;
        if self.log.position() != before {
            self.last_record = before;
        }
        Ok(())
    }

    /// Lets go of one segment; returns the first entry left when there is nothing more to let go of.
    pub(super) fn release(&mut self, up_to: Index) -> Result<Option<Index>, String> {
        let released = self.log.release_oldest(up_to);
        let more = released.map_err(|error| format!("old log files cannot be removed: {error}"))?;
        Ok((!more).then(|| self.log.first_index()))
    }

    /// Reads old entries.
    pub(super) fn read(&self, read: &ReadLog) -> Result<Result<Vec<Entry>, LogGone>, String> {
        read_entries(&self.log.shared(), self.identity.salt, read)
            .map(|result| result.map_err(|gone| LogGone { first_index: gone.first_index }))
            .map_err(|error| format!("synced entries cannot be read: {error}"))
    }

    /// Writes the image as a snapshot.
    pub(super) fn write_snapshot(&mut self) -> Result<Option<(SnapshotMeta, u64)>, String> {
        let Some((meta, machine)) = self.image.take() else { return Ok(None) };
        let source = move |each: &mut dyn FnMut(&[u8]) -> bool| {
            machine.records().take_while(|record| each(record)).for_each(drop);
        };
        let bytes = self
            .snapshots
            .write(&meta, Box::new(source))
            .map_err(|error| format!("a snapshot cannot be written: {error}"))?;
        Ok(Some((meta, bytes)))
    }

    /// Returns the snapshot files.
    pub(super) fn snapshots(&self) -> &Snapshots<SimDisk> {
        &self.snapshots
    }

    /// Ends the transfer of a snapshot into this directory.
    pub(super) fn receive(&self, id: [u8; 16]) -> Result<(SnapshotMeta, Box<Machine>), String> {
        receive(&self.snapshots, id)
    }

    /// Ends in the middle of its work: each thing under way was not begun, cut off somewhere, or done and not
    /// told, as the dice fall. Returns the batch that may be on the disk or not, and where damage would show.
    pub(super) fn die(mut self, dice: &mut Rng) -> (Option<Persist>, (u64, u64)) {
        let batch = self.batch.clone();
        let last_record = self.last_record;
        let mut cut_off = |disk: &SimDisk, calls: u64, work: &mut dyn FnMut()| {
            match dice.u32(0..4) {
                0 => return,
                1 => {}
                _ => disk.cut_after(dice.u64(0..calls)),
            }
            work();
            disk.mend();
        };
        let disk = self.disk.clone();
        if self.has_failed {
            return (batch, last_record);
        }
        if self.image.is_some() {
            cut_off(&disk, 8, &mut || drop(self.write_snapshot()));
        }
        if let Some(batch) = &self.batch {
            // A mark that is taken away is five calls more.
            let calls = if batch.healed { 9 } else { 4 };
            cut_off(&disk, calls, &mut || drop(self.append(0)));
        } else if !self.is_sealed {
            cut_off(&disk, 2, &mut || drop(self.log.seal()));
        }
        if self.spare.file.is_none() {
            cut_off(&disk, 5, &mut || self.prepare());
        }
        (batch, last_record)
    }
}

/// Tells whether the disk failed, and not what was on it or came to it.
pub(super) fn is_io(error: &SnapshotError) -> bool {
    matches!(error, SnapshotError::Io(_))
}

/// What the world knows to be durable on one disk, from the batches whose end the disk has told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Durable {
    pub(super) hard: HardState,
    /// The last entry of the snapshot in whose place the log stands.
    base: Index,
    /// The first entry of each run of one term.
    runs: BTreeMap<Index, Term>,
    pub(super) last: Index,
    /// The last entry of the newest snapshot whose file is durable. The log may not know of it yet.
    pub(super) snapshot: Index,
    /// The disk has the mark of a node that heals: nothing that it holds counts.
    pub(super) healing: bool,
    /// What it held when it was damaged, until it has healed: what was said of that may arrive late, and counts.
    lost: Option<Box<Self>>,
}

impl Durable {
    /// Begins anew with nothing, as the disk of a node that heals.
    pub(super) fn begin_anew(&mut self) {
        let lost = std::mem::take(self);
        (self.healing, self.lost) = (true, Some(Box::new(Self { lost: None, ..lost })));
    }

    /// Takes a batch.
    pub(super) fn take(&mut self, batch: &Persist) {
        self.take_log(batch);
        if batch.healed {
            (self.healing, self.lost) = (false, None);
        }
    }

    /// Takes a batch, but for what it says of the mark: that is another write, and comes after.
    pub(super) fn take_log(&mut self, batch: &Persist) {
        if let Some(hard) = batch.hard_state {
            self.hard = hard;
        }
        if let Some(meta) = &batch.reset {
            self.runs.clear();
            (self.base, self.last) = (meta.index, meta.index);
        }
        if let Some(first) = batch.entries.first() {
            self.runs.split_off(&first.index);
        }
        for entry in &batch.entries {
            if self.runs.last_key_value().is_none_or(|(_, term)| *term != entry.term) {
                self.runs.insert(entry.index, entry.term);
            }
            self.last = entry.index;
        }
    }

    /// Returns the term of an entry; none of one that is not there or lies in the snapshot.
    pub(super) fn term_at(&self, index: Index) -> Option<Term> {
        if index > self.last || index <= self.base {
            return None;
        }
        self.runs.range(..=index).next_back().map(|(_, term)| *term)
    }

    /// Tells whether an entry is durable here, be it in the log or in the snapshot before it.
    pub(super) fn holds(&self, index: Index, term: Term) -> bool {
        index <= self.base.max(self.snapshot) || self.term_at(index) == Some(term)
    }

    /// Tells whether an entry is held here and counts: of a node that heals, what it held and said before its damage
    /// does, and nothing of now.
    pub(super) fn counts(&self, index: Index, term: Term) -> bool {
        match &self.lost {
            Some(lost) if self.healing => lost.holds(index, term),
            Some(_) | None => !self.healing && self.holds(index, term),
        }
    }

    /// Checks that a start found exactly this.
    pub(super) fn is_found(&self, recovered: &Recovered, snapshot: Index) -> bool {
        let term = |index: Index| {
            let run = recovered.runs.iter().rev().find(|(first, _)| *first <= index);
            run.map(|(_, term)| *term)
        };
        let last = recovered.last_index;
        // A log that lost all its segments to a snapshot begins after it.
        let ends = last == self.last || recovered.runs.is_empty() && self.last <= snapshot;
        let same = self
            .runs
            .keys()
            .chain([&self.last])
            .filter(|index| **index >= recovered.first_index)
            .all(|index| self.term_at(*index) == term(*index) || *index <= self.base);
        let heals = recovered.healing == self.healing;
        recovered.hard_state == self.hard && ends && same && heals
    }
}

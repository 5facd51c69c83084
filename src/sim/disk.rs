//! A virtual disk under the production storage: it tells what is durable from what is only written, and can tear,
//! fail, fill up and rot.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fastrand::Rng;

use crate::storage::disk::{Disk, DiskFile};

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

type Sector = [u8; SECTOR_BYTES];

/// The bytes of one file: as the system sees them, and what it takes to go back to what is on the disk.
#[derive(Clone, Debug, Default)]
struct Content {
    now: Vec<u8>,
    /// Bytes of the file that the disk has; what lies behind was written since the last sync.
    durable_len: usize,
    /// What the disk still has of sectors that were written over since the last sync.
    unsynced: BTreeMap<usize, Sector>,
    /// The same for sectors whose sync failed: no later sync writes them, as the system takes them for clean.
    lost: BTreeMap<usize, Sector>,
}

impl Content {
    fn sector(&self, number: usize) -> Sector {
        let mut sector = [0; SECTOR_BYTES];
        let start = number * SECTOR_BYTES;
        let end = (start + SECTOR_BYTES).min(self.durable_len);
        if let Some(bytes) = self.now.get(start..end)
            && let Some(place) = sector.get_mut(..bytes.len())
        {
            place.copy_from_slice(bytes);
        }
        sector
    }

    fn write(&mut self, bytes: &[u8], offset: u64) {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(bytes.len());
        if start < self.durable_len {
            for number in start / SECTOR_BYTES..end.min(self.durable_len).div_ceil(SECTOR_BYTES) {
                if self.unsynced.contains_key(&number) {
                    continue;
                }
                let on_disk = match self.lost.remove(&number) {
                    Some(sector) => sector,
                    None => self.sector(number),
                };
                self.unsynced.insert(number, on_disk);
            }
        }
        if self.now.len() < end {
            self.now.resize(end, 0);
        }
        if let Some(place) = self.now.get_mut(start..end) {
            place.copy_from_slice(bytes);
        }
    }

    fn set_len(&mut self, bytes: usize) {
        self.now.resize(bytes, 0);
        self.durable_len = self.durable_len.min(bytes);
        let sectors = bytes.div_ceil(SECTOR_BYTES);
        self.unsynced.split_off(&sectors);
        self.lost.split_off(&sectors);
    }

    fn sync(&mut self) {
        self.unsynced.clear();
        self.durable_len = self.now.len();
    }

    /// A sync that failed: nothing reached the disk, and nothing counts as unwritten any more.
    fn sync_failed(&mut self) {
        self.lost.append(&mut self.unsynced);
        for number in self.durable_len / SECTOR_BYTES..self.now.len().div_ceil(SECTOR_BYTES) {
            let on_disk = self.sector(number);
            self.lost.entry(number).or_insert(on_disk);
        }
        self.durable_len = self.now.len();
    }

    fn put_back(&mut self, number: usize, sector: &Sector) {
        let start = number * SECTOR_BYTES;
        let end = (start + SECTOR_BYTES).min(self.now.len());
        if let (Some(place), Some(bytes)) =
            (self.now.get_mut(start..end), sector.get(..end.saturating_sub(start)))
        {
            place.copy_from_slice(bytes);
        }
    }

    /// Cuts the power: of what was not synced each sector has reached the disk or not, as the dice fall.
    fn cut(&mut self, dice: &mut Rng, torn: bool) {
        let mut lands = || torn && dice.bool();
        for (number, sector) in std::mem::take(&mut self.unsynced) {
            if !lands() {
                self.put_back(number, &sector);
            }
        }
        for (number, sector) in std::mem::take(&mut self.lost) {
            self.put_back(number, &sector);
        }
        if self.now.len() > self.durable_len {
            if lands() {
                for number in self.durable_len / SECTOR_BYTES..self.now.len().div_ceil(SECTOR_BYTES)
                {
                    if !lands() {
                        let on_disk = self.sector(number);
                        self.put_back(number, &on_disk);
                    }
                }
            } else {
                self.now.truncate(self.durable_len);
            }
        }
        self.durable_len = self.now.len();
    }
}

type Shared = Arc<Mutex<Content>>;

fn lock(content: &Shared) -> MutexGuard<'_, Content> {
    content.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What goes wrong with a call that changes something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Trouble {
    #[default]
    None,
    /// The power fails after so many calls: the next one does half of its work, and then nothing works.
    CutAfter(u64),
    /// The power is gone.
    Dark,
    /// After so many calls one fails with an I/O error.
    FailAfter(u64),
}

#[derive(Debug, Default)]
struct State {
    names: BTreeMap<String, Shared>,
    durable_names: BTreeMap<String, Shared>,
    trouble: Trouble,
    full: bool,
}

/// A directory of a simulated node; clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct SimDisk(Arc<Mutex<State>>);

/// An open file of it.
#[derive(Clone, Debug)]
pub struct SimFile {
    disk: SimDisk,
    content: Shared,
}

/// What a call may do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leave {
    Whole,
    Half,
    /// It fails, and the system takes what was to be synced for written.
    Fail,
}

impl SimDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call that changes something, and says what it may do.
    fn enter(state: &mut State) -> io::Result<Leave> {
        match state.trouble {
            Trouble::None => Ok(Leave::Whole),
            Trouble::CutAfter(0) => {
                state.trouble = Trouble::Dark;
                Ok(Leave::Half)
            }
            Trouble::CutAfter(calls) => {
                state.trouble = Trouble::CutAfter(calls - 1);
                Ok(Leave::Whole)
            }
            Trouble::Dark => Err(dark()),
            Trouble::FailAfter(0) => {
                state.trouble = Trouble::None;
                Ok(Leave::Fail)
            }
            Trouble::FailAfter(calls) => {
                state.trouble = Trouble::FailAfter(calls - 1);
                Ok(Leave::Whole)
            }
        }
    }

    /// Lets the power fail at a call to come: 0 is the next one that changes something.
    pub fn cut_after(&self, calls: u64) {
        self.state().trouble = Trouble::CutAfter(calls);
    }

    /// Lets one call to come fail with an I/O error: 0 is the next one that changes something.
    pub fn fail_after(&self, calls: u64) {
        self.state().trouble = Trouble::FailAfter(calls);
    }

    /// Takes away what [`SimDisk::cut_after`] and [`SimDisk::fail_after`] have prepared.
    pub fn mend(&self) {
        self.state().trouble = Trouble::None;
    }

    /// Leaves no room for anything new, or makes room again.
    pub fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    /// Cuts the power: what was synced is left, and of the rest, if `torn`, what the dice say.
    pub fn cut(&self, dice: &mut Rng, torn: bool) {
        let mut state = self.state();
        let state = &mut *state;
        let mut names = BTreeMap::new();
        let both = state.names.keys().chain(state.durable_names.keys());
        let all: std::collections::BTreeSet<&String> = both.collect();
        for name in all {
            let (now, before) = (state.names.get(name), state.durable_names.get(name));
            let same = match (now, before) {
                (Some(now), Some(before)) => Arc::ptr_eq(now, before),
                _ => false,
            };
            let kept = if same || torn && dice.bool() { now } else { before };
            if let Some(content) = kept {
                names.insert(name.clone(), Arc::clone(content));
            }
        }
        for content in names.values() {
            lock(content).cut(dice, torn);
        }
        state.durable_names.clone_from(&names);
        state.names = names;
        state.trouble = Trouble::None;
    }

    /// Returns a copy that shares nothing, as a power cut now would leave it if nothing of what is not synced
    /// had reached the disk.
    #[must_use]
    pub fn synced_copy(&self) -> Self {
        let state = self.state();
        let copy = |(name, content): (&String, &Shared)| {
            let mut content = lock(content).clone();
            content.cut(&mut Rng::with_seed(0), false);
            (name.clone(), Arc::new(Mutex::new(content)))
        };
        let names: BTreeMap<String, Shared> = state.durable_names.iter().map(copy).collect();
        let durable_names = names.clone();
        Self(Arc::new(Mutex::new(State { names, durable_names, ..State::default() })))
    }

    /// Lists the files with their sizes.
    #[must_use]
    pub fn files(&self) -> Vec<(String, usize)> {
        let state = self.state();
        state.names.iter().map(|(name, content)| (name.clone(), lock(content).now.len())).collect()
    }

    /// Changes a file's bytes on the disk, behind everybody's back.
    pub fn rot(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let state = self.state();
        if let Some(content) = state.names.get(name) {
            let mut content = lock(content);
            change(&mut content.now);
            content.unsynced.clear();
            content.lost.clear();
            content.durable_len = content.now.len();
        }
    }

    /// Forgets a file, behind everybody's back.
    pub fn lose(&self, name: &str) {
        let mut state = self.state();
        state.names.remove(name);
        state.durable_names.remove(name);
    }
}

fn whole(leave: Leave) -> io::Result<()> {
    match leave {
        Leave::Whole => Ok(()),
        Leave::Half => Err(dark()),
        Leave::Fail => Err(io::Error::other("input/output error")),
    }
}

fn dark() -> io::Error {
    io::Error::other("the power is gone")
}

fn missing() -> io::Error {
    io::Error::from(io::ErrorKind::NotFound)
}

fn full() -> io::Error {
    io::Error::from(io::ErrorKind::StorageFull)
}

impl Disk for SimDisk {
    type File = SimFile;

    fn create(&self, name: &str) -> io::Result<SimFile> {
        let mut state = self.state();
        if state.full {
            return Err(full());
        }
        whole(Self::enter(&mut state)?)?;
        let content = Shared::default();
        state.names.insert(name.into(), Arc::clone(&content));
        Ok(SimFile { disk: self.clone(), content })
    }

    fn open(&self, name: &str) -> io::Result<SimFile> {
        let content = self.state().names.get(name).cloned().ok_or_else(missing)?;
        Ok(SimFile { disk: self.clone(), content })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        if !state.names.contains_key(from) {
            return Err(missing());
        }
        whole(Self::enter(&mut state)?)?;
        if let Some(content) = state.names.remove(from) {
            state.names.insert(to.into(), content);
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        whole(Self::enter(&mut state)?)?;
        state.names.remove(name).map(drop).ok_or_else(missing)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.state();
        let outer = |name: &String| name.split('/').next().unwrap_or_default().to_owned();
        let mut names: Vec<String> = state.names.keys().map(outer).collect();
        names.dedup();
        Ok(names)
    }

    fn make_dir(&self, _name: &str) -> io::Result<()> {
        // A directory is in the names of its files.
        whole(Self::enter(&mut self.state())?)
    }

    fn sync_inner(&self, _name: &str) -> io::Result<()> {
        self.sync_dir()
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.state();
        whole(Self::enter(&mut state)?)?;
        let state = &mut *state;
        state.durable_names.clone_from(&state.names);
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let content = lock(&self.content);
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(content.now.len());
        let rest = content.now.get(start..).unwrap_or_default();
        let read = rest.len().min(buffer.len());
        if let (Some(into), Some(from)) = (buffer.get_mut(..read), rest.get(..read)) {
            into.copy_from_slice(from);
        }
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        let mut content = lock(&self.content);
        let grows = offset.saturating_add(bytes.len() as u64) > content.now.len() as u64;
        if state.full && grows {
            return Err(full());
        }
        let leave = SimDisk::enter(&mut state)?;
        match leave {
            Leave::Whole => content.write(bytes, offset),
            Leave::Half => content.write(bytes.get(..bytes.len() / 2).unwrap_or_default(), offset),
            Leave::Fail => {}
        }
        whole(leave)
    }

    fn sync(&self) -> io::Result<()> {
        let leave = SimDisk::enter(&mut self.disk.state())?;
        let mut content = lock(&self.content);
        match leave {
            Leave::Whole => content.sync(),
            Leave::Half => {}
            Leave::Fail => content.sync_failed(),
        }
        whole(leave)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(lock(&self.content).now.len() as u64)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        let mut content = lock(&self.content);
        if state.full && bytes > content.now.len() as u64 {
            return Err(full());
        }
        whole(SimDisk::enter(&mut state)?)?;
        content.set_len(usize::try_from(bytes).unwrap_or(usize::MAX));
        Ok(())
    }
}

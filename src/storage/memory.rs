//! A disk in memory that forgets what was not synced, and that can fail or be cut off at any call.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::storage::disk::{Disk, DiskFile};

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// The number of the system's input/output error.
const EIO: i32 = 5;

/// What goes wrong at a chosen call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The power fails: the call does half of its work, and nothing works any more.
    Cut,
    /// This and every later call that changes something fails with an I/O error.
    Io,
    /// This and every later write fails for want of space.
    Full,
    /// This call alone fails with an I/O error; a sync that is tried again succeeds, and writes nothing.
    Once,
}

/// Which calls are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Calls {
    /// All that change something.
    #[default]
    All,
    /// Writes, and what else takes room.
    Writes,
    /// Syncs of files.
    Syncs,
}

/// What kind of call it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Write,
    Sync,
    /// A change or a sync of names.
    Name,
}

#[derive(Clone, Debug, Default)]
struct Content {
    durable: Vec<u8>,
    now: Vec<u8>,
    /// Sectors that the next sync writes. One that fails forgets them all the same, as Linux does: a
    /// second sync succeeds and writes nothing.
    dirty: BTreeSet<usize>,
    /// The disk does not give it back: every read fails.
    is_unreadable: bool,
}

impl Content {
    fn write(&mut self, bytes: &[u8], offset: u64) {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(bytes.len());
        if self.now.len() < end {
            self.now.resize(end, 0);
        }
        if let Some(place) = self.now.get_mut(start..end) {
            place.copy_from_slice(bytes);
        }
        self.dirty.extend(start / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES));
    }

    fn sync(&mut self) {
        self.durable.resize(self.now.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            copy_sector(&mut self.durable, &self.now, sector);
        }
    }

    /// A content of which all is durable.
    fn of(bytes: Vec<u8>) -> Self {
        Self { durable: bytes.clone(), now: bytes, ..Self::default() }
    }

    /// Mixes the durable sectors with those that were written since; the length is either one's.
    fn torn(&self, dice: &mut fastrand::Rng) -> Vec<u8> {
        let length = if dice.bool() { self.now.len() } else { self.durable.len() };
        let mut torn = vec![0; length];
        for sector in 0..length.div_ceil(SECTOR_BYTES) {
            let side = if dice.bool() { &self.now } else { &self.durable };
            copy_sector(&mut torn, side, sector);
        }
        torn
    }
}

/// Copies what two files share of a sector.
fn copy_sector(into: &mut [u8], from: &[u8], sector: usize) {
    let start = sector * SECTOR_BYTES;
    let end = (start + SECTOR_BYTES).min(into.len()).min(from.len());
    if let (Some(into), Some(from)) = (into.get_mut(start..end), from.get(start..end)) {
        into.copy_from_slice(from);
    }
}

#[derive(Debug, Default)]
struct State {
    contents: BTreeMap<u64, Content>,
    next: u64,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    calls: u64,
    counted: Calls,
    fault: Option<(u64, Fault)>,
}

impl State {
    /// Returns the names that a sync of the directory would change.
    fn changed_names(&self) -> Vec<String> {
        let all: BTreeSet<&String> = self.names.keys().chain(self.durable_names.keys()).collect();
        all.into_iter()
            .filter(|name| self.names.get(*name) != self.durable_names.get(*name))
            .cloned()
            .collect()
    }

    /// Makes durable which of these names there are.
    fn sync_names(&mut self, which: impl Fn(&str) -> bool) {
        self.durable_names.retain(|name, _| !which(name));
        let now = self.names.iter().filter(|(name, _)| which(name));
        self.durable_names.extend(now.map(|(name, content)| (name.clone(), *content)));
    }
}

/// A directory in memory; clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Mutex<State>>);

/// A file of it.
#[derive(Clone, Debug)]
pub struct MemoryFile {
    disk: Memory,
    content: u64,
}

impl Memory {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a disk that does as it is told.
    fn of(
        contents: BTreeMap<u64, Content>,
        names: BTreeMap<String, u64>,
        durable_names: BTreeMap<String, u64>,
        next: u64,
    ) -> Self {
        let state = State { contents, names, durable_names, next, ..State::default() };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Lets the `call`-th call that changes something (from 0, counted from now) go wrong.
    pub fn fail_at(&self, call: u64, fault: Fault) {
        self.fail_at_of(Calls::All, call, fault);
    }

    /// Lets the `call`-th call of a kind (from 0, counted from now) go wrong.
    pub fn fail_at_of(&self, counted: Calls, call: u64, fault: Fault) {
        let mut state = self.state();
        state.calls = 0;
        state.counted = counted;
        state.fault = Some((call, fault));
    }

    /// Returns how many calls have been counted since [`Memory::fail_at`].
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// Returns the directory as a restart after a power cut finds it: only what was synced.
    #[must_use]
    pub fn after_power_cut(&self) -> Self {
        let state = self.state();
        let contents = state
            .contents
            .iter()
            .map(|(number, content)| (*number, Content::of(content.durable.clone())));
        let names = state.durable_names.clone();
        Self::of(contents.collect(), names.clone(), names, state.next)
    }

    /// Returns the directory as a restart after a power cut may find it: of what was not synced, each
    /// sector and each name has reached the disk or not, as the dice fall.
    #[must_use]
    pub fn after_torn_power_cut(&self, dice: u64) -> Self {
        let mut dice = fastrand::Rng::with_seed(dice);
        let state = self.state();
        let contents = state
            .contents
            .iter()
            .map(|(number, content)| (*number, Content::of(content.torn(&mut dice))));
        let contents = contents.collect();
        let mut names = BTreeMap::new();
        for name in state.names.keys().chain(state.durable_names.keys()) {
            let side = if dice.bool() { &state.names } else { &state.durable_names };
            if let Some(content) = side.get(name) {
                names.insert(name.clone(), *content);
            } else {
                names.remove(name);
            }
        }
        Self::of(contents, names.clone(), names, state.next)
    }

    /// Returns how many things are not durable yet: files with unsynced bytes, and names.
    #[must_use]
    pub fn unsynced(&self) -> u32 {
        let state = self.state();
        let files = state.contents.values().filter(|content| !content.dirty.is_empty()).count();
        let names = state.changed_names().len();
        u32::try_from(files + names).unwrap_or(u32::MAX)
    }

    /// Returns the directory as a restart after a power cut may find it: of the [`Memory::unsynced`] things,
    /// those have reached the disk whose bit is set in `kept`, in the order of files, then of names.
    #[must_use]
    pub fn after_chosen_power_cut(&self, kept: u64) -> Self {
        let state = self.state();
        let mut bit = 0;
        let mut is_kept = || {
            bit += 1;
            kept >> (bit - 1) & 1 == 1
        };
        let mut contents = BTreeMap::new();
        for (number, content) in &state.contents {
            let keeps = !content.dirty.is_empty() && is_kept();
            let bytes = if keeps { &content.now } else { &content.durable };
            contents.insert(*number, Content::of(bytes.clone()));
        }
        let mut names = state.durable_names.clone();
        for name in state.changed_names() {
            if !is_kept() {
                continue;
            }
            match state.names.get(&name) {
                Some(content) => names.insert(name, *content),
                None => names.remove(&name),
            };
        }
        Self::of(contents, names.clone(), names, state.next)
    }

    /// Returns a copy of a file's bytes.
    #[must_use]
    pub fn bytes_of(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        let content = state.contents.get(state.names.get(name)?)?;
        Some(content.now.clone())
    }

    /// Returns the names of the files that were moved into a directory inside this one.
    #[must_use]
    pub fn names_inside(&self, directory: &str) -> Vec<String> {
        let state = self.state();
        let inside = |name: &&String| name.split('/').next() == Some(directory);
        state.names.keys().filter(inside).cloned().collect()
    }

    /// Changes a file's bytes behind everybody's back.
    pub fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let Some(number) = state.names.get(name).copied() else { return };
        if let Some(content) = state.contents.get_mut(&number) {
            change(&mut content.now);
            *content = Content::of(std::mem::take(&mut content.now));
        }
    }

    /// Lets every read of a file fail as on a bad sector, until it is copied by a power cut.
    pub fn make_unreadable(&self, name: &str) {
        let mut state = self.state();
        let Some(number) = state.names.get(name).copied() else { return };
        if let Some(content) = state.contents.get_mut(&number) {
            content.is_unreadable = true;
        }
    }

    /// Returns a copy that shares nothing: what a restart finds after the end of a process, as the system
    /// still remembers what was not synced.
    #[must_use]
    pub fn copy(&self) -> Self {
        let state = self.state();
        let (names, durable_names) = (state.names.clone(), state.durable_names.clone());
        Self::of(state.contents.clone(), names, durable_names, state.next)
    }

    /// Does one call that changes something, or half of it, or nothing, as the fault says.
    fn change(
        &self,
        kind: Call,
        whole: impl FnOnce(&mut State),
        half: impl FnOnce(&mut State),
    ) -> io::Result<()> {
        let mut state = self.state();
        let is_counted = match state.counted {
            Calls::All => true,
            Calls::Writes => kind == Call::Write,
            Calls::Syncs => kind == Call::Sync,
        };
        let call = state.calls;
        state.calls += u64::from(is_counted);
        match state.fault {
            Some((at, fault)) if call >= at && is_counted => match fault {
                Fault::Cut => {
                    if call == at {
                        half(&mut state);
                    }
                    Err(io::Error::other("the power is gone"))
                }
                Fault::Full if kind != Call::Write => {
                    whole(&mut state);
                    Ok(())
                }
                Fault::Once if call > at => {
                    whole(&mut state);
                    Ok(())
                }
                Fault::Full => Err(io::Error::from(io::ErrorKind::StorageFull)),
                Fault::Io | Fault::Once => Err(io::Error::other("input/output error")),
            },
            Some(_) | None => {
                whole(&mut state);
                Ok(())
            }
        }
    }
}

impl Disk for Memory {
    type File = MemoryFile;

    fn create(&self, name: &str) -> io::Result<MemoryFile> {
        let mut content = 0;
        self.change(
            Call::Write,
            |state| {
                content = state.next;
                state.next += 1;
                state.contents.insert(content, Content::default());
                state.names.insert(name.into(), content);
            },
            |_| {},
        )?;
        Ok(MemoryFile { disk: self.clone(), content })
    }

    fn open(&self, name: &str) -> io::Result<MemoryFile> {
        let content = self.state().names.get(name).copied();
        let content = content.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(MemoryFile { disk: self.clone(), content })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        if !self.state().names.contains_key(from) {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        self.change(
            Call::Name,
            |state| {
                if let Some(content) = state.names.remove(from) {
                    state.names.insert(to.into(), content);
                }
            },
            |_| {},
        )
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.change(
            Call::Name,
            |state| {
                state.names.remove(name);
            },
            |_| {},
        )
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.state();
        let outer = |name: &String| name.split('/').next().unwrap_or_default().to_owned();
        let names: BTreeSet<String> = state.names.keys().map(outer).collect();
        Ok(names.into_iter().collect())
    }

    fn make_dir(&self, _name: &str) -> io::Result<()> {
        // A directory is in the names of its files.
        self.change(Call::Name, |_| {}, |_| {})
    }

    fn sync_inner(&self, name: &str) -> io::Result<()> {
        let inside = format!("{name}/");
        self.change(Call::Name, |state| state.sync_names(|name| name.starts_with(&inside)), |_| {})
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.change(Call::Name, |state| state.sync_names(|name| !name.contains('/')), |_| {})
    }
}

impl DiskFile for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.state();
        let content = state.contents.get(&self.content);
        if content.is_some_and(|content| content.is_unreadable) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        let content = content.map_or(&[][..], |content| &content.now);
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
        let rest = content.get(start..).unwrap_or_default();
        let read = rest.len().min(buffer.len());
        if let (Some(into), Some(from)) = (buffer.get_mut(..read), rest.get(..read)) {
            into.copy_from_slice(from);
        }
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let write = |state: &mut State, bytes: &[u8], durable: bool| {
            let Some(content) = state.contents.get_mut(&self.content) else { return };
            content.write(bytes, offset);
            if durable {
                content.sync();
            }
        };
        // A write that the power cuts off may leave any part of itself on the disk: here its half.
        let half = bytes.get(..bytes.len() / 2).unwrap_or_default();
        self.disk.change(
            Call::Write,
            |state| write(state, bytes, false),
            |state| write(state, half, true),
        )
    }

    fn sync(&self) -> io::Result<()> {
        let synced = self.disk.change(
            Call::Sync,
            |state| {
                if let Some(content) = state.contents.get_mut(&self.content) {
                    content.sync();
                }
            },
            |_| {},
        );
        if synced.is_err()
            && let Some(content) = self.disk.state().contents.get_mut(&self.content)
        {
            content.dirty.clear();
        }
        synced
    }

    fn size(&self) -> io::Result<u64> {
        let state = self.disk.state();
        Ok(state.contents.get(&self.content).map_or(0, |content| content.now.len() as u64))
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.disk.change(
            Call::Write,
            |state| {
                if let Some(content) = state.contents.get_mut(&self.content) {
                    let from = content.now.len().min(bytes) / SECTOR_BYTES;
                    content.now.resize(bytes, 0);
                    content.dirty.extend(from..bytes.div_ceil(SECTOR_BYTES));
                }
            },
            |_| {},
        )
    }
}

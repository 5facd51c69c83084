//! Snapshot files: written aside and renamed when whole; received, sent and loaded piece by piece.
//!
//! What travels to another node are the bytes of the file as they are.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::planted::{Bug, is_planted};
use crate::raft::message::SnapshotMeta;
use crate::storage::disk::{Directory, Disk, DiskFile};
use crate::storage::format::NUMBER_MAX;
use crate::storage::snapshot_file::{SYNC_BYTES, Writer, read_head, scan};
use crate::types::Index;

/// Snapshots kept: the newest, and one to fall back on.
const KEPT: usize = 2;

/// Files held open for sending, at most: more than a cluster has peers. Past it the one opened first
/// is closed, and if it was removed, its transfer begins again with a newer one.
const SENDING_MAX: usize = 8;

/// A snapshot file as it is offered and received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotFile {
    /// What it stands for.
    pub meta: SnapshotMeta,
    /// Drawn when it is written: two files of one index are two files.
    pub id: [u8; 16],
    /// Its size.
    pub bytes: u64,
}

/// Why a snapshot cannot be read or received. Nothing that was whole has changed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A file is not what it should be.
    #[error("{file} is damaged at byte {offset}: {what}")]
    Damaged {
        /// Which.
        file: String,
        /// Where.
        offset: u64,
        /// How.
        what: String,
    },
    /// Bytes came for another place than the one wanted.
    #[error("bytes at {got} came where those at {wanted} are wanted")]
    OutOfOrder {
        /// The offset wanted.
        wanted: u64,
        /// The offset that came.
        got: u64,
    },
    /// No transfer of that id is under way.
    #[error("no such transfer is under way")]
    NoTransfer,
    /// The caller did not take a record.
    #[error("a record of {file} is refused: {what}")]
    Refused {
        /// The file.
        file: String,
        /// Why.
        what: String,
    },
    /// The system said no.
    #[error("a snapshot file: {0}")]
    Io(#[from] io::Error),
}

/// A transfer into this directory.
#[derive(Debug)]
struct Incoming<F> {
    file: F,
    offer: SnapshotFile,
    at: u64,
    synced: u64,
}

/// A file whose head cannot be read. It stays where it is, and counts as the snapshot its name tells of.
#[derive(Clone, Debug)]
struct Doubtful {
    index: Index,
    name: String,
    what: String,
}

#[derive(Debug)]
struct State<F> {
    /// In ascending order of index; each id once.
    known: Vec<SnapshotFile>,
    doubtful: Vec<Doubtful>,
    /// Files being sent, in the order of their opening: open, so that they can be read after they were
    /// removed.
    sending: VecDeque<([u8; 16], Arc<F>)>,
}

/// Hears that a file being received could not be written.
type Alarm = Arc<dyn Fn(String) + Send + Sync>;

/// The snapshot files of one directory. Clones share them; calls block on the disk.
pub struct Snapshots<D: Disk = Directory> {
    disk: D,
    /// Locked for look-ups only, never while the disk works.
    state: Arc<Mutex<State<D::File>>>,
    /// Locked as long as a call of the transfer lasts: a new offer must not touch a file that is being
    /// checked.
    incoming: Arc<Mutex<Option<Incoming<D::File>>>>,
    alarm: Option<Alarm>,
}

impl<D: Disk> Clone for Snapshots<D> {
    fn clone(&self) -> Self {
        Self {
            disk: self.disk.clone(),
            state: Arc::clone(&self.state),
            incoming: Arc::clone(&self.incoming),
            alarm: self.alarm.clone(),
        }
    }
}

impl<D: Disk> fmt::Debug for Snapshots<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshots").finish_non_exhaustive()
    }
}

/// Takes a record; says no with a reason.
pub type Push<'a> = dyn FnMut(&[u8]) -> Result<(), String> + 'a;

/// Hands out the records of an image, one after the other, to the writer it is given; each call says
/// whether to go on.
pub type Source = Box<dyn FnOnce(&mut dyn FnMut(&[u8]) -> bool) + Send>;

pub(super) fn name_of(file: &SnapshotFile) -> String {
    format!("snap-{:016x}-{:016x}-{}", file.meta.index.0, file.meta.term.0, hex(&file.id))
}

fn partial_name(id: &[u8; 16]) -> String {
    format!("snap.part-{}", hex(id))
}

/// Returns the index in a file's name; a name that has none counts as the newest of all.
pub(super) fn index_in(name: &str) -> Index {
    let digits = name.strip_prefix("snap-").and_then(|rest| rest.get(..16));
    let index = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    Index(index.unwrap_or(NUMBER_MAX).min(NUMBER_MAX))
}

fn hex(id: &[u8; 16]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl<D: Disk> Snapshots<D> {
    /// Looks at what is there. Files that were not finished here are removed; partly received ones
    /// stay, to be resumed; those whose head is damaged stay too, and [`Snapshots::load`] decides what
    /// they mean.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(disk: &D) -> Result<Self, SnapshotError> {
        let (mut known, mut doubtful) = (Vec::new(), Vec::new());
        for name in disk.list()? {
            if name == "snap.tmp" {
                disk.remove(&name)?;
            } else if name.starts_with("snap-") {
                let file = disk.open(&name)?;
                match read_head(&file, &name) {
                    Ok((head, _start)) if name_of(&head) == name => known.push(head),
                    Ok(_other) => {
                        let what = "its head is that of another file".into();
                        doubtful.push(Doubtful { index: index_in(&name), name, what });
                    }
                    Err(SnapshotError::Damaged { what, .. }) => {
                        doubtful.push(Doubtful { index: index_in(&name), name, what });
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        // A rename that the end of a process kept from being synced reads well and may not last.
        disk.sync_dir()?;
        known.sort_by_key(|file| file.meta.index);
        let state = State { known, doubtful, sending: VecDeque::new() };
        Ok(Self {
            disk: disk.clone(),
            state: Arc::new(Mutex::new(state)),
            incoming: Arc::default(),
            alarm: None,
        })
    }

    /// Names the one who hears that a received file could not be written: the node must stop then, as
    /// at every failed write.
    #[must_use]
    pub fn with_alarm(self, alarm: impl Fn(String) + Send + Sync + 'static) -> Self {
        Self { alarm: Some(Arc::new(alarm)), ..self }
    }

    fn state(&self) -> MutexGuard<'_, State<D::File>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn incoming(&self) -> MutexGuard<'_, Option<Incoming<D::File>>> {
        self.incoming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes on what a write of a received file came to, and raises the alarm if it failed.
    fn must<T>(&self, outcome: Result<T, SnapshotError>) -> Result<T, SnapshotError> {
        if let (Err(error), Some(alarm)) = (&outcome, &self.alarm) {
            alarm(format!("a received snapshot cannot be written: {error}"));
        }
        outcome
    }

    /// Returns the index of the newest snapshot, be it whole or damaged.
    #[must_use]
    pub fn reach(&self) -> Index {
        let state = self.state();
        let known = state.known.iter().map(|file| file.meta.index);
        known.chain(state.doubtful.iter().map(|file| file.index)).max().unwrap_or_default()
    }

    /// Returns the newest whole snapshot.
    #[must_use]
    pub fn newest(&self) -> Option<SnapshotFile> {
        self.state().known.last().cloned()
    }

    /// Writes an image as a snapshot; it is durable under its name when this returns its size.
    ///
    /// # Errors
    /// What the system says; what was written aside is removed at the next start.
    pub fn write(&self, meta: &SnapshotMeta, source: Source) -> Result<u64, SnapshotError> {
        let id = fastrand::u128(..).to_be_bytes();
        let file = self.disk.create("snap.tmp")?;
        let mut writer = Writer::new(&file);
        writer.head(meta, &id)?;
        let mut fault = None;
        source(&mut |record| match writer.record(record) {
            Ok(()) => true,
            Err(error) => {
                fault = Some(error);
                false
            }
        });
        if let Some(error) = fault {
            return Err(error.into());
        }
        let bytes = writer.trailer()?;
        file.sync()?;
        let written = SnapshotFile { meta: meta.clone(), id, bytes };
        self.disk.rename("snap.tmp", &name_of(&written))?;
        self.disk.sync_dir()?;
        self.admit(written)?;
        Ok(bytes)
    }

    /// Adds a whole file, and removes the oldest beyond [`KEPT`]. A file that comes late never takes
    /// the place of a newer one.
    fn admit(&self, file: SnapshotFile) -> Result<(), SnapshotError> {
        let surplus: Vec<SnapshotFile> = {
            let mut state = self.state();
            // One that was received twice is one.
            state.known.retain(|known| known.id != file.id);
            state.known.push(file);
            state.known.sort_by_key(|file| file.meta.index);
            let surplus = state.known.len().saturating_sub(KEPT);
            state.known.drain(..surplus).collect()
        };
        for old in &surplus {
            self.disk.remove(&name_of(old))?;
        }
        if !surplus.is_empty() {
            self.disk.sync_dir()?;
        }
        Ok(())
    }

    /// Reads at most `max` bytes of a snapshot's file at `offset`; `None` if it is gone. A file whose
    /// sending has begun can be read to its end, even if it is removed meanwhile.
    ///
    /// # Errors
    /// What the system says.
    pub fn read_chunk(&self, id: [u8; 16], offset: u64, max: usize) -> io::Result<Option<Vec<u8>>> {
        let (open, name) = {
            let state = self.state();
            let open = state.sending.iter().find(|(open, _)| *open == id);
            let name = state.known.iter().find(|file| file.id == id).map(name_of);
            (open.map(|(_, file)| Arc::clone(file)), name)
        };
        let file = match (open, name) {
            (Some(file), _) => file,
            (None, None) => return Ok(None),
            (None, Some(name)) => match self.disk.open(&name) {
                Ok(file) => {
                    let file = Arc::new(file);
                    let mut state = self.state();
                    state.sending.push_back((id, Arc::clone(&file)));
                    if state.sending.len() > SENDING_MAX {
                        state.sending.pop_front();
                    }
                    file
                }
                // It was removed just now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            },
        };
        let mut chunk = vec![0; max];
        let read = file.read_at(&mut chunk, offset)?;
        chunk.truncate(read);
        Ok(Some(chunk))
    }

    /// Begins to receive a file, or goes on with one that broke off; returns the offset wanted. One
    /// transfer at a time: another one's leftovers are removed.
    ///
    /// # Errors
    /// What the system says.
    pub fn begin(&self, offer: &SnapshotFile) -> Result<u64, SnapshotError> {
        let mut slot = self.incoming();
        if let Some(incoming) = slot.as_ref()
            && incoming.offer == *offer
        {
            return Ok(incoming.at);
        }
        *slot = None;
        let (file, at) = self.must(self.prepare(offer).map_err(SnapshotError::Io))?;
        *slot = Some(Incoming { file, offer: offer.clone(), at, synced: at });
        Ok(at)
    }

    fn prepare(&self, offer: &SnapshotFile) -> io::Result<(D::File, u64)> {
        let wanted = partial_name(&offer.id);
        let mut kept = false;
        for name in self.disk.list()?.iter().filter(|name| name.starts_with("snap.part-")) {
            if *name == wanted {
                kept = true;
            } else {
                self.disk.remove(name)?;
            }
        }
        let file = if kept { self.disk.open(&wanted)? } else { self.disk.create(&wanted)? };
        self.disk.sync_dir()?;
        // What was not synced before a crash may be holes, so the last step is fetched again. Should
        // that not be enough, the checksums find it at the end.
        let length = file.size()?;
        let at = if length > offer.bytes { 0 } else { length - length % SYNC_BYTES };
        let at = at.saturating_sub(SYNC_BYTES);
        file.set_len(at)?;
        Ok((file, at))
    }

    /// Writes bytes of the file being received; returns the offset wanted next.
    ///
    /// # Errors
    /// [`SnapshotError::OutOfOrder`] and [`SnapshotError::NoTransfer`], after which nothing has
    /// changed, and what the system says, after which the transfer has ended.
    pub fn write_chunk(
        &self,
        id: [u8; 16],
        offset: u64,
        bytes: &[u8],
    ) -> Result<u64, SnapshotError> {
        let mut slot = self.incoming();
        let incoming = slot.as_mut().filter(|incoming| incoming.offer.id == id);
        let Some(incoming) = incoming else { return Err(SnapshotError::NoTransfer) };
        let end = offset.saturating_add(bytes.len() as u64);
        let is_wanted = offset == incoming.at || is_planted(Bug::ChunkOutOfOrder);
        if !is_wanted || end > incoming.offer.bytes {
            return Err(SnapshotError::OutOfOrder { wanted: incoming.at, got: offset });
        }
        let written = incoming.write(bytes).map_err(SnapshotError::Io);
        if written.is_err() {
            *slot = None;
        }
        self.must(written)
    }

    /// Ends a transfer: checks every byte, hands each record to `push`, and makes the file durable
    /// under its name. A file that is not whole or not right is removed.
    ///
    /// # Errors
    /// What is wrong with it, or what the system says.
    pub fn finish(&self, id: [u8; 16], push: &mut Push<'_>) -> Result<SnapshotMeta, SnapshotError> {
        // Held to the end: the same file may be offered again meanwhile.
        let mut slot = self.incoming();
        let incoming = slot.take_if(|incoming| incoming.offer.id == id);
        let Some(incoming) = incoming else { return Err(SnapshotError::NoTransfer) };
        let name = partial_name(&id);
        let checked = read_head(&incoming.file, &name).and_then(|(found, start)| {
            if found != incoming.offer {
                let what = "it is not what was offered".into();
                return Err(SnapshotError::Damaged { file: name.clone(), offset: 0, what });
            }
            scan(&incoming.file, &name, start, push)
        });
        if let Err(error) = checked {
            self.must(self.disk.remove(&name).map_err(SnapshotError::Io))?;
            return Err(error);
        }
        let meta = incoming.offer.meta.clone();
        self.must(self.place(&name, incoming)).map(|()| meta)
    }

    /// Makes a received file that was checked durable under its name.
    fn place(&self, name: &str, incoming: Incoming<D::File>) -> Result<(), SnapshotError> {
        incoming.file.sync()?;
        self.disk.rename(name, &name_of(&incoming.offer))?;
        self.disk.sync_dir()?;
        self.admit(incoming.offer)
    }

    /// Loads the newest whole snapshot whose successors are in the log: every byte is checked before
    /// the first record is handed to `push`. A damaged newest one is passed over only if an older one
    /// reaches the log, which begins at `log_first`.
    ///
    /// # Errors
    /// Damage that cannot be passed over, a record that `push` refuses, or what the system says.
    pub fn load(
        &self,
        log_first: Index,
        push: &mut Push<'_>,
    ) -> Result<Option<SnapshotMeta>, SnapshotError> {
        let mut fault = None;
        for (index, snapshot) in self.newest_first() {
            if fault.is_some() && index.next() < log_first {
                break;
            }
            match self.load_one(&snapshot, push) {
                Ok(meta) => {
                    self.state().known.retain(|other| other.meta.index <= meta.index);
                    return Ok(Some(meta));
                }
                Err(error @ SnapshotError::Damaged { .. }) => {
                    log::error!("{error}; looking for an older snapshot");
                    fault = fault.or(Some(error));
                }
                Err(error) => return Err(error),
            }
        }
        fault.map_or(Ok(None), Err)
    }

    /// Returns every snapshot there is, those that cannot be read as the reason why.
    fn newest_first(&self) -> Vec<(Index, Result<SnapshotFile, Doubtful>)> {
        let state = self.state();
        let mut all: Vec<_> =
            state.known.iter().map(|file| (file.meta.index, Ok(file.clone()))).collect();
        all.extend(state.doubtful.iter().map(|file| (file.index, Err(file.clone()))));
        all.sort_by_key(|(index, _)| std::cmp::Reverse(*index));
        all
    }

    /// Checks every byte of a snapshot, then hands out its records.
    fn load_one(
        &self,
        snapshot: &Result<SnapshotFile, Doubtful>,
        push: &mut Push<'_>,
    ) -> Result<SnapshotMeta, SnapshotError> {
        let snapshot = match snapshot {
            Ok(snapshot) => snapshot,
            Err(Doubtful { name, what, .. }) => {
                let (file, what) = (name.clone(), what.clone());
                return Err(SnapshotError::Damaged { file, offset: 0, what });
            }
        };
        let name = name_of(snapshot);
        let file = self.disk.open(&name)?;
        let (_, start) = read_head(&file, &name)?;
        scan(&file, &name, start, &mut |_record| Ok(()))?;
        scan(&file, &name, start, push)?;
        Ok(snapshot.meta.clone())
    }
}

impl<F: DiskFile> Incoming<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<u64> {
        self.file.write_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        if self.at - self.synced >= SYNC_BYTES {
            self.file.sync()?;
            self.synced = self.at;
        }
        Ok(self.at)
    }
}

//! What a measurement leaves in the world while it runs, and takes away when it ends: jobs in a queue, directories.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::client::job::new_id;
use crate::types::JobId;

/// How the names of all directories of ours begin.
const NAME_START: &str = "raftq-";

/// The file in a directory of ours that is locked as long as its process lives.
const LOCK_NAME: &str = "raftq-bench.lock";

/// Names that are tried for a new directory.
const NAMES_TRIED_MAX: usize = 8;

/// All that one measurement has made and not taken away yet. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Traces {
    blocks: Arc<Mutex<Vec<Arc<Block>>>>,
    dirs: Arc<Mutex<Vec<PathBuf>>>,
}

/// Ids that differ in their last 32 bits, so that all that were made can be named again.
#[derive(Debug)]
pub struct Block {
    base: u128,
    made: AtomicU64,
}

impl Block {
    /// Makes the next id.
    #[must_use]
    pub fn make(&self) -> JobId {
        self.id(self.made.fetch_add(1, Ordering::Relaxed))
    }

    fn id(&self, number: u64) -> JobId {
        JobId((self.base | u128::from(number)).to_be_bytes())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Traces {
    /// Begins a block of ids.
    #[must_use]
    pub fn block(&self) -> Arc<Block> {
        // The block is as large as 32 bits are: the time in an id stands in front of them.
        let base = u128::from_be_bytes(new_id().0) & !u128::from(u32::MAX);
        let block = Arc::new(Block { base, made: AtomicU64::new(0) });
        lock(&self.blocks).push(Arc::clone(&block));
        block
    }

    /// Returns how many jobs may still be there.
    #[must_use]
    pub fn jobs_count(&self) -> u64 {
        lock(&self.blocks).iter().map(|block| block.made.load(Ordering::Relaxed)).sum()
    }

    /// Returns the newest ids that were made, at most so many and of one block; none when there are none left.
    #[must_use]
    pub fn newest_jobs(&self, count_max: u64) -> Vec<JobId> {
        let mut blocks = lock(&self.blocks);
        while let Some(block) = blocks.last() {
            let end = block.made.load(Ordering::Relaxed);
            if end > 0 {
                return (end.saturating_sub(count_max)..end)
                    .map(|number| block.id(number))
                    .collect();
            }
            blocks.pop();
        }
        Vec::new()
    }

    /// Forgets the newest jobs, as [`Self::newest_jobs`] gave them: they have ended. Their block makes no more.
    pub fn forget_newest_jobs(&self, count: usize) {
        if let Some(block) = lock(&self.blocks).last() {
            block.made.fetch_sub(count as u64, Ordering::Relaxed);
        }
    }

    /// Makes a directory inside `parent`, named `KIND-PID-CHANCE`, and removes what processes that were killed have
    /// left there.
    ///
    /// # Errors
    /// What the system says, in words.
    pub fn place(&self, parent: &Path, kind: &str) -> Result<Place, String> {
        let wrong = |error: io::Error| format!("{}: {error}", parent.display());
        fs::create_dir_all(parent).map_err(wrong)?;
        remove_dead(parent).map_err(wrong)?;
        for _ in 0..NAMES_TRIED_MAX {
            let name = format!("{kind}-{}-{:08x}", std::process::id(), fastrand::u32(..));
            let path = parent.join(name);
            if let Some(lock_file) = make(&path).map_err(wrong)? {
                lock(&self.dirs).push(path.clone());
                return Ok(Place { path, traces: self.clone(), _lock: lock_file });
            }
        }
        Err(format!(
            "{}: others remove what is made there; choose another directory",
            parent.display()
        ))
    }

    /// Forgets a directory: it is no longer there.
    pub fn forget_dir(&self, dir: &Path) {
        lock(&self.dirs).retain(|path| path != dir);
    }

    /// Returns the directories that are still there.
    #[must_use]
    pub fn dirs(&self) -> Vec<PathBuf> {
        lock(&self.dirs).clone()
    }
}

/// A directory of one measurement: locked while this process lives, removed when this is dropped.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    traces: Traces,
    _lock: File,
}

impl Place {
    /// Returns where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        match remove(&self.path) {
            Ok(()) => self.traces.forget_dir(&self.path),
            Err(error) => log::warn!("{}: {error}", self.path.display()),
        }
    }
}

/// Makes a directory and locks it; nothing if somebody took it for a dead one in between.
fn make(path: &Path) -> io::Result<Option<File>> {
    fs::create_dir(path)?;
    let name = path.join(LOCK_NAME);
    let file = match File::create_new(&name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unmade(path, error)),
    };
    match file.try_lock() {
        // Who removes holds the lock while it does: what is still there once it is ours will stay.
        Ok(()) => Ok(name.exists().then_some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(unmade(path, error)),
    }
}

/// Removes a directory that could not be locked, and hands on why.
fn unmade(path: &Path, why: io::Error) -> io::Error {
    if let Err(error) = fs::remove_dir_all(path) {
        log::warn!("{}: {error}", path.display());
    }
    why
}

/// Removes a directory of ours, its lock last: what cannot be removed stays known as ours.
///
/// # Errors
/// What the system says.
pub fn remove(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name() != LOCK_NAME {
            match entry.file_type()?.is_dir() {
                true => fs::remove_dir_all(entry.path())?,
                false => fs::remove_file(entry.path())?,
            }
        }
    }
    fs::remove_dir_all(path)
}

/// Removes the directories whose process no longer lives: ours, with a lock that nobody holds.
fn remove_dead(parent: &Path) -> io::Result<()> {
    let user = rustix::process::geteuid().as_raw();
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        let is_kind = entry.file_name().to_str().is_some_and(|name| name.starts_with(NAME_START));
        // Not through a link, and nothing of other users: a temporary directory is everybody's.
        let is_ours = |metadata: fs::Metadata| metadata.is_dir() && metadata.uid() == user;
        if !is_kind || !entry.metadata().is_ok_and(is_ours) {
            continue;
        }
        let path = entry.path();
        let Ok(lock_file) = File::open(path.join(LOCK_NAME)) else { continue };
        if lock_file.try_lock().is_ok() {
            match remove(&path) {
                Ok(()) => log::info!("{}: its process was killed; removed", path.display()),
                Err(error) => log::warn!("{}: {error}", path.display()),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("raftq unit {name} {}", std::process::id()))
    }

    #[test]
    fn jobs_are_named_newest_first_and_forgotten() {
        let traces = Traces::default();
        let (one, two) = (traces.block(), traces.block());
        let old = [one.make(), one.make()];
        let new = [two.make(), two.make(), two.make()];
        assert_eq!(traces.jobs_count(), 5);
        assert_eq!(traces.newest_jobs(2), new[1..]);
        traces.forget_newest_jobs(2);
        assert_eq!(traces.newest_jobs(2), new[..1]);
        traces.forget_newest_jobs(1);
        assert_eq!(traces.newest_jobs(1000), old);
        traces.forget_newest_jobs(2);
        assert_eq!(traces.newest_jobs(1000), []);
        assert_eq!(traces.jobs_count(), 0);
    }

    #[test]
    fn directory_of_a_dead_process_is_removed_and_no_other() {
        let parent = scratch("traces");
        let traces = Traces::default();
        let living = traces.place(&parent, "raftq-x").unwrap();
        let dead = traces.place(&parent, "raftq-x").unwrap();
        let dead_path = dead.path().to_owned();
        let foreign = parent.join("raftq-x-results");
        fs::create_dir(&foreign).unwrap();
        // A killed process drops nothing, but the system lets go of its lock.
        dead._lock.unlock().unwrap();
        let other_path = parent.join("somebody-else");
        fs::create_dir(&other_path).unwrap();
        fs::write(other_path.join(LOCK_NAME), "").unwrap();
        let next = traces.place(&parent, "raftq-y").unwrap();
        assert!(!dead_path.exists(), "its process is gone");
        assert!(other_path.exists(), "a name that is not ours");
        assert!(living.path().exists() && foreign.exists());
        drop((living, next));
        assert_eq!(traces.dirs(), [dead_path]);
        assert_eq!(fs::read_dir(&parent).unwrap().count(), 2);
        fs::remove_dir_all(&parent).unwrap();
    }
}

//! A real directory that cannot be changed through it: every file is opened for reading alone.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::storage::disk::{Directory, Disk};

/// A directory to look at. Whatever would change it is refused.
#[derive(Clone, Debug)]
pub struct ReadOnly(PathBuf);

impl ReadOnly {
    /// Names a directory that exists.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self(path.to_path_buf())
    }

    /// Tells whether another process holds the lock of this name, as a running node does; `None` if that
    /// cannot be found out.
    ///
    /// The lock is shared for an instant to find out. A node that starts in that very instant says that
    /// its directory is in use, and can be started again.
    #[must_use]
    pub fn is_locked(&self, name: &str) -> Option<bool> {
        let file = match File::open(self.0.join(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Some(false),
            Err(_unreadable) => return None,
        };
        match file.try_lock_shared() {
            Ok(()) => Some(false),
            Err(TryLockError::WouldBlock) => Some(true),
            Err(TryLockError::Error(_)) => None,
        }
    }
}

fn refused<T>() -> io::Result<T> {
    Err(io::Error::from(io::ErrorKind::ReadOnlyFilesystem))
}

impl Disk for ReadOnly {
    type File = File;

    fn create(&self, _name: &str) -> io::Result<File> {
        refused()
    }

    fn open(&self, name: &str) -> io::Result<File> {
        File::open(self.0.join(name))
    }

    fn rename(&self, _from: &str, _to: &str) -> io::Result<()> {
        refused()
    }

    fn remove(&self, _name: &str) -> io::Result<()> {
        refused()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Directory::new(&self.0).list()
    }

    fn make_dir(&self, _name: &str) -> io::Result<()> {
        refused()
    }

    fn sync_inner(&self, _name: &str) -> io::Result<()> {
        refused()
    }

    fn sync_dir(&self) -> io::Result<()> {
        refused()
    }
}

//! Snapshot files for the lane that carries them: the disk's side of it, and the decoding.

use std::io;

use crate::jobs::image::Restore;
use crate::jobs::machine::Machine;
use crate::net::shared::{SnapshotFile, SnapshotFiles};
use crate::raft::message::SnapshotMeta;
use crate::storage::snapshot::{SnapshotError, SnapshotFile as DiskFile, Snapshots};
use crate::storage::threads::Storage;

/// The snapshots of this node's data directory.
pub(super) struct Files(pub(super) Snapshots);

impl SnapshotFiles for Files {
    fn newest(&self) -> Option<SnapshotFile> {
        self.0.newest().map(|file| SnapshotFile { meta: file.meta, id: file.id, bytes: file.bytes })
    }

    fn read_chunk(&self, id: [u8; 16], offset: u64, max: usize) -> io::Result<Option<Vec<u8>>> {
        self.0.read_chunk(id, offset, max)
    }

    fn begin(&self, file: &SnapshotFile) -> Result<u64, String> {
        let file = DiskFile { meta: file.meta.clone(), id: file.id, bytes: file.bytes };
        self.0.begin(&file).map_err(|error| error.to_string())
    }

    fn write_chunk(&self, id: [u8; 16], offset: u64, data: &[u8]) -> Result<u64, String> {
        self.0.write_chunk(id, offset, data).map_err(|error| error.to_string())
    }

    fn finish(&self, id: [u8; 16]) -> Result<(SnapshotMeta, Box<Machine>), String> {
        let mut restore = Restore::new();
        let mut push = |record: &[u8]| restore.push(record).map_err(|error| error.to_string());
        let meta = self.0.finish(id, &mut push).map_err(|error| error.to_string())?;
        let machine = finish(restore, &meta)?;
        Ok((meta, Box::new(machine)))
    }
}

/// Loads the machine of the newest snapshot on disk, or a new one where there is none.
///
/// # Errors
/// What is wrong with the snapshot: a node without its past must not start.
pub(super) fn load(storage: &Storage) -> Result<(Option<SnapshotMeta>, Machine), String> {
    let mut restore = Restore::new();
    let mut push = |record: &[u8]| restore.push(record).map_err(|error| error.to_string());
    match storage
        .snapshots()
        .load(storage.log_first(), &mut push)
        .map_err(|error: SnapshotError| error.to_string())?
    {
        None => Ok((None, Machine::new())),
        Some(meta) => {
            let machine = finish(restore, &meta)?;
            Ok((Some(meta), machine))
        }
    }
}

/// A machine that stands elsewhere than its snapshot claims has lost something.
fn finish(restore: Restore, meta: &SnapshotMeta) -> Result<Machine, String> {
    let machine = restore.finish().map_err(|error| error.to_string())?;
    if machine.applied_index() != meta.index {
        return Err(format!(
            "a snapshot at {} holds a queue at {}",
            meta.index,
            machine.applied_index()
        ));
    }
    Ok(machine)
}

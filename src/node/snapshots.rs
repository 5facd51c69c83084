//! Snapshot files for the lane that carries them: the disk's side of it, and the decoding.

use std::io;
use std::path::Path;

use crate::jobs::machine::Machine;
use crate::jobs::restore::Restore;
use crate::net::shared::{SnapshotFile, SnapshotFiles};
use crate::raft::message::SnapshotMeta;
use crate::storage::disk::Disk;
use crate::storage::error::{advice, is_unreadable};
use crate::storage::snapshot::{SnapshotError, SnapshotFile as DiskFile, Snapshots};
use crate::types::Index;

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
        receive(&self.0, id)
    }
}

/// Ends the transfer of a snapshot: the file is checked and durable, and its queue restored.
///
/// # Errors
/// What is wrong with the file, or what the system says.
pub(crate) fn receive<D: Disk>(
    snapshots: &Snapshots<D>,
    id: [u8; 16],
) -> Result<(SnapshotMeta, Box<Machine>), String> {
    let mut restore = Restore::new();
    let mut push = |record: &[u8]| restore.push(record).map_err(|error| error.to_string());
    let meta = snapshots.finish(id, &mut push).map_err(|error| error.to_string())?;
    let machine = finish(restore, &meta)?;
    Ok((meta, Box::new(machine)))
}

/// Loads the machine of the newest snapshot in `data` whose successors are in the log, which begins at
/// `log_first`, or a new one where there is none.
///
/// # Errors
/// What is wrong with the snapshot: a node without its past must not start.
pub(crate) fn load<D: Disk>(
    snapshots: &Snapshots<D>,
    log_first: Index,
    data: &Path,
) -> Result<(Option<SnapshotMeta>, Machine), String> {
    let mut restore = Restore::new();
    let mut push = |record: &[u8]| restore.push(record).map_err(|error| error.to_string());
    let explain = |error: SnapshotError| match error {
        SnapshotError::Damaged { .. } => format!(
            "{error}, and no other snapshot reaches the log; this node must not vote without it. Nothing \
             was changed. {}",
            advice(data)
        ),
        SnapshotError::Io(error) if is_unreadable(&error) => {
            format!("the disk does not give back a snapshot: {error}. {}", advice(data))
        }
        SnapshotError::OutOfOrder { .. }
        | SnapshotError::NoTransfer
        | SnapshotError::Refused { .. }
        | SnapshotError::Io(_) => error.to_string(),
    };
    match snapshots.load(log_first, &mut push).map_err(explain)? {
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

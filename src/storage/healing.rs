//! Setting damaged files aside, so that a node can begin anew and heal from its peers.
//!
//! What is damaged is moved into `damaged-N/` inside the data directory, never deleted: log and snapshots
//! as they are. The identity stays, for the other nodes know this one by it, with another salt, so that
//! no record of before can be taken for one of after, and with a mark. The mark is durable before
//! the first file leaves its place; a start that finds it goes on from there, told to heal or not. It
//! goes only when consensus says that the node is whole (`src/raft/healing.rs`).

use std::fs::File;
use std::io;
use std::path::Path;

use crossbeam_channel::Sender;

use crate::storage::disk::{Directory, Disk};
use crate::storage::error::{OpenError, is_unreadable};
use crate::storage::identity::{self, Identity, Mark};
use crate::storage::log::Options;
use crate::storage::recover::{Survey, check};
use crate::storage::snapshot::{SnapshotError, Snapshots};
use crate::storage::threads::{Event, Opened, open_on};
use crate::types::NodeId;

/// What the names of the directories begin with into which damaged files are moved.
pub const ASIDE: &str = "damaged-";

/// What the names of the files begin with that are moved: log and snapshots, finished or not.
const MOVED: [&str; 4] = ["log-", "log.tmp-", "snap-", "snap."];

/// What was found and done on the way to an open directory.
#[derive(Debug)]
pub struct SetAside {
    /// What was wrong.
    pub damage: String,
    /// The directory, inside the data directory, that the files are in now.
    pub into: String,
}

/// Opens a node's data directory like [`crate::storage::threads::open`]; if synced data is damaged, it
/// is set aside first, and the node begins anew as one that heals.
///
/// # Errors
/// [`OpenError`]. A damaged identity is among them: without it the others would not know this node.
pub fn open(
    path: &Path,
    node: NodeId,
    options: &Options,
    events: Sender<Event>,
) -> Result<(Opened, Option<SetAside>), OpenError> {
    let (disk, identity, lock) = identity::enter(path, node)?;
    heal_on::<Directory>(disk, identity, Some(lock), options, events)
}

/// Does the same on any disk whose identity is known.
///
/// # Errors
/// As [`open`].
pub fn heal_on<D: Disk>(
    disk: D,
    identity: Identity,
    directory_lock: Option<File>,
    options: &Options,
    events: Sender<Event>,
) -> Result<(Opened<D>, Option<SetAside>), OpenError> {
    let (mut identity, mut aside) = set_aside(&disk, identity)?;
    // The lock is shared by both files, and so held until the last of them is closed.
    let second = directory_lock.as_ref().map(File::try_clone).transpose();
    let second = second.map_err(OpenError::io("the lock"))?;
    match open_on(disk.clone(), identity, directory_lock, options, events.clone()) {
        Err(error) if error.is_damage() && aside.is_none() => {
            // Damage that only the second look finds: entries that the last records speak of.
            (identity, aside) = begin_anew(&disk, identity, error.to_string())?;
            Ok((open_on(disk, identity, second, options, events)?, aside))
        }
        opened => Ok((opened?, aside)),
    }
}

/// Goes on with setting aside where a start was cut off in it, and sets aside what else is damaged.
///
/// # Errors
/// As [`open`].
pub fn set_aside<D: Disk>(
    disk: &D,
    identity: Identity,
) -> Result<(Identity, Option<SetAside>), OpenError> {
    let identity = resume(disk, identity)?;
    match find_damage(disk, identity)? {
        Some(damage) => begin_anew(disk, identity, damage),
        None => Ok((identity, None)),
    }
}

/// Says what is damaged, if anything is that keeps a node from starting. A file that the disk no longer
/// gives back is damaged too, and can be set aside without reading it.
///
/// # Errors
/// What is no damage: another version's files, or what the system says.
pub fn find_damage<D: Disk>(disk: &D, identity: Identity) -> Result<Option<String>, OpenError> {
    let snapshots = match Snapshots::open(disk) {
        Ok(snapshots) => snapshots,
        Err(error) => return unusable(error).map(Some),
    };
    let survey = Survey::of(disk, identity.salt)
        .and_then(|survey| check(&survey, identity, snapshots.reach()).map(|()| survey));
    let log_first = match survey {
        Ok(survey) => survey.first_index(),
        Err(OpenError::Io { path, error }) if is_unreadable(&error) => {
            return Ok(Some(unreadable(&path, &error)));
        }
        Err(error) if error.is_damage() => return Ok(Some(error.to_string())),
        Err(error) => return Err(error),
    };
    match snapshots.load(log_first, &mut |_record| Ok(())) {
        Ok(_) => Ok(None),
        Err(error) => unusable(error).map(Some),
    }
}

/// Says what is wrong with a snapshot, unless that is no damage.
fn unusable(error: SnapshotError) -> Result<String, OpenError> {
    match error {
        SnapshotError::Io(error) if is_unreadable(&error) => Ok(unreadable("a snapshot", &error)),
        SnapshotError::Io(error) => Err(OpenError::io("a snapshot")(error)),
        SnapshotError::Damaged { .. }
        | SnapshotError::OutOfOrder { .. }
        | SnapshotError::NoTransfer
        | SnapshotError::Refused { .. } => Ok(error.to_string()),
    }
}

fn unreadable(path: &str, error: &io::Error) -> String {
    format!("the disk does not give back {path}: {error}")
}

/// Sets aside all there is, because of what is damaged in it; the node begins anew as one that heals.
///
/// # Errors
/// What the system says; the next start goes on.
pub fn begin_anew<D: Disk>(
    disk: &D,
    identity: Identity,
    damage: String,
) -> Result<(Identity, Option<SetAside>), OpenError> {
    let names = disk.list().map_err(OpenError::io("the data directory"))?;
    let taken = names.iter().filter_map(|name| name.strip_prefix(ASIDE)?.parse::<u32>().ok());
    let number = taken.max().unwrap_or(0).saturating_add(1);
    log::warn!("{damage}");
    log::warn!("the files are moved to {ASIDE}{number} in the data directory; nothing is deleted");
    let identity = identity::mark(disk, identity, Mark::SettingAside(number))?;
    let identity = resume(disk, identity)?;
    Ok((identity, Some(SetAside { damage, into: format!("{ASIDE}{number}") })))
}

/// Goes on with setting aside where a start was cut off in it: all files are then of before.
///
/// # Errors
/// What the system says; the next start tries again.
pub fn resume<D: Disk>(disk: &D, identity: Identity) -> Result<Identity, OpenError> {
    let Mark::SettingAside(number) = identity.mark else { return Ok(identity) };
    let into = format!("{ASIDE}{number}");
    let failed = |error| OpenError::io(into.as_str())(error);
    disk.make_dir(&into).map_err(failed)?;
    disk.sync_dir().map_err(failed)?;
    for name in disk.list().map_err(failed)? {
        if MOVED.iter().any(|prefix| name.starts_with(prefix)) {
            disk.rename(&name, &format!("{into}/{name}")).map_err(failed)?;
        }
    }
    disk.sync_inner(&into).map_err(failed)?;
    disk.sync_dir().map_err(failed)?;
    identity::mark(disk, identity, Mark::Healing)
}

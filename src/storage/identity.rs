//! Whose directory it is: an identity drawn once, a salt for its records, and a lock.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::pack::unpack::{Structs, unpack};
use crate::storage::disk::{Directory, Disk, DiskFile};
use crate::storage::error::OpenError;
use crate::types::{DirId, NodeId};

pub(super) const NAME: &str = "identity";
pub(super) const ASIDE: &str = "identity.tmp";
/// The file that a running node holds locked.
pub const LOCK: &str = "lock";

/// The version of everything in the directory.
const FORMAT: u32 = 1;

/// The version of a directory whose node heals: a program that knows nothing of it must not start on it,
/// for it would vote.
const FORMAT_HEALING: u32 = 2;

/// Longer than any identity.
const IDENTITY_BYTES_MAX: usize = 4096;

/// Whether the node of a directory may be trusted to remember.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mark {
    /// Nothing was lost.
    #[default]
    Whole,
    /// Synced data is damaged, and is being moved into the directory of this number.
    SettingAside(u32),
    /// It begins anew: until consensus says otherwise it must neither vote nor count.
    Healing,
}

/// What a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    format: u32,
    /// Whose it is.
    pub node: NodeId,
    /// Its own id: a directory that was lost and made anew is another one.
    pub dir: DirId,
    /// Part of every record's checksum.
    pub salt: u64,
    /// Its log has begun: from now on a directory without any record has lost its votes. Before, a
    /// first start was cut off, and nothing was ever promised.
    pub begun: bool,
    /// Whether synced data was lost.
    #[serde(default)]
    pub mark: Mark,
}

/// Opens or makes the directory and takes its lock, which is held as long as the file lives.
///
/// # Errors
/// [`OpenError`]: a missing parent, something foreign, another node's, in use, or the system.
pub fn enter(path: &Path, node: NodeId) -> Result<(Directory, Identity, File), OpenError> {
    let shown = path.display().to_string();
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    // A path that cannot be looked at is not one that is missing: to make it is no advice then.
    if !path.try_exists().map_err(OpenError::io(shown.as_str()))? {
        if !parent.try_exists().map_err(OpenError::io(parent.display().to_string()))? {
            return Err(OpenError::NoParent(parent.to_path_buf()));
        }
        fs::create_dir(path).map_err(OpenError::io(shown.as_str()))?;
    }
    let directory = Directory::new(path);
    let known = is_known(&directory, path)?;
    let lock = directory.create(LOCK).map_err(OpenError::io(shown.as_str()))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(OpenError::InUse(path.to_path_buf())),
        Err(TryLockError::Error(error)) => {
            return Err(OpenError::Io { path: format!("{shown}/{LOCK}"), error });
        }
    }
    let identity = if known {
        load(&directory)?
    } else {
        // A directory whose own name is lost in a power cut would come back as another one, empty.
        sync_parent(parent).map_err(OpenError::io(parent.display().to_string()))?;
        make(&directory, node)?
    };
    if identity.node != node {
        let dir = path.to_path_buf();
        return Err(OpenError::OtherNode { dir, owner: identity.node, node });
    }
    Ok((directory, identity, lock))
}

/// Tells whether a directory has an identity; `path` is what it is called.
///
/// # Errors
/// [`OpenError::Foreign`] if it has none and holds something, and what the system says.
pub fn is_known<D: Disk>(disk: &D, path: &Path) -> Result<bool, OpenError> {
    let names = disk.list().map_err(OpenError::io(path.display().to_string()))?;
    let known = names.iter().any(|name| name == NAME);
    if !known && names.iter().any(|name| name != ASIDE && name != LOCK) {
        return Err(OpenError::Foreign(path.to_path_buf()));
    }
    Ok(known)
}

/// Makes the name of a new directory durable. One whose parent may not be read was made by somebody
/// else, long before.
fn sync_parent(parent: &Path) -> io::Result<()> {
    match File::open(parent) {
        Ok(directory) => directory.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            log::warn!("{} cannot be synced: {error}", parent.display());
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Draws an identity and makes it durable.
///
/// # Errors
/// What the system says.
pub fn make<D: Disk>(disk: &D, node: NodeId) -> Result<Identity, OpenError> {
    let identity = Identity {
        format: FORMAT,
        node,
        dir: DirId(fastrand::u128(..).to_be_bytes()),
        salt: fastrand::u64(..),
        begun: false,
        mark: Mark::Whole,
    };
    write(disk, &identity).map_err(OpenError::io(NAME))?;
    Ok(identity)
}

/// Notes that the log has begun.
///
/// # Errors
/// What the system says.
pub fn begin<D: Disk>(disk: &D, identity: Identity) -> Result<Identity, OpenError> {
    let identity = Identity { begun: true, ..identity };
    write(disk, &identity).map_err(OpenError::io(NAME))?;
    Ok(identity)
}

/// Changes the mark, durably. With one that says that files are set aside the directory begins anew: its
/// log has no record yet, and another salt.
///
/// # Errors
/// What the system says.
pub fn mark<D: Disk>(disk: &D, identity: Identity, mark: Mark) -> Result<Identity, OpenError> {
    let identity = match mark {
        Mark::Whole => Identity { format: FORMAT, mark, ..identity },
        Mark::Healing => Identity { format: FORMAT_HEALING, mark, ..identity },
        Mark::SettingAside(_) => Identity {
            format: FORMAT_HEALING,
            mark,
            begun: false,
            salt: fastrand::u64(..),
            ..identity
        },
    };
    write(disk, &identity).map_err(OpenError::io(NAME))?;
    Ok(identity)
}

fn write<D: Disk>(disk: &D, identity: &Identity) -> io::Result<()> {
    let body = rmp_serde::to_vec_named(identity).map_err(io::Error::other)?;
    let mut bytes = crc32fast::hash(&body).to_le_bytes().to_vec();
    bytes.extend(body);
    let file = disk.create(ASIDE)?;
    file.write_at(&bytes, 0)?;
    file.sync()?;
    disk.rename(ASIDE, NAME)?;
    disk.sync_dir()
}

/// Reads the identity of a directory that has one.
///
/// # Errors
/// [`OpenError::Identity`] if it cannot be read, [`OpenError::Version`] if another version wrote
/// it, and what the system says.
pub fn load<D: Disk>(disk: &D) -> Result<Identity, OpenError> {
    let file = disk.open(NAME).map_err(OpenError::io(NAME))?;
    let mut bytes = vec![0; IDENTITY_BYTES_MAX];
    let read = file.read_at(&mut bytes, 0).map_err(OpenError::io(NAME))?;
    bytes.truncate(read);
    let damaged = |what: &str| OpenError::Identity { file: NAME.into(), what: what.into() };
    let (crc, body) = bytes.split_at_checked(4).ok_or_else(|| damaged("it is cut"))?;
    if crc32fast::hash(body).to_le_bytes() != crc {
        return Err(damaged("a wrong checksum"));
    }
    let identity: Identity =
        unpack(body, Structs::Either).map_err(|error| damaged(&error.to_string()))?;
    if ![FORMAT, FORMAT_HEALING].contains(&identity.format) {
        return Err(OpenError::Version(identity.format));
    }
    Ok(identity)
}

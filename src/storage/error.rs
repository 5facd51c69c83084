//! Why a data directory cannot be used, in words for the one who has to act.

use std::io;
use std::path::{Path, PathBuf};

use crate::types::{Index, NodeId};

/// Why a data directory was not opened. Nothing in it was changed, except that a node told to heal may have
/// set damaged files aside before.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory's parent is missing.
    #[error("{0} does not exist; make it first (mkdir -p), or name another --data")]
    NoParent(PathBuf),
    /// It holds something that is not raftq's.
    #[error(
        "{0} is not empty and is no data directory of raftq (it has no identity file); name an empty \
         or a new one"
    )]
    Foreign(PathBuf),
    /// It belongs to another node.
    #[error(
        "{dir} belongs to node {owner}, not to node {node}; each node has its own directory, for ever"
    )]
    OtherNode {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        owner: NodeId,
        /// Who asked.
        node: NodeId,
    },
    /// Another process works in it.
    #[error("{0} is in use: another process holds its lock; stop that one first")]
    InUse(PathBuf),
    /// Synced data cannot be read back.
    #[error(
        "{file} is damaged at byte {offset}, and intact records follow: {what}. This is no torn end \
         of a last write but lost data; this node must not vote on it. Nothing was changed"
    )]
    Damaged {
        /// The file.
        file: String,
        /// Where the first bad record begins.
        offset: u64,
        /// What is wrong with it.
        what: String,
    },
    /// The file that says whose directory it is cannot be read.
    #[error(
        "{file} is damaged: {what}. Without it this node does not know itself and must not vote. Nothing \
         was changed"
    )]
    Identity {
        /// The file.
        file: String,
        /// What is wrong with it.
        what: String,
    },
    /// The directory was in use, and no record of its log is left.
    #[error(
        "the log is gone, and with it this node's term and votes; it must not vote. Nothing was \
         changed. If somebody moved the files (log-*), move them back"
    )]
    NoLog,
    /// Files contradict each other.
    #[error("the data directory contradicts itself: {0}. Nothing was changed")]
    Contradiction(String),
    /// Another version of the program wrote it.
    #[error("it has format {0}, which this program does not know; use the program that wrote it")]
    Version(u32),
    /// Entries that neither the log nor a snapshot holds.
    #[error(
        "the log begins at {first} and no whole snapshot reaches it: entries are missing. Nothing was \
         changed"
    )]
    Gap {
        /// The first entry of the log.
        first: Index,
    },
    /// The system said no.
    #[error("{path}: {error}")]
    Io {
        /// What was asked for.
        path: String,
        /// What the system said.
        error: io::Error,
    },
}

impl OpenError {
    /// Tells whether synced data was lost, so that this node could begin anew and heal from its peers.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. } | Self::NoLog | Self::Contradiction(_) | Self::Gap { .. } => true,
            Self::NoParent(_)
            | Self::Foreign(_)
            | Self::OtherNode { .. }
            | Self::InUse(_)
            | Self::Identity { .. }
            | Self::Version(_)
            | Self::Io { .. } => false,
        }
    }

    /// Tells whether a start with `--heal` would set files aside for it: damage, and files that the disk does
    /// not give back.
    #[must_use]
    pub fn can_heal(&self) -> bool {
        let unreadable = matches!(self, Self::Io { error, .. } if is_unreadable(error));
        unreadable || self.is_damage()
    }

    /// Says what to do about it, if it is damage: `data` is the directory as it was named.
    #[must_use]
    pub fn advice(&self, data: &Path) -> Option<String> {
        match self {
            Self::Identity { .. } => Some(format!(
                "It cannot be healed: the other nodes know this one by the id in that file. `raftq doctor \
                 --data {}` shows what is there. Keep the directory, and let the other nodes go on: they \
                 have a quorum without this one",
                data.display()
            )),
            error if error.can_heal() => Some(advice(data)),
            Self::NoParent(_)
            | Self::Foreign(_)
            | Self::OtherNode { .. }
            | Self::InUse(_)
            | Self::Damaged { .. }
            | Self::NoLog
            | Self::Contradiction(_)
            | Self::Version(_)
            | Self::Gap { .. }
            | Self::Io { .. } => None,
        }
    }

    /// Wraps what the system said of a path.
    pub fn io(path: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| Self::Io { path, error }
    }
}

/// Tells whether the disk itself no longer gives back what was written: `EIO`, or a checksum of the
/// filesystem's own (`EBADMSG` and `EUCLEAN` of ext4, XFS and Btrfs).
#[must_use]
pub fn is_unreadable(error: &io::Error) -> bool {
    const EIO: i32 = 5;
    const EBADMSG: i32 = 74;
    const EUCLEAN: i32 = 117;
    matches!(error.raw_os_error(), Some(EIO | EBADMSG | EUCLEAN))
}

/// Says what to do about damaged data in `data`.
#[must_use]
pub fn advice(data: &Path) -> String {
    format!(
        "`raftq doctor --data {}` shows what is there. The other nodes go on without this one as long as \
         they are a majority. To heal it from them, start it once with --heal added (raftq node ... \
         --heal): the damaged files are set aside, nothing is deleted",
        data.display()
    )
}

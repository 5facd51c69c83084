//! Why a data directory cannot be used, in words for the one who has to act.

use std::io;
use std::path::PathBuf;

use crate::types::{Index, NodeId};

/// Why a data directory was not opened. Nothing in it was changed.
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
         of a last write but lost data; this node must not vote on it. Nothing was changed. Keep the \
         directory for a look, and let the other nodes go on: they have a quorum without this one"
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
        "{file} is damaged: {what}. Without it this node knows neither itself nor its votes, and must \
         not vote. Nothing was changed. Keep the directory for a look, and let the other nodes go on"
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
         changed. If somebody moved the files (log-*), move them back; else keep the directory for a \
         look, and let the other nodes go on"
    )]
    NoLog,
    /// Files contradict each other.
    #[error("the data directory contradicts itself: {0}. Nothing was changed")]
    Contradiction(String),
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
    /// Wraps what the system said of a path.
    pub fn io(path: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| Self::Io { path, error }
    }
}

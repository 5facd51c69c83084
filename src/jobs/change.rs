//! What changed, entry by entry, as it is told to those who watch: every change has a position of its own.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::jobs::rules::QueueChange;
use crate::types::{Fence, Index, JobId, Millis, QueueName, WorkerId};

/// Bytes of the error in a change, at most; the whole of it is in the job.
pub const CHANGE_ERROR_BYTES_MAX: usize = 256;

/// A place between two changes: after the `n` first changes of the entry at `index`, and after everything before
/// that entry. `index.0` is before all that the entry changed.
///
/// The same on every node: whoever has read up to a position on one node goes on from it on another.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Position {
    /// The entry.
    pub index: Index,
    /// How many of its changes are before this place.
    #[serde(default)]
    pub n: u32,
}

impl Position {
    /// Returns the place before the changes of an entry.
    #[must_use]
    pub fn before(index: Index) -> Self {
        Self { index, n: 0 }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.n)
    }
}

/// A text that is no position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a position is INDEX.N, such as 1042.3, or INDEX alone for everything from that entry on")]
pub struct NoPosition;

impl FromStr for Position {
    type Err = NoPosition;

    fn from_str(text: &str) -> Result<Self, NoPosition> {
        let (index, n) = text.split_once('.').unwrap_or((text, "0"));
        let is_plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if !is_plain(index) || !is_plain(n) {
            return Err(NoPosition);
        }
        let index = index.parse().map_err(|_too_large| NoPosition)?;
        Ok(Self { index: Index(index), n: n.parse().map_err(|_too_large| NoPosition)? })
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// A job was submitted: it waits, until `held_ms` if there is one.
    Submitted,
    /// The time came that a job waited for: it stands in its line.
    Due,
    /// A job was given to a worker.
    Assigned,
    /// A job was given back by its worker: it waits again, and no attempt is used up.
    Released,
    /// An attempt failed, and the job waits for the next one, until `held_ms` if there is one.
    Retrying,
    /// A job ended well.
    Completed,
    /// A job ended badly, for good.
    Failed,
    /// A job was cancelled.
    Cancelled,
    /// A job that had failed, or was cancelled, waits again as if it were new.
    Revived,
    /// A job that had ended is not kept any more.
    Forgotten,
    /// The rules of a queue were changed.
    QueueChanged,
    /// A worker registered, or a new start of it.
    WorkerRegistered,
    /// A worker left by its own will.
    WorkerLeft,
    /// A worker was judged lost.
    WorkerLost,
    /// Something that a newer node knows of and this program does not.
    #[serde(other)]
    Unknown,
}

impl What {
    /// Everything that is known to happen.
    pub const ALL: [Self; 14] = [
        Self::Submitted,
        Self::Due,
        Self::Assigned,
        Self::Released,
        Self::Retrying,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
        Self::Revived,
        Self::Forgotten,
        Self::QueueChanged,
        Self::WorkerRegistered,
        Self::WorkerLeft,
        Self::WorkerLost,
    ];

    /// Returns the word for it, as users read it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Submitted => "submitted",
            Self::Due => "due",
            Self::Assigned => "assigned",
            Self::Released => "released",
            Self::Retrying => "retrying",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Revived => "revived",
            Self::Forgotten => "forgotten",
            Self::QueueChanged => "queue_changed",
            Self::WorkerRegistered => "worker_registered",
            Self::WorkerLeft => "worker_left",
            Self::WorkerLost => "worker_lost",
            Self::Unknown => "unknown",
        }
    }
}

/// One change. What does not concern it is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What happened.
    pub what: What,
    /// To which job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// In which queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueName>,
    /// Which attempt of the job it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Of a job that was submitted: its priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// By or to which worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerId>,
    /// The token of the attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<Fence>,
    /// See [`crate::jobs::job::Verdict::exit_code`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Why, at most [`CHANGE_ERROR_BYTES_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Box<str>>,
    /// Until when the job waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_ms: Option<Millis>,
    /// Of a queue: what was changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<QueueChange>,
}

impl Change {
    /// Says that something happened, and nothing more.
    #[must_use]
    pub fn new(what: What) -> Self {
        Self {
            what,
            job: None,
            queue: None,
            attempt: None,
            priority: None,
            worker: None,
            fence: None,
            exit_code: None,
            error: None,
            held_ms: None,
            rule: None,
        }
    }

    /// Returns about how many bytes of memory it takes.
    #[must_use]
    pub fn memory(&self) -> usize {
        size_of::<Self>() + self.error.as_ref().map_or(0, |error| error.len())
    }
}

/// A change with its place and time, as a watcher gets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The place right behind it: whoever goes on from there gets what came next.
    pub position: Position,
    /// When it was decided, on the log's clock.
    pub now_ms: Millis,
    /// What it is.
    pub change: Change,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_survive_their_text() {
        for (text, index, n) in [("7", 7, 0), ("7.0", 7, 0), ("1042.3", 1042, 3)] {
            assert_eq!(text.parse(), Ok(Position { index: Index(index), n }));
        }
        assert_eq!(Position { index: Index(7), n: 2 }.to_string(), "7.2");
        for wrong in ["", ".", "7.", ".7", "+7", "7.-1", "7.1.2", "x", "7.99999999999"] {
            assert_eq!(wrong.parse::<Position>(), Err(NoPosition), "{wrong}");
        }
    }

    #[test]
    fn words_are_those_of_the_wire() {
        for what in What::ALL {
            let told = serde_json::to_string(&what).unwrap();
            assert_eq!(told, format!("\"{}\"", what.as_str()));
        }
    }

    #[test]
    fn change_is_small() {
        // A node keeps hundreds of thousands.
        assert!(size_of::<Change>() <= 152, "{}", size_of::<Change>());
    }
}

//! Whether a worker is given new jobs, as its users decide, and how far a job says that it is.

use serde::{Deserialize, Serialize};

use crate::types::{Fence, JobId, Millis};

/// The bytes of a note about a job's progress, at most.
pub const NOTE_BYTES_MAX: usize = 256;

/// The progress of a job that is done, in percent.
pub const PERCENT_MAX: u8 = 100;

/// Whether a worker is given new jobs. What it runs goes on in any case.
///
/// A drain is over with the process that it was meant for: the next start of the worker is open again. Quiet is said
/// about the name, and stays over its restarts until somebody opens it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Intake {
    /// It is given jobs.
    #[default]
    Open,
    /// It is given none, and stays.
    Quiet,
    /// It is given none, and ends when it has nothing left to run.
    Drain,
}

impl Intake {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Open, Self::Quiet, Self::Drain];

    /// Returns the word for it, as users read it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Quiet => "quiet",
            Self::Drain => "drain",
        }
    }

    /// Returns the number that stands for it in digests and images.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Open => 0,
            Self::Quiet => 1,
            Self::Drain => 2,
        }
    }

    /// Finds the one that a number stands for.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|intake| intake.code() == code)
    }

    /// Says it after a worker's state, `live,quiet`, unless nothing is decided.
    #[must_use]
    pub fn beside(self, state: &str) -> String {
        match self {
            Self::Open => state.into(),
            Self::Quiet | Self::Drain => format!("{state},{}", self.as_str()),
        }
    }

    /// Tells whether nothing is decided.
    #[must_use]
    pub fn is_open(&self) -> bool {
        *self == Self::Open
    }

    /// Returns what holds for the next start of a worker; `same_process`: it is the process that had the former
    /// one, which lost its lease and registers anew.
    #[must_use]
    pub fn after_restart(self, same_process: bool) -> Self {
        match self {
            Self::Drain if !same_process => Self::Open,
            Self::Open | Self::Quiet | Self::Drain => self,
        }
    }
}

/// What a job that runs says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressReport {
    /// The job.
    pub job: JobId,
    /// The token of the attempt that says it.
    pub fence: Fence,
    /// How far it is, 0 to [`PERCENT_MAX`].
    pub percent: u8,
    /// Where it is, in its own words, at most [`NOTE_BYTES_MAX`]; may be empty.
    pub note: String,
}

/// What a job last said of itself, as it is told to users.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// How far it is.
    pub percent: u8,
    /// Where it is, in its own words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// When it said so, on the log's clock.
    pub at_ms: Millis,
}

impl Progress {
    /// Says it in a few words, `40 %, two of five files`.
    #[must_use]
    pub fn in_words(&self) -> String {
        match self.note.as_str() {
            "" => format!("{} %", self.percent),
            note => format!("{} %, {note}", self.percent),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drain_ends_with_its_process_and_quiet_does_not() {
        assert_eq!(
            Intake::ALL.map(|it| it.after_restart(false)),
            [Intake::Open, Intake::Quiet, Intake::Open]
        );
        assert_eq!(Intake::ALL.map(|it| it.after_restart(true)), Intake::ALL);
        assert!(Intake::ALL.iter().all(|it| Intake::from_code(it.code()) == Some(*it)));
        assert_eq!(Intake::from_code(3), None);
    }
}

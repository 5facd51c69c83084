//! What a caller is told when it does not get what it asked for, and whether it may have happened.

use std::fmt;
use std::time::Duration;

use crate::types::JobId;
use crate::wire::message::{Code, LeaderHint, Refusal};

/// Job ids named in the text of an error, at most; the others are counted. All are in [`Story::ids`].
const IDS_SHOWN_MAX: usize = 3;

/// Why a request failed.
///
/// All but [`Error::Unknown`] are *definite*: what was asked for did not happen and will not. See
/// [`Error::is_definite`] and [`Error::is_retryable`].
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The cluster said no. If the no is one that passes (`RESOURCE_EXHAUSTED`), it was asked again
    /// until the time was over, and this is its last word.
    #[error("{}: {refusal}{}", story.what, story.by())]
    Refused {
        /// What it said.
        refusal: Box<Refusal>,
        /// How it came to that.
        story: Box<Story>,
    },
    /// No node could be reached. Nothing was sent, nothing was done.
    #[error("{}: no node could be reached {}; nothing was done. Do the nodes run at these addresses?", .0.what, .0)]
    Unreachable(Box<Story>),
    /// Nodes answer, and none of them leads or knows who does. Nothing was done.
    #[error("{}: no leader {}; nothing was done. A majority of the nodes must be up: look at the cluster's status", .0.what, .0)]
    NoLeader(Box<Story>),
    /// It may have been done, or may be done yet: a request was sent and its answer did not come.
    /// Asking again with the same job id finds out, and does it at most once.
    #[error("{}: outcome unknown {}; it may have been done, or be done yet: ask again with the same id", .0.what, .0)]
    Unknown(Box<Story>),
    /// No answer came in time to something that changes nothing, or that was never sent.
    #[error("{}: no answer {}; nothing was changed. Is the time allowed too short, or the cluster overloaded?", .0.what, .0)]
    Timeout(Box<Story>),
    /// The caller's mistake: it cannot be right, whatever the cluster. Nothing was sent.
    #[error("{0}")]
    Invalid(String),
}

/// How a request came to its end: who was asked, how often, for how long, and the last that was heard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Story {
    /// What was asked for, such as `submit job 0192...`.
    pub what: String,
    /// The jobs it was about.
    pub ids: Vec<JobId>,
    /// Whom: the last few addresses, in order of their last turn.
    pub asked: Vec<String>,
    /// How often it was sent.
    pub attempts: u32,
    /// For how long.
    pub waited: Duration,
    /// The last answer, or the last failure.
    pub last: String,
    /// Who leads, as far as anybody said.
    pub leader: Option<LeaderHint>,
}

impl Story {
    fn by(&self) -> String {
        match (self.asked.last(), self.attempts) {
            (Some(addr), 0 | 1) => format!(" (said {addr})"),
            (Some(addr), tries) => {
                format!(" (said {addr}, try {tries}, {:.1} s)", self.waited.as_secs_f64())
            }
            (None, _) => String::new(),
        }
    }
}

/// `in 2.1 s (3 tries; asked a, b; last: ...)`.
impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tries = if self.attempts == 1 { "try" } else { "tries" };
        write!(f, "in {:.1} s ({} {tries}", self.waited.as_secs_f64(), self.attempts)?;
        if !self.asked.is_empty() {
            write!(f, "; asked {}", self.asked.join(", "))?;
        }
        if !self.last.is_empty() {
            write!(f, "; last: {}", self.last)?;
        }
        write!(f, ")")
    }
}

/// Names jobs in a text: the first few, and how many more.
pub(crate) fn name_jobs(ids: &[JobId]) -> String {
    let shown: Vec<String> = ids.iter().take(IDS_SHOWN_MAX).map(ToString::to_string).collect();
    let noun = if ids.len() == 1 { "job" } else { "jobs" };
    match ids.len().saturating_sub(IDS_SHOWN_MAX) {
        0 => format!("{noun} {}", shown.join(", ")),
        more => format!("{noun} {} and {more} more", shown.join(", ")),
    }
}

impl Error {
    /// Tells whether the very same request may succeed later. After [`Error::Unknown`] a submit must
    /// carry the same job id then.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Refused { refusal, .. } => refusal.is_retryable(),
            Self::Unreachable(_) | Self::NoLeader(_) | Self::Unknown(_) | Self::Timeout(_) => true,
            Self::Invalid(_) => false,
        }
    }

    /// Tells whether it is certain that what was asked for did not happen and will not.
    #[must_use]
    pub fn is_definite(&self) -> bool {
        match self {
            Self::Refused { refusal, .. } => !refusal.unknown,
            Self::Unknown(_) => false,
            Self::Unreachable(_) | Self::NoLeader(_) | Self::Timeout(_) | Self::Invalid(_) => true,
        }
    }

    /// Returns how it came to this; `None` if nothing was tried.
    #[must_use]
    pub fn story(&self) -> Option<&Story> {
        match self {
            Self::Refused { story, .. }
            | Self::Unreachable(story)
            | Self::NoLeader(story)
            | Self::Unknown(story)
            | Self::Timeout(story) => Some(story),
            Self::Invalid(_) => None,
        }
    }

    /// Returns the refusal, if the cluster said no.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused { refusal, .. } => Some(refusal),
            Self::Unreachable(_)
            | Self::NoLeader(_)
            | Self::Unknown(_)
            | Self::Timeout(_)
            | Self::Invalid(_) => None,
        }
    }

    /// Returns who leads, as far as anybody said.
    #[must_use]
    pub fn leader(&self) -> Option<&LeaderHint> {
        self.story().and_then(|story| story.leader.as_ref())
    }

    /// Returns how often it was sent.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.story().map_or(0, |story| story.attempts)
    }

    /// Returns the jobs it was about; after [`Error::Unknown`], those to ask for.
    #[must_use]
    pub fn ids(&self) -> &[JobId] {
        self.story().map_or(&[], |story| &story.ids)
    }
}

/// The same as a refusal, for lists of results in which each item has its own.
impl From<&Error> for Refusal {
    fn from(error: &Error) -> Self {
        match error {
            Error::Refused { refusal, .. } => refusal.as_ref().clone(),
            Error::Unreachable(_) | Error::NoLeader(_) => Self::unavailable(error.to_string()),
            Error::Unknown(_) => {
                Self::new(Code::DeadlineExceeded, error.to_string()).with_unknown_outcome()
            }
            Error::Timeout(_) => Self::new(Code::DeadlineExceeded, error.to_string()),
            Error::Invalid(reason) => Self::invalid(reason.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_text_says_what_whom_how_long_and_what_to_try() {
        let story = Box::new(Story {
            what: "submit job 00000000000000000000000000000000".into(),
            asked: vec!["n1:7101".into(), "n2:7102".into()],
            attempts: 3,
            waited: Duration::from_millis(2100),
            last: "UNAVAILABLE: an election is on".into(),
            ..Story::default()
        });
        let text = Error::NoLeader(story.clone()).to_string();
        assert_eq!(
            text,
            "submit job 00000000000000000000000000000000: no leader in 2.1 s (3 tries; asked n1:7101, \
             n2:7102; last: UNAVAILABLE: an election is on); nothing was done. A majority of the nodes \
             must be up: look at the cluster's status"
        );
        let refused =
            Error::Refused { refusal: Box::new(Refusal::not_found("no such job")), story };
        assert!(
            refused.to_string().ends_with("NOT_FOUND: no such job (said n2:7102, try 3, 2.1 s)")
        );
    }

    #[test]
    fn error_unknown_is_the_only_one_that_is_not_definite() {
        let story = Box::<Story>::default();
        assert!(!Error::Unknown(story.clone()).is_definite());
        assert!(Error::Timeout(story.clone()).is_definite());
        assert!(
            Error::Unreachable(story.clone()).is_definite()
                && Error::Unreachable(story).is_retryable()
        );
        assert!(!Error::Invalid("no seeds".into()).is_retryable());
    }

    #[test]
    fn jobs_named_in_a_text_are_few() {
        let ids = [JobId::default(); 5];
        assert!(name_jobs(&ids).ends_with(" and 2 more"));
        assert_eq!(name_jobs(&ids[..1]), "job 00000000000000000000000000000000");
    }
}

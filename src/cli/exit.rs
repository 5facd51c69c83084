//! How a verb ends: the exit codes, and what is said on stderr when it did not go well.

use std::fmt;
use std::io::{self, Write};

use crate::wire::message::{Code, Refusal};

/// The exit code of the program. Scripts branch on it, so the numbers never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Something failed that has no code of its own.
    Failure = 1,
    /// The command line is wrong; nothing was tried.
    Usage = 2,
    /// No such job.
    NotFound = 3,
    /// No leader, or no node could be reached; it did not and will not happen.
    Unreachable = 4,
    /// The cluster answers and is not well.
    Unhealthy = 5,
    /// It may have happened, or may still happen.
    Unknown = 6,
    /// Not allowed.
    Denied = 7,
    /// The job waited for has failed or was cancelled.
    JobFailed = 8,
    /// A bench was ended early by SIGINT, or a list that is watched.
    Interrupted = 130,
    /// A bench was ended early by SIGTERM, or a list that is watched.
    Terminated = 143,
}

impl Exit {
    /// Returns the number for the operating system.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// Orders the codes by how much they matter where several jobs end differently: what nobody knows
    /// first, then what was refused or never tried, then what only tells how a job stands.
    fn weight(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::JobFailed => 1,
            Self::Unhealthy => 2,
            Self::Failure => 3,
            Self::NotFound => 4,
            Self::Usage => 5,
            Self::Unreachable => 6,
            Self::Denied => 7,
            Self::Unknown => 8,
            // These stand alone: whoever was interrupted has no jobs to weigh.
            Self::Interrupted | Self::Terminated => 9,
        }
    }
}

/// Returns the exit code that matters more: of several, the first of 6, 7, 4, 2, 3, 1, 5, 8 that is among them.
#[must_use]
pub fn worse(one: Exit, other: Exit) -> Exit {
    if other.weight() > one.weight() { other } else { one }
}

/// A verb that did not go well: the exit code and what to tell the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What the process ends with.
    pub exit: Exit,
    /// What went wrong.
    pub message: String,
    /// What to try, each a line of its own.
    pub hints: Vec<String>,
    /// Nothing went wrong but that whoever read stdout has gone away, as in `raftq list | head -1`.
    pub is_unread: bool,
}

/// How every verb ends.
pub type Outcome = Result<Exit, Failure>;

impl Failure {
    /// Makes a failure with a message.
    #[must_use]
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hints: Vec::new(), is_unread: false }
    }

    /// Makes a failure of the command line.
    #[must_use]
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Adds a line that says what to try.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Makes a failure of a write to stdout.
    #[must_use]
    pub fn stdout(error: &io::Error) -> Self {
        let is_unread = error.kind() == io::ErrorKind::BrokenPipe;
        let failure = Self::new(Exit::Failure, format!("cannot write to stdout: {error}"));
        Self { is_unread, ..failure }
    }

    /// Says it on stderr. There is nobody left to tell when that fails too.
    pub fn report(&self) {
        narrate(&self.to_string());
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "raftq: {}", self.message)?;
        self.hints.iter().try_for_each(|hint| write!(f, "\n  {hint}"))
    }
}

/// Writes a line for the user to stderr; a closed stderr is no reason to stop.
pub fn narrate(text: &str) {
    writeln!(io::stderr().lock(), "{text}").ok();
}

/// Tells whether a request that failed could have changed something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It only asks.
    Reads,
    /// It changes the cluster.
    Writes,
}

/// Returns the exit code that a refusal means to a user.
#[must_use]
pub fn exit_of(refusal: &Refusal, effect: Effect) -> Exit {
    if refusal.unknown && effect == Effect::Writes {
        return Exit::Unknown;
    }
    match refusal.code {
        Code::NotFound => Exit::NotFound,
        Code::InvalidArgument => Exit::Usage,
        // A read that got no answer in time changed nothing: as good as nobody there.
        Code::NotLeader | Code::Unavailable | Code::DeadlineExceeded => Exit::Unreachable,
        Code::Unauthenticated | Code::PermissionDenied => Exit::Denied,
        Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::ResourceExhausted
        | Code::StaleFence
        | Code::Internal => Exit::Failure,
    }
}

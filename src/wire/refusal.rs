//! Every no on the wire: its code, its number, and whether the thing asked for may have happened.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::types::Incarnation;
use crate::wire::message::{Code, LeaderHint, Refusal};

/// The text of a refusal, at most, in bytes; what is longer is cut when it is sent.
pub const MESSAGE_BYTES_MAX: usize = 512;

impl Code {
    /// Every code, in order of number.
    pub const ALL: [Self; 12] = [
        Self::InvalidArgument,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::AlreadyExists,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::Internal,
        Self::Unavailable,
        Self::Unauthenticated,
        Self::NotLeader,
        Self::StaleFence,
    ];

    /// Returns the name, as the wire, the logs and the text mode have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::NotLeader => "NOT_LEADER",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::Unavailable => "UNAVAILABLE",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::StaleFence => "STALE_FENCE",
            Self::Internal => "INTERNAL",
        }
    }

    /// Returns the number: gRPC's for its codes, from 100 on for our own.
    #[must_use]
    pub fn number(self) -> u16 {
        match self {
            Self::InvalidArgument => 3,
            Self::DeadlineExceeded => 4,
            Self::NotFound => 5,
            Self::AlreadyExists => 6,
            Self::PermissionDenied => 7,
            Self::ResourceExhausted => 8,
            Self::FailedPrecondition => 9,
            Self::Internal => 13,
            Self::Unavailable => 14,
            Self::Unauthenticated => 16,
            Self::NotLeader => 100,
            Self::StaleFence => 101,
        }
    }

    /// Returns the code with this number, if this version knows it.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.number() == number)
    }

    /// Returns the code with this name, if this version knows it.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == name)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Refusal {
    /// Makes a definite no: it did not happen and will not.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            code,
            message,
            unknown: false,
            retry_after_ms: None,
            leader: None,
            incarnation: None,
        }
    }

    /// Another node leads: `leader`, where known.
    #[must_use]
    pub fn not_leader(leader: impl Into<Option<LeaderHint>>) -> Self {
        let leader = leader.into();
        let message = match &leader {
            Some(hint) => format!("node {} at {} leads term {}", hint.id, hint.addr, hint.term),
            None => "this node does not lead, and does not know who does".into(),
        };
        Self { leader, ..Self::new(Code::NotLeader, message) }
    }

    /// No leader is known, or the node is stopping; nothing was done.
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Code::Unavailable, message)
    }

    /// A queue or a limit is full; nothing was done. The caller waits at least `retry_after_ms`.
    #[must_use]
    pub fn exhausted(message: impl Into<String>, retry_after_ms: u64) -> Self {
        let refusal = Self::new(Code::ResourceExhausted, message);
        Self { retry_after_ms: Some(retry_after_ms), ..refusal }
    }

    /// Accepted and not decided in time: it may have happened, or happen yet.
    #[must_use]
    pub fn deadline_exceeded() -> Self {
        let message = "not decided in time: it may have happened, or happen yet; \
                       ask again with the same id";
        Self { unknown: true, ..Self::new(Code::DeadlineExceeded, message) }
    }

    /// The request cannot be right, whatever the state.
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    /// There is no such thing, any more or at all.
    #[must_use]
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, message)
    }

    /// The id belongs to a job of other content.
    #[must_use]
    pub fn already_exists(message: impl Into<String>) -> Self {
        Self::new(Code::AlreadyExists, message)
    }

    /// The state does not allow it.
    #[must_use]
    pub fn failed_precondition(message: impl Into<String>) -> Self {
        Self::new(Code::FailedPrecondition, message)
    }

    /// The attempt was taken away from the one who reports about it.
    #[must_use]
    pub fn stale_fence(message: impl Into<String>) -> Self {
        Self::new(Code::StaleFence, message)
    }

    /// A fault of ours.
    #[must_use]
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, message)
    }

    /// Says that it may have happened, or happen yet.
    #[must_use]
    pub fn with_unknown_outcome(self) -> Self {
        Self { unknown: true, ..self }
    }

    /// Tells whether the very same request may succeed later, here or at another node. With `unknown` it
    /// must carry the same job id; every request of this protocol may be sent twice that way.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self.code {
            Code::NotLeader
            | Code::ResourceExhausted
            | Code::DeadlineExceeded
            | Code::Unavailable => true,
            Code::Internal => self.unknown,
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::Unauthenticated
            | Code::PermissionDenied
            | Code::StaleFence => false,
        }
    }

    /// Returns the message, cut to what is sent of it.
    pub(crate) fn message_sent(&self) -> &str {
        cut(&self.message, MESSAGE_BYTES_MAX)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Refusal {}

/// Returns the beginning of a text, at most `bytes_max` bytes and whole characters.
pub(crate) fn cut(text: &str, bytes_max: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes_max)).unwrap_or(text)
}

/// A refusal as it is written: the code as number and as name, so that a program may branch on either.
#[derive(Serialize)]
struct Written<'a> {
    code: u16,
    name: &'static str,
    message: &'a str,
    unknown: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    leader: Option<&'a LeaderHint>,
    #[serde(skip_serializing_if = "Option::is_none")]
    incarnation: Option<Incarnation>,
}

impl Serialize for Refusal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let written = Written {
            code: self.code.number(),
            name: self.code.as_str(),
            message: self.message_sent(),
            unknown: self.unknown,
            retry_after_ms: self.retry_after_ms,
            leader: self.leader.as_ref(),
            incarnation: self.incarnation,
        };
        written.serialize(serializer)
    }
}

/// A refusal as it is read.
#[derive(Deserialize)]
struct Read {
    code: u16,
    #[serde(default)]
    name: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    unknown: bool,
    retry_after_ms: Option<u64>,
    leader: Option<LeaderHint>,
    incarnation: Option<Incarnation>,
}

impl<'de> Deserialize<'de> for Refusal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Read { code, name, message, unknown, retry_after_ms, leader, incarnation } =
            Read::deserialize(deserializer)?;
        if code == 0 {
            return Err(D::Error::custom("a refusal cannot say OK"));
        }
        Ok(match Code::from_number(code) {
            Some(code) => Self { code, message, unknown, retry_after_ms, leader, incarnation },
            // A code of a later version: what to do about it is told by `unknown` alone.
            None => {
                let message = format!("{name} ({code}): {message}");
                Self { code: Code::Internal, message, unknown, retry_after_ms, leader, incarnation }
            }
        })
    }
}

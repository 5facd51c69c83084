//! Why a whole, intact frame is not a message, and whose fault that is.

use crate::pack::PackError;
use crate::wire::frame::{Frame, IGNORABLE};
use crate::wire::kind;
use crate::wire::message::{Code, Refusal};

/// A frame that arrived intact and says nothing we can take. Always the fault of the sender; nothing was
/// changed by it, and the connection can go on: the next frame begins where this one ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A kind that this version does not know. With `ignorable` it is to be skipped, see
    /// [`WireError::is_skippable`]; without, a request of it is refused.
    #[error("unknown frame kind 0x{kind:02x}")]
    UnknownKind {
        /// The number.
        kind: u8,
        /// The sender allows it to be skipped.
        ignorable: bool,
    },
    /// A known kind that does not belong here: a client sends a peer's frame, or the like.
    #[error("{name} is not {wanted}")]
    UnexpectedKind {
        /// What came.
        name: &'static str,
        /// What was to come, with its article.
        wanted: &'static str,
    },
    /// A flag that this version does not know.
    #[error("unknown flags 0x{flags:02x}")]
    Flags {
        /// All flags of the frame.
        flags: u8,
    },
    /// A group other than 0 where only 0 makes sense.
    #[error("group {group}; only group 0 is served here")]
    Group {
        /// What the header says.
        group: u16,
    },
    /// The body is not MessagePack of our profile, or lacks a key, or has a value of another type.
    #[error("{name}: {error}")]
    Body {
        /// The kind of the frame.
        name: &'static str,
        /// What is wrong with it.
        error: PackError,
    },
    /// More of something than one frame may ask for.
    #[error("{name}: {count} {what}; at most {max}")]
    TooMany {
        /// The kind of the frame.
        name: &'static str,
        /// Of what, in the plural.
        what: &'static str,
        /// How many.
        count: usize,
        /// The bound.
        max: usize,
    },
    /// A value that is well formed and cannot be right.
    #[error("{name}: {reason}")]
    Invalid {
        /// The kind of the frame.
        name: &'static str,
        /// Why not, in words for whoever sent it.
        reason: String,
    },
}

impl WireError {
    /// Tells whether the frame is to be skipped in silence.
    #[must_use]
    pub fn is_skippable(&self) -> bool {
        matches!(self, Self::UnknownKind { ignorable: true, .. })
    }
}

impl From<WireError> for Refusal {
    fn from(error: WireError) -> Self {
        Self::new(Code::InvalidArgument, error.to_string())
    }
}

impl From<&WireError> for Refusal {
    fn from(error: &WireError) -> Self {
        Self::new(Code::InvalidArgument, error.to_string())
    }
}

/// Says what is wrong with a frame whose kind none of the reader's own matched.
pub(crate) fn not(wanted: &'static str, frame: &Frame) -> WireError {
    match kind::name(frame.kind) {
        Some(name) => WireError::UnexpectedKind { name, wanted },
        None => WireError::UnknownKind { kind: frame.kind, ignorable: frame.is_ignorable() },
    }
}

/// Refuses flags nobody has given a meaning yet: what they would change is unknown.
pub(crate) fn check_flags(frame: &Frame) -> Result<(), WireError> {
    if frame.flags & !IGNORABLE == 0 {
        Ok(())
    } else {
        Err(WireError::Flags { flags: frame.flags })
    }
}

/// As [`check_flags`], and refuses every group but 0.
pub(crate) fn check_header(frame: &Frame) -> Result<(), WireError> {
    check_flags(frame)?;
    if frame.group == 0 { Ok(()) } else { Err(WireError::Group { group: frame.group }) }
}

/// Refuses more of something than one frame may hold.
pub(crate) fn check_count(
    name: &'static str,
    what: &'static str,
    count: usize,
    max: usize,
) -> Result<(), WireError> {
    if count <= max { Ok(()) } else { Err(WireError::TooMany { name, what, count, max }) }
}

//! Why a call of the client library came to no answer, told so that a program and a person can act on it.

use crate::wire::message::{LeaderHint, Refusal};

/// A call without the answer hoped for. A program branches on the variant; a person reads the text, which says
/// what failed, whom was asked, for how long, and what to try.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A node said no. It is a definite no unless `refusal.unknown` is set: then an earlier try of the same
    /// request may have been done.
    #[error("{asked} refused it: {refusal}")]
    Refused {
        /// The no itself.
        refusal: Refusal,
        /// The address of the node that said it.
        asked: String,
    },
    /// No node could be asked, or a read was not answered. Nothing was done.
    #[error("{0}")]
    Unreachable(String),
    /// Nodes answered, and none of them leads or knows who does. Nothing was done.
    #[error("{0}")]
    NoLeader(String),
    /// A change was sent, and no answer to it came: it may have been done, or be done yet. The same request
    /// (with the same job ids) may be sent again.
    #[error("{0}")]
    Unknown(String),
    /// The caller's fault, found here: nothing was sent.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    /// Tells whether the very same request, with the same ids, may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Refused { refusal, .. } => refusal.is_retryable() || refusal.unknown,
            Self::Unreachable(_) | Self::NoLeader(_) | Self::Unknown(_) => true,
            Self::Invalid(_) => false,
        }
    }

    /// Tells whether the thing asked for certainly did not happen and will not.
    #[must_use]
    pub fn is_definite(&self) -> bool {
        match self {
            Self::Refused { refusal, .. } => !refusal.unknown,
            Self::Unreachable(_) | Self::NoLeader(_) | Self::Invalid(_) => true,
            Self::Unknown(_) => false,
        }
    }

    /// Returns the refusal, where a node gave one.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused { refusal, .. } => Some(refusal),
            Self::Unreachable(_) | Self::NoLeader(_) | Self::Unknown(_) | Self::Invalid(_) => None,
        }
    }

    /// Returns the leader that a refusal names.
    #[must_use]
    pub fn leader(&self) -> Option<&LeaderHint> {
        self.refusal().and_then(|refusal| refusal.leader.as_ref())
    }
}

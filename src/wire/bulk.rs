//! One snapshot's frames on the bulk lane (`wire-spec.md` §15).

use bytes::Bytes;

use crate::pack::{PackError, Reader};
use crate::types::Term;
use crate::wire::error::{WireError, check_count, check_header, not};
use crate::wire::frame::Frame;
use crate::wire::kind;
use crate::wire::positional::{Body, bytes16, meta, open};
use crate::wire::refusal::{MESSAGE_BYTES_MAX, cut};

/// The frames of the bulk lane: one snapshot on its way to one follower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BulkMessage {
    /// `InstallSnapshot`: what is offered. Answered by [`BulkMessage::Accept`] or
    /// [`BulkMessage::Decline`].
    Offer {
        /// The leader's term.
        term: Term,
        /// What the snapshot stands for.
        meta: crate::raft::message::SnapshotMeta,
        /// The file's id: a partial transfer is resumed only for the same one.
        id: [u8; 16],
        /// The file's bytes.
        bytes: u64,
    },
    /// Send, from this offset on.
    Accept {
        /// From the offer.
        id: [u8; 16],
        /// The first byte wanted.
        offset: u64,
    },
    /// Not needed, or not from you.
    Decline {
        /// The receiver's term.
        term: Term,
        /// Everything in it is committed there already.
        held: bool,
        /// Why, for logs.
        reason: String,
    },
    /// Bytes of the file; the last one ends at the file's size.
    Chunk {
        /// From the offer.
        id: [u8; 16],
        /// Where they belong.
        offset: u64,
        /// At most [`CHUNK_BYTES`].
        data: Bytes,
    },
    /// Everything below this offset has arrived; the sender keeps at most [`WINDOW_BYTES`] beyond.
    Window {
        /// From the offer.
        id: [u8; 16],
        /// The next byte wanted.
        offset: u64,
    },
    /// The file is whole, checked, durable and handed to the replica.
    Done {
        /// From the offer.
        id: [u8; 16],
    },
}

/// Bytes of a snapshot in one chunk.
pub const CHUNK_BYTES: usize = 256 << 10;

/// Bytes of a snapshot on the way and not yet acknowledged, at most.
pub const WINDOW_BYTES: u64 = 1 << 20;

/// Room for the fields of a message that are not a chunk's bytes.
const FIELDS_BYTES: usize = 64;

impl BulkMessage {
    /// Returns the kind of its frame.
    #[must_use]
    pub fn kind(&self) -> u8 {
        match self {
            Self::Offer { .. } => kind::OFFER,
            Self::Accept { .. } => kind::ACCEPT,
            Self::Decline { .. } => kind::DECLINE,
            Self::Chunk { .. } => kind::CHUNK,
            Self::Window { .. } => kind::WINDOW,
            Self::Done { .. } => kind::DONE,
        }
    }

    /// Returns its name, as `wire-spec.md` has it, for logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        kind::name(self.kind()).unwrap_or("UNKNOWN")
    }

    /// Builds its frame.
    #[must_use]
    pub fn to_frame(&self) -> Frame {
        let body = match self {
            Self::Offer { term, meta, id, bytes } => {
                let mut body = Body::array(4, FIELDS_BYTES);
                body.uint(term.0);
                body.meta(meta);
                body.bytes(id);
                body.uint(*bytes);
                body
            }
            Self::Accept { id, offset } | Self::Window { id, offset } => {
                let mut body = Body::array(2, FIELDS_BYTES);
                body.bytes(id);
                body.uint(*offset);
                body
            }
            Self::Decline { term, held, reason } => {
                let mut body = Body::array(3, FIELDS_BYTES);
                body.uint(term.0);
                body.bool(*held);
                body.text(cut(reason, MESSAGE_BYTES_MAX));
                body
            }
            Self::Chunk { id, offset, data } => {
                let mut body = Body::array(3, FIELDS_BYTES + data.len());
                body.bytes(id);
                body.uint(*offset);
                body.bytes(data);
                body
            }
            Self::Done { id } => {
                let mut body = Body::array(1, FIELDS_BYTES);
                body.bytes(id);
                body
            }
        };
        Frame::new(self.kind(), 0, body.finish())
    }

    /// Reads a frame of the bulk lane; a chunk's data is a slice of the frame.
    ///
    /// # Errors
    /// [`WireError`] if it is none, or a chunk has more than [`CHUNK_BYTES`].
    pub fn from_frame(frame: &Frame) -> Result<Self, WireError> {
        let Some(name) = kind::name(frame.kind).filter(|_| kind::is_bulk(frame.kind)) else {
            return Err(not("a frame of the bulk lane", frame));
        };
        check_header(frame)?;
        let message =
            read(frame.kind, &frame.body).map_err(|error| WireError::Body { name, error })?;
        if let Self::Chunk { data, .. } = &message {
            check_count(name, "bytes of data", data.len(), CHUNK_BYTES)?;
        }
        Ok(message)
    }
}

fn read(frame_kind: u8, body: &Bytes) -> Result<BulkMessage, PackError> {
    let mut reader = Reader::new(body);
    let message = match frame_kind {
        kind::OFFER => {
            open(&mut reader, 4)?;
            let (term, meta) = (Term(reader.unsigned()?), meta(&mut reader)?);
            let (id, bytes) = (bytes16(&mut reader)?, reader.unsigned()?);
            BulkMessage::Offer { term, meta, id, bytes }
        }
        kind::ACCEPT => {
            open(&mut reader, 2)?;
            BulkMessage::Accept { id: bytes16(&mut reader)?, offset: reader.unsigned()? }
        }
        kind::DECLINE => {
            open(&mut reader, 3)?;
            let (term, held) = (Term(reader.unsigned()?), reader.boolean()?);
            let reason = cut(reader.str()?, MESSAGE_BYTES_MAX).to_owned();
            BulkMessage::Decline { term, held, reason }
        }
        kind::CHUNK => {
            open(&mut reader, 3)?;
            let (id, offset) = (bytes16(&mut reader)?, reader.unsigned()?);
            BulkMessage::Chunk { id, offset, data: body.slice_ref(reader.bytes()?) }
        }
        kind::WINDOW => {
            open(&mut reader, 2)?;
            BulkMessage::Window { id: bytes16(&mut reader)?, offset: reader.unsigned()? }
        }
        _ => {
            open(&mut reader, 1)?;
            BulkMessage::Done { id: bytes16(&mut reader)? }
        }
    };
    reader.finish()?;
    Ok(message)
}

//! Frames: 16 bytes of header, a body, and a checksum over both (`wire-spec.md` §6).

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

/// What stands before every body.
pub const HEADER_BYTES: usize = 16;

/// The body of a frame after the handshake, at most. A longer one is refused by its length alone.
pub const BODY_BYTES_MAX: usize = 4 << 20;

/// The body of a frame before the handshake is done, at most.
pub const HELLO_BYTES_MAX: usize = 4 << 10;

/// What the codec reserves ahead of what has arrived, at most, or as much again as has arrived (a buffer
/// grows by doubling): a length is only a claim.
pub const RESERVE_BYTES_MAX: usize = 64 << 10;

/// The codec reserves more only when the room left for a read is below this, so that a frame which
/// trickles in does not move the reservation along with every byte.
const READ_BYTES_MIN: usize = 4 << 10;

/// The first bytes of a connection, both ways; frozen for ever. 0xC1 begins no MessagePack value and no
/// text, and the tail shows whether something on the way translates line ends.
pub const PREAMBLE: [u8; 8] = [0xc1, b'R', b'J', b'Q', 0x0d, 0x0a, 0x1a, 0x0a];

/// The flag of a frame that a receiver may skip when it does not know the kind.
pub const IGNORABLE: u8 = 0x01;

/// The header's bytes that the checksum covers, before the checksum itself.
const CHECKED_HEADER_BYTES: usize = 12;

/// One frame, its checksum already checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is ([`crate::wire::kind`]).
    pub kind: u8,
    /// [`IGNORABLE`] or nothing.
    pub flags: u8,
    /// The Raft group it is about; 0 today, and in every frame of a client.
    pub group: u16,
    /// The request's number, echoed by its answer; 0 in frames that are neither.
    pub corr: u32,
    /// One MessagePack value, or nothing, which means an empty map.
    pub body: Bytes,
}

impl Frame {
    /// Makes a frame without flags for group 0.
    #[must_use]
    pub fn new(kind: u8, corr: u32, body: Bytes) -> Self {
        Self { kind, flags: 0, group: 0, corr, body }
    }

    /// Tells whether a receiver that does not know the kind may skip the frame.
    #[must_use]
    pub fn is_ignorable(&self) -> bool {
        self.flags & IGNORABLE != 0
    }

    /// Returns the bytes the frame has on the wire.
    #[must_use]
    pub fn wire_bytes(&self) -> usize {
        HEADER_BYTES + self.body.len()
    }
}

/// Why a stream cannot be read or written any further. All but [`FrameError::TooLarge`] on writing end
/// the connection: where the next frame begins is no longer known.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Reading: the peer claims a body above the limit; nothing of it was read. Writing: ours is above
    /// the limit; nothing was written, and the connection is as good as before.
    #[error("a frame of {bytes} bytes; at most {max}")]
    TooLarge {
        /// What was claimed or wanted.
        bytes: usize,
        /// The limit of this connection.
        max: usize,
    },
    /// The bytes that arrived are not those that were sent.
    #[error("a frame's checksum is {found:08x} and should be {expected:08x}")]
    Checksum {
        /// Over what arrived.
        expected: u32,
        /// In the header.
        found: u32,
    },
    /// The stream ended in the middle of a frame.
    #[error("the stream ended {missing} bytes before the end of a frame")]
    Truncated {
        /// What is missing; of a header, what is missing to it.
        missing: usize,
    },
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Cuts a stream into [`Frame`]s and puts them back.
#[derive(Clone, Debug)]
pub struct FrameCodec {
    body_bytes_max: usize,
}

impl FrameCodec {
    /// Makes a codec that takes and gives bodies of at most `body_bytes_max` bytes.
    #[must_use]
    pub fn new(body_bytes_max: usize) -> Self {
        Self { body_bytes_max }
    }

    /// Changes the limit, from the next frame on: once the handshake is done.
    pub fn set_body_bytes_max(&mut self, body_bytes_max: usize) {
        self.body_bytes_max = body_bytes_max;
    }

    fn check_length(&self, bytes: usize) -> Result<(), FrameError> {
        if bytes > self.body_bytes_max {
            return Err(FrameError::TooLarge { bytes, max: self.body_bytes_max });
        }
        Ok(())
    }
}

/// The header's fields, in their order on the wire.
struct Header {
    body_bytes: usize,
    kind: u8,
    flags: u8,
    group: u16,
    corr: u32,
    checksum: u32,
}

impl Header {
    fn read(mut bytes: &[u8]) -> Option<Self> {
        if bytes.len() < HEADER_BYTES {
            return None;
        }
        Some(Self {
            // A length that no `usize` holds is above every limit.
            body_bytes: usize::try_from(bytes.get_u32()).unwrap_or(usize::MAX),
            kind: bytes.get_u8(),
            flags: bytes.get_u8(),
            group: bytes.get_u16(),
            corr: bytes.get_u32(),
            checksum: bytes.get_u32(),
        })
    }
}

impl Decoder for FrameCodec {
    type Item = Frame;
    type Error = FrameError;

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let Some(header) = Header::read(buffer) else {
            buffer.reserve(HEADER_BYTES - buffer.len());
            return Ok(None);
        };
        self.check_length(header.body_bytes)?;
        let missing = (HEADER_BYTES + header.body_bytes).saturating_sub(buffer.len());
        if missing > 0 {
            if buffer.capacity() - buffer.len() < missing.min(READ_BYTES_MIN) {
                buffer.reserve(missing.min(RESERVE_BYTES_MAX));
            }
            return Ok(None);
        }
        let head = buffer.split_to(HEADER_BYTES);
        let body = buffer.split_to(header.body_bytes).freeze();
        let expected = checksum(&head, &body);
        if expected != header.checksum {
            return Err(FrameError::Checksum { expected, found: header.checksum });
        }
        let Header { kind, flags, group, corr, .. } = header;
        Ok(Some(Frame { kind, flags, group, corr, body }))
    }

    fn decode_eof(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        if let Some(frame) = self.decode(buffer)? {
            return Ok(Some(frame));
        }
        if buffer.is_empty() {
            return Ok(None);
        }
        let body_bytes = Header::read(buffer).map_or(0, |header| header.body_bytes);
        Err(FrameError::Truncated { missing: HEADER_BYTES + body_bytes - buffer.len() })
    }
}

impl FrameCodec {
    /// Appends a frame without flags for group 0, its body written by `body` right where it belongs.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`]; the buffer is as it was then.
    pub(crate) fn encode_with(
        &self,
        kind: u8,
        corr: u32,
        buffer: &mut BytesMut,
        body: impl FnOnce(&mut BytesMut),
    ) -> Result<(), FrameError> {
        let former = buffer.len();
        buffer.put_bytes(0, HEADER_BYTES);
        body(buffer);
        let frame = buffer.get_mut(former..).and_then(<[u8]>::split_first_chunk_mut);
        let header = frame.map(|(place, body)| {
            *place = self.header(&Frame::new(kind, corr, Bytes::new()), body)?;
            Ok(())
        });
        header.unwrap_or(Ok(())).inspect_err(|_too_large| buffer.truncate(former))
    }

    /// Returns the header of a frame with this body in place of its own.
    fn header(&self, frame: &Frame, body: &[u8]) -> Result<[u8; HEADER_BYTES], FrameError> {
        let bytes = body.len();
        self.check_length(bytes)?;
        let max = self.body_bytes_max;
        let length = u32::try_from(bytes).map_err(|_wide| FrameError::TooLarge { bytes, max })?;
        let mut head = [0; HEADER_BYTES];
        let mut fields = head.as_mut_slice();
        fields.put_u32(length);
        fields.put_u8(frame.kind);
        fields.put_u8(frame.flags);
        fields.put_u16(frame.group);
        fields.put_u32(frame.corr);
        let checked = checksum(&head, body);
        if let Some(place) = head.last_chunk_mut() {
            *place = checked.to_be_bytes();
        }
        Ok(head)
    }
}

impl Encoder<&Frame> for FrameCodec {
    type Error = FrameError;

    fn encode(&mut self, frame: &Frame, buffer: &mut BytesMut) -> Result<(), FrameError> {
        let head = self.header(frame, &frame.body)?;
        buffer.reserve(frame.wire_bytes());
        buffer.put_slice(&head);
        buffer.put_slice(&frame.body);
        Ok(())
    }
}

impl Encoder<Frame> for FrameCodec {
    type Error = FrameError;

    fn encode(&mut self, frame: Frame, buffer: &mut BytesMut) -> Result<(), FrameError> {
        self.encode(&frame, buffer)
    }
}

/// CRC-32 as zlib has it, over the header up to the checksum, and the body.
fn checksum(head: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head.get(..CHECKED_HEADER_BYTES).unwrap_or(head));
    hasher.update(body);
    hasher.finalize()
}

//! A codec that counts what half-received frames hold over all connections, so that slow senders of
//! large frames cannot fill the memory together.

use std::io;

use bytes::BytesMut;
use tokio_util::codec::{Decoder, Encoder};

use crate::net::shared::{Budget, Hold};
use crate::wire::frame::{Frame, FrameCodec, FrameError};

/// Bytes of half-received frames over all connections of clients, at most. Above it the connection
/// that wants more is ended with `RESOURCE_EXHAUSTED`.
pub const PARTIAL_BYTES_MAX: usize = 1 << 30;

/// What one connection may hold without being counted: most frames are smaller.
const PARTIAL_FREE_BYTES: usize = 64 << 10;

/// Bytes are counted in steps of this size.
const PARTIAL_STEP_BYTES: usize = 256 << 10;

/// The codec of one connection.
#[derive(Debug)]
pub struct GuardedCodec {
    codec: FrameCodec,
    /// `None`: a peer, whose frames pass whatever clients do.
    budget: Option<Budget>,
    hold: Option<Hold>,
}

impl GuardedCodec {
    /// Makes a codec that takes bodies of at most `body_bytes_max` bytes.
    #[must_use]
    pub fn new(body_bytes_max: usize, budget: Budget) -> Self {
        Self { codec: FrameCodec::new(body_bytes_max), budget: Some(budget), hold: None }
    }

    /// Changes the limit, from the next frame on.
    pub fn set_body_bytes_max(&mut self, body_bytes_max: usize) {
        self.codec.set_body_bytes_max(body_bytes_max);
    }

    /// Counts no more: the other end is a node of the cluster.
    pub fn trust(&mut self) {
        self.budget = None;
        self.hold = None;
    }

    /// Counts what is held of a frame that is not whole yet.
    fn count(&mut self, bytes: usize) -> Result<(), FrameError> {
        let Some(budget) = &self.budget else { return Ok(()) };
        if bytes <= PARTIAL_FREE_BYTES {
            self.hold = None;
            return Ok(());
        }
        if self.hold.as_ref().is_some_and(|hold| hold.bytes() >= bytes) {
            return Ok(());
        }
        self.hold = None;
        self.hold = budget.hold(bytes.next_multiple_of(PARTIAL_STEP_BYTES));
        if self.hold.is_some() { Ok(()) } else { Err(crowded().into()) }
    }
}

fn crowded() -> io::Error {
    io::Error::new(
        io::ErrorKind::OutOfMemory,
        "too many large frames are on their way; ask again later",
    )
}

/// Tells whether a connection was ended because others held too much.
#[must_use]
pub fn is_crowded(error: &FrameError) -> bool {
    matches!(error, FrameError::Io(error) if error.kind() == io::ErrorKind::OutOfMemory)
}

impl Decoder for GuardedCodec {
    type Item = Frame;
    type Error = FrameError;

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let frame = self.codec.decode(buffer)?;
        self.count(buffer.len())?;
        Ok(frame)
    }

    fn decode_eof(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        self.codec.decode_eof(buffer)
    }
}

impl Encoder<Frame> for GuardedCodec {
    type Error = FrameError;

    fn encode(&mut self, frame: Frame, buffer: &mut BytesMut) -> Result<(), FrameError> {
        self.codec.encode(frame, buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::BODY_BYTES_MAX;

    fn half(bytes: usize) -> BytesMut {
        let mut codec = FrameCodec::new(BODY_BYTES_MAX);
        let mut whole = BytesMut::new();
        codec.encode(Frame::new(0x10, 1, vec![0; bytes].into()), &mut whole).unwrap();
        whole.truncate(bytes);
        whole
    }

    #[test]
    fn half_frames_together_stay_within_the_budget() {
        let budget = Budget::new(3 << 20);
        let mut codecs: Vec<GuardedCodec> =
            (0..4).map(|_| GuardedCodec::new(BODY_BYTES_MAX, budget.clone())).collect();
        let taken: Vec<bool> =
            codecs.iter_mut().map(|codec| codec.decode(&mut half(1 << 20)).is_ok()).collect();
        assert_eq!(taken, [true, true, true, false]);
        drop(codecs);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn small_half_frames_and_peers_are_not_counted() {
        let budget = Budget::new(0);
        let mut codec = GuardedCodec::new(BODY_BYTES_MAX, budget);
        assert!(codec.decode(&mut half(60_000)).is_ok());
        assert!(codec.decode(&mut half(1 << 20)).is_err_and(|error| is_crowded(&error)));
        codec.trust();
        assert!(codec.decode(&mut half(1 << 20)).is_ok());
    }
}

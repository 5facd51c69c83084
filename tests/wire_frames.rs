//! Frames: however the bytes trickle in they decode the same, a length is only a claim, and noise is
//! refused without a panic.

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use raftq::wire::frame::{
    BODY_BYTES_MAX, Frame, FrameCodec, FrameError, HEADER_BYTES, HELLO_BYTES_MAX, RESERVE_BYTES_MAX,
};
use tokio_util::codec::{Decoder, Encoder};

fn frame(kind: u8, body: &[u8]) -> Frame {
    Frame::new(kind, 7, Bytes::copy_from_slice(body))
}

fn wire(frames: &[Frame]) -> BytesMut {
    let mut out = BytesMut::new();
    for frame in frames {
        FrameCodec::new(BODY_BYTES_MAX).encode(frame, &mut out).expect("it fits");
    }
    out
}

fn any_frame() -> impl Strategy<Value = Frame> {
    (any::<u8>(), any::<u8>(), any::<u16>(), any::<u32>(), vec(any::<u8>(), 0..300)).prop_map(
        |(kind, flags, group, corr, body)| Frame { kind, flags, group, corr, body: body.into() },
    )
}

/// Feeds bytes in the given pieces and returns the frames with the largest buffer seen beyond what had
/// arrived.
fn trickle(bytes: &[u8], pieces: impl Iterator<Item = usize>) -> (Vec<Frame>, usize) {
    let mut codec = FrameCodec::new(BODY_BYTES_MAX);
    let mut buffer = BytesMut::new();
    let (mut frames, mut ahead, mut rest) = (Vec::new(), 0, bytes);
    for piece in pieces {
        let (now, later) = rest.split_at(piece.clamp(1, rest.len().max(1)).min(rest.len()));
        rest = later;
        buffer.extend_from_slice(now);
        while let Some(frame) = codec.decode(&mut buffer).expect("good frames") {
            frames.push(frame);
        }
        ahead = ahead.max(buffer.capacity() - buffer.len());
        if rest.is_empty() {
            break;
        }
    }
    (frames, ahead)
}

proptest! {
    #[test]
    fn frames_survive_the_wire_in_any_pieces(
        frames in vec(any_frame(), 0..6),
        pieces in vec(1_usize..200, 1..50),
    ) {
        let bytes = wire(&frames);
        prop_assert_eq!(&trickle(&bytes, pieces.into_iter().cycle().take(bytes.len() + 1)).0, &frames);
        prop_assert_eq!(&trickle(&bytes, std::iter::repeat_n(1, bytes.len() + 1)).0, &frames);
        let kept: usize = frames.iter().map(Frame::wire_bytes).sum();
        prop_assert_eq!(kept, bytes.len());
    }

    #[test]
    fn noise_is_refused_without_a_panic(noise in vec(any::<u8>(), 0..2000), limit in 0_usize..5000) {
        let mut codec = FrameCodec::new(limit);
        let mut buffer = BytesMut::from(noise.as_slice());
        while let Ok(Some(frame)) = codec.decode(&mut buffer) {
            prop_assert!(frame.body.len() <= limit);
        }
        prop_assert!(buffer.capacity() <= 2 * noise.len() + RESERVE_BYTES_MAX + HEADER_BYTES);
    }

    #[test]
    fn every_flipped_bit_is_found(frame in any_frame(), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let mut bytes = wire(&[frame]);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        match FrameCodec::new(BODY_BYTES_MAX).decode(&mut bytes) {
            // A flip in the length: too long, still waiting for more, or a wrong checksum.
            Ok(None) if at < 4 => {}
            Err(FrameError::TooLarge { .. }) if at < 4 => {}
            Err(FrameError::Checksum { .. }) => {}
            other => prop_assert!(false, "byte {}: {:?}", at, other),
        }
    }
}

#[test]
fn length_above_the_limit_is_refused_by_the_header_alone() {
    for (limit, claimed) in
        [(HELLO_BYTES_MAX, 4097_u32), (BODY_BYTES_MAX, 4_194_305), (BODY_BYTES_MAX, u32::MAX)]
    {
        let mut buffer = BytesMut::new();
        buffer.extend_from_slice(&claimed.to_be_bytes());
        buffer.extend_from_slice(&[0x10; 12]);
        let before = buffer.capacity();
        let refused = FrameCodec::new(limit).decode(&mut buffer);
        let claimed = usize::try_from(claimed).expect("64 bits");
        assert!(
            matches!(refused, Err(FrameError::TooLarge { bytes, max }) if bytes == claimed && max == limit),
            "{refused:?}"
        );
        assert_eq!(buffer.capacity(), before, "room was made for a claim");
    }
}

#[test]
fn body_at_the_limit_passes_and_one_above_is_not_sent() {
    let mut codec = FrameCodec::new(BODY_BYTES_MAX);
    let full = frame(0x11, &vec![5; BODY_BYTES_MAX]);
    let mut out = BytesMut::new();
    codec.encode(&full, &mut out).expect("it fits");
    assert_eq!(codec.decode(&mut out).expect("good"), Some(full));
    let refused = codec.encode(frame(0x11, &vec![5; BODY_BYTES_MAX + 1]), &mut out);
    assert!(matches!(refused, Err(FrameError::TooLarge { .. })));
    assert!(out.is_empty(), "a frame that is refused leaves nothing behind");
}

#[test]
fn limit_is_raised_after_the_handshake() {
    let mut codec = FrameCodec::new(HELLO_BYTES_MAX);
    let large = frame(0x11, &[1; 5000]);
    assert!(codec.decode(&mut wire(std::slice::from_ref(&large))).is_err());
    codec.set_body_bytes_max(BODY_BYTES_MAX);
    assert_eq!(codec.decode(&mut wire(std::slice::from_ref(&large))).expect("good"), Some(large));
}

/// Five bytes that claim 4 MiB must not cost 4 MiB: room is made as bytes arrive.
#[test]
fn large_frame_that_trickles_reserves_little_ahead() {
    let large = frame(0x53, &vec![9; 2 << 20]);
    let bytes = wire(std::slice::from_ref(&large));
    let (frames, ahead) = trickle(&bytes[..HEADER_BYTES + 1], std::iter::repeat(1));
    assert!(frames.is_empty());
    assert!(ahead <= RESERVE_BYTES_MAX + HEADER_BYTES, "{ahead} bytes ahead of a header");
    let (frames, ahead) = trickle(&bytes, std::iter::repeat(1000));
    assert_eq!(frames, [large]);
    assert!(ahead <= bytes.len() + RESERVE_BYTES_MAX, "{ahead} bytes ahead");
}

#[test]
fn stream_that_ends_in_a_frame_says_what_is_missing() {
    let bytes = wire(&[frame(0x10, b"\x80")]);
    for cut in 1..bytes.len() {
        let mut buffer = BytesMut::from(&bytes[..cut]);
        let error = FrameCodec::new(BODY_BYTES_MAX).decode_eof(&mut buffer).expect_err("cut short");
        let missing = if cut < HEADER_BYTES { HEADER_BYTES - cut } else { bytes.len() - cut };
        assert!(
            matches!(error, FrameError::Truncated { missing: m } if m == missing),
            "{cut}: {error}"
        );
    }
    assert!(FrameCodec::new(9).decode_eof(&mut BytesMut::new()).expect("a clean end").is_none());
}

/// The checksum is the one every language has (CRC-32 of "123456789" is cbf43926).
#[test]
fn checksum_is_that_of_zlib() {
    let bytes = wire(&[Frame {
        kind: b'5',
        flags: b'6',
        group: 0x3738,
        corr: 0x3930_3132,
        body: Bytes::new(),
    }]);
    assert_eq!(bytes[12..], crc32fast::hash(b"\0\0\0\x0056789012").to_be_bytes());
    assert_eq!(crc32fast::hash(b"123456789"), 0xcbf4_3926);
}

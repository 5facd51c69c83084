//! Connections that say exactly what an attack wants said, to a real node.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use raftq::wire::frame::{BODY_BYTES_MAX, Frame, FrameCodec, PREAMBLE};
use raftq::wire::hello::Greeting;
use raftq::wire::hello::{Hello, Welcome};
use raftq::wire::message::Reply;
use tokio_util::codec::{Decoder, Encoder};

/// Longer than anything waits for here; only a failing test waits so long.
pub(crate) const LONG: Duration = Duration::from_secs(60);

#[expect(clippy::disallowed_methods, reason = "the clock of the tests")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

pub(crate) fn dial(addr: &str) -> TcpStream {
    let stream = TcpStream::connect(addr).expect("the node listens");
    stream.set_read_timeout(Some(LONG)).expect("a timeout");
    stream.set_write_timeout(Some(LONG)).expect("a timeout");
    stream.set_nodelay(true).expect("no delay");
    stream
}

pub(crate) fn encoded(frame: &Frame) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    FrameCodec::new(usize::MAX).encode(frame, &mut bytes).expect("it fits");
    bytes.to_vec()
}

/// Preamble and hello.
pub(crate) fn opening(hello: &Hello) -> Vec<u8> {
    [&PREAMBLE[..], &encoded(&hello.to_frame(1))].concat()
}

/// A connection after its handshake.
pub(crate) struct Guest {
    pub(crate) stream: TcpStream,
    received: BytesMut,
    pub(crate) welcome: Welcome,
}

impl Guest {
    pub(crate) fn new(addr: &str, hello: &Hello) -> Self {
        let mut stream = dial(addr);
        stream.write_all(&opening(hello)).expect("the node reads");
        let mut preamble = [0; PREAMBLE.len()];
        stream.read_exact(&mut preamble).expect("the node answers");
        let mut received = BytesMut::new();
        let frame = next(&mut stream, &mut received).expect("an answer");
        match Greeting::from_frame(&frame) {
            Ok(Greeting::Welcome(welcome)) => Self { stream, received, welcome },
            other => panic!("{addr}: not welcome: {other:?}"),
        }
    }

    pub(crate) fn client(addr: &str) -> Self {
        Self::new(addr, &Hello::client("an attacker"))
    }

    /// Waits for the next reply; `None` at the end of the connection.
    pub(crate) fn reply(&mut self) -> Option<(u32, Reply)> {
        let frame = next(&mut self.stream, &mut self.received)?;
        Some((frame.corr, Reply::from_frame(&frame).expect("a reply")))
    }
}

fn next(stream: &mut TcpStream, received: &mut BytesMut) -> Option<Frame> {
    let mut chunk = [0; 64 << 10];
    loop {
        let mut codec = FrameCodec::new(BODY_BYTES_MAX);
        if let Some(frame) = codec.decode(received).expect("frames of a node are whole") {
            return Some(frame);
        }
        match stream.read(&mut chunk).expect("the node answers in time") {
            0 => return None,
            count => received.extend_from_slice(&chunk[..count]),
        }
    }
}

/// Reads to the end of a connection, which must come within `patience` from `since` on.
pub(crate) fn ends_within(stream: &mut TcpStream, what: &str, since: Instant, patience: Duration) {
    let mut dropped = [0; 64 << 10];
    loop {
        let left = patience.saturating_sub(since.elapsed()).max(Duration::from_millis(1));
        stream.set_read_timeout(Some(left)).expect("a timeout");
        match stream.read(&mut dropped) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("{what}: the connection was not closed within {patience:?}")
            }
            // Reset, or a broken pipe: it has ended too.
            Err(_) => return,
        }
    }
}

/// A frame with a body of any bytes and the right checksum.
pub(crate) fn any_frame(kind: u8, flags: u8, group: u16, corr: u32, body: Vec<u8>) -> Frame {
    Frame { kind, flags, group, corr, body: Bytes::from(body) }
}

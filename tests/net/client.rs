//! A client made of a plain socket and the codec, that says exactly what a test wants said.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use bytes::{Bytes, BytesMut};
use raftq::jobs::job::{Body, NewJob};
use raftq::types::{ClusterId, JobId, Millis, NodeId, QueueName};
use raftq::wire::frame::{BODY_BYTES_MAX, Frame, FrameCodec, PREAMBLE};
use raftq::wire::hello::{Greeting, Reject, VERSION};
use raftq::wire::hello::{Hello, PeerHello, Role, Welcome};
use raftq::wire::message::{Refusal, Reply, Request};
use tokio_util::codec::{Decoder, Encoder};

use crate::node::{LONG, PEERS_CRC, dir_of};

/// One connection.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    received: BytesMut,
}

pub(crate) fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Sends some bytes and returns all that comes back before the end. A connection that is reset has
/// ended as well.
pub(crate) fn exchange(addr: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(addr);
    // The other end may close before it has read everything.
    let _unread = stream.write_all(bytes).is_err();
    rest(&mut stream)
}

/// Reads until the end.
pub(crate) fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    match stream.read_to_end(&mut all) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the connection did not end: {error}; got {all:?}"),
    }
    all
}

pub(crate) fn encoded(frame: &Frame) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    FrameCodec::new(BODY_BYTES_MAX).encode(frame, &mut bytes).unwrap();
    bytes.to_vec()
}

impl Client {
    /// Connects and says the preamble and a hello.
    pub(crate) fn greeting(addr: SocketAddr, hello: &Hello) -> Self {
        let mut client = Self { stream: connect(addr), received: BytesMut::new() };
        let mut first = PREAMBLE.to_vec();
        first.extend(encoded(&hello.to_frame(1)));
        client.stream.write_all(&first).unwrap();
        client
    }

    /// Connects as a client and is welcome.
    pub(crate) fn connect(addr: SocketAddr) -> Self {
        let mut client = Self::greeting(addr, &Hello::client("a test"));
        assert!(matches!(client.greeted(), Greeting::Welcome(_)));
        client
    }

    /// Connects as a node and is welcome.
    pub(crate) fn peer(addr: SocketAddr, from: u64, to: u64, role: Role) -> Self {
        let mut client = Self::greeting(addr, &peer_hello(from, to, role));
        assert!(matches!(client.greeted(), Greeting::Welcome(_)));
        client
    }

    /// Takes the next caller as node `id` would, and welcomes it; returns what it came for.
    pub(crate) fn accept(listener: &TcpListener, id: u64) -> (Self, Role) {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        let mut client = Self { stream, received: BytesMut::new() };
        let mut preamble = [0; PREAMBLE.len()];
        client.stream.read_exact(&mut preamble).unwrap();
        let hello = Hello::from_frame(&client.frame().expect("a hello")).unwrap();
        let welcome = Welcome {
            version: VERSION,
            cluster: ClusterId::default(),
            node: NodeId(id),
            dir: dir_of(id),
            leader: None,
            nodes: Vec::new(),
            frame_bytes_max: 4 << 20,
            in_flight_max: 1,
        };
        client.stream.write_all(&PREAMBLE).unwrap();
        client.send_frame(&welcome.to_frame(0));
        (client, hello.role)
    }

    /// Reads the preamble and the answer to the hello.
    pub(crate) fn greeted(&mut self) -> Greeting {
        let mut preamble = [0; PREAMBLE.len()];
        self.stream.read_exact(&mut preamble).unwrap();
        assert_eq!(preamble, PREAMBLE);
        Greeting::from_frame(&self.frame().expect("an answer")).unwrap()
    }

    /// Reads why the hello was not welcome, and the end.
    pub(crate) fn rejected(mut self) -> Reject {
        let Greeting::Reject(reject) = self.greeted() else { panic!("it was welcome") };
        assert_eq!(self.frame(), None, "a rejection is the last word");
        reject
    }

    pub(crate) fn send(&mut self, corr: u32, request: &Request) {
        self.stream.write_all(&encoded(&request.to_frame(corr))).unwrap();
    }

    pub(crate) fn send_frame(&mut self, frame: &Frame) {
        self.stream.write_all(&encoded(frame)).unwrap();
    }

    /// Reads the next frame; `None` at the end.
    pub(crate) fn frame(&mut self) -> Option<Frame> {
        let mut codec = FrameCodec::new(BODY_BYTES_MAX);
        loop {
            if let Some(frame) = codec.decode(&mut self.received).unwrap() {
                return Some(frame);
            }
            let mut chunk = [0; 64 << 10];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(count) => self.received.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no frame came: {error}"),
            }
        }
    }

    pub(crate) fn reply(&mut self) -> (u32, Reply) {
        let frame = self.frame().expect("a reply");
        (frame.corr, Reply::from_frame(&frame).unwrap())
    }

    pub(crate) fn refusal(&mut self) -> (u32, Refusal) {
        match self.reply() {
            (corr, Reply::Refused(refusal)) => (corr, refusal),
            (corr, reply) => panic!("{corr} was answered {reply:?}"),
        }
    }

    /// Proves that the connection works, and that nothing else was on its way.
    pub(crate) fn ping(&mut self) {
        self.send(u32::MAX, &Request::Ping);
        assert_eq!(self.reply(), (u32::MAX, Reply::Pong));
    }

    pub(crate) fn close_sending(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }
}

pub(crate) fn peer_hello(from: u64, to: u64, role: Role) -> Hello {
    let peer = PeerHello {
        node: NodeId(from),
        dir: dir_of(from),
        expects: NodeId(to),
        peers_crc: PEERS_CRC,
    };
    Hello { role, peer: Some(peer), ..Hello::client("a test's node") }
}

pub(crate) fn job(number: u32) -> NewJob {
    NewJob {
        id: JobId::new(Millis(1_700_000_000_000), u128::from(number)),
        queue: QueueName::default(),
        body: Body::Command(vec!["true".into()]),
        options: None,
    }
}

pub(crate) fn payload(number: u32, bytes: usize) -> NewJob {
    NewJob { body: Body::Payload(Bytes::from(vec![7; bytes])), ..job(number) }
}

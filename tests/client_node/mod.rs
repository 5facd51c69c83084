//! A node made of a plain listener and the codec, that answers exactly what a test wants answered.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use bytes::BytesMut;
use raftq::types::{ClusterId, DirId, NodeId, Term};
use raftq::wire::frame::{BODY_BYTES_MAX, Frame, FrameCodec, PREAMBLE};
use raftq::wire::hello::Reject;
use raftq::wire::hello::{Hello, Welcome};
use raftq::wire::message::{LeaderHint, Refusal, Reply, Request, Submitted};
use tokio_util::codec::{Decoder, Encoder};

/// So long a test waits for what must come; never reached when all is well.
pub(crate) const LONG: Duration = Duration::from_secs(20);

pub(crate) const CLUSTER: ClusterId = ClusterId([0xc1; 16]);

/// One connection, as the node's script sees it. Clones are the same connection.
#[derive(Clone)]
pub(crate) struct Line {
    stream: Arc<Mutex<TcpStream>>,
    /// Which connection to the node this is, from 0 on.
    pub(crate) number: usize,
}

impl Line {
    pub(crate) fn reply(&self, corr: u32, reply: Reply) {
        self.write(&encoded(&reply.to_frame(corr)));
    }

    pub(crate) fn write(&self, bytes: &[u8]) {
        // The client may have gone away.
        let _gone = self.stream.lock().unwrap().write_all(bytes).is_err();
    }

    pub(crate) fn close(&self) {
        let _closed = self.stream.lock().unwrap().shutdown(Shutdown::Both).is_err();
    }
}

/// What a node does with a request.
pub(crate) type Script = Box<dyn FnMut(&Line, u32, Request) + Send>;

/// A node whose address is known before it serves.
pub(crate) struct Node {
    listener: TcpListener,
    pub(crate) addr: String,
    pub(crate) welcome: Welcome,
    /// Said instead of the welcome.
    pub(crate) reject: Option<Reject>,
}

/// What a test can see of a node that serves.
#[derive(Clone, Default)]
pub(crate) struct Seen {
    connections: Arc<AtomicUsize>,
    hellos: Arc<Mutex<Vec<Hello>>>,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Seen {
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn hellos(&self) -> Vec<Hello> {
        self.hellos.lock().unwrap().clone()
    }

    /// Returns the requests that came, pings left out.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

impl Node {
    pub(crate) fn bind() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let welcome = Welcome {
            version: 1,
            cluster: CLUSTER,
            node: NodeId(1),
            dir: DirId([0xd1; 16]),
            leader: None,
            nodes: vec![(NodeId(1), addr.clone())],
            frame_bytes_max: 4 << 20,
            in_flight_max: 4096,
        };
        Self { listener, addr, welcome, reject: None }
    }

    /// Serves in the background; one script for all connections, in the order in which requests come. Pings
    /// are answered by themselves.
    pub(crate) fn serve(self, script: impl FnMut(&Line, u32, Request) + Send + 'static) -> Seen {
        self.serve_pings(true, script)
    }

    /// Serves as one that says nothing of its own accord, not even to pings.
    pub(crate) fn serve_pings(
        self,
        pongs: bool,
        script: impl FnMut(&Line, u32, Request) + Send + 'static,
    ) -> Seen {
        let seen = Seen::default();
        let script: Arc<Mutex<Script>> = Arc::new(Mutex::new(Box::new(script)));
        let told = seen.clone();
        thread::spawn(move || {
            for stream in self.listener.incoming() {
                let number = told.connections.fetch_add(1, Ordering::SeqCst);
                let (told, script) = (told.clone(), Arc::clone(&script));
                let greeting = match &self.reject {
                    Some(reject) => reject.to_frame(0),
                    None => self.welcome.to_frame(0),
                };
                thread::spawn(move || {
                    let stream = stream.unwrap();
                    attend(stream, number, &greeting, pongs, &told, &script)
                });
            }
        });
        seen
    }
}

fn attend(
    mut stream: TcpStream,
    number: usize,
    greeting: &Frame,
    pongs: bool,
    told: &Seen,
    script: &Mutex<Script>,
) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut preamble = [0; PREAMBLE.len()];
    stream.read_exact(&mut preamble).ok()?;
    assert_eq!(preamble, PREAMBLE);
    let mut received = BytesMut::new();
    let hello = Hello::from_frame(&frame(&mut stream, &mut received)?).unwrap();
    told.hellos.lock().unwrap().push(hello);
    stream.write_all(&PREAMBLE).ok()?;
    stream.write_all(&encoded(greeting)).ok()?;
    let line = Line { stream: Arc::new(Mutex::new(stream.try_clone().ok()?)), number };
    loop {
        let frame = frame(&mut stream, &mut received)?;
        match Request::from_frame(&frame).unwrap() {
            Request::Ping if pongs => line.reply(frame.corr, Reply::Pong),
            Request::Ping => {}
            request => {
                told.requests.lock().unwrap().push(request.clone());
                (*script.lock().unwrap())(&line, frame.corr, request);
            }
        }
    }
}

fn frame(stream: &mut TcpStream, received: &mut BytesMut) -> Option<Frame> {
    let mut codec = FrameCodec::new(BODY_BYTES_MAX);
    let mut bytes = vec![0; 64 << 10];
    loop {
        if let Some(frame) = codec.decode(received).unwrap() {
            return Some(frame);
        }
        match stream.read(&mut bytes) {
            Ok(count) if count > 0 => received.extend_from_slice(bytes.get(..count)?),
            Ok(_) | Err(_) => return None,
        }
    }
}

pub(crate) fn encoded(frame: &Frame) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    FrameCodec::new(BODY_BYTES_MAX).encode(frame, &mut bytes).unwrap();
    bytes.to_vec()
}

pub(crate) fn hint(addr: &str, term: u64) -> LeaderHint {
    LeaderHint { id: NodeId(9), addr: addr.into(), term: Term(term) }
}

/// Takes every submit.
pub(crate) fn take(line: &Line, corr: u32, request: Request) {
    match request {
        Request::SubmitJob(job) => {
            line.reply(corr, Reply::Submitted(Submitted { id: job.id, created: true }));
        }
        Request::SubmitBatch(jobs) => {
            let taken = jobs.iter().map(|job| Ok(Submitted { id: job.id, created: true }));
            line.reply(corr, Reply::SubmittedBatch(taken.collect()));
        }
        other => line.reply(corr, Reply::Refused(Refusal::invalid(format!("not now: {other:?}")))),
    }
}

/// An address at which nobody listens.
pub(crate) fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// An address that takes connections and never says a word; it does as long as the listener lives.
pub(crate) fn silent() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

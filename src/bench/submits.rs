//! What the load says to a raftq cluster: submits, one by one or many in one request.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use crate::bench::load::{Line, Speech, Verdict};
use crate::bench::traces::Block;
use crate::jobs::job::{Body, NewJob};
use crate::types::QueueName;
use crate::wire::frame::{BODY_BYTES_MAX, Frame, FrameCodec, PREAMBLE};
use crate::wire::hello::Greeting;
use crate::wire::hello::Hello;
use crate::wire::message::{Code, Refusal, Reply, Request};

/// The queue of all jobs that are made here.
pub const QUEUE: &str = "bench";

/// How long connecting and greeting may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Makes jobs of one size.
#[derive(Clone, Debug)]
struct Jobs {
    ids: Arc<Block>,
    queue: QueueName,
    payload: Bytes,
}

impl Jobs {
    fn new(payload_bytes: usize, ids: Arc<Block>) -> Self {
        // Any bytes will do that nothing on the way could compress.
        let payload: Bytes = (0..payload_bytes).map(|_| fastrand::u8(..)).collect();
        Self { ids, queue: QueueName::new(QUEUE).unwrap_or_default(), payload }
    }

    fn make(&self) -> NewJob {
        let body = Body::Payload(self.payload.clone());
        NewJob::plain(self.ids.make(), self.queue.clone(), body)
    }
}

/// Submits on one connection.
#[derive(Debug)]
pub struct Submits {
    jobs: Jobs,
    /// Jobs in one request; 1 is a plain submit.
    batch: usize,
    /// The request of each place.
    requests: Vec<Request>,
    codec: FrameCodec,
}

impl Submits {
    /// Prepares submits of `batch` jobs for so many places, with ids of a block.
    #[must_use]
    pub fn new(payload_bytes: usize, batch: usize, places: usize, ids: Arc<Block>) -> Self {
        Self {
            jobs: Jobs::new(payload_bytes, ids),
            batch: batch.max(1),
            requests: vec![Request::Ping; places],
            codec: FrameCodec::new(BODY_BYTES_MAX),
        }
    }

    fn request(&self) -> Request {
        match self.batch {
            1 => Request::SubmitJob(self.jobs.make()),
            many => Request::SubmitBatch((0..many).map(|_| self.jobs.make()).collect()),
        }
    }
}

impl Speech for Submits {
    fn ask(&mut self, place: usize, again: bool, out: &mut BytesMut) {
        if !again {
            let request = self.request();
            if let Some(kept) = self.requests.get_mut(place) {
                *kept = request;
            }
        }
        let Some(request) = self.requests.get(place) else { return };
        let corr = u32::try_from(place + 1).unwrap_or(u32::MAX);
        if let Err(error) = self.codec.encode(request.to_frame(corr), out) {
            log::error!("a request does not fit into a frame: {error}");
        }
    }

    fn hear(&mut self, received: &mut BytesMut) -> Result<Option<(usize, Verdict)>, String> {
        let frame = self.codec.decode(received).map_err(|error| error.to_string())?;
        let Some(frame) = frame else { return Ok(None) };
        let place = (frame.corr as usize).checked_sub(1).ok_or("a last word of the node")?;
        let reply = Reply::from_frame(&frame).map_err(|error| error.to_string())?;
        #[expect(clippy::wildcard_enum_match_arm, reason = "a submit has no other answers")]
        let verdict = match reply {
            Reply::Submitted(_) => Verdict::Done(1),
            Reply::SubmittedBatch(results) => {
                let refused = results.iter().find_map(|result| result.as_ref().err());
                match refused {
                    Some(refusal) => refused_with(refusal),
                    None => Verdict::Done(u64::try_from(results.len()).unwrap_or(u64::MAX)),
                }
            }
            Reply::Refused(refusal) => refused_with(&refusal),
            other => return Err(format!("a submit is answered with {other:?}")),
        };
        Ok(Some((place, verdict)))
    }
}

fn refused_with(refusal: &Refusal) -> Verdict {
    let code = refusal.code.as_str().to_owned();
    if refusal.code == Code::ResourceExhausted && !refusal.unknown {
        let pause = refusal.retry_after_ms.map(Duration::from_millis);
        return Verdict::Refused { code, pause };
    }
    Verdict::Failed(code)
}

/// Connects to a node and greets it.
///
/// # Errors
/// What went wrong, in words.
pub fn connect(addr: &str, speech: Submits, places: usize) -> Result<Line, String> {
    let wrong = |error: std::io::Error| format!("{addr}: {error}");
    let mut found = addr.to_socket_addrs().map_err(wrong)?;
    let found = found.next().ok_or_else(|| format!("{addr} has no address"))?;
    let mut stream = TcpStream::connect_timeout(&found, PATIENCE).map_err(wrong)?;
    stream.set_nodelay(true).map_err(wrong)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(wrong)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(wrong)?;
    let mut codec = FrameCodec::new(BODY_BYTES_MAX);
    let mut out = BytesMut::from(&PREAMBLE[..]);
    let hello = Hello::client(concat!("raftq bench/", env!("CARGO_PKG_VERSION")));
    codec.encode(hello.to_frame(1), &mut out).map_err(|error| error.to_string())?;
    stream.write_all(&out).map_err(wrong)?;
    let mut preamble = [0; PREAMBLE.len()];
    stream.read_exact(&mut preamble).map_err(wrong)?;
    let mut received = BytesMut::new();
    let frame = next(&mut stream, &mut codec, &mut received)?;
    match Greeting::from_frame(&frame) {
        Ok(Greeting::Welcome(_)) => {}
        Ok(Greeting::Reject(reject)) => return Err(format!("{addr} says no: {reject:?}")),
        Err(error) => return Err(format!("{addr}: {error}")),
    }
    Ok(Line { stream, received, speech: Box::new(speech), places })
}

fn next(
    stream: &mut TcpStream,
    codec: &mut FrameCodec,
    received: &mut BytesMut,
) -> Result<Frame, String> {
    let mut chunk = [0; 4096];
    loop {
        if let Some(frame) = codec.decode(received).map_err(|error| error.to_string())? {
            return Ok(frame);
        }
        match stream.read(&mut chunk).map_err(|error| error.to_string())? {
            0 => return Err("the node closed the connection".into()),
            count => received.extend_from_slice(chunk.get(..count).unwrap_or_default()),
        }
    }
}

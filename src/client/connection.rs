//! One connection to one node: its handshake, and many requests in flight on it at once.
//!
//! Two tasks serve a connection, one that reads and one that writes, however many requests are in flight.
//! A request costs a place among those that wait, and nothing else: thousands of callers share the
//! connection without a task of their own. A caller that goes away leaves its place behind until the node
//! has answered, because the node counts it until then; the answer is dropped.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_std::channel::{Receiver, Sender, bounded};
use async_std::future::timeout;
use async_std::net::TcpStream;
use async_std::task;
use futures::channel::{mpsc, oneshot};
use futures::{AsyncReadExt, AsyncWriteExt, FutureExt, SinkExt, StreamExt};
use tokio_util::codec::{Encoder, FramedRead, FramedWrite};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt, FuturesAsyncWriteCompatExt};

use crate::client::cluster::Addr;
use crate::types::ClusterId;
use crate::wire::frame::{
    BODY_BYTES_MAX, Frame, FrameCodec, FrameError, HELLO_BYTES_MAX, PREAMBLE,
};
use crate::wire::hello::{Greeting, IN_FLIGHT_MAX, Reject};
use crate::wire::kind;
use crate::wire::message::{Hello, Refusal, Reply, Request, Welcome};

/// Bytes collected before a write; one write then carries hundreds of requests.
const WRITE_BYTES: usize = 64 << 10;

/// With requests in flight, so much silence of the node has it asked whether it is there.
const SILENCE_STEP: Duration = Duration::from_millis(500);

/// So many steps of silence in a row, and the connection counts as broken: a node that is frozen or cut
/// off says nothing, and TCP alone would wait for minutes. A node that works answers a ping at once,
/// however long its requests take.
const SILENCE_STEPS_MAX: u32 = 4;

/// What was sent and may still be on its way buys more silence: one step more for so many bytes. (A batch
/// over a slow line is no silence.)
const BYTES_PER_STEP: u64 = 512 << 10;

/// The number of a ping; requests never get it. Only one is in flight.
const PING_CORR: u32 = u32::MAX;

/// What a caller hears of a node that says nothing and goes.
const HANDSHAKE_CUT: &str = "it closed the connection during the handshake";

/// Why a connection did not come to be. Nothing was asked on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DialError {
    /// In words, the address among them.
    pub(crate) why: Arc<str>,
    /// The node answered that it will not have us, now or later: another version, another cluster.
    pub(crate) is_rejected: bool,
}

impl DialError {
    pub(crate) fn new(addr: &str, why: impl fmt::Display) -> Self {
        Self { why: Arc::from(format!("{addr}: {why}")), is_rejected: false }
    }
}

/// Why a request has no answer: its connection broke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    /// The request, or a part of it, had left: it may have been done.
    pub(crate) was_sent: bool,
    /// What happened to the connection.
    pub(crate) why: Arc<str>,
}

/// A connection that was let in. The last clone that is dropped closes it.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    outbox: mpsc::UnboundedSender<Outgoing>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.fail("it was closed here");
    }
}

/// A request that waits to be written. There are never more than have a place, see [`Shared::places`];
/// it is encoded only when its turn comes, so that waiting costs no second copy.
#[derive(Debug)]
struct Outgoing {
    corr: u32,
    request: Arc<Request>,
}

/// What both tasks and all callers see.
#[derive(Debug)]
struct Shared {
    addr: Addr,
    welcome: Welcome,
    socket: TcpStream,
    /// A message in it is a place taken. Full: callers wait for room, within their deadline.
    places: Sender<()>,
    taken: Receiver<()>,
    /// Bytes handed to the socket since the node was last heard.
    unheard_bytes: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last_corr: u32,
    waiting: BTreeMap<u32, Waiting>,
    broken: Option<Arc<str>>,
}

#[derive(Debug)]
struct Waiting {
    was_sent: bool,
    answer: oneshot::Sender<Result<Frame, Lost>>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that is held over a panic is left half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the connection and tells everyone who waits.
    fn fail(&self, why: &str) {
        let why: Arc<str> = Arc::from(format!("connection to {}: {why}", self.addr));
        let waiting = {
            let mut state = self.state();
            if state.broken.is_some() {
                return;
            }
            state.broken = Some(Arc::clone(&why));
            std::mem::take(&mut state.waiting)
        };
        self.places.close();
        for Waiting { was_sent, answer } in waiting.into_values() {
            // A caller that has gone away needs no word.
            let _gone = answer.send(Err(Lost { was_sent, why: Arc::clone(&why) })).is_err();
        }
        if let Err(error) = self.socket.shutdown(Shutdown::Both) {
            log::trace!("closing the connection to {}: {error}", self.addr);
        }
    }

    /// Gives a place free again.
    fn leave(&self) {
        let _none_taken = self.taken.try_recv().is_err();
    }

    /// Takes a request for sent, unless its caller has gone away: then it is never sent.
    fn claim(&self, corr: u32) -> bool {
        let mut state = self.state();
        let is_wanted = match state.waiting.get_mut(&corr) {
            Some(waiting) if !waiting.answer.is_canceled() => {
                waiting.was_sent = true;
                return true;
            }
            found => found.is_some(),
        };
        state.waiting.remove(&corr);
        drop(state);
        if is_wanted {
            self.leave();
        }
        false
    }

    /// Hands a frame to whoever waits for it. One that nobody waits for is dropped: it is late, or for a
    /// caller that has gone away.
    fn deliver(&self, frame: Frame) {
        let waiting = self.state().waiting.remove(&frame.corr);
        if let Some(Waiting { answer, .. }) = waiting {
            self.leave();
            let _gone = answer.send(Ok(frame)).is_err();
        }
    }

    fn is_idle(&self) -> bool {
        self.state().waiting.is_empty()
    }
}

impl Connection {
    /// Connects to an address and says hello. Takes as long as it takes: the caller has a limit.
    pub(crate) async fn dial(
        addr: &Addr,
        cluster: ClusterId,
        agent: &str,
    ) -> Result<Self, DialError> {
        let (reader, writer, greeting) =
            greet(addr, cluster, agent).await.map_err(|why| DialError::new(addr, why))?;
        let welcome = match greeting {
            Greeting::Welcome(welcome) => welcome,
            Greeting::Reject(Reject { code, message, .. }) => {
                let is_rejected = !Refusal::new(code, "").is_retryable();
                let error = DialError::new(addr, format!("it rejects us: {code}: {message}"));
                return Err(DialError { is_rejected, ..error });
            }
        };
        let (reader, writer) = sized(reader, writer, &welcome);
        // No more than this version of a node would allow: the bound is also one of memory here.
        let places_max = welcome.in_flight_max.clamp(1, IN_FLIGHT_MAX);
        let (places, taken) = bounded(usize::try_from(places_max).unwrap_or(1));
        let (outbox, inbox) = mpsc::unbounded();
        let shared = Arc::new(Shared {
            addr: addr.clone(),
            welcome,
            socket: reader.get_ref().get_ref().clone(),
            places,
            taken,
            unheard_bytes: AtomicU64::new(0),
            state: Mutex::default(),
        });
        task::spawn(read(Arc::clone(&shared), reader, outbox.clone()));
        task::spawn(write(Arc::clone(&shared), writer, inbox));
        Ok(Self { handle: Arc::new(Handle { shared, outbox }) })
    }

    /// Returns the address it was made to.
    pub(crate) fn addr(&self) -> &Addr {
        &self.handle.shared.addr
    }

    /// Returns what the node said when it let us in.
    pub(crate) fn welcome(&self) -> &Welcome {
        &self.handle.shared.welcome
    }

    /// Tells whether nothing can be asked on it any more.
    pub(crate) fn is_broken(&self) -> bool {
        self.handle.shared.state().broken.is_some()
    }

    /// Ends it; everyone who waits hears so.
    pub(crate) fn close(&self) {
        self.handle.shared.fail("it was closed here");
    }

    /// Sends a request, after waiting for a place. A caller that stops waiting disturbs nothing.
    pub(crate) async fn send(&self, request: &Arc<Request>) -> Result<Answer, Lost> {
        let shared = &self.handle.shared;
        if shared.places.try_send(()).is_err() && shared.places.send(()).await.is_err() {
            let why = shared.state().broken.clone().unwrap_or_else(|| Arc::from("it is closed"));
            return Err(Lost { was_sent: false, why });
        }
        // From here to the end nothing waits: a place that was taken cannot be forgotten.
        let (answer, received) = oneshot::channel();
        let corr = {
            let mut state = shared.state();
            if let Some(why) = state.broken.clone() {
                return Err(Lost { was_sent: false, why });
            }
            let corr = free_corr(&state);
            state.last_corr = corr;
            state.waiting.insert(corr, Waiting { was_sent: false, answer });
            corr
        };
        let outgoing = Outgoing { corr, request: Arc::clone(request) };
        if self.handle.outbox.unbounded_send(outgoing).is_err() {
            shared.fail("its writer has ended");
        }
        Ok(Answer { shared: Arc::clone(shared), corr, received })
    }
}

/// Returns the next number that no request in flight has.
fn free_corr(state: &State) -> u32 {
    let mut corr = state.last_corr;
    loop {
        // 0 and the ping's number belong to no request.
        corr = if corr >= PING_CORR - 1 { 1 } else { corr + 1 };
        if !state.waiting.contains_key(&corr) {
            return corr;
        }
    }
}

/// The answer to come.
#[derive(Debug)]
pub(crate) struct Answer {
    shared: Arc<Shared>,
    corr: u32,
    received: oneshot::Receiver<Result<Frame, Lost>>,
}

impl Answer {
    /// Tells whether the request, or a part of it, has left.
    pub(crate) fn was_sent(&self) -> bool {
        // One that has no place any more was answered, or lost just now: it counts as sent.
        self.shared.state().waiting.get(&self.corr).is_none_or(|waiting| waiting.was_sent)
    }
}

impl Future for Answer {
    type Output = Result<Reply, Lost>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let lost = |why: Arc<str>| Lost { was_sent: true, why };
        self.received.poll_unpin(context).map(|received| match received {
            Ok(Ok(frame)) => Reply::from_frame(&frame).map_err(|error| {
                lost(Arc::from(format!("unreadable answer from {}: {error}", self.shared.addr)))
            }),
            Ok(Err(error)) => Err(error),
            Err(_canceled) => Err(lost(Arc::from("the connection ended"))),
        })
    }
}

type Reader = FramedRead<Compat<TcpStream>, FrameCodec>;
type Writer = FramedWrite<Compat<TcpStream>, FrameCodec>;

/// Connects, says hello and hears the answer.
async fn greet(
    addr: &str,
    cluster: ClusterId,
    agent: &str,
) -> Result<(Reader, Writer, Greeting), String> {
    let mut socket = TcpStream::connect(addr).await.map_err(|error| error.to_string())?;
    let in_words = |error: io::Error| {
        let is_end = error.kind() == io::ErrorKind::UnexpectedEof;
        if is_end { HANDSHAKE_CUT.into() } else { error.to_string() }
    };
    socket.set_nodelay(true).map_err(in_words)?;
    let hello = Hello { cluster, ..Hello::client(agent) };
    let mut first = bytes::BytesMut::from(PREAMBLE.as_slice());
    FrameCodec::new(HELLO_BYTES_MAX)
        .encode(hello.to_frame(0), &mut first)
        .map_err(|error| error.to_string())?;
    socket.write_all(&first).await.map_err(in_words)?;
    let mut preamble = [0; PREAMBLE.len()];
    socket.read_exact(&mut preamble).await.map_err(in_words)?;
    if preamble != PREAMBLE {
        return Err("something else than raftq listens there".into());
    }
    let mut reader = FramedRead::new(socket.clone().compat(), FrameCodec::new(HELLO_BYTES_MAX));
    let frame = match reader.next().await {
        Some(frame) => frame.map_err(|error| error.to_string())?,
        None => return Err(HANDSHAKE_CUT.into()),
    };
    let greeting = Greeting::from_frame(&frame).map_err(|error| error.to_string())?;
    let mut writer = FramedWrite::new(socket.compat_write(), FrameCodec::new(HELLO_BYTES_MAX));
    writer.set_backpressure_boundary(WRITE_BYTES);
    Ok((reader, writer, greeting))
}

/// Lets frames have the size that the node said.
fn sized(mut reader: Reader, mut writer: Writer, welcome: &Welcome) -> (Reader, Writer) {
    let frame_bytes_max =
        usize::try_from(welcome.frame_bytes_max).unwrap_or(usize::MAX).min(BODY_BYTES_MAX);
    reader.decoder_mut().set_body_bytes_max(frame_bytes_max);
    writer.encoder_mut().set_body_bytes_max(frame_bytes_max);
    (reader, writer)
}

/// Reads answers until the end, and watches for silence.
async fn read(shared: Arc<Shared>, mut frames: Reader, outbox: mpsc::UnboundedSender<Outgoing>) {
    let ping = Arc::new(Request::Ping);
    let mut silent_steps: u32 = 0;
    let why = loop {
        // A timer only when there is nothing to read: under load there always is.
        let read = match frames.next().now_or_never() {
            Some(read) => Ok(read),
            None => timeout(SILENCE_STEP, frames.next()).await,
        };
        match read {
            Ok(Some(Ok(frame))) if frame.kind == kind::REJECT => {
                break Reject::from_frame(&frame)
                    .map_or_else(|error| error.to_string(), |reject| reject.message);
            }
            Ok(Some(Ok(frame))) => {
                silent_steps = 0;
                shared.unheard_bytes.store(0, Ordering::Relaxed);
                // What a later version says beside the answers, whatever number it carries.
                if !frame.is_ignorable() || kind::name(frame.kind).is_some() {
                    shared.deliver(frame);
                }
            }
            Ok(Some(Err(error))) => break error.to_string(),
            Ok(None) => break "the node closed it".into(),
            Err(_silence) if shared.is_idle() => silent_steps = 0,
            Err(_silence) => {
                silent_steps += 1;
                let unheard = shared.unheard_bytes.load(Ordering::Relaxed) / BYTES_PER_STEP;
                let allowed = u64::from(SILENCE_STEPS_MAX).saturating_add(unheard);
                if u64::from(silent_steps) >= allowed {
                    let silence = SILENCE_STEP.saturating_mul(silent_steps);
                    break format!("no sign of life for {:.1} s", silence.as_secs_f64());
                }
                let asks = Outgoing { corr: PING_CORR, request: Arc::clone(&ping) };
                if silent_steps == 1 && outbox.unbounded_send(asks).is_err() {
                    break "its writer has ended".into();
                }
            }
        }
    };
    shared.fail(&why);
}

/// Writes requests until the end: many into the buffer, then all out at once.
async fn write(
    shared: Arc<Shared>,
    mut frames: Writer,
    mut inbox: mpsc::UnboundedReceiver<Outgoing>,
) {
    while let Some(first) = inbox.next().await {
        let mut next = Some(first);
        while let Some(Outgoing { corr, request }) = next {
            if corr == PING_CORR || shared.claim(corr) {
                let frame = request.to_frame(corr);
                let bytes = u64::try_from(frame.wire_bytes()).unwrap_or(u64::MAX);
                shared.unheard_bytes.fetch_add(bytes, Ordering::Relaxed);
                match frames.feed(frame).await {
                    Ok(()) => {}
                    // Nothing of it was written, and the connection is as good as before.
                    Err(FrameError::TooLarge { bytes, max }) => {
                        log::warn!("a request of {bytes} bytes for {}; at most {max}", shared.addr);
                        shared.deliver(too_large(corr, bytes, max));
                    }
                    Err(error) => return shared.fail(&error.to_string()),
                }
            }
            next = inbox.next().now_or_never().flatten();
        }
        if let Err(error) = SinkExt::<Frame>::flush(&mut frames).await {
            return shared.fail(&error.to_string());
        }
    }
}

/// What a node would say to a request that fits no frame.
fn too_large(corr: u32, bytes: usize, max: usize) -> Frame {
    let text = format!("a request of {bytes} bytes; at most {max}");
    Reply::Refused(Refusal::invalid(text)).to_frame(corr)
}

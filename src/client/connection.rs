//! One connection to one node: its handshake, and many requests in flight on it at once.
//!
//! One task serves a connection, however many requests are in flight. A request costs a place among those that
//! wait, and nothing else: thousands of callers share the connection without a task or a timer of their own. A
//! caller that goes away leaves its place behind until the node has answered, because the node counts it until
//! then; the answer is dropped.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_std::net::TcpStream;
use async_std::task;
use futures::future::BoxFuture;
use futures::{AsyncReadExt, AsyncWriteExt, FutureExt, StreamExt};
use tokio_util::codec::{Encoder, FramedRead};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

use crate::client::clock;
use crate::client::cluster::Addr;
use crate::client::in_flight::{Lost, Outcome, Shared};
use crate::client::moment::Moment;
use crate::types::ClusterId;
use crate::wire::frame::{BODY_BYTES_MAX, Frame, FrameCodec, HELLO_BYTES_MAX, PREAMBLE};
use crate::wire::hello::{Greeting, Reject};
use crate::wire::hello::{Hello, Welcome};
use crate::wire::kind;
use crate::wire::message::{Refusal, Reply, Request};

/// Frames read before they are delivered, at most; then others have their turn, and the rest is read in the
/// next one.
const FRAMES_PER_TURN: usize = 256;

/// With requests in flight, so much silence of the node has it asked whether it is there.
const SILENCE_STEP: Duration = Duration::from_millis(500);

/// So many steps of silence in a row, and the connection counts as broken: a node that is frozen or cut
/// off says nothing, and TCP alone would wait for minutes. A node that works answers a ping at once,
/// however long its requests take.
const SILENCE_STEPS_MAX: u32 = 4;

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

/// What became of a request on a connection.
#[derive(Debug)]
pub(crate) enum Asked {
    /// The node has answered.
    Answered(Reply),
    /// The connection broke, or its answer cannot be read.
    Lost(Lost),
    /// No answer came in time.
    Late {
        /// The request, or a part of it, had left: it may have been done.
        was_sent: bool,
    },
}

/// A connection that was let in. The last clone that is dropped closes it.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.fail("it was closed here");
    }
}

impl Connection {
    /// Connects to an address and says hello. Takes as long as it takes: the caller has a limit.
    pub(crate) async fn dial(
        addr: &Addr,
        cluster: ClusterId,
        agent: &str,
    ) -> Result<Self, DialError> {
        let (mut frames, greeting) =
            greet(addr, cluster, agent).await.map_err(|why| DialError::new(addr, why))?;
        let welcome = match greeting {
            Greeting::Welcome(welcome) => welcome,
            Greeting::Reject(Reject { code, message, .. }) => {
                let is_rejected = !Refusal::new(code, "").is_retryable();
                let error = DialError::new(addr, format!("it rejects us: {code}: {message}"));
                return Err(DialError { is_rejected, ..error });
            }
        };
        // Frames may have the size that the node said.
        let frame_bytes_max =
            usize::try_from(welcome.frame_bytes_max).unwrap_or(usize::MAX).min(BODY_BYTES_MAX);
        frames.decoder_mut().set_body_bytes_max(frame_bytes_max);
        let socket = frames.get_ref().get_ref().clone();
        let shared = Arc::new(Shared::new(addr.clone(), welcome, socket, frame_bytes_max));
        task::spawn(drive(Arc::clone(&shared), frames));
        Ok(Self { handle: Arc::new(Handle { shared }) })
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
        self.handle.shared.is_broken()
    }

    /// Ends it; everyone who waits hears so.
    pub(crate) fn close(&self) {
        self.handle.shared.fail("it was closed here");
    }

    /// Makes a request, after waiting for a place, and waits for its answer until then. A caller that stops
    /// waiting disturbs nothing.
    pub(crate) async fn ask(&self, request: &Arc<Request>, until: Moment) -> Asked {
        let shared = &self.handle.shared;
        match shared.place(until).await {
            Some(true) => {}
            Some(false) => return Asked::Lost(shared.not_sent()),
            None => return Asked::Late { was_sent: false },
        }
        // Up to the answer nothing waits: a place that was taken cannot be forgotten.
        let outcome = match shared.enqueue(request, until) {
            Ok(outcome) => outcome,
            Err(lost) => return Asked::Lost(lost),
        };
        let lost = |why: String| Asked::Lost(Lost { was_sent: true, why: Arc::from(why) });
        match outcome.await {
            Ok(Outcome::Answered(frame)) => Reply::from_frame(&frame).map_or_else(
                |error| lost(format!("unreadable answer from {}: {error}", shared.addr)),
                Asked::Answered,
            ),
            Ok(Outcome::Lost(lost)) => Asked::Lost(lost),
            Ok(Outcome::Late { was_sent }) => Asked::Late { was_sent },
            Err(_canceled) => lost("the connection ended".into()),
        }
    }
}

type Reader = FramedRead<Compat<TcpStream>, FrameCodec>;

/// Connects, says hello and hears the answer.
async fn greet(addr: &str, cluster: ClusterId, agent: &str) -> Result<(Reader, Greeting), String> {
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
    let mut frames = FramedRead::new(socket.compat(), FrameCodec::new(HELLO_BYTES_MAX));
    let frame = match frames.next().await {
        Some(frame) => frame.map_err(|error| error.to_string())?,
        None => return Err(HANDSHAKE_CUT.into()),
    };
    let greeting = Greeting::from_frame(&frame).map_err(|error| error.to_string())?;
    Ok((frames, greeting))
}

/// Serves a connection until its end.
async fn drive(shared: Arc<Shared>, frames: Reader) {
    let mut driver = Driver {
        shared: Arc::clone(&shared),
        frames,
        heard: Vec::new(),
        step_at: clock::now().after(SILENCE_STEP),
        silent_steps: 0,
        timer: None,
    };
    let why = poll_fn(|context| driver.turn(context)).await;
    shared.fail(&why);
}

/// The connection's one task: it reads answers, watches for silence and for requests whose time is over, and
/// writes what callers have not written themselves.
struct Driver {
    shared: Arc<Shared>,
    frames: Reader,
    /// Frames of this turn; at most [`FRAMES_PER_TURN`].
    heard: Vec<Frame>,
    /// When a step of silence is over, if nothing is heard before.
    step_at: Moment,
    silent_steps: u32,
    /// One timer for all requests, and when it ends.
    timer: Option<(Moment, BoxFuture<'static, ()>)>,
}

impl Driver {
    /// Does what can be done now; returns why the connection has ended.
    fn turn(&mut self, context: &mut Context<'_>) -> Poll<String> {
        self.shared.register(context.waker());
        let end = self.read(context);
        if !self.heard.is_empty() {
            self.silent_steps = 0;
            self.step_at = clock::now().after(SILENCE_STEP);
            self.shared.heard();
            self.shared.deliver(self.heard.drain(..));
        }
        let end = end.or_else(|| self.watch(context)).or_else(|| self.shared.write_on(context));
        end.map_or(Poll::Pending, Poll::Ready)
    }

    /// Reads what has come, into `heard`; returns why there will be no more.
    fn read(&mut self, context: &mut Context<'_>) -> Option<String> {
        while let Poll::Ready(read) = self.frames.poll_next_unpin(context) {
            match read {
                Some(Ok(frame)) if frame.kind == kind::REJECT => {
                    let reject = Reject::from_frame(&frame);
                    return Some(reject.map_or_else(|error| error.to_string(), |no| no.message));
                }
                Some(Ok(frame)) => self.heard.push(frame),
                Some(Err(error)) => return Some(error.to_string()),
                None => return Some("the node closed it".into()),
            }
            if self.heard.len() == FRAMES_PER_TURN {
                context.waker().wake_by_ref();
                break;
            }
        }
        None
    }

    /// Looks at the time, when it is time to; returns why the node counts as gone.
    fn watch(&mut self, context: &mut Context<'_>) -> Option<String> {
        loop {
            let look_at = self.shared.look_at();
            let timer = match self.timer.take().filter(|(end, _)| *end == look_at) {
                Some((_, timer)) => timer,
                None => clock::sleep_until(look_at).boxed(),
            };
            let (_, timer) = self.timer.insert((look_at, timer));
            if timer.poll_unpin(context).is_pending() {
                return None;
            }
            self.timer = None;
            let now = clock::now();
            if now >= self.step_at {
                self.step_at = now.after(SILENCE_STEP);
                if let Some(silence) = self.silence() {
                    return Some(silence);
                }
            }
            self.shared.expire(now, self.step_at);
        }
    }

    /// Counts a step of silence, if an answer is owed; returns that there were too many.
    fn silence(&mut self) -> Option<String> {
        if self.shared.is_idle() {
            self.silent_steps = 0;
            return None;
        }
        self.silent_steps += 1;
        let allowed = u64::from(SILENCE_STEPS_MAX).saturating_add(self.shared.unheard_steps());
        if u64::from(self.silent_steps) >= allowed {
            let silence = SILENCE_STEP.saturating_mul(self.silent_steps);
            return Some(format!("no sign of life for {:.1} s", silence.as_secs_f64()));
        }
        if self.silent_steps == 1 {
            self.shared.ping();
        }
        None
    }
}

//! One connection to one node: many requests in flight, each answered by its number.

use std::collections::BTreeMap;
use std::net::Shutdown;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_std::channel::{self, Receiver, Sender};
use async_std::future::timeout;
use async_std::net::TcpStream;
use async_std::task;
use futures::channel::oneshot;
use futures::{AsyncReadExt as _, AsyncWriteExt as _, SinkExt as _, StreamExt as _};
use tokio_util::codec::{Encoder as _, FramedRead, FramedWrite};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt as _, FuturesAsyncWriteCompatExt as _};

use crate::client::clock;
use crate::wire::frame::{Frame, FrameCodec, HELLO_BYTES_MAX, PREAMBLE};
use crate::wire::hello::{Greeting, IN_FLIGHT_MAX, Reject};
use crate::wire::kind;
use crate::wire::message::{Hello, Reply, Request, Welcome};

/// The number of `HELLO`; those of requests come after it.
const HELLO_CORR: u32 = 1;

/// Bytes the writer gathers before it writes, while more is queued.
const WRITE_BYTES: usize = 64 << 10;

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// Nobody there, or nobody who speaks our protocol in time. Nothing was asked.
    Failed(String),
    /// The node does not want us.
    Rejected(Reject),
}

/// Why a request on a connection has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The connection broke; `sent` tells whether the request may have reached the node.
    Lost {
        /// It may have.
        sent: bool,
        /// What happened, for people.
        why: String,
    },
    /// The request is larger than a frame may be: nothing was sent, and the connection is as good as before.
    TooLarge {
        /// What it has.
        bytes: usize,
        /// What a frame may have.
        max: usize,
    },
}

/// A connection past its handshake. Clones share it; it ends when it breaks or is closed.
///
/// - A request holds its place in `waiting` until its answer comes, though its caller be gone: the node counts
///   it as in flight for as long.
/// - `room` holds one token for each of them, so neither `waiting` nor `queue` outgrows what the node allows.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
}

struct Shared {
    addr: String,
    tcp: TcpStream,
    frame_bytes_max: usize,
    queue: Sender<Frame>,
    room: Sender<()>,
    room_taken: Receiver<()>,
    state: Mutex<State>,
    /// Since when the node owes us a sign of life, on [`clock::now_ms`]: the last frame it sent, or the first
    /// request after a time without any in flight.
    owed_since_ms: AtomicU64,
}

struct State {
    waiting: BTreeMap<u32, oneshot::Sender<Result<Reply, Broken>>>,
    corr: u32,
    /// Why it is over; nothing more is taken then.
    over: Option<String>,
}

impl Connection {
    /// Connects and shakes hands, all within `time`.
    ///
    /// # Errors
    /// [`ConnectError`]; nothing was asked of the node then.
    pub async fn open(
        addr: &str,
        hello: Hello,
        time: Duration,
    ) -> Result<(Self, Welcome), ConnectError> {
        match timeout(time, Self::connect(addr, hello)).await {
            Ok(result) => result,
            Err(_elapsed) => {
                let ms = time.as_millis();
                Err(ConnectError::Failed(format!("no connection and greeting within {ms} ms")))
            }
        }
    }

    async fn connect(addr: &str, hello: Hello) -> Result<(Self, Welcome), ConnectError> {
        let failed = |error: &dyn std::fmt::Display| ConnectError::Failed(error.to_string());
        let mut tcp = TcpStream::connect(addr).await.map_err(|error| failed(&error))?;
        tcp.set_nodelay(true).map_err(|error| failed(&error))?;
        let mut first = bytes::BytesMut::from(PREAMBLE.as_slice());
        FrameCodec::new(HELLO_BYTES_MAX)
            .encode(hello.to_frame(HELLO_CORR), &mut first)
            .map_err(|error| failed(&error))?;
        tcp.write_all(&first).await.map_err(|error| failed(&error))?;
        let mut preamble = [0; PREAMBLE.len()];
        tcp.read_exact(&mut preamble).await.map_err(|error| failed(&error))?;
        if preamble != PREAMBLE {
            return Err(failed(&"what answers there is no raftq node"));
        }
        let mut frames = FramedRead::new(tcp.clone().compat(), FrameCodec::new(HELLO_BYTES_MAX));
        let frame = match frames.next().await {
            Some(frame) => frame.map_err(|error| failed(&error))?,
            None => return Err(failed(&"the node closed the connection without a greeting")),
        };
        match Greeting::from_frame(&frame).map_err(|error| failed(&error))? {
            Greeting::Reject(reject) => Err(ConnectError::Rejected(reject)),
            Greeting::Welcome(welcome) => Ok((Self::start(addr, tcp, frames, &welcome), welcome)),
        }
    }

    fn start(
        addr: &str,
        tcp: TcpStream,
        mut frames: FramedRead<Compat<TcpStream>, FrameCodec>,
        welcome: &Welcome,
    ) -> Self {
        let frame_bytes_max = usize::try_from(welcome.frame_bytes_max).unwrap_or(usize::MAX);
        frames.decoder_mut().set_body_bytes_max(frame_bytes_max);
        let sink = tcp.clone().compat_write();
        let mut sink = FramedWrite::new(sink, FrameCodec::new(frame_bytes_max));
        sink.set_backpressure_boundary(WRITE_BYTES);
        let in_flight_max = welcome.in_flight_max.clamp(1, IN_FLIGHT_MAX);
        let in_flight_max = usize::try_from(in_flight_max).unwrap_or(1);
        let (queue, queued) = channel::bounded(in_flight_max);
        let (room, room_taken) = channel::bounded(in_flight_max);
        let state = State { waiting: BTreeMap::new(), corr: HELLO_CORR, over: None };
        let shared = Arc::new(Shared {
            addr: addr.into(),
            tcp,
            frame_bytes_max,
            queue,
            room,
            room_taken,
            state: Mutex::new(state),
            owed_since_ms: AtomicU64::new(clock::now_ms()),
        });
        let reader = Arc::clone(&shared);
        task::spawn(async move {
            let why = read(&reader, frames).await;
            reader.end(&why);
        });
        let writer = Arc::clone(&shared);
        task::spawn(async move {
            if let Err(why) = write(&writer, sink, queued).await {
                writer.end(&why);
            }
        });
        Self { shared }
    }

    /// Returns the address it goes to.
    #[must_use]
    pub fn addr(&self) -> &str {
        &self.shared.addr
    }

    /// Tells whether it has broken or was closed.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.shared.state().over.is_some()
    }

    /// Tells whether two handles are of one connection.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Returns for how long the node has owed a sign of life, in ms.
    #[must_use]
    pub fn silent_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.shared.owed_since_ms.load(Ordering::Relaxed))
    }

    /// Ends it: every waiter hears that it broke, and its tasks end.
    pub fn close(&self, why: &str) {
        self.shared.end(why);
    }

    /// Sends a request and waits for its answer; first for room, when as many are in flight as the node
    /// allows. The future may be dropped at any time: a late answer is dropped then, and a request that has not
    /// left yet is not sent.
    ///
    /// # Errors
    /// [`Broken`].
    pub async fn ask(&self, request: &Request) -> Result<Reply, Broken> {
        let shared = &self.shared;
        let mut frame = request.to_frame(0);
        if frame.body.len() > shared.frame_bytes_max {
            return Err(Broken::TooLarge { bytes: frame.body.len(), max: shared.frame_bytes_max });
        }
        let closed = |why: &str| Broken::Lost { sent: false, why: why.into() };
        if shared.room.send(()).await.is_err() {
            return Err(closed(&shared.reason()));
        }
        // From the token to the place in `waiting` nothing is awaited: a caller that is dropped loses neither.
        let (answer, answered) = oneshot::channel();
        {
            let mut state = shared.state();
            if let Some(why) = &state.over {
                return Err(closed(why));
            }
            let corr = state.free_corr();
            frame.corr = corr;
            if shared.queue.try_send(frame).is_err() {
                drop(state);
                shared.give_room();
                return Err(closed("the connection is ending"));
            }
            if state.waiting.is_empty() {
                shared.owed_since_ms.store(clock::now_ms(), Ordering::Relaxed);
            }
            state.waiting.insert(corr, answer);
        }
        match answered.await {
            Ok(result) => result,
            Err(_canceled) => Err(Broken::Lost { sent: true, why: shared.reason() }),
        }
    }
}

impl State {
    /// Returns a number that no request in flight has; never 0, which is no number.
    fn free_corr(&mut self) -> u32 {
        loop {
            self.corr = self.corr.wrapping_add(1);
            if self.corr != 0 && !self.waiting.contains_key(&self.corr) {
                return self.corr;
            }
        }
    }
}

impl Shared {
    /// A panic while the lock is held can only come from the allocator: the state is whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reason(&self) -> String {
        self.state().over.clone().unwrap_or_else(|| "the connection ended".into())
    }

    /// Gives back the token of one request that is no longer in flight.
    fn give_room(&self) {
        let taken = self.room_taken.try_recv();
        debug_assert!(taken.is_ok(), "every request in flight holds a token");
    }

    /// Hands a result to the one who waits for this number, if anybody still does.
    fn resolve(&self, corr: u32, result: Result<Reply, Broken>) {
        let Some(answer) = self.state().waiting.remove(&corr) else {
            return;
        };
        self.give_room();
        if answer.send(result).is_err() {
            log::trace!("{}: dropped a late answer", self.addr);
        }
    }

    /// Forgets a request that was not sent yet and that nobody waits for; tells whether it did.
    fn forget_unwanted(&self, corr: u32) -> bool {
        let mut state = self.state();
        let is_unwanted = state.waiting.get(&corr).is_none_or(oneshot::Sender::is_canceled);
        if is_unwanted && state.waiting.remove(&corr).is_some() {
            drop(state);
            self.give_room();
        }
        is_unwanted
    }

    /// Ends the connection, once: the first reason stays.
    fn end(&self, why: &str) {
        let waiting = {
            let mut state = self.state();
            if state.over.is_some() {
                return;
            }
            state.over = Some(why.into());
            std::mem::take(&mut state.waiting)
        };
        self.queue.close();
        self.room.close();
        if let Err(error) = self.tcp.shutdown(Shutdown::Both) {
            log::trace!("{}: {error} at the end of a connection", self.addr);
        }
        for answer in waiting.into_values() {
            if answer.send(Err(Broken::Lost { sent: true, why: why.into() })).is_err() {
                log::trace!("{}: nobody waited for a lost answer", self.addr);
            }
        }
    }
}

/// Reads answers until the connection ends, and says why it did.
async fn read(shared: &Shared, mut frames: FramedRead<Compat<TcpStream>, FrameCodec>) -> String {
    while let Some(frame) = frames.next().await {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => return error.to_string(),
        };
        shared.owed_since_ms.store(clock::now_ms(), Ordering::Relaxed);
        if frame.kind == kind::REJECT {
            return match Reject::from_frame(&frame) {
                Ok(reject) => format!("the node ended the connection: {}", reject.message),
                Err(error) => error.to_string(),
            };
        }
        match Reply::from_frame(&frame) {
            Ok(reply) => shared.resolve(frame.corr, Ok(reply)),
            Err(error) if error.is_skippable() => {}
            Err(error) => {
                log::warn!("{} answered what is no reply: {error}", shared.addr);
                let why = format!("an answer that is no reply: {error}");
                shared.resolve(frame.corr, Err(Broken::Lost { sent: true, why }));
            }
        }
    }
    "the node closed the connection".into()
}

/// Writes requests until the queue closes: all that wait go out together.
async fn write(
    shared: &Shared,
    mut sink: FramedWrite<Compat<TcpStream>, FrameCodec>,
    queued: Receiver<Frame>,
) -> Result<(), String> {
    while let Ok(first) = queued.recv().await {
        let mut next = Some(first);
        while let Some(frame) = next {
            if !shared.forget_unwanted(frame.corr) {
                sink.feed(frame).await.map_err(|error| error.to_string())?;
            }
            next = queued.try_recv().ok();
        }
        futures::SinkExt::<Frame>::flush(&mut sink).await.map_err(|error| error.to_string())?;
    }
    Ok(())
}

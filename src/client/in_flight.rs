//! The requests in flight on one connection: what its callers and its task share.
//!
//! A request is written by its caller, if it is the only one: nobody has to be woken up for it. Where there are
//! more, the connection's task writes them, many at once.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use async_std::channel::{Receiver, Sender, bounded};
use async_std::net::TcpStream;
use bytes::{Buf, BytesMut};
use futures::AsyncWrite;
use futures::channel::oneshot;
use futures::task::{AtomicWaker, noop_waker_ref};

use crate::client::clock;
use crate::client::cluster::Addr;
use crate::client::moment::Moment;
use crate::wire::frame::{Frame, FrameCodec, FrameError};
use crate::wire::hello::IN_FLIGHT_MAX;
use crate::wire::hello::Welcome;
use crate::wire::kind;
use crate::wire::message::{Refusal, Reply, Request};

/// Bytes collected before a write, and one request beyond; one write then carries hundreds of requests.
const WRITE_BYTES: usize = 64 << 10;

/// What was sent and may still be on its way buys more silence: one step more for so many bytes. (A batch
/// over a slow line is no silence.)
const BYTES_PER_STEP: u64 = 512 << 10;

/// The number of a ping; requests never get it. Only one is in flight.
const PING_CORR: u32 = u32::MAX;

/// Why a request has no answer: its connection broke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    /// The request, or a part of it, had left: it may have been done.
    pub(crate) was_sent: bool,
    /// What happened to the connection.
    pub(crate) why: Arc<str>,
}

/// What becomes of a request that was sent, or was to be.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The node has answered.
    Answered(Frame),
    /// The connection broke.
    Lost(Lost),
    /// No answer came in time.
    Late {
        /// The request, or a part of it, had left: it may have been done.
        was_sent: bool,
    },
}

/// What the connection's task and all callers see.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) addr: Addr,
    pub(crate) welcome: Welcome,
    socket: TcpStream,
    /// A message in it is a place taken. Full: callers wait for room, within their deadline.
    places: Sender<()>,
    taken: Receiver<()>,
    /// Bytes handed to the socket since the node was last heard.
    unheard_bytes: AtomicU64,
    /// Wakes the connection's task.
    task: AtomicWaker,
    state: Mutex<State>,
    /// Locked only by whose turn it is to write, see [`State::writer`]: nobody ever waits for it.
    out: Mutex<Out>,
}

#[derive(Debug)]
struct State {
    last_corr: u32,
    waiting: BTreeMap<u32, Waiting>,
    /// Requests to be written; never more than have a place, and a ping.
    outbox: VecDeque<Outgoing>,
    writer: Writer,
    /// When the task looks at the time next; no later than the time of any request is over.
    look_at: Moment,
    broken: Option<Arc<str>>,
}

/// Whose turn it is to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writer {
    /// There is nothing to write.
    Nobody,
    /// A caller is writing, and waits for nothing meanwhile.
    Caller,
    /// The task's, which has been woken up.
    Task,
}

#[derive(Debug)]
struct Waiting {
    was_sent: bool,
    until: Moment,
    /// Gone when its time was over. The place stays taken until the node has answered, as the node counts it.
    answer: Option<oneshot::Sender<Outcome>>,
}

/// A request that waits to be written. It is encoded only when its turn comes, so that waiting costs no
/// second copy.
#[derive(Debug)]
struct Outgoing {
    corr: u32,
    request: Arc<Request>,
}

/// Bytes that were encoded and not yet written: at most [`WRITE_BYTES`] and one request.
#[derive(Debug)]
struct Out {
    codec: FrameCodec,
    bytes: BytesMut,
}

impl Shared {
    pub(crate) fn new(
        addr: Addr,
        welcome: Welcome,
        socket: TcpStream,
        frame_bytes_max: usize,
    ) -> Self {
        // No more than this version of a node would allow: the bound is also one of memory here.
        let places_max = welcome.in_flight_max.clamp(1, IN_FLIGHT_MAX);
        let (places, taken) = bounded(usize::try_from(places_max).unwrap_or(1));
        let state = State {
            last_corr: 0,
            waiting: BTreeMap::new(),
            outbox: VecDeque::new(),
            writer: Writer::Nobody,
            look_at: Moment(0),
            broken: None,
        };
        Self {
            addr,
            welcome,
            socket,
            places,
            taken,
            unheard_bytes: AtomicU64::new(0),
            task: AtomicWaker::new(),
            state: Mutex::new(state),
            out: Mutex::new(Out {
                codec: FrameCodec::new(frame_bytes_max),
                bytes: BytesMut::new(),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that is held over a panic is left half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place, waiting for one until then. `Some(false)`: the connection is broken; `None`: there was
    /// none in time.
    pub(crate) async fn place(&self, until: Moment) -> Option<bool> {
        if self.places.try_send(()).is_ok() {
            return Some(true);
        }
        clock::within(until, self.places.send(())).await.map(|sent| sent.is_ok())
    }

    /// Gives a place free again.
    fn leave(&self) {
        let _none_taken = self.taken.try_recv().is_err();
    }

    /// Says why a request was not even begun.
    pub(crate) fn not_sent(&self) -> Lost {
        let why = self.state().broken.clone().unwrap_or_else(|| Arc::from("it is closed"));
        Lost { was_sent: false, why }
    }

    /// Has a request that has a place sent, and returns where its outcome comes.
    pub(crate) fn enqueue(
        &self,
        request: &Arc<Request>,
        until: Moment,
    ) -> Result<oneshot::Receiver<Outcome>, Lost> {
        let (answer, received) = oneshot::channel();
        let mut state = self.state();
        if let Some(why) = state.broken.clone() {
            return Err(Lost { was_sent: false, why });
        }
        let corr = free_corr(&state);
        state.last_corr = corr;
        state.waiting.insert(corr, Waiting { was_sent: false, until, answer: Some(answer) });
        state.outbox.push_back(Outgoing { corr, request: Arc::clone(request) });
        let is_sooner = until < state.look_at;
        state.look_at = state.look_at.min(until);
        let former = state.writer;
        if former == Writer::Nobody {
            let is_alone = state.waiting.len() == 1;
            state.writer = if is_alone { Writer::Caller } else { Writer::Task };
        }
        let writer = state.writer;
        drop(state);
        if former == Writer::Nobody && writer == Writer::Caller {
            self.write_once();
        }
        if is_sooner || former == Writer::Nobody && writer == Writer::Task {
            self.task.wake();
        }
        Ok(received)
    }

    /// Ends the connection and tells everyone who waits.
    pub(crate) fn fail(&self, why: &str) {
        let why: Arc<str> = Arc::from(format!("connection to {}: {why}", self.addr));
        let waiting = {
            let mut state = self.state();
            if state.broken.is_some() {
                return;
            }
            state.broken = Some(Arc::clone(&why));
            state.outbox.clear();
            std::mem::take(&mut state.waiting)
        };
        self.places.close();
        for Waiting { was_sent, answer, .. } in waiting.into_values() {
            // A caller that has gone away needs no word.
            let lost = Outcome::Lost(Lost { was_sent, why: Arc::clone(&why) });
            let _gone = answer.is_none_or(|answer| answer.send(lost).is_err());
        }
        if let Err(error) = self.socket.shutdown(Shutdown::Both) {
            log::trace!("closing the connection to {}: {error}", self.addr);
        }
        self.task.wake();
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.state().broken.is_some()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.state().waiting.is_empty()
    }

    /// Has a waker called when there is something to do for the connection's task.
    pub(crate) fn register(&self, waker: &Waker) {
        self.task.register(waker);
    }

    /// Hands frames to those who wait for them. One that nobody waits for is dropped: it is late, or for a
    /// caller that has gone away.
    pub(crate) fn deliver(&self, frames: impl Iterator<Item = Frame>) {
        let mut answered = Vec::with_capacity(frames.size_hint().0);
        let mut state = self.state();
        for frame in frames {
            // What a later version says beside the answers, whatever number it carries.
            if frame.is_ignorable() && kind::name(frame.kind).is_none() {
                continue;
            }
            if let Some(waiting) = state.waiting.remove(&frame.corr) {
                answered.push((waiting.answer, frame));
            }
        }
        drop(state);
        for (answer, frame) in answered {
            self.leave();
            let answered = Outcome::Answered(frame);
            let _gone = answer.is_none_or(|answer| answer.send(answered).is_err());
        }
    }

    /// Returns when to look at the time.
    pub(crate) fn look_at(&self) -> Moment {
        self.state().look_at
    }

    /// Tells those whose time is over, and sets when to look at the time next: at `next` or sooner.
    pub(crate) fn expire(&self, now: Moment, next: Moment) {
        let mut late = Vec::new();
        let mut state = self.state();
        let mut look_at = next;
        for waiting in state.waiting.values_mut().filter(|waiting| waiting.answer.is_some()) {
            if waiting.until <= now {
                late.extend(waiting.answer.take().map(|answer| (answer, waiting.was_sent)));
            } else {
                look_at = look_at.min(waiting.until);
            }
        }
        state.look_at = look_at;
        drop(state);
        for (answer, was_sent) in late {
            let _gone = answer.send(Outcome::Late { was_sent }).is_err();
        }
    }

    /// Takes note that the node was heard.
    pub(crate) fn heard(&self) {
        self.unheard_bytes.store(0, Ordering::Relaxed);
    }

    /// Returns how many steps of silence more are allowed for what was sent since the node was last heard.
    pub(crate) fn unheard_steps(&self) -> u64 {
        self.unheard_bytes.load(Ordering::Relaxed) / BYTES_PER_STEP
    }

    /// Asks the node whether it is there. For the task, which writes after this.
    pub(crate) fn ping(&self) {
        let mut state = self.state();
        state.outbox.push_back(Outgoing { corr: PING_CORR, request: Arc::new(Request::Ping) });
        if state.writer == Writer::Nobody {
            state.writer = Writer::Task;
        }
    }

    /// Writes for a caller whose turn it is: once, and what is left then is the task's.
    fn write_once(&self) {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        self.fill(&mut out);
        // Whether there is room is for the task to hear.
        let written = self.write(&mut out, &mut Context::from_waker(noop_waker_ref()));
        let is_done = out.bytes.is_empty();
        drop(out);
        let mut state = self.state();
        let is_done = is_done && state.outbox.is_empty();
        state.writer = if is_done { Writer::Nobody } else { Writer::Task };
        drop(state);
        match written {
            Poll::Ready(Err(error)) => self.fail(&error.to_string()),
            Poll::Ready(Ok(())) | Poll::Pending if !is_done => self.task.wake(),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
    }

    /// Writes for the task, if it is its turn, until nothing is left or the socket is full. Returns what is
    /// wrong with the socket.
    pub(crate) fn write_on(&self, context: &mut Context<'_>) -> Option<String> {
        if self.state().writer != Writer::Task {
            return None;
        }
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            self.fill(&mut out);
            if out.bytes.is_empty() {
                let mut state = self.state();
                if state.outbox.is_empty() {
                    state.writer = Writer::Nobody;
                    return None;
                }
                continue;
            }
            match self.write(&mut out, context) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Some(error.to_string()),
                Poll::Pending => return None,
            }
        }
    }

    /// Hands bytes to the socket, as many as it takes at once.
    fn write(&self, out: &mut Out, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if out.bytes.is_empty() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut &self.socket).poll_write(context, &out.bytes).map(|written| match written {
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                out.bytes.advance(count.min(out.bytes.len()));
                Ok(())
            }
            Err(error) => Err(error),
        })
    }

    /// Encodes requests, up to what one write carries.
    fn fill(&self, out: &mut Out) {
        while out.bytes.len() < WRITE_BYTES {
            let Some(Outgoing { corr, request }) = self.next_out() else { return };
            let former = out.bytes.len();
            if let Err(error) = request.encode(corr, &out.codec, &mut out.bytes) {
                // Nothing of it was written, and the connection is as good as before.
                log::warn!("for {}: {error}", self.addr);
                self.deliver(std::iter::once(refused(corr, &error)));
            }
            let bytes = u64::try_from(out.bytes.len() - former).unwrap_or(u64::MAX);
            self.unheard_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Takes the next request for sent and returns it. One whose caller has gone away is never sent.
    fn next_out(&self) -> Option<Outgoing> {
        loop {
            let mut state = self.state();
            let next = state.outbox.pop_front()?;
            if next.corr == PING_CORR {
                return Some(next);
            }
            if let Some(waiting) = state.waiting.get_mut(&next.corr) {
                if waiting.answer.as_ref().is_some_and(|answer| !answer.is_canceled()) {
                    waiting.was_sent = true;
                    return Some(next);
                }
                state.waiting.remove(&next.corr);
                drop(state);
                self.leave();
            }
        }
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

/// What a node would say to a request that fits no frame.
fn refused(corr: u32, error: &FrameError) -> Frame {
    Reply::Refused(Refusal::invalid(format!("the request would be {error}"))).to_frame(corr)
}

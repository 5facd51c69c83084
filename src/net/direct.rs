//! The short way of an answer: from the Raft thread straight into its client's socket, when nothing waits before it.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use async_std::net::TcpStream;
use bytes::{Bytes, BytesMut};
use socket2::SockRef;
use tokio_util::codec::Encoder;

use crate::net::conn;
use crate::net::flights::Flights;
use crate::net::inbox::{ReplyTo, ShortWay};
use crate::net::metrics::Metrics;
use crate::replica::view::Answer;
use crate::wire::frame::{BODY_BYTES_MAX, FrameCodec};
use crate::wire::message::Reply;

/// Bytes of answers written at once, at most, as [`Reply::bytes_max`] has them; more go by the session.
const DIRECT_BYTES_MAX: usize = 16 << 10;

/// One connection as its session and the Raft thread share it: the requests in flight, and the socket. To wake the
/// session for a few small answers costs more than to write them.
///
/// - Whoever ends a request in [`Flights`] answers it, so that it is answered once.
/// - The socket is written to by one of the two at a time: by the session from [`Direct::begin_write`] to
///   [`Direct::end_write`], by the Raft thread otherwise, and a frame of which a part was written is ended by
///   the session before anything else.
#[derive(Debug)]
pub struct Direct {
    state: Mutex<State>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct State {
    flights: Flights,
    /// `None`: every answer goes by the session.
    socket: Option<TcpStream>,
    /// The session writes, or has to.
    is_busy: bool,
    /// What the socket did not take.
    rest: Bytes,
    /// The session, when it waits.
    waker: Option<Waker>,
}

/// The requests in flight, while nobody else looks at them. Not to be held for long: an answer that finds them
/// held goes by the session.
#[derive(Debug)]
pub struct Held<'a>(MutexGuard<'a, State>);

impl Deref for Held<'_> {
    type Target = Flights;

    fn deref(&self) -> &Flights {
        &self.0.flights
    }
}

impl DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut Flights {
        &mut self.0.flights
    }
}

impl Direct {
    /// Opens the short way into a connection's socket.
    #[must_use]
    pub fn new(socket: TcpStream, metrics: Arc<Metrics>) -> Self {
        let state = State { socket: Some(socket), ..State::default() };
        Self { state: Mutex::new(state), metrics }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the requests in flight.
    pub fn flights(&self) -> Held<'_> {
        Held(self.state())
    }

    /// From now on every answer goes by the session, and the socket is the session's alone.
    pub fn close(&self) {
        self.state().socket = None;
    }

    /// The session has ended: nobody is owed an answer any more. What was held for requests in flight is given back,
    /// though answers may still be on their way, each with a hand on this.
    pub fn end(&self) {
        let mut state = self.state();
        let ended = std::mem::take(&mut *state);
        drop(state);
        drop(ended);
    }

    /// Tells whether there is something to end with [`Direct::begin_write`]; if not, the session is woken when
    /// there is.
    pub fn poll_rest(&self, cx: &Context<'_>) -> bool {
        let mut state = self.state();
        if state.rest.is_empty()
            && !state.waker.as_ref().is_some_and(|old| old.will_wake(cx.waker()))
        {
            state.waker = Some(cx.waker().clone());
        }
        !state.rest.is_empty()
    }

    /// Gives the socket to the session if it has something to write, or the end of a frame is left: returns that
    /// end, which comes first, or nothing if there is nothing to do.
    pub fn begin_write(&self, has_more: bool) -> Option<Bytes> {
        let mut state = self.state();
        if !has_more && state.rest.is_empty() {
            return None;
        }
        state.is_busy = true;
        Some(std::mem::take(&mut state.rest))
    }

    /// Everything the session had to write has left.
    pub fn end_write(&self) {
        self.state().is_busy = false;
    }
}

impl ShortWay for Direct {
    fn write(&self, answers: &[(ReplyTo, Answer)]) -> bool {
        let bytes = answers.iter().try_fold(0_usize, |sum, (_, answer)| match answer {
            Answer::Reply(reply) => sum.checked_add(reply.bytes_max()),
            Answer::Image { .. } | Answer::Look(_) | Answer::Changes(_) => None,
        });
        if bytes.is_none_or(|bytes| bytes > DIRECT_BYTES_MAX) {
            return false;
        }
        let Ok(mut state) = self.state.try_lock() else { return false };
        if state.socket.is_none() || state.is_busy {
            return false;
        }
        let mut out = BytesMut::new();
        for (to, answer) in answers {
            if let Answer::Reply(reply) = answer {
                self.encode(&mut state.flights, to.corr, reply, &mut out);
            }
        }
        state.write(out);
        true
    }
}

impl Direct {
    fn encode(&self, flights: &mut Flights, number: u32, reply: &Reply, out: &mut BytesMut) {
        let Some(corr) = flights.end(number) else {
            return self.metrics.answers_late.raise();
        };
        if let Reply::Refused(refusal) = reply {
            self.metrics.refused(refusal.code);
        }
        match FrameCodec::new(BODY_BYTES_MAX).encode(reply.to_frame(corr), out) {
            Ok(()) => {
                self.metrics.frames_sent.raise();
                self.metrics.answers_direct.raise();
            }
            Err(error) => log::error!("not sent: {error}"),
        }
    }
}

impl State {
    /// Writes what the socket takes, and leaves the rest to the session.
    fn write(&mut self, out: BytesMut) {
        let Some(socket) = &self.socket else { return };
        match conn::write_now(SockRef::from(socket), out) {
            Ok(rest) if rest.is_empty() => {}
            Ok(rest) => {
                self.rest = rest;
                self.is_busy = true;
                if let Some(waker) = self.waker.take() {
                    waker.wake();
                }
            }
            // The session hears it as the end of the connection.
            Err(error) => {
                log::debug!("a connection broke under an answer: {error}");
                self.socket = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::shared::Budget;
    use crate::types::Ticks;
    use async_std::task::block_on;

    /// An answer is still on its way when the session ends: it keeps neither the bytes nor the socket.
    #[test]
    fn ended_session_holds_nothing_for_answers_that_are_still_to_come() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = block_on(TcpStream::connect(listener.local_addr().unwrap())).unwrap();
        let mut far = listener.accept().unwrap().0;
        let direct = Arc::new(Direct::new(socket, Arc::default()));
        let budget = Budget::new(10);
        let hold = budget.hold(10).expect("there is room");
        let number = direct.flights().begin(7, true, Ticks(1), hold).expect("there is room");
        direct.end();
        assert_eq!(budget.held(), 0);
        let (session, _answers) = async_std::channel::bounded(1);
        let reply = Answer::Reply(Reply::Pong);
        assert!(!direct.write(&[(ReplyTo::by(session, number), reply)]));
        assert_eq!(std::io::Read::read(&mut far, &mut [0]).unwrap(), 0, "the socket is closed");
    }
}

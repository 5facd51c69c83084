//! The Raft thread's seat: its state stays there while it waits, and whoever brings something meanwhile sits down.

use crossbeam_channel::{Receiver, Sender, bounded};

/// A turn panicked, and what it was working on is lost: the node must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Panicked;

/// The state of a thread that mostly waits: its host's. To wake a thread for one small thing costs more than the
/// thing: a visitor that finds the seat free does it on its own thread, and wakes nobody.
///
/// - One sits at a time, and owns the state. The host waits until the seat is free; a visitor never waits.
/// - A visitor overtakes nothing: while something waits for the host it goes away again. So the host must take from
///   its lanes only while it sits, and visitors whose seat is taken must then put what they bring into a lane.
/// - Once the host has sat down for the last time the seat is taken for good.
#[derive(Debug)]
pub(crate) struct Seat<T> {
    /// Holds the state while nobody sits, and nothing otherwise.
    free: Receiver<Left<T>>,
    leave: Sender<Left<T>>,
}

/// What a host leaves on its seat.
pub(crate) trait Hosted {
    /// Tells whether nothing waits for the host.
    fn is_idle(&self) -> bool;
}

/// What the last one left.
type Left<T> = Result<Box<T>, Panicked>;

impl<T> Clone for Seat<T> {
    fn clone(&self) -> Self {
        Self { free: self.free.clone(), leave: self.leave.clone() }
    }
}

impl<T: Hosted> Seat<T> {
    /// Makes a seat that nobody has left anything on: the one who makes it sits there.
    #[must_use]
    pub(crate) fn new() -> Self {
        let (leave, free) = bounded(1);
        Self { free, leave }
    }

    /// Leaves the state to the next one.
    ///
    /// # Panics
    /// If the caller did not sit there.
    pub(crate) fn leave(&self, state: Box<T>) {
        self.put(Ok(state));
    }

    /// Waits until nobody sits, and takes the state. For the host alone.
    ///
    /// # Errors
    /// A visitor panicked.
    pub(crate) fn sit(&self) -> Left<T> {
        self.free.recv().expect("the seat has both ends of its own channel")
    }

    /// Sits down for a moment and works on what was brought, if nobody sits and nothing waits for the host; otherwise
    /// gives it back.
    pub(crate) fn visit<B>(&self, brought: B, work: impl FnOnce(&mut T, B)) -> Option<B> {
        let Ok(left) = self.free.try_recv() else { return Some(brought) };
        let Ok(state) = left else {
            self.put(left);
            return Some(brought);
        };
        let mut visit = Visit { seat: self, state: Some(state) };
        match &mut visit.state {
            Some(state) if state.is_idle() => {
                work(state, brought);
                None
            }
            Some(_) | None => Some(brought),
        }
    }
}

impl<T> Seat<T> {
    fn put(&self, left: Left<T>) {
        assert!(self.leave.try_send(left).is_ok(), "two in one seat");
    }
}

/// A visitor on the seat: leaves it as it goes, and says so if it goes by a panic.
struct Visit<'a, T> {
    seat: &'a Seat<T>,
    state: Option<Box<T>>,
}

impl<T> Drop for Visit<'_, T> {
    fn drop(&mut self) {
        let state = self.state.take().filter(|_| !std::thread::panicking());
        self.seat.put(state.ok_or(Panicked));
    }
}

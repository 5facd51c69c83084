//! Bounded channels with the words of crossbeam's and async-channel's, on shuttle's mutex and condition:
//! an execution that stands still is found, and every order of calls may be tried.

use std::collections::VecDeque;
use std::fmt;

use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::{Arc, Condvar, Mutex, MutexGuard};

/// How often a wait with a deadline looks again, at most, before its time is up.
const LOOKS_MAX: u32 = 3;

struct Inner<T> {
    queue: VecDeque<T>,
    room: usize,
    senders: usize,
    receivers: usize,
}

struct Lane<T> {
    inner: Mutex<Inner<T>>,
    changed: Condvar,
}

impl<T> Lane<T> {
    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap()
    }
}

/// The end that sends.
pub(crate) struct Sender<T>(Arc<Lane<T>>);

/// The end that receives.
pub(crate) struct Receiver<T>(Arc<Lane<T>>);

/// Nobody receives any more.
#[derive(Debug)]
pub(crate) struct SendError;

/// Nobody sends any more, and nothing is left.
#[derive(Debug, thiserror::Error)]
#[error("nobody sends any more")]
pub(crate) struct RecvError;

/// Why something was not sent.
#[derive(Debug)]
pub(crate) enum TrySendError<T> {
    Full(T),
    Disconnected(T),
}

/// Why nothing was received.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TryRecvError {
    Empty,
    Disconnected,
}

/// Why nothing was received in time.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RecvTimeoutError {
    Timeout,
    Disconnected,
}

/// Makes a lane with so much room.
pub(crate) fn bounded<T>(room: usize) -> (Sender<T>, Receiver<T>) {
    let inner = Inner { queue: VecDeque::new(), room, senders: 1, receivers: 1 };
    let lane = Arc::new(Lane { inner: Mutex::new(inner), changed: Condvar::new() });
    (Sender(Arc::clone(&lane)), Receiver(lane))
}

impl<T> Sender<T> {
    pub(crate) fn send(&self, value: T) -> Result<(), SendError> {
        let mut inner = self.0.lock();
        while inner.receivers > 0 && inner.queue.len() >= inner.room {
            inner = self.0.changed.wait(inner).unwrap();
        }
        if inner.receivers == 0 {
            return Err(SendError);
        }
        inner.queue.push_back(value);
        self.0.changed.notify_all();
        Ok(())
    }

    pub(crate) fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        let mut inner = self.0.lock();
        if inner.receivers == 0 {
            return Err(TrySendError::Disconnected(value));
        }
        if inner.queue.len() >= inner.room {
            return Err(TrySendError::Full(value));
        }
        inner.queue.push_back(value);
        self.0.changed.notify_all();
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().queue.len()
    }
}

impl<T> Receiver<T> {
    pub(crate) fn recv(&self) -> Result<T, RecvError> {
        let mut inner = self.0.lock();
        loop {
            if let Some(value) = inner.queue.pop_front() {
                self.0.changed.notify_all();
                return Ok(value);
            }
            if inner.senders == 0 {
                return Err(RecvError);
            }
            inner = self.0.changed.wait(inner).unwrap();
        }
    }

    pub(crate) fn try_recv(&self) -> Result<T, TryRecvError> {
        let mut inner = self.0.lock();
        match inner.queue.pop_front() {
            Some(value) => {
                self.0.changed.notify_all();
                Ok(value)
            }
            None if inner.senders == 0 => Err(TryRecvError::Disconnected),
            None => Err(TryRecvError::Empty),
        }
    }

    /// No time passes here: the time is up when the dice say so.
    pub(crate) fn recv_timeout(&self, _limit: std::time::Duration) -> Result<T, RecvTimeoutError> {
        for _ in 0..thread_rng().gen_range(1..=LOOKS_MAX) {
            match self.try_recv() {
                Ok(value) => return Ok(value),
                Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
                Err(TryRecvError::Empty) => shuttle::thread::yield_now(),
            }
        }
        Err(RecvTimeoutError::Timeout)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().queue.is_empty()
    }

    pub(crate) fn try_iter(&self) -> impl Iterator<Item = T> {
        std::iter::from_fn(|| self.try_recv().ok())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = T> {
        std::iter::from_fn(|| self.recv().ok())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.lock().senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.lock().senders -= 1;
        self.0.changed.notify_all();
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.0.lock().receivers += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        // As crossbeam does: what nobody will receive is dropped with the last receiver.
        let left = {
            let mut inner = self.0.lock();
            inner.receivers -= 1;
            if inner.receivers > 0 {
                return;
            }
            std::mem::take(&mut inner.queue)
        };
        self.0.changed.notify_all();
        drop(left);
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sender")
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Receiver")
    }
}

impl<T> IntoIterator for Receiver<T> {
    type Item = T;
    type IntoIter = All<T>;

    fn into_iter(self) -> All<T> {
        All(self)
    }
}

impl<'a, T> IntoIterator for &'a Receiver<T> {
    type Item = T;
    type IntoIter = Each<'a, T>;

    fn into_iter(self) -> Each<'a, T> {
        Each(self)
    }
}

/// All that comes, until nobody sends any more.
pub(crate) struct All<T>(Receiver<T>);

impl<T> Iterator for All<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.0.recv().ok()
    }
}

/// The same, borrowed.
pub(crate) struct Each<'a, T>(&'a Receiver<T>);

impl<T> Iterator for Each<'_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.0.recv().ok()
    }
}

/// The sending end as async-channel names it.
pub(crate) mod channel {
    use super::TrySendError;

    /// A sender whose refusal can be asked whether the lane is closed.
    #[derive(Debug)]
    pub(crate) struct Sender<T>(pub(crate) super::Sender<T>);

    impl<T> Clone for Sender<T> {
        fn clone(&self) -> Self {
            Self(self.0.clone())
        }
    }

    impl<T> Sender<T> {
        pub(crate) fn try_send(&self, value: T) -> Result<(), Refused> {
            self.0.try_send(value).map_err(|error| match error {
                TrySendError::Full(_) => Refused { is_closed: false },
                TrySendError::Disconnected(_) => Refused { is_closed: true },
            })
        }
    }

    /// A refusal.
    #[derive(Debug)]
    pub(crate) struct Refused {
        is_closed: bool,
    }

    impl Refused {
        pub(crate) fn is_closed(&self) -> bool {
            self.is_closed
        }
    }
}

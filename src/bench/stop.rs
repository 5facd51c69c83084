//! The word to end a measurement early, from a signal.

use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Why a measurement that was told to stop has no figures.
const STOPPED: &str = "it was told to stop";

/// Raised once, by a signal. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// The signal's number; 0 before it comes.
    signal: AtomicI32,
    gate: Mutex<()>,
    raised: Condvar,
}

impl Stop {
    /// Tells everybody to stop. Of several signals the first counts.
    pub fn raise(&self, signal: i32) {
        let gate = self.0.gate.lock().unwrap_or_else(PoisonError::into_inner);
        if self.signal().is_none() {
            self.0.signal.store(signal, Ordering::Relaxed);
        }
        drop(gate);
        self.0.raised.notify_all();
    }

    /// Returns the signal that came, if one did.
    #[must_use]
    pub fn signal(&self) -> Option<i32> {
        Some(self.0.signal.load(Ordering::Relaxed)).filter(|signal| *signal != 0)
    }

    /// Tells whether to go on.
    ///
    /// # Errors
    /// It was raised.
    pub fn check(&self) -> Result<(), String> {
        self.signal().map_or(Ok(()), |_| Err(STOPPED.into()))
    }

    /// Sleeps.
    ///
    /// # Errors
    /// It was raised, before or meanwhile.
    pub fn sleep(&self, time: Duration) -> Result<(), String> {
        let gate = self.0.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let sleeps = |_: &mut ()| self.signal().is_none();
        drop(self.0.raised.wait_timeout_while(gate, time, sleeps));
        self.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_signal_counts_and_ends_a_sleep() {
        let stop = Stop::default();
        assert_eq!(stop.sleep(Duration::ZERO), Ok(()));
        let other = stop.clone();
        let sleeper = std::thread::Builder::new().spawn(move || other.sleep(Duration::MAX));
        stop.raise(15);
        stop.raise(2);
        assert_eq!(sleeper.unwrap().join().unwrap(), Err(STOPPED.into()));
        assert_eq!(stop.signal(), Some(15));
    }
}

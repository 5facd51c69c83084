//! The one clock that a node and its guard both read, so that a deadline means the same to both.

use std::time::Duration;

use rustix::time::{ClockId, DynamicClockId, clock_gettime, clock_gettime_dynamic};
use serde::{Deserialize, Serialize};

/// A moment on this machine's clock since boot, in milliseconds.
///
/// The clock is shared by all processes and goes on while the machine sleeps. That is why a lease
/// travels as the moment of its end and not as time left: a process that is frozen between
/// computing and sending would otherwise send time that is long over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(pub u64);

impl Moment {
    /// Reads the clock.
    #[must_use]
    pub fn now() -> Self {
        // A kernel without `CLOCK_BOOTTIME` (before 2.6.39) gives both processes the other clock.
        let time = clock_gettime_dynamic(DynamicClockId::Boottime)
            .unwrap_or_else(|_| clock_gettime(ClockId::Monotonic));
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
        Self(seconds * 1000 + nanos / 1_000_000)
    }

    /// Returns the moment `span` after this one.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }

    /// Returns the time from `earlier` to this one; zero if it is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moment_read_twice_does_not_go_back() {
        let first = Moment::now();
        assert!(first.0 > 0);
        assert!(Moment::now() >= first);
        assert_eq!(first.after(Duration::from_secs(3)).since(first), Duration::from_secs(3));
        assert_eq!(first.since(first.after(Duration::from_secs(3))), Duration::ZERO);
    }
}

//! A moment on the client's own clock, as a value: what decides reads no clock.

use std::time::Duration;

/// Milliseconds on a monotonic clock, from an arbitrary beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Moment {
    /// Returns the moment `span` after this one; what is too far away is the end of time.
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
    fn moment_before_another_is_no_time_after_it() {
        let later = Moment(5).after(Duration::from_secs(1));
        assert_eq!(later, Moment(1005));
        assert_eq!(later.since(Moment(5)), Duration::from_secs(1));
        assert_eq!(Moment(5).since(later), Duration::ZERO);
        assert_eq!(Moment(5).after(Duration::MAX), Moment(u64::MAX));
    }
}

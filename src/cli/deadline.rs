//! The time that a verb may still take.

use std::time::Duration;

use crate::node::clock;

/// A moment at which a verb gives up, or none.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Option<Duration>);

impl Deadline {
    /// Starts counting now; without a limit it never comes.
    #[must_use]
    pub fn after(limit: Option<Duration>) -> Self {
        Self(limit.map(|limit| clock::monotonic().saturating_add(limit)))
    }

    /// Returns what is left: `None` without a limit, zero once it has passed.
    #[must_use]
    pub fn left(self) -> Option<Duration> {
        self.0.map(|end| end.saturating_sub(clock::monotonic()))
    }

    /// Tells whether it has passed.
    #[must_use]
    pub fn has_passed(self) -> bool {
        self.left() == Some(Duration::ZERO)
    }

    /// Returns the shorter of what is left and `step`.
    #[must_use]
    pub fn left_at_most(self, step: Duration) -> Duration {
        self.left().map_or(step, |left| left.min(step))
    }
}

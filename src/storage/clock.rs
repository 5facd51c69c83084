//! The disk's stopwatch: how long a sync, or a write of zeroes, took.

use std::time::{Duration, Instant};

/// Runs something and returns how long it took.
#[expect(
    clippy::disallowed_methods,
    reason = "syncs are measured; only how long zeroing rests is decided by it"
)]
pub(super) fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    let value = work();
    (value, began.elapsed())
}

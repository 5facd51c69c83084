//! The one clock room of a node: monotonic ticks and the wall clock.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::types::{Millis, TICK_MS, Ticks};

static START: OnceLock<Instant> = OnceLock::new();

/// Returns the monotonic time since the first call in this process, in whole ticks of 10 ms.
#[must_use]
pub fn ticks() -> Ticks {
    let elapsed = monotonic().as_millis() / u128::from(TICK_MS);
    Ticks(u64::try_from(elapsed).unwrap_or(u64::MAX))
}

/// Returns the monotonic time since the first call in this process.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the node's clock room")]
pub fn monotonic() -> Duration {
    START.get_or_init(Instant::now).elapsed()
}

/// Returns the wall clock; 0 before 1970.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the node's clock room")]
pub fn wall() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

//! The one clock room of a node: monotonic ticks and the wall clock.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

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

/// Returns how long the calling thread has been at work: what it waited for a core is not counted.
#[must_use]
pub fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// Returns the wall clock; 0 before 1970.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the node's clock room")]
pub fn wall() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

//! The one clock room of the client library: monotonic milliseconds, and the wall clock for job ids.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::types::{JobId, Millis};

static START: OnceLock<Instant> = OnceLock::new();

/// Returns the monotonic milliseconds since the first call in this process.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the client's clock room")]
pub fn now_ms() -> u64 {
    whole_ms(START.get_or_init(Instant::now).elapsed())
}

/// Makes a job id from the wall clock and 80 random bits (`wire-spec.md` §16).
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the client's clock room")]
pub fn new_job_id() -> JobId {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    JobId::new(Millis(whole_ms(since)), fastrand::u128(..))
}

/// Returns a duration in whole milliseconds; one that no `u64` holds is for ever.
#[must_use]
pub fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

//! The one clock room of the client library: a monotonic clock, and the wall clock for job ids.

use std::future::Future;
use std::sync::OnceLock;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_std::future::timeout;
use async_std::task;

use crate::client::moment::Moment;
use crate::types::Millis;

static START: OnceLock<Instant> = OnceLock::new();

/// Reads the monotonic clock. It stands still while the machine sleeps.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the client's clock room")]
pub(crate) fn now() -> Moment {
    let elapsed = START.get_or_init(Instant::now).elapsed();
    Moment(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}

/// Counts whole milliseconds, at least one of what is not nothing.
#[must_use]
pub(crate) fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// Reads the wall clock; 0 before 1970.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the client's clock room")]
pub(crate) fn wall() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Waits until a moment.
pub(crate) async fn sleep_until(moment: Moment) {
    task::sleep(moment.since(now())).await;
}

/// Waits for something, but not beyond a moment. What is ready at once costs no timer.
pub(crate) async fn within<T>(until: Moment, what: impl Future<Output = T>) -> Option<T> {
    let mut what = std::pin::pin!(what);
    if let Poll::Ready(done) = futures::poll!(what.as_mut()) {
        return Some(done);
    }
    timeout(until.since(now()), what).await.ok()
}

//! A call to the leader that is made again and again, one at a time, with growing pauses after failures.

use std::time::Duration;

use crate::worker::clock::Moment;

/// How long after a first failure a call is made again; it doubles with each further one.
const RETRY_MIN: Duration = Duration::from_millis(50);

/// A call that is made again and again, one at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) in_flight: bool,
    due: Moment,
    failures: u32,
}

impl Call {
    /// Is to be made at `due` for the first time.
    pub(super) fn due_at(due: Moment) -> Self {
        Self { in_flight: false, due, failures: 0 }
    }

    /// Tells whether to make it now, and takes it for made.
    pub(super) fn begin(&mut self, now: Moment) -> bool {
        let ready = !self.in_flight && self.due <= now;
        self.in_flight |= ready;
        ready
    }

    /// Was answered; is to be made again at `due`.
    pub(super) fn succeeded(&mut self, due: Moment) {
        *self = Self::due_at(due);
    }

    /// Was not answered; is to be made again after a pause of at most `retry_max`.
    pub(super) fn failed(&mut self, now: Moment, retry_max: Duration, rng: &mut fastrand::Rng) {
        self.in_flight = false;
        self.due = now.after(backoff(self.failures, retry_max, rng));
        self.failures = self.failures.saturating_add(1);
    }

    /// Is to be made no later than `due`, if none is on its way.
    pub(super) fn hurry(&mut self, due: Moment) {
        self.due = self.due.min(due);
    }

    /// Returns when to look at it again; `None` while one is on its way.
    pub(super) fn wake_at(&self) -> Option<Moment> {
        if self.in_flight { None } else { Some(self.due) }
    }
}

/// Doubles from [`RETRY_MIN`] to `max`, and takes between half and all of that.
pub(super) fn backoff(failures: u32, max: Duration, rng: &mut fastrand::Rng) -> Duration {
    let span = RETRY_MIN.saturating_mul(1 << failures.min(10)).min(max);
    span.mul_f64(0.5 + rng.f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn call_is_made_once_at_a_time_and_later_after_each_failure() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut call = Call::due_at(Moment(100));
        assert!(!call.begin(Moment(99)));
        assert!(call.begin(Moment(100)));
        assert!(!call.begin(Moment(500)), "one is on its way");
        let max = Duration::from_secs(1);
        let mut pauses = Vec::new();
        for _ in 0..12 {
            call.failed(Moment(1000), max, &mut rng);
            pauses.push(call.wake_at().unwrap().since(Moment(1000)).as_millis());
        }
        assert!((25..=50).contains(&pauses[0]), "{pauses:?}");
        assert!(pauses[6..].iter().all(|pause| (500..=1000).contains(pause)), "{pauses:?}");
        call.succeeded(Moment(3000));
        assert_eq!(call.wake_at(), Some(Moment(3000)));
        call.hurry(Moment(2000));
        assert!(call.begin(Moment(2000)));
    }
}

//! What users can decide about a queue: to pause it, to drain it, and how much of it runs.

use serde::{Deserialize, Serialize};

use crate::jobs::options::DURATION_MS_MAX;

/// The running limit of a queue, at most.
pub const LIMIT_MAX: u32 = 1 << 24;

/// Starts of a rate, at most.
pub const RATE_COUNT_MAX: u32 = 1_000_000;

/// How many jobs of a queue may be begun in a time. The starts are spread evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// So many, 1 or more, at most [`RATE_COUNT_MAX`].
    pub count: u32,
    /// In so many milliseconds, 1 or more.
    pub per_ms: u64,
}

impl Rate {
    /// Says why this is no rate.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        if !(1..=RATE_COUNT_MAX).contains(&self.count) {
            return Some(format!("a rate of {} jobs; 1 to {RATE_COUNT_MAX}", self.count));
        }
        let is_time = (1..=DURATION_MS_MAX).contains(&self.per_ms);
        (!is_time).then(|| "a rate over no time, or over more than ten years".into())
    }

    /// Returns the time from one start to the next, in microseconds, 1 or more.
    #[cfg(feature = "server")]
    pub(in crate::jobs) fn interval_us(self) -> u64 {
        (self.per_ms.saturating_mul(1000) / u64::from(self.count.max(1))).max(1)
    }
}

/// A change of a queue's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueChange {
    /// Give out no more jobs; those that run go on.
    Pause,
    /// Give out jobs, and take new ones: the end of a pause and of a drain.
    Resume,
    /// Take no new jobs; those that are there are done.
    Drain,
    /// Let so many jobs run at once; `None`: as many as there are slots.
    Limit(Option<u32>),
    /// Let so many jobs begin in a time; `None`: as many as can.
    Rate(Option<Rate>),
}

impl QueueChange {
    /// Says what is out of bounds, in words for the one who asked.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        match self {
            Self::Limit(Some(limit)) if *limit == 0 || *limit > LIMIT_MAX => {
                Some(format!("a limit of {limit}; 1 to {LIMIT_MAX} (to stop a queue, pause it)"))
            }
            Self::Rate(Some(rate)) => rate.fault(),
            Self::Pause | Self::Resume | Self::Drain | Self::Limit(_) | Self::Rate(None) => None,
        }
    }
}

/// Writes a length of time as people do, in the largest unit that says it exactly.
#[must_use]
pub fn in_words(ms: u64) -> String {
    const UNITS: [(u64, &str); 4] =
        [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
    let unit = UNITS.into_iter().find(|(unit, _)| ms >= *unit && ms.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{ms}ms"), |(unit, name)| format!("{}{name}", ms / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_the_largest_unit_that_says_them() {
        let words = [90_000, 60_000, 1500, 7_200_000, 86_400_000, 0].map(in_words);
        assert_eq!(words, ["90s", "1m", "1500ms", "2h", "1d", "0ms"]);
    }
}

//! The clock of the log: the time a leader stamps into entries, right even when one clock is not.

use std::collections::BTreeMap;

use crate::types::{Millis, NodeId, TICK_MS, Ticks};

/// How old a peer's clock reading may be and still count, in ticks.
const READING_AGE_MAX: u64 = 500;

/// The stamp of a leader. It never goes back; it steps forward to the median clock of a majority when
/// that is ahead, and runs at half speed while that is behind, so that one wrong clock neither fires
/// nor freezes anything.
#[derive(Debug)]
pub struct LogClock {
    /// The last stamp given or seen.
    stamp: Millis,
    /// When that was.
    at: Ticks,
    /// Half milliseconds not yet counted, from running at half speed.
    half: u64,
    /// Each peer's wall clock, and when it was read.
    readings: BTreeMap<NodeId, (Millis, Ticks)>,
}

impl LogClock {
    /// Starts at the time the machine has.
    #[must_use]
    pub fn new(stamp: Millis, now: Ticks) -> Self {
        Self { stamp, at: now, half: 0, readings: BTreeMap::new() }
    }

    /// Notes a peer's wall clock.
    pub fn read(&mut self, peer: NodeId, wall: Millis, now: Ticks) {
        self.readings.insert(peer, (wall, now));
    }

    /// Notes a stamp of the log made by whoever leads.
    pub fn observe(&mut self, stamp: Millis, now: Ticks) {
        if stamp > self.stamp {
            self.stamp = stamp;
            self.at = now;
            self.half = 0;
        }
    }

    /// Returns the stamp for an entry proposed now by the leader of `voters` nodes.
    pub fn stamp(&mut self, wall: Millis, now: Ticks, voters: usize) -> Millis {
        (self.stamp, self.half) = self.next(wall, now, voters);
        self.at = now;
        self.stamp
    }

    /// Returns the stamp that an entry proposed now would get.
    #[must_use]
    pub fn peek(&self, wall: Millis, now: Ticks, voters: usize) -> Millis {
        self.next(wall, now, voters).0
    }

    /// Works out the next stamp, and what is left of running at half speed.
    fn next(&self, wall: Millis, now: Ticks, voters: usize) -> (Millis, u64) {
        let elapsed = now.0.saturating_sub(self.at.0) * TICK_MS;
        let steady = Millis(self.stamp.0 + elapsed);
        match self.median(wall, now, voters) {
            None => (steady, self.half),
            Some(median) if median >= steady => (median, 0),
            Some(median) => {
                let halves = elapsed + self.half;
                // Never past the median from behind: at most what full speed would have given.
                let stamp = Millis(self.stamp.0 + halves / 2).max(median.min(steady));
                (stamp, halves % 2)
            }
        }
    }

    /// The lower median of the clocks known, if they are a majority's. The lower one, because with two
    /// clocks of three a wrong one ahead would be a leap, and a wrong one behind only slows the log.
    fn median(&self, wall: Millis, now: Ticks, voters: usize) -> Option<Millis> {
        let mut clocks: Vec<u64> = self
            .readings
            .values()
            .filter(|(_, read)| now.0.saturating_sub(read.0) <= READING_AGE_MAX)
            .map(|(clock, read)| clock.0 + now.0.saturating_sub(read.0) * TICK_MS)
            .collect();
        clocks.push(wall.0);
        if clocks.len() * 2 <= voters {
            return None;
        }
        clocks.sort_unstable();
        clocks.get((clocks.len() - 1) / 2).copied().map(Millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    fn clock_with(readings: &[u64]) -> LogClock {
        let mut clock = LogClock::new(Millis(0), Ticks(0));
        for (peer, wall) in readings.iter().enumerate() {
            clock.read(NodeId(peer as u64 + 2), Millis(*wall), Ticks(0));
        }
        clock
    }

    #[test]
    fn one_clock_an_hour_ahead_moves_nothing() {
        let mut clock = clock_with(&[HOUR * 10, HOUR * 10 + 5]);
        assert_eq!(clock.stamp(Millis(HOUR * 11), Ticks(0), 3), Millis(HOUR * 10 + 5));
    }

    #[test]
    fn one_clock_an_hour_behind_freezes_nothing() {
        let mut clock = clock_with(&[HOUR * 10, HOUR * 9]);
        assert_eq!(clock.stamp(Millis(HOUR * 10), Ticks(0), 3), Millis(HOUR * 10));
        assert_eq!(clock.stamp(Millis(HOUR * 10 + 1000), Ticks(100), 3), Millis(HOUR * 10 + 1000));
    }

    #[test]
    fn two_clocks_of_three_take_the_lower() {
        let mut clock = clock_with(&[HOUR * 10]);
        assert_eq!(clock.stamp(Millis(HOUR * 11), Ticks(0), 3), Millis(HOUR * 10));
    }

    #[test]
    fn without_a_majority_of_clocks_time_goes_on_by_itself() {
        let mut clock = clock_with(&[]);
        clock.observe(Millis(500), Ticks(0));
        assert_eq!(clock.stamp(Millis(HOUR), Ticks(10), 3), Millis(600));
    }

    #[test]
    fn a_log_that_is_ahead_runs_at_half_speed_and_never_back() {
        let mut clock = clock_with(&[1000, 1000]);
        clock.observe(Millis(5000), Ticks(0));
        let first = clock.stamp(Millis(1000), Ticks(0), 3);
        assert_eq!(first, Millis(5000));
        assert_eq!(clock.stamp(Millis(2000), Ticks(100), 3), Millis(5500));
        let mut last = Millis(5500);
        for tick in 101..2000 {
            let stamp = clock.stamp(Millis(1000 + tick * TICK_MS), Ticks(tick), 3);
            assert!(stamp >= last);
            last = stamp;
        }
        assert!(last >= Millis(1000 + 1998 * TICK_MS), "the wall clock was met again: {last}");
    }
}

//! The requests of one connection that wait for their answer, and when each gives up waiting.

use std::collections::{BTreeMap, BTreeSet};

use crate::net::shared::Hold;
use crate::types::Ticks;
use crate::wire::hello;

/// Requests in flight on one connection, as the handshake announces it; one more is refused with
/// `RESOURCE_EXHAUSTED` at once.
pub const IN_FLIGHT_MAX: usize = hello::IN_FLIGHT_MAX as usize;

/// The requests in flight. Inside the node each goes by a number of our own, given out in order, so
/// that an answer that comes after its request was given up is never taken for the answer to a later
/// one that reuses the client's number.
///
/// - Every request begun is ended exactly once: by its answer, or by its deadline.
/// - `open` and `deadlines` hold the same requests.
#[derive(Debug, Default)]
pub struct Flights {
    next: u32,
    open: BTreeMap<u32, Flight>,
    deadlines: BTreeSet<(Ticks, u32)>,
}

#[derive(Debug)]
struct Flight {
    corr: u32,
    deadline: Ticks,
    /// It would change something: given up, its outcome is unknown.
    is_change: bool,
    /// Its bytes, given back when it ends.
    _hold: Hold,
}

impl Flights {
    /// Begins a request that the client calls `corr`; returns our number for it, or `None` when too
    /// many are in flight.
    pub fn begin(
        &mut self,
        corr: u32,
        is_change: bool,
        deadline: Ticks,
        hold: Hold,
    ) -> Option<u32> {
        if self.open.len() >= IN_FLIGHT_MAX {
            return None;
        }
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.open.insert(number, Flight { corr, deadline, is_change, _hold: hold });
        self.deadlines.insert((deadline, number));
        Some(number)
    }

    /// Ends a request by its answer; returns the client's number, or `None` if it was given up.
    pub fn end(&mut self, number: u32) -> Option<u32> {
        self.remove(number).map(|flight| flight.corr)
    }

    fn remove(&mut self, number: u32) -> Option<Flight> {
        let flight = self.open.remove(&number)?;
        self.deadlines.remove(&(flight.deadline, number));
        Some(flight)
    }

    /// Tells whether a request still waits for its answer.
    #[must_use]
    pub fn has(&self, number: u32) -> bool {
        self.open.contains_key(&number)
    }

    /// Ends one request whose deadline has come; returns the client's number, and whether it would
    /// have changed something.
    pub fn expire(&mut self, now: Ticks) -> Option<(u32, bool)> {
        let (deadline, number) = *self.deadlines.first()?;
        if deadline > now {
            return None;
        }
        self.remove(number).map(|flight| (flight.corr, flight.is_change))
    }

    /// Returns the next deadline.
    #[must_use]
    pub fn deadline(&self) -> Option<Ticks> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Tells whether none is in flight.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Returns how many are in flight.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::shared::Budget;

    #[test]
    fn each_request_ends_once_and_gives_its_bytes_back() {
        let budget = Budget::new(10);
        let hold = || budget.hold(5).expect("there is room");
        let mut flights = Flights::default();
        let first = flights.begin(7, true, Ticks(10), hold()).expect("there is room");
        let second = flights.begin(7, false, Ticks(5), hold()).expect("there is room");
        assert!(budget.hold(1).is_none(), "all ten bytes are held");
        assert_eq!(flights.deadline(), Some(Ticks(5)));
        assert_eq!(flights.expire(Ticks(4)), None);
        assert_eq!(flights.expire(Ticks(6)), Some((7, false)));
        assert_eq!(flights.end(second), None, "it was given up");
        assert_eq!(flights.end(first), Some(7));
        assert_eq!(flights.end(first), None);
        assert!(flights.is_empty());
        assert_eq!(flights.deadline(), None);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn one_more_than_the_most_is_refused() {
        let budget = Budget::new(0);
        let mut flights = Flights::default();
        let mut begin =
            || flights.begin(1, true, Ticks(1), budget.hold(0).expect("nothing always fits"));
        assert!((0..IN_FLIGHT_MAX).all(|_| begin().is_some()));
        assert_eq!(begin(), None);
        assert_eq!(flights.len(), IN_FLIGHT_MAX);
    }
}

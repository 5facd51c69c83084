//! The slots of a cron: from one instant to the next at which it fires, by the clock of its time zone.
//!
//! Only the leader works out slots, and puts them into the log: no replica needs the table of zones to follow it.
//! The table is the one built into the program, so that nodes of one version agree, whatever their machines have.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, ToSpan};

use crate::jobs::cron_spec::{Fields, Spec};
use crate::types::Millis;

/// How far ahead a slot is looked for: a 29 February that is a Sunday comes once in 40 years at worst.
const YEARS_MAX: i16 = 41;

/// Changes of a zone's offset that one search steps over, at most. There are two or so a year.
const CHANGES_MAX: usize = 512;

/// Slots within one hour that a clock shows twice, and a few more: what one search steps over, at most.
const REPEATED_MAX: usize = 3 * 3600;

/// The time zones that there are.
#[derive(Clone, Debug)]
pub struct Zones {
    table: TimeZoneDatabase,
}

impl Zones {
    /// Takes the table that is built into the program.
    #[must_use]
    pub fn built_in() -> Self {
        Self { table: TimeZoneDatabase::bundled() }
    }

    /// Returns the zone of a name, if there is one.
    #[must_use]
    pub fn zone(&self, name: &str) -> Option<TimeZone> {
        self.table.get(name).ok()
    }
}

/// Returns the first slot after `after`, of a cron that had one at `slot` (or was added or resumed then); `None` if
/// none comes any more.
///
/// A time that the clock does not show, because it is put forward over it, is the first instant after that. A time that
/// it shows twice, because it is put back, counts once, the first time; but a cron of every hour, or of every so many
/// of them, goes on through both.
#[must_use]
pub fn following(spec: &Spec, zone: &TimeZone, slot: Millis, after: Millis) -> Option<Millis> {
    match spec {
        Spec::Every(every) => {
            let gone = after.0.checked_sub(slot.0).map_or(0, |gone| gone / every);
            Some(Millis(slot.0.checked_add(every.checked_mul(gone.checked_add(1)?)?)?))
        }
        Spec::Fields(fields) => {
            let after = Timestamp::from_millisecond(i64::try_from(after.0).ok()?).ok()?;
            let next = match fields.each_hour {
                true => by_hours(fields, zone, after),
                false => by_clock(fields, zone, after),
            };
            u64::try_from(next?.as_millisecond()).ok().map(Millis)
        }
    }
}

/// Each time on the clock is one instant.
fn by_clock(fields: &Fields, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
    // What is later on the clock is no earlier in time, once every time on it is one instant. Where the clock was just
    // put back, those before `after` are stepped over.
    let mut shown = zone.to_datetime(after);
    for _ in 0..REPEATED_MAX {
        shown = next_shown(fields, shown)?;
        let at = instant(zone, shown)?;
        if at > after {
            return Some(at);
        }
    }
    None
}

/// Returns when a clock shows this: the first of two times, or the first instant after a gap.
fn instant(zone: &TimeZone, shown: DateTime) -> Option<Timestamp> {
    match zone.to_ambiguous_timestamp(shown).offset() {
        AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(shown).ok(),
        AmbiguousOffset::Fold { before, .. } => before.to_timestamp(shown).ok(),
        AmbiguousOffset::Gap { after, .. } => {
            // By the new offset it would be before the change.
            let before = after.to_timestamp(shown).ok()?;
            zone.following(before).next().map(|change| change.timestamp())
        }
    }
}

/// Each instant at which the clock shows it, twice or not.
fn by_hours(fields: &Fields, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
    let mut from = after;
    let mut shown = zone.to_datetime(after);
    for _ in 0..CHANGES_MAX {
        let offset = zone.to_offset(from);
        let change = zone.following(from).next().map(|change| change.timestamp());
        let next = next_shown(fields, shown).and_then(|at| offset.to_timestamp(at).ok());
        match (next, change) {
            (Some(next), Some(change)) if next >= change => {
                // The clock is changed before it shows that: on with what it shows from then on.
                from = change;
                shown = zone.to_datetime(change).checked_sub(1.millisecond()).ok()?;
            }
            (next, _) => return next,
        }
    }
    None
}

/// Returns the first time after `shown` that the fields name, on a clock that is never changed.
fn next_shown(fields: &Fields, shown: DateTime) -> Option<DateTime> {
    let today = shown.date();
    if has_date(fields, today)
        && let Some(time) = next_time(fields, Some(shown.time()))
    {
        return Some(DateTime::from_parts(today, time));
    }
    let last = today.year().checked_add(YEARS_MAX)?;
    let mut date = today.tomorrow().ok()?;
    while date.year() <= last {
        if has_date(fields, date) {
            return Some(DateTime::from_parts(date, next_time(fields, None)?));
        }
        let has_month = fields.months >> date.month() & 1 == 1;
        let next = if has_month { date.tomorrow() } else { date.last_of_month().tomorrow() };
        date = next.ok()?;
    }
    None
}

fn has_date(fields: &Fields, date: Date) -> bool {
    let part = |value: i8| u8::try_from(value).unwrap_or_default();
    let weekday = date.weekday().to_sunday_zero_offset();
    fields.has_day(part(date.month()), part(date.day()), part(weekday))
}

/// Returns the first time of day after this one that the fields name; the first of all without one.
fn next_time(fields: &Fields, after: Option<Time>) -> Option<Time> {
    let lowest = |bits: u64, from: u32| {
        let bits = bits.checked_shr(from).unwrap_or_default();
        (bits != 0).then(|| from + bits.trailing_zeros())
    };
    let (hour, minute, second) = match after {
        None => (0, 0, 0),
        Some(time) => {
            let part = |value: i8| u32::try_from(value).unwrap_or_default();
            (part(time.hour()), part(time.minute()), part(time.second()) + 1)
        }
    };
    let found = lowest(fields.hours, hour).and_then(|found| {
        let first = (found > hour).then_some((found, 0, 0));
        let (at, minute, second) = first.unwrap_or((hour, minute, second));
        let within = lowest(fields.minutes, minute).and_then(|found| {
            let from = if found > minute { 0 } else { second };
            match lowest(fields.seconds, from) {
                Some(second) => Some((found, second)),
                None => Some((lowest(fields.minutes, found + 1)?, lowest(fields.seconds, 0)?)),
            }
        });
        match within {
            Some((minute, second)) => Some((at, minute, second)),
            None => {
                let at = lowest(fields.hours, at + 1)?;
                Some((at, lowest(fields.minutes, 0)?, lowest(fields.seconds, 0)?))
            }
        }
    });
    let (hour, minute, second) = found?;
    let part = |value: u32| i8::try_from(value).unwrap_or_default();
    Time::new(part(hour), part(minute), part(second), 0).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(name: &str) -> TimeZone {
        Zones::built_in().zone(name).unwrap()
    }

    fn ms(text: &str) -> Millis {
        let at: Timestamp = text.parse().unwrap();
        Millis(u64::try_from(at.as_millisecond()).unwrap())
    }

    /// Writes the next slots after a time, as the clock of the zone shows them, with its offset.
    fn slots(spec: &str, name: &str, after: &str, count: usize) -> Vec<String> {
        let (spec, zone) = (Spec::parse(spec).unwrap(), zone(name));
        let mut slots = Vec::new();
        let mut at = ms(after);
        while slots.len() < count {
            let Some(next) = following(&spec, &zone, at, at) else { break };
            assert!(next > at, "{next} is not after {at}");
            at = next;
            let stamp = Timestamp::from_millisecond(i64::try_from(at.0).unwrap()).unwrap();
            slots.push(stamp.to_zoned(zone.clone()).strftime("%m-%d %H:%M:%S%z").to_string());
        }
        slots
    }

    #[test]
    fn slots_follow_each_other() {
        let after = "2026-11-27T09:30:00Z";
        let of =
            |spec: &str, count| slots(spec, "UTC", after, count).join(", ").replace("+0000", "");
        assert_eq!(of("30 9 * * *", 2), "11-28 09:30:00, 11-29 09:30:00");
        assert_eq!(of("31 9 * * *", 1), "11-27 09:31:00");
        assert_eq!(
            of("*/20 9,11 * * *", 4),
            "11-27 09:40:00, 11-27 11:00:00, 11-27 11:20:00, 11-27 11:40:00"
        );
        assert_eq!(of("10,40 30 9 * * *", 3), "11-27 09:30:10, 11-27 09:30:40, 11-28 09:30:10");
        assert_eq!(of("* * * * * *", 2), "11-27 09:30:01, 11-27 09:30:02");
        assert_eq!(of("0 0 1 1 *", 2), "01-01 00:00:00, 01-01 00:00:00");
        assert_eq!(of("59 23 31 12 *", 1), "12-31 23:59:00");
        assert_eq!(of("0 12 29 2 *", 1), "02-29 12:00:00");
        assert_eq!(of("0 0 29 2 */7", 1), "02-29 00:00:00", "the next one that is a Sunday: 2032");
        assert_eq!(of("@every 90s", 2), "11-27 09:31:30, 11-27 09:33:00");
        assert_eq!(of("0 0 * * mon-fri", 3), "11-30 00:00:00, 12-01 00:00:00, 12-02 00:00:00");
    }

    #[test]
    fn of_two_day_fields_either_will_do_and_with_a_star_both_must() {
        let after = "2026-11-27T00:00:00Z"; // a Friday
        let of = |spec: &str| slots(spec, "UTC", after, 4).join(", ").replace(" 00:00:00+0000", "");
        assert_eq!(of("0 0 13,30 * fri"), "11-30, 12-04, 12-11, 12-13");
        assert_eq!(of("0 0 */2 * fri"), "12-11, 12-25, 01-01, 01-15");
        assert_eq!(of("0 0 13 * *"), "12-13, 01-13, 02-13, 03-13");
    }

    #[test]
    fn time_that_is_skipped_comes_once_at_the_end_of_the_gap() {
        let of = |spec: &str, count| {
            slots(spec, "Europe/Berlin", "2027-03-27T12:00:00Z", count).join(", ")
        };
        assert_eq!(of("30 2 * * *", 2), "03-28 03:00:00+0200, 03-29 02:30:00+0200");
        assert_eq!(of("0,15,30 2 * * *", 2), "03-28 03:00:00+0200, 03-29 02:00:00+0200");
        assert_eq!(of("0 2,3 * * *", 2), "03-28 03:00:00+0200, 03-29 02:00:00+0200");
        let ends = slots("0 0 * * *", "Africa/Cairo", "2027-04-29T12:00:00Z", 2).join(", ");
        assert_eq!(ends, "04-30 01:00:00+0300, 05-01 00:00:00+0300");
        assert_eq!(
            of("30 */1 28 * *", 4),
            "03-28 00:30:00+0100, 03-28 01:30:00+0100, 03-28 03:30:00+0200, 03-28 04:30:00+0200"
        );
    }

    #[test]
    fn time_that_comes_twice_counts_once_and_each_hour_goes_through_both() {
        let of = |spec: &str, count| {
            slots(spec, "Europe/Berlin", "2026-10-24T12:00:00Z", count).join(", ")
        };
        assert_eq!(of("30 2 * * *", 2), "10-25 02:30:00+0200, 10-26 02:30:00+0100");
        assert_eq!(
            of("0,30 2,3 25 * *", 4),
            "10-25 02:00:00+0200, 10-25 02:30:00+0200, 10-25 03:00:00+0100, 10-25 03:30:00+0100"
        );
        assert_eq!(
            of("0 * 25 * *", 5),
            "10-25 00:00:00+0200, 10-25 01:00:00+0200, 10-25 02:00:00+0200, 10-25 02:00:00+0100, 10-25 03:00:00+0100"
        );
        // Asked in the middle of the hour that comes a second time: it was, and is not again.
        let second = slots("45 2 * * *", "Europe/Berlin", "2026-10-25T01:10:00Z", 1).join("");
        assert_eq!(second, "10-26 02:45:00+0100");
    }

    #[test]
    fn every_so_often_keeps_its_beat_when_slots_are_left_out() {
        let spec = Spec::parse("@every 7s").unwrap();
        let next = |slot, after| following(&spec, &TimeZone::UTC, Millis(slot), Millis(after));
        assert_eq!(next(1000, 1000), Some(Millis(8000)));
        assert_eq!(next(1000, 8000), Some(Millis(15_000)));
        assert_eq!(next(1000, 100_000), Some(Millis(106_000)));
        assert_eq!(next(9000, 1000), Some(Millis(16_000)), "never at or before the slot that was");
        assert_eq!(next(u64::MAX - 5, u64::MAX - 5), None);
    }

    #[test]
    fn zones_are_known_by_name_and_the_rest_is_not() {
        let zones = Zones::built_in();
        for name in ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu"] {
            assert!(zones.zone(name).is_some(), "{name}");
        }
        assert!(zones.zone("Europe/Atlantis").is_none() && zones.zone("").is_none());
    }

    #[test]
    fn far_ends_of_time_have_no_slot_and_do_no_harm() {
        let spec = Spec::parse("0 0 1 1 *").unwrap();
        for at in [u64::MAX, 253_402_300_799_999, i64::MAX as u64] {
            assert_eq!(following(&spec, &TimeZone::UTC, Millis(0), Millis(at)), None, "{at}");
        }
    }
}

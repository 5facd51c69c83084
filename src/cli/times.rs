//! Points in time as users write them, read as the log's own milliseconds, and written back.

use std::path::Path;

use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};

use crate::cli::out::moment;
use crate::cli::values;
use crate::node::clock;
use crate::types::Millis;

/// The letters of a time, at most: one with an offset and nanoseconds has 35.
const CHARS_MAX: usize = 40;

/// The forms of a local date with a time of day.
const DATE_FORMS: [&str; 4] =
    ["%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M"];

/// The forms of a time of day.
const DAY_FORMS: [&str; 2] = ["%H:%M:%S", "%H:%M"];

/// Parses a time as [`parse`] does, with the clock and the time zone of this machine.
///
/// # Errors
/// A text for the user.
pub fn here(text: &str) -> Result<Millis, String> {
    parse(text, clock::wall(), local_zone)
}

/// Parses a time: RFC 3339 with its offset, or in local time a date with a time of day, or a time of day
/// alone, which is the next one after `now`. The zone is asked for only where it counts.
///
/// # Errors
/// A text for the user that shows the forms.
pub fn parse(
    text: &str,
    now: Millis,
    zone: impl FnOnce() -> Result<TimeZone, String>,
) -> Result<Millis, String> {
    let wrong = || {
        format!(
            "`{}` is no time: write 2026-11-27T10:00:00Z (or +01:00 for Z), or in local time \
             '2026-11-27 10:00', or 10:00 for the next such time",
            text.chars().take(CHARS_MAX).collect::<String>()
        )
    };
    let is_plain = |c: char| c.is_ascii_digit() || "-+:. TtZz".contains(c);
    if text.len() > CHARS_MAX || text.trim() != text || !text.chars().all(is_plain) {
        return Err(wrong());
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return millis(at).ok_or_else(wrong);
    }
    let date = DATE_FORMS.iter().find_map(|form| DateTime::strptime(form, text).ok());
    if let Some(date) = date {
        let zoned = date.to_zoned(zone()?).map_err(|_out_of_range| wrong())?;
        return millis(zoned.timestamp()).ok_or_else(wrong);
    }
    let of_day = DAY_FORMS.iter().find_map(|form| Time::strptime(form, text).ok());
    let next = next_at(of_day.ok_or_else(wrong)?, now, zone()?);
    next.and_then(millis).ok_or_else(wrong)
}

/// Parses a time that has been, with the clock and the time zone of this machine.
///
/// # Errors
/// A text for the user.
pub fn past_here(text: &str) -> Result<Millis, String> {
    past(text, clock::wall(), local_zone)
}

/// Parses a time that has been: a length of time ago, such as `10m`, or a time as [`parse`] does, but that a time of day
/// alone is the last such one, `now` included.
///
/// # Errors
/// A text for the user that shows the forms.
pub fn past(
    text: &str,
    now: Millis,
    zone: impl FnOnce() -> Result<TimeZone, String>,
) -> Result<Millis, String> {
    if let Ok(ago) = values::duration(text) {
        return Ok(Millis(now.0.saturating_sub(values::whole_ms(ago))));
    }
    let of_day = DAY_FORMS.iter().find_map(|form| Time::strptime(form, text).ok());
    let told = |why: String| format!("{why}; or 10m for ten minutes ago");
    match of_day.filter(|_| text.trim() == text) {
        None => parse(text, now, zone)
            .map_err(|why| told(why.replace("for the next such time", "for the last such time"))),
        Some(of_day) => {
            let at = last_at(of_day, now, zone()?).and_then(millis);
            at.ok_or_else(|| told(format!("`{text}` has not been yet")))
        }
    }
}

/// Returns the last moment up to `now` at which a clock on the wall shows this.
fn last_at(of_day: Time, now: Millis, zone: TimeZone) -> Option<Timestamp> {
    let now = Timestamp::from_millisecond(i64::try_from(now.0).ok()?).ok()?;
    let today = now.to_zoned(zone.clone()).date();
    (0..=2).find_map(|days| {
        let date = today.checked_sub(days.days()).ok()?;
        let at = date.to_datetime(of_day).to_zoned(zone.clone()).ok()?.timestamp();
        (at <= now).then_some(at)
    })
}

/// Returns the first moment after `now` at which a clock on the wall shows this.
fn next_at(of_day: Time, now: Millis, zone: TimeZone) -> Option<Timestamp> {
    let now = Timestamp::from_millisecond(i64::try_from(now.0).ok()?).ok()?;
    let today = now.to_zoned(zone.clone()).date();
    // Two days are enough: where clocks are put forward over this time, it is shown as another one.
    (0..=2).find_map(|days| {
        let date = today.checked_add(days.days()).ok()?;
        let at = date.to_datetime(of_day).to_zoned(zone.clone()).ok()?.timestamp();
        (at > now).then_some(at)
    })
}

/// Returns whole milliseconds, rounded up so that nothing begins early; `None` before 1970.
fn millis(at: Timestamp) -> Option<Millis> {
    let up = at.checked_add(SignedDuration::from_nanos(999_999)).ok()?;
    u64::try_from(up.as_millisecond()).ok().map(Millis)
}

/// Returns the time zone of this machine; a machine that names none has UTC.
///
/// # Errors
/// A text for the user: it names one that is not known.
pub fn local_zone() -> Result<TimeZone, String> {
    let named = std::env::var("TZ").ok().filter(|name| !name.is_empty());
    match (TimeZone::try_system(), named) {
        (Ok(zone), _) => Ok(zone),
        (Err(_), None) if !Path::new("/etc/localtime").exists() => Ok(TimeZone::UTC),
        (Err(_), named) => Err(format!(
            "the local time zone is not known ({}): write the time with its offset, such as \
             2026-11-27T10:00:00Z",
            named.map_or("see /etc/localtime".into(), |name| format!("TZ={name}"))
        )),
    }
}

/// Writes a time so that [`parse`] reads the same one anywhere: `2026-11-27T10:00:00Z`.
#[must_use]
pub fn written(at: Millis) -> String {
    if at.0 == 0 {
        return "1970-01-01T00:00:00Z".into();
    }
    moment(at).replace(".000Z", "Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-27T09:30:00Z.
    const NOW: Millis = Millis(1_795_771_800_000);

    /// Central Europe by its rule, so that no table of zones is needed.
    fn berlin() -> Result<TimeZone, String> {
        Ok(TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap())
    }

    fn read(text: &str) -> String {
        written(parse(text, NOW, berlin).unwrap())
    }

    #[test]
    fn times_with_an_offset_are_the_same_everywhere() {
        let nowhere = || Err("not asked for".into());
        for (text, utc) in [
            ("2026-11-27T10:00:00Z", "2026-11-27T10:00:00Z"),
            ("2026-11-27t10:00:00z", "2026-11-27T10:00:00Z"),
            ("2026-11-27T10:00:00+01:00", "2026-11-27T09:00:00Z"),
            ("2026-11-27 10:00:00-05:30", "2026-11-27T15:30:00Z"),
            ("2026-11-27T10:00:00.25Z", "2026-11-27T10:00:00.250Z"),
            ("2026-11-27T10:00:00.000000001Z", "2026-11-27T10:00:00.001Z"),
            ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z"),
            ("2016-12-31T23:59:60Z", "2016-12-31T23:59:59Z"),
        ] {
            let at = parse(text, NOW, nowhere).unwrap();
            assert_eq!(written(at), utc, "{text}");
            assert_eq!(parse(&written(at), NOW, nowhere), Ok(at), "{text}");
        }
    }

    #[test]
    fn times_without_one_are_local() {
        assert_eq!(read("2026-11-27 10:00"), "2026-11-27T09:00:00Z");
        assert_eq!(read("2026-07-01 10:00:05"), "2026-07-01T08:00:05Z");
        assert_eq!(read("2026-11-27T10:00"), "2026-11-27T09:00:00Z");
        // 02:30 comes twice, and then not at all: the first one, and an hour later.
        assert_eq!(read("2026-10-25 02:30"), "2026-10-25T00:30:00Z");
        assert_eq!(read("2027-03-28 02:30"), "2027-03-28T01:30:00Z");
    }

    #[test]
    fn time_of_day_is_the_next_such_time() {
        assert_eq!(read("10:31"), "2026-11-27T09:31:00Z", "it is 10:30 there");
        assert_eq!(read("10:30"), "2026-11-28T09:30:00Z", "now is not next");
        assert_eq!(read("9:00"), "2026-11-28T08:00:00Z");
        assert_eq!(read("00:00:00"), "2026-11-27T23:00:00Z");
    }

    #[test]
    fn wrong_time_is_told_the_forms() {
        for text in [
            "",
            "now",
            "tomorrow",
            "10",
            "24:00",
            "10:60",
            "10:00pm",
            "2026-11-27",
            "2026-13-01 10:00",
            "2026-02-30 10:00",
            "27.11.2026 10:00",
            "26-11-27 10:00",
            "1969-12-31T23:59:59Z",
            "2026-11-27T10:00:00+26:00",
            "2026-11-27T10:00:00Z[Europe/Berlin]",
            "10:00 ",
            " 10:00",
            "1795773600",
            "-1:00",
            "99999999999999999999999999999999999999999",
            "\u{661}\u{660}:\u{660}\u{660}",
        ] {
            let Err(error) = parse(text, NOW, berlin) else { panic!("{text:?} was taken") };
            for form in ["2026-11-27T10:00:00Z", "'2026-11-27 10:00'", "10:00 for the next"] {
                assert!(error.contains(form), "{text:?}: {error}");
            }
        }
        let unknown = parse("10:00", NOW, || Err("no zone".into()));
        assert_eq!(unknown, Err("no zone".into()));
    }

    #[test]
    fn time_that_has_been_is_some_time_ago_or_the_last_such_time() {
        let read = |text: &str| written(past(text, NOW, berlin).unwrap());
        assert_eq!(read("10m"), "2026-11-27T09:20:00Z");
        assert_eq!(read("1h30m"), "2026-11-27T08:00:00Z");
        assert_eq!(read("100d"), "2026-08-19T09:30:00Z");
        assert_eq!(read("10:31"), "2026-11-26T09:31:00Z", "it is 10:30 there");
        assert_eq!(read("10:30"), "2026-11-27T09:30:00Z", "now has been");
        assert_eq!(read("2026-11-27 10:00"), "2026-11-27T09:00:00Z");
        assert_eq!(read("2026-11-27T10:00:00Z"), "2026-11-27T10:00:00Z");
        for text in ["", "yesterday", "10", " 10:00", "-5m", "10:60", "2026-11-27"] {
            let Err(error) = past(text, NOW, berlin) else { panic!("{text:?} was taken") };
            for form in ["2026-11-27T10:00:00Z", "10:00 for the last", "10m for ten minutes ago"] {
                assert!(error.contains(form), "{text:?}: {error}");
            }
        }
    }
}

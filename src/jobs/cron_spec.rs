//! When a cron fires, as people write it: five fields, six with seconds, a word, or a length of time.

use crate::jobs::options::DURATION_MS_MAX;

/// The bytes of a spec, at most.
pub const SPEC_BYTES_MAX: usize = 256;

/// The shortest time between two slots of `@every`, in milliseconds.
pub const EVERY_MS_MIN: u64 = 1000;

/// When a cron fires.
///
/// - Five fields, `minute hour day-of-month month day-of-week`, or six with `second` before them. A field is a list of
///   values and ranges with commas between them: `*`, `7`, `1-5`, each with a step if wanted: `*/15`, `8-18/2`; `5/20`
///   begins at 5 and goes on to the end. Months and days of the week have names (`jan`, `mon`); Sunday is 0 and 7.
/// - If neither day field begins with `*`, a day that either of them names will do, as in cron(8); else both must hold.
/// - `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`.
/// - `@every 90s`: counted from when it was added, whatever the clocks on the wall show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    /// So many milliseconds from one slot to the next.
    Every(u64),
    /// Whenever the clock of the zone shows this.
    Fields(Fields),
}

/// What the clock must show: of each field the values that will do, a bit for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields {
    /// Seconds, 0 to 59.
    pub seconds: u64,
    /// Minutes, 0 to 59.
    pub minutes: u64,
    /// Hours, 0 to 23.
    pub hours: u64,
    /// Days of the month, 1 to 31.
    pub days: u64,
    /// Months, 1 to 12.
    pub months: u64,
    /// Days of the week, 0 (Sunday) to 6.
    pub weekdays: u64,
    /// Neither day field begins with `*`: a day that either of them names will do.
    pub either_day: bool,
    /// The hours begin with `*`: it goes by the hours that pass, and not by what a clock shows when it is put back.
    pub each_hour: bool,
}

/// A text that says no time to fire at, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// It has another number of fields.
    #[error(
        "`{0}` has {1} fields: a cron has five (minute hour day month weekday), six with seconds first, or is \
         @hourly, @daily, @weekly, @monthly, @yearly or `@every 10m`"
    )]
    Count(String, usize),
    /// It begins with `@`, and no word does so.
    #[error("`{0}` is not known: @hourly, @daily, @weekly, @monthly, @yearly or `@every 10m`")]
    Word(String),
    /// What follows `@every` is no length of time, or out of bounds.
    #[error(
        "@every takes a length of time such as 90s, 10m or 1h30m, from 1s to ten years; not `{0}`"
    )]
    Every(String),
    /// A field is wrong.
    #[error("field {number} ({name}): {why}")]
    Field {
        /// Which, from 1 on.
        number: usize,
        /// What it is.
        name: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// Its days are in none of its months.
    #[error("no such day ever comes: none of its months has one of its days")]
    Never,
}

/// One field: its name, its bounds and the names of its values.
struct Form {
    name: &'static str,
    min: u64,
    max: u64,
    /// Names of values, the first of them for `min`.
    words: &'static [&'static str],
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

const SECOND: Form = Form { name: "second", min: 0, max: 59, words: &[] };
const MINUTE: Form = Form { name: "minute", min: 0, max: 59, words: &[] };
const HOUR: Form = Form { name: "hour", min: 0, max: 23, words: &[] };
const DAY: Form = Form { name: "day of the month", min: 1, max: 31, words: &[] };
const MONTH: Form = Form { name: "month", min: 1, max: 12, words: &MONTHS };
const WEEKDAY: Form = Form { name: "day of the week", min: 0, max: 7, words: &WEEKDAYS };

/// The days of each month in the year that has most.
const MONTH_DAYS: [u64; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

impl Spec {
    /// Reads one. Upper and lower case are the same.
    ///
    /// # Errors
    /// [`SpecError`], in words for the one who wrote it.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        let text = text.to_ascii_lowercase();
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        match words.as_slice() {
            ["@hourly"] => Self::parse("0 * * * *"),
            ["@daily"] => Self::parse("0 0 * * *"),
            ["@weekly"] => Self::parse("0 0 * * 0"),
            ["@monthly"] => Self::parse("0 0 1 * *"),
            ["@yearly"] => Self::parse("0 0 1 1 *"),
            ["@every", length] => match duration_ms(length) {
                Some(ms) if (EVERY_MS_MIN..=DURATION_MS_MAX).contains(&ms) => Ok(Self::Every(ms)),
                Some(_) | None => Err(SpecError::Every((*length).into())),
            },
            ["@every", rest @ ..] => Err(SpecError::Every(rest.join(" "))),
            [first, ..] if first.starts_with('@') => Err(SpecError::Word(words.join(" "))),
            [minute, hour, day, month, weekday] => {
                Fields::parse(["0", minute, hour, day, month, weekday], 0)
            }
            [second, minute, hour, day, month, weekday] => {
                Fields::parse([second, minute, hour, day, month, weekday], 1)
            }
            other => Err(SpecError::Count(text.clone(), other.len())),
        }
    }
}

impl Fields {
    /// Reads the six fields; the first has this number, those after it the next.
    fn parse(texts: [&str; 6], first: usize) -> Result<Spec, SpecError> {
        let [second, minute, hour, day, month, weekday] = texts;
        let read = |form: &Form, text: &str, place: usize| {
            values(form, text).map_err(|why| {
                let number = (place + first).max(1);
                SpecError::Field { number, name: form.name, why }
            })
        };
        let sundays = read(&WEEKDAY, weekday, 5)?;
        let fields = Self {
            seconds: read(&SECOND, second, 0)?,
            minutes: read(&MINUTE, minute, 1)?,
            hours: read(&HOUR, hour, 2)?,
            days: read(&DAY, day, 3)?,
            months: read(&MONTH, month, 4)?,
            weekdays: (sundays | sundays >> 7) & 0x7f,
            either_day: !day.starts_with('*') && !weekday.starts_with('*'),
            each_hour: hour.starts_with('*'),
        };
        if fields.either_day || fields.has_a_day() {
            Ok(Spec::Fields(fields))
        } else {
            Err(SpecError::Never)
        }
    }

    /// Tells whether one of the months has one of the days.
    fn has_a_day(&self) -> bool {
        (1u64..).zip(MONTH_DAYS).any(|(month, length)| {
            self.months >> month & 1 == 1 && (1..=length).any(|day| self.days >> day & 1 == 1)
        })
    }

    /// Tells whether it fires on a day: of the month, of the week from Sunday on.
    #[must_use]
    pub fn has_day(&self, month: u8, day: u8, weekday: u8) -> bool {
        let (in_month, in_week) = (self.days >> day & 1 == 1, self.weekdays >> weekday & 1 == 1);
        let fits = if self.either_day { in_month || in_week } else { in_month && in_week };
        fits && self.months >> month & 1 == 1
    }
}

/// Reads a field: a bit for each value.
fn values(form: &Form, text: &str) -> Result<u64, String> {
    text.split(',').try_fold(0, |bits, part| Ok(bits | part_values(form, part)?))
}

/// Reads one part of a field's list.
fn part_values(form: &Form, part: &str) -> Result<u64, String> {
    let (range, step) = match part.split_once('/') {
        None => (part, None),
        Some((range, step)) => (range, Some(step)),
    };
    let step_by = match step.map(str::parse::<u64>) {
        None => 1,
        Some(Ok(step)) if (1..=form.max).contains(&step) => step,
        Some(_) => return Err(format!("the step of `{part}` is no number from 1 to {}", form.max)),
    };
    let (first, last) = match range.split_once('-') {
        _ if range == "*" => (form.min, form.max),
        None => {
            let first = value(form, range)?;
            (first, if step.is_some() { form.max } else { first })
        }
        Some((first, last)) => {
            let (first, last) = (value(form, first)?, value(form, last)?);
            // `fri-sun` ends with the Sunday after.
            let is_sunday = form.max == 7 && last == 0 && first > 0;
            (first, if is_sunday { 7 } else { last })
        }
    };
    if first > last {
        return Err(format!("`{range}` goes backwards: write its two parts with a comma between"));
    }
    let step = usize::try_from(step_by).unwrap_or(usize::MAX);
    Ok((first..=last).step_by(step).fold(0, |bits, value| bits | 1 << value))
}

/// Reads one value: a number, or a name where there are names.
fn value(form: &Form, text: &str) -> Result<u64, String> {
    if let Some(named) = (form.min..).zip(form.words).find(|(_, word)| **word == text) {
        return Ok(named.0);
    }
    let (min, max) = (form.min, form.max);
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u64>() {
        Ok(number) if is_number && (min..=max).contains(&number) => Ok(number),
        Ok(_) | Err(_) if is_number => Err(format!("{text} is out of {min} to {max}")),
        Ok(_) | Err(_) => match (form.words.first(), form.words.last()) {
            (Some(first), Some(last)) => Err(format!(
                "`{text}` is no number from {min} to {max} and no name from {first} to {last}"
            )),
            _ => Err(format!("`{text}` is no number from {min} to {max}")),
        },
    }
}

/// Reads a length of time, `90s` or `1h30m`, in milliseconds.
fn duration_ms(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total = 0u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, after) = rest.split_at_checked(digits)?;
        let letters = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(letters)?;
        let unit_ms = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(unit_ms)?)?;
        rest = after;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields {
        match Spec::parse(text) {
            Ok(Spec::Fields(fields)) => fields,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn bits(values: impl IntoIterator<Item = u64>) -> u64 {
        values.into_iter().fold(0, |bits, value| bits | 1 << value)
    }

    #[test]
    fn fields_are_lists_of_values_ranges_and_steps() {
        let read = fields("*/20 8-18/5,23 1,15 jan-MAR,12 mon-fri");
        assert_eq!(read.seconds, bits([0]));
        assert_eq!(read.minutes, bits([0, 20, 40]));
        assert_eq!(read.hours, bits([8, 13, 18, 23]));
        assert_eq!(read.days, bits([1, 15]));
        assert_eq!(read.months, bits([1, 2, 3, 12]));
        assert_eq!(read.weekdays, bits(1..=5));
        assert!(read.either_day && !read.each_hour);
        assert_eq!(fields("5/20 * * * *").minutes, bits([5, 25, 45]));
        assert_eq!(fields("30 0 0 * * *").seconds, bits([30]));
        assert!(fields("0 */2 * * 1").each_hour);
        assert!(!fields("0 0 */2 * 1").either_day, "a star, even with a step, restricts nothing");
    }

    #[test]
    fn sunday_is_0_and_7_and_the_end_of_a_week() {
        for text in ["0 0 * * 0", "0 0 * * 7", "0 0 * * sun", "@weekly"] {
            assert_eq!(fields(text).weekdays, bits([0]), "{text}");
        }
        assert_eq!(fields("0 0 * * fri-sun").weekdays, bits([5, 6, 0]));
        assert_eq!(fields("0 0 * * 5-7").weekdays, bits([5, 6, 0]));
        assert_eq!(fields("0 0 * * *").weekdays, bits(0..=6));
    }

    #[test]
    fn words_and_lengths_of_time_are_read() {
        assert_eq!(Spec::parse("@hourly"), Spec::parse("0 * * * *"));
        assert_eq!(Spec::parse("@Daily"), Spec::parse("0 0 * * *"));
        assert_eq!(Spec::parse("@monthly"), Spec::parse("0 0 1 * *"));
        assert_eq!(Spec::parse("@yearly"), Spec::parse("0 0 1 1 *"));
        assert_eq!(Spec::parse(" @every  1h30m "), Ok(Spec::Every(5_400_000)));
        assert_eq!(Spec::parse("@every 1s"), Ok(Spec::Every(1000)));
        assert_eq!(Spec::parse("@every 1500ms"), Ok(Spec::Every(1500)));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_field() {
        for (text, why) in [
            ("0 25 * * *", "field 2 (hour): 25 is out of 0 to 23"),
            ("60 * * * *", "field 1 (minute): 60 is out of 0 to 59"),
            ("60 0 * * * *", "field 1 (second): 60 is out of 0 to 59"),
            ("0 60 * * * *", "field 2 (minute): 60 is out of 0 to 59"),
            ("0 0 0 * *", "field 3 (day of the month): 0 is out of 1 to 31"),
            ("0 0 * 13 *", "field 4 (month): 13 is out of 1 to 12"),
            ("0 0 * * 8", "field 5 (day of the week): 8 is out of 0 to 7"),
            (
                "0 0 * foo *",
                "field 4 (month): `foo` is no number from 1 to 12 and no name from jan to dec",
            ),
            ("0 22-5 * * *", "field 2 (hour): `22-5` goes backwards"),
            ("*/0 * * * *", "field 1 (minute): the step of `*/0`"),
            ("*/99 * * * *", "field 1 (minute): the step of `*/99`"),
            (", * * * *", "field 1 (minute): `` is no number from 0 to 59"),
            ("1- * * * *", "field 1 (minute): `` is no number"),
            ("+1 * * * *", "field 1 (minute): `+1` is no number"),
            ("99999999999999999999 * * * *", "is out of 0 to 59"),
            ("** * * * *", "field 1 (minute): `**` is no number"),
            ("* * * *", "has 4 fields"),
            ("", "has 0 fields"),
            ("1 2 3 4 5 6 7", "has 7 fields"),
            ("0 0 30 2 *", "no such day ever comes"),
            ("0 0 31 4,6,9,11 *", "no such day ever comes"),
            ("@noon", "`@noon` is not known"),
            ("@daily 5", "`@daily 5` is not known"),
            ("@every", "@every takes a length of time"),
            ("@every 10", "not `10`"),
            ("@every 0s", "from 1s"),
            ("@every 999ms", "from 1s"),
            ("@every 5000d", "ten years"),
            ("@every 9999999999999999999d", "ten years"),
            ("@every 1h -5m", "not `1h -5m`"),
        ] {
            let error = Spec::parse(text).expect_err(text).to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(Spec::parse("0 0 29 2 *").is_ok() && Spec::parse("0 0 30 2 mon").is_ok());
    }
}

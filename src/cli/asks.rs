//! What a submit asks for beside being run: the flags, the same in lines of a batch, and as they are sent.

use std::sync::Arc;

use clap::Args;
use serde::{Deserialize, Deserializer};

use crate::cli::submit::quote;
use crate::cli::times;
use crate::cli::values;
use crate::jobs::options::{
    BACKOFF_MAX_MS_DEFAULT, BACKOFF_MS_DEFAULT, DURATION_MS_MAX, Options, PRIORITY_DEFAULT,
    PRIORITY_MAX, RETRIES_MAX, Tags,
};
use crate::jobs::rules::in_words;
use crate::types::{Millis, Tag, UniqueKey};

/// The flags of `submit` that say when, before whom, where, for how long and how often.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "What the job asks for")]
pub struct AskArgs {
    /// 0 (last) to 9 (first): of two jobs that wait, the higher one is begun first [default: 5].
    #[arg(long, value_name = "0..9", value_parser = priority, allow_negative_numbers = true)]
    pub priority: Option<u8>,

    /// Begin it so long after it was taken, at the earliest: 30s, 10m, 1h30m.
    #[arg(long = "in", value_name = "DUR", value_parser = span, allow_hyphen_values = true)]
    #[arg(conflicts_with = "at")]
    pub delay: Option<Span>,

    /// Begin it at this time, at the earliest: 2026-11-27T10:00:00Z, or in local time '2026-11-27 10:00',
    /// or 10:00 for the next such time.
    #[arg(long, value_name = "TIME", value_parser = times::here, allow_hyphen_values = true)]
    pub at: Option<Millis>,

    /// Fail it if it has not begun so long after it was taken.
    #[arg(long, value_name = "DUR", value_parser = span_of_something, allow_hyphen_values = true)]
    pub ttl: Option<Span>,

    /// How long one attempt may take; then its command is ended, and the attempt has failed. (--timeout is
    /// how long raftq itself may take.)
    #[arg(long, value_name = "DUR", value_parser = span_of_something, allow_hyphen_values = true)]
    pub job_timeout: Option<Span>,

    /// Try it again after an attempt that failed, so often at most [default: 0].
    #[arg(long, value_name = "N", value_parser = retries, allow_negative_numbers = true)]
    pub retries: Option<u32>,

    /// The pause before the first retry; it doubles with each further one [default: 1s].
    #[arg(long, value_name = "DUR", value_parser = span, allow_hyphen_values = true)]
    pub backoff: Option<Span>,

    /// The longest pause before a retry [default: 10m].
    #[arg(long, value_name = "DUR", value_parser = span, allow_hyphen_values = true)]
    pub backoff_max: Option<Span>,

    /// Run it on a worker that has this tag (node --tag), such as gpu or zone=a. With several, on one that
    /// has all of them.
    #[arg(long = "tag", value_name = "TAG")]
    pub tags: Vec<Tag>,

    /// Make no second job of this key in the queue: while one has not ended, its id is printed instead.
    #[arg(long, value_name = "KEY")]
    pub unique: Option<UniqueKey>,

    /// Hold the key for so long after the submit, whether the job has ended or not.
    #[arg(long, value_name = "DUR", value_parser = span_of_something, allow_hyphen_values = true)]
    #[arg(requires = "unique")]
    pub unique_for: Option<Span>,
}

/// A length of time in milliseconds, at most [`DURATION_MS_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub u64);

/// When a job may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// So long after it was taken. It stays so when it is sent again: another content is another job.
    In(Span),
    /// At this time.
    At(Millis),
}

/// What was asked for; `None` where nothing was said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asks {
    /// See [`AskArgs::priority`].
    pub priority: Option<u8>,
    /// See [`AskArgs::delay`] and [`AskArgs::at`].
    pub when: Option<When>,
    /// See [`AskArgs::ttl`].
    pub ttl: Option<Span>,
    /// See [`AskArgs::job_timeout`].
    pub job_timeout: Option<Span>,
    /// See [`AskArgs::retries`].
    pub retries: Option<u32>,
    /// See [`AskArgs::backoff`].
    pub backoff: Option<Span>,
    /// See [`AskArgs::backoff_max`].
    pub backoff_max: Option<Span>,
    /// See [`AskArgs::tags`].
    pub tags: Option<Tags>,
    /// See [`AskArgs::unique`].
    pub unique: Option<UniqueKey>,
    /// See [`AskArgs::unique_for`].
    pub unique_for: Option<Span>,
}

/// The same in a line of a batch, as it is written there; each is checked by [`AskTexts::parse`].
#[derive(Clone, Debug, Default)]
pub struct AskTexts {
    /// `"priority"`
    pub priority: Option<u64>,
    /// `"in"`
    pub delay: Option<String>,
    /// `"at"`
    pub at: Option<String>,
    /// `"ttl"`
    pub ttl: Option<String>,
    /// `"job-timeout"`
    pub job_timeout: Option<String>,
    /// `"retries"`
    pub retries: Option<u64>,
    /// `"backoff"`
    pub backoff: Option<String>,
    /// `"backoff-max"`
    pub backoff_max: Option<String>,
    /// `"tag"`
    pub tags: Option<TagTexts>,
    /// `"unique"`
    pub unique: Option<String>,
    /// `"unique-for"`
    pub unique_for: Option<String>,
}

/// One tag, or a list of them.
#[derive(Clone, Debug)]
pub struct TagTexts(Vec<String>);

impl<'de> Deserialize<'de> for TagTexts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "`tag` takes a tag, or a list of tags")]
        enum Form {
            One(String),
            Many(Vec<String>),
        }
        Form::deserialize(deserializer).map(|form| match form {
            Form::One(tag) => Self(vec![tag]),
            Form::Many(tags) => Self(tags),
        })
    }
}

impl AskTexts {
    /// Checks a line; a time of day is the next one after `now`, which is the same for all lines.
    ///
    /// # Errors
    /// What is wrong, with the name it has there.
    pub fn parse(self, now: Millis) -> Result<Asks, String> {
        fn named<T, U>(
            name: &str,
            value: Option<T>,
            parse: impl FnOnce(T) -> Result<U, String>,
        ) -> Result<Option<U>, String> {
            value.map(parse).transpose().map_err(|why| format!("{name}: {why}"))
        }
        let length = |text: String| span(&text);
        let some = |text: String| span_of_something(&text);
        let delay = named("in", self.delay, length)?;
        let at = named("at", self.at, |text| times::parse(&text, now, times::local_zone))?;
        Ok(Asks {
            priority: named("priority", self.priority, |number| priority(&number.to_string()))?,
            when: match (delay, at) {
                (Some(_), Some(_)) => return Err("both `in` and `at`: name one of them".into()),
                (Some(span), None) => Some(When::In(span)),
                (None, at) => at.map(When::At),
            },
            ttl: named("ttl", self.ttl, some)?,
            job_timeout: named("job-timeout", self.job_timeout, some)?,
            retries: named("retries", self.retries, |number| retries(&number.to_string()))?,
            backoff: named("backoff", self.backoff, length)?,
            backoff_max: named("backoff-max", self.backoff_max, length)?,
            tags: named("tag", self.tags, |texts| {
                let tag = |text: &String| Tag::new(text).map_err(|why| format!("`{text}`: {why}"));
                let tags: Result<Vec<Tag>, String> = texts.0.iter().map(tag).collect();
                tags.map(Tags::new)
            })?,
            unique: named("unique", self.unique, |text| {
                UniqueKey::new(&text).map_err(|why| why.to_string())
            })?,
            unique_for: named("unique-for", self.unique_for, some)?,
        })
    }
}

impl From<&AskArgs> for Asks {
    fn from(args: &AskArgs) -> Self {
        let tags = (!args.tags.is_empty()).then(|| Tags::new(args.tags.iter().cloned()));
        Self {
            priority: args.priority,
            when: args.delay.map(When::In).or(args.at.map(When::At)),
            ttl: args.ttl,
            job_timeout: args.job_timeout,
            retries: args.retries,
            backoff: args.backoff,
            backoff_max: args.backoff_max,
            tags,
            unique: args.unique.clone(),
            unique_for: args.unique_for,
        }
    }
}

impl Asks {
    /// Fills in what was not said. A line that says when does not get another when.
    #[must_use]
    pub fn or(self, defaults: &Self) -> Self {
        Self {
            priority: self.priority.or(defaults.priority),
            when: self.when.or(defaults.when),
            ttl: self.ttl.or(defaults.ttl),
            job_timeout: self.job_timeout.or(defaults.job_timeout),
            retries: self.retries.or(defaults.retries),
            backoff: self.backoff.or(defaults.backoff),
            backoff_max: self.backoff_max.or(defaults.backoff_max),
            tags: self.tags.or_else(|| defaults.tags.clone()),
            unique: self.unique.or_else(|| defaults.unique.clone()),
            unique_for: self.unique_for.or(defaults.unique_for),
        }
    }

    /// Makes it what is sent; `None` if nothing is asked for that differs from what any job gets.
    ///
    /// # Errors
    /// What is out of bounds, for the user.
    pub fn options(&self) -> Result<Option<Arc<Options>>, String> {
        let (delay, at) = match self.when {
            Some(When::In(Span(ms))) => (Some(ms), None),
            Some(When::At(at)) => (None, Some(at)),
            None => (None, None),
        };
        // Of the two pauses the one that was named moves the other, which was not.
        let (backoff_ms, backoff_max_ms) = match (self.backoff, self.backoff_max) {
            (Some(Span(first)), Some(Span(longest))) if longest < first => {
                return Err(format!(
                    "the longest pause before a retry, {}, is shorter than the first one, {}: \
                     raise backoff-max or lower backoff",
                    in_words(longest),
                    in_words(first)
                ));
            }
            (Some(Span(first)), Some(Span(longest))) => (first, longest),
            (Some(Span(first)), None) => (first, BACKOFF_MAX_MS_DEFAULT.max(first)),
            (None, Some(Span(longest))) => (BACKOFF_MS_DEFAULT.min(longest), longest),
            (None, None) => (BACKOFF_MS_DEFAULT, BACKOFF_MAX_MS_DEFAULT),
        };
        let options = Options {
            priority: self.priority.unwrap_or(PRIORITY_DEFAULT),
            delay_ms: delay,
            at_ms: at,
            ttl_ms: self.ttl.map(|span| span.0),
            timeout_ms: self.job_timeout.map(|span| span.0),
            retries: self.retries.unwrap_or_default(),
            backoff_ms,
            backoff_max_ms,
            tags: self.tags.clone().unwrap_or_default(),
            unique: self.unique.clone(),
            unique_for_ms: self.unique_for.map(|span| span.0),
        };
        options.fault().map_or(Ok(Options::shared(options)), Err)
    }

    /// Writes the flags that ask for the same, each with a space before it.
    #[must_use]
    pub fn flags(&self) -> String {
        let mut flags = String::new();
        let mut flag = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                flags.push_str(&format!(" --{name} {}", quote(&value)));
            }
        };
        let length = |span: Option<Span>| span.map(|span| in_words(span.0));
        flag("priority", self.priority.map(|priority| priority.to_string()));
        match self.when {
            Some(When::In(span)) => flag("in", length(Some(span))),
            Some(When::At(at)) => flag("at", Some(times::written(at))),
            None => {}
        }
        flag("ttl", length(self.ttl));
        flag("job-timeout", length(self.job_timeout));
        flag("retries", self.retries.map(|retries| retries.to_string()));
        flag("backoff", length(self.backoff));
        flag("backoff-max", length(self.backoff_max));
        for tag in self.tags.iter().flat_map(Tags::as_slice) {
            flag("tag", Some(tag.to_string()));
        }
        flag("unique", self.unique.as_ref().map(ToString::to_string));
        flag("unique-for", length(self.unique_for));
        flags
    }
}

fn priority(text: &str) -> Result<u8, String> {
    let wrong = || format!("a priority is 0 (last) to {PRIORITY_MAX} (first)");
    let number = values::number(text).map_err(|_no_number| wrong())?;
    u8::try_from(number).ok().filter(|it| *it <= PRIORITY_MAX).ok_or_else(wrong)
}

fn retries(text: &str) -> Result<u32, String> {
    let number = u32::try_from(values::number(text)?).unwrap_or(u32::MAX);
    if number > RETRIES_MAX {
        return Err(format!("at most {RETRIES_MAX} retries"));
    }
    Ok(number)
}

/// Parses a length of time of a job.
fn span(text: &str) -> Result<Span, String> {
    let ms = values::whole_ms(values::duration(text)?);
    if ms > DURATION_MS_MAX {
        return Err(format!("`{text}` is too long: at most ten years"));
    }
    Ok(Span(ms))
}

/// Parses one above zero.
fn span_of_something(text: &str) -> Result<Span, String> {
    match span(text)? {
        Span(0) => Err("no time at all: leave it out for no limit".into()),
        span => Ok(span),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(names: &[&str]) -> Option<Tags> {
        Some(Tags::new(names.iter().map(|name| Tag::new(name).unwrap())))
    }

    #[test]
    fn nothing_asked_for_is_nothing_sent() {
        assert_eq!(Asks::default().options(), Ok(None));
        assert_eq!(Asks::default().flags(), "");
        let as_any = Asks { priority: Some(5), retries: Some(0), ..Asks::default() };
        assert_eq!(as_any.options(), Ok(None));
    }

    #[test]
    fn flags_ask_for_the_same_again() {
        let asks = Asks {
            priority: Some(9),
            when: Some(When::In(Span(90_000))),
            ttl: Some(Span(3_600_000)),
            job_timeout: Some(Span(1500)),
            retries: Some(3),
            backoff: Some(Span(0)),
            backoff_max: Some(Span(60_000)),
            tags: tags(&["zone=a", "gpu"]),
            unique: Some(UniqueKey::new("invoice 4711").unwrap()),
            unique_for: Some(Span(60_000)),
        };
        assert_eq!(
            asks.flags(),
            " --priority 9 --in 90s --ttl 1h --job-timeout 1500ms --retries 3 --backoff 0ms \
             --backoff-max 1m --tag gpu --tag zone=a --unique 'invoice 4711' --unique-for 1m"
        );
        let at = Asks { when: Some(When::At(Millis(1_795_773_600_000))), ..Asks::default() };
        assert_eq!(at.flags(), " --at 2026-11-27T10:00:00Z");
    }

    #[test]
    fn pause_that_was_named_moves_the_one_that_was_not() {
        let pauses = |backoff: Option<u64>, backoff_max: Option<u64>| {
            let (backoff, backoff_max) = (backoff.map(Span), backoff_max.map(Span));
            let asks = Asks { backoff, backoff_max, ..Asks::default() };
            asks.options().map(|options| options.map(|it| (it.backoff_ms, it.backoff_max_ms)))
        };
        assert_eq!(pauses(Some(3_600_000), None), Ok(Some((3_600_000, 3_600_000))));
        assert_eq!(pauses(None, Some(500)), Ok(Some((500, 500))));
        assert_eq!(pauses(Some(10), None), Ok(Some((10, 600_000))));
        let error = pauses(Some(10_000), Some(5000)).unwrap_err();
        assert!(error.contains("5s") && error.contains("10s"), "{error}");
    }

    #[test]
    fn what_a_line_says_wins_over_the_command_line() {
        let line = Asks { when: Some(When::In(Span(1))), ..Asks::default() };
        let defaults = Asks {
            when: Some(When::At(Millis(7))),
            priority: Some(9),
            tags: tags(&["gpu"]),
            ..Asks::default()
        };
        let both = line.or(&defaults);
        assert_eq!((both.when, both.priority), (Some(When::In(Span(1))), Some(9)));
        assert_eq!(both.tags, tags(&["gpu"]));
        let none = Asks { tags: Some(Tags::default()), ..Asks::default() }.or(&defaults);
        assert_eq!(none.tags, Some(Tags::default()), "an empty list is said");
    }
}

//! What a job may ask for beside being run: when, before whom, where, for how long and how often.

use std::sync::Arc;

use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::pack::unpack::list;
use crate::types::{Millis, Tag, UniqueKey};

/// The highest priority; 0 is the lowest.
pub const PRIORITY_MAX: u8 = 9;

/// The priority of a job that names none.
pub const PRIORITY_DEFAULT: u8 = 5;

/// Retries of one job, at most.
pub const RETRIES_MAX: u32 = 1000;

/// Every length of time that a job or a queue names, at most: ten years, in milliseconds.
pub const DURATION_MS_MAX: u64 = 10 * 366 * 24 * 3_600_000;

/// The pause before the first retry of a job that names none, in milliseconds.
pub const BACKOFF_MS_DEFAULT: u64 = 1000;

/// The longest pause before a retry of a job that names none, in milliseconds.
pub const BACKOFF_MAX_MS_DEFAULT: u64 = 600_000;

/// Tags that one job asks for, or that one worker has, at most.
pub const TAGS_MAX: usize = 16;

/// What a job asks for. The default is a job that is run once, as soon as its turn comes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Options {
    /// 0 to [`PRIORITY_MAX`]: of two jobs that wait, the higher one is given out first; of equals, the one
    /// that was submitted first.
    pub priority: u8,
    /// Wait at least so long after the submit, in milliseconds.
    pub delay_ms: Option<u64>,
    /// Wait until this time on the log's clock; not together with `delay_ms`.
    pub at_ms: Option<Millis>,
    /// Fail, if not begun so long after the submit, in milliseconds.
    pub ttl_ms: Option<u64>,
    /// How long an attempt may take, in milliseconds; then its worker ends it, and it has failed. The time is the
    /// worker's own: by a clock that leaps, two workers would run the job at once.
    pub timeout_ms: Option<u64>,
    /// How many attempts may fail before the last one.
    pub retries: u32,
    /// The pause after the first failed attempt, in milliseconds; it doubles with each further one, and a
    /// quarter of it at most is added by lot.
    pub backoff_ms: u64,
    /// The longest pause, the added part aside, in milliseconds.
    pub backoff_max_ms: u64,
    /// What the worker must have.
    pub tags: Tags,
    /// No other job of its queue has this key at the same time: a submit of another one is answered with this
    /// job. Until the job ends, or for `unique_for_ms`.
    pub unique: Option<UniqueKey>,
    /// How long after the submit the key is held, in milliseconds, whatever becomes of the job; only with `unique`.
    pub unique_for_ms: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self::NONE.clone()
    }
}

impl Options {
    /// The options of a job that asks for nothing.
    pub const NONE: &Self = &Self {
        priority: PRIORITY_DEFAULT,
        delay_ms: None,
        at_ms: None,
        ttl_ms: None,
        timeout_ms: None,
        retries: 0,
        backoff_ms: BACKOFF_MS_DEFAULT,
        backoff_max_ms: BACKOFF_MAX_MS_DEFAULT,
        tags: Tags(None),
        unique: None,
        unique_for_ms: None,
    };

    /// Says what is out of bounds, in words for the one who submitted it.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let durations = [
            ("delay", self.delay_ms),
            ("ttl", self.ttl_ms),
            ("timeout", self.timeout_ms),
            ("backoff", Some(self.backoff_ms)),
            ("longest backoff", Some(self.backoff_max_ms)),
            ("time to be unique for", self.unique_for_ms),
        ];
        if self.priority > PRIORITY_MAX {
            return Some(format!("priority {}; 0 to {PRIORITY_MAX}", self.priority));
        }
        if self.retries > RETRIES_MAX {
            return Some(format!("{} retries; at most {RETRIES_MAX}", self.retries));
        }
        if self.delay_ms.is_some() && self.at_ms.is_some() {
            return Some("both a delay and a time to start at: name one of them".into());
        }
        for (name, ms) in durations {
            if ms.is_some_and(|ms| ms > DURATION_MS_MAX) {
                return Some(format!("a {name} of more than ten years"));
            }
        }
        let times = [
            ("ttl", self.ttl_ms),
            ("timeout", self.timeout_ms),
            ("time to be unique for", self.unique_for_ms),
        ];
        for (name, ms) in times {
            if ms == Some(0) {
                return Some(format!("a {name} of nothing: leave it out for none"));
            }
        }
        if self.unique_for_ms.is_some() && self.unique.is_none() {
            return Some("a time to be unique for, and no unique key: name the key".into());
        }
        if self.backoff_max_ms < self.backoff_ms {
            return Some("the longest backoff is shorter than the first one".into());
        }
        self.tags.fault()
    }

    /// Returns the bytes that tell these options from others; none for the default.
    ///
    /// # Panics
    /// Never: numbers and names in memory always have a MessagePack form.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        if self == Self::NONE {
            return Vec::new();
        }
        rmp_serde::to_vec(self).expect("options always have a MessagePack form")
    }

    /// Returns about how many bytes of memory they take.
    #[must_use]
    pub fn memory(&self) -> usize {
        let key = self.unique.as_ref().map_or(0, |key| key.as_str().len() + 16);
        size_of::<Self>() + self.tags.memory() + key
    }

    /// Drops options that ask for nothing.
    #[must_use]
    pub fn shared(options: Self) -> Option<Arc<Self>> {
        (options != *Self::NONE).then(|| Arc::new(options))
    }
}

/// Written as a map of what differs from the default, wherever it stands: options that come later have a name
/// of their own, and what says nothing takes no room.
impl Serialize for Options {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self {
            priority,
            delay_ms,
            at_ms,
            ttl_ms,
            timeout_ms,
            retries,
            backoff_ms,
            backoff_max_ms,
            tags,
            unique,
            unique_for_ms,
        } = self;
        let none = Self::NONE;
        let present = [
            *priority != none.priority,
            delay_ms.is_some(),
            at_ms.is_some(),
            ttl_ms.is_some(),
            timeout_ms.is_some(),
            *retries != none.retries,
            *backoff_ms != none.backoff_ms,
            *backoff_max_ms != none.backoff_max_ms,
            *tags != none.tags,
            unique.is_some(),
            unique_for_ms.is_some(),
        ];
        let count = present.iter().filter(|is_present| **is_present).count();
        let mut map = serializer.serialize_map(Some(count))?;
        if *priority != none.priority {
            map.serialize_entry("priority", priority)?;
        }
        let times = [("delay_ms", *delay_ms), ("at_ms", at_ms.map(|at| at.0)), ("ttl_ms", *ttl_ms)];
        for (key, ms) in times.into_iter().chain([("timeout_ms", *timeout_ms)]) {
            if let Some(ms) = ms {
                map.serialize_entry(key, &ms)?;
            }
        }
        if *retries != none.retries {
            map.serialize_entry("retries", retries)?;
        }
        if *backoff_ms != none.backoff_ms {
            map.serialize_entry("backoff_ms", backoff_ms)?;
        }
        if *backoff_max_ms != none.backoff_max_ms {
            map.serialize_entry("backoff_max_ms", backoff_max_ms)?;
        }
        if *tags != none.tags {
            map.serialize_entry("tags", tags)?;
        }
        if let Some(key) = unique {
            map.serialize_entry("unique", key)?;
        }
        if let Some(ms) = unique_for_ms {
            map.serialize_entry("unique_for_ms", ms)?;
        }
        map.end()
    }
}

/// A set of tags, in order of name; most are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tags(Option<Arc<[Tag]>>);

impl Tags {
    /// Makes a set; a tag that is named twice is in it once.
    #[must_use]
    pub fn new(tags: impl IntoIterator<Item = Tag>) -> Self {
        let mut tags: Vec<Tag> = tags.into_iter().collect();
        tags.sort();
        tags.dedup();
        Self((!tags.is_empty()).then(|| tags.into()))
    }

    /// Returns the tags in order of name.
    #[must_use]
    pub fn as_slice(&self) -> &[Tag] {
        self.0.as_deref().unwrap_or_default()
    }

    /// Tells whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Tells whether all of these tags are among the other ones.
    #[must_use]
    pub fn are_among(&self, others: &Self) -> bool {
        let others = others.as_slice();
        self.as_slice().iter().all(|tag| others.binary_search(tag).is_ok())
    }

    /// Says why these are too many.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let count = self.as_slice().len();
        (count > TAGS_MAX).then(|| format!("{count} tags; at most {TAGS_MAX}"))
    }

    /// Returns about how many bytes of memory they take.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.as_slice().iter().map(|tag| tag.as_str().len() + 48).sum()
    }
}

impl Serialize for Tags {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.as_slice().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Tags {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        list::<Tag, D>(deserializer).map(Self::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(names: &[&str]) -> Tags {
        Tags::new(names.iter().map(|name| Tag::new(name).unwrap()))
    }

    #[test]
    fn options_survive_their_bytes_and_the_default_has_none() {
        assert_eq!(Options::default(), *Options::NONE);
        assert!(Options::NONE.to_bytes().is_empty());
        let options = Options {
            priority: 9,
            delay_ms: Some(1),
            at_ms: Some(Millis(2)),
            ttl_ms: Some(3),
            timeout_ms: Some(4),
            retries: 5,
            backoff_ms: 6,
            backoff_max_ms: 7,
            tags: tags(&["gpu", "zone=a", "gpu"]),
            unique: Some(UniqueKey::new("invoice 4711").unwrap()),
            unique_for_ms: Some(8),
        };
        assert_eq!(rmp_serde::from_slice::<Options>(&options.to_bytes()).unwrap(), options);
        let one = Options { retries: 1, ..Options::default() };
        assert_eq!(one.to_bytes(), b"\x81\xa7retries\x01");
    }

    #[test]
    fn faults_name_what_is_out_of_bounds() {
        let fault = |options: Options| options.fault().unwrap_or_default();
        assert_eq!(fault(Options::default()), "");
        assert!(fault(Options { priority: 10, ..Options::default() }).contains("0 to 9"));
        assert!(fault(Options { ttl_ms: Some(0), ..Options::default() }).contains("ttl"));
        let endless = Options { unique_for_ms: Some(1), ..Options::default() };
        assert!(fault(endless).contains("name the key"));
        assert!(fault(Options { retries: 1001, ..Options::default() }).contains("1000"));
        let both = Options { delay_ms: Some(1), at_ms: Some(Millis(1)), ..Options::default() };
        assert!(fault(both).contains("one of them"));
        let long = Options { timeout_ms: Some(u64::MAX), ..Options::default() };
        assert!(fault(long).contains("ten years"));
        assert!(fault(Options { backoff_ms: 700_000, ..Options::default() }).contains("shorter"));
    }

    #[test]
    fn tags_are_a_set() {
        assert!(tags(&["gpu"]).are_among(&tags(&["zone=a", "gpu"])));
        assert!(!tags(&["gpu", "fast"]).are_among(&tags(&["gpu"])));
        assert!(tags(&[]).are_among(&tags(&[])) && tags(&[]).is_empty());
    }
}

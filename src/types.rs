//! The words every room shares: ids, indexes and times, each a type of its own.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Declares a newtype over `u64` that prints as its number.
macro_rules! number {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number! {
    /// A node of the cluster, 1 or more; never used again once its disk is lost.
    NodeId
}
number! {
    /// A Raft term; 0 is before any election (Raft paper §5.1).
    Term
}
number! {
    /// A position in the Raft log; the first entry is 1, 0 is before it (Raft paper §5.3).
    Index
}
number! {
    /// Milliseconds since the Unix epoch, on a wall clock or on the clock of the log.
    Millis
}
number! {
    /// A count of 10 ms steps of monotonic time; the only time that `raft/` knows.
    Ticks
}
number! {
    /// One start of one worker, drawn by the worker itself. A worker registers anew under a higher one
    /// each time it starts and each time it was judged lost, so that a start that is over is known by its
    /// number, however late its registration comes. At most [`Incarnation::MAX`].
    Incarnation
}
number! {
    /// The token of one assignment: index of the `AssignJob` entry × 4096 + position in it.
    /// Strictly rising in the cluster; an older one is refused as `STALE_FENCE`. 0 is no fence.
    Fence
}

/// Milliseconds in one tick.
pub const TICK_MS: u64 = 10;

/// How many assignments one `AssignJob` entry holds at most, so that fences stay unique.
pub const ASSIGNMENTS_PER_ENTRY_MAX: u64 = 4096;

impl Index {
    /// Returns the position after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Returns the position before this one; 0 stays 0.
    #[must_use]
    pub fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl Term {
    /// Returns the term after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Incarnation {
    /// The highest one, so that the numbers fit the signed integers of every language.
    pub const MAX: Self = Self((1 << 63) - 1);

    /// How many of the lowest bits are random: two starts in one millisecond differ.
    const RANDOM_BITS: u32 = 20;

    /// The wall clock from where on it counts no more (the year 2109): there is always room above.
    const WALL_MAX: Millis = Millis(1 << 42);

    /// Draws the first start of a process: higher than that of every process before it, as far as the wall
    /// clock is right.
    #[must_use]
    pub fn first(wall: Millis, random: u64) -> Self {
        let wall = wall.min(Self::WALL_MAX).0;
        Self((wall << Self::RANDOM_BITS | Self::random(random)).max(1))
    }

    /// Tells whether this one may register where `standing` is the highest that did. Beyond what a clock gives,
    /// numbers rise by no more than [`Incarnation::next`] adds: nobody can use them up, and shut the name out or
    /// be taken for the next one that draws the last.
    #[must_use]
    pub fn may_follow(self, standing: Option<Self>) -> bool {
        let by_clock = Self::first(Self::WALL_MAX, u64::MAX);
        let by_step = standing.map_or(0, |it| it.0.saturating_add(2 << Self::RANDOM_BITS));
        self <= Self::MAX && self.0 <= by_clock.0.max(by_step)
    }

    /// Draws the start after this one: higher than it, and than the one that a refusal named, if one did.
    #[must_use]
    pub fn next(self, named: Option<Self>, random: u64) -> Self {
        let above = named.unwrap_or_default().max(self).0;
        Self(above.saturating_add(1 << Self::RANDOM_BITS).saturating_add(Self::random(random)))
            .min(Self::MAX)
    }

    fn random(random: u64) -> u64 {
        random & ((1 << Self::RANDOM_BITS) - 1)
    }
}

impl Fence {
    /// Builds the fence of the assignment at `position` of the entry at `index`.
    ///
    /// # Panics
    /// If `position` is [`ASSIGNMENTS_PER_ENTRY_MAX`] or more: no entry holds so many.
    #[must_use]
    pub fn new(index: Index, position: u64) -> Self {
        assert!(position < ASSIGNMENTS_PER_ENTRY_MAX, "assignment {position} in one entry");
        Self(index.0 * ASSIGNMENTS_PER_ENTRY_MAX + position)
    }
}

impl Millis {
    /// Returns the time from `earlier` to this one, or 0 if it is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Sixteen bytes that name one thing, printed as 32 lower-case hexadecimal digits.
macro_rules! id16 {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                parse_id16(text).map(Self)
            }
        }

        /// Written as 16 raw bytes (MessagePack `bin`), never as text.
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bytes(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                <serde_bytes::ByteArray<16>>::deserialize(deserializer)
                    .map(|bytes| Self(bytes.into_array()))
            }
        }
    };
}

id16! {
    /// A job: 48 bits of milliseconds since the epoch, then 80 random bits, made by the client,
    /// so that a submit whose outcome is unknown can be sent again (`wire-spec.md`, job ids).
    JobId
}
id16! {
    /// A cluster, drawn by its first leader. All zero: not known yet.
    ClusterId
}
id16! {
    /// A data directory, drawn when it is made: a node whose directory was lost is another voter.
    DirId
}

impl JobId {
    /// Makes an id from the time and 80 random bits (the low 80 of `random`).
    #[must_use]
    pub fn new(now: Millis, random: u128) -> Self {
        let value = (u128::from(now.0) << 80) | (random & ((1 << 80) - 1));
        Self(value.to_be_bytes())
    }
}

impl ClusterId {
    /// Tells whether this is the id of no cluster yet.
    #[must_use]
    pub fn is_unknown(self) -> bool {
        self == Self::default()
    }
}

/// A text that is not an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id is 32 hexadecimal digits, such as 0192f3a07c6e4b1d8f00a1b2c3d4e5f6")]
pub struct IdError;

fn parse_id16(text: &str) -> Result<[u8; 16], IdError> {
    let digits = text.as_bytes();
    if digits.len() != 32 {
        return Err(IdError);
    }
    let mut id = [0; 16];
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        let (Some(high), Some(low)) = (pair.first().and_then(hex), pair.last().and_then(hex))
        else {
            return Err(IdError);
        };
        *byte = high << 4 | low;
    }
    Ok(id)
}

fn hex(digit: &u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Declares a short name: 1 to 64 characters of those that the check allows.
macro_rules! name {
    ($(#[$meta:meta])* $name:ident, $check:path) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks a text and makes it a name.
            ///
            /// # Errors
            /// [`NameError`] if it is empty, too long or has a character that it must not have.
            pub fn new(text: &str) -> Result<Self, NameError> {
                $check(text).map(|()| Self(Arc::from(text)))
            }

            /// Makes a text a name that shares the memory of the former one if it is the same.
            ///
            /// # Errors
            /// As [`Self::new`].
            pub fn new_or_shared(text: &str, former: Option<&Self>) -> Result<Self, NameError> {
                match former {
                    Some(former) if former.as_str() == text => Ok(former.clone()),
                    Some(_) | None => Self::new(text),
                }
            }

            /// Returns the text of the name.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;

                impl serde::de::Visitor<'_> for Text {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("a string")
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        $name::new(text).map_err(E::custom)
                    }
                }

                deserializer.deserialize_str(Text)
            }
        }
    };
}

name! {
    /// A worker, the same over its restarts: `node-3` for the built-in one of node 3.
    WorkerId, check_name
}
name! {
    /// A queue; it exists as soon as a job names it.
    QueueName, check_name
}
name! {
    /// What a worker has and a job can ask for, such as `gpu` or `zone=a`; compared whole.
    Tag, check_tag
}
name! {
    /// What makes a job unique in its queue, such as `invoice 4711`.
    UniqueKey, check_key
}
name! {
    /// A cron; there is one of a name.
    CronName, check_name
}

impl WorkerId {
    /// Returns the name of the worker built into a node.
    ///
    /// # Panics
    /// Never: the text made here is a name.
    #[must_use]
    pub fn built_in(node: NodeId) -> Self {
        Self::new(&format!("node-{node}")).expect("letters, a dash and digits are a name")
    }
}

impl UniqueKey {
    /// Bytes of a key, at most.
    pub const BYTES_MAX: usize = 256;
}

impl QueueName {
    /// The text of [`QueueName::default`].
    pub const DEFAULT: &str = "default";
}

impl Default for QueueName {
    /// The queue of a submit that names none.
    fn default() -> Self {
        Self(Arc::from(Self::DEFAULT))
    }
}

/// A text that is not a name, and what one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NameError(&'static str);

fn check_name(text: &str) -> Result<(), NameError> {
    check(text, b"._-").ok_or(NameError("a name is 1 to 64 of the characters A-Z a-z 0-9 . _ -"))
}

fn check_tag(text: &str) -> Result<(), NameError> {
    check(text, b"._-=:/")
        .ok_or(NameError("a tag is 1 to 64 of the characters A-Z a-z 0-9 . _ - = : /"))
}

fn check_key(text: &str) -> Result<(), NameError> {
    let is_plain =
        (1..=UniqueKey::BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
    is_plain.then_some(()).ok_or(NameError(
        "a unique key is 1 to 256 bytes of text without control characters; for a longer one, take its hash",
    ))
}

fn check(text: &str, marks: &[u8]) -> Option<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || marks.contains(&byte);
    ((1..=64).contains(&text.len()) && text.bytes().all(plain)).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_rise_with_the_clock_and_after_each_other_and_end_at_the_highest() {
        for random in [0, 1, u64::MAX] {
            let first = Incarnation::first(Millis(1_800_000_000_000), random);
            assert!(first < Incarnation::first(Millis(1_800_000_000_001), 0));
            assert!(first < first.next(None, 0) && first.next(None, random) < Incarnation::MAX);
            let named = Incarnation(first.0 + 77);
            assert!(named < first.next(Some(named), 0));
            assert!(first < first.next(Some(Incarnation(3)), 0), "never below itself");
        }
        assert!(Incarnation::first(Millis(0), 0) > Incarnation(0));
        let wild = Incarnation::first(Millis(u64::MAX), u64::MAX);
        assert!(wild.next(None, u64::MAX) < Incarnation::MAX, "a clock that is wrong leaves room");
        assert!(wild.may_follow(None) && !Incarnation(wild.0 + 1).may_follow(None));
        let next = wild.next(None, u64::MAX);
        assert!(next.may_follow(Some(wild)) && !next.may_follow(None));
        assert!(!Incarnation(wild.0 + (2 << 20) + 1).may_follow(Some(wild)));
        assert!(!Incarnation(u64::MAX).may_follow(Some(Incarnation::MAX)));
    }

    #[test]
    fn job_id_prints_and_parses_back() {
        let id = JobId::new(Millis(0x0192_f3a0_7c6e), 7);
        assert_eq!(id.to_string(), "0192f3a07c6e00000000000000000007");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("0192f3a07c6e".parse::<JobId>(), Err(IdError));
        assert_eq!("zz92f3a07c6e00000000000000000007".parse::<JobId>(), Err(IdError));
    }

    #[test]
    fn job_ids_sort_by_time() {
        assert!(JobId::new(Millis(1), u128::MAX) < JobId::new(Millis(2), 0));
    }

    #[test]
    fn names_refuse_what_a_shell_would_trip_over() {
        assert!(QueueName::new("mail.high-1_x").is_ok());
        for bad in ["", "a b", "é", "a/b", &"x".repeat(65)] {
            assert!(QueueName::new(bad).is_err(), "{bad:?}");
            assert!(Tag::new(bad).is_err() || bad == "a/b", "{bad:?}");
        }
        assert!(Tag::new("zone=eu:1/a").is_ok() && QueueName::new("zone=a").is_err());
    }

    #[test]
    fn fences_rise_with_index_and_position() {
        assert_eq!(Fence::new(Index(2), 3), Fence(2 * 4096 + 3));
        assert!(Fence::new(Index(2), 4095) < Fence::new(Index(3), 0));
    }
}

//! MessagePack with every size and depth bounded: what comes from outside is scanned before it is read.
//!
//! The profile (`wire-spec.md` §4): one value and nothing after it, no floats, no extensions, map keys are
//! strings and each stands once in its map. Integers may come in any width. [`scan`] checks all of that in
//! one pass that allocates next to nothing, so that a reader behind it can trust every count.

pub mod unpack;

use bytes::{BufMut, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::pack::unpack::Structs;

/// How deep arrays and maps may nest. Our own types need 8 at most; a deeper value is refused.
pub const DEPTH_MAX: usize = 32;

/// Values in one piece of MessagePack, at most, counting every key and every element; more are refused.
/// A value costs a reader up to some 60 bytes beside its own (a word of a command does), so this bounds its memory.
pub const ELEMENTS_MAX: usize = 1 << 20;

/// Entries of one map, at most; more are refused. Our largest has 14. It keeps the search for a
/// duplicate key short.
pub const MAP_ENTRIES_MAX: usize = 64;

/// Why bytes are not the MessagePack that was wanted. Always the fault of whoever wrote them; reading
/// them changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// The value needs more bytes than there are, or a count promises more than can follow.
    #[error("the value ends before it is complete")]
    Truncated,
    /// Bytes follow the value.
    #[error("{0} bytes follow the value")]
    Trailing(usize),
    /// Arrays and maps are nested deeper than [`DEPTH_MAX`].
    #[error("nested deeper than {DEPTH_MAX}")]
    TooDeep,
    /// More values than the bound.
    #[error("more than {0} values")]
    TooMany(usize),
    /// A map has more entries than [`MAP_ENTRIES_MAX`].
    #[error("a map of {0} entries; at most {MAP_ENTRIES_MAX}")]
    MapTooLarge(usize),
    /// A first byte that the profile leaves out: 0xc1, a float or an extension.
    #[error("byte 0x{0:02x}: floats, extensions and 0xc1 are not allowed")]
    Format(u8),
    /// A string is not UTF-8.
    #[error("a string is not UTF-8")]
    Utf8,
    /// A map's key is not a string.
    #[error("a map's key is not a string")]
    KeyNotText,
    /// A key stands twice in one map.
    #[error("the key {0:?} stands twice in one map")]
    DuplicateKey(String),
    /// A value of another type than wanted, a key that is missing, a number out of range.
    #[error("{0}")]
    Mismatch(String),
    /// A value of ours cannot be written as MessagePack: a fault in this program.
    #[error("cannot be encoded: {0}")]
    Encode(String),
}

/// One value's head; arrays and maps are followed by their elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token<'a> {
    /// Nothing.
    Nil,
    /// True or false.
    Bool(bool),
    /// A whole number, 0 or more, whatever its width on the wire.
    Unsigned(u64),
    /// A whole number below 0.
    Negative(i64),
    /// A text.
    Text(&'a str),
    /// Raw bytes.
    Bytes(&'a [u8]),
    /// So many values follow.
    Array(usize),
    /// So many pairs follow, a key and a value each.
    Map(usize),
}

impl Token<'_> {
    /// Returns the type's name, as error texts have it.
    #[must_use]
    pub fn type_name(self) -> &'static str {
        match self {
            Self::Nil => "nil",
            Self::Bool(_) => "a boolean",
            Self::Unsigned(_) | Self::Negative(_) => "an integer",
            Self::Text(_) => "a string",
            Self::Bytes(_) => "bytes",
            Self::Array(_) => "an array",
            Self::Map(_) => "a map",
        }
    }
}

/// Reads MessagePack token by token, borrowing texts and bytes from the input.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Returns how many bytes have not been read yet.
    #[must_use]
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// Reads the next token.
    ///
    /// # Errors
    /// [`PackError::Truncated`], [`PackError::Format`] or [`PackError::Utf8`]; a count of elements that
    /// the bytes left cannot hold is truncated too, so that nobody reserves room for it.
    pub fn token(&mut self) -> Result<Token<'a>, PackError> {
        let head = u8::from_be_bytes(self.array()?);
        match head {
            0x00..=0x7f => Ok(Token::Unsigned(head.into())),
            0x80..=0x8f => self.map(usize::from(head & 0x0f)),
            0x90..=0x9f => self.elements(usize::from(head & 0x0f)),
            0xa0..=0xbf => self.text(usize::from(head & 0x1f)),
            0xc0 => Ok(Token::Nil),
            0xc2 => Ok(Token::Bool(false)),
            0xc3 => Ok(Token::Bool(true)),
            0xc4 => self.length8().and_then(|count| self.take(count)).map(Token::Bytes),
            0xc5 => self.length16().and_then(|count| self.take(count)).map(Token::Bytes),
            0xc6 => self.length32().and_then(|count| self.take(count)).map(Token::Bytes),
            0xcc => Ok(Token::Unsigned(u8::from_be_bytes(self.array()?).into())),
            0xcd => Ok(Token::Unsigned(u16::from_be_bytes(self.array()?).into())),
            0xce => Ok(Token::Unsigned(u32::from_be_bytes(self.array()?).into())),
            0xcf => Ok(Token::Unsigned(u64::from_be_bytes(self.array()?))),
            0xd0 => Ok(signed(i8::from_be_bytes(self.array()?).into())),
            0xd1 => Ok(signed(i16::from_be_bytes(self.array()?).into())),
            0xd2 => Ok(signed(i32::from_be_bytes(self.array()?).into())),
            0xd3 => Ok(signed(i64::from_be_bytes(self.array()?))),
            0xd9 => self.length8().and_then(|count| self.text(count)),
            0xda => self.length16().and_then(|count| self.text(count)),
            0xdb => self.length32().and_then(|count| self.text(count)),
            0xdc => self.length16().and_then(|count| self.elements(count)),
            0xdd => self.length32().and_then(|count| self.elements(count)),
            0xde => self.length16().and_then(|count| self.map(count)),
            0xdf => self.length32().and_then(|count| self.map(count)),
            0xe0..=0xff => Ok(signed(head.cast_signed().into())),
            0xc1 | 0xc7..=0xcb | 0xd4..=0xd8 => Err(PackError::Format(head)),
        }
    }

    /// Reads a nil if one comes next, and tells whether; anything else stays where it is.
    ///
    /// # Errors
    /// [`PackError::Truncated`] if nothing comes next.
    pub fn nil(&mut self) -> Result<bool, PackError> {
        let (head, rest) = self.rest.split_first().ok_or(PackError::Truncated)?;
        let is_nil = *head == 0xc0;
        if is_nil {
            self.rest = rest;
        }
        Ok(is_nil)
    }

    /// Skips one value with everything in it. For input that [`scan`] has passed: it keeps no bounds of
    /// its own, but needs no memory either.
    ///
    /// # Errors
    /// As [`Reader::token`].
    pub fn skip(&mut self) -> Result<(), PackError> {
        // Every value still expected needs a byte at least, so the sum cannot outgrow the input.
        let mut expected = 1_usize;
        while expected > 0 {
            expected -= 1;
            expected += match self.token()? {
                Token::Array(count) => count,
                Token::Map(count) => count.saturating_mul(2),
                Token::Nil
                | Token::Bool(_)
                | Token::Unsigned(_)
                | Token::Negative(_)
                | Token::Text(_)
                | Token::Bytes(_) => 0,
            };
        }
        Ok(())
    }

    /// Reads an integer that is 0 or more.
    ///
    /// # Errors
    /// [`PackError::Mismatch`] if it is something else, or as [`Reader::token`].
    pub fn unsigned(&mut self) -> Result<u64, PackError> {
        let token = self.token()?;
        let Token::Unsigned(number) = token else {
            return Err(mismatch("an integer of 0 or more", token));
        };
        Ok(number)
    }

    /// Reads true or false.
    ///
    /// # Errors
    /// As [`Reader::unsigned`].
    pub fn boolean(&mut self) -> Result<bool, PackError> {
        let token = self.token()?;
        let Token::Bool(flag) = token else { return Err(mismatch("a boolean", token)) };
        Ok(flag)
    }

    /// Reads raw bytes.
    ///
    /// # Errors
    /// As [`Reader::unsigned`].
    pub fn bytes(&mut self) -> Result<&'a [u8], PackError> {
        let token = self.token()?;
        let Token::Bytes(bytes) = token else { return Err(mismatch("bytes", token)) };
        Ok(bytes)
    }

    /// Reads a text.
    ///
    /// # Errors
    /// As [`Reader::unsigned`].
    pub fn str(&mut self) -> Result<&'a str, PackError> {
        let token = self.token()?;
        let Token::Text(text) = token else { return Err(mismatch("a string", token)) };
        Ok(text)
    }

    /// Reads the head of an array and returns how many elements follow.
    ///
    /// # Errors
    /// As [`Reader::unsigned`].
    pub fn array_head(&mut self) -> Result<usize, PackError> {
        let token = self.token()?;
        let Token::Array(count) = token else { return Err(mismatch("an array", token)) };
        Ok(count)
    }

    /// Makes sure that nothing is left.
    ///
    /// # Errors
    /// [`PackError::Trailing`].
    pub fn finish(&self) -> Result<(), PackError> {
        if self.rest.is_empty() { Ok(()) } else { Err(PackError::Trailing(self.rest.len())) }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], PackError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(PackError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PackError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(PackError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn length8(&mut self) -> Result<usize, PackError> {
        Ok(u8::from_be_bytes(self.array()?).into())
    }

    fn length16(&mut self) -> Result<usize, PackError> {
        Ok(u16::from_be_bytes(self.array()?).into())
    }

    fn length32(&mut self) -> Result<usize, PackError> {
        // A length that no `usize` holds is beyond any input.
        usize::try_from(u32::from_be_bytes(self.array()?))
            .map_err(|_too_large| PackError::Truncated)
    }

    fn text(&mut self, count: usize) -> Result<Token<'a>, PackError> {
        let bytes = self.take(count)?;
        std::str::from_utf8(bytes).map(Token::Text).map_err(|_where| PackError::Utf8)
    }

    fn elements(&self, count: usize) -> Result<Token<'a>, PackError> {
        if count > self.rest.len() { Err(PackError::Truncated) } else { Ok(Token::Array(count)) }
    }

    fn map(&self, count: usize) -> Result<Token<'a>, PackError> {
        if count > self.rest.len() / 2 { Err(PackError::Truncated) } else { Ok(Token::Map(count)) }
    }
}

/// Says that a value has the wrong type.
#[must_use]
pub fn mismatch(wanted: &str, found: Token<'_>) -> PackError {
    PackError::Mismatch(format!("{} where {wanted} belongs", found.type_name()))
}

fn signed(number: i64) -> Token<'static> {
    u64::try_from(number).map_or(Token::Negative(number), Token::Unsigned)
}

/// Checks that `bytes` are one MessagePack value of our profile and nothing else.
///
/// # Errors
/// The first [`PackError`] found; never `Mismatch` or `Encode`.
pub fn scan(bytes: &[u8]) -> Result<(), PackError> {
    scan_bounded(bytes, ELEMENTS_MAX)
}

/// As [`scan`], with a bound of one's own on the values in it.
///
/// # Errors
/// As [`scan`].
pub fn scan_bounded(bytes: &[u8], elements_max: usize) -> Result<(), PackError> {
    let mut scan = Scan { reader: Reader::new(bytes), left: elements_max, elements_max };
    scan.value(0)?;
    scan.reader.finish()
}

/// A scan on its way; `left` is how many more values it will bear.
struct Scan<'a> {
    reader: Reader<'a>,
    left: usize,
    elements_max: usize,
}

impl<'a> Scan<'a> {
    /// Scans one value that has `depth` arrays and maps around it.
    fn value(&mut self, depth: usize) -> Result<(), PackError> {
        match self.counted()? {
            Token::Nil
            | Token::Bool(_)
            | Token::Unsigned(_)
            | Token::Negative(_)
            | Token::Text(_)
            | Token::Bytes(_) => Ok(()),
            Token::Array(_) | Token::Map(_) if depth >= DEPTH_MAX => Err(PackError::TooDeep),
            Token::Array(count) => (0..count).try_for_each(|_| self.value(depth + 1)),
            Token::Map(count) => self.map(count, depth),
        }
    }

    fn map(&mut self, count: usize, depth: usize) -> Result<(), PackError> {
        if count > MAP_ENTRIES_MAX {
            return Err(PackError::MapTooLarge(count));
        }
        let mut keys: Vec<&'a str> = Vec::with_capacity(count);
        for _ in 0..count {
            let Token::Text(key) = self.counted()? else { return Err(PackError::KeyNotText) };
            if keys.contains(&key) {
                return Err(PackError::DuplicateKey(key.chars().take(64).collect()));
            }
            keys.push(key);
            self.value(depth + 1)?;
        }
        Ok(())
    }

    fn counted(&mut self) -> Result<Token<'a>, PackError> {
        self.left = self.left.checked_sub(1).ok_or(PackError::TooMany(self.elements_max))?;
        self.reader.token()
    }
}

/// Reads one value of type `T`, after a [`scan`]. Takes structs as maps and as arrays alike: for what
/// this program wrote itself.
///
/// # Errors
/// What [`scan`] found, or [`PackError::Mismatch`] if it is no `T`.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, PackError> {
    scan(bytes)?;
    unpack::unpack(bytes, Structs::Either)
}

/// Appends `value` to `out`, structs as maps with their fields' names as keys: for what others read, and
/// what must outlive a change of the type.
///
/// # Errors
/// [`PackError::Encode`] if the type has something MessagePack has not; `out` may hold a part of it then.
pub fn encode_named<T: Serialize + ?Sized>(value: &T, out: &mut BytesMut) -> Result<(), PackError> {
    let mut serializer = rmp_serde::Serializer::new(out.writer()).with_struct_map();
    value.serialize(&mut serializer).map_err(|error| PackError::Encode(error.to_string()))
}

/// Appends `value` to `out`, structs as arrays in the order of their fields: smaller, and bound to this
/// very version of the type.
///
/// # Errors
/// As [`encode_named`].
pub fn encode_positional<T: Serialize + ?Sized>(
    value: &T,
    out: &mut BytesMut,
) -> Result<(), PackError> {
    let mut serializer = rmp_serde::Serializer::new(out.writer());
    value.serialize(&mut serializer).map_err(|error| PackError::Encode(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scan_takes_one_value_of_every_allowed_format() {
        for bytes in [
            &b"\x00"[..],
            b"\x81\xa1a\x01",
            b"\x92\x01\xc0",
            b"\xa3abc",
            b"\xc2",
            b"\xc4\x02\xff\xfe",
            b"\xc5\x00\x01x",
            b"\xc6\x00\x00\x00\x01x",
            b"\xcc\x05",
            b"\xcd\x00\x05",
            b"\xce\x00\x00\x00\x05",
            b"\xcf\x00\x00\x00\x00\x00\x00\x00\x05",
            b"\xd0\x05",
            b"\xd1\xff\xff",
            b"\xd2\xff\xff\xff\xff",
            b"\xd3\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\xd9\x01x",
            b"\xda\x00\x01x",
            b"\xdb\x00\x00\x00\x01x",
            b"\xdc\x00\x01\x00",
            b"\xdd\x00\x00\x00\x01\x00",
            b"\xde\x00\x01\xa1a\x00",
            b"\xdf\x00\x00\x00\x01\xa1a\x00",
            b"\xe0",
        ] {
            assert_eq!(scan(bytes), Ok(()), "{bytes:02x?}");
        }
    }

    #[test]
    fn scan_names_what_is_wrong() {
        for (bytes, error) in [
            (&b""[..], PackError::Truncated),
            (b"\xdd\xff\xff\xff\xff", PackError::Truncated),
            (b"\xdf\xff\xff\xff\xff\xa1a", PackError::Truncated),
            (b"\xc6\xff\xff\xff\xff", PackError::Truncated),
            (b"\x00\x00", PackError::Trailing(1)),
            (b"\xc1", PackError::Format(0xc1)),
            (b"\xca\x00\x00\x00\x00", PackError::Format(0xca)),
            (b"\xd4\x00\x00", PackError::Format(0xd4)),
            (b"\xa1\xff", PackError::Utf8),
            (b"\x81\x01\x01", PackError::KeyNotText),
            (b"\x82\xa1a\x01\xa1a\x02", PackError::DuplicateKey("a".into())),
        ] {
            assert_eq!(scan(bytes), Err(error), "{bytes:02x?}");
        }
    }

    #[test]
    fn scan_nesting_of_33_is_too_deep() {
        let nested = |depth: usize| [vec![0x91; depth], vec![0x00]].concat();
        assert_eq!(scan(&nested(DEPTH_MAX)), Ok(()));
        assert_eq!(scan(&nested(DEPTH_MAX + 1)), Err(PackError::TooDeep));
        assert_eq!(scan(&vec![0x91; 1 << 20]), Err(PackError::TooDeep));
    }

    #[test]
    fn scan_counts_every_value() {
        let three = b"\x93\x00\x00\x00";
        assert_eq!(scan_bounded(three, 4), Ok(()));
        assert_eq!(scan_bounded(three, 3), Err(PackError::TooMany(3)));
    }

    #[test]
    fn integers_of_any_width_are_the_same_number() {
        for bytes in [&b"\x05"[..], b"\xcc\x05", b"\xd3\x00\x00\x00\x00\x00\x00\x00\x05"] {
            assert_eq!(decode::<u64>(bytes), Ok(5));
            assert_eq!(Reader::new(bytes).token(), Ok(Token::Unsigned(5)));
        }
        assert_eq!(Reader::new(b"\xff").token(), Ok(Token::Negative(-1)));
    }

    #[test]
    fn decode_refuses_trailing_bytes() {
        assert_eq!(decode::<u64>(b"\x05\x06"), Err(PackError::Trailing(1)));
    }
}

//! MessagePack into types, taking nothing for something else, and no memory on the word of a count.
//!
//! `rmp-serde` reserves up to a MiB for whatever an array's head claims, level by level: six bytes cost a
//! MiB. Here nothing is reserved before the size of an element is known, and elements that are larger than
//! what writes them (a list of results, three bytes each) are paid from an allowance of
//! [`ALLOWANCE_PER_BYTE`] times the input and [`ALLOWANCE_BYTES`]. What honest nodes and clients write
//! stays below it by far.

use std::cell::Cell;
use std::fmt::Write;
use std::marker::PhantomData;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, Deserialize, DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};
use serde::{Deserializer, forward_to_deserialize_any};

use crate::pack::{PackError, Reader, Token, mismatch};

/// Bytes that the elements of lists may take, for each byte of the input.
pub const ALLOWANCE_PER_BYTE: usize = 3;

/// Bytes that they may take beside that; more are refused.
pub const ALLOWANCE_BYTES: usize = 48 << 10;

/// An element no larger than this is free. An id takes more bytes on the wire than here; a text of no
/// letters takes one there and [`FREE_BYTES`] here, and only the bound on values
/// ([`crate::pack::ELEMENTS_MAX`]) keeps their number down. Nothing is reserved for such elements on the word
/// of a count.
const FREE_BYTES: usize = 24;

/// Elements that a list reserves room for before they are paid for.
const FIRST_ELEMENTS: usize = 8;

/// Bytes of what is said about a wrong value, at most: the value itself, of any length, may be in it.
const COMPLAINT_BYTES_MAX: usize = 512;

impl de::Error for PackError {
    fn custom<T: std::fmt::Display>(text: T) -> Self {
        let mut complaint = Complaint(String::new());
        if write!(complaint, "{text}").is_err() {
            complaint.0.push_str("...");
        }
        Self::Mismatch(complaint.0)
    }
}

/// A text that takes no more than [`COMPLAINT_BYTES_MAX`], and then fails.
struct Complaint(String);

impl Write for Complaint {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let room = COMPLAINT_BYTES_MAX.saturating_sub(self.0.len());
        let fits = text.get(..text.floor_char_boundary(room)).unwrap_or_default();
        self.0.push_str(fits);
        if fits.len() < text.len() { Err(std::fmt::Error) } else { Ok(()) }
    }
}

/// How structs stand in the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Structs {
    /// As maps with their fields' names as keys; a key whose value is nil counts as missing.
    Named,
    /// As maps, or as arrays in the order of their fields: for what this program wrote itself.
    Either,
}

/// Reads one value of type `T` and nothing after it. The input need not have been scanned, unless what it
/// is skipped of must keep the profile too.
///
/// # Errors
/// [`PackError`]: what is wrong with it, or that its lists take more memory than the allowance.
pub fn unpack<'de, T: Deserialize<'de>>(
    bytes: &'de [u8],
    structs: Structs,
) -> Result<T, PackError> {
    unpack_seed(bytes, structs, PhantomData)
}

/// Reads one value as [`unpack`] does, by a reader that knows more than the bytes say.
///
/// # Errors
/// As [`unpack`].
pub fn unpack_seed<'de, T: DeserializeSeed<'de>>(
    bytes: &'de [u8],
    structs: Structs,
    seed: T,
) -> Result<T::Value, PackError> {
    let allowance = bytes.len().saturating_mul(ALLOWANCE_PER_BYTE).saturating_add(ALLOWANCE_BYTES);
    let mut unpacker = Unpacker { reader: Reader::new(bytes), structs, allowance };
    let value = seed.deserialize(&mut unpacker)?;
    unpacker.reader.finish()?;
    Ok(value)
}

/// Reads a list for a field whose elements are larger than a text: the room for it is reserved at once and
/// exactly, after the first element has shown that the allowance bears them all.
///
/// # Errors
/// The deserializer's.
pub fn list<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    ListOf(Each(PhantomData)).deserialize(deserializer)
}

/// A list read as [`list`] does, for places that take no function.
#[derive(Debug)]
pub struct List<T>(pub Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        list(deserializer).map(Self)
    }
}

/// Reads a list as [`list`] does, each element by the same reader, which may remember those before.
#[derive(Debug)]
pub struct ListOf<S>(pub S);

impl<'de, S, T> DeserializeSeed<'de> for ListOf<S>
where
    for<'a> &'a mut S: DeserializeSeed<'de, Value = T>,
{
    type Value = Vec<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<T>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, S, T> Visitor<'de> for ListOf<S>
where
    for<'a> &'a mut S: DeserializeSeed<'de, Value = T>,
{
    type Value = Vec<T>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Vec<T>, A::Error> {
        let Some(first) = seq.next_element_seed(&mut self.0)? else { return Ok(Vec::new()) };
        let mut items = Vec::with_capacity(seq.size_hint().unwrap_or(0).saturating_add(1));
        items.push(first);
        while let Some(item) = seq.next_element_seed(&mut self.0)? {
            items.push(item);
        }
        Ok(items)
    }
}

/// Reads each element for itself.
struct Each<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for &mut Each<T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        T::deserialize(deserializer)
    }
}

/// Reads types from MessagePack.
struct Unpacker<'de> {
    reader: Reader<'de>,
    structs: Structs,
    /// What lists may still take.
    allowance: usize,
}

impl<'de> Unpacker<'de> {
    fn sequence<V: Visitor<'de>>(
        &mut self,
        visitor: V,
        left: usize,
        held: Held,
    ) -> Result<V::Value, PackError> {
        let mut elements = Elements { unpacker: self, left, held, is_grown: Cell::new(false) };
        let value = visitor.visit_seq(&mut elements)?;
        elements.finish()?;
        Ok(value)
    }

    fn pairs<V: Visitor<'de>>(&mut self, visitor: V, left: usize) -> Result<V::Value, PackError> {
        let is_grown = Cell::new(false);
        let mut elements = Elements { unpacker: self, left, held: Held::Fields, is_grown };
        let value = visitor.visit_map(&mut elements)?;
        elements.finish()?;
        Ok(value)
    }

    /// Pays for so many elements of this size, or refuses them all before room for one is reserved.
    fn pay(&mut self, count: usize, element_bytes: usize) -> Result<(), PackError> {
        let wanted = count.saturating_mul(element_bytes);
        self.allowance = self.allowance.checked_sub(wanted).ok_or_else(|| {
            PackError::Mismatch(format!(
                "a list of {count} elements, more than its bytes can stand for"
            ))
        })?;
        Ok(())
    }
}

impl<'de> Deserializer<'de> for &mut Unpacker<'de> {
    type Error = PackError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, PackError> {
        match self.reader.token()? {
            Token::Nil => visitor.visit_unit(),
            Token::Bool(flag) => visitor.visit_bool(flag),
            Token::Unsigned(number) => visitor.visit_u64(number),
            Token::Negative(number) => visitor.visit_i64(number),
            Token::Text(text) => visitor.visit_borrowed_str(text),
            Token::Bytes(bytes) => visitor.visit_borrowed_bytes(bytes),
            Token::Array(left) => self.sequence(visitor, left, Held::List),
            Token::Map(left) => self.pairs(visitor, left),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, PackError> {
        visitor.visit_borrowed_str(self.reader.str()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, PackError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, PackError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, PackError> {
        visitor.visit_borrowed_bytes(self.reader.bytes()?)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, PackError> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, PackError> {
        if self.reader.nil()? { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, PackError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, PackError> {
        let token = self.reader.token()?;
        let Token::Map(left) = token else { return Err(mismatch("a map", token)) };
        self.pairs(visitor, left)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, PackError> {
        let token = self.reader.token()?;
        if let Token::Map(left) = token {
            return self.pairs(visitor, left);
        }
        match (token, self.structs) {
            (Token::Array(left), Structs::Either) => self.sequence(visitor, left, Held::Fields),
            (token, _) => Err(mismatch("a map", token)),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        _count: usize,
        visitor: V,
    ) -> Result<V::Value, PackError> {
        let left = self.reader.array_head()?;
        self.sequence(visitor, left, Held::Fields)
    }

    /// A variant without content is its name; one with content is a map of one pair.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, PackError> {
        let token = self.reader.token()?;
        if let Token::Text(name) = token {
            return visitor.visit_enum(Choice { name, content: None });
        }
        if token != Token::Map(1) {
            return Err(mismatch("a string or a map of one pair", token));
        }
        let name = self.reader.str()?;
        visitor.visit_enum(Choice { name, content: Some(self) })
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, PackError> {
        self.reader.skip()?;
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char unit unit_struct seq
        tuple_struct
    }
}

/// What an array is read into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    /// A place that is there already: the fields of a struct or a tuple.
    Fields,
    /// A list whose elements are not paid for yet.
    List,
    /// A list whose elements are: room for all of them may be reserved.
    Paid,
    /// A list whose elements need not be paid for: its room grows with what has really come.
    Free,
}

/// The elements of an array, or the pairs of a map, that are still to be read.
struct Elements<'a, 'de> {
    unpacker: &'a mut Unpacker<'de>,
    left: usize,
    held: Held,
    /// Somebody asked for the number of elements before the first was read, and was told less: the list
    /// will double its room as it grows.
    is_grown: Cell<bool>,
}

impl Elements<'_, '_> {
    /// Counts one element off; `false`: there is none left.
    fn next(&mut self) -> bool {
        let more = self.left > 0;
        self.left = self.left.saturating_sub(1);
        more
    }

    /// Refuses what has more elements than its reader took.
    fn finish(&self) -> Result<(), PackError> {
        match self.left {
            0 => Ok(()),
            left => Err(PackError::Mismatch(format!("{left} elements more than belong there"))),
        }
    }
}

impl<'de> SeqAccess<'de> for Elements<'_, 'de> {
    type Error = PackError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, PackError> {
        let count = self.left;
        if !self.next() {
            return Ok(None);
        }
        if self.held == Held::List {
            let bytes = size_of::<T::Value>();
            self.held = if bytes > FREE_BYTES { Held::Paid } else { Held::Free };
            if self.held == Held::Paid {
                self.unpacker.pay(count, if self.is_grown.get() { 2 * bytes } else { bytes })?;
            }
        }
        seed.deserialize(&mut *self.unpacker).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        if matches!(self.held, Held::Fields | Held::Paid) {
            return Some(self.left);
        }
        self.is_grown.set(true);
        Some(self.left.min(FIRST_ELEMENTS))
    }
}

impl<'de> MapAccess<'de> for Elements<'_, 'de> {
    type Error = PackError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, PackError> {
        // A key whose value is nil is left out altogether, so that nil means "as if missing" for every
        // key: an optional one gets its default, a required one is named as missing.
        while self.next() {
            let key = self.unpacker.reader.str()?;
            if !self.unpacker.reader.nil()? {
                let key: StrDeserializer<'_, PackError> = key.into_deserializer();
                return seed.deserialize(key).map(Some);
            }
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, PackError> {
        seed.deserialize(&mut *self.unpacker)
    }
}

/// A variant of an enum, by name.
struct Choice<'a, 'de> {
    name: &'de str,
    content: Option<&'a mut Unpacker<'de>>,
}

impl<'a, 'de> EnumAccess<'de> for Choice<'a, 'de> {
    type Error = PackError;
    type Variant = Content<'a, 'de>;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Self::Variant), PackError> {
        let name: StrDeserializer<'_, PackError> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, Content(self.content)))
    }
}

/// What a variant holds.
struct Content<'a, 'de>(Option<&'a mut Unpacker<'de>>);

impl<'a, 'de> Content<'a, 'de> {
    fn needed(self) -> Result<&'a mut Unpacker<'de>, PackError> {
        self.0.ok_or_else(|| PackError::Mismatch("a string where a map of one pair belongs".into()))
    }
}

impl<'de> VariantAccess<'de> for Content<'_, 'de> {
    type Error = PackError;

    fn unit_variant(self) -> Result<(), PackError> {
        match self.0 {
            None => Ok(()),
            Some(_) => Err(PackError::Mismatch("a map where a string belongs".into())),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, PackError> {
        seed.deserialize(self.needed()?)
    }

    fn tuple_variant<V: Visitor<'de>>(
        self,
        _count: usize,
        visitor: V,
    ) -> Result<V::Value, PackError> {
        self.needed()?.deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, PackError> {
        self.needed()?.deserialize_map(visitor)
    }
}

//! Bodies that are maps with named keys: written by serde, read back strictly.
//!
//! `rmp-serde` takes an array where a struct belongs, bytes where a text does, and either the other way
//! round. A protocol that allows this in one version has promised it for ever, so bodies from outside are
//! read by a deserializer that takes exactly what `wire-spec.md` §4 says: structs are maps, texts are
//! `str`, payloads are `bin`. Unknown keys are skipped; `nil` is the same as a missing key.

use bytes::{Bytes, BytesMut};
use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};
use serde::{Deserializer, Serialize, forward_to_deserialize_any};

use crate::pack::{self, PackError, Reader, Token, mismatch};
use crate::wire::error::WireError;

/// Values in the body of one frame, at most; a frame with more is refused. Half of what
/// [`pack::ELEMENTS_MAX`] allows, so that what was taken from the wire always fits into a log entry,
/// whatever is put around it.
pub const BODY_ELEMENTS_MAX: usize = pack::ELEMENTS_MAX / 2;

/// An empty map: what an empty body means.
const EMPTY_MAP: &[u8] = &[0x80];

impl de::Error for PackError {
    fn custom<T: std::fmt::Display>(text: T) -> Self {
        Self::Mismatch(text.to_string())
    }
}

/// Writes a body. For the types of `wire/` only: they are plain structs.
///
/// # Panics
/// Never: structs, lists, texts, numbers and bytes in memory always have a MessagePack form.
pub(crate) fn encode<T: Serialize>(body: &T) -> Bytes {
    let mut out = BytesMut::new();
    pack::encode_named(body, &mut out).expect("plain structs always have a MessagePack form");
    out.freeze()
}

/// Scans and reads the body of a frame of kind `name`. An empty body is an empty map.
pub(crate) fn decode<T: DeserializeOwned>(name: &'static str, body: &[u8]) -> Result<T, WireError> {
    let body = if body.is_empty() { EMPTY_MAP } else { body };
    let fault = |error| WireError::Body { name, error };
    pack::scan_bounded(body, BODY_ELEMENTS_MAX).map_err(fault)?;
    let mut strict = Strict(Reader::new(body));
    T::deserialize(&mut strict).map_err(fault)
}

/// Reads types from scanned MessagePack, taking nothing for something else.
struct Strict<'de>(Reader<'de>);

impl<'de> Deserializer<'de> for &mut Strict<'de> {
    type Error = PackError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, PackError> {
        match self.0.token()? {
            Token::Nil => visitor.visit_unit(),
            Token::Bool(flag) => visitor.visit_bool(flag),
            Token::Unsigned(number) => visitor.visit_u64(number),
            Token::Negative(number) => visitor.visit_i64(number),
            Token::Text(text) => visitor.visit_borrowed_str(text),
            Token::Bytes(bytes) => visitor.visit_borrowed_bytes(bytes),
            Token::Array(left) => visitor.visit_seq(Elements { strict: self, left }),
            Token::Map(left) => visitor.visit_map(Elements { strict: self, left }),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, PackError> {
        visitor.visit_borrowed_str(self.0.str()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, PackError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, PackError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, PackError> {
        visitor.visit_borrowed_bytes(self.0.bytes()?)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, PackError> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, PackError> {
        if self.0.nil()? { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, PackError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, PackError> {
        let token = self.0.token()?;
        let Token::Map(left) = token else { return Err(mismatch("a map", token)) };
        visitor.visit_map(Elements { strict: self, left })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, PackError> {
        self.deserialize_map(visitor)
    }

    /// A variant without content is its name; one with content is a map of one pair.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, PackError> {
        let token = self.0.token()?;
        if let Token::Text(name) = token {
            return visitor.visit_enum(Choice { name, content: None });
        }
        if token != Token::Map(1) {
            return Err(mismatch("a string or a map of one pair", token));
        }
        let name = self.0.str()?;
        visitor.visit_enum(Choice { name, content: Some(self) })
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, PackError> {
        self.0.skip()?;
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char unit unit_struct seq tuple
        tuple_struct
    }
}

/// The elements of an array, or the pairs of a map, that are still to be read.
struct Elements<'a, 'de> {
    strict: &'a mut Strict<'de>,
    left: usize,
}

impl Elements<'_, '_> {
    /// Counts one element off; `false`: there is none left.
    fn next(&mut self) -> bool {
        let more = self.left > 0;
        self.left = self.left.saturating_sub(1);
        more
    }
}

impl<'de> SeqAccess<'de> for Elements<'_, 'de> {
    type Error = PackError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, PackError> {
        if self.next() { seed.deserialize(&mut *self.strict).map(Some) } else { Ok(None) }
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
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
            let key = self.strict.0.str()?;
            if !self.strict.0.nil()? {
                let key: StrDeserializer<'_, PackError> = key.into_deserializer();
                return seed.deserialize(key).map(Some);
            }
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, PackError> {
        seed.deserialize(&mut *self.strict)
    }
}

/// A variant of an enum, by name.
struct Choice<'a, 'de> {
    name: &'de str,
    content: Option<&'a mut Strict<'de>>,
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
struct Content<'a, 'de>(Option<&'a mut Strict<'de>>);

impl<'a, 'de> Content<'a, 'de> {
    fn needed(self) -> Result<&'a mut Strict<'de>, PackError> {
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

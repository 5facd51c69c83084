//! Bodies that are maps with named keys: written by serde, read back strictly.
//!
//! `rmp-serde` takes an array where a struct belongs, bytes where a text does, and either the other way
//! round. A protocol that allows this in one version has promised it for ever, so bodies from outside are
//! read by a deserializer that takes exactly what `wire-spec.md` §4 says: structs are maps, texts are
//! `str`, payloads are `bin`. Unknown keys are skipped; `nil` is the same as a missing key.

use std::marker::PhantomData;

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use serde::de::{Deserialize, DeserializeSeed};

use crate::pack;
use crate::pack::unpack::{Structs, unpack_seed};
use crate::wire::error::WireError;

/// Values in the body of one frame, at most; a frame with more is refused. Half of what
/// [`pack::ELEMENTS_MAX`] allows, so that what was taken from the wire always fits into a log entry,
/// whatever is put around it.
pub const BODY_ELEMENTS_MAX: usize = pack::ELEMENTS_MAX / 2;

/// An empty map: what an empty body means.
const EMPTY_MAP: &[u8] = &[0x80];

/// Writes a body. For the types of `wire/` only: they are plain structs.
///
/// # Panics
/// Never: structs, lists, texts, numbers and bytes in memory always have a MessagePack form.
pub(crate) fn encode<T: Serialize>(body: &T) -> Bytes {
    let mut out = BytesMut::new();
    append(body, &mut out);
    out.freeze()
}

/// Appends a body, as [`encode`] writes it.
///
/// # Panics
/// Never, as [`encode`].
pub(crate) fn append<T: Serialize>(body: &T, out: &mut BytesMut) {
    pack::encode_named(body, out).expect("plain structs always have a MessagePack form");
}

/// Scans and reads the body of a frame of kind `name`. An empty body is an empty map.
pub(crate) fn decode<'de, T: Deserialize<'de>>(
    name: &'static str,
    body: &'de [u8],
) -> Result<T, WireError> {
    decode_seed(name, body, PhantomData)
}

/// As [`decode`], by a reader that knows more than the body says.
pub(crate) fn decode_seed<'de, T: DeserializeSeed<'de>>(
    name: &'static str,
    body: &'de [u8],
    seed: T,
) -> Result<T::Value, WireError> {
    let body = if body.is_empty() { EMPTY_MAP } else { body };
    let fault = |error| WireError::Body { name, error };
    pack::scan_bounded(body, BODY_ELEMENTS_MAX).map_err(fault)?;
    unpack_seed(body, Structs::Named, seed).map_err(fault)
}

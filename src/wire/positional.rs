//! Bodies that are arrays of a fixed layout: what nodes say to each other, written and read by hand.
//!
//! Their layout changes only with the protocol's version, so nothing in them is optional, but the mark of a
//! node that is healing, and nothing may follow. Reading needs no scan: a reader of a fixed layout has no choice to be led astray by.

use bytes::buf::Writer;
use bytes::{BufMut, Bytes, BytesMut};
use rmp::encode;

use crate::pack::{PackError, Reader};
use crate::raft::message::{Configuration, SnapshotMeta, Voter};
use crate::types::{ClusterId, DirId, Index, NodeId, Term};

/// Voters of one configuration, at most (specification, "Cluster Sizing").
pub const VOTERS_MAX: usize = 7;

const IN_MEMORY: &str = "a buffer in memory takes every write";

/// Writes one body.
pub(crate) struct Body(Writer<BytesMut>);

impl Body {
    /// Begins an array of `count` elements, with room for so many bytes.
    pub(crate) fn array(count: u32, bytes: usize) -> Self {
        let mut body = Self(BytesMut::with_capacity(bytes).writer());
        body.nested(count);
        body
    }

    /// Begins an array in the array.
    pub(crate) fn nested(&mut self, count: u32) {
        encode::write_array_len(&mut self.0, count).expect(IN_MEMORY);
    }

    pub(crate) fn uint(&mut self, number: u64) {
        encode::write_uint(&mut self.0, number).expect(IN_MEMORY);
    }

    pub(crate) fn bool(&mut self, flag: bool) {
        encode::write_bool(&mut self.0, flag).expect(IN_MEMORY);
    }

    pub(crate) fn nil(&mut self) {
        encode::write_nil(&mut self.0).expect(IN_MEMORY);
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        encode::write_bin(&mut self.0, bytes).expect(IN_MEMORY);
    }

    pub(crate) fn text(&mut self, text: &str) {
        encode::write_str(&mut self.0, text).expect(IN_MEMORY);
    }

    pub(crate) fn meta(&mut self, meta: &SnapshotMeta) {
        self.nested(4);
        self.uint(meta.index.0);
        self.uint(meta.term.0);
        self.bytes(&meta.configuration.cluster.0);
        self.nested(count(meta.configuration.voters.len()));
        for voter in &meta.configuration.voters {
            self.nested(3);
            self.uint(voter.id.0);
            self.text(&voter.addr);
            match voter.dir {
                Some(dir) => self.bytes(&dir.0),
                None => self.nil(),
            }
        }
    }

    pub(crate) fn finish(self) -> Bytes {
        self.0.into_inner().freeze()
    }
}

/// Returns a count as MessagePack has it.
///
/// # Panics
/// If one message of ours had four billion elements: every list of ours is bounded far below.
pub(crate) fn count(elements: usize) -> u32 {
    u32::try_from(elements).expect("lists of ours have far fewer than 2^32 elements")
}

/// Opens an array of exactly `count` elements.
pub(crate) fn open(reader: &mut Reader<'_>, count: usize) -> Result<(), PackError> {
    let found = reader.array_head()?;
    if found == count {
        return Ok(());
    }
    Err(PackError::Mismatch(format!("an array of {found} where one of {count} belongs")))
}

pub(crate) fn index(reader: &mut Reader<'_>) -> Result<Index, PackError> {
    reader.unsigned().map(Index)
}

pub(crate) fn term(reader: &mut Reader<'_>) -> Result<Term, PackError> {
    reader.unsigned().map(Term)
}

/// Reads sixteen bytes.
pub(crate) fn bytes16(reader: &mut Reader<'_>) -> Result<[u8; 16], PackError> {
    let bytes = reader.bytes()?;
    <[u8; 16]>::try_from(bytes)
        .map_err(|_length| PackError::Mismatch(format!("{} bytes where 16 belong", bytes.len())))
}

pub(crate) fn meta(reader: &mut Reader<'_>) -> Result<SnapshotMeta, PackError> {
    open(reader, 4)?;
    let (index, term) = (index(reader)?, term(reader)?);
    let cluster = ClusterId(bytes16(reader)?);
    let count = reader.array_head()?;
    if !(1..=VOTERS_MAX).contains(&count) {
        return Err(PackError::Mismatch(format!("{count} voters; 1 to {VOTERS_MAX}")));
    }
    let mut voters: Vec<Voter> = Vec::with_capacity(count);
    for _ in 0..count {
        let voter = voter(reader)?;
        if voters.last().is_some_and(|last| last.id >= voter.id) {
            return Err(PackError::Mismatch("voters are not in ascending order of id".into()));
        }
        voters.push(voter);
    }
    Ok(SnapshotMeta { index, term, configuration: Configuration { cluster, voters } })
}

fn voter(reader: &mut Reader<'_>) -> Result<Voter, PackError> {
    open(reader, 3)?;
    let id = NodeId(reader.unsigned()?);
    let addr = reader.str()?.to_owned();
    let dir = if reader.nil()? { None } else { Some(DirId(bytes16(reader)?)) };
    Ok(Voter { id, addr, dir })
}

//! Raft messages as frames (`wire-spec.md` §14), and the one place where entries meet the wire.

use bytes::Bytes;

use crate::pack::{PackError, Reader};
use crate::raft::message::{AppendOutcome, Entry, EntryKind, Message};
use crate::types::{Index, Millis, Term};
use crate::wire::error::{WireError, check_flags, not};
use crate::wire::frame::{BODY_BYTES_MAX, Frame};
use crate::wire::kind;
use crate::wire::positional::{Body, bytes16, count, index, meta, open, term};

/// Entries in one `AppendEntries`, at most; more are refused. The leader fills far fewer into one.
pub const ENTRIES_MAX: usize = 1 << 16;

/// Bytes of all the entries of one `AppendEntries` together, at most, each counted by
/// [`Entry::weight`]: with the rest of the message they fit one frame. The largest entry that a client
/// can cause ([`crate::wire::request::BATCH_BYTES_MAX`]) fits by far.
pub const ENTRIES_BYTES_MAX: usize = BODY_BYTES_MAX - (64 << 10);

/// Digests that ride along, at most.
pub const DIGESTS_MAX: usize = 4;

/// The data of an entry below this is copied out of its frame; above, it is a slice of the frame if it
/// makes up enough of it. A slice keeps the whole frame in memory, and the log keeps entries for long.
pub const SLICE_BYTES_MIN: usize = 4 << 10;

/// A slice must be at least this part of its frame (1 / 8), so that the log keeps no more than eight
/// times the bytes it counts.
const SLICE_PART: usize = 8;

/// Bytes that the entries of a message may take beside their data, for each byte of its frame and beside
/// that. An entry with any command in it stays far below.
const ENTRY_ROOM_PER_BYTE: usize = 3;

/// See [`ENTRY_ROOM_PER_BYTE`].
const ENTRY_ROOM_BYTES: usize = 48 << 10;

/// One message between nodes, with what rides along.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerMessage {
    /// The Raft group; 0 today.
    pub group: u16,
    /// The sender's wall clock.
    pub wall_ms: Millis,
    /// The sender's last applied entry.
    pub applied_index: Index,
    /// The sender's newest digests, `(index, digest)`; the last few, newest last, at most 4.
    pub digests: Vec<(Index, u128)>,
    /// What it says.
    pub message: Message,
}

/// Wall clock, applied index, digests: before the fields of every message.
const COMMON_FIELDS: u32 = 3;

/// Room for the fields of a message that are not entries.
const FIELDS_BYTES: usize = 256;

/// What an entry's term, kind and heads take at most.
const ENTRY_BYTES: usize = 1 + 9 + 1 + 5;

impl PeerMessage {
    /// Returns the kind of its frame.
    #[must_use]
    pub fn kind(&self) -> u8 {
        match self.message {
            Message::PreVote { .. } => kind::PRE_VOTE,
            Message::PreVoteReply { .. } => kind::PRE_VOTE_REPLY,
            Message::Vote { .. } => kind::VOTE,
            Message::VoteReply { .. } => kind::VOTE_REPLY,
            Message::AppendEntries { .. } => kind::APPEND_ENTRIES,
            Message::AppendReply { .. } => kind::APPEND_REPLY,
            Message::InstallSnapshot { .. } => kind::INSTALL_SNAPSHOT,
            Message::TimeoutNow { .. } => kind::TIMEOUT_NOW,
            Message::ReadIndex { .. } => kind::READ_INDEX,
            Message::ReadIndexReply { .. } => kind::READ_INDEX_REPLY,
        }
    }

    /// Returns its name, as `wire-spec.md` has it, for logs and metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        kind::name(self.kind()).unwrap_or("UNKNOWN")
    }

    /// Builds its frame; entries are copied into it once.
    ///
    /// # Panics
    /// If entries do not follow each other without a gap from `prev_index` on: their indexes are not
    /// sent, so a gap would become other entries at the other end.
    #[must_use]
    pub fn to_frame(&self) -> Frame {
        let body = match &self.message {
            Message::PreVote { term, last_index, last_term } => {
                self.fields(0, 0, &[term.0, last_index.0, last_term.0])
            }
            Message::PreVoteReply { term, granted } | Message::VoteReply { term, granted } => {
                let mut body = self.fields(1, 0, &[term.0]);
                body.bool(*granted);
                body
            }
            Message::Vote { term, last_index, last_term, transfer } => {
                let mut body = self.fields(1, 0, &[term.0, last_index.0, last_term.0]);
                body.bool(*transfer);
                body
            }
            Message::AppendEntries {
                term,
                prev_index,
                prev_term,
                entries,
                commit_index,
                session,
                round,
            } => {
                let bytes = entries.iter().map(|entry| entry.data.len() + ENTRY_BYTES).sum();
                let numbers = [term.0, prev_index.0, prev_term.0, commit_index.0, *session, *round];
                let mut body = self.fields(1, bytes, &numbers);
                write_entries(&mut body, *prev_index, entries);
                body
            }
            Message::AppendReply { term, outcome, session, round, healing } => {
                let mut body = self.fields(1, 0, &[term.0, *session, *round]);
                write_outcome(&mut body, outcome, *healing);
                body
            }
            Message::InstallSnapshot { term, meta } => {
                let mut body = self.fields(1, 0, &[term.0]);
                body.meta(meta);
                body
            }
            Message::TimeoutNow { term } => self.fields(0, 0, &[term.0]),
            Message::ReadIndex { term, token, healing: false } => {
                self.fields(0, 0, &[term.0, *token])
            }
            Message::ReadIndex { term, token, healing: true } => {
                let mut body = self.fields(1, 0, &[term.0, *token]);
                body.bool(true);
                body
            }
            Message::ReadIndexReply { term, token, index } => {
                let mut body = self.fields(1, 0, &[term.0, *token]);
                match index {
                    Some(index) => body.uint(index.0),
                    None => body.nil(),
                }
                body
            }
        };
        Frame { kind: self.kind(), flags: 0, group: self.group, corr: 0, body: body.finish() }
    }

    /// Reads a frame of the Raft lane.
    ///
    /// # Errors
    /// [`WireError`] if it is none.
    pub fn from_frame(frame: &Frame) -> Result<Self, WireError> {
        let Some(name) = kind::name(frame.kind).filter(|_| kind::is_peer(frame.kind)) else {
            return Err(not("a Raft message", frame));
        };
        check_flags(frame)?;
        Self::read(frame).map_err(|error| WireError::Body { name, error })
    }

    fn read(frame: &Frame) -> Result<Self, PackError> {
        let mut reader = Reader::new(&frame.body);
        if frame.kind == kind::READ_INDEX {
            return read_question(frame, &mut reader);
        }
        let fields = match frame.kind {
            kind::TIMEOUT_NOW => 1,
            kind::PRE_VOTE_REPLY | kind::VOTE_REPLY | kind::INSTALL_SNAPSHOT => 2,
            kind::PRE_VOTE | kind::READ_INDEX_REPLY => 3,
            kind::VOTE | kind::APPEND_REPLY => 4,
            _ => 7,
        };
        open(&mut reader, 3 + fields)?;
        let wall_ms = Millis(reader.unsigned()?);
        let applied_index = index(&mut reader)?;
        let digests = read_digests(&mut reader)?;
        let message = read_message(frame, &mut reader)?;
        reader.finish()?;
        Ok(Self { group: frame.group, wall_ms, applied_index, digests, message })
    }

    /// Begins the body: what rides along, then the numbers that begin every message; `more` fields
    /// follow, of which `bytes` are entries.
    fn fields(&self, more: u32, bytes: usize, numbers: &[u64]) -> Body {
        let fields = COMMON_FIELDS + count(numbers.len()) + more;
        let mut body = Body::array(fields, FIELDS_BYTES + bytes);
        body.uint(self.wall_ms.0);
        body.uint(self.applied_index.0);
        // Only the newest are of use, so what is above the bound is left out here.
        let digests = self.digests.len().min(DIGESTS_MAX);
        body.nested(count(digests));
        for (index, digest) in self.digests.iter().skip(self.digests.len() - digests) {
            body.nested(2);
            body.uint(index.0);
            body.bytes(&digest.to_be_bytes());
        }
        numbers.iter().for_each(|number| body.uint(*number));
        body
    }
}

fn read_message(frame: &Frame, reader: &mut Reader<'_>) -> Result<Message, PackError> {
    let sent_term = term(reader)?;
    Ok(match frame.kind {
        kind::PRE_VOTE => {
            let (last_index, last_term) = (index(reader)?, term(reader)?);
            Message::PreVote { term: sent_term, last_index, last_term }
        }
        kind::PRE_VOTE_REPLY => {
            Message::PreVoteReply { term: sent_term, granted: reader.boolean()? }
        }
        kind::VOTE => {
            let (last_index, last_term) = (index(reader)?, term(reader)?);
            Message::Vote { term: sent_term, last_index, last_term, transfer: reader.boolean()? }
        }
        kind::VOTE_REPLY => Message::VoteReply { term: sent_term, granted: reader.boolean()? },
        kind::APPEND_ENTRIES => {
            let (prev_index, prev_term) = (index(reader)?, term(reader)?);
            let commit_index = index(reader)?;
            let (session, round) = (reader.unsigned()?, reader.unsigned()?);
            let entries = read_entries(reader, &frame.body, prev_index)?;
            Message::AppendEntries {
                term: sent_term,
                prev_index,
                prev_term,
                entries,
                commit_index,
                session,
                round,
            }
        }
        kind::APPEND_REPLY => {
            let (session, round) = (reader.unsigned()?, reader.unsigned()?);
            let (outcome, healing) = read_outcome(reader)?;
            Message::AppendReply { term: sent_term, outcome, session, round, healing }
        }
        kind::INSTALL_SNAPSHOT => Message::InstallSnapshot { term: sent_term, meta: meta(reader)? },
        kind::TIMEOUT_NOW => Message::TimeoutNow { term: sent_term },
        _ => {
            let token = reader.unsigned()?;
            let index = if reader.nil()? { None } else { Some(index(reader)?) };
            Message::ReadIndexReply { term: sent_term, token, index }
        }
    })
}

fn read_digests(reader: &mut Reader<'_>) -> Result<Vec<(Index, u128)>, PackError> {
    let count = reader.array_head()?;
    if count > DIGESTS_MAX {
        return Err(PackError::Mismatch(format!("{count} digests; at most {DIGESTS_MAX}")));
    }
    let digest = |_| {
        open(reader, 2)?;
        Ok((index(reader)?, u128::from_be_bytes(bytes16(reader)?)))
    };
    (0..count).map(digest).collect()
}

fn write_entries(body: &mut Body, prev_index: Index, entries: &[Entry]) {
    body.nested(count(entries.len()));
    let mut expected = prev_index;
    for entry in entries {
        expected = expected.next();
        assert_eq!(entry.index, expected, "a gap in the entries after {prev_index}");
        body.nested(3);
        body.uint(entry.term.0);
        body.uint(kind_number(entry.kind));
        body.bytes(&entry.data);
    }
}

fn read_entries(
    reader: &mut Reader<'_>,
    frame: &Bytes,
    prev_index: Index,
) -> Result<Vec<Entry>, PackError> {
    let count = reader.array_head()?;
    if count > ENTRIES_MAX {
        return Err(PackError::Mismatch(format!("{count} entries; at most {ENTRIES_MAX}")));
    }
    // An entry is larger here than the least that stands for one: a count alone reserves nothing.
    let room = frame.len().saturating_mul(ENTRY_ROOM_PER_BYTE).saturating_add(ENTRY_ROOM_BYTES);
    if count.saturating_mul(size_of::<Entry>()) > room {
        return Err(PackError::Mismatch(format!("{count} entries in {} bytes", frame.len())));
    }
    let mut entries = Vec::with_capacity(count);
    let mut last = prev_index.0;
    for _ in 0..count {
        last = last
            .checked_add(1)
            .ok_or_else(|| PackError::Mismatch("an index beyond 64 bits".into()))?;
        open(reader, 3)?;
        let term = Term(reader.unsigned()?);
        let kind = entry_kind(reader.unsigned()?)?;
        entries.push(Entry { index: Index(last), term, kind, data: kept(reader.bytes()?, frame) });
    }
    Ok(entries)
}

/// Takes an entry's data out of its frame: see [`SLICE_BYTES_MIN`].
fn kept(data: &[u8], frame: &Bytes) -> Bytes {
    if data.len() >= SLICE_BYTES_MIN && data.len() >= frame.len() / SLICE_PART {
        frame.slice_ref(data)
    } else {
        Bytes::copy_from_slice(data)
    }
}

fn kind_number(kind: EntryKind) -> u64 {
    match kind {
        EntryKind::Noop => 0,
        EntryKind::Configuration => 1,
        EntryKind::Command => 2,
    }
}

fn entry_kind(number: u64) -> Result<EntryKind, PackError> {
    match number {
        0 => Ok(EntryKind::Noop),
        1 => Ok(EntryKind::Configuration),
        2 => Ok(EntryKind::Command),
        _ => Err(PackError::Mismatch(format!("{number} is no kind of entry"))),
    }
}

/// Accepted: `[true, match_index]`; rejected: `[false, prev_index, hint_index, hint_term]`; of a node
/// that is healing each is longer by the number of its question.
fn write_outcome(body: &mut Body, outcome: &AppendOutcome, healing: Option<u64>) {
    let more = u32::from(healing.is_some());
    match outcome {
        AppendOutcome::Accepted { match_index } => {
            body.nested(2 + more);
            body.bool(true);
            body.uint(match_index.0);
        }
        AppendOutcome::Rejected { prev_index, hint_index, hint_term } => {
            body.nested(4 + more);
            body.bool(false);
            body.uint(prev_index.0);
            body.uint(hint_index.0);
            body.uint(hint_term.0);
        }
    }
    if let Some(number) = healing {
        body.uint(number);
    }
}

/// Reads an outcome, and the number of a node that is healing.
fn read_outcome(reader: &mut Reader<'_>) -> Result<(AppendOutcome, Option<u64>), PackError> {
    let count = reader.array_head()?;
    let outcome = match (count, reader.boolean()?) {
        (2 | 3, true) => AppendOutcome::Accepted { match_index: index(reader)? },
        (4 | 5, false) => AppendOutcome::Rejected {
            prev_index: index(reader)?,
            hint_index: index(reader)?,
            hint_term: term(reader)?,
        },
        (count, accepted) => {
            let what = format!("an outcome of {count} elements, accepted: {accepted}");
            return Err(PackError::Mismatch(what));
        }
    };
    let healing = if matches!(count, 3 | 5) { Some(reader.unsigned()?) } else { None };
    Ok((outcome, healing))
}

/// Reads a READ_INDEX, the one message that is longer when it comes from a node that is healing.
fn read_question(frame: &Frame, reader: &mut Reader<'_>) -> Result<PeerMessage, PackError> {
    let common = usize::try_from(COMMON_FIELDS).unwrap_or(usize::MAX);
    let count = reader.array_head()?;
    let healing = count == common + 3;
    if !healing && count != common + 2 {
        return Err(PackError::Mismatch(format!("a question of {count} fields")));
    }
    let wall_ms = Millis(reader.unsigned()?);
    let applied_index = index(reader)?;
    let digests = read_digests(reader)?;
    let (term, token) = (term(reader)?, reader.unsigned()?);
    if healing && !reader.boolean()? {
        return Err(PackError::Mismatch("a mark of healing that is false".into()));
    }
    reader.finish()?;
    let message = Message::ReadIndex { term, token, healing };
    Ok(PeerMessage { group: frame.group, wall_ms, applied_index, digests, message })
}

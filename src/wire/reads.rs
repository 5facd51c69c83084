//! How a read is done, and where it was read: one key more in the bodies of reads and of their answers (`wire-spec.md`
//! §11, "Reads").

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::jobs::find;
use crate::types::Index;
use crate::wire::error::WireError;
use crate::wire::kind;
use crate::wire::message::{Filter, Reply, Request};
use crate::wire::named;

/// How a read is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// It sees every change that was acknowledged before it was sent. This asks the leader.
    Linearizable,
    /// It sees what the asked node has applied, at once, however old that is.
    Stale,
    /// It sees what the asked node has applied, once that is this entry or a later one.
    MinIndex(Index),
}

/// Tells whether frames of this kind are reads that may say how they are to be done.
#[must_use]
pub fn is_read(kind: u8) -> bool {
    matches!(
        kind,
        kind::GET_JOB | kind::LIST_JOBS | kind::LIST_WORKERS | kind::LIST_QUEUES | kind::WHY_JOB
    )
}

/// Tells whether frames of this kind answer a read, and say where it was read if they were asked to.
#[must_use]
pub fn tells_index(kind: u8) -> bool {
    matches!(kind, kind::JOB | kind::JOBS | kind::WORKERS | kind::QUEUES)
}

#[derive(Serialize, Deserialize)]
struct How {
    consistency: Option<Consistency>,
}

#[derive(Serialize, Deserialize)]
struct Where {
    index: Option<Index>,
}

/// Appends the body of a read that says how it is to be done.
pub(in crate::wire) fn append(consistency: Consistency, read: &Request, out: &mut BytesMut) {
    let body = read.to_frame(0).body;
    add_pair(&body, &named::encode(&How { consistency: Some(consistency) }), out);
}

/// Adds to the body of an answer where it was read.
pub(in crate::wire) fn put_index(index: Index, body: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(body.len() + 16);
    add_pair(body, &named::encode(&Where { index: Some(index) }), &mut out);
    out.freeze()
}

/// Looks into the body of a read for how it is to be done.
pub(in crate::wire) fn with_consistency(
    name: &'static str,
    body: &[u8],
    read: Request,
) -> Result<Request, WireError> {
    let How { consistency } = named::decode(name, body)?;
    Ok(match consistency {
        Some(consistency) => Request::ReadAt { consistency, read: Box::new(read) },
        None => read,
    })
}

/// Looks into the body of an answer for where it was read.
pub(in crate::wire) fn with_index(
    name: &'static str,
    body: &[u8],
    reply: Reply,
) -> Result<Reply, WireError> {
    let Where { index } = named::decode(name, body)?;
    Ok(match index {
        Some(index) => Reply::ReadAt { index, reply: Box::new(reply) },
        None => reply,
    })
}

/// Writes a map with the pairs of one of ours and those of a small one behind them. An empty body is an empty map.
fn add_pair(body: &[u8], more: &[u8], out: &mut BytesMut) {
    let (count, pairs) = pairs(body);
    let (added, last) = self::pairs(more);
    let mut writer = out.writer();
    rmp::encode::write_map_len(&mut writer, count + added).expect("a buffer takes every write");
    out.put_slice(pairs);
    out.put_slice(last);
}

/// Returns how many pairs a map of ours has, and their bytes. None of our maps has more than 64 pairs.
fn pairs(map: &[u8]) -> (u32, &[u8]) {
    match map {
        [] => (0, &[]),
        [head @ 0x80..=0x8f, pairs @ ..] => (u32::from(head & 0x0f), pairs),
        [0xde, high, low, pairs @ ..] => (u32::from(u16::from_be_bytes([*high, *low])), pairs),
        _ => unreachable!("a body of ours is a map"),
    }
}

impl Request {
    /// Returns the read within, where a request says how it is to be done; else the request.
    #[must_use]
    pub fn plain(&self) -> &Self {
        match self {
            Self::ReadAt { read, .. } => read,
            Self::Ping
            | Self::SubmitJob(_)
            | Self::SubmitBatch(_)
            | Self::RegisterWorker(_)
            | Self::Heartbeat { .. }
            | Self::UpdateJobStatus(_)
            | Self::BatchUpdateJobStatus(_)
            | Self::ReleaseJobs(_)
            | Self::Reserve { .. }
            | Self::GetJob { .. }
            | Self::ListJobs(_)
            | Self::WaitJobs { .. }
            | Self::CancelJobs { .. }
            | Self::ListWorkers
            | Self::GetClusterStatus { .. }
            | Self::ListLog { .. }
            | Self::TransferLeadership { .. }
            | Self::ListQueues(_)
            | Self::ChangeQueue { .. }
            | Self::RetryJobs { .. }
            | Self::PurgeJobs { .. }
            | Self::Watch(_)
            | Self::ChangeWorker { .. }
            | Self::ReportProgress(_)
            | Self::AddCron(_)
            | Self::ChangeCron { .. }
            | Self::ListCrons(_)
            | Self::WhyJob { .. } => self,
        }
    }

    /// Tells whether it reads what this node has applied, and asks no leader.
    #[must_use]
    pub fn is_local_read(&self) -> bool {
        matches!(
            self,
            Self::ReadAt { consistency: Consistency::Stale | Consistency::MinIndex(_), .. }
        )
    }
}

impl Filter {
    /// Says what is out of bounds, in words for the one who asked.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        self.text.as_deref().and_then(find::fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_added_to_maps_of_any_size() {
        for count in [0, 1, 14, 15, 16, 40_u8] {
            let mut body = BytesMut::new();
            rmp::encode::write_map_len(&mut (&mut body).writer(), u32::from(count)).unwrap();
            for at in 0..count {
                body.put_slice(&[0xa1, b'!' + at, at]);
            }
            let whole = put_index(Index(7), &body);
            let Where { index } = named::decode("JOB", &whole).unwrap();
            assert_eq!((index, pairs(&whole).0), (Some(Index(7)), u32::from(count) + 1));
        }
        let Where { index } = named::decode("JOB", &put_index(Index(1 << 40), b"")).unwrap();
        assert_eq!(index, Some(Index(1 << 40)));
    }
}

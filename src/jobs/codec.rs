//! A stamped command as bytes of the log, and back.
//!
//! The form is `[now, code, argument]`, MessagePack, every struct an array of its fields in order.
//! The code names the command; it is part of the log's format, so numbers are never used again. In a
//! submitted job `[id, queue, body]`, the body is an array of strings for a command and binary for a
//! payload.

use std::fmt;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeSeq, SerializeTuple, Serializer};

use crate::jobs::command::{Command, Stamped};
use crate::jobs::job::{Body, NewJob};
use crate::pack::PackError;
use crate::pack::unpack::{List, Structs, unpack};
use crate::types::{JobId, Millis, QueueName};

/// Bytes that are no stamped command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They are no MessagePack, or not of this form.
    #[error("no command of the log: {0}")]
    Malformed(String),
    /// Something follows the command.
    #[error("bytes follow the command")]
    TrailingBytes,
}

/// Encodes a command; the same command always gives the same bytes.
///
/// # Panics
/// Never: every command has an encoding, and memory is all it is written to.
#[must_use]
pub fn encode(stamped: &Stamped) -> Bytes {
    let mut bytes = Vec::with_capacity(64 + bodies_bytes(&stamped.command));
    let mut serializer = rmp_serde::Serializer::new(&mut bytes);
    Form(stamped).serialize(&mut serializer).expect("a command fits MessagePack");
    Bytes::from(bytes)
}

/// About as many bytes as the bodies of a submit need, so that the buffer grows once.
fn bodies_bytes(command: &Command) -> usize {
    match command {
        Command::SubmitJob(jobs) => jobs.iter().map(|job| job.body.len() + 64).sum(),
        Command::BatchUpdateJobStatus(updates) => {
            updates.iter().map(|update| update.verdict.output.len() + 48).sum()
        }
        Command::UpdateJobStatus(update) => update.verdict.output.len(),
        Command::AssignJob(pairs) => pairs.len() * 40,
        Command::RegisterWorker(_)
        | Command::CancelJob(_)
        | Command::ReleaseJob(_)
        | Command::WorkerLost(_)
        | Command::SetLimits(_) => 0,
    }
}

/// Decodes a command: exactly one, with nothing after it. No claim of a length is believed before
/// the bytes are there.
///
/// # Errors
/// [`DecodeError`], if the bytes are no command; nothing else happens then.
pub fn decode(bytes: &[u8]) -> Result<Stamped, DecodeError> {
    decode_value::<Unformed>(bytes).map(|form| form.0)
}

/// Decodes one value that is all there is.
pub(in crate::jobs) fn decode_value<'de, T: Deserialize<'de>>(
    bytes: &'de [u8],
) -> Result<T, DecodeError> {
    unpack(bytes, Structs::Either).map_err(|error| {
        if matches!(error, PackError::Trailing(_)) {
            DecodeError::TrailingBytes
        } else {
            DecodeError::Malformed(error.to_string())
        }
    })
}

/// A stamped command on its way out.
struct Form<'a>(&'a Stamped);

impl Serialize for Form<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut form = serializer.serialize_tuple(3)?;
        form.serialize_element(&self.0.now)?;
        match &self.0.command {
            Command::SubmitJob(jobs) => {
                form.serialize_element(&1u8)?;
                form.serialize_element(&NewJobs(jobs))?;
            }
            Command::AssignJob(pairs) => {
                form.serialize_element(&2u8)?;
                form.serialize_element(pairs)?;
            }
            Command::RegisterWorker(registration) => {
                form.serialize_element(&3u8)?;
                form.serialize_element(registration)?;
            }
            Command::UpdateJobStatus(update) => {
                form.serialize_element(&4u8)?;
                form.serialize_element(update)?;
            }
            Command::BatchUpdateJobStatus(updates) => {
                form.serialize_element(&5u8)?;
                form.serialize_element(updates)?;
            }
            Command::CancelJob(ids) => {
                form.serialize_element(&6u8)?;
                form.serialize_element(ids)?;
            }
            Command::ReleaseJob(release) => {
                form.serialize_element(&7u8)?;
                form.serialize_element(release)?;
            }
            Command::WorkerLost(starts) => {
                form.serialize_element(&8u8)?;
                form.serialize_element(starts)?;
            }
            Command::SetLimits(limits) => {
                form.serialize_element(&9u8)?;
                form.serialize_element(limits)?;
            }
        }
        form.end()
    }
}

struct NewJobs<'a>(&'a [NewJob]);

impl Serialize for NewJobs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut jobs = serializer.serialize_seq(Some(self.0.len()))?;
        for job in self.0 {
            jobs.serialize_element(&(&job.id, job.queue.as_str(), BodyForm(&job.body)))?;
        }
        jobs.end()
    }
}

struct BodyForm<'a>(&'a Body);

impl Serialize for BodyForm<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Body::Command(words) => words.serialize(serializer),
            Body::Payload(bytes) => serializer.serialize_bytes(bytes),
        }
    }
}

/// A stamped command on its way in.
struct Unformed(Stamped);

impl<'de> Deserialize<'de> for Unformed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_tuple(3, StampedVisitor).map(Self)
    }
}

struct StampedVisitor;

impl<'de> Visitor<'de> for StampedVisitor {
    type Value = Stamped;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a command of the log: [now, code, argument]")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Stamped, A::Error> {
        let now: Millis = next(&mut seq)?;
        let command = match next::<u8, A>(&mut seq)? {
            1 => {
                let List::<NewJobIn>(jobs) = next(&mut seq)?;
                Command::SubmitJob(jobs.into_iter().map(|job| job.0).collect())
            }
            2 => Command::AssignJob(next::<List<_>, A>(&mut seq)?.0),
            3 => Command::RegisterWorker(next(&mut seq)?),
            4 => Command::UpdateJobStatus(next(&mut seq)?),
            5 => Command::BatchUpdateJobStatus(next::<List<_>, A>(&mut seq)?.0),
            6 => Command::CancelJob(next(&mut seq)?),
            7 => Command::ReleaseJob(next(&mut seq)?),
            8 => Command::WorkerLost(next::<List<_>, A>(&mut seq)?.0),
            9 => Command::SetLimits(next(&mut seq)?),
            code => return Err(serde::de::Error::custom(format!("no command has code {code}"))),
        };
        Ok(Stamped { now, command })
    }
}

fn next<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(seq: &mut A) -> Result<T, A::Error> {
    seq.next_element()?.ok_or_else(|| serde::de::Error::custom("an element is missing"))
}

/// One submitted job on its way in.
struct NewJobIn(NewJob);

impl<'de> Deserialize<'de> for NewJobIn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (id, queue, body) = <(JobId, QueueName, BodyIn)>::deserialize(deserializer)?;
        Ok(Self(NewJob { id, queue, body: body.0 }))
    }
}

/// A body on its way in: what it is, its MessagePack type says.
struct BodyIn(Body);

impl<'de> Deserialize<'de> for BodyIn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BodyVisitor).map(Self)
    }
}

struct BodyVisitor;

impl<'de> Visitor<'de> for BodyVisitor {
    type Value = Body;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the words of a command, or the bytes of a payload")
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Body, E> {
        Ok(Body::Payload(Bytes::copy_from_slice(bytes)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Body, A::Error> {
        let mut words = Vec::new();
        while let Some(word) = seq.next_element()? {
            words.push(word);
        }
        Ok(Body::Command(words))
    }
}

//! A stamped command as bytes of the log, and back.
//!
//! The form is `[now, code, argument]`, MessagePack, every struct an array of its fields in order.
//! The code names the command; it is part of the log's format, so numbers are never used again. In a
//! submitted job `[id, queue, body]` or `[id, queue, body, options]`, the body is an array of strings for a
//! command and binary for a payload, and the options are a map of what differs from the default.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeSeq, SerializeTuple, Serializer};

use crate::jobs::command::{Command, Stamped};
use crate::jobs::intake::Intake;
use crate::jobs::job::{Body, NewJob};
use crate::jobs::options::Options;
use crate::pack::PackError;
use crate::pack::unpack::{List, ListOf, Structs, unpack, unpack_seed};
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
        | Command::SetLimits(_)
        | Command::Tick
        | Command::ChangeQueue(..)
        | Command::RetryJob(_)
        | Command::PurgeJob(_)
        | Command::ChangeWorker(..)
        | Command::ReportProgress(_)
        | Command::ChangeCron(..)
        | Command::FireCron(_) => 0,
        Command::AddCron(add) => add.cron.body.len(),
    }
}

/// Decodes a command: exactly one, with nothing after it. No claim of a length is believed before
/// the bytes are there. Payloads are slices of the bytes: whoever keeps one keeps all of them.
///
/// # Errors
/// [`DecodeError`], if the bytes are no command; nothing else happens then.
pub fn decode(bytes: &Bytes) -> Result<Stamped, DecodeError> {
    unpack_seed(bytes, Structs::Either, StampedSeed { bytes }).map_err(DecodeError::of)
}

/// Decodes one value that is all there is.
pub(in crate::jobs) fn decode_value<'de, T: Deserialize<'de>>(
    bytes: &'de [u8],
) -> Result<T, DecodeError> {
    unpack(bytes, Structs::Either).map_err(DecodeError::of)
}

impl DecodeError {
    fn of(error: PackError) -> Self {
        if matches!(error, PackError::Trailing(_)) {
            Self::TrailingBytes
        } else {
            Self::Malformed(error.to_string())
        }
    }
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
            Command::Tick => {
                form.serialize_element(&10u8)?;
                form.serialize_element(&())?;
            }
            Command::ChangeQueue(queue, change) => {
                form.serialize_element(&11u8)?;
                form.serialize_element(&(queue, change))?;
            }
            Command::RetryJob(ids) => {
                form.serialize_element(&12u8)?;
                form.serialize_element(ids)?;
            }
            Command::PurgeJob(ids) => {
                form.serialize_element(&13u8)?;
                form.serialize_element(ids)?;
            }
            Command::ChangeWorker(worker, intake) => {
                form.serialize_element(&23u8)?;
                form.serialize_element(&(worker, intake.code()))?;
            }
            Command::ReportProgress(report) => {
                form.serialize_element(&24u8)?;
                form.serialize_element(report)?;
            }
            Command::AddCron(add) => {
                form.serialize_element(&20u8)?;
                form.serialize_element(add)?;
            }
            Command::ChangeCron(name, change, next_ms) => {
                form.serialize_element(&21u8)?;
                form.serialize_element(&(name, change, next_ms))?;
            }
            Command::FireCron(fires) => {
                form.serialize_element(&22u8)?;
                form.serialize_element(fires)?;
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
            let (queue, body) = (job.queue.as_str(), BodyForm(&job.body));
            match &job.options {
                None => jobs.serialize_element(&(&job.id, queue, body))?,
                Some(options) => jobs.serialize_element(&(&job.id, queue, body, &**options))?,
            }
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
#[derive(Clone, Copy)]
struct StampedSeed<'a> {
    /// All of it.
    bytes: &'a Bytes,
}

impl<'de> DeserializeSeed<'de> for StampedSeed<'_> {
    type Value = Stamped;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Stamped, D::Error> {
        deserializer.deserialize_tuple(3, self)
    }
}

impl<'de> Visitor<'de> for StampedSeed<'_> {
    type Value = Stamped;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a command of the log: [now, code, argument]")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Stamped, A::Error> {
        let now: Millis = next(&mut seq)?;
        let command = match next::<u8, A>(&mut seq)? {
            1 => {
                let jobs = ListOf(NewJobSeed::new(self.bytes));
                Command::SubmitJob(seq.next_element_seed(jobs)?.ok_or_else(missing)?)
            }
            2 => Command::AssignJob(next::<List<_>, A>(&mut seq)?.0),
            3 => Command::RegisterWorker(next(&mut seq)?),
            4 => Command::UpdateJobStatus(next(&mut seq)?),
            5 => Command::BatchUpdateJobStatus(next::<List<_>, A>(&mut seq)?.0),
            6 => Command::CancelJob(next(&mut seq)?),
            7 => Command::ReleaseJob(next(&mut seq)?),
            8 => Command::WorkerLost(next::<List<_>, A>(&mut seq)?.0),
            9 => Command::SetLimits(next(&mut seq)?),
            10 => next::<(), A>(&mut seq).map(|()| Command::Tick)?,
            11 => {
                let (queue, change) = next(&mut seq)?;
                Command::ChangeQueue(queue, change)
            }
            12 => Command::RetryJob(next(&mut seq)?),
            13 => Command::PurgeJob(next(&mut seq)?),
            23 => {
                let (worker, intake) = next(&mut seq)?;
                let intake = Intake::from_code(intake).ok_or_else(missing_intake)?;
                Command::ChangeWorker(worker, intake)
            }
            24 => Command::ReportProgress(next(&mut seq)?),
            20 => Command::AddCron(next(&mut seq)?),
            21 => {
                let (name, change, next_ms) = next(&mut seq)?;
                Command::ChangeCron(name, change, next_ms)
            }
            22 => Command::FireCron(next::<List<_>, A>(&mut seq)?.0),
            code => return Err(serde::de::Error::custom(format!("no command has code {code}"))),
        };
        Ok(Stamped { now, command })
    }
}

fn next<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(seq: &mut A) -> Result<T, A::Error> {
    seq.next_element()?.ok_or_else(missing)
}

fn missing_intake<E: serde::de::Error>() -> E {
    E::custom("no such decision about a worker")
}

fn missing<E: serde::de::Error>() -> E {
    E::custom("an element is missing")
}

/// Submitted jobs on their way in, one after the other. Many in a row are of one queue and ask for the same:
/// they share its name, and their options.
struct NewJobSeed<'a> {
    /// What they are in.
    bytes: &'a Bytes,
    /// The queue of the one before.
    queue: Option<QueueName>,
    /// The options of the last one that had any.
    options: Option<Arc<Options>>,
}

impl<'a> NewJobSeed<'a> {
    fn new(bytes: &'a Bytes) -> Self {
        Self { bytes, queue: None, options: None }
    }
}

impl<'de> DeserializeSeed<'de> for &mut NewJobSeed<'_> {
    type Value = NewJob;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<NewJob, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for &mut NewJobSeed<'_> {
    type Value = NewJob;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a job: [id, queue, body] or [id, queue, body, options]")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<NewJob, A::Error> {
        let id: JobId = next(&mut seq)?;
        let queue = QueueName::new_or_shared(next(&mut seq)?, self.queue.as_ref())
            .map_err(serde::de::Error::custom)?;
        self.queue = Some(queue.clone());
        let body = match next::<BodyIn<'de>, A>(&mut seq)? {
            BodyIn::Command(words) => Body::Command(words),
            BodyIn::Payload(payload) => Body::Payload(self.bytes.slice_ref(payload)),
        };
        let options = seq.next_element::<Options>()?.map(|options| self.shared(options));
        Ok(NewJob { id, queue, body, options })
    }
}

impl NewJobSeed<'_> {
    /// Takes the former options, if these are the same.
    fn shared(&mut self, options: Options) -> Arc<Options> {
        match &self.options {
            Some(former) if **former == options => Arc::clone(former),
            Some(_) | None => Arc::clone(self.options.insert(Arc::new(options))),
        }
    }
}

/// A body on its way in: what it is, its MessagePack type says.
enum BodyIn<'de> {
    Command(Vec<String>),
    Payload(&'de [u8]),
}

impl<'de> Deserialize<'de> for BodyIn<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BodyVisitor)
    }
}

struct BodyVisitor;

impl<'de> Visitor<'de> for BodyVisitor {
    type Value = BodyIn<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the words of a command, or the bytes of a payload")
    }

    fn visit_borrowed_bytes<E: serde::de::Error>(self, bytes: &'de [u8]) -> Result<BodyIn<'de>, E> {
        Ok(BodyIn::Payload(bytes))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<BodyIn<'de>, A::Error> {
        let mut words = Vec::new();
        while let Some(word) = seq.next_element()? {
            words.push(word);
        }
        Ok(BodyIn::Command(words))
    }
}

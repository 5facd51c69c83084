//! The jobs of a batch on their way in: their payloads stay where they are, in the frame.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor,
};

use crate::jobs::job::{Body, NewJob};
use crate::jobs::options::Options;
use crate::pack::unpack::ListOf;
use crate::types::{JobId, QueueName};
use crate::wire::error::WireError;
use crate::wire::named;

/// The payloads of a batch below this are copied out of its frame; above, they are slices of it, if they make up
/// enough of it. A slice keeps the whole frame in memory until the job is decided.
const SLICE_BYTES_MIN: usize = 4 << 10;

/// Payloads must be at least this part of their frame (1 / 2) to be slices of it, so that a frame that waits to be
/// decided is no more than twice what is counted of it. (The buffer that a frame was read into may be larger; the next
/// frames go into another one then.)
const SLICE_PART: usize = 2;

/// Reads the body of a batch, and no bound of its jobs.
pub(super) fn read(name: &'static str, body: &Bytes) -> Result<Vec<NewJob>, WireError> {
    let mut jobs = named::decode_seed(name, body, Jobs(body))?;
    let payloads: usize = jobs.iter().filter_map(payload).map(|bytes| bytes.len()).sum();
    if body.len() < SLICE_BYTES_MIN || payloads < body.len() / SLICE_PART {
        for bytes in jobs.iter_mut().filter_map(payload_mut) {
            *bytes = Bytes::copy_from_slice(bytes);
        }
    }
    Ok(jobs)
}

fn payload(job: &NewJob) -> Option<&Bytes> {
    match &job.body {
        Body::Payload(bytes) => Some(bytes),
        Body::Command(_) => None,
    }
}

fn payload_mut(job: &mut NewJob) -> Option<&mut Bytes> {
    match &mut job.body {
        Body::Payload(bytes) => Some(bytes),
        Body::Command(_) => None,
    }
}

/// Reads a map whose key `jobs` has them all; the others are skipped.
struct Jobs<'a>(&'a Bytes);

impl<'de> DeserializeSeed<'de> for Jobs<'_> {
    type Value = Vec<NewJob>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<NewJob>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Jobs<'_> {
    type Value = Vec<NewJob>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map with the jobs")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<NewJob>, A::Error> {
        let mut jobs = None;
        while let Some(key) = map.next_key::<Key>()? {
            match key {
                Key::Jobs => {
                    let each = JobSeed { frame: self.0, former: None, options: None };
                    jobs = Some(map.next_value_seed(ListOf(each))?);
                }
                Key::Other => {
                    let _: IgnoredAny = map.next_value()?;
                }
            }
        }
        jobs.ok_or_else(|| A::Error::missing_field("jobs"))
    }
}

#[derive(serde::Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Key {
    Jobs,
    #[serde(other)]
    Other,
}

/// Reads jobs one after the other.
struct JobSeed<'a> {
    /// What they are in.
    frame: &'a Bytes,
    /// The queue of the one before: many in a row are of one queue, and share its name.
    former: Option<QueueName>,
    /// The options of the last one that had any, shared likewise.
    options: Option<Arc<Options>>,
}

impl<'de> DeserializeSeed<'de> for &mut JobSeed<'_> {
    type Value = NewJob;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<NewJob, D::Error> {
        let JobIn { id, queue, body, options } = JobIn::deserialize(deserializer)?;
        let queue = queue.unwrap_or(QueueName::DEFAULT);
        let queue =
            QueueName::new_or_shared(queue, self.former.as_ref()).map_err(D::Error::custom)?;
        self.former = Some(queue.clone());
        let body = match body {
            BodyIn::Command(words) => Body::Command(words),
            BodyIn::Payload(payload) => Body::Payload(self.frame.slice_ref(payload)),
        };
        let options = options.map(|options| match &self.options {
            Some(former) if **former == options => Arc::clone(former),
            Some(_) | None => Arc::clone(self.options.insert(Arc::new(options))),
        });
        Ok(NewJob { id, queue, body, options })
    }
}

/// A [`NewJob`] of which nothing is copied but words.
#[derive(serde::Deserialize)]
struct JobIn<'a> {
    id: JobId,
    #[serde(borrow)]
    queue: Option<&'a str>,
    #[serde(borrow)]
    body: BodyIn<'a>,
    options: Option<Options>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum BodyIn<'a> {
    Command(Vec<String>),
    Payload(&'a [u8]),
}

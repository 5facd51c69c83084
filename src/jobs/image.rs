//! The machine as a sequence of bounded records for a snapshot; the way back is in [`crate::jobs::restore`].
//!
//! A record is `[code, argument]`, one MessagePack value. They come in this order, and each kind in
//! ascending order of its key: one header, the queues with rules, the crons, the workers, the jobs, the forgotten ids,
//! the unique keys held for a time, one trailer with
//! the counts and the digest. Indexes, counts and hashes are not written: restoring builds them anew
//! through the very code that keeps them, and the digest says whether all of it came out the same.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_bytes::Bytes;

use crate::jobs::command::Limits;
use crate::jobs::cron::NewCron;
use crate::jobs::crons::Cron;
use crate::jobs::digest::{Content, Digest};
use crate::jobs::extra::Extra;
use crate::jobs::job::Serves;
use crate::jobs::machine::Machine;
use crate::jobs::options::{Options, Tags};
use crate::jobs::queue::Rules;
use crate::jobs::reason::Chosen;
use crate::jobs::registry::Worker;
use crate::jobs::resident::{self, Job};
use crate::pack::unpack::list;
use crate::types::{
    ASSIGNMENTS_PER_ENTRY_MAX, Fence, Incarnation, Index, JobId, Millis, QueueName, UniqueKey,
    WorkerId,
};

/// The version of the records; another one is refused.
pub const IMAGE_VERSION: u32 = 4;

/// The bytes of one record, at most: a job of the largest body with the largest output, or a group
/// of smaller ones. A longer record is refused unread.
pub const RECORD_BYTES_MAX: usize = 2 << 20;

/// A group of jobs, crons or ids is closed when it has reached this many bytes.
const GROUP_BYTES: usize = 64 << 10;

/// Workers in one record, at most: each has a few kilobytes of queue names at worst.
const GROUP_WORKERS: usize = 16;

/// Queues in one record, at most.
const GROUP_QUEUES: usize = 256;

/// Ids in one record, at most.
const GROUP_IDS: usize = 1024;

/// Unique keys in one record, at most.
const GROUP_KEYS: usize = 1024;

/// Indexes and counters of an image, at most: tokens of assignments are 4096 times an index.
pub(in crate::jobs) const COUNTER_MAX: u64 = (u64::MAX >> 1) / ASSIGNMENTS_PER_ENTRY_MAX;

pub(in crate::jobs) const HEADER: u8 = 0;
pub(in crate::jobs) const QUEUES: u8 = 1;
pub(in crate::jobs) const CRONS: u8 = 2;
pub(in crate::jobs) const WORKERS: u8 = 3;
pub(in crate::jobs) const JOBS: u8 = 4;
pub(in crate::jobs) const FORGOTTEN: u8 = 5;
pub(in crate::jobs) const UNIQUES: u8 = 6;
pub(in crate::jobs) const TRAILER: u8 = 7;

/// Records that are no image. The machine that was being built from them is dropped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// A record is too long, no MessagePack, or not of its form.
    #[error("a record of the image cannot be read: {0}")]
    Malformed(String),
    /// Written by another version.
    #[error("the image has version {0}; this is for version {IMAGE_VERSION}")]
    Version(u32),
    /// A record came out of order, or twice.
    #[error("records of the image are out of order: {0}")]
    Order(&'static str),
    /// A record says what no machine can be.
    #[error("the image contradicts itself: {0}")]
    Contradiction(String),
    /// The trailer never came: the image is cut.
    #[error("the image ends before its trailer")]
    Cut,
    /// All records were read, and they are not the machine that was written.
    #[error("the image's digest is {written}, and what was restored has {restored}")]
    Digest {
        /// What the trailer says.
        written: Digest,
        /// What was counted.
        restored: Digest,
    },
}

#[derive(Serialize, Deserialize)]
pub(in crate::jobs) struct Header {
    pub(in crate::jobs) version: u32,
    pub(in crate::jobs) applied: Index,
    pub(in crate::jobs) now: Millis,
    pub(in crate::jobs) limits: Limits,
    pub(in crate::jobs) next_sequence: u64,
    pub(in crate::jobs) next_ending: u64,
    pub(in crate::jobs) dead_dropped: u64,
    pub(in crate::jobs) crons_fired: u64,
    pub(in crate::jobs) digests: Vec<(Index, Digest)>,
}

#[derive(Serialize, Deserialize)]
pub(in crate::jobs) struct Trailer {
    pub(in crate::jobs) jobs: u64,
    pub(in crate::jobs) workers: u64,
    pub(in crate::jobs) forgotten: u64,
    pub(in crate::jobs) crons: u64,
    pub(in crate::jobs) digest: Digest,
}

#[derive(Serialize, Deserialize)]
pub(in crate::jobs) struct CronRecord {
    pub(in crate::jobs) new: Arc<NewCron>,
    pub(in crate::jobs) created: Index,
    pub(in crate::jobs) created_ms: Millis,
    pub(in crate::jobs) paused_ms: Option<Millis>,
    pub(in crate::jobs) next_ms: Option<Millis>,
    pub(in crate::jobs) last_slot_ms: Option<Millis>,
    pub(in crate::jobs) last_job: Option<JobId>,
    pub(in crate::jobs) last_error: Option<Arc<str>>,
    pub(in crate::jobs) fired: u64,
    pub(in crate::jobs) skipped: u64,
    pub(in crate::jobs) made_up: u32,
}

#[derive(Serialize, Deserialize)]
pub(in crate::jobs) struct WorkerRecord {
    pub(in crate::jobs) id: WorkerId,
    pub(in crate::jobs) incarnation: Incarnation,
    pub(in crate::jobs) slots: u32,
    pub(in crate::jobs) serves: Serves,
    pub(in crate::jobs) tags: Tags,
    pub(in crate::jobs) state: u8,
    pub(in crate::jobs) registered_ms: Millis,
    pub(in crate::jobs) since_ms: Millis,
    pub(in crate::jobs) last_assigned: Fence,
    pub(in crate::jobs) intake: u8,
}

#[derive(Serialize, Deserialize)]
pub(in crate::jobs) struct JobRecord<'a> {
    pub(in crate::jobs) id: JobId,
    #[serde(borrow)]
    pub(in crate::jobs) queue: &'a str,
    pub(in crate::jobs) kind: u8,
    #[serde(borrow)]
    pub(in crate::jobs) body: &'a Bytes,
    pub(in crate::jobs) sequence: u64,
    pub(in crate::jobs) created_ms: Millis,
    pub(in crate::jobs) status: u8,
    pub(in crate::jobs) attempt: u32,
    #[serde(borrow)]
    pub(in crate::jobs) run: Option<RunRecord<'a>>,
    #[serde(borrow)]
    pub(in crate::jobs) ending: Option<EndingRecord<'a>>,
    #[serde(borrow)]
    /// Apart from the rest: most jobs have none, and a list of small jobs must not take many times its bytes.
    pub(in crate::jobs) extra: Option<Box<ExtraRecord<'a>>>,
}

#[derive(Serialize, Deserialize)]
pub(in crate::jobs) struct ExtraRecord<'a> {
    pub(in crate::jobs) options: Option<Options>,
    pub(in crate::jobs) held_ms: Option<Millis>,
    pub(in crate::jobs) expires_ms: Option<Millis>,
    pub(in crate::jobs) forgiven: u32,
    #[serde(borrow, deserialize_with = "list")]
    pub(in crate::jobs) past: Vec<PastRecord<'a>>,
    pub(in crate::jobs) put_off: u32,
    /// Percent, note, time: the form that users read leaves an empty note out, which no array can.
    #[serde(borrow)]
    pub(in crate::jobs) progress: Option<(u8, &'a str, Millis)>,
}

#[derive(Serialize, Deserialize)]
pub(in crate::jobs) struct PastRecord<'a> {
    pub(in crate::jobs) attempt: u32,
    #[serde(borrow)]
    pub(in crate::jobs) worker: Option<&'a str>,
    pub(in crate::jobs) fence: Fence,
    pub(in crate::jobs) started_ms: Millis,
    pub(in crate::jobs) ended_ms: Millis,
    pub(in crate::jobs) reported: bool,
    pub(in crate::jobs) exit_code: Option<i32>,
    #[serde(borrow)]
    pub(in crate::jobs) error: &'a str,
}

#[derive(Serialize, Deserialize)]
pub(in crate::jobs) struct RunRecord<'a> {
    #[serde(borrow)]
    pub(in crate::jobs) worker: &'a str,
    pub(in crate::jobs) incarnation: Incarnation,
    pub(in crate::jobs) fence: Fence,
    pub(in crate::jobs) started_ms: Millis,
    pub(in crate::jobs) chosen: Chosen,
}

#[derive(Serialize, Deserialize)]
pub(in crate::jobs) struct EndingRecord<'a> {
    pub(in crate::jobs) order: u64,
    pub(in crate::jobs) finished_ms: Millis,
    pub(in crate::jobs) reported: bool,
    pub(in crate::jobs) exit_code: Option<i32>,
    pub(in crate::jobs) output_cut: bool,
    #[serde(borrow)]
    pub(in crate::jobs) output: &'a Bytes,
    #[serde(borrow)]
    pub(in crate::jobs) error: Option<&'a str>,
}

#[derive(Serialize, Deserialize)]
pub(in crate::jobs) struct ForgottenRecord {
    pub(in crate::jobs) id: JobId,
    pub(in crate::jobs) content: Content,
    pub(in crate::jobs) expires_ms: Millis,
}

#[derive(Serialize)]
struct UniqueRecord<'a> {
    queue: &'a QueueName,
    key: &'a UniqueKey,
    job: JobId,
    until: Option<Millis>,
}

/// The same on its way in.
#[derive(Deserialize)]
pub(in crate::jobs) struct UniqueIn {
    pub(in crate::jobs) queue: QueueName,
    pub(in crate::jobs) key: UniqueKey,
    pub(in crate::jobs) job: JobId,
    pub(in crate::jobs) until: Option<Millis>,
}

impl Machine {
    /// Goes through the records of an image of this machine, each of at most [`RECORD_BYTES_MAX`]
    /// bytes. Equal machines give equal records, byte for byte.
    pub fn records(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        let header = Header {
            version: IMAGE_VERSION,
            applied: self.applied,
            now: self.now,
            limits: self.limits,
            next_sequence: self.next_sequence,
            next_ending: self.next_ending,
            dead_dropped: self.dead_dropped,
            crons_fired: self.crons_fired,
            digests: self.digests(),
        };
        let trailer = Trailer {
            jobs: self.jobs.len() as u64,
            workers: self.registry.len(),
            forgotten: self.forgotten.len(),
            crons: self.crons.len() as u64,
            digest: self.digest(),
        };
        let ruled = self.books.queues().iter();
        let mut ruled =
            ruled.filter_map(|(name, it)| Some((name, it.rules.as_deref()?))).peekable();
        let mut crons = self.crons.after(None).peekable();
        let mut workers = self.registry.iter().peekable();
        let mut jobs = self.jobs.values().peekable();
        let mut forgotten = self.forgotten.iter().peekable();
        let mut uniques = self.uniques.timed().peekable();
        let groups = std::iter::from_fn(move || {
            if ruled.peek().is_some() {
                let group = ruled.by_ref().take(GROUP_QUEUES);
                return Some(record(QUEUES, &group.collect::<Vec<(&QueueName, &Rules)>>()));
            }
            if crons.peek().is_some() {
                let mut bytes = 0;
                let group = std::iter::from_fn(|| {
                    let cron = (bytes < GROUP_BYTES).then(|| crons.next()).flatten()?;
                    bytes = bytes.saturating_add(usize::try_from(cron.weight()).unwrap_or(bytes));
                    Some(cron_out(cron))
                });
                return Some(record(CRONS, &group.collect::<Vec<_>>()));
            }
            if workers.peek().is_some() {
                let group = workers.by_ref().take(GROUP_WORKERS);
                return Some(record(WORKERS, &group.map(|it| worker_out(it)).collect::<Vec<_>>()));
            }
            if jobs.peek().is_some() {
                let mut bytes = 0;
                let group = std::iter::from_fn(|| {
                    let job = (bytes < GROUP_BYTES).then(|| jobs.next()).flatten()?;
                    bytes = bytes.saturating_add(usize::try_from(job.weight()).unwrap_or(bytes));
                    Some(job_out(job))
                });
                return Some(record(JOBS, &group.collect::<Vec<_>>()));
            }
            if forgotten.peek().is_none() {
                uniques.peek()?;
                let group = uniques.by_ref().take(GROUP_KEYS).map(|((queue, key), lock)| {
                    UniqueRecord { queue, key, job: lock.job, until: lock.until }
                });
                return Some(record(UNIQUES, &group.collect::<Vec<_>>()));
            }
            let group = forgotten.by_ref().take(GROUP_IDS).map(|(id, it)| ForgottenRecord {
                id,
                content: it.content,
                expires_ms: it.expires_ms,
            });
            Some(record(FORGOTTEN, &group.collect::<Vec<_>>()))
        });
        std::iter::once(record(HEADER, &header))
            .chain(groups)
            .chain(std::iter::once_with(move || record(TRAILER, &trailer)))
    }
}

fn record<T: Serialize>(code: u8, argument: &T) -> Vec<u8> {
    let bytes = rmp_serde::to_vec(&(code, argument)).expect("a record fits MessagePack");
    assert!(bytes.len() <= RECORD_BYTES_MAX, "a record of {} bytes", bytes.len());
    bytes
}

fn cron_out(cron: &Cron) -> CronRecord {
    CronRecord {
        new: Arc::clone(&cron.new),
        created: cron.created,
        created_ms: cron.created_ms,
        paused_ms: cron.paused_ms,
        next_ms: cron.next_ms,
        last_slot_ms: cron.last_slot_ms,
        last_job: cron.last_job,
        last_error: cron.last_error.clone(),
        fired: cron.fired,
        skipped: cron.skipped,
        made_up: cron.made_up,
    }
}

fn worker_out(worker: &Worker) -> WorkerRecord {
    WorkerRecord {
        id: worker.id.clone(),
        incarnation: worker.incarnation,
        slots: worker.slots,
        serves: worker.serves.clone(),
        tags: worker.tags.clone(),
        state: worker.state.code(),
        registered_ms: worker.registered_ms,
        since_ms: worker.since_ms,
        last_assigned: worker.last_assigned,
        intake: worker.intake.code(),
    }
}

fn job_out(job: &Job) -> JobRecord<'_> {
    JobRecord {
        id: job.id,
        queue: job.queue.as_str(),
        kind: job.kind.code(),
        body: Bytes::new(&job.body),
        sequence: job.sequence,
        created_ms: job.created_ms,
        status: resident::status_code(job.status),
        attempt: job.attempt,
        run: job.run.as_deref().map(|run| RunRecord {
            worker: run.worker.as_str(),
            incarnation: run.incarnation,
            fence: run.fence,
            started_ms: run.started_ms,
            chosen: run.chosen,
        }),
        ending: job.ending.as_deref().map(|ending| EndingRecord {
            order: ending.order,
            finished_ms: ending.finished_ms,
            reported: ending.reported,
            exit_code: ending.exit_code,
            output_cut: ending.output_cut,
            output: Bytes::new(&ending.output),
            error: ending.error.as_deref(),
        }),
        extra: job.extra.as_deref().map(|extra| Box::new(extra_out(extra))),
    }
}

fn extra_out(extra: &Extra) -> ExtraRecord<'_> {
    let past = extra.past.iter().map(|past| PastRecord {
        attempt: past.attempt,
        worker: past.worker.as_ref().map(WorkerId::as_str),
        fence: past.fence,
        started_ms: past.started_ms,
        ended_ms: past.ended_ms,
        reported: past.reported,
        exit_code: past.exit_code,
        error: &past.error,
    });
    ExtraRecord {
        options: extra.options.as_deref().cloned(),
        held_ms: extra.held_ms,
        expires_ms: extra.expires_ms,
        forgiven: extra.forgiven,
        past: past.collect(),
        put_off: extra.put_off,
        progress: extra.progress.as_deref().map(|it| (it.percent, it.note.as_str(), it.at_ms)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_take_little_more_than_their_bytes() {
        // A group of the smallest jobs is read within the allowance for lists (see `pack::unpack`): it has some 60
        // bytes a job.
        assert!(size_of::<JobRecord<'_>>() <= 256, "{}", size_of::<JobRecord<'_>>());
    }
}

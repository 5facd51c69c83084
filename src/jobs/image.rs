//! The machine as a sequence of bounded records for a snapshot, and back.
//!
//! A record is `[code, argument]`, one MessagePack value. They come in this order, and each kind in
//! ascending order of its key: one header, the workers, the jobs, the forgotten ids, one trailer with
//! the counts and the digest. Indexes, counts and hashes are not written: restoring builds them anew
//! through the very code that keeps them, and the digest says whether all of it came out the same.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use serde_bytes::Bytes;

use crate::jobs::codec;
use crate::jobs::command::Limits;
use crate::jobs::digest::{Content, DIGEST_EVERY, DIGESTS_KEPT, Digest};
use crate::jobs::forgotten::Forgotten;
use crate::jobs::job::{
    BODY_BYTES_MAX, ERROR_BYTES_MAX, OUTPUT_BYTES_MAX, Serves, Status, WORKER_SLOTS_MAX,
};
use crate::jobs::machine::Machine;
use crate::jobs::registration;
use crate::jobs::registry::{Worker, WorkerState};
use crate::jobs::resident::{self, Ending, Job, Kind, Run};
use crate::pack::unpack::List;
use crate::types::{
    ASSIGNMENTS_PER_ENTRY_MAX, Fence, Incarnation, Index, JobId, Millis, QueueName, WorkerId,
};

/// The version of the records; another one is refused.
pub const IMAGE_VERSION: u32 = 2;

/// The bytes of one record, at most: a job of the largest body with the largest output, or a group
/// of smaller ones. A longer record is refused unread.
pub const RECORD_BYTES_MAX: usize = 2 << 20;

/// A group of jobs or ids is closed when it has reached this many bytes.
const GROUP_BYTES: usize = 64 << 10;

/// Workers in one record, at most: each has a few kilobytes of queue names at worst.
const GROUP_WORKERS: usize = 16;

/// Ids in one record, at most.
const GROUP_IDS: usize = 1024;

/// Indexes and counters of an image, at most: tokens of assignments are 4096 times an index.
const COUNTER_MAX: u64 = (u64::MAX >> 1) / ASSIGNMENTS_PER_ENTRY_MAX;

const HEADER: u8 = 0;
const WORKERS: u8 = 1;
const JOBS: u8 = 2;
const FORGOTTEN: u8 = 3;
const TRAILER: u8 = 4;

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
struct Header {
    version: u32,
    applied: Index,
    now: Millis,
    limits: Limits,
    next_sequence: u64,
    next_ending: u64,
    digests: Vec<(Index, Digest)>,
}

#[derive(Serialize, Deserialize)]
struct Trailer {
    jobs: u64,
    workers: u64,
    forgotten: u64,
    digest: Digest,
}

#[derive(Serialize, Deserialize)]
struct WorkerRecord {
    id: WorkerId,
    incarnation: Incarnation,
    slots: u32,
    serves: Serves,
    state: u8,
    registered_ms: Millis,
    since_ms: Millis,
    last_assigned: Fence,
}

#[derive(Serialize, Deserialize)]
struct JobRecord<'a> {
    id: JobId,
    #[serde(borrow)]
    queue: &'a str,
    kind: u8,
    #[serde(borrow)]
    body: &'a Bytes,
    sequence: u64,
    created_ms: Millis,
    status: u8,
    attempt: u32,
    #[serde(borrow)]
    run: Option<RunRecord<'a>>,
    #[serde(borrow)]
    ending: Option<EndingRecord<'a>>,
}

#[derive(Serialize, Deserialize)]
struct RunRecord<'a> {
    #[serde(borrow)]
    worker: &'a str,
    incarnation: Incarnation,
    fence: Fence,
    started_ms: Millis,
}

#[derive(Serialize, Deserialize)]
struct EndingRecord<'a> {
    order: u64,
    finished_ms: Millis,
    reported: bool,
    exit_code: Option<i32>,
    output_cut: bool,
    #[serde(borrow)]
    output: &'a Bytes,
    #[serde(borrow)]
    error: Option<&'a str>,
}

#[derive(Serialize, Deserialize)]
struct ForgottenRecord {
    id: JobId,
    content: Content,
    expires_ms: Millis,
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
            digests: self.digests(),
        };
        let trailer = Trailer {
            jobs: self.jobs.len() as u64,
            workers: self.registry.len(),
            forgotten: self.forgotten.len(),
            digest: self.digest(),
        };
        let mut workers = self.registry.iter().peekable();
        let mut jobs = self.jobs.values().peekable();
        let mut forgotten = self.forgotten.iter().peekable();
        let groups = std::iter::from_fn(move || {
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
            forgotten.peek()?;
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

fn worker_out(worker: &Worker) -> WorkerRecord {
    WorkerRecord {
        id: worker.id.clone(),
        incarnation: worker.incarnation,
        slots: worker.slots,
        serves: worker.serves.clone(),
        state: worker.state.code(),
        registered_ms: worker.registered_ms,
        since_ms: worker.since_ms,
        last_assigned: worker.last_assigned,
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
    }
}

/// Builds a machine from the records of an image. Nothing in them is believed: whatever a record
/// says is checked before it is written into a book, so that the worst of bytes is an error.
#[derive(Debug, Default)]
pub struct Restore {
    /// There after the header.
    machine: Option<Machine>,
    /// There after the trailer.
    digest: Option<Digest>,
    /// The code of the last record.
    last: u8,
    last_job: Option<JobId>,
    /// Its queue: most jobs are of the same one as the one before.
    last_queue: Option<QueueName>,
    last_worker: Option<WorkerId>,
    last_forgotten: Option<JobId>,
    /// Names of workers that jobs know and the registry does not (any more), so that jobs share them.
    names: BTreeSet<WorkerId>,
}

impl Restore {
    /// Begins without anything.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next record.
    ///
    /// # Errors
    /// [`ImageError`], if it cannot be the next record of an image; nothing after it makes sense.
    pub fn push(&mut self, record: &[u8]) -> Result<(), ImageError> {
        if record.len() > RECORD_BYTES_MAX {
            return Err(ImageError::Malformed(format!("{} bytes in one record", record.len())));
        }
        // The code is the first element of an array of two: the second byte.
        let Some([0x92, code]) = record.get(..2) else {
            return Err(ImageError::Malformed("not [code, argument]".into()));
        };
        let code = *code;
        if self.digest.is_some() {
            return Err(ImageError::Order("something follows the trailer"));
        }
        if code < self.last || (code == HEADER) != self.machine.is_none() {
            return Err(ImageError::Order("header, workers, jobs, forgotten ids, trailer"));
        }
        self.last = code;
        match code {
            HEADER => self.header(argument(record)?),
            WORKERS => {
                let List::<WorkerRecord>(group) = argument(record)?;
                group.into_iter().try_for_each(|worker| self.worker(worker))
            }
            JOBS => {
                let List::<JobRecord<'_>>(group) = argument(record)?;
                group.into_iter().try_for_each(|job| self.job(&job))
            }
            FORGOTTEN => {
                let List::<ForgottenRecord>(group) = argument(record)?;
                group.into_iter().try_for_each(|it| self.forgotten(&it))
            }
            TRAILER => self.trailer(&argument(record)?),
            code => Err(ImageError::Malformed(format!("a record of kind {code}"))),
        }
    }

    /// Hands out the machine, if it is whole and the very one that was written. Whoever has a claim
    /// about its index compares it with [`Machine::applied_index`].
    ///
    /// # Errors
    /// [`ImageError::Cut`] without a trailer; [`ImageError::Digest`] if anything came out otherwise.
    pub fn finish(self) -> Result<Machine, ImageError> {
        let (Some(machine), Some(written)) = (self.machine, self.digest) else {
            return Err(ImageError::Cut);
        };
        // Every sum in it was counted from nothing while the records came in.
        let restored = machine.digest();
        if restored == written {
            Ok(machine)
        } else {
            Err(ImageError::Digest { written, restored })
        }
    }

    fn header(&mut self, header: Header) -> Result<(), ImageError> {
        if header.version != IMAGE_VERSION {
            return Err(ImageError::Version(header.version));
        }
        // Beyond these the counters would run over; no log is ever so long.
        let far = header.applied.0 | header.next_sequence | header.next_ending;
        if far > COUNTER_MAX {
            return Err(contradiction("counters beyond all bounds"));
        }
        let ascending = header.digests.is_sorted_by(|(one, _), (next, _)| one < next);
        let taken = |(index, _): &(Index, Digest)| {
            index.0.is_multiple_of(DIGEST_EVERY) && index.0 > 0 && *index <= header.applied
        };
        if !ascending || header.digests.len() > DIGESTS_KEPT || !header.digests.iter().all(taken) {
            return Err(contradiction("digests that were never taken"));
        }
        self.machine = Some(Machine {
            applied: header.applied,
            now: header.now,
            limits: header.limits,
            next_sequence: header.next_sequence,
            next_ending: header.next_ending,
            digests: header.digests.into_iter().collect(),
            ..Machine::new()
        });
        Ok(())
    }

    fn worker(&mut self, it: WorkerRecord) -> Result<(), ImageError> {
        let machine = machine(&mut self.machine)?;
        rising(&mut self.last_worker, it.id.clone(), "workers by name")?;
        let state = WorkerState::from_code(it.state)
            .ok_or_else(|| contradiction("a worker in an unknown state"))?;
        let fits = (1..=WORKER_SLOTS_MAX).contains(&it.slots)
            && registration::serves_is_valid(&it.serves)
            && it.incarnation <= Incarnation::MAX
            && fence_is_past(machine, it.last_assigned);
        if !fits {
            return Err(contradiction(&format!("worker {} is out of bounds", it.id)));
        }
        machine.registry.put(Worker {
            id: it.id,
            incarnation: it.incarnation,
            slots: it.slots,
            serves: it.serves,
            state,
            registered_ms: it.registered_ms,
            since_ms: it.since_ms,
            last_assigned: it.last_assigned,
            running: OrdMap::new(),
        });
        Ok(())
    }

    fn job(&mut self, it: &JobRecord<'_>) -> Result<(), ImageError> {
        let machine = machine(&mut self.machine)?;
        rising(&mut self.last_job, it.id, "jobs by id")?;
        let wrong = |what: &str| contradiction(&format!("job {} has {what}", it.id));
        let queue = match &self.last_queue {
            Some(last) if last.as_str() == it.queue => last.clone(),
            Some(_) | None => {
                let queue = QueueName::new(it.queue).map_err(|error| wrong(&error.to_string()))?;
                machine.books.shared(&queue)
            }
        };
        self.last_queue = Some(queue.clone());
        let kind = Kind::from_code(it.kind).ok_or_else(|| wrong("an unknown kind"))?;
        let status =
            resident::status_from_code(it.status).ok_or_else(|| wrong("an unknown status"))?;
        if kind == Kind::Command && std::str::from_utf8(it.body).is_err() {
            return Err(wrong("a command that is no text"));
        }
        let run = it.run.as_ref().map(|run| self.names.run(machine, run)).transpose()?;
        let ending = it.ending.as_ref().map(ending_in).transpose()?;
        let job = Job {
            id: it.id,
            content: resident::job_content(&queue, kind, it.body),
            queue,
            body: Arc::from(it.body.as_ref()),
            sequence: it.sequence,
            created_ms: it.created_ms,
            attempt: it.attempt,
            status,
            kind,
            run: run.map(Arc::new),
            ending: ending.map(Arc::new),
        };
        // A payload has no fault but its length: it is not unpacked for that.
        let is_plain = kind == Kind::Payload && job.body.len() <= BODY_BYTES_MAX;
        if !is_plain && let Some(fault) = job.unpacked().fault() {
            return Err(wrong(&fault));
        }
        fits(machine, &job).map_err(wrong)?;
        machine.insert(job);
        Ok(())
    }

    fn forgotten(&mut self, it: &ForgottenRecord) -> Result<(), ImageError> {
        let machine = machine(&mut self.machine)?;
        rising(&mut self.last_forgotten, it.id, "forgotten ids")?;
        if machine.jobs.contains_key(&it.id) {
            return Err(contradiction(&format!("job {} is kept and forgotten", it.id)));
        }
        let forgotten = Forgotten { content: it.content, expires_ms: it.expires_ms };
        machine.forgotten.keep(it.id, forgotten);
        Ok(())
    }

    fn trailer(&mut self, trailer: &Trailer) -> Result<(), ImageError> {
        let machine = machine(&mut self.machine)?;
        let restored = (machine.jobs.len() as u64, machine.registry.len(), machine.forgotten.len());
        if restored != (trailer.jobs, trailer.workers, trailer.forgotten) {
            return Err(contradiction("records are missing, or there are too many"));
        }
        self.digest = Some(trailer.digest);
        Ok(())
    }
}

/// Reads the argument of a record whose code was looked at already.
fn argument<'de, T: Deserialize<'de>>(record: &'de [u8]) -> Result<T, ImageError> {
    let (_, argument): (u8, T) =
        codec::decode_value(record).map_err(|error| ImageError::Malformed(error.to_string()))?;
    Ok(argument)
}

fn machine(machine: &mut Option<Machine>) -> Result<&mut Machine, ImageError> {
    machine.as_mut().ok_or(ImageError::Order("the header comes first"))
}

fn contradiction(what: &str) -> ImageError {
    ImageError::Contradiction(what.into())
}

/// Checks that a key comes after the last one of its kind: so none comes twice.
fn rising<K: Ord>(last: &mut Option<K>, key: K, what: &'static str) -> Result<(), ImageError> {
    if last.as_ref().is_some_and(|last| *last >= key) {
        return Err(ImageError::Order(what));
    }
    *last = Some(key);
    Ok(())
}

/// Tells whether a token can have been given by an entry applied already.
fn fence_is_past(machine: &Machine, fence: Fence) -> bool {
    fence.0 / ASSIGNMENTS_PER_ENTRY_MAX <= machine.applied.0
}

/// Says why the machine cannot have such a job beside what it has.
fn fits(machine: &Machine, job: &Job) -> Result<(), &'static str> {
    if job.attempt == 0 {
        return Err("no attempt");
    }
    if job.sequence >= machine.next_sequence {
        return Err("a place in commit order that was never given");
    }
    if job.ending.is_some() != job.status.is_final() {
        return Err("an ending that does not go with its status");
    }
    if let Some(ending) = &job.ending
        && (ending.order >= machine.next_ending
            || machine.books.ended().contains_key(&ending.order))
    {
        return Err("a place in the order of endings that is not its own");
    }
    let line = machine.books.lines().get(&job.lane());
    if job.status == Status::Pending && line.is_some_and(|it| it.contains_key(&job.sequence)) {
        return Err("a place in commit order that another one has");
    }
    if job.status != Status::Running {
        return Ok(());
    }
    let Some(run) = &job.run else { return Err("nobody who runs it") };
    let holds = machine.registry.get(&run.worker).is_some_and(|worker| {
        worker.incarnation == run.incarnation
            && worker.is_free()
            && worker.takes(&job.lane())
            && worker.last_assigned >= run.fence
            && !worker.running.contains_key(&run.fence)
    });
    if holds { Ok(()) } else { Err("a worker that cannot have it") }
}

/// Names of workers, each kept once however many jobs it is in.
trait SharedNames {
    fn run(&mut self, machine: &Machine, it: &RunRecord<'_>) -> Result<Run, ImageError>;
}

impl SharedNames for BTreeSet<WorkerId> {
    fn run(&mut self, machine: &Machine, it: &RunRecord<'_>) -> Result<Run, ImageError> {
        let name = WorkerId::new(it.worker).map_err(|error| contradiction(&error.to_string()))?;
        let worker = match machine.registry.get(&name) {
            Some(worker) => worker.id.clone(),
            None => {
                self.insert(name.clone());
                self.get(&name).cloned().unwrap_or(name)
            }
        };
        if !fence_is_past(machine, it.fence) {
            return Err(contradiction("a token that was never given"));
        }
        Ok(Run { worker, incarnation: it.incarnation, fence: it.fence, started_ms: it.started_ms })
    }
}

fn ending_in(it: &EndingRecord<'_>) -> Result<Ending, ImageError> {
    let error_bytes = it.error.map_or(0, str::len);
    if it.output.len() > OUTPUT_BYTES_MAX || error_bytes > ERROR_BYTES_MAX {
        return Err(contradiction("an output or an error that is too long"));
    }
    Ok(Ending {
        order: it.order,
        finished_ms: it.finished_ms,
        reported: it.reported,
        exit_code: it.exit_code,
        output_cut: it.output_cut,
        output: Box::from(it.output.as_ref()),
        error: it.error.map(Box::from),
        content: resident::ending_content(it.output, it.error),
    })
}

//! A machine from the records of an image, none of which is believed.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::OrdMap;
use serde::Deserialize;

use crate::jobs::codec;
use crate::jobs::cron::{CRON_ERROR_BYTES_MAX, CRONS_MAX, MADE_UP_MAX};
use crate::jobs::crons::Cron;
use crate::jobs::digest::{DIGEST_EVERY, DIGESTS_KEPT, Digest};
use crate::jobs::extra::{Extra, PAST_ERROR_BYTES_MAX, Past};
use crate::jobs::forgotten::Forgotten;
use crate::jobs::image::{
    COUNTER_MAX, CRONS, CronRecord, EndingRecord, ExtraRecord, FORGOTTEN, ForgottenRecord, HEADER,
    Header, IMAGE_VERSION, ImageError, JOBS, JobRecord, PastRecord, QUEUES, RECORD_BYTES_MAX,
    RunRecord, TRAILER, Trailer, UNIQUES, UniqueIn, WORKERS, WorkerRecord,
};
use crate::jobs::intake::{Intake, NOTE_BYTES_MAX, PERCENT_MAX, Progress};
use crate::jobs::job::{
    BODY_BYTES_MAX, ERROR_BYTES_MAX, OUTPUT_BYTES_MAX, PAST_MAX, Status, WORKER_SLOTS_MAX,
};
use crate::jobs::machine::Machine;
use crate::jobs::options::{Options, RETRIES_MAX};
use crate::jobs::ordered::Ordered;
use crate::jobs::queue::{RULED_QUEUES_MAX, Rules};
use crate::jobs::registration;
use crate::jobs::registry::{Worker, WorkerState};
use crate::jobs::resident::{self, Ending, Job, Kind, Run};
use crate::jobs::rules::QueueChange;
use crate::jobs::unique::{self, Lock, Place};
use crate::pack::unpack::List;
use crate::types::{
    ASSIGNMENTS_PER_ENTRY_MAX, CronName, Fence, Incarnation, Index, JobId, Millis, QueueName,
    WorkerId,
};

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
    last_ruled: Option<QueueName>,
    last_cron: Option<CronName>,
    last_worker: Option<WorkerId>,
    last_forgotten: Option<JobId>,
    last_unique: Option<Place>,
    /// The places in commit order of all jobs: any of them may stand in a line some day, and no two in one place.
    sequences: Vec<u64>,
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
            return Err(ImageError::Order(
                "header, queues, crons, workers, jobs, forgotten ids, unique keys, trailer",
            ));
        }
        self.last = code;
        match code {
            HEADER => self.header(argument(record)?),
            QUEUES => {
                let List::<(QueueName, Rules)>(group) = argument(record)?;
                group.into_iter().try_for_each(|(name, rules)| self.queue(name, rules))
            }
            CRONS => {
                let List::<CronRecord>(group) = argument(record)?;
                group.into_iter().try_for_each(|cron| self.cron(cron))
            }
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
            UNIQUES => {
                let List::<UniqueIn>(group) = argument(record)?;
                group.into_iter().try_for_each(|it| self.unique(it))
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
        let far =
            header.applied.0 | header.next_sequence | header.next_ending | header.dead_dropped;
        let far = far | header.crons_fired;
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
            dead_dropped: header.dead_dropped,
            crons_fired: header.crons_fired,
            digests: header.digests.into_iter().collect(),
            changes: Vec::new(),
            ..Machine::new()
        });
        Ok(())
    }

    fn queue(&mut self, name: QueueName, rules: Rules) -> Result<(), ImageError> {
        let machine = machine(&mut self.machine)?;
        rising(&mut self.last_ruled, name.clone(), "queues by name")?;
        let fits = !rules.is_empty()
            && machine.books.ruled() < RULED_QUEUES_MAX
            && QueueChange::Limit(rules.limit).fault().is_none()
            && QueueChange::Rate(rules.rate).fault().is_none()
            && (rules.rate.is_some() || !rules.rests && rules.next_start_us == 0);
        if !fits {
            return Err(contradiction(&format!("the rules of queue {name} are out of bounds")));
        }
        machine.books.change_rules(&name, |new| *new = rules);
        Ok(())
    }

    fn cron(&mut self, it: CronRecord) -> Result<(), ImageError> {
        let machine = machine(&mut self.machine)?;
        rising(&mut self.last_cron, it.new.name.clone(), "crons by name")?;
        let error_bytes = it.last_error.as_ref().map_or(0, |error| error.len());
        let fits = it.new.fault().is_none()
            && machine.crons.len() < CRONS_MAX
            && it.created <= machine.applied
            && (it.paused_ms.is_none() || it.next_ms.is_none())
            && error_bytes <= CRON_ERROR_BYTES_MAX
            && it.fired | it.skipped <= COUNTER_MAX
            && it.made_up <= MADE_UP_MAX;
        if !fits {
            return Err(contradiction(&format!("cron {} is out of bounds", it.new.name)));
        }
        machine.crons.put(Cron {
            paused_ms: it.paused_ms,
            next_ms: it.next_ms,
            last_slot_ms: it.last_slot_ms,
            last_job: it.last_job,
            last_error: it.last_error,
            fired: it.fired,
            skipped: it.skipped,
            made_up: it.made_up,
            ..Cron::new(it.new, it.created, it.created_ms)
        });
        Ok(())
    }

    fn worker(&mut self, it: WorkerRecord) -> Result<(), ImageError> {
        let machine = machine(&mut self.machine)?;
        rising(&mut self.last_worker, it.id.clone(), "workers by name")?;
        let state = WorkerState::from_code(it.state)
            .ok_or_else(|| contradiction("a worker in an unknown state"))?;
        let intake = Intake::from_code(it.intake)
            .ok_or_else(|| contradiction("an unknown decision about a worker"))?;
        let fits = (1..=WORKER_SLOTS_MAX).contains(&it.slots)
            && registration::serves_is_valid(&it.serves)
            && it.tags.fault().is_none()
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
            tags: it.tags,
            state,
            intake,
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
        let extra = it.extra.as_deref();
        let extra = extra.map(|extra| self.names.extra(machine, extra)).transpose()?;
        let asked = extra.as_ref().and_then(|extra| extra.options.as_deref());
        let job = Job {
            id: it.id,
            content: resident::job_content(&queue, kind, it.body, asked),
            queue,
            body: Arc::from(it.body.as_ref()),
            sequence: it.sequence,
            created_ms: it.created_ms,
            attempt: it.attempt,
            status,
            kind,
            run: run.map(Arc::new),
            ending: ending.map(Arc::new),
            extra: extra.map(Arc::new),
        };
        // A payload has no fault but its length: it is not unpacked for that.
        let is_plain = kind == Kind::Payload && job.body.len() <= BODY_BYTES_MAX;
        if !is_plain && let Some(fault) = job.unpacked().fault() {
            return Err(wrong(&fault));
        }
        fits(machine, &job).map_err(wrong)?;
        if let Some(place) = unique::held_until_end(&job).filter(|_| !job.status.is_final())
            && machine.uniques.holder(&place, Millis(0)).is_some()
        {
            return Err(wrong("a unique key that another one has"));
        }
        self.sequences.push(job.sequence);
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

    fn unique(&mut self, it: UniqueIn) -> Result<(), ImageError> {
        let machine = machine(&mut self.machine)?;
        let place = (it.queue, it.key);
        rising(&mut self.last_unique, place.clone(), "unique keys by queue and text")?;
        if it.until.is_none() || machine.uniques.holder(&place, Millis(0)).is_some() {
            return Err(contradiction("a unique key that is not held for a time, or twice"));
        }
        machine.uniques.lock(place, Lock { job: it.job, until: it.until });
        Ok(())
    }

    fn trailer(&mut self, trailer: &Trailer) -> Result<(), ImageError> {
        let machine = machine(&mut self.machine)?;
        let restored = (machine.jobs.len() as u64, machine.registry.len(), machine.forgotten.len());
        if restored != (trailer.jobs, trailer.workers, trailer.forgotten) {
            return Err(contradiction("records are missing, or there are too many"));
        }
        if machine.crons.len() as u64 != trailer.crons {
            return Err(contradiction("crons are missing, or there are too many"));
        }
        self.sequences.sort_unstable();
        if !self.sequences.is_sorted_by(|one, next| one < next) {
            return Err(contradiction("two jobs have one place in commit order"));
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
    if job.attempt == 0 || job.attempts_used() == 0 {
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
            || machine.books.finished().contains_key(&ending.order)
            || machine.books.dead().contains_key(&ending.order))
    {
        return Err("a place in the order of endings that is not its own");
    }
    // Where that would disturb the books at once it is looked at here, and for all jobs at the end.
    let stands = |line: &Ordered<u64, JobId>| line.contains_key(&job.place());
    let is_front =
        machine.books.fronts().get(&job.class()).is_some_and(|it| it.contains_key(&job.place()));
    let is_taken = machine.books.lines().get(&job.lane()).is_some_and(stands);
    if job.status == Status::Pending && (is_front || is_taken) {
        return Err("a place in commit order that another one has");
    }
    if job.status != Status::Running {
        return Ok(());
    }
    let Some(run) = &job.run else { return Err("nobody who runs it") };
    let holds = machine.registry.get(&run.worker).is_some_and(|worker| {
        worker.incarnation == run.incarnation
            && worker.has_slot()
            && worker.takes(&job.class())
            && worker.last_assigned >= run.fence
            && !worker.running.contains_key(&run.fence)
    });
    if holds { Ok(()) } else { Err("a worker that cannot have it") }
}

/// Names of workers, each kept once however many jobs it is in.
trait SharedNames {
    fn name(&mut self, machine: &Machine, name: &str) -> Result<WorkerId, ImageError>;

    fn run(&mut self, machine: &Machine, it: &RunRecord<'_>) -> Result<Run, ImageError>;

    fn extra(&mut self, machine: &Machine, it: &ExtraRecord<'_>) -> Result<Extra, ImageError>;
}

impl SharedNames for BTreeSet<WorkerId> {
    fn name(&mut self, machine: &Machine, name: &str) -> Result<WorkerId, ImageError> {
        let name = WorkerId::new(name).map_err(|error| contradiction(&error.to_string()))?;
        Ok(match machine.registry.get(&name) {
            Some(worker) => worker.id.clone(),
            None => {
                self.insert(name.clone());
                self.get(&name).cloned().unwrap_or(name)
            }
        })
    }

    fn extra(&mut self, machine: &Machine, it: &ExtraRecord<'_>) -> Result<Extra, ImageError> {
        if let Some(fault) = it.options.as_ref().and_then(Options::fault) {
            return Err(contradiction(&fault));
        }
        let is_long = |past: &PastRecord<'_>| past.error.len() > PAST_ERROR_BYTES_MAX;
        if it.past.len() > PAST_MAX || it.past.iter().any(is_long) {
            return Err(contradiction("too much of past attempts"));
        }
        let progress = it.progress.map(|(percent, note, at_ms)| Progress {
            percent,
            note: note.into(),
            at_ms,
        });
        let is_far = |it: &Progress| it.percent > PERCENT_MAX || it.note.len() > NOTE_BYTES_MAX;
        if it.put_off > RETRIES_MAX || progress.as_ref().is_some_and(is_far) {
            return Err(contradiction("an attempt that says too much of itself"));
        }
        let past = it.past.iter().map(|past| {
            Ok(Past {
                attempt: past.attempt,
                worker: past.worker.map(|name| self.name(machine, name)).transpose()?,
                fence: past.fence,
                started_ms: past.started_ms,
                ended_ms: past.ended_ms,
                reported: past.reported,
                exit_code: past.exit_code,
                error: Box::from(past.error),
            })
        });
        let extra = Extra {
            past: past.collect::<Result<_, ImageError>>()?,
            options: it.options.clone().and_then(Options::shared),
            held_ms: it.held_ms,
            expires_ms: it.expires_ms,
            forgiven: it.forgiven,
            put_off: it.put_off,
            progress: progress.map(Box::new),
        };
        if extra.is_empty() {
            return Err(contradiction("a record that says nothing"));
        }
        Ok(extra)
    }

    fn run(&mut self, machine: &Machine, it: &RunRecord<'_>) -> Result<Run, ImageError> {
        let worker = self.name(machine, it.worker)?;
        if !fence_is_past(machine, it.fence) {
            return Err(contradiction("a token that was never given"));
        }
        if !it.chosen.is_possible() {
            return Err(contradiction("a worker that was chosen without a free slot"));
        }
        Ok(Run {
            worker,
            incarnation: it.incarnation,
            fence: it.fence,
            started_ms: it.started_ms,
            chosen: it.chosen,
        })
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

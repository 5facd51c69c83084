//! The state machine: every job, every worker, and what becomes of them entry by entry.

use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use imbl::OrdMap;

use crate::jobs::books::Books;
use crate::jobs::change::Change;
use crate::jobs::command::{Command, Event, Limits, Outcome, Stamped};
use crate::jobs::crons::Crons;
use crate::jobs::digest::{Content, DIGEST_EVERY, DIGESTS_KEPT, Digest, Fold};
use crate::jobs::forgotten::ForgottenIds;
use crate::jobs::job::{Assignment, JobView, NewJob, Status};
use crate::jobs::noting::Before;
use crate::jobs::ordered::Ordered;
use crate::jobs::queue::{Queue, Rules};
use crate::jobs::registry::{Registry, Worker};
use crate::jobs::resident::{self, End, Job};
use crate::jobs::unique::Uniques;
use crate::types::{Fence, Incarnation, Index, JobId, Millis, QueueName, WorkerId};

/// The replicated job queue after some prefix of the log: a fold of the entries and nothing else.
/// Every replica at one index has the same one, and its [`Machine::digest`] says so.
///
/// A clone is an image of it: it costs as much as a few pointers, however many jobs there are, and
/// never changes again. Reads and snapshots work on images, outside the Raft thread.
///
/// - `now` never goes back.
/// - `books`, `registry`, `forgotten`, `uniques` and `crons` are what [`crate::jobs::check`] would count anew.
/// - An id is in `jobs` or in `forgotten`, never in both.
#[derive(Clone, PartialEq, Eq)]
pub struct Machine {
    pub(in crate::jobs) applied: Index,
    pub(in crate::jobs) now: Millis,
    pub(in crate::jobs) limits: Limits,
    /// The place in commit order of the next job submitted.
    pub(in crate::jobs) next_sequence: u64,
    /// The place in the order of endings of the next job that ends.
    pub(in crate::jobs) next_ending: u64,
    /// Jobs that failed and were forgotten, because a limit asked for it and not a user.
    pub(in crate::jobs) dead_dropped: u64,
    pub(in crate::jobs) jobs: Ordered<JobId, Arc<Job>>,
    pub(in crate::jobs) books: Books,
    pub(in crate::jobs) registry: Registry,
    pub(in crate::jobs) forgotten: ForgottenIds,
    pub(in crate::jobs) uniques: Uniques,
    pub(in crate::jobs) crons: Crons,
    /// Jobs that crons have submitted at their slots.
    pub(in crate::jobs) crons_fired: u64,
    /// The newest digests taken, at most [`DIGESTS_KEPT`].
    pub(in crate::jobs) digests: OrdMap<Index, Digest>,
    /// What the entry that is being applied has changed so far; empty between two entries.
    pub(in crate::jobs) changes: Vec<Change>,
}

/// What one entry came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The answer to whoever proposed it.
    pub outcome: Outcome,
    /// What changed for those who wait, in the order in which it did.
    pub events: Vec<Event>,
    /// What changed for those who watch, in the order in which it did: the `n`th has the position `index.n`.
    pub changes: Vec<Change>,
}

/// How much of everything there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Jobs that wait.
    pub pending: u64,
    /// Those of them that wait for a time to come.
    pub held: u64,
    /// Jobs that run.
    pub running: u64,
    /// Jobs kept that ended well.
    pub completed: u64,
    /// Jobs kept that ended badly.
    pub failed: u64,
    /// Jobs kept that were cancelled.
    pub cancelled: u64,
    /// Bytes of everything: jobs, forgotten ids, workers, crons; what the limit on them is held against.
    pub resident_bytes: u64,
    /// Bytes of the jobs kept that completed or were cancelled.
    pub finished_bytes: u64,
    /// Bytes of the jobs kept that failed.
    pub dead_bytes: u64,
    /// Jobs that failed and were forgotten, because a limit asked for it and not a user.
    pub dead_dropped: u64,
    /// Ids of forgotten jobs that are still known.
    pub forgotten: u64,
    /// Workers in the registry.
    pub workers: u64,
    /// Those of them that are live.
    pub workers_live: u64,
    /// Slots of the live ones.
    pub slots_live: u64,
}

impl Counts {
    /// Returns how many jobs are in a status.
    #[must_use]
    pub fn of(&self, status: Status) -> u64 {
        match status {
            Status::Pending => self.pending,
            Status::Running => self.running,
            Status::Completed => self.completed,
            Status::Failed => self.failed,
            Status::Cancelled => self.cancelled,
        }
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Machine {
    /// Prints a line; a million jobs would be no help in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine")
            .field("applied", &self.applied)
            .field("now", &self.now)
            .field("digest", &self.digest())
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

impl Machine {
    /// Makes the machine before the first entry, with default limits.
    #[must_use]
    pub fn new() -> Self {
        Self {
            applied: Index(0),
            now: Millis(0),
            limits: Limits::default(),
            next_sequence: 1,
            next_ending: 1,
            dead_dropped: 0,
            jobs: Ordered::new(),
            books: Books::default(),
            registry: Registry::default(),
            forgotten: ForgottenIds::default(),
            uniques: Uniques::default(),
            crons: Crons::default(),
            crons_fired: 0,
            digests: OrdMap::new(),
            changes: Vec::new(),
        }
    }

    /// Applies the command of the entry at `index` and says what it came to. A command that cannot be
    /// followed changes nothing but the clock; its outcome says why.
    ///
    /// # Panics
    /// If `index` is not the one after the last applied: the log has no gap (Raft paper §5.3).
    pub fn apply(&mut self, index: Index, command: &Stamped) -> Applied {
        self.advance(index);
        self.now = self.now.max(command.now);
        let mut events = Vec::new();
        self.fire(&mut events);
        let outcome = match &command.command {
            Command::SubmitJob(jobs) => {
                Outcome::Submitted(jobs.iter().map(|job| self.submit(job)).collect())
            }
            Command::AssignJob(pairs) => Outcome::Assigned(self.assign(pairs, &mut events)),
            Command::RegisterWorker(registration) => {
                Outcome::Registered(self.register(registration, &mut events))
            }
            Command::UpdateJobStatus(update) => {
                Outcome::Updated(vec![self.report(update, &mut events)])
            }
            Command::BatchUpdateJobStatus(updates) => Outcome::Updated(
                updates.iter().map(|update| self.report(update, &mut events)).collect(),
            ),
            Command::CancelJob(ids) => {
                Outcome::Cancelled(ids.iter().map(|id| self.cancel(*id, &mut events)).collect())
            }
            Command::ReleaseJob(release) => Outcome::Released(self.release(release, &mut events)),
            Command::WorkerLost(starts) => Outcome::Lost(
                starts
                    .iter()
                    .filter(|(worker, start)| self.lose(worker, *start, &mut events))
                    .count(),
            ),
            Command::SetLimits(limits) => {
                self.limits = *limits;
                Outcome::LimitsSet
            }
            Command::Tick => Outcome::Ticked,
            Command::ChangeQueue(name, change) => {
                Outcome::QueueChanged(self.change_queue(name, *change))
            }
            Command::RetryJob(ids) => {
                Outcome::Retried(ids.iter().map(|id| self.retry(*id)).collect())
            }
            Command::PurgeJob(ids) => {
                Outcome::Purged(ids.iter().map(|id| self.purge(*id)).collect())
            }
            Command::ChangeWorker(worker, intake) => {
                Outcome::WorkerChanged(self.change_worker(worker, *intake))
            }
            Command::ReportProgress(report) => Outcome::ProgressNoted(self.note_progress(report)),
            Command::AddCron(add) => Outcome::CronAdded(self.add_cron(add)),
            Command::ChangeCron(name, change, next_ms) => {
                Outcome::CronChanged(self.change_cron(name, *change, *next_ms))
            }
            Command::FireCron(fires) => {
                Outcome::CronsFired(fires.iter().map(|fire| self.fire_cron(fire)).collect())
            }
        };
        self.retain(events.iter().filter(|it| matches!(it, Event::Ended { .. })).count());
        self.take_digest();
        self.assert_invariants();
        Applied { outcome, events, changes: std::mem::take(&mut self.changes) }
    }

    /// Moves past an entry that is no command: a no-op or a configuration.
    ///
    /// # Panics
    /// If `index` is not the one after the last applied.
    pub fn apply_noop(&mut self, index: Index) {
        self.advance(index);
        self.take_digest();
    }

    fn advance(&mut self, index: Index) {
        assert_eq!(index, self.applied.next(), "entries are applied in order");
        self.applied = index;
    }

    fn take_digest(&mut self) {
        if !self.applied.0.is_multiple_of(DIGEST_EVERY) {
            return;
        }
        self.digests.insert(self.applied, self.digest());
        if self.digests.len() > DIGESTS_KEPT
            && let Some((oldest, _)) = self.digests.get_min()
        {
            let oldest = *oldest;
            self.digests.remove(&oldest);
        }
    }

    /// Checks what costs nothing to check; the rest is in [`Machine::assert_consistent`].
    fn assert_invariants(&self) {
        let totals = self.books.totals();
        assert_eq!(totals.total(), self.jobs.len() as u64, "every job is counted once");
        let ended = self.books.finished().len() + self.books.dead().len();
        assert_eq!(totals.finished(), ended as u64, "every ending has a place");
        assert!(totals.running <= self.registry.slots_live(), "more jobs run than there are slots");
        assert!(self.digests.len() <= DIGESTS_KEPT);
    }

    /// Returns the index of the last entry applied; 0 before the first.
    #[must_use]
    pub fn applied_index(&self) -> Index {
        self.applied
    }

    /// Returns the time on the log's clock: the highest stamp so far.
    #[must_use]
    pub fn now(&self) -> Millis {
        self.now
    }

    /// Returns the limits in force.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Returns a job that is kept.
    #[must_use]
    pub fn job(&self, id: JobId) -> Option<&Arc<Job>> {
        self.jobs.get(&id)
    }

    /// Tells users about a job that is kept, its body included.
    #[must_use]
    pub fn view(&self, id: JobId) -> Option<JobView> {
        self.jobs.get(&id).map(|job| job.view(true))
    }

    /// Tells whether an id was submitted: the job is kept, or forgotten and its id still known.
    #[must_use]
    pub fn is_known(&self, id: JobId) -> bool {
        self.jobs.contains_key(&id) || self.forgotten.get(id).is_some()
    }

    /// Returns the hash of what an id was submitted with.
    pub(in crate::jobs) fn content(&self, id: JobId) -> Option<Content> {
        let kept = self.jobs.get(&id).map(|job| job.content);
        kept.or_else(|| self.forgotten.get(id).map(|forgotten| forgotten.content))
    }

    /// Counts everything; costs nothing, since the counts are kept.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let totals = self.books.totals();
        Counts {
            pending: totals.pending(),
            running: totals.running,
            completed: totals.completed,
            failed: totals.failed,
            cancelled: totals.cancelled,
            resident_bytes: self.resident_bytes(),
            held: totals.held,
            finished_bytes: self.books.finished_bytes(),
            dead_bytes: self.books.dead_bytes(),
            dead_dropped: self.dead_dropped,
            forgotten: self.forgotten.len(),
            workers: self.registry.len(),
            workers_live: self.registry.live(),
            slots_live: self.registry.slots_live(),
        }
    }

    /// Returns the bytes that the limit on resident bytes is held against.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        self.books.bytes()
            + self.registry.bytes()
            + self.uniques.bytes()
            + self.forgotten.len() * crate::jobs::forgotten::FORGOTTEN_BYTES
            + self.crons.bytes()
    }

    /// Tells whether a submit of this job, decided now, would find no room.
    #[must_use]
    pub fn has_no_room(&self, new: &NewJob) -> bool {
        let weight = resident::weight(new);
        self.resident_bytes().saturating_add(weight) > self.limits.resident_bytes_max
            && self.content(new.id).is_none()
            && new.options.as_ref().is_none_or(|it| self.holder_of(&new.queue, it).is_none())
    }

    /// Goes through the queues that some job is in or that have rules, in order of name.
    pub fn queues(&self) -> impl Iterator<Item = (&QueueName, &Queue)> {
        self.books.queues().iter()
    }

    /// Goes through the queues whose names come after this one, as [`Machine::queues`] does.
    pub fn queues_after(
        &self,
        after: Option<&QueueName>,
    ) -> impl Iterator<Item = (&QueueName, &Queue)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.books.queues().range::<_, QueueName>((from, Bound::Unbounded))
    }

    /// Returns the rules of a queue, if it has any.
    #[must_use]
    pub fn rules(&self, queue: &QueueName) -> Option<&Rules> {
        self.books.queues().get(queue).and_then(|queue| queue.rules.as_deref())
    }

    /// Returns a worker of the registry.
    #[must_use]
    pub fn worker(&self, id: &WorkerId) -> Option<&Arc<Worker>> {
        self.registry.get(id)
    }

    /// Goes through the registry in order of name.
    pub fn workers(&self) -> impl Iterator<Item = &Arc<Worker>> {
        self.registry.iter()
    }

    /// Returns what this start of a worker runs under tokens above `after`, at most `max` jobs, in
    /// order of token. Nothing if the worker has another start by now. Their payloads may be
    /// [`crate::jobs::job::BODY_BYTES_MAX`] each: see [`Machine::assignments_within`].
    #[must_use]
    pub fn assignments(
        &self,
        worker: &WorkerId,
        incarnation: Incarnation,
        after: Fence,
        max: usize,
    ) -> Vec<Assignment> {
        self.assignments_within(worker, incarnation, after, max, usize::MAX)
    }

    /// Does what [`Machine::assignments`] does, and stops before the bodies weigh more than
    /// `bytes_max`; but the first job is always there, so that asking again gets on.
    ///
    /// # Panics
    /// If a worker holds a job that is not there: the registry's invariant.
    #[must_use]
    pub fn assignments_within(
        &self,
        worker: &WorkerId,
        incarnation: Incarnation,
        after: Fence,
        max: usize,
        bytes_max: usize,
    ) -> Vec<Assignment> {
        let Some(worker) = self.registry.get(worker) else { return Vec::new() };
        if worker.incarnation != incarnation {
            return Vec::new();
        }
        let mut assignments = Vec::new();
        let mut bytes = 0usize;
        for (fence, id) in
            worker.running.range((Bound::Excluded(after), Bound::Unbounded)).take(max)
        {
            let job = self.jobs.get(id).expect("a job that runs is there");
            bytes = bytes.saturating_add(job.body.len());
            if bytes > bytes_max && !assignments.is_empty() {
                break;
            }
            assignments.push(job.assignment(*fence));
        }
        assignments
    }

    /// Returns the digest of the whole machine as it is now.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let sum = self.books.sum();
        let sum = sum.wrapping_add(self.registry.sum()).wrapping_add(self.forgotten.sum());
        let sum = sum.wrapping_add(self.uniques.sum());
        let sum = sum.wrapping_add(self.crons.sum());
        Digest(sum.wrapping_add(self.scalars_record()))
    }

    /// Hashes what is no record of its own.
    fn scalars_record(&self) -> u128 {
        let Limits {
            finished_count_max,
            finished_age_ms_max,
            finished_bytes_max,
            dead_age_ms_max,
            dead_bytes_max,
            resident_bytes_max,
            id_kept_ms,
            attempts_max,
            workers_max,
        } = self.limits;
        Fold::new(b'm')
            .index(self.applied)
            .millis(self.now)
            .u64(self.next_sequence)
            .u64(self.next_ending)
            .u64(self.dead_dropped)
            .u64(self.crons_fired)
            .u64(finished_count_max)
            .u64(finished_age_ms_max)
            .u64(finished_bytes_max)
            .u64(dead_age_ms_max)
            .u64(dead_bytes_max)
            .u64(resident_bytes_max)
            .u64(id_kept_ms)
            .u64(u64::from(attempts_max))
            .u64(u64::from(workers_max))
            .finish()
    }

    /// Returns the newest digests, each with the index at which it was taken, oldest first: after
    /// every entry whose index is a multiple of [`DIGEST_EVERY`], the last [`DIGESTS_KEPT`].
    #[must_use]
    pub fn digests(&self) -> Vec<(Index, Digest)> {
        self.digests.iter().map(|(index, digest)| (*index, *digest)).collect()
    }

    /// Returns the digest taken at an index, if it is one of the newest.
    #[must_use]
    pub fn digest_at(&self, index: Index) -> Option<Digest> {
        self.digests.get(&index).copied()
    }

    /// Changes a job and brings the books and the registry along. All changes of jobs go through
    /// here or through [`Machine::insert`], so that no command can forget an index.
    ///
    /// # Panics
    /// If there is no such job: the caller looked.
    pub(in crate::jobs) fn change(&mut self, id: JobId, change: impl FnOnce(&mut Job)) {
        let slot = self.jobs.get_mut(&id).expect("the job to change is there");
        self.books.leave(slot);
        let before = Before::of(slot);
        if slot.status == Status::Running
            && let Some(run) = &slot.run
        {
            self.registry.release(&run.worker, run.fence);
        }
        let job = Arc::make_mut(slot);
        change(job);
        self.books.enter(job);
        if job.status == Status::Running
            && let Some(run) = &job.run
        {
            self.registry.hold(&run.worker, run.fence, id);
        }
        self.changes.extend(before.change(job));
    }

    /// Adds a job.
    ///
    /// # Panics
    /// If there is one of the same id: the caller looked.
    pub(in crate::jobs) fn insert(&mut self, job: Job) {
        self.books.enter(&job);
        self.lock_until_end(&job);
        if job.status == Status::Running
            && let Some(run) = &job.run
        {
            self.registry.hold(&run.worker, run.fence, job.id);
        }
        let former = self.jobs.insert(job.id, Arc::new(job));
        assert!(former.is_none(), "two jobs of one id");
    }

    /// Ends a job and tells who waits for it.
    pub(in crate::jobs) fn end(&mut self, id: JobId, end: End, events: &mut Vec<Event>) {
        let status = end.status;
        assert!(status.is_final(), "a job ends in {}", status.as_str());
        let ending = end.at(self.next_ending, self.now);
        self.next_ending += 1;
        self.change(id, |job| {
            job.status = status;
            job.ending = Some(Arc::new(ending));
        });
        self.unlock_ended(id);
        events.push(Event::Ended { job: id, status });
    }
}

//! The commands of the log and what each of them comes to: the whole language of the state machine.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::jobs::cron::{CronChange, NewCron};
use crate::jobs::intake::{Intake, ProgressReport};
use crate::jobs::job::{NewJob, Serves, Status, Verdict};
use crate::jobs::options::Tags;
use crate::jobs::rules::QueueChange;
use crate::types::{CronName, Fence, Incarnation, Index, JobId, Millis, QueueName, WorkerId};

/// One entry's command with the leader's stamp of the time; the only clock the machine has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamped {
    /// The time on the log's clock when the leader proposed it.
    pub now: Millis,
    /// What to do.
    pub command: Command,
}

/// A change of the queue, decided by one log entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Adds jobs in state Pending, each decided for itself, in order.
    SubmitJob(Vec<NewJob>),
    /// Gives pending jobs to workers; at most [`crate::types::ASSIGNMENTS_PER_ENTRY_MAX`]. The pair
    /// at position `i` gets the fence `Fence::new(index, i)` whether or not those before it held.
    AssignJob(Vec<Pair>),
    /// Records a worker, or a new start of a known one.
    RegisterWorker(Registration),
    /// Ends one attempt.
    UpdateJobStatus(StatusUpdate),
    /// Ends many attempts, each decided for itself, in order.
    BatchUpdateJobStatus(Vec<StatusUpdate>),
    /// Ends jobs that have not ended, running ones included.
    CancelJob(Vec<JobId>),
    /// A worker gives jobs back; no attempt is used up.
    ReleaseJob(Release),
    /// The leader's verdict: these workers are gone, and their jobs wait again with the next
    /// attempt. One that has registered anew meanwhile is left alone.
    WorkerLost(Vec<(WorkerId, Incarnation)>),
    /// Sets the limits that `apply` reads; the first leader's first command.
    SetLimits(Limits),
    /// Does nothing but to move the log's clock: somebody waits for that time.
    Tick,
    /// Changes the rules of a queue.
    ChangeQueue(QueueName, QueueChange),
    /// Has jobs that failed or were cancelled tried again, as if they were new.
    RetryJob(Vec<JobId>),
    /// Forgets jobs that have ended.
    PurgeJob(Vec<JobId>),
    /// Decides whether a worker is given new jobs.
    ChangeWorker(WorkerId, Intake),
    /// Notes how far a job says that it is.
    ReportProgress(ProgressReport),
    /// Adds a cron.
    AddCron(AddCron),
    /// Changes a cron. The slot is its next one, where the change is that it goes on.
    ChangeCron(CronName, CronChange, Option<Millis>),
    /// Fires slots of crons, each decided for itself, in order.
    FireCron(Vec<CronFire>),
}

/// A cron to add, and its first slot, which the leader has worked out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddCron {
    /// What it is.
    pub cron: Arc<NewCron>,
    /// When it fires first.
    pub next_ms: Option<Millis>,
}

/// One slot of one cron.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CronFire {
    /// Which cron.
    pub name: CronName,
    /// The entry that added it.
    pub created: Index,
    /// The slot. Another one than it waits for is passed over.
    pub slot_ms: Millis,
    /// The slot after it, which the leader has worked out; `None`: there is no more.
    pub next_ms: Option<Millis>,
}

/// One assignment: this job to this start of this worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// A pending job.
    pub job: JobId,
    /// The worker.
    pub worker: WorkerId,
    /// The start of it that was alive when the leader chose.
    pub incarnation: Incarnation,
}

/// A worker's entry in the cluster-wide registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The same over its restarts.
    pub worker: WorkerId,
    /// This start of it. The same one again changes nothing.
    pub incarnation: Incarnation,
    /// How many jobs it runs at once, 1 or more, at most
    /// [`crate::jobs::job::WORKER_SLOTS_MAX`].
    pub slots: u32,
    /// What it takes.
    pub serves: Serves,
    /// What it has.
    pub tags: Tags,
    /// The former start whose jobs this process has ended itself (for want of a leader): if it is the one
    /// that stands, what it held waits again without using up an attempt. Of any other start nothing is
    /// known: it died, and an attempt is used up.
    pub gave_up: Option<Incarnation>,
}

/// A report about one attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusUpdate {
    /// The job.
    pub job: JobId,
    /// The token of the attempt reported about.
    pub fence: Fence,
    /// How it ended.
    pub verdict: Verdict,
}

/// Jobs given back by the worker that holds them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Who gives back.
    pub worker: WorkerId,
    /// Which start of it.
    pub incarnation: Incarnation,
    /// The jobs, with the tokens under which they were held.
    pub jobs: Vec<(JobId, Fence)>,
    /// The worker ends: whatever else it holds is given back too, and it gets no more.
    pub leaving: bool,
}

/// The limits every replica applies alike, so that memory is bounded and all nodes agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Jobs kept that completed or were cancelled, at most.
    pub finished_count_max: u64,
    /// How long a finished job is kept, at most, in milliseconds.
    pub finished_age_ms_max: u64,
    /// Bytes of finished jobs kept, at most; wins over count and age.
    pub finished_bytes_max: u64,
    /// How long a failed job is kept, at most, in milliseconds.
    pub dead_age_ms_max: u64,
    /// Bytes of failed jobs kept, at most.
    pub dead_bytes_max: u64,
    /// Bytes of everything kept (jobs, ids of forgotten jobs, workers), above which a submit is
    /// refused with `RESOURCE_EXHAUSTED`.
    pub resident_bytes_max: u64,
    /// How long the id of a forgotten job is still known, in milliseconds.
    pub id_kept_ms: u64,
    /// Attempts a job has before it fails for want of a worker that lives.
    pub attempts_max: u32,
    /// Workers in the registry, at most, the lost ones included; the longest lost is dropped first.
    pub workers_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            finished_count_max: 100_000,
            finished_age_ms_max: 7 * 24 * 3_600_000,
            finished_bytes_max: 256 << 20,
            dead_age_ms_max: 180 * 24 * 3_600_000,
            dead_bytes_max: 512 << 20,
            resident_bytes_max: 4 << 30,
            id_kept_ms: 60_000,
            attempts_max: 3,
            workers_max: 10_000,
        }
    }
}

/// What one command came to; the answer to whoever proposed it. A deterministic no is an outcome
/// like any other: it is replicated as a yes is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Of [`Command::SubmitJob`], a result for each job, in order.
    Submitted(Vec<SubmitOutcome>),
    /// Of [`Command::AssignJob`]: how many pairs held; the rest were skipped.
    Assigned(usize),
    /// Of [`Command::RegisterWorker`].
    Registered(RegisterOutcome),
    /// Of the two updates, a result for each, in order.
    Updated(Vec<UpdateOutcome>),
    /// Of [`Command::CancelJob`], a result for each job, in order.
    Cancelled(Vec<CancelOutcome>),
    /// Of [`Command::ReleaseJob`]: how many jobs were given back.
    Released(usize),
    /// Of [`Command::WorkerLost`]: how many of the workers were lost by it.
    Lost(usize),
    /// Of [`Command::SetLimits`].
    LimitsSet,
    /// Of [`Command::Tick`].
    Ticked,
    /// Of [`Command::ChangeQueue`].
    QueueChanged(QueueOutcome),
    /// Of [`Command::RetryJob`], a result for each job, in order.
    Retried(Vec<RetryOutcome>),
    /// Of [`Command::PurgeJob`], a result for each job, in order.
    Purged(Vec<PurgeOutcome>),
    /// Of [`Command::ChangeWorker`].
    WorkerChanged(WorkerOutcome),
    /// Of [`Command::ReportProgress`].
    ProgressNoted(UpdateOutcome),
    /// Of [`Command::AddCron`].
    CronAdded(CronAddOutcome),
    /// Of [`Command::ChangeCron`].
    CronChanged(CronChangeOutcome),
    /// Of [`Command::FireCron`], a result for each slot, in order.
    CronsFired(Vec<Fired>),
}

/// What became of the decision whether a worker is given new jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerOutcome {
    /// It stands; so many jobs run there.
    Changed {
        /// Jobs that the worker runs.
        running: u32,
    },
    /// No worker of this name.
    NotFound,
    /// It does not run, so that there is nothing to drain.
    Gone,
}

/// What became of a cron to add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CronAddOutcome {
    /// It is there, and waits for this slot.
    Created {
        /// Its first one.
        next_ms: Option<Millis>,
    },
    /// This very cron was added before: nothing changed.
    Known {
        /// Its next slot.
        next_ms: Option<Millis>,
    },
    /// There is another cron of this name.
    AlreadyExists,
    /// There are as many crons as there may be.
    TooMany,
    /// The limit on resident bytes is reached.
    Exhausted,
    /// It is none (see [`NewCron::fault`]).
    Invalid(String),
}

/// What became of a change of a cron.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CronChangeOutcome {
    /// It stands.
    Changed {
        /// The next slot.
        next_ms: Option<Millis>,
    },
    /// No such cron (any more).
    NotFound,
    /// The job that was to be submitted was not taken.
    Refused(JobId, SubmitOutcome),
}

/// What became of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fired {
    /// It became this job.
    Submitted(JobId),
    /// It was missed, and left out.
    Skipped,
    /// Its job was not taken; the cron says why.
    Refused,
    /// The cron does not wait for it (any more).
    Stale,
}

/// What became of a change of a queue's rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueueOutcome {
    /// It stands; so many jobs of the queue wait and run.
    Changed {
        /// Jobs that wait.
        pending: u64,
        /// Jobs that run.
        running: u64,
    },
    /// Too many queues have rules.
    Exhausted,
    /// It is out of bounds, for this reason.
    Invalid(String),
}

/// What became of a job to be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryOutcome {
    /// It waits again.
    Retried,
    /// It is in this status: only what failed or was cancelled can be tried again.
    Refused(Status),
    /// This job has its unique key meanwhile.
    Taken(JobId),
    /// No such job (any more).
    NotFound,
}

/// What became of a job to be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PurgeOutcome {
    /// It is forgotten.
    Purged,
    /// It has not ended: it is in this status.
    Open(Status),
    /// No such job (any more).
    NotFound,
}

/// What became of one submitted job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SubmitOutcome {
    /// It is in the queue now.
    Created,
    /// This very job was submitted before: nothing changed.
    Known,
    /// The id belongs to a job of other content.
    AlreadyExists,
    /// This job has its unique key: no other was made.
    Taken(JobId),
    /// The limit on resident bytes is reached.
    Exhausted,
    /// Its queue takes no new jobs: it is being drained.
    Draining,
    /// It is none (see [`NewJob::fault`]).
    Invalid(String),
}

/// What became of a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RegisterOutcome {
    /// Recorded, or recorded before.
    Registered,
    /// The registry is full of live workers.
    Exhausted,
    /// Slots, queues or the number of the start are out of bounds.
    Invalid,
    /// This start of the worker is over (it was judged lost, or left), or is lower than one that has
    /// registered: draw a higher one.
    Superseded,
}

/// What became of a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpdateOutcome {
    /// The attempt has ended by it, now or by the same report before.
    Applied,
    /// The token is old: the job was taken away.
    StaleFence {
        /// What has become of the job.
        status: Status,
        /// Its newest token.
        fence: Option<Fence>,
        /// Who has it now, or had it last.
        worker: Option<WorkerId>,
    },
    /// No such job (any more).
    NotFound,
}

/// What became of a cancellation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CancelOutcome {
    /// It is cancelled, now or before.
    Cancelled,
    /// It had ended otherwise already.
    Ended(Status),
    /// No such job (any more).
    NotFound,
}

/// What a command changed that somebody near may be waiting for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A worker was given a job.
    Assigned {
        /// The worker.
        worker: WorkerId,
        /// The start of it that was meant.
        incarnation: Incarnation,
        /// The job.
        job: JobId,
        /// Its token.
        fence: Fence,
    },
    /// A worker's job was taken away: cancelled, released, or its worker lost or restarted.
    Withdrawn {
        /// The worker.
        worker: WorkerId,
        /// The start of it that held the job.
        incarnation: Incarnation,
        /// The job.
        job: JobId,
        /// The token that is void now.
        fence: Fence,
    },
    /// A job ended.
    Ended {
        /// The job.
        job: JobId,
        /// How.
        status: Status,
    },
}

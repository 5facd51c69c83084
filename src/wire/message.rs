//! What clients, workers and nodes say to a node, and what it answers: the typed form of every frame.

use serde::{Deserialize, Serialize};

use crate::jobs::change::{Event, Position};
use crate::jobs::command::{Registration, Release, StatusUpdate};
use crate::jobs::cron::{CronChange, CronView, NewCron};
use crate::jobs::intake::{Intake, ProgressReport};
use crate::jobs::job::{Assignment, JobView, NewJob, Serves, Status};
use crate::jobs::options::Tags;
use crate::jobs::reason::Explanation;
use crate::jobs::rules::{QueueChange, Rate, in_words};
use crate::pack::unpack::list;
use crate::types::{
    ClusterId, CronName, Fence, Incarnation, Index, JobId, Millis, NodeId, QueueName, Tag, Term,
    WorkerId,
};
use crate::wire::crons::{CronAdded, CronChanged, CronFilter};
use crate::wire::reads::Consistency;

/// Jobs in one `SubmitBatch`, at most; more are refused as `INVALID_ARGUMENT`. They become one entry
/// of the log, which is applied in one go: this bounds how long a node looks at nothing else.
pub const BATCH_JOBS_MAX: usize = 128;

/// Reports in one `BatchUpdateJobStatus`, at most, for the same reason.
pub const BATCH_UPDATES_MAX: usize = 128;

/// Jobs in one page of `ListJobs`, at most; a larger limit is lowered to it.
pub const LIST_JOBS_MAX: usize = 1000;

/// Queues in one page of `ListQueues`, at most; a larger limit is lowered to it.
pub const LIST_QUEUES_MAX: usize = 1000;

/// Ids in one `WaitJobs`, at most.
pub const WAIT_JOBS_MAX: usize = 1024;

/// How long a `WaitJobs` or a `Reserve` waits at most before it answers with what there is, ms.
pub const WAIT_MS_MAX: u64 = 30_000;

/// Jobs that one `Heartbeat` names, at most; a worker that runs more names others the next time.
pub const HELD_MAX: usize = 256;

/// Jobs in one answer to `Reserve`, at most.
pub const RESERVE_JOBS_MAX: usize = 256;

/// A request of a client or a worker. One frame type each (`wire-spec.md`, commands).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Is anybody there? Answered by [`Reply::Pong`].
    Ping,
    /// Submits one job: [`Reply::Submitted`]. Leader only.
    SubmitJob(NewJob),
    /// Submits many, each decided for itself: [`Reply::SubmittedBatch`]. Leader only.
    SubmitBatch(Vec<NewJob>),
    /// Announces a start of a worker: [`Reply::Registered`]. Leader only.
    RegisterWorker(Registration),
    /// Says that a worker lives; once a second: [`Reply::HeartbeatAck`]. Leader only.
    Heartbeat {
        /// Who.
        worker: WorkerId,
        /// Which start of it.
        incarnation: Incarnation,
        /// It takes no new jobs: it is on its way out.
        draining: bool,
        /// Jobs that it runs, with their tokens, at most [`HELD_MAX`]: the answer names those that are
        /// its own no more.
        held: Vec<(JobId, Fence)>,
    },
    /// Reports one attempt's end: [`Reply::Updated`] with one item. Leader only.
    UpdateJobStatus(StatusUpdate),
    /// Reports many: [`Reply::Updated`]. Leader only.
    BatchUpdateJobStatus(Vec<StatusUpdate>),
    /// Gives jobs back: [`Reply::Released`]. Leader only.
    ReleaseJobs(Release),
    /// Waits for jobs assigned to this start of a worker under a fence above `after`:
    /// [`Reply::Reserved`], from the local replica of any node. Asking again with the same `after`
    /// answers the same jobs, so a lost answer loses none.
    Reserve {
        /// Who.
        worker: WorkerId,
        /// Which start of it.
        incarnation: Incarnation,
        /// The highest fence received so far; 0 at first.
        after: Fence,
        /// At most so many; lowered to [`RESERVE_JOBS_MAX`].
        max: u32,
        /// How long to wait when there are none; lowered to [`WAIT_MS_MAX`].
        wait_ms: u64,
    },
    /// One job, linearizable on any node: [`Reply::Job`].
    GetJob {
        /// Which.
        id: JobId,
    },
    /// A page of jobs in order of id, linearizable on any node: [`Reply::Jobs`].
    ListJobs(Box<Filter>),
    /// Waits until all of these jobs have ended, or for `wait_ms`: [`Reply::Waited`], any node.
    WaitJobs {
        /// Which; at most [`WAIT_JOBS_MAX`].
        ids: Vec<JobId>,
        /// Lowered to [`WAIT_MS_MAX`].
        wait_ms: u64,
    },
    /// Cancels jobs: [`Reply::Cancelled`]. Leader only.
    CancelJobs {
        /// Which; at most [`WAIT_JOBS_MAX`].
        ids: Vec<JobId>,
    },
    /// The registry, linearizable on any node: [`Reply::Workers`].
    ListWorkers,
    /// The cluster as the leader sees it: [`Reply::ClusterStatus`]. Leader only, unless `local`.
    GetClusterStatus {
        /// This node's own view will do.
        local: bool,
    },
    /// Entries of this node's log, for people: [`Reply::Log`].
    ListLog {
        /// First index wanted.
        from: Index,
        /// How many; lowered to 1000.
        limit: u32,
    },
    /// Asks the leader to hand leadership over: [`Reply::Transferred`]. Leader only.
    TransferLeadership {
        /// To whom; `None`: the one that is furthest.
        to: Option<NodeId>,
    },
    /// A page of queues in order of name, linearizable on any node: [`Reply::Queues`].
    ListQueues(QueueFilter),
    /// Changes the rules of a queue: [`Reply::QueueChanged`]. Leader only.
    ChangeQueue {
        /// Which; it need not have a job.
        queue: QueueName,
        /// How.
        change: QueueChange,
    },
    /// Has jobs that failed or were cancelled tried again: [`Reply::Retried`]. Leader only.
    RetryJobs {
        /// Which; at most [`WAIT_JOBS_MAX`].
        ids: Vec<JobId>,
    },
    /// Forgets jobs that have ended: [`Reply::Purged`]. Leader only.
    PurgeJobs {
        /// Which; at most [`WAIT_JOBS_MAX`].
        ids: Vec<JobId>,
    },
    /// What changed, in order, as this node has applied it: [`Reply::Watched`], any node.
    Watch(Watch),
    /// Decides whether a worker is given new jobs: [`Reply::WorkerChanged`]. Leader only.
    ChangeWorker {
        /// Which; it need not run, but to be drained.
        worker: WorkerId,
        /// What is decided.
        intake: Intake,
    },
    /// Notes how far a job says that it is: [`Reply::ProgressNoted`]. Leader only.
    ReportProgress(ProgressReport),
    /// Adds a cron: [`Reply::CronAdded`]. Leader only.
    AddCron(Box<NewCron>),
    /// Changes a cron: [`Reply::CronChanged`]. Leader only.
    ChangeCron {
        /// Which.
        name: CronName,
        /// How.
        change: CronChange,
    },
    /// A page of crons in order of name, or one, linearizable on any node: [`Reply::Crons`].
    ListCrons(CronFilter),
    /// Why a job is where it is, linearizable on any node: [`Reply::Explained`].
    WhyJob {
        /// Which.
        id: JobId,
    },
    /// A read that says how it is to be done: [`Reply::ReadAt`], with the reply of that read and where it was
    /// read, but for `WhyJob`, whose reply tells that by itself. A read without this is linearizable.
    ReadAt {
        /// How.
        consistency: Consistency,
        /// A [`Request::GetJob`], `ListJobs`, `ListWorkers`, `ListQueues` or `WhyJob`; no other ever.
        read: Box<Self>,
    },
}

/// Which queues to list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueFilter {
    /// Only after this name: the last one of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<QueueName>,
    /// At most so many; lowered to [`LIST_QUEUES_MAX`]; 0 means that many.
    pub limit: u32,
}

/// What to watch, and from where on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Watch {
    /// What comes after this place; `None`: what comes after now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Position>,
    /// In place of `after`: everything the node still has.
    #[serde(skip_serializing_if = "is_false")]
    pub oldest: bool,
    /// Only of this queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueName>,
    /// Only of this job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// How long to wait when there is nothing yet; lowered to [`WAIT_MS_MAX`].
    pub wait_ms: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
fn is_false(value: &bool) -> bool {
    !value
}

/// Which jobs to list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Filter {
    /// Only in this status.
    pub status: Option<Status>,
    /// Only of this queue.
    pub queue: Option<QueueName>,
    /// Only those that this worker runs or ran last.
    pub worker: Option<WorkerId>,
    /// Only after this id.
    pub after: Option<JobId>,
    /// At most so many; 0 means 100.
    pub limit: u32,
    /// Only those that ask for this tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<Tag>,
    /// Only those with this text in a command's words, or in a payload that is UTF-8, in upper or lower case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Only those submitted then or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<Millis>,
    /// Only those submitted then or earlier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<Millis>,
}

/// What a node answers; every request gets exactly one.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Here I am.
    Pong,
    /// The job is on a quorum's disks and in the queue.
    Submitted(Submitted),
    /// A result for each job, in order.
    SubmittedBatch(Vec<Result<Submitted, Refusal>>),
    /// The worker is in the registry.
    Registered,
    /// The heartbeat counted; the leader of `term` will not judge this start lost for 3 s from the
    /// moment it was sent.
    HeartbeatAck {
        /// The leader's term.
        term: Term,
        /// What the worker's users have decided about it.
        intake: Intake,
        /// Those of the jobs named that are not the worker's own any more.
        withdrawn: Vec<Withdrawn>,
    },
    /// A result for each report, in order.
    Updated(Vec<Result<(), Refusal>>),
    /// So many jobs wait again.
    Released {
        /// How many were held by that worker.
        count: u32,
    },
    /// Jobs to begin; empty when none came in time.
    Reserved(Vec<Assignment>),
    /// The job.
    Job(Box<JobView>),
    /// A page of jobs; with `more`, ask again after the last id, or better after `after`.
    Jobs {
        /// The page; bodies left out.
        jobs: Vec<JobView>,
        /// Whether there may be more.
        more: bool,
        /// Where to go on: all up to this id was looked at.
        after: Option<JobId>,
    },
    /// The jobs of a wait, in the order asked, whether they ended in time or not; a job nobody
    /// knows is refused with `NOT_FOUND` in its place.
    Waited(Vec<Result<JobView, Refusal>>),
    /// A result for each cancellation: the status the job has now.
    Cancelled(Vec<Result<Status, Refusal>>),
    /// The registry.
    Workers(Vec<WorkerView>),
    /// The cluster.
    ClusterStatus(Box<ClusterStatus>),
    /// Entries of the log.
    Log(Vec<LogLine>),
    /// Leadership is on its way to this node.
    Transferred {
        /// The chosen node.
        to: NodeId,
    },
    /// A page of queues; with `more`, ask again after the last name.
    Queues {
        /// The page.
        queues: Vec<QueueView>,
        /// Whether there are more.
        more: bool,
    },
    /// The rules stand.
    QueueChanged(QueueChanged),
    /// A result for each job to be tried again, in order.
    Retried(Vec<Result<(), Refusal>>),
    /// A result for each job to be forgotten, in order.
    Purged(Vec<Result<(), Refusal>>),
    /// What changed.
    Watched(Watched),
    /// It is decided, and the worker hears of it with its next heartbeat.
    WorkerChanged {
        /// Jobs that it runs.
        running: u32,
    },
    /// It is noted.
    ProgressNoted,
    /// The cron stands.
    CronAdded(CronAdded),
    /// The change of the cron stands.
    CronChanged(CronChanged),
    /// A page of crons; with `more`, ask again after the last name.
    Crons {
        /// The page.
        crons: Vec<CronView>,
        /// Whether there are more.
        more: bool,
    },
    /// Why the job is where it is.
    Explained(Box<Explanation>),
    /// The reply of a read that asked for it, and where it was read.
    ReadAt {
        /// The last entry that the read saw.
        index: Index,
        /// A [`Reply::Job`], `Jobs`, `Workers` or `Queues`; no other ever: a [`Reply::Explained`] has its own index.
        reply: Box<Self>,
    },
    /// No.
    Refused(Refusal),
}

/// What changed up to a place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watched {
    /// The changes that were asked for, in order; none if there were none in time.
    #[serde(deserialize_with = "list")]
    pub events: Vec<Event>,
    /// The place to go on from, on any node.
    pub next: Position,
}

/// A job that its worker has no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawn {
    /// The token of the attempt that is over.
    pub fence: Fence,
    /// What has become of the job; `None`: it is forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
}

/// A job that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submitted {
    /// Its id.
    pub id: JobId,
    /// `false`: the same submit was taken before.
    pub created: bool,
}

/// What a queue has when its rules were changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueChanged {
    /// Jobs that wait.
    pub pending: u64,
    /// Jobs that run.
    pub running: u64,
}

/// A queue: its jobs and its rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueView {
    /// Its name.
    pub name: QueueName,
    /// Jobs that wait.
    pub pending: u64,
    /// Those of them that wait for a time to come.
    pub held: u64,
    /// Jobs that run.
    pub running: u64,
    /// Jobs kept that completed.
    pub completed: u64,
    /// Jobs kept that failed.
    pub failed: u64,
    /// Jobs kept that were cancelled.
    pub cancelled: u64,
    /// It gives out no jobs since then, on the log's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused_ms: Option<Millis>,
    /// It takes no new jobs since then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draining_ms: Option<Millis>,
    /// So many of its jobs run at once, at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// So many of its jobs begin in a time, at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
}

impl QueueView {
    /// Says what its users have decided about it, in a few words; `-` for nothing.
    #[must_use]
    pub fn rules_in_words(&self) -> String {
        let rules = [
            self.paused_ms.map(|_| "paused".to_owned()),
            self.draining_ms.map(|_| "draining".to_owned()),
            self.limit.map(|limit| format!("limit={limit}")),
            self.rate.map(|rate| format!("rate={}/{}", rate.count, in_words(rate.per_ms))),
        ];
        let rules: Vec<String> = rules.into_iter().flatten().collect();
        if rules.is_empty() { "-".into() } else { rules.join(",") }
    }
}

/// The error codes: gRPC's names and meanings, and two of our own (`wire-spec.md`, errors).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// The request cannot be right, whatever the state.
    InvalidArgument,
    /// No such thing (any more).
    NotFound,
    /// The id belongs to a job of other content.
    AlreadyExists,
    /// The state does not allow it; asking again will not help.
    FailedPrecondition,
    /// Another node leads; the refusal says which.
    NotLeader,
    /// A queue or a limit is full; ask again later.
    ResourceExhausted,
    /// Accepted, and not decided in time: the outcome is unknown.
    DeadlineExceeded,
    /// No leader, or shutting down; ask again later, or elsewhere.
    Unavailable,
    /// Who are you?
    Unauthenticated,
    /// Not you.
    PermissionDenied,
    /// The attempt was taken away; somebody else has the job.
    StaleFence,
    /// A fault of ours.
    Internal,
}

/// A no: what, why, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The code a program branches on.
    pub code: Code,
    /// The text a person reads.
    pub message: String,
    /// `true`: it may have happened, or may still happen. `false`: it did not and will not.
    pub unknown: bool,
    /// How long to wait before asking again, in ms.
    pub retry_after_ms: Option<u64>,
    /// The leader, where one is known.
    pub leader: Option<LeaderHint>,
    /// Of a registration that is over: the highest start of that worker that registered.
    pub incarnation: Option<Incarnation>,
}

/// Who leads, as far as a node knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderHint {
    /// Its id.
    pub id: NodeId,
    /// Its address, `HOST:PORT`.
    pub addr: String,
    /// Its term; a hint of a lower term than one already followed is ignored.
    pub term: Term,
}

/// One worker of the registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerView {
    /// Its name.
    pub id: WorkerId,
    /// Its newest start.
    pub incarnation: Incarnation,
    /// What it takes.
    pub serves: Serves,
    /// What it has.
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
    /// Jobs it runs at once.
    pub slots: u32,
    /// Jobs it runs now.
    pub running: u32,
    /// `live`, `lost` or `left`.
    pub state: String,
    /// Whether its users want it to be given jobs.
    #[serde(default, skip_serializing_if = "Intake::is_open")]
    pub intake: Intake,
    /// When it registered, on the log's clock.
    pub registered_ms: Millis,
}

/// The cluster as one node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The cluster's id.
    pub cluster_id: ClusterId,
    /// Who answers.
    pub node: NodeId,
    /// Whether the one that answers leads; `false`: its own, possibly old view.
    pub from_leader: bool,
    /// The term.
    pub term: Term,
    /// The leader, where one is known.
    pub leader: Option<NodeId>,
    /// The commit index.
    pub commit_index: Index,
    /// Every voter.
    pub nodes: Vec<NodeStatus>,
}

/// One voter as the answering node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its id.
    pub id: NodeId,
    /// Its address.
    pub addr: String,
    /// `leader`, `follower`, `candidate`; of others only what is known: `unknown` without a leader.
    pub role: String,
    /// Heard from within 3 s.
    pub is_alive: bool,
    /// The last entry known to be durable there.
    pub match_index: Index,
    /// The last entry applied there, as it last said.
    pub applied_index: Index,
    /// The index of `digest`: the newest multiple of 64 at which all living nodes have one.
    pub digest_index: Index,
    /// The digest of its machine there, 32 hexadecimal digits; empty when it has none at that index.
    pub digest: String,
}

/// One entry of the log, as people read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Its index.
    pub index: Index,
    /// Its term.
    pub term: Term,
    /// `noop`, `configuration`, or the command's name.
    pub kind: String,
    /// Its bytes.
    pub bytes: u64,
    /// The leader's stamp; 0 where it has none.
    pub now_ms: Millis,
    /// What it does, in a few words.
    pub summary: String,
}

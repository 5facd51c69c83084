//! The JSON objects: which fields, in which order, and how large numbers are written.

use serde::{Serialize, Serializer};

use crate::cli::exit::Failure;
use crate::cli::show::{Event, timeline};
use crate::jobs::intake::Progress;
use crate::jobs::job::{JobView, Serves};
use crate::jobs::options::{Options, Tags};
use crate::jobs::rules::Rate;
use crate::types::JobId;
use crate::wire::message::{ClusterStatus, LogLine, NodeStatus, QueueView, Submitted, WorkerView};

/// The largest integer that every JSON reader keeps exact (IEEE 754 has 53 bits).
pub const EXACT_MAX: u64 = 1 << 53;

/// A number written as a JSON number up to [`EXACT_MAX`], and as a string above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number(pub u64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0 > EXACT_MAX {
            serializer.collect_str(&self.0)
        } else {
            serializer.serialize_u64(self.0)
        }
    }
}

/// A job: one object of `get`, `list`, `wait` and `submit --wait`.
#[derive(Clone, Debug, Serialize)]
pub struct JobShape {
    id: String,
    queue: String,
    status: &'static str,
    attempt: u32,
    worker: Option<String>,
    fence: Option<Number>,
    exit_code: Option<i32>,
    output: String,
    #[serde(skip_serializing_if = "is_false")]
    output_cut: bool,
    error: Option<String>,
    created_ms: Number,
    started_ms: Option<Number>,
    finished_ms: Option<Number>,
    priority: u8,
    tags: Vec<String>,
    retries: u32,
    timeout_ms: Option<Number>,
    ttl_ms: Option<Number>,
    held_ms: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unique: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<ProgressShape>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeline: Option<Vec<Event>>,
}

impl JobShape {
    /// Makes it from a whole job, as `get` and `show` have it: with its timeline.
    #[must_use]
    pub fn whole(job: &JobView) -> Self {
        Self { timeline: Some(timeline(job)), ..Self::from(job) }
    }
}

impl From<&JobView> for JobShape {
    /// Output that is not UTF-8 is shown with replacement characters; `output_cut` is there only
    /// when the start of the output was dropped. A job in a list has no attempts but the last one, and so
    /// no timeline.
    fn from(job: &JobView) -> Self {
        let options = job.options.as_deref().unwrap_or(Options::NONE);
        Self {
            id: job.id.to_string(),
            queue: job.queue.to_string(),
            status: job.status.as_str(),
            attempt: job.attempt,
            worker: job.worker.as_ref().map(ToString::to_string),
            fence: job.fence.map(|fence| Number(fence.0)),
            exit_code: job.exit_code,
            output: String::from_utf8_lossy(&job.output).into_owned(),
            output_cut: job.output_cut,
            error: job.error.clone(),
            created_ms: Number(job.created_ms.0),
            started_ms: job.started_ms.map(|at| Number(at.0)),
            finished_ms: job.finished_ms.map(|at| Number(at.0)),
            priority: options.priority,
            tags: names(&options.tags),
            retries: options.retries,
            timeout_ms: options.timeout_ms.map(Number),
            ttl_ms: options.ttl_ms.map(Number),
            held_ms: job.held_ms.map(|at| Number(at.0)),
            unique: options.unique.as_ref().map(ToString::to_string),
            progress: job.progress.as_ref().map(ProgressShape::from),
            timeline: None,
        }
    }
}

/// What a job has said of itself, in [`JobShape`].
#[derive(Clone, Debug, Serialize)]
pub struct ProgressShape {
    percent: u8,
    note: String,
    at_ms: Number,
}

impl From<&Progress> for ProgressShape {
    fn from(progress: &Progress) -> Self {
        let Progress { percent, note, at_ms } = progress;
        Self { percent: *percent, note: note.clone(), at_ms: Number(at_ms.0) }
    }
}

fn names(tags: &Tags) -> Vec<String> {
    tags.as_slice().iter().map(ToString::to_string).collect()
}

/// A job that was taken: one object of `submit`.
#[derive(Clone, Debug, Serialize)]
pub struct SubmittedShape {
    id: String,
    created: bool,
}

impl From<&Submitted> for SubmittedShape {
    fn from(submitted: &Submitted) -> Self {
        Self { id: submitted.id.to_string(), created: submitted.created }
    }
}

/// What became of a job of a batch: one object of `submit --batch`. One that was refused, or whose
/// outcome is unknown, has no id here: an id on stdout is one that was taken.
#[derive(Clone, Debug, Serialize)]
pub struct BatchShape {
    id: Option<String>,
    created: bool,
    line: Number,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl BatchShape {
    /// Makes it from the number of the job's line and what became of it.
    #[must_use]
    pub fn new(line: u64, result: &Result<Submitted, Failure>) -> Self {
        let submitted = result.as_ref().ok();
        Self {
            id: submitted.map(|submitted| submitted.id.to_string()),
            created: submitted.is_some_and(|submitted| submitted.created),
            line: Number(line),
            error: result.as_ref().err().map(|failure| failure.message.clone()),
        }
    }

    /// Returns the id of a job that was taken.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Returns the number of its line.
    #[must_use]
    pub fn line(&self) -> u64 {
        self.line.0
    }
}

/// A job that could not be waited for or changed: its object among those of `wait`, `cancel`,
/// `dead retry` and `dead purge`.
#[derive(Clone, Debug, Serialize)]
pub struct FailedShape<'a> {
    id: String,
    status: Option<&'static str>,
    error: &'a str,
}

impl<'a> FailedShape<'a> {
    /// Makes it from the job and what went wrong; its status is not known.
    #[must_use]
    pub fn new(id: JobId, failure: &'a Failure) -> Self {
        Self { id: id.to_string(), status: None, error: &failure.message }
    }
}

/// What became of a job: one object of `cancel`, `dead retry` and `dead purge`.
#[derive(Clone, Debug, Serialize)]
pub struct ChangedShape {
    id: String,
    status: &'static str,
}

impl ChangedShape {
    /// Makes it from the job and the word for what it is now.
    #[must_use]
    pub fn new(id: JobId, status: &'static str) -> Self {
        Self { id: id.to_string(), status }
    }
}

/// A queue: one object of `queue list`.
#[derive(Clone, Debug, Serialize)]
pub struct QueueShape {
    queue: String,
    pending: Number,
    held: Number,
    running: Number,
    completed: Number,
    failed: Number,
    cancelled: Number,
    paused_ms: Option<Number>,
    draining_ms: Option<Number>,
    limit: Option<u32>,
    rate: Option<Rate>,
}

impl From<&QueueView> for QueueShape {
    fn from(queue: &QueueView) -> Self {
        Self {
            queue: queue.name.to_string(),
            pending: Number(queue.pending),
            held: Number(queue.held),
            running: Number(queue.running),
            completed: Number(queue.completed),
            failed: Number(queue.failed),
            cancelled: Number(queue.cancelled),
            paused_ms: queue.paused_ms.map(|at| Number(at.0)),
            draining_ms: queue.draining_ms.map(|at| Number(at.0)),
            limit: queue.limit,
            rate: queue.rate,
        }
    }
}

/// A worker: one object of `workers`.
#[derive(Clone, Debug, Serialize)]
pub struct WorkerShape {
    id: String,
    state: String,
    intake: &'static str,
    slots: u32,
    running: u32,
    serves: &'static str,
    queues: Option<Vec<String>>,
    tags: Vec<String>,
    incarnation: Number,
    registered_ms: Number,
}

impl From<&WorkerView> for WorkerShape {
    fn from(worker: &WorkerView) -> Self {
        let (serves, queues) = match &worker.serves {
            Serves::Commands => ("commands", None),
            Serves::Payloads(queues) => {
                ("payloads", Some(queues.iter().map(ToString::to_string).collect()))
            }
        };
        Self {
            id: worker.id.to_string(),
            state: worker.state.clone(),
            intake: worker.intake.as_str(),
            slots: worker.slots,
            running: worker.running,
            serves,
            queues,
            tags: names(&worker.tags),
            incarnation: Number(worker.incarnation.0),
            registered_ms: Number(worker.registered_ms.0),
        }
    }
}

/// The cluster: the object of `cluster status`.
#[derive(Clone, Debug, Serialize)]
pub struct ClusterShape {
    cluster_id: String,
    term: Number,
    leader: Option<Number>,
    commit_index: Number,
    nodes: Vec<NodeShape>,
    answered_by: Number,
    from_leader: bool,
}

/// A node in [`ClusterShape`].
#[derive(Clone, Debug, Serialize)]
pub struct NodeShape {
    id: Number,
    addr: String,
    role: String,
    is_alive: bool,
    match_index: Number,
    applied_index: Number,
    digest_index: Number,
    digest: String,
}

impl From<&ClusterStatus> for ClusterShape {
    /// `from_leader` is `false` when the node that answered knows no leader: then everything is its
    /// own, possibly old view.
    fn from(status: &ClusterStatus) -> Self {
        Self {
            cluster_id: status.cluster_id.to_string(),
            term: Number(status.term.0),
            leader: status.leader.map(|leader| Number(leader.0)),
            commit_index: Number(status.commit_index.0),
            nodes: status.nodes.iter().map(NodeShape::from).collect(),
            answered_by: Number(status.node.0),
            from_leader: status.from_leader,
        }
    }
}

impl From<&NodeStatus> for NodeShape {
    fn from(node: &NodeStatus) -> Self {
        Self {
            id: Number(node.id.0),
            addr: node.addr.clone(),
            role: node.role.clone(),
            is_alive: node.is_alive,
            match_index: Number(node.match_index.0),
            applied_index: Number(node.applied_index.0),
            digest_index: Number(node.digest_index.0),
            digest: node.digest.clone(),
        }
    }
}

/// An entry of the log: one object of `log list`.
#[derive(Clone, Debug, Serialize)]
pub struct LogShape {
    index: Number,
    term: Number,
    kind: String,
    bytes: Number,
    now_ms: Number,
    summary: String,
}

impl From<&LogLine> for LogShape {
    fn from(line: &LogLine) -> Self {
        Self {
            index: Number(line.index.0),
            term: Number(line.term.0),
            kind: line.kind.clone(),
            bytes: Number(line.bytes),
            now_ms: Number(line.now_ms.0),
            summary: line.summary.clone(),
        }
    }
}

fn is_false(flag: &bool) -> bool {
    !*flag
}

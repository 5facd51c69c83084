//! Replies as frames, each made to fit one, and frames as replies (`wire-spec.md` §11, §12).

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::jobs::intake::Intake;
use crate::jobs::job::{Assignment, JobView, Status};
use crate::pack::unpack::list;
use crate::types::{JobId, NodeId, Term};
use crate::wire::crons::{self, CronsOut, cron_bytes_max};
use crate::wire::error::{WireError, check_header, not};
use crate::wire::frame::{BODY_BYTES_MAX, Frame};
use crate::wire::kind;
use crate::wire::message::{Code, LogLine, QueueView, Refusal, Reply, Withdrawn, WorkerView};
use crate::wire::named;
use crate::wire::reads;
use crate::wire::reasons::{self, REASON_BYTES_MAX};
use crate::wire::request::{body_bytes_max, options_bytes_max};

/// What the keys, names and numbers of one item of a list take at most, beside its body, output, texts
/// and lists.
const ITEM_OVERHEAD_BYTES: usize = 512;

/// What one result of a list of results takes, about: an id, or a code with a line of text.
const RESULT_BYTES: usize = 128;

/// Room left in a frame for what stands around a list.
const LIST_OVERHEAD_BYTES: usize = 1024;

/// Bytes that the items of a list may take in one answer.
const LIST_BYTES_MAX: usize = BODY_BYTES_MAX - LIST_OVERHEAD_BYTES;

/// How long a client waits before it asks for the rest of an answer that was too large, in ms.
const REST_AFTER_MS: u64 = 1;

impl Reply {
    /// Returns the kind of its frame.
    #[must_use]
    pub fn kind(&self) -> u8 {
        match self {
            Self::Pong => kind::PONG,
            Self::Submitted(_) => kind::SUBMITTED,
            Self::SubmittedBatch(_) => kind::SUBMITTED_BATCH,
            Self::Registered => kind::REGISTERED,
            Self::HeartbeatAck { .. } => kind::HEARTBEAT_ACK,
            Self::Updated(_) => kind::UPDATED,
            Self::Released { .. } => kind::RELEASED,
            Self::Reserved(_) => kind::RESERVED,
            Self::Job(_) => kind::JOB,
            Self::Jobs { .. } => kind::JOBS,
            Self::Waited(_) => kind::WAITED,
            Self::Cancelled(_) => kind::CANCELLED,
            Self::Workers(_) => kind::WORKERS,
            Self::ClusterStatus(_) => kind::CLUSTER_STATUS,
            Self::Log(_) => kind::LOG,
            Self::Transferred { .. } => kind::TRANSFERRED,
            Self::Queues { .. } => kind::QUEUES,
            Self::QueueChanged(_) => kind::QUEUE_CHANGED,
            Self::Retried(_) => kind::RETRIED,
            Self::Purged(_) => kind::PURGED,
            Self::Watched(_) => kind::WATCHED,
            Self::WorkerChanged { .. } => kind::WORKER_CHANGED,
            Self::ProgressNoted => kind::PROGRESS_NOTED,
            Self::CronAdded(_) => kind::CRON_ADDED,
            Self::CronChanged(_) => kind::CRON_CHANGED,
            Self::Crons { .. } => kind::CRONS,
            Self::Explained(_) => kind::EXPLAINED,
            Self::ReadAt { reply, .. } => reply.kind(),
            Self::Refused(_) => kind::REFUSED,
        }
    }

    /// Makes the reply fit one frame, losing nothing that the client cannot ask for again:
    ///
    /// - a page of jobs or crons ends earlier and says `more`;
    /// - reserved jobs are the first by fence, so that the next `Reserve` gets the rest;
    /// - entries of the log end earlier: the client asks on from the last;
    /// - a waited job that has no room is refused with `RESOURCE_EXHAUSTED` in its place, and bodies are
    ///   left out.
    ///
    /// Every other reply is left as it is. Done by [`Reply::to_frame`]; here for those who count bytes
    /// earlier.
    #[must_use]
    pub fn fitting(self) -> Self {
        match self {
            Self::Jobs { mut jobs, more, after } => {
                let fit = count_fitting(jobs.iter().map(job_bytes_max));
                if fit == jobs.len() {
                    return Self::Jobs { jobs, more, after };
                }
                jobs.truncate(fit);
                let after = jobs.last().map(|job| job.id);
                Self::Jobs { jobs, more: true, after }
            }
            Self::ReadAt { index, reply } => {
                Self::ReadAt { index, reply: Box::new(reply.fitting()) }
            }
            Self::Reserved(mut jobs) => {
                jobs.sort_by_key(|job| job.fence);
                jobs.truncate(count_fitting(jobs.iter().map(assignment_bytes_max)));
                Self::Reserved(jobs)
            }
            Self::Log(mut lines) => {
                lines.truncate(count_fitting(lines.iter().map(line_bytes_max)));
                Self::Log(lines)
            }
            Self::Waited(results) => Self::Waited(waited_fitting(&results)),
            Self::Crons { mut crons, more } => {
                let fit = count_fitting(crons.iter().map(cron_bytes_max));
                let more = more || fit < crons.len();
                crons.truncate(fit);
                Self::Crons { crons, more }
            }
            Self::Pong
            | Self::Submitted(_)
            | Self::SubmittedBatch(_)
            | Self::Registered
            | Self::HeartbeatAck { .. }
            | Self::Updated(_)
            | Self::Released { .. }
            | Self::Job(_)
            | Self::Cancelled(_)
            | Self::Workers(_)
            | Self::ClusterStatus(_)
            | Self::Transferred { .. }
            | Self::Queues { .. }
            | Self::QueueChanged(_)
            | Self::Retried(_)
            | Self::Purged(_)
            | Self::Watched(_)
            | Self::WorkerChanged { .. }
            | Self::ProgressNoted
            | Self::CronAdded(_)
            | Self::CronChanged(_)
            | Self::Explained(_)
            | Self::Refused(_) => self,
        }
    }

    /// Returns how many bytes its lists and its job take when it is written, at most; of small replies only
    /// a guess. For those who bound what they hold.
    #[must_use]
    pub fn bytes_max(&self) -> usize {
        let held = match self {
            Self::Job(job) => job_bytes_max(job),
            Self::Jobs { jobs, .. } => jobs.iter().map(job_bytes_max).sum(),
            Self::Reserved(jobs) => jobs.iter().map(assignment_bytes_max).sum(),
            Self::Log(lines) => lines.iter().map(line_bytes_max).sum(),
            Self::Waited(results) => results.iter().flatten().map(job_bytes_max).sum(),
            Self::Workers(workers) => workers.len().saturating_mul(ITEM_OVERHEAD_BYTES),
            Self::SubmittedBatch(results) => results.len().saturating_mul(RESULT_BYTES),
            Self::Updated(results) | Self::Retried(results) | Self::Purged(results) => {
                results.len().saturating_mul(RESULT_BYTES)
            }
            Self::Queues { queues, .. } => queues.len().saturating_mul(ITEM_OVERHEAD_BYTES),
            Self::Watched(watched) => watched.events.len().saturating_mul(ITEM_OVERHEAD_BYTES),
            Self::Cancelled(results) => results.len().saturating_mul(RESULT_BYTES),
            Self::HeartbeatAck { withdrawn, .. } => {
                ITEM_OVERHEAD_BYTES + withdrawn.len().saturating_mul(RESULT_BYTES)
            }
            Self::Crons { crons, .. } => crons.iter().map(cron_bytes_max).sum(),
            Self::Explained(it) => it.reasons.len().saturating_mul(REASON_BYTES_MAX),
            Self::ReadAt { reply, .. } => reply.bytes_max(),
            Self::Pong
            | Self::Submitted(_)
            | Self::Registered
            | Self::WorkerChanged { .. }
            | Self::ProgressNoted
            | Self::Released { .. }
            | Self::ClusterStatus(_)
            | Self::Transferred { .. }
            | Self::QueueChanged(_)
            | Self::CronAdded(_)
            | Self::CronChanged(_)
            | Self::Refused(_) => ITEM_OVERHEAD_BYTES,
        };
        held.min(BODY_BYTES_MAX)
    }

    /// Builds its frame, which always fits ([`BODY_BYTES_MAX`]): see [`Reply::fitting`]. A reply that
    /// cannot be made to fit becomes `RESOURCE_EXHAUSTED`, with an unknown outcome where something may
    /// have been done.
    #[must_use]
    pub fn to_frame(&self, corr: u32) -> Frame {
        let body = if self.fits() { self.body() } else { self.clone().fitting().body() };
        if body.len() > BODY_BYTES_MAX {
            return Self::Refused(self.too_large(body.len())).to_frame(corr);
        }
        Frame::new(self.kind(), corr, body)
    }

    /// Reads a reply.
    ///
    /// # Errors
    /// [`WireError`] if it is none.
    pub fn from_frame(frame: &Frame) -> Result<Self, WireError> {
        let Some(name) = kind::name(frame.kind).filter(|_| kind::is_reply(frame.kind)) else {
            return Err(not("a reply", frame));
        };
        check_header(frame)?;
        let reply = Self::read(name, frame)?;
        match reads::tells_index(frame.kind) {
            true => reads::with_index(name, &frame.body, reply),
            false => Ok(reply),
        }
    }

    fn read(name: &'static str, frame: &Frame) -> Result<Self, WireError> {
        let body = &frame.body;
        match frame.kind {
            kind::PONG => named::decode(name, body).map(|Nothing {}| Self::Pong),
            kind::SUBMITTED => named::decode(name, body).map(Self::Submitted),
            kind::SUBMITTED_BATCH => results(name, body).map(Self::SubmittedBatch),
            kind::REGISTERED => named::decode(name, body).map(|Nothing {}| Self::Registered),
            kind::HEARTBEAT_ACK => {
                named::decode(name, body).map(|AckBody { term, intake, withdrawn }| {
                    Self::HeartbeatAck { term, intake, withdrawn }
                })
            }
            kind::UPDATED => done(name, body).map(Self::Updated),
            kind::RETRIED => done(name, body).map(Self::Retried),
            kind::PURGED => done(name, body).map(Self::Purged),
            kind::QUEUES => named::decode(name, body)
                .map(|QueuesBody { queues, more }| Self::Queues { queues, more }),
            kind::QUEUE_CHANGED => named::decode(name, body).map(Self::QueueChanged),
            kind::CRON_ADDED => named::decode(name, body).map(Self::CronAdded),
            kind::CRON_CHANGED => named::decode(name, body).map(Self::CronChanged),
            kind::CRONS => crons::crons(name, body),
            kind::RELEASED => {
                named::decode(name, body).map(|CountBody { count }| Self::Released { count })
            }
            kind::RESERVED => {
                named::decode(name, body).map(|Assignments { jobs }| Self::Reserved(jobs))
            }
            kind::JOB => named::decode(name, body).map(Self::Job),
            kind::JOBS => named::decode(name, body)
                .map(|JobsBody { jobs, more, after }| Self::Jobs { jobs, more, after }),
            kind::WAITED => results(name, body).map(Self::Waited),
            kind::CANCELLED => {
                let results: Vec<Result<StatusBody, Refusal>> = results(name, body)?;
                let results = results.into_iter().map(|item| item.map(|body| body.status));
                Ok(Self::Cancelled(results.collect()))
            }
            kind::WORKERS => {
                named::decode(name, body).map(|WorkersBody { workers }| Self::Workers(workers))
            }
            kind::CLUSTER_STATUS => named::decode(name, body).map(Self::ClusterStatus),
            kind::LOG => named::decode(name, body).map(|LogBody { entries }| Self::Log(entries)),
            kind::TRANSFERRED => {
                named::decode(name, body).map(|ToBody { to }| Self::Transferred { to })
            }
            kind::WATCHED => named::decode(name, body).map(Self::Watched),
            kind::WORKER_CHANGED => named::decode(name, body)
                .map(|RunningBody { running }| Self::WorkerChanged { running }),
            kind::PROGRESS_NOTED => named::decode(name, body).map(|Nothing {}| Self::ProgressNoted),
            kind::EXPLAINED => reasons::read(name, body).map(|it| Self::Explained(Box::new(it))),
            kind::REFUSED => named::decode(name, body).map(Self::Refused),
            _ => Err(not("a reply", frame)),
        }
    }

    /// Tells whether the lists that [`Reply::fitting`] cuts need no cutting. (Waited jobs are cut as they
    /// are written.)
    fn fits(&self) -> bool {
        match self {
            Self::Jobs { jobs, .. } => count_fitting(jobs.iter().map(job_bytes_max)) == jobs.len(),
            Self::Reserved(jobs) => {
                count_fitting(jobs.iter().map(assignment_bytes_max)) == jobs.len()
            }
            Self::Log(lines) => count_fitting(lines.iter().map(line_bytes_max)) == lines.len(),
            Self::Crons { crons, .. } => {
                count_fitting(crons.iter().map(cron_bytes_max)) == crons.len()
            }
            Self::ReadAt { reply, .. } => reply.fits(),
            Self::Pong
            | Self::Submitted(_)
            | Self::SubmittedBatch(_)
            | Self::Registered
            | Self::HeartbeatAck { .. }
            | Self::Updated(_)
            | Self::Released { .. }
            | Self::Job(_)
            | Self::Waited(_)
            | Self::Cancelled(_)
            | Self::Workers(_)
            | Self::ClusterStatus(_)
            | Self::Transferred { .. }
            | Self::Queues { .. }
            | Self::QueueChanged(_)
            | Self::Retried(_)
            | Self::Purged(_)
            | Self::Watched(_)
            | Self::WorkerChanged { .. }
            | Self::ProgressNoted
            | Self::CronAdded(_)
            | Self::CronChanged(_)
            | Self::Explained(_)
            | Self::Refused(_) => true,
        }
    }

    fn body(&self) -> Bytes {
        match self {
            Self::Pong | Self::Registered | Self::ProgressNoted => Bytes::new(),
            Self::Submitted(submitted) => named::encode(submitted),
            Self::SubmittedBatch(results) => encode_results(results, |submitted| *submitted),
            Self::HeartbeatAck { term, intake, withdrawn } => {
                let (term, intake, withdrawn) = (*term, *intake, withdrawn.clone());
                named::encode(&AckBody { term, intake, withdrawn })
            }
            Self::Updated(results) | Self::Retried(results) | Self::Purged(results) => {
                encode_results(results, |()| Nothing {})
            }
            Self::Queues { queues, more } => named::encode(&QueuesOut { queues, more: *more }),
            Self::QueueChanged(changed) => named::encode(changed),
            Self::CronAdded(added) => named::encode(added),
            Self::CronChanged(changed) => named::encode(changed),
            Self::Crons { crons, more } => named::encode(&CronsOut { crons, more: *more }),
            Self::Released { count } => named::encode(&CountBody { count: *count }),
            Self::Reserved(jobs) => named::encode(&List { key: "jobs", items: jobs }),
            Self::Job(job) => named::encode(job),
            Self::Jobs { jobs, more, after } => {
                named::encode(&JobsOut { jobs, more: *more, after: *after })
            }
            Self::Waited(results) => {
                let fitting = waited_fitting(results);
                encode_results(&fitting, |job| job)
            }
            Self::Cancelled(results) => {
                encode_results(results, |status| StatusBody { status: *status })
            }
            Self::Workers(workers) => named::encode(&List { key: "workers", items: workers }),
            Self::ClusterStatus(status) => named::encode(status),
            Self::Log(entries) => named::encode(&List { key: "entries", items: entries }),
            Self::Transferred { to } => named::encode(&ToBody { to: *to }),
            Self::Watched(watched) => named::encode(watched),
            Self::WorkerChanged { running } => named::encode(&RunningBody { running: *running }),
            Self::Refused(refusal) => named::encode(refusal),
            Self::Explained(explanation) => reasons::write(explanation),
            Self::ReadAt { index, reply } => reads::put_index(*index, &reply.body()),
        }
    }

    fn too_large(&self, bytes: usize) -> Refusal {
        let unknown = match self {
            Self::Submitted(_)
            | Self::SubmittedBatch(_)
            | Self::Registered
            | Self::HeartbeatAck { .. }
            | Self::Updated(_)
            | Self::Released { .. }
            | Self::Cancelled(_)
            | Self::Transferred { .. }
            | Self::QueueChanged(_)
            | Self::Retried(_)
            | Self::Purged(_)
            | Self::WorkerChanged { .. }
            | Self::ProgressNoted
            | Self::CronAdded(_)
            | Self::CronChanged(_) => true,
            Self::Pong
            | Self::Reserved(_)
            | Self::Job(_)
            | Self::Jobs { .. }
            | Self::Waited(_)
            | Self::Workers(_)
            | Self::ClusterStatus(_)
            | Self::Log(_)
            | Self::Queues { .. }
            | Self::Watched(_)
            | Self::Crons { .. }
            | Self::Explained(_)
            | Self::ReadAt { .. }
            | Self::Refused(_) => false,
        };
        let message = format!("an answer of {bytes} bytes; at most {BODY_BYTES_MAX}: ask for less");
        Refusal { unknown, ..Refusal::new(Code::ResourceExhausted, message) }
    }
}

/// Counts the items that fit one answer, from the first on.
fn count_fitting(sizes: impl Iterator<Item = usize>) -> usize {
    let mut left = LIST_BYTES_MAX;
    sizes
        .take_while(|size| match left.checked_sub(*size) {
            Some(rest) => {
                left = rest;
                true
            }
            None => false,
        })
        .count()
}

fn job_bytes_max(job: &JobView) -> usize {
    let note = job.progress.as_ref().map_or(0, |progress| progress.note.len());
    let texts = job.output.len() + job.error.as_ref().map_or(0, String::len) + note;
    let options = job.options.as_ref().map_or(0, |options| options_bytes_max(options));
    let past: usize = job.past.iter().map(|past| ITEM_OVERHEAD_BYTES + past.error.len()).sum();
    ITEM_OVERHEAD_BYTES + texts + options + past + job.body.as_ref().map_or(0, body_bytes_max)
}

fn assignment_bytes_max(job: &Assignment) -> usize {
    ITEM_OVERHEAD_BYTES + body_bytes_max(&job.body)
}

fn line_bytes_max(line: &LogLine) -> usize {
    ITEM_OVERHEAD_BYTES + line.kind.len() + line.summary.len()
}

/// Leaves bodies out, and refuses what has no room when all that follow are refused too.
fn waited_fitting(results: &[Result<JobView, Refusal>]) -> Vec<Result<JobView, Refusal>> {
    let refused = || Refusal::exhausted("no room in this answer: ask for it again", REST_AFTER_MS);
    // A refusal may carry its whole message, and an address.
    let refused_bytes = 2 * ITEM_OVERHEAD_BYTES;
    let mut left = LIST_BYTES_MAX.saturating_sub(results.len() * refused_bytes);
    let fitted = results.iter().map(|result| {
        let job = without_body(result.as_ref().map_err(Clone::clone)?);
        match left.checked_sub(job_bytes_max(&job)) {
            Some(rest) => {
                left = rest;
                Ok(job)
            }
            None => Err(refused()),
        }
    });
    fitted.collect()
}

/// Copies a job but for its body, which may be large.
fn without_body(job: &JobView) -> JobView {
    JobView {
        id: job.id,
        queue: job.queue.clone(),
        status: job.status,
        attempt: job.attempt,
        worker: job.worker.clone(),
        fence: job.fence,
        exit_code: job.exit_code,
        output: job.output.clone(),
        output_cut: job.output_cut,
        error: job.error.clone(),
        created_ms: job.created_ms,
        started_ms: job.started_ms,
        finished_ms: job.finished_ms,
        options: job.options.clone(),
        held_ms: job.held_ms,
        progress: job.progress.clone(),
        past: Vec::new(),
        body: None,
    }
}

/// One result of a list as it is written: a map with `ok` or `refused`.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum ItemOut<'a, T> {
    Ok(T),
    Refused(&'a Refusal),
}

#[derive(Serialize)]
struct ResultsOut<'a, T> {
    results: Vec<ItemOut<'a, T>>,
}

/// One result of a list as it is read.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Item<T> {
    Ok(T),
    Refused(Refusal),
}

#[derive(Deserialize)]
#[serde(bound = "T: DeserializeOwned")]
struct ResultsIn<T> {
    #[serde(deserialize_with = "list")]
    results: Vec<Item<T>>,
}

fn encode_results<'a, T, B: Serialize>(
    results: &'a [Result<T, Refusal>],
    body: impl Fn(&'a T) -> B,
) -> Bytes {
    let results = results.iter().map(|result| match result {
        Ok(value) => ItemOut::Ok(body(value)),
        Err(refusal) => ItemOut::Refused(refusal),
    });
    named::encode(&ResultsOut { results: results.collect() })
}

fn results<T: DeserializeOwned>(
    name: &'static str,
    body: &[u8],
) -> Result<Vec<Result<T, Refusal>>, WireError> {
    let ResultsIn { results } = named::decode(name, body)?;
    let results = results.into_iter().map(|item| match item {
        Item::Ok(value) => Ok(value),
        Item::Refused(refusal) => Err(refusal),
    });
    Ok(results.collect())
}

/// Reads a list of results that say nothing but yes or no.
fn done(name: &'static str, body: &[u8]) -> Result<Vec<Result<(), Refusal>>, WireError> {
    let results: Vec<Result<Nothing, Refusal>> = results(name, body)?;
    Ok(results.into_iter().map(|item| item.map(|Nothing {}| ())).collect())
}

/// A body of one key with a list.
struct List<'a, T> {
    key: &'static str,
    items: &'a [T],
}

impl<T: Serialize> Serialize for List<'_, T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map([(self.key, self.items)])
    }
}

#[derive(Serialize, Deserialize)]
struct Nothing {}

#[derive(Serialize, Deserialize)]
struct AckBody {
    term: Term,
    #[serde(default, skip_serializing_if = "Intake::is_open")]
    intake: Intake,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list")]
    withdrawn: Vec<Withdrawn>,
}

#[derive(Serialize, Deserialize)]
struct RunningBody {
    running: u32,
}

#[derive(Serialize, Deserialize)]
struct CountBody {
    count: u32,
}

#[derive(Deserialize)]
struct Assignments {
    #[serde(deserialize_with = "list")]
    jobs: Vec<Assignment>,
}

#[derive(Serialize)]
struct JobsOut<'a> {
    jobs: &'a [JobView],
    more: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<JobId>,
}

#[derive(Deserialize)]
struct JobsBody {
    #[serde(deserialize_with = "list")]
    jobs: Vec<JobView>,
    #[serde(default)]
    more: bool,
    after: Option<JobId>,
}

#[derive(Serialize)]
struct QueuesOut<'a> {
    queues: &'a [QueueView],
    more: bool,
}

#[derive(Deserialize)]
struct QueuesBody {
    #[serde(deserialize_with = "list")]
    queues: Vec<QueueView>,
    #[serde(default)]
    more: bool,
}

#[derive(Serialize, Deserialize)]
struct StatusBody {
    status: Status,
}

#[derive(Deserialize)]
struct WorkersBody {
    #[serde(deserialize_with = "list")]
    workers: Vec<WorkerView>,
}

#[derive(Deserialize)]
struct LogBody {
    #[serde(deserialize_with = "list")]
    entries: Vec<LogLine>,
}

#[derive(Serialize, Deserialize)]
struct ToBody {
    to: NodeId,
}

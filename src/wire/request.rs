//! Requests as frames, and frames as requests that keep every bound (`wire-spec.md` §11, §12).

use std::collections::BTreeSet;

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::jobs::command::{Registration, Release, StatusUpdate};
use crate::jobs::intake::{Intake, NOTE_BYTES_MAX, PERCENT_MAX, ProgressReport};
use crate::jobs::job::{
    Body, ERROR_BYTES_MAX, NewJob, OUTPUT_BYTES_MAX, Serves, Verdict, WORKER_QUEUES_MAX,
    WORKER_SLOTS_MAX,
};
use crate::jobs::options::{Options, Tags};
use crate::jobs::rules::QueueChange;
use crate::pack::unpack::list;
use crate::types::{Fence, Incarnation, Index, JobId, NodeId, QueueName, WorkerId};
use crate::wire::crons::{self, ChangeCronBody};
use crate::wire::error::{WireError, check_count, check_header, not};
use crate::wire::frame::{Frame, FrameCodec, FrameError};
use crate::wire::jobs_in;
use crate::wire::kind;
use crate::wire::message::{
    BATCH_JOBS_MAX, BATCH_UPDATES_MAX, Filter, HELD_MAX, LIST_JOBS_MAX, LIST_QUEUES_MAX,
    QueueFilter, RESERVE_JOBS_MAX, Request, WAIT_JOBS_MAX, WAIT_MS_MAX, Watch,
};
use crate::wire::named;
use crate::wire::reads;
use crate::wire::refusal::cut;

/// Bytes of the body of a `SUBMIT_BATCH` or a `BATCH_UPDATE_JOB_STATUS`, at most; a longer one is
/// refused, and the sender splits it. Half a frame, because what it becomes is one log entry that it may share
/// with others, and that entry travels to the other nodes in one frame.
pub const BATCH_BYTES_MAX: usize = 2 << 20;

/// Entries in one answer to `ListLog`, at most; a larger limit is lowered to it.
pub const LIST_LOG_MAX: u32 = 1000;

/// Jobs given back in one `ReleaseJobs`, at most: all that one worker can hold.
pub const RELEASE_JOBS_MAX: usize = WORKER_SLOTS_MAX as usize;

/// What a job's keys, heads and names take in a batch beside its body, at most.
const JOB_OVERHEAD_BYTES: usize = 160;

/// What the keys and numbers of a job's options take, at most.
const OPTIONS_BYTES: usize = 240;

/// Returns how many bytes a job takes in a `SUBMIT_BATCH`, at most: whoever fills batches adds these up
/// to [`BATCH_BYTES_MAX`].
#[must_use]
pub fn job_bytes_max(job: &NewJob) -> usize {
    let options = job.options.as_ref().map_or(0, |options| options_bytes_max(options));
    JOB_OVERHEAD_BYTES + body_bytes_max(&job.body) + options
}

/// Returns how many bytes options take, at most.
pub(crate) fn options_bytes_max(options: &Options) -> usize {
    let tags: usize = options.tags.as_slice().iter().map(|tag| tag.as_str().len() + 2).sum();
    let key = options.unique.as_ref().map_or(0, |key| key.as_str().len() + 3);
    OPTIONS_BYTES + tags + key
}

/// Returns how many bytes a body takes, at most, with the heads of its words.
pub(crate) fn body_bytes_max(body: &Body) -> usize {
    match body {
        Body::Command(words) => body.len() + 5 * (words.len() + 1),
        Body::Payload(bytes) => bytes.len() + 5,
    }
}

/// Returns how many bytes a report takes in a `BATCH_UPDATE_JOB_STATUS`, at most.
#[must_use]
pub fn update_bytes_max(update: &StatusUpdate) -> usize {
    let error = update.verdict.error.as_ref().map_or(0, String::len);
    JOB_OVERHEAD_BYTES + update.verdict.output.len() + error
}

impl Request {
    /// Returns the kind of its frame.
    #[must_use]
    pub fn kind(&self) -> u8 {
        match self {
            Self::Ping => kind::PING,
            Self::SubmitJob(_) => kind::SUBMIT_JOB,
            Self::SubmitBatch(_) => kind::SUBMIT_BATCH,
            Self::RegisterWorker(_) => kind::REGISTER_WORKER,
            Self::Heartbeat { .. } => kind::HEARTBEAT,
            Self::UpdateJobStatus(_) => kind::UPDATE_JOB_STATUS,
            Self::BatchUpdateJobStatus(_) => kind::BATCH_UPDATE_JOB_STATUS,
            Self::ReleaseJobs(_) => kind::RELEASE_JOBS,
            Self::Reserve { .. } => kind::RESERVE,
            Self::GetJob { .. } => kind::GET_JOB,
            Self::ListJobs(_) => kind::LIST_JOBS,
            Self::WaitJobs { .. } => kind::WAIT_JOBS,
            Self::CancelJobs { .. } => kind::CANCEL_JOBS,
            Self::ListWorkers => kind::LIST_WORKERS,
            Self::GetClusterStatus { .. } => kind::GET_CLUSTER_STATUS,
            Self::ListLog { .. } => kind::LIST_LOG,
            Self::TransferLeadership { .. } => kind::TRANSFER_LEADERSHIP,
            Self::ListQueues(_) => kind::LIST_QUEUES,
            Self::ChangeQueue { .. } => kind::CHANGE_QUEUE,
            Self::RetryJobs { .. } => kind::RETRY_JOBS,
            Self::PurgeJobs { .. } => kind::PURGE_JOBS,
            Self::Watch(_) => kind::WATCH,
            Self::ChangeWorker { .. } => kind::CHANGE_WORKER,
            Self::ReportProgress(_) => kind::REPORT_PROGRESS,
            Self::AddCron(_) => kind::ADD_CRON,
            Self::ChangeCron { .. } => kind::CHANGE_CRON,
            Self::ListCrons(_) => kind::LIST_CRONS,
            Self::WhyJob { .. } => kind::WHY_JOB,
            Self::ReadAt { read, .. } => read.kind(),
        }
    }

    /// Tells whether it changes anything that outlives its answer. Of what does not, no outcome is
    /// unknown (`wire-spec.md` §9).
    #[must_use]
    pub fn is_change(&self) -> bool {
        match self {
            Self::SubmitJob(_)
            | Self::SubmitBatch(_)
            | Self::RegisterWorker(_)
            | Self::UpdateJobStatus(_)
            | Self::BatchUpdateJobStatus(_)
            | Self::ReleaseJobs(_)
            | Self::CancelJobs { .. }
            | Self::TransferLeadership { .. }
            | Self::ChangeQueue { .. }
            | Self::RetryJobs { .. }
            | Self::PurgeJobs { .. }
            | Self::ChangeWorker { .. }
            | Self::ReportProgress(_)
            | Self::AddCron(_)
            | Self::ChangeCron { .. } => true,
            Self::Ping
            | Self::Heartbeat { .. }
            | Self::Reserve { .. }
            | Self::GetJob { .. }
            | Self::ListJobs(_)
            | Self::WaitJobs { .. }
            | Self::ListWorkers
            | Self::ListQueues(_)
            | Self::ListCrons(_)
            | Self::GetClusterStatus { .. }
            | Self::ListLog { .. }
            | Self::Watch(_)
            | Self::WhyJob { .. }
            | Self::ReadAt { .. } => false,
        }
    }

    /// Returns its name, as `wire-spec.md` has it, for logs and metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        kind::name(self.kind()).unwrap_or("UNKNOWN")
    }

    /// Builds its frame. One that is too large for the connection is refused by the codec when it is
    /// sent, and nothing is sent then; [`job_bytes_max`] and [`update_bytes_max`] help to stay below.
    #[must_use]
    pub fn to_frame(&self, corr: u32) -> Frame {
        let mut body = BytesMut::new();
        self.write(&mut body);
        Frame::new(self.kind(), corr, body.freeze())
    }

    /// Appends its frame to what is to be sent.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`]; nothing is appended then.
    pub(crate) fn encode(
        &self,
        corr: u32,
        codec: &FrameCodec,
        out: &mut BytesMut,
    ) -> Result<(), FrameError> {
        codec.encode_with(self.kind(), corr, out, |body| self.write(body))
    }

    /// Appends its body.
    fn write(&self, out: &mut BytesMut) {
        match self {
            Self::Ping | Self::ListWorkers => {}
            Self::SubmitJob(job) => named::append(job, out),
            Self::SubmitBatch(jobs) => named::append(&JobsOut { jobs }, out),
            Self::RegisterWorker(registration) => {
                named::append(&RegisterBody::from(registration), out);
            }
            Self::Heartbeat { worker, incarnation, draining, held } => {
                let body = HeartbeatBody {
                    worker: worker.clone(),
                    incarnation: *incarnation,
                    draining: *draining,
                    held: held
                        .iter()
                        .map(|(job, fence)| Held { job: *job, fence: *fence })
                        .collect(),
                };
                named::append(&body, out);
            }
            Self::UpdateJobStatus(update) => named::append(&UpdateBody::from(update), out),
            Self::BatchUpdateJobStatus(updates) => {
                let updates = updates.iter().map(UpdateBody::from).collect();
                named::append(&UpdatesBody { updates }, out);
            }
            Self::ReleaseJobs(release) => named::append(&ReleaseBody::from(release), out),
            Self::Reserve { worker, incarnation, after, max, wait_ms } => {
                let body = ReserveBody {
                    worker: worker.clone(),
                    incarnation: *incarnation,
                    after: *after,
                    max: *max,
                    wait_ms: *wait_ms,
                };
                named::append(&body, out);
            }
            Self::GetJob { id } | Self::WhyJob { id } => named::append(&IdBody { id: *id }, out),
            Self::ReadAt { consistency, read } => reads::append(*consistency, read, out),
            Self::ListJobs(filter) => named::append(filter, out),
            Self::WaitJobs { ids, wait_ms } => {
                named::append(&WaitBody { ids: ids.clone(), wait_ms: *wait_ms }, out);
            }
            Self::CancelJobs { ids } | Self::RetryJobs { ids } | Self::PurgeJobs { ids } => {
                named::append(&IdsBody { ids: ids.clone() }, out);
            }
            Self::ListQueues(filter) => named::append(filter, out),
            Self::ChangeQueue { queue, change } => {
                named::append(&ChangeBody { queue: queue.clone(), change: *change }, out);
            }
            Self::ChangeWorker { worker, intake } => {
                named::append(&IntakeBody { worker: worker.clone(), intake: *intake }, out);
            }
            Self::ReportProgress(report) => {
                let ProgressReport { job, fence, percent, note } = report.clone();
                let percent = u32::from(percent);
                named::append(&ProgressBody { job, fence, percent, note }, out);
            }
            Self::AddCron(cron) => named::append(&**cron, out),
            Self::ChangeCron { name, change } => {
                named::append(&ChangeCronBody { name: name.clone(), change: *change }, out);
            }
            Self::ListCrons(filter) => named::append(filter, out),
            Self::GetClusterStatus { local } => named::append(&StatusBody { local: *local }, out),
            Self::ListLog { from, limit } => {
                named::append(&ListLogBody { from: *from, limit: *limit }, out);
            }
            Self::TransferLeadership { to } => named::append(&TransferBody { to: *to }, out),
            Self::Watch(watch) => named::append(watch, out),
        }
    }

    /// Reads a request. What comes back keeps every bound that `wire-spec.md` §3 has: nobody behind this
    /// checks again. Limits that may be lowered are lowered. The jobs of a batch are decided one by one
    /// when they are applied, so their bodies are not judged here.
    ///
    /// # Errors
    /// [`WireError`] if it is none or out of bounds; see there.
    pub fn from_frame(frame: &Frame) -> Result<Self, WireError> {
        let Some(name) = kind::name(frame.kind).filter(|_| kind::is_request(frame.kind)) else {
            return Err(not("a request", frame));
        };
        check_header(frame)?;
        let request = Self::read(name, frame)?;
        match reads::is_read(frame.kind) {
            true => reads::with_consistency(name, &frame.body, request),
            false => Ok(request),
        }
    }

    fn read(name: &'static str, frame: &Frame) -> Result<Self, WireError> {
        let body = &frame.body;
        match frame.kind {
            kind::PING => named::decode(name, body).map(|Nothing {}| Self::Ping),
            kind::SUBMIT_JOB => submit(name, body),
            kind::SUBMIT_BATCH => submit_batch(name, body),
            kind::GET_JOB => named::decode(name, body).map(|IdBody { id }| Self::GetJob { id }),
            kind::WHY_JOB => named::decode(name, body).map(|IdBody { id }| Self::WhyJob { id }),
            kind::LIST_JOBS => list_jobs(name, body),
            kind::WAIT_JOBS => wait_jobs(name, body),
            kind::CANCEL_JOBS => ids(name, body).map(|ids| Self::CancelJobs { ids }),
            kind::RETRY_JOBS => ids(name, body).map(|ids| Self::RetryJobs { ids }),
            kind::PURGE_JOBS => ids(name, body).map(|ids| Self::PurgeJobs { ids }),
            kind::LIST_QUEUES => list_queues(name, body),
            kind::CHANGE_QUEUE => {
                let ChangeBody { queue, change } = named::decode(name, body)?;
                match change.fault() {
                    None => Ok(Self::ChangeQueue { queue, change }),
                    Some(reason) => Err(WireError::Invalid { name, reason }),
                }
            }
            kind::ADD_CRON => crons::add_cron(name, body),
            kind::CHANGE_CRON => crons::change_cron(name, body),
            kind::LIST_CRONS => crons::list_crons(name, body),
            kind::LIST_WORKERS => named::decode(name, body).map(|Nothing {}| Self::ListWorkers),
            kind::GET_CLUSTER_STATUS => named::decode(name, body)
                .map(|StatusBody { local }| Self::GetClusterStatus { local }),
            kind::LIST_LOG => {
                let ListLogBody { from, limit } = named::decode(name, body)?;
                Ok(Self::ListLog { from, limit: limit.min(LIST_LOG_MAX) })
            }
            kind::TRANSFER_LEADERSHIP => {
                named::decode(name, body).map(|TransferBody { to }| Self::TransferLeadership { to })
            }
            kind::REGISTER_WORKER => register(name, body),
            kind::HEARTBEAT => {
                let HeartbeatBody { worker, incarnation, draining, held } =
                    named::decode(name, body)?;
                check_count(name, "jobs", held.len(), HELD_MAX)?;
                let held = held.into_iter().map(|Held { job, fence }| (job, fence)).collect();
                Ok(Self::Heartbeat { worker, incarnation, draining, held })
            }
            kind::RESERVE => reserve(name, body),
            kind::UPDATE_JOB_STATUS => {
                let update: UpdateBody = named::decode(name, body)?;
                update.checked(name).map(Self::UpdateJobStatus)
            }
            kind::BATCH_UPDATE_JOB_STATUS => batch_update(name, body),
            kind::WATCH => watch(name, body),
            kind::RELEASE_JOBS => {
                let release: ReleaseBody = named::decode(name, body)?;
                check_count(name, "jobs", release.jobs.len(), RELEASE_JOBS_MAX)?;
                Ok(Self::ReleaseJobs(release.into()))
            }
            kind::CHANGE_WORKER => named::decode(name, body)
                .map(|IntakeBody { worker, intake }| Self::ChangeWorker { worker, intake }),
            kind::REPORT_PROGRESS => progress(name, body),
            _ => Err(not("a request", frame)),
        }
    }
}

fn progress(name: &'static str, body: &[u8]) -> Result<Request, WireError> {
    let ProgressBody { job, fence, percent, note } = named::decode(name, body)?;
    match u8::try_from(percent) {
        Ok(percent) if percent <= PERCENT_MAX => {
            let note = cut(&note, NOTE_BYTES_MAX).to_owned();
            Ok(Request::ReportProgress(ProgressReport { job, fence, percent, note }))
        }
        Ok(_) | Err(_) => {
            let reason = format!("{percent} percent; 0 to {PERCENT_MAX}");
            Err(WireError::Invalid { name, reason })
        }
    }
}

fn submit(name: &'static str, body: &[u8]) -> Result<Request, WireError> {
    let job: NewJob = named::decode(name, body)?;
    match job.fault() {
        None => Ok(Request::SubmitJob(job)),
        Some(reason) => Err(WireError::Invalid { name, reason }),
    }
}

fn submit_batch(name: &'static str, body: &Bytes) -> Result<Request, WireError> {
    check_count(name, "bytes of body", body.len(), BATCH_BYTES_MAX)?;
    let jobs = jobs_in::read(name, body)?;
    check_count(name, "jobs", jobs.len(), BATCH_JOBS_MAX)?;
    Ok(Request::SubmitBatch(jobs))
}

fn list_jobs(name: &'static str, body: &[u8]) -> Result<Request, WireError> {
    let filter: Filter = named::decode(name, body)?;
    if let Some(reason) = filter.fault() {
        return Err(WireError::Invalid { name, reason });
    }
    let limit_max = u32::try_from(LIST_JOBS_MAX).unwrap_or(u32::MAX);
    let limit = filter.limit.min(limit_max);
    Ok(Request::ListJobs(Box::new(Filter { limit, ..filter })))
}

fn ids(name: &'static str, body: &[u8]) -> Result<Vec<JobId>, WireError> {
    let IdsBody { ids } = named::decode(name, body)?;
    check_count(name, "ids", ids.len(), WAIT_JOBS_MAX)?;
    Ok(ids)
}

fn list_queues(name: &'static str, body: &[u8]) -> Result<Request, WireError> {
    let filter: QueueFilter = named::decode(name, body)?;
    let limit_max = u32::try_from(LIST_QUEUES_MAX).unwrap_or(u32::MAX);
    let limit = if filter.limit == 0 { limit_max } else { filter.limit.min(limit_max) };
    Ok(Request::ListQueues(QueueFilter { limit, ..filter }))
}

fn watch(name: &'static str, body: &[u8]) -> Result<Request, WireError> {
    let watch: Watch = named::decode(name, body)?;
    if watch.after.is_some() && watch.oldest {
        let reason = "both a place to go on from and the oldest one: name one of them".into();
        return Err(WireError::Invalid { name, reason });
    }
    Ok(Request::Watch(Watch { wait_ms: watch.wait_ms.min(WAIT_MS_MAX), ..watch }))
}

fn wait_jobs(name: &'static str, body: &[u8]) -> Result<Request, WireError> {
    let WaitBody { ids, wait_ms } = named::decode(name, body)?;
    check_count(name, "ids", ids.len(), WAIT_JOBS_MAX)?;
    Ok(Request::WaitJobs { ids, wait_ms: wait_ms.min(WAIT_MS_MAX) })
}

fn reserve(name: &'static str, body: &[u8]) -> Result<Request, WireError> {
    let ReserveBody { worker, incarnation, after, max, wait_ms } = named::decode(name, body)?;
    let max_max = u32::try_from(RESERVE_JOBS_MAX).unwrap_or(u32::MAX);
    let (max, wait_ms) = (max.min(max_max), wait_ms.min(WAIT_MS_MAX));
    Ok(Request::Reserve { worker, incarnation, after, max, wait_ms })
}

fn register(name: &'static str, body: &[u8]) -> Result<Request, WireError> {
    let RegisterBody { worker, incarnation, slots, serves, tags, gave_up } =
        named::decode(name, body)?;
    let invalid = |reason: String| Err(WireError::Invalid { name, reason });
    if !(1..=WORKER_SLOTS_MAX).contains(&slots) {
        return invalid(format!("{slots} slots; 1 to {WORKER_SLOTS_MAX}"));
    }
    if incarnation > Incarnation::MAX {
        return invalid(format!("incarnation {incarnation}; at most {}", Incarnation::MAX));
    }
    if let Serves::Payloads(queues) = &serves {
        check_count(name, "queues", queues.len(), WORKER_QUEUES_MAX)?;
        if queues.is_empty() {
            return invalid("no queue: a worker of payloads serves one at least".into());
        }
        if queues.iter().collect::<BTreeSet<_>>().len() < queues.len() {
            return invalid("a queue is named twice".into());
        }
    }
    if let Some(fault) = tags.fault() {
        return invalid(fault);
    }
    Ok(Request::RegisterWorker(Registration { worker, incarnation, slots, serves, tags, gave_up }))
}

fn batch_update(name: &'static str, body: &[u8]) -> Result<Request, WireError> {
    check_count(name, "bytes of body", body.len(), BATCH_BYTES_MAX)?;
    let UpdatesBody { updates } = named::decode(name, body)?;
    check_count(name, "reports", updates.len(), BATCH_UPDATES_MAX)?;
    let updates = updates.into_iter().map(|update| update.checked(name));
    Ok(Request::BatchUpdateJobStatus(updates.collect::<Result<_, _>>()?))
}

/// The body of a request that has no keys (yet).
#[derive(Deserialize)]
struct Nothing {}

#[derive(Serialize)]
struct JobsOut<'a> {
    jobs: &'a [NewJob],
}

#[derive(Serialize, Deserialize)]
struct HeartbeatBody {
    worker: WorkerId,
    incarnation: Incarnation,
    #[serde(default)]
    draining: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list")]
    held: Vec<Held>,
}

#[derive(Serialize, Deserialize)]
struct IntakeBody {
    worker: WorkerId,
    intake: Intake,
}

#[derive(Serialize, Deserialize)]
struct ProgressBody {
    job: JobId,
    fence: Fence,
    percent: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    note: String,
}

#[derive(Serialize, Deserialize)]
struct RegisterBody {
    worker: WorkerId,
    incarnation: Incarnation,
    slots: u32,
    serves: Serves,
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    tags: Tags,
    #[serde(skip_serializing_if = "Option::is_none")]
    gave_up: Option<Incarnation>,
}

impl From<&Registration> for RegisterBody {
    fn from(registration: &Registration) -> Self {
        let Registration { worker, incarnation, slots, serves, tags, gave_up } =
            registration.clone();
        Self { worker, incarnation, slots, serves, tags, gave_up }
    }
}

#[derive(Serialize, Deserialize)]
struct ReserveBody {
    worker: WorkerId,
    incarnation: Incarnation,
    #[serde(default)]
    after: Fence,
    max: u32,
    #[serde(default)]
    wait_ms: u64,
}

/// A report, flat, so that the shortest one is `{job, fence, completed}`.
#[derive(Serialize, Deserialize)]
struct UpdateBody {
    job: JobId,
    fence: Fence,
    completed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    #[serde(default)]
    output: Bytes,
    #[serde(default)]
    output_cut: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl From<&StatusUpdate> for UpdateBody {
    fn from(update: &StatusUpdate) -> Self {
        let Verdict { completed, exit_code, output, output_cut, error } = update.verdict.clone();
        let StatusUpdate { job, fence, .. } = *update;
        Self { job, fence, completed, exit_code, output, output_cut, error }
    }
}

impl UpdateBody {
    /// Refuses output above the bound, and cuts an error text that is above it.
    fn checked(self, name: &'static str) -> Result<StatusUpdate, WireError> {
        check_count(name, "bytes of output", self.output.len(), OUTPUT_BYTES_MAX)?;
        let Self { job, fence, completed, exit_code, output, output_cut, error } = self;
        let error = error.map(|text| cut(&text, ERROR_BYTES_MAX).to_owned());
        let verdict = Verdict { completed, exit_code, output, output_cut, error };
        Ok(StatusUpdate { job, fence, verdict })
    }
}

#[derive(Serialize, Deserialize)]
struct UpdatesBody {
    #[serde(deserialize_with = "list")]
    updates: Vec<UpdateBody>,
}

#[derive(Serialize, Deserialize)]
struct Held {
    job: JobId,
    fence: Fence,
}

#[derive(Serialize, Deserialize)]
struct ReleaseBody {
    worker: WorkerId,
    incarnation: Incarnation,
    #[serde(default, deserialize_with = "list")]
    jobs: Vec<Held>,
    #[serde(default)]
    leaving: bool,
}

impl From<&Release> for ReleaseBody {
    fn from(release: &Release) -> Self {
        Self {
            worker: release.worker.clone(),
            incarnation: release.incarnation,
            jobs: release
                .jobs
                .iter()
                .map(|(job, fence)| Held { job: *job, fence: *fence })
                .collect(),
            leaving: release.leaving,
        }
    }
}

impl From<ReleaseBody> for Release {
    fn from(ReleaseBody { worker, incarnation, jobs, leaving }: ReleaseBody) -> Self {
        let jobs = jobs.into_iter().map(|Held { job, fence }| (job, fence)).collect();
        Self { worker, incarnation, jobs, leaving }
    }
}

#[derive(Serialize, Deserialize)]
pub(in crate::wire) struct IdBody {
    pub(in crate::wire) id: JobId,
}

#[derive(Serialize, Deserialize)]
struct IdsBody {
    #[serde(deserialize_with = "list")]
    ids: Vec<JobId>,
}

#[derive(Serialize, Deserialize)]
struct ChangeBody {
    queue: QueueName,
    change: QueueChange,
}

#[derive(Serialize, Deserialize)]
struct WaitBody {
    #[serde(deserialize_with = "list")]
    ids: Vec<JobId>,
    #[serde(default)]
    wait_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct StatusBody {
    #[serde(default)]
    local: bool,
}

#[derive(Serialize, Deserialize)]
struct ListLogBody {
    #[serde(default)]
    from: Index,
    #[serde(default = "list_log_limit")]
    limit: u32,
}

fn list_log_limit() -> u32 {
    LIST_LOG_MAX
}

#[derive(Serialize, Deserialize)]
struct TransferBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<NodeId>,
}

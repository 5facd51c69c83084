//! What a client must know of each request: who answers it, what it changes, and what to call it in a text.

use crate::client::error::name_jobs;
use crate::jobs::cron::CronChange;
use crate::jobs::job::NewJob;
use crate::types::JobId;
use crate::wire::message::{Reply, Request, Submitted, WAIT_MS_MAX, Watch};

/// Tells whether only the leader answers it; others know who that is.
pub(crate) fn needs_leader(request: &Request) -> bool {
    match request {
        Request::SubmitJob(_)
        | Request::SubmitBatch(_)
        | Request::RegisterWorker(_)
        | Request::Heartbeat { .. }
        | Request::UpdateJobStatus(_)
        | Request::BatchUpdateJobStatus(_)
        | Request::ReleaseJobs(_)
        | Request::CancelJobs { .. }
        | Request::RetryJobs { .. }
        | Request::PurgeJobs { .. }
        | Request::ChangeQueue { .. }
        | Request::ChangeWorker { .. }
        | Request::ReportProgress(_)
        | Request::AddCron(_)
        | Request::ChangeCron { .. }
        | Request::TransferLeadership { .. } => true,
        Request::GetClusterStatus { local } => !local,
        Request::Ping
        | Request::Reserve { .. }
        | Request::GetJob { .. }
        | Request::ListJobs(_)
        | Request::WaitJobs { .. }
        | Request::ListWorkers
        | Request::ListQueues(_)
        | Request::Watch(_)
        | Request::ListCrons(_)
        | Request::WhyJob { .. }
        | Request::ReadAt { .. }
        | Request::ListLog { .. } => false,
    }
}

/// Tells whether done twice it is the same as done once. Leadership that was handed to nobody in particular
/// would move once more: the new leader would be asked. A job that was tried again and failed since would be
/// tried once more.
pub(crate) fn may_repeat(request: &Request) -> bool {
    !matches!(request, Request::TransferLeadership { to: None } | Request::RetryJobs { .. })
}

/// Returns how long the node itself waits before it answers, where it does.
pub(crate) fn wait_ms(request: &Request) -> Option<u64> {
    match request {
        Request::WaitJobs { wait_ms, .. }
        | Request::Reserve { wait_ms, .. }
        | Request::Watch(Watch { wait_ms, .. }) => Some((*wait_ms).min(WAIT_MS_MAX)),
        Request::Ping
        | Request::SubmitJob(_)
        | Request::SubmitBatch(_)
        | Request::RegisterWorker(_)
        | Request::Heartbeat { .. }
        | Request::UpdateJobStatus(_)
        | Request::BatchUpdateJobStatus(_)
        | Request::ReleaseJobs(_)
        | Request::GetJob { .. }
        | Request::ListJobs(_)
        | Request::CancelJobs { .. }
        | Request::RetryJobs { .. }
        | Request::PurgeJobs { .. }
        | Request::ChangeQueue { .. }
        | Request::ChangeWorker { .. }
        | Request::ReportProgress(_)
        | Request::ListQueues(_)
        | Request::AddCron(_)
        | Request::ChangeCron { .. }
        | Request::ListCrons(_)
        | Request::ListWorkers
        | Request::WhyJob { .. }
        | Request::ReadAt { .. }
        | Request::GetClusterStatus { .. }
        | Request::ListLog { .. }
        | Request::TransferLeadership { .. } => None,
    }
}

/// Tells whether a reply answers a request: it is of the right kind and has a result for each item.
pub(crate) fn expects(request: &Request, reply: &Reply) -> bool {
    match (request, reply) {
        (_, Reply::Refused(_))
        | (Request::Ping, Reply::Pong)
        | (Request::RegisterWorker(_), Reply::Registered)
        | (Request::Heartbeat { .. }, Reply::HeartbeatAck { .. })
        | (Request::ReleaseJobs(_), Reply::Released { .. })
        | (Request::Reserve { .. }, Reply::Reserved(_))
        | (Request::ListJobs(_), Reply::Jobs { .. })
        | (Request::ListWorkers, Reply::Workers(_))
        | (Request::ListQueues(_), Reply::Queues { .. })
        | (Request::ChangeQueue { .. }, Reply::QueueChanged(_))
        | (Request::ChangeWorker { .. }, Reply::WorkerChanged { .. })
        | (Request::ReportProgress(_), Reply::ProgressNoted)
        | (Request::AddCron(_), Reply::CronAdded(_))
        | (Request::ChangeCron { .. }, Reply::CronChanged(_))
        | (Request::ListCrons(_), Reply::Crons { .. })
        | (Request::GetClusterStatus { .. }, Reply::ClusterStatus(_))
        | (Request::ListLog { .. }, Reply::Log(_))
        | (Request::Watch(_), Reply::Watched(_))
        | (Request::TransferLeadership { .. }, Reply::Transferred { .. }) => true,
        (Request::SubmitJob(job), Reply::Submitted(submitted)) => is_of(job, submitted),
        (Request::GetJob { id }, Reply::Job(job)) => *id == job.id,
        (Request::WhyJob { id }, Reply::Explained(it)) => *id == it.id,
        (Request::ReadAt { read, .. }, Reply::ReadAt { reply, .. }) => expects(read, reply),
        (Request::ReadAt { read, .. }, reply @ Reply::Explained(_)) => expects(read, reply),
        (Request::SubmitBatch(jobs), Reply::SubmittedBatch(results)) => {
            jobs.len() == results.len()
                && jobs.iter().zip(results).all(|(job, result)| {
                    result.as_ref().map_or(true, |submitted| is_of(job, submitted))
                })
        }
        (Request::UpdateJobStatus(_), Reply::Updated(results)) => results.len() == 1,
        (Request::BatchUpdateJobStatus(updates), Reply::Updated(results)) => {
            updates.len() == results.len()
        }
        (Request::WaitJobs { ids, .. }, Reply::Waited(results)) => ids.len() == results.len(),
        (Request::CancelJobs { ids }, Reply::Cancelled(results)) => ids.len() == results.len(),
        (Request::RetryJobs { ids }, Reply::Retried(results))
        | (Request::PurgeJobs { ids }, Reply::Purged(results)) => ids.len() == results.len(),
        (
            Request::Ping
            | Request::SubmitJob(_)
            | Request::SubmitBatch(_)
            | Request::RegisterWorker(_)
            | Request::Heartbeat { .. }
            | Request::UpdateJobStatus(_)
            | Request::BatchUpdateJobStatus(_)
            | Request::ReleaseJobs(_)
            | Request::Reserve { .. }
            | Request::GetJob { .. }
            | Request::ListJobs(_)
            | Request::WaitJobs { .. }
            | Request::CancelJobs { .. }
            | Request::RetryJobs { .. }
            | Request::PurgeJobs { .. }
            | Request::ChangeQueue { .. }
            | Request::ChangeWorker { .. }
            | Request::ReportProgress(_)
            | Request::ListQueues(_)
            | Request::AddCron(_)
            | Request::ChangeCron { .. }
            | Request::ListCrons(_)
            | Request::ListWorkers
            | Request::WhyJob { .. }
            | Request::ReadAt { .. }
            | Request::GetClusterStatus { .. }
            | Request::ListLog { .. }
            | Request::Watch(_)
            | Request::TransferLeadership { .. },
            _,
        ) => false,
    }
}

/// Tells whether that was answered to the submit of a job: another one may have its unique key.
fn is_of(job: &NewJob, submitted: &Submitted) -> bool {
    let is_unique = job.options.as_ref().is_some_and(|options| options.unique.is_some());
    submitted.id == job.id || is_unique && !submitted.created
}

/// Returns the jobs it is about, where it names them.
pub(crate) fn ids(request: &Request) -> Vec<JobId> {
    match request {
        Request::SubmitJob(job) => vec![job.id],
        Request::SubmitBatch(jobs) => jobs.iter().map(|job| job.id).collect(),
        Request::GetJob { id } | Request::WhyJob { id } => vec![*id],
        Request::ChangeCron { change: CronChange::Trigger(id), .. } => vec![*id],
        Request::ReadAt { read, .. } => ids(read),
        Request::WaitJobs { ids, .. }
        | Request::CancelJobs { ids }
        | Request::RetryJobs { ids }
        | Request::PurgeJobs { ids } => ids.clone(),
        Request::UpdateJobStatus(update) => vec![update.job],
        Request::ReportProgress(report) => vec![report.job],
        Request::BatchUpdateJobStatus(updates) => updates.iter().map(|update| update.job).collect(),
        Request::ReleaseJobs(release) => release.jobs.iter().map(|(id, _)| *id).collect(),
        Request::Ping
        | Request::RegisterWorker(_)
        | Request::Heartbeat { .. }
        | Request::Reserve { .. }
        | Request::ListJobs(_)
        | Request::ListWorkers
        | Request::ListQueues(_)
        | Request::ChangeQueue { .. }
        | Request::ChangeWorker { .. }
        | Request::AddCron(_)
        | Request::ChangeCron { .. }
        | Request::ListCrons(_)
        | Request::GetClusterStatus { .. }
        | Request::ListLog { .. }
        | Request::Watch(_)
        | Request::TransferLeadership { .. } => Vec::new(),
    }
}

/// Says in a few words what was asked for.
pub(crate) fn describe(request: &Request) -> String {
    let of_jobs = |verb: &str| format!("{verb} {}", name_jobs(&ids(request)));
    match request {
        Request::Ping => "ping".into(),
        Request::SubmitJob(_) | Request::SubmitBatch(_) => of_jobs("submit"),
        Request::GetJob { .. } => of_jobs("get"),
        Request::WhyJob { .. } => of_jobs("explain"),
        Request::ReadAt { read, .. } => describe(read),
        Request::WaitJobs { .. } => of_jobs("wait for"),
        Request::CancelJobs { .. } => of_jobs("cancel"),
        Request::RetryJobs { .. } => of_jobs("try again"),
        Request::PurgeJobs { .. } => of_jobs("forget"),
        Request::ChangeQueue { queue, .. } => format!("change the rules of queue {queue}"),
        Request::ChangeWorker { worker, .. } => format!("decide about worker {worker}"),
        Request::ReportProgress(_) => of_jobs("note the progress of"),
        Request::ListQueues(_) => "list queues".into(),
        Request::AddCron(cron) => format!("add cron {}", cron.name),
        Request::ChangeCron { name, .. } => format!("change cron {name}"),
        Request::ListCrons(_) => "list crons".into(),
        Request::UpdateJobStatus(_) | Request::BatchUpdateJobStatus(_) => {
            of_jobs("report the end of")
        }
        Request::ReleaseJobs(release) => format!("give back the jobs of {}", release.worker),
        Request::RegisterWorker(registration) => format!("register worker {}", registration.worker),
        Request::Heartbeat { worker, .. } => format!("heartbeat of {worker}"),
        Request::Reserve { worker, .. } => format!("look for jobs for {worker}"),
        Request::ListJobs(_) => "list jobs".into(),
        Request::ListWorkers => "list workers".into(),
        Request::GetClusterStatus { .. } => "ask for the cluster's status".into(),
        Request::ListLog { .. } => "list the log".into(),
        Request::Watch(_) => "watch".into(),
        Request::TransferLeadership { to: Some(to) } => {
            format!("hand leadership over to node {to}")
        }
        Request::TransferLeadership { to: None } => "hand leadership over".into(),
    }
}

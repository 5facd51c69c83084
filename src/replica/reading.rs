//! Answers made from an image of the queue, outside the Raft thread, and lines of the log for people.

use crate::jobs::codec;
use crate::jobs::command::Command;
use crate::jobs::cron::CronChange;
use crate::jobs::find::Text;
use crate::jobs::list::Filter as JobFilter;
use crate::jobs::machine::Machine;
use crate::jobs::queue::Queue;
use crate::jobs::registry::Worker;
use crate::jobs::rules::{QueueChange, in_words};
use crate::raft::configuration;
use crate::raft::message::{Entry, EntryKind};
use crate::replica::crons::list_crons;
use crate::types::{JobId, Millis, QueueName};
use crate::wire::message::{
    Code, Filter, LIST_JOBS_MAX, LIST_QUEUES_MAX, LogLine, QueueFilter, QueueView, Refusal, Reply,
    Request, WorkerView,
};

/// Jobs in a page when the request names no limit.
const LIST_JOBS_DEFAULT: usize = 100;

/// Answers a request that needs nothing but an image.
#[must_use]
pub fn answer(machine: &Machine, request: &Request) -> Reply {
    #[expect(clippy::wildcard_enum_match_arm, reason = "only these are sent with an image")]
    match request {
        Request::ListJobs(filter) => {
            let page = machine.page(&job_filter(filter));
            Reply::Jobs { jobs: page.jobs, more: page.next.is_some(), after: page.next }
        }
        Request::ListWorkers => {
            Reply::Workers(machine.workers().map(|worker| worker_view(worker)).collect())
        }
        Request::ListQueues(filter) => list_queues(machine, filter),
        Request::ListCrons(filter) => list_crons(machine, filter),
        Request::GetJob { id } => match machine.view(*id) {
            Some(view) => Reply::Job(Box::new(view)),
            None => Reply::Refused(no_such_job(machine, *id)),
        },
        Request::WaitJobs { ids, .. } => waited(machine, ids),
        Request::WhyJob { id } => match machine.why(*id) {
            Some(explanation) => Reply::Explained(Box::new(explanation)),
            None => Reply::Refused(no_such_job(machine, *id)),
        },
        Request::ReadAt { read, .. } => read_at(machine, answer(machine, read)),
        _ => Reply::Refused(Refusal::new(Code::Internal, "no image answers this request")),
    }
}

/// Adds to an answer where it was read, if it does not say so by itself.
#[must_use]
pub fn read_at(machine: &Machine, reply: Reply) -> Reply {
    if matches!(reply, Reply::Refused(_) | Reply::Explained(_)) {
        return reply;
    }
    Reply::ReadAt { index: machine.applied_index(), reply: Box::new(reply) }
}

/// Answers a wait with its jobs as they are.
#[must_use]
pub fn waited(machine: &Machine, ids: &[JobId]) -> Reply {
    let job = |id: &JobId| match machine.job(*id) {
        // Bodies stay here: a thousand of them would fit no frame.
        Some(job) => Ok(job.view(false)),
        None => Err(no_such_job(machine, *id)),
    };
    Reply::Waited(ids.iter().map(job).collect())
}

/// Says that a job is not here.
#[must_use]
pub fn no_such_job(machine: &Machine, id: JobId) -> Refusal {
    let text = if machine.is_known(id) {
        format!("job {id} has ended and was forgotten")
    } else {
        format!("no job {id}")
    };
    Refusal::not_found(text)
}

/// Turns the filter of the wire into that of the machine, its limit within bounds.
#[must_use]
pub fn job_filter(filter: &Filter) -> JobFilter {
    let asked = usize::try_from(filter.limit).unwrap_or(LIST_JOBS_MAX);
    JobFilter {
        status: filter.status,
        queue: filter.queue.clone(),
        worker: filter.worker.clone(),
        tag: filter.tag.clone(),
        text: filter.text.as_deref().map(Text::new),
        since: filter.since_ms,
        until: filter.until_ms,
        after: filter.after,
        limit: if asked == 0 { LIST_JOBS_DEFAULT } else { asked.min(LIST_JOBS_MAX) },
    }
}

/// Shows a worker of the registry.
#[must_use]
pub fn worker_view(worker: &Worker) -> WorkerView {
    WorkerView {
        id: worker.id.clone(),
        incarnation: worker.incarnation,
        serves: worker.serves.clone(),
        tags: worker.tags.clone(),
        slots: worker.slots,
        running: u32::try_from(worker.running.len()).unwrap_or(u32::MAX),
        state: worker.state.as_str().into(),
        intake: worker.intake,
        registered_ms: worker.registered_ms,
    }
}

/// Answers with a page of queues.
fn list_queues(machine: &Machine, filter: &QueueFilter) -> Reply {
    let limit = usize::try_from(filter.limit).unwrap_or(LIST_QUEUES_MAX).clamp(1, LIST_QUEUES_MAX);
    let mut rest = machine.queues_after(filter.after.as_ref());
    let queues = rest.by_ref().take(limit).map(|(name, queue)| queue_view(name, queue)).collect();
    Reply::Queues { queues, more: rest.next().is_some() }
}

/// Shows a queue.
#[must_use]
pub fn queue_view(name: &QueueName, queue: &Queue) -> QueueView {
    let counts = &queue.counts;
    let rules = queue.rules.as_deref().copied().unwrap_or_default();
    QueueView {
        name: name.clone(),
        pending: counts.pending(),
        held: counts.held,
        running: counts.running,
        completed: counts.completed,
        failed: counts.failed,
        cancelled: counts.cancelled,
        paused_ms: rules.paused_ms,
        draining_ms: rules.draining_ms,
        limit: rules.limit,
        rate: rules.rate,
    }
}

/// Describes an entry of the log in one line.
#[must_use]
pub fn log_line(entry: &Entry) -> LogLine {
    let (kind, now_ms, summary) = match entry.kind {
        EntryKind::Noop => ("noop", Millis(0), "the first entry of a term".into()),
        EntryKind::Configuration => {
            let summary = match configuration::decode(&entry.data) {
                Ok(known) => {
                    let directories = known.voters.iter().filter(|voter| voter.dir.is_some());
                    format!(
                        "{} voters, {} directories known",
                        known.voters.len(),
                        directories.count()
                    )
                }
                Err(error) => error.to_string(),
            };
            ("configuration", Millis(0), summary)
        }
        EntryKind::Command => match codec::decode(&entry.data) {
            Ok(stamped) => {
                let (kind, summary) = describe(&stamped.command);
                (kind, stamped.now, summary)
            }
            Err(error) => ("unreadable", Millis(0), error.to_string()),
        },
    };
    LogLine {
        index: entry.index,
        term: entry.term,
        kind: kind.into(),
        bytes: entry.data.len() as u64,
        now_ms,
        summary,
    }
}

fn describe(command: &Command) -> (&'static str, String) {
    let first = |id: Option<String>, count: usize| match (id, count) {
        (Some(id), 1) => id,
        (Some(id), count) => format!("{id} and {} more", count - 1),
        (None, _) => "nothing".into(),
    };
    match command {
        Command::SubmitJob(jobs) => {
            ("SubmitJob", first(jobs.first().map(|job| job.id.to_string()), jobs.len()))
        }
        Command::AssignJob(pairs) => {
            let one = pairs.first().map(|pair| format!("{} to {}", pair.job, pair.worker));
            ("AssignJob", first(one, pairs.len()))
        }
        Command::RegisterWorker(registration) => {
            ("RegisterWorker", format!("{} with {} slots", registration.worker, registration.slots))
        }
        Command::UpdateJobStatus(update) => ("UpdateJobStatus", update.job.to_string()),
        Command::BatchUpdateJobStatus(updates) => (
            "BatchUpdateJobStatus",
            first(updates.first().map(|update| update.job.to_string()), updates.len()),
        ),
        Command::CancelJob(ids) => {
            ("CancelJob", first(ids.first().map(ToString::to_string), ids.len()))
        }
        Command::ReleaseJob(release) => {
            ("ReleaseJob", format!("{} of {}", release.jobs.len(), release.worker))
        }
        Command::WorkerLost(workers) => {
            ("WorkerLost", first(workers.first().map(|(id, _)| id.to_string()), workers.len()))
        }
        Command::SetLimits(limits) => {
            ("SetLimits", format!("{} finished jobs kept", limits.finished_count_max))
        }
        Command::Tick => ("Tick", "a time that somebody waits for".into()),
        Command::ChangeQueue(queue, change) => {
            ("ChangeQueue", format!("{queue}: {}", describe_change(change)))
        }
        Command::RetryJob(ids) => {
            ("RetryJob", first(ids.first().map(ToString::to_string), ids.len()))
        }
        Command::PurgeJob(ids) => {
            ("PurgeJob", first(ids.first().map(ToString::to_string), ids.len()))
        }
        Command::ChangeWorker(worker, intake) => {
            ("ChangeWorker", format!("{worker}: {}", intake.as_str()))
        }
        Command::ReportProgress(report) => {
            ("ReportProgress", format!("{}: {} %", report.job, report.percent))
        }
        Command::AddCron(add) => ("AddCron", format!("{}: {}", add.cron.name, add.cron.spec)),
        Command::ChangeCron(name, change, _) => {
            ("ChangeCron", format!("{name}: {}", describe_cron(*change)))
        }
        Command::FireCron(fires) => {
            ("FireCron", first(fires.first().map(|fire| fire.name.to_string()), fires.len()))
        }
    }
}

fn describe_cron(change: CronChange) -> String {
    match change {
        CronChange::Pause => "pause".into(),
        CronChange::Resume => "resume".into(),
        CronChange::Remove => "remove".into(),
        CronChange::Trigger(id) => format!("job {id} now"),
    }
}

fn describe_change(change: &QueueChange) -> String {
    match change {
        QueueChange::Pause => "pause".into(),
        QueueChange::Resume => "resume".into(),
        QueueChange::Drain => "drain".into(),
        QueueChange::Limit(None) => "no limit".into(),
        QueueChange::Limit(Some(limit)) => format!("at most {limit} at once"),
        QueueChange::Rate(None) => "no rate".into(),
        QueueChange::Rate(Some(rate)) => {
            format!("at most {} in {}", rate.count, in_words(rate.per_ms))
        }
    }
}

//! The verbs that ask about jobs or end them: `get`, `list`, `wait`, `cancel`.

use std::time::Duration;

use clap::Args;

use crate::cli::batch::worse;
use crate::cli::deadline::Deadline;
use crate::cli::exit::{Exit, Failure, Outcome, narrate};
use crate::cli::out::{Column, Out, Table, moment, or_nothing, plain};
use crate::cli::session::Session;
use crate::cli::shape::{CancelledShape, JobShape};
use crate::cli::submit::quote;
use crate::jobs::job::{Body, JobView, Status};
use crate::node::clock;
use crate::types::{JobId, QueueName, WorkerId};
use crate::wire::message::{Filter, LIST_JOBS_MAX};

/// Jobs asked for in one request of a wait or a cancel, at most, so that the answer with all their
/// outputs stays well below the limit of a frame.
const ASKED_AT_ONCE_MAX: usize = 128;

/// How long one request of a wait waits at the node, at most: well below the time that a request has.
const WAIT_STEP: Duration = Duration::from_secs(6);

/// The time from one such request to the next, at least, so that a node which answers at once without
/// an end is not asked in a storm.
const WAIT_PAUSE: Duration = Duration::from_millis(200);

/// Options of `get`.
#[derive(Clone, Debug, Args)]
pub struct GetArgs {
    /// The job.
    #[arg(value_name = "ID")]
    pub id: JobId,
}

/// Options of `list`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Example: what runs on node 2:\n  raftq list --status running --worker node-2"
)]
pub struct ListArgs {
    /// Only jobs that are pending, running, completed, failed or cancelled.
    #[arg(long, value_name = "STATUS", value_parser = status)]
    pub status: Option<Status>,

    /// Only jobs of this queue.
    #[arg(long, value_name = "Q")]
    pub queue: Option<QueueName>,

    /// Only jobs that this worker runs or ran last (node 2's own is node-2).
    #[arg(long, value_name = "W")]
    pub worker: Option<WorkerId>,

    /// At most so many.
    #[arg(long, value_name = "N", default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: u64,

    /// Only jobs after this one: the next page.
    #[arg(long, value_name = "ID")]
    pub after: Option<JobId>,
}

/// Options of `wait`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "A line for each job, in the order given. Exit code 0 if all completed, 8 if one\n\
    failed or was cancelled, 3 if one does not exist, 6 if --timeout came first."
)]
pub struct WaitArgs {
    /// The jobs.
    #[arg(value_name = "ID", required = true)]
    pub ids: Vec<JobId>,
}

/// Options of `cancel`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Prints the status each job has now. A running command is ended. Exit code 1 if a\n\
    job had ended before, 3 if one does not exist."
)]
pub struct CancelArgs {
    /// The jobs.
    #[arg(value_name = "ID", required = true)]
    pub ids: Vec<JobId>,
}

fn status(text: &str) -> Result<Status, String> {
    Status::ALL.into_iter().find(|status| status.as_str() == text).ok_or_else(|| {
        let known = Status::ALL.map(Status::as_str).join(", ");
        format!("no such status; one of {known}")
    })
}

/// Runs `get`.
///
/// # Errors
/// A [`Failure`], `NotFound` among them.
pub fn get(args: &GetArgs, session: &Session, out: &mut Out) -> Outcome {
    let job = session.get(args.id)?;
    if session.json() {
        out.json(&JobShape::from(&job))?;
    } else {
        describe(&job, out)?;
    }
    out.flush().map(|()| Exit::Ok)
}

/// Runs `list`, page by page.
///
/// # Errors
/// A [`Failure`] of a request or of stdout.
pub fn list(args: &ListArgs, session: &Session, out: &mut Out) -> Outcome {
    let mut after = args.after;
    let mut left = args.limit;
    let mut table = Table::new(&[
        Column::Left("ID"),
        Column::Left("QUEUE"),
        Column::Left("STATUS"),
        Column::Right("ATTEMPT"),
        Column::Left("WORKER"),
        Column::Right("EXIT"),
        Column::Left("CREATED"),
    ]);
    let mut is_first = true;
    loop {
        let page_max = u64::try_from(LIST_JOBS_MAX).unwrap_or(u64::MAX);
        let filter = Filter {
            status: args.status,
            queue: args.queue.clone(),
            worker: args.worker.clone(),
            after,
            limit: u32::try_from(left.min(page_max)).unwrap_or(u32::MAX),
        };
        let (jobs, more) = session.list(filter)?;
        for job in &jobs {
            if session.json() {
                out.json(&JobShape::from(job))?;
            } else {
                table.row(row(job));
            }
        }
        if !session.json() {
            table.write(out, is_first)?;
        }
        out.flush()?;
        is_first = false;
        left = left.saturating_sub(u64::try_from(jobs.len()).unwrap_or(u64::MAX));
        // A page without a job ends the list, whatever it says: there is no id to go on from.
        let (Some(last), true) = (jobs.last(), more) else { return Ok(Exit::Ok) };
        if left == 0 {
            narrate(&format!("raftq: there are more: add --after {} or raise --limit", last.id));
            return Ok(Exit::Ok);
        }
        after = Some(last.id);
    }
}

fn row(job: &JobView) -> Vec<String> {
    vec![
        job.id.to_string(),
        job.queue.to_string(),
        job.status.as_str().into(),
        job.attempt.to_string(),
        or_nothing(job.worker.as_ref()),
        or_nothing(job.exit_code),
        moment(job.created_ms),
    ]
}

/// Runs `wait`: prints each job once it and those before it have ended.
///
/// # Errors
/// A [`Failure`] of a request, of stdout, or that the time ran out.
pub fn wait(args: &WaitArgs, session: &Session, out: &mut Out) -> Outcome {
    let deadline = Deadline::after(session.limit());
    wait_for_all(session, &args.ids, deadline, |job| {
        if session.json() {
            out.json(&JobShape::from(job))?;
        } else {
            out.line(&describe_end(job))?;
        }
        out.flush()
    })
}

/// Waits for jobs in the order given and shows each as it is done. Jobs that do not exist are named
/// on stderr.
///
/// # Errors
/// A [`Failure`] of a request, of `show`, or that the time ran out.
pub fn wait_for_all(
    session: &Session,
    ids: &[JobId],
    deadline: Deadline,
    mut show: impl FnMut(&JobView) -> Result<(), Failure>,
) -> Outcome {
    let mut exit = Exit::Ok;
    for chunk in ids.chunks(ASKED_AT_ONCE_MAX) {
        for result in wait_for_chunk(session, chunk, deadline)? {
            match result {
                Ok(job) => {
                    show(&job)?;
                    if job.status != Status::Completed {
                        exit = worse(exit, Exit::JobFailed);
                    }
                }
                Err(failure) => {
                    failure.report();
                    exit = worse(failure.exit, exit);
                }
            }
        }
    }
    Ok(exit)
}

/// Waits for one job.
///
/// # Errors
/// A [`Failure`]: it does not exist, the request failed, or the time ran out.
pub fn wait_for_one(session: &Session, id: JobId, deadline: Deadline) -> Result<JobView, Failure> {
    let results = wait_for_chunk(session, &[id], deadline)?;
    let nothing =
        || Failure::new(Exit::Failure, format!("the node answered nothing about job {id}"));
    results.into_iter().next().ok_or_else(nothing)?
}

/// Waits for at most [`ASKED_AT_ONCE_MAX`] jobs. Once the cluster has answered, it goes on through
/// an outage until `deadline`; if it never answers, that is an error after one request's time.
fn wait_for_chunk(
    session: &Session,
    ids: &[JobId],
    deadline: Deadline,
) -> Result<Vec<Result<JobView, Failure>>, Failure> {
    let mut was_answered = session.was_answered();
    let mut was_told = false;
    loop {
        let begun = clock::monotonic();
        // A part of what is left: the answer has to come back in time, too.
        let step = deadline.left_at_most(WAIT_STEP * 3 / 2) * 2 / 3;
        match session.wait(ids, step) {
            Ok(results) => {
                was_answered = true;
                let open = results.iter().find_map(|result| match result {
                    Ok(job) if !job.status.is_final() => Some(job),
                    Ok(_) | Err(_) => None,
                });
                let Some(open) = open else { return Ok(results) };
                if deadline.has_passed() {
                    return Err(out_of_time(session, open));
                }
            }
            Err(failure) if failure.exit == Exit::Unreachable && was_answered => {
                if deadline.has_passed() {
                    return Err(failure);
                }
                if !was_told {
                    narrate(&format!("raftq: {}; still waiting", failure.message));
                    was_told = true;
                }
            }
            Err(failure) => return Err(failure),
        }
        let took = clock::monotonic().saturating_sub(begun);
        std::thread::sleep(deadline.left_at_most(WAIT_PAUSE.saturating_sub(took)));
    }
}

fn out_of_time(session: &Session, job: &JobView) -> Failure {
    let (id, program) = (job.id, session.program());
    let at = job.worker.as_ref().filter(|_| job.status == Status::Running);
    let at = at.map(|worker| format!(" on {worker}")).unwrap_or_default();
    Failure::new(
        Exit::Unknown,
        format!("the time is up and job {id} has not ended: it is {}{at}", job.status.as_str()),
    )
    .hint(format!("Wait on: {program} wait {id}"))
}

/// Runs `cancel`.
///
/// # Errors
/// A [`Failure`] of a request or of stdout.
pub fn cancel(args: &CancelArgs, session: &Session, out: &mut Out) -> Outcome {
    let mut exit = Exit::Ok;
    for chunk in args.ids.chunks(ASKED_AT_ONCE_MAX) {
        let results = session.cancel(chunk)?;
        for (&id, result) in chunk.iter().zip(results) {
            match result {
                Ok(status) => {
                    if session.json() {
                        out.json(&CancelledShape::new(id, status))?;
                    } else {
                        out.line(&format!("{id}  {}", status.as_str()))?;
                    }
                    if status.is_final() && status != Status::Cancelled {
                        narrate(&format!("raftq: job {id} had ended before: {}", status.as_str()));
                        exit = worse(exit, Exit::Failure);
                    }
                }
                Err(failure) => {
                    failure.report();
                    exit = worse(exit, failure.exit);
                }
            }
        }
        out.flush()?;
    }
    Ok(exit)
}

/// Says in a line how a job ended.
#[must_use]
pub fn describe_end(job: &JobView) -> String {
    let mut line = format!("{}  {}", job.id, job.status.as_str());
    if let Some(code) = job.exit_code {
        line.push_str(&format!("  exit code {code}"));
    }
    if let Some(error) = &job.error {
        line.push_str(&format!("  {}", plain(error)));
    }
    line
}

/// Writes everything about a job: a line a field, then its output.
fn describe(job: &JobView, out: &mut Out) -> Result<(), Failure> {
    let body = job.body.as_ref().map(|body| match body {
        Body::Command(words) => words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" "),
        Body::Payload(bytes) => format!("{} bytes of payload", bytes.len()),
    });
    let fields = [
        ("id", job.id.to_string()),
        ("queue", job.queue.to_string()),
        ("status", job.status.as_str().into()),
        ("attempt", job.attempt.to_string()),
        ("worker", or_nothing(job.worker.as_ref())),
        ("fence", or_nothing(job.fence)),
        ("exit code", or_nothing(job.exit_code)),
        ("error", job.error.clone().unwrap_or_default()),
        ("created", moment(job.created_ms)),
        ("started", job.started_ms.map(moment).unwrap_or_default()),
        ("finished", job.finished_ms.map(moment).unwrap_or_default()),
        ("job", body.unwrap_or_default()),
    ];
    for (name, value) in fields {
        if !value.is_empty() {
            out.line(&format!("{name:<10} {}", plain(&value)))?;
        }
    }
    if !job.output.is_empty() {
        let cut = if job.output_cut { " (its last 16 KiB)" } else { "" };
        out.line(&format!("output{cut}:"))?;
        for line in String::from_utf8_lossy(&job.output).lines() {
            let shown: String =
                line.chars().map(|c| if c.is_control() && c != '\t' { '?' } else { c }).collect();
            out.line(&format!("  {shown}"))?;
        }
    }
    Ok(())
}

//! The verbs that ask about jobs or end them: `get`, `list`, `wait`, `cancel`.

use std::time::Duration;

use clap::Args;

use crate::cli::deadline::Deadline;
use crate::cli::exit::{Exit, Failure, Outcome, narrate, worse};
use crate::cli::list_watch;
use crate::cli::out::{Column, Out, Table, moment, or_nothing, plain};
use crate::cli::reads::{ReadArgs, Seen};
use crate::cli::session::{REQUEST_TIME, Session};
use crate::cli::shape::{ChangedShape, FailedShape, JobShape};
use crate::cli::show;
use crate::cli::times;
use crate::cli::values;
use crate::jobs::find;
use crate::jobs::job::{JobView, Status};
use crate::node::clock;
use crate::types::{JobId, Millis, QueueName, Tag, WorkerId};
use crate::wire::message::{Filter, LIST_JOBS_MAX};

/// Jobs asked for in one request of a wait or a cancel, at most, so that the answer with all their
/// outputs stays well below the limit of a frame.
pub const ASKED_AT_ONCE_MAX: usize = 128;

/// How long one request of a wait waits at the node, at most: well below the time that a request has.
const WAIT_STEP: Duration = Duration::from_secs(6);

/// The time from one such request to the next, at least, so that a node which answers at once without
/// an end is not asked in a storm.
const WAIT_PAUSE: Duration = Duration::from_millis(200);

/// A request of a wait that had less time than this says nothing of the cluster when it fails: the end of
/// the time was near.
const OUTAGE_TOLD: Duration = Duration::from_millis(500);

/// What is said when `--timeout` came before anything was seen of a job.
const TIME_IS_UP: &str = "the time is up";

/// Options of `get`.
#[derive(Clone, Debug, Args)]
pub struct GetArgs {
    /// The job.
    #[arg(value_name = "ID")]
    pub id: JobId,

    /// How it is read.
    #[command(flatten)]
    pub reads: ReadArgs,
}

/// Options of `list`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Examples: what runs on node 2; what was submitted in the last ten minutes to make thumbnails:\n  \
    raftq list --status running --worker node-2\n  raftq list --since 10m --text thumbnail\n\
    Each page is read as of one moment, several together are not."
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

    /// Only jobs that ask for this tag of a worker.
    #[arg(long, value_name = "T")]
    pub tag: Option<Tag>,

    /// Only jobs with this text in their command, or in a payload that is UTF-8; upper and lower case are alike.
    #[arg(long, value_name = "TEXT", value_parser = text)]
    pub text: Option<String>,

    /// Only jobs submitted then or later: 10m (ago), 10:00 (the last such time), or a time as submit --at takes it.
    #[arg(long, value_name = "TIME", value_parser = times::past_here)]
    #[arg(allow_hyphen_values = true)]
    pub since: Option<Millis>,

    /// Only jobs submitted then or earlier.
    #[arg(long, value_name = "TIME", value_parser = times::past_here)]
    #[arg(allow_hyphen_values = true)]
    pub until: Option<Millis>,

    /// At most so many.
    #[arg(long, value_name = "N", default_value_t = 100)]
    #[arg(value_parser = values::count, allow_negative_numbers = true)]
    pub limit: u64,

    /// Only jobs after this one: the next page.
    #[arg(long, value_name = "ID")]
    pub after: Option<JobId>,

    /// List them anew every second, until ctrl-c: in place at a terminal, elsewhere one table after the other.
    #[arg(long)]
    pub watch: bool,

    /// How it is read.
    #[command(flatten)]
    pub reads: ReadArgs,
}

/// Options of `wait`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "A line for each job, in the order given, when they have ended or --timeout has come.\n\
    Exit code 0 if all completed, 8 if one failed or was cancelled, 3 if one does not exist (its line\n\
    says so, and stderr why), 6 if --timeout came before one had ended, 4 if no node could be asked\n\
    (stderr names the jobs whose end was not seen). Of several jobs, the first of 6, 7, 4, 2, 3, 1, 8\n\
    that holds for any."
)]
pub struct WaitArgs {
    /// The jobs.
    #[arg(value_name = "ID", required = true)]
    pub ids: Vec<JobId>,
}

/// Options of `cancel`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "A line for each job, in the order given: `cancelled`, or that it was not; stderr says why.\n\
    A running command is ended. Exit code 1 if a job had ended before, 3 if one does not exist, 6 if\n\
    nobody knows whether one was cancelled. Of several jobs, the first of 6, 7, 4, 2, 3, 1 that holds\n\
    for any."
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
    let job = args.reads.job(args.id, session)?;
    if session.json() {
        out.json(&JobShape::whole(&job))?;
    } else {
        describe(&job, out)?;
    }
    out.flush().map(|()| Exit::Ok)
}

/// The table of a list.
#[must_use]
pub fn table() -> Table {
    Table::new(&[
        Column::Left("ID"),
        Column::Left("QUEUE"),
        Column::Left("STATUS"),
        Column::Right("ATTEMPT"),
        Column::Left("WORKER"),
        Column::Right("EXIT"),
        Column::Right("DONE"),
        Column::Left("CREATED"),
    ])
}

/// Runs `list`, page by page.
///
/// # Errors
/// A [`Failure`] of a request or of stdout.
pub fn list(args: &ListArgs, session: &Session, out: &mut Out) -> Outcome {
    if args.watch {
        return list_watch::run(args, session, out);
    }
    let mut table = table();
    let mut is_first = true;
    let next = pages(args, args.limit, session, |jobs| {
        for job in jobs {
            if session.json() {
                out.json(&JobShape::from(job))?;
            } else {
                table.row(row(job));
            }
        }
        if !session.json() {
            table.write(out, is_first)?;
        }
        is_first = false;
        out.flush()
    })?;
    if let Some(next) = next {
        narrate(&format!("raftq: there are more: add --after {next} or raise --limit"));
    }
    Ok(Exit::Ok)
}

/// Asks for jobs, at most `limit`, and hands them on page by page: at least one page, with or without jobs, and later
/// ones that have some. Returns where to go on, if there may be more.
///
/// # Errors
/// A [`Failure`] of a request, or of `each`.
pub fn pages(
    args: &ListArgs,
    limit: u64,
    session: &Session,
    mut each: impl FnMut(&[JobView]) -> Result<(), Failure>,
) -> Result<Option<JobId>, Failure> {
    let page_max = u64::try_from(LIST_JOBS_MAX).unwrap_or(u64::MAX);
    let (mut after, mut left) = (args.after, limit);
    let mut is_first = true;
    let mut seen = Seen::default();
    let next = loop {
        let filter = Filter {
            status: args.status,
            queue: args.queue.clone(),
            worker: args.worker.clone(),
            after,
            limit: u32::try_from(left.min(page_max)).unwrap_or(u32::MAX),
            tag: args.tag.clone(),
            text: args.text.clone(),
            since_ms: args.since,
            until_ms: args.until,
        };
        let page = args.reads.page(filter, session)?;
        seen.note(page.index);
        if is_first || !page.jobs.is_empty() {
            each(&page.jobs)?;
        }
        is_first = false;
        left = left.saturating_sub(u64::try_from(page.jobs.len()).unwrap_or(u64::MAX));
        // A page that leads no further ends the list, whatever it says.
        let leads_on = page.next.filter(|next| after.is_none_or(|after| *next > after));
        if leads_on.is_none() || left == 0 {
            break leads_on;
        }
        after = leads_on;
    };
    args.reads.tell(seen);
    Ok(next)
}

fn text(text: &str) -> Result<String, String> {
    find::fault(text).map_or_else(|| Ok(text.to_owned()), Err)
}

/// Makes the row of a job.
#[must_use]
pub fn row(job: &JobView) -> Vec<String> {
    vec![
        job.id.to_string(),
        job.queue.to_string(),
        job.status.as_str().into(),
        job.attempt.to_string(),
        or_nothing(job.worker.as_ref()),
        or_nothing(job.exit_code),
        or_nothing(job.progress.as_ref().map(|it| format!("{} %", it.percent))),
        moment(job.created_ms),
    ]
}

/// Runs `wait`: prints the jobs in the order given when they have ended.
///
/// # Errors
/// A [`Failure`] of a request, of stdout, or that the time ran out.
pub fn wait(args: &WaitArgs, session: &Session, out: &mut Out) -> Outcome {
    let deadline = Deadline::after(session.limit());
    let mut shown = 0;
    let mut seen = Exit::Ok;
    let waited = wait_for_all(session, &args.ids, deadline, |id, result| {
        match result {
            Ok(job) => {
                if is_open(job) {
                    out_of_time(session, job).report();
                }
                if session.json() {
                    out.json(&JobShape::from(job))?;
                } else {
                    out.line(&describe_end(job))?;
                }
            }
            Err(failure) => show_failed(id, failure, "refused", session, out)?,
        }
        seen = worse(seen, exit_after(result));
        out.flush()?;
        shown += 1;
        Ok(())
    });
    waited.map_err(|failure| {
        if args.ids.len() > 1 {
            for id in args.ids.iter().skip(shown) {
                narrate(&format!("raftq: job {id}: its end was not seen"));
            }
        }
        Failure { exit: worse(seen, failure.exit), ..failure }
    })
}

/// Shows a job about which there is nothing but a failure: a line or an object of its own on stdout, the
/// reason on stderr. `refused` is the word where no better one is known.
///
/// # Errors
/// A [`Failure`] of stdout.
pub fn show_failed(
    id: JobId,
    failure: &Failure,
    refused: &str,
    session: &Session,
    out: &mut Out,
) -> Result<(), Failure> {
    narrate(&format!("raftq: job {id}: {}", failure.message));
    if session.json() {
        return out.json(&FailedShape::new(id, failure));
    }
    let word = match failure.exit {
        Exit::NotFound => "not found",
        Exit::Unknown => "unknown",
        Exit::Ok
        | Exit::Failure
        | Exit::Usage
        | Exit::Unreachable
        | Exit::Unhealthy
        | Exit::Denied
        | Exit::JobFailed
        | Exit::Interrupted
        | Exit::Terminated => refused,
    };
    out.line(&format!("{id}  {word}"))
}

/// Returns the exit code that a job which was waited for leads to.
fn exit_after(result: Result<&JobView, &Failure>) -> Exit {
    match result {
        Ok(job) if job.status == Status::Completed => Exit::Ok,
        Ok(job) if is_open(job) => Exit::Unknown,
        Ok(_) => Exit::JobFailed,
        Err(failure) => failure.exit,
    }
}

/// Waits for jobs in the order given and hands each to `show` as it is done, or what went wrong with it:
/// exactly once for each id, in order, until the first error. A job that is shown and has not ended was
/// last seen so when the time was up.
///
/// # Errors
/// A [`Failure`] of a request, of `show`, or that the time was up before anything was seen.
pub fn wait_for_all(
    session: &Session,
    ids: &[JobId],
    deadline: Deadline,
    mut show: impl FnMut(JobId, Result<&JobView, &Failure>) -> Result<(), Failure>,
) -> Outcome {
    let mut exit = Exit::Ok;
    for chunk in ids.chunks(ASKED_AT_ONCE_MAX) {
        if deadline.has_passed() {
            return Err(Failure::new(Exit::Unknown, TIME_IS_UP));
        }
        let results = wait_for_chunk(session, chunk, deadline)?;
        for (id, result) in chunk.iter().zip(&results) {
            show(*id, result.as_ref())?;
            exit = worse(exit, exit_after(result.as_ref()));
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
    let job = results.into_iter().next().ok_or_else(nothing)??;
    if job.status.is_final() { Ok(job) } else { Err(out_of_time(session, &job)) }
}

/// Waits for at most [`ASKED_AT_ONCE_MAX`] jobs until all have ended, or returns them as they were last
/// seen when `deadline` comes; no request goes on beyond it. Once the cluster has answered, it goes
/// on through an outage; if it never answers, that is an error after one request's time.
fn wait_for_chunk(
    session: &Session,
    ids: &[JobId],
    deadline: Deadline,
) -> Result<Vec<Result<JobView, Failure>>, Failure> {
    let was_answered = session.was_answered();
    let mut was_told = false;
    // The first look does not wait, so that something is known even if an outage takes the rest.
    let mut step = Duration::ZERO;
    let mut last_seen = None;
    loop {
        let begun = clock::monotonic();
        let limit = deadline.left_at_most(step + REQUEST_TIME);
        let late = match session.wait(ids, step, limit) {
            Ok(results) => {
                if !results.iter().any(may_end) {
                    return Ok(results);
                }
                last_seen = Some(results);
                None
            }
            Err(failure)
                if failure.exit == Exit::Unreachable && (was_answered || last_seen.is_some()) =>
            {
                if !was_told && limit >= OUTAGE_TOLD {
                    narrate(&format!("raftq: {}; still waiting", failure.message));
                    was_told = true;
                }
                Some(failure)
            }
            Err(failure) => return Err(failure),
        };
        let took = clock::monotonic().saturating_sub(begun);
        std::thread::sleep(deadline.left_at_most(WAIT_PAUSE.saturating_sub(took)));
        if deadline.has_passed() {
            let nothing = || late.unwrap_or_else(|| Failure::new(Exit::Unknown, TIME_IS_UP));
            return last_seen.ok_or_else(nothing);
        }
        // A part of what is left: the answer has to come back in time, even if a leader has to be
        // found first.
        step = deadline.left_at_most(WAIT_STEP * 3) / 3;
    }
}

fn is_open(job: &JobView) -> bool {
    !job.status.is_final()
}

/// Tells whether asking again may bring something new.
fn may_end(result: &Result<JobView, Failure>) -> bool {
    result.as_ref().map_or_else(|failure| failure.exit == Exit::Unreachable, is_open)
}

/// Says that a job had not ended when the time was up.
#[must_use]
pub fn out_of_time(session: &Session, job: &JobView) -> Failure {
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
    for (at, chunk) in args.ids.chunks(ASKED_AT_ONCE_MAX).enumerate() {
        let results = session.cancel(chunk).map_err(|failure| {
            let unsent = args.ids.iter().skip(at * ASKED_AT_ONCE_MAX + chunk.len());
            name_uncancelled(chunk, unsent, &failure, session);
            Failure { exit: worse(exit, failure.exit), ..failure }
        })?;
        for (&id, result) in chunk.iter().zip(results) {
            match result {
                Ok(status) => {
                    if session.json() {
                        out.json(&ChangedShape::new(id, status.as_str()))?;
                    } else {
                        out.line(&format!("{id}  {}", status.as_str()))?;
                    }
                    if status.is_final() && status != Status::Cancelled {
                        narrate(&format!("raftq: job {id} had ended before: {}", status.as_str()));
                        exit = worse(exit, Exit::Failure);
                    }
                }
                Err(failure) => {
                    show_failed(id, &failure, "not cancelled", session, out)?;
                    exit = worse(exit, failure.exit);
                }
            }
        }
        out.flush()?;
    }
    Ok(exit)
}

/// Says of each job what a request that failed as a whole means for it.
fn name_uncancelled<'a>(
    sent: &[JobId],
    unsent: impl Iterator<Item = &'a JobId>,
    failure: &Failure,
    session: &Session,
) {
    let program = session.program();
    for id in sent {
        if failure.exit == Exit::Unknown {
            narrate(&format!(
                "raftq: job {id}: it is unknown whether it was cancelled; ask: {program} get {id}"
            ));
        } else if sent.len() > 1 {
            narrate(&format!("raftq: job {id}: not cancelled"));
        }
    }
    for id in unsent {
        narrate(&format!("raftq: job {id}: not cancelled, for nothing more was sent"));
    }
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
        ("waits", job.held_ms.map(|at| format!("until {}", moment(at))).unwrap_or_default()),
        ("progress", show::progress_in_words(job)),
        ("job", show::body_in_words(job)),
    ];
    for (name, value) in fields.into_iter().chain(show::asks_in_words(job)) {
        if !value.is_empty() {
            out.line(&format!("{name:<10} {}", plain(&value)))?;
        }
    }
    if !job.past.is_empty() {
        out.line("what happened:")?;
        for (at, what) in show::in_words(job) {
            out.line(&format!("  {at:<24}  {}", plain(&what)))?;
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

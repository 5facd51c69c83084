//! The verb `dead`: jobs that failed, to be looked at, tried again or forgotten.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::cli::exit::{Exit, Failure, Outcome, narrate, worse};
use crate::cli::jobs::{ASKED_AT_ONCE_MAX, show_failed};
use crate::cli::out::{Column, Out, Table, moment};
use crate::cli::progress::Progress;
use crate::cli::session::{REQUEST_TIME, Session};
use crate::cli::shape::{ChangedShape, JobShape, Number};
use crate::cli::{show, values};
use crate::jobs::job::{JobView, Status};
use crate::types::{JobId, QueueName};
use crate::wire::message::{Filter, LIST_JOBS_MAX};

/// Characters of an error in a list; `dead show` has all.
const ERROR_CHARS_MAX: usize = 64;

/// Options of `dead`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:\n  raftq dead list                     what failed, and why\n  \
    raftq dead show ID                  attempt by attempt\n  \
    raftq dead retry ID                 try it again, with all its retries\n  \
    raftq dead retry --all --queue mail all of a queue\n  \
    raftq dead purge --all              forget every job that failed\n\n\
    Only jobs that failed are touched: what completed, was cancelled, waits or runs is refused.")]
pub struct DeadArgs {
    /// What to do.
    #[command(subcommand)]
    pub verb: DeadVerb,
}

/// The verbs of `dead`.
#[derive(Clone, Debug, Subcommand)]
pub enum DeadVerb {
    /// List jobs that failed, oldest first.
    List(DeadListArgs),
    /// Show what happened to one of them, attempt by attempt.
    Show(DeadShowArgs),
    /// Try jobs again: they wait in their old place, with as many attempts as at first.
    #[command(override_usage = "raftq dead retry ID...\n       raftq dead retry --all [--queue Q]")]
    Retry(PickArgs),
    /// Forget jobs, with what they printed.
    #[command(override_usage = "raftq dead purge ID...\n       raftq dead purge --all [--queue Q]")]
    Purge(PickArgs),
}

/// Options of `dead list`.
#[derive(Clone, Debug, Args)]
pub struct DeadListArgs {
    /// Only jobs of this queue.
    #[arg(long, value_name = "Q")]
    pub queue: Option<QueueName>,

    /// At most so many.
    #[arg(long, value_name = "N", default_value_t = 100)]
    #[arg(value_parser = values::count, allow_negative_numbers = true)]
    pub limit: u64,

    /// Only jobs after this one: the next page.
    #[arg(long, value_name = "ID")]
    pub after: Option<JobId>,
}

/// Options of `dead show`.
#[derive(Clone, Debug, Args)]
pub struct DeadShowArgs {
    /// The job.
    #[arg(value_name = "ID")]
    pub id: JobId,
}

/// Options of `dead retry` and `dead purge`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "With IDs a line for each job, in the order given; stderr says why one was left as it is. Exit\n\
    code 1 if a job had not failed, 3 if one does not exist, 6 if nobody knows what became of one.\n\
    With --all the number of jobs, alone. What fails meanwhile may be among them."
)]
pub struct PickArgs {
    /// The jobs.
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    pub ids: Vec<JobId>,

    /// Every job that failed.
    #[arg(long)]
    pub all: bool,

    /// With --all: only those of this queue.
    #[arg(long, value_name = "Q", requires = "all")]
    pub queue: Option<QueueName>,
}

impl DeadArgs {
    /// Tells whether the verb only shows what can be shown again.
    #[must_use]
    pub fn is_shown(&self) -> bool {
        match self.verb {
            DeadVerb::List(_) | DeadVerb::Show(_) => true,
            DeadVerb::Retry(_) | DeadVerb::Purge(_) => false,
        }
    }
}

/// What is done with jobs that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Retry,
    Purge,
}

impl Deed {
    fn send(self, ids: &[JobId], session: &Session) -> Result<Vec<Result<(), Failure>>, Failure> {
        match self {
            Self::Retry => session.retry(ids),
            Self::Purge => session.purge(ids),
        }
    }

    /// What a job is then.
    fn word(self) -> &'static str {
        match self {
            Self::Retry => "pending",
            Self::Purge => "purged",
        }
    }

    /// What was not done.
    fn not_done(self) -> &'static str {
        match self {
            Self::Retry => "not retried",
            Self::Purge => "not purged",
        }
    }

    fn done(self) -> &'static str {
        match self {
            Self::Retry => "retried",
            Self::Purge => "purged",
        }
    }
}

/// Runs `dead`.
///
/// # Errors
/// A [`Failure`] of a request or of stdout.
pub fn run(args: &DeadArgs, session: &Session, out: &mut Out) -> Outcome {
    match &args.verb {
        DeadVerb::List(args) => list(args, session, out),
        DeadVerb::Show(args) => {
            let job = session.get(args.id)?;
            if job.status != Status::Failed {
                let failure = not_dead(&job, session);
                let message = format!("job {}: {}", job.id, failure.message);
                return Err(Failure { message, ..failure });
            }
            show::show(&job, session, out)
        }
        DeadVerb::Retry(args) => pick(Deed::Retry, args, session, out),
        DeadVerb::Purge(args) => pick(Deed::Purge, args, session, out),
    }
}

fn pick(deed: Deed, args: &PickArgs, session: &Session, out: &mut Out) -> Outcome {
    if args.all {
        return all(deed, args.queue.as_ref(), session, out);
    }
    named(deed, &args.ids, session, out)
}

fn list(args: &DeadListArgs, session: &Session, out: &mut Out) -> Outcome {
    let mut table = Table::new(&[
        Column::Left("ID"),
        Column::Left("QUEUE"),
        Column::Right("ATTEMPTS"),
        Column::Left("FAILED"),
        Column::Left("ERROR"),
    ]);
    let (mut after, mut left, mut is_first) = (args.after, args.limit, true);
    loop {
        let (jobs, more) = page(args.queue.as_ref(), after, left, session)?;
        for job in &jobs {
            if session.json() {
                out.json(&JobShape::from(job))?;
            } else {
                table.row(vec![
                    job.id.to_string(),
                    job.queue.to_string(),
                    job.attempt.to_string(),
                    job.finished_ms.map(moment).unwrap_or_default(),
                    cut(job.error.as_deref().unwrap_or_default()),
                ]);
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

/// Asks for the next jobs that failed, at most so many, and whether there are more.
fn page(
    queue: Option<&QueueName>,
    after: Option<JobId>,
    limit: u64,
    session: &Session,
) -> Result<(Vec<JobView>, bool), Failure> {
    let page_max = u64::try_from(LIST_JOBS_MAX).unwrap_or(u64::MAX);
    session.list(Filter {
        status: Some(Status::Failed),
        queue: queue.cloned(),
        after,
        limit: u32::try_from(limit.min(page_max)).unwrap_or(u32::MAX),
        ..Filter::default()
    })
}

/// Cuts an error to what a list shows of it: one line, and not too long.
fn cut(error: &str) -> String {
    let line = error.lines().next().unwrap_or_default();
    let shown: String = line.chars().take(ERROR_CHARS_MAX).collect();
    if shown.len() < error.trim_end().len() { format!("{shown}~") } else { shown }
}

fn not_dead(job: &JobView, session: &Session) -> Failure {
    let (id, status) = (job.id, job.status.as_str());
    let failure = Failure::new(Exit::Failure, format!("it is {status}, and has not failed"));
    failure.hint(format!("What it is about: {} show {id}", session.program()))
}

/// Does it to the jobs named, in order, but for those that have not failed: the nodes would take back what was
/// cancelled and forget whatever has ended.
fn named(deed: Deed, ids: &[JobId], session: &Session, out: &mut Out) -> Outcome {
    let mut exit = Exit::Ok;
    for (at, chunk) in ids.chunks(ASKED_AT_ONCE_MAX).enumerate() {
        let stopped = |failure: Failure, exit: Exit| {
            let rest = ids.get(at * ASKED_AT_ONCE_MAX..).unwrap_or_default();
            name_undone(deed, chunk.len(), rest, &failure, session);
            Failure { exit: worse(exit, failure.exit), ..failure }
        };
        // A look changes nothing, so that a failure of it is none of these jobs'.
        let looks = session
            .wait(chunk, Duration::ZERO, session.limit().unwrap_or(REQUEST_TIME))
            .map_err(|failure| stopped(failure, exit))?;
        let failed = |look: &Result<JobView, Failure>| {
            look.as_ref().is_ok_and(|job| job.status == Status::Failed)
        };
        let picked: Vec<JobId> =
            chunk.iter().zip(&looks).filter_map(|(id, look)| failed(look).then_some(*id)).collect();
        let results = if picked.is_empty() {
            Vec::new()
        } else {
            deed.send(&picked, session).map_err(|failure| stopped(failure, exit))?
        };
        let mut results = results.into_iter();
        for (&id, look) in chunk.iter().zip(looks) {
            let result = match look {
                Ok(job) if job.status != Status::Failed => Err(not_dead(&job, session)),
                Ok(_) => results.next().unwrap_or_else(|| {
                    Err(Failure::new(Exit::Failure, "the node answered nothing about it"))
                }),
                Err(failure) => Err(failure),
            };
            exit = worse(exit, tell(deed, id, &result, session, out)?);
        }
        out.flush()?;
    }
    Ok(exit)
}

/// Prints what became of a job, and returns the exit code that it leads to.
fn tell(
    deed: Deed,
    id: JobId,
    result: &Result<(), Failure>,
    session: &Session,
    out: &mut Out,
) -> Result<Exit, Failure> {
    match result {
        Ok(()) if session.json() => out.json(&ChangedShape::new(id, deed.word()))?,
        Ok(()) => out.line(&format!("{id}  {}", deed.word()))?,
        Err(failure) => {
            show_failed(id, failure, deed.not_done(), session, out)?;
            return Ok(failure.exit);
        }
    }
    Ok(Exit::Ok)
}

/// Says of each job what a request that failed as a whole means for it; the first `sent` were in it.
fn name_undone(deed: Deed, sent: usize, ids: &[JobId], failure: &Failure, session: &Session) {
    let (program, done, not_done) = (session.program(), deed.done(), deed.not_done());
    for (at, id) in ids.iter().enumerate() {
        if at >= sent {
            narrate(&format!("raftq: job {id}: {not_done}, for nothing more was sent"));
        } else if failure.exit == Exit::Unknown {
            narrate(&format!(
                "raftq: job {id}: it is unknown whether it was {done}; ask: {program} get {id}"
            ));
        } else if ids.len() > 1 {
            narrate(&format!("raftq: job {id}: {not_done}"));
        }
    }
}

fn counted(jobs: u64) -> String {
    if jobs == 1 { "1 job".into() } else { format!("{jobs} jobs") }
}

/// The object of a deed with `--all`.
#[derive(Serialize)]
struct CountShape {
    #[serde(skip_serializing_if = "Option::is_none")]
    retried: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    purged: Option<Number>,
    left: Number,
}

/// Does it to every job that failed, page by page; each is listed first, and once.
fn all(deed: Deed, queue: Option<&QueueName>, session: &Session, out: &mut Out) -> Outcome {
    let (mut done, mut left, mut exit) = (0u64, 0u64, Exit::Ok);
    let mut progress = Progress::default();
    let mut after = None;
    loop {
        let far = |failure: Failure, exit: Exit| {
            let (jobs, did) = (counted(done), deed.done());
            let so_far = format!("{jobs} {did}, and then: {}", failure.message);
            let look = format!(
                "The same command goes on with the rest. Look: {} dead list",
                session.program()
            );
            Failure { exit: worse(exit, failure.exit), message: so_far, ..failure }.hint(look)
        };
        let (jobs, more) =
            page(queue, after, u64::MAX, session).map_err(|failure| far(failure, exit))?;
        let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
        let Some(&last) = ids.last() else { break };
        let results = deed.send(&ids, session).map_err(|failure| far(failure, exit))?;
        for (id, result) in ids.iter().zip(results) {
            match result {
                Ok(()) => done += 1,
                Err(failure) => {
                    left += 1;
                    exit = worse(exit, failure.exit);
                    progress.remark(&format!("job {id}: {}: {}", deed.not_done(), failure.message));
                }
            }
        }
        progress.show(&format!("{} {} so far", counted(done), deed.done()));
        if !more {
            break;
        }
        after = Some(last);
    }
    drop(progress);
    if session.json() {
        let (retried, purged) = match deed {
            Deed::Retry => (Some(Number(done)), None),
            Deed::Purge => (None, Some(Number(done))),
        };
        out.json(&CountShape { retried, purged, left: Number(left) })?;
    } else {
        out.line(&done.to_string())?;
    }
    out.flush()?;
    Ok(exit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_in_a_list_is_one_short_line() {
        assert_eq!(cut("exit code 3"), "exit code 3");
        assert_eq!(cut("exit code 3\n"), "exit code 3");
        assert_eq!(cut("no such file\nsecond line"), "no such file~");
        assert_eq!(cut(&"x".repeat(65)), format!("{}~", "x".repeat(64)));
        assert_eq!(cut(&"é".repeat(64)), "é".repeat(64));
        assert_eq!(cut(""), "");
    }
}

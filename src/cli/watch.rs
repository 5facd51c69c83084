//! The verb `watch`: every change in order, a line each, to be gone on from on any node.

use clap::Args;
use serde::Serialize;

use crate::cli::exit::{Exit, Outcome, narrate};
use crate::cli::out::{Out, moment, plain};
use crate::cli::session::Session;
use crate::cli::shape::Number;
use crate::cli::values;
use crate::client::watch::From;
use crate::jobs::change::{Change, Event, Position};
use crate::jobs::rules::{QueueChange, in_words};
use crate::types::{JobId, QueueName};

const EXAMPLES: &str = "\
Examples:
  raftq watch                          what happens from now on
  raftq watch --from oldest            and what the node asked still knows of before
  raftq watch --from 1042.3            what came right after the line 1042.3, on any node
  raftq watch --queue mail --json

A line begins with its position INDEX.N: the Nth change of the log's entry INDEX, the same on every node.
A node keeps the newest changes in memory (node --history, 32MiB by default: some 200,000); after a restart
it has those since its snapshot. What no node has any more is an error that names the first there is.";

/// Options of `watch`.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct WatchArgs {
    /// Where to begin: behind this line (1042.3), with all of an entry (1042), or oldest [default: now].
    #[arg(long, value_name = "POSITION", value_parser = begin)]
    pub from: Option<Begin>,

    /// Only what concerns this queue.
    #[arg(long, value_name = "QUEUE")]
    pub queue: Option<QueueName>,

    /// Only what concerns this job.
    #[arg(long, value_name = "ID")]
    pub job: Option<JobId>,

    /// End after so many lines.
    #[arg(long, value_name = "N", value_parser = values::count, allow_negative_numbers = true)]
    pub limit: Option<u64>,
}

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// With the oldest change there is.
    Oldest,
    /// Behind this place.
    After(Position),
}

fn begin(text: &str) -> Result<Begin, String> {
    match text {
        "oldest" => Ok(Begin::Oldest),
        _ => text.parse().map(Begin::After).map_err(|error| format!("{error}; or oldest")),
    }
}

/// Runs `watch`. It ends when its reader is gone, after `--limit` lines, or when going on would leave a gap.
///
/// # Errors
/// A [`crate::cli::exit::Failure`] of the request or of stdout. With `--timeout`, of a cluster that does not answer for so long.
pub fn run(args: &WatchArgs, session: &Session, out: &mut Out) -> Outcome {
    let from = match args.from {
        None => From::Now,
        Some(Begin::Oldest) => From::Oldest,
        Some(Begin::After(position)) => From::After(position),
    };
    let mut watcher = session.watch(from);
    if let Some(queue) = &args.queue {
        watcher = watcher.queue(queue.clone());
    }
    if let Some(job) = args.job {
        watcher = watcher.job(job);
    }
    let mut left = args.limit.unwrap_or(u64::MAX);
    while left > 0 {
        let events = match session.watched(&mut watcher) {
            Ok(events) => events,
            Err(failure) if failure.exit == Exit::Unreachable && session.limit().is_none() => {
                narrate(&format!("{failure}; trying on"));
                continue;
            }
            Err(failure) if failure.exit == Exit::Failure => {
                let program = session.program();
                return Err(
                    failure.hint(format!("From the first there is: {program} watch --from oldest"))
                );
            }
            Err(failure) => return Err(failure),
        };
        for event in events.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
            match session.json() {
                true => out.json(&EventShape::from(event))?,
                false => out.line(&line(event))?,
            }
            left -= 1;
        }
        out.flush()?;
    }
    Ok(Exit::Ok)
}

/// A change: one object of `watch`.
#[derive(Debug, Serialize)]
struct EventShape<'a> {
    position: String,
    index: Number,
    n: u32,
    now_ms: Number,
    what: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fence: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    held_ms: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
}

impl<'a> std::convert::From<&'a Event> for EventShape<'a> {
    fn from(event: &'a Event) -> Self {
        let Event { position, now_ms, change } = event;
        Self {
            position: position.to_string(),
            index: Number(position.index.0),
            n: position.n,
            now_ms: Number(now_ms.0),
            what: change.what.as_str(),
            job: change.job.map(|job| job.to_string()),
            queue: change.queue.as_ref().map(QueueName::as_str),
            attempt: change.attempt,
            priority: change.priority,
            worker: change.worker.as_ref().map(crate::types::WorkerId::as_str),
            fence: change.fence.map(|fence| Number(fence.0)),
            exit_code: change.exit_code,
            error: change.error.as_deref(),
            held_ms: change.held_ms.map(|at| Number(at.0)),
            rule: change.rule.as_ref().map(rule_in_words),
        }
    }
}

/// Writes a change for people: `1042.3  2026-11-27T05:46:01.250Z  assigned  0193... queue=mail attempt=1 ...`.
fn line(event: &Event) -> String {
    let Event { position, now_ms, change } = event;
    let Change { what, job, queue, attempt, priority, worker, fence, .. } = change;
    let mut words = vec![
        format!("{:<10}", position.to_string()),
        moment(*now_ms),
        format!("{:<9}", what.as_str()),
    ];
    words.extend(job.map(|job| job.to_string()));
    let mut word = |key: &str, value: Option<String>| {
        words.extend(value.map(|value| format!("{key}={}", plain(&value))));
    };
    word("queue", queue.as_ref().map(ToString::to_string));
    word("attempt", attempt.map(|attempt| attempt.to_string()));
    word("priority", priority.map(|priority| priority.to_string()));
    word("worker", worker.as_ref().map(ToString::to_string));
    word("fence", fence.map(|fence| fence.to_string()));
    word("exit", change.exit_code.map(|code| code.to_string()));
    word("until", change.held_ms.map(moment));
    word("rule", change.rule.as_ref().map(rule_in_words));
    word("error", change.error.as_ref().map(|error| format!("{error:?}")));
    words.join(" ")
}

fn rule_in_words(change: &QueueChange) -> String {
    match change {
        QueueChange::Pause => "pause".into(),
        QueueChange::Resume => "resume".into(),
        QueueChange::Drain => "drain".into(),
        QueueChange::Limit(None) => "limit none".into(),
        QueueChange::Limit(Some(limit)) => format!("limit {limit}"),
        QueueChange::Rate(None) => "rate none".into(),
        QueueChange::Rate(Some(rate)) => format!("rate {}/{}", rate.count, in_words(rate.per_ms)),
    }
}

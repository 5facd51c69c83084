//! The verb `show`: what happened to one job, attempt by attempt, and the same for other verbs.

use clap::Args;
use serde::Serialize;

use crate::cli::exit::{Exit, Outcome};
use crate::cli::out::{Out, moment, plain};
use crate::cli::reads::ReadArgs;
use crate::cli::session::Session;
use crate::cli::shape::{JobShape, Number};
use crate::cli::submit::quote;
use crate::cli::workers::in_a_row;
use crate::jobs::intake::Progress;
use crate::jobs::job::{AttemptView, Body, JobView, Status};
use crate::jobs::options::{Options, PRIORITY_DEFAULT};
use crate::jobs::reason::roughly;
use crate::jobs::rules::in_words as span_in_words;
use crate::types::{Fence, JobId, Millis};

/// Options of `show`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Of the attempts before the last one, the last 8 are kept. What a job printed: raftq get ID.\n\
    With --json one object, that of get, where \"timeline\" has a list of events in order:\n  \
    submitted (at_ms), held (until_ms), attempt (attempt worker fence started_ms ended_ms exit_code\n  \
    error), waits (until_ms), ended (at_ms status)."
)]
pub struct ShowArgs {
    /// The job.
    #[arg(value_name = "ID")]
    pub id: JobId,

    /// How it is read.
    #[command(flatten)]
    pub reads: ReadArgs,
}

/// Something that happened to a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// It was taken.
    Submitted {
        /// When.
        at_ms: Number,
    },
    /// Its submit asked that it should not begin before.
    Held {
        /// That time.
        until_ms: Number,
    },
    /// An attempt.
    Attempt {
        /// Which, from 1.
        attempt: u32,
        /// Who had it; `None`: it never began.
        worker: Option<String>,
        /// Its token.
        fence: Option<Number>,
        /// When it began.
        started_ms: Option<Number>,
        /// When it ended; `None`: it runs.
        ended_ms: Option<Number>,
        /// The exit code of its command.
        exit_code: Option<i32>,
        /// Why it failed.
        error: Option<String>,
    },
    /// It waits now.
    Waits {
        /// For this time; `None`: for its turn.
        until_ms: Option<Number>,
    },
    /// It ended.
    Ended {
        /// When.
        at_ms: Number,
        /// How.
        status: &'static str,
    },
}

/// Runs `show`.
///
/// # Errors
/// A [`crate::cli::exit::Failure`], `NotFound` among them.
pub fn run(args: &ShowArgs, session: &Session, out: &mut Out) -> Outcome {
    show(&args.reads.job(args.id, session)?, session, out)
}

/// Shows a whole job.
///
/// # Errors
/// A [`crate::cli::exit::Failure`] of stdout.
pub fn show(job: &JobView, session: &Session, out: &mut Out) -> Outcome {
    if session.json() {
        out.json(&JobShape::whole(job))?;
        return out.flush().map(|()| Exit::Ok);
    }
    let fields = [
        ("id", job.id.to_string()),
        ("queue", job.queue.to_string()),
        ("status", job.status.as_str().into()),
        ("progress", progress_in_words(job)),
        ("job", body_in_words(job)),
    ];
    for (name, value) in fields.into_iter().chain(asks_in_words(job)) {
        if !value.is_empty() {
            out.line(&format!("{name:<10} {}", plain(&value)))?;
        }
    }
    out.line("")?;
    for (at, what) in in_words(job) {
        out.line(&format!("{at:<24}  {}", plain(&what)))?;
    }
    out.flush().map(|()| Exit::Ok)
}

/// Says how far a job said that it is, and when; nothing if it did not.
#[must_use]
pub fn progress_in_words(job: &JobView) -> String {
    let said = |it: &Progress| format!("{} (at {})", it.in_words(), moment(it.at_ms));
    job.progress.as_ref().map(said).unwrap_or_default()
}

/// Says in a line what a job is; nothing where that is not known.
#[must_use]
pub fn body_in_words(job: &JobView) -> String {
    match &job.body {
        Some(Body::Command(words)) => {
            words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ")
        }
        Some(Body::Payload(bytes)) => format!("{} bytes of payload", bytes.len()),
        None => String::new(),
    }
}

/// Says what a job asks for, a name and a value each; nothing where it is what any job gets.
#[must_use]
pub fn asks_in_words(job: &JobView) -> [(&'static str, String); 6] {
    let options = job.options.as_deref().unwrap_or(Options::NONE);
    let span = |ms: Option<u64>| ms.map(span_in_words).unwrap_or_default();
    let priority = options.priority;
    let (first, longest) = (options.backoff_ms, options.backoff_max_ms);
    let pauses = match first {
        0 => "at once".into(),
        first if first == longest => format!("after {} each", span_in_words(first)),
        first => {
            format!("after {} at first, {} at most", span_in_words(first), span_in_words(longest))
        }
    };
    let retries = match options.retries {
        0 => String::new(),
        retries => format!("{retries}, {pauses}"),
    };
    let unique = match (&options.unique, options.unique_for_ms) {
        (None, _) => String::new(),
        (Some(key), None) => format!("{key}, until it ends"),
        (Some(key), Some(ms)) => format!("{key}, for {}", span_in_words(ms)),
    };
    [
        (
            "priority",
            if priority == PRIORITY_DEFAULT { String::new() } else { priority.to_string() },
        ),
        ("tags", in_a_row(&options.tags)),
        ("retries", retries),
        ("timeout", span(options.timeout_ms)),
        ("ttl", span(options.ttl_ms)),
        ("unique", unique),
    ]
}

/// Returns what happened to a job, in order.
#[must_use]
pub fn timeline(job: &JobView) -> Vec<Event> {
    let number = |at: Millis| Number(at.0);
    let mut events = vec![Event::Submitted { at_ms: number(job.created_ms) }];
    if let Some(until) = asked_until(job) {
        events.push(Event::Held { until_ms: number(until) });
    }
    let mut fence_before = None;
    for past in &job.past {
        events.push(past_event(past, fence_before));
        fence_before = Some(past.fence);
    }
    // A job that waits still names who had it last; only with another fence did an attempt begin.
    let has_begun =
        job.status != Status::Pending && job.fence.is_some() && job.fence != fence_before;
    if has_begun {
        events.push(Event::Attempt {
            attempt: job.attempt,
            worker: job.worker.as_ref().map(ToString::to_string),
            fence: job.fence.map(|fence| Number(fence.0)),
            started_ms: job.started_ms.map(number),
            ended_ms: job.finished_ms.map(number),
            exit_code: job.exit_code,
            error: job.error.clone(),
        });
    }
    if job.status == Status::Pending {
        events.push(Event::Waits { until_ms: job.held_ms.map(number) });
    }
    if let Some(at) = job.finished_ms {
        events.push(Event::Ended { at_ms: number(at), status: job.status.as_str() });
    }
    events
}

fn past_event(past: &AttemptView, fence_before: Option<Fence>) -> Event {
    let has_begun = past.fence != Fence(0) && Some(past.fence) != fence_before;
    Event::Attempt {
        attempt: past.attempt,
        worker: past.worker.as_ref().filter(|_| has_begun).map(ToString::to_string),
        fence: has_begun.then_some(Number(past.fence.0)),
        started_ms: has_begun.then_some(Number(past.started_ms.0)),
        ended_ms: Some(Number(past.ended_ms.0)),
        exit_code: past.exit_code,
        error: (!past.error.is_empty()).then(|| past.error.clone()),
    }
}

/// Returns the time that the submit asked to wait for, if it asked.
fn asked_until(job: &JobView) -> Option<Millis> {
    let options = job.options.as_deref()?;
    let delayed = options.delay_ms.map(|ms| Millis(job.created_ms.0.saturating_add(ms)));
    options.at_ms.or(delayed).filter(|at| *at > job.created_ms)
}

/// Says what happened to a job: when, and what; nothing in place of a time where it is now.
#[must_use]
pub fn in_words(job: &JobView) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    let at = |ms: Number| moment(Millis(ms.0));
    for event in timeline(job) {
        match event {
            Event::Submitted { at_ms } => {
                let begin =
                    asked_until(job).map(|until| format!(", to begin at {}", moment(until)));
                lines.push((at(at_ms), format!("submitted{}", begin.unwrap_or_default())));
                lines.extend(forgotten(job));
            }
            // Said with the submit: it may lie behind the job's end.
            Event::Held { .. } => {}
            Event::Attempt { attempt, worker, started_ms, ended_ms, exit_code, error, .. } => {
                let ending = ending(exit_code, error.as_deref());
                if let (Some(worker), Some(started)) = (worker, started_ms) {
                    lines.push((at(started), format!("attempt {attempt} begins on {worker}")));
                    if let Some(ended) = ended_ms {
                        let length = roughly(ended.0.saturating_sub(started.0));
                        let what = format!("attempt {attempt} ends after {length}{ending}");
                        lines.push((at(ended), what));
                    }
                } else if let Some(ended) = ended_ms {
                    let what = format!("attempt {attempt} ends before it began{ending}");
                    lines.push((at(ended), what));
                }
            }
            Event::Waits { until_ms } => {
                let what = match (until_ms, job.past.is_empty()) {
                    (Some(until), true) => format!("waits until {}", at(until)),
                    (Some(until), false) => {
                        format!("attempt {} waits: next try at {}", job.attempt, at(until))
                    }
                    (None, true) => "waits for its turn".into(),
                    (None, false) => format!("attempt {} waits for its turn", job.attempt),
                };
                lines.push(("now".into(), what));
            }
            Event::Ended { at_ms, status } => {
                // What the last attempt said is not said twice.
                let was_said = lines.last().is_some_and(|(_, what)| what.contains("ends after"));
                let why = if was_said { String::new() } else { ending(None, job.error.as_deref()) };
                lines.push((at(at_ms), format!("{status}{why}")));
            }
        }
    }
    if job.status == Status::Running {
        lines.push(("now".into(), format!("attempt {} runs", job.attempt)));
    }
    lines
}

/// Says which attempts are not kept any more.
fn forgotten(job: &JobView) -> Option<(String, String)> {
    let first = job.past.first()?.attempt;
    let what = match first {
        0 | 1 => return None,
        2 => "attempt 1 is kept no more".into(),
        first => format!("attempts 1 to {} are kept no more", first - 1),
    };
    Some((String::new(), what))
}

/// Tells whether a text ends with an exit code, as that of a node's own worker does.
fn names_code(error: &str, code: Option<i32>) -> bool {
    code.is_some_and(|code| error.ends_with(&format!("code {code}")))
}

/// Says how an attempt ended, after a colon; the exit code once, though most errors name it as well.
fn ending(exit_code: Option<i32>, error: Option<&str>) -> String {
    let code = exit_code.map(|code| format!("exit code {code}"));
    match (code, error.filter(|error| !error.is_empty())) {
        (None, None) => String::new(),
        (Some(code), None) => format!(": {code}"),
        (None, Some(error)) => format!(": {error}"),
        (Some(_), Some(error)) if names_code(error, exit_code) => format!(": {error}"),
        (Some(code), Some(error)) => format!(": {code}, {error}"),
    }
}

//! The verb `queue`: what waits and runs in each, and what users decide about them.

use std::io::{self, IsTerminal};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::cli::deadline::Deadline;
use crate::cli::exit::{Exit, Failure, Outcome, narrate};
use crate::cli::out::{Column, Out, Table};
use crate::cli::progress::Progress;
use crate::cli::reads::ReadArgs;
use crate::cli::session::Session;
use crate::cli::shape::{Number, QueueShape};
use crate::cli::values;
use crate::jobs::rules::{QueueChange, Rate, in_words};
use crate::types::QueueName;
use crate::wire::message::{QueueChanged, QueueView};

/// Time between two looks at a queue that is drained.
const LOOK_PAUSE: Duration = Duration::from_millis(300);

/// Options of `queue`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Examples:\n  raftq queue list\n  raftq queue pause mail            begin no more of its jobs; those that run go on\n  \
    raftq queue drain mail --wait     take no new jobs, do the others; returns when all are done\n  \
    raftq queue resume mail           the end of a pause and of a drain\n  \
    raftq queue limit mail 4          four of its jobs at once, at most\n  \
    raftq queue rate mail 100/1m      a hundred of them begin in a minute, evenly, at most\n\n\
    A rule holds until it is taken back, for jobs to come too, whether or not the queue has any. The\n\
    same change twice is the same as once: exit code 6 (nobody knows) is answered by making it again."
)]
pub struct QueueArgs {
    /// What to do.
    #[command(subcommand)]
    pub verb: QueueVerb,
}

/// The verbs of `queue`.
#[derive(Clone, Debug, Subcommand)]
pub enum QueueVerb {
    /// List the queues that have jobs or rules.
    List(QueueListArgs),
    /// Begin no more jobs of a queue; those that run go on, and new ones are taken.
    Pause(NameArgs),
    /// Begin jobs of a queue and take new ones: the end of a pause and of a drain.
    Resume(NameArgs),
    /// Take no new jobs for a queue; those that are there are done.
    Drain(DrainArgs),
    /// Run so many jobs of a queue at once, at most.
    Limit(LimitArgs),
    /// Begin so many jobs of a queue in a time, at most.
    Rate(RateArgs),
}

/// Options of `queue list`.
#[derive(Clone, Debug, Args)]
pub struct QueueListArgs {
    /// How it is read.
    #[command(flatten)]
    pub reads: ReadArgs,
}

/// Options of `queue pause` and `queue resume`.
#[derive(Clone, Debug, Args)]
pub struct NameArgs {
    /// The queue.
    #[arg(value_name = "Q")]
    pub queue: QueueName,
}

/// Options of `queue drain`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "At a terminal it shows what is left until nothing is (ctrl-c ends the look, not the drain);\n\
    elsewhere only with --wait. With --timeout, exit code 6 if that comes first. A submit to the\n\
    queue is refused (exit code 1) until: raftq queue resume Q"
)]
pub struct DrainArgs {
    /// The queue.
    #[arg(value_name = "Q")]
    pub queue: QueueName,

    /// Wait until none of its jobs waits or runs.
    #[arg(long)]
    pub wait: bool,
}

/// Options of `queue limit`.
#[derive(Clone, Debug, Args)]
pub struct LimitArgs {
    /// The queue.
    #[arg(value_name = "Q")]
    pub queue: QueueName,

    /// How many, 1 or more, or `none`.
    #[arg(value_name = "N|none", value_parser = limit, allow_negative_numbers = true)]
    pub limit: QueueChange,
}

/// Options of `queue rate`.
#[derive(Clone, Debug, Args)]
pub struct RateArgs {
    /// The queue.
    #[arg(value_name = "Q")]
    pub queue: QueueName,

    /// How many in which time, such as 100/1m or 5/s, or `none`.
    #[arg(value_name = "N/DUR|none", value_parser = rate, allow_negative_numbers = true)]
    pub rate: QueueChange,
}

impl QueueArgs {
    /// Tells whether the verb only shows what can be shown again.
    #[must_use]
    pub fn is_shown(&self) -> bool {
        match self.verb {
            QueueVerb::List(_) => true,
            QueueVerb::Pause(_)
            | QueueVerb::Resume(_)
            | QueueVerb::Drain(_)
            | QueueVerb::Limit(_)
            | QueueVerb::Rate(_) => false,
        }
    }
}

/// The word for no limit and no rate.
const NONE: &str = "none";

/// Parses a limit, `4` or `none`.
///
/// # Errors
/// A text for the user.
pub fn limit(text: &str) -> Result<QueueChange, String> {
    if text == NONE {
        return Ok(QueueChange::Limit(None));
    }
    let number = values::number(text).map_err(|why| format!("{why}, or none"))?;
    let change = QueueChange::Limit(Some(u32::try_from(number).unwrap_or(u32::MAX)));
    change.fault().map_or(Ok(change), Err)
}

/// Parses a rate, `100/1m`, `5/s` or `none`.
///
/// # Errors
/// A text for the user.
pub fn rate(text: &str) -> Result<QueueChange, String> {
    if text == NONE {
        return Ok(QueueChange::Rate(None));
    }
    let wrong = || format!("`{text}` is no rate: write 100/1m, 5/s or none");
    let (count, time) = text.split_once('/').ok_or_else(wrong)?;
    let count = values::number(count).map_err(|_no_number| wrong())?;
    // `5/s` is what people write for `5/1s`.
    let has_digits = time.starts_with(|c: char| c.is_ascii_digit());
    let per =
        if has_digits { values::duration(time) } else { values::duration(&format!("1{time}")) };
    let per_ms = values::whole_ms(per.map_err(|_no_duration| wrong())?);
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    let change = QueueChange::Rate(Some(Rate { count, per_ms }));
    change.fault().map_or(Ok(change), Err)
}

/// Runs `queue`.
///
/// # Errors
/// A [`Failure`] of the request or of stdout, or that the time ran out.
pub fn run(args: &QueueArgs, session: &Session, out: &mut Out) -> Outcome {
    match &args.verb {
        QueueVerb::List(args) => list(args, session, out),
        QueueVerb::Pause(args) => change(&args.queue, QueueChange::Pause, session, out),
        QueueVerb::Resume(args) => change(&args.queue, QueueChange::Resume, session, out),
        QueueVerb::Limit(args) => change(&args.queue, args.limit, session, out),
        QueueVerb::Rate(args) => change(&args.queue, args.rate, session, out),
        QueueVerb::Drain(args) => drain(args, session, out),
    }
}

fn list(args: &QueueListArgs, session: &Session, out: &mut Out) -> Outcome {
    let queues = args.reads.queues(session)?;
    if session.json() {
        queues.iter().try_for_each(|queue| out.json(&QueueShape::from(queue)))?;
        return out.flush().map(|()| Exit::Ok);
    }
    let mut table = Table::new(&[
        Column::Left("QUEUE"),
        Column::Right("PENDING"),
        Column::Right("HELD"),
        Column::Right("RUNNING"),
        Column::Right("COMPLETED"),
        Column::Right("FAILED"),
        Column::Right("CANCELLED"),
        Column::Left("RULES"),
    ]);
    for queue in &queues {
        let counts = [
            queue.pending,
            queue.held,
            queue.running,
            queue.completed,
            queue.failed,
            queue.cancelled,
        ];
        let mut cells = vec![queue.name.to_string()];
        cells.extend(counts.iter().map(u64::to_string));
        cells.push(queue.rules_in_words());
        table.row(cells);
    }
    table.write(out, true)?;
    out.flush().map(|()| Exit::Ok)
}

/// The object of a change.
#[derive(Serialize)]
struct ChangeShape<'a> {
    queue: &'a QueueName,
    change: &'static str,
    limit: Option<u32>,
    rate: Option<Rate>,
    pending: Number,
    running: Number,
}

fn change(queue: &QueueName, change: QueueChange, session: &Session, out: &mut Out) -> Outcome {
    let changed = session.change_queue(queue, change).map_err(|failure| again(failure, session))?;
    show_change(queue, change, changed, session, out)?;
    warn_unknown(queue, change, changed, session);
    Ok(Exit::Ok)
}

/// Adds to a change whose outcome is unknown what can be done about it.
fn again(failure: Failure, session: &Session) -> Failure {
    if failure.exit != Exit::Unknown {
        return failure;
    }
    let message = format!("it is unknown whether the queue was changed: {}", failure.message);
    Failure::new(Exit::Unknown, message)
        .hint("Make the same change again: twice is the same as once.")
        .hint(format!("Or look: {} queue list", session.program()))
}

fn show_change(
    queue: &QueueName,
    change: QueueChange,
    changed: QueueChanged,
    session: &Session,
    out: &mut Out,
) -> Result<(), Failure> {
    let (pending, running) = (changed.pending, changed.running);
    let (word, limit, rate) = match change {
        QueueChange::Pause => ("pause", None, None),
        QueueChange::Resume => ("resume", None, None),
        QueueChange::Drain => ("drain", None, None),
        QueueChange::Limit(limit) => ("limit", limit, None),
        QueueChange::Rate(rate) => ("rate", None, rate),
    };
    if session.json() {
        let (pending, running) = (Number(pending), Number(running));
        out.json(&ChangeShape { queue, change: word, limit, rate, pending, running })?;
    } else {
        let did = match change {
            QueueChange::Pause => "paused".into(),
            QueueChange::Resume => "resumed".into(),
            QueueChange::Drain => "draining".into(),
            QueueChange::Limit(None) => "no limit".into(),
            QueueChange::Limit(Some(limit)) => format!("limit {limit}"),
            QueueChange::Rate(None) => "no rate".into(),
            QueueChange::Rate(Some(rate)) => {
                format!("rate {}/{}", rate.count, in_words(rate.per_ms))
            }
        };
        out.line(&format!("{queue}  {did}  {pending} pending, {running} running"))?;
    }
    out.flush()
}

/// Says so where a rule was made for a queue in which no job is known: its name may be misspelt.
fn warn_unknown(queue: &QueueName, change: QueueChange, changed: QueueChanged, session: &Session) {
    let makes_rule = match change {
        QueueChange::Pause
        | QueueChange::Drain
        | QueueChange::Limit(Some(_))
        | QueueChange::Rate(Some(_)) => true,
        QueueChange::Resume | QueueChange::Limit(None) | QueueChange::Rate(None) => false,
    };
    if !makes_rule || changed.pending > 0 || changed.running > 0 {
        return;
    }
    let Ok(queues) = session.queues() else { return };
    let has_ended = |it: &QueueView| it.completed > 0 || it.failed > 0 || it.cancelled > 0;
    if !queues.iter().any(|it| it.name == *queue && has_ended(it)) {
        narrate(&format!(
            "raftq: no job is known in queue '{queue}'; the rule holds for those to come. Is the name \
             right? {} queue list",
            session.program()
        ));
    }
}

fn drain(args: &DrainArgs, session: &Session, out: &mut Out) -> Outcome {
    let deadline = Deadline::after(session.limit());
    let change = QueueChange::Drain;
    let queue = &args.queue;
    let changed = session.change_queue(queue, change).map_err(|failure| again(failure, session))?;
    show_change(queue, change, changed, session, out)?;
    if !args.wait && !io::stderr().is_terminal() {
        warn_unknown(queue, change, changed, session);
        return Ok(Exit::Ok);
    }
    let mut left = changed.pending.saturating_add(changed.running);
    if left == 0 {
        warn_unknown(queue, change, changed, session);
    }
    let mut progress = Progress::default();
    let mut was_told = false;
    while left > 0 {
        if deadline.has_passed() {
            drop(progress);
            let text = format!("the time is up and queue {queue} is not empty: jobs left: {left}");
            let hint = format!("Wait on: {} queue drain {queue} --wait", session.program());
            return Err(Failure::new(Exit::Unknown, text).hint(hint));
        }
        match session.queues() {
            Ok(queues) => {
                let view = queues.into_iter().find(|it| it.name == *queue);
                left = view.as_ref().map_or(0, |view| view.pending.saturating_add(view.running));
                if let Some(view) = view.filter(|_| left > 0) {
                    progress.show(&left_in_words(&view));
                    if view.draining_ms.is_none() {
                        let text = format!("queue {queue} is not drained any more: it was resumed");
                        return Err(Failure::new(Exit::Failure, text));
                    }
                    if view.paused_ms.is_some() && view.running == 0 && !was_told {
                        was_told = true;
                        let program = session.program();
                        progress.remark(&format!(
                            "queue {queue} is paused: nothing of it begins. To go on: {program} queue \
                             resume {queue} && {program} queue drain {queue}"
                        ));
                    }
                }
            }
            // It was drained, and goes on so: who waits through an outage sees its end.
            Err(failure) if failure.exit == Exit::Unreachable => {
                if !was_told {
                    was_told = true;
                    progress.remark(&format!("{}; still waiting", failure.message));
                }
            }
            Err(failure) => return Err(failure),
        }
        if left > 0 {
            std::thread::sleep(deadline.left_at_most(LOOK_PAUSE));
        }
    }
    drop(progress);
    let program = session.program();
    narrate(&format!(
        "raftq: queue {queue} is empty, and takes no jobs until: {program} queue resume {queue}"
    ));
    Ok(Exit::Ok)
}

fn left_in_words(view: &QueueView) -> String {
    let held =
        if view.held > 0 { format!(" ({} of them for a time)", view.held) } else { String::new() };
    format!("queue {}: {} pending{held}, {} running", view.name, view.pending, view.running)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_rates_are_read_or_refused_in_words() {
        assert_eq!(limit("4"), Ok(QueueChange::Limit(Some(4))));
        assert_eq!(limit("none"), Ok(QueueChange::Limit(None)));
        for (text, why) in [
            ("0", "pause it"),
            ("x", "or none"),
            ("-1", "or none"),
            ("99999999999", "1 to 16777216"),
        ] {
            assert!(limit(text).unwrap_err().contains(why), "{text}: {:?}", limit(text));
        }
        let of = |count, per_ms| Ok(QueueChange::Rate(Some(Rate { count, per_ms })));
        assert_eq!(rate("100/1m"), of(100, 60_000));
        assert_eq!(rate("5/s"), of(5, 1000));
        assert_eq!(rate("1/1m30s"), of(1, 90_000));
        assert_eq!(rate("none"), Ok(QueueChange::Rate(None)));
        for (text, why) in [
            ("", "100/1m"),
            ("5", "100/1m"),
            ("5/", "100/1m"),
            ("/s", "100/1m"),
            ("5/5", "100/1m"),
            ("1.5/s", "100/1m"),
            ("-5/s", "100/1m"),
            ("0/s", "a rate of 0 jobs"),
            ("5/0s", "over no time"),
            ("5/11000d", "ten years"),
            ("9999999/s", "1 to 1000000"),
        ] {
            assert!(rate(text).unwrap_err().contains(why), "{text}: {:?}", rate(text));
        }
    }
}

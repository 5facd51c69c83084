//! The verb `top`: the whole cluster on one screen, drawn anew every second.

use std::collections::{BTreeMap, VecDeque};
use std::io::{IsTerminal, stdout};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clap::Args;

use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::out::{Column, Out, Table, moment, plain};
use crate::cli::screen::{self, Screen};
use crate::cli::session::Session;
use crate::cli::values;
use crate::client::blocking::Watcher;
use crate::client::watch::From;
use crate::jobs::change::{Event, What};
use crate::jobs::job::Status;
use crate::jobs::reason::roughly;
use crate::node::clock;
use crate::types::{Millis, QueueName};
use crate::wire::message::{ClusterStatus, Filter, QueueView, WorkerView};

/// The time from one screen to the next.
const PAUSE: Duration = Duration::from_secs(1);

/// How long a watch that failed rests before it goes on.
const WATCH_PAUSE: Duration = Duration::from_millis(500);

/// Rates are those of so many whole seconds before the newest one.
const RATE_SECS: u64 = 5;

/// Failures shown, at most: the last ones.
const FAILURES_MAX: usize = 5;

/// Lines of each table, at most, where the screen has no end.
const LINES_MAX: usize = 50;

/// Rows that are no queue and no worker: heads, empty lines, the oldest job, failures.
const ROWS_AROUND: usize = 18;

/// Options of `top`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Shows the nodes, the queues with what they take and end in a second, the workers with their slots, the job\n\
    that waits longest, and the last failures. Ctrl-c ends it and leaves the terminal as it was. Where stdout is no\n\
    terminal, one screen follows the other as text; --count 1 shows one."
)]
pub struct TopArgs {
    /// End after so many screens.
    #[arg(long, value_name = "N", value_parser = values::count, allow_negative_numbers = true)]
    pub count: Option<u64>,
}

/// Runs `top`.
///
/// # Errors
/// A [`Failure`] of stdout, or of a request where it is no terminal.
pub fn run(args: &TopArgs, session: &Session, out: &mut Out) -> Outcome {
    if session.json() {
        let text = "top is for people; for a program: cluster status, queue list, workers, watch, each with --json";
        return Err(Failure::usage(text));
    }
    let seen = Arc::new(Mutex::new(Seen::default()));
    let (mut watcher, told) = (session.watch(From::Oldest), Arc::clone(&seen));
    // It ends with the process; nothing is to be saved.
    std::thread::Builder::new()
        .name("top watch".into())
        .spawn(move || follow(&mut watcher, &told))
        .map_err(|error| Failure::new(Exit::Failure, format!("cannot watch: {error}")))?;
    let is_terminal = stdout().is_terminal();
    let screen = is_terminal.then(Screen::enter).transpose()?;
    let mut left = args.count.unwrap_or(u64::MAX);
    if !is_terminal {
        // The watch has had no time yet to tell what was before.
        std::thread::sleep(WATCH_PAUSE);
    }
    while left > 0 {
        let rows = if is_terminal { screen::rows() } else { usize::MAX };
        match (frame(session, &seen, rows), is_terminal) {
            (Ok(lines), true) => out.bytes(screen::page(&lines).as_bytes())?,
            (Ok(lines), false) => lines.iter().try_for_each(|line| out.line(line))?,
            (Err(failure), false) => return Err(failure),
            // A cluster that does not answer for a moment is what one looks at.
            (Err(failure), true) => {
                let lines = [moment(clock::wall()), plain(&failure.message)];
                out.bytes(screen::page(&lines).as_bytes())?;
            }
        }
        out.flush()?;
        left -= 1;
        if left > 0 {
            std::thread::sleep(PAUSE);
        }
    }
    drop(screen);
    Ok(Exit::Ok)
}

/// What the watch has told.
#[derive(Debug, Default)]
struct Seen {
    /// Jobs taken and ended, by second of the log's clock and queue.
    seconds: BTreeMap<u64, BTreeMap<QueueName, Moved>>,
    failures: VecDeque<Event>,
}

/// How much moved.
#[derive(Clone, Copy, Debug, Default)]
struct Moved {
    taken: u64,
    ended: u64,
}

impl Seen {
    fn take(&mut self, event: Event) {
        let second = event.now_ms.0 / 1000;
        let (taken, ended) = match event.change.what {
            What::Submitted => (1, 0),
            What::Completed | What::Failed | What::Cancelled => (0, 1),
            What::Due
            | What::Assigned
            | What::Released
            | What::Retrying
            | What::Revived
            | What::Forgotten
            | What::QueueChanged
            | What::WorkerRegistered
            | What::WorkerLeft
            | What::WorkerLost
            | What::Unknown => (0, 0),
        };
        if let Some(queue) = event.change.queue.clone().filter(|_| taken + ended > 0) {
            let moved = self.seconds.entry(second).or_default().entry(queue).or_default();
            (moved.taken, moved.ended) = (moved.taken + taken, moved.ended + ended);
        }
        while self.seconds.len() > 1
            && self.seconds.first_key_value().is_some_and(|(at, _)| at + 2 * RATE_SECS < second)
        {
            self.seconds.pop_first();
        }
        if matches!(event.change.what, What::Failed | What::Retrying) {
            self.failures.push_back(event);
            if self.failures.len() > FAILURES_MAX {
                self.failures.pop_front();
            }
        }
    }

    /// Returns how much of a queue was taken and ended a second, over the last whole seconds before `now`.
    fn rates(&self, queue: &QueueName, now: Millis) -> (f64, f64) {
        let end = now.0 / 1000;
        let last = self.seconds.range(end.saturating_sub(RATE_SECS)..end);
        let moved = last.filter_map(|(_, queues)| queues.get(queue));
        let (taken, ended) = moved.fold((0, 0), |sum, it| (sum.0 + it.taken, sum.1 + it.ended));
        let per_second = |count: u64| u32::try_from(count).map_or(f64::MAX, f64::from) / SECS;
        (per_second(taken), per_second(ended))
    }
}

/// [`RATE_SECS`], to divide by.
const SECS: f64 = 5.0;

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Follows the changes for ever. Where the nodes have dropped what came next, it begins anew with the oldest.
fn follow(watcher: &mut Watcher, seen: &Mutex<Seen>) {
    loop {
        match watcher.next() {
            Ok(events) => {
                let mut seen = lock(seen);
                events.into_iter().for_each(|event| seen.take(event));
            }
            Err(error) => {
                if error.refusal().is_some() {
                    watcher.begin_anew(From::Oldest);
                }
                std::thread::sleep(WATCH_PAUSE);
            }
        }
    }
}

/// Asks for everything and writes one screen of so many rows.
fn frame(session: &Session, seen: &Mutex<Seen>, rows: usize) -> Result<Vec<String>, Failure> {
    let status = session.status()?;
    let queues = session.queues()?;
    let workers = session.workers()?;
    let oldest = Filter { status: Some(Status::Pending), limit: 1, ..Filter::default() };
    let (pending, _) = session.list(oldest)?;
    let now = clock::wall();
    let seen = lock(seen);
    let room = rows.saturating_sub(ROWS_AROUND + status.nodes.len()).clamp(4, 2 * LINES_MAX) / 2;
    let mut lines = vec![head(&status, now), String::new()];
    lines.extend(nodes(&status).lines());
    lines.push(String::new());
    lines.extend(cut(queue_table(&queues, &seen, now, room), queues.len(), room, "queues"));
    lines.push(String::new());
    lines.extend(cut(worker_table(&workers, room), workers.len(), room, "workers"));
    lines.push(String::new());
    lines.push(match pending.first() {
        None => "no job waits".into(),
        Some(job) => format!(
            "the oldest job that waits: {} in {}, for {}",
            job.id,
            job.queue,
            roughly(now.since(job.created_ms))
        ),
    });
    lines.push(String::new());
    lines.push(if seen.failures.is_empty() { "no failures" } else { "last failures" }.into());
    lines.extend(seen.failures.iter().rev().map(|event| failure(event, now)));
    Ok(lines)
}

fn head(status: &ClusterStatus, now: Millis) -> String {
    let leader = match status.leader {
        Some(leader) => format!("leader node {leader}"),
        None => "no leader".into(),
    };
    let (term, commit) = (status.term, status.commit_index);
    format!("raftq {}  {leader}  term {term}  commit index {commit}", moment(now))
}

fn nodes(status: &ClusterStatus) -> Table {
    let mut table = Table::new(&[
        Column::Right("NODE"),
        Column::Left("ADDRESS"),
        Column::Left("ROLE"),
        Column::Left("ALIVE"),
        Column::Right("BEHIND"),
    ]);
    for node in &status.nodes {
        table.row(vec![
            node.id.to_string(),
            node.addr.clone(),
            node.role.clone(),
            if node.is_alive { "yes" } else { "NO" }.into(),
            status.commit_index.0.saturating_sub(node.applied_index.0).to_string(),
        ]);
    }
    table
}

/// Shows the queues in which most is going on.
fn queue_table(queues: &[QueueView], seen: &Seen, now: Millis, room: usize) -> Table {
    let mut table = Table::new(&[
        Column::Left("QUEUE"),
        Column::Right("PENDING"),
        Column::Right("HELD"),
        Column::Right("RUNNING"),
        Column::Right("TAKEN/S"),
        Column::Right("ENDED/S"),
        Column::Right("FAILED"),
        Column::Left("RULES"),
    ]);
    let mut busiest: Vec<&QueueView> = queues.iter().collect();
    busiest.sort_by_key(|queue| std::cmp::Reverse((queue.running, queue.pending)));
    for queue in busiest.into_iter().take(room) {
        let (taken, ended) = seen.rates(&queue.name, now);
        table.row(vec![
            queue.name.to_string(),
            queue.pending.to_string(),
            queue.held.to_string(),
            queue.running.to_string(),
            format!("{taken:.1}"),
            format!("{ended:.1}"),
            queue.failed.to_string(),
            queue.rules_in_words(),
        ]);
    }
    table
}

fn worker_table(workers: &[WorkerView], room: usize) -> Table {
    let mut table = Table::new(&[
        Column::Left("WORKER"),
        Column::Left("STATE"),
        Column::Right("RUNNING"),
        Column::Right("SLOTS"),
        Column::Left(""),
    ]);
    let mut busiest: Vec<&WorkerView> = workers.iter().collect();
    busiest.sort_by_key(|worker| std::cmp::Reverse((worker.state == "live", worker.running)));
    for worker in busiest.into_iter().take(room) {
        table.row(vec![
            worker.id.to_string(),
            worker.intake.beside(&worker.state),
            worker.running.to_string(),
            worker.slots.to_string(),
            bar(worker.running, worker.slots),
        ]);
    }
    table
}

/// Draws how many of the slots are taken, ten signs wide.
fn bar(running: u32, slots: u32) -> String {
    let full = u64::from(running) * 10 / u64::from(slots.max(1));
    let full = usize::try_from(full.min(10)).unwrap_or(10);
    format!("{}{}", "#".repeat(full), ".".repeat(10 - full))
}

/// Adds how many there are beyond those shown.
fn cut(mut table: Table, count: usize, room: usize, what: &str) -> Vec<String> {
    let mut lines: Vec<String> = table.lines();
    if count > room {
        lines.push(format!("and {} more {what}", count - room));
    }
    lines
}

fn failure(event: &Event, now: Millis) -> String {
    let change = &event.change;
    let job = change.job.map(|job| job.to_string()).unwrap_or_default();
    let queue = change.queue.as_ref().map(ToString::to_string).unwrap_or_default();
    let again = if change.what == What::Retrying { ", will be tried again" } else { "" };
    let why = change.error.as_deref().unwrap_or("it said nothing");
    let ago = roughly(now.since(event.now_ms));
    plain(&format!("  {ago} ago  {job}  {queue}  {why}{again}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::change::{Change, Position};

    fn queue() -> QueueName {
        QueueName::new("mail").unwrap()
    }

    fn event(now: u64, what: What) -> Event {
        let change = Change { queue: Some(queue()), ..Change::new(what) };
        Event { position: Position::default(), now_ms: Millis(now), change }
    }

    #[test]
    fn rates_are_those_of_the_last_seconds() {
        let mut seen = Seen::default();
        for at in 0..100_u64 {
            seen.take(event(at * 200, What::Submitted));
            seen.take(event(at * 200, What::Completed));
            seen.take(event(at * 200, What::Assigned));
        }
        let (taken, ended) = seen.rates(&queue(), Millis(20_100));
        assert_eq!(format!("{taken:.1} {ended:.1}"), "5.0 5.0");
        assert_eq!(format!("{:.1}", seen.rates(&queue(), Millis(60_000)).0), "0.0");
        assert!(seen.seconds.len() <= 12, "old seconds are forgotten");
    }

    #[test]
    fn last_failures_are_kept_and_no_more() {
        let mut seen = Seen::default();
        (0..20).for_each(|at| seen.take(event(at, What::Failed)));
        assert_eq!(seen.failures.len(), FAILURES_MAX);
        assert!(failure(&seen.failures[0], Millis(1015)).contains("1.0s ago"));
    }

    #[test]
    fn bars_are_ten_wide() {
        assert_eq!(bar(0, 4), "..........");
        assert_eq!(bar(2, 4), "#####.....");
        assert_eq!(bar(9, 4), "##########");
        assert_eq!(bar(1, 0), "##########");
    }
}

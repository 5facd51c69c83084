//! The verb `log`: the replicated log, for people who want to see what the cluster agreed on.

use clap::{Args, Subcommand};

use crate::cli::exit::{Exit, Outcome};
use crate::cli::out::{Column, Out, Table, moment};
use crate::cli::session::Session;
use crate::cli::shape::LogShape;
use crate::cli::values;
use crate::types::Index;
use crate::wire::message::LogLine;

/// Entries asked for in one request, at most; a node answers no more.
const PAGE_MAX: u64 = 1000;

/// Options of `log`.
#[derive(Clone, Debug, Args)]
pub struct LogArgs {
    /// What to do with it.
    #[command(subcommand)]
    pub verb: LogVerb,
}

/// The verbs of `log`.
#[derive(Clone, Debug, Subcommand)]
pub enum LogVerb {
    /// List entries of one node's log: the first node of --addrs that answers.
    List(LogListArgs),
}

/// Options of `log list`.
#[derive(Clone, Debug, Args)]
pub struct LogListArgs {
    /// The first index wanted; without it, the newest entries. What a snapshot has replaced is gone:
    /// then the list begins with the oldest entry there is.
    #[arg(long, value_name = "INDEX", value_parser = values::number, allow_negative_numbers = true)]
    pub from: Option<u64>,

    /// At most so many.
    #[arg(long, value_name = "N", default_value_t = 20)]
    #[arg(value_parser = values::count, allow_negative_numbers = true)]
    pub limit: u64,
}

/// Runs `log`.
///
/// # Errors
/// A [`crate::cli::exit::Failure`] of the request or of stdout.
pub fn run(args: &LogArgs, session: &Session, out: &mut Out) -> Outcome {
    match &args.verb {
        LogVerb::List(args) => list(args, session, out),
    }
}

/// Lists page by page: a page ends at the limit of lines or of bytes of one answer.
fn list(args: &LogListArgs, session: &Session, out: &mut Out) -> Outcome {
    let mut from = match args.from {
        Some(from) => Index(from),
        None => {
            let commit = session.status()?.commit_index;
            Index(commit.0.saturating_sub(args.limit - 1))
        }
    };
    let mut left = args.limit;
    let mut table = Table::new(&[
        Column::Right("INDEX"),
        Column::Right("TERM"),
        Column::Left("KIND"),
        Column::Right("BYTES"),
        Column::Left("AT"),
        Column::Left("SUMMARY"),
    ]);
    let mut is_first = true;
    loop {
        let lines = session.log(from, u32::try_from(left.min(PAGE_MAX)).unwrap_or(u32::MAX))?;
        for line in &lines {
            if session.json() {
                out.json(&LogShape::from(line))?;
            } else {
                table.row(row(line));
            }
        }
        if !session.json() {
            table.write(out, is_first)?;
        }
        out.flush()?;
        is_first = false;
        left = left.saturating_sub(u64::try_from(lines.len()).unwrap_or(u64::MAX));
        match lines.last() {
            Some(last) if left > 0 => from = last.index.next(),
            Some(_) | None => return Ok(Exit::Ok),
        }
    }
}

fn row(line: &LogLine) -> Vec<String> {
    vec![
        line.index.to_string(),
        line.term.to_string(),
        line.kind.clone(),
        line.bytes.to_string(),
        moment(line.now_ms),
        line.summary.clone(),
    ]
}

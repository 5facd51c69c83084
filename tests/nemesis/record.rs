//! What clients were told, as it happened: the history that is checked, and the figures that are drawn.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use raftq::client::error::Error;
use raftq::jobs::job::{JobView, Status};
use raftq::sim::history::Record as Line;
use raftq::sim::job_model::{Op, Seen};
use raftq::types::JobId;

/// The error text of a handler that fails on purpose begins so; anything else is a failure of the queue's own.
pub const FAILED_ON_PURPOSE: &str = "on purpose";

/// How an operation ended for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// As it should.
    Acknowledged,
    /// It was not done, and the client knows.
    Refused,
    /// The client cannot know.
    Unknown,
}

/// One operation, for the figures.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// When it ended.
    pub at_us: u64,
    /// How long it took.
    pub took_us: u64,
    /// How it ended.
    pub class: Class,
}

/// What is known of one job beside its operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticket {
    /// A client was told that it is taken.
    pub acknowledged: bool,
    /// It is a command for the built-in workers.
    pub is_command: bool,
}

#[derive(Debug, Default)]
struct Books {
    lines: Vec<Line>,
    tickets: BTreeMap<JobId, Ticket>,
    samples: Vec<Sample>,
    errors: BTreeMap<String, u64>,
}

/// Takes down everything.
#[derive(Debug)]
pub struct Record {
    began: Instant,
    books: Mutex<Books>,
    file: Mutex<BufWriter<File>>,
}

impl Record {
    /// Begins a history in a file.
    ///
    /// # Errors
    /// What the system said.
    pub fn new(path: &Path, began: Instant) -> Result<Self, String> {
        let file = File::create(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self { began, books: Mutex::default(), file: Mutex::new(BufWriter::new(file)) })
    }

    /// Returns the microseconds since the beginning.
    pub fn now_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes down an operation; one without a return is of unknown outcome.
    pub fn operation(
        &self,
        client: u64,
        job: JobId,
        invoked_us: u64,
        returned_us: Option<u64>,
        op: Op,
    ) {
        let line = Line { client, job, invoked_us, returned_us, op };
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = writeln!(file, "{}", line.to_line()) {
            eprintln!("nemesis: the history cannot be written: {error}");
        }
        drop(file);
        self.books().lines.push(line);
    }

    /// Takes down how an operation ended for its client.
    pub fn sample(&self, call_us: u64, class: Class) {
        let at_us = self.now_us();
        let sample = Sample { at_us, took_us: at_us.saturating_sub(call_us), class };
        self.books().samples.push(sample);
    }

    /// Takes down an error, and returns what it means for the figures.
    pub fn error(&self, error: &Error) -> Class {
        let word = match error {
            Error::Refused { refusal, .. } => refusal.code.as_str(),
            Error::Unreachable(_) => "unreachable",
            Error::NoLeader(_) => "no leader",
            Error::Unknown(_) => "unknown",
            Error::Timeout(_) => "timeout",
            _ => "invalid",
        };
        *self.books().errors.entry(word.into()).or_default() += 1;
        if error.is_definite() { Class::Refused } else { Class::Unknown }
    }

    /// Takes down that a job was submitted.
    pub fn submitted(&self, job: JobId, is_command: bool, acknowledged: bool) {
        let mut books = self.books();
        let ticket = books.tickets.entry(job).or_default();
        ticket.is_command |= is_command;
        ticket.acknowledged |= acknowledged;
    }

    /// Returns every job that was ever submitted.
    pub fn tickets(&self) -> BTreeMap<JobId, Ticket> {
        self.books().tickets.clone()
    }

    /// Returns the whole history.
    pub fn lines(&self) -> Vec<Line> {
        self.books().lines.clone()
    }

    /// Returns every operation's figures.
    pub fn samples(&self) -> Vec<Sample> {
        self.books().samples.clone()
    }

    /// Returns how often each error came.
    pub fn errors(&self) -> BTreeMap<String, u64> {
        self.books().errors.clone()
    }

    /// Writes out what waits to be written.
    pub fn flush(&self) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = file.flush() {
            eprintln!("nemesis: the history cannot be written: {error}");
        }
    }
}

/// Returns what stands for exit code and output in the history; 0 for neither.
pub fn result_of(exit_code: Option<i32>, output: &[u8], error: Option<&str>) -> u64 {
    let on_purpose = error.filter(|error| error.starts_with(FAILED_ON_PURPOSE));
    if exit_code.is_none() && output.is_empty() && on_purpose.is_none() {
        return 0;
    }
    let text = format!("{exit_code:?} {on_purpose:?} ");
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(text.as_bytes());
    hasher.update(output);
    // The length as well: a checksum alone is 32 bits. Never 0.
    u64::from(hasher.finalize()) | (1 + u64::try_from(output.len()).unwrap_or_default()) << 32
}

/// Returns a job as it was seen.
pub fn seen(view: &JobView) -> Seen {
    // What a cancelled job had printed before is no result.
    let result = match view.status {
        Status::Completed | Status::Failed => {
            result_of(view.exit_code, &view.output, view.error.as_deref())
        }
        Status::Pending | Status::Running | Status::Cancelled => 0,
    };
    Seen {
        status: view.status,
        attempt: view.attempt,
        fence: view.fence.map_or(0, |fence| fence.0),
        result,
    }
}

/// Returns what stands for a job's content.
pub fn content_of(bytes: &[u8]) -> u64 {
    u64::from(crc32fast::hash(bytes)) + 1
}

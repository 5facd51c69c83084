//! `submit --batch`: a job a line, all of them read and checked before the first is sent.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use bytes::Bytes;
use serde::Deserialize;

use crate::cli::asks::{AskTexts, Asks, TagTexts};
use crate::cli::deadline::Deadline;
use crate::cli::exit::{Exit, Failure, Outcome, narrate, worse};
use crate::cli::jobs;
use crate::cli::out::Out;
use crate::cli::session::Session;
use crate::cli::shape::BatchShape;
use crate::cli::submit::{self, SubmitArgs};
use crate::cli::workers::{self, Need};
use crate::jobs::job::{BODY_BYTES_MAX, Body, NewJob, Status};
use crate::node::clock;
use crate::types::{JobId, Millis, QueueName};
use crate::wire::message::BATCH_JOBS_MAX;
use crate::wire::request::{BATCH_BYTES_MAX, job_bytes_max};

/// Bytes of one line, at most: a payload at its limit with each byte escaped (`\u0000`), and room
/// for the rest. A longer line is malformed.
pub const LINE_BYTES_MAX: usize = 6 * BODY_BYTES_MAX + (64 << 10);

/// Bytes taken from stdin (or a pipe), at most; a larger batch has to be a file.
pub const SPOOL_BYTES_MAX: u64 = 4 << 30;

/// Jobs sent in one request, at most; the ids of these are what a lost answer leaves unknown.
const CHUNK_JOBS_MAX: usize = BATCH_JOBS_MAX;

/// Bytes of one request, at most; a larger job goes alone, and still fits.
const CHUNK_BYTES_MAX: usize = BATCH_BYTES_MAX / 4;

/// Jobs that `--wait` waits for, at most (24 bytes of memory each); the ids of those beyond are printed,
/// and nobody waits for them.
const WAITED_MAX: usize = 10_000_000;

/// Needs looked at for a worker that meets them, at most; nothing is said of more.
const NEEDS_TOLD_MAX: usize = 16;

/// One line as it is written: the options of `submit` by their long names.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object in braces")]
struct Line {
    command: Option<Vec<String>>,
    payload: Option<String>,
    queue: Option<QueueName>,
    id: Option<String>,
    #[serde(default)]
    wait: bool,
    priority: Option<u64>,
    r#in: Option<String>,
    at: Option<String>,
    ttl: Option<String>,
    #[serde(rename = "job-timeout")]
    job_timeout: Option<String>,
    retries: Option<u64>,
    backoff: Option<String>,
    #[serde(rename = "backoff-max")]
    backoff_max: Option<String>,
    tag: Option<TagTexts>,
    unique: Option<String>,
    #[serde(rename = "unique-for")]
    unique_for: Option<String>,
}

/// What lines that do not say otherwise get.
#[derive(Clone, Debug, Default)]
pub struct Defaults {
    /// Their queue.
    pub queue: QueueName,
    /// What they ask for.
    pub asks: Asks,
    /// The time that a time of day comes after.
    pub now: Millis,
}

/// A job of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The number of its line, from 1.
    pub line: u64,
    /// The job.
    pub job: NewJob,
    /// Whether its line asks to wait for its end.
    pub wait: bool,
}

/// Parses one line. An empty line is no job.
///
/// # Errors
/// What is wrong with it, for the user.
pub fn parse_line(number: u64, text: &[u8], defaults: &Defaults) -> Result<Option<Item>, String> {
    let text = text.trim_ascii();
    if text.is_empty() {
        return Ok(None);
    }
    if let Some(fault) = form_fault(text) {
        return Err(fault.into());
    }
    let line: Line = serde_json::from_slice(text).map_err(|error| {
        let why = error.to_string();
        // Each line is parsed alone, so that serde's own line number says nothing.
        let why = why.split(" at line ").next().unwrap_or_default();
        let spread =
            if error.is_eof() { "; is one job spread over lines? jq -c . FILE" } else { "" };
        format!("{why} (column {}){spread}", error.column())
    })?;
    let id = match line.id {
        None => Session::new_id(),
        Some(id) => id.parse::<JobId>().map_err(|error| format!("id `{id}`: {error}"))?,
    };
    let body = match (line.command, line.payload) {
        (Some(command), None) => Body::Command(command),
        (None, Some(payload)) => Body::Payload(Bytes::from(payload)),
        (Some(_), Some(_)) => return Err("both a command and a payload: a job has one".into()),
        (None, None) => return Err("neither a command nor a payload: a job has one".into()),
    };
    if let Some(fault) = submit::fault(&body) {
        return Err(fault);
    }
    let asks = AskTexts {
        priority: line.priority,
        delay: line.r#in,
        at: line.at,
        ttl: line.ttl,
        job_timeout: line.job_timeout,
        retries: line.retries,
        backoff: line.backoff,
        backoff_max: line.backoff_max,
        tags: line.tag,
        unique: line.unique,
        unique_for: line.unique_for,
    };
    let options = asks.parse(defaults.now)?.or(&defaults.asks).options()?;
    let queue = line.queue.unwrap_or_else(|| defaults.queue.clone());
    Ok(Some(Item { line: number, job: NewJob { id, queue, body, options }, wait: line.wait }))
}

/// Says what is wrong with a file that is no list of JSON lines at all, and how to make it one.
fn form_fault(text: &[u8]) -> Option<&'static str> {
    let forms: [(&[u8], &str); 4] = [
        (
            b"\xef\xbb\xbf",
            "a UTF-8 byte order mark (BOM) stands before the job: save the file without one, or \
             take it away: tail -c +4 FILE",
        ),
        (b"\xff\xfe", "this is UTF-16: save the file as UTF-8 without a byte order mark"),
        (b"\xfe\xff", "this is UTF-16: save the file as UTF-8 without a byte order mark"),
        (
            b"[",
            "a JSON array begins here: write an object a line, with no brackets around them and no \
             commas between them: jq -c '.[]' FILE",
        ),
    ];
    forms.into_iter().find_map(|(start, fault)| text.starts_with(start).then_some(fault))
}

/// Reads items line by line, in bounded memory.
pub struct Items<'a, R> {
    source: R,
    defaults: &'a Defaults,
    line: u64,
    buffer: Vec<u8>,
}

impl<'a, R: BufRead> Items<'a, R> {
    /// Starts at the first line of a source.
    pub fn new(source: R, defaults: &'a Defaults) -> Self {
        Self { source, defaults, line: 0, buffer: Vec::new() }
    }

    /// Returns the next job; `None` at the end.
    ///
    /// # Errors
    /// A [`Failure`] that names the line.
    pub fn next_item(&mut self) -> Result<Option<Item>, Failure> {
        loop {
            self.buffer.clear();
            self.line += 1;
            let limit = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
            let read = (&mut self.source).take(limit).read_until(b'\n', &mut self.buffer).map_err(
                |error| Failure::new(Exit::Failure, format!("cannot read the batch: {error}")),
            )?;
            if read == 0 {
                return Ok(None);
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                return Err(malformed(self.line, &format!("longer than {LINE_BYTES_MAX} bytes")));
            }
            let parsed = parse_line(self.line, &self.buffer, self.defaults);
            if let Some(item) = parsed.map_err(|why| malformed(self.line, &why))? {
                return Ok(Some(item));
            }
        }
    }
}

fn malformed(line: u64, why: &str) -> Failure {
    Failure::usage(format!("line {line} of the batch: {why}; nothing was submitted"))
        .hint(r#"A line is {"command":["echo","hello"]} or {"queue":"mail","payload":"text"}."#)
}

/// Runs `submit --batch`.
///
/// # Errors
/// A [`Failure`]: a malformed line (nothing was sent), or jobs that were refused or are unknown.
pub fn run(source: &Path, args: &SubmitArgs, session: &Session, out: &mut Out) -> Outcome {
    let mut file = open(source)?;
    let asks = Asks::from(&args.asks);
    // Said once here, not for each line.
    asks.options().map_err(Failure::usage)?;
    let defaults = Defaults { queue: args.queue.clone(), asks, now: clock::wall() };
    let mut checked = Items::new(BufReader::new(&file), &defaults);
    if checked.next_item()?.is_none() {
        narrate("raftq: nothing to submit: there is no job in the batch");
        return Ok(Exit::Ok);
    }
    while checked.next_item()?.is_some() {}
    file.seek(SeekFrom::Start(0)).map_err(|error| {
        Failure::new(Exit::Failure, format!("cannot read the batch again: {error}"))
    })?;
    let deadline = Deadline::after(session.limit());
    let mut sender = Sender::new(session, args.wait);
    let mut items = Items::new(BufReader::new(&file), &defaults);
    match sender.send_all(&mut items, out) {
        Ok(()) => sender.finish(deadline, out),
        Err(failure) => {
            sender.name_from(0);
            Err(failure)
        }
    }
}

/// A job that was taken and whose end is waited for.
struct Waited {
    line: u64,
    id: JobId,
}

/// Collects jobs into requests, sends them and keeps the account.
struct Sender<'a> {
    session: &'a Session,
    wait_all: bool,
    chunk: Vec<Item>,
    chunk_bytes: usize,
    /// What is waited for, in order: see [`WAITED_MAX`].
    waited: Vec<Waited>,
    /// What workers must be or have: see [`NEEDS_TOLD_MAX`].
    needs: BTreeSet<Need>,
    taken: u64,
    refused: u64,
    /// The worst exit code of a refused job.
    worst: Exit,
}

impl<'a> Sender<'a> {
    fn new(session: &'a Session, wait_all: bool) -> Self {
        Self {
            session,
            wait_all,
            chunk: Vec::new(),
            chunk_bytes: 0,
            waited: Vec::new(),
            needs: BTreeSet::new(),
            taken: 0,
            refused: 0,
            worst: Exit::Ok,
        }
    }

    fn send_all<R: BufRead>(
        &mut self,
        items: &mut Items<'_, R>,
        out: &mut Out,
    ) -> Result<(), Failure> {
        while let Some(item) = items.next_item().map_err(|failure| self.changed(&failure))? {
            if self.is_full_for(&item) {
                self.send(out)?;
            }
            self.chunk_bytes = self.chunk_bytes.saturating_add(job_bytes_max(&item.job));
            self.chunk.push(item);
        }
        self.send(out)
    }

    fn is_full_for(&self, item: &Item) -> bool {
        let bytes = self.chunk_bytes.saturating_add(job_bytes_max(&item.job));
        !self.chunk.is_empty() && (self.chunk.len() >= CHUNK_JOBS_MAX || bytes > CHUNK_BYTES_MAX)
    }

    /// Sends the chunk and prints a line for each of its jobs, in order: the id of one that was taken,
    /// nothing for one that was refused, so that lines stay where they belong. Jobs that are waited
    /// for print their output later instead.
    fn send(&mut self, out: &mut Out) -> Result<(), Failure> {
        let chunk = std::mem::take(&mut self.chunk);
        self.chunk_bytes = 0;
        let (Some(first), Some(last)) = (chunk.first(), chunk.last()) else { return Ok(()) };
        let (first, last) = (first.line, last.line);
        let jobs = chunk.iter().map(|item| item.job.clone()).collect();
        let results = self
            .session
            .submit_batch(jobs)
            .map_err(|failure| self.stopped(failure, &chunk, first, last))?;
        let mut shown = Vec::with_capacity(chunk.len());
        for (item, result) in chunk.iter().zip(results) {
            let is_waited = (self.wait_all || item.wait) && self.waited.len() < WAITED_MAX;
            match &result {
                Ok(submitted) => self.take(item, submitted.id, is_waited),
                Err(failure) => self.refuse(item, failure),
            }
            if !is_waited {
                shown.push(BatchShape::new(item.line, &result));
            }
        }
        self.print(&shown, out).map_err(|failure| {
            let taken = shown.iter().filter_map(|shape| shape.id().map(|id| (shape.line(), id)));
            taken
                .for_each(|(line, id)| narrate(&format!("raftq: line {line}: job {id} was taken")));
            let why = format!("the ids could not be printed: {}", failure.message);
            Failure::new(worse(self.worst, Exit::Failure), why)
                .hint(format!("Nothing after line {last} was sent."))
        })
    }

    fn print(&self, shown: &[BatchShape], out: &mut Out) -> Result<(), Failure> {
        for shape in shown {
            if self.session.json() {
                out.json(shape)?;
            } else {
                out.line(shape.id().unwrap_or_default())?;
            }
        }
        out.flush()
    }

    fn take(&mut self, item: &Item, id: JobId, is_waited: bool) {
        self.taken += 1;
        if is_waited {
            self.waited.push(Waited { line: item.line, id });
        }
        if self.needs.len() < NEEDS_TOLD_MAX {
            self.needs.extend(Need::of(&item.job));
        }
    }

    /// Names a job that was refused, or whose outcome is unknown.
    fn refuse(&mut self, item: &Item, failure: &Failure) {
        self.refused += 1;
        self.worst = worse(self.worst, failure.exit);
        let (line, id, program) = (item.line, item.job.id, self.session.program());
        if failure.exit == Exit::Unknown {
            narrate(&format!(
                "raftq: line {line}: it is unknown whether job {id} was taken; ask: {program} get {id}"
            ));
        } else {
            narrate(&format!("raftq: line {line}: job {id} was not taken: {}", failure.message));
        }
    }

    /// Names jobs that were taken and whose ids stand nowhere else, from the first not shown on.
    fn name_from(&self, shown: usize) {
        for Waited { line, id } in self.waited.iter().skip(shown) {
            narrate(&format!("raftq: line {line}: job {id} was taken, and its end was not seen"));
        }
    }

    /// Explains a request that failed as a whole: what is known of its jobs and of those after it.
    fn stopped(&mut self, failure: Failure, chunk: &[Item], first: u64, last: u64) -> Failure {
        let taken = self.taken;
        if failure.exit == Exit::Unknown {
            chunk.iter().for_each(|item| self.refuse(item, &failure));
            return Failure::new(
                Exit::Unknown,
                format!("the outcome of lines {first} to {last} is unknown: {}", failure.message),
            )
            .hint(format!(
                "{taken} jobs before them were taken; nothing after line {last} was sent."
            ));
        }
        let exit = worse(self.worst, failure.exit);
        Failure::new(exit, format!("stopped at line {first}: {}", failure.message))
            .hint(format!("{taken} jobs before it were taken; nothing from line {first} on was."))
    }

    /// Explains a file that changed while it was read.
    fn changed(&self, failure: &Failure) -> Failure {
        let why = failure.message.replace("; nothing was submitted", "");
        Failure::new(
            worse(self.worst, Exit::Failure),
            format!("the batch changed while it was read: {why}"),
        )
        .hint(format!("{} jobs were taken before that.", self.taken))
    }

    /// Sums up, and waits for the jobs where that was asked.
    fn finish(self, deadline: Deadline, out: &mut Out) -> Outcome {
        workers::warn_unserved(&self.needs, deadline, self.session);
        let mut exit = self.worst;
        if !self.waited.is_empty() {
            exit = worse(exit, self.wait(deadline, out)?);
        }
        if self.refused > 0 {
            return Err(Failure::new(
                exit,
                format!("{} jobs were taken, {} were not or are unknown", self.taken, self.refused),
            ));
        }
        Ok(exit)
    }

    /// Waits for the jobs in order, prints the output of each as a `submit --wait` of its own would, and
    /// names those that did not complete.
    fn wait(&self, deadline: Deadline, out: &mut Out) -> Outcome {
        let ids: Vec<JobId> = self.waited.iter().map(|waited| waited.id).collect();
        let mut shown = 0;
        let json = self.session.json();
        let waited = jobs::wait_for_all(self.session, &ids, deadline, |id, result| {
            let line = self.waited.get(shown).map_or(0, |waited| waited.line);
            match result {
                Ok(job) => {
                    if json || job.status.is_final() {
                        submit::print_output(job, json, out)?;
                    }
                    if !job.status.is_final() {
                        let late = jobs::out_of_time(self.session, job);
                        narrate(&format!("raftq: line {line}: {}", late.message));
                    } else if job.status != Status::Completed {
                        narrate(&format!("raftq: line {line}: {}", jobs::describe_end(job)));
                    }
                }
                Err(failure) => {
                    narrate(&format!("raftq: line {line}: job {id}: {}", failure.message));
                }
            }
            shown += 1;
            Ok(())
        });
        waited.map_err(|failure| {
            self.name_from(shown);
            let failure = submit::once_taken(failure);
            Failure { exit: worse(self.worst, failure.exit), ..failure }
        })
    }
}

/// Opens a batch so that it can be read twice: a plain file as it is, anything else copied.
fn open(source: &Path) -> Result<File, Failure> {
    let unreadable = |error: &io::Error| {
        Failure::usage(format!("cannot read the batch from {}: {error}", source.display()))
    };
    if source == Path::new("-") {
        return spool(io::stdin().lock());
    }
    let file = File::open(source).map_err(|error| unreadable(&error))?;
    let kind = file.metadata().map_err(|error| unreadable(&error))?;
    if kind.is_dir() {
        return Err(Failure::usage(format!("{} is a directory, no batch", source.display())));
    }
    if kind.is_file() { Ok(file) } else { spool(file) }
}

/// Copies a stream into a file without a name, so that it can be checked before anything is sent.
fn spool(source: impl Read) -> Result<File, Failure> {
    let failed = |error: io::Error| {
        Failure::new(Exit::Failure, format!("cannot keep the batch aside: {error}"))
    };
    let path = std::env::temp_dir().join(format!("raftq-batch-{}", Session::new_id()));
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    std::fs::remove_file(&path).map_err(failed)?;
    let copied = io::copy(&mut source.take(SPOOL_BYTES_MAX + 1), &mut file).map_err(failed)?;
    if copied > SPOOL_BYTES_MAX {
        return Err(Failure::usage("more than 4 GiB on stdin: put the batch into a file")
            .hint("raftq submit --batch FILE"));
    }
    file.flush().and_then(|()| file.seek(SeekFrom::Start(0))).map_err(failed)?;
    Ok(file)
}

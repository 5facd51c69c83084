//! One command from start to verdict, on a thread of its own in the guard.

use std::fs::File;
use std::io::{self, PipeReader, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::Sender;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open, test_kill_process_group};

use crate::jobs::job::{ERROR_BYTES_MAX, EXIT_TRY_LATER, OUTPUT_BYTES_MAX, Verdict};
use crate::jobs::rules::in_words;
use crate::types::Fence;
use crate::worker::clock::Moment;
use crate::worker::proc::{ENV_ADDRS, ENV_ATTEMPT, ENV_FENCE, ENV_JOB_ID, ENV_QUEUE};
use crate::worker::protocol::{Event, Start};
use crate::worker::table::{Shared, Taken, Which};

/// How long output is read after a command has ended, at most: a process that escaped the kill may
/// hold the pipe for ever. What it writes later is lost, and it hears `SIGPIPE`.
const DRAIN: Duration = Duration::from_millis(100);

/// How often a drain looks for orphans again.
const DRAIN_STEP: Duration = Duration::from_millis(5);

/// Bytes of output read at once.
const READ_BYTES: usize = 64 << 10;

/// The bytes of a program's name that are quoted in an error, at most.
const PROGRAM_BYTES_QUOTED: usize = 256;

/// Bytes of one argument, its closing zero included, that Linux gives to a program at most
/// (`MAX_ARG_STRLEN`, 32 pages; only machines with larger pages take more).
const ARGUMENT_BYTES_MAX: usize = 128 << 10;

/// Runs a command that is already in the table, and tells its start and its end.
pub(super) fn run(start: &Start, addrs: Option<&str>, table: &Shared, events: &Sender<Event>) {
    let fence = start.fence;
    let verdict = match spawn(start, addrs, table) {
        Ok((child, output)) => {
            tell(events, Event::Started { fence, pid: child.id() });
            attend(fence, child, output, table)
        }
        Err(error) => failed(None, Tail::default(), error),
    };
    let taken = {
        let mut table = table.lock();
        let taken = table.taken(fence);
        table.close(fence);
        taken
    };
    tell(events, ended(fence, verdict, taken, start.timeout_ms.unwrap_or_default()));
    table.lock().threads -= 1;
}

/// Waits for room, if need be: a node that does not read holds up reports, not kills.
fn tell(events: &Sender<Event>, event: Event) {
    if events.send(event).is_err() {
        log::debug!("the pipe to the node is closed");
    }
}

/// A command that ended by its own choice before the guard's signal reached it is no taken one,
/// unless it was asked to end and obeyed.
fn ended(fence: Fence, mut verdict: Verdict, taken: Option<Taken>, timeout_ms: u64) -> Event {
    let taken = taken.filter(|why| *why != Taken::LeaseLost || verdict.exit_code.is_none());
    match taken {
        Some(Taken::LeaseLost) => verdict.error = Some("lease lost".into()),
        Some(Taken::Ordered) => verdict.error = Some("ended by order".into()),
        // However it ended then, it took too long: that is its verdict.
        Some(Taken::TimedOut) => {
            verdict.completed = false;
            verdict.error = Some(format!("timed out after {}", in_words(timeout_ms)));
        }
        None => {}
    }
    let taken = taken.is_some_and(|why| why != Taken::TimedOut);
    Event::Ended { fence, verdict, taken }
}

fn spawn(
    start: &Start,
    addrs: Option<&str>,
    table: &Shared,
) -> Result<(Child, PipeReader), String> {
    if table.lock().taken(start.fence).is_some() {
        return Err("not started".into());
    }
    let Some((program, arguments)) = start.argv.split_first() else {
        return Err("cannot start an empty command".into());
    };
    let spawned = io::pipe().and_then(|(reader, writer)| {
        let stdout = writer.try_clone()?;
        let stdin = start.stdin.as_deref().map(input).transpose()?;
        // The command value holds the pipe's write ends; it is gone after this block, so that the
        // end of the pipe can come.
        let child = std::process::Command::new(program)
            .args(arguments)
            .env(ENV_JOB_ID, start.job.to_string())
            .env(ENV_ATTEMPT, start.attempt.to_string())
            .env(ENV_FENCE, start.fence.to_string())
            .env(ENV_QUEUE, start.queue.as_str())
            .envs(addrs.map(|addrs| (ENV_ADDRS, addrs)))
            .stdin(stdin.map_or_else(Stdio::null, Stdio::from))
            .stdout(stdout)
            .stderr(writer)
            .process_group(0)
            .spawn()?;
        Ok((child, reader))
    });
    match spawned {
        Ok((child, reader)) => {
            table.lock().started(start.fence, Pid::from_child(&child));
            Ok((child, reader))
        }
        Err(error) => {
            let program = cut_text(program, PROGRAM_BYTES_QUOTED);
            let too_long_for_it = error.kind() == io::ErrorKind::ArgumentListTooLong;
            let why = if too_long_for_it { too_long(&start.argv) } else { error.to_string() };
            Err(format!("cannot start '{program}': {why}"))
        }
    }
}

/// Makes a file in memory of what a command reads: unlike a pipe it needs nobody who writes.
fn input(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create("raftq-stdin", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

/// Says which limit of the system a command is above.
fn too_long(argv: &[String]) -> String {
    let longest = argv.iter().enumerate().max_by_key(|(_, word)| word.len());
    match longest {
        Some((place, word)) if word.len() >= ARGUMENT_BYTES_MAX => {
            let (bytes, most) = (word.len(), ARGUMENT_BYTES_MAX - 1);
            format!(
                "argument {place} is too long: {bytes} bytes, and the system takes {most} at most"
            )
        }
        Some(_) | None => {
            let bytes: usize = argv.iter().map(|word| word.len() + 1).sum();
            format!(
                "its arguments ({bytes} bytes) and the environment are together longer than the \
                 system takes (a quarter of the limit on the stack, as `ulimit -s` tells it)"
            )
        }
    }
}

/// Stays with a running command until it and its group are gone.
fn attend(fence: Fence, mut child: Child, output: PipeReader, table: &Shared) -> Verdict {
    let group = Pid::from_child(&child);
    let mut output = Output::new(output);
    match pidfd_open(group, PidfdFlags::empty()) {
        Ok(process) => output.read_until_ended(&process),
        // Too many descriptors are open, most likely. A command that nobody watches is not run.
        Err(error) => {
            let status = table.lock().reap(fence, &mut child);
            log::warn!("fence {fence} was ended unwatched: {status:?}");
            return failed(None, output.tail, format!("cannot watch the command: {error}"));
        }
    }
    let status = table.lock().reap(fence, &mut child);
    drain(fence, group, &mut output, table);
    match status {
        Ok(status) => verdict_of(status, output.tail),
        Err(error) => failed(None, output.tail, format!("cannot wait for the command: {error}")),
    }
}

/// Reads what is left and ends who is left, until nobody is, for [`DRAIN`] at most.
fn drain(fence: Fence, group: Pid, output: &mut Output, table: &Shared) {
    let end = Moment::now().after(DRAIN);
    loop {
        let orphans = table.sweep(Which::Of(fence));
        // The number may belong to a new group by now: asking it harms nobody.
        let group_lives = test_kill_process_group(group).is_ok();
        if !output.open && orphans == 0 && !group_lives {
            return;
        }
        if Moment::now() >= end {
            log::debug!("fence {fence}: {orphans} orphans, group alive: {group_lives}");
            return;
        }
        if output.open {
            output.step(None, Some(DRAIN_STEP));
        } else {
            std::thread::sleep(DRAIN_STEP);
        }
    }
}

/// What a command writes, as it comes.
struct Output {
    pipe: File,
    open: bool,
    tail: Tail,
    chunk: Vec<u8>,
}

impl Output {
    fn new(pipe: PipeReader) -> Self {
        let pipe = File::from(OwnedFd::from(pipe));
        Self { pipe, open: true, tail: Tail::default(), chunk: vec![0; READ_BYTES] }
    }

    /// Reads until the process has ended, whether or not its pipe has.
    fn read_until_ended(&mut self, process: &OwnedFd) {
        while !self.step(Some(process), None) {}
    }

    /// Waits for output or the end of the process, then reads once. Returns whether it has ended.
    fn step(&mut self, process: Option<&OwnedFd>, patience: Option<Duration>) -> bool {
        let mut fds = Vec::with_capacity(2);
        fds.extend(process.map(|process| PollFd::new(process, PollFlags::IN)));
        if self.open {
            fds.push(PollFd::new(&self.pipe, PollFlags::IN));
        }
        let patience = patience.and_then(|span| Timespec::try_from(span).ok());
        match poll(&mut fds, patience.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return false,
            Err(error) => {
                log::error!("cannot poll a command: {error}");
                self.open = false;
                return true;
            }
        }
        let ready = |fd: Option<&PollFd<'_>>| fd.is_some_and(|fd| !fd.revents().is_empty());
        let ended = process.is_some() && ready(fds.first());
        let readable = self.open && ready(fds.last());
        if readable {
            self.read();
        }
        ended
    }

    /// Reads once from a pipe that has something, or has ended.
    fn read(&mut self) {
        match self.pipe.read(&mut self.chunk) {
            Ok(0) => self.open = false,
            Ok(count) => self.tail.push(self.chunk.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                log::warn!("cannot read a command's output: {error}");
                self.open = false;
            }
        }
    }
}

/// The last [`OUTPUT_BYTES_MAX`] bytes of what was pushed.
#[derive(Debug, Default)]
struct Tail {
    /// At most twice the limit, so that a byte is moved once on average.
    bytes: Vec<u8>,
    cut: bool,
}

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        let kept = bytes.len().min(OUTPUT_BYTES_MAX);
        self.cut |= kept < bytes.len();
        self.bytes.extend_from_slice(bytes.get(bytes.len() - kept..).unwrap_or_default());
        if self.bytes.len() > 2 * OUTPUT_BYTES_MAX {
            self.trim();
        }
    }

    fn trim(&mut self) {
        let surplus = self.bytes.len().saturating_sub(OUTPUT_BYTES_MAX);
        self.cut |= surplus > 0;
        self.bytes.drain(..surplus);
    }

    fn into_output(mut self) -> (Bytes, bool) {
        self.trim();
        (Bytes::from(self.bytes), self.cut)
    }
}

fn verdict_of(status: ExitStatus, tail: Tail) -> Verdict {
    match (status.code(), status.signal()) {
        (Some(0), _) => {
            let (output, output_cut) = tail.into_output();
            Verdict { completed: true, exit_code: Some(0), output, output_cut, error: None }
        }
        (Some(EXIT_TRY_LATER), _) => {
            let error = format!("asked to be tried again later: exited with code {EXIT_TRY_LATER}");
            failed(Some(EXIT_TRY_LATER), tail, error)
        }
        (Some(code), _) => failed(Some(code), tail, format!("exited with code {code}")),
        (None, Some(signal)) => failed(None, tail, killed_by(signal)),
        (None, None) => failed(None, tail, format!("ended strangely: {status}")),
    }
}

fn failed(exit_code: Option<i32>, tail: Tail, error: String) -> Verdict {
    let (output, output_cut) = tail.into_output();
    let error = Some(cut_text(&error, ERROR_BYTES_MAX).into());
    Verdict { completed: false, exit_code, output, output_cut, error }
}

fn killed_by(signal: i32) -> String {
    match signal_name(signal) {
        Some(name) => format!("killed by signal {signal} ({name})"),
        None => format!("killed by signal {signal}"),
    }
}

/// The signals whose numbers are the same on every Linux we run on.
fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        10 => "SIGUSR1",
        11 => "SIGSEGV",
        12 => "SIGUSR2",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        _ => return None,
    })
}

/// Returns the longest beginning of a text that fits, cut between characters.
fn cut_text(text: &str, bytes_max: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes_max)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_keeps_the_last_bytes_and_says_when_it_cut() {
        let mut tail = Tail::default();
        tail.push(&vec![b'a'; OUTPUT_BYTES_MAX]);
        assert!(!tail.cut);
        for _ in 0..3 * OUTPUT_BYTES_MAX {
            tail.push(b"b");
        }
        assert!(tail.bytes.len() <= 2 * OUTPUT_BYTES_MAX);
        let (output, cut) = tail.into_output();
        assert_eq!(output, vec![b'b'; OUTPUT_BYTES_MAX]);
        assert!(cut);
    }

    #[test]
    fn tail_of_exactly_the_limit_is_not_cut() {
        let mut tail = Tail::default();
        tail.push(&vec![b'a'; OUTPUT_BYTES_MAX - 1]);
        tail.push(b"b");
        let (output, cut) = tail.into_output();
        assert_eq!((output.len(), cut), (OUTPUT_BYTES_MAX, false));
    }

    #[test]
    fn tail_of_one_huge_push_keeps_its_end() {
        let mut tail = Tail::default();
        let mut bytes = vec![b'a'; 5 * OUTPUT_BYTES_MAX];
        bytes.push(b'z');
        tail.push(&bytes);
        let (output, cut) = tail.into_output();
        assert_eq!((output.len(), output.last(), cut), (OUTPUT_BYTES_MAX, Some(&b'z'), true));
    }

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(cut_text("aé", 2), "a");
        assert_eq!(cut_text("aé", 3), "aé");
    }

    #[test]
    fn signals_are_named_where_known() {
        assert_eq!(killed_by(9), "killed by signal 9 (SIGKILL)");
        assert_eq!(killed_by(40), "killed by signal 40");
    }
}

//! The verb `submit`: one job from the command line (many are in [`crate::cli::batch`]).

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;

use crate::cli::asks::{AskArgs, Asks};
use crate::cli::batch;
use crate::cli::deadline::Deadline;
use crate::cli::exit::{Exit, Failure, Outcome, narrate};
use crate::cli::jobs;
use crate::cli::out::{Out, stdout_may_be_closed};
use crate::cli::session::Session;
use crate::cli::shape::{JobShape, SubmittedShape};
use crate::cli::times;
use crate::cli::workers::{self, Need};
use crate::jobs::job::{BODY_BYTES_MAX, Body, JobView, NewJob, Status};
use crate::types::{JobId, QueueName};
use crate::wire::message::Submitted;

/// Bytes of one word of a command, at most: Linux's `MAX_ARG_STRLEN`, 128 KiB, less the zero byte at
/// its end. A longer word fits into a job and can never be run, so that it is refused here.
pub const WORD_BYTES_MAX: usize = (128 << 10) - 1;

const EXAMPLES: &str = "\
Examples:
  raftq submit -- echo hello                       prints the job's id
  raftq submit --wait -- sh -c 'date; hostname'    prints what the command prints
  raftq submit --queue mail --payload @letter.txt  bytes for a worker of your own
  raftq submit --in 10m --retries 3 -- ./fetch     in ten minutes; up to four attempts
  raftq submit --at 03:00 --ttl 1h -- ./backup     at three at night, or not at all by four
  raftq submit --tag gpu --priority 9 -- ./train   on a node started with --tag gpu, before others
  raftq submit --batch jobs.jsonl                  a job a line, an id a line:
      {\"command\":[\"sh\",\"-c\",\"sleep 1; date\"]}
      {\"queue\":\"mail\",\"payload\":\"some text\",\"in\":\"10m\",\"retries\":3}
      {\"command\":[\"./train\"],\"tag\":[\"gpu\",\"zone=a\"],\"job-timeout\":\"2h\"}

The id is printed once the job is on the disks of a majority of the nodes, never before. Exit code
6 means that nobody knows whether it was taken: the message has the command that asks again, which
is safe, because the same id is never taken twice. Should the id not reach stdout (a full disk, a
closed pipe), the exit code is 1 and the message names the job: it was taken all the same. A stdout
closed from the start looks like /dev/null: then stderr names the job, and the exit code is 0.

Lines of a batch take every option by its long name; what the command line says holds for lines that
do not. A batch prints a line for each job, in order: its id, or an empty line for one that was refused
(stderr says which line of the batch that was, and why). Jobs that are waited for, all with --wait
or those with \"wait\":true, print their output instead, after the ids and in order; stderr names each
that did not complete. With --json each object of a job not waited for has its \"line\".
Exit code 6, 7, 4, 2, 3, 1 or 8: the first of these that holds for any job, else 0.

A word of a command has at most 131071 bytes, all of them together 1 MiB; so has a payload.

Inside the command RAFTQ_JOB_ID, RAFTQ_QUEUE, RAFTQ_ATTEMPT, RAFTQ_FENCE and RAFTQ_ADDRS are set, and raftq
progress 40 says how far it is. Exit code 75 asks to be tried again later. A command can run twice:
when its node is lost, another one starts it again with the next attempt and a higher fence.";

/// Options of `submit`.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES, override_usage = "raftq submit [OPTIONS] -- CMD [ARG]...\n       \
    raftq submit [OPTIONS] --payload TEXT|@FILE|-\n       raftq submit [OPTIONS] --batch FILE|-")]
pub struct SubmitArgs {
    /// The command and its arguments, run by a node without a shell in between.
    #[arg(last = true, value_name = "CMD", conflicts_with_all = ["payload", "batch"])]
    pub command: Vec<String>,

    /// The queue; each is first in, first out.
    #[arg(long, value_name = "Q", default_value = "default")]
    pub queue: QueueName,

    /// The job's id, 32 hexadecimal digits. Made up when left out; give it to send a submit again
    /// whose outcome is unknown.
    #[arg(long, value_name = "ID", conflicts_with = "batch")]
    pub id: Option<JobId>,

    /// Wait until the job has ended and print its output instead of its id; exit code 8 if it failed.
    #[arg(long)]
    pub wait: bool,

    /// Bytes for a worker of your own that serves the queue: a text, the content of a file, or
    /// (-) everything on stdin. Nodes run commands only: it waits until such a worker comes.
    #[arg(long, value_name = "TEXT|@FILE|-", allow_hyphen_values = true)]
    #[arg(conflicts_with = "batch")]
    pub payload: Option<String>,

    /// Many jobs, a JSON object a line, from a file or (-) stdin. If any line is wrong, nothing is
    /// submitted. A batch without a job is no mistake.
    #[arg(long, value_name = "FILE|-")]
    pub batch: Option<PathBuf>,

    /// When, before whom, where, for how long and how often.
    #[command(flatten)]
    pub asks: AskArgs,
}

/// Runs `submit`.
///
/// # Errors
/// A [`Failure`] that says what happened to the job.
pub fn run(args: &SubmitArgs, session: &Session, out: &mut Out) -> Outcome {
    if let Some(source) = &args.batch {
        return batch::run(source, args, session, out);
    }
    let deadline = Deadline::after(session.limit());
    let id = args.id.unwrap_or_else(Session::new_id);
    let options = Asks::from(&args.asks).options().map_err(Failure::usage)?;
    let job = NewJob { id, queue: args.queue.clone(), body: body(args)?, options };
    if let Some(fault) = fault(&job.body) {
        return Err(Failure::usage(fault));
    }
    let needs: BTreeSet<Need> = Need::of(&job).into_iter().collect();
    let submitted = session.submit(job).map_err(|failure| explain(failure, id, args, session))?;
    if submitted.id != id {
        narrate(&format!("raftq: job {} has this key: no other was made", submitted.id));
    }
    let id = submitted.id;
    if !args.wait {
        print_id(&submitted, session, out)?;
    } else if io::stderr().is_terminal() {
        narrate(&format!(
            "raftq: job {id} is taken; waiting for its end (ctrl-c leaves it running)"
        ));
    }
    // A time of day leaves open which day was meant, and whose clock.
    if let Some(at) = args.asks.at.filter(|_| io::stderr().is_terminal()) {
        narrate(&format!("raftq: job {id} waits until {}", times::written(at)));
    }
    workers::warn_unserved(&needs, deadline, session);
    if !args.wait {
        return Ok(Exit::Ok);
    }
    let job = jobs::wait_for_one(session, id, deadline).map_err(|failure| {
        // The job is there, whatever became of the wait: it has to be named.
        let is_named = failure.exit == Exit::Unknown && failure.message.contains(&id.to_string());
        let failure = once_taken(failure);
        if is_named {
            return failure;
        }
        let message = format!("job {id} was taken, and its end was not seen: {}", failure.message);
        Failure::new(failure.exit, message)
            .hint(format!("Wait on: {} wait {id}", session.program()))
    })?;
    print_end(&job, session, out)
}

/// Prints the id of a job that was taken; where that is impossible, it is said on stderr.
fn print_id(submitted: &Submitted, session: &Session, out: &mut Out) -> Result<(), Failure> {
    let id = submitted.id;
    let printed = if session.json() {
        out.json(&SubmittedShape::from(submitted))
    } else {
        out.line(&id.to_string())
    };
    printed.and_then(|()| out.flush()).map_err(|failure| {
        let why = failure.message;
        Failure::new(Exit::Failure, format!("job {id} was taken, and its id not printed: {why}"))
            .hint(format!("Ask for it: {} get {id}", session.program()))
    })?;
    if stdout_may_be_closed() {
        narrate(&format!("raftq: job {id} was taken; stdout is closed or /dev/null"));
    }
    Ok(())
}

/// Turns the failure of a wait into what it means for a job that was taken: nobody was reached to ask how
/// it ends, so that its outcome is unknown. Exit code 4 would say that nothing will happen.
#[must_use]
pub fn once_taken(failure: Failure) -> Failure {
    match failure.exit {
        Exit::Unreachable => Failure { exit: Exit::Unknown, ..failure },
        Exit::Ok
        | Exit::Failure
        | Exit::Usage
        | Exit::NotFound
        | Exit::Unhealthy
        | Exit::Unknown
        | Exit::Denied
        | Exit::JobFailed
        | Exit::Interrupted
        | Exit::Terminated => failure,
    }
}

/// Says why this is no body of a job, or none that a node could run.
#[must_use]
pub fn fault(body: &Body) -> Option<String> {
    let too_long = match body {
        Body::Command(words) => {
            words.iter().enumerate().find(|(_, word)| word.len() > WORD_BYTES_MAX)
        }
        Body::Payload(_) => None,
    };
    body.fault().or(too_long.map(|(at, word)| {
        format!(
            "word {} of the command has {} bytes; Linux starts no program with a word of more than \
             {WORD_BYTES_MAX}: put it into a file that the command reads",
            at + 1,
            word.len()
        )
    }))
}

/// Prints what a job left behind: its output as it is, or one JSON object.
///
/// # Errors
/// A [`Failure`] of stdout, that names the job.
pub fn print_output(job: &JobView, json: bool, out: &mut Out) -> Result<(), Failure> {
    let printed = if json { out.json(&JobShape::from(job)) } else { out.bytes(&job.output) };
    printed.and_then(|()| out.flush()).map_err(|failure| {
        let why = format!("its output was not printed: {}", failure.message);
        Failure { message: format!("{}; {why}", jobs::describe_end(job)), ..failure }
    })?;
    if job.output_cut && !json {
        let id = job.id;
        narrate(&format!("raftq: only the last 16 KiB of the output of job {id} are kept"));
    }
    Ok(())
}

/// Prints what a job left behind, and says how it ended.
fn print_end(job: &JobView, session: &Session, out: &mut Out) -> Outcome {
    print_output(job, session.json(), out).map_err(|failure| {
        failure.hint(format!("Ask for it: {} get {}", session.program(), job.id))
    })?;
    if job.status == Status::Completed {
        return Ok(Exit::Ok);
    }
    Err(Failure::new(Exit::JobFailed, jobs::describe_end(job)))
}

/// Takes the job's body from the command line, a file or stdin.
fn body(args: &SubmitArgs) -> Result<Body, Failure> {
    if let Some(payload) = &args.payload {
        return payload_bytes(payload).map(Body::Payload);
    }
    if args.command.is_empty() {
        return Err(Failure::usage("submit what? Put the command after two dashes")
            .hint("raftq submit -- echo hello")
            .hint("raftq submit --wait -- sh -c 'date; hostname'")
            .hint("raftq submit --queue mail --payload 'some text'")
            .hint("For everything: raftq submit --help"));
    }
    Ok(Body::Command(args.command.clone()))
}

/// Reads a payload, `TEXT`, `@FILE` or `-`, and no more of it than a job may have.
pub(super) fn payload_bytes(text: &str) -> Result<Bytes, Failure> {
    if text == "-" {
        return read_bounded(io::stdin().lock(), "stdin");
    }
    let Some(path) = text.strip_prefix('@') else {
        return Ok(Bytes::copy_from_slice(text.as_bytes()));
    };
    let file = File::open(path)
        .map_err(|error| Failure::usage(format!("cannot read the payload from {path}: {error}")))?;
    read_bounded(file, path)
}

fn read_bounded(source: impl Read, name: &str) -> Result<Bytes, Failure> {
    let mut bytes = Vec::new();
    // One byte more than allowed tells a payload that just fits from one that does not.
    let limit = u64::try_from(BODY_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    source
        .take(limit)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::usage(format!("cannot read the payload from {name}: {error}")))?;
    if bytes.len() > BODY_BYTES_MAX {
        return Err(Failure::usage(format!(
            "the payload in {name} is over the limit of {BODY_BYTES_MAX} bytes (1 MiB)"
        ))
        .hint("Put it where workers can read it, and submit its name."));
    }
    Ok(Bytes::from(bytes))
}

/// Adds to a failed submit what the user can do about it.
fn explain(failure: Failure, id: JobId, args: &SubmitArgs, session: &Session) -> Failure {
    if failure.exit != Exit::Unknown {
        return failure;
    }
    let program = session.program();
    let mut again = format!("{program} submit --id {id}");
    if args.queue != QueueName::default() {
        again.push_str(&format!(" --queue {}", args.queue));
    }
    again.push_str(&Asks::from(&args.asks).flags());
    if args.wait {
        again.push_str(" --wait");
    }
    if let Some(payload) = &args.payload {
        again.push_str(&format!(" --payload {}", quote(payload)));
    } else {
        again.push_str(" --");
        args.command.iter().for_each(|word| {
            again.push(' ');
            again.push_str(&quote(word));
        });
    }
    let message = format!("it is unknown whether job {id} was taken: {}", failure.message);
    Failure::new(Exit::Unknown, message)
        .hint(format!("Ask for it:                                 {program} get {id}"))
        .hint(format!("Or send it again (it is never taken twice): {again}"))
}

/// Quotes a word for a shell, if it needs it.
#[must_use]
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./:=,@%+-".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell_only_where_needed() {
        assert_eq!(quote("echo"), "echo");
        assert_eq!(quote(""), "''");
        assert_eq!(quote("sleep 1; echo $X"), "'sleep 1; echo $X'");
        assert_eq!(quote("it's"), r"'it'\''s'");
    }
}

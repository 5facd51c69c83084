//! The verb `submit`: one job from the command line (many are in [`crate::cli::batch`]).

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;

use crate::cli::batch;
use crate::cli::deadline::Deadline;
use crate::cli::exit::{Exit, Failure, Outcome, narrate};
use crate::cli::jobs;
use crate::cli::out::Out;
use crate::cli::session::Session;
use crate::cli::shape::{JobShape, SubmittedShape};
use crate::jobs::job::{BODY_BYTES_MAX, Body, JobView, NewJob, Status};
use crate::types::{JobId, QueueName};

const EXAMPLES: &str = "\
Examples:
  raftq submit -- echo hello                       prints the job's id
  raftq submit --wait -- sh -c 'date; hostname'    prints what the command prints
  raftq submit --queue mail --payload @letter.txt  bytes for a worker of your own
  raftq submit --batch jobs.jsonl                  a job a line, an id a line:
      {\"command\":[\"sh\",\"-c\",\"sleep 1; date\"]}
      {\"queue\":\"mail\",\"payload\":\"some text\"}

The id is printed once the job is on the disks of a majority of the nodes, never before. Exit code
6 means that nobody knows whether it was taken: the message has the command that asks again, which
is safe, because the same id is never taken twice.

Inside the command RAFTQ_JOB_ID, RAFTQ_ATTEMPT and RAFTQ_FENCE are set. A command can run twice:
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

    /// Wait until the job has ended and print its output; exit code 8 if it failed.
    #[arg(long)]
    pub wait: bool,

    /// Bytes for a worker of your own that serves the queue: a text, the content of a file, or
    /// (-) everything on stdin. Nodes run commands only.
    #[arg(long, value_name = "TEXT|@FILE|-", allow_hyphen_values = true)]
    #[arg(conflicts_with = "batch")]
    pub payload: Option<String>,

    /// Many jobs, a JSON object a line, from a file or (-) stdin. If any line is wrong, nothing is
    /// submitted.
    #[arg(long, value_name = "FILE|-")]
    pub batch: Option<PathBuf>,
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
    let job = NewJob {
        id: args.id.unwrap_or_else(Session::new_id),
        queue: args.queue.clone(),
        body: body(args)?,
    };
    if let Some(fault) = job.body.fault() {
        return Err(Failure::usage(fault));
    }
    let id = job.id;
    let submitted = session.submit(job).map_err(|failure| explain(failure, id, args, session))?;
    if !args.wait {
        let printed = if session.json() {
            out.json(&SubmittedShape::from(&submitted))
        } else {
            out.line(&id.to_string())
        };
        return printed.and_then(|()| out.flush()).map(|()| Exit::Ok);
    }
    if io::stderr().is_terminal() {
        narrate(&format!(
            "raftq: job {id} is taken; waiting for its end (ctrl-c leaves it running)"
        ));
    }
    let job = jobs::wait_for_one(session, id, deadline)?;
    print_end(&job, session.json(), out)
}

/// Prints what a job left behind, and says how it ended.
///
/// # Errors
/// A [`Failure`] of stdout, or that the job failed.
fn print_end(job: &JobView, json: bool, out: &mut Out) -> Outcome {
    if json {
        out.json(&JobShape::from(job))?;
    } else {
        out.bytes(&job.output)?;
    }
    out.flush()?;
    if job.output_cut && !json {
        narrate("raftq: the beginning of the output was dropped, only its last 16 KiB are kept");
    }
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
fn payload_bytes(text: &str) -> Result<Bytes, Failure> {
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

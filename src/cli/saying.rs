//! The verbs `progress` and `result`: what a running job says of itself, and what it leaves when it is done.

use clap::Args;

use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::out::Out;
use crate::cli::session::Session;
use crate::cli::submit::print_output;
use crate::jobs::intake::{NOTE_BYTES_MAX, PERCENT_MAX, ProgressReport};
use crate::jobs::job::Status;
use crate::types::{Fence, JobId};
use crate::worker::proc::{ENV_FENCE, ENV_JOB_ID};

/// Options of `progress`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "To be called by a command that runs as a job: it takes the job from RAFTQ_JOB_ID and RAFTQ_FENCE and the\n\
    cluster from RAFTQ_ADDRS, as every job's command has them. raftq get, show and list show what was said\n\
    last, also once the job has ended. Exit code 1 if the job was taken away from this attempt meanwhile.\n\n\
    Example:\n  raftq progress 40 'two of five files'"
)]
pub struct ProgressArgs {
    /// How far the job is, 0 to 100.
    #[arg(value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=i64::from(PERCENT_MAX)))]
    #[arg(allow_negative_numbers = true)]
    pub percent: u8,

    /// Where it is, in a few words: 256 bytes at most.
    #[arg(value_name = "NOTE")]
    pub note: Option<String>,
}

/// Options of `result`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "The bytes are printed as they are, and nothing else. Exit code 0 if the job has completed, 8 if it failed or\n\
    was cancelled, 6 if it has not ended (raftq wait ID waits for it), 3 if it does not exist. Of a command's\n\
    output the last 16 KiB are kept; a result of a worker's handler is whole or none."
)]
pub struct ResultArgs {
    /// The job.
    #[arg(value_name = "ID")]
    pub id: JobId,
}

/// Runs `progress`.
///
/// # Errors
/// A [`Failure`] of usage outside of a job, or of the request.
pub fn progress(args: &ProgressArgs, session: &Session) -> Outcome {
    let note = args.note.clone().unwrap_or_default();
    if note.len() > NOTE_BYTES_MAX {
        let text = format!("a note of {} bytes; at most {NOTE_BYTES_MAX}", note.len());
        return Err(Failure::usage(text));
    }
    let job: JobId = from_environment(ENV_JOB_ID, |text| text.parse().ok())?;
    let fence = from_environment(ENV_FENCE, |text| text.parse().ok().map(Fence))?;
    session.report_progress(ProgressReport { job, fence, percent: args.percent, note })?;
    Ok(Exit::Ok)
}

fn from_environment<T>(name: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T, Failure> {
    let text = std::env::var(name).map_err(|_unset| {
        Failure::usage(format!(
            "{name} is not set: raftq progress is for commands that run as a job"
        ))
    })?;
    parse(&text)
        .ok_or_else(|| Failure::usage(format!("{name} is {text:?}, which is none of raftq's")))
}

/// Runs `result`.
///
/// # Errors
/// A [`Failure`] of the request or of stdout, or that there is no result.
pub fn result(args: &ResultArgs, session: &Session, out: &mut Out) -> Outcome {
    let job = session.get(args.id)?;
    match job.status {
        Status::Completed => {
            print_output(&job, session.json(), out)?;
            out.flush().map(|()| Exit::Ok)
        }
        Status::Failed | Status::Cancelled => {
            let why = job.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
            let text = format!("job {} has no result, it is {}{why}", job.id, job.status.as_str());
            Err(Failure::new(Exit::JobFailed, text))
        }
        Status::Pending | Status::Running => {
            let hint = format!("Wait for it: {} wait {}", session.program(), job.id);
            let text = format!("job {} has no result yet, it is {}", job.id, job.status.as_str());
            Err(Failure::new(Exit::Unknown, text).hint(hint))
        }
    }
}

//! The verb `worker`: run a worker that hands payloads to a command, and decide about workers that run.

use std::time::Duration;

use clap::{Args, Subcommand};
use futures::channel::oneshot;
use futures::future::{Either, select};
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cli::exec::{Exec, WORDS_BYTES_MAX};
use crate::cli::exit::{Effect, Exit, Failure, Outcome, narrate};
use crate::cli::out::Out;
use crate::cli::session::{Session, failure_of};
use crate::cli::values;
use crate::cli::workers::{self, WorkersArgs};
use crate::client::blocking::run_worker_or;
use crate::client::duty::{StopReason, StopReport};
use crate::client::worker::Worker;
use crate::jobs::intake::Intake;
use crate::jobs::job::WORKER_SLOTS_MAX;
use crate::types::{QueueName, Tag, WorkerId};

/// Options of `worker`.
#[derive(Clone, Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  \
    raftq worker --queue mail --slots 8 --exec ./send-mail\n  \
    raftq worker --queue thumbs --tag gpu --name thumbs-1 --exec sh -c 'convert - -resize 64 png:-'\n  \
    raftq worker list\n  \
    raftq worker quiet thumbs-1      give it no more jobs; it stays, over restarts too\n  \
    raftq worker resume thumbs-1     the end of a quiet, and of a drain that is not over\n  \
    raftq worker drain thumbs-1      let it finish what it runs and end with exit code 0\n\n\
    --exec comes last: every word after it belongs to the command. For each job the command is started with the\n\
    payload on its stdin and with RAFTQ_JOB_ID, RAFTQ_QUEUE, RAFTQ_ATTEMPT, RAFTQ_FENCE and RAFTQ_ADDRS. What it\n\
    prints is kept (the last 16 KiB). Exit code 0: the job has completed; 75 (EX_TEMPFAIL): try it again later, which\n\
    uses up no attempt, at most 1000 times; any other: the attempt has failed. Inside it, raftq progress 40 'a note'\n\
    says how far it is.\n\n\
    SIGTERM or SIGINT: no more jobs; those that run may end within --grace, then they are given back. A second one\n\
    ends everything at once. Should this process die or stand still, its commands are ended by a guard, and the\n\
    jobs are given to other workers within about 3 s. Exit code 1 if another worker of this name begins."
)]
pub struct WorkerArgs {
    /// What to do instead of running a worker.
    #[command(subcommand)]
    pub verb: Option<WorkerVerb>,

    /// A queue whose payloads it takes. May be given up to 64 times.
    #[arg(long = "queue", value_name = "Q")]
    pub queues: Vec<QueueName>,

    /// How many jobs it runs at once.
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true)]
    pub slots: u32,

    /// What it has, such as gpu or zone=a, for jobs that ask for it (submit --tag). May be given up to 16 times.
    #[arg(long = "tag", value_name = "TAG")]
    pub tags: Vec<Tag>,

    /// Its name, which no other worker that runs may have [default: one drawn at random].
    #[arg(long, value_name = "NAME")]
    pub name: Option<WorkerId>,

    /// How long running jobs may go on after SIGTERM before they are given back.
    #[arg(long, value_name = "DUR", default_value = "10s", value_parser = values::duration, allow_hyphen_values = true)]
    pub grace: Duration,

    /// Say a line on stderr for each job.
    #[arg(short, long)]
    pub verbose: bool,

    /// The command for each job, and its arguments. Must come last.
    #[arg(long, value_name = "CMD", num_args = 1.., allow_hyphen_values = true)]
    pub exec: Vec<String>,
}

/// The verbs of `worker`.
#[derive(Clone, Debug, Subcommand)]
pub enum WorkerVerb {
    /// List the workers that take jobs, as `raftq workers` does.
    List(WorkersArgs),
    /// Give it no more jobs, and have it end once it has finished those that it runs. (One built into a node ends
    /// with its node only.)
    Drain(NameArgs),
    /// Give it no more jobs; it stays, and so does this when it is started anew.
    Quiet(NameArgs),
    /// Give it jobs again.
    Resume(NameArgs),
}

/// Options of the verbs about one worker.
#[derive(Clone, Debug, Args)]
pub struct NameArgs {
    /// The worker (node 2's own is node-2).
    #[arg(value_name = "NAME")]
    pub worker: WorkerId,
}

/// What was decided: the object of `worker drain`, `quiet` and `resume`.
#[derive(Clone, Debug, Serialize)]
struct Decided {
    worker: String,
    intake: &'static str,
    running: u32,
}

impl WorkerArgs {
    /// Tells whether it only shows what can be shown again.
    #[must_use]
    pub fn is_shown(&self) -> bool {
        matches!(self.verb, Some(WorkerVerb::List(_)))
    }
}

/// Runs `worker`.
///
/// # Errors
/// A [`Failure`] of usage, of a request, or of stdout; that the cluster does not take the worker, or that another
/// one of its name has begun.
pub fn run(args: &WorkerArgs, session: &Session, out: &mut Out) -> Outcome {
    match &args.verb {
        None => work(args, session),
        Some(WorkerVerb::List(args)) => workers::run(args, session, out),
        Some(WorkerVerb::Drain(name)) => decide(&name.worker, Intake::Drain, session, out),
        Some(WorkerVerb::Quiet(name)) => decide(&name.worker, Intake::Quiet, session, out),
        Some(WorkerVerb::Resume(name)) => decide(&name.worker, Intake::Open, session, out),
    }
}

fn decide(worker: &WorkerId, intake: Intake, session: &Session, out: &mut Out) -> Outcome {
    let running = session.change_worker(worker, intake)?;
    if session.json() {
        let decided = Decided { worker: worker.to_string(), intake: intake.as_str(), running };
        out.json(&decided)?;
    } else {
        let what = match intake {
            Intake::Open => "is given jobs",
            Intake::Quiet => "is given no more jobs, and stays",
            Intake::Drain => "is given no more jobs, and ends once it has none",
        };
        out.line(&format!("{worker}  {what}  ({running} running)"))?;
    }
    out.flush().map(|()| Exit::Ok)
}

/// Checks what clap cannot.
fn check(args: &WorkerArgs) -> Result<(), Failure> {
    let bytes: usize = args.exec.iter().map(|word| word.len() + 8).sum();
    let fault = if args.queues.is_empty() {
        "a worker needs a queue: --queue Q".into()
    } else if args.exec.first().is_none_or(String::is_empty) {
        "a worker needs a command for its jobs, as its last option: --exec CMD ARG...".into()
    } else if args.exec.iter().any(|word| word.contains('\0')) {
        "a command's words cannot hold a zero byte".into()
    } else if bytes > WORDS_BYTES_MAX {
        format!("the words of the command have {bytes} bytes; at most {WORDS_BYTES_MAX}")
    } else if !(1..=WORKER_SLOTS_MAX).contains(&args.slots) {
        format!("{} slots; 1 to {WORKER_SLOTS_MAX}", args.slots)
    } else {
        return Ok(());
    };
    Err(Failure::usage(fault).hint("For the options and examples: raftq worker --help"))
}

/// Runs a worker until it is told to end.
fn work(args: &WorkerArgs, session: &Session) -> Outcome {
    check(args)?;
    let cannot =
        |why: String| Failure::new(Exit::Failure, format!("the worker cannot start: {why}"));
    let (first, second) = signals().map_err(cannot)?;
    let addrs = session.target().addrs.join(",");
    let (exec, death) = Exec::start(args.exec.clone(), args.slots, &addrs, args.verbose)
        .map_err(|error| cannot(format!("its guard does not: {error}")))?;
    let name = match &args.name {
        Some(name) => name.to_string(),
        None => format!("worker-{:016x}", fastrand::u64(..)),
    };
    let mut worker = Worker::new(session.async_client())
        .name(&name)
        .slots(args.slots)
        .grace(args.grace)
        .on_lease(exec.lease_hook());
    for queue in &args.queues {
        worker = worker.serve(queue.as_str(), exec.handler());
    }
    for tag in &args.tags {
        worker = worker.tag(tag.as_str());
    }
    let queues: Vec<&str> = args.queues.iter().map(QueueName::as_str).collect();
    narrate(&format!(
        "raftq: worker {name} takes payloads of {}, {} at once; SIGTERM ends it gently",
        queues.join(", "),
        args.slots
    ));
    let shutdown = async {
        // Never sent only if the thread of the signals is gone, and with it the way to end gently.
        let _signal = first.await.is_err();
    };
    // What ends it at once: the second signal, or the end of the guard. Dropped, the worker tells nobody, as if it
    // had been killed, and its commands end with the guard.
    let report = match run_worker_or(worker, shutdown, select(second, death)) {
        Ok(report) => {
            report.map_err(|error| failure_of(&error, Effect::Reads, session.target()))?
        }
        Err(Either::Left((signal, _))) => {
            narrate(
                "raftq: a second signal: ending at once; its jobs are given to others in about 3 s",
            );
            return Ok(match signal {
                Ok(SIGINT) => Exit::Interrupted,
                Ok(_) | Err(_) => Exit::Terminated,
            });
        }
        Err(Either::Right((how, _))) => {
            let how = how.unwrap_or_else(|_| "nobody knows how".into());
            return Err(Failure::new(
                Exit::Failure,
                format!(
                    "the guard of the commands has died ({how}), and they with it; so the worker ends"
                ),
            ));
        }
    };
    drop(exec);
    ended(&name, &report, session)
}

/// Says how the worker ended.
fn ended(name: &str, report: &StopReport, session: &Session) -> Outcome {
    let StopReport { reason, finished, abandoned, .. } = report;
    let count = format!("{finished} jobs done, {abandoned} given back or taken away");
    match reason {
        StopReason::Asked => narrate(&format!("raftq: worker {name} has ended: {count}")),
        StopReason::Drained => narrate(&format!("raftq: worker {name} is drained: {count}")),
        StopReason::Superseded => {
            return Err(Failure::new(
                Exit::Failure,
                format!(
                    "another worker of the name {name} has begun, and the cluster knows one at a time, the newest: \
                     this one ends ({count})"
                ),
            )
            .hint("Give each worker a --name of its own, or none."));
        }
        StopReason::Refused(error) => {
            return Err(failure_of(error, Effect::Reads, session.target()));
        }
    }
    Ok(Exit::Ok)
}

/// Listens for SIGTERM and SIGINT. The first one and the second one each make one of these ready.
fn signals() -> Result<(oneshot::Receiver<i32>, oneshot::Receiver<i32>), String> {
    let mut signals = Signals::new([SIGTERM, SIGINT])
        .map_err(|error| format!("it cannot listen for signals: {error}"))?;
    let (first, first_heard) = oneshot::channel();
    let (second, second_heard) = oneshot::channel();
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for (signal, tell) in signals.forever().zip([first, second]) {
                let _nobody_waits = tell.send(signal).is_err();
            }
        })
        .map_err(|error| format!("it cannot start a thread: {error}"))?;
    Ok((first_heard, second_heard))
}

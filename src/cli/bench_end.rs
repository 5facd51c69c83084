//! How a bench ends: what it made is taken away, whether it is done, has failed or is told to stop by a signal.

use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::bench::stop::Stop;
use crate::bench::submits::QUEUE;
use crate::bench::traces::{Traces, remove};
use crate::cli::exit::{Exit, Failure, Outcome, narrate};
use crate::cli::session::Session;
use crate::node::clock::monotonic;

/// Jobs named in one cancel.
const CANCELLED_AT_ONCE: u64 = 1000;

/// How long jobs are cancelled after a signal; what is under way then is waited for.
const CANCELLING_MAX: Duration = Duration::from_secs(30);

/// A measurement under way: what it has made, and whether it is told to stop.
#[derive(Debug)]
pub struct Run {
    /// What it has made.
    pub traces: Traces,
    /// Raised by SIGINT and SIGTERM.
    pub stop: Stop,
    /// When jobs were first cancelled after a signal.
    hurried_at: OnceLock<Duration>,
}

impl Run {
    /// Cancels all jobs that were submitted and may still be there: nobody wants them.
    ///
    /// # Errors
    /// A [`Failure`] of the cluster; or a signal came, and the time after it is up.
    pub fn cancel_jobs(&self, session: &Session) -> Result<(), Failure> {
        loop {
            let ids = self.traces.newest_jobs(CANCELLED_AT_ONCE);
            if ids.is_empty() {
                return Ok(());
            }
            if self.stop.signal().is_some() {
                let hurried_at = *self.hurried_at.get_or_init(monotonic);
                if monotonic().saturating_sub(hurried_at) > CANCELLING_MAX {
                    let why = format!("not all jobs could be cancelled in {CANCELLING_MAX:?}");
                    return Err(Failure::new(Exit::Failure, why));
                }
            }
            // What was never acknowledged may not be there, and what a worker had has ended.
            drop(session.cancel(&ids)?);
            self.traces.forget_newest_jobs(ids.len());
        }
    }
}

/// Runs a measurement, of a cluster if there is a session, and takes away what it leaves. A signal ends it early.
///
/// # Errors
/// A [`Failure`] of the measurement or of its end; after a signal always.
pub fn measured(session: Option<&Session>, measure: impl FnOnce(&Run) -> Outcome) -> Outcome {
    let run = Run { traces: Traces::default(), stop: Stop::default(), hurried_at: OnceLock::new() };
    let program = session.map_or_else(|| "raftq".into(), Session::program);
    listen(&run, program.clone())?;
    let outcome = measure(&run);
    let jobs = run.traces.jobs_count();
    if jobs > 0 && run.stop.signal().is_some() {
        narrate(&format!("cancelling {jobs} jobs, for {CANCELLING_MAX:?} at most"));
    }
    let cleared = session.map_or(Ok(()), |session| run.cancel_jobs(session));
    let outcome = match run.stop.signal() {
        None => outcome.and_then(|exit| cleared.clone().map(|()| exit)),
        Some(signal) => Err(stopped(signal)),
    };
    outcome.map_err(|failure| {
        let why = cleared.err().map(|cleared| cleared.message);
        let why = why.filter(|why| *why != failure.message);
        let hints = why.into_iter().chain(left(&run.traces, &program));
        hints.fold(failure, Failure::hint)
    })
}

fn stopped(signal: i32) -> Failure {
    match signal {
        SIGINT => Failure::new(Exit::Interrupted, "stopped by SIGINT"),
        _ => Failure::new(Exit::Terminated, "stopped by SIGTERM"),
    }
}

/// Says what is left behind, and how to be rid of it.
fn left(traces: &Traces, program: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let jobs = traces.jobs_count();
    if jobs > 0 {
        lines.push(format!(
            "Left behind: {jobs} jobs at most. To cancel what is pending of queue {QUEUE}:"
        ));
        lines.push(format!(
            "{program} list --queue {QUEUE} --status pending --limit {jobs} | grep -oE '^[0-9a-f]{{32}}' | \
             xargs -r {program} cancel >/dev/null"
        ));
    }
    for dir in traces.dirs() {
        lines.push(format!("Left behind: {}; the next bench there removes it", dir.display()));
    }
    lines
}

/// Listens for signals: the first stops the measurement, the second ends the process.
fn listen(run: &Run, program: String) -> Result<(), Failure> {
    let wrong = |error| Failure::new(Exit::Failure, format!("cannot listen for signals: {error}"));
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(wrong)?;
    let (traces, stop) = (run.traces.clone(), run.stop.clone());
    let hear = move || {
        for signal in signals.forever() {
            let Some(first) = stop.signal() else {
                narrate(
                    "stopping, and taking away what was made; a second signal ends this at once",
                );
                stop.raise(signal);
                continue;
            };
            for dir in traces.dirs() {
                if remove(&dir).is_ok() {
                    traces.forget_dir(&dir);
                }
            }
            let failure = left(&traces, &program).into_iter().fold(stopped(first), Failure::hint);
            failure.report();
            std::process::exit(failure.exit.code().into());
        }
    };
    thread::Builder::new().name("signals".into()).spawn(hear).map(drop).map_err(wrong)
}

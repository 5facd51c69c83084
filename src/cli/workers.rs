//! The verb `workers`: who takes jobs.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Args;

use crate::cli::deadline::Deadline;
use crate::cli::exit::{Exit, Outcome, narrate};
use crate::cli::out::{Column, Out, Table, moment};
use crate::cli::reads::ReadArgs;
use crate::cli::session::Session;
use crate::cli::shape::WorkerShape;
use crate::jobs::job::{Body, NewJob, Serves};
use crate::jobs::options::Tags;
use crate::types::{QueueName, Tag};
use crate::wire::message::WorkerView;

/// How long a look for workers may take that only serves a remark; after it the remark is not made.
const LOOK_TIME: Duration = Duration::from_secs(1);

/// The state of a worker that is given jobs.
const LIVE: &str = "live";

/// Options of `workers`.
#[derive(Clone, Debug, Args)]
pub struct WorkersArgs {
    /// How it is read.
    #[command(flatten)]
    pub reads: ReadArgs,
}

/// Runs `workers`.
///
/// # Errors
/// A [`crate::cli::exit::Failure`] of the request or of stdout.
pub fn run(args: &WorkersArgs, session: &Session, out: &mut Out) -> Outcome {
    let workers = args.reads.workers(session)?;
    if session.json() {
        workers.iter().try_for_each(|worker| out.json(&WorkerShape::from(worker)))?;
        return out.flush().map(|()| Exit::Ok);
    }
    let mut table = Table::new(&[
        Column::Left("WORKER"),
        Column::Left("STATE"),
        Column::Right("RUNNING"),
        Column::Right("SLOTS"),
        Column::Left("SERVES"),
        Column::Left("TAGS"),
        Column::Left("REGISTERED"),
    ]);
    for worker in &workers {
        let serves = match &worker.serves {
            Serves::Commands => "commands".into(),
            Serves::Payloads(queues) => {
                let names: Vec<&str> = queues.iter().map(|queue| queue.as_str()).collect();
                format!("payloads of {}", names.join(","))
            }
        };
        table.row(vec![
            worker.id.to_string(),
            worker.intake.beside(&worker.state),
            worker.running.to_string(),
            worker.slots.to_string(),
            serves,
            in_a_row(&worker.tags),
            moment(worker.registered_ms),
        ]);
    }
    table.write(out, true)?;
    out.flush().map(|()| Exit::Ok)
}

/// What a worker must be or have for a job to be begun, where not every worker is or has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Need {
    /// It serves payloads of this queue; `None`: it runs commands.
    payloads_of: Option<QueueName>,
    /// It has these.
    tags: Tags,
}

impl Need {
    /// Returns what a job needs; `None` for a command that any node runs.
    #[must_use]
    pub fn of(job: &NewJob) -> Option<Self> {
        let payloads_of = match &job.body {
            Body::Payload(_) => Some(job.queue.clone()),
            Body::Command(_) => None,
        };
        let tags = job.options.as_ref().map(|options| options.tags.clone()).unwrap_or_default();
        (payloads_of.is_some() || !tags.is_empty()).then_some(Self { payloads_of, tags })
    }

    fn serves(&self, worker: &WorkerView) -> bool {
        match (&self.payloads_of, &worker.serves) {
            (None, Serves::Commands) => true,
            (Some(queue), Serves::Payloads(queues)) => queues.contains(queue),
            (Some(_), Serves::Commands) | (None, Serves::Payloads(_)) => false,
        }
    }

    /// Says what is missing among these workers.
    fn unmet(&self, workers: &[WorkerView]) -> Option<String> {
        let serving: Vec<&WorkerView> =
            workers.iter().filter(|worker| worker.state == LIVE && self.serves(worker)).collect();
        match &self.payloads_of {
            Some(queue) if serving.is_empty() => Some(format!(
                "no worker serves payloads of queue '{queue}' now; they wait until one does. Nodes \
                 run commands only (raftq submit -- CMD): start a worker of your own for this queue, or \
                 name another with --queue"
            )),
            // Where no node runs commands at all, tags are not what is missing.
            None if serving.is_empty() => None,
            Some(_) | None if serving.iter().any(|it| self.tags.are_among(&it.tags)) => None,
            Some(_) | None => {
                let noun =
                    if self.tags.as_slice().len() == 1 { "the tag" } else { "all of the tags" };
                Some(format!(
                    "no worker for it has {noun} {} now; it waits until one does: raftq workers shows who \
                     has which, and raftq node --tag gives a node its own",
                    in_a_row(&self.tags)
                ))
            }
        }
    }
}

/// Writes tags as one word, `gpu,zone=a`; nothing for none.
#[must_use]
pub fn in_a_row(tags: &Tags) -> String {
    let names: Vec<&str> = tags.as_slice().iter().map(Tag::as_str).collect();
    names.join(",")
}

/// Says on stderr which of these needs no worker meets: what was submitted with it waits until one comes,
/// which may be just what was meant.
pub fn warn_unserved(needs: &BTreeSet<Need>, deadline: Deadline, session: &Session) {
    if needs.is_empty() {
        return;
    }
    let Some(workers) = session.workers_within(deadline.left_at_most(LOOK_TIME)) else { return };
    for unmet in needs.iter().filter_map(|need| need.unmet(&workers)) {
        narrate(&format!("raftq: {unmet}"));
    }
}

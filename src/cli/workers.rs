//! The verb `workers`: who takes jobs.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::cli::deadline::Deadline;
use crate::cli::exit::{Exit, Outcome, narrate};
use crate::cli::out::{Column, Out, Table, moment};
use crate::cli::session::Session;
use crate::cli::shape::WorkerShape;
use crate::jobs::job::Serves;
use crate::types::QueueName;
use crate::wire::message::WorkerView;

/// How long a look for workers may take that only serves a remark; after it the remark is not made.
const LOOK_TIME: Duration = Duration::from_secs(1);

/// The state of a worker that is given jobs.
const LIVE: &str = "live";

/// Runs `workers`.
///
/// # Errors
/// A [`crate::cli::exit::Failure`] of the request or of stdout.
pub fn run(session: &Session, out: &mut Out) -> Outcome {
    let workers = session.workers()?;
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
            worker.state.clone(),
            worker.running.to_string(),
            worker.slots.to_string(),
            serves,
            moment(worker.registered_ms),
        ]);
    }
    table.write(out, true)?;
    out.flush().map(|()| Exit::Ok)
}

/// Says on stderr which of these queues has no worker that serves its payloads: what was submitted
/// there waits until one comes, which may be just what was meant.
pub fn warn_unserved(queues: &BTreeSet<QueueName>, deadline: Deadline, session: &Session) {
    if queues.is_empty() {
        return;
    }
    let Some(workers) = session.workers_within(deadline.left_at_most(LOOK_TIME)) else { return };
    for queue in queues.iter().filter(|queue| !is_served(queue, &workers)) {
        narrate(&format!(
            "raftq: no worker serves payloads of queue '{queue}' now; they wait until one does. Nodes \
             run commands only (raftq submit -- CMD): start a worker of your own for this queue, or \
             name another with --queue"
        ));
    }
}

fn is_served(queue: &QueueName, workers: &[WorkerView]) -> bool {
    workers.iter().filter(|worker| worker.state == LIVE).any(|worker| match &worker.serves {
        Serves::Commands => false,
        Serves::Payloads(queues) => queues.contains(queue),
    })
}

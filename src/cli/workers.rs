//! The verb `workers`: who takes jobs.

use crate::cli::exit::{Exit, Outcome};
use crate::cli::out::{Column, Out, Table, moment};
use crate::cli::session::Session;
use crate::cli::shape::WorkerShape;
use crate::jobs::job::Serves;

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

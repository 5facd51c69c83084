//! The verb `why`: a job explains itself, a sentence for each reason.

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::out::{Out, moment, plain};
use crate::cli::reads::ReadArgs;
use crate::cli::session::Session;
use crate::cli::shape::{EXACT_MAX, Number};
use crate::jobs::reason::Explanation;
use crate::node::clock;
use crate::types::JobId;
use crate::wire::reasons;

/// Options of `why`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Of a job that waits every reason is told that holds, the most decisive first: until all that hold it up\n\
    are gone, it does not begin. Exit code 3 if there is no such job.\n\
    With --json one object: id queue status now_ms index, and \"reasons\", a list of objects. Each has \"reason\"\n\
    (delayed, retry, queue_paused, no_worker, no_worker_with_tags, queue_at_limit, queue_rate, workers_full,\n\
    behind, next, expires; running; ended; more may come), \"text\", the sentence, and what it speaks of."
)]
pub struct WhyArgs {
    /// The job.
    #[arg(value_name = "ID")]
    pub id: JobId,

    /// How it is read.
    #[command(flatten)]
    pub reads: ReadArgs,
}

/// The object of `why`.
#[derive(Serialize)]
struct WhyShape {
    id: String,
    queue: String,
    status: &'static str,
    now_ms: Number,
    index: Number,
    reasons: Vec<Value>,
}

/// Runs `why`.
///
/// # Errors
/// A [`Failure`], `NotFound` among them.
pub fn run(args: &WhyArgs, session: &Session, out: &mut Out) -> Outcome {
    let explanation = args.reads.why(args.id, session)?.as_of(clock::wall());
    if session.json() {
        out.json(&shape(&explanation)?)?;
        return out.flush().map(|()| Exit::Ok);
    }
    let Explanation { id, queue, status, .. } = &explanation;
    out.line(&format!("job {id}, {} in queue {queue}", status.as_str()))?;
    for line in lines(&explanation) {
        out.line(&format!("  {}", plain(&line)))?;
    }
    out.flush().map(|()| Exit::Ok)
}

/// Says each reason in a sentence, with the time that it speaks of behind it.
#[must_use]
pub fn lines(explanation: &Explanation) -> Vec<String> {
    let line = |reason| {
        let sentence = explanation.sentence(reason);
        match reason.time().map(moment).filter(|at| !at.is_empty()) {
            Some(at) => format!("{sentence} ({at})"),
            None => sentence,
        }
    };
    explanation.reasons.iter().map(line).collect()
}

fn shape(explanation: &Explanation) -> Result<WhyShape, Failure> {
    let unwritable =
        |error| Failure::new(Exit::Failure, format!("cannot write the answer as JSON: {error}"));
    let mut reasons = Vec::new();
    for reason in reasons::flat(explanation) {
        reasons.push(exact(serde_json::to_value(reason).map_err(unwritable)?));
    }
    Ok(WhyShape {
        id: explanation.id.to_string(),
        queue: explanation.queue.to_string(),
        status: explanation.status.as_str(),
        now_ms: Number(explanation.now_ms.0),
        index: Number(explanation.index.0),
        reasons,
    })
}

/// Writes numbers that not every reader of JSON keeps exact as strings, as [`Number`] does.
fn exact(value: Value) -> Value {
    match value {
        Value::Number(number) if number.as_u64().is_some_and(|it| it > EXACT_MAX) => {
            Value::String(number.to_string())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(exact).collect()),
        Value::Object(pairs) => {
            Value::Object(pairs.into_iter().map(|(key, value)| (key, exact(value))).collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}

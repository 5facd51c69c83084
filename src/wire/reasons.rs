//! Why a job is where it is, as frames have it: each reason a map with its name, its sentence and what it speaks of
//! (`wire-spec.md` §11, WHY_JOB). A reason that is not known here is kept with its sentence.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::jobs::job::Status;
use crate::jobs::options::Tags;
use crate::jobs::reason::{Chosen, Explanation, Reason};
use crate::jobs::rules::Rate;
use crate::pack::unpack::list;
use crate::types::{Fence, Index, JobId, Millis, QueueName, Tag, WorkerId};
use crate::wire::error::{WireError, check_count};
use crate::wire::named;

/// Reasons in one answer, at most; an answer with more is refused by whoever reads it.
pub const REASONS_MAX: usize = 32;

/// What one reason takes when it is written, at most: its sentence, an error, and the tags twice.
pub(in crate::wire) const REASON_BYTES_MAX: usize = 8 << 10;

#[derive(Serialize, Deserialize)]
struct Body {
    id: JobId,
    queue: QueueName,
    status: Status,
    now_ms: Millis,
    index: Index,
    #[serde(deserialize_with = "list")]
    reasons: Vec<ReasonBody>,
}

/// A reason, flat: which keys there are depends on `reason`.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct ReasonBody {
    reason: String,
    #[serde(default)]
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    until_ms: Option<Millis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since_ms: Option<Millis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<WorkerId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fence: Option<Fence>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chosen: Option<Chosen>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    is_payload: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<Tags>,
    #[serde(skip_serializing_if = "Option::is_none")]
    missing: Option<Vec<Tag>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workers: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    running: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slots: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<Rate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ahead: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    higher: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    is_more: Option<bool>,
}

/// Returns the reasons as they are written: flat, each with its sentence.
#[must_use]
pub(crate) fn flat(explanation: &Explanation) -> Vec<ReasonBody> {
    explanation.reasons.iter().map(|it| out(it, explanation.sentence(it))).collect()
}

/// Writes the body of an answer.
pub(in crate::wire) fn write(explanation: &Explanation) -> Bytes {
    named::encode(&Body {
        id: explanation.id,
        queue: explanation.queue.clone(),
        status: explanation.status,
        now_ms: explanation.now_ms,
        index: explanation.index,
        reasons: flat(explanation),
    })
}

/// Reads the body of an answer.
pub(in crate::wire) fn read(name: &'static str, body: &[u8]) -> Result<Explanation, WireError> {
    let Body { id, queue, status, now_ms, index, reasons } = named::decode(name, body)?;
    check_count(name, "reasons", reasons.len(), REASONS_MAX)?;
    let reasons = reasons.into_iter().map(known).collect();
    Ok(Explanation { id, queue, status, now_ms, index, reasons })
}

fn out(reason: &Reason, text: String) -> ReasonBody {
    let name = reason.name().to_owned();
    let body = ReasonBody { reason: name, text, ..ReasonBody::default() };
    match reason.clone() {
        Reason::Delayed { until_ms } | Reason::Expires { until_ms } => {
            ReasonBody { until_ms: Some(until_ms), ..body }
        }
        Reason::Retry { attempt, until_ms, exit_code, error } => {
            ReasonBody { attempt: Some(attempt), until_ms, exit_code, error: Some(error), ..body }
        }
        Reason::Paused { since_ms } => ReasonBody { since_ms: Some(since_ms), ..body },
        Reason::NoWorker { is_payload } => ReasonBody { is_payload: Some(is_payload), ..body },
        Reason::Closed { workers } => ReasonBody { workers: Some(workers), ..body },
        Reason::NoWorkerWithTags { tags, missing, workers } => {
            ReasonBody { tags: Some(tags), missing: Some(missing), workers: Some(workers), ..body }
        }
        Reason::AtLimit { running, limit } => {
            ReasonBody { running: Some(running), limit: Some(limit), ..body }
        }
        Reason::Rate { until_ms, rate } => {
            ReasonBody { until_ms: Some(until_ms), rate: Some(rate), ..body }
        }
        Reason::Full { workers, running, slots } => ReasonBody {
            workers: Some(workers),
            running: Some(running),
            slots: Some(slots),
            ..body
        },
        Reason::Behind { priority, ahead, higher, is_more } => ReasonBody {
            priority: Some(priority),
            ahead: Some(ahead),
            higher: Some(higher),
            is_more: Some(is_more),
            ..body
        },
        Reason::Running { worker, since_ms, fence, attempt, timeout_ms, chosen } => ReasonBody {
            worker: Some(worker),
            since_ms: Some(since_ms),
            fence: Some(fence),
            attempt: Some(attempt),
            timeout_ms,
            chosen: Some(chosen),
            ..body
        },
        Reason::Ended { since_ms, attempt, worker, exit_code, error } => ReasonBody {
            since_ms: Some(since_ms),
            attempt: Some(attempt),
            worker,
            exit_code,
            error,
            ..body
        },
        Reason::Next | Reason::Other { .. } => body,
    }
}

/// Takes a reason for what it is, or keeps its sentence: its name is not known, or something that belongs to it is
/// missing.
fn known(body: ReasonBody) -> Reason {
    let (name, text) = (body.reason.clone(), body.text.clone());
    typed(body).unwrap_or(Reason::Other { name, text })
}

fn typed(body: ReasonBody) -> Option<Reason> {
    Some(match body.reason.as_str() {
        "delayed" => Reason::Delayed { until_ms: body.until_ms? },
        "retry" => Reason::Retry {
            attempt: body.attempt?,
            until_ms: body.until_ms,
            exit_code: body.exit_code,
            error: body.error.unwrap_or_default(),
        },
        "queue_paused" => Reason::Paused { since_ms: body.since_ms? },
        "no_worker" => Reason::NoWorker { is_payload: body.is_payload? },
        "workers_closed" => Reason::Closed { workers: body.workers? },
        "no_worker_with_tags" => Reason::NoWorkerWithTags {
            tags: body.tags?,
            missing: body.missing.unwrap_or_default(),
            workers: body.workers?,
        },
        "queue_at_limit" => Reason::AtLimit { running: body.running?, limit: body.limit? },
        "queue_rate" => Reason::Rate { until_ms: body.until_ms?, rate: body.rate? },
        "workers_full" => {
            Reason::Full { workers: body.workers?, running: body.running?, slots: body.slots? }
        }
        "behind" => Reason::Behind {
            priority: body.priority?,
            ahead: body.ahead?,
            higher: body.higher?,
            is_more: body.is_more.unwrap_or_default(),
        },
        "next" => Reason::Next,
        "expires" => Reason::Expires { until_ms: body.until_ms? },
        "running" => Reason::Running {
            worker: body.worker?,
            since_ms: body.since_ms?,
            fence: body.fence?,
            attempt: body.attempt?,
            timeout_ms: body.timeout_ms,
            chosen: body.chosen?,
        },
        "ended" => Reason::Ended {
            since_ms: body.since_ms?,
            attempt: body.attempt?,
            worker: body.worker,
            exit_code: body.exit_code,
            error: body.error,
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_of_a_newer_program_keeps_its_sentence() {
        let body = ReasonBody {
            reason: "moon_phase".into(),
            text: "The moon is waning.".into(),
            ..ReasonBody::default()
        };
        let other = Reason::Other { name: "moon_phase".into(), text: "The moon is waning.".into() };
        assert_eq!(known(body), other);
        // One whose keys are missing says no less.
        let body =
            ReasonBody { reason: "delayed".into(), text: "Later.".into(), ..ReasonBody::default() };
        assert_eq!(known(body), Reason::Other { name: "delayed".into(), text: "Later.".into() });
    }
}

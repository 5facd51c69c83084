//! The command `why` of text mode: a line for each reason, its name and its sentence.

use crate::net::text::answers::{Answered, local, not_here};
use crate::net::text::table::pairs;
use crate::replica::view::Look;
use crate::types::JobId;

/// Says why a job is where it is, as this node knows it.
pub(super) fn answer(look: &Look, id: JobId) -> Answered {
    let Some(explanation) = look.machine.why(id) else { return Err(not_here(look, id)) };
    let explanation = explanation.as_of(look.log_now);
    let about = [
        ("id", id.to_string()),
        ("queue", explanation.queue.to_string()),
        ("status", explanation.status.as_str().into()),
    ];
    let reasons = explanation.reasons.iter();
    let reasons = reasons.map(|reason| (reason.name(), explanation.sentence(reason)));
    let lines: Vec<(&str, String)> = about.into_iter().chain(reasons).collect();
    Ok(local(look) + &pairs(&lines))
}

//! What is asked and told about crons, and its bodies (`wire-spec.md` §11, §12).

use serde::{Deserialize, Serialize};

use crate::jobs::cron::{CRON_ERROR_BYTES_MAX, CronChange, CronView, NewCron};
use crate::jobs::cron_spec::SPEC_BYTES_MAX;
use crate::pack::unpack::list;
use crate::types::{CronName, JobId, Millis};
use crate::wire::error::WireError;
use crate::wire::message::{Reply, Request};
use crate::wire::named;
use crate::wire::request::{body_bytes_max, options_bytes_max};

/// Crons in one page of `ListCrons`, at most; a larger limit is lowered to it.
pub const LIST_CRONS_MAX: usize = 1000;

/// What the keys, names and numbers of a cron take in a page, at most, its spec and its error included.
pub(super) const CRON_BYTES: usize = 768 + SPEC_BYTES_MAX + CRON_ERROR_BYTES_MAX;

/// Which crons to list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CronFilter {
    /// This one only, with its body; refused with `NOT_FOUND` if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<CronName>,
    /// Only after this name: the last one of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<CronName>,
    /// At most so many; lowered to [`LIST_CRONS_MAX`]; 0 means that many.
    pub limit: u32,
}

/// A cron that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CronAdded {
    /// `false`: the same cron was added before.
    pub created: bool,
    /// Its next slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_ms: Option<Millis>,
}

/// A cron that was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CronChanged {
    /// Its next slot; none while it is paused, and once it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_ms: Option<Millis>,
    /// The job that was submitted now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct ChangeCronBody {
    pub(super) name: CronName,
    pub(super) change: CronChange,
}

#[derive(Serialize)]
pub(super) struct CronsOut<'a> {
    pub(super) crons: &'a [CronView],
    pub(super) more: bool,
}

#[derive(Deserialize)]
struct CronsBody {
    #[serde(deserialize_with = "list")]
    crons: Vec<CronView>,
    #[serde(default)]
    more: bool,
}

/// Reads a cron to add.
pub(super) fn add_cron(name: &'static str, body: &[u8]) -> Result<Request, WireError> {
    let cron: NewCron = named::decode(name, body)?;
    match cron.fault() {
        None => Ok(Request::AddCron(Box::new(cron))),
        Some(reason) => Err(WireError::Invalid { name, reason }),
    }
}

/// Reads a change of a cron.
pub(super) fn change_cron(name: &'static str, body: &[u8]) -> Result<Request, WireError> {
    let ChangeCronBody { name, change } = named::decode(name, body)?;
    Ok(Request::ChangeCron { name, change })
}

/// Reads which crons to list.
pub(super) fn list_crons(name: &'static str, body: &[u8]) -> Result<Request, WireError> {
    let filter: CronFilter = named::decode(name, body)?;
    let limit_max = u32::try_from(LIST_CRONS_MAX).unwrap_or(u32::MAX);
    let limit = if filter.limit == 0 { limit_max } else { filter.limit.min(limit_max) };
    Ok(Request::ListCrons(CronFilter { limit, ..filter }))
}

/// Reads a page of crons.
pub(super) fn crons(name: &'static str, body: &[u8]) -> Result<Reply, WireError> {
    named::decode(name, body).map(|CronsBody { crons, more }| Reply::Crons { crons, more })
}

/// Returns how many bytes a cron takes in a page, at most.
pub(super) fn cron_bytes_max(cron: &CronView) -> usize {
    let options = cron.options.as_ref().map_or(0, |options| options_bytes_max(options));
    CRON_BYTES + options + cron.body.as_ref().map_or(0, body_bytes_max)
}

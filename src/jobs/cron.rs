//! A cron as its users see it: a job that is submitted again and again, and what is told of it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::jobs::cron_spec::{SPEC_BYTES_MAX, Spec};
use crate::jobs::job::Body;
use crate::jobs::options::Options;
use crate::types::{CronName, JobId, Millis, QueueName};

/// Crons of a cluster, at most; one more is refused.
pub const CRONS_MAX: usize = 10_000;

/// The bytes of a time zone's name, at most.
pub const ZONE_BYTES_MAX: usize = 64;

/// A slot is on time for so long, in milliseconds; after that it was missed.
pub const ON_TIME_MS: u64 = 60_000;

/// Missed slots that are made up for in one go, at most; those after them are left out.
pub const MADE_UP_MAX: u32 = 1000;

/// The bytes kept of why a slot came to no job, at most.
pub const CRON_ERROR_BYTES_MAX: usize = 256;

/// What becomes of slots that were missed: nobody led for a minute or more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missed {
    /// They are left out.
    #[default]
    Skip,
    /// One job stands for all of them.
    Once,
    /// Each becomes a job, the first [`MADE_UP_MAX`] of them.
    All,
}

impl Missed {
    /// Every one of them.
    pub const ALL: [Self; 3] = [Self::Skip, Self::Once, Self::All];

    /// Returns the word for it, as users write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Once => "once",
            Self::All => "all",
        }
    }
}

/// A cron to add: when, and which job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewCron {
    /// Its name; there is one cron of a name.
    pub name: CronName,
    /// When: see [`Spec`].
    pub spec: String,
    /// The time zone whose clock it goes by, such as `Europe/Berlin`.
    #[serde(default = "utc")]
    pub tz: String,
    /// What becomes of slots that were missed.
    #[serde(default)]
    pub missed: Missed,
    /// The queue of its jobs.
    #[serde(default)]
    pub queue: QueueName,
    /// What its jobs are.
    pub body: Body,
    /// What its jobs ask for beside being run; `None`: nothing. Left out where it is none, so it stays the last field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<Arc<Options>>,
}

/// The zone of a cron that names none.
pub const UTC: &str = "UTC";

fn utc() -> String {
    UTC.into()
}

impl NewCron {
    /// Says why this is no cron, in words for the one who added it. Whether the zone is known is not looked at: its
    /// name is a matter of the node that leads.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        if self.spec.len() > SPEC_BYTES_MAX {
            return Some(format!("a spec of {} bytes; at most {SPEC_BYTES_MAX}", self.spec.len()));
        }
        if let Err(error) = Spec::parse(&self.spec) {
            return Some(error.to_string());
        }
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/_+-".contains(&byte);
        if self.tz.is_empty() || self.tz.len() > ZONE_BYTES_MAX || !self.tz.bytes().all(is_plain) {
            return Some("a time zone has a name such as Europe/Berlin or UTC".into());
        }
        let options = self.options.as_deref().unwrap_or(Options::NONE);
        if options.at_ms.is_some() {
            return Some("the jobs of a cron begin at its slots: name a delay, not a time".into());
        }
        self.body.fault().or_else(|| options.fault())
    }

    /// Returns about how many bytes of memory it takes.
    #[must_use]
    pub fn memory(&self) -> usize {
        let options = self.options.as_ref().map_or(0, |options| options.memory());
        size_of::<Self>() + self.spec.len() + self.tz.len() + self.body.memory() + options
    }
}

/// A change of a cron.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CronChange {
    /// Submit nothing from now on.
    Pause,
    /// Go on with the next slot: the end of a pause. Slots within the pause were not missed.
    Resume,
    /// Forget it; the jobs it has submitted stay.
    Remove,
    /// Submit its job now, beside its slots, under this id: the same one twice is one job.
    Trigger(JobId),
}

impl CronView {
    /// Says in a few words what is to be known of it beside its slots; `-` for nothing.
    #[must_use]
    pub fn note(&self) -> String {
        match (self.paused_ms, self.next_ms, &self.last_error) {
            (Some(_), ..) => "paused".into(),
            (None, None, _) => "no slot comes any more".into(),
            (None, Some(_), Some(error)) => error.clone(),
            (None, Some(_), None) => "-".into(),
        }
    }
}

/// A cron as it is told to users.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CronView {
    /// Its name.
    pub name: CronName,
    /// When.
    pub spec: String,
    /// By the clock of this time zone.
    pub tz: String,
    /// What becomes of slots that were missed.
    pub missed: Missed,
    /// The queue of its jobs.
    pub queue: QueueName,
    /// When it was added, on the log's clock.
    pub created_ms: Millis,
    /// It submits nothing since then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_ms: Option<Millis>,
    /// Its next slot; none while it is paused, or if none comes any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_ms: Option<Millis>,
    /// The last slot that came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_slot_ms: Option<Millis>,
    /// The last job that it submitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_job: Option<JobId>,
    /// Why the last slot came to no job, where that was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Jobs that it has submitted at its slots.
    pub fired: u64,
    /// How often slots were left out because they were missed.
    pub skipped: u64,
    /// What its jobs ask for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<Arc<Options>>,
    /// What its jobs are; left out of lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Body>,
}

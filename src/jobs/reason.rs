//! Why a job is where it is: the reasons, one type for each thing that can hold a job up, and the sentences for them.

use serde::{Deserialize, Serialize};

use crate::jobs::job::Status;
use crate::jobs::options::Tags;
use crate::jobs::rules::{Rate, in_words as span};
use crate::types::{Fence, Index, JobId, Millis, QueueName, Tag, WorkerId};

/// Among whom a worker was chosen for an attempt, as it was just before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chosen {
    /// Jobs that the chosen worker had, fewer than `slots`.
    pub running: u32,
    /// Jobs that it can have.
    pub slots: u32,
    /// Workers with a free slot that do this kind of work, the chosen one included; tags are not counted.
    pub free_workers: u32,
}

impl Chosen {
    /// Tells whether a worker can have been chosen so: it had a free slot.
    #[must_use]
    pub fn is_possible(&self) -> bool {
        self.running < self.slots && self.free_workers >= 1
    }
}

/// What a job explains about itself, at one entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The job.
    pub id: JobId,
    /// Its queue.
    pub queue: QueueName,
    /// Where it is in its life.
    pub status: Status,
    /// The time on the log's clock, at that entry or later: see [`Explanation::as_of`].
    pub now_ms: Millis,
    /// The last entry that counted.
    pub index: Index,
    /// The reasons, the most decisive first; never empty.
    pub reasons: Vec<Reason>,
}

/// One reason. Of a pending job all that hold are told; of one that runs or has ended there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its submit asked that it begin no earlier.
    Delayed {
        /// That time.
        until_ms: Millis,
    },
    /// An attempt has ended without success; the next one is to come.
    Retry {
        /// Which attempt comes next.
        attempt: u32,
        /// When it may begin; `None`: when its turn comes.
        until_ms: Option<Millis>,
        /// How the attempt before it ended.
        exit_code: Option<i32>,
        /// Why it ended.
        error: String,
    },
    /// Its queue gives out no jobs.
    Paused {
        /// Since then.
        since_ms: Millis,
    },
    /// No live worker does this kind of work: serves payloads of its queue, or runs commands.
    NoWorker {
        /// It is a payload; `false`: a command.
        is_payload: bool,
    },
    /// Live workers could take it, and their users have decided that they are given no jobs.
    Closed {
        /// How many such workers there are.
        workers: u64,
    },
    /// Live workers do this kind of work, and none of them has all the tags that it asks for.
    NoWorkerWithTags {
        /// What it asks for.
        tags: Tags,
        /// Those that none of them has; empty: each tag has somebody, but nobody has all.
        missing: Vec<Tag>,
        /// How many such workers there are.
        workers: u64,
    },
    /// As many jobs of its queue run as may run at once.
    AtLimit {
        /// So many run.
        running: u64,
        /// So many may.
        limit: u32,
    },
    /// The rate of its queue lets no job begin now.
    Rate {
        /// When the next one may begin.
        until_ms: Millis,
        /// The rate.
        rate: Rate,
    },
    /// All workers that could take it have as many jobs as they can have.
    Full {
        /// How many workers.
        workers: u64,
        /// Jobs they have together.
        running: u64,
        /// Jobs they can have together.
        slots: u64,
    },
    /// Others of its line (its queue, the same kind of work and the same tags) come first.
    Behind {
        /// Its own priority.
        priority: u8,
        /// Jobs before it that have the same priority.
        ahead: u64,
        /// Jobs before it that have a higher one.
        higher: u64,
        /// There are more than were counted.
        is_more: bool,
    },
    /// Nothing holds it up: it is given out with the next entries of the log.
    Next,
    /// It fails at this time, if it has not begun by then.
    Expires {
        /// That time.
        until_ms: Millis,
    },
    /// It runs.
    Running {
        /// Who runs it.
        worker: WorkerId,
        /// Since when.
        since_ms: Millis,
        /// Under which token.
        fence: Fence,
        /// Which attempt it is.
        attempt: u32,
        /// How long the attempt may take.
        timeout_ms: Option<u64>,
        /// Among whom the worker was chosen.
        chosen: Chosen,
    },
    /// It has ended.
    Ended {
        /// When.
        since_ms: Millis,
        /// By which attempt, the last one.
        attempt: u32,
        /// Who had that attempt; `None`: it never began.
        worker: Option<WorkerId>,
        /// The exit code of its command.
        exit_code: Option<i32>,
        /// Why it failed or was cancelled.
        error: Option<String>,
    },
    /// A reason that this program does not know, from a newer one.
    Other {
        /// Its name.
        name: String,
        /// Its sentence, as the other program wrote it.
        text: String,
    },
}

impl Reason {
    /// Returns its name, as it stands on the wire and in JSON.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Delayed { .. } => "delayed",
            Self::Retry { .. } => "retry",
            Self::Paused { .. } => "queue_paused",
            Self::NoWorker { .. } => "no_worker",
            Self::Closed { .. } => "workers_closed",
            Self::NoWorkerWithTags { .. } => "no_worker_with_tags",
            Self::AtLimit { .. } => "queue_at_limit",
            Self::Rate { .. } => "queue_rate",
            Self::Full { .. } => "workers_full",
            Self::Behind { .. } => "behind",
            Self::Next => "next",
            Self::Expires { .. } => "expires",
            Self::Running { .. } => "running",
            Self::Ended { .. } => "ended",
            Self::Other { name, .. } => name,
        }
    }

    /// Returns the time that it speaks of.
    #[must_use]
    pub fn time(&self) -> Option<Millis> {
        match self {
            Self::Delayed { until_ms }
            | Self::Rate { until_ms, .. }
            | Self::Expires { until_ms } => Some(*until_ms),
            Self::Retry { until_ms, .. } => *until_ms,
            Self::Paused { since_ms }
            | Self::Running { since_ms, .. }
            | Self::Ended { since_ms, .. } => Some(*since_ms),
            Self::NoWorker { .. }
            | Self::Closed { .. }
            | Self::NoWorkerWithTags { .. }
            | Self::AtLimit { .. }
            | Self::Full { .. }
            | Self::Behind { .. }
            | Self::Next
            | Self::Other { .. } => None,
        }
    }

    /// Tells whether it alone keeps a pending job from being given out.
    #[must_use]
    pub fn holds(&self) -> bool {
        match self {
            Self::Retry { until_ms, .. } => until_ms.is_some(),
            Self::Delayed { .. }
            | Self::Paused { .. }
            | Self::NoWorker { .. }
            | Self::Closed { .. }
            | Self::NoWorkerWithTags { .. }
            | Self::AtLimit { .. }
            | Self::Rate { .. }
            | Self::Full { .. } => true,
            Self::Behind { .. }
            | Self::Next
            | Self::Expires { .. }
            | Self::Running { .. }
            | Self::Ended { .. }
            | Self::Other { .. } => false,
        }
    }
}

impl Explanation {
    /// Tells it as of a later time, for people: the clock of the log stands while no entry is applied, and lengths of time
    /// would be counted from there. An earlier time changes nothing.
    #[must_use]
    pub fn as_of(self, now: Millis) -> Self {
        Self { now_ms: self.now_ms.max(now), ..self }
    }

    /// Says a reason in a sentence, its times as lengths from `now_ms`.
    #[must_use]
    pub fn sentence(&self, reason: &Reason) -> String {
        let queue = &self.queue;
        let left = |at: &Millis| roughly(at.since(self.now_ms));
        let ago = |at: &Millis| roughly(self.now_ms.since(*at));
        match reason {
            Reason::Delayed { until_ms } => {
                format!("It is delayed by its submit, for another {}.", left(until_ms))
            }
            Reason::Retry { attempt, until_ms, exit_code, error } => {
                let before = attempt.saturating_sub(1);
                let when = match until_ms {
                    Some(at) => format!("begins no earlier than in {}", left(at)),
                    None => "is to come".into(),
                };
                let ended = ended_so(*exit_code, Some(error));
                format!("Attempt {before} has ended{ended}; attempt {attempt} {when}.")
            }
            Reason::Paused { since_ms } => {
                format!("Queue '{queue}' has been paused for {}.", ago(since_ms))
            }
            Reason::NoWorker { is_payload: true } => {
                format!("No live worker serves payloads of queue '{queue}'.")
            }
            Reason::NoWorker { is_payload: false } => "No live worker runs commands.".into(),
            Reason::Closed { workers: 1 } => {
                "The one worker that could take it is quiet, or being drained.".into()
            }
            Reason::Closed { workers } => {
                format!("All {workers} workers that could take it are quiet, or being drained.")
            }
            Reason::NoWorkerWithTags { tags, missing, workers } => {
                let serve = count(*workers, "live worker does", "live workers do");
                let names: Vec<&str> = tags.as_slice().iter().map(Tag::as_str).collect();
                if missing.is_empty() {
                    let all = names.join(", ");
                    return format!("{serve} this kind of work; none has all of its tags: {all}.");
                }
                let lack: Vec<&str> = missing.iter().map(Tag::as_str).collect();
                format!("{serve} this kind of work; none has {}.", lack.join(", or "))
            }
            Reason::AtLimit { running, limit } => {
                format!("Queue '{queue}' is at its limit: {running} of {limit} jobs run.")
            }
            Reason::Rate { until_ms, rate } => format!(
                "Queue '{queue}' begins at most {} in {}; the next one in {}.",
                count(u64::from(rate.count), "job", "jobs"),
                span(rate.per_ms),
                left(until_ms)
            ),
            Reason::Full { workers, running, slots } => {
                let all = match workers {
                    1 => "The one worker that could take it is full".into(),
                    many => format!("All {many} workers that could take it are full"),
                };
                format!("{all}: {running} of {slots} slots are taken.")
            }
            Reason::Behind { priority, ahead, higher, is_more } => {
                behind(*priority, *ahead, *higher, *is_more)
            }
            Reason::Next => "Nothing holds it up: it is given out next.".into(),
            Reason::Expires { until_ms } => {
                format!("It fails in {}, if it has not begun by then.", left(until_ms))
            }
            Reason::Running { worker, since_ms, fence, attempt, timeout_ms, chosen } => {
                let limit = timeout_ms.map(|ms| format!(" of at most {}", span(ms)));
                let Chosen { running, slots, free_workers } = chosen;
                format!(
                    "Worker {worker} has been running it for {}{}: attempt {attempt}, under fence {fence}. It \
                     was chosen with {running} of its {slots} slots taken, the least loaded of {} with a free \
                     slot.",
                    ago(since_ms),
                    limit.unwrap_or_default(),
                    count(u64::from(*free_workers), "worker", "workers")
                )
            }
            Reason::Ended { since_ms, attempt, worker, exit_code, error } => {
                let by = match worker {
                    Some(worker) => format!("with attempt {attempt}, on {worker}"),
                    None => format!("before attempt {attempt} began"),
                };
                let how = ended_so(*exit_code, error.as_deref());
                format!("It {} {} ago, {by}{how}.", self.status.as_str_past(), ago(since_ms))
            }
            Reason::Other { text, .. } => text.clone(),
        }
    }
}

impl Status {
    /// Says it of something that has ended.
    fn as_str_past(self) -> &'static str {
        match self {
            Self::Cancelled => "was cancelled",
            Self::Pending | Self::Running | Self::Completed | Self::Failed => self.as_str(),
        }
    }
}

fn behind(priority: u8, ahead: u64, higher: u64, is_more: bool) -> String {
    let more = if is_more { "more than " } else { "" };
    let of_higher = (higher > 0).then(|| {
        let priorities = if priority == 8 {
            "priority 9".into()
        } else {
            format!("priorities above {priority}")
        };
        format!("{} at {priorities}", count(higher, "job", "jobs"))
    });
    let of_same =
        (ahead > 0).then(|| format!("{} at priority {priority}", count(ahead, "job", "jobs")));
    let all: Vec<String> = of_higher.into_iter().chain(of_same).collect();
    format!("Ahead of it in its line: {more}{}.", all.join(" and "))
}

/// Says how an attempt ended, after a colon; the exit code once, though most errors name it as well.
fn ended_so(exit_code: Option<i32>, error: Option<&str>) -> String {
    let code = exit_code.map(|code| format!("exit code {code}"));
    match (code, error.filter(|error| !error.is_empty())) {
        (None, None) => String::new(),
        (Some(code), None) => format!(": {code}"),
        (None, Some(error)) => format!(": {error}"),
        (Some(code), Some(error)) if error.ends_with(code.trim_start_matches("exit ")) => {
            format!(": {error}")
        }
        (Some(code), Some(error)) => format!(": {code}, {error}"),
    }
}

/// Counts in words: `1 job`, `2 jobs`.
fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Writes a length of time as exactly as a person wants it: `12ms`, `3.4s`, `2m05s`, `3h20m`, `2d04h`.
#[must_use]
pub fn roughly(ms: u64) -> String {
    let (seconds, minutes, hours) = (ms / 1000, ms / 60_000, ms / 3_600_000);
    match ms {
        0..=999 => format!("{ms}ms"),
        1000..=59_999 => format!("{seconds}.{}s", ms % 1000 / 100),
        60_000..=3_599_999 => format!("{minutes}m{:02}s", seconds % 60),
        3_600_000..=86_399_999 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{}d{:02}h", hours / 24, hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(reason: &Reason) -> String {
        let explanation = Explanation {
            id: JobId([1; 16]),
            queue: QueueName::new("mail").unwrap(),
            status: Status::Failed,
            now_ms: Millis(100_000),
            index: Index(9),
            reasons: Vec::new(),
        };
        explanation.sentence(reason)
    }

    #[test]
    fn lengths_are_told_as_of_a_later_time_and_no_earlier_one() {
        let explanation = Explanation {
            id: JobId([1; 16]),
            queue: QueueName::default(),
            status: Status::Pending,
            now_ms: Millis(100_000),
            index: Index(9),
            reasons: Vec::new(),
        };
        let delayed = Reason::Delayed { until_ms: Millis(160_000) };
        let later = explanation.as_of(Millis(150_000));
        assert_eq!(later.sentence(&delayed), "It is delayed by its submit, for another 10.0s.");
        assert_eq!(later.clone().as_of(Millis(5)), later);
    }

    #[test]
    fn sentences_say_what_holds_a_job_up() {
        let error = "exited with code 3".to_owned();
        let tags = ["gpu", "zone=a"].map(|tag| Tag::new(tag).unwrap());
        let asked = Tags::new(tags.clone());
        let cases = [
            (
                Reason::Delayed { until_ms: Millis(700_000) },
                "It is delayed by its submit, for another 10m00s.",
            ),
            (
                Reason::Retry {
                    attempt: 2,
                    until_ms: Some(Millis(101_500)),
                    exit_code: Some(3),
                    error: error.clone(),
                },
                "Attempt 1 has ended: exited with code 3; attempt 2 begins no earlier than in 1.5s.",
            ),
            (
                Reason::Paused { since_ms: Millis(40_000) },
                "Queue 'mail' has been paused for 1m00s.",
            ),
            (
                Reason::NoWorker { is_payload: true },
                "No live worker serves payloads of queue 'mail'.",
            ),
            (
                Reason::NoWorkerWithTags {
                    tags: asked.clone(),
                    missing: tags[..1].to_vec(),
                    workers: 1,
                },
                "1 live worker does this kind of work; none has gpu.",
            ),
            (
                Reason::NoWorkerWithTags { tags: asked, missing: Vec::new(), workers: 2 },
                "2 live workers do this kind of work; none has all of its tags: gpu, zone=a.",
            ),
            (
                Reason::AtLimit { running: 4, limit: 4 },
                "Queue 'mail' is at its limit: 4 of 4 jobs run.",
            ),
            (
                Reason::Rate {
                    until_ms: Millis(100_250),
                    rate: Rate { count: 100, per_ms: 60_000 },
                },
                "Queue 'mail' begins at most 100 jobs in 1m; the next one in 250ms.",
            ),
            (
                Reason::Full { workers: 3, running: 12, slots: 12 },
                "All 3 workers that could take it are full: 12 of 12 slots are taken.",
            ),
            (
                Reason::Behind { priority: 5, ahead: 17, higher: 1, is_more: false },
                "Ahead of it in its line: 1 job at priorities above 5 and 17 jobs at priority 5.",
            ),
            (
                Reason::Ended {
                    since_ms: Millis(88_000),
                    attempt: 2,
                    worker: None,
                    exit_code: None,
                    error: Some("not begun within its ttl of 5s".into()),
                },
                "It failed 12.0s ago, before attempt 2 began: not begun within its ttl of 5s.",
            ),
        ];
        for (reason, sentence) in cases {
            assert_eq!(say(&reason), sentence);
        }
    }

    #[test]
    fn time_that_something_took_is_short() {
        let all = [0, 999, 3450, 125_000, 12_000_000, 187_200_000].map(roughly);
        assert_eq!(all, ["0ms", "999ms", "3.4s", "2m05s", "3h20m", "2d04h"]);
    }
}

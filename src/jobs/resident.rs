//! A job as the machine keeps it, in as few bytes and allocations as it can be told in.

use std::sync::Arc;

use bytes::Bytes;

use crate::jobs::digest::{Content, Fold};
use crate::jobs::extra::{Extra, Past, options_weight};
use crate::jobs::job::{
    Assignment, AttemptView, Body, ERROR_BYTES_MAX, JobView, NewJob, OUTPUT_BYTES_MAX, Status,
    Verdict,
};
use crate::jobs::lane::{Class, Lane, Work};
use crate::jobs::options::{Options, PRIORITY_MAX};
use crate::jobs::reason::Chosen;
use crate::jobs::unique;
use crate::types::{Fence, Incarnation, JobId, Millis, QueueName, WorkerId};

/// What a job weighs beside its body, in every limit on bytes: the record, its places in the maps,
/// and what the allocator adds. Measured at 273 over a million pending jobs.
pub const JOB_OVERHEAD_BYTES: u64 = 288;

/// What its last assignment adds.
pub const RUN_BYTES: u64 = 80;

/// What its ending adds, beside output and error.
pub const ENDING_BYTES: u64 = 144;

/// Which kind of body the bytes of a job are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The words of a command, joined by zero bytes (which no word holds).
    Command,
    /// A payload, as it is.
    Payload,
}

impl Kind {
    /// Returns the number that stands for it in digests and images.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Command => 0,
            Self::Payload => 1,
        }
    }

    /// Finds the kind that a number stands for.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        [Self::Command, Self::Payload].into_iter().find(|kind| kind.code() == code)
    }
}

/// One job. Everything long in it is shared, so that changing it while an image holds the former
/// state copies about a hundred bytes.
///
/// - `status` is Running exactly if a live worker's `running` names the job under `run`'s fence.
/// - `ending` is there exactly if `status` is final.
/// - `run` is there if the job was ever assigned.
/// - `extra` is there exactly if something is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// Its queue; the text is shared with all jobs of the queue.
    pub queue: QueueName,
    /// Its body's bytes, as `kind` says.
    pub body: Arc<[u8]>,
    /// The hash of queue, body and options: what tells a repeated submit from a stolen id.
    pub content: Content,
    /// Its place in commit order, at most [`SEQUENCE_MAX`]; kept when it waits again.
    pub sequence: u64,
    /// When it was submitted.
    pub created_ms: Millis,
    /// 1 or more.
    pub attempt: u32,
    /// Where it is in its life.
    pub status: Status,
    /// What `body` is.
    pub kind: Kind,
    /// Its last assignment.
    pub run: Option<Arc<Run>>,
    /// How it ended.
    pub ending: Option<Arc<Ending>>,
    /// What most jobs do not have.
    pub extra: Option<Arc<Extra>>,
}

/// The highest place in commit order: what is above it in a place in line is the priority.
pub const SEQUENCE_MAX: u64 = (1 << PRIORITY_SHIFT) - 1;

/// Where the priority begins in a place in line.
const PRIORITY_SHIFT: u32 = 60;

/// One assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// To whom.
    pub worker: WorkerId,
    /// Which start of it.
    pub incarnation: Incarnation,
    /// Its token.
    pub fence: Fence,
    /// When.
    pub started_ms: Millis,
    /// Among whom.
    pub chosen: Chosen,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Its place in the order of endings, by which finished jobs are forgotten.
    pub order: u64,
    /// When.
    pub finished_ms: Millis,
    /// Whether its worker reported it: only then is the same report a repeat.
    pub reported: bool,
    /// See [`Verdict::exit_code`].
    pub exit_code: Option<i32>,
    /// See [`Verdict::output_cut`].
    pub output_cut: bool,
    /// See [`Verdict::output`].
    pub output: Box<[u8]>,
    /// Why it failed or was cancelled.
    pub error: Option<Box<str>>,
    /// The hash of all that is long in here.
    pub content: Content,
}

/// How an attempt ended, before the job's books give it its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Completed, Failed or Cancelled.
    pub status: Status,
    /// See [`Ending::reported`].
    pub reported: bool,
    /// See [`Verdict::exit_code`].
    pub exit_code: Option<i32>,
    /// The last bytes of output, at most [`OUTPUT_BYTES_MAX`].
    pub output: Box<[u8]>,
    /// Whether output before those was dropped.
    pub output_cut: bool,
    /// Why, at most [`ERROR_BYTES_MAX`].
    pub error: Option<Box<str>>,
}

impl End {
    /// Takes a worker's report; what is longer than allowed is cut, whatever the worker did.
    #[must_use]
    pub fn reported(verdict: &Verdict) -> Self {
        let surplus = verdict.output.len().saturating_sub(OUTPUT_BYTES_MAX);
        Self {
            status: if verdict.completed { Status::Completed } else { Status::Failed },
            reported: true,
            exit_code: verdict.exit_code,
            output: Box::from(verdict.output.get(surplus..).unwrap_or_default()),
            output_cut: verdict.output_cut || surplus > 0,
            error: verdict.error.as_deref().map(|error| Box::from(cut(error, ERROR_BYTES_MAX))),
        }
    }

    /// Says why a job ended that no worker reported about.
    #[must_use]
    pub fn decided(status: Status, reason: &str) -> Self {
        Self {
            status,
            reported: false,
            exit_code: None,
            output: Box::default(),
            output_cut: false,
            error: Some(Box::from(cut(reason, ERROR_BYTES_MAX))),
        }
    }

    /// Gives it its place and time.
    #[must_use]
    pub fn at(self, order: u64, finished_ms: Millis) -> Ending {
        let content = ending_content(&self.output, self.error.as_deref());
        Ending {
            order,
            finished_ms,
            reported: self.reported,
            exit_code: self.exit_code,
            output_cut: self.output_cut,
            output: self.output,
            error: self.error,
            content,
        }
    }
}

/// Returns the longest beginning of a text that has at most `bytes_max` bytes.
pub(in crate::jobs) fn cut(text: &str, bytes_max: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes_max)).unwrap_or(text)
}

/// Hashes what is long in an ending.
#[must_use]
pub fn ending_content(output: &[u8], error: Option<&str>) -> Content {
    let (has_error, error) = (u8::from(error.is_some()), error.unwrap_or_default());
    Content::of(Fold::new(b'e').bytes(output).u8(has_error).bytes(error.as_bytes()))
}

/// Hashes what a job is.
#[must_use]
pub fn job_content(
    queue: &QueueName,
    kind: Kind,
    body: &[u8],
    options: Option<&Options>,
) -> Content {
    let mut fold = Fold::new(b'b');
    fold.bytes(queue.as_str().as_bytes()).u8(kind.code()).bytes(body);
    if let Some(options) = options {
        fold.bytes(&options.to_bytes());
    }
    Content::of(&fold)
}

/// Shares the output of an ending.
fn output_of(ending: &Arc<Ending>) -> Bytes {
    struct Output(Arc<Ending>);
    impl AsRef<[u8]> for Output {
        fn as_ref(&self) -> &[u8] {
            &self.0.output
        }
    }
    if ending.output.is_empty() {
        return Bytes::new();
    }
    Bytes::from_owner(Output(Arc::clone(ending)))
}

/// Packs a body into bytes. Commands lose nothing by it: a body without a fault has at least one
/// word and no zero byte.
#[must_use]
pub fn pack(body: &Body) -> (Kind, Arc<[u8]>) {
    match body {
        Body::Command(words) => (Kind::Command, Arc::from(words.join("\0").into_bytes())),
        Body::Payload(bytes) => (Kind::Payload, Arc::from(bytes.as_ref())),
    }
}

impl Job {
    /// Returns what the job is, as it was submitted. The bytes of a payload are shared, not copied.
    ///
    /// # Panics
    /// If the words of a command are not text: they were when it was submitted.
    #[must_use]
    pub fn unpacked(&self) -> Body {
        match self.kind {
            Kind::Command => {
                let words = std::str::from_utf8(&self.body).expect("a command was made of text");
                Body::Command(words.split('\0').map(String::from).collect())
            }
            Kind::Payload => Body::Payload(Bytes::from_owner(Arc::clone(&self.body))),
        }
    }

    /// Returns what it asks for.
    #[must_use]
    pub fn options(&self) -> &Options {
        self.asked().map_or(Options::NONE, |options| options)
    }

    /// Returns what it asks for, if that is anything.
    #[must_use]
    pub fn asked(&self) -> Option<&Arc<Options>> {
        self.extra.as_ref().and_then(|extra| extra.options.as_ref())
    }

    /// Changes what most jobs do not have; what is empty then is dropped.
    pub fn with_extra(&mut self, change: impl FnOnce(&mut Extra)) {
        let extra = self.extra.get_or_insert_default();
        change(Arc::make_mut(extra));
        if extra.is_empty() {
            self.extra = None;
        }
    }

    /// Returns the class it belongs to while it is pending.
    #[must_use]
    pub fn class(&self) -> Class {
        let work = match self.kind {
            Kind::Command => Work::Commands,
            Kind::Payload => Work::Payloads(self.queue.clone()),
        };
        Class { work, tags: self.options().tags.clone() }
    }

    /// Returns the line it stands in while it is pending and not held.
    #[must_use]
    pub fn lane(&self) -> Lane {
        Lane { queue: self.queue.clone(), class: self.class() }
    }

    /// Returns its place in any line: the higher priority first, then the order of commit.
    #[must_use]
    pub fn place(&self) -> u64 {
        self.first_place() | self.sequence
    }

    /// Returns the first place that a job of its priority can have.
    #[must_use]
    pub fn first_place(&self) -> u64 {
        let priority = self.options().priority.min(PRIORITY_MAX);
        u64::from(PRIORITY_MAX - priority) << PRIORITY_SHIFT
    }

    /// Tells whether it waits for a time to come, and stands in no line until then.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.status == Status::Pending && self.held_ms().is_some()
    }

    /// Returns until when it waits, if it waits for a time.
    #[must_use]
    pub fn held_ms(&self) -> Option<Millis> {
        self.extra.as_ref().and_then(|extra| extra.held_ms)
    }

    /// Returns when something happens to it by itself.
    #[must_use]
    pub fn wakes_ms(&self) -> Option<Millis> {
        let extra = self.extra.as_ref()?;
        match self.status {
            Status::Pending => extra.held_ms.into_iter().chain(extra.expires_ms).min(),
            Status::Running | Status::Completed | Status::Failed | Status::Cancelled => None,
        }
    }

    /// Returns how many attempts were used up, the one under way or to come included.
    #[must_use]
    pub fn attempts_used(&self) -> u32 {
        let free = |extra: &Arc<Extra>| extra.forgiven.saturating_add(extra.put_off);
        self.attempt.saturating_sub(self.extra.as_ref().map_or(0, free))
    }

    /// Returns the token of its last assignment.
    #[must_use]
    pub fn fence(&self) -> Option<Fence> {
        self.run.as_ref().map(|run| run.fence)
    }

    /// Returns who runs it, or ran it last.
    #[must_use]
    pub fn worker(&self) -> Option<&WorkerId> {
        self.run.as_ref().map(|run| &run.worker)
    }

    /// Returns what it counts in the limits on bytes.
    #[must_use]
    pub fn weight(&self) -> u64 {
        let run = self.run.as_ref().map_or(0, |_| RUN_BYTES);
        let ending = self.ending.as_ref().map_or(0, |_| ENDING_BYTES);
        let extra = self.extra.as_ref().map_or(0, |extra| extra.weight());
        JOB_OVERHEAD_BYTES + self.body.len() as u64 + run + ending + extra + self.told_bytes()
    }

    /// Returns the bytes of its output and error together.
    #[must_use]
    pub fn told_bytes(&self) -> u64 {
        self.ending.as_ref().map_or(0, |ending| {
            (ending.output.len() + ending.error.as_ref().map_or(0, |error| error.len())) as u64
        })
    }

    /// Tells users about it, with or without its body and the attempts before the last one. Output and payload
    /// are shared, not copied.
    #[must_use]
    pub fn view(&self, whole: bool) -> JobView {
        let ending = self.ending.as_deref();
        JobView {
            id: self.id,
            queue: self.queue.clone(),
            status: self.status,
            attempt: self.attempt,
            worker: self.worker().cloned(),
            fence: self.fence(),
            exit_code: ending.and_then(|ending| ending.exit_code),
            output: self.ending.as_ref().map_or_else(Bytes::new, output_of),
            output_cut: ending.is_some_and(|ending| ending.output_cut),
            error: ending.and_then(|ending| ending.error.as_deref()).map(String::from),
            created_ms: self.created_ms,
            started_ms: self.run.as_ref().map(|run| run.started_ms),
            finished_ms: ending.map(|ending| ending.finished_ms),
            options: self.asked().cloned(),
            held_ms: self.held_ms().filter(|_| self.status == Status::Pending),
            progress: self.extra.as_ref().and_then(|extra| extra.progress.as_deref().cloned()),
            past: self.past_views(whole),
            body: whole.then(|| self.unpacked()),
        }
    }

    /// Tells whether an attempt that was not the last one was reported under this token.
    #[must_use]
    pub fn has_past_report(&self, fence: Fence) -> bool {
        let mut past = self.extra.iter().flat_map(|extra| &extra.past);
        past.any(|past| past.fence == fence && past.reported)
    }

    fn past_views(&self, whole: bool) -> Vec<AttemptView> {
        let past = self.extra.iter().filter(|_| whole).flat_map(|extra| &extra.past);
        past.map(Past::view).collect()
    }

    /// Makes what a worker needs to begin it, under the token of its last assignment.
    #[must_use]
    pub fn assignment(&self, fence: Fence) -> Assignment {
        Assignment {
            id: self.id,
            queue: self.queue.clone(),
            attempt: self.attempt,
            fence,
            timeout_ms: self.options().timeout_ms,
            body: self.unpacked(),
        }
    }

    /// Hashes the whole record; bodies and outputs through the hashes kept of them.
    #[must_use]
    pub fn record(&self) -> u128 {
        let mut fold = Fold::new(b'j');
        fold.id(&self.id.0)
            .id(&self.content.0)
            .u64(self.sequence)
            .millis(self.created_ms)
            .u64(u64::from(self.attempt))
            .u8(status_code(self.status));
        match &self.run {
            None => fold.u8(0),
            Some(run) => fold
                .u8(1)
                .bytes(run.worker.as_str().as_bytes())
                .u64(run.incarnation.0)
                .fence(run.fence)
                .millis(run.started_ms)
                .u64(u64::from(run.chosen.running) << 32 | u64::from(run.chosen.slots))
                .u64(u64::from(run.chosen.free_workers)),
        };
        match &self.ending {
            None => fold.u8(0),
            Some(ending) => fold
                .u8(1)
                .u64(ending.order)
                .millis(ending.finished_ms)
                .u8(u8::from(ending.reported))
                .u8(u8::from(ending.output_cut))
                .u8(u8::from(ending.exit_code.is_some()))
                .u64(u64::from(ending.exit_code.unwrap_or_default().cast_unsigned()))
                .id(&ending.content.0),
        };
        if let Some(extra) = &self.extra {
            fold.id(&extra.record().0);
        }
        fold.finish()
    }
}

/// Returns what a new job counts in the limits on bytes.
#[must_use]
pub fn weight(new: &NewJob) -> u64 {
    let key = new.options.as_deref().map_or(0, |it| unique::weight_of_new(&new.queue, it));
    JOB_OVERHEAD_BYTES + new.body.len() as u64 + options_weight(new.options.as_deref()) + key
}

/// Returns the number that stands for a status in digests and images.
#[must_use]
pub fn status_code(status: Status) -> u8 {
    match status {
        Status::Pending => 0,
        Status::Running => 1,
        Status::Completed => 2,
        Status::Failed => 3,
        Status::Cancelled => 4,
    }
}

/// Finds the status that a number stands for.
#[must_use]
pub fn status_from_code(code: u8) -> Option<Status> {
    Status::ALL.into_iter().find(|status| status_code(*status) == code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_is_cut_between_characters() {
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(cut("aé", 3), "aé");
    }

    #[test]
    fn job_stays_within_one_cache_line_pair_of_the_allocator() {
        // With the two counters of its `Arc` this is a chunk of 128 bytes; a million jobs feel it.
        assert!(size_of::<Job>() <= 112, "{}", size_of::<Job>());
    }
}

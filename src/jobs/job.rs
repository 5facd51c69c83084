//! A job as its users see it: what they submit, what they get back, and the words for its state.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::jobs::intake::Progress;
use crate::jobs::options::Options;
use crate::pack::unpack::list;
use crate::types::{Fence, JobId, Millis, QueueName, WorkerId};

/// The bytes of a payload, or of all the words of a command together, at most.
pub const BODY_BYTES_MAX: usize = 1 << 20;

/// The words of one command, at most.
pub const COMMAND_WORDS_MAX: usize = 1024;

/// The bytes of output kept of one attempt, at most: the last ones.
pub const OUTPUT_BYTES_MAX: usize = 16 << 10;

/// The bytes of the error text of a failed job, at most; what is longer is cut.
pub const ERROR_BYTES_MAX: usize = 1024;

/// The exit code by which an attempt asks to be tried again later (`EX_TEMPFAIL` of sysexits.h): it uses up no
/// attempt, and waits as long as any that failed, also where the job has no retries; at most
/// [`crate::jobs::options::RETRIES_MAX`] times.
pub const EXIT_TRY_LATER: i32 = 75;

/// Attempts remembered beside the last one, at most; the oldest is forgotten first.
pub const PAST_MAX: usize = 8;

/// What a job is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// A program and its arguments, for the built-in workers; the first word is not empty.
    Command(Vec<String>),
    /// Bytes for a worker of one's own that serves the queue.
    Payload(Bytes),
}

/// What a word of a command takes beside its letters: its place in the list, and its own allocation.
const WORD_BYTES: usize = size_of::<String>() + 32;

impl Body {
    /// Returns the bytes that count against [`BODY_BYTES_MAX`].
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Command(words) => words.iter().map(String::len).sum(),
            Self::Payload(bytes) => bytes.len(),
        }
    }

    /// Returns about how many bytes of memory it takes: the words of a command take more than their letters.
    #[must_use]
    pub fn memory(&self) -> usize {
        let words = match self {
            Self::Command(words) => words.len(),
            Self::Payload(_) => 0,
        };
        self.len().saturating_add(words.saturating_mul(WORD_BYTES))
    }

    /// Tells whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Says why this is no body of a job, in words for the one who submitted it.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        match self {
            Self::Command(words) => match words.first() {
                None => Some("an empty command: name a program".into()),
                Some(program) if program.is_empty() => {
                    Some("the program's name is empty: name a program".into())
                }
                Some(_) if words.len() > COMMAND_WORDS_MAX => {
                    Some(format!("{} words in a command; at most {COMMAND_WORDS_MAX}", words.len()))
                }
                Some(_) if words.iter().any(|word| word.contains('\0')) => {
                    Some("a command's words cannot hold a zero byte".into())
                }
                Some(_) if self.len() > BODY_BYTES_MAX => {
                    Some(format!("a command of {} bytes; at most {BODY_BYTES_MAX}", self.len()))
                }
                Some(_) => None,
            },
            Self::Payload(bytes) if bytes.len() > BODY_BYTES_MAX => {
                Some(format!("a payload of {} bytes; at most {BODY_BYTES_MAX}", bytes.len()))
            }
            Self::Payload(_) => None,
        }
    }
}

/// A job to submit. The client makes the id, so that the same submit can be sent again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewJob {
    /// Made by the client, never used for another job.
    pub id: JobId,
    /// Where it waits.
    #[serde(default)]
    pub queue: QueueName,
    /// What it is.
    pub body: Body,
    /// What it asks for beside being run; `None`: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<Arc<Options>>,
}

impl NewJob {
    /// Makes a job that asks for nothing but to be run.
    #[must_use]
    pub fn plain(id: JobId, queue: QueueName, body: Body) -> Self {
        Self { id, queue, body, options: None }
    }

    /// Returns about how many bytes of memory it takes.
    #[must_use]
    pub fn memory(&self) -> usize {
        let options = self.options.as_ref().map_or(0, |options| options.memory());
        size_of::<Self>() + self.body.memory() + options
    }

    /// Says why this is no job, in words for the one who submitted it.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        self.body.fault().or_else(|| self.options.as_ref()?.fault())
    }
}

/// Where a job is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Waits for a worker.
    Pending,
    /// Assigned to a worker.
    Running,
    /// Ended well: exit code 0.
    Completed,
    /// Ended badly, or given up after its last attempt.
    Failed,
    /// Ended by a user before it could.
    Cancelled,
}

impl Status {
    /// Every status, in the order of a job's life.
    pub const ALL: [Self; 5] =
        [Self::Pending, Self::Running, Self::Completed, Self::Failed, Self::Cancelled];

    /// Tells whether a job in this status will never change again.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    /// Returns the word for it, as users write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// How an attempt ended, as its worker reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Completed or failed.
    pub completed: bool,
    /// The exit code of a command; `None` for a payload, a signal, or a command that never started.
    pub exit_code: Option<i32>,
    /// The last bytes of output, at most [`OUTPUT_BYTES_MAX`].
    pub output: Bytes,
    /// Whether output before those bytes was dropped.
    pub output_cut: bool,
    /// Why it failed, at most [`ERROR_BYTES_MAX`].
    pub error: Option<String>,
}

/// A job as it is told to users: the whole of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobView {
    /// Its id.
    pub id: JobId,
    /// Its queue.
    pub queue: QueueName,
    /// Where it is in its life.
    pub status: Status,
    /// 1 for the first attempt; 2 after a worker was lost with it.
    pub attempt: u32,
    /// Who runs it, or ran it last.
    pub worker: Option<WorkerId>,
    /// The token of its last assignment.
    pub fence: Option<Fence>,
    /// See [`Verdict::exit_code`].
    pub exit_code: Option<i32>,
    /// See [`Verdict::output`].
    pub output: Bytes,
    /// See [`Verdict::output_cut`].
    pub output_cut: bool,
    /// Why it failed or was cancelled.
    pub error: Option<String>,
    /// When it was submitted, on the log's clock.
    pub created_ms: Millis,
    /// When its last attempt was assigned.
    pub started_ms: Option<Millis>,
    /// When it ended.
    pub finished_ms: Option<Millis>,
    /// What it asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<Arc<Options>>,
    /// It is pending and waits for this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_ms: Option<Millis>,
    /// What the last attempt that began has said of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// The attempts before the last one, oldest first, the last
    /// [`PAST_MAX`] of them; left out of lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list")]
    pub past: Vec<AttemptView>,
    /// What it is; left out of lists.
    pub body: Option<Body>,
}

/// An attempt that was not the last one, as it is told to users.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptView {
    /// Which.
    pub attempt: u32,
    /// Who had it.
    pub worker: Option<WorkerId>,
    /// Its token; 0: it never began.
    pub fence: Fence,
    /// When it began.
    pub started_ms: Millis,
    /// When it ended.
    pub ended_ms: Millis,
    /// See [`Verdict::exit_code`].
    pub exit_code: Option<i32>,
    /// Why it failed.
    pub error: String,
}

/// One job handed to a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The job.
    pub id: JobId,
    /// Its queue.
    pub queue: QueueName,
    /// Which attempt this is.
    pub attempt: u32,
    /// The token every report about it must carry.
    pub fence: Fence,
    /// How long this attempt may take, in milliseconds; the worker ends it then, and reports that it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// What to run or to handle.
    pub body: Body,
}

/// What kind of jobs a worker takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Serves {
    /// Commands of every queue, and no payloads: a built-in worker.
    Commands,
    /// Payloads of these queues, and no commands: a worker of one's own. At least one queue, each
    /// once, at most [`WORKER_QUEUES_MAX`].
    Payloads(Vec<QueueName>),
}

/// How many queues one worker serves, at most.
pub const WORKER_QUEUES_MAX: usize = 64;

/// How many slots one worker has, at most.
pub const WORKER_SLOTS_MAX: u32 = 4096;

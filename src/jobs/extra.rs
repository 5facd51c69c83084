//! What most jobs do not have, kept beside the job: its options, the times it waits for, and the attempts before
//! the last one.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::jobs::digest::{Content, Fold};
use crate::jobs::intake::Progress;
use crate::jobs::job::{AttemptView, PAST_MAX};
use crate::jobs::options::Options;
use crate::types::{Fence, Millis, WorkerId};

/// Bytes of the error of a past attempt, at most.
pub const PAST_ERROR_BYTES_MAX: usize = 256;

/// What the record weighs in the limit on resident bytes, beside options and attempts.
const EXTRA_BYTES: u64 = 128;

/// What progress weighs beside its note.
const PROGRESS_BYTES: u64 = 64;

/// What a past attempt weighs beside its error.
const PAST_BYTES: u64 = 96;

/// The record. It is there only if something in it is not empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extra {
    /// What the job asks for; `None`: nothing.
    pub options: Option<Arc<Options>>,
    /// A pending job waits for this time.
    pub held_ms: Option<Millis>,
    /// It fails at this time, if it was not begun.
    pub expires_ms: Option<Millis>,
    /// Attempts that count no more: those before somebody had it tried again.
    pub forgiven: u32,
    /// The attempts before the last one, oldest first, at most [`PAST_MAX`].
    pub past: VecDeque<Past>,
    /// Attempts that asked to be tried again later: they count no more either, and are at most
    /// [`crate::jobs::options::RETRIES_MAX`].
    pub put_off: u32,
    /// What the last attempt that began said of itself; kept until the next one begins.
    pub progress: Option<Box<Progress>>,
}

/// An attempt that is over and was not the last one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// Which.
    pub attempt: u32,
    /// Who had it; `None`: it never began.
    pub worker: Option<WorkerId>,
    /// Its token; 0: it never began.
    pub fence: Fence,
    /// When it began.
    pub started_ms: Millis,
    /// When it ended.
    pub ended_ms: Millis,
    /// Whether its worker reported it: only then is the same report a repeat.
    pub reported: bool,
    /// See [`crate::jobs::job::Verdict::exit_code`].
    pub exit_code: Option<i32>,
    /// Why it failed, at most [`PAST_ERROR_BYTES_MAX`].
    pub error: Box<str>,
}

impl Past {
    /// Tells users about it.
    #[must_use]
    pub fn view(&self) -> AttemptView {
        AttemptView {
            attempt: self.attempt,
            worker: self.worker.clone(),
            fence: self.fence,
            started_ms: self.started_ms,
            ended_ms: self.ended_ms,
            exit_code: self.exit_code,
            error: self.error.to_string(),
        }
    }

    fn fold(&self, fold: &mut Fold) {
        fold.u64(u64::from(self.attempt))
            .bytes(self.worker.as_ref().map_or("", WorkerId::as_str).as_bytes())
            .fence(self.fence)
            .millis(self.started_ms)
            .millis(self.ended_ms)
            .u8(u8::from(self.reported))
            .u8(u8::from(self.exit_code.is_some()))
            .u64(u64::from(self.exit_code.unwrap_or_default().cast_unsigned()))
            .bytes(self.error.as_bytes());
    }
}

impl Extra {
    /// Tells whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds an attempt that is over; the oldest one makes room for it.
    pub fn remember(&mut self, past: Past) {
        if self.past.len() >= PAST_MAX {
            self.past.pop_front();
        }
        self.past.push_back(past);
    }

    /// Returns what it counts in the limits on bytes.
    #[must_use]
    pub fn weight(&self) -> u64 {
        let options = self.options.as_ref().map_or(0, |options| options.memory() as u64);
        let past: u64 = self.past.iter().map(|past| PAST_BYTES + past.error.len() as u64).sum();
        let progress = self.progress.as_ref().map_or(0, |it| PROGRESS_BYTES + it.note.len() as u64);
        EXTRA_BYTES + options + past + progress
    }

    /// Hashes what is not in the job's content.
    #[must_use]
    pub fn record(&self) -> Content {
        let Self { options: _, held_ms, expires_ms, forgiven, past, put_off, progress } = self;
        let time = |at: &Option<Millis>| at.map_or(0, |at| at.0.saturating_add(1));
        let mut fold = Fold::new(b'x');
        fold.u64(time(held_ms))
            .u64(time(expires_ms))
            .u64(u64::from(*forgiven))
            .u64(u64::from(*put_off))
            .u8(u8::from(progress.is_some()))
            .u64(past.len() as u64);
        if let Some(progress) = progress {
            fold.u8(progress.percent).bytes(progress.note.as_bytes()).millis(progress.at_ms);
        }
        past.iter().for_each(|past| past.fold(&mut fold));
        Content::of(&fold)
    }
}

/// Returns what the options of a new job add to its weight.
#[must_use]
pub fn options_weight(options: Option<&Options>) -> u64 {
    options.map_or(0, |options| EXTRA_BYTES + options.memory() as u64)
}

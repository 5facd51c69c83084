//! What one job may tell its clients and workers, as a model for the linearizability checker (`jobs/apply.rs`).

use serde::{Deserialize, Serialize};

use crate::jobs::job::Status;
use crate::sim::linear::Model;
use crate::types::JobId;

/// One operation on one job, with what came of it. An outcome of `None` is unknown: it was done, or not, or is yet
/// to be. An operation that certainly was not done is no operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Op {
    /// The job was submitted.
    Submit {
        /// Stands for queue and body: another content under the same id is another job.
        content: u64,
        /// It may have been sent more than once: then "known" may speak of its own first try.
        repeated: bool,
        /// What came of it.
        outcome: Option<Submitted>,
    },
    /// The job was looked at, by a get, a wait or a page of a list.
    Look {
        /// What was seen; `None`: there is no such job.
        seen: Option<Seen>,
    },
    /// The job was cancelled.
    Cancel {
        /// It may have been sent more than once: of a job not found, a former try may be done yet.
        repeated: bool,
        /// What came of it.
        outcome: Option<Cancelled>,
    },
    /// A worker reported the end of an attempt.
    Report {
        /// The token it reported under.
        fence: u64,
        /// Completed or failed.
        completed: bool,
        /// Stands for exit code and output; never 0.
        result: u64,
        /// What came of it.
        outcome: Option<Reported>,
    },
    /// A worker was told of an assignment, by whatever node, however late: it was made some time before that.
    Assigned {
        /// The attempt.
        attempt: u32,
        /// The token.
        fence: u64,
    },
}

impl Op {
    /// Tells whether it changes something, so that its outcome can be unknown.
    #[must_use]
    pub fn is_change(&self) -> bool {
        matches!(self, Self::Submit { .. } | Self::Cancel { .. } | Self::Report { .. })
    }

    /// Returns what former tries of it may still do after it was answered. A submit or a report that comes
    /// late again finds its own work done, and so does a cancellation, unless there was no job yet; a submit that
    /// was answered with another job may be taken when that one has ended.
    #[must_use]
    pub fn ghost(&self) -> Option<Self> {
        match self {
            Self::Cancel { repeated: true, outcome: Some(Cancelled::NotFound) } => {
                Some(Self::Cancel { repeated: false, outcome: None })
            }
            Self::Submit { content, repeated: true, outcome: Some(Submitted::Taken) } => {
                Some(Self::Submit { content: *content, repeated: false, outcome: None })
            }
            Self::Submit { .. }
            | Self::Look { .. }
            | Self::Cancel { .. }
            | Self::Report { .. }
            | Self::Assigned { .. } => None,
        }
    }
}

/// What came of a submit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Submitted {
    /// The job is in the queue by it.
    Created,
    /// The same job was there.
    Known,
    /// Another job has the id.
    AlreadyExists,
    /// Another job has its unique key, and this one was not made.
    Taken,
}

/// What came of a cancellation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cancelled {
    /// It is cancelled, now or before.
    Cancelled,
    /// It had completed or failed; which of them is not always told.
    Ended(Option<Status>),
    /// There is no such job.
    NotFound,
}

/// What came of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reported {
    /// The job has ended by it, now or before.
    Applied,
    /// The token is old.
    StaleFence,
    /// There is no such job.
    NotFound,
}

/// A job as it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Where it was in its life.
    pub status: Status,
    /// Which attempt.
    pub attempt: u32,
    /// The token of its last assignment; 0: it never had one.
    pub fence: u64,
    /// Stands for exit code and output; 0: there is neither.
    pub result: u64,
}

/// The model: what the queue promises of one job.
#[derive(Clone, Copy, Debug)]
pub struct JobModel {
    /// Attempts a job has before it fails for want of a worker that lives.
    pub attempts_max: u32,
    /// Ended jobs may be forgotten during the history; their ids are still known then.
    pub may_forget: bool,
    /// Workers whose reports are not in the history end jobs too: those built into the nodes.
    pub others_report: bool,
    /// What each job asks for.
    pub asks: fn(JobId) -> Asks,
    /// What this one asks for.
    pub asked: Asks,
}

/// What a job asks for, as far as it changes what may become of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asks {
    /// So many attempts may fail before the last one.
    pub retries: u32,
    /// If it is not begun for long, it fails.
    pub expires: bool,
}

impl JobModel {
    /// Returns the model of one job.
    #[must_use]
    pub fn of(&self, job: JobId) -> Self {
        Self { asked: (self.asks)(job), ..*self }
    }

    /// Attempts it has, whatever becomes of them.
    fn attempts(&self) -> u32 {
        self.attempts_max.max(self.asked.retries + 1)
    }

    /// Tells whether it may fail by itself before it is begun.
    fn may_expire(&self, at: Live) -> bool {
        self.asked.expires && !at.runs && at.fence == 0
    }
}

impl Default for JobModel {
    /// The cluster's own limit, nothing forgotten, every report in the history.
    fn default() -> Self {
        Self {
            attempts_max: 3,
            may_forget: false,
            others_report: false,
            asks: |_| Asks::default(),
            asked: Asks::default(),
        }
    }
}

/// What is known of the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It was never submitted.
    Absent,
    /// It has not ended, or has by itself: it is like this, or has come from here by steps of the queue's own.
    Live {
        /// What it is.
        content: u64,
        /// Where it is, or was last.
        at: Live,
    },
    /// It has ended.
    Ended {
        /// What it is.
        content: u64,
        /// How.
        ending: Ending,
    },
    /// It has ended and was forgotten; its id is known.
    Forgotten {
        /// What it was.
        content: u64,
    },
}

/// A job that has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Live {
    /// Which attempt.
    pub attempt: u32,
    /// The token of its last assignment, 0 for none.
    pub fence: u64,
    /// A worker has it under that token; else it waits.
    pub runs: bool,
}

/// A job that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ending {
    /// How.
    pub status: Status,
    /// See [`Seen::result`]; `None`: not seen yet.
    pub result: Option<u64>,
    /// Its worker reported it.
    pub reported: bool,
    /// Its last attempt.
    pub last: Last,
}

/// What is known of the last attempt of a job that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Last {
    /// Everything.
    Exactly {
        /// The attempt.
        attempt: u32,
        /// The token.
        fence: u64,
    },
    /// The token: it was reported under it.
    Under {
        /// The token.
        fence: u64,
        /// The attempt, or a later one.
        attempt_min: u32,
    },
    /// It waited or ran, here or further on.
    From(Live),
    /// It ran, here or further on.
    RanFrom(Live),
    /// It ran, here or further on, and was its worker was lost with the last attempt it had.
    LostFrom(Live),
}

impl Live {
    /// Tells whether the queue by itself may bring a job from here to there.
    fn reaches(self, to: Self, attempts_max: u32) -> bool {
        if to == self {
            return true;
        }
        let later = to.attempt >= self.attempt && to.attempt <= attempts_max;
        if to.fence > self.fence {
            return later;
        }
        // Its worker gave it back, or was lost with it.
        let given_back = to.attempt == self.attempt || to.attempt == self.attempt + 1;
        to.fence == self.fence && self.runs && !to.runs && given_back && later
    }
}

impl Last {
    /// Tells whether the last attempt may have been this one.
    fn admits(self, attempt: u32, fence: u64, model: &JobModel) -> bool {
        let attempts_max = model.attempts();
        let reaches = |from: Live, runs| from.reaches(Live { attempt, fence, runs }, attempts_max);
        match self {
            Self::Exactly { attempt: a, fence: f } => (a, f) == (attempt, fence),
            Self::Under { fence: f, attempt_min } => {
                f == fence && (attempt_min..=attempts_max).contains(&attempt)
            }
            Self::From(from) => reaches(from, true) || reaches(from, false),
            Self::RanFrom(from) => reaches(from, true),
            Self::LostFrom(from) => attempt == attempts_max && reaches(from, true),
        }
    }

    /// Tells whether the last token may have been this one.
    fn admits_fence(self, fence: u64, model: &JobModel) -> bool {
        (1..=model.attempts()).any(|attempt| self.admits(attempt, fence, model))
    }
}

impl Model for JobModel {
    type Op = Op;
    type State = State;

    fn initial(&self) -> State {
        State::Absent
    }

    /// A job goes one way only: what leaves it as it is never brings it back to how it was.
    fn settles(&self, _op: &Op) -> bool {
        true
    }

    fn step(&self, state: &State, op: &Op, next: &mut Vec<State>) {
        match op {
            Op::Submit { content, repeated, outcome } => {
                next.extend(submit(*state, *content, *repeated, *outcome));
            }
            Op::Look { seen: Some(seen) } => self.look(*state, *seen, next),
            Op::Look { seen: None } => next.extend(self.miss(*state)),
            Op::Cancel { outcome, .. } => self.cancel(*state, *outcome, next),
            Op::Report { fence, completed, result, outcome } => {
                let status = if *completed { Status::Completed } else { Status::Failed };
                self.report(*state, *fence, (status, *result), *outcome, next);
            }
            Op::Assigned { attempt, fence } => {
                let to = Live { attempt: *attempt, fence: *fence, runs: true };
                if let State::Live { content, at } = *state
                    && at.reaches(to, self.attempts())
                {
                    next.push(State::Live { content, at: to });
                }
            }
        }
    }
}

fn submit(state: State, content: u64, repeated: bool, outcome: Option<Submitted>) -> Option<State> {
    let fresh = State::Live { content, at: Live { attempt: 1, fence: 0, runs: false } };
    let known = match state {
        State::Absent => {
            return match outcome {
                None | Some(Submitted::Created) => Some(fresh),
                Some(Submitted::Known) => repeated.then_some(fresh),
                Some(Submitted::AlreadyExists) => None,
                Some(Submitted::Taken) => Some(State::Absent),
            };
        }
        State::Live { content, .. }
        | State::Ended { content, .. }
        | State::Forgotten { content } => content,
    };
    match outcome {
        // Nothing changes: the same as never.
        None | Some(Submitted::Created | Submitted::Taken) => None,
        Some(Submitted::Known) => (known == content).then_some(state),
        Some(Submitted::AlreadyExists) => (known != content).then_some(state),
    }
}

impl JobModel {
    fn look(&self, state: State, seen: Seen, next: &mut Vec<State>) {
        let Seen { status, attempt, fence, result } = seen;
        let last = Last::Exactly { attempt, fence };
        match state {
            State::Absent | State::Forgotten { .. } => {}
            State::Live { content, at } => {
                let runs = match status {
                    Status::Pending => false,
                    Status::Running => true,
                    // Only an operation of the history cancels a job.
                    Status::Cancelled => return,
                    Status::Completed | Status::Failed => {
                        let ends =
                            |reported| Ending { status, result: Some(result), reported, last };
                        let fits = |from: Last| from.admits(attempt, fence, self);
                        let expired = self.may_expire(at) && (attempt, fence) == (1, 0);
                        if status == Status::Failed
                            && result == 0
                            && (expired || fits(Last::LostFrom(at)))
                        {
                            next.push(State::Ended { content, ending: ends(false) });
                        }
                        if self.others_report && fits(Last::RanFrom(at)) {
                            next.push(State::Ended { content, ending: ends(true) });
                        }
                        return;
                    }
                };
                let to = Live { attempt, fence, runs };
                if result == 0 && at.reaches(to, self.attempts()) {
                    next.push(State::Live { content, at: to });
                }
            }
            State::Ended { content, ending } => {
                let fits = ending.status == status
                    && ending.result.is_none_or(|known| known == result)
                    && ending.last.admits(attempt, fence, self);
                if fits {
                    let ending = Ending { result: Some(result), last, ..ending };
                    next.push(State::Ended { content, ending });
                }
            }
        }
    }

    /// There was no such job.
    fn miss(&self, state: State) -> Option<State> {
        match state {
            State::Absent | State::Forgotten { .. } => Some(state),
            State::Ended { content, .. } => self.may_forget.then_some(State::Forgotten { content }),
            // It may have ended by itself and been forgotten.
            State::Live { content, .. } => {
                (self.may_forget && self.others_report).then_some(State::Forgotten { content })
            }
        }
    }

    fn cancel(&self, state: State, outcome: Option<Cancelled>, next: &mut Vec<State>) {
        match (state, outcome) {
            (State::Live { content, at }, None | Some(Cancelled::Cancelled)) => {
                let ending = Ending {
                    status: Status::Cancelled,
                    result: Some(0),
                    reported: false,
                    last: Last::From(at),
                };
                next.push(State::Ended { content, ending });
            }
            (State::Live { content, at }, Some(Cancelled::Ended(status))) => {
                let told = |status_: Status| status.is_none_or(|status| status == status_);
                let mut push = |ending| next.push(State::Ended { content, ending });
                if told(Status::Failed) {
                    let failed = |last| Ending {
                        status: Status::Failed,
                        result: Some(0),
                        reported: false,
                        last,
                    };
                    push(failed(Last::LostFrom(at)));
                    if self.may_expire(at) {
                        push(failed(Last::Exactly { attempt: 1, fence: 0 }));
                    }
                }
                for status in [Status::Completed, Status::Failed] {
                    if self.others_report && told(status) {
                        let last = Last::RanFrom(at);
                        push(Ending { status, result: None, reported: true, last });
                    }
                }
            }
            (State::Ended { ending, .. }, Some(Cancelled::Cancelled)) => {
                next.extend((ending.status == Status::Cancelled).then_some(state));
            }
            (State::Ended { ending, .. }, Some(Cancelled::Ended(status))) => {
                let told = status.is_none_or(|status| status == ending.status);
                next.extend((told && ending.status != Status::Cancelled).then_some(state));
            }
            (_, Some(Cancelled::NotFound)) => next.extend(self.miss(state)),
            // Nothing changes: the same as never.
            (State::Absent | State::Ended { .. } | State::Forgotten { .. }, None)
            | (State::Absent | State::Forgotten { .. }, Some(_)) => {}
        }
    }

    fn report(
        &self,
        state: State,
        fence: u64,
        verdict: (Status, u64),
        outcome: Option<Reported>,
        next: &mut Vec<State>,
    ) {
        match (state, outcome) {
            (State::Live { content, at }, None | Some(Reported::Applied)) => {
                let (status, result) = verdict;
                let retries = if status == Status::Failed { self.asked.retries } else { 0 };
                let is_known = at.runs && at.fence == fence;
                if !is_known && fence <= at.fence {
                    // The report of an attempt before, once more: it found its own work done.
                    let is_repeat = retries > 0 && outcome.is_some() && at.attempt > 1;
                    next.extend(is_repeat.then_some(state));
                    return;
                }
                // Which attempt it was is known, or it is a later one.
                let most = if is_known { at.attempt } else { self.attempts() };
                for attempt in at.attempt..=most.min(retries) {
                    let at = Live { attempt: attempt + 1, fence, runs: false };
                    next.push(State::Live { content, at });
                }
                let attempt_min = at.attempt.max(retries + 1);
                if attempt_min <= most {
                    let last = match is_known {
                        true => Last::Exactly { attempt: at.attempt, fence },
                        false => Last::Under { fence, attempt_min },
                    };
                    let ending = Ending { status, result: Some(result), reported: true, last };
                    next.push(State::Ended { content, ending });
                }
            }
            (State::Live { content, at }, Some(Reported::StaleFence)) => {
                if !at.runs || at.fence != fence {
                    next.push(state);
                    return;
                }
                // It was taken away from this worker: given back, or lost with it.
                let waits =
                    |attempt| State::Live { content, at: Live { attempt, fence, runs: false } };
                next.push(waits(at.attempt));
                if at.attempt < self.attempts() {
                    next.push(waits(at.attempt + 1));
                } else {
                    let ending = Ending {
                        status: Status::Failed,
                        result: Some(0),
                        reported: false,
                        last: Last::Exactly { attempt: at.attempt, fence },
                    };
                    next.push(State::Ended { content, ending });
                }
            }
            (State::Ended { content, ending }, Some(Reported::Applied)) => {
                // The same report again finds its own work done.
                if ending.reported && ending.last.admits_fence(fence, self) {
                    let last = match ending.last {
                        Last::From(at) | Last::RanFrom(at) | Last::LostFrom(at) => {
                            Last::Under { fence, attempt_min: at.attempt }
                        }
                        Last::Exactly { .. } | Last::Under { .. } => ending.last,
                    };
                    next.push(State::Ended { content, ending: Ending { last, ..ending } });
                } else if verdict.0 == Status::Failed && self.asked.retries > 0 {
                    // So does that of an attempt before the last one.
                    next.push(state);
                }
            }
            (State::Ended { ending, .. }, Some(Reported::StaleFence)) => {
                let own = match ending.last {
                    Last::Exactly { fence: f, .. } | Last::Under { fence: f, .. } => f == fence,
                    Last::From(_) | Last::RanFrom(_) | Last::LostFrom(_) => false,
                };
                next.extend((!ending.reported || !own).then_some(state));
            }
            (_, Some(Reported::NotFound)) => next.extend(self.miss(state)),
            // Nothing changes: the same as never.
            (State::Absent | State::Ended { .. } | State::Forgotten { .. }, None)
            | (State::Absent | State::Forgotten { .. }, Some(_)) => {}
        }
    }
}

//! The decisions of one call, without a socket or a clock: whom to ask next, when, and what the caller is told.
//!
//! A driver (the [`crate::client::client::Client`] over sockets, the simulator over its own network) takes
//! a [`Step`] from [`Call::step`], does it, and tells what came of it, until there is an answer. Time comes
//! in as [`Moment`]s and dice with the [`Cluster`], so that the same inputs give the same decisions.
//!
//! The rules are those of `wire-spec.md` §13. All requests but one (leadership handed to nobody in particular)
//! may be sent again, because they carry the ids that make the second time harmless; what differs is only what the caller is told when no
//! try was answered: of a change that was sent, that its outcome is unknown.

use std::sync::Arc;
use std::time::Duration;

use crate::client::cluster::{Addr, Cluster};
use crate::client::describe::{describe, expects, ids, may_repeat, needs_leader, wait_ms};
use crate::client::error::{Error, Story};
use crate::client::moment::Moment;
use crate::wire::message::{Code, Refusal, Reply, Request};

/// Redirections followed at once, at most; then the call pauses, for the nodes disagree.
pub const HOPS_MAX: u32 = 3;

/// The first pause is at most so long; each further one up to twice as long.
pub const PAUSE_MIN: Duration = Duration::from_millis(50);

/// No pause is longer, but for what a node asks for.
pub const PAUSE_MAX: Duration = Duration::from_secs(2);

/// While a call is younger than [`SOON`], no pause is longer than this, but for what a node asks for and
/// where a queue is full: an election is over soon.
pub const PAUSE_SOON_MAX: Duration = Duration::from_millis(200);

/// So long a call expects that it waits for an election.
pub const SOON: Duration = Duration::from_secs(3);

/// With less time than this left, a call that would have to pause ends instead.
const LAST_TRY: Duration = Duration::from_millis(100);

/// A node answers within 5.5 s (`wire-spec.md` §9); after this it is given up and another asked.
const ANSWER_TIME: Duration = Duration::from_secs(6);

/// A heartbeat without an answer is worth less than a new one elsewhere.
const HEARTBEAT_TIME: Duration = Duration::from_secs(1);

/// No try of a submit begins later than this after the first one whose outcome is unknown: the job may have
/// ended since, and its id is sure to be known for 60 s more only (`wire-spec.md` §16).
pub(crate) const SUBMIT_REPEATED_MAX: Duration = Duration::from_secs(50);

/// Addresses remembered for the text of an error, at most: the last ones.
const ASKED_MAX: usize = 8;

/// What the driver does next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Reach one of these nodes, the first if it can be reached quickly, and tell [`Call::reached`] or
    /// [`Call::unreached`]. Never empty.
    Reach(Vec<Addr>),
    /// Wait, and ask again.
    Wait {
        /// Until then.
        until: Moment,
    },
    /// It is over.
    Fail(Error),
}

/// What the driver does with a node that it reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// Send the request and wait for the answer until then.
    Send {
        /// Then tell [`Call::unanswered`].
        until: Moment,
    },
    /// Take the next step: another node leads, as this one said when it let us in.
    Elsewhere,
}

/// One request on its way to an answer.
#[derive(Debug)]
pub struct Call {
    request: Arc<Request>,
    /// The only node to ask, if the caller named one.
    only: Option<Addr>,
    began: Moment,
    deadline: Moment,
    not_before: Moment,
    /// Whom to ask next: a hint, or one who asked us to come back.
    next: Option<Addr>,
    /// Who had its turn and could not help.
    last: Option<Addr>,
    /// The head of the last step's list.
    wanted: Option<Addr>,
    /// When the last try began.
    tried: Moment,
    hops: u32,
    pause: Duration,
    attempts: u32,
    asked: Vec<Addr>,
    /// Some try of a change may have been done.
    is_unknown: bool,
    /// It cannot come to anything any more in the time left.
    is_over: bool,
    /// Some node said no.
    was_answered: bool,
    heard: Heard,
    rng: fastrand::Rng,
}

/// The last thing heard.
#[derive(Debug)]
enum Heard {
    Nothing,
    Refused(Refusal),
    Unreached(String),
    Lost(String),
}

impl Call {
    /// Begins a call that must end by `deadline`. With `only`, no other node is asked.
    #[must_use]
    pub fn new(
        request: Arc<Request>,
        only: Option<Addr>,
        cluster: &mut Cluster,
        now: Moment,
        deadline: Moment,
    ) -> Self {
        cluster.count_call();
        Self {
            request,
            only,
            began: now,
            deadline,
            not_before: now,
            next: None,
            last: None,
            wanted: None,
            tried: now,
            hops: 0,
            pause: PAUSE_MIN,
            attempts: 0,
            asked: Vec::new(),
            is_unknown: false,
            is_over: false,
            was_answered: false,
            heard: Heard::Nothing,
            rng: cluster.dice(),
        }
    }

    /// Returns the request.
    #[must_use]
    pub fn request(&self) -> &Arc<Request> {
        &self.request
    }

    /// Returns when the call ends at the latest.
    #[must_use]
    pub fn deadline(&self) -> Moment {
        self.deadline
    }

    /// Decides what to do next.
    pub fn step(&mut self, cluster: &mut Cluster, now: Moment) -> Step {
        self.is_over |= self.is_unknown && !may_repeat(&self.request);
        if self.is_over || now >= self.deadline {
            return Step::Fail(self.failure(cluster, now));
        }
        if now < self.not_before {
            return Step::Wait { until: self.not_before };
        }
        let order = match &self.only {
            Some(only) => vec![only.clone()],
            None => {
                let first = self.next.take().or_else(|| cluster.leader().cloned());
                let last = self.last.as_ref().filter(|last| first.as_ref() != Some(*last));
                cluster.order(first.as_ref(), last, now)
            }
        };
        self.wanted = order.first().cloned();
        if order.is_empty() {
            self.heard = Heard::Unreached("no address is known".into());
            return Step::Fail(self.failure(cluster, now));
        }
        Step::Reach(order)
    }

    /// Decides what to do with a node that was reached.
    pub fn reached(&mut self, cluster: &Cluster, addr: &Addr, now: Moment) -> Reached {
        // A node that let us in has said who leads. The detour over a NOT_LEADER is saved, unless this
        // node is the substitute of one that did not answer.
        let is_wanted = self.wanted.as_ref() == Some(addr);
        let leader = cluster.leader().filter(|leader| *leader != addr);
        if let Some(leader) = leader
            && self.only.is_none()
            && needs_leader(&self.request)
            && is_wanted
            && self.attempts == 0
            && self.hops < HOPS_MAX
        {
            self.hops += 1;
            self.next = Some(leader.clone());
            return Reached::Elsewhere;
        }
        self.attempts = self.attempts.saturating_add(1);
        self.tried = now;
        self.asked.retain(|asked| asked != addr);
        if self.asked.len() == ASKED_MAX {
            self.asked.remove(0);
        }
        self.asked.push(addr.clone());
        let patience = match wait_ms(&self.request) {
            Some(wait_ms) => ANSWER_TIME.saturating_add(Duration::from_millis(wait_ms)),
            None if matches!(*self.request, Request::Heartbeat { .. }) => HEARTBEAT_TIME,
            None => ANSWER_TIME,
        };
        Reached::Send { until: now.after(patience).min(self.deadline) }
    }

    /// Hears that the client was closed: the next step is the last.
    pub fn closed(&mut self) {
        self.heard = Heard::Unreached("the client was closed".into());
        self.is_over = true;
    }

    /// Hears that none of the nodes could be reached, and why. If all of them answered that they will not
    /// have us (`are_rejected`), asking on is of no use.
    pub fn unreached(
        &mut self,
        cluster: &mut Cluster,
        why: String,
        are_rejected: bool,
        now: Moment,
    ) {
        self.heard = Heard::Unreached(why);
        self.is_over |= are_rejected;
        self.back_off(cluster, Duration::ZERO, now);
    }

    /// Hears that a connection broke; `was_sent`: the request, or a part of it, had left.
    pub fn lost(
        &mut self,
        cluster: &mut Cluster,
        addr: &Addr,
        was_sent: bool,
        why: impl Into<String>,
        now: Moment,
    ) {
        cluster.failed(addr, now);
        self.gone(addr, was_sent, why.into());
        self.back_off(cluster, Duration::ZERO, now);
    }

    /// Hears that no answer came in the time that [`Call::reached`] gave.
    pub fn unanswered(&mut self, cluster: &mut Cluster, addr: &Addr, was_sent: bool, now: Moment) {
        cluster.does_not_lead(addr);
        let why = if was_sent { "no answer" } else { "it could not be sent" };
        self.gone(addr, was_sent, format!("{why} from {addr} in time"));
        // The time it took was pause enough.
        self.not_before = now;
    }

    /// Hears an answer. Returns what the caller gets, or `None` if the next step is to be taken.
    pub fn answered(
        &mut self,
        cluster: &mut Cluster,
        addr: &Addr,
        reply: Reply,
        now: Moment,
    ) -> Option<Result<Reply, Error>> {
        let Reply::Refused(refusal) = reply else {
            if expects(&self.request, &reply) {
                return Some(Ok(reply));
            }
            self.gone(addr, true, format!("{addr} answered another question"));
            self.back_off(cluster, Duration::ZERO, now);
            return None;
        };
        self.may_be_done(refusal.unknown);
        self.was_answered = true;
        // An old hint is not followed; what it is older than is known, and is.
        if let Some(hint) = refusal.leader.as_ref().filter(|hint| *hint.addr != **addr) {
            cluster.learn(hint);
        }
        let code = refusal.code;
        let retry_after = Duration::from_millis(refusal.retry_after_ms.unwrap_or(0));
        let is_final = !refusal.is_retryable() && !refusal.unknown;
        self.heard = Heard::Refused(refusal);
        if is_final {
            let settles = settles(&self.request, code);
            self.is_unknown &= !settles;
            return Some(Err(self.failure(cluster, now)));
        }
        match code {
            Code::NotLeader => self.redirected(cluster, addr, retry_after, now),
            Code::ResourceExhausted => {
                self.next = Some(addr.clone());
                self.back_off(cluster, retry_after, now);
            }
            Code::DeadlineExceeded => self.back_off(cluster, retry_after, now),
            Code::Unavailable
            | Code::Internal
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::Unauthenticated
            | Code::PermissionDenied
            | Code::StaleFence => {
                cluster.does_not_lead(addr);
                self.last = Some(addr.clone());
                self.back_off(cluster, retry_after, now);
            }
        }
        None
    }

    /// Follows a hint at once, unless it is old or there were too many.
    fn redirected(
        &mut self,
        cluster: &mut Cluster,
        addr: &Addr,
        retry_after: Duration,
        now: Moment,
    ) {
        cluster.does_not_lead(addr);
        self.last = Some(addr.clone());
        match cluster.leader() {
            Some(leader) if self.hops < HOPS_MAX => {
                self.hops += 1;
                self.next = Some(leader.clone());
                self.not_before = now;
            }
            Some(_) | None => self.back_off(cluster, retry_after, now),
        }
    }

    /// Takes note that the last try of a change may come to something yet.
    fn may_be_done(&mut self, may_be: bool) {
        if !may_be || self.is_unknown || !self.request.is_change() {
            return;
        }
        self.is_unknown = true;
        if matches!(*self.request, Request::SubmitJob(_) | Request::SubmitBatch(_)) {
            self.deadline = self.deadline.min(self.tried.after(SUBMIT_REPEATED_MAX));
        }
    }

    fn gone(&mut self, addr: &Addr, was_sent: bool, why: String) {
        self.may_be_done(was_sent);
        self.last = Some(addr.clone());
        self.heard = Heard::Lost(why);
    }

    /// Pauses with full jitter: at least `least`, and a random part of a bound that doubles.
    fn back_off(&mut self, cluster: &mut Cluster, least: Duration, now: Moment) {
        let is_full =
            matches!(&self.heard, Heard::Refused(no) if no.code == Code::ResourceExhausted);
        let is_soon = now.since(self.began) < SOON && !is_full;
        let longest = if is_soon { PAUSE_SOON_MAX } else { PAUSE_MAX };
        let bound = if cluster.may_repeat(now) { self.pause.min(longest) } else { PAUSE_MAX };
        self.pause = self.pause.saturating_mul(2).min(longest);
        self.hops = 0;
        let left = self.deadline.since(now);
        let pause = least.saturating_add(bound.mul_f64(self.rng.f64()));
        if pause < left {
            self.not_before = now.after(pause);
        } else if least < left && left >= LAST_TRY {
            // One more try fits before the end, even if the dice said later.
            self.not_before = now.after(least.max(left / 2));
        } else {
            self.is_over = true;
        }
    }

    fn failure(&self, cluster: &Cluster, now: Moment) -> Error {
        let last = match &self.heard {
            Heard::Nothing => String::new(),
            Heard::Refused(refusal) => refusal.to_string(),
            Heard::Unreached(why) | Heard::Lost(why) => why.clone(),
        };
        let story = Box::new(Story {
            what: describe(&self.request),
            ids: ids(&self.request),
            asked: self.asked.iter().map(ToString::to_string).collect(),
            attempts: self.attempts,
            waited: now.since(self.began),
            last,
            leader: cluster.hint().cloned(),
        });
        if self.is_unknown {
            return Error::Unknown(story);
        }
        match &self.heard {
            Heard::Refused(refusal) => match refusal.code {
                Code::NotLeader | Code::Unavailable => Error::NoLeader(story),
                Code::InvalidArgument
                | Code::NotFound
                | Code::AlreadyExists
                | Code::FailedPrecondition
                | Code::ResourceExhausted
                | Code::DeadlineExceeded
                | Code::Unauthenticated
                | Code::PermissionDenied
                | Code::StaleFence
                | Code::Internal => {
                    let refusal = Box::new(Refusal { unknown: false, ..refusal.clone() });
                    Error::Refused { refusal, story }
                }
            },
            // Some answer, and the one who leads does not.
            Heard::Unreached(_) if self.was_answered => Error::NoLeader(story),
            Heard::Nothing | Heard::Unreached(_) => Error::Unreachable(story),
            Heard::Lost(_) => Error::Timeout(story),
        }
    }
}

/// Tells whether a definite refusal speaks of all tries and not of its own alone: the id is another job's,
/// or this start of the worker is over whatever became of the former tries.
fn settles(request: &Request, code: Code) -> bool {
    code == Code::AlreadyExists
        || code == Code::FailedPrecondition && matches!(request, Request::RegisterWorker(_))
}

//! One call from its first try to its answer: whom to ask next, when to wait, and when to give up. Sans-IO.

use std::collections::BTreeSet;

use crate::client::directory::{ADDRS_MAX, Directory};
use crate::client::error::Error;
use crate::wire::hello::Reject;
use crate::wire::message::{Code, Refusal, Reply, Request};

/// How long one node has for its answer, beside what the request itself waits: a node that lives answers
/// within 5.5 s (`wire-spec.md` §9). After that another is asked.
pub const ATTEMPT_MS: u64 = 6_000;

/// The least that one node has, in ms, however short the call's own time is.
const ATTEMPT_MS_MIN: u64 = 250;

/// The ceiling of the first wait between two rounds, in ms; it doubles from wait to wait.
const BACKOFF_BASE_MS: u64 = 50;

/// The ceiling of every wait, in ms.
const BACKOFF_CAP_MS: u64 = 2_000;

/// No wait is shorter, in ms: a cluster without a leader is not asked in a loop.
const BACKOFF_MIN_MS: u64 = 20;

/// How often a call goes from hint to hint before it waits: nodes that point at each other are electing.
const HOPS_MAX: u32 = 3;

/// What a request means for whoever tries it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What it is called, for texts.
    pub name: &'static str,
    /// It changes something: an unanswered try leaves the outcome unknown.
    pub changes: bool,
    /// Done twice it is the same as done once, so it may be sent again when the outcome is unknown.
    pub may_repeat: bool,
    /// How long the node itself may wait with the answer, in ms.
    pub wait_ms: u64,
}

impl Policy {
    /// Returns what a request of this kind means.
    #[must_use]
    pub fn of(request: &Request) -> Self {
        let (changes, may_repeat, wait_ms) = match request {
            Request::Ping
            | Request::GetJob { .. }
            | Request::ListJobs(_)
            | Request::ListWorkers
            | Request::GetClusterStatus { .. }
            | Request::ListLog { .. } => (false, true, 0),
            Request::Reserve { wait_ms, .. } | Request::WaitJobs { wait_ms, .. } => {
                (false, true, *wait_ms)
            }
            Request::SubmitJob(_)
            | Request::SubmitBatch(_)
            | Request::RegisterWorker(_)
            | Request::Heartbeat { .. }
            | Request::UpdateJobStatus(_)
            | Request::BatchUpdateJobStatus(_)
            | Request::ReleaseJobs(_)
            | Request::CancelJobs { .. } => (true, true, 0),
            // Sent again after it was done, it would go to the new leader and move leadership once more.
            Request::TransferLeadership { to } => (true, to.is_some(), 0),
        };
        Self { name: request.name(), changes, may_repeat, wait_ms }
    }
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask this node and tell how it went.
    Ask {
        /// Its address.
        addr: String,
        /// For so long at most; then tell [`Attempt::on_broken`].
        timeout_ms: u64,
    },
    /// Wait, then ask again what to do.
    Wait {
        /// For so long.
        ms: u64,
    },
    /// The call is over without an answer.
    GiveUp(Error),
}

/// What went wrong last, by how much it tells.
#[derive(Clone, Debug)]
enum Trouble {
    Unreachable(String),
    NoLeader(String),
    Refused { refusal: Refusal, asked: String },
}

/// One call. Ask [`Attempt::next`], do what it says, tell how it went, and so on until it gives up or
/// [`Attempt::on_reply`] says that the reply is the answer.
///
/// - `maybe_done` is set by the first try of a change whose outcome is unknown, and never cleared: a definite
///   no speaks of its own try alone (`wire-spec.md` §10).
/// - Within a round every address is asked once, and those that hints name at most `HOPS_MAX` times more.
#[derive(Clone, Debug)]
pub struct Attempt {
    policy: Policy,
    began_ms: u64,
    deadline_ms: u64,
    attempt_ms: u64,
    dice: u64,
    /// Waits so far; the exponent of the next.
    waits: u32,
    hops: u32,
    /// Asked in this round without success.
    tried: BTreeSet<String>,
    /// Of those, the ones that will not have us whatever we ask.
    rejected: BTreeSet<String>,
    /// The next to ask, whatever the order says.
    here: Option<String>,
    wait_ms: Option<u64>,
    /// Since the last node was asked.
    has_waited: bool,
    maybe_done: bool,
    trouble: Option<Trouble>,
    /// The round in which a node last said that none leads.
    leaderless_round: Option<u32>,
    round: u32,
    over: Option<Error>,
    /// Everybody asked, in order, each once.
    asked: Vec<String>,
    tries: u32,
}

impl Attempt {
    /// Begins a call that may take `timeout_ms` with all its tries; `seed` makes its waits its own.
    #[must_use]
    pub fn new(policy: Policy, timeout_ms: u64, now_ms: u64, seed: u64) -> Self {
        // Two thirds of the call's time at most, so that a silent node leaves some for another.
        let own_ms = timeout_ms.saturating_sub(policy.wait_ms);
        let answer_ms = (own_ms / 3).saturating_mul(2).clamp(ATTEMPT_MS_MIN, ATTEMPT_MS);
        Self {
            policy,
            began_ms: now_ms,
            deadline_ms: now_ms.saturating_add(timeout_ms),
            attempt_ms: answer_ms.saturating_add(policy.wait_ms),
            dice: seed,
            waits: 0,
            hops: 0,
            tried: BTreeSet::new(),
            rejected: BTreeSet::new(),
            here: None,
            wait_ms: None,
            has_waited: false,
            maybe_done: false,
            trouble: None,
            leaderless_round: None,
            round: 0,
            over: None,
            asked: Vec::new(),
            tries: 0,
        }
    }

    /// Returns when the call gives up.
    #[must_use]
    pub fn deadline_ms(&self) -> u64 {
        self.deadline_ms
    }

    /// Says what to do next.
    pub fn next(&mut self, directory: &Directory, now_ms: u64) -> Step {
        if let Some(error) = self.over.take() {
            return Step::GiveUp(error);
        }
        let left_ms = self.deadline_ms.saturating_sub(now_ms);
        if left_ms == 0 {
            return Step::GiveUp(self.out_of_time(now_ms));
        }
        if let Some(ms) = self.wait_ms.take() {
            self.has_waited = true;
            return Step::Wait { ms: ms.min(left_ms) };
        }
        let next = self.here.take().or_else(|| self.alternative(directory, now_ms, &[]));
        if let Some(addr) = next {
            self.has_waited = false;
            self.note_asked(&addr);
            return Step::Ask { addr, timeout_ms: self.attempt_ms.min(left_ms) };
        }
        if let Some(error) = self.end_round() {
            return Step::GiveUp(error);
        }
        // The last node of the round may have asked for a wait of its own: one is enough.
        let pause_ms = if self.has_waited { 0 } else { self.backoff_ms() };
        self.has_waited = true;
        Step::Wait { ms: pause_ms.min(left_ms) }
    }

    /// Returns another node that could be asked at the same time, for when connecting takes long.
    #[must_use]
    pub fn alternative(
        &self,
        directory: &Directory,
        now_ms: u64,
        besides: &[String],
    ) -> Option<String> {
        let is_free =
            |addr: &&str| !self.tried.contains(*addr) && !besides.iter().any(|other| other == addr);
        directory.order(now_ms).into_iter().find(is_free).map(String::from)
    }

    /// Everybody was asked in vain: begins another round, unless all of them will never have us.
    fn end_round(&mut self) -> Option<Error> {
        let is_rejected = !self.tried.is_empty() && self.rejected.len() == self.tried.len();
        self.tried.clear();
        self.rejected.clear();
        self.hops = 0;
        self.round += 1;
        match &self.trouble {
            Some(Trouble::Refused { refusal, asked }) if is_rejected => {
                Some(self.refused(refusal.clone(), asked.clone()))
            }
            _none_or_other => None,
        }
    }

    /// Tells that a node was asked by way of [`Attempt::alternative`].
    pub fn note_asked(&mut self, addr: &str) {
        self.tries = self.tries.saturating_add(1);
        if self.asked.len() < ADDRS_MAX && !self.asked.iter().any(|known| known == addr) {
            self.asked.push(addr.into());
        }
    }

    /// Takes in a reply, and tells whether it is the answer of the call.
    pub fn on_reply(
        &mut self,
        directory: &mut Directory,
        addr: &str,
        reply: &Reply,
        now_ms: u64,
    ) -> bool {
        directory.answered(addr);
        if let Reply::Refused(refusal) = reply {
            self.on_refusal(directory, addr, refusal, now_ms);
            return false;
        }
        if self.policy.changes {
            directory.leads(addr);
        }
        true
    }

    fn on_refusal(
        &mut self,
        directory: &mut Directory,
        addr: &str,
        refusal: &Refusal,
        now_ms: u64,
    ) {
        self.maybe_done |= refusal.unknown && self.policy.changes;
        if !refusal.is_retryable() {
            self.over = Some(self.refused(refusal.clone(), addr.into()));
            return;
        }
        match refusal.code {
            Code::NotLeader => self.on_not_leader(directory, addr, refusal, now_ms),
            // The place is right and the moment is not: another node would only point back here.
            Code::ResourceExhausted => {
                let least_ms = refusal.retry_after_ms.unwrap_or(0);
                self.here = Some(addr.into());
                self.wait_ms = Some(least_ms.saturating_add(self.backoff_ms()));
                self.trouble =
                    Some(Trouble::Refused { refusal: refusal.clone(), asked: addr.into() });
            }
            Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Internal
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::Unauthenticated
            | Code::PermissionDenied
            | Code::StaleFence => {
                directory.does_not_lead(addr);
                self.tried.insert(addr.into());
                self.leaderless(format!("{addr}: {refusal}"));
                let backoff_ms = self.backoff_ms();
                self.wait_ms = Some(backoff_ms.max(refusal.retry_after_ms.unwrap_or(0)));
            }
        }
        self.stop_unless_repeatable(now_ms);
    }

    fn on_not_leader(
        &mut self,
        directory: &mut Directory,
        addr: &str,
        refusal: &Refusal,
        now_ms: u64,
    ) {
        directory.does_not_lead(addr);
        self.tried.insert(addr.into());
        self.leaderless(format!("{addr}: {refusal}"));
        let Some(hint) = refusal.leader.as_ref().filter(|hint| hint.addr != addr) else {
            return;
        };
        // An older hint is no news, and one to a node that failed a moment ago is about to be: the others of
        // the round may know better.
        if !directory.hint(hint) || directory.is_suspect(&hint.addr, now_ms) {
            return;
        }
        if self.hops < HOPS_MAX {
            self.hops += 1;
            self.here = Some(hint.addr.clone());
        } else {
            self.hops = 0;
            self.wait_ms = Some(self.backoff_ms());
        }
    }

    fn leaderless(&mut self, text: String) {
        self.leaderless_round = Some(self.round);
        self.trouble = Some(Trouble::NoLeader(text));
    }

    /// Notes that a node gave no answer: it could not be connected (`sent` is false), or the connection broke
    /// or stayed silent after the request may have left.
    pub fn on_broken(
        &mut self,
        directory: &mut Directory,
        addr: &str,
        sent: bool,
        why: &str,
        now_ms: u64,
    ) {
        directory.failed(addr, now_ms);
        self.unanswered(addr, sent, why, now_ms);
    }

    /// Notes that a node has not answered for `waited_ms`. Only a wait that a living node would have answered in
    /// speaks against the node: a caller in a hurry must not spoil what the others know.
    pub fn on_silent(
        &mut self,
        directory: &mut Directory,
        addr: &str,
        waited_ms: u64,
        now_ms: u64,
    ) {
        if waited_ms >= self.policy.wait_ms.saturating_add(ATTEMPT_MS_MIN) {
            directory.failed(addr, now_ms);
        }
        self.unanswered(addr, true, &format!("no answer within {waited_ms} ms"), now_ms);
    }

    fn unanswered(&mut self, addr: &str, sent: bool, why: &str, now_ms: u64) {
        self.tried.insert(addr.into());
        self.maybe_done |= sent && self.policy.changes;
        // A node that said a moment ago that none leads tells more than one that says nothing.
        let is_leaderless = self.leaderless_round.is_some_and(|round| round + 1 >= self.round);
        if !is_leaderless {
            self.trouble = Some(Trouble::Unreachable(format!("{addr}: {why}")));
        }
        self.stop_unless_repeatable(now_ms);
    }

    /// Notes that a node did not let us in. Others may: the fault can be theirs.
    pub fn on_reject(
        &mut self,
        directory: &mut Directory,
        addr: &str,
        reject: &Reject,
        now_ms: u64,
    ) {
        let refusal = Refusal::from(reject.clone());
        directory.failed(addr, now_ms);
        self.tried.insert(addr.into());
        if !refusal.is_retryable() {
            self.rejected.insert(addr.into());
        }
        self.trouble = Some(Trouble::Refused { refusal, asked: addr.into() });
    }

    /// Ends the call before its time, and returns what is known of it.
    #[must_use]
    pub fn stop(&self, why: &str) -> Error {
        let name = self.policy.name;
        if self.maybe_done {
            return Error::Unknown(format!("{name} was sent and not answered: {why}"));
        }
        Error::Invalid(format!("{name} was not sent: {why}"))
    }

    fn stop_unless_repeatable(&mut self, now_ms: u64) {
        if self.maybe_done && !self.policy.may_repeat && self.over.is_none() {
            self.over = Some(self.out_of_time(now_ms));
        }
    }

    /// Returns a wait with full jitter, and makes the next longer.
    fn backoff_ms(&mut self) -> u64 {
        let ceiling_ms = (BACKOFF_BASE_MS << self.waits.min(16)).min(BACKOFF_CAP_MS);
        self.waits = self.waits.saturating_add(1);
        BACKOFF_MIN_MS + self.roll() % (ceiling_ms - BACKOFF_MIN_MS + 1)
    }

    /// Rolls the dice: splitmix64.
    fn roll(&mut self) -> u64 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.dice;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A no, which after a try of unknown outcome is a no to the last try only, unless it tells of the
    /// request's own id or fence.
    fn refused(&self, refusal: Refusal, asked: String) -> Error {
        let speaks_of_all = matches!(refusal.code, Code::AlreadyExists | Code::StaleFence);
        if self.maybe_done && !speaks_of_all {
            return Error::Refused { refusal: refusal.with_unknown_outcome(), asked };
        }
        Error::Refused { refusal, asked }
    }

    fn out_of_time(&self, now_ms: u64) -> Error {
        let Self { policy: Policy { name, .. }, tries, .. } = self;
        let spent_ms = now_ms.saturating_sub(self.began_ms);
        let asked = self.asked.join(", ");
        let asked = format!("asked {asked} ({tries} tries in {spent_ms} ms)");
        let last = match &self.trouble {
            Some(Trouble::Unreachable(text) | Trouble::NoLeader(text)) => text.clone(),
            Some(Trouble::Refused { refusal, asked }) => format!("{asked}: {refusal}"),
            None => "nothing was heard".into(),
        };
        if self.maybe_done {
            return Error::Unknown(format!(
                "{name} was sent and not answered, so it may have been done: {asked}; last, {last}. \
                 Send the same again (with the same id) to learn what became of it"
            ));
        }
        match &self.trouble {
            Some(Trouble::Refused { refusal, asked }) => {
                self.refused(refusal.clone(), asked.clone())
            }
            Some(Trouble::NoLeader(_)) => Error::NoLeader(format!(
                "{name} found no leader: {asked}; last, {last}. Nothing was done; try again when a \
                 majority of the nodes runs"
            )),
            Some(Trouble::Unreachable(_)) | None => Error::Unreachable(format!(
                "{name} reached no node: {asked}; last, {last}. Nothing was done; check the addresses, \
                 and that the nodes run"
            )),
        }
    }
}

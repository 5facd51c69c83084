//! The life of a built-in worker: one task that owns everything, and turns inputs into orders.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_std::channel::{Receiver, Sender};
use async_std::{future, task};
use futures::future::BoxFuture;

use crate::jobs::command::{Registration, Release, StatusUpdate};
use crate::jobs::job::{Assignment, Body, Serves, Verdict};
use crate::replica::view::Notice;
use crate::types::{Fence, Incarnation, Term};
use crate::wire::message::Refusal;
use crate::worker::answers::RETRY_MAX;
use crate::worker::call::{Call, backoff};
use crate::worker::clock::Moment;
use crate::worker::holdings::{Holdings, Taken};
use crate::worker::leaving::Stopping;
use crate::worker::link::{FromGuard, Link};
use crate::worker::outbox::Outbox;
use crate::worker::protocol::{Order, Start};
use crate::worker::reports::{ReportError, Reports};
use crate::worker::runner::{Announce, BuiltInConfig, Shown, StopReport};
use crate::worker::watch::Guard;

/// Inputs that wait for the task, at most. Full: whoever brings one waits, and the replica's notices
/// with them.
pub(super) const INBOX_MAX: usize = 256;

/// How long a heartbeat waits for its answer. A late answer is worth less than a new question: the
/// lease counts from when it was sent.
const HEARTBEAT_PATIENCE: Duration = Duration::from_secs(1);

/// How long the other calls wait; a little more than the 5 s after which a leader answers in any case.
const CALL_PATIENCE: Duration = Duration::from_secs(6);

/// How long until the replica is told again of a new start that it did not hear of.
const ANNOUNCE_RETRY: Duration = Duration::from_millis(20);

/// How long a worker that gives up waits for its commands to be gone before it registers anew; those
/// the kernel cannot end keep their slots.
const GONE_PATIENCE: Duration = Duration::from_secs(10);

/// How long ends of attempts that happened before it gave up are reported before it registers anew:
/// registering makes their jobs wait again, and the work would have been for nothing.
const REPORTS_FIRST: Duration = Duration::from_secs(10);

/// The shortest time from one look at the clock to the next: what is due may have to wait for
/// something else, whose input wakes the task sooner.
const TURN_MIN: Duration = Duration::from_millis(5);

/// How long the task waits when nothing is due.
const IDLE: Duration = Duration::from_secs(1);

/// What the life is given at its start.
pub(super) struct Purpose {
    pub(super) config: BuiltInConfig,
    pub(super) reports: Arc<dyn Reports>,
    pub(super) announce: Announce,
}

/// Everything that can happen to a worker.
#[derive(Debug)]
pub(super) enum Input {
    /// The replica says something about its jobs.
    Notice(Notice),
    /// The guard of that generation says something.
    Guard { generation: u64, from: FromGuard },
    /// The guard of that generation was started, or not.
    Opened(u64, io::Result<Link>),
    /// An answer to a registration.
    Registered(Incarnation, Result<(), ReportError>),
    /// An answer to a heartbeat, and when it was sent.
    Heard(Incarnation, Moment, Result<Term, ReportError>),
    /// An answer to reports.
    Updated(Result<Vec<Result<(), Refusal>>, ReportError>),
    /// An answer to jobs given back.
    Released(Release, Result<(), ReportError>),
    /// Stop, and tell how it went.
    Stop(Sender<StopReport>),
}

/// Where a start of the worker is in its life.
#[derive(Debug)]
pub(super) enum Phase {
    /// This start is not in the registry yet.
    Registering {
        /// To the replica of this node, which must hear of it first.
        announcing: Call,
        announced: bool,
        call: Call,
        /// Whether an earlier call may have been heard by the leader, though it was not answered.
        maybe_registered: bool,
        /// Until when ends of attempts of the former start go first.
        reports_first: Moment,
    },
    /// It is, and heartbeats keep it there.
    Live { heartbeat: Call },
    /// This start has lost its right; its commands are being ended.
    GivingUp {
        patience_ends: Moment,
        /// The start that was named as the one that stands.
        named: Option<Incarnation>,
    },
}

/// The worker.
pub(super) struct Life {
    pub(super) purpose: Purpose,
    pub(super) inbox: Sender<Input>,
    pub(super) shown: Arc<Shown>,
    pub(super) rng: fastrand::Rng,
    pub(super) incarnation: Incarnation,
    /// The former start, if this process ended what it held; not if that died with its guard.
    pub(super) gave_up: Option<Incarnation>,
    pub(super) phase: Phase,
    /// Until when commands may run; the guard has the same.
    pub(super) lease: Option<Moment>,
    pub(super) holdings: Holdings,
    pub(super) outbox: Outbox,
    pub(super) updating: Call,
    pub(super) releasing: Call,
    pub(super) guard: Guard,
    pub(super) generation: u64,
    /// Starts in a row that ended before a heartbeat of theirs was answered.
    pub(super) void_starts: u32,
    /// Guards in a row that died before they had lived for long.
    pub(super) guard_deaths: u32,
    pub(super) stopping: Option<Stopping>,
}

impl Life {
    pub(super) fn new(
        purpose: Purpose,
        link: Link,
        inbox: Sender<Input>,
        shown: Arc<Shown>,
    ) -> Self {
        let now = Moment::now();
        let slots = usize::try_from(purpose.config.slots).unwrap_or(usize::MAX);
        let rng = fastrand::Rng::with_seed(purpose.config.seed);
        let incarnation = purpose.config.first;
        shown.incarnation.store(incarnation.0, Ordering::Relaxed);
        Self {
            purpose,
            inbox,
            shown,
            rng,
            incarnation,
            gave_up: None,
            phase: Phase::registering(now, Duration::ZERO),
            lease: None,
            holdings: Holdings::new(slots),
            outbox: Outbox::default(),
            updating: Call::due_at(now),
            releasing: Call::due_at(now),
            guard: Guard::up(link, now),
            generation: 0,
            void_starts: 0,
            guard_deaths: 0,
            stopping: None,
        }
    }

    /// Lives until it is stopped or dropped. The guard ends with it, and every command.
    pub(super) async fn live(mut self, inputs: Receiver<Input>) {
        loop {
            let now = Moment::now();
            self.advance(now);
            if let Some(stopping) = &self.stopping
                && stopping.is_done()
            {
                return stopping.answer();
            }
            let patience = self.wake_at(now).since(now).max(TURN_MIN);
            match future::timeout(patience, inputs.recv()).await {
                Ok(Ok(input)) => self.take_in(input, Moment::now()),
                // Dropped, as a node's death would.
                Ok(Err(_)) => return,
                Err(_) => {}
            }
            // What waits already is taken in before anything is decided: a process that stood still
            // should hear first what happened meanwhile.
            for _ in 0..INBOX_MAX {
                let Ok(input) = inputs.try_recv() else { break };
                self.take_in(input, Moment::now());
            }
        }
    }

    /// Does whatever is due.
    fn advance(&mut self, now: Moment) {
        if self.lease.is_some_and(|until| until <= now) {
            self.give_up(now, "no leader has answered for 3 s", None);
        }
        self.look_after_guard(now);
        self.step_phase(now);
        self.begin_commands(now);
        self.tell(now);
        self.step_stop(now);
        self.shown.running.store(self.holdings.running_count(), Ordering::Relaxed);
    }

    /// Returns when something is due again, if no input comes before.
    fn wake_at(&self, now: Moment) -> Moment {
        let phase = match &self.phase {
            Phase::GivingUp { .. } if self.stopping.is_some() => None,
            Phase::Registering { .. } if self.stopping.is_some() && !self.is_asking() => None,
            Phase::Registering { announcing, announced: false, .. } => announcing.wake_at(),
            Phase::Registering { call, .. } => call.wake_at(),
            Phase::Live { heartbeat } => heartbeat.wake_at(),
            Phase::GivingUp { patience_ends, .. } => Some(*patience_ends),
        };
        let guard = self.guard_wake_at();
        let reports = self.updating.wake_at().filter(|_| self.outbox.reports_count() > 0);
        let releasing = self.releasing.wake_at();
        let releases = releasing.filter(|_| {
            (self.outbox.releases_count() > 0 || self.is_leaving()) && !self.is_asking()
        });
        let stopping = self.stopping.as_ref();
        let stop = stopping.and_then(Stopping::wake_at);
        let last_word = stopping.and_then(|stopping| stopping.last_word_at(now));
        let due = [phase, guard, self.lease, reports, releases, stop, last_word];
        let due = due.into_iter().flatten().min();
        due.unwrap_or(now).max(now).min(now.after(IDLE))
    }

    /// Ends everything for want of the right to it, at once. `named`: the start that was said to stand.
    pub(super) fn give_up(&mut self, now: Moment, why: &str, named: Option<Incarnation>) {
        log::warn!(
            "worker {} gives up {} commands: {why}",
            self.purpose.config.worker,
            self.holdings.running_count()
        );
        if self.stopping.is_some() {
            // The last word will give back what is left, should the leader hear it after all.
            let waiting = self.holdings.give_back_waiting();
            self.outbox.give_back(waiting);
            self.holdings.give_back_running();
        } else {
            self.holdings.give_up();
            self.outbox.clear_releases();
        }
        self.lease = None;
        self.order(Order::KillAll);
        self.phase = Phase::GivingUp { patience_ends: now.after(GONE_PATIENCE), named };
    }

    /// Begins a new start of the worker: at once, or later the more of them were void, for each is an
    /// entry in the log. `gave_up`: the former start, if what it held was ended in order, and is to use up
    /// no attempt. `named`: the start that a refusal named, to be above of.
    pub(super) fn begin_anew(
        &mut self,
        now: Moment,
        gave_up: Option<Incarnation>,
        named: Option<Incarnation>,
    ) {
        let pause = match self.void_starts.checked_sub(1) {
            Some(failures) => backoff(failures, RETRY_MAX, &mut self.rng),
            None => Duration::ZERO,
        };
        self.incarnation = self.incarnation.next(named, self.rng.u64(..));
        self.void_starts = self.void_starts.saturating_add(1);
        self.gave_up = gave_up;
        self.shown.incarnation.store(self.incarnation.0, Ordering::Relaxed);
        self.phase = Phase::registering(now.after(pause), REPORTS_FIRST);
    }

    /// Registers, sends heartbeats, or waits for the end of what was given up.
    fn step_phase(&mut self, now: Moment) {
        let stopping = self.stopping.is_some();
        if stopping {
            self.leave_as_former(now);
        }
        let is_asking = self.is_asking();
        match &mut self.phase {
            Phase::GivingUp { patience_ends, named } => {
                let gone = self.holdings.running_count() == 0;
                if !stopping && (gone || *patience_ends <= now) {
                    let named = *named;
                    self.begin_anew(now, Some(self.incarnation), named);
                }
            }
            // What the leader may have heard of has to be answered, so that it can be told of the end, too.
            Phase::Registering { .. } if stopping && !is_asking => {}
            Phase::Registering { announcing, announced, call, reports_first, .. } => {
                if !*announced && announcing.begin(now) {
                    *announced = (self.purpose.announce)(self.incarnation);
                    announcing.succeeded(now.after(ANNOUNCE_RETRY));
                }
                let told = self.outbox.reports_count() == 0 || *reports_first <= now;
                if *announced && told && call.begin(now) {
                    self.register();
                }
            }
            Phase::Live { heartbeat } => {
                let left = self.stopping.as_ref().is_some_and(Stopping::has_left);
                if !left && heartbeat.begin(now) {
                    self.send_heartbeat();
                }
            }
        }
    }

    /// Begins what waits, as far as there are slots, a lease and a guard; gives it back if there will
    /// be none.
    fn begin_commands(&mut self, now: Moment) {
        if self.is_draining() {
            let waiting = self.holdings.give_back_waiting();
            self.outbox.give_back(waiting);
            return;
        }
        if self.lease.is_none_or(|until| until <= now) {
            return;
        }
        while matches!(self.guard, Guard::Up { .. }) {
            let Some(assignment) = self.holdings.begin() else { return };
            self.begin(assignment);
        }
    }

    fn begin(&mut self, assignment: Assignment) {
        let Assignment { id: job, attempt, fence, body, timeout_ms, queue } = assignment;
        match body {
            Body::Command(argv) => {
                let start = Start { fence, job, attempt, timeout_ms, argv, queue, stdin: None };
                self.order(Order::Start(start));
            }
            Body::Payload(_) => {
                self.holdings.ended(fence);
                let verdict = Verdict {
                    completed: false,
                    exit_code: None,
                    output: bytes::Bytes::new(),
                    output_cut: false,
                    error: Some("a built-in worker runs commands, and this is a payload".into()),
                };
                self.outbox.report(StatusUpdate { job, fence, verdict });
            }
        }
    }

    /// Whether it takes no new jobs: it is stopping, or has no guard and none in sight.
    fn is_draining(&self) -> bool {
        self.stopping.is_some() || self.lacks_guard()
    }

    /// Sends reports, and gives jobs back.
    fn tell(&mut self, now: Moment) {
        if self.outbox.reports_count() > 0
            && self.updating.begin(now)
            && let Some(batch) = self.outbox.batch()
        {
            let update = self.purpose.reports.update(batch);
            self.call(CALL_PATIENCE, update, Input::Updated);
        }
        let live = matches!(self.phase, Phase::Live { .. });
        let alone = live && self.outbox.releases_count() > 0 && !self.is_leaving();
        if alone && self.releasing.begin(now) {
            self.send_release(false);
        }
    }

    /// Whether this start has asked to be registered, and whether it was is not known.
    pub(super) fn is_asking(&self) -> bool {
        match &self.phase {
            Phase::Registering { call, maybe_registered, .. } => {
                call.in_flight || *maybe_registered
            }
            Phase::Live { .. } | Phase::GivingUp { .. } => false,
        }
    }

    fn register(&mut self) {
        let incarnation = self.incarnation;
        let registration = Registration {
            worker: self.purpose.config.worker.clone(),
            incarnation,
            slots: self.purpose.config.slots,
            serves: Serves::Commands,
            tags: self.purpose.config.tags.clone(),
            gave_up: self.gave_up,
        };
        let registered = self.purpose.reports.register(registration);
        self.call(CALL_PATIENCE, registered, move |result| Input::Registered(incarnation, result));
    }

    fn send_heartbeat(&mut self) {
        let (incarnation, sent) = (self.incarnation, Moment::now());
        let worker = self.purpose.config.worker.clone();
        let heard = self.purpose.reports.heartbeat(worker, incarnation, self.is_draining());
        self.call(HEARTBEAT_PATIENCE, heard, move |result| Input::Heard(incarnation, sent, result));
    }

    pub(super) fn send_release(&mut self, leaving: bool) {
        let release = Release {
            worker: self.purpose.config.worker.clone(),
            incarnation: self.incarnation,
            jobs: self.outbox.releases(),
            leaving,
        };
        let released = self.purpose.reports.release(release.clone());
        self.call(CALL_PATIENCE, released, move |result| Input::Released(release, result));
    }

    /// Waits for an answer on a task of its own, and brings it in as an input.
    fn call<T: Send + 'static>(
        &self,
        patience: Duration,
        answer: BoxFuture<'static, Result<T, ReportError>>,
        input: impl FnOnce(Result<T, ReportError>) -> Input + Send + 'static,
    ) {
        let inbox = self.inbox.clone();
        task::spawn(async move {
            let result = future::timeout(patience, answer).await;
            let result = result.unwrap_or_else(|_| Err(ReportError::unanswered()));
            if inbox.send(input(result)).await.is_err() {
                log::debug!("an answer came after the worker's end");
            }
        });
    }

    fn take_in(&mut self, input: Input, now: Moment) {
        match input {
            Input::Notice(notice) => self.heed(notice, now),
            Input::Guard { generation, from } if generation == self.generation => match from {
                FromGuard::Event(event) => self.hear_guard(event, now),
                FromGuard::Gone { how } => self.lose_guard(&how, now),
            },
            Input::Opened(generation, link) if generation == self.generation => {
                self.guard_opened(link, now);
            }
            // A guard before the one that counts.
            Input::Guard { .. } | Input::Opened(..) => {}
            Input::Registered(incarnation, result) => self.registered(incarnation, result, now),
            Input::Heard(incarnation, sent, result) => self.heard(incarnation, sent, result, now),
            Input::Updated(result) => self.updated(result, now),
            Input::Released(release, result) => self.released(&release, result, now),
            Input::Stop(answer_to) => self.stop(answer_to, now),
        }
    }

    /// Follows the replica, as far as it speaks of the start that counts and has not given up.
    fn heed(&mut self, notice: Notice, now: Moment) {
        let incarnation = match &notice {
            Notice::Leader => {
                // A new leader gives no jobs to whom it has not heard; what is on its way to the
                // former one may never be answered, so nobody waits for it.
                if let Phase::Live { heartbeat } = &mut self.phase {
                    heartbeat.succeeded(now);
                }
                return;
            }
            Notice::Begin { incarnation, .. }
            | Notice::Held { incarnation, .. }
            | Notice::End { incarnation, .. } => *incarnation,
        };
        if incarnation != self.incarnation || matches!(self.phase, Phase::GivingUp { .. }) {
            return;
        }
        match notice {
            Notice::Begin { assignment, .. } => self.take(&assignment),
            Notice::Held { assignments, .. } => {
                for fence in self.holdings.missing_from(&assignments) {
                    self.withdraw(fence);
                }
                for assignment in &assignments {
                    self.take(assignment);
                }
            }
            Notice::End { fence, .. } => self.withdraw(fence),
            Notice::Leader => {}
        }
    }

    fn take(&mut self, assignment: &Assignment) {
        match self.holdings.take(assignment) {
            Taken::Waits | Taken::Known => {}
            Taken::NoRoom => {
                log::error!("job {} comes where there is no slot for it", assignment.id);
                self.outbox.give_back([(assignment.id, assignment.fence)]);
            }
        }
    }

    fn withdraw(&mut self, fence: Fence) {
        if self.holdings.withdraw(fence) {
            self.order(Order::Kill { fence });
        }
    }
}

impl Phase {
    /// A start to be announced and registered at `due`.
    fn registering(due: Moment, reports_first: Duration) -> Self {
        let reports_first = due.after(reports_first);
        let call = Call::due_at(due);
        Self::Registering {
            announcing: call,
            announced: false,
            call,
            maybe_registered: false,
            reports_first,
        }
    }
}

//! How a built-in worker stops: a grace for what runs, the rest given back, and the last word told.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_std::channel::Sender;

use crate::worker::clock::Moment;
use crate::worker::guard::KILL_GRACE;
use crate::worker::life::{Life, Phase};
use crate::worker::protocol::Order;
use crate::worker::runner::StopReport;
use crate::worker::watch::Guard;

/// How long a stop waits for the answers to what is still to be told.
pub const STOP_FLUSH: Duration = Duration::from_secs(3);

/// So many milliseconds before that it says that it leaves, whether or not it knows that it was registered.
const LAST_WORD_MS: u64 = 1000;

/// How long it waits for the guard to end by itself, and again after it was killed: a little more than
/// either may take. Past the second, what the kernel cannot end is left behind.
const STOP_GUARD: Duration = Duration::from_secs(3);

/// How long it waits for commands to be gone after the last signal to them. Then the guard is killed:
/// nothing may run on when it is said that the worker leaves.
const STOP_GONE: Duration = Duration::from_secs(1);

/// A stop under way.
#[derive(Debug)]
pub(super) struct Stopping {
    answer_to: Sender<StopReport>,
    report: StopReport,
    stage: Stage,
}

/// The stages of a stop, in their order.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Commands may end by themselves.
    Grace { ends: Moment },
    /// They are being ended; `killed`: with their guard.
    Ending { patience_ends: Moment, killed: bool },
    /// What happened is being told; the last word is that the worker leaves.
    Telling { patience_ends: Moment, left: bool },
    /// The guard is ending; `killed`: it did not do so by itself.
    Closing { patience_ends: Moment, killed: bool },
    /// Nothing is left to do.
    Done,
}

impl Stopping {
    /// Tells whether nothing is left to do.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.stage, Stage::Done)
    }

    /// Hands the outcome to whoever asked for the stop, or drops it with them.
    pub(super) fn answer(&self) {
        if let Err(error) = self.answer_to.try_send(self.report) {
            log::debug!("nobody waits for the end of the stop: {error}");
        }
    }

    /// Tells whether the guard has its last order.
    pub(super) fn is_closing(&self) -> bool {
        matches!(self.stage, Stage::Closing { .. } | Stage::Done)
    }

    /// Counts jobs that died with their guard.
    pub(super) fn count_lost(&mut self, count: usize) {
        self.report.lost += count;
    }

    /// Tells whether the leader knows that the worker left: it sends no heartbeats any more.
    pub(super) fn has_left(&self) -> bool {
        match self.stage {
            Stage::Grace { .. } | Stage::Ending { .. } | Stage::Telling { left: false, .. } => {
                false
            }
            Stage::Telling { left: true, .. } | Stage::Closing { .. } | Stage::Done => true,
        }
    }

    /// Counts a command that ended by itself.
    pub(super) fn count_ended(&mut self) {
        self.report.ended += 1;
    }

    /// Counts jobs that the leader took back.
    pub(super) fn count_released(&mut self, count: usize, leaving: bool) {
        self.report.released += count;
        if let Stage::Telling { left, .. } = &mut self.stage {
            *left |= leaving;
        }
    }

    /// Returns when it says that it leaves, whatever it knows, if that is still to come.
    pub(super) fn last_word_at(&self, now: Moment) -> Option<Moment> {
        match self.stage {
            Stage::Telling { patience_ends, .. } => {
                Some(last_word(patience_ends)).filter(|at| *at > now)
            }
            Stage::Grace { .. } | Stage::Ending { .. } | Stage::Closing { .. } | Stage::Done => {
                None
            }
        }
    }

    /// Returns when the stage ends at the latest.
    pub(super) fn wake_at(&self) -> Option<Moment> {
        match self.stage {
            Stage::Grace { ends: at }
            | Stage::Ending { patience_ends: at, .. }
            | Stage::Telling { patience_ends: at, .. }
            | Stage::Closing { patience_ends: at, .. } => Some(at),
            Stage::Done => None,
        }
    }
}

fn last_word(patience_ends: Moment) -> Moment {
    Moment(patience_ends.0.saturating_sub(LAST_WORD_MS))
}

impl Life {
    /// Begins to stop; a second call gets no answer of its own.
    pub(super) fn stop(&mut self, answer_to: Sender<StopReport>, now: Moment) {
        if self.stopping.is_some() {
            return;
        }
        let stage = Stage::Grace { ends: now.after(self.purpose.config.grace) };
        self.stopping = Some(Stopping { answer_to, report: StopReport::default(), stage });
        // The leader should hear soon that it is no use to assign more.
        if let Phase::Live { heartbeat } = &mut self.phase {
            heartbeat.hurry(now);
        }
    }

    /// Whether it is telling its last word, which gives back what is left.
    pub(super) fn is_leaving(&self) -> bool {
        self.stopping
            .as_ref()
            .is_some_and(|stopping| matches!(stopping.stage, Stage::Telling { .. }))
    }

    /// A start that nobody has heard of is not begun by a worker that stops: the one that it gave up leaves.
    pub(super) fn leave_as_former(&mut self, now: Moment) {
        let is_unheard = matches!(self.phase, Phase::Registering { .. }) && !self.is_asking();
        if is_unheard && let Some(former) = self.gave_up.take() {
            self.incarnation = former;
            self.shown.incarnation.store(former.0, Ordering::Relaxed);
            self.phase = Phase::GivingUp { patience_ends: now, named: None };
        }
    }

    /// Goes on with a stop, stage by stage.
    pub(super) fn step_stop(&mut self, now: Moment) {
        while let Some(stage) = self.stopping.as_ref().map(|stopping| stopping.stage) {
            let Some(next) = self.next_stage(stage, now) else { return };
            if let Some(stopping) = &mut self.stopping {
                stopping.stage = next;
            }
        }
    }

    /// Does what a stage demands. Returns the next one, or `None` while this one lasts.
    fn next_stage(&mut self, stage: Stage, now: Moment) -> Option<Stage> {
        let telling = Stage::Telling { patience_ends: now.after(STOP_FLUSH), left: false };
        let idle = self.holdings.running_count() == 0;
        // To leave would give back the jobs that died with their guard, too. Rather the worker is
        // gone without a word, and the cluster takes it for lost.
        let died = self.stopping.as_ref().is_some_and(|stopping| stopping.report.lost > 0);
        let told = died && self.outbox.reports_count() == 0 && self.outbox.releases_count() == 0;
        let is_asking = self.is_asking();
        let unheard = matches!(self.phase, Phase::Registering { .. })
            && !is_asking
            && self.outbox.reports_count() == 0;
        match stage {
            Stage::Grace { .. } | Stage::Ending { .. } if idle => Some(telling),
            Stage::Grace { ends } if ends <= now => {
                for fence in self.holdings.give_back_running() {
                    self.order(Order::Kill { fence });
                }
                let patience_ends = now.after(KILL_GRACE + STOP_GONE);
                Some(Stage::Ending { patience_ends, killed: false })
            }
            Stage::Ending { patience_ends, killed: false } if patience_ends <= now => {
                log::warn!("commands did not end in time, so their guard is ended with them");
                self.kill_guard();
                Some(Stage::Ending { patience_ends: now.after(STOP_GUARD), killed: true })
            }
            Stage::Ending { patience_ends, .. } if patience_ends <= now => Some(telling),
            Stage::Telling { patience_ends, left }
                if left || told || unheard || patience_ends <= now =>
            {
                let unreported = self.outbox.reports_count() + self.outbox.releases_count();
                if let Some(stopping) = &mut self.stopping {
                    stopping.report.unreported = unreported;
                }
                self.order(Order::Stop);
                Some(Stage::Closing { patience_ends: now.after(STOP_GUARD), killed: false })
            }
            Stage::Telling { patience_ends, .. } => {
                // In the end it says so unasked: to a leader that has not registered it, that says nothing.
                let asks_on = is_asking && now < last_word(patience_ends);
                let ready = self.outbox.reports_count() == 0 && !asks_on;
                if ready && self.releasing.begin(now) {
                    self.send_release(!died);
                }
                None
            }
            Stage::Closing { .. } if !matches!(self.guard, Guard::Up { .. }) => Some(Stage::Done),
            Stage::Closing { patience_ends, killed: false } if patience_ends <= now => {
                log::warn!("the guard did not end in time, so it is killed");
                self.kill_guard();
                Some(Stage::Closing { patience_ends: now.after(STOP_GUARD), killed: true })
            }
            Stage::Closing { patience_ends, .. } if patience_ends <= now => Some(Stage::Done),
            Stage::Grace { .. } | Stage::Ending { .. } | Stage::Closing { .. } | Stage::Done => {
                None
            }
        }
    }
}

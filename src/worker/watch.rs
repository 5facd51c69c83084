//! How a built-in worker looks after its guard: asks whether it lives, and pays for the one that died.

use std::io;
use std::time::Duration;

use async_std::task;

use crate::jobs::command::StatusUpdate;
use crate::types::{Fence, JobId};
use crate::worker::call::backoff;
use crate::worker::clock::Moment;
use crate::worker::holdings::{Fate, Lost};
use crate::worker::life::{Input, Life};
use crate::worker::link::Link;
use crate::worker::protocol::{Event, Order};
use crate::worker::runner::open_link;

/// How often the guard is asked whether it lives.
const ASK_EVERY: Duration = Duration::from_millis(400);

/// Questions in a row that a guard leaves unanswered, at most; when the next is due, it is killed, 10 s
/// after its last word. On a machine with far more to run than it can, one that lives may be that slow,
/// and to kill it costs an attempt of every job it runs.
const UNANSWERED_MAX: u32 = 24;

/// The same while it has commands to end: one that stands still is killed within 2 s, and 1 s is left
/// to end what it ran before any of it has outlived its right by 3 s.
const UNANSWERED_ENDING_MAX: u32 = 4;

/// Guards that die in a row, from which on the worker takes no jobs while it has none that lives.
const DEATHS_MAX: u32 = 3;

/// How long the next guard waits, at most; the pause doubles with each one that dies.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// A guard that lived so long ends the row: the next death is the first again.
const STEADY: Duration = Duration::from_secs(60);

/// Jobs that one line of the log names, at most; the others are counted.
const JOBS_NAMED_MAX: usize = 8;

/// The guard, as far as there is one.
#[derive(Debug)]
pub(super) enum Guard {
    Up {
        link: Link,
        since: Moment,
        /// When to ask again whether it lives.
        ask_at: Moment,
        unanswered: u32,
        /// Whether it has said anything yet.
        lived: bool,
    },
    /// A new one is being started.
    Opening,
    Down {
        retry_at: Moment,
    },
}

impl Guard {
    pub(super) fn up(link: Link, now: Moment) -> Self {
        Self::Up { link, since: now, ask_at: now, unanswered: 0, lived: false }
    }
}

impl Life {
    /// Gives an order to the guard, if there is one. One that cannot be given means that the guard is
    /// about to be gone, and with it what the order was about.
    pub(super) fn order(&self, order: Order) {
        if let Guard::Up { link, .. } = &self.guard {
            link.order(order);
        }
    }

    /// Ends the guard, if there is one, and with it whatever its orders could not end.
    pub(super) fn kill_guard(&self) {
        if let Guard::Up { link, .. } = &self.guard {
            link.kill();
        }
    }

    /// Tells whether guards die one after the other, and none lives now.
    pub(super) fn lacks_guard(&self) -> bool {
        self.guard_deaths >= DEATHS_MAX && !matches!(self.guard, Guard::Up { lived: true, .. })
    }

    /// Returns when to look after the guard again.
    pub(super) fn guard_wake_at(&self) -> Option<Moment> {
        match &self.guard {
            Guard::Up { ask_at, .. } => Some(*ask_at),
            Guard::Down { retry_at } => Some(*retry_at),
            Guard::Opening => None,
        }
    }

    /// Asks the guard whether it lives, kills one that does not answer, and starts another when it is
    /// time.
    pub(super) fn look_after_guard(&mut self, now: Moment) {
        let ending = self.holdings.is_ending();
        let unanswered_max = if ending { UNANSWERED_ENDING_MAX } else { UNANSWERED_MAX };
        let closing = self.stopping.as_ref().is_some_and(|stopping| stopping.is_closing());
        match &mut self.guard {
            Guard::Up { link, ask_at, unanswered, .. } if *ask_at <= now => {
                // Counted in questions, not in time: after a sleep of this task or of the machine
                // the guard has to be asked first.
                *ask_at = now.after(ASK_EVERY);
                if closing {
                    // It has its last order, and the stop counts its time.
                } else if *unanswered >= unanswered_max {
                    log::error!(
                        "the guard of the commands (process {}) has not answered {unanswered} \
                         questions, so it is ended",
                        link.pid()
                    );
                    *unanswered = 0;
                    link.kill();
                } else {
                    *unanswered += 1;
                    // A lease is answered, even one that changes nothing.
                    link.order(Order::Lease { until: self.lease.unwrap_or(Moment(0)) });
                }
            }
            Guard::Down { retry_at } if *retry_at <= now && self.stopping.is_none() => {
                self.guard = Guard::Opening;
                let (config, generation) = (self.purpose.config.clone(), self.generation);
                let inbox = self.inbox.clone();
                task::spawn(async move {
                    let events = inbox.clone();
                    let open = move || open_link(&config, generation, events);
                    let link = task::spawn_blocking(open).await;
                    if inbox.send(Input::Opened(generation, link)).await.is_err() {
                        log::debug!("a guard was started after the worker's end, and ends");
                    }
                });
            }
            Guard::Up { .. } | Guard::Down { .. } | Guard::Opening => {}
        }
    }

    /// Takes in that a new guard was started, or not.
    pub(super) fn guard_opened(&mut self, link: io::Result<Link>, now: Moment) {
        match link {
            Ok(link) => {
                log::info!("process {} is the new guard of the commands", link.pid());
                self.guard = Guard::up(link, now);
                if let Some(until) = self.lease {
                    self.order(Order::Lease { until });
                }
            }
            Err(error) => self.lose_guard(&format!("it could not be started: {error}"), now),
        }
    }

    pub(super) fn hear_guard(&mut self, event: Event, now: Moment) {
        if let Guard::Up { unanswered, lived, .. } = &mut self.guard {
            (*unanswered, *lived) = (0, true);
        }
        match event {
            Event::Started { fence, pid } => log::debug!("fence {fence} runs as process {pid}"),
            Event::Leased { .. } => {}
            Event::Ended { fence, verdict, taken } => {
                let Some(running) = self.holdings.ended(fence) else { return };
                let job = running.job;
                match running.fate {
                    Fate::Forget => {}
                    Fate::GiveBack => self.outbox.give_back([(job, fence)]),
                    // The guard has seen the end of the lease before this task did.
                    Fate::Report if taken => {
                        self.give_up(now, "the guard's lease has run out", None);
                    }
                    Fate::Report => {
                        self.outbox.report(StatusUpdate { job, fence, verdict });
                        if let Some(stopping) = &mut self.stopping {
                            stopping.count_ended();
                        }
                    }
                }
            }
        }
    }

    /// Takes in that the guard is gone, and every command with it. To the cluster that is the death of
    /// the worker: each job it was running uses up an attempt, for one of them may be what killed it,
    /// and would go round for ever. A new guard is started, later the more often it happens.
    pub(super) fn lose_guard(&mut self, how: &str, now: Moment) {
        self.generation += 1;
        if let Guard::Up { since, .. } = &self.guard
            && since.after(STEADY) <= now
        {
            self.guard_deaths = 0;
        }
        let pause = backoff(self.guard_deaths, RETRY_MAX, &mut self.rng);
        self.guard_deaths = self.guard_deaths.saturating_add(1);
        self.guard = Guard::Down { retry_at: now.after(pause) };
        let Lost { died, given_back } = self.holdings.lose_running();
        match &mut self.stopping {
            Some(stopping) => {
                if !died.is_empty() || !stopping.is_closing() {
                    log::error!("the guard of the commands is gone ({how}){}", losses(&died));
                }
                stopping.count_lost(died.len());
                self.outbox.give_back(given_back);
            }
            None => {
                log::error!(
                    "the guard of the commands is gone ({how}){}; the next one starts in {} ms",
                    losses(&died),
                    pause.as_millis()
                );
                if !died.is_empty() {
                    self.lease = None;
                    self.holdings.give_up();
                    self.outbox.clear_releases();
                    self.begin_anew(now, None, None);
                }
            }
        }
    }
}

/// Says which jobs died with a guard.
fn losses(died: &[(JobId, Fence)]) -> String {
    if died.is_empty() {
        return "; no job died with it".into();
    }
    let named: Vec<_> =
        died.iter().take(JOBS_NAMED_MAX).map(|(job, _)| format!("job {job}")).collect();
    let others = match died.len() - named.len() {
        0 => String::new(),
        count => format!(" and {count} more"),
    };
    format!("; what it ran uses up an attempt each: {}{others}", named.join(", "))
}

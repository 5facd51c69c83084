//! What the leader's answers mean to a built-in worker: the right to run, or the need to ask again.

use std::time::Duration;

use crate::jobs::command::Release;
use crate::types::{Incarnation, Term};
use crate::wire::message::Refusal;
use crate::worker::call::Call;
use crate::worker::clock::Moment;
use crate::worker::life::{Life, Phase};
use crate::worker::protocol::Order;
use crate::worker::reports::ReportError;

/// How long a worker may run commands after it *sent* a heartbeat that was answered (specification,
/// "Worker lost after 3 s"): the leader counts from when it heard it, which is never earlier.
pub const LEASE: Duration = Duration::from_secs(3);

/// How long from one heartbeat to the next.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);

/// How long after a call that failed it is made again, at most.
pub(super) const RETRY_MAX: Duration = Duration::from_secs(1);

/// The same for heartbeats: the lease leaves time for few.
const HEARTBEAT_RETRY_MAX: Duration = Duration::from_millis(200);

impl Life {
    /// The registry has this start of the worker, or not.
    pub(super) fn registered(
        &mut self,
        of: Incarnation,
        result: Result<(), ReportError>,
        now: Moment,
    ) {
        let Phase::Registering { call, maybe_registered, .. } = &mut self.phase else { return };
        if of != self.incarnation {
            return;
        }
        match result {
            Ok(()) => {
                log::info!("worker {} is registered as {of}", self.purpose.config.worker);
                self.phase = Phase::Live { heartbeat: Call::due_at(now) };
            }
            Err(error) if error.superseded => {
                log::warn!("the start {of} of this worker is void: {error}");
                // It began nothing, and what a former one held has been taken from it.
                self.holdings.give_up();
                self.outbox.clear_releases();
                self.begin_anew(now, None, error.incarnation);
            }
            Err(error) => {
                log::info!("cannot register this worker yet: {error}");
                *maybe_registered |= error.unknown;
                call.failed(now, RETRY_MAX, &mut self.rng);
            }
        }
    }

    /// A leader heard that the worker lives, or not: each yes is a longer lease.
    pub(super) fn heard(
        &mut self,
        of: Incarnation,
        sent: Moment,
        result: Result<Term, ReportError>,
        now: Moment,
    ) {
        let Phase::Live { heartbeat } = &mut self.phase else { return };
        if of != self.incarnation {
            return;
        }
        match result {
            Ok(_) => {
                self.void_starts = 0;
                heartbeat.succeeded(sent.after(HEARTBEAT_EVERY));
                let until = sent.after(LEASE);
                self.lease = self.lease.max(Some(until));
                self.order(Order::Lease { until });
            }
            Err(error) if error.superseded => self.give_up(now, &error.text, error.incarnation),
            Err(error) => {
                log::info!("no answer to a heartbeat: {error}");
                heartbeat.failed(now, HEARTBEAT_RETRY_MAX, &mut self.rng);
            }
        }
    }

    /// Reports were decided, or not.
    pub(super) fn updated(
        &mut self,
        result: Result<Vec<Result<(), Refusal>>, ReportError>,
        now: Moment,
    ) {
        match result {
            Ok(results) => {
                if self.outbox.answered(results) > 0 {
                    self.updating.succeeded(now);
                } else {
                    self.updating.failed(now, RETRY_MAX, &mut self.rng);
                }
            }
            Err(error) => {
                log::info!("no answer to reports, which go again: {error}");
                self.outbox.unanswered();
                self.updating.failed(now, RETRY_MAX, &mut self.rng);
            }
        }
    }

    /// Jobs were given back, or not.
    pub(super) fn released(
        &mut self,
        release: &Release,
        result: Result<(), ReportError>,
        now: Moment,
    ) {
        if release.incarnation != self.incarnation {
            self.releasing.succeeded(now);
            return;
        }
        match result {
            Ok(()) => {
                self.outbox.releases_answered();
                self.releasing.succeeded(now);
                if let Some(stopping) = &mut self.stopping {
                    stopping.count_released(release.jobs.len(), release.leaving);
                }
            }
            // What it held was taken already.
            Err(error) if error.superseded => {
                self.outbox.releases_answered();
                self.releasing.succeeded(now);
                if let Some(stopping) = &mut self.stopping {
                    stopping.count_released(0, release.leaving);
                }
            }
            Err(error) => {
                log::info!("no answer to jobs given back, which go again: {error}");
                self.outbox.releases_unanswered();
                self.releasing.failed(now, RETRY_MAX, &mut self.rng);
            }
        }
    }
}

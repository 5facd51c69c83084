//! Crons at the leader: it checks their zones, works out their slots, and fires those that have come.

use std::sync::Arc;

use crate::jobs::command::{AddCron, Command, CronAddOutcome, CronChangeOutcome, CronFire};
use crate::jobs::cron::{CRONS_MAX, CronChange, NewCron};
use crate::jobs::cron_slots::following;
use crate::jobs::cron_spec::Spec;
use crate::jobs::crons::Cron;
use crate::jobs::machine::Machine;
use crate::replica::answering::{RETRY_AFTER_MS, no_room, submit_result};
use crate::replica::core::Replica;
use crate::replica::waiters::Wait;
use crate::types::{CronName, Millis, Ticks};
use crate::wire::crons::{CronAdded, CronChanged, CronFilter, LIST_CRONS_MAX};
use crate::wire::message::{Code, Refusal, Reply};

/// Slots in one entry, at most; what else is due goes into the next one, as soon as this one is applied.
const FIRES_MAX: usize = 128;

/// Bytes of the bodies that one entry's slots submit, about: the entry is small, but each of its jobs is hashed and
/// copied. One slot may be of a larger one.
const FIRES_BYTES_MAX: usize = 2 << 20;

impl<W> Replica<W> {
    /// Proposes a cron with its first slot.
    pub(super) fn add_cron(&mut self, cron: NewCron, waiter: W, arrived: Ticks) {
        if let Some(fault) = cron.fault() {
            return self.refuse(waiter, Refusal::invalid(fault));
        }
        let Some(waiter) = self.admit(waiter, arrived) else { return };
        let Some(zone) = self.zones.zone(&cron.tz) else {
            let text = format!("no time zone `{}` is known: name one as Europe/Berlin", cron.tz);
            return self.refuse(waiter, Refusal::invalid(text));
        };
        let now = self.log_time();
        let next_ms = Spec::parse(&cron.spec).ok().and_then(|it| following(&it, &zone, now, now));
        if next_ms.is_none() {
            let text = format!("`{}` never comes: no such time in forty years", cron.spec);
            return self.refuse(waiter, Refusal::invalid(text));
        }
        let add = AddCron { cron: Arc::new(cron), next_ms };
        self.propose_next(Command::AddCron(add), arrived, vec![Wait::Whole { waiter }]);
    }

    /// Proposes a change of a cron, with its next slot if it is to go on.
    pub(super) fn change_cron(
        &mut self,
        name: CronName,
        change: CronChange,
        waiter: W,
        arrived: Ticks,
    ) {
        let Some(waiter) = self.admit(waiter, arrived) else { return };
        let now = self.log_time();
        // What a new leader has not applied yet it does not know: the next slot is told from the cron.
        if change == CronChange::Resume && !self.raft.own_term_applied() {
            let text = "this leader has not caught up with its log yet; ask again in a moment";
            let refusal = Refusal::unavailable(text);
            let retry_after_ms = Some(RETRY_AFTER_MS);
            return self.refuse(waiter, Refusal { retry_after_ms, ..refusal });
        }
        let known = self.machine.crons().get(&name);
        let next_ms = match change {
            CronChange::Resume => match known.map(|cron| self.slot_after(cron, now, now)) {
                Some(Some(next_ms)) => next_ms,
                Some(None) => {
                    let text = "the time zone of this cron is not known to the node that leads";
                    return self.refuse(waiter, Refusal::new(Code::FailedPrecondition, text));
                }
                None => None,
            },
            CronChange::Pause | CronChange::Remove | CronChange::Trigger(_) => None,
        };
        // It is refused by what the log says by then: it may be added just now.
        let command = Command::ChangeCron(name, change, next_ms);
        self.propose_next(command, arrived, vec![Wait::Cron { waiter, change }]);
    }

    /// Fires what is due; the next ones when these are applied, so that no slot is proposed twice.
    pub(super) fn fire_crons(&mut self) {
        if self.fired_at.is_some_and(|index| self.machine.applied_index() < index) {
            return;
        }
        let now = self.log_time();
        let mut fires = Vec::new();
        let mut bytes = 0usize;
        // One whose zone is not known here costs a look, and does not stand in the way: there are no more than
        // CRONS_MAX.
        for (slot_ms, cron) in self.machine.crons().due(now) {
            if fires.len() >= FIRES_MAX || bytes >= FIRES_BYTES_MAX {
                break;
            }
            let after = cron.resumes_after(slot_ms, now);
            let Some(next_ms) = self.slot_after(cron, slot_ms, after) else { continue };
            bytes = bytes.saturating_add(cron.new.body.len());
            let (name, created) = (cron.new.name.clone(), cron.created);
            fires.push(CronFire { name, created, slot_ms, next_ms });
        }
        if !fires.is_empty() {
            self.fired_at = self.propose(Command::FireCron(fires), self.now, Vec::new());
        }
    }

    /// Works out the slot of a cron after a time; the outer `None`: this node does not know its zone. Such a cron waits
    /// for a leader that does.
    fn slot_after(&self, cron: &Cron, slot: Millis, after: Millis) -> Option<Option<Millis>> {
        let zone = self.zones.zone(&cron.new.tz)?;
        Some(Spec::parse(&cron.new.spec).ok().and_then(|it| following(&it, &zone, slot, after)))
    }

    /// Returns the time that an entry proposed now would get.
    fn log_time(&self) -> Millis {
        let voters = self.raft.configuration().voters.len();
        self.clock.peek(self.wall, self.now, voters)
    }
}

/// Answers with a page of crons, or with one.
pub(super) fn list_crons(machine: &Machine, filter: &CronFilter) -> Reply {
    let crons = machine.crons();
    if let Some(name) = &filter.name {
        return match crons.get(name) {
            Some(cron) => Reply::Crons { crons: vec![cron.view(true)], more: false },
            None => Reply::Refused(no_such_cron()),
        };
    }
    let limit = usize::try_from(filter.limit).unwrap_or(LIST_CRONS_MAX).clamp(1, LIST_CRONS_MAX);
    let mut rest = crons.after(filter.after.as_ref());
    let page = rest.by_ref().take(limit).map(|cron| cron.view(false)).collect();
    Reply::Crons { crons: page, more: rest.next().is_some() }
}

/// Says what became of a cron to add.
pub(super) fn added(outcome: &CronAddOutcome) -> Reply {
    match outcome {
        CronAddOutcome::Created { next_ms } => {
            Reply::CronAdded(CronAdded { created: true, next_ms: *next_ms })
        }
        CronAddOutcome::Known { next_ms } => {
            Reply::CronAdded(CronAdded { created: false, next_ms: *next_ms })
        }
        CronAddOutcome::AlreadyExists => Reply::Refused(Refusal::new(
            Code::AlreadyExists,
            "there is another cron of this name; remove it first, or take another name",
        )),
        CronAddOutcome::TooMany => {
            let text = format!("{CRONS_MAX} crons are there, the most there can be");
            Reply::Refused(Refusal::new(Code::FailedPrecondition, text))
        }
        CronAddOutcome::Exhausted => Reply::Refused(no_room()),
        CronAddOutcome::Invalid(fault) => Reply::Refused(Refusal::invalid(fault.clone())),
    }
}

/// Says what became of this change of a cron.
pub(super) fn changed(change: CronChange, outcome: &CronChangeOutcome) -> Reply {
    match outcome {
        CronChangeOutcome::Changed { next_ms } => {
            let job = match change {
                CronChange::Trigger(id) => Some(id),
                CronChange::Pause | CronChange::Resume | CronChange::Remove => None,
            };
            Reply::CronChanged(CronChanged { next_ms: *next_ms, job })
        }
        CronChangeOutcome::NotFound => Reply::Refused(no_such_cron()),
        CronChangeOutcome::Refused(id, outcome) => match submit_result(*id, outcome) {
            Err(refusal) => Reply::Refused(refusal),
            Ok(submitted) => {
                Reply::CronChanged(CronChanged { next_ms: None, job: Some(submitted.id) })
            }
        },
    }
}

fn no_such_cron() -> Refusal {
    Refusal::not_found("no such cron (any more); `cron list` has their names")
}

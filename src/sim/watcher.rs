//! A virtual client that watches: it goes from node to node with its position, and holds what it is told against what
//! the entries really changed. Nothing may be missing, come twice, or differ from one node to another.

use std::collections::BTreeMap;
use std::time::Duration;

use fastrand::Rng;

use crate::jobs::change::{Change, Event, Position};
use crate::sim::calling::{Calling, Sending, Up};
use crate::sim::checks::Violation;
use crate::types::{Index, Millis, NodeId, QueueName};
use crate::wire::message::{Code, Reply, Request, Watch, Watched};

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(6);

/// Entries remembered, at most: the newest.
const REMEMBERED_MAX: usize = 8192;

/// What the entries really changed.
#[derive(Debug)]
pub struct Told {
    /// Nothing is missing from here on.
    first: Index,
    entries: BTreeMap<Index, (Millis, Vec<Change>)>,
}

impl Default for Told {
    fn default() -> Self {
        Self { first: Index(1), entries: BTreeMap::new() }
    }
}

impl Told {
    /// Takes what an entry changed.
    pub fn push(&mut self, index: Index, now: Millis, changes: Vec<Change>) {
        if !changes.is_empty() {
            self.entries.insert(index, (now, changes));
        }
        if self.entries.len() > REMEMBERED_MAX
            && let Some((oldest, _)) = self.entries.pop_first()
        {
            self.first = oldest.next();
        }
    }

    /// Notes that what came up to here is unknown.
    pub fn jump(&mut self, to: Index) {
        self.entries.clear();
        self.first = to.next();
    }

    /// Returns what comes after a place, up to another one; nothing if not all of it is known.
    fn between(&self, watch: &Watch, after: Position, to: Position) -> Option<Vec<Event>> {
        if after < Position::before(self.first) {
            return None;
        }
        let mut events = Vec::new();
        for (index, (now_ms, changes)) in self.entries.range(after.index..=to.index) {
            for (change, n) in changes.iter().zip(1..) {
                let position = Position { index: *index, n };
                let is_asked =
                    watch.queue.as_ref().is_none_or(|queue| change.queue.as_ref() == Some(queue));
                if position > after && position <= to && is_asked {
                    events.push(Event { position, now_ms: *now_ms, change: change.clone() });
                }
            }
        }
        Some(events)
    }
}

/// One watcher.
#[derive(Debug)]
pub struct Watcher {
    nodes: u64,
    rng: Rng,
    calling: Calling<()>,
    watch: Watch,
    next_at: u64,
    /// Changes that were told and were right.
    checked: u64,
}

impl Watcher {
    /// Makes one with its own dice; every second one looks at one queue only.
    #[must_use]
    pub fn new(seed: u64, nodes: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let queue = rng.bool().then(|| QueueName::new("a").unwrap_or_default());
        Self {
            nodes,
            calling: Calling::new(nodes, rng.u64(..)),
            rng,
            watch: Watch { oldest: true, queue, ..Watch::default() },
            next_at: 0,
            checked: 0,
        }
    }

    /// Takes what has come, asks the next node, and says what to send. `more` tells whether to ask anything.
    ///
    /// # Errors
    /// What was told is not what happened.
    pub fn step(
        &mut self,
        now: u64,
        more: bool,
        up: Up<'_>,
        told: &Told,
        sendings: &mut Vec<Sending>,
    ) -> Result<(), Violation> {
        self.settle(told)?;
        if more && now >= self.next_at && self.calling.is_empty() {
            self.next_at = now + self.rng.u64(1..200);
            let wait_ms = if self.rng.bool() { 0 } else { self.rng.u64(0..2000) };
            let request = Request::Watch(Watch { wait_ms, ..self.watch.clone() });
            let node = NodeId(self.rng.u64(1..=self.nodes));
            self.calling.begin_at((), request, Some(node), now, PATIENCE, 0);
        }
        self.calling.step(now, up, sendings);
        self.settle(told)
    }

    fn settle(&mut self, told: &Told) -> Result<(), Violation> {
        for done in self.calling.take_done() {
            match done.result {
                Ok(Reply::Watched(watched)) => self.take(&watched, told)?,
                // It is too far behind for that node: some day it begins anew.
                Err(error) => {
                    let is_gone = error
                        .refusal()
                        .is_some_and(|refusal| refusal.code == Code::FailedPrecondition);
                    if is_gone && self.rng.u32(0..4) == 0 {
                        (self.watch.after, self.watch.oldest) = (None, true);
                    }
                }
                Ok(_) => return Err("a watch was answered with something else".into()),
            }
        }
        Ok(())
    }

    /// Holds an answer against what happened.
    fn take(&mut self, watched: &Watched, told: &Told) -> Result<(), Violation> {
        let Watched { events, next } = watched;
        if let Some(after) = self.watch.after {
            if *next < after {
                return Err(format!("a watch went back from {after} to {next}"));
            }
            if let Some(expected) = told.between(&self.watch, after, *next)
                && expected != *events
            {
                return Err(format!(
                    "a watch from {after} to {next} tells {} changes, and there are {}: {events:?} in place of {expected:?}",
                    events.len(),
                    expected.len()
                ));
            }
        }
        self.checked += events.len() as u64;
        (self.watch.after, self.watch.oldest) = (Some(*next), false);
        Ok(())
    }

    /// Returns when it wants to be asked again.
    #[must_use]
    pub fn wake_at(&self, more: bool) -> u64 {
        let own = if more && self.calling.is_empty() { self.next_at } else { u64::MAX };
        own.min(self.calling.wake_at())
    }

    /// Hears an answer.
    pub fn answered(&mut self, corr: u64, reply: Reply, now: u64) {
        self.calling.answered(corr, reply, now);
    }

    /// Hears that a node died.
    pub fn broke(&mut self, node: NodeId, now: u64) {
        self.calling.broke(node, now);
    }

    /// Tells whether nothing is open.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.calling.is_empty()
    }

    /// Returns how many changes it was told.
    #[must_use]
    pub fn checked(&self) -> u64 {
        self.checked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::change::What;

    fn at(index: u64, n: u32) -> Position {
        Position { index: Index(index), n }
    }

    fn told() -> Told {
        let mut told = Told::default();
        told.push(Index(5), Millis(1), vec![Change::new(What::Due), Change::new(What::Failed)]);
        told.push(Index(7), Millis(2), vec![Change::new(What::Completed)]);
        told
    }

    fn event(position: Position, now_ms: u64, what: What) -> Event {
        Event { position, now_ms: Millis(now_ms), change: Change::new(what) }
    }

    fn hears(events: Vec<Event>, next: Position) -> Result<(), Violation> {
        let mut watcher = Watcher::new(1, 3);
        watcher.watch = Watch { after: Some(at(5, 1)), ..Watch::default() };
        watcher.take(&Watched { events, next }, &told())
    }

    #[test]
    fn gap_repetition_and_difference_are_found() {
        let whole = || vec![event(at(5, 2), 1, What::Failed), event(at(7, 1), 2, What::Completed)];
        assert_eq!(hears(whole(), at(8, 0)), Ok(()));
        assert_eq!(hears(Vec::new(), at(5, 1)), Ok(()));
        assert!(hears(whole().split_off(1), at(8, 0)).is_err(), "a gap");
        assert!(hears([whole(), whole()].concat(), at(8, 0)).is_err(), "a repetition");
        assert!(hears(Vec::new(), at(8, 0)).is_err(), "passed over");
        let other = event(at(7, 1), 2, What::Failed);
        assert!(hears(vec![whole().remove(0), other], at(8, 0)).is_err(), "a difference");
        assert!(hears(Vec::new(), at(5, 0)).unwrap_err().contains("went back"));
    }
}

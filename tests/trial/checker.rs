//! A queue told from its history alone: what must hold of every line of it, whatever the cluster lived through.

use std::collections::{BTreeMap, BTreeSet};

use raftq::jobs::change::{Event, Position, What};
use raftq::jobs::rules::QueueChange;
use raftq::types::{Fence, JobId, QueueName};

/// So long a leader may take from its choice to the entry that has it, by the log's clock: what came into the line
/// since then it may not have known. Ms.
const CHOICE_MS_MAX: u64 = 1000;

/// A job as the history tells it.
#[derive(Debug)]
struct Known {
    queue: QueueName,
    priority: u8,
    /// Its place in the order of submits.
    place: u64,
    attempt: u32,
    fence: Option<Fence>,
    /// How it ended, and after how many failed attempts.
    ended: Option<What>,
    failures: u32,
}

/// A line: the jobs of one queue and priority that wait, by their places, each with when it came.
type Line = BTreeMap<u64, (JobId, u64)>;

/// The checker.
#[derive(Debug, Default)]
pub struct Checker {
    jobs: BTreeMap<JobId, Known>,
    lines: BTreeMap<(QueueName, u8), Line>,
    running: BTreeMap<QueueName, BTreeSet<JobId>>,
    limits: BTreeMap<QueueName, usize>,
    last: Position,
    newest_fence: Fence,
    /// Assignments looked at.
    pub assignments: u64,
    /// Assignments of queues with a limit.
    pub limited: u64,
    /// What was wrong.
    pub faults: Vec<String>,
}

impl Checker {
    /// Takes the next change.
    pub fn take(&mut self, event: &Event) {
        if event.position <= self.last {
            self.faults.push(format!("{} comes after {}", event.position, self.last));
        }
        self.last = event.position;
        if event.change.what == What::QueueChanged {
            return self.rule(event);
        }
        let (Some(id), Some(queue)) = (event.change.job, event.change.queue.clone()) else {
            return;
        };
        if event.change.what == What::Submitted {
            return self.submitted(event, id, queue);
        }
        let Some(job) = self.jobs.get_mut(&id) else {
            return self.faults.push(format!("{}: job {id} was never submitted", event.position));
        };
        job.attempt = event.change.attempt.unwrap_or(job.attempt);
        let (place, line) = (job.place, (queue.clone(), job.priority));
        let now = event.now_ms.0;
        let mut stand = || self.lines.entry(line.clone()).or_default().insert(place, (id, now));
        match event.change.what {
            What::Due | What::Revived => {
                stand();
            }
            What::Assigned => self.assigned(event, id, &line),
            What::Released | What::Retrying => {
                job.failures += u32::from(event.change.exit_code.is_some() || is_report(event));
                if event.change.held_ms.is_none() {
                    stand();
                }
                self.ends_run(event, id, &queue);
            }
            What::Completed | What::Failed | What::Cancelled => {
                if let Some(former) = job.ended.replace(event.change.what) {
                    self.faults.push(format!("{}: job {id} had ended: {former:?}", event.position));
                }
                if event.change.fence.is_some() {
                    self.ends_run(event, id, &queue);
                } else {
                    self.lines.entry(line).or_default().remove(&place);
                }
            }
            _ => {}
        }
    }

    fn rule(&mut self, event: &Event) {
        let Some(queue) = event.change.queue.clone() else { return };
        match event.change.rule {
            Some(QueueChange::Limit(Some(limit))) => {
                self.limits.insert(queue, limit as usize);
            }
            Some(QueueChange::Limit(None)) => {
                self.limits.remove(&queue);
            }
            _ => {}
        }
    }

    fn submitted(&mut self, event: &Event, id: JobId, queue: QueueName) {
        let place = self.jobs.len() as u64;
        let priority = event.change.priority.unwrap_or(5);
        if event.change.held_ms.is_none() {
            let line = self.lines.entry((queue.clone(), priority)).or_default();
            line.insert(place, (id, event.now_ms.0));
        }
        let job =
            Known { queue, priority, place, attempt: 1, fence: None, ended: None, failures: 0 };
        if self.jobs.insert(id, job).is_some() {
            self.faults.push(format!("{}: job {id} was submitted twice", event.position));
        }
    }

    /// A job is given out from its line: nobody of that line waited longer, the queue has room, nobody else has it.
    fn assigned(&mut self, event: &Event, id: JobId, line: &(QueueName, u8)) {
        self.assignments += 1;
        let at = event.position;
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let fence = event.change.fence.unwrap_or_default();
        job.fence = Some(fence);
        if fence <= self.newest_fence {
            self.faults.push(format!("{at}: fence {fence} after {}", self.newest_fence));
        }
        self.newest_fence = fence;
        let waiting = self.lines.entry(line.clone()).or_default();
        if waiting.remove(&job.place).is_none() {
            self.faults.push(format!("{at}: job {id} did not wait"));
        }
        let known_by = event.now_ms.0.saturating_sub(CHOICE_MS_MAX);
        if let Some((_, (older, since))) =
            waiting.range(..job.place).find(|(_, (_, since))| *since < known_by)
        {
            self.faults.push(format!(
                "{at}: job {id} passes over {older}, which waits in the same line for {} ms",
                event.now_ms.0 - since
            ));
        }
        let running = self.running.entry(line.0.clone()).or_default();
        if !running.insert(id) {
            self.faults.push(format!("{at}: job {id} runs already"));
        }
        if let Some(limit) = self.limits.get(&line.0) {
            self.limited += 1;
            if running.len() > *limit {
                self.faults.push(format!(
                    "{at}: {} run in {}, and {limit} may",
                    running.len(),
                    line.0
                ));
            }
        }
    }

    fn ends_run(&mut self, event: &Event, id: JobId, queue: &QueueName) {
        let was_running = self.running.entry(queue.clone()).or_default().remove(&id);
        let fence = self.jobs.get(&id).and_then(|job| job.fence);
        if !was_running || event.change.fence != fence {
            let at = event.position;
            self.faults.push(format!("{at}: job {id} did not run under {:?}", event.change.fence));
        }
    }

    /// Returns how a job ended, with which attempt, and how many of them its workers reported as failed.
    pub fn end_of(&self, id: JobId) -> Option<(Option<What>, u32, u32)> {
        self.jobs.get(&id).map(|job| (job.ended, job.attempt, job.failures))
    }

    /// Returns how many jobs were submitted, and those that have not ended.
    pub fn open(&self) -> (usize, Vec<JobId>) {
        let open = self.jobs.iter().filter(|(_, job)| job.ended.is_none()).map(|(id, _)| *id);
        (self.jobs.len(), open.collect())
    }

    /// Returns the queues that had jobs.
    pub fn queues(&self) -> usize {
        self.jobs.values().map(|job| &job.queue).collect::<BTreeSet<_>>().len()
    }
}

/// A failure that a worker reported says why; one that the queue decided names the worker.
fn is_report(event: &Event) -> bool {
    event.change.error.as_ref().is_some_and(|error| !error.starts_with("worker "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use raftq::jobs::change::Change;
    use raftq::types::{Index, Millis, WorkerId};

    fn queue() -> QueueName {
        QueueName::new("q").unwrap()
    }

    fn event(index: u64, now: u64, what: What, number: u8) -> Event {
        let ran = matches!(what, What::Assigned | What::Completed);
        let change = Change {
            job: Some(JobId([number; 16])),
            queue: Some(queue()),
            worker: ran.then(|| WorkerId::new("w").unwrap()),
            fence: ran.then_some(Fence(u64::from(number))),
            attempt: Some(1),
            ..Change::new(what)
        };
        Event { position: Position { index: Index(index), n: 1 }, now_ms: Millis(now), change }
    }

    fn faults(events: &[(u64, What, u8)], limit: Option<u32>) -> Vec<String> {
        let mut checker = Checker::default();
        let rule = Some(QueueChange::Limit(limit));
        let change = Change { queue: Some(queue()), rule, ..Change::new(What::QueueChanged) };
        let position = Position { index: Index(1), n: 1 };
        checker.take(&Event { position, now_ms: Millis(0), change });
        for ((now, what, job), index) in events.iter().zip(2..) {
            checker.take(&event(index, *now, *what, *job));
        }
        checker.faults
    }

    #[test]
    fn every_promise_that_is_broken_is_found() {
        use What::{Assigned, Completed, Submitted};
        let two = [(0, Submitted, 1), (0, Submitted, 2)];
        let then = |more: &[(u64, What, u8)]| [&two[..], more].concat();
        let good = then(&[(5000, Assigned, 1), (5000, Assigned, 2), (5001, Completed, 1)]);
        assert!(faults(&good, None).is_empty(), "{:?}", faults(&good, None));
        let found = |events: &[(u64, What, u8)], limit, word: &str| {
            let faults = faults(events, limit);
            assert!(faults.iter().any(|fault| fault.contains(word)), "{word}: {faults:?}");
        };
        found(&then(&[(5000, Assigned, 2)]), None, "passes over");
        found(&good, Some(1), "and 1 may");
        found(&then(&[(9, Assigned, 1), (9, Assigned, 1)]), None, "runs already");
        found(&then(&[(9, Assigned, 2), (9, Assigned, 1)]), None, "fence 1 after 2");
        found(&then(&[(9, Completed, 1)]), None, "did not run");
        found(&[(0, Submitted, 1), (0, Submitted, 1)], None, "submitted twice");
        let twice = [(9, Assigned, 1), (9, Completed, 1), (9, Completed, 1)];
        found(&then(&twice), None, "had ended");
    }
}

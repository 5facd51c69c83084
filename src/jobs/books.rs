//! The books over the jobs: who waits in which line, who waits for a time, who ended when, how many there are,
//! what they weigh and what they hash to.

use imbl::OrdMap;

use crate::jobs::digest::Sum;
use crate::jobs::job::Status;
use crate::jobs::lane::{Class, Lane};
use crate::jobs::ordered::Ordered;
use crate::jobs::queue::{Queue, QueueCounts, RULES_BYTES, Rules};
use crate::jobs::resident::Job;
use crate::types::{JobId, Millis, QueueName};

/// Whom a time concerns.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// A job: it has waited long enough, or too long.
    Job(JobId),
    /// A queue, whose rate lets it go on.
    Queue(QueueName),
}

/// The books over the jobs. A job's every change is one [`Books::leave`] with the former state and
/// one [`Books::enter`] with the new one; there is no other way to write here.
///
/// - `lines` names exactly the jobs that are pending and not held, by lane and by place; no line is empty.
/// - `fronts` names the queue of the first job of each line whose queue is open, by class and by that
///   job's place; no class in it is empty.
/// - `timers` names exactly the jobs and queues that wait for a time.
/// - `finished` names exactly the jobs that ended and did not fail, by the order of their endings, and
///   `dead` those that failed.
/// - `queues` has an entry for exactly the queues that some job is in or that have rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Books {
    lines: OrdMap<Lane, Ordered<u64, JobId>>,
    fronts: OrdMap<Class, Ordered<u64, QueueName>>,
    timers: Ordered<(Millis, Timer), ()>,
    finished: Ordered<u64, JobId>,
    dead: Ordered<u64, JobId>,
    queues: OrdMap<QueueName, Queue>,
    /// Queues that have rules.
    ruled: usize,
    totals: QueueCounts,
    job_bytes: u64,
    finished_bytes: u64,
    dead_bytes: u64,
    sum: Sum,
}

impl Books {
    /// Writes a job in.
    pub fn enter(&mut self, job: &Job) {
        self.sum.add(job.record());
        self.job_bytes += job.weight();
        self.totals.add(job);
        let closes = match self.queues.get_mut(&job.queue) {
            Some(queue) => {
                let was_open = queue.is_open();
                queue.counts.add(job);
                was_open && !queue.is_open()
            }
            None => {
                self.queues.entry(job.queue.clone()).or_default().counts.add(job);
                false
            }
        };
        if closes {
            self.close(&job.queue);
        }
        if let Some(at) = job.wakes_ms() {
            self.timers.insert((at, Timer::Job(job.id)), ());
        }
        match (job.status, &job.ending) {
            (Status::Pending, _) if !job.is_held() => self.stand(job),
            (Status::Pending | Status::Running, _) | (_, None) => {}
            (Status::Failed, Some(ending)) => {
                self.dead_bytes += job.weight();
                self.dead.insert(ending.order, job.id);
            }
            (Status::Completed | Status::Cancelled, Some(ending)) => {
                self.finished_bytes += job.weight();
                self.finished.insert(ending.order, job.id);
            }
        }
    }

    /// Strikes a job out, exactly as it was written in.
    ///
    /// # Panics
    /// If it is not in the books.
    pub fn leave(&mut self, job: &Job) {
        self.sum.take(job.record());
        self.job_bytes -= job.weight();
        self.totals.take(job);
        match (job.status, &job.ending) {
            (Status::Pending, _) if !job.is_held() => self.stand_down(job),
            (Status::Pending | Status::Running, _) | (_, None) => {}
            (Status::Failed, Some(ending)) => {
                self.dead_bytes -= job.weight();
                self.dead.remove(&ending.order).expect("a job that failed has its place");
            }
            (Status::Completed | Status::Cancelled, Some(ending)) => {
                self.finished_bytes -= job.weight();
                self.finished.remove(&ending.order).expect("a job that ended has its place");
            }
        }
        if let Some(at) = job.wakes_ms() {
            let timer = (at, Timer::Job(job.id));
            self.timers.remove(&timer).expect("a job that waits for a time has its place");
        }
        let queue = self.queues.get_mut(&job.queue).expect("a job's queue is counted");
        let was_open = queue.is_open();
        queue.counts.take(job);
        let opens = !was_open && queue.is_open();
        if queue.is_gone() {
            self.queues.remove(&job.queue);
        }
        if opens {
            self.open(&job.queue);
        }
    }

    /// Puts a job into its line.
    fn stand(&mut self, job: &Job) {
        let (lane, place) = (job.lane(), job.place());
        let line = match self.lines.get_mut(&lane) {
            Some(line) => line,
            None => self.lines.entry(lane.clone()).or_default(),
        };
        let first = line.get_min().map(|(first, _)| *first);
        line.insert(place, job.id);
        if first.is_none_or(|first| place < first) && self.is_open(&lane.queue) {
            if let Some(first) = first {
                unfront(&mut self.fronts, &lane.class, first);
            }
            front(&mut self.fronts, &lane, place);
        }
    }

    /// Takes a job out of its line.
    fn stand_down(&mut self, job: &Job) {
        let (lane, place) = (job.lane(), job.place());
        let line = self.lines.get_mut(&lane).expect("a pending job stands in its line");
        let was_first = line.get_min().is_some_and(|(first, _)| *first == place);
        line.remove(&place).expect("a pending job has its place");
        let next = line.get_min().map(|(next, _)| *next);
        if next.is_none() {
            self.lines.remove(&lane);
        }
        if was_first && self.is_open(&lane.queue) {
            unfront(&mut self.fronts, &lane.class, place);
            if let Some(next) = next {
                front(&mut self.fronts, &lane, next);
            }
        }
    }

    fn is_open(&self, queue: &QueueName) -> bool {
        self.queues.get(queue).is_none_or(Queue::is_open)
    }

    /// Goes through the lines of a queue: where each stands, and the place of its first job.
    fn firsts(&self, queue: &QueueName) -> Vec<(Lane, u64)> {
        let from = Lane::first_of(queue.clone());
        let lines = self.lines.range(from..).take_while(|(lane, _)| lane.queue == *queue);
        lines.filter_map(|(lane, line)| Some((lane.clone(), *line.get_min()?.0))).collect()
    }

    fn open(&mut self, queue: &QueueName) {
        for (lane, first) in self.firsts(queue) {
            front(&mut self.fronts, &lane, first);
        }
    }

    fn close(&mut self, queue: &QueueName) {
        for (lane, first) in self.firsts(queue) {
            unfront(&mut self.fronts, &lane.class, first);
        }
    }

    /// Changes the rules of a queue. Rules that decide nothing are dropped.
    pub fn change_rules(&mut self, name: &QueueName, change: impl FnOnce(&mut Rules)) {
        let queue = match self.queues.get_mut(name) {
            Some(queue) => queue,
            None => self.queues.entry(name.clone()).or_default(),
        };
        let was_open = queue.is_open();
        if let Some(rules) = &queue.rules {
            self.ruled -= 1;
            self.sum.take(rules.record(name));
            if let Some(at) = rules.wakes_ms() {
                self.timers.remove(&(at, Timer::Queue(name.clone())));
            }
        }
        let mut rules = queue.rules.take().unwrap_or_default();
        change(&mut rules);
        if !rules.is_empty() {
            self.ruled += 1;
            self.sum.add(rules.record(name));
            if let Some(at) = rules.wakes_ms() {
                self.timers.insert((at, Timer::Queue(name.clone())), ());
            }
            queue.rules = Some(rules);
        }
        let is_open = queue.is_open();
        if queue.is_gone() {
            self.queues.remove(name);
        }
        match (was_open, is_open) {
            (false, true) => self.open(name),
            (true, false) => self.close(name),
            (true, true) | (false, false) => {}
        }
    }

    /// Returns the queue's name as the other jobs of the queue hold it, so that they share its text.
    #[must_use]
    pub fn shared(&self, queue: &QueueName) -> QueueName {
        self.queues.get_key_value(queue).map_or_else(|| queue.clone(), |(name, _)| name.clone())
    }

    /// Returns the lines in which jobs wait; none of them is empty.
    #[must_use]
    pub fn lines(&self) -> &OrdMap<Lane, Ordered<u64, JobId>> {
        &self.lines
    }

    /// Returns, for each class, the lines whose queues are open, by the place of their first job.
    #[must_use]
    pub fn fronts(&self) -> &OrdMap<Class, Ordered<u64, QueueName>> {
        &self.fronts
    }

    /// Returns the times that jobs and queues wait for, the first one first.
    #[must_use]
    pub fn timers(&self) -> &Ordered<(Millis, Timer), ()> {
        &self.timers
    }

    /// Returns the jobs that completed or were cancelled, in the order in which they ended.
    #[must_use]
    pub fn finished(&self) -> &Ordered<u64, JobId> {
        &self.finished
    }

    /// Returns the jobs that failed, in the order in which they did.
    #[must_use]
    pub fn dead(&self) -> &Ordered<u64, JobId> {
        &self.dead
    }

    /// Returns the queues that some job is in, or that have rules.
    #[must_use]
    pub fn queues(&self) -> &OrdMap<QueueName, Queue> {
        &self.queues
    }

    /// Returns how many queues have rules.
    #[must_use]
    pub fn ruled(&self) -> usize {
        self.ruled
    }

    /// Returns the counts of all queues together.
    #[must_use]
    pub fn totals(&self) -> &QueueCounts {
        &self.totals
    }

    /// Returns what all jobs and rules weigh.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.job_bytes + self.ruled as u64 * RULES_BYTES
    }

    /// Returns what the jobs that completed or were cancelled weigh.
    #[must_use]
    pub fn finished_bytes(&self) -> u64 {
        self.finished_bytes
    }

    /// Returns what the jobs that failed weigh.
    #[must_use]
    pub fn dead_bytes(&self) -> u64 {
        self.dead_bytes
    }

    /// Returns its share of the digest.
    #[must_use]
    pub fn sum(&self) -> u128 {
        self.sum.value()
    }
}

fn front(fronts: &mut OrdMap<Class, Ordered<u64, QueueName>>, lane: &Lane, place: u64) {
    let class = match fronts.get_mut(&lane.class) {
        Some(class) => class,
        None => fronts.entry(lane.class.clone()).or_default(),
    };
    class.insert(place, lane.queue.clone());
}

fn unfront(fronts: &mut OrdMap<Class, Ordered<u64, QueueName>>, class: &Class, place: u64) {
    let lines = fronts.get_mut(class).expect("a line that is open has a front");
    lines.remove(&place).expect("the first job of an open line is its front");
    if lines.is_empty() {
        fronts.remove(class);
    }
}

//! One more machine, fed entry by entry: what each came to is looked at, not only where all of them led.

use std::collections::{BTreeMap, BTreeSet};

use crate::jobs::codec;
use crate::jobs::command::{Command, Event, Fired, Outcome};
use crate::jobs::cron::CronChange;
use crate::jobs::job::Status;
use crate::jobs::list::Filter;
use crate::jobs::machine::Machine;
use crate::jobs::resident::Job;
use crate::jobs::unique::{self, Place};
use crate::raft::core::Role;
use crate::raft::message::EntryKind;
use crate::replica::core::Replica;
use crate::sim::checks::Violation;
use crate::sim::crons::CronWatch;
use crate::sim::watcher::Told;
use crate::types::{Fence, Index, JobId, NodeId, QueueName, Term, WorkerId};

/// Entries fetched from a replica in one go, in bytes.
const BYTES_MAX: usize = 1 << 30;

/// Digests and proposals remembered, at most: the last ones.
const REMEMBERED_MAX: usize = 8192;

/// Jobs looked at in one go, when there is a gap.
const PAGE: usize = 1000;

/// A job that waits.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    job: JobId,
    /// The entry by which it came to wait.
    since: Index,
}

/// How far a node was when it was looked at last.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    term: Term,
    last_index: Index,
    applied: Index,
    leads: bool,
}

/// The shadow: what any replica has that applied the same entries.
///
/// - `line` has exactly the jobs that are pending in `machine` and not held, by their place in line.
/// - `held` has those that are held.
#[derive(Debug, Default)]
pub struct Shadow {
    machine: Machine,
    line: BTreeMap<u64, Waiting>,
    held: BTreeSet<JobId>,
    /// Queues that have or had rules, and until which entry: they may give out less than waits in them.
    ruled: BTreeMap<QueueName, Index>,
    /// The newest assignment that names a job, whether it held or not.
    named: BTreeMap<JobId, Index>,
    newest_fence: Fence,
    nodes: BTreeMap<NodeId, Progress>,
    /// By which leader's term an entry was proposed, and what that leader had applied at least.
    proposed: BTreeMap<Index, (Term, Index)>,
    digests: BTreeMap<Index, u128>,
    told: Told,
    /// The job that holds a unique key until it ends, or held it last.
    unique: BTreeMap<Place, JobId>,
    assignments: u64,
    crons: CronWatch,
}

impl Shadow {
    /// Looks at a replica after its turn.
    ///
    /// # Errors
    /// A promise that was broken.
    pub fn follow<W>(&mut self, node: NodeId, replica: &Replica<W>) -> Result<(), Violation> {
        self.note_proposals(node, replica);
        let applied = replica.machine().applied_index();
        if applied > self.machine.applied_index() {
            self.catch_up(replica)?;
        }
        let digest = replica.machine().digest().0;
        if self.digests.get(&applied).is_some_and(|known| *known != digest) {
            return Err(format!(
                "node {node} has another machine at {applied} than its entries make"
            ));
        }
        Ok(())
    }

    /// Returns what the entries changed.
    #[must_use]
    pub fn told(&self) -> &Told {
        &self.told
    }

    /// Returns how many assignments were looked at.
    #[must_use]
    pub fn assignments(&self) -> u64 {
        self.assignments
    }

    /// Returns how many slots of crons became jobs and were looked at.
    #[must_use]
    pub fn crons_fired(&self) -> u64 {
        self.crons.fired()
    }

    fn note_proposals<W>(&mut self, node: NodeId, replica: &Replica<W>) {
        let status = replica.raft().status();
        let now = Progress {
            term: status.term,
            last_index: status.last_index,
            applied: replica.machine().applied_index(),
            leads: status.role == Role::Leader,
        };
        let before = self.nodes.insert(node, now).unwrap_or_default();
        if !now.leads || !before.leads || now.term != before.term {
            return;
        }
        let mut index = before.last_index.next();
        while index <= now.last_index {
            // It had applied at least as much as when it was looked at last.
            self.proposed.insert(index, (now.term, before.applied));
            index = index.next();
        }
        while self.proposed.len() > REMEMBERED_MAX {
            self.proposed.pop_first();
        }
    }

    /// Applies what the replica has applied and this machine has not.
    fn catch_up<W>(&mut self, replica: &Replica<W>) -> Result<(), Violation> {
        let applied = replica.machine().applied_index();
        let first = self.machine.applied_index().next();
        let entries = replica.raft().entries(first, applied, BYTES_MAX).unwrap_or_default();
        if entries.last().is_none_or(|entry| entry.index != applied) {
            // They came as a snapshot, or are gone already.
            self.jump(replica.machine());
            return Ok(());
        }
        for entry in entries {
            match entry.kind {
                EntryKind::Noop | EntryKind::Configuration => self.machine.apply_noop(entry.index),
                EntryKind::Command => {
                    let stamped = codec::decode(&entry.data).map_err(|error| {
                        format!("entry {} cannot be read: {error}", entry.index)
                    })?;
                    let crons = self.machine.crons().clone();
                    let applied = self.machine.apply(entry.index, &stamped);
                    self.told.push(entry.index, self.machine.now(), applied.changes);
                    self.release_held(entry.index);
                    if let Command::AssignJob(pairs) = &stamped.command {
                        self.named.extend(pairs.iter().map(|pair| (pair.job, entry.index)));
                        self.assigned(entry.index, entry.term, &applied.events)?;
                    }
                    if let Command::SubmitJob(jobs) = &stamped.command {
                        jobs.iter().for_each(|job| self.place(job.id, entry.index));
                        jobs.iter().try_for_each(|job| self.look_at_key(job.id))?;
                    }
                    if let (Command::FireCron(fires), Outcome::CronsFired(fired)) =
                        (&stamped.command, &applied.outcome)
                    {
                        let now = self.machine.now();
                        for (fire, fired) in fires.iter().zip(fired) {
                            let cron = crons.get(&fire.name).map(|cron| &**cron);
                            self.crons.slot(cron, fire, *fired, now)?;
                            if let Fired::Submitted(job) = fired {
                                self.place(*job, entry.index);
                            }
                        }
                    }
                    if let Command::ChangeCron(_, CronChange::Trigger(job), _) = &stamped.command {
                        self.place(*job, entry.index);
                    }
                    for event in applied.events {
                        match event {
                            Event::Assigned { job, .. } | Event::Withdrawn { job, .. } => {
                                self.place(job, entry.index);
                            }
                            Event::Ended { job, .. } => {
                                self.place(job, entry.index);
                                self.named.remove(&job);
                            }
                        }
                    }
                }
            }
            self.note_rules(entry.index);
            self.digests.insert(entry.index, self.machine.digest().0);
        }
        while self.digests.len() > REMEMBERED_MAX {
            self.digests.pop_first();
        }
        Ok(())
    }

    /// Looks whether a job that was submitted has its unique key alone.
    fn look_at_key(&mut self, id: JobId) -> Result<(), Violation> {
        let is_open = |job: &Job| !job.status.is_final();
        let Some(job) = self.machine.job(id).filter(|job| is_open(job)) else { return Ok(()) };
        let Some(place) = unique::held_until_end(job) else { return Ok(()) };
        let former = self.unique.insert(place.clone(), id).filter(|former| *former != id);
        let other = former.and_then(|former| self.machine.job(former)).filter(|job| is_open(job));
        other.map_or(Ok(()), |other| {
            Err(format!(
                "the jobs {} and {id} have the key {:?} at once",
                other.id,
                place.1.as_str()
            ))
        })
    }

    /// Takes a machine as it is.
    fn jump(&mut self, machine: &Machine) {
        self.machine = machine.clone();
        self.told.jump(self.machine.applied_index());
        self.note_rules(self.machine.applied_index());
        self.line.clear();
        self.held.clear();
        let mut filter = Filter { status: Some(Status::Pending), limit: PAGE, ..Filter::default() };
        loop {
            let (jobs, more) = self.machine.list(&filter);
            let since = self.machine.applied_index();
            jobs.iter().for_each(|job| self.place(job.id, since));
            filter.after = jobs.last().map(|job| job.id);
            if !more || filter.after.is_none() {
                break;
            }
        }
    }

    /// Puts a job where it is now: in the line, or out of it.
    fn place(&mut self, id: JobId, since: Index) {
        let Some(job) = self.machine.job(id) else { return };
        let place = job.place();
        if job.status != Status::Pending || job.is_held() {
            self.line.remove(&place);
        } else {
            self.line.entry(place).or_insert(Waiting { job: id, since });
        }
        match job.is_held() {
            true => self.held.insert(id),
            false => self.held.remove(&id),
        };
    }

    /// Puts into the line what was held until now.
    fn release_held(&mut self, since: Index) {
        let is_held = |id: &JobId| self.machine.job(*id).is_some_and(|job| job.is_held());
        let released: Vec<JobId> = self.held.iter().filter(|id| !is_held(id)).copied().collect();
        for id in released {
            self.held.remove(&id);
            self.place(id, since);
        }
    }

    /// Notes which queues have rules.
    fn note_rules(&mut self, index: Index) {
        for (name, queue) in self.machine.queues() {
            if queue.rules.is_some() {
                self.ruled.insert(name.clone(), index);
            }
        }
    }

    /// Looks at the assignments of one entry: tokens rise, and nobody who waited longer was passed over.
    fn assigned(&mut self, index: Index, term: Term, events: &[Event]) -> Result<(), Violation> {
        for event in events {
            if let Event::Assigned { job, .. } = event {
                self.place(*job, index);
            }
        }
        let knew = self.proposed.get(&index).filter(|(by, _)| *by == term).map(|(_, knew)| *knew);
        for event in events {
            let Event::Assigned { worker, job, fence, .. } = event else { continue };
            self.assignments += 1;
            if *fence <= self.newest_fence {
                return Err(format!("fence {fence} comes after {}", self.newest_fence));
            }
            self.newest_fence = *fence;
            let Some(place) = self.machine.job(*job).map(|job| job.place()) else { continue };
            if let Some(knew) = knew
                && let Some(passed) = self.passed_over(place, worker, knew)
            {
                return Err(format!(
                    "job {passed} waited longer, worker {worker} takes it, and the entry {index} gives it job {job}"
                ));
            }
        }
        Ok(())
    }

    /// Finds a job that waited before that place, that the worker takes, and that the leader knew to wait: it was
    /// given to nobody since.
    fn passed_over(&self, place: u64, worker: &WorkerId, knew: Index) -> Option<JobId> {
        let worker = self.machine.worker(worker)?;
        let older = self.line.range(..place).map(|(_, waiting)| waiting);
        let mut known = older.filter(|waiting| {
            let is_named = self.named.get(&waiting.job).is_some_and(|at| *at > knew);
            waiting.since <= knew && !is_named
        });
        let passed = known.find(|waiting| {
            let job = self.machine.job(waiting.job);
            job.is_some_and(|job| {
                let is_ruled = self.ruled.get(&job.queue).is_some_and(|until| *until >= knew);
                !is_ruled && worker.takes(&job.class())
            })
        });
        passed.map(|waiting| waiting.job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::command::{Pair, Registration, Stamped};
    use crate::jobs::job::{Body, NewJob, Serves};
    use crate::jobs::options::Tags;
    use crate::types::{Incarnation, Millis, QueueName};

    fn id(number: u8) -> JobId {
        JobId([number; 16])
    }

    fn worker() -> WorkerId {
        WorkerId::new("w").unwrap()
    }

    fn apply(shadow: &mut Shadow, command: Command) -> (Index, Vec<Event>) {
        let index = shadow.machine.applied_index().next();
        let events = shadow.machine.apply(index, &Stamped { now: Millis(0), command }).events;
        (index, events)
    }

    /// A worker of two slots, and the jobs 1, 2 and 3 that wait.
    fn shadow() -> Shadow {
        let mut shadow = Shadow::default();
        apply(
            &mut shadow,
            Command::RegisterWorker(Registration {
                worker: worker(),
                incarnation: Incarnation(1),
                slots: 2,
                serves: Serves::Commands,
                tags: Tags::default(),
                gave_up: None,
            }),
        );
        for number in 1..=3 {
            let (queue, body) = (QueueName::default(), Body::Command(vec!["true".into()]));
            let (index, _) = apply(
                &mut shadow,
                Command::SubmitJob(vec![NewJob::plain(id(number), queue, body)]),
            );
            shadow.place(id(number), index);
        }
        shadow
    }

    fn assign(shadow: &mut Shadow, jobs: &[u8], knew: u64) -> Result<(), Violation> {
        let pair =
            |number: &u8| Pair { job: id(*number), worker: worker(), incarnation: Incarnation(1) };
        let pairs: Vec<Pair> = jobs.iter().map(pair).collect();
        let (index, events) = apply(shadow, Command::AssignJob(pairs.clone()));
        shadow.proposed.insert(index, (Term(1), Index(knew)));
        shadow.named.extend(pairs.iter().map(|pair| (pair.job, index)));
        shadow.assigned(index, Term(1), &events)
    }

    #[test]
    fn job_that_waited_longer_and_is_passed_over_is_found() {
        assert!(assign(&mut shadow(), &[2], 4).unwrap_err().contains("waited longer"));
        assert!(assign(&mut shadow(), &[1, 3], 4).unwrap_err().contains("waited longer"));
        assert_eq!(assign(&mut shadow(), &[1, 2], 4), Ok(()));
        assert_eq!(assign(&mut shadow(), &[2, 1], 4), Ok(()), "both are given out");
    }

    #[test]
    fn job_that_the_leader_did_not_know_to_wait_is_not_passed_over() {
        assert_eq!(assign(&mut shadow(), &[2], 1), Ok(()));
        let mut shadow = shadow();
        shadow.named.insert(id(1), Index(5));
        assert_eq!(assign(&mut shadow, &[2], 4), Ok(()), "it was proposed for somebody");
    }

    #[test]
    fn tokens_rise() {
        let mut shadow = shadow();
        shadow.newest_fence = Fence::new(Index(5), 0);
        assert!(assign(&mut shadow, &[1], 4).unwrap_err().contains("comes after"));
    }
}

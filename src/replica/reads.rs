//! Who waits for the state: reads on their way to being linearizable, waits for jobs, long polls.

use std::collections::{BTreeMap, BTreeSet};

use crate::replica::history::Watch;
use crate::types::{Fence, Incarnation, Index, JobId, Ticks, WorkerId};
use crate::wire::message::Request;

/// A read that no leader confirmed in so long is answered `UNAVAILABLE`, in ticks: 5 s.
pub const READ_TICKS_MAX: u64 = 500;

/// Waits for jobs and long polls held by one node, at most; more are refused with
/// `RESOURCE_EXHAUSTED`.
pub const PARKED_MAX: usize = 65_536;

/// Watchers that wait on one node, at most: each is served in every turn that changes something. More are
/// refused with `RESOURCE_EXHAUSTED`.
pub const WATCHERS_MAX: usize = 256;

/// Jobs that all these waits name together, at most (some 64 MiB of memory); a wait for more is refused
/// with `RESOURCE_EXHAUSTED`.
pub const PARKED_JOBS_MAX: usize = 1 << 20;

/// Something to do once a read index is confirmed and applied.
#[derive(Debug)]
pub enum Read<W> {
    /// Answer a client.
    Client {
        /// Who.
        waiter: W,
        /// What they asked.
        request: Request,
        /// When.
        arrived: Ticks,
    },
    /// Acknowledge a worker's heartbeat: this node still led when it arrived.
    Heartbeat {
        /// Who.
        waiter: W,
        /// The worker.
        worker: WorkerId,
        /// Its start.
        incarnation: Incarnation,
        /// It takes no new jobs.
        draining: bool,
        /// What it believes to run.
        held: Vec<(JobId, Fence)>,
        /// When.
        arrived: Ticks,
    },
    /// This node holds all that its leader had committed: it is ready.
    Ready,
}

/// Reads that share one confirmation.
#[derive(Debug)]
struct Round<W> {
    asked: Ticks,
    index: Option<Index>,
    reads: Vec<Read<W>>,
}

/// The reads on their way, in rounds: all that arrive in one turn share a token.
#[derive(Debug)]
pub struct Rounds<W> {
    next_token: u64,
    rounds: BTreeMap<u64, Round<W>>,
}

impl<W> Default for Rounds<W> {
    fn default() -> Self {
        Self { next_token: 1, rounds: BTreeMap::new() }
    }
}

impl<W> Rounds<W> {
    /// Opens a round and returns the token to ask consensus with.
    pub fn open(&mut self, reads: Vec<Read<W>>, now: Ticks) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        self.rounds.insert(token, Round { asked: now, index: None, reads });
        token
    }

    /// Notes what consensus said. Returns the reads of a round that was not confirmed.
    pub fn confirmed(&mut self, token: u64, index: Option<Index>) -> Vec<Read<W>> {
        match index {
            None => self.rounds.remove(&token).map(|round| round.reads).unwrap_or_default(),
            Some(index) => {
                if let Some(round) = self.rounds.get_mut(&token) {
                    round.index = Some(index);
                }
                Vec::new()
            }
        }
    }

    /// Takes the heartbeats of all confirmed rounds, in order: they need not wait for an index.
    pub fn take_heartbeats(&mut self) -> Vec<Read<W>> {
        let is_heartbeat = |read: &mut Read<W>| matches!(read, Read::Heartbeat { .. });
        let mut taken = Vec::new();
        self.rounds.retain(|_, round| {
            if round.index.is_some() {
                taken.extend(round.reads.extract_if(.., is_heartbeat));
            }
            !round.reads.is_empty()
        });
        taken
    }

    /// Takes the reads that may be served now that `applied` is applied.
    pub fn ready(&mut self, applied: Index) -> Vec<Read<W>> {
        self.take(|round| round.index.is_some_and(|index| index <= applied))
    }

    /// Tells whether there are such reads.
    #[must_use]
    pub fn has_ready(&self, applied: Index) -> bool {
        self.rounds.values().any(|round| round.index.is_some_and(|index| index <= applied))
    }

    /// Takes the reads that have waited too long.
    pub fn expired(&mut self, now: Ticks) -> Vec<Read<W>> {
        self.take(|round| now.0.saturating_sub(round.asked.0) >= READ_TICKS_MAX)
    }

    /// How many rounds are open.
    #[must_use]
    pub fn open_count(&self) -> usize {
        self.rounds.len()
    }

    fn take(&mut self, due: impl Fn(&Round<W>) -> bool) -> Vec<Read<W>> {
        if !self.rounds.values().any(&due) {
            return Vec::new();
        }
        let tokens: Vec<u64> =
            self.rounds.iter().filter(|(_, round)| due(round)).map(|(token, _)| *token).collect();
        tokens
            .into_iter()
            .filter_map(|token| self.rounds.remove(&token))
            .flat_map(|round| round.reads)
            .collect()
    }
}

/// What a parked waiter waits for.
#[derive(Debug)]
pub enum Parked {
    /// Until all of these jobs have ended.
    Jobs {
        /// In the order asked.
        ids: Vec<JobId>,
        /// Those that have not ended yet.
        open: BTreeSet<JobId>,
    },
    /// Until something changes.
    Changes(Watch),
    /// Until this start of a worker is given a job.
    Worker {
        /// The worker.
        worker: WorkerId,
        /// Its start.
        incarnation: Incarnation,
        /// The highest fence it has.
        after: Fence,
        /// How many jobs it wants at most.
        max: usize,
    },
}

impl Parked {
    fn jobs_count(&self) -> usize {
        match self {
            Self::Jobs { ids, .. } => ids.len(),
            Self::Worker { .. } | Self::Changes(_) => 0,
        }
    }
}

/// Waiters for something that the log will bring, each until its time is up.
#[derive(Debug)]
pub struct Lot<W> {
    next: u64,
    /// How many jobs the parked waits name.
    jobs: usize,
    parked: BTreeMap<u64, (W, Parked, Ticks)>,
    by_job: BTreeSet<(JobId, u64)>,
    by_worker: BTreeSet<(WorkerId, u64)>,
    watchers: BTreeSet<u64>,
    by_deadline: BTreeSet<(Ticks, u64)>,
}

impl<W> Default for Lot<W> {
    fn default() -> Self {
        Self {
            next: 0,
            jobs: 0,
            parked: BTreeMap::new(),
            by_job: BTreeSet::new(),
            by_worker: BTreeSet::new(),
            watchers: BTreeSet::new(),
            by_deadline: BTreeSet::new(),
        }
    }
}

impl<W> Lot<W> {
    /// How many wait.
    #[must_use]
    pub fn waiting_count(&self) -> usize {
        self.parked.len()
    }

    /// Parks a waiter until `deadline`, or gives it back when the lot is full ([`PARKED_MAX`],
    /// [`PARKED_JOBS_MAX`], [`WATCHERS_MAX`]).
    ///
    /// # Errors
    /// The waiter, when the lot is full.
    pub fn park(&mut self, waiter: W, parked: Parked, deadline: Ticks) -> Result<(), W> {
        let is_watch = matches!(parked, Parked::Changes(_));
        if self.parked.len() >= PARKED_MAX
            || self.jobs + parked.jobs_count() > PARKED_JOBS_MAX
            || is_watch && self.watchers.len() >= WATCHERS_MAX
        {
            return Err(waiter);
        }
        let number = self.next;
        self.next += 1;
        self.jobs += parked.jobs_count();
        match &parked {
            Parked::Jobs { open, .. } => {
                self.by_job.extend(open.iter().map(|id| (*id, number)));
            }
            Parked::Worker { worker, .. } => {
                self.by_worker.insert((worker.clone(), number));
            }
            Parked::Changes(_) => _ = self.watchers.insert(number),
        }
        self.by_deadline.insert((deadline, number));
        self.parked.insert(number, (waiter, parked, deadline));
        Ok(())
    }

    /// Notes that a job has ended (or is known no more); returns those who wait for nothing else.
    pub fn job_ended(&mut self, job: JobId) -> Vec<(W, Vec<JobId>)> {
        let numbers: Vec<u64> =
            self.by_job.range((job, 0)..=(job, u64::MAX)).map(|(_, number)| *number).collect();
        let mut done = Vec::new();
        for number in numbers {
            self.by_job.remove(&(job, number));
            let Some((_, Parked::Jobs { open, .. }, _)) = self.parked.get_mut(&number) else {
                continue;
            };
            open.remove(&job);
            if open.is_empty()
                && let Some((waiter, Parked::Jobs { ids, .. }, _)) = self.remove(number)
            {
                done.push((waiter, ids));
            }
        }
        done
    }

    /// Takes those who wait for jobs of this worker, each with its deadline.
    pub fn worker_given(&mut self, worker: &WorkerId) -> Vec<(W, Parked, Ticks)> {
        let numbers: Vec<u64> = self
            .by_worker
            .range((worker.clone(), 0)..=(worker.clone(), u64::MAX))
            .map(|(_, number)| *number)
            .collect();
        numbers.into_iter().filter_map(|number| self.remove(number)).collect()
    }

    /// Takes those who wait for a change, each with its deadline.
    pub fn changed(&mut self) -> Vec<(W, Parked, Ticks)> {
        let numbers: Vec<u64> = self.watchers.iter().copied().collect();
        numbers.into_iter().filter_map(|number| self.remove(number)).collect()
    }

    /// Takes those whose time is up.
    pub fn expired(&mut self, now: Ticks) -> Vec<(W, Parked)> {
        let numbers: Vec<u64> = self
            .by_deadline
            .iter()
            .take_while(|(deadline, _)| *deadline <= now)
            .map(|(_, number)| *number)
            .collect();
        let expired = numbers.into_iter().filter_map(|number| self.remove(number));
        expired.map(|(waiter, parked, _)| (waiter, parked)).collect()
    }

    /// Takes everyone: what they wait for may have happened without a trace.
    pub fn take_all(&mut self) -> Vec<(W, Parked, Ticks)> {
        self.jobs = 0;
        self.by_job.clear();
        self.by_worker.clear();
        self.watchers.clear();
        self.by_deadline.clear();
        std::mem::take(&mut self.parked).into_values().collect()
    }

    fn remove(&mut self, number: u64) -> Option<(W, Parked, Ticks)> {
        let (waiter, parked, deadline) = self.parked.remove(&number)?;
        self.jobs -= parked.jobs_count();
        self.by_deadline.remove(&(deadline, number));
        match &parked {
            Parked::Jobs { open, .. } => {
                for id in open {
                    self.by_job.remove(&(*id, number));
                }
            }
            Parked::Worker { worker, .. } => {
                self.by_worker.remove(&(worker.clone(), number));
            }
            Parked::Changes(_) => _ = self.watchers.remove(&number),
        }
        Some((waiter, parked, deadline))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_for_two_jobs_ends_with_the_second() {
        let mut lot = Lot::default();
        let (one, two) = (JobId([1; 16]), JobId([2; 16]));
        let parked = Parked::Jobs { ids: vec![two, one], open: [one, two].into() };
        lot.park("w", parked, Ticks(10)).unwrap();
        assert!(lot.job_ended(one).is_empty());
        assert_eq!(lot.job_ended(two), [("w", vec![two, one])]);
        assert_eq!(lot.waiting_count(), 0);
        assert!(lot.expired(Ticks(99)).is_empty());
    }

    #[test]
    fn waits_name_so_many_jobs_together_and_no_more() {
        let mut lot = Lot::default();
        let wait = |count: usize| {
            let ids = vec![JobId([1; 16]); count];
            Parked::Jobs { ids, open: [JobId([1; 16])].into() }
        };
        lot.park("a", wait(PARKED_JOBS_MAX - 1), Ticks(10)).unwrap();
        assert_eq!(lot.park("b", wait(2), Ticks(20)), Err("b"));
        lot.park("c", wait(1), Ticks(20)).unwrap();
        assert_eq!(lot.park("d", wait(1), Ticks(20)), Err("d"));
        assert_eq!(lot.expired(Ticks(10)).len(), 1);
        lot.park("e", wait(2), Ticks(20)).unwrap();
        assert_eq!(lot.job_ended(JobId([1; 16])).len(), 2);
        lot.park("f", wait(PARKED_JOBS_MAX), Ticks(30)).unwrap();
    }

    #[test]
    fn a_wait_ends_at_its_deadline() {
        let mut lot = Lot::default();
        let one = JobId([1; 16]);
        lot.park("w", Parked::Jobs { ids: vec![one], open: [one].into() }, Ticks(10)).unwrap();
        assert!(lot.expired(Ticks(9)).is_empty());
        assert_eq!(lot.expired(Ticks(10)).len(), 1);
        assert!(lot.job_ended(one).is_empty());
    }

    #[test]
    fn heartbeats_leave_confirmed_rounds_in_order_and_the_rest_stays() {
        let beat = |waiter| Read::Heartbeat {
            held: Vec::new(),
            waiter,
            worker: WorkerId::new("w").unwrap(),
            incarnation: Incarnation(1),
            draining: false,
            arrived: Ticks(0),
        };
        let mut rounds: Rounds<u32> = Rounds::default();
        let tokens = [vec![beat(1), Read::Ready], vec![beat(2)], vec![beat(3)]]
            .map(|reads| rounds.open(reads, Ticks(0)));
        // The later one is confirmed first; the last one is not yet.
        assert!(rounds.confirmed(tokens[1], Some(Index(7))).is_empty());
        assert!(rounds.confirmed(tokens[0], Some(Index(9))).is_empty());
        let taken = rounds.take_heartbeats().into_iter().map(|read| match read {
            Read::Heartbeat { waiter, .. } => waiter,
            Read::Client { .. } | Read::Ready => 0,
        });
        assert!(taken.eq([1, 2]));
        assert_eq!(rounds.open_count(), 2);
        assert!(rounds.ready(Index(8)).is_empty());
        assert_eq!(rounds.ready(Index(9)).len(), 1);
    }

    #[test]
    fn an_unconfirmed_round_gives_its_reads_back() {
        let mut rounds: Rounds<u32> = Rounds::default();
        let token = rounds.open(vec![Read::Ready], Ticks(0));
        assert_eq!(rounds.confirmed(token, None).len(), 1);
        let token = rounds.open(vec![Read::Ready], Ticks(0));
        assert!(rounds.confirmed(token, Some(Index(7))).is_empty());
        assert!(rounds.ready(Index(6)).is_empty());
        assert_eq!(rounds.ready(Index(7)).len(), 1);
    }
}

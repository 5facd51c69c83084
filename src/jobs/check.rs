//! Everything counted anew: what the books must say, told from the jobs alone.

use std::sync::Arc;

use imbl::OrdMap;

use crate::jobs::books::Books;
use crate::jobs::crons::{self, Cron, Crons};
use crate::jobs::digest::Digest;
use crate::jobs::forgotten::ForgottenIds;
use crate::jobs::job::Status;
use crate::jobs::machine::Machine;
use crate::jobs::ordered::Ordered;
use crate::jobs::registry::{Registry, Worker, WorkerState};
use crate::jobs::resident;
use crate::jobs::unique::Uniques;

impl Machine {
    /// Counts the digest anew from every record, hashing bodies and outputs again; costs as much as
    /// reading everything there is.
    #[must_use]
    pub fn recount(&self) -> Digest {
        self.rebuilt().digest()
    }

    /// Checks every invariant there is. It costs as much as building the machine again: for tests,
    /// and for doubts.
    ///
    /// # Panics
    /// If one is broken.
    pub fn assert_consistent(&self) {
        let rebuilt = self.rebuilt();
        assert!(rebuilt.jobs == self.jobs, "a body and its kept hash differ");
        assert_eq!(rebuilt.books, self.books, "the books differ from the jobs");
        assert_eq!(rebuilt.registry, self.registry, "the registry differs from its workers");
        assert_eq!(rebuilt.forgotten, self.forgotten, "the ids and their expiries differ");
        assert_eq!(rebuilt.uniques, self.uniques, "the keys differ from those of the jobs");
        assert_eq!(rebuilt.crons, self.crons, "the crons and their sums differ");
        assert_eq!(rebuilt.digest(), self.digest());
        for job in self.jobs.values() {
            assert!(job.sequence < self.next_sequence);
            assert!(job.attempt >= 1 && job.attempts_used() >= 1, "job {}", job.id);
            assert!(job.extra.iter().all(|extra| !extra.is_empty()), "job {}", job.id);
            assert_eq!(job.ending.is_some(), job.status.is_final(), "job {}", job.id);
            assert!(job.run.iter().all(|run| run.chosen.is_possible()), "job {}", job.id);
            assert!(job.ending.iter().all(|ending| ending.order < self.next_ending));
            assert!(self.forgotten.get(job.id).is_none(), "job {} is kept and forgotten", job.id);
            if job.status == Status::Running {
                let run = job.run.as_ref().expect("a job that runs was assigned");
                let worker = self.registry.get(&run.worker).expect("by somebody registered");
                assert_eq!(worker.state, WorkerState::Live);
                assert_eq!(worker.incarnation, run.incarnation);
                assert_eq!(worker.running.get(&run.fence), Some(&job.id));
            }
        }
        for cron in self.crons.after(None) {
            assert!(cron.created <= self.applied && cron.new.fault().is_none());
            assert!(cron.paused_ms.is_none() || cron.next_ms.is_none(), "it is paused and waits");
        }
        for worker in self.registry.iter() {
            assert!(worker.running.len() <= worker.slots as usize);
        }
    }

    /// Builds the machine again from its jobs, workers and ids.
    fn rebuilt(&self) -> Self {
        let mut rebuilt = Self {
            jobs: Ordered::new(),
            books: Books::default(),
            registry: Registry::default(),
            forgotten: ForgottenIds::default(),
            uniques: Uniques::default(),
            crons: Crons::default(),
            ..self.clone()
        };
        for (place, lock) in self.uniques.timed() {
            rebuilt.uniques.lock(place.clone(), *lock);
        }
        for (name, queue) in self.books.queues() {
            if let Some(rules) = &queue.rules {
                rebuilt.books.change_rules(name, |new| *new = **rules);
            }
        }
        for worker in self.registry.iter() {
            rebuilt.registry.put(Worker { running: OrdMap::new(), ..Worker::clone(worker) });
        }
        for job in self.jobs.values() {
            let mut job = resident::Job::clone(job);
            let asked = job.asked().map(|options| &**options);
            job.content = resident::job_content(&job.queue, job.kind, &job.body, asked);
            if let Some(ending) = job.ending.as_mut().map(Arc::make_mut) {
                ending.content = resident::ending_content(&ending.output, ending.error.as_deref());
            }
            rebuilt.insert(job);
        }
        for (id, forgotten) in self.forgotten.iter() {
            rebuilt.forgotten.keep(id, forgotten);
        }
        for cron in self.crons.after(None) {
            let content = crons::content(&cron.new);
            rebuilt.crons.put(Cron { content, ..Cron::clone(cron) });
        }
        rebuilt
    }
}

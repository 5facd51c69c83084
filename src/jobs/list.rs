//! Pages of jobs in order of id, which is the order of the times at which their ids were made.

use crate::jobs::job::{JobView, Status};
use crate::jobs::machine::Machine;
use crate::jobs::resident::Job;
use crate::types::{JobId, QueueName, WorkerId};

/// The bytes of outputs and errors in one page, at most; a page that would have more ends earlier
/// and says that there is more. So a page always fits a frame.
pub const LIST_BYTES_MAX: u64 = 1 << 20;

/// Which jobs to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only in this status.
    pub status: Option<Status>,
    /// Only of this queue.
    pub queue: Option<QueueName>,
    /// Only those that this worker runs or ran last.
    pub worker: Option<WorkerId>,
    /// Only after this id: the last one of the page before.
    pub after: Option<JobId>,
    /// At most so many; 0 asks for none.
    pub limit: usize,
}

impl Filter {
    fn takes(&self, job: &Job) -> bool {
        self.status.is_none_or(|status| job.status == status)
            && self.queue.as_ref().is_none_or(|queue| job.queue == *queue)
            && self.worker.as_ref().is_none_or(|worker| job.worker() == Some(worker))
            && self.after.is_none_or(|after| job.id > after)
    }
}

impl Machine {
    /// Returns a page of jobs without their bodies, and whether there are more after it. Jobs that
    /// run are found through their workers; other filters may look at every job there is, so this
    /// belongs on an image, outside the Raft thread.
    #[must_use]
    pub fn list(&self, filter: &Filter) -> (Vec<JobView>, bool) {
        if let Some(queue) = &filter.queue
            && !self.books.queues().contains_key(queue)
        {
            return (Vec::new(), false);
        }
        match (filter.status, &filter.worker) {
            (Some(Status::Running), Some(worker)) => {
                let running = self.registry.get(worker).map(|it| it.running.clone());
                self.list_ids(filter, running.unwrap_or_default().values().copied().collect())
            }
            (Some(Status::Running), None) => {
                let workers = self.registry.iter();
                let ids = workers.flat_map(|it| it.running.values().copied()).collect();
                self.list_ids(filter, ids)
            }
            (Some(Status::Completed | Status::Cancelled), _)
                if self.books.finished().len() < self.jobs.len() / 8 =>
            {
                self.list_ids(filter, self.books.finished().values().copied().collect())
            }
            (Some(Status::Failed), _) if self.books.dead().len() < self.jobs.len() / 8 => {
                self.list_ids(filter, self.books.dead().values().copied().collect())
            }
            _ => {
                let jobs = match &filter.after {
                    Some(after) => self.jobs.above(after),
                    None => self.jobs.iter(),
                };
                page(filter, jobs.map(|(_, job)| &**job))
            }
        }
    }

    fn list_ids(&self, filter: &Filter, mut ids: Vec<JobId>) -> (Vec<JobView>, bool) {
        ids.sort_unstable();
        page(filter, ids.iter().filter_map(|id| self.jobs.get(id)).map(|job| &**job))
    }
}

fn page<'a>(filter: &Filter, jobs: impl Iterator<Item = &'a Job>) -> (Vec<JobView>, bool) {
    let mut views: Vec<JobView> = Vec::new();
    let mut bytes = 0;
    for job in jobs.filter(|job| filter.takes(job)) {
        bytes += job.told_bytes();
        let over = bytes > LIST_BYTES_MAX && !views.is_empty();
        if views.len() >= filter.limit || over {
            return (views, true);
        }
        views.push(job.view(false));
    }
    (views, false)
}

//! Pages of jobs in order of id, which is the order of the times at which their ids were made.

use crate::jobs::find::Text;
use crate::jobs::job::{JobView, Status};
use crate::jobs::machine::Machine;
use crate::jobs::resident::{Job, Kind};
use crate::types::{JobId, Millis, QueueName, Tag, WorkerId};

/// The bytes of outputs and errors in one page, at most; a page that would have more ends earlier
/// and says that there is more. So a page always fits a frame.
pub const LIST_BYTES_MAX: u64 = 1 << 20;

/// Jobs looked at for one page, at most: a filter that few jobs pass ends its page there, and says that there is more.
pub const LOOKED_MAX: usize = 20_000;

/// Bytes of commands and payloads searched for one page, at most, and one job more; the page ends there likewise.
pub const SEARCHED_BYTES_MAX: usize = 32 << 20;

/// A page of jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The jobs, without their bodies.
    pub jobs: Vec<JobView>,
    /// Where to go on: there may be more after this id. `None`: there is no more.
    pub next: Option<JobId>,
}

/// Which jobs to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only in this status.
    pub status: Option<Status>,
    /// Only of this queue.
    pub queue: Option<QueueName>,
    /// Only those that this worker runs or ran last.
    pub worker: Option<WorkerId>,
    /// Only those that ask for this tag.
    pub tag: Option<Tag>,
    /// Only those with this text in their command or payload.
    pub text: Option<Text>,
    /// Only those submitted then or later.
    pub since: Option<Millis>,
    /// Only those submitted then or earlier.
    pub until: Option<Millis>,
    /// Only after this id: [`Page::next`] of the page before, or the last job seen.
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
            && self.since.is_none_or(|since| job.created_ms >= since)
            && self.until.is_none_or(|until| job.created_ms <= until)
            && self.tag.as_ref().is_none_or(|tag| job.options().tags.as_slice().contains(tag))
    }

    fn finds(&self, job: &Job) -> bool {
        self.text.as_ref().is_none_or(|text| match job.kind {
            Kind::Command => text.is_in_words(&job.body),
            Kind::Payload => text.is_in_payload(&job.body),
        })
    }
}

impl Machine {
    /// Returns jobs without their bodies as [`Machine::page`] does, and whether there are more after the last of
    /// them; it goes on by itself while it finds none, and so may look at every job there is.
    #[must_use]
    pub fn list(&self, filter: &Filter) -> (Vec<JobView>, bool) {
        let mut page = self.page(filter);
        while page.jobs.is_empty() && page.next.is_some() && filter.limit > 0 {
            page = self.page(&Filter { after: page.next, ..filter.clone() });
        }
        (page.jobs, page.next.is_some())
    }

    /// Returns a page of jobs without their bodies. Jobs that run are found through their workers; other
    /// filters look at [`LOOKED_MAX`] jobs or [`SEARCHED_BYTES_MAX`] bytes, so this belongs on an image,
    /// outside the Raft thread.
    #[must_use]
    pub fn page(&self, filter: &Filter) -> Page {
        if let Some(queue) = &filter.queue
            && !self.books.queues().contains_key(queue)
        {
            return Page::default();
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

    fn list_ids(&self, filter: &Filter, mut ids: Vec<JobId>) -> Page {
        ids.retain(|id| filter.after.is_none_or(|after| *id > after));
        ids.sort_unstable();
        page(filter, ids.iter().filter_map(|id| self.jobs.get(id)).map(|job| &**job))
    }
}

fn page<'a>(filter: &Filter, jobs: impl Iterator<Item = &'a Job>) -> Page {
    let mut page = Page::default();
    let (mut bytes, mut looked, mut searched) = (0, 0, 0);
    // Where to go on, should this be the end of the page.
    let mut next = filter.after.or(Some(JobId::default()));
    for job in jobs {
        if looked >= LOOKED_MAX || searched >= SEARCHED_BYTES_MAX {
            page.next = next;
            return page;
        }
        looked += 1;
        let mut takes = filter.takes(job);
        if takes && filter.text.is_some() {
            searched += job.body.len();
            takes = filter.finds(job);
        }
        if takes {
            bytes += job.told_bytes();
            let over = bytes > LIST_BYTES_MAX && !page.jobs.is_empty();
            if page.jobs.len() >= filter.limit || over {
                page.next = next;
                return page;
            }
            page.jobs.push(job.view(false));
        }
        next = Some(job.id);
    }
    page
}

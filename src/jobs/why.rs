//! A job explains itself: what it waits for, who runs it, or how it ended, told from the machine alone.

use crate::jobs::job::Status;
use crate::jobs::lane::{Class, Work};
use crate::jobs::machine::Machine;
use crate::jobs::reason::{Chosen, Explanation, Reason};
use crate::jobs::registry::{Worker, WorkerState};
use crate::jobs::resident::Job;
use crate::types::{JobId, Tag};

/// Leaves of a line looked at to count who stands ahead, at most: the jobs of a hundred thousand and more. Of a longer
/// line "more than" is said.
const AHEAD_LEAVES_MAX: usize = 4096;

impl Machine {
    /// Explains why a job is where it is; `None` if it is not kept. What only the leader knows is not in it: that
    /// a worker was not heard of for a moment, or gives its jobs up. It looks at every worker, and at so many leaves
    /// of one line, so this belongs on an image, outside the Raft thread.
    #[must_use]
    pub fn why(&self, id: JobId) -> Option<Explanation> {
        let job = self.jobs.get(&id)?;
        let reasons = match job.status {
            Status::Pending => self.waits_for(job),
            Status::Running => running(job).into_iter().collect(),
            Status::Completed | Status::Failed | Status::Cancelled => {
                ended(job).into_iter().collect()
            }
        };
        Some(Explanation {
            id,
            queue: job.queue.clone(),
            status: job.status,
            now_ms: self.now,
            index: self.applied,
            reasons,
        })
    }

    /// Tells among whom a worker is chosen now.
    pub(in crate::jobs) fn chosen(&self, worker: &Worker, class: &Class) -> Chosen {
        let free = self.registry.offers().get(&class.work).copied().unwrap_or_default();
        Chosen {
            running: u32::try_from(worker.running.len()).unwrap_or(u32::MAX),
            slots: worker.slots,
            free_workers: u32::try_from(free).unwrap_or(u32::MAX),
        }
    }

    /// Returns all that a pending job waits for, the most decisive first: what no slot that comes free would change
    /// comes before what one would.
    fn waits_for(&self, job: &Job) -> Vec<Reason> {
        let known = self.books.queues().get(&job.queue);
        let rules = known.and_then(|queue| queue.rules.as_deref()).copied().unwrap_or_default();
        let running = known.map_or(0, |queue| queue.counts.running);
        let limit = rules.limit.filter(|limit| running >= u64::from(*limit));
        let rate = rules.wakes_ms().zip(rules.rate);
        let (lack, full) = match self.offer_for(job) {
            Offer::None(reason) => (Some(reason), None),
            Offer::Full(reason) => (None, Some(reason)),
            Offer::Free => (None, None),
        };
        let found = [
            time(job),
            rules.paused_ms.map(|since_ms| Reason::Paused { since_ms }),
            lack,
            limit.map(|limit| Reason::AtLimit { running, limit }),
            rate.map(|(until_ms, rate)| Reason::Rate { until_ms, rate }),
            full,
            self.behind(job),
        ];
        let mut reasons: Vec<Reason> = found.into_iter().flatten().collect();
        if !reasons.iter().any(|it| it.holds() || matches!(it, Reason::Behind { .. })) {
            reasons.push(Reason::Next);
        }
        let expires = job.extra.as_ref().and_then(|extra| extra.expires_ms);
        reasons.extend(expires.map(|until_ms| Reason::Expires { until_ms }));
        reasons
    }

    /// Looks at all live workers for those that could take a job.
    fn offer_for(&self, job: &Job) -> Offer {
        let class = job.class();
        let work = Class::untagged(class.work.clone());
        let all = self.registry.iter().filter(|it| it.state == WorkerState::Live);
        // One that its users have closed is as good as none, but they should know.
        let (live, closed): (Vec<_>, Vec<_>) = all.partition(|it| it.intake.is_open());
        let serving: Vec<&Worker> =
            live.into_iter().map(|worker| &**worker).filter(|it| it.takes(&work)).collect();
        let fitting = serving.iter().filter(|it| it.takes(&class)).count();
        let closed = closed.iter().filter(|it| it.takes(&class)).count() as u64;
        if fitting == 0 && closed > 0 {
            return Offer::None(Reason::Closed { workers: closed });
        }
        if serving.is_empty() {
            let is_payload = matches!(work.work, Work::Payloads(_));
            return Offer::None(Reason::NoWorker { is_payload });
        }
        let fitting: Vec<&&Worker> = serving.iter().filter(|it| it.takes(&class)).collect();
        if fitting.is_empty() {
            let has = |tag: &Tag| serving.iter().any(|it| it.tags.as_slice().contains(tag));
            let missing = class.tags.as_slice().iter().filter(|tag| !has(tag)).cloned().collect();
            let workers = serving.len() as u64;
            return Offer::None(Reason::NoWorkerWithTags { tags: class.tags, missing, workers });
        }
        if fitting.iter().any(|worker| worker.is_free()) {
            return Offer::Free;
        }
        Offer::Full(Reason::Full {
            workers: fitting.len() as u64,
            running: fitting.iter().map(|worker| worker.running.len() as u64).sum(),
            slots: fitting.iter().map(|worker| u64::from(worker.slots)).sum(),
        })
    }

    /// Counts who stands before a job in its line; a job that waits for a time stands in none.
    fn behind(&self, job: &Job) -> Option<Reason> {
        let line = self.books.lines().get(&job.lane())?;
        if job.is_held() {
            return None;
        }
        let (higher, is_all_higher) = line.count_below(&job.first_place(), AHEAD_LEAVES_MAX);
        let (before, is_all) = line.count_below(&job.place(), AHEAD_LEAVES_MAX);
        let ahead = before.saturating_sub(higher);
        let is_more = !is_all || !is_all_higher;
        let priority = job.options().priority;
        (before > 0).then_some(Reason::Behind { priority, ahead, higher, is_more })
    }
}

/// What the workers offer a job.
enum Offer {
    /// Nobody could take it, whatever slots come free.
    None(Reason),
    /// Those who could take it have no free slot.
    Full(Reason),
    /// Somebody could take it now.
    Free,
}

/// Returns the attempt that is over, or the time that the first one waits for.
fn time(job: &Job) -> Option<Reason> {
    let until_ms = job.held_ms();
    match job.extra.as_ref().and_then(|extra| extra.past.back()) {
        Some(past) => Some(Reason::Retry {
            attempt: job.attempt,
            until_ms,
            exit_code: past.exit_code,
            error: past.error.to_string(),
        }),
        None => until_ms.map(|until_ms| Reason::Delayed { until_ms }),
    }
}

fn running(job: &Job) -> Option<Reason> {
    let run = job.run.as_ref()?;
    Some(Reason::Running {
        worker: run.worker.clone(),
        since_ms: run.started_ms,
        fence: run.fence,
        attempt: job.attempt,
        timeout_ms: job.options().timeout_ms,
        chosen: run.chosen,
    })
}

fn ended(job: &Job) -> Option<Reason> {
    let ending = job.ending.as_ref()?;
    // What it ran under last may have been the attempt before: then the last one never began.
    let before = job.extra.as_ref().and_then(|extra| extra.past.back()).map(|past| past.fence);
    let run = job.run.as_ref().filter(|run| Some(run.fence) != before);
    Some(Reason::Ended {
        since_ms: ending.finished_ms,
        attempt: job.attempt,
        worker: run.map(|run| run.worker.clone()),
        exit_code: ending.exit_code,
        error: ending.error.as_deref().map(String::from),
    })
}

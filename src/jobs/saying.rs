//! What the commands of workers' users do, and of jobs that run: open and close a worker, note progress.

use crate::jobs::command::{UpdateOutcome, WorkerOutcome};
use crate::jobs::intake::{Intake, NOTE_BYTES_MAX, PERCENT_MAX, Progress, ProgressReport};
use crate::jobs::job::Status;
use crate::jobs::machine::Machine;
use crate::jobs::registry::{Worker, WorkerState};
use crate::jobs::resident::cut;
use crate::types::WorkerId;

impl Machine {
    /// Decides whether a worker is given new jobs. One that is gone can be kept quiet for its next start, but
    /// there is nothing to drain.
    pub(in crate::jobs) fn change_worker(
        &mut self,
        worker: &WorkerId,
        intake: Intake,
    ) -> WorkerOutcome {
        let Some(worker) = self.registry.get(worker).cloned() else {
            return WorkerOutcome::NotFound;
        };
        if intake == Intake::Drain && worker.state != WorkerState::Live {
            return WorkerOutcome::Gone;
        }
        let running = u32::try_from(worker.running.len()).unwrap_or(u32::MAX);
        if worker.intake != intake {
            self.registry.put(Worker { intake, ..(*worker).clone() });
        }
        WorkerOutcome::Changed { running }
    }

    /// Notes how far a job says that it is, if the attempt that says so is the one that runs. Whatever the
    /// worker sent is brought within bounds.
    pub(in crate::jobs) fn note_progress(&mut self, report: &ProgressReport) -> UpdateOutcome {
        let Some(job) = self.jobs.get(&report.job) else { return UpdateOutcome::NotFound };
        if job.status != Status::Running || job.fence() != Some(report.fence) {
            return UpdateOutcome::StaleFence {
                status: job.status,
                fence: job.fence(),
                worker: job.worker().cloned(),
            };
        }
        let progress = Progress {
            percent: report.percent.min(PERCENT_MAX),
            note: cut(&report.note, NOTE_BYTES_MAX).into(),
            at_ms: self.now,
        };
        self.change(report.job, |job| {
            job.with_extra(|extra| extra.progress = Some(Box::new(progress)));
        });
        UpdateOutcome::Applied
    }
}

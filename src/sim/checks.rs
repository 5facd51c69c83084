//! What must hold at every step of a simulated world, and when it has healed.

use std::collections::{BTreeMap, BTreeSet};

use crate::jobs::command::Limits;
use crate::jobs::list::Filter;
use crate::jobs::machine::Machine;
use crate::replica::core::Replica;
use crate::sim::client::asks_of;
use crate::sim::crons::is_of_cron;
use crate::sim::generate::seen;
use crate::sim::history::check_jobs;
use crate::sim::holders::Holders;
use crate::sim::job_model::{JobModel, Op, Seen};
use crate::sim::linear::STEPS_MAX;
use crate::sim::recorder::Recorder;
use crate::sim::rules::{self, End};
use crate::sim::shadow::Shadow;
use crate::sim::watcher::Told;
use crate::types::{Fence, JobId, NodeId};

/// Who looks at every job at the end of a round.
const AUDITOR: u64 = u64::MAX;

/// Jobs looked at in one go.
const PAGE: usize = 1000;

/// The memory of the checks.
#[derive(Debug, Default)]
pub struct Checks {
    /// What was asked and told since the last round ended.
    recorder: Recorder,
    holders: Holders,
    shadow: Shadow,
    total: RoundReport,
}

/// A promise that was broken; the text says which.
pub type Violation = String;

impl Checks {
    /// Looks at a replica after its turn.
    ///
    /// # Errors
    /// The promise it broke.
    pub fn after_turn<W>(&mut self, node: NodeId, replica: &Replica<W>) -> Result<(), Violation> {
        self.shadow.follow(node, replica)
    }

    /// Returns what the entries changed, for those who watch.
    #[must_use]
    pub fn told(&self) -> &Told {
        self.shadow.told()
    }

    /// Returns what clients and workers write to.
    pub fn outside(&mut self) -> (&mut Recorder, &mut Holders) {
        (&mut self.recorder, &mut self.holders)
    }

    /// Checks the history since the last call and forgets it. The cluster has healed, nobody waits for anything, and
    /// every job has had the time to end; `machine` is what a node that has applied everything has.
    ///
    /// # Errors
    /// A promise that was broken.
    pub fn end_of_round(&mut self, machine: &Machine, now: u64) -> Result<RoundReport, Violation> {
        let jobs = self.recorder.jobs().to_vec();
        let mut end = BTreeMap::new();
        for id in &jobs {
            let seen = machine.view(*id).map(|view| seen(&view));
            let invoked_us = self.recorder.moment(now);
            self.recorder.write(AUDITOR, *id, invoked_us, Some(now), Op::Look { seen });
            end.extend(seen.map(|seen| (*id, seen)));
        }
        self.find_invented(machine, &mut end);
        let round: BTreeSet<JobId> = jobs.into_iter().collect();
        let mut records = self.recorder.clear();
        // Somebody may report on a job of a former round, late; of that one there is no history any more.
        records.retain(|record| round.contains(&record.job));
        let limits = machine.limits();
        let may_forget = limits.finished_count_max < Limits::default().finished_count_max;
        let model = JobModel {
            attempts_max: limits.attempts_max,
            may_forget,
            asks: asks_of,
            ..JobModel::default()
        };
        let checked = check_jobs(&model, &records, STEPS_MAX);
        if let Some(fault) = checked.fault() {
            return Err(fault);
        }
        let whole = End { jobs: &end, may_forget, must_be_over: true, tells_assignments: true };
        rules::check(&records, whole)?;
        if machine.recount() != machine.digest() {
            return Err("the digest is not that of the jobs".into());
        }
        self.holders.forget_below(Fence::new(machine.applied_index(), 0));
        let report = RoundReport {
            histories: checked.jobs,
            operations: checked.operations,
            steps: checked.steps,
        };
        self.total.add(report);
        Ok(report)
    }

    /// Adds the jobs of this round that nobody thought of: those of an id after the first. What crons submit is looked
    /// at entry by entry.
    fn find_invented(&self, machine: &Machine, end: &mut BTreeMap<JobId, Seen>) {
        let mut after = self.recorder.jobs().iter().min().copied();
        while after.is_some() {
            let filter = Filter { after, limit: PAGE, ..Filter::default() };
            let (jobs, more) = machine.list(&filter);
            after = jobs.last().map(|job| job.id).filter(|_| more);
            let asked = jobs.iter().filter(|job| !is_of_cron(&job.queue));
            end.extend(asked.map(|job| (job.id, seen(job))));
        }
    }

    /// Returns what all rounds came to.
    #[must_use]
    pub fn total(&self) -> RoundReport {
        self.total
    }

    /// Returns how many assignments were made and looked at.
    #[must_use]
    pub fn assignments(&self) -> u64 {
        self.shadow.assignments()
    }

    /// Returns how many slots of crons became jobs and were looked at.
    #[must_use]
    pub fn crons_fired(&self) -> u64 {
        self.shadow.crons_fired()
    }

    /// Returns how many assignments workers began.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.holders.begun()
    }
}

/// What the check of a round came to. Nothing in it is illegal or undecided, or there would be no report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoundReport {
    /// Histories of one job each that are linearizable.
    pub histories: u64,
    /// Operations in them.
    pub operations: u64,
    /// Steps that took.
    pub steps: u64,
}

impl RoundReport {
    fn add(&mut self, other: Self) {
        self.histories += other.histories;
        self.operations += other.operations;
        self.steps += other.steps;
    }
}

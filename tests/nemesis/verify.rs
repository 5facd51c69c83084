//! What must hold for the whole of a run, whatever went wrong in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use raftq::jobs::job::Status;
use raftq::sim::history::{Record as Line, check_jobs};
use raftq::sim::job_model::{JobModel, Op, Reported};
use raftq::types::JobId;

use crate::record::Ticket;

/// Steps that the search for an order of one job's operations may take.
const STEPS_MAX: u64 = 5_000_000;

/// Violations of one kind that are told in full.
const TOLD_MAX: usize = 5;

/// The numbers of watchers in the history: one a node, from this on.
pub const LOOKERS: u64 = 2_000;

/// What was found.
#[derive(Debug, Default)]
pub struct Findings {
    /// What broke a promise.
    pub violations: Vec<String>,
    /// What was checked, and how much of it.
    pub checks: Vec<(String, String)>,
}

impl Findings {
    /// Adds a check with what it found.
    pub fn add(&mut self, check: &str, amount: impl ToString, wrong: Vec<String>) {
        let count = wrong.len();
        let verdict =
            if count == 0 { "0 violations".into() } else { format!("**{count} violations**") };
        self.checks.push((check.into(), format!("{}: {verdict}", amount.to_string())));
        self.violations
            .extend(wrong.into_iter().take(TOLD_MAX).map(|one| format!("{check}: {one}")));
        if count > TOLD_MAX {
            self.violations.push(format!("{check}: and {} more", count - TOLD_MAX));
        }
    }

    /// Tells it all on standard output.
    pub fn tell(&self) {
        for (check, amount) in &self.checks {
            println!("nemesis: {check}: {}", amount.replace("**", ""));
        }
        self.violations.iter().for_each(|one| println!("nemesis: VIOLATION: {one}"));
    }
}

/// Checks the history of a whole run. `finals` is what each node showed at the end.
pub fn history(
    findings: &mut Findings,
    lines: &[Line],
    tickets: &BTreeMap<JobId, Ticket>,
    finals: &[BTreeMap<JobId, (Status, u64)>],
) {
    let acknowledged: Vec<&JobId> =
        tickets.iter().filter(|(_, ticket)| ticket.acknowledged).map(|(id, _)| id).collect();
    let count = format!("{} jobs, on {} nodes", acknowledged.len(), finals.len());
    findings.add("no acknowledged job is lost", &count, lost(&acknowledged, finals));
    let listed: BTreeSet<&JobId> = finals.iter().flat_map(BTreeMap::keys).collect();
    let invented = listed.iter().filter(|id| !tickets.contains_key(**id));
    let invented = invented.map(|id| format!("job {id} was never submitted")).collect();
    findings.add("no job is invented", format!("{} jobs", listed.len()), invented);
    let open: Vec<String> = finals
        .iter()
        .flat_map(|jobs| jobs.iter().filter(|(_, (status, _))| !status.is_final()))
        .map(|(id, (status, _))| format!("job {id} is {} at the end", status.as_str()))
        .collect();
    findings.add("every job ends after healing", format!("{} jobs", listed.len()), open);
    linear(findings, lines, tickets);
    fences(findings, lines);
    reports(findings, lines, finals.first());
}

fn lost(acknowledged: &[&JobId], finals: &[BTreeMap<JobId, (Status, u64)>]) -> Vec<String> {
    let missing = |at: usize, jobs: &BTreeMap<JobId, (Status, u64)>| {
        acknowledged
            .iter()
            .filter(|id| !jobs.contains_key(**id))
            .map(|id| format!("job {id} is not on node {}", at + 1))
            .collect::<Vec<_>>()
    };
    finals.iter().enumerate().flat_map(|(at, jobs)| missing(at, jobs)).collect()
}

/// Checks each job's operations for an order that one copy could have seen.
fn linear(findings: &mut Findings, lines: &[Line], tickets: &BTreeMap<JobId, Ticket>) {
    let is_command = |id: &JobId| tickets.get(id).is_some_and(|ticket| ticket.is_command);
    let (commands, payloads): (Vec<Line>, Vec<Line>) =
        lines.iter().cloned().partition(|line| is_command(&line.job));
    // What the built-in workers report is not in the history.
    let model = JobModel::default();
    let mut checked = check_jobs(&model, &payloads, STEPS_MAX);
    checked.add(check_jobs(&JobModel { others_report: true, ..model }, &commands, STEPS_MAX));
    let mut wrong = checked.illegal;
    wrong.extend(checked.undecided.iter().map(|id| format!("job {id} is undecided")));
    let amount = format!(
        "{} operations on {} jobs, {} steps, {} undecided",
        checked.operations,
        checked.jobs,
        checked.steps,
        checked.undecided.len()
    );
    findings.add("linearizable, job by job", amount, wrong);
}

/// Checks that no token was given out twice, and that tokens rise in time.
fn fences(findings: &mut Findings, lines: &[Line]) {
    let told = lines.iter().filter_map(|line| match line.op {
        Op::Assigned { attempt, fence } => Some((fence, (line.job, attempt, line.invoked_us))),
        _ => None,
    });
    let mut owners: BTreeMap<u64, (JobId, u32)> = BTreeMap::new();
    let mut wrong = Vec::new();
    let mut by_time: BTreeMap<u64, u64> = BTreeMap::new();
    let mut of_job: BTreeMap<JobId, BTreeSet<u64>> = BTreeMap::new();
    for (fence, (job, attempt, at_us)) in told {
        let owner = *owners.entry(fence).or_insert((job, attempt));
        if owner != (job, attempt) {
            wrong.push(format!("fence {fence} is of {owner:?} and of {:?}", (job, attempt)));
        }
        let highest = by_time.entry(at_us).or_default();
        *highest = fence.max(*highest);
        of_job.entry(job).or_default().insert(fence);
    }
    let mut highest = 0;
    for fence in by_time.values_mut() {
        highest = highest.max(*fence);
        *fence = highest;
    }
    // Whatever is submitted after a token was told gets a higher one.
    let mut begun: BTreeMap<JobId, u64> = BTreeMap::new();
    for line in lines.iter().filter(|line| matches!(line.op, Op::Submit { .. })) {
        let first = begun.entry(line.job).or_insert(line.invoked_us);
        *first = line.invoked_us.min(*first);
    }
    for (job, at_us) in begun {
        let Some((_, before)) = by_time.range(..at_us).next_back() else { continue };
        let lowest = of_job.get(&job).and_then(|fences| fences.first());
        if let Some(fence) = lowest.filter(|fence| *fence <= before) {
            wrong.push(format!(
                "job {job} has fence {fence}, and {before} was told before it was submitted"
            ));
        }
    }
    findings.add("fences are unique and rise", format!("{} assignments", owners.len()), wrong);
}

/// Checks that no job took two reports, and none under another token than its last.
fn reports(findings: &mut Findings, lines: &[Line], last: Option<&BTreeMap<JobId, (Status, u64)>>) {
    let mut applied: BTreeMap<JobId, BTreeSet<u64>> = BTreeMap::new();
    let mut refused = 0_u64;
    for line in lines {
        match line.op {
            Op::Report { fence, outcome: Some(Reported::Applied), .. } => {
                applied.entry(line.job).or_default().insert(fence);
            }
            Op::Report { outcome: Some(Reported::StaleFence), .. } => refused += 1,
            _ => {}
        }
    }
    let mut wrong = Vec::new();
    for (job, fences) in &applied {
        let shown = last.and_then(|jobs| jobs.get(job)).map(|(_, fence)| *fence);
        if fences.len() > 1 || shown.is_some_and(|shown| !fences.contains(&shown)) {
            wrong.push(format!("job {job} took reports under {fences:?} and shows {shown:?}"));
        }
    }
    let amount = format!("{} accepted, {refused} stale ones refused", applied.len());
    findings.add("no job takes two reports, nor a stale one", amount, wrong);
}

/// Checks what commands have really done: at most once under each token.
pub fn effects(
    findings: &mut Findings,
    file: &Path,
    last: Option<&BTreeMap<JobId, (Status, u64)>>,
    tickets: &BTreeMap<JobId, Ticket>,
) {
    let text = fs::read_to_string(file).unwrap_or_default();
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    let mut done: BTreeSet<(&str, &str)> = BTreeSet::new();
    let mut wrong = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [job, fence, _attempt] = words.as_slice() else {
            wrong.push(format!("a line of another form: {line}"));
            continue;
        };
        if let Some(other) = seen.insert(fence, job) {
            wrong.push(format!("fence {fence} ran twice: job {other} and job {job}"));
        }
        done.insert((job, fence));
    }
    for (id, (status, fence)) in last.into_iter().flatten() {
        let is_command = tickets.get(id).is_some_and(|ticket| ticket.is_command);
        if is_command && *status == Status::Completed {
            let (job, fence) = (id.to_string(), fence.to_string());
            if !done.contains(&(job.as_str(), fence.as_str())) {
                wrong.push(format!("job {job} is completed under {fence}, which never ran"));
            }
        }
    }
    findings.add(
        "commands run at most once under one fence",
        format!("{} runs", seen.len()),
        wrong,
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use raftq::sim::job_model::{Seen, Submitted};

    const JOB: JobId = JobId([1; 16]);
    const OTHER: JobId = JobId([2; 16]);

    /// One operation after the other, a millisecond each.
    fn history_of(ops: impl IntoIterator<Item = (JobId, Op)>) -> Vec<Line> {
        let lines = ops.into_iter().zip(1_u64..).map(|((job, op), at)| Line {
            client: 1,
            job,
            invoked_us: at * 1_000,
            returned_us: Some(at * 1_000 + 500),
            op,
        });
        lines.collect()
    }

    fn submit() -> Op {
        Op::Submit { content: 5, repeated: true, outcome: Some(Submitted::Created) }
    }

    fn assigned(attempt: u32, fence: u64) -> Op {
        Op::Assigned { attempt, fence }
    }

    fn report(fence: u64) -> Op {
        let outcome = Some(Reported::Applied);
        Op::Report { fence, completed: true, result: 9, outcome }
    }

    fn look(status: Status, attempt: u32, fence: u64, result: u64) -> Op {
        Op::Look { seen: Some(Seen { status, attempt, fence, result }) }
    }

    fn found(lines: &[Line], last: &[(JobId, Status, u64)]) -> Vec<String> {
        let ticket = Ticket { acknowledged: true, is_command: false };
        let tickets = lines.iter().map(|line| (line.job, ticket)).collect();
        let shown = last.iter().map(|(job, status, fence)| (*job, (*status, *fence))).collect();
        let mut findings = Findings::default();
        history(&mut findings, lines, &tickets, &[shown]);
        findings.violations
    }

    #[track_caller]
    fn assert_red(lines: &[Line], last: &[(JobId, Status, u64)], check: &str) {
        let violations = found(lines, last);
        assert!(violations.iter().any(|one| one.starts_with(check)), "{check}: {violations:?}");
    }

    #[test]
    fn honest_history_is_green() {
        let ops = [submit(), assigned(1, 7), report(7), look(Status::Completed, 1, 7, 9)];
        let lines = history_of(ops.map(|op| (JOB, op)));
        assert_eq!(found(&lines, &[(JOB, Status::Completed, 7)]), Vec::<String>::new());
    }

    #[test]
    fn job_that_is_gone_or_was_never_there_is_red() {
        let lines = history_of([(JOB, submit())]);
        assert_red(&lines, &[], "no acknowledged job is lost");
        let last = [(JOB, Status::Cancelled, 0), (OTHER, Status::Cancelled, 0)];
        assert_red(&lines, &last, "no job is invented");
        assert_red(&lines, &[(JOB, Status::Pending, 0)], "every job ends");
    }

    #[test]
    fn look_at_the_past_is_red() {
        let ops = [submit(), assigned(1, 7), report(7), look(Status::Running, 1, 7, 0)];
        let lines = history_of(ops.map(|op| (JOB, op)));
        assert_red(&lines, &[(JOB, Status::Completed, 7)], "linearizable");
    }

    #[test]
    fn second_report_and_report_under_an_old_fence_are_red() {
        let check = "no job takes two reports";
        let twice = [submit(), assigned(1, 7), report(7), assigned(2, 8), report(8)];
        let last = [(JOB, Status::Completed, 8)];
        assert_red(&history_of(twice.map(|op| (JOB, op))), &last, check);
        let stale = [submit(), assigned(1, 7), assigned(2, 8), report(7)];
        let lines = history_of(stale.map(|op| (JOB, op)));
        assert_red(&lines, &last, check);
        assert_red(&lines, &last, "linearizable");
    }

    #[test]
    fn fence_of_two_jobs_and_fence_that_falls_are_red() {
        let last = [(JOB, Status::Cancelled, 7), (OTHER, Status::Cancelled, 7)];
        let both = [(JOB, submit()), (OTHER, submit()), (JOB, assigned(1, 7))];
        let lines = history_of(both.into_iter().chain([(OTHER, assigned(1, 7))]));
        assert_red(&lines, &last, "fences are unique");
        let falls = [(JOB, submit()), (JOB, assigned(1, 7)), (OTHER, submit())];
        let lines = history_of(falls.into_iter().chain([(OTHER, assigned(1, 6))]));
        assert_red(&lines, &last, "fences are unique");
    }
}

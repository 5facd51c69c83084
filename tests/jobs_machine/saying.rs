//! What users decide about workers, what running jobs say of themselves, and the exit code that asks for later.

use raftq::jobs::command::{Command, Outcome, Pair, Registration, UpdateOutcome, WorkerOutcome};
use raftq::jobs::intake::{Intake, NOTE_BYTES_MAX, Progress, ProgressReport};
use raftq::jobs::job::{EXIT_TRY_LATER, NewJob, Serves, Status, Verdict};
use raftq::jobs::options::{Options, RETRIES_MAX};
use raftq::jobs::restore::Restore;
use raftq::jobs::scheduler::{Proposed, schedule};
use raftq::types::{Fence, Incarnation, Millis};

use crate::support::{Rig, command, id, registration, update, worker};

fn decide(rig: &mut Rig, name: &str, intake: Intake) -> WorkerOutcome {
    let Outcome::WorkerChanged(outcome) = rig.apply(Command::ChangeWorker(worker(name), intake))
    else {
        panic!("not the outcome of a decision")
    };
    outcome
}

fn say(rig: &mut Rig, number: u64, fence: Fence, percent: u8, note: &str) -> UpdateOutcome {
    let report = ProgressReport { job: id(number), fence, percent, note: note.into() };
    let Outcome::ProgressNoted(outcome) = rig.apply(Command::ReportProgress(report)) else {
        panic!("not the outcome of progress")
    };
    outcome
}

fn scheduled(rig: &Rig) -> Vec<Pair> {
    schedule(&rig.machine, &|_, _| true, &Proposed::default(), 100)
}

fn intake(rig: &Rig, name: &str) -> Intake {
    rig.machine.worker(&worker(name)).unwrap().intake
}

fn progress(rig: &Rig, number: u64) -> Option<Progress> {
    rig.machine.view(id(number)).unwrap().progress
}

fn start(rig: &mut Rig, start: u64, gave_up: Option<u64>) {
    let gave_up = gave_up.map(Incarnation);
    rig.register(Registration { gave_up, ..registration("w", start, 2, Serves::Commands) });
}

#[test]
fn worker_kept_quiet_is_given_nothing_and_keeps_what_it_has() {
    let mut rig = Rig::new();
    rig.register_commands("w", 2);
    rig.submit_commands(1..=2);
    let fence = rig.assign_one(1, "w", 1);
    let pairs = scheduled(&rig);
    assert_eq!(pairs.len(), 1);
    assert_eq!(decide(&mut rig, "w", Intake::Quiet), WorkerOutcome::Changed { running: 1 });
    assert!(scheduled(&rig).is_empty());
    // What the leader had chosen before it knew.
    assert_eq!(rig.assign(pairs), 0);
    assert_eq!(rig.report(update(1, fence, true)), UpdateOutcome::Applied);
    assert_eq!(decide(&mut rig, "w", Intake::Open), WorkerOutcome::Changed { running: 0 });
    assert_eq!(scheduled(&rig).len(), 1);
    rig.assign_one(2, "w", 1);
}

#[test]
fn quiet_stays_over_restarts_and_a_drain_ends_with_its_process() {
    let mut rig = Rig::new();
    start(&mut rig, 1, None);
    decide(&mut rig, "w", Intake::Drain);
    // The same process, which had lost its lease, still drains.
    start(&mut rig, 2, Some(1));
    assert_eq!(intake(&rig, "w"), Intake::Drain);
    start(&mut rig, 3, None);
    assert_eq!(intake(&rig, "w"), Intake::Open);
    decide(&mut rig, "w", Intake::Quiet);
    start(&mut rig, 4, None);
    assert_eq!(intake(&rig, "w"), Intake::Quiet);
}

#[test]
fn worker_that_is_gone_can_be_quiet_but_not_drained() {
    let mut rig = Rig::new();
    assert_eq!(decide(&mut rig, "w", Intake::Quiet), WorkerOutcome::NotFound);
    rig.register_commands("w", 1);
    rig.lose("w", 1);
    assert_eq!(decide(&mut rig, "w", Intake::Drain), WorkerOutcome::Gone);
    assert_eq!(decide(&mut rig, "w", Intake::Quiet), WorkerOutcome::Changed { running: 0 });
    assert_eq!(intake(&rig, "w"), Intake::Quiet);
    assert_eq!(rig.machine.counts().workers_live, 0);
}

#[test]
fn decision_about_a_worker_is_in_the_digest() {
    let mut rig = Rig::new();
    rig.register_commands("w", 1);
    let mut other = Rig::new();
    other.register_commands("w", 1);
    decide(&mut rig, "w", Intake::Quiet);
    decide(&mut other, "w", Intake::Drain);
    assert_ne!(rig.machine.digest(), other.machine.digest());
}

#[test]
fn progress_is_kept_while_the_job_runs_and_after_its_end() {
    let mut rig = Rig::new();
    rig.register_commands("w", 1);
    rig.submit_commands([1]);
    let fence = rig.assign_one(1, "w", 1);
    assert_eq!(progress(&rig, 1), None);
    let before = rig.machine.digest();
    rig.now += 70;
    assert_eq!(say(&mut rig, 1, fence, 40, "two of five"), UpdateOutcome::Applied);
    let told = Progress { percent: 40, note: "two of five".into(), at_ms: Millis(rig.now) };
    assert_eq!(progress(&rig, 1), Some(told.clone()));
    assert_ne!(rig.machine.digest(), before);
    rig.report(update(1, fence, true));
    assert_eq!(progress(&rig, 1), Some(told));
}

#[test]
fn progress_of_an_attempt_that_is_over_is_stale() {
    let mut rig = Rig::new();
    rig.register_commands("w", 1);
    rig.submit_commands([1]);
    assert_eq!(say(&mut rig, 9, Fence(1), 1, ""), UpdateOutcome::NotFound);
    let is_stale = |it| matches!(it, UpdateOutcome::StaleFence { .. });
    assert!(is_stale(say(&mut rig, 1, Fence(0), 1, "")), "it waits");
    let first = rig.assign_one(1, "w", 1);
    say(&mut rig, 1, first, 90, "nearly");
    rig.release("w", 1, &[(1, first)], false);
    assert!(is_stale(say(&mut rig, 1, first, 91, "")), "it was given back");
    let second = rig.assign_one(1, "w", 1);
    assert_eq!(progress(&rig, 1), None, "a new attempt begins at nothing");
    assert!(is_stale(say(&mut rig, 1, first, 92, "")));
    rig.report(update(1, second, true));
    assert!(is_stale(say(&mut rig, 1, second, 100, "")), "it has ended");
    assert_eq!(progress(&rig, 1), None);
}

#[test]
fn progress_out_of_bounds_is_brought_within_them() {
    let mut rig = Rig::new();
    rig.register_commands("w", 1);
    rig.submit_commands([1]);
    let fence = rig.assign_one(1, "w", 1);
    say(&mut rig, 1, fence, 255, &"é".repeat(NOTE_BYTES_MAX));
    let told = progress(&rig, 1).unwrap();
    assert_eq!((told.percent, told.note.len()), (100, NOTE_BYTES_MAX));
}

#[test]
fn progress_with_and_without_a_note_is_in_the_image() {
    for note in ["", "half"] {
        let mut rig = Rig::new();
        rig.register_commands("w", 1);
        rig.submit_commands([1]);
        let fence = rig.assign_one(1, "w", 1);
        say(&mut rig, 1, fence, 40, note);
        decide(&mut rig, "w", Intake::Quiet);
        let mut restore = Restore::new();
        rig.machine.records().for_each(|record| restore.push(&record).unwrap());
        assert!(restore.finish().unwrap() == rig.machine, "{note:?}");
    }
}

fn later(fence: Fence, code: i32) -> Command {
    let mut report = update(1, fence, false);
    report.verdict = Verdict { exit_code: Some(code), ..report.verdict };
    Command::UpdateJobStatus(report)
}

#[test]
fn exit_code_that_asks_for_later_uses_up_no_attempt() {
    let mut rig = Rig::new();
    rig.register_commands("w", 1);
    rig.submit_commands([1]);
    for round in 1..=5 {
        let fence = rig.assign_one(1, "w", round);
        rig.apply(later(fence, EXIT_TRY_LATER));
        let job = rig.machine.job(id(1)).unwrap();
        assert_eq!((job.status, job.attempts_used()), (Status::Pending, 1), "round {round}");
        assert!(job.is_held(), "it waits as any that failed");
        rig.now = job.held_ms().unwrap().0;
        rig.apply(Command::Tick);
        // A repeat of the report changes nothing.
        assert_eq!(
            rig.apply(later(fence, EXIT_TRY_LATER)),
            Outcome::Updated(vec![UpdateOutcome::Applied])
        );
        // Its worker is lost as well now and then: that does use up an attempt, and so three of them.
        rig.register(registration("w", round + 1, 1, Serves::Commands));
    }
    let fence = rig.assign_one(1, "w", 6);
    assert_eq!(rig.machine.job(id(1)).unwrap().attempt, 6);
    rig.apply(later(fence, 74));
    assert_eq!(rig.machine.job(id(1)).unwrap().status, Status::Failed, "another code has failed");
    rig.apply(Command::RetryJob(vec![id(1)]));
    assert_eq!(rig.machine.job(id(1)).unwrap().attempts_used(), 1);
}

#[test]
fn pauses_of_a_job_that_asks_for_later_double_and_their_number_is_bounded() {
    let mut rig = Rig::new();
    rig.register_commands("w", 1);
    let options = Options { backoff_ms: 100, backoff_max_ms: 800, ..Options::default() };
    rig.submit(NewJob { options: Options::shared(options), ..command(1) });
    let mut pauses = Vec::new();
    for _ in 0..RETRIES_MAX {
        let fence = rig.assign_one(1, "w", 1);
        rig.apply(later(fence, EXIT_TRY_LATER));
        let held = rig.machine.job(id(1)).unwrap().held_ms().unwrap().0;
        pauses.push((held - rig.now) / 100);
        rig.now = held;
        rig.apply(Command::Tick);
    }
    let doubled = |pause: u64, least: u64| (least..=least + least / 4).contains(&pause);
    assert!(
        pauses.iter().zip([1, 2, 4, 8, 8, 8]).all(|(it, least)| doubled(*it, least)),
        "{pauses:?}"
    );
    let fence = rig.assign_one(1, "w", 1);
    rig.apply(later(fence, EXIT_TRY_LATER));
    assert_eq!(rig.machine.job(id(1)).unwrap().status, Status::Failed);
}

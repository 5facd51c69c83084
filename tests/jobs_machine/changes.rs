//! What each entry changed, as those who watch are told it.

use raftq::jobs::change::{CHANGE_ERROR_BYTES_MAX, Change, What};
use raftq::jobs::command::{Command, Limits};
use raftq::jobs::job::{NewJob, Status};
use raftq::jobs::options::Options;
use raftq::jobs::rules::QueueChange;
use raftq::types::{Fence, Millis};

use crate::support::{Rig, command, id, queue, update, worker};

fn whats(rig: &Rig) -> Vec<What> {
    rig.changes.iter().map(|change| change.what).collect()
}

fn only(rig: &Rig) -> &Change {
    assert_eq!(rig.changes.len(), 1, "{:?}", rig.changes);
    &rig.changes[0]
}

fn asks(number: u64, options: Options) -> NewJob {
    NewJob { options: Options::shared(options), ..command(number) }
}

#[test]
fn life_of_a_job_is_told_step_by_step() {
    let mut rig = Rig::new();
    rig.register_commands("w", 2);
    assert_eq!(only(&rig).what, What::WorkerRegistered);
    assert_eq!(only(&rig).worker, Some(worker("w")));
    rig.submit(asks(1, Options { priority: 7, ..Options::default() }));
    let submitted = only(&rig).clone();
    assert_eq!((submitted.what, submitted.job), (What::Submitted, Some(id(1))));
    assert_eq!((submitted.priority, submitted.held_ms), (Some(7), None));
    let fence = rig.assign_one(1, "w", 1);
    let assigned = only(&rig).clone();
    assert_eq!((assigned.what, assigned.attempt), (What::Assigned, Some(1)));
    assert_eq!((assigned.worker, assigned.fence), (Some(worker("w")), Some(fence)));
    rig.release("w", 1, &[(1, fence)], false);
    assert_eq!((only(&rig).what, only(&rig).fence), (What::Released, Some(fence)));
    let fence = rig.assign_one(1, "w", 1);
    rig.report(update(1, fence, true));
    let completed = only(&rig);
    assert_eq!((completed.what, completed.exit_code), (What::Completed, Some(0)));
    assert_eq!((completed.fence, completed.error.as_deref()), (Some(fence), None));
    // The same report again changes nothing, and neither does a stale one.
    rig.report(update(1, fence, true));
    assert!(rig.changes.is_empty());
    rig.report(update(1, Fence(1), false));
    assert!(rig.changes.is_empty());
}

#[test]
fn failures_tell_why_and_when_it_goes_on() {
    let mut rig = Rig::new();
    rig.register_commands("w", 1);
    rig.submit(asks(1, Options { retries: 1, ..Options::default() }));
    let fence = rig.assign_one(1, "w", 1);
    let mut report = update(1, fence, false);
    report.verdict.error = Some("e".repeat(CHANGE_ERROR_BYTES_MAX + 1));
    rig.report(report);
    let retrying = only(&rig).clone();
    assert_eq!((retrying.what, retrying.attempt), (What::Retrying, Some(1)));
    assert_eq!((retrying.exit_code, retrying.fence), (Some(1), Some(fence)));
    assert_eq!(retrying.error.unwrap().len(), CHANGE_ERROR_BYTES_MAX);
    let held = rig.machine.view(id(1)).unwrap().held_ms;
    assert!(held.is_some() && retrying.held_ms == held);
    rig.now = held.unwrap().0;
    rig.apply(Command::Tick);
    assert_eq!((only(&rig).what, only(&rig).attempt), (What::Due, Some(2)));
    let fence = rig.assign_one(1, "w", 1);
    rig.report(update(1, fence, false));
    assert_eq!((only(&rig).what, only(&rig).attempt), (What::Failed, Some(2)));
    rig.apply(Command::RetryJob(vec![id(1)]));
    assert_eq!((only(&rig).what, only(&rig).attempt), (What::Revived, Some(3)));
    rig.cancel(1);
    assert_eq!(only(&rig).what, What::Cancelled);
    assert_eq!((&only(&rig).worker, only(&rig).fence), (&None, None), "it did not run");
    rig.apply(Command::PurgeJob(vec![id(1)]));
    assert_eq!((only(&rig).what, only(&rig).job), (What::Forgotten, Some(id(1))));
}

#[test]
fn worker_that_is_lost_is_told_before_its_jobs() {
    let mut rig = Rig::new();
    rig.register_commands("w", 2);
    rig.submit_commands([1, 2]);
    rig.assign_one(1, "w", 1);
    rig.assign_one(2, "w", 1);
    rig.lose("w", 1);
    assert_eq!(whats(&rig), [What::WorkerLost, What::Retrying, What::Retrying]);
    assert!(rig.changes[1].error.as_ref().unwrap().contains("was lost"));
    assert_eq!(rig.changes[1].held_ms, None);
    rig.register_commands("v", 1);
    rig.release("v", 1, &[], true);
    assert_eq!(whats(&rig), [What::WorkerLeft]);
}

#[test]
fn rules_and_what_limits_forget_are_told() {
    let mut rig = Rig::with_limits(Limits { finished_count_max: 0, ..Limits::default() });
    let change = QueueChange::Limit(Some(3));
    rig.apply(Command::ChangeQueue(queue("mail"), change));
    assert_eq!(only(&rig).rule, Some(change));
    assert_eq!(only(&rig).queue, Some(queue("mail")));
    rig.apply(Command::ChangeQueue(queue("mail"), QueueChange::Limit(Some(0))));
    assert!(rig.changes.is_empty(), "refused");
    rig.submit(asks(1, Options { at_ms: Some(Millis(9_000)), ..Options::default() }));
    assert_eq!(only(&rig).held_ms, Some(Millis(9_000)));
    rig.cancel(1);
    assert_eq!(whats(&rig), [What::Cancelled, What::Forgotten]);
    rig.submit(asks(2, Options { ttl_ms: Some(5), ..Options::default() }));
    rig.now += 10;
    rig.apply(Command::Tick);
    assert_eq!(only(&rig).what, What::Failed);
    assert_eq!(rig.machine.job(id(2)).unwrap().status, Status::Failed);
}

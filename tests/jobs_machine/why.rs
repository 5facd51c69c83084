//! A job explains itself: each reason by example.

use raftq::jobs::command::{Command, Registration, SubmitOutcome};
use raftq::jobs::intake::Intake;
use raftq::jobs::job::{NewJob, Serves, Status};
use raftq::jobs::options::{Options, Tags};
use raftq::jobs::reason::{Chosen, Explanation, Reason};
use raftq::jobs::rules::{QueueChange, Rate};
use raftq::types::{Millis, Tag};

use crate::support::{Rig, command, id, payload, queue, registration, update, worker};

fn asks(number: u64, options: Options) -> NewJob {
    NewJob { options: Options::shared(options), ..command(number) }
}

fn tags(names: &[&str]) -> Tags {
    Tags::new(names.iter().map(|name| Tag::new(name).unwrap()))
}

fn why(rig: &Rig, number: u64) -> Explanation {
    let explanation = rig.machine.why(id(number)).unwrap();
    assert_eq!(explanation.index, rig.machine.applied_index());
    assert_eq!(explanation.now_ms, rig.machine.now());
    explanation
}

fn reasons(rig: &Rig, number: u64) -> Vec<Reason> {
    why(rig, number).reasons
}

fn change(rig: &mut Rig, change: QueueChange) {
    rig.apply(Command::ChangeQueue(queue("default"), change));
}

#[test]
fn job_that_nothing_holds_up_is_next() {
    let mut rig = Rig::new();
    rig.register_commands("w", 1);
    rig.submit_commands([1]);
    assert_eq!(reasons(&rig, 1), [Reason::Next]);
    assert_eq!(rig.machine.why(id(2)), None);
}

#[test]
fn all_that_holds_a_job_up_is_told_the_most_decisive_first() {
    let mut rig = Rig::new();
    rig.register_commands("w", 2);
    change(&mut rig, QueueChange::Limit(Some(1)));
    rig.submit_commands([1]);
    rig.assign_one(1, "w", 1);
    rig.now = 2_000;
    let options = Options {
        delay_ms: Some(500),
        ttl_ms: Some(9_000),
        tags: tags(&["gpu"]),
        ..Options::default()
    };
    rig.submit(asks(2, options));
    change(&mut rig, QueueChange::Pause);
    let missing = vec![Tag::new("gpu").unwrap()];
    assert_eq!(
        reasons(&rig, 2),
        [
            Reason::Delayed { until_ms: Millis(2_500) },
            Reason::Paused { since_ms: Millis(2_000) },
            Reason::NoWorkerWithTags { tags: tags(&["gpu"]), missing, workers: 1 },
            Reason::AtLimit { running: 1, limit: 1 },
            Reason::Expires { until_ms: Millis(11_000) },
        ]
    );
    // Each one goes by itself.
    rig.now = 2_500;
    change(&mut rig, QueueChange::Resume);
    let names = |rig: &Rig| -> Vec<String> {
        reasons(rig, 2).iter().map(|reason| reason.name().to_owned()).collect()
    };
    assert_eq!(names(&rig), ["no_worker_with_tags", "queue_at_limit", "expires"]);
    rig.register(Registration {
        tags: tags(&["gpu"]),
        ..registration("g", 1, 1, Serves::Commands)
    });
    assert_eq!(names(&rig), ["queue_at_limit", "expires"]);
    change(&mut rig, QueueChange::Limit(None));
    assert_eq!(names(&rig), ["next", "expires"]);
}

#[test]
fn workers_that_do_other_work_or_are_gone_do_not_count() {
    let mut rig = Rig::new();
    rig.submit_commands([1]);
    rig.submit(payload(2, "mail", b"x"));
    assert_eq!(reasons(&rig, 1), [Reason::NoWorker { is_payload: false }]);
    rig.register_commands("w", 1);
    rig.register(registration("m", 1, 1, Serves::Payloads(vec![queue("other")])));
    assert_eq!(reasons(&rig, 2), [Reason::NoWorker { is_payload: true }]);
    rig.register(registration("n", 1, 1, Serves::Payloads(vec![queue("mail")])));
    assert_eq!(reasons(&rig, 2), [Reason::Next]);
    for intake in [Intake::Quiet, Intake::Drain] {
        rig.apply(Command::ChangeWorker(worker("n"), intake));
        assert_eq!(reasons(&rig, 2), [Reason::Closed { workers: 1 }]);
    }
    rig.apply(Command::ChangeWorker(worker("n"), Intake::Open));
    assert_eq!(reasons(&rig, 2), [Reason::Next]);
    rig.lose("n", 1);
    assert_eq!(reasons(&rig, 2), [Reason::NoWorker { is_payload: true }]);
}

#[test]
fn tags_that_nobody_has_are_named_and_those_that_nobody_has_together() {
    let mut rig = Rig::new();
    let serves = || registration("a", 1, 1, Serves::Commands);
    rig.register(Registration { tags: tags(&["gpu"]), ..serves() });
    rig.register(Registration { tags: tags(&["zone=a"]), worker: worker("b"), ..serves() });
    let wants = |names: &[&str]| Options { tags: tags(names), ..Options::default() };
    rig.submit(asks(1, wants(&["gpu", "ssd", "zone=a"])));
    rig.submit(asks(2, wants(&["gpu", "zone=a"])));
    let lacks = |number: u64| {
        let first = reasons(&rig, number).remove(0);
        let Reason::NoWorkerWithTags { missing, workers, .. } = first else { panic!("{first:?}") };
        (tags_in_words(&missing), workers)
    };
    assert_eq!(lacks(1), ("ssd".into(), 2));
    assert_eq!(lacks(2), (String::new(), 2));
}

fn tags_in_words(tags: &[Tag]) -> String {
    tags.iter().map(Tag::as_str).collect::<Vec<_>>().join(" ")
}

#[test]
fn full_workers_and_those_ahead_are_counted() {
    let mut rig = Rig::new();
    rig.register_commands("a", 1);
    rig.register_commands("b", 2);
    // Full, and none of its business: it serves payloads.
    rig.register(registration("m", 1, 1, Serves::Payloads(vec![queue("default")])));
    rig.submit_commands(1..=3);
    rig.assign_one(1, "a", 1);
    rig.assign_one(2, "b", 1);
    assert_eq!(reasons(&rig, 3), [Reason::Next], "b has a slot");
    rig.assign_one(3, "b", 1);
    rig.submit_commands(4..=6);
    rig.submit(asks(7, Options { priority: 9, ..Options::default() }));
    rig.submit(asks(8, Options { priority: 0, ..Options::default() }));
    rig.submit(NewJob { queue: queue("other"), ..command(9) });
    let full = Reason::Full { workers: 2, running: 3, slots: 3 };
    let behind =
        |priority, ahead, higher| Reason::Behind { priority, ahead, higher, is_more: false };
    assert_eq!(reasons(&rig, 6), [full.clone(), behind(5, 2, 1)]);
    assert_eq!(reasons(&rig, 8), [full.clone(), behind(0, 0, 4)]);
    // Nobody is ahead of the one, and the other stands in another line.
    for number in [7, 9] {
        assert_eq!(reasons(&rig, number), std::slice::from_ref(&full));
    }
}

#[test]
fn rate_names_the_next_start() {
    let mut rig = Rig::new();
    rig.register_commands("w", 9);
    let rate = Rate { count: 1, per_ms: 400 };
    change(&mut rig, QueueChange::Rate(Some(rate)));
    rig.submit_commands([1, 2]);
    rig.assign_one(1, "w", 1);
    // What was not begun for a moment is made up for, so the next start is a little earlier.
    let told = reasons(&rig, 2);
    let [Reason::Rate { until_ms, rate: told }] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(*told, rate);
    assert!((1_390..=1_400).contains(&until_ms.0), "{until_ms}");
    rig.now = until_ms.0;
    rig.apply(Command::Tick);
    assert_eq!(reasons(&rig, 2), [Reason::Next]);
}

#[test]
fn attempt_that_failed_is_told_with_the_next_one() {
    let mut rig = Rig::new();
    rig.register_commands("w", 1);
    rig.submit(asks(1, Options { retries: 1, backoff_ms: 8_000, ..Options::default() }));
    let fence = rig.assign_one(1, "w", 1);
    rig.report(update(1, fence, false));
    let held = rig.machine.job(id(1)).unwrap().held_ms();
    let retry = |until_ms| Reason::Retry {
        attempt: 2,
        until_ms,
        exit_code: Some(1),
        error: "exit code 1".into(),
    };
    assert_eq!(reasons(&rig, 1), [retry(held)]);
    rig.now = held.unwrap().0;
    rig.apply(Command::Tick);
    assert_eq!(reasons(&rig, 1), [retry(None), Reason::Next]);
}

#[test]
fn job_that_runs_tells_among_whom_its_worker_was_chosen() {
    let mut rig = Rig::new();
    rig.register_commands("a", 4);
    rig.register_commands("b", 4);
    rig.register(registration("m", 1, 1, Serves::Payloads(vec![queue("default")])));
    rig.submit_commands([1]);
    rig.submit(asks(2, Options { timeout_ms: Some(7_000), ..Options::default() }));
    rig.assign_one(1, "a", 1);
    rig.now = 3_000;
    let fence = rig.assign_one(2, "a", 1);
    let running = Reason::Running {
        worker: worker("a"),
        since_ms: Millis(3_000),
        fence,
        attempt: 1,
        timeout_ms: Some(7_000),
        chosen: Chosen { running: 1, slots: 4, free_workers: 2 },
    };
    assert_eq!(reasons(&rig, 2), [running]);
    assert_eq!(why(&rig, 2).status, Status::Running);
    // The image keeps it: the digest would not be the same otherwise.
    let job = rig.machine.job(id(2)).unwrap();
    assert_eq!(job.run.as_ref().unwrap().chosen.running, 1);
}

#[test]
fn job_that_ended_tells_how() {
    let mut rig = Rig::new();
    rig.register_commands("w", 1);
    rig.submit_commands([1, 2]);
    let fence = rig.assign_one(1, "w", 1);
    rig.now = 4_000;
    rig.report(update(1, fence, false));
    let ended = |attempt, worker, exit_code, error: &str| Reason::Ended {
        since_ms: Millis(4_000),
        attempt,
        worker,
        exit_code,
        error: Some(error.into()),
    };
    assert_eq!(reasons(&rig, 1), [ended(1, Some(worker("w")), Some(1), "exit code 1")]);
    rig.cancel(2);
    assert_eq!(reasons(&rig, 2), [ended(1, None, None, "cancelled while it waited")]);
    // A second attempt that never begins is not the worker's of the first.
    rig.apply(Command::RetryJob(vec![id(1)]));
    rig.cancel(1);
    assert_eq!(reasons(&rig, 1), [ended(2, None, None, "cancelled while it waited")]);
    let sentence = why(&rig, 1).sentence(&reasons(&rig, 1)[0]);
    assert_eq!(
        sentence,
        "It was cancelled 0ms ago, before attempt 2 began: cancelled while it waited."
    );
}

#[test]
fn line_of_many_jobs_is_counted_exactly_as_far_as_it_is_counted() {
    // Without `assert_consistent` after each entry: it would count everything anew.
    let mut rig = Rig::new();
    for first in (0..20_000).step_by(100) {
        let jobs = (first..first + 100).map(command).collect();
        let stamped =
            raftq::jobs::command::Stamped { now: Millis(1_000), command: Command::SubmitJob(jobs) };
        rig.machine.apply(rig.machine.applied_index().next(), &stamped);
    }
    assert_eq!(rig.submit(command(30_000)), SubmitOutcome::Created);
    let behind = Reason::Behind { priority: 5, ahead: 20_000, higher: 0, is_more: false };
    assert_eq!(reasons(&rig, 30_000)[1], behind);
}

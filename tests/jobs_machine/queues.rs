//! The rules of queues, by example: pause, drain, limit, rate.

use raftq::jobs::command::{Command, Outcome, QueueOutcome, SubmitOutcome};
use raftq::jobs::job::Serves;
use raftq::jobs::queue::RULED_QUEUES_MAX;
use raftq::jobs::rules::{QueueChange, Rate};
use raftq::jobs::scheduler::{Proposed, schedule};
use raftq::types::{JobId, Millis};

use crate::support::{Rig, command, id, pair, payload, queue, registration, update};

/// A rig with a worker of commands and one of the payloads of `mail` and `post`, nine slots each.
fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.register_commands("w", 9);
    rig.register(registration("m", 1, 9, Serves::Payloads(vec![queue("mail"), queue("post")])));
    rig
}

fn change(rig: &mut Rig, name: &str, change: QueueChange) -> QueueOutcome {
    let Outcome::QueueChanged(outcome) = rig.apply(Command::ChangeQueue(queue(name), change))
    else {
        panic!("not the outcome of a change")
    };
    outcome
}

fn scheduled(rig: &Rig, proposed: &Proposed) -> Vec<JobId> {
    let pairs = schedule(&rig.machine, &|_, _| true, proposed, 100);
    pairs.into_iter().map(|pair| pair.job).collect()
}

fn mail(rig: &mut Rig, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        assert_eq!(rig.submit(payload(number, "mail", b"x")), SubmitOutcome::Created);
    }
}

#[test]
fn paused_queue_gives_out_nothing_and_takes_everything() {
    let mut rig = rig();
    mail(&mut rig, 1..=2);
    rig.submit(command(3));
    let outcome = change(&mut rig, "mail", QueueChange::Pause);
    assert_eq!(outcome, QueueOutcome::Changed { pending: 2, running: 0 });
    mail(&mut rig, 4..=4);
    assert_eq!(scheduled(&rig, &Proposed::default()), [id(3)], "others go on");
    assert_eq!(rig.assign(vec![pair(1, "m", 1)]), 0, "chosen before the pause");
    let since = rig.machine.rules(&queue("mail")).unwrap().paused_ms;
    rig.now += 5;
    change(&mut rig, "mail", QueueChange::Pause);
    assert_eq!(rig.machine.rules(&queue("mail")).unwrap().paused_ms, since, "the first one counts");
    change(&mut rig, "mail", QueueChange::Resume);
    assert_eq!(scheduled(&rig, &Proposed::default()), [1, 2, 3, 4].map(id));
    assert!(rig.machine.rules(&queue("mail")).is_none());
}

#[test]
fn draining_queue_refuses_new_jobs_and_does_the_others() {
    let mut rig = rig();
    mail(&mut rig, 1..=1);
    change(&mut rig, "mail", QueueChange::Drain);
    assert_eq!(rig.submit(payload(2, "mail", b"x")), SubmitOutcome::Draining);
    assert_eq!(rig.submit(payload(1, "mail", b"x")), SubmitOutcome::Known);
    assert_eq!(scheduled(&rig, &Proposed::default()), [id(1)]);
    change(&mut rig, "mail", QueueChange::Resume);
    assert_eq!(rig.submit(payload(2, "mail", b"x")), SubmitOutcome::Created);
}

#[test]
fn limit_holds_for_all_that_runs_and_is_proposed() {
    let mut rig = rig();
    mail(&mut rig, 1..=5);
    change(&mut rig, "mail", QueueChange::Limit(Some(2)));
    let mut proposed = Proposed::default();
    assert_eq!(scheduled(&rig, &proposed), [1, 2].map(id));
    let first = schedule(&rig.machine, &|_, _| true, &proposed, 1);
    proposed.add(&first, &rig.machine);
    assert_eq!(scheduled(&rig, &proposed), [id(2)]);
    proposed.remove(&first);
    assert!(proposed.is_empty());
    assert_eq!(rig.assign((1..=5).map(|number| pair(number, "m", 1)).collect()), 2);
    assert!(scheduled(&rig, &Proposed::default()).is_empty());
    let fence = rig.machine.job(id(1)).unwrap().fence().unwrap();
    rig.report(update(1, fence, true));
    assert_eq!(scheduled(&rig, &Proposed::default()), [id(3)]);
    change(&mut rig, "mail", QueueChange::Limit(Some(4)));
    assert_eq!(scheduled(&rig, &Proposed::default()), [3, 4, 5].map(id));
    change(&mut rig, "mail", QueueChange::Limit(Some(1)));
    assert!(scheduled(&rig, &Proposed::default()).is_empty());
    change(&mut rig, "mail", QueueChange::Limit(None));
    assert_eq!(scheduled(&rig, &Proposed::default()), [3, 4, 5].map(id));
}

#[test]
fn rate_lets_jobs_begin_evenly() {
    let mut rig = rig();
    mail(&mut rig, 1..=5);
    change(&mut rig, "mail", QueueChange::Rate(Some(Rate { count: 2, per_ms: 1_000 })));
    let mut begun = Vec::new();
    let start = rig.now;
    while begun.len() < 5 {
        let pairs = schedule(&rig.machine, &|_, _| true, &Proposed::default(), 100);
        let count = rig.assign(pairs.clone());
        assert_eq!(count, pairs.len());
        begun.extend(std::iter::repeat_n(rig.now - start, count));
        if let Some(at) = rig.machine.next_wake_ms() {
            rig.now = at.0;
            rig.apply(Command::Tick);
        }
    }
    let steps: Vec<u64> = begun.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(steps.iter().all(|step| (490..=500).contains(step)), "{begun:?}");
}

#[test]
fn queues_with_rules_stay_known_without_jobs_and_are_gone_with_the_last_rule() {
    let mut rig = Rig::new();
    change(&mut rig, "empty", QueueChange::Limit(Some(3)));
    let names = |rig: &Rig| rig.machine.queues().map(|(name, _)| name.to_string()).collect();
    let known: Vec<String> = names(&rig);
    assert_eq!(known, ["empty"]);
    assert!(rig.machine.resident_bytes() > 0);
    change(&mut rig, "empty", QueueChange::Limit(None));
    let known: Vec<String> = names(&rig);
    assert!(known.is_empty() && rig.machine.resident_bytes() == 0);
}

#[test]
fn change_out_of_bounds_is_refused_in_words_and_so_is_one_queue_too_many() {
    let mut rig = Rig::new();
    let outcome = change(&mut rig, "q", QueueChange::Limit(Some(0)));
    assert!(matches!(outcome, QueueOutcome::Invalid(why) if why.contains("pause")));
    let never = Rate { count: 1, per_ms: 0 };
    let outcome = change(&mut rig, "q", QueueChange::Rate(Some(never)));
    assert!(matches!(outcome, QueueOutcome::Invalid(_)));
    let machine = &mut rig.machine;
    for number in 0..=RULED_QUEUES_MAX {
        let command = Command::ChangeQueue(queue(&format!("q{number}")), QueueChange::Pause);
        let stamped = raftq::jobs::command::Stamped { now: Millis(1), command };
        let outcome = machine.apply(machine.applied_index().next(), &stamped).outcome;
        let is_taken = matches!(outcome, Outcome::QueueChanged(QueueOutcome::Changed { .. }));
        assert_eq!(is_taken, number < RULED_QUEUES_MAX);
    }
}

//! Register, release, lost: each with its noes.

use raftq::jobs::command::{Event, Limits, RegisterOutcome, Registration};
use raftq::jobs::job::{Serves, Status, WORKER_QUEUES_MAX, WORKER_SLOTS_MAX};
use raftq::jobs::registry::WorkerState;
use raftq::types::{Fence, Incarnation, Millis};

use crate::support::{Rig, id, pair, queue, registration, update, worker};

fn commands(name: &str, start: u64) -> Registration {
    registration(name, start, 2, Serves::Commands)
}

fn state(rig: &Rig, name: &str) -> WorkerState {
    rig.machine.worker(&worker(name)).unwrap().state
}

#[test]
fn register_new_worker_is_recorded() {
    let mut rig = Rig::new();
    assert_eq!(rig.register(commands("w", 1)), RegisterOutcome::Registered);
    let it = rig.machine.worker(&worker("w")).unwrap();
    assert_eq!((it.slots, it.incarnation, it.state), (2, Incarnation(1), WorkerState::Live));
    assert_eq!((it.registered_ms, it.last_assigned), (Millis(1_000), Fence(0)));
    assert_eq!((rig.machine.counts().workers_live, rig.machine.counts().slots_live), (1, 2));
}

#[test]
fn register_same_start_again_changes_nothing() {
    let mut rig = Rig::new();
    rig.submit_commands([1]);
    rig.register(commands("w", 1));
    rig.assign_one(1, "w", 1);
    let before = rig.machine.worker(&worker("w")).cloned();
    rig.now = 2_000;
    let again = registration("w", 1, 4, Serves::Payloads(vec![queue("q")]));
    assert_eq!(rig.register(again), RegisterOutcome::Registered);
    assert_eq!(rig.machine.worker(&worker("w")).cloned(), before);
    assert!(rig.events.is_empty());
}

#[test]
fn register_new_start_makes_held_jobs_pending_with_the_next_attempt() {
    let mut rig = Rig::new();
    rig.submit_commands([1, 2]);
    rig.register(commands("w", 1));
    let fence = rig.assign_one(1, "w", 1);
    assert_eq!(rig.register(commands("w", 2)), RegisterOutcome::Registered);
    let withdrawn =
        Event::Withdrawn { worker: worker("w"), incarnation: Incarnation(1), job: id(1), fence };
    assert_eq!(rig.events, [withdrawn]);
    let job = rig.machine.job(id(1)).unwrap();
    assert_eq!((job.status, job.attempt), (Status::Pending, 2));
    assert_eq!(rig.waiting(), [id(1), id(2)], "it keeps its place");
    let new = rig.assign_one(1, "w", 2);
    assert!(new > fence);
}

#[test]
fn register_new_start_that_gave_up_burns_no_attempt() {
    let mut rig = Rig::new();
    rig.submit_commands([1]);
    rig.register(commands("w", 1));
    rig.assign_one(1, "w", 1);
    rig.register(Registration { gave_up: Some(Incarnation(1)), ..commands("w", 2) });
    let job = rig.machine.job(id(1)).unwrap();
    assert_eq!((job.status, job.attempt), (Status::Pending, 1));
}

/// A process stood still, and another one took its name and died with its job; the first one wakes up, and can
/// only speak of what it held itself.
#[test]
fn register_new_start_that_gave_up_another_than_the_last_burns_an_attempt() {
    let mut rig = Rig::new();
    rig.submit_commands([1]);
    rig.register(commands("w", 1));
    rig.register(commands("w", 2));
    rig.assign_one(1, "w", 2);
    rig.register(Registration { gave_up: Some(Incarnation(1)), ..commands("w", 3) });
    let job = rig.machine.job(id(1)).unwrap();
    assert_eq!((job.status, job.attempt), (Status::Pending, 2));
}

#[test]
fn register_new_start_when_attempts_are_used_up_fails_the_job() {
    let mut rig = Rig::with_limits(Limits { attempts_max: 2, ..Limits::default() });
    rig.submit_commands([1]);
    rig.register(commands("node-3", 1));
    rig.assign_one(1, "node-3", 1);
    rig.register(commands("node-3", 2));
    rig.assign_one(1, "node-3", 2);
    rig.register(commands("node-3", 3));
    let view = rig.machine.view(id(1)).unwrap();
    assert_eq!(view.status, Status::Failed);
    assert_eq!(view.error.unwrap(), "worker node-3 was restarted; 2 of 2 attempts used");
    assert_eq!(rig.events.len(), 2);
    assert_eq!(rig.events[1], Event::Ended { job: id(1), status: Status::Failed });
}

#[test]
fn register_start_judged_lost_or_superseded_is_refused() {
    let mut rig = Rig::new();
    rig.register(commands("w", 1));
    rig.register(commands("w", 2));
    assert_eq!(rig.register(commands("w", 1)), RegisterOutcome::Superseded);
    rig.lose("w", 2);
    assert_eq!(rig.register(commands("w", 2)), RegisterOutcome::Superseded);
    assert_eq!(state(&rig, "w"), WorkerState::Lost);
    assert_eq!(rig.register(commands("w", 3)), RegisterOutcome::Registered);
    assert_eq!(rig.register(commands("w", 2)), RegisterOutcome::Superseded);
    rig.release("w", 3, &[], true);
    assert_eq!(rig.register(commands("w", 3)), RegisterOutcome::Superseded);
    assert_eq!(state(&rig, "w"), WorkerState::Left);
}

/// A process registers and dies, and the frame is still on its way when the next one has registered and works.
#[test]
fn register_of_a_start_that_died_before_it_was_heard_ends_nothing() {
    let mut rig = Rig::new();
    rig.submit_commands([1]);
    rig.register(commands("w", 2));
    let fence = rig.assign_one(1, "w", 2);
    let before = rig.machine.worker(&worker("w")).cloned();
    assert_eq!(rig.register(commands("w", 1)), RegisterOutcome::Superseded);
    assert_eq!(rig.machine.worker(&worker("w")).cloned(), before);
    assert!(rig.events.is_empty(), "the live start keeps its job");
    assert_eq!(rig.machine.job(id(1)).unwrap().fence(), Some(fence));
    assert_eq!(rig.register(commands("w", 2)), RegisterOutcome::Registered);
}

/// However high the number that somebody sends first, the next process of that name registers as another start.
#[test]
fn register_of_the_highest_number_is_followed_by_others() {
    let mut rig = Rig::new();
    let highest = Incarnation::first(Millis(u64::MAX), u64::MAX);
    for above in [Incarnation(highest.0 + 1), Incarnation::MAX, Incarnation(u64::MAX)] {
        assert_eq!(rig.register(commands("w", above.0)), RegisterOutcome::Invalid);
    }
    let mut standing = highest;
    assert_eq!(rig.register(commands("w", standing.0)), RegisterOutcome::Registered);
    for lost in [false, true] {
        if lost {
            rig.lose("w", standing.0);
        }
        let next = Incarnation(7).next(Some(standing), u64::MAX);
        assert!(next > standing);
        assert_eq!(rig.register(commands("w", next.0)), RegisterOutcome::Registered);
        assert_eq!(rig.register(commands("w", Incarnation::MAX.0)), RegisterOutcome::Invalid);
        standing = next;
    }
}

#[test]
fn register_out_of_bounds_is_invalid() {
    let mut rig = Rig::new();
    let above = Incarnation::MAX.0 + 1;
    assert_eq!(rig.register(commands("w", above)), RegisterOutcome::Invalid);
    let mut refused = |slots, serves| {
        let outcome = rig.register(registration("w", 1, slots, serves));
        assert_eq!(outcome, RegisterOutcome::Invalid);
        assert!(rig.machine.worker(&worker("w")).is_none());
    };
    refused(0, Serves::Commands);
    refused(WORKER_SLOTS_MAX + 1, Serves::Commands);
    refused(1, Serves::Payloads(vec![]));
    refused(1, Serves::Payloads(vec![queue("q"), queue("p"), queue("q")]));
    let many = (0..=WORKER_QUEUES_MAX).map(|number| queue(&format!("q{number}"))).collect();
    refused(1, Serves::Payloads(many));
}

#[test]
fn register_beyond_the_registry_drops_the_longest_gone_only() {
    let mut rig = Rig::with_limits(Limits { workers_max: 2, ..Limits::default() });
    rig.register(commands("a", 1));
    rig.register(commands("b", 1));
    assert_eq!(rig.register(commands("c", 1)), RegisterOutcome::Exhausted);
    assert_eq!(rig.register(commands("a", 2)), RegisterOutcome::Registered, "a known one may");
    rig.lose("b", 1);
    rig.now += 1;
    rig.release("a", 2, &[], true);
    assert_eq!(rig.register(commands("c", 1)), RegisterOutcome::Registered);
    assert!(rig.machine.worker(&worker("b")).is_none());
    assert_eq!(state(&rig, "a"), WorkerState::Left);
}

#[test]
fn lose_live_start_returns_its_jobs_in_their_places() {
    let mut rig = Rig::new();
    rig.submit_commands([1, 2, 3]);
    rig.register(commands("w", 1));
    rig.assign(vec![pair(3, "w", 1), pair(1, "w", 1)]);
    assert_eq!(rig.lose("w", 1), 1);
    assert_eq!(rig.waiting(), [id(1), id(2), id(3)]);
    assert_eq!(rig.machine.job(id(3)).unwrap().attempt, 2);
    assert_eq!(rig.machine.job(id(2)).unwrap().attempt, 1);
    assert_eq!(rig.events.len(), 2);
    assert!(rig.machine.assignments(&worker("w"), Incarnation(1), Fence(0), 9).is_empty());
}

#[test]
fn lose_other_start_or_gone_worker_changes_nothing() {
    let mut rig = Rig::new();
    rig.submit_commands([1]);
    rig.register(commands("w", 2));
    rig.assign_one(1, "w", 2);
    assert_eq!((rig.lose("w", 1), rig.lose("w", 3), rig.lose("x", 2)), (0, 0, 0));
    assert_eq!(rig.machine.job(id(1)).unwrap().status, Status::Running);
    assert_eq!((rig.lose("w", 2), rig.lose("w", 2)), (1, 0));
    assert_eq!(rig.machine.job(id(1)).unwrap().attempt, 2);
}

#[test]
fn lose_three_times_fails_the_job_with_the_reason() {
    let mut rig = Rig::new();
    rig.submit_commands([1]);
    for start in 1..=3 {
        rig.register(commands("node-3", start));
        rig.assign_one(1, "node-3", start);
        rig.lose("node-3", start);
    }
    let view = rig.machine.view(id(1)).unwrap();
    assert_eq!((view.status, view.attempt), (Status::Failed, 3));
    assert_eq!(view.error.unwrap(), "worker node-3 was lost; 3 of 3 attempts used");
    assert_eq!(view.exit_code, None);
}

#[test]
fn release_gives_back_what_is_held_under_that_token_only() {
    let mut rig = Rig::new();
    rig.submit_commands([1, 2]);
    rig.register(commands("w", 1));
    rig.register(commands("v", 1));
    let one = rig.assign_one(1, "w", 1);
    let two = rig.assign_one(2, "v", 1);
    for (name, start, number, fence) in [
        ("w", 2, 1, one),
        ("v", 1, 1, one),
        ("w", 1, 1, two),
        ("w", 1, 2, one),
        ("w", 1, 3, one),
        ("x", 1, 1, one),
    ] {
        assert_eq!(rig.release(name, start, &[(number, fence)], false), 0);
    }
    assert_eq!(rig.release("w", 1, &[(1, one), (1, one)], false), 1, "once is enough");
    let job = rig.machine.job(id(1)).unwrap();
    assert_eq!((job.status, job.attempt), (Status::Pending, 1));
    assert_eq!(state(&rig, "w"), WorkerState::Live);
    assert!(matches!(rig.events[..], [Event::Withdrawn { fence, .. }] if fence == one));
    assert!(rig.assign_one(1, "w", 1) > one);
}

#[test]
fn release_leaving_gives_back_everything_and_gets_no_more() {
    let mut rig = Rig::new();
    rig.submit_commands([1, 2, 3]);
    rig.register(commands("w", 1));
    let one = rig.assign_one(1, "w", 1);
    rig.assign_one(2, "w", 1);
    assert_eq!(rig.release("w", 1, &[(1, one)], true), 2);
    assert_eq!(rig.waiting(), [id(1), id(2), id(3)]);
    assert_eq!(rig.machine.job(id(2)).unwrap().attempt, 1);
    assert_eq!(state(&rig, "w"), WorkerState::Left);
    assert_eq!(rig.assign(vec![pair(3, "w", 1)]), 0);
    assert_eq!(rig.lose("w", 1), 0, "one that left is not lost");
    assert_eq!(rig.register(commands("w", 2)), RegisterOutcome::Registered);
    rig.assign_one(3, "w", 2);
}

#[test]
fn counts_of_workers_follow_their_states() {
    let mut rig = Rig::new();
    rig.submit_commands([1]);
    rig.register(commands("a", 1));
    rig.register(commands("b", 1));
    let fence = rig.assign_one(1, "a", 1);
    rig.report(update(1, fence, true));
    rig.lose("b", 1);
    let counts = rig.machine.counts();
    assert_eq!((counts.workers, counts.workers_live, counts.slots_live), (2, 1, 2));
    assert_eq!(rig.machine.workers().count(), 2);
}

//! What jobs ask for, by example: order, start, expiry, timeout, retries, tags, and the dead set.

use raftq::jobs::command::{
    Command, Event, Limits, Outcome, PurgeOutcome, Registration, RetryOutcome, SubmitOutcome,
    UpdateOutcome,
};
use raftq::jobs::job::{NewJob, PAST_MAX, Serves, Status};
use raftq::jobs::options::{Options, Tags};
use raftq::jobs::scheduler::{Proposed, schedule};
use raftq::types::{Fence, JobId, Millis, Tag};

use crate::support::{Rig, command, id, registration, update};

fn asks(number: u64, options: Options) -> NewJob {
    NewJob { options: Options::shared(options), ..command(number) }
}

fn tags(names: &[&str]) -> Tags {
    Tags::new(names.iter().map(|name| Tag::new(name).unwrap()))
}

/// A rig with a worker `w` of so many slots.
fn rig(slots: u32) -> Rig {
    let mut rig = Rig::new();
    rig.register_commands("w", slots);
    rig
}

fn scheduled(rig: &Rig) -> Vec<JobId> {
    let pairs = schedule(&rig.machine, &|_, _| true, &Proposed::default(), 100);
    pairs.into_iter().map(|pair| pair.job).collect()
}

fn status(rig: &Rig, number: u64) -> Status {
    rig.machine.job(id(number)).unwrap().status
}

fn error(rig: &Rig, number: u64) -> String {
    rig.machine.view(id(number)).unwrap().error.unwrap_or_default()
}

/// Lets the time pass, and an entry move the clock.
fn pass(rig: &mut Rig, ms: u64) {
    rig.now += ms;
    assert_eq!(rig.apply(Command::Tick), Outcome::Ticked);
}

fn retry(rig: &mut Rig, number: u64) -> RetryOutcome {
    let Outcome::Retried(outcomes) = rig.apply(Command::RetryJob(vec![id(number)])) else {
        panic!("not the outcome of a retry")
    };
    outcomes[0]
}

#[test]
fn higher_priority_first_and_commit_order_within_one() {
    let mut rig = rig(9);
    let of = |priority| Options { priority, ..Options::default() };
    for (number, priority) in [(1, 5), (2, 0), (3, 9), (4, 5), (5, 9)] {
        rig.submit(asks(number, of(priority)));
    }
    assert_eq!(scheduled(&rig), [3, 5, 1, 4, 2].map(id));
}

#[test]
fn options_are_part_of_what_a_job_is_and_those_of_no_meaning_are_none() {
    let mut rig = Rig::new();
    let options = Options { retries: 2, ..Options::default() };
    assert_eq!(rig.submit(asks(1, options.clone())), SubmitOutcome::Created);
    assert_eq!(rig.submit(asks(1, options)), SubmitOutcome::Known);
    assert_eq!(rig.submit(command(1)), SubmitOutcome::AlreadyExists);
    let empty = NewJob { options: Some(Options::default().into()), ..command(2) };
    assert_eq!(rig.submit(empty), SubmitOutcome::Created);
    assert_eq!(rig.submit(command(2)), SubmitOutcome::Known);
    let wrong = Options { priority: 10, ..Options::default() };
    assert!(
        matches!(rig.submit(asks(3, wrong)), SubmitOutcome::Invalid(why) if why.contains("0 to 9"))
    );
}

#[test]
fn delayed_job_waits_for_its_time_and_then_in_its_old_place() {
    let mut rig = rig(9);
    rig.submit(asks(1, Options { delay_ms: Some(500), ..Options::default() }));
    rig.submit(asks(2, Options { at_ms: Some(Millis(rig.now + 900)), ..Options::default() }));
    rig.submit(asks(3, Options { at_ms: Some(Millis(1)), ..Options::default() }));
    rig.submit(command(4));
    assert_eq!(scheduled(&rig), [3, 4].map(id), "a time that is over is no delay");
    assert_eq!(rig.machine.counts().held, 2);
    assert_eq!(rig.machine.next_wake_ms(), Some(Millis(rig.now + 500)));
    assert_eq!(rig.assign(vec![crate::support::pair(1, "w", 1)]), 0, "it is held");
    pass(&mut rig, 499);
    assert_eq!(scheduled(&rig), [3, 4].map(id));
    pass(&mut rig, 1);
    assert_eq!(scheduled(&rig), [1, 3, 4].map(id));
    pass(&mut rig, 400);
    assert_eq!(scheduled(&rig), [1, 2, 3, 4].map(id));
    assert_eq!((rig.machine.counts().held, rig.machine.next_wake_ms()), (0, None));
}

#[test]
fn job_that_was_not_begun_within_its_ttl_fails_and_one_that_was_goes_on() {
    let mut rig = rig(9);
    let ttl = Options { ttl_ms: Some(1_000), ..Options::default() };
    rig.submit(asks(1, ttl.clone()));
    rig.submit(asks(2, ttl.clone()));
    let fence = rig.assign_one(2, "w", 1);
    pass(&mut rig, 1_000);
    assert_eq!(rig.events, [Event::Ended { job: id(1), status: Status::Failed }]);
    assert_eq!(error(&rig, 1), "not begun within its ttl of 1s");
    assert_eq!(status(&rig, 2), Status::Running);
    assert_eq!(rig.report(update(2, fence, true)), UpdateOutcome::Applied);
    assert_eq!(rig.machine.next_wake_ms(), None);
    // Tried again, it has as long as a new one.
    assert_eq!(retry(&mut rig, 1), RetryOutcome::Retried);
    pass(&mut rig, 999);
    assert_eq!(status(&rig, 1), Status::Pending);
    pass(&mut rig, 1);
    assert_eq!(status(&rig, 1), Status::Failed);
}

#[test]
fn failed_attempts_are_followed_by_pauses_that_double_until_none_is_left() {
    let mut rig = rig(1);
    let options = Options { retries: 2, backoff_ms: 1_000, ..Options::default() };
    rig.submit(asks(1, options));
    for (attempt, least) in [(1, 1_000), (2, 2_000)] {
        let fence = rig.assign_one(1, "w", 1);
        assert_eq!(rig.report(update(1, fence, false)), UpdateOutcome::Applied);
        assert!(rig.events.is_empty(), "it has not ended");
        assert_eq!(rig.report(update(1, fence, false)), UpdateOutcome::Applied, "the same report");
        let job = rig.machine.job(id(1)).unwrap();
        assert_eq!((job.status, job.attempt), (Status::Pending, attempt + 1));
        let pause = job.held_ms().unwrap().0 - rig.now;
        assert!((least..=least + least / 4).contains(&pause), "{pause}");
        pass(&mut rig, pause - 1);
        assert!(scheduled(&rig).is_empty());
        pass(&mut rig, 1);
        assert_eq!(scheduled(&rig), [id(1)]);
        assert_eq!(rig.report(update(1, fence, false)), UpdateOutcome::Applied, "still the same");
        let other = rig.report(update(1, fence, true));
        assert!(matches!(other, UpdateOutcome::StaleFence { .. }), "not what was said: {other:?}");
    }
    let fence = rig.assign_one(1, "w", 1);
    rig.report(update(1, fence, false));
    assert_eq!(rig.events, [Event::Ended { job: id(1), status: Status::Failed }]);
    let view = rig.machine.view(id(1)).unwrap();
    assert_eq!((view.attempt, view.error.as_deref()), (3, Some("exit code 1")));
    let told: Vec<_> = view.past.iter().map(|it| (it.attempt, it.exit_code)).collect();
    assert_eq!(told, [(1, Some(1)), (2, Some(1))]);
}

#[test]
fn lost_workers_cost_attempts_and_a_job_has_as_many_as_it_asks_for() {
    let limits = Limits { attempts_max: 2, ..Limits::default() };
    let mut rig = Rig::with_limits(limits);
    rig.submit(asks(1, Options { retries: 2, ..Options::default() }));
    rig.submit(command(2));
    for start in 1..=3 {
        rig.register(registration("w", start, 2, Serves::Commands));
        for job in [1, 2] {
            rig.assign(vec![crate::support::pair(job, "w", start)]);
        }
        rig.lose("w", start);
    }
    let attempts = [1, 2].map(|number| rig.machine.job(id(number)).unwrap().attempt);
    assert_eq!(
        (status(&rig, 1), status(&rig, 2), attempts),
        (Status::Failed, Status::Failed, [3, 2])
    );
    assert!(error(&rig, 1).contains("3 of 3 attempts used"), "{}", error(&rig, 1));
}

#[test]
fn tags_send_a_job_to_a_worker_that_has_them_all() {
    let mut rig = rig(4);
    rig.submit(asks(1, Options { tags: tags(&["gpu", "zone=a"]), ..Options::default() }));
    rig.submit(asks(2, Options { tags: tags(&["gpu"]), ..Options::default() }));
    rig.submit(command(3));
    assert_eq!(scheduled(&rig), [id(3)], "nobody has them, and nobody is held up");
    let gpu = registration("g", 1, 1, Serves::Commands);
    rig.register(Registration { tags: tags(&["gpu"]), ..gpu });
    let pairs = schedule(&rig.machine, &|_, _| true, &Proposed::default(), 9);
    let told: Vec<_> = pairs.iter().map(|it| (it.job, it.worker.as_str())).collect();
    assert_eq!(told, [(id(2), "g"), (id(3), "w")]);
    assert_eq!(rig.assign(vec![crate::support::pair(1, "g", 1)]), 0, "it lacks a tag");
}

#[test]
fn dead_job_is_tried_again_as_if_it_were_new() {
    let mut rig = rig(1);
    let options = Options { retries: 1, backoff_ms: 0, ..Options::default() };
    rig.submit(asks(1, options));
    let fail = |rig: &mut Rig| {
        let fence = rig.assign_one(1, "w", 1);
        rig.report(update(1, fence, false));
    };
    fail(&mut rig);
    assert_eq!(retry(&mut rig, 1), RetryOutcome::Refused(Status::Pending));
    fail(&mut rig);
    assert_eq!(rig.machine.counts().failed, 1);
    assert_eq!(retry(&mut rig, 1), RetryOutcome::Retried);
    assert_eq!(retry(&mut rig, 9), RetryOutcome::NotFound);
    let counts = rig.machine.counts();
    assert_eq!((counts.failed, counts.pending, counts.dead_bytes), (0, 1, 0));
    fail(&mut rig);
    assert_eq!(status(&rig, 1), Status::Pending, "it has its retry again");
    let fence = rig.assign_one(1, "w", 1);
    rig.report(update(1, fence, true));
    assert_eq!(
        (status(&rig, 1), retry(&mut rig, 1)),
        (Status::Completed, RetryOutcome::Refused(Status::Completed))
    );
    let view = rig.machine.view(id(1)).unwrap();
    let told: Vec<_> = view.past.iter().map(|it| it.attempt).collect();
    assert_eq!((view.attempt, told), (4, vec![1, 2, 3]));
}

#[test]
fn cancelled_job_can_be_tried_again_and_one_that_never_began_says_so() {
    let mut rig = rig(1);
    rig.submit_commands([1]);
    rig.cancel(1);
    assert_eq!(retry(&mut rig, 1), RetryOutcome::Retried);
    let view = rig.machine.view(id(1)).unwrap();
    assert_eq!((view.past[0].worker.clone(), view.past[0].fence), (None, Fence(0)));
    assert_eq!(view.past[0].error, "cancelled while it waited");
}

#[test]
fn attempt_that_was_cancelled_before_it_began_is_not_that_of_the_worker_before() {
    let mut rig = rig(1);
    rig.submit(asks(1, Options { retries: 1, ..Options::default() }));
    let fence = rig.assign_one(1, "w", 1);
    rig.report(update(1, fence, false));
    rig.cancel(1);
    retry(&mut rig, 1);
    let past = rig.machine.view(id(1)).unwrap().past;
    let told: Vec<_> = past.iter().map(|it| (it.attempt, it.fence)).collect();
    assert_eq!(told, [(1, fence), (2, Fence(0))]);
    assert_eq!(past[1].started_ms, past[1].ended_ms);
}

#[test]
fn past_attempts_are_bounded_and_the_newest_are_kept() {
    let mut rig = rig(1);
    rig.submit(asks(1, Options { retries: 99, backoff_ms: 0, ..Options::default() }));
    for _ in 0..20 {
        let fence = rig.assign_one(1, "w", 1);
        rig.report(update(1, fence, false));
    }
    let past = rig.machine.view(id(1)).unwrap().past;
    assert_eq!((past.len(), past[0].attempt), (PAST_MAX, 20 - PAST_MAX as u32 + 1));
}

#[test]
fn purge_forgets_what_has_ended_and_keeps_its_id() {
    let mut rig = rig(1);
    rig.submit_commands(1..=2);
    rig.cancel(1);
    let Outcome::Purged(outcomes) = rig.apply(Command::PurgeJob([1, 2, 3].map(id).into())) else {
        panic!("not the outcome of a purge")
    };
    assert_eq!(
        outcomes,
        [PurgeOutcome::Purged, PurgeOutcome::Open(Status::Pending), PurgeOutcome::NotFound]
    );
    assert!(rig.machine.job(id(1)).is_none());
    assert_eq!(rig.submit(command(1)), SubmitOutcome::Known);
}

#[test]
fn failed_jobs_outlive_the_others_and_what_a_limit_drops_is_counted() {
    let limits = Limits {
        finished_count_max: 0,
        finished_age_ms_max: 0,
        dead_age_ms_max: 10_000,
        ..Limits::default()
    };
    let mut rig = Rig::with_limits(limits);
    rig.register_commands("w", 1);
    for (number, completed) in [(1, true), (2, false)] {
        rig.submit_commands([number]);
        let fence = rig.assign_one(number, "w", 1);
        rig.report(update(number, fence, completed));
    }
    let is_kept = |rig: &Rig| [1, 2].map(|number| rig.machine.job(id(number)).is_some());
    assert_eq!((is_kept(&rig), rig.machine.counts().dead_dropped), ([false, true], 0));
    pass(&mut rig, 10_001);
    assert_eq!((is_kept(&rig), rig.machine.counts().dead_dropped), ([false, false], 1));
}

#[test]
fn many_jobs_due_at_once_take_several_entries() {
    let mut rig = Rig::new();
    let delayed = |number| asks(number, Options { delay_ms: Some(10), ..Options::default() });
    rig.apply(Command::SubmitJob((0..600).map(delayed).collect()));
    let held: Vec<u64> = (0..3)
        .map(|_| {
            pass(&mut rig, 10);
            rig.machine.counts().held
        })
        .collect();
    assert_eq!(held, [600 - 256, 600 - 512, 0]);
}

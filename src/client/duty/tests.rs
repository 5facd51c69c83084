//! A worker's duties with a scripted clock and a cluster that answers as the test likes.

use bytes::Bytes;

use super::*;
use crate::client::error::Story;
use crate::jobs::intake::Intake;
use crate::jobs::job::{Body, Status};
use crate::types::{Incarnation, Millis, Term};
use crate::wire::message::Withdrawn;

const GRACE: Duration = Duration::from_secs(10);

fn at(ms: u64) -> Moment {
    Moment(ms)
}

fn duty(seed: u64) -> Duty {
    let queues = vec![QueueName::new("mail").unwrap()];
    Duty::new(
        WorkerId::new("w").unwrap(),
        Incarnation(1),
        queues,
        8,
        Timing::default(),
        GRACE,
        seed,
    )
}

fn assignment(fence: u64) -> Assignment {
    Assignment {
        id: JobId([u8::try_from(fence % 251).unwrap(); 16]),
        queue: QueueName::new("mail").unwrap(),
        attempt: 1,
        fence: Fence(fence),
        timeout_ms: None,
        body: Body::Payload(Bytes::new()),
    }
}

fn done() -> Verdict {
    let output = Bytes::from_static(b"done");
    Verdict { completed: true, exit_code: None, output, output_cut: false, error: None }
}

fn ack() -> Reply {
    Reply::HeartbeatAck { term: Term(1), intake: Intake::Open, withdrawn: Vec::new() }
}

fn refused(refusal: Refusal) -> Error {
    Error::Refused { refusal: Box::new(refusal), story: Box::<Story>::default() }
}

fn over() -> Error {
    refused(Refusal::failed_precondition("this start is over"))
}

fn unreachable() -> Error {
    Error::Unreachable(Box::<Story>::default())
}

/// The calls among the orders.
fn calls(orders: &[Order]) -> Vec<(Ask, Request)> {
    orders
        .iter()
        .filter_map(|order| match order {
            Order::Call { ask, request, .. } => Some((*ask, request.clone())),
            Order::Start(_) | Order::Abandon(..) => None,
        })
        .collect()
}

fn find(orders: &[Order], kind: &str) -> Option<(Ask, Request)> {
    calls(orders).into_iter().find(|(_, request)| request.name() == kind)
}

fn names(orders: &[Order]) -> Vec<&'static str> {
    orders
        .iter()
        .map(|order| match order {
            Order::Call { request, .. } => request.name(),
            Order::Start(_) => "start",
            Order::Abandon(..) => "abandon",
        })
        .collect()
}

/// A worker that registered at time 0 and runs these attempts.
fn working(fences: &[u64]) -> (Duty, Ask) {
    let mut duty = duty(1);
    let (ask, _) = find(&duty.step(at(0)), "REGISTER_WORKER").unwrap();
    duty.heard(ask, Ok(Reply::Registered), at(1));
    let (reserve, _) = find(&duty.step(at(1)), "RESERVE").unwrap();
    duty.heard(
        reserve,
        Ok(Reply::Reserved(fences.iter().copied().map(assignment).collect())),
        at(2),
    );
    let orders = duty.step(at(2));
    let started = names(&orders).iter().filter(|name| **name == "start").count();
    assert_eq!(started, fences.len());
    let (reserve, _) = find(&orders, "RESERVE").unwrap();
    (duty, reserve)
}

#[test]
fn worker_registers_then_looks_for_jobs_and_beats_each_second() {
    let mut duty = duty(1);
    let orders = duty.step(at(0));
    assert_eq!(names(&orders), ["REGISTER_WORKER"]);
    let (ask, request) = find(&orders, "REGISTER_WORKER").unwrap();
    assert!(matches!(
        request,
        Request::RegisterWorker(Registration { gave_up: None, slots: 8, .. })
    ));
    assert_eq!(names(&duty.step(at(500))), Vec::<&str>::new(), "one registration at a time");
    duty.heard(ask, Ok(Reply::Registered), at(600));
    assert_eq!(names(&duty.step(at(600))), ["RESERVE"]);
    assert_eq!(duty.wake_at(), at(1000), "registering counts as a heartbeat");
    let (beat, _) = find(&duty.step(at(1000)), "HEARTBEAT").unwrap();
    duty.heard(beat, Ok(ack()), at(1010));
    assert_eq!(duty.wake_at(), at(2000));
    assert_eq!(names(&duty.step(at(2000))), ["HEARTBEAT"]);
}

#[test]
fn worker_without_an_answer_for_three_seconds_gives_up_and_registers_anew() {
    let (mut duty, _) = working(&[4096, 8192]);
    let mut former = None;
    for second in 1..3 {
        let orders = duty.step(at(second * 1000));
        former = find(&orders, "HEARTBEAT").map(|(_, request)| request);
        assert_eq!(names(&orders), ["HEARTBEAT"]);
    }
    assert_eq!(names(&duty.step(at(2999))), Vec::<&str>::new());
    assert_eq!(duty.wake_at(), at(3000));
    let orders = duty.step(at(3000));
    assert_eq!(names(&orders), ["abandon", "abandon", "REGISTER_WORKER"]);
    let Some((_, Request::RegisterWorker(anew))) = find(&orders, "REGISTER_WORKER") else {
        panic!()
    };
    let Some(Request::Heartbeat { incarnation, .. }) = former else { panic!() };
    assert!(anew.gave_up == Some(incarnation) && anew.incarnation > incarnation);
}

#[test]
fn lease_counts_from_when_the_answered_heartbeat_was_sent() {
    let (mut duty, _) = working(&[4096]);
    let (early, _) = find(&duty.step(at(1000)), "HEARTBEAT").unwrap();
    duty.step(at(2000));
    // The answer to the first comes late, after the second was sent.
    duty.heard(early, Ok(ack()), at(2900));
    assert!(!names(&duty.step(at(3999))).contains(&"abandon"));
    assert!(names(&duty.step(at(4000))).contains(&"abandon"));
}

#[test]
fn answer_that_comes_when_the_lease_is_over_does_not_renew_it() {
    let (mut duty, _) = working(&[4096]);
    let (beat, _) = find(&duty.step(at(1000)), "HEARTBEAT").unwrap();
    // The process was frozen: it hears this at 4.5 s, before it looks at the clock.
    duty.heard(beat, Ok(ack()), at(4500));
    assert!(names(&duty.step(at(4500))).contains(&"abandon"));
}

#[test]
fn worker_that_wakes_up_too_late_begins_nothing() {
    let (mut duty, reserve) = working(&[4096]);
    duty.heard(reserve, Ok(Reply::Reserved(vec![assignment(8192)])), at(9000));
    let orders = duty.step(at(9000));
    assert_eq!(names(&orders), ["abandon", "REGISTER_WORKER"]);
}

#[test]
fn worker_told_that_its_start_is_over_gives_up_at_once() {
    let (mut duty, reserve) = working(&[4096]);
    let (beat, _) = find(&duty.step(at(1000)), "HEARTBEAT").unwrap();
    duty.heard(beat, Err(over()), at(1010));
    assert_eq!(names(&duty.step(at(1010)))[0], "abandon");
    // What was said to the former start is not for this one.
    duty.heard(reserve, Ok(Reply::Reserved(vec![assignment(8192)])), at(1020));
    assert!(!names(&duty.step(at(1200))).contains(&"start"));
    duty.heard(beat, Err(over()), at(1300));
    assert!(duty.ended_with().is_none());
}

#[test]
fn worker_superseded_again_and_again_registers_ever_more_slowly() {
    let mut duty = duty(3);
    let (mut now, mut pauses) = (0, Vec::new());
    for _ in 0..12 {
        let begun = now;
        let register = loop {
            if let Some((ask, _)) = find(&duty.step(at(now)), "REGISTER_WORKER") {
                break ask;
            }
            now += 1;
        };
        pauses.push(now - begun);
        duty.heard(register, Err(over()), at(now));
    }
    assert!(pauses[1] <= 50, "{pauses:?}");
    assert!(pauses[6..].iter().any(|pause| *pause > 300), "{pauses:?}");
    assert!(pauses.iter().all(|pause| *pause <= 1000), "{pauses:?}");
}

/// The clock was set back between two processes: the second is below the first until it hears of it.
#[test]
fn worker_below_a_start_that_registered_draws_above_it_and_claims_nothing() {
    let mut duty = duty(1);
    let (ask, _) = find(&duty.step(at(0)), "REGISTER_WORKER").unwrap();
    let standing = Incarnation::first(Millis(1_800_000_000_000), 5);
    let no = Refusal::new(Code::FailedPrecondition, "over");
    duty.heard(ask, Err(refused(Refusal { incarnation: Some(standing), ..no })), at(1));
    let Some((_, Request::RegisterWorker(anew))) = find(&duty.step(at(100)), "REGISTER_WORKER")
    else {
        panic!("it registers again")
    };
    assert!(anew.incarnation > standing);
    assert_eq!(anew.gave_up, None, "what the former process held died with it");
}

/// It stood still, was judged lost, and another process took its name meanwhile, and holds jobs.
#[test]
fn worker_that_finds_another_process_in_its_place_ends_and_does_not_speak_for_it() {
    let (mut duty, _) = working(&[4096]);
    let (ask, _) = find(&duty.step(at(9000)), "REGISTER_WORKER").unwrap();
    let standing = Incarnation::first(Millis(1_800_000_000_000), 5);
    let no = Refusal::new(Code::FailedPrecondition, "over");
    duty.heard(ask, Err(refused(Refusal { incarnation: Some(standing), ..no })), at(9001));
    assert!(calls(&duty.step(at(9200))).is_empty());
    assert_eq!(duty.ended_with().map(|report| report.reason), Some(StopReason::Superseded));
}

/// The heartbeat that is refused says already which start stands: no registration is lost to find out.
#[test]
fn worker_told_by_a_heartbeat_which_start_stands_draws_above_it() {
    let (mut duty, _) = working(&[4096]);
    let (beat, _) = find(&duty.step(at(1000)), "HEARTBEAT").unwrap();
    let standing = Incarnation(1);
    let no = Refusal::new(Code::FailedPrecondition, "judged lost");
    duty.heard(beat, Err(refused(Refusal { incarnation: Some(standing), ..no })), at(1001));
    let Some((_, Request::RegisterWorker(anew))) = find(&duty.step(at(1100)), "REGISTER_WORKER")
    else {
        panic!("it registers anew")
    };
    assert!(anew.incarnation > standing);
    assert_eq!(anew.gave_up, Some(Incarnation(1)), "no more than its own");
}

/// It gave up, and is asked to stop before it has registered anew: what it held must not wait until the
/// cluster takes it for lost, and must not use up an attempt.
#[test]
fn worker_that_stops_after_it_gave_up_leaves_as_the_start_that_held_jobs() {
    let (mut duty, _) = working(&[4096]);
    let (beat, _) = find(&duty.step(at(1000)), "HEARTBEAT").unwrap();
    duty.heard(beat, Err(over()), at(1001));
    duty.stop(at(1001));
    let orders = duty.step(at(1001));
    assert_eq!(names(&orders), ["abandon", "RELEASE_JOBS"]);
    let Some((ask, Request::ReleaseJobs(release))) = find(&orders, "RELEASE_JOBS") else {
        panic!("it says goodbye")
    };
    assert!(release.leaving && release.incarnation == Incarnation(1));
    duty.heard(ask, Ok(Reply::Released { count: 0 }), at(1002));
    assert!(duty.ended_with().is_some());
}

/// It may be registered, and be given jobs that nobody would run: it finds out, and leaves.
#[test]
fn worker_that_stops_while_it_may_be_registered_finds_out_and_leaves() {
    let mut duty = duty(1);
    let (ask, first) = find(&duty.step(at(0)), "REGISTER_WORKER").unwrap();
    duty.stop(at(10));
    duty.heard(ask, Err(Error::Unknown(Box::<Story>::default())), at(20));
    assert_eq!(names(&duty.step(at(20))), Vec::<&str>::new());
    let due = duty.wake_at();
    let (ask, again) = find(&duty.step(due), "REGISTER_WORKER").unwrap();
    assert_eq!(first, again);
    duty.heard(ask, Ok(Reply::Registered), due);
    let orders = duty.step(due);
    assert!(names(&orders).contains(&"RELEASE_JOBS"), "{:?}", names(&orders));
}

#[test]
fn registration_that_cannot_be_right_ends_the_worker() {
    let mut duty = duty(1);
    let (ask, _) = find(&duty.step(at(0)), "REGISTER_WORKER").unwrap();
    duty.heard(ask, Err(refused(Refusal::invalid("no such thing"))), at(5));
    let report = duty.ended_with().unwrap();
    assert!(matches!(report.reason, StopReason::Refused(_)));
}

#[test]
fn registration_without_an_answer_is_made_again_as_it_was() {
    let mut duty = duty(1);
    let (ask, first) = find(&duty.step(at(0)), "REGISTER_WORKER").unwrap();
    duty.heard(ask, Err(Error::Unknown(Box::<Story>::default())), at(3000));
    assert!(duty.wake_at() > at(3000));
    let (_, second) = find(&duty.step(at(4000)), "REGISTER_WORKER").unwrap();
    assert_eq!(first, second);
}

#[test]
fn same_jobs_heard_twice_are_begun_once() {
    let (mut duty, reserve) = working(&[4096]);
    duty.heard(reserve, Ok(Reply::Reserved(vec![assignment(4096), assignment(8192)])), at(10));
    let orders = duty.step(at(10));
    assert_eq!(names(&orders), ["start", "RESERVE"]);
    let Some((_, Request::Reserve { after, .. })) = find(&orders, "RESERVE") else { panic!() };
    assert_eq!(after, Fence(8192));
}

#[test]
fn empty_answer_at_once_does_not_make_the_worker_spin() {
    let (mut duty, reserve) = working(&[1]);
    duty.heard(reserve, Ok(Reply::Reserved(Vec::new())), at(10));
    assert!(!names(&duty.step(at(10))).contains(&"RESERVE"));
    assert_eq!(duty.wake_at(), at(30));
}

#[test]
fn ends_are_reported_together_and_again_until_they_are_answered() {
    let (mut duty, _) = working(&[1, 2, 3]);
    duty.ended(Fence(1), done(), at(10));
    let (first, request) = find(&duty.step(at(10)), "BATCH_UPDATE_JOB_STATUS").unwrap();
    assert!(matches!(request, Request::BatchUpdateJobStatus(updates) if updates.len() == 1));
    duty.ended(Fence(2), done(), at(11));
    duty.ended(Fence(3), done(), at(12));
    assert_eq!(names(&duty.step(at(12))), Vec::<&str>::new(), "one report at a time");
    duty.heard(first, Err(Error::Unknown(Box::<Story>::default())), at(500));
    let due = duty.wake_at();
    assert!(due > at(500) && due <= at(550), "{due:?}");
    let (second, request) = find(&duty.step(due), "BATCH_UPDATE_JOB_STATUS").unwrap();
    let Request::BatchUpdateJobStatus(updates) = request else { panic!() };
    let fences: Vec<u64> = updates.iter().map(|update| update.fence.0).collect();
    assert_eq!(fences, [1, 2, 3]);
    // One counts, one is somebody else's by now, one is to be sent again.
    let stale = Refusal::stale_fence("n2 has it");
    let results = vec![Ok(()), Err(stale), Err(Refusal::exhausted("full", 1))];
    duty.heard(second, Ok(Reply::Updated(results)), at(600));
    let (third, request) = find(&duty.step(at(700)), "BATCH_UPDATE_JOB_STATUS").unwrap();
    assert!(
        matches!(request, Request::BatchUpdateJobStatus(updates) if updates[0].fence == Fence(3))
    );
    duty.heard(third, Ok(Reply::Updated(vec![Ok(())])), at(710));
    assert_eq!((duty.finished, duty.outbox.len()), (2, 0));
}

#[test]
fn end_of_an_abandoned_attempt_is_not_reported() {
    let (mut duty, _) = working(&[4096]);
    duty.step(at(3000));
    duty.ended(Fence(4096), done(), at(3100));
    assert!(!names(&duty.step(at(3100))).contains(&"BATCH_UPDATE_JOB_STATUS"));
    assert_eq!((duty.finished, duty.abandoned), (0, 1));
}

#[test]
fn ends_from_before_it_gave_up_are_reported_before_it_registers_anew() {
    let (mut duty, _) = working(&[1, 2]);
    duty.ended(Fence(1), done(), at(100));
    let (report, _) = find(&duty.step(at(100)), "BATCH_UPDATE_JOB_STATUS").unwrap();
    duty.heard(report, Err(unreachable()), at(2950));
    let orders = duty.step(at(3000));
    assert_eq!(names(&orders), ["abandon", "BATCH_UPDATE_JOB_STATUS"], "no registration yet");
    let (report, _) = find(&orders, "BATCH_UPDATE_JOB_STATUS").unwrap();
    duty.heard(report, Ok(Reply::Updated(vec![Ok(())])), at(3100));
    assert_eq!(names(&duty.step(at(3100))), ["REGISTER_WORKER"]);
    assert_eq!((duty.finished, duty.abandoned), (1, 1));
}

#[test]
fn reports_that_come_to_nothing_do_not_hold_up_a_registration_for_ever() {
    let (mut duty, _) = working(&[1]);
    duty.ended(Fence(1), done(), at(100));
    duty.step(at(100));
    assert!(!names(&duty.step(at(3000))).contains(&"REGISTER_WORKER"));
    assert_eq!(duty.wake_at(), at(9000));
    assert!(names(&duty.step(at(9000))).contains(&"REGISTER_WORKER"));
}

#[test]
fn worker_asked_to_stop_lets_its_jobs_end_and_says_goodbye() {
    let (mut duty, reserve) = working(&[1, 2]);
    duty.stop(at(100));
    let orders = duty.step(at(100));
    let Some((_, Request::Heartbeat { draining, .. })) = find(&orders, "HEARTBEAT") else {
        panic!("the leader hears at once: {orders:?}")
    };
    assert!(draining);
    // What was on its way is not begun; it is given back by leaving.
    duty.heard(reserve, Ok(Reply::Reserved(vec![assignment(3)])), at(110));
    assert_eq!(names(&duty.step(at(110))), Vec::<&str>::new());
    duty.ended(Fence(1), done(), at(200));
    duty.ended(Fence(2), done(), at(200));
    let (report, _) = find(&duty.step(at(200)), "BATCH_UPDATE_JOB_STATUS").unwrap();
    assert_eq!(names(&duty.step(at(210))), Vec::<&str>::new(), "the report first");
    duty.heard(report, Ok(Reply::Updated(vec![Ok(()), Ok(())])), at(220));
    let Some((release, Request::ReleaseJobs(gives))) = find(&duty.step(at(220)), "RELEASE_JOBS")
    else {
        panic!()
    };
    assert!(gives.leaving && gives.jobs.is_empty());
    duty.heard(release, Ok(Reply::Released { count: 1 }), at(230));
    let report = duty.ended_with().unwrap();
    assert_eq!(report, StopReport { reason: StopReason::Asked, finished: 2, abandoned: 0 });
}

#[test]
fn grace_that_is_over_gives_the_rest_back() {
    let (mut duty, _) = working(&[1, 2]);
    duty.stop(at(100));
    for second in 1..=10 {
        let now = at(second * 1000);
        if let Some((beat, _)) = find(&duty.step(now), "HEARTBEAT") {
            duty.heard(beat, Ok(ack()), now);
        }
    }
    let orders = duty.step(at(10_100));
    assert_eq!(names(&orders)[..2], ["abandon", "abandon"]);
    let Some((release, Request::ReleaseJobs(gives))) = find(&orders, "RELEASE_JOBS") else {
        panic!()
    };
    assert_eq!(gives.jobs.iter().map(|(_, fence)| fence.0).collect::<Vec<_>>(), [1, 2]);
    // Once it has not been heard, it is said again, for a while.
    duty.heard(release, Err(unreachable()), at(11_000));
    assert!(names(&duty.step(at(11_100))).contains(&"RELEASE_JOBS"));
    duty.step(at(16_100));
    assert_eq!(duty.ended_with().unwrap().abandoned, 2);
}

#[test]
fn worker_that_never_registered_stops_at_once() {
    let mut duty = duty(1);
    let (ask, _) = find(&duty.step(at(0)), "REGISTER_WORKER").unwrap();
    duty.stop(at(10));
    duty.step(at(10));
    assert!(duty.ended_with().is_none(), "the registration on its way may yet be taken");
    duty.heard(ask, Err(unreachable()), at(20));
    duty.step(at(20));
    assert!(duty.ended_with().is_some());
}

/// Whatever the cluster answers and however long it takes: nothing runs beyond the lease, one start never runs
/// an attempt twice, the worker does not spin, and it stops in time.
#[test]
fn any_life_keeps_the_rules() {
    for seed in 0..500 {
        let mut dice = fastrand::Rng::with_seed(seed);
        let mut duty = duty(seed);
        let mut now = 0;
        let mut fence = 0;
        let mut calls: Vec<Ask> = Vec::new();
        let mut running: BTreeMap<Fence, ()> = BTreeMap::new();
        let stop_at = dice.u64(5000..40_000);
        let mut turns = 0;
        while duty.ended_with().is_none() {
            turns += 1;
            assert!(turns < 20_000, "seed {seed}: it spins at {now}");
            assert!(now < stop_at + 20_000, "seed {seed}: it does not stop");
            if now >= stop_at {
                duty.stop(at(now));
            }
            for order in duty.step(at(now)) {
                match order {
                    Order::Call { ask, .. } => calls.push(ask),
                    Order::Start(job) => assert_eq!(running.insert(job.fence, ()), None),
                    // Its handler may have ended just before.
                    Order::Abandon(fence, _) => drop(running.remove(&fence)),
                }
            }
            assert!(running.is_empty() || at(now) < duty.lease_end(), "seed {seed} at {now}");
            assert!(
                duty.ended_with().is_some() || duty.wake_at() > at(now),
                "seed {seed} at {now}"
            );
            // Either something is answered, or a handler ends, or time goes by.
            let wait = duty.wake_at().0.saturating_sub(now).min(dice.u64(1..1500));
            now += wait.max(1);
            if !calls.is_empty() && dice.u8(..) < 160 {
                let ask = calls.swap_remove(dice.usize(..calls.len()));
                let bad = dice.u8(..) < 60;
                let answer = match ask {
                    _ if bad && dice.u8(..) < 40 => Err(over()),
                    _ if bad => Err(unreachable()),
                    Ask::Register { .. } => Ok(Reply::Registered),
                    Ask::Heartbeat { .. } => Ok(ack()),
                    Ask::Reserve { .. } => {
                        fence += 1;
                        Ok(Reply::Reserved(vec![assignment(fence)]))
                    }
                    Ask::Report => Ok(Reply::Updated(vec![Ok(()); duty.reported.len()])),
                    Ask::Release => Ok(Reply::Released { count: 0 }),
                    Ask::Progress { .. } => Ok(Reply::ProgressNoted),
                };
                duty.heard(ask, answer, at(now));
            }
            if let Some((fence, ())) = running.first_key_value().map(|(fence, ())| (*fence, ()))
                && dice.u8(..) < 60
            {
                running.remove(&fence);
                duty.ended(fence, done(), at(now));
            }
        }
    }
}

#[test]
fn handler_that_takes_too_long_is_ended_and_reported_as_failed() {
    let mut duty = duty(1);
    let (ask, _) = find(&duty.step(at(0)), "REGISTER_WORKER").unwrap();
    duty.heard(ask, Ok(Reply::Registered), at(1));
    let (reserve, _) = find(&duty.step(at(1)), "RESERVE").unwrap();
    let limited = Assignment { timeout_ms: Some(500), ..assignment(7) };
    duty.heard(reserve, Ok(Reply::Reserved(vec![limited, assignment(8)])), at(100));
    duty.step(at(100));
    assert_eq!(duty.wake_at(), at(600));
    assert!(!names(&duty.step(at(599))).contains(&"abandon"));
    let orders = duty.step(at(600));
    assert!(orders.contains(&Order::Abandon(Fence(7), Abandoned::TimedOut)), "{orders:?}");
    assert!(
        !orders.iter().any(|it| matches!(it, Order::Abandon(Fence(8), _))),
        "it may take as long as it likes"
    );
    let Some((_, Request::BatchUpdateJobStatus(updates))) =
        find(&orders, "BATCH_UPDATE_JOB_STATUS")
    else {
        panic!("nothing is reported: {orders:?}")
    };
    let told: Vec<_> = updates.iter().map(|it| (it.fence, it.verdict.error.as_deref())).collect();
    assert_eq!(told, [(Fence(7), Some("timed out after 500ms"))]);
    // What it says after all does not count.
    duty.ended(Fence(7), done(), at(601));
    assert!(find(&duty.step(at(601)), "BATCH_UPDATE_JOB_STATUS").is_none());
}

/// Has the next heartbeat answered like this, at the time at which it is sent.
fn beat(duty: &mut Duty, answer: Reply) -> Request {
    let now = duty.heartbeat_due;
    let (ask, request) = find(&duty.step(now), "HEARTBEAT").unwrap();
    duty.heard(ask, Ok(answer), now);
    request
}

fn news(intake: Intake, withdrawn: &[(u64, Option<Status>)]) -> Reply {
    let over = |(fence, status): &(u64, Option<Status>)| Withdrawn {
        fence: Fence(*fence),
        status: *status,
    };
    let withdrawn = withdrawn.iter().map(over).collect();
    Reply::HeartbeatAck { term: Term(1), intake, withdrawn }
}

#[test]
fn heartbeat_names_what_runs_and_what_is_withdrawn_is_ended_with_the_reason() {
    let (mut duty, _) = working(&[7, 8, 9]);
    let over = [(7, Some(Status::Cancelled)), (9, None), (4, Some(Status::Cancelled))];
    let Request::Heartbeat { held, .. } = beat(&mut duty, news(Intake::Open, &over)) else {
        panic!("no heartbeat")
    };
    assert_eq!(held.iter().map(|(_, fence)| fence.0).collect::<Vec<_>>(), [7, 8, 9]);
    let orders = duty.step(at(1003));
    assert!(orders.contains(&Order::Abandon(Fence(7), Abandoned::Cancelled)), "{orders:?}");
    assert!(orders.contains(&Order::Abandon(Fence(9), Abandoned::TakenAway)), "{orders:?}");
    assert_eq!(names(&orders).iter().filter(|name| **name == "abandon").count(), 2);
    // What its handler says after all does not count.
    duty.ended(Fence(7), done(), at(1004));
    assert!(find(&duty.step(at(1004)), "BATCH_UPDATE_JOB_STATUS").is_none());
}

#[test]
fn worker_with_many_jobs_names_others_each_time() {
    let fences: Vec<u64> = (1..=600).collect();
    let (mut duty, _) = working(&fences);
    let mut named = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let Request::Heartbeat { held, .. } = beat(&mut duty, ack()) else { panic!() };
        assert!(held.len() <= crate::wire::message::HELD_MAX);
        named.extend(held.into_iter().map(|(_, fence)| fence.0));
    }
    assert!(named.into_iter().eq(fences));
}

#[test]
fn drained_worker_ends_once_nothing_runs_and_one_that_is_resumed_does_not() {
    for resumed in [false, true] {
        let (mut duty, _) = working(&[7]);
        beat(&mut duty, news(Intake::Drain, &[]));
        let Request::Heartbeat { draining, .. } = beat(&mut duty, news(Intake::Drain, &[])) else {
            panic!()
        };
        assert!(draining && duty.stop_at.is_none(), "what runs has all the time it needs");
        if resumed {
            beat(&mut duty, ack());
        }
        let now = duty.heartbeat_due;
        duty.ended(Fence(7), done(), now);
        let (report, _) = find(&duty.step(now), "BATCH_UPDATE_JOB_STATUS").unwrap();
        duty.heard(report, Ok(Reply::Updated(vec![Ok(())])), now);
        let orders = duty.step(now);
        let Some((release, _)) = find(&orders, "RELEASE_JOBS") else {
            assert!(resumed, "{orders:?}");
            continue;
        };
        assert!(!resumed);
        duty.heard(release, Ok(Reply::Released { count: 0 }), now);
        assert_eq!(duty.ended_with().map(|report| report.reason), Some(StopReason::Drained));
    }
}

#[test]
fn of_two_workers_of_a_name_the_older_ends_and_the_newer_goes_on() {
    let (mut duty, _) = working(&[7]);
    let now = duty.heartbeat_due;
    let (ask, _) = find(&duty.step(now), "HEARTBEAT").unwrap();
    let newer = Refusal {
        incarnation: Some(Incarnation(99)),
        ..Refusal::failed_precondition("a higher one has registered")
    };
    duty.heard(ask, Err(refused(newer.clone())), now);
    assert_eq!(duty.ended_with().map(|report| report.reason), Some(StopReason::Superseded));
    assert_eq!(names(&duty.step(now)), ["abandon"], "and registers no more");
    // One that has just begun cannot know: its clock may have been set back since the one before it.
    let mut new = self::duty(1);
    let (ask, _) = find(&new.step(at(0)), "REGISTER_WORKER").unwrap();
    new.heard(ask, Err(refused(newer)), at(1));
    assert!(new.ended_with().is_none());
    assert!(new.incarnation > Incarnation(99));
}

#[test]
fn progress_goes_before_the_end_and_what_is_stale_asks_at_once() {
    let (mut duty, _) = working(&[7]);
    duty.say(Fence(7), (40, "half".into()), at(10));
    duty.say(Fence(1), (40, "of nothing".into()), at(10));
    let orders = duty.step(at(10));
    let Some((ask, Request::ReportProgress(report))) = find(&orders, "REPORT_PROGRESS") else {
        panic!("{orders:?}")
    };
    assert_eq!((report.fence, report.percent, report.note.as_str()), (Fence(7), 40, "half"));
    let before = duty.heartbeat_due;
    duty.heard(ask, Err(refused(Refusal::stale_fence("over"))), at(20));
    assert!(before > at(20) && duty.heartbeat_due == at(20));
    duty.say(Fence(7), (100, String::new()), at(30));
    duty.ended(Fence(7), done(), at(31));
    let orders = names(&duty.step(at(31)));
    let place = |name| orders.iter().position(|it| *it == name);
    assert!(place("REPORT_PROGRESS").unwrap() < place("BATCH_UPDATE_JOB_STATUS").unwrap());
}

#[test]
fn extension_puts_off_the_time_that_is_too_long() {
    let mut duty = duty(1);
    let (ask, _) = find(&duty.step(at(0)), "REGISTER_WORKER").unwrap();
    duty.heard(ask, Ok(Reply::Registered), at(1));
    let (reserve, _) = find(&duty.step(at(1)), "RESERVE").unwrap();
    let limited = Assignment { timeout_ms: Some(500), ..assignment(7) };
    duty.heard(reserve, Ok(Reply::Reserved(vec![limited])), at(100));
    duty.step(at(100));
    duty.extend(Fence(7), Duration::from_millis(200));
    assert!(!names(&duty.step(at(799))).contains(&"abandon"));
    assert!(names(&duty.step(at(800))).contains(&"abandon"));
}

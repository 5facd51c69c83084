//! The built-in worker's life: what it registers, begins, reports and gives back.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "a test that meets the unexpected fails there; its module is no library"
)]

#[expect(dead_code, reason = "shared with the tests of guards that die")]
mod worker_world;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use async_std::channel;
use async_std::task;
use raftq::jobs::job::{Assignment, Body, Serves};
use raftq::replica::view::Notice;
use raftq::types::{Fence, Incarnation, JobId, WorkerId};
use raftq::wire::message::Code;
use raftq::worker::clock::Moment;
use raftq::worker::runner::{BuiltInConfig, StopReport, start};
use rustix::process::Pid;

use worker_world::{GRACE, Leader, Mood, PATIENCE, STANDING, State, World, lives};

#[test]
fn worker_started_announces_registers_and_sends_heartbeats() {
    let world = World::new("starts", 3, GRACE);
    world.until("three heartbeats", |state| state.heartbeats.len() >= 3);
    let state = world.leader.state();
    let incarnation = world.worker().incarnation();
    assert_eq!(
        state.said[..2],
        [format!("announce {incarnation}"), format!("register {incarnation}")]
    );
    let [registration] = state.registrations.as_slice() else { panic!("registers once") };
    assert_eq!((registration.slots, registration.gave_up), (3, None));
    assert_eq!(registration.serves, Serves::Commands);
    assert!(state.heartbeats.iter().all(|beat| beat.1 == incarnation && !beat.2));
    let second = state.heartbeats[2].0.since(state.heartbeats[1].0);
    assert!(second >= Duration::from_millis(900), "once a second, not each {second:?}");
}

#[test]
fn registration_unanswered_is_made_again_under_the_same_incarnation() {
    let register = Mood::Fails;
    let state = State { register, deaf_announces: 2, ..State::default() };
    let world = World::with("insists", 1, GRACE, state);
    world.begin(1, "echo early");
    world.until("four attempts", |state| state.registrations.len() >= 4);
    assert!(world.leader.state().heartbeats.is_empty());
    assert_eq!(world.worker().running(), 0, "nothing runs without the right to");
    world.leader.state().register = Mood::Answers;
    assert_eq!(world.reported(1)[0].verdict.output, "early\n");
    let state = world.leader.state();
    let first = &state.registrations[0];
    assert!(state.registrations.iter().all(|registration| registration == first));
    assert_eq!(first.gave_up, None);
}

#[test]
fn registration_superseded_draws_a_new_incarnation() {
    let state = State { register: Mood::Supersedes, ..State::default() };
    let world = World::with("redraws", 1, GRACE, state);
    world.until("a second start", |state| state.announced.len() >= 2);
    world.leader.state().register = Mood::Answers;
    world.until("a heartbeat", |state| !state.heartbeats.is_empty());
    let state = world.leader.state();
    assert!(state.announced.is_sorted_by(|one, next| one < next), "each start is higher");
    assert!(state.announced[1] > STANDING, "and above the one that was named");
    assert!(
        state.registrations.iter().all(|it| it.gave_up.is_none()),
        "none of them held anything"
    );
}

#[test]
fn job_begun_is_reported_with_its_verdict() {
    let world = World::new("reports", 2, GRACE);
    world.begin(1, "echo hello");
    let report = &world.reported(1)[0];
    assert_eq!((report.job, report.fence), (JobId([1; 16]), Fence(1)));
    assert!(report.verdict.completed);
    assert_eq!(report.verdict.output, "hello\n");
    world.begin(2, "exit 3");
    assert_eq!(world.reported(2)[1].verdict.exit_code, Some(3));
}

#[test]
fn start_void_again_and_again_is_not_repeated_without_a_pause() {
    let state = State { heartbeat: Mood::Supersedes, ..State::default() };
    let world = World::with("void", 1, GRACE, state);
    let start = Moment::now();
    world.until("eight starts", |state| state.registrations.len() >= 8);
    // Pauses of 25, 50, 100, 200, 400 ms at least, and 500 ms from then on.
    assert!(Moment::now().since(start) >= Duration::from_millis(1000));
}

#[test]
fn payload_for_a_built_in_worker_fails_with_the_reason() {
    let world = World::new("payload", 1, GRACE);
    let body = Body::Payload("bytes".into());
    let assignment = Assignment { body, ..world.assignment(1, "") };
    world.tell(Notice::Begin { incarnation: world.worker().incarnation(), assignment });
    let report = &world.reported(1)[0];
    assert!(!report.verdict.completed);
    assert!(report.verdict.error.as_ref().unwrap().contains("payload"));
    world.begin(2, "echo next");
    world.reported(2);
}

#[test]
fn job_told_again_and_again_is_begun_once() {
    let world = World::new("once", 2, GRACE);
    let script = "echo $RAFTQ_FENCE >> log; while [ ! -e go ]; do sleep 0.01; done";
    let assignments = vec![world.assignment(1, script)];
    let incarnation = world.worker().incarnation();
    for _ in 0..3 {
        world.begin(1, script);
        world.tell(Notice::Held { incarnation, assignments: assignments.clone() });
    }
    world.pid_in("log");
    world.touch("go");
    world.reported(1);
    // A replica that is behind may tell of it once more, after it was reported.
    world.begin(1, script);
    world.tell(Notice::Held { incarnation, assignments });
    world.begin(2, "echo last");
    world.reported(2);
    assert_eq!(world.file("log"), "1\n");
}

#[test]
fn job_of_another_incarnation_is_ignored() {
    let world = World::new("foreign", 1, GRACE);
    let other = Incarnation(world.worker().incarnation().0 ^ 1);
    let assignment = world.assignment(1, "echo wrong >> log");
    world.tell(Notice::Begin { incarnation: other, assignment: assignment.clone() });
    world.tell(Notice::Held { incarnation: other, assignments: vec![assignment] });
    world.begin(2, "echo right >> log");
    world.reported(1);
    assert_eq!(world.file("log"), "right\n");
}

#[test]
fn list_of_what_is_held_begins_the_new_and_ends_the_missing() {
    let world = World::new("held", 2, GRACE);
    world.begin(1, "echo $$ > first; exec sleep 600");
    let first = world.pid_in("first");
    let assignments = vec![world.assignment(2, "echo second")];
    world.tell(Notice::Held { incarnation: world.worker().incarnation(), assignments });
    world.gone(first);
    let reported = world.reported(1);
    assert_eq!(reported.iter().map(|report| report.fence.0).collect::<Vec<_>>(), [2]);
}

#[test]
fn job_cancelled_is_ended_and_not_reported() {
    let world = World::new("cancels", 1, GRACE);
    world.begin(1, "echo $$ > pid; exec sleep 600");
    let pid = world.pid_in("pid");
    world.end(1);
    world.gone(pid);
    world.begin(2, "echo next");
    let reported = world.reported(1);
    assert_eq!(reported.iter().map(|report| report.fence.0).collect::<Vec<_>>(), [2]);
}

#[test]
fn slots_are_never_exceeded_by_begins_nor_by_commands_that_are_slow_to_die() {
    let world = World::new("slots", 2, GRACE);
    for fence in [1, 2] {
        world.begin(
            fence,
            &format!("trap '' TERM; echo $$ > pid{fence}; while :; do sleep 0.01; done"),
        );
    }
    let old = [world.pid_in("pid1"), world.pid_in("pid2")];
    // The leader thinks that the slots are free as soon as it has cancelled.
    for fence in [1, 2] {
        world.end(fence);
    }
    let [one, two] = old.map(Pid::as_raw_pid);
    for fence in [3, 4] {
        let overlap = "echo overlap >> log || echo free >> log";
        world.begin(
            fence,
            &format!("kill -0 {one} 2>/dev/null && kill -0 {two} 2>/dev/null && {overlap}"),
        );
    }
    let mut most = 0;
    world.until("two reports", |state| {
        most = most.max(world.worker().running());
        state.reported().len() == 2
    });
    assert_eq!(most, 2);
    assert!(!world.file("log").contains("overlap"), "a third command ran");
    for fence in 5..=24 {
        // As the leader would: never more than the slots hold. Two of these are not reported.
        let ended = usize::try_from(fence).unwrap() - 4;
        world.until("a slot is free", |state| state.reported().len() >= ended);
        world.begin(fence, "echo + >> ledger; sleep 0.05; echo - >> ledger");
    }
    world.reported(22);
    let (mut running, mut highest) = (0, 0);
    for line in world.file("ledger").lines() {
        running += if line == "+" { 1 } else { -1 };
        highest = highest.max(running);
    }
    assert_eq!((running, highest), (0, 2));
}

#[test]
fn job_without_room_to_wait_is_given_back() {
    let world = World::new("room", 1, GRACE);
    world.begin(1, "echo $$ > pid; exec sleep 600");
    world.pid_in("pid");
    world.begin(2, "true");
    world.begin(3, "true");
    world.until("the third is given back", |state| state.released() == [3]);
    assert!(!world.leader.state().releases[0].leaving);
}

#[test]
fn report_unanswered_goes_again_until_it_is_and_others_join_it() {
    let world = World::new("again", 4, GRACE);
    world.leader.state().update = Mood::Fails;
    world.begin(1, "echo one");
    world.until("three attempts", |state| state.updates.len() >= 3);
    for fence in 2..=4 {
        world.begin(fence, "true");
    }
    world.until("all four in one batch", |state| {
        state.updates.last().is_some_and(|batch| batch.len() == 4)
    });
    world.leader.state().update = Mood::Answers;
    let attempts = world.leader.state().updates.len();
    world.until("an answer", |state| state.updates.len() > attempts);
    world.begin(5, "true");
    world.reported(5);
    let state = world.leader.state();
    let last = state.updates.last().unwrap();
    assert_eq!(last.len(), 1, "what was answered is not said again");
    assert!(
        state.updates.iter().all(|batch| batch.first().unwrap().fence != Fence(5) || batch == last)
    );
}

#[test]
fn report_refused_as_stale_is_dropped_and_one_refused_for_now_is_kept() {
    let world = World::new("stale", 2, GRACE);
    world.leader.state().refuse = Some((Fence(1), Code::StaleFence));
    world.begin(1, "true");
    world.reported(1);
    world.leader.state().refuse = Some((Fence(2), Code::Unavailable));
    world.begin(2, "true");
    world.until("it is sent again", |state| state.updates.len() >= 4);
    let state = world.leader.state();
    assert!(state.updates[1..].iter().flatten().all(|update| update.fence == Fence(2)));
}

#[test]
fn worker_judged_lost_ends_its_commands_and_registers_anew() {
    let world = World::new("lost", 2, GRACE);
    let former = world.worker().incarnation();
    world.begin(1, "trap '' TERM; echo $$ > pid; (setsid sh -c 'echo $$ > child; sleep 600; :' &); sleep 600; :");
    let (pid, child) = (world.pid_in("pid"), world.pid_in("child"));
    world.leader.state().heartbeat = Mood::Supersedes;
    world.until("a second registration", |state| state.registrations.len() >= 2);
    assert!(!lives(pid), "it registers anew only when its commands are gone");
    {
        let mut state = world.leader.state();
        state.heartbeat = Mood::Answers;
        // From here on each was answered.
        state.heartbeats.clear();
    }
    world.gone(child);
    {
        let state = world.leader.state();
        let anew = &state.registrations[1];
        assert!(anew.gave_up == Some(former) && anew.incarnation > former);
        assert_eq!(state.announced[1], anew.incarnation);
    }
    let current = || world.leader.state().announced.last().copied();
    world.until("a heartbeat of the new start", |state| {
        state.heartbeats.last().map(|beat| beat.1) == state.announced.last().copied()
    });
    let incarnation = current().unwrap();
    let late = world.assignment(2, "echo late >> log");
    world.tell(Notice::Begin { incarnation: former, assignment: late });
    let assignment = world.assignment(3, "echo anew >> log");
    world.tell(Notice::Begin { incarnation, assignment });
    assert_eq!(world.reported(1)[0].fence, Fence(3), "the first attempt is not reported");
    assert_eq!(world.file("log"), "anew\n");
}

#[test]
fn worker_without_a_leader_ends_its_commands_within_three_seconds_and_comes_back() {
    let world = World::new("leaderless", 2, GRACE);
    world.begin(1, "trap '' TERM; echo $$ > pid; sleep 600; :");
    let pid = world.pid_in("pid");
    let silent_from = {
        let mut state = world.leader.state();
        (state.register, state.heartbeat) = (Mood::Silent, Mood::Silent);
        Moment::now()
    };
    let last_answered = world.leader.state().heartbeats.last().unwrap().0;
    world.gone(pid);
    let now = Moment::now();
    assert!(
        now.since(last_answered) >= Duration::from_millis(2900),
        "{:?}",
        now.since(last_answered)
    );
    assert!(now.since(silent_from) < Duration::from_millis(3500), "{:?}", now.since(silent_from));
    {
        let mut state = world.leader.state();
        (state.register, state.heartbeat) = (Mood::Answers, Mood::Answers);
    }
    world.until("it registers anew", |state| {
        state.registrations.last().is_some_and(|registration| registration.gave_up.is_some())
            && state.heartbeats.last().map(|beat| beat.1) == state.announced.last().copied()
    });
    world.begin(2, "echo back");
    assert_eq!(world.reported(1)[0].verdict.output, "back\n");
}

#[test]
fn report_of_work_done_goes_before_the_registration_that_would_undo_it() {
    let world = World::new("first", 1, GRACE);
    world.until("a heartbeat", |state| !state.heartbeats.is_empty());
    {
        let mut state = world.leader.state();
        (state.heartbeat, state.update) = (Mood::Silent, Mood::Fails);
    }
    world.begin(1, "echo done");
    world.until("it has given up", |state| state.announced.len() == 2);
    world.leader.state().said.clear();
    {
        let mut state = world.leader.state();
        (state.heartbeat, state.update) = (Mood::Answers, Mood::Answers);
    }
    world.until("it registers anew", |state| state.registrations.len() == 2);
    let state = world.leader.state();
    let place = |word: &str| state.said.iter().position(|said| said.starts_with(word));
    assert!(place("update") < place("register"), "{:?}", state.said);
}

#[test]
fn stop_lets_commands_end_and_gives_back_what_waits() {
    let mut world = World::new("grace", 1, GRACE);
    world.begin(1, "echo $$ > pid; while [ ! -e go ]; do sleep 0.01; done; echo whole");
    world.pid_in("pid");
    world.begin(2, "echo never >> log");
    let worker = world.worker.take().unwrap();
    let stopping = task::spawn(worker.stop());
    world.until("what waits is given back", |state| state.released() == [2]);
    world.until("it says that it drains", |state| state.heartbeats.iter().any(|beat| beat.2));
    world.touch("go");
    let report = task::block_on(stopping);
    assert_eq!(report, StopReport { ended: 1, released: 1, lost: 0, unreported: 0 });
    assert_eq!(world.reported(1)[0].verdict.output, "whole\n");
    assert_eq!(world.file("log"), "");
    assert_eq!(world.leader.state().said.last().unwrap(), "release 0 leaving true");
}

#[test]
fn stop_ends_what_outlasts_the_grace_and_gives_it_back() {
    let mut world = World::new("overtime", 2, Duration::from_millis(200));
    world.begin(1, "trap '' TERM; echo $$ > deaf; while :; do sleep 0.01; done");
    world.begin(
        2,
        "trap 'echo tidied > tidy; exit 0' TERM; echo $$ > kind; while :; do sleep 0.01; done",
    );
    let pids = [world.pid_in("deaf"), world.pid_in("kind")];
    let report = world.stop();
    assert_eq!(report, StopReport { ended: 0, released: 2, lost: 0, unreported: 0 });
    assert!(!pids.into_iter().any(lives));
    assert_eq!(world.file("tidy"), "tidied\n");
    let state = world.leader.state();
    assert!(state.updates.is_empty(), "an attempt that was cut off is no verdict");
    assert_eq!(state.released(), [1, 2]);
    assert!(state.releases.last().unwrap().leaving);
}

#[test]
fn stop_without_a_leader_ends_within_its_bounds_and_leaves_nothing_running() {
    let mut world = World::new("alone", 1, Duration::from_millis(100));
    world.begin(1, "echo $$ > pid; exec sleep 600");
    let pid = world.pid_in("pid");
    {
        let mut state = world.leader.state();
        (state.heartbeat, state.update, state.release) = (Mood::Silent, Mood::Silent, Mood::Silent);
    }
    let start = Moment::now();
    let report = world.stop();
    assert_eq!(report, StopReport { ended: 0, released: 0, lost: 0, unreported: 1 });
    assert!(Moment::now().since(start) < Duration::from_secs(6));
    assert!(!lives(pid));
}

/// It has given up, and nobody has heard yet of the start that follows: what it held waits again at once.
#[test]
fn stop_between_two_starts_leaves_as_the_one_that_held_jobs() {
    let mut world = World::new("between", 1, GRACE);
    let former = world.worker().incarnation();
    world.begin(1, "echo $$ > pid; exec sleep 600");
    world.pid_in("pid");
    {
        let mut state = world.leader.state();
        state.deaf_announces = usize::MAX;
        state.heartbeat = Mood::Supersedes;
    }
    world.until("it has drawn another start", |_| world.worker().incarnation() > former);
    assert_eq!(world.stop().unreported, 0);
    let state = world.leader.state();
    let [release] = state.releases.as_slice() else { panic!("{:?}", state.said) };
    assert!(release.leaving && release.incarnation == former, "{:?}", state.said);
    assert_eq!(state.registrations.len(), 1);
}

/// The same, when it has asked in vain to be registered anew, and knows that nobody heard it.
#[test]
fn stop_after_registrations_that_nobody_heard_leaves_as_the_one_that_held_jobs() {
    let mut world = World::new("unheard", 1, GRACE);
    let former = world.worker().incarnation();
    world.begin(1, "echo $$ > pid; exec sleep 600");
    world.pid_in("pid");
    {
        let mut state = world.leader.state();
        state.heartbeat = Mood::Supersedes;
        state.register = Mood::Fails;
    }
    world.until("it asks to be registered", |state| state.registrations.len() > 1);
    assert_eq!(world.stop().unreported, 0);
    let state = world.leader.state();
    let release = state.releases.last().unwrap();
    assert!(release.leaving && release.incarnation == former, "{:?}", state.said);
}

/// Nobody answers any more: it says that it leaves before it goes, should anybody hear.
#[test]
fn stop_while_nobody_answers_its_registration_leaves_unasked() {
    let state = State { register: Mood::Silent, ..State::default() };
    let mut world = World::with("hung", 1, GRACE, state);
    world.until("it asks to be registered", |state| !state.registrations.is_empty());
    world.stop();
    let state = world.leader.state();
    let release = state.releases.last().unwrap();
    assert!(release.leaving && release.incarnation == state.registrations[0].incarnation);
}

/// The leader may have registered it, and given it jobs that nobody would run.
#[test]
fn stop_while_it_registers_finds_out_and_leaves() {
    let state = State { register: Mood::Loses, ..State::default() };
    let mut world = World::with("midway", 1, GRACE, state);
    world.until("it asks to be registered", |state| !state.registrations.is_empty());
    let worker = world.worker.take().unwrap();
    let stopping = task::spawn(worker.stop());
    let asked = world.leader.state().registrations.len();
    world.until("it asks on", |state| state.registrations.len() > asked);
    assert!(world.leader.state().releases.is_empty());
    world.leader.state().register = Mood::Answers;
    assert_eq!(task::block_on(stopping), StopReport::default());
    let state = world.leader.state();
    let release = state.releases.last().unwrap();
    assert!(release.leaving && release.incarnation == state.registrations[0].incarnation);
}

#[test]
fn stop_of_an_idle_worker_is_quick() {
    let mut world = World::new("idle", 1, GRACE);
    world.until("a heartbeat", |state| !state.heartbeats.is_empty());
    let start = Moment::now();
    assert_eq!(world.stop(), StopReport::default());
    assert!(Moment::now().since(start) < Duration::from_secs(2));
}

#[test]
fn worker_dropped_ends_its_commands_and_says_nothing() {
    let mut world = World::new("dropped", 1, GRACE);
    world.begin(1, "trap '' TERM; echo $$ > pid; sleep 600; :");
    let pid = world.pid_in("pid");
    world.worker = None;
    world.gone(pid);
    assert!(world.leader.state().releases.is_empty());
}

#[test]
fn leader_changed_hears_at_once_that_the_worker_lives() {
    let world = World::new("inaugural", 1, GRACE);
    world.until("a heartbeat", |state| !state.heartbeats.is_empty());
    // The next one is due in a second; what is on its way to the former leader is not waited for.
    let (count, last) = {
        let state = world.leader.state();
        (state.heartbeats.len(), state.heartbeats.last().unwrap().0)
    };
    world.tell(Notice::Leader);
    world.until("another heartbeat", |state| state.heartbeats.len() > count);
    let since = world.leader.state().heartbeats[count].0.since(last);
    assert!(since < Duration::from_millis(800), "{since:?}");
}

#[test]
fn guard_that_cannot_be_started_is_told_at_once() {
    let config = BuiltInConfig {
        worker: WorkerId::new("node-1").unwrap(),
        slots: 1,
        tags: raftq::jobs::options::Tags::default(),
        guard: "/no/such/program".into(),
        guard_args: Vec::new(),
        adopts: false,
        grace: GRACE,
        first: Incarnation(1),
        seed: 7,
    };
    let (_notices, heard) = channel::bounded(1);
    let reports = Arc::new(Leader::default());
    let none = BuiltInConfig { slots: 0, ..config.clone() };
    assert!(start(config, reports.clone(), Box::new(|_| true), heard.clone()).is_err());
    assert!(start(none, reports, Box::new(|_| true), heard).is_err());
}

#[test]
fn guard_that_never_lives_makes_the_worker_drain() {
    // A program that ends at once, and so is no guard.
    let config = BuiltInConfig {
        worker: WorkerId::new("node-1").unwrap(),
        slots: 1,
        tags: raftq::jobs::options::Tags::default(),
        guard: "true".into(),
        guard_args: Vec::new(),
        adopts: false,
        grace: GRACE,
        first: Incarnation(1),
        seed: 7,
    };
    let (_notices, heard) = channel::bounded(1);
    let leader = Leader::default();
    let worker = start(config, Arc::new(leader.clone()), Box::new(|_| true), heard).unwrap();
    let start = Moment::now();
    while !leader.state().heartbeats.iter().any(|beat| beat.2) {
        assert!(Moment::now().since(start) < PATIENCE, "it takes jobs that it cannot run");
        thread::sleep(Duration::from_millis(5));
    }
    task::block_on(worker.stop());
}

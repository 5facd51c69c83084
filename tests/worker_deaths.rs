//! Guards that die or stand still: what becomes of their commands, and what their jobs pay.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "a test that meets the unexpected fails there; its module is no library"
)]

#[expect(dead_code, reason = "shared with the tests of a worker's life")]
mod worker_world;

use std::time::Duration;

use async_std::task;
use raftq::types::{Fence, Incarnation};
use raftq::worker::clock::Moment;
use raftq::worker::runner::StopReport;
use rustix::process::{Signal, kill_process};

use worker_world::{GRACE, Mood, World, lives};

#[test]
fn guard_killed_is_the_death_of_the_worker_and_leaves_no_command() {
    let world = World::new("beheaded", 2, GRACE);
    let former = world.worker().incarnation();
    world.begin(
        1,
        "echo $PPID > guard; trap '' TERM; echo $$ > pid; \
         (setsid sh -c 'echo $$ > child; sleep 600; :' &); sleep 600; :",
    );
    let (guard, pid, child) = (world.pid_in("guard"), world.pid_in("pid"), world.pid_in("child"));
    kill_process(guard, Signal::KILL).unwrap();
    let mut alive = false;
    world.until("it registers anew", |state| {
        let again = state.registrations.len() >= 2;
        alive |= again && (lives(pid) || lives(child));
        again
    });
    assert!(!alive, "it registers anew only when its processes are gone");
    world.begins_as_new(2, former, None);
    assert_eq!(world.leader.state().released(), [0; 0], "a job that was begun is not given back");
}

#[test]
fn guard_killed_by_its_command_costs_an_attempt_each_time_and_comes_back_later_and_later() {
    let world = World::with_noted_guards("patricide");
    let takes_jobs = |of: Incarnation| {
        world.until("the start takes jobs", |state| {
            state.heartbeats.last().is_some_and(|beat| beat.1 == of && !beat.2)
        });
    };
    for fence in 1..=5 {
        let former = world.worker().incarnation();
        takes_jobs(former);
        let script = "date +%s%N >> kills; kill -9 $PPID; sleep 600";
        world.begin(fence, script);
        world.until("a new start", |_| world.worker().incarnation() != former);
    }
    let incarnation = world.worker().incarnation();
    takes_jobs(incarnation);
    world.begin(9, "echo on it goes");
    assert_eq!(world.reported(1)[0].fence, Fence(9), "no end of the others is known");
    let state = world.leader.state();
    assert!(state.registrations.iter().all(|registration| registration.gave_up.is_none()));
    assert_eq!(state.released(), [0; 0]);
    assert!(
        state.heartbeats.iter().any(|beat| beat.1 == incarnation && beat.2),
        "it takes no jobs while no guard lives"
    );
    let times = |file| {
        let text = world.file(file);
        text.lines().map(|line| line.parse().unwrap()).collect::<Vec<u64>>()
    };
    let (starts, kills) = (times("starts"), times("kills"));
    assert_eq!((starts.len(), kills.len()), (6, 5));
    let pauses = kills.iter().zip(&starts[1..]).map(|(kill, start)| (start - kill) / 1_000_000);
    for (pause, most) in pauses.zip([50, 100, 200, 400, 800]) {
        assert!(pause >= most / 2, "{pause} ms, and it should be half of {most} at least");
    }
}

#[test]
fn guard_killed_takes_a_report_of_work_done_along_first() {
    let world = World::new("beforehand", 2, GRACE);
    world.leader.state().update = Mood::Fails;
    world.begin(1, "echo done");
    world.until("the end is known", |state| !state.updates.is_empty());
    world.begin(2, "kill -9 $PPID; sleep 600");
    world.until("a new start", |state| state.announced.len() == 2);
    world.leader.state().said.clear();
    world.leader.state().update = Mood::Answers;
    world.until("it registers anew", |state| state.registrations.len() == 2);
    let state = world.leader.state();
    let place = |word: &str| state.said.iter().position(|said| said.starts_with(word));
    assert!(place("update") < place("register"), "{:?}", state.said);
}

#[test]
fn guard_killed_during_a_stop_takes_the_worker_along_without_a_word_of_leaving() {
    let mut world = World::new("parting", 1, GRACE);
    world.begin(
        1,
        "echo $$ > pid; while [ ! -e go ]; do sleep 0.01; done; kill -9 $PPID; sleep 600",
    );
    let pid = world.pid_in("pid");
    world.begin(2, "echo never");
    let stopping = task::spawn(world.worker.take().unwrap().stop());
    world.until("what waits is given back", |state| state.released() == [2]);
    world.touch("go");
    let report = task::block_on(stopping);
    assert_eq!(report, StopReport { ended: 0, released: 1, lost: 1, unreported: 0 });
    assert!(!lives(pid));
    assert!(world.leader.state().releases.iter().all(|release| !release.leaving));
}

#[test]
fn guard_frozen_with_a_command_to_end_is_ended_in_time_and_replaced() {
    let world = World::new("stunned", 2, GRACE);
    let former = world.worker().incarnation();
    world.begin(1, "echo $PPID > guard; echo $$ > pid; exec sleep 600");
    world.begin(2, "echo $$ > cancelled; exec sleep 600");
    let (guard, pid) = (world.pid_in("guard"), world.pid_in("pid"));
    let cancelled = world.pid_in("cancelled");
    let frozen_at = Moment::now();
    kill_process(guard, Signal::STOP).unwrap();
    world.end(2);
    world.gone(cancelled);
    assert!(Moment::now().since(frozen_at) < Duration::from_millis(2900));
    world.until("it registers anew", |state| state.registrations.len() >= 2);
    assert!(!lives(pid) && !lives(guard));
    world.begins_as_new(3, former, None);
}

#[test]
fn guard_frozen_with_nothing_to_end_is_given_time_and_then_replaced() {
    let world = World::new("dazed", 1, GRACE);
    let former = world.worker().incarnation();
    world.begin(1, "echo $PPID > guard; echo $$ > pid; exec sleep 600");
    let (guard, pid) = (world.pid_in("guard"), world.pid_in("pid"));
    let frozen_at = Moment::now();
    kill_process(guard, Signal::STOP).unwrap();
    world.gone(pid);
    let after = Moment::now().since(frozen_at);
    assert!(after > Duration::from_secs(5), "a slow guard is no dead one: {after:?}");
    assert!(after < Duration::from_secs(12), "{after:?}");
    world.until("it registers anew", |state| state.registrations.len() >= 2);
    world.begins_as_new(2, former, None);
}

#[test]
fn guard_frozen_without_a_leader_outlives_the_lease_by_less_than_three_seconds() {
    let world = World::new("numb", 1, GRACE);
    world.begin(1, "echo $PPID > guard; echo $$ > pid; exec sleep 600");
    let (guard, pid) = (world.pid_in("guard"), world.pid_in("pid"));
    let answered = {
        let mut state = world.leader.state();
        (state.register, state.heartbeat) = (Mood::Silent, Mood::Silent);
        state.heartbeats.last().unwrap().0
    };
    // Shortly before the lease ends: the worker learns that its guard is frozen after it.
    let freeze_at = answered.after(Duration::from_millis(2800));
    world.until("the lease is nearly over", |_| Moment::now() >= freeze_at);
    kill_process(guard, Signal::STOP).unwrap();
    world.gone(pid);
    let outlived = Moment::now().since(answered.after(Duration::from_secs(3)));
    assert!(outlived < Duration::from_secs(3), "{outlived:?}");
    world.leader.state().register = Mood::Answers;
    world.until("it registers anew", |state| state.registrations.len() >= 2);
    let state = world.leader.state();
    let former = state.registrations[0].incarnation;
    assert_eq!(state.registrations[1].gave_up, Some(former), "it gave up before the guard died");
}

#[test]
fn stop_with_a_frozen_guard_ends_within_its_bounds_and_leaves_nothing_running() {
    let mut world = World::new("petrified", 1, Duration::from_millis(100));
    world.begin(
        1,
        "trap 'echo 1 > asked' TERM; echo $PPID > guard; echo $$ > pid; while :; do sleep 0.01; done",
    );
    let (guard, pid) = (world.pid_in("guard"), world.pid_in("pid"));
    let start = Moment::now();
    let stopping = task::spawn(world.worker.take().unwrap().stop());
    // Between the first signal and the last.
    world.pid_in("asked");
    kill_process(guard, Signal::STOP).unwrap();
    let mut alive = false;
    world.until("it leaves", |state| {
        let left = state.releases.iter().any(|release| release.leaving);
        alive |= left && (lives(pid) || lives(guard));
        left
    });
    assert!(!alive, "it leaves only when its commands are gone");
    // It was ended in order, whichever patience was over first.
    let report = task::block_on(stopping);
    assert_eq!(report, StopReport { ended: 0, released: 1, lost: 0, unreported: 0 });
    assert!(Moment::now().since(start) < Duration::from_secs(6));
    assert_eq!(world.leader.state().released(), [1]);
}

#[test]
fn stop_with_a_frozen_idle_guard_leaves_no_guard() {
    let mut world = World::new("statue", 1, GRACE);
    world.begin(1, "echo $PPID > guard");
    let guard = world.pid_in("guard");
    world.reported(1);
    kill_process(guard, Signal::STOP).unwrap();
    let start = Moment::now();
    world.stop();
    assert!(Moment::now().since(start) < Duration::from_secs(7));
    assert!(!lives(guard));
}

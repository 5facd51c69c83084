//! What is forgotten, when, and what of it stays known.

use raftq::jobs::command::{CancelOutcome, Command, Limits, SubmitOutcome, UpdateOutcome};
use raftq::jobs::job::Status;
use raftq::jobs::resident::{ENDING_BYTES, weight};
use raftq::types::Fence;

use crate::support::{Rig, command, id, payload, update};

fn limits() -> Limits {
    Limits { finished_age_ms_max: 10_000, id_kept_ms: 5_000, ..Limits::default() }
}

/// Submits a payload and cancels it, so that it is finished.
fn finish(rig: &mut Rig, number: u64, bytes: &'static [u8]) {
    assert_eq!(rig.submit(payload(number, "q", bytes)), SubmitOutcome::Created);
    assert_eq!(rig.cancel(number), CancelOutcome::Cancelled);
}

fn kept(rig: &Rig, numbers: std::ops::RangeInclusive<u64>) -> Vec<u64> {
    numbers.filter(|number| rig.machine.job(id(*number)).is_some()).collect()
}

#[test]
fn finished_beyond_count_are_forgotten_oldest_ending_first() {
    let mut rig = Rig::with_limits(Limits { finished_count_max: 2, ..limits() });
    rig.submit_commands(1..=4);
    for number in [3, 1, 4, 2] {
        rig.cancel(number);
    }
    assert_eq!(kept(&rig, 1..=4), [2, 4]);
    assert_eq!(rig.machine.counts().forgotten, 2);
}

#[test]
fn finished_beyond_bytes_are_forgotten_whatever_the_count() {
    let told = ENDING_BYTES + "cancelled while it waited".len() as u64;
    let limits =
        Limits { finished_bytes_max: 2 * (weight(&payload(1, "q", b"1234")) + told), ..limits() };
    let mut rig = Rig::with_limits(limits);
    for number in 1..=3 {
        finish(&mut rig, number, b"1234");
    }
    assert_eq!(kept(&rig, 1..=3), [2, 3]);
    finish(&mut rig, 4, b"12345");
    assert_eq!(kept(&rig, 1..=4), [4]);
}

#[test]
fn finished_take_at_most_half_of_all_room() {
    let limits = Limits { resident_bytes_max: 4_000, id_kept_ms: 0, ..Limits::default() };
    let mut rig = Rig::with_limits(limits);
    for number in 1..=40 {
        finish(&mut rig, number, b"1234");
        assert!(rig.machine.counts().finished_bytes <= 2_000);
    }
    assert!(rig.machine.counts().cancelled > 1);
}

#[test]
fn finished_beyond_age_are_forgotten_with_the_next_entry() {
    let mut rig = Rig::with_limits(limits());
    finish(&mut rig, 1, b"");
    rig.now += 10_000;
    rig.submit_commands([2]);
    assert_eq!(kept(&rig, 1..=2), [1, 2], "at the limit it is kept");
    rig.now += 1;
    rig.submit_commands([3]);
    assert_eq!(kept(&rig, 1..=3), [2, 3], "what waits has no age");
}

#[test]
fn forgotten_id_is_known_until_it_expires() {
    let mut rig = Rig::with_limits(Limits { finished_count_max: 0, ..limits() });
    finish(&mut rig, 1, b"a");
    assert!(rig.machine.job(id(1)).is_none() && rig.machine.is_known(id(1)));
    assert_eq!(rig.submit(payload(1, "q", b"a")), SubmitOutcome::Known);
    assert_eq!(rig.submit(payload(1, "q", b"b")), SubmitOutcome::AlreadyExists);
    assert_eq!(rig.cancel(1), CancelOutcome::NotFound);
    assert_eq!(rig.report(update(1, Fence(1), true)), UpdateOutcome::NotFound);
    rig.now += 4_999;
    assert_eq!(rig.submit(payload(1, "q", b"a")), SubmitOutcome::Known);
    rig.now += 1;
    // The entry at which it expires still knew it.
    assert_eq!(rig.submit(payload(1, "q", b"a")), SubmitOutcome::Known);
    assert!(!rig.machine.is_known(id(1)));
    assert_eq!(rig.submit(payload(1, "q", b"a")), SubmitOutcome::Created);
}

#[test]
fn forgotten_ids_weigh_until_they_expire() {
    let mut rig = Rig::with_limits(Limits { finished_count_max: 0, ..limits() });
    assert_eq!(rig.machine.counts().resident_bytes, 0);
    finish(&mut rig, 1, b"a");
    assert!(rig.machine.counts().resident_bytes > 0);
    rig.now += 5_000;
    rig.apply(Command::WorkerLost(vec![]));
    assert_eq!(rig.machine.counts().resident_bytes, 0);
}

#[test]
fn lowered_limit_takes_effect_over_the_entries_that_follow() {
    let mut rig = Rig::with_limits(limits());
    rig.submit_commands(1..=300);
    rig.apply(Command::CancelJob((1..=300).map(id).collect()));
    rig.apply(Command::SetLimits(Limits { finished_count_max: 0, ..limits() }));
    let left = rig.machine.counts().cancelled;
    assert!((1..300).contains(&left), "bounded work in one entry: {left} left");
    for _ in 0..5 {
        rig.apply(Command::WorkerLost(vec![]));
    }
    assert_eq!(rig.machine.counts().cancelled, 0);
}

#[test]
fn forgetting_keeps_up_with_large_entries() {
    let mut rig = Rig::with_limits(Limits { finished_count_max: 10, ..limits() });
    for round in 0..4u64 {
        let numbers = round * 500 + 1..=round * 500 + 500;
        rig.apply(Command::SubmitJob(numbers.clone().map(command).collect()));
        rig.apply(Command::CancelJob(numbers.map(id).collect()));
        assert_eq!(rig.machine.counts().of(Status::Cancelled), 10);
        rig.now += 6_000;
    }
    assert!(rig.machine.counts().forgotten <= 1_000);
}

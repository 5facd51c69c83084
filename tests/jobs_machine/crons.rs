//! Crons, by example: which slots become jobs, once each, and what of them is kept.

use std::sync::Arc;

use proptest::prelude::*;
use raftq::jobs::command::{
    AddCron, Command, CronAddOutcome, CronChangeOutcome, CronFire, Fired, Limits, Outcome,
    SubmitOutcome,
};
use raftq::jobs::cron::{
    CRONS_MAX, CronChange, CronView, MADE_UP_MAX, Missed, NewCron, ON_TIME_MS,
};
use raftq::jobs::job::Body;
use raftq::jobs::options::Options;
use raftq::jobs::rules::QueueChange;
use raftq::types::{CronName, Index, JobId, Millis};

use crate::support::{Rig, id, queue};

fn name(text: &str) -> CronName {
    CronName::new(text).unwrap()
}

/// A cron of every ten seconds.
pub(crate) fn cron(text: &str, missed: Missed) -> NewCron {
    NewCron {
        name: name(text),
        spec: "@every 10s".into(),
        tz: "UTC".into(),
        missed,
        queue: queue("ticks"),
        body: Body::Command(vec!["true".into()]),
        options: None,
    }
}

fn add(rig: &mut Rig, cron: NewCron, next: u64) -> CronAddOutcome {
    let add = AddCron { cron: Arc::new(cron), next_ms: Some(Millis(next)) };
    let Outcome::CronAdded(outcome) = rig.apply(Command::AddCron(add)) else {
        panic!("not the outcome of an addition")
    };
    outcome
}

fn change(rig: &mut Rig, text: &str, change: CronChange, next: Option<u64>) -> CronChangeOutcome {
    let command = Command::ChangeCron(name(text), change, next.map(Millis));
    let Outcome::CronChanged(outcome) = rig.apply(command) else {
        panic!("not the outcome of a change")
    };
    outcome
}

fn view(rig: &Rig, text: &str) -> CronView {
    rig.machine.crons().get(&name(text)).unwrap().view(true)
}

/// Proposes a slot of a cron with the one after it, as a leader does.
fn fire(rig: &mut Rig, text: &str, slot: u64, next: u64) -> Fired {
    let created = rig.machine.crons().get(&name(text)).map_or(Index(0), |cron| cron.created);
    let (slot_ms, next_ms) = (Millis(slot), Some(Millis(next)));
    let fire = CronFire { name: name(text), created, slot_ms, next_ms };
    fire_all(rig, vec![fire])[0]
}

fn fire_all(rig: &mut Rig, fires: Vec<CronFire>) -> Vec<Fired> {
    let Outcome::CronsFired(outcomes) = rig.apply(Command::FireCron(fires)) else {
        panic!("not the outcome of slots")
    };
    outcomes
}

/// Fires everything that is due, as a leader would with this spec. Returns what each slot came to.
fn fire_due(rig: &mut Rig, text: &str) -> Vec<Fired> {
    let mut outcomes = Vec::new();
    loop {
        let now = Millis(rig.now);
        let due = rig.machine.crons().due(now).next().map(|(slot, cron)| {
            let after = cron.resumes_after(slot, now);
            (slot.0, slot.0 + ((after.0 - slot.0) / 10_000 + 1) * 10_000)
        });
        let Some((slot, next)) = due else { return outcomes };
        outcomes.push(fire(rig, text, slot, next));
    }
}

fn count(outcomes: &[Fired]) -> usize {
    outcomes.iter().filter(|it| matches!(it, Fired::Submitted(_))).count()
}

#[test]
fn slot_becomes_one_job_whoever_proposes_it_and_how_often() {
    let mut rig = Rig::new();
    let next_ms = Some(Millis(11_000));
    assert_eq!(add(&mut rig, cron("c", Missed::Skip), 11_000), CronAddOutcome::Created { next_ms });
    rig.now = 11_020;
    let Fired::Submitted(job) = fire(&mut rig, "c", 11_000, 21_000) else { panic!("not fired") };
    assert_eq!(fire(&mut rig, "c", 11_000, 21_000), Fired::Stale, "the same slot again");
    assert_eq!(fire(&mut rig, "c", 11_000, 31_000), Fired::Stale, "with another one after it");
    let job_view = rig.machine.view(job).unwrap();
    assert_eq!(
        (job_view.queue, job_view.body.unwrap()),
        (queue("ticks"), cron("c", Missed::Skip).body)
    );
    assert_eq!(job.0[..6], 11_000u64.to_be_bytes()[2..], "its id begins with the slot");
    let view = view(&rig, "c");
    assert_eq!((view.fired, view.last_job), (1, Some(job)));
    assert_eq!((view.last_slot_ms, view.next_ms), (Some(Millis(11_000)), Some(Millis(21_000))));
    assert_eq!(rig.machine.counts().pending, 1);
}

#[test]
fn slot_that_is_not_the_next_or_not_yet_there_is_passed_over() {
    let mut rig = Rig::new();
    add(&mut rig, cron("c", Missed::Skip), 11_000);
    rig.now = 10_999;
    assert_eq!(fire(&mut rig, "c", 11_000, 21_000), Fired::Stale, "a millisecond early");
    rig.now = 25_000;
    assert_eq!(fire(&mut rig, "c", 21_000, 31_000), Fired::Stale, "11,000 comes first");
    assert_eq!(fire(&mut rig, "d", 11_000, 21_000), Fired::Stale, "no such cron");
    assert!(matches!(fire(&mut rig, "c", 11_000, 11_000), Fired::Submitted(_)));
    assert_eq!(view(&rig, "c").next_ms, None, "a slot after it that is not after it is none");
    assert_eq!(rig.machine.crons().due(Millis(u64::MAX)).count(), 0);
}

#[test]
fn cron_of_a_former_one_s_name_is_another_cron() {
    let mut rig = Rig::new();
    add(&mut rig, cron("c", Missed::Skip), 11_000);
    let created = rig.machine.crons().get(&name("c")).unwrap().created;
    assert_eq!(add(&mut rig, cron("c", Missed::Once), 11_000), CronAddOutcome::AlreadyExists);
    let known = CronAddOutcome::Known { next_ms: Some(Millis(11_000)) };
    assert_eq!(add(&mut rig, cron("c", Missed::Skip), 12_000), known);
    rig.now = 12_000;
    let Fired::Submitted(first) = fire(&mut rig, "c", 11_000, 21_000) else { panic!("not fired") };
    assert_eq!(
        change(&mut rig, "c", CronChange::Remove, None),
        CronChangeOutcome::Changed { next_ms: None }
    );
    assert_eq!(change(&mut rig, "c", CronChange::Remove, None), CronChangeOutcome::NotFound);
    assert!(rig.machine.job(first).is_some(), "its jobs stay");
    add(&mut rig, cron("c", Missed::Skip), 11_000);
    let (slot_ms, next_ms) = (Millis(11_000), None);
    let old = CronFire { name: name("c"), created, slot_ms, next_ms };
    assert_eq!(fire_all(&mut rig, vec![old]), [Fired::Stale], "meant for the one that is gone");
    let Fired::Submitted(second) = fire(&mut rig, "c", 11_000, 21_000) else { panic!("not fired") };
    assert_ne!(first, second, "its jobs have ids of their own");
    assert_eq!(rig.machine.crons_fired(), 2);
}

#[test]
fn slots_within_a_minute_are_on_time_and_later_ones_were_missed() {
    for (late, fires) in [(0, true), (ON_TIME_MS - 1, true), (ON_TIME_MS, false)] {
        let mut rig = Rig::new();
        add(&mut rig, cron("c", Missed::Skip), 11_000);
        rig.now = 11_000 + late;
        let fired = fire(&mut rig, "c", 11_000, 21_000);
        assert_eq!(matches!(fired, Fired::Submitted(_)), fires, "{late} ms late: {fired:?}");
        assert_eq!(view(&rig, "c").skipped, u64::from(!fires));
    }
}

#[test]
fn missed_slots_are_left_out_made_up_for_by_one_or_by_all() {
    // From 11,000 on every ten seconds, and nobody leads until 205,000: 11,000 to 141,000 are late, 14 of them; 151,000
    // to 201,000 are on time, 6 of them.
    for (missed, jobs, entries, skipped) in
        [(Missed::Skip, 6, 7, 1), (Missed::Once, 7, 7, 0), (Missed::All, 20, 20, 0)]
    {
        let mut rig = Rig::new();
        add(&mut rig, cron("c", missed), 11_000);
        rig.now = 205_000;
        let outcomes = fire_due(&mut rig, "c");
        assert_eq!((count(&outcomes), outcomes.len()), (jobs, entries), "{missed:?}");
        let view = view(&rig, "c");
        assert_eq!((view.fired, view.skipped), (jobs as u64, skipped), "{missed:?}");
        assert_eq!(view.next_ms, Some(Millis(211_000)));
        // The next time it is the same again.
        rig.now = 405_000;
        assert_eq!(count(&fire_due(&mut rig, "c")), jobs, "{missed:?}");
    }
}

#[test]
fn making_up_for_all_ends_at_its_bound() {
    let mut rig = Rig::new();
    add(&mut rig, cron("c", Missed::All), 11_000);
    rig.now = 11_000 + 10_000 * 2_000_000;
    let outcomes = fire_due(&mut rig, "c");
    assert_eq!(count(&outcomes), MADE_UP_MAX as usize + 6, "and those of the last minute");
    assert_eq!(outcomes.len(), MADE_UP_MAX as usize + 6, "the others are jumped over");
}

#[test]
fn paused_cron_fires_nothing_and_goes_on_without_what_it_missed() {
    let mut rig = Rig::new();
    add(&mut rig, cron("c", Missed::All), 11_000);
    assert_eq!(
        change(&mut rig, "c", CronChange::Pause, None),
        CronChangeOutcome::Changed { next_ms: None }
    );
    let since = view(&rig, "c").paused_ms;
    assert_eq!(since, Some(Millis(1_000)));
    rig.now = 11_000;
    change(&mut rig, "c", CronChange::Pause, None);
    assert_eq!(view(&rig, "c").paused_ms, since, "the first one counts");
    assert_eq!(fire(&mut rig, "c", 11_000, 21_000), Fired::Stale);
    let next_ms = Some(Millis(31_000));
    assert_eq!(
        change(&mut rig, "c", CronChange::Resume, Some(31_000)),
        CronChangeOutcome::Changed { next_ms }
    );
    assert_eq!(
        change(&mut rig, "c", CronChange::Resume, Some(99_000)),
        CronChangeOutcome::Changed { next_ms }
    );
    assert_eq!(view(&rig, "c").paused_ms, None);
}

#[test]
fn triggered_cron_submits_one_job_under_the_id_it_is_told() {
    let mut rig = Rig::new();
    add(&mut rig, cron("c", Missed::Skip), 11_000);
    let next_ms = Some(Millis(11_000));
    for _ in 0..2 {
        let outcome = change(&mut rig, "c", CronChange::Trigger(id(7)), None);
        assert_eq!(outcome, CronChangeOutcome::Changed { next_ms });
    }
    assert_eq!((rig.machine.counts().pending, view(&rig, "c").last_job), (1, Some(id(7))));
    assert_eq!(view(&rig, "c").fired, 0, "it was no slot");
    rig.submit_commands([8]);
    let refused = CronChangeOutcome::Refused(id(8), SubmitOutcome::AlreadyExists);
    assert_eq!(change(&mut rig, "c", CronChange::Trigger(id(8)), None), refused);
}

#[test]
fn slot_whose_job_is_refused_is_over_and_the_cron_says_why() {
    let mut rig = Rig::new();
    add(&mut rig, cron("c", Missed::Skip), 11_000);
    rig.apply(Command::ChangeQueue(queue("ticks"), QueueChange::Drain));
    rig.now = 11_000;
    assert_eq!(fire(&mut rig, "c", 11_000, 21_000), Fired::Refused);
    let error = view(&rig, "c").last_error.unwrap();
    assert!(error.contains("queue ticks was being drained"), "{error}");
    assert_eq!(view(&rig, "c").fired, 0);
    rig.apply(Command::ChangeQueue(queue("ticks"), QueueChange::Resume));
    rig.now = 21_000;
    assert!(matches!(fire(&mut rig, "c", 21_000, 31_000), Fired::Submitted(_)));
    assert_eq!(view(&rig, "c").last_error, None);
}

#[test]
fn crons_are_bounded_in_number_and_in_bytes() {
    let mut machine = raftq::jobs::machine::Machine::new();
    let mut outcome = |number: usize| {
        let cron = Arc::new(cron(&format!("c{number}"), Missed::Skip));
        let command = Command::AddCron(AddCron { cron, next_ms: None });
        let stamped = raftq::jobs::command::Stamped { now: Millis(1), command };
        machine.apply(machine.applied_index().next(), &stamped).outcome
    };
    for number in 0..CRONS_MAX {
        assert_eq!(outcome(number), Outcome::CronAdded(CronAddOutcome::Created { next_ms: None }));
    }
    assert_eq!(outcome(CRONS_MAX), Outcome::CronAdded(CronAddOutcome::TooMany));
    let limits = Limits { resident_bytes_max: 20_000, ..Limits::default() };
    let mut rig = Rig::with_limits(limits);
    let large =
        |text| NewCron { body: Body::Payload(vec![1; 15_000].into()), ..cron(text, Missed::Skip) };
    assert!(matches!(add(&mut rig, large("a"), 11_000), CronAddOutcome::Created { .. }));
    assert_eq!(add(&mut rig, large("b"), 11_000), CronAddOutcome::Exhausted);
    assert!(rig.machine.counts().resident_bytes > 15_000);
    change(&mut rig, "a", CronChange::Remove, None);
    assert_eq!(rig.machine.counts().resident_bytes, 0);
}

#[test]
fn cron_that_is_none_is_refused_by_every_replica_alike() {
    let plain = || cron("c", Missed::Skip);
    let options = |options| Options::shared(options);
    for (wrong, why) in [
        (NewCron { spec: "0 25 * * *".into(), ..plain() }, "field 2 (hour): 25 is out of 0 to 23"),
        (NewCron { spec: "x".repeat(300), ..plain() }, "300 bytes"),
        (NewCron { tz: "../etc/passwd".into(), ..plain() }, "Europe/Berlin"),
        (NewCron { tz: String::new(), ..plain() }, "Europe/Berlin"),
        (NewCron { body: Body::Command(vec![]), ..plain() }, "empty command"),
        (
            NewCron {
                options: options(Options { at_ms: Some(Millis(1)), ..Options::default() }),
                ..plain()
            },
            "name a delay",
        ),
        (
            NewCron { options: options(Options { priority: 11, ..Options::default() }), ..plain() },
            "0 to 9",
        ),
    ] {
        let CronAddOutcome::Invalid(fault) = add(&mut Rig::new(), wrong, 11_000) else {
            panic!("{why}: taken")
        };
        assert!(fault.contains(why), "{fault}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// Two leaders that both propose what they see due, in any order, late or again: no slot has two jobs.
    #[test]
    fn slots_have_one_job_each_in_any_order_of_proposals(
        steps in prop::collection::vec((0u64..30_000, 0usize..3, any::<bool>()), 1..60),
        missed in prop::sample::select(Missed::ALL.to_vec()),
    ) {
        let mut rig = Rig::new();
        add(&mut rig, cron("c", missed), 11_000);
        let mut proposed: Vec<CronFire> = Vec::new();
        let mut jobs: Vec<JobId> = Vec::new();
        for (wait, again, restart) in steps {
            rig.now += wait;
            let now = Millis(rig.now);
            let due = rig.machine.crons().due(now).next().map(|(slot, cron)| {
                let after = cron.resumes_after(slot, now).0;
                let next = slot.0 + ((after - slot.0) / 10_000 + 1) * 10_000;
                (slot, Millis(next), cron.created)
            });
            if let Some((slot_ms, next, created)) = due {
                proposed.push(CronFire { name: name("c"), created, slot_ms, next_ms: Some(next) });
            }
            if restart {
                change(&mut rig, "c", CronChange::Pause, None);
                change(&mut rig, "c", CronChange::Resume, Some(now.0 + 10_000));
            }
            let repeated: Vec<CronFire> = proposed.iter().rev().take(again + 1).cloned().collect();
            for fired in fire_all(&mut rig, repeated) {
                if let Fired::Submitted(job) = fired {
                    jobs.push(job);
                }
            }
        }
        let fired = jobs.len();
        jobs.sort();
        jobs.dedup_by_key(|job| job.0[..6].to_vec());
        prop_assert_eq!(jobs.len(), fired, "a slot has two jobs");
        prop_assert_eq!(view(&rig, "c").fired, fired as u64);
    }
}

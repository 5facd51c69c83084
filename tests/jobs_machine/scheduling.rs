//! The scheduler's choice: by example, and against a naive oracle.

use std::collections::BTreeMap;

use proptest::prelude::*;
use raftq::jobs::command::{Command, Pair};
use raftq::jobs::intake::Intake;
use raftq::jobs::job::{Serves, Status};
use raftq::jobs::machine::Machine;
use raftq::jobs::registry::{Load, WorkerState};
use raftq::jobs::scheduler::{Proposed, schedule};
use raftq::types::{Fence, Incarnation, JobId, QueueName, WorkerId};

use crate::properties::{Op, ops, run};
use crate::support::{Rig, id, pair, payload, queue, registration, update};

fn everyone(_: &WorkerId, _: Incarnation) -> bool {
    true
}

fn chosen(rig: &Rig, proposed: &Proposed, max: usize) -> Vec<(u64, String)> {
    told(&schedule(&rig.machine, &everyone, proposed, max))
}

fn told(pairs: &[Pair]) -> Vec<(u64, String)> {
    let number = |pair: &Pair| (1..1_000).find(|number| id(*number) == pair.job).unwrap();
    pairs.iter().map(|pair| (number(pair), pair.worker.to_string())).collect()
}

fn words(expected: &[(u64, &str)]) -> Vec<(u64, String)> {
    expected.iter().map(|(number, name)| (*number, (*name).into())).collect()
}

#[test]
fn schedule_without_jobs_or_workers_chooses_nothing() {
    let mut rig = Rig::new();
    assert!(chosen(&rig, &Proposed::default(), 10).is_empty());
    rig.submit_commands([1]);
    assert!(chosen(&rig, &Proposed::default(), 10).is_empty());
    let mut rig = Rig::new();
    rig.register_commands("a", 1);
    assert!(chosen(&rig, &Proposed::default(), 10).is_empty());
}

#[test]
fn schedule_fills_slots_evenly_and_never_beyond() {
    let mut rig = Rig::new();
    rig.submit_commands(1..=9);
    rig.register_commands("a", 2);
    rig.register_commands("b", 4);
    let expected = words(&[(1, "a"), (2, "b"), (3, "b"), (4, "a"), (5, "b"), (6, "b")]);
    assert_eq!(chosen(&rig, &Proposed::default(), 100), expected);
    assert_eq!(chosen(&rig, &Proposed::default(), 3), expected[..3]);
    assert!(chosen(&rig, &Proposed::default(), 0).is_empty());
}

#[test]
fn schedule_equal_loads_go_to_who_waited_longest() {
    let mut rig = Rig::new();
    rig.submit_commands(1..=4);
    for name in ["a", "b", "c"] {
        rig.register_commands(name, 1);
    }
    let mut fences = Vec::new();
    for (number, name) in [(1, "b"), (2, "a")] {
        fences.push((number, rig.assign_one(number, name, 1)));
    }
    for (number, fence) in fences {
        rig.report(update(number, fence, true));
    }
    assert_eq!(chosen(&rig, &Proposed::default(), 9), words(&[(3, "c"), (4, "b")]));
}

#[test]
fn schedule_of_equal_loads_takes_what_is_proposed_for_newer_than_all_applied() {
    let mut rig = Rig::new();
    rig.submit_commands(1..=4);
    rig.register_commands("a", 4);
    rig.register_commands("b", 4);
    let fence = rig.assign_one(1, "b", 1);
    rig.report(update(1, fence, true));
    rig.assign_one(2, "a", 1);
    let mut proposed = Proposed::default();
    let first = schedule(&rig.machine, &everyone, &proposed, 1);
    assert_eq!(told(&first), words(&[(3, "b")]));
    proposed.add(&first, &rig.machine);
    // One job each by now, and b was given its only after a.
    assert_eq!(chosen(&rig, &proposed, 1), words(&[(4, "a")]));
}

#[test]
fn schedule_remembers_over_a_restart_who_waited_longest() {
    let mut rig = Rig::new();
    rig.submit_commands(1..=2);
    rig.register_commands("a", 1);
    let fence = rig.assign_one(1, "a", 1);
    rig.report(update(1, fence, true));
    rig.register(registration("a", 2, 1, Serves::Commands));
    rig.register_commands("b", 1);
    assert_eq!(chosen(&rig, &Proposed::default(), 1), words(&[(2, "b")]));
}

#[test]
fn schedule_job_nobody_takes_blocks_nobody() {
    let mut rig = Rig::new();
    rig.submit(payload(1, "nobody", b""));
    rig.submit(payload(2, "mail", b""));
    rig.submit_commands([3]);
    rig.submit(payload(4, "mail", b""));
    rig.register_commands("a", 4);
    rig.register(registration("m", 1, 1, Serves::Payloads(vec![queue("mail"), queue("post")])));
    assert_eq!(chosen(&rig, &Proposed::default(), 9), words(&[(2, "m"), (3, "a")]));
}

#[test]
fn schedule_worker_of_several_queues_serves_them_in_commit_order() {
    let mut rig = Rig::new();
    for (number, name) in [(1, "z"), (2, "a"), (3, "z"), (4, "a")] {
        rig.submit(payload(number, name, b""));
    }
    rig.register(registration("w", 1, 3, Serves::Payloads(vec![queue("a"), queue("z")])));
    let expected = words(&[(1, "w"), (2, "w"), (3, "w")]);
    assert_eq!(chosen(&rig, &Proposed::default(), 9), expected);
}

#[test]
fn schedule_job_returned_by_loss_is_first_again() {
    let mut rig = Rig::new();
    rig.submit_commands(1..=3);
    rig.register_commands("a", 1);
    rig.register_commands("b", 1);
    rig.assign_one(1, "a", 1);
    rig.assign_one(2, "b", 1);
    rig.lose("a", 1);
    let fence = rig.machine.job(id(2)).unwrap().fence().unwrap();
    rig.report(update(2, fence, true));
    assert_eq!(chosen(&rig, &Proposed::default(), 9), words(&[(1, "b")]));
}

#[test]
fn schedule_passes_over_workers_that_are_not_alive() {
    let mut rig = Rig::new();
    rig.submit_commands(1..=3);
    rig.register_commands("a", 2);
    rig.register_commands("b", 2);
    let alive = |worker: &WorkerId, start: Incarnation| worker.as_str() == "b" && start.0 == 1;
    let pairs = schedule(&rig.machine, &alive, &Proposed::default(), 9);
    assert_eq!(told(&pairs), words(&[(1, "b"), (2, "b")]));
}

#[test]
fn schedule_counts_what_is_proposed() {
    let mut rig = Rig::new();
    rig.submit_commands(1..=6);
    rig.register_commands("a", 2);
    rig.register_commands("b", 2);
    let mut proposed = Proposed::default();
    assert!(proposed.is_empty());
    let first = schedule(&rig.machine, &everyone, &proposed, 3);
    assert_eq!(told(&first), words(&[(1, "a"), (2, "b"), (3, "a")]));
    proposed.add(&first, &rig.machine);
    assert_eq!(proposed.len(), 3);
    let second = schedule(&rig.machine, &everyone, &proposed, 9);
    assert_eq!(told(&second), words(&[(4, "b")]));
    proposed.add(&second, &rig.machine);
    assert!(schedule(&rig.machine, &everyone, &proposed, 9).is_empty());
    // The first entry is applied: what it took is in the machine now.
    assert_eq!(rig.assign(first.clone()), 3);
    proposed.remove(&first);
    assert!(schedule(&rig.machine, &everyone, &proposed, 9).is_empty());
    proposed.remove(&second);
    assert_eq!(told(&schedule(&rig.machine, &everyone, &proposed, 9)), words(&[(4, "b")]));
    proposed.clear();
    assert!(proposed.is_empty());
}

#[test]
fn schedule_of_a_new_start_owes_nothing_to_proposals_for_the_old() {
    let mut rig = Rig::new();
    rig.submit_commands(1..=2);
    rig.register_commands("a", 1);
    let mut proposed = Proposed::default();
    proposed.add(&[pair(1, "a", 1)], &rig.machine);
    rig.register(registration("a", 2, 1, Serves::Commands));
    let pairs = schedule(&rig.machine, &everyone, &proposed, 9);
    assert_eq!(pairs, [pair(2, "a", 2)]);
}

#[test]
fn schedule_never_fills_more_than_one_entry_holds() {
    let mut rig = Rig::new();
    rig.apply(Command::SubmitJob((1..=5_000).map(crate::support::command).collect()));
    rig.register_commands("a", 4_096);
    rig.register_commands("b", 4_096);
    assert_eq!(schedule(&rig.machine, &everyone, &Proposed::default(), usize::MAX).len(), 4_096);
}

/// Chooses as the words say, looking at everybody for every job.
fn oracle(
    machine: &Machine,
    alive: &dyn Fn(&WorkerId, Incarnation) -> bool,
    proposed: &[Vec<Pair>],
    max: usize,
) -> Vec<Pair> {
    let mut taken: BTreeMap<(WorkerId, Incarnation), (u32, usize)> = BTreeMap::new();
    let mut turn = 0;
    let mut take = |taken: &mut BTreeMap<_, (u32, usize)>, pair: &Pair| {
        turn += 1;
        let it = taken.entry((pair.worker.clone(), pair.incarnation)).or_default();
        *it = (it.0 + 1, turn);
    };
    let spoken_for: Vec<JobId> = proposed.iter().flatten().map(|pair| pair.job).collect();
    proposed.iter().flatten().for_each(|pair| take(&mut taken, pair));
    let filter = raftq::jobs::list::Filter {
        status: Some(Status::Pending),
        limit: usize::MAX,
        ..Default::default()
    };
    let views = machine.list(&filter).0;
    let mut jobs: Vec<_> = views.iter().map(|view| machine.job(view.id).unwrap()).collect();
    jobs.retain(|job| !spoken_for.contains(&job.id));
    jobs.retain(|job| !job.is_held());
    jobs.sort_by_key(|job| (std::cmp::Reverse(job.options().priority), job.sequence));
    let mut given: BTreeMap<QueueName, u64> = BTreeMap::new();
    for id in &spoken_for {
        *given.entry(machine.job(*id).unwrap().queue.clone()).or_default() += 1;
    }
    let mut pairs = Vec::new();
    for job in jobs {
        if pairs.len() == max {
            break;
        }
        let given = given.entry(job.queue.clone()).or_default();
        let running =
            machine.queues().find(|(name, _)| **name == job.queue).unwrap().1.counts.running;
        let room = machine.rules(&job.queue).map(|rules| rules.room(running, machine.now()));
        if room.is_some_and(|room| *given >= room) {
            continue;
        }
        let best = machine
            .workers()
            .filter(|worker| worker.state == WorkerState::Live && worker.intake == Intake::Open)
            .filter(|worker| alive(&worker.id, worker.incarnation) && worker.takes(&job.class()))
            .filter_map(|worker| {
                let start = (worker.id.clone(), worker.incarnation);
                let (slots, turn) = taken.get(&start).copied().unwrap_or_default();
                let load =
                    Load { running: worker.running.len() as u32 + slots, slots: worker.slots };
                let last =
                    if turn > 0 { (Fence(u64::MAX), turn) } else { (worker.last_assigned, 0) };
                (load.running < load.slots).then_some((load, last, start))
            })
            .min();
        if let Some((_, _, (worker, incarnation))) = best {
            let pair = Pair { job: job.id, worker, incarnation };
            take(&mut taken, &pair);
            *given += 1;
            pairs.push(pair);
        }
    }
    pairs
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn schedule_chooses_as_the_naive_oracle_does(
        ops in ops(),
        dead in 0u8..16,
        rounds in prop::collection::vec(0usize..6, 1..4),
    ) {
        let mut machine = Machine::new();
        run(&mut machine, &ops, &mut |_, _, _| {});
        let alive = |worker: &WorkerId, _: Incarnation| {
            let letter = worker.as_str().bytes().next().unwrap_or(0);
            dead & (1 << (letter & 3)) == 0
        };
        let mut proposed = Proposed::default();
        let mut sets: Vec<Vec<Pair>> = Vec::new();
        for max in rounds {
            let pairs = schedule(&machine, &alive, &proposed, max);
            prop_assert_eq!(&pairs, &oracle(&machine, &alive, &sets, max));
            proposed.add(&pairs, &machine);
            sets.push(pairs);
        }
        for set in &sets {
            proposed.remove(set);
        }
        prop_assert!(proposed.is_empty());
        // Everything chosen holds when it is applied at once.
        let all: Vec<Pair> = sets.concat();
        let count = all.len();
        let stamped = raftq::jobs::command::Stamped {
            now: machine.now(),
            command: Command::AssignJob(all),
        };
        let applied = machine.apply(machine.applied_index().next(), &stamped);
        prop_assert_eq!(applied.outcome, raftq::jobs::command::Outcome::Assigned(count));
    }
}

/// Keeps the generator honest: it must reach states in which there is something to choose.
#[test]
fn oracle_is_tried_on_states_with_choices() {
    let mut machine = Machine::new();
    let ops = [
        Op::Register { worker: 0, start: 1, slots: 2, serves: 0, gave_up: None },
        Op::Submit(vec![(1, 0), (2, 1)]),
    ];
    run(&mut machine, &ops, &mut |_, _, _| {});
    assert!(!schedule(&machine, &everyone, &Proposed::default(), 9).is_empty());
}

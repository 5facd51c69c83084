//! The linearizability checker on histories of whole queues: the legal ones pass, each spoilt one fails.

use std::time::Instant;

use raftq::jobs::job::Status;
use raftq::sim::generate::{Shape, history};
use raftq::sim::history::{Checked, Record, check_jobs};
use raftq::sim::job_model::{Cancelled, JobModel, Op, Reported, Seen, Submitted};
use raftq::sim::linear::STEPS_MAX;

/// Histories of one run; `RAFTQ_HISTORIES` asks for more.
fn histories() -> u64 {
    let number = std::env::var("RAFTQ_HISTORIES").ok().and_then(|text| text.parse().ok());
    number.unwrap_or(if cfg!(debug_assertions) { 60 } else { 500 })
}

fn shape(seed: u64, operations: usize) -> Shape {
    let jobs = match seed % 4 {
        0 => 400,
        1 => 100,
        2 => 40,
        _ => 10,
    };
    Shape { seed, operations, jobs, clients: 1 + seed % 16, unknown_percent: 4 }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a bench reads the clock")]
fn histories_of_a_real_machine_are_linearizable() {
    let began = Instant::now();
    let mut all = Checked::default();
    let count = histories();
    for seed in 0..count {
        let records = history(shape(seed, 2000));
        all.add(check_jobs(&JobModel::default(), &records, STEPS_MAX));
        assert_eq!(all.fault(), None, "seed {seed}");
    }
    println!(
        "{count} histories, {} jobs, {} operations, {} steps, 0 illegal, 0 undecided, {:?}",
        all.jobs,
        all.operations,
        all.steps,
        began.elapsed()
    );
    assert!(all.operations >= count * 2000);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a bench reads the clock")]
fn long_histories_of_one_job_take_no_time() {
    for (jobs, operations, clients) in
        [(1, 2000, 5), (1, 10_000, 5), (10, 10_000, 30), (100, 10_000, 30), (1000, 100_000, 30)]
    {
        let shape = Shape { seed: 5, operations, jobs, clients, unknown_percent: 2 };
        let records = history(shape);
        let began = Instant::now();
        let checked = check_jobs(&JobModel::default(), &records, STEPS_MAX);
        assert_eq!(checked.fault(), None);
        println!(
            "{operations} operations on {jobs} jobs: {} steps, {:?}",
            checked.steps,
            began.elapsed()
        );
    }
}

/// Whether `first` was over when `second` began.
fn precedes(first: &Record, second: &Record) -> bool {
    first.job == second.job
        && first.returned_us.is_some_and(|returned| returned < second.invoked_us)
}

fn look(seen: Seen) -> Op {
    Op::Look { seen: Some(seen) }
}

/// Returns operations that `second` cannot have been, since `first` was over before it began.
fn impossible(first: &Record, second: &Record) -> Vec<Op> {
    let is_known = |op: &Op| {
        !matches!(
            op,
            Op::Look { seen: None }
                | Op::Assigned { .. }
                | Op::Submit { outcome: None, .. }
                | Op::Cancel { outcome: None | Some(Cancelled::NotFound), .. }
                | Op::Report { outcome: None | Some(Reported::NotFound), .. }
        )
    };
    let mut ops = Vec::new();
    if is_known(&first.op) {
        // It was there.
        match second.op {
            Op::Look { .. } => ops.push(Op::Look { seen: None }),
            Op::Cancel { .. } => {
                ops.push(Op::Cancel { repeated: true, outcome: Some(Cancelled::NotFound) });
            }
            Op::Submit { content, .. } => {
                let outcome = Some(Submitted::Created);
                ops.push(Op::Submit { content, repeated: true, outcome });
            }
            Op::Report { fence, completed, result, .. } => {
                let outcome = Some(Reported::NotFound);
                ops.push(Op::Report { fence, completed, result, outcome });
            }
            Op::Assigned { .. } => {}
        }
    }
    let Op::Look { seen: Some(before) } = first.op else { return ops };
    if let Op::Look { seen: Some(now) } = second.op {
        if before.fence > 0 {
            ops.push(look(Seen { fence: before.fence - 1, ..now }));
        }
        if before.status.is_final() {
            for status in Status::ALL.into_iter().filter(|status| *status != before.status) {
                ops.push(look(Seen { status, ..now }));
            }
            ops.push(look(Seen { result: before.result ^ 2, ..now }));
            ops.push(look(Seen { attempt: before.attempt + 1, ..now }));
            ops.push(look(Seen { fence: before.fence + 4096, ..now }));
        }
        ops.push(look(Seen { attempt: 4, ..now }));
        ops.push(look(Seen { attempt: before.attempt - 1, ..now }));
    }
    if let Op::Cancel { .. } = second.op {
        let wrong = match before.status {
            Status::Cancelled => Some(Cancelled::Ended(None)),
            Status::Completed => Some(Cancelled::Cancelled),
            Status::Failed => Some(Cancelled::Ended(Some(Status::Completed))),
            Status::Pending | Status::Running => Some(Cancelled::Ended(Some(Status::Cancelled))),
        };
        ops.push(Op::Cancel { repeated: true, outcome: wrong });
    }
    if let Op::Report { completed, result, .. } = second.op {
        // An old token, a token that was given back, one of a job that others ended.
        let old = before.fence.checked_sub(1);
        let given_back = (before.status == Status::Pending).then_some(before.fence);
        let after_end = before.status.is_final().then_some(before.fence + 4096);
        let after_cancel = (before.status == Status::Cancelled).then_some(before.fence);
        for fence in [old, given_back, after_end, after_cancel].into_iter().flatten() {
            let outcome = Some(Reported::Applied);
            ops.push(Op::Report { fence, completed, result, outcome });
        }
        if before.status == Status::Completed {
            let (fence, outcome) = (before.fence, Some(Reported::StaleFence));
            ops.push(Op::Report { fence, completed, result, outcome });
        }
    }
    ops
}

#[test]
fn every_spoilt_history_is_illegal() {
    let (mut spoilt, mut rng) = (0u64, fastrand::Rng::with_seed(3));
    for seed in 0..histories() {
        let records = history(shape(seed, 300));
        let mut tries = 0;
        while tries < 40 {
            tries += 1;
            let first = rng.choice(&records).unwrap();
            let later: Vec<usize> =
                (0..records.len()).filter(|at| precedes(first, &records[*at])).collect();
            let Some(at) = rng.choice(&later).copied() else { continue };
            for op in impossible(first, &records[at]) {
                let mut wrong = records.clone();
                wrong.retain(|record| record.job == first.job || rng.u32(0..50) == 0);
                let place = wrong.iter().position(|record| *record == records[at]).unwrap();
                wrong[place].op = op;
                wrong[place].returned_us = wrong[place].returned_us.or(Some(u64::MAX / 2));
                let checked = check_jobs(&JobModel::default(), &wrong, STEPS_MAX);
                assert!(
                    !checked.illegal.is_empty(),
                    "seed {seed}: after {first:?} the history is legal with {:?} in place of {:?}",
                    wrong[place],
                    records[at]
                );
                spoilt += 1;
            }
        }
    }
    println!("{spoilt} histories with one impossible result, all illegal");
    assert!(spoilt > 1000);
}

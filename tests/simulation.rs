//! Whole replicas in a virtual world: many seeds, faults of every kind, and promises kept.

#![expect(clippy::print_stdout, reason = "a long run says what it saw")]

use raftq::sim::faults::Groups;
use raftq::sim::runner::{Setup, run};
use raftq::sim::world::Report;

fn setup(seed: u64, nodes: u64) -> Setup {
    Setup { seed, nodes, minutes: 1, groups: Groups::ALL, world: Some(0), only: None }
}

fn nodes_of(seed: u64) -> u64 {
    match seed % 4 {
        1 => 5,
        3 => 7,
        _ => 3,
    }
}

/// How many worlds a run of this file looks at; `raftq sim` looks at more, and faster.
fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number("RAFTQ_SEED").unwrap_or(0);
    first..first + number("RAFTQ_SEEDS").unwrap_or(24)
}

#[test]
fn worlds_with_faults_keep_every_promise() {
    let mut sum = Report::default();
    let mut failures = Vec::new();
    for seed in seeds() {
        let setup = setup(seed, nodes_of(seed));
        match run(setup.plan(0)) {
            Ok(report) => sum.add(&report),
            Err(broken) => failures.push(format!(
                "{broken}\nagain: raftq sim --seed {seed} --nodes {} --world 0",
                setup.nodes
            )),
        }
    }
    println!("{sum:?}");
    assert!(failures.is_empty(), "{} broken:\n{}", failures.len(), failures.join("\n"));
    let least = [sum.acknowledged, sum.reads, sum.reports, sum.installs, sum.faults, sum.histories];
    assert!(
        least.iter().all(|count| *count > 0),
        "a world in which nothing is done proves nothing"
    );
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in [3, 14] {
        let first = run(setup(seed, 5).plan(0)).unwrap();
        let second = run(setup(seed, 5).plan(0)).unwrap();
        assert_eq!(first, second, "seed {seed}");
        let other = run(setup(seed + 1, 5).plan(0)).unwrap();
        assert_ne!(first.trace, other.trace, "another seed is another history");
    }
}

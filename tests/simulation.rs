//! Whole replicas in a virtual world: many seeds, faults of every kind, and promises kept.

#![expect(clippy::print_stdout, reason = "a long run says what it saw")]

use raftq::sim::world::{Plan, World};

fn plan(seed: u64, nodes: u64) -> Plan {
    Plan { seed, nodes, faulty_ms: 15_000, healed_ms: 60_000 }
}

fn run(seeds: impl Iterator<Item = u64>) {
    let (mut acknowledged, mut reads, mut installs) = (0, 0, 0);
    let (mut histories, mut operations, mut reports) = (0, 0, 0);
    for seed in seeds {
        let nodes = match seed % 4 {
            1 => 5,
            3 => 7,
            _ => 3,
        };
        match World::new(plan(seed, nodes)).run() {
            Ok(report) => {
                acknowledged += report.acknowledged;
                reads += report.reads;
                installs += report.installs;
                histories += report.round.histories;
                operations += report.round.operations;
                reports += report.reports;
            }
            Err(why) => panic!(
                "seed {seed} with {nodes} nodes: {why}\nagain: RAFTQ_SEED={seed} RAFTQ_SEEDS=1 cargo \
                 test --test simulation worlds"
            ),
        }
    }
    println!(
        "{acknowledged} submits acknowledged, {reads} reads, {reports} reports, {installs} snapshots installed; \
         {histories} histories of one job with {operations} operations are linearizable"
    );
    let least = acknowledged.min(reads).min(installs).min(reports);
    assert!(least > 0, "a world in which nothing is ever done proves nothing");
}

/// How many worlds a run of this file looks at; `scripts/simulate.sh` asks for more.
fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number("RAFTQ_SEED").unwrap_or(0);
    first..first + number("RAFTQ_SEEDS").unwrap_or(60)
}

#[test]
fn worlds_with_faults_keep_every_promise() {
    run(seeds());
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in [3, 14, 159] {
        let first = World::new(plan(seed, 5)).run().unwrap();
        let second = World::new(plan(seed, 5)).run().unwrap();
        assert_eq!(first, second, "seed {seed}");
        let other = World::new(plan(seed + 1, 5)).run().unwrap();
        assert_ne!(first.trace, other.trace, "another seed is another history");
    }
}

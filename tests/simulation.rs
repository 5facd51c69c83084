//! Whole replicas in a virtual world: many seeds, faults of every kind, and promises kept.

#![expect(clippy::print_stdout, reason = "a long run says what it saw")]

use raftq::sim::faults::Groups;
use raftq::sim::world::{Plan, Report, World};

fn plan(seed: u64, nodes: u64) -> Plan {
    Plan { seed, nodes, groups: Groups::ALL, only: None }
}

#[test]
fn worlds_with_faults_keep_every_promise() {
    let mut sum = Report::default();
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number("RAFTQ_SEED").unwrap_or(0);
    for seed in first..first + number("RAFTQ_SEEDS").unwrap_or(60) {
        let nodes = [3, 5, 3, 7][usize::try_from(seed % 4).unwrap()];
        let report = World::new(plan(seed, nodes)).run();
        println!("{seed}: {report:?}");
        sum.add(&report.unwrap());
    }
    println!("{sum:?}");
}

//! Whole replicas in a virtual world: many seeds, faults of every kind, and promises kept.

#![expect(clippy::unwrap_used, reason = "a helper that fails has to fail its test")]

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
    first..first + number("RAFTQ_SEEDS").unwrap_or(8)
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
    let least = [
        sum.acknowledged,
        sum.reads,
        sum.reports,
        sum.installs,
        sum.faults,
        sum.histories,
        sum.slots,
    ];
    assert!(
        least.iter().all(|count| *count > 0),
        "a world in which nothing is done proves nothing"
    );
}

/// Worlds that were red once, each for a defect that was mended then: seed, nodes, world.
const ONCE_RED: [(u64, u64, u64); 4] =
    [(81, 5, 0), (20, 7, 0), (5_000_022, 3, 20), (1_000_001, 5, 16)];

#[test]
fn worlds_that_were_red_once_are_green() {
    for (seed, nodes, world) in ONCE_RED {
        let setup = Setup { world: Some(world), ..setup(seed, nodes) };
        if let Err(broken) = run(setup.plan(world)) {
            panic!("{broken}\nagain: raftq sim --seed {seed} --nodes {nodes} --world {world}");
        }
    }
}

#[test]
fn damaged_nodes_heal() {
    for (seed, nodes) in [(60, 3), (47, 5)] {
        let disk = Groups { disk: true, ..Groups::NONE };
        let setup = Setup { groups: disk, ..setup(seed, nodes) };
        let report = run(setup.plan(0)).unwrap();
        assert!(report.healed > 1, "look for a seed that damages something: {report:?}");
    }
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

/// Runs the program and returns its exit code and what it wrote to stdout and stderr.
fn program(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output =
        std::process::Command::new(env!("CARGO_BIN_EXE_raftq")).arg("sim").args(arguments).output();
    let output = output.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_program_ends_with_seed_and_hash() {
    let arguments = ["--seed", "1", "--nodes", "3", "--minutes", "1"];
    let (code, first, told) = program(&arguments);
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("simulated s per CPU s"), "{told}");
    let last = first.lines().last().unwrap();
    assert!(last.starts_with("seed=1 hash=") && last.len() == "seed=1 hash=".len() + 16, "{last}");
    assert_eq!(program(&arguments).1, first, "the same seed, the same hash");
    let other = program(&["--seed", "2", "--nodes", "3", "--minutes", "1"]).1;
    assert_ne!(first.split_once("hash="), other.split_once("hash="));
}

#[test]
fn a_state_file_goes_on_with_the_next_seed() {
    let path = std::env::temp_dir().join(format!("raftq-sim-{}.json", std::process::id()));
    let state = path.to_str().unwrap();
    for seed in [5, 6] {
        let arguments =
            ["--seed", "5", "--nodes", "3", "--minutes", "1", "--faults", "net", "--state", state];
        let (code, out, told) = program(&arguments);
        assert_eq!(code, Some(0), "{told}");
        assert!(out.starts_with(&format!("seed={seed} ")), "{out}");
    }
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let state: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(state["seeds_done"], 2, "{text}");
    assert_eq!(state["next_seed"], 7, "{text}");
    assert!(state["simulated_ms"].as_u64().unwrap() >= 120_000, "{text}");
}

/// Only in a build that can break rules: `cargo test --features planted-bugs --test simulation`.
#[cfg(feature = "planted-bugs")]
#[test]
fn a_broken_rule_is_told_and_shrunk_and_ends_with_1() {
    let arguments =
        ["--seed", "1", "--nodes", "3", "--minutes", "60", "--bug", "ack-before-sync", "--json"];
    let (code, out, told) = program(&arguments);
    assert_eq!(code, Some(1), "{out}{told}");
    let object: serde_json::Value = serde_json::from_str(out.trim()).unwrap();
    let again = object["again_shrunk"].as_str().unwrap();
    assert!(told.contains(again), "{told}");
    let words: Vec<&str> = again.split(' ').skip(2).collect();
    let (code, out, told) = program(&words);
    assert_eq!(code, Some(1), "{again}\n{out}{told}");
}

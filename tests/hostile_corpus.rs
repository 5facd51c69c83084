//! The committed corpus of the fuzz targets, every kept crash, and thousands of changes of each, replayed by
//! `cargo test`: no panic, and what was read can be written and read again.
//!
//! The bound on memory is asserted by the fuzz package alone (`scripts/fuzz.sh`): counting allocations needs
//! unsafe code, which this package forbids.

#![expect(
    clippy::bool_assert_comparison,
    clippy::indexing_slicing,
    clippy::type_complexity,
    clippy::unwrap_used,
    reason = "an entry that meets the unexpected has to fail there"
)]

#[path = "fuzz/entry.rs"]
mod entry;
#[path = "hostile/meter.rs"]
mod meter;
#[path = "hostile/mutator.rs"]
mod mutator;
#[path = "hostile/seeds.rs"]
mod seeds;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use mutator::Mutator;

/// Changes made of each target's inputs, unless `RAFTQ_HOSTILE_CHANGES` says otherwise.
const CHANGES: usize = 4000;

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target)
}

/// Reads all inputs of a target, in the order of their names.
fn inputs(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = corpus(target);
    let entries =
        fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut inputs: Vec<(String, Vec<u8>)> = entries
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(path).unwrap())
        })
        .collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    inputs
}

/// Runs one input, and says how to run it again if it fails.
fn run(target: &str, name: &str, input: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| entry::run(target, input))).is_err() {
        panic!("target {target}, {name}: {}", seeds::hex(input));
    }
}

fn replay(target: &str) {
    let inputs = inputs(target);
    for (name, input) in &inputs {
        run(target, name, input);
    }
    let changes = std::env::var("RAFTQ_HOSTILE_CHANGES").ok().and_then(|it| it.parse().ok());
    let pool: Vec<&[u8]> = inputs.iter().map(|(_, input)| input.as_slice()).collect();
    let mut mutator = Mutator::new(target, &pool);
    for change in 0..changes.unwrap_or(CHANGES) {
        let (of, input) = mutator.next();
        run(target, &format!("change {change}, of {}", inputs[of].0), &input);
    }
}

macro_rules! targets {
    ($($target:ident)*) => {
        $(
            #[test]
            fn $target() {
                replay(stringify!($target));
            }
        )*

        #[test]
        fn every_target_is_replayed() {
            let replayed = [$(stringify!($target)),*];
            assert_eq!(entry::TARGETS.map(|(name, _)| name), replayed);
        }
    };
}

targets! { bulk command configuration frame handshake http identity image log pack peer peers reply request snapshot text }

/// Every valid seed is read to its end: a corpus whose seeds are all refused tests the first check alone.
#[test]
fn seeds_that_are_committed_are_those_the_code_makes() {
    for (target, seeds) in seeds::all() {
        for (name, bytes) in seeds {
            let path = corpus(target).join(&name);
            let stored =
                fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert_eq!(seeds::hex(&stored), seeds::hex(&bytes), "{target}/{name}");
        }
    }
}

/// Writes the seeds: `cargo test --test hostile_corpus -- --ignored writes_the_seeds`.
#[test]
#[ignore = "changes the files of the corpus"]
fn writes_the_seeds() {
    for (target, seeds) in seeds::all() {
        fs::create_dir_all(corpus(target)).unwrap();
        for (name, bytes) in seeds {
            fs::write(corpus(target).join(name), bytes).unwrap();
        }
    }
}

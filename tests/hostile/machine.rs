//! Whether this machine was busy with other things before a test began: then an election proves nothing.

use std::fs;
use std::io::Write;
use std::time::Duration;

/// Of a machine that is busier than this, in percent, no timing is asked.
const BUSY_PERCENT: u64 = 30;

/// What was seen before the test began.
pub(crate) struct Machine {
    busy_percent: u64,
}

/// Ticks of all processors: those not idle, and all.
fn ticks() -> (u64, u64) {
    let stat = fs::read_to_string("/proc/stat").expect("Linux has it");
    let line = stat.lines().next().unwrap_or_default();
    let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let all = numbers.iter().sum();
    let idle: u64 = numbers.iter().skip(3).take(2).sum();
    (all - idle, all)
}

impl Machine {
    /// Watches the processors for a second.
    pub(crate) fn watched() -> Self {
        let before = ticks();
        std::thread::sleep(Duration::from_secs(1));
        let after = ticks();
        Self { busy_percent: (after.0 - before.0) * 100 / (after.1 - before.1).max(1) }
    }

    /// Fails the test for an election, unless the machine had no time for anybody anyhow; returns whether
    /// there was none.
    pub(crate) fn elected_nobody(&self, is_same_term: bool) -> bool {
        if !is_same_term && self.busy_percent > BUSY_PERCENT {
            // Not by `println!`: a test that ends well keeps that to itself.
            let told = writeln!(
                std::io::stderr(),
                "\nNOT PROVEN: there was an election, on a machine that was {} % busy before the test \
                 began; only losses and deaths were looked for. Run it again on a quiet machine.\n",
                self.busy_percent
            );
            told.expect("standard error is there");
            return false;
        }
        assert!(is_same_term, "an election, and the machine had nothing else to do");
        true
    }
}

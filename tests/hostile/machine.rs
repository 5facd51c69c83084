//! Whether this machine was busy with other things before or during a test: then an election proves nothing.

use std::fs;
use std::io::Write;
use std::time::Duration;

/// Of a machine that is busier than this, in percent, no timing is asked.
const BUSY_PERCENT: u64 = 20;

/// What was seen before the test began, and where the counts stood then.
pub(crate) struct Machine {
    busy_percent: u64,
    began: (u64, u64),
    own: u64,
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

/// Ticks of this process and of its children, those that have ended too.
fn own_ticks() -> u64 {
    let me = std::process::id().to_string();
    let mut sum = 0;
    for entry in fs::read_dir("/proc").expect("Linux has it").flatten() {
        // It may end while it is looked at.
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let Some((_, rest)) = stat.rsplit_once(')') else { continue };
        let words: Vec<&str> = rest.split_whitespace().collect();
        let is_me = entry.file_name().to_str() == Some(me.as_str());
        if is_me || words.get(1) == Some(&me.as_str()) {
            let times = words.iter().skip(11).take(if is_me { 4 } else { 2 });
            sum += times.filter_map(|word| word.parse::<u64>().ok()).sum::<u64>();
        }
    }
    sum
}

impl Machine {
    /// Watches the processors for a second.
    pub(crate) fn watched() -> Self {
        let before = ticks();
        std::thread::sleep(Duration::from_secs(1));
        let after = ticks();
        let busy_percent = (after.0 - before.0) * 100 / (after.1 - before.1).max(1);
        Self { busy_percent, began: after, own: own_ticks() }
    }

    /// What others took of the processors since, in percent.
    fn taken_percent(&self) -> u64 {
        let now = ticks();
        let others = (now.0 - self.began.0).saturating_sub(own_ticks().saturating_sub(self.own));
        others * 100 / (now.1 - self.began.1).max(1)
    }

    /// Fails the test for an election, unless the machine had no time for anybody anyhow; returns whether
    /// there was none.
    pub(crate) fn elected_nobody(&self, is_same_term: bool) -> bool {
        let taken_percent = self.taken_percent();
        if !is_same_term && self.busy_percent.max(taken_percent) > BUSY_PERCENT {
            // Not by `println!`: a test that ends well keeps that to itself.
            let told = writeln!(
                std::io::stderr(),
                "\nNOT PROVEN: there was an election, on a machine that was {} % busy before the test \
                 began, and {taken_percent} % busy with other things while it ran; only losses and deaths \
                 were looked for. Run it again on a quiet machine.\n",
                self.busy_percent
            );
            told.expect("standard error is there");
            return false;
        }
        assert!(
            is_same_term,
            "an election, and the machine had nothing else to do: {taken_percent} %"
        );
        true
    }
}

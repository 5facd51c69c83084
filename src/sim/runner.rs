//! Many worlds, one after the other: as many as make so much simulated time, each on its own, and each to be run
//! again from its number alone.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::sim::faults::{Fault, Groups};
use crate::sim::shrink::shrink;
use crate::sim::world::{Broken, Plan, Report, World, mix};

/// Runs of a world that shrinking its faults may take, at most.
const SHRINK_RUNS_MAX: usize = 150;

/// Words by which a broken promise is known again.
const KIND_WORDS: usize = 8;

/// What a simulation is to be. The same setup gives the same history.
#[derive(Clone, Debug)]
pub struct Setup {
    /// All dice come from it.
    pub seed: u64,
    /// Nodes of each world.
    pub nodes: u64,
    /// How much time is to pass in all worlds together, in minutes.
    pub minutes: u64,
    /// What may go wrong.
    pub groups: Groups,
    /// Only the world of this number, and not all of them.
    pub world: Option<u64>,
    /// Only these faults, by number.
    pub only: Option<Vec<u32>>,
}

/// A world that broke a promise.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its number.
    pub world: u64,
    /// The promise, and when.
    pub broken: Broken,
}

impl Setup {
    /// Returns the plan of one of the worlds.
    #[must_use]
    pub fn plan(&self, world: u64) -> Plan {
        Plan {
            seed: mix(mix(0, self.seed), world),
            nodes: self.nodes,
            groups: self.groups,
            only: self.only.clone(),
        }
    }

    /// Runs the worlds; `each` hears of every one before it begins: its number, and what came of those before it.
    ///
    /// # Errors
    /// The first world that broke a promise.
    pub fn run(&self, each: &mut dyn FnMut(u64, &Report)) -> Result<Report, Failure> {
        let mut sum = Report { trace: mix(1, self.seed), ..Report::default() };
        let mut world = self.world.unwrap_or(0);
        loop {
            each(world, &sum);
            let report = run(self.plan(world)).map_err(|broken| Failure { world, broken })?;
            sum.add(&report);
            world += 1;
            if self.world.is_some() || sum.simulated_ms >= self.minutes * 60_000 {
                return Ok(sum);
            }
        }
    }

    /// Looks for fewer faults with which the world still breaks a promise; returns them, or nothing if it does not
    /// break one again.
    #[must_use]
    pub fn shrink(&self, failure: &Failure) -> Option<(Vec<Fault>, Broken)> {
        let plan = self.plan(failure.world);
        let (round, at_ms) = failure.broken.round;
        let all = World::new(plan.clone()).faults().to_vec();
        // What was to happen after the end had no part in it.
        let before = |fault: &&Fault| (fault.round, fault.at_ms) <= (round, at_ms);
        let suspects: Vec<u32> = all.iter().filter(before).map(|fault| fault.id).collect();
        let mut last = None;
        let fewest = shrink(suspects, SHRINK_RUNS_MAX, &mut |only| match run(Plan {
            only: Some(only.to_vec()),
            ..plan.clone()
        }) {
            Err(broken) if kind(&broken) == kind(&failure.broken) => {
                last = Some(broken);
                true
            }
            Ok(_) | Err(_) => false,
        })?;
        let faults = all.into_iter().filter(|fault| fewest.contains(&fault.id)).collect();
        last.map(|broken| (faults, broken))
    }
}

/// Runs one world to its end. A node that panics has broken a promise.
///
/// # Errors
/// The first promise that was broken.
pub fn run(plan: Plan) -> Result<Report, Broken> {
    let mut world = World::new(plan);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        loop {
            match world.step() {
                Ok(true) => {}
                other => return other,
            }
        }
    }));
    match outcome {
        Ok(Ok(_)) => Ok(world.report()),
        Ok(Err(what)) => Err(world.broken(what)),
        Err(panic) => {
            let what = said(panic.as_ref());
            Err(world.broken(format!("a node panicked: {what}")))
        }
    }
}

/// Returns the words of what was broken, without its numbers: by them one failure is known for the same as another.
fn kind(broken: &Broken) -> String {
    let first = broken.what.lines().next().unwrap_or_default();
    let words =
        first.split_whitespace().filter(|word| !word.contains(|c: char| c.is_ascii_digit()));
    words.take(KIND_WORDS).collect::<Vec<_>>().join(" ")
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or(panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a word")
}

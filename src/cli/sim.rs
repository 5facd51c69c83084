//! The verb `sim`: simulated clusters, checked while they run, each to be replayed from its seed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::cli::exit::{Exit, Failure, Outcome, narrate};
use crate::cli::out::Out;
use crate::node::clock;
use crate::sim::faults::Groups;
use crate::sim::runner::{self, Setup};
use crate::sim::world::{NODES_MAX, Report};

const EXAMPLES: &str = "\
Examples:
  raftq sim                                     an hour of five nodes with faults of all kinds
  raftq sim --seed 7 --nodes 3 --minutes 600 --faults net,time
  raftq sim --seeds 1000 --state hours.json     goes on where it stopped, with the next seed

The production's consensus, queue, scheduler, log, snapshots and client logic run in one thread on a virtual network,
disk and clock. The same seed gives the same history: the last line of stdout is its hash. What is broken is told with
one line that replays it and with the few faults that it takes; the exit code is 1 then.";

/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// A kind of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// All of them.
    All,
    /// Messages are delayed, lost, repeated; nodes are cut off from each other.
    Net,
    /// Nodes crash; disks are slow, hang, fail, fill up, and are damaged.
    Disk,
    /// Clocks jump; nodes stand still.
    Time,
    /// None of them.
    None,
}

/// Options of `sim`.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct SimArgs {
    /// Where all dice come from.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    /// Nodes of the cluster, 1 to 7.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=NODES_MAX))]
    pub nodes: u64,

    /// How much simulated time each seed gets.
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub minutes: u64,

    /// What may go wrong.
    #[arg(long, value_name = "KIND,...", value_enum, default_value = "all", value_delimiter = ',')]
    pub faults: Vec<Kind>,

    /// How many seeds, one after the other.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub seeds: u64,

    /// Add what was simulated up in this file, and go on with the seed after the last one in it.
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,

    /// Only the world of this number: an hour is many of them, each on its own.
    #[arg(long, value_name = "N")]
    pub world: Option<u64>,

    /// Only these faults of the world.
    #[arg(long, value_name = "N,...", value_delimiter = ',', requires = "world")]
    pub only: Option<Vec<u32>>,

    /// Tell what is broken, and do not look for the faults that it takes.
    #[arg(long)]
    pub no_shrink: bool,

    /// Break a rule on purpose.
    #[cfg(feature = "planted-bugs")]
    #[arg(long, value_name = "NAME")]
    pub bug: Option<String>,
}

impl SimArgs {
    fn groups(&self) -> Groups {
        let has = |kind| self.faults.contains(&Kind::All) || self.faults.contains(&kind);
        Groups { net: has(Kind::Net), disk: has(Kind::Disk), time: has(Kind::Time) }
    }

    fn setup(&self, seed: u64) -> Setup {
        Setup {
            seed,
            nodes: self.nodes,
            minutes: self.minutes,
            groups: self.groups(),
            world: self.world,
            only: self.only.clone(),
        }
    }

    /// Returns the command line that replays a seed.
    fn again(&self, seed: u64) -> String {
        let names: Vec<String> = self
            .faults
            .iter()
            .filter_map(|kind| kind.to_possible_value())
            .map(|value| value.get_name().to_string())
            .collect();
        let mut line = format!(
            "raftq sim --seed {seed} --nodes {} --minutes {} --faults {}",
            self.nodes,
            self.minutes,
            names.join(",")
        );
        if let Some(world) = self.world {
            line += &format!(" --world {world}");
        }
        if let Some(only) = &self.only {
            line += &format!(" --only {}", list(only.iter()));
        }
        #[cfg(feature = "planted-bugs")]
        if let Some(bug) = &self.bug {
            line += &format!(" --bug {bug}");
        }
        line
    }
}

fn list<T: ToString>(numbers: impl Iterator<Item = T>) -> String {
    numbers.map(|number| number.to_string()).collect::<Vec<_>>().join(",")
}

/// The line that replays what runs now, for a panic that ends the program.
static AGAIN: Mutex<String> = Mutex::new(String::new());

/// Lets a panic be told as what it is here: a promise broken. Where panics end the program, this does it.
fn tell_panics() {
    std::panic::set_hook(Box::new(|info| {
        if cfg!(panic = "abort") {
            let again = AGAIN.lock().unwrap_or_else(PoisonError::into_inner);
            narrate(&format!("BROKEN: a node panicked: {info}\nagain: {again}"));
            std::process::exit(i32::from(Exit::Failure.code()));
        }
    }));
}

/// Runs simulations.
///
/// # Errors
/// A wrong name of a bug, a state file that cannot be read or written, a closed stdout.
pub fn run(args: &SimArgs, json: bool, out: &mut Out) -> Outcome {
    #[cfg(feature = "planted-bugs")]
    if let Some(name) = &args.bug {
        use crate::planted::{Bug, plant};
        let bug = Bug::ALL.into_iter().find(|bug| bug.name() == name);
        let bug = bug.ok_or_else(|| Failure::usage(format!("no bug is called {name}")))?;
        plant(Some(bug));
    }
    tell_panics();
    let mut sums = match &args.state {
        Some(path) => read_state(path)?,
        None => BTreeMap::new(),
    };
    let first = sums.get("next_seed").copied().unwrap_or(args.seed);
    for seed in first..first.saturating_add(args.seeds) {
        let setup = args.setup(seed);
        let mut progress = Progress::new(seed, args.minutes);
        let again = args.again(seed);
        let result = setup.run(&mut |world, sum| {
            AGAIN.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&again);
            progress.tell(world, sum);
        });
        match result {
            Ok(report) => {
                progress.end(&report);
                tell(seed, &report, json, out)?;
                if let Some(path) = &args.state {
                    add(&mut sums, seed, &report);
                    write_state(path, &sums)?;
                }
            }
            Err(failure) => return broken(args, &setup, &failure, json, out),
        }
    }
    Ok(Exit::Ok)
}

fn figures(report: &Report) -> [(&'static str, u64); 13] {
    [
        ("simulated_ms", report.simulated_ms),
        ("events", report.events),
        ("faults", report.faults),
        ("starts", report.starts),
        ("snapshots_installed", report.installs),
        ("disks_damaged", report.damaged),
        ("nodes_healed", report.healed),
        ("entries_committed", report.committed),
        ("submits_acknowledged", report.acknowledged),
        ("reads_answered", report.reads),
        ("histories_linearizable", report.histories),
        ("operations_checked", report.operations),
        ("cron_slots_fired", report.slots),
    ]
}

fn tell(seed: u64, report: &Report, json: bool, out: &mut Out) -> Result<(), Failure> {
    let hash = format!("{:016x}", report.trace);
    if !json {
        return out.line(&format!("seed={seed} hash={hash}"));
    }
    let mut object = serde_json::Map::new();
    object.insert("seed".into(), json!(seed));
    object.insert("hash".into(), json!(hash));
    for (name, value) in figures(report) {
        object.insert(name.into(), json!(value));
    }
    out.line(&Value::Object(object).to_string())
}

/// Tells what was broken, and what it takes.
fn broken(
    args: &SimArgs,
    setup: &Setup,
    failure: &runner::Failure,
    json: bool,
    out: &mut Out,
) -> Outcome {
    let runner::Failure { world, broken } = failure;
    let again = args.again(setup.seed);
    narrate(&format!("BROKEN in world {world} of seed {}: {broken}\nagain: {again}", setup.seed));
    let mut object = json!({
        "seed": setup.seed, "world": world, "broken": broken.what, "at_ms": broken.at_ms, "again": again,
    });
    if args.no_shrink {
        return tell_broken(setup.seed, *world, broken.at_ms, &object, json, out);
    }
    narrate("Looking for the faults that it takes ...");
    match &setup.shrink(failure) {
        None => {
            narrate("It did not happen once more on its own: that is a fault of the simulator.")
        }
        Some((faults, last)) => {
            let only = list(faults.iter().map(|fault| fault.id));
            let only = if only.is_empty() { "0".to_string() } else { only };
            let shrunk = SimArgs { world: Some(*world), only: None, ..args.clone() };
            let line = format!("{} --only {only}", shrunk.again(setup.seed));
            narrate(&format!("It takes {} faults:", faults.len()));
            faults.iter().for_each(|fault| narrate(&fault.to_string()));
            narrate(&format!("and then: {last}\nagain: {line}"));
            if let Some(object) = object.as_object_mut() {
                let words: Vec<String> = faults.iter().map(ToString::to_string).collect();
                object.insert("faults".into(), json!(words));
                object.insert("again_shrunk".into(), json!(line));
            }
        }
    }
    tell_broken(setup.seed, *world, broken.at_ms, &object, json, out)
}

fn tell_broken(
    seed: u64,
    world: u64,
    at_ms: u64,
    object: &Value,
    json: bool,
    out: &mut Out,
) -> Outcome {
    let line = format!("seed={seed} broken world={world} at_ms={at_ms}");
    out.line(&if json { object.to_string() } else { line })?;
    Ok(Exit::Failure)
}

/// What is told on stderr meanwhile.
struct Progress {
    seed: u64,
    minutes: u64,
    began: Duration,
    told: Duration,
}

impl Progress {
    fn new(seed: u64, minutes: u64) -> Self {
        Self { seed, minutes, began: clock::thread_cpu(), told: clock::monotonic() }
    }

    fn tell(&mut self, world: u64, sum: &Report) {
        let now = clock::monotonic();
        if now.saturating_sub(self.told) >= PROGRESS_EVERY {
            self.told = now;
            narrate(&format!("seed {}, world {world}: {}", self.seed, self.text(sum)));
        }
    }

    fn end(&self, sum: &Report) {
        narrate(&format!("seed {}: {}", self.seed, self.text(sum)));
    }

    fn text(&self, sum: &Report) -> String {
        let cpu = clock::thread_cpu().saturating_sub(self.began);
        let speed = u128::from(sum.simulated_ms) / cpu.as_millis().max(1);
        format!(
            "{} of {} min, {speed} simulated s per CPU s; {} events, {} faults, {} starts, {} snapshots received, {} \
             nodes healed; {} submits acknowledged, {} histories linearizable, {} slots of \
             crons fired",
            sum.simulated_ms / 60_000,
            self.minutes,
            sum.events,
            sum.faults,
            sum.starts,
            sum.installs,
            sum.healed,
            sum.acknowledged,
            sum.histories,
            sum.slots
        )
    }
}

fn add(sums: &mut BTreeMap<String, u64>, seed: u64, report: &Report) {
    sums.insert("next_seed".into(), seed + 1);
    *sums.entry("seeds_done".into()).or_default() += 1;
    for (name, value) in figures(report) {
        *sums.entry(name.into()).or_default() += value;
    }
}

fn read_state(path: &Path) -> Result<BTreeMap<String, u64>, Failure> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(unusable(path, &error)),
    };
    serde_json::from_slice(&bytes).map_err(|error| unusable(path, &error))
}

fn write_state(path: &Path, sums: &BTreeMap<String, u64>) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(sums).map_err(|error| unusable(path, &error))?;
    let aside = path.with_extension("tmp");
    fs::write(&aside, text + "\n").map_err(|error| unusable(&aside, &error))?;
    fs::rename(&aside, path).map_err(|error| unusable(path, &error))
}

fn unusable(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Exit::Failure, format!("{}: {error}", path.display()))
}

//! Kills by SIGKILL, one cycle after the other, under load: what was acknowledged must be there after each.
//!
//! Cycles are counted in rounds, each with a new cluster; a round that was checked whole is written down, and
//! the next call goes on behind it.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_std::task;
use fastrand::Rng;
use serde_json::{Value, json};

use crate::args::Args;
use crate::finish::HEALING_MAX;
use crate::run::fresh;
use crate::stage::{Stage, Trace, interrupts, network};
use crate::verify::Findings;

/// Cycles of one round, at most.
const ROUND_MAX: u64 = 25;

/// Load between two kills.
const LOAD_MS: std::ops::Range<u64> = 200..900;

/// How long the dead are dead.
const DEAD_MS: std::ops::Range<u64> = 0..700;

/// What has been done so far, over all calls.
#[derive(Clone, Copy, Debug, Default)]
struct Score {
    cycles: u64,
    kills: u64,
    acknowledged: u64,
    lost: u64,
}

impl Score {
    fn read(file: &Path) -> Self {
        let text = fs::read_to_string(file).unwrap_or_default();
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        let number = |key: &str| value.get(key).and_then(Value::as_u64).unwrap_or_default();
        Self {
            cycles: number("cycles"),
            kills: number("kills"),
            acknowledged: number("acknowledged"),
            lost: number("lost"),
        }
    }

    fn write(self, file: &Path) -> Result<(), String> {
        let value = json!({
            "cycles": self.cycles,
            "kills": self.kills,
            "acknowledged": self.acknowledged,
            "lost": self.lost,
        });
        let aside = file.with_extension("new");
        fs::write(&aside, format!("{value}\n"))
            .and_then(|()| fs::rename(&aside, file))
            .map_err(|error| format!("{}: {error}", file.display()))
    }
}

/// Runs cycles until there were so many in all. Returns whether every promise held.
///
/// # Errors
/// Why it could not be run.
pub fn run(args: &Args, cycles: u64) -> Result<bool, String> {
    fs::create_dir_all(&args.out).map_err(|error| format!("{}: {error}", args.out.display()))?;
    let out = args.out.canonicalize().map_err(|error| error.to_string())?;
    let file = out.join(format!("kills-{}.json", args.nodes));
    let stopped = interrupts()?;
    let mut score = Score::read(&file);
    println!(
        "kill9: {} of {cycles} cycles are done; the count is in {}",
        score.cycles,
        file.display()
    );
    let began = Instant::now();
    while score.cycles < cycles {
        let count = ROUND_MAX.min(cycles - score.cycles);
        let folder = fresh(&out.join(format!("round-{}", args.nodes)))?;
        let findings = round(args, &folder, &mut score, count, &stopped)?;
        if !findings.violations.is_empty() {
            findings.tell();
            println!("kill9: repeat it: {}", args.again(""));
            println!("kill9: what was found with is in {}", folder.display());
            return Ok(false);
        }
        score.write(&file)?;
        let Score { cycles: done, kills, acknowledged, lost } = score;
        println!(
            "kill9: {done} cycles, {kills} nodes killed, {acknowledged} jobs acknowledged, {lost} lost, {:.0} s",
            began.elapsed().as_secs_f64()
        );
    }
    Ok(true)
}

fn round(
    args: &Args,
    out: &Path,
    score: &mut Score,
    count: u64,
    stopped: &AtomicBool,
) -> Result<Findings, String> {
    let _trace = Trace::leave(out)?;
    let mut missing = Vec::new();
    let net = network(args, &mut missing)?;
    let seed = args.seed ^ score.cycles;
    let mut dice = Rng::with_seed(seed);
    let mut stage = Stage::set(args, seed, net, out)?;
    let mut findings = Findings::default();
    for cycle in score.cycles..score.cycles + count {
        if stopped.load(Ordering::SeqCst) {
            return Err("interrupted; this round does not count".into());
        }
        score.kills += self::cycle(&stage, cycle, &mut dice, &mut findings)?;
        if !findings.violations.is_empty() {
            return Ok(findings);
        }
    }
    score.cycles += count;
    stage.check(&mut findings);
    let tickets = stage.record.tickets();
    score.acknowledged += tickets.values().filter(|ticket| ticket.acknowledged).count() as u64;
    score.lost += findings.violations.iter().filter(|one| one.contains("lost")).count() as u64;
    Ok(findings)
}

/// Kills, starts again, and looks: whole, and equal digests. Returns how many were killed.
fn cycle(
    stage: &Stage,
    number: u64,
    dice: &mut Rng,
    findings: &mut Findings,
) -> Result<u64, String> {
    let began = Instant::now();
    std::thread::sleep(Duration::from_millis(dice.u64(LOAD_MS)));
    let ids = stage.cluster.ids();
    let (who, nodes) = match number % 4 {
        0 => ("a node", vec![dice.usize(1..=ids.len())]),
        1 => ("the leader", vec![stage.watch.leader().unwrap_or(1)]),
        2 => {
            let mut some = ids.clone();
            dice.shuffle(&mut some);
            some.truncate((ids.len() - 1) / 2);
            ("a minority", some)
        }
        _ => ("all nodes", ids.clone()),
    };
    stage.cluster.kill(&nodes);
    std::thread::sleep(Duration::from_millis(dice.u64(DEAD_MS)));
    for node in &nodes {
        stage.cluster.start(*node)?;
    }
    let started = Instant::now();
    let whole = task::block_on(stage.looker.whole(HEALING_MAX));
    let mut wrong = stage.cluster.ended_by_themselves();
    if whole.is_none() {
        wrong.push(format!("cycle {number}: the cluster is not whole after {HEALING_MAX:?}"));
    } else if let Err(why) = task::block_on(stage.looker.digests()) {
        wrong.push(format!("cycle {number}: {why}"));
    }
    println!(
        "kill9: cycle {}: {who} {nodes:?}; all alike {:.1} s after their start, {:.1} s in all",
        number + 1,
        started.elapsed().as_secs_f64(),
        began.elapsed().as_secs_f64()
    );
    if !wrong.is_empty() {
        findings.add("a cluster survives kill -9", 1, wrong);
    }
    Ok(nodes.len() as u64)
}

//! A run by schedule, from its start to its report.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use async_std::task;

use crate::args::Args;
use crate::cluster::bends_clocks;
use crate::faults::{Driver, bars};
use crate::finish::HEALING_MAX;
use crate::net::Net;
use crate::plan::{CALM_MS, Fault, Plan, calm_ends_ms, plan};
use crate::report::{Report, Totals, totals};
use crate::stage::{Stage, Trace, interrupts, network};
use crate::svg::Picture;
use crate::verify::Findings;

/// How long the load goes on after healing.
const AFTER: Duration = Duration::from_secs(4);

/// Takes out of a schedule what cannot be done here, and says so.
fn possible(mut plan: Plan, net: &Net, missing: &mut Vec<String>) -> Plan {
    if !bends_clocks() {
        let text = "libfaketime is not installed: no clock jumps (apt-get install libfaketime)";
        missing.push(text.into());
        plan.processes.retain(|step| !matches!(step.fault, Fault::Clock(..)));
    }
    if matches!(net, Net::Netns(_)) {
        missing.push("namespaces add no delay (that needs netem): --net proxy does".into());
        plan.network.retain(|step| !matches!(step.fault, Fault::Delay { .. }));
    }
    plan
}

fn thread(name: &str, what: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, String> {
    Builder::new().name(name.into()).spawn(what).map_err(|error| error.to_string())
}

/// Runs it all. Returns whether every promise held.
///
/// # Errors
/// Why it could not be run.
pub fn run(args: &Args) -> Result<bool, String> {
    let out = fresh(&args.out)?;
    let stopped = interrupts()?;
    let _trace = Trace::leave(&out)?;
    let mut missing = Vec::new();
    let net = network(args, &mut missing)?;
    let net_word = net.word();
    let schedule = plan(args.seed, args.faults_ms(), args.nodes);
    let schedule = possible(schedule, &net, &mut missing);
    println!(
        "nemesis: {} nodes, {} minutes, seed {}, --net {net_word}; everything in {}",
        args.nodes,
        args.minutes,
        args.seed,
        out.display()
    );
    missing.iter().for_each(|text| println!("nemesis: NOT DONE HERE: {text}"));
    let mut stage = Stage::set(args, args.seed, net, &out)?;
    let (cluster, watch) = (Arc::clone(&stage.cluster), Arc::clone(&stage.watch));
    let driver = Arc::new(Driver::new(cluster, watch, stage.began));
    let mut findings = Findings::default();
    let recoveries = torment(args, &stage, &driver, schedule, &stopped, &mut findings)?;
    if stopped.load(Ordering::SeqCst) {
        return Err("interrupted; nothing was checked".into());
    }
    let healed_ms = stage.now_ms();
    let (whole, recoveries) = healed(&stage, healed_ms, recoveries);
    findings.add("the cluster is whole after healing", "1 time", whole);
    std::thread::sleep(AFTER);
    let end_ms = stage.now_ms();
    stage.check(&mut findings);
    findings.add("the nemesis itself does as planned", driver.told().len(), driver.wrong());

    let (samples, told, reigns) = (stage.record.samples(), driver.told(), stage.watch.reigns());
    let report = Report {
        args,
        net: net_word,
        missing: &missing,
        told: &told,
        reigns: reigns.len(),
        samples: &samples,
        errors: &stage.record.errors(),
        recoveries: &recoveries,
        findings: &findings,
    };
    write(&out.join("report.md"), &report.write())?;
    let Totals { acknowledged, refused, unknown } = totals(&samples);
    let counts =
        format!("{acknowledged} operations acknowledged, {refused} refused, {unknown} unknown");
    let verdict = match findings.violations.len() {
        0 => "nothing acknowledged was lost, nothing ran twice under one fence".into(),
        count => format!("{count} VIOLATIONS"),
    };
    let picture = Picture {
        title: format!(
            "raftq under faults: {} nodes, {} minutes, {} faults, seed {}",
            args.nodes,
            args.minutes,
            told.len(),
            args.seed
        ),
        subtitle: format!("{counts}; {verdict}"),
        is_good: findings.violations.is_empty(),
        nodes: args.nodes,
        healed_ms,
        end_ms,
        bars: &bars(&told),
        reigns: &reigns,
        samples: &samples,
    };
    write(&out.join("timeline.svg"), &picture.draw())?;
    findings.tell();
    println!("nemesis: {counts}");
    println!("nemesis: report in {}", out.join("report.md").display());
    if !findings.violations.is_empty() {
        println!("nemesis: repeat it: {}", args.again(net_word));
    }
    Ok(findings.violations.is_empty())
}

/// Lets the schedule run, then heals everything. Returns how long the cluster took to be whole in each calm time.
fn torment(
    args: &Args,
    stage: &Stage,
    driver: &Arc<Driver>,
    schedule: Plan,
    stopped: &AtomicBool,
    findings: &mut Findings,
) -> Result<Vec<String>, String> {
    let mut tracks = Vec::new();
    for (name, steps) in [("processes", schedule.processes), ("network", schedule.network)] {
        let driver = Arc::clone(driver);
        tracks.push(thread(name, move || driver.run(&steps))?);
    }
    let mut recoveries = Vec::new();
    let mut ended = Vec::new();
    for end_ms in calm_ends_ms(args.faults_ms()) {
        let calm_ms = end_ms.saturating_sub(CALM_MS);
        wait_until(stage, calm_ms, stopped, &mut ended);
        let took = task::block_on(stage.looker.whole(Duration::from_millis(CALM_MS)));
        recoveries.push(recovery(calm_ms, took));
    }
    wait_until(stage, args.faults_ms(), stopped, &mut ended);
    driver.over.store(true, Ordering::SeqCst);
    for track in tracks {
        if track.join().is_err() {
            ended.push("a track of faults panicked".into());
        }
    }
    driver.heal();
    println!("{:>8.1} s  all faults healed", stage.now_ms() as f64 / 1000.0);
    findings.add("no node ends under faults", args.nodes, ended);
    Ok(recoveries)
}

/// Waits until the healed cluster is whole; returns what is wrong, and the recoveries with this one.
fn healed(stage: &Stage, at_ms: u64, mut recoveries: Vec<String>) -> (Vec<String>, Vec<String>) {
    let whole = task::block_on(stage.looker.whole(HEALING_MAX));
    recoveries.push(recovery(at_ms, whole));
    let late = whole.is_none().then(|| format!("not within {HEALING_MAX:?} of healing"));
    (late.into_iter().collect(), recoveries)
}

/// Makes an empty directory; one with a former run in it is emptied of that.
///
/// # Errors
/// What the system said, or that there is something else in it.
pub fn fresh(out: &Path) -> Result<std::path::PathBuf, String> {
    let said = |error: std::io::Error| format!("{}: {error}", out.display());
    if ["history.jsonl", "node1.clock"].iter().any(|name| out.join(name).exists()) {
        fs::remove_dir_all(out).map_err(said)?;
    }
    fs::create_dir_all(out).map_err(said)?;
    if fs::read_dir(out).map_err(said)?.any(|entry| entry.is_ok_and(|it| it.path().is_dir())) {
        return Err(format!("{} holds something else: name another --out", out.display()));
    }
    out.canonicalize().map_err(said)
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

fn recovery(at_ms: u64, took: Option<Duration>) -> String {
    let at_s = at_ms / 1000;
    match took {
        Some(took) => format!("at {at_s} s: after {:.1} s", took.as_secs_f64()),
        None => format!("at {at_s} s: not before the next fault"),
    }
}

/// Waits for a moment of the run, and looks after the nodes meanwhile.
fn wait_until(stage: &Stage, at_ms: u64, stopped: &AtomicBool, ended: &mut Vec<String>) {
    let at = stage.began + Duration::from_millis(at_ms);
    while Instant::now() < at && !stopped.load(Ordering::SeqCst) {
        ended.extend(stage.cluster.ended_by_themselves());
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

//! The verb `bench`: what a cluster can do, beside the floor, in the same run.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::bench::floor::{self, Group};
use crate::bench::load::{self, Line, Measured, Window};
use crate::bench::meter::{Servers, Used};
use crate::bench::plot::{self, Point, Series};
use crate::bench::stop::Stop;
use crate::bench::submits::{self, Submits};
use crate::cli::bench_end::{Run, measured};
use crate::cli::bench_jobs::{self, CycleArgs, FailoverArgs, LatencyArgs};
use crate::cli::exit::{Exit, Failure, Outcome, narrate};
use crate::cli::out::{Column, Out, Table};
use crate::cli::session::Session;
use crate::cli::target::Origin;
use crate::cli::values;

const EXAMPLES: &str = "\
Examples:
  raftq bench submit                            64 in flight, beside the floor
  raftq bench submit --in-flight 1
  raftq bench submit --plot latency.svg         from 1 to 1024 in flight, as a picture
  raftq bench batch --in-flight 16              100 jobs in each request
  raftq bench cycle                             whole jobs, by four workers
  raftq bench failover                          kills the leader of a cluster of its own, ten times
  raftq bench floor --nodes 5                   the floor alone

The floor is the least that a durable commit on a majority can cost on this machine: a leader and followers that write,
sync and count, without consensus or a queue. Rounds of both alternate, so that what the machine does meanwhile meets
both; the figures are medians of the rounds. Jobs that a bench submits are cancelled when it ends, also when it fails;
SIGINT (Ctrl-C, exit code 130) and SIGTERM (143) end it early and do the same, a second one at once. What a bench that
is killed leaves are its jobs in the queue bench, and raftq-floor-* or raftq-bench-* where its logs were kept, which
the next one there removes.";

/// Requests in flight on one connection, unless told otherwise.
const IN_FLIGHT_OF_ONE: usize = 64;

/// Connections, unless told otherwise, at most.
const CONNECTIONS_MAX: usize = 16;

/// Loads of a plot, up to that of `--in-flight`.
const PLOTTED: [usize; 8] = [1, 4, 16, 64, 128, 256, 512, 1024];

/// Options of `bench`.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub struct BenchArgs {
    /// What to measure.
    #[command(subcommand)]
    pub verb: BenchVerb,
}

/// What `bench` measures.
#[derive(Clone, Debug, Subcommand)]
pub enum BenchVerb {
    /// Submits, one job a request, each acknowledged before the next takes its place.
    Submit(LoadArgs),
    /// Submits of many jobs in one request.
    Batch(BatchArgs),
    /// Whole jobs: submitted, assigned, run by workers of the client library, completed.
    Cycle(CycleArgs),
    /// How soon a job is in the hands of an idle worker.
    Latency(LatencyArgs),
    /// How long nothing is acknowledged when the leader is killed; starts a cluster of its own for it.
    Failover(FailoverArgs),
    /// The floor alone: what this machine allows.
    Floor(FloorArgs),
    /// One node of the floor; `bench` starts it itself.
    #[command(hide = true)]
    FloorNode(FloorNodeArgs),
}

/// Options of every load.
#[derive(Clone, Debug, Args)]
pub struct LoadArgs {
    /// Requests that are not answered yet, over all connections.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub in_flight: u16,

    /// Seconds that count, in each round.
    #[arg(long, value_name = "S", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=3600))]
    pub secs: u16,

    /// Bytes of each job's payload, such as 256 or 4KiB.
    #[arg(long, value_name = "BYTES", default_value = "256", value_parser = payload)]
    pub payload: usize,

    /// Rounds; the figures are their medians.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub repeats: u16,

    /// Connections [default: one for 64 in flight, at most 16].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub connections: Option<u16>,

    /// Do not measure the floor beside it.
    #[arg(long)]
    pub no_floor: bool,

    /// Where the floor's logs are kept while it runs: on the disk of the nodes, or the comparison says nothing
    /// [default: beside the state of the cluster started here, else the directory for temporary files].
    #[arg(long, value_name = "DIR")]
    pub floor_dir: Option<PathBuf>,

    /// Measure with 1, 4, 16, ... up to 1024 in flight, and draw latency against load.
    #[arg(long, value_name = "FILE.svg", conflicts_with = "in_flight")]
    pub plot: Option<PathBuf>,
}

/// Options of `bench batch`.
#[derive(Clone, Debug, Args)]
pub struct BatchArgs {
    /// What holds for every load.
    #[command(flatten)]
    pub load: LoadArgs,

    /// Jobs in one request.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub jobs: u16,
}

/// Options of `bench floor`.
#[derive(Clone, Debug, Args)]
pub struct FloorArgs {
    /// What holds for every load.
    #[command(flatten)]
    pub load: LoadArgs,

    /// Nodes of the floor.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=7))]
    pub nodes: u16,
}

/// Options of one node of the floor.
#[derive(Clone, Debug, Args)]
pub struct FloorNodeArgs {
    /// Where its log is kept.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,

    /// It leads these.
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',')]
    pub leads: Option<Vec<String>>,
}

/// Reads the size of a payload.
///
/// # Errors
/// What is wrong with it, in words.
pub fn payload(text: &str) -> Result<usize, String> {
    let bytes = values::size(text)?;
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    if bytes > crate::jobs::job::BODY_BYTES_MAX {
        return Err(format!("a job takes {} bytes at most", crate::jobs::job::BODY_BYTES_MAX));
    }
    Ok(bytes)
}

/// Runs a node of the floor until whoever started it is gone.
///
/// # Errors
/// What the system says.
pub fn floor_node(args: &FloorNodeArgs) -> Outcome {
    let followers = args.leads.as_ref().map(|addrs| {
        let named = addrs.iter().filter(|addr| !addr.is_empty());
        named.cloned().collect::<Vec<String>>()
    });
    match floor::node(&args.dir, followers.as_deref()) {
        Ok(()) => Ok(Exit::Ok),
        Err(error) => Err(Failure::new(Exit::Failure, format!("a node of the floor: {error}"))),
    }
}

/// Runs `bench`. The session is opened only where a cluster is asked.
///
/// # Errors
/// A [`Failure`] of the cluster, of the floor or of stdout.
pub fn run(
    args: &BenchArgs,
    open: impl FnOnce() -> Result<Session, Failure>,
    json: bool,
    out: &mut Out,
) -> Outcome {
    match &args.verb {
        BenchVerb::Submit(load) => {
            of_session(&open()?, |session, run| of_cluster("submit", load, 1, session, run, out))
        }
        BenchVerb::Batch(args) => of_session(&open()?, |session, run| {
            of_cluster("batch", &args.load, usize::from(args.jobs), session, run, out)
        }),
        BenchVerb::Cycle(args) => {
            of_session(&open()?, |session, run| bench_jobs::cycle(args, session, run, out))
        }
        BenchVerb::Latency(args) => {
            of_session(&open()?, |session, run| bench_jobs::latency(args, session, run, out))
        }
        BenchVerb::Failover(args) => {
            measured(None, |run| bench_jobs::failover(args, json, run, out))
        }
        BenchVerb::Floor(args) => measured(None, |run| of_floor(args, json, run, out)),
        BenchVerb::FloorNode(args) => floor_node(args),
    }
}

fn of_session(session: &Session, measure: impl FnOnce(&Session, &Run) -> Outcome) -> Outcome {
    measured(Some(session), |run| measure(session, run))
}

/// One side of the comparison in one round.
#[derive(Clone, Debug)]
struct Round {
    measured: Measured,
    used: Used,
}

/// What is measured.
struct Plan<'a> {
    args: &'a LoadArgs,
    batch: usize,
    in_flight: usize,
}

impl Plan<'_> {
    fn connections(&self) -> usize {
        let enough = self.in_flight.div_ceil(IN_FLIGHT_OF_ONE).min(CONNECTIONS_MAX);
        self.args.connections.map_or(enough, usize::from).min(self.in_flight)
    }

    /// Opens the connections, each with its part of what is in flight.
    fn lines(&self, connect: impl Fn(usize) -> Result<Line, String>) -> Result<Vec<Line>, Failure> {
        let count = self.connections();
        (0..count)
            .map(|number| {
                let more = usize::from(number < self.in_flight % count);
                connect(self.in_flight / count + more)
            })
            .collect::<Result<_, _>>()
            .map_err(|why| Failure::new(Exit::Unreachable, why))
    }

    /// Measures one round.
    fn round(&self, lines: Vec<Line>, servers: &Servers, stop: &Stop) -> Result<Round, Failure> {
        let time = Duration::from_secs(self.args.secs.into());
        let window = Window { warm_up: Duration::from_secs(1).min(time), time };
        let mut readings = Vec::new();
        let ran = load::run(lines, window, None, stop, || readings.push(servers.read()));
        let measured = ran.map_err(|why| Failure::new(Exit::Failure, why))?;
        let used = match &readings[..] {
            [before, after] => after.since(before),
            _ => Used::default(),
        };
        Ok(Round { measured, used })
    }

    fn floor_round(&self, group: &Group, stop: &Stop) -> Result<Round, Failure> {
        let payload = self.args.payload;
        let lines =
            self.lines(|places| floor::connect(group.addr(), payload, self.batch, places))?;
        let servers = Servers { pids: group.pids(), addrs: Vec::new() };
        self.round(lines, &servers, stop)
    }
}

/// The figures of one side: medians of its rounds.
#[derive(Clone, Debug)]
struct Figures {
    per_s: f64,
    /// p50, p90, p99, p99.9 and the longest, in milliseconds.
    ms: [f64; 5],
    errors: BTreeMap<String, u64>,
    refused: BTreeMap<String, u64>,
    requests: u64,
    client_cores: f64,
    server_cores: f64,
    machine_cores: f64,
    stolen_cores: f64,
    server_us: f64,
    syncs_per_job: Option<f64>,
}

/// Where latencies are read.
const QUANTILES: [f64; 5] = [0.5, 0.9, 0.99, 0.999, 1.0];

/// Returns the median; not a number if there is none.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let at = |place: usize| values.get(place).copied().unwrap_or(f64::NAN);
    if values.len() % 2 == 1 {
        at(middle)
    } else {
        f64::midpoint(at(middle.saturating_sub(1)), at(middle))
    }
}

impl Figures {
    fn of(rounds: &[Round]) -> Self {
        let each = |figure: &dyn Fn(&Round) -> f64| median(rounds.iter().map(figure).collect());
        let mut all = Measured::default();
        rounds.iter().for_each(|round| all.add(&round.measured));
        let done = |round: &Round| (round.measured.done as f64).max(1.0);
        let syncs =
            rounds.iter().map(|round| round.used.syncs.map(|syncs| syncs as f64 / done(round)));
        Self {
            per_s: each(&|round| round.measured.done as f64 / round.used.secs),
            ms: QUANTILES.map(|quantile| {
                each(&|round| round.measured.latency.value_at_quantile(quantile) as f64 / 1e6)
            }),
            requests: all.latency.len(),
            errors: all.failed,
            refused: all.refused,
            client_cores: each(&|round| round.used.own_cores),
            server_cores: each(&|round| round.used.server_cores),
            machine_cores: each(&|round| round.used.machine_cores),
            stolen_cores: each(&|round| round.used.stolen_cores),
            server_us: each(&|round| round.used.server_cores * round.used.secs * 1e6 / done(round)),
            syncs_per_job: syncs.collect::<Option<Vec<f64>>>().map(median),
        }
    }

    fn json(&self) -> Value {
        let [p50, p90, p99, p999, max] = self.ms;
        json!({
            "per_s": self.per_s, "p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "p99_9_ms": p999, "max_ms": max,
            "requests": self.requests, "errors": self.errors.values().sum::<u64>(), "errors_by_code": self.errors,
            "refused": self.refused.values().sum::<u64>(), "client_cores": self.client_cores,
            "server_cores": self.server_cores, "machine_cores": self.machine_cores,
            "stolen_cores": self.stolen_cores, "server_cpu_us_per_job": self.server_us,
            "syncs_per_job": self.syncs_per_job,
        })
    }

    fn row(&self, name: &str) -> Vec<String> {
        let [p50, p90, p99, p999, _max] = self.ms.map(|ms| format!("{ms:.2}"));
        vec![
            name.into(),
            format!("{:.0}", self.per_s),
            p50,
            p90,
            p99,
            p999,
            self.errors.values().sum::<u64>().to_string(),
            self.refused.values().sum::<u64>().to_string(),
            format!("{:.2}", self.client_cores),
            format!("{:.2}", self.server_cores),
            format!("{:.1}", self.server_us),
            self.syncs_per_job.map_or(String::new(), |syncs| format!("{syncs:.3}")),
        ]
    }
}

fn table() -> Table {
    Table::new(&[
        Column::Left(""),
        Column::Right("JOBS/S"),
        Column::Right("P50 MS"),
        Column::Right("P90"),
        Column::Right("P99"),
        Column::Right("P99.9"),
        Column::Right("ERRORS"),
        Column::Right("REFUSED"),
        Column::Right("CLIENT CORES"),
        Column::Right("SERVER CORES"),
        Column::Right("SERVER US/JOB"),
        Column::Right("SYNCS/JOB"),
    ])
}

/// The directory for the floor's logs, unless one is named.
fn floor_dir(args: &LoadArgs, session: Option<&Session>) -> PathBuf {
    if let Some(dir) = &args.floor_dir {
        return dir.clone();
    }
    let beside = session.and_then(|session| match &session.target().origin {
        Origin::Cluster(file) => file.parent().map(Path::to_owned),
        Origin::Given | Origin::Default => None,
    });
    beside.unwrap_or_else(std::env::temp_dir)
}

fn start_floor(nodes: usize, dir: &Path, run: &Run) -> Result<Group, Failure> {
    narrate(&format!("starting a floor of {nodes} nodes in {}", dir.display()));
    Group::start(nodes, dir, &run.traces, &run.stop).map_err(|why| {
        Failure::new(Exit::Failure, why)
            .hint("Another place for its logs: --floor-dir DIR; without a floor: --no-floor")
    })
}

/// Measures the floor alone.
fn of_floor(args: &FloorArgs, json: bool, run: &Run, out: &mut Out) -> Outcome {
    let nodes = usize::from(args.nodes);
    let group = start_floor(nodes, &floor_dir(&args.load, None), run)?;
    let in_flight = usize::from(args.load.in_flight);
    let plan = Plan { args: &args.load, batch: 1, in_flight };
    let mut rounds = Vec::new();
    for number in 1..=args.load.repeats {
        narrate(&format!("floor, {in_flight} in flight: round {number} of {}", args.load.repeats));
        rounds.push(plan.floor_round(&group, &run.stop)?);
    }
    let figures = Figures::of(&rounds);
    if json {
        let mut object = figures.json();
        describe(&mut object, "floor", &plan, nodes);
        out.json(&object)?;
    } else {
        out.line(&headline("floor", &plan, nodes))?;
        let mut table = table();
        table.row(figures.row("floor"));
        table.write(out, true)?;
    }
    out.flush()?;
    Ok(Exit::Ok)
}

fn headline(what: &str, plan: &Plan<'_>, nodes: usize) -> String {
    let LoadArgs { payload, repeats, secs, .. } = plan.args;
    let jobs =
        if plan.batch == 1 { String::new() } else { format!("{} jobs a request, ", plan.batch) };
    format!(
        "{what}: {nodes} nodes, {jobs}{payload} B a job, {} in flight on {} connections, {repeats} rounds of {secs} s",
        plan.in_flight,
        plan.connections()
    )
}

fn describe(object: &mut Value, what: &str, plan: &Plan<'_>, nodes: usize) {
    let about = json!({
        "what": what, "nodes": nodes, "in_flight": plan.in_flight, "connections": plan.connections(),
        "payload_bytes": plan.args.payload, "jobs_a_request": plan.batch,
        "secs": plan.args.secs, "repeats": plan.args.repeats,
    });
    if let (Some(object), Value::Object(about)) = (object.as_object_mut(), about) {
        object.extend(about);
    }
}

/// The leader, and every node, as the cluster says.
struct Cluster {
    leader: String,
    nodes: usize,
    servers: Servers,
}

impl Cluster {
    fn find(session: &Session) -> Result<Self, Failure> {
        let status = session.status()?;
        let leader = status.nodes.iter().find(|node| Some(node.id) == status.leader);
        let leader = leader.ok_or_else(|| {
            Failure::new(Exit::Unreachable, "the cluster has no leader at the moment")
        })?;
        let addrs: Vec<String> = status.nodes.iter().map(|node| node.addr.clone()).collect();
        Ok(Self { leader: leader.addr.clone(), nodes: addrs.len(), servers: Servers::at(&addrs) })
    }
}

/// Measures a cluster, beside the floor.
fn of_cluster(
    what: &str,
    args: &LoadArgs,
    batch: usize,
    session: &Session,
    run: &Run,
    out: &mut Out,
) -> Outcome {
    let cluster = Cluster::find(session)?;
    let floor = match args.no_floor {
        true => None,
        false => Some(start_floor(cluster.nodes, &floor_dir(args, Some(session)), run)?),
    };
    let loads: Vec<usize> = match args.plot {
        Some(_) => PLOTTED.to_vec(),
        None => vec![usize::from(args.in_flight)],
    };
    let mut points = [Vec::new(), Vec::new()];
    for in_flight in loads {
        let plan = Plan { args, batch, in_flight };
        let (ours, floors) = compare(what, &plan, &cluster, floor.as_ref(), session, run)?;
        show(what, &plan, &cluster, (&ours, floors.as_ref()), session.json(), out)?;
        for (points, figures) in points.iter_mut().zip([Some(&ours), floors.as_ref()]) {
            points.extend(figures.map(|figures| {
                let [p50_ms, _, p99_ms, ..] = figures.ms;
                Point { in_flight, per_s: figures.per_s, p50_ms, p99_ms }
            }));
        }
    }
    if let Some(file) = &args.plot {
        let [ours, floors] = points;
        let mut series = vec![Series { name: "raftq".into(), colour: "#0969da", points: ours }];
        if !floors.is_empty() {
            series.push(Series { name: "floor".into(), colour: "#8c959f", points: floors });
        }
        let title = format!(
            "{what}: {} nodes, {} B a job, durable on a majority",
            cluster.nodes, args.payload
        );
        fs::write(file, plot::draw(&title, &series))
            .map_err(|error| Failure::new(Exit::Failure, format!("{}: {error}", file.display())))?;
        narrate(&format!("drawn: {}", file.display()));
    }
    Ok(Exit::Ok)
}

/// Measures both sides in turn.
fn compare(
    what: &str,
    plan: &Plan<'_>,
    cluster: &Cluster,
    floor: Option<&Group>,
    session: &Session,
    run: &Run,
) -> Result<(Figures, Option<Figures>), Failure> {
    let (mut ours, mut floors) = (Vec::new(), Vec::new());
    let Plan { args, batch, in_flight } = *plan;
    for number in 1..=args.repeats {
        narrate(&format!("{what}, {in_flight} in flight: round {number} of {}", args.repeats));
        let connect = |places| {
            let submits = Submits::new(args.payload, batch, places, run.traces.block());
            submits::connect(&cluster.leader, submits, places)
        };
        ours.push(plan.round(plan.lines(connect)?, &cluster.servers, &run.stop)?);
        run.cancel_jobs(session)?;
        if let Some(floor) = floor {
            floors.push(plan.floor_round(floor, &run.stop)?);
        }
    }
    let floors = (!floors.is_empty()).then(|| Figures::of(&floors));
    Ok((Figures::of(&ours), floors))
}

fn show(
    what: &str,
    plan: &Plan<'_>,
    cluster: &Cluster,
    (ours, floor): (&Figures, Option<&Figures>),
    json: bool,
    out: &mut Out,
) -> Result<(), Failure> {
    let share = floor.map(|floor| ours.per_s / floor.per_s);
    let p50 = floor.map(|floor| {
        ours.ms.first().zip(floor.ms.first()).map_or(f64::NAN, |(ours, floor)| ours / floor)
    });
    if json {
        let mut object = ours.json();
        describe(&mut object, what, plan, cluster.nodes);
        if let Some(object) = object.as_object_mut() {
            object.insert("floor".into(), floor.map_or(Value::Null, Figures::json));
            object.insert("share_of_floor".into(), json!(share));
            object.insert("p50_of_floor".into(), json!(p50));
        }
        out.json(&object)?;
        return out.flush();
    }
    out.line(&headline(what, plan, cluster.nodes))?;
    let mut table = table();
    table.row(ours.row("raftq"));
    if let Some(floor) = floor {
        table.row(floor.row("floor"));
    }
    table.write(out, true)?;
    for (figures, counts, which) in
        [(ours, &ours.errors, "failed"), (ours, &ours.refused, "refused, and tried again")]
    {
        for (code, count) in counts {
            out.line(&format!("{count} of {} {which}: {code}", figures.requests))?;
        }
    }
    if let (Some(share), Some(p50)) = (share, p50) {
        out.line(&format!(
            "raftq reaches {:.0} % of what this machine allows; its median is {p50:.1} times the floor's",
            100.0 * share
        ))?;
    }
    if ours.stolen_cores > 0.05 {
        out.line(&format!(
            "the host took {:.2} cores away meanwhile: compare only figures of this run",
            ours.stolen_cores
        ))?;
    }
    out.flush()
}

//! The driver of scripts/compare.sh: loads one system with one cell, and prints what it measured as a line of JSON.

mod etcd;
mod figures;
mod floor;
mod load;
mod nats;
mod rabbit;
mod raftq;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::load::{Load, Res, System};

const USAGE: &str = "\
usage: raftq-compare CELL SYSTEM --endpoints A,B,C [--pids P,...] [--in-flight N] [--batch N] [--secs S] [--warm-up S]
CELL is prepare, submit, cycle or latency; SYSTEM is raftq, etcd, rabbitmq, nats or floor.";

/// How long connecting and preparing may take.
const BEGIN_TIME: Duration = Duration::from_secs(30);

/// Before a queue that could not be made is tried again.
const PREPARE_PAUSE: Duration = Duration::from_millis(500);

/// Threads, at most: more only wake each other up.
const THREADS_MAX: usize = 4;

/// Options of the command line: a name and a value each.
struct Options(BTreeMap<String, String>);

impl Options {
    fn parse(words: &[String]) -> Res<Self> {
        let mut options = BTreeMap::new();
        for pair in words.chunks(2) {
            match pair {
                [name, value] if name.starts_with("--") => {
                    options.insert(name.trim_start_matches("--").to_owned(), value.clone());
                }
                _ => return Err(format!("not an option and its value: {pair:?}\n{USAGE}").into()),
            }
        }
        Ok(Self(options))
    }

    fn number(&self, name: &str, default: u32) -> Res<u32> {
        self.0.get(name).map_or(Ok(default), |text| {
            text.parse().map_err(|error| format!("--{name} {text}: {error}").into())
        })
    }

    fn list(&self, name: &str) -> Vec<String> {
        let text = self.0.get(name).map_or("", String::as_str);
        text.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect()
    }

    fn load(&self) -> Res<Load> {
        let pids = self.list("pids").iter().map(|pid| pid.parse()).collect::<Result<_, _>>();
        Ok(Load {
            in_flight: self.number("in-flight", 1)? as usize,
            batch: self.number("batch", 1)? as usize,
            time: Duration::from_secs(self.number("secs", 5)?.into()),
            warm_up: Duration::from_secs(self.number("warm-up", 1)?.into()),
            pids: pids.map_err(|error| format!("--pids: {error}"))?,
        })
    }
}

async fn measure<S: System>(system: Res<S>, cell: &str, load: &Load) -> Res<Value> {
    let system = Arc::new(system?);
    match cell {
        "prepare" => {
            timeout(BEGIN_TIME, prepare(&*system))
                .await
                .map_err(|_| "no queue was made in time")?;
            Ok(json!({}))
        }
        "submit" => load::submits(system, load).await,
        "cycle" => load::cycle(system, load).await,
        "latency" => load::latency(system, load).await,
        other => Err(format!("no such cell: {other}\n{USAGE}").into()),
    }
}

/// Makes the queue; a cluster that has just formed may not be able to for a moment.
async fn prepare<S: System>(system: &S) {
    while let Err(error) = system.prepare().await {
        eprintln!("the queue is not made yet: {error}");
        sleep(PREPARE_PAUSE).await;
    }
}

/// Bounds a connecting.
async fn within<S>(connecting: impl Future<Output = Res<S>>) -> Res<S> {
    timeout(BEGIN_TIME, connecting).await.map_err(|_| "no connection in time")?
}

async fn drive(cell: &str, system: &str, options: &Options) -> Res<Value> {
    let (load, endpoints) = (options.load()?, options.list("endpoints"));
    let (to, in_flight) = (endpoints.as_slice(), load.in_flight);
    match system {
        "raftq" => measure(raftq::Raftq::new(to, in_flight), cell, &load).await,
        "etcd" => measure(within(etcd::Etcd::connect(to, in_flight)).await, cell, &load).await,
        "rabbitmq" => {
            measure(within(rabbit::Rabbit::connect(to, in_flight)).await, cell, &load).await
        }
        "nats" => measure(within(nats::Nats::connect(to, in_flight)).await, cell, &load).await,
        "floor" => measure(within(floor::Floor::connect(to, in_flight)).await, cell, &load).await,
        other => Err(format!("no such system: {other}\n{USAGE}").into()),
    }
}

fn run(words: &[String]) -> Res<()> {
    let [cell, system, rest @ ..] = words else { return Err(USAGE.into()) };
    let options = Options::parse(rest)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    println!("{}", runtime.block_on(drive(cell, system, &options))?);
    Ok(())
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let code = match run(&words) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("raftq-compare: {error}");
            1
        }
    };
    // Sockets and tasks that are left are not waited for.
    std::process::exit(code);
}

//! The stage of a run: a cluster, its clients and workers, and the checks once all is over.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_std::task::{self, JoinHandle};
use futures::future::join_all;
use raftq::types::JobId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::args::{Args, STATE, Wanted};
use crate::clients::{Caller, Load, stubborn};
use crate::cluster::Cluster;
use crate::finish::Looker;
use crate::net::Net;
use crate::netns::Netns;
use crate::proxy::Proxies;
use crate::record::Record;
use crate::verify::{Findings, effects, history};
use crate::watch::Watch;
use crate::workers;

/// Clients at work at once: no more operations than these are about one job at one time.
const CALLERS: u64 = 8;

/// Readers of one certain node, for each node.
const STUBBORN_EACH: usize = 2;

/// Their numbers in the history.
const STUBBORN: std::ops::RangeFrom<u64> = 100..;

/// How long a cluster may take to start.
const START_MAX: Duration = Duration::from_secs(60);

/// Makes the network that was asked for, and says loudly what it is.
///
/// # Errors
/// Why it cannot be had.
pub fn network(args: &Args, missing: &mut Vec<String>) -> Result<Net, String> {
    let netns = match args.net {
        Wanted::Proxy => None,
        Wanted::Netns => Some(Netns::new(args.nodes)?),
        Wanted::Auto => match Netns::new(args.nodes) {
            Ok(netns) => Some(netns),
            Err(why) => {
                let text = "network namespaces do not work here";
                missing.push(format!("{text} ({why}); proxies are used instead"));
                None
            }
        },
    };
    match netns {
        Some(netns) => Ok(Net::Netns(netns)),
        None => Proxies::new(args.nodes).map(Net::Proxy),
    }
}

/// Raises a flag at Ctrl-C.
///
/// # Errors
/// What the system said.
pub fn interrupts() -> Result<Arc<AtomicBool>, String> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&flag))
            .map_err(|error| error.to_string())?;
    }
    Ok(flag)
}

/// Where the script finds what a killed run left behind.
#[derive(Debug)]
pub struct Trace(Option<PathBuf>);

impl Trace {
    /// Tells the script which directory is in use, if there is a script.
    ///
    /// # Errors
    /// What the system said.
    pub fn leave(out: &Path) -> Result<Self, String> {
        let Some(folder) = std::env::var_os(STATE).map(PathBuf::from) else {
            return Ok(Self(None));
        };
        let file = folder.join(format!("nemesis.{}", std::process::id()));
        fs::write(&file, out.display().to_string()).map_err(|error| error.to_string())?;
        Ok(Self(Some(file)))
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.as_ref().map(fs::remove_file) {
            eprintln!("nemesis: {error}");
        }
    }
}

/// A cluster under load.
pub struct Stage {
    /// The nodes.
    pub cluster: Arc<Cluster>,
    /// Who leads.
    pub watch: Arc<Watch>,
    /// What clients were told.
    pub record: Arc<Record>,
    /// One more client, which looks.
    pub looker: Looker,
    /// When the load began.
    pub began: Instant,
    load: Arc<Load>,
    working: Arc<Load>,
    callers: Vec<JoinHandle<()>>,
    workers: JoinHandle<Vec<String>>,
    effects: PathBuf,
}

impl Stage {
    /// Starts the nodes, waits until they are a cluster, and starts the load.
    ///
    /// # Errors
    /// What went wrong.
    pub fn set(args: &Args, seed: u64, net: Net, out: &Path) -> Result<Self, String> {
        let cluster = Arc::new(Cluster::new(net, args, out));
        let looker = Looker::new(&cluster).map_err(|error| error.to_string())?;
        for node in cluster.ids() {
            cluster.bend_clock(node, 0)?;
            cluster.start(node)?;
        }
        if task::block_on(looker.whole(START_MAX)).is_none() {
            return Err(format!("the cluster was not whole within {START_MAX:?} of its start"));
        }
        let began = Instant::now();
        let record = Arc::new(Record::new(&out.join("history.jsonl"), began)?);
        let effects = out.join("effects.txt");
        let shared = || Load::new(Arc::clone(&record), cluster.addrs(), effects.clone());
        let (load, working) = (Arc::new(shared()), Arc::new(shared()));
        let watch = Arc::new(Watch::new(began));
        for node in cluster.ids() {
            task::spawn(Arc::clone(&watch).run(node, cluster.net.listen(node)));
        }
        let pause = Duration::from_secs(CALLERS) / args.rate;
        let callers: Result<Vec<Caller>, _> =
            (1..=CALLERS).map(|number| Caller::new(&load, number, seed)).collect();
        let callers = callers.map_err(|error| error.to_string())?;
        let mut callers: Vec<JoinHandle<()>> =
            callers.into_iter().map(|caller| task::spawn(caller.run(pause))).collect();
        for (addr, number) in
            cluster.addrs().into_iter().cycle().zip(STUBBORN).take(STUBBORN_EACH * args.nodes)
        {
            callers.push(task::spawn(stubborn(Arc::clone(&load), number, addr)));
        }
        let workers = task::spawn(workers::all(Arc::clone(&working), seed));
        Ok(Self { cluster, watch, record, looker, began, load, working, callers, workers, effects })
    }

    /// Returns the milliseconds since the load began.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Ends the clients, waits for the end of all jobs, ends the workers, asks every node for everything, and
    /// checks it all. Every node must run.
    pub fn check(&mut self, findings: &mut Findings) {
        self.load.over.store(true, Ordering::SeqCst);
        task::block_on(join_all(std::mem::take(&mut self.callers)));
        let tickets = self.record.tickets();
        let acknowledged: Vec<JobId> =
            tickets.iter().filter(|(_, ticket)| ticket.acknowledged).map(|(id, _)| *id).collect();
        let open = task::block_on(self.looker.ended(&acknowledged));
        findings.add("acknowledged jobs end after healing", acknowledged.len(), open);
        self.working.over.store(true, Ordering::SeqCst);
        let worker_faults = task::block_on(&mut self.workers);
        findings.add("workers end when they are asked to", 3, worker_faults);
        let nodes = self.cluster.ids().len();
        match task::block_on(self.looker.digests()) {
            Ok(index) => {
                let amount = format!("{nodes} nodes at index {index}");
                findings.add("all nodes have equal digests", amount, Vec::new());
            }
            Err(why) => findings.add("all nodes have equal digests", nodes, vec![why]),
        }
        self.watch.end();
        let everything = self.looker.everything(&self.cluster, &self.record);
        match task::block_on(everything) {
            Ok(finals) => {
                history(findings, &self.record.lines(), &tickets, &finals);
                effects(findings, &self.effects, finals.first(), &tickets);
            }
            Err(why) => findings.add("every node shows every job", nodes, vec![why]),
        }
        self.record.flush();
        let reigns = self.watch.reigns().len();
        let amount = format!("{reigns} terms with a leader");
        findings.add("one leader a term", amount, self.watch.faults());
        let mut ended = self.cluster.ended_by_themselves();
        ended.extend(self.panics());
        findings.add("no node ends by itself", nodes, ended);
    }

    /// Finds panics in the nodes' logs.
    fn panics(&self) -> Vec<String> {
        let panicked = |node: usize| {
            let log = fs::read_to_string(self.cluster.log_file(node)).unwrap_or_default();
            let line = log.lines().find(|line| line.contains("panicked at"))?;
            Some(format!("node {node}: {line}"))
        };
        self.cluster.ids().into_iter().filter_map(panicked).collect()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for over in [&self.load.over, &self.working.over] {
            over.store(true, Ordering::SeqCst);
        }
        self.watch.end();
    }
}

//! A node's life: it opens its disk, starts its threads and sockets, and ends them in order.

use std::sync::Arc;
use std::time::Duration;

use async_global_executor::{GlobalExecutorConfig, init_with_config};
use async_std::channel;
use async_std::task::block_on;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::client::client::Client;
use crate::net::inbox::{Ask, Inbox, lanes};
use crate::net::metrics::Metrics;
use crate::net::server::{self, Net};
use crate::net::shared::{CONNECTIONS_MAX, Info, NetConfig, Patience, Shared, ViewCell};
use crate::node::clock;
use crate::node::config::{Config, peers_text};
use crate::node::reports::ClientReports;
use crate::node::snapshots::{Files, load};
use crate::node::thread::{Control, RaftThread};
use crate::raft::configuration;
use crate::raft::core::{Boot, Config as RaftConfig};
use crate::raft::message::{Configuration, Voter};
use crate::replica::core::{Config as ReplicaConfig, Replica};
use crate::replica::input::Turn;
use crate::replica::view::{Notice, View};
use crate::storage::error::OpenError;
use crate::storage::healing;
use crate::storage::log::Options;
use crate::storage::threads::{Event, Opened, Recovered, open};
use crate::types::{ClusterId, Incarnation, Index, NodeId, Term, WorkerId};
use crate::worker::runner::{BuiltIn, BuiltInConfig, start};

/// Notices for the built-in worker that wait, at most; past it the worker is told all it holds again.
const NOTICES_MAX: usize = 4096;

/// Events of the disk that wait, at most: one batch, reads, one snapshot, one release at a time.
const STORAGE_EVENTS_MAX: usize = 1024;

/// How long leadership may take to move before a stopping node ends all the same.
const HANDOVER: Duration = Duration::from_secs(1);

/// How long sessions may take to hand out their last answers.
const CLOSING: Duration = Duration::from_secs(2);

/// Open files a node asks the system for: ten thousand connections and its own.
const FILES_MAX: u64 = 65_536;

/// Runs a node until it is told to end, or must. Returns the process's exit code: 0 after SIGTERM or
/// SIGINT, 1 when it could not start or had to stop, with the reason on stderr.
#[must_use]
pub fn run(config: Config) -> i32 {
    raise_open_files();
    start_executor();
    match Node::start(config) {
        Ok(node) => node.run(),
        Err(why) => {
            log::error!("{why}");
            1
        }
    }
}

/// Serves the sockets with a thread for every second core: the rest is for the Raft thread and the disk, and
/// one more thread to wake up costs more than it does. What blocks has threads of its own.
fn start_executor() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    init_with_config(
        GlobalExecutorConfig::default()
            .with_env_var("ASYNC_STD_THREAD_COUNT")
            .with_min_threads((cores / 2).max(1))
            .with_thread_name_fn(|| "sockets".to_owned()),
    );
}

/// The smallest cluster in which the others are a majority without the one that heals.
const HEALING_NODES_MIN: usize = 3;

/// Opens the data directory; sets damaged files aside if this start was told to heal.
fn open_disk(config: &Config, options: &Options, events: Sender<Event>) -> Result<Opened, String> {
    let nodes = config.peers.len();
    let explain = |error: OpenError| match error.advice(&config.data) {
        Some(_) if error.can_heal() && nodes < HEALING_NODES_MIN => format!(
            "{error}. In a cluster of {nodes} it cannot be healed, for the others are no majority \
             without it"
        ),
        Some(advice) => format!("{error}. {advice}"),
        None => error.to_string(),
    };
    if !config.heal || nodes < HEALING_NODES_MIN {
        return open(&config.data, config.id, options, events).map_err(explain);
    }
    let (opened, aside) =
        healing::open(&config.data, config.id, options, events).map_err(explain)?;
    match aside {
        Some(aside) => log::warn!(
            "what was damaged is in {} now, and can be deleted once nobody wants to look at it",
            config.data.join(&aside.into).display()
        ),
        None if opened.recovered.healing => {}
        None => log::info!("--heal: nothing is damaged here, so this node starts as usual"),
    }
    Ok(opened)
}

/// A started node.
struct Node {
    config: Config,
    net: Arc<Net>,
    shared: Arc<Shared>,
    control: Sender<Control>,
    /// The Raft thread's last word; the channel closes with the thread.
    ended: Receiver<Result<(), String>>,
    signals: Receiver<i32>,
    worker: Option<BuiltIn>,
}

impl Node {
    fn start(config: Config) -> Result<Self, String> {
        // Signals first, so that none is missed while the disk is read.
        let signals = signals()?;
        if config.peers.len().is_multiple_of(2) {
            log::warn!(
                "{} nodes: an even number costs more and survives no more failures than one fewer",
                config.peers.len()
            );
        }
        let options =
            Options { segment_bytes: config.segment_bytes, log_keep_bytes: config.log_keep_bytes };
        let (events, storage_events) = bounded(STORAGE_EVENTS_MAX);
        let Opened { storage, recovered } = open_disk(&config, &options, events)?;
        let (snapshot, machine) = load(&storage.snapshots(), storage.log_first(), &config.data)?;
        let dir = recovered.dir;
        log::info!(
            "node {} starts: log {} to {}, snapshot at {}, term {}",
            config.id,
            recovered.first_index,
            recovered.last_index,
            machine.applied_index(),
            recovered.hard_state.term
        );
        if recovered.healing {
            log::warn!(
                "this node heals: it neither votes nor counts until it holds all that its leader had \
                 committed when a majority of the other nodes confirmed it"
            );
        }
        let boot = boot(&config.peers_sorted(), recovered, snapshot)?;
        let turn = Turn { now: clock::ticks(), wall: clock::wall() };
        let replica_config = ReplicaConfig {
            raft: RaftConfig::new(config.id),
            dir,
            limits: config.limits,
            snapshot_bytes_min: config.snapshot_bytes_min,
            history_bytes_max: config.history_bytes_max,
            snapshot_bytes: storage.snapshots().newest().map_or(0, |file| file.bytes),
            seed: random(),
        };
        let view = first_view(&config, &boot);
        let replica = Replica::new(replica_config, boot, machine, turn);

        let (inbox, outlets) = lanes();
        let metrics = Arc::new(Metrics::default());
        let shared = Arc::new(Shared {
            view: ViewCell::new(view),
            inbox: inbox.clone(),
            clock: clock::ticks,
            wall: clock::wall,
            snapshots: Arc::new(Files(storage.snapshots())),
            info: info(&config),
            metrics,
        });
        let net_config = NetConfig {
            node: config.id,
            dir,
            listen: config.listen.clone(),
            peers: config.peers_sorted(),
            peers_crc: crc32fast::hash(config.peers_text().as_bytes()),
            connections_max: CONNECTIONS_MAX,
            patience: Patience::default(),
        };
        let net =
            Arc::new(server::start(net_config, Arc::clone(&shared)).map_err(|e| e.to_string())?);
        let (control, control_out) = bounded(8);
        let (notices, notices_out) = channel::bounded(NOTICES_MAX);
        let raft_thread = RaftThread {
            replica,
            storage,
            storage_events,
            outlets,
            net: Arc::clone(&net),
            shared: Arc::clone(&shared),
            control: control_out,
            notices: (config.slots > 0).then_some(notices),
        };
        let ended = spawn_raft(raft_thread)?;
        let worker = match config.slots {
            0 => None,
            _ => Some(start_worker(&config, inbox, Arc::clone(&shared), notices_out)?),
        };
        log::info!("node {} listens on {}", config.id, config.listen);
        Ok(Self { config, net, shared, control, ended, signals, worker })
    }

    /// Waits for the end and brings it about in order.
    fn run(mut self) -> i32 {
        crossbeam_channel::select! {
            recv(self.ended) -> word => return last_word(word.ok()),
            recv(self.signals) -> signal => {
                log::info!("signal {}: ending gently", signal.unwrap_or(SIGTERM));
            }
        }
        // A second signal ends at once; so does a disk that fails meanwhile.
        let (done, gentle) = bounded::<()>(1);
        let worker = self.worker.take();
        let stopper = std::thread::Builder::new().name("stop".into()).spawn(move || {
            if let Some(worker) = worker {
                let report = block_on(worker.stop());
                log::info!("the built-in worker has stopped: {report:?}");
            }
            drop(done);
        });
        if let Err(error) = stopper {
            log::error!("cannot start a thread: {error}");
            return 1;
        }
        crossbeam_channel::select! {
            recv(gentle) -> _ => {}
            recv(self.ended) -> word => return last_word(word.ok()),
            recv(self.signals) -> _ => {
                log::warn!("a second signal: ending at once");
                return 1;
            }
        }
        self.hand_over();
        block_on(async {
            let closing = self.net.close();
            if async_std::future::timeout(CLOSING, closing).await.is_err() {
                log::warn!("some connections would not end");
            }
        });
        self.tell(Control::Quit);
        match self.ended.recv_timeout(CLOSING) {
            Ok(Ok(())) | Err(RecvTimeoutError::Timeout) => {
                log::info!("node {} has ended", self.config.id);
                0
            }
            Ok(Err(why)) => last_word(Some(Err(why))),
            Err(RecvTimeoutError::Disconnected) => last_word(None),
        }
    }

    /// Takes no new work and waits for another leader, if this node leads.
    fn hand_over(&self) {
        let led = self.shared.view.load().leads;
        self.tell(Control::Stop);
        if !led || self.config.peers.len() == 1 {
            return;
        }
        let began = clock::monotonic();
        while clock::monotonic().saturating_sub(began) < HANDOVER {
            let leader = self.shared.view.load().leader.as_ref().map(|hint| hint.id);
            if leader.is_some_and(|id| id != self.config.id) {
                log::info!("leadership went to node {}", leader.unwrap_or_default());
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        log::warn!("no other node took over within {HANDOVER:?}");
    }

    fn tell(&self, control: Control) {
        if self.control.send_timeout(control, CLOSING).is_err() {
            log::warn!("the Raft thread does not hear");
        }
    }
}

/// Says why the Raft thread has ended; it never should before the process does.
fn last_word(word: Option<Result<(), String>>) -> i32 {
    match word {
        Some(Err(why)) => log::error!("this node stops: {why}"),
        Some(Ok(())) | None => log::error!("this node stops: its Raft thread has ended"),
    }
    1
}

fn spawn_raft(raft_thread: RaftThread) -> Result<Receiver<Result<(), String>>, String> {
    let (word, ended) = bounded(1);
    std::thread::Builder::new()
        .name("raft".into())
        .spawn(move || {
            let outcome = raft_thread.run();
            if word.send(outcome).is_err() {
                log::debug!("nobody heard the Raft thread's last word");
            }
        })
        .map_err(|error| format!("cannot start a thread: {error}"))?;
    Ok(ended)
}

fn start_worker(
    config: &Config,
    inbox: Inbox,
    shared: Arc<Shared>,
    notices: channel::Receiver<Notice>,
) -> Result<BuiltIn, String> {
    let worker = WorkerId::built_in(config.id);
    let client = Client::builder()
        .seeds(config.peers.iter().map(|(_, address)| address.clone()))
        .name(concat!("raftq worker/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| error.to_string())?;
    let announced = worker.clone();
    let announce = move |incarnation: Incarnation| {
        inbox.ask(Ask::LocalWorker { worker: announced.clone(), incarnation }).is_ok()
    };
    let guard = std::env::current_exe().map_err(|error| format!("cannot find myself: {error}"))?;
    let addrs: Vec<String> = config.peers_sorted().into_iter().map(|(_, addr)| addr).collect();
    let built_in = BuiltInConfig {
        worker,
        slots: config.slots,
        tags: config.tags.clone(),
        guard,
        guard_args: vec!["guard".into(), "--addrs".into(), addrs.join(",")],
        adopts: true,
        grace: config.grace,
        first: Incarnation::first(clock::wall(), fastrand::u64(..)),
        seed: fastrand::u64(..),
    };
    start(built_in, Arc::new(ClientReports { client, shared }), Box::new(announce), notices)
        .map_err(|error| format!("cannot start the built-in worker: {error}"))
}

/// Turns what the disk holds into what consensus starts from.
///
/// # Errors
/// A configuration that cannot be read, or one with other members than `peers`, which are in order.
pub(crate) fn boot(
    peers: &[(NodeId, String)],
    recovered: Recovered,
    snapshot: Option<crate::raft::message::SnapshotMeta>,
) -> Result<Boot, String> {
    let configurations = recovered
        .configurations
        .iter()
        .map(|(index, data)| match configuration::decode(data) {
            Ok(configuration) => Ok((*index, configuration)),
            Err(error) => Err(format!("the configuration at {index} cannot be read: {error}")),
        })
        .collect::<Result<Vec<_>, _>>()?;
    let bootstrap = Configuration {
        cluster: ClusterId::default(),
        voters: peers
            .iter()
            .map(|(id, addr)| Voter { id: *id, addr: addr.clone(), dir: None })
            .collect(),
    };
    let in_force = configurations
        .last()
        .map(|(_, configuration)| configuration)
        .or(snapshot.as_ref().map(|meta| &meta.configuration));
    if let Some(known) = in_force {
        let ids = |configuration: &Configuration| -> Vec<_> {
            configuration.voters.iter().map(|voter| (voter.id, voter.addr.clone())).collect()
        };
        if ids(known) != ids(&bootstrap) {
            return Err(format!(
                "--peers differs from the cluster this directory belongs to: it says {}, the log \
                 says {:?}; the members of a cluster cannot be changed yet",
                peers_text(peers),
                ids(known)
            ));
        }
    }
    let applied_index = snapshot.as_ref().map_or_else(Default::default, |meta| meta.index);
    Ok(Boot {
        hard_state: recovered.hard_state,
        snapshot,
        configuration: bootstrap,
        first_index: recovered.first_index,
        last_index: recovered.last_index,
        runs: recovered.runs,
        tail: recovered.tail,
        configurations,
        commit_index: recovered.commit_index,
        applied_index,
        healing: recovered.healing,
    })
}

/// What is known before the first turn: the directories of the newest configuration, and the cluster of the
/// newest one that is committed for certain.
fn first_view(config: &Config, boot: &Boot) -> View {
    let newest = |upto: Index| {
        let mut known = boot.configurations.iter().rev();
        known
            .find(|(index, _)| *index <= upto)
            .map(|(_, configuration)| configuration)
            .or(boot.snapshot.as_ref().map(|meta| &meta.configuration))
            .unwrap_or(&boot.configuration)
    };
    let cluster = newest(boot.commit_index).cluster;
    let configuration = Configuration { cluster, ..newest(boot.last_index).clone() };
    View {
        node: config.id,
        leads: false,
        term: Term(boot.hard_state.term.0),
        leader: None,
        configuration,
        ready: false,
        healing: boot.healing,
        stopping: false,
    }
}

fn info(config: &Config) -> Info {
    let line = |key: &str, value: String| (key.to_string(), value);
    Info {
        version: env!("CARGO_PKG_VERSION").into(),
        data: config.data.display().to_string(),
        // The node, its address and its directory are told by whoever lists these.
        config: vec![
            line("peers", config.peers_text()),
            line("slots", config.slots.to_string()),
            line("grace_ms", config.grace.as_millis().to_string()),
            line("segment_bytes", config.segment_bytes.to_string()),
            line("log_keep_bytes", config.log_keep_bytes.to_string()),
            line("snapshot_bytes_min", config.snapshot_bytes_min.to_string()),
            line("history_bytes_max", config.history_bytes_max.to_string()),
        ],
        started: clock::wall(),
    }
}

fn signals() -> Result<Receiver<i32>, String> {
    let mut signals = Signals::new([SIGTERM, SIGINT])
        .map_err(|error| format!("cannot listen for signals: {error}"))?;
    let (heard, signal) = bounded(4);
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for number in signals.forever() {
                if heard.try_send(number).is_err() {
                    log::debug!("a signal more than anybody waits for");
                }
            }
        })
        .map_err(|error| format!("cannot start a thread: {error}"))?;
    Ok(signal)
}

fn random() -> u128 {
    fastrand::u128(..)
}

/// Raises the soft limit on open files towards [`FILES_MAX`], as far as the hard limit allows.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(FILES_MAX, |maximum| maximum.min(FILES_MAX));
    if limit.current.is_some_and(|current| current < wanted)
        && let Err(error) =
            setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum })
    {
        log::warn!("only {:?} files may be open: {error}", limit.current);
    }
}

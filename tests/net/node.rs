//! A node that is sockets only: the test reads its lanes and answers, as the Raft thread would.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use raftq::jobs::machine::Machine;
use raftq::net::inbox::{Ask, Outlets, ReplyTo, lanes};
use raftq::net::metrics::Metrics;
use raftq::net::server::{self, Net};
use raftq::net::shared::{
    Info, NetConfig, Patience, Shared, SnapshotFile, SnapshotFiles, ViewCell,
};
use raftq::raft::message::{Configuration, SnapshotMeta, Voter};
use raftq::replica::view::View;
use raftq::types::{ClusterId, DirId, Millis, NodeId, TICK_MS, Term, Ticks};
use raftq::wire::message::LeaderHint;

/// Longer than anything here takes on a busy machine; only a failing test waits so long.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// The one checksum of peer lists in these tests.
pub(crate) const PEERS_CRC: u32 = 0xABCD;

#[expect(clippy::disallowed_methods, reason = "the clock of the tests")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

fn clock() -> Ticks {
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = now().duration_since(*START.get_or_init(now));
    Ticks(u64::try_from(elapsed.as_millis()).unwrap() / TICK_MS)
}

/// Waits until something is so.
pub(crate) fn until(what: &str, condition: impl Fn() -> bool) {
    let start = now();
    while !condition() {
        assert!(start.elapsed() < LONG, "{what} never came true");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A free port that nobody is given by chance: below those that the kernel hands out, and another for
/// each process and call.
pub(crate) fn free_addr() -> String {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(37);
    loop {
        let number = start.wrapping_add(CALLS.fetch_add(1, Ordering::Relaxed));
        let addr = format!("127.0.0.1:{}", 12_000 + number % 20_000);
        if TcpListener::bind(&addr).is_ok() {
            return addr;
        }
    }
}

pub(crate) fn dir_of(id: u64) -> DirId {
    DirId([u8::try_from(id).unwrap(); 16])
}

/// Settings of a test's node.
pub(crate) struct Plan {
    pub(crate) id: u64,
    pub(crate) listen: String,
    pub(crate) peers: Vec<(NodeId, String)>,
    pub(crate) connections_max: usize,
    pub(crate) patience: Patience,
    pub(crate) files: Arc<Files>,
}

impl Default for Plan {
    fn default() -> Self {
        // A cluster of one: no links are dialled.
        let peers = vec![(NodeId(1), "127.0.0.1:1".to_owned())];
        Self {
            id: 1,
            listen: "127.0.0.1:0".into(),
            peers,
            connections_max: 1000,
            patience: Patience::default(),
            files: Arc::default(),
        }
    }
}

/// A running node.
pub(crate) struct Node {
    pub(crate) net: Option<Net>,
    pub(crate) outlets: Outlets,
    pub(crate) shared: Arc<Shared>,
    pub(crate) addr: SocketAddr,
}

impl Plan {
    /// A plan for a node of two, whose other one is not there.
    pub(crate) fn of_two() -> Self {
        let peers = (1..=2).map(|id| (NodeId(id), "127.0.0.1:1".to_owned())).collect();
        Self { peers, ..Self::default() }
    }

    pub(crate) fn start(self) -> Node {
        let (inbox, outlets) = lanes();
        let shared = Arc::new(Shared {
            view: ViewCell::new(leader_view(self.id)),
            inbox,
            clock,
            wall: || Millis(1_700_000_000_000),
            snapshots: self.files,
            info: Info {
                version: "9.9.9".into(),
                data: "/data dir".into(),
                config: vec![("slots".into(), "4".into())],
                started: Millis(1_699_999_990_000),
            },
            metrics: Arc::new(Metrics::default()),
        });
        let config = NetConfig {
            node: NodeId(self.id),
            dir: dir_of(self.id),
            listen: self.listen,
            peers: self.peers,
            peers_crc: PEERS_CRC,
            connections_max: self.connections_max,
            patience: self.patience,
        };
        // The port of a node that has just ended may be taken for another moment.
        let start = now();
        let net = loop {
            match server::start(config.clone(), Arc::clone(&shared)) {
                Ok(net) => break net,
                Err(error) => assert!(start.elapsed() < LONG, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let addr = net.local_addr();
        Node { net: Some(net), outlets, shared, addr }
    }
}

impl Node {
    pub(crate) fn start() -> Self {
        Plan::default().start()
    }

    pub(crate) fn net(&self) -> &Net {
        self.net.as_ref().unwrap()
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Changes the published view.
    pub(crate) fn publish(&self, change: impl FnOnce(&mut View)) {
        let mut view = (*self.shared.view.load()).clone();
        change(&mut view);
        self.shared.view.set(view);
    }

    /// Takes the next proposal.
    pub(crate) fn proposal(&self) -> Ask {
        self.outlets.proposals.recv_timeout(LONG).expect("a proposal")
    }

    /// Takes the next cancel or hand-over.
    pub(crate) fn control(&self) -> Ask {
        self.outlets.controls.recv_timeout(LONG).expect("a cancel or a hand-over")
    }

    /// Takes the next read.
    pub(crate) fn read(&self) -> Ask {
        self.outlets.reads.recv_timeout(LONG).expect("a read")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(net) = self.net.take() {
            async_std::task::block_on(net.close());
        }
    }
}

/// The one who waits for the answer to a request.
pub(crate) fn waiter(ask: Ask) -> ReplyTo {
    match ask {
        Ask::Request { reply, .. } | Ask::Look { reply } => reply,
        Ask::Submits { jobs, .. } => {
            assert_eq!(jobs.len(), 1, "several share this ask");
            jobs.into_iter().next().unwrap().1
        }
        Ask::LocalWorker { .. } => panic!("nobody waits for this"),
    }
}

/// The view of a node that leads.
pub(crate) fn leader_view(id: u64) -> View {
    View {
        node: NodeId(id),
        leads: true,
        term: Term(4),
        leader: Some(hint(id)),
        configuration: configuration(None),
        ready: true,
        healing: false,
        stopping: false,
    }
}

pub(crate) fn hint(id: u64) -> LeaderHint {
    LeaderHint { id: NodeId(id), addr: format!("127.0.0.1:{}", 7100 + id), term: Term(4) }
}

/// Nodes 1 to 3, with the directory recorded for node 2.
pub(crate) fn configuration(dir_of_2: Option<DirId>) -> Configuration {
    let voter = |id: u64| Voter {
        id: NodeId(id),
        addr: format!("127.0.0.1:{}", 7100 + id),
        dir: if id == 2 { dir_of_2 } else { None },
    };
    Configuration { cluster: ClusterId([7; 16]), voters: (1..=3).map(voter).collect() }
}

/// Snapshot files in memory.
#[derive(Default)]
pub(crate) struct Files(pub(crate) Mutex<FilesState>);

#[derive(Default)]
pub(crate) struct FilesState {
    /// What can be sent, with its bytes.
    pub(crate) newest: Option<(SnapshotFile, Vec<u8>)>,
    /// What is being received.
    pub(crate) partial: Option<(SnapshotFile, Vec<u8>)>,
    /// The offsets at which receiving began or went on.
    pub(crate) begun_at: Vec<u64>,
    /// Fails every `begin` with this.
    pub(crate) refuse: Option<String>,
    /// Keeps the next `finish` until the test says so.
    pub(crate) hold: Option<Receiver<()>>,
}

impl Files {
    /// Makes files with one snapshot of so many bytes.
    pub(crate) fn with_snapshot(index: u64, size: usize) -> Arc<Self> {
        let bytes: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let file = SnapshotFile {
            meta: SnapshotMeta {
                index: raftq::types::Index(index),
                term: Term(3),
                configuration: configuration(None),
            },
            id: [9; 16],
            bytes: u64::try_from(size).unwrap(),
        };
        let files = Self::default();
        files.0.lock().unwrap().newest = Some((file, bytes));
        Arc::new(files)
    }
}

impl SnapshotFiles for Files {
    fn newest(&self) -> Option<SnapshotFile> {
        self.0.lock().unwrap().newest.as_ref().map(|(file, _)| file.clone())
    }

    fn read_chunk(&self, id: [u8; 16], offset: u64, max: usize) -> io::Result<Option<Vec<u8>>> {
        let state = self.0.lock().unwrap();
        let Some((_, bytes)) = state.newest.as_ref().filter(|(file, _)| file.id == id) else {
            return Ok(None);
        };
        let start = usize::try_from(offset).unwrap();
        Ok(Some(bytes[start..bytes.len().min(start + max)].to_vec()))
    }

    fn begin(&self, file: &SnapshotFile) -> Result<u64, String> {
        let mut state = self.0.lock().unwrap();
        if let Some(reason) = &state.refuse {
            return Err(reason.clone());
        }
        if state.partial.as_ref().is_none_or(|(partial, _)| partial.id != file.id) {
            state.partial = Some((file.clone(), Vec::new()));
        }
        let offset = u64::try_from(state.partial.as_ref().unwrap().1.len()).unwrap();
        state.begun_at.push(offset);
        Ok(offset)
    }

    fn write_chunk(&self, _: [u8; 16], offset: u64, data: &[u8]) -> Result<u64, String> {
        let mut state = self.0.lock().unwrap();
        let (_, bytes) = state.partial.as_mut().unwrap();
        assert_eq!(offset, u64::try_from(bytes.len()).unwrap(), "no gap, nothing twice");
        bytes.extend_from_slice(data);
        Ok(u64::try_from(bytes.len()).unwrap())
    }

    fn finish(&self, _: [u8; 16]) -> Result<(SnapshotMeta, Box<Machine>), String> {
        let hold = self.0.lock().unwrap().hold.take();
        if let Some(hold) = hold {
            hold.recv_timeout(LONG).unwrap();
        }
        let state = self.0.lock().unwrap();
        let (file, _) = state.partial.as_ref().unwrap();
        Ok((file.meta.clone(), Box::new(Machine::new())))
    }
}

/// What the node's clock says.
pub(crate) fn clock_now() -> Ticks {
    clock()
}

//! A user-space proxy in front of every node, which knows both ends of each connection and treats each
//! direction of each pair of nodes as its link says: delay, loss, rate, silence, and tearing.
//!
//! Who calls is read from the greeting: a node says its number in it. Everybody else is a client.

use std::collections::VecDeque;
use std::net::{TcpListener as StdListener, ToSocketAddrs};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_std::io::{ReadExt, WriteExt};
use async_std::net::{TcpListener, TcpStream};
use async_std::{channel, task};
use bytes::Bytes;
use raftq::wire::frame::{Frame, HEADER_BYTES, HELLO_BYTES_MAX, PREAMBLE};
use raftq::wire::hello::Hello;

use crate::net::{Link, Links, Pair};

/// Bytes taken from a connection at once.
const CHUNK_BYTES: usize = 16 << 10;

/// Chunks on their way in one direction of one connection, at most; then the sender waits.
const CHUNKS_MAX: usize = 64;

/// How often a link that carries nothing is looked at again.
const BLOCKED_PAUSE: Duration = Duration::from_millis(10);

/// A lost packet comes again after so long, as Linux has it.
const RETRANSMIT_MS: u64 = 200;

/// A caller that says nothing for so long is taken for a client that waits to be greeted.
const GREETING_MAX: Duration = Duration::from_millis(500);

/// What all connections look at.
#[derive(Debug, Default)]
struct State {
    links: Mutex<Links>,
    /// How often all connections between nodes were torn.
    torn: AtomicU64,
}

impl State {
    fn link(&self, pair: Pair) -> Link {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.get(&pair).copied().unwrap_or_default()
    }
}

/// The proxies of one cluster.
#[derive(Debug)]
pub struct Proxies {
    state: Arc<State>,
    /// Where everybody calls, and where the node listens.
    doors: Vec<(String, String)>,
}

impl Proxies {
    /// Opens a door for every node.
    ///
    /// # Errors
    /// What the system said.
    pub fn new(nodes: usize) -> Result<Self, String> {
        let said = |error: std::io::Error| format!("no proxy: {error}");
        let hold = || StdListener::bind("127.0.0.1:0").map_err(said);
        let doors: Vec<StdListener> = (0..nodes).map(|_| hold()).collect::<Result<_, _>>()?;
        // The nodes' own ports are free because they were just held, all at once.
        let targets: Vec<StdListener> = (0..nodes).map(|_| hold()).collect::<Result<_, _>>()?;
        let state = Arc::new(State::default());
        let mut addrs = Vec::new();
        for (at, (door, target)) in doors.into_iter().zip(&targets).enumerate() {
            let target = target.local_addr().map_err(said)?.to_string();
            addrs.push((door.local_addr().map_err(said)?.to_string(), target.clone()));
            task::spawn(serve(door.into(), at + 1, target, Arc::clone(&state)));
        }
        Ok(Self { state, doors: addrs })
    }

    /// Makes these links ill and all others well.
    pub fn set(&self, links: &Links) {
        links.clone_into(&mut self.state.links.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Tears every connection between nodes.
    pub fn reset(&self) {
        self.state.torn.fetch_add(1, Ordering::SeqCst);
    }

    /// Returns where everybody reaches a node.
    pub fn addr(&self, node: usize) -> String {
        self.doors[node - 1].0.clone()
    }

    /// Returns where the node itself listens.
    pub fn target(&self, node: usize) -> String {
        self.doors[node - 1].1.clone()
    }
}

/// Lets callers in to one node for as long as the program runs.
async fn serve(door: TcpListener, node: usize, target: String, state: Arc<State>) {
    loop {
        match door.accept().await {
            Ok((caller, _)) => {
                task::spawn(carry(caller, node, target.clone(), Arc::clone(&state)));
            }
            Err(error) => {
                eprintln!("nemesis: the proxy of node {node}: {error}");
                task::sleep(BLOCKED_PAUSE).await;
            }
        }
    }
}

/// Carries one connection until either end is over.
async fn carry(mut caller: TcpStream, node: usize, target: String, state: Arc<State>) {
    let Some((from, greeting)) = greeting(&mut caller).await else { return };
    let torn = state.torn.load(Ordering::SeqCst);
    let is_torn = || from != 0 && state.torn.load(Ordering::SeqCst) != torn;
    // A caller that cannot get through hears nothing, as if its packets were lost.
    while state.link((from, node)).blocked || state.link((node, from)).blocked {
        if is_torn() {
            return;
        }
        task::sleep(BLOCKED_PAUSE).await;
    }
    let Some(addr) = target.to_socket_addrs().ok().and_then(|mut addrs| addrs.next()) else {
        return;
    };
    // A node that is down: the caller's connection ends at once.
    let Ok(callee) = TcpStream::connect(addr).await else { return };
    let _both = (caller.set_nodelay(true).is_ok(), callee.set_nodelay(true).is_ok());
    let there = Way { pair: (from, node), torn, state: Arc::clone(&state) };
    let back = Way { pair: (node, from), torn, state };
    let out = there.pump(caller.clone(), callee.clone(), greeting);
    let home = back.pump(callee, caller, Vec::new());
    futures::future::join(out, home).await;
}

/// Reads what a caller says first, and who it is: `None` when it has gone.
async fn greeting(caller: &mut TcpStream) -> Option<(usize, Vec<u8>)> {
    let mut said = Vec::new();
    let mut chunk = vec![0; HELLO_BYTES_MAX];
    loop {
        let read = async_std::future::timeout(GREETING_MAX, caller.read(&mut chunk)).await;
        match read {
            Ok(Ok(0) | Err(_)) => return None,
            Ok(Ok(count)) => said.extend_from_slice(&chunk[..count]),
            Err(_) => return Some((0, said)),
        }
        let length = said.len().min(PREAMBLE.len());
        if said[..length] != PREAMBLE[..length] {
            return Some((0, said));
        }
        if let Some(node) = caller_of(&said) {
            return Some((node, said));
        }
    }
}

/// Reads who says this, once the whole greeting is there.
fn caller_of(said: &[u8]) -> Option<usize> {
    use tokio_util::codec::Decoder as _;
    let frame = said.get(PREAMBLE.len()..)?;
    if frame.len() < HEADER_BYTES {
        return None;
    }
    let mut codec = raftq::wire::frame::FrameCodec::new(HELLO_BYTES_MAX);
    let decoded: Result<Option<Frame>, _> = codec.decode(&mut frame.into());
    let hello = match decoded {
        Ok(None) => return None,
        Ok(Some(frame)) => Hello::from_frame(&frame).ok(),
        Err(_) => None,
    };
    let node = hello.and_then(|hello| hello.peer).map_or(0, |peer| peer.node.0);
    usize::try_from(node).ok()
}

/// One direction of one connection.
struct Way {
    pair: Pair,
    torn: u64,
    state: Arc<State>,
}

/// A piece on its way, and when it arrives.
type Piece = (Instant, Bytes);

impl Way {
    fn is_torn(&self) -> bool {
        let is_between_nodes = self.pair.0 != 0 && self.pair.1 != 0;
        is_between_nodes && self.state.torn.load(Ordering::SeqCst) != self.torn
    }

    /// Carries everything until the source ends, then ends the target's reading side.
    async fn pump(self, source: TcpStream, target: TcpStream, first: Vec<u8>) {
        let (sender, receiver) = channel::bounded(CHUNKS_MAX);
        let reading = self.read(source.clone(), sender, first);
        let writing = self.write(target.clone(), receiver);
        futures::future::join(reading, writing).await;
        let how = if self.is_torn() { std::net::Shutdown::Both } else { std::net::Shutdown::Write };
        let _ended_already = target.shutdown(how).is_err();
        if self.is_torn() {
            let _ended_already = source.shutdown(how).is_err();
        }
    }

    async fn read(&self, mut source: TcpStream, sender: channel::Sender<Piece>, first: Vec<u8>) {
        let mut dice = fastrand::Rng::new();
        let mut last = Instant::now();
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut waiting = VecDeque::from([first]);
        loop {
            let piece = match waiting.pop_front().filter(|piece| !piece.is_empty()) {
                Some(piece) => Bytes::from(piece),
                None => {
                    let read =
                        async_std::future::timeout(Duration::from_secs(1), source.read(&mut chunk));
                    match read.await {
                        Ok(Ok(0) | Err(_)) => return,
                        Ok(Ok(count)) => Bytes::copy_from_slice(&chunk[..count]),
                        Err(_) if self.is_torn() => return,
                        Err(_) => continue,
                    }
                }
            };
            last = last.max(self.arrives(&piece, last, &mut dice));
            if sender.send((last, piece)).await.is_err() {
                return;
            }
        }
    }

    /// Returns when a piece arrives that leaves now, behind one that arrives at `last`.
    fn arrives(&self, piece: &Bytes, last: Instant, dice: &mut fastrand::Rng) -> Instant {
        let link = self.state.link(self.pair);
        let mut delay_ms = link.delay_ms + dice.u64(0..=link.jitter_ms);
        while link.loss_percent > 0 && dice.u32(0..100) < link.loss_percent && delay_ms < 3_000 {
            delay_ms += delay_ms.max(RETRANSMIT_MS);
        }
        let now = Instant::now();
        let due = now + Duration::from_millis(delay_ms);
        let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
        match (length * 1_000_000).checked_div(link.bytes_s) {
            Some(micros) => due.max(last.max(now) + Duration::from_micros(micros)),
            None => due,
        }
    }

    async fn write(&self, mut target: TcpStream, receiver: channel::Receiver<Piece>) {
        while let Ok((due, piece)) = receiver.recv().await {
            let early = due.saturating_duration_since(Instant::now());
            if !early.is_zero() {
                task::sleep(early).await;
            }
            while self.state.link(self.pair).blocked && !self.is_torn() {
                task::sleep(BLOCKED_PAUSE).await;
            }
            if self.is_torn() || target.write_all(&piece).await.is_err() {
                let _ended_already = target.shutdown(std::net::Shutdown::Both).is_err();
                return;
            }
        }
        // What ends also ends late: nothing overtakes a link that carries nothing.
        while self.state.link(self.pair).blocked && !self.is_torn() {
            task::sleep(BLOCKED_PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raftq::types::{DirId, NodeId};
    use raftq::wire::hello::{PeerHello, Role};

    /// What node `node` says first.
    fn hello(node: u64) -> Vec<u8> {
        use tokio_util::codec::Encoder as _;
        let peer = PeerHello {
            node: NodeId(node),
            dir: DirId::default(),
            expects: NodeId(1),
            peers_crc: 0,
        };
        let hello = Hello { role: Role::Raft, peer: Some(peer), ..Hello::client("test") };
        let mut bytes = bytes::BytesMut::from(&PREAMBLE[..]);
        let mut codec = raftq::wire::frame::FrameCodec::new(HELLO_BYTES_MAX);
        codec.encode(hello.to_frame(0), &mut bytes).expect("a greeting is small");
        bytes.to_vec()
    }

    async fn read_within(stream: &mut TcpStream, ms: u64) -> Option<usize> {
        let mut bytes = [0; 256];
        let read = async_std::future::timeout(Duration::from_millis(ms), stream.read(&mut bytes));
        read.await.ok().map(|read| read.unwrap_or_default())
    }

    #[test]
    fn blocked_direction_holds_its_bytes_and_the_other_goes_on() {
        task::block_on(async {
            let proxies = Proxies::new(1).expect("ports");
            let node = TcpListener::bind(proxies.target(1)).await.expect("the node's port");
            let mut caller = TcpStream::connect(proxies.addr(1)).await.expect("the door");
            caller.write_all(&hello(2)).await.expect("the proxy reads");
            let (mut callee, _) = node.accept().await.expect("the proxy calls");
            assert_eq!(read_within(&mut callee, 5_000).await, Some(hello(2).len()));
            proxies.set(&Links::from([((2, 1), Link { blocked: true, ..Link::default() })]));
            caller.write_all(b"there").await.expect("the proxy reads");
            callee.write_all(b"back").await.expect("the proxy reads");
            assert_eq!(read_within(&mut caller, 5_000).await, Some(4), "the other direction");
            assert_eq!(read_within(&mut callee, 200).await, None, "nothing while it is blocked");
            proxies.set(&Links::new());
            assert_eq!(read_within(&mut callee, 5_000).await, Some(5), "it was held, not lost");
            proxies.reset();
            callee.write_all(b"torn").await.expect("the proxy reads");
            assert_eq!(read_within(&mut caller, 5_000).await, Some(0), "the connection is torn");
        });
    }
}

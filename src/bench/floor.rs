//! The floor: the least that a durable commit on a majority can cost on this machine. No product.
//!
//! A leader takes what its connections send, writes it to its own log with one fdatasync for all that waits,
//! beside its followers, which do the same, and answers when a majority has it. No consensus, no state, no
//! recovery: what is between a replicated queue and this is what the queue could still save, and no more.
//!
//! The log is a file of zeroes that is written round and round, as real logs reuse theirs: a sync then has no
//! metadata to write. Requests are a length of four bytes, little-endian, and so many bytes; each is answered with one
//! byte, in order. A follower is sent a number of eight bytes and a length of four before each batch, and answers with
//! the number.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::bench::load::{Line, Speech, Verdict};
use crate::bench::own::end_with_stdin;
use crate::bench::stop::Stop;
use crate::bench::traces::{Place, Traces};

/// Bytes of a node's log, zeroed before anything is written.
const LOG_BYTES: u64 = 128 << 20;

/// Bytes written at once while it is zeroed.
const ZEROES_BYTES: usize = 1 << 20;

/// Bytes read from a connection at once.
const CHUNK_BYTES: usize = 64 << 10;

/// The name of the log's file.
const LOG_NAME: &str = "floor-log";

/// What directories of a floor are named after.
const KIND: &str = "raftq-floor";

/// The pause between two looks at whether a start was told to stop.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// Number and length in front of a batch.
const HEAD_BYTES: usize = 12;

struct Log {
    file: File,
    at: u64,
}

impl Log {
    fn make(dir: &Path) -> io::Result<Self> {
        let file = File::create(dir.join(LOG_NAME))?;
        let zeroes = vec![0; ZEROES_BYTES];
        for offset in (0..LOG_BYTES).step_by(ZEROES_BYTES) {
            file.write_all_at(&zeroes, offset)?;
        }
        file.sync_all()?;
        Ok(Self { file, at: 0 })
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = bytes.len() as u64;
        if self.at + length > LOG_BYTES {
            self.at = 0;
        }
        self.file.write_all_at(bytes, self.at)?;
        self.at += length;
        self.file.sync_data()
    }
}

/// What waits for the leader's next round.
#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// How many answers each connection is owed.
    owed: BTreeMap<u64, (Arc<TcpStream>, usize)>,
}

struct Shared<T> {
    value: Mutex<T>,
    changed: Condvar,
}

impl<T> Shared<T> {
    fn new(value: T) -> Arc<Self> {
        Arc::new(Self { value: Mutex::new(value), changed: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, T> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `ready` holds.
    fn wait(&self, ready: impl Fn(&T) -> bool) -> MutexGuard<'_, T> {
        let mut value = self.lock();
        while !ready(&value) {
            value = self.changed.wait(value).unwrap_or_else(PoisonError::into_inner);
        }
        value
    }
}

/// Runs a node: the leader of these followers, or without any a follower. Tells its address on stdout, and then
/// that its log is ready. Ends with its leader's connection, or with stdin.
///
/// # Errors
/// What the system says.
pub fn node(dir: &Path, leads: Option<&[String]>) -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    tell(&listener.local_addr()?.to_string())?;
    end_with_stdin()?;
    let log = Log::make(dir)?;
    tell("ready")?;
    match leads {
        None => follow(&listener, log),
        Some(followers) => lead(&listener, log, followers),
    }
}

fn tell(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// A floor that runs: its processes end, and its files are removed, when this is dropped.
#[derive(Debug)]
pub struct Group {
    nodes: Vec<Child>,
    place: Place,
    leader: String,
}

impl Group {
    /// Starts a floor of so many nodes with its logs inside `dir`, and returns when it serves.
    ///
    /// # Errors
    /// What went wrong, in words; also that it was told to stop.
    pub fn start(nodes: usize, dir: &Path, traces: &Traces, stop: &Stop) -> Result<Self, String> {
        let place = traces.place(dir, KIND)?;
        let mut group = Self { nodes: Vec::new(), place, leader: String::new() };
        let mut followers = Vec::new();
        for number in 1..nodes.max(1) {
            followers.push(group.start_node(number, None, stop)?);
        }
        group.leader = group.start_node(0, Some(&followers), stop)?;
        for node in &mut group.nodes {
            if next_line(node, stop)? != "ready" {
                return Err("a node of the floor did not come up".into());
            }
        }
        Ok(group)
    }

    fn start_node(
        &mut self,
        number: usize,
        leads: Option<&[String]>,
        stop: &Stop,
    ) -> Result<String, String> {
        let wrong = |error: io::Error| format!("the floor cannot start: {error}");
        let dir = self.place.path().join(number.to_string());
        fs::create_dir_all(&dir).map_err(wrong)?;
        let program = std::env::current_exe().map_err(wrong)?;
        let mut command = Command::new(program);
        command.args(["bench", "floor-node", "--dir"]).arg(&dir);
        if let Some(followers) = leads {
            command.arg("--leads").arg(followers.join(","));
        }
        // In a group of its own, Ctrl-C is not for it: it ends when its stdin does.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        self.nodes.push(command.spawn().map_err(wrong)?);
        let node = self.nodes.last_mut().ok_or("no node")?;
        next_line(node, stop)
    }

    /// Returns where it takes requests.
    #[must_use]
    pub fn addr(&self) -> &str {
        &self.leader
    }

    /// Returns its processes.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.nodes.iter().map(Child::id).collect()
    }
}

/// Reads a line of a node's stdout, byte by byte: what follows is for the next time.
fn next_line(node: &mut Child, stop: &Stop) -> Result<String, String> {
    let out = node.stdout.as_mut().ok_or("a node of the floor has no stdout")?;
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        loop {
            stop.check()?;
            let mut waits = [PollFd::new(&*out, PollFlags::IN)];
            match poll(&mut waits, Some(&LOOK)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => break,
                Err(error) => return Err(error.to_string()),
            }
        }
        match out.read(&mut byte).map_err(|error| error.to_string())? {
            0 => return Err("a node of the floor has ended".into()),
            _ if byte == *b"\n" => return Ok(String::from_utf8_lossy(&line).into_owned()),
            _ => line.extend(byte),
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Err(error) = node.kill().and_then(|()| node.wait()) {
                log::warn!("a node of the floor does not end: {error}");
            }
        }
    }
}

fn follow(listener: &TcpListener, mut log: Log) -> io::Result<()> {
    let (stream, _leader) = listener.accept()?;
    stream.set_nodelay(true)?;
    let mut answers = stream.try_clone()?;
    let mut reader = BufReader::with_capacity(1 << 20, stream);
    let mut batch = Vec::new();
    loop {
        batch.clear();
        // All that has come goes into one write.
        let number = loop {
            let mut head = [0; HEAD_BYTES];
            if reader.read_exact(&mut head).is_err() {
                return Ok(());
            }
            let mut head = &head[..];
            let (number, length) = (head.get_u64_le(), head.get_u32_le());
            let before = batch.len();
            batch.resize(before + length as usize, 0);
            reader.read_exact(batch.get_mut(before..).unwrap_or_default())?;
            let mut rest = reader.buffer();
            let is_whole = rest.len() >= HEAD_BYTES && {
                rest.advance(8);
                let length = rest.get_u32_le() as usize;
                rest.len() >= length
            };
            if !is_whole {
                break number;
            }
        };
        log.append(&batch)?;
        answers.write_all(&number.to_le_bytes())?;
    }
}

fn lead(listener: &TcpListener, log: Log, followers: &[String]) -> io::Result<()> {
    let held = Shared::new(vec![0; followers.len()]);
    let mut out = Vec::new();
    for (place, addr) in followers.iter().enumerate() {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        let (mut answers, held) = (stream.try_clone()?, Arc::clone(&held));
        out.push(stream);
        spawn("acks", move || {
            let mut number = [0; 8];
            while answers.read_exact(&mut number).is_ok() {
                if let Some(held) = held.lock().get_mut(place) {
                    *held = u64::from_le_bytes(number);
                }
                held.changed.notify_one();
            }
        })?;
    }
    let waiting = Shared::new(Waiting::default());
    let taken = Arc::clone(&waiting);
    spawn("rounds", move || {
        if let Err(error) = rounds(log, &taken, &held, &mut out) {
            log::error!("the floor ends: {error}");
            std::process::exit(1);
        }
    })?;
    for (number, stream) in (0..).zip(listener.incoming()) {
        let stream = stream?;
        stream.set_nodelay(true)?;
        let waiting = Arc::clone(&waiting);
        spawn("session", move || {
            if let Err(error) = session(number, stream, &waiting) {
                log::debug!("a session ended: {error}");
            }
        })?;
    }
    Ok(())
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.into()).spawn(run).map(drop)
}

/// Takes all that waits, writes it beside the followers, and answers what a majority holds.
fn rounds(
    mut log: Log,
    waiting: &Shared<Waiting>,
    held: &Shared<Vec<u64>>,
    followers: &mut [TcpStream],
) -> io::Result<()> {
    // With the leader itself these are a majority.
    let needed = followers.len().div_ceil(2);
    for round in 1_u64.. {
        let Waiting { bytes, owed } =
            std::mem::take(&mut *waiting.wait(|waiting| !waiting.bytes.is_empty()));
        let mut message = BytesMut::with_capacity(HEAD_BYTES + bytes.len());
        message.put_u64_le(round);
        message.put_u32_le(u32::try_from(bytes.len()).map_err(io::Error::other)?);
        message.put_slice(&bytes);
        for follower in &mut *followers {
            follower.write_all(&message)?;
        }
        log.append(&bytes)?;
        let enough =
            |held: &Vec<u64>| held.iter().filter(|number| **number >= round).count() >= needed;
        drop(held.wait(enough));
        for (stream, count) in owed.into_values() {
            // Who is gone needs no answer.
            let told = (&*stream).write_all(&vec![b'+'; count]);
            if let Err(error) = told {
                log::debug!("nobody hears an answer: {error}");
            }
        }
    }
    Ok(())
}

fn session(number: u64, mut stream: TcpStream, waiting: &Shared<Waiting>) -> io::Result<()> {
    let answers = Arc::new(stream.try_clone()?);
    let mut received = BytesMut::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let count = stream.read(&mut chunk)?;
        if count == 0 {
            return Ok(());
        }
        received.extend_from_slice(chunk.get(..count).unwrap_or_default());
        let (mut whole, mut requests) = (0, 0);
        while let Some(mut rest) = received.get(whole..).filter(|rest| rest.len() >= 4) {
            let length = rest.get_u32_le() as usize;
            if rest.len() < length {
                break;
            }
            whole += 4 + length;
            requests += 1;
        }
        if requests > 0 {
            let mut value = waiting.lock();
            value.bytes.extend_from_slice(received.get(..whole).unwrap_or_default());
            let owed = value.owed.entry(number).or_insert_with(|| (Arc::clone(&answers), 0));
            owed.1 += requests;
            drop(value);
            waiting.changed.notify_one();
            received.advance(whole);
        }
    }
}

/// Requests to a floor on one connection.
#[derive(Debug)]
struct Requests {
    bytes: Bytes,
    /// Operations in one request.
    batch: u64,
    /// The places that wait, in order.
    waiting: VecDeque<usize>,
}

impl Speech for Requests {
    fn ask(&mut self, place: usize, _again: bool, out: &mut BytesMut) {
        out.put_u32_le(u32::try_from(self.bytes.len()).unwrap_or(u32::MAX));
        out.put_slice(&self.bytes);
        self.waiting.push_back(place);
    }

    fn hear(&mut self, received: &mut BytesMut) -> Result<Option<(usize, Verdict)>, String> {
        if received.is_empty() {
            return Ok(None);
        }
        received.advance(1);
        let place = self.waiting.pop_front().ok_or("an answer that nobody asked for")?;
        Ok(Some((place, Verdict::Done(self.batch))))
    }
}

/// Connects to a floor's leader.
///
/// # Errors
/// What the system says last.
pub fn connect(
    addr: &str,
    payload_bytes: usize,
    batch: usize,
    places: usize,
) -> Result<Line, String> {
    let wrong = |error: io::Error| format!("the floor at {addr}: {error}");
    let stream = TcpStream::connect(addr).map_err(wrong)?;
    stream.set_nodelay(true).map_err(wrong)?;
    stream.set_write_timeout(Some(Duration::from_secs(5))).map_err(wrong)?;
    let speech = Requests {
        bytes: vec![0x5a; payload_bytes * batch].into(),
        batch: batch as u64,
        waiting: VecDeque::new(),
    };
    Ok(Line { stream, received: BytesMut::new(), speech: Box::new(speech), places })
}

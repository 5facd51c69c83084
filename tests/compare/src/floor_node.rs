//! The floor: the least that a commit on the disks of a majority can be here. No product.
//!
//! A leader takes what its connections have sent, writes it to its own log with one fdatasync for all that
//! waits, beside its followers, which do the same, and answers when a majority has it. No consensus, no state, no
//! recovery. The log is a file of zeroes that is written round and round: a sync has no metadata to write.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of a node's log, zeroed before anything is written.
const LOG_BYTES: u64 = 64 << 20;

/// Bytes written at once while it is zeroed.
const ZEROES_BYTES: usize = 1 << 20;

/// Number (8 bytes) and length (4 bytes) in front of what a follower is sent.
const HEAD_BYTES: usize = 12;

/// How long the followers may take to be there.
const PATIENCE: Duration = Duration::from_secs(30);

struct Log {
    file: File,
    at: u64,
}

impl Log {
    fn make(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let file = File::create(dir.join("log"))?;
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

/// Runs a node: the leader of these followers, or without any a follower. Ends with the other side's connection.
pub fn run(listen: &str, dir: &Path, followers: &[String]) -> io::Result<()> {
    let log = Log::make(dir)?;
    if followers.is_empty() {
        let (stream, _) = TcpListener::bind(listen)?.accept()?;
        return follow(stream, log);
    }
    let followers = followers.iter().map(|addr| reach(addr)).collect::<io::Result<Vec<_>>>()?;
    // Only now: whoever reaches it finds all of it ready.
    lead(&TcpListener::bind(listen)?, log, followers)
}

fn reach(addr: &str) -> io::Result<TcpStream> {
    let end = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect(addr) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) if Instant::now() > end => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Splits a head into number and length.
fn head(bytes: &[u8; HEAD_BYTES]) -> (u64, usize) {
    let [a, b, c, d, e, f, g, h, length @ ..] = *bytes;
    (u64::from_le_bytes([a, b, c, d, e, f, g, h]), u32::from_le_bytes(length) as usize)
}

/// Writes what the leader sends, all that has come at once, and answers with the last number.
fn follow(stream: TcpStream, mut log: Log) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut answers = stream.try_clone()?;
    let mut reader = BufReader::with_capacity(1 << 20, stream);
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let last = loop {
            let mut first = [0; HEAD_BYTES];
            if let Err(error) = reader.read_exact(&mut first) {
                let is_end = error.kind() == io::ErrorKind::UnexpectedEof;
                return if is_end { Ok(()) } else { Err(error) };
            }
            let (number, length) = head(&first);
            let from = bytes.len();
            bytes.resize(from + length, 0);
            reader.read_exact(&mut bytes[from..])?;
            let is_whole = |next: &[u8; HEAD_BYTES]| {
                reader.buffer().len() >= HEAD_BYTES.saturating_add(head(next).1)
            };
            if !reader.buffer().first_chunk().is_some_and(is_whole) {
                break number;
            }
        };
        log.append(&bytes)?;
        answers.write_all(&last.to_le_bytes())?;
    }
}

/// A value, and a word for those who wait for it to change.
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

    fn wait_until(&self, holds: impl Fn(&T) -> bool) -> MutexGuard<'_, T> {
        let waited = self.changed.wait_while(self.lock(), |value| !holds(value));
        waited.unwrap_or_else(PoisonError::into_inner)
    }
}

/// What waits for the leader's next round.
#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// How many answers each connection is owed.
    owed: HashMap<u64, (Arc<TcpStream>, usize)>,
}

fn lead(listener: &TcpListener, log: Log, followers: Vec<TcpStream>) -> io::Result<()> {
    let acknowledged = Shared::new(vec![0u64; followers.len()]);
    for (place, follower) in followers.iter().enumerate() {
        let (mut reader, acknowledged) = (follower.try_clone()?, Arc::clone(&acknowledged));
        end_with(move || {
            loop {
                let mut number = [0; 8];
                reader.read_exact(&mut number)?;
                if let Some(known) = acknowledged.lock().get_mut(place) {
                    *known = u64::from_le_bytes(number);
                }
                acknowledged.changed.notify_one();
            }
        })?;
    }
    let waiting = Shared::new(Waiting::default());
    let rounds = Arc::clone(&waiting);
    end_with(move || commit(&rounds, log, followers, &acknowledged))?;
    for (name, stream) in (0..).zip(listener.incoming()) {
        let (stream, waiting) = (stream?, Arc::clone(&waiting));
        stream.set_nodelay(true)?;
        let read = move || {
            if let Err(error) = hear(name, stream, &waiting) {
                eprintln!("floor: a connection broke: {error}");
            }
        };
        thread::Builder::new().name("connection".into()).spawn(read)?;
    }
    Ok(())
}

/// Runs something on a thread of its own; when it ends, so does the process.
fn end_with(run: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    let run = move || {
        let ended = run();
        eprintln!("floor: it ends: {ended:?}");
        std::process::exit(1);
    };
    thread::Builder::new().spawn(run).map(drop)
}

/// Round after round: everything that waits, on the disks of a majority, and then the answers.
fn commit(
    waiting: &Shared<Waiting>,
    mut log: Log,
    mut followers: Vec<TcpStream>,
    acknowledged: &Shared<Vec<u64>>,
) -> io::Result<()> {
    // With the leader they are a majority.
    let enough = followers.len().div_ceil(2);
    for number in 1u64.. {
        let round = std::mem::take(&mut *waiting.wait_until(|waiting| !waiting.bytes.is_empty()));
        let mut message = Vec::with_capacity(HEAD_BYTES + round.bytes.len());
        message.extend_from_slice(&number.to_le_bytes());
        let length = u32::try_from(round.bytes.len()).map_err(io::Error::other)?;
        message.extend_from_slice(&length.to_le_bytes());
        message.extend_from_slice(&round.bytes);
        for follower in &mut followers {
            follower.write_all(&message)?;
        }
        log.append(&round.bytes)?;
        let has = |numbers: &Vec<u64>| numbers.iter().filter(|has| **has >= number).count();
        drop(acknowledged.wait_until(|numbers| has(numbers) >= enough));
        for (stream, count) in round.owed.into_values() {
            // A client that has gone away needs no word.
            let _gone = (&*stream).write_all(&vec![b'+'; count]).is_err();
        }
    }
    Ok(())
}

/// Takes the requests of one connection, all that have come at once.
fn hear(name: u64, mut stream: TcpStream, waiting: &Shared<Waiting>) -> io::Result<()> {
    let out = Arc::new(stream.try_clone()?);
    let (mut received, mut chunk) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        let count = stream.read(&mut chunk)?;
        if count == 0 {
            return Ok(());
        }
        received.extend_from_slice(&chunk[..count]);
        let (mut end, mut requests) = (0, 0);
        while let Some(length) =
            received[end..].first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
        {
            let next = end + 4 + length as usize;
            if next > received.len() {
                break;
            }
            end = next;
            requests += 1;
        }
        if requests > 0 {
            let mut waiting_now = waiting.lock();
            waiting_now.bytes.extend_from_slice(&received[..end]);
            waiting_now.owed.entry(name).or_insert_with(|| (Arc::clone(&out), 0)).1 += requests;
            drop(waiting_now);
            waiting.changed.notify_one();
            received.drain(..end);
        }
    }
}

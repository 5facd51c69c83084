//! The Raft thread and the disk's threads: whatever the order of events, each batch is answered once
//! and in its turn, each read once, a failure is its thread's last word, and all threads end.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use raftq::raft::effects::{Persist, ReadLog};
use raftq::raft::message::{Configuration, Entry, EntryKind, HardState, SnapshotMeta};
use raftq::types::{ClusterId, Index, NodeId, Term};
use shuttle::rand::{Rng, thread_rng};

use crate::storage::disk::Disk;
use crate::storage::identity;
use crate::storage::log::Options;
use crate::storage::memory::{Fault, Memory};
use crate::storage::threads::{Event, Storage, open_on};
use crate::{Receiver, bounded};

/// Batches in one life.
const BATCHES: u64 = 4;

/// Room for events: one, so that the disk's threads wait for the Raft thread as often as can be.
const EVENTS_MAX: usize = 1;

const NODE: NodeId = NodeId(1);

/// A disk in memory whose threads are shuttle's.
#[derive(Clone, Debug)]
struct Explored(Memory);

impl Disk for Explored {
    type File = <Memory as Disk>::File;

    fn create(&self, name: &str) -> io::Result<Self::File> {
        self.0.create(name)
    }

    fn open(&self, name: &str) -> io::Result<Self::File> {
        self.0.open(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }

    fn make_dir(&self, name: &str) -> io::Result<()> {
        self.0.make_dir(name)
    }

    fn sync_inner(&self, name: &str) -> io::Result<()> {
        self.0.sync_inner(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.0.sync_dir()
    }

    fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        shuttle::thread::Builder::new().name(name.into()).spawn(work).map(drop)
    }
}

/// What came back from the disk.
#[derive(Default)]
struct Heard {
    persisted: u64,
    reads: BTreeMap<u64, u32>,
    snapshots: u32,
    failed: Option<String>,
}

impl Heard {
    fn hear(&mut self, event: Event) {
        match event {
            Event::Persisted { seq, .. } => {
                // Each thread has a last word of its own: a batch may still be told when a read or a
                // snapshot has failed, and is as durable as any.
                let by_log = self.failed.as_ref().filter(|what| is_of_log(what));
                assert_eq!(by_log, None, "the log's failure was not its last word");
                assert_eq!(seq, self.persisted + 1, "a batch out of turn");
                self.persisted = seq;
            }
            Event::LogRead { token, .. } => *self.reads.entry(token).or_default() += 1,
            Event::Released { .. } => {}
            Event::SnapshotWritten { .. } => self.snapshots += 1,
            // The log's failure says more than another thread's: nothing may come after it.
            Event::Failed { what } if is_of_log(&what) => self.failed = Some(what),
            Event::Failed { what } => self.failed = self.failed.take().or(Some(what)),
        }
    }
}

/// Tells whether the log's thread said so, or the handle on its behalf.
fn is_of_log(what: &str) -> bool {
    ["the log", "old log files"].iter().any(|subject| what.starts_with(subject))
}

/// Segments so small that each batch or two begins another, which is made on its own thread.
fn open(disk: &Memory, is_new: bool) -> (Storage<Explored>, Receiver<Event>, Index) {
    let disk = Explored(disk.clone());
    let identity = if is_new { identity::make(&disk, NODE) } else { identity::load(&disk) };
    let options = Options { segment_bytes: 2048, log_keep_bytes: 0 };
    let (out, events) = bounded(EVENTS_MAX);
    let opened = open_on(disk, identity.unwrap(), None, &options, out).unwrap();
    (opened.storage, events, opened.recovered.last_index)
}

fn batch(seq: u64) -> Persist {
    let data = Bytes::from(vec![b'x'; 900]);
    let entry = Entry { index: Index(seq), term: Term(1), kind: EntryKind::Command, data };
    let hard_state = (seq == 1).then_some(HardState { term: Term(1), vote: Some(NODE) });
    Persist {
        seq,
        hard_state,
        reset: None,
        entries: vec![entry],
        commit_index: Index(seq - 1),
        healed: false,
    }
}

fn meta(index: u64) -> SnapshotMeta {
    let configuration = Configuration { cluster: ClusterId::default(), voters: Vec::new() };
    SnapshotMeta { index: Index(index), term: Term(1), configuration }
}

/// Plays the Raft thread: hands over batches one after the other, and reads and a snapshot between
/// them, until it has heard a failure or handed over `batches`. Returns the tokens of its reads.
fn play(
    storage: &Storage<Explored>,
    events: &Receiver<Event>,
    heard: &mut Heard,
    batches: u64,
) -> u64 {
    let mut tokens = 0;
    for seq in 1..=batches {
        storage.persist(batch(seq));
        if seq > 1 && thread_rng().gen_bool(0.5) {
            tokens += 1;
            let (from, to) = (Index(1), Index(seq - 1));
            storage.read_log(ReadLog { token: tokens, from, to, bytes_max: 1 << 20 });
        }
        if seq == 3 {
            storage.write_snapshot(meta(2), Box::new(|each| assert!(each(b"record"))));
        }
        if heard.snapshots > 0 {
            // Only what a durable snapshot covers is let go.
            storage.release(Index(2));
        }
        while heard.persisted < seq {
            heard.hear(events.recv().unwrap());
            if heard.failed.is_some() {
                return tokens;
            }
        }
    }
    tokens
}

/// Lets the disk's thread hand over the next batch by itself: whoever attends to a batch does so, or leaves it to
/// the Raft thread, as the dice say. Returns the batches attended to, and the handle, which is there while nobody
/// attends and must be taken away in the end: no thread ends while it holds a handle of its own.
fn attend(storage: &Storage<Explored>) -> (Receiver<u64>, Receiver<Storage<Explored>>) {
    let (told, attended) = bounded(usize::try_from(BATCHES).unwrap());
    let (leave, free) = bounded(1);
    leave.try_send(storage.clone()).unwrap();
    let taken = free.clone();
    storage.attend(Box::new(move |event| {
        let Event::Persisted { seq, .. } = event else { panic!("nothing else is attended to") };
        if thread_rng().gen_bool(0.5) {
            return Some(event);
        }
        let disk = taken.try_recv().unwrap();
        if seq < BATCHES {
            disk.persist(batch(seq + 1));
        }
        leave.try_send(disk).unwrap();
        told.try_send(seq).unwrap();
        None
    }));
    (attended, free)
}

#[test]
fn every_order_of_a_disk_that_is_attended_to_tells_of_each_batch_once() {
    explore(|| {
        let disk = Memory::default();
        let (storage, events, _) = open(&disk, true);
        let (attended, handle) = attend(&storage);
        storage.persist(batch(1));
        let mut told = Vec::new();
        while told.len() < usize::try_from(BATCHES).unwrap() {
            told.extend(attended.try_iter());
            for event in events.try_iter() {
                let Event::Persisted { seq, .. } = event else { panic!("{event:?}") };
                told.push(seq);
                if seq < BATCHES {
                    storage.persist(batch(seq + 1));
                }
            }
            shuttle::thread::yield_now();
        }
        drop(handle.recv().unwrap());
        told.sort_unstable();
        assert_eq!(told, (1..=BATCHES).collect::<Vec<_>>());
    });
}

#[test]
fn every_order_of_a_failing_disk_lets_only_what_is_durable_be_attended_to() {
    explore(|| {
        let disk = Memory::default();
        let (storage, events, _) = open(&disk, true);
        let (told, attended) = bounded(1);
        storage.attend(Box::new(move |_| {
            told.try_send(()).unwrap();
            None
        }));
        disk.fail_at(thread_rng().gen_range(0..4), Fault::Io);
        storage.persist(batch(1));
        drop(storage);
        // Comes to its end only when every thread has.
        let has_failed = events.iter().any(|event| matches!(event, Event::Failed { .. }));
        events.iter().for_each(drop);
        let is_told = !attended.is_empty();
        assert!(has_failed || is_told, "silence");
        let (storage, events, last_index) = open(&disk.after_power_cut(), false);
        assert!(last_index == Index(1) || !is_told, "what is not durable was told");
        drop(storage);
        events.iter().for_each(drop);
    });
}

fn runs() -> usize {
    let asked = std::env::var("RAFTQ_SCHEDULES").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(300)
}

fn explore(body: impl Fn() + Send + Sync + 'static) {
    shuttle::check_random(body, runs());
}

#[test]
fn every_order_on_the_disk_ends_with_each_answer_once() {
    explore(|| {
        let disk = Memory::default();
        let (storage, events, _) = open(&disk, true);
        let mut heard = Heard::default();
        let tokens = play(&storage, &events, &mut heard, BATCHES);
        drop(storage);
        // Comes to its end only when every thread has.
        events.iter().for_each(|event| heard.hear(event));
        assert_eq!(heard.failed, None);
        assert_eq!(heard.persisted, BATCHES);
        assert_eq!(heard.snapshots, 1);
        assert_eq!(heard.reads, (1..=tokens).map(|token| (token, 1)).collect(), "each read once");
    });
}

#[test]
fn every_order_of_a_stop_lets_all_threads_end() {
    explore(|| {
        let disk = Memory::default();
        let (storage, events, _) = open(&disk, true);
        let mut heard = Heard::default();
        let batches = thread_rng().gen_range(0..=BATCHES);
        play(&storage, &events, &mut heard, batches);
        // One more of everything is on its way when the node goes, its ends in any order. Threads that
        // wait for ever are found by shuttle.
        storage.persist(batch(batches + 1));
        let (from, to) = (Index(1), Index(1));
        storage.read_log(ReadLog { token: 9, from, to, bytes_max: 1 });
        if thread_rng().gen_bool(0.5) {
            drop(events);
            drop(storage);
        } else {
            drop(storage);
            drop(events);
        }
    });
}

#[test]
fn every_order_of_a_failing_disk_keeps_what_was_said() {
    explore(|| {
        let disk = Memory::default();
        let (storage, events, _) = open(&disk, true);
        disk.fail_at(disk.calls() + thread_rng().gen_range(1..20), Fault::Io);
        let mut heard = Heard::default();
        play(&storage, &events, &mut heard, BATCHES);
        drop(storage);
        events.iter().for_each(|event| heard.hear(event));
        assert!(heard.failed.is_some() || heard.persisted == BATCHES, "silence");
        // What was said to be durable is.
        let (storage, events, last_index) = open(&disk.after_power_cut(), false);
        assert!(last_index.0 >= heard.persisted, "{last_index} of {}", heard.persisted);
        drop(storage);
        events.iter().for_each(drop);
    });
}

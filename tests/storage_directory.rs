//! A real data directory: made, locked, refused to others, and its disk's threads.

#![expect(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test that meets the unexpected fails there"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use bytes::Bytes;
use crossbeam_channel::{Receiver, bounded};
use raftq::raft::effects::{Persist, ReadLog};
use raftq::raft::message::{Configuration, Entry, EntryKind, HardState, SnapshotMeta};
use raftq::storage::error::OpenError;
use raftq::storage::log::Options;
use raftq::storage::threads::{Event, Opened, Recovered, Storage, open};
use raftq::types::{ClusterId, DirId, Index, NodeId, Term};

const NODE: NodeId = NodeId(3);

/// A directory of a test's own, gone with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("raftq-{}-{name}", std::process::id()));
        let _left_over = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn data(&self) -> PathBuf {
        self.0.join("data")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

fn options() -> Options {
    Options { segment_bytes: 2000, log_keep_bytes: 0 }
}

/// An open directory. Dropping it does not wait for its threads; [`Node::stop`] does.
struct Node {
    storage: Storage,
    events: Receiver<Event>,
    recovered: Recovered,
}

impl Node {
    fn try_start(path: &Path, node: NodeId) -> Result<Self, OpenError> {
        let (out, events) = bounded(64);
        let Opened { storage, recovered } = open(path, node, &options(), out)?;
        Ok(Self { storage, events, recovered })
    }

    fn start(path: &Path) -> Self {
        Self::try_start(path, NODE).unwrap()
    }

    /// Lets the handle go and waits until the last thread has ended.
    fn stop(self) {
        drop(self.storage);
        for event in self.events {
            assert!(!matches!(event, Event::Failed { .. }), "{event:?}");
        }
    }

    fn persist(&self, batch: Persist) {
        let wanted = batch.seq;
        self.storage.persist(batch);
        let event = self.events.recv().unwrap();
        assert!(matches!(event, Event::Persisted { seq, .. } if seq == wanted), "{event:?}");
    }

    fn fill(&self, count: u64) {
        for index in 1..=count {
            self.persist(batch(index, vec![entry(index)]));
        }
    }
}

fn refusal(path: &Path, node: NodeId) -> OpenError {
    match Node::try_start(path, node) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error,
    }
}

fn entry(index: u64) -> Entry {
    Entry {
        index: Index(index),
        term: Term(2),
        kind: EntryKind::Command,
        data: Bytes::from(format!("entry {index}, {}", "y".repeat(80))),
    }
}

fn batch(seq: u64, entries: Vec<Entry>) -> Persist {
    Persist { seq, entries, ..Persist::default() }
}

fn meta(index: u64) -> SnapshotMeta {
    SnapshotMeta {
        index: Index(index),
        term: Term(2),
        configuration: Configuration { cluster: ClusterId::default(), voters: Vec::new() },
    }
}

fn files(path: &Path, start: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(start))
        .collect();
    files.sort();
    files
}

#[test]
fn new_directory_gets_an_id_of_its_own_and_keeps_it() {
    let scratch = Scratch::new("identity");
    let first = Node::start(&scratch.data());
    let dir = first.recovered.dir;
    assert_ne!(dir, DirId::default());
    assert_eq!((first.recovered.first_index, first.recovered.last_index), (Index(1), Index(0)));
    first.stop();
    let again = Node::start(&scratch.data());
    assert_eq!(again.recovered.dir, dir);
    again.stop();
    let other = Node::start(&scratch.0.join("other"));
    assert_ne!(other.recovered.dir, dir);
    other.stop();
}

#[test]
fn second_opening_is_refused_until_the_first_has_ended() {
    let scratch = Scratch::new("lock");
    let first = Node::start(&scratch.data());
    assert!(matches!(refusal(&scratch.data(), NODE), OpenError::InUse(_)));
    // The first one is none the worse for it.
    first.fill(3);
    first.stop();
    let second = Node::start(&scratch.data());
    assert_eq!(second.recovered.last_index, Index(3));
    second.stop();
}

#[test]
fn directories_that_are_not_this_nodes_are_refused_and_left_alone() {
    let scratch = Scratch::new("foreign");
    let no_parent = scratch.0.join("no/where");
    assert!(matches!(refusal(&no_parent, NODE), OpenError::NoParent(_)));
    // What cannot be looked at is not missing: nobody should be told to make it.
    let unseen = scratch.0.join("x".repeat(300)).join("data");
    assert!(matches!(refusal(&unseen, NODE), OpenError::Io { .. }));
    fs::write(scratch.0.join("diary.txt"), "dear diary").unwrap();
    assert!(matches!(refusal(&scratch.0, NODE), OpenError::Foreign(_)));
    assert_eq!(files(&scratch.0, "").len(), 1);
    assert!(matches!(refusal(&scratch.0.join("diary.txt"), NODE), OpenError::Io { .. }));
    Node::start(&scratch.data()).stop();
    let told = refusal(&scratch.data(), NodeId(4));
    assert!(matches!(told, OpenError::OtherNode { owner: NODE, .. }), "{told}");
    let fresh = scratch.0.join("fresh");
    fs::create_dir(&fresh).unwrap();
    Node::start(&fresh).stop();
}

#[test]
fn damaged_identity_is_refused_wherever_it_is_hit() {
    let scratch = Scratch::new("damaged-identity");
    Node::start(&scratch.data()).stop();
    let file = scratch.data().join("identity");
    let whole = fs::read(&file).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 0x10;
        }
        fs::write(&file, &bytes).unwrap();
        assert!(matches!(refusal(&scratch.data(), NODE), OpenError::Identity { .. }), "byte {at}");
        fs::write(&file, whole.get(..at).unwrap()).unwrap();
        assert!(
            matches!(refusal(&scratch.data(), NODE), OpenError::Identity { .. }),
            "cut at {at}"
        );
    }
    fs::remove_file(&file).unwrap();
    assert!(matches!(refusal(&scratch.data(), NODE), OpenError::Foreign(_)));
    fs::write(&file, &whole).unwrap();
    Node::start(&scratch.data()).stop();
}

/// A voter that forgot its votes must not vote: an old directory without a log is no new one.
#[test]
fn log_that_is_gone_is_not_taken_for_a_new_one() {
    let scratch = Scratch::new("no-log");
    let node = Node::start(&scratch.data());
    let mut vote = batch(1, Vec::new());
    vote.hard_state = Some(HardState { term: Term(7), vote: Some(NodeId(1)) });
    node.persist(vote);
    node.stop();
    let segments = files(&scratch.data(), "log-");
    let first = segments.first().unwrap();
    let bytes = fs::read(first).unwrap();
    // Removed while the next one, prepared and blank, is there; removed with it; blanked.
    fs::remove_file(first).unwrap();
    assert!(matches!(refusal(&scratch.data(), NODE), OpenError::NoLog));
    for other in segments.iter().skip(1) {
        fs::remove_file(other).unwrap();
    }
    assert!(matches!(refusal(&scratch.data(), NODE), OpenError::NoLog));
    fs::write(first, vec![0; bytes.len()]).unwrap();
    assert!(matches!(refusal(&scratch.data(), NODE), OpenError::NoLog));
    fs::write(first, &bytes).unwrap();
    let node = Node::start(&scratch.data());
    assert_eq!(node.recovered.hard_state.term, Term(7));
    node.stop();
}

#[test]
fn any_file_but_the_last_that_is_removed_is_missed() {
    let scratch = Scratch::new("removed");
    let node = Node::start(&scratch.data());
    node.fill(60);
    node.stop();
    let segments = files(&scratch.data(), "log-");
    assert!(segments.len() > 4, "{segments:?}");
    // The one before the last holds the newest records; the last is prepared for the next ones.
    for file in segments.iter().rev().skip(1) {
        let aside = scratch.0.join("aside");
        fs::rename(file, &aside).unwrap();
        let told = refusal(&scratch.data(), NODE);
        let fits = matches!(told, OpenError::Contradiction(_) | OpenError::Gap { .. });
        assert!(fits, "{}: {told}", file.display());
        fs::rename(&aside, file).unwrap();
    }
    let node = Node::start(&scratch.data());
    assert_eq!(node.recovered.last_index, Index(60));
    node.stop();
}

#[test]
fn handle_persists_reads_releases_and_writes_snapshots() {
    let scratch = Scratch::new("handle");
    let node = Node::start(&scratch.data());
    let mut vote = batch(0, Vec::new());
    vote.hard_state = Some(HardState { term: Term(2), vote: Some(NodeId(5)) });
    node.persist(vote);
    node.fill(60);
    let before = node.storage.log_bytes();
    assert!(before > 60 * 100, "{before}");
    assert_eq!(node.storage.stats().syncs.load(std::sync::atomic::Ordering::Relaxed), 61);

    let read = ReadLog { token: 9, from: Index(5), to: Index(50), bytes_max: 1 << 20 };
    node.storage.read_log(read);
    match node.events.recv().unwrap() {
        Event::LogRead { token: 9, result: Ok(found) } => {
            assert_eq!(found, (5..=50).map(entry).collect::<Vec<_>>());
        }
        event => panic!("{event:?}"),
    }

    // The image is dropped on the thread that wrote it.
    struct Image(mpsc::Sender<Option<String>>);
    impl Drop for Image {
        fn drop(&mut self) {
            let thread = std::thread::current().name().map(String::from);
            let _nobody_hears = self.0.send(thread);
        }
    }
    let (dropped, drops) = mpsc::channel();
    let image = Image(dropped);
    let source = move |each: &mut dyn FnMut(&[u8]) -> bool| {
        let held = &image;
        assert!(each(b"one") && each(b"two"));
        let _still = held;
    };
    node.storage.write_snapshot(meta(40), Box::new(source));
    let event = node.events.recv().unwrap();
    assert!(matches!(&event, Event::SnapshotWritten { meta, .. } if meta.index == Index(40)));
    assert_eq!(drops.recv().unwrap().as_deref(), Some("disk-snapshot"));

    node.storage.release(Index(40));
    let first = match node.events.recv().unwrap() {
        Event::Released { first_index } => first_index,
        event => panic!("{event:?}"),
    };
    assert!(first > Index(10) && first <= Index(41), "{first}");
    assert!(node.storage.log_bytes() < before);
    node.storage.read_log(ReadLog { token: 10, ..read });
    let event = node.events.recv().unwrap();
    let gone = matches!(&event, Event::LogRead { token: 10, result: Err(gone) } if gone.first_index == first);
    assert!(gone, "{event:?}");
    node.stop();

    let node = Node::start(&scratch.data());
    let state = node.recovered.hard_state;
    assert_eq!(state, HardState { term: Term(2), vote: Some(NodeId(5)) });
    assert_eq!((node.recovered.first_index, node.recovered.last_index), (first, Index(60)));
    let mut records = Vec::new();
    let mut push = |record: &[u8]| {
        records.push(record.to_vec());
        Ok(())
    };
    let loaded = node.storage.snapshots().load(node.storage.log_first(), &mut push).unwrap();
    assert_eq!(loaded, Some(meta(40)));
    assert_eq!(records, [b"one", b"two"]);
    node.stop();
}

#[test]
fn log_without_the_snapshot_it_continues_is_refused() {
    let scratch = Scratch::new("gap");
    let node = Node::start(&scratch.data());
    node.fill(60);
    node.storage.write_snapshot(meta(50), Box::new(|each| assert!(each(b"all"))));
    assert!(matches!(node.events.recv().unwrap(), Event::SnapshotWritten { .. }));
    node.storage.release(Index(50));
    assert!(matches!(node.events.recv().unwrap(), Event::Released { .. }));
    node.stop();
    for snapshot in files(&scratch.data(), "snap-") {
        fs::remove_file(snapshot).unwrap();
    }
    assert!(matches!(refusal(&scratch.data(), NODE), OpenError::Gap { .. }));
}

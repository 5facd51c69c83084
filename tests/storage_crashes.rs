//! A power cut at every call of everything that takes more than one: what was promised is there, nothing is
//! invented, and the node goes on. Of what was not synced every subset reaches the disk where there are few things,
//! and what the dice say where there are many.

#![expect(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    clippy::cast_possible_truncation,
    reason = "a test that meets the unexpected fails there"
)]

use bytes::Bytes;
use crossbeam_channel::{Receiver, bounded};
use raftq::raft::effects::Persist;
use raftq::raft::message::{Configuration, Entry, EntryKind, HardState, SnapshotMeta};
use raftq::storage::disk::Disk;
use raftq::storage::identity;
use raftq::storage::log::Options;
use raftq::storage::memory::{Calls, Fault, Memory};
use raftq::storage::snapshot::{SnapshotFile, Snapshots, Source};
use raftq::storage::threads::{Event, Opened, open_on};
use raftq::types::{ClusterId, Index, NodeId, Term};

const NODE: NodeId = NodeId(1);

/// Up to so many things that are not synced, every subset of them is tried.
const SUBSETS_MAX: u32 = 3;

/// Falls of the dice where there are more.
const DICE: u64 = 6;

fn options() -> Options {
    Options { segment_bytes: 600, log_keep_bytes: 0 }
}

/// Breaks the rule that `RAFTQ_BUG` names, in a build that has bugs to plant: then this program must go red.
fn plant() {
    #[cfg(feature = "planted-bugs")]
    if let Ok(name) = std::env::var("RAFTQ_BUG") {
        use raftq::planted::Bug;
        raftq::planted::plant(Bug::ALL.into_iter().find(|bug| bug.name() == name));
    }
}

/// A started disk and what it says.
struct Node {
    opened: Opened<Memory>,
    events: Receiver<Event>,
}

impl Node {
    fn start(disk: &Memory) -> Result<Self, String> {
        plant();
        let known = disk.list().unwrap().iter().any(|name| name == "identity");
        let identity = if known { identity::load(disk) } else { identity::make(disk, NODE) };
        let (out, events) = bounded(64);
        let opened =
            open_on(disk.clone(), identity.map_err(|e| e.to_string())?, None, &options(), out);
        opened.map(|opened| Self { opened, events }).map_err(|error| error.to_string())
    }

    /// Persists a batch; tells whether it was acknowledged.
    fn persist(&self, batch: Persist) -> bool {
        let wanted = batch.seq;
        self.opened.storage.persist(batch);
        match self.events.recv().unwrap() {
            Event::Persisted { seq, .. } => {
                assert_eq!(seq, wanted);
                true
            }
            Event::Failed { .. } => false,
            event => panic!("{event:?}"),
        }
    }

    fn write_snapshot(&self, index: u64) -> bool {
        self.opened.storage.write_snapshot(meta(index), image(index));
        match self.events.recv().unwrap() {
            Event::SnapshotWritten { .. } => true,
            Event::Failed { .. } => false,
            event => panic!("{event:?}"),
        }
    }

    fn release(&self, index: u64) -> bool {
        self.opened.storage.release(Index(index));
        match self.events.recv().unwrap() {
            Event::Released { .. } => true,
            Event::Failed { .. } => false,
            event => panic!("{event:?}"),
        }
    }

    /// Ends the threads; returns what they said last.
    fn stop(self) -> Vec<Event> {
        drop(self.opened);
        self.events.iter().collect()
    }
}

fn entry(index: u64) -> Entry {
    let data = Bytes::from(format!("entry {index}, {}", "z".repeat(60)));
    Entry { index: Index(index), term: Term(1), kind: EntryKind::Command, data }
}

fn batch(index: u64) -> Persist {
    let hard_state = Some(HardState { term: Term(index), vote: Some(NODE) });
    Persist { seq: index, hard_state, entries: vec![entry(index)], ..Persist::default() }
}

fn meta(index: u64) -> SnapshotMeta {
    SnapshotMeta {
        index: Index(index),
        term: Term(1),
        configuration: Configuration { cluster: ClusterId::default(), voters: Vec::new() },
    }
}

/// A little more than is written between two syncs.
fn image(index: u64) -> Source {
    Box::new(move |each| (0..22).take_while(|_| each(&vec![index as u8; 50_000])).for_each(drop))
}

/// What was acknowledged before the cut, and what was asked for and may be there.
#[derive(Clone, Copy, Debug, Default)]
struct Promise {
    /// The last entry that is there for certain.
    last: u64,
    /// The last entry that may be there.
    last_max: u64,
    /// The newest snapshot that is there for certain.
    snapshot: u64,
    /// The newest one that may be there.
    snapshot_max: u64,
    /// The log begins anew behind this index, for certain.
    reset: u64,
    /// It may begin anew behind this one.
    reset_max: u64,
}

/// A directory as a start after the cut finds it.
fn outcomes(disk: &Memory, call: u64) -> Vec<(String, Memory)> {
    let unsynced = disk.unsynced();
    let mut all = vec![("what was synced".to_owned(), disk.after_power_cut())];
    if unsynced <= SUBSETS_MAX {
        let subsets = (0..1_u64 << unsynced).map(|kept| {
            (format!("subset {kept:b} of {unsynced}"), disk.after_chosen_power_cut(kept))
        });
        all.extend(subsets);
    }
    let dice = (0..DICE).map(|dice| {
        let dice = call * DICE + dice;
        (format!("dice {dice}"), disk.after_torn_power_cut(dice))
    });
    all.extend(dice);
    all
}

/// Cuts an act off at each of its calls, and starts on every outcome; returns how many cuts there were.
fn cut_everywhere(
    name: &str,
    prepare: impl Fn() -> Memory,
    act: impl Fn(&Memory, &Node, &mut Promise) -> bool,
) -> u64 {
    for call in 0..500 {
        let disk = prepare();
        let node = Node::start(&disk).unwrap();
        let mut promise = Promise::default();
        disk.fail_at(call, Fault::Cut);
        let is_done = act(&disk, &node, &mut promise);
        node.stop();
        for (outcome, after) in outcomes(&disk, call) {
            verify(&after, promise, &format!("{name}, cut at call {call}, {outcome}"));
        }
        if is_done && disk.calls() <= call {
            return call;
        }
    }
    panic!("{name} has no end");
}

/// Starts, finds what was promised and nothing else, and goes on.
fn verify(disk: &Memory, promise: Promise, what: &str) {
    let node = Node::start(disk).unwrap_or_else(|error| panic!("{what}: {error}"));
    let recovered = &node.opened.recovered;
    let (first, last) = (recovered.first_index.0, recovered.last_index.0);
    assert!((promise.last..=promise.last_max).contains(&last), "{what}: {last}, {promise:?}");
    assert!(first > promise.reset, "{what}: the log begins at {first}, {promise:?}");
    let is_reset = promise.reset_max > 0 && first > promise.reset_max;
    let expected: Vec<Entry> = (first..=last).map(entry).collect();
    assert!(recovered.tail == expected, "{what}: not the entries {first} to {last}");
    // Each batch has its own index as its term; a reset changes none.
    let term = recovered.hard_state.term.0;
    assert!(if is_reset { term > 0 } else { term == last }, "{what}: term {term}, {last}");
    let snapshots = node.opened.storage.snapshots();
    let mut records = Vec::new();
    let loaded = snapshots.load(Index(first), &mut |record| {
        records.push((record.first().copied(), record.len()));
        Ok(())
    });
    let loaded = loaded.unwrap_or_else(|error| panic!("{what}: {error}"));
    let index = loaded.map_or(0, |meta| meta.index.0);
    let allowed = [promise.snapshot, promise.snapshot_max];
    assert!(allowed.contains(&index), "{what}: a snapshot at {index}, {promise:?}");
    assert!(first <= index + 1, "{what}: the log begins at {first}, the snapshot ends at {index}");
    if index > 0 {
        assert!(records == vec![(Some(index as u8), 50_000); 22], "{what}: not that image");
    }
    drop(snapshots);
    // It goes on, and what it acknowledges now is there after the next cut.
    assert!(node.persist(batch(last + 1)), "{what}: it does not go on");
    node.stop();
    let again = Node::start(&disk.after_power_cut()).unwrap();
    assert_eq!(again.opened.recovered.last_index.0, last + 1, "{what}: afterwards");
    again.stop();
}

/// A directory with entries and, if asked for, a snapshot, all of it durable.
fn filled(entries: u64, snapshot: Option<u64>) -> Memory {
    let disk = Memory::default();
    let node = Node::start(&disk).unwrap();
    assert!((1..=entries).all(|index| node.persist(batch(index))));
    if let Some(index) = snapshot {
        assert!(node.write_snapshot(index) && node.release(index));
    }
    node.stop();
    disk
}

#[test]
fn segment_roll_that_is_cut_off_loses_no_entry() {
    let cuts = cut_everywhere(
        "roll",
        || filled(3, None),
        |_disk, node, promise| {
            (promise.last, promise.last_max) = (3, 3);
            for index in 4..=14 {
                promise.last_max = index;
                if !node.persist(batch(index)) {
                    return false;
                }
                promise.last = index;
            }
            true
        },
    );
    assert!(cuts > 25, "{cuts} cuts");
}

#[test]
fn snapshot_and_release_that_are_cut_off_leave_a_log_and_a_snapshot_that_meet() {
    let cuts = cut_everywhere(
        "snapshot",
        || filled(12, Some(6)),
        |_disk, node, promise| {
            *promise =
                Promise { last: 12, last_max: 12, snapshot: 6, snapshot_max: 11, ..*promise };
            if !node.write_snapshot(11) {
                return false;
            }
            promise.snapshot = 11;
            node.release(11)
        },
    );
    assert!(cuts > 10, "{cuts} cuts");
}

/// Makes a snapshot file elsewhere and returns its offer and its bytes.
fn foreign(index: u64) -> (SnapshotFile, Vec<u8>) {
    let source = Snapshots::open(&Memory::default()).unwrap();
    source.write(&meta(index), image(index)).unwrap();
    let offer = source.newest().unwrap();
    let bytes = source.read_chunk(offer.id, 0, 4 << 20).unwrap().unwrap();
    (offer, bytes)
}

#[test]
fn install_that_is_cut_off_leaves_the_old_log_or_the_new_snapshot() {
    let (offer, bytes) = foreign(200);
    let cuts = cut_everywhere(
        "install",
        || filled(12, Some(6)),
        |_disk, node, promise| {
            *promise =
                Promise { last: 12, last_max: 12, snapshot: 6, snapshot_max: 200, ..*promise };
            let snapshots = node.opened.storage.snapshots();
            let Ok(mut at) = snapshots.begin(&offer) else { return false };
            for chunk in bytes.chunks(256 << 10) {
                match snapshots.write_chunk(offer.id, at, chunk) {
                    Ok(next) => at = next,
                    Err(_) => return false,
                }
            }
            if snapshots.finish(offer.id, &mut |_record| Ok(())).is_err() {
                return false;
            }
            promise.snapshot = 200;
            // The log begins anew behind it; the first entries of the leader come in the same batch.
            (promise.last_max, promise.reset_max) = (201, 200);
            let reset = Persist { reset: Some(meta(200)), hard_state: None, ..batch(201) };
            if !node.persist(reset) {
                return false;
            }
            (promise.last, promise.reset) = (201, 200);
            node.release(200)
        },
    );
    assert!(cuts > 15, "{cuts} cuts");
}

#[test]
fn transfer_that_is_cut_off_is_resumed_or_begun_anew() {
    let (offer, bytes) = foreign(100);
    let mut resumed = 0;
    for call in 0..100 {
        let disk = filled(3, None);
        let snapshots = Snapshots::open(&disk).unwrap();
        disk.fail_at(call, Fault::Cut);
        let broke = receive(&snapshots, &offer, &bytes).is_err();
        for (outcome, after) in outcomes(&disk, call) {
            let what = format!("cut at {call}, {outcome}");
            let again = Snapshots::open(&after).unwrap();
            if again.newest().is_none() {
                resumed += u64::from(again.begin(&offer).unwrap() > 0);
                receive(&again, &offer, &bytes).unwrap_or_else(|error| panic!("{what}: {error}"));
            }
            let mut count = 0;
            let loaded = again.load(Index(1), &mut |_record| {
                count += 1;
                Ok(())
            });
            assert_eq!(loaded.unwrap(), Some(meta(100)), "{what}");
            assert_eq!(count, 22, "{what}");
        }
        if !broke {
            assert!(call > 8, "{call} calls");
            return assert_eq!(resumed, 0, "a transfer of one step begins anew");
        }
    }
    panic!("a transfer has no end");
}

fn receive(
    snapshots: &Snapshots<Memory>,
    offer: &SnapshotFile,
    bytes: &[u8],
) -> Result<(), String> {
    let begin = snapshots.begin(offer).map_err(|error| error.to_string())?;
    let mut at = begin;
    while at < offer.bytes {
        let from = usize::try_from(at).unwrap();
        let chunk = bytes.get(from..bytes.len().min(from + (256 << 10))).unwrap();
        at = snapshots.write_chunk(offer.id, at, chunk).map_err(|error| error.to_string())?;
    }
    snapshots.finish(offer.id, &mut |_record| Ok(())).map(drop).map_err(|error| error.to_string())
}

/// A start writes too: a cut in the middle of it loses nothing either.
#[test]
fn start_that_is_cut_off_can_be_made_again() {
    let disk = filled(9, Some(4));
    let node = Node::start(&disk).unwrap();
    disk.fail_at(1, Fault::Cut);
    assert!(!node.persist(batch(10)), "the write is done, and its sync is cut");
    node.stop();
    let torn = disk.after_torn_power_cut(3);
    for call in 0..60 {
        let again = torn.copy();
        again.fail_at(call, Fault::Cut);
        let started = Node::start(&again);
        let is_done = started.is_ok();
        if let Ok(node) = started {
            node.stop();
        }
        let promise =
            Promise { last: 9, last_max: 10, snapshot: 4, snapshot_max: 4, ..Promise::default() };
        for (outcome, after) in outcomes(&again, call) {
            verify(&after, promise, &format!("start cut at {call}, {outcome}"));
        }
        if is_done && again.calls() <= call {
            return assert!(call > 2, "{call} calls");
        }
    }
    panic!("a start has no end");
}

/// The n-th write or sync fails, once, or this and every later one: nothing is acknowledged after it, and a sync
/// that would succeed when it is tried again is trusted by nobody.
#[test]
fn nth_write_or_sync_that_fails_is_the_last_word() {
    for (calls, fault) in [
        (Calls::Writes, Fault::Io),
        (Calls::Syncs, Fault::Io),
        (Calls::Writes, Fault::Once),
        (Calls::Syncs, Fault::Once),
        (Calls::Writes, Fault::Full),
    ] {
        for n in 1..=200 {
            let disk = Memory::default();
            let node = Node::start(&disk).unwrap();
            disk.fail_at_of(calls, n - 1, fault);
            let what = format!("{calls:?} {n}, {fault:?}");
            let acknowledged =
                (1..=400).take_while(|index| node.persist(batch(*index))).count() as u64;
            assert!(acknowledged < 400, "{what}: nothing failed");
            // Whoever asks again hears of failure, not of success.
            node.opened.storage.persist(batch(acknowledged + 1));
            node.opened.storage.persist(batch(acknowledged + 2));
            for event in node.stop() {
                assert!(matches!(event, Event::Failed { .. }), "{what}: {event:?}");
            }
            for after in [disk.after_power_cut(), disk.copy()] {
                let again = Node::start(&after).unwrap();
                let last = again.opened.recovered.last_index.0;
                assert!(
                    last == acknowledged || last == acknowledged + 1,
                    "{what}: {last} of {acknowledged}"
                );
                assert!(
                    again.opened.recovered.tail == (1..=last).map(entry).collect::<Vec<_>>(),
                    "{what}"
                );
                again.stop();
            }
        }
    }
}

//! The disk's threads over a disk that fails, fills up or is cut off at every call.

#![expect(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test that meets the unexpected fails there"
)]

use bytes::Bytes;
use crossbeam_channel::{Receiver, bounded};
use raftq::raft::effects::Persist;
use raftq::raft::message::{Configuration, Entry, EntryKind, HardState, SnapshotMeta};
use raftq::storage::error::OpenError;
use raftq::storage::identity;
use raftq::storage::log::Options;
use raftq::storage::memory::{Fault, Memory};
use raftq::storage::snapshot::{SnapshotFile, Snapshots};
use raftq::storage::threads::{Event, Opened, open_on};
use raftq::types::{ClusterId, Index, NodeId, Term};

const NODE: NodeId = NodeId(1);

fn options() -> Options {
    Options { segment_bytes: 600, log_keep_bytes: 0 }
}

type Started = (Opened<Memory>, Receiver<Event>);

/// Starts on a disk in memory as `open` does on a directory.
fn start(disk: &Memory) -> Result<Started, OpenError> {
    use raftq::storage::disk::Disk as _;
    let known = disk.list().unwrap().iter().any(|name| name == "identity");
    let identity = if known { identity::load(disk)? } else { identity::make(disk, NODE)? };
    let (out, events) = bounded(64);
    open_on(disk.clone(), identity, None, &options(), out).map(|opened| (opened, events))
}

fn entry(index: u64) -> Entry {
    let data = Bytes::from(format!("entry {index}, {}", "z".repeat(60)));
    Entry { index: Index(index), term: Term(1), kind: EntryKind::Command, data }
}

fn batch(seq: u64) -> Persist {
    let hard_state = Some(HardState { term: Term(seq), vote: Some(NODE) });
    Persist { seq, hard_state, entries: vec![entry(seq)], ..Persist::default() }
}

fn meta(index: u64) -> SnapshotMeta {
    SnapshotMeta {
        index: Index(index),
        term: Term(1),
        configuration: Configuration { cluster: ClusterId::default(), voters: Vec::new() },
    }
}

/// Persists batches one after the other; returns how many were acknowledged and the last word.
fn fill((opened, events): &Started, count: u64) -> (u64, Option<String>) {
    for seq in 1..=count {
        opened.storage.persist(batch(seq));
        match events.recv().unwrap() {
            Event::Persisted { seq: done, .. } => assert_eq!(done, seq),
            Event::Failed { what } => return (seq - 1, Some(what)),
            event => panic!("{event:?}"),
        }
    }
    (count, None)
}

/// Lets the threads end; returns what they said last.
fn stop((opened, events): Started) -> Vec<Event> {
    drop(opened);
    events.iter().collect()
}

#[test]
fn disk_that_fails_is_heard_once_and_nothing_is_acknowledged_after() {
    for fault in [Fault::Io, Fault::Full] {
        let mut failures = 0;
        for call in 0..70 {
            let disk = Memory::default();
            let started = start(&disk).unwrap();
            disk.fail_at(call, fault);
            let (acknowledged, word) = fill(&started, 20);
            if let Some(word) = &word {
                failures += 1;
                assert!(word.starts_with("the log cannot be written"), "{word}");
                // The thread has gone; whoever asks again hears of failure, not of success.
                started.0.storage.persist(batch(acknowledged + 2));
                started.0.storage.release(Index(1));
            }
            for event in stop(started) {
                assert!(matches!(event, Event::Failed { .. }), "{fault:?} at {call}: {event:?}");
            }
            // The same process again, and the machine after a power cut: what was acknowledged stays.
            for after in [disk.copy(), disk.after_power_cut(), disk.after_torn_power_cut(call)] {
                let again = start(&after).unwrap();
                let found = again.0.recovered.tail.len() as u64;
                assert!(found == acknowledged || found == acknowledged + 1, "{fault:?} at {call}");
                assert_eq!(again.0.recovered.hard_state.term, Term(found), "{fault:?} at {call}");
                stop(again);
            }
        }
        assert!(failures > 40, "{fault:?}: {failures} failures");
    }
}

#[test]
fn first_start_that_is_cut_off_anywhere_can_be_made_again() {
    let (mut cuts, mut call) = (0, 0);
    loop {
        let disk = Memory::default();
        disk.fail_at(call, Fault::Cut);
        let started = start(&disk);
        let whole = started.is_ok();
        if let Ok(started) = started {
            stop(started);
        } else {
            cuts += 1;
        }
        for dice in 0..8 {
            let after = disk.after_torn_power_cut(dice);
            let again = start(&after).unwrap_or_else(|error| panic!("call {call}: {error}"));
            assert_eq!(fill(&again, 3), (3, None), "call {call}");
            stop(again);
            let third = start(&after).unwrap();
            assert_eq!(third.0.recovered.last_index, Index(3));
            stop(third);
        }
        if whole {
            break;
        }
        call += 1;
    }
    assert!(cuts > 10, "{cuts} cuts");
}

/// Writes a snapshot through the handle and releases the log behind it; returns the last word.
fn compact((opened, events): &Started, index: u64) -> Option<String> {
    let source = move |each: &mut dyn FnMut(&[u8]) -> bool| {
        (0..22).take_while(|_| each(&[7; 50_000])).for_each(drop);
    };
    opened.storage.write_snapshot(meta(index), Box::new(source));
    match events.recv().unwrap() {
        Event::SnapshotWritten { meta, .. } => assert_eq!(meta.index, Index(index)),
        Event::Failed { what } => return Some(what),
        event => panic!("{event:?}"),
    }
    opened.storage.release(Index(index));
    match events.recv().unwrap() {
        Event::Released { first_index } => assert!(first_index <= Index(index + 1)),
        Event::Failed { what } => return Some(what),
        event => panic!("{event:?}"),
    }
    None
}

#[test]
fn compaction_that_is_cut_off_anywhere_leaves_a_log_and_a_snapshot_that_meet() {
    let mut failures = 0;
    for fault in [Fault::Cut, Fault::Io, Fault::Full] {
        for call in 0..60 {
            let disk = Memory::default();
            let started = start(&disk).unwrap();
            assert_eq!(fill(&started, 12), (12, None));
            assert_eq!(compact(&started, 6), None);
            disk.fail_at(call, fault);
            let word = compact(&started, 11);
            stop(started);
            for after in [disk.copy(), disk.after_power_cut(), disk.after_torn_power_cut(call)] {
                let what = format!("{fault:?} at {call}");
                let (again, events) = start(&after).unwrap();
                let recovered = &again.recovered;
                assert_eq!(recovered.last_index, Index(12), "{what}");
                assert_eq!(recovered.hard_state.term, Term(12), "{what}");
                let snapshots = again.storage.snapshots();
                let mut records = 0;
                let mut push = |record: &[u8]| {
                    records += usize::from(record == [7; 50_000]);
                    Ok(())
                };
                let loaded = snapshots.load(recovered.first_index, &mut push).unwrap().unwrap();
                assert_eq!(records, 22, "{what}");
                assert!(loaded.index == Index(6) || loaded.index == Index(11), "{what}");
                assert!(recovered.first_index <= loaded.index.next(), "{what}");
                drop(snapshots);
                stop((again, events));
            }
            if word.is_none() {
                break;
            }
            failures += 1;
        }
    }
    assert!(failures > 20, "{failures} failures");
}

#[test]
fn received_snapshot_that_cannot_be_written_stops_the_node() {
    let source = Snapshots::open(&Memory::default()).unwrap();
    source.write(&meta(9), Box::new(|each| assert!(each(&[1; 3000])))).unwrap();
    let offer: SnapshotFile = source.newest().unwrap();
    let bytes = source.read_chunk(offer.id, 0, 1 << 20).unwrap().unwrap();
    let (mut call, mut failures) = (0, 0);
    loop {
        let disk = Memory::default();
        let (opened, events) = start(&disk).unwrap();
        let snapshots = opened.storage.snapshots();
        disk.fail_at(call, Fault::Io);
        let received = snapshots
            .begin(&offer)
            .and_then(|at| snapshots.write_chunk(offer.id, at, &bytes))
            .and_then(|_end| snapshots.finish(offer.id, &mut |_record| Ok(())));
        if received.is_ok() {
            assert!(events.try_recv().is_err(), "an alarm without a failure");
            break;
        }
        let event = events.try_recv().unwrap();
        assert!(matches!(event, Event::Failed { .. }), "call {call}: {event:?}");
        failures += 1;
        call += 1;
        drop(snapshots);
        stop((opened, events));
    }
    assert!(failures > 5, "{failures} failures");
}

#[test]
fn thread_of_the_disk_that_panics_stops_the_node() {
    let (opened, events) = start(&Memory::default()).unwrap();
    opened.storage.write_snapshot(meta(1), Box::new(|_each| panic!("an image that is broken")));
    let event = events.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
    let Event::Failed { what } = event else { panic!("{event:?}") };
    assert!(what.contains("panicked"), "{what}");
}

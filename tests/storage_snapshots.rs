//! Snapshot files that are damaged, offered twice, broken off, or removed while they are read.

#![expect(clippy::unwrap_used, reason = "a helper that fails has to fail its test")]

use std::sync::mpsc;

use raftq::raft::message::{Configuration, SnapshotMeta, Voter};
use raftq::storage::disk::{Disk, DiskFile};
use raftq::storage::memory::{Fault, Memory};
use raftq::storage::snapshot::{SnapshotError, SnapshotFile, Snapshots};
use raftq::types::{ClusterId, DirId, Index, NodeId, Term};

fn meta(index: u64) -> SnapshotMeta {
    let voter = Voter { id: NodeId(1), addr: "127.0.0.1:7101".into(), dir: Some(DirId([9; 16])) };
    SnapshotMeta {
        index: Index(index),
        term: Term(3),
        configuration: Configuration { cluster: ClusterId([4; 16]), voters: vec![voter] },
    }
}

/// The records of the snapshot at an index: each tells its number and the index.
fn records(index: u64, count: u64) -> Vec<Vec<u8>> {
    let filler = vec![0x55; 1500];
    let record = |number: u64| [&number.to_le_bytes()[..], &index.to_le_bytes(), &filler].concat();
    (0..count).map(record).collect()
}

fn write(snapshots: &Snapshots<Memory>, index: u64, count: u64) -> SnapshotFile {
    let source = move |each: &mut dyn FnMut(&[u8]) -> bool| {
        assert!(records(index, count).iter().all(|record| each(record)));
    };
    snapshots.write(&meta(index), Box::new(source)).unwrap();
    snapshots.newest().unwrap()
}

/// The index of a snapshot and its records.
type Loaded = (u64, Vec<Vec<u8>>);

fn load(disk: &Memory, log_first: u64) -> Result<Option<Loaded>, SnapshotError> {
    let mut read = Vec::new();
    let mut push = |record: &[u8]| {
        read.push(record.to_vec());
        Ok(())
    };
    let loaded = Snapshots::open(disk).unwrap().load(Index(log_first), &mut push)?;
    Ok(loaded.map(|meta| (meta.index.0, read)))
}

fn names(disk: &Memory, start: &str) -> Vec<String> {
    let mut names = disk.list().unwrap();
    names.retain(|name| name.starts_with(start));
    names
}

/// Sends a file from one directory into another, in chunks, from where it is wanted.
fn send(
    from: &Snapshots<Memory>,
    to: &Snapshots<Memory>,
    offer: &SnapshotFile,
) -> Result<Vec<Vec<u8>>, SnapshotError> {
    let mut at = to.begin(offer)?;
    while at < offer.bytes {
        let chunk = from.read_chunk(offer.id, at, 256 << 10)?.unwrap();
        at = to.write_chunk(offer.id, at, &chunk)?;
    }
    let mut read = Vec::new();
    to.finish(offer.id, &mut |record| {
        read.push(record.to_vec());
        Ok(())
    })?;
    Ok(read)
}

#[test]
fn damaged_head_yields_to_the_older_snapshot_only_if_the_log_reaches_back() {
    let disk = Memory::default();
    let snapshots = Snapshots::open(&disk).unwrap();
    write(&snapshots, 10, 3);
    write(&snapshots, 20, 3);
    let newest = names(&disk, "snap-").pop().unwrap();
    for at in 0..60 {
        let damaged = disk.copy();
        damaged.damage(&newest, |bytes| {
            let byte = bytes.get_mut(at).unwrap();
            *byte ^= 8;
        });
        assert_eq!(load(&damaged, 11).unwrap(), Some((10, records(10, 3))), "byte {at}");
        let refused = load(&damaged, 12).unwrap_err();
        assert!(matches!(refused, SnapshotError::Damaged { .. }), "byte {at}: {refused}");
        assert_eq!(names(&damaged, "snap-").len(), 2, "byte {at}: a file was removed");
        let open = Snapshots::open(&damaged).unwrap();
        assert_eq!(open.newest().unwrap().meta.index, Index(10), "byte {at}: it would be sent");
        assert_eq!(open.reach(), Index(20));
    }
}

#[test]
fn damaged_snapshot_is_passed_over_for_good_once_a_newer_one_is_there() {
    let disk = Memory::default();
    let snapshots = Snapshots::open(&disk).unwrap();
    write(&snapshots, 10, 3);
    write(&snapshots, 20, 3);
    let newest = names(&disk, "snap-").pop().unwrap();
    disk.damage(&newest, |bytes| bytes.truncate(20));
    let snapshots = Snapshots::open(&disk).unwrap();
    assert_eq!(snapshots.load(Index(11), &mut |_| Ok(())).unwrap().unwrap().index, Index(10));
    write(&snapshots, 30, 4);
    assert_eq!(load(&disk, 31).unwrap(), Some((30, records(30, 4))));
}

#[test]
fn record_that_the_machine_refuses_stops_the_start() {
    let disk = Memory::default();
    let snapshots = Snapshots::open(&disk).unwrap();
    write(&snapshots, 10, 3);
    write(&snapshots, 20, 3);
    let refused = snapshots.load(Index(1), &mut |_| Err("from the future".into())).unwrap_err();
    assert!(refused.to_string().contains("from the future"), "{refused}");
}

#[test]
fn transfer_that_is_cut_off_anywhere_is_made_good_by_the_next() {
    let source = Snapshots::open(&Memory::default()).unwrap();
    let offer = write(&source, 50, 1500);
    assert!(offer.bytes > 2 << 20);
    let whole = records(50, 1500);
    let mut call = 0;
    loop {
        let disk = Memory::default();
        let target = Snapshots::open(&disk).unwrap();
        write(&target, 5, 2);
        disk.fail_at(call, Fault::Cut);
        let received = send(&source, &target, &offer);
        for dice in 0..3 {
            let after = disk.after_torn_power_cut(dice);
            let what = format!("call {call}, dice {dice}");
            let (index, read) = load(&after, 1).unwrap().unwrap();
            assert!(index == 5 || (index, &read) == (50, &whole), "{what}: {index}");
            assert!(received.is_err() || index == 50, "{what}: it was durable");
            if index == 5 {
                let target = Snapshots::open(&after).unwrap();
                // Holes behind the last sync are found by the checksums; then it begins anew.
                let read = match send(&source, &target, &offer) {
                    Err(SnapshotError::Damaged { .. }) => send(&source, &target, &offer),
                    other => other,
                };
                assert_eq!(read.unwrap(), whole, "{what}");
                assert_eq!(load(&after.after_power_cut(), 51).unwrap().unwrap().0, 50, "{what}");
            }
        }
        if received.is_ok() {
            break;
        }
        call += 1;
    }
    assert!(call > 15, "{call} calls");
}

#[test]
fn snapshot_whose_name_was_never_synced_is_durable_before_a_start_speaks_of_it() {
    let mut newer = 0;
    for call in 0..12 {
        let disk = Memory::default();
        let snapshots = Snapshots::open(&disk).unwrap();
        write(&snapshots, 10, 2);
        disk.fail_at(call, Fault::Io);
        let source = |each: &mut dyn FnMut(&[u8]) -> bool| assert!(each(b"more"));
        if snapshots.write(&meta(20), Box::new(source)).is_ok() {
            break;
        }
        let killed = disk.copy();
        let (found, _) = load(&killed, 1).unwrap().unwrap();
        newer += u64::from(found == 20);
        assert_eq!(load(&killed.after_power_cut(), 1).unwrap().unwrap().0, found, "call {call}");
    }
    assert!(newer > 0, "no call lies between the new name and its sync");
}

#[test]
fn file_offered_again_while_it_is_checked_is_not_touched() {
    let source = Snapshots::open(&Memory::default()).unwrap();
    let offer = write(&source, 50, 3000);
    for _round in 0..5 {
        let disk = Memory::default();
        let target = Snapshots::open(&disk).unwrap();
        let mut at = target.begin(&offer).unwrap();
        while at < offer.bytes {
            let chunk = source.read_chunk(offer.id, at, 1 << 20).unwrap().unwrap();
            at = target.write_chunk(offer.id, at, &chunk).unwrap();
        }
        let (checking, checks) = mpsc::channel();
        std::thread::scope(|scope| {
            let again = target.clone();
            let offer = &offer;
            scope.spawn(move || {
                checks.recv().unwrap();
                again.begin(offer).unwrap()
            });
            let finished = target.finish(offer.id, &mut |_record| {
                checking.send(()).unwrap_or_default();
                Ok(())
            });
            assert_eq!(finished.unwrap(), offer.meta);
        });
        assert_eq!(load(&disk.after_power_cut(), 51).unwrap(), Some((50, records(50, 3000))));
    }
}

#[test]
fn file_received_twice_is_one() {
    let source = Snapshots::open(&Memory::default()).unwrap();
    let offer = write(&source, 50, 5);
    let disk = Memory::default();
    let target = Snapshots::open(&disk).unwrap();
    send(&source, &target, &offer).unwrap();
    send(&source, &target, &offer).unwrap();
    write(&target, 60, 5);
    assert_eq!(names(&disk, "snap-").len(), 2);
    let mut read = Vec::new();
    target
        .load(Index(61), &mut |record| {
            read.push(record.to_vec());
            Ok(())
        })
        .unwrap();
    assert_eq!(read, records(60, 5));
    // The older of the two is still there to fall back on.
    let newest = names(&disk, "snap-").pop().unwrap();
    disk.damage(&newest, |bytes| bytes.truncate(100));
    assert_eq!(load(&disk, 51).unwrap().unwrap().0, 50);
}

#[test]
fn files_being_sent_can_be_read_to_their_ends_after_they_were_removed() {
    let disk = Memory::default();
    let snapshots = Snapshots::open(&disk).unwrap();
    let first = write(&snapshots, 10, 4);
    assert!(snapshots.read_chunk(first.id, 0, 100).unwrap().is_some());
    let second = write(&snapshots, 20, 4);
    assert!(snapshots.read_chunk(second.id, 0, 100).unwrap().is_some());
    for index in 3..8 {
        write(&snapshots, index * 10, 4);
    }
    assert_eq!(names(&disk, "snap-").len(), 2);
    for file in [&first, &second] {
        let rest = snapshots.read_chunk(file.id, 100, 1 << 20).unwrap().unwrap();
        assert_eq!(rest.len() as u64, file.bytes - 100);
    }
    assert_eq!(snapshots.read_chunk([0; 16], 0, 100).unwrap(), None);
    // One whose sending had not begun is gone.
    let reopened = Snapshots::open(&disk).unwrap();
    assert_eq!(reopened.read_chunk(first.id, 0, 100).unwrap(), None);
}

#[test]
fn file_that_is_not_what_was_offered_is_refused_and_removed() {
    let source = Snapshots::open(&Memory::default()).unwrap();
    let offer = write(&source, 50, 5);
    let bytes = source.read_chunk(offer.id, 0, 1 << 20).unwrap().unwrap();
    let other_meta = SnapshotFile { meta: meta(51), ..offer.clone() };
    let other_id = SnapshotFile { id: [1; 16], ..offer.clone() };
    let longer = SnapshotFile { bytes: offer.bytes + 1, ..offer.clone() };
    for lie in [other_meta, other_id, longer] {
        let disk = Memory::default();
        let target = Snapshots::open(&disk).unwrap();
        target.begin(&lie).unwrap();
        target.write_chunk(lie.id, 0, &bytes).unwrap();
        let refused = target.finish(lie.id, &mut |_| Ok(())).unwrap_err();
        assert!(matches!(refused, SnapshotError::Damaged { .. }), "{refused}");
        assert!(names(&disk, "snap").is_empty());
        assert!(matches!(target.finish(lie.id, &mut |_| Ok(())), Err(SnapshotError::NoTransfer)));
    }
    // More bytes than were offered are not taken.
    let target = Snapshots::open(&Memory::default()).unwrap();
    let shorter = SnapshotFile { bytes: 100, ..offer.clone() };
    target.begin(&shorter).unwrap();
    let refused = target.write_chunk(offer.id, 0, &bytes).unwrap_err();
    assert!(matches!(refused, SnapshotError::OutOfOrder { wanted: 0, .. }), "{refused}");
    assert!(matches!(target.write_chunk([7; 16], 0, b"x"), Err(SnapshotError::NoTransfer)));
}

#[test]
fn another_offer_takes_the_place_of_a_transfer_and_its_leftovers() {
    let source = Snapshots::open(&Memory::default()).unwrap();
    let old = write(&source, 50, 5);
    let new = write(&source, 60, 5);
    let disk = Memory::default();
    let target = Snapshots::open(&disk).unwrap();
    target.begin(&old).unwrap();
    target.write_chunk(old.id, 0, b"RQ").unwrap();
    assert_eq!(target.begin(&old).unwrap(), 2, "the same connection broke and came back");
    assert_eq!(send(&source, &target, &new).unwrap(), records(60, 5));
    assert!(matches!(target.write_chunk(old.id, 2, b"x"), Err(SnapshotError::NoTransfer)));
    assert_eq!(names(&disk, "snap").len(), 1);
}

#[test]
fn empty_image_is_a_snapshot_too() {
    let disk = Memory::default();
    let file = write(&Snapshots::open(&disk).unwrap(), 1, 0);
    assert_eq!(load(&disk, 2).unwrap(), Some((1, Vec::new())));
    let name = names(&disk, "snap-").pop().unwrap();
    assert_eq!(disk.open(&name).unwrap().size().unwrap(), file.bytes);
}

//! The log and the snapshots on a disk that is cut off, damaged or full at every possible moment.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected fails there"
)]

use bytes::Bytes;
use raftq::raft::effects::{Persist, ReadLog};
use raftq::raft::message::{Configuration, Entry, EntryKind, HardState, SnapshotMeta};
use raftq::storage::error::OpenError;
use raftq::storage::log::{Log, MakeNow, Options, read_entries, segment_name};
use raftq::storage::memory::{Fault, Memory};
use raftq::storage::recover::{Recovery, recover};
use raftq::storage::snapshot::{SnapshotError, Snapshots};
use raftq::types::{ClusterId, Index, NodeId, Term};

const SALT: u64 = 0x5a17;

fn options() -> Options {
    Options { segment_bytes: 700, log_keep_bytes: 0 }
}

fn entry(index: u64, term: u64) -> Entry {
    let data = format!(
        "entry {index} of term {term}, {}",
        "x".repeat(usize::try_from(index % 40).unwrap())
    );
    Entry {
        index: Index(index),
        term: Term(term),
        kind: EntryKind::Command,
        data: Bytes::from(data),
    }
}

fn batch(seq: u64, entries: Vec<Entry>) -> Persist {
    Persist { seq, entries, ..Persist::default() }
}

fn start(disk: &Memory) -> Recovery<Memory> {
    recover(disk, SALT, &options()).expect("the log opens")
}

/// Lets go of all that may go, and returns the first entry left.
fn release(log: &mut Log<Memory>, up_to: u64) -> std::io::Result<Index> {
    while log.release_oldest(Index(up_to))? {}
    Ok(log.first_index())
}

fn append(log: &mut Log<Memory>, disk: &Memory, batch: &Persist) -> std::io::Result<()> {
    let mut segments = MakeNow { disk, bytes: options().segment_bytes };
    log.append(batch, &mut segments).map(drop)
}

/// Appends entries one batch each; stops at the first error. Returns how many were acknowledged.
fn fill(log: &mut Log<Memory>, disk: &Memory, count: u64) -> u64 {
    for index in 1..=count {
        let mut one = batch(index, vec![entry(index, 1)]);
        one.hard_state = (index % 5 == 0).then_some(HardState { term: Term(index), vote: None });
        one.commit_index = Index(index - 1);
        if append(log, disk, &one).is_err() {
            return index - 1;
        }
    }
    count
}

fn all(recovery: &Recovery<Memory>) -> Vec<Entry> {
    recovery.tail.clone()
}

fn meta(index: u64) -> SnapshotMeta {
    SnapshotMeta {
        index: Index(index),
        term: Term(1),
        configuration: Configuration { cluster: ClusterId::default(), voters: Vec::new() },
    }
}

#[test]
fn what_was_appended_is_there_again_over_many_segments() {
    let disk = Memory::default();
    assert_eq!(fill(&mut start(&disk).log, &disk, 60), 60);
    let again = start(&disk.after_power_cut());
    assert_eq!(all(&again), (1..=60).map(|index| entry(index, 1)).collect::<Vec<_>>());
    assert_eq!(again.hard_state.term, Term(60));
    assert_eq!(again.commit_index, Index(59));
    assert!(again.log.segment() > 3, "{} segments", again.log.segment());
}

#[test]
fn a_power_cut_at_any_call_loses_nothing_acknowledged() {
    let disk = Memory::default();
    let mut log = start(&disk).log;
    disk.fail_at(u64::MAX, Fault::Cut);
    fill(&mut log, &disk, 40);
    let calls = disk.calls();
    assert!(calls > 80);
    for call in 0..calls {
        let disk = Memory::default();
        let mut log = start(&disk).log;
        disk.fail_at(call, Fault::Cut);
        let acknowledged = fill(&mut log, &disk, 40);
        let after = disk.after_power_cut();
        let again = start(&after);
        let found = all(&again).len() as u64;
        assert!(
            found == acknowledged || found == acknowledged + 1,
            "cut at {call}: {found} of {acknowledged}"
        );
        // And it goes on from there.
        let mut log = again.log;
        append(&mut log, &after, &batch(99, vec![entry(found + 1, 9)])).unwrap();
        assert_eq!(all(&start(&after)).last(), Some(&entry(found + 1, 9)), "cut at {call}");
    }
}

#[test]
fn a_power_cut_at_any_call_of_the_first_start_leaves_a_directory_that_starts() {
    for call in 0..12 {
        let disk = Memory::default();
        disk.fail_at(call, Fault::Cut);
        if recover(&disk, SALT, &options()).is_ok() {
            return;
        }
        let after = disk.after_power_cut();
        assert!(all(&start(&after)).is_empty(), "cut at {call}");
    }
    panic!("the first start has fewer than twelve calls");
}

#[test]
fn every_cut_end_of_the_last_segment_leaves_whole_batches_or_a_refusal() {
    let disk = Memory::default();
    fill(&mut start(&disk).log, &disk, 12);
    let last = segment_name(start(&disk).log.segment());
    let whole = all(&start(&disk));
    for bytes in 0..options().segment_bytes {
        let cut = disk.copy();
        cut.damage(&last, |content| {
            let keep = usize::try_from(bytes).unwrap();
            content.iter_mut().skip(keep).for_each(|byte| *byte = 0);
        });
        let found = all(&start(&cut));
        assert_eq!(found, whole[..found.len()], "cut to {bytes} bytes");
    }
}

#[test]
fn every_flipped_byte_is_refused_or_cuts_only_the_last_batch() {
    let disk = Memory::default();
    fill(&mut start(&disk).log, &disk, 12);
    let segments = start(&disk).log.segment();
    let whole = all(&start(&disk));
    let (mut refused, mut cut) = (0, 0);
    for number in 0..=segments {
        for at in 0..usize::try_from(options().segment_bytes).unwrap() {
            let damaged = disk.copy();
            damaged.damage(&segment_name(number), |content| content[at] ^= 0x40);
            match recover(&damaged, SALT, &options()) {
                Err(OpenError::Damaged { file, .. }) => {
                    assert_eq!(file, segment_name(number));
                    refused += 1;
                }
                Err(error) => panic!("{number}:{at}: {error}"),
                Ok(recovery) => {
                    let found = all(&recovery);
                    assert_eq!(found, whole[..found.len()], "{number}:{at}");
                    assert!(found.len() + 1 >= whole.len(), "{number}:{at}: {} left", found.len());
                    cut += usize::from(found.len() < whole.len());
                }
            }
        }
    }
    assert!(refused > 500 && cut > 20, "{refused} refused, {cut} cut");
}

#[test]
fn a_sealed_log_tells_damage_to_its_last_batch_from_a_torn_end() {
    let disk = Memory::default();
    let mut log = start(&disk).log;
    fill(&mut log, &disk, 3);
    log.seal().unwrap();
    disk.damage(&segment_name(0), |content| {
        let last = content.windows(7).rposition(|window| window == b"entry 3").unwrap();
        content[last] ^= 1;
    });
    assert!(matches!(recover(&disk, SALT, &options()), Err(OpenError::Damaged { .. })));
}

#[test]
fn a_payload_that_looks_like_a_record_is_not_taken_for_one() {
    let disk = Memory::default();
    let mut log = start(&disk).log;
    fill(&mut log, &disk, 2);
    // A user's payload that holds the very bytes of a record of another directory's log.
    let other = Memory::default();
    let mut foreign = recover(&other, SALT + 1, &options()).unwrap().log;
    append(&mut foreign, &other, &batch(1, vec![entry(1, 7)])).unwrap();
    let mut bytes = Vec::new();
    other.damage(&segment_name(0), |content| bytes = content[..120].to_vec());
    let mut evil = entry(3, 1);
    evil.data = Bytes::from(bytes);
    append(&mut log, &disk, &batch(3, vec![evil])).unwrap();
    // The batch with it is torn: nothing behind it may count as a later record.
    disk.damage(&segment_name(0), |content| {
        let magic = content.windows(4).rposition(|window| window == b"rqL1").unwrap();
        let own = content[..magic].windows(4).rposition(|window| window == b"rqL1").unwrap();
        content[own + 21] ^= 0xff;
    });
    assert_eq!(all(&start(&disk)).len(), 2);
}

#[test]
fn a_lower_index_takes_the_place_of_what_follows() {
    let disk = Memory::default();
    let mut log = start(&disk).log;
    fill(&mut log, &disk, 20);
    append(&mut log, &disk, &batch(21, (8..=10).map(|index| entry(index, 2)).collect())).unwrap();
    append(&mut log, &disk, &batch(22, vec![entry(11, 3)])).unwrap();
    let expected: Vec<Entry> = (1..=7)
        .map(|index| entry(index, 1))
        .chain((8..=10).map(|index| entry(index, 2)))
        .chain([entry(11, 3)])
        .collect();
    let read = ReadLog { token: 1, from: Index(1), to: Index(99), bytes_max: usize::MAX };
    assert_eq!(read_entries(&log.shared(), SALT, &read).unwrap().unwrap(), expected);
    assert_eq!(all(&start(&disk)), expected);
}

#[test]
fn released_segments_leave_votes_and_later_entries() {
    let disk = Memory::default();
    let mut log = start(&disk).log;
    let mut vote = batch(0, Vec::new());
    vote.hard_state = Some(HardState { term: Term(5), vote: Some(NodeId(3)) });
    append(&mut log, &disk, &vote).unwrap();
    for index in 1..=60 {
        append(&mut log, &disk, &batch(index, vec![entry(index, 5)])).unwrap();
    }
    let first = release(&mut log, 40).unwrap();
    assert!(first > Index(20) && first <= Index(41), "{first}");
    let again = start(&disk.after_power_cut());
    assert_eq!(again.hard_state, HardState { term: Term(5), vote: Some(NodeId(3)) });
    assert_eq!(all(&again).first().map(|entry| entry.index), Some(first));
    let read = ReadLog { token: 1, from: Index(1), to: Index(9), bytes_max: 100 };
    let gone = read_entries(&log.shared(), SALT, &read).unwrap().unwrap_err();
    assert_eq!(gone.first_index, first);
    let read = ReadLog { token: 1, from: Index(50), to: Index(60), bytes_max: 1 };
    assert_eq!(read_entries(&log.shared(), SALT, &read).unwrap().unwrap(), [entry(50, 5)]);
}

#[test]
fn a_power_cut_while_segments_are_released_leaves_no_hole() {
    for call in 0..12 {
        let disk = Memory::default();
        let mut log = start(&disk).log;
        fill(&mut log, &disk, 40);
        disk.fail_at(call, Fault::Cut);
        let done = release(&mut log, 30).is_ok();
        let again = start(&disk.after_power_cut());
        assert_eq!(all(&again).last(), Some(&entry(40, 1)), "cut at {call}");
        if done {
            return;
        }
    }
    panic!("a release has fewer than twelve calls");
}

#[test]
fn a_reset_empties_the_log_and_it_begins_after_the_snapshot() {
    let disk = Memory::default();
    let mut log = start(&disk).log;
    fill(&mut log, &disk, 10);
    let mut reset = batch(11, vec![entry(501, 4)]);
    reset.reset = Some(meta(500));
    append(&mut log, &disk, &reset).unwrap();
    assert_eq!(all(&start(&disk)), [entry(501, 4)]);
    release(&mut log, 500).unwrap();
    assert_eq!(all(&start(&disk.after_power_cut())), [entry(501, 4)]);
}

#[test]
fn a_batch_larger_than_a_segment_gets_one_of_its_own() {
    let disk = Memory::default();
    let mut log = start(&disk).log;
    fill(&mut log, &disk, 3);
    let mut big = entry(4, 1);
    big.data = Bytes::from(vec![7; 5000]);
    append(&mut log, &disk, &batch(4, vec![big.clone()])).unwrap();
    append(&mut log, &disk, &batch(5, vec![entry(5, 1)])).unwrap();
    assert_eq!(all(&start(&disk.after_power_cut()))[3..], [big, entry(5, 1)]);
}

#[test]
fn a_missing_segment_is_refused() {
    let disk = Memory::default();
    fill(&mut start(&disk).log, &disk, 40);
    use raftq::storage::disk::Disk as _;
    disk.remove(&segment_name(1)).unwrap();
    let refused = recover(&disk, SALT, &options()).unwrap_err();
    assert!(refused.to_string().contains("is missing"), "{refused}");
}

#[test]
fn after_an_error_of_the_disk_nothing_is_acknowledged() {
    for fault in [Fault::Io, Fault::Full] {
        for call in 0..40 {
            let disk = Memory::default();
            let mut log = start(&disk).log;
            disk.fail_at(call, fault);
            let acknowledged = fill(&mut log, &disk, 30);
            assert!(acknowledged < 30, "{fault:?} at {call}");
            let found = all(&start(&disk.after_power_cut())).len() as u64;
            assert!(found >= acknowledged, "{fault:?} at {call}");
        }
    }
}

fn write(snapshots: &Snapshots<Memory>, index: u64, records: u64) -> Result<u64, SnapshotError> {
    let source = move |each: &mut dyn FnMut(&[u8]) -> bool| {
        for number in 0..records {
            let record = vec![u8::try_from(number % 251).unwrap(); 1000];
            if !each(&record) {
                return;
            }
        }
    };
    snapshots.write(&meta(index), Box::new(source))
}

fn load(disk: &Memory, log_first: u64) -> Result<Option<(u64, usize)>, String> {
    let snapshots = Snapshots::open(disk).map_err(|error| error.to_string())?;
    let mut records = 0;
    let mut push = |record: &[u8]| {
        assert!(record.iter().all(|byte| *byte == record[0]));
        records += 1;
        Ok(())
    };
    let meta = snapshots.load(Index(log_first), &mut push).map_err(|error| error.to_string())?;
    Ok(meta.map(|meta| (meta.index.0, records)))
}

#[test]
fn a_snapshot_is_there_whole_or_not_at_all_wherever_the_power_is_cut() {
    for call in 0..40 {
        let disk = Memory::default();
        let snapshots = Snapshots::open(&disk).unwrap();
        write(&snapshots, 10, 5).unwrap();
        disk.fail_at(call, Fault::Cut);
        let done = write(&snapshots, 20, 1200).is_ok();
        let found = load(&disk.after_power_cut(), 1).unwrap().unwrap();
        assert!(found == (10, 5) || found == (20, 1200), "cut at {call}: {found:?}");
        if done {
            assert_eq!(found, (20, 1200));
            return;
        }
    }
    panic!("writing a snapshot has fewer than forty calls");
}

#[test]
fn every_flipped_byte_of_a_snapshot_is_refused() {
    let disk = Memory::default();
    write(&Snapshots::open(&disk).unwrap(), 10, 3).unwrap();
    use raftq::storage::disk::{Disk as _, DiskFile as _};
    let name = disk.list().unwrap().into_iter().find(|name| name.starts_with("snap-")).unwrap();
    let bytes = usize::try_from(disk.open(&name).unwrap().size().unwrap()).unwrap();
    for at in 0..bytes {
        let damaged = disk.copy();
        damaged.damage(&name, |content| content[at] ^= 4);
        let told = load(&damaged, 11).unwrap_err();
        assert!(told.contains("damaged"), "{at}: {told}");
    }
    for cut in 0..bytes {
        let damaged = disk.copy();
        damaged.damage(&name, |content| content.truncate(cut));
        assert!(load(&damaged, 11).is_err(), "cut to {cut}");
    }
}

#[test]
fn a_damaged_newest_snapshot_yields_to_an_older_one_only_if_the_log_reaches_back() {
    let disk = Memory::default();
    let snapshots = Snapshots::open(&disk).unwrap();
    write(&snapshots, 10, 3).unwrap();
    write(&snapshots, 20, 3).unwrap();
    use raftq::storage::disk::Disk as _;
    let name = disk.list().unwrap().into_iter().rfind(|name| name.starts_with("snap-")).unwrap();
    disk.damage(&name, |content| *content.last_mut().unwrap() ^= 1);
    assert_eq!(load(&disk, 11).unwrap(), Some((10, 3)));
    assert!(load(&disk, 12).is_err());
}

#[test]
fn a_transfer_resumes_where_it_broke_and_a_late_snapshot_deletes_no_newer_one() {
    let source = Memory::default();
    let sender = Snapshots::open(&source).unwrap();
    write(&sender, 30, 4000).unwrap();
    let offer = sender.newest().unwrap();
    let target = Memory::default();
    let receiver = Snapshots::open(&target).unwrap();
    assert_eq!(receiver.begin(&offer).unwrap(), 0);
    let mut at = 0;
    while at < 3 << 20 {
        let chunk = sender.read_chunk(offer.id, at, 100_000).unwrap().unwrap();
        at = receiver.write_chunk(offer.id, at, &chunk).unwrap();
    }
    let wrong = receiver.write_chunk(offer.id, at + 1, b"x").unwrap_err();
    assert!(matches!(wrong, SnapshotError::OutOfOrder { wanted, .. } if wanted == at));
    // The connection breaks: the same process goes on where it was; a new one trusts what was synced.
    assert_eq!(receiver.begin(&offer).unwrap(), at);
    let after = target.after_power_cut();
    let receiver = Snapshots::open(&after).unwrap();
    let resumed = receiver.begin(&offer).unwrap();
    assert!(resumed > 0 && resumed <= at, "{resumed}");
    let mut at = resumed;
    while at < offer.bytes {
        let chunk = sender.read_chunk(offer.id, at, 100_000).unwrap().unwrap();
        at = receiver.write_chunk(offer.id, at, &chunk).unwrap();
    }
    let mut records = 0;
    let mut push = |_: &[u8]| {
        records += 1;
        Ok(())
    };
    assert_eq!(receiver.finish(offer.id, &mut push).unwrap(), offer.meta);
    assert_eq!(records, 4000);
    write(&receiver, 20, 2).unwrap();
    assert_eq!(receiver.newest().unwrap().meta.index, Index(30));
    assert_eq!(load(&after.after_power_cut(), 31).unwrap(), Some((30, 4000)));
}

#[test]
fn a_damaged_chunk_is_found_at_the_end_of_a_transfer() {
    let source = Memory::default();
    let sender = Snapshots::open(&source).unwrap();
    write(&sender, 30, 10).unwrap();
    let offer = sender.newest().unwrap();
    let receiver = Snapshots::open(&Memory::default()).unwrap();
    receiver.begin(&offer).unwrap();
    let mut chunk = sender.read_chunk(offer.id, 0, 1 << 20).unwrap().unwrap();
    chunk[5000] ^= 1;
    receiver.write_chunk(offer.id, 0, &chunk).unwrap();
    assert!(receiver.finish(offer.id, &mut |_| Ok(())).is_err());
    assert!(receiver.newest().is_none());
    assert_eq!(receiver.begin(&offer).unwrap(), 0, "it begins anew");
}

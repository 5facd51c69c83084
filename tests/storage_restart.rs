//! The log after every kind of end: a process that died, power that failed, a sync that lied.

#![expect(clippy::unwrap_used, reason = "a helper that fails has to fail its test")]

use bytes::Bytes;
use raftq::raft::effects::{Persist, ReadLog};
use raftq::raft::message::{Configuration, Entry, EntryKind, HardState, SnapshotMeta};
use raftq::storage::disk::{Disk, DiskFile};
use raftq::storage::error::OpenError;
use raftq::storage::log::{Log, MakeNow, Options, Segments, read_entries, segment_name};
use raftq::storage::memory::{Fault, Memory};
use raftq::storage::recover::{Recovery, recover};
use raftq::types::{ClusterId, Index, NodeId, Term};

const SALT: u64 = 0x5a17;
const SEGMENT_BYTES: u64 = 700;

fn options() -> Options {
    Options { segment_bytes: SEGMENT_BYTES, log_keep_bytes: 0 }
}

fn entry(index: u64, term: u64) -> Entry {
    let filler = "x".repeat(usize::try_from(index * 7 % 60).unwrap());
    Entry {
        index: Index(index),
        term: Term(term),
        kind: EntryKind::Command,
        data: Bytes::from(format!("entry {index} of term {term} {filler}")),
    }
}

fn entries(from: u64, to: u64, term: u64) -> Vec<Entry> {
    (from..=to).map(|index| entry(index, term)).collect()
}

fn batch(entries: Vec<Entry>) -> Persist {
    Persist { entries, ..Persist::default() }
}

fn meta(index: u64, term: u64) -> SnapshotMeta {
    SnapshotMeta {
        index: Index(index),
        term: Term(term),
        configuration: Configuration { cluster: ClusterId::default(), voters: Vec::new() },
    }
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
    log.append(batch, &mut MakeNow { disk, bytes: SEGMENT_BYTES }).map(drop)
}

fn all(log: &Log<Memory>, from: Index) -> Vec<Entry> {
    let read = ReadLog { token: 0, from, to: Index(u64::MAX), bytes_max: usize::MAX };
    read_entries(&log.shared(), SALT, &read).unwrap().unwrap()
}

/// Appends entries one a batch, each with its own term as hard state, until the disk says no; returns
/// how many were acknowledged.
fn fill(log: &mut Log<Memory>, disk: &Memory, count: u64) -> u64 {
    for index in 1..=count {
        let mut one = batch(vec![entry(index, index)]);
        one.hard_state = Some(HardState { term: Term(index), vote: Some(NodeId(index % 5 + 1)) });
        if append(log, disk, &one).is_err() {
            return index - 1;
        }
    }
    count
}

fn assert_holds(recovery: &Recovery<Memory>, acknowledged: u64, what: &str) -> u64 {
    let found = recovery.tail.len() as u64;
    assert!(
        found == acknowledged || found == acknowledged + 1,
        "{what}: {found} of {acknowledged}"
    );
    let expected: Vec<Entry> = (1..=found).map(|index| entry(index, index)).collect();
    assert_eq!(recovery.tail, expected, "{what}");
    assert_eq!(recovery.hard_state.term, Term(found), "{what}");
    found
}

fn calls_of_a_fill(count: u64) -> u64 {
    let disk = Memory::default();
    let mut log = start(&disk).log;
    disk.fail_at(u64::MAX, Fault::Cut);
    fill(&mut log, &disk, count);
    disk.calls()
}

#[test]
fn power_cut_that_tears_sectors_and_names_loses_nothing_acknowledged() {
    for call in 0..calls_of_a_fill(25) {
        for dice in 0..12 {
            let disk = Memory::default();
            let mut log = start(&disk).log;
            disk.fail_at(call, Fault::Cut);
            let acknowledged = fill(&mut log, &disk, 25);
            let after = disk.after_torn_power_cut(call * 100 + dice);
            let what = format!("call {call}, dice {dice}");
            let found = assert_holds(&start(&after), acknowledged, &what);
            // What a start has spoken of stays, even if the power fails at once.
            assert_eq!(start(&after.after_power_cut()).tail.len() as u64, found, "{what}");
        }
    }
}

/// A process that dies between write and sync leaves a record in the system's memory; the next one
/// reads it, and speaks of it to its peers (rule 31).
#[test]
fn record_that_was_never_synced_is_durable_before_a_start_speaks_of_it() {
    let mut unsynced = 0;
    for call in 0..calls_of_a_fill(25) {
        let disk = Memory::default();
        let mut log = start(&disk).log;
        disk.fail_at(call, Fault::Io);
        let acknowledged = fill(&mut log, &disk, 25);
        let killed = disk.copy();
        let found = assert_holds(&start(&killed), acknowledged, &format!("call {call}"));
        unsynced += found - acknowledged;
        let after = killed.after_power_cut();
        let kept = start(&after).tail.len() as u64;
        assert_eq!(kept, found, "call {call}: found {found} entries, kept {kept}");
    }
    assert!(unsynced > 10, "{unsynced} records were written and not synced");
}

/// Hands out the segment that a start found prepared, then makes more.
struct Prepared<'a> {
    spare: Option<<Memory as Disk>::File>,
    disk: &'a Memory,
}

impl Segments<<Memory as Disk>::File> for Prepared<'_> {
    fn next(&mut self, number: u64) -> std::io::Result<<Memory as Disk>::File> {
        match self.spare.take() {
            Some(file) => Ok(file),
            None => MakeNow { disk: self.disk, bytes: SEGMENT_BYTES }.next(number),
        }
    }
}

#[test]
fn segment_whose_name_was_never_synced_is_durable_before_it_is_written() {
    let mut spares = 0;
    for call in 0..calls_of_a_fill(25) {
        let disk = Memory::default();
        let mut log = start(&disk).log;
        disk.fail_at(call, Fault::Io);
        fill(&mut log, &disk, 25);
        let killed = disk.copy();
        let Recovery { mut log, spare, tail, .. } = start(&killed);
        spares += u64::from(spare.is_some());
        let mut segments = Prepared { spare, disk: &killed };
        let (number, mut next) = (log.segment(), tail.len() as u64 + 1);
        while log.segment() == number {
            log.append(&batch(vec![entry(next, 99)]), &mut segments).unwrap();
            next += 1;
        }
        let last = start(&killed.after_power_cut()).tail.pop().unwrap();
        assert_eq!(last, entry(next - 1, 99), "call {call}");
    }
    assert!(spares > 2, "{spares} prepared segments");
}

/// A new leader's entries may begin below the first one of their segment. Once the segments before are
/// released, the log begins with them.
#[test]
fn entries_that_superseded_released_ones_are_found_again() {
    let disk = Memory::default();
    let mut log = start(&disk).log;
    append(&mut log, &disk, &batch(entries(1, 5, 1))).unwrap();
    let mut next = 6;
    while log.segment() == 0 {
        append(&mut log, &disk, &batch(vec![entry(next, 1)])).unwrap();
        next += 1;
    }
    append(&mut log, &disk, &batch(entries(4, 6, 2))).unwrap();
    let first = release(&mut log, 3).unwrap();
    assert_eq!(first, Index(4));
    let again = start(&disk.after_power_cut());
    assert_eq!(again.tail, entries(4, 6, 2));
    assert_eq!(again.log.shared().lock().unwrap().blocks.first_index(), Index(4));
}

#[test]
fn copy_of_the_own_log_in_a_torn_payload_is_no_later_record() {
    let disk = Memory::default();
    let mut log = start(&disk).log;
    for index in 1..=3 {
        append(&mut log, &disk, &batch(vec![entry(index, 1)])).unwrap();
    }
    // Somebody queues this very segment as a job, and the batch with it is torn.
    let mut own = Vec::new();
    disk.damage(&segment_name(0), |content| own = content[..250].to_vec());
    let at = own.windows(4).filter(|window| *window == b"rqL1").count();
    assert!(at >= 2, "the copy holds {at} records");
    let mut evil = entry(4, 1);
    evil.data = Bytes::from(own);
    append(&mut log, &disk, &batch(vec![evil])).unwrap();
    disk.damage(&segment_name(0), |content| {
        let last = content.iter().rposition(|byte| *byte != 0).unwrap();
        content[last - 12] ^= 0xff;
    });
    assert_eq!(start(&disk).tail, entries(1, 3, 1));
}

#[test]
fn batch_that_leaves_a_gap_is_refused_and_not_written() {
    let disk = Memory::default();
    let mut log = start(&disk).log;
    append(&mut log, &disk, &batch(entries(1, 3, 1))).unwrap();
    let mut reset = batch(vec![entry(52, 2)]);
    reset.reset = Some(meta(50, 2));
    let crooked = batch(vec![entry(4, 1), entry(6, 1)]);
    for wrong in [batch(vec![entry(5, 1)]), crooked, reset] {
        assert!(append(&mut log, &disk, &wrong).is_err(), "{wrong:?}");
    }
    assert_eq!(start(&disk).tail, entries(1, 3, 1));
}

#[test]
fn torn_bytes_are_gone_before_the_first_append() {
    let disk = Memory::default();
    let mut log = start(&disk).log;
    append(&mut log, &disk, &batch(entries(1, 2, 1))).unwrap();
    let mut end = 0;
    disk.damage(&segment_name(0), |content| {
        // The record ends with a commit index of 0.
        end = content.iter().rposition(|byte| *byte != 0).unwrap() + 9;
        content[end..].fill(0xa5);
    });
    let mut log = start(&disk).log;
    disk.after_power_cut().damage(&segment_name(0), |content| {
        let rest = content.iter().skip(end);
        assert!(rest.clone().count() > 100 && rest.copied().all(|byte| byte == 0));
    });
    append(&mut log, &disk, &batch(vec![entry(3, 1)])).unwrap();
    assert_eq!(start(&disk).tail, entries(1, 3, 1));
}

#[test]
fn zeroed_sector_before_good_records_is_refused_and_nothing_is_changed() {
    let disk = Memory::default();
    let mut log = start(&disk).log;
    fill(&mut log, &disk, 30);
    let segments = log.segment();
    assert!(segments > 3);
    for number in 0..segments {
        for sector in 0..2 {
            let damaged = disk.copy();
            damaged.damage(&segment_name(number), |content| {
                content.iter_mut().skip(sector * 350).take(350).for_each(|byte| *byte = 0);
            });
            let before = bytes_of(&damaged);
            let refused = recover(&damaged, SALT, &options()).unwrap_err();
            assert!(matches!(refused, OpenError::Damaged { .. }), "{number}/{sector}: {refused}");
            assert_eq!(bytes_of(&damaged), before, "{number}/{sector} was changed");
        }
    }
}

fn bytes_of(disk: &Memory) -> Vec<(String, Vec<u8>)> {
    let names = disk.list().unwrap();
    names
        .into_iter()
        .map(|name| {
            let file = disk.open(&name).unwrap();
            let mut bytes = vec![0; usize::try_from(file.size().unwrap()).unwrap()];
            file.read_at(&mut bytes, 0).unwrap();
            (name, bytes)
        })
        .collect()
}

#[test]
fn tail_of_a_start_is_bounded_and_ends_with_the_last_entry() {
    let disk = Memory::default();
    let options = Options { segment_bytes: 1 << 20, log_keep_bytes: 0 };
    let mut log = recover(&disk, SALT, &options).unwrap().log;
    let mut segments = MakeNow { disk: &disk, bytes: 1 << 20 };
    for first in (1..=2500).step_by(100) {
        log.append(&batch(entries(first, first + 99, 3)), &mut segments).unwrap();
    }
    let again = recover(&disk, SALT, &options).unwrap();
    assert_eq!(again.tail.first().map(|entry| entry.index), Some(Index(1501)));
    assert_eq!(again.tail.last(), Some(&entry(2500, 3)));
    assert_eq!(again.log.shared().lock().unwrap().blocks.runs(), [(Index(1), Term(3))]);
}

/// What the log must hold, kept the simple way.
#[derive(Clone, Debug, Default)]
struct Model {
    hard: HardState,
    base: u64,
    entries: Vec<Entry>,
    commit: u64,
}

impl Model {
    fn last(&self) -> u64 {
        self.base + self.entries.len() as u64
    }

    fn apply(&mut self, batch: &Persist) {
        self.hard = batch.hard_state.unwrap_or(self.hard);
        if let Some(meta) = &batch.reset {
            self.base = meta.index.0;
            self.entries.clear();
        }
        if let Some(first) = batch.entries.first() {
            self.entries.truncate(usize::try_from(first.index.0 - self.base - 1).unwrap());
            self.entries.extend(batch.entries.iter().cloned());
        }
        self.commit = self.commit.max(batch.commit_index.0);
    }

    /// Draws a batch that consensus could ask for: it never rewrites what is committed.
    fn draw(&self, dice: &mut fastrand::Rng) -> Persist {
        let mut batch = Persist { commit_index: Index(self.commit), ..Persist::default() };
        let mut term = self.hard.term.0;
        if dice.u8(..4) == 0 {
            term += 1;
            let vote = dice.bool().then(|| NodeId(dice.u64(1..6)));
            batch.hard_state = Some(HardState { term: Term(term), vote });
        }
        let mut first = self.last() + 1;
        match dice.u8(..12) {
            0 => {
                let to = self.last() + dice.u64(1..20);
                batch.reset = Some(meta(to, term));
                batch.commit_index = Index(to);
                first = to + 1;
            }
            1..4 => first = dice.u64(self.commit.max(self.base) + 1..=self.last() + 1),
            _ => {}
        }
        batch.entries = entries(first, first + dice.u64(..6), term);
        batch.entries.truncate(dice.usize(..=batch.entries.len()));
        if batch.reset.is_none() && dice.u8(..3) == 0 {
            let kept = batch.entries.first().map_or(self.last(), |_| first - 1);
            batch.commit_index = Index(dice.u64(self.commit..=kept.max(self.commit)));
        }
        batch
    }

    fn assert_is(&self, found: &Recovery<Memory>, first_index: u64, what: &str) {
        assert_eq!(found.hard_state, self.hard, "{what}");
        assert_eq!(found.commit_index, Index(self.commit), "{what}");
        let skipped = usize::try_from(first_index.saturating_sub(self.base + 1)).unwrap();
        let expected = self.entries.get(skipped..).unwrap_or_default();
        assert_eq!(found.tail, expected, "{what}");
        let shared = found.log.shared();
        let blocks = &shared.lock().unwrap().blocks;
        assert_eq!(blocks.last_index(), Index(self.last()), "{what}");
        let mut runs: Vec<(Index, Term)> = Vec::new();
        for entry in expected {
            if runs.last().is_none_or(|(_, term)| *term != entry.term) {
                runs.push((entry.index, entry.term));
            }
        }
        assert_eq!(blocks.runs(), runs, "{what}");
    }
}

/// One life after the other on one disk; each ends with a kill, a power cut or a torn power cut, at a
/// random call, within a batch or not.
fn lives(seed: u64) -> u64 {
    let mut dice = fastrand::Rng::with_seed(seed);
    let mut disk = Memory::default();
    let mut model = Model::default();
    let mut released = 0;
    for life in 0..8 {
        let what = format!("seed {seed}, life {life}");
        let mut log = start(&disk).log;
        disk.fail_at(dice.u64(..80), if dice.bool() { Fault::Cut } else { Fault::Io });
        let mut pending = None;
        loop {
            if dice.u8(..6) == 0 && release(&mut log, model.commit).is_err() {
                break;
            }
            let batch = model.draw(&mut dice);
            if append(&mut log, &disk, &batch).is_err() {
                pending = Some(batch);
                break;
            }
            model.apply(&batch);
            let first = log.shared().lock().unwrap().blocks.first_index();
            assert!(first.0 <= model.commit.max(model.base) + 1, "{what}: released too much");
            let here = model.entries.iter().rfind(|entry| entry.index >= first);
            assert_eq!(all(&log, first).last(), here, "{what}");
        }
        disk = match dice.u8(..3) {
            0 => disk.copy(),
            1 => disk.after_power_cut(),
            _ => disk.after_torn_power_cut(dice.u64(..)),
        };
        let found = start(&disk);
        let first = found.log.shared().lock().unwrap().blocks.first_index().0;
        released = released.max(first - 1 - model.base.min(first - 1));
        // The batch that was cut off is there as a whole, or nothing of it.
        if let Some(batch) = pending {
            let mut more = model.clone();
            more.apply(&batch);
            let last = found.log.shared().lock().unwrap().blocks.last_index();
            if found.hard_state == more.hard
                && found.commit_index == Index(more.commit)
                && last == Index(more.last())
                && more.entries.ends_with(&found.tail)
            {
                model = more;
            }
        }
        model.assert_is(&found, first, &what);
    }
    released
}

#[test]
fn random_lives_and_ends_keep_exactly_what_was_acknowledged() {
    let released = (0..400).map(lives).max().unwrap();
    assert!(released > 20, "at most {released} entries were released in a life");
}

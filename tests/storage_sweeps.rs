//! Every truncation, every flipped bit and every zeroed tail of a log, an identity and a snapshot: what was synced
//! is there to the last record, or the start is refused and names the file. `raftq doctor` says the same.
//!
//! A slice runs by default; `RAFTQ_SWEEP=full` runs all of it (in an optimised build: a minute or two).

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test that meets the unexpected fails there"
)]

use raftq::raft::effects::Persist;
use raftq::raft::message::{Configuration, Entry, EntryKind, HardState, SnapshotMeta};
use raftq::storage::disk::Disk;
use raftq::storage::doctor::examine;
use raftq::storage::error::OpenError;
use raftq::storage::format::{Found, HEADER_BYTES, Place, read};
use raftq::storage::identity::{self, Identity};
use raftq::storage::log::{Log, MakeNow, Options, segment_name};
use raftq::storage::memory::Memory;
use raftq::storage::recover::recover;
use raftq::storage::snapshot::{SnapshotError, Snapshots};
use raftq::types::{ClusterId, Index, NodeId, Term};

const SEGMENT_BYTES: u64 = 16 << 10;

/// Bytes of records that are swept, at least.
const LOG_BYTES_MIN: usize = 64 << 10;

fn options() -> Options {
    Options { segment_bytes: SEGMENT_BYTES, log_keep_bytes: 0 }
}

/// Returns how far apart the places are that a slice looks at; all are looked at if everything is asked for.
fn step(slice: usize) -> usize {
    if std::env::var("RAFTQ_SWEEP").is_ok_and(|all| all == "full") { 1 } else { slice }
}

fn entry(index: u64) -> Entry {
    let data = format!("entry {index} {}", "x".repeat((index * 37 % 400) as usize));
    Entry { index: Index(index), term: Term(1), kind: EntryKind::Command, data: data.into() }
}

/// Breaks the rule that `RAFTQ_BUG` names, in a build that has bugs to plant: then this program must go red.
fn plant() {
    #[cfg(feature = "planted-bugs")]
    if let Ok(name) = std::env::var("RAFTQ_BUG") {
        use raftq::planted::Bug;
        raftq::planted::plant(Bug::ALL.into_iter().find(|bug| bug.name() == name));
    }
}

/// One record of the log as it lies there.
#[derive(Clone, Copy, Debug)]
struct Spot {
    segment: u64,
    from: usize,
    to: usize,
    /// Entries in the log up to its end.
    entries: u64,
}

/// A log, and where its records lie.
struct World {
    disk: Memory,
    identity: Identity,
    spots: Vec<Spot>,
    entries: u64,
}

impl World {
    /// A log of at least [`LOG_BYTES_MIN`], one entry a record, each with a term of its own as hard state.
    fn new(is_sealed: bool) -> Self {
        plant();
        let disk = Memory::default();
        let identity = identity::make(&disk, NodeId(1)).unwrap();
        let mut log = recover(&disk, identity.salt, &options()).unwrap().log;
        let identity = identity::begin(&disk, identity).unwrap();
        let mut entries = 0;
        while log.used_bytes() < LOG_BYTES_MIN as u64 + SEGMENT_BYTES / 2 {
            entries += 1;
            append(&mut log, &disk, entries);
        }
        if is_sealed {
            log.seal().unwrap();
        }
        let mut world = Self { disk, identity, spots: Vec::new(), entries };
        world.find_spots(log.segment());
        let bytes: usize = world.spots.iter().map(|spot| spot.to - spot.from).sum();
        assert!(bytes >= LOG_BYTES_MIN && log.segment() >= 4, "{bytes} bytes");
        world
    }

    fn find_spots(&mut self, last_segment: u64) {
        let mut records = 0;
        for segment in 0..=last_segment {
            let bytes = self.bytes(segment);
            let place = Place { salt: self.identity.salt, segment };
            let mut at = 0;
            while let Found::Record(record) = read(&bytes[at..], place) {
                records += 1;
                let (from, to) = (at, at + record.len());
                self.spots.push(Spot { segment, from, to, entries: self.entries.min(records) });
                at = to;
            }
        }
        assert!(records == self.entries || records == self.entries + 1, "{records} records");
    }

    fn bytes(&self, segment: u64) -> Vec<u8> {
        self.disk.bytes_of(&segment_name(segment)).unwrap()
    }

    fn last_segment(&self) -> u64 {
        self.spots.last().unwrap().segment
    }

    /// Returns where the records of a segment end.
    fn end(&self, segment: u64) -> usize {
        self.spots.iter().rfind(|spot| spot.segment == segment).unwrap().to
    }

    /// Returns the record that a byte belongs to, and whether it is the last of all.
    fn spot(&self, segment: u64, at: usize) -> Option<(Spot, bool)> {
        let holds = |spot: &Spot| spot.segment == segment && (spot.from..spot.to).contains(&at);
        let number = self.spots.iter().position(holds)?;
        Some((self.spots[number], number + 1 == self.spots.len()))
    }

    /// Returns the entries that stand before a record.
    fn entries_before(&self, spot: Spot) -> u64 {
        let number =
            self.spots.iter().position(|one| (one.segment, one.from) == (spot.segment, spot.from));
        number.unwrap().checked_sub(1).map_or(0, |before| self.spots[before].entries)
    }
}

fn append(log: &mut Log<Memory>, disk: &Memory, index: u64) {
    let batch = Persist {
        seq: index,
        hard_state: Some(HardState { term: Term(index), vote: Some(NodeId(index % 3 + 1)) }),
        entries: vec![entry(index)],
        ..Persist::default()
    };
    log.append(&batch, &mut MakeNow { disk, bytes: SEGMENT_BYTES }).unwrap();
}

/// What a start may come to.
#[derive(Clone, Copy, Debug, Default)]
struct Allowed {
    /// It finds so many entries, to the last byte.
    entries: Option<u64>,
    /// It refuses and names this segment, and the place of its first fault.
    refusal: Option<(u64, usize)>,
}

impl Allowed {
    fn entries(entries: u64) -> Self {
        Self { entries: Some(entries), refusal: None }
    }

    fn refusal(segment: u64, offset: usize) -> Self {
        Self { entries: None, refusal: Some((segment, offset)) }
    }
}

/// Starts on a changed log, and asks the doctor first; returns whether the start was refused.
fn check(world: &World, changed: &Memory, allowed: Allowed, what: &str) -> bool {
    let report = examine(changed).unwrap().unwrap();
    let outcome = recover(changed, world.identity.salt, &options());
    assert_eq!(report.starts, outcome.is_ok(), "{what}: the doctor differs: {report:?}");
    assert_eq!(report.is_healthy(), outcome.is_ok(), "{what}: {:?}", report.findings);
    match outcome {
        Ok(recovery) => {
            let found = recovery.tail.len() as u64;
            assert_eq!(
                Some(found),
                allowed.entries,
                "{what}: {found} entries; allowed: {allowed:?}"
            );
            let expected: Vec<Entry> = (1..=found).map(entry).collect();
            assert!(recovery.tail == expected, "{what}: an entry has changed");
            assert_eq!(recovery.hard_state.term, Term(found), "{what}");
            assert_eq!(report.log.last_index, Index(found), "{what}");
            false
        }
        Err(OpenError::Damaged { file, offset, .. }) => {
            let Some((segment, at)) = allowed.refusal else { panic!("{what}: refused: {file}") };
            assert_eq!((file, offset), (segment_name(segment), at as u64), "{what}");
            let first = &report.findings[0];
            assert_eq!((&first.file, first.offset), (&segment_name(segment), Some(at as u64)));
            true
        }
        Err(error) => panic!("{what}: {error}"),
    }
}

/// Flips bits all over the log; returns how many were refused, and how many cut the last record.
fn flip_all(world: &World, slice: usize) -> (u64, u64) {
    let (mut refused, mut cut) = (0, 0);
    let mut bit = 0;
    for segment in 0..=world.last_segment() {
        let bits = SEGMENT_BYTES as usize * 8;
        while bit < bits {
            let at = bit / 8;
            let changed = world.disk.copy();
            changed.damage(&segment_name(segment), |bytes| bytes[at] ^= 1 << (bit % 8));
            let allowed = match world.spot(segment, at) {
                // A flipped last record is like one that was torn, unless it claims to be longer than the file.
                Some((spot, true)) => Allowed {
                    entries: Some(world.entries_before(spot)),
                    refusal: Some((segment, spot.from)),
                },
                Some((spot, false)) => Allowed::refusal(segment, spot.from),
                None if segment == world.last_segment() => Allowed::entries(world.entries),
                None => Allowed::refusal(segment, world.end(segment)),
            };
            if check(world, &changed, allowed, &format!("bit {bit} of segment {segment}")) {
                refused += 1;
            } else {
                cut += u64::from(matches!(world.spot(segment, at), Some((_, true))));
            }
            bit += step(slice);
        }
        bit -= bits;
    }
    (refused, cut)
}

#[test]
fn every_flipped_bit_of_a_log_is_refused_or_in_the_last_record() {
    let world = World::new(false);
    let (refused, _cut) = flip_all(&world, 977);
    assert!(refused > 400, "{refused} refused");
}

/// The last record is where a flip and a torn write look the same: it is swept without a gap.
#[test]
fn flipped_last_record_is_cut_and_a_sealed_one_is_refused() {
    for is_sealed in [false, true] {
        let world = World::new(is_sealed);
        let records: Vec<Spot> = world.spots.iter().rev().take(2).copied().collect();
        let (mut refused, mut cut) = (0, 0);
        for spot in &records {
            let bits = (spot.from * 8..spot.to * 8).step_by(step(13));
            for bit in bits {
                let changed = world.disk.copy();
                changed
                    .damage(&segment_name(spot.segment), |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
                let is_last = spot.from == records[0].from;
                let allowed = Allowed {
                    entries: is_last.then(|| world.entries_before(*spot)),
                    refusal: Some((spot.segment, spot.from)),
                };
                let what = format!("bit {bit}, sealed: {is_sealed}");
                if check(&world, &changed, allowed, &what) { refused += 1 } else { cut += 1 }
            }
        }
        assert!(refused > 0 && cut > 0, "{refused} refused, {cut} cut");
        if is_sealed {
            // The seal says nothing, so that all entries are there without it.
            assert_eq!(world.entries_before(records[0]), world.entries);
        }
    }
}

#[test]
fn every_truncation_of_a_log_file_is_refused_or_loses_nothing() {
    let world = World::new(false);
    let (mut refused, mut lengths) = (0, 0);
    for segment in 0..=world.last_segment() {
        let end = world.end(segment);
        for length in (0..SEGMENT_BYTES as usize).step_by(step(61)) {
            let changed = world.disk.copy();
            changed.damage(&segment_name(segment), |bytes| bytes.truncate(length));
            let is_last = segment == world.last_segment();
            let allowed = match world.spot(segment, length) {
                None => Allowed::entries(world.entries),
                // Nothing tells a file that was cut between two records from one that ends there.
                Some((spot, _)) if is_last && spot.from == length && length > 0 => {
                    Allowed::entries(world.entries_before(spot))
                }
                Some((spot, _)) => Allowed::refusal(segment, spot.from),
            };
            assert!(length < end || allowed.refusal.is_none());
            refused +=
                u64::from(check(&world, &changed, allowed, &format!("{segment} cut to {length}")));
            lengths += 1;
        }
    }
    assert!(refused * 10 > lengths * 7, "{refused} of {lengths}");
}

#[test]
fn zeroed_tail_of_every_length_leaves_every_whole_record() {
    let world = World::new(false);
    let last = world.last_segment();
    let bytes = world.bytes(last);
    for from in (0..world.end(last)).step_by(step(31)) {
        let changed = world.disk.copy();
        changed.damage(&segment_name(last), |bytes| bytes[from..].fill(0));
        // What was zero before is no loss.
        let is_whole = |spot: &&Spot| {
            spot.segment < last || bytes[from.min(spot.to)..spot.to].iter().all(|byte| *byte == 0)
        };
        let entries = world.spots.iter().take_while(is_whole).last().map_or(0, |spot| spot.entries);
        check(&world, &changed, Allowed::entries(entries), &format!("zeroes from {from}"));
    }
}

/// Term and vote are a record of the log like any other: a vote that was given is never taken back.
#[test]
fn every_change_of_a_record_of_votes_is_seen() {
    let disk = Memory::default();
    let identity = identity::make(&disk, NodeId(1)).unwrap();
    let options = Options { segment_bytes: 600, log_keep_bytes: 0 };
    let mut log = recover(&disk, identity.salt, &options).unwrap().log;
    let mut votes = Vec::new();
    for term in 1..=2 {
        let hard = HardState { term: Term(term), vote: Some(NodeId(term + 1)) };
        votes.push(hard);
        let batch = Persist { seq: term, hard_state: Some(hard), ..Persist::default() };
        log.append(&batch, &mut MakeNow { disk: &disk, bytes: 600 }).unwrap();
    }
    let used = log.used_bytes() as usize;
    log.seal().unwrap();
    let name = segment_name(0);
    for bit in 0..used * 8 {
        let changed = disk.copy();
        changed.damage(&name, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        let refused = recover(&changed, identity.salt, &options).unwrap_err();
        assert!(matches!(&refused, OpenError::Damaged { file, .. } if *file == name), "{refused}");
    }
    // A seal stands behind both votes: only a cut of the file, or of its end, can take one away.
    for length in 0..used {
        let changed = disk.copy();
        changed.damage(&name, |bytes| bytes[length..].fill(0));
        match recover(&changed, identity.salt, &options) {
            Ok(recovery) => assert!(
                recovery.hard_state == HardState::default() || votes.contains(&recovery.hard_state)
            ),
            Err(error) => panic!("zeroes from {length}: {error}"),
        }
    }
}

#[test]
fn every_change_of_an_identity_is_refused() {
    let disk = Memory::default();
    let identity = identity::make(&disk, NodeId(7)).unwrap();
    identity::begin(&disk, identity).unwrap();
    let whole = disk.bytes_of("identity").unwrap();
    let refused = |changed: &Memory, what: &str| {
        let error = identity::load(changed).unwrap_err();
        assert!(
            matches!(&error, OpenError::Identity { file, .. } if file == "identity"),
            "{what}: {error}"
        );
        let report = examine(changed).unwrap().unwrap();
        assert!(!report.starts && report.findings[0].file == "identity", "{what}");
    };
    for bit in 0..whole.len() * 8 {
        let changed = disk.copy();
        changed.damage("identity", |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        refused(&changed, &format!("bit {bit}"));
    }
    for length in 0..whole.len() {
        let changed = disk.copy();
        changed.damage("identity", |bytes| bytes.truncate(length));
        refused(&changed, &format!("cut to {length}"));
        if whole[length..].iter().any(|byte| *byte != 0) {
            let changed = disk.copy();
            changed.damage("identity", |bytes| bytes[length..].fill(0));
            refused(&changed, &format!("zeroes from {length}"));
        }
    }
    assert_eq!(identity::load(&disk).unwrap().node, NodeId(7));
}

fn meta(index: u64) -> SnapshotMeta {
    SnapshotMeta {
        index: Index(index),
        term: Term(1),
        configuration: Configuration { cluster: ClusterId::default(), voters: Vec::new() },
    }
}

/// The index and the records of what was loaded.
type Loaded = (u64, Vec<Vec<u8>>);

fn load(disk: &Memory, log_first: u64) -> Result<Option<Loaded>, SnapshotError> {
    let mut records = Vec::new();
    let loaded = Snapshots::open(disk).unwrap().load(Index(log_first), &mut |record| {
        records.push(record.to_vec());
        Ok(())
    })?;
    Ok(loaded.map(|meta| (meta.index.0, records)))
}

#[test]
fn changed_snapshot_is_never_loaded() {
    let disk = Memory::default();
    let snapshots = Snapshots::open(&disk).unwrap();
    let records = |index: u64| -> Vec<Vec<u8>> {
        (0..6).map(|number| vec![(index + number) as u8; 300 + number as usize * 7]).collect()
    };
    for index in [10, 20] {
        let source = move |each: &mut dyn FnMut(&[u8]) -> bool| {
            assert!(records(index).iter().all(|record| each(record)));
        };
        snapshots.write(&meta(index), Box::new(source)).unwrap();
    }
    let name = disk.list().unwrap().into_iter().rfind(|name| name.starts_with("snap-")).unwrap();
    let whole = disk.bytes_of(&name).unwrap();
    let older = Some((10, records(10)));
    let check = |changed: &Memory, what: &str| {
        assert_eq!(load(changed, 11).unwrap(), older, "{what}: the older one reaches the log");
        let refused = load(changed, 12).unwrap_err();
        assert!(
            matches!(&refused, SnapshotError::Damaged { file, .. } if *file == name),
            "{what}: {refused}"
        );
        assert_eq!(
            changed.bytes_of(&name).map(|bytes| bytes.is_empty()),
            Some(what == "cut to 0"),
            "{what}: it is gone"
        );
    };
    for bit in (0..whole.len() * 8).step_by(step(101)) {
        let changed = disk.copy();
        changed.damage(&name, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        check(&changed, &format!("bit {bit}"));
    }
    for length in (0..whole.len()).step_by(step(17)) {
        let changed = disk.copy();
        changed.damage(&name, |bytes| bytes.truncate(length));
        check(&changed, &format!("cut to {length}"));
        if whole[length..].iter().any(|byte| *byte != 0) {
            let changed = disk.copy();
            changed.damage(&name, |bytes| bytes[length..].fill(0));
            check(&changed, &format!("zeroes from {length}"));
        }
    }
    let longer = disk.copy();
    longer.damage(&name, |bytes| bytes.push(0));
    check(&longer, "a byte more");
    assert_eq!(load(&disk, 12).unwrap(), Some((20, records(20))));
}

/// A record ends where a file may end: the sweep's own reading of the log is right.
#[test]
fn swept_log_is_what_it_is_meant_to_be() {
    let world = World::new(true);
    assert!(!check(&world, &world.disk.copy(), Allowed::entries(world.entries), "unchanged"));
    assert_eq!(world.spots.last().map(|spot| spot.to - spot.from), Some(HEADER_BYTES));
}

//! Damaged files are set aside at once or, cut off anywhere, by the next start; nothing is deleted, and
//! the mark that keeps a node from voting is there before and until consensus takes it away.

#![expect(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test that meets the unexpected fails there"
)]

use bytes::Bytes;
use crossbeam_channel::{Receiver, bounded};
use raftq::raft::effects::Persist;
use raftq::raft::message::{Configuration, Entry, EntryKind, HardState, SnapshotMeta};
use raftq::storage::disk::{Disk, DiskFile};
use raftq::storage::error::OpenError;
use raftq::storage::healing::{SetAside, find_damage, heal_on};
use raftq::storage::identity::{self, Identity, Mark};
use raftq::storage::log::Options;
use raftq::storage::memory::{Fault, Memory};
use raftq::storage::threads::{Event, Opened, open_on};
use raftq::types::{ClusterId, Index, NodeId, Term};

const NODE: NodeId = NodeId(1);

fn options() -> Options {
    Options { segment_bytes: 700, log_keep_bytes: 0 }
}

type Started = (Opened<Memory>, Receiver<Event>);

fn load(disk: &Memory) -> Result<Identity, OpenError> {
    let known = disk.list().unwrap().iter().any(|name| name == "identity");
    if known { identity::load(disk) } else { identity::make(disk, NODE) }
}

/// Starts as a node does that is not told to heal.
fn start(disk: &Memory) -> Result<Started, OpenError> {
    let (out, events) = bounded(64);
    let opened = open_on(disk.clone(), load(disk)?, None, &options(), out)?;
    // As the node does next: a damaged snapshot ends its start too.
    let snapshots = opened.storage.snapshots();
    match snapshots.load(opened.storage.log_first(), &mut |_record| Ok(())) {
        Ok(_) => Ok((opened, events)),
        Err(error) => Err(OpenError::Contradiction(error.to_string())),
    }
}

/// Starts as a node that is told to heal.
fn heal(disk: &Memory) -> Result<(Started, Option<SetAside>), OpenError> {
    let (out, events) = bounded(64);
    let (opened, aside) = heal_on(disk.clone(), load(disk)?, None, &options(), out)?;
    Ok(((opened, events), aside))
}

fn entry(index: u64) -> Entry {
    let data = Bytes::from(format!("entry {index}, {}", "z".repeat(60)));
    Entry { index: Index(index), term: Term(1), kind: EntryKind::Command, data }
}

fn persist((opened, events): &Started, batch: Persist) {
    opened.storage.persist(batch);
    match events.recv().unwrap() {
        Event::Persisted { .. } => {}
        event => panic!("{event:?}"),
    }
}

fn fill(started: &Started, count: u64) {
    for seq in 1..=count {
        let hard_state = Some(HardState { term: Term(seq), vote: Some(NODE) });
        let entries = vec![entry(seq)];
        persist(started, Persist { seq, hard_state, entries, ..Persist::default() });
    }
}

fn write_snapshot((opened, events): &Started, index: u64) {
    let meta = SnapshotMeta {
        index: Index(index),
        term: Term(1),
        configuration: Configuration { cluster: ClusterId::default(), voters: Vec::new() },
    };
    let source = |each: &mut dyn FnMut(&[u8]) -> bool| {
        (0..3).take_while(|_| each(&[7; 500])).for_each(drop);
    };
    opened.storage.write_snapshot(meta, Box::new(source));
    assert!(matches!(events.recv().unwrap(), Event::SnapshotWritten { .. }));
    opened.storage.release(Index(index));
    assert!(matches!(events.recv().unwrap(), Event::Released { .. }));
}

fn stop((opened, events): Started) {
    drop(opened);
    events.iter().for_each(drop);
}

/// Makes a directory that was in use: a snapshot, segments of log, a hard state.
fn used() -> Memory {
    let disk = Memory::default();
    let started = start(&disk).unwrap();
    fill(&started, 20);
    write_snapshot(&started, 9);
    stop(started);
    disk
}

fn bytes(disk: &Memory, name: &str) -> Vec<u8> {
    let file = disk.open(name).unwrap();
    let mut bytes = vec![0; usize::try_from(file.size().unwrap()).unwrap()];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn named(disk: &Memory, prefix: &str) -> Vec<String> {
    disk.list().unwrap().into_iter().filter(|name| name.starts_with(prefix)).collect()
}

fn flip(disk: &Memory, name: &str, at: usize) {
    disk.damage(name, |bytes| {
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 0x10;
        }
    });
}

#[test]
fn what_the_disk_does_not_give_back_is_set_aside_unread() {
    for prefix in ["log-", "snap-"] {
        let disk = used();
        let name = named(&disk, prefix).remove(0);
        disk.make_unreadable(&name);
        let Err(error) = start(&disk) else { panic!("{name}: it started without reading it") };
        if let OpenError::Io { .. } = &error {
            let advice = error.advice(std::path::Path::new("here")).unwrap();
            assert!(advice.contains("--heal"), "{name}: {advice}");
        }
        let names = [named(&disk, "log-"), named(&disk, "snap-")].concat();
        let (started, aside) = heal(&disk).unwrap();
        let damage = aside.unwrap().damage;
        assert!(damage.contains("does not give back"), "{name}: {damage}");
        assert!(started.0.recovered.healing, "{name}");
        for moved in names {
            assert!(
                disk.names_inside("damaged-1").contains(&format!("damaged-1/{moved}")),
                "{moved}"
            );
        }
        stop(started);
    }
}

/// A kind of damage: what it is, and what does it and returns the word that names it.
type Kind = (&'static str, fn(&Memory) -> String);

/// The kinds of damage that keep a node from starting, each with the name of the file it is about.
fn damages() -> Vec<Kind> {
    vec![
        ("a flipped byte of the log", |disk| {
            let name = named(disk, "log-").remove(0);
            flip(disk, &name, 60);
            name
        }),
        ("a cut file of the log", |disk| {
            let name = named(disk, "log-").remove(0);
            disk.damage(&name, |bytes| bytes.truncate(100));
            name
        }),
        ("a missing file of the log", |disk| {
            let name = named(disk, "log-").remove(1);
            disk.remove(&name).unwrap();
            disk.sync_dir().unwrap();
            name
        }),
        ("no log at all", |disk| {
            for name in named(disk, "log-") {
                disk.remove(&name).unwrap();
            }
            disk.sync_dir().unwrap();
            "the log is gone".into()
        }),
        ("a flipped byte of the snapshot", |disk| {
            let name = named(disk, "snap-").remove(0);
            flip(disk, &name, 900);
            name
        }),
        ("a flipped byte of the snapshot's head", |disk| {
            let name = named(disk, "snap-").remove(0);
            flip(disk, &name, 20);
            name
        }),
        ("a missing snapshot", |disk| {
            let name = named(disk, "snap-").remove(0);
            disk.remove(&name).unwrap();
            disk.sync_dir().unwrap();
            "no whole snapshot".into()
        }),
    ]
}

#[test]
fn damage_is_named_and_set_aside_and_the_identity_stays() {
    for (what, damage) in damages() {
        let disk = used();
        let before = identity::load(&disk).unwrap();
        let file = damage(&disk);
        let told = find_damage(&disk, before).unwrap().unwrap_or_else(|| panic!("{what}: unseen"));
        assert!(told.contains(&file), "{what}: {told}");
        let moved: Vec<(String, Vec<u8>)> = ["log-", "snap-"]
            .iter()
            .flat_map(|prefix| named(&disk, prefix))
            .map(|name| (name.clone(), bytes(&disk, &name)))
            .collect();
        let (started, aside) = heal(&disk).unwrap();
        let aside = aside.unwrap();
        assert_eq!(aside.into, "damaged-1", "{what}");
        for (name, held) in moved {
            assert_eq!(bytes(&disk, &format!("damaged-1/{name}")), held, "{what}: {name}");
        }
        let recovered = &started.0.recovered;
        assert!(recovered.healing, "{what}");
        assert_eq!((recovered.dir, recovered.last_index), (before.dir, Index(0)), "{what}");
        assert_eq!(recovered.hard_state, HardState::default(), "{what}");
        let after = identity::load(&disk).unwrap();
        assert_eq!((after.node, after.dir, after.mark), (before.node, before.dir, Mark::Healing));
        assert_ne!(after.salt, before.salt, "{what}: records of before must not read");
        stop(started);
    }
}

#[test]
fn healing_that_is_cut_off_at_any_call_goes_on_and_loses_no_file() {
    for (what, damage) in damages() {
        let mut call = 0;
        loop {
            let disk = used();
            damage(&disk);
            let files: Vec<Vec<u8>> = ["log-", "snap-"]
                .iter()
                .flat_map(|prefix| named(&disk, prefix))
                .map(|name| bytes(&disk, &name))
                .collect();
            disk.fail_at(call, Fault::Cut);
            let whole = match heal(&disk) {
                Ok((started, _)) => {
                    stop(started);
                    true
                }
                Err(_) => false,
            };
            for after in [disk.after_power_cut(), disk.copy()] {
                let after = if whole { after } else { after.after_power_cut() };
                // Not told again, it goes on if it has begun, and refuses as before if it has not.
                let mark = identity::load(&after).unwrap().mark;
                match start(&after) {
                    Ok(started) => {
                        assert_ne!(mark, Mark::Whole, "{what} at {call}");
                        assert!(started.0.recovered.healing, "{what} at {call}");
                        stop(started);
                    }
                    Err(error) => {
                        assert_eq!(mark, Mark::Whole, "{what} at {call}: {error}");
                        let (started, aside) = heal(&after).unwrap();
                        assert!(aside.is_some() && started.0.recovered.healing);
                        stop(started);
                    }
                }
                if identity::load(&after).unwrap().mark == Mark::Healing {
                    let kept: Vec<Vec<u8>> = after
                        .names_inside("damaged-1")
                        .iter()
                        .map(|name| bytes(&after, name))
                        .collect();
                    for file in &files {
                        assert!(kept.contains(file), "{what} at {call}: a file is gone");
                    }
                }
            }
            if whole {
                break;
            }
            call += 1;
        }
        assert!(call > 12, "{what}: only {call} calls");
    }
}

#[test]
fn healing_that_is_cut_off_with_torn_names_never_comes_back_whole() {
    let (_, damage) = damages().remove(0);
    for call in 0..40 {
        for dice in 0..12 {
            let disk = used();
            damage(&disk);
            disk.fail_at(call, Fault::Cut);
            if let Ok((started, _)) = heal(&disk) {
                stop(started);
            }
            let after = disk.after_torn_power_cut(dice);
            match start(&after) {
                Ok(started) => {
                    assert!(started.0.recovered.healing, "{call}, {dice}: it would vote");
                    stop(started);
                }
                Err(error) => assert!(error.is_damage(), "{call}, {dice}: {error}"),
            }
        }
    }
}

#[test]
fn mark_goes_with_the_batch_that_says_so_and_not_before() {
    let mut calls = 0;
    loop {
        let disk = used();
        let (_, damage) = damages().remove(0);
        damage(&disk);
        let (started, _) = heal(&disk).unwrap();
        fill(&started, 5);
        disk.fail_at(calls, Fault::Cut);
        started.0.storage.persist(Persist { seq: 6, healed: true, ..Persist::default() });
        let done = matches!(started.1.recv().unwrap(), Event::Persisted { .. });
        stop(started);
        for after in [disk.after_power_cut(), disk.after_torn_power_cut(calls)] {
            let again = start(&after).unwrap();
            assert!(!(done && again.0.recovered.healing), "done, and undone by a power cut");
            // What was durable stays, healed or not.
            assert_eq!(again.0.recovered.last_index, Index(5));
            assert_eq!(again.0.recovered.hard_state.term, Term(5));
            stop(again);
        }
        if done {
            break;
        }
        calls += 1;
    }
    assert!(calls >= 5, "only {calls} calls");
}

#[test]
fn restarts_go_on_healing_without_being_told() {
    let disk = used();
    let (_, damage) = damages().remove(0);
    damage(&disk);
    let (started, _) = heal(&disk).unwrap();
    fill(&started, 3);
    stop(started);
    for _ in 0..3 {
        let started = start(&disk).unwrap();
        assert!(started.0.recovered.healing);
        assert_eq!(started.0.recovered.last_index, Index(3));
        stop(started);
    }
    let started = start(&disk).unwrap();
    persist(&started, Persist { seq: 1, healed: true, ..Persist::default() });
    stop(started);
    let started = start(&disk).unwrap();
    assert!(!started.0.recovered.healing);
    stop(started);
}

#[test]
fn damage_while_it_heals_is_set_aside_under_the_next_number() {
    let disk = used();
    let (_, damage) = damages().remove(0);
    damage(&disk);
    let (started, _) = heal(&disk).unwrap();
    fill(&started, 20);
    stop(started);
    damage(&disk);
    assert!(start(&disk).is_err(), "not told again, it refuses");
    let (started, aside) = heal(&disk).unwrap();
    assert_eq!(aside.unwrap().into, "damaged-2");
    assert!(started.0.recovered.healing);
    stop(started);
    assert!(!disk.names_inside("damaged-1").is_empty());
}

#[test]
fn whole_directory_is_left_as_it_is() {
    let disk = used();
    let before = identity::load(&disk).unwrap();
    let (started, aside) = heal(&disk).unwrap();
    assert!(aside.is_none() && !started.0.recovered.healing);
    assert_eq!(started.0.recovered.last_index, Index(20));
    stop(started);
    assert_eq!(identity::load(&disk).unwrap(), before);
    // A new one too.
    let (started, aside) = heal(&Memory::default()).unwrap();
    assert!(aside.is_none() && !started.0.recovered.healing);
    stop(started);
}

#[test]
fn damaged_identity_cannot_be_healed_and_says_why() {
    let disk = used();
    disk.damage("identity", |bytes| bytes.truncate(20));
    let error = heal(&disk).map(|_| ()).unwrap_err();
    assert!(!error.is_damage());
    let advice = error.advice(std::path::Path::new("/data")).unwrap();
    assert!(advice.contains("cannot be healed") && advice.contains("raftq doctor --data /data"));
}

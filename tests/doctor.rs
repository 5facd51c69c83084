//! `raftq doctor` on good, torn, damaged, empty, foreign and missing directories: what it says, and that it
//! changes nothing.

#![expect(clippy::unwrap_used, reason = "a helper that fails has to fail its test")]
#![expect(clippy::disallowed_methods, reason = "a test of a time limit measures real time")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use crossbeam_channel::{Receiver, bounded};
use raftq::raft::effects::Persist;
use raftq::raft::message::{Configuration, Entry, EntryKind, HardState, SnapshotMeta};
use raftq::storage::log::Options;
use raftq::storage::threads::{Event, Opened, open};
use raftq::types::{ClusterId, Index, NodeId, Term};
use serde_json::Value;

const NODE: NodeId = NodeId(3);

/// A directory of a test's own, gone with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("raftq-doctor-{}-{name}", std::process::id()));
        fs::remove_dir_all(&path).ok();
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn data(&self) -> PathBuf {
        self.0.join("data")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

fn entry(index: u64, bytes: usize) -> Entry {
    let data = Bytes::from(format!("entry {index} {}", "y".repeat(bytes)));
    Entry { index: Index(index), term: Term(2), kind: EntryKind::Command, data }
}

fn meta(index: u64) -> SnapshotMeta {
    SnapshotMeta {
        index: Index(index),
        term: Term(2),
        configuration: Configuration { cluster: ClusterId::default(), voters: Vec::new() },
    }
}

/// An open directory that a test writes to.
struct Writer {
    opened: Opened,
    events: Receiver<Event>,
}

impl Writer {
    fn open(path: &Path, segment_bytes: u64) -> Self {
        let (out, events) = bounded(64);
        let options = Options { segment_bytes, log_keep_bytes: 0 };
        Self { opened: open(path, NODE, &options, out).unwrap(), events }
    }

    fn fill(&self, from: u64, to: u64, bytes: usize) {
        for index in from..=to {
            let hard_state = Some(HardState { term: Term(2), vote: Some(NodeId(1)) });
            let entries = vec![entry(index, bytes)];
            let commit_index = Index(index - 1);
            let batch =
                Persist { seq: index, hard_state, entries, commit_index, ..Persist::default() };
            self.opened.storage.persist(batch);
            assert!(matches!(self.events.recv().unwrap(), Event::Persisted { .. }));
        }
    }

    fn snapshot(&self, index: u64) {
        let source =
            |each: &mut dyn FnMut(&[u8]) -> bool| assert!(each(b"one") && each(&[7; 3000]));
        self.opened.storage.write_snapshot(meta(index), Box::new(source));
        assert!(matches!(self.events.recv().unwrap(), Event::SnapshotWritten { .. }));
    }

    fn release(&self, index: u64) {
        self.opened.storage.release(Index(index));
        assert!(matches!(self.events.recv().unwrap(), Event::Released { .. }));
    }

    fn stop(self) {
        drop(self.opened);
        for event in self.events {
            assert!(!matches!(event, Event::Failed { .. }), "{event:?}");
        }
    }
}

/// A directory of 60 entries in several files, with snapshots at 20 and 40.
fn good(path: &Path) {
    let writer = Writer::open(path, 2000);
    writer.fill(1, 60, 80);
    writer.snapshot(20);
    writer.snapshot(40);
    writer.release(20);
    writer.stop();
}

/// Everything about a tree that a look at it may not change.
fn portrait(path: &Path) -> BTreeMap<PathBuf, (SystemTime, Vec<u8>)> {
    let mut portrait = BTreeMap::new();
    let mut folders = vec![path.to_path_buf()];
    while let Some(folder) = folders.pop() {
        portrait
            .insert(folder.clone(), (fs::metadata(&folder).unwrap().modified().unwrap(), vec![]));
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let modified = fs::metadata(&path).unwrap().modified().unwrap();
            if path.is_dir() {
                folders.push(path);
            } else {
                portrait.insert(path.clone(), (modified, fs::read(&path).unwrap()));
            }
        }
    }
    portrait
}

/// What the program said.
struct Said {
    code: i32,
    text: String,
    json: Value,
    errors: String,
}

/// Asks for a text and for JSON; neither may change anything, and both end with the same code.
fn doctor(path: &Path) -> Said {
    let before = path.is_dir().then(|| portrait(path));
    let ask = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_raftq"));
        command.arg("doctor").arg("--data").arg(path).args(more).output().unwrap()
    };
    let (text, json) = (ask(&[]), ask(&["--json"]));
    assert_eq!(text.status.code(), json.status.code());
    if let Some(before) = before {
        assert!(portrait(path) == before, "{} has changed", path.display());
    }
    Said {
        code: text.status.code().unwrap(),
        text: String::from_utf8(text.stdout).unwrap(),
        json: serde_json::from_slice(&json.stdout).unwrap_or_default(),
        errors: String::from_utf8(text.stderr).unwrap(),
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

fn damage(file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(file).unwrap();
    change(&mut bytes);
    fs::write(file, bytes).unwrap();
}

fn name(file: &Path) -> String {
    file.file_name().unwrap().to_string_lossy().into_owned()
}

/// Tells whether a node would open it. It is tried on a copy.
fn opens(path: &Path) -> bool {
    let copy = path.with_extension("copy");
    fs::remove_dir_all(&copy).ok();
    fs::create_dir(&copy).unwrap();
    for file in files(path, "") {
        fs::copy(&file, copy.join(name(&file))).unwrap();
    }
    let (out, events) = bounded(64);
    let opened = open(&copy, NODE, &Options { segment_bytes: 2000, log_keep_bytes: 0 }, out);
    let good = opened.is_ok_and(|opened| {
        let snapshots = opened.storage.snapshots();
        snapshots.load(opened.storage.log_first(), &mut |_record| Ok(())).is_ok()
    });
    // The threads have ended when all events have.
    for event in events {
        assert!(!matches!(event, Event::Failed { .. }), "{event:?}");
    }
    fs::remove_dir_all(&copy).unwrap();
    good
}

/// The program says that something is damaged, in this file.
fn assert_broken(path: &Path, file: &str, advice: &str) -> Said {
    let said = doctor(path);
    assert_eq!(said.code, 5, "{}{}", said.text, said.errors);
    let broken = said.json.get("broken").and_then(|it| it.as_array()).unwrap();
    assert!(broken.iter().any(|one| one["file"] == file), "{file}: {broken:?}");
    assert!(said.text.contains(file) && said.text.contains("DAMAGED"), "{}", said.text);
    assert_eq!(said.json.get("advice"), Some(&advice.into()), "{}", said.text);
    assert_eq!(said.json.get("healthy"), Some(&false.into()));
    assert_eq!(said.json.get("starts"), Some(&opens(path).into()), "{}", said.text);
    said
}

#[test]
fn good_directory_is_healthy_and_told_in_full() {
    let scratch = Scratch::new("good");
    good(&scratch.data());
    let said = doctor(&scratch.data());
    assert_eq!(said.code, 0, "{}", said.text);
    let json = &said.json;
    for (key, value) in [("node", 3), ("last_index", 60), ("term", 2), ("voted_for", 1)] {
        assert_eq!(json[key], value, "{key}: {json}");
    }
    for (key, value) in [("healthy", true), ("starts", true), ("torn", false), ("running", false)] {
        assert_eq!(json[key], value, "{key}: {json}");
    }
    assert_eq!(json["advice"], "nothing");
    assert_eq!(json["commit_index"], 59);
    let segments = json["segments"].as_array().unwrap();
    assert_eq!(segments.len(), files(&scratch.data(), "log-").len());
    assert_eq!(segments.last().unwrap()["state"], "blank");
    let held: Vec<&Value> = segments.iter().filter(|one| one["state"] == "whole").collect();
    assert_eq!(held.first().unwrap()["first_index"], json["first_index"]);
    assert_eq!(held.last().unwrap()["last_index"], 60);
    let snapshots = json["snapshots"].as_array().unwrap();
    let indexes: Vec<u64> = snapshots.iter().map(|one| one["index"].as_u64().unwrap()).collect();
    assert_eq!(indexes, [20, 40]);
    assert!(snapshots.iter().all(|one| one["state"] == "whole" && one["records"] == 2));
    for words in ["node 3", "HEALTHY", "term 2, voted for node 1", "to 60", "nothing is to be done"]
    {
        assert!(said.text.contains(words), "{words:?} is missing:\n{}", said.text);
    }
}

#[test]
fn torn_end_is_healthy_and_where_it_is_cut_is_told() {
    let scratch = Scratch::new("torn");
    good(&scratch.data());
    let segments = files(&scratch.data(), "log-");
    let last = &segments[segments.len() - 2];
    // The end of the last record never came.
    let whole = fs::read(last).unwrap();
    let end = whole.iter().rposition(|byte| *byte != 0).unwrap();
    damage(last, |bytes| bytes[end - 20..].fill(0));
    let said = doctor(&scratch.data());
    assert_eq!(said.code, 0, "{}", said.text);
    assert_eq!((&said.json["torn"], &said.json["starts"]), (&true.into(), &true.into()));
    assert!(said.text.contains("torn end") && said.text.contains("HEALTHY"), "{}", said.text);
    assert!(said.text.contains(&name(last)));
    assert!(opens(&scratch.data()));
}

#[test]
fn every_fault_of_a_log_is_told_with_its_file_and_place() {
    let scratch = Scratch::new("log");
    good(&scratch.data());
    let segments = files(&scratch.data(), "log-");
    assert!(segments.len() > 4, "{segments:?}");
    damage(&segments[0], |bytes| bytes[300] ^= 1);
    damage(&segments[0], |bytes| bytes[900] ^= 1);
    damage(&segments[2], |bytes| bytes.truncate(700));
    let said = assert_broken(&scratch.data(), &name(&segments[0]), "heal");
    let broken = said.json["broken"].as_array().unwrap();
    let places: Vec<(String, u64)> = broken
        .iter()
        .map(|one| (one["file"].as_str().unwrap().into(), one["byte"].as_u64().unwrap()))
        .collect();
    assert_eq!(places.len(), 3, "{places:?}");
    assert!(places[0].1 <= 300 && places[1].1 > 300 && places[1].1 <= 900, "{places:?}");
    assert_eq!(places[2].0, name(&segments[2]));
    assert!(said.text.contains("--heal") && said.text.contains("--id 3"), "{}", said.text);
    let states: Vec<&str> = said.json["segments"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["state"].as_str().unwrap())
        .collect();
    assert_eq!(states[..3], ["damaged", "whole", "damaged"]);
}

#[test]
fn missing_files_are_told() {
    let scratch = Scratch::new("missing");
    good(&scratch.data());
    let aside = scratch.0.join("aside");
    // All of the oldest file is in a snapshot: without it the log is as if it had been let go of.
    for file in files(&scratch.data(), "log-").iter().skip(1).rev().skip(1) {
        fs::rename(file, &aside).unwrap();
        let said = doctor(&scratch.data());
        assert_eq!(said.code, 5, "without {}: {}", file.display(), said.text);
        assert_eq!(said.json["starts"], false);
        assert!(!opens(&scratch.data()));
        fs::rename(&aside, file).unwrap();
    }
    let segments = files(&scratch.data(), "log-");
    fs::rename(&segments[1], &aside).unwrap();
    assert_broken(&scratch.data(), &name(&segments[1]), "restore-files");
    fs::rename(&aside, &segments[1]).unwrap();
    for segment in &segments {
        fs::remove_file(segment).unwrap();
    }
    assert_broken(&scratch.data(), "the log", "restore-files");
}

#[test]
fn damaged_identity_is_told_and_the_rest_is_shown_unchecked() {
    let scratch = Scratch::new("identity");
    good(&scratch.data());
    let identity = scratch.data().join("identity");
    let whole = fs::read(&identity).unwrap();
    damage(&identity, |bytes| bytes[9] ^= 4);
    let said = assert_broken(&scratch.data(), "identity", "restore-identity");
    assert_eq!(said.json["segments"][0]["state"], "unchecked");
    assert_eq!(said.json["snapshots"][1]["state"], "whole");
    fs::remove_file(&identity).unwrap();
    assert_broken(&scratch.data(), "identity", "restore-identity");
    fs::write(&identity, &whole).unwrap();
    assert_eq!(doctor(&scratch.data()).code, 0);
}

#[test]
fn damaged_snapshot_is_told_and_whether_the_node_needs_it() {
    let scratch = Scratch::new("snapshot");
    good(&scratch.data());
    let snapshots = files(&scratch.data(), "snap-");
    // The log reaches back to the older one.
    damage(&snapshots[1], |bytes| bytes[1000] ^= 1);
    let said = assert_broken(&scratch.data(), &name(&snapshots[1]), "start-without-snapshot");
    assert_eq!(said.json["starts"], true);
    damage(&snapshots[0], |bytes| bytes.truncate(30));
    let said = assert_broken(&scratch.data(), &name(&snapshots[0]), "heal");
    assert_eq!(said.json["broken"].as_array().unwrap().len(), 2);
    assert_eq!(said.json["starts"], false);
}

#[test]
fn leftovers_are_named_and_are_no_damage() {
    let scratch = Scratch::new("leftovers");
    good(&scratch.data());
    for left in ["snap.tmp", "log.tmp-00000000000000ff", "identity.tmp", "notes.txt"] {
        fs::write(scratch.data().join(left), b"half of it").unwrap();
    }
    let partial = format!("snap.part-{}", "ab".repeat(16));
    fs::write(scratch.data().join(&partial), b"the beginning").unwrap();
    fs::create_dir(scratch.data().join("lost+found")).unwrap();
    let said = doctor(&scratch.data());
    assert_eq!(said.code, 0, "{}", said.text);
    assert_eq!(said.json["leftovers"].as_array().unwrap().len(), 3);
    assert_eq!(said.json["transfers"][0]["file"], partial.as_str());
    assert_eq!(said.json["others"].as_array().unwrap().len(), 2);
}

#[test]
fn what_is_no_data_directory_is_said_to_be_none() {
    let scratch = Scratch::new("foreign");
    for (path, words) in [(scratch.data(), "does not exist"), (scratch.0.clone(), "empty")] {
        let said = doctor(&path);
        assert_eq!(said.code, 3);
        assert!(said.errors.contains(words) && said.text.is_empty(), "{}", said.errors);
    }
    fs::write(scratch.0.join("diary.txt"), "dear diary").unwrap();
    let said = doctor(&scratch.0);
    assert!(said.code == 3 && said.errors.contains("other files"), "{}", said.errors);
    let said = doctor(&scratch.0.join("diary.txt"));
    assert!(said.code == 3 && said.errors.contains("no directory"), "{}", said.errors);
    assert!(!scratch.data().exists());
}

#[test]
fn running_node_is_noticed_and_not_disturbed() {
    let scratch = Scratch::new("running");
    let writer = Writer::open(&scratch.data(), 2000);
    writer.fill(1, 5, 80);
    let mut command = Command::new(env!("CARGO_BIN_EXE_raftq"));
    let output = command.arg("doctor").arg("--data").arg(scratch.data()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("A node is running"), "{text}");
    writer.fill(6, 8, 80);
    writer.stop();
    assert_eq!(doctor(&scratch.data()).json["running"], false);
}

#[test]
fn large_directory_is_read_quickly() {
    let scratch = Scratch::new("large");
    let writer = Writer::open(&scratch.data(), 8 << 20);
    writer.fill(1, 64, 1 << 20);
    writer.stop();
    let start = Instant::now();
    let said = doctor(&scratch.data());
    assert_eq!(said.code, 0, "{}", said.text);
    assert_eq!(said.json["last_index"], 64);
    // Two runs over 64 MiB, and the comparison of all bytes, in a build without optimisation.
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

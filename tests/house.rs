//! The house keeps its own rules: floors, purity, first lines, sizes (see the tour in `src/lib.rs`).

#![expect(clippy::unwrap_used, reason = "a helper that fails has to fail its test")]

use std::fs;
use std::path::{Path, PathBuf};

/// The rooms and their floors: an import goes down, or stays in its room.
const FLOORS: [(&str, u8); 16] = [
    ("types", 1),
    ("planted", 1),
    ("raft", 2),
    ("pack", 2),
    ("jobs", 3),
    ("replica", 4),
    ("wire", 4),
    ("storage", 5),
    ("net", 5),
    ("worker", 5),
    ("client", 5),
    ("node", 6),
    ("sim", 6),
    ("bench", 6),
    ("cli", 7),
    ("main", 8),
];

/// The few ways to a neighbour on the same floor: who may know whom.
const NEIGHBOURS: [(&str, &str); 4] = [
    // A snapshot of the log is MessagePack too.
    ("raft", "pack"),
    // A turn of the replica takes typed requests and gives typed replies.
    ("replica", "wire"),
    // A simulated node starts from its disk as a real one does.
    ("sim", "node"),
    // There is one clock.
    ("bench", "node"),
];

/// Rooms that see nothing of the world, so that the simulator runs them as they are.
const PURE: [&str; 6] = ["types", "pack", "raft", "jobs", "wire", "replica"];

/// What a pure room never names: clocks, threads, sockets, files, chance, and maps whose order
/// changes from run to run.
const WORLD: [&str; 14] = [
    "std::time",
    "std::thread",
    "std::net",
    "std::fs",
    "std::env",
    "std::process",
    "std::io::std",
    "HashMap",
    "HashSet",
    "async_std",
    "fastrand",
    "crossbeam_channel",
    "Instant",
    "SystemTime",
];

/// Rooms that may name async-std, which is no longer developed: leaving it must touch few files.
const ASYNC: [&str; 4] = ["net", "worker", "client", "node"];

/// Lines of one file, at most.
const LINES_MAX: usize = 700;

/// What no file of the source says.
const UNWANTED: [&str; 8] =
    ["todo!(", "unimplemented!(", "dbg!(", "#[allow(", "#![allow(", "TODO", "FIXME", "XXX"];

/// One file of `src/`.
struct Source {
    /// From `src/` on.
    path: PathBuf,
    /// Its room: the folder below `src/`, or the file's own name.
    room: String,
    text: String,
}

impl Source {
    fn is_mod(&self) -> bool {
        self.path.file_name().is_some_and(|name| name == "mod.rs")
    }

    /// Returns numbered lines without comments. Strings are not parsed: `//` inside one hides the
    /// rest of its line, which hides no import.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(at, line)| {
            (at + 1, line.split_once("//").map_or(line, |(before, _comment)| before))
        })
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(&root).unwrap().to_owned();
                let first = path.iter().next().unwrap().to_str().unwrap();
                let room = first.trim_end_matches(".rs").to_owned();
                sources.push(Source { path, room, text });
            }
        }
    }
    assert!(sources.len() > 10, "only {} files found below {}", sources.len(), root.display());
    sources.sort_by(|one, other| one.path.cmp(&other.path));
    sources
}

fn floor(room: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == room).map(|(_, floor)| *floor)
}

/// Finds the rooms that a line names as `crate::ROOM` or `raftq::ROOM`.
fn rooms_named(line: &str) -> Vec<&str> {
    let mut rooms = Vec::new();
    for prefix in ["crate::", "raftq::"] {
        for (at, _) in line.match_indices(prefix) {
            let rest = &line[at + prefix.len()..];
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            rooms.push(&rest[..end]);
        }
    }
    rooms
}

/// Fails with every fault found, so that one run shows them all.
fn assert_none(faults: Vec<String>, rule: &str) {
    assert!(faults.is_empty(), "{rule}:\n  {}", faults.join("\n  "));
}

#[test]
fn imports_go_down_only() {
    let mut faults = Vec::new();
    for source in sources().iter().filter(|source| source.room != "lib") {
        let Some(own) = floor(&source.room) else {
            faults.push(format!("{}: {} has no floor", source.path.display(), source.room));
            continue;
        };
        for (number, line) in source.code() {
            for room in rooms_named(line).into_iter().filter(|room| *room != source.room) {
                let knows = NEIGHBOURS.contains(&(source.room.as_str(), room));
                if !knows && floor(room).is_none_or(|other| other >= own) {
                    faults.push(format!("{}:{number}: names {room}", source.path.display()));
                }
            }
        }
    }
    assert_none(faults, "a room names only rooms on lower floors");
}

#[test]
fn pure_rooms_see_nothing_of_the_world() {
    let mut faults = Vec::new();
    for source in sources().iter().filter(|source| PURE.contains(&source.room.as_str())) {
        for (number, line) in source.code() {
            for word in WORLD.iter().filter(|word| line.contains(**word)) {
                faults.push(format!("{}:{number}: names {word}", source.path.display()));
            }
        }
    }
    assert_none(faults, "a pure room has no clock, thread, socket, file, environment or chance");
}

#[test]
fn async_std_stays_in_few_rooms() {
    let mut faults = Vec::new();
    for source in sources().iter().filter(|source| !ASYNC.contains(&source.room.as_str())) {
        for (number, line) in source.code().filter(|(_, line)| line.contains("async_std")) {
            faults.push(format!("{}:{number}: {}", source.path.display(), line.trim()));
        }
    }
    assert_none(faults, "async-std is named in net, worker, client and node only");
}

#[test]
fn every_file_says_first_what_it_is_for() {
    let mut faults = Vec::new();
    for source in sources() {
        let first = source.text.lines().next().unwrap_or_default();
        let sentence = first.strip_prefix("//! ").unwrap_or_default();
        if sentence.len() < 10 {
            faults.push(format!("{}: {first:?}", source.path.display()));
        }
    }
    assert_none(faults, "a file opens with `//!` and what it is for");
}

#[test]
fn files_stay_short_enough_to_read() {
    let long = |source: &Source| source.text.lines().count() > LINES_MAX;
    let faults = sources()
        .iter()
        .filter(|source| long(source))
        .map(|source| format!("{}: {} lines", source.path.display(), source.text.lines().count()))
        .collect();
    assert_none(faults, "a file has at most 700 lines");
}

#[test]
fn mod_files_hold_a_tour_and_modules_only() {
    let mut faults = Vec::new();
    for source in sources().iter().filter(|source| source.is_mod()) {
        for (number, line) in source.text.lines().enumerate() {
            let line = line.trim();
            let is_tour = line.is_empty() || line.starts_with("//");
            let is_module = ["mod ", "pub mod ", "pub(crate) mod ", "#[cfg(", "#[expect("]
                .iter()
                .any(|start| line.starts_with(start));
            if !is_tour && !is_module {
                faults.push(format!("{}:{}: {line}", source.path.display(), number + 1));
            }
        }
    }
    assert_none(faults, "mod.rs holds a tour and modules");
}

#[test]
fn nothing_unfinished_or_silenced_is_left() {
    let mut faults = Vec::new();
    for source in sources() {
        for (number, line) in source.text.lines().enumerate() {
            for word in UNWANTED.iter().filter(|word| line.contains(**word)) {
                faults.push(format!("{}:{}: {word}", source.path.display(), number + 1));
            }
        }
    }
    assert_none(faults, "no unfinished work, and lints are expected with a reason, not allowed");
}

#[test]
fn unsafe_code_is_forbidden() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let manifest = fs::read_to_string(manifest).unwrap();
    assert!(manifest.contains(r#"unsafe_code = "forbid""#));
}

#[test]
fn rooms_are_found_wherever_a_line_names_them() {
    assert_eq!(rooms_named("use crate::jobs::job::Job;"), ["jobs"]);
    assert_eq!(rooms_named("fn f(a: crate::wire::A, b: crate::raft::B)"), ["wire", "raft"]);
    assert_eq!(rooms_named("use crate::{jobs::job::Job};"), [""], "a group hides its rooms");
    assert_eq!(floor(""), None);
}

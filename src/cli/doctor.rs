//! The verb `doctor`: what a data directory holds, what of it is broken, and what to do. It only reads.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::out::{Column, Out, Table, or_nothing, plain};
use crate::cli::shape::Number;
use crate::storage::autopsy::{Segment, SegmentState};
use crate::storage::doctor::{Advice, Finding, Foreign, Report, SnapshotView, examine};
use crate::storage::identity::LOCK;
use crate::storage::log::segment_name;
use crate::storage::read_only::ReadOnly;

/// Faults shown to a person, at most; JSON has them all.
const SHOWN_MAX: usize = 20;

const AFTER_HELP: &str = "\
It changes nothing, and needs no running cluster. Exit codes: 0 healthy (the torn end of a last write is
healthy too: it was never acknowledged), 3 no such directory or none of a node, 5 something is damaged,
1 it could not be looked at.";

/// Options of `doctor`.
#[derive(Clone, Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct DoctorArgs {
    /// The data directory of a node, best of one that is stopped.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
}

/// Runs `doctor`.
///
/// # Errors
/// A [`Failure`]: there is no such directory, it is none of a node, it cannot be read, or stdout.
pub fn run(args: &DoctorArgs, json: bool, out: &mut Out) -> Outcome {
    let path = args.data.as_path();
    let disk = open(path)?;
    let is_running = disk.is_locked(LOCK);
    let report = examine(&disk).map_err(|error| {
        Failure::new(Exit::Failure, format!("{} cannot be read: {error}", path.display()))
    })?;
    let report = report.map_err(|foreign| is_foreign(path, foreign))?;
    let patient = Patient { path, is_running, report: &report };
    if json {
        out.json(&patient.shape())?;
    } else {
        patient.write(out)?;
    }
    out.flush()?;
    Ok(if report.is_healthy() { Exit::Ok } else { Exit::Unhealthy })
}

fn open(path: &Path) -> Result<ReadOnly, Failure> {
    let shown = path.display();
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(ReadOnly::new(path)),
        Ok(_file) => Err(Failure::new(Exit::NotFound, format!("{shown} is no directory"))),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Err(Failure::new(Exit::NotFound, format!("{shown} does not exist")))
        }
        Err(error) => Err(Failure::new(Exit::Failure, format!("{shown}: {error}"))),
    }
}

fn is_foreign(path: &Path, foreign: Foreign) -> Failure {
    let shown = path.display();
    match foreign {
        Foreign::Empty => {
            Failure::new(Exit::NotFound, format!("{shown} is no data directory: it is empty")).hint(
                "A new node may be started with it. One that has run before has lost its data.",
            )
        }
        Foreign::Others => Failure::new(
            Exit::NotFound,
            format!("{shown} is no data directory: it holds other files, and none of a node"),
        )
        .hint("Name the directory that the node is given with --data."),
    }
}

/// A directory and what was found in it.
struct Patient<'a> {
    path: &'a Path,
    /// A node works in it now; `None`: nobody knows.
    is_running: Option<bool>,
    report: &'a Report,
}

impl Patient<'_> {
    fn write(&self, out: &mut Out) -> Result<(), Failure> {
        self.write_head(out)?;
        self.write_files(out)?;
        self.write_findings(out)?;
        out.line("")?;
        out.line(&format!("{}: {}", self.verdict(), self.advice()))?;
        if self.is_running == Some(true) {
            out.line(
                "A node is running on this directory: what was read may have changed meanwhile. Stop the node \
                 and look again before you act on it.",
            )?;
        }
        Ok(())
    }

    fn write_head(&self, out: &mut Out) -> Result<(), Failure> {
        let report = self.report;
        let mut table = Table::new(&[Column::Left(""), Column::Left("")]);
        let mut row = |key: &str, value: String| table.row(vec![key.into(), value]);
        row("directory", self.path.display().to_string());
        row(
            "identity",
            report.identity.map_or("cannot be read".into(), |identity| {
                let begun =
                    if identity.begun { "its log has begun" } else { "never fully started" };
                format!("node {}, directory {}, {begun}", identity.node, identity.dir)
            }),
        );
        row(
            "running",
            match self.is_running {
                Some(true) => "yes, a node holds its lock".into(),
                Some(false) => "no".into(),
                None => "unknown: its lock cannot be read".into(),
            },
        );
        if report.identity.is_some() {
            let hard = report.log.hard_state;
            let vote = hard.vote.map_or("no vote".into(), |id| format!("voted for node {id}"));
            row("log", self.log_text());
            row("hard state", format!("term {}, {vote}", hard.term));
            row("commit hint", report.log.commit_index.to_string());
        }
        table.write(out, false)
    }

    fn log_text(&self) -> String {
        let log = &self.report.log;
        let used: u64 = log.segments.iter().map(|segment| segment.used_bytes).sum();
        let entries = match self.report.first_index {
            Some(first) if first > log.last_index => format!("no entry behind {}", log.last_index),
            Some(first) => format!("entries {first} to {}", log.last_index),
            None => format!("entries up to {}, as far as they can be read", log.last_index),
        };
        format!("{entries}, {used} bytes of records")
    }

    fn write_files(&self, out: &mut Out) -> Result<(), Failure> {
        let mut table = Table::new(&[
            Column::Left("FILE"),
            Column::Right("BYTES"),
            Column::Right("USED"),
            Column::Right("RECORDS"),
            Column::Left("ENTRIES"),
            Column::Left("TERMS"),
            Column::Left("STATE"),
        ]);
        let report = self.report;
        report.log.segments.iter().for_each(|segment| table.row(segment_row(segment)));
        report.snapshots.iter().for_each(|snapshot| table.row(snapshot_row(snapshot)));
        let rest = [
            (&report.transfers, "a snapshot being received; goes on or is removed"),
            (&report.leftovers, "left behind by a write that was cut off; a start removes it"),
            (&report.others, "none of the node's; left alone"),
        ];
        for (files, state) in rest {
            for file in files {
                let mut row = vec![String::new(); 7];
                if let [name, bytes, .., last] = row.as_mut_slice() {
                    (*name, *bytes) = (file.name.clone(), file.bytes.to_string());
                    *last = state.into();
                }
                table.row(row);
            }
        }
        out.line("")?;
        table.write(out, true)
    }

    fn write_findings(&self, out: &mut Out) -> Result<(), Failure> {
        let findings = &self.report.findings;
        if findings.is_empty() {
            return Ok(());
        }
        let mut table =
            Table::new(&[Column::Left("BROKEN"), Column::Right("BYTE"), Column::Left("WHAT")]);
        for finding in findings.iter().take(SHOWN_MAX) {
            table.row(vec![finding.file.clone(), or_nothing(finding.offset), finding.what.clone()]);
        }
        out.line("")?;
        table.write(out, true)?;
        if findings.len() > SHOWN_MAX {
            out.line(&format!("and {} more: --json has them all", findings.len() - SHOWN_MAX))?;
        }
        Ok(())
    }

    fn verdict(&self) -> &'static str {
        if self.report.is_healthy() { "HEALTHY" } else { "DAMAGED" }
    }

    /// Says what to do, in words for the one who has to.
    fn advice(&self) -> String {
        let node = self.report.identity.map_or("N".into(), |identity| identity.node.to_string());
        let heal = format!(
            "keep a copy of the directory, and start the node with `raftq node --id {node} ... --data {} --heal` \
             while a majority of the other nodes is whole: it takes the data back from them, and does not vote before \
             it has all of it",
            plain(&self.path.display().to_string())
        );
        match self.report.advice {
            Advice::Nothing => "nothing is broken, and nothing is to be done.".into(),
            Advice::CutTorn => {
                let mut text = String::from(
                    "nothing that was acknowledged is broken. The last write was cut off; start the node, and it \
                     cuts the torn end:",
                );
                for (file, at) in self.report.torn() {
                    write!(text, " {file} behind byte {at}.").ok();
                }
                text
            }
            Advice::StartWithout => format!(
                "a snapshot is damaged, and the node does not need it: another one and the log behind it are whole. \
                 {} The next snapshots take its place.",
                "Start the node as usual."
            ),
            Advice::Heal => format!(
                "synced data cannot be read, and a node must not vote on it; started as usual, it refuses. What to do: {heal}."
            ),
            Advice::RestoreFiles => format!(
                "files of the node are missing; started as usual, it refuses. If somebody moved them, move them back. \
                 Else {heal}."
            ),
            Advice::RestoreIdentity => "without its identity the node knows neither itself nor its votes, and the log \
                 cannot be checked; it refuses to start. Put the file `identity` of this very directory back, if there \
                 is a copy. Else keep the directory for a look, and let the other nodes go on: they have a quorum \
                 without this one."
                .into(),
            Advice::OtherVersion => {
                "another version of raftq wrote this directory: use that one to look at it and to run it.".into()
            }
        }
    }

    fn shape(&self) -> DoctorShape<'_> {
        let report = self.report;
        let log = &report.log;
        let files = |files: &[crate::storage::doctor::Named]| {
            files
                .iter()
                .map(|file| FileShape { file: file.name.clone(), bytes: Number(file.bytes) })
                .collect()
        };
        DoctorShape {
            data: self.path.display().to_string(),
            healthy: report.is_healthy(),
            starts: report.starts,
            torn: report.torn().next().is_some(),
            running: self.is_running,
            node: report.identity.map(|identity| Number(identity.node.0)),
            dir: report.identity.map(|identity| identity.dir.to_string()),
            begun: report.identity.map(|identity| identity.begun),
            first_index: report.first_index.map(|index| Number(index.0)),
            last_index: Number(log.last_index.0),
            term: Number(log.hard_state.term.0),
            voted_for: log.hard_state.vote.map(|id| Number(id.0)),
            commit_index: Number(log.commit_index.0),
            segments: log.segments.iter().map(SegmentShape::from).collect(),
            snapshots: report.snapshots.iter().map(SnapshotShape::from).collect(),
            transfers: files(&report.transfers),
            leftovers: files(&report.leftovers),
            others: files(&report.others),
            broken: report.findings.iter().map(BrokenShape::from).collect(),
            advice: advice_name(report.advice),
            advice_text: self.advice(),
        }
    }
}

fn segment_row(segment: &Segment) -> Vec<String> {
    let (entries, terms) = match segment.entries {
        None => (String::new(), String::new()),
        Some((first, last)) => {
            (format!("{}-{}", first.index, last.index), format!("{}-{}", first.term, last.term))
        }
    };
    vec![
        segment_name(segment.number),
        segment.bytes.to_string(),
        segment.used_bytes.to_string(),
        segment.records.to_string(),
        entries,
        terms,
        match segment.state {
            SegmentState::Torn => format!("whole up to a torn end at {}", segment.used_bytes),
            SegmentState::Spare => "blank: prepared for later".into(),
            SegmentState::Unchecked => "not checked: that needs the identity".into(),
            SegmentState::Whole | SegmentState::Damaged => state_name(segment.state).into(),
        },
    ]
}

fn snapshot_row(snapshot: &SnapshotView) -> Vec<String> {
    vec![
        snapshot.name.clone(),
        snapshot.bytes.to_string(),
        snapshot.bytes.to_string(),
        or_nothing(snapshot.records),
        format!("up to {}", snapshot.index),
        or_nothing(snapshot.term),
        if snapshot.records.is_some() { "whole" } else { "damaged" }.into(),
    ]
}

fn state_name(state: SegmentState) -> &'static str {
    match state {
        SegmentState::Whole => "whole",
        SegmentState::Torn => "torn",
        SegmentState::Spare => "blank",
        SegmentState::Damaged => "damaged",
        SegmentState::Unchecked => "unchecked",
    }
}

fn advice_name(advice: Advice) -> &'static str {
    match advice {
        Advice::Nothing => "nothing",
        Advice::CutTorn => "start",
        Advice::StartWithout => "start-without-snapshot",
        Advice::Heal => "heal",
        Advice::RestoreFiles => "restore-files",
        Advice::RestoreIdentity => "restore-identity",
        Advice::OtherVersion => "other-version",
    }
}

/// The object of `doctor`.
#[derive(Serialize)]
struct DoctorShape<'a> {
    data: String,
    healthy: bool,
    starts: bool,
    torn: bool,
    running: Option<bool>,
    node: Option<Number>,
    dir: Option<String>,
    begun: Option<bool>,
    first_index: Option<Number>,
    last_index: Number,
    term: Number,
    voted_for: Option<Number>,
    commit_index: Number,
    segments: Vec<SegmentShape>,
    snapshots: Vec<SnapshotShape<'a>>,
    transfers: Vec<FileShape>,
    leftovers: Vec<FileShape>,
    others: Vec<FileShape>,
    broken: Vec<BrokenShape<'a>>,
    advice: &'static str,
    advice_text: String,
}

#[derive(Serialize)]
struct SegmentShape {
    file: String,
    bytes: Number,
    used_bytes: Number,
    records: Number,
    first_index: Option<Number>,
    last_index: Option<Number>,
    first_term: Option<Number>,
    last_term: Option<Number>,
    state: &'static str,
}

impl From<&Segment> for SegmentShape {
    fn from(segment: &Segment) -> Self {
        let (first, last) = segment.entries.unzip();
        Self {
            file: segment_name(segment.number),
            bytes: Number(segment.bytes),
            used_bytes: Number(segment.used_bytes),
            records: Number(segment.records),
            first_index: first.map(|mark| Number(mark.index.0)),
            last_index: last.map(|mark| Number(mark.index.0)),
            first_term: first.map(|mark| Number(mark.term.0)),
            last_term: last.map(|mark| Number(mark.term.0)),
            state: state_name(segment.state),
        }
    }
}

#[derive(Serialize)]
struct SnapshotShape<'a> {
    file: &'a str,
    bytes: Number,
    index: Number,
    term: Option<Number>,
    records: Option<Number>,
    state: &'static str,
}

impl<'a> From<&'a SnapshotView> for SnapshotShape<'a> {
    fn from(snapshot: &'a SnapshotView) -> Self {
        Self {
            file: &snapshot.name,
            bytes: Number(snapshot.bytes),
            index: Number(snapshot.index.0),
            term: snapshot.term.map(|term| Number(term.0)),
            records: snapshot.records.map(Number),
            state: if snapshot.records.is_some() { "whole" } else { "damaged" },
        }
    }
}

#[derive(Serialize)]
struct FileShape {
    file: String,
    bytes: Number,
}

#[derive(Serialize)]
struct BrokenShape<'a> {
    file: &'a str,
    byte: Option<Number>,
    what: &'a str,
}

impl<'a> From<&'a Finding> for BrokenShape<'a> {
    fn from(finding: &'a Finding) -> Self {
        Self { file: &finding.file, byte: finding.offset.map(Number), what: &finding.what }
    }
}

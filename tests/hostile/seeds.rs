//! The seeds of the fuzz corpus, made by the code itself and by the vectors of the wire.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use raftq::jobs::codec;
use raftq::jobs::command::{
    AddCron, Command, CronFire, Limits, Pair, Registration, Release, Stamped, StatusUpdate,
};
use raftq::jobs::cron::{CronChange, Missed, NewCron};
use raftq::jobs::intake::{Intake, ProgressReport};
use raftq::jobs::job::{Body, NewJob, Serves, Verdict};
use raftq::jobs::machine::Machine;
use raftq::jobs::options::{Options as Asked, Tags};
use raftq::jobs::rules::{QueueChange, Rate};
use raftq::raft::configuration;
use raftq::raft::effects::Persist;
use raftq::raft::message::{Configuration, Entry, EntryKind, HardState, SnapshotMeta, Voter};
use raftq::storage::disk::{Disk, DiskFile};
use raftq::storage::identity;
use raftq::storage::log::{MakeNow, Options, segment_name};
use raftq::storage::memory::Memory;
use raftq::storage::recover::recover;
use raftq::storage::snapshot::Snapshots;
use raftq::types::{
    ClusterId, CronName, DirId, Fence, Incarnation, Index, JobId, Millis, NodeId, QueueName, Tag,
    Term, WorkerId,
};
use raftq::wire::frame::{Frame, FrameCodec, HEADER_BYTES, PREAMBLE};
use raftq::wire::hello::Reject;
use raftq::wire::hello::{Hello, PeerHello, Role, Welcome};
use raftq::wire::kind;
use raftq::wire::message::{Code, LeaderHint, Refusal, Reply};
use serde_json::Value;
use tokio_util::codec::Encoder;

use crate::entry::SALT;

/// The seeds of one target by name.
type Seeds = BTreeMap<String, Vec<u8>>;

/// Makes the seeds of every target; the same in every run.
pub(crate) fn all() -> BTreeMap<&'static str, Seeds> {
    let mut all: BTreeMap<&'static str, Seeds> = BTreeMap::new();
    from_vectors(&mut all);
    handshakes(all.entry("handshake").or_default());
    claims(all.entry("request").or_default());
    replies(all.entry("reply").or_default());
    let commands = commands();
    for (name, command) in &commands {
        let bytes =
            codec::encode(&Stamped { now: Millis(1_700_000_000_123), command: command.clone() });
        all.entry("command").or_default().insert((*name).into(), bytes.to_vec());
    }
    all.entry("configuration")
        .or_default()
        .insert("three".into(), configuration::encode(&voters()).to_vec());
    peer_lists(all.entry("peers").or_default());
    texts(&mut all);
    let machine = machine(&commands);
    all.entry("image").or_default().insert("whole".into(), image(&machine));
    all.entry("image").or_default().insert("empty".into(), image(&Machine::new()));
    all.entry("snapshot").or_default().insert("whole".into(), snapshot(&machine));
    all.entry("identity").or_default().insert("fresh".into(), identity_file());
    logs(all.entry("log").or_default(), &commands);
    all
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let pairs = (0..text.len()).step_by(2);
    pairs.map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("digits")).collect()
}

/// Takes a name that a file may have.
fn file_name(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    text.chars().take(60).map(plain).collect()
}

/// A frame as the decoders' targets take it: which kind of its family, flags, body.
fn decoder_input(frame: &[u8], family: fn(u8) -> bool) -> Option<Vec<u8>> {
    let (head, body) = frame.split_at_checked(HEADER_BYTES)?;
    let mut known = kind::ALL.iter().map(|(kind, _)| *kind).filter(|kind| family(*kind));
    let (number, flags) = match known.position(|kind| kind == head[4]) {
        Some(place) => (u8::try_from(place).unwrap(), head[5] & 0x01),
        None => (head[4], 0x80 | head[5] & 0x01),
    };
    Some([&[number, flags], body].concat())
}

fn from_vectors(all: &mut BTreeMap<&'static str, Seeds>) {
    let vectors: Vec<Value> = serde_json::from_str(include_str!("../wire/vectors.json")).unwrap();
    for vector in &vectors {
        let field = |key: &str| vector.get(key).and_then(Value::as_str).unwrap_or_default();
        let (name, bytes) = (file_name(field("name")), unhex(field("hex")));
        let family: Option<(&str, fn(u8) -> bool)> = match field("role") {
            "client" => Some(("request", kind::is_request)),
            "reply" => Some(("reply", kind::is_reply)),
            "raft" => Some(("peer", kind::is_peer)),
            "bulk" => Some(("bulk", kind::is_bulk)),
            _ => None,
        };
        match family {
            Some((target, family)) => {
                if let Some(input) = decoder_input(&bytes, family).filter(|it| it.len() < 2000) {
                    all.entry(target).or_default().insert(name.clone(), input);
                }
            }
            None => {
                let input = [&[0][..], &PREAMBLE, &bytes].concat();
                all.entry("handshake").or_default().insert(name.clone(), input);
            }
        }
        if let Some(body) = bytes.get(HEADER_BYTES..).filter(|body| body.len() > 40) {
            all.entry("pack").or_default().insert(name.clone(), body.to_vec());
        }
        if field("must") != "accept" || name.len() > 30 {
            all.entry("frame").or_default().insert(name, [&[0, 9], bytes.as_slice()].concat());
        }
    }
    let mut good = vec![1, 40];
    for vector in vectors.iter().filter(|vector| vector["must"] == "accept").take(12) {
        good.extend(unhex(vector["hex"].as_str().unwrap()));
    }
    all.entry("frame").or_default().insert("a-dozen-in-one-stream".into(), good);
}

fn wire(frame: &Frame) -> Vec<u8> {
    let mut out = BytesMut::new();
    FrameCodec::new(1 << 20).encode(frame, &mut out).unwrap();
    out.to_vec()
}

fn handshakes(seeds: &mut Seeds) {
    let peer = PeerHello {
        node: NodeId(2),
        dir: DirId([2; 16]),
        expects: NodeId(1),
        peers_crc: 0x0102_0304,
    };
    let of_peer =
        |role| Hello { role, peer: Some(peer.clone()), ..Hello::client("raftq-node/0.1") };
    let leader = LeaderHint { id: NodeId(2), addr: "127.0.0.1:7102".into(), term: Term(3) };
    let welcome = Welcome {
        version: 1,
        cluster: ClusterId([9; 16]),
        node: NodeId(2),
        dir: DirId([2; 16]),
        leader: Some(leader),
        nodes: (1..=3).map(|id| (NodeId(id), format!("127.0.0.1:710{id}"))).collect(),
        frame_bytes_max: 4 << 20,
        in_flight_max: 4096,
    };
    let reject = Reject::new(Code::FailedPrecondition, "the peer lists differ");
    let frames = [
        ("client", Hello::client("someone/1").to_frame(1)),
        ("node", of_peer(Role::Raft).to_frame(0)),
        ("node-of-bulk", of_peer(Role::Bulk).to_frame(0)),
        ("welcome", welcome.to_frame(1)),
        ("reject", reject.to_frame(0)),
    ];
    for (name, frame) in frames {
        for how in [1, 3] {
            let input = [&[how][..], &PREAMBLE, &wire(&frame)].concat();
            seeds.insert(format!("{name}-{how}"), input);
        }
    }
}

/// Requests that would take much memory if a count, or a text in a wrong place, were believed.
fn claims(seeds: &mut Seeds) {
    let mut input = |name: &str, kind: u8, body: &[u8]| {
        let frame = Frame::new(kind, 1, body.to_vec().into());
        let input = decoder_input(&wire(&frame), kind::is_request).unwrap();
        seeds.insert(name.into(), input);
    };
    let mut ids = b"\x81\xa3ids\xdc\x1b\x59\xc4\x10".to_vec();
    ids.extend([7; 16]);
    ids.resize(ids.len() + 7000, 0);
    input("one-id-and-thousands-of-zeroes", kind::CANCEL_JOBS, &ids);
    let mut limit = b"\x81\xa5limit\xda\x1f\x40".to_vec();
    limit.resize(limit.len() + 8000, 1);
    input("long-text-where-a-number-belongs", kind::LIST_JOBS, &limit);
}

fn replies(seeds: &mut Seeds) {
    let refusal = || Refusal::exhausted("wait a moment", 20);
    let replies = [
        ("refused", Reply::Refused(refusal())),
        ("updated", Reply::Updated(vec![Ok(()), Err(refusal()), Ok(())])),
        ("waited", Reply::Waited(vec![Err(Refusal::not_found("no such job"))])),
    ];
    for (name, reply) in replies {
        let input = decoder_input(&wire(&reply.to_frame(7)), kind::is_reply).unwrap();
        seeds.insert(name.into(), input);
    }
}

fn id(number: u64) -> JobId {
    JobId::new(Millis(1_700_000_000_000 + number), number.into())
}

fn worker(name: &str) -> WorkerId {
    WorkerId::new(name).unwrap()
}

fn job(number: u64, queue: &str, body: Body) -> NewJob {
    NewJob { id: id(number), queue: QueueName::new(queue).unwrap(), body, options: None }
}

fn update(number: u64, fence: Fence, completed: bool) -> StatusUpdate {
    let verdict = Verdict {
        completed,
        exit_code: Some(i32::from(!completed)),
        output: Bytes::from_static(b"said\n"),
        output_cut: false,
        error: (!completed).then(|| "exit code 1".into()),
    };
    StatusUpdate { job: id(number), fence, verdict }
}

/// One command of every kind, in an order in which each does something.
fn commands() -> Vec<(&'static str, Command)> {
    let words = |words: &[&str]| Body::Command(words.iter().map(ToString::to_string).collect());
    let start = Incarnation(7);
    let register = |name: &str, serves| Registration {
        worker: worker(name),
        incarnation: start,
        slots: 4,
        serves,
        gave_up: None,
        tags: Tags::default(),
    };
    let pair =
        |number, name: &str| Pair { job: id(number), worker: worker(name), incarnation: start };
    let serves = Serves::Payloads(vec![QueueName::new("mail").unwrap()]);
    let asked = Asked {
        priority: 9,
        delay_ms: Some(60_000),
        ttl_ms: Some(120_000),
        timeout_ms: Some(1_000),
        retries: 3,
        tags: Tags::new([Tag::new("gpu").unwrap()]),
        ..Asked::default()
    };
    let change = |change| Command::ChangeQueue(QueueName::new("slow").unwrap(), change);
    let mut all = vec![
        ("limits", Command::SetLimits(Limits { finished_count_max: 1, ..Limits::default() })),
        (
            "submit",
            Command::SubmitJob(vec![
                job(1, "default", words(&["echo", "hello"])),
                job(2, "default", words(&["true"])),
                job(3, "mail", Body::Payload(Bytes::from_static(b"\0\xff"))),
                job(4, "default", words(&["false"])),
                job(5, "default", words(&["sleep", "1"])),
            ]),
        ),
        ("register", Command::RegisterWorker(register("node-1", Serves::Commands))),
        ("register-of-payloads", Command::RegisterWorker(register("mailer", serves))),
        (
            "assign",
            Command::AssignJob(vec![
                pair(1, "node-1"),
                pair(2, "node-1"),
                pair(3, "mailer"),
                pair(4, "node-1"),
            ]),
        ),
        ("update", Command::UpdateJobStatus(update(1, Fence::new(Index(5), 0), true))),
        ("updates", Command::BatchUpdateJobStatus(vec![update(4, Fence::new(Index(5), 3), false)])),
        ("cancel", Command::CancelJob(vec![id(5), id(99)])),
        (
            "release",
            Command::ReleaseJob(Release {
                worker: worker("mailer"),
                incarnation: start,
                jobs: vec![(id(3), Fence::new(Index(5), 2))],
                leaving: true,
            }),
        ),
        ("lost", Command::WorkerLost(vec![(worker("other"), start)])),
        (
            "submit-that-asks",
            Command::SubmitJob(vec![
                NewJob { options: Asked::shared(asked), ..job(6, "slow", words(&["true"])) },
                job(7, "slow", words(&["true"])),
            ]),
        ),
        ("queue-limit", change(QueueChange::Limit(Some(1)))),
        ("queue-rate", change(QueueChange::Rate(Some(Rate { count: 1, per_ms: 60_000 })))),
        ("queue-drain", change(QueueChange::Drain)),
        ("tick", Command::Tick),
        ("assign-of-a-rated-queue", Command::AssignJob(vec![pair(7, "node-1")])),
        ("retry", Command::RetryJob(vec![id(4), id(1)])),
        ("purge", Command::PurgeJob(vec![id(98)])),
        ("worker-quiet", Command::ChangeWorker(worker("node-1"), Intake::Quiet)),
        (
            "progress",
            Command::ReportProgress(ProgressReport {
                job: id(7),
                fence: Fence::new(Index(16), 0),
                percent: 40,
                note: "two of five".into(),
            }),
        ),
    ];
    all.extend(cron_commands(all.len() as u64 + 1));
    all
}

/// The same of crons; `first` is the entry of the first of these.
fn cron_commands(first: u64) -> Vec<(&'static str, Command)> {
    let beat = || CronName::new("beat").unwrap();
    let cron = |name: &str| NewCron {
        name: CronName::new(name).unwrap(),
        spec: "*/5 8-18 * jan,jul mon-fri".into(),
        tz: "Europe/Berlin".into(),
        missed: Missed::All,
        queue: QueueName::new("slow").unwrap(),
        body: Body::Command(vec!["true".into()]),
        options: Asked::shared(Asked { retries: 1, ..Asked::default() }),
    };
    // The slot is the time of the second of these; the cron is the first.
    let slot_ms = Millis(1_700_000_000_000 + (first + 1) * 10);
    let next_ms = Some(slot_ms);
    let (created, after) = (Index(first), Some(Millis(1_700_000_300_000)));
    let fire = CronFire { name: beat(), created, slot_ms, next_ms: after };
    vec![
        ("cron-add", Command::AddCron(AddCron { cron: Arc::new(cron("beat")), next_ms })),
        ("cron-add-another", Command::AddCron(AddCron { cron: Arc::new(cron("rest")), next_ms })),
        ("cron-fire", Command::FireCron(vec![fire])),
        ("cron-pause", Command::ChangeCron(beat(), CronChange::Pause, None)),
        ("cron-trigger", Command::ChangeCron(beat(), CronChange::Trigger(id(97)), None)),
    ]
}

fn machine(commands: &[(&'static str, Command)]) -> Machine {
    let mut machine = Machine::new();
    for (index, (_, command)) in (1..).zip(commands) {
        let now = Millis(1_700_000_000_000 + index * 10);
        machine.apply(Index(index), &Stamped { now, command: command.clone() });
    }
    let counts = machine.counts();
    assert!(counts.pending > 0 && counts.running > 0 && counts.forgotten > 0, "{counts:?}");
    assert_eq!(machine.crons().len(), 2, "crons are in the image");
    machine
}

fn image(machine: &Machine) -> Vec<u8> {
    let framed = |record: Vec<u8>| {
        let length = u16::try_from(record.len()).unwrap().to_le_bytes();
        [&length[..], &record].concat()
    };
    machine.records().flat_map(framed).collect()
}

fn voters() -> Configuration {
    let voter = |id: u8| Voter {
        id: NodeId(id.into()),
        addr: format!("127.0.0.1:710{id}"),
        dir: (id < 3).then_some(DirId([id; 16])),
    };
    Configuration { cluster: ClusterId([9; 16]), voters: (1..=3).map(voter).collect() }
}

fn meta() -> SnapshotMeta {
    SnapshotMeta { index: Index(10), term: Term(2), configuration: voters() }
}

fn read_all(disk: &Memory, name: &str) -> Vec<u8> {
    let file = disk.open(name).unwrap();
    let mut bytes = vec![0; usize::try_from(file.size().unwrap()).unwrap()];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
    bytes
}

fn snapshot(machine: &Machine) -> Vec<u8> {
    let disk = Memory::default();
    let snapshots = Snapshots::open(&disk).unwrap();
    let records: Vec<Vec<u8>> = machine.records().collect();
    let source = Box::new(move |push: &mut dyn FnMut(&[u8]) -> bool| {
        assert!(records.iter().all(|record| push(record)));
    });
    snapshots.write(&meta(), source).unwrap();
    let name = disk.list().unwrap().into_iter().find(|name| name.starts_with("snap-")).unwrap();
    let mut bytes = read_all(&disk, &name);
    // The id is drawn anew each time, and the checksums with it: the target mends those.
    bytes[8..24].fill(7);
    bytes[32..36].fill(0);
    let end = bytes.len();
    bytes[end - 4..].fill(0);
    [&[1], bytes.as_slice()].concat()
}

fn identity_file() -> Vec<u8> {
    let disk = Memory::default();
    identity::make(&disk, NodeId(3)).unwrap();
    let mut bytes = read_all(&disk, "identity");
    // What is drawn by lot is made the same.
    let body = String::from_utf8_lossy(&bytes[4..]).into_owned();
    assert!(body.contains("salt") && body.contains("begun"));
    let at =
        |word: &[u8]| bytes.windows(word.len()).position(|it| it == word).unwrap() + word.len();
    let (dir, salt, begun) = (at(b"\xa3dir"), at(b"\xa4salt"), at(b"\xa5begun"));
    bytes[dir + 2..dir + 18].fill(5);
    let tail = bytes[begun - 6..].to_vec();
    bytes.truncate(salt);
    bytes.push(7);
    bytes.extend(tail);
    bytes[..4].fill(0);
    [&[1], bytes.as_slice()].concat()
}

fn entry(index: u64, term: u64, kind: EntryKind, data: Bytes) -> Entry {
    Entry { index: Index(index), term: Term(term), kind, data }
}

fn logs(seeds: &mut Seeds, commands: &[(&'static str, Command)]) {
    let disk = Memory::default();
    let options = Options { segment_bytes: 1000, log_keep_bytes: 0 };
    let mut log = recover(&disk, SALT, &options).unwrap().log;
    let mut write = |batch: &Persist| {
        let mut segments = MakeNow { disk: &disk, bytes: options.segment_bytes };
        log.append(batch, &mut segments).unwrap();
    };
    let hard = |term| Some(HardState { term: Term(term), vote: Some(NodeId(1)) });
    let first = vec![
        entry(1, 1, EntryKind::Noop, Bytes::new()),
        entry(2, 1, EntryKind::Configuration, configuration::encode(&voters())),
    ];
    write(&Persist { seq: 1, hard_state: hard(1), entries: first, ..Persist::default() });
    for (index, (_, command)) in (3..).zip(commands) {
        let data = codec::encode(&Stamped { now: Millis(index), command: command.clone() });
        let entries = vec![entry(index, 1, EntryKind::Command, data)];
        write(&Persist { seq: index, entries, ..Persist::default() });
    }
    let other = vec![entry(9, 2, EntryKind::Noop, Bytes::new())];
    write(&Persist { seq: 20, hard_state: hard(2), entries: other, ..Persist::default() });
    let parts: Vec<Vec<u8>> = (0..2).map(|number| read_all(&disk, &segment_name(number))).collect();
    seeds.insert("one-segment".into(), [&[0, 0], parts[0].as_slice()].concat());
    seeds.insert("one-segment-mended".into(), [&[1, 0], parts[0].as_slice()].concat());
    for how in [2, 3] {
        let cut = parts[0].len() * 256 / (parts[0].len() + parts[1].len());
        // The cut falls on a 256th: blank bytes before it make it fall between the two.
        let mut both = parts[0].clone();
        let total = (1..4000).find(|extra| {
            let total = both.len() + extra + parts[1].len();
            total * cut / 256 == both.len() + extra
        });
        both.resize(both.len() + total.unwrap_or(0), 0);
        let input = [&[how, u8::try_from(cut).unwrap()], both.as_slice(), &parts[1]].concat();
        seeds.insert(format!("two-segments-{how}"), input);
    }
}

fn peer_lists(seeds: &mut Seeds) {
    let texts = [
        "1=127.0.0.1:7101,2=127.0.0.1:7102,3=127.0.0.1:7103",
        "1=[::1]:7101, 2=host-2.example:65535,",
        "18446744073709551615=a:1",
        "1=a:1,1=b:2",
        "0=a:0",
    ];
    for (number, text) in texts.iter().enumerate() {
        seeds.insert(format!("list-{number}"), text.as_bytes().to_vec());
    }
}

fn texts(all: &mut BTreeMap<&'static str, Seeds>) {
    let lines = [
        "status\n",
        "\r\n\r\nshell\r\nnodes\nquit\n",
        "jobs queue=mail status=running limit=50\njobs state=dead\njobs limit=1 limit=2\n",
        "job 0192f3a07c6e4b1d8f00a1b2c3d4e5f6\nlog from=18446744073709551616 limit=5\n",
        "\u{ff}help jobs\nstaus\nhelp wrokers\nm\n",
        "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\nstatus\n",
        "jobs \u{202e}queue=\u{1f600}\n",
    ];
    for (number, text) in lines.iter().enumerate() {
        let bytes = text.replace('\u{ff}', "").into_bytes();
        let telnet: &[u8] = if text.contains('\u{ff}') { b"\xff\xfd\x03" } else { b"" };
        let input = [&[2], telnet, bytes.as_slice()].concat();
        all.entry("text").or_default().insert(format!("lines-{number}"), input);
    }
    let heads = [
        "GET /metrics?x=1 HTTP/1.1\r\nHost: 127.0.0.1:7101\r\nAccept: */*\r\n\r\n",
        "HEAD /healthz HTTP/1.0\n\n",
        "POST /readyz HTTP/1.1\r\nContent-Length: 4\r\n\r\nabcd",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "CONNECT a:1 HTTP/1.1\r\n\r\n",
        "GET  / HTTP/1.1\r\n\r\n",
    ];
    for (number, text) in heads.iter().enumerate() {
        all.entry("http").or_default().insert(format!("head-{number}"), text.as_bytes().to_vec());
    }
}

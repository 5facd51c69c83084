//! What the tests of the wire share: one message of each kind.

#[path = "seeing.rs"]
mod seeing;

use bytes::{Bytes, BytesMut};
use raftq::jobs::change::{Change, Event, Position, What};
use raftq::jobs::command::{Registration, Release, StatusUpdate};
use raftq::jobs::cron::{CronChange, CronView, Missed, NewCron};
use raftq::jobs::intake::{Intake, ProgressReport};
use raftq::jobs::job::{Assignment, AttemptView, Body, JobView, NewJob, Serves, Status, Verdict};
use raftq::jobs::options::{Options, Tags};
use raftq::jobs::rules::{QueueChange, Rate};
use raftq::raft::message::{
    AppendOutcome, Configuration, Entry, EntryKind, Message, SnapshotMeta, Voter,
};
use raftq::types::{
    ClusterId, CronName, DirId, Fence, Incarnation, Index, JobId, Millis, NodeId, QueueName, Tag,
    Term, UniqueKey, WorkerId,
};
use raftq::wire::bulk::BulkMessage;
use raftq::wire::crons::{CronAdded, CronChanged, CronFilter};
use raftq::wire::error::WireError;
use raftq::wire::frame::{Frame, FrameCodec};
use raftq::wire::hello::Reject;
use raftq::wire::hello::{Hello, PeerHello, Role, Welcome};
use raftq::wire::kind;
use raftq::wire::message::{
    ClusterStatus, Code, Filter, LeaderHint, LogLine, NodeStatus, QueueChanged, QueueFilter,
    QueueView, Refusal, Reply, Request, Submitted, Watch, Watched, Withdrawn, WorkerView,
};
use raftq::wire::peer::PeerMessage;
use tokio_util::codec::Encoder;

/// A message of any kind.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Any {
    Hello(Hello),
    Welcome(Welcome),
    Reject(Reject),
    Request(Request),
    Reply(Reply),
    Peer(PeerMessage),
    Bulk(BulkMessage),
}

impl Any {
    pub(crate) fn to_frame(&self, corr: u32) -> Frame {
        match self {
            Self::Hello(hello) => hello.to_frame(corr),
            Self::Welcome(welcome) => welcome.to_frame(corr),
            Self::Reject(reject) => reject.to_frame(corr),
            Self::Request(request) => request.to_frame(corr),
            Self::Reply(reply) => reply.to_frame(corr),
            Self::Peer(message) => message.to_frame(),
            Self::Bulk(message) => message.to_frame(),
        }
    }

    /// Reads a frame as whatever its kind says.
    pub(crate) fn from_frame(frame: &Frame) -> Result<Self, WireError> {
        match frame.kind {
            kind::HELLO => Hello::from_frame(frame).map(Self::Hello),
            kind::WELCOME => Welcome::from_frame(frame).map(Self::Welcome),
            kind::REJECT => Reject::from_frame(frame).map(Self::Reject),
            kind if kind::is_peer(kind) => PeerMessage::from_frame(frame).map(Self::Peer),
            kind if kind::is_bulk(kind) => BulkMessage::from_frame(frame).map(Self::Bulk),
            kind if kind::is_reply(kind) => Reply::from_frame(frame).map(Self::Reply),
            _ => Request::from_frame(frame).map(Self::Request),
        }
    }
}

/// Writes a frame as it is on the wire.
pub(crate) fn wire(frame: &Frame) -> Vec<u8> {
    let mut out = BytesMut::new();
    FrameCodec::new(usize::MAX >> 1).encode(frame, &mut out).expect("no limit");
    out.to_vec()
}

fn job() -> JobId {
    "0192f3a07c6e4b1d8f00a1b2c3d4e5f6".parse().expect("an id")
}

fn other_job() -> JobId {
    "0192f3a07c6f00112233445566778899".parse().expect("an id")
}

fn worker() -> WorkerId {
    WorkerId::new("mailer-7").expect("a name")
}

fn mail() -> QueueName {
    QueueName::new("mail").expect("a name")
}

fn echo() -> Body {
    Body::Command(vec!["echo".into(), "hello".into()])
}

fn payload() -> Body {
    Body::Payload(Bytes::from_static(b"hi"))
}

fn hint() -> LeaderHint {
    LeaderHint { id: NodeId(2), addr: "127.0.0.1:7102".into(), term: Term(7) }
}

fn cluster() -> ClusterId {
    ClusterId([0xc1; 16])
}

fn dir() -> DirId {
    DirId([0xd1; 16])
}

fn view(id: JobId, status: Status) -> JobView {
    let ended = status.is_final();
    JobView {
        id,
        queue: QueueName::default(),
        status,
        attempt: 1,
        worker: Some(WorkerId::built_in(NodeId(3))),
        fence: Some(Fence(53_248)),
        exit_code: ended.then_some(0),
        output: if ended { Bytes::from_static(b"hello\n") } else { Bytes::new() },
        output_cut: false,
        error: None,
        created_ms: Millis(1_730_800_000_000),
        started_ms: Some(Millis(1_730_800_000_012)),
        finished_ms: ended.then_some(Millis(1_730_800_000_040)),
        options: None,
        held_ms: None,
        progress: None,
        past: Vec::new(),
        body: None,
    }
}

fn verdict(completed: bool) -> Verdict {
    Verdict {
        completed,
        exit_code: None,
        output: Bytes::from_static(b"sent"),
        output_cut: false,
        error: (!completed).then(|| "mailbox full".into()),
    }
}

fn meta() -> SnapshotMeta {
    let voter = |id, dir| Voter { id: NodeId(id), addr: format!("127.0.0.1:710{id}"), dir };
    SnapshotMeta {
        index: Index(5000),
        term: Term(7),
        configuration: Configuration {
            cluster: cluster(),
            voters: vec![voter(1, Some(dir())), voter(2, None)],
        },
    }
}

fn raft(message: Message) -> Any {
    Any::Peer(PeerMessage {
        group: 0,
        wall_ms: Millis(1_730_800_000_000),
        applied_index: Index(12),
        digests: Vec::new(),
        message,
    })
}

/// One message of each kind, by the name under which `wire-spec.md` shows it, with its number.
pub(crate) fn samples() -> Vec<(&'static str, u32, Any)> {
    let mut samples = handshake();
    samples.extend(clients());
    samples.extend(queues());
    samples.extend(crons());
    samples.extend(seeing::samples());
    samples.extend(views());
    samples.extend(workers());
    samples.extend(sayings());
    samples.extend(peers());
    samples.extend(bulk());
    samples
}

fn handshake() -> Vec<(&'static str, u32, Any)> {
    let peer =
        PeerHello { node: NodeId(1), dir: dir(), expects: NodeId(2), peers_crc: 0x0123_4567 };
    let node = Hello {
        role: Role::Raft,
        peer: Some(peer),
        cluster: cluster(),
        ..Hello::client("raftq-node/0.1.0")
    };
    vec![
        ("HELLO of a client", 0, Any::Hello(Hello::client("raftq.py/1"))),
        ("HELLO of a node", 0, Any::Hello(node)),
        (
            "WELCOME",
            0,
            Any::Welcome(Welcome {
                version: 1,
                cluster: cluster(),
                node: NodeId(1),
                dir: dir(),
                leader: Some(hint()),
                nodes: vec![
                    (NodeId(1), "127.0.0.1:7101".into()),
                    (NodeId(2), "127.0.0.1:7102".into()),
                    (NodeId(3), "127.0.0.1:7103".into()),
                ],
                frame_bytes_max: 4_194_304,
                in_flight_max: 4096,
            }),
        ),
        (
            "REJECT",
            0,
            Any::Reject(Reject::new(Code::FailedPrecondition, "this node speaks version 1")),
        ),
    ]
}

fn clients() -> Vec<(&'static str, u32, Any)> {
    let refused = |refusal| Any::Reply(Reply::Refused(refusal));
    let over = Refusal {
        incarnation: Some(Incarnation(9_007_199_255_740_993)),
        ..Refusal::failed_precondition("this start is over")
    };
    let new = |id, queue, body| NewJob { id, queue, body, options: None };
    let filter = Filter { status: Some(Status::Running), limit: 2, ..Filter::default() };
    vec![
        ("PING", 7, Any::Request(Request::Ping)),
        ("PONG", 7, Any::Reply(Reply::Pong)),
        ("REFUSED: NOT_LEADER", 1, refused(Refusal::not_leader(hint()))),
        ("REFUSED: RESOURCE_EXHAUSTED", 1, refused(Refusal::exhausted("the queue is full", 20))),
        ("REFUSED: DEADLINE_EXCEEDED", 1, refused(Refusal::deadline_exceeded())),
        ("REFUSED: FAILED_PRECONDITION", 20, refused(over)),
        (
            "SUBMIT_JOB of a command",
            1,
            Any::Request(Request::SubmitJob(new(job(), QueueName::default(), echo()))),
        ),
        (
            "SUBMIT_JOB of a payload",
            2,
            Any::Request(Request::SubmitJob(new(other_job(), mail(), payload()))),
        ),
        (
            "SUBMIT_JOB with options",
            40,
            Any::Request(Request::SubmitJob(NewJob {
                options: Options::shared(asked()),
                ..new(other_job(), mail(), payload())
            })),
        ),
        ("SUBMITTED", 1, Any::Reply(Reply::Submitted(Submitted { id: job(), created: true }))),
        (
            "SUBMIT_BATCH",
            3,
            Any::Request(Request::SubmitBatch(vec![
                new(job(), QueueName::default(), echo()),
                new(other_job(), mail(), payload()),
            ])),
        ),
        (
            "SUBMITTED_BATCH",
            3,
            Any::Reply(Reply::SubmittedBatch(vec![
                Ok(Submitted { id: job(), created: false }),
                Err(Refusal::new(Code::AlreadyExists, "other content")),
            ])),
        ),
        ("GET_JOB", 4, Any::Request(Request::GetJob { id: job() })),
        (
            "JOB",
            4,
            Any::Reply(Reply::Job(Box::new(JobView {
                body: Some(echo()),
                ..view(job(), Status::Completed)
            }))),
        ),
        ("LIST_JOBS", 5, Any::Request(Request::ListJobs(Box::new(filter)))),
        (
            "JOBS",
            5,
            Any::Reply(Reply::Jobs {
                jobs: vec![view(job(), Status::Running)],
                more: false,
                after: None,
            }),
        ),
        (
            "WAIT_JOBS",
            6,
            Any::Request(Request::WaitJobs { ids: vec![job(), other_job()], wait_ms: 10_000 }),
        ),
        (
            "WAITED",
            6,
            Any::Reply(Reply::Waited(vec![
                Ok(view(job(), Status::Completed)),
                Err(Refusal::not_found("no such job")),
            ])),
        ),
        ("CANCEL_JOBS", 8, Any::Request(Request::CancelJobs { ids: vec![job(), other_job()] })),
        (
            "CANCELLED",
            8,
            Any::Reply(Reply::Cancelled(vec![
                Ok(Status::Cancelled),
                Err(Refusal::failed_precondition("it had completed already")),
            ])),
        ),
    ]
}

/// What a job may ask for.
fn asked() -> Options {
    Options {
        priority: 9,
        delay_ms: Some(60_000),
        timeout_ms: Some(30_000),
        retries: 3,
        tags: Tags::new(["gpu", "zone=a"].map(|tag| Tag::new(tag).expect("a tag"))),
        ..Options::default()
    }
}

fn queues() -> Vec<(&'static str, u32, Any)> {
    let held = JobView {
        queue: mail(),
        attempt: 2,
        exit_code: None,
        options: Options::shared(asked()),
        held_ms: Some(Millis(1_730_800_001_100)),
        past: vec![AttemptView {
            attempt: 1,
            worker: Some(WorkerId::new("mailer-7").expect("a name")),
            fence: Fence(53_248),
            started_ms: Millis(1_730_800_000_012),
            ended_ms: Millis(1_730_800_000_040),
            exit_code: None,
            error: "mailbox full".into(),
        }],
        body: Some(payload()),
        ..view(other_job(), Status::Pending)
    };
    let queue = QueueView {
        name: mail(),
        pending: 3,
        held: 1,
        running: 2,
        completed: 40,
        failed: 1,
        cancelled: 0,
        paused_ms: Some(Millis(1_730_800_000_000)),
        draining_ms: None,
        limit: Some(2),
        rate: Some(Rate { count: 100, per_ms: 60_000 }),
    };
    let options = Options {
        unique: Some(UniqueKey::new("invoice 4711").expect("a key")),
        unique_for_ms: Some(60_000),
        ..Options::default()
    };
    let unique = NewJob {
        id: other_job(),
        queue: mail(),
        body: Body::Payload(Bytes::from_static(b"hi")),
        options: Options::shared(options),
    };
    let watch = Watch {
        after: Some(Position { index: Index(1042), n: 2 }),
        queue: Some(mail()),
        wait_ms: 20_000,
        ..Watch::default()
    };
    let next = Position { index: Index(1043), n: 0 };
    let filter = QueueFilter { after: Some(QueueName::default()), limit: 10 };
    let change = |change| Any::Request(Request::ChangeQueue { queue: mail(), change });
    let done = || vec![Ok(()), Err(Refusal::not_found("no such job (any more)"))];
    vec![
        ("JOB with past attempts", 41, Any::Reply(Reply::Job(Box::new(held)))),
        ("LIST_QUEUES", 42, Any::Request(Request::ListQueues(filter))),
        ("QUEUES", 42, Any::Reply(Reply::Queues { queues: vec![queue], more: false })),
        ("CHANGE_QUEUE to pause", 43, change(QueueChange::Pause)),
        ("CHANGE_QUEUE to limit", 44, change(QueueChange::Limit(Some(2)))),
        (
            "CHANGE_QUEUE to a rate",
            45,
            change(QueueChange::Rate(Some(Rate { count: 100, per_ms: 60_000 }))),
        ),
        (
            "QUEUE_CHANGED",
            43,
            Any::Reply(Reply::QueueChanged(QueueChanged { pending: 3, running: 2 })),
        ),
        ("RETRY_JOBS", 46, Any::Request(Request::RetryJobs { ids: vec![job(), other_job()] })),
        ("RETRIED", 46, Any::Reply(Reply::Retried(done()))),
        ("PURGE_JOBS", 47, Any::Request(Request::PurgeJobs { ids: vec![job(), other_job()] })),
        ("PURGED", 47, Any::Reply(Reply::Purged(done()))),
        ("SUBMIT_JOB that is unique", 49, Any::Request(Request::SubmitJob(unique))),
        ("WATCH", 48, Any::Request(Request::Watch(watch))),
        ("WATCHED", 48, Any::Reply(Reply::Watched(Watched { events: events(), next }))),
    ]
}

fn events() -> Vec<Event> {
    let event = |n, change| Event {
        position: Position { index: Index(1042), n },
        now_ms: Millis(1_730_800_000_000),
        change,
    };
    let of_job = |what| Change { job: Some(job()), queue: Some(mail()), ..Change::new(what) };
    let submitted = Change { priority: Some(5), ..of_job(What::Submitted) };
    let retrying = Change {
        attempt: Some(1),
        worker: Some(worker()),
        fence: Some(Fence(4_259_840)),
        exit_code: Some(7),
        error: Some("exit code 7".into()),
        held_ms: Some(Millis(1_730_800_001_000)),
        ..of_job(What::Retrying)
    };
    let rule = Some(QueueChange::Limit(Some(2)));
    let ruled = Change { queue: Some(mail()), rule, ..Change::new(What::QueueChanged) };
    vec![event(3, submitted), event(4, retrying), event(5, ruled)]
}

fn crons() -> Vec<(&'static str, u32, Any)> {
    let name = || CronName::new("nightly").expect("a name");
    let new = NewCron {
        name: name(),
        spec: "30 2 * * mon-fri".into(),
        tz: "Europe/Berlin".into(),
        missed: Missed::Once,
        queue: mail(),
        body: payload(),
        options: Options::shared(Options { retries: 3, ..Options::default() }),
    };
    let view = CronView {
        name: name(),
        spec: new.spec.clone(),
        tz: new.tz.clone(),
        missed: new.missed,
        queue: mail(),
        created_ms: Millis(1_730_700_000_000),
        paused_ms: None,
        next_ms: Some(Millis(1_730_856_600_000)),
        last_slot_ms: Some(Millis(1_730_770_200_000)),
        last_job: Some(job()),
        last_error: None,
        fired: 17,
        skipped: 1,
        options: new.options.clone(),
        body: Some(payload()),
    };
    let next_ms = view.next_ms;
    let change = |change| Any::Request(Request::ChangeCron { name: name(), change });
    let filter = CronFilter { name: Some(name()), after: None, limit: 1 };
    vec![
        ("ADD_CRON", 48, Any::Request(Request::AddCron(Box::new(new)))),
        ("CRON_ADDED", 48, Any::Reply(Reply::CronAdded(CronAdded { created: true, next_ms }))),
        ("CHANGE_CRON to pause", 49, change(CronChange::Pause)),
        ("CHANGE_CRON to trigger", 50, change(CronChange::Trigger(job()))),
        (
            "CRON_CHANGED",
            50,
            Any::Reply(Reply::CronChanged(CronChanged { next_ms, job: Some(job()) })),
        ),
        ("LIST_CRONS", 51, Any::Request(Request::ListCrons(filter))),
        ("CRONS", 51, Any::Reply(Reply::Crons { crons: vec![view], more: false })),
    ]
}

fn views() -> Vec<(&'static str, u32, Any)> {
    vec![
        ("LIST_WORKERS", 9, Any::Request(Request::ListWorkers)),
        (
            "WORKERS",
            9,
            Any::Reply(Reply::Workers(vec![WorkerView {
                id: WorkerId::built_in(NodeId(3)),
                incarnation: Incarnation(81),
                serves: Serves::Commands,
                tags: Tags::default(),
                slots: 4,
                running: 1,
                state: "live".into(),
                registered_ms: Millis(1_730_800_000_000),
                intake: Intake::Open,
            }])),
        ),
        ("GET_CLUSTER_STATUS", 10, Any::Request(Request::GetClusterStatus { local: false })),
        (
            "CLUSTER_STATUS",
            10,
            Any::Reply(Reply::ClusterStatus(Box::new(ClusterStatus {
                cluster_id: cluster(),
                node: NodeId(2),
                from_leader: true,
                term: Term(7),
                leader: Some(NodeId(2)),
                commit_index: Index(130),
                nodes: vec![NodeStatus {
                    id: NodeId(1),
                    addr: "127.0.0.1:7101".into(),
                    role: "follower".into(),
                    is_alive: true,
                    match_index: Index(130),
                    applied_index: Index(129),
                    digest_index: Index(128),
                    digest: "00112233445566778899aabbccddeeff".into(),
                }],
            }))),
        ),
        ("LIST_LOG", 11, Any::Request(Request::ListLog { from: Index(120), limit: 1 })),
        (
            "LOG",
            11,
            Any::Reply(Reply::Log(vec![LogLine {
                index: Index(120),
                term: Term(7),
                kind: "SubmitJob".into(),
                bytes: 92,
                now_ms: Millis(1_730_800_000_000),
                summary: "1 job".into(),
            }])),
        ),
        (
            "TRANSFER_LEADERSHIP",
            12,
            Any::Request(Request::TransferLeadership { to: Some(NodeId(3)) }),
        ),
        ("TRANSFERRED", 12, Any::Reply(Reply::Transferred { to: NodeId(3) })),
    ]
}

fn sayings() -> Vec<(&'static str, u32, Any)> {
    vec![
        (
            "HEARTBEAT_ACK with news",
            21,
            Any::Reply(Reply::HeartbeatAck {
                term: Term(7),
                intake: Intake::Drain,
                withdrawn: vec![Withdrawn {
                    fence: Fence(53_248),
                    status: Some(Status::Cancelled),
                }],
            }),
        ),
        (
            "CHANGE_WORKER",
            48,
            Any::Request(Request::ChangeWorker { worker: worker(), intake: Intake::Quiet }),
        ),
        ("WORKER_CHANGED", 48, Any::Reply(Reply::WorkerChanged { running: 2 })),
        (
            "REPORT_PROGRESS",
            49,
            Any::Request(Request::ReportProgress(ProgressReport {
                job: job(),
                fence: Fence(53_248),
                percent: 40,
                note: "two of five".into(),
            })),
        ),
        ("PROGRESS_NOTED", 49, Any::Reply(Reply::ProgressNoted)),
    ]
}

fn workers() -> Vec<(&'static str, u32, Any)> {
    let incarnation = Incarnation(9_007_199_254_740_993);
    let update =
        |completed| StatusUpdate { job: job(), fence: Fence(53_248), verdict: verdict(completed) };
    vec![
        (
            "REGISTER_WORKER",
            20,
            Any::Request(Request::RegisterWorker(Registration {
                worker: worker(),
                incarnation,
                slots: 8,
                serves: Serves::Payloads(vec![mail()]),
                gave_up: Some(Incarnation(incarnation.0 - 2_000_000)),
                tags: Tags::default(),
            })),
        ),
        ("REGISTERED", 20, Any::Reply(Reply::Registered)),
        (
            "HEARTBEAT",
            21,
            Any::Request(Request::Heartbeat {
                worker: worker(),
                incarnation,
                draining: false,
                held: vec![(job(), Fence(53_248)), (other_job(), Fence(53_249))],
            }),
        ),
        (
            "HEARTBEAT_ACK",
            21,
            Any::Reply(Reply::HeartbeatAck {
                term: Term(7),
                intake: Intake::Open,
                withdrawn: Vec::new(),
            }),
        ),
        (
            "RESERVE",
            22,
            Any::Request(Request::Reserve {
                worker: worker(),
                incarnation,
                after: Fence(0),
                max: 8,
                wait_ms: 20_000,
            }),
        ),
        (
            "RESERVED",
            22,
            Any::Reply(Reply::Reserved(vec![Assignment {
                id: other_job(),
                queue: mail(),
                attempt: 1,
                fence: Fence(53_248),
                timeout_ms: None,
                body: payload(),
            }])),
        ),
        ("UPDATE_JOB_STATUS", 23, Any::Request(Request::UpdateJobStatus(update(true)))),
        (
            "UPDATED",
            23,
            Any::Reply(Reply::Updated(vec![Ok(()), Err(Refusal::stale_fence("node-3 has it"))])),
        ),
        (
            "BATCH_UPDATE_JOB_STATUS",
            24,
            Any::Request(Request::BatchUpdateJobStatus(vec![update(true), update(false)])),
        ),
        (
            "RELEASE_JOBS",
            25,
            Any::Request(Request::ReleaseJobs(Release {
                worker: worker(),
                incarnation,
                jobs: vec![(job(), Fence(53_248))],
                leaving: true,
            })),
        ),
        ("RELEASED", 25, Any::Reply(Reply::Released { count: 1 })),
    ]
}

fn peers() -> Vec<(&'static str, u32, Any)> {
    let (term, last_index, last_term) = (Term(8), Index(12), Term(7));
    let entry = |index, kind, data| Entry { index: Index(index), term: Term(7), kind, data };
    let append = Message::AppendEntries {
        term: Term(7),
        prev_index: Index(12),
        prev_term: Term(7),
        entries: vec![
            entry(13, EntryKind::Noop, Bytes::new()),
            entry(14, EntryKind::Command, Bytes::from_static(b"\x92\x01\x02")),
        ],
        commit_index: Index(12),
        session: 3,
        round: 41,
    };
    let Any::Peer(append) = raft(append) else { panic!("a Raft message") };
    let append = PeerMessage { digests: vec![(Index(64), 0x0102)], ..append };
    let reply = |outcome, healing| {
        raft(Message::AppendReply { term: Term(7), outcome, session: 3, round: 41, healing })
    };
    let question = (1 << 63) + 5;
    let accepted = AppendOutcome::Accepted { match_index: Index(14) };
    let rejected =
        AppendOutcome::Rejected { prev_index: Index(12), hint_index: Index(9), hint_term: Term(5) };
    vec![
        ("PRE_VOTE", 0, raft(Message::PreVote { term, last_index, last_term })),
        ("PRE_VOTE_REPLY", 0, raft(Message::PreVoteReply { term, granted: true })),
        ("VOTE", 0, raft(Message::Vote { term, last_index, last_term, transfer: false })),
        ("VOTE_REPLY", 0, raft(Message::VoteReply { term, granted: true })),
        ("APPEND_ENTRIES", 0, Any::Peer(append)),
        ("APPEND_REPLY: accepted", 0, reply(accepted, None)),
        ("APPEND_REPLY: rejected", 0, reply(rejected, None)),
        ("APPEND_REPLY: accepted, healing", 0, reply(accepted, Some(question))),
        ("APPEND_REPLY: rejected, healing", 0, reply(rejected, Some(question))),
        ("INSTALL_SNAPSHOT", 0, raft(Message::InstallSnapshot { term: Term(7), meta: meta() })),
        ("TIMEOUT_NOW", 0, raft(Message::TimeoutNow { term: Term(7) })),
        ("READ_INDEX", 0, raft(Message::ReadIndex { term: Term(7), token: 5, healing: false })),
        (
            "READ_INDEX: healing",
            0,
            raft(Message::ReadIndex { term: Term(7), token: question, healing: true }),
        ),
        (
            "READ_INDEX_REPLY",
            0,
            raft(Message::ReadIndexReply { term: Term(7), token: 5, index: Some(Index(14)) }),
        ),
    ]
}

fn bulk() -> Vec<(&'static str, u32, Any)> {
    let id = [0x51; 16];
    vec![
        (
            "OFFER",
            0,
            Any::Bulk(BulkMessage::Offer { term: Term(7), meta: meta(), id, bytes: 600_000 }),
        ),
        ("ACCEPT", 0, Any::Bulk(BulkMessage::Accept { id, offset: 0 })),
        (
            "DECLINE",
            0,
            Any::Bulk(BulkMessage::Decline {
                term: Term(8),
                held: false,
                reason: "old term".into(),
            }),
        ),
        (
            "CHUNK",
            0,
            Any::Bulk(BulkMessage::Chunk {
                id,
                offset: 262_144,
                data: Bytes::from_static(b"\x00\x01\x02"),
            }),
        ),
        ("WINDOW", 0, Any::Bulk(BulkMessage::Window { id, offset: 262_147 })),
        ("DONE", 0, Any::Bulk(BulkMessage::Done { id })),
    ]
}

//! A node that answers as a test wants, and the program run against it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use raftq::jobs::job::{Body, JobView, NewJob, Status};
use raftq::types::{ClusterId, DirId, Fence, Index, JobId, Millis, NodeId, QueueName, WorkerId};
use raftq::wire::frame::{BODY_BYTES_MAX, FrameCodec, PREAMBLE};
use raftq::wire::hello::IN_FLIGHT_MAX;
use raftq::wire::hello::Welcome;
use raftq::wire::message::{Code, Refusal, Reply, Request, Submitted};
use tokio_util::codec::{Decoder, Encoder};

pub(crate) const ID: JobId = JobId([0xab; 16]);

/// Answers a request; `None` closes the connection instead.
type Answer = dyn Fn(&Request) -> Option<Reply> + Send + Sync;

/// A node of a cluster of one. Its threads end with the test's process.
pub(crate) struct FakeNode {
    pub(crate) addr: String,
    /// Every request it was asked, in order.
    asked: Arc<Mutex<Vec<Request>>>,
}

impl FakeNode {
    pub(crate) fn new(answer: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let answer: Arc<Answer> = Arc::new(answer);
        let (own_addr, log) = (addr.clone(), Arc::clone(&asked));
        let accept = move || {
            for stream in listener.incoming() {
                let (addr, log) = (own_addr.clone(), Arc::clone(&log));
                let answer = Arc::clone(&answer);
                let serve = move || serve(stream.unwrap(), &addr, &log, &*answer);
                std::thread::Builder::new().name("fake session".into()).spawn(serve).unwrap();
            }
        };
        std::thread::Builder::new().name("fake node".into()).spawn(accept).unwrap();
        Self { addr, asked }
    }

    pub(crate) fn raftq(&self, args: &[&str]) -> Output {
        self.raftq_in(args, b"")
    }

    pub(crate) fn raftq_in(&self, args: &[&str], input: &[u8]) -> Output {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    }

    /// The program, told to ask this node and to take its time from `args` or two seconds.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_raftq"));
        command.args(["--addrs", &self.addr]);
        if !args.contains(&"--timeout") {
            command.args(["--timeout", "2s"]);
        }
        command
            .args(args)
            .env_remove("RAFTQ_ADDRS")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn asked(&self) -> Vec<Request> {
        self.asked.lock().unwrap().clone()
    }
}

/// Serves one connection: preamble, handshake, then answers until either side closes.
fn serve(mut stream: TcpStream, addr: &str, log: &Mutex<Vec<Request>>, answer: &Answer) {
    let mut preamble = [0; PREAMBLE.len()];
    if stream.read_exact(&mut preamble).is_err() {
        return;
    }
    assert_eq!(preamble, PREAMBLE);
    stream.write_all(&PREAMBLE).unwrap();
    let mut codec = FrameCodec::new(BODY_BYTES_MAX);
    let mut inbox = BytesMut::new();
    let mut greeted = false;
    loop {
        while let Some(frame) = codec.decode(&mut inbox).unwrap() {
            let reply = if greeted {
                let request = Request::from_frame(&frame).unwrap();
                log.lock().unwrap().push(request.clone());
                let Some(reply) = answer(&request) else { return };
                reply.to_frame(frame.corr)
            } else {
                greeted = true;
                welcome(addr).to_frame(frame.corr)
            };
            let mut outbox = BytesMut::new();
            codec.encode(reply, &mut outbox).unwrap();
            if stream.write_all(&outbox).is_err() {
                return;
            }
        }
        let mut bytes = [0; 65536];
        match stream.read(&mut bytes) {
            Ok(0) | Err(_) => return,
            Ok(count) => inbox.extend_from_slice(bytes.get(..count).unwrap()),
        }
    }
}

fn welcome(addr: &str) -> Welcome {
    Welcome {
        version: 1,
        cluster: ClusterId([7; 16]),
        node: NodeId(1),
        dir: DirId([8; 16]),
        leader: None,
        nodes: vec![(NodeId(1), addr.into())],
        frame_bytes_max: u32::try_from(BODY_BYTES_MAX).unwrap(),
        in_flight_max: IN_FLIGHT_MAX,
    }
}

pub(crate) fn job(id: JobId, status: Status) -> JobView {
    JobView {
        id,
        queue: QueueName::default(),
        status,
        attempt: 1,
        worker: Some(WorkerId::built_in(NodeId(1))),
        fence: Some(Fence::new(Index(5), 0)),
        exit_code: match status {
            Status::Completed => Some(0),
            Status::Failed => Some(3),
            Status::Pending | Status::Running | Status::Cancelled => None,
        },
        output: Bytes::from_static(b"hello \xff\n"),
        output_cut: false,
        error: (status == Status::Failed).then(|| "exit code 3".into()),
        created_ms: Millis(1),
        started_ms: Some(Millis(2)),
        finished_ms: status.is_final().then_some(Millis(3)),
        options: None,
        held_ms: None,
        progress: None,
        past: Vec::new(),
        body: Some(Body::Command(vec!["echo".into(), "a b".into()])),
    }
}

pub(crate) fn submitted(job: &NewJob) -> Submitted {
    Submitted { id: job.id, created: true }
}

/// Takes every job, and ends each with this status.
pub(crate) fn node_that_ends_jobs_as(status: Status) -> FakeNode {
    FakeNode::new(move |request| match request {
        Request::SubmitJob(job) => Some(Reply::Submitted(submitted(job))),
        Request::SubmitBatch(jobs) => {
            Some(Reply::SubmittedBatch(jobs.iter().map(|job| Ok(submitted(job))).collect()))
        }
        Request::WaitJobs { ids, .. } => {
            Some(Reply::Waited(ids.iter().map(|id| Ok(job(*id, status))).collect()))
        }
        Request::CancelJobs { ids } => {
            Some(Reply::Cancelled(ids.iter().map(|_| Ok(status)).collect()))
        }
        Request::GetJob { id } => Some(Reply::Job(Box::new(job(*id, status)))),
        other => Some(Reply::Refused(Refusal::new(Code::Internal, format!("{other:?}")))),
    })
}

pub(crate) fn node_that_refuses(code: Code, unknown: bool) -> FakeNode {
    FakeNode::new(move |_request| {
        Some(Reply::Refused(Refusal { unknown, ..Refusal::new(code, "the reason") }))
    })
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

//! Messages: every one survives the wire, every answer fits its frame, and hostile bodies are refused
//! without a panic and without much memory.

#[path = "wire/strategies.rs"]
mod strategies;
#[path = "wire/support.rs"]
mod support;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use raftq::jobs::command::{Release, StatusUpdate};
use raftq::jobs::job::{Assignment, Body, JobView, NewJob, Serves, Status, Verdict};
use raftq::jobs::options::Tags;
use raftq::pack::{self, PackError};
use raftq::raft::message::{Entry, EntryKind, Message};
use raftq::types::{
    ClusterId, DirId, Fence, Incarnation, Index, JobId, Millis, NodeId, QueueName, Term, WorkerId,
};
use raftq::wire::bulk::{BulkMessage, CHUNK_BYTES};
use raftq::wire::error::WireError;
use raftq::wire::frame::{BODY_BYTES_MAX, Frame, HELLO_BYTES_MAX};
use raftq::wire::hello::{Greeting, Reject};
use raftq::wire::hello::{Hello, Welcome};
use raftq::wire::kind;
use raftq::wire::message::{
    BATCH_JOBS_MAX, BATCH_UPDATES_MAX, Code, Filter, LIST_JOBS_MAX, LeaderHint, RESERVE_JOBS_MAX,
    Refusal, Reply, Request, WAIT_JOBS_MAX, WAIT_MS_MAX, WorkerView,
};
use raftq::wire::peer::PeerMessage;
use raftq::wire::peer::{ENTRIES_MAX, SLICE_BYTES_MIN};
use raftq::wire::request::{self, LIST_LOG_MAX, job_bytes_max, update_bytes_max};
use strategies::{any_message, new_job, update};
use support::{Any, samples, wire};

/// Reads a frame as every room would; nothing may panic.
fn read_everywhere(frame: &Frame) {
    let read: [Result<(), WireError>; 8] = [
        Hello::from_frame(frame).map(drop),
        Welcome::from_frame(frame).map(drop),
        Reject::from_frame(frame).map(drop),
        Greeting::from_frame(frame).map(drop),
        Request::from_frame(frame).map(drop),
        Reply::from_frame(frame).map(drop),
        PeerMessage::from_frame(frame).map(drop),
        BulkMessage::from_frame(frame).map(drop),
    ];
    assert!(read.iter().any(Result::is_err), "one frame cannot be of every kind");
}

proptest! {
    #[test]
    fn every_message_survives_the_wire(message in any_message(), corr in any::<u32>()) {
        let frame = message.to_frame(corr);
        prop_assert_eq!(Any::from_frame(&frame), Ok(message));
    }

    #[test]
    fn no_body_makes_any_reader_panic(
        at in 0..kind::ALL.len(),
        noise in vec(any::<u8>(), 0..300),
        flags in any::<u8>(),
    ) {
        let frame = Frame { kind: kind::ALL[at].0, flags: flags & 1, group: 0, corr: 1, body: noise.into() };
        read_everywhere(&frame);
    }

    /// Near misses go deeper into the readers than noise does.
    #[test]
    fn no_damaged_message_makes_any_reader_panic(
        at in any::<prop::sample::Index>(),
        hits in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let samples = samples();
        let (_, corr, message) = &samples[at.index(samples.len())];
        let mut frame = message.to_frame(*corr);
        if frame.body.is_empty() {
            return Ok(());
        }
        let mut body = frame.body.to_vec();
        for (place, byte) in hits {
            let place = place.index(body.len());
            body[place] = byte;
        }
        frame.body = body.clone().into();
        read_everywhere(&frame);
        body.truncate(cut.index(body.len()));
        frame.body = body.into();
        read_everywhere(&frame);
    }

    #[test]
    fn scan_and_skip_agree_on_noise(noise in vec(any::<u8>(), 0..200)) {
        let mut reader = pack::Reader::new(&noise);
        let skipped = reader.skip().and_then(|()| reader.finish());
        if pack::scan(&noise).is_ok() {
            prop_assert_eq!(skipped, Ok(()));
        }
    }

    #[test]
    fn sizes_that_fill_batches_are_upper_bounds(job in new_job(), update in update()) {
        let one = |request: Request| request.to_frame(1).body.len();
        let empty = one(Request::SubmitBatch(Vec::new()));
        let (job_bytes, update_bytes) = (job_bytes_max(&job), update_bytes_max(&update));
        prop_assert!(one(Request::SubmitBatch(vec![job])) - empty <= job_bytes);
        let empty = one(Request::BatchUpdateJobStatus(Vec::new()));
        prop_assert!(one(Request::BatchUpdateJobStatus(vec![update])) - empty <= update_bytes);
    }
}

fn job(id: u8, output: usize, body: Option<Body>) -> JobView {
    JobView {
        id: JobId([id; 16]),
        queue: QueueName::default(),
        status: Status::Completed,
        attempt: 1,
        worker: None,
        fence: None,
        exit_code: Some(0),
        output: vec![b'x'; output].into(),
        output_cut: true,
        error: None,
        created_ms: Millis(1),
        started_ms: None,
        finished_ms: Some(Millis(2)),
        options: None,
        held_ms: None,
        progress: None,
        past: Vec::new(),
        body,
    }
}

fn reread(reply: &Reply) -> Reply {
    let frame = reply.to_frame(9);
    assert!(frame.body.len() <= BODY_BYTES_MAX, "{} bytes", frame.body.len());
    Reply::from_frame(&frame).expect("our own reply")
}

#[test]
fn page_too_large_for_a_frame_ends_earlier_and_says_more() {
    let jobs: Vec<JobView> =
        (0..1000_u16).map(|n| job(n.to_be_bytes()[1], 16 << 10, None)).collect();
    let long = Reply::Jobs { jobs: jobs.clone(), more: false, after: Some(JobId([0xff; 16])) };
    let Reply::Jobs { jobs: read, more, after } = reread(&long) else { panic!("a page") };
    assert!(more && read.len() > 200 && read.len() < 1000, "{} jobs", read.len());
    assert_eq!(read, jobs[..read.len()]);
    assert_eq!(after, read.last().map(|job| job.id), "it goes on where it was cut");
    // With where it was read it is cut no otherwise.
    let index = Index(1 << 60);
    let Reply::ReadAt { index: told, reply } =
        reread(&Reply::ReadAt { index, reply: Box::new(long) })
    else {
        panic!("a read")
    };
    assert_eq!((told, *reply), (index, Reply::Jobs { jobs: read, more, after }));
    let small = Reply::Jobs { jobs: jobs[..9].to_vec(), more: false, after: None };
    assert_eq!(reread(&small), small);
}

#[test]
fn reserved_jobs_too_large_for_a_frame_are_the_first_by_fence() {
    let assignment = |fence| Assignment {
        id: JobId([1; 16]),
        queue: QueueName::default(),
        attempt: 1,
        fence: Fence(fence),
        timeout_ms: None,
        body: Body::Payload(vec![0; 1 << 20].into()),
    };
    let Reply::Reserved(read) = reread(&Reply::Reserved((1..=8).rev().map(assignment).collect()))
    else {
        panic!("jobs")
    };
    let fences: Vec<u64> = read.iter().map(|job| job.fence.0).collect();
    assert_eq!(fences, [1, 2, 3], "a later RESERVE after 3 gets the rest");
}

#[test]
fn waited_jobs_without_room_are_refused_each_in_its_place() {
    let body = Some(Body::Payload(vec![0; 1 << 20].into()));
    let jobs: Vec<Result<JobView, Refusal>> =
        (0..1024_u16).map(|n| Ok(job(n.to_be_bytes()[1], 16 << 10, body.clone()))).collect();
    let Reply::Waited(read) = reread(&Reply::Waited(jobs)) else { panic!("results") };
    assert_eq!(read.len(), 1024);
    let fit = read.iter().take_while(|result| result.is_ok()).count();
    assert!(fit > 100, "only {fit} fit");
    for (at, result) in read.iter().enumerate() {
        match result {
            Ok(job) => assert!(job.body.is_none() && usize::from(job.id.0[0]) == at % 256),
            Err(refusal) => assert_eq!(refusal.code, Code::ResourceExhausted),
        }
    }
}

#[test]
fn longest_refusals_of_the_largest_batch_fit() {
    let refusal = Refusal {
        retry_after_ms: Some(u64::MAX),
        ..Refusal::new(Code::InvalidArgument, "é".repeat(9000))
    };
    let Reply::SubmittedBatch(read) =
        reread(&Reply::SubmittedBatch(vec![Err(refusal); BATCH_JOBS_MAX]))
    else {
        panic!("results")
    };
    assert_eq!(read.len(), BATCH_JOBS_MAX);
    let message = &read[0].as_ref().expect_err("a refusal").message;
    assert_eq!(message.len(), 512, "cut at a whole character");
}

#[test]
fn answer_that_cannot_be_cut_is_refused_instead() {
    let queues: Vec<QueueName> =
        (0..64).map(|n| QueueName::new(&format!("{n:064}")).expect("a name")).collect();
    let worker = |n: u64| WorkerView {
        id: WorkerId::built_in(NodeId(n)),
        incarnation: Incarnation(n),
        serves: Serves::Payloads(queues.clone()),
        tags: Tags::default(),
        slots: 1,
        running: 0,
        state: "live".into(),
        registered_ms: Millis(0),
        intake: raftq::jobs::intake::Intake::Open,
    };
    let Reply::Refused(refusal) = reread(&Reply::Workers((0..2000).map(worker).collect())) else {
        panic!("a refusal")
    };
    assert_eq!((refusal.code, refusal.unknown), (Code::ResourceExhausted, false));
}

#[test]
fn lists_at_their_bound_pass_and_one_more_is_refused_by_name() {
    let ids = |count| vec![JobId::default(); count];
    let new = |count| {
        let job = NewJob {
            id: JobId::default(),
            queue: QueueName::default(),
            body: Body::Payload(Bytes::new()),
            options: None,
        };
        Request::SubmitBatch(vec![job; count])
    };
    let update = StatusUpdate {
        job: JobId::default(),
        fence: Fence(1),
        verdict: Verdict {
            completed: true,
            exit_code: None,
            output: Bytes::new(),
            output_cut: false,
            error: None,
        },
    };
    let updates = |count| Request::BatchUpdateJobStatus(vec![update.clone(); count]);
    let wait = |count| Request::WaitJobs { ids: ids(count), wait_ms: 0 };
    let release = |count| {
        Request::ReleaseJobs(Release {
            worker: WorkerId::built_in(NodeId(1)),
            incarnation: Incarnation(1),
            jobs: vec![(JobId::default(), Fence(1)); count],
            leaving: false,
        })
    };
    let bounds: [(&dyn Fn(usize) -> Request, usize); 5] = [
        (&new, BATCH_JOBS_MAX),
        (&updates, BATCH_UPDATES_MAX),
        (&wait, WAIT_JOBS_MAX),
        (&|count| Request::CancelJobs { ids: ids(count) }, WAIT_JOBS_MAX),
        (&release, request::RELEASE_JOBS_MAX),
    ];
    for (make, max) in bounds {
        assert_eq!(Request::from_frame(&make(max).to_frame(1)), Ok(make(max)));
        let refused = Request::from_frame(&make(max + 1).to_frame(1));
        assert!(
            matches!(&refused, Err(WireError::TooMany { count, max: bound, .. }) if *count == max + 1 && *bound == max),
            "{refused:?}"
        );
    }
}

#[test]
fn limits_that_may_be_lowered_are_lowered() {
    let lowered = |request: Request| Request::from_frame(&request.to_frame(1)).expect("a request");
    let worker = WorkerId::built_in(NodeId(1));
    let incarnation = Incarnation(1);
    let ask =
        Request::Reserve { worker, incarnation, after: Fence(0), max: u32::MAX, wait_ms: u64::MAX };
    assert!(matches!(lowered(ask), Request::Reserve { max, wait_ms, .. }
        if max as usize == RESERVE_JOBS_MAX && wait_ms == WAIT_MS_MAX));
    let list = Request::ListJobs(Box::new(Filter { limit: u32::MAX, ..Filter::default() }));
    assert!(
        matches!(lowered(list), Request::ListJobs(filter) if filter.limit as usize == LIST_JOBS_MAX)
    );
    let log = Request::ListLog { from: Index(1), limit: u32::MAX };
    assert_eq!(lowered(log), Request::ListLog { from: Index(1), limit: LIST_LOG_MAX });
    let wait = Request::WaitJobs { ids: Vec::new(), wait_ms: u64::MAX };
    assert_eq!(lowered(wait), Request::WaitJobs { ids: Vec::new(), wait_ms: WAIT_MS_MAX });
}

#[test]
fn payload_of_a_megabyte_passes_and_one_byte_more_is_refused() {
    let submit = |bytes| {
        let body = Body::Payload(vec![7; bytes].into());
        Request::SubmitJob(NewJob {
            id: JobId::default(),
            queue: QueueName::default(),
            body,
            options: None,
        })
    };
    assert_eq!(Request::from_frame(&submit(1 << 20).to_frame(1)), Ok(submit(1 << 20)));
    let refused = Request::from_frame(&submit((1 << 20) + 1).to_frame(1)).expect_err("too large");
    assert!(refused.to_string().contains("at most 1048576"), "{refused}");
}

#[test]
fn batch_that_could_outgrow_its_entry_is_refused() {
    let body = Body::Payload(vec![7; 1 << 20].into());
    let job = NewJob { id: JobId::default(), queue: QueueName::default(), body, options: None };
    let refused = Request::from_frame(&Request::SubmitBatch(vec![job; 2]).to_frame(1));
    assert!(matches!(refused, Err(WireError::TooMany { max: request::BATCH_BYTES_MAX, .. })));
}

#[test]
fn output_above_the_bound_is_refused_and_error_text_is_cut() {
    let update = |output, error: String| {
        let verdict = Verdict {
            completed: false,
            exit_code: None,
            output: vec![0; output].into(),
            output_cut: false,
            error: Some(error),
        };
        Request::UpdateJobStatus(StatusUpdate { job: JobId::default(), fence: Fence(1), verdict })
    };
    assert!(Request::from_frame(&update(16_385, String::new()).to_frame(1)).is_err());
    let Ok(Request::UpdateJobStatus(read)) =
        Request::from_frame(&update(16_384, "ß".repeat(600)).to_frame(1))
    else {
        panic!("a report")
    };
    assert_eq!(read.verdict.error, Some("ß".repeat(512)));
}

#[test]
fn handshake_fits_the_frame_of_a_stranger() {
    let addr = format!("{}:65535", "h".repeat(253));
    let welcome = Welcome {
        version: u32::MAX,
        cluster: ClusterId([255; 16]),
        node: NodeId(u64::MAX),
        dir: DirId([255; 16]),
        leader: Some(LeaderHint { id: NodeId(u64::MAX), addr: addr.clone(), term: Term(u64::MAX) }),
        nodes: (0..7).map(|n| (NodeId(u64::MAX - n), addr.clone())).collect(),
        frame_bytes_max: u32::MAX,
        in_flight_max: u32::MAX,
    };
    assert!(welcome.to_frame(1).body.len() <= HELLO_BYTES_MAX);
    let reject = Reject::new(Code::FailedPrecondition, "x".repeat(9000));
    assert!(reject.to_frame(1).body.len() <= HELLO_BYTES_MAX);
    let hello = Hello::client("y".repeat(9000));
    assert!(hello.to_frame(1).body.len() <= HELLO_BYTES_MAX);
}

fn append_of(data: Vec<Bytes>) -> Frame {
    let entries = data.into_iter().zip(1..).map(|(data, index)| Entry {
        index: Index(index),
        term: Term(1),
        kind: EntryKind::Command,
        data,
    });
    let message = Message::AppendEntries {
        term: Term(1),
        prev_index: Index(0),
        prev_term: Term(0),
        entries: entries.collect(),
        commit_index: Index(0),
        session: 0,
        round: 0,
    };
    PeerMessage {
        group: 0,
        wall_ms: Millis(0),
        applied_index: Index(0),
        digests: Vec::new(),
        message,
    }
    .to_frame()
}

fn entries_of(frame: &Frame) -> Vec<Entry> {
    match PeerMessage::from_frame(frame).map(|message| message.message) {
        Ok(Message::AppendEntries { entries, .. }) => entries,
        other => panic!("{other:?}"),
    }
}

/// The log keeps entries for long: a small one must not keep its whole frame in memory.
#[test]
fn small_entries_leave_their_frame_and_large_ones_stay_in_it() {
    let small = Bytes::from(vec![1; SLICE_BYTES_MIN - 1]);
    let large = Bytes::from(vec![2; 100_000]);
    let frame = append_of(vec![small.clone(), large.clone(), small]);
    let start = frame.body.as_ptr().addr();
    let is_inside =
        |entry: &Entry| (start..start + frame.body.len()).contains(&entry.data.as_ptr().addr());
    let inside: Vec<bool> = entries_of(&frame).iter().map(is_inside).collect();
    assert_eq!(inside, [false, true, false]);
    let crowd = append_of(vec![Bytes::from(vec![3; 5000]); 100]);
    let start = crowd.body.as_ptr().addr();
    let pinned = entries_of(&crowd)
        .iter()
        .any(|entry| (start..start + crowd.body.len()).contains(&entry.data.as_ptr().addr()));
    assert!(!pinned, "an entry of 5 kB would keep a frame of 500 kB");
}

#[test]
#[should_panic(expected = "a gap in the entries after 0")]
fn entries_with_a_gap_are_never_sent() {
    let entry = |index| Entry {
        index: Index(index),
        term: Term(1),
        kind: EntryKind::Noop,
        data: Bytes::new(),
    };
    let message = Message::AppendEntries {
        term: Term(1),
        prev_index: Index(0),
        prev_term: Term(0),
        entries: vec![entry(1), entry(3)],
        commit_index: Index(0),
        session: 0,
        round: 0,
    };
    let message = PeerMessage {
        group: 0,
        wall_ms: Millis(0),
        applied_index: Index(0),
        digests: Vec::new(),
        message,
    };
    drop(message.to_frame());
}

#[test]
fn entries_beyond_the_bound_are_refused() {
    let data = Bytes::from_static(&[0; 32]);
    let frame = append_of(vec![data.clone(); ENTRIES_MAX]);
    assert_eq!(entries_of(&frame).len(), ENTRIES_MAX);
    let frame = append_of(vec![data; ENTRIES_MAX + 1]);
    assert!(PeerMessage::from_frame(&frame).is_err());
}

#[test]
fn entries_that_are_next_to_nothing_are_refused_before_room_is_made_for_them() {
    assert_eq!(entries_of(&append_of(vec![Bytes::new(); 800])).len(), 800);
    let frame = append_of(vec![Bytes::new(); 20_000]);
    let refused = PeerMessage::from_frame(&frame).expect_err("20,000 entries in 100 KB");
    assert!(refused.to_string().contains("20000 entries in"), "{refused}");
}

#[test]
fn chunk_above_its_bound_is_refused() {
    let chunk = |bytes| BulkMessage::Chunk { id: [1; 16], offset: 0, data: vec![0; bytes].into() };
    assert!(BulkMessage::from_frame(&chunk(CHUNK_BYTES).to_frame()).is_ok());
    assert!(BulkMessage::from_frame(&chunk(CHUNK_BYTES + 1).to_frame()).is_err());
}

#[test]
fn body_with_too_many_values_is_refused_before_anything_is_made_of_it() {
    // An unknown key is skipped, but its values count: four million of them are a bomb.
    let mut body = b"\x81\xa1x\xdd\x00\x3f\xff\xf0".to_vec();
    body.resize(body.len() + 0x3f_fff0, 0xc0);
    assert!(body.len() <= BODY_BYTES_MAX);
    let refused = Request::from_frame(&Frame::new(kind::PING, 1, body.into()));
    let too_many = PackError::TooMany(raftq::wire::named::BODY_ELEMENTS_MAX);
    assert_eq!(refused, Err(WireError::Body { name: "PING", error: too_many }));
}

#[test]
fn refusal_says_whether_to_try_again() {
    let retryable: Vec<&str> = Code::ALL
        .into_iter()
        .filter(|code| Refusal::new(*code, "").is_retryable())
        .map(Code::as_str)
        .collect();
    assert_eq!(retryable, ["DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "NOT_LEADER"]);
    assert!(Refusal::deadline_exceeded().unknown);
    assert!(Refusal::internal("").with_unknown_outcome().is_retryable());
}

#[test]
fn version_is_the_highest_both_speak() {
    let hello = |version_min, version_max| Hello { version_min, version_max, ..Hello::client("x") };
    assert_eq!(hello(1, 1).version(), Some(1));
    assert_eq!(hello(0, 9).version(), Some(1));
    assert_eq!(hello(2, 9).version(), None);
    assert_eq!(hello(0, 0).version(), None);
}

/// What is said once is found again: the frame on the wire is the frame that was made.
#[test]
fn samples_cover_every_kind_of_frame() {
    let mut kinds: Vec<u8> =
        samples().iter().map(|(_, corr, message)| wire(&message.to_frame(*corr))[4]).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let all: Vec<u8> = kind::ALL.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, all);
}

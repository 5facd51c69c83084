//! Messages about why jobs wait, and reads that say how they are done.

use raftq::jobs::job::Status;
use raftq::jobs::options::Tags;
use raftq::jobs::reason::{Chosen, Explanation, Reason};
use raftq::types::{Fence, Index, Millis, NodeId, QueueName, Tag, WorkerId};
use raftq::wire::message::{Filter, Reply, Request};
use raftq::wire::reads::Consistency;

use super::{Any, job, mail, other_job, view};

const NOW: u64 = 1_730_800_000_000;

fn explained(status: Status, queue: QueueName, reasons: Vec<Reason>) -> Any {
    let id = if status == Status::Running { job() } else { other_job() };
    let (now_ms, index) = (Millis(NOW), Index(130));
    let explanation = Explanation { id, queue, status, now_ms, index, reasons };
    Any::Reply(Reply::Explained(Box::new(explanation)))
}

pub(super) fn samples() -> Vec<(&'static str, u32, Any)> {
    let tags = ["gpu", "zone=a"].map(|tag| Tag::new(tag).expect("a tag"));
    let waits = vec![
        Reason::Retry {
            attempt: 2,
            until_ms: Some(Millis(NOW + 1500)),
            exit_code: Some(3),
            error: "exited with code 3".into(),
        },
        Reason::Paused { since_ms: Millis(NOW - 60_000) },
        Reason::NoWorkerWithTags {
            tags: Tags::new(tags.clone()),
            missing: tags[..1].to_vec(),
            workers: 2,
        },
        Reason::AtLimit { running: 4, limit: 4 },
    ];
    let runs = vec![Reason::Running {
        worker: WorkerId::built_in(NodeId(3)),
        since_ms: Millis(NOW - 2500),
        fence: Fence(53_248),
        attempt: 1,
        timeout_ms: Some(30_000),
        chosen: Chosen { running: 1, slots: 4, free_workers: 5 },
    }];
    let filter = Filter {
        limit: 100,
        tag: Some(tags[0].clone()),
        text: Some("thumbnail".into()),
        since_ms: Some(Millis(NOW - 600_000)),
        ..Filter::default()
    };
    let at =
        |consistency, read| Any::Request(Request::ReadAt { consistency, read: Box::new(read) });
    let page = Reply::Jobs {
        jobs: vec![view(job(), Status::Running)],
        more: true,
        after: Some(other_job()),
    };
    let workers = Box::new(Reply::Workers(Vec::new()));
    vec![
        ("WHY_JOB", 60, Any::Request(Request::WhyJob { id: other_job() })),
        ("EXPLAINED: pending", 60, explained(Status::Pending, mail(), waits)),
        ("EXPLAINED: running", 61, explained(Status::Running, QueueName::default(), runs)),
        ("LIST_JOBS with more filters", 62, Any::Request(Request::ListJobs(Box::new(filter)))),
        ("JOBS that goes on elsewhere", 62, Any::Reply(page)),
        ("GET_JOB: stale", 63, at(Consistency::Stale, Request::GetJob { id: job() })),
        (
            "LIST_WORKERS: from an entry on",
            64,
            at(Consistency::MinIndex(Index(130)), Request::ListWorkers),
        ),
        (
            "WORKERS with its index",
            64,
            Any::Reply(Reply::ReadAt { index: Index(131), reply: workers }),
        ),
    ]
}

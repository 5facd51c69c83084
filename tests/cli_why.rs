//! The verb `why`, what `list` finds, and how reads are done, against a node that answers as a test wants.

#![expect(clippy::unwrap_used, reason = "a helper that fails has to fail its test")]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a fake node answers few requests and refuses the rest"
)]

#[expect(dead_code, reason = "what it knows of submits is for the tests about them")]
mod cli_fake;

use std::io::{BufRead, BufReader};

use raftq::jobs::job::Status;
use raftq::jobs::reason::{Chosen, Explanation, Reason};
use raftq::jobs::rules::Rate;
use raftq::types::{Fence, Index, JobId, Millis, QueueName, Tag, WorkerId};
use raftq::wire::message::{Filter, Refusal, Reply, Request};
use raftq::wire::reads::Consistency;
use serde_json::json;

use crate::cli_fake::{FakeNode, ID, job, json, node_that_ends_jobs_as, stderr, stdout};

fn explained(status: Status, reasons: Vec<Reason>) -> Reply {
    Reply::Explained(Box::new(Explanation {
        id: ID,
        queue: QueueName::new("mail").unwrap(),
        status,
        // Later than any clock that this runs by: lengths of time are counted from here.
        now_ms: Millis(4_102_444_800_000),
        index: Index(130),
        reasons,
    }))
}

fn node(status: Status, reasons: Vec<Reason>) -> FakeNode {
    FakeNode::new(move |request| match request.plain() {
        Request::WhyJob { id } if *id == ID => Some(explained(status, reasons.clone())),
        Request::WhyJob { .. } => Some(Reply::Refused(Refusal::not_found("no such job"))),
        _ => None,
    })
}

#[test]
fn why_says_every_reason_in_a_sentence_with_its_time() {
    let reasons = vec![
        Reason::Paused { since_ms: Millis(4_102_444_740_000) },
        Reason::Rate {
            until_ms: Millis(4_102_444_800_600),
            rate: Rate { count: 100, per_ms: 60_000 },
        },
        Reason::Behind { priority: 5, ahead: 3, higher: 0, is_more: true },
        Reason::Other { name: "moon".into(), text: "The moon is\x1b[2J waning.".into() },
    ];
    let node = node(Status::Pending, reasons);
    let output = node.raftq(&["why", &ID.to_string()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let expected = format!(
        "job {ID}, pending in queue mail\n  \
         Queue 'mail' has been paused for 1m00s. (2099-12-31T23:59:00.000Z)\n  \
         Queue 'mail' begins at most 100 jobs in 1m; the next one in 600ms. (2100-01-01T00:00:00.600Z)\n  \
         Ahead of it in its line: more than 3 jobs at priority 5.\n  \
         The moon is?[2J waning.\n"
    );
    assert_eq!(stdout(&output), expected);
    let output = node.raftq(&["why", "--json", &ID.to_string()]);
    let told = json(&output);
    assert_eq!(
        (&told["id"], &told["status"], &told["queue"], &told["index"]),
        (&json!(ID.to_string()), &json!("pending"), &json!("mail"), &json!(130))
    );
    assert_eq!(
        told["reasons"][0],
        json!({
            "reason": "queue_paused",
            "text": "Queue 'mail' has been paused for 1m00s.",
            "since_ms": 4_102_444_740_000_u64,
        })
    );
    assert_eq!(told["reasons"][1]["rate"], json!({"count": 100, "per_ms": 60_000}));
    assert_eq!(told["reasons"].as_array().unwrap().len(), 4);
}

#[test]
fn why_of_a_running_job_names_its_worker_and_keeps_large_numbers_exact() {
    let running = Reason::Running {
        worker: WorkerId::new("node-3").unwrap(),
        since_ms: Millis(4_102_444_797_500),
        fence: Fence((1 << 60) + 1),
        attempt: 2,
        timeout_ms: Some(30_000),
        chosen: Chosen { running: 1, slots: 4, free_workers: 1 },
    };
    let node = node(Status::Running, vec![running]);
    let output = node.raftq(&["why", &ID.to_string()]);
    let shown = stdout(&output);
    assert!(
        shown.contains("Worker node-3 has been running it for 2.5s of at most 30s: attempt 2"),
        "{shown}"
    );
    assert!(shown.contains("with 1 of its 4 slots taken, the least loaded of 1 worker"), "{shown}");
    let told = json(&node.raftq(&["why", "--json", &ID.to_string()]));
    assert_eq!(told["reasons"][0]["fence"], json!(((1_u64 << 60) + 1).to_string()));
}

#[test]
fn why_of_a_job_that_is_not_there_is_3() {
    let node = node(Status::Pending, Vec::new());
    let output = node.raftq(&["why", &JobId([1; 16]).to_string()]);
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("no such job"), "{}", stderr(&output));
}

#[test]
fn reads_are_asked_for_as_they_are_to_be_done_and_tell_where_they_were_done() {
    let node = FakeNode::new(|request| {
        let reply = match request.plain() {
            Request::GetJob { id } => Reply::Job(Box::new(job(*id, Status::Running))),
            Request::ListJobs(_) => {
                Reply::Jobs { jobs: vec![job(ID, Status::Running)], more: false, after: None }
            }
            Request::ListWorkers => Reply::Workers(Vec::new()),
            Request::ListQueues(_) => Reply::Queues { queues: Vec::new(), more: false },
            Request::WhyJob { .. } => return Some(explained(Status::Pending, vec![Reason::Next])),
            _ => return None,
        };
        Some(match request {
            Request::ReadAt { .. } => Reply::ReadAt { index: Index(77), reply: Box::new(reply) },
            _ => reply,
        })
    });
    let id = ID.to_string();
    let verbs: [&[&str]; 6] =
        [&["get", &id], &["show", &id], &["list"], &["workers"], &["queue", "list"], &["why", &id]];
    for verb in verbs {
        let plain = node.raftq(verb);
        assert_eq!((plain.status.code(), stderr(&plain)), (Some(0), String::new()), "{verb:?}");
        assert!(!matches!(node.asked().last(), Some(Request::ReadAt { .. })), "{verb:?}");
        for (option, wanted) in [
            (&["--stale"][..], Consistency::Stale),
            (&["--min-index", "70"], Consistency::MinIndex(Index(70))),
            (&["--show-index"], Consistency::Linearizable),
        ] {
            let output = node.raftq(&[verb, option].concat());
            assert_eq!(stdout(&output), stdout(&plain), "the same, however it is read");
            let asked = node.asked().pop();
            let Some(Request::ReadAt { consistency, .. }) = asked else { panic!("{asked:?}") };
            assert_eq!(consistency, wanted);
            let index = if verb.contains(&"why") { 130 } else { 77 };
            let told = if option == ["--show-index"] {
                format!("raftq: read at index {index}\n")
            } else {
                String::new()
            };
            assert_eq!(stderr(&output), told, "{verb:?} {option:?}");
        }
    }
    let output = node.raftq(&["get", &id, "--stale", "--min-index", "1"]);
    assert_eq!(output.status.code(), Some(2), "one or the other");
}

#[test]
fn list_asks_for_its_filters_and_goes_on_over_pages_without_a_job() {
    let node = FakeNode::new(|request| match request {
        Request::ListJobs(filter) => {
            let after = filter.after.map_or(0, |id| id.0[0]);
            // A job in every third page.
            let is_there = after % 3 == 2;
            let jobs =
                if is_there { vec![job(JobId([after; 16]), Status::Failed)] } else { vec![] };
            let next = Some(JobId([after + 1; 16]));
            Some(Reply::Jobs { jobs, more: after < 20, after: next })
        }
        _ => None,
    });
    let args = ["list", "--tag", "gpu", "--text", "a b", "--until", "2026-11-27T10:00:00Z"];
    let output = node.raftq(&args);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output).lines().count(), 1 + 7, "{}", stdout(&output));
    let asked = node.asked();
    let Some(Request::ListJobs(filter)) = asked.first() else { panic!("{asked:?}") };
    let expected = Filter {
        limit: 100,
        tag: Tag::new("gpu").ok(),
        text: Some("a b".into()),
        until_ms: Some(Millis(1_795_773_600_000)),
        ..Filter::default()
    };
    assert_eq!(**filter, expected);
    // The limit ends it, and says where to go on.
    let output = node.raftq(&["list", "--limit", "2", "--since", "10m"]);
    assert_eq!(stdout(&output).lines().count(), 3, "{}", stdout(&output));
    assert!(
        stderr(&output).contains(&format!("--after {}", JobId([6; 16]))),
        "{}",
        stderr(&output)
    );
    let since = node.asked().into_iter().rev().find_map(|request| match request {
        Request::ListJobs(filter) => filter.since_ms,
        _ => None,
    });
    let wall = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis();
    let ago_ms = wall - u128::from(since.unwrap().0);
    assert!((600_000..660_000).contains(&ago_ms), "{ago_ms}");
}

#[test]
fn node_that_leads_nowhere_on_does_not_keep_the_list_going() {
    let node = FakeNode::new(|request| match request {
        Request::ListJobs(_) => Some(Reply::Jobs { jobs: Vec::new(), more: true, after: Some(ID) }),
        _ => None,
    });
    let output = node.raftq(&["list"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(node.asked().len(), 2);
}

#[test]
fn list_refuses_what_it_cannot_look_for() {
    let node = node_that_ends_jobs_as(Status::Completed);
    let long = "x".repeat(257);
    for (args, why) in [
        (["--text", ""], "leave it out"),
        (["--text", &long], "at most 256"),
        (["--since", "yesterday"], "10m for ten minutes ago"),
        (["--watch", "--json"], "--watch shows tables"),
    ] {
        let output = node.raftq(&[&["list"], &args[..]].concat());
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains(why), "{args:?}: {}", stderr(&output));
    }
    assert!(node.asked().is_empty());
}

#[test]
fn watched_list_elsewhere_than_at_a_terminal_is_one_table_after_the_other() {
    let node = FakeNode::new(|request| match request {
        Request::ListJobs(_) => {
            Some(Reply::Jobs { jobs: vec![job(ID, Status::Running)], more: false, after: None })
        }
        _ => None,
    });
    let mut child = node.command(&["list", "--watch"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let table: Vec<String> = lines.by_ref().take(3).map(Result::unwrap).collect();
        assert!(table[0].starts_with("ID ") && table[1].starts_with(&ID.to_string()), "{table:?}");
        assert_eq!(table[2], "", "no control sequences, and a line between");
    }
    // Who reads no more has what he wanted.
    drop(lines);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

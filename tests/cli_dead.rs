//! Jobs that failed, and what is asked for with a job, against a node that answers as a test wants.

#![expect(clippy::unwrap_used, reason = "a helper that fails has to fail its test")]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a fake node answers few requests and refuses the rest"
)]

mod cli_fake;

use raftq::jobs::job::{AttemptView, Body, JobView, NewJob, Status};
use raftq::jobs::options::{Options, Tags};
use raftq::types::{Fence, Index, JobId, Millis, NodeId, QueueName, Tag, WorkerId};
use raftq::wire::message::{Code, Refusal, Reply, Request};

use crate::cli_fake::{FakeNode, ID, job, json, node_that_refuses, stderr, stdout};

const DONE: JobId = JobId([0x11; 16]);
const GONE: JobId = JobId([0x22; 16]);
const STOPPED: JobId = JobId([0x33; 16]);

/// Jobs that failed, on the node of these tests, beside those named above.
const FAILED: u8 = 5;

fn failed(n: u8) -> JobView {
    JobView {
        error: Some(format!("exited with code 3\nand {}", "more ".repeat(50))),
        ..job(JobId([n; 16]), Status::Failed)
    }
}

/// Knows [`ID`] as failed, [`DONE`] as completed and [`STOPPED`] as cancelled; lists five that failed, two a
/// page. What is asked of it, it does.
fn node() -> FakeNode {
    let view = |id: &JobId| match *id {
        DONE => Ok(job(DONE, Status::Completed)),
        STOPPED => Ok(job(STOPPED, Status::Cancelled)),
        GONE => Err(Refusal::new(Code::NotFound, "no such job")),
        id => Ok(job(id, Status::Failed)),
    };
    FakeNode::new(move |request| match request {
        Request::ListJobs(filter) => {
            assert_eq!(filter.status, Some(Status::Failed), "only these are listed");
            let first = filter.after.map_or(1, |id| id.0[0] + 1);
            let limit = u8::try_from(filter.limit.min(2)).unwrap();
            let last = (first + limit - 1).min(FAILED);
            let jobs = (first..=last).map(failed).collect();
            Some(Reply::Jobs { jobs, more: last < FAILED, after: None })
        }
        Request::WaitJobs { ids, wait_ms: 0 } => {
            Some(Reply::Waited(ids.iter().map(view).collect()))
        }
        Request::GetJob { id } => Some(match view(id) {
            Ok(job) => Reply::Job(Box::new(job)),
            Err(refusal) => Reply::Refused(refusal),
        }),
        Request::RetryJobs { ids } => Some(Reply::Retried(ids.iter().map(|_| Ok(())).collect())),
        Request::PurgeJobs { ids } => Some(Reply::Purged(ids.iter().map(|_| Ok(())).collect())),
        _ => None,
    })
}

/// The jobs that a node was told to retry or to purge.
fn touched(node: &FakeNode) -> Vec<JobId> {
    let ids = node.asked().into_iter().filter_map(|request| match request {
        Request::RetryJobs { ids } | Request::PurgeJobs { ids } => Some(ids),
        _ => None,
    });
    ids.flatten().collect()
}

#[test]
fn dead_jobs_are_listed_page_by_page_with_a_short_error() {
    let node = node();
    let output = node.raftq(&["dead", "list", "--queue", "mail"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 6, "a header and five jobs:\n{text}");
    assert!(lines[0].starts_with("ID") && lines[0].contains("ATTEMPTS  FAILED"), "{text}");
    assert!(lines[1].ends_with("1970-01-01T00:00:00.003Z  exited with code 3~"), "{text}");
    let filters: Vec<_> = node
        .asked()
        .into_iter()
        .filter_map(|request| match request {
            Request::ListJobs(filter) => filter.queue,
            _ => None,
        })
        .collect();
    assert_eq!(filters, vec![QueueName::new("mail").unwrap(); 3]);
    let output = node.raftq(&["dead", "list", "--limit", "2", "--json"]);
    assert_eq!(stdout(&output).lines().count(), 2);
    assert!(
        stderr(&output).contains(&format!("--after {}", JobId([2; 16]))),
        "{}",
        stderr(&output)
    );
}

#[test]
fn dead_touches_only_what_failed_though_the_node_would_do_more() {
    let [one, done, gone, stopped] = [ID, DONE, GONE, STOPPED].map(|id| id.to_string());
    for (verb, word) in [("retry", "pending"), ("purge", "purged")] {
        let node = node();
        let output = node.raftq(&["dead", verb, &done, &one, &gone, &stopped]);
        assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
        let left = if verb == "retry" { "not retried" } else { "not purged" };
        let lines =
            format!("{done}  {left}\n{one}  {word}\n{gone}  not found\n{stopped}  {left}\n");
        assert_eq!(stdout(&output), lines);
        let text = stderr(&output);
        assert!(
            text.contains(&format!("job {done}: it is completed, and has not failed")),
            "{text}"
        );
        assert!(text.contains(&format!("job {stopped}: it is cancelled")), "{text}");
        assert_eq!(touched(&node), [ID]);

        let output = node.raftq(&["dead", verb, &done]);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert_eq!(touched(&node), [ID], "nothing to do is nothing sent");
        let object = json(&node.raftq(&["dead", verb, "--json", &one]));
        assert_eq!(object, serde_json::json!({"id": one, "status": word}));
    }
}

#[test]
fn dead_with_all_goes_through_every_page_once_and_prints_the_count() {
    for (verb, word) in [("retry", "retried"), ("purge", "purged")] {
        let node = node();
        let output = node.raftq(&["dead", verb, "--all"]);
        assert_eq!(
            (output.status.code(), stdout(&output).as_str()),
            (Some(0), "5\n"),
            "{}",
            stderr(&output)
        );
        let all: Vec<JobId> = (1..=FAILED).map(|n| JobId([n; 16])).collect();
        assert_eq!(touched(&node), all);
        assert!(stderr(&output).contains("2 jobs"), "{}", stderr(&output));
        let object = json(&node.raftq(&["dead", verb, "--all", "--json"]));
        assert_eq!(object, serde_json::json!({word: 5, "left": 0}));
    }
}

#[test]
fn dead_with_all_says_how_far_it_came() {
    let node = FakeNode::new(|request| match request {
        Request::ListJobs(filter) => {
            let n = filter.after.map_or(1, |id| id.0[0] + 1);
            Some(Reply::Jobs { jobs: vec![failed(n)], more: true, after: None })
        }
        Request::PurgeJobs { ids } if ids.contains(&JobId([1; 16])) => {
            Some(Reply::Purged(vec![Ok(())]))
        }
        Request::PurgeJobs { ids } if ids.contains(&JobId([2; 16])) => {
            let was_retried = Refusal::new(Code::FailedPrecondition, "the job is pending");
            Some(Reply::Purged(vec![Err(was_retried)]))
        }
        _ => Some(Reply::Refused(
            Refusal::new(Code::DeadlineExceeded, "too late").with_unknown_outcome(),
        )),
    });
    let output = node.raftq(&["dead", "purge", "--all", "--timeout", "500ms"]);
    assert_eq!(
        (output.status.code(), stdout(&output).as_str()),
        (Some(6), ""),
        "{}",
        stderr(&output)
    );
    let text = stderr(&output);
    assert!(
        text.contains(&format!("job {}: not purged: the job is pending", JobId([2; 16]))),
        "{text}"
    );
    assert!(text.contains("1 job purged, and then:") && text.contains("dead list"), "{text}");
}

#[test]
fn dead_that_fails_as_a_whole_names_every_job() {
    let node = FakeNode::new(|request| match request {
        Request::WaitJobs { ids, .. } => {
            Some(Reply::Waited(ids.iter().map(|id| Ok(job(*id, Status::Failed))).collect()))
        }
        _ => Some(Reply::Refused(
            Refusal::new(Code::DeadlineExceeded, "too late").with_unknown_outcome(),
        )),
    });
    let [one, other] = [ID, DONE].map(|id| id.to_string());
    let output = node.raftq(&["dead", "retry", &one, &other, "--timeout", "500ms"]);
    assert_eq!(output.status.code(), Some(6), "{}", stderr(&output));
    for id in [one, other] {
        let named = format!("job {id}: it is unknown whether it was retried");
        assert!(stderr(&output).contains(&named), "{}", stderr(&output));
    }
}

#[test]
fn dead_show_is_for_what_failed() {
    let node = node();
    let output = node.raftq(&["dead", "show", &ID.to_string()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("attempt 1 begins on node-1"), "{}", stdout(&output));
    let output = node.raftq(&["dead", "show", &DONE.to_string()]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(1), ""));
    assert!(
        stderr(&output).contains(&format!("job {DONE}: it is completed")),
        "{}",
        stderr(&output)
    );
    assert_eq!(node.raftq(&["dead", "show", &GONE.to_string()]).status.code(), Some(3));
}

fn tried() -> JobView {
    let past = |attempt: u32, error: &str, exit_code: Option<i32>| AttemptView {
        attempt,
        worker: Some(WorkerId::built_in(NodeId(2))),
        fence: Fence::new(Index(u64::from(attempt)), 0),
        started_ms: Millis(1000 * u64::from(attempt)),
        ended_ms: Millis(1000 * u64::from(attempt) + 250),
        exit_code,
        error: error.into(),
    };
    let options = Options {
        priority: 7,
        at_ms: Some(Millis(1500)),
        retries: 9,
        backoff_ms: 500,
        timeout_ms: Some(30_000),
        ttl_ms: Some(3_600_000),
        tags: Tags::new([Tag::new("gpu").unwrap()]),
        ..Options::default()
    };
    JobView {
        attempt: 4,
        fence: Some(Fence::new(Index(9), 0)),
        started_ms: Some(Millis(60_000)),
        finished_ms: Some(Millis(185_000)),
        exit_code: None,
        error: Some("killed by signal 9 (SIGKILL)\u{1b}[2J".into()),
        options: Some(options.into()),
        past: vec![past(2, "exited with code 3", Some(3)), past(3, "worker node-2 was lost", None)],
        ..job(ID, Status::Failed)
    }
}

fn node_of(job: JobView) -> FakeNode {
    FakeNode::new(move |request| match request {
        Request::GetJob { .. } => Some(Reply::Job(Box::new(job.clone()))),
        _ => None,
    })
}

#[test]
fn show_tells_what_happened_in_order() {
    let node = node_of(tried());
    let output = node.raftq(&["show", &ID.to_string()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let expected = format!(
        "\
id         {ID}
queue      default
status     failed
job        echo 'a b'
priority   7
tags       gpu
retries    9, after 500ms at first, 10m at most
timeout    30s
ttl        1h

1970-01-01T00:00:00.001Z  submitted, to begin at 1970-01-01T00:00:01.500Z
                          attempt 1 is kept no more
1970-01-01T00:00:02.000Z  attempt 2 begins on node-2
1970-01-01T00:00:02.250Z  attempt 2 ends after 250ms: exited with code 3
1970-01-01T00:00:03.000Z  attempt 3 begins on node-2
1970-01-01T00:00:03.250Z  attempt 3 ends after 250ms: worker node-2 was lost
1970-01-01T00:01:00.000Z  attempt 4 begins on node-1
1970-01-01T00:03:05.000Z  attempt 4 ends after 2m05s: killed by signal 9 (SIGKILL)?[2J
1970-01-01T00:03:05.000Z  failed
"
    );
    assert_eq!(stdout(&output), expected);
    let object = json(&node.raftq(&["show", &ID.to_string(), "--json"]));
    assert_eq!(object["timeline"].as_array().unwrap().len(), 6, "{object}");
    assert_eq!(object, json(&node.raftq(&["get", &ID.to_string(), "--json"])));
    let text = stdout(&node.raftq(&["get", &ID.to_string()]));
    for line in
        ["priority   7", "tags       gpu", "timeout    30s", "  1970-01-01T00:00:02.000Z  att"]
    {
        assert!(text.contains(line), "{line:?} is missing:\n{text}");
    }
}

#[test]
fn show_tells_what_a_job_waits_for() {
    let text = |job: JobView| stdout(&node_of(job).raftq(&["show", &ID.to_string()]));
    let new = JobView { worker: None, fence: None, started_ms: None, ..job(ID, Status::Pending) };
    assert!(text(new.clone()).ends_with("now                       waits for its turn\n"));
    let held = JobView { held_ms: Some(Millis(86_400_000)), ..new };
    assert!(text(held.clone()).ends_with("  waits until 1970-01-02T00:00:00.000Z\n"));
    let got = stdout(&node_of(held).raftq(&["get", &ID.to_string()]));
    assert!(got.contains("waits      until 1970-01-02T00:00:00.000Z"), "{got}");
    let again = JobView { status: Status::Pending, finished_ms: None, error: None, ..tried() };
    let again = text(again);
    assert!(again.ends_with("now                       attempt 4 waits for its turn\n"), "{again}");
    let runs = text(job(ID, Status::Running));
    assert!(runs.ends_with("now                       attempt 1 runs\n"), "{runs}");
    // Its last attempt never began: what ended it is said once, where it ended.
    let expired = JobView {
        worker: None,
        fence: None,
        started_ms: None,
        exit_code: None,
        error: Some("not begun within its ttl of 1s".into()),
        ..job(ID, Status::Failed)
    };
    let expired = text(expired);
    assert!(expired.ends_with("Z  failed: not begun within its ttl of 1s\n"), "{expired}");
    assert!(!expired.contains("attempt"), "{expired}");
}

#[test]
fn submit_sends_what_is_asked_for() {
    let node = cli_fake::node_that_ends_jobs_as(Status::Completed);
    let output = node.raftq(&[
        "submit",
        "--id",
        &ID.to_string(),
        "--priority",
        "9",
        "--at",
        "2026-11-27T10:00:00Z",
        "--job-timeout",
        "30s",
        "--retries",
        "3",
        "--",
        "true",
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let options = Options {
        priority: 9,
        at_ms: Some(Millis(1_795_773_600_000)),
        timeout_ms: Some(30_000),
        retries: 3,
        ..Options::default()
    };
    let body = Body::Command(vec!["true".into()]);
    let job =
        NewJob { options: Some(options.into()), ..NewJob::plain(ID, QueueName::default(), body) };
    assert_eq!(node.asked(), [Request::SubmitJob(job)]);
}

/// Returns the command that a message says sends the job again, without the program and its nodes.
fn again(output: &std::process::Output) -> Vec<String> {
    let text = stderr(output);
    let (_, command) = text.split_once("never taken twice): raftq --addrs ").unwrap();
    // No word of these tests has a space.
    command.split_whitespace().skip(1).map(String::from).collect()
}

#[test]
fn submit_that_asks_again_is_the_same_job() {
    let sent = |args: &[&str]| {
        let node = node_that_refuses(Code::DeadlineExceeded, true);
        let output = node.raftq(args);
        assert_eq!(output.status.code(), Some(6), "{}", stderr(&output));
        let jobs: Vec<NewJob> = node
            .asked()
            .into_iter()
            .filter_map(|request| match request {
                Request::SubmitJob(job) => Some(job),
                _ => None,
            })
            .collect();
        (jobs[0].clone(), again(&output))
    };
    let id = ID.to_string();
    let asks = "--priority 0 --ttl 1h --job-timeout 1500ms --retries 3 --backoff 10s --backoff-max 1m \
        --tag zone=a --tag gpu";
    for when in ["--in 90s", "--at 23:59", "--at 2026-11-27T11:00:00.5+01:00"] {
        let words = format!("submit --timeout 500ms --id {id} --queue q {asks} {when} -- true");
        let (job, words) = sent(&words.split(' ').collect::<Vec<_>>());
        let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
        assert_eq!(words.contains(&"--in"), when == "--in 90s", "a delay stays one: {words:?}");
        assert!(!words.contains(&"23:59"), "tomorrow this is another time: {words:?}");
        words.splice(1..1, ["--timeout", "500ms"]);
        assert_eq!(sent(&words).0, job, "{words:?}");
    }
}

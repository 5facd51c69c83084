//! What the program says of each job when not all goes well: the id of a job that was taken is never lost,
//! and no exit code says more than is true.

#![expect(clippy::unwrap_used, reason = "a helper that fails has to fail its test")]
#![expect(clippy::disallowed_methods, reason = "a test of a time limit measures real time")]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a fake node answers few requests and refuses the rest"
)]

mod cli_fake;

use std::fs::File;
use std::io::PipeWriter;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use raftq::jobs::job::{Body, NewJob, Serves, Status};
use raftq::jobs::options::Tags;
use raftq::types::{Incarnation, JobId, Millis, NodeId, QueueName, Tag, WorkerId};
use raftq::wire::message::{Code, Refusal, Reply, Request, WorkerView};

use crate::cli_fake::{
    FakeNode, ID, job, json, node_that_ends_jobs_as, node_that_refuses, stderr, stdout, submitted,
};

const GONE: JobId = JobId([0x11; 16]);
const OTHER: JobId = JobId([0x22; 16]);

/// How much longer than its time limit the program may take: to start, and on a busy machine.
const SLACK: Duration = Duration::from_millis(700);

/// Returns the writing end of a pipe that nobody reads.
fn closed_pipe() -> PipeWriter {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer
}

fn run_to(command: &mut Command, stdout: impl Into<Stdio>) -> Output {
    command.stdout(stdout).output().unwrap()
}

fn full() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

/// Runs the program with a stdout that takes nothing: once full, once closed.
fn to_nowhere(node: &FakeNode, args: &[&str]) -> [Output; 2] {
    [run_to(&mut node.command(args), full()), run_to(&mut node.command(args), closed_pipe())]
}

fn words(body: &Body) -> &[String] {
    match body {
        Body::Command(words) => words,
        Body::Payload(_) => &[],
    }
}

#[test]
fn id_that_cannot_be_printed_is_said_on_stderr_and_is_no_success() {
    let node = node_that_ends_jobs_as(Status::Completed);
    let id = ID.to_string();
    for args in [
        &["submit", "--id", &id, "--", "true"][..],
        &["submit", "--json", "--id", &id, "--", "true"],
        &["submit", "--wait", "--id", &id, "--", "true"],
    ] {
        for output in to_nowhere(&node, args) {
            assert_eq!(output.status.code(), Some(1), "{args:?}: {}", stderr(&output));
            assert!(stderr(&output).contains(&id), "{args:?}: {}", stderr(&output));
            assert!(stderr(&output).contains("cannot write to stdout"), "{}", stderr(&output));
            assert!(stderr(&output).contains(&format!("get {id}")), "{}", stderr(&output));
        }
    }
}

#[test]
fn id_is_said_on_stderr_where_stdout_was_closed_from_the_start() {
    let node = node_that_ends_jobs_as(Status::Completed);
    let id = ID.to_string();
    // The runtime opens /dev/null instead, which a parent may also have done on purpose: no failure.
    let output = Command::new("sh")
        .args(["-c", r#"exec "$@" >&-"#, "sh", env!("CARGO_BIN_EXE_raftq"), "--addrs", &node.addr])
        .args(["submit", "--id", &id, "--", "true"])
        .output()
        .unwrap();
    assert!(stderr(&output).contains(&format!("job {id} was taken")), "{}", stderr(&output));
    let to_null = run_to(&mut node.command(&["submit", "--", "true"]), {
        File::options().write(true).open("/dev/null").unwrap()
    });
    assert_eq!((to_null.status.code(), stderr(&to_null).as_str()), (Some(0), ""), "on purpose");
}

#[test]
fn ids_of_a_batch_that_cannot_be_printed_are_said_on_stderr() {
    let node = node_that_ends_jobs_as(Status::Completed);
    let path = std::env::temp_dir().join(format!("raftq-unprinted-{}", std::process::id()));
    let batch = format!(
        "{{\"command\":[\"a\"],\"id\":\"{ID}\"}}\n\n{{\"command\":[\"b\"],\"id\":\"{GONE}\"}}\n\
         {{\"command\":[\"c\"],\"id\":\"{OTHER}\",\"wait\":true}}\n"
    );
    std::fs::write(&path, batch).unwrap();
    let outputs = to_nowhere(&node, &["submit", "--batch", path.to_str().unwrap()]);
    std::fs::remove_file(&path).unwrap();
    for output in outputs {
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        for (line, id) in [(1, ID), (3, GONE), (4, OTHER)] {
            let named = format!("line {line}: job {id} was taken");
            assert!(stderr(&output).contains(&named), "{named:?}: {}", stderr(&output));
        }
    }
}

#[test]
fn reader_that_has_gone_away_is_no_failure_only_of_what_can_be_shown_again() {
    let node = node_that_ends_jobs_as(Status::Completed);
    let id = ID.to_string();
    let get = run_to(&mut node.command(&["get", &id]), closed_pipe());
    assert_eq!((get.status.code(), stderr(&get).as_str()), (Some(0), ""));
    let node_of_jobs = FakeNode::new(|request| match request {
        Request::ListJobs(_) => {
            Some(Reply::Jobs { jobs: vec![job(ID, Status::Running)], more: false, after: None })
        }
        _ => None,
    });
    let list = run_to(&mut node_of_jobs.command(&["list"]), closed_pipe());
    assert_eq!((list.status.code(), stderr(&list).as_str()), (Some(0), ""));
    for verb in ["wait", "cancel"] {
        for output in to_nowhere(&node, &[verb, &id]) {
            assert_eq!(output.status.code(), Some(1), "{verb}");
            assert!(stderr(&output).contains("cannot write to stdout"), "{}", stderr(&output));
        }
    }
}

/// Knows one job that completed and one that runs; [`GONE`] it does not know.
fn node_of_three_fates() -> FakeNode {
    let no_such = || Refusal::new(Code::NotFound, "no such job");
    FakeNode::new(move |request| match request {
        Request::WaitJobs { ids, .. } => {
            let fate = |id: &JobId| match *id {
                ID => Ok(job(ID, Status::Completed)),
                GONE => Err(no_such()),
                other => Ok(job(other, Status::Running)),
            };
            Some(Reply::Waited(ids.iter().map(fate).collect()))
        }
        Request::CancelJobs { ids } => {
            let fate = |id: &JobId| match *id {
                ID => Err(Refusal::new(Code::FailedPrecondition, "it had completed already")),
                GONE => Err(no_such()),
                _ => Ok(Status::Cancelled),
            };
            Some(Reply::Cancelled(ids.iter().map(fate).collect()))
        }
        _ => None,
    })
}

fn objects(output: &Output) -> Vec<serde_json::Value> {
    stdout(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn cancel_gives_each_job_its_own_line_and_the_worst_exit() {
    let node = node_of_three_fates();
    let [one, gone, other] = [ID, GONE, OTHER].map(|id| id.to_string());
    let output = node.raftq(&["cancel", &one, &gone, &other]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let lines = format!("{one}  not cancelled\n{gone}  not found\n{other}  cancelled\n");
    assert_eq!(stdout(&output), lines);
    assert!(stderr(&output).contains(&format!("job {gone}: no such job")), "{}", stderr(&output));
    assert!(stderr(&output).contains(&format!("job {one}: it had")), "{}", stderr(&output));
    let output = node.raftq(&["cancel", &one, &other]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));

    let output = node.raftq(&["cancel", "--json", &one, &gone, &other]);
    let objects = objects(&output);
    assert_eq!(objects.iter().map(|one| &one["id"]).collect::<Vec<_>>(), [&one, &gone, &other]);
    assert!(objects[1]["status"].is_null(), "{}", objects[1]);
    assert!(objects[1]["error"].to_string().contains("no such job"), "{}", objects[1]);
    assert_eq!(objects[2]["status"], "cancelled");
}

#[test]
fn cancel_that_fails_as_a_whole_names_every_job() {
    let node = node_that_refuses(Code::DeadlineExceeded, true);
    let [one, other] = [ID, OTHER].map(|id| id.to_string());
    let output = node.raftq(&["cancel", &one, &other]);
    assert_eq!(output.status.code(), Some(6), "{}", stderr(&output));
    for id in [one, other] {
        let named = format!("job {id}: it is unknown whether it was cancelled");
        assert!(stderr(&output).contains(&named), "{}", stderr(&output));
    }
}

#[test]
fn wait_gives_each_job_its_own_line_and_the_worst_exit() {
    let node = node_of_three_fates();
    let [one, gone, other] = [ID, GONE, OTHER].map(|id| id.to_string());
    let output = node.raftq(&["wait", &one, &gone]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert_eq!(stdout(&output), format!("{one}  completed  exit code 0\n{gone}  not found\n"));
    assert!(stderr(&output).contains(&format!("job {gone}: no such job")), "{}", stderr(&output));

    let output = node.raftq(&["wait", "--timeout", "300ms", "--json", &one, &gone, &other]);
    assert_eq!(output.status.code(), Some(6), "{}", stderr(&output));
    let objects = objects(&output);
    assert_eq!(objects.iter().map(|one| &one["id"]).collect::<Vec<_>>(), [&one, &gone, &other]);
    assert_eq!(
        (&objects[0]["status"], &objects[2]["status"]),
        (&"completed".into(), &"running".into())
    );
    assert!(stderr(&output).contains(&format!("job {other} has not ended")), "{}", stderr(&output));
}

#[test]
fn time_limit_holds_where_nobody_leads() {
    let leaderless = || node_that_refuses(Code::Unavailable, false);
    // This one knew the job once and has lost its leader since.
    let was_asked = AtomicBool::new(false);
    let lost = FakeNode::new(move |request| match request {
        Request::WaitJobs { ids, .. } if !was_asked.swap(true, Ordering::Relaxed) => {
            Some(Reply::Waited(ids.iter().map(|id| Ok(job(*id, Status::Running))).collect()))
        }
        _ => Some(Reply::Refused(Refusal::new(Code::Unavailable, "no leader"))),
    });
    let id = ID.to_string();
    let limit = Duration::from_secs(2);
    for (node, args, exit) in [
        (leaderless(), &["wait", &id][..], 4),
        (lost, &["wait", &id], 6),
        (leaderless(), &["cluster", "status", "--wait"], 4),
    ] {
        let begun = Instant::now();
        let output = node.raftq(args);
        let took = begun.elapsed();
        assert_eq!(output.status.code(), Some(exit), "{args:?}: {}", stderr(&output));
        assert!(took < limit + SLACK, "{args:?}: {took:?}");
        // A call without a hope of an answer in the time left may end a little early.
        assert!(took > limit / 2, "{args:?}: {took:?}");
    }
}

#[test]
fn job_that_was_taken_is_named_when_its_end_cannot_be_seen() {
    let node = FakeNode::new(|request| match request {
        Request::SubmitJob(job) => Some(Reply::Submitted(submitted(job))),
        _ => Some(Reply::Refused(Refusal::new(Code::Unavailable, "no leader"))),
    });
    let id = ID.to_string();
    let args = ["submit", "--timeout", "500ms", "--wait", "--id", &id, "--", "true"];
    let output = node.raftq(&args);
    assert_eq!(
        output.status.code(),
        Some(6),
        "4 would say that it never runs: {}",
        stderr(&output)
    );
    assert!(stderr(&output).contains(&format!("job {id} was taken")), "{}", stderr(&output));
    assert!(stderr(&output).contains(&format!("wait {id}")), "{}", stderr(&output));
}

/// Takes payloads; one worker serves the queue `mail`, one that is lost served `lost`.
fn node_with_a_worker_for_mail() -> FakeNode {
    let worker = |state: &str, queue: &str| WorkerView {
        id: WorkerId::built_in(NodeId(1)),
        incarnation: Incarnation(1),
        serves: match queue {
            "" => Serves::Commands,
            queue => Serves::Payloads(vec![QueueName::new(queue).unwrap()]),
        },
        tags: Tags::new(queue.is_empty().then(|| Tag::new("zone=a").unwrap())),
        slots: 1,
        running: 0,
        state: state.into(),
        registered_ms: Millis(1),
        intake: raftq::jobs::intake::Intake::Open,
    };
    let workers = vec![worker("live", "mail"), worker("lost", "lost"), worker("live", "")];
    FakeNode::new(move |request| match request {
        Request::SubmitJob(job) => Some(Reply::Submitted(submitted(job))),
        Request::SubmitBatch(jobs) => {
            Some(Reply::SubmittedBatch(jobs.iter().map(|job| Ok(submitted(job))).collect()))
        }
        Request::ListWorkers => Some(Reply::Workers(workers.clone())),
        _ => None,
    })
}

#[test]
fn payload_that_no_worker_serves_is_taken_with_a_warning() {
    let node = node_with_a_worker_for_mail();
    for queue in ["default", "lost"] {
        let output = node.raftq(&["submit", "--queue", queue, "--payload", "x"]);
        assert_eq!((output.status.code(), stdout(&output).len()), (Some(0), 33));
        let warning = format!("no worker serves payloads of queue '{queue}'");
        assert!(stderr(&output).contains(&warning), "{}", stderr(&output));
    }
    let output = node.raftq(&["submit", "--queue", "mail", "--payload", "x"]);
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
    node.raftq(&["submit", "--", "true"]);
    let looks = node.asked().iter().filter(|one| matches!(one, Request::ListWorkers)).count();
    assert_eq!(looks, 3, "a command costs no look at the workers");
    let batch =
        b"{\"payload\":\"a\",\"queue\":\"nobody\"}\n{\"payload\":\"b\",\"queue\":\"mail\"}\n\
        {\"payload\":\"c\",\"queue\":\"nobody\"}\n{\"command\":[\"true\"]}\n";
    let output = node.raftq_in(&["submit", "--batch", "-"], batch);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stderr(&output).matches("no worker serves").count(), 1, "{}", stderr(&output));
    assert!(stderr(&output).contains("'nobody'"), "{}", stderr(&output));
}

#[test]
fn job_whose_tags_no_worker_has_is_taken_with_a_warning() {
    let node = node_with_a_worker_for_mail();
    let output = node.raftq(&["submit", "--tag", "zone=a", "--", "true"]);
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
    let output = node.raftq(&["submit", "--tag", "zone=a", "--tag", "gpu", "--", "true"]);
    assert_eq!((output.status.code(), stdout(&output).len()), (Some(0), 33));
    assert!(stderr(&output).contains("all of the tags gpu,zone=a"), "{}", stderr(&output));
    // The worker of that queue has none, and one that has it serves another kind.
    let output = node.raftq(&["submit", "--queue", "mail", "--payload", "x", "--tag", "zone=a"]);
    assert!(stderr(&output).contains("the tag zone=a"), "{}", stderr(&output));
    let batch = b"{\"command\":[\"a\"],\"tag\":\"gpu\"}\n{\"command\":[\"b\"],\"tag\":\"gpu\"}\n";
    let output = node.raftq_in(&["submit", "--batch", "-"], batch);
    assert_eq!(stderr(&output).matches("the tag gpu").count(), 1, "{}", stderr(&output));
}

/// Ends a job as its first word says.
fn node_that_obeys() -> FakeNode {
    let jobs = std::sync::Mutex::new(std::collections::BTreeMap::<JobId, NewJob>::new());
    FakeNode::new(move |request| match request {
        Request::SubmitBatch(batch) => {
            let mut jobs = jobs.lock().unwrap();
            jobs.extend(batch.iter().map(|job| (job.id, job.clone())));
            Some(Reply::SubmittedBatch(batch.iter().map(|job| Ok(submitted(job))).collect()))
        }
        Request::WaitJobs { ids, .. } => {
            let jobs = jobs.lock().unwrap();
            let end = |id: &JobId| {
                let [fate, output] = words(&jobs.get(id).unwrap().body) else {
                    panic!("two words")
                };
                let status = match fate.as_str() {
                    "fail" => Status::Failed,
                    "hang" => Status::Running,
                    _ => Status::Completed,
                };
                let mut view = job(*id, status);
                view.output = format!("{output}\n").into_bytes().into();
                Ok(view)
            };
            Some(Reply::Waited(ids.iter().map(end).collect()))
        }
        _ => None,
    })
}

#[test]
fn batch_and_wait_prints_outputs_in_order_and_names_the_jobs_that_failed() {
    let node = node_that_obeys();
    let batch = format!(
        "{{\"command\":[\"ok\",\"one\"]}}\n\n{{\"command\":[\"fail\",\"two\"],\"id\":\"{ID}\"}}\n\
         {{\"command\":[\"ok\",\"three\"]}}\n"
    );
    let output = node.raftq_in(&["submit", "--wait", "--batch", "-"], batch.as_bytes());
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(8), "one\ntwo\nthree\n"));
    let named = format!("line 3: {ID}  failed  exit code 3");
    assert!(stderr(&output).contains(&named), "{}", stderr(&output));
    assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
    let output = node.raftq_in(&["submit", "--json", "--wait", "--batch", "-"], batch.as_bytes());
    let statuses: Vec<_> = objects(&output).iter().map(|one| one["status"].clone()).collect();
    assert_eq!(statuses, ["completed", "failed", "completed"]);

    // A line that asks to wait is waited for; the others print their ids, before all outputs.
    let some = format!(
        "{{\"command\":[\"ok\",\"one\"],\"wait\":true}}\n{{\"command\":[\"ok\",\"two\"],\"id\":\"{ID}\"}}\n"
    );
    let output = node.raftq_in(&["submit", "--batch", "-"], some.as_bytes());
    assert_eq!((output.status.code(), stdout(&output)), (Some(0), format!("{ID}\none\n")));

    let hangs = format!("{{\"command\":[\"hang\",\"-\"],\"id\":\"{ID}\"}}\n");
    let args = ["submit", "--timeout", "400ms", "--wait", "--batch", "-"];
    let output = node.raftq_in(&args, hangs.as_bytes());
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(6), ""));
    assert!(stderr(&output).contains(&format!("job {ID} has not ended")), "{}", stderr(&output));
}

#[test]
fn unhealthy_cluster_stays_so_when_nobody_reads_about_it() {
    let node = node_that_refuses(Code::Unavailable, false);
    let output = run_to(&mut node.command(&["cluster", "ready"]), closed_pipe());
    assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
    let object = json(&node.raftq(&["cluster", "ready", "--json"]));
    assert_eq!(object["is_ready"], false);
}

//! The program against a node that answers as a test wants: what each answer becomes for a user.

#![expect(clippy::unwrap_used, reason = "a helper that fails has to fail its test")]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a fake node answers few requests and refuses the rest"
)]

mod cli_fake;

use bytes::Bytes;
use raftq::jobs::job::{Body, JobView, NewJob, Serves, Status};
use raftq::jobs::options::Tags;
use raftq::types::{
    ClusterId, Incarnation, Index, JobId, Millis, NodeId, QueueName, Tag, Term, WorkerId,
};
use raftq::wire::message::{
    ClusterStatus, Code, LogLine, NodeStatus, Refusal, Reply, Request, WorkerView,
};

use crate::cli_fake::{
    FakeNode, ID, job, json, node_that_ends_jobs_as, node_that_refuses, stderr, stdout, submitted,
};

#[test]
fn submit_prints_the_id_alone() {
    let node = node_that_ends_jobs_as(Status::Completed);
    let id = ID.to_string();
    let output =
        node.raftq(&["submit", "--id", &id, "--queue", "q", "--", "echo", "a b", "--json"]);
    assert_eq!(
        (output.status.code(), stdout(&output)),
        (Some(0), format!("{id}\n")),
        "{}",
        stderr(&output)
    );
    assert_eq!(stderr(&output), "");
    let words = ["echo", "a b", "--json"].map(String::from).to_vec();
    let body = Body::Command(words);
    let queue = QueueName::new("q").unwrap();
    let sent = node.asked().into_iter().find_map(|request| match request {
        Request::SubmitJob(job) => Some(vec![job]),
        Request::SubmitBatch(jobs) => Some(jobs),
        _ => None,
    });
    assert_eq!(sent, Some(vec![NewJob { id: ID, queue, body, options: None }]));
    let output = node.raftq(&["submit", "--json", "--id", &id, "--", "true"]);
    assert_eq!(json(&output), serde_json::json!({"id": id, "created": true}));
}

#[test]
fn submit_sends_payloads_from_text_file_and_stdin() {
    let node = node_that_ends_jobs_as(Status::Completed);
    let path = std::env::temp_dir().join(format!("raftq-payload-{}", std::process::id()));
    std::fs::write(&path, b"from \xff file").unwrap();
    let file = format!("@{}", path.display());
    for (payload, input, bytes) in [
        ("some text", &b""[..], &b"some text"[..]),
        ("-", b"from \0 stdin", b"from \0 stdin"),
        (&file, b"", b"from \xff file"),
    ] {
        let output = node.raftq_in(&["submit", "--payload", payload], input);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let is_submit = |request: &Request| matches!(request, Request::SubmitJob(_));
        let last = node.asked().into_iter().rfind(is_submit);
        let Some(Request::SubmitJob(job)) = last else { panic!("{last:?}") };
        assert_eq!(job.body, Body::Payload(Bytes::copy_from_slice(bytes)));
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn submit_and_wait_prints_the_output_as_it_is() {
    let node = node_that_ends_jobs_as(Status::Completed);
    let output = node.raftq(&["submit", "--wait", "--", "x"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(output.stdout, b"hello \xff\n");
    assert_eq!(stderr(&output), "");
    let object = json(&node.raftq(&["submit", "--wait", "--json", "--", "x"]));
    assert_eq!(
        (&object["status"], &object["output"]),
        (&"completed".into(), &"hello \u{fffd}\n".into())
    );
}

#[test]
fn submit_and_wait_for_a_job_that_fails_exits_with_8() {
    let node = node_that_ends_jobs_as(Status::Failed);
    let output = node.raftq(&["submit", "--wait", "--", "x"]);
    assert_eq!(output.status.code(), Some(8));
    assert_eq!(output.stdout, b"hello \xff\n", "what it printed is shown all the same");
    assert!(stderr(&output).contains("failed  exit code 3"), "{}", stderr(&output));
    let cancelled = node_that_ends_jobs_as(Status::Cancelled);
    assert_eq!(cancelled.raftq(&["submit", "--wait", "--", "x"]).status.code(), Some(8));
}

#[test]
fn wait_that_runs_out_of_time_exits_with_6_and_says_how_to_go_on() {
    let node = node_that_ends_jobs_as(Status::Running);
    let id = ID.to_string();
    let output = node.raftq(&["wait", &id, "--timeout", "300ms"]);
    assert_eq!((output.status.code(), stdout(&output)), (Some(6), format!("{id}  running\n")));
    let again = format!("raftq --addrs {} wait {id}", node.addr);
    assert!(stderr(&output).contains(&again), "{}", stderr(&output));
    assert!(stderr(&output).contains("running on node-1"), "{}", stderr(&output));
}

#[test]
fn submit_whose_outcome_is_unknown_exits_with_6_and_the_command_that_asks_again() {
    let node = node_that_refuses(Code::DeadlineExceeded, true);
    let id = ID.to_string();
    let output = node.raftq(&["submit", "--id", &id, "--queue", "q", "--", "sh", "-c", "it's"]);
    assert_eq!(
        (output.status.code(), stdout(&output).as_str()),
        (Some(6), ""),
        "{}",
        stderr(&output)
    );
    let program = format!("raftq --addrs {}", node.addr);
    let get = format!("{program} get {id}");
    let again = format!(r"{program} submit --id {id} --queue q -- sh -c 'it'\''s'");
    assert!(stderr(&output).contains(&get), "{}", stderr(&output));
    assert!(stderr(&output).contains(&again), "{}", stderr(&output));
}

#[test]
fn submit_whose_connection_breaks_after_it_was_sent_is_unknown() {
    let node = FakeNode::new(|_request| None);
    let output = node.raftq(&["submit", "--timeout", "700ms", "--", "true"]);
    assert_eq!(
        (output.status.code(), stdout(&output).as_str()),
        (Some(6), ""),
        "{}",
        stderr(&output)
    );
}

#[test]
fn refusals_become_exit_codes() {
    for (code, exit) in [
        (Code::InvalidArgument, 2),
        (Code::PermissionDenied, 7),
        (Code::AlreadyExists, 1),
        (Code::Unavailable, 4),
    ] {
        let output =
            node_that_refuses(code, false).raftq(&["submit", "--timeout", "500ms", "--", "true"]);
        assert_eq!(output.status.code(), Some(exit), "{code}: {}", stderr(&output));
        assert!(stderr(&output).contains(code.as_str()), "{code}: {}", stderr(&output));
        assert_eq!(stdout(&output), "");
    }
    let gone = node_that_refuses(Code::NotFound, false);
    for verb in ["get", "wait", "cancel"] {
        let output = gone.raftq(&[verb, &ID.to_string()]);
        assert_eq!(output.status.code(), Some(3), "{verb}: {}", stderr(&output));
    }
}

#[test]
fn batch_prints_an_id_a_line_in_order() {
    let node = node_that_ends_jobs_as(Status::Completed);
    let ids: Vec<JobId> = (1..=2500).map(|n| JobId::new(Millis(9), n)).collect();
    let lines: Vec<String> =
        ids.iter().map(|id| format!(r#"{{"id":"{id}","command":["true"]}}"#)).collect();
    let output = node.raftq_in(&["submit", "--batch", "-"], lines.join("\n").as_bytes());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let expected: Vec<String> = ids.iter().map(ToString::to_string).collect();
    assert_eq!(stdout(&output).lines().collect::<Vec<_>>(), expected);
}

#[test]
fn batch_names_the_lines_that_were_refused_and_prints_the_others() {
    let node = FakeNode::new(|request| match request {
        Request::SubmitBatch(jobs) => {
            let result = |(at, job): (usize, &NewJob)| match at {
                1 => Err(Refusal::new(Code::AlreadyExists, "another content")),
                _ => Ok(submitted(job)),
            };
            Some(Reply::SubmittedBatch(jobs.iter().enumerate().map(result).collect()))
        }
        _ => None,
    });
    let batch = "{\"command\":[\"a\"]}\n\n{\"command\":[\"b\"]}\n{\"command\":[\"c\"]}\n";
    let output = node.raftq_in(&["submit", "--batch", "-"], batch.as_bytes());
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let lines: Vec<usize> = stdout(&output).lines().map(str::len).collect();
    assert_eq!(lines, [32, 0, 32], "an empty line keeps the place of the refused one");
    assert!(stderr(&output).contains("line 3: job"), "{}", stderr(&output));
    assert!(stderr(&output).contains("2 jobs were taken, 1 were not"), "{}", stderr(&output));
    let output = node.raftq_in(&["submit", "--json", "--batch", "-"], batch.as_bytes());
    let objects: Vec<serde_json::Value> =
        stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        objects.iter().map(|one| one["line"].as_u64()).collect::<Vec<_>>(),
        [1, 3, 4].map(Some)
    );
    assert!(objects[1]["id"].is_null(), "an id on stdout is one that was taken: {}", objects[1]);
    assert!(objects[1]["error"].to_string().contains("another content"), "{}", objects[1]);
}

#[test]
fn batch_whose_outcome_is_unknown_names_every_id() {
    let node = node_that_refuses(Code::DeadlineExceeded, true);
    let batch = format!("{{\"command\":[\"a\"],\"id\":\"{ID}\"}}\n{{\"command\":[\"b\"]}}\n");
    let output = node.raftq_in(&["submit", "--batch", "-"], batch.as_bytes());
    assert_eq!(
        (output.status.code(), stdout(&output).as_str()),
        (Some(6), ""),
        "{}",
        stderr(&output)
    );
    assert!(stderr(&output).contains(&format!("get {ID}")), "{}", stderr(&output));
    assert!(stderr(&output).contains("line 2:"), "{}", stderr(&output));
}

#[test]
fn batch_and_wait_exits_with_8_if_one_failed() {
    let node = node_that_ends_jobs_as(Status::Failed);
    let batch = b"{\"command\":[\"a\"]}\n";
    let output = node.raftq_in(&["submit", "--wait", "--batch", "-"], batch);
    assert_eq!(output.status.code(), Some(8), "{}", stderr(&output));
    assert_eq!(output.stdout, b"hello \xff\n", "what it printed, as with a single job");
}

#[test]
fn get_shows_a_job_to_people_and_to_programs() {
    let node = node_that_ends_jobs_as(Status::Failed);
    let id = ID.to_string();
    let text = stdout(&node.raftq(&["get", &id]));
    for line in ["status     failed", "exit code  3", "worker     node-1", "job        echo 'a b'"]
    {
        assert!(text.contains(line), "{line:?} is missing:\n{text}");
    }
    let object = json(&node.raftq(&["get", &id, "--json"]));
    assert_eq!((&object["exit_code"], &object["fence"]), (&3.into(), &20480.into()));
}

#[test]
fn wait_prints_a_line_a_job() {
    let node = node_that_ends_jobs_as(Status::Completed);
    let (one, other) = (ID.to_string(), JobId([1; 16]).to_string());
    let output = node.raftq(&["wait", &one, &other]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let lines = format!("{one}  completed  exit code 0\n{other}  completed  exit code 0\n");
    assert_eq!(stdout(&output), lines);
    let output = node.raftq(&["wait", "--json", &one, &other]);
    assert_eq!(stdout(&output).lines().count(), 2);
}

#[test]
fn cancel_tells_what_had_ended_before() {
    let id = ID.to_string();
    let output = node_that_ends_jobs_as(Status::Cancelled).raftq(&["cancel", &id]);
    assert_eq!((output.status.code(), stdout(&output)), (Some(0), format!("{id}  cancelled\n")));
    let output = node_that_ends_jobs_as(Status::Completed).raftq(&["cancel", &id]);
    assert_eq!((output.status.code(), stdout(&output)), (Some(1), format!("{id}  completed\n")));
}

#[test]
fn list_goes_on_page_by_page_up_to_the_limit() {
    let page = |after: u8| -> Vec<JobView> {
        (after + 1..=after + 3).map(|n| job(JobId([n; 16]), Status::Running)).collect()
    };
    let node = FakeNode::new(move |request| match request {
        Request::ListJobs(filter) => {
            let after = filter.after.map_or(0, |id| id.0[0]);
            let jobs: Vec<_> = page(after).into_iter().take(filter.limit as usize).collect();
            Some(Reply::Jobs { jobs, more: after < 20, after: None })
        }
        _ => None,
    });
    let output = node.raftq(&["list", "--limit", "7", "--status", "running"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output).lines().count(), 8, "a header and seven jobs:\n{}", stdout(&output));
    assert!(
        stderr(&output).contains(&format!("--after {}", JobId([7; 16]))),
        "{}",
        stderr(&output)
    );
    let output = node.raftq(&["list", "--json"]);
    assert_eq!(stdout(&output).lines().count(), 24);
}

fn cluster(from_leader: bool, digests: [&str; 2]) -> ClusterStatus {
    let node = |id: u64, digest: &str| NodeStatus {
        id: NodeId(id),
        addr: format!("127.0.0.1:{}", 7100 + id),
        role: if id == 1 { "leader" } else { "follower" }.into(),
        is_alive: true,
        match_index: Index(70),
        applied_index: Index(70),
        digest_index: Index(64),
        digest: digest.into(),
    };
    let [one, other] = digests;
    ClusterStatus {
        cluster_id: ClusterId([7; 16]),
        node: NodeId(1),
        from_leader,
        term: Term(3),
        leader: from_leader.then_some(NodeId(1)),
        commit_index: Index(70),
        nodes: vec![node(1, one), node(2, other)],
    }
}

fn node_of(status: ClusterStatus) -> FakeNode {
    FakeNode::new(move |request| match request {
        Request::GetClusterStatus { .. } => Some(Reply::ClusterStatus(Box::new(status.clone()))),
        _ => None,
    })
}

#[test]
fn cluster_status_has_the_fields_of_the_contract() {
    let node = node_of(cluster(true, ["aa", "aa"]));
    let output = node.raftq(&["cluster", "status", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let object = json(&output);
    for field in ["cluster_id", "term", "leader", "commit_index", "nodes"] {
        assert!(!object[field].is_null(), "{field}: {object}");
    }
    for field in
        ["id", "addr", "role", "is_alive", "match_index", "applied_index", "digest_index", "digest"]
    {
        assert!(!object["nodes"][1][field].is_null(), "{field}: {object}");
    }
    let text = stdout(&node.raftq(&["cluster", "status"]));
    assert!(text.contains("leader node 1  term 3  commit index 70"), "{text}");
    assert_eq!(stdout(&node.raftq(&["cluster", "leader"])), "1\n");
    assert_eq!(node.raftq(&["cluster", "status", "--alive", "2"]).status.code(), Some(0));
    assert_eq!(node.raftq(&["cluster", "status", "--alive", "3"]).status.code(), Some(5));
    assert_eq!(node.raftq(&["cluster", "status", "--wait"]).status.code(), Some(0));
}

#[test]
fn cluster_without_a_leader_exits_with_4_and_shows_what_the_node_knows() {
    let node = node_of(cluster(false, ["aa", ""]));
    let output = node.raftq(&["cluster", "status", "--json", "--timeout", "1s"]);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert_eq!(json(&output)["from_leader"], false);
    let output = node.raftq(&["cluster", "leader", "--timeout", "1s"]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(4), ""));
}

#[test]
fn nodes_that_differ_make_the_cluster_unhealthy() {
    let output = node_of(cluster(true, ["aa", "bb"])).raftq(&["cluster", "status"]);
    assert_eq!(output.status.code(), Some(5));
    assert!(stderr(&output).contains("differ at index 64"), "{}", stderr(&output));
}

#[test]
fn workers_and_log_are_tables_and_objects() {
    let node = FakeNode::new(|request| match request {
        Request::ListWorkers => Some(Reply::Workers(vec![WorkerView {
            id: WorkerId::built_in(NodeId(1)),
            incarnation: Incarnation(u64::MAX),
            serves: Serves::Payloads(vec![QueueName::new("mail").unwrap()]),
            tags: Tags::new([Tag::new("gpu").unwrap(), Tag::new("a=1").unwrap()]),
            slots: 4,
            running: 2,
            state: "live".into(),
            registered_ms: Millis(1),
            intake: raftq::jobs::intake::Intake::Open,
        }])),
        Request::ListLog { from: Index(7), .. } => Some(Reply::Log(vec![LogLine {
            index: Index(7),
            term: Term(1),
            kind: "noop".into(),
            bytes: 0,
            now_ms: Millis(0),
            summary: "a leader begins".into(),
        }])),
        Request::ListLog { .. } => Some(Reply::Log(Vec::new())),
        _ => None,
    });
    let text = stdout(&node.raftq(&["workers"]));
    assert!(text.contains("node-1") && text.contains("payloads of mail  a=1,gpu"), "{text}");
    let object = json(&node.raftq(&["workers", "--json"]));
    assert_eq!(object["incarnation"], u64::MAX.to_string(), "beyond 2^53 it is a string");
    assert_eq!((&object["running"], &object["slots"]), (&2.into(), &4.into()));
    assert_eq!(object["tags"], serde_json::json!(["a=1", "gpu"]));
    let text = stdout(&node.raftq(&["log", "list", "--from", "7"]));
    assert!(text.contains("noop") && text.contains("a leader begins"), "{text}");
    assert_eq!(json(&node.raftq(&["log", "list", "--from", "7", "--json"]))["index"], 7);
}

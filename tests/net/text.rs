//! Text mode as `nc` and people use it: lines, ends, limits, and answers that need no quorum.

use std::io::Write;
use std::time::Duration;

use raftq::jobs::command::{Command, Registration, Stamped};
use raftq::jobs::job::{NewJob, Serves};
use raftq::jobs::machine::Machine;
use raftq::jobs::options::{Options, Tags};
use raftq::net::inbox::Ask;
use raftq::net::shared::{Patience, TEXT_CONNECTIONS_MAX};
use raftq::raft::core::{Role, Status};
use raftq::replica::view::{Answer, Look};
use raftq::types::{ClusterId, Incarnation, Index, Millis, NodeId, Tag, Term, WorkerId};
use raftq::wire::message::{ClusterStatus, LogLine, NodeStatus, Reply, Request};

use crate::client::{connect, exchange, job, rest};
use crate::node::{LONG, Node, Plan, now, until};

fn machine() -> Machine {
    let mut machine = Machine::new();
    let registration = Registration {
        worker: WorkerId::built_in(NodeId(1)),
        incarnation: Incarnation(1),
        slots: 4,
        serves: Serves::Commands,
        gave_up: None,
        tags: Tags::default(),
    };
    let commands =
        [Command::RegisterWorker(registration), Command::SubmitJob((0..30).map(job).collect())];
    for (index, command) in (1..).zip(commands) {
        let _applied = machine.apply(Index(index), &Stamped { now: Millis(1000), command });
    }
    machine
}

fn look() -> Look {
    let node = |id: u64| NodeStatus {
        id: NodeId(id),
        addr: format!("127.0.0.1:{}", 7100 + id),
        role: if id == 1 { "leader".into() } else { "follower".into() },
        is_alive: id != 3,
        match_index: Index(2),
        applied_index: Index(2),
        digest_index: Index(64),
        digest: "0123456789abcdef0123456789abcdef".into(),
    };
    Look {
        machine: machine(),
        raft: Status {
            id: NodeId(1),
            role: Role::Leader,
            term: Term(4),
            vote: Some(NodeId(1)),
            leader: Some(NodeId(1)),
            commit_index: Index(2),
            applied_index: Index(2),
            durable_index: Index(2),
            last_index: Index(2),
            first_index: Index(1),
            window_first_index: Index(1),
            window_entries: 2,
            window_bytes: 200,
            snapshot_index: Index(0),
            uncommitted_entries: 0,
            uncommitted_bytes: 0,
            transferring: None,
            own_term_committed: true,
            refused_messages: 0,
            healing: None,
            peers: Vec::new(),
        },
        cluster: ClusterStatus {
            cluster_id: ClusterId([7; 16]),
            node: NodeId(1),
            from_leader: true,
            term: Term(4),
            leader: Some(NodeId(1)),
            commit_index: Index(2),
            nodes: (1..=3).map(node).collect(),
        },
        waiting: 0,
        log_now: Millis(61_000),
    }
}

/// Answers the local questions of text mode until the test ends.
fn answer_looks(node: &Node) {
    answer_looks_with(node, look);
}

fn answer_looks_with(node: &Node, look: fn() -> Look) {
    let reads = node.outlets.reads.clone();
    let answering = move || {
        while let Ok(ask) = reads.recv() {
            match ask {
                Ask::Look { reply } => reply.answer(Answer::Look(Box::new(look()))),
                Ask::Request { request: Request::ListLog { from, limit }, reply, .. } => {
                    assert!(limit <= 200);
                    let line = LogLine {
                        index: from,
                        term: Term(4),
                        kind: "SubmitJob".into(),
                        bytes: 90,
                        now_ms: Millis(1000),
                        summary: "a job\nOK".into(),
                    };
                    reply.answer(Reply::Log(vec![line]).into());
                }
                other => panic!("{other:?}"),
            }
        }
    };
    std::thread::Builder::new().name("looks".into()).spawn(answering).unwrap();
}

fn say(node: &Node, lines: &str) -> String {
    String::from_utf8(exchange(node.addr, lines.as_bytes())).unwrap()
}

#[test]
fn every_command_ends_with_ok_and_the_connection_by_itself() {
    let node = Node::start();
    answer_looks(&node);
    node.metrics().turn(
        Duration::from_micros(10),
        Duration::from_micros(9),
        crate::node::clock_now(),
    );
    for command in [
        "help",
        "help jobs",
        "ping",
        "ruok",
        "ready",
        "version",
        "status",
        "leader",
        "nodes",
        "raft",
        "jobs",
        "dead",
        "workers",
        "queues",
        "log",
        "metrics",
        "config",
        "quit",
    ] {
        let answer = say(&node, &format!("{command}\n"));
        assert!(answer.ends_with("OK\n"), "{command}: {answer}");
        assert_eq!(answer.lines().filter(|line| *line == "OK").count(), 1, "{command}: {answer}");
    }
}

#[test]
fn several_lines_are_answered_in_order() {
    let node = Node::start();
    answer_looks(&node);
    let answer = say(&node, "ping\nnodes\n\nruok\n");
    let nodes = answer.find("ADDR").expect("a table");
    assert!(answer.starts_with("pong\nOK\n") && answer.ends_with("imok\nOK\n"), "{answer}");
    assert!(nodes > 0 && answer.contains("1*"), "{answer}");
}

#[test]
fn windows_and_telnet_line_ends_are_understood_and_ours_are_plain() {
    let node = Node::start();
    let answer = exchange(node.addr, b"\xff\xfd\x03\r\nping\r\n");
    assert_eq!(answer, b"pong\nOK\n");
}

#[test]
fn last_line_needs_no_newline_when_the_input_ends() {
    let node = Node::start();
    let mut stream = connect(node.addr);
    stream.write_all(b"ruok").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(rest(&mut stream), b"imok\nOK\n");
}

#[test]
fn half_closed_connection_gets_all_its_answers() {
    let node = Node::start();
    answer_looks(&node);
    let mut stream = connect(node.addr);
    stream.write_all(b"status\njobs\nping\n").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let answer = String::from_utf8(rest(&mut stream)).unwrap();
    assert_eq!(answer.matches("OK\n").count(), 3, "{answer}");
}

#[test]
fn megabyte_without_a_newline_is_refused_after_one_line() {
    let node = Node::start();
    let answer = say(&node, &"s".repeat(1 << 20));
    assert!(answer.starts_with("ERR LINE_TOO_LONG"), "{answer}");
    until("its place is given back", || node.metrics().connections_open.value() == 0);
}

#[test]
fn line_of_4096_bytes_is_taken_and_one_more_is_not() {
    let node = Node::start();
    let fits = format!("ping{}\n", " ".repeat(4092));
    assert_eq!(say(&node, &fits), "pong\nOK\n");
    assert!(say(&node, &format!(" {fits}")).starts_with("ERR LINE_TOO_LONG"));
}

#[test]
fn binary_in_a_line_ends_the_connection() {
    let node = Node::start();
    let answer = exchange(node.addr, b"sta\x00tus\nping\n");
    assert!(answer.starts_with(b"ERR INVALID_ARGUMENT"));
    assert!(!String::from_utf8_lossy(&answer).contains("pong"));
}

#[test]
fn unknown_and_ambiguous_commands_are_told_what_to_try() {
    let node = Node::start();
    let answer = say(&node, "statsu\nl\nPING\n");
    let lines: Vec<&str> = answer.lines().collect();
    assert!(
        lines[0].starts_with("ERR INVALID_ARGUMENT") && lines[0].contains("did you mean status")
    );
    assert!(lines[1].contains("leader or log"), "{answer}");
    assert_eq!(lines[2..], ["pong", "OK"]);
}

#[test]
fn status_and_raft_are_pairs_with_the_names_scripts_read() {
    let node = Node::start();
    answer_looks(&node);
    node.metrics().turn(
        Duration::from_micros(10),
        Duration::from_micros(9),
        crate::node::clock_now(),
    );
    let status = say(&node, "status\n");
    for line in [
        "node=1",
        "role=leader",
        "term=4",
        "leader=1",
        "nodes=3",
        "nodes_alive=2",
        "jobs_pending=30",
        "health=ok",
        "uptime_s=10",
    ] {
        assert!(status.lines().any(|l| l == line), "{line} in {status}");
    }
    let raft = say(&node, "raft\n");
    for key in ["memory_entries=2", "memory_bytes=200", "voted_for=1", "snapshot_index=0"] {
        assert!(raft.lines().any(|line| line == key), "{key} in {raft}");
    }
    let config = say(&node, "config\n");
    assert!(config.contains("data=\"/data dir\"\n") && config.contains("slots=4\n"), "{config}");
}

#[test]
fn jobs_are_listed_up_to_the_limit_and_one_is_shown_whole() {
    let node = Node::start();
    answer_looks(&node);
    let all = say(&node, "jobs\n");
    assert_eq!(all.matches("pending").count(), 20, "{all}");
    assert!(all.contains("there are more"));
    assert_eq!(say(&node, "jobs limit=1000 queue=default\n").matches("pending").count(), 30);
    assert_eq!(say(&node, "jobs status=failed\n").matches("default").count(), 0);
    let one = say(&node, &format!("job {}\n", job(3).id));
    assert!(one.contains("status=pending\n") && one.contains("command=true\n"), "{one}");
    let none = say(&node, "job 00000000000000000000000000000000\n");
    assert!(none.starts_with("ERR NOT_FOUND"), "{none}");
}

/// Three jobs that failed, the first of them last; the third waits again; a fourth is held.
fn look_at_failures() -> Look {
    let mut machine = Machine::new();
    let jobs = (0..4).map(|n| {
        let ttl_ms = if n < 3 { Some(3000 - 1000 * u64::from(n)) } else { None };
        let delay_ms = (n == 3).then_some(90_000);
        let tags = Tags::new([Tag::new("gpu").unwrap()]);
        let options = Options { priority: 8, ttl_ms, delay_ms, tags, ..Options::default() };
        NewJob { options: Some(options.into()), ..job(n) }
    });
    let mut commands = vec![(1000, Command::SubmitJob(jobs.collect()))];
    commands.extend([(2000, Command::Tick), (3000, Command::Tick), (4000, Command::Tick)]);
    commands.push((5000, Command::RetryJob(vec![job(2).id])));
    for (index, (now, command)) in (1..).zip(commands) {
        let _applied = machine.apply(Index(index), &Stamped { now: Millis(now), command });
    }
    Look { machine, ..look() }
}

#[test]
fn dead_shows_the_jobs_that_failed_last_first() {
    let node = Node::start();
    answer_looks_with(&node, look_at_failures);
    let [one, two] = [0, 1].map(|n| job(n).id.to_string());
    let dead = say(&node, "dead\n");
    let rows: Vec<&str> = dead.lines().filter(|line| line.contains("not begun")).collect();
    assert_eq!(rows.len(), 2, "{dead}");
    assert!(rows[0].starts_with(&one) && rows[1].starts_with(&two), "{dead}");
    assert!(rows[0].ends_with("1    -     57s     not begun within its ttl of 3s"), "{dead}");
    assert!(!dead.contains("in all"), "{dead}");
    let newest = say(&node, "dead 1\n");
    assert!(newest.contains(&one) && !newest.contains(&two), "{newest}");
    assert!(newest.contains("# 2 in all"), "{newest}");
}

#[test]
fn job_shows_what_it_waits_for_and_its_attempts() {
    let node = Node::start();
    answer_looks_with(&node, look_at_failures);
    let held = say(&node, &format!("job {}\n", job(3).id));
    for line in ["priority=8", "tags=gpu", "held_ms=91000", "ttl_ms=-", "retries=0", "attempt=1"] {
        assert!(held.lines().any(|l| l == line), "{line} in {held}");
    }
    assert!(!held.contains("ATTEMPT"), "{held}");
    let again = say(&node, &format!("job {}\n", job(2).id));
    assert!(again.contains("attempt=2\n") && again.contains("held_ms=-\n"), "{again}");
    let row = "1        -       2000        2000      -     not begun within its ttl of 1s\n";
    assert!(again.contains("\nATTEMPT  WORKER  STARTED_MS  ENDED_MS  EXIT  ERROR\n"), "{again}");
    assert!(again.contains(row), "{again}");
    assert!(say(&node, "status\n").contains("\njobs_held=1\n"));
}

#[test]
fn why_gives_a_line_for_each_reason() {
    let node = Node::start();
    answer_looks_with(&node, look_at_failures);
    let why = say(&node, &format!("why {}\n", job(3).id));
    let lines = "status=pending\n\
                 delayed=\"It is delayed by its submit, for another 30.0s.\"\n\
                 no_worker=\"No live worker runs commands.\"\nOK\n";
    assert!(why.starts_with("# local view") && why.ends_with(lines), "{why}");
    let ended = say(&node, &format!("why {}\n", job(0).id));
    assert!(ended.contains("ended=\"It failed 57.0s ago, before attempt 1 began: not"), "{ended}");
    assert!(say(&node, &format!("why {:032}\n", 0)).starts_with("ERR NOT_FOUND"));
}

#[test]
fn log_shows_entries_and_no_entry_can_forge_a_last_line() {
    let node = Node::start();
    answer_looks(&node);
    let log = say(&node, "log from=7 limit=3\n");
    assert!(log.contains("\n7") && log.contains("SubmitJob") && log.contains("a job.OK"), "{log}");
    assert!(log.ends_with("\nOK\n"), "{log}");
}

#[test]
fn leader_is_one_line_from_the_view_alone() {
    let node = Node::start();
    assert_eq!(say(&node, "leader\n"), "n1 127.0.0.1:7101 term=4\nOK\n");
    node.publish(|view| view.leader = None);
    assert!(say(&node, "leader\n").starts_with("ERR UNAVAILABLE"));
    node.publish(|view| view.ready = false);
    assert!(say(&node, "ready\n").starts_with("ERR NOT_READY"));
}

#[test]
fn raft_thread_that_stands_still_is_said_to() {
    let patience = Patience { look: Duration::from_millis(50), ..Patience::default() };
    let node = Plan { patience, ..Plan::default() }.start();
    let answer = say(&node, "status\nping\n");
    assert!(answer.starts_with("ERR UNAVAILABLE the Raft thread did not answer"), "{answer}");
    assert!(answer.ends_with("pong\nOK\n"), "{answer}");
}

#[test]
fn shell_stays_with_a_prompt_until_quit() {
    let node = Node::start();
    let mut stream = connect(node.addr);
    stream.write_all(b"shell\n").unwrap();
    let mut greeting = String::new();
    while !greeting.ends_with("n1[leader]> ") {
        let mut byte = [0];
        std::io::Read::read_exact(&mut stream, &mut byte).unwrap();
        greeting.push(char::from(byte[0]));
    }
    // Longer than the pause after which other text connections end.
    std::thread::sleep(Patience::default().text_pause * 2);
    stream.write_all(b"ping\nquit\n").unwrap();
    assert_eq!(rest(&mut stream), b"pong\nOK\nn1[leader]> OK\n");
}

#[test]
fn one_text_connection_too_many_is_told_so_and_frames_are_not_disturbed() {
    let node = Node::start();
    let held: Vec<_> = (0..TEXT_CONNECTIONS_MAX)
        .map(|_| {
            let mut stream = connect(node.addr);
            stream.write_all(b"pin").unwrap();
            stream
        })
        .collect();
    let all_held = u64::try_from(TEXT_CONNECTIONS_MAX).unwrap();
    until("all are being served", || node.metrics().connections_open.value() == all_held);
    let started = now();
    loop {
        let answer = say(&node, "ping\n");
        if answer.starts_with("ERR RESOURCE_EXHAUSTED") {
            break;
        }
        // The last of those held has not been sniffed yet.
        assert!(started.elapsed() < LONG, "{answer}");
    }
    crate::client::Client::connect(node.addr).ping();
    drop(held);
    until("places are given back", || say(&node, "ping\n").starts_with("pong"));
}

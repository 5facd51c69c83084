//! The pages over HTTP: what each answers, and that nothing after a request is ever read as a command.

use std::io::Write;
use std::time::Duration;

use raftq::types::Ticks;

use crate::client::{connect, exchange, rest};
use crate::node::Node;

fn get(node: &Node, request: &str) -> String {
    String::from_utf8(exchange(node.addr, request.as_bytes())).unwrap()
}

#[test]
fn metrics_are_told_as_prometheus_text_and_the_connection_ends() {
    let node = Node::start();
    node.metrics().turn(Duration::from_micros(1500), Duration::from_micros(9), Ticks(1));
    node.metrics().jobs_held.set(7);
    node.metrics().dead_bytes.set(8);
    node.metrics().dead_dropped.set(9);
    node.metrics().crons.set(3);
    node.metrics().crons_fired.set(5);
    let answer = get(&node, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("Connection: close"),
        "{head}"
    );
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
    assert!(body.contains("raftq_turn_micros_max_recent 1500\n"), "{body}");
    assert!(body.contains("raftq_turn_cpu_micros_max 9\n"), "{body}");
    for known in [
        "raftq_jobs_held 7",
        "raftq_dead_bytes 8",
        "raftq_dead_dropped_total 9",
        "raftq_crons 3",
        "raftq_crons_fired_total 5",
    ] {
        assert!(body.lines().any(|line| line == known), "{known} in {body}");
    }
    for line in body.lines() {
        let name = line.trim_start_matches("# HELP ").trim_start_matches("# TYPE ");
        assert!(name.starts_with("raftq_"), "{line}");
        if !line.starts_with('#') {
            let (_, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
    let again = get(&node, "GET /metrics HTTP/1.1\r\n\r\n");
    assert!(
        again.contains("raftq_turn_micros_max_recent 0\n"),
        "a scrape begins the recent maxima anew"
    );
    assert!(again.contains("raftq_turn_micros_max 1500\n"));
}

#[test]
fn head_has_no_body_and_other_methods_and_paths_are_refused() {
    let node = Node::start();
    let head = get(&node, "HEAD /metrics HTTP/1.1\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
    for (request, status) in [
        ("GET /nothing HTTP/1.1\r\n\r\n", "404"),
        ("GET /metrics?x=1 HTTP/1.0\r\n\r\n", "200"),
        ("POST /metrics HTTP/1.1\r\nContent-Length: 7\r\n\r\nstatus\n", "405"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400"),
        ("GET /\x01 HTTP/1.1\r\n\r\n", "400"),
        ("DELETE /jobs HTTP/1.1\r\n\r\n", "405"),
    ] {
        let answer = get(&node, request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request:?}: {answer}");
    }
}

#[test]
fn head_that_never_ends_is_too_long() {
    let node = Node::start();
    let endless = format!("GET / HTTP/1.1\r\nA: {}", "b".repeat(20_000));
    assert!(get(&node, &endless).starts_with("HTTP/1.1 431"));
}

#[test]
fn bytes_after_a_request_are_no_commands() {
    let node = Node::start();
    let answer = get(&node, "GET /healthz HTTP/1.1\r\n\r\nping\nversion\n");
    assert!(!answer.contains("pong") && !answer.contains("version="), "{answer}");
    assert_eq!(node.metrics().text_commands.value(), 0);
    let answer = get(&node, "ping\nGET /metrics HTTP/1.1\r\n\r\nping\n");
    assert!(answer.starts_with("pong\nOK\nERR "), "{answer}");
    assert_eq!(answer.matches("pong").count(), 1, "a request in the middle ends the connection");
}

#[test]
fn request_in_pieces_is_understood() {
    let node = Node::start();
    let mut stream = connect(node.addr);
    for piece in ["G", "ET /rea", "dyz HTT", "P/1.1\r", "\nHost: x\r\n", "\r\n"] {
        stream.write_all(piece.as_bytes()).unwrap();
        stream.flush().unwrap();
    }
    assert!(rest(&mut stream).starts_with(b"HTTP/1.1 200 OK"));
}

#[test]
fn readiness_follows_the_view_and_health_the_raft_thread() {
    let node = Node::start();
    assert!(get(&node, "GET /readyz HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200"));
    node.publish(|view| view.ready = false);
    assert!(get(&node, "GET /readyz HTTP/1.1\r\n\r\n").contains("catching up"));
    node.publish(|view| view.leader = None);
    assert!(get(&node, "GET /readyz HTTP/1.1\r\n\r\n").contains("no leader"));
    assert!(get(&node, "GET /healthz HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 503"));
    node.metrics().turn(
        Duration::from_micros(10),
        Duration::from_micros(9),
        crate::node::clock_now(),
    );
    let healthy = get(&node, "GET /healthz HTTP/1.1\r\n\r\n");
    assert!(healthy.starts_with("HTTP/1.1 200"), "no leader is no reason to restart: {healthy}");
}

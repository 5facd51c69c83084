//! The verb `queue` against a node that answers as a test wants.

#![expect(clippy::unwrap_used, reason = "a helper that fails has to fail its test")]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a fake node answers few requests and refuses the rest"
)]

#[expect(dead_code, reason = "what it knows of jobs is for the tests about them")]
mod cli_fake;

use std::sync::atomic::{AtomicU64, Ordering};

use raftq::jobs::rules::{QueueChange, Rate};
use raftq::types::{Millis, QueueName};
use raftq::wire::message::{Code, QueueChanged, QueueView, Reply, Request};

use crate::cli_fake::{FakeNode, json, node_that_refuses, stderr, stdout};

fn queue(name: &str, pending: u64, running: u64) -> QueueView {
    QueueView {
        name: QueueName::new(name).unwrap(),
        pending,
        held: 0,
        running,
        completed: 3,
        failed: 0,
        cancelled: 0,
        paused_ms: None,
        draining_ms: Some(Millis(9)),
        limit: None,
        rate: None,
    }
}

/// Has two queues, and makes every change.
fn node() -> FakeNode {
    let rate = Some(Rate { count: 100, per_ms: 60_000 });
    let mail = QueueView {
        held: 2,
        draining_ms: None,
        paused_ms: Some(Millis(7)),
        limit: Some(4),
        rate,
        ..queue("mail", 5, 1)
    };
    let queues = vec![QueueView { draining_ms: None, ..queue("default", 0, 0) }, mail];
    FakeNode::new(move |request| match request {
        Request::ListQueues(filter) if filter.after.is_none() => {
            Some(Reply::Queues { queues: queues.clone(), more: false })
        }
        Request::ChangeQueue { queue, .. } => {
            let known = queues.iter().find(|it| it.name == *queue);
            let pending = known.map_or(0, |it| it.pending);
            Some(Reply::QueueChanged(QueueChanged { pending, running: 0 }))
        }
        _ => None,
    })
}

#[test]
fn queues_are_a_table_and_objects() {
    let output = node().raftq(&["queue", "list"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    let head = "QUEUE PENDING HELD RUNNING COMPLETED FAILED CANCELLED RULES";
    assert_eq!(rows[0], head.split(' ').collect::<Vec<_>>());
    assert_eq!(rows[1], ["default", "0", "0", "0", "3", "0", "0", "-"]);
    assert_eq!(rows[2][..7], ["mail", "5", "2", "1", "3", "0", "0"]);
    assert_eq!(rows[2][7..], ["paused,limit=4,rate=100/1m"]);
    let output = node().raftq(&["queue", "list", "--json"]);
    let last: serde_json::Value =
        serde_json::from_str(stdout(&output).lines().nth(1).unwrap()).unwrap();
    assert_eq!(
        last,
        serde_json::json!({
            "queue": "mail", "pending": 5, "held": 2, "running": 1, "completed": 3, "failed": 0,
            "cancelled": 0, "paused_ms": 7, "draining_ms": null, "limit": 4,
            "rate": {"count": 100, "per_ms": 60_000}
        })
    );
}

#[test]
fn changes_are_sent_as_they_were_written() {
    let rate = Rate { count: 5, per_ms: 1000 };
    for (args, change, did) in [
        (&["pause", "mail"][..], QueueChange::Pause, "paused"),
        (&["resume", "mail"], QueueChange::Resume, "resumed"),
        (&["drain", "mail"], QueueChange::Drain, "draining"),
        (&["limit", "mail", "4"], QueueChange::Limit(Some(4)), "limit 4"),
        (&["limit", "mail", "none"], QueueChange::Limit(None), "no limit"),
        (&["rate", "mail", "5/s"], QueueChange::Rate(Some(rate)), "rate 5/1s"),
        (&["rate", "mail", "none"], QueueChange::Rate(None), "no rate"),
    ] {
        let node = node();
        let output = node.raftq(&[&["queue"], args].concat());
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), format!("mail  {did}  5 pending, 0 running\n"));
        assert_eq!(stderr(&output), "", "{args:?}");
        let queue = QueueName::new("mail").unwrap();
        assert_eq!(node.asked(), [Request::ChangeQueue { queue, change }]);
    }
    let object = json(&node().raftq(&["queue", "rate", "mail", "5/1s", "--json"]));
    assert_eq!(
        object,
        serde_json::json!({
            "queue": "mail", "change": "rate", "limit": null, "rate": {"count": 5, "per_ms": 1000},
            "pending": 5, "running": 0
        })
    );
}

#[test]
fn rule_for_a_queue_that_nobody_knows_is_made_with_a_remark() {
    let output = node().raftq(&["queue", "pause", "maill"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("no job is known in queue 'maill'"), "{}", stderr(&output));
    let output = node().raftq(&["queue", "pause", "default"]);
    assert_eq!(stderr(&output), "", "it is empty, and known");
    let output = node().raftq(&["queue", "resume", "maill"]);
    assert_eq!(stderr(&output), "", "it makes no rule");
}

#[test]
fn change_whose_outcome_is_unknown_says_that_it_can_be_made_again() {
    let node = node_that_refuses(Code::DeadlineExceeded, true);
    let output = node.raftq(&["queue", "pause", "mail", "--timeout", "500ms"]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(6), ""));
    assert!(stderr(&output).contains("twice is the same as once"), "{}", stderr(&output));
}

/// Is drained, and has one job less at each look, but never less than so many.
fn node_that_drains(least: u64) -> FakeNode {
    let looks = AtomicU64::new(0);
    FakeNode::new(move |request| match request {
        Request::ChangeQueue { .. } => {
            Some(Reply::QueueChanged(QueueChanged { pending: 1, running: 1 }))
        }
        Request::ListQueues(_) => {
            let left = 2u64.saturating_sub(looks.fetch_add(1, Ordering::Relaxed)).max(least);
            let view =
                QueueView { paused_ms: (least > 0).then_some(Millis(8)), ..queue("q", left, 0) };
            Some(Reply::Queues { queues: vec![view], more: false })
        }
        _ => None,
    })
}

#[test]
fn drain_waits_until_nothing_is_left() {
    let node = node_that_drains(0);
    let output = node.raftq(&["queue", "drain", "q", "--wait"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output), "q  draining  1 pending, 1 running\n");
    assert!(stderr(&output).contains("queue q: 2 pending, 0 running"), "{}", stderr(&output));
    assert!(stderr(&output).contains("queue q is empty"), "{}", stderr(&output));
    let looks = node.asked().iter().filter(|it| matches!(it, Request::ListQueues(_))).count();
    assert_eq!(looks, 3);
    let output = node_that_drains(0).raftq(&["queue", "drain", "q"]);
    assert_eq!(stderr(&output), "", "nobody watches, and nobody asked to wait");
}

#[test]
fn drain_that_runs_out_of_time_exits_with_6_and_says_how_to_go_on() {
    let node = node_that_drains(1);
    let output = node.raftq(&["queue", "drain", "q", "--wait", "--timeout", "800ms"]);
    assert_eq!(output.status.code(), Some(6), "{}", stderr(&output));
    let text = stderr(&output);
    assert!(text.contains("jobs left: 1") && text.contains("queue drain q --wait"), "{text}");
    assert!(text.contains("queue q is paused") && text.contains("queue resume q"), "{text}");
}

#[test]
fn drain_that_somebody_ends_is_no_success() {
    let node = FakeNode::new(|request| match request {
        Request::ChangeQueue { .. } => {
            Some(Reply::QueueChanged(QueueChanged { pending: 1, running: 0 }))
        }
        Request::ListQueues(_) => {
            let view = QueueView { draining_ms: None, ..queue("q", 1, 0) };
            Some(Reply::Queues { queues: vec![view], more: false })
        }
        _ => None,
    });
    let output = node.raftq(&["queue", "drain", "q", "--wait"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("it was resumed"), "{}", stderr(&output));
}

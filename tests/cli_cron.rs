//! The verb `cron` against a node that answers as a test wants.

#![expect(clippy::unwrap_used, reason = "a helper that fails has to fail its test")]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a fake node answers few requests and refuses the rest"
)]

#[expect(dead_code, reason = "what it knows of jobs is for the tests about them")]
mod cli_fake;

use raftq::jobs::cron::{CronChange, CronView, Missed, NewCron};
use raftq::jobs::job::Body;
use raftq::jobs::options::Options;
use raftq::types::{CronName, JobId, Millis, QueueName};
use raftq::wire::crons::{CronAdded, CronChanged};
use raftq::wire::message::{Code, Reply, Request};

use crate::cli_fake::{FakeNode, json, node_that_refuses, stderr, stdout};

fn name(text: &str) -> CronName {
    CronName::new(text).unwrap()
}

fn view(text: &str) -> CronView {
    CronView {
        name: name(text),
        spec: "30 2 * * *".into(),
        tz: "Europe/Berlin".into(),
        missed: Missed::Once,
        queue: QueueName::new("mail").unwrap(),
        created_ms: Millis(1),
        paused_ms: None,
        next_ms: Some(Millis(1_795_773_600_000)),
        last_slot_ms: None,
        last_job: None,
        last_error: None,
        fired: 3,
        skipped: 1,
        options: None,
        body: None,
    }
}

/// Has three crons, and makes every change.
fn node() -> FakeNode {
    FakeNode::new(|request| match request {
        Request::ListCrons(filter) => {
            let body = Some(Body::Command(vec!["echo".into(), "a b".into()]));
            let crons = match &filter.name {
                Some(name) => vec![CronView { body, ..view(name.as_str()) }],
                None if filter.after.is_some() => vec![],
                None => vec![
                    view("a"),
                    CronView { paused_ms: Some(Millis(7)), next_ms: None, ..view("b") },
                    CronView { last_error: Some("queue mail was drained".into()), ..view("c") },
                ],
            };
            Some(Reply::Crons { crons, more: false })
        }
        Request::AddCron(_) => {
            let next_ms = Some(Millis(1_795_773_600_000));
            Some(Reply::CronAdded(CronAdded { created: true, next_ms }))
        }
        Request::ChangeCron { change, .. } => {
            let job = match change {
                CronChange::Trigger(id) => Some(*id),
                _ => None,
            };
            Some(Reply::CronChanged(CronChanged { next_ms: None, job }))
        }
        Request::ListWorkers => Some(Reply::Workers(vec![])),
        _ => None,
    })
}

#[test]
fn cron_is_sent_as_it_was_written() {
    let node = node();
    let args = ["cron", "add", "nightly", "30 2 * * *", "--tz", "Europe/Berlin", "--missed", "all"];
    let more = ["--queue", "mail", "--retries", "3", "--", "./backup", "-x"];
    let output = node.raftq(&[&args[..], &more].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output), "nightly  added  next 2026-11-27T10:00:00.000Z\n");
    let cron = NewCron {
        name: name("nightly"),
        spec: "30 2 * * *".into(),
        tz: "Europe/Berlin".into(),
        missed: Missed::All,
        queue: QueueName::new("mail").unwrap(),
        body: Body::Command(vec!["./backup".into(), "-x".into()]),
        options: Options::shared(Options { retries: 3, ..Options::default() }),
    };
    assert_eq!(node.asked().first(), Some(&Request::AddCron(Box::new(cron))));
    let object = json(&node.raftq(&["cron", "add", "p", "@hourly", "--payload", "x", "--json"]));
    let wanted = serde_json::json!({"cron": "p", "created": true, "next_ms": 1_795_773_600_000u64});
    assert_eq!(object, wanted);
}

#[test]
fn cron_that_is_none_is_a_wrong_command_line() {
    for (args, why) in [
        (&["x", "0 25 * * *", "--", "true"][..], "field 2 (hour): 25 is out of 0 to 23"),
        (&["x", "* * *", "--", "true"], "3 fields"),
        (&["a b", "@daily", "--", "true"], "a name is"),
        (&["x", "@daily"], "add a cron of what?"),
        (&["x", "@daily", "--at", "10:00", "--", "true"], "name a delay"),
        (&["x", "@daily", "--missed", "some", "--", "true"], "skip, once or all"),
        (&["x", "@daily", "--tz", "a zone", "--", "true"], "Europe/Berlin"),
    ] {
        let node = node();
        let output = node.raftq(&[&["cron", "add"], args].concat());
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains(why), "{args:?}: {}", stderr(&output));
        assert_eq!(node.asked(), [], "{args:?}");
    }
}

#[test]
fn crons_are_a_table_and_objects() {
    let text = stdout(&node().raftq(&["cron", "list"]));
    let lines: Vec<&str> = text.lines().collect();
    let head: Vec<&str> = lines[0].split_whitespace().collect();
    assert_eq!(head, ["CRON", "SPEC", "ZONE", "QUEUE", "NEXT", "LAST", "FIRED", "NOTE"]);
    assert!(lines[1].starts_with("a ") && lines[1].contains("2026-11-27T10:00:00.000Z"), "{text}");
    assert!(lines[2].ends_with("paused") && lines[3].ends_with("queue mail was drained"), "{text}");
    let object = json(&node().raftq(&["cron", "show", "a", "--json"]));
    assert_eq!(object["command"], serde_json::json!(["echo", "a b"]));
    assert_eq!((&object["missed"], &object["skipped"]), (&"once".into(), &1.into()));
    let shown = stdout(&node().raftq(&["cron", "show", "a"]));
    assert!(shown.contains("job         echo 'a b'\n"), "{shown}");
}

#[test]
fn changes_are_sent_as_they_were_written() {
    let id: JobId = "0192f3a07c6e4b1d8f00a1b2c3d4e5f6".parse().unwrap();
    for (args, change, said) in [
        (&["pause", "a"][..], CronChange::Pause, "a  paused\n"),
        (&["resume", "a"], CronChange::Resume, "a  resumed\n"),
        (&["remove", "a"], CronChange::Remove, "a  removed\n"),
        (
            &["trigger", "a", "--id", "0192f3a07c6e4b1d8f00a1b2c3d4e5f6"],
            CronChange::Trigger(id),
            "0192f3a07c6e4b1d8f00a1b2c3d4e5f6\n",
        ),
    ] {
        let node = node();
        let output = node.raftq(&[&["cron"], args].concat());
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(0), said), "{args:?}");
        assert_eq!(node.asked(), [Request::ChangeCron { name: name("a"), change }]);
    }
}

#[test]
fn change_whose_outcome_is_unknown_says_how_to_ask_again() {
    for (args, hint) in [
        (&["add", "a", "@daily", "--payload", "x"][..], "twice is the same as once"),
        (&["pause", "a"], "twice is the same as once"),
        (&["remove", "a"], "exit code 3 means that it is gone"),
        (&["trigger", "a"], "cron trigger a --id "),
    ] {
        let node = node_that_refuses(Code::DeadlineExceeded, true);
        let output = node.raftq(&[&["cron"], args, &["--timeout", "500ms"]].concat());
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(6), ""), "{args:?}");
        assert!(stderr(&output).contains(hint), "{}", stderr(&output));
    }
}

//! What users write, and what they are answered when it is wrong: values, batch lines, JSON, help.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use clap::{CommandFactory, Parser};
use raftq::cli::args::{Cli, Verb};
use raftq::cli::asks::Asks;
use raftq::cli::batch::{Defaults, Items, LINE_BYTES_MAX, parse_line};
use raftq::cli::exit::{Effect, Exit, exit_of, worse};
use raftq::cli::node;
use raftq::cli::out::{Column, Out, Table};
use raftq::cli::shape::{EXACT_MAX, JobShape, Number};
use raftq::cli::submit::{WORD_BYTES_MAX, fault};
use raftq::cli::target::{Origin, Target};
use raftq::cli::values::{self, Addresses, Peers};
use raftq::jobs::command::Limits;
use raftq::jobs::job::{AttemptView, BODY_BYTES_MAX, Body, JobView, Status};
use raftq::jobs::options::{Options, Tags};
use raftq::types::{Fence, JobId, Millis, NodeId, QueueName, Tag, UniqueKey, WorkerId};
use raftq::wire::message::{Code, Refusal};

#[test]
fn durations_have_units() {
    for (text, ms) in [
        ("500ms", 500),
        ("5s", 5000),
        ("2m", 120_000),
        ("1h", 3_600_000),
        ("1m30s", 90_000),
        ("0s", 0),
    ] {
        assert_eq!(values::duration(text), Ok(Duration::from_millis(ms)), "{text}");
    }
    for wrong in ["", "s", "5", "5x", "-5s", "1.5s", " 5s", "5s ", "5s5", "99999999999999999999s"] {
        assert!(values::duration(wrong).is_err(), "{wrong:?}");
    }
    assert!(values::duration("10").unwrap_err().contains("10s"), "the unit is suggested");
    assert!(values::duration("40000d").unwrap_err().contains("too long"));
}

#[test]
fn numbers_are_digits() {
    assert_eq!(values::number("0"), Ok(0));
    assert_eq!(values::number("18446744073709551615"), Ok(u64::MAX));
    assert!(values::number("18446744073709551616").unwrap_err().contains("at most"));
    for wrong in ["", "-1", "+1", "1.5", "1e3", "0x10", " 1", "x", "\u{661}"] {
        assert!(values::number(wrong).unwrap_err().contains("digits only"), "{wrong:?}");
    }
    assert_eq!(values::count("1"), Ok(1));
    assert!(values::count("0").unwrap_err().contains("at least 1"));
}

#[test]
fn a_time_limit_of_nothing_is_refused() {
    assert!(values::limit("0ms").is_err());
    assert_eq!(values::limit("1ms"), Ok(Duration::from_millis(1)));
}

#[test]
fn sizes_are_binary_or_decimal_as_written() {
    for (text, bytes) in [
        ("4096", 4096),
        ("4096B", 4096),
        ("16KiB", 16 << 10),
        ("64MiB", 64 << 20),
        ("64mib", 64 << 20),
        ("1 GiB", 1 << 30),
        ("10MB", 10_000_000),
    ] {
        assert_eq!(values::size(text), Ok(bytes), "{text}");
    }
    for wrong in ["", "MiB", "1.5MiB", "-1", "12xyz", "9999999999TiB"] {
        assert!(values::size(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn addresses_are_host_and_port() {
    for good in ["127.0.0.1:7101", "localhost:1", "node-1.example:65535", "[::1]:7101"] {
        assert_eq!(values::address(good), Ok(good.to_owned()));
    }
    for wrong in [
        "",
        "7101",
        "localhost",
        "localhost:",
        ":7101",
        "localhost:0",
        "localhost:65536",
        "a b:1",
        "::1:7101",
        "[::1]7101",
        "[zz]:1",
        "localhost:+80",
        "http://localhost:7101",
        "a:1 b:2",
    ] {
        assert!(values::address(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn address_lists_drop_repeats_and_refuse_nothing() {
    assert!(values::addresses("a:1 b:2").unwrap_err().contains("commas"));
    assert!(values::addresses("http://a:1").unwrap_err().contains("scheme"));
    let both = Addresses(vec!["a:1".into(), "b:2".into()]);
    assert_eq!(values::addresses("a:1, b:2,,a:1"), Ok(both));
    assert!(values::addresses("").is_err());
    assert!(values::addresses(",").is_err());
    let many: Vec<String> = (1..=65).map(|port| format!("a:{port}")).collect();
    assert!(values::addresses(&many.join(",")).unwrap_err().contains("at most 64"));
}

#[test]
fn peer_lists_name_ids() {
    let two = Peers(vec![(NodeId(1), "a:1".into()), (NodeId(2), "b:2".into())]);
    assert_eq!(values::peers("1=a:1,2=b:2"), Ok(two));
    for wrong in ["", "a:1", "x=a:1", "1=a", "-1=a:1", "1=", "=a:1"] {
        assert!(values::peers(wrong).is_err(), "{wrong:?}");
    }
}

fn line(text: &str) -> Result<Option<Body>, String> {
    let item = parse_line(1, text.as_bytes(), &Defaults::default())?;
    Ok(item.map(|item| item.job.body))
}

#[test]
fn batch_line_takes_the_options_of_submit_by_name() {
    let command = Body::Command(vec!["sh".into(), "-c".into(), "exit 3".into()]);
    assert_eq!(line(r#"{"command":["sh","-c","exit 3"]}"#), Ok(Some(command)));
    let text =
        r#" {"queue":"mail","payload":"@x","id":"0192f3a07c6e4b1d8f00a1b2c3d4e5f6","wait":true} "#;
    let item = parse_line(7, text.as_bytes(), &Defaults::default()).unwrap().unwrap();
    assert_eq!(item.line, 7);
    assert_eq!(item.job.queue.as_str(), "mail");
    assert_eq!(item.job.body, Body::Payload(Bytes::from_static(b"@x")), "a text, never a file");
    assert_eq!(item.job.id.to_string(), "0192f3a07c6e4b1d8f00a1b2c3d4e5f6");
    assert!(item.wait);
    assert_eq!(line("  \n"), Ok(None), "an empty line is no job");
}

#[test]
fn batch_line_without_a_queue_takes_that_of_the_command_line() {
    let queue = QueueName::new("slow").unwrap();
    let defaults = Defaults { queue: queue.clone(), ..Defaults::default() };
    let item = parse_line(1, br#"{"command":["true"]}"#, &defaults).unwrap().unwrap();
    assert_eq!(item.job.queue, queue);
}

#[test]
fn batch_line_asks_for_what_flags_ask_for() {
    let text = r#"{"command":["true"],"priority":9,"in":"10m","ttl":"1h","job-timeout":"30s",
        "retries":3,"backoff":"1s","backoff-max":"1m","tag":["gpu","zone=a"],
        "unique":"k","unique-for":"2m"}"#;
    let words = "raftq submit --priority 9 --in 10m --ttl 1h --job-timeout 30s --retries 3 \
        --backoff 1s --backoff-max 1m --tag zone=a --tag gpu --unique k \
        --unique-for 2m -- true";
    let Verb::Submit(args) = Cli::try_parse_from(words.split_whitespace()).unwrap().verb else {
        panic!("not a submit")
    };
    let asked = Asks::from(&args.asks).options().unwrap();
    let item = parse_line(1, text.as_bytes(), &Defaults::default()).unwrap().unwrap();
    assert_eq!(item.job.options, asked);
    let expected = Options {
        priority: 9,
        delay_ms: Some(600_000),
        ttl_ms: Some(3_600_000),
        timeout_ms: Some(30_000),
        retries: 3,
        backoff_ms: 1000,
        backoff_max_ms: 60_000,
        tags: Tags::new([Tag::new("gpu").unwrap(), Tag::new("zone=a").unwrap()]),
        at_ms: None,
        unique: UniqueKey::new("k").ok(),
        unique_for_ms: Some(120_000),
    };
    assert_eq!(asked.as_deref(), Some(&expected));

    // The command line holds for lines that do not say; one that says when has no second when.
    let defaults = Defaults { asks: Asks::from(&args.asks), ..Defaults::default() };
    let text = r#"{"command":["true"],"at":"2026-11-27T10:00:00Z","tag":"ssd","priority":0}"#;
    let item = parse_line(1, text.as_bytes(), &defaults).unwrap().unwrap();
    let expected = Options {
        priority: 0,
        delay_ms: None,
        at_ms: Some(Millis(1_795_773_600_000)),
        tags: Tags::new([Tag::new("ssd").unwrap()]),
        ..expected
    };
    assert_eq!(item.job.options.as_deref(), Some(&expected));
    let plain = parse_line(1, br#"{"command":["true"]}"#, &Defaults::default()).unwrap().unwrap();
    assert_eq!(plain.job.options, None, "what says nothing is sent as nothing");
}

#[test]
fn batch_line_that_is_wrong_says_why() {
    for (text, why) in [
        (r#"{"command":["a"],"priority":10}"#, "priority: a priority is 0 (last) to 9"),
        (r#"{"command":["a"],"priority":-1}"#, "-1"),
        (r#"{"command":["a"],"in":"5"}"#, "in: `5` has no unit"),
        (r#"{"command":["a"],"in":"4000d"}"#, "in: `4000d` is too long: at most ten years"),
        (r#"{"command":["a"],"at":"noon"}"#, "at: `noon` is no time: write 2026-11-27T10:00:00Z"),
        (r#"{"command":["a"],"in":"5s","at":"10:00"}"#, "both `in` and `at`"),
        (r#"{"command":["a"],"ttl":"0s"}"#, "ttl: no time at all"),
        (r#"{"command":["a"],"job-timeout":"x"}"#, "job-timeout: `x` is no duration"),
        (r#"{"command":["a"],"job_timeout":"1s"}"#, "expected one of"),
        (r#"{"command":["a"],"retries":1001}"#, "retries: at most 1000"),
        (r#"{"command":["a"],"backoff":"1m","backoff-max":"1s"}"#, "raise backoff-max"),
        (r#"{"command":["a"],"tag":"a b"}"#, "tag: `a b`: a tag is 1 to 64"),
        (r#"{"command":["a"],"tag":5}"#, "a tag, or a list of tags"),
        ("{", "EOF"),
        ("nonsense", "expected"),
        ("[]", "a JSON array begins here: write an object a line"),
        ("[", "a JSON array begins here"),
        ("\u{feff}{\"command\":[\"a\"]}", "byte order mark (BOM)"),
        ("{\"command\":", "one job spread over lines"),
        ("\"echo\"", "expected an object in braces"),
        (r#"{"command":["a"]} x"#, "trailing"),
        (r#"{"command":"echo hello"}"#, "sequence"),
        (r#"{"command":[]}"#, "name a program"),
        (r#"{"command":[""]}"#, "name a program"),
        (r#"{"command":["a\u0000"]}"#, "zero byte"),
        (r#"{"command":["a"],"payload":"b"}"#, "both"),
        (r#"{"queue":"mail"}"#, "neither"),
        (r#"{"command":["a"],"prio":1}"#, "unknown field `prio`"),
        (r#"{"command":["a"],"command":["b"]}"#, "duplicate"),
        (r#"{"command":["a"],"queue":"a b"}"#, "a name is"),
        (r#"{"command":["a"],"id":"12"}"#, "32 hexadecimal digits"),
    ] {
        let error = line(text).unwrap_err();
        assert!(error.contains(why), "{text}: {error}");
        assert!(!error.contains("at line"), "{text}: {error}");
    }
    assert!(parse_line(1, b"{\"payload\":\"\xff\"}", &Defaults::default()).is_err());
    let utf16 = parse_line(1, b"\xff\xfe{\0\"\0", &Defaults::default()).unwrap_err();
    assert!(utf16.contains("UTF-16"), "{utf16}");
    let large = format!(r#"{{"payload":"{}"}}"#, "x".repeat(BODY_BYTES_MAX + 1));
    assert!(line(&large).unwrap_err().contains("at most"));
    let fits = format!(r#"{{"payload":"{}"}}"#, "x".repeat(BODY_BYTES_MAX));
    assert!(line(&fits).is_ok());
}

#[test]
fn word_that_no_program_can_be_started_with_is_refused() {
    let command = |bytes: usize| Body::Command(vec!["echo".into(), "x".repeat(bytes)]);
    assert_eq!(WORD_BYTES_MAX, 131_071, "MAX_ARG_STRLEN less the zero byte");
    assert_eq!(fault(&command(WORD_BYTES_MAX)), None);
    let text = fault(&command(WORD_BYTES_MAX + 1)).unwrap();
    assert!(text.contains("word 2") && text.contains("131071"), "{text}");
    let large = format!(r#"{{"command":["echo","{}"]}}"#, "x".repeat(WORD_BYTES_MAX + 1));
    assert_eq!(line(&large), Err(text));
    assert_eq!(fault(&Body::Payload(Bytes::from(vec![b'x'; WORD_BYTES_MAX + 1]))), None);
}

#[test]
fn batch_names_the_malformed_line_by_its_number() {
    let defaults = Defaults::default();
    let text = "{\"command\":[\"a\"]}\n\n{\"command\":[\"b\"]}\nnonsense\n";
    let mut items = Items::new(text.as_bytes(), &defaults);
    assert_eq!(items.next_item().unwrap().unwrap().line, 1);
    assert_eq!(items.next_item().unwrap().unwrap().line, 3);
    let failure = items.next_item().unwrap_err();
    assert_eq!(failure.exit, Exit::Usage);
    assert!(failure.message.starts_with("line 4 of the batch"), "{failure}");
    assert!(failure.message.contains("nothing was submitted"), "{failure}");
}

#[test]
fn batch_ends_with_or_without_a_last_newline() {
    let defaults = Defaults::default();
    for text in
        ["{\"command\":[\"a\"]}", "{\"command\":[\"a\"]}\r\n", "\u{20}\n{\"command\":[\"a\"]}\n\n"]
    {
        let mut items = Items::new(text.as_bytes(), &defaults);
        assert!(items.next_item().unwrap().is_some(), "{text:?}");
        assert!(items.next_item().unwrap().is_none(), "{text:?}");
    }
}

#[test]
fn batch_line_without_an_end_costs_bounded_memory() {
    let defaults = Defaults::default();
    let mut items = Items::new(std::io::BufReader::new(std::io::repeat(b' ')), &defaults);
    let failure = items.next_item().unwrap_err();
    assert!(failure.message.contains(&format!("longer than {LINE_BYTES_MAX} bytes")), "{failure}");
}

#[test]
fn unknown_outcomes_outrank_every_other_exit() {
    assert_eq!(worse(Exit::Ok, Exit::NotFound), Exit::NotFound);
    assert_eq!(worse(Exit::JobFailed, Exit::Unknown), Exit::Unknown);
    assert_eq!(worse(Exit::Unknown, Exit::Unreachable), Exit::Unknown);
    // The order that the help tells.
    let order = [
        Exit::Unknown,
        Exit::Denied,
        Exit::Unreachable,
        Exit::Usage,
        Exit::NotFound,
        Exit::Failure,
        Exit::Unhealthy,
        Exit::JobFailed,
        Exit::Ok,
    ];
    for (at, one) in order.into_iter().enumerate() {
        for other in order.into_iter().skip(at) {
            assert_eq!((worse(one, other), worse(other, one)), (one, one));
        }
    }
}

#[test]
fn refusals_have_the_exit_codes_of_the_help() {
    let refusal = |code, unknown| Refusal { unknown, ..Refusal::new(code, "no") };
    for (code, exit) in [
        (Code::NotFound, Exit::NotFound),
        (Code::InvalidArgument, Exit::Usage),
        (Code::NotLeader, Exit::Unreachable),
        (Code::Unavailable, Exit::Unreachable),
        (Code::PermissionDenied, Exit::Denied),
        (Code::Unauthenticated, Exit::Denied),
        (Code::ResourceExhausted, Exit::Failure),
        (Code::AlreadyExists, Exit::Failure),
        (Code::FailedPrecondition, Exit::Failure),
        (Code::Internal, Exit::Failure),
    ] {
        assert_eq!(exit_of(&refusal(code, false), Effect::Writes), exit, "{code:?}");
        assert_eq!(exit_of(&refusal(code, true), Effect::Writes), Exit::Unknown, "{code:?}");
    }
    let late = refusal(Code::DeadlineExceeded, true);
    assert_eq!(exit_of(&late, Effect::Reads), Exit::Unreachable, "a read changes nothing");
    assert_eq!(
        [Exit::Ok, Exit::Failure, Exit::Usage, Exit::NotFound, Exit::Unreachable, Exit::Unhealthy]
            .map(Exit::code),
        [0, 1, 2, 3, 4, 5]
    );
    assert_eq!([Exit::Unknown, Exit::Denied, Exit::JobFailed].map(Exit::code), [6, 7, 8]);
    assert_eq!([Exit::Interrupted, Exit::Terminated].map(Exit::code), [130, 143]);
}

fn job() -> JobView {
    JobView {
        id: JobId([0xab; 16]),
        queue: QueueName::default(),
        status: Status::Failed,
        attempt: 2,
        worker: Some(WorkerId::built_in(NodeId(3))),
        fence: Some(Fence(EXACT_MAX + 1)),
        exit_code: Some(3),
        output: Bytes::from_static(b"caf\xe9\n"),
        output_cut: false,
        error: None,
        created_ms: Millis(1_795_412_761_250),
        started_ms: Some(Millis(1_795_412_761_251)),
        finished_ms: None,
        options: None,
        held_ms: None,
        progress: None,
        past: Vec::new(),
        body: None,
    }
}

#[test]
fn job_as_json_has_the_fields_of_the_contract_in_order() {
    let text = serde_json::to_string(&JobShape::from(&job())).unwrap();
    assert_eq!(
        text,
        concat!(
            r#"{"id":"abababababababababababababababab","queue":"default","status":"failed","#,
            r#""attempt":2,"worker":"node-3","fence":"9007199254740993","exit_code":3,"#,
            "\"output\":\"caf\u{fffd}\\n\",\"error\":null,\"created_ms\":1795412761250,",
            r#""started_ms":1795412761251,"finished_ms":null,"priority":5,"tags":[],"retries":0,"#,
            r#""timeout_ms":null,"ttl_ms":null,"held_ms":null}"#
        )
    );
}

#[test]
fn what_a_job_asks_for_and_its_timeline_are_in_its_json() {
    let attempt = |attempt: u32, fence: u64, error: &str| AttemptView {
        attempt,
        worker: (fence > 0).then(|| WorkerId::built_in(NodeId(2))),
        fence: Fence(fence),
        started_ms: Millis(1_795_412_761_250),
        ended_ms: Millis(1_795_412_761_260),
        exit_code: (fence > 0).then_some(1),
        error: error.into(),
    };
    let options = Options {
        priority: 9,
        delay_ms: Some(1),
        ttl_ms: Some(60_000),
        timeout_ms: Some(5000),
        retries: 3,
        tags: Tags::new([Tag::new("gpu").unwrap()]),
        ..Options::default()
    };
    let waits = JobView {
        status: Status::Pending,
        attempt: 3,
        fence: Some(Fence(7)),
        exit_code: None,
        options: Some(options.into()),
        held_ms: Some(Millis(1_795_412_771_250)),
        past: vec![attempt(1, 7, "exited with code 1"), attempt(2, 0, "cancelled")],
        ..job()
    };
    let value = serde_json::to_value(JobShape::whole(&waits)).unwrap();
    let asked = ["priority", "tags", "retries", "timeout_ms", "ttl_ms", "held_ms"];
    let asked = asked.map(|name| value[name].clone());
    assert_eq!(
        serde_json::Value::from(asked.to_vec()),
        serde_json::json!([9, ["gpu"], 3, 5000, 60_000, 1_795_412_771_250u64])
    );
    assert_eq!(
        value["timeline"],
        serde_json::json!([
            {"event": "submitted", "at_ms": 1_795_412_761_250u64},
            {"event": "held", "until_ms": 1_795_412_761_251u64},
            {
                "event": "attempt", "attempt": 1, "worker": "node-2", "fence": 7,
                "started_ms": 1_795_412_761_250u64, "ended_ms": 1_795_412_761_260u64,
                "exit_code": 1, "error": "exited with code 1"
            },
            {
                "event": "attempt", "attempt": 2, "worker": null, "fence": null,
                "started_ms": null, "ended_ms": 1_795_412_761_260u64, "exit_code": null,
                "error": "cancelled"
            },
            {"event": "waits", "until_ms": 1_795_412_771_250u64}
        ])
    );
    let ended = JobView { finished_ms: Some(Millis(1_795_412_761_300)), ..job() };
    let value = serde_json::to_value(JobShape::whole(&ended)).unwrap();
    let kinds: Vec<_> = value["timeline"].as_array().unwrap().iter().collect();
    assert_eq!((&kinds[1]["attempt"], &kinds[1]["exit_code"]), (&2.into(), &3.into()));
    assert_eq!((&kinds[2]["event"], &kinds[2]["status"]), (&"ended".into(), &"failed".into()));
    // Cancelled while it waited for its third attempt: the last one to have begun was the first.
    let cancelled = JobView { status: Status::Cancelled, held_ms: None, ..waits };
    let cancelled = JobView {
        finished_ms: Some(Millis(1_795_412_761_300)),
        past: vec![attempt(1, 7, "exited with code 1")],
        ..cancelled
    };
    let value = serde_json::to_value(JobShape::whole(&cancelled)).unwrap();
    let attempts = value["timeline"].as_array().unwrap().iter();
    assert_eq!(attempts.filter(|event| event["event"] == "attempt").count(), 1, "{value}");
}

#[test]
fn job_whose_output_was_cut_says_so_in_json() {
    let cut = JobView { output_cut: true, ..job() };
    let value = serde_json::to_value(JobShape::from(&cut)).unwrap();
    assert_eq!(value["output_cut"], true);
}

#[test]
fn numbers_are_strings_only_beyond_what_json_readers_keep() {
    assert_eq!(serde_json::to_string(&Number(EXACT_MAX)).unwrap(), "9007199254740992");
    assert_eq!(serde_json::to_string(&Number(EXACT_MAX + 1)).unwrap(), "\"9007199254740993\"");
}

#[derive(Clone, Default)]
struct Sink(Rc<RefCell<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn tables_are_aligned_and_safe_to_print() {
    let sink = Sink::default();
    let mut out = Out::to(Box::new(sink.clone()));
    let mut table = Table::new(&[Column::Left("NAME"), Column::Right("N"), Column::Left("NOTE")]);
    table.row(vec!["a".into(), "100".into(), String::new()]);
    table.row(vec!["long-name".into(), "1".into(), "\u{1b}[31mred".into()]);
    table.write(&mut out, true).unwrap();
    let text = String::from_utf8(sink.0.take()).unwrap();
    assert_eq!(text, "NAME         N  NOTE\na          100  -\nlong-name    1  ?[31mred\n");
}

#[test]
fn nodes_are_those_given_then_those_started_here_then_the_default() {
    let root = std::env::temp_dir().join(format!("raftq target {}", std::process::id()));
    let deep = root.join("a/b");
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::create_dir_all(root.join(".cluster")).unwrap();
    std::fs::write(root.join(".cluster/addrs"), "127.0.0.1:9001,127.0.0.1:9002\n").unwrap();

    let given = Addresses(vec!["x:1".into()]);
    let target = Target::find(Some(&given), None, &deep).unwrap();
    assert_eq!((target.addrs, target.origin), (vec!["x:1".into()], Origin::Given));

    let found = Target::find(None, None, &deep).unwrap();
    assert_eq!(found.addrs, ["127.0.0.1:9001", "127.0.0.1:9002"]);
    assert_eq!(found.origin, Origin::Cluster(root.join(".cluster/addrs")));

    let named =
        Target::find(None, Some(&root.join(".cluster")), std::path::Path::new("/")).unwrap();
    assert_eq!(named.addrs, found.addrs, "CLUSTER_DIR names the state itself");

    let missing = Target::find(None, Some(&root.join("nowhere")), &deep).unwrap_err();
    assert_eq!(missing.exit, Exit::Unreachable, "another cluster is never asked instead");

    std::fs::write(root.join(".cluster/addrs"), "noise").unwrap();
    assert!(Target::find(None, None, &deep).unwrap_err().message.contains("is damaged"));
    std::fs::remove_dir_all(&root).unwrap();

    let bare = Target::find(None, None, std::path::Path::new("relative/nowhere")).unwrap();
    assert_eq!((bare.addrs, bare.origin), (vec!["127.0.0.1:7101".into()], Origin::Default));
}

#[test]
fn grammar_is_sound_and_every_verb_has_help() {
    let mut command = Cli::command();
    command.clone().debug_assert();
    let verbs: Vec<String> =
        command.get_subcommands().map(|verb| verb.get_name().to_owned()).collect();
    let known =
        ["node", "submit", "get", "list", "wait", "cancel", "show", "dead", "queue", "workers"];
    for verb in known.into_iter().chain(["cluster", "log"]) {
        assert!(verbs.iter().any(|known| known == verb), "{verb} is missing");
    }
    let help = command.render_help().to_string();
    assert!(help.contains("Exit codes:") && help.contains("scripts/cluster.sh"), "{help}");
    assert!(!help.contains("guard"), "the hidden verb is shown");
}

#[test]
fn defaults_of_node_are_the_cluster_limits() {
    let cli = Cli::try_parse_from([
        "raftq",
        "node",
        "--id",
        "1",
        "--listen",
        "127.0.0.1:7101",
        "--peers",
        "1=127.0.0.1:7101",
        "--data",
        "d",
    ])
    .unwrap();
    let Verb::Node(args) = cli.verb else { panic!("{:?}", cli.verb) };
    let config = node::config(args);
    assert_eq!(config.limits, Limits::default());
    assert_eq!((config.id, config.slots, config.insecure), (NodeId(1), 4, false));
    assert_eq!((config.segment_bytes, config.log_keep_bytes), (16 << 20, 64 << 20));
    assert_eq!((config.snapshot_bytes_min, config.grace), (64 << 20, Duration::from_secs(10)));
}

#[test]
fn little_log_kept_makes_small_files_and_early_snapshots() {
    for (keep, segment, snapshot_at) in
        [("0", 1, 1), ("3MiB", 3, 3), ("20MiB", 16, 20), ("1GiB", 16, 64)]
    {
        let words = format!(
            "raftq node --id 1 --listen 127.0.0.1:1 --peers 1=127.0.0.1:1 --data d --log-keep {keep}"
        );
        let Verb::Node(args) = Cli::try_parse_from(words.split_whitespace()).unwrap().verb else {
            panic!("not a node")
        };
        let config = node::config(args);
        let sizes = (config.segment_bytes >> 20, config.snapshot_bytes_min >> 20);
        assert_eq!(sizes, (segment, snapshot_at), "--log-keep {keep}");
    }
}

#[test]
fn options_of_node_reach_their_fields() {
    let words = "raftq node --id 2 --listen 127.0.0.1:7102 --peers 1=a:1,2=b:2 --data d --slots 0 \
        --insecure --log-keep 1KiB --segment 2KiB --snapshot-at 3KiB --finished-keep 4 \
        --finished-age 5s --finished-bytes 6KiB --resident-max 7KiB --grace 8s";
    let Verb::Node(args) = Cli::try_parse_from(words.split_whitespace()).unwrap().verb else {
        panic!("not a node")
    };
    let config = node::config(args);
    let fields = BTreeMap::from([
        ("log_keep", (config.log_keep_bytes, 1 << 10)),
        ("segment", (config.segment_bytes, 2 << 10)),
        ("snapshot_at", (config.snapshot_bytes_min, 3 << 10)),
        ("finished_keep", (config.limits.finished_count_max, 4)),
        ("finished_age", (config.limits.finished_age_ms_max, 5000)),
        ("finished_bytes", (config.limits.finished_bytes_max, 6 << 10)),
        ("resident_max", (config.limits.resident_bytes_max, 7 << 10)),
        ("slots", (u64::from(config.slots), 0)),
    ]);
    for (name, (is, should)) in fields {
        assert_eq!(is, should, "{name}");
    }
    assert_eq!((config.grace, config.insecure), (Duration::from_secs(8), true));
}

#[test]
fn global_options_stand_before_or_after_the_verb() {
    for words in [
        "raftq --json --addrs a:1 --timeout 3s workers",
        "raftq workers --json --addrs a:1 --timeout 3s",
    ] {
        let cli = Cli::try_parse_from(words.split_whitespace()).unwrap();
        assert!(cli.global.json, "{words}");
        assert_eq!(cli.global.addrs, Some(Addresses(vec!["a:1".into()])), "{words}");
        assert_eq!(cli.global.timeout, Some(Duration::from_secs(3)), "{words}");
    }
}

#[test]
fn words_after_two_dashes_belong_to_the_command() {
    let words = ["raftq", "submit", "--wait", "--", "echo", "--json", "--wait"];
    let cli = Cli::try_parse_from(words).unwrap();
    assert!(!cli.global.json);
    let Verb::Submit(args) = cli.verb else { panic!("not a submit") };
    assert!(args.wait);
    assert_eq!(args.command, ["echo", "--json", "--wait"]);
}

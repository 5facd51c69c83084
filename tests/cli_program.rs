//! The program as a script sees it where no cluster is: exit codes, stdout, stderr.

#![expect(
    clippy::disallowed_methods,
    reason = "a test of the program measures real time and plays a node"
)]
#![expect(clippy::unwrap_used, reason = "a helper that fails has to fail its test")]

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Output, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const ID: &str = "0192f3a07c6e4b1d8f00a1b2c3d4e5f6";

/// Runs the program in a directory without a cluster, with something on its standard input.
fn raftq_in(args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_raftq"))
        .args(args)
        .current_dir(std::env::temp_dir())
        .env_remove("RAFTQ_ADDRS")
        .env_remove("CLUSTER_DIR")
        .env_remove("RUST_LOG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that refuses its command line reads nothing: a broken pipe is no fault here.
    child.stdin.take().unwrap().write_all(input).ok();
    child.wait_with_output().unwrap()
}

fn raftq(args: &[&str]) -> Output {
    raftq_in(args, b"")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Returns an address on which nobody listens.
fn nowhere() -> String {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    held.local_addr().unwrap().to_string()
}

/// Asserts a refusal of the command line: exit 2, nothing on stdout, and these words on stderr.
fn assert_usage(output: &Output, words: &[&str]) {
    assert_eq!(output.status.code(), Some(2), "{}", stderr(output));
    assert_eq!(stdout(output), "", "data on stdout");
    for word in words {
        assert!(stderr(output).contains(word), "{word:?} is missing: {}", stderr(output));
    }
}

#[test]
fn help_and_version_are_data_and_no_mistake() {
    for args in [&["--help"][..], &["help"], &["submit", "--help"], &["cluster", "status", "-h"]] {
        let output = raftq(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(stdout(&output).contains("Usage: raftq"), "{args:?}");
        assert_eq!(stderr(&output), "");
        assert!(!stdout(&output).contains('\u{1b}'), "colours in a pipe");
    }
    assert!(stdout(&raftq(&["--version"])).starts_with("raftq 0."));
}

#[test]
fn wrong_command_lines_exit_with_2_and_say_what_to_do() {
    assert_usage(&raftq(&[]), &["Usage: raftq", "Examples:"]);
    assert_usage(&raftq(&["frobnicate"]), &["frobnicate"]);
    assert_usage(&raftq(&["list", "--frobnicate"]), &["--frobnicate"]);
    assert_usage(&raftq(&["list", "--status", "done"]), &["pending, running, completed"]);
    assert_usage(&raftq(&["list", "--limit", "0"]), &["0"]);
    assert_usage(&raftq(&["list", "--limit", "-1"]), &["'-1' for '--limit <N>'"]);
    assert_usage(&raftq(&["log", "list", "--from", "-1"]), &["'-1' for '--from <INDEX>'"]);
    assert_usage(&raftq(&["cluster", "transfer", "--to", "0"]), &["'0' for '--to <ID>'"]);
    assert_usage(&raftq(&["get", ID, "--timeout", "-1s"]), &["`-1s` is no duration"]);
    assert_usage(&raftq(&["get"]), &["<ID>"]);
    assert_usage(&raftq(&["get", "17"]), &["32 hexadecimal digits", ID]);
    assert_usage(&raftq(&["get", ID, "--timeout", "10"]), &["no unit", "10s"]);
    assert_usage(&raftq(&["get", ID, "--addrs", "localhost"]), &["HOST:PORT"]);
    assert_usage(&raftq(&["submit"]), &["raftq submit -- echo hello"]);
    assert_usage(&raftq(&["submit", "--"]), &["raftq submit -- echo hello"]);
    assert_usage(&raftq(&["submit", "echo", "hello"]), &["two dashes"]);
    assert_usage(&raftq(&["submit", "--", ""]), &["name a program"]);
    assert_usage(&raftq(&["submit", "--payload", "x", "--", "echo"]), &["cannot be used with"]);
    assert_usage(&raftq(&["submit", "--queue", "a b", "--", "true"]), &["a name is 1 to 64"]);
    assert_usage(&raftq(&["submit", "--payload", "@/no/such/file"]), &["/no/such/file"]);
    for (flag, value, word) in [
        ("--priority", "10", "0 (last) to 9 (first)"),
        ("--priority", "-1", "0 (last) to 9 (first)"),
        ("--in", "5", "5s or 5ms"),
        ("--in", "-5s", "`-5s` is no duration"),
        ("--in", "3661d", "ten years"),
        ("--at", "tomorrow", "2026-11-27T10:00:00Z"),
        ("--at", "2026-11-27", "'2026-11-27 10:00'"),
        ("--ttl", "0s", "leave it out"),
        ("--job-timeout", "0s", "leave it out"),
        ("--retries", "1001", "at most 1000"),
        ("--retries", "-1", "digits only"),
        ("--backoff-max", "x", "is no duration"),
        ("--tag", "a b", "a tag is 1 to 64"),
    ] {
        assert_usage(&raftq(&["submit", flag, value, "--", "true"]), &[flag, word]);
    }
    let both = ["submit", "--in", "5s", "--at", "10:00", "--", "true"];
    assert_usage(&raftq(&both), &["--in", "cannot be used with '--at"]);
    let pauses = ["submit", "--backoff", "1m", "--backoff-max", "1s", "--", "true"];
    assert_usage(&raftq(&pauses), &["1s", "shorter than the first one, 1m"]);
    assert_usage(&raftq(&["queue", "limit", "q", "0"]), &["pause it"]);
    assert_usage(&raftq(&["queue", "limit", "q", "x"]), &["or none"]);
    assert_usage(&raftq(&["queue", "rate", "q", "5"]), &["100/1m", "none"]);
    assert_usage(&raftq(&["queue", "rate", "q", "0/1s"]), &["1 to 1000000"]);
    assert_usage(&raftq(&["queue", "pause"]), &["<Q>"]);
    assert_usage(&raftq(&["queue", "pause", "a b"]), &["a name is 1 to 64"]);
    assert_usage(&raftq(&["dead", "retry"]), &["raftq dead retry --all [--queue Q]"]);
    assert_usage(&raftq(&["dead", "purge", "--queue", "q"]), &["--all"]);
    assert_usage(&raftq(&["dead", "purge", "--all", ID]), &["cannot be used with"]);
    assert_usage(&raftq(&["show", "17"]), &["32 hexadecimal digits"]);
    assert_usage(&raftq(&["submit", "--batch", "/no/such/file"]), &["/no/such/file"]);
    assert_usage(&raftq(&["submit", "--batch", "/"]), &["directory"]);
}

#[test]
fn payload_over_the_limit_is_refused_before_anything_is_sent() {
    let output = raftq_in(&["submit", "--payload", "-"], &vec![b'x'; (1 << 20) + 1]);
    assert_usage(&output, &["1 MiB"]);
}

#[test]
fn node_that_cannot_be_is_refused_with_the_reason() {
    let node = |id: &str, listen: &str, peers: &str, more: &[&str]| {
        let args =
            ["node", "--id", id, "--listen", listen, "--peers", peers, "--data", "/dev/null/x"];
        raftq(&[&args[..], more].concat())
    };
    let here = "127.0.0.1:7101";
    assert_usage(&node("0", here, "1=127.0.0.1:7101", &[]), &["1 or more"]);
    assert_usage(&node("2", here, "1=127.0.0.1:7101", &[]), &["is not in it"]);
    assert_usage(&node("1", here, "1=127.0.0.1:1,1=127.0.0.1:2", &[]), &["twice"]);
    assert_usage(&node("1", here, "1=127.0.0.1:1,2=127.0.0.1:1", &[]), &["twice"]);
    assert_usage(&node("1", here, "1=nowhere", &[]), &["HOST:PORT"]);
    assert_usage(&node("1", "nowhere", "1=127.0.0.1:7101", &[]), &["HOST:PORT"]);
    assert_usage(
        &node("1", "0.0.0.0:7101", "1=127.0.0.1:7101", &[]),
        &["--insecure", "runs commands"],
    );
    assert_usage(&node("1", here, "1=127.0.0.1:7101", &["--slots", "99999"]), &["--slots"]);
    assert_usage(&node("1", here, "1=127.0.0.1:7101", &["--segment", "1"]), &["--segment"]);
    assert_usage(&raftq(&["node", "--id", "1"]), &["--peers", "--data"]);
}

#[test]
fn nobody_there_exits_with_4_and_says_whom_was_asked() {
    let addrs = nowhere();
    for verb in [
        &["submit", "--", "true"][..],
        &["submit", "--wait", "--", "true"],
        &["get", ID],
        &["list"],
        &["wait", ID],
        &["cancel", ID],
        &["show", ID],
        &["dead", "list"],
        &["dead", "show", ID],
        &["dead", "retry", ID],
        &["dead", "purge", "--all"],
        &["queue", "list"],
        &["queue", "pause", "q"],
        &["queue", "drain", "q", "--wait"],
        &["workers"],
        &["cluster", "status"],
        &["cluster", "leader"],
        &["cluster", "transfer"],
        &["log", "list"],
        &["get", ID, "--json"],
    ] {
        let begun = Instant::now();
        let output = raftq(&[&["--addrs", &addrs, "--timeout", "300ms"], verb].concat());
        assert_eq!(output.status.code(), Some(4), "{verb:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{verb:?}: data on stdout");
        assert!(stderr(&output).contains(&addrs), "{verb:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("no node could be reached"), "{}", stderr(&output));
        assert!(begun.elapsed() < Duration::from_secs(5), "{verb:?}: {:?}", begun.elapsed());
    }
}

#[test]
fn node_that_never_answers_costs_the_time_limit_and_no_more() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = silent.local_addr().unwrap().to_string();
    let begun = Instant::now();
    let output = raftq(&["--addrs", &addr, "--timeout", "500ms", "submit", "--", "true"]);
    assert_eq!(output.status.code(), Some(4), "it was never sent: {}", stderr(&output));
    assert!(begun.elapsed() >= Duration::from_millis(400), "{:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn cluster_dir_without_a_cluster_is_not_replaced_by_another() {
    let output = Command::new(env!("CARGO_BIN_EXE_raftq"))
        .args(["workers"])
        .env_remove("RAFTQ_ADDRS")
        .env("CLUSTER_DIR", "/no/such/cluster")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(4));
    assert!(stderr(&output).contains("/no/such/cluster"), "{}", stderr(&output));
}

#[test]
fn batch_with_a_malformed_line_asks_nobody_anything() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let batch = b"{\"command\":[\"true\"]}\n{\"command\":[\"true\"]}\n{\"comand\":[\"true\"]}\n";
    let output = raftq_in(&["--addrs", &addr, "submit", "--batch", "-"], batch);
    assert_usage(&output, &["line 3", "comand", "nothing was submitted"]);
    assert!(listener.accept().is_err(), "somebody called");

    let path = std::env::temp_dir().join(format!("raftq-batch-{}.jsonl", std::process::id()));
    std::fs::write(&path, batch).unwrap();
    let output = raftq(&["--addrs", &addr, "submit", "--batch", path.to_str().unwrap()]);
    std::fs::remove_file(&path).unwrap();
    assert_usage(&output, &["line 3"]);
    assert!(listener.accept().is_err(), "somebody called");
}

#[test]
fn batch_of_nothing_submits_nothing_and_succeeds() {
    for input in [&b""[..], b"\n\n"] {
        let output = raftq_in(&["--addrs", &nowhere(), "submit", "--batch", "-"], input);
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(0), ""));
        assert!(stderr(&output).contains("nothing to submit"), "{}", stderr(&output));
    }
}

#[test]
fn batch_that_is_no_list_of_lines_is_told_what_it_is() {
    for (input, line, word) in [
        (&b"\xef\xbb\xbf{\"command\":[\"true\"]}\n"[..], "line 1", "byte order mark"),
        (b"[\n{\"command\":[\"true\"]}\n]\n", "line 1", "JSON array"),
        (b"{\n\"command\":[\"true\"]\n}\n", "line 1", "spread over lines"),
    ] {
        let output = raftq_in(&["--addrs", &nowhere(), "submit", "--batch", "-"], input);
        assert_usage(&output, &[line, word, "nothing was submitted"]);
    }
    let word = "x".repeat(131_072);
    let batch = format!("{{\"command\":[\"true\"]}}\n{{\"command\":[\"echo\",\"{word}\"]}}\n");
    let output = raftq_in(&["--addrs", &nowhere(), "submit", "--batch", "-"], batch.as_bytes());
    assert_usage(&output, &["line 2", "131072 bytes", "131071", "nothing was submitted"]);
}

#[test]
fn wrong_environment_is_named_as_such() {
    let ask = |known: &[u8]| {
        Command::new(env!("CARGO_BIN_EXE_raftq"))
            .arg("workers")
            .env("RAFTQ_ADDRS", OsStr::from_bytes(known))
            .output()
            .unwrap()
    };
    assert_usage(&ask(b""), &["no address in the list", "see RAFTQ_ADDRS"]);
    assert_usage(&ask(b"127.0.0.1"), &["the port is missing", "see RAFTQ_ADDRS"]);
    assert_usage(&ask(b"\xff:1"), &["UTF-8", "RAFTQ_ADDRS"]);
    let flag = raftq(&["--addrs", "127.0.0.1", "workers"]);
    assert!(!stderr(&flag).contains("see RAFTQ_ADDRS"), "{}", stderr(&flag));
}

#[test]
fn batch_that_reaches_nobody_says_that_nothing_was_taken() {
    let batch = b"{\"command\":[\"true\"]}\n\n{\"command\":[\"true\"]}\n";
    let addrs = nowhere();
    let output =
        raftq_in(&["--addrs", &addrs, "--timeout", "300ms", "submit", "--batch", "-"], batch);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(4), ""));
    assert!(stderr(&output).contains("stopped at line 1"), "{}", stderr(&output));
}

/// Answers every connection like a node's `/readyz`, until it is dropped.
struct Ready {
    addr: String,
    thread: Option<JoinHandle<()>>,
}

impl Ready {
    fn new(answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let serve = move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = [0; 256];
                let count = stream.read(&mut request).unwrap();
                if count == 0 {
                    return;
                }
                assert!(request.starts_with(b"GET /readyz HTTP/1.1\r\n"));
                stream.write_all(answer.as_bytes()).unwrap();
            }
        };
        Self { addr, thread: Some(std::thread::spawn(serve)) }
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        // A connection without a word ends it.
        drop(TcpStream::connect(&self.addr));
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

#[test]
fn cluster_ready_asks_each_node_itself() {
    let well = Ready::new("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nready\n");
    let ill = Ready::new("HTTP/1.1 503 Service Unavailable\r\n\r\nno leader for 812 ms\n");
    let output = raftq(&["--addrs", &well.addr, "cluster", "ready"]);
    assert_eq!(
        (output.status.code(), stdout(&output)),
        (Some(0), format!("{}  ready\n", well.addr))
    );

    let both = format!("{},{}", well.addr, ill.addr);
    let output = raftq(&["--addrs", &both, "cluster", "ready"]);
    assert_eq!(output.status.code(), Some(5));
    assert!(stdout(&output).contains(&format!("{}  not ready: no leader for 812 ms", ill.addr)));

    let output =
        raftq(&["--addrs", &both, "cluster", "ready", "--wait", "--timeout", "200ms", "--json"]);
    assert_eq!(output.status.code(), Some(5), "the wait ends");
    let objects: Vec<serde_json::Value> =
        stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&objects[0]["is_ready"], &objects[1]["is_ready"]), (&true.into(), &false.into()));

    let output = raftq(&["--addrs", &nowhere(), "cluster", "ready"]);
    assert_eq!(output.status.code(), Some(5), "nobody there is not ready");
}

#[test]
fn reader_that_has_gone_away_ends_the_program_silently() {
    let well = Ready::new("HTTP/1.1 200 OK\r\n\r\nready\n");
    let mut child = Command::new(env!("CARGO_BIN_EXE_raftq"))
        .args(["--addrs", &well.addr, "cluster", "ready"])
        .stdout(closed_pipe())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(0), ""));
}

#[test]
fn stdout_that_cannot_be_written_is_a_failure() {
    let well = Ready::new("HTTP/1.1 200 OK\r\n\r\nready\n");
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_raftq"))
        .args(["--addrs", &well.addr, "cluster", "ready"])
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("cannot write to stdout"), "{}", stderr(&output));
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output =
        Command::new(env!("CARGO_BIN_EXE_raftq")).arg("--help").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "help is a result too");
}

/// Returns the writing end of a pipe that nobody reads.
fn closed_pipe() -> std::io::PipeWriter {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer
}

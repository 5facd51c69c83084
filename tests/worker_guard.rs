//! The guard process: what it starts, what it tells, and above all what it ends.

#![expect(clippy::unwrap_used, reason = "a test may fail by it, in its helpers too")]

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use raftq::jobs::job::{OUTPUT_BYTES_MAX, Verdict};
use raftq::types::{Fence, JobId, QueueName};
use raftq::worker::clock::Moment;
use raftq::worker::protocol::{Event, Order, Start, read_frame, write_frame};
use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take before the test fails; far above what it takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A lease that outlives every test.
const LONG: Duration = Duration::from_secs(600);

/// A command that reads nothing, in its first attempt.
fn plain(fence: u64, argv: Vec<String>) -> Start {
    let (fence, job, queue) = (Fence(fence), JobId([7; 16]), QueueName::default());
    Start { fence, job, attempt: 1, timeout_ms: None, argv, queue, stdin: None }
}

/// A guard, played with by hand as its node would.
struct Guard {
    child: Child,
    /// `None` after the node "died".
    orders: Option<ChildStdin>,
    events: Receiver<Event>,
    /// A `cat` between the test and the guard, which plays the node's process.
    node: Option<Child>,
    folder: PathBuf,
}

impl Guard {
    fn new(name: &str) -> Self {
        Self::behind(name, None)
    }

    /// Starts a guard whose orders pass through a process that can be stopped and killed.
    fn with_node(name: &str) -> Self {
        let node = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        Self::behind(name, Some(node.unwrap()))
    }

    fn behind(name: &str, mut node: Option<Child>) -> Self {
        let folder =
            std::env::temp_dir().join(format!("raftq-guard-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let stdin = match node.as_mut() {
            Some(node) => Stdio::from(node.stdout.take().unwrap()),
            None => Stdio::piped(),
        };
        let mut child = Command::new(env!("CARGO_BIN_EXE_raftq"))
            .arg("guard")
            .stdin(stdin)
            .stdout(Stdio::piped())
            .env("RAFTQ_TEST_INHERITED", "from the node")
            .spawn()
            .unwrap();
        let orders = match node.as_mut() {
            Some(node) => node.stdin.take(),
            None => child.stdin.take(),
        };
        let mut pipe = child.stdout.take().unwrap();
        let (sender, events) = channel();
        thread::Builder::new()
            .spawn(move || {
                while let Ok(Some(event)) = read_frame(&mut pipe) {
                    if sender.send(event).is_err() {
                        return;
                    }
                }
            })
            .unwrap();
        Self { child, orders, events, node, folder }
    }

    fn order(&mut self, order: &Order) {
        write_frame(self.orders.as_mut().unwrap(), order).unwrap();
    }

    fn lease(&mut self, span: Duration) {
        self.order(&Order::Lease { until: Moment::now().after(span) });
    }

    fn start(&mut self, fence: u64, argv: &[&str]) {
        self.start_for(fence, argv, None);
    }

    fn start_for(&mut self, fence: u64, argv: &[&str], timeout_ms: Option<u64>) {
        let argv = argv.iter().map(ToString::to_string).collect();
        self.order(&Order::Start(Start { attempt: 2, timeout_ms, ..plain(fence, argv) }));
    }

    fn shell(&mut self, fence: u64, script: &str) {
        let script = format!("cd '{}'; {script}", self.folder.display());
        self.start(fence, &["sh", "-c", &script]);
    }

    /// Waits for the end of one command, passing over what else is told.
    fn ended(&self, fence: u64) -> (Verdict, bool) {
        loop {
            match self.events.recv_timeout(PATIENCE).expect("the guard tells every end") {
                Event::Ended { fence: Fence(ended), verdict, taken } if ended == fence => {
                    return (verdict, taken);
                }
                Event::Ended { .. } | Event::Started { .. } | Event::Leased { .. } => {}
            }
        }
    }

    /// Runs one command to its end under a long lease.
    fn run(&mut self, argv: &[&str]) -> Verdict {
        self.lease(LONG);
        self.start(1, argv);
        let (verdict, taken) = self.ended(1);
        assert!(!taken);
        verdict
    }

    /// Waits until a command has written a process number into a file of the folder.
    fn pid_in(&self, file: &str) -> Pid {
        let path = self.folder.join(file);
        let mut pid = None;
        until(&format!("{} holds a process number", path.display()), || {
            let text = fs::read_to_string(&path).unwrap_or_default();
            pid =
                text.strip_suffix('\n').and_then(|line| line.parse().ok()).and_then(Pid::from_raw);
            pid.is_some()
        });
        pid.unwrap()
    }

    /// Waits for the guard to end by itself.
    fn wait(&mut self) -> Option<i32> {
        let mut code = None;
        until("the guard has ended", || {
            code = self.child.try_wait().unwrap();
            code.is_some()
        });
        code.and_then(|status| status.code())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(node) = &mut self.node {
            node.kill().unwrap();
            node.wait().unwrap();
        }
        self.wait();
        fs::remove_dir_all(&self.folder).unwrap();
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Moment::now();
    while !holds() {
        assert!(Moment::now().since(start) < PATIENCE, "in vain: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

fn lives(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

fn gone(pid: Pid) {
    until(&format!("{pid:?} is gone"), || !lives(pid));
}

fn text(verdict: &Verdict) -> &str {
    std::str::from_utf8(&verdict.output).unwrap()
}

#[test]
fn command_that_takes_too_long_is_asked_to_end_and_has_failed() {
    let mut guard = Guard::new("timeout");
    guard.lease(LONG);
    let script = "trap 'echo asked; exit 0' TERM; echo begun; sleep 60 & wait";
    guard.start_for(1, &["sh", "-c", script], Some(300));
    guard.start_for(2, &["sh", "-c", "echo quick"], Some(60_000));
    let (verdict, taken) = guard.ended(1);
    assert!(!taken, "it is a verdict on the job");
    assert_eq!(text(&verdict), "begun\nasked\n");
    assert_eq!(
        (verdict.completed, verdict.exit_code, verdict.error.as_deref()),
        (false, Some(0), Some("timed out after 300ms"))
    );
    let mut guard = Guard::new("timeout-deaf");
    guard.lease(LONG);
    guard.start_for(1, &["sh", "-c", "trap '' TERM; while :; do sleep 1; done"], Some(100));
    let (verdict, _) = guard.ended(1);
    assert_eq!(verdict.error.as_deref(), Some("timed out after 100ms"), "it was killed");
}

#[test]
fn command_that_prints_completes_with_its_output() {
    let verdict = Guard::new("hello").run(&["echo", "hello"]);
    assert_eq!(text(&verdict), "hello\n");
    assert_eq!((verdict.completed, verdict.exit_code), (true, Some(0)));
    assert_eq!((verdict.output_cut, verdict.error), (false, None));
}

#[test]
fn command_that_exits_three_fails_with_its_code() {
    let verdict = Guard::new("three").run(&["sh", "-c", "exit 3"]);
    assert_eq!((verdict.completed, verdict.exit_code), (false, Some(3)));
    assert_eq!(verdict.error.as_deref(), Some("exited with code 3"));
}

#[test]
fn command_that_cannot_start_fails_with_the_reason() {
    let verdict = Guard::new("missing").run(&["no-such-program"]);
    assert_eq!((verdict.completed, verdict.exit_code), (false, None));
    let error = "cannot start 'no-such-program': No such file or directory (os error 2)";
    assert_eq!(verdict.error.as_deref(), Some(error));
}

#[test]
fn command_with_a_word_too_long_for_the_system_fails_with_a_short_reason() {
    let word = "x".repeat(1 << 20);
    let verdict = Guard::new("long").run(&[&word]);
    let error = verdict.error.unwrap();
    assert!(error.starts_with("cannot start 'xxx"), "{error}");
    assert!(error.len() < 1024, "{} bytes", error.len());
}

#[test]
fn argument_above_the_limit_of_the_system_is_named_with_the_limit() {
    let mut guard = Guard::new("argument");
    let longest = "x".repeat((128 << 10) - 1);
    assert!(guard.run(&["true", "short", &longest]).completed);
    guard.start(2, &["true", "short", &format!("{longest}x")]);
    let (verdict, taken) = guard.ended(2);
    let error = "cannot start 'true': argument 2 is too long: 131072 bytes, and the system takes \
                 131071 at most";
    assert_eq!((verdict.error.as_deref(), taken), (Some(error), false));
    assert_eq!((verdict.completed, verdict.exit_code), (false, None));
}

#[test]
fn command_killed_by_a_signal_fails_with_its_name() {
    let verdict = Guard::new("signal").run(&["sh", "-c", "kill -9 $$"]);
    assert_eq!((verdict.completed, verdict.exit_code), (false, None));
    assert_eq!(verdict.error.as_deref(), Some("killed by signal 9 (SIGKILL)"));
}

#[test]
fn output_over_the_limit_keeps_the_end_and_is_marked_cut() {
    let script = "i=0; while [ $i -lt 3000 ]; do echo line-$i; i=$((i+1)); done";
    let verdict = Guard::new("cut").run(&["sh", "-c", script]);
    assert_eq!(verdict.output.len(), OUTPUT_BYTES_MAX);
    assert!(text(&verdict).ends_with("line-2998\nline-2999\n"));
    assert!(verdict.output_cut);
}

#[test]
fn output_and_errors_come_together_in_order() {
    let script = "echo one; echo two >&2; echo three; cat";
    let verdict = Guard::new("both").run(&["sh", "-c", script]);
    assert_eq!(text(&verdict), "one\ntwo\nthree\n");
}

#[test]
fn environment_holds_the_job_and_what_the_node_had() {
    let script = "echo $RAFTQ_JOB_ID $RAFTQ_ATTEMPT $RAFTQ_FENCE $RAFTQ_TEST_INHERITED";
    let verdict = Guard::new("env").run(&["sh", "-c", script]);
    assert_eq!(text(&verdict), format!("{} 2 1 from the node\n", JobId([7; 16])));
}

#[test]
fn command_starts_with_the_default_signals() {
    let verdict = Guard::new("defaults").run(&["grep", "SigIgn", "/proc/self/status"]);
    let ignored = text(&verdict).split_ascii_whitespace().nth(1).unwrap();
    let ignored = u64::from_str_radix(ignored, 16).unwrap();
    for signal in [Signal::HUP, Signal::INT, Signal::PIPE, Signal::TERM] {
        assert_eq!(ignored >> (signal.as_raw() - 1) & 1, 0, "{signal:?} is ignored");
    }
}

#[test]
fn command_gets_no_descriptor_of_the_guard() {
    let script = "ls /proc/self/fd";
    let alone = Command::new("sh").args(["-c", script]).stdin(Stdio::null()).output().unwrap();
    let verdict = Guard::new("descriptors").run(&["sh", "-c", script]);
    assert_eq!(verdict.output, alone.stdout, "left: under the guard, right: without one");
}

#[test]
fn command_has_no_terminal() {
    let verdict = Guard::new("terminal").run(&["sh", "-c", ": </dev/tty"]);
    assert!(!verdict.completed);
}

#[test]
fn hundred_commands_at_once_all_end() {
    let mut guard = Guard::new("hundred");
    guard.lease(LONG);
    for fence in 1..=100 {
        guard.start(fence, &["sh", "-c", "echo $RAFTQ_FENCE; exit $((RAFTQ_FENCE % 2))"]);
    }
    let mut ended = Vec::new();
    while ended.len() < 100 {
        if let Event::Ended { fence, verdict, taken: false } =
            guard.events.recv_timeout(PATIENCE).unwrap()
        {
            assert_eq!(text(&verdict), format!("{fence}\n"));
            assert_eq!(verdict.completed, fence.0 % 2 == 0);
            ended.push(fence.0);
        }
    }
    ended.sort_unstable();
    assert_eq!(ended, (1..=100).collect::<Vec<_>>());
}

#[test]
fn background_child_that_holds_the_pipe_is_ended_with_its_command() {
    let mut guard = Guard::new("background");
    guard.lease(LONG);
    guard.shell(1, "sleep 600 & echo $! > child; echo done");
    let (verdict, taken) = guard.ended(1);
    assert_eq!((text(&verdict), verdict.exit_code, taken), ("done\n", Some(0), false));
    gone(guard.pid_in("child"));
}

#[test]
fn background_child_without_the_environment_is_ended_with_its_command() {
    let mut guard = Guard::new("bare");
    guard.lease(LONG);
    // While another runs, nobody could say whose child it is but for its group.
    guard.shell(9, "echo $$ > other; exec sleep 600");
    let other = guard.pid_in("other");
    guard.shell(1, "env -i sleep 600 & echo $! > child; echo done");
    assert_eq!(text(&guard.ended(1).0), "done\n");
    gone(guard.pid_in("child"));
    assert!(lives(other));
}

#[test]
fn child_in_a_session_of_its_own_is_ended_with_its_command() {
    let mut guard = Guard::new("session");
    guard.lease(LONG);
    guard.shell(
        1,
        "setsid sh -c 'echo $$ > child; sleep 600; :' & while [ ! -s child ]; do :; done",
    );
    let (verdict, _) = guard.ended(1);
    assert_eq!(verdict.exit_code, Some(0));
    gone(guard.pid_in("child"));
}

#[test]
fn child_of_another_command_is_left_alone() {
    let mut guard = Guard::new("other");
    guard.lease(LONG);
    guard.shell(1, "(setsid sh -c 'echo $$ > child; sleep 600; :' &); sleep 600");
    let child = guard.pid_in("child");
    guard.start(2, &["true"]);
    assert!(guard.ended(2).0.completed);
    guard.start(3, &["no-such-program"]);
    assert!(!guard.ended(3).0.completed);
    // Longer than the guard's tick, in which it looks for orphans without an owner.
    guard.start(4, &["sleep", "1.2"]);
    assert!(guard.ended(4).0.completed);
    assert!(lives(child));
    guard.order(&Order::Kill { fence: Fence(1) });
    assert!(guard.ended(1).1);
    gone(child);
}

#[test]
fn order_to_kill_gives_a_command_time_to_tidy_up() {
    let mut guard = Guard::new("kind");
    guard.lease(LONG);
    guard.shell(
        1,
        "trap 'echo tidied > tidy; exit 7' TERM; echo $$ > pid; while :; do sleep 0.01; done",
    );
    guard.pid_in("pid");
    guard.order(&Order::Kill { fence: Fence(1) });
    let (verdict, taken) = guard.ended(1);
    assert!(taken);
    assert_eq!(verdict.exit_code, Some(7));
    assert_eq!(fs::read_to_string(guard.folder.join("tidy")).unwrap(), "tidied\n");
}

#[test]
fn order_to_kill_a_deaf_command_ends_it_after_the_grace() {
    let mut guard = Guard::new("deaf");
    guard.lease(LONG);
    guard.shell(1, "trap '' TERM; echo $$ > pid; while :; do sleep 0.01; done");
    let pid = guard.pid_in("pid");
    let start = Moment::now();
    guard.order(&Order::Kill { fence: Fence(1) });
    let (verdict, taken) = guard.ended(1);
    assert!(taken && verdict.exit_code.is_none());
    assert!(Moment::now().since(start) >= Duration::from_millis(499));
    gone(pid);
}

#[test]
fn order_to_kill_all_ends_every_command_at_once() {
    let mut guard = Guard::new("all");
    guard.lease(LONG);
    for fence in 1..=3 {
        guard.shell(fence, &format!("trap '' TERM; echo $$ > pid{fence}; sleep 600; :"));
        guard.pid_in(&format!("pid{fence}"));
    }
    guard.order(&Order::KillAll);
    let mut taken = 0;
    while taken < 3 {
        if let Event::Ended { taken: true, .. } = guard.events.recv_timeout(PATIENCE).unwrap() {
            taken += 1;
        }
    }
    for fence in 1..=3 {
        gone(guard.pid_in(&format!("pid{fence}")));
    }
    guard.start(9, &["echo", "on it goes"]);
    assert!(guard.ended(9).0.completed, "the lease still holds");
}

#[test]
fn start_without_a_lease_is_refused() {
    let mut guard = Guard::new("unleased");
    guard.start(1, &["echo", "hello"]);
    let (verdict, taken) = guard.ended(1);
    assert!(taken && !verdict.completed && verdict.output.is_empty());
    assert_eq!(verdict.error.as_deref(), Some("lease lost"));
}

#[test]
fn lease_of_the_past_is_no_lease() {
    let mut guard = Guard::new("past");
    guard.order(&Order::Lease { until: Moment(1) });
    guard.start(1, &["echo", "hello"]);
    assert!(guard.ended(1).1);
}

#[test]
fn lease_that_runs_out_ends_every_command_and_the_next_one_begins_again() {
    let mut guard = Guard::new("expiry");
    let until = Moment::now().after(Duration::from_millis(800));
    guard.order(&Order::Lease { until });
    guard.shell(1, "trap '' TERM; echo $$ > pid; (setsid sh -c 'echo $$ > child; sleep 600; :' &); sleep 600; :");
    let (pid, child) = (guard.pid_in("pid"), guard.pid_in("child"));
    let (verdict, taken) = guard.ended(1);
    assert!(taken);
    assert_eq!(verdict.error.as_deref(), Some("lease lost"));
    assert!(Moment::now() >= until, "ended before the lease did");
    gone(pid);
    gone(child);
    guard.start(2, &["true"]);
    assert!(guard.ended(2).1, "refused until a lease comes");
    guard.lease(LONG);
    guard.start(3, &["true"]);
    assert!(guard.ended(3).0.completed);
}

#[test]
fn lease_renewed_in_time_ends_nothing() {
    let mut guard = Guard::new("renewed");
    guard.lease(Duration::from_millis(1000));
    guard.start(1, &["sh", "-c", "sleep 1.5; echo whole"]);
    for _ in 0..8 {
        guard.lease(Duration::from_millis(1000));
        thread::sleep(Duration::from_millis(200));
    }
    let (verdict, taken) = guard.ended(1);
    assert_eq!((text(&verdict), taken), ("whole\n", false));
}

#[test]
fn lease_is_answered_so_that_the_node_knows_its_guard_lives() {
    let mut guard = Guard::new("answer");
    let until = Moment::now().after(LONG);
    guard.order(&Order::Lease { until });
    assert_eq!(guard.events.recv_timeout(PATIENCE), Ok(Event::Leased { until }));
}

#[test]
fn fence_ordered_twice_runs_once() {
    let mut guard = Guard::new("twice");
    guard.lease(LONG);
    let script = "echo $$ >> log; while [ ! -e go ]; do sleep 0.01; done";
    guard.shell(1, script);
    guard.pid_in("log");
    guard.shell(1, script);
    guard.start(2, &["true"]);
    guard.ended(2);
    fs::write(guard.folder.join("go"), "").unwrap();
    guard.ended(1);
    assert_eq!(fs::read_to_string(guard.folder.join("log")).unwrap().lines().count(), 1);
}

#[test]
fn end_of_the_pipe_ends_groups_children_and_escaped_sessions_then_the_guard() {
    let mut guard = Guard::new("eof");
    guard.lease(LONG);
    guard.shell(
        1,
        "trap '' TERM; echo $$ > pid; sleep 600 & echo $! > child; \
         setsid sh -c 'trap \"\" TERM HUP; echo $$ > session; sleep 600; :' & \
         env -i setsid sh -c 'echo $$ > bare; sleep 600; :' & wait",
    );
    let pids = ["pid", "child", "session", "bare"].map(|file| guard.pid_in(file));
    assert!(pids.into_iter().all(lives));
    guard.orders = None;
    assert_eq!(guard.wait(), Some(0));
    for pid in pids {
        assert!(!lives(pid), "{pid:?} outlived the guard");
    }
}

#[test]
fn order_to_stop_ends_everything_and_tells_it() {
    let mut guard = Guard::new("stop");
    guard.lease(LONG);
    guard.shell(1, "echo $$ > pid; exec sleep 600");
    let pid = guard.pid_in("pid");
    guard.order(&Order::Stop);
    assert!(guard.ended(1).1);
    assert_eq!(guard.wait(), Some(0));
    assert!(!lives(pid));
    assert_eq!(guard.events.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected));
}

#[test]
fn node_killed_takes_its_commands_with_it() {
    let mut guard = Guard::with_node("killed");
    guard.lease(LONG);
    guard.shell(1, "echo $$ > pid; exec sleep 600");
    let pid = guard.pid_in("pid");
    guard.node.as_mut().unwrap().kill().unwrap();
    assert_eq!(guard.wait(), Some(0));
    assert!(!lives(pid));
}

#[test]
fn node_frozen_loses_its_commands_and_what_it_ordered_before_it_woke() {
    let mut guard = Guard::with_node("frozen");
    guard.lease(Duration::from_millis(1500));
    guard.shell(1, "echo $$ > pid; exec sleep 600");
    let pid = guard.pid_in("pid");
    let node = Pid::from_child(guard.node.as_ref().unwrap());
    kill_process(node, Signal::STOP).unwrap();
    // Both are read only after the node has woken: the lease was computed before, and is over then.
    guard.lease(Duration::from_millis(300));
    guard.start(2, &["echo", "too late"]);
    assert_eq!(guard.ended(1).0.error.as_deref(), Some("lease lost"));
    gone(pid);
    kill_process(node, Signal::CONT).unwrap();
    let (verdict, taken) = guard.ended(2);
    assert!(taken && verdict.output.is_empty());
}

#[test]
fn guard_frozen_with_its_node_starts_nothing_on_an_order_older_than_its_sleep() {
    let mut guard = Guard::new("asleep");
    let end = Moment::now().after(Duration::from_millis(600));
    guard.order(&Order::Lease { until: end });
    guard.shell(1, "echo $$ > pid; exec sleep 600");
    let pid = guard.pid_in("pid");
    kill_process(Pid::from_child(&guard.child), Signal::STOP).unwrap();
    guard.shell(2, "echo ran > ran");
    until("the lease is over", || Moment::now() > end);
    assert!(lives(pid), "nobody ends it while its guard stands still");
    kill_process(Pid::from_child(&guard.child), Signal::CONT).unwrap();
    assert!(guard.ended(2).1);
    gone(pid);
    assert!(!guard.folder.join("ran").exists());
}

#[test]
fn signals_to_the_guard_end_neither_it_nor_its_commands() {
    let mut guard = Guard::new("signals");
    guard.lease(LONG);
    guard.shell(1, "echo $$ > pid; while [ ! -e go ]; do sleep 0.01; done; echo whole");
    guard.pid_in("pid");
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        kill_process(Pid::from_child(&guard.child), signal).unwrap();
    }
    fs::write(guard.folder.join("go"), "").unwrap();
    assert_eq!(text(&guard.ended(1).0), "whole\n");
}

#[test]
fn noise_on_the_pipe_ends_the_guard_with_a_fault() {
    let mut guard = Guard::new("noise");
    let pipe = guard.orders.as_mut().unwrap();
    pipe.write_all(&[0xff; 64]).unwrap();
    assert_eq!(guard.wait(), Some(1));
}

#[test]
fn node_that_does_not_read_still_has_its_commands_ended() {
    // No thread reads this guard's events: its pipe fills with outputs.
    let folder = std::env::temp_dir().join(format!("raftq-guard-deafnode-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_raftq"))
        .arg("guard")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut orders = child.stdin.take().unwrap();
    let send = |orders: &mut ChildStdin, order: &Order| write_frame(orders, order).unwrap();
    let until_then = Moment::now().after(Duration::from_secs(3));
    send(&mut orders, &Order::Lease { until: until_then });
    for fence in 1..=20 {
        let argv = ["sh", "-c", "head -c 20000 /dev/zero"].map(String::from).to_vec();
        send(&mut orders, &Order::Start(plain(fence, argv)));
    }
    let script = format!("echo $$ > '{}'; exec sleep 600", folder.join("pid").display());
    let argv = vec!["sh".into(), "-c".into(), script];
    send(&mut orders, &Order::Start(plain(99, argv)));
    let pid = read_pid(&folder.join("pid"));
    gone(pid);
    assert!(Moment::now() >= until_then);
    drop(orders);
    until("the guard has ended", || child.try_wait().unwrap().is_some());
    fs::remove_dir_all(&folder).unwrap();
}

fn read_pid(path: &Path) -> Pid {
    let mut pid = None;
    until("a process number is written", || {
        let text = fs::read_to_string(path).unwrap_or_default();
        pid = text.strip_suffix('\n').and_then(|line| line.parse().ok()).and_then(Pid::from_raw);
        pid.is_some()
    });
    pid.unwrap()
}

/// Keeps the harness honest: a frame that cannot be is refused before it is written.
#[test]
fn order_too_large_for_a_frame_is_not_written() {
    let argv = vec!["x".repeat(3 << 20)];
    let start = plain(1, argv);
    let error = write_frame(&mut io::sink(), &Order::Start(start)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

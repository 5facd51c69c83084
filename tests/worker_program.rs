//! Workers that people run: `raftq worker --exec` and library workers against real nodes.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "a test that meets the unexpected fails there, and runs in the world's time; its module is no library"
)]

#[expect(dead_code, reason = "shared with the tests of whole clusters")]
mod harness;

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use async_std::task;
use futures::channel::oneshot;
use harness::{Cluster, until};
use raftq::client::client::Client;
use raftq::client::context::Abandoned;
use raftq::client::duty::StopReason;
use raftq::client::job::Job;
use raftq::client::worker::Worker;
use raftq::jobs::intake::Intake;
use raftq::types::WorkerId;

/// A `raftq worker` that runs; it ends with the test.
struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    fn start(cluster: &Cluster, log: &str, args: &[&str]) -> Self {
        let log = cluster.dir().join(log);
        let child = Command::new(env!("CARGO_BIN_EXE_raftq"))
            .arg("worker")
            .args(args)
            .env("RAFTQ_ADDRS", cluster.addrs())
            .env("RAFTQ", env!("CARGO_BIN_EXE_raftq"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { child, log }
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Waits for its end and returns the exit code.
    fn ended(&mut self) -> Option<i32> {
        let child = &mut self.child;
        let status = until("the worker has ended", || child.try_wait().unwrap());
        status.code()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- worker\n{}", self.said());
        }
        if self.child.kill().is_ok() {
            self.child.wait().unwrap();
        }
    }
}

/// A node without slots of its own.
fn cluster(name: &str) -> Cluster {
    Cluster::start(name, 1, &["--slots", "0"])
}

fn submit(cluster: &Cluster, payload: &str, more: &[&str]) -> String {
    let args = [&["submit", "--queue", "q", "--payload", payload], more].concat();
    cluster.ok(&args).trim().to_owned()
}

fn status(cluster: &Cluster, id: &str) -> serde_json::Value {
    cluster.json(&["get", id])
}

fn until_status(cluster: &Cluster, id: &str, wanted: &str) -> serde_json::Value {
    until(wanted, || Some(status(cluster, id)).filter(|job| job["status"] == wanted))
}

/// What the worker's state is, as `worker list` says it.
fn worker_of(cluster: &Cluster, name: &str) -> Option<serde_json::Value> {
    let lines = cluster.ok(&["worker", "list", "--json"]);
    let mut workers = lines.lines().map(|line| serde_json::from_str(line).unwrap());
    workers.find(|worker: &serde_json::Value| worker["id"] == name)
}

fn until_live(cluster: &Cluster, name: &str) {
    until("the worker is live", || worker_of(cluster, name).filter(|it| it["state"] == "live"));
}

const SCRIPT: &str = r#"
    payload=$(cat)
    case $payload in
        env) echo "$RAFTQ_JOB_ID $RAFTQ_QUEUE $RAFTQ_ATTEMPT $RAFTQ_FENCE $RAFTQ_ADDRS" ;;
        fail) echo sorry; exit 3 ;;
        later) [ "$RAFTQ_ATTEMPT" -ge 3 ] || exit 75; echo at last ;;
        large) cat /dev/null; printf %s "$payload" | wc -c ;;
        progress) "$RAFTQ" progress 40 'two of five' && while [ ! -e "$GO" ]; do sleep 0.05; done ;;
        slow) trap '' TERM; while :; do sleep 0.05; done ;;
        *) printf %s "$payload" | wc -c ;;
    esac
"#;

#[test]
fn command_gets_payload_and_environment_and_its_exit_code_is_the_verdict() {
    let cluster = cluster("worker exec");
    let args = ["--queue", "q", "--slots", "4", "--name", "w", "-v", "--exec", "sh", "-c", SCRIPT];
    let mut program = Program::start(&cluster, "w.log", &args);
    let first = submit(&cluster, "env", &[]);
    cluster.ok(&["wait", &first]);
    let job = status(&cluster, &first);
    let told = format!("{first} q 1 {} {}\n", job["fence"], cluster.addrs());
    assert_eq!(cluster.ok(&["result", &first]), told);
    assert_eq!((job["worker"].as_str(), job["exit_code"].as_i64()), (Some("w"), Some(0)));

    // A whole payload of the largest size arrives on stdin.
    let large = cluster.dir().join("large");
    fs::write(&large, vec![b'x'; 1 << 20]).unwrap();
    let large = submit(&cluster, &format!("@{}", large.display()), &[]);
    cluster.ok(&["wait", &large]);
    assert_eq!(cluster.ok(&["result", &large]).trim(), "1048576");

    let failed = submit(&cluster, "fail", &[]);
    assert_eq!(cluster.raftq(&["wait", &failed]).status.code(), Some(8));
    assert_eq!(status(&cluster, &failed)["exit_code"], 3);
    assert_eq!(cluster.raftq(&["result", &failed]).status.code(), Some(8));

    // No retries, and yet: twice it asks to be tried again later.
    let later = submit(&cluster, "later", &["--backoff", "50ms"]);
    cluster.ok(&["wait", &later]);
    let job = status(&cluster, &later);
    assert_eq!((job["attempt"].as_i64(), job["output"].as_str()), (Some(3), Some("at last\n")));

    // What takes too long is ended by the guard, which tells how.
    let slow = submit(&cluster, "slow", &["--job-timeout", "200ms"]);
    assert_eq!(cluster.raftq(&["wait", &slow]).status.code(), Some(8));
    assert_eq!(status(&cluster, &slow)["error"], "timed out after 200ms");

    program.signal("-TERM");
    assert_eq!(program.ended(), Some(0));
    let said = program.said();
    assert!(said.contains("takes payloads of q, 4 at once"), "{said}");
    assert!(said.contains(&format!("job {failed} attempt 1: exited with code 3")), "{said}");
    assert!(said.contains("has ended: 4 jobs done") || said.contains("jobs done"), "{said}");
    let none = cluster.raftq(&["result", &submit(&cluster, "x", &[])]);
    assert_eq!(none.status.code(), Some(6), "it has not ended");
}

#[test]
fn progress_is_shown_while_the_job_runs_and_refused_once_it_is_over() {
    let cluster = cluster("worker progress");
    let go = cluster.dir().join("go");
    let script = format!("GO='{}'; {SCRIPT}", go.display());
    let args = ["--queue", "q", "--name", "w", "--exec", "sh", "-c", &script];
    let _program = Program::start(&cluster, "w.log", &args);
    let id = submit(&cluster, "progress", &[]);
    let job = until("progress", || {
        Some(status(&cluster, &id)).filter(|job| job["progress"]["percent"] == 40)
    });
    assert_eq!(
        (job["status"].as_str(), job["progress"]["note"].as_str()),
        (Some("running"), Some("two of five"))
    );
    for verb in ["get", "show"] {
        let text = cluster.ok(&[verb, &id]);
        assert!(text.contains("40 %, two of five (at 20"), "{verb}: {text}");
    }
    assert!(cluster.ok(&["list"]).contains("40 %"));
    fs::write(&go, "").unwrap();
    cluster.ok(&["wait", &id]);
    assert_eq!(status(&cluster, &id)["progress"]["percent"], 40, "kept after the end");

    let progress = |fence: &str| {
        Command::new(env!("CARGO_BIN_EXE_raftq"))
            .args(["progress", "99"])
            .env("RAFTQ_ADDRS", cluster.addrs())
            .env("RAFTQ_JOB_ID", &id)
            .env("RAFTQ_FENCE", fence)
            .output()
            .unwrap()
    };
    let late = progress(&job["fence"].to_string());
    assert_eq!(late.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&late.stderr).contains("STALE_FENCE"), "{late:?}");
    assert_eq!(progress("none").status.code(), Some(2));
    assert_eq!(cluster.raftq(&["progress", "40"]).status.code(), Some(2), "no job around it");
}

#[test]
fn worker_kept_quiet_stays_and_one_that_is_drained_finishes_and_ends() {
    let cluster = cluster("worker drain");
    let go = cluster.dir().join("go");
    let script = format!("while [ ! -e '{}' ]; do sleep 0.05; done; echo done", go.display());
    let args = ["--queue", "q", "--name", "w", "--slots", "2", "--exec", "sh", "-c", &script];
    let mut program = Program::start(&cluster, "w.log", &args);
    until_live(&cluster, "w");
    let first = submit(&cluster, "1", &[]);
    until_status(&cluster, &first, "running");

    cluster.ok(&["worker", "quiet", "w"]);
    let second = submit(&cluster, "2", &[]);
    assert_eq!(worker_of(&cluster, "w").unwrap()["intake"], "quiet");
    assert!(cluster.ok(&["workers"]).contains("live,quiet"));
    std::thread::park_timeout(Duration::from_millis(300));
    assert_eq!(status(&cluster, &second)["status"], "pending");
    cluster.ok(&["worker", "resume", "w"]);
    until_status(&cluster, &second, "running");

    let drained = cluster.json(&["worker", "drain", "w"]);
    assert_eq!((drained["intake"].as_str(), drained["running"].as_i64()), (Some("drain"), Some(2)));
    let third = submit(&cluster, "3", &[]);
    std::thread::park_timeout(Duration::from_millis(1500));
    assert!(program.child.try_wait().unwrap().is_none(), "it has jobs to finish");
    fs::write(&go, "").unwrap();
    assert_eq!(program.ended(), Some(0));
    assert!(program.said().contains("is drained: 2 jobs done, 0 given back"), "{}", program.said());
    assert_eq!(cluster.ok(&["wait", &first, &second]).matches("completed").count(), 2);
    assert_eq!(status(&cluster, &third)["status"], "pending");
    assert_eq!(cluster.raftq(&["worker", "drain", "w"]).status.code(), Some(1), "it is gone");
    assert_eq!(cluster.raftq(&["worker", "quiet", "nobody"]).status.code(), Some(3));

    // The drain is over with its process.
    let _again = Program::start(&cluster, "w2.log", &args);
    cluster.ok(&["wait", &third]);
}

#[test]
fn second_worker_of_a_name_ends_the_first_which_says_why() {
    let cluster = cluster("worker name");
    let args = ["--queue", "q", "--name", "w", "--exec", "sleep", "600"];
    let mut first = Program::start(&cluster, "first.log", &args);
    let id = submit(&cluster, "1", &[]);
    until_status(&cluster, &id, "running");
    let second = Program::start(&cluster, "second.log", &args);
    assert_eq!(first.ended(), Some(1));
    let said = first.said();
    assert!(said.contains("another worker of the name w has begun"), "{said}");
    let job = until("its job is the second one's", || {
        Some(status(&cluster, &id)).filter(|job| job["attempt"] == 2 && job["status"] == "running")
    });
    // It stays with it: nobody takes it away again.
    std::thread::park_timeout(Duration::from_millis(2500));
    assert_eq!(status(&cluster, &id)["fence"], job["fence"]);
    assert_eq!(worker_of(&cluster, "w").unwrap()["state"], "live");
    drop(second);
}

#[test]
fn worker_killed_with_fifty_jobs_loses_them_to_another_within_five_seconds() {
    let cluster = Cluster::start("worker kill", 3, &["--slots", "0"]);
    let pids = cluster.dir().join("pids");
    fs::create_dir(&pids).unwrap();
    let script =
        format!("echo $$ > '{}'/$RAFTQ_JOB_ID-$RAFTQ_ATTEMPT; exec sleep 600", pids.display());
    let args =
        |name| ["--queue", "q", "--name", name, "--slots", "50", "--exec", "sh", "-c", &script];
    let mut first = Program::start(&cluster, "first.log", &args("first"));
    until_live(&cluster, "first");
    let jobs = "{\"queue\":\"q\",\"payload\":\"x\"}\n".repeat(50);
    let output = cluster.raftq_in(&["submit", "--batch", "-"], jobs.as_bytes());
    assert!(output.status.success(), "{output:?}");
    let count = |attempt: &str| {
        let names = fs::read_dir(&pids).unwrap().map(|it| it.unwrap().file_name().into_string());
        names.filter(|name| name.as_ref().unwrap().ends_with(attempt)).count()
    };
    until("fifty run", || (count("-1") == 50).then_some(()));
    let _second = Program::start(&cluster, "second.log", &args("second"));
    until_live(&cluster, "second");
    first.signal("-KILL");
    let killed = Instant::now();
    first.ended();
    until("fifty run elsewhere", || (count("-2") == 50).then_some(()));
    let took = killed.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    // The guard has ended what the first one ran.
    for entry in fs::read_dir(&pids).unwrap() {
        let path = entry.unwrap().path();
        if path.to_str().unwrap().ends_with("-1") {
            let pid = fs::read_to_string(&path).unwrap();
            assert!(!PathBuf::from(format!("/proc/{}", pid.trim())).exists(), "{pid} lives on");
        }
    }
    let running = cluster.ok(&["list", "--status", "running", "--worker", "second", "--json"]);
    assert_eq!(running.lines().count(), 50);
    assert_eq!(running.matches("\"attempt\":2,").count(), 50, "one attempt was used up, no more");
}

#[test]
fn second_signal_ends_a_worker_and_its_commands_at_once() {
    let cluster = cluster("worker signals");
    let args = ["--queue", "q", "--name", "w", "--grace", "10m", "--exec", "sleep", "600"];
    let mut program = Program::start(&cluster, "w.log", &args);
    let id = submit(&cluster, "1", &[]);
    until_status(&cluster, &id, "running");
    program.signal("-TERM");
    std::thread::park_timeout(Duration::from_millis(300));
    assert!(program.child.try_wait().unwrap().is_none(), "the job may end within the grace");
    program.signal("-TERM");
    assert_eq!(program.ended(), Some(143));
}

fn client(cluster: &Cluster) -> Client {
    Client::builder().seeds(cluster.addrs().split(',').map(String::from)).build().unwrap()
}

/// Runs a library worker in the background, until what is returned is dropped.
fn run(worker: Worker) -> (oneshot::Sender<()>, task::JoinHandle<StopReason>) {
    let (stop, stopped) = oneshot::channel();
    let running = task::spawn(async move {
        let shutdown = async {
            let _told = stopped.await;
        };
        worker.run_until(shutdown).await.unwrap().reason
    });
    (stop, running)
}

#[test]
fn handler_hears_of_a_cancel_extends_its_time_and_its_output_is_the_result() {
    let cluster = cluster("worker library");
    let client = client(&cluster);
    let (said, heard) = channel();
    let worker = Worker::new(&client)
        .name("lib")
        .slots(4)
        .queue_blocking("cancel", move |context, _| {
            said.send("begun").unwrap();
            while !context.is_abandoned() {
                std::thread::park_timeout(Duration::from_millis(10));
            }
            let why = task::block_on(context.cancelled());
            assert_eq!((why, context.is_cancelled()), (Abandoned::Cancelled, true));
            said.send("cancelled").unwrap();
            Err::<&str, _>("nobody wants it")
        })
        .queue("extend", |context, payload| async move {
            if payload.as_ref() == b"more" {
                context.extend(Duration::from_secs(60));
            }
            context.progress(10, "begun");
            task::sleep(Duration::from_millis(1000)).await;
            context.progress(100, "done");
            Ok::<_, String>(vec![0, 255, 7])
        })
        .queue("large", |_, _| async move { Ok::<_, String>(vec![1; (16 << 10) + 1]) });
    let (_stop, running) = run(worker);

    task::block_on(async {
        let cancelled = client.submit(Job::payload("cancel", "x")).await.unwrap().id;
        assert_eq!(heard.recv_timeout(harness::PATIENCE), Ok("begun"));
        client.cancel(&[cancelled]).await.unwrap()[0].as_ref().unwrap();
        let begun = Instant::now();
        assert_eq!(heard.recv_timeout(harness::PATIENCE), Ok("cancelled"));
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());

        let timeout = Duration::from_millis(400);
        let job = |payload: &'static str| Job::payload("extend", payload).timeout(timeout);
        let more = client.submit(job("more")).await.unwrap().id;
        let less = client.submit(job("less")).await.unwrap().id;
        let large = client.submit(Job::payload("large", "x")).await.unwrap().id;
        let ended = client.wait(&[more, less, large], None).await.unwrap();
        let told: Vec<_> = ended.into_iter().map(Result::unwrap).collect();
        assert_eq!(client.result(more).await.unwrap().as_ref(), [0, 255, 7]);
        let progress = told[0].progress.as_ref().unwrap();
        assert_eq!((progress.percent, progress.note.as_str()), (100, "done"), "the last word");
        assert_eq!(told[1].error.as_deref(), Some("timed out after 400ms"));
        assert!(told[2].error.as_ref().unwrap().starts_with("the result has 16385 bytes"));
        let none = client.result(less).await.unwrap_err();
        assert!(none.to_string().contains("has no result"), "{none}");

        let worker = WorkerId::new("lib").unwrap();
        assert_eq!(client.change_worker(worker, Intake::Drain).await.unwrap(), 0);
        assert_eq!(running.await, StopReason::Drained);
    });
}

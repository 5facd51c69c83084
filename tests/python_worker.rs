//! The worker of `scripts/raftq.py` at real nodes: killed, frozen, stopped, and left without a leader.
//!
//! They need a Python with msgpack, which `RAFTQ_PYTHON` names; without one they are left out, and say so.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a test that meets the unexpected fails there; it watches the real clock"
)]

#[expect(dead_code, reason = "shared with the tests of whole clusters")]
mod harness;

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use raftq::client::blocking::Client;
use raftq::client::job::{Job, new_id};
use raftq::jobs::job::{JobView, Status};
use raftq::types::{JobId, Tag};

use harness::{Cluster, PATIENCE, until};

/// A cluster whose nodes run nothing themselves, and a client of it.
struct World {
    python: String,
    cluster: Cluster,
    client: Client,
}

/// A worker in Python.
struct Python {
    child: Child,
    said: PathBuf,
    told: PathBuf,
}

impl World {
    fn new(name: &str) -> Option<Self> {
        let Ok(python) = std::env::var("RAFTQ_PYTHON") else {
            eprintln!("left out: RAFTQ_PYTHON names no Python with msgpack (.ci/run makes one)");
            return None;
        };
        let cluster = Cluster::start(name, 3, &["--slots", "0"]);
        let client = Client::builder().seeds(cluster.addrs().split(',')).build().unwrap();
        Some(Self { python, cluster, client })
    }

    fn worker(&self, name: &str) -> Python {
        let file = |ending| self.cluster.dir().join(format!("{name}.{ending}"));
        let (said, told) = (file("out"), file("err"));
        let child = Command::new(&self.python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python_worker/worker.py"))
            .args([&self.cluster.addrs(), name])
            .env("PYTHONPATH", concat!(env!("CARGO_MANIFEST_DIR"), "/scripts"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdout(File::create(&said).unwrap())
            .stderr(File::create(&told).unwrap())
            .spawn()
            .unwrap();
        until("the worker is registered", || {
            let workers = self.client.workers().ok()?;
            workers.iter().find(|it| it.id.to_string() == name && it.state == "live").map(drop)
        });
        Python { child, said, told }
    }

    fn submit(&self, jobs: impl IntoIterator<Item = Job>) -> Vec<JobId> {
        let jobs: Vec<(JobId, Job)> = jobs
            .into_iter()
            .map(|job| {
                let id = new_id();
                (id, job.id(id))
            })
            .collect();
        let ids = jobs.iter().map(|(id, _)| *id).collect();
        let taken = self.client.submit_batch(jobs.into_iter().map(|(_, job)| job)).unwrap();
        assert!(taken.iter().all(Result::is_ok), "{taken:?}");
        ids
    }

    /// Waits for the end of all.
    fn ended(&self, ids: &[JobId]) -> Vec<JobView> {
        let jobs = self.client.wait(ids, Some(PATIENCE)).unwrap();
        let jobs: Vec<JobView> = jobs.into_iter().map(Result::unwrap).collect();
        let open: Vec<&JobView> = jobs.iter().filter(|job| !job.status.is_final()).collect();
        assert!(open.is_empty(), "not ended within {PATIENCE:?}: {open:?}");
        jobs
    }

    fn get(&self, id: JobId) -> JobView {
        self.client.get(id).unwrap()
    }

    /// Submits four jobs that the worker called `first` holds, and waits until it does.
    fn held_by_first(&self, first: &Python) -> Vec<JobView> {
        let ids = self.submit((0..4).map(|_| Job::payload("hold", "first")));
        until("it holds four", || (first.count("held") == 4).then_some(()));
        ids.into_iter().map(|id| self.get(id)).collect()
    }
}

impl Python {
    fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap()
    }

    fn told(&self) -> String {
        fs::read_to_string(&self.told).unwrap()
    }

    /// How many lines it said that begin with this word.
    fn count(&self, word: &str) -> usize {
        self.said().lines().filter(|line| line.split(' ').next() == Some(word)).count()
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap().success()
        );
    }

    /// Waits for its end, which must be a good one; returns what it says then.
    fn end(mut self) -> String {
        let status = until("the worker ends", || self.child.try_wait().unwrap());
        assert!(status.success(), "{status}: {}", self.told());
        // Its handlers may say something after it.
        let said = self.said();
        said.lines().find(|line| line.starts_with("finished ")).unwrap_or_default().to_owned()
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}--- stderr\n{}", self.said.display(), self.said(), self.told());
        }
    }
}

#[test]
fn python_worker_completes_everything_while_the_leader_is_killed() {
    let Some(mut world) = World::new("python leader") else { return };
    let worker = world.worker("only");
    let ids = world.submit((0..300).map(|_| Job::payload("work", "20")));
    until("a third is done", || {
        let done = world.client.wait(&ids[..100], Some(Duration::ZERO)).ok()?;
        done.iter().all(|job| job.as_ref().is_ok_and(|job| job.status.is_final())).then_some(())
    });
    let leader = world.cluster.leader();
    world.cluster.kill(leader);
    let jobs = world.ended(&ids);
    world.cluster.spawn(leader);
    for job in jobs {
        assert_eq!(
            (job.status, &job.output[..]),
            (Status::Completed, &b"20 ms in work"[..]),
            "{job:?}"
        );
    }
    world.cluster.wait_whole();
    worker.signal("TERM");
    assert_eq!(worker.end(), "finished 300 abandoned 0");
}

#[test]
fn python_worker_killed_with_jobs_in_hand_leaves_them_to_another() {
    let Some(world) = World::new("python killed") else { return };
    let first = world.worker("first");
    let before = world.held_by_first(&first);
    let second = world.worker("second");
    first.signal("KILL");
    let ids: Vec<JobId> = before.iter().map(|job| job.id).collect();
    for (job, before) in world.ended(&ids).iter().zip(before) {
        assert_eq!((job.status, &job.output[..]), (Status::Completed, &b"done by second"[..]));
        assert_eq!(
            (before.attempt, job.attempt),
            (1, 2),
            "a worker that died has used up an attempt"
        );
        assert!(job.fence > before.fence);
    }
    second.signal("TERM");
    assert_eq!(second.end(), "finished 4 abandoned 0");
}

#[test]
fn python_worker_frozen_past_its_lease_drops_its_jobs_and_registers_anew() {
    let Some(world) = World::new("python frozen") else { return };
    let first = world.worker("first");
    let before = world.held_by_first(&first);
    let second = world.worker("second");
    first.signal("STOP");
    let ids: Vec<JobId> = before.iter().map(|job| job.id).collect();
    world.ended(&ids);
    let jobs: Vec<JobView> = ids.iter().map(|id| world.get(*id)).collect();
    assert!(jobs.iter().all(|job| job.output == b"done by second"[..] && job.attempt == 2));
    first.signal("CONT");
    until("its handlers see it", || (first.count("cancelled") == 4).then_some(()));
    second.signal("TERM");
    second.end();
    let next = world.submit([Job::payload("work", "0").tag(Tag::new("python").unwrap())]);
    let next = &world.ended(&next)[0];
    assert_eq!(next.worker.as_ref().unwrap().to_string(), "first", "it is given jobs again");
    let now: Vec<JobView> = ids.iter().map(|id| world.get(*id)).collect();
    assert_eq!(now, jobs, "waking up changed nothing");
    assert!(first.told().contains("registers anew"), "{}", first.told());
    first.signal("TERM");
    assert_eq!(first.end(), "finished 1 abandoned 4");
}

#[test]
fn python_worker_without_any_node_gives_up_its_jobs_and_gets_them_again_unpaid() {
    let Some(mut world) = World::new("python alone") else { return };
    let first = world.worker("first");
    let before = world.held_by_first(&first);
    let killed = Instant::now();
    for id in world.cluster.ids() {
        world.cluster.kill(id);
    }
    until("its handlers see it", || (first.count("cancelled") == 4).then_some(()));
    let after = killed.elapsed();
    assert!(
        (Duration::from_millis(1900)..Duration::from_millis(3500)).contains(&after),
        "{after:?}"
    );
    for id in world.cluster.ids() {
        world.cluster.spawn(id);
    }
    let ids: Vec<JobId> = before.iter().map(|job| job.id).collect();
    for (job, before) in world.ended(&ids).iter().zip(before) {
        assert_eq!((job.status, &job.output[..]), (Status::Completed, &b"done by first"[..]));
        assert_eq!(job.attempt, 1, "what it gave up itself has used up no attempt: {job:?}");
        assert!(job.fence > before.fence);
    }
    first.signal("TERM");
    assert_eq!(first.end(), "finished 4 abandoned 4");
}

#[test]
fn python_worker_reports_how_handlers_end() {
    let Some(world) = World::new("python ends") else { return };
    let worker = world.worker("only");
    let ask = |what: &str| Job::payload("end", what.to_owned());
    let pauses = (Duration::from_millis(1), Duration::from_millis(1));
    let whats = ["bytes", "str", "nothing", "long", "raise", "exit", "number"];
    let mut jobs: Vec<Job> = whats.map(ask).into();
    jobs.push(ask("fail twice").retries(2).backoff(pauses.0, pauses.1));
    let jobs = world.ended(&world.submit(jobs));
    let [bytes, text, nothing, long, raised, left, number, thrice] = &jobs[..] else {
        panic!("{jobs:?}");
    };
    for (job, output) in [(bytes, &b"\x00\xff"[..]), (text, "é".as_bytes()), (nothing, b"")] {
        assert_eq!((job.status, &job.output[..], &job.error), (Status::Completed, output, &None));
    }
    assert!(long.output.len() == 16_384 && long.output_cut && long.output.ends_with(b"az"));
    for (job, error) in [
        (raised, "ValueError: no such mailbox"),
        (left, "SystemExit: no more"),
        (number, "TypeError: a handler returns bytes, str or None, and this one a int"),
    ] {
        assert_eq!((job.status, job.error.as_deref()), (Status::Failed, Some(error)));
    }
    assert_eq!((thrice.status, thrice.attempt), (Status::Completed, 3), "{thrice:?}");
    assert!(worker.told().contains("Traceback"), "the whole of it is for whoever runs the worker");
    worker.signal("INT");
    assert_eq!(worker.end(), "finished 10 abandoned 0");
}

/// What cannot be right is said at once, by the library or by the cluster.
const WRONG: &str = r#"
import sys
import raftq
def no(text, error, make):
    try:
        make()
    except error as fault:
        assert text in str(fault), fault
    else:
        raise AssertionError("taken, and it should be said: " + text)
worker = raftq.Worker(sys.argv[1])
no("1 to 64 queues", ValueError, worker.run)
worker.task("mail")(print)
no("two handlers", ValueError, lambda: worker.task("mail")(print))
no("not a name", ValueError, lambda: worker.task("two words"))
no("not a name", ValueError, lambda: raftq.Worker(sys.argv[1], name="two words"))
no("0 slots; 1 to 4096", ValueError, lambda: raftq.Worker(sys.argv[1], slots=0))
no("17 tags; at most 16", ValueError, lambda: raftq.Worker(sys.argv[1], tags=["x"] * 17))
worker.tags = ["two words"]
no("INVALID_ARGUMENT", raftq.RaftqError, worker.run)
print("all is said")
"#;

#[test]
fn python_worker_that_cannot_be_right_is_told_so() {
    let Some(world) = World::new("python wrong") else { return };
    let output = Command::new("timeout")
        .arg(PATIENCE.as_secs().to_string())
        .args([&world.python, "-c", WRONG, &world.cluster.addrs()])
        .env("PYTHONPATH", concat!(env!("CARGO_MANIFEST_DIR"), "/scripts"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "all is said\n", "{output:?}");
}

#[test]
fn python_worker_reports_a_timeout_at_once_and_begins_nothing_beside_handlers_that_are_stuck() {
    let Some(world) = World::new("python timeout") else { return };
    let worker = world.worker("first");
    let brief = Duration::from_millis(200);
    let kind = world.ended(&world.submit([Job::payload("hold", "first").timeout(brief)]));
    assert_eq!(kind[0].error.as_deref(), Some("timed out after 0.2 s"));
    until("the handler sees it", || (worker.count("cancelled") == 1).then_some(()));

    let start = Instant::now();
    let deaf = world.submit((0..4).map(|_| Job::payload("deaf", "").timeout(brief)));
    let failed = world.ended(&deaf);
    assert!(start.elapsed() < Duration::from_millis(1400), "reported before the handlers return");
    assert!(failed.iter().all(|job| job.error.as_deref() == Some("timed out after 0.2 s")));
    assert_eq!(worker.count("heard"), 0, "this machine is too slow for this test");
    let next = world.ended(&world.submit([Job::payload("end", "next")]));
    assert_eq!(next[0].output, b"next"[..]);
    let said = worker.said();
    let place = |word: &str| said.lines().position(|line| line.starts_with(word)).unwrap();
    assert!(place("heard") < place("end"), "begun beside four that are stuck: {said}");
    worker.signal("TERM");
    assert_eq!(worker.end(), "finished 6 abandoned 0");
}

#[test]
fn python_worker_told_to_stop_ends_what_runs_and_gives_back_the_rest() {
    let Some(world) = World::new("python stop") else { return };
    let worker = world.worker("only");
    let ids = world.submit((0..12).map(|_| Job::payload("work", "700")));
    until("four run", || {
        (ids.iter().filter(|id| world.get(**id).status == Status::Running).count() == 4)
            .then_some(())
    });
    worker.signal("TERM");
    assert_eq!(worker.end(), "finished 4 abandoned 0");
    let jobs: Vec<JobView> = ids.iter().map(|id| world.get(*id)).collect();
    let done = jobs.iter().filter(|job| job.status == Status::Completed).count();
    let waiting = jobs.iter().filter(|job| job.status == Status::Pending).count();
    assert_eq!((done, waiting), (4, 8), "{jobs:?}");

    // At the second word it waits for nothing.
    world.client.cancel(&ids).unwrap();
    let first = world.worker("first");
    let held = world.held_by_first(&first);
    let start = Instant::now();
    first.signal("TERM");
    std::thread::park_timeout(Duration::from_millis(300));
    first.signal("TERM");
    assert!(first.end().ends_with(" abandoned 4"));
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    let held: Vec<JobId> = held.iter().map(|job| job.id).collect();
    assert!(held.iter().all(|id| world.get(*id).status == Status::Pending), "given back, not lost");
    let _second = world.worker("second");
    for job in world.ended(&held) {
        assert_eq!((job.attempt, &job.output[..]), (1, &b"done by second"[..]), "unpaid: {job:?}");
    }
}

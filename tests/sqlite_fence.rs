//! The fence, in a store outside: a worker that was frozen with jobs in hand wakes up after others finished them, and
//! what it then writes is refused. The worker is the example `tests/examples/sqlite_fence.rs`.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a test that meets the unexpected fails there; it watches the real clock"
)]

#[expect(dead_code, reason = "shared with the tests of whole clusters")]
mod harness;

#[path = "examples/sqlite_fence.rs"]
#[expect(dead_code, reason = "its main is that of another program")]
mod sqlite_fence;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use raftq::client::blocking::Client;
use raftq::client::client::CallOptions;
use raftq::client::job::{Job, new_id};
use raftq::jobs::command::StatusUpdate;
use raftq::jobs::job::{JobView, Status, Verdict};
use raftq::types::{JobId, WorkerId};
use raftq::wire::message::{Code, Filter, Reply, Request, WorkerView};
use rusqlite::Connection;

use harness::{Cluster, until};

/// How often a worker is frozen.
const ROUNDS: usize = 4;

/// Jobs of one round, and what each takes: long beside the moment from a look at the jobs to the signal, so that the
/// worker is frozen in the middle of them.
const JOBS: usize = 50;
const WORK_MS: u64 = 200;

/// What the test tells the process that it starts.
const ENV: [&str; 3] = ["SQLITE_FENCE_ADDRS", "SQLITE_FENCE_DB", "SQLITE_FENCE_NAME"];

/// A worker in a process of its own.
struct Bank {
    name: WorkerId,
    child: Child,
    log: PathBuf,
}

impl Bank {
    fn start(cluster: &Cluster, store: &Path, name: &str) -> Self {
        let log = cluster.dir().join(name);
        // This very program, which holds the example: whatever else is built or not, it is of today.
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["example_works_until_it_is_told_to_stop", "--exact", "--ignored", "--nocapture"])
            .env(ENV[0], cluster.addrs())
            .env(ENV[1], store)
            .env(ENV[2], name)
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { name: WorkerId::new(name).unwrap(), child, log }
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap().success()
        );
    }

    /// How many of its writes the store has refused.
    fn refused(&self) -> usize {
        let log = fs::read_to_string(&self.log).unwrap();
        log.lines().filter(|line| line.starts_with("refused: ")).count()
    }

    /// How the cluster sees it, while it is given jobs.
    fn live(&self, client: &Client) -> Option<WorkerView> {
        let workers = client.workers().ok()?;
        workers.into_iter().find(|it| it.id == self.name && it.state == "live")
    }

    /// What it runs, as far as the cluster knows.
    fn holds(&self, client: &Client) -> Vec<JobView> {
        let filter = Filter {
            status: Some(Status::Running),
            worker: Some(self.name.clone()),
            ..Filter::default()
        };
        client.list(filter).unwrap().0
    }
}

impl Drop for Bank {
    fn drop(&mut self) {
        // A frozen process dies of it as well.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
#[ignore = "the process that the other test starts"]
fn example_works_until_it_is_told_to_stop() {
    let [addrs, store, name] = ENV.map(|name| std::env::var(name).unwrap());
    let report = sqlite_fence::run(&addrs, Path::new(&store), &name).unwrap();
    eprintln!("{report:?}");
}

/// Makes the table, and beside it a list of all that was ever written to it.
fn store(path: &Path) -> Connection {
    let store = Connection::open(path).unwrap();
    store.busy_timeout(Duration::from_secs(30)).unwrap();
    store.execute(sqlite_fence::TABLE, []).unwrap();
    let noted = "BEGIN INSERT INTO written VALUES (new.job, new.fence); END";
    store
        .execute_batch(&format!(
            "CREATE TABLE written (job TEXT, fence INTEGER);
             CREATE TRIGGER made AFTER INSERT ON effects {noted};
             CREATE TRIGGER taken_over AFTER UPDATE ON effects {noted};"
        ))
        .unwrap();
    store
}

/// Counts pairs of writes to one row whose fence did not rise.
fn fell(store: &Connection) -> i64 {
    let pairs = "SELECT count(*) FROM written one JOIN written two
         ON one.job = two.job AND one.rowid < two.rowid AND one.fence >= two.fence";
    store.query_row(pairs, [], |row| row.get(0)).unwrap()
}

/// Says that an attempt was completed, as the frozen worker would have; returns why that was refused.
fn late_report(client: &Client, job: &JobView) -> Option<Code> {
    let verdict = Verdict {
        completed: true,
        exit_code: None,
        output: Bytes::from_static(b"late"),
        output_cut: false,
        error: None,
    };
    let update = StatusUpdate { job: job.id, fence: job.fence.unwrap(), verdict };
    let request = Request::BatchUpdateJobStatus(vec![update]);
    let reply = client.call(request, CallOptions::timeout(Duration::from_secs(20))).unwrap();
    let Reply::Updated(results) = reply else { panic!("{reply:?}") };
    results[0].as_ref().err().map(|refusal| refusal.code)
}

#[test]
fn workers_frozen_past_their_lease_write_nothing_and_every_effect_happens_once() {
    let cluster = Cluster::start("fence", 3, &["--slots", "0"]);
    let path = cluster.dir().join("bank.db");
    let store = store(&path);
    let client = Client::builder().seeds(cluster.addrs().split(',')).build().unwrap();
    let banks = ["north", "south"].map(|name| Bank::start(&cluster, &path, name));
    for bank in &banks {
        until("a live worker", || bank.live(&client));
    }

    let mut submitted: Vec<(JobId, i64)> = Vec::new();
    let mut stale_reports = 0;
    for round in 0..ROUNDS {
        let frozen = &banks[round % 2];
        let (before, start) = (frozen.refused(), frozen.live(&client).unwrap().incarnation);
        let new: Vec<(JobId, i64)> = (1..=JOBS as i64).map(|amount| (new_id(), amount)).collect();
        let jobs = new
            .iter()
            .map(|(id, amount)| Job::payload("payments", format!("{amount} {WORK_MS}")).id(*id));
        assert!(client.submit_batch(jobs).unwrap().iter().all(Result::is_ok));
        let ids: Vec<JobId> = new.iter().map(|(id, _)| *id).collect();
        submitted.extend(new);
        until("it holds several jobs", || (frozen.holds(&client).len() >= 4).then_some(()));
        frozen.signal("STOP");
        let held = frozen.holds(&client);

        // The others finish everything, what the frozen one holds too.
        let ended = client.wait(&ids, Some(harness::PATIENCE)).unwrap();
        assert!(
            ended.iter().all(|job| job.as_ref().unwrap().status == Status::Completed),
            "{ended:?}"
        );
        for job in &held {
            let now = client.get(job.id).unwrap();
            if now.fence > job.fence {
                assert_eq!(late_report(&client, job), Some(Code::StaleFence));
                assert_eq!(client.get(job.id).unwrap(), now, "a stale report changes nothing");
                stale_reports += 1;
            }
        }

        frozen.signal("CONT");
        until("it writes late", || (frozen.refused() > before || fell(&store) > 0).then_some(()));
        until("it registers anew", || {
            frozen.live(&client).filter(|worker| worker.incarnation > start)
        });
    }

    for bank in &banks {
        bank.signal("TERM");
    }
    let refused = banks.each_ref().map(Bank::refused);
    for mut bank in banks {
        assert!(bank.child.wait().unwrap().success());
    }

    // One row a job, and it is what the attempt has written that counts in the queue.
    let count: i64 = store.query_row("SELECT count(*) FROM effects", [], |row| row.get(0)).unwrap();
    assert_eq!(submitted.len(), ROUNDS * JOBS);
    assert_eq!(usize::try_from(count), Ok(submitted.len()));
    for (id, amount) in &submitted {
        let row: (i64, String, i64) = store
            .query_row(
                "SELECT fence, worker, amount FROM effects WHERE job = ?1",
                [id.to_string()],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
            )
            .unwrap();
        let job = client.get(*id).unwrap();
        let counts = (job.fence.unwrap().0.cast_signed(), job.worker.unwrap().to_string(), *amount);
        assert_eq!(row, counts, "job {id}: another attempt has written than the one that counts");
    }
    let sum: i64 =
        store.query_row("SELECT sum(amount) FROM effects", [], |row| row.get(0)).unwrap();
    assert_eq!(sum, submitted.iter().map(|(_, amount)| amount).sum::<i64>());
    assert_eq!(fell(&store), 0, "writes under a fence that was not higher than the one before");

    println!(
        "late: {refused:?} writes refused by the store, {stale_reports} reports by the cluster"
    );
    assert!(stale_reports > 0 && refused.iter().all(|count| *count > 0), "this has shown nothing");
}

//! A worker whose effects happen once: it writes them into a table of SQLite, under the fence of its attempt.
//!
//! ```sh
//! cargo run --example sqlite_fence -- 127.0.0.1:7101,127.0.0.1:7102 bank.db
//! raftq submit --queue payments --payload 25       # an amount, and milliseconds of work if you like: '25 2000'
//! sqlite3 bank.db 'SELECT sum(amount) FROM effects'
//! ```
//!
//! A job can be run twice: by a worker that was frozen, or cut off, or slow, and by the one that was given the job
//! in its stead. Both may come to the table, and the late one last. What keeps it out is the last line of [`BOOK`].

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use futures::channel::oneshot;
use raftq::client::blocking::{Client, run_worker};
use raftq::client::context::Context;
use raftq::client::duty::StopReport;
use raftq::client::worker::Worker;
use rusqlite::{Connection, params};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Jobs that it runs at once.
pub(crate) const SLOTS: u32 = 8;

/// The table. The job's id is its key, so that however often a job is run, it has one row.
pub(crate) const TABLE: &str = "CREATE TABLE IF NOT EXISTS effects (
    job TEXT PRIMARY KEY, fence INTEGER NOT NULL, worker TEXT NOT NULL, amount INTEGER NOT NULL) WITHOUT ROWID";

/// The effect: the row of a job is made by its first attempt that comes here, and taken over by a later one, whose
/// fence is higher. An attempt that was overtaken changes nothing.
const BOOK: &str = "INSERT INTO effects (job, fence, worker, amount) VALUES (?1, ?2, ?3, ?4)
    ON CONFLICT (job) DO UPDATE SET fence = ?2, worker = ?3, amount = ?4
    WHERE fence < ?2";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (addrs, path, name) = match args.as_slice() {
        [addrs, path] => (addrs, path, format!("bank-{}", std::process::id())),
        [addrs, path, name] => (addrs, path, name.clone()),
        _ => {
            eprintln!("usage: sqlite_fence HOST:PORT,HOST:PORT DATABASE [NAME]");
            return ExitCode::from(2);
        }
    };
    match run(addrs, Path::new(path), &name) {
        Ok(report) => {
            eprintln!("{} attempts ended, {} given up", report.finished, report.abandoned);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("sqlite_fence: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Works until SIGTERM or SIGINT.
pub(crate) fn run(addrs: &str, path: &Path, name: &str) -> Result<StopReport, Box<dyn Error>> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let (stop, stopped) = oneshot::channel();
    thread::Builder::new().name("signals".into()).spawn(move || {
        signals.forever().next();
        // Nobody listens any more: it has stopped by itself.
        stop.send(()).ok();
    })?;
    let store = Arc::new(Mutex::new(open(path)?));
    let client = Client::builder().seeds(addrs.split(',')).build()?;
    let worker_name = name.to_owned();
    let worker = Worker::new(client.as_async()).name(name).slots(SLOTS).queue_blocking(
        "payments",
        move |context, payload| {
            let payment = Payment::parse(&payload)?;
            // The work. In this time the worker may be frozen, and the job be given to another one.
            thread::sleep(payment.work);
            book(&store, &context, &worker_name, payment.amount)
        },
    );
    let shutdown = async {
        stopped.await.ok();
    };
    Ok(run_worker(worker, shutdown)?)
}

/// Opens the table; several workers may have it open at once.
fn open(path: &Path) -> rusqlite::Result<Connection> {
    let store = Connection::open(path)?;
    // Whoever writes is done in no time, unless it was frozen in the middle of that.
    store.busy_timeout(Duration::from_secs(30))?;
    store.pragma_update(None, "journal_mode", "wal")?;
    store.pragma_update(None, "synchronous", "normal")?;
    store.execute(TABLE, [])?;
    Ok(store)
}

/// What a job asks for.
struct Payment {
    amount: i64,
    work: Duration,
}

impl Payment {
    /// Reads `AMOUNT` or `AMOUNT MS`.
    fn parse(payload: &[u8]) -> Result<Self, String> {
        let wrong =
            || "a payment is an amount, and the milliseconds it takes if you like: '25 2000'";
        let text = std::str::from_utf8(payload).map_err(|_no_text| wrong())?;
        let mut words = text.split_whitespace();
        let amount = words.next().and_then(|word| word.parse().ok()).ok_or_else(wrong)?;
        let work_ms = words.next().map_or(Ok(0), str::parse).map_err(|_no_number| wrong())?;
        Ok(Self { amount, work: Duration::from_millis(work_ms) })
    }
}

/// Writes the effect, or tells that a later attempt was there before.
fn book(
    store: &Mutex<Connection>,
    context: &Context,
    worker: &str,
    amount: i64,
) -> Result<String, String> {
    let (job, fence) = (context.id().to_string(), context.fence());
    let number = i64::try_from(fence.0).map_err(|_too_high| format!("the fence {fence}"))?;
    let store = store.lock().unwrap_or_else(PoisonError::into_inner);
    let rows = store
        .execute(BOOK, params![job, number, worker, amount])
        .map_err(|error| format!("not booked: {error}"))?;
    if rows == 0 {
        // This result does not count, nor would it if it were another one: the job is somebody else's.
        eprintln!("refused: job {job} under fence {fence}, which a later attempt has overtaken");
        return Err("a later attempt has booked it".into());
    }
    Ok(format!("booked {amount}"))
}

//! A closed loop: so many requests in flight, each answered before the next takes its place.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::BytesMut;
use hdrhistogram::Histogram;

use crate::bench::stop::Stop;
use crate::node::clock::monotonic;

/// The longest latency that is told apart; what takes longer counts as this, in nanoseconds.
const LATENCY_NS_MAX: u64 = 120_000_000_000;

/// Significant digits of latencies.
const LATENCY_DIGITS: u8 = 3;

/// How long an answer may take; then the run has failed. A node answers everything within 5.5 s.
const PATIENCE: Duration = Duration::from_secs(15);

/// The same for what is under way when the run is halted.
const PATIENCE_HALTED: Duration = Duration::from_secs(6);

/// The longest time without a look at whether the run is halted, or a line has broken.
const LOOK: Duration = Duration::from_millis(50);

/// Bytes read at once.
const CHUNK_BYTES: usize = 256 << 10;

/// The pause before a refused request that names none is tried again, and after one that failed.
const PAUSE: Duration = Duration::from_millis(5);

/// The longest such pause.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// Makes an empty histogram of latencies in nanoseconds.
///
/// # Panics
/// Never: the bounds are constants.
#[must_use]
pub fn latencies() -> Histogram<u64> {
    let made = Histogram::new_with_bounds(1, LATENCY_NS_MAX, LATENCY_DIGITS);
    made.expect("a histogram of these bounds")
}

/// Returns a span in whole nanoseconds, as histograms take it.
#[must_use]
pub fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(LATENCY_NS_MAX).min(LATENCY_NS_MAX)
}

/// What an answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Done: so many operations.
    Done(u64),
    /// Not now; the same request is tried again.
    Refused {
        /// The code's name.
        code: String,
        /// How long to wait, if it says so.
        pause: Option<Duration>,
    },
    /// No; it is not tried again.
    Failed(String),
}

/// What is said on one connection.
pub trait Speech: Send {
    /// Says a request for a place: a new one, or the one that was said there last.
    fn ask(&mut self, place: usize, again: bool, out: &mut BytesMut);

    /// Takes the next answer out of what has come: for which place, and what it says.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    fn hear(&mut self, received: &mut BytesMut) -> Result<Option<(usize, Verdict)>, String>;
}

/// Lets no more jobs be on their way, from submit to completion, than a number.
#[derive(Debug)]
pub struct Gate {
    /// How many may be.
    pub jobs_max: u64,
    /// How many were let through.
    pub begun: AtomicU64,
    /// How many are done.
    pub done: AtomicU64,
}

impl Gate {
    /// Lets one more through, if there is room.
    fn enter(&self) -> bool {
        let done = self.done.load(Ordering::Relaxed);
        let enter = |begun: u64| (begun.saturating_sub(done) < self.jobs_max).then_some(begun + 1);
        self.begun.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enter).is_ok()
    }
}

/// The pause before a gate that was closed is tried again.
const GATE_PAUSE: Duration = Duration::from_millis(1);

/// How long is measured.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Before it, the loop runs and nothing counts.
    pub warm_up: Duration,
    /// What ends in it counts.
    pub time: Duration,
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Of each request that ended in the window, from its first try on, in nanoseconds.
    pub latency: Histogram<u64>,
    /// Operations done in the window.
    pub done: u64,
    /// Operations done before, in and after it.
    pub done_ever: u64,
    /// Refusals that passed, by code, in the window.
    pub refused: BTreeMap<String, u64>,
    /// Requests that failed, by code, in the window.
    pub failed: BTreeMap<String, u64>,
}

impl Default for Measured {
    fn default() -> Self {
        Self {
            latency: latencies(),
            done: 0,
            done_ever: 0,
            refused: BTreeMap::new(),
            failed: BTreeMap::new(),
        }
    }
}

impl Measured {
    /// Adds what another connection has measured.
    pub fn add(&mut self, other: &Self) {
        self.latency += &other.latency;
        self.done += other.done;
        self.done_ever += other.done_ever;
        for (sums, counts) in
            [(&mut self.refused, &other.refused), (&mut self.failed, &other.failed)]
        {
            for (code, count) in counts {
                *sums.entry(code.clone()).or_default() += count;
            }
        }
    }
}

/// One connection and what is said on it.
pub struct Line {
    /// The connection, its greeting done.
    pub stream: TcpStream,
    /// What came behind the greeting.
    pub received: BytesMut,
    /// What is said.
    pub speech: Box<dyn Speech>,
    /// Requests in flight on it.
    pub places: usize,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").field("places", &self.places).finish_non_exhaustive()
    }
}

/// Runs all lines side by side, each on a thread of its own. Returns what they have measured. `mark` is called at
/// both ends of the window. Whatever happens, no request is under way afterwards but on a line that broke.
///
/// # Errors
/// It was stopped; or the first line that broke: a connection that closed, an answer that makes no sense, none for
/// 15 s.
pub fn run(
    lines: Vec<Line>,
    window: Window,
    gate: Option<&Arc<Gate>>,
    stop: &Stop,
    mut mark: impl FnMut(),
) -> Result<Measured, String> {
    stop.check()?;
    let begin = monotonic();
    let halt = Arc::new(AtomicBool::new(false));
    let start = |line| {
        let work = Loop::new(line, begin, window, gate.map(Arc::clone), Arc::clone(&halt));
        std::thread::Builder::new().name("load".into()).spawn(move || work.run())
    };
    let threads: Vec<_> = lines.into_iter().map(start).collect();
    let goes_on = || {
        let ended = |thread: &io::Result<JoinHandle<_>>| match thread {
            Ok(thread) => thread.is_finished(),
            Err(_) => true,
        };
        stop.signal().is_none() && !threads.iter().any(ended)
    };
    for end in [window.warm_up, window.warm_up + window.time] {
        let left = || (begin + end).saturating_sub(monotonic());
        while !left().is_zero() && goes_on() {
            std::thread::sleep(left().min(LOOK));
        }
        if left().is_zero() {
            mark();
        } else {
            halt.store(true, Ordering::Relaxed);
        }
    }
    let ends: Vec<Result<Measured, String>> = threads
        .into_iter()
        .map(|thread| {
            let thread = thread.map_err(|error| format!("cannot start a thread: {error}"))?;
            thread.join().map_err(|_panic| "a connection's thread ended badly")?
        })
        .collect();
    stop.check()?;
    let mut sum = Measured::default();
    for measured in ends {
        sum.add(&measured?);
    }
    Ok(sum)
}

/// One line at work.
struct Loop {
    line: Line,
    begin: Duration,
    end: Duration,
    /// When the request of each place was tried first.
    first: Vec<Duration>,
    /// Places that wait for a moment: with a refused request, or to begin another.
    later: Vec<(Duration, usize, Wait)>,
    /// Places with a request under way.
    open: usize,
    gate: Option<Arc<Gate>>,
    /// Raised, it ends now what would end later.
    halt: Arc<AtomicBool>,
    /// When bytes came last, or could not come.
    heard_at: Duration,
    measured: Measured,
    out: BytesMut,
}

/// What a place waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// To say the same again.
    Refused,
    /// To begin: the gate was closed, or the last request failed.
    Turn,
}

impl Loop {
    fn new(
        line: Line,
        begin: Duration,
        window: Window,
        gate: Option<Arc<Gate>>,
        halt: Arc<AtomicBool>,
    ) -> Self {
        let first = vec![begin; line.places];
        let heard_at = begin;
        let begin = begin + window.warm_up;
        Self {
            open: line.places,
            line,
            begin,
            end: begin + window.time,
            first,
            later: Vec::new(),
            gate,
            halt,
            heard_at,
            measured: Measured::default(),
            out: BytesMut::new(),
        }
    }

    fn run(mut self) -> Result<Measured, String> {
        for place in 0..self.line.places {
            self.begin(place, monotonic());
        }
        let mut chunk = vec![0; CHUNK_BYTES];
        while self.open > 0 {
            let written = self.line.stream.write_all(&self.out);
            written.map_err(|error| format!("the connection broke: {error}"))?;
            self.out.clear();
            self.read(&mut chunk)?;
            while let Some((place, verdict)) = self.line.speech.hear(&mut self.line.received)? {
                self.heard(place, verdict);
            }
            self.try_again();
            if self.halt.load(Ordering::Relaxed) {
                self.end = self.end.min(monotonic());
            }
        }
        Ok(self.measured)
    }

    fn begin(&mut self, place: usize, now: Duration) {
        if self.gate.as_ref().is_some_and(|gate| !gate.enter()) {
            self.later.push((now + GATE_PAUSE, place, Wait::Turn));
            return;
        }
        if let Some(first) = self.first.get_mut(place) {
            *first = now;
        }
        self.line.speech.ask(place, false, &mut self.out);
    }

    /// Waits for bytes, until a refused request is due, or for a moment.
    fn read(&mut self, chunk: &mut [u8]) -> Result<(), String> {
        let due = self.later.iter().map(|(due, ..)| *due).min();
        let wait = due.map_or(LOOK, |due| due.saturating_sub(monotonic()).min(LOOK));
        let wait = wait.max(Duration::from_millis(1));
        let set = self.line.stream.set_read_timeout(Some(wait));
        set.map_err(|error| format!("the connection takes no timeout: {error}"))?;
        let patience = if self.halt.load(Ordering::Relaxed) { PATIENCE_HALTED } else { PATIENCE };
        match self.line.stream.read(chunk) {
            Ok(0) => Err("the node closed the connection".into()),
            Ok(count) => {
                self.line.received.extend_from_slice(chunk.get(..count).unwrap_or_default());
                self.heard_at = monotonic();
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) if is_timeout(&error) => {
                let now = monotonic();
                // While something waits here, there may be nothing to hear.
                if due.is_some() {
                    self.heard_at = now;
                }
                match now.saturating_sub(self.heard_at) < patience {
                    true => Ok(()),
                    false => Err(format!("no answer for {patience:?}")),
                }
            }
            Err(error) => Err(format!("the connection broke: {error}")),
        }
    }

    fn heard(&mut self, place: usize, verdict: Verdict) {
        let now = monotonic();
        let counts = now >= self.begin && now < self.end;
        match verdict {
            Verdict::Done(operations) => {
                self.measured.done_ever += operations;
                if counts {
                    self.measured.done += operations;
                    let first = self.first.get(place).copied().unwrap_or(now);
                    self.measured.latency.saturating_record(nanos(now.saturating_sub(first)));
                }
            }
            Verdict::Refused { code, pause } => {
                if counts {
                    *self.measured.refused.entry(code).or_default() += 1;
                }
                if now < self.end {
                    let pause = pause.unwrap_or(PAUSE).min(PAUSE_MAX);
                    self.later.push((now + pause, place, Wait::Refused));
                    return;
                }
            }
            Verdict::Failed(code) => {
                if counts {
                    *self.measured.failed.entry(code).or_default() += 1;
                }
                // What fails at once, fails so again: a pause keeps that from being all that is measured.
                if now < self.end {
                    self.later.push((now + PAUSE, place, Wait::Turn));
                    return;
                }
            }
        }
        if now < self.end {
            self.begin(place, now);
        } else {
            self.open = self.open.saturating_sub(1);
        }
    }

    fn try_again(&mut self) {
        if self.later.is_empty() {
            return;
        }
        let now = monotonic();
        let (due, later): (Vec<_>, Vec<_>) = self.later.drain(..).partition(|(at, ..)| *at <= now);
        self.later = later;
        for (_, place, wait) in due {
            match wait {
                Wait::Refused => self.line.speech.ask(place, true, &mut self.out),
                Wait::Turn if now < self.end => self.begin(place, now),
                Wait::Turn => self.open = self.open.saturating_sub(1),
            }
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

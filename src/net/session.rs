//! One client's connection: requests in, each answered exactly once, in whatever order they are decided.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_std::channel::{self, Receiver};
use async_std::task::{self, spawn_blocking};
use futures::{Future, FutureExt, StreamExt};

use crate::jobs::job::NewJob;
use crate::jobs::machine::Machine;
use crate::net::conn::{self, Frames};
use crate::net::direct::Direct;
use crate::net::flights::IN_FLIGHT_MAX;
use crate::net::gate;
use crate::net::guard::is_crowded;
use crate::net::handshake::Guest;
use crate::net::inbox::{
    Ask, Back, NotTaken, ReplyTo, SUBMITS_SHARED_BYTES_MAX, SUBMITS_SHARED_MAX, ShortWay,
};
use crate::net::shared::{Ctx, Hold, ticks_in};
use crate::replica::reading;
use crate::replica::view::{Answer, View};
use crate::types::Ticks;
use crate::wire::frame::{Frame, FrameError};
use crate::wire::hello::Reject;
use crate::wire::message::{Code, LIST_JOBS_MAX, Refusal, Reply, Request, Watch};

/// Frames taken before answers are written and others have their turn.
const FRAMES_PER_TURN: usize = 512;

/// Bytes of frames taken in one turn; the frame that passes it is the last.
const BYTES_PER_TURN: usize = 1 << 20;

/// Answers taken before they are written.
const ANSWERS_PER_TURN: usize = 512;

/// Bytes of answers taken before they are written; the answer that passes it is the last. Answers wait in
/// the form they are kept in, which costs little, and take their bytes as frames: a client that does not
/// read has this much written for it, and no more.
const ANSWER_BYTES_PER_TURN: usize = 1 << 20;

/// Answers of one connection that are read from an image of the queue and not yet on their way, at most.
/// Each may be a list of a thousand jobs; the rest of what was asked waits as questions.
const IMAGES_AT_ONCE: usize = 8;

/// Memory of one job in a list, about.
const LISTED_JOB_BYTES: usize = 256;

/// Lists that take less memory than this are not counted.
const LIST_FREE_BYTES: usize = 64 << 10;

/// Answers that wait for their session or may still come, at most: one to each request in flight, and as
/// many to those that were given up. One more request is refused, so that no answer finds the lane full. The
/// lane takes its memory when something is in it: ten thousand idle sessions cost next to nothing.
const ANSWERS_MAX: usize = 2 * IN_FLIGHT_MAX;

/// Serves a client until it leaves, breaks a rule, reads too slowly, or the node stops. A client that
/// has only closed its sending side still gets every answer.
pub async fn serve(ctx: Arc<Ctx>, frames: Frames, guest: &Guest) {
    ctx.metrics().sessions_open.raise();
    let (sender, answers) = channel::unbounded();
    let socket = frames.get_ref().get_ref().clone();
    let direct = Arc::new(Direct::new(socket, Arc::clone(&ctx.shared.metrics)));
    let short: Arc<dyn ShortWay> = Arc::<Direct>::clone(&direct);
    let back = Arc::new(Back { session: sender, direct: Some(short) });
    let session = Session {
        direct: Arc::clone(&direct),
        submits: Submits::default(),
        frames_left: 0,
        has_asked: false,
        questions: VecDeque::new(),
        reading: BTreeMap::new(),
        out: Vec::new(),
        back,
        ctx: Arc::clone(&ctx),
    };
    let reader = Reader {
        frames,
        direct,
        answers,
        draining: Box::pin(drained(ctx.stop.draining())),
        timer: None,
        end: None,
        frame_check: ctx.config.patience.frame / 2,
    };
    if let Some(reason) = session.run(reader).await {
        log::debug!("the session of {} ended: {reason}", guest.agent);
    }
    ctx.metrics().sessions_open.lower();
}

async fn drained(draining: Receiver<()>) {
    while draining.recv().await.is_ok() {}
}

/// Why no more frames come.
#[derive(Debug)]
enum End {
    /// The client closed its side, or the node is stopping.
    Closed,
    /// What came is no frame, or the connection broke.
    Broken(FrameError),
    /// A frame began and did not end in time.
    Unfinished,
}

/// What one turn of a session has to work on.
#[derive(Debug, Default)]
struct Turn {
    frames: Vec<Frame>,
    answers: Vec<(u32, Answer)>,
    /// A bound of the turn was reached: there may be more at once.
    is_full: bool,
}

/// Everything a session listens to.
struct Reader {
    frames: Frames,
    direct: Arc<Direct>,
    answers: Receiver<(u32, Answer)>,
    draining: Pin<Box<dyn Future<Output = ()> + Send>>,
    timer: Option<Timer>,
    /// Once set, no more frames are read.
    end: Option<End>,
    /// How often an unfinished frame is looked for.
    frame_check: Duration,
}

/// The one timer of a session: the next deadline of a request, or the next look for an unfinished
/// frame.
struct Timer {
    at: Ticks,
    sleep: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Reader {
    /// Waits for anything to do, and takes all there is of it, within the bounds of one turn.
    async fn turn(&mut self) -> Turn {
        let mut turn = Turn::default();
        poll_fn(|cx| self.poll(cx, &mut turn)).await;
        turn
    }

    fn poll(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Poll<()> {
        let mut bytes = 0;
        while turn.answers.len() < ANSWERS_PER_TURN && bytes < ANSWER_BYTES_PER_TURN {
            let Poll::Ready(Some(answer)) = self.answers.poll_next_unpin(cx) else { break };
            if let (_, Answer::Reply(reply)) = &answer {
                bytes += reply.bytes_max();
            }
            turn.answers.push(answer);
        }
        turn.is_full = turn.answers.len() == ANSWERS_PER_TURN || bytes >= ANSWER_BYTES_PER_TURN;
        let had_ended = self.end.is_some();
        if !had_ended {
            self.poll_frames(cx, turn);
        }
        let has_ended = !had_ended && self.end.is_some();
        let fired = match &mut self.timer {
            Some(timer) => timer.sleep.as_mut().poll(cx).is_ready(),
            None => false,
        };
        if fired {
            self.timer = None;
        }
        let has_work = fired || has_ended || !turn.answers.is_empty() || !turn.frames.is_empty();
        if has_work || self.direct.poll_rest(cx) { Poll::Ready(()) } else { Poll::Pending }
    }

    fn poll_frames(&mut self, cx: &mut Context<'_>, turn: &mut Turn) {
        let mut bytes = 0;
        while turn.frames.len() < FRAMES_PER_TURN && bytes < BYTES_PER_TURN {
            match self.frames.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    bytes += frame.wire_bytes();
                    turn.frames.push(frame);
                }
                Poll::Ready(Some(Err(error))) => {
                    self.end = Some(End::Broken(error));
                    return;
                }
                Poll::Ready(None) => {
                    self.end = Some(End::Closed);
                    return;
                }
                Poll::Pending => break,
            }
        }
        turn.is_full |= turn.frames.len() == FRAMES_PER_TURN || bytes >= BYTES_PER_TURN;
        if self.draining.poll_unpin(cx).is_ready() {
            self.end = Some(End::Closed);
        }
    }

    /// Sets the timer, unless one is set that rings early enough.
    fn ring_at(&mut self, at: Ticks, now: Ticks) {
        if self.timer.as_ref().is_some_and(|timer| timer.at <= at) {
            return;
        }
        let wait = Duration::from_millis((at.0.saturating_sub(now.0) + 1) * crate::types::TICK_MS);
        self.timer = Some(Timer { at, sleep: Box::pin(task::sleep(wait)) });
    }
}

/// Submits read together that will share a place in the proposal lane.
#[derive(Debug, Default)]
struct Submits {
    jobs: Vec<(NewJob, ReplyTo)>,
    bytes: usize,
}

/// A request that an image of the queue answers.
#[derive(Debug)]
struct Question {
    number: u32,
    machine: Box<Machine>,
    request: Request,
}

/// The state of one client's connection.
#[derive(Debug)]
struct Session {
    ctx: Arc<Ctx>,
    direct: Arc<Direct>,
    submits: Submits,
    /// Frames of this turn that were not looked at yet.
    frames_left: usize,
    /// Something was asked of the Raft thread in this turn.
    has_asked: bool,
    /// What is to be read from an image, when its turn has come.
    questions: VecDeque<Question>,
    /// What is being read, or waits here as an answer, with the memory counted for it.
    reading: BTreeMap<u32, Hold>,
    /// Answers to write at the end of the turn.
    out: Vec<Frame>,
    /// How answers come from elsewhere.
    back: Arc<Back>,
}

impl Session {
    /// Goes turn by turn; returns why the connection had to be ended, if it was not by the client.
    async fn run(mut self, mut reader: Reader) -> Option<String> {
        let write_patience = self.ctx.config.patience.write;
        let mut unfinished = Unfinished::default();
        loop {
            let now = (self.ctx.shared.clock)();
            if reader.end.is_none() {
                unfinished.look(&mut reader, now);
            }
            let deadline = self.direct.flights().deadline();
            if let Some(deadline) = deadline {
                reader.ring_at(deadline, now);
            }
            let turn = if reader.end.is_some() && self.direct.flights().is_empty() {
                Turn::default()
            } else {
                reader.turn().await
            };
            let is_full = turn.is_full;
            if !turn.frames.is_empty() {
                unfinished = Unfinished::default();
            }
            self.work(turn);
            let last_word = reader.end.as_ref().and_then(|end| self.last_word(end));
            let is_over = last_word.is_some();
            self.out.extend(last_word);
            if reader.end.is_some() {
                // What is answered from here on has to wake the session: it ends with the last answer.
                self.direct.close();
            }
            if let Some(rest) = self.direct.begin_write(!self.out.is_empty()) {
                reader.frames.write_buffer_mut().extend_from_slice(&rest);
                let count = self.out.len();
                let written =
                    conn::write(&mut reader.frames, self.out.drain(..), write_patience).await;
                if let Err(error) = written {
                    if error.kind() == std::io::ErrorKind::TimedOut {
                        self.ctx.metrics().readers_slow.raise();
                        self.direct.close();
                        conn::cut(reader.frames);
                    }
                    return Some(format!("cannot write: {error}"));
                }
                self.ctx.metrics().frames_sent.add(u64::try_from(count).unwrap_or(u64::MAX));
                self.direct.end_write();
            }
            match reader.end {
                Some(end) if is_over || self.direct.flights().is_empty() || is_gone(&end) => {
                    conn::linger_frames(reader.frames, self.ctx.config.patience.linger).await;
                    return if is_over { Some(format!("{end:?}")) } else { None };
                }
                Some(_) | None => {}
            }
            // Nothing above waits while there is more: others want their turn, too.
            if is_full {
                task::yield_now().await;
            }
        }
    }

    /// Works through one turn: answers first, then requests in the order in which they came.
    fn work(&mut self, turn: Turn) {
        for (number, answer) in turn.answers {
            self.answered(number, answer);
        }
        if !turn.frames.is_empty() {
            let arrived = (self.ctx.shared.clock)();
            let view = self.ctx.shared.view.load();
            let count = u64::try_from(turn.frames.len()).unwrap_or(u64::MAX);
            self.ctx.metrics().frames_received.add(count);
            self.has_asked = false;
            self.frames_left = turn.frames.len();
            for frame in turn.frames {
                self.frames_left -= 1;
                self.take(&frame, &view, arrived);
            }
            self.share_submits(arrived);
        }
        let now = (self.ctx.shared.clock)();
        while let Some((corr, is_change)) = self.expired(now) {
            let refusal = if is_change { Refusal::deadline_exceeded() } else { gate::too_slow() };
            self.refuse(corr, refusal);
        }
        // What was given up is not kept: each question holds an image of the queue.
        if !self.questions.is_empty() {
            let flights = self.direct.flights();
            self.questions.retain(|question| flights.has(question.number));
        }
    }

    fn expired(&self, now: Ticks) -> Option<(u32, bool)> {
        self.direct.flights().expire(now)
    }

    /// What a client hears whose connection must end because of what it sent.
    fn last_word(&self, end: &End) -> Option<Frame> {
        let (message, counter) = match end {
            End::Broken(error) if is_crowded(error) => {
                self.ctx.metrics().connections_refused.raise();
                return Some(Reject::new(Code::ResourceExhausted, error.to_string()).to_frame(0));
            }
            End::Closed | End::Broken(FrameError::Io(_) | FrameError::Truncated { .. }) => {
                return None;
            }
            End::Broken(error @ (FrameError::TooLarge { .. } | FrameError::Checksum { .. })) => {
                (error.to_string(), &self.ctx.metrics().frames_bad)
            }
            End::Unfinished => {
                let patience = self.ctx.config.patience.frame;
                (
                    format!("a frame was not whole after {patience:?}"),
                    &self.ctx.metrics().frames_bad,
                )
            }
        };
        counter.raise();
        Some(Reject::new(Code::InvalidArgument, message).to_frame(0))
    }

    fn reply_to(&self, number: u32) -> ReplyTo {
        ReplyTo::new(Arc::clone(&self.back), number)
    }

    fn reply(&mut self, corr: u32, reply: &Reply) {
        if let Reply::Refused(refusal) = reply {
            self.ctx.metrics().refused(refusal.code);
        }
        self.out.push(reply.to_frame(corr));
    }

    fn refuse(&mut self, corr: u32, refusal: Refusal) {
        self.reply(corr, &Reply::Refused(refusal));
    }

    /// Takes one frame: a request is answered here, or asked of the Raft thread.
    fn take(&mut self, frame: &Frame, view: &View, arrived: Ticks) {
        let request = match Request::from_frame(frame) {
            Ok(request) => request,
            Err(error) if error.is_skippable() => return,
            Err(error) => return self.refuse(frame.corr, Refusal::from(error)),
        };
        self.ctx.metrics().requests.raise();
        if request == Request::Ping {
            return self.reply(frame.corr, &Reply::Pong);
        }
        self.ctx.metrics().submits.add(jobs_in(&request));
        if let Err(refusal) = gate::admit(&request, view) {
            return self.refuse(frame.corr, refusal);
        }
        let Some(hold) = self.hold(&request, frame.body.len()) else {
            let message = "this node has as many bytes of submits in flight as it takes";
            return self.refuse(frame.corr, gate::full(message));
        };
        // Every answer that may still come holds the way back.
        if self.back.session.len() + Arc::strong_count(&self.back) > ANSWERS_MAX {
            let message = "too many requests of this connection were given up and are not done yet";
            return self.refuse(frame.corr, gate::full(message));
        }
        let deadline =
            Ticks(arrived.0 + ticks_in(self.ctx.config.patience.request + wait(&request)));
        let is_change = request.is_change();
        let begun = self.direct.flights().begin(frame.corr, is_change, deadline, hold);
        let Some(number) = begun else {
            let message = format!("{IN_FLIGHT_MAX} requests are in flight on this connection");
            return self.refuse(frame.corr, gate::full(&message));
        };
        let reply = self.reply_to(number);
        if let Request::SubmitJob(job) = request {
            let bytes = job.memory();
            self.share(job, reply, bytes, arrived);
        } else {
            // Submits of one connection stay in the order in which they came.
            self.share_submits(arrived);
            self.ask(Ask::Request { request, reply, arrived });
        }
    }

    /// Counts the memory of a submit until it is answered; other requests are small or bounded by lanes
    /// of their own, and must pass when submits do not.
    fn hold(&self, request: &Request, bytes: usize) -> Option<Hold> {
        #[expect(clippy::wildcard_enum_match_arm, reason = "only these two carry jobs")]
        let counted = match request {
            Request::SubmitJob(job) => bytes.max(job.memory()),
            Request::SubmitBatch(jobs) => bytes.max(jobs.iter().map(NewJob::memory).sum()),
            _ => 0,
        };
        self.ctx.bytes_in_flight.hold(counted)
    }

    /// Puts a submit with those read just before it, unless they are enough.
    fn share(&mut self, job: NewJob, reply: ReplyTo, bytes: usize, arrived: Ticks) {
        let is_full = self.submits.jobs.len() >= SUBMITS_SHARED_MAX
            || self.submits.bytes + bytes > SUBMITS_SHARED_BYTES_MAX;
        if is_full {
            self.share_submits(arrived);
        }
        self.submits.jobs.push((job, reply));
        self.submits.bytes += bytes;
    }

    fn share_submits(&mut self, arrived: Ticks) {
        let Submits { jobs, .. } = std::mem::take(&mut self.submits);
        if !jobs.is_empty() {
            self.ctx.metrics().submits_shared.raise();
            self.ask(Ask::Submits { jobs, arrived });
        }
    }

    /// Asks the Raft thread, or refuses at once what it has no room for. What is asked together goes there
    /// together: many turns, each for one ask, would keep this thread from the other sessions.
    fn ask(&mut self, ask: Ask) {
        let inbox = &self.ctx.shared.inbox;
        let is_alone = self.frames_left == 0 && !self.has_asked;
        self.has_asked = true;
        let asked = if is_alone { inbox.ask_alone(ask) } else { inbox.ask(ask) };
        let (ask, refusal) = match asked {
            Ok(()) => return,
            Err(NotTaken::Full(ask)) => {
                (ask, gate::full("the queue into the Raft thread is full; wait a moment"))
            }
            Err(NotTaken::Stopped(ask)) => (ask, gate::stopping()),
        };
        let waiters: Vec<ReplyTo> = match ask {
            Ask::Request { reply, .. } | Ask::Look { reply } => vec![reply],
            Ask::Submits { jobs, .. } => jobs.into_iter().map(|(_, reply)| reply).collect(),
            Ask::LocalWorker { .. } => Vec::new(),
        };
        for waiter in waiters {
            let ended = self.direct.flights().end(waiter.corr);
            if let Some(corr) = ended {
                self.refuse(corr, refusal.clone());
            }
        }
    }

    /// Passes an answer on, unless its request was given up already.
    fn answered(&mut self, number: u32, answer: Answer) {
        let reply = match answer {
            Answer::Reply(reply) => reply,
            Answer::Changes(slice) => slice.reply(),
            Answer::Image { machine, request } => {
                self.questions.push_back(Question { number, machine, request });
                return self.read_images();
            }
            Answer::Look(_) => {
                Reply::Refused(Refusal::internal("the Raft thread answered another question"))
            }
        };
        let ended = self.direct.flights().end(number);
        match ended {
            Some(corr) => self.reply(corr, &reply),
            None => self.ctx.metrics().answers_late.raise(),
        }
        if self.reading.remove(&number).is_some() {
            self.read_images();
        }
    }

    /// Begins to read what waits to be read, as far as this connection may. What was given up meanwhile
    /// is forgotten.
    fn read_images(&mut self) {
        while self.reading.len() < IMAGES_AT_ONCE {
            let Some(question) = self.questions.pop_front() else { return };
            if !self.direct.flights().has(question.number) {
                continue;
            }
            let bytes = match memory_of_answer(&question.request) {
                bytes if bytes < LIST_FREE_BYTES => 0,
                bytes => bytes,
            };
            let Some(hold) = self.ctx.bytes_listed.hold(bytes) else {
                let message = "as many long lists are on their way as this node bears; ask for less, or later";
                let ended = self.direct.flights().end(question.number);
                if let Some(corr) = ended {
                    self.refuse(corr, gate::full(message));
                }
                continue;
            };
            let Question { number, machine, request } = question;
            if self.read_image(number, machine, request) {
                self.reading.insert(number, hold);
            }
        }
    }

    /// Makes an answer from an image of the queue, on a thread that may take its time. The image is
    /// dropped there as well, for that may take as long. Returns whether it has begun.
    fn read_image(&mut self, number: u32, machine: Box<Machine>, request: Request) -> bool {
        let Some(place) = self.ctx.images.queue() else {
            let ended = self.direct.flights().end(number);
            if let Some(corr) = ended {
                self.refuse(
                    corr,
                    gate::full("too many answers wait to be read from the queue here"),
                );
            }
            return false;
        };
        let reply = self.reply_to(number);
        let ctx = Arc::clone(&self.ctx);
        task::spawn(async move {
            let working = ctx.images.work(place).await;
            let answer = spawn_blocking(move || reading::answer(&machine, &request)).await;
            drop(working);
            reply.answer(answer.into());
        });
        true
    }
}

/// Answers may still be on their way; they must keep neither the socket nor what was held for their requests.
impl Drop for Session {
    fn drop(&mut self) {
        self.direct.end();
    }
}

/// Nobody is left to answer.
fn is_gone(end: &End) -> bool {
    matches!(end, End::Broken(FrameError::Io(_)))
}

fn jobs_in(request: &Request) -> u64 {
    #[expect(clippy::wildcard_enum_match_arm, reason = "only these two carry jobs")]
    match request {
        Request::SubmitJob(_) => 1,
        Request::SubmitBatch(jobs) => u64::try_from(jobs.len()).unwrap_or(u64::MAX),
        _ => 0,
    }
}

/// Returns about how much memory the answer to a request takes beside what it shares with the queue.
fn memory_of_answer(request: &Request) -> usize {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the others are answered with one thing")]
    let items = match request.plain() {
        Request::ListJobs(filter) => usize::try_from(filter.limit).unwrap_or(usize::MAX),
        Request::WaitJobs { ids, .. } => ids.len(),
        Request::ListWorkers | Request::ListQueues(_) | Request::ListCrons(_) => LIST_JOBS_MAX,
        _ => 1,
    };
    items.saturating_mul(LISTED_JOB_BYTES)
}

/// How long a request may wait by its own wish.
fn wait(request: &Request) -> Duration {
    #[expect(clippy::wildcard_enum_match_arm, reason = "only these wait")]
    match request {
        Request::Reserve { wait_ms, .. }
        | Request::WaitJobs { wait_ms, .. }
        | Request::Watch(Watch { wait_ms, .. }) => Duration::from_millis(*wait_ms),
        _ => Duration::ZERO,
    }
}

/// Looks for a frame that began and does not end: [`LOOKS`] times in a row bytes without a frame, with no
/// frame in between. So a frame has between one and one and a half times the patience for it.
#[derive(Debug, Default)]
struct Unfinished {
    seen: u32,
    next_look: Option<Ticks>,
}

/// Looks at an unfinished frame before its connection is ended.
const LOOKS: u32 = 3;

impl Unfinished {
    fn look(&mut self, reader: &mut Reader, now: Ticks) {
        if reader.frames.read_buffer().is_empty() {
            *self = Self::default();
        } else if self.next_look.is_some_and(|at| now >= at) {
            self.seen += 1;
            self.next_look = None;
        }
        if self.seen >= LOOKS {
            reader.end = Some(End::Unfinished);
            return;
        }
        let at = self.next_look.unwrap_or(Ticks(now.0 + ticks_in(reader.frame_check).max(1)));
        self.next_look = Some(at);
        reader.ring_at(at, now);
    }
}

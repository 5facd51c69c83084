//! The Raft thread: it empties the lanes, takes a turn, and carries out what the turn asks for. A turn that is for
//! one small thing, while all lanes are empty, is taken by whoever brings it.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_std::channel;
use crossbeam_channel::{Receiver, Select, Sender, TryRecvError, bounded, tick};

use crate::jobs::job::NewJob;
use crate::jobs::machine::Machine;
use crate::net::inbox::{Ask, Attendant, Outlets, PeerEvent, ReplyTo};
use crate::net::metrics::Metrics;
use crate::net::server::Net;
use crate::net::shared::Shared;
use crate::node::clock;
use crate::node::seat::{Hosted, Panicked, Seat};
use crate::raft::config::HEALING_PATIENCE_TICKS;
use crate::raft::core::{HealingStatus, LogGone, SendError};
use crate::raft::effects::Offer;
use crate::replica::core::Replica;
use crate::replica::input::{Input, Output, Turn};
use crate::replica::view::Notice;
use crate::storage::healing::ASIDE;
use crate::storage::threads::{Event, Storage};
use crate::types::{Incarnation, Index, NodeId, TICK_MS, Term, WorkerId};
use crate::wire::message::Request;

/// Peer messages taken in one turn, at most; the rest waits for the next one.
const PEER_MESSAGES_PER_TURN: usize = 128;

/// Asks of one lane taken in one turn, at most.
const ASKS_PER_TURN: usize = 256;

/// Cancels and hand-overs taken in one turn, at most: each may name a thousand jobs.
const CONTROLS_PER_TURN: usize = 8;

/// Bytes of submits taken in one turn; one ask more may be added. The lane itself bounds their count.
const PROPOSAL_BYTES_PER_TURN: usize = 512 << 10;

/// What a job counts beside its body.
const JOB_OVERHEAD_BYTES: usize = 64;

/// Entries of the log that are not known to be committed while others may take turns, at most. With more under way
/// a turn that takes together all that has come in the meantime costs less than one for each.
const UNCOMMITTED_QUIET_MAX: u64 = 64;

/// Images waiting to be dropped elsewhere, at most; past it one is dropped here, slowly.
const DISCARDS_MAX: usize = 64;

/// What the process tells its Raft thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Control {
    /// Take no new work, hand leadership over.
    Stop,
    /// End.
    Quit,
}

/// Everything the Raft thread owns.
pub(super) struct RaftThread {
    /// The replica it turns.
    pub(super) replica: Replica<ReplyTo>,
    /// The disk.
    pub(super) storage: Storage,
    /// What the disk has done.
    pub(super) storage_events: Receiver<Event>,
    /// The sessions' lanes.
    pub(super) outlets: Outlets,
    /// The links to the peers.
    pub(super) net: Arc<Net>,
    /// What the sessions read.
    pub(super) shared: Arc<Shared>,
    /// The process.
    pub(super) control: Receiver<Control>,
    /// The built-in worker.
    pub(super) notices: Option<channel::Sender<Notice>>,
}

/// The Raft thread's state: what it was given, and what it keeps. Whoever holds it takes turns.
struct Desk {
    given: RaftThread,
    state: Loop,
}

/// State of the loop beside what it was given.
struct Loop {
    metrics: Arc<Metrics>,
    inputs: Vec<Input<ReplyTo>>,
    /// Where the verdict on the last offer of a node goes. An offer that another one followed hears
    /// nothing: its sender has given it up.
    verdicts: BTreeMap<NodeId, (Index, channel::Sender<Offer>)>,
    local: Option<(WorkerId, Incarnation)>,
    /// The term of whose leader the worker was told last.
    told_term: Term,
    /// A notice did not fit: the worker is told all it holds again.
    resync: bool,
    discard: Sender<Machine>,
    failed: Option<String>,
    /// Calls the Raft thread for what is in no lane.
    bell: Sender<()>,
}

impl RaftThread {
    /// Runs until it is told to quit, or until the disk fails.
    ///
    /// # Errors
    /// The last word: what failed. The node must end; it has lost its word.
    pub(super) fn run(self) -> Result<(), String> {
        let ticker = tick(Duration::from_millis(TICK_MS));
        let (discard, discarded) = bounded::<Machine>(DISCARDS_MAX);
        std::thread::Builder::new()
            .name("discard".into())
            .spawn(move || discarded.iter().for_each(drop))
            .map_err(|error| format!("cannot start a thread: {error}"))?;
        let (bell, rung) = bounded(1);
        let ears = Ears {
            storage: self.storage_events.clone(),
            outlets: self.outlets.clone(),
            control: self.control.clone(),
            ticker,
            rung,
        };
        let state = Loop {
            metrics: Arc::clone(&self.shared.metrics),
            inputs: Vec::new(),
            verdicts: BTreeMap::new(),
            local: None,
            told_term: Term(0),
            resync: false,
            discard,
            failed: None,
            bell,
        };
        let seat = Seat::new();
        let visitor = Visitor(seat.clone());
        self.storage.attend(Box::new(move |event| visitor.persisted(event)));
        self.shared.inbox.attend(Box::new(Visitor(seat.clone())));
        ears.serve(&seat, Box::new(Desk { given: self, state }))
    }

    /// Gives up a healing that cannot succeed.
    fn check_healing(&self) -> Result<(), String> {
        match self.replica.raft().healing() {
            Some(healing) if healing.is_hopeless => Err(hopeless(&healing, &self.shared.info.data)),
            Some(_) | None => Ok(()),
        }
    }

    fn are_lanes_empty(&self) -> bool {
        self.storage_events.is_empty() && self.outlets.are_empty() && self.control.is_empty()
    }

    /// Empties the lanes, in the order of their weight, each up to its bound.
    fn drain(&self, state: &mut Loop, takes_proposals: bool) {
        loop {
            match self.storage_events.try_recv() {
                Ok(event) => state.storage(Some(event)),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    state.storage(None);
                    break;
                }
            }
        }
        self.outlets.events.try_iter().for_each(|event| state.peer(Some(event)));
        let peers = self.outlets.peers.try_iter().take(PEER_MESSAGES_PER_TURN);
        peers.for_each(|event| state.peer(Some(event)));
        let reports = self.outlets.reports.try_iter().take(ASKS_PER_TURN);
        reports.for_each(|ask| state.ask(Some(ask)));
        self.outlets.reads.try_iter().take(ASKS_PER_TURN).for_each(|ask| state.ask(Some(ask)));
        if takes_proposals {
            let controls = self.outlets.controls.try_iter().take(CONTROLS_PER_TURN);
            controls.for_each(|ask| state.ask(Some(ask)));
            let mut bytes = 0;
            while bytes < PROPOSAL_BYTES_PER_TURN
                && let Ok(ask) = self.outlets.proposals.try_recv()
            {
                bytes += weight(&ask);
                state.ask(Some(ask));
            }
        }
        if state.resync
            && let Some((worker, incarnation)) = state.local.clone()
            && self.notices.as_ref().is_some_and(channel::Sender::is_empty)
        {
            state.resync = false;
            state.inputs.push(Input::LocalWorker { worker, incarnation });
        }
    }

    /// Takes a turn, and further ones while the replica has more to do without new input.
    fn turns(&mut self, state: &mut Loop, worked: &mut Duration) {
        while self.turn(state, worked) {
            // A long replay gives way between two turns, not within one: the kernel takes the core away from
            // whoever has used up its slice, for many milliseconds where cores are few.
            std::thread::yield_now();
            // What the disk and the peers say in the meantime comes in between.
            self.drain(state, false);
            if state.failed.is_some() {
                break;
            }
        }
    }

    /// Takes one turn, and tells whether the replica has more to do without new input. `worked` is how long the
    /// calling thread had been at work when it began with what is in this turn, and is brought up to date.
    fn turn(&mut self, state: &mut Loop, worked: &mut Duration) -> bool {
        let began = clock::monotonic();
        let turn = Turn { now: clock::ticks(), wall: clock::wall() };
        let inputs = std::mem::take(&mut state.inputs);
        let output = self.replica.turn(turn, inputs);
        let again = output.again;
        self.carry_out(state, output);
        let took = clock::monotonic().saturating_sub(began);
        let before = std::mem::replace(worked, clock::thread_cpu());
        self.shared.metrics.turn(took, worked.saturating_sub(before), turn.now);
        self.publish_metrics(&self.shared.metrics);
        again
    }

    fn carry_out(&self, state: &mut Loop, output: Output<ReplyTo>) {
        if let Some(batch) = output.persist {
            self.storage.persist(batch);
        }
        for (to, message) in output.send {
            if !self.net.send(to, message) {
                log::trace!("a message to node {to} was dropped: its link is full or down");
            }
        }
        let mut notices = output.notices;
        if let Some(view) = output.view {
            if view.ready && state.told_term != view.term {
                state.told_term = view.term;
                notices.push(Notice::Leader);
            }
            self.shared.view.set(view);
        }
        for read in output.read_log {
            self.storage.read_log(read);
        }
        if let Some((meta, machine)) = output.write_snapshot {
            let source = move |each: &mut dyn FnMut(&[u8]) -> bool| {
                // The image is dropped here, with the closure: on the thread that writes it.
                machine.records().take_while(|record| each(record)).for_each(drop);
            };
            self.storage.write_snapshot(meta, Box::new(source));
        }
        if let Some(index) = output.release {
            self.storage.release(index);
        }
        for id in output.abort_snapshots {
            self.net.abort_snapshot(id);
        }
        for send in output.send_snapshot {
            self.net.send_snapshot(send.to, send.term, send.index_min);
        }
        for (from, index, offer) in output.offers {
            if state.verdicts.get(&from).is_some_and(|(offered, _)| *offered == index)
                && let Some((_, verdict)) = state.verdicts.remove(&from)
                && verdict.try_send(offer).is_err()
            {
                log::debug!("the offer of node {from} is gone already");
            }
        }
        for notice in notices {
            if let Some(notices) = &self.notices
                && notices.try_send(notice).is_err()
            {
                state.resync = true;
            }
        }
        ReplyTo::answer_all(output.answers);
        for machine in output.discard {
            if state.discard.try_send(machine).is_err() {
                log::debug!("an image was dropped on the Raft thread: too many wait");
            }
        }
    }

    fn publish_metrics(&self, metrics: &Metrics) {
        metrics.observe(self.replica.raft(), self.replica.machine());
        metrics.snapshot_bytes.set(self.replica.snapshot_bytes());
        metrics.log_disk_bytes.set(self.storage.log_bytes());
        let stats = self.storage.stats();
        metrics.log_written_bytes.set(stats.written_bytes.load(Ordering::Relaxed));
    }
}

/// What the Raft thread listens to while others may sit; it takes from them only while it sits itself.
struct Ears {
    storage: Receiver<Event>,
    outlets: Outlets,
    control: Receiver<Control>,
    ticker: Receiver<Instant>,
    rung: Receiver<()>,
}

impl Ears {
    /// Takes turns, and leaves the seat while there is nothing to do.
    fn serve(&self, seat: &Seat<Desk>, mut desk: Box<Desk>) -> Result<(), String> {
        let Self { storage, outlets, control, ticker, rung } = self;
        let mut others = Select::new();
        let mut all = Select::new();
        for lanes in [&mut others, &mut all] {
            lanes.recv(storage);
            lanes.recv(&outlets.events);
            lanes.recv(&outlets.peers);
            lanes.recv(&outlets.reports);
            lanes.recv(&outlets.reads);
            lanes.recv(control);
            lanes.recv(ticker);
            lanes.recv(rung);
        }
        all.recv(&outlets.controls);
        all.recv(&outlets.proposals);
        let mut worked = clock::thread_cpu();
        loop {
            let takes = desk.given.replica.takes_proposals();
            seat.leave(desk);
            let _which = if takes { all.ready() } else { others.ready() };
            desk = seat.sit().map_err(|Panicked| "a turn panicked".to_owned())?;
            ticker.try_iter().for_each(drop);
            rung.try_iter().for_each(drop);
            if desk.work(&mut worked)?.is_break() {
                return Ok(());
            }
        }
    }
}

impl Desk {
    /// Takes what waits in the lanes, and a turn with it. Breaks when it is told to quit.
    fn work(&mut self, worked: &mut Duration) -> Result<ControlFlow<()>, String> {
        let Self { given, state } = self;
        given.drain(state, given.replica.takes_proposals());
        if let Some(what) = state.failed.take() {
            return Err(what);
        }
        match given.control.try_recv() {
            Ok(Control::Quit) => return Ok(ControlFlow::Break(())),
            Ok(Control::Stop) => state.inputs.push(Input::Stop),
            Err(_) => {}
        }
        given.turns(state, worked);
        given.check_healing()?;
        Ok(ControlFlow::Continue(()))
    }

    /// Takes one turn with what a visitor brought. What is left to do is the Raft thread's.
    fn visited(&mut self, bring: impl FnOnce(&mut Loop)) {
        let Self { given, state } = self;
        let mut worked = clock::thread_cpu();
        bring(state);
        given.shared.metrics.turns_visited.raise();
        if given.turn(state, &mut worked) && state.bell.try_send(()).is_err() {
            log::trace!("the Raft thread is called already");
        }
    }
}

impl Hosted for Desk {
    /// While the Raft thread takes no proposals nobody else's turn may end that: it would not know, and not listen.
    fn is_idle(&self) -> bool {
        let Self { given, state } = self;
        let raft = given.replica.raft();
        let is_called = !state.bell.is_empty() || state.failed.is_some() || state.resync;
        let is_quiet = raft.last_index().0 - raft.commit_index().0 <= UNCOMMITTED_QUIET_MAX;
        !is_called && is_quiet && given.replica.takes_proposals() && given.are_lanes_empty()
    }
}

/// Whoever brings something: takes the turn for it, if the seat is free and the Raft thread has nothing to do.
#[derive(Clone)]
struct Visitor(Seat<Desk>);

impl fmt::Debug for Visitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Visitor")
    }
}

impl Visitor {
    /// A batch is durable: its answers leave from the disk's own thread.
    fn persisted(&self, event: Event) -> Option<Event> {
        self.0.visit(event, |desk, event| desk.visited(|state| state.storage(Some(event))))
    }
}

impl Attendant for Visitor {
    fn peer(&self, event: PeerEvent) -> Option<PeerEvent> {
        self.0.visit(event, |desk, event| desk.visited(|state| state.peer(Some(event))))
    }

    fn ask(&self, ask: Ask) -> Option<Ask> {
        self.0.visit(ask, |desk, ask| desk.visited(|state| state.ask(Some(ask))))
    }
}

/// Says why a healing has no hope.
fn hopeless(healing: &HealingStatus, data: &str) -> String {
    let HealingStatus { others, whole, needed, .. } = healing;
    format!(
        "it cannot heal: for {} s it has heard no leader, and of the {others} other nodes {whole} answer \
         and are whole, where {needed} are needed: a majority of the cluster is damaged or out of reach. \
         Nothing was deleted: what was damaged is in {data}/{ASIDE}*. Start the other nodes, then this one \
         again: it goes on healing",
        HEALING_PATIENCE_TICKS * TICK_MS / 1000
    )
}

/// Returns what an ask counts against [`PROPOSAL_BYTES_PER_TURN`].
#[expect(clippy::wildcard_enum_match_arm, reason = "only submits carry bodies")]
fn weight(ask: &Ask) -> usize {
    let job = |job: &NewJob| job.body.memory() + JOB_OVERHEAD_BYTES;
    match ask {
        Ask::Submits { jobs, .. } => jobs.iter().map(|(new, _)| job(new)).sum(),
        Ask::Request { request: Request::SubmitBatch(jobs), .. } => jobs.iter().map(job).sum(),
        Ask::Request { request: Request::SubmitJob(new), .. } => job(new),
        _ => JOB_OVERHEAD_BYTES,
    }
}

impl Loop {
    fn storage(&mut self, event: Option<Event>) {
        let input = match event {
            None => {
                self.failed = Some("the storage thread has ended".into());
                return;
            }
            Some(Event::Failed { what }) => {
                self.failed = Some(what);
                return;
            }
            Some(Event::Persisted { seq, sync }) => {
                self.metrics.syncs.observe_duration(sync);
                Input::Persisted { seq }
            }
            Some(Event::LogRead { token, result }) => {
                let result = result.map_err(|gone| LogGone { first_index: gone.first_index });
                Input::LogRead { token, result }
            }
            Some(Event::Released { first_index }) => Input::Released { first_index },
            Some(Event::SnapshotWritten { meta, bytes }) => {
                self.metrics.snapshots_written.raise();
                Input::SnapshotWritten { meta, bytes }
            }
        };
        self.inputs.push(input);
    }

    fn peer(&mut self, event: Option<PeerEvent>) {
        let Some(event) = event else { return };
        let input = match event {
            PeerEvent::Message { from, dir, message } => Input::Peer { from, dir, message },
            PeerEvent::Lost(id) => Input::PeerLost(id),
            PeerEvent::Offered { from, dir, term, meta, verdict } => {
                self.verdicts.insert(from, (meta.index, verdict));
                Input::SnapshotOffered { from, dir, term, meta }
            }
            PeerEvent::Received { from, meta, bytes, machine } => {
                Input::SnapshotReceived { from, meta, bytes, machine }
            }
            PeerEvent::Sent { to, outcome } => {
                let outcome = outcome.map_err(|why| {
                    if let Some(why) = why {
                        log::warn!("the snapshot for node {to} did not arrive: {why}");
                    }
                    SendError
                });
                Input::SnapshotSent { to, outcome }
            }
        };
        self.inputs.push(input);
    }

    fn ask(&mut self, ask: Option<Ask>) {
        let Some(ask) = ask else { return };
        let input = match ask {
            Ask::Request { request, reply, arrived } => {
                Input::Request { request, waiter: reply, arrived }
            }
            Ask::Submits { jobs, arrived } => Input::Submits { jobs, arrived },
            Ask::LocalWorker { worker, incarnation } => {
                self.local = Some((worker.clone(), incarnation));
                Input::LocalWorker { worker, incarnation }
            }
            Ask::Look { reply } => Input::Look { waiter: reply },
        };
        self.inputs.push(input);
    }
}

//! One replica, turn by turn: inputs go to consensus, what is committed goes to the queue, and
//! everything the world must do comes back as one value.

use std::collections::{BTreeMap, BTreeSet};

use crate::jobs::codec;
use crate::jobs::command::{Command, Event, Limits, Stamped};
use crate::jobs::cron_slots::Zones;
use crate::jobs::machine::Machine;
use crate::jobs::scheduler::Proposed;
use crate::planted::{Bug, is_planted};
use crate::raft::configuration;
use crate::raft::core::{Boot, Raft};
use crate::raft::effects::Effects;
use crate::raft::message::{Configuration, Entry, EntryKind, Message, SnapshotMeta};
use crate::replica::clock::LogClock;
use crate::replica::history::History;
use crate::replica::input::{Input, Output, Turn};
use crate::replica::liveness::{Liveness, STOOD_STILL_TICKS};
use crate::replica::own::OwnCommands;
use crate::replica::readiness::Readiness;
use crate::replica::reads::{Lot, Parked, Read, Rounds};
use crate::replica::requests::Drafts;
use crate::replica::view::{Notice, View};
use crate::replica::waiters::{Wait, Waiters};
use crate::types::{
    DirId, Fence, Incarnation, Index, JobId, Millis, NodeId, Term, Ticks, WorkerId,
};
use crate::wire::message::Refusal;
use crate::wire::peer::PeerMessage;

/// How often a node tells a peer its digests at most, in ticks.
const DIGEST_TICKS: u64 = 5;

/// How many of the newest digests ride along.
const DIGESTS_SENT_MAX: usize = 4;

/// How many digests of a peer are remembered.
const DIGESTS_KEPT_MAX: usize = 64;

/// What a replica is told at its start, beside what the disk holds.
#[derive(Clone, Debug)]
pub struct Config {
    /// Bounds and timing of consensus; names this node.
    pub raft: crate::raft::core::Config,
    /// This node's data directory.
    pub dir: DirId,
    /// Limits the first leader proposes; a node whose limits differ from the cluster's says so.
    pub limits: Limits,
    /// Log written since the last snapshot that makes the next one due, in bytes; the last
    /// snapshot's own size wins when that is more.
    pub snapshot_bytes_min: u64,
    /// The size of the snapshot it starts from, in bytes; 0 without one.
    pub snapshot_bytes: u64,
    /// Bytes of changes kept for those who watch.
    pub history_bytes_max: u64,
    /// Dice for this process: election timeouts, and the cluster's id if this is its first leader.
    pub seed: u128,
}

/// What a replica knows of a peer beside consensus.
#[derive(Debug, Default)]
pub(super) struct PeerFacts {
    pub(super) dir: Option<DirId>,
    pub(super) applied_index: Index,
    pub(super) digests: BTreeMap<Index, u128>,
    digests_sent: Ticks,
}

/// A snapshot that was received and is not judged yet.
#[derive(Debug)]
struct Incoming {
    meta: SnapshotMeta,
    bytes: u64,
    machine: Box<Machine>,
}

/// One replica of the queue. `W` is whoever waits for an answer: a session's channel in a node, a
/// number in the simulator.
///
/// Invariants, checked at the end of every turn:
/// - the machine has applied exactly what consensus has handed out;
/// - consensus's own ([`Raft::assert_invariants`]).
#[derive(Debug)]
pub struct Replica<W> {
    pub(super) config: Config,
    pub(super) raft: Raft,
    pub(super) machine: Machine,
    pub(super) applied_term: Term,
    applied_configuration: Configuration,
    pub(super) clock: LogClock,
    pub(super) now: Ticks,
    pub(super) wall: Millis,
    /// The term this node leads in and has taken up its duties for.
    pub(super) led: Option<Term>,
    /// Workers were judged last then; `None` before this leader has applied what its predecessors decided.
    pub(super) judged_at: Option<Ticks>,
    pub(super) drafts: Drafts<W>,
    pub(super) own: OwnCommands,
    /// A submit that will most likely find no room was proposed last then.
    pub(super) hopeless_at: Option<Ticks>,
    pub(super) waiters: Waiters<W>,
    pub(super) arriving_reads: Vec<Read<W>>,
    pub(super) rounds: Rounds<W>,
    pub(super) lot: Lot<W>,
    pub(super) log_reads: BTreeMap<u64, W>,
    pub(super) next_log_read: u64,
    pub(super) liveness: Liveness,
    pub(super) proposed: Proposed,
    pub(super) proposed_at: BTreeMap<Index, Vec<crate::jobs::command::Pair>>,
    /// The last entry by which slots of crons were fired, of this leadership.
    pub(super) fired_at: Option<Index>,
    pub(super) zones: Zones,
    pub(super) configured_at: Option<Ticks>,
    pub(super) peers: BTreeMap<NodeId, PeerFacts>,
    pub(super) refused_directories: u64,
    incoming: Option<Incoming>,
    local: Option<(WorkerId, Incarnation)>,
    pub(super) history: History,
    ended: Vec<JobId>,
    /// An entry of this turn has changed something.
    has_changed: bool,
    given: BTreeSet<WorkerId>,
    bytes_since_snapshot: u64,
    snapshot_bytes: u64,
    snapshot_writing: bool,
    pub(super) readiness: Readiness,
    pub(super) view: Option<View>,
    pub(super) stopping: bool,
    pub(super) limits_compared: bool,
    pub(super) out: Output<W>,
}

impl<W> Replica<W> {
    /// Starts from what the disk holds: `boot` for consensus, and the machine of its snapshot.
    ///
    /// # Panics
    /// If the machine is not the one the snapshot claims (a restored machine whose index is below
    /// its snapshot's has lost what the log no longer holds).
    #[must_use]
    pub fn new(config: Config, boot: Boot, machine: Machine, turn: Turn) -> Self {
        let claimed = boot.snapshot.as_ref().map_or(Index(0), |meta| meta.index);
        assert_eq!(machine.applied_index(), claimed, "the machine is not its snapshot's");
        assert_eq!(boot.applied_index, claimed, "consensus starts where the machine stands");
        let applied_term = boot.snapshot.as_ref().map_or(Term(0), |meta| meta.term);
        let applied_configuration = boot
            .snapshot
            .as_ref()
            .map_or_else(|| boot.configuration.clone(), |meta| meta.configuration.clone());
        let seed =
            u64::try_from(config.seed & u128::from(u64::MAX)).expect("64 bits fit into 64 bits");
        let raft = Raft::new(config.raft.clone(), boot, seed);
        Self {
            clock: LogClock::new(machine.now(), turn.now),
            raft,
            machine,
            applied_term,
            applied_configuration,
            now: turn.now,
            wall: turn.wall,
            led: None,
            judged_at: None,
            drafts: Drafts::default(),
            own: OwnCommands::default(),
            hopeless_at: None,
            waiters: Waiters::default(),
            arriving_reads: Vec::new(),
            rounds: Rounds::default(),
            lot: Lot::default(),
            log_reads: BTreeMap::new(),
            next_log_read: LOG_READS_FROM,
            liveness: Liveness::default(),
            proposed: Proposed::default(),
            proposed_at: BTreeMap::new(),
            fired_at: None,
            zones: Zones::built_in(),
            configured_at: None,
            peers: BTreeMap::new(),
            refused_directories: 0,
            incoming: None,
            local: None,
            history: History::new(claimed, config.history_bytes_max),
            ended: Vec::new(),
            has_changed: false,
            given: BTreeSet::new(),
            bytes_since_snapshot: 0,
            snapshot_bytes: config.snapshot_bytes,
            snapshot_writing: false,
            readiness: Readiness::default(),
            view: None,
            stopping: false,
            limits_compared: false,
            out: Output::default(),
            config,
        }
    }

    /// Takes one turn: everything that happened since the last one, in order.
    ///
    /// # Panics
    /// If this replica finds its own state broken: a node stops rather than lies.
    pub fn turn(&mut self, turn: Turn, inputs: impl IntoIterator<Item = Input<W>>) -> Output<W> {
        let elapsed = turn.now.0.saturating_sub(self.now.0);
        self.now = Ticks(self.now.0.max(turn.now.0));
        self.wall = turn.wall;
        if elapsed > STOOD_STILL_TICKS && self.led.is_some() {
            self.liveness.fresh_window(&self.machine, self.lease_clock());
        }
        // Inputs first: after a pause, what a leader sent meanwhile is older news than its silence.
        for input in inputs {
            self.take(input);
        }
        if elapsed > 0 {
            self.raft.tick(Ticks(elapsed));
        }
        self.follow_leadership();
        self.propose_drafts();
        self.hand_over();
        self.ask_reads();
        let effects = self.raft.effects();
        self.carry_out(effects);
        self.follow_leadership();
        self.acknowledge_heartbeats();
        if self.led.is_some() {
            self.lead();
            self.settle();
        }
        self.serve_reads();
        self.serve_parked();
        self.expire();
        self.begin_snapshot();
        self.seek_readiness();
        if !self.arriving_reads.is_empty() {
            self.ask_reads();
            self.settle();
        }
        self.publish();
        self.raft.assert_invariants();
        self.out.again =
            self.raft.has_ready() || self.rounds.has_ready(self.machine.applied_index());
        std::mem::take(&mut self.out)
    }

    /// Tells whether proposals may be taken from their lane: accepted and uncommitted work is bounded
    /// (in entries and in bytes), and past the bound the lane fills and its senders are refused.
    #[must_use]
    pub fn takes_proposals(&self) -> bool {
        self.raft.has_room()
    }

    /// Returns the queue as it stands.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Returns the size of the newest snapshot here, in bytes; 0 without one.
    #[must_use]
    pub fn snapshot_bytes(&self) -> u64 {
        self.snapshot_bytes
    }

    /// Returns consensus as it stands.
    #[must_use]
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    fn take(&mut self, input: Input<W>) {
        match input {
            Input::Persisted { seq } => self.raft.persisted(seq),
            Input::LogRead { token, result } => self.log_read(token, result),
            Input::Released { first_index } => self.raft.log_released(first_index),
            Input::SnapshotWritten { meta, bytes } => {
                self.snapshot_writing = false;
                self.snapshot_bytes = bytes;
                self.raft.snapshot_written(&meta);
                self.out.release = Some(meta.index);
            }
            Input::Peer { from, dir, message } => self.peer(from, dir, message),
            Input::PeerLost(id) => self.raft.peer_lost(id),
            Input::SnapshotOffered { from, dir, term, meta } => {
                if self.is_voter(from, dir) {
                    self.raft.step(from, Message::InstallSnapshot { term, meta });
                }
            }
            Input::SnapshotReceived { from, meta, bytes, machine } => {
                // Two leaders, one after the other, may each have sent one: the older one is dropped.
                if self.incoming.as_ref().is_some_and(|held| held.meta.index >= meta.index) {
                    self.out.discard.push(*machine);
                    return;
                }
                let arrived = Incoming { meta: meta.clone(), bytes, machine };
                if let Some(old) = self.incoming.replace(arrived) {
                    self.out.discard.push(*old.machine);
                }
                self.raft.snapshot_received(from, &meta);
            }
            Input::SnapshotSent { to, outcome } => self.raft.snapshot_sent(to, outcome),
            Input::Request { request, waiter, arrived } => self.request(request, waiter, arrived),
            Input::Submits { jobs, arrived } => self.submits(jobs, arrived),
            Input::LocalWorker { worker, incarnation } => {
                self.local = Some((worker, incarnation));
                self.tell_held();
            }
            Input::Look { waiter } => {
                let look = self.look();
                self.out.answers.push((waiter, crate::replica::view::Answer::Look(Box::new(look))));
            }
            Input::Stop => self.stopping = true,
        }
    }

    fn peer(&mut self, from: NodeId, dir: DirId, message: PeerMessage) {
        if message.group != 0 || !self.is_voter(from, dir) {
            return;
        }
        self.clock.read(from, message.wall_ms, self.now);
        let facts = self.peers.entry(from).or_default();
        facts.dir = Some(dir);
        facts.applied_index = message.applied_index;
        facts.digests.extend(message.digests);
        while facts.digests.len() > DIGESTS_KEPT_MAX {
            facts.digests.pop_first();
        }
        self.raft.step(from, message.message);
    }

    /// Tells whether the sender is a voter with the directory that the log knows it by: one with
    /// another directory has forgotten its votes and must not be heard.
    fn is_voter(&mut self, from: NodeId, dir: DirId) -> bool {
        let voter = self.raft.configuration().voters.iter().find(|voter| voter.id == from);
        let known = voter.is_some_and(|voter| voter.dir.is_none_or(|recorded| recorded == dir));
        if !known {
            self.refused_directories += 1;
        }
        known
    }

    /// Carries out what consensus asks for since the turn's first look. It applies nothing more: the
    /// first look has handed out all that one turn may.
    fn settle(&mut self) {
        let effects = self.raft.effects_unapplied();
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Effects) {
        let Effects {
            persist,
            send,
            apply,
            reads,
            read_log,
            send_snapshot,
            abort_snapshots,
            offers,
            install,
        } = effects;
        if let Some(batch) = persist {
            assert!(self.out.persist.is_none(), "two batches at once: {}", batch.seq);
            self.out.persist = Some(batch);
        }
        if let Some(meta) = install {
            self.install(&meta);
        }
        for entry in apply {
            self.apply(&entry);
        }
        for (to, message) in send {
            let envelope = self.envelope(to, message);
            self.out.send.push((to, envelope));
        }
        self.out.read_log.extend(read_log);
        self.out.send_snapshot.extend(send_snapshot);
        self.out.abort_snapshots.extend(abort_snapshots);
        self.out.offers.extend(offers);
        for read in reads {
            for refused in self.rounds.confirmed(read.token, read.index) {
                self.refuse_read(refused);
            }
        }
        if let Some(incoming) = self.incoming.take() {
            // Not installed: what it holds is committed here already.
            self.out.discard.push(*incoming.machine);
        }
    }

    fn envelope(&mut self, to: NodeId, message: Message) -> PeerMessage {
        let facts = self.peers.entry(to).or_default();
        let tells = matches!(message, Message::AppendReply { .. })
            && self.now.0.saturating_sub(facts.digests_sent.0) >= DIGEST_TICKS;
        let mut digests = Vec::new();
        if tells {
            facts.digests_sent = self.now;
            let taken = self.machine.digests();
            let skipped = taken.len().saturating_sub(DIGESTS_SENT_MAX);
            digests
                .extend(taken.into_iter().skip(skipped).map(|(index, digest)| (index, digest.0)));
        }
        PeerMessage {
            group: 0,
            wall_ms: self.wall,
            applied_index: self.machine.applied_index(),
            digests,
            message,
        }
    }

    fn install(&mut self, meta: &SnapshotMeta) {
        let Incoming { meta: received, bytes, machine } =
            self.incoming.take().expect("consensus installs only the snapshot just handed to it");
        assert_eq!(received.index, meta.index, "another snapshot than the one received");
        assert_eq!(machine.applied_index(), meta.index, "a machine that is not its snapshot's");
        assert!(machine.applied_index() > self.machine.applied_index(), "a step back");
        self.out.discard.push(std::mem::replace(&mut self.machine, *machine));
        self.applied_term = meta.term;
        self.applied_configuration = meta.configuration.clone();
        self.clock.observe(self.machine.now(), self.now);
        self.bytes_since_snapshot = 0;
        self.snapshot_bytes = bytes;
        self.proposed.clear();
        self.proposed_at.clear();
        for waiting in self.waiters.take_to(meta.index) {
            for wait in waiting.waits {
                // The snapshot does not say whether it was this proposal that came to be.
                self.refuse(wait.into_waiter(), Refusal::deadline_exceeded());
            }
        }
        self.history.begin_anew(meta.index);
        self.tell_held();
        self.park_again();
    }

    fn apply(&mut self, entry: &Entry) {
        assert_eq!(
            entry.index,
            self.machine.applied_index().next(),
            "a gap before {}",
            entry.index
        );
        self.applied_term = entry.term;
        self.bytes_since_snapshot += entry.weight() as u64;
        let outcome = match entry.kind {
            EntryKind::Noop => {
                self.machine.apply_noop(entry.index);
                None
            }
            EntryKind::Configuration => {
                self.applied_configuration = configuration::decode(&entry.data)
                    .expect("consensus has read this configuration when it was appended");
                self.machine.apply_noop(entry.index);
                None
            }
            EntryKind::Command => {
                let stamped = self.own.take(entry).unwrap_or_else(|| {
                    codec::decode(&entry.data).unwrap_or_else(|error| {
                        panic!("entry {} is no command: {error}", entry.index)
                    })
                });
                self.clock.observe(stamped.now, self.now);
                let applied = self.machine.apply(entry.index, &stamped);
                if !applied.events.is_empty() {
                    // A worker, or whoever waits for a job, may look at a follower. A job that only waits itself
                    // concerns nobody but the scheduler.
                    self.raft.announce_commit();
                }
                self.has_changed |= !applied.changes.is_empty();
                self.history.push(entry.index, self.machine.now(), applied.changes);
                for event in applied.events {
                    self.note(event);
                }
                Some(applied.outcome)
            }
        };
        if let Some(pairs) = self.proposed_at.remove(&entry.index) {
            self.proposed.remove(&pairs);
        }
        for waiting in self.waiters.take(entry.index) {
            match &outcome {
                Some(outcome) if waiting.term == entry.term => {
                    self.answer_outcome(waiting.waits, outcome);
                }
                Some(_) | None => {
                    // Another entry is committed in its place: it did not and will not happen.
                    for wait in waiting.waits {
                        let refusal = self.displaced();
                        self.refuse(wait.into_waiter(), refusal);
                    }
                }
            }
        }
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Assigned { worker, incarnation, job, fence } => {
                if self.is_local(&worker, incarnation) {
                    let before = Fence(fence.0.saturating_sub(1));
                    let given = self.machine.assignments(&worker, incarnation, before, 1);
                    for assignment in given {
                        assert_eq!(assignment.id, job, "fence {fence} is another job's");
                        self.out.notices.push(Notice::Begin { incarnation, assignment });
                    }
                } else {
                    self.given.insert(worker);
                }
            }
            Event::Withdrawn { worker, incarnation, job, fence } => {
                if self.is_local(&worker, incarnation) {
                    self.out.notices.push(Notice::End { incarnation, job, fence });
                }
            }
            Event::Ended { job, .. } => self.ended.push(job),
        }
    }

    fn is_local(&self, worker: &WorkerId, incarnation: Incarnation) -> bool {
        self.local.as_ref().is_some_and(|(id, start)| id == worker && *start == incarnation)
    }

    /// Tells the built-in worker all it holds.
    fn tell_held(&mut self) {
        if let Some((worker, incarnation)) = &self.local {
            let assignments = self.machine.assignments(worker, *incarnation, Fence(0), usize::MAX);
            self.out.notices.push(Notice::Held { incarnation: *incarnation, assignments });
        }
    }

    /// Proposes one command and notes who waits for it; refuses them if it is not taken.
    pub(super) fn propose(
        &mut self,
        command: Command,
        arrived: Ticks,
        waits: Vec<Wait<W>>,
    ) -> Option<Index> {
        let voters = self.raft.configuration().voters.len();
        let now = self.clock.stamp(self.wall, self.now, voters);
        let stamped = Stamped { now, command };
        let data = codec::encode(&stamped);
        let bytes = data.len();
        match self.raft.propose(EntryKind::Command, vec![data]) {
            Ok(index) => {
                self.own.keep(index, self.raft.term(), bytes, stamped);
                if !waits.is_empty() {
                    self.waiters.add(index, self.raft.term(), arrived, waits);
                }
                Some(index)
            }
            Err(error) => {
                for wait in waits {
                    let refusal = self.not_proposed(&error);
                    self.refuse(wait.into_waiter(), refusal);
                }
                None
            }
        }
    }

    /// Serves those who wait for jobs that ended or were assigned in this turn.
    fn serve_parked(&mut self) {
        for job in std::mem::take(&mut self.ended) {
            for (waiter, ids) in self.lot.job_ended(job) {
                self.answer_waited(waiter, ids);
            }
        }
        for worker in std::mem::take(&mut self.given) {
            for (waiter, parked, deadline) in self.lot.worker_given(&worker) {
                self.reserve(waiter, parked, deadline);
            }
        }
        if std::mem::take(&mut self.has_changed) {
            for (waiter, parked, deadline) in self.lot.changed() {
                if let Parked::Changes(watch) = parked {
                    self.watch(waiter, watch, deadline);
                }
            }
        }
    }

    /// Starts a snapshot when enough log has been written since the last one.
    fn begin_snapshot(&mut self) {
        let due =
            self.bytes_since_snapshot > self.config.snapshot_bytes_min.max(self.snapshot_bytes);
        if !due || self.snapshot_writing {
            return;
        }
        self.snapshot_writing = true;
        self.bytes_since_snapshot = 0;
        let is_termless = is_planted(Bug::SnapshotWithoutTerm);
        let meta = SnapshotMeta {
            index: self.machine.applied_index(),
            term: if is_termless { Term(0) } else { self.applied_term },
            configuration: self.applied_configuration.clone(),
        };
        self.out.write_snapshot = Some((meta, self.machine.clone()));
    }

    /// Hands leadership over before the end. Tried in each turn: a transfer that runs is left to run,
    /// and one that failed may find another follower ready.
    fn hand_over(&mut self) {
        if self.stopping
            && self.led.is_some()
            && let Ok(to) = self.raft.transfer(self.successor())
        {
            log::info!("leadership goes to node {to}");
        }
    }
}

/// Log reads for people are numbered from here on, so that they are told from those of consensus.
pub(super) const LOG_READS_FROM: u64 = 1 << 63;

//! Three real cores, their disks and a network that may do anything, as one value: the state of the
//! model. What happens to it is an [`Action`]; what must hold is asked after each.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use raftq::raft::core::{Config, Raft, Role};
use raftq::raft::effects::{Effects, Offer, Persist};
use raftq::raft::essence::{hash_hard_state, hash_message, hash_meta, session_of};
use raftq::raft::message::{Configuration, Entry, EntryKind, Message, SnapshotMeta, Voter};
use raftq::types::{ClusterId, Index, NodeId, Term, Ticks};

use crate::check::Check;
use crate::disk::Disk;
use crate::names::{Folding, ORDERS, Renamed, Sessions};
use crate::scope::Scope;

/// How many nodes there are; two are a majority.
pub(crate) const NODES: usize = 3;

/// What a node has to say to another one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Load {
    /// A message of the core.
    Message(Message),
    /// A whole snapshot, on the lane for that.
    Snapshot(SnapshotMeta, Arc<Vec<Entry>>),
    /// That one has arrived.
    Arrived(Index),
}

/// One thing on its way. The network holds each once: a second one like it is the same as its
/// duplicate.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Packet {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) load: Load,
}

/// One node.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) raft: Raft,
    pub(crate) disk: Disk,
    /// The batch on its way to the disk.
    pub(crate) outstanding: Option<Persist>,
    /// What was applied: the state machine is the list of its entries.
    pub(crate) machine: Vec<Entry>,
}

/// What has happened, as far as the promises speak of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    /// Who led each term.
    pub(crate) leaders: BTreeMap<Term, usize>,
    /// All that was ever committed, each entry with the term of the node that said so first.
    pub(crate) committed: Vec<(Entry, Term)>,
    /// The entries of former terms that were on a majority and not committed (Figure 8 (c)).
    pub(crate) endangered: BTreeSet<(Index, Term)>,
    /// Snapshots that took the place of a log.
    pub(crate) installs: u8,
}

/// One read under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Read {
    node: usize,
    /// How much was committed when it was asked.
    floor: u64,
}

/// One state of the whole.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) nodes: [Arc<Node>; NODES],
    pub(crate) wire: Vec<Packet>,
    pub(crate) history: Arc<History>,
    pub(crate) read: Option<Read>,
    pub(crate) crashes: u8,
    pub(crate) damages: u8,
    /// Whose disk was damaged last.
    pub(crate) damaged: Option<usize>,
    pub(crate) duplicates: u8,
    pub(crate) reads: u8,
    pub(crate) broken: Option<Check>,
    /// What this state is known by; see [`State::seal`].
    pub(crate) print: u64,
}

/// One thing that may happen. Time passes only where one of these says so: a timeout may come at any
/// moment, so that no order of timeouts and messages is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// A node's election timeout passes.
    Timeout(usize),
    /// A message arrives.
    Deliver(usize),
    /// A copy of a message arrives.
    Duplicate(usize),
    /// A message is lost.
    Drop(usize),
    /// A client's command comes to a leader.
    Propose(usize),
    /// The disk has synced what it was given.
    Synced(usize),
    /// A node falls and starts again; the batch on its way to the disk got there, or not.
    Crash(usize, bool),
    /// A node falls, its disk is found to have lost everything, and it is told to heal.
    Damage(usize),
    /// A node that heals asks for what it must hold.
    Ask(usize),
    /// A leader's heartbeat is due.
    Heartbeat(usize),
    /// A node writes a snapshot and lets go of its log.
    Compact(usize),
    /// Somebody asks a leader for the state.
    Read(usize),
}

fn id(node: usize) -> NodeId {
    NodeId(node as u64 + 1)
}

fn at(id: NodeId) -> usize {
    usize::try_from(id.0).unwrap() - 1
}

fn configuration() -> Configuration {
    let voter = |node| Voter { id: id(node), addr: String::new(), dir: None };
    Configuration { cluster: ClusterId::default(), voters: (0..NODES).map(voter).collect() }
}

/// A core for which no time passes: every timeout is an action.
fn config(scope: &Scope, node: usize) -> Config {
    let mut config = Config::new(id(node));
    config.election_ticks_min = 0;
    config.election_ticks_max = 0;
    config.heartbeat_ticks = 0;
    if scope.one_by_one {
        config.append_bytes_max = 1;
    }
    config
}

impl Node {
    /// Starts on a disk; `starts` counts such starts, so that no two draw the same numbers.
    pub(crate) fn start(scope: &Scope, node: usize, disk: Disk, starts: u8) -> Self {
        let config = config(scope, node);
        let boot = disk.boot(&configuration(), config.window_entries_max);
        let machine = disk.snapshot.as_ref().map_or(Vec::new(), |(_, held)| held.clone());
        Self { raft: Raft::new(config, boot, starts.into()), disk, outstanding: None, machine }
    }

    /// Tells whether term and vote of now are on the disk.
    pub(crate) fn is_hard_durable(&self) -> bool {
        let status = (self.raft.term(), self.raft.status().vote);
        status == (self.disk.hard.term, self.disk.hard.vote)
    }

    /// Tells whether this node's log has an entry, or a snapshot in its place.
    pub(crate) fn has(&self, entry: &Entry) -> bool {
        match self.raft.term_at(entry.index) {
            Some(term) => term == entry.term,
            None => entry.index < self.raft.last_index(),
        }
    }

    fn hash<H: Hasher>(&self, names: &Renamed<'_>, into: &mut H) {
        let Self { raft, disk, outstanding, machine } = self;
        raft.hash_essence(names, into);
        let Disk { hard, snapshot, first, entries, commit, healing } = disk;
        hash_hard_state(*hard, names, into);
        (first, commit, healing, snapshot.is_some(), outstanding.is_some()).hash(into);
        entries.hash(into);
        if let Some((meta, held)) = snapshot {
            hash_meta(meta, into);
            held.hash(into);
        }
        if let Some(Persist { seq: _, hard_state, reset, entries, commit_index, healed }) =
            outstanding
        {
            (hard_state.is_some(), reset.is_some(), commit_index, healed).hash(into);
            entries.hash(into);
            if let Some(hard) = hard_state {
                hash_hard_state(*hard, names, into);
            }
            if let Some(meta) = reset {
                hash_meta(meta, into);
            }
        }
        machine.hash(into);
    }
}

impl State {
    /// Nothing has happened, on nodes that start from such disks.
    pub(crate) fn new(scope: &Scope, disks: [Disk; NODES]) -> Self {
        let mut number = 0;
        let nodes = disks.map(|disk| {
            number += 1;
            Arc::new(Node::start(scope, number - 1, disk, 0))
        });
        let mut state = Self {
            nodes,
            wire: Vec::new(),
            history: Arc::default(),
            read: None,
            crashes: 0,
            damages: 0,
            damaged: None,
            duplicates: 0,
            reads: 0,
            broken: None,
            print: 0,
        };
        (0..NODES).for_each(|node| state.turn(scope, node));
        state.seal();
        state
    }

    fn node_mut(&mut self, node: usize) -> &mut Node {
        Arc::make_mut(&mut self.nodes[node])
    }

    pub(crate) fn break_promise(&mut self, check: Check) {
        self.broken = self.broken.or(Some(check));
    }

    /// Does what the action says, turns included.
    pub(crate) fn act(&mut self, scope: &Scope, action: Action) {
        match action {
            Action::Timeout(node) => self.time_out(scope, node),
            Action::Deliver(position) => {
                let packet = self.wire.remove(position);
                self.deliver(scope, packet);
            }
            Action::Duplicate(position) => {
                self.duplicates += 1;
                self.deliver(scope, self.wire[position].clone());
            }
            Action::Drop(position) => drop(self.wire.remove(position)),
            Action::Propose(node) => {
                let data = vec![Bytes::from_static(b"x")];
                self.node_mut(node).raft.propose(EntryKind::Command, data).unwrap();
                self.turn(scope, node);
            }
            Action::Synced(node) => {
                self.sync(node);
                self.turn(scope, node);
            }
            Action::Crash(node, keeps) => {
                self.crashes += 1;
                let fallen = self.node_mut(node);
                let mut disk = fallen.disk.clone();
                if let Some(batch) = fallen.outstanding.take().filter(|_| keeps) {
                    disk.write(batch);
                }
                self.restart(scope, node, disk);
            }
            Action::Damage(node) => {
                self.damages += 1;
                self.damaged = Some(node);
                let mut disk = self.nodes[node].disk.clone();
                disk.lose();
                self.restart(scope, node, disk);
            }
            Action::Ask(node) | Action::Heartbeat(node) => {
                self.node_mut(node).raft.tick(Ticks(0));
                self.turn(scope, node);
            }
            Action::Compact(node) => self.compact(scope, node),
            Action::Read(node) => {
                self.reads += 1;
                self.read = Some(Read { node, floor: self.history.committed.len() as u64 });
                self.node_mut(node).raft.read(0);
                self.turn(scope, node);
            }
        }
    }

    /// An election timeout. Where the scope says so the pre-vote is granted at once, by whomever: it
    /// changes nothing but the one who asks (that is tested elsewhere), and more elections than
    /// there could be are no fewer.
    fn time_out(&mut self, scope: &Scope, node: usize) {
        let raft = &mut self.node_mut(node).raft;
        raft.campaign();
        if !scope.pre_votes && raft.role() == Role::PreCandidate {
            let term = raft.term().next();
            raft.step(id((node + 1) % NODES), Message::PreVoteReply { term, granted: true });
        }
        self.turn(scope, node);
    }

    fn deliver(&mut self, scope: &Scope, packet: Packet) {
        let Packet { from, to, load } = packet;
        match load {
            Load::Message(message) => self.node_mut(to).raft.step(id(from), message),
            Load::Snapshot(meta, machine) => {
                let node = self.node_mut(to);
                if node.disk.snapshot.as_ref().is_none_or(|(held, _)| held.index < meta.index) {
                    node.disk.snapshot = Some((meta.clone(), machine.to_vec()));
                }
                node.raft.snapshot_received(id(from), &meta);
                self.send(to, from, Load::Arrived(meta.index));
            }
            Load::Arrived(index) => self.node_mut(to).raft.snapshot_sent(id(from), Ok(index)),
        }
        self.turn(scope, to);
    }

    fn restart(&mut self, scope: &Scope, node: usize, disk: Disk) {
        let starts = self.crashes + self.damages;
        *self.node_mut(node) = Node::start(scope, node, disk, starts);
        self.read = self.read.filter(|read| read.node != node);
        self.note_commit(node, Index(0));
        self.turn(scope, node);
    }

    fn sync(&mut self, node: usize) {
        let node = self.node_mut(node);
        let batch = node.outstanding.take().unwrap();
        let seq = batch.seq;
        node.disk.write(batch);
        node.raft.persisted(seq);
    }

    fn compact(&mut self, scope: &Scope, node: usize) {
        let own = self.node_mut(node);
        let meta = own.raft.snapshot_meta(own.raft.applied_index()).unwrap();
        own.disk.snapshot = Some((meta.clone(), own.machine.clone()));
        own.raft.snapshot_written(&meta);
        let first = meta.index.0 + 1;
        if first > own.disk.first && first <= own.disk.last() + 1 {
            let gone = usize::try_from(first - own.disk.first).unwrap();
            own.disk.entries.drain(..gone);
            own.disk.first = first;
            own.raft.log_released(Index(first));
        }
        self.turn(scope, node);
    }

    fn send(&mut self, from: usize, to: usize, load: Load) {
        let packet = Packet { from, to, load };
        if !self.wire.contains(&packet) {
            self.wire.push(packet);
        }
    }

    /// Runs a node's turn: takes its effects and checks them.
    pub(crate) fn turn(&mut self, scope: &Scope, node: usize) {
        loop {
            let own = self.node_mut(node);
            own.raft.announce_commit();
            let effects = own.raft.effects();
            own.raft.assert_invariants();
            let again = own.raft.has_ready();
            self.take(scope, node, effects);
            let syncs = scope.syncs_at_once && self.nodes[node].outstanding.is_some();
            if syncs {
                self.sync(node);
            }
            if !again && !syncs {
                break;
            }
        }
        self.check();
    }

    fn take(&mut self, scope: &Scope, node: usize, effects: Effects) {
        let own = self.node_mut(node);
        if let Some(batch) = effects.persist {
            assert!(own.outstanding.is_none(), "two batches outstanding");
            own.outstanding = Some(batch);
        }
        let before = own.machine.len() as u64;
        if let Some(meta) = effects.install {
            let (held, machine) = own.disk.snapshot.clone().unwrap();
            assert_eq!(held, meta, "installs another snapshot than the one received");
            own.machine = machine;
            Arc::make_mut(&mut self.history).installs += 1;
        }
        for (to, message) in effects.send {
            if scope.watches_words && !self.may_say(node, at(to), &message) {
                self.break_promise(Check::SaidBeforeDurable);
            }
            if scope.pre_votes || !matches!(message, Message::PreVote { .. }) {
                self.send(node, at(to), Load::Message(message));
            }
        }
        self.note_commit(node, Index(before));
        for entry in effects.apply {
            let own = self.node_mut(node);
            assert_eq!(entry.index.0, own.machine.len() as u64 + 1, "gap in what is applied");
            let is_durable = own.disk.holds(entry.index, entry.term);
            own.machine.push(entry);
            if !is_durable && !scope.syncs_at_once {
                self.break_promise(Check::DurableOnMajority);
            }
        }
        for order in effects.send_snapshot {
            let held = self.nodes[node].disk.snapshot.clone();
            let (meta, _) = held.expect("the log was released without a snapshot");
            let offer = Message::InstallSnapshot { term: order.term, meta };
            self.send(node, at(order.to), Load::Message(offer));
        }
        for (from, index, offer) in effects.offers {
            self.answer_offer(node, at(from), index, offer);
        }
        for ready in effects.reads {
            if let (Some(read), Some(index)) = (self.read.take(), ready.index)
                && index.0 < read.floor
            {
                self.break_promise(Check::FreshReads);
            }
        }
        self.note_leader(node);
    }

    /// The verdict on an offer goes back on the lane of the snapshot, and the snapshot follows: both
    /// in one step, since whatever happens in between could happen before or after as well.
    fn answer_offer(&mut self, node: usize, from: usize, index: Index, offer: Offer) {
        let held = self.nodes[from].disk.snapshot.clone();
        match (offer, held) {
            (Offer::Wanted, Some((meta, machine))) if meta.index == index => {
                self.send(from, node, Load::Snapshot(meta, Arc::new(machine)));
            }
            (Offer::Held, _) => self.send(node, from, Load::Arrived(index)),
            // The sender has another file now, or hears of the later term some other way.
            (Offer::Wanted | Offer::Stale(_), _) => {}
        }
    }

    /// Forgets answers that can never count again: those to a candidate or leader of a term that its
    /// node has left for good.
    fn forget_late(&mut self) {
        let nodes = &self.nodes;
        self.wire.retain(|packet| {
            let to = &nodes[packet.to];
            let left = to.raft.term().min(to.disk.hard.term);
            match &packet.load {
                Load::Message(
                    Message::VoteReply { term, .. } | Message::AppendReply { term, .. },
                ) => *term >= left,
                Load::Message(_) | Load::Snapshot(..) | Load::Arrived(_) => true,
            }
        });
    }

    /// Computes what this state is known by, and forgets nothing else: states that differ in the
    /// names of nodes and sessions, in clocks, or in the order of the network are one state.
    pub(crate) fn seal(&mut self) {
        self.forget_late();
        let mut sessions = Sessions::default();
        for node in &self.nodes {
            node.raft
                .each_session(|term, follower, session| sessions.note(term, follower, session));
        }
        for Packet { from, to, load } in &self.wire {
            if let Load::Message(message) = load
                && let Some((term, follower, session)) = session_of(id(*from), id(*to), message)
            {
                sessions.note(term, follower, session);
            }
        }
        let names = ORDERS.map(|order| Renamed { order, sessions: &sessions });
        self.print = names.iter().map(|names| self.print(names)).min().unwrap();
    }

    fn print(&self, names: &Renamed<'_>) -> u64 {
        let mut hasher = Folding::new();
        for position in 0..NODES {
            let node = names.order.iter().position(|name| usize::from(*name) == position).unwrap();
            self.nodes[node].hash(names, &mut hasher);
        }
        let of_packet = |packet: &Packet| {
            let mut hasher = Folding::new();
            let (from, to) = (id(packet.from), id(packet.to));
            match &packet.load {
                Load::Message(message) => hash_message(from, to, message, names, &mut hasher),
                Load::Snapshot(meta, machine) => {
                    (1_u8, names.order[packet.from], names.order[packet.to]).hash(&mut hasher);
                    hash_meta(meta, &mut hasher);
                    machine.hash(&mut hasher);
                }
                Load::Arrived(index) => {
                    let ends = (names.order[packet.from], names.order[packet.to]);
                    (2_u8, ends, index).hash(&mut hasher);
                }
            }
            hasher.finish()
        };
        self.wire.iter().map(of_packet).fold(0, u64::wrapping_add).hash(&mut hasher);
        let History { leaders, committed, endangered, installs } = &*self.history;
        for (term, node) in leaders {
            (term, names.order[*node]).hash(&mut hasher);
        }
        (committed, endangered, installs).hash(&mut hasher);
        self.read.map(|read| (names.order[read.node], read.floor)).hash(&mut hasher);
        self.damaged.map(|node| names.order[node]).hash(&mut hasher);
        let counts = (self.crashes, self.damages, self.duplicates, self.reads, self.broken);
        counts.hash(&mut hasher);
        hasher.finish()
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, into: &mut H) {
        into.write_u64(self.print);
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.print == other.print
    }
}

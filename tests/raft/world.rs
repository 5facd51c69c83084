//! A whole cluster in memory: cores over disks that lose what was not synced, and a network that
//! delivers what the test says. Every turn of every node is checked for what Raft promises.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use raftq::raft::core::{Config, LogGone, Raft, Role, Status};
use raftq::raft::effects::{Effects, Offer, Persist, ReadLog, SendSnapshot};
use raftq::raft::message::{
    AppendOutcome, Configuration, Entry, EntryKind, HardState, Message, SnapshotMeta, Voter,
};
use raftq::raft::quorum::majority;
use raftq::types::{ClusterId, Index, NodeId, Term, Ticks};

use crate::disk::Disk;

/// One node.
#[derive(Debug)]
pub(crate) struct Node {
    /// `None` while it is down.
    pub(crate) raft: Option<Raft>,
    pub(crate) disk: Disk,
    /// The batch on its way to the disk.
    pub(crate) outstanding: Option<Persist>,
    /// What was applied: the state machine is the list of its entries.
    pub(crate) machine: Vec<Entry>,
    pub(crate) log_reads: VecDeque<ReadLog>,
    pub(crate) offers: Vec<(NodeId, Index, Offer)>,
    pub(crate) aborted: Vec<NodeId>,
    pub(crate) installs: usize,
    commit_seen: Index,
}

/// One message on its way.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) message: Message,
}

/// One snapshot on its way.
#[derive(Clone, Debug)]
pub(crate) struct Shipment {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) term: Term,
    pub(crate) meta: SnapshotMeta,
    machine: Vec<Entry>,
}

/// The cluster, and what is known of its history.
pub(crate) struct World {
    pub(crate) nodes: BTreeMap<u64, Node>,
    pub(crate) wire: VecDeque<Packet>,
    /// All that was sent since this was last emptied, if somebody wants to know.
    pub(crate) trace: Option<Vec<Packet>>,
    pub(crate) shipments: VecDeque<Shipment>,
    /// Links that lose everything, by direction.
    pub(crate) cut: BTreeSet<(u64, u64)>,
    /// Answers to reads, by token.
    pub(crate) answers: BTreeMap<u64, Option<Index>>,
    /// The commit index that each open read must reach.
    floors: BTreeMap<u64, Index>,
    leaders: BTreeMap<Term, NodeId>,
    committed: BTreeMap<Index, Entry>,
    high_commit: Index,
    configuration: Configuration,
    tune: fn(&mut Config),
    /// Leaders tell at once what is committed. Otherwise with the next entries, or after a tick.
    pub(crate) announces: bool,
    /// The test plays a leader itself: what it says is committed is on no other disk.
    pub(crate) is_forged: bool,
    starts: u64,
    pub(crate) tokens: u64,
}

pub(crate) fn configuration(count: u64) -> Configuration {
    let voter = |id| Voter { id: NodeId(id), addr: format!("127.0.0.1:71{id:02}"), dir: None };
    Configuration { cluster: ClusterId::default(), voters: (1..=count).map(voter).collect() }
}

/// Timeouts so long that nobody campaigns unless told to.
fn patient(config: &mut Config) {
    config.election_ticks_max = 100_000;
}

impl World {
    /// Makes a cluster in which nobody campaigns unless told to.
    pub(crate) fn new(count: u64) -> Self {
        Self::tuned(count, 1, patient)
    }

    /// Makes such a cluster for a test that plays a leader itself.
    pub(crate) fn forged(count: u64) -> Self {
        Self { is_forged: true, ..Self::new(count) }
    }

    pub(crate) fn tuned(count: u64, seed: u64, tune: fn(&mut Config)) -> Self {
        let mut world = Self {
            nodes: BTreeMap::new(),
            wire: VecDeque::new(),
            trace: None,
            shipments: VecDeque::new(),
            cut: BTreeSet::new(),
            answers: BTreeMap::new(),
            floors: BTreeMap::new(),
            leaders: BTreeMap::new(),
            committed: BTreeMap::new(),
            high_commit: Index(0),
            configuration: configuration(count),
            tune,
            announces: true,
            is_forged: false,
            starts: seed << 20,
            tokens: 0,
        };
        for id in 1..=count {
            let node = Node {
                raft: None,
                disk: Disk::new(),
                outstanding: None,
                machine: Vec::new(),
                log_reads: VecDeque::new(),
                offers: Vec::new(),
                aborted: Vec::new(),
                installs: 0,
                commit_seen: Index(0),
            };
            world.nodes.insert(id, node);
            world.start(id);
        }
        world
    }

    pub(crate) fn config(&self, id: u64) -> Config {
        let mut config = Config::new(NodeId(id));
        (self.tune)(&mut config);
        config
    }

    pub(crate) fn start(&mut self, id: u64) {
        self.starts += 1;
        let (seed, config) = (self.starts, self.config(id));
        let node = self.nodes.get_mut(&id).unwrap();
        assert!(node.raft.is_none(), "already up");
        let boot = node.disk.boot(&self.configuration, config.window_entries_max);
        node.machine = node.disk.snapshot.as_ref().map_or(Vec::new(), |(_, held)| held.clone());
        node.commit_seen = Index(0);
        node.raft = Some(Raft::new(config, boot, seed));
        self.turn(id);
    }

    /// Stops a node at once. The batch on its way to the disk arrives there, or not.
    pub(crate) fn crash(&mut self, id: u64, keeps_outstanding: bool) {
        let node = self.nodes.get_mut(&id).unwrap();
        node.raft = None;
        node.log_reads.clear();
        node.offers.clear();
        if let Some(batch) = node.outstanding.take().filter(|_| keeps_outstanding) {
            node.disk.write(batch);
        }
        // The sender of a snapshot sees its connection break.
        let shipments = std::mem::take(&mut self.shipments);
        let (lost, left): (VecDeque<Shipment>, _) =
            shipments.into_iter().partition(|s| s.to == id || s.from == id);
        self.shipments = left;
        lost.iter().for_each(|shipment| self.shipment_failed(shipment));
    }

    pub(crate) fn restart(&mut self, id: u64) {
        if self.is_up(id) {
            self.crash(id, false);
        }
        self.start(id);
    }

    pub(crate) fn is_up(&self, id: u64) -> bool {
        self.nodes[&id].raft.is_some()
    }

    pub(crate) fn ids(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    pub(crate) fn node(&self, id: u64) -> &Node {
        &self.nodes[&id]
    }

    pub(crate) fn raft(&self, id: u64) -> &Raft {
        self.nodes[&id].raft.as_ref().unwrap()
    }

    pub(crate) fn raft_mut(&mut self, id: u64) -> &mut Raft {
        self.nodes.get_mut(&id).unwrap().raft.as_mut().unwrap()
    }

    pub(crate) fn status(&self, id: u64) -> Status {
        self.raft(id).status()
    }

    /// Returns the nodes that believe they lead, in the order of their terms.
    pub(crate) fn leaders(&self) -> Vec<u64> {
        let up = self.nodes.iter().filter_map(|(id, node)| Some((*id, node.raft.as_ref()?)));
        let leaders = up.filter(|(_, raft)| raft.role() == Role::Leader);
        let mut leaders: Vec<(Term, u64)> = leaders.map(|(id, raft)| (raft.term(), id)).collect();
        leaders.sort();
        leaders.into_iter().map(|(_, id)| id).collect()
    }

    pub(crate) fn leader(&self) -> Option<u64> {
        self.leaders().last().copied()
    }

    /// Runs a node's turn: takes its effects and checks them.
    pub(crate) fn turn(&mut self, id: u64) {
        loop {
            let Some(raft) = self.nodes.get_mut(&id).unwrap().raft.as_mut() else { return };
            if self.announces {
                raft.announce_commit();
            }
            let effects = raft.effects();
            raft.assert_invariants();
            let again = raft.has_ready();
            let (role, term, commit) = (raft.role(), raft.term(), raft.commit_index());
            self.check_state(id, role, term, commit);
            self.take(id, effects);
            if !again {
                return;
            }
        }
    }

    fn check_state(&mut self, id: u64, role: Role, term: Term, commit: Index) {
        if role == Role::Leader {
            // Election safety (Raft paper, Figure 3).
            let leader = *self.leaders.entry(term).or_insert(NodeId(id));
            assert_eq!(leader, NodeId(id), "two leaders in term {term}");
        }
        let node = self.nodes.get_mut(&id).unwrap();
        assert!(commit >= node.commit_seen, "commit index of {id} went back to {commit}");
        let moved = commit > node.commit_seen;
        node.commit_seen = commit;
        if moved && !self.is_forged {
            let entry_term = self.raft(id).term_at(commit).unwrap();
            // What a disk that was damaged since held then, nobody knows.
            let holders =
                self.nodes.values().filter(|n| n.disk.holds(commit, entry_term) || n.disk.healing);
            let needed = majority(self.nodes.len());
            assert!(holders.count() >= needed, "{id} commits {commit} without a durable majority");
            self.high_commit = self.high_commit.max(commit);
        }
    }

    fn take(&mut self, id: u64, effects: Effects) {
        let node = self.nodes.get_mut(&id).unwrap();
        if let Some(batch) = effects.persist {
            assert!(node.outstanding.is_none(), "two batches outstanding");
            node.outstanding = Some(batch);
        }
        for (to, message) in effects.send {
            check_durable(&node.disk, NodeId(id), to, &message);
            let packet = Packet { from: id, to: to.0, message };
            if let Some(trace) = &mut self.trace {
                trace.push(packet.clone());
            }
            self.wire.push_back(packet);
        }
        if let Some(meta) = effects.install {
            let (held, machine) = node.disk.snapshot.clone().unwrap();
            assert_eq!(held, meta, "installs another snapshot than the one received");
            node.machine = machine;
            node.installs += 1;
        }
        for entry in effects.apply {
            assert_eq!(entry.index.0, node.machine.len() as u64 + 1, "gap in what {id} applies");
            // State machine safety (Raft paper, Figure 3).
            let first = self.committed.entry(entry.index).or_insert_with(|| entry.clone());
            assert_eq!(*first, entry, "{id} applies another entry than was applied elsewhere");
            assert!(node.disk.holds(entry.index, entry.term), "{id} applies what may be lost");
            node.machine.push(entry);
        }
        node.offers.extend(effects.offers);
        node.log_reads.extend(effects.read_log);
        for to in effects.abort_snapshots {
            node.aborted.push(to);
            self.shipments.retain(|shipment| shipment.from != id || shipment.to != to.0);
        }
        for order in effects.send_snapshot {
            self.ship(id, order);
        }
        for ready in effects.reads {
            let floor = self.floors.remove(&ready.token).expect("answered twice, or never asked");
            if let Some(index) = ready.index {
                assert!(index >= floor, "read at {index} misses {floor}, committed before it");
            }
            self.answers.insert(ready.token, ready.index);
        }
    }

    fn ship(&mut self, from: u64, order: SendSnapshot) {
        let snapshot = self.nodes[&from].disk.snapshot.clone();
        let (meta, machine) = snapshot.expect("the log was released without a snapshot");
        assert!(meta.index >= order.index_min, "the snapshot does not reach the log");
        let (to, term) = (order.to.0, order.term);
        self.shipments.push_back(Shipment { from, to, term, meta, machine });
    }

    pub(crate) fn tick(&mut self, id: u64, ticks: u64) {
        for _ in 0..ticks {
            if let Some(raft) = self.nodes.get_mut(&id).unwrap().raft.as_mut() {
                raft.tick(Ticks(1));
            }
            self.turn(id);
        }
    }

    pub(crate) fn tick_all(&mut self, ticks: u64) {
        for _ in 0..ticks {
            self.ids().into_iter().for_each(|id| self.tick(id, 1));
        }
    }

    /// Completes the batch on its way to a node's disk.
    pub(crate) fn persist(&mut self, id: u64) -> bool {
        let node = self.nodes.get_mut(&id).unwrap();
        let Some(batch) = node.outstanding.take() else { return false };
        let seq = batch.seq;
        node.disk.write(batch);
        node.raft.as_mut().unwrap().persisted(seq);
        self.turn(id);
        true
    }

    /// Answers the oldest read of a node's log on disk.
    pub(crate) fn serve_log_read(&mut self, id: u64) -> bool {
        let node = self.nodes.get_mut(&id).unwrap();
        let Some(read) = node.log_reads.pop_front() else { return false };
        let result = if read.from.0 < node.disk.first {
            Err(LogGone { first_index: Index(node.disk.first) })
        } else {
            let mut bytes = 0;
            let wanted = (read.from.0..=read.to.0).map_while(|at| node.disk.get(at).cloned());
            let fits = wanted.take_while(|entry| {
                bytes += entry.weight();
                bytes <= read.bytes_max || entry.index == read.from
            });
            Ok(fits.collect())
        };
        node.raft.as_mut().unwrap().log_read(read.token, result);
        self.turn(id);
        true
    }

    /// Delivers the packet at `position`, unless its link or its receiver is down.
    pub(crate) fn deliver(&mut self, position: usize) {
        let Some(packet) = self.wire.remove(position) else { return };
        self.inject(packet.from, packet.to, packet.message);
    }

    /// Lets a node hear a message.
    pub(crate) fn inject(&mut self, from: u64, to: u64, message: Message) {
        if self.cut.contains(&(from, to)) || !self.is_up(to) {
            return;
        }
        self.raft_mut(to).step(NodeId(from), message);
        self.turn(to);
    }

    /// Delivers the oldest snapshot on its way, offer first.
    pub(crate) fn deliver_shipment(&mut self) -> bool {
        let Some(shipment) = self.shipments.pop_front() else { return false };
        let Shipment { from, to, term, meta, machine } = shipment.clone();
        if self.cut.contains(&(from, to)) || !self.is_up(to) {
            self.shipment_failed(&shipment);
            return true;
        }
        self.nodes.get_mut(&to).unwrap().offers.clear();
        self.inject(from, to, Message::InstallSnapshot { term, meta: meta.clone() });
        while self.node(to).offers.is_empty() && self.persist(to) {}
        let offer = self.nodes.get_mut(&to).unwrap().offers.pop();
        match offer {
            Some((_, _, Offer::Wanted)) => {
                self.receive_snapshot(from, to, &meta, machine);
                self.shipment_ended(&shipment, true);
            }
            Some((_, _, Offer::Held)) => self.shipment_ended(&shipment, true),
            Some((_, _, Offer::Stale(_))) | None => self.shipment_failed(&shipment),
        }
        true
    }

    /// Puts a snapshot into a node's hands: the file is durable, then the core hears of it.
    pub(crate) fn receive_snapshot(
        &mut self,
        from: u64,
        to: u64,
        meta: &SnapshotMeta,
        machine: Vec<Entry>,
    ) {
        let disk = &mut self.nodes.get_mut(&to).unwrap().disk;
        if disk.snapshot.as_ref().is_none_or(|(held, _)| held.index < meta.index) {
            disk.snapshot = Some((meta.clone(), machine));
        }
        self.raft_mut(to).snapshot_received(NodeId(from), meta);
        self.turn(to);
    }

    pub(crate) fn shipment_failed(&mut self, shipment: &Shipment) {
        self.shipment_ended(shipment, false);
    }

    fn shipment_ended(&mut self, shipment: &Shipment, well: bool) {
        if !self.is_up(shipment.from) {
            return;
        }
        let failed = Err(raftq::raft::core::SendError);
        let outcome = if well { Ok(shipment.meta.index) } else { failed };
        self.raft_mut(shipment.from).snapshot_sent(NodeId(shipment.to), outcome);
        self.turn(shipment.from);
    }

    /// Snapshots a node's machine as it is and releases its log but for the last `keep` entries.
    pub(crate) fn compact(&mut self, id: u64, keep: u64) {
        let node = self.nodes.get_mut(&id).unwrap();
        let raft = node.raft.as_mut().unwrap();
        let Some(meta) = raft.snapshot_meta(raft.applied_index()) else { return };
        if node.disk.snapshot.as_ref().is_none_or(|(held, _)| held.index < meta.index) {
            node.disk.snapshot = Some((meta.clone(), node.machine.clone()));
        }
        raft.snapshot_written(&meta);
        let first = (meta.index.0 + 1).saturating_sub(keep).max(node.disk.first);
        if first <= node.disk.last() + 1 {
            let gone = usize::try_from(first - node.disk.first).unwrap();
            node.disk.entries.drain(..gone);
            node.disk.first = first;
            raft.log_released(Index(first));
        }
        self.turn(id);
    }

    /// Delivers, syncs and reads until nothing is left to do; no time passes.
    pub(crate) fn settle(&mut self) {
        for _ in 0..100_000 {
            let mut busy = false;
            for id in self.ids() {
                busy |= self.is_up(id) && self.persist(id);
                busy |= self.is_up(id) && self.serve_log_read(id);
            }
            if !self.wire.is_empty() {
                self.deliver(0);
                busy = true;
            }
            busy |= self.deliver_shipment();
            if !busy {
                return;
            }
        }
        panic!("the cluster does not come to rest");
    }

    /// Delivers, and syncs at `id`, until something has happened.
    pub(crate) fn talk_until(&mut self, id: u64, happened: impl Fn(&Self) -> bool) {
        for _ in 0..1_000 {
            if happened(self) {
                return;
            }
            self.deliver(0);
            while self.persist(id) {}
        }
        panic!("it does not happen");
    }

    /// Makes a node leader: everybody forgets the former leader, then it campaigns.
    pub(crate) fn elect(&mut self, id: u64) {
        for _ in 0..16 {
            for other in self.ids() {
                if self.is_up(other) && self.raft(other).role() != Role::Leader {
                    self.tick(other, 1);
                }
            }
        }
        self.raft_mut(id).campaign();
        self.turn(id);
        self.settle();
        assert_eq!(self.leader(), Some(id), "node {id} was not elected");
    }

    /// Proposes one command, whatever comes of it.
    pub(crate) fn propose(&mut self, id: u64, text: &str) -> Option<Index> {
        let data = vec![Bytes::from(text.to_owned())];
        let index = self.raft_mut(id).propose(EntryKind::Command, data).ok();
        self.turn(id);
        index
    }

    /// Proposes `count` commands, one after the other.
    pub(crate) fn propose_many(&mut self, id: u64, count: u64) {
        for at in 0..count {
            let taken = self.propose(id, &format!("command {at}"));
            assert!(taken.is_some(), "{id} takes no proposal");
        }
    }

    /// Reads at a node; the answer comes into `answers`.
    pub(crate) fn read(&mut self, id: u64) -> u64 {
        self.tokens += 1;
        let token = self.tokens;
        self.floors.insert(token, self.high_commit);
        self.raft_mut(id).read(token);
        self.turn(id);
        token
    }

    /// Takes all messages that a node has sent and nobody has received.
    pub(crate) fn take_sent(&mut self, from: u64) -> Vec<(u64, Message)> {
        let wire = std::mem::take(&mut self.wire);
        let (sent, left): (VecDeque<Packet>, _) = wire.into_iter().partition(|p| p.from == from);
        self.wire = left;
        sent.into_iter().map(|packet| (packet.to, packet.message)).collect()
    }

    /// Loses all messages under way.
    pub(crate) fn lose_wire(&mut self) {
        self.wire.clear();
    }

    /// Cuts a node off from all others.
    pub(crate) fn cut_off(&mut self, id: u64) {
        for other in self.ids() {
            self.cut.insert((id, other));
            self.cut.insert((other, id));
        }
    }

    /// Returns the log of a node as terms, from its first entry on disk.
    pub(crate) fn terms(&self, id: u64) -> Vec<u64> {
        let raft = self.raft(id);
        let status = raft.status();
        let indexes = status.first_index.0..=status.last_index.0;
        indexes.map(|index| raft.term_at(Index(index)).unwrap().0).collect()
    }

    /// Makes a cluster whose logs are given as terms; all of it durable, none of it committed.
    pub(crate) fn with_logs(logs: &[&[u64]], terms: &[u64]) -> Self {
        Self::new(logs.len() as u64).holding(logs, terms)
    }

    /// Replaces all logs by such.
    pub(crate) fn holding(self, logs: &[&[u64]], terms: &[u64]) -> Self {
        let mut world = self;
        for (at, (log, term)) in logs.iter().zip(terms).enumerate() {
            let id = at as u64 + 1;
            world.crash(id, false);
            let disk = &mut world.nodes.get_mut(&id).unwrap().disk;
            disk.hard = HardState { term: Term(*term), vote: None };
            disk.entries = (1..).zip(*log).map(|(i, term)| entry(i, *term)).collect();
            world.start(id);
        }
        world
    }
}

/// Builds an `AppendEntries` of `terms` after `(prev_index, prev_term)`.
pub(crate) fn append(term: u64, prev: (u64, u64), terms: &[u64], commit: u64) -> Message {
    Message::AppendEntries {
        term: Term(term),
        prev_index: Index(prev.0),
        prev_term: Term(prev.1),
        entries: (prev.0 + 1..).zip(terms).map(|(index, term)| entry(index, *term)).collect(),
        commit_index: Index(commit),
        session: 1,
        round: 0,
    }
}

/// Builds a `RequestVote` of a candidate whose log ends at `last`.
pub(crate) fn vote(term: u64, last: (u64, u64)) -> Message {
    let (last_index, last_term) = (Index(last.0), Term(last.1));
    Message::Vote { term: Term(term), last_index, last_term, transfer: false }
}

/// Builds the pre-vote of such a candidate.
pub(crate) fn pre_vote(term: u64, last: (u64, u64)) -> Message {
    Message::PreVote { term: Term(term), last_index: Index(last.0), last_term: Term(last.1) }
}

/// Builds the answer to a vote.
pub(crate) fn vote_reply(term: u64, granted: bool) -> Message {
    Message::VoteReply { term: Term(term), granted }
}

/// Returns what the append replies among messages say they hold.
pub(crate) fn matches(sent: &[(u64, Message)]) -> Vec<u64> {
    let accepted = sent.iter().filter_map(|(_, message)| match message {
        Message::AppendReply { outcome: AppendOutcome::Accepted { match_index }, .. } => {
            Some(match_index.0)
        }
        _ => None,
    });
    accepted.collect()
}

pub(crate) fn entry(index: u64, term: u64) -> Entry {
    let data = Bytes::from(format!("{term}/{index}"));
    Entry { index: Index(index), term: Term(term), kind: EntryKind::Command, data }
}

/// Checks that a message speaks of nothing that a crash of its sender could undo.
fn check_durable(disk: &Disk, from: NodeId, to: NodeId, message: &Message) {
    let hard = disk.hard;
    match message {
        Message::PreVote { term, .. } => assert!(*term <= hard.term.next()),
        Message::PreVoteReply { granted: true, .. } => {}
        other => assert!(other.term() <= hard.term, "{from} says {other:?}, durable: {hard:?}"),
    }
    match message {
        Message::Vote { term, .. } => assert_eq!(hard, HardState { term: *term, vote: Some(from) }),
        Message::VoteReply { term, granted: true } => {
            assert_eq!(hard, HardState { term: *term, vote: Some(to) });
        }
        Message::AppendReply { outcome: AppendOutcome::Accepted { match_index }, .. } => {
            let covered = disk.snapshot.as_ref().map_or(0, |(meta, _)| meta.index.0);
            assert!(match_index.0 <= disk.last().max(covered), "{from} claims {match_index}");
        }
        _ => {}
    }
}

//! The Raft core itself: messages, ticks and proposals in, [`Effects`] out.
//!
//! This file holds the state, the ways in and the way out; what happens in between is in the files
//! named for it: `election`, `follower`, `replication`, `durability`, `read`, `transfer`, `healing`.

use std::collections::BTreeMap;
use std::mem;

use bytes::Bytes;

use crate::planted::{Bug, is_planted};
use crate::raft::apply::Applying;
use crate::raft::configuration::{self, Configurations};
use crate::raft::dice::Dice;
use crate::raft::durability::{Disk, Held};
use crate::raft::effects::Effects;
use crate::raft::follower::Following;
use crate::raft::healing::Healing;
use crate::raft::log::Log;
use crate::raft::message::{Configuration, Entry, EntryKind, HardState, Message, SnapshotMeta};
use crate::raft::peer::Peer;
use crate::raft::read::Reads;
use crate::raft::replication::{Leading, Reply};
use crate::types::{ClusterId, Index, NodeId, Term, Ticks};

// The words of the core's own methods, so that its callers find them where they call.
pub use crate::raft::config::{Boot, Config, PEER_NUMBER_MAX, TICK_ELAPSED_MAX};
pub use crate::raft::status::{
    HealingStatus, LogGone, PeerState, PeerStatus, ProposeError, Role, SendError, Status,
    TransferError,
};

/// The largest number that a start's questions to the leader may begin with.
const QUESTION_FIRST_MAX: u64 = 1 << 62;

/// One member of one Raft group. It does nothing by itself: each call may change what the next
/// [`Raft::effects`] asks of the world.
///
/// - `applied_index <= commit_index <= last_index`; none of the first two ever falls.
/// - What is applied is durable here.
/// - No message leaves that speaks of a term, a vote or an entry that is not durable here, but the
///   entries a leader sends beside its own write.
/// - At most one batch is on its way to the disk.
#[derive(Clone, Debug)]
pub struct Raft {
    pub(super) config: Config,
    /// False: this node is not in the configuration and only listens.
    pub(super) is_voter: bool,
    pub(super) dice: Dice,
    /// Ticks since the start, not counting those that passed while this node itself stood still.
    pub(super) now: u64,
    pub(super) role: Role,
    pub(super) hard: HardState,
    pub(super) leader: Option<NodeId>,
    /// When the leader was last heard.
    pub(super) leader_seen: u64,
    pub(super) election_deadline: u64,
    /// The answers to this (pre-)candidate, its own among them.
    pub(super) votes: BTreeMap<NodeId, bool>,
    pub(super) log: Log,
    pub(super) configurations: Configurations,
    pub(super) commit_index: Index,
    pub(super) applied_index: Index,
    pub(super) snapshot_index: Index,
    pub(super) disk: Disk,
    pub(super) held: Vec<Held>,
    pub(super) following: Following,
    pub(super) peers: Vec<Peer>,
    pub(super) leading: Leading,
    pub(super) reads: Reads,
    pub(super) applying: Applying,
    /// `None`: this node is whole.
    pub(super) healing: Option<Healing>,
    /// The last number given to a read, a question or a session.
    pub(super) numbers: u64,
    pub(super) refused_messages: u64,
    /// What the next call of `effects` hands out.
    pub(super) out: Effects,
}

impl Raft {
    /// Starts a node from what storage found. The `seed` decides its election timeouts and must be
    /// another one at each start: nodes with equal timeouts split every vote.
    ///
    /// # Panics
    /// If what storage found contradicts itself: a node that cannot trust its log must not vote.
    #[must_use]
    pub fn new(config: Config, boot: Boot, seed: u64) -> Self {
        let log = Log::new(&boot);
        let configurations = boot_configurations(&boot);
        let snapshot_index = boot.snapshot.as_ref().map_or(Index(0), |meta| meta.index);
        assert!(
            boot.applied_index >= snapshot_index,
            "the machine holds the entries up to {}, but its snapshot claims those up to \
             {snapshot_index}",
            boot.applied_index
        );
        assert!(boot.hard_state.term >= log.last_term(), "an entry of a term that was not kept");
        let mut dice = Dice::new(seed);
        let hint = boot.commit_index.min(log.last_index());
        let voters = &configurations.in_force().voters;
        let others = voters.iter().map(|voter| voter.id).filter(|id| *id != config.id);
        let mut raft = Self {
            is_voter: voters.iter().any(|voter| voter.id == config.id),
            now: 0,
            role: Role::Follower,
            hard: boot.hard_state,
            leader: None,
            leader_seen: 0,
            election_deadline: 0,
            votes: BTreeMap::new(),
            commit_index: hint.max(boot.applied_index),
            applied_index: boot.applied_index,
            snapshot_index,
            disk: Disk::new(boot.hard_state, log.last_index()),
            held: Vec::new(),
            following: Following::default(),
            peers: others.map(Peer::new).collect(),
            leading: Leading::default(),
            reads: Reads::new(dice.between(0, QUESTION_FIRST_MAX)),
            healing: boot.healing.then(|| Healing::new(dice.between(0, QUESTION_FIRST_MAX))),
            dice,
            applying: Applying::default(),
            numbers: 0,
            refused_messages: 0,
            out: Effects::default(),
            config,
            log,
            configurations,
        };
        if let Some(meta) = &boot.snapshot {
            raft.reconcile(meta);
        }
        raft.reset_election_timer();
        raft.assert_invariants();
        raft
    }

    /// Puts a snapshot that was installed just before the last stop in the place of a log that does
    /// not continue it (Raft paper, Figure 13, rule 7).
    fn reconcile(&mut self, meta: &SnapshotMeta) {
        let continues = match self.log.term_at(meta.index) {
            Some(term) => term == meta.term,
            None => false,
        };
        if !continues {
            assert_eq!(
                self.applied_index, meta.index,
                "the machine holds entries of a log that does not continue its snapshot"
            );
            self.reset_log(meta);
        }
    }

    /// Lets time pass: `elapsed` since the last call, of which at most [`TICK_ELAPSED_MAX`] count.
    pub fn tick(&mut self, elapsed: Ticks) {
        self.now += elapsed.0.min(TICK_ELAPSED_MAX);
        match self.role {
            Role::Leader => self.tick_leader(),
            Role::Follower | Role::PreCandidate | Role::Candidate => self.tick_election(),
        }
        self.tick_healing();
        self.tick_reads();
    }

    /// Takes a message of another node. One that makes no sense, or comes from nobody in the
    /// configuration, is ignored and counted.
    pub fn step(&mut self, from: NodeId, message: Message) {
        if self.peer(from).is_none() || message.term().0 > PEER_NUMBER_MAX {
            self.refuse();
            return;
        }
        match message {
            Message::PreVote { term, last_index, last_term } => {
                self.on_pre_vote(from, term, last_index, last_term);
            }
            Message::PreVoteReply { term, granted } => self.on_pre_vote_reply(from, term, granted),
            Message::Vote { term, last_index, last_term, transfer } => {
                self.on_vote(from, term, last_index, last_term, transfer);
            }
            Message::VoteReply { term, granted } => self.on_vote_reply(from, term, granted),
            Message::AppendEntries {
                term,
                prev_index,
                prev_term,
                entries,
                commit_index,
                session,
                round,
            } => {
                let append = crate::raft::follower::Append {
                    term,
                    prev_index,
                    prev_term,
                    entries,
                    commit_index,
                    session,
                    round,
                };
                self.on_append(from, append);
            }
            Message::AppendReply { term, outcome, session, round, healing } => {
                let reply = Reply { term, outcome, session, round, healing };
                self.on_append_reply(from, reply);
            }
            Message::InstallSnapshot { term, meta } => self.on_offer(from, term, &meta),
            Message::TimeoutNow { term } => self.on_timeout_now(from, term),
            Message::ReadIndex { term, token, healing: false } => {
                self.on_read_index(from, term, token);
            }
            Message::ReadIndex { term, token, healing: true } => {
                self.on_healing_question(from, term, token);
            }
            Message::ReadIndexReply { term, token, index } => {
                self.on_read_index_reply(from, term, token, index);
            }
        }
    }

    /// Appends entries of this leader, all or none, and returns the index of the first; the rest
    /// follow it. They are of the term that [`Raft::term`] says now: an entry of another term found
    /// at such an index later is another entry.
    ///
    /// # Errors
    /// [`ProposeError`] when nothing was appended.
    ///
    /// # Panics
    /// If there is no data, or a configuration among it is broken: the caller made it.
    pub fn propose(&mut self, kind: EntryKind, data: Vec<Bytes>) -> Result<Index, ProposeError> {
        assert!(!data.is_empty(), "a proposal without entries");
        self.may_propose(&data)?;
        let first = self.log.last_index().next();
        self.log.reserve(data.len());
        for data in data {
            self.append_own(kind, data);
        }
        Ok(first)
    }

    /// Takes what has come together since the last call: hand it to the world in the order of its
    /// fields. To be called after each turn.
    pub fn effects(&mut self) -> Effects {
        self.hand_out_committed();
        self.trim_window();
        self.effects_unapplied()
    }

    /// Takes the same without a further entry to apply, for a second look within one turn: what a turn
    /// may apply is bounded, and the first look has spent it.
    pub fn effects_unapplied(&mut self) -> Effects {
        self.issue_reads();
        if self.role == Role::Leader {
            self.answer_witnesses();
            self.replicate();
        }
        self.acknowledge();
        self.write_batch();
        mem::take(&mut self.out)
    }

    /// Tells whether more entries can be applied at once: call [`Raft::effects`] again, without
    /// waiting for anything.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        self.applied_index < self.applicable() && self.next_to_apply().is_some()
    }

    /// Tells whether a leader has room for more submits. An eighth of the bound at which
    /// [`Raft::propose`] refuses is left to what empties the queue: reports, registrations, verdicts.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let most = |bound: usize| bound - bound / 8;
        self.uncommitted_entries() < most(self.config.uncommitted_entries_max)
            && self.leading.uncommitted_bytes < most(self.config.uncommitted_bytes_max)
    }

    /// Returns everything about this node that others may know.
    #[must_use]
    pub fn status(&self) -> Status {
        let peers = self.peers.iter();
        Status {
            id: self.config.id,
            role: self.role,
            term: self.hard.term,
            vote: self.hard.vote,
            leader: self.leader,
            commit_index: self.commit_index,
            applied_index: self.applied_index,
            durable_index: self.disk.durable_index(),
            last_index: self.log.last_index(),
            first_index: self.log.first_index(),
            window_first_index: self.log.window_first(),
            window_entries: self.log.window_entries(),
            window_bytes: self.log.window_bytes(),
            snapshot_index: self.snapshot_index,
            uncommitted_entries: self.uncommitted_entries(),
            uncommitted_bytes: self.leading.uncommitted_bytes,
            transferring: self.leading.transfer.map(|transfer| transfer.to),
            own_term_committed: self.own_term_committed(),
            refused_messages: self.refused_messages,
            healing: self.healing(),
            peers: peers.map(|peer| peer.status(self.now, self.config.liveness_ticks)).collect(),
        }
    }

    /// Returns this node's id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.config.id
    }

    /// Returns what this node is.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// Returns the latest term this node has seen.
    #[must_use]
    pub fn term(&self) -> Term {
        self.hard.term
    }

    /// Returns who leads in this term, as far as known; this node itself if it does.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// Returns the last entry known to be committed.
    #[must_use]
    pub fn commit_index(&self) -> Index {
        self.commit_index
    }

    /// Returns the last entry that was handed out to be applied.
    #[must_use]
    pub fn applied_index(&self) -> Index {
        self.applied_index
    }

    /// Returns the last entry.
    #[must_use]
    pub fn last_index(&self) -> Index {
        self.log.last_index()
    }

    /// Returns the last entry that is durable here.
    #[must_use]
    pub fn durable_index(&self) -> Index {
        self.disk.durable_index()
    }

    /// Tells whether this node leads and has committed an entry of its own term: only then does it
    /// know all that is committed (Ongaro thesis §6.4).
    #[must_use]
    pub fn own_term_committed(&self) -> bool {
        self.role == Role::Leader && self.commit_index >= self.leading.first_index
    }

    /// Tells whether this node leads and has handed out the first entry of its own term to be applied: what
    /// former leaders decided is in the machine then.
    #[must_use]
    pub fn own_term_applied(&self) -> bool {
        self.role == Role::Leader && self.applied_index >= self.leading.first_index
    }

    /// Returns the configuration in force: the newest one in the log, committed or not.
    #[must_use]
    pub fn configuration(&self) -> &Configuration {
        self.configurations.in_force()
    }

    /// Returns the newest configuration that is committed.
    ///
    /// # Panics
    /// Never: what is kept begins below the commit index.
    #[must_use]
    pub fn committed_configuration(&self) -> &Configuration {
        self.configurations.at(self.commit_index).expect("the first one kept is committed")
    }

    /// Returns the configuration that was in force at `index`; `None` if that is compacted away.
    #[must_use]
    pub fn configuration_at(&self, index: Index) -> Option<&Configuration> {
        self.configurations.at(index)
    }

    /// Returns the term of an entry; `None` if it is not in the log (any more).
    #[must_use]
    pub fn term_at(&self, index: Index) -> Option<Term> {
        self.log.term_at(index)
    }

    /// Returns the entries `from ..= to` as far as they weigh `bytes_max`, but at least one; `None`
    /// if the first is not in memory.
    #[must_use]
    pub fn entries(&self, from: Index, to: Index, bytes_max: usize) -> Option<Vec<Entry>> {
        self.log.slice(from, to, bytes_max)
    }

    /// Returns what an image of the machine at `index` stands for, `index` being applied; `None` if
    /// it is not, or if the log begins after it.
    #[must_use]
    pub fn snapshot_meta(&self, index: Index) -> Option<SnapshotMeta> {
        if index > self.applied_index || index == Index(0) {
            return None;
        }
        let known = self.log.term_at(index)?;
        let term = if is_planted(Bug::SnapshotWithoutTerm) { Term(0) } else { known };
        let configuration = self.configurations.at(index)?.clone();
        Some(SnapshotMeta { index, term, configuration })
    }

    /// Checks what must hold between two turns; cheap enough to be called after each.
    ///
    /// # Panics
    /// If something does not hold: the node must stop before it does harm.
    pub fn assert_invariants(&self) {
        let last_index = self.log.last_index();
        assert!(self.applied_index <= self.commit_index, "applied what is not committed");
        assert!(self.commit_index <= last_index, "committed what is not in the log");
        assert!(self.log.first_index() <= self.applied_index.next(), "compacted what is unapplied");
        assert!(self.snapshot_index <= self.applied_index, "a snapshot of what is unapplied");
        assert!(self.hard.term >= self.log.last_term(), "an entry of a later term");
        self.log.assert_invariants();
        self.disk.assert_invariants(self.hard, last_index);
        assert_eq!(self.role == Role::Leader, self.leader == Some(self.config.id), "who leads?");
        if self.is_healing() {
            assert_eq!(self.role, Role::Follower, "a healing node that does not just follow");
        }
        if self.role == Role::Leader {
            assert!(self.is_hard_durable(), "a leader whose vote for itself is not durable");
            for peer in &self.peers {
                peer.assert_invariants(last_index);
            }
        }
    }

    /// Counts a message that makes no sense.
    pub(super) fn refuse(&mut self) {
        self.refused_messages += 1;
    }

    pub(super) fn peer(&self, id: NodeId) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.id == id)
    }

    pub(super) fn peer_mut(&mut self, id: NodeId) -> Option<&mut Peer> {
        self.peers.iter_mut().find(|peer| peer.id == id)
    }

    /// Returns a number that this node has not given to anything since its start.
    pub(super) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Appends an entry to the log in memory; a configuration in it is in force from here on.
    ///
    /// # Panics
    /// If it is a configuration entry that is broken. It came from a leader through a verified
    /// stream or from this node itself: some node writes what this version cannot live by.
    pub(super) fn append(&mut self, entry: Entry) {
        self.take_configuration(&entry);
        self.log.append(entry);
    }

    /// Appends entries that follow the last, in the same way.
    pub(super) fn extend(&mut self, entries: Vec<Entry>) {
        entries.iter().for_each(|entry| self.take_configuration(entry));
        self.log.extend(entries);
    }

    fn take_configuration(&mut self, entry: &Entry) {
        match entry.kind {
            EntryKind::Noop | EntryKind::Command => {}
            EntryKind::Configuration => match configuration::decode(&entry.data) {
                Ok(configuration) => self.configurations.append(entry.index, configuration),
                Err(error) => panic!("configuration entry {}: {error}", entry.index),
            },
        }
    }

    /// Moves the commit index forward; a lower one changes nothing.
    pub(super) fn commit_to(&mut self, index: Index) {
        assert!(index <= self.log.last_index(), "commit {index} beyond the log");
        if index > self.commit_index {
            self.note_committed(index);
            self.commit_index = index;
        }
    }
}

/// Finds the configuration in force at the end of the log, and those before it. What is in the log
/// counts from its append on, so that the search goes to the log's end, not to the applied index.
fn boot_configurations(boot: &Boot) -> Configurations {
    let mut configurations = match &boot.snapshot {
        Some(meta) => Configurations::new(meta.index, meta.configuration.clone()),
        None => Configurations::new(Index(0), bootstrap(boot)),
    };
    let reach = boot.snapshot.as_ref().map_or(Index(0), |meta| meta.index);
    for (index, configuration) in &boot.configurations {
        if *index > reach {
            configurations.append(*index, configuration.clone());
        }
    }
    configurations
}

/// Returns the configuration before any that was logged: the command line's, or, if that names
/// other voters than the log does, the log's voters with nothing known about them.
fn bootstrap(boot: &Boot) -> Configuration {
    match boot.configurations.first() {
        Some((_, logged)) if !configuration::same_voters(logged, &boot.configuration) => {
            let mut voters = logged.voters.clone();
            voters.iter_mut().for_each(|voter| voter.dir = None);
            Configuration { cluster: ClusterId::default(), voters }
        }
        Some(_) | None => boot.configuration.clone(),
    }
}

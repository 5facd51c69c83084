//! The lanes from the sessions into the Raft thread, each with its bound and its priority.

use std::fmt::Debug;
use std::sync::{Arc, OnceLock};

use async_std::channel;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::jobs::job::NewJob;
use crate::jobs::machine::Machine;
use crate::raft::effects::Offer;
use crate::raft::message::SnapshotMeta;
use crate::replica::view::Answer;
use crate::types::{DirId, Incarnation, Index, NodeId, Term, Ticks, WorkerId};
use crate::wire::message::Request;
use crate::wire::peer::PeerMessage;

/// Submits that wait for the Raft thread. Full: `RESOURCE_EXHAUSTED` at once
/// (specification, "Proposal backpressure").
pub const PROPOSALS_MAX: usize = 256;

/// Reports and heartbeats of workers that wait. Full: `RESOURCE_EXHAUSTED`; they have a lane of
/// their own, so that submits never crowd them out.
pub const REPORTS_MAX: usize = 1024;

/// Cancels and hand-overs that wait. Full: `RESOURCE_EXHAUSTED`. They have a lane of their own, taken before
/// that of the submits: whoever makes room in an overloaded cluster, or moves its leader, must not wait
/// behind those who fill it.
pub const CONTROLS_MAX: usize = 256;

/// Reads and waits that wait for the Raft thread. Full: `RESOURCE_EXHAUSTED`.
pub const READS_MAX: usize = 1024;

/// Messages of peers that wait. Full: dropped, since Raft tolerates loss.
pub const PEER_MESSAGES_MAX: usize = 4096;

/// Submits of one connection that share one place in the proposal lane, at most.
pub const SUBMITS_SHARED_MAX: usize = 256;

/// Bytes of such submits, at most (one more may be added to an empty place).
pub const SUBMITS_SHARED_BYTES_MAX: usize = 1 << 20;

/// Answers of one turn that may go the short way, at most. More are written by the sessions, beside the Raft thread:
/// to wake them costs little for each.
const ANSWERS_DIRECT_MAX: usize = 32;

/// Connections that the Raft thread writes to in one turn, at most, for the same reason.
const CONNECTIONS_DIRECT_MAX: usize = 4;

/// Where an answer goes: one request of one connection. Answering never waits: the channel has no bound,
/// the session counts what may still come through it before it takes a request. If the session is gone,
/// the answer falls to the ground.
#[derive(Clone, Debug)]
pub struct ReplyTo {
    /// The connection.
    back: Arc<Back>,
    /// The request's number on its connection.
    pub corr: u32,
}

/// The ways back to one connection.
#[derive(Debug)]
pub struct Back {
    /// The session's channel.
    pub session: channel::Sender<(u32, Answer)>,
    /// The short way, if there is one.
    pub direct: Option<Arc<dyn ShortWay>>,
}

/// A way for answers to leave without their session.
pub trait ShortWay: Debug + Send + Sync {
    /// Answers requests of one connection at once, without waiting; returns whether it did: all of them or none.
    fn write(&self, answers: &[(ReplyTo, Answer)]) -> bool;
}

impl ReplyTo {
    /// Answers to one request go back by one channel.
    #[must_use]
    pub fn by(session: channel::Sender<(u32, Answer)>, corr: u32) -> Self {
        Self::new(Arc::new(Back { session, direct: None }), corr)
    }

    /// Answers to one request go back by the ways of its connection.
    #[must_use]
    pub fn new(back: Arc<Back>, corr: u32) -> Self {
        Self { back, corr }
    }

    /// Hands the answer to the session, or drops it with the session.
    pub fn answer(self, answer: Answer) {
        if let Err(refused) = self.back.session.try_send((self.corr, answer)) {
            log::debug!("an answer found no session: {}", refused.is_closed());
        }
    }

    /// Hands over the answers of one turn. A few go the short way.
    pub fn answer_all(answers: Vec<(Self, Answer)>) {
        let are_few = answers.len() <= ANSWERS_DIRECT_MAX;
        let mut ways_left = if are_few { CONNECTIONS_DIRECT_MAX } else { 0 };
        let mut answers = answers.into_iter();
        while let Some((first, _)) = answers.as_slice().first() {
            let back = &first.back;
            let is_same = |(to, _): &&(Self, Answer)| Arc::ptr_eq(&to.back, back);
            let count = answers.as_slice().iter().take_while(is_same).count();
            let of_one = answers.as_slice().get(..count).unwrap_or_default();
            let mut is_written = false;
            if let Some(way) = back.direct.as_ref().filter(|_| ways_left > 0) {
                ways_left -= 1;
                is_written = way.write(of_one);
            }
            for (to, answer) in answers.by_ref().take(count) {
                if !is_written {
                    to.answer(answer);
                }
            }
        }
    }
}

/// Something asked of the Raft thread by a session.
#[derive(Debug)]
pub enum Ask {
    /// One request.
    Request {
        /// What.
        request: Request,
        /// Who waits.
        reply: ReplyTo,
        /// When its frame arrived, on the node's monotonic clock.
        arrived: Ticks,
    },
    /// Submits read together from one connection.
    Submits {
        /// Each with its waiter; at most [`SUBMITS_SHARED_MAX`] and [`SUBMITS_SHARED_BYTES_MAX`].
        jobs: Vec<(NewJob, ReplyTo)>,
        /// When their frames arrived.
        arrived: Ticks,
    },
    /// The worker built into this node begins a new start: from now on the replica tells it of its
    /// jobs ([`crate::replica::view::Notice`]).
    LocalWorker {
        /// Its name.
        worker: WorkerId,
        /// The new start.
        incarnation: Incarnation,
    },
    /// The local view, for text mode and metrics; answered by [`Answer::Look`].
    Look {
        /// Who waits.
        reply: ReplyTo,
    },
}

/// Something the links to the other nodes have to say.
#[derive(Debug)]
pub enum PeerEvent {
    /// A message of a peer whose handshake was accepted.
    Message {
        /// Who.
        from: NodeId,
        /// Its data directory, from the handshake.
        dir: DirId,
        /// What.
        message: PeerMessage,
    },
    /// The link to a peer broke.
    Lost(NodeId),
    /// The bulk lane: a peer offers a snapshot.
    Offered {
        /// Who.
        from: NodeId,
        /// Its data directory, from the handshake.
        dir: DirId,
        /// Its term.
        term: Term,
        /// What.
        meta: SnapshotMeta,
        /// Where the verdict goes.
        verdict: channel::Sender<Offer>,
    },
    /// A snapshot of a peer is whole, checked, durable and decoded here.
    Received {
        /// Who sent it.
        from: NodeId,
        /// What.
        meta: SnapshotMeta,
        /// Its file's bytes.
        bytes: u64,
        /// The queue it holds.
        machine: Box<Machine>,
    },
    /// Our sending of a snapshot to a peer ended.
    Sent {
        /// To whom.
        to: NodeId,
        /// The snapshot's index, or why it failed (`None`: broken off on request).
        outcome: Result<Index, Option<String>>,
    },
}

/// The sessions' ends of the lanes.
#[derive(Clone, Debug)]
pub struct Inbox {
    proposals: Sender<Ask>,
    reports: Sender<Ask>,
    controls: Sender<Ask>,
    reads: Sender<Ask>,
    peers: Sender<PeerEvent>,
    events: Sender<PeerEvent>,
    attendant: Arc<OnceLock<Box<dyn Attendant>>>,
}

/// Stands in for the Raft thread while that has nothing to do, on the thread of whoever has something for it: to wake
/// the Raft thread costs more than most turns. It never waits, and gives back what is the Raft thread's after all.
pub trait Attendant: Debug + Send + Sync {
    /// Takes a message of a peer; `None`: it is seen to.
    fn peer(&self, event: PeerEvent) -> Option<PeerEvent>;

    /// Takes an ask; `None`: it is seen to, and its answer may be on its way already.
    fn ask(&self, ask: Ask) -> Option<Ask>;
}

/// The Raft thread's ends of the lanes, in the order in which it empties them.
#[derive(Clone, Debug)]
pub struct Outlets {
    /// Peer events that must not be lost: offers, received snapshots, ends of transfers, broken links.
    pub events: Receiver<PeerEvent>,
    /// Messages of peers.
    pub peers: Receiver<PeerEvent>,
    /// Reports and heartbeats.
    pub reports: Receiver<Ask>,
    /// Reads.
    pub reads: Receiver<Ask>,
    /// Cancels and hand-overs.
    pub controls: Receiver<Ask>,
    /// Submits.
    pub proposals: Receiver<Ask>,
}

impl Outlets {
    /// Tells whether nothing waits in any lane.
    #[must_use]
    pub fn are_empty(&self) -> bool {
        let Self { events, peers, reports, reads, controls, proposals } = self;
        let (of_peers, asks) = ([events, peers], [reports, reads, controls, proposals]);
        of_peers.iter().all(|lane| lane.is_empty()) && asks.iter().all(|lane| lane.is_empty())
    }
}

/// Makes the lanes.
#[must_use]
pub fn lanes() -> (Inbox, Outlets) {
    let (proposals, proposals_out) = bounded(PROPOSALS_MAX);
    let (reports, reports_out) = bounded(REPORTS_MAX);
    let (controls, controls_out) = bounded(CONTROLS_MAX);
    let (reads, reads_out) = bounded(READS_MAX);
    let (peers, peers_out) = bounded(PEER_MESSAGES_MAX);
    let (events, events_out) = bounded(PEER_MESSAGES_MAX);
    (
        Inbox { proposals, reports, controls, reads, peers, events, attendant: Arc::default() },
        Outlets {
            events: events_out,
            peers: peers_out,
            reports: reports_out,
            reads: reads_out,
            controls: controls_out,
            proposals: proposals_out,
        },
    )
}

/// The lane was full, or the Raft thread is gone; the ask comes back.
#[derive(Debug)]
pub enum NotTaken {
    /// Answer `RESOURCE_EXHAUSTED`.
    Full(Ask),
    /// Answer `UNAVAILABLE`: the node is stopping.
    Stopped(Ask),
}

impl From<TrySendError<Ask>> for NotTaken {
    fn from(error: TrySendError<Ask>) -> Self {
        match error {
            TrySendError::Full(ask) => Self::Full(ask),
            TrySendError::Disconnected(ask) => Self::Stopped(ask),
        }
    }
}

impl Inbox {
    /// From now on, and for good, `attendant` is asked first about what comes alone or last. Of two calls the first counts.
    pub fn attend(&self, attendant: Box<dyn Attendant>) {
        if self.attendant.set(attendant).is_err() {
            log::debug!("somebody attends already");
        }
    }

    /// Asks what nothing else comes with: hands it to the attendant, or puts it into its lane.
    ///
    /// # Errors
    /// As [`Inbox::ask`].
    pub fn ask_alone(&self, ask: Ask) -> Result<(), NotTaken> {
        let left = match self.attendant.get() {
            Some(attendant) => attendant.ask(ask),
            None => Some(ask),
        };
        left.map_or(Ok(()), |ask| self.ask(ask))
    }

    /// Puts an ask into the lane it belongs to, without waiting.
    ///
    /// # Errors
    /// [`NotTaken`] with the ask, if the lane is full or the Raft thread gone.
    pub fn ask(&self, ask: Ask) -> Result<(), NotTaken> {
        let lane = match &ask {
            Ask::Submits { .. } => &self.proposals,
            Ask::Look { .. } => &self.reads,
            Ask::LocalWorker { .. } => &self.reports,
            Ask::Request { request, .. } => match request {
                Request::SubmitJob(_) | Request::SubmitBatch(_) | Request::AddCron(_) => {
                    &self.proposals
                }
                Request::CancelJobs { .. }
                | Request::RetryJobs { .. }
                | Request::PurgeJobs { .. }
                | Request::ChangeQueue { .. }
                | Request::ChangeWorker { .. }
                | Request::ChangeCron { .. }
                | Request::TransferLeadership { .. } => &self.controls,
                Request::RegisterWorker(_)
                | Request::Heartbeat { .. }
                | Request::UpdateJobStatus(_)
                | Request::BatchUpdateJobStatus(_)
                | Request::ReportProgress(_)
                | Request::ReleaseJobs(_) => &self.reports,
                Request::Ping
                | Request::Reserve { .. }
                | Request::Watch(_)
                | Request::GetJob { .. }
                | Request::ListJobs(_)
                | Request::WaitJobs { .. }
                | Request::ListWorkers
                | Request::ListQueues(_)
                | Request::ListCrons(_)
                | Request::WhyJob { .. }
                | Request::ReadAt { .. }
                | Request::GetClusterStatus { .. }
                | Request::ListLog { .. } => &self.reads,
            },
        };
        lane.try_send(ask).map_err(NotTaken::from)
    }

    /// Hands over a peer's message with no other one behind it: to the attendant, or as [`Inbox::peer_message`]
    /// does.
    #[must_use]
    pub fn last_peer_message(&self, from: NodeId, dir: DirId, message: PeerMessage) -> bool {
        let event = PeerEvent::Message { from, dir, message };
        let left = match self.attendant.get() {
            Some(attendant) => attendant.peer(event),
            None => Some(event),
        };
        left.is_none_or(|event| self.peers.try_send(event).is_ok())
    }

    /// Hands over a peer's message, or drops it when the lane is full. Returns whether it went in.
    #[must_use]
    pub fn peer_message(&self, from: NodeId, dir: DirId, message: PeerMessage) -> bool {
        self.peers.try_send(PeerEvent::Message { from, dir, message }).is_ok()
    }

    /// Hands over an event that must not be lost. The lane has room for thousands and one link makes
    /// few, so a full lane means a Raft thread that stands still: the event is dropped and the link's
    /// own timeout repeats it. Returns whether it went in.
    #[must_use]
    pub fn peer_event(&self, event: PeerEvent) -> bool {
        self.events.try_send(event).is_ok()
    }

    /// How many proposals wait now.
    #[must_use]
    pub fn proposals_waiting(&self) -> usize {
        self.proposals.len()
    }
}

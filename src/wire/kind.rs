//! The number of every kind of frame (`wire-spec.md` §6); a number once given is never given again.

/// The first frame of whoever calls.
pub const HELLO: u8 = 0x01;
/// The answer to a `HELLO` that is welcome.
pub const WELCOME: u8 = 0x02;
/// The answer to a `HELLO` that is not; the connection ends with it.
pub const REJECT: u8 = 0x03;

/// Is anybody there?
pub const PING: u8 = 0x10;
/// One job to submit.
pub const SUBMIT_JOB: u8 = 0x11;
/// Many jobs to submit.
pub const SUBMIT_BATCH: u8 = 0x12;
/// One job to look at.
pub const GET_JOB: u8 = 0x13;
/// A page of jobs.
pub const LIST_JOBS: u8 = 0x14;
/// Jobs whose end is waited for.
pub const WAIT_JOBS: u8 = 0x15;
/// Jobs to cancel.
pub const CANCEL_JOBS: u8 = 0x16;
/// The registry of workers.
pub const LIST_WORKERS: u8 = 0x17;
/// The cluster.
pub const GET_CLUSTER_STATUS: u8 = 0x18;
/// Entries of the log.
pub const LIST_LOG: u8 = 0x19;
/// Leadership to hand over.
pub const TRANSFER_LEADERSHIP: u8 = 0x1a;
/// A page of queues.
pub const LIST_QUEUES: u8 = 0x1b;
/// The rules of a queue to change.
pub const CHANGE_QUEUE: u8 = 0x1c;
/// Jobs that failed or were cancelled, to be tried again.
pub const RETRY_JOBS: u8 = 0x1d;
/// Jobs that ended, to be forgotten.
pub const PURGE_JOBS: u8 = 0x1e;
/// What changed, from a position on.
pub const WATCH: u8 = 0x1f;

/// A start of a worker.
pub const REGISTER_WORKER: u8 = 0x20;
/// A worker lives.
pub const HEARTBEAT: u8 = 0x21;
/// A worker asks for jobs.
pub const RESERVE: u8 = 0x22;
/// One attempt ended.
pub const UPDATE_JOB_STATUS: u8 = 0x23;
/// Many attempts ended.
pub const BATCH_UPDATE_JOB_STATUS: u8 = 0x24;
/// Jobs given back.
pub const RELEASE_JOBS: u8 = 0x25;

/// A cron to add.
pub const ADD_CRON: u8 = 0x30;
/// A cron to pause, resume, remove, or to submit the job of.
pub const CHANGE_CRON: u8 = 0x31;
/// A page of crons, or one.
pub const LIST_CRONS: u8 = 0x32;
/// A worker to be given no more jobs, or some again.
pub const CHANGE_WORKER: u8 = 0x33;
/// A job says how far it is.
pub const REPORT_PROGRESS: u8 = 0x34;

/// One job to explain.
pub const WHY_JOB: u8 = 0x35;

/// Raft: pre-vote.
pub const PRE_VOTE: u8 = 0x40;
/// Raft: its answer.
pub const PRE_VOTE_REPLY: u8 = 0x41;
/// Raft: vote.
pub const VOTE: u8 = 0x42;
/// Raft: its answer.
pub const VOTE_REPLY: u8 = 0x43;
/// Raft: entries, a heartbeat or a probe.
pub const APPEND_ENTRIES: u8 = 0x44;
/// Raft: its answer.
pub const APPEND_REPLY: u8 = 0x45;
/// Raft: a snapshot will follow on the bulk lane.
pub const INSTALL_SNAPSHOT: u8 = 0x46;
/// Raft: campaign at once.
pub const TIMEOUT_NOW: u8 = 0x47;
/// Raft: which index may I read at?
pub const READ_INDEX: u8 = 0x48;
/// Raft: its answer.
pub const READ_INDEX_REPLY: u8 = 0x49;

/// Bulk: a snapshot offered.
pub const OFFER: u8 = 0x50;
/// Bulk: send.
pub const ACCEPT: u8 = 0x51;
/// Bulk: do not.
pub const DECLINE: u8 = 0x52;
/// Bulk: bytes.
pub const CHUNK: u8 = 0x53;
/// Bulk: bytes have arrived.
pub const WINDOW: u8 = 0x54;
/// Bulk: the snapshot is whole and durable.
pub const DONE: u8 = 0x55;

/// No. The other answers carry the request's number with the highest bit set.
pub const REFUSED: u8 = 0x80;
/// The highest bit of an answer's kind.
pub const REPLY_BIT: u8 = 0x80;
/// Answers [`PING`].
pub const PONG: u8 = 0x90;
/// Answers [`SUBMIT_JOB`].
pub const SUBMITTED: u8 = 0x91;
/// Answers [`SUBMIT_BATCH`].
pub const SUBMITTED_BATCH: u8 = 0x92;
/// Answers [`GET_JOB`].
pub const JOB: u8 = 0x93;
/// Answers [`LIST_JOBS`].
pub const JOBS: u8 = 0x94;
/// Answers [`WAIT_JOBS`].
pub const WAITED: u8 = 0x95;
/// Answers [`CANCEL_JOBS`].
pub const CANCELLED: u8 = 0x96;
/// Answers [`LIST_WORKERS`].
pub const WORKERS: u8 = 0x97;
/// Answers [`GET_CLUSTER_STATUS`].
pub const CLUSTER_STATUS: u8 = 0x98;
/// Answers [`LIST_LOG`].
pub const LOG: u8 = 0x99;
/// Answers [`TRANSFER_LEADERSHIP`].
pub const TRANSFERRED: u8 = 0x9a;
/// Answers [`LIST_QUEUES`].
pub const QUEUES: u8 = 0x9b;
/// Answers [`CHANGE_QUEUE`].
pub const QUEUE_CHANGED: u8 = 0x9c;
/// Answers [`RETRY_JOBS`].
pub const RETRIED: u8 = 0x9d;
/// Answers [`PURGE_JOBS`].
pub const PURGED: u8 = 0x9e;
/// Answers [`WATCH`].
pub const WATCHED: u8 = 0x9f;
/// Answers [`REGISTER_WORKER`].
pub const REGISTERED: u8 = 0xa0;
/// Answers [`HEARTBEAT`].
pub const HEARTBEAT_ACK: u8 = 0xa1;
/// Answers [`RESERVE`].
pub const RESERVED: u8 = 0xa2;
/// Answers [`UPDATE_JOB_STATUS`] and, as the one exception to the rule of the highest bit,
/// [`BATCH_UPDATE_JOB_STATUS`].
pub const UPDATED: u8 = 0xa3;
/// Answers [`RELEASE_JOBS`].
pub const RELEASED: u8 = 0xa5;
/// Answers [`ADD_CRON`].
pub const CRON_ADDED: u8 = 0xb0;
/// Answers [`CHANGE_CRON`].
pub const CRON_CHANGED: u8 = 0xb1;
/// Answers [`LIST_CRONS`].
pub const CRONS: u8 = 0xb2;
/// Answers [`CHANGE_WORKER`].
pub const WORKER_CHANGED: u8 = 0xb3;
/// Answers [`REPORT_PROGRESS`].
pub const PROGRESS_NOTED: u8 = 0xb4;
/// Answers [`WHY_JOB`].
pub const EXPLAINED: u8 = 0xb5;

/// Every kind with its name, in order of number: the registry of `wire-spec.md`.
pub const ALL: [(u8, &str); 75] = [
    (HELLO, "HELLO"),
    (WELCOME, "WELCOME"),
    (REJECT, "REJECT"),
    (PING, "PING"),
    (SUBMIT_JOB, "SUBMIT_JOB"),
    (SUBMIT_BATCH, "SUBMIT_BATCH"),
    (GET_JOB, "GET_JOB"),
    (LIST_JOBS, "LIST_JOBS"),
    (WAIT_JOBS, "WAIT_JOBS"),
    (CANCEL_JOBS, "CANCEL_JOBS"),
    (LIST_WORKERS, "LIST_WORKERS"),
    (GET_CLUSTER_STATUS, "GET_CLUSTER_STATUS"),
    (LIST_LOG, "LIST_LOG"),
    (TRANSFER_LEADERSHIP, "TRANSFER_LEADERSHIP"),
    (LIST_QUEUES, "LIST_QUEUES"),
    (CHANGE_QUEUE, "CHANGE_QUEUE"),
    (RETRY_JOBS, "RETRY_JOBS"),
    (PURGE_JOBS, "PURGE_JOBS"),
    (WATCH, "WATCH"),
    (REGISTER_WORKER, "REGISTER_WORKER"),
    (HEARTBEAT, "HEARTBEAT"),
    (RESERVE, "RESERVE"),
    (UPDATE_JOB_STATUS, "UPDATE_JOB_STATUS"),
    (BATCH_UPDATE_JOB_STATUS, "BATCH_UPDATE_JOB_STATUS"),
    (RELEASE_JOBS, "RELEASE_JOBS"),
    (ADD_CRON, "ADD_CRON"),
    (CHANGE_CRON, "CHANGE_CRON"),
    (LIST_CRONS, "LIST_CRONS"),
    (CHANGE_WORKER, "CHANGE_WORKER"),
    (REPORT_PROGRESS, "REPORT_PROGRESS"),
    (WHY_JOB, "WHY_JOB"),
    (PRE_VOTE, "PRE_VOTE"),
    (PRE_VOTE_REPLY, "PRE_VOTE_REPLY"),
    (VOTE, "VOTE"),
    (VOTE_REPLY, "VOTE_REPLY"),
    (APPEND_ENTRIES, "APPEND_ENTRIES"),
    (APPEND_REPLY, "APPEND_REPLY"),
    (INSTALL_SNAPSHOT, "INSTALL_SNAPSHOT"),
    (TIMEOUT_NOW, "TIMEOUT_NOW"),
    (READ_INDEX, "READ_INDEX"),
    (READ_INDEX_REPLY, "READ_INDEX_REPLY"),
    (OFFER, "OFFER"),
    (ACCEPT, "ACCEPT"),
    (DECLINE, "DECLINE"),
    (CHUNK, "CHUNK"),
    (WINDOW, "WINDOW"),
    (DONE, "DONE"),
    (REFUSED, "REFUSED"),
    (PONG, "PONG"),
    (SUBMITTED, "SUBMITTED"),
    (SUBMITTED_BATCH, "SUBMITTED_BATCH"),
    (JOB, "JOB"),
    (JOBS, "JOBS"),
    (WAITED, "WAITED"),
    (CANCELLED, "CANCELLED"),
    (WORKERS, "WORKERS"),
    (CLUSTER_STATUS, "CLUSTER_STATUS"),
    (LOG, "LOG"),
    (TRANSFERRED, "TRANSFERRED"),
    (QUEUES, "QUEUES"),
    (QUEUE_CHANGED, "QUEUE_CHANGED"),
    (RETRIED, "RETRIED"),
    (PURGED, "PURGED"),
    (WATCHED, "WATCHED"),
    (REGISTERED, "REGISTERED"),
    (HEARTBEAT_ACK, "HEARTBEAT_ACK"),
    (RESERVED, "RESERVED"),
    (UPDATED, "UPDATED"),
    (RELEASED, "RELEASED"),
    (CRON_ADDED, "CRON_ADDED"),
    (CRON_CHANGED, "CRON_CHANGED"),
    (CRONS, "CRONS"),
    (WORKER_CHANGED, "WORKER_CHANGED"),
    (PROGRESS_NOTED, "PROGRESS_NOTED"),
    (EXPLAINED, "EXPLAINED"),
];

/// Tells whether frames of this kind are requests: a client or a worker sends them, and each gets
/// exactly one answer.
#[must_use]
pub fn is_request(kind: u8) -> bool {
    matches!(kind, PING..=WATCH | REGISTER_WORKER..=RELEASE_JOBS | ADD_CRON..=WHY_JOB)
}

/// Tells whether frames of this kind travel on the Raft lane.
#[must_use]
pub fn is_peer(kind: u8) -> bool {
    matches!(kind, PRE_VOTE..=READ_INDEX_REPLY)
}

/// Tells whether frames of this kind travel on the bulk lane.
#[must_use]
pub fn is_bulk(kind: u8) -> bool {
    matches!(kind, OFFER..=DONE)
}

/// Tells whether frames of this kind answer a request.
#[must_use]
pub fn is_reply(kind: u8) -> bool {
    kind & REPLY_BIT != 0 && name(kind).is_some()
}

/// Returns the name of a kind, if it has one in this version.
#[must_use]
pub fn name(kind: u8) -> Option<&'static str> {
    ALL.iter().find(|(number, _)| *number == kind).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_listed_once_in_order() {
        assert!(ALL.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn kinds_belong_to_one_family_each() {
        for (kind, name) in ALL {
            let families =
                [is_request(kind), is_peer(kind), is_bulk(kind), is_reply(kind), kind <= REJECT];
            assert_eq!(families.iter().filter(|is| **is).count(), 1, "{name}");
        }
        assert!(!is_request(0x26) && !is_request(0x36) && !is_peer(0x4a) && !is_bulk(0x56));
    }

    #[test]
    fn replies_carry_their_requests_number() {
        for (kind, name) in ALL {
            if is_request(kind) && kind != BATCH_UPDATE_JOB_STATUS {
                assert!(is_reply(kind | REPLY_BIT), "{name}");
            }
        }
    }
}

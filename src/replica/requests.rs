//! Requests on their way in: submits and reports share entries, reads share a confirmation.

use std::collections::BTreeSet;

use crate::jobs::change::Position;
use crate::jobs::command::{Command, StatusUpdate};
use crate::jobs::job::{Body, NewJob};
use crate::raft::core::{LogGone, Role};
use crate::raft::message::Entry;
use crate::replica::answering::no_room;
use crate::replica::core::{LOG_READS_FROM, Replica};
use crate::replica::history;
use crate::replica::reading::{self, log_line};
use crate::replica::reads::{Parked, Read};
use crate::replica::view::Answer;
use crate::replica::waiters::{PROPOSAL_TICKS_MAX, Wait};
use crate::types::{Index, JobId, NodeId, TICK_MS, Ticks};
use crate::wire::message::{
    Code, RESERVE_JOBS_MAX, Refusal, Reply, Request, WAIT_MS_MAX, Watch, Watched,
};
use crate::wire::reads::Consistency;

/// Jobs or reports that share one entry; one request more than that may be added whole.
const SHARED_MAX: usize = 128;

/// Bytes of them; one request more may be added whole.
const SHARED_BYTES_MAX: usize = 256 << 10;

/// A job with a body of more bytes is shown from an image: the words of a command are copied.
const BODY_HERE_BYTES_MAX: usize = 16 << 10;

/// Bytes of jobs in one answer to `Reserve`, at most; one job is always answered.
const RESERVE_BYTES_MAX: usize = 1 << 20;

/// Entries of the log in one answer to `ListLog`, at most.
const LOG_LINES_MAX: u32 = 1000;

/// Bytes of entries looked at for one such answer.
const LOG_LINES_BYTES_MAX: usize = 256 << 10;

/// Rounds of reads under way when one more is begun for an entry yet to be applied, at most; more such reads are refused
/// with `RESOURCE_EXHAUSTED`. Each is looked at in every turn.
const ROUNDS_MAX: usize = 1024;

/// Reads of the log on disk for people under way, at most; more are refused.
const LOG_READS_MAX: usize = 16;

/// Submits and reports of one turn, on their way into shared entries.
#[derive(Debug)]
pub(super) struct Drafts<W> {
    jobs: Draft<NewJob, W>,
    updates: Draft<StatusUpdate, W>,
}

impl<W> Default for Drafts<W> {
    fn default() -> Self {
        Self { jobs: Draft::default(), updates: Draft::default() }
    }
}

/// The content of one entry to be.
#[derive(Debug)]
struct Draft<T, W> {
    items: Vec<T>,
    bytes: usize,
    waits: Vec<Wait<W>>,
    /// When the first of them arrived.
    arrived: Option<Ticks>,
}

impl<T, W> Default for Draft<T, W> {
    fn default() -> Self {
        Self { items: Vec::new(), bytes: 0, waits: Vec::new(), arrived: None }
    }
}

impl<T, W> Draft<T, W> {
    fn add(&mut self, item: T, bytes: usize, arrived: Ticks) {
        self.items.push(item);
        self.bytes += bytes;
        self.arrived = Some(self.arrived.map_or(arrived, |first| first.min(arrived)));
    }

    fn is_full(&self) -> bool {
        self.items.len() >= SHARED_MAX || self.bytes >= SHARED_BYTES_MAX
    }
}

impl<W> Replica<W> {
    /// Takes submits that arrived together.
    pub(super) fn submits(&mut self, jobs: Vec<(NewJob, W)>, arrived: Ticks) {
        for (job, waiter) in jobs {
            self.submit(job, waiter, arrived);
        }
    }

    /// Takes one request: what only a leader can do is drafted, what needs the state is read.
    pub(super) fn request(&mut self, request: Request, waiter: W, arrived: Ticks) {
        match request {
            Request::Ping => self.answer(waiter, Reply::Pong),
            Request::SubmitJob(job) => self.submit(job, waiter, arrived),
            Request::SubmitBatch(jobs) => self.submit_batch(jobs, waiter, arrived),
            Request::RegisterWorker(registration) => {
                let wait = |waiter| Wait::Register {
                    waiter,
                    worker: registration.worker.clone(),
                    incarnation: registration.incarnation,
                };
                if let Some(waiter) = self.admit(waiter, arrived) {
                    let waits = vec![wait(waiter)];
                    self.propose_next(Command::RegisterWorker(registration), arrived, waits);
                }
            }
            Request::Heartbeat { worker, incarnation, draining, held } => {
                if let Some(waiter) = self.admit(waiter, arrived) {
                    self.arriving_reads.push(Read::Heartbeat {
                        waiter,
                        worker,
                        incarnation,
                        draining,
                        held,
                        arrived,
                    });
                }
            }
            Request::UpdateJobStatus(update) => self.update(vec![update], waiter, arrived),
            Request::BatchUpdateJobStatus(updates) => self.update(updates, waiter, arrived),
            Request::ReleaseJobs(release) => {
                if let Some(waiter) = self.admit(waiter, arrived) {
                    let waits = vec![Wait::Release { waiter }];
                    self.propose_next(Command::ReleaseJob(release), arrived, waits);
                }
            }
            Request::CancelJobs { ids } => {
                if let Some(waiter) = self.admit(waiter, arrived) {
                    let waits = vec![Wait::Cancel { waiter }];
                    self.propose_next(Command::CancelJob(ids), arrived, waits);
                }
            }
            Request::RetryJobs { ids } => {
                self.propose_whole(Command::RetryJob(ids), waiter, arrived);
            }
            Request::PurgeJobs { ids } => {
                self.propose_whole(Command::PurgeJob(ids), waiter, arrived);
            }
            Request::ChangeQueue { queue, change } => {
                self.propose_whole(Command::ChangeQueue(queue, change), waiter, arrived);
            }
            Request::ChangeWorker { worker, intake } => {
                self.propose_whole(Command::ChangeWorker(worker, intake), waiter, arrived);
            }
            Request::ReportProgress(report) => {
                // It may overtake what is drafted: that need not be cut for it.
                if let Some(waiter) = self.admit(waiter, arrived) {
                    let waits = vec![Wait::Whole { waiter }];
                    self.propose(Command::ReportProgress(report), arrived, waits);
                }
            }
            Request::AddCron(cron) => self.add_cron(*cron, waiter, arrived),
            Request::ChangeCron { name, change } => {
                self.change_cron(name, change, waiter, arrived);
            }
            Request::Reserve { worker, incarnation, after, max, wait_ms } => {
                let max = usize::try_from(max).unwrap_or(RESERVE_JOBS_MAX).min(RESERVE_JOBS_MAX);
                let parked = Parked::Worker { worker, incarnation, after, max };
                self.reserve(waiter, parked, deadline(arrived, wait_ms));
            }
            Request::GetJob { .. }
            | Request::ListJobs(_)
            | Request::WaitJobs { .. }
            | Request::ListQueues(_)
            | Request::ListCrons(_)
            | Request::WhyJob { .. }
            | Request::ListWorkers => {
                self.arriving_reads.push(Read::Client { waiter, request, arrived });
            }
            Request::ReadAt { consistency, .. } => {
                self.read_at(consistency, request, waiter, arrived);
            }
            Request::GetClusterStatus { local } => {
                if local || self.raft.role() == Role::Leader {
                    let status = self.cluster_status();
                    self.answer(waiter, Reply::ClusterStatus(Box::new(status)));
                } else {
                    let refusal = self.not_leader();
                    self.refuse(waiter, refusal);
                }
            }
            Request::ListLog { from, limit } => self.list_log(from, limit, waiter),
            Request::TransferLeadership { to } => self.transfer(to, waiter),
            Request::Watch(asked) => self.begin_watch(asked, waiter, arrived),
        }
    }

    /// Proposes a command that one request is about.
    fn propose_whole(&mut self, command: Command, waiter: W, arrived: Ticks) {
        if let Some(waiter) = self.admit(waiter, arrived) {
            self.propose_next(command, arrived, vec![Wait::Whole { waiter }]);
        }
    }

    /// Lets through what only the leader takes; answers the rest itself.
    pub(super) fn admit(&mut self, waiter: W, arrived: Ticks) -> Option<W> {
        if self.raft.role() != Role::Leader {
            let refusal = self.not_leader();
            self.refuse(waiter, refusal);
            return None;
        }
        if self.now.0.saturating_sub(arrived.0) >= PROPOSAL_TICKS_MAX {
            let mut refusal = Refusal::deadline_exceeded();
            refusal.unknown = false;
            refusal.message = "it waited 5 s for its turn and was not proposed; ask again".into();
            self.refuse(waiter, refusal);
            return None;
        }
        Some(waiter)
    }

    fn submit(&mut self, job: NewJob, waiter: W, arrived: Ticks) {
        if let Some(fault) = job.fault() {
            self.refuse(waiter, Refusal::invalid(fault));
            return;
        }
        let Some(waiter) = self.admit(waiter, arrived) else { return };
        if self.is_hopeless(&job) {
            self.refuse(waiter, no_room());
            return;
        }
        self.drafts.jobs.waits.push(Wait::Submit { waiter, id: job.id });
        let bytes = job_bytes(&job);
        self.drafts.jobs.add(job, bytes, arrived);
        if self.drafts.jobs.is_full() {
            self.propose_jobs();
        }
    }

    fn submit_batch(&mut self, jobs: Vec<NewJob>, waiter: W, arrived: Ticks) {
        let Some(waiter) = self.admit(waiter, arrived) else { return };
        let ids = jobs.iter().map(|job| job.id).collect();
        let refusal = |job: &NewJob| match job.fault() {
            Some(fault) => Some(Refusal::invalid(fault)),
            None => self.is_hopeless(job).then(no_room),
        };
        let refused: Vec<Option<Refusal>> = jobs.iter().map(refusal).collect();
        if refused.iter().all(Option::is_some) {
            let results = refused.into_iter().flatten().map(Err).collect();
            self.answer(waiter, Reply::SubmittedBatch(results));
            return;
        }
        for (job, refusal) in jobs.into_iter().zip(&refused) {
            if refusal.is_none() {
                let bytes = job_bytes(&job);
                self.drafts.jobs.add(job, bytes, arrived);
            }
        }
        self.drafts.jobs.waits.push(Wait::SubmitBatch { waiter, ids, refused });
        if self.drafts.jobs.is_full() {
            self.propose_jobs();
        }
    }

    /// Tells whether a job can be refused without asking the log, for there is no room for it: what an
    /// overloaded cluster refuses must not cost it its disks. One such job a tick is proposed all the same,
    /// so that the log's clock goes on, by which old things are forgotten.
    fn is_hopeless(&mut self, job: &NewJob) -> bool {
        if !self.machine.has_no_room(job) {
            return false;
        }
        let is_hopeless = self.hopeless_at == Some(self.now);
        self.hopeless_at = Some(self.now);
        is_hopeless
    }

    fn update(&mut self, updates: Vec<StatusUpdate>, waiter: W, arrived: Ticks) {
        if updates.is_empty() {
            self.answer(waiter, Reply::Updated(Vec::new()));
            return;
        }
        let Some(waiter) = self.admit(waiter, arrived) else { return };
        self.drafts.updates.waits.push(Wait::Update { waiter, count: updates.len() });
        for update in updates {
            let bytes = update.verdict.output.len()
                + update.verdict.error.as_ref().map_or(0, String::len)
                + ITEM_OVERHEAD_BYTES;
            self.drafts.updates.add(update, bytes, arrived);
        }
        if self.drafts.updates.is_full() {
            self.propose_updates();
        }
    }

    /// Proposes what the turn has drafted. Reports first: they empty the queue, and should there be room
    /// for one entry only, it is theirs.
    pub(super) fn propose_drafts(&mut self) {
        self.propose_updates();
        self.propose_jobs();
    }

    /// Proposes a command of its own, after what was drafted before it: what one connection asked for is
    /// begun in that order (`wire-spec.md` §9).
    pub(super) fn propose_next(&mut self, command: Command, arrived: Ticks, waits: Vec<Wait<W>>) {
        self.propose_drafts();
        self.propose(command, arrived, waits);
    }

    fn propose_jobs(&mut self) {
        let draft = std::mem::take(&mut self.drafts.jobs);
        if let Some(arrived) = draft.arrived {
            self.propose(Command::SubmitJob(draft.items), arrived, draft.waits);
        }
    }

    fn propose_updates(&mut self) {
        let draft = std::mem::take(&mut self.drafts.updates);
        if let Some(arrived) = draft.arrived {
            self.propose(Command::BatchUpdateJobStatus(draft.items), arrived, draft.waits);
        }
    }

    /// Asks consensus to confirm the reads that arrived in this turn, all with one question.
    pub(super) fn ask_reads(&mut self) {
        if self.arriving_reads.is_empty() {
            return;
        }
        let reads = std::mem::take(&mut self.arriving_reads);
        let token = self.rounds.open(reads, self.now);
        self.raft.read(token);
    }

    /// Serves the reads that are confirmed and applied.
    pub(super) fn serve_reads(&mut self) {
        for read in self.rounds.ready(self.machine.applied_index()) {
            match read {
                Read::Client { waiter, request, arrived } => {
                    self.serve_read(waiter, request, arrived);
                }
                Read::Heartbeat { waiter, worker, incarnation, draining, held, .. } => {
                    self.heartbeat(waiter, &worker, incarnation, draining, &held);
                }
                Read::Ready => self.became_ready(),
            }
        }
    }

    /// Acknowledges the heartbeats whose rounds are confirmed, in the order in which they came. They ask
    /// whether this node leads and who is registered, not for the newest entry: that may wait for a slow
    /// disk here, and the workers' right to run with it.
    pub(super) fn acknowledge_heartbeats(&mut self) {
        if !self.raft.own_term_applied() {
            return;
        }
        for read in self.rounds.take_heartbeats() {
            if let Read::Heartbeat { waiter, worker, incarnation, draining, held, .. } = read {
                self.heartbeat(waiter, &worker, incarnation, draining, &held);
            }
        }
    }

    /// Takes a read that says how it is to be done.
    fn read_at(&mut self, how: Consistency, request: Request, waiter: W, arrived: Ticks) {
        match how {
            Consistency::Linearizable => {
                self.arriving_reads.push(Read::Client { waiter, request, arrived });
            }
            Consistency::Stale => self.serve_read(waiter, request, arrived),
            Consistency::MinIndex(index) if index <= self.machine.applied_index() => {
                self.serve_read(waiter, request, arrived);
            }
            Consistency::MinIndex(index) => {
                if self.rounds.open_count() >= ROUNDS_MAX {
                    let text = "too many reads wait for entries to be applied on this node";
                    return self.refuse(waiter, Refusal::exhausted(text, 1000));
                }
                // The index is the client's own, so that nobody need confirm it.
                let read = Read::Client { waiter, request, arrived };
                let token = self.rounds.open(vec![read], self.now);
                self.rounds.confirmed(token, Some(index));
            }
        }
    }

    fn serve_read(&mut self, waiter: W, request: Request, arrived: Ticks) {
        match request.plain() {
            Request::GetJob { id } => {
                if self.machine.job(*id).is_some_and(|job| job.body.len() > BODY_HERE_BYTES_MAX) {
                    return self.answer_from_image(waiter, request);
                }
                let reply = reading::answer(&self.machine, &request);
                self.answer(waiter, reply);
            }
            Request::WaitJobs { ids, wait_ms } => {
                self.wait_jobs(waiter, ids.clone(), deadline(arrived, *wait_ms));
            }
            Request::ListJobs(_)
            | Request::ListWorkers
            | Request::ListQueues(_)
            | Request::ListCrons(_)
            | Request::WhyJob { .. } => {
                self.answer_from_image(waiter, request);
            }
            Request::Ping
            | Request::SubmitJob(_)
            | Request::SubmitBatch(_)
            | Request::RegisterWorker(_)
            | Request::Heartbeat { .. }
            | Request::UpdateJobStatus(_)
            | Request::BatchUpdateJobStatus(_)
            | Request::ReleaseJobs(_)
            | Request::Reserve { .. }
            | Request::CancelJobs { .. }
            | Request::RetryJobs { .. }
            | Request::PurgeJobs { .. }
            | Request::ChangeQueue { .. }
            | Request::ChangeWorker { .. }
            | Request::ReportProgress(_)
            | Request::AddCron(_)
            | Request::ChangeCron { .. }
            | Request::GetClusterStatus { .. }
            | Request::ListLog { .. }
            | Request::Watch(_)
            | Request::TransferLeadership { .. }
            | Request::ReadAt { .. } => {
                let text = format!("{} is no read", request.name());
                self.refuse(waiter, Refusal::new(Code::Internal, text));
            }
        }
    }

    /// Answers a wait, or parks it until its jobs have ended.
    pub(super) fn wait_jobs(&mut self, waiter: W, ids: Vec<JobId>, deadline: Ticks) {
        let open: BTreeSet<JobId> = ids
            .iter()
            .filter(|id| self.machine.job(**id).is_some_and(|job| !job.status.is_final()))
            .copied()
            .collect();
        if open.is_empty() || deadline <= self.now {
            self.answer_waited(waiter, ids);
            return;
        }
        if let Err(waiter) = self.lot.park(waiter, Parked::Jobs { ids, open }, deadline) {
            self.refuse(waiter, Refusal::exhausted("too many waits on this node", 1000));
        }
    }

    /// Answers a long poll, or parks it until the worker is given a job.
    pub(super) fn reserve(&mut self, waiter: W, parked: Parked, deadline: Ticks) {
        let Parked::Worker { worker, incarnation, after, max } = &parked else {
            return self.answer(waiter, Reply::Reserved(Vec::new()));
        };
        let assignments =
            self.machine.assignments_within(worker, *incarnation, *after, *max, RESERVE_BYTES_MAX);
        if !assignments.is_empty() || deadline <= self.now {
            self.answer(waiter, Reply::Reserved(assignments));
            return;
        }
        if let Err(waiter) = self.lot.park(waiter, parked, deadline) {
            self.refuse(waiter, Refusal::exhausted("too many waits on this node", 1000));
        }
    }

    /// Takes up a watch where it is to begin.
    fn begin_watch(&mut self, asked: Watch, waiter: W, arrived: Ticks) {
        let Watch { after, oldest, queue, job, wait_ms } = asked;
        let here = Position::before(self.machine.applied_index().next());
        let Some(after) = after.or_else(|| oldest.then(|| self.history.first())) else {
            // From now on: where now is, this answer says.
            return self.answer(waiter, Reply::Watched(Watched { events: Vec::new(), next: here }));
        };
        let watch = history::Watch { after, queue, job };
        self.watch(waiter, watch, deadline(arrived, wait_ms));
    }

    /// Answers a watch, or parks it until something changes.
    pub(super) fn watch(&mut self, waiter: W, watch: history::Watch, deadline: Ticks) {
        let applied = self.machine.applied_index();
        match self.history.after(&watch, applied) {
            Ok(Some(slice)) => self.out.answers.push((waiter, Answer::Changes(slice))),
            Ok(None) if deadline > self.now => {
                if let Err(waiter) = self.lot.park(waiter, Parked::Changes(watch), deadline) {
                    let text = "too many watch on this node; ask another one";
                    self.refuse(waiter, Refusal::exhausted(text, 1000));
                }
            }
            Ok(None) => self.answer(waiter, nothing_changed(&watch, applied)),
            Err(first) => {
                let text = format!(
                    "what changed after {} is not kept here any more: the first place to go on from is {first}",
                    watch.after
                );
                self.refuse(waiter, Refusal::new(Code::FailedPrecondition, text));
            }
        }
    }

    fn list_log(&mut self, from: Index, limit: u32, waiter: W) {
        let limit = u64::from(limit.clamp(1, LOG_LINES_MAX));
        let first = self.raft.status().first_index;
        let from = from.max(first).max(Index(1));
        let last = self.machine.applied_index();
        if from > last {
            self.answer(waiter, Reply::Log(Vec::new()));
            return;
        }
        let to = Index((from.0 + limit - 1).min(last.0));
        if let Some(entries) = self.raft.entries(from, to, LOG_LINES_BYTES_MAX) {
            self.answer(waiter, Reply::Log(entries.iter().map(log_line).collect()));
            return;
        }
        if self.log_reads.len() >= LOG_READS_MAX {
            self.refuse(waiter, Refusal::exhausted("too many reads of the log on disk", 1000));
            return;
        }
        let token = self.next_log_read;
        self.next_log_read += 1;
        self.log_reads.insert(token, waiter);
        let bytes_max = LOG_LINES_BYTES_MAX;
        self.out.read_log.push(crate::raft::effects::ReadLog { token, from, to, bytes_max });
    }

    /// Hands a read of the log to whoever asked: consensus, or a person.
    pub(super) fn log_read(&mut self, token: u64, result: Result<Vec<Entry>, LogGone>) {
        if token < LOG_READS_FROM {
            self.raft.log_read(token, result);
            return;
        }
        let Some(waiter) = self.log_reads.remove(&token) else { return };
        match result {
            Ok(entries) => self.answer(waiter, Reply::Log(entries.iter().map(log_line).collect())),
            Err(gone) => {
                let text = format!("the log here begins at {}; ask from there", gone.first_index);
                self.refuse(waiter, Refusal::new(Code::FailedPrecondition, text));
            }
        }
    }

    fn transfer(&mut self, to: Option<NodeId>, waiter: W) {
        if self.raft.role() != Role::Leader {
            let refusal = self.not_leader();
            self.refuse(waiter, refusal);
            return;
        }
        match self.raft.transfer(to.or_else(|| self.successor())) {
            Ok(to) => self.answer(waiter, Reply::Transferred { to }),
            Err(error) => {
                self.refuse(waiter, Refusal::new(Code::FailedPrecondition, error.to_string()));
            }
        }
    }
}

/// Says that nothing changed in time, and where to go on.
pub(super) fn nothing_changed(watch: &history::Watch, applied: Index) -> Reply {
    let next = Position::before(applied.next()).max(watch.after);
    Reply::Watched(Watched { events: Vec::new(), next })
}

/// What an item counts beside its bytes.
const ITEM_OVERHEAD_BYTES: usize = 64;

fn job_bytes(job: &NewJob) -> usize {
    let words = match &job.body {
        Body::Command(words) => words.len(),
        Body::Payload(_) => 0,
    };
    let options = job.options.as_ref().map_or(0, |options| options.memory());
    job.body.len() + words + options + ITEM_OVERHEAD_BYTES
}

fn deadline(arrived: Ticks, wait_ms: u64) -> Ticks {
    Ticks(arrived.0 + wait_ms.min(WAIT_MS_MAX).div_ceil(TICK_MS))
}

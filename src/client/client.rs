//! The client: every request as a method, sent to whoever can answer it until it is answered or out of time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_std::future::timeout;
use async_std::task;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};

use crate::client::clock::{now_ms, whole_ms};
use crate::client::connection::{Broken, ConnectError, Connection};
use crate::client::core::{ATTEMPT_MS, Attempt, Policy, Step};
use crate::client::directory::Directory;
use crate::client::error::Error;
use crate::client::pool::{CLOSED, Pool, Way};
use crate::jobs::job::{BODY_BYTES_MAX, JobView, NewJob, Status};
use crate::types::{Index, JobId, NodeId};
use crate::wire::message::{
    BATCH_JOBS_MAX, ClusterStatus, Code, Filter, LogLine, Refusal, Reply, Request, Submitted,
    WAIT_JOBS_MAX, WorkerView,
};
use crate::wire::request::{BATCH_BYTES_MAX, job_bytes_max};

/// Connecting and greeting take so long at most, unless the builder says otherwise.
pub const CONNECT_TIME: Duration = Duration::from_secs(2);

/// One call takes so long at most with all its tries, unless the builder or the call says otherwise.
pub const REQUEST_TIME: Duration = Duration::from_secs(10);

/// A connection that takes longer than this is raced by one to another node.
const HEDGE: Duration = Duration::from_millis(200);

/// One poll of [`Client::wait`] takes so long at most, in ms.
const WAIT_POLL_MS: u64 = 10_000;

/// How much later than its time [`Client::wait`] may answer, in ms, so that a last answer on its way counts.
const WAIT_GRACE_MS: u64 = 2_000;

/// How long [`Client::cluster_status`] looks for a leader before a node's own view will do, in ms.
const STATUS_LEADER_MS: u64 = 1_500;

/// Bytes of one batch: well below what a frame may have, so that many clients get their turn.
const BATCH_BYTES: usize = 1 << 20;

// The largest job fits a batch of its own.
const _: () = assert!(BODY_BYTES_MAX < BATCH_BYTES_MAX && BATCH_BYTES <= BATCH_BYTES_MAX);

/// A client of one cluster. Clones share its connections and what it knows of the cluster; the last to go
/// closes them. Every future it makes may be dropped at any time.
#[derive(Clone)]
pub struct Client {
    pool: Arc<Pool>,
    request_ms: u64,
}

/// How a [`Client`] is made.
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    seeds: Vec<String>,
    connect_time: Duration,
    request_time: Duration,
    name: String,
}

/// What is special about one [`Client::call`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallOptions {
    timeout: Option<Duration>,
}

impl CallOptions {
    /// Gives the call so long, with all its tries.
    #[must_use]
    pub fn timeout(timeout: Duration) -> Self {
        Self { timeout: Some(timeout) }
    }
}

impl Builder {
    /// Sets the addresses (`HOST:PORT`) asked first; one that lives is enough, the rest is learnt.
    pub fn seeds<S: Into<String>>(mut self, seeds: impl IntoIterator<Item = S>) -> Self {
        self.seeds = seeds.into_iter().map(Into::into).collect();
        self
    }

    /// Sets how long connecting and greeting may take; [`CONNECT_TIME`] unless set.
    pub fn connect_timeout(mut self, time: Duration) -> Self {
        self.connect_time = time;
        self
    }

    /// Sets how long a call may take with all its tries; [`REQUEST_TIME`] unless set.
    pub fn request_timeout(mut self, time: Duration) -> Self {
        self.request_time = time;
        self
    }

    /// Sets what the client calls itself in the logs of the nodes.
    pub fn name(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    /// Makes the client; nothing is connected before the first request.
    ///
    /// # Errors
    /// [`Error::Invalid`] without a seed, or with one that is no `HOST:PORT`.
    pub fn build(self) -> Result<Client, Error> {
        if self.seeds.is_empty() {
            return Err(Error::Invalid("no address: name at least one node as HOST:PORT".into()));
        }
        let is_addr = |seed: &&String| {
            let split = seed.rsplit_once(':');
            split.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        if let Some(seed) = self.seeds.iter().find(|seed| !is_addr(seed)) {
            return Err(Error::Invalid(format!("{seed:?} is no address: write HOST:PORT")));
        }
        let pool = Pool::new(self.name, self.connect_time, Directory::new(self.seeds));
        Ok(Client { pool: Arc::new(pool), request_ms: whole_ms(self.request_time) })
    }
}

impl Client {
    /// Begins to make a client.
    pub fn builder() -> Builder {
        Builder {
            seeds: Vec::new(),
            connect_time: CONNECT_TIME,
            request_time: REQUEST_TIME,
            name: concat!("raftq client/", env!("CARGO_PKG_VERSION")).into(),
        }
    }

    /// Ends every connection of this client and its clones. Calls under way end with [`Error::Unknown`] if they
    /// may have changed something; later ones are refused.
    pub fn close(&self) {
        self.pool.close();
    }

    /// Sends one request until it is answered or out of time: follows hints to the leader, goes round dead and
    /// silent nodes, backs off where told to. The same request may reach the cluster more than once; all but
    /// `TransferLeadership` to nobody in particular bear that, and that one is not sent again.
    ///
    /// # Errors
    /// [`Error`]; [`Reply::Refused`] is never returned as a reply.
    pub async fn call(&self, request: Request, options: CallOptions) -> Result<Reply, Error> {
        let timeout_ms = options.timeout.map_or(self.request_ms, whole_ms);
        self.call_for(&request, timeout_ms).await
    }

    async fn call_for(&self, request: &Request, timeout_ms: u64) -> Result<Reply, Error> {
        let policy = Policy::of(request);
        let mut attempt = Attempt::new(policy, timeout_ms, now_ms(), fastrand::u64(..));
        loop {
            if self.pool.is_closed() {
                return Err(attempt.stop(CLOSED));
            }
            let step = attempt.next(&self.pool.directory(), now_ms());
            match step {
                Step::GiveUp(error) => return Err(error),
                Step::Wait { ms } => task::sleep(Duration::from_millis(ms)).await,
                Step::Ask { addr, timeout_ms } => {
                    let Some(connection) = self.reach(&mut attempt, addr).await else {
                        continue;
                    };
                    let answer = self.ask(&mut attempt, &connection, request, timeout_ms).await?;
                    if let Some(reply) = answer {
                        return Ok(reply);
                    }
                }
            }
        }
    }

    /// Returns a connection to this node, or to another one if this one takes long; `None` if there is none in
    /// time.
    async fn reach(&self, attempt: &mut Attempt, addr: String) -> Option<Connection> {
        let mut racing: FuturesUnordered<BoxFuture<'static, (String, _)>> = FuturesUnordered::new();
        let mut runners: Vec<String> = Vec::new();
        let mut next = Some(addr);
        loop {
            if let Some(addr) = next.take() {
                match self.pool.way(&addr) {
                    Way::Ready(connection) => return Some(self.won(connection, &runners)),
                    Way::Closed => return None,
                    Way::Connecting(connecting) => {
                        runners.push(addr.clone());
                        racing.push(connecting.map(|made| (addr, made)).boxed());
                    }
                }
            }
            let left_ms = attempt.deadline_ms().saturating_sub(now_ms());
            let patience = HEDGE.min(Duration::from_millis(left_ms));
            match timeout(patience, racing.next()).await {
                Ok(Some((_, Ok(connection)))) => return Some(self.won(connection, &runners)),
                Ok(Some((addr, Err(error)))) => {
                    runners.retain(|runner| *runner != addr);
                    self.lost(attempt, &addr, &error);
                }
                Ok(None) => return None,
                Err(_elapsed) if left_ms == 0 => {
                    let failed = ConnectError::Failed("no connection in time".into());
                    runners.iter().for_each(|addr| self.lost(attempt, addr, &failed));
                    return None;
                }
                Err(_elapsed) => {
                    next = attempt.alternative(&self.pool.directory(), now_ms(), &runners);
                    next.iter().for_each(|addr| attempt.note_asked(addr));
                }
            }
        }
    }

    /// Notes that a race for a connection was won; those still running are slow, and hints to them are not
    /// followed until they arrive.
    fn won(&self, connection: Connection, runners: &[String]) -> Connection {
        let mut directory = self.pool.directory();
        for slow in runners.iter().filter(|runner| *runner != connection.addr()) {
            directory.failed(slow, now_ms());
        }
        drop(directory);
        connection
    }

    fn lost(&self, attempt: &mut Attempt, addr: &str, error: &ConnectError) {
        let mut directory = self.pool.directory();
        match error {
            ConnectError::Failed(why) => {
                attempt.on_broken(&mut directory, addr, false, why, now_ms());
            }
            ConnectError::Rejected(reject) => {
                attempt.on_reject(&mut directory, addr, reject, now_ms());
            }
        }
    }

    /// Asks one node; `None` if the call has to go on.
    async fn ask(
        &self,
        attempt: &mut Attempt,
        connection: &Connection,
        request: &Request,
        timeout_ms: u64,
    ) -> Result<Option<Reply>, Error> {
        let addr = connection.addr();
        let began_ms = now_ms();
        let time_ms = timeout_ms.min(attempt.deadline_ms().saturating_sub(began_ms));
        let asked = timeout(Duration::from_millis(time_ms), connection.ask(request)).await;
        let mut directory = self.pool.directory();
        match asked {
            Ok(Ok(reply)) => {
                let is_answer = attempt.on_reply(&mut directory, addr, &reply, now_ms());
                return Ok(is_answer.then_some(reply));
            }
            Ok(Err(Broken::Lost { sent, why })) => {
                attempt.on_broken(&mut directory, addr, sent, &why, now_ms());
            }
            Ok(Err(Broken::TooLarge { bytes, max })) => {
                let name = request.name();
                return Err(Error::Invalid(format!(
                    "{name} has {bytes} bytes, and a node takes {max} at once: split it"
                )));
            }
            Err(_elapsed) => {
                let now_ms = now_ms();
                attempt.on_silent(&mut directory, addr, now_ms.saturating_sub(began_ms), now_ms);
                drop(directory);
                if connection.silent_ms(now_ms) >= ATTEMPT_MS {
                    connection.close("the node stayed silent");
                }
            }
        }
        Ok(None)
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "every other reply answers another question")]
impl Client {
    /// Submits one job and returns when it is on the disks of a majority. The same [`NewJob`] submitted again
    /// is the same job.
    ///
    /// # Errors
    /// [`Error`]; with [`Error::Unknown`] submit the same [`NewJob`] again to learn what became of it.
    pub async fn submit(&self, job: impl Into<NewJob>) -> Result<Submitted, Error> {
        let job = job.into();
        check(&job)?;
        match self.call_for(&Request::SubmitJob(job), self.request_ms).await? {
            Reply::Submitted(submitted) => Ok(submitted),
            other => Err(unexpected(&other)),
        }
    }

    /// Submits many jobs, in as many batches as they need, in order; each is decided for itself, and one that no
    /// node would take is refused here. Once a batch was decided, one that fails after it does not hide that: its
    /// jobs are refused one by one, as unknown where they may have been taken, and those after them are refused
    /// as not sent.
    ///
    /// # Errors
    /// [`Error`] when not even the first batch was answered.
    pub async fn submit_batch(
        &self,
        jobs: Vec<NewJob>,
    ) -> Result<Vec<Result<Submitted, Refusal>>, Error> {
        let faults: Vec<Option<Refusal>> =
            jobs.iter().map(|job| job.body.fault().map(Refusal::invalid)).collect();
        let sound = jobs.into_iter().zip(&faults).filter(|(_, fault)| fault.is_none());
        let mut decided = self.submit_sound(sound.map(|(job, _)| job).collect()).await?.into_iter();
        let missing = || Err(Refusal::internal("no result for this job").with_unknown_outcome());
        let result = |fault: Option<Refusal>| match fault {
            Some(refusal) => Err(refusal),
            None => decided.next().unwrap_or_else(missing),
        };
        Ok(faults.into_iter().map(result).collect())
    }

    async fn submit_sound(
        &self,
        jobs: Vec<NewJob>,
    ) -> Result<Vec<Result<Submitted, Refusal>>, Error> {
        let count = jobs.len();
        let mut results = Vec::with_capacity(count);
        for batch in batches(jobs) {
            let batch_len = batch.len();
            match self.submit_one_batch(batch).await {
                Ok(decided) => results.extend(decided),
                Err(error) if results.is_empty() => return Err(error),
                Err(error) => {
                    let refusal = as_refusal(&error);
                    results.extend(std::iter::repeat_n(Err(refusal), batch_len));
                    let unsent = Refusal::unavailable(format!("not sent: {error}"));
                    results.resize(count, Err(unsent));
                    break;
                }
            }
        }
        Ok(results)
    }

    async fn submit_one_batch(
        &self,
        batch: Vec<NewJob>,
    ) -> Result<Vec<Result<Submitted, Refusal>>, Error> {
        let count = batch.len();
        match self.call_for(&Request::SubmitBatch(batch), self.request_ms).await? {
            Reply::SubmittedBatch(results) if results.len() == count => Ok(results),
            other => Err(unexpected(&other)),
        }
    }

    /// Returns one job, as it is after everything answered before this call.
    ///
    /// # Errors
    /// [`Error`]; a job nobody knows is refused with [`Code::NotFound`].
    pub async fn get(&self, id: JobId) -> Result<JobView, Error> {
        match self.call_for(&Request::GetJob { id }, self.request_ms).await? {
            Reply::Job(job) => Ok(*job),
            other => Err(unexpected(&other)),
        }
    }

    /// Returns a page of jobs in order of id, and whether there are more: then ask with `after` the last id.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn list(&self, filter: Filter) -> Result<(Vec<JobView>, bool), Error> {
        match self.call_for(&Request::ListJobs(filter), self.request_ms).await? {
            Reply::Jobs { jobs, more } => Ok((jobs, more)),
            other => Err(unexpected(&other)),
        }
    }

    /// Waits until all these jobs have ended, and returns them in order. With a time it returns them as they
    /// are when it is up, at the latest; without one it waits for ever, through elections and outages.
    ///
    /// # Errors
    /// [`Error`] when with a time no node answered at all, or a node refused the wait itself.
    pub async fn wait(
        &self,
        ids: &[JobId],
        time: Option<Duration>,
    ) -> Result<Vec<Result<JobView, Refusal>>, Error> {
        let deadline_ms = time.map(|time| now_ms().saturating_add(whole_ms(time)));
        let answer_ms = match time {
            Some(time) if !time.is_zero() => self.request_ms.min(WAIT_GRACE_MS),
            Some(_) | None => self.request_ms,
        };
        let mut known = BTreeMap::new();
        for some in ids.chunks(WAIT_JOBS_MAX) {
            self.wait_for_some(some, deadline_ms, answer_ms, &mut known).await?;
        }
        let unknown = || Err(Refusal::not_found("no node told of this job"));
        Ok(ids.iter().map(|id| known.get(id).cloned().unwrap_or_else(unknown)).collect())
    }

    async fn wait_for_some(
        &self,
        ids: &[JobId],
        deadline_ms: Option<u64>,
        answer_ms: u64,
        known: &mut BTreeMap<JobId, Result<JobView, Refusal>>,
    ) -> Result<(), Error> {
        let mut pending: BTreeSet<JobId> = ids.iter().copied().collect();
        while !pending.is_empty() {
            let left_ms = deadline_ms.map(|at_ms| at_ms.saturating_sub(now_ms()));
            let wait_ms = left_ms.unwrap_or(WAIT_POLL_MS).min(WAIT_POLL_MS);
            let request = Request::WaitJobs { ids: pending.iter().copied().collect(), wait_ms };
            let answer = self.call_for(&request, wait_ms.saturating_add(answer_ms)).await;
            let is_over = deadline_ms.is_some_and(|at_ms| at_ms <= now_ms());
            match answer {
                Ok(Reply::Waited(results)) if results.len() == pending.len() => {
                    let asked = pending.len();
                    for (id, result) in std::mem::take(&mut pending).into_iter().zip(results) {
                        if is_unsettled(&result, is_over) {
                            pending.insert(id);
                        }
                        known.insert(id, result);
                    }
                    if is_over && pending.len() == asked {
                        return Ok(());
                    }
                }
                Ok(other) => return Err(unexpected(&other)),
                Err(error) if error.is_retryable() && !is_over => {
                    log::debug!("still waiting for {} jobs: {error}", pending.len());
                }
                Err(_) if pending.iter().all(|id| known.contains_key(id)) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Cancels jobs, the running ones among them, and returns the status each has now, in order.
    ///
    /// # Errors
    /// [`Error`] of the first part of the list that was not answered; parts before it are cancelled, and may
    /// be cancelled again.
    pub async fn cancel(&self, ids: &[JobId]) -> Result<Vec<Result<Status, Refusal>>, Error> {
        let mut results = Vec::with_capacity(ids.len());
        for some in ids.chunks(WAIT_JOBS_MAX) {
            let request = Request::CancelJobs { ids: some.to_vec() };
            match self.call_for(&request, self.request_ms).await? {
                Reply::Cancelled(some_results) if some_results.len() == some.len() => {
                    results.extend(some_results);
                }
                other => return Err(unexpected(&other)),
            }
        }
        Ok(results)
    }

    /// Returns the workers of the cluster.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn workers(&self) -> Result<Vec<WorkerView>, Error> {
        match self.call_for(&Request::ListWorkers, self.request_ms).await? {
            Reply::Workers(workers) => Ok(workers),
            other => Err(unexpected(&other)),
        }
    }

    /// Returns the cluster as its leader sees it; where no leader is found, as one node sees it.
    ///
    /// # Errors
    /// [`Error`] when no node answers at all.
    pub async fn cluster_status(&self) -> Result<ClusterStatus, Error> {
        let request = Request::GetClusterStatus { local: false };
        let reply = match self.call_for(&request, self.request_ms.min(STATUS_LEADER_MS)).await {
            Err(error) if error.is_retryable() => {
                let request = Request::GetClusterStatus { local: true };
                self.call_for(&request, self.request_ms).await?
            }
            Err(error) => return Err(error),
            Ok(reply) => reply,
        };
        match reply {
            Reply::ClusterStatus(status) => Ok(*status),
            other => Err(unexpected(&other)),
        }
    }

    /// Returns entries of the log of one node, from `from` on: of the leader, where one is known.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn log(&self, from: Index, limit: u32) -> Result<Vec<LogLine>, Error> {
        match self.call_for(&Request::ListLog { from, limit }, self.request_ms).await? {
            Reply::Log(lines) => Ok(lines),
            other => Err(unexpected(&other)),
        }
    }

    /// Asks the leader to hand over to this node, or to the one that is furthest, and returns to whom it does.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn transfer(&self, to: Option<NodeId>) -> Result<NodeId, Error> {
        let request = Request::TransferLeadership { to };
        match self.call_for(&request, self.request_ms).await? {
            Reply::Transferred { to } => Ok(to),
            other => Err(unexpected(&other)),
        }
    }
}

/// Refuses here what every node would: a body that is none.
fn check(job: &NewJob) -> Result<(), Error> {
    let fault = |fault| Error::Invalid(format!("job {}: {fault}", job.id));
    job.body.fault().map_or(Ok(()), |text| Err(fault(text)))
}

/// Cuts jobs into batches of at most [`BATCH_JOBS_MAX`] jobs and, but for one large job, [`BATCH_BYTES`].
fn batches(jobs: Vec<NewJob>) -> Vec<Vec<NewJob>> {
    let mut batches = Vec::new();
    let mut batch = Vec::new();
    let mut bytes = 0;
    for job in jobs {
        let job_bytes = job_bytes_max(&job);
        let is_full = batch.len() >= BATCH_JOBS_MAX || bytes + job_bytes > BATCH_BYTES;
        if is_full && !batch.is_empty() {
            batches.push(std::mem::take(&mut batch));
            bytes = 0;
        }
        bytes += job_bytes;
        batch.push(job);
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

/// Tells whether a wait has to ask for this job again: it runs and there is time, or it had no room in the
/// answer.
fn is_unsettled(result: &Result<JobView, Refusal>, is_over: bool) -> bool {
    match result {
        Ok(job) => !job.status.is_final() && !is_over,
        Err(refusal) => refusal.code == Code::ResourceExhausted,
    }
}

fn as_refusal(error: &Error) -> Refusal {
    match error {
        Error::Refused { refusal, .. } => refusal.clone(),
        Error::Unknown(why) => Refusal { message: why.clone(), ..Refusal::deadline_exceeded() },
        Error::Unreachable(why) | Error::NoLeader(why) => Refusal::unavailable(why.clone()),
        Error::Invalid(why) => Refusal::invalid(why.clone()),
    }
}

/// A node that answers another question than the one asked is broken; what it did is anybody's guess.
pub(crate) fn unexpected(reply: &Reply) -> Error {
    let kind = reply.kind();
    let refusal = Refusal::internal(format!("an answer to another question, of kind 0x{kind:02x}"));
    Error::Refused { refusal: refusal.with_unknown_outcome(), asked: "a node".into() }
}

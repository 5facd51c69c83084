//! The client: jobs in, answers out, whatever happens to single nodes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;

use crate::client::clock;
use crate::client::cluster::{Addr, Cluster, SEEDS_MAX};
use crate::client::connection::Asked;
use crate::client::core::{Call, Reached, Step};
use crate::client::error::{Error, Story};
use crate::client::in_flight::Lost;
use crate::client::job::Job;
use crate::client::moment::Moment;
use crate::client::pool::Pool;
use crate::jobs::intake::{Intake, ProgressReport};
use crate::jobs::job::{JobView, Status};
use crate::jobs::rules::QueueChange;
use crate::types::{Index, JobId, NodeId, QueueName, WorkerId};
use crate::wire::message::{
    ClusterStatus, Code, Filter, LogLine, QueueChanged, QueueFilter, QueueView, Refusal, Reply,
    Request, Submitted, WAIT_JOBS_MAX, WAIT_MS_MAX, WorkerView,
};

/// How long making a connection may take, handshake and all, unless told otherwise.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a request may take with all its tries, unless told otherwise. A node answers within 5.5 s,
/// so there is time for another try.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The first pause before a node without a leader is asked for the cluster's status again; it doubles.
const STATUS_PAUSE: Duration = Duration::from_millis(50);

/// One long poll of [`Client::wait`], at most. Shorter than a node allows: a node that dies is left sooner.
const POLL_MS_MAX: u64 = 20_000;

/// The shortest time between two polls of [`Client::wait`] that found nothing new.
const POLL_PAUSE: Duration = Duration::from_millis(10);

/// How long [`Client::cluster_status`] looks for a leader before a view without one will do.
const LEADER_SOUGHT: Duration = Duration::from_secs(2);

const _: () = assert!(POLL_MS_MAX <= WAIT_MS_MAX);

/// A client of one cluster. Clones are cheap and share everything, connections included.
///
/// All methods take `&self` and may run at the same time by the thousand: they share one connection to
/// the leader. A future that is dropped disturbs no other; what it asked for may still be done.
#[derive(Clone, Debug)]
pub struct Client {
    pool: Arc<Pool>,
    pub(crate) request_timeout: Duration,
}

/// Makes a [`Client`].
#[derive(Clone, Debug)]
pub struct Builder {
    seeds: Vec<String>,
    agent: String,
    connect_timeout: Duration,
    request_timeout: Duration,
    seed: Option<u64>,
}

/// How one call of [`Client::call`] is made.
#[derive(Clone, Debug)]
pub struct CallOptions {
    timeout: Duration,
    node: Option<String>,
}

impl CallOptions {
    /// The call may take so long, with all its tries.
    #[must_use]
    pub fn timeout(timeout: Duration) -> Self {
        Self { timeout, node: None }
    }

    /// Only this node is asked, `HOST:PORT`.
    #[must_use]
    pub fn node(mut self, addr: impl Into<String>) -> Self {
        self.node = Some(addr.into());
        self
    }
}

impl Builder {
    /// Adds addresses of nodes, `HOST:PORT`: a few of the cluster, at most [`SEEDS_MAX`]. Any of them may
    /// be down; the others are found through the one that is not.
    #[must_use]
    pub fn seeds<S: Into<String>>(mut self, seeds: impl IntoIterator<Item = S>) -> Self {
        self.seeds.extend(seeds.into_iter().map(Into::into));
        self
    }

    /// Sets how long making one connection may take, handshake and all ([`CONNECT_TIMEOUT`]).
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets how long one request may take, with all its tries ([`REQUEST_TIMEOUT`]).
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// Sets what the client calls itself in the nodes' logs: program and version.
    #[must_use]
    pub fn name(mut self, agent: impl Into<String>) -> Self {
        self.agent = agent.into();
        self
    }

    /// Fixes all chance, so that a test sees the same pauses each time.
    #[must_use]
    pub fn dice(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Makes the client. Nothing is connected before the first request.
    ///
    /// # Errors
    /// [`Error::Invalid`] without seeds, with too many, or with one that is no `HOST:PORT`.
    pub fn build(self) -> Result<Client, Error> {
        if self.seeds.is_empty() {
            let text = "a client needs the address of at least one node, HOST:PORT";
            return Err(Error::Invalid(text.into()));
        }
        if self.seeds.len() > SEEDS_MAX {
            let text = format!("{} addresses of nodes; at most {SEEDS_MAX}", self.seeds.len());
            return Err(Error::Invalid(text));
        }
        if let Some(wrong) = self.seeds.iter().find(|seed| !is_addr(seed)) {
            return Err(Error::Invalid(format!("{wrong:?} is no address of a node: HOST:PORT")));
        }
        let seeds = self.seeds.iter().map(|seed| Addr::from(seed.as_str()));
        let cluster = Cluster::new(seeds, self.seed.unwrap_or_else(|| fastrand::u64(..)));
        let pool = Pool::new(cluster, self.agent, self.connect_timeout);
        Ok(Client { pool, request_timeout: self.request_timeout })
    }
}

fn is_addr(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

impl Client {
    /// Begins to make a client.
    #[must_use]
    pub fn builder() -> Builder {
        Builder {
            seeds: Vec::new(),
            agent: concat!("raftq client/", env!("CARGO_PKG_VERSION")).into(),
            connect_timeout: CONNECT_TIMEOUT,
            request_timeout: REQUEST_TIMEOUT,
            seed: None,
        }
    }

    /// Submits a job. When this returns `Ok`, the job is on a majority's disks. (`created: false`: the
    /// same job was taken before, perhaps by a former try of this very call.)
    ///
    /// # Errors
    /// [`Error::Unknown`] names the job's id: submit the same job with that id to find out.
    pub async fn submit(&self, job: impl Into<Job>) -> Result<Submitted, Error> {
        let job = job.into().into_new()?;
        let Reply::Submitted(submitted) = self.ask(Request::SubmitJob(job)).await? else {
            return Err(misplaced());
        };
        Ok(submitted)
    }

    /// Asks for a job as it is now; every change acknowledged before is seen, on any node.
    ///
    /// # Errors
    /// [`Error::Refused`] with `NOT_FOUND` if there is no such job (any more).
    pub async fn get(&self, id: JobId) -> Result<JobView, Error> {
        let Reply::Job(job) = self.ask(Request::GetJob { id }).await? else {
            return Err(misplaced());
        };
        Ok(*job)
    }

    /// Asks for a page of jobs, and whether there are more: then ask again with `after` set to the
    /// last id of the page. It goes on by itself while few jobs pass the filter and none was found.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn list(&self, filter: Filter) -> Result<(Vec<JobView>, bool), Error> {
        let mut page = self.page(filter.clone()).await?;
        while page.jobs.is_empty() && page.next.is_some() {
            page = self.page(Filter { after: page.next, ..filter.clone() }).await?;
        }
        Ok((page.jobs, page.next.is_some()))
    }

    /// Waits until all of these jobs have ended, at most `limit` long (for ever without one), and returns
    /// them as they are then, in order; a job nobody knows is refused in its place. Leaders may change
    /// meanwhile. While no node answers, it goes on for the time of one request beyond `limit`.
    ///
    /// # Errors
    /// When no node answered for the time of one request.
    pub async fn wait(
        &self,
        ids: &[JobId],
        limit: Option<Duration>,
    ) -> Result<Vec<Result<JobView, Refusal>>, Error> {
        let deadline = limit.map_or(Moment(u64::MAX), |limit| clock::now().after(limit));
        let mut results = Vec::with_capacity(ids.len());
        for chunk in ids.chunks(WAIT_JOBS_MAX) {
            results.extend(self.wait_chunk(chunk, deadline).await?);
        }
        Ok(results)
    }

    async fn wait_chunk(
        &self,
        ids: &[JobId],
        deadline: Moment,
    ) -> Result<Vec<Result<JobView, Refusal>>, Error> {
        let mut results: Vec<Option<Result<JobView, Refusal>>> = vec![None; ids.len()];
        loop {
            let open: Vec<usize> = results
                .iter()
                .enumerate()
                .filter(|(_, result)| !result.as_ref().is_some_and(has_ended))
                .map(|(at, _)| at)
                .collect();
            let now = clock::now();
            // Once everything is known, the end of the time ends the wait; until then it ends a call.
            let is_over = now >= deadline && results.iter().all(Option::is_some);
            if open.is_empty() || is_over {
                return Ok(results.into_iter().flatten().collect());
            }
            let left = u64::try_from(deadline.since(now).as_millis()).unwrap_or(u64::MAX);
            let wait_ms = left.min(POLL_MS_MAX);
            let wanted = open.iter().filter_map(|at| ids.get(*at)).copied().collect();
            let until =
                now.after(Duration::from_millis(wait_ms).saturating_add(self.request_timeout));
            let request = Request::WaitJobs { ids: wanted, wait_ms };
            let Reply::Waited(answered) = self.call_until(request, None, until).await? else {
                return Err(misplaced());
            };
            for (at, result) in open.into_iter().zip(answered) {
                if let Some(place) = results.get_mut(at) {
                    *place = Some(result);
                }
            }
            let soon = now.after(POLL_PAUSE);
            if wait_ms > 0 && clock::now() < soon {
                clock::sleep_until(soon).await;
            }
        }
    }

    /// Asks something of any number of jobs, in as many requests as it takes.
    async fn ask_in_parts<T>(
        &self,
        ids: &[JobId],
        request: impl Fn(Vec<JobId>) -> Request,
        results: impl Fn(Reply) -> Option<Vec<T>>,
    ) -> Result<Vec<T>, Error> {
        let mut all = Vec::with_capacity(ids.len());
        for chunk in ids.chunks(WAIT_JOBS_MAX) {
            let reply = self.ask(request(chunk.to_vec())).await?;
            all.extend(results(reply).ok_or_else(misplaced)?);
        }
        Ok(all)
    }

    /// Cancels jobs, the running ones too, and returns the status each has now, in order.
    ///
    /// # Errors
    /// [`Error::Unknown`] names the jobs of the request that may have been cancelled.
    pub async fn cancel(&self, ids: &[JobId]) -> Result<Vec<Result<Status, Refusal>>, Error> {
        let results =
            |reply| if let Reply::Cancelled(results) = reply { Some(results) } else { None };
        self.ask_in_parts(ids, |ids| Request::CancelJobs { ids }, results).await
    }

    /// Has jobs that failed or were cancelled tried again, as if they were new; a result for each, in order.
    ///
    /// # Errors
    /// [`Error::Unknown`] names the jobs of the request that may have been taken up.
    pub async fn retry(&self, ids: &[JobId]) -> Result<Vec<Result<(), Refusal>>, Error> {
        let results =
            |reply| if let Reply::Retried(results) = reply { Some(results) } else { None };
        self.ask_in_parts(ids, |ids| Request::RetryJobs { ids }, results).await
    }

    /// Forgets jobs that have ended; a result for each, in order.
    ///
    /// # Errors
    /// [`Error::Unknown`] names the jobs of the request that may be forgotten.
    pub async fn purge(&self, ids: &[JobId]) -> Result<Vec<Result<(), Refusal>>, Error> {
        let results = |reply| if let Reply::Purged(results) = reply { Some(results) } else { None };
        self.ask_in_parts(ids, |ids| Request::PurgeJobs { ids }, results).await
    }

    /// Changes the rules of a queue, and returns what it has.
    ///
    /// # Errors
    /// Any [`Error`]. The same change made twice is the same as made once.
    pub async fn change_queue(
        &self,
        queue: QueueName,
        change: QueueChange,
    ) -> Result<QueueChanged, Error> {
        let Reply::QueueChanged(changed) = self.ask(Request::ChangeQueue { queue, change }).await?
        else {
            return Err(misplaced());
        };
        Ok(changed)
    }

    /// Decides whether a worker is given new jobs, and returns how many it runs. It hears of it with its next
    /// heartbeat, within about a second; the leader gives it no more jobs at once.
    ///
    /// # Errors
    /// [`Error::Refused`] with `NOT_FOUND` if there is no worker of this name, and with `FAILED_PRECONDITION` if
    /// one that does not run was to be drained. The same decision made twice is the same as made once.
    pub async fn change_worker(&self, worker: WorkerId, intake: Intake) -> Result<u32, Error> {
        let request = Request::ChangeWorker { worker, intake };
        let Reply::WorkerChanged { running } = self.ask(request).await? else {
            return Err(misplaced());
        };
        Ok(running)
    }

    /// Says how far a job is, on behalf of the attempt that runs it. Handlers of a worker say it with
    /// [`Context::progress`](crate::client::context::Context::progress).
    ///
    /// # Errors
    /// [`Error::Refused`] with `STALE_FENCE` if the job was taken away from that attempt, or has ended.
    pub async fn report_progress(&self, report: ProgressReport) -> Result<(), Error> {
        let Reply::ProgressNoted = self.ask(Request::ReportProgress(report)).await? else {
            return Err(misplaced());
        };
        Ok(())
    }

    /// Returns the result of a job that has completed: what its worker's handler returned, or the last bytes that
    /// its command printed.
    ///
    /// # Errors
    /// [`Error::Refused`] with `NOT_FOUND` if there is no such job (any more), and with `FAILED_PRECONDITION` if it
    /// has not ended or has no result, for it failed or was cancelled: [`Client::wait`] waits and tells which.
    pub async fn result(&self, id: JobId) -> Result<Bytes, Error> {
        let job = self.get(id).await?;
        let text = match (job.status, &job.error) {
            (Status::Completed, _) => return Ok(job.output),
            (Status::Pending | Status::Running, _) => {
                format!("job {id} has no result yet: it is {}", job.status.as_str())
            }
            (Status::Failed | Status::Cancelled, error) => {
                let why = error.as_deref().unwrap_or("nobody knows why");
                format!("job {id} has no result: it is {}: {why}", job.status.as_str())
            }
        };
        let refusal = Box::new(Refusal::new(Code::FailedPrecondition, text));
        Err(Error::Refused { refusal, story: Box::<Story>::default() })
    }

    /// Asks for every queue that has jobs or rules, in order of name.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn queues(&self) -> Result<Vec<QueueView>, Error> {
        let mut queues: Vec<QueueView> = Vec::new();
        loop {
            let after = queues.last().map(|queue| queue.name.clone());
            let request = Request::ListQueues(QueueFilter { after, limit: 0 });
            let Reply::Queues { queues: page, more } = self.ask(request).await? else {
                return Err(misplaced());
            };
            let is_last = !more || page.is_empty();
            queues.extend(page);
            if is_last {
                return Ok(queues);
            }
        }
    }

    /// Asks for every worker in the registry.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn workers(&self) -> Result<Vec<WorkerView>, Error> {
        let Reply::Workers(workers) = self.ask(Request::ListWorkers).await? else {
            return Err(misplaced());
        };
        Ok(workers)
    }

    /// Asks for the cluster as its leader sees it. If there is none for a while, the view of a node
    /// that can be reached is returned, the one of the highest term; `from_leader` is `false` then.
    ///
    /// # Errors
    /// When no node can be reached.
    pub async fn cluster_status(&self) -> Result<ClusterStatus, Error> {
        let began = clock::now();
        let end = began.after(self.request_timeout);
        let sought = began.after(LEADER_SOUGHT.min(self.request_timeout / 2));
        let mut best: Option<ClusterStatus> = None;
        let mut pause = STATUS_PAUSE;
        let mut failed = None;
        while clock::now() < sought {
            match self.status(None, sought).await {
                Ok(status) if status.from_leader => return Ok(status),
                Ok(status) => best = newer(best, status),
                Err(error) => failed = Some(error),
            }
            // A node without a leader answered at once; an election takes longer.
            clock::sleep_until(clock::now().after(pause).min(sought)).await;
            pause = pause.saturating_mul(2);
        }
        let addrs = self.pool.cluster().addrs();
        let own_views = addrs.into_iter().map(|addr| {
            let until = clock::now().after(LEADER_SOUGHT).min(end);
            self.status(Some(addr), until)
        });
        for view in join_all(own_views).await {
            match view {
                Ok(status) if status.from_leader => return Ok(status),
                Ok(status) => best = newer(best, status),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        best.ok_or_else(|| failed.unwrap_or_else(misplaced))
    }

    /// Asks whoever leads for the cluster's status, or a certain node for its own view.
    async fn status(&self, node: Option<Addr>, until: Moment) -> Result<ClusterStatus, Error> {
        let request = Request::GetClusterStatus { local: node.is_some() };
        let Reply::ClusterStatus(status) = self.call_until(request, node, until).await? else {
            return Err(misplaced());
        };
        Ok(*status)
    }

    /// Asks a node for entries of its log, for people.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn log(&self, from: Index, limit: u32) -> Result<Vec<LogLine>, Error> {
        lines(self.ask(Request::ListLog { from, limit }).await?)
    }

    /// Asks one certain node for entries of its log.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn log_of(&self, addr: &str, from: Index, limit: u32) -> Result<Vec<LogLine>, Error> {
        let options = CallOptions::timeout(self.request_timeout).node(addr);
        lines(self.call(Request::ListLog { from, limit }, options).await?)
    }

    /// Has the leader hand leadership over, and returns to whom; without `to`, to the node that is furthest.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn transfer(&self, to: Option<NodeId>) -> Result<NodeId, Error> {
        let request = Request::TransferLeadership { to };
        let Reply::Transferred { to } = self.ask(request).await? else {
            return Err(misplaced());
        };
        Ok(to)
    }

    /// Makes any request: finds who answers it, repeats it while that may help, and ends by its deadline.
    /// What is returned is never [`Reply::Refused`].
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn call(&self, request: Request, options: CallOptions) -> Result<Reply, Error> {
        let deadline = clock::now().after(options.timeout);
        let only = options.node.map(|addr| Addr::from(addr.as_str()));
        self.call_until(request, only, deadline).await
    }

    /// Closes every connection. Requests in flight hear that their outcome is unknown; later ones fail.
    #[expect(clippy::unused_async, reason = "closing may wait for something one day")]
    pub async fn close(&self) {
        self.pool.close();
    }

    /// Returns the addresses of the nodes, as far as they are known.
    pub(crate) fn addrs(&self) -> Vec<Addr> {
        self.pool.cluster().addrs()
    }

    /// Makes a client of the same cluster with connections of its own.
    pub(crate) fn sibling(&self) -> Self {
        let cluster = self.pool.cluster().sibling();
        Self { pool: self.pool.sibling(cluster), request_timeout: self.request_timeout }
    }

    pub(super) async fn ask(&self, request: Request) -> Result<Reply, Error> {
        self.call_until(request, None, clock::now().after(self.request_timeout)).await
    }

    pub(crate) async fn call_until(
        &self,
        request: Request,
        only: Option<Addr>,
        deadline: Moment,
    ) -> Result<Reply, Error> {
        let pool = &self.pool;
        let mut now = clock::now();
        let mut call = Call::new(Arc::new(request), only, &mut pool.cluster(), now, deadline);
        loop {
            if pool.is_closed() {
                call.closed();
            }
            let step = call.step(&mut pool.cluster(), now);
            match step {
                Step::Reach(addrs) => {
                    if let Some(done) = self.attempt(&mut call, &addrs, now).await {
                        return done;
                    }
                }
                Step::Wait { until } => clock::sleep_until(until).await,
                Step::Fail(error) => return Err(error),
            }
            now = clock::now();
        }
    }

    /// Reaches one of the nodes and asks it. Returns what the caller gets, if it is decided.
    async fn attempt(
        &self,
        call: &mut Call,
        addrs: &[Addr],
        mut now: Moment,
    ) -> Option<Result<Reply, Error>> {
        let pool = &self.pool;
        let request = Arc::clone(call.request());
        let reached = match addrs.first().and_then(|addr| pool.up(addr)) {
            Some(connection) => Some(Ok(connection)),
            None => {
                let reached = clock::within(call.deadline(), pool.reach(addrs)).await;
                now = clock::now();
                reached
            }
        };
        let connection = match reached {
            Some(Ok(connection)) => connection,
            Some(Err(failures)) => {
                let why: Vec<&str> = failures.iter().map(|failure| &*failure.why).collect();
                let are_rejected = failures.iter().all(|failure| failure.is_rejected);
                call.unreached(&mut pool.cluster(), why.join("; "), are_rejected, now);
                return None;
            }
            None => {
                let why = format!("no connection to {} in time", addrs.join(", "));
                call.unreached(&mut pool.cluster(), why, false, now);
                return None;
            }
        };
        let addr = connection.addr();
        let until = match call.reached(&pool.cluster(), addr, now) {
            Reached::Send { until } => until,
            Reached::Elsewhere => return None,
        };
        let asked = connection.ask(&request, until).await;
        let (mut cluster, now) = (pool.cluster(), clock::now());
        match asked {
            Asked::Answered(reply) => return call.answered(&mut cluster, addr, reply, now),
            Asked::Lost(Lost { was_sent, why }) => {
                call.lost(&mut cluster, addr, was_sent, why.as_ref(), now);
            }
            Asked::Late { was_sent } => call.unanswered(&mut cluster, addr, was_sent, now),
        }
        None
    }
}

fn has_ended(result: &Result<JobView, Refusal>) -> bool {
    match result {
        Ok(job) => job.status.is_final(),
        Err(refusal) => !refusal.is_retryable(),
    }
}

fn newer(best: Option<ClusterStatus>, status: ClusterStatus) -> Option<ClusterStatus> {
    best.into_iter().chain([status]).max_by_key(|status| (status.term, status.commit_index))
}

fn lines(reply: Reply) -> Result<Vec<LogLine>, Error> {
    let Reply::Log(lines) = reply else {
        return Err(misplaced());
    };
    Ok(lines)
}

/// Never happens: [`Call::answered`] lets no reply to another question through.
pub(crate) fn misplaced() -> Error {
    let refusal = Box::new(Refusal::internal("an answer to another question"));
    Error::Refused { refusal, story: Box::<Story>::default() }
}

//! One run of the program against a cluster: the client library, and what its answers mean for a user.

use std::cell::Cell;
use std::time::Duration;

use crate::cli::exit::{Effect, Exit, Failure, exit_of};
use crate::cli::submit::quote;
use crate::cli::target::{Origin, Target};
use crate::client::blocking::{Client, Watcher};
use crate::client::client::CallOptions;
use crate::client::error::Error;
use crate::client::reads::told_index;
use crate::client::watch::From;
use crate::jobs::change::Event;
use crate::jobs::cron::{CronChange, CronView, NewCron};
use crate::jobs::intake::{Intake, ProgressReport};
use crate::jobs::job::{JobView, NewJob, Status};
use crate::jobs::rules::QueueChange;
use crate::node::clock;
use crate::types::{CronName, Index, JobId, NodeId, QueueName, WorkerId};
use crate::wire::crons::{CronAdded, CronChanged};
use crate::wire::message::{
    ClusterStatus, Filter, LogLine, QueueChanged, QueueView, Refusal, Reply, Request, Submitted,
    WorkerView,
};
use crate::wire::reads::Consistency;

/// How long one request may take with all its retries, unless `--timeout` says otherwise.
pub const REQUEST_TIME: Duration = Duration::from_secs(10);

/// What the program says it is, in the logs of the nodes.
const AGENT: &str = concat!("raftq cli/", env!("CARGO_PKG_VERSION"));

/// The cluster asked, and the global options.
pub struct Session {
    client: Client,
    target: Target,
    timeout: Option<Duration>,
    json: bool,
    was_answered: Cell<bool>,
}

impl Session {
    /// Prepares to ask these nodes; nothing is connected before the first request.
    ///
    /// # Errors
    /// A [`Failure`] when the client library cannot start.
    pub fn open(target: Target, timeout: Option<Duration>, json: bool) -> Result<Self, Failure> {
        let client = Self::client(&target, timeout.unwrap_or(REQUEST_TIME))?;
        Ok(Self { client, target, timeout, json, was_answered: Cell::new(false) })
    }

    fn client(target: &Target, time: Duration) -> Result<Client, Failure> {
        Client::builder()
            .seeds(target.addrs.iter().cloned())
            .request_timeout(time)
            .name(AGENT)
            .build()
            .map_err(|error| failure_of(&error, Effect::Reads, target))
    }

    /// Makes an id for a new job.
    #[must_use]
    pub fn new_id() -> JobId {
        JobId::new(clock::wall(), fastrand::u128(..))
    }

    /// Returns `--timeout`, where it was given.
    #[must_use]
    pub fn limit(&self) -> Option<Duration> {
        self.timeout
    }

    /// Tells whether JSON was asked for.
    #[must_use]
    pub fn json(&self) -> bool {
        self.json
    }

    /// Returns the nodes that are asked.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Tells whether the cluster has answered anything in this run.
    #[must_use]
    pub fn was_answered(&self) -> bool {
        self.was_answered.get()
    }

    /// Returns the start of a command line that asks the same nodes.
    #[must_use]
    pub fn program(&self) -> String {
        let addrs = self.target.addrs.join(",");
        let is_known = match self.target.origin {
            Origin::Given => std::env::var("RAFTQ_ADDRS").is_ok_and(|known| known == addrs),
            Origin::Cluster(_) | Origin::Default => true,
        };
        if is_known { "raftq".into() } else { format!("raftq --addrs {}", quote(&addrs)) }
    }

    /// Submits a job.
    ///
    /// # Errors
    /// A [`Failure`]; `Exit::Unknown` when it may have been taken.
    pub fn submit(&self, job: NewJob) -> Result<Submitted, Failure> {
        self.told(self.client.submit(job), Effect::Writes)
    }

    /// Submits many jobs, each decided for itself.
    ///
    /// # Errors
    /// A [`Failure`] of the request as a whole.
    pub fn submit_batch(
        &self,
        jobs: Vec<NewJob>,
    ) -> Result<Vec<Result<Submitted, Failure>>, Failure> {
        let results = self.told(self.client.submit_batch(jobs), Effect::Writes)?;
        Ok(results.into_iter().map(|result| each(result, Effect::Writes)).collect())
    }

    /// Asks for a job.
    ///
    /// # Errors
    /// A [`Failure`], `Exit::NotFound` among them.
    pub fn get(&self, id: JobId) -> Result<JobView, Failure> {
        self.told(self.client.get(id), Effect::Reads)
    }

    /// Asks for a page of jobs, and whether there are more.
    ///
    /// # Errors
    /// A [`Failure`].
    pub fn list(&self, filter: Filter) -> Result<(Vec<JobView>, bool), Failure> {
        self.told(self.client.list(filter), Effect::Reads)
    }

    /// Does a read in a certain way, if one is named, and returns where it was read, if it was asked to say so.
    /// With one address, what a node has applied is read from that node and from no other.
    ///
    /// # Errors
    /// A [`Failure`], `NotFound` among them.
    pub fn read(
        &self,
        read: Request,
        consistency: Option<Consistency>,
    ) -> Result<(Reply, Option<Index>), Failure> {
        let options = CallOptions::timeout(self.timeout.unwrap_or(REQUEST_TIME));
        let Some(consistency) = consistency else {
            return self.told(self.client.call(read, options), Effect::Reads).map(told_index);
        };
        let options = match self.target.addrs.as_slice() {
            [only] if consistency != Consistency::Linearizable => options.node(only.clone()),
            _ => options,
        };
        let answer = self.told(self.client.read(read, consistency, options), Effect::Reads);
        let told = answer.map(|(reply, index)| (reply, Some(index)));
        told.map_err(|failure| match consistency {
            Consistency::MinIndex(index) if failure.exit == Exit::Unreachable => {
                let program = self.program();
                failure.hint(format!(
                    "Has no node that was asked applied entry {index} yet? {program} cluster status shows how far \
                     each is"
                ))
            }
            Consistency::MinIndex(_) | Consistency::Stale | Consistency::Linearizable => failure,
        })
    }

    /// Waits for jobs, at most [`crate::wire::message::WAIT_JOBS_MAX`], for at most `time`, and returns
    /// them as they are then, in order. The answer comes within `limit`, or none does.
    ///
    /// # Errors
    /// A [`Failure`] of the request as a whole.
    pub fn wait(
        &self,
        ids: &[JobId],
        time: Duration,
        limit: Duration,
    ) -> Result<Vec<Result<JobView, Failure>>, Failure> {
        let wait_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let request = Request::WaitJobs { ids: ids.to_vec(), wait_ms };
        let answer = self.client.call(request, CallOptions::timeout(limit));
        let Reply::Waited(results) = self.told(answer, Effect::Reads)? else {
            return Err(Failure::new(Exit::Failure, "a node gave an answer to another question"));
        };
        Ok(results.into_iter().map(|result| each(result, Effect::Reads)).collect())
    }

    /// Cancels jobs and returns the status each has now, in order.
    ///
    /// # Errors
    /// A [`Failure`] of the request as a whole.
    pub fn cancel(&self, ids: &[JobId]) -> Result<Vec<Result<Status, Failure>>, Failure> {
        let results = self.told(self.client.cancel(ids), Effect::Writes)?;
        Ok(results.into_iter().map(|result| each(result, Effect::Writes)).collect())
    }

    /// Has jobs that failed tried again; a result for each, in order.
    ///
    /// # Errors
    /// A [`Failure`] of the request as a whole.
    pub fn retry(&self, ids: &[JobId]) -> Result<Vec<Result<(), Failure>>, Failure> {
        let results = self.told(self.client.retry(ids), Effect::Writes)?;
        Ok(results.into_iter().map(|result| each(result, Effect::Writes)).collect())
    }

    /// Forgets jobs that have ended; a result for each, in order.
    ///
    /// # Errors
    /// A [`Failure`] of the request as a whole.
    pub fn purge(&self, ids: &[JobId]) -> Result<Vec<Result<(), Failure>>, Failure> {
        let results = self.told(self.client.purge(ids), Effect::Writes)?;
        Ok(results.into_iter().map(|result| each(result, Effect::Writes)).collect())
    }

    /// Changes the rules of a queue and returns what it has.
    ///
    /// # Errors
    /// A [`Failure`].
    pub fn change_queue(
        &self,
        queue: &QueueName,
        change: QueueChange,
    ) -> Result<QueueChanged, Failure> {
        self.told(self.client.change_queue(queue.clone(), change), Effect::Writes)
    }

    /// Decides whether a worker is given jobs, and returns how many it runs.
    ///
    /// # Errors
    /// A [`Failure`], `NotFound` among them.
    pub fn change_worker(&self, worker: &WorkerId, intake: Intake) -> Result<u32, Failure> {
        self.told(self.client.change_worker(worker.clone(), intake), Effect::Writes)
    }

    /// Says how far a job is.
    ///
    /// # Errors
    /// A [`Failure`]; `Exit::Failure` if the job was taken away.
    pub fn report_progress(&self, report: ProgressReport) -> Result<(), Failure> {
        self.told(self.client.report_progress(report), Effect::Writes)
    }

    /// Returns the client, for what goes on beside other things.
    #[must_use]
    pub fn async_client(&self) -> &crate::client::client::Client {
        self.client.as_async()
    }

    /// Asks for the queues that have jobs or rules, in order of name.
    ///
    /// # Errors
    /// A [`Failure`].
    pub fn queues(&self) -> Result<Vec<QueueView>, Failure> {
        self.told(self.client.queues(), Effect::Reads)
    }

    /// Adds a cron.
    ///
    /// # Errors
    /// A [`Failure`].
    pub fn add_cron(&self, cron: NewCron) -> Result<CronAdded, Failure> {
        self.told(self.client.add_new_cron(cron), Effect::Writes)
    }

    /// Changes a cron.
    ///
    /// # Errors
    /// A [`Failure`].
    pub fn change_cron(&self, name: &CronName, change: CronChange) -> Result<CronChanged, Failure> {
        self.told(self.client.change_cron(name.clone(), change), Effect::Writes)
    }

    /// Asks for one cron, with what its jobs are.
    ///
    /// # Errors
    /// A [`Failure`].
    pub fn cron(&self, name: &CronName) -> Result<CronView, Failure> {
        self.told(self.client.cron(name.clone()), Effect::Reads)
    }

    /// Asks for the crons, in order of name.
    ///
    /// # Errors
    /// A [`Failure`].
    pub fn crons(&self) -> Result<Vec<CronView>, Failure> {
        self.told(self.client.crons(), Effect::Reads)
    }

    /// Asks for the workers.
    ///
    /// # Errors
    /// A [`Failure`].
    pub fn workers(&self) -> Result<Vec<WorkerView>, Failure> {
        self.told(self.client.workers(), Effect::Reads)
    }

    /// Asks for the workers, for the sake of a remark: `None` when that takes longer than `limit`.
    #[must_use]
    pub fn workers_within(&self, limit: Duration) -> Option<Vec<WorkerView>> {
        match self.client.call(Request::ListWorkers, CallOptions::timeout(limit)) {
            Ok(Reply::Workers(workers)) => Some(workers),
            Ok(_) | Err(_) => None,
        }
    }

    /// Asks for the cluster: the leader's view, or one node's own where there is no leader.
    ///
    /// # Errors
    /// A [`Failure`].
    pub fn status(&self) -> Result<ClusterStatus, Failure> {
        self.told(self.client.cluster_status(), Effect::Reads)
    }

    /// Asks for the cluster as [`Self::status`] does, and takes no longer than `limit`.
    ///
    /// # Errors
    /// A [`Failure`].
    pub fn status_within(&self, limit: Duration) -> Result<ClusterStatus, Failure> {
        if limit >= self.timeout.unwrap_or(REQUEST_TIME) {
            return self.status();
        }
        // The time of a look belongs to a client, so that a shorter one takes a client of its own.
        let client = Self::client(&self.target, limit)?;
        self.told(client.cluster_status(), Effect::Reads)
    }

    /// Asks one node for entries of its log.
    ///
    /// # Errors
    /// A [`Failure`].
    pub fn log(&self, from: Index, limit: u32) -> Result<Vec<LogLine>, Failure> {
        self.told(self.client.log(from, limit), Effect::Reads)
    }

    /// Begins to watch.
    #[must_use]
    pub fn watch(&self, from: From) -> Watcher {
        self.client.watch(from)
    }

    /// Waits for what a watcher gets next.
    ///
    /// # Errors
    /// A [`Failure`]; `Exit::Failure` when going on would leave a gap.
    pub fn watched(&self, watcher: &mut Watcher) -> Result<Vec<Event>, Failure> {
        self.told(watcher.next(), Effect::Reads)
    }

    /// Hands leadership over and returns who gets it.
    ///
    /// # Errors
    /// A [`Failure`].
    pub fn transfer(&self, to: Option<NodeId>) -> Result<NodeId, Failure> {
        self.told(self.client.transfer(to), Effect::Writes)
    }

    /// Translates an answer and remembers that there was one.
    fn told<T>(&self, answer: Result<T, Error>, effect: Effect) -> Result<T, Failure> {
        match answer {
            Ok(answer) => {
                self.was_answered.set(true);
                Ok(answer)
            }
            Err(error) => Err(failure_of(&error, effect, &self.target)),
        }
    }
}

fn each<T>(result: Result<T, Refusal>, effect: Effect) -> Result<T, Failure> {
    result.map_err(|refusal| refused(&refusal, effect))
}

fn refused(refusal: &Refusal, effect: Effect) -> Failure {
    Failure::new(exit_of(refusal, effect), format!("{} ({})", refusal.message, refusal.code))
}

/// Says what an error of the client library means for a user.
#[must_use]
pub fn failure_of(error: &Error, effect: Effect, target: &Target) -> Failure {
    let asked = target.describe();
    match error {
        Error::Refused { refusal, .. } => refused(refusal, effect),
        Error::Unknown(why) if effect == Effect::Writes => {
            Failure::new(Exit::Unknown, format!("{why} (nodes: {asked})"))
        }
        Error::Unknown(why) => {
            Failure::new(Exit::Unreachable, format!("no answer {why} (nodes: {asked})"))
        }
        Error::Unreachable(_) | Error::NoLeader(_) | Error::Timeout(_) => {
            Failure::new(Exit::Unreachable, format!("{error} (nodes: {asked})"))
        }
        Error::Invalid(why) => Failure::usage(why.clone()),
    }
}

//! The end of a run: everything healed, everything ended, every node asked for everything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_std::task;
use raftq::client::client::{CallOptions, Client};
use raftq::client::error::Error;
use raftq::client::job::{Job, new_id};
use raftq::jobs::job::{JobView, Status};
use raftq::sim::job_model::Op;
use raftq::types::{Index, JobId};
use raftq::wire::message::{ClusterStatus, Filter, Reply, Request};

use crate::cluster::Cluster;
use crate::record::{Record, seen};
use crate::verify::LOOKERS;

/// How long a healed cluster may take to be whole, to end its jobs, and to show equal digests.
pub const HEALING_MAX: Duration = Duration::from_secs(90);

/// From one look to the next.
const PAUSE: Duration = Duration::from_millis(50);

/// One request, with all its tries.
const REQUEST_MAX: Duration = Duration::from_secs(5);

/// Jobs on one page.
const PAGE: u32 = 500;

/// What a node showed of each job.
pub type Shown = BTreeMap<JobId, (Status, u64)>;

/// A client that looks at the end.
pub struct Looker {
    client: Client,
    nodes: usize,
    /// Jobs of its own, submitted to bring the log further.
    fillers: Mutex<BTreeSet<JobId>>,
}

impl Looker {
    /// Makes one.
    ///
    /// # Errors
    /// Never, with addresses of nodes.
    pub fn new(cluster: &Cluster) -> Result<Self, Error> {
        let addrs = cluster.addrs();
        let nodes = addrs.len();
        let builder = Client::builder().seeds(addrs).name("nemesis-looker");
        let client = builder.request_timeout(REQUEST_MAX).build()?;
        Ok(Self { client, nodes, fillers: Mutex::default() })
    }

    async fn status(&self) -> Option<ClusterStatus> {
        let request = Request::GetClusterStatus { local: false };
        let options = CallOptions::timeout(Duration::from_secs(1));
        let Ok(Reply::ClusterStatus(status)) = self.client.call(request, options).await else {
            return None;
        };
        status.from_leader.then_some(*status)
    }

    /// Waits until a leader hears every node; returns how long that took.
    pub async fn whole(&self, limit: Duration) -> Option<Duration> {
        let began = Instant::now();
        while began.elapsed() < limit {
            let status = self.status().await;
            let alive =
                |status: &ClusterStatus| status.nodes.iter().filter(|node| node.is_alive).count();
            if status.is_some_and(|status| alive(&status) == self.nodes) {
                return Some(began.elapsed());
            }
            task::sleep(PAUSE).await;
        }
        None
    }

    /// Waits until all of these jobs have ended; returns what is wrong.
    pub async fn ended(&self, jobs: &[JobId]) -> Vec<String> {
        let end = Instant::now() + HEALING_MAX;
        let mut wrong = Vec::new();
        for chunk in jobs.chunks(500) {
            let left = end.saturating_duration_since(Instant::now());
            match self.client.wait(chunk, Some(left)).await {
                Ok(views) => {
                    let open = views.iter().flatten().filter(|view| !view.status.is_final());
                    wrong.extend(open.map(|view| {
                        format!(
                            "job {} is still {} {HEALING_MAX:?} after healing",
                            view.id,
                            view.status.as_str()
                        )
                    }));
                }
                Err(error) => wrong.push(error.to_string()),
            }
        }
        wrong
    }

    /// Waits until every node has the same digest at one index behind everything that was done; returns it, or
    /// what is wrong.
    pub async fn digests(&self) -> Result<Index, String> {
        let end = Instant::now() + HEALING_MAX;
        let mut target = None;
        let mut last = "no leader".to_owned();
        while Instant::now() < end {
            if let Some(status) = self.status().await {
                let target = *target.get_or_insert(status.commit_index);
                if let Some(differ) = differing(&status) {
                    return Err(differ);
                }
                if let Some(index) = self.equal(&status).filter(|index| *index > target) {
                    return Ok(index);
                }
                last = format!("{:?}", status.nodes);
            }
            // Digests are taken every 64 entries: a few jobs more bring the next one.
            let id = new_id();
            self.fillers.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
            if self.client.submit(Job::command(["true"]).id(id)).await.is_err() {
                task::sleep(PAUSE).await;
            }
        }
        Err(format!("no equal digests within {HEALING_MAX:?}: {last}"))
    }

    fn equal(&self, status: &ClusterStatus) -> Option<Index> {
        let first = status.nodes.first()?;
        let same = |(index, digest): (Index, &str)| {
            index == first.digest_index && digest == first.digest && !digest.is_empty()
        };
        let count =
            status.nodes.iter().filter(|node| same((node.digest_index, &node.digest))).count();
        (count == self.nodes).then_some(first.digest_index)
    }

    /// Asks every node for every job, and takes down what it shows.
    ///
    /// # Errors
    /// Which node did not answer.
    pub async fn everything(
        &self,
        cluster: &Cluster,
        record: &Arc<Record>,
    ) -> Result<Vec<Shown>, String> {
        let fillers = self.fillers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut all = Vec::new();
        for node in cluster.ids() {
            let addr = cluster.net.addr(node);
            let mut shown = Shown::new();
            let mut after = None;
            loop {
                let call_us = record.now_us();
                let filter = Filter { after, limit: PAGE, ..Filter::default() };
                let options = CallOptions::timeout(HEALING_MAX).node(addr.as_str());
                let answer = self.client.call(Request::ListJobs(Box::new(filter)), options).await;
                let (jobs, more) = match answer {
                    Ok(Reply::Jobs { jobs, more, .. }) => (jobs, more),
                    Ok(other) => return Err(format!("node {node} lists {other:?}")),
                    Err(error) => {
                        return Err(format!("node {node} does not list its jobs: {error}"));
                    }
                };
                after = jobs.last().map(|job| job.id);
                for job in jobs.iter().filter(|job| !fillers.contains(&job.id)) {
                    note(record, node, call_us, job);
                    shown.insert(job.id, (job.status, job.fence.map_or(0, |fence| fence.0)));
                }
                if !more {
                    break;
                }
            }
            all.push(shown);
        }
        Ok(all)
    }
}

fn note(record: &Record, node: usize, call_us: u64, job: &JobView) {
    let op = Op::Look { seen: Some(seen(job)) };
    record.operation(LOOKERS + node as u64, job.id, call_us, Some(record.now_us()), op);
}

/// Finds two nodes with other digests at one index.
fn differing(status: &ClusterStatus) -> Option<String> {
    let known = |at: usize| {
        status.nodes.get(at).filter(|node| node.digest_index > Index(0) && !node.digest.is_empty())
    };
    (0..status.nodes.len()).find_map(|at| {
        let one = known(at)?;
        let other = (at + 1..status.nodes.len())
            .filter_map(known)
            .find(|other| other.digest_index == one.digest_index && other.digest != one.digest)?;
        Some(format!("node {} and node {} differ at index {}", one.id, other.id, one.digest_index))
    })
}

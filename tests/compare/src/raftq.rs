//! raftq through its own client library, as a program would use it.

use std::future::{pending, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use raftq::client::client::Client;
use raftq::client::error::Error;
use raftq::client::job::{Job, new_id};
use raftq::client::worker::Worker;
use raftq::types::JobId;
use raftq::wire::message::{Code, Refusal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::load::{Failure, Res, SLOTS, Sink, System};

/// Clients, at most. Each has one connection to the leader, which carries many submits.
const CLIENTS_MAX: usize = 4;

/// How long a node may take to tell its metrics.
const METRICS_TIME: Duration = Duration::from_secs(5);

const QUEUE: &str = "jobs";

pub struct Raftq {
    nodes: Vec<String>,
    clients: Vec<Client>,
    /// The id of job 0. The others follow: a submit that is tried again has the id it had.
    base: u128,
}

impl Raftq {
    pub fn new(nodes: &[String], in_flight: usize) -> Res<Self> {
        let clients = (0..in_flight.clamp(1, CLIENTS_MAX))
            .map(|_| Client::builder().seeds(nodes.iter().cloned()).build())
            .collect::<Result<_, _>>()?;
        let base = u128::from_be_bytes(new_id().0) & !u128::from(u64::MAX);
        Ok(Self { nodes: nodes.to_vec(), clients, base })
    }

    fn client(&self, slot: usize) -> &Client {
        &self.clients[slot % self.clients.len()]
    }

    fn job(&self, number: u64, body: Bytes) -> Job {
        let id = JobId((self.base | u128::from(number)).to_be_bytes());
        Job::payload(QUEUE, body).id(id)
    }
}

/// The library tries again by itself for 10 s; what it still reports as refused for now is tried on.
fn failure(error: &Error) -> Failure {
    match error.refusal() {
        Some(refusal) if is_busy(refusal) => Failure::Busy,
        Some(_) | None => Failure::Broken(error.to_string()),
    }
}

fn is_busy(refusal: &Refusal) -> bool {
    refusal.code == Code::ResourceExhausted
}

impl System for Raftq {
    async fn submit(&self, slot: usize, number: u64, body: Bytes) -> Result<(), Failure> {
        let submitted = self.client(slot).submit(self.job(number, body)).await;
        submitted.map(drop).map_err(|error| failure(&error))
    }

    async fn submit_many(
        &self,
        slot: usize,
        first: u64,
        bodies: Vec<Bytes>,
    ) -> Result<(), Failure> {
        let jobs = (first..).zip(bodies).map(|(number, body)| self.job(number, body));
        let results =
            self.client(slot).submit_batch(jobs).await.map_err(|error| failure(&error))?;
        match results.into_iter().find_map(Result::err) {
            None => Ok(()),
            Some(refusal) if is_busy(&refusal) => Err(Failure::Busy),
            Some(refusal) => Err(Failure::Broken(refusal.to_string())),
        }
    }

    async fn work(&self, worker: usize, sink: Arc<Sink>) -> Res<()> {
        let begun = AtomicU64::new(0);
        Worker::new(self.client(worker))
            .name(format!("compare-{worker}"))
            .slots(u32::try_from(SLOTS)?)
            .queue(QUEUE, move |_context, payload| {
                sink.delivered(&payload);
                // The library reports by itself. A worker has no more jobs than slots until its reports are
                // on the disks of a majority: that it begins one more says that an earlier one is completed.
                if begun.fetch_add(1, Relaxed) >= SLOTS as u64 {
                    sink.completed();
                }
                ready(Ok::<Bytes, String>(Bytes::new()))
            })
            .run_until(pending())
            .await?;
        Ok(())
    }

    async fn refused(&self) -> Option<u64> {
        let mut sum = 0;
        for node in &self.nodes {
            sum += timeout(METRICS_TIME, refusals_of(node)).await.ok()?.ok()?;
        }
        Some(sum)
    }
}

/// Asks a node how many requests it has refused for want of room.
async fn refusals_of(node: &str) -> Res<u64> {
    let mut stream = TcpStream::connect(node).await?;
    let question = format!("GET /metrics HTTP/1.1\r\nHost: {node}\r\nConnection: close\r\n\r\n");
    stream.write_all(question.as_bytes()).await?;
    let mut page = String::new();
    stream.read_to_string(&mut page).await?;
    let name = "raftq_refusals_total{code=\"RESOURCE_EXHAUSTED\"} ";
    let count = page.lines().find_map(|line| line.strip_prefix(name));
    Ok(count.ok_or("the metrics have no refusals")?.trim().parse()?)
}

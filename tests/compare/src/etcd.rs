//! etcd used as a job queue. A job is a key; an assignment and a completion are transactions.
//!
//! - Submit: put the key under the prefix of one of the workers, so that none compete for it.
//! - Assign: if the key is unchanged, delete it and put it under the prefix of what is assigned.
//! - Complete: if that key is there, delete it.

use std::sync::Arc;

use bytes::Bytes;
use etcd_client::{
    Client, Compare, CompareOp, Error, GetOptions, KvClient, Txn, TxnOp, WatchFilterType,
    WatchOptions,
};
use tokio::sync::Semaphore;

use crate::load::{Failure, Res, SLOTS, Sink, System, WORKERS};

/// Connections, at most; gRPC carries many requests on each.
const CONNECTIONS_MAX: usize = 8;

/// Keys in one page of what is there before the watch begins.
const PAGE: i64 = 1000;

/// The number of the gRPC code RESOURCE_EXHAUSTED: too many requests wait.
const RESOURCE_EXHAUSTED: i32 = 8;

pub struct Etcd {
    clients: Vec<Client>,
}

impl Etcd {
    /// Connects to the first of the endpoints, the leader: its best case.
    pub async fn connect(endpoints: &[String], in_flight: usize) -> Res<Self> {
        let leader = endpoints.first().ok_or("no endpoint")?;
        let mut clients = Vec::new();
        for _ in 0..in_flight.clamp(1, CONNECTIONS_MAX) {
            clients.push(Client::connect([leader.as_str()], None).await?);
        }
        Ok(Self { clients })
    }

    fn client(&self, slot: usize) -> &Client {
        &self.clients[slot % self.clients.len()]
    }
}

/// Returns what workers watch.
fn waiting(worker: u64) -> String {
    format!("jobs/waiting/{worker}/")
}

fn key(number: u64) -> String {
    format!("{}{number:016x}", waiting(number % WORKERS as u64))
}

fn failure(error: Error) -> Failure {
    match error {
        Error::GRpcStatus(status) if i32::from(status.code()) == RESOURCE_EXHAUSTED => {
            Failure::Busy
        }
        other => other.into(),
    }
}

impl System for Etcd {
    async fn submit(&self, slot: usize, number: u64, body: Bytes) -> Result<(), Failure> {
        let put = self.client(slot).kv_client().put(key(number), body, None).await;
        put.map(drop).map_err(failure)
    }

    async fn submit_many(
        &self,
        slot: usize,
        first: u64,
        bodies: Vec<Bytes>,
    ) -> Result<(), Failure> {
        let puts: Vec<TxnOp> = (first..)
            .zip(bodies)
            .map(|(number, body)| TxnOp::put(key(number), body, None))
            .collect();
        let done = self.client(slot).kv_client().txn(Txn::new().and_then(puts)).await;
        done.map(drop).map_err(failure)
    }

    async fn work(&self, worker: usize, sink: Arc<Sink>) -> Res<()> {
        let prefix = waiting(worker as u64);
        let client = self.client(worker);
        let (mut kv, slots) = (client.kv_client(), Arc::new(Semaphore::new(SLOTS)));
        // What is there already, page by page.
        let (mut from, mut end) = (prefix.clone().into_bytes(), prefix.clone().into_bytes());
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        let revision = loop {
            let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE);
            let page = kv.get(from.clone(), Some(options)).await?;
            for found in page.kvs() {
                let job = Job::new(worker, found.key(), found.value(), found.mod_revision());
                run(&kv, job, &slots, &sink).await?;
            }
            match page.kvs().last() {
                Some(last) if page.more() => from = [last.key(), &[0]].concat(),
                Some(_) | None => {
                    break page.header().ok_or("an answer without header")?.revision();
                }
            }
        };
        let options = WatchOptions::new()
            .with_prefix()
            .with_start_revision(revision + 1)
            .with_filters([WatchFilterType::NoDelete]);
        let mut watch = client.watch_client().watch(prefix, Some(options)).await?;
        while let Some(message) = watch.message().await? {
            for put in message.events().iter().filter_map(|event| event.kv()) {
                let job = Job::new(worker, put.key(), put.value(), put.mod_revision());
                run(&kv, job, &slots, &sink).await?;
            }
        }
        Ok(())
    }
}

/// A job as it waits.
struct Job {
    key: Vec<u8>,
    assigned: Vec<u8>,
    body: Vec<u8>,
    revision: i64,
}

impl Job {
    fn new(worker: usize, key: &[u8], body: &[u8], revision: i64) -> Self {
        let mut assigned = format!("jobs/assigned/{worker}/").into_bytes();
        assigned.extend_from_slice(key.rsplit(|byte| *byte == b'/').next().unwrap_or_default());
        Self { key: key.to_vec(), assigned, body: body.to_vec(), revision }
    }
}

/// Assigns a job and completes it, in a task of its own once a slot is free.
async fn run(kv: &KvClient, job: Job, slots: &Arc<Semaphore>, sink: &Arc<Sink>) -> Res<()> {
    let slot = Arc::clone(slots).acquire_owned().await?;
    let (kv, sink) = (kv.clone(), Arc::clone(sink));
    tokio::spawn(async move {
        if let Err(error) = assign_and_complete(kv, job, &sink).await {
            eprintln!("a job was not completed: {error}");
        }
        drop(slot);
    });
    Ok(())
}

async fn assign_and_complete(mut kv: KvClient, job: Job, sink: &Sink) -> Result<(), Error> {
    let is_unchanged = Compare::mod_revision(job.key.clone(), CompareOp::Equal, job.revision);
    let assign = Txn::new().when([is_unchanged]).and_then([
        TxnOp::delete(job.key, None),
        TxnOp::put(job.assigned.clone(), job.body.clone(), None),
    ]);
    if !kv.txn(assign).await?.succeeded() {
        return Ok(());
    }
    sink.delivered(&job.body);
    let is_there = Compare::version(job.assigned.clone(), CompareOp::Greater, 0);
    let complete = Txn::new().when([is_there]).and_then([TxnOp::delete(job.assigned, None)]);
    if kv.txn(complete).await?.succeeded() {
        sink.completed();
    }
    Ok(())
}

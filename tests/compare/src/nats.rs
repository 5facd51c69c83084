//! NATS JetStream: a stream in files, three replicas, work-queue retention, one durable pull consumer.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, Consumer, pull};
use async_nats::jetstream::{self, stream};
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::Semaphore;

use crate::load::{Failure, Res, SLOTS, Sink, System};

/// Connections, at most; each carries many publishes.
const CONNECTIONS_MAX: usize = 4;

/// Publishes and deliveries without an acknowledgement, at most: more than any cell has.
const UNACKNOWLEDGED_MAX: usize = 20_000;

const STREAM: &str = "JOBS";
const SUBJECT: &str = "jobs.q";
const CONSUMER: &str = "WORKERS";

pub struct Nats {
    contexts: Vec<jetstream::Context>,
}

impl Nats {
    /// Connects to the first of the endpoints, the stream's leader: its best case.
    pub async fn connect(endpoints: &[String], in_flight: usize) -> Res<Self> {
        let servers: Vec<async_nats::ServerAddr> =
            endpoints.iter().map(|endpoint| endpoint.parse()).collect::<Result<_, _>>()?;
        let mut contexts = Vec::new();
        for _ in 0..in_flight.clamp(1, CONNECTIONS_MAX) {
            let client = async_nats::ConnectOptions::new()
                .retain_servers_order()
                .ignore_discovered_servers()
                .connect(servers.clone())
                .await?;
            let context = jetstream::context::ContextBuilder::new()
                .timeout(Duration::from_secs(5))
                .ack_timeout(Duration::from_secs(10))
                .max_ack_inflight(UNACKNOWLEDGED_MAX)
                .build(client);
            contexts.push(context);
        }
        Ok(Self { contexts })
    }

    fn context(&self, slot: usize) -> &jetstream::Context {
        &self.contexts[slot % self.contexts.len()]
    }
}

impl System for Nats {
    async fn prepare(&self) -> Res<()> {
        let context = self.context(0);
        // The first time there is none to delete.
        let _none = context.delete_stream(STREAM).await.is_err();
        let stream = context
            .create_stream(stream::Config {
                name: STREAM.into(),
                subjects: vec![SUBJECT.into()],
                retention: stream::RetentionPolicy::WorkQueue,
                storage: stream::StorageType::File,
                num_replicas: 3,
                ..Default::default()
            })
            .await?;
        stream
            .create_consumer(pull::Config {
                durable_name: Some(CONSUMER.into()),
                ack_policy: AckPolicy::Explicit,
                ack_wait: Duration::from_secs(120),
                max_ack_pending: UNACKNOWLEDGED_MAX as i64,
                ..Default::default()
            })
            .await?;
        Ok(())
    }

    async fn submit(&self, slot: usize, _number: u64, body: Bytes) -> Result<(), Failure> {
        self.context(slot).publish(SUBJECT, body).await?.await?;
        Ok(())
    }

    async fn work(&self, worker: usize, sink: Arc<Sink>) -> Res<()> {
        let stream = self.context(worker).get_stream(STREAM).await?;
        let consumer: Consumer<pull::Config> = stream.get_consumer(CONSUMER).await?;
        let mut messages = consumer
            .stream()
            .max_messages_per_batch(SLOTS)
            .expires(Duration::from_secs(30))
            .messages()
            .await?;
        let slots = Arc::new(Semaphore::new(SLOTS));
        while let Some(message) = messages.next().await {
            let message = message?;
            let slot = Arc::clone(&slots).acquire_owned().await?;
            let sink = Arc::clone(&sink);
            tokio::spawn(async move {
                sink.delivered(&message.payload);
                // The kind of ack that the server confirms.
                match message.double_ack().await {
                    Ok(()) => sink.completed(),
                    Err(error) => eprintln!("a job was not completed: {error}"),
                }
                drop(slot);
            });
        }
        Ok(())
    }
}

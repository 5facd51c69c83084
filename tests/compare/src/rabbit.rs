//! RabbitMQ: a quorum queue on three nodes, publisher confirms, acks by hand.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};

use crate::load::{Failure, Res, SLOTS, Sink, System};

/// Connections, at most.
const CONNECTIONS_MAX: usize = 4;

/// Channels on them, at most; each carries many publishes.
const CHANNELS_MAX: usize = 16;

/// The delivery mode of a message that is to be on disk.
const PERSISTENT: u8 = 2;

const QUEUE: &str = "jobs";

pub struct Rabbit {
    connections: Vec<Connection>,
    channels: Vec<Channel>,
}

impl Rabbit {
    /// Connects to the first of the endpoints, the node of the queue's leader: its best case.
    pub async fn connect(endpoints: &[String], in_flight: usize) -> Res<Self> {
        let leader = endpoints.first().ok_or("no endpoint")?;
        let mut connections = Vec::new();
        for _ in 0..in_flight.clamp(1, CONNECTIONS_MAX) {
            connections.push(Connection::connect(leader, ConnectionProperties::default()).await?);
        }
        let mut channels = Vec::new();
        for number in 0..in_flight.clamp(1, CHANNELS_MAX) {
            let channel = connections[number % connections.len()].create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            channels.push(channel);
        }
        Ok(Self { connections, channels })
    }

    async fn channel(&self, number: usize) -> Res<Channel> {
        Ok(self.connections[number % self.connections.len()].create_channel().await?)
    }
}

impl System for Rabbit {
    async fn prepare(&self) -> Res<()> {
        // The first time there is none to delete, which costs the channel.
        let deleting = self.channel(0).await?;
        let _none =
            deleting.queue_delete(QUEUE.into(), QueueDeleteOptions::default()).await.is_err();
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        arguments.insert("x-quorum-initial-group-size".into(), AMQPValue::LongLongInt(3));
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        self.channel(0).await?.queue_declare(QUEUE.into(), options, arguments).await?;
        Ok(())
    }

    async fn submit(&self, slot: usize, _number: u64, body: Bytes) -> Result<(), Failure> {
        let channel = &self.channels[slot % self.channels.len()];
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
        let publish = channel.basic_publish("".into(), QUEUE.into(), options, &body, properties);
        match publish.await?.await? {
            Confirmation::Ack(None) => Ok(()),
            other => Err(Failure::Broken(format!("not confirmed: {other:?}"))),
        }
    }

    async fn work(&self, worker: usize, sink: Arc<Sink>) -> Res<()> {
        let channel = self.channel(worker).await?;
        channel.basic_qos(u16::try_from(SLOTS)?, BasicQosOptions::default()).await?;
        let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
        let name = format!("worker-{worker}");
        let mut jobs = channel.basic_consume(QUEUE.into(), name.into(), options, none).await?;
        while let Some(job) = jobs.next().await {
            let job = job?;
            sink.delivered(&job.data);
            // AMQP 0-9-1 does not confirm an ack: what counts as completed is that it was sent.
            job.acker.ack(BasicAckOptions::default()).await?;
            sink.completed();
        }
        Ok(())
    }
}

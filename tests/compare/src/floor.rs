//! The client of the floor: requests in one direction, one byte for each in the other, in order.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};

use crate::load::{Failure, Res, Sink, System};

/// Connections, at most.
const CONNECTIONS_MAX: usize = 16;

/// Requests that wait to be written on one connection, and how many of them one write carries.
const REQUESTS_MAX: usize = 1024;

/// Those who wait for their byte, in order.
type Owed = Arc<Mutex<VecDeque<oneshot::Sender<()>>>>;

type Request = (Bytes, oneshot::Sender<()>);

pub struct Floor {
    connections: Vec<mpsc::Sender<Request>>,
}

impl Floor {
    pub async fn connect(endpoints: &[String], in_flight: usize) -> Res<Self> {
        let leader = endpoints.first().ok_or("no endpoint")?;
        let mut connections = Vec::new();
        for _ in 0..in_flight.clamp(1, CONNECTIONS_MAX) {
            let stream = TcpStream::connect(leader).await?;
            stream.set_nodelay(true)?;
            let (reader, writer) = stream.into_split();
            let (requests, inbox) = mpsc::channel(REQUESTS_MAX);
            let owed = Owed::default();
            tokio::spawn(read(reader, Arc::clone(&owed)));
            tokio::spawn(write(writer, inbox, owed));
            connections.push(requests);
        }
        Ok(Self { connections })
    }

    async fn call(&self, slot: usize, request: Bytes) -> Result<(), Failure> {
        let (answer, answered) = oneshot::channel();
        self.connections[slot % self.connections.len()].send((request, answer)).await?;
        Ok(answered.await?)
    }
}

async fn write(mut writer: OwnedWriteHalf, mut inbox: mpsc::Receiver<Request>, owed: Owed) {
    let (mut some, mut out) = (Vec::new(), BytesMut::new());
    while inbox.recv_many(&mut some, REQUESTS_MAX).await > 0 {
        out.clear();
        {
            let mut owed = owed.lock().unwrap_or_else(PoisonError::into_inner);
            for (request, answer) in some.drain(..) {
                out.extend_from_slice(&request);
                owed.push_back(answer);
            }
        }
        if let Err(error) = writer.write_all(&out).await {
            eprintln!("the floor cannot be written to: {error}");
            break;
        }
    }
    owed.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

async fn read(mut reader: OwnedReadHalf, owed: Owed) {
    let mut answers = vec![0; 64 << 10];
    while let Ok(count @ 1..) = reader.read(&mut answers).await {
        let mut owed = owed.lock().unwrap_or_else(PoisonError::into_inner);
        for answer in (0..count).filter_map(|_| owed.pop_front()) {
            // A caller that has gone away needs no word.
            let _gone = answer.send(()).is_err();
        }
    }
    owed.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

/// Makes a request: a length of four bytes, little-endian, and so many bytes.
fn framed(bodies: &[Bytes]) -> Bytes {
    let length: usize = bodies.iter().map(Bytes::len).sum();
    let mut request = BytesMut::with_capacity(4 + length);
    request.put_u32_le(u32::try_from(length).unwrap_or(u32::MAX));
    bodies.iter().for_each(|body| request.extend_from_slice(body));
    request.freeze()
}

impl System for Floor {
    async fn submit(&self, slot: usize, _number: u64, body: Bytes) -> Result<(), Failure> {
        self.call(slot, framed(&[body])).await
    }

    async fn submit_many(
        &self,
        slot: usize,
        _first: u64,
        bodies: Vec<Bytes>,
    ) -> Result<(), Failure> {
        self.call(slot, framed(&bodies)).await
    }

    /// It has no workers.
    async fn work(&self, _worker: usize, _sink: Arc<Sink>) -> Res<()> {
        pending().await
    }
}

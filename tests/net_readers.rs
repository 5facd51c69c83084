//! What clients cost that ask for everything and read nothing, or do nothing at all; alone in their process, one
//! test after the other, so that memory can be measured.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a helper that fails has to fail its test"
)]

#[expect(dead_code, reason = "shared with the other tests of sockets, which use all of it")]
#[path = "net/client.rs"]
mod client;
#[expect(dead_code, reason = "shared with the other tests of sockets, which use all of it")]
#[path = "net/node.rs"]
mod node;

use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use raftq::jobs::command::{Command, Stamped};
use raftq::jobs::job::{Body, NewJob};
use raftq::jobs::machine::Machine;
use raftq::net::inbox::Ask;
use raftq::net::shared::Patience;
use raftq::replica::view::Answer;
use raftq::types::{Index, JobId, Millis, QueueName};
use raftq::wire::message::{Filter, Request};

use client::{Client, encoded};
use node::{LONG, Plan, now};

/// Held by the test that measures.
static MEASURED: Mutex<()> = Mutex::new(());

/// Kilobytes of memory that this process holds.
fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A queue of a thousand jobs, and one of a megabyte.
fn machine() -> Machine {
    let payload = |number: u64, bytes| NewJob {
        id: JobId::new(Millis(number), 7),
        queue: QueueName::default(),
        body: Body::Payload(Bytes::from(vec![7; bytes])),
        options: None,
    };
    let jobs = (1..=1000).map(|number| payload(number, 10)).chain([payload(5000, 1 << 20)]);
    let mut machine = Machine::new();
    let command = Command::SubmitJob(jobs.collect());
    machine.apply(Index(1), &Stamped { now: Millis(1), command });
    machine
}

const CLIENTS: u32 = 10;
/// Fewer in all than the lane into the Raft thread has places: none is refused.
const REQUESTS: u32 = 80;

#[test]
fn clients_that_ask_for_everything_and_read_nothing_are_cut_off_and_cost_little() {
    let _alone = MEASURED.lock().unwrap_or_else(PoisonError::into_inner);
    let patience = Patience { write: Duration::from_secs(2), ..Patience::default() };
    let node = Plan { patience, ..Plan::default() }.start();
    let machine = machine();
    let mut good = Client::connect(node.addr);
    good.ping();
    let before = resident_kb();
    let deaf: Vec<Client> = (0..CLIENTS)
        .map(|_| {
            let mut client = Client::connect(node.addr);
            let requests = (0..REQUESTS).map(|corr| match corr % 2 {
                0 => Request::ListJobs(Box::new(Filter { limit: 1000, ..Filter::default() }))
                    .to_frame(corr),
                _ => Request::GetJob { id: JobId::new(Millis(5000), 7) }.to_frame(corr),
            });
            let bytes: Vec<u8> = requests.flat_map(|frame| encoded(&frame)).collect();
            client.stream.write_all(&bytes).unwrap();
            client
        })
        .collect();
    let mut peak = 0;
    let slow = || node.metrics().readers_slow.value() == u64::from(CLIENTS);
    let answered_until = now() + LONG;
    while !slow() {
        assert!(now() < answered_until, "those who do not read are not cut off");
        // What the lane has no room for was refused.
        let asked = node.outlets.reads.recv_timeout(Duration::from_millis(20));
        if let Ok(Ask::Request { request, reply, .. }) = asked {
            reply.answer(Answer::Image { machine: Box::new(machine.clone()), request });
        }
        peak = peak.max(resident_kb());
    }
    peak = peak.max(resident_kb());
    good.ping();
    // They hear of it at once, though nothing was read: what waited in the kernel is gone, too.
    let heard_until = now() + LONG;
    for client in &deaf {
        while matches!(client.stream.take_error(), Ok(None)) {
            assert!(now() < heard_until, "what was written for one who does not read is kept");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    drop(deaf);
    let grown = peak.saturating_sub(before) >> 10;
    // Without a bound each of them has a gigabyte written for it.
    assert!(grown < 200, "{grown} MiB for {CLIENTS} clients");
}

/// Clients that only greet; with both ends of each, far fewer than a process may have open.
const IDLE: u32 = 300;

#[test]
fn clients_that_do_nothing_cost_next_to_nothing() {
    let _alone = MEASURED.lock().unwrap_or_else(PoisonError::into_inner);
    let node = Plan::default().start();
    Client::connect(node.addr).ping();
    let before = resident_kb();
    let idle: Vec<Client> = (0..IDLE).map(|_| Client::connect(node.addr)).collect();
    let each = resident_kb().saturating_sub(before) / u64::from(IDLE);
    drop(idle);
    // Both ends are here, and the test's own takes the larger part: a buffer to read into.
    assert!(each < 64, "{each} KiB for a client that does nothing");
}

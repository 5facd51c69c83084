//! Clients that ask for everything and read nothing, alone in their process so that memory can be measured.

#![expect(clippy::unwrap_used, reason = "a helper that fails has to fail its test")]

#[expect(dead_code, reason = "shared with the other tests of sockets, which use all of it")]
#[path = "net/client.rs"]
mod client;
#[expect(dead_code, reason = "shared with the other tests of sockets, which use all of it")]
#[path = "net/node.rs"]
mod node;

use std::io::Write;
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
#[ignore = "not yet seen green: run it with --ignored"]
fn clients_that_ask_for_everything_and_read_nothing_are_cut_off_and_cost_little() {
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
                0 => Request::ListJobs(Filter { limit: 1000, ..Filter::default() }).to_frame(corr),
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
    drop(deaf);
    let grown = peak.saturating_sub(before) >> 10;
    // Without a bound each of them has a gigabyte written for it.
    assert!(grown < 200, "{grown} MiB for {CLIENTS} clients");
}

//! Thousands of connections at once, alone in its process so that descriptors can be counted.

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
use std::net::TcpStream;
use std::time::Duration;

use raftq::net::shared::Patience;

use client::{Client, connect};
use node::{Node, Plan, until};

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Kilobytes of memory that this process holds.
fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// How many connections this process may open to itself, two descriptors each, up to `wanted`.
fn affordable(wanted: usize) -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let soft: usize = line.split_whitespace().nth(3).unwrap().parse().unwrap_or(usize::MAX);
    wanted.min((soft.saturating_sub(200)) / 2)
}

fn node_with(first_byte: Duration) -> Node {
    let patience = Patience { first_byte, ..Patience::default() };
    Plan { patience, connections_max: 20_000, ..Plan::default() }.start()
}

#[test]
fn crowd_of_connections_disturbs_nobody_and_leaves_nothing_behind() {
    let node = node_with(Duration::from_secs(3));
    let mut good = Client::connect(node.addr);
    good.ping();
    let before = (descriptors(), resident_kb());
    let count = affordable(10_000);
    let crowd: Vec<TcpStream> = (0..count).map(|_| connect(node.addr)).collect();
    good.ping();
    let open = || usize::try_from(node.metrics().connections_open.value()).unwrap();
    let silent = || usize::try_from(node.metrics().connections_silent.value()).unwrap();
    until("all were accepted", || open() + silent() > count);
    let grown = resident_kb().saturating_sub(before.1);
    println!("{grown} KiB for {count} connections, both ends");
    good.ping();
    until("the silent ones are closed", || open() == 1);
    assert_eq!(silent(), count);
    drop(crowd);
    assert_eq!(descriptors(), before.0, "every descriptor is given back");
    assert!(grown < 8 * 10_000 + 4096, "{grown} KiB for {count} connections");

    // And a thousand that come and go with half a word, at different points of their beginning.
    for number in 0..1000 {
        let mut stream = connect(node.addr);
        let half: &[u8] = match number % 4 {
            0 => b"",
            1 => b"stat",
            2 => b"\xc1RJQ",
            _ => b"GET /met",
        };
        stream.write_all(half).unwrap();
    }
    until("they are gone", || open() == 1);
    assert_eq!(descriptors(), before.0);
    good.ping();
}

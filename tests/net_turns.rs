//! Connections share the threads that serve them: one that sends without an end holds up no other. Alone in its
//! process, which has a single such thread.

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

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use async_global_executor::{GlobalExecutorConfig, init_with_config};
use raftq::wire::message::Request;

use client::{Client, connect, encoded, job};
use node::{Node, until};

/// More than a turn takes in bytes, in far fewer frames than it takes.
const JOBS: u32 = 1000;

/// Good requests, each of which waits for its answer before the next.
const PINGS: usize = 20;

/// Sent and received by a flood before it counts as one.
const FLOOD_BYTES: usize = 4 << 20;

/// A connection that sends the same again and again, and reads whatever comes.
#[derive(Default)]
struct Flood {
    stop: AtomicBool,
    moved: AtomicUsize,
}

impl Flood {
    /// Begins, and returns once much has gone to and fro.
    fn start<'scope>(
        &'scope self,
        scope: &'scope thread::Scope<'scope, '_>,
        mut stream: TcpStream,
        bytes: &'scope [u8],
    ) {
        let mut reading = stream.try_clone().unwrap();
        scope.spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(count @ 1..) = reading.read(&mut buffer) {
                self.moved.fetch_add(count, Ordering::Relaxed);
            }
        });
        scope.spawn(move || {
            while !self.stop.load(Ordering::Relaxed) && stream.write_all(bytes).is_ok() {
                self.moved.fetch_add(bytes.len(), Ordering::Relaxed);
            }
            stream.shutdown(Shutdown::Both).ok();
        });
        until("a flood", || self.moved.load(Ordering::Relaxed) > FLOOD_BYTES);
    }
}

#[test]
fn floods_hold_up_nobody_else() {
    init_with_config(GlobalExecutorConfig::default().with_min_threads(1).with_max_threads(1));
    let node = Node::start();
    node.publish(|view| view.leads = false);
    let mut good = Client::connect(node.addr);
    // Refused at once, because this node does not lead: nothing of it ever waits.
    let batch = Request::SubmitBatch((0..JOBS).map(job).collect()).to_frame(1);
    let (batches, lines) = (encoded(&batch).repeat(8), b"metrics\n".repeat(500));
    let (batch_flood, line_flood) = (Flood::default(), Flood::default());
    thread::scope(|scope| {
        // Connected before: a thread that is held up would not even accept them.
        let (one, other) = (Client::connect(node.addr).stream, connect(node.addr));
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            batch_flood.start(scope, one, &batches);
            line_flood.start(scope, other, &lines);
            (0..PINGS).for_each(|_| good.ping());
        }));
        for flood in [&batch_flood, &line_flood] {
            flood.stop.store(true, Ordering::Relaxed);
        }
        if let Err(panic) = outcome {
            resume_unwind(panic);
        }
    });
}

//! raftq: a replicated job queue in one binary.
//!
//! Nodes form a Raft cluster. A client submits a job to it; the job is acknowledged once a quorum has
//! it on disk; the leader assigns it through the log to the least-loaded live worker; workers find
//! their jobs in the local replica, run them and report. Everything survives any minority of failures.
//!
//! # The house
//!
//! Each room is on a floor, and imports go down only. Floors 1 to 4 are *pure*: no clock, thread,
//! socket, file, environment or randomness. Time comes in as ticks and as a stamp, dice as a seed;
//! that is what lets the simulator run the production code.
//!
//! | floor | room | what happens in it |
//! |---|---|---|
//! | 8 | `main.rs` | parse, dispatch, exit code |
//! | 7 | `cli` | one file a verb group |
//! | 6 | `node`, `sim`, `bench` | wiring: the Raft thread's loop, start and stop; a world of replicas in one thread; loads and their floor |
//! | 5 | `storage`, `net`, `worker`, [`client`] | the world: disk, sockets, commands, the client library |
//! | 4 | `replica`, [`wire`] | one turn of a replica; bytes to typed messages and back |
//! | 3 | [`jobs`] | the replicated job queue: apply, the scheduler's choice, images |
//! | 2 | [`raft`], [`pack`] | consensus, sans-IO; MessagePack with every size and depth bounded |
//! | 1 | [`types`], [`planted`] | the words every room shares; bugs planted on purpose, in test builds only |
//!
//! # The trip of one submit
//!
//! socket → frame codec → typed request → a bounded lane (full: `RESOURCE_EXHAUSTED` at once) → the
//! Raft thread takes all that wait → one turn of the replica → the disk's thread (one write, one sync
//! for everything) *beside* `AppendEntries` to the peers → a quorum of durable answers → apply → the
//! waiting session → socket. Down by call, back by value; nothing calls up.
//!
//! While little is under way no thread is woken for a turn: the Raft thread leaves its state on a seat (`node/seat.rs`),
//! and whoever brings something (a session, a link to a peer, the disk's thread after its sync) sits down there and
//! takes the turn itself, one at a time.
//!
//! # Features
//!
//! `client` is the client library alone; `server`, the default, is everything. `planted-bugs` breaks the program
//! on demand, to test the tests; no release has it.

#![cfg_attr(
    not(feature = "server"),
    allow(
        rustdoc::broken_intra_doc_links,
        reason = "texts point into rooms that the client alone leaves out; the whole's links are checked"
    )
)]

pub mod client;
pub mod jobs;
pub mod pack;
pub mod planted;
pub mod raft;
pub mod types;
pub mod wire;

#[cfg(feature = "server")]
pub mod bench;
#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "server")]
pub mod net;
#[cfg(feature = "server")]
pub mod node;
#[cfg(feature = "server")]
pub mod replica;
#[cfg(feature = "server")]
pub mod sim;
#[cfg(feature = "server")]
pub mod storage;
#[cfg(feature = "server")]
pub mod worker;

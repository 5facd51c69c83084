//! What a submit costs: three replicas in one thread, with frames between them and no disk or socket. As a test it
//! holds that all of them have every job; under `scripts/instructions.sh` it is counted, a role at a time.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected fails there"
)]

use std::collections::VecDeque;
use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use raftq::jobs::job::{Body, NewJob};
use raftq::jobs::machine::Machine;
use raftq::raft::core::{Boot, Config as RaftConfig, Role};
use raftq::raft::message::{Configuration, HardState, Voter};
use raftq::replica::core::{Config, Replica};
use raftq::replica::input::{Input, Output, Turn};
use raftq::types::{ClusterId, DirId, Index, JobId, Millis, NodeId, QueueName, Term, Ticks};
use raftq::wire::frame::{BODY_BYTES_MAX, FrameCodec};
use raftq::wire::message::Request;
use raftq::wire::peer::PeerMessage;
use tokio_util::codec::{Decoder, Encoder};

/// Bytes of each payload.
const PAYLOAD: usize = 256;

/// A message on its way, in the bytes of its frame.
type Sent = (NodeId, NodeId, BytesMut);

struct World {
    replicas: Vec<Replica<u64>>,
    wire: VecDeque<Sent>,
    now: u64,
    answers: usize,
}

fn dir(node: u64) -> DirId {
    DirId([u8::try_from(node).unwrap(); 16])
}

fn replica(node: u64) -> Replica<u64> {
    let voter = |id| Voter { id: NodeId(id), addr: format!("h:{id}"), dir: None };
    let boot = Boot {
        hard_state: HardState { term: Term(0), vote: None },
        snapshot: None,
        configuration: Configuration {
            cluster: ClusterId::default(),
            voters: (1..=3).map(voter).collect(),
        },
        first_index: Index(1),
        last_index: Index(0),
        runs: Vec::new(),
        tail: Vec::new(),
        configurations: Vec::new(),
        commit_index: Index(0),
        applied_index: Index(0),
        healing: false,
    };
    let config = Config {
        raft: RaftConfig::new(NodeId(node)),
        dir: dir(node),
        limits: raftq::jobs::command::Limits::default(),
        snapshot_bytes_min: 1 << 40,
        history_bytes_max: 32 << 20,
        snapshot_bytes: 0,
        seed: u128::from(node),
    };
    Replica::new(config, boot, Machine::new(), Turn { now: Ticks(0), wall: Millis(1000) })
}

/// All that the leader's thread does with what came, its frames included.
#[inline(never)]
fn on_leader(world: &mut World, node: usize, frames: Vec<Sent>, submits: Vec<BytesMut>) {
    work(world, node, frames, submits);
}

/// The same for a follower's.
#[inline(never)]
fn on_follower(world: &mut World, node: usize, frames: Vec<Sent>) {
    work(world, node, frames, Vec::new());
}

#[inline(always)]
fn work(world: &mut World, node: usize, frames: Vec<Sent>, submits: Vec<BytesMut>) {
    let mut codec = FrameCodec::new(BODY_BYTES_MAX);
    let mut inputs = Vec::new();
    for (from, _, mut bytes) in frames {
        let frame = codec.decode(&mut bytes).unwrap().unwrap();
        let message = PeerMessage::from_frame(&frame).unwrap();
        inputs.push(Input::Peer { from, dir: dir(from.0), message });
    }
    let mut jobs = Vec::new();
    for mut bytes in submits {
        let frame = codec.decode(&mut bytes).unwrap().unwrap();
        let Request::SubmitJob(job) = Request::from_frame(&frame).unwrap() else { panic!() };
        jobs.push((job, u64::from(frame.corr)));
    }
    if !jobs.is_empty() {
        inputs.push(Input::Submits { jobs, arrived: Ticks(world.now) });
    }
    loop {
        let turn = Turn { now: Ticks(world.now), wall: Millis(1000 + world.now * 10) };
        let Output { persist, send, answers, again, .. } =
            world.replicas[node].turn(turn, std::mem::take(&mut inputs));
        inputs.extend(persist.map(|batch| Input::Persisted { seq: batch.seq }));
        world.answers += answers.len();
        for (to, message) in send {
            let mut bytes = BytesMut::new();
            codec.encode(message.to_frame(), &mut bytes).unwrap();
            world.wire.push_back((NodeId(node as u64 + 1), to, bytes));
        }
        for (_, answer) in answers {
            black_box(answer);
        }
        if inputs.is_empty() && !again {
            return;
        }
    }
}

impl World {
    /// Three replicas, and the one that leads.
    fn new() -> (Self, usize) {
        let replicas = (1..=3).map(replica).collect();
        let mut world = Self { replicas, wire: VecDeque::new(), now: 0, answers: 0 };
        for _ in 0..1000 {
            world.now += 1;
            for node in 0..3 {
                on_follower(&mut world, node, Vec::new());
            }
            world.settle(3);
            let leads = |replica: &Replica<u64>| replica.raft().role() == Role::Leader;
            if let Some(leader) = world.replicas.iter().position(leads)
                && world.replicas[leader].raft().own_term_applied()
            {
                return (world, leader);
            }
        }
        panic!("nobody leads");
    }

    /// Carries everything to where it goes, a node's messages together.
    fn settle(&mut self, leader: usize) {
        while let Some((_, to, _)) = self.wire.front() {
            let to = *to;
            let (own, others) = self.wire.drain(..).partition(|(_, node, _)| *node == to);
            self.wire = others;
            let own: VecDeque<Sent> = own;
            let node = usize::try_from(to.0 - 1).unwrap();
            match node == leader {
                true => on_leader(self, node, own.into(), Vec::new()),
                false => on_follower(self, node, own.into()),
            }
        }
    }
}

fn submit(number: u64) -> BytesMut {
    let job = NewJob {
        id: JobId::new(Millis(1), u128::from(number)),
        queue: QueueName::new("bench").unwrap(),
        body: Body::Payload(Bytes::from(vec![7; PAYLOAD])),
        options: None,
    };
    let mut bytes = BytesMut::new();
    let frame = Request::SubmitJob(job).to_frame(u32::try_from(number + 1).unwrap());
    FrameCodec::new(BODY_BYTES_MAX).encode(frame, &mut bytes).unwrap();
    bytes
}

/// `RAFTQ_COST_SUBMITS` and `RAFTQ_COST_TOGETHER` say how many, and how many of them come together.
#[test]
fn every_submit_reaches_all_three() {
    let number = |name: &str, default| {
        std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
    };
    let count = number("RAFTQ_COST_SUBMITS", 640_u64);
    let together = number("RAFTQ_COST_TOGETHER", 64);
    let (mut world, leader) = World::new();
    for first in (0..count).step_by(usize::try_from(together).unwrap()) {
        let submits = (first..count.min(first + together)).map(submit).collect();
        on_leader(&mut world, leader, Vec::new(), submits);
        world.settle(leader);
    }
    assert_eq!(world.answers as u64, count);
    world.now += 1;
    on_leader(&mut world, leader, Vec::new(), Vec::new());
    world.settle(leader);
    for replica in &world.replicas {
        assert_eq!(replica.machine().counts().pending, count);
    }
}

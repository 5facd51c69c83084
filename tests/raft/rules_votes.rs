//! Rules about votes, terms and time, each broken once by a real engine.

use raftq::raft::core::{Config, Role};
use raftq::raft::message::{HardState, Message};
use raftq::types::{Index, NodeId, Term, Ticks};

use crate::world::{World, append, pre_vote, vote, vote_reply};

/// Every timeout is 15 ticks sharp.
fn sharp(config: &mut Config) {
    config.election_ticks_max = config.election_ticks_min;
}

fn hard(world: &World, id: u64) -> (u64, Option<u64>) {
    let status = world.status(id);
    (status.term.0, status.vote.map(|id| id.0))
}

/// Term and vote are synced before the reply (etcd/raft 9d2a465, NATS bf8ebe7dd), and the vote of a
/// term outlives stepping down in it.
#[test]
fn r01_vote_leaves_only_once_durable_and_is_kept_for_its_term() {
    let mut world = World::new(3);
    world.inject(2, 1, vote(1, (0, 0)));
    assert!(world.take_sent(1).is_empty());
    world.persist(1);
    assert_eq!(world.take_sent(1), [(2, vote_reply(1, true))]);
    world.inject(2, 1, append(1, (0, 0), &[], 0));
    world.inject(3, 1, vote(1, (9, 1)));
    assert_eq!(hard(&world, 1), (1, Some(2)));
    assert_eq!(world.take_sent(1).last(), Some(&(3, vote_reply(1, false))));
}

/// A leader that steps down in its term has still voted for itself (etcd/raft 9d2a465).
#[test]
fn r01_leader_that_steps_down_keeps_its_vote() {
    let mut world = World::new(3);
    world.elect(1);
    world.cut_off(1);
    world.tick(1, 100);
    assert_eq!(world.raft(1).role(), Role::Follower);
    assert_eq!(hard(&world, 1), (1, Some(1)));
    world.cut.clear();
    world.lose_wire();
    world.inject(2, 1, vote(1, (9, 9)));
    assert_eq!(world.take_sent(1), [(2, vote_reply(1, false))]);
}

/// A crash before the sync forgets the vote, and so nobody may have heard of it.
#[test]
fn r01_crash_before_sync_leaves_a_vote_nobody_heard_of() {
    let mut world = World::new(3);
    world.inject(2, 1, vote(1, (0, 0)));
    world.crash(1, false);
    world.start(1);
    assert_eq!(hard(&world, 1), (0, None));
    assert!(world.wire.is_empty());
}

/// Term and vote are one record, never two writes (hashicorp/raft `persistVote` has two).
#[test]
fn r02_term_and_vote_are_in_one_batch() {
    let mut world = World::new(3);
    world.inject(2, 1, vote(7, (0, 0)));
    let batch = world.node(1).outstanding.clone().unwrap();
    let state = HardState { term: Term(7), vote: Some(NodeId(2)) };
    assert_eq!(batch.hard_state, Some(state));
}

/// A term is durable no later than its entries (openraft io_ordering.md).
#[test]
fn r03_term_is_in_the_batch_of_its_first_entries() {
    let mut world = World::new(3);
    world.inject(2, 1, append(5, (0, 0), &[5, 5], 0));
    let batch = world.node(1).outstanding.clone().unwrap();
    assert_eq!(batch.hard_state.unwrap().term, Term(5));
    assert_eq!(batch.entries.len(), 2);
}

/// A refusal with a later term brings the term and never a vote (openraft b06cbb37).
#[test]
fn r04_refusal_of_a_later_term_updates_term_not_vote() {
    let mut world = World::new(3);
    world.raft_mut(1).campaign();
    world.inject(2, 1, Message::PreVoteReply { term: Term(1), granted: true });
    world.persist(1);
    assert_eq!(world.raft(1).role(), Role::Candidate);
    world.inject(2, 1, vote_reply(9, false));
    assert_eq!((world.raft(1).role(), hard(&world, 1)), (Role::Follower, (9, None)));
}

/// A pre-vote changes nothing at the one asked: no term, no vote, no timer (canonical/raft #196,
/// ra bbd00102, hashicorp/raft #609).
#[test]
fn r05_pre_vote_has_no_side_effect() {
    let mut world = World::tuned(3, 1, sharp);
    world.tick(1, 14);
    world.inject(2, 1, pre_vote(1, (0, 0)));
    let reply = Message::PreVoteReply { term: Term(1), granted: true };
    assert_eq!(world.take_sent(1), [(2, reply)]);
    assert_eq!(hard(&world, 1), (0, None));
    assert!(world.node(1).outstanding.is_none());
    world.tick(1, 1);
    assert_eq!(world.raft(1).role(), Role::PreCandidate, "the pre-vote moved the timer");
}

/// The answer to a pre-vote is never counted as a vote (canonical/raft #196).
#[test]
fn r05_pre_vote_reply_is_no_vote() {
    let mut world = World::new(5);
    world.raft_mut(1).campaign();
    for voter in [2, 3] {
        world.inject(voter, 1, Message::PreVoteReply { term: Term(1), granted: true });
    }
    world.persist(1);
    assert_eq!(world.raft(1).role(), Role::Candidate);
    for voter in [2, 3, 4, 5] {
        world.inject(voter, 1, Message::PreVoteReply { term: Term(1), granted: true });
    }
    assert_eq!(world.raft(1).role(), Role::Candidate);
}

/// A refused pre-vote that brings a later term is believed; else a node whose term fell behind is
/// refused for ever (openraft #1796, canonical/raft #279).
#[test]
fn r06_refused_pre_vote_brings_the_later_term() {
    let mut world = World::with_logs(&[&[1], &[1], &[1]], &[1, 6, 6]);
    world.raft_mut(1).campaign();
    world.turn(1);
    world.settle();
    assert_eq!(world.raft(1).term(), Term(6));
    world.elect(1);
    assert_eq!(world.raft(1).term(), Term(7));
}

/// A former leader does not refuse its own pre-vote because it "hears a leader": itself
/// (hashicorp/raft #605).
#[test]
fn r07_former_leader_can_be_elected_again() {
    let mut world = World::new(3);
    world.elect(1);
    world.cut_off(1);
    world.tick(1, 100);
    assert_eq!(world.raft(1).role(), Role::Follower);
    world.cut.clear();
    world.lose_wire();
    world.elect(1);
    assert_eq!(world.raft(1).term(), Term(2));
}

/// Only a vote that is granted restarts the election timeout (NATS 5fe8be82d).
#[test]
fn r08_refused_vote_does_not_restart_the_timeout() {
    let mut world = World::tuned(3, 1, sharp).holding(&[&[1], &[], &[]], &[1, 1, 1]);
    world.tick(1, 14);
    world.inject(2, 1, vote(2, (0, 0)));
    assert_eq!(hard(&world, 1), (2, None));
    world.tick(1, 1);
    assert_eq!(world.raft(1).role(), Role::PreCandidate, "the refused vote moved the timer");
}

/// The same with a vote that is granted: then the timeout does start anew.
#[test]
fn r08_granted_vote_restarts_the_timeout() {
    let mut world = World::tuned(3, 1, sharp);
    world.tick(1, 14);
    world.inject(2, 1, vote(1, (0, 0)));
    world.tick(1, 14);
    assert_eq!(world.raft(1).role(), Role::Follower);
    world.tick(1, 1);
    assert_eq!(world.raft(1).role(), Role::PreCandidate);
}

/// An answer carries the term after handling the question (NATS d1a5a3826).
#[test]
fn r09_reply_carries_the_updated_term() {
    let mut world = World::with_logs(&[&[1, 1], &[], &[]], &[1, 1, 1]);
    world.inject(2, 1, vote(7, (1, 1)));
    world.persist(1);
    assert_eq!(world.take_sent(1), [(2, vote_reply(7, false))]);
}

/// Late answers to a pre-vote do nothing once the election is under way or over (openraft
/// 511f33c7).
#[test]
fn r11_late_pre_vote_replies_are_inert() {
    let mut world = World::new(3);
    world.elect(1);
    let before = world.status(1);
    world.inject(3, 1, Message::PreVoteReply { term: Term(1), granted: true });
    world.inject(3, 1, Message::PreVoteReply { term: Term(0), granted: false });
    assert_eq!(world.status(1), before);
    world.inject(3, 2, Message::PreVoteReply { term: Term(2), granted: true });
    assert_eq!(world.raft(2).role(), Role::Follower);
}

/// Who is not in the configuration is not heard (NATS f618bca80, ra 56e2f0e2).
#[test]
fn r12_stranger_is_ignored_and_counted() {
    let mut world = World::new(3);
    world.elect(1);
    world.propose(1, "x");
    let before = world.status(1);
    let accepted = raftq::raft::message::AppendOutcome::Accepted { match_index: Index(2) };
    for message in [
        vote(9, (9, 9)),
        append(9, (0, 0), &[], 0),
        Message::AppendReply {
            term: Term(1),
            outcome: accepted,
            session: 1,
            round: 0,
            healing: None,
        },
    ] {
        world.raft_mut(1).step(NodeId(9), message);
    }
    let after = world.status(1);
    assert_eq!(after.refused_messages, before.refused_messages + 3);
    assert_eq!((after.term, after.commit_index), (before.term, before.commit_index));
    // Nor does a node take itself for another.
    world.raft_mut(1).step(NodeId(1), vote(9, (9, 9)));
    assert_eq!(world.raft(1).term(), Term(1));
}

/// No campaign while a snapshot is being installed (etcd/raft #12163, NATS 860e23645).
#[test]
fn r13_no_campaign_while_a_snapshot_is_being_installed() {
    let mut world = World::new(3);
    world.elect(1);
    world.propose_many(1, 5);
    world.settle();
    let meta = world.raft(1).snapshot_meta(Index(6)).unwrap();
    let machine = world.node(1).machine.clone();
    let mut late = World::forged(3);
    late.inject(1, 2, append(1, (0, 0), &[], 0));
    late.persist(2);
    late.receive_snapshot(1, 2, &meta, machine);
    assert!(late.node(2).outstanding.as_ref().unwrap().reset.is_some());
    late.raft_mut(2).campaign();
    assert_eq!(late.raft(2).role(), Role::Follower);
    late.persist(2);
    late.raft_mut(2).campaign();
    assert_eq!(late.raft(2).role(), Role::PreCandidate);
}

/// Node that comes back without its disk under its old id is not fed as if nothing had happened:
/// its votes are lost too (Vanlightly's counterexample, openraft #2002). The handshake keeps it out
/// by the identity of its directory; the core does not help it either.
#[test]
fn r48_follower_that_lost_what_it_acknowledged_is_not_fed() {
    let mut world = World::new(3);
    world.elect(1);
    world.propose_many(1, 3);
    world.settle();
    world.crash(2, false);
    let wiped = World::new(3).nodes.remove(&2).unwrap();
    world.nodes.insert(2, wiped);
    world.tick(1, 5);
    world.settle();
    world.tick(1, 5);
    world.settle();
    assert_eq!(world.raft(2).last_index(), Index(0));
    assert_eq!(world.status(1).peers[0].match_index, Index(4), "what it once acknowledged");
}

/// Time that passed while the node itself stood still is no evidence of anybody's silence (etcd
/// #15247).
#[test]
fn r53_time_lost_in_a_stall_deposes_nobody() {
    let mut world = World::tuned(3, 1, |_| {});
    world.raft_mut(1).campaign();
    world.turn(1);
    world.settle();
    for id in [1, 2, 3] {
        world.raft_mut(id).tick(Ticks(1_000_000));
        world.turn(id);
    }
    assert_eq!(world.leaders(), [1]);
    assert_eq!(world.raft(2).role(), Role::Follower);
    assert_eq!(world.raft(3).role(), Role::Follower);
}

/// A disk that hangs ends leadership: heartbeats must not outlive the ability to write (hashicorp
/// #503, consul #22064, lavinmq #2151). Nor does such a node campaign.
#[test]
fn r62_hung_disk_ends_leadership_and_candidacy() {
    let mut world = World::new(3);
    world.elect(1);
    world.propose(1, "never written");
    for _ in 0..290 {
        world.tick(1, 1);
        for id in [2, 3] {
            while world.persist(id) {}
        }
        while !world.wire.is_empty() {
            world.deliver(0);
        }
    }
    assert_eq!(world.leaders(), [1], "a slow disk is no hung disk");
    for _ in 0..20 {
        world.tick(1, 1);
        while !world.wire.is_empty() {
            world.deliver(0);
        }
    }
    assert!(world.leaders().is_empty());
    world.raft_mut(1).campaign();
    world.turn(1);
    assert_eq!(world.raft(1).role(), Role::Follower);
    world.inject(2, 1, pre_vote(5, (99, 9)));
    let refused = Message::PreVoteReply { term: Term(1), granted: false };
    assert_eq!(world.take_sent(1).last(), Some(&(2, refused)));
}

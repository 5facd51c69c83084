//! Linearizable reads by ReadIndex, on the leader and on followers (Ongaro thesis §6.4).

use raftq::raft::core::{Config, Role};
use raftq::raft::message::{AppendOutcome, Message};
use raftq::types::{Index, NodeId, Term};

use crate::world::{World, vote_reply};

fn quick(config: &mut Config) {
    config.election_ticks_max = 100_000;
}

/// Reads wait for an entry of the leader's own term to be committed: before that it does not know
/// what is (etcd #7331).
#[test]
fn r49_read_waits_for_a_commit_of_the_own_term() {
    let mut world = World::new(3);
    world.elect(1);
    world.propose(1, "committed, though the others may not know");
    world.settle();
    world.raft_mut(2).campaign();
    for _ in 0..16 {
        world.tick(3, 1);
    }
    world.raft_mut(2).campaign();
    world.inject(3, 2, Message::PreVoteReply { term: Term(2), granted: true });
    world.persist(2);
    world.inject(3, 2, vote_reply(2, true));
    assert_eq!(world.raft(2).role(), Role::Leader);
    let token = world.read(2);
    world.cut.insert((2, 1));
    assert!(!world.answers.contains_key(&token));
    assert!(!world.raft(2).own_term_committed());
    world.settle();
    assert!(world.raft(2).own_term_committed());
    assert_eq!(world.answers[&token], Some(world.raft(2).commit_index()));
}

/// A read is confirmed by answers to messages sent after it arrived, never by an earlier heartbeat
/// (etcd #20418, raft #397), and never by anyone outside the configuration (hashicorp
/// `verifyLeader` counts non-voters).
#[test]
fn r50_read_is_confirmed_only_by_a_later_round() {
    let mut world = World::new(3);
    world.elect(1);
    world.tick(1, 5);
    let earlier: Vec<_> = world.take_sent(1);
    let token = world.read(1);
    let later = world.take_sent(1);
    for (to, message) in earlier {
        world.inject(1, to, message);
    }
    while !world.wire.is_empty() {
        world.deliver(0);
    }
    assert!(!world.answers.contains_key(&token), "confirmed by a heartbeat sent before the read");
    let (_, request) = &later[0];
    let Message::AppendEntries { session, round, .. } = request else { panic!("{request:?}") };
    let outcome = AppendOutcome::Accepted { match_index: Index(1) };
    let (session, round) = (*session, *round);
    let forged = Message::AppendReply { term: Term(1), outcome, session, round, healing: None };
    world.raft_mut(1).step(NodeId(9), forged.clone());
    world.turn(1);
    assert!(!world.answers.contains_key(&token), "confirmed by a stranger");
    let beyond =
        Message::AppendReply { term: Term(1), outcome, session, round: round + 1, healing: None };
    world.inject(2, 1, beyond);
    assert!(!world.answers.contains_key(&token), "confirmed by a round that never was");
    world.inject(2, 1, forged);
    assert_eq!(world.answers[&token], Some(Index(1)));
}

/// The caller's token means nothing to the core: the same one may be open twice.
#[test]
fn r50_reads_that_arrive_together_share_one_round() {
    let mut world = World::new(3);
    world.elect(1);
    for token in [7, 7, 8] {
        world.raft_mut(1).read(token);
    }
    let effects = world.raft_mut(1).effects();
    assert_eq!(effects.send.len(), 2, "one message a follower");
    for (to, message) in effects.send {
        world.raft_mut(to.0).step(NodeId(1), message);
        let reply = world.raft_mut(to.0).effects().send;
        for (_, message) in reply {
            world.raft_mut(1).step(to, message);
        }
    }
    let answered = world.raft_mut(1).effects().reads;
    assert_eq!(answered.iter().map(|ready| ready.token).collect::<Vec<_>>(), [7, 7, 8]);
}

/// A transfer of leadership ends reads, those under way too (openraft #1747, etcd/raft #99).
#[test]
fn r52_transfer_ends_reads() {
    let mut world = World::new(3);
    world.elect(1);
    let open = world.read(1);
    assert_eq!(world.raft_mut(1).transfer(Some(NodeId(2))), Ok(NodeId(2)));
    world.turn(1);
    assert_eq!(world.answers[&open], None);
    let refused = world.read(1);
    assert_eq!(world.answers[&refused], None);
    world.settle();
    assert_eq!(world.leaders(), [2]);
}

#[test]
fn read_on_a_follower_sees_what_the_leader_committed() {
    let mut world = World::new(3);
    world.elect(1);
    let index = world.propose(1, "x").unwrap();
    world.settle();
    let token = world.read(3);
    assert!(!world.answers.contains_key(&token));
    world.settle();
    assert_eq!(world.answers[&token], Some(index));
}

#[test]
fn read_on_a_follower_survives_a_lost_question() {
    let mut world = World::tuned(3, 1, quick);
    world.elect(1);
    let token = world.read(3);
    world.lose_wire();
    world.tick(3, 15);
    world.settle();
    assert_eq!(world.answers[&token], Some(Index(1)));
}

#[test]
fn read_without_a_leader_is_answered_at_once() {
    let mut world = World::new(3);
    let token = world.read(2);
    assert_eq!(world.answers[&token], None);
}

#[test]
fn read_at_a_leader_cut_off_is_answered_without_an_index() {
    let mut world = World::new(3);
    world.elect(1);
    world.cut_off(1);
    let token = world.read(1);
    world.tick(1, 59);
    assert!(!world.answers.contains_key(&token));
    world.tick(1, 10);
    assert_eq!(world.answers[&token], None, "it stepped down");
    // A deposed leader that does not know it yet confirms nothing.
    let mut world = World::new(3);
    world.elect(1);
    world.cut_off(1);
    let stale = world.read(1);
    world.elect(2);
    world.cut.clear();
    world.tick(1, 5);
    world.settle();
    assert_eq!(world.answers[&stale], None);
}

#[test]
fn read_in_a_group_of_one_needs_nobody() {
    let mut world = World::new(1);
    world.elect(1);
    let token = world.read(1);
    assert_eq!(world.answers[&token], Some(Index(1)));
}

/// Late answers to questions of a former start are not taken for answers to new ones.
#[test]
fn read_after_a_restart_does_not_take_an_old_answer() {
    let mut world = World::new(3);
    world.elect(1);
    world.read(3);
    let (_, question) = world.take_sent(3).pop().unwrap();
    let Message::ReadIndex { token: old, term, .. } = question else { panic!("{question:?}") };
    world.restart(3);
    world.tick(1, 5);
    world.settle();
    let token = world.read(3);
    let reply = Message::ReadIndexReply { term, token: old, index: Some(Index(0)) };
    world.inject(1, 3, reply);
    assert!(!world.answers.contains_key(&token));
    world.settle();
    assert!(world.answers[&token].is_some());
}

/// A leader falls, and leads a later term after its restart. A follower's answer to what it sent in
/// its former life carries the new term, and sessions and rounds that are given again: it must not
/// confirm that the leader still leads.
#[test]
fn read_after_a_restart_is_not_confirmed_by_an_answer_to_a_former_life() {
    let mut world = World::new(3);
    world.elect(1);
    world.read(1);
    let sent = world.take_sent(1);
    let (_, old) = sent.into_iter().find(|(to, _)| *to == 3).unwrap();
    world.restart(1);
    world.elect(1);
    world.inject(1, 3, old);
    let (_, late) = world.take_sent(3).pop().unwrap();
    assert!(matches!(late, Message::AppendReply { term: Term(2), .. }), "{late:?}");
    world.cut_off(1);
    world.elect(2);
    let index = world.propose(2, "committed in term 3").unwrap();
    world.settle();
    assert_eq!(world.raft(2).commit_index(), index);
    assert_eq!(world.raft(1).role(), Role::Leader, "of term 2, and it does not know better");
    let token = world.read(1);
    world.cut.clear();
    world.inject(3, 1, late);
    assert!(!world.answers.contains_key(&token), "confirmed by an answer to a former life");
}

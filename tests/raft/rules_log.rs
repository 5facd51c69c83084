//! Rules about committing, the log and feeding followers, each broken once by a real engine.

use bytes::Bytes;
use raftq::raft::core::{Config, LogGone, PeerState, Raft, Role};
use raftq::raft::message::{AppendOutcome, EntryKind, Message};
use raftq::types::{Index, NodeId, Term};

use crate::world::{World, append, entry, matches, vote_reply};

fn accepted(match_index: u64, session: u64) -> Message {
    let outcome = AppendOutcome::Accepted { match_index: Index(match_index) };
    Message::AppendReply { term: Term(1), outcome, session, round: 0, healing: None }
}

fn session_of(sent: &[(u64, Message)], to: u64) -> u64 {
    let mut sessions = sent.iter().filter(|(id, _)| *id == to).filter_map(|(_, m)| match m {
        Message::AppendEntries { session, .. } => Some(*session),
        _ => None,
    });
    sessions.next_back().expect("something was sent")
}

fn narrow(config: &mut Config) {
    config.election_ticks_max = 100_000;
    config.inflight_entries_max = 4;
    config.append_bytes_max = 80;
    config.window_entries_max = 5;
}

/// Replicas are counted for entries of the current term only (LogCabin #44, NATS c8687fc4d): an old
/// entry on a majority can still be overwritten.
#[test]
fn r14_old_term_entries_are_not_committed_by_count() {
    let mut world = World::with_logs(&[&[1, 2], &[1, 2], &[1], &[1], &[1]], &[3, 3, 3, 3, 3]);
    for other in [4, 5] {
        world.crash(other, false);
    }
    world.raft_mut(1).campaign();
    world.turn(1);
    while world.raft(1).role() != Role::Leader {
        world.persist(1);
        (1..=3).for_each(|id| while world.persist(id) {});
        world.deliver(0);
    }
    // Node 3 takes the old entry 2 but not yet entry 3 of the new term.
    let (session, term) = (session_of(&world.take_sent(1), 3), world.raft(1).term());
    let outcome = AppendOutcome::Accepted { match_index: Index(2) };
    for from in [2, 3] {
        world.inject(
            from,
            1,
            Message::AppendReply { term, outcome, session, round: 0, healing: None },
        );
    }
    while world.persist(1) {}
    assert_eq!(world.raft(1).commit_index(), Index(0));
}

/// A follower commits up to what the message verified, not up to the end of its own log, which may
/// hold the remains of another leader (ScyllaDB #9965, ra #508, copycat #266).
#[test]
fn r15_follower_commits_only_what_the_message_verified() {
    let mut world = World::forged(3).holding(&[&[1, 1, 1], &[], &[]], &[1, 1, 1]);
    world.inject(2, 1, append(2, (1, 1), &[], 3));
    assert_eq!(world.raft(1).commit_index(), Index(1));
    world.inject(2, 1, append(2, (1, 1), &[2], 3));
    assert_eq!(world.raft(1).commit_index(), Index(2));
    assert_eq!(world.terms(1), [1, 2]);
}

/// The commit index never goes back, whatever a message says (NATS c6f6c25ac, etcd/raft #138).
#[test]
fn r16_commit_index_never_goes_back() {
    let mut world = World::forged(3);
    world.inject(2, 1, append(1, (0, 0), &[1, 1, 1], 3));
    world.inject(2, 1, append(1, (3, 1), &[], 1));
    world.inject(2, 1, append(1, (0, 0), &[1], 0));
    assert_eq!(world.raft(1).commit_index(), Index(3));
    // Nor beyond the log of a follower that is told of more than it has.
    world.inject(2, 1, append(1, (3, 1), &[], 99));
    assert_eq!(world.raft(1).commit_index(), Index(3));
}

/// A group of one commits only what is synced (etcd #14370 lost acknowledged writes), and does
/// commit (NATS 5a98bca67 never did).
#[test]
fn r18_single_voter_syncs_then_commits() {
    let mut world = World::new(1);
    world.raft_mut(1).campaign();
    world.turn(1);
    assert_eq!(world.raft(1).role(), Role::Candidate, "its own vote is not durable yet");
    world.settle();
    assert_eq!(world.raft(1).role(), Role::Leader);
    let index = world.propose(1, "x").unwrap();
    assert!(world.raft(1).commit_index() < index);
    world.settle();
    assert_eq!(world.raft(1).commit_index(), index);
    assert_eq!(world.node(1).machine.len(), 2);
}

/// A new leader counts itself only once its no-op is synced (openraft a9f696a9).
#[test]
fn r19_leader_counts_itself_only_once_synced() {
    let mut world = World::new(3);
    world.raft_mut(1).campaign();
    world.inject(2, 1, Message::PreVoteReply { term: Term(1), granted: true });
    world.persist(1);
    world.inject(2, 1, vote_reply(1, true));
    assert_eq!(world.raft(1).role(), Role::Leader);
    let session = session_of(&world.take_sent(1), 2);
    world.nodes.get_mut(&2).unwrap().disk.entries.push(entry(1, 1));
    world.inject(2, 1, accepted(1, session));
    assert_eq!(world.raft(1).commit_index(), Index(0));
    world.persist(1);
    assert_eq!(world.raft(1).commit_index(), Index(1));
}

/// The log is cut at the first conflict only: an old, short message must not cut off what a newer
/// one brought (openraft 9540c904, NATS f871570fb).
#[test]
fn r20_late_short_append_cuts_nothing_off() {
    let mut world = World::new(3);
    world.inject(2, 1, append(1, (0, 0), &[1, 1, 1, 1], 0));
    world.inject(2, 1, append(1, (0, 0), &[1, 1], 0));
    world.inject(2, 1, append(1, (1, 1), &[], 0));
    assert_eq!(world.terms(1), [1, 1, 1, 1]);
    world.inject(2, 1, append(2, (1, 1), &[1, 2], 0));
    assert_eq!(world.terms(1), [1, 1, 2]);
}

/// Nothing committed is ever cut off (NATS b2bb911bd): such a message is refused whole.
#[test]
fn r21_append_that_conflicts_with_committed_entries_is_refused() {
    let mut world = World::forged(3);
    world.inject(2, 1, append(1, (0, 0), &[1, 1, 1], 2));
    for message in [append(2, (0, 0), &[2], 0), append(2, (1, 1), &[2, 2], 2)] {
        world.inject(3, 1, message);
        assert_eq!(world.terms(1), [1, 1, 1]);
    }
    world.inject(3, 1, append(2, (2, 2), &[2], 0));
    assert_eq!(world.terms(1), [1, 1, 1]);
    assert_eq!(world.status(1).refused_messages, 3);
    // Above the commit index it may cut.
    world.inject(3, 1, append(2, (2, 1), &[2], 0));
    assert_eq!(world.terms(1), [1, 1, 2]);
}

/// A write that completes after its entries were cut off confirms nothing of what took their place
/// (ra 39490978, etcd/raft async_storage_writes_append_aba_race, openraft 2af491fb).
#[test]
fn r22_old_write_does_not_confirm_the_new_tail() {
    let mut world = World::new(3);
    world.inject(2, 1, append(1, (0, 0), &[1, 1, 1], 0));
    assert_eq!(world.node(1).outstanding.as_ref().unwrap().entries.len(), 3);
    world.inject(3, 1, append(2, (1, 1), &[2, 2], 0));
    world.take_sent(1);
    world.persist(1);
    assert_eq!(world.raft(1).durable_index(), Index(1));
    assert_eq!(world.take_sent(1), [], "term 2 is not durable");
    world.persist(1);
    assert_eq!(world.raft(1).durable_index(), Index(3));
    assert_eq!(matches(&world.take_sent(1)), [3]);
}

/// Truncation takes the durable index back at once, not when the next write completes.
#[test]
fn r22_truncation_lowers_the_durable_index_at_once() {
    let mut world = World::forged(3);
    world.inject(2, 1, append(1, (0, 0), &[1, 1, 1], 0));
    world.persist(1);
    assert_eq!(world.raft(1).durable_index(), Index(3));
    world.inject(3, 1, append(2, (1, 1), &[2, 2], 3));
    assert_eq!(world.raft(1).durable_index(), Index(1));
    assert_eq!(world.raft(1).applied_index(), Index(1));
}

/// Answers to a former replication session do nothing (openraft cecb5de8, fbbf37b1).
#[test]
fn r23_answer_to_a_former_session_is_inert() {
    let mut world = World::new(3);
    world.elect(1);
    world.cut_off(2);
    world.cut_off(3);
    world.propose(1, "x");
    let old = session_of(&world.take_sent(1), 2);
    world.raft_mut(1).peer_lost(NodeId(2));
    world.turn(1);
    let new = session_of(&world.take_sent(1), 2);
    assert!(new > old);
    world.persist(1);
    world.cut.clear();
    world.raft_mut(1).step(NodeId(2), accepted(2, old));
    assert_eq!(world.status(1).peers[0].match_index, Index(1));
    world.raft_mut(1).step(NodeId(2), accepted(2, new));
    assert_eq!(world.status(1).peers[0].match_index, Index(2));
}

/// The term of a compacted entry is unknown, never 0 (etcd/raft 76f1249, openraft 71a290cd).
#[test]
fn r24_term_of_a_compacted_entry_is_unknown() {
    let mut world = World::new(1);
    world.elect(1);
    world.propose_many(1, 9);
    world.settle();
    world.compact(1, 2);
    assert_eq!(world.status(1).first_index, Index(9));
    assert_eq!(world.raft(1).term_at(Index(7)), None);
    assert_eq!(world.raft(1).term_at(Index(8)), Some(Term(1)), "needed to send entry 9");
    assert_eq!(world.raft(1).term_at(Index(11)), None);
    assert_eq!(world.raft(1).snapshot_meta(Index(7)), None);
}

/// A predecessor that is compacted away here is committed, and so agrees (etcd/raft, openraft
/// 71a290cd took it for a conflict).
#[test]
fn r25_compacted_predecessor_agrees() {
    let mut world = World::forged(3);
    world.inject(2, 1, append(1, (0, 0), &[1; 6], 6));
    world.persist(1);
    world.compact(1, 1);
    world.take_sent(1);
    world.inject(2, 1, append(1, (2, 1), &[1, 1, 1, 1, 1], 7));
    world.persist(1);
    assert_eq!(world.raft(1).commit_index(), Index(7));
    assert_eq!(matches(&world.take_sent(1)), [7]);
}

/// `next_index` stays above `match_index`, whatever a rejection says (raft-rs #557, etcd/raft #149).
#[test]
fn r26_next_index_stays_above_match_index() {
    let mut world = World::new(3);
    world.elect(1);
    world.propose(1, "x");
    world.settle();
    world.tick(1, 5);
    let session = session_of(&world.take_sent(1), 2);
    let outcome =
        AppendOutcome::Rejected { prev_index: Index(2), hint_index: Index(0), hint_term: Term(0) };
    world.inject(
        2,
        1,
        Message::AppendReply { term: Term(1), outcome, session, round: 0, healing: None },
    );
    let peer = world.status(1).peers[0];
    assert_eq!((peer.match_index, peer.next_index), (Index(2), Index(3)));
}

/// The byte count of what is in flight is cleared along with the window (etcd/raft e419ba5).
#[test]
fn r27_new_session_has_an_empty_window() {
    let mut world = World::tuned(3, 1, narrow);
    world.elect(1);
    for _ in 0..20 {
        world.cut_off(2);
        world.propose_many(1, 8);
        world.settle();
        world.cut.clear();
        world.raft_mut(1).peer_lost(NodeId(2));
        world.turn(1);
        world.settle();
        assert_eq!(world.raft(2).last_index(), world.raft(1).last_index());
    }
}

/// A full window that was lost does not stall for ever: heartbeats ask, and are answered (etcd/raft
/// `maybeSendAppend`, #14633).
#[test]
fn r28_throttled_follower_is_still_probed() {
    let mut world = World::tuned(3, 1, narrow);
    world.elect(1);
    world.cut.insert((1, 2));
    world.propose_many(1, 20);
    let sent = world.take_sent(1);
    let entries = sent.iter().filter(|(to, _)| *to == 2).map(|(_, message)| match message {
        Message::AppendEntries { entries, .. } => entries.len(),
        _ => 0,
    });
    assert!((4..20).contains(&entries.sum::<usize>()), "the window has a bound");
    world.cut.clear();
    world.tick(1, 5);
    world.settle();
    assert_eq!(world.raft(2).last_index(), Index(21));
}

/// What was read of the log counts only if the log is still the same (openraft log_stream.md).
#[test]
fn r29_log_read_of_another_term_is_not_used() {
    let mut world = World::tuned(3, 1, narrow);
    world.elect(1);
    world.cut_off(2);
    world.propose_many(1, 30);
    world.settle();
    world.cut.clear();
    world.tick(1, 5);
    world.talk_until(2, |world| !world.node(1).log_reads.is_empty());
    let read = world.nodes.get_mut(&1).unwrap().log_reads.pop_front().unwrap();
    world.take_sent(1);
    world.raft_mut(1).log_read(read.token, Ok(vec![entry(read.from.0, 9)]));
    world.turn(1);
    let sent = world.take_sent(1);
    let carries = |(_, message): &(u64, Message)| match message {
        Message::AppendEntries { entries, .. } => !entries.is_empty(),
        _ => false,
    };
    assert!(!sent.iter().any(carries), "it sent what is not in its log");
    assert_eq!(world.node(1).log_reads.len(), 1, "and asks again");
    world.settle();
    assert_eq!(world.raft(2).last_index(), Index(31));
}

/// The log is released only after a durable snapshot covers it (NATS 4f202b641, etcd #10219).
#[test]
#[should_panic(expected = "released to 3, snapshot to 0")]
fn r30_release_without_a_snapshot_stops_the_node() {
    let mut world = World::new(1);
    world.elect(1);
    world.propose_many(1, 3);
    world.settle();
    world.raft_mut(1).log_released(Index(3));
}

/// Nothing is applied that the own log may still lose (ra ffe3016a).
#[test]
fn r31_applied_index_stays_within_the_durable_log() {
    let mut world = World::forged(3);
    world.inject(2, 1, append(1, (0, 0), &[1, 1], 0));
    world.persist(1);
    world.inject(2, 1, append(1, (2, 1), &[1, 1], 4));
    assert_eq!(world.raft(1).commit_index(), Index(4));
    assert_eq!(world.node(1).machine.len(), 2);
    world.persist(1);
    assert_eq!(world.node(1).machine.len(), 4);
}

/// A leader whose log is compacted and that knows nothing of a follower sends a snapshot (openraft
/// #1828 livelocked), and the follower then goes on from the log.
#[test]
fn r37_unknown_follower_of_a_compacted_log_gets_a_snapshot() {
    let mut world = World::new(3);
    world.elect(1);
    world.crash(3, false);
    world.propose_many(1, 9);
    world.settle();
    world.compact(1, 0);
    world.compact(2, 0);
    world.restart(1);
    world.elect(2);
    let fresh = World::new(3).nodes.remove(&3).unwrap();
    world.nodes.insert(3, fresh);
    world.tick(2, 5);
    world.talk_until(3, |world| !world.shipments.is_empty());
    assert_eq!(world.status(2).peers[1].state, PeerState::Snapshot);
    world.settle();
    world.propose(2, "after");
    world.settle();
    world.tick(2, 5);
    world.settle();
    assert_eq!(world.node(3).installs, 1);
    assert_eq!(world.node(3).machine, world.node(2).machine);
    assert_eq!(world.status(2).peers[1].state, PeerState::Replicate);
}

/// The bound on uncommitted work refuses a proposal, all of it, and frees itself by committing.
#[test]
fn propose_beyond_the_bound_is_refused_whole() {
    let mut world = World::tuned(3, 1, |config| {
        config.election_ticks_max = 100_000;
        config.uncommitted_entries_max = 4;
    });
    world.elect(1);
    let three = || vec![Bytes::from_static(b"x"); 3];
    let propose = |raft: &mut Raft| raft.propose(EntryKind::Command, three());
    assert_eq!(propose(world.raft_mut(1)), Ok(Index(2)));
    let last_index = world.raft(1).last_index();
    assert_eq!(propose(world.raft_mut(1)), Err(raftq::raft::core::ProposeError::Overfull));
    assert_eq!(world.raft(1).last_index(), last_index);
    world.turn(1);
    world.settle();
    assert_eq!(propose(world.raft_mut(1)), Ok(Index(5)));
    // What alone is above the bound would otherwise be refused for ever.
    world.turn(1);
    world.settle();
    let many = vec![Bytes::from_static(b"x"); 9];
    assert_eq!(world.raft_mut(1).propose(EntryKind::Command, many), Ok(Index(8)));
    world.turn(1);
    world.settle();
    assert_eq!(world.status(1).uncommitted_bytes, 0);
}

/// Memory holds the bodies of at most so many entries that are committed, applied and durable.
#[test]
fn window_keeps_its_bound_and_old_entries_come_from_the_disk() {
    let mut world = World::tuned(3, 1, narrow);
    world.elect(1);
    world.propose_many(1, 40);
    world.settle();
    for id in [1, 2, 3] {
        world.tick(1, 5);
        world.settle();
        assert!(world.status(id).window_entries <= 5, "{:?}", world.status(id));
    }
    world.restart(2);
    assert_eq!(world.node(2).machine.len(), 0);
    world.tick(1, 5);
    world.settle();
    assert_eq!(world.node(2).machine, world.node(1).machine);
}

/// What waits to be applied leaves memory too when it weighs too much, and comes from the disk.
#[test]
fn window_keeps_its_weight_when_applying_falls_behind() {
    let mut world = World::tuned(3, 1, |config| {
        config.election_ticks_max = 100_000;
        config.apply_entries_max = 1;
        config.window_bytes_max = 500;
    });
    world.is_forged = true;
    world.inject(2, 1, append(1, (0, 0), &[1; 40], 0));
    while world.persist(1) {}
    // All of it is committed at once, and so waits at once.
    world.inject(2, 1, append(1, (40, 1), &[], 40));
    assert!(world.status(1).window_bytes <= 500, "{:?}", world.status(1));
    assert!(!world.node(1).log_reads.is_empty(), "what was dropped is not fetched");
    while world.serve_log_read(1) {}
    assert_eq!(world.node(1).machine.len(), 40);
}

/// The log on disk was released between the order of a read and its answer.
#[test]
fn log_read_of_a_released_entry_leads_to_a_snapshot() {
    let mut world = World::tuned(3, 1, narrow);
    world.elect(1);
    world.cut_off(2);
    world.propose_many(1, 30);
    world.settle();
    world.cut.clear();
    world.tick(1, 5);
    world.talk_until(2, |world| !world.node(1).log_reads.is_empty());
    let token = world.nodes.get_mut(&1).unwrap().log_reads.pop_front().unwrap().token;
    world.compact(1, 3);
    world.raft_mut(1).log_read(token, Err(LogGone { first_index: Index(29) }));
    world.turn(1);
    assert_eq!(world.status(1).peers[0].state, PeerState::Snapshot);
    world.settle();
    world.tick(1, 5);
    world.settle();
    assert_eq!(world.node(2).machine, world.node(1).machine);
}

/// A commit is told with the next entries, so that entries that follow each other cost one message each way; alone it
/// is told within a tick, and at once where somebody waits for it.
#[test]
fn commit_is_told_with_the_next_entries_or_after_a_tick_or_when_it_is_announced() {
    let mut world = World::new(3);
    world.elect(1);
    world.settle();
    world.announces = false;
    let commit = |world: &World| (world.raft(1).commit_index(), world.raft(2).commit_index());
    world.trace = Some(Vec::new());
    world.propose(1, "a");
    world.settle();
    assert_eq!(commit(&world), (Index(2), Index(1)), "nobody needs to know yet");
    let count = world.trace.as_ref().map(Vec::len);
    assert_eq!(count, Some(4), "one message and one answer for each follower");
    world.propose(1, "b");
    world.settle();
    assert_eq!(commit(&world), (Index(3), Index(2)));
    world.tick(1, 1);
    world.settle();
    assert_eq!(commit(&world), (Index(3), Index(3)));
    world.propose(1, "c");
    world.settle();
    world.raft_mut(1).announce_commit();
    world.turn(1);
    world.settle();
    assert_eq!(commit(&world), (Index(4), Index(4)));
}

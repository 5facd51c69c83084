//! Rules about snapshots, configurations and handing leadership over, each broken once by a real
//! engine.

use bytes::Bytes;
use raftq::raft::configuration;
use raftq::raft::core::{Config, PeerState, ProposeError, Raft, Role, TransferError};
use raftq::raft::effects::Offer;
use raftq::raft::message::{EntryKind, Message, SnapshotMeta};
use raftq::types::{ClusterId, Index, NodeId, Term};

use crate::world::{Packet, World, append, entry};

fn meta(index: u64, term: u64) -> SnapshotMeta {
    let configuration = crate::world::configuration(3);
    SnapshotMeta { index: Index(index), term: Term(term), configuration }
}

/// A log that does not hold the snapshot's last entry with the same term is discarded whole (Raft
/// paper, Figure 13, rule 7; hashicorp/raft #697, openraft 674e78aa keep the tail).
#[test]
fn r32_install_over_another_term_discards_the_whole_log() {
    let mut world = World::forged(3).holding(&[&[1, 1, 1, 1, 1], &[], &[]], &[1, 3, 3]);
    world.inject(2, 1, append(3, (1, 1), &[], 1));
    world.persist(1);
    let machine = (1..=3).map(|index| entry(index, if index == 3 { 2 } else { 1 })).collect();
    world.receive_snapshot(2, 1, &meta(3, 2), machine);
    let status = world.status(1);
    assert_eq!((status.first_index, status.last_index), (Index(4), Index(3)));
    assert_eq!((status.commit_index, status.applied_index), (Index(3), Index(3)));
    assert_eq!(world.node(1).installs, 1);
    // Nothing is claimed before the reset is durable.
    assert_eq!(status.durable_index, Index(0));
    world.persist(1);
    assert_eq!(world.raft(1).durable_index(), Index(3));
    assert_eq!(world.node(1).disk.entries, []);
}

/// A log that does hold it goes on as it is (Figure 13, rule 6).
#[test]
fn r32_install_over_the_same_entry_keeps_the_log() {
    let mut world = World::with_logs(&[&[1, 1, 1, 1, 1], &[], &[]], &[1, 1, 1]);
    let peers: Vec<u64> = vec![2, 3];
    for id in peers {
        world.nodes.get_mut(&id).unwrap().disk.entries = (1..=3).map(|i| entry(i, 1)).collect();
    }
    world.inject(2, 1, append(1, (0, 0), &[], 0));
    let machine = (1..=3).map(|index| entry(index, 1)).collect();
    world.receive_snapshot(2, 1, &meta(3, 1), machine);
    assert_eq!(world.node(1).installs, 0);
    assert_eq!(world.terms(1), [1; 5]);
    assert_eq!(world.node(1).machine.len(), 3);
}

/// A crash between the snapshot's file and the log's reset: the log is discarded at the next start.
#[test]
fn r32_crash_before_the_reset_is_durable_resets_at_start() {
    let mut world = World::forged(3).holding(&[&[1, 1, 1, 1, 1], &[], &[]], &[1, 3, 3]);
    world.inject(2, 1, append(3, (1, 1), &[], 1));
    world.persist(1);
    let machine = (1..=3).map(|index| entry(index, if index == 3 { 2 } else { 1 })).collect();
    world.receive_snapshot(2, 1, &meta(3, 2), machine);
    world.crash(1, false);
    assert_eq!(world.node(1).disk.last(), 5);
    world.start(1);
    let status = world.status(1);
    assert_eq!((status.first_index, status.last_index), (Index(4), Index(3)));
    world.persist(1);
    assert_eq!((world.node(1).disk.first, world.node(1).disk.last()), (4, 3));
}

/// A snapshot not newer than what is committed is not installed, and one that contradicts it is
/// refused (etcd/raft 80615be, openraft #1892).
#[test]
fn r33_older_or_contradicting_snapshot_is_not_installed() {
    let mut world = World::forged(3);
    world.inject(2, 1, append(1, (0, 0), &[1, 1, 1], 3));
    world.persist(1);
    for index in [2, 3] {
        world.receive_snapshot(2, 1, &meta(index, 1), Vec::new());
    }
    assert_eq!(world.status(1).refused_messages, 0);
    world.nodes.get_mut(&1).unwrap().disk.snapshot = Some((meta(9, 9), Vec::new()));
    world.receive_snapshot(2, 1, &meta(3, 0), Vec::new());
    assert_eq!(world.status(1).refused_messages, 1);
    assert_eq!((world.node(1).installs, world.raft(1).last_index()), (0, Index(3)));
}

/// A snapshot with other voters is none of this cluster.
#[test]
fn snapshot_of_other_voters_is_refused() {
    let mut world = World::new(3);
    world.inject(2, 1, append(1, (0, 0), &[], 0));
    let configuration = crate::world::configuration(5);
    let foreign = SnapshotMeta { index: Index(9), term: Term(1), configuration };
    world.raft_mut(1).snapshot_received(NodeId(2), &foreign);
    world.raft_mut(1).step(NodeId(2), Message::InstallSnapshot { term: Term(1), meta: foreign });
    assert_eq!(world.status(1).refused_messages, 2);
    assert_eq!(world.raft(1).last_index(), Index(0));
}

/// A snapshot made here that is done late does not take the place of a newer one (ra de94f929).
#[test]
fn r34_late_local_snapshot_changes_nothing() {
    let mut world = World::new(1);
    world.elect(1);
    world.propose_many(1, 9);
    world.settle();
    let old = world.raft(1).snapshot_meta(Index(4)).unwrap();
    world.compact(1, 0);
    world.raft_mut(1).snapshot_written(&old);
    assert_eq!(world.status(1).snapshot_index, Index(10));
}

/// A snapshot carries the configuration committed at its index, not a later one that may be undone
/// (NATS 1fae6111c, openraft #1808).
#[test]
fn r35_snapshot_carries_the_configuration_of_its_index() {
    let mut world = World::new(3);
    world.elect(1);
    world.propose(1, "x");
    world.settle();
    let mut newer = crate::world::configuration(3);
    newer.cluster = ClusterId([7; 16]);
    let data = vec![configuration::encode(&newer)];
    assert_eq!(world.raft_mut(1).propose(EntryKind::Configuration, data), Ok(Index(3)));
    // In force from the append on, but not committed.
    assert_eq!(world.raft(1).configuration(), &newer);
    assert_eq!(world.raft(1).committed_configuration(), &crate::world::configuration(3));
    let snapshot = world.raft(1).snapshot_meta(Index(2)).unwrap();
    assert_eq!(snapshot.configuration, crate::world::configuration(3));
    assert_eq!(world.raft(1).snapshot_meta(Index(3)), None, "not applied yet");
    world.turn(1);
    world.settle();
    assert_eq!(world.raft(1).snapshot_meta(Index(3)).unwrap().configuration, newer);
    // After a restart it comes from the log, up to its end.
    world.restart(2);
    assert_eq!(world.raft(2).configuration(), &newer);
}

/// A configuration entry that is cut off is in force no longer.
#[test]
fn configuration_is_undone_by_truncation() {
    let mut world = World::new(3);
    let mut newer = crate::world::configuration(3);
    newer.cluster = ClusterId([7; 16]);
    let mut message = append(1, (0, 0), &[1, 1], 0);
    if let Message::AppendEntries { entries, .. } = &mut message {
        entries[1].kind = EntryKind::Configuration;
        entries[1].data = configuration::encode(&newer);
    }
    world.inject(2, 1, message);
    assert_eq!(world.raft(1).configuration(), &newer);
    world.inject(3, 1, append(2, (1, 1), &[2], 0));
    assert_eq!(world.raft(1).configuration(), &crate::world::configuration(3));
}

/// A transfer of a snapshot is broken off when the term changes, and an offer ends a candidacy
/// (scylla 9dad68e58d, ra 3b904736).
#[test]
fn r39_new_term_aborts_transfers_and_an_offer_ends_a_candidacy() {
    let mut world = World::new(3);
    world.elect(1);
    world.crash(3, false);
    world.propose_many(1, 9);
    world.settle();
    world.compact(1, 0);
    world.start(3);
    world.tick(1, 5);
    world.talk_until(3, |world| !world.shipments.is_empty());
    world.inject(2, 1, append(7, (0, 0), &[], 0));
    assert_eq!(world.node(1).aborted, [NodeId(3)]);
    assert!(world.shipments.is_empty());

    let mut world = World::new(3);
    world.raft_mut(1).campaign();
    world.inject(2, 1, Message::PreVoteReply { term: Term(1), granted: true });
    assert_eq!(world.raft(1).role(), Role::Candidate);
    world.inject(2, 1, Message::InstallSnapshot { term: Term(1), meta: meta(5, 1) });
    world.persist(1);
    assert_eq!((world.raft(1).role(), world.raft(1).leader()), (Role::Follower, Some(NodeId(2))));
    assert_eq!(world.node(1).offers, [(NodeId(2), Index(5), Offer::Wanted)]);
    world.inject(3, 1, Message::InstallSnapshot { term: Term(0), meta: meta(5, 0) });
    assert_eq!(world.node(1).offers.last(), Some(&(NodeId(3), Index(5), Offer::Stale(Term(1)))));
}

/// A failed transfer begins again after a pause, and a follower that turns out to need none gets
/// none.
#[test]
fn snapshot_transfer_that_fails_begins_again_after_a_pause() {
    let mut world = World::new(3);
    world.elect(1);
    world.cut_off(3);
    world.propose_many(1, 9);
    world.settle();
    world.compact(1, 0);
    world.cut.clear();
    world.tick(1, 5);
    world.talk_until(3, |world| !world.shipments.is_empty());
    let shipment = world.shipments.pop_front().unwrap();
    world.shipment_failed(&shipment);
    world.tick(1, 50);
    assert!(world.shipments.is_empty());
    world.settle();
    world.tick(1, 60);
    assert_eq!(world.shipments.len(), 1);
    world.settle();
    world.tick(1, 5);
    world.settle();
    assert_eq!(world.node(3).machine, world.node(1).machine);
    assert_eq!(world.status(1).peers[1].state, PeerState::Replicate);
}

/// A machine whose index is below its snapshot's claim stops the start (dragonboat #156, #369).
#[test]
#[should_panic(expected = "its snapshot claims")]
fn r42_machine_behind_its_snapshot_stops_the_start() {
    let mut world = World::new(1);
    world.elect(1);
    world.propose_many(1, 9);
    world.settle();
    world.compact(1, 0);
    let mut boot = world.node(1).disk.boot(&crate::world::configuration(1), 10);
    boot.applied_index = Index(3);
    drop(Raft::new(Config::new(NodeId(1)), boot, 1));
}

/// Entries missing between snapshot and log stop the start.
#[test]
#[should_panic(expected = "neither in the log nor in the snapshot")]
fn gap_between_snapshot_and_log_stops_the_start() {
    let mut boot = raftq::raft::core::Boot::empty(crate::world::configuration(1));
    boot.first_index = Index(5);
    boot.last_index = Index(4);
    drop(Raft::new(Config::new(NodeId(1)), boot, 1));
}

/// A proposal belongs to the term it was accepted in (NATS b4506ec4a): after a loss of leadership
/// nothing of it is proposed again by the core, and what is found at its index tells by its term.
#[test]
fn r56_proposals_carry_the_term_they_were_accepted_in() {
    let mut world = World::new(3);
    world.elect(1);
    world.cut_off(1);
    let index = world.propose(1, "lost").unwrap();
    let term = world.raft(1).term();
    assert_eq!(world.raft(1).term_at(index), Some(term));
    world.elect(2);
    world.cut.clear();
    world.tick(2, 5);
    world.settle();
    let late = world.raft_mut(1).propose(EntryKind::Command, vec![Bytes::from_static(b"x")]);
    assert_eq!(late, Err(ProposeError::NotLeader));
    assert!(world.raft(1).commit_index() >= index);
    assert!(world.raft(1).term_at(index).unwrap() > term);
    let lost = |entry: &raftq::raft::message::Entry| entry.data == Bytes::from_static(b"lost");
    assert!(!world.node(1).machine.iter().any(lost));
}

/// During a transfer nothing is accepted, and the target is told only once it holds the whole log,
/// synced there and here (hashicorp #581, ra #636, openraft #1805).
#[test]
fn r57_target_of_a_transfer_holds_the_whole_log_first() {
    let mut world = World::tuned(3, 3, |_| {});
    world.raft_mut(1).campaign();
    world.turn(1);
    world.settle();
    assert_eq!(world.raft_mut(2).transfer(None), Err(TransferError::NotLeader));
    assert_eq!(world.raft_mut(1).transfer(Some(NodeId(9))), Err(TransferError::NoTarget));
    world.propose(1, "x");
    assert_eq!(world.raft_mut(1).transfer(Some(NodeId(3))), Ok(NodeId(3)));
    assert_eq!(world.raft_mut(1).transfer(Some(NodeId(2))), Err(TransferError::Transferring));
    world.turn(1);
    let refused = world.raft_mut(1).propose(EntryKind::Command, vec![Bytes::from_static(b"y")]);
    assert_eq!(refused, Err(ProposeError::Transferring));
    let told = |packet: &Packet| matches!(packet.message, Message::TimeoutNow { .. });
    assert!(!world.wire.iter().any(told), "told before it has the entry");
    for _ in 0..20 {
        while world.persist(3) {}
        world.wire.retain(|packet| !told(packet) || panic!("told before it is synced here"));
        world.deliver(0);
    }
    assert_eq!(world.status(1).peers[1].match_index, Index(2));
    assert!(world.node(1).outstanding.is_some());
    assert!(!world.wire.iter().any(told), "told before the leader's own log is synced");
    world.persist(1);
    let sent = world.take_sent(1);
    assert!(sent.contains(&(3, Message::TimeoutNow { term: Term(1) })));
    world.inject(1, 3, Message::TimeoutNow { term: Term(1) });
    world.settle();
    assert_eq!(world.leaders(), [3]);
}

/// However durable the leader's own log is, a target that lacks an entry is not told.
#[test]
fn r57_target_that_lacks_an_entry_is_not_told() {
    let mut world = World::new(3);
    world.elect(1);
    world.cut.insert((1, 3));
    world.propose(1, "x");
    world.settle();
    world.trace = Some(Vec::new());
    assert_eq!(world.raft_mut(1).transfer(Some(NodeId(3))), Ok(NodeId(3)));
    world.turn(1);
    world.tick(1, 20);
    let told = |packet: &Packet| matches!(packet.message, Message::TimeoutNow { .. });
    assert!(!world.trace.iter().flatten().any(told));
    world.cut.clear();
    world.tick(1, 5);
    world.settle();
    assert_eq!(world.leaders(), [3]);
}

/// A transfer whose target does not answer is given up after an election timeout.
#[test]
fn transfer_to_a_dead_target_is_given_up() {
    let mut world = World::tuned(3, 3, |_| {});
    world.raft_mut(1).campaign();
    world.turn(1);
    world.settle();
    world.crash(3, false);
    assert_eq!(world.raft_mut(1).transfer(Some(NodeId(3))), Ok(NodeId(3)));
    for _ in 0..31 {
        world.tick(1, 1);
        world.settle();
    }
    assert_eq!(world.leaders(), [1]);
    assert!(world.propose(1, "again").is_some());
    assert_eq!(world.raft_mut(1).transfer(None), Ok(NodeId(2)));
}

/// Voters that hear a live leader still vote in an election that this leader asked for.
#[test]
fn transfer_needs_no_timeout_of_the_other_voters() {
    let mut world = World::new(5);
    world.elect(1);
    assert_eq!(world.raft_mut(1).transfer(Some(NodeId(4))), Ok(NodeId(4)));
    world.turn(1);
    world.settle();
    assert_eq!(world.leaders(), [4]);
    assert_eq!(world.raft(4).term(), Term(2));
}

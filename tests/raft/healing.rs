//! A node that lost synced data: it heals from the others, and until then counts for nothing.

use std::collections::BTreeSet;

use raftq::raft::config::HEALING_PATIENCE_TICKS;
use raftq::raft::core::{Config, Role, TransferError};
use raftq::raft::message::{AppendOutcome, HardState, Message};
use raftq::types::{Index, NodeId, Term};

use crate::world::{World, pre_vote, vote, vote_reply};

/// Lets a node's disk be damaged, and starts it as one that heals.
fn damage(world: &mut World, id: u64) {
    if world.is_up(id) {
        world.crash(id, false);
    }
    world.nodes.get_mut(&id).unwrap().disk.lose();
    world.start(id);
}

/// Lets time pass and everything arrive, round by round, as a live network does.
fn live(world: &mut World, ticks: u64) {
    for _ in 0..ticks {
        world.tick_all(1);
        world.settle();
    }
}

fn is_whole(world: &World, id: u64) -> bool {
    !world.raft(id).is_healing() && !world.node(id).disk.healing
}

/// Three nodes, of which 1 leads, 3 entries committed.
fn three() -> World {
    let mut world = World::new(3);
    world.elect(1);
    world.propose_many(1, 3);
    world.settle();
    live(&mut world, 6);
    world
}

#[test]
fn damaged_follower_gets_everything_back_and_is_counted_again() {
    let mut world = three();
    damage(&mut world, 3);
    assert!(!is_whole(&world, 3));
    assert_eq!(world.status(3).last_index, Index(0));
    live(&mut world, 60);
    assert!(is_whole(&world, 3), "{:?}", world.status(3));
    assert_eq!(world.node(3).machine, world.node(1).machine);
    // Its vote of that term is used up for the leader.
    assert_eq!(world.node(3).disk.hard, HardState { term: Term(1), vote: Some(NodeId(1)) });
    // With it alone beside the leader, things are committed, and it votes.
    world.crash(2, false);
    let index = world.propose(1, "counted").unwrap();
    live(&mut world, 10);
    assert_eq!(world.raft(1).commit_index(), index);
    world.crash(1, false);
    world.start(2);
    live(&mut world, 30);
    world.elect(3);
    assert_eq!(world.node(3).machine.len(), world.node(2).machine.len());
}

#[test]
fn healing_node_and_one_whole_node_of_three_commit_nothing() {
    let mut world = three();
    let committed = world.raft(1).commit_index();
    world.crash(2, false);
    damage(&mut world, 3);
    world.propose(1, "must wait").unwrap();
    let read = world.read(1);
    live(&mut world, 40);
    // It is fed all the same.
    assert!(world.status(3).last_index > committed);
    assert_eq!(world.raft(1).commit_index(), committed);
    live(&mut world, 100);
    // No majority answers that counts: the leader steps down, and the read was never confirmed.
    assert_eq!(world.leader(), None);
    assert_eq!(world.answers.get(&read), Some(&None));
    assert!(!is_whole(&world, 3));
    // Nor can either be elected by the other.
    world.raft_mut(1).campaign();
    world.turn(1);
    world.settle();
    world.raft_mut(3).campaign();
    world.turn(3);
    world.settle();
    assert_eq!((world.raft(1).role(), world.raft(3).role()), (Role::PreCandidate, Role::Follower));
    // The third comes back: all goes on, and the damaged one heals.
    world.start(2);
    live(&mut world, 30);
    world.elect(1);
    live(&mut world, 60);
    assert!(is_whole(&world, 3), "{:?}", world.status(3));
    assert_eq!(world.node(3).machine, world.node(1).machine);
}

#[test]
fn two_damaged_of_three_wait_and_say_so_and_nothing_is_lost() {
    let mut world = three();
    let held = world.node(1).machine.clone();
    damage(&mut world, 2);
    damage(&mut world, 3);
    live(&mut world, 100);
    assert_eq!(world.leader(), None, "{:?}", world.status(1));
    for id in [2, 3] {
        let healing = world.raft(id).healing().unwrap();
        assert_eq!((healing.others, healing.whole, healing.needed), (2, 1, 2));
    }
    world.tick_all(HEALING_PATIENCE_TICKS);
    for id in [2, 3] {
        assert!(world.raft(id).healing().unwrap().is_hopeless);
        assert!(!is_whole(&world, id));
    }
    world.restart(1);
    world.raft_mut(1).campaign();
    world.turn(1);
    world.settle();
    assert_eq!(world.leader(), None);
    let disk = &world.node(1).disk;
    assert!(disk.entries.starts_with(&held), "the whole node holds all it held");
}

#[test]
fn hope_stays_while_enough_nodes_are_whole_or_a_leader_is_heard() {
    let mut world = three();
    damage(&mut world, 3);
    world.cut_off(3);
    world.tick(3, HEALING_PATIENCE_TICKS - 1);
    assert!(!world.raft(3).healing().unwrap().is_hopeless);
    world.tick(3, 1);
    assert!(world.raft(3).healing().unwrap().is_hopeless);
    world.lose_wire();
    world.cut.clear();
    live(&mut world, 60);
    assert!(is_whole(&world, 3));
}

#[test]
fn healing_node_answers_no_vote_and_never_campaigns() {
    let mut world = three();
    damage(&mut world, 3);
    world.lose_wire();
    world.inject(2, 3, pre_vote(9, (50, 8)));
    world.inject(2, 3, vote(9, (50, 8)));
    world.settle();
    let sent = world.take_sent(3);
    assert!(sent.is_empty(), "{sent:?}");
    // The term is a floor, the vote stays where it was.
    assert_eq!(world.raft(3).status().vote, None);
    assert_eq!(world.raft(3).term(), Term(9));
    world.inject(2, 3, Message::TimeoutNow { term: Term(9) });
    world.raft_mut(3).campaign();
    world.turn(3);
    // A late answer to a candidacy of before makes it nothing.
    world.inject(2, 3, vote_reply(9, true));
    assert_eq!(world.raft(3).role(), Role::Follower);
}

#[test]
fn leader_hands_leadership_to_no_healing_node() {
    let mut world = three();
    damage(&mut world, 3);
    world.cut.insert((1, 2));
    world.cut.insert((2, 1));
    live(&mut world, 10);
    assert!(world.status(1).peers.iter().any(|peer| peer.is_healing));
    assert_eq!(world.raft(1).successor(|_| true).map(|id| id.0), Some(2));
    assert_eq!(world.raft_mut(1).transfer(Some(NodeId(3))), Err(TransferError::NoTarget));
}

#[test]
fn crash_in_the_middle_of_healing_goes_on_healing() {
    for ticks in 0..40 {
        let mut world = three();
        damage(&mut world, 3);
        live(&mut world, ticks);
        for keeps in [false, true] {
            world.crash(3, keeps);
            world.start(3);
            assert_eq!(world.raft(3).is_healing(), world.node(3).disk.healing);
        }
        live(&mut world, 60);
        assert!(is_whole(&world, 3), "after {ticks} ticks");
        assert_eq!(world.node(3).machine, world.node(1).machine);
    }
}

#[test]
fn healing_by_a_snapshot_takes_the_snapshot_and_what_follows() {
    let mut world = three();
    world.crash(3, false);
    world.propose_many(1, 4);
    world.settle();
    world.compact(1, 0);
    world.propose_many(1, 2);
    world.settle();
    damage(&mut world, 3);
    live(&mut world, 80);
    assert!(is_whole(&world, 3), "{:?}", world.status(3));
    assert_eq!(world.node(3).installs, 1);
    assert_eq!(world.node(3).machine, world.node(1).machine);
}

#[test]
fn damaged_leader_heals_from_its_successor() {
    let mut world = three();
    damage(&mut world, 1);
    live(&mut world, 30);
    world.elect(2);
    live(&mut world, 60);
    assert!(is_whole(&world, 1));
    assert_eq!(world.node(1).machine, world.node(2).machine);
    // What was committed with the damaged leader's own disk is still there.
    assert!(world.node(2).machine.len() >= 4);
}

#[test]
fn acknowledgements_of_before_do_not_make_a_damaged_node_count() {
    let mut world = three();
    world.trace = Some(Vec::new());
    world.propose(1, "acknowledged by 3 alone").unwrap();
    while world.persist(1) {}
    // Node 3 takes it and acknowledges, and then its disk is damaged.
    world.cut.insert((1, 2));
    world.cut.insert((2, 1));
    world.talk_until(3, |world| {
        world
            .trace
            .as_ref()
            .unwrap()
            .iter()
            .any(|p| p.from == 3 && matches!(p.message, Message::AppendReply { .. }))
    });
    let late = world.take_sent(3);
    damage(&mut world, 3);
    live(&mut world, 10);
    let peer = world.status(1).peers.into_iter().find(|peer| peer.id == NodeId(3)).unwrap();
    assert!(peer.is_healing);
    // The old acknowledgement is of a session that the leader has ended.
    for (_, message) in late {
        let Message::AppendReply { healing, .. } = message else { continue };
        assert_eq!(healing, None);
        world.inject(3, 1, message);
    }
    let peer = world.status(1).peers.into_iter().find(|peer| peer.id == NodeId(3)).unwrap();
    assert!(peer.is_healing, "an old acknowledgement makes nobody whole");
    assert_eq!(world.raft(1).commit_index(), Index(4));
}

#[test]
fn every_acknowledgement_of_a_healing_node_says_so() {
    let mut world = three();
    damage(&mut world, 3);
    world.trace = Some(Vec::new());
    live(&mut world, 60);
    assert!(is_whole(&world, 3));
    let trace = world.trace.take().unwrap();
    let marks: Vec<bool> = trace
        .iter()
        .filter(|packet| packet.from == 3)
        .filter_map(|packet| match packet.message {
            Message::AppendReply { healing, .. } => Some(healing.is_some()),
            _ => None,
        })
        .collect();
    let first_whole = marks.iter().position(|healing| !healing).unwrap();
    assert!(first_whole > 2, "{marks:?}");
    assert!(marks[first_whole..].iter().all(|healing| !healing), "once whole, for ever: {marks:?}");
    assert!(marks[..first_whole].iter().all(|healing| *healing), "{marks:?}");
}

/// A vote that is lost may have been given in a term that none of the others has seen. Its candidate
/// needs one vote more; were the damaged node free to vote before an entry is committed that this
/// candidate has not, two would lead in that term.
#[test]
fn lost_vote_in_a_term_that_no_other_has_seen_elects_nobody() {
    let mut world = World::new(5);
    world.elect(1);
    world.propose_many(1, 2);
    world.settle();
    live(&mut world, 6);
    // Node 5 campaigns in term 2 and reaches node 4 alone, which votes for it.
    for other in [1, 2, 3] {
        world.cut.insert((5, other));
    }
    world.tick(4, 20);
    let last = (world.status(5).last_index.0, world.raft(5).term_at(Index(3)).unwrap().0);
    // Its pre-vote was granted by a majority before the cut: the answers are played here.
    world.raft_mut(5).campaign();
    world.turn(5);
    world.lose_wire();
    for other in [2, 3] {
        let reply = Message::PreVoteReply { term: Term(2), granted: true };
        world.inject(other, 5, reply);
    }
    while world.persist(5) {}
    assert_eq!((world.raft(5).role(), world.raft(5).term()), (Role::Candidate, Term(2)));
    world.lose_wire();
    world.inject(5, 4, vote(2, last));
    while world.persist(4) {}
    let granted = world.take_sent(4);
    let (_, granted) = granted.into_iter().find(|(to, _)| *to == 5).unwrap();
    assert_eq!(granted, vote_reply(2, true));
    world.inject(4, 5, granted);
    assert_eq!(world.raft(5).role(), Role::Candidate, "two votes of five");
    // Now node 4 loses its disk, and with it that vote. Node 5 is cut off for a while.
    world.cut_off(5);
    damage(&mut world, 4);
    live(&mut world, 60);
    assert!(is_whole(&world, 4), "{:?}", world.status(4));
    assert_eq!(world.raft(4).term(), Term(1), "nobody it heard knows of term 2");
    // The old candidate, still in term 2, asks the next one: it is refused, for it lacks an entry.
    world.cut.clear();
    world.lose_wire();
    world.tick(2, 20);
    world.tick(3, 20);
    world.lose_wire();
    assert_eq!((world.raft(5).role(), world.raft(5).term()), (Role::Candidate, Term(2)));
    world.inject(5, 3, vote(2, last));
    while world.persist(3) {}
    let answers = world.take_sent(3);
    assert!(answers.contains(&(5, vote_reply(2, false))), "{answers:?}");
    for (to, message) in answers {
        world.inject(3, to, message);
    }
    assert_eq!(world.raft(5).role(), Role::Candidate);
    // Another one wins that very term with the vote that node 4 has again.
    world.cut_off(5);
    world.cut_off(3);
    world.crash(1, false);
    live(&mut world, 40);
    world.start(1);
    live(&mut world, 40);
    world.elect(2);
    assert_eq!(world.leaders().last(), Some(&2));
}

#[test]
fn late_answer_to_a_question_of_a_former_process_is_no_goal() {
    let mut world = three();
    damage(&mut world, 3);
    let forged =
        Message::ReadIndexReply { term: Term(1), token: (1 << 63) + 1, index: Some(Index(0)) };
    live(&mut world, 1);
    world.inject(1, 3, forged);
    assert_eq!(world.raft(3).healing().map(|healing| healing.goal), Some(None));
}

#[test]
fn question_that_is_asked_again_makes_one_entry_while_it_waits() {
    let mut world = three();
    let last = world.status(1).last_index;
    world.cut.insert((1, 2));
    for _ in 0..5 {
        let token = (1 << 63) + 7;
        world.inject(3, 1, Message::ReadIndex { term: Term(1), token, healing: true });
    }
    assert_eq!(world.status(1).last_index, last.next());
    world.inject(3, 1, Message::ReadIndex { term: Term(1), token: 1 << 63, healing: true });
    assert_eq!(world.status(1).last_index, last.next().next(), "another process's question");
}

/// A node may be damaged again before its leader has heard that it was whole in between.
#[test]
fn damaged_again_it_is_fed_again_from_the_start() {
    let mut world = three();
    // Nothing is committed for now, so that it does not get whole.
    world.cut.extend([(1, 2), (2, 1)]);
    damage(&mut world, 3);
    live(&mut world, 8);
    assert!(!is_whole(&world, 3));
    let peer = world.status(1).peers.into_iter().find(|peer| peer.id == NodeId(3)).unwrap();
    assert!(peer.is_healing && peer.match_index > Index(0), "{peer:?}");
    damage(&mut world, 3);
    world.cut.clear();
    live(&mut world, 60);
    assert!(is_whole(&world, 3), "{:?}", world.status(3));
    assert_eq!(world.node(3).machine, world.node(1).machine);
}

/// Damages node after node at random while the network loses, doubles and cuts, and lets all heal.
#[test]
fn minority_damaged_again_and_again_loses_nothing() {
    fn hasty(config: &mut Config) {
        config.election_ticks_max = 60;
    }
    let mut healed = 0;
    for seed in 0..40 {
        let nodes = if seed % 2 == 0 { 3 } else { 5 };
        let mut world = World::tuned(nodes, seed, hasty);
        let mut dice = fastrand::Rng::with_seed(seed);
        let mut damaged = BTreeSet::new();
        for step in 0..5_000 {
            let id = dice.u64(1..=nodes);
            match dice.u32(0..100) {
                0..=39 => world.deliver(dice.usize(0..world.wire.len().max(1))),
                40..=64 => {
                    world.tick(id, dice.u64(1..4));
                }
                65..=84 if world.is_up(id) => {
                    world.persist(id);
                }
                85..=92 => {
                    if let Some(leader) = world.leader() {
                        world.propose(leader, &format!("{seed}/{step}"));
                    }
                }
                93 if world.is_up(id) => {
                    world.crash(id, dice.bool());
                    world.start(id);
                }
                94 if !world.wire.is_empty() => {
                    world.wire.remove(dice.usize(0..world.wire.len()));
                }
                95 if !world.wire.is_empty() => {
                    let packet = world.wire[dice.usize(0..world.wire.len())].clone();
                    world.wire.push_back(packet);
                }
                96 | 97 if damaged.len() as u64 * 2 + 1 < nodes && !damaged.contains(&id) => {
                    damaged.insert(id);
                    damage(&mut world, id);
                }
                98 => {
                    world.deliver_shipment();
                }
                _ => {
                    world.serve_log_read(id);
                }
            }
            let before = damaged.len();
            damaged.retain(|id| !is_whole(&world, *id));
            healed += before - damaged.len();
        }
        for _ in 0..2_000 {
            world.tick_all(1);
            world.settle();
            if world.ids().iter().all(|id| is_whole(&world, *id)) && world.leader().is_some() {
                break;
            }
        }
        for id in world.ids() {
            assert!(is_whole(&world, id), "seed {seed}: {:?}", world.status(id));
        }
        live(&mut world, 20);
        let machines: Vec<_> = world.ids().iter().map(|id| &world.node(*id).machine).collect();
        assert!(machines.windows(2).all(|pair| pair[0] == pair[1]), "seed {seed}");
    }
    assert!(healed > 40, "only {healed} healed on the way");
}

#[test]
fn who_led_last_does_not_say_for_ever_that_a_node_heals() {
    let mut world = three();
    damage(&mut world, 3);
    // Without the other one the leader cannot answer, so that the node stays as it is.
    world.cut.insert((2, 1));
    live(&mut world, 10);
    assert!(world.status(1).peers.iter().any(|peer| peer.is_healing));
    world.cut.clear();
    live(&mut world, 1);
    world.raft_mut(1).transfer(Some(NodeId(2))).unwrap();
    world.turn(1);
    live(&mut world, 60);
    assert_eq!((world.leader(), is_whole(&world, 3)), (Some(2), true));
    let known = world.status(1).peers;
    assert!(known.iter().all(|peer| !peer.is_healing && peer.match_index == Index(0)), "{known:?}");
}

/// The answer that a leader's question about a lost log gets.
#[test]
fn lost_log_is_asked_for_from_its_start() {
    let mut world = three();
    damage(&mut world, 3);
    world.trace = Some(Vec::new());
    live(&mut world, 20);
    let trace = world.trace.take().unwrap();
    let rejected = trace.iter().any(|packet| {
        packet.from == 3
            && matches!(
                packet.message,
                Message::AppendReply {
                    outcome: AppendOutcome::Rejected { hint_index: Index(0), .. },
                    healing: Some(_),
                    ..
                }
            )
    });
    assert!(rejected);
}

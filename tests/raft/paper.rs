//! The Raft paper, sentence by sentence, as far as raftq relies on it. (Ongaro, Ousterhout: In
//! Search of an Understandable Consensus Algorithm, extended version; section numbers are its.)

use raftq::raft::core::{Config, Role};
use raftq::raft::message::{AppendOutcome, EntryKind, Message};
use raftq::types::{Index, NodeId, Term};

use crate::world::{Packet, World, append, matches, pre_vote, vote, vote_reply};

fn one_by_one(config: &mut Config) {
    config.election_ticks_max = 100_000;
    config.append_bytes_max = 1;
}

fn terms_of_machine(world: &World, id: u64) -> Vec<u64> {
    world.node(id).machine.iter().map(|entry| entry.term.0).collect()
}

/// Lets the nodes talk, but for messages that `keeps_back` names; those are lost.
fn talk(world: &mut World, keeps_back: impl Fn(u64, &Message) -> bool) {
    for _ in 0..1_000 {
        let mut busy = !world.wire.is_empty();
        for id in world.ids() {
            busy |= world.is_up(id) && (world.persist(id) || world.serve_log_read(id));
        }
        if let Some(packet) = world.wire.pop_front()
            && !keeps_back(packet.to, &packet.message)
        {
            world.inject(packet.from, packet.to, packet.message);
        }
        if !busy {
            return;
        }
    }
    panic!("no end of talking");
}

/// Figure 7: whatever is missing from or extraneous in the followers' logs, the leader of term 8
/// brings all of them to its own.
#[test]
fn figure_7_leader_brings_every_log_to_its_own() {
    let logs: [&[u64]; 7] = [
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6],
        &[1, 1, 1, 4],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        &[1, 1, 1, 4, 4, 4, 4],
        &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
    ];
    let mut world = World::with_logs(&logs, &[7; 7]);
    world.elect(1);
    assert_eq!(world.raft(1).term(), Term(8));
    for id in 1..=7 {
        assert_eq!(world.terms(id), [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 8], "log of node {id}");
        assert_eq!(world.raft(id).commit_index(), Index(11));
    }
}

/// The stage of Figure 8: S1 led term 2, S5 led term 3 and is down, S1 leads term 4.
fn figure_8_c(sends_own_entry: bool) -> World {
    let logs: [&[u64]; 5] = [&[1, 2], &[1, 2], &[1], &[1], &[1, 3]];
    let mut world = World::tuned(5, 1, one_by_one).holding(&logs, &[2, 2, 3, 3, 3]);
    world.crash(5, false);
    let keeps_back = move |to: u64, message: &Message| match message {
        Message::AppendEntries { entries, .. } => {
            let is_own = entries.iter().any(|entry| entry.term == Term(4));
            to == 4 || (is_own && !sends_own_entry)
        }
        _ => false,
    };
    for _ in 0..3 {
        if world.leader().is_none() {
            world.raft_mut(1).campaign();
            world.turn(1);
            talk(&mut world, keeps_back);
        }
    }
    assert_eq!(world.leaders(), [1]);
    assert_eq!(world.raft(1).term(), Term(4));
    world
}

fn elect_s5(world: &mut World) {
    world.crash(1, false);
    world.start(5);
    for _ in 0..3 {
        for _ in 0..16 {
            [2, 3, 4, 5].into_iter().for_each(|id| world.tick(id, 1));
        }
        if world.leader().is_none() {
            world.raft_mut(5).campaign();
            world.turn(5);
            world.settle();
        }
    }
}

/// Figure 8 (c), (d): an entry of term 2 on a majority is not committed, and is overwritten.
#[test]
fn figure_8_old_entry_on_a_majority_is_not_committed_and_may_be_overwritten() {
    let mut world = figure_8_c(false);
    let holds_entry_2 = |id: &u64| world.node(*id).disk.get(2).is_some_and(|e| e.term == Term(2));
    assert_eq!([1, 2, 3].iter().filter(|id| holds_entry_2(id)).count(), 3, "on a majority");
    assert_eq!(world.raft(1).commit_index(), Index(0), "and yet not committed");
    elect_s5(&mut world);
    assert_eq!(world.leaders(), [5]);
    world.start(1);
    world.tick(5, 5);
    world.settle();
    for id in 1..=5 {
        assert_eq!(world.terms(id)[..2], [1, 3], "log of S{id}");
    }
}

/// Figure 8 (e): once S1 has an entry of its own term on a majority, S5 cannot win, and the entry
/// of term 2 is committed along with it.
#[test]
fn figure_8_entry_of_the_own_term_on_a_majority_commits_all_before_it() {
    let mut world = figure_8_c(true);
    assert_eq!(world.raft(1).commit_index(), Index(3));
    assert_eq!(terms_of_machine(&world, 1), [1, 2, 4]);
    elect_s5(&mut world);
    assert_ne!(world.leader(), Some(5));
}

/// §5.1: "If a server receives a request with a stale term number, it rejects the request."
#[test]
fn stale_term_is_rejected_with_the_current_one() {
    let mut world = World::with_logs(&[&[1], &[], &[]], &[5, 5, 5]);
    world.inject(2, 1, append(4, (1, 1), &[4], 9));
    world.inject(3, 1, vote(4, (9, 9)));
    let sent = world.take_sent(1);
    assert_eq!(sent.len(), 2);
    assert!(sent.iter().all(|(_, message)| message.term() == Term(5)));
    assert!(matches(&sent).is_empty());
    assert_eq!((world.terms(1), world.raft(1).commit_index()), (vec![1], Index(0)));
}

/// §5.1: "If a candidate or leader discovers that its term is out of date, it immediately reverts to
/// follower state."
#[test]
fn later_term_makes_a_leader_a_follower() {
    for message in [append(9, (0, 0), &[], 0), vote_reply(9, false)] {
        let mut world = World::new(3);
        world.elect(1);
        world.inject(2, 1, message);
        assert_eq!((world.raft(1).role(), world.raft(1).term()), (Role::Follower, Term(9)));
        assert_eq!(world.status(1).vote, None);
    }
}

/// §5.2: "Each server will vote for at most one candidate in a given term, on a first-come-first-
/// served basis", and says the same again when asked again.
#[test]
fn one_vote_a_term_first_come_first_served() {
    let mut world = World::new(5);
    for candidate in [3, 2, 3] {
        world.inject(candidate, 1, vote(1, (0, 0)));
    }
    world.persist(1);
    let replies = [(3, vote_reply(1, true)), (2, vote_reply(1, false)), (3, vote_reply(1, true))];
    assert_eq!(world.take_sent(1), replies);
}

/// §5.2: a candidate that hears of a leader of its own term follows it; one of an older term it
/// rejects "and continues in candidate state".
#[test]
fn candidate_follows_a_leader_of_its_term_only() {
    let mut world = World::with_logs(&[&[], &[], &[]], &[4, 4, 4]);
    world.raft_mut(1).campaign();
    world.inject(2, 1, Message::PreVoteReply { term: Term(5), granted: true });
    world.persist(1);
    world.inject(3, 1, append(4, (0, 0), &[], 0));
    assert_eq!(world.raft(1).role(), Role::Candidate);
    world.inject(3, 1, append(5, (0, 0), &[], 0));
    assert_eq!((world.raft(1).role(), world.raft(1).leader()), (Role::Follower, Some(NodeId(3))));
}

/// §5.2: a split vote ends in a new election, with other timeouts.
#[test]
fn split_vote_ends_in_another_election() {
    for seed in 1..40 {
        let mut world = World::tuned(4, seed, |_| {});
        for _ in 0..300 {
            world.tick_all(1);
            world.settle();
        }
        assert_eq!(world.leaders().len(), 1, "seed {seed}");
    }
}

/// §5.3: "If the follower does not find an entry in its log with the same index and term, then it
/// refuses the new entries"; the hint skips a whole term at once.
#[test]
fn append_without_its_predecessor_is_rejected_with_a_hint() {
    let mut world = World::with_logs(&[&[1, 1, 3, 3, 3], &[], &[]], &[5, 5, 5]);
    world.inject(2, 1, append(5, (9, 5), &[5], 0));
    world.inject(2, 1, append(5, (5, 2), &[5], 0));
    let rejected = |prev: u64, hint: (u64, u64)| {
        let outcome = AppendOutcome::Rejected {
            prev_index: Index(prev),
            hint_index: Index(hint.0),
            hint_term: Term(hint.1),
        };
        (2, Message::AppendReply { term: Term(5), outcome, session: 1, round: 0, healing: None })
    };
    assert_eq!(world.take_sent(1), [rejected(9, (5, 3)), rejected(5, (2, 1))]);
    assert_eq!(world.terms(1), [1, 1, 3, 3, 3]);
}

/// §5.3: one exchange a conflicting term, not one an entry.
#[test]
fn backtracking_takes_one_exchange_a_term() {
    let mut long = vec![1; 500];
    long.extend([2; 500]);
    let mut other = vec![1; 500];
    other.extend([3; 500]);
    let mut world = World::with_logs(&[&other, &long, &other], &[3, 3, 3]);
    world.trace = Some(Vec::new());
    world.elect(1);
    assert_eq!(world.terms(2), world.terms(1));
    let trace = world.trace.take().unwrap();
    let is_rejection = |packet: &&Packet| match &packet.message {
        Message::AppendReply { outcome, .. } => matches!(outcome, AppendOutcome::Rejected { .. }),
        _ => false,
    };
    let rejections = trace.iter().filter(is_rejection);
    assert!(rejections.count() <= 2, "backtracking went step by step");
}

/// §5.3: "A leader never overwrites or deletes entries in its log" (leader append-only).
#[test]
fn leader_never_overwrites_its_log() {
    let mut world = World::new(3);
    world.elect(1);
    world.propose_many(1, 3);
    let before = world.terms(1);
    world.inject(2, 1, append(1, (0, 0), &[1], 0));
    assert_eq!(world.raft(1).role(), Role::Leader);
    assert_eq!(world.terms(1), before);
    assert_eq!(world.status(1).refused_messages, 1);
}

/// §5.4.1: "If the logs have last entries with different terms, then the log with the later term is
/// more up-to-date. If the logs end with the same term, then whichever log is longer is."
#[test]
fn vote_only_for_a_log_at_least_as_up_to_date() {
    for (last, granted) in [
        ((3, 2), true),
        ((4, 2), true),
        ((1, 3), true),
        ((2, 2), false),
        ((9, 1), false),
        ((0, 0), false),
    ] {
        let mut world = World::with_logs(&[&[1, 1, 2], &[], &[]], &[5, 5, 5]);
        world.inject(2, 1, pre_vote(6, last));
        world.inject(2, 1, vote(6, last));
        world.persist(1);
        let term = if granted { Term(6) } else { Term(5) };
        let pre = Message::PreVoteReply { term, granted };
        assert_eq!(world.take_sent(1), [(2, pre), (2, vote_reply(6, granted))], "{last:?}");
    }
}

/// §5.4.2, §8: a leader begins its term with an empty entry, and with it commits what its
/// predecessors left.
#[test]
fn leader_opens_its_term_with_a_no_op() {
    let mut world = World::with_logs(&[&[1, 1], &[1, 1], &[1]], &[1, 1, 1]);
    world.elect(1);
    assert_eq!(world.terms(3), [1, 1, 2]);
    let opening = world.node(3).machine.last().unwrap();
    assert_eq!((opening.kind, opening.data.len()), (EntryKind::Noop, 0));
}

/// §5.5: "Raft RPCs are idempotent, so this causes no harm."
#[test]
fn repeated_requests_do_no_harm() {
    let mut world = World::forged(3);
    for _ in 0..3 {
        world.inject(2, 1, append(1, (0, 0), &[1, 1], 1));
        while world.persist(1) {}
    }
    assert_eq!(world.terms(1), [1, 1]);
    assert_eq!(world.node(1).machine.len(), 1);
}

/// §6: "If a server receives a RequestVote RPC within the minimum election timeout of hearing from a
/// current leader, it does not update its term or grant its vote."
#[test]
fn vote_is_ignored_while_a_leader_is_heard() {
    let mut world = World::new(3);
    world.elect(1);
    world.tick(2, 14);
    world.inject(3, 2, vote(9, (9, 9)));
    world.inject(3, 1, vote(9, (9, 9)));
    assert_eq!((world.raft(2).term(), world.raft(1).term()), (Term(1), Term(1)));
    assert!(world.wire.is_empty());
    world.tick(2, 1);
    world.inject(3, 2, vote(9, (9, 9)));
    assert_eq!(world.raft(2).term(), Term(9));
}

/// Ongaro thesis §9.6: a pre-vote is refused as long as a leader is heard.
#[test]
fn pre_vote_is_refused_while_a_leader_is_heard() {
    let mut world = World::new(3);
    world.elect(1);
    for (silence, granted) in [(0, false), (14, false), (1, true)] {
        world.tick(2, silence);
        world.inject(3, 2, pre_vote(2, (9, 9)));
        let term = if granted { Term(2) } else { Term(1) };
        assert_eq!(world.take_sent(2), [(3, Message::PreVoteReply { term, granted })]);
    }
}

/// Ongaro thesis §9.6: a node that was cut off comes back without raising anybody's term.
#[test]
fn node_that_was_cut_off_disturbs_nobody() {
    let mut world = World::tuned(3, 5, |_| {});
    world.raft_mut(1).campaign();
    world.turn(1);
    world.settle();
    world.cut_off(3);
    for _ in 0..500 {
        world.tick_all(1);
        world.settle();
    }
    assert_eq!(world.raft(3).term(), Term(1));
    world.cut.clear();
    for _ in 0..100 {
        world.tick_all(1);
        world.settle();
    }
    assert_eq!((world.leaders(), world.raft(1).term()), (vec![1], Term(1)));
}

/// Ongaro thesis §6.2: "a leader steps down if an election timeout elapses without a successful
/// round of heartbeats to a majority of its cluster" (here: 600 ms).
#[test]
fn leader_without_a_majority_steps_down_and_with_one_stays() {
    let mut world = World::new(5);
    world.elect(1);
    for id in [2, 3] {
        world.crash(id, false);
    }
    for _ in 0..200 {
        world.tick(1, 1);
        world.settle();
    }
    assert_eq!(world.leaders(), [1]);
    world.crash(4, false);
    for _ in 0..70 {
        world.tick(1, 1);
        world.settle();
    }
    assert!(world.leaders().is_empty());
    assert_eq!(world.raft(1).term(), Term(1));
}

/// A slow disk at a follower delays commits, not its heartbeats; at the leader neither.
#[test]
fn slow_disk_delays_commits_not_heartbeats() {
    let mut world = World::new(3);
    world.elect(1);
    world.propose(1, "x");
    for _ in 0..100 {
        world.tick(1, 1);
        while !world.wire.is_empty() {
            world.deliver(0);
        }
    }
    assert_eq!((world.leaders(), world.raft(1).commit_index()), (vec![1], Index(1)));
    world.persist(2);
    world.persist(3);
    while !world.wire.is_empty() {
        world.deliver(0);
    }
    assert_eq!(world.raft(1).commit_index(), Index(2), "two others hold it, the leader not yet");
    assert_eq!(world.node(1).machine.len(), 1, "so that it is not applied there yet");
    world.persist(1);
    assert_eq!(world.node(1).machine.len(), 2);
}

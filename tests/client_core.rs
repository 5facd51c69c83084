//! The decisions of one call, with a scripted clock and no socket.

#![expect(clippy::unwrap_used, reason = "a helper that fails has to fail its test")]
#![expect(clippy::wildcard_enum_match_arm, reason = "whatever else it is fails the test")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use raftq::client::cluster::{Addr, Cluster};
use raftq::client::core::{Call, HOPS_MAX, PAUSE_MAX, PAUSE_MIN, PAUSE_SOON_MAX, Reached, Step};
use raftq::client::error::Error;
use raftq::client::moment::Moment;
use raftq::jobs::job::{Body, NewJob};
use raftq::types::{ClusterId, DirId, Incarnation, JobId, NodeId, QueueName, Term, WorkerId};
use raftq::wire::hello::Welcome;
use raftq::wire::message::{Code, LeaderHint, Refusal, Reply, Request, Submitted};

const TEN_SECONDS: u64 = 10_000;

fn submit() -> Request {
    let body = Body::Payload(Bytes::from_static(b"x"));
    Request::SubmitJob(NewJob {
        id: JobId([7; 16]),
        queue: QueueName::default(),
        body,
        options: None,
    })
}

fn cancel() -> Request {
    Request::CancelJobs { ids: vec![JobId([7; 16])] }
}

fn hint(addr: &str, term: u64) -> LeaderHint {
    LeaderHint { id: NodeId(1), addr: addr.into(), term: Term(term) }
}

/// A call and what it sees, with the clock in the test's hand.
struct World {
    cluster: Cluster,
    call: Call,
    now: Moment,
}

impl World {
    fn new(request: Request, seed: u64) -> Self {
        let mut cluster = Cluster::new(["a", "b", "c"].map(Addr::from), seed);
        let now = Moment(1000);
        let deadline = Moment(1000 + TEN_SECONDS);
        let call = Call::new(Arc::new(request), None, &mut cluster, now, deadline);
        Self { cluster, call, now }
    }

    fn step(&mut self) -> Step {
        self.call.step(&mut self.cluster, self.now)
    }

    /// Takes the next step, waiting as long as it says, and has it reach its first choice.
    fn sends_to(&mut self) -> String {
        if let Step::Wait { until } = self.step() {
            self.now = until;
        }
        match self.step() {
            Step::Reach(addrs) => {
                let first = addrs.first().unwrap().clone();
                let reached = self.call.reached(&self.cluster, &first, self.now);
                assert!(matches!(reached, Reached::Send { .. }), "{reached:?}");
                first.to_string()
            }
            other => panic!("not sent: {other:?}"),
        }
    }

    fn hears(&mut self, addr: &str, refusal: Refusal) -> Option<Result<Reply, Error>> {
        self.replies(addr, Reply::Refused(refusal))
    }

    fn replies(&mut self, addr: &str, reply: Reply) -> Option<Result<Reply, Error>> {
        self.call.answered(&mut self.cluster, &Addr::from(addr), reply, self.now)
    }

    fn loses(&mut self, addr: &str, was_sent: bool) {
        self.call.lost(&mut self.cluster, &Addr::from(addr), was_sent, "it broke", self.now);
    }

    /// How long it waits before the next step.
    fn pause(&mut self) -> Duration {
        match self.step() {
            Step::Wait { until } => until.since(self.now),
            Step::Reach(_) => Duration::ZERO,
            Step::Fail(error) => panic!("{error}"),
        }
    }

    fn ends_with(&mut self) -> Error {
        self.now = self.call.deadline();
        match self.step() {
            Step::Fail(error) => error,
            other => panic!("not over: {other:?}"),
        }
    }
}

#[test]
fn hint_is_followed_at_once_without_a_pause() {
    let mut world = World::new(submit(), 1);
    assert_eq!(world.sends_to(), "a");
    assert_eq!(world.hears("a", Refusal::not_leader(hint("c", 5))), None);
    assert_eq!(world.pause(), Duration::ZERO);
    assert_eq!(world.sends_to(), "c");
    let done = Submitted { id: JobId([7; 16]), created: true };
    assert_eq!(world.replies("c", Reply::Submitted(done)), Some(Ok(Reply::Submitted(done))));
}

#[test]
fn hint_to_a_node_nobody_named_is_followed_too() {
    let mut world = World::new(submit(), 1);
    world.sends_to();
    world.hears("a", Refusal::not_leader(hint("elsewhere", 5)));
    assert_eq!(world.sends_to(), "elsewhere");
}

#[test]
fn hint_of_a_lower_term_is_not_followed() {
    let mut world = World::new(submit(), 3);
    world.cluster.learn(&hint("b", 9));
    assert_eq!(world.sends_to(), "b");
    // The leader of term 9 has gone; an old node still believes in term 8.
    assert_eq!(world.hears("b", Refusal::not_leader(hint("a", 8))), None);
    assert!(world.pause() > Duration::ZERO, "no leader is known: it pauses");
    assert_eq!(world.cluster.leader(), None, "the old hint is not believed");
    assert_ne!(world.sends_to(), "b", "the round goes on");
}

#[test]
fn old_hint_leads_to_the_newer_leader_that_is_known() {
    let mut world = World::new(submit(), 3);
    assert_eq!(world.sends_to(), "a");
    // Meanwhile another call has learnt of the leader of term 9.
    world.cluster.learn(&hint("c", 9));
    world.hears("a", Refusal::not_leader(hint("b", 8)));
    assert_eq!(world.pause(), Duration::ZERO);
    assert_eq!(world.sends_to(), "c");
}

#[test]
fn nodes_that_disagree_are_left_alone_after_three_hops() {
    let mut world = World::new(submit(), 5);
    let mut at = world.sends_to();
    for hop in 0..HOPS_MAX {
        let other = if at == "a" { "b" } else { "a" };
        world.hears(&at, Refusal::not_leader(hint(other, 5)));
        assert_eq!(world.pause(), Duration::ZERO, "hop {hop}");
        at = world.sends_to();
    }
    let other = if at == "a" { "b" } else { "a" };
    world.hears(&at, Refusal::not_leader(hint(other, 5)));
    let Step::Wait { until } = world.step() else { panic!("it hopped once more") };
    assert!(until.since(world.now) <= PAUSE_MIN);
}

#[test]
fn leader_told_in_the_welcome_saves_the_detour() {
    let mut world = World::new(submit(), 1);
    let Step::Reach(addrs) = world.step() else { panic!() };
    let first = addrs.first().unwrap().clone();
    let welcome = Welcome {
        version: 1,
        cluster: ClusterId([1; 16]),
        node: NodeId(1),
        dir: DirId::default(),
        leader: Some(hint("b", 4)),
        nodes: vec![(NodeId(2), "b".into())],
        frame_bytes_max: 1 << 20,
        in_flight_max: 16,
    };
    assert!(world.cluster.welcomed(&first, &welcome));
    assert_eq!(world.call.reached(&world.cluster, &first, world.now), Reached::Elsewhere);
    assert_eq!(world.sends_to(), "b");
}

#[test]
fn node_reached_in_place_of_a_silent_leader_is_asked() {
    let mut world = World::new(submit(), 1);
    world.cluster.learn(&hint("b", 4));
    let Step::Reach(addrs) = world.step() else { panic!() };
    assert_eq!(addrs.first().map(|addr| &**addr), Some("b"));
    // The leader did not let us in within the head start; "c" did.
    let reached = world.call.reached(&world.cluster, &"c".into(), world.now);
    assert!(matches!(reached, Reached::Send { .. }), "{reached:?}");
}

#[test]
fn full_node_is_asked_again_no_earlier_than_it_said() {
    for seed in 0..100 {
        let mut world = World::new(submit(), seed);
        assert_eq!(world.sends_to(), "a");
        world.hears("a", Refusal::exhausted("full", 300));
        let pause = world.pause();
        assert!(pause >= Duration::from_millis(300), "{pause:?}");
        assert!(pause <= Duration::from_millis(300) + PAUSE_MIN, "{pause:?}");
        assert_eq!(world.sends_to(), "a", "the same node");
    }
}

#[test]
fn node_without_a_leader_is_left_for_the_next_after_a_pause() {
    let mut world = World::new(submit(), 2);
    assert_eq!(world.sends_to(), "a");
    world.hears("a", Refusal::unavailable("an election is on"));
    assert_eq!(world.sends_to(), "b");
    world.hears("b", Refusal::unavailable("an election is on"));
    assert_eq!(world.sends_to(), "c");
}

#[test]
fn pauses_double_with_full_jitter_up_to_the_cap() {
    let full = Refusal::exhausted("full", 0);
    let none = Refusal::unavailable("an election is on");
    let late = 1000 + 3000;
    for (refusal, now, cap) in [
        (full, 1000, PAUSE_MAX),
        (none.clone(), 1000, PAUSE_SOON_MAX),
        (none.clone(), late - 1, PAUSE_SOON_MAX),
        (none, late, PAUSE_MAX),
    ] {
        // What many calls wait before their try number `n`.
        let mut longest = [Duration::ZERO; 9];
        let mut shortest = [Duration::MAX; 9];
        for seed in 0..300 {
            let mut world = World::new(submit(), seed);
            for n in 0..longest.len() {
                let addr = world.sends_to();
                world.now = Moment(now);
                world.hears(&addr, refusal.clone());
                let pause = world.pause();
                longest[n] = longest[n].max(pause);
                shortest[n] = shortest[n].min(pause);
            }
        }
        for (n, (longest, shortest)) in longest.iter().zip(shortest).enumerate() {
            let bound = PAUSE_MIN.saturating_mul(1 << n).min(cap);
            let is_wide = *longest <= bound && *longest > bound.mul_f64(0.9);
            assert!(is_wide, "{n}: {longest:?} of {bound:?}");
            assert!(shortest < bound.mul_f64(0.1), "{n}: {shortest:?} of {bound:?}");
        }
    }
}

#[test]
fn same_dice_make_the_same_decisions() {
    let life = |seed| {
        let mut world = World::new(submit(), seed);
        (0..6)
            .map(|_| {
                let addr = world.sends_to();
                world.loses(&addr, false);
                (addr, world.pause())
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(life(11), life(11));
    assert_ne!(life(11), life(12));
}

#[test]
fn submit_that_was_sent_and_lost_is_unknown_when_the_time_is_over() {
    let mut world = World::new(submit(), 1);
    let addr = world.sends_to();
    world.loses(&addr, true);
    let addr = world.sends_to();
    world.hears(&addr, Refusal::unavailable("no leader"));
    let error = world.ends_with();
    assert!(matches!(error, Error::Unknown(_)), "{error}");
    assert_eq!(error.ids(), [JobId([7; 16])]);
    assert_eq!(error.attempts(), 2);
    assert!(error.to_string().contains("07070707"), "{error}");
}

#[test]
fn submit_is_not_repeated_later_than_fifty_seconds_after_it_may_have_been_done() {
    let hour = Moment(3_600_000);
    for (request, is_bounded) in [(submit(), true), (cancel(), false)] {
        let mut world = World::new(request, 1);
        let request = world.call.request().clone();
        world.call = Call::new(request, None, &mut world.cluster, world.now, hour);
        let addr = world.sends_to();
        world.now = world.now.after(Duration::from_secs(2));
        world.hears(&addr, Refusal::unavailable("no leader"));
        assert_eq!(world.call.deadline(), hour, "nothing was done yet");
        let addr = world.sends_to();
        let ends = if is_bounded { world.now.after(Duration::from_secs(50)) } else { hour };
        for _ in 0..2 {
            world.now = world.now.after(Duration::from_secs(2));
            world.loses(&addr, true);
            assert_eq!(world.call.deadline(), ends, "counted from the begin of the first such try");
            world.sends_to();
        }
    }
}

#[test]
fn submit_that_was_never_sent_fails_definitely() {
    let mut world = World::new(submit(), 1);
    let addr = world.sends_to();
    world.loses(&addr, false);
    let error = world.ends_with();
    assert!(matches!(error, Error::Timeout(_)) && error.is_definite(), "{error}");

    let mut world = World::new(submit(), 1);
    let Step::Reach(_) = world.step() else { panic!() };
    world.call.unreached(&mut world.cluster, "refused".into(), false, world.now);
    let error = world.ends_with();
    assert!(matches!(error, Error::Unreachable(_)) && error.is_definite(), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[test]
fn submit_undecided_at_the_leader_is_unknown() {
    let mut world = World::new(submit(), 1);
    let addr = world.sends_to();
    world.hears(&addr, Refusal::deadline_exceeded());
    let addr = world.sends_to();
    world.hears(&addr, Refusal::exhausted("full", 1));
    assert!(matches!(world.ends_with(), Error::Unknown(_)));
}

#[test]
fn submit_that_waited_its_time_out_unproposed_is_refused_definitely() {
    let mut world = World::new(submit(), 1);
    let addr = world.sends_to();
    world.hears(&addr, Refusal { unknown: false, ..Refusal::deadline_exceeded() });
    let error = world.ends_with();
    assert!(matches!(&error, Error::Refused { refusal, .. } if !refusal.unknown), "{error}");
}

#[test]
fn read_is_never_unknown() {
    let mut world = World::new(Request::GetJob { id: JobId([7; 16]) }, 1);
    let addr = world.sends_to();
    world.loses(&addr, true);
    let error = world.ends_with();
    assert!(matches!(error, Error::Timeout(_)), "{error}");
}

#[test]
fn definite_refusal_after_an_unknown_try_speaks_for_itself_alone() {
    let mut world = World::new(submit(), 1);
    let addr = world.sends_to();
    world.loses(&addr, true);
    let addr = world.sends_to();
    let answer = world.hears(&addr, Refusal::invalid("odd"));
    assert!(matches!(answer, Some(Err(Error::Unknown(_)))), "{answer:?}");
}

#[test]
fn refusal_by_the_jobs_own_id_settles_an_unknown_try() {
    let mut world = World::new(submit(), 1);
    let addr = world.sends_to();
    world.loses(&addr, true);
    let addr = world.sends_to();
    let answer = world.hears(&addr, Refusal::already_exists("other content"));
    let Some(Err(Error::Refused { refusal, .. })) = answer else { panic!("{answer:?}") };
    assert_eq!(refusal.code, Code::AlreadyExists);
}

#[test]
fn pause_beyond_the_deadline_ends_the_call_at_once() {
    let mut world = World::new(submit(), 1);
    let addr = world.sends_to();
    world.hears(&addr, Refusal::exhausted("full for long", TEN_SECONDS + 1));
    let Step::Fail(error) = world.step() else { panic!("it waits in vain") };
    assert!(
        matches!(&error, Error::Refused { refusal, .. } if refusal.code == Code::ResourceExhausted)
    );
}

#[test]
fn last_second_is_used_for_another_try() {
    for seed in 0..50 {
        let mut world = World::new(submit(), seed);
        for _ in 0..8 {
            let addr = world.sends_to();
            world.now = Moment(1000);
            world.hears(&addr, Refusal::unavailable("none"));
        }
        world.now = Moment(1000);
        let addr = world.sends_to();
        world.now = Moment(1000 + TEN_SECONDS - 900);
        world.hears(&addr, Refusal::unavailable("none"));
        assert!(world.pause() <= Duration::from_millis(900));
        world.sends_to();
        assert!(world.now < world.call.deadline());
    }
}

#[test]
fn nodes_that_answer_without_a_leader_are_told_from_nodes_that_do_not_answer() {
    let mut world = World::new(submit(), 1);
    let addr = world.sends_to();
    world.hears(&addr, Refusal::not_leader(hint("gone", 3)));
    world.call.unreached(&mut world.cluster, "gone: connection refused".into(), false, world.now);
    let error = world.ends_with();
    assert!(matches!(error, Error::NoLeader(_)), "{error}");
    assert_eq!(error.leader().map(|hint| hint.addr.as_str()), Some("gone"));
}

#[test]
fn answer_to_another_question_is_not_taken() {
    let mut world = World::new(submit(), 1);
    let addr = world.sends_to();
    assert_eq!(world.replies(&addr, Reply::Pong), None);
    let addr = world.sends_to();
    let other = Submitted { id: JobId([8; 16]), created: true };
    assert_eq!(world.replies(&addr, Reply::Submitted(other)), None);
    assert!(matches!(world.ends_with(), Error::Unknown(_)));
}

#[test]
fn node_is_given_the_time_it_may_take_and_no_more() {
    let patience = |request| {
        let mut world = World::new(request, 1);
        let Step::Reach(addrs) = world.step() else { panic!() };
        match world.call.reached(&world.cluster, addrs.first().unwrap(), world.now) {
            Reached::Send { until } => until.since(world.now).as_millis(),
            Reached::Elsewhere => panic!(),
        }
    };
    assert_eq!(patience(submit()), 6000);
    let worker = WorkerId::new("w").unwrap();
    let incarnation = Incarnation(1);
    assert_eq!(
        patience(Request::Heartbeat { worker, incarnation, draining: false, held: Vec::new() }),
        1000
    );
    let ids = vec![JobId([1; 16])];
    assert_eq!(patience(Request::WaitJobs { ids: ids.clone(), wait_ms: 2000 }), 8000);
    assert_eq!(patience(Request::WaitJobs { ids, wait_ms: 20_000 }), 10_000, "the deadline wins");
}

#[test]
fn unanswered_try_goes_elsewhere_at_once() {
    let mut world = World::new(submit(), 1);
    world.cluster.learn(&hint("b", 2));
    assert_eq!(world.sends_to(), "b");
    world.call.unanswered(&mut world.cluster, &"b".into(), true, world.now);
    assert_eq!(world.pause(), Duration::ZERO);
    assert_ne!(world.sends_to(), "b");
    assert!(matches!(world.ends_with(), Error::Unknown(_)));
}

#[test]
fn repeating_beyond_its_budget_slows_down_and_never_fails() {
    let mut cluster = Cluster::new(["a", "b"].map(Addr::from), 1);
    let now = Moment(1000);
    let mut pauses = Vec::new();
    for _ in 0..3000 {
        let deadline = Moment(1000 + TEN_SECONDS);
        let mut call = Call::new(Arc::new(submit()), None, &mut cluster, now, deadline);
        call.lost(&mut cluster, &"a".into(), true, "it broke", now);
        match call.step(&mut cluster, now) {
            Step::Wait { until } => pauses.push(until.since(now)),
            Step::Reach(_) => pauses.push(Duration::ZERO),
            Step::Fail(error) => panic!("{error}"),
        }
    }
    let (early, late) = (&pauses[..1000], &pauses[2000..]);
    assert!(early.iter().all(|pause| *pause <= PAUSE_MIN));
    let spread = late.iter().filter(|pause| **pause > Duration::from_secs(1)).count();
    // A fifth has been earned meanwhile; of the others, half wait more than half of the cap.
    assert!((300..500).contains(&spread), "{spread} of 1000 wait long");
}

#[test]
fn call_to_one_node_asks_no_other() {
    let mut cluster = Cluster::new(["a", "b"].map(Addr::from), 1);
    cluster.learn(&hint("b", 2));
    let only = Some(Addr::from("x"));
    let mut call =
        Call::new(Arc::new(submit()), only, &mut cluster, Moment(0), Moment(TEN_SECONDS));
    assert_eq!(call.step(&mut cluster, Moment(0)), Step::Reach(vec!["x".into()]));
    assert!(matches!(call.reached(&cluster, &"x".into(), Moment(0)), Reached::Send { .. }));
}

#[test]
fn nodes_that_all_reject_the_client_end_the_call_at_once() {
    let mut world = World::new(submit(), 1);
    let Step::Reach(_) = world.step() else { panic!() };
    world.call.unreached(&mut world.cluster, "another cluster".into(), true, world.now);
    let Step::Fail(error) = world.step() else { panic!("it asks on") };
    assert!(error.to_string().contains("another cluster") && error.is_definite(), "{error}");
}

#[test]
fn leadership_handed_to_nobody_in_particular_is_not_asked_for_twice() {
    let mut world = World::new(Request::TransferLeadership { to: None }, 1);
    let addr = world.sends_to();
    world.loses(&addr, true);
    assert!(matches!(world.step(), Step::Fail(Error::Unknown(_))));
    let mut world = World::new(Request::TransferLeadership { to: Some(NodeId(2)) }, 1);
    let addr = world.sends_to();
    world.loses(&addr, true);
    world.sends_to();
}

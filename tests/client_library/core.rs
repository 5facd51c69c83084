//! The client's decisions, without a socket: whom to ask next, when to wait, what to tell at the end.

use raftq::client::core::{Attempt, Policy, Step};
use raftq::client::directory::{Directory, SUSPECT_MS};
use raftq::client::error::Error;
use raftq::client::job::Job;
use raftq::types::{JobId, NodeId, Term};
use raftq::wire::hello::Reject;
use raftq::wire::message::{Code, LeaderHint, Refusal, Reply, Request};

fn nodes() -> Directory {
    Directory::new(["a:1", "b:1", "c:1"].map(String::from))
}

fn submit() -> Policy {
    Policy::of(&Request::SubmitJob(Job::command(["true"]).id(JobId::default()).build()))
}

fn read() -> Policy {
    Policy::of(&Request::GetJob { id: JobId::default() })
}

fn refused(refusal: Refusal) -> Reply {
    Reply::Refused(refusal)
}

fn hint(addr: &str, term: u64) -> Refusal {
    Refusal::not_leader(LeaderHint { id: NodeId(1), addr: addr.into(), term: Term(term) })
}

fn ask(attempt: &mut Attempt, directory: &Directory, now_ms: u64) -> String {
    match attempt.next(directory, now_ms) {
        Step::Ask { addr, .. } => addr,
        other => panic!("{other:?}"),
    }
}

fn wait(attempt: &mut Attempt, directory: &Directory, now_ms: u64) -> u64 {
    match attempt.next(directory, now_ms) {
        Step::Wait { ms } => ms,
        other => panic!("{other:?}"),
    }
}

fn give_up(attempt: &mut Attempt, directory: &Directory, now_ms: u64) -> Error {
    match attempt.next(directory, now_ms) {
        Step::GiveUp(error) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn not_leader_with_hint_is_followed_at_once() {
    let mut nodes = nodes();
    let mut attempt = Attempt::new(submit(), 10_000, 0, 1);
    assert_eq!(ask(&mut attempt, &nodes, 0), "a:1");
    assert!(!attempt.on_reply(&mut nodes, "a:1", &refused(hint("c:1", 4)), 1));
    assert_eq!(ask(&mut attempt, &nodes, 1), "c:1");
    assert!(attempt.on_reply(&mut nodes, "c:1", &Reply::Pong, 2));
    assert_eq!(nodes.leader(), Some("c:1"));
}

#[test]
fn not_leader_with_older_hint_is_not_followed() {
    let mut nodes = nodes();
    nodes.hint(&LeaderHint { id: NodeId(2), addr: "b:1".into(), term: Term(9) });
    let mut attempt = Attempt::new(submit(), 10_000, 0, 1);
    assert_eq!(ask(&mut attempt, &nodes, 0), "b:1");
    attempt.on_broken(&mut nodes, "b:1", true, "gone", 0);
    assert_eq!(ask(&mut attempt, &nodes, 0), "a:1");
    attempt.on_reply(&mut nodes, "a:1", &refused(hint("b:1", 8)), 0);
    assert_eq!(ask(&mut attempt, &nodes, 0), "c:1", "b was deposed or is dead");
}

#[test]
fn hint_to_a_node_that_just_failed_waits_for_an_election() {
    let mut nodes = nodes();
    let mut attempt = Attempt::new(submit(), 10_000, 0, 1);
    nodes.failed("c:1", 0);
    for addr in ["a:1", "b:1"] {
        assert_eq!(ask(&mut attempt, &nodes, 0), addr);
        attempt.on_reply(&mut nodes, addr, &refused(hint("c:1", 4)), 0);
    }
    assert_eq!(ask(&mut attempt, &nodes, 0), "c:1", "everybody says so: once more");
    attempt.on_broken(&mut nodes, "c:1", false, "refused", 0);
    assert!(wait(&mut attempt, &nodes, 0) >= 20);
    assert_eq!(ask(&mut attempt, &nodes, SUSPECT_MS), "b:1", "the one that answered last");
}

#[test]
fn nodes_that_point_at_each_other_are_asked_a_few_times_and_then_left_alone() {
    let mut nodes = nodes();
    let mut attempt = Attempt::new(submit(), 10_000, 0, 1);
    let mut asked = 0;
    let ms = loop {
        match attempt.next(&nodes, 0) {
            Step::Ask { addr, .. } => {
                asked += 1;
                let other = if addr == "a:1" { "b:1" } else { "a:1" };
                attempt.on_reply(&mut nodes, &addr, &refused(hint(other, asked)), 0);
            }
            Step::Wait { ms } => break ms,
            other @ Step::GiveUp(_) => panic!("{other:?}"),
        }
        assert!(asked < 10, "no wait after {asked} hops");
    };
    assert_eq!(asked, 4, "the first, and three hops");
    assert!((20..=50).contains(&ms));
}

#[test]
fn waits_grow_to_two_seconds_and_are_jittered() {
    let mut waits = [Vec::new(), Vec::new()];
    for (waits, seed) in waits.iter_mut().zip([1, 2]) {
        let mut nodes = Directory::new(["a:1".to_owned()]);
        let mut attempt = Attempt::new(submit(), 1_000_000, 0, seed);
        for round in 0..40_u32 {
            ask(&mut attempt, &nodes, 0);
            attempt.on_reply(&mut nodes, "a:1", &refused(Refusal::unavailable("no leader")), 0);
            let ms = wait(&mut attempt, &nodes, 0);
            assert!(ms >= 20 && ms <= (50 << round.min(10)).min(2_000), "{ms} in round {round}");
            waits.push(ms);
            assert_eq!(wait(&mut attempt, &nodes, 0), 0, "the round is over, and it has waited");
        }
    }
    assert_ne!(waits[0], waits[1]);
    assert!(waits[0].iter().any(|ms| *ms > 1_000));
}

#[test]
fn exhausted_waits_as_told_and_asks_the_same_node() {
    let mut nodes = nodes();
    let mut attempt = Attempt::new(submit(), 10_000, 0, 1);
    ask(&mut attempt, &nodes, 0);
    attempt.on_reply(&mut nodes, "a:1", &refused(Refusal::exhausted("full", 300)), 0);
    assert!(wait(&mut attempt, &nodes, 0) >= 320);
    assert_eq!(ask(&mut attempt, &nodes, 400), "a:1");
    attempt.on_reply(&mut nodes, "a:1", &refused(Refusal::exhausted("full", 300)), 400);
    let error = give_up(&mut attempt, &nodes, 10_000);
    assert!(error.is_definite() && error.is_retryable(), "{error}");
    assert_eq!(error.refusal().map(|refusal| refusal.code), Some(Code::ResourceExhausted));
}

#[test]
fn unknown_try_is_remembered_to_the_end() {
    let mut nodes = nodes();
    let mut attempt = Attempt::new(submit(), 1_000, 0, 1);
    ask(&mut attempt, &nodes, 0);
    attempt.on_broken(&mut nodes, "a:1", true, "connection reset", 0);
    ask(&mut attempt, &nodes, 0);
    attempt.on_broken(&mut nodes, "b:1", false, "connection refused", 0);
    let error = give_up(&mut attempt, &nodes, 1_000);
    assert!(matches!(error, Error::Unknown(_)), "{error:?}");
    assert!(error.to_string().contains("asked a:1, b:1 (2 tries in 1000 ms)"), "{error}");
}

#[test]
fn definite_no_after_an_unknown_try_stays_unknown() {
    let mut nodes = nodes();
    for (code, is_definite) in [(Code::FailedPrecondition, false), (Code::AlreadyExists, true)] {
        let mut attempt = Attempt::new(submit(), 1_000, 0, 1);
        attempt.on_broken(&mut nodes, "a:1", true, "connection reset", 0);
        attempt.on_reply(&mut nodes, "b:1", &refused(Refusal::new(code, "no")), 0);
        assert_eq!(give_up(&mut attempt, &nodes, 0).is_definite(), is_definite, "{code}");
    }
}

#[test]
fn read_is_never_unknown() {
    let mut nodes = nodes();
    let mut attempt = Attempt::new(read(), 1_000, 0, 1);
    ask(&mut attempt, &nodes, 0);
    attempt.on_silent(&mut nodes, "a:1", 1_000, 1_000);
    assert!(matches!(give_up(&mut attempt, &nodes, 1_000), Error::Unreachable(_)));
}

#[test]
fn transfer_to_anybody_is_not_repeated_once_it_may_have_been_done() {
    let mut nodes = nodes();
    let mut attempt =
        Attempt::new(Policy::of(&Request::TransferLeadership { to: None }), 9_000, 0, 1);
    ask(&mut attempt, &nodes, 0);
    attempt.on_broken(&mut nodes, "a:1", true, "connection reset", 0);
    assert!(matches!(give_up(&mut attempt, &nodes, 0), Error::Unknown(_)));
}

#[test]
fn rejected_by_all_gives_up_at_once_and_by_some_goes_on() {
    let no = Reject::new(Code::FailedPrecondition, "another cluster");
    let mut nodes = nodes();
    let mut attempt = Attempt::new(submit(), 9_000, 0, 1);
    for _ in 0..3 {
        let addr = ask(&mut attempt, &nodes, 0);
        attempt.on_reject(&mut nodes, &addr, &no, 0);
    }
    let error = give_up(&mut attempt, &nodes, 0);
    assert!(error.is_definite() && !error.is_retryable(), "{error}");
    let mut attempt = Attempt::new(submit(), 9_000, 0, 1);
    attempt.on_reject(&mut nodes, "a:1", &no, 0);
    attempt.on_broken(&mut nodes, "b:1", false, "connection refused", 0);
    attempt.on_reject(&mut nodes, "c:1", &no, 0);
    wait(&mut attempt, &nodes, 0);
}

#[test]
fn silent_node_leaves_a_third_of_the_time_for_others() {
    let nodes = nodes();
    for (timeout_ms, expected) in [(1_500, 1_000), (10_000, 6_000), (60_000, 6_000)] {
        let mut attempt = Attempt::new(submit(), timeout_ms, 0, 1);
        let Step::Ask { timeout_ms, .. } = attempt.next(&nodes, 0) else { panic!() };
        assert_eq!(timeout_ms, expected);
    }
}

#[test]
fn caller_in_a_hurry_blames_nobody() {
    let mut nodes = nodes();
    let mut attempt = Attempt::new(read(), 10, 0, 1);
    attempt.on_silent(&mut nodes, "a:1", 10, 10);
    assert!(!nodes.is_suspect("a:1", 10));
    attempt.on_silent(&mut nodes, "a:1", 1_000, 1_000);
    assert!(nodes.is_suspect("a:1", 1_000));
}

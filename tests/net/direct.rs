//! Answers that the Raft thread writes itself: each once, whole, in no other frame's way, and only while the session
//! has nothing to write.

use std::collections::BTreeSet;
use std::time::Duration;

use raftq::jobs::machine::Machine;
use raftq::net::inbox::ReplyTo;
use raftq::net::shared::Patience;
use raftq::replica::view::Answer;
use raftq::types::JobId;
use raftq::wire::message::{Code, Refusal, Reply, Request, Submitted};
use socket2::SockRef;

use crate::client::{Client, job};
use crate::node::{Node, Plan, until, waiter};

fn submitted(number: u32) -> Reply {
    Reply::Submitted(Submitted { id: job(number).id, created: true })
}

fn taken(number: u32) -> Answer {
    submitted(number).into()
}

/// Asks something small and returns who waits for the answer.
fn asked(node: &Node, client: &mut Client, corr: u32) -> ReplyTo {
    client.send(corr, &Request::GetJob { id: JobId::default() });
    waiter(node.read())
}

/// An answer as large as the short way takes, and no other request's.
fn long_reply(number: u32) -> Reply {
    let one = Submitted { id: job(number).id, created: true };
    Reply::SubmittedBatch(vec![Ok(one); 120])
}

/// Rounds after which the short way was free at least once: an answer that meets the session at work goes by it.
const ROUNDS: u32 = 50;

#[test]
fn few_answers_of_a_turn_are_written_at_once() {
    let node = Node::start();
    let (mut one, mut other) = (Client::connect(node.addr), Client::connect(node.addr));
    let sent = node.metrics().frames_sent.value();
    for _ in 0..ROUNDS {
        let answers = vec![
            (asked(&node, &mut one, 1), taken(1)),
            (asked(&node, &mut one, 2), taken(2)),
            (asked(&node, &mut other, 1), taken(3)),
        ];
        ReplyTo::answer_all(answers);
        for (corr, number) in [(1, 1), (2, 2)] {
            assert_eq!(one.reply(), (corr, submitted(number)));
        }
        assert_eq!(other.reply(), (1, submitted(3)));
    }
    one.ping();
    other.ping();
    assert!(node.metrics().answers_direct.value() > 0);
    assert_eq!(node.metrics().frames_sent.value(), sent + u64::from(3 * ROUNDS) + 2);
}

#[test]
fn many_answers_images_and_large_ones_go_by_the_session() {
    let node = Node::start();
    let mut client = Client::connect(node.addr);
    let answers = (1..=40).map(|corr| (asked(&node, &mut client, corr), taken(corr))).collect();
    ReplyTo::answer_all(answers);
    let corrs: BTreeSet<u32> = (1..=40).map(|_| client.reply().0).collect();
    assert_eq!(corrs.len(), 40);
    let request = Request::ListJobs(Box::default());
    client.send(41, &request);
    let image = Answer::Image { machine: Box::new(Machine::new()), request };
    ReplyTo::answer_all(vec![(waiter(node.read()), image)]);
    assert_eq!(client.reply(), (41, Reply::Jobs { jobs: Vec::new(), more: false, after: None }));
    let many = Reply::SubmittedBatch(vec![Err(Refusal::not_found("no")); 1000]);
    ReplyTo::answer_all(vec![(asked(&node, &mut client, 42), many.clone().into())]);
    assert_eq!(client.reply(), (42, many));
    assert_eq!(node.metrics().answers_direct.value(), 0);
}

#[test]
fn request_that_was_given_up_is_not_answered_again() {
    let patience = Patience { request: Duration::from_millis(80), ..Patience::default() };
    let node = Plan { patience, ..Plan::default() }.start();
    let mut client = Client::connect(node.addr);
    let late = asked(&node, &mut client, 7);
    assert_eq!(client.refusal().0, 7);
    let second = asked(&node, &mut client, 7);
    ReplyTo::answer_all(vec![(late, taken(1)), (second, taken(2))]);
    assert!(
        matches!(client.reply(), (7, Reply::Submitted(submitted)) if submitted.id == job(2).id)
    );
    client.ping();
    assert_eq!(node.metrics().answers_late.value(), 1);
}

/// A request that was answered this way has no deadline any more.
#[test]
fn request_that_was_answered_is_not_given_up_afterwards() {
    let patience = Patience { request: Duration::from_millis(80), ..Patience::default() };
    let node = Plan { patience, ..Plan::default() }.start();
    let mut client = Client::connect(node.addr);
    let first = asked(&node, &mut client, 1);
    ReplyTo::answer_all(vec![(first, taken(1))]);
    assert_eq!(client.reply().0, 1);
    let _unanswered = asked(&node, &mut client, 2);
    let (corr, refusal) = client.refusal();
    assert_eq!((corr, refusal.code), (2, Code::DeadlineExceeded));
    client.ping();
}

/// The client reads nothing until every answer is on its way: the socket takes the first ones and a part of one
/// more, which the session ends before all that follow it.
#[test]
fn answers_of_a_client_that_does_not_read_are_whole_when_it_does() {
    let node = Node::start();
    let mut client = Client::connect(node.addr);
    SockRef::from(&client.stream).set_recv_buffer_size(64 << 10).unwrap();
    let count = 4000;
    let waiting: Vec<ReplyTo> = (1..=count).map(|corr| asked(&node, &mut client, corr)).collect();
    for (corr, reply) in (1..).zip(waiting) {
        ReplyTo::answer_all(vec![(reply, long_reply(corr).into())]);
    }
    let direct = node.metrics().answers_direct.value();
    assert!((1..u64::from(count)).contains(&direct), "{direct} of {count} were written at once");
    let mut corrs = BTreeSet::new();
    for _ in 1..=count {
        let (corr, reply) = client.reply();
        assert_eq!(reply, long_reply(corr), "another's answer for {corr}");
        assert!(corrs.insert(corr), "{corr} was answered twice");
    }
    client.ping();
    // And the short way is open again.
    for corr in 1..=ROUNDS {
        let again = asked(&node, &mut client, corr);
        ReplyTo::answer_all(vec![(again, taken(1))]);
        assert_eq!(client.reply().0, corr);
    }
    assert!(node.metrics().answers_direct.value() > direct);
}

#[test]
fn session_whose_client_has_closed_its_sending_side_ends_with_the_last_answer() {
    let node = Node::start();
    let mut client = Client::connect(node.addr);
    let (first, second) = (asked(&node, &mut client, 1), asked(&node, &mut client, 2));
    client.close_sending();
    ReplyTo::answer_all(vec![(first, taken(1))]);
    assert_eq!(client.reply().0, 1);
    ReplyTo::answer_all(vec![(second, taken(2))]);
    assert_eq!(client.reply().0, 2);
    assert_eq!(client.frame(), None, "and then the end");
}

#[test]
fn answer_to_a_client_that_is_gone_falls_to_the_ground_and_keeps_nothing_open() {
    let node = Node::start();
    let mut client = Client::connect(node.addr);
    let reply = asked(&node, &mut client, 1);
    drop(client);
    until("the session ended", || node.metrics().sessions_open.value() == 0);
    ReplyTo::answer_all(vec![(reply, taken(1))]);
    assert_eq!(node.metrics().answers_direct.value(), 0);
    Client::connect(node.addr).ping();
}

//! The sessions and the Raft thread: an ask is refused at once and handed back, or answered once, or
//! its session hears that the node has ended; never two of these, never none.

use raftq::replica::view::Answer;
use raftq::types::Ticks;
use raftq::wire::message::{Reply, Request};
use shuttle::rand::{Rng, thread_rng};
use shuttle::thread;

use crate::inbox::{Ask, Inbox, NotTaken, Outlets, PROPOSALS_MAX, ReplyTo, lanes};
use crate::lanes::channel;
use crate::{Receiver, bounded};

/// Asks of one session.
const ASKS: u32 = 4;

/// One session: asks, and gets for each ask exactly one end. Returns how many were answered.
fn session(inbox: &Inbox) -> usize {
    let (answers, answered) = bounded(ASKS as usize);
    let reply_to = channel::Sender(answers);
    let mut open = std::collections::BTreeSet::new();
    for corr in 0..ASKS {
        let reply = ReplyTo::by(reply_to.clone(), corr);
        let ask = match corr % 2 {
            0 => Ask::Submits { jobs: Vec::new(), arrived: Ticks(u64::from(corr)) },
            _ => Ask::Request { request: Request::Ping, reply, arrived: Ticks(u64::from(corr)) },
        };
        let is_request = matches!(ask, Ask::Request { .. });
        match inbox.ask(ask) {
            Ok(()) if is_request => assert!(open.insert(corr)),
            Ok(()) => {}
            Err(NotTaken::Full(ask) | NotTaken::Stopped(ask)) => {
                let (Ask::Submits { arrived, .. } | Ask::Request { arrived, .. }) = ask else {
                    panic!("another ask came back");
                };
                assert_eq!(arrived, Ticks(u64::from(corr)), "another ask came back");
            }
        }
    }
    drop(reply_to);
    hear(&answered, &mut open)
}

/// Takes the answers until no one is left who could give any. Returns how many there were.
fn hear(answered: &Receiver<(u32, Answer)>, open: &mut std::collections::BTreeSet<u32>) -> usize {
    let heard = answered.iter().map(|(corr, _)| {
        assert!(open.remove(&corr), "answered twice, or never asked: {corr}");
    });
    heard.count()
}

/// Takes asks as the Raft thread does, answers them, and ends at some moment, whatever waits. Returns
/// how many it answered.
fn serve(outlets: &Outlets) -> usize {
    let mut answers = 0;
    for _ in 0..thread_rng().gen_range(0..6) {
        let asks = outlets.reads.try_iter().chain(outlets.proposals.try_iter().take(1));
        for ask in asks {
            if let Ask::Request { reply, .. } = ask {
                reply.answer(Answer::Reply(Reply::Pong));
                answers += 1;
            }
        }
        thread::yield_now();
    }
    answers
}

#[test]
fn every_order_of_asks_and_an_end_gives_each_ask_one_end() {
    shuttle::check_random(
        || {
            let (inbox, outlets) = lanes();
            let other = inbox.clone();
            let one = thread::spawn(move || session(&inbox));
            let two = thread::spawn(move || session(&other));
            let raft = thread::spawn(move || serve(&outlets));
            let heard = one.join().unwrap() + two.join().unwrap();
            assert_eq!(heard, raft.join().unwrap(), "an answer was lost on its way");
        },
        1000,
    );
}

#[test]
fn a_full_lane_refuses_at_once_and_the_other_lanes_take() {
    shuttle::check_random(
        || {
            let (inbox, outlets) = lanes();
            let submits = || Ask::Submits { jobs: Vec::new(), arrived: Ticks(0) };
            for _ in 0..PROPOSALS_MAX {
                inbox.ask(submits()).unwrap();
            }
            assert!(matches!(inbox.ask(submits()), Err(NotTaken::Full(_))));
            let (answers, answered) = bounded(1);
            let reply = ReplyTo::by(channel::Sender(answers), 1);
            inbox.ask(Ask::Look { reply }).unwrap();
            drop(outlets);
            assert!(matches!(inbox.ask(submits()), Err(NotTaken::Stopped(_))));
            assert!(
                answered.recv().is_err(),
                "the ask fell with the node, and its session hears it"
            );
        },
        1,
    );
}

//! Whoever attends in the Raft thread's place is asked about what comes alone; what comes together, and what is given
//! back, waits in its lane.

use std::io::Write;

use crossbeam_channel::{Receiver, Sender, unbounded};
use raftq::net::inbox::{Ask, Attendant, PeerEvent};
use raftq::types::{DirId, JobId, NodeId};
use raftq::wire::hello::Role;
use raftq::wire::message::{Reply, Request, Submitted};

use crate::client::{Client, encoded, job};
use crate::node::{LONG, Node, Plan, waiter};
use crate::peers::message;

/// Sees to everything, or gives everything back; tells of it either way.
#[derive(Debug)]
struct Busybody {
    takes: bool,
    told: Sender<Brought>,
}

/// What was brought, if it was taken.
#[derive(Debug)]
enum Brought {
    Ask(Option<Ask>),
    Peer(Option<PeerEvent>),
}

impl Attendant for Busybody {
    fn peer(&self, event: PeerEvent) -> Option<PeerEvent> {
        let (taken, left) = if self.takes { (Some(event), None) } else { (None, Some(event)) };
        self.told.send(Brought::Peer(taken)).unwrap();
        left
    }

    fn ask(&self, ask: Ask) -> Option<Ask> {
        let (taken, left) = if self.takes { (Some(ask), None) } else { (None, Some(ask)) };
        self.told.send(Brought::Ask(taken)).unwrap();
        left
    }
}

/// A node of two with somebody who attends.
fn attended(takes: bool) -> (Node, Receiver<Brought>) {
    let node = Plan::of_two().start();
    let (told, brought) = unbounded();
    node.shared.inbox.attend(Box::new(Busybody { takes, told }));
    (node, brought)
}

fn ask(brought: &Receiver<Brought>) -> Ask {
    let brought = brought.recv_timeout(LONG).expect("an ask");
    let Brought::Ask(Some(ask)) = brought else { panic!("{brought:?}") };
    ask
}

fn get_job() -> Request {
    Request::GetJob { id: JobId::default() }
}

#[test]
fn lone_ask_is_attended_to_and_answered() {
    let (node, brought) = attended(true);
    let mut client = Client::connect(node.addr);
    client.send(7, &Request::SubmitJob(job(1)));
    let reply = Reply::Submitted(Submitted { id: job(1).id, created: true });
    waiter(ask(&brought)).answer(reply.clone().into());
    assert_eq!(client.reply(), (7, reply));
    assert!(node.outlets.are_empty());
}

#[test]
fn submits_that_come_together_are_one_ask_and_other_requests_go_to_their_lanes() {
    let (node, brought) = attended(true);
    let mut client = Client::connect(node.addr);
    let submits = |corr| encoded(&Request::SubmitJob(job(corr)).to_frame(corr));
    client.stream.write_all(&[submits(1), submits(2)].concat()).unwrap();
    let Ask::Submits { jobs, .. } = ask(&brought) else { panic!("no submits") };
    assert_eq!(jobs.len(), 2);
    let reads = |corr| encoded(&get_job().to_frame(corr));
    client.stream.write_all(&[reads(3), submits(4), reads(5), submits(6)].concat()).unwrap();
    assert_eq!(waiter(node.read()).corr, waiter(node.read()).corr - 2);
    assert_eq!(waiter(node.proposal()).corr, waiter(node.proposal()).corr - 2);
    assert!(brought.is_empty(), "they came together");
    client.send(7, &get_job());
    assert!(matches!(ask(&brought), Ask::Request { .. }), "and this one alone");
}

#[test]
fn ask_that_is_given_back_waits_in_its_lane() {
    let (node, brought) = attended(false);
    let mut client = Client::connect(node.addr);
    client.send(1, &get_job());
    waiter(node.read());
    assert!(matches!(brought.recv_timeout(LONG), Ok(Brought::Ask(None))));
}

#[test]
fn message_with_another_behind_it_goes_to_its_lane() {
    let (node, brought) = attended(true);
    let mut peer = Client::peer(node.addr, 2, 1, Role::Raft);
    peer.send_frame(&message(1, 10).to_frame());
    let taken = brought.recv_timeout(LONG).expect("a message");
    let Brought::Peer(Some(PeerEvent::Message { from, dir, .. })) = taken else {
        panic!("{taken:?}")
    };
    assert_eq!((from, dir), (NodeId(2), DirId([2; 16])));
    assert!(node.outlets.are_empty());
    let frames = [2, 3].map(|term| encoded(&message(term, 10).to_frame()));
    peer.stream.write_all(&frames.concat()).unwrap();
    let lane = node.outlets.peers.recv_timeout(LONG).expect("the first");
    let PeerEvent::Message { message: first, .. } = lane else { panic!("{lane:?}") };
    assert_eq!(first, message(2, 10));
    let last = brought.recv_timeout(LONG).expect("the last");
    let Brought::Peer(Some(PeerEvent::Message { message: last, .. })) = last else {
        panic!("{last:?}")
    };
    assert_eq!(last, message(3, 10), "nothing is behind it");
}

#[test]
fn message_that_is_given_back_waits_in_its_lane() {
    let (node, brought) = attended(false);
    let mut peer = Client::peer(node.addr, 2, 1, Role::Raft);
    peer.send_frame(&message(1, 10).to_frame());
    assert!(node.outlets.peers.recv_timeout(LONG).is_ok());
    assert!(matches!(brought.recv_timeout(LONG), Ok(Brought::Peer(None))));
}

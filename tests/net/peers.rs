//! The links between nodes: messages with their sender, breaks, refusals, and queues that never wait.

use std::time::Duration;

use bytes::Bytes;
use raftq::net::inbox::{PEER_MESSAGES_MAX, PeerEvent};
use raftq::raft::message::{Entry, EntryKind, Message};
use raftq::types::{Index, Millis, NodeId, Term};
use raftq::wire::hello::Role;
use raftq::wire::peer::PeerMessage;

use crate::client::Client;
use crate::node::{LONG, Node, Plan, configuration, dir_of, free_addr, until};

/// A message of one entry.
pub(crate) fn message(term: u64, entry_bytes: usize) -> PeerMessage {
    let entry = Entry {
        index: Index(8),
        term: Term(term),
        kind: EntryKind::Command,
        data: Bytes::from(vec![1; entry_bytes]),
    };
    PeerMessage {
        group: 0,
        wall_ms: Millis(5),
        applied_index: Index(6),
        digests: vec![(Index(64), 9)],
        message: Message::AppendEntries {
            term: Term(term),
            prev_index: Index(7),
            prev_term: Term(1),
            entries: vec![entry],
            commit_index: Index(7),
            session: 1,
            round: 2,
        },
    }
}

/// Plans for nodes 1 and 2 that know each other's addresses.
fn two_plans() -> (Plan, Plan) {
    let peers: Vec<_> = (1..=2).map(|id| (NodeId(id), free_addr())).collect();
    let plan = |id: u64, at: usize| Plan {
        id,
        listen: peers[at].1.clone(),
        peers: peers.clone(),
        ..Plan::default()
    };
    (plan(1, 0), plan(2, 1))
}

fn linked(node: &Node, to: u64) {
    until("the link stands", || node.net().is_linked(NodeId(to)));
}

fn lost(node: &Node, peer: u64) {
    let event = node.outlets.events.recv_timeout(LONG).expect("an event");
    assert!(matches!(event, PeerEvent::Lost(id) if id == NodeId(peer)), "{event:?}");
}

#[test]
fn message_arrives_with_its_sender_and_the_senders_directory() {
    let (one, two) = two_plans();
    let (one, two) = (one.start(), two.start());
    linked(&one, 2);
    assert!(one.net().send(NodeId(2), message(3, 100)));
    let event = two.outlets.peers.recv_timeout(LONG).expect("the message");
    let PeerEvent::Message { from, dir, message: heard } = event else { panic!("{event:?}") };
    assert_eq!((from, dir, heard), (NodeId(1), dir_of(1), message(3, 100)));
    linked(&two, 1);
    assert!(two.net().send(NodeId(1), message(4, 0)), "and the other way on a link of its own");
    assert!(one.outlets.peers.recv_timeout(LONG).is_ok());
}

#[test]
fn messages_arrive_in_order() {
    let (one, two) = two_plans();
    let (one, two) = (one.start(), two.start());
    linked(&one, 2);
    for term in 1..=500 {
        assert!(one.net().send(NodeId(2), message(term, 1000)));
    }
    for term in 1..=500 {
        let event = two.outlets.peers.recv_timeout(LONG).expect("the message");
        let PeerEvent::Message { message, .. } = event else { panic!("{event:?}") };
        assert_eq!(message.message.term(), Term(term));
    }
}

#[test]
fn link_breaks_with_its_peer_and_stands_again_with_it() {
    let (one, two) = two_plans();
    let one = one.start();
    assert!(
        !one.net().send(NodeId(2), message(1, 0)),
        "nothing is kept for a node that is not there"
    );
    assert_eq!(one.metrics().peer_messages_dropped.value(), 1);
    let (listen, peers) = (two.listen.clone(), two.peers.clone());
    let two = two.start();
    linked(&one, 2);
    drop(two);
    lost(&one, 2);
    until("the link is down", || !one.net().is_linked(NodeId(2)));
    let two = Plan { id: 2, listen, peers, ..Plan::default() }.start();
    linked(&one, 2);
    assert!(one.net().send(NodeId(2), message(2, 0)));
    assert!(two.outlets.peers.recv_timeout(LONG).is_ok());
}

#[test]
fn wrong_node_at_an_address_is_not_linked_to() {
    let (one, two) = two_plans();
    // Node 3 listens where node 2 should.
    let three = Plan { id: 3, ..two }.start();
    let one = one.start();
    until("it was refused", || three.metrics().handshakes_refused.value() > 0);
    assert!(!one.net().is_linked(NodeId(2)));
}

#[test]
fn node_that_lost_its_directory_is_not_linked_to() {
    let (one, two) = two_plans();
    let one = one.start();
    one.publish(|view| view.configuration = configuration(Some(raftq::types::DirId([77; 16]))));
    let two = two.start();
    until("both have tried", || {
        two.metrics().handshakes_accepted.value() > 0
            && one.metrics().handshakes_refused.value() > 0
    });
    assert!(!one.net().is_linked(NodeId(2)), "its welcome names another directory than recorded");
    assert!(!two.net().is_linked(NodeId(1)), "and it is turned away itself");
}

#[test]
fn peer_that_does_not_read_fills_its_queue_and_never_the_memory() {
    let frozen = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let peers = vec![
        (NodeId(1), "127.0.0.1:1".to_owned()),
        (NodeId(2), frozen.local_addr().unwrap().to_string()),
    ];
    let one = Plan { peers, ..Plan::default() }.start();
    let welcomed = Client::accept(&frozen, 2);
    linked(&one, 2);
    let sent = (0..500).filter(|_| one.net().send(NodeId(2), message(1, 1 << 20))).count();
    // Sixteen in the queue, one write's worth on its way, and what two kernel buffers hold.
    assert!((16..64).contains(&sent), "{sent} MiB were taken");
    assert_eq!(one.metrics().peer_messages_dropped.value(), 500 - u64::try_from(sent).unwrap());
    drop(welcomed);
    lost(&one, 2);
}

#[test]
fn newer_connection_of_a_node_closes_its_former_one() {
    let node = Plan::of_two().start();
    let mut former = Client::peer(node.addr, 2, 1, Role::Raft);
    former.send_frame(&message(1, 0).to_frame());
    assert!(node.outlets.peers.recv_timeout(LONG).is_ok());
    let mut newer = Client::peer(node.addr, 2, 1, Role::Raft);
    assert_eq!(former.frame(), None, "what it still sends must not arrive after the newer one's");
    newer.send_frame(&message(2, 0).to_frame());
    assert!(node.outlets.peers.recv_timeout(LONG).is_ok());
}

#[test]
fn frame_that_is_no_message_closes_the_link() {
    let node = Plan::of_two().start();
    let mut peer = Client::peer(node.addr, 2, 1, Role::Raft);
    peer.send(1, &raftq::wire::message::Request::Ping);
    assert_eq!(peer.frame(), None, "a request has no business here");
    assert_eq!(node.metrics().frames_bad.value(), 1);
}

#[test]
fn messages_the_raft_thread_does_not_take_are_dropped_and_counted() {
    let node = Plan::of_two().start();
    let mut peer = Client::peer(node.addr, 2, 1, Role::Raft);
    for _ in 0..PEER_MESSAGES_MAX + 100 {
        peer.send_frame(&message(1, 0).to_frame());
    }
    until("all were read", || {
        node.metrics().peer_messages_received.value()
            >= u64::try_from(PEER_MESSAGES_MAX + 100).unwrap()
    });
    assert_eq!(node.metrics().peer_messages_refused.value(), 100);
    assert_eq!(node.outlets.peers.len(), PEER_MESSAGES_MAX);
}

#[test]
fn close_with_open_links_ends_soon() {
    let (one, two) = two_plans();
    let (one, two) = (one.start(), two.start());
    linked(&one, 2);
    linked(&two, 1);
    let started = crate::node::now();
    drop(one);
    drop(two);
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
}

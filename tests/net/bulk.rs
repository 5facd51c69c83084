//! Snapshots on their way: whole, cut and resumed, declined, broken off, and too late.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;

use raftq::net::inbox::PeerEvent;
use raftq::raft::effects::Offer;
use raftq::types::{Index, NodeId, Term};
use raftq::wire::bulk::{BulkMessage, CHUNK_BYTES, WINDOW_BYTES};
use raftq::wire::hello::Role;

use crate::client::Client;
use crate::node::{Files, LONG, Node, Plan, dir_of, free_addr, until};

const INDEX: u64 = 500;

/// Node 1 with a snapshot and node 2 without, which node 1 reaches at `address_of_2`.
fn sender_and_receiver(bytes: usize, address_of_2: Option<String>) -> (Node, Node, Arc<Files>) {
    let listen = free_addr();
    let peers = |of_2: &str| vec![(NodeId(1), free_addr()), (NodeId(2), of_2.to_owned())];
    let sender = Plan {
        peers: peers(address_of_2.as_deref().unwrap_or(&listen)),
        files: Files::with_snapshot(INDEX, bytes),
        ..Plan::default()
    };
    let files = Arc::new(Files::default());
    let receiver =
        Plan { id: 2, peers: peers(&listen), listen, files: Arc::clone(&files), ..Plan::default() };
    (sender.start(), receiver.start(), files)
}

/// Waits for an event that is no broken link: the links are not what is tested here.
fn event(node: &Node) -> PeerEvent {
    loop {
        match node.outlets.events.recv_timeout(LONG).expect("an event") {
            PeerEvent::Lost(_) => {}
            event => return event,
        }
    }
}

fn decide(node: &Node, offer: Offer) {
    let event = event(node);
    let PeerEvent::Offered { from, dir, term, meta, verdict } = event else { panic!("{event:?}") };
    assert_eq!((from, dir, term, meta.index), (NodeId(1), dir_of(1), Term(4), Index(INDEX)));
    verdict.try_send(offer).unwrap();
}

fn outcome(node: &Node) -> Result<Index, Option<String>> {
    match event(node) {
        PeerEvent::Sent { to, outcome } => {
            assert_eq!(to, NodeId(2));
            outcome
        }
        other => panic!("{other:?}"),
    }
}

fn received(node: &Node) {
    let event = event(node);
    let PeerEvent::Received { from, meta, .. } = event else { panic!("{event:?}") };
    assert_eq!((from, meta.index), (NodeId(1), Index(INDEX)));
}

fn assert_whole(sender: &Node, files: &Files) {
    let sent = sender.shared.snapshots.newest().unwrap();
    let state = files.0.lock().unwrap();
    let (file, bytes) = state.partial.as_ref().unwrap();
    assert_eq!(*file, sent);
    assert!(bytes.iter().enumerate().all(|(at, byte)| *byte == u8::try_from(at % 251).unwrap()));
    assert_eq!(u64::try_from(bytes.len()).unwrap(), file.bytes);
}

#[test]
fn snapshot_arrives_whole_and_both_raft_threads_hear_of_it() {
    let (sender, receiver, files) = sender_and_receiver(5 * CHUNK_BYTES + 17, None);
    sender.net().send_snapshot(NodeId(2), Term(4), Index(INDEX));
    decide(&receiver, Offer::Wanted);
    received(&receiver);
    assert_eq!(outcome(&sender), Ok(Index(INDEX)));
    assert_whole(&sender, &files);
    assert_eq!(receiver.metrics().snapshots_received.value(), 1);
}

#[test]
fn snapshot_cut_half_way_goes_on_where_it_broke() {
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy_addr = proxy.local_addr().unwrap().to_string();
    let size = 40 * CHUNK_BYTES;
    let (sender, receiver, files) = sender_and_receiver(size, Some(proxy_addr));
    let target = receiver.addr;
    std::thread::Builder::new()
        .name("proxy".into())
        .spawn(move || {
            // The Raft lane comes through as well; what carries more than 5 MB is cut, once.
            let cut = Arc::new(std::sync::atomic::AtomicBool::new(true));
            for stream in proxy.incoming() {
                let (stream, cut) = (stream.unwrap(), Arc::clone(&cut));
                let Ok(onward) = TcpStream::connect(target) else { return };
                forward(onward.try_clone().unwrap(), stream.try_clone().unwrap(), usize::MAX, None);
                forward(stream, onward, 5_000_000, Some(cut));
            }
        })
        .unwrap();
    sender.net().send_snapshot(NodeId(2), Term(4), Index(INDEX));
    decide(&receiver, Offer::Wanted);
    decide(&receiver, Offer::Wanted);
    received(&receiver);
    assert_eq!(outcome(&sender), Ok(Index(INDEX)));
    assert_whole(&sender, &files);
    let begun_at = files.0.lock().unwrap().begun_at.clone();
    assert!(matches!(begun_at.as_slice(), [0, resumed] if *resumed >= 3_000_000), "{begun_at:?}");
    assert_eq!(sender.metrics().snapshots_resumed.value(), 1);
    let sent = sender.metrics().snapshot_sent_bytes.value();
    assert!(
        sent < u64::try_from(size).unwrap() + 2 * WINDOW_BYTES + 4_000_000,
        "{sent} bytes sent"
    );
}

/// Copies bytes from one connection to another, and cuts both after so many, if it is to and nobody
/// has cut before.
fn forward(
    mut from: TcpStream,
    mut to: TcpStream,
    bytes_max: usize,
    cut: Option<Arc<std::sync::atomic::AtomicBool>>,
) {
    let copy = move || {
        let mut total = 0;
        let mut chunk = vec![0; 32 << 10];
        while let Ok(count) = from.read(&mut chunk) {
            total += count;
            let is_cut = total > bytes_max
                && cut
                    .as_ref()
                    .is_some_and(|cut| cut.swap(false, std::sync::atomic::Ordering::SeqCst));
            if count == 0 || is_cut || to.write_all(&chunk[..count]).is_err() {
                break;
            }
        }
        let _closed = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    };
    std::thread::Builder::new().name("forward".into()).spawn(copy).unwrap();
}

#[test]
fn snapshot_that_is_held_already_counts_as_sent() {
    let (sender, receiver, files) = sender_and_receiver(CHUNK_BYTES, None);
    sender.net().send_snapshot(NodeId(2), Term(4), Index(INDEX));
    decide(&receiver, Offer::Held);
    assert_eq!(outcome(&sender), Ok(Index(INDEX)));
    assert!(files.0.lock().unwrap().begun_at.is_empty());
}

#[test]
fn snapshot_of_an_old_term_is_declined_with_the_reason() {
    let (sender, receiver, _) = sender_and_receiver(CHUNK_BYTES, None);
    sender.net().send_snapshot(NodeId(2), Term(4), Index(INDEX));
    decide(&receiver, Offer::Stale(Term(9)));
    let reason = outcome(&sender).unwrap_err().expect("a reason");
    assert!(reason.contains("term 9"), "{reason}");
}

#[test]
fn receiver_that_cannot_take_it_says_why() {
    let (sender, receiver, files) = sender_and_receiver(CHUNK_BYTES, None);
    files.0.lock().unwrap().refuse = Some("no space left on device".into());
    sender.net().send_snapshot(NodeId(2), Term(4), Index(INDEX));
    decide(&receiver, Offer::Wanted);
    let reason = outcome(&sender).unwrap_err().expect("a reason");
    assert!(reason.contains("no space left"), "{reason}");
}

#[test]
fn snapshot_that_does_not_reach_far_enough_is_not_sent() {
    let (sender, _receiver, _) = sender_and_receiver(CHUNK_BYTES, None);
    sender.net().send_snapshot(NodeId(2), Term(4), Index(INDEX + 1));
    let reason = outcome(&sender).unwrap_err().expect("a reason");
    assert!(reason.contains("501"), "{reason}");
}

#[test]
fn transfer_is_broken_off_on_request() {
    let (sender, receiver, _) = sender_and_receiver(CHUNK_BYTES, None);
    sender.net().send_snapshot(NodeId(2), Term(4), Index(INDEX));
    sender.net().abort_snapshot(NodeId(2));
    assert_eq!(outcome(&sender), Err(None));
    sender.net().abort_snapshot(NodeId(2));
    drop(receiver);
    assert!(sender.outlets.events.try_iter().all(|event| matches!(event, PeerEvent::Lost(_))));
}

#[test]
fn later_transfer_takes_the_place_of_the_former_and_one_end_is_told() {
    let (sender, receiver, _) = sender_and_receiver(CHUNK_BYTES, None);
    sender.net().send_snapshot(NodeId(2), Term(3), Index(1));
    let PeerEvent::Offered { verdict: former, .. } = event(&receiver) else { panic!("an offer") };
    sender.net().send_snapshot(NodeId(2), Term(4), Index(1));
    decide(&receiver, Offer::Wanted);
    received(&receiver);
    assert_eq!(outcome(&sender), Ok(Index(INDEX)));
    drop(former);
    assert!(sender.outlets.events.try_iter().all(|event| matches!(event, PeerEvent::Lost(_))));
}

#[test]
fn node_that_is_down_is_given_up_after_some_attempts() {
    let (sender, receiver, _) = sender_and_receiver(CHUNK_BYTES, None);
    drop(receiver);
    sender.net().send_snapshot(NodeId(2), Term(4), Index(INDEX));
    let reason = outcome(&sender).unwrap_err().expect("a reason");
    assert!(reason.contains("5 attempts"), "{reason}");
}

#[test]
fn sender_keeps_a_window_ahead_of_what_is_acknowledged_and_no_more() {
    let slow = TcpListener::bind("127.0.0.1:0").unwrap();
    let peers = vec![
        (NodeId(1), "127.0.0.1:1".to_owned()),
        (NodeId(2), slow.local_addr().unwrap().to_string()),
    ];
    let files = Files::with_snapshot(INDEX, 20 * CHUNK_BYTES);
    let sender = Plan { peers, files, ..Plan::default() }.start();
    sender.net().send_snapshot(NodeId(2), Term(4), Index(INDEX));
    let mut receiver = loop {
        let (client, role) = Client::accept(&slow, 2);
        if role == Role::Bulk {
            break client;
        }
    };
    let offer = BulkMessage::from_frame(&receiver.frame().unwrap()).unwrap();
    let BulkMessage::Offer { id, .. } = offer else { panic!("{offer:?}") };
    receiver.send_frame(&BulkMessage::Accept { id, offset: 0 }.to_frame());
    let window = usize::try_from(WINDOW_BYTES).unwrap() / CHUNK_BYTES;
    let mut next = 0;
    for _ in 0..window {
        next += chunk_bytes(&mut receiver);
    }
    receiver.stream.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
    let more = receiver.stream.read(&mut [0]).unwrap_err();
    assert_eq!(more.kind(), std::io::ErrorKind::WouldBlock, "nothing beyond the window");
    receiver.stream.set_read_timeout(Some(LONG)).unwrap();
    receiver.send_frame(&BulkMessage::Window { id, offset: next }.to_frame());
    chunk_bytes(&mut receiver);
}

fn chunk_bytes(receiver: &mut Client) -> u64 {
    match BulkMessage::from_frame(&receiver.frame().unwrap()).unwrap() {
        BulkMessage::Chunk { data, .. } => u64::try_from(data.len()).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Offers a snapshot of one chunk to a node, which takes it.
fn accepted(node: &Node) -> (Client, [u8; 16], u64) {
    let mut peer = Client::peer(node.addr, 2, 1, Role::Bulk);
    let file = Files::with_snapshot(INDEX, CHUNK_BYTES).0.lock().unwrap().newest.take().unwrap().0;
    let (id, bytes) = (file.id, file.bytes);
    peer.send_frame(&BulkMessage::Offer { term: Term(4), meta: file.meta, id, bytes }.to_frame());
    let PeerEvent::Offered { verdict, .. } = event(node) else { panic!("an offer") };
    verdict.try_send(Offer::Wanted).unwrap();
    let accept = BulkMessage::from_frame(&peer.frame().unwrap()).unwrap();
    assert_eq!(accept, BulkMessage::Accept { id, offset: 0 });
    (peer, id, bytes)
}

#[test]
fn chunk_out_of_place_is_declined() {
    let node = Plan::of_two().start();
    let (mut peer, id, _) = accepted(&node);
    let data = vec![0; 10].into();
    peer.send_frame(&BulkMessage::Chunk { id, offset: 5, data }.to_frame());
    let last = BulkMessage::from_frame(&peer.frame().unwrap()).unwrap();
    assert!(matches!(last, BulkMessage::Decline { held: false, .. }), "{last:?}");
    assert_eq!(peer.frame(), None);
    until("the connection is gone", || node.metrics().connections_open.value() == 0);
}

#[test]
fn sender_that_goes_while_the_whole_file_is_checked_takes_nothing_with_it() {
    let (release, hold) = crossbeam_channel::bounded(1);
    let plan = Plan::of_two();
    plan.files.0.lock().unwrap().hold = Some(hold);
    let node = plan.start();
    let (mut peer, id, bytes) = accepted(&node);
    let data = vec![0; CHUNK_BYTES].into();
    peer.send_frame(&BulkMessage::Chunk { id, offset: 0, data }.to_frame());
    for _ in 0..2 {
        let heard = BulkMessage::from_frame(&peer.frame().unwrap()).unwrap();
        assert_eq!(heard, BulkMessage::Window { id, offset: bytes }, "told every second");
    }
    drop(peer);
    // The first word after that is lost in silence, the second one fails. Nothing may come of it, and that
    // shows in no condition to wait for.
    std::thread::sleep(std::time::Duration::from_millis(2_500));
    release.send(()).unwrap();
    let event = event(&node);
    let PeerEvent::Received { from, meta, .. } = event else { panic!("{event:?}") };
    assert_eq!((from, meta.index), (NodeId(2), Index(INDEX)));
}

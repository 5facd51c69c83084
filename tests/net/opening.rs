//! The first moments of a connection: every first byte, silence, noise, slowness, and who is turned away.

use std::io::Write;
use std::time::Duration;

use raftq::net::shared::Patience;
use raftq::types::{ClusterId, DirId, NodeId};
use raftq::wire::frame::{BODY_BYTES_MAX, HEADER_BYTES, PREAMBLE};
use raftq::wire::hello::Reject;
use raftq::wire::hello::{Hello, Role};
use raftq::wire::message::Code;

use crate::client::{Client, connect, encoded, exchange, peer_hello, rest};
use crate::node::{Node, Plan, configuration, dir_of, now, until};

fn hasty(change: impl FnOnce(&mut Patience)) -> Node {
    let mut patience = Patience::default();
    change(&mut patience);
    Plan { patience, ..Plan::default() }.start()
}

#[test]
fn silent_connection_is_closed_at_the_deadline() {
    let node = hasty(|patience| patience.first_byte = Duration::from_millis(50));
    let mut silent: Vec<_> = (0..20).map(|_| connect(node.addr)).collect();
    for stream in &mut silent {
        assert_eq!(rest(stream), b"");
    }
    assert_eq!(node.metrics().connections_silent.value(), 20);
    until("every place is given back", || node.metrics().connections_open.value() == 0);
}

#[test]
fn first_byte_that_means_nothing_is_closed_without_a_word() {
    let node = Node::start();
    let noise: Vec<u8> = (0..=0x1F).chain(0x7F..=0xC0).chain(0xC2..=0xFE).collect();
    let noise: Vec<u8> = noise.into_iter().filter(|byte| !b"\t\n\r".contains(byte)).collect();
    for byte in &noise {
        assert_eq!(exchange(node.addr, &[*byte]), b"", "{byte:#04x}");
    }
    let counted = usize::try_from(node.metrics().connections_noise.value()).unwrap();
    assert_eq!(counted, noise.len());
}

#[test]
fn tls_hello_is_closed_without_a_word() {
    let node = Node::start();
    assert_eq!(exchange(node.addr, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), b"");
}

#[test]
fn preamble_with_translated_line_ends_is_told_so() {
    let node = Node::start();
    // With more behind it that is never read: the last word must come through all the same.
    let mut translated = b"\xc1RJQ\n\x1a\n\n\n".to_vec();
    translated.resize(200_000, 0);
    let answer = exchange(node.addr, &translated);
    assert_eq!(answer[..8], PREAMBLE);
    assert!(String::from_utf8_lossy(&answer).contains("line ends"));
}

#[test]
fn hello_that_does_not_come_is_cut_off() {
    let node = hasty(|patience| patience.handshake = Duration::from_millis(50));
    for unfinished in [&PREAMBLE[..3], &PREAMBLE[..], &[&PREAMBLE[..], &[0, 0, 0, 9]].concat()] {
        assert_eq!(exchange(node.addr, unfinished), b"");
    }
    until("every place is given back", || node.metrics().connections_open.value() == 0);
}

#[test]
fn frame_that_claims_four_gigabytes_is_refused_by_its_length() {
    let node = Node::start();
    let claim = [0xFF, 0xFF, 0xFF, 0xFF, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];
    let answer = exchange(node.addr, &[&PREAMBLE[..], &claim].concat());
    assert!(String::from_utf8_lossy(&answer).contains("4294967295"), "before the handshake");

    let mut client = Client::connect(node.addr);
    client.stream.write_all(&claim).unwrap();
    let reject = Reject::from_frame(&client.frame().expect("a last word")).unwrap();
    assert!(reject.message.contains("4294967295"), "{}", reject.message);
    assert_eq!(client.frame(), None);
    Client::connect(node.addr).ping();
}

#[test]
fn frame_above_the_limit_before_the_handshake_is_refused() {
    let node = Node::start();
    let mut hello = Hello::client("x").to_frame(1);
    hello.body = vec![0; 4097].into();
    let answer = exchange(node.addr, &[&PREAMBLE[..], &encoded(&hello)].concat());
    assert!(String::from_utf8_lossy(&answer).contains("at most 4096"));
}

#[test]
fn damaged_frame_ends_its_connection_with_the_reason() {
    let node = Node::start();
    let mut client = Client::connect(node.addr);
    let mut bytes = encoded(&raftq::wire::message::Request::Ping.to_frame(3));
    bytes[HEADER_BYTES - 1] ^= 1;
    client.stream.write_all(&bytes).unwrap();
    let reject = Reject::from_frame(&client.frame().expect("a last word")).unwrap();
    assert!(reject.message.contains("checksum"), "{}", reject.message);
    assert_eq!(client.frame(), None);
    assert_eq!(node.metrics().frames_bad.value(), 1);
}

#[test]
fn frame_that_does_not_end_is_cut_off_and_a_fast_one_is_not() {
    let node = hasty(|patience| patience.frame = Duration::from_millis(100));
    let mut slow = Client::connect(node.addr);
    let mut idle = Client::connect(node.addr);
    slow.stream.write_all(&[0, 0, 1, 0, 0x11]).unwrap();
    let started = now();
    let reject = Reject::from_frame(&slow.frame().expect("a last word")).unwrap();
    assert!(reject.message.contains("not whole"), "{}", reject.message);
    assert!(started.elapsed() >= Duration::from_millis(100));
    assert_eq!(slow.frame(), None);
    idle.ping();
}

#[test]
fn megabyte_of_noise_disturbs_nobody() {
    let node = Node::start();
    let mut good = Client::connect(node.addr);
    fastrand::seed(7);
    for first in [b'a', 0xC1, 0x00, b'\n', 0xFF] {
        let mut noise: Vec<u8> =
            std::iter::repeat_with(|| fastrand::u8(..)).take(1 << 20).collect();
        noise[0] = first;
        let answer = exchange(node.addr, &noise);
        assert!(answer.len() < 1024, "{} bytes in answer to noise", answer.len());
        good.ping();
    }
    until("noise is gone", || node.metrics().connections_open.value() == 1);
}

#[test]
fn caller_that_is_not_welcome_hears_why_and_what_to_do() {
    let node = Plan::of_two().start();
    node.publish(|view| view.configuration = configuration(Some(dir_of(2))));
    let hello = |change: &dyn Fn(&mut Hello)| {
        let mut hello = peer_hello(2, 1, Role::Raft);
        change(&mut hello);
        hello
    };
    let peer = |hello: &mut Hello, change: &dyn Fn(&mut raftq::wire::hello::PeerHello)| {
        change(hello.peer.as_mut().unwrap());
    };
    let cases: [(&str, Hello); 7] = [
        ("upgrade", hello(&|it| (it.version_min, it.version_max) = (90, 91))),
        ("belongs to cluster", hello(&|it| it.cluster = ClusterId([1; 16]))),
        ("means to reach node 3", hello(&|it| peer(it, &|p| p.expects = NodeId(3)))),
        ("--id 1", hello(&|it| peer(it, &|p| p.node = NodeId(1)))),
        ("no voter", hello(&|it| peer(it, &|p| p.node = NodeId(8)))),
        ("the peer lists differ", hello(&|it| peer(it, &|p| p.peers_crc = 5))),
        ("forgotten its votes", hello(&|it| peer(it, &|p| p.dir = DirId([99; 16])))),
    ];
    for (words, hello) in cases {
        let reject = Client::greeting(node.addr, &hello).rejected();
        assert!(reject.message.contains(words), "{words}: {}", reject.message);
        assert_eq!(reject.code, Code::FailedPrecondition);
    }
    assert_eq!(node.metrics().handshakes_refused.value(), 7);
}

#[test]
fn full_node_refuses_clients_and_still_takes_its_peers() {
    let node = Plan { connections_max: 3, ..Plan::of_two() }.start();
    let mut clients: Vec<Client> = (0..3).map(|_| Client::connect(node.addr)).collect();
    let reject = Client::greeting(node.addr, &Hello::client("one more")).rejected();
    assert_eq!(reject.code, Code::ResourceExhausted);
    assert_eq!(exchange(node.addr, b"status\n"), b"");
    let _peer = Client::peer(node.addr, 2, 1, Role::Raft);
    for client in &mut clients {
        client.ping();
    }
}

#[test]
fn body_of_four_mebibytes_is_taken_after_the_handshake() {
    let node = Node::start();
    let mut client = Client::connect(node.addr);
    let mut frame = raftq::wire::message::Request::Ping.to_frame(1);
    frame.body = vec![0xC0; BODY_BYTES_MAX].into();
    client.send_frame(&frame);
    let (corr, refusal) = client.refusal();
    assert_eq!(
        (corr, refusal.code),
        (1, Code::InvalidArgument),
        "no MessagePack, but a whole frame"
    );
    client.ping();
}

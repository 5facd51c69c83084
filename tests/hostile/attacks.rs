//! Each way to be a nuisance to a node, with the deadline by which the node must be rid of it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use raftq::types::{DirId, JobId, NodeId};
use raftq::wire::frame::PREAMBLE;
use raftq::wire::hello::{Hello, PeerHello, Role};
use raftq::wire::kind;
use raftq::wire::message::{Code, Filter, Reply, Request};
use socket2::SockRef;

use crate::mutator::Mutator;
use crate::raw::{Guest, LONG, any_frame, dial, encoded, ends_within, now, opening};

/// How long a handshake may take, and what the node needs to say its last word.
const HANDSHAKE: Duration = Duration::from_secs(2 + 1 + 4);

/// How long a connection may be silent, likewise.
const SILENCE: Duration = Duration::from_secs(5 + 4);

/// How long what is written may wait to be read, likewise.
const UNREAD: Duration = Duration::from_secs(10 + 1 + 8);

/// From the first byte of a frame or a line to its last: up to one and a half of 30 s.
const UNFINISHED: Duration = Duration::from_secs(45 + 8);

/// Frames sent before their answers are read.
const BATCH: u32 = 256;

/// Frames on one connection.
const PER_CONNECTION: u32 = 64 * BATCH;

/// Sends frames that arrive whole and mean nothing: every kind, with bodies of every kind of nonsense. Each
/// is refused by name, and the connection goes on. Returns how many were sent.
pub(crate) fn nonsense(addr: &str, count: u32, seeds: &[Vec<u8>]) -> u32 {
    let pool: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
    let mut mutator = Mutator::new(addr, &pool);
    let mut number = 0;
    while number < count {
        let mut guest = Guest::client(addr);
        let end = count.min(number + PER_CONNECTION);
        while number < end {
            let mut bytes = Vec::new();
            let mut answers = 0;
            let last = end.min(number + BATCH);
            for corr in number..last {
                answers += u32::from(one_nonsense(&mut mutator, corr, &mut bytes));
            }
            number = last;
            guest.stream.write_all(&bytes).expect("the node reads");
            for _ in 0..answers {
                match guest.reply() {
                    Some((_, Reply::Refused(no))) => {
                        assert_eq!((no.code, no.unknown), (Code::InvalidArgument, false), "{no}");
                    }
                    other => panic!("nonsense was answered with {other:?}"),
                }
            }
        }
    }
    number
}

/// Appends one frame that is no request, and tells whether it is answered. What a change has left whole is
/// not sent: a good request is no attack.
fn one_nonsense(mutator: &mut Mutator<'_>, corr: u32, bytes: &mut Vec<u8>) -> bool {
    let kinds = u32::try_from(kind::ALL.len()).expect("few");
    loop {
        let (_, body) = mutator.next();
        let dice = &mut mutator.dice;
        let kind = match corr % 4 {
            0 => u8::try_from(corr / 4 % 256).expect("a byte"),
            _ => kind::ALL[(corr % kinds) as usize].0,
        };
        let flags = if dice.u8(..16) == 0 { dice.u8(..) } else { 0 };
        let group = u16::from(dice.u8(..32) == 0);
        let frame = any_frame(kind, flags, group, corr, body);
        match Request::from_frame(&frame) {
            Ok(_) => {}
            Err(error) => {
                bytes.extend(encoded(&frame));
                return !error.is_skippable();
            }
        }
    }
}

/// Runs connections side by side, `each` of them opened by `open`, and waits for all to be closed.
fn closed_in_time(
    what: &str,
    count: u32,
    patience: Duration,
    mut open: impl FnMut(u32) -> TcpStream,
) -> u32 {
    for first in (0..count).step_by(200) {
        let since = now();
        let mut streams: Vec<TcpStream> = (first..count.min(first + 200)).map(&mut open).collect();
        for stream in &mut streams {
            ends_within(stream, what, since, patience);
        }
    }
    count
}

/// Sends what cannot be a frame, before and after each step of a handshake.
pub(crate) fn broken_streams(addr: &str, count: u32) -> u32 {
    closed_in_time("a broken stream", count, HANDSHAKE, |number| {
        let hello = opening(&Hello::client("an attacker"));
        let ping = encoded(&Request::Ping.to_frame(9));
        let (mut broken, mut huge) = (ping.clone(), ping.clone());
        broken[13] ^= 1 << (number % 8);
        huge[..4].copy_from_slice(&[0xff; 4]);
        let mut wrong_hello = hello.clone();
        let last = wrong_hello.len() - 1;
        wrong_hello[last] ^= 1;
        let mut stream = dial(addr);
        let half = hello.len() * (number as usize % 7) / 7;
        let mut translated = PREAMBLE.to_vec();
        translated[4] = b'\n';
        let (bytes, shut) = match number % 11 {
            0 => ([&hello[..], &broken].concat(), false),
            1 => ([&hello[..], &huge].concat(), false),
            2 => (wrong_hello, false),
            3 => ([&PREAMBLE[..], &ping].concat(), false),
            4 => ([&PREAMBLE[..], &huge].concat(), false),
            5 => ([&translated[..], &hello[8..]].concat(), false),
            6 => (hello[..half].to_vec(), true),
            7 => ([&hello[..], &ping[..9]].concat(), true),
            8 => ([&PREAMBLE[..], &[0, 0, 0x0f, 0xff]].concat(), false),
            9 => ([&hello[..], &hello].concat(), true),
            _ => ([&PREAMBLE[..], &PREAMBLE].concat(), false),
        };
        // The node may be faster with its no than we with our bytes.
        let _refused = stream.write_all(&bytes).is_err();
        if shut {
            let _gone = stream.shutdown(Shutdown::Write).is_err();
        }
        stream
    })
}

/// What other protocols say first.
const GREETINGS: [&[u8]; 16] = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\x16\x03\x01\x00\xa5",
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
    b"POST /submit HTTP/1.1\r\nContent-Length: 7\r\n\r\nstatus\n",
    b"AMQP\x00\x00\x09\x01",
    b"*1\r\n$4\r\nPING\r\n",
    b"EHLO example.org\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01\0\x50\x1b\xbd",
    b"\x10\x16\0\x04MQTT\x04\x02\0\x3c\0\x0aDIGITALOCEA",
    b"\0\0\0\x08\x04\xd2\x16\x2f",
    b"\x03\0\0\x13\x0e\xe0\0\0\0\0\0\x01\0\x08\0\x0b\0\0\0",
    b"INFO {\"server_id\":\"a\"}\r\nCONNECT {}\r\nPUB a 1\r\n",
    b"\xff\xfd\x01\xff\xfd\x1f\xff\xfb\x05",
];

/// Speaks other protocols, some with a megabyte behind the greeting.
pub(crate) fn foreign_protocols(addr: &str, count: u32) -> u32 {
    closed_in_time("another protocol", count, SILENCE, |number| {
        let mut stream = dial(addr);
        let greeting = GREETINGS[number as usize % GREETINGS.len()];
        let mut bytes = greeting.to_vec();
        if number % 50 == 7 {
            bytes.resize(1 << 20, b'x');
        }
        let _refused = stream.write_all(&bytes).is_err();
        stream
    })
}

/// Says nothing, or half of something, and waits to be closed.
pub(crate) fn silence(addr: &str, count: u32) -> u32 {
    let hello = opening(&Hello::client("an attacker"));
    let since = now();
    let mut streams: Vec<TcpStream> = (0..count)
        .map(|number| {
            let mut stream = dial(addr);
            let said = match number % 4 {
                0 | 1 => &[][..],
                2 => &hello[..5],
                _ => &hello[..hello.len() - 1],
            };
            stream.write_all(said).expect("the node reads");
            if number % 8 == 1 {
                // Half-open: this side is closed before a byte came.
                stream.shutdown(Shutdown::Write).expect("it was open");
            }
            stream
        })
        .collect();
    for stream in &mut streams {
        ends_within(stream, "a silent connection", since, SILENCE + Duration::from_secs(10));
    }
    count
}

/// Sends one byte a second, of a hello; with `patient` of a request and of a line of text, too.
pub(crate) fn slow_senders(addr: &str, count: u32, patient: bool) -> u32 {
    let hello = opening(&Hello::client("an attacker"));
    let request = encoded(&Request::GetJob { id: JobId::default() }.to_frame(3));
    let mut slow: Vec<(TcpStream, &[u8], Duration)> = Vec::new();
    for number in 0..count {
        match number % 3 {
            1 if patient => {
                slow.push((Guest::client(addr).stream, &request, UNFINISHED));
            }
            2 if patient => {
                let line = b"status of everything, as slowly as it can be typed by anybody at all";
                slow.push((dial(addr), line, UNFINISHED));
            }
            _ => slow.push((dial(addr), &hello, HANDSHAKE)),
        }
    }
    let since = now();
    for second in 0.. {
        // Once the last deadline is near, it is time to see who has been closed.
        if since.elapsed()
            > slow.iter().map(|it| it.2).max().unwrap_or_default() / 2 + HANDSHAKE / 2
        {
            break;
        }
        for (stream, bytes, _) in &mut slow {
            let byte: u8 = bytes.get(second).copied().unwrap_or(b' ');
            let _closed = stream.write_all(&[byte]).is_err();
        }
        thread::sleep(
            Duration::from_secs(1)
                .saturating_sub(since.elapsed().saturating_sub(Duration::from_secs(second as u64))),
        );
    }
    for (stream, _, patience) in &mut slow {
        ends_within(stream, "a slow sender", since, *patience + Duration::from_secs(5));
    }
    count
}

/// Asks for everything there is, again and again, and reads nothing of it. `large` are jobs of many bytes: what
/// is asked for at once is more than the kernel takes for one who does not read, and each must be cut off
/// once the node has waited for it long enough. That is seen without reading: one who reads is another case.
pub(crate) fn readers_that_never_read(addr: &str, count: u32, large: &[JobId]) -> u32 {
    let cut_before = cut_off(addr);
    let lists =
        (0..8).map(|_| Request::ListJobs(Box::new(Filter { limit: 1000, ..Filter::default() })));
    let jobs = (0..3).flat_map(|_| large.iter().map(|id| Request::GetJob { id: *id }));
    let questions: Vec<u8> =
        jobs.chain(lists).zip(0..).flat_map(|(it, corr)| encoded(&it.to_frame(corr))).collect();
    let mut deaf: Vec<TcpStream> = (0..count)
        .map(|_| {
            let stream = Guest::client(addr).stream;
            SockRef::from(&stream).set_recv_buffer_size(16 << 10).expect("a small buffer");
            stream
        })
        .collect();
    let (since, mut rounds) = (now(), 0);
    while !deaf.is_empty() {
        let left = deaf.len();
        assert!(since.elapsed() < UNREAD, "{left} of {count} who never read were not cut off");
        let asks = since.elapsed() >= Duration::from_secs(2) * rounds;
        rounds += u32::from(asks);
        deaf.retain_mut(|stream| {
            let is_open = !asks || stream.write_all(&questions).is_ok();
            is_open && matches!(stream.take_error(), Ok(None))
        });
        thread::sleep(Duration::from_millis(50));
    }
    let cut = cut_off(addr) - cut_before;
    assert_eq!(cut, u64::from(count), "ended as slow readers, of {count}");
    count
}

/// How many a node has cut off because they did not read. Asks until other attacks leave a place for it.
fn cut_off(addr: &str) -> u64 {
    let since = now();
    loop {
        let mut stream = dial(addr);
        let mut text = String::new();
        let is_told = stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").is_ok()
            && stream.read_to_string(&mut text).is_ok();
        let line = text.lines().find(|line| is_told && line.contains("slow_reader"));
        if let Some(number) = line.and_then(|line| line.split_whitespace().last()) {
            return number.parse().expect("a number");
        }
        assert!(since.elapsed() < LONG, "no metrics within {LONG:?}: {text}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Greets and then does nothing, which is no offence; the connections are handed out.
pub(crate) fn idlers(addr: &str, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| Guest::client(addr).stream).collect()
}

/// Comes as another node of the cluster and sends what no node sends. The node at `addr` closes each.
pub(crate) fn bad_peers(
    addr: &str,
    to: u64,
    from: (u64, DirId),
    peers_crc: u32,
    count: u32,
) -> u32 {
    let peer = |role| Hello {
        role,
        peer: Some(PeerHello { node: NodeId(from.0), dir: from.1, expects: NodeId(to), peers_crc }),
        ..Hello::client("raftq-node/0")
    };
    closed_in_time("a bad peer", count, HANDSHAKE, |number| {
        let role = if number % 2 == 0 { Role::Raft } else { Role::Bulk };
        let mut guest = Guest::new(addr, &peer(role));
        let kinds: Vec<u8> = kind::ALL.iter().map(|(kind, _)| *kind).collect();
        let kind = kinds[number as usize / 2 % kinds.len()];
        let body: &[u8] = match number % 5 {
            0 => b"\xc1",
            1 => b"\xdd\xff\xff\xff\xff",
            2 => b"\x9a\x01\x02\xdc\xff\xff",
            3 => &[0x91; 5000],
            _ => b"\x80\x80",
        };
        let frame = any_frame(kind, 0, 0, 0, body.to_vec());
        let _refused = guest.stream.write_all(&encoded(&frame)).is_err();
        guest.stream
    })
}

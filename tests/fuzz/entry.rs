//! What every fuzz target does with its bytes: shared by the fuzz package and the test that replays its corpus.
//!
//! An entry takes any bytes and must not panic. It asserts that what was read can be written and read again
//! to the same, and, where the allocator counts (`meter`), that reading took at most four times the input and
//! 64 KiB. Checksums are no secret, so most entries mend them on demand: a bit of the first byte says so.

use std::sync::OnceLock;

use bytes::{Bytes, BytesMut};
use raftq::cli::values::peers;
use raftq::jobs::codec;
use raftq::jobs::image::ImageError;
use raftq::jobs::machine::Machine;
use raftq::jobs::restore::Restore;
use raftq::net::handshake;
use raftq::net::http::{self, Head};
use raftq::net::shared::{NetConfig, Patience};
use raftq::net::sniff;
use raftq::net::text::command;
use raftq::net::text::lines::{self, LINE_BYTES_MAX, Next};
use raftq::pack::{self, Reader, Token};
use raftq::raft::configuration;
use raftq::raft::message::{Configuration, Voter};
use raftq::replica::view::View;
use raftq::storage::disk::{Disk, DiskFile};
use raftq::storage::format::{GROUP, HEADER_BYTES as RECORD_BYTES, MAGIC};
use raftq::storage::identity;
use raftq::storage::log::{Options, segment_name};
use raftq::storage::memory::{Memory, MemoryFile};
use raftq::storage::recover::{Survey, recover};
use raftq::storage::snapshot_file;
use raftq::types::{ClusterId, DirId, NodeId, Term};
use raftq::wire::bulk::BulkMessage;
use raftq::wire::frame::{
    BODY_BYTES_MAX, Frame, FrameCodec, FrameError, HEADER_BYTES, HELLO_BYTES_MAX, PREAMBLE,
};
use raftq::wire::hello::Hello;
use raftq::wire::hello::{Greeting, Reject};
use raftq::wire::kind;
use raftq::wire::message::{Reply, Request};
use raftq::wire::peer::PeerMessage;
use tokio_util::codec::{Decoder, Encoder};

use super::meter;

/// Every target by name.
pub(crate) const TARGETS: [(&str, fn(&[u8])); 16] = [
    ("bulk", bulk),
    ("command", command_of_the_log),
    ("configuration", configuration_entry),
    ("frame", frame),
    ("handshake", handshake_of_strangers),
    ("http", http_head),
    ("identity", identity_file),
    ("image", image),
    ("log", log_segments),
    ("pack", packed),
    ("peer", peer),
    ("peers", peer_list),
    ("reply", reply),
    ("request", request),
    ("snapshot", snapshot),
    ("text", text_mode),
];

/// The salt of the log that `log` reads.
pub(crate) const SALT: u64 = 7;

/// Mend the checksums before anything is read.
const MEND: u8 = 0x01;

/// What one text of MessagePack may cost beside its bytes: a `String` in a list that grows, or a shared name.
const TEXT_BYTES: usize = 48;

/// Runs a target.
pub(crate) fn run(name: &str, input: &[u8]) {
    let found = TARGETS.iter().find(|(known, _)| *known == name);
    let (_, entry) = found.unwrap_or_else(|| panic!("no target {name}"));
    entry(input);
}

/// Four times the input and 64 KiB.
fn limit(input: &[u8]) -> usize {
    4 * input.len() + (64 << 10)
}

/// Reads something under the bound on memory. The words of a command and the names in a list are the one
/// thing that costs more than its bytes and is not cut short: each is counted.
fn bounded<T>(input: &[u8], read: impl FnOnce() -> T) -> T {
    meter::bounded(limit(input), || TEXT_BYTES * texts(input), read)
}

/// Counts texts from the start on, as far as the bytes are MessagePack.
fn texts(bytes: &[u8]) -> usize {
    let mut reader = Reader::new(bytes);
    let tokens = std::iter::from_fn(|| reader.token().ok());
    tokens.filter(|token| matches!(token, Token::Text(_))).count()
}

/// Splits off the first byte.
fn first(input: &[u8]) -> (u8, &[u8]) {
    input.split_first().map_or((0, input), |(first, rest)| (*first, rest))
}

/// Makes a frame whose kind is one of `kinds`, or any at all.
fn framed(input: &[u8], kinds: impl Fn(u8) -> bool) -> Frame {
    let (number, rest) = first(input);
    let (flags, body) = first(rest);
    let known: Vec<u8> = kind::ALL.iter().map(|(kind, _)| *kind).filter(|it| kinds(*it)).collect();
    let kind = match flags & 0x80 {
        0 => known.get(usize::from(number) % known.len()).copied().unwrap_or(number),
        _ => number,
    };
    // Flags and groups that nobody has given a meaning come now and then.
    let group = u16::from(flags & 0x7e == 0x7e);
    let flags = if flags & 0x70 == 0x70 { flags } else { flags & 0x01 };
    Frame { kind, flags, group, corr: 7, body: Bytes::copy_from_slice(body) }
}

fn request(input: &[u8]) {
    let frame = framed(input, kind::is_request);
    let Ok(request) = bounded(&frame.body, || Request::from_frame(&frame)) else { return };
    let again = request.to_frame(frame.corr);
    assert_eq!(Request::from_frame(&again).as_ref(), Ok(&request));
}

fn reply(input: &[u8]) {
    let frame = framed(input, kind::is_reply);
    let Ok(reply) = bounded(&frame.body, || Reply::from_frame(&frame)) else { return };
    // Texts are cut and bodies of waited jobs left out as a reply is written; after that nothing changes.
    let written = reply.to_frame(frame.corr);
    let once = Reply::from_frame(&written).expect("what was written is read");
    let twice = Reply::from_frame(&once.to_frame(frame.corr)).expect("and again");
    assert_eq!(once, twice);
}

fn peer(input: &[u8]) {
    let frame = framed(input, kind::is_peer);
    let Ok(message) = bounded(&frame.body, || PeerMessage::from_frame(&frame)) else { return };
    assert_eq!(PeerMessage::from_frame(&message.to_frame()).as_ref(), Ok(&message));
}

fn bulk(input: &[u8]) {
    let frame = framed(input, kind::is_bulk);
    let Ok(message) = bounded(&frame.body, || BulkMessage::from_frame(&frame)) else { return };
    assert_eq!(BulkMessage::from_frame(&message.to_frame()).as_ref(), Ok(&message));
}

fn command_of_the_log(input: &[u8]) {
    let bytes = Bytes::copy_from_slice(input);
    let Ok(stamped) = bounded(input, || codec::decode(&bytes)) else { return };
    assert_eq!(codec::decode(&codec::encode(&stamped)).as_ref(), Ok(&stamped));
}

fn configuration_entry(input: &[u8]) {
    let Ok(read) = bounded(input, || configuration::decode(input)) else { return };
    assert_eq!(configuration::decode(&configuration::encode(&read)).as_ref(), Ok(&read));
}

fn peer_list(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(read) = bounded(input, || peers(text)) else { return };
    let again = peers(&handshake::peer_list(&read.0)).expect("what is printed is read");
    assert_eq!(again.0, read.0);
}

fn packed(input: &[u8]) {
    if bounded(input, || pack::scan(input)).is_err() {
        return;
    }
    // What the scan lets pass is one value and no more.
    let mut reader = Reader::new(input);
    assert_eq!(reader.skip(), Ok(()));
    assert_eq!(reader.finish(), Ok(()));
    // Nesting has a bound of its own, whatever a reader does.
    if let Ok(text) = pack::decode::<String>(input) {
        let mut again = BytesMut::new();
        pack::encode_named(&text, &mut again).expect("a text can be written");
        assert_eq!(pack::decode::<String>(&again), Ok(text));
    }
}

/// Puts the right checksum into every frame of a stream, as far as frames follow each other.
fn mend_frames(stream: &mut [u8]) {
    let mut at = 0;
    while let Some((head, rest)) =
        stream.get_mut(at..).and_then(|it| it.split_at_mut_checked(HEADER_BYTES))
    {
        let (checked, sum) = head.split_at_mut(HEADER_BYTES - 4);
        let length = u32::from_be_bytes([checked[0], checked[1], checked[2], checked[3]]) as usize;
        let Some(body) = rest.get(..length) else { return };
        let mut crc = crc32fast::Hasher::new();
        crc.update(checked);
        crc.update(body);
        sum.copy_from_slice(&crc.finalize().to_be_bytes());
        at += HEADER_BYTES + length;
    }
}

/// Feeds a stream in pieces whose sizes the second byte sets, and hands out the frames and the end.
fn feed(stream: &[u8], step: u8, body_bytes_max: usize) -> (Vec<Frame>, Option<FrameError>) {
    let mut codec = FrameCodec::new(body_bytes_max);
    let mut buffer = BytesMut::new();
    let mut frames = Vec::new();
    for piece in stream.chunks(usize::from(step) + 1) {
        buffer.extend_from_slice(piece);
        loop {
            match codec.decode(&mut buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    let end = codec.decode_eof(&mut buffer);
    match end {
        Ok(last) => {
            assert_eq!(last, None, "a whole frame was left in the buffer");
            (frames, None)
        }
        Err(error) => (frames, Some(error)),
    }
}

fn frame(input: &[u8]) {
    let (how, rest) = first(input);
    let (step, rest) = first(rest);
    let mut stream = rest.to_vec();
    if how & MEND != 0 {
        mend_frames(&mut stream);
    }
    let body_bytes_max = if how & 0x02 == 0 { BODY_BYTES_MAX } else { HELLO_BYTES_MAX };
    let (frames, end) = meter::bounded(
        limit(input),
        || frames_bytes(&stream),
        || feed(&stream, step, body_bytes_max),
    );
    // However the stream is cut, the same frames come out of it.
    let (whole, whole_end) = feed(&stream, u8::MAX, body_bytes_max);
    assert_eq!(frames, whole);
    assert_eq!(end.map(|error| error.to_string()), whole_end.map(|error| error.to_string()));
    let mut again = BytesMut::new();
    for frame in &frames {
        FrameCodec::new(body_bytes_max).encode(frame, &mut again).expect("it came in");
    }
    assert_eq!(again, stream[..again.len()]);
}

/// What the list of frames itself takes, which the reader does not keep.
fn frames_bytes(stream: &[u8]) -> usize {
    2 * size_of::<Frame>() * (stream.len() / HEADER_BYTES + 4)
}

fn net_config() -> &'static NetConfig {
    static CONFIG: OnceLock<NetConfig> = OnceLock::new();
    CONFIG.get_or_init(|| NetConfig {
        node: NodeId(1),
        dir: DirId([1; 16]),
        listen: "127.0.0.1:0".into(),
        peers: (1..=3).map(|id| (NodeId(id), format!("127.0.0.1:710{id}"))).collect(),
        peers_crc: 0x0102_0304,
        connections_max: 10,
        patience: Patience::default(),
    })
}

/// A node before its first leader, or one of a cluster that knows the directories.
fn view(of_cluster: bool) -> View {
    let dir = |id| of_cluster.then_some(DirId([id; 16]));
    let voter =
        |id: u8| Voter { id: NodeId(id.into()), addr: format!("127.0.0.1:710{id}"), dir: dir(id) };
    let cluster = if of_cluster { ClusterId([9; 16]) } else { ClusterId::default() };
    View {
        node: NodeId(1),
        leads: false,
        term: Term(3),
        leader: None,
        configuration: Configuration { cluster, voters: (1..=3).map(voter).collect() },
        ready: of_cluster,
        healing: false,
        stopping: false,
    }
}

fn handshake_of_strangers(input: &[u8]) {
    let (how, rest) = first(input);
    let mut stream = rest.to_vec();
    let Some((preamble, frames)) = stream.split_at_mut_checked(PREAMBLE.len()) else { return };
    if *preamble != PREAMBLE {
        return;
    }
    if how & MEND != 0 {
        mend_frames(frames);
    }
    let (frames, _end) = feed(frames, how >> 2, HELLO_BYTES_MAX);
    let Some(frame) = frames.first() else { return };
    let (config, view) = (net_config(), view(how & 0x02 != 0));
    if let Ok(hello) = bounded(&frame.body, || Hello::from_frame(frame)) {
        assert_eq!(Hello::from_frame(&hello.to_frame(frame.corr)).as_ref(), Ok(&hello));
        let answer = match handshake::check(&hello, config, &view) {
            Ok(guest) => {
                assert!(!guest.agent.chars().any(char::is_control), "{:?}", guest.agent);
                handshake::welcome(config, &view, guest.version).to_frame(frame.corr)
            }
            Err(reject) => reject.to_frame(0),
        };
        check_answer(&answer);
    }
    // The other way round: a node or a client hears this as the answer to its own hello.
    match bounded(&frame.body, || Greeting::from_frame(frame)) {
        Ok(Greeting::Welcome(welcome)) => {
            let again = Greeting::from_frame(&welcome.to_frame(frame.corr));
            assert_eq!(again, Ok(Greeting::Welcome(welcome.clone())));
            let _may_be_used: Result<(), String> =
                handshake::check_welcome(&welcome, NodeId(2), config, &view);
        }
        Ok(Greeting::Reject(reject)) => check_answer(&reject.to_frame(0)),
        Err(error) => check_answer(&Reject::from(&error).to_frame(0)),
    }
}

/// What is answered before the handshake is done keeps within what the other end reads then.
fn check_answer(answer: &Frame) {
    assert!(answer.body.len() <= HELLO_BYTES_MAX, "{} bytes", answer.body.len());
    let read = Greeting::from_frame(answer).expect("an answer of ours is read");
    let again = match &read {
        Greeting::Welcome(welcome) => welcome.to_frame(answer.corr),
        Greeting::Reject(reject) => reject.to_frame(answer.corr),
    };
    assert_eq!(Greeting::from_frame(&again), Ok(read));
}

fn http_head(input: &[u8]) {
    let whole = bounded(input, || http::parse(input));
    if let Head::Whole(method, path) = &whole {
        assert!(!method.is_empty(), "a request without a method, of {path:?}");
    }
    // A head that is judged early is judged the same when more has come, but for what is cut off.
    let half = http::parse(&input[..input.len() / 2]);
    if half != Head::Partial {
        assert_eq!(half, whole);
    }
}

fn text_mode(input: &[u8]) {
    let (step, rest) = first(input);
    let talk = || {
        let mut received = Vec::new();
        let mut pieces = rest.chunks(usize::from(step) * 8 + 1);
        let mut is_first = true;
        loop {
            let piece = pieces.next();
            received.extend_from_slice(piece.unwrap_or_default());
            while let Some(next) = lines::cut(&mut received, piece.is_none()) {
                match next {
                    Next::Line(line) => take_line(&line, is_first),
                    Next::Nothing => return,
                    Next::TooLong => return,
                }
                is_first = false;
            }
            assert!(received.len() <= LINE_BYTES_MAX, "{} bytes of one line", received.len());
        }
    };
    bounded(input, talk);
}

fn take_line(line: &[u8], is_first: bool) {
    assert!(line.len() <= LINE_BYTES_MAX, "a line of {} bytes", line.len());
    if is_first && sniff::is_http(line) {
        assert_eq!(line.contains(&b'\n'), false, "one line is one line");
    }
    let Some(text) = lines::text(line) else { return };
    if let Err(fault) = command::parse(&text) {
        assert!(fault.len() < 1024, "{} bytes of fault", fault.len());
        assert!(!fault.chars().any(char::is_control), "{fault:?}");
    }
}

/// Writes a file into a disk in memory, whole and durable.
fn put(disk: &Memory, name: &str, bytes: &[u8]) -> MemoryFile {
    let file = disk.create(name).expect("memory takes it");
    file.write_at(bytes, 0).expect("memory takes it");
    file.sync().expect("memory takes it");
    disk.sync_dir().expect("memory takes it");
    file
}

fn identity_file(input: &[u8]) {
    let (how, body) = first(input);
    let mut bytes = body.to_vec();
    if let Some((sum, body)) = bytes.split_at_mut_checked(4).filter(|_| how & MEND != 0) {
        sum.copy_from_slice(&crc32fast::hash(body).to_le_bytes());
    }
    let disk = Memory::default();
    put(&disk, "identity", &bytes);
    let Ok(read) = bounded(input, || identity::load(&disk)) else { return };
    let begun = identity::begin(&disk, read).expect("memory takes it");
    assert_eq!(identity::load(&disk).expect("what was written is read"), begun);
    assert_eq!((begun.node, begun.dir, begun.salt), (read.node, read.dir, read.salt));
}

/// Puts the right checksum into every record of a segment, as far as records follow each other.
fn mend_records(bytes: &mut [u8], segment: u64) {
    let mut at = 0;
    while let Some((head, rest)) =
        bytes.get_mut(at..).and_then(|it| it.split_at_mut_checked(RECORD_BYTES))
    {
        if head[..4] != MAGIC {
            return;
        }
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        let Some(payload) = rest.get(..length as usize) else { return };
        let mut crc = crc32fast::Hasher::new();
        crc.update(&SALT.to_le_bytes());
        crc.update(&segment.to_le_bytes());
        crc.update(&length.to_le_bytes());
        crc.update(&GROUP.to_le_bytes());
        crc.update(&head[16..24]);
        crc.update(payload);
        head[8..12].copy_from_slice(&crc.finalize().to_le_bytes());
        at += RECORD_BYTES + length as usize;
    }
}

fn log_segments(input: &[u8]) {
    let (how, rest) = first(input);
    let (at, rest) = first(rest);
    let disk = Memory::default();
    // One segment, or two, cut at some 256th of the whole.
    let cut = if how & 0x02 == 0 { rest.len() } else { rest.len() * usize::from(at) / 256 };
    let (one, two) = rest.split_at(cut);
    for (number, part) in (0_u64..).zip([one, two]) {
        let mut bytes = part.to_vec();
        if how & MEND != 0 {
            mend_records(&mut bytes, number);
        }
        if number == 0 || !bytes.is_empty() {
            put(&disk, &segment_name(number), &bytes);
        }
    }
    if bounded(input, || Survey::of(&disk, SALT).map(|it| it.first_index())).is_err() {
        return;
    }
    let options = Options { segment_bytes: 4096, log_keep_bytes: 4096 };
    let Ok(found) = recover(&disk, SALT, &options) else { return };
    let told = (found.hard_state, found.tail, found.configurations, found.commit_index);
    drop(found.log);
    // What a start has told is there after a power cut, and tells the same again.
    let again = recover(&disk.after_power_cut(), SALT, &options).expect("it was read before");
    assert_eq!((again.hard_state, again.tail, again.configurations, again.commit_index), told);
}

/// Puts the right checksums into a snapshot file, as far as its records follow each other.
fn mend_snapshot(bytes: &mut [u8]) {
    let word = |bytes: &[u8], at: usize| {
        let four = bytes.get(at..at + 4)?;
        Some(u32::from_le_bytes([four[0], four[1], four[2], four[3]]))
    };
    let Some(meta) = word(bytes, 28).map(|it| it as usize) else { return };
    let Some(head) = bytes.get(8..28).map(<[u8]>::to_vec) else { return };
    let Some(meta_bytes) = bytes.get(36..36_usize.saturating_add(meta)) else { return };
    let sum = crc32fast::hash(&[&head[..], meta_bytes].concat());
    bytes[32..36].copy_from_slice(&sum.to_le_bytes());
    let (mut at, mut count) = (36 + meta, 0_u64);
    while let Some(length) = word(bytes, at) {
        if length == u32::MAX {
            let sum = crc32fast::hash(&bytes[..at]);
            if let Some(trailer) = bytes.get_mut(at + 4..at + 16) {
                trailer[..8].copy_from_slice(&count.to_le_bytes());
                trailer[8..].copy_from_slice(&sum.to_le_bytes());
            }
            return;
        }
        let from = at + 8;
        let Some(record) = bytes.get(from..from.saturating_add(length as usize)) else { return };
        let sum = crc32fast::hash(record);
        bytes[at + 4..from].copy_from_slice(&sum.to_le_bytes());
        count += 1;
        at = from + length as usize;
    }
}

fn snapshot(input: &[u8]) {
    let (how, rest) = first(input);
    let mut bytes = rest.to_vec();
    if how & MEND != 0 {
        mend_snapshot(&mut bytes);
    }
    let disk = Memory::default();
    let file = put(&disk, "snap", &bytes);
    let read = || {
        let (head, start) = snapshot_file::read_head(&file, "snap")?;
        let mut records = 0;
        let mut count = |_: &[u8]| {
            records += 1;
            Ok(())
        };
        snapshot_file::scan(&file, "snap", start, &mut count)?;
        Ok::<_, raftq::storage::snapshot::SnapshotError>((head, start))
    };
    let Ok((head, start)) = bounded(input, read) else { return };
    assert_eq!(head.bytes, bytes.len() as u64);
    let mut restore = Restore::new();
    let mut push = |record: &[u8]| restore.push(record).map_err(|error| error.to_string());
    if snapshot_file::scan(&file, "snap", start, &mut push).is_ok() {
        drop(restore.finish());
    }
}

/// Builds a machine; reading one record may take no more than four times its bytes beside what is kept.
fn restored(records: &[Vec<u8>]) -> Result<Machine, ImageError> {
    let mut restore = Restore::new();
    for record in records {
        meter::transient(limit(record), || TEXT_BYTES * texts(record), || restore.push(record))?;
    }
    restore.finish()
}

fn image(input: &[u8]) {
    let mut records: Vec<Vec<u8>> = Vec::new();
    let mut rest = input;
    while let Some((length, more)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length)).min(more.len());
        let (record, after) = more.split_at(length);
        records.push(record.to_vec());
        rest = after;
    }
    let machine = match restored(&records) {
        Ok(machine) => machine,
        // Everything but the sum was right: the sum stands in the trailer's last bytes.
        Err(ImageError::Digest { restored: sum, .. }) => {
            if let Some(digest) = records.last_mut().and_then(|last| last.last_chunk_mut::<16>()) {
                *digest = sum.0.to_be_bytes();
            }
            let Ok(machine) = restored(&records) else { return };
            machine
        }
        Err(_) => return,
    };
    let written: Vec<Vec<u8>> = machine.records().collect();
    let again = restored(&written).expect("an image of a machine is one");
    assert_eq!(again.digest(), machine.digest());
    assert!(again.records().eq(written), "an image of an image is the same");
}

//! The vectors of `tests/wire/vectors.json`, good ones and bad ones, each end as the file says.

#[path = "wire/text.rs"]
mod text;

use bytes::BytesMut;
use raftq::wire::bulk::BulkMessage;
use raftq::wire::error::WireError;
use raftq::wire::frame::{BODY_BYTES_MAX, Frame, FrameCodec, FrameError, HELLO_BYTES_MAX};
use raftq::wire::hello::Hello;
use raftq::wire::message::{Code, Refusal, Reply, Request};
use raftq::wire::peer::PeerMessage;
use serde_json::Value;
use text::{diagnostic, hex, unhex};
use tokio_util::codec::{Decoder, Encoder};

/// What became of the bytes.
#[derive(Debug, PartialEq)]
enum End {
    /// A message, with our own encoding of it.
    Accepted(Frame),
    Skipped,
    Refused(String),
    Closed(String),
    Waiting,
}

fn receive(role: &str, bytes: &[u8]) -> (Option<Frame>, End) {
    let limit = if role == "hello" { HELLO_BYTES_MAX } else { BODY_BYTES_MAX };
    let mut buffer = BytesMut::from(bytes);
    let frame = match FrameCodec::new(limit).decode(&mut buffer) {
        Ok(Some(frame)) => frame,
        Ok(None) => return (None, End::Waiting),
        Err(error @ (FrameError::TooLarge { .. } | FrameError::Checksum { .. })) => {
            return (None, End::Closed(error.to_string()));
        }
        Err(other) => panic!("{other}"),
    };
    let again = match role {
        "hello" => Hello::from_frame(&frame).map(|hello| hello.to_frame(frame.corr)),
        "client" => Request::from_frame(&frame).map(|request| request.to_frame(frame.corr)),
        "reply" => Reply::from_frame(&frame).map(|reply| reply.to_frame(frame.corr)),
        "raft" => PeerMessage::from_frame(&frame).map(|message| message.to_frame()),
        "bulk" => BulkMessage::from_frame(&frame).map(|message| message.to_frame()),
        other => panic!("no role {other}"),
    };
    let end = match again {
        Ok(again) => End::Accepted(again),
        Err(error) if error.is_skippable() => End::Skipped,
        Err(error) => refused(role, error),
    };
    (Some(frame), end)
}

/// A client is answered; on the other connections a bad frame is the end.
fn refused(role: &str, error: WireError) -> End {
    let text = error.to_string();
    if role != "client" {
        return End::Closed(text);
    }
    let refusal = Refusal::from(error);
    assert_eq!((refusal.code, refusal.unknown), (Code::InvalidArgument, false));
    End::Refused(text)
}

fn check(vector: &Value) {
    let field = |key: &str| vector.get(key).and_then(Value::as_str).unwrap_or_default();
    let name = field("name");
    let bytes = unhex(field("hex"));
    let (frame, end) = receive(field("role"), &bytes);
    match (field("must"), end) {
        ("accept", End::Accepted(again)) => {
            let frame = frame.expect("an accepted frame");
            assert_eq!(diagnostic(&frame.body), field("body"), "{name}");
            let mut out = BytesMut::new();
            FrameCodec::new(BODY_BYTES_MAX).encode(&again, &mut out).expect("it fits");
            let reencodes = vector.get("reencodes").and_then(Value::as_bool);
            assert_eq!(reencodes, Some(hex(&out) == hex(&bytes)), "{name}: {}", hex(&out));
        }
        ("skip", End::Skipped) | ("wait", End::Waiting) => {}
        ("refuse", End::Refused(text)) | ("close", End::Closed(text)) => {
            let wanted = field("error");
            assert!(
                !wanted.is_empty() && text.contains(wanted),
                "{name}: {text:?}, not {wanted:?}"
            );
        }
        (must, end) => panic!("{name}: must {must}, and came to {end:?}"),
    }
}

#[test]
fn every_vector_ends_as_it_must() {
    let vectors: Vec<Value> =
        serde_json::from_str(include_str!("wire/vectors.json")).expect("the file is JSON");
    assert!(vectors.len() > 90, "only {} vectors", vectors.len());
    vectors.iter().for_each(check);
}

//! Bytes cut into lines of text, with every length bounded; no socket in it.

use crate::net::sniff;

/// Bytes of one line, at most; a longer one ends the connection with `ERR LINE_TOO_LONG`.
pub const LINE_BYTES_MAX: usize = 4096;

/// What came next on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// A line, without its end.
    Line(Vec<u8>),
    /// Nothing more: the other end has closed its side, or has said nothing for a while.
    Nothing,
    /// More bytes than a line may have, and no end of it.
    TooLong,
}

/// Takes the next line out of what has been received; `None` until there is one. At the end of the input
/// the last line may lack its newline.
pub fn cut(received: &mut Vec<u8>, is_eof: bool) -> Option<Next> {
    if let Some(end) = received.iter().position(|byte| *byte == b'\n') {
        let rest = received.split_off(end + 1);
        let mut line = std::mem::replace(received, rest);
        line.pop();
        let is_too_long = line.len() > LINE_BYTES_MAX;
        return Some(if is_too_long { Next::TooLong } else { Next::Line(line) });
    }
    if received.len() > LINE_BYTES_MAX {
        return Some(Next::TooLong);
    }
    if !is_eof {
        return None;
    }
    let line = std::mem::take(received);
    Some(if line.is_empty() { Next::Nothing } else { Next::Line(line) })
}

/// Reads a line as text, without telnet's negotiation and the space around it; `None` if it is no text.
#[must_use]
pub fn text(line: &[u8]) -> Option<String> {
    let text = String::from_utf8(sniff::without_telnet(line)).ok()?;
    let is_plain = !text.chars().any(|c| c.is_control() && !c.is_whitespace());
    is_plain.then(|| text.trim().to_owned())
}

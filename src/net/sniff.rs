//! What a connection speaks, told by its first byte or its first line; nothing else is guessed.

/// What the first byte of a connection announces (`wire-spec.md`, first byte).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// Our preamble, then frames.
    Frames,
    /// A line of text: a command, or a request of HTTP.
    Text,
    /// Anything else: closed without a word, and counted.
    Noise,
}

/// Tells what a first byte announces. 0xC1 is never used in MessagePack and no part of UTF-8;
/// 0xFF is how telnet begins to negotiate, and is stripped from text.
#[must_use]
pub fn opening(first: u8) -> Opening {
    match first {
        0xC1 => Opening::Frames,
        b'\r' | b'\n' | b'\t' | 0x20..=0x7E | 0xFF => Opening::Text,
        0x00..=0x1F | 0x7F..=0xC0 | 0xC2..=0xFE => Opening::Noise,
    }
}

/// Tells whether a first line is a request of HTTP rather than a command: an upper-case method, then
/// a path or `*`. No command takes an argument that begins so.
#[must_use]
pub fn is_http(line: &[u8]) -> bool {
    let mut words = line.splitn(2, |byte| *byte == b' ');
    let (Some(method), Some(rest)) = (words.next(), words.next()) else { return false };
    let is_method = !method.is_empty() && method.iter().all(u8::is_ascii_uppercase);
    is_method && (rest.starts_with(b"/") || rest.starts_with(b"*") || has_version(rest))
}

fn has_version(rest: &[u8]) -> bool {
    let trimmed = rest.strip_suffix(b"\r").unwrap_or(rest);
    let version = trimmed.rsplitn(2, |byte| *byte == b' ').next().unwrap_or_default();
    version.starts_with(b"HTTP/")
}

/// Strips telnet's negotiation from a line: `IAC` and its command, and the option of `WILL`, `WONT`,
/// `DO` and `DONT`. An escaped 0xFF (`IAC IAC`) goes too: no command has one.
#[must_use]
pub fn without_telnet(line: &[u8]) -> Vec<u8> {
    const IAC: u8 = 0xFF;
    const WILL: u8 = 0xFB;
    const DONT: u8 = 0xFE;
    let mut plain = Vec::with_capacity(line.len());
    let mut bytes = line.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != IAC {
            plain.push(byte);
            continue;
        }
        if bytes.next().is_some_and(|command| (WILL..=DONT).contains(&command)) {
            let _option: Option<u8> = bytes.next();
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_first_byte_has_one_meaning() {
        for byte in 0..=255 {
            let expected = match byte {
                0xC1 => Opening::Frames,
                0xFF | 9 | 10 | 13 | 32..=126 => Opening::Text,
                _ => Opening::Noise,
            };
            assert_eq!(opening(byte), expected, "{byte:#04x}");
        }
    }

    #[test]
    fn http_is_told_from_commands() {
        for line in [
            "GET / HTTP/1.1\r",
            "HEAD /metrics HTTP/1.0",
            "POST /x HTTP/1.1",
            "GET /",
            "PRI * HTTP/2.0",
        ] {
            assert!(is_http(line.as_bytes()), "{line}");
        }
        for line in
            ["status", "STATUS", "JOBS queue=mail", "get /x", "", " /", "JOB 0192", "CONNECT a:1"]
        {
            assert!(!is_http(line.as_bytes()), "{line}");
        }
        assert!(is_http(b"CONNECT a:1 HTTP/1.1"));
    }

    #[test]
    fn telnet_negotiation_is_stripped() {
        assert_eq!(without_telnet(b"\xff\xfd\x03status"), b"status");
        assert_eq!(without_telnet(b"st\xff\xf1atus"), b"status");
        assert_eq!(without_telnet(b"\xff\xf4\xff\xfd\x06"), b"");
        assert_eq!(without_telnet(b"status\xff"), b"status");
    }
}

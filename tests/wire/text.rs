//! Bytes as people read them: hexadecimal digits, and MessagePack as JSON.

use raftq::pack::{Reader, Token};

/// Reads hexadecimal digits, whatever space or bar stands between them.
pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| !c.is_whitespace() && *c != '|')
        .map(|c| u8::try_from(c.to_digit(16).expect("a hexadecimal digit")).expect("below 16"))
        .collect();
    assert!(digits.len().is_multiple_of(2), "an odd number of digits: {text}");
    digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes MessagePack as JSON with `h'..'` for bytes; an empty body is `{}`.
pub(crate) fn diagnostic(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "{}".into();
    }
    let mut reader = Reader::new(bytes);
    let text = value(&mut reader);
    assert_eq!(reader.left(), 0, "bytes follow the value");
    text
}

fn value(reader: &mut Reader<'_>) -> String {
    match reader.token().expect("well formed") {
        Token::Nil => "null".into(),
        Token::Bool(flag) => flag.to_string(),
        Token::Unsigned(number) => number.to_string(),
        Token::Negative(number) => number.to_string(),
        Token::Text(text) => format!("{text:?}"),
        Token::Bytes(bytes) => format!("h'{}'", hex(bytes)),
        Token::Array(count) => {
            let items: Vec<String> = (0..count).map(|_| value(reader)).collect();
            format!("[{}]", items.join(", "))
        }
        Token::Map(count) => {
            let pairs: Vec<String> =
                (0..count).map(|_| format!("{}: {}", value(reader), value(reader))).collect();
            format!("{{{}}}", pairs.join(", "))
        }
    }
}

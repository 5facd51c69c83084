//! A text looked for in what jobs are, upper and lower case alike.

/// Bytes of a text that is looked for, at most; a longer one is refused.
pub const TEXT_BYTES_MAX: usize = 256;

/// A text to look for: not empty, at most [`TEXT_BYTES_MAX`] bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// In lower case.
    wanted: String,
}

impl Text {
    /// Takes a text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self { wanted: text.to_lowercase() }
    }

    /// Tells whether it is in these words, which are separated by zero bytes; it may go on from one word to the next,
    /// with a space between them.
    #[must_use]
    pub fn is_in_words(&self, words: &[u8]) -> bool {
        self.is_in(words, b' ')
    }

    /// Tells whether it is in a payload; one that is no UTF-8 holds no text.
    #[must_use]
    pub fn is_in_payload(&self, payload: &[u8]) -> bool {
        self.is_in(payload, 0)
    }

    /// Looks for it, with zero bytes taken for `gap`.
    fn is_in(&self, bytes: &[u8], gap: u8) -> bool {
        let Ok(text) = std::str::from_utf8(bytes) else { return false };
        if !self.wanted.is_ascii() {
            let gap = char::from(gap).to_string();
            return text.to_lowercase().replace('\0', &gap).contains(&self.wanted);
        }
        let wanted = self.wanted.as_bytes();
        bytes.windows(wanted.len().max(1)).any(|window| {
            let shown = window.iter().map(|byte| if *byte == 0 { gap } else { *byte });
            shown.map(|byte| byte.to_ascii_lowercase()).eq(wanted.iter().copied())
        })
    }
}

/// Says why this is no text to look for, in words for the one who asked.
#[must_use]
pub fn fault(text: &str) -> Option<String> {
    match text.len() {
        0 => Some("an empty text is in every job: leave it out".into()),
        len if len > TEXT_BYTES_MAX => {
            Some(format!("a text of {len} bytes to look for; at most {TEXT_BYTES_MAX}"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_found_in_any_case_and_over_words() {
        let words = b"sh\0-c\0echo Gr\xc3\xbc\xc3\x9fE".as_slice();
        for text in ["ECHO", "sh -c", "-C Echo", "gr\u{fc}\u{df}e", "GR\u{dc}", "h"] {
            assert!(Text::new(text).is_in_words(words), "{text}");
        }
        for text in ["shc", "echo  ", "gruss", "sh\0-c"] {
            assert!(!Text::new(text).is_in_words(words), "{text:?}");
        }
        assert!(Text::new("B").is_in_payload(b"abc"));
        assert!(!Text::new("a b").is_in_payload(b"a\0b"), "a payload has no words");
        assert!(!Text::new("a").is_in_payload(b"a\xff"), "no UTF-8");
        assert!(!Text::new("abc").is_in_payload(b"ab"), "longer than all there is");
    }
}

//! A line on stderr about something that takes its time: one that changes at a terminal, a few elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use crate::cli::exit::narrate;
use crate::node::clock;

/// The time from one line to the next where stderr is no terminal, at least.
const PAUSE: Duration = Duration::from_secs(5);

/// What goes to the start of a terminal's line and empties it.
const EMPTY_LINE: &str = "\r\u{1b}[K";

/// The line. It is taken away when this is dropped: what comes after it says how things ended.
#[derive(Debug)]
pub struct Progress {
    is_terminal: bool,
    /// What was said last, and when.
    said: Option<(String, Duration)>,
}

impl Default for Progress {
    fn default() -> Self {
        Self { is_terminal: io::stderr().is_terminal(), said: None }
    }
}

impl Progress {
    /// Says how far things are.
    pub fn show(&mut self, text: &str) {
        let now = clock::monotonic();
        if let Some((said, at)) = &self.said
            && (said == text || (!self.is_terminal && now.saturating_sub(*at) < PAUSE))
        {
            return;
        }
        if self.is_terminal {
            let mut stderr = io::stderr().lock();
            // A closed stderr is no reason to stop.
            write!(stderr, "{EMPTY_LINE}raftq: {text}").and_then(|()| stderr.flush()).ok();
        } else {
            narrate(&format!("raftq: {text}"));
        }
        self.said = Some((text.to_owned(), now));
    }

    /// Says something that stays.
    pub fn remark(&mut self, text: &str) {
        self.clear();
        narrate(&format!("raftq: {text}"));
    }

    fn clear(&mut self) {
        if self.is_terminal && self.said.take().is_some() {
            write!(io::stderr().lock(), "{EMPTY_LINE}").ok();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

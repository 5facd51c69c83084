//! A terminal's screen that is drawn anew again and again, and given back as it was.

use std::io::{Write, stdout};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cli::exit::{Exit, Failure};

/// Rows of a terminal that does not say how many it has.
const ROWS_DEFAULT: usize = 24;

/// A screen of its own, and no cursor: what was there before is kept by the terminal.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";

/// The screen as it was, and the cursor.
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// To the upper left corner.
const HOME: &str = "\x1b[H";

/// Clears what a longer line before has left.
const CLEAR_LINE: &str = "\x1b[K";

/// Clears what a longer list before has left.
const CLEAR_REST: &str = "\x1b[J";

/// Writes lines over those of the screen before.
#[must_use]
pub fn page(lines: &[String]) -> String {
    let lines: Vec<String> = lines.iter().map(|it| format!("{it}{CLEAR_LINE}\n")).collect();
    format!("{HOME}{}{CLEAR_REST}", lines.concat())
}

/// Returns how many rows the terminal has.
#[must_use]
pub fn rows() -> usize {
    let size = rustix::termios::tcgetwinsize(stdout());
    size.ok().map(|size| usize::from(size.ws_row)).filter(|it| *it > 0).unwrap_or(ROWS_DEFAULT)
}

/// A screen of its own, as long as this lives; a signal gives the terminal back as well.
#[derive(Debug)]
pub struct Screen;

impl Screen {
    /// Takes the screen.
    ///
    /// # Errors
    /// A [`Failure`] when it cannot listen for signals, or of stdout.
    pub fn enter() -> Result<Self, Failure> {
        let failed =
            |error| Failure::new(Exit::Failure, format!("cannot listen for ctrl-c: {error}"));
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(failed)?;
        let listen = move || {
            if let Some(signal) = signals.forever().next() {
                // Nobody writes any more from here on: the lock is kept to the end.
                let mut stdout = stdout().lock();
                stdout.write_all(LEAVE.as_bytes()).ok();
                stdout.flush().ok();
                let exit = if signal == SIGINT { Exit::Interrupted } else { Exit::Terminated };
                std::process::exit(i32::from(exit.code()));
            }
        };
        let thread = std::thread::Builder::new().name("screen signals".into()).spawn(listen);
        thread.map_err(failed)?;
        write(ENTER)?;
        Ok(Self)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        write(LEAVE).ok();
    }
}

fn write(text: &str) -> Result<(), Failure> {
    let mut stdout = stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|error| Failure::stdout(&error))
}

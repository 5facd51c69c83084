//! `list --watch`: the list anew every second, in place at a terminal, one table after the other elsewhere.

use std::io::{IsTerminal, Write, stdout};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::jobs::{ListArgs, pages, row, table};
use crate::cli::out::{Out, Table, moment, plain};
use crate::cli::session::Session;
use crate::node::clock;

/// The time from one list to the next.
const PAUSE: Duration = Duration::from_secs(1);

/// Rows of a terminal that does not say how many it has.
const ROWS_DEFAULT: usize = 24;

/// Rows that are not jobs: the head, the table's head, what there is more, and where the cursor stands.
const ROWS_AROUND: usize = 4;

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

/// Runs `list --watch`: it ends by a signal, or when nobody reads it any more.
///
/// # Errors
/// A [`Failure`] of stdout, or of a request where it is no terminal.
pub fn run(args: &ListArgs, session: &Session, out: &mut Out) -> Outcome {
    if session.json() {
        let text = "--watch shows tables; for a program, ask again and again: raftq list --json";
        return Err(Failure::usage(text));
    }
    if !stdout().is_terminal() {
        loop {
            let (mut table, _) = look(args, args.limit, session)?;
            table.write(out, true)?;
            out.line("")?;
            out.flush()?;
            std::thread::sleep(PAUSE);
        }
    }
    let _screen = Screen::enter()?;
    loop {
        let rows = rows().saturating_sub(ROWS_AROUND).max(1);
        let limit = args.limit.min(u64::try_from(rows).unwrap_or(u64::MAX));
        // A cluster that does not answer for a moment is what a watch is for: it says so, and goes on.
        let shown = look(args, limit, session);
        out.bytes(screen(shown)?.as_bytes())?;
        out.flush()?;
        std::thread::sleep(PAUSE);
    }
}

/// Asks for the list, and whether there is more of it.
fn look(args: &ListArgs, limit: u64, session: &Session) -> Result<(Table, bool), Failure> {
    let mut table = table();
    let next = pages(args, limit, session, |jobs| {
        jobs.iter().for_each(|job| table.row(row(job)));
        Ok(())
    })?;
    Ok((table, next.is_some()))
}

/// Writes one screen.
fn screen(shown: Result<(Table, bool), Failure>) -> Result<String, Failure> {
    let mut lines = vec![format!("{}, every second; ctrl-c ends it", moment(clock::wall()))];
    match shown {
        Ok((mut table, more)) => {
            lines.extend(table.lines());
            lines.extend(more.then(|| "and more".to_owned()));
        }
        Err(failure) if failure.exit == Exit::Usage => return Err(failure),
        Err(failure) => lines.push(plain(&failure.message)),
    }
    let lines: Vec<String> = lines.into_iter().map(|it| format!("{it}{CLEAR_LINE}\n")).collect();
    Ok(format!("{HOME}{}{CLEAR_REST}", lines.concat()))
}

/// Returns how many rows the terminal has.
fn rows() -> usize {
    let size = rustix::termios::tcgetwinsize(stdout());
    size.ok().map(|size| usize::from(size.ws_row)).filter(|it| *it > 0).unwrap_or(ROWS_DEFAULT)
}

/// A screen of its own, as long as this lives; a signal gives the terminal back as well.
struct Screen;

impl Screen {
    fn enter() -> Result<Self, Failure> {
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
        let thread = std::thread::Builder::new().name("watch signals".into()).spawn(listen);
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

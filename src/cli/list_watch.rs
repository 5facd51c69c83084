//! `list --watch`: the list anew every second, in place at a terminal, one table after the other elsewhere.

use std::io::{IsTerminal, stdout};
use std::time::Duration;

use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::jobs::{ListArgs, pages, row, table};
use crate::cli::out::{Out, Table, moment, plain};
use crate::cli::screen::{self, Screen};
use crate::cli::session::Session;
use crate::node::clock;

/// The time from one list to the next.
const PAUSE: Duration = Duration::from_secs(1);

/// Rows that are not jobs: the head, the table's head, what there is more, and where the cursor stands.
const ROWS_AROUND: usize = 4;

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
        let rows = screen::rows().saturating_sub(ROWS_AROUND).max(1);
        let limit = args.limit.min(u64::try_from(rows).unwrap_or(u64::MAX));
        // A cluster that does not answer for a moment is what a watch is for: it says so, and goes on.
        let shown = look(args, limit, session);
        out.bytes(self::shown(shown)?.as_bytes())?;
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
fn shown(shown: Result<(Table, bool), Failure>) -> Result<String, Failure> {
    let mut lines = vec![format!("{}, every second; ctrl-c ends it", moment(clock::wall()))];
    match shown {
        Ok((mut table, more)) => {
            lines.extend(table.lines());
            lines.extend(more.then(|| "and more".to_owned()));
        }
        Err(failure) if failure.exit == Exit::Usage => return Err(failure),
        Err(failure) => lines.push(plain(&failure.message)),
    }
    Ok(screen::page(&lines))
}

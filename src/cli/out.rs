//! What goes to stdout: lines, bytes, JSON objects and aligned tables.

use std::fmt::Write as _;
use std::io::{self, BufWriter, Write};

use rustix::fs::{FileType, OFlags};
use serde::Serialize;

use crate::cli::exit::{Exit, Failure};
use crate::types::Millis;

/// The way to stdout, buffered; [`Out::flush`] before anything is waited for.
pub struct Out {
    sink: Box<dyn Write>,
}

impl Out {
    /// Opens stdout.
    #[must_use]
    pub fn stdout() -> Self {
        Self::to(Box::new(BufWriter::new(io::stdout())))
    }

    /// Writes to something else: tests read it back.
    #[must_use]
    pub fn to(sink: Box<dyn Write>) -> Self {
        Self { sink }
    }

    /// Writes a line.
    ///
    /// # Errors
    /// [`Failure::stdout`].
    pub fn line(&mut self, text: &str) -> Result<(), Failure> {
        writeln!(self.sink, "{text}").map_err(|error| Failure::stdout(&error))
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    /// [`Failure::stdout`].
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.sink.write_all(bytes).map_err(|error| Failure::stdout(&error))
    }

    /// Writes one JSON object on a line of its own.
    ///
    /// # Errors
    /// [`Failure::stdout`].
    pub fn json(&mut self, object: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(object).map_err(|error| {
            Failure::new(Exit::Failure, format!("cannot write the answer as JSON: {error}"))
        })?;
        self.line(&text)
    }

    /// Hands everything written so far to the operating system.
    ///
    /// # Errors
    /// [`Failure::stdout`].
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.sink.flush().map_err(|error| Failure::stdout(&error))
    }
}

/// Tells whether stdout was closed when the program began, as far as that can be seen: the runtime puts
/// `/dev/null`, open for reading and writing, in its place. A parent may have chosen just that, so
/// that it is no failure; what must not be lost is said on stderr as well.
#[must_use]
pub fn stdout_may_be_closed() -> bool {
    let stdout = rustix::stdio::stdout();
    let is_null = rustix::fs::fstat(stdout).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && rustix::fs::stat("/dev/null").is_ok_and(|null| null.st_rdev == stat.st_rdev)
    });
    let mode = rustix::fs::fcntl_getfl(stdout).map(|flags| flags & OFlags::ACCMODE);
    is_null && mode == Ok(OFlags::RDWR)
}

/// Rows under a header, aligned. Cells hold what others wrote, so that nothing in them can move the
/// cursor: see [`plain`].
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

/// One column's head and how its cells stand.
#[derive(Clone, Copy, Debug)]
pub enum Column {
    /// Words: aligned left.
    Left(&'static str),
    /// Numbers: aligned right.
    Right(&'static str),
}

impl Column {
    fn head(self) -> &'static str {
        match self {
            Self::Left(head) | Self::Right(head) => head,
        }
    }
}

impl Table {
    /// Starts a table.
    #[must_use]
    pub fn new(columns: &[Column]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row, a cell for each column; an empty cell is shown as `-`.
    pub fn row(&mut self, cells: Vec<String>) {
        let shown = |cell: String| if cell.is_empty() { "-".into() } else { plain(&cell) };
        self.rows.push(cells.into_iter().map(shown).collect());
    }

    /// Writes the rows, after the header if `with_header`, and forgets them: a long list is written
    /// page by page, each aligned for itself.
    ///
    /// # Errors
    /// [`Failure::stdout`].
    pub fn write(&mut self, out: &mut Out, with_header: bool) -> Result<(), Failure> {
        let skipped = usize::from(!with_header);
        self.lines().iter().skip(skipped).try_for_each(|line| out.line(line))
    }

    /// Renders the rows under the header, and forgets them.
    #[must_use]
    pub fn lines(&mut self) -> Vec<String> {
        let rows = std::mem::take(&mut self.rows);
        let widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(at, column)| {
                let cells =
                    rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
                cells.chain([column.head().len()]).max().unwrap_or_default()
            })
            .collect();
        let heads: Vec<String> = self.columns.iter().map(|column| column.head().into()).collect();
        [&heads].into_iter().chain(&rows).map(|row| self.render(row, &widths)).collect()
    }

    fn render(&self, cells: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for ((cell, column), &width) in cells.iter().zip(&self.columns).zip(widths) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            match column {
                Column::Left(_) => write!(line, "{cell:<width$}"),
                Column::Right(_) => write!(line, "{cell:>width$}"),
            }
            .ok();
        }
        line.truncate(line.trim_end().len());
        line
    }
}

/// Replaces what would move a terminal's cursor (control characters) by `?`.
#[must_use]
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Shows an optional value, or nothing.
#[must_use]
pub fn or_nothing(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// Writes a moment as UTC, `2026-11-23T05:46:01.250Z`; the log's epoch (0) as nothing.
#[must_use]
pub fn moment(at: Millis) -> String {
    if at.0 == 0 {
        return String::new();
    }
    let (days, ms_of_day) = (at.0 / 86_400_000, at.0 % 86_400_000);
    let (hour, minute) = (ms_of_day / 3_600_000, ms_of_day / 60_000 % 60);
    let (second, ms) = (ms_of_day / 1000 % 60, ms_of_day % 1000);
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// Turns days since 1970-01-01 into year, month and day of the Gregorian calendar: eras of 400
/// years, each counted from a 1st of March, so that the leap day is the last of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_print_as_utc() {
        assert_eq!(moment(Millis(1)), "1970-01-01T00:00:00.001Z");
        assert_eq!(moment(Millis(951_827_696_250)), "2000-02-29T12:34:56.250Z");
        assert_eq!(moment(Millis(4_107_542_399_999)), "2100-02-28T23:59:59.999Z");
        assert_eq!(moment(Millis(4_107_542_400_000)), "2100-03-01T00:00:00.000Z");
        assert_eq!(moment(Millis(0)), "");
    }

    #[test]
    fn cells_cannot_move_the_cursor() {
        assert_eq!(plain("a\u{1b}[2Jb\r\nc"), "a?[2Jb??c");
    }
}

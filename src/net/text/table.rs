//! Columns that line up, and `key=value` lines, in plain ASCII.

/// Characters of one cell, at most; what is longer is cut and marked.
const CELL_CHARS_MAX: usize = 64;

/// A table on its way: rows of cells, each column as wide as its widest cell.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Begins a table with its head.
    #[must_use]
    pub fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(ToString::to_string).collect()] }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.iter().map(|cell| plain(cell, CELL_CHARS_MAX)).collect());
    }

    /// Writes the table; the last column is not padded.
    #[must_use]
    pub fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:<width$}  "));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Writes one `key=value` line a pair; a value with a space is quoted.
#[must_use]
pub fn pairs(pairs: &[(&str, String)]) -> String {
    pairs.iter().map(|(key, value)| format!("{key}={}\n", quoted(value))).collect()
}

fn quoted(value: &str) -> String {
    let value = plain(value, usize::MAX);
    if value.contains([' ', '"']) { format!("\"{}\"", value.replace('"', "'")) } else { value }
}

/// Makes a text safe for a terminal: control characters become dots, and what is too long is cut.
#[must_use]
pub fn plain(text: &str, chars_max: usize) -> String {
    let shown: String =
        text.chars().take(chars_max).map(|c| if c.is_control() { '.' } else { c }).collect();
    if text.chars().nth(chars_max).is_some() { format!("{shown}~") } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["ID", "ADDR"]);
        table.row(vec!["1".into(), "127.0.0.1:7101".into()]);
        table.row(vec!["10000".into(), String::new()]);
        assert_eq!(table.render(), "ID     ADDR\n1      127.0.0.1:7101\n10000\n");
    }

    #[test]
    fn values_cannot_forge_lines_or_colours() {
        assert_eq!(
            pairs(&[("a", "x\nOK".into()), ("b", "two words".into())]),
            "a=x.OK\nb=\"two words\"\n"
        );
        assert_eq!(plain("\u{1b}[31mred", 4), ".[31~");
    }
}

//! What an answer looks like.

use serde_json::Value;

/// The same answer for people and for programs.
pub(super) struct Answer {
    pub(super) table: Table,
    pub(super) json: Value,
}

/// Columns as wide as their widest cell.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(head: &[&str]) -> Table {
        Table { rows: vec![head.iter().map(|h| (*h).to_owned()).collect()] }
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [&(impl AsRef<str> + ?Sized); N]) {
        self.rows.push(cells.iter().map(|c| c.as_ref().to_owned()).collect());
    }

    pub(super) fn print(&self) {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |c: usize| {
            self.rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let line: Vec<String> = row.iter().zip(&widths).map(|(cell, w)| format!("{cell:<w$}")).collect();
            println!("{}", line.join("  ").trim_end());
        }
    }
}

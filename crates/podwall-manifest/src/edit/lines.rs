//! Where in a text are its lines, and where does a block of them end?
//!
//! ```text
//!   2 │ ingress:
//!   3 │ - from:        ◀── dash, column
//!   4 │   - a          ◀── still the item: indented deeper
//!   5 │ egress: []     ◀── no longer
//! ```

use std::ops::Range;

use crate::text::At;

/// A text by lines.
pub(super) struct Lines<'t> {
    pub(super) text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, starts: crate::text::line_starts(text) }
    }

    pub(super) fn start(&self, line: u32) -> Option<usize> {
        self.starts.get((line as usize).checked_sub(1)?).copied()
    }

    /// The byte after the last of a line, its line break left out.
    pub(super) fn end(&self, line: u32) -> Option<usize> {
        Some(self.start(line)? + self.line(line)?.len())
    }

    pub(super) fn line(&self, number: u32) -> Option<&'t str> {
        let start = self.start(number)?;
        let end = self.starts.get(number as usize).copied().unwrap_or(self.text.len());
        Some(self.text.get(start..end)?.trim_end_matches(['\n', '\r'])).filter(|line| {
            // After the last line break there is no line more.
            !(line.is_empty() && start == self.text.len())
        })
    }

    /// The bytes of a place.
    pub(super) fn range(&self, at: At) -> Option<Range<usize>> {
        let start = self.start(at.line)?;
        let line = self.line(at.line)?;
        let byte = |column: u32| {
            let column = column as usize;
            line.char_indices().nth(column).map_or(line.len(), |(byte, _)| byte)
        };
        let first = byte(at.column.checked_sub(1)?);
        let last = byte(at.column - 1 + at.length);
        Some(start + first..start + last)
    }

    pub(super) fn starts_with(&self, at: At, sign: char) -> bool {
        let range = self.range(at);
        range.and_then(|range| self.text.get(range.start..)).is_some_and(|t| t.starts_with(sign))
    }

    /// Where the `-` of a list's item stands, if nothing else is before the item on its line.
    pub(super) fn dash(&self, at: At) -> Option<usize> {
        let (start, item) = (self.start(at.line)?, self.range(at)?.start);
        let before = self.text.get(start..item)?;
        let dash = before.find('-')?;
        (before.trim_matches(' ') == "-").then_some(start + dash)
    }

    pub(super) fn newline(&self) -> &'static str {
        if self.text.contains("\r\n") { "\r\n" } else { "\n" }
    }
}

/// The column, from 0, of a key that begins its line or a list's item.
pub(super) fn key_column(lines: &Lines<'_>, key: At) -> Option<usize> {
    let before = lines.text.get(lines.start(key.line)?..lines.range(key)?.start)?;
    before.chars().all(|c| c == ' ' || c == '-').then_some(before.len())
}

/// Where what begins on a line ends: it goes on for as long as lines are indented this deep.
pub(super) fn end_of_block(lines: &Lines<'_>, first: u32, indent: usize) -> Option<usize> {
    let mut end = lines.end(first)?;
    let mut number = first + 1;
    while let Some(line) = lines.line(number) {
        let content = line.trim_start_matches(' ');
        let blank = content.trim().is_empty();
        let comment = content.starts_with('#');
        if !blank && !comment && line.len() - content.len() < indent {
            break;
        }
        if !blank && !comment {
            end = lines.end(number)?;
        }
        number += 1;
    }
    Some(end)
}

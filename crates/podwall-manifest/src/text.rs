//! Which line of which file is that?
//!
//! ```text
//!   Text "web.yaml"          documents()                At { line 12, column 3, length 7 }
//!   ┌───────────────┐        ┌─────────┐ line 1                     │
//!   │ kind: A       │  ───▶  │ kind: A │                            ▼
//!   │ ---           │        └─────────┘                 Place: file, line, column,
//!   │ kind: B       │        ┌─────────┐ line 2                 the line's own text
//!   └───────────────┘        │ kind: B │
//!                            └─────────┘
//! ```

use std::sync::{Arc, OnceLock};

use podwall_policy::source::Source;

use crate::diagnostic::Place;

/// Lines longer than this are cut in diagnostics, and not shown if the place lies beyond.
const LONGEST_LINE: usize = 2_000;

/// A stretch of a line: where a key or a value stands. Line 0: nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct At {
    /// From 1.
    pub(crate) line: u32,
    /// In characters, from 1.
    pub(crate) column: u32,
    /// In characters.
    pub(crate) length: u32,
}

/// One file's name and content, which belongs to the run for as long as that file is read.
#[derive(Debug)]
pub(crate) struct Text<'t> {
    pub(crate) name: Arc<str>,
    pub(crate) text: &'t str,
    /// It was looked for, not named: it may be no manifest.
    pub(crate) found: bool,
    /// The byte offset of each line's start; made when the first finding needs it.
    starts: OnceLock<Vec<usize>>,
}

/// A document's part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part<'t> {
    pub(crate) text: &'t str,
    /// How many lines of the file come before it.
    pub(crate) lines_before: u32,
}

impl<'t> Text<'t> {
    pub(crate) fn new(name: Arc<str>, text: &'t str) -> Self {
        Self { name, text, found: false, starts: OnceLock::new() }
    }

    /// The same, that was found and not named.
    pub(crate) fn found(self, found: bool) -> Self {
        Self { found, ..self }
    }

    pub(crate) fn source(&self, at: At) -> Source {
        Source::new(self.name.clone(), at.line, at.column)
    }

    pub(crate) fn place(&self, at: At) -> Place {
        let end = at.column as usize + at.length as usize;
        let text = self
            .line(at.line)
            .filter(|_| end <= LONGEST_LINE)
            .map(|line| line.chars().take(LONGEST_LINE).map(visible).collect::<String>().into());
        Place { source: self.source(at), length: at.length.max(1), text }
    }

    /// The characters at a place, for messages that quote what the author wrote.
    pub(crate) fn quote(&self, at: At) -> Option<String> {
        // Far out in a long line counting characters for each of many findings would take for ever.
        if at.column as usize > LONGEST_LINE {
            return None;
        }
        let line = self.line(at.line)?;
        let skip = at.column.saturating_sub(1) as usize;
        Some(line.chars().skip(skip).take(at.length.min(80) as usize).map(visible).collect())
    }

    fn line(&self, number: u32) -> Option<&'t str> {
        let index = (number as usize).checked_sub(1)?;
        let starts = self.starts.get_or_init(|| line_starts(self.text));
        let start = *starts.get(index)?;
        let end = starts.get(index + 1).copied().unwrap_or(self.text.len());
        self.text.get(start..end).map(|line| line.trim_end_matches(['\n', '\r']))
    }

    /// The documents of a YAML text. A line that starts with `---` always starts one, even in the
    /// middle of a quoted or literal text (YAML 1.2, 9.1.2), so an error in one document cannot
    /// reach into the next.
    pub(crate) fn documents(&self) -> Vec<Part<'t>> {
        let mut parts = Vec::new();
        let (mut start, mut line, mut first_line) = (0, 0, 0);
        let mut position = 0;
        for piece in self.text.split_inclusive('\n') {
            if is_marker(piece) && position > start {
                let before = &self.text[start..position];
                if !is_directives(before) {
                    parts.push(Part { text: before, lines_before: first_line });
                    (start, first_line) = (position, line);
                }
            }
            position += piece.len();
            line += breaks(piece);
        }
        parts.push(Part { text: &self.text[start..], lines_before: first_line });
        parts
    }
}

/// Characters that could change how a terminal shows the rest are replaced, one for one.
pub(crate) fn visible(c: char) -> char {
    match c {
        '\u{80}'..='\u{9f}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{2069}'
        | '\u{feff}' => char::REPLACEMENT_CHARACTER,
        _ => c,
    }
}

/// Line breaks as YAML counts them: LF, CR LF, and CR alone.
fn breaks(text: &str) -> u32 {
    let bytes = text.as_bytes();
    let lone = |i: usize| bytes[i] == b'\r' && bytes.get(i + 1) != Some(&b'\n');
    let cr = if bytes.len() > 1 && bytes[..bytes.len() - 1].contains(&b'\r') {
        (0..bytes.len()).filter(|i| lone(*i)).count()
    } else {
        0
    };
    u32::try_from(cr).unwrap_or(u32::MAX) + u32::from(text.ends_with('\n'))
}

pub(crate) fn line_starts(text: &str) -> Vec<usize> {
    let bytes = text.as_bytes();
    let mut starts = vec![0];
    for (i, byte) in bytes.iter().enumerate() {
        if *byte == b'\n' || (*byte == b'\r' && bytes.get(i + 1) != Some(&b'\n')) {
            starts.push(i + 1);
        }
    }
    starts
}

fn is_marker(line: &str) -> bool {
    line.strip_prefix("---")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Whether this is nothing but `%YAML`/`%TAG` lines (and comments), which belong to the document
/// after the marker.
fn is_directives(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    let mut any = false;
    lines.all(|line| {
        any = true;
        line.starts_with('%')
    }) && any
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<(&str, u32)> {
        let text = Text::new("x".into(), text);
        text.documents().into_iter().map(|p| (p.text, p.lines_before)).collect()
    }

    #[test]
    fn a_line_of_three_dashes_starts_a_document() {
        assert_eq!(split("a: 1\n---\nb: 2\n"), [("a: 1\n", 0), ("---\nb: 2\n", 1)]);
        assert_eq!(split("---\na: 1\n--- # x\n"), [("---\na: 1\n", 0), ("--- # x\n", 2)]);
        assert_eq!(split("a: ---\n ---\n---x\n"), [("a: ---\n ---\n---x\n", 0)]);
        assert_eq!(split("a: 1\r\n---\r\nb: 2"), [("a: 1\r\n", 0), ("---\r\nb: 2", 1)]);
        assert_eq!(split(""), [("", 0)]);
    }

    #[test]
    fn directives_belong_to_the_document_after_them() {
        assert_eq!(split("%YAML 1.1\n---\na: 1\n"), [("%YAML 1.1\n---\na: 1\n", 0)]);
    }

    #[test]
    fn a_place_carries_its_line() {
        let text = Text::new("x.yaml".into(), "a: 1\r\nb: é2\r\n");
        let place = text.place(At { line: 2, column: 4, length: 2 });
        assert_eq!(place.text.as_deref(), Some("b: é2"));
        assert_eq!(place.source.to_string(), "x.yaml:2:4");
        assert_eq!(text.quote(At { line: 2, column: 4, length: 2 }).as_deref(), Some("é2"));
        assert_eq!(text.place(At { line: 9, column: 1, length: 1 }).text, None);
    }
}

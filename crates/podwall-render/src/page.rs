//! How does text get its lines?
//!
//! ```text
//!   Page ─ para(indent, hang, "words …") ─▶ lines of at most 80 columns, continued at `hang`
//! ```
//!
//! Text is always coloured; escape codes have no width. Whoever writes it to a pipe strips them.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};

/// The columns that text is written for.
pub const WIDTH: usize = 80;

/// It passes.
pub const GOOD: Style = AnsiColor::Green.on_default().bold();
/// It does not.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// It is not known.
pub const UNSURE: Style = AnsiColor::Yellow.on_default().bold();
/// A heading.
pub const HEAD: Style = Style::new().bold();
/// What is good to have but not to be read first: positions, counts.
pub const FAINT: Style = Style::new().dimmed();

/// Text in a style.
pub fn paint(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// Text in a style, word by word, so that a style never crosses the end of a line.
pub fn paint_words(style: Style, text: &str) -> String {
    text.split_whitespace().map(|word| paint(style, word)).collect::<Vec<_>>().join(" ")
}

/// Text that grows by lines and paragraphs.
#[derive(Clone, Debug, Default)]
pub struct Page {
    text: String,
}

impl Page {
    /// The text.
    pub fn into_text(self) -> String {
        self.text
    }

    /// An empty line, unless there is one already or nothing at all yet.
    pub fn gap(&mut self) {
        if !self.text.is_empty() && !self.text.ends_with("\n\n") {
            self.text.push('\n');
        }
    }

    /// A line as it is, however long.
    pub fn line(&mut self, line: &str) {
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    /// A paragraph that starts after `lead` and goes on, where it is too long, at column `hang`.
    /// A word that is longer than the page stands on a line of its own.
    pub fn para(&mut self, lead: &str, hang: usize, words: &str) {
        let mut line = lead.to_owned();
        let mut at = width(lead);
        let mut fresh = true; // nothing but the lead or the indent on this line yet
        for word in words.split_whitespace() {
            let long = width(word);
            if !fresh && at + 1 + long > WIDTH {
                self.line(&line);
                line = " ".repeat(hang);
                at = hang;
                fresh = true;
            }
            if !fresh {
                line.push(' ');
                at += 1;
            }
            line.push_str(word);
            at += long;
            fresh = false;
        }
        self.line(&line);
    }

    /// A heading.
    pub fn heading(&mut self, words: &str) {
        self.gap();
        self.para("", 2, &paint_words(HEAD, words));
    }

    /// An item of a list.
    pub fn item(&mut self, indent: usize, words: &str) {
        let lead = format!("{}- ", " ".repeat(indent));
        self.para(&lead, indent + 2, words);
    }

    /// Adds formatted text without a line end.
    pub fn raw(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = self.text.write_fmt(text);
    }
}

/// The columns that a text takes on a terminal, escape codes left out.
pub fn width(text: &str) -> usize {
    let mut columns = 0;
    let mut escape = false;
    for c in text.chars() {
        match (escape, c) {
            (false, '\u{1b}') => escape = true,
            (false, _) => columns += 1,
            (true, 'm') => escape = false,
            (true, _) => {}
        }
    }
    columns
}

/// `text` filled up with spaces to `columns`.
pub fn pad(text: &str, columns: usize) -> String {
    let missing = columns.saturating_sub(width(text));
    format!("{text}{}", " ".repeat(missing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_have_no_width() {
        assert_eq!(width(&paint(GOOD, "yes")), 3);
        assert_eq!(width(&pad(&paint(BAD, "no"), 5)), 5);
    }

    #[test]
    fn no_line_is_wider_than_the_page_and_no_word_is_lost() {
        let words = "word ".repeat(40) + &paint(GOOD, "end");
        let mut page = Page::default();
        page.para("  - ", 4, &words);
        let text = page.into_text();
        assert!(text.lines().all(|line| width(line) <= WIDTH));
        assert!(text.lines().skip(1).all(|line| line.starts_with("    w") || line.ends_with('m')));
        assert_eq!(text.split_whitespace().filter(|w| *w == "word").count(), 40);
    }

    #[test]
    fn a_word_wider_than_the_page_is_not_cut() {
        let long = "x".repeat(100);
        let mut page = Page::default();
        page.para("", 0, &format!("a {long} b"));
        assert_eq!(page.into_text(), format!("a\n{long}\nb\n"));
    }
}

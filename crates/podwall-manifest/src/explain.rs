//! What does the YAML parser's complaint mean to the author of a manifest?
//!
//! ```text
//!   "mapping values are not allowed in this context"  →  a `:` cannot stand here
//!                                                        help: put the value in quotes …
//! ```
//!
//! The parser says what it expected; here it is said what was probably meant: a tab, a template that
//! was not rendered, a bracket left open, an item in the wrong column.

use saphyr_parser::ScanError;

use crate::diagnostic::Code;
use crate::text::{At, Part};
use crate::yaml::{Broken, DEEPEST, mark};

const RENDER_FIRST: &str = "render it first (`helm template`, `kustomize build`)";

/// An error in a line with double braces is most likely that of a template.
pub(crate) fn templated(broken: Broken, part: Part<'_>) -> Broken {
    let line = broken.at.line.saturating_sub(part.lines_before + 1) as usize;
    if broken.code == Code::Syntax && part.text.lines().nth(line).is_some_and(|l| l.contains("{{"))
    {
        return Broken::new(Code::Template, broken.at, "this looks like a template, not like YAML")
            .help(RENDER_FIRST);
    }
    broken
}

/// Says in a user's words what the parser stumbled over.
pub(crate) fn explain(error: &ScanError, part: Part<'_>) -> Broken {
    let at = mark(*error.marker(), part.lines_before);
    let line = part.text.lines().nth(error.marker().line().saturating_sub(1)).unwrap_or_default();
    let indent: String =
        line.chars().take_while(|c| c.is_whitespace()).take(error.marker().col() + 1).collect();
    if let Some(column) = indent.chars().position(|c| c == '\t') {
        let at = At { column: column as u32 + 1, length: 1, ..at };
        return Broken::new(Code::Tab, at, "a tab in the indentation")
            .help("YAML allows only spaces there; most editors can replace tabs by two spaces");
    }
    if line.contains("{{") || line.trim_start().starts_with("{%") {
        return Broken::new(Code::Template, at, "this looks like a template, not like YAML")
            .help(RENDER_FIRST);
    }
    let info = error.info();
    if info.contains("':' must be followed by") {
        let mut broken = Broken::new(Code::Tab, at, "a tab after `:`").help("write a space");
        broken.tab_after_colon = true;
        return broken;
    }
    let broken = |message: &str| Broken::new(Code::Syntax, at, message);
    if info.contains("recursion limit") {
        return Broken::new(Code::Limit, at, format!("nested more than {DEEPEST} levels deep"));
    }
    if info.contains("mapping values are not allowed") {
        return broken("a `:` cannot stand here").help(
            "put the value in quotes if it contains `: `, or correct the indentation of this line",
        );
    }
    if info.contains("quoted scalar") && info.contains("end of stream") {
        return broken("this quote is never closed");
    }
    if info.contains("unexpected character") || info.contains("unexpected end of plain scalar") {
        let what = line.chars().nth(error.marker().col()).unwrap_or(' ');
        return broken(&format!("a value cannot start with `{what}`"))
            .help("put the value in quotes");
    }
    if info.contains("did not find expected '-'") {
        return broken("expected another list item (`- `) or less indentation")
            .help("items of a list and keys of a mapping cannot stand at the same level");
    }
    if line.trim_start().starts_with("- ") && info.contains("did not find expected key") {
        return broken("a list item cannot stand here, among the keys of a mapping")
            .help("indent it like the other items of its list");
    }
    if info.contains("did not find expected key") {
        return broken("expected a key of the mapping, or less indentation")
            .help("keys of one mapping start in the same column");
    }
    if info.contains("simple key expect") || info.contains("could not find expected ':'") {
        return broken("expected `:` after this key")
            .help("write `key: value`; the line before may lack its `:`");
    }
    if info.contains("unknown anchor") {
        return broken("this alias has no anchor before it in the document")
            .help("put the value in quotes if the `*` belongs to it");
    }
    if info.contains("invalid indentation") || info.contains("indentation") {
        return broken("this line's indentation fits nothing before it")
            .help("a bracket may still be open before it, or the line starts in the wrong column");
    }
    match info.split_once("expected ',' or ") {
        Some((_, bracket)) => broken(&format!("expected `,` or `{}`", bracket.trim_matches('\''))),
        None => broken(info),
    }
}

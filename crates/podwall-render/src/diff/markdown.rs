//! A difference as a comment on a pull request.
//!
//! ```text
//!   ### Podwall: 2 connections appear           what a reviewer has to see
//!   | | from | to | ports | why |               new exposure
//!   <details> … </details>                      the rest, folded
//! ```
//!
//! The length is bounded: a comment that is too long is refused as a whole (GitHub takes 65,536
//! characters). What is left out is counted.

use super::{
    Group, Part, Told, counts, covers, exposures, future, missing, only_once, parts, ports,
    reasons, sign, totals,
};
use crate::words::{count, some};

/// The longest comment, in bytes.
const LONGEST: usize = 60_000;
/// What the end of a comment takes.
const RESERVED: usize = 2_000;
/// Names of one list that are shown.
const NAMES: usize = 6;
/// Reasons that are shown.
const REASONS: usize = 4;

/// The difference as Markdown with the HTML that GitHub and GitLab fold.
pub fn diff(told: &Told<'_, '_>) -> String {
    let counts = counts(told.difference);
    let nothing = told.difference.is_nothing();
    let title = if nothing { "no connection differs".to_owned() } else { totals(&counts) };
    let mut out = format!("### Podwall: {title}\n\n");
    if let Some(exposures) = exposures(&counts) {
        out += &format!("**{}**\n\n", text(&exposures));
    }
    out += &format!("`{}` → `{}`: {}.\n", code(&told.names[0]), code(&told.names[1]), covers(told));
    let mut left = 0;
    for part in &parts(told.difference) {
        left += add(&mut out, told, part);
    }
    if left > 0 {
        out += &format!(
            "\n{} more: too long for a comment; `podwall diff` prints everything.\n",
            count(left, "group")
        );
    }
    if nothing {
        let mut lines = future(told).into_iter();
        if let Some(first) = lines.next() {
            out += &format!("\n{}\n\n", text(&first));
        }
        lines.for_each(|line| out += &format!("- {}\n", text(&line)));
    }
    for note in &told.notes {
        out += &format!("\n> {}\n", text(note));
    }
    if !told.left_out.is_empty() {
        out += &format!("\n> left out: {}\n", text(&some(&told.left_out, NAMES)));
    }
    out
}

/// A part as a table; how many groups had no room.
fn add(out: &mut String, told: &Told<'_, '_>, part: &Part<'_>) -> usize {
    let summary = format!("{} ({})", part.title, part.groups.len());
    let (head, foot) = if part.exposes {
        (format!("\n#### {summary}\n\n"), "")
    } else {
        (format!("\n<details><summary>{summary}</summary>\n\n"), "\n</details>\n")
    };
    let table = "| | from | to | ports | why |\n|---|---|---|---|---|\n";
    let mut rows = String::new();
    let mut left = 0;
    for group in &part.groups {
        let row = row(told, group);
        let long = out.len() + head.len() + table.len() + rows.len() + row.len() + RESERVED;
        if left > 0 || long > LONGEST {
            left += 1;
        } else {
            rows += &row;
        }
    }
    if !rows.is_empty() {
        *out += &(head + table + &rows + foot);
    }
    left
}

fn row(told: &Told<'_, '_>, group: &Group<'_>) -> String {
    let rows = &told.difference.rows;
    let names = |list: &[usize]| {
        let names: Vec<String> = list.iter().map(|row| cut(&text(&rows[*row].label()))).collect();
        some(&names, NAMES)
    };
    let shift = &group.change.shift;
    let mut what = if shift.families.is_empty() {
        text(&ports(group.change.kind, &shift.all))
    } else {
        let differing = shift.families.iter().filter(|(_, shift)| !shift.is_nothing());
        let lines =
            differing.map(|(family, its)| format!("{family}: {}", ports(group.change.kind, its)));
        lines.map(|line| text(&line)).collect::<Vec<_>>().join("<br>")
    };
    if group.change.partly {
        what += " (some pods)";
    }
    let mut why = only_once(rows, group);
    let reasons = reasons(&group.why);
    why.extend(reasons.iter().take(REASONS).map(|(words, source)| match source {
        Some(source) => format!("{} `{}`", text(words), code(&source.to_string())),
        None => text(words),
    }));
    if reasons.len() > REASONS {
        why.push(format!("and {} more", reasons.len() - REASONS));
    }
    let missing = missing(&group.why);
    why.extend(missing.iter().take(REASONS).map(|fact| text(&format!("depends on {fact}"))));
    if missing.len() > REASONS {
        why.push(format!("and on {} more facts", missing.len() - REASONS));
    }
    let why: Vec<String> = why.iter().map(|line| cut(line)).collect();
    format!(
        "| {} | {} | {} | {} | {} |\n",
        text(sign(group.change.kind)),
        names(&group.src),
        names(&group.dst),
        cut(&what),
        why.join("<br>")
    )
}

/// Names come from manifests: nothing of them is markup, and none ends a cell.
fn text(words: &str) -> String {
    let mut out = String::with_capacity(words.len());
    for c in words.chars() {
        match c {
            '|' | '*' | '_' | '`' | '[' | ']' | '\\' | '~' | '#' | '+' => {
                out.push('\\');
                out.push(c);
            }
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '@' => out.push_str("&#64;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// What stands between back quotes, in a table too.
fn code(words: &str) -> String {
    let plain = |c: char| if c.is_control() || c == '`' || c == '|' { ' ' } else { c };
    words.chars().map(plain).collect()
}

/// Of something longer than any honest name its start.
fn cut(words: &str) -> String {
    const LONG: usize = 400;
    if words.chars().count() <= LONG {
        return words.to_owned();
    }
    words.chars().take(LONG).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_manifests_say_is_no_markup() {
        assert_eq!(text("a|b_c@d <x>"), "a\\|b\\_c&#64;d &lt;x&gt;");
        assert_eq!(code("a`b|c"), "a b c");
    }
}

//! A difference for people.
//!
//! ```text
//!   New exposure to addresses outside
//!     + 0.0.0.0/0 -> shop/Deployment/db: TCP 5432
//!       allowed by ingress rule 2 of shop/db (new/db.yaml:14:5)
//! ```

use anstyle::Style;
use podwall_analysis::difference::Kind;

use super::{
    Group, Told, counts, covers, exposures, future, missing, only_once, parts, ports, reasons,
    sign, totals,
};
use crate::page::{BAD, FAINT, GOOD, HEAD, Page, UNSURE, paint};
use crate::words::{place, some};

/// Names of one list that are printed.
const NAMES: usize = 6;
/// Reasons that are printed.
const REASONS: usize = 6;

fn style(kind: Kind) -> Style {
    match kind {
        Kind::Appears => GOOD,
        Kind::Changes | Kind::Unknown => UNSURE,
        Kind::Disappears => BAD,
    }
}

/// The difference as coloured text.
pub fn diff(told: &Told<'_, '_>) -> String {
    let mut page = Page::default();
    for note in &told.notes {
        page.para(&paint(FAINT, "note: "), 2, note);
    }
    for part in parts(told.difference) {
        page.heading(part.title);
        for group in &part.groups {
            self::group(&mut page, told, group);
        }
    }
    page.gap();
    let counts = counts(told.difference);
    if told.difference.is_nothing() {
        let words = format!("No connection differs: {}.", covers(told));
        page.para("", 2, &words);
    } else {
        let mut words = paint(HEAD, &totals(&counts));
        if let Some(exposures) = exposures(&counts) {
            words += &format!("; {}", paint(BAD, &exposures));
        }
        page.para("", 2, &words);
    }
    if told.difference.is_nothing() {
        let mut lines = future(told).into_iter();
        if let Some(first) = lines.next() {
            page.para("", 2, &first);
        }
        lines.for_each(|line| page.item(2, &line));
    }
    page.into_text()
}

fn group(page: &mut Page, told: &Told<'_, '_>, group: &Group<'_>) {
    let rows = &told.difference.rows;
    let names = |list: &[usize]| {
        let names: Vec<String> = list.iter().map(|row| rows[*row].label()).collect();
        some(&names, NAMES)
    };
    let change = group.change;
    let style = style(change.kind);
    let sign = paint(style, sign(change.kind));
    let some_pods = if change.partly { " (some of their pods)" } else { "" };
    let shift = &change.shift;
    let head = format!("{} -> {}{some_pods}", names(&group.src), names(&group.dst));
    if shift.families.is_empty() {
        let ports = ports(change.kind, &shift.all);
        page.para(&format!("  {sign} "), 6, &format!("{head}: {ports}"));
    } else {
        page.para(&format!("  {sign} "), 6, &head);
        for (family, shift) in &shift.families {
            if !shift.is_nothing() {
                page.para("      ", 8, &format!("{family}: {}", ports(change.kind, shift)));
            }
        }
    }
    for line in only_once(rows, group) {
        page.para("      ", 8, &line);
    }
    let reasons = reasons(&group.why);
    for (text, source) in reasons.iter().take(REASONS) {
        page.para("      ", 8, &format!("{text}{}", place(source.as_ref())));
    }
    if reasons.len() > REASONS {
        page.para("      ", 8, &format!("and {} more", reasons.len() - REASONS));
    }
    let missing = missing(&group.why);
    for fact in missing.iter().take(REASONS) {
        page.para("      ", 8, &format!("depends on {fact}"));
    }
    if missing.len() > REASONS {
        page.para("      ", 8, &format!("and on {} more facts", missing.len() - REASONS));
    }
}

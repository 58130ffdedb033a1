//! The numbers as tables.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::plot::Plot;
use crate::results::{Part, Point, Target};
use crate::stats::Estimate;

pub(super) fn text(parts: &BTreeMap<String, Part>, plots: &[Plot]) -> String {
    let mut text = String::from("# Benches\n");
    if let Some(part) = parts.values().find(|part| !part.machine.is_empty()) {
        text.push('\n');
        for (key, value) in &part.machine {
            let _ = writeln!(text, "- {key}: {value}");
        }
    }
    text.push_str(
        "\nMedians; in brackets the interval in which the median lies with 95 %. Ratios are to the \
         same path with connection tracking and without policy, taken round by round, unless the \
         table says otherwise; for conntrack itself, of two such paths to each other.\n",
    );
    for (name, part) in parts {
        let _ = write!(text, "\n## {name}\n\n`{}`, {:.0} s.\n", part.command, part.seconds);
        let mut whats: Vec<&str> = Vec::new();
        for point in &part.points {
            if !whats.contains(&point.what.as_str()) {
                whats.push(&point.what);
            }
        }
        for what in whats {
            let points: Vec<&Point> = part.points.iter().filter(|p| p.what == what).collect();
            table(&mut text, what, &points);
            for plot in plots.iter().filter(|plot| plot.part == *name && plot.what == what) {
                let _ = write!(text, "\n![{}]({})\n", plot.title, plot.file);
            }
        }
    }
    text
}

fn table(text: &mut String, what: &str, points: &[&Point]) {
    let keys: BTreeSet<&String> = points.iter().flat_map(|point| point.at.keys()).collect();
    let (engines, ratios, targets) = (
        points.iter().any(|p| !p.engine.is_empty()),
        points.iter().any(|p| p.ratio.is_some()),
        points.iter().any(|p| p.target.is_some()),
    );
    let mut head: Vec<String> = Vec::new();
    head.extend(engines.then(|| "engine".to_owned()));
    head.extend(keys.iter().map(|key| (*key).clone()));
    head.push(points.first().map(|p| p.unit.clone()).unwrap_or_default());
    head.extend(ratios.then(|| "ratio".to_owned()));
    if targets {
        head.extend(["target".to_owned(), String::new()]);
    }
    let _ = write!(text, "\n### {what}\n\n| {} |\n|", head.join(" | "));
    text.push_str(&"---|".repeat(head.len()));
    text.push('\n');
    for point in points {
        let mut row: Vec<String> = Vec::new();
        row.extend(engines.then(|| point.engine.clone()));
        row.extend(keys.iter().map(|key| point.at.get(*key).cloned().unwrap_or_default()));
        row.push(spread(point.value));
        row.extend(ratios.then(|| point.ratio.map(ratio).unwrap_or_default()));
        if targets {
            row.push(point.target.map(target).unwrap_or_default());
            let mark = match point.met() {
                None => "",
                Some(true) => "met",
                Some(false) => "**missed**",
            };
            row.push(mark.to_owned());
        }
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
}

fn target(target: Target) -> String {
    match target {
        Target::AtLeast(least) => format!("≥ {least}"),
        Target::AtMost(most) => format!("≤ {most}"),
    }
}

fn spread(value: Estimate) -> String {
    if value.low == value.high {
        return number(value.median);
    }
    format!("{} ({} … {})", number(value.median), number(value.low), number(value.high))
}

fn ratio(value: Estimate) -> String {
    format!("{:.3} ({:.3} … {:.3})", value.median, value.low, value.high)
}

/// Three digits that mean something, thousands set off.
pub(super) fn number(value: f64) -> String {
    if !value.is_finite() {
        return "?".to_owned();
    }
    let digits = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    let plain = format!("{value:.digits$}");
    let (whole, rest) = plain.split_once('.').map_or((plain.as_str(), ""), |(w, r)| (w, r));
    let (sign, figures) = whole.strip_prefix('-').map_or(("", whole), |f| ("-", f));
    let mut grouped = String::new();
    for (index, figure) in figures.chars().enumerate() {
        if index > 0 && (figures.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(figure);
    }
    let point = if rest.is_empty() { "" } else { "." };
    format!("{sign}{grouped}{point}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_at_a_glance() {
        let table =
            [(1_234_567.8, "1,234,568"), (12.34, "12.3"), (0.9871, "0.987"), (-4.0, "-4.00")];
        for (value, expected) in table {
            assert_eq!(number(value), expected);
        }
        assert_eq!(number(f64::NAN), "?");
    }
}

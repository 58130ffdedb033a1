//! The matrix for people.
//!
//! ```text
//!   grid   up to 12 rows, if it fits into 80 columns     list   otherwise
//!                          1     2     3                 default/web
//!   1 default/app          -  3306     .                   -> default/app   TCP 5000
//! ```

use std::collections::BTreeMap;

use podwall_analysis::matrix::{Connection, Matrix, Row};
use podwall_analysis::outside;
use podwall_policy::port::{PortSet, Protocol};

use crate::json::matrix::names;
use crate::page::{FAINT, GOOD, Page, UNSURE, WIDTH, pad, paint, width};
use crate::words;

/// Rows of the largest grid.
const GRID: usize = 12;

/// The matrix as coloured text.
pub fn matrix(matrix: &Matrix<'_>) -> String {
    let mut page = Page::default();
    if matrix.rows.iter().all(|row| matches!(row, Row::Outside(_))) {
        page.line("There are no running pods, so nobody can reach anybody.");
    } else if let Some(grid) = grid(matrix) {
        page.raw(format_args!("{grid}"));
    } else {
        list(&mut page, matrix);
    }
    footnotes(&mut page, matrix);
    page.into_text()
}

/// What rows are called, and what the short names among them stand for.
fn labels(matrix: &Matrix<'_>) -> (Vec<String>, Vec<String>) {
    let mut legend: Vec<String> = Vec::new();
    let label = |row: &Row<'_>| match row {
        Row::Pods { label, .. } => label.clone(),
        Row::Outside(class) => {
            let described = outside::describe(&class.addresses);
            let short = format!("other {}", class.family);
            // "0.0.0.0/0 except …" is the rest of a family; there may be two, then both are written.
            let rest = ["0.0.0.0/0 except ", "::/0 except "];
            if !rest.iter().any(|of| described.starts_with(of))
                || legend.iter().any(|l| l.starts_with(&short))
            {
                return described;
            }
            legend.push(format!("{short}: {described}"));
            short
        }
    };
    (matrix.rows.iter().map(label).collect(), legend)
}

/// What a cell says: a port, a letter that the legend explains, or a sign.
fn cells(matrix: &Matrix<'_>) -> (BTreeMap<(usize, usize), String>, Vec<String>) {
    let mut letters: Vec<PortSet> = Vec::new();
    let mut out = BTreeMap::new();
    for connection in &matrix.connections {
        let mark = [
            if connection.partly || !connection.families.is_empty() { "~" } else { "" },
            if connection.open.is_empty() { "" } else { "?" },
        ]
        .concat();
        let text = if connection.passes.is_everything() {
            "all".to_owned()
        } else if connection.passes.is_empty() {
            String::new()
        } else if let Some(port) = only_tcp(&connection.passes) {
            port
        } else {
            let at = letters.iter().position(|set| *set == connection.passes);
            let at = at.unwrap_or_else(|| {
                letters.push(connection.passes.clone());
                letters.len() - 1
            });
            letter(at)
        };
        out.insert((connection.src, connection.dst), text + &mark);
    }
    let legend = letters
        .iter()
        .enumerate()
        .map(|(at, set)| format!("{}  {}", letter(at), words::ports(set)))
        .collect();
    (out, legend)
}

/// "80" or "80,443": short lists of TCP ports speak for themselves.
fn only_tcp(set: &PortSet) -> Option<String> {
    const LONGEST: usize = 9;
    if set.has_other_protocols() || set.iter().any(|(protocol, _)| protocol != Protocol::TCP) {
        return None;
    }
    let text = set.iter().map(|(_, range)| range.to_string()).collect::<Vec<_>>().join(",");
    (text.len() <= LONGEST).then_some(text)
}

/// a, b, …, z, aa, ab, …
fn letter(at: usize) -> String {
    let last = char::from(b'a' + (at % 26) as u8);
    if at < 26 { last.to_string() } else { letter(at / 26 - 1) + &last.to_string() }
}

/// The grid, if it fits.
fn grid(matrix: &Matrix<'_>) -> Option<String> {
    if matrix.rows.len() > GRID {
        return None;
    }
    let (cells, legend) = cells(matrix);
    let (labels, others) = labels(matrix);
    let number = labels.len().to_string().len();
    let widest = labels.iter().map(|label| width(label)).max()? + number + 1;
    // A column is as wide as its widest cell and its number.
    let columns: Vec<usize> = (0..labels.len())
        .map(|dst| {
            let cell = |src| cells.get(&(src, dst)).map_or(1, |text| width(text));
            (0..labels.len()).map(cell).max().unwrap_or(1).max(number)
        })
        .collect();
    if widest + columns.iter().map(|column| column + 2).sum::<usize>() > WIDTH {
        return None;
    }
    let mut page = Page::default();
    page.line("From the row to the column:");
    let mut head = " ".repeat(widest);
    for (i, column) in columns.iter().enumerate() {
        head += &format!("  {:>column$}", i + 1);
    }
    page.line(&paint(FAINT, &head));
    for (src, label) in labels.iter().enumerate() {
        let mut line = pad(&format!("{:>number$} {label}", src + 1), widest);
        for (dst, column) in columns.iter().enumerate() {
            let outside = |row: usize| matches!(matrix.rows[row], Row::Outside(_));
            let cell = match cells.get(&(src, dst)) {
                Some(text) if text.contains('?') => paint(UNSURE, text),
                Some(text) => paint(GOOD, text),
                None if src == dst || (outside(src) && outside(dst)) => String::new(),
                None => paint(FAINT, "."),
            };
            let missing = column.saturating_sub(width(&cell));
            line += &format!("  {}{cell}", " ".repeat(missing));
        }
        page.line(&line);
    }
    page.gap();
    page.line("all  every port and protocol     .  nothing     80  TCP port 80");
    for line in legend.iter().chain(&others) {
        page.para("", 3, line);
    }
    Some(page.into_text())
}

/// Who reaches whom, by source.
fn list(page: &mut Page, matrix: &Matrix<'_>) {
    let (labels, others) = labels(matrix);
    page.line("What is not listed cannot pass.");
    for line in others {
        page.para("", 2, &line);
    }
    for (src, label) in labels.iter().enumerate() {
        let own: Vec<&Connection> = matrix.connections.iter().filter(|c| c.src == src).collect();
        if own.is_empty() && matches!(matrix.rows[src], Row::Outside(_)) {
            continue; // that strangers reach nobody is what one expects
        }
        page.heading(label);
        if own.is_empty() {
            page.line("  reaches nobody");
            continue;
        }
        // Destinations with the same ports stand together.
        let mut groups: Vec<(String, Vec<String>)> = Vec::new();
        for connection in own {
            let what = what(connection);
            let dst = labels[connection.dst].clone();
            match groups.iter_mut().find(|(of, _)| *of == what) {
                Some((_, list)) => list.push(dst),
                None => groups.push((what, vec![dst])),
            }
        }
        for (what, to) in groups {
            page.para("  ", 4, &format!("{} to {}", paint(GOOD, &what), to.join(", ")));
        }
    }
}

fn what(connection: &Connection) -> String {
    let mut parts = Vec::new();
    if !connection.passes.is_empty() {
        parts.push(words::ports(&connection.passes));
    }
    if !connection.open.is_empty() {
        parts.push(format!("? {}", words::ports(&connection.open)));
    }
    if connection.partly {
        parts.push("(some pods only)".to_owned());
    }
    for (family, set) in &connection.families {
        parts.push(format!("{family}: {}", words::ports(set)));
    }
    parts.join("; ")
}

/// What the signs ~ and ? stand for, and the facts that are missing.
fn footnotes(page: &mut Page, matrix: &Matrix<'_>) {
    const SHOWN: usize = 8;
    let differ = |c: &&Connection| c.partly || !c.families.is_empty();
    let partly: Vec<&Connection> = matrix.connections.iter().filter(differ).collect();
    if !partly.is_empty() && matrix.rows.len() <= GRID {
        let (labels, _) = labels(matrix);
        page.gap();
        page.line("~  not between all pods, or not over both address families:");
        for connection in partly.iter().take(SHOWN) {
            let (src, dst) = (&labels[connection.src], &labels[connection.dst]);
            page.item(2, &format!("{src} to {dst}: {}", what(connection)));
        }
    }
    let mut facts: Vec<String> = matrix
        .connections
        .iter()
        .flat_map(|connection| &connection.missing)
        .map(ToString::to_string)
        .collect();
    facts.sort();
    facts.dedup();
    if facts.is_empty() {
        return;
    }
    page.gap();
    page.line("?  unknown, because these facts are missing:");
    for fact in facts.iter().take(SHOWN) {
        page.item(2, fact);
    }
    if facts.len() > SHOWN {
        page.line(&format!("  and {} more; -o json has all", facts.len() - SHOWN));
    }
}

/// The matrix as CSV (RFC 4180, but with line feeds): a line for each range of ports.
pub fn csv(matrix: &Matrix<'_>) -> String {
    let mut out = String::from("src,dst,verdict,protocol,from,to\n");
    for connection in &matrix.connections {
        for src in names(&matrix.rows[connection.src]) {
            for dst in names(&matrix.rows[connection.dst]) {
                csv_ports(&mut out, &src, &dst, "allowed", &connection.passes);
                csv_ports(&mut out, &src, &dst, "unknown", &connection.open);
            }
        }
    }
    out
}

/// Names and CIDRs hold neither commas nor quotes, so nothing needs quoting.
fn csv_ports(out: &mut String, src: &str, dst: &str, verdict: &str, set: &PortSet) {
    if set.is_everything() {
        *out += &format!("{src},{dst},{verdict},any,,\n");
        return;
    }
    for (protocol, range) in set.iter() {
        let first = range.first.max(1);
        *out += &format!("{src},{dst},{verdict},{protocol},{first},{}\n", range.last);
    }
    if set.has_other_protocols() {
        *out += &format!("{src},{dst},{verdict},other,,\n");
    }
}

/// The matrix as a table in Markdown.
pub fn markdown(matrix: &Matrix<'_>) -> String {
    let (labels, others) = labels(matrix);
    let mut out = format!("| from, to | {} |\n", labels.join(" | "));
    out += &format!("|---|{}\n", "---|".repeat(labels.len()));
    let cells: BTreeMap<(usize, usize), String> =
        matrix.connections.iter().map(|c| ((c.src, c.dst), what(c))).collect();
    for (src, label) in labels.iter().enumerate() {
        let row: Vec<&str> = (0..labels.len())
            .map(|dst| cells.get(&(src, dst)).map_or("", |text| text.as_str()))
            .collect();
        out += &format!("| **{label}** | {} |\n", row.join(" | "));
    }
    for line in others {
        out += &format!("\n{line}\n");
    }
    out
}

//! How is one field of a file changed, and nothing else?
//!
//! ```text
//!   edits of fields ──places──▶ splices: bytes a to b become "…" ──apply──▶ the text, else as it was
//! ```
//!
//! Comments, quotes, order, line ends and indentation stay byte by byte. What is not written in a way
//! that is understood here (JSON, aliases, flow style over several lines) is refused, not guessed.

use std::ops::Range;

use podwall_policy::source::{FieldPath, Step};

use crate::json;
use crate::locate::{documents, walk};
use crate::node::{Node, Value};
use crate::text::{At, Text};

/// One change of an object's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Writes another scalar.
    Value(FieldPath, String),
    /// Writes another key, with the same value.
    Key(FieldPath, String),
    /// Makes one item of a list's item and the one before it.
    Join(FieldPath),
    /// Adds an item to a list: lines of YAML without indentation of their own.
    Append(FieldPath, Vec<String>),
    /// Adds `key: value` before a field of the same mapping.
    Insert(FieldPath, String),
}

/// Bytes that become others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Splice {
    /// Which bytes of the text.
    pub range: Range<usize>,
    /// What they become.
    pub text: String,
}

/// The splice for each edit of the object that starts at that line and column; `None` where the
/// field is not there, or not written in a way that can be edited.
pub fn splices(content: &str, object: (u32, u32), edits: &[Edit]) -> Vec<Option<Splice>> {
    if json::looks_like_json(content) {
        return vec![None; edits.len()];
    }
    let text = Text::new("".into(), content);
    let documents = documents(&text);
    let starts = |node: &Node<'_>| (node.at.line, node.at.column) == object;
    let items = documents.iter().filter_map(|document| match &document.value {
        Value::Map(map) => match &map.get("items")?.value.value {
            Value::List(items) => items.iter().find(|item| starts(item)),
            _ => None,
        },
        _ => None,
    });
    let Some(root) = documents.iter().filter(|d| starts(d)).chain(items).next() else {
        return vec![None; edits.len()];
    };
    let lines = Lines::new(content);
    edits.iter().map(|edit| splice(&lines, root, edit)).collect()
}

/// The text with all splices; `None` if two of them touch the same bytes.
pub fn apply(content: &str, splices: &[Splice]) -> Option<String> {
    let mut sorted: Vec<&Splice> = splices.iter().collect();
    sorted.sort_by_key(|splice| (splice.range.start, splice.range.end));
    sorted.dedup();
    let mut out = String::with_capacity(content.len() + 64);
    let mut at = 0;
    for splice in sorted {
        if splice.range.start < at {
            return None;
        }
        out.push_str(content.get(at..splice.range.start)?);
        out.push_str(&splice.text);
        at = splice.range.end;
    }
    out.push_str(content.get(at..)?);
    Some(out)
}

fn splice(lines: &Lines<'_>, root: &Node<'_>, edit: &Edit) -> Option<Splice> {
    match edit {
        Edit::Value(path, new) => {
            let (node, key) = whole(root, path)?;
            let range = lines.range(node.at)?;
            let old = lines.text.get(range.clone())?;
            // What an alias stands for was written before the key.
            if key.is_some_and(|key| (key.line, key.column) > (node.at.line, node.at.column)) {
                return None;
            }
            if !matches!(node.value, Value::Text(_) | Value::Int(_)) || !is_scalar(old, node) {
                return None;
            }
            let number = matches!(node.value, Value::Int(_));
            Some(Splice { text: quoted(old, new, number), range })
        }
        Edit::Key(path, new) => {
            let (_, key) = whole(root, path)?;
            let range = lines.range(key?)?;
            let old = lines.text.get(range.clone())?;
            Some(Splice { text: quoted(old, new, false), range })
        }
        Edit::Join(path) => join(lines, root, path),
        Edit::Append(path, item) => append(lines, root, path, item),
        Edit::Insert(path, line) => insert(lines, root, path, line),
    }
}

/// The node at the end of a path, if the whole path is there.
fn whole<'n, 't>(root: &'n Node<'t>, path: &FieldPath) -> Option<(&'n Node<'t>, Option<At>)> {
    let (node, key, steps) = walk(root, path);
    (steps == path.0.len()).then_some((node, key))
}

/// Whether the bytes at a scalar's place are the scalar, plain or in quotes on one line.
fn is_scalar(old: &str, node: &Node<'_>) -> bool {
    let inner = old.trim_matches(['"', '\'']);
    match &node.value {
        Value::Text(text) => **text == *inner,
        Value::Int(int) => int.to_string() == inner,
        _ => false,
    }
}

/// The new scalar, in the quotes of the old one, or in such as it needs.
fn quoted(old: &str, new: &str, number: bool) -> String {
    if let Some(quote @ ('"' | '\'')) = old.chars().next() {
        return format!("{quote}{new}{quote}");
    }
    let plain = new.chars().all(|c| c.is_ascii_alphanumeric() || "._/-".contains(c))
        && new.starts_with(|c: char| c.is_ascii_alphanumeric());
    let word = new.to_ascii_lowercase();
    let is_word = matches!(
        word.as_str(),
        "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n"
    );
    let is_number = new.parse::<f64>().is_ok() || new.starts_with("0x") || new.starts_with("0o");
    if plain && !is_word && (!is_number || number) { new.to_owned() } else { format!("\"{new}\"") }
}

fn join(lines: &Lines<'_>, root: &Node<'_>, path: &FieldPath) -> Option<Splice> {
    let (node, _) = whole(root, path)?;
    let (Some(Step::Item(index)), list) = (path.0.last(), &path.0[..path.0.len().checked_sub(1)?])
    else {
        return None;
    };
    let (list, _) = whole(root, &FieldPath(list.to_vec()))?;
    let Value::List(items) = &list.value else { return None };
    let before = items.get(index.checked_sub(1)?)?;
    let dash = lines.dash(node.at)?;
    lines.dash(before.at)?;
    let block = matches!(&node.value, Value::Map(_)) && matches!(&before.value, Value::Map(_));
    let aligned = node.at.column == before.at.column;
    let braces = [node, before].iter().any(|n| lines.starts_with(n.at, '{'));
    (block && aligned && !braces).then(|| Splice { range: dash..dash + 1, text: " ".to_owned() })
}

fn append(lines: &Lines<'_>, root: &Node<'_>, path: &FieldPath, item: &[String]) -> Option<Splice> {
    let (node, _) = whole(root, path)?;
    let Value::List(items) = &node.value else { return None };
    let range = lines.range(node.at)?;
    if lines.starts_with(node.at, '[') {
        let end = range.end.checked_sub(1)?;
        let ([item], true) = (item, lines.text[range].ends_with(']')) else { return None };
        let text = if items.is_empty() { item.clone() } else { format!(", {item}") };
        return Some(Splice { range: end..end, text });
    }
    let last = items.last()?;
    let dash = lines.dash(last.at)?;
    let start = lines.start(last.at.line)?;
    let indent = dash - start;
    // The item goes on for as long as lines are indented deeper than its dash.
    let mut end = lines.end(last.at.line)?;
    let mut number = last.at.line + 1;
    while let Some(line) = lines.line(number) {
        let content = line.trim_start_matches(' ');
        let blank = content.trim().is_empty();
        let comment = content.starts_with('#');
        if !blank && !comment && line.len() - content.len() <= indent {
            break;
        }
        if !blank && !comment {
            end = lines.end(number)?;
        }
        number += 1;
    }
    let newline = lines.newline();
    let pad = " ".repeat(indent);
    let mut text = String::new();
    for (i, line) in item.iter().enumerate() {
        let sign = if i == 0 { "- " } else { "  " };
        text.push_str(&format!("{newline}{pad}{sign}{line}"));
    }
    Some(Splice { range: end..end, text })
}

fn insert(lines: &Lines<'_>, root: &Node<'_>, path: &FieldPath, line: &str) -> Option<Splice> {
    let (_, key) = whole(root, path)?;
    let at = lines.range(key?)?.start;
    let start = lines.start(key?.line)?;
    let before = lines.text.get(start..at)?;
    let text = match before.trim_matches(' ') {
        "" | "-" => {
            let pad = " ".repeat(before.chars().count());
            format!("{line}{}{pad}", lines.newline())
        }
        flow if flow.ends_with(['{', ',']) => format!("{line}, "),
        _ => return None,
    };
    Some(Splice { range: at..at, text })
}

/// A text by lines.
struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    fn new(text: &'t str) -> Self {
        Self { text, starts: crate::text::line_starts(text) }
    }

    fn start(&self, line: u32) -> Option<usize> {
        self.starts.get((line as usize).checked_sub(1)?).copied()
    }

    /// The byte after the last of a line, its line break left out.
    fn end(&self, line: u32) -> Option<usize> {
        Some(self.start(line)? + self.line(line)?.len())
    }

    fn line(&self, number: u32) -> Option<&'t str> {
        let start = self.start(number)?;
        let end = self.starts.get(number as usize).copied().unwrap_or(self.text.len());
        Some(self.text.get(start..end)?.trim_end_matches(['\n', '\r'])).filter(|line| {
            // After the last line break there is no line more.
            !(line.is_empty() && start == self.text.len())
        })
    }

    /// The bytes of a place.
    fn range(&self, at: At) -> Option<Range<usize>> {
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

    fn starts_with(&self, at: At, sign: char) -> bool {
        let range = self.range(at);
        range.and_then(|range| self.text.get(range.start..)).is_some_and(|t| t.starts_with(sign))
    }

    /// Where the `-` of a list's item stands, if nothing else is before the item on its line.
    fn dash(&self, at: At) -> Option<usize> {
        let (start, item) = (self.start(at.line)?, self.range(at)?.start);
        let before = self.text.get(start..item)?;
        let dash = before.find('-')?;
        (before.trim_matches(' ') == "-").then_some(start + dash)
    }

    fn newline(&self) -> &'static str {
        if self.text.contains("\r\n") { "\r\n" } else { "\n" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# who may talk to the shop
kind: NetworkPolicy
spec:
    podSelector: {matchLabels: {app: 'ngnix'}}   # typo
    policyTypes: [Ingress]
    ingress:
      - from:
          - namespaceSelector:
              matchLabels: {name: x}
          - podSelector:
              matchLabels:
                app: web

        # the metrics
        ports:
          - port: 80
          - {port: quic}
    egress:
    - {}
";

    fn edited(edit: Edit) -> Option<String> {
        edited_in(TEXT, (2, 1), edit)
    }

    fn edited_in(text: &str, object: (u32, u32), edit: Edit) -> Option<String> {
        let splice = splices(text, object, &[edit]).remove(0)?;
        let new = apply(text, &[splice])?;
        // What a test shows is the lines that differ.
        let old: Vec<&str> = text.lines().collect();
        let changed = new.lines().filter(|line| !old.contains(line));
        Some(changed.collect::<Vec<_>>().join("\n"))
    }

    fn path(path: &str) -> FieldPath {
        let steps = path.split('.').map(|step| match step.parse() {
            Ok(index) => Step::Item(index),
            Err(_) => Step::Key(step.into()),
        });
        FieldPath(steps.collect())
    }

    #[test]
    fn a_value_keeps_its_quotes_and_the_rest_of_its_line() {
        let app = path("spec.podSelector.matchLabels.app");
        assert_eq!(
            edited(Edit::Value(app.clone(), "nginx".into())).as_deref(),
            Some("    podSelector: {matchLabels: {app: 'nginx'}}   # typo")
        );
        let port = path("spec.ingress.0.ports.0.port");
        assert_eq!(
            edited(Edit::Value(port, "8080".into())).as_deref(),
            Some("          - port: 8080")
        );
        let web = path("spec.ingress.0.from.1.podSelector.matchLabels.app");
        assert_eq!(
            edited(Edit::Value(web, "1".into())).as_deref(),
            Some("                app: \"1\"")
        );
        assert_eq!(edited(Edit::Value(path("spec.nothing"), "x".into())), None);
        assert_eq!(edited(Edit::Value(path("spec"), "x".into())), None);
    }

    #[test]
    fn a_key_is_written_anew() {
        let name = path("spec.ingress.0.from.0.namespaceSelector.matchLabels.name");
        assert_eq!(
            edited(Edit::Key(name, "kubernetes.io/metadata.name".into())).as_deref(),
            Some("              matchLabels: {kubernetes.io/metadata.name: x}")
        );
    }

    #[test]
    fn two_items_become_one_by_one_byte() {
        let second = path("spec.ingress.0.from.1");
        assert_eq!(edited(Edit::Join(second)).as_deref(), Some("            podSelector:"));
        assert_eq!(edited(Edit::Join(path("spec.ingress.0.from.0"))), None);
        assert_eq!(edited(Edit::Join(path("spec.ingress.0.ports.1"))), None, "one has braces");
    }

    #[test]
    fn an_item_is_added_at_the_end_of_a_list_in_the_lists_own_style() {
        let types = path("spec.policyTypes");
        assert_eq!(
            edited(Edit::Append(types, vec!["Egress".into()])).as_deref(),
            Some("    policyTypes: [Ingress, Egress]")
        );
        let rule = vec!["ports:".into(), "- port: 53".into()];
        let splice =
            splices(TEXT, (2, 1), &[Edit::Append(path("spec.ingress"), rule)]).remove(0).unwrap();
        let new = apply(TEXT, &[splice]).unwrap();
        assert!(
            new.contains(
                "          - {port: quic}\n      - ports:\n        - port: 53\n    egress:"
            ),
            "{new}"
        );
    }

    #[test]
    fn a_field_is_added_before_another() {
        assert_eq!(
            edited(Edit::Insert(path("spec.egress"), "a: b".into())).as_deref(),
            Some("    a: b")
        );
        let quic = path("spec.ingress.0.ports.1.port");
        assert_eq!(
            edited(Edit::Insert(quic, "protocol: UDP".into())).as_deref(),
            Some("          - {protocol: UDP, port: quic}")
        );
        let first = path("spec.ingress.0.ports.0.port");
        assert_eq!(
            edited(Edit::Insert(first, "protocol: UDP".into())).as_deref(),
            Some("          - protocol: UDP\n            port: 80")
        );
    }

    #[test]
    fn line_ends_stay_and_what_is_not_understood_is_refused() {
        let text = "kind: A\r\nlist:\r\n- a\r\n";
        let splice = splices(text, (1, 1), &[Edit::Append(path("list"), vec!["b".into()])]);
        let new = apply(text, &[splice[0].clone().unwrap()]).unwrap();
        assert_eq!(new, "kind: A\r\nlist:\r\n- a\r\n- b\r\n");
        let alias = "a: &x web\nb: *x\n";
        assert_eq!(edited_in(alias, (1, 1), Edit::Value(path("b"), "db".into())), None);
        let json = "{\"kind\": \"A\"}";
        assert_eq!(edited_in(json, (1, 1), Edit::Value(path("kind"), "B".into())), None);
    }

    #[test]
    fn splices_that_touch_the_same_bytes_are_refused() {
        let splice = |range, text: &str| Splice { range, text: text.into() };
        assert_eq!(apply("abcd", &[splice(2..3, "X"), splice(0..1, "Y")]).as_deref(), Some("YbXd"));
        assert_eq!(apply("abcd", &[splice(0..3, "X"), splice(2..4, "Y")]), None);
    }
}

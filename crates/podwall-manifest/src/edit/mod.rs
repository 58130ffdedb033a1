//! How is one field of a file changed, and nothing else?
//!
//! ```text
//!   edits of fields ──places──▶ splices: bytes a to b become "…" ──apply──▶ the text, else as it was
//! ```
//!
//! Comments, quotes, order, line ends and indentation stay byte by byte. What is not written in a way
//! that is understood here (JSON, aliases, flow style over several lines) is refused, not guessed.

mod lines;
mod list;

use std::collections::HashMap;
use std::ops::Range;

use podwall_policy::source::FieldPath;

use self::lines::{Lines, end_of_block, key_column};
use self::list::{append, join, remove, replace};

use crate::json;
use crate::locate::{documents, walk};
use crate::node::{Node, Value};
use crate::text::{At, Text};
use crate::write::scalar;

/// One change of an object's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Writes another scalar.
    Value(FieldPath, String),
    /// Writes another key, with the same value.
    Key(FieldPath, String),
    /// Makes one item of a list's item and the one before it.
    Join(FieldPath),
    /// Adds an item to a list: lines of YAML without indentation of their own. A list in flow style
    /// takes one line, an empty one any number.
    Append(FieldPath, Vec<String>),
    /// Writes an item of a list anew: lines of YAML, one line for a list in flow style.
    Replace(FieldPath, Vec<String>),
    /// Takes an item out of a list, together with the comment on its last line.
    Remove(FieldPath),
    /// Adds a field, in lines of YAML, at the end of a mapping.
    Field(FieldPath, Vec<String>),
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
    splices_of(content, &[(object, edits)]).pop().unwrap_or_default()
}

/// The splices for edits of many objects of one text, which is read once.
pub fn splices_of(content: &str, wanted: &[((u32, u32), &[Edit])]) -> Vec<Vec<Option<Splice>>> {
    let none = || wanted.iter().map(|(_, edits)| vec![None; edits.len()]).collect();
    if json::looks_like_json(content) {
        return none();
    }
    let text = Text::new("".into(), content);
    let lines: Vec<u32> = wanted.iter().map(|((line, _), _)| *line).collect();
    let documents = documents(&text, &lines);
    let items = documents.iter().filter_map(|document| match &document.value {
        Value::Map(map) => match &map.get("items")?.value.value {
            Value::List(items) => Some(items),
            _ => None,
        },
        _ => None,
    });
    // A document starts where its first item may; the document is meant.
    let nodes = items.flatten().chain(&documents);
    let at: HashMap<(u32, u32), &Node<'_>> =
        nodes.map(|node| ((node.at.line, node.at.column), node)).collect();
    let lines = Lines::new(content);
    let of = |(object, edits): &((u32, u32), &[Edit])| match at.get(object) {
        Some(root) => edits.iter().map(|edit| splice(&lines, root, edit)).collect(),
        None => vec![None; edits.len()],
    };
    wanted.iter().map(of).collect()
}

/// Where bytes of a text stand: line and column, from 1, in characters.
pub fn line_columns(content: &str, bytes: &[usize]) -> Vec<(u32, u32)> {
    let starts = crate::text::line_starts(content);
    let of = |byte: &usize| {
        let line = starts.partition_point(|start| start <= byte).max(1);
        let before = content.get(starts.get(line - 1).copied().unwrap_or(0)..*byte);
        let column = before.map_or(0, |text| text.chars().count());
        (u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(column + 1).unwrap_or(u32::MAX))
    };
    bytes.iter().map(of).collect()
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
        Edit::Replace(path, item) => replace(lines, root, path, item),
        Edit::Remove(path) => remove(lines, root, path),
        Edit::Field(path, field) => add_field(lines, root, path, field),
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
    if number && new.parse::<i64>().is_ok() { new.to_owned() } else { scalar(new) }
}

fn add_field(
    lines: &Lines<'_>,
    root: &Node<'_>,
    path: &FieldPath,
    field: &[String],
) -> Option<Splice> {
    let (node, _) = whole(root, path)?;
    let Value::Map(map) = &node.value else { return None };
    let first = map.entries.first()?.at;
    if lines.starts_with(node.at, '{') {
        let range = lines.range(node.at)?;
        let ([field], true) = (field, lines.text.get(range.clone())?.ends_with('}')) else {
            return None;
        };
        return Some(Splice { range: range.end - 1..range.end - 1, text: format!(", {field}") });
    }
    // A document's own mapping has no indentation that would tell where it ends.
    let column = key_column(lines, first).filter(|column| *column > 0)?;
    let end = end_of_block(lines, first.line, column)?;
    let pad = " ".repeat(column);
    let newline = lines.newline();
    let text = field.iter().map(|line| format!("{newline}{pad}{line}")).collect();
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

#[cfg(test)]
mod tests;

//! How do items come into a list, out of it, and together?
//!
//! ```text
//!   - a            - a           ingress: []        ingress:
//!   - b    ──▶     - b           ──────▶            - from: …      in the list's own style
//!                  - c
//! ```

use podwall_policy::source::{FieldPath, Step};

use super::lines::{Lines, end_of_block, key_column};
use super::{Splice, whole};
use crate::node::{Node, Value};

pub(super) fn join(lines: &Lines<'_>, root: &Node<'_>, path: &FieldPath) -> Option<Splice> {
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

pub(super) fn append(
    lines: &Lines<'_>,
    root: &Node<'_>,
    path: &FieldPath,
    item: &[String],
) -> Option<Splice> {
    let (node, key) = whole(root, path)?;
    let Value::List(items) = &node.value else { return None };
    let range = lines.range(node.at)?;
    if lines.starts_with(node.at, '[') {
        let old = lines.text.get(range.clone())?;
        if items.is_empty() && item.len() > 1 {
            // `ingress: []` becomes a list in block style below its key, and below its comment.
            if !old.trim_matches(['[', ']', ' ']).is_empty() {
                return None;
            }
            let column = key_column(lines, key?)?;
            let start = lines.text.get(..range.start)?.trim_end_matches(' ').len();
            let end = lines.end(node.at.line)?;
            let rest = lines.text.get(range.end..end)?;
            let text = format!("{rest}{}", item_lines(lines, column, item));
            return Some(Splice { range: start..end, text });
        }
        let end = range.end.checked_sub(1)?;
        let ([item], true) = (item, old.ends_with(']')) else { return None };
        let text = if items.is_empty() { item.clone() } else { format!(", {item}") };
        return Some(Splice { range: end..end, text });
    }
    let last = items.last()?;
    let dash = lines.dash(last.at)?;
    let start = lines.start(last.at.line)?;
    let indent = dash - start;
    let end = end_of_block(lines, last.at.line, indent + 1)?;
    Some(Splice { range: end..end, text: item_lines(lines, indent, item) })
}

/// An item of a list in lines of their own, a line break before each.
fn item_lines(lines: &Lines<'_>, indent: usize, item: &[String]) -> String {
    let pad = " ".repeat(indent);
    let newline = lines.newline();
    let line = |(i, line): (usize, &String)| {
        format!("{newline}{pad}{} {line}", if i == 0 { '-' } else { ' ' })
    };
    item.iter().enumerate().map(line).collect()
}

pub(super) fn replace(
    lines: &Lines<'_>,
    root: &Node<'_>,
    path: &FieldPath,
    item: &[String],
) -> Option<Splice> {
    let (list, _) = whole(root, &FieldPath(path.0[..path.0.len().checked_sub(1)?].to_vec()))?;
    let (node, _) = whole(root, path)?;
    let old = lines.range(node.at)?;
    if lines.starts_with(list.at, '[') {
        // An item that begins with a bracket is known up to its end on the line.
        let text = lines.text.get(old.clone())?;
        let whole = text.starts_with('{') == text.ends_with('}');
        let ([item], true) = (item, whole) else { return None };
        return Some(Splice { range: old, text: item.clone() });
    }
    let dash = lines.dash(node.at)?;
    let indent = dash - lines.start(node.at.line)?;
    let end = end_of_block(lines, node.at.line, indent + 1)?;
    let text = item_lines(lines, indent, item);
    let text = text.trim_start_matches(['\r', '\n', ' ']).to_owned();
    Some(Splice { range: dash..end, text })
}

pub(super) fn remove(lines: &Lines<'_>, root: &Node<'_>, path: &FieldPath) -> Option<Splice> {
    let (Some(Step::Item(index)), list) = (path.0.last(), &path.0[..path.0.len().checked_sub(1)?])
    else {
        return None;
    };
    let (list, key) = whole(root, &FieldPath(list.to_vec()))?;
    let Value::List(items) = &list.value else { return None };
    let item = items.get(*index)?;
    if lines.starts_with(list.at, '[') {
        // With the comma that stands between it and a neighbour.
        let own = lines.range(item.at)?;
        let range = match (index.checked_sub(1).and_then(|i| items.get(i)), items.get(index + 1)) {
            (Some(before), _) => lines.range(before.at)?.end..own.end,
            (None, Some(after)) => own.start..lines.range(after.at)?.start,
            (None, None) => own,
        };
        let taken = lines.text.get(range.clone())?;
        return (!taken.contains(['\n', '#'])).then_some(Splice { range, text: String::new() });
    }
    let dash = lines.dash(item.at)?;
    let start = lines.start(item.at.line)?;
    let indent = dash - start;
    let end = end_of_block(lines, item.at.line, indent + 1)?;
    if items.len() == 1 {
        // The list stays, and is empty.
        let key = lines.range(key?)?;
        let after = lines.text.get(key.end..start)?;
        let colon = key.end + after.find(':')? + 1;
        let between = lines.text.get(colon..start)?;
        return between
            .trim()
            .is_empty()
            .then_some(Splice { range: colon..end, text: " []".into() });
    }
    // With its line break: that before it, or, for what begins the text, that after it.
    let range = match lines.text.get(..start)? {
        "" => start..(end + lines.newline().len()).min(lines.text.len()),
        before => before.len() - lines.newline().len()..end,
    };
    Some(Splice { range, text: String::new() })
}

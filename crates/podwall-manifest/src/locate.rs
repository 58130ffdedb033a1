//! Where in a file does a field of an object stand?
//!
//! ```text
//!   object at 7:1, spec.ingress[0].from  ──▶  12:7 `from:`      its key, its value
//!   object at 7:1, spec.ingress[3].from  ──▶  11:3 `ingress:`   the nearest that is there
//! ```
//!
//! Checked objects remember where they start and no more, since almost nobody asks. Who does reads
//! the file's text again.

use std::collections::HashMap;

use podwall_policy::source::{FieldPath, Step};

use crate::diagnostic::Place;
use crate::node::{Node, Value};
use crate::text::{At, Text};
use crate::{json, yaml};

/// A field that is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Where the object starts: line and column of its `source`.
    pub object: (u32, u32),
    /// The field.
    pub field: FieldPath,
}

/// What was found of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The field, its key included where it has one; of a path that leads nowhere the last step
    /// that is there.
    pub place: Place,
    /// The key alone, where the last step is one.
    pub key: Option<Place>,
    /// The value alone; where it goes on over several lines, its start.
    pub value: Place,
    /// Whether the whole path was there.
    pub whole: bool,
}

/// Looks fields up in a file's text; `None` where no object starts at that place, or the text
/// cannot be read.
pub fn locate(name: &str, content: &str, wanted: &[Wanted]) -> Vec<Option<Found>> {
    let text = Text::new(name.into(), content);
    let mut found: Vec<Option<Found>> = vec![None; wanted.len()];
    let mut by_object: HashMap<(u32, u32), Vec<usize>> = HashMap::new();
    for (index, one) in wanted.iter().enumerate() {
        by_object.entry(one.object).or_default().push(index);
    }
    let mut look = |node: &Node<'_>| {
        for index in by_object.get(&(node.at.line, node.at.column)).into_iter().flatten() {
            found[*index] = Some(follow(&text, node, &wanted[*index].field));
        }
    };
    let lines: Vec<u32> = wanted.iter().map(|one| one.object.0).collect();
    for document in documents(&text, &lines) {
        look(&document);
        if let Value::Map(map) = &document.value
            && let Some(items) = map.get("items")
            && let Value::List(items) = &items.value.value
        {
            items.iter().for_each(&mut look);
        }
    }
    found
}

/// A file that is one YAML or JSON document and no manifest, with the limits of those.
///
/// # Errors
/// Why it cannot be read, with the line.
pub fn document(name: &str, content: &str) -> Result<serde_json::Value, String> {
    let text = Text::new(name.into(), content);
    let mut budget = 100_000;
    let mut found = serde_json::Value::Null;
    for part in text.documents() {
        let (nodes, broken) = yaml::parse(part, &mut budget);
        if let Some(broken) = broken {
            return Err(format!("{name}:{}: {}", broken.at.line, broken.message));
        }
        for node in nodes.iter().filter(|node| !node.is_null()) {
            if !found.is_null() {
                return Err(format!("{name}:{}: one document is enough", node.at.line));
            }
            found = node.to_json();
        }
    }
    Ok(found)
}

/// The trees of a text, as the reader sees them; of YAML only the documents that have one of these
/// lines.
pub(crate) fn documents<'t>(text: &Text<'t>, lines: &[u32]) -> Vec<Node<'t>> {
    if json::looks_like_json(text.text) {
        let (nodes, broken) = json::parse(text.text);
        if broken.is_none() {
            return nodes;
        }
    }
    let mut budget = 2_000_000;
    let parts = text.documents();
    let starts: Vec<u32> = parts.iter().map(|part| part.lines_before).collect();
    let mut asked = vec![false; parts.len()];
    for line in lines {
        // The last that begins before it; what comes before the first is the first's.
        let part = starts.partition_point(|before| before < line).max(1) - 1;
        asked.iter_mut().skip(part).take(1).for_each(|it| *it = true);
    }
    let asked = parts.into_iter().zip(asked).filter_map(|(part, asked)| asked.then_some(part));
    asked.flat_map(|part| yaml::parse(part, &mut budget).0).collect()
}

/// The node at the end of a path, as far as it is there, and the key that led to it.
pub(crate) fn walk<'n, 't>(
    root: &'n Node<'t>,
    field: &FieldPath,
) -> (&'n Node<'t>, Option<At>, usize) {
    let (mut node, mut key, mut steps) = (root, None, 0);
    for step in &field.0 {
        let next = match (&node.value, step) {
            (Value::Map(map), Step::Key(wanted)) => {
                map.get(wanted).map(|entry| (&entry.value, Some(entry.at)))
            }
            (Value::List(items), Step::Item(index)) => items.get(*index).map(|item| (item, None)),
            _ => None,
        };
        let Some((inner, at)) = next else { break };
        (node, key, steps) = (inner, at, steps + 1);
    }
    (node, key, steps)
}

fn follow(text: &Text<'_>, root: &Node<'_>, field: &FieldPath) -> Found {
    let (node, key, steps) = walk(root, field);
    let whole = steps == field.0.len();
    let mut at = key.unwrap_or(node.at);
    if let Some(key) = key
        && node.at.line == key.line
        && node.at.column > key.column
    {
        at.length = node.at.column + node.at.length.max(1) - key.column;
    }
    Found {
        place: text.place(at),
        key: key.map(|at| text.place(at)),
        value: text.place(node.at),
        whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
apiVersion: v1
kind: Pod
---
kind: NetworkPolicy
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from:
    - podSelector: {}
    - ipBlock:
        cidr: 10.0.0.0/8
";

    fn place(object: (u32, u32), field: FieldPath) -> Option<(String, u32, bool)> {
        let found = locate("x.yaml", TEXT, &[Wanted { object, field }]).remove(0)?;
        Some((found.place.source.to_string(), found.place.length, found.whole))
    }

    #[test]
    fn a_field_is_found_with_its_key_and_its_value() {
        let peers = FieldPath::keys("spec.ingress").item(0).key("from");
        let at = |line| Some((format!("x.yaml:{line}"), true));
        let whole = |field| place((4, 1), field).map(|(source, _, whole)| (source, whole));
        assert_eq!(whole(peers.item(1)), at("10:7"));
        let cidr = peers.item(1).key("ipBlock").key("cidr");
        assert_eq!(place((4, 1), cidr), Some(("x.yaml:11:9".into(), 16, true)));
        let label = FieldPath::keys("spec.podSelector.matchLabels.app");
        assert_eq!(place((4, 1), label), Some(("x.yaml:6:31".into(), 8, true)));
    }

    #[test]
    fn of_a_path_that_leads_nowhere_the_last_step_is_found() {
        let beyond = FieldPath::keys("spec.ingress").item(4);
        assert_eq!(place((4, 1), beyond), Some(("x.yaml:7:3".into(), 7, false)));
        assert_eq!(place((9, 9), FieldPath::keys("spec")), None);
    }
}

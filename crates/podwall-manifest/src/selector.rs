//! What does a label selector of a manifest require?
//!
//! ```text
//!   matchLabels: {app: web}                                      app=web
//!   matchExpressions: [{key: env, operator: In, values: [a]}]    env in (a)
//! ```
//!
//! Source: `ValidateLabelSelector` in `k8s.io/apimachinery/pkg/apis/meta/v1/validation`.

use std::collections::BTreeSet;
use std::sync::Arc;

use podwall_policy::selector::{Operator, Requirement, Selector};

use crate::diagnostic::Code;
use crate::metadata;
use crate::node::{Entry, Map, Node, Value};
use crate::walk::{Path, Unknown, Walk};

/// The four operators, as the API writes them.
const OPERATORS: [&str; 4] = ["In", "NotIn", "Exists", "DoesNotExist"];

/// Reads a `LabelSelector`. Null is the caller's to judge; here it is the empty selector.
pub(crate) fn read(walk: &mut Walk<'_>, node: &Node<'_>, path: &Path<'_>) -> Selector {
    let mut selector = Selector::everything();
    let Some(map) = walk.map(node, path) else { return selector };
    walk.fields(
        map,
        path,
        &["matchLabels", "matchExpressions"],
        Unknown::Refuse,
        |key| match key {
            "podSelector" | "namespaceSelector" => Some("a selector does not contain another one"),
            "matchExpression" => Some("did you mean `matchExpressions`?"),
            "matchLabel" | "labels" | "matchlabels" => Some("did you mean `matchLabels`?"),
            "app" | "name" | "role" | "env" | "tier" => Some("put it under `matchLabels`"),
            _ => None,
        },
    );
    if let Some(entry) = map.get("matchLabels") {
        let path = path.field("matchLabels");
        if let Some(labels) = walk.map(&entry.value, &path) {
            for label in &labels.entries {
                if let Some(value) = metadata::label(walk, label, &path) {
                    let operator = Operator::Equals(value.into());
                    selector.requirements.push(Requirement { key: (&*label.key).into(), operator });
                }
            }
        }
    }
    if let Some(entry) = map.get("matchExpressions") {
        let path = path.field("matchExpressions");
        for (i, item) in walk.list(&entry.value, &path).unwrap_or_default().iter().enumerate() {
            let path = path.index(i);
            if let Some(map) = item_map(walk, item, &path)
                && let Some(requirement) = requirement(walk, map, item, &path)
            {
                selector.requirements.push(requirement);
            }
        }
    }
    selector
}

fn item_map<'n, 't>(
    walk: &mut Walk<'_>,
    item: &'n Node<'t>,
    path: &Path<'_>,
) -> Option<&'n Map<'t>> {
    if item.is_null() {
        walk.wrong_type(item, path, "a mapping");
    }
    walk.map(item, path)
}

fn requirement(
    walk: &mut Walk<'_>,
    map: &Map<'_>,
    item: &Node<'_>,
    path: &Path<'_>,
) -> Option<Requirement> {
    walk.fields(map, path, &["key", "operator", "values"], Unknown::Refuse, |key| match key {
        "value" => Some("did you mean `values`, a list?"),
        _ => None,
    });
    let key = match map.get("key").filter(|e| !e.value.is_null()) {
        Some(Entry { value, .. }) => {
            let path = path.field("key");
            let key = walk.text(value, &path);
            if let Some(key) = key {
                metadata::label_key(walk, key, value.at, &path);
            }
            key
        }
        None => {
            walk.missing(item.at, &path.field("key"));
            None
        }
    };
    let values_entry = map.get("values").filter(|e| !e.value.is_null());
    let values = values_entry.map(|e| values(walk, &e.value, &path.field("values")));
    let operator = match map.get("operator").filter(|e| !e.value.is_null()) {
        Some(Entry { value, .. }) => {
            let path = path.field("operator");
            match (&value.value, alias(value)) {
                (_, Some(meant)) => {
                    let message = "this is not an operator of a selector";
                    walk.error(Code::UnsupportedValue, value.at, &path, message)
                        .help(format!("did you mean `{meant}`?"));
                    None
                }
                _ => walk.one_of(value, &path, &OPERATORS),
            }
        }
        None => {
            walk.missing(item.at, &path.field("operator"))
                .help("write `operator: In`, `NotIn`, `Exists` or `DoesNotExist`");
            None
        }
    }?;
    let path = path.field("values");
    let is_empty = values.as_ref().is_none_or(|v| v.count == 0);
    match operator {
        "In" | "NotIn" if is_empty => {
            let at = values_entry.map_or(item.at, |e| e.at);
            let message = format!("`{path}` must have at least one value for `{operator}`");
            let diagnostic = walk.error(Code::MissingField, at, &path, message);
            let instead = if operator == "In" { "Exists" } else { "DoesNotExist" };
            diagnostic.help(format!("to ask for the key alone, write `operator: {instead}`"));
            return None;
        }
        "Exists" | "DoesNotExist" if !is_empty => {
            let at = values_entry.map_or(item.at, |e| e.at);
            let message = format!("`{path}` must be absent for `{operator}`");
            let instead = if operator == "Exists" { "In" } else { "NotIn" };
            walk.error(Code::Conflict, at, &path, message)
                .help(format!("to compare values, write `operator: {instead}`"));
            return None;
        }
        _ => {}
    }
    let values = values.map(|v| v.set).unwrap_or_default();
    let operator = match operator {
        "In" => Operator::In(values),
        "NotIn" => Operator::NotIn(values),
        "Exists" => Operator::Exists,
        _ => Operator::DoesNotExist,
    };
    Some(Requirement { key: key?.into(), operator })
}

struct Values {
    set: BTreeSet<Arc<str>>,
    /// Items in the list, the wrong ones included.
    count: usize,
}

fn values(walk: &mut Walk<'_>, node: &Node<'_>, path: &Path<'_>) -> Values {
    let Some(items) = walk.list(node, path) else {
        // Something stands there: it is wrong already, and not "no value".
        return Values { set: BTreeSet::new(), count: 1 };
    };
    let mut set = BTreeSet::new();
    for (i, item) in items.iter().enumerate() {
        if let Some(value) = metadata::label_value(walk, item, &path.index(i)) {
            set.insert(value.into());
        }
    }
    Values { set, count: items.len() }
}

/// Operators of other languages, node selectors among them.
fn alias(node: &Node<'_>) -> Option<&'static str> {
    let Value::Text(text) = &node.value else { return None };
    match &*text.to_lowercase() {
        "=" | "==" | "equals" | "equal" | "is" => Some("In"),
        "!=" | "notequals" | "not in" | "not" => Some("NotIn"),
        "exist" | "present" => Some("Exists"),
        "notexists" | "notexist" | "!" | "absent" => Some("DoesNotExist"),
        _ => None,
    }
}

//! How much of what was written is kept, beside what policies see of it?
//!
//! ```text
//!   {apiVersion, kind, metadata, spec, status} ──All────▶ all of it: reads again as the same object
//!                                              └─Little─▶ metadata.annotations, spec.selector
//!                                                         of workloads, policies as they are
//! ```
//!
//! As JSON a pod takes ten times the room of what policies see of it. Who only answers questions has
//! no use for it.

use serde_json::{Map as JsonMap, Value as Json};

use crate::expand::suffix;
use crate::kind::{Class, Kind};
use crate::node::{Map, Node, Value};
use crate::object::ObjectKey;

/// What is kept of what was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Written {
    /// Everything, for who hands the objects on. Read by one thread.
    #[default]
    All,
    /// What answers are made of: policies, annotations, and workloads' selectors. Read by several
    /// threads where there is much.
    Little,
}

/// The annotation in which `kubectl apply` keeps the whole object once more.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What is kept of one object, and how many values that is; a mapping of JSON takes the room of some
/// eight others, what policies see of an object about that of its values.
pub(crate) fn keep(
    written: Written,
    node: &Node<'_>,
    map: &Map<'_>,
    kind: &Kind,
    key: &ObjectKey,
) -> (Json, usize) {
    match written {
        Written::Little if kind.class != Class::Policy => (little(map, kind.class), node.size()),
        _ => {
            let raw = complete(node, kind, key);
            let values = size(&raw);
            (raw, values)
        }
    }
}

/// Ten characters that stand for a workload's template, as in `pod-template-hash`.
pub(crate) fn template_hash(
    node: &Node<'_>,
    map: &Map<'_>,
    kind: &Kind,
    key: &ObjectKey,
) -> String {
    let template = match map.get("spec").map(|spec| &spec.value.value) {
        Some(Value::Map(spec)) => spec.get("template").map(|template| template.value.to_json()),
        _ => None,
    };
    let template = template.unwrap_or_else(|| complete(node, kind, key));
    suffix(&[template.to_string().as_bytes()], 10)
}

fn little(map: &Map<'_>, class: Class) -> Json {
    let inner = |outer: &str, key: &str| match &map.get(outer)?.value.value {
        Value::Map(fields) => fields.get(key).map(|entry| &entry.value),
        _ => None,
    };
    let mut out = JsonMap::new();
    if let Some(Node { value: Value::Map(annotations), .. }) = inner("metadata", "annotations") {
        let own = annotations.entries.iter().filter(|entry| entry.key != LAST_APPLIED);
        let own: JsonMap<_, _> =
            own.map(|entry| (entry.key.to_string(), entry.value.to_json())).collect();
        if !own.is_empty() {
            out.insert("metadata".into(), Json::from_iter([("annotations", Json::Object(own))]));
        }
    }
    if class == Class::Workload
        && let Some(selector) = inner("spec", "selector")
    {
        out.insert("spec".into(), Json::from_iter([("selector", selector.to_json())]));
    }
    if out.is_empty() { Json::Null } else { Json::Object(out) }
}

/// The object with what lists and defaults have lent it.
fn complete(node: &Node<'_>, kind: &Kind, key: &ObjectKey) -> Json {
    let mut raw = node.to_json();
    let Json::Object(map) = &mut raw else { return raw };
    map.insert("apiVersion".into(), kind.api_version.into());
    map.insert("kind".into(), kind.name.into());
    if let Some(Json::Object(metadata)) = map.get_mut("metadata") {
        metadata.remove("managedFields");
        metadata.insert("name".into(), (&*key.name).into());
        if kind.is_namespaced() {
            metadata.insert("namespace".into(), (&*key.namespace).into());
        } else {
            metadata.remove("namespace");
        }
    }
    raw
}

/// How much room a tree takes, counted in values.
fn size(json: &Json) -> usize {
    match json {
        Json::Array(items) => 1 + items.iter().map(size).sum::<usize>(),
        Json::Object(map) => 8 + map.values().map(size).sum::<usize>(),
        _ => 1,
    }
}

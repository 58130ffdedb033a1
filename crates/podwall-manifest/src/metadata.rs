//! What is the object called, and which labels does it carry?
//!
//! ```text
//!   metadata:
//!     name: web                    required, by the kind's naming rule; or generateName
//!     namespace: demo              the run's default namespace where it is missing
//!     labels: {app: web}           strings only, key and value by the rules of labels
//!     ownerReferences: […]         the controller among them
//! ```
//!
//! Sources: `ValidateObjectMeta` in `k8s.io/apimachinery/pkg/api/validation/objectmeta.go`,
//! `ValidateLabels` in `pkg/apis/meta/v1/validation/validation.go`.

use std::sync::Arc;

use podwall_policy::label::Labels;
use podwall_policy::object::Owner;

use crate::diagnostic::Code;
use crate::names::{self, short};
use crate::node::{Entry, Map, Node, Value};
use crate::text::At;
use crate::walk::{Path, Unknown, Walk};

/// How objects of a kind are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Naming {
    /// RFC 1123 subdomain: most kinds.
    Subdomain,
    /// RFC 1123 label: Namespaces.
    Label,
    /// RFC 1035 label: Services.
    Label1035,
    /// A subdomain that leaves room for what the controller adds: CronJobs, 52 characters.
    CronJob,
}

impl Naming {
    fn check(self, name: &str) -> Option<String> {
        match self {
            Self::Subdomain => names::dns_subdomain(name),
            Self::Label => names::dns_label(name),
            Self::Label1035 => names::dns_1035_label(name),
            Self::CronJob => names::dns_subdomain(name).or_else(|| {
                (name.len() > 52).then(|| "must have at most 52 characters".to_string())
            }),
        }
    }
}

/// What is read of `metadata`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metadata {
    pub(crate) name: Option<Arc<str>>,
    /// Where the name stands.
    pub(crate) name_at: At,
    /// `None` where the manifest says nothing.
    pub(crate) namespace: Option<Arc<str>>,
    pub(crate) labels: Labels,
    pub(crate) uid: Option<Arc<str>>,
    /// The owner that is the controller.
    pub(crate) owner: Option<Owner>,
}

/// The fields of `ObjectMeta` (`k8s.io/apimachinery/pkg/apis/meta/v1/types.go`).
const FIELDS: &[&str] = &[
    "name",
    "generateName",
    "namespace",
    "selfLink",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "labels",
    "annotations",
    "ownerReferences",
    "finalizers",
    "managedFields",
    "clusterName",
];

/// Reads the `metadata` of an object of its own.
pub(crate) fn read(
    walk: &mut Walk<'_>,
    entry: &Entry<'_>,
    naming: Naming,
    path: &Path<'_>,
) -> Metadata {
    let mut metadata = read_any(walk, &entry.value, path);
    let map = match &entry.value.value {
        Value::Map(map) => map,
        Value::Null => &Map::default(),
        _ => return metadata,
    };
    let string = |key: &str| match map.get(key).map(|e| (&e.value, &e.value.value)) {
        Some((node, Value::Text(text))) if !text.is_empty() => Some((&**text, node.at)),
        _ => None,
    };
    if let Some((name, at)) = string("name") {
        if let Some(wrong) = naming.check(name) {
            let message = format!("name `{}` {wrong}", short(name));
            let lower = name.to_lowercase().replace(['_', ' '], "-");
            let better = naming.check(&lower).is_none().then_some(lower);
            let diagnostic = walk.error(Code::InvalidName, at, &path.field("name"), message);
            if let Some(better) = better {
                diagnostic.help(format!("write `{better}`"));
            }
        }
    } else if let Some((prefix, at)) = string("generateName") {
        // The prefix may end in `-`; what the server appends makes it whole.
        let name = generated_name(prefix, at);
        if let Some(wrong) = naming.check(&name) {
            let message =
                format!("names made from `{}` are refused: a name {wrong}", short(prefix));
            walk.error(Code::InvalidName, at, &path.field("generateName"), message);
        }
        metadata.name = Some(name.into());
        metadata.name_at = at;
    } else if !map.get("name").is_some_and(|e| !e.value.is_null() && !is_empty(&e.value)) {
        let at = map.get("name").map_or(entry.at, |e| e.at);
        walk.missing(at, &path.field("name")).help("give the object a name");
    }
    if let Some(namespace) = &metadata.namespace
        && let Some(wrong) = names::dns_label(namespace)
    {
        let at = string("namespace").map_or(entry.at, |(_, at)| at);
        let message = format!("namespace `{}` {wrong}", short(namespace));
        walk.error(Code::InvalidName, at, &path.field("namespace"), message);
    }
    metadata
}

/// Reads the `metadata` of a pod template: without a name.
pub(crate) fn read_any(walk: &mut Walk<'_>, node: &Node<'_>, path: &Path<'_>) -> Metadata {
    let mut metadata = Metadata::default();
    let Some(map) = walk.map(node, path) else { return metadata };
    walk.fields(map, path, FIELDS, Unknown::Refuse, hint);
    for Entry { key, value, .. } in &map.entries {
        let path = path.field(key);
        let text = |walk: &mut Walk<'_>| {
            walk.text(value, &path).filter(|t| !t.is_empty()).map(Arc::<str>::from)
        };
        match &**key {
            "name" => {
                metadata.name = text(walk);
                metadata.name_at = value.at;
            }
            "namespace" => metadata.namespace = text(walk),
            "uid" => metadata.uid = text(walk),
            "generateName" => _ = text(walk),
            "labels" => metadata.labels = labels(walk, value, &path),
            "annotations" => annotations(walk, value, &path),
            "ownerReferences" => metadata.owner = owner(walk, value, &path),
            _ => {}
        }
    }
    metadata
}

fn hint(key: &str) -> Option<&'static str> {
    match key {
        "label" => Some("did you mean `labels`?"),
        "annotation" => Some("did you mean `annotations`?"),
        "matchLabels" => Some("an object carries `labels`; `matchLabels` belongs in a selector"),
        "spec" => Some("`spec` stands beside `metadata`: give it less indentation"),
        "app" => Some("put it under `labels`"),
        _ => None,
    }
}

/// Reads a mapping of labels.
pub(crate) fn labels(walk: &mut Walk<'_>, node: &Node<'_>, path: &Path<'_>) -> Labels {
    let Some(map) = walk.map(node, path) else { return Labels::default() };
    let mut pairs: Vec<(Arc<str>, Arc<str>)> = Vec::with_capacity(map.entries.len());
    for entry in &map.entries {
        if let Some(value) = label(walk, entry, path) {
            pairs.push((Arc::from(&*entry.key), value.into()));
        }
    }
    pairs.into_iter().collect()
}

/// Checks one label; hands out its value.
pub(crate) fn label<'n>(
    walk: &mut Walk<'_>,
    entry: &'n Entry<'_>,
    path: &Path<'_>,
) -> Option<&'n str> {
    let path = path.key(&entry.key);
    label_key(walk, &entry.key, entry.at, &path);
    label_value(walk, &entry.value, &path)
}

pub(crate) fn label_key(walk: &mut Walk<'_>, key: &str, at: At, path: &Path<'_>) {
    if let Some(wrong) = names::label_key(key) {
        let message = format!("label key `{}` {wrong}", short(key));
        walk.error(Code::InvalidLabel, at, path, message);
    }
}

pub(crate) fn label_value<'n>(
    walk: &mut Walk<'_>,
    node: &'n Node<'_>,
    path: &Path<'_>,
) -> Option<&'n str> {
    // Go decodes null into a map of strings as the empty string.
    let value = if node.is_null() { "" } else { walk.text(node, path)? };
    if let Some(wrong) = names::label_value(value) {
        let message = format!("label value `{}` {wrong}", short(value));
        walk.error(Code::InvalidLabel, node.at, path, message);
    }
    Some(value)
}

fn annotations(walk: &mut Walk<'_>, node: &Node<'_>, path: &Path<'_>) {
    let Some(map) = walk.map(node, path) else { return };
    for Entry { key, value, at } in &map.entries {
        let path = path.key(key);
        // Keys are compared in lower case (`ValidateAnnotations`).
        if let Some(wrong) = names::label_key(&key.to_lowercase()) {
            let message = format!("annotation key `{}` {wrong}", short(key));
            walk.error(Code::InvalidLabel, *at, &path, message);
        }
        walk.text(value, &path);
    }
}

fn owner(walk: &mut Walk<'_>, node: &Node<'_>, path: &Path<'_>) -> Option<Owner> {
    let mut owners = Vec::new();
    for (i, item) in walk.list(node, path)?.iter().enumerate() {
        let path = path.index(i);
        let Some(map) = walk.map(item, &path) else { continue };
        let mut field = |key: &str| {
            let entry = map.get(key)?;
            walk.text(&entry.value, &path.field(key)).map(Arc::<str>::from)
        };
        let (kind, name) = (field("kind"), field("name"));
        let controller = match map.get("controller") {
            Some(entry) => walk.bool(&entry.value, &path.field("controller")).unwrap_or(false),
            None => false,
        };
        if let (Some(kind), Some(name)) = (kind, name) {
            owners.push((controller, Owner { kind, name }));
        }
    }
    let controller = owners.iter().position(|(controller, _)| *controller);
    let index = controller.or((owners.len() == 1).then_some(0))?;
    // Mirror pods of static pods are owned by their Node, which is no workload.
    Some(owners.swap_remove(index).1).filter(|owner| &*owner.kind != "Node")
}

fn is_empty(node: &Node<'_>) -> bool {
    matches!(&node.value, Value::Text(text) if text.is_empty())
}

/// The name that an object with only `generateName` gets here: five characters as the API server
/// appends them, the same for the same line of the same input.
fn generated_name(prefix: &str, at: At) -> String {
    let seed = u64::from(at.line) << 32 | u64::from(at.column);
    let cut: String = prefix.chars().take(58).collect();
    format!("{cut}{}", crate::expand::suffix(&[prefix.as_bytes(), &seed.to_le_bytes()], 5))
}

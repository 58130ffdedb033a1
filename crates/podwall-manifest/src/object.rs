//! Which objects does a document hold?
//!
//! ```text
//!   {apiVersion: v1, kind: Pod, …}            one object
//!   {kind: List, items: [ {…}, {…} ]}         each item; `PodList` lends its items kind and version
//!   {kind: ConfigMap, …}                      skipped, counted
//!   null                                      nothing
//! ```

use std::fmt;
use std::sync::Arc;

use podwall_policy::entrance::Entrance;
use podwall_policy::object::{Name, Namespace, Node as NodeObject, Pod, Service, Workload};
use podwall_policy::policy::Policy;
use podwall_policy::source::Source;
use serde_json::Value as Json;

use crate::diagnostic::{Code, Diagnostic, Findings, Place};
use crate::kind::{Class, KINDS, Kind, Known};
use crate::metadata::{self, Metadata};
use crate::names::{dns_label, short};
use crate::node::{Map, Node, Value};
use crate::reading::Options;
use crate::text::{At, Text};
use crate::walk::{Path, Unknown, Walk};
use crate::{entrance, kind, node_object, pod, policy, service, suggest, workload, written};

/// What makes an object unique.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// `NetworkPolicy`
    pub kind: Arc<str>,
    /// Empty for Namespaces and Nodes.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl fmt::Display for ObjectKey {
    /// `NetworkPolicy demo/web`, `Namespace demo`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind)?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

/// A checked object.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Kind, namespace and name.
    pub key: ObjectKey,
    /// What policies see of it.
    pub typed: Typed,
    /// All that was written, with `apiVersion`, `kind`, `metadata.name` and, for namespaced kinds,
    /// `metadata.namespace` filled in, and without `metadata.managedFields`, as kubectl prints it.
    /// Reads again as the same object. Less, if [`Options::written`] says so.
    pub raw: Json,
    /// Ten characters that stand for a workload's template, as in `pod-template-hash`.
    pub template_hash: Option<Arc<str>>,
    /// Where it starts.
    pub source: Source,
}

/// What policies see of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Typed {
    /// A Namespace.
    Namespace(Namespace),
    /// A Node.
    Node(NodeObject),
    /// A Pod; its owner is the one that it names itself.
    Pod(Box<Pod>),
    /// A Service.
    Service(Box<Service>),
    /// One of the seven kinds that make pods.
    Workload(Box<Workload>),
    /// A NetworkPolicy.
    Policy(Box<Policy>),
    /// What leads to Services from outside; only with [`Options::entrances`].
    Entrance(Box<Entrance>),
}

/// An object that has an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Its kind, if it could be read.
    pub kind: Option<Arc<str>>,
    /// Its namespace (the default one if it names none), if the kind has one.
    pub namespace: Option<Arc<str>>,
    /// Its name, if it could be read.
    pub name: Option<Arc<str>>,
    /// Where it starts.
    pub source: Source,
}

impl fmt::Display for LeftOut {
    /// `NetworkPolicy demo/web (web.yaml:1:1)`, `a document (web.yaml:9:1)`, `a file (x.yaml)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Some(kind) => f.write_str(&short(kind))?,
            None if self.source.line == 0 => f.write_str("a file")?,
            None => f.write_str("a document")?,
        }
        if let Some(name) = &self.name {
            match &self.namespace {
                Some(namespace) => write!(f, " {}/{}", short(namespace), short(name))?,
                None => write!(f, " {}", short(name))?,
            }
        }
        write!(f, " ({})", self.source)
    }
}

/// What came out of a document, handed to the reader one by one.
#[derive(Debug)]
pub(crate) enum Outcome {
    Object {
        object: Box<Object>,
        /// Where its name stands.
        place: Place,
        /// How much room it takes, in values.
        values: usize,
    },
    LeftOut(LeftOut),
    Skipped(String),
}

/// Kind and version that a typed list lends to its items.
#[derive(Clone, Copy)]
struct Lent<'l> {
    api_version: &'l str,
    kind: &'l str,
}

/// What came out of one document.
#[derive(Debug)]
pub(crate) struct Document {
    /// In the order of the document.
    pub(crate) outcomes: Vec<Outcome>,
    /// In the order of the checks.
    pub(crate) findings: Findings,
}

/// Reads the objects of one document.
pub(crate) fn read_document(text: &Text<'_>, node: &Node<'_>, options: &Options) -> Document {
    let mut document =
        Document { outcomes: Vec::new(), findings: Findings::new(options.max_findings) };
    read_any(text, node, None, options, &mut document);
    document
}

fn read_any(
    text: &Text<'_>,
    node: &Node<'_>,
    lent: Option<Lent<'_>>,
    options: &Options,
    document: &mut Document,
) {
    let Document { outcomes, findings } = &mut *document;
    let mut walk = Walk { text, findings, object: None };
    let mut left_out =
        LeftOut { kind: None, namespace: None, name: None, source: text.source(node.at) };
    let map = match &node.value {
        // An empty document; kubectl passes it over too.
        Value::Null if lent.is_none() => return,
        Value::Map(map) if map.entries.is_empty() && lent.is_none() && map.twice.is_none() => {
            return;
        }
        Value::Map(map) => map,
        _ if lent.is_none() && text.found => {
            return outcomes.push(Outcome::Skipped(NO_OBJECT.to_owned()));
        }
        _ => {
            let message = format!("a Kubernetes object is a mapping, this is {}", node.describe());
            walk.error(Code::NotAnObject, node.at, &Path::root(""), message)
                .help("an object starts with `apiVersion:` and `kind:`");
            return outcomes.push(Outcome::LeftOut(left_out));
        }
    };
    if lent.is_none() && text.found && is_foreign(map) {
        return outcomes.push(Outcome::Skipped(NO_OBJECT.to_owned()));
    }
    let Some((api_version, kind_name)) = identity(&mut walk, map, node, lent) else {
        left_out.kind = match map.get("kind").map(|e| &e.value.value) {
            Some(Value::Text(kind)) => Some(Arc::from(&**kind)),
            _ => None,
        };
        return outcomes.push(Outcome::LeftOut(left_out));
    };
    if let Some(items) = map.get("items")
        && let Some(item_kind) = kind_name.strip_suffix("List")
    {
        let lent = (!item_kind.is_empty()).then_some(Lent { api_version, kind: item_kind });
        let path = Path::root("items");
        let errors = walk.findings.errors();
        let list = walk.list(&items.value, &path).unwrap_or_default();
        if walk.findings.errors() > errors {
            left_out.kind = Some(kind_name.into());
            outcomes.push(Outcome::LeftOut(left_out));
        }
        for item in list {
            read_any(text, item, lent, options, document);
        }
        return;
    }
    let entrance = options.entrances.then(|| kind::entrance(api_version, kind_name)).flatten();
    let known = match entrance {
        Some(Ok(kind)) => {
            let outcome = read_known(&mut walk, kind, map, node, options, left_out);
            return outcomes.push(outcome);
        }
        Some(Err(known)) => known,
        None => kind::find(api_version, kind_name),
    };
    match known {
        Known::Skip(name) => outcomes.push(Outcome::Skipped(name)),
        Known::Read(index) => {
            let outcome = read_known(&mut walk, &KINDS[index], map, node, options, left_out);
            outcomes.push(outcome);
        }
        Known::WrongVersion { use_instead, former } => {
            let at = map.get("apiVersion").map_or(node.at, |e| e.value.at);
            let message = if former {
                format!("`{}` no longer serves {kind_name}", short(api_version))
            } else {
                format!("there is no {kind_name} in `{}`", short(api_version))
            };
            walk.error(Code::WrongApiVersion, at, &Path::root("apiVersion"), message)
                .help(format!("write `apiVersion: {use_instead}`"));
            left_out.kind = Some(kind_name.into());
            outcomes.push(Outcome::LeftOut(left_out));
        }
        Known::Typo(meant) => {
            let at = map.get("kind").map_or(node.at, |e| e.value.at);
            let message =
                format!("there is no kind `{}` in `{}`", short(kind_name), short(api_version));
            walk.error(Code::UnknownKind, at, &Path::root("kind"), message)
                .help(format!("did you mean `{meant}`?"));
            left_out.kind = Some(kind_name.into());
            outcomes.push(Outcome::LeftOut(left_out));
        }
    }
}

/// What was found among manifests and is none, as it is counted.
const NO_OBJECT: &str = "document without apiVersion and kind";

/// Whether nothing says that this is meant for Kubernetes: a policy without its first lines has to
/// be told of, the settings of another program have not.
fn is_foreign(map: &Map<'_>) -> bool {
    let stated = |key: &&str| map.get(key).is_some() || suggest::nearest_key(map, key).is_some();
    !["apiVersion", "kind", "metadata", "spec"].iter().any(stated)
}

/// `apiVersion` and `kind`: both must be there.
fn identity<'n>(
    walk: &mut Walk<'_>,
    map: &'n Map<'_>,
    node: &Node<'_>,
    lent: Option<Lent<'n>>,
) -> Option<(&'n str, &'n str)> {
    let stated = |key: &str| map.get(key).is_some() || suggest::nearest_key(map, key).is_some();
    if lent.is_none() && !stated("apiVersion") && !stated("kind") {
        let message = "this is not a Kubernetes object: it has no `apiVersion` and no `kind`";
        walk.error(Code::NotAnObject, node.at, &Path::root(""), message);
        return None;
    }
    let mut field = |key: &'static str, lent: Option<&'n str>| {
        let path = Path::root(key);
        let entry = map.get(key).filter(|e| !e.value.is_null());
        let text = match entry {
            Some(entry) => walk.text(&entry.value, &path)?,
            None => lent.unwrap_or_default(),
        };
        if text.is_empty() {
            let at = map.get(key).map_or(node.at, |e| e.at);
            let near = suggest::nearest_key(map, key);
            let diagnostic = walk.missing(at, &path);
            match near {
                Some(near) => diagnostic.help(format!("`{}` should be `{key}`", short(near))),
                None if key == "kind" => diagnostic.help(
                    "is this a Kubernetes manifest? it starts with `apiVersion:` and `kind:`",
                ),
                None => diagnostic,
            };
            return None;
        }
        Some(text)
    };
    let api_version = field("apiVersion", lent.map(|l| l.api_version));
    let kind = field("kind", lent.map(|l| l.kind));
    Some((api_version?, kind?))
}

const TOP: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];

fn read_known(
    walk: &mut Walk<'_>,
    kind: &'static Kind,
    map: &Map<'_>,
    node: &Node<'_>,
    options: &Options,
    mut left_out: LeftOut,
) -> Outcome {
    let errors = walk.findings.errors();
    left_out.kind = Some(kind.name.into());
    let metadata = read_metadata(walk, kind, map, node);
    let namespace: Arc<str> = match &metadata.namespace {
        _ if !kind.is_namespaced() => "".into(),
        Some(namespace) => namespace.clone(),
        None => options.default_namespace.clone(),
    };
    left_out.namespace = kind.is_namespaced().then(|| namespace.clone());
    left_out.name = metadata.name.clone();
    let name = metadata.name.clone().unwrap_or_default();
    let key = ObjectKey { kind: kind.name.into(), namespace, name };
    walk.object = Some(short(&key.to_string()));
    walk.fields(map, &Path::root(""), &TOP, Unknown::Refuse, |field| match (kind.class, field) {
        (_, "labels" | "name" | "namespace" | "annotations") => Some("it belongs under `metadata`"),
        (Class::Policy, "podSelector" | "policyTypes" | "ingress" | "egress")
        | (_, "containers" | "template" | "replicas" | "selector" | "ports") => {
            Some("it belongs under `spec`: give it more indentation")
        }
        _ => None,
    });
    let typed = read_typed(walk, kind, &key, &metadata, map, node.at);
    node.each_twice(&mut |twice| {
        let place = walk.place(twice.first);
        let message = format!("key `{}` stands there twice", short(&twice.key));
        walk.error(Code::DuplicateKey, twice.again, &Path::root(""), message)
            .note("the first is here", Some(place));
    });
    if typed.is_none() && walk.findings.errors() == errors {
        // Every way to nothing has said why; should one not have, the object must not vanish.
        walk.error(Code::WrongType, node.at, &Path::root(""), "this object cannot be read");
    }
    let place = walk.place(metadata.name_at);
    match typed {
        Some(typed) if walk.findings.errors() == errors => {
            let source = left_out.source;
            let is_workload = kind.class == Class::Workload;
            let template_hash =
                is_workload.then(|| written::template_hash(node, map, kind, &key).into());
            let (raw, values) = written::keep(options.written, node, map, kind, &key);
            let object = Object { key, typed, raw, source, template_hash };
            Outcome::Object { object: Box::new(object), place, values }
        }
        _ => Outcome::LeftOut(left_out),
    }
}

fn read_metadata(walk: &mut Walk<'_>, kind: &Kind, map: &Map<'_>, node: &Node<'_>) -> Metadata {
    let path = Path::root("metadata");
    let Some(entry) = map.get("metadata").filter(|e| !e.value.is_null()) else {
        let at = map.get("metadata").map_or(node.at, |e| e.at);
        let help = "write `metadata: {name: …}`";
        walk.missing_unless_typo(map, "metadata", at, &path.field("name"), help);
        return Metadata::default();
    };
    if let Value::Map(fields) = &entry.value.value
        && let (Some(name), Value::Text(text)) =
            (Some(kind.name), fields.get("name").map_or(&Value::Null, |e| &e.value.value))
    {
        walk.object = Some(format!("{name} {}", short(text)));
    }
    let mut metadata = metadata::read(walk, entry, kind.naming, &path);
    if let (false, Some(namespace)) = (kind.is_namespaced(), &metadata.namespace) {
        let at = match &entry.value.value {
            Value::Map(map) => map.get("namespace").map_or(entry.at, |e| e.at),
            _ => entry.at,
        };
        let message = format!("a {} is in no namespace", kind.name);
        let mut path_note = String::new();
        if dns_label(namespace).is_none() {
            path_note = format!("remove `namespace: {namespace}`");
        }
        walk.warning(Code::NoEffect, at, &path.field("namespace"), message).help(path_note);
        metadata.namespace = None;
    }
    metadata
}

fn read_typed(
    walk: &mut Walk<'_>,
    kind: &'static Kind,
    key: &ObjectKey,
    metadata: &Metadata,
    map: &Map<'_>,
    at: At,
) -> Option<Typed> {
    let name = Name::new(key.namespace.clone(), key.name.clone());
    let source = Some(walk.text.source(at));
    let spec = map.get("spec");
    Some(match kind.class {
        Class::Namespace => {
            let mut namespace = Namespace::new(key.name.clone(), &metadata.labels);
            namespace.source = source;
            Typed::Namespace(namespace)
        }
        Class::Node => {
            let labels = metadata.labels.clone();
            Typed::Node(node_object::read(walk, key.name.clone(), labels, map, at))
        }
        Class::Pod => {
            let mut pod =
                Pod::new(name.namespace.clone(), name.name.clone(), metadata.labels.clone());
            pod.uid.clone_from(&metadata.uid);
            pod.owner.clone_from(&metadata.owner);
            pod.source = source;
            pod::spec(walk, &mut pod, spec, at, &Path::root("spec"));
            if let Some(status) = map.get("status") {
                pod::status(walk, &mut pod, &status.value, &Path::root("status"));
            }
            Typed::Pod(Box::new(pod))
        }
        Class::Service => Typed::Service(Box::new(service::read(walk, name, spec, at)?)),
        Class::Workload => {
            Typed::Workload(Box::new(workload::read(walk, kind.name, name, metadata, spec, at)?))
        }
        Class::Policy => {
            let Some(spec) = spec else {
                walk.missing_unless_typo(map, "spec", at, &Path::root("spec"), policy::NO_SPEC);
                return None;
            };
            Typed::Policy(Box::new(policy::read(walk, name, spec, at)?))
        }
        Class::Entrance | Class::Servant => {
            Typed::Entrance(Box::new(entrance::read(walk, kind.name, name, map, at)?))
        }
    })
}

/// Reads one object that is JSON already: made by a program, or kept in a file of state.
///
/// # Errors
/// All that is wrong with it, with paths of fields instead of lines; the places say `origin`. A
/// kind that is not read, a List, and an empty object are errors too.
pub fn object_from_json(
    value: &Json,
    origin: &str,
    options: &Options,
) -> Result<Object, Vec<Diagnostic>> {
    let text = Text::new(origin.into(), "");
    let mut objects = Vec::new();
    let mut skipped = None;
    let Document { outcomes, mut findings } =
        read_document(&text, &Node::from_json(value), options);
    findings.sort_by_place();
    for outcome in outcomes {
        match outcome {
            Outcome::Object { object, .. } => objects.push(*object),
            Outcome::Skipped(kind) => skipped = Some(kind),
            Outcome::LeftOut(_) => {}
        }
    }
    let object = objects.pop();
    let failed = findings.errors() > 0;
    let mut diagnostics = findings.finish();
    match object {
        Some(object) if !failed && objects.is_empty() => Ok(object),
        _ => {
            if diagnostics.is_empty() {
                let message = match skipped {
                    Some(kind) => format!("kind `{}` is not one that is read here", short(&kind)),
                    None => "expected one object".into(),
                };
                diagnostics.push(Diagnostic::error(Code::NotAnObject, message));
            }
            Err(diagnostics)
        }
    }
}

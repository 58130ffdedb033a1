//! Whom does an assertion speak of?
//!
//! ```text
//!   web   shop/web   shop/Deployment/cart   shop/svc/cart   10.0.0.7   10.0.0.0/8   internet
//!   shop/*      the pods of a namespace         *        all pods
//!   anybody     pods, nodes, and every address outside
//!   {namespace: shop, pods: app=web}            labels as kubectl -l writes them
//!   {namespaces: team=a, pods: "app in (a,b)"}
//!   {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}
//!   {peer: shop/web, ports: 443}                in the lists of `only`
//! ```

use podwall_policy::address::IpBlock;
use podwall_policy::label::METADATA_NAME;
use podwall_policy::policy::{NamespaceScope, PodScope};
use podwall_policy::selector::{Operator, Selector};
use podwall_policy::source::Source;

use super::ports::{self, Ports};
use crate::diagnostic::Code;
use crate::names::short;
use crate::node::{Entry, Map, Node, Value};
use crate::text::At;
use crate::walk::{Path, Unknown, Walk};

/// Somebody, as the file says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSpec {
    /// Who.
    pub kind: PeerKind,
    /// Where it stands.
    pub source: Source,
}

/// The ways to name somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerKind {
    /// As on the command line: a pod, a workload, a Service, an address, a CIDR, `internet`.
    Named(String),
    /// Pods by labels.
    Pods(PodScope),
    /// Addresses outside.
    Block(IpBlock),
    /// Every pod, every node, every address outside.
    Anybody,
}

/// One item of the list of an `only`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permitted {
    /// Who.
    pub peer: PeerSpec,
    /// What: the ports of the whole claim where it says nothing.
    pub ports: Option<Ports>,
}

impl std::fmt::Display for PeerSpec {
    /// As one would write it, but for selections, which are said in words.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.kind {
            PeerKind::Named(text) => f.write_str(text),
            PeerKind::Pods(scope) => match (plain_namespace(scope), scope.pods.is_everything()) {
                (Some(namespace), true) => write!(f, "{namespace}/*"),
                (Some(namespace), false) => {
                    write!(f, "pods {} in namespace {namespace}", scope.pods)
                }
                (None, _) => write!(f, "{scope}"),
            },
            PeerKind::Block(block) => write!(f, "{block}"),
            PeerKind::Anybody => f.write_str("anybody"),
        }
    }
}

/// The namespace, if the scope is one namespace by name.
fn plain_namespace(scope: &PodScope) -> Option<&str> {
    match &scope.namespaces {
        NamespaceScope::Own(name) => Some(name),
        NamespaceScope::Matching(_) => None,
    }
}

/// The peers of a field that must name somebody: one or a list.
pub(super) fn some(
    walk: &mut Walk<'_>,
    map: &Map<'_>,
    field: &str,
    at: At,
    path: &Path<'_>,
) -> Option<Vec<PeerSpec>> {
    let path = path.field(field);
    let Some(entry) = map.get(field).filter(|entry| !entry.value.is_null()) else {
        walk.missing(at, &path).help(format!("write `{field}: NAMESPACE/POD`, or a list"));
        return None;
    };
    let items = match &entry.value.value {
        Value::List(items) if items.is_empty() => {
            let message =
                format!("`{path}` is empty, so this would hold whatever the policies say");
            walk.error(Code::MissingField, entry.value.at, &path, message);
            return None;
        }
        Value::List(items) => items,
        _ => return one(walk, &entry.value, &path).map(|peer| vec![peer]),
    };
    let read: Vec<_> =
        items.iter().enumerate().map(|(i, item)| one(walk, item, &path.index(i))).collect();
    read.into_iter().collect()
}

/// The list of an `only`; may be empty.
pub(super) fn permitted(
    walk: &mut Walk<'_>,
    node: &Node<'_>,
    path: &Path<'_>,
) -> Option<Vec<Permitted>> {
    let Value::List(items) = &node.value else {
        return permitted_one(walk, node, path).map(|one| vec![one]);
    };
    let read: Vec<_> = items
        .iter()
        .enumerate()
        .map(|(i, item)| permitted_one(walk, item, &path.index(i)))
        .collect();
    read.into_iter().collect()
}

fn permitted_one(walk: &mut Walk<'_>, node: &Node<'_>, path: &Path<'_>) -> Option<Permitted> {
    let Value::Map(map) = &node.value else {
        return Some(Permitted { peer: one(walk, node, path)?, ports: None });
    };
    let ports = match map.get("ports") {
        Some(_) => Some(ports::of(walk, map, path)?),
        None => None,
    };
    let peer = match map.get("peer") {
        Some(entry) => {
            walk.fields(map, path, &["peer", "ports"], Unknown::Refuse, |_| None);
            one(walk, &entry.value, &path.field("peer"))?
        }
        None => selection(walk, node, map, path, &["ports"])?,
    };
    Some(Permitted { peer, ports })
}

fn one(walk: &mut Walk<'_>, node: &Node<'_>, path: &Path<'_>) -> Option<PeerSpec> {
    let source = walk.text.source(node.at);
    match &node.value {
        Value::Map(map) => selection(walk, node, map, path, &[]),
        Value::Text(text) => {
            let everything = Selector::everything;
            let kind = match (&**text, text.strip_suffix("/*")) {
                ("anybody", _) => PeerKind::Anybody,
                ("*" | "*/*", _) => PeerKind::Pods(PodScope {
                    namespaces: NamespaceScope::Matching(everything()),
                    pods: everything(),
                }),
                (_, Some(namespace)) if !namespace.is_empty() && !namespace.contains('/') => {
                    PeerKind::Pods(PodScope {
                        namespaces: NamespaceScope::Own(namespace.into()),
                        pods: everything(),
                    })
                }
                (text, _) if text.is_empty() || text.contains('*') => {
                    let message = format!("\"{}\" names nobody", short(text));
                    walk.error(Code::InvalidName, node.at, path, message).help(
                        "a star stands for the pods of a namespace, NAMESPACE/*, or alone for all",
                    );
                    return None;
                }
                (text, _) => PeerKind::Named(text.to_owned()),
            };
            Some(PeerSpec { kind, source })
        }
        _ => {
            walk.wrong_type(node, path, "a peer")
                .help("write NAMESPACE/POD, NAMESPACE/KIND/NAME, an address, internet, anybody");
            None
        }
    }
}

/// Pods by labels, or a block of addresses.
fn selection(
    walk: &mut Walk<'_>,
    node: &Node<'_>,
    map: &Map<'_>,
    path: &Path<'_>,
    besides: &[&str],
) -> Option<PeerSpec> {
    let source = walk.text.source(node.at);
    let known = [&["namespace", "namespaces", "pods", "cidr", "except"], besides].concat();
    walk.fields(map, path, &known, Unknown::Refuse, |field| match field {
        "labels" | "podSelector" | "selector" | "matchLabels" => {
            Some("write `pods: app=web`, as kubectl -l takes it")
        }
        "namespaceSelector" => Some("write `namespaces: team=a`, as kubectl -l takes it"),
        "ipBlock" => Some("write `cidr:` and `except:` without it"),
        "ports" => Some("`ports` belongs beside `from` and `to`"),
        _ => None,
    });
    if let Some(entry) = map.get("cidr") {
        let block = block(walk, map, entry, path)?;
        return Some(PeerSpec { kind: PeerKind::Block(block), source });
    }
    if let Some(entry) = map.get("except") {
        walk.missing(entry.at, &path.field("cidr"));
        return None;
    }
    let namespace = match map.get("namespace") {
        Some(entry) => Some(walk.text(&entry.value, &path.field("namespace"))?),
        None => None,
    };
    let namespaces = labels(walk, map, "namespaces", path)?;
    let pods = labels(walk, map, "pods", path)?;
    let namespaces = match (namespace, namespaces) {
        (Some(_), Some(_)) => {
            let message = "`namespace` is a name, `namespaces` are labels: both exclude each other";
            walk.error(Code::Conflict, node.at, path, message);
            return None;
        }
        (Some(name), None) => NamespaceScope::Own(name.into()),
        (None, Some(selector)) => NamespaceScope::Matching(selector),
        (None, None) => {
            let message = format!("`{path}` says of no namespace whose pods it means");
            walk.error(Code::MissingField, node.at, path, message)
                .help("add `namespace: NAME`, or `namespaces: \"\"` for all");
            return None;
        }
    };
    let pods = pods.unwrap_or_default();
    Some(PeerSpec { kind: PeerKind::Pods(PodScope { namespaces, pods }), source })
}

/// A selector as `kubectl -l` takes it; `None` inside if the field is absent.
fn labels(
    walk: &mut Walk<'_>,
    map: &Map<'_>,
    field: &str,
    path: &Path<'_>,
) -> Option<Option<Selector>> {
    let Some(Entry { value, .. }) = map.get(field) else { return Some(None) };
    let path = path.field(field);
    let text = walk.text(value, &path).unwrap_or_default();
    match Selector::parse(text) {
        Ok(selector) => {
            let named = |r: &podwall_policy::selector::Requirement| {
                *r.key == *METADATA_NAME && matches!(r.operator, Operator::Exists)
            };
            // `namespaces: shop` would ask for a label of that name.
            if field == "namespaces"
                && let [only] = &selector.requirements[..]
                && matches!(only.operator, Operator::Exists)
                && !named(only)
            {
                let message =
                    format!("`{path}` asks for namespaces that have a label {}", only.key);
                walk.warning(Code::Ambiguous, value.at, &path, message)
                    .help(format!("for a namespace by name write `namespace: {}`", only.key));
            }
            Some(Some(selector))
        }
        Err(why) => {
            walk.error(Code::InvalidLabel, value.at, &path, why)
                .help("labels are written as kubectl -l takes them: app=web,tier in (a,b),!old");
            None
        }
    }
}

fn block(
    walk: &mut Walk<'_>,
    map: &Map<'_>,
    entry: &Entry<'_>,
    path: &Path<'_>,
) -> Option<IpBlock> {
    for field in ["namespace", "namespaces", "pods"] {
        if let Some(other) = map.get(field) {
            let message = format!("`cidr` and `{field}` exclude each other");
            walk.error(Code::Conflict, other.at, path, message);
            return None;
        }
    }
    let net = |walk: &mut Walk<'_>, node: &Node<'_>, path: &Path<'_>| {
        let text = walk.text(node, path)?;
        match text.parse::<ipnet::IpNet>() {
            Ok(net) => Some(net),
            Err(_) => {
                let message = format!("\"{}\" is not a CIDR", short(text));
                walk.error(Code::InvalidAddress, node.at, path, message)
                    .help("a CIDR is written 10.0.0.0/8");
                None
            }
        }
    };
    let cidr = net(walk, &entry.value, &path.field("cidr"))?;
    let mut except = Vec::new();
    if let Some(entry) = map.get("except") {
        let path = path.field("except");
        for (i, item) in walk.list(&entry.value, &path).unwrap_or_default().iter().enumerate() {
            except.push(net(walk, item, &path.index(i))?);
        }
    }
    Some(IpBlock::new(cidr, except))
}

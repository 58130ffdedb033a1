//! Is this NetworkPolicy valid, and what does it say?
//!
//! ```text
//!   spec
//!    ├─ podSelector            everything where it is missing
//!    ├─ policyTypes            by default Ingress, and Egress if there is an egress rule
//!    ├─ ingress[] ─ ports[] ─ port, endPort, protocol
//!    │            └ from[]  ─ podSelector & namespaceSelector | ipBlock
//!    └─ egress[]  ─ ports[]
//!                 └ to[]
//! ```
//!
//! Strict throughout: an unknown field is an error everywhere below `spec`. Sources:
//! `pkg/apis/networking/validation/validation.go` (`ValidateNetworkPolicySpec` and what it calls),
//! defaults from `pkg/apis/networking/v1/defaults.go`. One deviation: the server takes a policy
//! without `spec` (it denies all ingress of its namespace); here it is an error, since nobody means
//! it.

use podwall_policy::address::IpBlock;
use podwall_policy::object::Name;
use podwall_policy::policy::{Direction, NamespaceScope, Peer, PodScope, Policy, Rule};
use podwall_policy::port::{PortMatch, PortRange, PortSpec, Protocol};
use podwall_policy::selector::Selector;

use crate::cidr;
use crate::diagnostic::Code;
use crate::names::{port_name, short};
use crate::node::{Entry, Map, Node, Value};
use crate::selector;
use crate::text::At;
use crate::walk::{Path, Unknown, Walk};

/// The three protocols that a policy can name.
pub(crate) const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];

/// What to say where `spec` is missing.
pub(crate) const NO_SPEC: &str = "`spec: {podSelector: {}}` selects every pod and denies all that \
                                  comes in, if that is meant";

const SPEC: [&str; 4] = ["podSelector", "policyTypes", "ingress", "egress"];

/// Reads `spec` of a NetworkPolicy.
pub(crate) fn read(walk: &mut Walk<'_>, name: Name, spec: &Entry<'_>, at: At) -> Option<Policy> {
    let path = Path::root("spec");
    if spec.value.is_null() {
        walk.missing(spec.at, &path).help(NO_SPEC);
        return None;
    }
    let map = walk.map(&spec.value, &path)?;
    walk.fields(map, &path, &SPEC, Unknown::Refuse, |key| match key {
        "from" => Some("`from` belongs in an item of `ingress`"),
        "to" => Some("`to` belongs in an item of `egress`"),
        "ports" => Some("`ports` belongs in an item of `ingress` or `egress`"),
        "matchLabels" | "matchExpressions" => Some("put it under `podSelector`"),
        "selector" => Some("did you mean `podSelector`?"),
        "namespaceSelector" => {
            Some("a policy selects pods of its own namespace; peers have a `namespaceSelector`")
        }
        _ => None,
    });
    let present = |key: &str| map.get(key).filter(|e| !e.value.is_null());
    let pods = match present("podSelector") {
        Some(entry) => selector::read(walk, &entry.value, &path.field("podSelector")),
        None => Selector::everything(),
    };
    let mut policy = Policy::network_policy(name.namespace, name.name, pods);
    let stated = present("policyTypes")
        .map(|e| types(walk, &e.value, &path.field("policyTypes")))
        .filter(|types| !types.is_empty());
    for direction in [Direction::Ingress, Direction::Egress] {
        let key = if direction == Direction::Ingress { "ingress" } else { "egress" };
        let own = policy.name.namespace.clone();
        let entry = present(key);
        let rules = entry.map(|e| rules(walk, &e.value, direction, &own, &path.field(key)));
        let isolates = match &stated {
            Some(types) => types.contains(&direction),
            None => direction == Direction::Ingress || rules.as_ref().is_some_and(|r| r.0 > 0),
        };
        if let (false, Some(entry), Some((count, _))) = (isolates, entry, &rules) {
            let kind = if direction == Direction::Ingress { "Ingress" } else { "Egress" };
            if *count == 0 {
                let message =
                    format!("an empty `{key}` has no effect without `{kind}` in `policyTypes`");
                walk.warning(Code::NoEffect, entry.at, &path.field(key), message).help(format!(
                    "to deny all {key}, add `{kind}` to `policyTypes`; otherwise remove it"
                ));
            } else {
                let message = format!("`{key}` is ignored: `policyTypes` does not name `{kind}`");
                walk.warning(Code::NoEffect, entry.at, &path.field(key), message)
                    .help(format!("add `{kind}` to `policyTypes`, or remove `{key}`"));
            }
        }
        let rules = isolates.then(|| rules.map(|(_, rules)| rules).unwrap_or_default());
        match direction {
            Direction::Ingress => policy.ingress = rules,
            Direction::Egress => policy.egress = rules,
        }
    }
    policy.source = Some(walk.text.source(at));
    Some(policy)
}

/// `policyTypes`: at most two, each `Ingress` or `Egress`. The server takes one of them twice.
fn types(walk: &mut Walk<'_>, node: &Node<'_>, path: &Path<'_>) -> Vec<Direction> {
    let Some(items) = walk.list(node, path) else { return Vec::new() };
    if items.len() > 2 {
        let message = format!("`{path}` must have at most two items, not {}", items.len());
        walk.error(Code::UnsupportedValue, node.at, path, message);
    }
    let mut types: Vec<Direction> = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let path = path.index(i);
        if item.is_null() {
            walk.wrong_type(item, &path, "`Ingress` or `Egress`");
            continue;
        }
        let direction = match walk.one_of(item, &path, &["Ingress", "Egress"]) {
            Some("Ingress") => Direction::Ingress,
            Some(_) => Direction::Egress,
            None => continue,
        };
        if types.contains(&direction) {
            let message = "this type stands there twice";
            walk.warning(Code::DuplicateValue, item.at, &path, message).help("remove one of them");
        } else {
            types.push(direction);
        }
    }
    types
}

/// The rules of a direction, and how many items the list has, the wrong ones included.
fn rules(
    walk: &mut Walk<'_>,
    node: &Node<'_>,
    direction: Direction,
    own: &std::sync::Arc<str>,
    path: &Path<'_>,
) -> (usize, Vec<Rule>) {
    let Some(items) = walk.list(node, path) else { return (0, Vec::new()) };
    let rules = items.iter().enumerate().filter_map(|(i, item)| {
        let path = path.index(i);
        let mut rule = rule(walk, item, direction, own, &path)?;
        rule.source = Some(walk.text.source(item.at));
        Some(rule)
    });
    (items.len(), rules.collect())
}

fn rule(
    walk: &mut Walk<'_>,
    node: &Node<'_>,
    direction: Direction,
    own: &std::sync::Arc<str>,
    path: &Path<'_>,
) -> Option<Rule> {
    if node.is_null() {
        let message = "this rule is empty and therefore allows everything";
        walk.warning(Code::Ambiguous, node.at, path, message)
            .help("write `- {}` if that is meant; otherwise complete or remove the item");
        return Some(Rule::allow(Vec::new(), Vec::new()));
    }
    let (peers_key, other_key) = match direction {
        Direction::Ingress => ("from", "to"),
        Direction::Egress => ("to", "from"),
    };
    let map = walk.map(node, path)?;
    walk.fields(map, path, &["ports", peers_key], Unknown::Refuse, |key| match key {
        "to" if other_key == "to" => {
            Some("an ingress rule has `from`; `to` belongs in an egress rule")
        }
        "from" if other_key == "from" => {
            Some("an egress rule has `to`; `from` belongs in an ingress rule")
        }
        "podSelector" | "namespaceSelector" | "ipBlock" => match peers_key {
            "from" => Some("put it in an item of `from`"),
            _ => Some("put it in an item of `to`"),
        },
        "port" | "protocol" | "endPort" => Some("put it in an item of `ports`"),
        _ => None,
    });
    let mut peers = Vec::new();
    if let Some(entry) = map.get(peers_key) {
        let path = path.field(peers_key);
        for (i, item) in walk.list(&entry.value, &path).unwrap_or_default().iter().enumerate() {
            peers.extend(peer(walk, item, own, &path.index(i)));
        }
    }
    let mut ports = Vec::new();
    if let Some(entry) = map.get("ports") {
        let path = path.field("ports");
        for (i, item) in walk.list(&entry.value, &path).unwrap_or_default().iter().enumerate() {
            ports.extend(port(walk, item, &path.index(i)));
        }
    }
    Some(Rule::allow(peers, ports))
}

fn peer(
    walk: &mut Walk<'_>,
    node: &Node<'_>,
    own: &std::sync::Arc<str>,
    path: &Path<'_>,
) -> Option<Peer> {
    let empty = Map::default();
    let map = if node.is_null() { &empty } else { walk.map(node, path)? };
    let known = ["podSelector", "namespaceSelector", "ipBlock"];
    let findings = walk.findings.errors();
    walk.fields(map, path, &known, Unknown::Refuse, |key| match key {
        "matchLabels" | "matchExpressions" => {
            Some("put it under `podSelector` or `namespaceSelector`")
        }
        "namespace" | "namespaces" => Some(
            "write `namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: NAMESPACE}}`",
        ),
        "cidr" | "except" => Some("put it under `ipBlock`"),
        "ports" | "port" | "protocol" => Some("`ports` stands beside `from` and `to`, not in them"),
        _ => None,
    });
    let unknown_fields = walk.findings.errors() > findings;
    let present = |key: &str| map.get(key).filter(|e| !e.value.is_null());
    let (pods, namespaces, block) =
        (present("podSelector"), present("namespaceSelector"), present("ipBlock"));
    if pods.is_none() && namespaces.is_none() && block.is_none() {
        // If a misspelt field is all there is, that was said already.
        if !unknown_fields {
            let message = format!("`{path}` must name a peer");
            walk.error(Code::MissingField, node.at, path, message).help(
                "write `podSelector: {}` for all pods of this namespace; to allow everybody, leave \
                 out the whole list",
            );
        }
        return None;
    }
    let pods = pods.map(|e| selector::read(walk, &e.value, &path.field("podSelector")));
    let namespaces =
        namespaces.map(|e| selector::read(walk, &e.value, &path.field("namespaceSelector")));
    let Some(block) = block else {
        let namespaces = match namespaces {
            Some(selector) => NamespaceScope::Matching(selector),
            None => NamespaceScope::Own(own.clone()),
        };
        return Some(Peer::Pods(PodScope { namespaces, pods: pods.unwrap_or_default() }));
    };
    let read = ip_block(walk, block, &path.field("ipBlock"));
    if pods.is_some() || namespaces.is_some() {
        let other = if pods.is_some() { "podSelector" } else { "namespaceSelector" };
        let at = map.get(other).map_or(node.at, |e| e.at);
        let place = walk.place(at);
        let message = format!(
            "a peer is either an `ipBlock` or pods, not both: `{path}` has \
                               `ipBlock` and `{other}`"
        );
        walk.error(Code::Conflict, block.at, path, message)
            .note(format!("`{other}` is here"), Some(place))
            .help("make two items of it, each with its own `- `");
        return None;
    }
    read.map(Peer::Block)
}

fn ip_block(walk: &mut Walk<'_>, entry: &Entry<'_>, path: &Path<'_>) -> Option<IpBlock> {
    let map = match &entry.value.value {
        Value::Text(_) | Value::List(_) => {
            walk.wrong_type(&entry.value, path, "a mapping")
                .help("write `ipBlock: {cidr: 10.0.0.0/8}`");
            return None;
        }
        _ => walk.map(&entry.value, path)?,
    };
    walk.fields(map, path, &["cidr", "except"], Unknown::Refuse, |key| match key {
        "cidrs" => Some("an `ipBlock` has one `cidr`; make an item for each"),
        "exclude" | "excepts" => Some("did you mean `except`?"),
        _ => None,
    });
    let field = path.field("cidr");
    let Some(cidr_entry) = map.get("cidr").filter(|e| !is_blank(&e.value)) else {
        let at = map.get("cidr").map_or(entry.at, |e| e.at);
        walk.missing(at, &field).help("write `cidr: 10.0.0.0/8`");
        return None;
    };
    let cidr = cidr(walk, &cidr_entry.value, &field);
    let mut except = Vec::new();
    if let Some(entry) = map.get("except") {
        let path = path.field("except");
        for (i, item) in walk.list(&entry.value, &path).unwrap_or_default().iter().enumerate() {
            let path = path.index(i);
            if item.is_null() {
                walk.wrong_type(item, &path, "a string");
            }
            let (Some(net), Some(cidr)) = (self::cidr(walk, item, &path), cidr) else { continue };
            if !cidr.contains(&net) || cidr.prefix_len() >= net.prefix_len() {
                let why = if net == cidr {
                    "is the whole of it"
                } else if net.contains(&cidr) {
                    "contains it"
                } else {
                    "lies outside of it"
                };
                let place = walk.place(cidr_entry.value.at);
                let message = format!("`{path}` must be a strict part of `cidr`: {net} {why}");
                walk.error(Code::InvalidAddress, item.at, &path, message)
                    .note("`cidr` is here", Some(place));
                continue;
            }
            except.push(net);
        }
    }
    Some(IpBlock::new(cidr?, except))
}

fn cidr(walk: &mut Walk<'_>, node: &Node<'_>, path: &Path<'_>) -> Option<ipnet::IpNet> {
    let text = walk.text(node, path)?;
    match cidr::parse(text) {
        Ok(cidr) => {
            for oddity in cidr.oddities {
                let (what, instead) = oddity.split_once(": ").unwrap_or((&oddity, ""));
                walk.warning(Code::Ambiguous, node.at, path, what)
                    .help(format!("{instead}; newer API servers refuse it as it stands"));
            }
            Some(cidr.net)
        }
        Err(wrong) => {
            let (what, help) = match wrong.split_once(": ") {
                Some((what, help)) => (what.to_string(), Some(help.to_string())),
                None => (wrong, None),
            };
            let message = format!("CIDR `{}` {what}", short(text));
            let diagnostic = walk.error(Code::InvalidAddress, node.at, path, message);
            if let Some(help) = help {
                diagnostic.help(help);
            }
            None
        }
    }
}

fn port(walk: &mut Walk<'_>, node: &Node<'_>, path: &Path<'_>) -> Option<PortSpec> {
    let map = match &node.value {
        Value::Map(map) => map,
        Value::Null => {
            let message = "this item is empty and therefore allows every TCP port";
            walk.warning(Code::Ambiguous, node.at, path, message)
                .help("write `- protocol: TCP` if that is meant");
            return Some(PortSpec { protocol: Protocol::TCP, port: PortMatch::Any });
        }
        Value::Int(_) | Value::Text(_) => {
            let written = walk.text.quote(node.at).unwrap_or_default();
            let diagnostic = walk.wrong_type(node, path, "a mapping");
            if !written.is_empty() {
                diagnostic.help(format!("write `port: {written}`"));
            }
            return None;
        }
        _ => {
            walk.wrong_type(node, path, "a mapping");
            return None;
        }
    };
    walk.fields(map, path, &["protocol", "port", "endPort"], Unknown::Refuse, |key| match key {
        "name" | "containerPort" | "targetPort" => {
            Some("a policy's port has `port`: a number, or the name of a container's port")
        }
        "range" | "portRange" => Some("a range is written `port: 8000` and `endPort: 8999`"),
        _ => None,
    });
    let present = |key: &str| map.get(key).filter(|e| !e.value.is_null());
    let protocol = match present("protocol") {
        Some(entry) => protocol(walk, &entry.value, &path.field("protocol")),
        None => Some(Protocol::TCP),
    };
    let end = present("endPort");
    let end_path = path.field("endPort");
    let Some(entry) = present("port") else {
        if let Some(end) = end {
            let message = format!("`{end_path}` needs a `port` where the range begins");
            walk.error(Code::InvalidPort, end.at, &end_path, message);
            return None;
        }
        return Some(PortSpec { protocol: protocol?, port: PortMatch::Any });
    };
    let port_path = path.field("port");
    let port = match &entry.value.value {
        Value::Int(number) => {
            let first = walk.port_number(*number, entry.value.at, &port_path);
            let last = match end {
                Some(end) => end_port(walk, *number, end, &end_path),
                None => first,
            };
            PortMatch::Range(PortRange::new(first?, last?)?)
        }
        Value::Text(name) => {
            if let Some(end) = end {
                let message = format!("`{end_path}` cannot go with a `port` that is a name");
                walk.error(Code::Conflict, end.at, &end_path, message)
                    .help("write `port` as a number without quotes");
            }
            named_port(walk, name, &entry.value, &port_path);
            PortMatch::Named((&**name).into())
        }
        _ => {
            walk.wrong_type(&entry.value, &port_path, "a number or a name");
            return None;
        }
    };
    Some(PortSpec { protocol: protocol?, port })
}

fn end_port(walk: &mut Walk<'_>, first: i64, end: &Entry<'_>, path: &Path<'_>) -> Option<u16> {
    let number = walk.int(&end.value, path)?;
    if number < first {
        let message = format!("`{path}` must not be less than `port`: {number} < {first}");
        let diagnostic = walk.error(Code::InvalidPort, end.value.at, path, message);
        if number > 0 && first <= i64::from(u16::MAX) {
            diagnostic.help(format!("a range goes upwards: `port: {number}`, `endPort: {first}`"));
        }
        return None;
    }
    walk.port_number(number, end.value.at, path)
}

/// A port's name in a policy (`IsValidPortName`).
fn named_port(walk: &mut Walk<'_>, name: &str, node: &Node<'_>, path: &Path<'_>) {
    let wrong = port_name(name);
    if wrong.is_empty() {
        return;
    }
    if name.is_empty() {
        let message = format!("`{path}` must not be empty");
        walk.error(Code::InvalidPort, node.at, path, message)
            .help("to allow every port of the protocol, leave `port` out");
        return;
    }
    let message = format!("port name `{}` {}", short(name), wrong.join(", and "));
    let diagnostic = walk.error(Code::InvalidPort, node.at, path, message);
    if port_name(&name.to_lowercase()).is_empty() {
        diagnostic.help(format!("did you mean `{}`?", name.to_lowercase()));
    } else if name.parse::<u32>().is_ok() {
        diagnostic
            .label("in quotes it is a name, not a number")
            .help(format!("remove the quotes: {name}"));
    } else if let Some((first, last)) = name.split_once(['-', ':'])
        && let (Ok(first), Ok(last)) = (first.trim().parse::<u16>(), last.trim().parse::<u16>())
    {
        diagnostic.help(format!("a range is written `port: {first}` and `endPort: {last}`"));
    } else if name.contains(',') {
        diagnostic.help("write an item for each port");
    }
}

/// `TCP`, `UDP` or `SCTP`, in upper case.
pub(crate) fn protocol(walk: &mut Walk<'_>, node: &Node<'_>, path: &Path<'_>) -> Option<Protocol> {
    if let Value::Text(text) = &node.value
        && matches!(text.to_uppercase().as_str(), "ICMP" | "ICMPV6" | "ANY" | "ALL" | "*")
    {
        let message = format!("`{path}` must be `TCP`, `UDP` or `SCTP`, not `{}`", short(text));
        walk.error(Code::UnsupportedValue, node.at, path, message)
            .help("a rule without `ports` allows every protocol");
        return None;
    }
    walk.one_of(node, path, &PROTOCOLS).and_then(Protocol::from_api)
}

fn is_blank(node: &Node<'_>) -> bool {
    node.is_null() || matches!(&node.value, Value::Text(text) if text.is_empty())
}

//! Where does a Service lead?
//!
//! ```text
//!   spec ─ selector {app: web} ──▶ pods
//!        ─ ports[] ─ port 80 ──▶ targetPort 8080 | "http"     nodePort 30080
//!        ─ clusterIP(s), type, externalTrafficPolicy
//! ```
//!
//! Strict in `ports`. Source: `ValidateService` in `pkg/apis/core/validation/validation.go`.

use podwall_policy::object::{Exposure, External, Name, Service, ServicePort, TargetPort};
use podwall_policy::port::Protocol;

use crate::diagnostic::Code;
use crate::metadata;
use crate::names::{self, short};
use crate::node::{Entry, Map, Node, Value};
use crate::pod::address;
use crate::policy::protocol;
use crate::text::At;
use crate::walk::{Path, Unknown, Walk};

const READ: [&str; 9] = [
    "selector",
    "ports",
    "clusterIP",
    "clusterIPs",
    "type",
    "externalTrafficPolicy",
    "internalTrafficPolicy",
    "externalIPs",
    "loadBalancerSourceRanges",
];

const TYPES: [&str; 4] = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];

/// Reads a Service.
pub(crate) fn read(
    walk: &mut Walk<'_>,
    name: Name,
    spec: Option<&Entry<'_>>,
    at: At,
) -> Option<Service> {
    let path = Path::root("spec");
    let Some(entry) = spec.filter(|e| !e.value.is_null()) else {
        walk.missing(spec.map_or(at, |e| e.at), &path).help("write a `spec` with `ports`");
        return None;
    };
    let map = walk.map(&entry.value, &path)?;
    walk.fields(map, &path, &READ, Unknown::RefuseTypos, |key| match key {
        "podSelector" | "matchLabels" => Some("a Service has a plain `selector: {app: web}`"),
        "port" => Some("did you mean `ports`, a list?"),
        "containerPort" | "targetPort" => Some("put it in an item of `ports`"),
        _ => None,
    });
    let present = |key: &str| map.get(key).filter(|e| !e.value.is_null());
    let kind = match present("type") {
        Some(e) => walk.one_of(&e.value, &path.field("type"), &TYPES).unwrap_or("ClusterIP"),
        None => "ClusterIP",
    };
    let selector = present("selector").and_then(|e| selector(walk, e, &path.field("selector")));
    let (cluster_ips, headless) = cluster_ips(walk, map, &path);
    let local = match present("externalTrafficPolicy") {
        Some(e) => {
            let path = path.field("externalTrafficPolicy");
            let local = walk.one_of(&e.value, &path, &["Cluster", "Local"]) == Some("Local");
            let external = present("externalIPs").is_some();
            if matches!(kind, "ClusterIP" | "ExternalName") && !external {
                let message = format!("`{path}` belongs to types `NodePort` and `LoadBalancer`");
                walk.error(Code::Conflict, e.at, &path, message);
            }
            local
        }
        None => false,
    };
    let ports = ports(walk, map, entry.at, kind, headless, &path);
    let external_ips = external_ips(walk, map, &path);
    let source_ranges = source_ranges(walk, map, kind, &path);
    Some(Service {
        name,
        selector: selector.filter(|s| !s.is_empty() && kind != "ExternalName"),
        cluster_ips,
        headless,
        exposure: match kind {
            "NodePort" | "LoadBalancer" => Exposure::Node { local },
            _ => Exposure::Cluster,
        },
        external: External {
            load_balancer: kind == "LoadBalancer",
            local,
            ips: external_ips,
            source_ranges,
        },
        ports,
        source: Some(walk.text.source(at)),
    })
}

fn selector(
    walk: &mut Walk<'_>,
    entry: &Entry<'_>,
    path: &Path<'_>,
) -> Option<podwall_policy::label::Labels> {
    if let Value::Map(map) = &entry.value.value {
        for key in ["matchLabels", "matchExpressions"] {
            if let Some(wrong) = map.get(key) {
                let message = format!("a Service's selector has no `{key}`");
                walk.error(Code::UnknownField, wrong.at, &path.field(key), message)
                    .help("write the labels directly: `selector: {app: web}`");
                return None;
            }
        }
    }
    Some(metadata::labels(walk, &entry.value, path))
}

fn cluster_ips(
    walk: &mut Walk<'_>,
    map: &Map<'_>,
    path: &Path<'_>,
) -> (Vec<std::net::IpAddr>, bool) {
    let (mut ips, mut headless) = (Vec::new(), false);
    let mut take = |walk: &mut Walk<'_>, node: &Node<'_>, path: &Path<'_>| match &node.value {
        Value::Text(text) if text == "None" => headless = true,
        _ => {
            if let Some(ip) = address(walk, node, path)
                && !ips.contains(&ip)
            {
                ips.push(ip);
            }
        }
    };
    if let Some(entry) = map.get("clusterIP") {
        take(walk, &entry.value, &path.field("clusterIP"));
    }
    if let Some(entry) = map.get("clusterIPs") {
        let path = path.field("clusterIPs");
        for (i, item) in walk.list(&entry.value, &path).unwrap_or_default().iter().enumerate() {
            take(walk, item, &path.index(i));
        }
    }
    (ips, headless)
}

/// `externalIPs`.
fn external_ips(walk: &mut Walk<'_>, map: &Map<'_>, path: &Path<'_>) -> Vec<std::net::IpAddr> {
    let path = path.field("externalIPs");
    let Some(entry) = map.get("externalIPs") else { return Vec::new() };
    let items = walk.list(&entry.value, &path).unwrap_or_default().iter().enumerate();
    items.filter_map(|(i, item)| address(walk, item, &path.index(i))).collect()
}

/// `loadBalancerSourceRanges`: CIDRs, of a LoadBalancer alone.
fn source_ranges(
    walk: &mut Walk<'_>,
    map: &Map<'_>,
    kind: &str,
    path: &Path<'_>,
) -> Vec<ipnet::IpNet> {
    let path = path.field("loadBalancerSourceRanges");
    let entry = map.get("loadBalancerSourceRanges").filter(|e| !e.value.is_null());
    let Some(entry) = entry else { return Vec::new() };
    let items = walk.list(&entry.value, &path).unwrap_or_default();
    if kind != "LoadBalancer" && !items.is_empty() {
        let message = format!("`{path}` belongs to type `LoadBalancer`");
        walk.error(Code::Conflict, entry.at, &path, message);
    }
    let range = |(i, item): (usize, &Node<'_>)| {
        let path = path.index(i);
        let text = walk.text(item, &path)?;
        match crate::cidr::parse(text.trim()) {
            Ok(cidr) => Some(cidr.net.trunc()),
            Err(why) => {
                let message = format!("`{path}` `{}` {why}", short(text));
                walk.error(Code::InvalidAddress, item.at, &path, message);
                None
            }
        }
    };
    items.iter().enumerate().filter_map(range).collect()
}

/// What makes a port of a Service unique, with its place.
#[derive(Default)]
struct Seen {
    names: Vec<(String, At)>,
    ports: Vec<((Protocol, u16), At)>,
}

fn ports(
    walk: &mut Walk<'_>,
    map: &Map<'_>,
    parent: At,
    kind: &str,
    headless: bool,
    path: &Path<'_>,
) -> Vec<ServicePort> {
    let path = path.field("ports");
    let entry = map.get("ports").filter(|e| !e.value.is_null());
    let items = match entry {
        Some(entry) => match walk.list(&entry.value, &path) {
            Some(items) => items,
            None => return Vec::new(),
        },
        None => &[],
    };
    if items.is_empty() && !headless && kind != "ExternalName" {
        let at = map.get("ports").map_or(parent, |e| e.at);
        walk.missing(at, &path).help("write `ports: [{port: 80}]`, or `clusterIP: None`");
    }
    let mut seen = Seen::default();
    let several = items.len() > 1;
    let ports = items.iter().enumerate();
    ports
        .filter_map(|(i, item)| port(walk, item, kind, several, &mut seen, &path.index(i)))
        .collect()
}

const PORT: [&str; 6] = ["name", "protocol", "appProtocol", "port", "targetPort", "nodePort"];

fn port(
    walk: &mut Walk<'_>,
    node: &Node<'_>,
    kind: &str,
    several: bool,
    seen: &mut Seen,
    path: &Path<'_>,
) -> Option<ServicePort> {
    if node.is_null() {
        walk.wrong_type(node, path, "a mapping");
        return None;
    }
    let map = walk.map(node, path)?;
    walk.fields(map, path, &PORT, Unknown::Refuse, |key| match key {
        "containerPort" => Some("a Service's port has `port` and `targetPort`"),
        "hostPort" => Some("`hostPort` belongs in a container"),
        _ => None,
    });
    let present = |key: &str| map.get(key).filter(|e| !e.value.is_null());
    let name = port_name(walk, map, node, several, seen, path);
    let protocol = match present("protocol") {
        Some(entry) => protocol(walk, &entry.value, &path.field("protocol")),
        None => Some(Protocol::TCP),
    };
    let node_port = present("nodePort").and_then(|e| node_port(walk, e, kind, path));
    let port_path = path.field("port");
    let Some(entry) = present("port") else {
        walk.missing(node.at, &port_path);
        return None;
    };
    let number = walk.port(&entry.value, &port_path);
    let target = match present("targetPort") {
        Some(entry) => target(walk, &entry.value, &path.field("targetPort"), number),
        None => number.map(TargetPort::Number),
    };
    let (protocol, port, target) = (protocol?, number?, target?);
    if let Some((_, first)) = seen.ports.iter().find(|(key, _)| *key == (protocol, port)) {
        let place = walk.place(*first);
        let message = format!("this Service has {protocol} port {port} twice");
        walk.error(Code::DuplicateValue, entry.value.at, &port_path, message)
            .note("the first is here", Some(place));
    } else {
        seen.ports.push(((protocol, port), entry.value.at));
    }
    Some(ServicePort { name, protocol, port, target, node_port })
}

fn port_name(
    walk: &mut Walk<'_>,
    map: &Map<'_>,
    node: &Node<'_>,
    several: bool,
    seen: &mut Seen,
    path: &Path<'_>,
) -> Option<std::sync::Arc<str>> {
    let path = path.field("name");
    let entry = map.get("name").filter(|e| !e.value.is_null());
    let name = entry.and_then(|e| walk.text(&e.value, &path)).filter(|n| !n.is_empty());
    let (Some(entry), Some(name)) = (entry, name) else {
        if several && !entry.is_some_and(|e| !matches!(e.value.value, Value::Text(_))) {
            walk.missing(node.at, &path).help("each port of a Service with several needs a name");
        }
        return None;
    };
    if let Some(wrong) = names::dns_label(name) {
        let message = format!("port name `{}` {wrong}", short(name));
        walk.error(Code::InvalidName, entry.value.at, &path, message);
    }
    if let Some((_, first)) = seen.names.iter().find(|(known, _)| known == name) {
        let place = walk.place(*first);
        let message = format!("this Service has two ports named `{}`", short(name));
        walk.error(Code::DuplicateValue, entry.value.at, &path, message)
            .note("the first is here", Some(place));
    } else {
        seen.names.push((name.to_string(), entry.value.at));
    }
    Some(name.into())
}

fn node_port(walk: &mut Walk<'_>, entry: &Entry<'_>, kind: &str, path: &Path<'_>) -> Option<u16> {
    let path = path.field("nodePort");
    // Zero is Go's "not set".
    let number = walk.int(&entry.value, &path).filter(|n| *n != 0)?;
    if matches!(kind, "ClusterIP" | "ExternalName") {
        let message = format!("`{path}` must be absent for a Service of type `{kind}`");
        walk.error(Code::Conflict, entry.at, &path, message).help("add `type: NodePort`");
    }
    let port = walk.port_number(number, entry.value.at, &path)?;
    if !(30_000..=32_767).contains(&port) {
        let message = format!("`{path}` {port} is outside of the usual range 30000-32767");
        walk.warning(Code::UnsupportedValue, entry.value.at, &path, message)
            .help("API servers refuse it unless `--service-node-port-range` says otherwise");
    }
    Some(port)
}

fn target(
    walk: &mut Walk<'_>,
    node: &Node<'_>,
    path: &Path<'_>,
    port: Option<u16>,
) -> Option<TargetPort> {
    match &node.value {
        // Zero and the empty name are Go's "not set".
        Value::Int(0) => port.map(TargetPort::Number),
        Value::Text(name) if name.is_empty() => port.map(TargetPort::Number),
        Value::Int(number) => walk.port_number(*number, node.at, path).map(TargetPort::Number),
        Value::Text(name) => {
            let wrong = names::port_name(name);
            if !wrong.is_empty() {
                let message = format!("port name `{}` {}", short(name), wrong.join(", and "));
                let diagnostic = walk.error(Code::InvalidPort, node.at, path, message);
                if name.parse::<u32>().is_ok() {
                    diagnostic
                        .label("in quotes it is a name, not a number")
                        .help(format!("remove the quotes: {name}"));
                }
            }
            Some(TargetPort::Name((&**name).into()))
        }
        _ => {
            walk.wrong_type(node, path, "a number or a name");
            None
        }
    }
}

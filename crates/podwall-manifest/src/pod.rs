//! What do policies see of a pod, or of the pods that a template makes?
//!
//! ```text
//!   spec ─ hostNetwork, nodeName, containers[].ports[], initContainers[].ports[]
//!   status ─ phase, podIPs[].ip, podIP
//! ```
//!
//! Strict in what is read here, lenient about the rest of a PodSpec, which grows with every
//! release. Sources: `ValidatePodSpec`, `validateContainerPorts` in
//! `pkg/apis/core/validation/validation.go`.

use std::net::IpAddr;

use podwall_policy::address::Family;
use podwall_policy::object::{Phase, Pod};
use podwall_policy::port::{ContainerPort, Protocol};

use crate::cidr;
use crate::diagnostic::Code;
use crate::names::{self, short};
use crate::node::{Entry, Map, Node};
use crate::policy::protocol;
use crate::text::At;
use crate::walk::{Path, Unknown, Walk};

const READ: [&str; 4] = ["containers", "initContainers", "hostNetwork", "nodeName"];

/// Fields near enough to one that is read to be taken for a slip of the pen.
const NOT_A_TYPO: [&str; 3] = ["ephemeralContainers", "nodeSelector", "hostname"];

/// Reads a PodSpec into `pod`. `parent` is marked where the spec is missing.
pub(crate) fn spec(
    walk: &mut Walk<'_>,
    pod: &mut Pod,
    spec: Option<&Entry<'_>>,
    parent: At,
    path: &Path<'_>,
) {
    let Some(entry) = spec.filter(|e| !e.value.is_null()) else {
        let at = spec.map_or(parent, |e| e.at);
        walk.missing(at, path).help("write a `spec` with `containers`");
        return;
    };
    let Some(map) = walk.map(&entry.value, path) else { return };
    let known: Vec<&str> = READ.into_iter().chain(NOT_A_TYPO).collect();
    walk.fields(map, path, &known, Unknown::RefuseTypos, |key| match key {
        "container" => Some("did you mean `containers`, a list?"),
        _ => None,
    });
    if let Some(entry) = map.get("hostNetwork") {
        let path = path.field("hostNetwork");
        pod.host_network = walk.bool(&entry.value, &path).unwrap_or(false);
    }
    if let Some(entry) = map.get("nodeName") {
        let path = path.field("nodeName");
        let name = walk.text(&entry.value, &path).filter(|n| !n.is_empty());
        pod.node = name.map(Into::into);
    }
    let mut names: Vec<&str> = Vec::new();
    for key in ["initContainers", "containers"] {
        let path = path.field(key);
        let list = map.get(key).filter(|e| !e.value.is_null());
        let items = list.and_then(|e| walk.list(&e.value, &path));
        if key == "containers" && (list.is_none() || items.is_some_and(<[_]>::is_empty)) {
            let at = list.map_or(entry.at, |e| e.at);
            let help = "a pod has at least one container";
            walk.missing_unless_typo(map, key, at, &path, help);
        }
        for (i, item) in items.unwrap_or_default().iter().enumerate() {
            container(walk, pod, item, &mut names, &path.index(i));
        }
    }
}

fn container<'n>(
    walk: &mut Walk<'_>,
    pod: &mut Pod,
    node: &'n Node<'_>,
    names: &mut Vec<&'n str>,
    path: &Path<'_>,
) {
    let Some(map) = walk.map(node, path) else { return };
    walk.fields(map, path, &["name", "ports"], Unknown::RefuseTypos, |_| None);
    let name_path = path.field("name");
    match map.get("name").filter(|e| !e.value.is_null()) {
        None => _ = walk.missing(node.at, &name_path).help("give the container a name"),
        Some(entry) => {
            if let Some(name) = walk.text(&entry.value, &name_path) {
                if let Some(wrong) = names::dns_label(name) {
                    let message = format!("container name `{}` {wrong}", short(name));
                    walk.error(Code::InvalidName, entry.value.at, &name_path, message);
                } else if names.contains(&name) {
                    let message = format!("this pod has two containers named `{}`", short(name));
                    walk.error(Code::DuplicateValue, entry.value.at, &name_path, message);
                }
                names.push(name);
            }
        }
    }
    let Some(entry) = map.get("ports") else { return };
    let path = path.field("ports");
    let mut port_names: Vec<std::sync::Arc<str>> = Vec::new();
    for (i, item) in walk.list(&entry.value, &path).unwrap_or_default().iter().enumerate() {
        let path = path.index(i);
        let Some(port) = container_port(walk, item, &path) else { continue };
        if let Some(name) = &port.name {
            if port_names.contains(name) {
                let message = format!("this container has two ports named `{}`", short(name));
                walk.error(Code::DuplicateValue, item.at, &path.field("name"), message);
            }
            port_names.push(name.clone());
        }
        pod.ports.push(port);
    }
}

const PORT: [&str; 5] = ["name", "containerPort", "protocol", "hostPort", "hostIP"];

fn container_port(walk: &mut Walk<'_>, node: &Node<'_>, path: &Path<'_>) -> Option<ContainerPort> {
    if node.is_null() {
        walk.wrong_type(node, path, "a mapping");
        return None;
    }
    let map = walk.map(node, path)?;
    walk.fields(map, path, &PORT, Unknown::Refuse, |key| match key {
        "port" => Some("a container's port is written `containerPort`"),
        "targetPort" => Some("`targetPort` belongs in a Service"),
        _ => None,
    });
    let name = port_name(walk, map, path);
    let protocol = match map.get("protocol").filter(|e| !e.value.is_null()) {
        Some(entry) => protocol(walk, &entry.value, &path.field("protocol")),
        None => Some(Protocol::TCP),
    };
    if let Some(entry) = map.get("hostPort") {
        let path = path.field("hostPort");
        // Zero is Go's "not set".
        if let Some(number) = walk.int(&entry.value, &path).filter(|n| *n != 0) {
            walk.port_number(number, entry.value.at, &path);
        }
    }
    let path = path.field("containerPort");
    let Some(entry) = map.get("containerPort").filter(|e| !e.value.is_null()) else {
        walk.missing(node.at, &path);
        return None;
    };
    let number = walk.port(&entry.value, &path)?;
    Some(ContainerPort { name, number, protocol: protocol? })
}

fn port_name(walk: &mut Walk<'_>, map: &Map<'_>, path: &Path<'_>) -> Option<std::sync::Arc<str>> {
    let entry = map.get("name")?;
    let path = path.field("name");
    let name = walk.text(&entry.value, &path).filter(|n| !n.is_empty())?;
    let wrong = names::port_name(name);
    if !wrong.is_empty() {
        let message = format!("port name `{}` {}", short(name), wrong.join(", and "));
        walk.error(Code::InvalidName, entry.value.at, &path, message);
    }
    Some(name.into())
}

/// Reads a pod's status into `pod`.
pub(crate) fn status(walk: &mut Walk<'_>, pod: &mut Pod, status: &Node<'_>, path: &Path<'_>) {
    let Some(map) = walk.map(status, path) else { return };
    if let Some(entry) = map.get("phase") {
        let phase = walk.text(&entry.value, &path.field("phase"));
        if matches!(phase, Some("Succeeded" | "Failed")) {
            pod.phase = Phase::Terminated;
        }
    }
    let mut ips = Vec::new();
    if let Some(entry) = map.get("podIPs") {
        let path = path.field("podIPs");
        for (i, item) in walk.list(&entry.value, &path).unwrap_or_default().iter().enumerate() {
            let path = path.index(i);
            let ip = walk.map(item, &path).and_then(|map| map.get("ip"));
            ips.extend(ip.and_then(|e| address(walk, &e.value, &path.field("ip"))));
        }
    }
    if let Some(entry) = map.get("podIP") {
        let ip = address(walk, &entry.value, &path.field("podIP"));
        if ips.is_empty() {
            ips.extend(ip);
        }
    }
    for ip in ips {
        if !pod.ips.iter().any(|known| Family::of(*known) == Family::of(ip)) {
            pod.ips.push(ip);
        }
    }
}

/// An IP address; the empty string is "not known yet".
pub(crate) fn address(walk: &mut Walk<'_>, node: &Node<'_>, path: &Path<'_>) -> Option<IpAddr> {
    let text = walk.text(node, path).filter(|t| !t.is_empty())?;
    let address = cidr::address(text).map(|a| a.ip.to_canonical());
    if address.is_none() {
        let message = format!("`{}` is not an IP address", short(text));
        walk.error(Code::InvalidAddress, node.at, path, message);
    }
    address
}

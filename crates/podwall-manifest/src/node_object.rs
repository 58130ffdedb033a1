//! Which addresses does a node have?
//!
//! ```text
//!   spec ─ podCIDRs[], podCIDR            status ─ addresses[] ─ type, address
//! ```
//!
//! Source: `NodeSpec` and `NodeStatus` in `k8s.io/api/core/v1/types.go`. Addresses that are names
//! (`Hostname`, `InternalDNS`) are left aside.

use std::sync::Arc;

use podwall_policy::label::Labels;
use podwall_policy::object::Node as NodeObject;

use crate::cidr;
use crate::diagnostic::Code;
use crate::names::short;
use crate::node::{Entry, Map, Node, Value};
use crate::pod::address;
use crate::text::At;
use crate::walk::{Path, Walk};

/// Reads a Node; everything but its name may be missing.
pub(crate) fn read(
    walk: &mut Walk<'_>,
    name: Arc<str>,
    labels: Labels,
    object: &Map<'_>,
    at: At,
) -> NodeObject {
    let source = Some(walk.text.source(at));
    let mut node =
        NodeObject { name, labels, addresses: Vec::new(), pod_cidrs: Vec::new(), source };
    let spec = Path::root("spec");
    if let Some(map) = object.get("spec").and_then(|e| walk.map(&e.value, &spec)) {
        if let Some(entry) = map.get("podCIDRs") {
            let path = spec.field("podCIDRs");
            for (i, item) in walk.list(&entry.value, &path).unwrap_or_default().iter().enumerate() {
                pod_cidr(walk, &mut node, item, &path.index(i));
            }
        }
        if let Some(entry) = map.get("podCIDR") {
            pod_cidr(walk, &mut node, &entry.value, &spec.field("podCIDR"));
        }
    }
    let status = Path::root("status");
    let map = object.get("status").and_then(|e| walk.map(&e.value, &status));
    if let Some(entry) = map.and_then(|map| map.get("addresses")) {
        let path = status.field("addresses");
        for (i, item) in walk.list(&entry.value, &path).unwrap_or_default().iter().enumerate() {
            let path = path.index(i);
            let Some(map) = walk.map(item, &path) else { continue };
            let is_ip = map.get("type").is_some_and(is_ip_type);
            let Some(entry) = map.get("address").filter(|_| is_ip) else { continue };
            if let Some(ip) = address(walk, &entry.value, &path.field("address"))
                && !node.addresses.contains(&ip)
            {
                node.addresses.push(ip);
            }
        }
    }
    node
}

fn is_ip_type(entry: &Entry<'_>) -> bool {
    matches!(&entry.value.value, Value::Text(text) if text == "InternalIP" || text == "ExternalIP")
}

fn pod_cidr(walk: &mut Walk<'_>, node: &mut NodeObject, value: &Node<'_>, path: &Path<'_>) {
    let Some(text) = walk.text(value, path).filter(|t| !t.is_empty()) else { return };
    match cidr::parse(text) {
        Ok(cidr) => {
            if !node.pod_cidrs.contains(&cidr.net) {
                node.pod_cidrs.push(cidr.net);
            }
        }
        Err(wrong) => {
            let message = format!("CIDR `{}` {wrong}", short(text));
            walk.error(Code::InvalidAddress, value.at, path, message);
        }
    }
}

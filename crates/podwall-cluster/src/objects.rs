//! How does a test write an object in one line?

use std::net::IpAddr;

use serde_json::{Value, json};

fn labels(pairs: &[(&str, &str)]) -> Value {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value))).collect()
}

/// A namespace.
pub fn mk_namespace(name: &str, with: &[(&str, &str)]) -> Value {
    json!({ "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": name, "labels": labels(with) } })
}

/// A node with its internal addresses and the ranges of its pods.
pub fn mk_node(name: &str, addresses: &[IpAddr], pod_cidrs: &[&str]) -> Value {
    let addresses: Vec<Value> =
        addresses.iter().map(|ip| json!({ "type": "InternalIP", "address": ip })).collect();
    let first = pod_cidrs.first();
    json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name },
            "spec": { "podCIDR": first, "podCIDRs": pod_cidrs },
            "status": { "addresses": addresses } })
}

/// A pod that is bound to a node, without ports. [`running`] is the status that it needs besides.
pub fn mk_pod(namespace: &str, name: &str, with: &[(&str, &str)], node: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod",
            "metadata": { "namespace": namespace, "name": name, "labels": labels(with) },
            "spec": { "nodeName": node, "containers": [{ "name": "main", "image": "none" }] } })
}

/// A policy with this `spec`.
pub fn mk_policy(namespace: &str, name: &str, spec: &Value) -> Value {
    json!({ "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": { "namespace": namespace, "name": name }, "spec": spec })
}

/// The status of a pod whose containers run, at most one address of each family.
pub fn running(ips: &[IpAddr]) -> Value {
    let all: Vec<Value> = ips.iter().map(|ip| json!({ "ip": ip })).collect();
    json!({ "status": { "phase": "Running", "podIP": ips.first(), "podIPs": all } })
}

/// Where the API server keeps objects like this one: `/api/v1/namespaces/shop/pods`.
pub(crate) fn collection(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let version = text("/apiVersion").expect("an apiVersion");
    let kind = text("/kind").expect("a kind").to_lowercase();
    let plural = match kind.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None => format!("{kind}s"),
    };
    let root = if version.contains('/') { "apis" } else { "api" };
    match text("/metadata/namespace") {
        Some(namespace) => format!("/{root}/{version}/namespaces/{namespace}/{plural}"),
        None => format!("/{root}/{version}/{plural}"),
    }
}

/// Where the API server keeps this very object.
pub(crate) fn place(object: &Value) -> String {
    let name = object.pointer("/metadata/name").and_then(Value::as_str).expect("a name");
    format!("{}/{name}", collection(object))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_place() {
        let policy = mk_policy("shop", "deny", &json!({}));
        let expected = "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies/deny";
        assert_eq!(place(&policy), expected);
        assert_eq!(place(&mk_namespace("shop", &[])), "/api/v1/namespaces/shop");
        assert_eq!(collection(&mk_pod("shop", "a", &[], "n")), "/api/v1/namespaces/shop/pods");
    }
}

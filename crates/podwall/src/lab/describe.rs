//! What is there to say about one object? In kubectl's shape, with what follows from policies.

use std::fmt::Write as _;

use podwall_policy::cluster::Cluster;
use podwall_policy::matching::selects;
use podwall_policy::object::Name;
use podwall_policy::policy::{Direction, Policy, Rule, Tier};
use serde_json::Value;

use super::kinds::Kind;

/// The description of one object.
pub(crate) fn describe(kind: &Kind, object: &Value, cluster: &Cluster) -> String {
    let mut out = String::new();
    let mut line = |head: &str, value: &str| {
        let head = format!("{head}:");
        let _ = writeln!(out, "{head:<18}{value}");
    };
    let name = text(object, "/metadata/name");
    let namespace = text(object, "/metadata/namespace");
    line("Name", name);
    if kind.namespaced {
        line("Namespace", namespace);
    }
    list(&mut line, "Labels", object.pointer("/metadata/labels"));
    list(&mut line, "Annotations", object.pointer("/metadata/annotations"));
    let key = Name::new(namespace, name);
    match kind.kind {
        "Pod" => pod(&mut line, object, cluster, &key),
        "Service" => service(&mut line, object, cluster, &key),
        "NetworkPolicy" => {
            if let Some(found) = cluster.policies.get(&(Tier::NetworkPolicy, key)) {
                policy(&mut line, found, cluster);
            }
        }
        "Node" => {
            line("PodCIDRs", &strings(object.pointer("/spec/podCIDRs")));
            let pods = cluster.pods.values().filter(|p| p.node.as_deref() == Some(name));
            for (i, pod) in pods.enumerate() {
                line(if i == 0 { "Pods" } else { "" }, &pod.name.to_string());
            }
        }
        "Namespace" => line("Status", "Active"),
        owner => {
            let pods = cluster.pods.values().filter(|p| *p.name.namespace == *namespace);
            let made = pods.filter(|p| {
                p.owner.as_ref().is_some_and(|o| *o.kind == *owner && *o.name == *name)
            });
            let names: Vec<&str> = made.map(|p| &*p.name.name).collect();
            line("Replicas", &names.len().to_string());
            for (i, name) in names.iter().enumerate() {
                line(if i == 0 { "Pods" } else { "" }, name);
            }
        }
    }
    // A head that was left out of a list leaves a lone colon.
    out.replace("\n:                 ", "\n                  ")
}

type Line<'a> = dyn FnMut(&str, &str) + 'a;

fn pod(line: &mut Line<'_>, object: &Value, cluster: &Cluster, key: &Name) {
    let node = text(object, "/spec/nodeName");
    line("Node", if node.is_empty() { "<none>" } else { node });
    let Some(pod) = cluster.pods.get(key) else { return };
    let waits = match (text(object, "/status/phase"), node) {
        ("Pending", "") => "Pending: no node has the labels of its nodeSelector".to_owned(),
        ("Pending", node) => format!("Pending: the lab has no node {node}"),
        (phase, _) => phase.to_owned(),
    };
    line("Status", &waits);
    for (i, ip) in pod.ips.iter().enumerate() {
        line(if i == 0 { "IPs" } else { "" }, &ip.to_string());
    }
    if let Some(owner) = &pod.owner {
        line("Controlled By", &format!("{}/{}", owner.kind, owner.name));
    }
    for (i, port) in pod.ports.iter().enumerate() {
        let name = port.name.as_ref().map(|n| format!(" ({n})")).unwrap_or_default();
        let port = format!("{}/{}{name}", port.number, port.protocol);
        line(if i == 0 { "Ports" } else { "" }, &port);
    }
    if pod.ports.is_empty() {
        line("Ports", "none declared; the lab serves 80");
    }
    for direction in [Direction::Ingress, Direction::Egress] {
        let names: Vec<String> = cluster
            .policies
            .values()
            .filter(|p| p.rules(direction).is_some() && selects(cluster, &p.subject, pod).is_yes())
            .map(|p| p.name.name.to_string())
            .collect();
        let head = if direction == Direction::Ingress { "Ingress" } else { "Egress" };
        let words = match &names[..] {
            [] => "open: no policy selects this pod".to_owned(),
            names => format!("isolated by {}", names.join(", ")),
        };
        line(head, &words);
    }
}

fn service(line: &mut Line<'_>, object: &Value, cluster: &Cluster, key: &Name) {
    list(line, "Selector", object.pointer("/spec/selector"));
    line(
        "Type",
        match text(object, "/spec/type") {
            "" => "ClusterIP",
            other => other,
        },
    );
    let Some(service) = cluster.services.get(key) else { return };
    let ips: Vec<String> = service.cluster_ips.iter().map(ToString::to_string).collect();
    line("IPs", &if service.headless { "None (headless)".to_owned() } else { ips.join(", ") });
    for port in &service.ports {
        let name = port.name.as_deref().unwrap_or("<unset>");
        line("Port", &format!("{name}  {}/{}", port.port, port.protocol));
        if let Some(number) = port.node_port {
            line("NodePort", &format!("{number}/{}", port.protocol));
        }
        let endpoints = podwall_lab::services::endpoints(cluster, service, port);
        let list: Vec<String> = endpoints
            .iter()
            .map(|(ip, port, _)| std::net::SocketAddr::new(*ip, *port).to_string())
            .collect();
        let list = if list.is_empty() { "<none>".to_owned() } else { list.join(", ") };
        line("Endpoints", &list);
    }
}

fn policy(line: &mut Line<'_>, policy: &Policy, cluster: &Cluster) {
    line("Selects", &policy.subject.to_string());
    let pods: Vec<String> = cluster
        .pods
        .values()
        .filter(|pod| selects(cluster, &policy.subject, pod).is_yes())
        .map(|pod| pod.name.name.to_string())
        .collect();
    line("Pods", &if pods.is_empty() { "none at present".to_owned() } else { pods.join(", ") });
    for direction in [Direction::Ingress, Direction::Egress] {
        let head = if direction == Direction::Ingress { "Ingress" } else { "Egress" };
        match policy.rules(direction) {
            None => line(head, "not affected"),
            Some([]) => line(head, "isolated; nothing is allowed"),
            Some(rules) => {
                for (i, rule) in rules.iter().enumerate() {
                    line(head, &format!("rule {}: {}", i + 1, words(rule, direction)));
                }
            }
        }
    }
    if let Some(source) = &policy.source {
        line("Source", &source.to_string());
    }
}

fn words(rule: &Rule, direction: Direction) -> String {
    let peers: Vec<String> = rule.peers.iter().map(ToString::to_string).collect();
    let peers = if peers.is_empty() { "anybody".to_owned() } else { peers.join("; or ") };
    let ports: Vec<String> = rule.ports.iter().map(ToString::to_string).collect();
    let ports = if ports.is_empty() { "every port".to_owned() } else { ports.join(", ") };
    let word = if direction == Direction::Ingress { "from" } else { "to" };
    format!("{word} {peers}, on {ports}")
}

fn list(line: &mut Line<'_>, head: &str, map: Option<&Value>) {
    let empty = serde_json::Map::new();
    let map = map.and_then(Value::as_object).unwrap_or(&empty);
    if map.is_empty() {
        line(head, "<none>");
    }
    for (i, (key, value)) in map.iter().enumerate() {
        let pair = format!("{key}={}", value.as_str().unwrap_or_default());
        line(if i == 0 { head } else { "" }, &pair);
    }
}

fn strings(value: Option<&Value>) -> String {
    let list = value.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).collect::<Vec<_>>().join(",")
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

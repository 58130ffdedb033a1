//! A cluster in words, for a failure that a person will read.

use std::fmt::Write;

use podwall_policy::cluster::Cluster;
use podwall_policy::policy::{Direction, Rule};

/// The cluster, like YAML; what is usual is left out.
pub fn text(cluster: &Cluster) -> String {
    let mut out = String::new();
    write(cluster, &mut out).unwrap();
    out
}

fn list<T: std::fmt::Display>(of: impl IntoIterator<Item = T>) -> String {
    let words: Vec<String> = of.into_iter().map(|item| item.to_string()).collect();
    format!("[{}]", words.join(", "))
}

fn write(cluster: &Cluster, out: &mut String) -> std::fmt::Result {
    writeln!(out, "namespaces:")?;
    for (name, namespace) in &cluster.namespaces {
        let known = if namespace.labels_known { "" } else { ", labels: not stated" };
        writeln!(out, "- {{name: {name}, labels: \"{}\"{known}}}", namespace.labels)?;
    }
    writeln!(out, "nodes:")?;
    for (name, node) in &cluster.nodes {
        writeln!(out, "- {{name: {name}, addresses: {}}}", list(&node.addresses))?;
    }
    writeln!(out, "isolated unless they are known:")?;
    for (name, strangers) in &cluster.strangers {
        let (ranges, released) = (strangers.ranges.ranges(), &strangers.released);
        writeln!(out, "- {{node: {name}, {}, but {}}}", list(ranges), list(released))?;
    }
    writeln!(out, "pods:")?;
    for (name, pod) in &cluster.pods {
        let ports = pod.ports.iter().map(|port| {
            format!("{}={}/{}", port.name.as_deref().unwrap_or(""), port.number, port.protocol)
        });
        writeln!(
            out,
            "- {{name: {name}, node: {}, labels: \"{}\", ips: {}, ports: {}{}, phase: {:?}}}",
            pod.node.as_deref().unwrap_or("null"),
            pod.labels,
            list(&pod.ips),
            list(ports),
            if pod.host_network { ", hostNetwork: true" } else { "" },
            pod.phase,
        )?;
    }
    writeln!(out, "policies:")?;
    for ((tier, name), policy) in &cluster.policies {
        writeln!(
            out,
            "- name: {name} # {tier:?}, priority {}, dry run {}\n  subject: {}",
            policy.priority, policy.dry_run, policy.subject
        )?;
        for direction in Direction::BOTH {
            let Some(rules) = policy.rules(direction) else { continue };
            writeln!(out, "  {direction}:")?;
            for Rule { action, peers, ports, .. } in rules {
                let (peers, ports) = (list(peers), list(ports));
                writeln!(out, "  - {{action: {action:?}, peers: {peers}, ports: {ports}}}")?;
            }
        }
    }
    Ok(())
}

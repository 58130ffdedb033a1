//! Do the tables give the verdicts of the conformance cases?
//!
//! The cases live outside the repository; see `PODWALL_CONFORMANCE`. Every verdict is asked of
//! tables for the whole cluster, direction by direction, and of three nodes whose tables must all
//! let a packet pass.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests; only what fails a test")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;

use podwall_compile::compiler::compile;
use podwall_compile::tables::{NodeTables, Packet};
use podwall_policy::address::IpBlock;
use podwall_policy::cluster::Cluster;
use podwall_policy::label::Labels;
use podwall_policy::object::{Namespace, Pod};
use podwall_policy::policy::{NamespaceScope, Peer, PodScope, Policy, Rule};
use podwall_policy::port::{ContainerPort, PortMatch, PortRange, PortSpec, Protocol};
use podwall_policy::selector::{Operator, Requirement, Selector};
use serde_json::Value;

fn text(value: &Value) -> Arc<str> {
    value.as_str().unwrap().into()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn labels(value: &Value) -> Labels {
    value.as_object().into_iter().flatten().map(|(k, v)| (k.as_str(), text(v))).collect()
}

fn selector(value: &Value) -> Selector {
    let pairs = value["matchLabels"].as_object();
    let mut selector =
        Selector::labels(pairs.into_iter().flatten().map(|(k, v)| (k.as_str(), text(v))));
    for item in list(&value["matchExpressions"]) {
        let values: BTreeSet<Arc<str>> = list(&item["values"]).map(text).collect();
        let operator = match item["operator"].as_str().unwrap() {
            "In" => Operator::In(values),
            "NotIn" => Operator::NotIn(values),
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            other => panic!("operator {other}"),
        };
        selector.requirements.push(Requirement { key: text(&item["key"]), operator });
    }
    selector
}

fn peer(value: &Value, namespace: &Arc<str>) -> Peer {
    if let Some(block) = value.get("ipBlock") {
        let net = |value: &Value| value.as_str().unwrap().parse().unwrap();
        return Peer::Block(IpBlock::new(net(&block["cidr"]), list(&block["except"]).map(net)));
    }
    let namespaces = match value.get("namespaceSelector") {
        Some(it) => NamespaceScope::Matching(selector(it)),
        None => NamespaceScope::Own(namespace.clone()),
    };
    Peer::Pods(PodScope { namespaces, pods: selector(&value["podSelector"]) })
}

fn port(value: &Value) -> PortSpec {
    let protocol =
        value["protocol"].as_str().map_or(Protocol::TCP, |p| Protocol::from_api(p).unwrap());
    let number = |value: &Value| value.as_u64().map(|n| u16::try_from(n).unwrap());
    let port = match (&value["port"], number(&value["endPort"])) {
        (Value::Null, _) => PortMatch::Any,
        (Value::String(name), _) => PortMatch::Named(name.as_str().into()),
        (first, last) => {
            let first = number(first).unwrap();
            PortMatch::Range(PortRange::new(first, last.unwrap_or(first)).unwrap())
        }
    };
    PortSpec { protocol, port }
}

fn policy(value: &Value) -> Policy {
    let (meta, spec) = (&value["metadata"], &value["spec"]);
    let namespace = text(&meta["namespace"]);
    let rules = |key: &str, peers: &str| -> Vec<Rule> {
        list(&spec[key])
            .map(|rule| {
                Rule::allow(
                    list(&rule[peers]).map(|it| peer(it, &namespace)).collect(),
                    list(&rule["ports"]).map(port).collect(),
                )
            })
            .collect()
    };
    let types: Vec<&str> = match &spec["policyTypes"] {
        Value::Null if list(&spec["egress"]).next().is_some() => vec!["Ingress", "Egress"],
        Value::Null => vec!["Ingress"],
        types => list(types).map(|t| t.as_str().unwrap()).collect(),
    };
    let mut policy = Policy::network_policy(
        namespace.clone(),
        text(&meta["name"]),
        selector(&spec["podSelector"]),
    );
    policy.ingress = types.contains(&"Ingress").then(|| rules("ingress", "from"));
    policy.egress = types.contains(&"Egress").then(|| rules("egress", "to"));
    policy
}

/// The cluster of a step, and its pods' addresses in the order of the grids.
fn cluster(step: &Value) -> (Cluster, Vec<IpAddr>) {
    let mut cluster = Cluster::default();
    for (name, its) in step["namespaces"].as_object().unwrap() {
        cluster.put_namespace(Namespace::new(name.as_str(), &labels(its)));
    }
    let mut addresses = Vec::new();
    for (i, value) in list(&step["pods"]).enumerate() {
        let mut pod =
            Pod::new(text(&value["namespace"]), text(&value["name"]), labels(&value["labels"]));
        // Two pods of case 196 share an address, which their grids ignore. No block is near it.
        let mut address: Ipv4Addr = value["ip"].as_str().unwrap().parse().unwrap();
        while addresses.contains(&IpAddr::V4(address)) {
            address = Ipv4Addr::from_bits(address.to_bits() + 1);
        }
        pod.ips = vec![address.into()];
        pod.node = Some(NODES[i % NODES.len()].into());
        for protocol in Protocol::WITH_PORTS {
            for number in [80, 81] {
                let name = format!("serve-{number}-{protocol}").to_lowercase();
                pod.ports.push(ContainerPort { name: Some(name.into()), number, protocol });
            }
        }
        addresses.push(pod.ips[0]);
        cluster.put_pod(pod);
    }
    list(&step["policies"]).for_each(|it| cluster.put_policy(policy(it)));
    (cluster, addresses)
}

const NODES: [&str; 3] = ["n1", "n2", "n3"];

#[test]
fn the_tables_give_every_verdict_of_the_conformance_cases() {
    let path = std::env::var_os("PODWALL_CONFORMANCE").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance"),
        PathBuf::from,
    );
    let Ok(cases) = std::fs::read_to_string(path.join("cyclonus_cases.jsonl")) else {
        eprintln!("SKIPPED: no conformance cases at {}", path.display());
        return;
    };
    let mut count = 0;
    for line in cases.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        for step in list(&case["steps"]) {
            let (cluster, addresses) = cluster(step);
            let whole = compile(&cluster, None);
            let nodes: Vec<NodeTables> =
                NODES.iter().map(|node| compile(&cluster, Some(node))).collect();
            for expected in list(&step["expected"]) {
                let protocol =
                    Protocol::from_api(expected["port"]["protocol"].as_str().unwrap()).unwrap();
                let port = u16::try_from(expected["port"]["port"].as_u64().unwrap()).unwrap();
                for (i, src) in addresses.iter().enumerate() {
                    for (j, dst) in addresses.iter().enumerate() {
                        let wants =
                            |grid: &str| expected[grid][i].as_str().unwrap().as_bytes()[j] == b'.';
                        let packet = Packet {
                            src: *src,
                            dst: *dst,
                            protocol,
                            port,
                            from_node: false,
                            to_node: false,
                        };
                        // The grids ask the policies also on the diagonal; on a wire a pod always
                        // reaches itself, so there the sides are looked up below the exception.
                        let (egress, ingress) = sides(&whole, &packet);
                        let place = || format!("case {} {packet:?}", case["index"]);
                        assert_eq!(egress, wants("egress"), "{}", place());
                        assert_eq!(ingress, wants("ingress"), "{}", place());
                        assert_eq!(egress && ingress, wants("combined"), "{}", place());
                        if src != dst {
                            assert_eq!(whole.decide(&packet).passes(), wants("combined"));
                            let passes = nodes.iter().all(|node| node.decide(&packet).passes());
                            assert_eq!(passes, wants("combined"), "three nodes, {}", place());
                        }
                        count += 1;
                    }
                }
            }
        }
    }
    println!("{count} verdicts");
    assert_eq!(count, 124_884, "the cases changed");
}

fn sides(tables: &NodeTables, packet: &Packet) -> (bool, bool) {
    use podwall_policy::policy::Direction;
    let side = |direction, local, remote| {
        tables.subjects.get(&(direction, local)).is_none_or(|subject| {
            tables.verdict(*subject, remote, packet.protocol, packet.port).allow
        })
    };
    (
        side(Direction::Egress, packet.src, packet.dst),
        side(Direction::Ingress, packet.dst, packet.src),
    )
}

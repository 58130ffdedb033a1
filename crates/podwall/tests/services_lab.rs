//! Does the engine say of Services and node ports what packets do?
//!
//! ```text
//!   every pod, node, client outside ──▶ Service, node port ──▶ one of its pods
//!        └── TCP, UDP, SCTP; before and under policies; engine ≡ packets, and each outcome occurs
//! ```

#[cfg(test)]
mod support;

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use support::{Lab, Packet, all_agree, podwall, root};

/// `one` on node-1 and `two` on node-2 are behind `web`; each calls its ports differently.
const OBJECTS: &str = "
{apiVersion: v1, kind: Pod, metadata: {name: one, labels: {app: web, n: one}}, spec: {nodeName: node-1, containers: [{name: c, image: none, ports: [{name: t, containerPort: 8080}, {name: u, containerPort: 5353, protocol: UDP}, {name: s, containerPort: 9000, protocol: SCTP}]}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: two, labels: {app: web, n: two}}, spec: {nodeName: node-2, containers: [{name: c, image: none, ports: [{name: t, containerPort: 8081}, {name: u, containerPort: 5354, protocol: UDP}, {name: s, containerPort: 9001, protocol: SCTP}]}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: near, labels: {app: near}}, spec: {nodeName: node-1, containers: [{name: c, image: none}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: far, labels: {app: far}}, spec: {nodeName: node-3, containers: [{name: c, image: none}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, type: NodePort, ports: [{name: t, port: 80, targetPort: t, nodePort: 30080}, {name: u, port: 53, targetPort: u, protocol: UDP, nodePort: 30053}, {name: s, port: 90, targetPort: s, protocol: SCTP, nodePort: 30090}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: local}, spec: {selector: {n: two}, type: NodePort, externalTrafficPolicy: Local, ports: [{name: t, port: 80, targetPort: t, nodePort: 31080}, {name: u, port: 53, targetPort: u, protocol: UDP, nodePort: 31053}, {name: s, port: 90, targetPort: s, protocol: SCTP, nodePort: 31090}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: nobody}, spec: {selector: {app: nobody}, type: NodePort, ports: [{port: 80, nodePort: 32080}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: headless}, spec: {clusterIP: None, selector: {app: web}, ports: [{port: 80, targetPort: t}]}}
";

/// Policies that tell apart: pods, ports behind the Service, the node that was asked, the client.
const POLICIES: [(&str, &str); 6] = [
    ("no policy", ""),
    ("only one may be reached", "{podSelector: {matchLabels: {n: two}}}"),
    (
        "one by its own ports, near alone",
        "{podSelector: {matchLabels: {n: one}}, ingress: [{from: [{podSelector: {matchLabels: {app: near}}}], ports: [{port: t}, {port: 5353, protocol: UDP}, {port: s, protocol: SCTP}]}]}",
    ),
    (
        "the Service's ports are not the pods'",
        "{podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: 80}, {port: 53, protocol: UDP}, {port: 90, protocol: SCTP}]}]}",
    ),
    (
        "the client outside, and node-1",
        "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{ipBlock: {cidr: 203.0.113.0/24}}, {ipBlock: {cidr: 172.18.0.2/32}}, {ipBlock: {cidr: 'fd00:172:18::2/128'}}]}]}",
    ),
    (
        "egress to the pods, not to the nodes",
        "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: web}}}]}]}",
    ),
];

/// Sources on the pods' own nodes, elsewhere, outside.
const SOURCES: [&str; 7] =
    ["one", "near", "far", "node-1", "node-3", "203.0.113.7", "2001:db8:113::7"];

fn each_network(case: &str, with: impl Fn(&Lab) + Sync) {
    if !root() {
        return;
    }
    let on = |network: &str| {
        let lab = Lab::up(&format!("{case}-{network}"), &["--network", network, "--nodes", "3"]);
        lab.apply(OBJECTS);
        with(&lab);
    };
    thread::scope(|scope| {
        scope.spawn(|| on("ptp"));
        on("bridge");
    });
}

/// Packets of all protocols from a source to a Service or a node, in both families.
#[track_caller]
fn sent(lab: &Lab, src: &str, dst: &str, ports: &[&str]) -> Vec<Packet> {
    let mut args = vec![src, dst, "--ip-family", "dual", "--protocol", "tcp,udp,sctp"];
    for port in ports {
        args.extend(["--port", port]);
    }
    lab.probe_json(&args)
}

fn of_protocol<'a>(packets: &'a [Packet], protocol: &str) -> BTreeSet<(&'a str, &'a str)> {
    let of = packets.iter().filter(|packet| packet.protocol == protocol);
    of.map(|packet| (packet.engine.as_str(), packet.packets.as_str())).collect()
}

/// A source asks every Service and every node for everything.
fn all_ways(lab: &Lab, title: &str, src: &str) -> Vec<Packet> {
    let is_address = src.contains(['.', ':']);
    let services = ["svc/web", "default/svc/local", "svc/nobody"];
    let services = services.iter().filter(|_| !is_address);
    let mut all = Vec::new();
    for dst in services.chain(&["node-1", "node-2", "node-3"]) {
        all.extend(sent(lab, src, dst, &[]));
    }
    all_agree(&format!("{title}: {src} in {}", lab.name), &all);
    all
}

#[test]
fn every_way_through_a_service_is_foretold() {
    each_network("ways", |lab| {
        let (mut packets, mut outcomes) = (0, BTreeSet::new());
        for (title, spec) in POLICIES {
            if spec.is_empty() {
                // A Service without a policy reaches everybody, on every protocol.
                for protocol in ["TCP", "UDP", "SCTP"] {
                    let all = sent(lab, "near", "svc/web", &[]);
                    assert_eq!(of_protocol(&all, protocol), [("allowed", "answered")].into());
                }
            } else {
                lab.apply(&format!(
                    "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: p}}, spec: {spec}}}"
                ));
            }
            // All sources at a time: a command mostly waits for what must not come.
            let found: Vec<Vec<Packet>> = thread::scope(|scope| {
                let threads = SOURCES.map(|src| scope.spawn(move || all_ways(lab, title, src)));
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            for packet in found.into_iter().flatten() {
                packets += 1;
                outcomes.insert((packet.protocol, packet.engine, packet.packets));
            }
        }
        assert!(packets > 1500, "only {packets} packets");
        for protocol in ["TCP", "UDP", "SCTP"] {
            for (engine, packet) in [
                ("allowed", "answered"),
                ("denied", "dropped"),
                ("mixed", "answered"),
                ("mixed", "dropped"),
            ] {
                let outcome = (protocol.to_owned(), engine.to_owned(), packet.to_owned());
                assert!(outcomes.contains(&outcome), "never {outcome:?}: {outcomes:?}");
            }
        }
        let nobody = ("TCP".to_owned(), "nobody".to_owned(), "refused".to_owned());
        assert!(outcomes.contains(&nobody), "{outcomes:?}");
    });
}

/// Exposure said of a node port with policy Cluster that nothing keeps out who asks the pod's own node,
/// and that nobody comes in at others' but by their address; packets say that the first is the client's.
#[test]
fn exposure_says_of_a_node_port_what_packets_do_at_each_node() {
    if !root() {
        return;
    }
    let lab = Lab::up("exposed", &["--nodes", "3"]);
    lab.apply(&OBJECTS.replace("externalTrafficPolicy: Local, ", ""));
    for (from, outcome, clients, enters) in [
        ("", "denied", "", &[][..]),
        (
            "{from: [{ipBlock: {cidr: 203.0.113.0/24}}]}",
            "ownNodeOnly",
            "203.0.113.0/24",
            &["node-2"],
        ),
        ("{from: [{ipBlock: {cidr: 172.18.0.0/16}}]}", "open", "", &["node-1", "node-3"]),
    ] {
        lab.apply(&format!(
            "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: p}}, spec: \
             {{podSelector: {{matchLabels: {{n: two}}}}, policyTypes: [Ingress], ingress: [{from}]}}}}"
        ));
        let said = podwall(&["exposure", "--lab", lab.name(), "-o", "json"], None).json(&[0]);
        let workloads = said["workloads"].as_array().unwrap();
        let two = workloads.iter().find(|its| its["workload"] == "default/two").unwrap();
        let paths = two["paths"].as_array().unwrap();
        let path = paths
            .iter()
            .find(|its| its["service"] == "default/local" && its["port"] == "TCP 80")
            .unwrap();
        assert_eq!((&path["outcome"], &path["seen"]), (&outcome.into(), &"node".into()), "{path}");
        assert_eq!(path["clients"].as_array().map_or("", |its| its[0].as_str().unwrap()), clients);
        for node in ["node-1", "node-2", "node-3"] {
            let packets = lab.probe_json(&["203.0.113.7", node, "--port", "31080"]);
            all_agree(&format!("{from} at {node}"), &packets);
            let passed: Vec<_> = packets.iter().map(Packet::passed).collect();
            assert_eq!(passed, [Some(enters.contains(&node))], "{from} at {node}: {packets:?}");
        }
    }
}

#[test]
fn a_service_is_asked_for_by_name_or_address_and_sends_nothing() {
    each_network("words", |lab| {
        let service = lab.get_json(&["service", "web"]);
        let ip = service["spec"]["clusterIP"].as_str().unwrap().to_owned();
        for word in ["svc/web", "service/web", "default/svc/web", &ip] {
            let packets = lab.probe_json(&["far", word]);
            all_agree(word, &packets);
            assert!(packets.iter().all(|p| p.dst == "default/svc/web"), "{packets:?}");
            assert_eq!(packets.len(), 3, "its ports: {packets:?}");
        }
        let pods: BTreeSet<String> = lab
            .probe_json(&["far", "svc/headless", "--port", "8080"])
            .into_iter()
            .map(|p| p.dst)
            .collect();
        assert_eq!(pods, ["default/one".to_owned(), "default/two".to_owned()].into());
        let refused = lab.run("probe", &["svc/web", "far"], None);
        assert_eq!(refused.code, Some(2), "{refused}");
        assert!(refused.err.contains("default/one, default/two"), "{refused}");
    });
}

/// A probe that is dropped leaves an attempt behind in the tracking of its own node. The next one
/// between the same ports had a smaller first sequence number every other time, and its answer was
/// not translated back: a flake, once in a hundred runs, in the test above.
#[test]
fn an_attempt_that_was_dropped_is_not_in_the_way_of_the_next() {
    each_network("again", |lab| {
        // Few ports, so that each is used again.
        let narrow = "echo 40000 40001 > /proc/sys/net/ipv4/ip_local_port_range";
        lab.run("exec", &["far", "--", "sh", "-c", narrow], None).ok();
        let sent = || lab.probe_json(&["far", "default/svc/local", "--protocol", "tcp"]);
        let mut outcomes = BTreeSet::new();
        for round in 0..12 {
            let denied = round % 2 == 0;
            let selected = if denied { "two" } else { "nobody" };
            lab.apply(&format!(
                "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: p}}, spec: {{podSelector: {{matchLabels: {{n: {selected}}}}}}}}}"
            ));
            let packets = sent();
            all_agree(&format!("round {round} in {}", lab.name), &packets);
            // Of an answer that is not translated the source hears just enough to be connected.
            let said = packets.iter().all(|p| denied || p.detail.contains("answered by pod"));
            assert!(said, "round {round} in {}: {packets:?}", lab.name);
            outcomes.extend(packets.into_iter().map(|packet| (denied, packet.packets)));
            // Numbers grow with time, in steps of a quarter of a second.
            thread::sleep(Duration::from_millis(256));
        }
        let expected = [(true, "dropped".to_owned()), (false, "answered".to_owned())];
        assert_eq!(outcomes, expected.into());
    });
}

//! Do policies hold for packets of both families, in IPv6-only and in dual-stack labs?
//!
//! ```text
//!   node-1: a b     node-2: c     node-3: d (its http is 8080)     outside: two addresses a family
//!   scenario: policies + what must hold ──▶ lab apply ──▶ lab probe ──▶ = engine, = what must hold
//! ```
//!
//! Every packet must do what the engine says; some are written down here, so that engine and kernel
//! cannot be wrong together. A line `a c v6 TCP/80 yes` reads: from a to c by IPv6, TCP port 80, gets
//! through. In a lab without IPv4 lines about it are left aside.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says by panic what is wrong")]

#[cfg(test)]
mod support;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use serde_json::{Value, json};
use support::{Lab, Packet, all_agree, root};

/// Addresses outside that are tried besides those that always are (203.0.113.7, 2001:db8:113::7).
const EXTERNAL: [&str; 2] = ["198.51.100.9", "2001:db8:cafe::9"];

/// Name, node, addresses and the number of the port `http`.
const PODS: [(&str, &str, [&str; 2], u16); 4] = [
    ("a", "node-1", ["10.244.1.10", "fd00:10:244:1::10"], 80),
    ("b", "node-1", ["10.244.1.11", "fd00:10:244:1::11"], 80),
    ("c", "node-2", ["10.244.2.10", "fd00:10:244:2::10"], 80),
    ("d", "node-3", ["10.244.3.10", "fd00:10:244:3::10"], 8080),
];

/// Specs of policies (YAML flow style, one a line), and what must hold under them.
struct Scenario {
    what: &'static str,
    policies: &'static [&'static str],
    must: &'static [&'static str],
}

const SCENARIOS: &[Scenario] = &[
    Scenario {
        what: "no policy: everything passes in both families",
        policies: &[],
        must: &[
            "a b v4 TCP/80 yes",
            "a b v6 TCP/80 yes",
            "a c v4 UDP/80 yes",
            "a c v6 UDP/80 yes",
            "d c v4 SCTP/80 yes",
            "d c v6 SCTP/80 yes",
            "a d v4 ICMP/0 yes",
            "a d v6 ICMP/0 yes",
            "203.0.113.7 c v4 TCP/80 yes",
            "2001:db8:113::7 c v6 TCP/80 yes",
            "c 203.0.113.7 v4 TCP/80 yes",
            "c 2001:db8:113::7 v6 TCP/80 yes",
        ],
    },
    Scenario {
        what: "default deny: nothing passes in either family",
        policies: &["{podSelector: {}, policyTypes: [Ingress, Egress]}"],
        must: &[
            "a b v4 TCP/80 no",
            "a b v6 TCP/80 no",
            "a c v4 UDP/80 no",
            "a c v6 UDP/80 no",
            "d c v4 SCTP/80 no",
            "d c v6 SCTP/80 no",
            "a d v4 ICMP/0 no",
            "a d v6 ICMP/0 no",
            "203.0.113.7 c v4 TCP/80 no",
            "2001:db8:113::7 c v6 TCP/80 no",
            "c 203.0.113.7 v4 ICMP/0 no",
            "c 2001:db8:113::7 v6 ICMP/0 no",
        ],
    },
    Scenario {
        what: "a block of IPv4 alone lets nobody in by IPv6",
        policies: &[
            "{podSelector: {matchLabels: {app: c}}, ingress: [{from: [{ipBlock: {cidr: 10.244.1.10/32}}]}]}",
        ],
        must: &[
            "a c v4 TCP/80 yes",
            "a c v6 TCP/80 no",
            "b c v4 TCP/80 no",
            "b c v6 TCP/80 no",
            "a c v4 ICMP/0 yes",
            "a c v6 ICMP/0 no",
            "c a v4 TCP/80 yes",
            "c a v6 TCP/80 yes",
        ],
    },
    Scenario {
        what: "a block of IPv6 alone lets nobody in by IPv4",
        policies: &[
            "{podSelector: {matchLabels: {app: c}}, ingress: [{from: [{ipBlock: {cidr: 'fd00:10:244:1::10/128'}}]}]}",
        ],
        must: &[
            "a c v4 TCP/80 no",
            "a c v6 TCP/80 yes",
            "b c v4 TCP/80 no",
            "b c v6 TCP/80 no",
            "a c v4 ICMP/0 no",
            "a c v6 ICMP/0 yes",
            "a c v6 SCTP/8080 yes",
        ],
    },
    Scenario {
        what: "blocks of both families let in by both",
        policies: &[
            "{podSelector: {matchLabels: {app: c}}, ingress: [{from: [{ipBlock: {cidr: 10.244.1.10/32}}, {ipBlock: {cidr: 'fd00:10:244:1::10/128'}}], ports: [{port: 80}]}]}",
        ],
        must: &[
            "a c v4 TCP/80 yes",
            "a c v6 TCP/80 yes",
            "b c v4 TCP/80 no",
            "b c v6 TCP/80 no",
            "a c v4 TCP/8080 no",
            "a c v6 TCP/8080 no",
            "a c v4 ICMP/0 no",
            "a c v6 ICMP/0 no",
        ],
    },
    Scenario {
        what: "0.0.0.0/0 is not everybody",
        policies: &[
            "{podSelector: {matchLabels: {app: c}}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}",
        ],
        must: &[
            "a c v4 TCP/80 yes",
            "a c v6 TCP/80 no",
            "203.0.113.7 c v4 TCP/80 yes",
            "2001:db8:113::7 c v6 TCP/80 no",
            "d c v4 ICMP/0 yes",
            "d c v6 ICMP/0 no",
        ],
    },
    Scenario {
        what: "::/0 is not everybody, outwards",
        policies: &[
            "{podSelector: {matchLabels: {app: a}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: '::/0'}}]}]}",
        ],
        must: &[
            "a c v4 TCP/80 no",
            "a c v6 TCP/80 yes",
            "a 203.0.113.7 v4 TCP/80 no",
            "a 2001:db8:113::7 v6 TCP/80 yes",
            "a 2001:db8:cafe::9 v6 ICMP/0 yes",
            "c a v4 TCP/80 yes",
            "c a v6 TCP/80 yes",
        ],
    },
    Scenario {
        what: "an exception is a hole in an IPv6 block",
        policies: &[
            "{podSelector: {matchLabels: {app: c}}, ingress: [{from: [{ipBlock: {cidr: '::/0', except: ['fd00:10:244:1::/64', '2001:db8:cafe::/48']}}]}]}",
        ],
        must: &[
            "a c v6 TCP/80 no",
            "b c v6 UDP/80 no",
            "d c v6 TCP/80 yes",
            "d c v4 TCP/80 no",
            "2001:db8:113::7 c v6 TCP/80 yes",
            "2001:db8:cafe::9 c v6 TCP/80 no",
            "203.0.113.7 c v4 TCP/80 no",
        ],
    },
    Scenario {
        what: "another block opens in a hole",
        policies: &[
            "{podSelector: {matchLabels: {app: c}}, ingress: [{from: [{ipBlock: {cidr: 'fd00:10:244::/48', except: ['fd00:10:244:1::/64']}}, {ipBlock: {cidr: 'fd00:10:244:1::10/128'}}]}]}",
        ],
        must: &[
            "a c v6 TCP/80 yes",
            "b c v6 TCP/80 no",
            "d c v6 TCP/80 yes",
            "a c v4 TCP/80 no",
            "2001:db8:113::7 c v6 TCP/80 no",
        ],
    },
    Scenario {
        what: "selectors mean both addresses of a pod; ports are TCP unless they say",
        policies: &[
            "{podSelector: {matchLabels: {app: b}}, ingress: [{from: [{podSelector: {matchLabels: {app: a}}}], ports: [{port: 80}]}]}",
        ],
        must: &[
            "a b v4 TCP/80 yes",
            "a b v6 TCP/80 yes",
            "a b v4 TCP/8080 no",
            "a b v6 TCP/8080 no",
            "a b v4 UDP/80 no",
            "a b v6 UDP/80 no",
            "a b v4 ICMP/0 no",
            "a b v6 ICMP/0 no",
            "c b v4 TCP/80 no",
            "c b v6 TCP/80 no",
            "203.0.113.7 b v4 TCP/80 no",
        ],
    },
    Scenario {
        what: "without ports every protocol passes, ICMP too",
        policies: &[
            "{podSelector: {matchLabels: {app: b}}, ingress: [{from: [{podSelector: {matchLabels: {app: a}}}]}]}",
        ],
        must: &[
            "a b v4 ICMP/0 yes",
            "a b v6 ICMP/0 yes",
            "a b v4 SCTP/9005 yes",
            "a b v6 SCTP/9005 yes",
            "c b v4 ICMP/0 no",
            "c b v6 ICMP/0 no",
            "2001:db8:113::7 b v6 ICMP/0 no",
        ],
    },
    Scenario {
        what: "a name is each pod's own number",
        policies: &[
            "{podSelector: {matchLabels: {app: a}}, policyTypes: [Egress], egress: [{ports: [{port: http}]}]}",
        ],
        must: &[
            "a c v4 TCP/80 yes",
            "a c v6 TCP/80 yes",
            "a c v4 TCP/8080 no",
            "a c v6 TCP/8080 no",
            "a d v4 TCP/8080 yes",
            "a d v6 TCP/8080 yes",
            "a d v4 TCP/80 no",
            "a d v6 TCP/80 no",
            "a c v6 UDP/80 no",
            "a 203.0.113.7 v4 TCP/80 no",
            "a 2001:db8:113::7 v6 TCP/80 no",
        ],
    },
    Scenario {
        what: "a range has both its ends and nothing beyond",
        policies: &[
            "{podSelector: {matchLabels: {app: d}}, ingress: [{ports: [{port: 81, endPort: 8080}, {protocol: UDP, port: 8080, endPort: 9005}, {protocol: SCTP, port: 9005, endPort: 9005}]}]}",
        ],
        must: &[
            "a d v4 TCP/80 no",
            "a d v6 TCP/80 no",
            "a d v4 TCP/8080 yes",
            "a d v6 TCP/8080 yes",
            "a d v6 TCP/9005 no",
            "a d v4 UDP/80 no",
            "a d v4 UDP/9005 yes",
            "a d v6 UDP/9005 yes",
            "a d v6 UDP/8080 yes",
            "a d v4 SCTP/8080 no",
            "a d v6 SCTP/8080 no",
            "a d v4 SCTP/9005 yes",
            "a d v6 SCTP/9005 yes",
            "203.0.113.7 d v4 TCP/8080 yes",
            "2001:db8:113::7 d v6 TCP/80 no",
        ],
    },
    Scenario {
        what: "outwards to one network of each family",
        policies: &[
            "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 203.0.113.0/24}}], ports: [{port: 80}]}, {to: [{ipBlock: {cidr: '2001:db8:113::/48'}}], ports: [{port: 8080}]}]}",
        ],
        must: &[
            "a 203.0.113.7 v4 TCP/80 yes",
            "a 203.0.113.7 v4 TCP/8080 no",
            "a 2001:db8:113::7 v6 TCP/80 no",
            "a 2001:db8:113::7 v6 TCP/8080 yes",
            "a 198.51.100.9 v4 TCP/80 no",
            "d 2001:db8:cafe::9 v6 TCP/8080 no",
            "a c v4 TCP/80 no",
            "a c v6 TCP/8080 no",
            "203.0.113.7 a v4 TCP/80 yes",
            "2001:db8:cafe::9 a v6 TCP/80 yes",
        ],
    },
    Scenario {
        what: "inwards from one network of each family, each with a protocol of its own",
        policies: &[
            "{podSelector: {matchLabels: {app: c}}, ingress: [{from: [{ipBlock: {cidr: 198.51.100.0/24}}], ports: [{protocol: UDP}]}]}",
            "{podSelector: {matchLabels: {app: c}}, ingress: [{from: [{ipBlock: {cidr: '2001:db8:cafe::/48'}}], ports: [{protocol: SCTP}]}]}",
        ],
        must: &[
            "198.51.100.9 c v4 UDP/80 yes",
            "198.51.100.9 c v4 SCTP/80 no",
            "198.51.100.9 c v4 TCP/80 no",
            "2001:db8:cafe::9 c v6 SCTP/80 yes",
            "2001:db8:cafe::9 c v6 UDP/80 no",
            "2001:db8:cafe::9 c v6 ICMP/0 no",
            "203.0.113.7 c v4 UDP/80 no",
            "2001:db8:113::7 c v6 SCTP/80 no",
            "a c v4 UDP/80 no",
        ],
    },
    Scenario {
        what: "both ends must allow, each in its own family",
        policies: &[
            "{podSelector: {matchLabels: {app: a}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.244.0.0/16}}, {ipBlock: {cidr: 'fd00:10:244:2::/64'}}]}]}",
            "{podSelector: {matchLabels: {app: c}}, ingress: [{from: [{ipBlock: {cidr: 'fd00:10:244::/48'}}]}]}",
        ],
        must: &[
            "a c v6 TCP/80 yes",
            "a c v4 TCP/80 no",
            "a d v4 TCP/80 yes",
            "a d v6 TCP/80 no",
            "b c v6 TCP/80 yes",
            "b c v4 TCP/80 no",
            "c a v4 TCP/80 yes",
            "c a v6 TCP/80 yes",
        ],
    },
];

#[test]
fn dual_stack_on_point_to_point_routes() {
    run("dual", "ptp");
}

#[test]
fn dual_stack_on_a_bridge() {
    run("dual", "bridge");
}

#[test]
fn ipv6_alone_on_point_to_point_routes() {
    run("v6", "ptp");
}

#[test]
fn ipv6_alone_on_a_bridge() {
    run("v6", "bridge");
}

#[test]
fn without_the_firewall_the_same_packets_get_through() {
    if !root() {
        return;
    }
    let lab = Lab::up("families-open", &["--no-enforce"]);
    lab.apply_all(&PODS.map(pod));
    lab.apply(&policy((0, &"{podSelector: {}, policyTypes: [Ingress, Egress]}")));
    let packets = lab.probe_json(&["--ip-family", "dual", "--no-outside", "--port", "80"]);
    let (ours, others): (Vec<&Packet>, Vec<&Packet>) = packets.iter().partition(|p| !p.agrees);
    assert!(others.is_empty(), "a lost packet is no proof of a firewall: {others:?}");
    assert!(ours.iter().all(|p| p.engine == "denied" && p.passed() == Some(true)), "{ours:?}");
    // Four pods with each other and with the name server, there and back, in two families.
    assert_eq!(ours.len(), (4 * 3 + 4 * 2) * 2);
}

fn run(family: &str, network: &str) {
    if !root() {
        return;
    }
    let start = Instant::now();
    let mut args = vec!["--network", network, "--ip-family", family];
    for address in EXTERNAL.iter().filter(|a| family == "dual" || a.contains(':')) {
        args.extend(["--external", address]);
    }
    let lab = Lab::up(&format!("families-{family}-{network}"), &args);
    lab.apply_all(&PODS.map(pod));
    right_addresses(&lab, family);
    let (mut sent, mut held) = (0, 0);
    let mut had = 0;
    for scenario in SCENARIOS {
        let title = format!("{family} {network}: {}", scenario.what);
        let policies: Vec<String> = scenario.policies.iter().enumerate().map(policy).collect();
        if !policies.is_empty() {
            lab.apply(&policies.join("---\n"));
        }
        for n in policies.len()..had {
            lab.delete(&["networkpolicy", &format!("p{n}")]);
        }
        had = policies.len();
        let packets = lab.probe_json(&[
            "--ip-family",
            "dual",
            "--port",
            "80,8080,9005",
            "--protocol",
            "TCP,UDP,SCTP,ICMP",
        ]);
        all_agree(&title, &packets);
        held += holds(&title, scenario, &packets, family);
        sent += packets.len();
    }
    println!(
        "{family} {network}: {} scenarios, {sent} packets, {held} of them written down, in {:.1} s",
        SCENARIOS.len(),
        start.elapsed().as_secs_f64()
    );
}

fn pod((name, node, ips, http): (&str, &str, [&str; 2], u16)) -> Value {
    let ips = ips.map(|ip| json!({"ip": ip}));
    let mut ports = vec![json!({"name": "http", "containerPort": http})];
    for protocol in ["TCP", "UDP", "SCTP"] {
        let others = [80, 8080, 9005].into_iter().filter(|port| protocol != "TCP" || *port != http);
        ports.extend(others.map(|port| json!({"containerPort": port, "protocol": protocol})));
    }
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": {"nodeName": node, "containers": [{"name": "serve", "image": "none", "ports": ports}]},
        "status": {"phase": "Running", "podIP": ips[0]["ip"], "podIPs": ips}})
}

fn policy((n, spec): (usize, &&str)) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p{n}}}\nspec: {spec}\n"
    )
}

/// Blocks depend on addresses: the lab must have given each pod its own.
fn right_addresses(lab: &Lab, family: &str) {
    let places = lab.pods();
    for (name, node, ips, _) in PODS {
        let wanted: Vec<IpAddr> = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        let wanted: Vec<IpAddr> =
            wanted.into_iter().filter(|ip| family == "dual" || ip.is_ipv6()).collect();
        assert_eq!(places[&format!("default/{name}")], (wanted, node.to_owned()), "{name}");
    }
}

/// Checks what is written down; gives how many lines were about this lab.
fn holds(title: &str, scenario: &Scenario, packets: &[Packet], family: &str) -> usize {
    let full = |word: &str| {
        if word.len() == 1 { format!("default/{word}") } else { word.to_owned() }
    };
    let found: BTreeMap<(&str, &str, bool, &str, u16), &Packet> = packets
        .iter()
        .map(|p| ((&*p.src, &*p.dst, p.dst_address.is_ipv6(), &*p.protocol, p.port), p))
        .collect();
    let mut held = 0;
    for line in scenario.must {
        let words: Vec<&str> = line.split(' ').collect();
        let [src, dst, version, service, answer] = words[..] else { panic!("{line}") };
        let (protocol, port) = service.split_once('/').unwrap();
        let v6 = match version {
            "v6" => true,
            "v4" if family == "v6" => continue,
            "v4" => false,
            _ => panic!("{line}"),
        };
        let (src, dst) = (full(src), full(dst));
        let packet = found
            .get(&(&*src, &*dst, v6, protocol, port.parse().unwrap()))
            .unwrap_or_else(|| panic!("{title}: nothing sent for {line}"));
        let wanted = match answer {
            "yes" => true,
            "no" => false,
            _ => panic!("{line}"),
        };
        assert_eq!(packet.passed(), Some(wanted), "{title}: {line}, but {packet}");
        held += 1;
    }
    held
}

/// A regression test: a new lab's switch floods what it has not learned yet, and a packet for a pod
/// was said to have arrived outside.
#[test]
fn the_first_packets_of_a_lab_arrive_nowhere_else() {
    if !root() {
        return;
    }
    let lab = Lab::up("first", &["--ip-family", "v4"]);
    let pods = (1..=3).map(|n| {
        format!("{{apiVersion: v1, kind: Pod, metadata: {{name: p{n}}}, spec: {{nodeName: node-{n}, containers: [{{name: c, image: none}}]}}}}\n---\n")
    });
    let policy = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: closed}, spec: {podSelector: {}}}";
    lab.apply(&(pods.collect::<String>() + policy));
    all_agree("the first packets", &lab.probe_json(&[]));
}

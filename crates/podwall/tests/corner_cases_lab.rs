//! Do the corner cases hold that only packets can show?
//!
//! ```text
//!   docs/semantics.md, "the 50 corner cases" ── lines that point to the lab ──▶ case_NN_… here
//! ```
//!
//! Nodes, translated addresses, Services, replies: what lies between the evaluator's answer and a
//! packet. Each case runs on both kinds of network.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says by panic what is wrong")]

#[cfg(test)]
mod support;

use std::thread;

use support::{Lab, Packet, all_agree, root};

/// Two pods on node-1, one on node-2; `web` and `peer` serve 80 and 8080.
const PODS: &str = "
{apiVersion: v1, kind: Pod, metadata: {name: web, labels: {app: web}}, spec: {nodeName: node-1, containers: [{name: c, image: none, ports: [{name: http, containerPort: 8080}, {containerPort: 80}]}]}, status: {podIPs: [{ip: 10.244.1.10}, {ip: 'fd00:10:244:1::10'}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: peer, labels: {app: peer}}, spec: {nodeName: node-1, containers: [{name: c, image: none, ports: [{containerPort: 8080}, {name: http, containerPort: 80}]}]}, status: {podIPs: [{ip: 10.244.1.11}, {ip: 'fd00:10:244:1::11'}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: far, labels: {app: far}}, spec: {nodeName: node-2, containers: [{name: c, image: none, ports: [{containerPort: 80}]}]}, status: {podIPs: [{ip: 10.244.2.10}, {ip: 'fd00:10:244:2::10'}]}}
";

/// The nodes' addresses, node-1 first.
const NODES: [[&str; 2]; 3] = [
    ["172.18.0.2", "fd00:172:18::2"],
    ["172.18.0.3", "fd00:172:18::3"],
    ["172.18.0.4", "fd00:172:18::4"],
];

/// A client outside, of each family; the lab knows it without being told.
const CLIENT: [&str; 2] = ["203.0.113.7", "2001:db8:113::7"];

/// Runs a case in a lab of each kind, with the three pods; both at a time, since a case mostly
/// waits for what must not come.
fn each(case: &str, with: impl Fn(&Lab) + Sync) {
    if !root() {
        return;
    }
    let on = |network: &str| {
        let lab = Lab::up(&format!("{case}-{network}"), &["--network", network, "--nodes", "3"]);
        lab.apply(PODS);
        with(&lab);
    };
    thread::scope(|scope| {
        scope.spawn(|| on("ptp"));
        on("bridge");
    });
}

/// Puts a policy in force under the only name that these tests use, so that it replaces another.
#[track_caller]
fn policy(lab: &Lab, spec: &str) {
    lab.apply(&format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: p}}, spec: {spec}}}"
    ));
}

/// What packets did from one peer to another, in each family that both have.
#[track_caller]
fn sent(lab: &Lab, src: &str, dst: &str, port: &str) -> Vec<Packet> {
    let packets = lab.probe_json(&[src, dst, "--port", port, "--ip-family", "dual"]);
    all_agree(&format!("{src} → {dst} {port} in {}", lab.name), &packets);
    packets
}

#[track_caller]
fn passes(lab: &Lab, src: &str, dst: &str, port: &str) {
    for packet in sent(lab, src, dst, port) {
        assert_eq!(packet.passed(), Some(true), "{}: {packet}", lab.name);
    }
}

#[track_caller]
fn blocked(lab: &Lab, src: &str, dst: &str, port: &str) {
    for packet in sent(lab, src, dst, port) {
        assert_eq!(packet.passed(), Some(false), "{}: {packet}", lab.name);
    }
}

/// Asks by HTTP from inside of a pod; what the server says, or `None` if nobody does. `url` has no
/// `http://`.
#[track_caller]
fn curl(lab: &Lab, pod: &str, url: &str) -> Option<String> {
    let url = format!("http://{url}");
    let ran = lab.exec(pod, &["curl", "-gsS", "--noproxy", "*", "-m", "2", &url]);
    // 7: refused, 28: time is up; everything else is no answer to the question.
    match ran.code {
        Some(0) => Some(ran.out),
        Some(7 | 28) => None,
        _ => panic!("{}: {ran}", lab.name),
    }
}

/// An address as a URL has it.
fn host(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

/// The Service `web` in front of the pod `web`: port 80 leads to 8080. Its addresses.
#[track_caller]
fn service(lab: &Lab, more: &str) -> Vec<String> {
    lab.apply(&format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: web}}, spec: {{selector: {{app: web}}, \
         ports: [{{port: 80, targetPort: http, nodePort: 30080}}], type: NodePort{more}}}}}"
    ));
    let object = lab.get_json(&["service", "web"]);
    let ips = object["spec"]["clusterIPs"].as_array().unwrap_or_else(|| panic!("{object}"));
    assert_eq!(ips.len(), 2, "{object}");
    ips.iter().map(|ip| ip.as_str().unwrap().to_owned()).collect()
}

/// Whether the client outside gets an answer of the pod `web` at a node's port 30080, and which.
#[track_caller]
fn by_node_port(lab: &Lab, family: usize, node: usize) -> bool {
    let args = [CLIENT[family], NODES[node][family], "--port", "30080"];
    let packets = lab.probe_json(&args);
    let [packet] = &packets[..] else { panic!("{packets:?}") };
    all_agree(&lab.name, &packets);
    match packet.packets.as_str() {
        "answered" => {
            assert!(packet.detail.contains("pod default/web"), "{packet}");
            true
        }
        "dropped" | "unanswered" => false,
        _ => panic!("{}: {packet}", lab.name),
    }
}

#[test]
fn case_19_a_ports_name_is_each_pods_own_number() {
    each("case19", |lab| {
        policy(lab, "{podSelector: {}, ingress: [{ports: [{port: http}]}]}");
        passes(lab, "far", "web", "8080");
        blocked(lab, "far", "web", "80");
        passes(lab, "far", "peer", "80");
        blocked(lab, "far", "peer", "8080");
    });
}

#[test]
fn case_23_a_port_is_the_pods_not_the_services() {
    each("case23", |lab| {
        let ips = service(lab, "");
        policy(lab, "{podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: 8080}]}]}");
        for client in ["peer", "far"] {
            for ip in &ips {
                let said = curl(lab, client, &host(ip)).unwrap_or_else(|| panic!("{client} {ip}"));
                assert!(said.contains("pod: web\n") && said.contains("port: 8080/TCP"), "{said}");
            }
        }
        policy(lab, "{podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: 80}]}]}");
        for client in ["peer", "far"] {
            assert!(ips.iter().all(|ip| curl(lab, client, &host(ip)).is_none()), "{client}");
        }
        // The same for the sender's side.
        policy(
            lab,
            "{podSelector: {matchLabels: {app: far}}, policyTypes: [Egress], egress: [{ports: [{port: 8080}]}]}",
        );
        assert!(ips.iter().all(|ip| curl(lab, "far", &host(ip)).is_some()));
        policy(
            lab,
            "{podSelector: {matchLabels: {app: far}}, policyTypes: [Egress], egress: [{ports: [{port: 80}]}]}",
        );
        assert!(ips.iter().all(|ip| curl(lab, "far", &host(ip)).is_none()));
    });
}

#[test]
fn case_27_a_local_node_port_keeps_the_clients_address() {
    each("case27", |lab| {
        service(lab, ", externalTrafficPolicy: Local");
        assert!(by_node_port(lab, 0, 0) && by_node_port(lab, 1, 0), "no policy yet");
        policy(
            lab,
            "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{ipBlock: {cidr: 203.0.113.7/32}}]}]}",
        );
        assert!(by_node_port(lab, 0, 0), "the client's block matches");
        assert!(!by_node_port(lab, 1, 0), "it is IPv4 alone");
        policy(
            lab,
            "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{ipBlock: {cidr: 172.18.0.0/16}}, {ipBlock: {cidr: 'fd00:172:18::/64'}}]}]}",
        );
        assert!(
            !by_node_port(lab, 0, 0) && !by_node_port(lab, 1, 0),
            "it is not the node's address"
        );
        assert!(!by_node_port(lab, 0, 1), "a node without such a pod does not answer");
    });
}

#[test]
fn case_31_the_own_node_is_always_let_in() {
    each("case31", |lab| {
        policy(lab, "{podSelector: {}, policyTypes: [Ingress, Egress]}");
        for port in ["80", "8080"] {
            passes(lab, "node-1", "web", port);
            passes(lab, "node-1", "peer", port);
        }
        passes(lab, "node-2", "far", "80");
    });
}

#[test]
fn case_32_other_nodes_are_not_exempt() {
    each("case32", |lab| {
        policy(lab, "{podSelector: {}, policyTypes: [Ingress]}");
        blocked(lab, "node-2", "web", "80");
        blocked(lab, "node-1", "far", "80");
        policy(
            lab,
            "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 172.18.0.3/32}}, {ipBlock: {cidr: 'fd00:172:18::3/128'}}], ports: [{port: 80}]}]}",
        );
        passes(lab, "node-2", "web", "80");
        blocked(lab, "node-2", "web", "8080");
        blocked(lab, "node-3", "web", "80");
        policy(lab, "{podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}");
        blocked(lab, "node-2", "web", "80");
    });
}

#[test]
fn case_33_a_pod_on_the_hosts_network_is_its_node() {
    each("case33", |lab| {
        lab.apply("{apiVersion: v1, kind: Pod, metadata: {name: host, labels: {app: host}}, spec: {nodeName: node-2, hostNetwork: true, containers: [{name: c, image: none}]}}");
        let reached = |pod: &str| {
            let at = if pod == "far" {
                ["10.244.2.10", "[fd00:10:244:2::10]"]
            } else {
                ["10.244.1.10", "[fd00:10:244:1::10]"]
            };
            let answers = at.map(|url| curl(lab, "host", url).is_some());
            assert_eq!(answers[0], answers[1], "{pod}: families differ");
            answers[0]
        };
        // No policy selects it, no selector matches it, its own node's pods let it in.
        policy(
            lab,
            "{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: host}}}]}], policyTypes: [Ingress, Egress]}",
        );
        assert!(!reached("web") && reached("far"));
        policy(
            lab,
            "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{ipBlock: {cidr: 172.18.0.3/32}}, {ipBlock: {cidr: 'fd00:172:18::3/128'}}]}]}",
        );
        assert!(reached("web"));
        policy(lab, "{podSelector: {matchLabels: {app: host}}, policyTypes: [Ingress, Egress]}");
        assert!(reached("web"));
    });
}

#[test]
fn case_34_a_pod_always_reaches_itself() {
    each("case34", |lab| {
        let ips = service(lab, "");
        let own = ["10.244.1.10", "fd00:10:244:1::10", "127.0.0.1", "::1"];
        let itself = |what: &str| {
            for address in own {
                let said = curl(lab, "web", &format!("{}:8080", host(address)));
                assert!(said.is_some_and(|s| s.contains("pod: web\n")), "{what}: {address}");
            }
            for ip in &ips {
                let said = curl(lab, "web", &host(ip));
                assert!(said.is_some_and(|s| s.contains("pod: web\n")), "{what}: Service {ip}");
            }
        };
        itself("no policy");
        policy(lab, "{podSelector: {}, policyTypes: [Ingress]}");
        itself("no ingress");
        policy(lab, "{podSelector: {}, policyTypes: [Egress]}");
        itself("no egress");
        policy(lab, "{podSelector: {}, policyTypes: [Ingress, Egress]}");
        itself("nothing");
        assert!(curl(lab, "peer", &host(&ips[0])).is_none(), "others are still denied");
    });
}

#[test]
fn case_35_the_way_to_the_own_node_is_subject_to_egress() {
    each("case35", |lab| {
        passes(lab, "web", "node-1", "80");
        policy(lab, "{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress]}");
        blocked(lab, "web", "node-1", "80");
        blocked(lab, "web", "node-2", "80");
        passes(lab, "peer", "node-1", "80");
        policy(
            lab,
            "{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 172.18.0.2/32}}, {ipBlock: {cidr: 'fd00:172:18::2/128'}}], ports: [{port: 80}]}]}",
        );
        passes(lab, "web", "node-1", "80");
        blocked(lab, "web", "node-1", "8080");
        blocked(lab, "web", "node-2", "80");
    });
}

#[test]
fn case_36_names_need_a_rule_for_the_name_server() {
    each("case36", |lab| {
        service(lab, "");
        let by_name = |pod: &str| {
            let ran = lab.exec(pod, &["curl", "-sS", "-m", "3", "http://web"]);
            ran.code == Some(0) && ran.out.contains("pod: web\n")
        };
        assert!(by_name("far"));
        let to_web = "{to: [{podSelector: {matchLabels: {app: web}}}]}";
        policy(
            lab,
            &format!(
                "{{podSelector: {{matchLabels: {{app: far}}}}, policyTypes: [Egress], egress: [{to_web}]}}"
            ),
        );
        assert!(!by_name("far"), "without its name server a pod finds nobody");
        assert!(by_name("peer"));
        let dns = "{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, podSelector: {matchLabels: {k8s-app: kube-dns}}}], ports: [{protocol: UDP, port: 53}, {protocol: TCP, port: 53}]}";
        policy(
            lab,
            &format!(
                "{{podSelector: {{matchLabels: {{app: far}}}}, policyTypes: [Egress], egress: [{to_web}, {dns}]}}"
            ),
        );
        assert!(by_name("far"));
    });
}

#[test]
fn case_39_the_address_of_an_ended_pod_belongs_to_whoever_has_it_now() {
    each("case39", |lab| {
        policy(
            lab,
            "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: {app: peer}}}]}]}",
        );
        passes(lab, "peer", "web", "80");
        let ended =
            PODS.split("---").nth(1).unwrap().replace("status: {", "status: {phase: Succeeded, ");
        lab.apply(&ended);
        lab.apply("{apiVersion: v1, kind: Pod, metadata: {name: heir, labels: {app: heir}}, spec: {nodeName: node-1, containers: [{name: c, image: none}]}, status: {podIPs: [{ip: 10.244.1.11}, {ip: 'fd00:10:244:1::11'}]}}");
        let (ips, _) = &lab.pods()["default/heir"];
        assert!(ips.contains(&"10.244.1.11".parse().unwrap()), "the heir has {ips:?}");
        blocked(lab, "heir", "web", "80");
    });
}

#[test]
fn case_43_a_pod_made_again_under_its_name_is_judged_anew() {
    each("case43", |lab| {
        policy(
            lab,
            "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: {app: peer}}}]}]}",
        );
        passes(lab, "peer", "web", "80");
        lab.delete(&["pod", "peer"]);
        lab.apply(&PODS.split("---").nth(1).unwrap().replace("app: peer", "app: other"));
        blocked(lab, "peer", "web", "80");
        lab.delete(&["pod", "peer"]);
        lab.apply(PODS.split("---").nth(1).unwrap());
        passes(lab, "peer", "web", "80");
    });
}

#[test]
fn case_44_answers_pass_although_the_other_direction_is_denied() {
    each("case44", |lab| {
        // web may be asked and may ask nobody; peer and far may ask and nobody may ask them.
        policy(
            lab,
            "{podSelector: {}, ingress: [{from: [{podSelector: {}}]}], egress: [{to: [{podSelector: {matchLabels: {app: web}}}]}], policyTypes: [Ingress, Egress]}",
        );
        for client in ["peer", "far"] {
            for protocol in ["TCP", "UDP", "SCTP", "ICMP"] {
                let both = |src: &str, dst: &str| {
                    let args =
                        [src, dst, "--port", "80", "--protocol", protocol, "--ip-family", "dual"];
                    let packets = lab.probe_json(&args);
                    all_agree(&format!("{src} → {dst} {protocol}"), &packets);
                    assert_eq!(packets.len(), 2, "{packets:?}");
                    packets
                };
                for packet in both(client, "web") {
                    // UDP and SCTP are not served: "closed" is an answer that has to come back too.
                    assert!(matches!(&*packet.packets, "answered" | "refused"), "{packet}");
                }
                for packet in both("web", client) {
                    assert_eq!(packet.packets, "dropped", "{packet}");
                }
            }
        }
    });
}

#[test]
fn case_50_behind_a_node_port_the_source_is_the_node_that_the_client_asked() {
    each("case50", |lab| {
        service(lab, ", externalTrafficPolicy: Cluster");
        for family in [0, 1] {
            assert!(by_node_port(lab, family, 0) && by_node_port(lab, family, 1), "no policy yet");
        }
        policy(
            lab,
            "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{ipBlock: {cidr: 203.0.113.7/32}}, {ipBlock: {cidr: '2001:db8:113::7/128'}}]}]}",
        );
        for family in [0, 1] {
            assert!(!by_node_port(lab, family, 1), "another node's address is not the client's");
        }
        policy(
            lab,
            "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{ipBlock: {cidr: 172.18.0.3/32}}, {ipBlock: {cidr: 'fd00:172:18::3/128'}}]}]}",
        );
        for family in [0, 1] {
            assert!(by_node_port(lab, family, 1), "the node's address is what arrives");
            assert!(!by_node_port(lab, family, 2), "and not another node's");
        }
    });
}

#[test]
fn case_50_at_the_pods_own_node_the_client_keeps_its_address() {
    each("case50own", |lab| {
        service(lab, ", externalTrafficPolicy: Cluster");
        // Policies act before the source is translated, and there is no other node in between.
        policy(
            lab,
            "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{ipBlock: {cidr: 203.0.113.7/32}}]}]}",
        );
        assert!(by_node_port(lab, 0, 0));
        assert!(!by_node_port(lab, 1, 0), "a client that no rule names does not pass for the node");
    });
}

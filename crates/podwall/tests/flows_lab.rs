//! Does `lab flows` say who is denied, by which policies, on every data plane?

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says by panic what is wrong")]

#[cfg(test)]
mod support;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;
use support::{Lab, root};

const OBJECTS: &str = "
{apiVersion: v1, kind: Pod, metadata: {name: web, labels: {app: web}}, spec: {nodeName: node-1, containers: [{name: c, image: none}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: db, labels: {app: db}}, spec: {nodeName: node-2, containers: [{name: c, image: none}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: db}, spec: {selector: {app: db}, ports: [{port: 3306, targetPort: 80}]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: db}, spec: {podSelector: {matchLabels: {app: db}}}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: web}, spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{podSelector: {}}]}]}}
";

/// `lab flows` at work; ends with this.
struct Following {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Following {
    /// Returns when everything that is denied from now on will be told.
    fn start(lab: &Lab, args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_podwall"))
            .args(["lab", "--lab", &lab.name, "flows"])
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut said).unwrap();
        assert!(said.contains("following"), "{said}");
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line
    }

    fn json(&mut self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line:?}"))
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn denied_packets_are_told_with_pods_and_policies() {
    if !root() {
        return;
    }
    for dataplane in ["ebpf", "nftables"] {
        let lab = Lab::up("flows", &["--nodes", "2", "--dataplane", dataplane]);
        lab.apply(OBJECTS);
        let mut all = Following::start(&lab, &["-o", "json"]);
        let mut words = Following::start(&lab, &["db", "--count", "1"]);
        // Through the Service, so that the pod behind it and its port must be told.
        let service = lab.get_json(&["service", "db"]);
        let url = format!("{}:3306", service["spec"]["clusterIP"].as_str().unwrap());
        lab.exec("web", &["curl", "-s", "-m", "0.2", "--noproxy", "*", &url]);
        let flow = all.json();
        assert_eq!(flow["verdict"], "denied", "{flow}");
        assert_eq!(flow["direction"], "ingress", "{flow}");
        assert_eq!((&flow["src"], &flow["dst"]), (&"default/web".into(), &"default/db".into()));
        assert_eq!((&flow["protocol"], &flow["port"]), (&"TCP".into(), &80.into()), "{flow}");
        assert_eq!(flow["isolatedBy"], serde_json::json!(["default/db"]), "{flow}");
        assert_eq!(flow["node"], "node-2", "{flow}");
        // Two followers are told the same; one has enough then and ends by itself.
        let line = words.line();
        assert!(line.contains("default/web → default/db  TCP 80"), "{line}");
        assert!(line.contains("isolated for ingress by default/db, no rule allows it"), "{line}");
        assert_eq!(words.child.wait().unwrap().code(), Some(0));
        // Egress, to an address that is nobody's.
        lab.probe_json(&["web", "internet", "--port", "443", "--protocol", "udp"]);
        let flow = loop {
            let flow = all.json();
            if flow["direction"] == "egress" {
                break flow;
            }
        };
        assert_eq!((&flow["dst"], &flow["port"]), (&Value::Null, &443.into()), "{flow}");
        assert_eq!(flow["isolatedBy"], serde_json::json!(["default/web"]), "{flow}");
    }
}

#[test]
fn a_flood_of_denials_is_told_in_part() {
    if !root() {
        return;
    }
    for dataplane in ["ebpf", "nftables"] {
        let lab = Lab::up("flood", &["--nodes", "2", "--dataplane", dataplane]);
        lab.apply(OBJECTS);
        let mut all = Following::start(&lab, &["-o", "json"]);
        let ports: Vec<String> = (1..=2000).map(|port| port.to_string()).collect();
        let packets = lab.probe_json(&["web", "db", "--port", &ports.join(",")]);
        assert_eq!(packets.len(), 2000);
        assert!(packets.iter().all(|packet| packet.passed() == Some(false)));
        // Behind the flood the reports go on.
        lab.probe_json(&["web", "internet", "--port", "443", "--protocol", "udp"]);
        let mut told = BTreeSet::new();
        loop {
            let flow = all.json();
            if flow["direction"] == "egress" {
                break;
            }
            told.insert(flow["port"].as_u64().unwrap());
        }
        assert!(!told.is_empty() && told.len() < 2000, "{} of 2000", told.len());
    }
}

/// Follows what is denied while somebody tries, has policies written from that, and tries again.
#[test]
fn policies_written_from_flows_let_exactly_these_pass_by_packets() {
    if !root() {
        return;
    }
    const SHOP: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: shop, name: web, labels: {app: web}}, spec: {containers: [{name: c, image: none, ports: [{containerPort: 80}]}]}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: shop, name: db, labels: {app: db}}, spec: {containers: [{name: c, image: none, ports: [{containerPort: 80}, {containerPort: 3306}]}]}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: shop, name: job, labels: {app: job}}, spec: {containers: [{name: c, image: none}]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {namespace: shop, name: none}, spec: {podSelector: {}, policyTypes: [Ingress, Egress]}}
";
    for dataplane in ["ebpf", "nftables"] {
        let lab = Lab::up("wanted", &["--nodes", "2", "--dataplane", dataplane]);
        lab.apply(SHOP);
        let mut all = Following::start(&lab, &["-o", "json"]);
        let mut flows = String::new();
        for (from, to, port) in [("shop/web", "shop/db", "3306"), ("shop/job", "shop/web", "80")] {
            lab.probe_json(&[from, to, "--port", port, "--protocol", "tcp"]);
            flows += &loop {
                let line = all.line();
                if line.contains(&format!("\"{to}\"")) {
                    break line;
                }
            };
        }
        let generate = ["generate", "-", "--include-denied", "--dns", "seen", "--lab", lab.name()];
        let written = support::podwall(&generate, Some(&flows)).ok();
        lab.delete(&["networkpolicy", "none", "-n", "shop"]);
        lab.apply(&written);

        // Every pair on every port in question, and what the answers make of each.
        let ask = |port| lab.probe_json(&["--no-outside", "--protocol", "TCP", "--port", port]);
        let rows = [ask("80"), ask("3306")].concat();
        let between_pods = |row: &&support::Packet| {
            let ends = [&row.src, &row.dst];
            row.src != row.dst && ends.into_iter().all(|end| end.starts_with("shop/"))
        };
        let passed: BTreeSet<_> = rows
            .iter()
            .filter(between_pods)
            .filter(|row| row.passed() == Some(true))
            .map(|row| (&*row.src, &*row.dst, row.port))
            .collect();
        let wanted = [("shop/job", "shop/web", 80), ("shop/web", "shop/db", 3306)];
        assert_eq!(passed, BTreeSet::from(wanted), "{dataplane} {written}");
        assert!(rows.iter().all(|row| row.agrees), "{rows:?}");
    }
}

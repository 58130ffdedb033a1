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

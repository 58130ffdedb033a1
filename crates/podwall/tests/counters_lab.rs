//! Does `lab counters` count packets by rule, and do small tables stay safe and say so?

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says by panic what is wrong")]

mod support;

use serde_json::{Value, json};
use support::{Lab, root};

const OBJECTS: &str = "
{apiVersion: v1, kind: Pod, metadata: {name: web, labels: {app: web}}, spec: {nodeName: node-1, containers: [{name: c, image: none}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: db, labels: {app: db}}, spec: {nodeName: node-2, containers: [{name: c, image: none}]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: db}, spec: {podSelector: {matchLabels: {app: db}}, ingress: [
  {from: [{podSelector: {matchLabels: {app: nobody}}}]}, {from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 80}]}]}}
";

/// The policy's `[rule 1, rule 2]`, and what no rule allows.
fn counted(lab: &Lab) -> ([u64; 2], u64) {
    let counters = lab.run("counters", &["-o", "json"], None).json(&[0]);
    let rules = counters["rules"].as_array().unwrap().iter();
    let rules: Vec<u64> = rules
        .filter(|rule| rule["policy"] == "db")
        .map(|rule| {
            assert_eq!(rule["direction"], "ingress");
            assert_eq!(rule["denied"], 0);
            rule["allowed"].as_u64().unwrap()
        })
        .collect();
    let isolated = counters["isolated"].as_array().unwrap();
    let [isolated] = &isolated[..] else { panic!("{counters}") };
    assert_eq!(isolated["pods"], json!(["default/db"]));
    assert_eq!(isolated["directions"], json!(["ingress"]));
    assert_eq!(isolated["isolatedBy"], json!(["default/db"]));
    assert_eq!(isolated["node"], "node-2");
    (rules.try_into().unwrap(), isolated["denied"].as_u64().unwrap())
}

#[test]
fn packets_are_counted_by_rule_and_survive_changes() {
    if !root() {
        return;
    }
    for dataplane in ["ebpf", "nftables"] {
        let lab = Lab::up("counters", &["--nodes", "2", "--dataplane", dataplane]);
        lab.apply(OBJECTS);
        assert_eq!(counted(&lab), ([0, 0], 0));
        let ask = |port: &str| {
            lab.probe_json(&["web", "db", "--port", port, "--protocol", "tcp"]);
        };
        for port in ["80", "80", "81"] {
            ask(port);
        }
        let (rules, denied) = counted(&lab);
        assert!(rules[0] == 0 && rules[1] >= 2 && denied >= 1, "{rules:?} {denied}");
        // Another policy, another pod: nothing of it goes back.
        lab.apply(
            "{apiVersion: v1, kind: Pod, metadata: {name: other, labels: {app: web}}, spec: {nodeName: node-2, containers: [{name: c, image: none}]}}",
        );
        assert_eq!(counted(&lab), (rules, denied));
        ask("80");
        let (after, _) = counted(&lab);
        assert!(after[1] > rules[1], "{after:?}");
        let text = lab.run("counters", &[], None).ok();
        let row = format!("default/db   ingress     2      {}", after[1]);
        assert!(text.contains(&row), "{row} in {text}");
        let none = lab.run("counters", &["-n", "nowhere"], None);
        assert_eq!((none.code, none.out.as_str()), (Some(0), ""), "{none}");
        assert!(none.err.contains("no policies"), "{none}");
    }
}

#[test]
fn what_does_not_fit_is_isolated_and_said_by_the_command_that_did_it() {
    if !root() {
        return;
    }
    let wrong = support::podwall(&["lab", "up", "--limits", "verdict=1"], None);
    assert_eq!(wrong.code, Some(2), "{wrong}");
    assert!(wrong.err.contains("verdicts=N"), "{wrong}");
    for dataplane in ["ebpf", "nftables"] {
        let limits = ["--nodes", "2", "--dataplane", dataplane, "--limits", "verdicts=1"];
        let lab = Lab::up("limits", &limits);
        let passes = || {
            let packets = lab.probe_json(&["web", "db", "--port", "80", "--protocol", "tcp"]);
            packets.iter().all(|packet| packet.passed() == Some(true))
        };
        let tables = || lab.run("tables", &["node-2"], None).ok();
        let apply = |text: &str| {
            let ran = lab.run("apply", &["-f", "-"], Some(text));
            assert_eq!(ran.code, Some(0), "{ran}");
            ran.err
        };
        assert_eq!(apply(OBJECTS), "");
        assert!(passes());
        assert!(tables().contains("verdicts 1 of 1"), "{}", tables());
        let two_ports = OBJECTS.replace("ports: [{port: 80}]", "ports: [{port: 80}, {port: 82}]");
        let warning = apply(&two_ports);
        for words in ["warning: node node-2", "verdicts 0 of 1 (2 wanted)", "default/db"] {
            assert!(warning.contains(words), "{words} in {warning}");
        }
        assert!(!passes());
        assert!(tables().contains("# isolated for ingress with no rule"), "{}", tables());
        let verified = lab.run("tables", &["--verify"], None);
        assert_eq!(verified.code, Some(0), "{verified}");
        // Said once; then there is room again.
        assert_eq!(apply(&two_ports), "");
        assert!(apply(OBJECTS).contains("everything fits"));
        assert!(passes());
        let _: Value = lab.run("counters", &["-o", "json", "-A"], None).json(&[0]);
    }
}

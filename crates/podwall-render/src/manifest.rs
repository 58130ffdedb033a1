//! How is a policy written as a manifest?
//!
//! ```text
//!   Policy ─┬─▶ the object as JSON
//!           └─▶ YAML with remarks: about the policy above it, about a peer beside it
//! ```
//!
//! What is written is read again by `podwall-manifest` as the same policy.

use std::fmt::Write as _;

use podwall_analysis::generate::Proposed;
use podwall_manifest::write;
use podwall_policy::policy::{Direction, Policy};
use serde_json::{Map, Value as Json};

/// The policy as an object of `networking.k8s.io/v1`, with what else its metadata has.
pub fn object(policy: &Policy, metadata: Option<&Map<String, Json>>) -> Json {
    let mut object = write::tree(policy).json();
    if let Some(own) = object["metadata"].as_object_mut() {
        let more = metadata.into_iter().flatten().map(|(key, value)| (key.clone(), value.clone()));
        let named: Vec<_> = std::mem::take(own).into_iter().collect();
        own.extend(more.chain(named));
    }
    object
}

/// Policies as one YAML file, with remarks.
pub fn yaml(
    policies: &[Proposed],
    metadata: &dyn Fn(&Policy) -> Option<Map<String, Json>>,
) -> String {
    let mut out = String::new();
    for proposed in policies {
        out.push_str("---\n");
        out.push_str(&document(proposed, metadata(&proposed.policy).as_ref()));
    }
    out
}

/// One policy as YAML, with remarks.
pub fn document(proposed: &Proposed, metadata: Option<&Map<String, Json>>) -> String {
    let policy = &proposed.policy;
    let mut out = String::new();
    for line in &proposed.about {
        let _ = writeln!(out, "# {}", remark(line));
    }
    let whole = object(policy, metadata);
    for key in ["apiVersion", "kind"] {
        let _ = writeln!(out, "{key}: {}", scalar(&whole[key]));
    }
    out.push_str("metadata:\n");
    block(&mut out, &whole["metadata"], 2);
    out.push_str("spec:\n");
    field(&mut out, "podSelector", &whole["spec"]["podSelector"], 2);
    let types = whole["spec"]["policyTypes"].as_array().map_or(&[][..], Vec::as_slice);
    if types.is_empty() {
        out.push_str("  policyTypes: []\n");
    } else {
        field(&mut out, "policyTypes", &whole["spec"]["policyTypes"], 2);
    }
    for direction in [Direction::Ingress, Direction::Egress] {
        let list = whole["spec"].get(direction.to_string()).and_then(Json::as_array);
        let Some(list) = list else { continue };
        let _ = writeln!(out, "  {direction}:");
        for (number, rule) in list.iter().enumerate() {
            let notes = |peer| proposed.notes.get(&(direction, number, peer)).map(String::as_str);
            write_rule(&mut out, rule, direction, &notes);
        }
    }
    out
}

fn write_rule<'n>(
    out: &mut String,
    rule: &Json,
    direction: Direction,
    notes: &dyn Fn(usize) -> Option<&'n str>,
) {
    let peers = if direction == Direction::Ingress { "from" } else { "to" };
    let mut lead = "  - ";
    if let Some(list) = rule.get(peers).and_then(Json::as_array) {
        let _ = writeln!(out, "{lead}{peers}:");
        lead = "    ";
        for (at, peer) in list.iter().enumerate() {
            if let Some(note) = notes(at) {
                let _ = writeln!(out, "    # {}", remark(note));
            }
            item(out, peer, 4);
        }
    }
    if let Some(list) = rule.get("ports").and_then(Json::as_array) {
        let _ = writeln!(out, "{lead}ports:");
        lead = "    ";
        for port in list {
            item(out, port, 4);
        }
    }
    if lead == "  - " {
        let _ = writeln!(out, "{lead}{{}}");
    }
}

/// A remark is one line, whatever names are in it.
fn remark(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn block(out: &mut String, value: &Json, indent: usize) {
    let Some(map) = value.as_object() else { return };
    // Names first, as everybody writes them.
    let rank = |key: &str| match key {
        "name" | "protocol" | "key" => 0,
        "namespace" | "port" | "operator" => 1,
        _ => 2,
    };
    let mut keys: Vec<&String> = map.keys().collect();
    keys.sort_by_key(|key| (rank(key), key.as_str()));
    for key in keys {
        field(out, key, &map[key], indent);
    }
}

fn field(out: &mut String, key: &str, value: &Json, indent: usize) {
    let pad = " ".repeat(indent);
    let key = write::scalar(key);
    match value {
        Json::Object(map) if map.is_empty() => _ = writeln!(out, "{pad}{key}: {{}}"),
        Json::Object(_) => {
            let _ = writeln!(out, "{pad}{key}:");
            block(out, value, indent + 2);
        }
        Json::Array(list) if list.is_empty() => _ = writeln!(out, "{pad}{key}: []"),
        Json::Array(list) => {
            let _ = writeln!(out, "{pad}{key}:");
            for value in list {
                item(out, value, indent);
            }
        }
        _ => _ = writeln!(out, "{pad}{key}: {}", scalar(value)),
    }
}

fn item(out: &mut String, value: &Json, indent: usize) {
    let pad = " ".repeat(indent);
    match value {
        Json::Object(map) if !map.is_empty() => {
            let mut inner = String::new();
            block(&mut inner, value, indent + 2);
            // The first field stands beside the dash.
            let _ = write!(out, "{pad}- {}", inner.trim_start());
        }
        Json::Object(_) => _ = writeln!(out, "{pad}- {{}}"),
        _ => _ = writeln!(out, "{pad}- {}", scalar(value)),
    }
}

fn scalar(value: &Json) -> String {
    match value {
        Json::String(string) => write::scalar(string),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use podwall_manifest::{Input, Options, read};
    use podwall_policy::policy::Rule;
    use serde_json::json;

    fn read_again(text: &str) -> Vec<Policy> {
        let input = Input::Text { name: "written.yaml".into(), text: text.to_owned() };
        let reading = read(&[input], &Options::default());
        assert!(reading.diagnostics.is_empty(), "{:?}\n{text}", reading.diagnostics);
        let without = |rules: Option<Vec<Rule>>| {
            rules.map(|rules| rules.into_iter().map(|r| Rule { source: None, ..r }).collect())
        };
        let policies = reading.cluster().policies.into_values();
        let bare = |policy: Policy| Policy {
            source: None,
            ingress: without(policy.ingress.clone()),
            egress: without(policy.egress.clone()),
            ..policy
        };
        policies.map(bare).collect()
    }

    #[test]
    fn what_is_written_is_read_again_as_the_same() {
        let text = r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: "1", namespace: "true"}
spec:
  podSelector: {matchLabels: {a.b/c: "08", app: "yes"}, matchExpressions: [
    {key: tier, operator: NotIn, values: ["", "1e3"]}, {key: x, operator: Exists}, {key: z, operator: DoesNotExist}]}
  policyTypes: [Ingress, Egress]
  ingress:
  - {}
  - ports: [{protocol: UDP, port: 53}, {port: http}, {port: 8000, endPort: 8999}, {protocol: SCTP}]
  - from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}, {ipBlock: {cidr: "2001:db8::/32"}},
           {podSelector: {}}, {namespaceSelector: {}}, {namespaceSelector: {matchLabels: {env: prod}}, podSelector: {matchLabels: {app: x}}}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: shop}
spec: {podSelector: {}, policyTypes: [Egress]}
"#;
        let policies = read_again(text);
        assert_eq!(policies.len(), 2);
        let proposed = |policy: &Policy| Proposed {
            policy: policy.clone(),
            about: vec!["a remark\nthat: is no field".to_owned()],
            notes: [((Direction::Ingress, 2, 1), "# beside".to_owned())].into(),
        };
        let all: Vec<Proposed> = policies.iter().map(proposed).collect();
        let meta = |_: &Policy| {
            let map =
                json!({"annotations": {"a": "1: {", "b": "line\nline"}, "labels": {"l": "on"}});
            map.as_object().cloned()
        };
        let written = yaml(&all, &meta);
        assert_eq!(read_again(&written), policies, "{written}");
        assert!(written.contains("\"1: {\"") && written.contains("l: \"on\""), "{written}");
        let json: Vec<Json> = policies.iter().map(|policy| object(policy, None)).collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": json});
        assert_eq!(read_again(&list.to_string()), policies);
    }
}

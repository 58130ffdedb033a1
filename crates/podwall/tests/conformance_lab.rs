//! Do packets in the lab get the verdicts of the field's conformance cases?
//!
//! ```text
//!   case, step ── what differs from now ──▶ lab apply, delete, label ──▶ lab probe ──▶ = its grid?
//! ```
//!
//! One lab for each kind of network, changed from step to step as a user would change it, so that
//! every verdict is also one about a live change. What is right is the file's `combined` grid, not
//! the engine; that the engine agrees is checked beside it. A pod to itself is left aside: it never
//! leaves the pod.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says by panic what is wrong")]

#[cfg(test)]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Map, Value, json};
use support::{Lab, Packet, root};

/// How many cases are tried on each network, at least; `PODWALL_CONFORMANCE_CASES` asks for more
/// (230 are there).
const CASES: usize = 48;

/// What [`CASES`] may not fall below, whatever is asked for.
const AT_LEAST: usize = 40;

/// The nodes of the cases' pods, in the order of the grids: pairs of one namespace and pairs of two
/// on one node, and both across nodes. Pods that a case adds go to the last.
const NODES: [&str; 9] =
    ["node-1", "node-1", "node-2", "node-1", "node-2", "node-2", "node-3", "node-3", "node-1"];

/// What a lab holds, so that the next step changes only what differs.
#[derive(Default)]
struct Now {
    namespaces: BTreeMap<String, Map<String, Value>>,
    /// Pods by `NAMESPACE/NAME`: their objects.
    pods: BTreeMap<String, Value>,
    /// Policies by `NAMESPACE/NAME`.
    policies: BTreeMap<String, Value>,
}

#[test]
fn packets_get_the_conformance_verdicts_on_point_to_point_routes() {
    run("ptp");
}

#[test]
fn packets_get_the_conformance_verdicts_on_a_bridge() {
    run("bridge");
}

#[test]
fn the_chosen_cases_cover_every_tag() {
    let Some(cases) = cases() else { return };
    for wanted in [0, AT_LEAST, CASES, cases.len(), usize::MAX] {
        let chosen = chosen(&cases, wanted);
        let covered: BTreeSet<&str> = chosen.iter().flat_map(|case| tags(case)).collect();
        let all: BTreeSet<&str> = cases.iter().flat_map(tags).collect();
        assert_eq!(covered, all);
        assert!(chosen.len() >= wanted.min(cases.len()), "{} of {wanted}", chosen.len());
        let indices: BTreeSet<u64> = chosen.iter().map(|case| index(case)).collect();
        assert_eq!(indices.len(), chosen.len(), "a case twice");
    }
}

/// The cases; `None`, loudly, if the folder is not here. In CI that is a failure.
fn cases() -> Option<Vec<Value>> {
    let dir = std::env::var_os("PODWALL_CONFORMANCE").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance"),
        PathBuf::from,
    );
    let file = dir.join("cyclonus_cases.jsonl");
    let Ok(text) = std::fs::read_to_string(&file) else {
        let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(!ci, "no conformance cases at {}: CI must have them", file.display());
        eprintln!("SKIPPED: no conformance cases at {}", file.display());
        return None;
    };
    Some(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

/// The cases to try, in the file's order: first those that bring the most tags not seen yet, then
/// every n-th of the others until there are enough.
fn chosen(cases: &[Value], wanted: usize) -> Vec<&Value> {
    let mut missing: BTreeSet<&str> = cases.iter().flat_map(tags).collect();
    let mut picked = BTreeSet::new();
    while !missing.is_empty() {
        let brings = |case: &Value| tags(case).filter(|tag| missing.contains(tag)).count();
        // The first of the best: max_by_key takes the last.
        let best = (0..cases.len()).rev().max_by_key(|i| brings(&cases[*i])).unwrap();
        missing =
            missing.iter().copied().filter(|tag| !tags(&cases[best]).any(|t| t == *tag)).collect();
        picked.insert(best);
    }
    let others: Vec<usize> = (0..cases.len()).filter(|i| !picked.contains(i)).collect();
    let more = wanted.saturating_sub(picked.len()).min(others.len());
    picked.extend((0..more).map(|n| others[n * others.len() / more]));
    picked.into_iter().map(|i| &cases[i]).collect()
}

fn tags(case: &Value) -> impl Iterator<Item = &str> {
    case["tags"].as_array().unwrap().iter().map(|tag| tag.as_str().unwrap())
}

fn index(case: &Value) -> u64 {
    case["index"].as_u64().unwrap()
}

fn run(network: &str) {
    if !root() {
        return;
    }
    let Some(cases) = cases() else { return };
    let wanted = std::env::var("PODWALL_CONFORMANCE_CASES").ok().and_then(|n| n.parse().ok());
    let chosen = chosen(&cases, wanted.unwrap_or(CASES).max(AT_LEAST));
    let start = Instant::now();
    let lab = Lab::up(
        &format!("conformance-{network}"),
        &["--network", network, "--nodes", "3", "--ip-family", "v4"],
    );
    let mut now = Now::default();
    let (mut steps, mut sent, mut blocked) = (0, 0, 0);
    let mut wrong = Vec::new();
    for case in &chosen {
        for (i, step) in case["steps"].as_array().unwrap().iter().enumerate() {
            let title =
                format!("case {} step {}: {}", index(case), i + 1, text(&case["description"]));
            change(&lab, &mut now, step, &title);
            let packets =
                lab.probe_json(&["--no-outside", "--port", "80,81", "--protocol", "TCP,UDP,SCTP"]);
            let (tried, denied) = compare(step, &packets, &title, &mut wrong);
            steps += 1;
            sent += tried;
            blocked += denied;
        }
    }
    println!(
        "{network}: {} cases, {steps} steps, {sent} packets, {blocked} of them blocked, in {:.1} s",
        chosen.len(),
        start.elapsed().as_secs_f64()
    );
    assert!(
        wrong.is_empty(),
        "{} of {sent} packets on {network} differ:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(40)].join("\n")
    );
    assert!(blocked > 0 && blocked < sent, "both outcomes: {blocked} of {sent} blocked");
}

/// Makes the lab what the step says, with as few commands as a user would need.
fn change(lab: &Lab, now: &mut Now, step: &Value, title: &str) {
    let wanted = wanted(step);
    let (pods, namespaces) = (&wanted.pods, &wanted.namespaces);
    let gone = |kind: &str, had: &BTreeMap<String, Value>, want: &BTreeMap<String, Value>| {
        for key in had.keys().filter(|key| !want.contains_key(*key)) {
            let (namespace, name) = key.split_once('/').unwrap();
            if namespaces.contains_key(namespace) {
                lab.delete(&[kind, name, "-n", namespace]);
            }
        }
    };
    for name in now.namespaces.keys().filter(|name| !namespaces.contains_key(*name)) {
        lab.delete(&["namespace", name]);
    }
    gone("networkpolicy", &now.policies, &wanted.policies);
    gone("pod", &now.pods, pods);
    let mut apply = Vec::new();
    for (name, labels) in namespaces {
        match now.namespaces.get(name) {
            None => apply.push(json!({"apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": name, "labels": labels}})),
            Some(had) => relabel(lab, &["namespace", name], had, labels),
        }
    }
    for (key, pod) in pods {
        let Some(had) = now.pods.get(key) else {
            apply.push(pod.clone());
            continue;
        };
        let (namespace, name) = key.split_once('/').unwrap();
        let labels = |pod: &Value| pod["metadata"]["labels"].as_object().unwrap().clone();
        relabel(lab, &["pod", name, "-n", namespace], &labels(had), &labels(pod));
    }
    for (key, policy) in &wanted.policies {
        if now.policies.get(key) != Some(policy) {
            apply.push(policy.clone());
        }
    }
    if !apply.is_empty() {
        lab.apply_all(&apply);
    }
    let moved = now.pods.keys().ne(pods.keys());
    *now = wanted;
    if moved {
        right_places(lab, now, title);
    }
}

/// Sets and removes labels, as `lab label` has them.
fn relabel(lab: &Lab, object: &[&str], had: &Map<String, Value>, want: &Map<String, Value>) {
    let set = want.iter().filter(|(key, value)| had.get(*key) != Some(value));
    let gone = had.keys().filter(|key| !want.contains_key(*key)).map(|key| format!("{key}-"));
    let words: Vec<String> =
        set.map(|(key, value)| format!("{key}={}", text(value))).chain(gone).collect();
    if words.is_empty() {
        return;
    }
    let args = object.iter().copied().chain(["--overwrite"]);
    lab.label(&args.chain(words.iter().map(String::as_str)).collect::<Vec<_>>());
}

/// The objects of a step.
fn wanted(step: &Value) -> Now {
    let namespaces = step["namespaces"].as_object().unwrap().iter();
    let ports: Vec<Value> = step["expected"].as_array().unwrap().iter().map(port).collect();
    let mut used = BTreeSet::new();
    let pod = |(i, pod): (usize, &Value)| {
        let node = NODES.get(i).unwrap_or(&"node-3");
        let mut object = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": pod["namespace"], "name": pod["name"], "labels": pod["labels"]},
            "spec": {"nodeName": node, "containers": [{"name": "serve", "image": "none", "ports": ports}]}});
        // One case gives two new pods one address; the second gets any other.
        if used.insert(text(&pod["ip"]).to_owned()) {
            object["status"] = json!({"phase": "Running", "podIP": pod["ip"]});
        }
        (key(pod), object)
    };
    let policy = |policy: &Value| {
        // As a client of the API holds it, the object does not say what it is; a manifest does.
        let mut object = policy.clone();
        object["kind"] = json!("NetworkPolicy");
        object["apiVersion"] = json!("networking.k8s.io/v1");
        (key(&policy["metadata"]), object)
    };
    Now {
        namespaces: namespaces
            .map(|(name, of)| (name.clone(), of.as_object().unwrap().clone()))
            .collect(),
        pods: step["pods"].as_array().unwrap().iter().enumerate().map(pod).collect(),
        policies: step["policies"].as_array().into_iter().flatten().map(policy).collect(),
    }
}

fn port(expected: &Value) -> Value {
    let port = &expected["port"];
    json!({"name": port["name"], "containerPort": port["port"], "protocol": port["protocol"]})
}

/// Blocks depend on addresses: the lab must have given each pod its own.
fn right_places(lab: &Lab, now: &Now, title: &str) {
    let places = lab.pods();
    for (key, pod) in &now.pods {
        let (ips, node) = &places[key];
        assert_eq!(node, text(&pod["spec"]["nodeName"]), "{title}: {key}");
        if let Some(ip) = pod["status"]["podIP"].as_str() {
            assert_eq!(ips, &[ip.parse::<std::net::IpAddr>().unwrap()], "{title}: {key}");
        }
    }
}

/// Holds packets to the grids; gives how many were sent and how many had to be blocked.
fn compare(
    step: &Value,
    packets: &[Packet],
    title: &str,
    wrong: &mut Vec<String>,
) -> (usize, usize) {
    let mut found: BTreeMap<(&str, &str, &str, u16), &Packet> = BTreeMap::new();
    for packet in packets {
        let key = (&*packet.src, &*packet.dst, &*packet.protocol, packet.port);
        assert!(found.insert(key, packet).is_none(), "{title}: {packet} twice");
        if !packet.agrees {
            wrong.push(format!("{title}: {packet}"));
        }
    }
    let pods: Vec<String> = step["pods"].as_array().unwrap().iter().map(key).collect();
    let (mut tried, mut denied) = (0, 0);
    for expected in step["expected"].as_array().unwrap() {
        let protocol = text(&expected["port"]["protocol"]);
        let port = u16::try_from(expected["port"]["port"].as_u64().unwrap()).unwrap();
        let rows = expected["combined"].as_array().unwrap();
        assert_eq!(rows.len(), pods.len(), "{title}");
        for (src, row) in pods.iter().zip(rows) {
            assert_eq!(text(row).len(), pods.len(), "{title}");
            for (dst, cell) in pods.iter().zip(text(row).chars()).filter(|(dst, _)| *dst != src) {
                let packet = found.get(&(src, dst, protocol, port)).unwrap_or_else(|| {
                    panic!("{title}: nothing sent {src} → {dst} {protocol} {port}")
                });
                let allowed = match cell {
                    '.' => true,
                    'X' => false,
                    other => panic!("{title}: {other} in a grid"),
                };
                tried += 1;
                denied += usize::from(!allowed);
                if packet.passed() != Some(allowed) {
                    let word = if allowed { "allowed" } else { "blocked" };
                    wrong.push(format!("{title}: {packet}; the case says {word}"));
                }
            }
        }
    }
    (tried, denied)
}

fn key(object: &Value) -> String {
    format!("{}/{}", text(&object["namespace"]), text(&object["name"]))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is not text"))
}

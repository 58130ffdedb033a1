//! Do packets follow the evaluator while everything changes?
//!
//! ```text
//!   a round: pods, labels, namespaces, policies come, change and go ──▶ all pairs ≡ evaluator
//!            beside it, all the time: one who may, one who may not
//! ```
//!
//! `PODWALL_CHURN=N` makes it N rounds; `PODWALL_SEED` repeats one.

use std::env;
use std::time::SystemTime;

use super::{Nodes, called, mk_pod};
use crate::traffic::Traffic;
use podwall_cluster::{mk_namespace, mk_policy};
use serde_json::{Value, json};

/// Reproducible chance (xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }

    fn of<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[self.below(list.len())]
    }
}

const NAMESPACES: [&str; 2] = ["red", "blue"];
const APPS: [&str; 3] = ["web", "db", "job"];
const TEAMS: [&str; 2] = ["x", "y"];
/// So many names of pods a namespace; they come again with other labels.
const PODS: usize = 4;

/// A policy of many shapes.
fn policy(chance: &mut Chance, namespace: &str, name: &str) -> Value {
    let mut peer = || match chance.below(5) {
        0 => json!({"podSelector": {"matchLabels": {"app": chance.of(&APPS)}}}),
        1 => json!({"namespaceSelector": {"matchLabels": {"team": chance.of(&TEAMS)}}}),
        2 => json!({"namespaceSelector": {}, "podSelector": {"matchExpressions":
            [{"key": "app", "operator": "NotIn", "values": [chance.of(&APPS)]}]}}),
        3 => json!({"ipBlock": {"cidr": "10.244.0.0/16", "except": ["10.244.2.0/24"]}}),
        _ => json!({"ipBlock": {"cidr": "203.0.113.0/24"}}),
    };
    let rules = [json!([]), json!([{"from": [peer()]}]), json!([{"from": [peer(), peer()]}])];
    let mut spec = json!({"podSelector": {"matchLabels": {"app": chance.of(&APPS)}}});
    let ingress = rules[chance.below(rules.len())].clone();
    if chance.below(3) > 0 {
        spec["ingress"] = ingress;
        spec["policyTypes"] = json!(["Ingress"]);
    } else {
        let text = ingress.to_string().replace("\"from\"", "\"to\"");
        spec["egress"] = serde_json::from_str(&text).unwrap();
        spec["policyTypes"] = json!(["Egress"]);
    }
    mk_policy(namespace, name, &spec)
}

/// One change.
fn change(nodes: &Nodes, chance: &mut Chance) -> String {
    let cluster = &nodes.cluster;
    let namespace = chance.of(&NAMESPACES);
    let pods: Vec<Value> = nodes.pods();
    let mine = |name: &str| pods.iter().find(|pod| called(pod) == format!("{namespace}/{name}"));
    let name = format!("p{}", chance.below(PODS));
    let policies = format!("/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies");
    let rule = format!("rule-{}", chance.below(3));
    match chance.below(8) {
        0..=2 => {
            let labels = [("app", chance.of(&APPS))];
            if mine(&name).is_some() {
                nodes.kubectl(&[
                    "-n",
                    namespace,
                    "delete",
                    "pod",
                    &name,
                    "--ignore-not-found",
                    "--timeout=60s",
                ]);
            }
            cluster.create(&mk_pod(namespace, &name, &labels));
            format!("pod {namespace}/{name} is made with {labels:?}")
        }
        3 if pods.len() > 4 && mine(&name).is_some() => {
            // Not waited for: it goes while the next changes come.
            nodes.kubectl(&[
                "-n",
                namespace,
                "delete",
                "pod",
                &name,
                "--ignore-not-found",
                "--wait=false",
            ]);
            format!("pod {namespace}/{name} is deleted")
        }
        4 if mine(&name).is_some() => {
            let label = format!("app={}", chance.of(&APPS));
            // It may be gone by now.
            let args = ["-n", namespace, "label", "pod", &name, &label, "--overwrite"];
            let _ = cluster.try_kubectl(&args, None);
            format!("pod {namespace}/{name} is labelled {label}")
        }
        5 => {
            let label = format!("team={}", chance.of(&TEAMS));
            nodes.kubectl(&["label", "namespace", namespace, &label, "--overwrite"]);
            format!("namespace {namespace} is labelled {label}")
        }
        6 if cluster.request("DELETE", &format!("{policies}/{rule}"), &Value::Null).is_ok() => {
            format!("policy {namespace}/{rule} is deleted")
        }
        _ => {
            let policy = policy(chance, namespace, &rule);
            cluster.apply(&policy.to_string());
            format!("policy {namespace}/{rule} is {}", policy["spec"])
        }
    }
}

#[test]
fn packets_follow_the_evaluator_while_everything_changes() {
    if !Nodes::are_possible() {
        return;
    }
    let now =
        || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let number = |name: &str| env::var(name).ok().and_then(|it| it.parse::<u64>().ok());
    let seed = number("PODWALL_SEED").unwrap_or_else(now) | 1;
    let rounds = number("PODWALL_CHURN").unwrap_or(4);
    eprintln!("PODWALL_SEED={seed} PODWALL_CHURN={rounds}");
    let mut chance = Chance(seed);

    let nodes = Nodes::up("kubc", &["--nodes", "2", "--network", "bridge", "--ip-family", "v4"]);
    let fixed = json!({"podSelector": {"matchLabels": {"app": "b"}},
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "a"}}}]}]});
    nodes.cluster.create(&mk_policy("default", "fixed", &fixed));
    for name in ["a", "b", "c"] {
        nodes.cluster.create(&mk_pod("default", name, &[("app", name)]));
    }
    NAMESPACES.iter().for_each(|name| drop(nodes.cluster.create(&mk_namespace(name, &[]))));
    nodes.all_run(&["default/a", "default/b", "default/c"]);
    nodes.agree("before", &[]);
    let b = format!("{}:7000", nodes.address("default/b"));
    let lab = &nodes.lab.name;
    let serve = Traffic::start(lab, "b", "serve 7000");
    let allowed = Traffic::start(lab, "a", &format!("tcp {b}"));
    let floods = Traffic::start(lab, "c", &format!("udp {b}"));

    let mut denied = 0;
    for round in 0..rounds {
        let mut story: Vec<String> = (0..6).map(|_| change(&nodes, &mut chance)).collect();
        if chance.below(2) == 0 {
            story.push(format!("{} agents are killed", nodes.kill_agents().len()));
        }
        nodes.until("every pod runs or is gone", || {
            let settled = |pod: &Value| {
                super::is_ready(pod) && pod["metadata"]["deletionTimestamp"].is_null()
            };
            nodes.pods().iter().all(settled).then_some(())
        });
        let pods: Vec<String> = nodes.pods().iter().map(called).collect();
        eprintln!("round {round}: {} pods; {}", pods.len(), story.join("; "));
        // Until the lab has heard of the last change, too.
        nodes.until("the lab knows these pods", || {
            let known = nodes.lab.pods();
            (known.len() == pods.len() && pods.iter().all(|pod| known.contains_key(pod)))
                .then_some(())
        });
        let packets = nodes.agree(&format!("round {round}, seed {seed}"), &["--port", "80"]);
        denied += packets.iter().filter(|packet| packet.passed() == Some(false)).count();
    }
    assert!(denied > 0, "no policy of {rounds} rounds denied anything");
    assert_eq!(floods.stop()["answered"], 0);
    assert_eq!(allowed.stop()["broken"], 0);
    let thief = format!("udp-{}", nodes.address("default/c"));
    assert!(!serve.stop().contains_key(&thief));
}

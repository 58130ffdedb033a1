//! How is a change made in a cluster?
//!
//! ```text
//!   AddPeer ingress rule 1 of shop/db ──▶ kubectl patch netpol db -n shop --type=json -p '[{"op":"add",…}]'
//!   AddPolicy                         ──▶ kubectl apply -f -   with the manifest
//! ```

use podwall_manifest::write;
use podwall_policy::cluster::Cluster;
use podwall_policy::object::Name;
use podwall_policy::policy::{Direction, Tier};
use serde_json::{Value, json};

use super::change::{Change, RuleAt};

/// What makes a change in a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// For a shell.
    pub line: String,
    /// What it reads.
    pub stdin: Option<String>,
}

impl Change {
    /// The command that makes the change; `None` where kubectl has none that lasts.
    pub fn command(&self, cluster: &Cluster) -> Option<Command> {
        let line = |line| Some(Command { line, stdin: None });
        match self {
            Self::AddPort { rule, port } => line(patch(
                &rule.policy,
                "add",
                &format!("{}/ports/-", at(rule)),
                &write::port(port).json(),
            )),
            Self::AddPeer { rule, peer } => line(patch(
                &rule.policy,
                "add",
                &format!("{}/-", peers(rule)),
                &write::peer(peer).json(),
            )),
            Self::AddRule { policy, direction, rule } => {
                let value = write::rule(rule, *direction).json();
                let known = cluster.policies.get(&(Tier::NetworkPolicy, policy.clone()))?;
                // A list that is empty may not be there at all.
                let (path, value) = match known.rules(*direction)? {
                    [] => (format!("/spec/{direction}"), json!([value])),
                    _ => (format!("/spec/{direction}/-"), value),
                };
                line(patch(policy, "add", &path, &value))
            }
            Self::ReplacePeer { rule, index, peer } => line(patch(
                &rule.policy,
                "replace",
                &format!("{}/{index}", peers(rule)),
                &write::peer(peer).json(),
            )),
            Self::SetPeers { rule, peers: list } => {
                let list = list.iter().map(|peer| write::peer(peer).json()).collect();
                line(patch(&rule.policy, "add", &peers(rule), &Value::Array(list)))
            }
            Self::RemovePeer { rule, index } => line(patch(
                &rule.policy,
                "remove",
                &format!("{}/{index}", peers(rule)),
                &Value::Null,
            )),
            Self::RemovePort { rule, index } => line(patch(
                &rule.policy,
                "remove",
                &format!("{}/ports/{index}", at(rule)),
                &Value::Null,
            )),
            Self::RemoveRule { rule } => {
                line(patch(&rule.policy, "remove", &at(rule), &Value::Null))
            }
            Self::AddPolicy { policy, .. } => Some(Command {
                line: "kubectl apply -f -".to_owned(),
                stdin: Some(write::policy(policy)),
            }),
            Self::LabelNamespace { namespace, key, value } => {
                line(format!("kubectl label namespace {namespace} {key}={value}"))
            }
            Self::LabelPods { pods, owner: None, key, value } => {
                let namespace = &pods.first()?.namespace;
                let names: Vec<&str> = pods.iter().map(|pod| &*pod.name).collect();
                line(format!("kubectl label pod -n {namespace} {} {key}={value}", names.join(" ")))
            }
            // The pods that are there would be replaced by others without the label.
            Self::LabelPods { pods, owner: Some(owner), key, value } => {
                let namespace = &pods.first()?.namespace;
                let mut template = json!({"metadata": {"labels": {&**key: &**value}}});
                for field in if owner.starts_with("CronJob/") {
                    ["template", "spec", "jobTemplate", "spec"].as_slice()
                } else {
                    ["template", "spec"].as_slice()
                } {
                    template = json!({*field: template});
                }
                let owner = owner.to_ascii_lowercase();
                line(format!("kubectl patch {owner} -n {namespace} -p '{template}'"))
            }
        }
    }
}

fn at(rule: &RuleAt) -> String {
    format!("/spec/{}/{}", rule.direction, rule.index)
}

fn peers(rule: &RuleAt) -> String {
    let key = if rule.direction == Direction::Ingress { "from" } else { "to" };
    format!("{}/{key}", at(rule))
}

/// A JSON patch (RFC 6902). Nothing that a policy can hold has a quote in it.
fn patch(policy: &Name, op: &str, path: &str, value: &Value) -> String {
    let mut step = json!({"op": op, "path": path});
    if !value.is_null() {
        step["value"] = value.clone();
    }
    format!(
        "kubectl patch networkpolicy {} -n {} --type=json -p '[{step}]'",
        policy.name, policy.namespace
    )
}

//! The JSON of `podwall explain`.

use schemars::JsonSchema;
use serde::Serialize;

use podwall_analysis::explain::{
    PodDirection, PodExplanation, PolicyDirection, PolicyExplanation, RuleExplanation,
};
use podwall_analysis::exposure::Path;
use podwall_analysis::outside;
use podwall_policy::cluster::Cluster;
use podwall_policy::object::Pod;
use podwall_policy::port::PortSet;

use super::exposure::{self, PathJson};
use super::matrix::FamilyPortsJson;
use super::{LabelsJson, PolicyJson, PortsJson, ReasonJson, RuleJson};
use crate::words;

/// The answer to `podwall explain policy`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyAnswer {
    /// The policy.
    #[serde(flatten)]
    pub policy: PolicyJson,
    /// Whom it selects, in words: "pods app=web in namespace shop".
    pub selects: String,
    /// The running pods that it selects now.
    pub pods: Vec<String>,
    /// How many running pods there are to select from.
    pub among: usize,
    /// What comes in.
    pub ingress: PolicyDirectionJson,
    /// What leaves.
    pub egress: PolicyDirectionJson,
    /// What was left out of the input because it could not be read (`--keep-going`).
    pub left_out: Vec<String>,
}

/// What a policy says of one direction.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyDirectionJson {
    /// Whether the policy isolates the pods that it selects in this direction.
    pub isolates: bool,
    /// What it allows; empty: nothing.
    pub rules: Vec<RuleWordsJson>,
}

/// A rule in words.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RuleWordsJson {
    /// The rule.
    #[serde(flatten)]
    pub rule: RuleJson,
    /// `allow`; in tiers also `deny` and `pass`.
    pub action: String,
    /// Whom, in words, one for each peer; empty: anybody.
    pub peers: Vec<String>,
    /// On what, as the manifest has it; empty: every protocol and port.
    pub ports: Vec<String>,
    /// What the names among the ports stand for on the explained pod; absent otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolved: Option<PortsJson>,
    /// The running pods that the peers match now; empty also where there are no peers.
    pub pods: Vec<String>,
    /// Pods of which it is unknown.
    pub unknown: Vec<UnknownPodJson>,
}

/// A pod that a rule may match.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnknownPodJson {
    /// The pod.
    pub pod: String,
    /// The facts that would decide.
    pub missing: Vec<String>,
}

/// The answer to `podwall explain pod`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodAnswer {
    /// `NAMESPACE/NAME`.
    pub pod: String,
    /// Its labels.
    pub labels: LabelsJson,
    /// Its addresses, where known.
    pub ips: Vec<String>,
    /// `file:line:col`, or the object that it was read from; absent where unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Why no policy selects it: `hostNetwork`, `terminated`; absent otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exempt: Option<String>,
    /// What comes in.
    pub ingress: PodDirectionJson,
    /// What leaves.
    pub egress: PodDirectionJson,
    /// Paths from outside to it through Services, Ingresses and Gateways, those that work first.
    pub paths: Vec<PathJson>,
    /// Policies of its namespace that do not select it, the nearest first.
    pub not_selected_by: Vec<PassedOverJson>,
    /// What was left out of the input because it could not be read (`--keep-going`).
    pub left_out: Vec<String>,
}

/// What policies say of a pod in one direction.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodDirectionJson {
    /// Whether a policy isolates the pod.
    pub isolated: bool,
    /// The policies that do.
    pub isolated_by: Vec<PolicyJson>,
    /// Their rules.
    pub rules: Vec<RuleWordsJson>,
    /// Who passes now, over both sides.
    pub passes: Vec<PassingJson>,
    /// Pods with which something passes over one address family but nothing over both.
    pub by_family: Vec<ByFamilyJson>,
    /// Running pods with which nothing passes.
    pub shut: Vec<String>,
    /// With how many pods and classes of addresses it depends on a missing fact.
    pub unknown: usize,
}

/// Who passes with one set of ports.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PassingJson {
    /// What passes.
    #[serde(flatten)]
    pub ports: PortsJson,
    /// The pods.
    pub pods: Vec<String>,
    /// The addresses outside, as CIDRs.
    pub outside: Vec<String>,
}

/// A pod with which the address families differ.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ByFamilyJson {
    /// The pod.
    pub pod: String,
    /// What passes over each family.
    pub families: Vec<FamilyPortsJson>,
}

/// A policy that does not select the pod.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PassedOverJson {
    /// The policy.
    #[serde(flatten)]
    pub policy: PolicyJson,
    /// Why not.
    pub reasons: Vec<ReasonJson>,
}

/// The explanation of a policy as JSON structures.
pub fn policy(of: &PolicyExplanation<'_>, left_out: &[String]) -> PolicyAnswer {
    let [egress, ingress] = &of.directions;
    PolicyAnswer {
        policy: PolicyJson {
            policy: of.policy.name.name.to_string(),
            namespace: of.policy.name.namespace.to_string(),
            source: of.policy.source.as_ref().map(ToString::to_string),
        },
        selects: of.policy.subject.to_string(),
        pods: names(&of.selected),
        among: of.among,
        ingress: policy_direction(ingress),
        egress: policy_direction(egress),
        left_out: left_out.to_vec(),
    }
}

fn policy_direction(direction: &PolicyDirection<'_>) -> PolicyDirectionJson {
    PolicyDirectionJson {
        isolates: direction.rules.is_some(),
        rules: direction.rules.iter().flatten().map(|rule| words_of(rule, None)).collect(),
    }
}

fn words_of(rule: &RuleExplanation<'_>, resolved: Option<&PortSet>) -> RuleWordsJson {
    RuleWordsJson {
        rule: (&rule.rule).into(),
        action: words::action(rule.text.action).to_owned(),
        peers: rule.text.peers.iter().map(ToString::to_string).collect(),
        ports: rule.text.ports.iter().map(ToString::to_string).collect(),
        resolved: resolved.map(PortsJson::from),
        pods: names(&rule.pods),
        unknown: rule
            .maybe
            .iter()
            .map(|(pod, facts)| UnknownPodJson {
                pod: pod.name.to_string(),
                missing: facts.iter().map(ToString::to_string).collect(),
            })
            .collect(),
    }
}

fn names(pods: &[&Pod]) -> Vec<String> {
    pods.iter().map(|pod| pod.name.to_string()).collect()
}

/// The explanation of a pod as JSON structures.
pub fn pod(
    cluster: &Cluster,
    of: &PodExplanation<'_>,
    paths: &[Path],
    left_out: &[String],
) -> PodAnswer {
    let [egress, ingress] = &of.directions;
    PodAnswer {
        pod: of.pod.name.to_string(),
        labels: of.pod.labels.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        ips: of.pod.ips.iter().map(ToString::to_string).collect(),
        source: of.pod.source.as_ref().map(ToString::to_string),
        exempt: of.exempt.map(|exempt| words::exempt_key(exempt).to_owned()),
        ingress: pod_direction(cluster, ingress),
        egress: pod_direction(cluster, egress),
        paths: paths.iter().map(exposure::path).collect(),
        not_selected_by: of
            .passed_over
            .iter()
            .map(|(policy, reasons)| PassedOverJson {
                policy: PolicyJson::new(cluster, &policy.name),
                reasons: reasons.iter().map(ReasonJson::from).collect(),
            })
            .collect(),
        left_out: left_out.to_vec(),
    }
}

fn pod_direction(cluster: &Cluster, direction: &PodDirection<'_>) -> PodDirectionJson {
    let policy = |name| PolicyJson::new(cluster, name);
    PodDirectionJson {
        isolated: !direction.isolated_by.is_empty(),
        isolated_by: direction.isolated_by.iter().map(|p| policy(&p.name)).collect(),
        rules: direction.rules.iter().map(|(rule, own)| words_of(rule, own.as_ref())).collect(),
        passes: direction
            .now
            .iter()
            .map(|passing| PassingJson {
                ports: (&passing.ports).into(),
                pods: names(&passing.pods),
                outside: outside::cidrs(&passing.outside),
            })
            .collect(),
        by_family: direction
            .by_family
            .iter()
            .map(|(pod, families)| ByFamilyJson {
                pod: pod.name.to_string(),
                families: families.iter().map(FamilyPortsJson::from).collect(),
            })
            .collect(),
        shut: names(&direction.shut),
        unknown: direction.open,
    }
}

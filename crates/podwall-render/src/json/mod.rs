//! What does the JSON of an answer look like?
//!
//! The structures here are the contract: field names do not change within a major version, fields
//! may be added. Their JSON Schema is derived from them (`podwall schema`), so the two cannot come
//! apart.

pub mod can;
pub mod explain;
pub mod exposure;
pub mod fix;
pub mod generate;
pub mod lint;
pub mod matrix;
pub mod mutate;
pub mod test;
pub mod test_file;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use podwall_policy::cluster::Cluster;
use podwall_policy::evaluate::Verdict;
use podwall_policy::object::Name;
use podwall_policy::policy::{RuleRef, Tier};
use podwall_policy::port::{PortRange, PortSet, Protocol};
use podwall_policy::reason::Reason;

/// The answers that have a schema, and the file of assertions.
pub const SCHEMAS: &[&str] = &[
    "can",
    "diff",
    "matrix",
    "explain-policy",
    "explain-pod",
    "exposure",
    "lint",
    "test",
    "test-mutate",
    "test-file",
    "generate",
    "generate-from-matrix",
];

/// The JSON Schema of an answer, pretty-printed; `None` if there is no such answer.
pub fn schema(of: &str) -> Option<String> {
    let schema = match of {
        "can" => schemars::schema_for!(can::Can),
        "diff" => schemars::schema_for!(crate::diff::json::Diff),
        "matrix" => schemars::schema_for!(matrix::MatrixJson),
        "explain-policy" => schemars::schema_for!(explain::PolicyAnswer),
        "exposure" => schemars::schema_for!(exposure::ExposureJson),
        "lint" => schemars::schema_for!(lint::Lint),
        "test-mutate" => schemars::schema_for!(mutate::MutateAnswer),
        "test-file" => schemars::schema_for!(test_file::TestFile),
        "test" => schemars::schema_for!(test::TestAnswer),
        "generate" => schemars::schema_for!(generate::GenerateAnswer),
        "generate-from-matrix" => schemars::schema_for!(generate::RewriteAnswer),
        "explain-pod" => schemars::schema_for!(explain::PodAnswer),
        _ => return None,
    };
    pretty(&schema).ok()
}

/// Any answer as indented JSON with a line end.
///
/// # Errors
/// Never for the structures of this crate; serde's types say that it could.
pub fn pretty<T: Serialize>(answer: &T) -> Result<String, NoJson> {
    serde_json::to_string_pretty(answer)
        .map(|text| text + "\n")
        .map_err(|error| NoJson(error.to_string()))
}

/// An answer that could not be written as JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoJson(pub String);

/// `allowed`, `denied` or `unknown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum VerdictJson {
    /// It passes.
    Allowed,
    /// It does not.
    Denied,
    /// It depends on a fact that is missing.
    Unknown,
}

impl From<Verdict> for VerdictJson {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Allowed => Self::Allowed,
            Verdict::Denied => Self::Denied,
            Verdict::Unknown => Self::Unknown,
        }
    }
}

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyJson {
    /// Its name.
    pub policy: String,
    /// Its namespace; empty for cluster-scoped kinds.
    pub namespace: String,
    /// `file:line:col`, or the object that it was read from; absent where unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

impl PolicyJson {
    /// A policy by name, with its place if the cluster has it.
    pub fn new(cluster: &Cluster, name: &Name) -> Self {
        let policy = [Tier::NetworkPolicy, Tier::Admin, Tier::Baseline]
            .into_iter()
            .find_map(|tier| cluster.policies.get(&(tier, name.clone())));
        Self {
            policy: name.name.to_string(),
            namespace: name.namespace.to_string(),
            source: policy.and_then(|p| p.source.as_ref()).map(ToString::to_string),
        }
    }
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RuleJson {
    /// The policy's name.
    pub policy: String,
    /// The policy's namespace; empty for cluster-scoped kinds.
    pub namespace: String,
    /// `ingress` or `egress`: the list that the rule stands in.
    pub direction: String,
    /// Its place in that list, from 1.
    pub rule: u32,
    /// `file:line:col`, or the object that it was read from; absent where unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

impl From<&RuleRef> for RuleJson {
    fn from(rule: &RuleRef) -> Self {
        Self {
            policy: rule.policy.name.to_string(),
            namespace: rule.policy.namespace.to_string(),
            direction: rule.direction.to_string(),
            rule: rule.number,
            source: rule.source.as_ref().map(ToString::to_string),
        }
    }
}

/// One thing that keeps a rule from matching.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReasonJson {
    /// What kind of thing it is: `namespaceLabel`, `podLabel`, `otherNamespace`, `notAPod`,
    /// `hostNetwork`, `terminated`, `outsideBlock`, `excepted`, `otherFamily`, `ports`,
    /// `noNamedPort`.
    pub kind: String,
    /// In words: "namespace demo has no label env=prod".
    pub text: String,
}

impl From<&Reason> for ReasonJson {
    fn from(reason: &Reason) -> Self {
        let kind = match reason {
            Reason::NamespaceLabel { .. } => "namespaceLabel",
            Reason::PodLabel { .. } => "podLabel",
            Reason::OtherNamespace { .. } => "otherNamespace",
            Reason::NotAPod { .. } => "notAPod",
            Reason::HostNetwork { .. } => "hostNetwork",
            Reason::Terminated { .. } => "terminated",
            Reason::OutsideBlock { .. } => "outsideBlock",
            Reason::Excepted { .. } => "excepted",
            Reason::OtherFamily { .. } => "otherFamily",
            Reason::Ports { .. } => "ports",
            Reason::NoNamedPort { .. } => "noNamedPort",
        };
        Self { kind: kind.to_owned(), text: reason.to_string() }
    }
}

/// A set of protocols and ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortsJson {
    /// True for every protocol and port, protocols without ports included; else absent.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schemars(default)]
    pub all: bool,
    /// The ranges; with `all` the full range of each protocol that has ports.
    pub ports: Vec<RangeJson>,
}

/// A range of ports of one protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RangeJson {
    /// `TCP`, `UDP`, `SCTP`, or `other` for every protocol without ports.
    pub protocol: String,
    /// Lowest port, 1 to 65535; absent for `other`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<u16>,
    /// Highest port, inclusive; absent for `other`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<u16>,
}

impl From<&PortSet> for PortsJson {
    /// Port 0 is in no manifest and in no honest packet; ranges start at 1.
    fn from(set: &PortSet) -> Self {
        let whole = |(protocol, range): (Protocol, PortRange)| {
            let from = range.first.max(1);
            (from <= range.last).then(|| RangeJson {
                protocol: protocol.to_string(),
                from: Some(from),
                to: Some(range.last),
            })
        };
        let mut ports: Vec<RangeJson> = set.iter().filter_map(whole).collect();
        let all = set.is_everything();
        if set.has_other_protocols() && !all {
            ports.push(RangeJson { protocol: "other".to_owned(), from: None, to: None });
        }
        Self { all, ports }
    }
}

/// Labels as a JSON object.
pub type LabelsJson = BTreeMap<String, String>;

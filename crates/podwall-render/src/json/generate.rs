//! The JSON of `podwall generate`.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value as Json};

use podwall_analysis::generate::{Because, Generated, Link, Report};
use podwall_analysis::rewrite::{Counts, Rewritten};
use podwall_manifest::flows::{Left, Times, clock};

use podwall_policy::policy::Policy;

use super::{LabelsJson, PortsJson};
use crate::manifest::object;

/// The answer to `podwall generate`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GenerateAnswer {
    /// The policies, as objects of `networking.k8s.io/v1`.
    pub policies: Vec<Json>,
    /// What was observed.
    pub observed: ObservedJson,
    /// Whether every flow that could be placed passes with the policies: `allowed`, `denied` for some
    /// that do not, `unknown` for some of which a fact is missing.
    pub verdict: super::VerdictJson,
    /// Flows that were seen and do not pass, or may not.
    pub failing: Vec<FailingJson>,
    /// Flows that no policy could be made of.
    pub unplaced: Vec<UnplacedJson>,
    /// What passes beside what was seen, among the pods that are there and outside.
    pub beyond: Vec<BeyondJson>,
    /// Pairs of workloads of these namespaces between which something passes.
    pub open_pairs: usize,
    /// How many of these were seen.
    pub seen_pairs: usize,
    /// What was seen, by workload.
    pub flows: Vec<LinkJson>,
    /// Everybody whom policies can select.
    pub workloads: Vec<WorkloadJson>,
    /// Namespaces that get policies.
    pub namespaces: Vec<String>,
    /// Namespaces with flows that get none.
    pub left_alone: Vec<String>,
    /// Policies of these namespaces that stay beside the new ones.
    pub staying: Vec<String>,
    /// Whom pods may ask for names; absent if that was not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolvers: Option<Vec<String>>,
    /// What was left out of the objects because it could not be read (`--keep-going`).
    pub left_out: Vec<String>,
}

/// What was observed.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObservedJson {
    /// Records that were taken.
    pub records: u64,
    /// First record, UTC; absent where records state no time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<String>,
    /// Last record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
    /// From first to last, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
    /// How long before the last record a flow came that had not been seen before, in seconds: the
    /// shorter, the less likely it is that everything was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quiet_seconds: Option<u64>,
    /// Records that were left out, by reason.
    pub left_out: Vec<LeftJson>,
    /// Records for which no rule is needed: a pod to itself, from a pod's own node, between others.
    pub no_rule: u64,
    /// Lines that could not be read (`--keep-going`).
    pub broken_lines: u64,
}

/// Records that were left out.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LeftJson {
    /// `denied`, `reply`, `noDirection`, `unknown`, `lost`, `notAFlow` or `cut`.
    pub why: String,
    /// How many.
    pub records: u64,
}

/// A flow that was seen and does not pass.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailingJson {
    /// Who opened it.
    pub src: String,
    /// Who was asked.
    pub dst: String,
    /// What does not pass.
    #[serde(flatten)]
    pub ports: PortsJson,
    /// The facts that it depends on; empty if it is denied for certain.
    pub missing: Vec<String>,
    /// The policies that isolate its ends.
    pub isolated_by: Vec<String>,
    /// The first record, as `file:line:col`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// Flows that no policy could be made of.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnplacedJson {
    /// Who or what.
    pub what: String,
    /// Why.
    pub why: String,
    /// Different flows.
    pub flows: usize,
    /// Records.
    pub records: u64,
    /// The first record, as `file:line:col`.
    pub source: String,
}

/// What passes although it was not seen.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BeyondJson {
    /// Who may.
    pub src: String,
    /// Whom.
    pub dst: String,
    /// What.
    #[serde(flatten)]
    pub ports: PortsJson,
    /// `dns`, `aggregated`, `labels`, `existing` or `open`.
    pub because: String,
}

/// What was seen between two ends.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LinkJson {
    /// Who opened connections.
    pub src: String,
    /// Who was asked.
    pub dst: String,
    /// On what.
    #[serde(flatten)]
    pub ports: PortsJson,
    /// Records.
    pub records: u64,
    /// First record, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<String>,
    /// Last record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
}

/// Pods that are alike.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadJson {
    /// `NAMESPACE/KIND/NAME`, or `NAMESPACE/POD`.
    pub name: String,
    /// How many pods it has now.
    pub pods: usize,
    /// The labels by which policies know it.
    pub labels: LabelsJson,
    /// Pods of others that have these labels, too.
    pub besides: Vec<String>,
    /// Whether it was seen.
    pub seen: bool,
    /// Whether the result isolates it for ingress.
    pub ingress_isolated: bool,
    /// Whether the result isolates it for egress.
    pub egress_isolated: bool,
}

/// The name of a reason for more than was seen.
pub fn because(because: Because) -> &'static str {
    match because {
        Because::Dns => "dns",
        Because::Aggregated => "aggregated",
        Because::Labels => "labels",
        Because::Existing => "existing",
        Because::Open => "open",
    }
}

fn left(why: Left) -> &'static str {
    match why {
        Left::Denied => "denied",
        Left::Reply => "reply",
        Left::NoDirection => "noDirection",
        Left::Unknown => "unknown",
        Left::Lost => "lost",
        Left::NotAFlow => "notAFlow",
        Left::Cut => "cut",
    }
}

/// The answer as JSON structures.
pub fn generate(made: &Generated, broken: u64, left_out: &[String]) -> GenerateAnswer {
    let report = &made.report;
    let strings = |list: &mut dyn Iterator<Item = String>| -> Vec<String> { list.collect() };
    GenerateAnswer {
        policies: made.policies.iter().map(|proposed| object(&proposed.policy, None)).collect(),
        observed: observed(report, broken),
        verdict: crate::text::generate::verdict(report).into(),
        failing: report
            .failing
            .iter()
            .map(|failing| FailingJson {
                src: failing.src.clone(),
                dst: failing.dst.clone(),
                ports: (&failing.ports).into(),
                missing: failing.missing.iter().map(ToString::to_string).collect(),
                isolated_by: failing.isolated_by.iter().map(ToString::to_string).collect(),
                source: failing.source.as_ref().map(ToString::to_string),
            })
            .collect(),
        unplaced: report
            .unplaced
            .iter()
            .map(|unplaced| UnplacedJson {
                what: unplaced.what.clone(),
                why: unplaced.why.clone(),
                flows: unplaced.flows,
                records: unplaced.records,
                source: unplaced.source.to_string(),
            })
            .collect(),
        beyond: report
            .beyond
            .iter()
            .map(|beyond| BeyondJson {
                src: beyond.src.clone(),
                dst: beyond.dst.clone(),
                ports: (&beyond.ports).into(),
                because: because(beyond.because).to_owned(),
            })
            .collect(),
        open_pairs: report.open_pairs,
        seen_pairs: report.seen_pairs,
        flows: report
            .links
            .iter()
            .filter(|link| !link.seen.is_empty())
            .map(|link| self::link(report, link))
            .collect(),
        workloads: report
            .units
            .iter()
            .map(|unit| WorkloadJson {
                name: unit.label.clone(),
                pods: unit.pods,
                labels: unit.identity.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
                besides: unit.besides.iter().map(ToString::to_string).collect(),
                seen: unit.seen,
                ingress_isolated: unit.isolated[1],
                egress_isolated: unit.isolated[0],
            })
            .collect(),
        namespaces: strings(&mut report.namespaces.iter().map(ToString::to_string)),
        left_alone: strings(&mut report.left_alone.iter().map(ToString::to_string)),
        staying: strings(&mut report.staying.iter().map(ToString::to_string)),
        resolvers: report.resolvers.clone(),
        left_out: left_out.to_vec(),
    }
}

fn link(report: &Report, link: &Link) -> LinkJson {
    let times = link.evidence.times;
    LinkJson {
        src: report.end(link.src),
        dst: report.end(link.dst),
        ports: (&link.seen).into(),
        records: link.evidence.count,
        first: times.map(|times| clock(times.first)),
        last: times.map(|times| clock(times.last)),
    }
}

fn observed(report: &Report, broken: u64) -> ObservedJson {
    let quiet =
        report.times.zip(report.newest).map(|(times, newest)| (times.last - newest) / 1_000_000);
    ObservedJson {
        records: report.records,
        first: report.times.map(|times| clock(times.first)),
        last: report.times.map(|times| clock(times.last)),
        seconds: report.times.map(Times::seconds),
        quiet_seconds: quiet,
        left_out: report
            .left
            .iter()
            .map(|(why, records)| LeftJson { why: left(*why).to_owned(), records: *records })
            .collect(),
        no_rule: report.no_rule,
        broken_lines: broken,
    }
}

/// The answer to `podwall generate --from-matrix`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RewriteAnswer {
    /// The policies, as objects of `networking.k8s.io/v1`.
    pub policies: Vec<Json>,
    /// What is not there any more, by policy.
    pub removed: Vec<RemovedJson>,
    /// How much there was.
    pub before: CountsJson,
    /// How much there is.
    pub after: CountsJson,
    /// Namespaces that were looked at.
    pub namespaces: usize,
    /// Grants and isolations of which it was proved, for all labels and addresses, that the other set
    /// has them; old in new and new in old together.
    pub proved: usize,
    /// Connections among the pods that are there and outside, which the engine finds the same.
    pub connections: usize,
    /// Namespaces that stay as they are, since a proof would take too long.
    pub too_hard: Vec<String>,
    /// Policies of other kinds, which are not looked at.
    pub others: usize,
    /// What was left out of the objects because it could not be read (`--keep-going`).
    pub left_out: Vec<String>,
}

/// What is not there any more.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RemovedJson {
    /// The policy's name.
    pub policy: String,
    /// Its namespace.
    pub namespace: String,
    /// What: `the policy`, `ingress from … on …`, `isolation for egress`.
    pub what: String,
    /// Why it is not needed.
    pub why: String,
    /// Whether it is the whole policy.
    pub whole: bool,
}

/// How many of each.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CountsJson {
    /// Policies.
    pub policies: usize,
    /// Rules.
    pub rules: usize,
    /// Items of `from` and `to`.
    pub peers: usize,
    /// Items of `ports`.
    pub ports: usize,
}

impl From<Counts> for CountsJson {
    fn from(counts: Counts) -> Self {
        let Counts { policies, rules, peers, ports } = counts;
        Self { policies, rules, peers, ports }
    }
}

/// A rewritten set as JSON structures.
pub fn rewritten(
    made: &Rewritten,
    metadata: &dyn Fn(&Policy) -> Option<Map<String, Json>>,
    left_out: &[String],
) -> RewriteAnswer {
    let object = |policy: &Policy| object(policy, metadata(policy).as_ref());
    RewriteAnswer {
        policies: made.policies.iter().map(|proposed| object(&proposed.policy)).collect(),
        removed: made
            .removed
            .iter()
            .map(|removed| RemovedJson {
                policy: removed.policy.name.to_string(),
                namespace: removed.policy.namespace.to_string(),
                what: removed.what.clone(),
                why: removed.why.clone(),
                whole: removed.whole,
            })
            .collect(),
        before: made.before.into(),
        after: made.after.into(),
        namespaces: made.namespaces,
        proved: made.proved,
        connections: made.connections,
        too_hard: made.too_hard.iter().map(ToString::to_string).collect(),
        others: made.others,
        left_out: left_out.to_vec(),
    }
}

//! The JSON of `podwall test`.

use schemars::JsonSchema;
use serde::Serialize;

use podwall_analysis::assertions::{Finding, Outcome, Pair, Status};
use podwall_manifest::assertions::Claim;
use podwall_policy::cluster::Cluster;

use super::PortsJson;
use super::can::{SideJson, ends, side};
use crate::claims;
use crate::text::test::{PacketNote, with_packets};

/// The answer to `podwall test FILE`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TestAnswer {
    /// The worst of all assertions.
    pub status: StatusJson,
    /// How many assertions there are.
    pub total: usize,
    /// How many hold.
    pub holds: usize,
    /// How many do not.
    pub fails: usize,
    /// How many depend on missing facts, or on packets that proved nothing.
    pub unknown: usize,
    /// How many name what there is not.
    pub broken: usize,
    /// Each, in the order of the file.
    pub assertions: Vec<AssertionJson>,
    /// What was left out of the input because it could not be read.
    pub left_out: Vec<String>,
}

/// What came of an assertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum StatusJson {
    /// It holds.
    Holds,
    /// It does not.
    Fails,
    /// It depends on missing facts: this is no pass.
    Unknown,
    /// It names what there is not.
    Broken,
}

impl From<Status> for StatusJson {
    fn from(status: Status) -> Self {
        match status {
            Status::Holds => Self::Holds,
            Status::Fails => Self::Fails,
            Status::Unknown => Self::Unknown,
            Status::Broken => Self::Broken,
        }
    }
}

/// One assertion.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AssertionJson {
    /// Its name, or its claim in words.
    pub name: String,
    /// `allow`, `deny`, `only`, `isolated` or `nowhereElse`.
    pub kind: String,
    /// Its claim in words.
    pub claim: String,
    /// `file:line:col` of the assertion.
    pub source: String,
    /// What came of it.
    pub status: StatusJson,
    /// How many flows were asked about.
    pub flows: usize,
    /// Why it does not hold; empty if it does.
    pub findings: Vec<FindingJson>,
    /// What packets said; absent where none were sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packets: Option<PacketsJson>,
}

/// What packets said of an assertion.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PacketsJson {
    /// How many were sent, positive controls included.
    pub sent: usize,
    /// What came of them.
    pub status: StatusJson,
    /// Packets that did not do what the assertion demands, or proved nothing; a sentence each.
    pub findings: Vec<String>,
}

/// One reason why an assertion does not hold.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FindingJson {
    /// `passes`, `stopped`, `missing`, `notIsolated`, `noFamily`, `whoIsUnknown` or `broken`.
    pub kind: String,
    /// In one sentence.
    pub text: String,
    /// Why, or what to do: a sentence each.
    pub why: Vec<String>,
    /// The facts that would decide.
    pub missing: Vec<String>,
    /// The pair, where it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pair: Option<PairJson>,
}

/// Two ends.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PairJson {
    /// A pod, `node NAME`, or `outside`.
    pub src: String,
    /// The same of the destination.
    pub dst: String,
    /// The CIDRs of the end that is outside.
    pub cidrs: Vec<String>,
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// The ports in question.
    pub ports: PortsJson,
    /// How many pairs of pods of the same workloads are like it besides.
    pub more: usize,
    /// The source's side.
    pub egress: SideJson,
    /// The destination's side.
    pub ingress: SideJson,
}

/// The answer as JSON structures.
pub fn test(
    cluster: &Cluster,
    outcomes: &[Outcome<'_>],
    packets: Option<&[PacketNote]>,
    left_out: &[String],
) -> TestAnswer {
    let assertions: Vec<AssertionJson> = outcomes
        .iter()
        .enumerate()
        .map(|(i, outcome)| assertion(cluster, outcome, packets.and_then(|notes| notes.get(i))))
        .collect();
    let count = |status| assertions.iter().filter(|it| it.status == status).count();
    let worst = (0..outcomes.len())
        .map(|i| with_packets(outcomes[i].status, packets.and_then(|notes| notes.get(i))))
        .max();
    TestAnswer {
        status: worst.unwrap_or(Status::Holds).into(),
        total: assertions.len(),
        holds: count(StatusJson::Holds),
        fails: count(StatusJson::Fails),
        unknown: count(StatusJson::Unknown),
        broken: count(StatusJson::Broken),
        assertions,
        left_out: left_out.to_vec(),
    }
}

fn assertion(cluster: &Cluster, outcome: &Outcome<'_>, note: Option<&PacketNote>) -> AssertionJson {
    let kind = match &outcome.assertion.claim {
        Claim::Allow(_) => "allow",
        Claim::Deny(_) => "deny",
        Claim::Only(_) => "only",
        Claim::Isolated { .. } => "isolated",
        Claim::NowhereElse { .. } => "nowhereElse",
    };
    AssertionJson {
        name: claims::title(outcome.assertion),
        kind: kind.to_owned(),
        claim: claims::claim(outcome.assertion),
        source: outcome.assertion.source.to_string(),
        status: with_packets(outcome.status, note).into(),
        flows: outcome.flows,
        findings: outcome.findings.iter().map(|it| finding(cluster, it)).collect(),
        packets: note.map(|note| PacketsJson {
            sent: note.sent,
            status: with_packets(Status::Holds, Some(note)).into(),
            findings: note.sentences.clone(),
        }),
    }
}

fn finding(cluster: &Cluster, finding: &Finding<'_>) -> FindingJson {
    let (kind, pair, facts) = match finding {
        Finding::Passes(it) => ("passes", Some(it), None),
        Finding::Stopped(it) => ("stopped", Some(it), None),
        Finding::Missing { pair, facts } => ("missing", Some(pair), Some(facts)),
        Finding::NotIsolated { .. } => ("notIsolated", None, None),
        Finding::NoFamily { .. } => ("noFamily", None, None),
        Finding::WhoIsUnknown { facts, .. } => ("whoIsUnknown", None, Some(facts)),
        Finding::Broken { .. } => ("broken", None, None),
    };
    FindingJson {
        kind: kind.to_owned(),
        text: claims::what(finding),
        why: claims::why(cluster, finding),
        missing: facts.into_iter().flatten().map(ToString::to_string).collect(),
        pair: pair.map(|it| pair_json(cluster, it)),
    }
}

fn pair_json(cluster: &Cluster, pair: &Pair<'_>) -> PairJson {
    let case = &pair.case;
    let ([src, dst], cidrs) = ends(case);
    PairJson {
        src,
        dst,
        cidrs,
        family: case.family.to_string(),
        ports: (&pair.ports).into(),
        more: pair.more,
        egress: side(cluster, case, &case.evaluation.egress),
        ingress: side(cluster, case, &case.evaluation.ingress),
    }
}

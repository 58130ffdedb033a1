//! The JSON of `podwall can`.

use schemars::JsonSchema;
use serde::Serialize;

use podwall_analysis::can::{Answer, Case, Contribution, End, contributions};
use podwall_analysis::exposure::Path;
use podwall_analysis::outside;
use podwall_policy::address::Family;
use podwall_policy::cluster::Cluster;
use podwall_policy::evaluate::{Side, Verdict};
use podwall_policy::explain::{Question, SideExplanation};
use podwall_policy::policy::RuleRef;

use super::exposure::{self, PathJson};
use super::fix::FixesJson;
use super::{PolicyJson, PortsJson, ReasonJson, RuleJson, VerdictJson};
use crate::{next, words};

/// The answer to `podwall can SRC DST`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Can {
    /// All cases together. A workload or Service is reached if each of its pods is, over each
    /// address family that both ends speak; the internet if any of its addresses is.
    pub verdict: VerdictJson,
    /// The source as it was understood.
    pub source: String,
    /// The destination as it was understood.
    pub destination: String,
    /// What was asked.
    pub question: QuestionJson,
    /// What passes, within what was asked. For a Service, the ports of its pods.
    pub passes: PortsJson,
    /// The source's side, of the case that decides.
    pub egress: SideJson,
    /// The destination's side, of the case that decides.
    pub ingress: SideJson,
    /// Each case that was asked; like ones are one.
    pub cases: Vec<CaseJson>,
    /// The verdict of each address family, where there are two.
    pub families: Vec<FamilyJson>,
    /// The pods behind a Service.
    pub backends: Vec<BackendJson>,
    /// Which addresses outside pass, where an end is outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outside: Option<OutsideJson>,
    /// Paths from outside to the destination through Services, Ingresses and Gateways, on which
    /// policies may see another address than the source's; absent where the source is not outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paths: Option<Vec<PathJson>>,
    /// Which policies matter for the case that decides, and how.
    pub policies: Vec<ContributionJson>,
    /// How to turn the answer round, where it was asked for (`--fix`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<FixesJson>,
    /// What a reader should know about how the answer was found.
    pub notes: Vec<String>,
    /// What would help where it is denied or unknown.
    pub next: Vec<String>,
    /// What was left out of the input because it could not be read (`--keep-going`).
    pub left_out: Vec<String>,
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QuestionJson {
    /// The protocol; absent if anything was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// The port as it was asked, a number or a name; absent if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
}

/// One side of a case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SideJson {
    /// Whose policies are asked.
    pub subject: String,
    /// This side alone.
    pub verdict: VerdictJson,
    /// Whether a NetworkPolicy isolates the pod in this direction.
    pub isolated: bool,
    /// The policies that do.
    pub isolated_by: Vec<PolicyJson>,
    /// Why no policy is asked: `notAPod`, `hostNetwork`, `terminated`, `itself`, `ownNode`; absent
    /// where policies are asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exempt: Option<String>,
    /// Rules that match and allow.
    pub allowed_by: Vec<RuleJson>,
    /// Rules that match and deny; only tiers have them.
    pub denied_by: Vec<RuleJson>,
    /// Rules that do not match, those that lack least first.
    pub near_misses: Vec<NearMissJson>,
    /// Rules of which it is unknown whether they match.
    pub undecided: Vec<UndecidedJson>,
    /// Rules that match but come too late: an earlier tier or rule has decided.
    pub overruled: Vec<RuleJson>,
    /// Rules of dry-run policies that match: they decide nothing.
    pub dry_run: Vec<RuleJson>,
    /// The facts that would decide.
    pub missing: Vec<String>,
}

/// A rule that does not match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NearMissJson {
    /// The rule.
    #[serde(flatten)]
    pub rule: RuleJson,
    /// What it would do if it matched: `allow`; in tiers also `deny` and `pass`.
    pub action: String,
    /// If all of these were mended the rule would match.
    pub reasons: Vec<ReasonJson>,
}

/// A rule that may match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UndecidedJson {
    /// The rule.
    #[serde(flatten)]
    pub rule: RuleJson,
    /// The facts that would decide.
    pub missing: Vec<String>,
}

/// One case.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CaseJson {
    /// A pod, `node NAME`, or `outside`.
    pub source: String,
    /// The same of the destination.
    pub destination: String,
    /// The CIDRs of the end that is outside.
    pub cidrs: Vec<String>,
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// What was asked of the destination, after a Service's port was translated.
    pub question: QuestionJson,
    /// How many pairs of pods that no policy can tell apart the case stands for.
    pub pairs: usize,
    /// The verdict.
    pub verdict: VerdictJson,
    /// What passes.
    pub passes: PortsJson,
    /// The source's side.
    pub egress: SideJson,
    /// The destination's side.
    pub ingress: SideJson,
}

/// What one policy contributes to the verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContributionJson {
    /// The policy.
    #[serde(flatten)]
    pub policy: PolicyJson,
    /// On which side it is asked: `egress` or `ingress`.
    pub direction: String,
    /// Whether it isolates the pod.
    pub isolates: bool,
    /// Its rules that match and allow, by number.
    pub allows: Vec<u32>,
    /// Its rules that match and deny, by number; only tiers have them.
    pub denies: Vec<u32>,
    /// The verdict if the policy were not there.
    pub without: VerdictJson,
    /// Whether that is another one: the policy alone decides.
    pub decides: bool,
}

/// The verdict of one address family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FamilyJson {
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// Its verdict.
    pub verdict: VerdictJson,
}

/// A pod behind a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendJson {
    /// The Service's port.
    pub service_port: u16,
    /// Its protocol.
    pub protocol: String,
    /// The pod.
    pub pod: String,
    /// The port on the pod; absent if the pod lacks the name that targetPort gives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_port: Option<u16>,
    /// The verdict; absent where there is no target port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<VerdictJson>,
}

/// Addresses outside by verdict, as the fewest CIDRs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutsideJson {
    /// Those that pass.
    pub allowed: Vec<String>,
    /// Those that do not.
    pub denied: Vec<String>,
    /// Those of which it is not known.
    pub unknown: Vec<String>,
}

/// The answer as JSON structures.
pub fn can(
    cluster: &Cluster,
    answer: &Answer<'_>,
    paths: Option<&[Path]>,
    left_out: &[String],
) -> Option<Can> {
    let decisive = answer.decisive()?;
    Some(Can {
        verdict: answer.verdict.into(),
        source: answer.src.to_string(),
        destination: answer.dst.to_string(),
        question: asked(answer),
        passes: (&answer.passes).into(),
        egress: side(cluster, decisive, &decisive.evaluation.egress),
        ingress: side(cluster, decisive, &decisive.evaluation.ingress),
        cases: answer.cases.iter().map(|case| case_json(cluster, case)).collect(),
        families: families(answer),
        backends: backends(answer),
        outside: outside_json(answer),
        paths: paths.map(|paths| paths.iter().map(exposure::path).collect()),
        policies: policies(cluster, answer),
        fix: None,
        notes: answer.notes.clone(),
        next: next::steps(decisive),
        left_out: left_out.to_vec(),
    })
}

fn asked(answer: &Answer<'_>) -> QuestionJson {
    let port = answer.ask.port.as_ref().map(ToString::to_string);
    let protocol = match (answer.ask.protocol, answer.decisive().map(|case| case.question)) {
        (Some(protocol), _) => Some(protocol.to_string()),
        (None, Some(Question::Port(protocol, _))) if port.is_some() => Some(protocol.to_string()),
        _ => None,
    };
    QuestionJson { protocol, port }
}

fn question(question: Question) -> QuestionJson {
    match question {
        Question::Anything => QuestionJson { protocol: None, port: None },
        Question::Port(protocol, port) => QuestionJson {
            protocol: Some(protocol.to_string()),
            port: port.map(|port| port.to_string()),
        },
    }
}

pub(super) fn side(cluster: &Cluster, case: &Case<'_>, side: &Side) -> SideJson {
    let (end, why): (&End<'_>, &SideExplanation) = match side.direction {
        podwall_policy::policy::Direction::Egress => (&case.src, &case.egress),
        podwall_policy::policy::Direction::Ingress => (&case.dst, &case.ingress),
    };
    SideJson {
        subject: end.to_string(),
        verdict: why.verdict.into(),
        isolated: side.is_isolated(),
        isolated_by: side.isolated_by.iter().map(|n| PolicyJson::new(cluster, n)).collect(),
        exempt: side.exempt.map(|exempt| words::exempt_key(exempt).to_owned()),
        allowed_by: why.allowed_by.iter().map(RuleJson::from).collect(),
        denied_by: why.denied_by.iter().map(RuleJson::from).collect(),
        near_misses: why
            .near_misses
            .iter()
            .map(|miss| NearMissJson {
                rule: (&miss.rule).into(),
                action: words::action(miss.action).to_owned(),
                reasons: miss.reasons.iter().map(ReasonJson::from).collect(),
            })
            .collect(),
        undecided: why
            .undecided
            .iter()
            .map(|(rule, facts)| UndecidedJson {
                rule: rule.into(),
                missing: facts.iter().map(ToString::to_string).collect(),
            })
            .collect(),
        overruled: why.overruled.iter().map(RuleJson::from).collect(),
        dry_run: why.dry_run.iter().map(RuleJson::from).collect(),
        missing: side.missing.iter().map(ToString::to_string).collect(),
    }
}

/// Source and destination of a case, and the addresses that stand behind `outside`.
pub(super) fn ends(case: &Case<'_>) -> ([String; 2], Vec<String>) {
    let both = [&case.src, &case.dst];
    let cidrs = both.into_iter().filter_map(|end| match end {
        End::Outside(class) => Some(outside::cidrs(&class.addresses)),
        _ => None,
    });
    let names = both.map(|end| match end {
        End::Outside(_) => "outside".to_owned(),
        other => other.to_string(),
    });
    (names, cidrs.flatten().collect())
}

fn case_json(cluster: &Cluster, case: &Case<'_>) -> CaseJson {
    let ([source, destination], cidrs) = ends(case);
    CaseJson {
        source,
        destination,
        cidrs,
        family: case.family.to_string(),
        question: question(case.question),
        pairs: case.pairs,
        verdict: case.verdict.into(),
        passes: (&case.passes()).into(),
        egress: side(cluster, case, &case.evaluation.egress),
        ingress: side(cluster, case, &case.evaluation.ingress),
    }
}

fn policies(cluster: &Cluster, answer: &Answer<'_>) -> Vec<ContributionJson> {
    let Some(case) = answer.decisive() else { return Vec::new() };
    let numbers = |rules: &[RuleRef]| rules.iter().map(|rule| rule.number).collect();
    let one = |its: &Contribution| ContributionJson {
        policy: PolicyJson::new(cluster, &its.policy),
        direction: its.direction.to_string(),
        isolates: its.isolates,
        allows: numbers(&its.allows),
        denies: numbers(&its.denies),
        without: its.without.into(),
        decides: its.without != case.verdict,
    };
    contributions(cluster, case).iter().map(one).collect()
}

fn families(answer: &Answer<'_>) -> Vec<FamilyJson> {
    let of = |family: Family| {
        answer.family_verdict(family).map(|verdict: Verdict| FamilyJson {
            family: family.to_string(),
            verdict: verdict.into(),
        })
    };
    let list: Vec<FamilyJson> = Family::BOTH.into_iter().filter_map(of).collect();
    if list.len() > 1 { list } else { Vec::new() }
}

fn backends(answer: &Answer<'_>) -> Vec<BackendJson> {
    let mut out = Vec::new();
    for translation in &answer.translations {
        let row = |pod: &podwall_policy::object::Pod, port, verdict: Option<Verdict>| BackendJson {
            service_port: translation.port.port,
            protocol: translation.port.protocol.to_string(),
            pod: pod.name.to_string(),
            target_port: port,
            verdict: verdict.map(VerdictJson::from),
        };
        out.extend(
            translation.backends.iter().map(|(pod, port, v)| row(pod, Some(*port), Some(*v))),
        );
        out.extend(translation.without.iter().map(|pod| row(pod, None, None)));
    }
    out
}

fn outside_json(answer: &Answer<'_>) -> Option<OutsideJson> {
    let list = |verdict| outside::cidrs(&answer.outside(verdict));
    let (allowed, denied, unknown) =
        (list(Verdict::Allowed), list(Verdict::Denied), list(Verdict::Unknown));
    let some = [&allowed, &denied, &unknown].iter().any(|list| !list.is_empty());
    some.then_some(OutsideJson { allowed, denied, unknown })
}

//! The JSON of `podwall diff`.

use podwall_analysis::difference::{
    Change, Exposure, Future, Isolation, Kind, Row, Shift, Somebody, Whys,
};
use podwall_analysis::outside;
use podwall_policy::policy::RuleRef;
use schemars::JsonSchema;
use serde::Serialize;

use super::{Told, counts, covers, example};
use crate::json::{LabelsJson, PortsJson, RuleJson};

/// The answer to `podwall diff`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Diff {
    /// `same`; `differs` if something certainly does; `unknown` if it depends on missing facts.
    pub verdict: String,
    /// What the first side is called.
    pub before: String,
    /// What the second side is called.
    pub after: String,
    /// Whom the answer is about: what was compared, in words.
    pub covers: String,
    /// How many connections there are of each kind; a pair counts once, whatever its addresses.
    pub counts: CountsJson,
    /// What differs, new exposure first.
    pub changes: Vec<ChangeJson>,
    /// Workloads or pods that only the second side has.
    pub added: Vec<String>,
    /// Workloads or pods that only the first side has.
    pub removed: Vec<String>,
    /// What is known of pods that do not exist yet; absent if nobody asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub future: Option<FutureJson>,
    /// How the sides were made up, in sentences.
    pub notes: Vec<String>,
    /// What was left out of the input because it could not be read (`--keep-going`).
    pub left_out: Vec<String>,
}

/// How many.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CountsJson {
    /// Nothing passed, something does.
    pub appears: usize,
    /// Something passed and does, on other ports or for other pods.
    pub changes: usize,
    /// Something passed, nothing does.
    pub disappears: usize,
    /// It depends on missing facts.
    pub unknown: usize,
}

/// What differs from one peer to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChangeJson {
    /// `appears`, `changes`, `disappears` or `unknown`.
    pub change: String,
    /// Who opens the connection: `NAMESPACE/POD`, `NAMESPACE/KIND/NAME`; absent for addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub src: Option<String>,
    /// The source's addresses as disjoint CIDRs; empty for pods.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    pub src_addresses: Vec<String>,
    /// Who is asked; absent for addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dst: Option<String>,
    /// The destination's addresses as disjoint CIDRs; empty for pods.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    pub dst_addresses: Vec<String>,
    /// Whom something is opened to, or perhaps: `fromOutside`, `fromOtherNamespace`, `toOutside`,
    /// `sameNamespace`; absent where nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exposure: Option<String>,
    /// What happens over at least one address family.
    #[serde(flatten)]
    pub ports: ShiftJson,
    /// What happens over each family, where that differs; else absent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    pub families: Vec<FamilyShiftJson>,
    /// True where it is so for some pairs of pods of these workloads only; else absent.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schemars(default)]
    pub partly: bool,
    /// Which rules and policies did it, for a pair of pods that shows it.
    pub why: WhyJson,
}

/// What happens to ports. What is empty is absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ShiftJson {
    /// What certainly passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<PortsJson>,
    /// What certainly passes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<PortsJson>,
    /// What certainly did not pass and certainly does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opened: Option<PortsJson>,
    /// What certainly passed and certainly does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closed: Option<PortsJson>,
    /// What passed before and does after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unchanged: Option<PortsJson>,
    /// What is opened if a missing fact says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub perhaps_opened: Option<PortsJson>,
    /// What is closed if a missing fact says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub perhaps_closed: Option<PortsJson>,
    /// What depends on missing facts before and after, and perhaps in another way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undecided: Option<PortsJson>,
}

/// What happens over one address family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FamilyShiftJson {
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// What happens.
    #[serde(flatten)]
    pub ports: ShiftJson,
}

/// Which rules and policies did it. What is empty is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WhyJson {
    /// Rules of the second side that let pass what is opened.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    pub allowed_by: Vec<RuleJson>,
    /// Policies of the first side that isolated, where nothing does any more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    pub no_longer_isolated_by: Vec<IsolationJson>,
    /// Rules of the first side that denied what is opened.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    pub denied_before: Vec<RuleJson>,
    /// Rules of the first side that let pass what is closed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    pub allowed_before: Vec<RuleJson>,
    /// Policies of the second side that isolate.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    pub isolated_by: Vec<IsolationJson>,
    /// Rules of the second side that deny what is closed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    pub denied_by: Vec<RuleJson>,
    /// Facts that would decide what is not known of the first side.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    pub missing_before: Vec<String>,
    /// Facts that would decide what is not known of the second side.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    pub missing_after: Vec<String>,
}

/// A policy that isolates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IsolationJson {
    /// The policy's name.
    pub policy: String,
    /// Its namespace.
    pub namespace: String,
    /// `ingress` or `egress`.
    pub direction: String,
    /// `file:line:col`, or the object that it was read from; absent where unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// What is known of pods and namespaces that do not exist yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FutureJson {
    /// `same`: the policies say the same, so all would be treated as before. `differs`: the examples
    /// would not. `unproved`: none was found that would not, which is no proof.
    pub verdict: String,
    /// Connections that would be others.
    pub examples: Vec<ExampleJson>,
}

/// A connection of somebody who may come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExampleJson {
    /// In words.
    pub text: String,
    /// Who would open it.
    pub src: SomebodyJson,
    /// Who would be asked.
    pub dst: SomebodyJson,
    /// What passes with the second side and not with the first.
    pub opened: PortsJson,
    /// The other way round.
    pub closed: PortsJson,
}

/// Somebody who may come: a pod, or addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SomebodyJson {
    /// The pod's labels; absent for addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<LabelsJson>,
    /// Its namespace, if that exists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The labels of its namespace, if that does not exist.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace_labels: Option<LabelsJson>,
    /// Addresses outside, as people read them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addresses: Option<String>,
}

/// The answer as JSON structures.
pub fn diff(told: &Told<'_, '_>) -> Diff {
    let difference = told.difference;
    let mut whys = Whys::of(difference);
    let changes =
        difference.changes.iter().map(|change| self::change(&difference.rows, change, &mut whys));
    let changes = changes.collect();
    let counts = counts(difference);
    let once = |wanted: [bool; 2]| {
        let rows = difference.rows.iter().filter(|row| row.is_there() == wanted);
        rows.map(Row::label).collect()
    };
    Diff {
        verdict: match () {
            () if difference.is_nothing() => "same",
            () if difference.is_certain() => "differs",
            () => "unknown",
        }
        .to_owned(),
        before: told.names[0].clone(),
        after: told.names[1].clone(),
        covers: covers(told),
        counts: CountsJson {
            appears: counts.appear,
            changes: counts.change,
            disappears: counts.disappear,
            unknown: counts.unknown,
        },
        changes,
        added: once([false, true]),
        removed: once([true, false]),
        future: told.future.as_ref().map(future),
        notes: told.notes.clone(),
        left_out: told.left_out.clone(),
    }
}

fn change(rows: &[Row<'_>], change: &Change, whys: &mut Whys<'_, '_>) -> ChangeJson {
    let end = |row: &Row<'_>| match row {
        Row::Pods { label, .. } => (Some(label.clone()), Vec::new()),
        Row::Outside(class) => (None, outside::cidrs(&class.addresses)),
    };
    let (src, src_addresses) = end(&rows[change.src]);
    let (dst, dst_addresses) = end(&rows[change.dst]);
    let why = whys.why(change);
    let rules = |list: &[RuleRef]| list.iter().map(RuleJson::from).collect();
    let isolations = |list: &[Isolation]| list.iter().map(isolation).collect();
    let [missing_before, missing_after] =
        why.missing.each_ref().map(|facts| facts.iter().map(ToString::to_string).collect());
    ChangeJson {
        change: match change.kind {
            Kind::Appears => "appears",
            Kind::Changes => "changes",
            Kind::Disappears => "disappears",
            Kind::Unknown => "unknown",
        }
        .to_owned(),
        src,
        src_addresses,
        dst,
        dst_addresses,
        exposure: change.exposure.map(|its| exposure(its).to_owned()),
        ports: shift(&change.shift.all),
        families: change
            .shift
            .families
            .iter()
            .map(|(family, its)| FamilyShiftJson { family: family.to_string(), ports: shift(its) })
            .collect(),
        partly: change.partly,
        why: WhyJson {
            allowed_by: rules(&why.allowed_by),
            no_longer_isolated_by: isolations(&why.released_from),
            denied_before: rules(&why.denied_before),
            allowed_before: rules(&why.allowed_before),
            isolated_by: isolations(&why.isolated_by),
            denied_by: rules(&why.denied_by),
            missing_before,
            missing_after,
        },
    }
}

fn exposure(its: Exposure) -> &'static str {
    match its {
        Exposure::FromOutside => "fromOutside",
        Exposure::FromOtherNamespace => "fromOtherNamespace",
        Exposure::ToOutside => "toOutside",
        Exposure::SameNamespace => "sameNamespace",
    }
}

fn isolation(its: &Isolation) -> IsolationJson {
    IsolationJson {
        policy: its.policy.name.to_string(),
        namespace: its.policy.namespace.to_string(),
        direction: its.direction.to_string(),
        source: its.source.as_ref().map(ToString::to_string),
    }
}

fn shift(its: &Shift) -> ShiftJson {
    let ports =
        |set: &podwall_policy::port::PortSet| (!set.is_empty()).then(|| PortsJson::from(set));
    ShiftJson {
        before: ports(&its.before),
        after: ports(&its.after),
        opened: ports(&its.opened),
        closed: ports(&its.closed),
        unchanged: ports(&its.before.intersection(&its.after)),
        perhaps_opened: ports(&its.perhaps_opened),
        perhaps_closed: ports(&its.perhaps_closed),
        undecided: ports(&its.undecided),
    }
}

fn future(its: &Future) -> FutureJson {
    let (verdict, examples) = match its {
        Future::Same => ("same", &[][..]),
        Future::Differs(examples) => ("differs", &examples[..]),
        Future::Unproved { .. } => ("unproved", &[][..]),
    };
    let examples = examples.iter().map(|its| ExampleJson {
        text: example(its),
        src: somebody(&its.src),
        dst: somebody(&its.dst),
        opened: PortsJson::from(&its.opened),
        closed: PortsJson::from(&its.closed),
    });
    FutureJson { verdict: verdict.to_owned(), examples: examples.collect() }
}

fn somebody(its: &Somebody) -> SomebodyJson {
    let nobody =
        SomebodyJson { labels: None, namespace: None, namespace_labels: None, addresses: None };
    let json = |labels: &podwall_policy::label::Labels| {
        labels.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    };
    match its {
        Somebody::Outside(addresses) => {
            SomebodyJson { addresses: Some(addresses.clone()), ..nobody }
        }
        Somebody::Pod { labels, namespace, new_namespace } => SomebodyJson {
            labels: Some(json(labels)),
            namespace: new_namespace.is_none().then(|| namespace.clone()),
            namespace_labels: new_namespace.as_ref().map(json),
            ..nobody
        },
    }
}

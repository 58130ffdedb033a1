//! The JSON of `podwall exposure`.

use schemars::JsonSchema;
use serde::Serialize;

use podwall_analysis::exposure::paths::{Seen, Via};
use podwall_analysis::exposure::{
    Breadth, Exposed, Exposure, Outcome, Path, Today, Way, Who, fact,
};
use podwall_analysis::outside;
use podwall_policy::policy::NamespaceScope;
use podwall_policy::port::Protocol;

use super::matrix::FamilyPortsJson;
use super::{PortsJson, RangeJson, RuleJson};
use crate::text::paths;

/// The answer to `podwall exposure`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExposureJson {
    /// The workloads, the most dangerous first.
    pub workloads: Vec<ExposedJson>,
    /// Paths from outside that lead to no pod.
    pub loose_paths: Vec<PathJson>,
    /// What was left out of the input because it could not be read (`--keep-going`).
    pub left_out: Vec<String>,
}

/// What a workload leaves open.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExposedJson {
    /// `NAMESPACE/KIND/NAME` or `NAMESPACE/POD`.
    pub workload: String,
    /// How many pods it has.
    pub pods: usize,
    /// True if it uses its nodes' network, so that no policy protects it; else absent.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schemars(default)]
    pub host_network: bool,
    /// Who could come in and where it could go, the most dangerous first.
    pub ways: Vec<WayJson>,
    /// Paths from outside to its pods through Services, Ingresses and Gateways, those that work first.
    pub paths: Vec<PathJson>,
}

/// A path from outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PathJson {
    /// `nodePort`, `loadBalancer`, `externalIps`, `ingress` or `gateway`.
    pub via: String,
    /// The Ingress, the Gateway, or the Service itself.
    pub name: String,
    /// The whole path in words.
    pub path: String,
    /// The Service.
    pub service: String,
    /// The Service's port: `TCP 80`, or as an Ingress or a route names it.
    pub port: String,
    /// The pods' ports that it leads to.
    pub target_ports: Vec<RangeJson>,
    /// Whose address policies see: `node` (the client's at the pod's own node, elsewhere that of the
    /// node that is asked), `client`, `controller`, or `unknown`.
    pub seen: String,
    /// The controller's pods, where they are seen.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    pub controller: Vec<String>,
    /// `open`, `ownNodeOnly` (to who asks the pod's own node), `denied`, `unknown`, or `broken`
    /// (it leads nowhere).
    pub outcome: String,
    /// Why, in words.
    pub why: String,
    /// The clients that come in, where not all do; disjoint CIDRs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    pub clients: Vec<String>,
    /// The facts that would decide, where it is unknown.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    pub missing: Vec<String>,
    /// `file:line:col`, or the object that it was read from; absent where unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// One way in or out.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WayJson {
    /// `ingress` or `egress`.
    pub direction: String,
    /// How many could be at the other end: `internet`, `cluster`, `labels`, `namespaces`, `outside`,
    /// `node`, `namespace` or `pods`.
    pub breadth: String,
    /// Who, in words.
    pub who: String,
    /// What pods it takes, those included that do not exist; absent where it is no pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<CrowdJson>,
    /// Addresses outside as disjoint CIDRs; absent where it is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    pub cidrs: Vec<String>,
    /// What certainly passes the workload's own side, over every address family.
    #[serde(flatten)]
    pub ports: PortsJson,
    /// What passes over each family, where that differs; else absent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    pub families: Vec<FamilyPortsJson>,
    /// Names of ports, `TCP http`: whatever port of the other end is called so passes, too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    pub named_ports: Vec<String>,
    /// What depends on missing facts; absent where nothing does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown: Option<OpenJson>,
    /// The rules that let it pass; empty where no policy isolates the workload.
    pub rules: Vec<RuleJson>,
    /// True where only some of the workload's pods are open; else absent.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schemars(default)]
    pub partly: bool,
}

/// What depends on missing facts.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OpenJson {
    /// What may pass.
    #[serde(flatten)]
    pub ports: PortsJson,
    /// The facts that would decide.
    pub missing: Vec<String>,
}

/// Pods by what they would have to be.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CrowdJson {
    /// The labels that a pod needs, as kubectl writes selectors; empty: any pod.
    pub pod_selector: String,
    /// The namespace, where it is one; then there is no `namespaceSelector`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The labels that its namespace needs; empty: any namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<String>,
    /// What it has to be besides, because a rule that denies or passes tells such pods apart.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    pub also: Vec<String>,
    /// What it must not be, for the same reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    pub except: Vec<String>,
    /// How many such pods there are now, the workload's own left out.
    pub today: usize,
    /// How many more there may be, because labels of namespaces are not known; absent for none.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(default)]
    pub perhaps: usize,
    /// The first of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    pub examples: Vec<String>,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// The word for a breadth, in JSON and on the command line.
pub fn breadth(of: Breadth) -> &'static str {
    match of {
        Breadth::Internet => "internet",
        Breadth::Cluster => "cluster",
        Breadth::Labels => "labels",
        Breadth::Namespaces => "namespaces",
        Breadth::Outside => "outside",
        Breadth::Node => "node",
        Breadth::Namespace => "namespace",
        Breadth::Pods => "pods",
    }
}

/// The answer as JSON structures.
pub fn exposure(exposure: &Exposure<'_>, left_out: &[String]) -> ExposureJson {
    ExposureJson {
        workloads: exposure.workloads.iter().map(exposed).collect(),
        loose_paths: exposure.loose.iter().map(path).collect(),
        left_out: left_out.to_vec(),
    }
}

fn exposed(of: &Exposed<'_>) -> ExposedJson {
    ExposedJson {
        workload: of.label.clone(),
        pods: of.pods.len(),
        host_network: of.host_network,
        ways: of.ways.iter().map(way).collect(),
        paths: of.paths.iter().map(path).collect(),
    }
}

pub(super) fn path(path: &Path) -> PathJson {
    let (via, name) = match &path.via {
        Via::NodePort(_) => ("nodePort", &path.service),
        Via::LoadBalancer(_) => ("loadBalancer", &path.service),
        Via::ExternalIps(_) => ("externalIps", &path.service),
        Via::Ingress { name, .. } => ("ingress", name),
        Via::Gateway { gateway, .. } => ("gateway", gateway),
    };
    let (seen, controller) = match &path.seen {
        Seen::Node(_) => ("node", Vec::new()),
        Seen::Client => ("client", Vec::new()),
        Seen::Controller(pods) => ("controller", pods.iter().map(ToString::to_string).collect()),
        Seen::Unknown => ("unknown", Vec::new()),
    };
    let (outcome, clients, missing) = match &path.outcome {
        Outcome::Open(clients) => {
            ("open", clients.as_ref().map(outside::cidrs).unwrap_or_default(), Vec::new())
        }
        Outcome::OwnNodeOnly(clients) => {
            ("ownNodeOnly", clients.as_ref().map(outside::cidrs).unwrap_or_default(), Vec::new())
        }
        Outcome::Shut => ("denied", Vec::new(), Vec::new()),
        Outcome::Unknown(facts) => ("unknown", Vec::new(), facts.clone()),
        Outcome::Broken(_) => ("broken", Vec::new(), Vec::new()),
    };
    let target = |(protocol, port): &(Protocol, u16)| RangeJson {
        protocol: protocol.to_string(),
        from: Some(*port),
        to: Some(*port),
    };
    PathJson {
        via: via.to_owned(),
        name: name.to_string(),
        path: paths::way(path),
        service: path.service.to_string(),
        port: path.port.clone(),
        target_ports: path.targets.iter().map(target).collect(),
        seen: seen.to_owned(),
        controller,
        outcome: outcome.to_owned(),
        why: paths::outcome(path),
        clients,
        missing,
        source: path.source.as_ref().map(ToString::to_string),
    }
}

fn way(way: &Way) -> WayJson {
    let Way { direction, who, ports, families, open, missing, names, rules, partly, today } = way;
    WayJson {
        direction: direction.to_string(),
        breadth: breadth(way.breadth()).to_owned(),
        who: crate::text::exposure::who(way),
        pods: crowd(who, today),
        cidrs: match who {
            Who::Outside(addresses) => outside::cidrs(addresses),
            _ => Vec::new(),
        },
        ports: ports.into(),
        families: families.iter().map(FamilyPortsJson::from).collect(),
        named_ports: names.iter().map(|(name, protocol)| format!("{protocol} {name}")).collect(),
        unknown: (!open.is_empty())
            .then(|| OpenJson { ports: open.into(), missing: missing.iter().map(fact).collect() }),
        rules: rules.iter().map(RuleJson::from).collect(),
        partly: *partly,
    }
}

fn crowd(who: &Who, today: &Today) -> Option<CrowdJson> {
    let Who::Pods(crowd) = who else { return None };
    let selector = |selector: &podwall_policy::selector::Selector| match selector.is_everything() {
        true => String::new(),
        false => selector.to_string(),
    };
    let (namespace, namespace_selector) = match &crowd.scope.namespaces {
        NamespaceScope::Own(name) => (Some(name.to_string()), None),
        NamespaceScope::Matching(of) => (None, Some(selector(of))),
    };
    Some(CrowdJson {
        pod_selector: selector(&crowd.scope.pods),
        namespace,
        namespace_selector,
        also: crowd.also.iter().map(ToString::to_string).collect(),
        except: crowd.except.iter().map(ToString::to_string).collect(),
        today: today.pods,
        perhaps: today.perhaps,
        examples: today.examples.iter().map(ToString::to_string).collect(),
    })
}

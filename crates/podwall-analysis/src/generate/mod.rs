//! Which policies let exactly what was seen pass?
//!
//! ```text
//!   flows ──places──▶ workload → workload : ports ──draft──▶ policies ──check──▶ what passes beyond,
//!   objects ┘            (counted, with times)     identity       engine         what fails, who was
//!                                                  of labels                     never seen
//! ```
//!
//! A workload is what policies are for: what one of its pods was seen to do, all may. Labels are chosen
//! that select its pods and no others; where no labels do, it is said whom they take besides. Nothing is
//! taken on trust: the engine is asked whether each flow passes with the new policies, and what else.

mod check;
mod dns;
mod draft;
mod identity;
mod links;
mod places;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use podwall_manifest::flows::{FlowLog, Left, Times};
use podwall_policy::cluster::Cluster;
use podwall_policy::label::Labels;
use podwall_policy::object::Name;
use podwall_policy::policy::{Direction, Policy, Tier};
use podwall_policy::port::PortSet;
use podwall_policy::reason::MissingFact;
use podwall_policy::source::Source;

pub(crate) use self::draft::{as_blocks, specs};

/// The namespace whose pods keep a cluster going; nobody sees all their traffic.
pub const SYSTEM: &str = "kube-system";

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directions that policies restrict.
    pub directions: BTreeSet<Direction>,
    /// The directions of the policy that denies a whole namespace; empty for none.
    pub default_deny: BTreeSet<Direction>,
    /// Let every workload that was seen to open connections ask the resolver.
    pub dns: bool,
    /// Outside addresses of which several were seen are widened to a prefix of this length, for IPv4
    /// and IPv6.
    pub aggregate: [Option<u8>; 2],
    /// The namespaces that get policies; empty for all with flows but [`SYSTEM`].
    pub namespaces: Vec<String>,
    /// The namespace of names without one.
    pub namespace: String,
    /// Take the policies that these namespaces have for gone.
    pub replace: bool,
}

impl Default for Options {
    fn default() -> Self {
        let both: BTreeSet<Direction> = Direction::BOTH.into_iter().collect();
        Self {
            directions: both.clone(),
            default_deny: both,
            dns: true,
            aggregate: [None, None],
            namespaces: Vec::new(),
            namespace: "default".to_owned(),
            replace: false,
        }
    }
}

/// What is known.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The objects.
    pub cluster: &'a Cluster,
    /// `spec.selector.matchLabels` of workloads, by kind and name, as far as it is known.
    pub selectors: &'a BTreeMap<(Arc<str>, Name), Labels>,
    /// The flows.
    pub log: &'a FlowLog,
}

/// One end of what was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum End {
    /// Pods that are alike: a place in [`Report::units`].
    Unit(usize),
    /// A node, by an address of it.
    Node(IpAddr),
    /// Addresses outside.
    Net(IpNet),
}

/// How often something was seen, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Records.
    pub count: u64,
    /// First and last, if records say so.
    pub times: Option<Times>,
}

impl Evidence {
    fn add(&mut self, count: u64, times: Option<Times>) {
        self.count = self.count.saturating_add(count);
        self.times = match (self.times, times) {
            (Some(a), Some(b)) => Some(a.and(b)),
            (a, b) => a.or(b),
        };
    }
}

/// What was seen from one end to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Who opened connections.
    pub src: End,
    /// Who was asked.
    pub dst: End,
    /// What was seen.
    pub seen: PortSet,
    /// What was added so that names can be looked up.
    pub dns: PortSet,
    /// How often, and when.
    pub evidence: Evidence,
    /// The first record.
    pub source: Option<Source>,
    /// All connections came from the pod's own node, so that no policy has a say.
    pub own_node: bool,
}

/// A policy, with remarks for who reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// The policy.
    pub policy: Policy,
    /// About the policy, a line each.
    pub about: Vec<String>,
    /// About peers: direction, rule and peer, both from 0.
    pub notes: BTreeMap<(Direction, usize, usize), String>,
}

/// Pods that are alike: those of a workload, or lone ones with the same labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitInfo {
    /// `NAMESPACE/KIND/NAME`, or `NAMESPACE/POD`.
    pub label: String,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// How many pods it has now.
    pub pods: usize,
    /// The labels by which policies know it.
    pub identity: Labels,
    /// Pods of the namespace that have these labels, too.
    pub besides: Vec<Name>,
    /// Whether it was seen at either end of a flow.
    pub seen: bool,
    /// Whether the result isolates all its pods for egress and for ingress.
    pub isolated: [bool; 2],
}

/// Why more passes than was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Because {
    /// Names may be looked up, seen or not.
    Dns,
    /// Addresses were taken together.
    Aggregated,
    /// No labels tell two workloads apart.
    Labels,
    /// Policies that are there already allow it.
    Existing,
    /// Nothing restricts it: neither end is isolated in that direction.
    Open,
}

/// What passes although it was not seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beyond {
    /// Who may.
    pub src: String,
    /// Whom.
    pub dst: String,
    /// What.
    pub ports: PortSet,
    /// Why.
    pub because: Because,
}

/// A flow that was seen and does not pass, or may not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
    /// Who opened it.
    pub src: String,
    /// Who was asked.
    pub dst: String,
    /// What does not pass.
    pub ports: PortSet,
    /// What it depends on; empty if it is denied for certain.
    pub missing: Vec<MissingFact>,
    /// The policies that isolate an end, by name.
    pub isolated_by: Vec<Name>,
    /// The first record.
    pub source: Option<Source>,
}

/// Flows that no policy could be made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unplaced {
    /// Who or what.
    pub what: String,
    /// Why.
    pub why: String,
    /// Different flows.
    pub flows: usize,
    /// Records.
    pub records: u64,
    /// The first record.
    pub source: Source,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Records that were taken.
    pub records: u64,
    /// Records that were left out, by reason.
    pub left: BTreeMap<Left, u64>,
    /// First and last record.
    pub times: Option<Times>,
    /// When the last flow was seen that had not been seen before.
    pub newest: Option<u64>,
    /// Everybody whom policies can select.
    pub units: Vec<UnitInfo>,
    /// What was seen, by workload.
    pub links: Vec<Link>,
    /// Records for which no rule is needed: a pod to itself, from a pod's own node, between others.
    pub no_rule: u64,
    /// What could not be placed.
    pub unplaced: Vec<Unplaced>,
    /// Flows that do not pass.
    pub failing: Vec<Failing>,
    /// What passes besides.
    pub beyond: Vec<Beyond>,
    /// Namespaces that get policies.
    pub namespaces: BTreeSet<Arc<str>>,
    /// Namespaces with flows that get none.
    pub left_alone: BTreeSet<Arc<str>>,
    /// Policies of these namespaces that stay.
    pub staying: Vec<Name>,
    /// Whether names may be looked up: the resolvers that were found; `None` if it was not asked for.
    pub resolvers: Option<Vec<String>>,
    /// Pairs of workloads between which something passes, in the namespaces with policies.
    pub open_pairs: usize,
    /// How many of them were seen.
    pub seen_pairs: usize,
}

/// Policies and what is to be said of them.
#[derive(Clone, Debug, Default)]
pub struct Generated {
    /// By namespace and name, the one that denies first.
    pub policies: Vec<Proposed>,
    /// The rest.
    pub report: Report,
}

impl Report {
    /// An end in words.
    pub fn end(&self, end: End) -> String {
        match end {
            End::Unit(unit) => self.units.get(unit).map_or_else(String::new, |u| u.label.clone()),
            End::Node(address) => format!("node {address}"),
            End::Net(net) if net.prefix_len() == net.max_prefix_len() => net.addr().to_string(),
            End::Net(net) => net.to_string(),
        }
    }
}

/// Makes policies of flows.
pub fn generate(input: &Input<'_>, options: &Options) -> Generated {
    let places = places::Places::new(input.cluster, input.selectors);
    let mut links = links::gather(&places, input.log, options);
    let namespaces = links.namespaces(&places, options);
    let resolvers = options.dns.then(|| dns::add(&places, &mut links, &namespaces, options));
    let policies = draft::draft(&places, &links, &namespaces, input.log, options);
    let mut after = input.cluster.clone();
    let staying = stay(&mut after, &policies, &namespaces, options.replace);
    for proposed in &policies {
        after.put_policy(proposed.policy.clone());
    }
    let with_flows: BTreeSet<Arc<str>> = links.namespaces_seen(&places);
    let mut report = Report {
        records: input.log.records,
        left: input.log.left.clone(),
        times: input.log.times,
        newest: input.log.flows.iter().filter_map(|flow| Some(flow.times?.first)).max(),
        units: places.infos(),
        links: Vec::new(),
        no_rule: links.no_rule,
        unplaced: std::mem::take(&mut links.unplaced),
        left_alone: with_flows.difference(&namespaces).cloned().collect(),
        namespaces,
        staying,
        resolvers,
        ..Report::default()
    };
    for link in links.list() {
        for end in [link.src, link.dst] {
            if let End::Unit(unit) = end
                && !link.seen.is_empty()
            {
                report.units[unit].seen = true;
            }
        }
        report.links.push(link.clone());
    }
    check::check(&places, &after, &mut report, options);
    Generated { policies, report }
}

/// Takes away what the new policies replace; the names of what stays beside them.
fn stay(
    after: &mut Cluster,
    policies: &[Proposed],
    namespaces: &BTreeSet<Arc<str>>,
    replace: bool,
) -> Vec<Name> {
    let fresh: BTreeSet<&Name> = policies.iter().map(|proposed| &proposed.policy.name).collect();
    after.policies.retain(|(tier, name), _| {
        let there = *tier == Tier::NetworkPolicy && namespaces.contains(&name.namespace);
        !(there && (replace || fresh.contains(name)))
    });
    let network = after.policies.keys().filter(|(tier, _)| *tier == Tier::NetworkPolicy);
    network.map(|(_, name)| name.clone()).filter(|n| namespaces.contains(&n.namespace)).collect()
}

#[cfg(test)]
mod tests;

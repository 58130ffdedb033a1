//! Which policies select a row, and which rules match whom?
//!
//! ```text
//!   policy ── selects ──▶ rows          rule ── peers match ──▶ rows
//! ```
//!
//! Asked with the evaluator's own functions, pod by pod; of pods with equal labels one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use podwall_policy::address::{AddressRange, AddressSet, Family, IpBlock};
use podwall_policy::cluster::Cluster;
use podwall_policy::flow::{Flow, Party};
use podwall_policy::matching::{Match, match_peers, rule_ports, selects};
use podwall_policy::object::Pod;
use podwall_policy::policy::{
    Action, Direction, NamespaceScope, Peer, PodScope, Policy, Rule, Tier,
};
use podwall_policy::port::PortSet;
use podwall_policy::reason::MissingFact;
use podwall_policy::source::Source;

use super::{Picture, Row, What};
use crate::matrix::{By, Row as MatrixRow, pod_rows};

/// A policy, and whom it selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyFacts {
    /// `NAMESPACE/NAME`, or `NAME`.
    pub name: String,
    /// Its tier.
    pub tier: Tier,
    /// Where it stands.
    pub source: Option<Source>,
    /// Whether it speaks of egress.
    pub egress: bool,
    /// Whether it speaks of ingress.
    pub ingress: bool,
    /// It is reported and decides nothing.
    pub dry_run: bool,
    /// By row: whether it selects some pod of it, or may.
    pub subject: Vec<bool>,
    /// Whether it is of the cluster before; else of now.
    pub old: bool,
}

/// A rule, and whom it matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleFacts {
    /// Index of the policy.
    pub policy: usize,
    /// The list that it stands in.
    pub direction: Direction,
    /// Its place in that list, from 1.
    pub number: u32,
    /// What it does.
    pub action: Action,
    /// Where it stands.
    pub source: Option<Source>,
    /// Its peers in words; empty: anybody.
    pub peers: Vec<String>,
    /// Its ports as written; empty: everything.
    pub ports: Vec<String>,
    /// By row: whether its peers match some pod, or may.
    pub matches: Vec<bool>,
    /// Its ports, where none is a name; names are looked up on the destination.
    pub set: Option<PortSet>,
}

impl PolicyFacts {
    /// Whether it decides anything of egress (`true`) or ingress.
    pub fn speaks(&self, egress: bool) -> bool {
        !self.dry_run && if egress { self.egress } else { self.ingress }
    }
}

/// A missing fact in words that hold for every pair of a class.
pub(super) fn fact(fact: &MissingFact, src: &[&Pod], dst: &[&Pod]) -> String {
    if let MissingFact::PodAddress { pod, family } = fact {
        for (whose, pods) in [("source", src), ("destination", dst)] {
            if pods.iter().any(|own| own.name == *pod) {
                return format!("the {whose}'s {family} address");
            }
        }
    }
    fact.to_string()
}

/// The pods of a row that selectors may tell apart, and all of them.
struct Reps<'a> {
    by_labels: Vec<&'a Pod>,
    all: Vec<&'a Pod>,
    /// Of a row outside.
    addresses: Option<&'a AddressSet>,
}

/// Adds policies and rules to a picture.
pub(super) fn fill(picture: &mut Picture, now: &Cluster, before: Option<&Cluster>, by: By) {
    let gone = before.map(|before| (before, true));
    for (cluster, old) in gone.into_iter().chain([(now, false)]) {
        let rows = picture.rows.clone();
        let all = All::new(reps(&rows, cluster, by));
        for policy in cluster.policies.values() {
            add(picture, cluster, &all, policy, old);
        }
    }
    if let Some(before) = before {
        // In the order in which they were added.
        let both = before.policies.values().chain(now.policies.values());
        let subjects: Vec<&PodScope> = both.map(|policy| &policy.subject).collect();
        forget_twins(picture, &subjects);
    }
}

fn reps<'a>(picture: &'a [Row], cluster: &'a Cluster, by: By) -> Vec<Reps<'a>> {
    let mut rows = pod_rows(cluster, by).into_iter().peekable();
    let mut out = Vec::new();
    for row in picture {
        let mut reps = Reps { by_labels: Vec::new(), all: Vec::new(), addresses: None };
        match &row.what {
            What::Outside { addresses, .. } => {
                reps.addresses = Some(addresses);
            }
            What::Pods { .. } => {
                // Both are in the order of their labels.
                let own = rows.next_if(
                    |next| matches!(next, MatrixRow::Pods { label, .. } if *label == row.label),
                );
                if let Some(MatrixRow::Pods { pods, .. }) = own {
                    let mut seen = BTreeSet::new();
                    for pod in &pods {
                        let labels: Vec<(&str, &str)> = pod.labels.iter().collect();
                        if seen.insert((labels, pod.host_network)) {
                            reps.by_labels.push(pod);
                        }
                    }
                    reps.all = pods;
                }
            }
        }
        out.push(reps);
    }
    out
}

/// All rows, and where to look for whom a rule names: most rules name one namespace of many.
struct All<'a> {
    rows: Vec<Reps<'a>>,
    by_namespace: BTreeMap<&'a str, Vec<usize>>,
    by_address: Vec<(IpAddr, usize)>,
    /// Rows with a pod that states no address: any block may be around it.
    without_address: Vec<usize>,
    outside: Vec<usize>,
}

impl<'a> All<'a> {
    fn new(rows: Vec<Reps<'a>>) -> Self {
        let mut all = Self {
            by_namespace: BTreeMap::new(),
            by_address: Vec::new(),
            without_address: Vec::new(),
            outside: Vec::new(),
            rows,
        };
        for (at, row) in all.rows.iter().enumerate() {
            if let Some(pod) = row.all.first() {
                all.by_namespace.entry(&pod.name.namespace).or_default().push(at);
            }
            all.by_address.extend(row.all.iter().flat_map(|pod| &pod.ips).map(|ip| (*ip, at)));
            all.without_address.extend(row.all.iter().any(|pod| pod.ips.is_empty()).then_some(at));
            all.outside.extend(row.addresses.is_some().then_some(at));
        }
        all.by_address.sort_unstable();
        all
    }

    /// Rows of the namespaces that a scope names, or may.
    fn within(&self, cluster: &Cluster, scope: &PodScope) -> impl Iterator<Item = usize> {
        let named = self.by_namespace.iter().filter(|(name, _)| may_name(cluster, scope, name));
        named.flat_map(|(_, rows)| rows.iter().copied())
    }

    /// Rows with an address in a block, or perhaps.
    fn inside(&self, block: &IpBlock) -> impl Iterator<Item = usize> {
        let ranges = block.ranges();
        let of_range = |range: &AddressRange| {
            let first = self.by_address.partition_point(|(ip, _)| *ip < range.first());
            let rest = self.by_address.get(first..).unwrap_or_default();
            let last = range.last();
            rest.iter().take_while(move |(ip, _)| *ip <= last).map(|(_, row)| *row)
        };
        let found: Vec<usize> = ranges.ranges().iter().flat_map(of_range).collect();
        found.into_iter().chain(self.without_address.iter().copied())
    }

    /// By row: whether a rule's peers match some pod of it, or some address, or may.
    fn matched_by(&self, cluster: &Cluster, rule: &Rule) -> Vec<bool> {
        if rule.peers.is_empty() {
            return self.rows.iter().map(|row| matches(cluster, rule, row)).collect();
        }
        let mut found = vec![false; self.rows.len()];
        let mut look =
            |row: usize| found[row] = found[row] || matches(cluster, rule, &self.rows[row]);
        for peer in &rule.peers {
            match peer {
                Peer::Pods(scope) => self.within(cluster, scope).for_each(&mut look),
                Peer::Block(block) => {
                    self.inside(block).for_each(&mut look);
                    self.outside.iter().copied().for_each(&mut look);
                }
            }
        }
        found
    }
}

/// Whether a scope's selector of namespaces may be met by this one.
fn may_name(cluster: &Cluster, scope: &PodScope, name: &str) -> bool {
    let selector = match &scope.namespaces {
        NamespaceScope::Own(own) => return **own == *name,
        NamespaceScope::Matching(selector) => selector,
    };
    match cluster.namespaces.get(name) {
        Some(namespace) if namespace.labels_known => selector.matches(&namespace.labels),
        _ => true,
    }
}

fn add(picture: &mut Picture, cluster: &Cluster, all: &All<'_>, policy: &Policy, old: bool) {
    let mut subject = vec![false; all.rows.len()];
    for row in all.within(cluster, &policy.subject) {
        let mut pods = all.rows[row].by_labels.iter();
        subject[row] = pods.any(|pod| may(&selects(cluster, &policy.subject, pod)));
    }
    let index = picture.policies.len();
    let name = if policy.name.namespace.is_empty() {
        policy.name.name.to_string()
    } else {
        policy.name.to_string()
    };
    picture.policies.push(PolicyFacts {
        name,
        tier: policy.tier,
        source: policy.source.clone(),
        egress: policy.egress.is_some(),
        ingress: policy.ingress.is_some(),
        dry_run: policy.dry_run,
        subject,
        old,
    });
    for direction in Direction::BOTH {
        for (number, rule) in (1u32..).zip(policy.rules(direction).unwrap_or_default()) {
            picture.rules.push(RuleFacts {
                policy: index,
                direction,
                number,
                action: rule.action,
                source: rule.source.clone(),
                peers: rule.peers.iter().map(ToString::to_string).collect(),
                ports: rule.ports.iter().map(ToString::to_string).collect(),
                matches: all.matched_by(cluster, rule),
                set: ports(rule),
            });
        }
    }
}

fn may(found: &Match) -> bool {
    !matches!(found, Match::No(_))
}

fn matches(cluster: &Cluster, rule: &Rule, reps: &Reps<'_>) -> bool {
    if rule.peers.is_empty() {
        return reps.addresses.is_some() || !reps.all.is_empty();
    }
    let mut blocks = rule.peers.iter().filter_map(|peer| match peer {
        Peer::Block(block) => Some(block),
        Peer::Pods(_) => None,
    });
    if let Some(addresses) = reps.addresses {
        // A row may hold addresses of several blocks, where other rules make them alike.
        return blocks.any(|block| !block.ranges().intersection(addresses).is_empty());
    }
    let pods = if blocks.next().is_some() { &reps.all } else { &reps.by_labels };
    pods.iter().map(|pod| Party::Pod(pod)).any(|party| {
        let mut families = Family::BOTH.into_iter().filter(|family| party.speaks(*family));
        families.any(|family| may(&match_peers(cluster, rule, party, family)))
    })
}

/// A rule's ports where no destination has a say.
fn ports(rule: &Rule) -> Option<PortSet> {
    use podwall_policy::port::PortMatch;
    if rule.ports.iter().any(|spec| matches!(spec.port, PortMatch::Named(_))) {
        return None;
    }
    let nobody = Party::Address(IpAddr::from([192, 0, 2, 1]));
    Some(rule_ports(rule, &Flow { src: nobody, dst: nobody, family: Family::V4 }).0)
}

/// A rule in all that it says.
type Said = (Direction, u32, Action, Vec<String>, Vec<String>);

/// Takes away what both clusters say alike: it is shown once, as it stands now. Of each policy whom it
/// is about.
fn forget_twins(picture: &mut Picture, subjects: &[&PodScope]) {
    let said = |picture: &Picture, policy: usize| -> Vec<Said> {
        let its = picture.rules.iter().filter(|rule| rule.policy == policy);
        its.map(|r| (r.direction, r.number, r.action, r.peers.clone(), r.ports.clone())).collect()
    };
    let both: Vec<(usize, usize)> = (0..picture.policies.len())
        .filter(|old| picture.policies[*old].old)
        .filter_map(|old| {
            let was = &picture.policies[old];
            let new = picture.policies.iter().position(|p| {
                !p.old && p.name == was.name && p.tier == was.tier && p.dry_run == was.dry_run
            })?;
            let is = &picture.policies[new];
            let same = is.egress == was.egress
                && is.ingress == was.ingress
                && subjects.get(old) == subjects.get(new)
                && said(picture, old) == said(picture, new);
            same.then_some((old, new))
        })
        .collect();
    let mut to: Vec<Option<usize>> = Vec::new();
    let mut next = 0;
    let mut gone = vec![false; picture.policies.len()];
    for (old, new) in both {
        gone[old] = true;
        let was = picture.policies[old].subject.clone();
        for (is, was) in picture.policies[new].subject.iter_mut().zip(was) {
            *is |= was;
        }
        let matched: Vec<Vec<bool>> = picture
            .rules
            .iter()
            .filter(|rule| rule.policy == old)
            .map(|rule| rule.matches.clone())
            .collect();
        let rules = picture.rules.iter_mut().filter(|rule| rule.policy == new);
        for (rule, was) in rules.zip(matched) {
            rule.matches.iter_mut().zip(was).for_each(|(is, was)| *is |= was);
        }
    }
    for gone in &gone {
        to.push((!gone).then_some(next));
        next += usize::from(!gone);
    }
    picture.rules.retain(|rule| !gone[rule.policy]);
    for rule in &mut picture.rules {
        rule.policy = to[rule.policy].unwrap_or_default();
    }
    let mut gone = gone.into_iter();
    picture.policies.retain(|_| !gone.next().unwrap_or(false));
}

//! Which changes would stop it?
//!
//! ```text
//!   rules that allow it ─┬─ their peers without the asked one: NotIn, except     nobody else notices
//!                        ├─ one peer, one port, one rule less
//!   nobody isolates      └─ a policy more that isolates, and lets everybody else in
//! ```
//!
//! NetworkPolicies only allow. So stopping one pair means that no rule speaks for it any more, and
//! that some policy isolates one of its ends. As in the other direction these are proposals, and the
//! engine says what becomes of them.

use std::collections::BTreeSet;

use ipnet::IpNet;
use podwall_policy::address::{Family, IpBlock};
use podwall_policy::cluster::Cluster;
use podwall_policy::evaluate::Verdict;
use podwall_policy::flow::Party;
use podwall_policy::label::METADATA_NAME;
use podwall_policy::matching::{Match, match_peer};
use podwall_policy::policy::{
    Direction, NamespaceScope, Peer as RulePeer, PodScope, Policy, Rule, RuleRef, Tier,
};
use podwall_policy::port::{PortMatch, PortRange, PortSet, PortSpec, Protocol};
use podwall_policy::selector::{Operator, Selector};

use super::allow::free_name;
use super::change::{Change, RuleAt};
use super::ends::{End, Group, ports, short_name};
use crate::can::{Answer, Case};

/// Proposals for each side that could stop it. `Err` says why no policy can.
pub(super) fn proposals(
    cluster: &Cluster,
    answer: &Answer<'_>,
) -> Result<Vec<Vec<Vec<Change>>>, Vec<String>> {
    let mut sides = Vec::new();
    let mut obstacles = Vec::new();
    for direction in Direction::BOTH {
        let (subject, other) = match direction {
            Direction::Egress => (&answer.src, &answer.dst),
            Direction::Ingress => (&answer.dst, &answer.src),
        };
        let (subject, other) = (End::of(cluster, subject), End::of(cluster, other));
        let Some(group) = &subject.pods else {
            obstacles.push(format!("no NetworkPolicy asks for {direction} here"));
            continue;
        };
        let passing = || answer.cases.iter().filter(|case| case.verdict == Verdict::Allowed);
        if let Some(exempt) = passing().find_map(|case| side(case, direction).exempt) {
            obstacles.push(format!("{direction}: {}", why_exempt(exempt)));
            continue;
        }
        let isolated = passing().all(|case| side(case, direction).is_isolated());
        let alternatives = if isolated {
            narrower(cluster, answer, direction, &other)
        } else {
            isolating(cluster, answer, direction, group, &other).into_iter().collect()
        };
        sides.push(alternatives);
    }
    if sides.is_empty() { Err(obstacles) } else { Ok(sides) }
}

fn side<'c>(case: &'c Case<'_>, direction: Direction) -> &'c podwall_policy::evaluate::Side {
    match direction {
        Direction::Egress => &case.evaluation.egress,
        Direction::Ingress => &case.evaluation.ingress,
    }
}

fn why_exempt(exempt: podwall_policy::evaluate::Exempt) -> &'static str {
    use podwall_policy::evaluate::Exempt;
    match exempt {
        Exempt::NotAPod => "policies protect pods, and this is none",
        Exempt::HostNetwork => "a pod that uses its node's network is asked no policy",
        Exempt::Terminated => "the pod has ended",
        Exempt::Itself => "a pod always reaches itself",
        Exempt::OwnNode => "a pod's own node is always let in",
    }
}

/// Each rule that allows it with less: without the asked peer alone, or without what has it.
fn narrower(
    cluster: &Cluster,
    answer: &Answer<'_>,
    direction: Direction,
    other: &End<'_>,
) -> Vec<Vec<Change>> {
    let passing: Vec<&Case<'_>> =
        answer.cases.iter().filter(|case| case.verdict == Verdict::Allowed).collect();
    let mut rules: BTreeSet<RuleAt> = BTreeSet::new();
    for case in &passing {
        let why = match direction {
            Direction::Egress => &case.egress,
            Direction::Ingress => &case.ingress,
        };
        let own = why.allowed_by.iter().filter(|rule| rule.tier == Tier::NetworkPolicy);
        rules.extend(own.map(|rule: &RuleRef| RuleAt {
            policy: rule.policy.clone(),
            direction,
            index: rule.number as usize - 1,
        }));
    }
    // Places move when items go: from the back to the front.
    let rules: Vec<RuleAt> = rules.into_iter().rev().collect();
    let parties: Vec<(Party<'_>, Family)> = passing
        .iter()
        .map(|case| match direction {
            Direction::Egress => (case.dst.party(), case.family),
            Direction::Ingress => (case.src.party(), case.family),
        })
        .collect();
    let mut found = Vec::new();
    let each = |one: &dyn Fn(&RuleAt, &Rule) -> Option<Vec<Change>>| -> Option<Vec<Change>> {
        let changes: Option<Vec<Vec<Change>>> = rules
            .iter()
            .map(|at| {
                let key = (Tier::NetworkPolicy, at.policy.clone());
                let rule = cluster.policies.get(&key)?.rules(direction)?.get(at.index)?;
                one(at, rule)
            })
            .collect();
        changes.map(|changes| changes.concat()).filter(|changes| !changes.is_empty())
    };
    found.extend(each(&|at, rule| without_peer(cluster, at, rule, &parties, other)));
    let asked = ports(answer);
    found.extend(asked.as_ref().and_then(|asked| each(&|at, rule| without_ports(at, rule, asked))));
    found.extend(each(&|at, _| Some(vec![Change::RemoveRule { rule: at.clone() }])));
    found
}

/// A rule without the asked peer.
fn without_peer(
    cluster: &Cluster,
    at: &RuleAt,
    rule: &Rule,
    parties: &[(Party<'_>, Family)],
    other: &End<'_>,
) -> Option<Vec<Change>> {
    let own = other.peers(&at.policy.namespace);
    let mut changes = Vec::new();
    let mut left = rule.peers.len();
    // From the back: what is taken out moves only what comes behind it.
    for (index, peer) in rule.peers.iter().enumerate().rev() {
        let matches = |(party, family): &(Party<'_>, Family)| {
            !matches!(match_peer(cluster, peer, *party, *family), Match::No(_))
        };
        if !parties.iter().any(matches) {
            continue;
        }
        let change = if own.contains(peer) {
            left -= 1;
            Change::RemovePeer { rule: at.clone(), index }
        } else {
            let peer = peer_without(peer, other)?;
            Change::ReplacePeer { rule: at.clone(), index, peer }
        };
        changes.push(change);
    }
    if rule.peers.is_empty() || changes.is_empty() {
        return None; // it allows anybody
    }
    // A rule without peers would allow anybody.
    Some(if left == 0 { vec![Change::RemoveRule { rule: at.clone() }] } else { changes })
}

/// A peer that matches all that it did but the asked ones.
fn peer_without(peer: &RulePeer, other: &End<'_>) -> Option<RulePeer> {
    match peer {
        RulePeer::Pods(scope) => {
            let [requirement] = &other.pods.as_ref()?.selector.requirements[..] else {
                return None;
            };
            let Operator::Equals(value) = &requirement.operator else { return None };
            let not = Operator::NotIn([value.clone()].into());
            let pods = scope.pods.clone().and(requirement.key.clone(), not);
            Some(RulePeer::Pods(PodScope { namespaces: scope.namespaces.clone(), pods }))
        }
        RulePeer::Block(block) => {
            let mut except = block.except.clone();
            for out in &other.blocks {
                if out.cidr == block.cidr {
                    return None;
                }
                if block.cidr.contains(&out.cidr) {
                    except.push(out.cidr);
                }
            }
            (except.len() > block.except.len())
                .then_some(RulePeer::Block(IpBlock { cidr: block.cidr, except }))
        }
    }
}

/// A rule without the asked ports, if it names them one by one and others besides.
fn without_ports(at: &RuleAt, rule: &Rule, asked: &[PortSpec]) -> Option<Vec<Change>> {
    let named: Vec<usize> =
        (0..rule.ports.len()).rev().filter(|i| asked.contains(&rule.ports[*i])).collect();
    (!named.is_empty() && named.len() < rule.ports.len()).then(|| {
        let out = |index| Change::RemovePort { rule: at.clone(), index };
        named.into_iter().map(out).collect()
    })
}

/// A policy that isolates the subject and allows everybody but the asked peer.
fn isolating(
    cluster: &Cluster,
    answer: &Answer<'_>,
    direction: Direction,
    subject: &Group<'_>,
    other: &End<'_>,
) -> Option<Vec<Change>> {
    let own = &subject.namespace;
    let mut rest = everybody_but(cluster, own, other)?;
    // Blocks match pods too, so the pods that are kept out must not stand in one.
    rest.extend(outside_but(cluster, other).into_iter().map(RulePeer::Block));
    let mut rules = vec![Rule::allow(rest, Vec::new())];
    if let Some(asked) = ports(answer) {
        let ports = ports_but(&asked);
        if !ports.is_empty() {
            rules.push(Rule::allow(other.peers(own), ports));
        }
    }
    let names = (short_name(&answer.src), short_name(&answer.dst));
    let name = match direction {
        Direction::Ingress => format!("{}-not-from-{}", names.1, names.0),
        Direction::Egress => format!("{}-not-to-{}", names.0, names.1),
    };
    let name = free_name(cluster, own, &name);
    let mut policy = Policy::network_policy(own.clone(), name, subject.selector.clone());
    match direction {
        Direction::Ingress => policy.ingress = Some(rules),
        Direction::Egress => policy.egress = Some(rules),
    }
    let beside = subject.pods.iter().find_map(|pod| pod.source.clone());
    Some(vec![Change::AddPolicy { policy: Box::new(policy), beside }])
}

/// All pods but the asked ones; `None` if labels do not tell them from others.
fn everybody_but(cluster: &Cluster, own: &str, other: &End<'_>) -> Option<Vec<RulePeer>> {
    let pods = |namespaces, pods| RulePeer::Pods(PodScope { namespaces, pods });
    let Some(out) = &other.pods else {
        let all = NamespaceScope::Matching(Selector::everything());
        return Some(vec![pods(all, Selector::everything())]);
    };
    if out.selector.is_everything() {
        return None;
    }
    let there = if *out.namespace == *own {
        NamespaceScope::Own(own.into())
    } else {
        NamespaceScope::Matching(Selector::labels([(METADATA_NAME, &*out.namespace)]))
    };
    let mut peers = Vec::new();
    for requirement in &out.selector.requirements {
        let Operator::Equals(value) = &requirement.operator else { return None };
        let not = Operator::NotIn([value.clone()].into());
        peers.push(pods(there.clone(), Selector::everything().and(requirement.key.clone(), not)));
    }
    if cluster.namespaces.len() > 1 {
        let elsewhere = Operator::NotIn([out.namespace.clone()].into());
        let elsewhere = Selector::everything().and(METADATA_NAME, elsewhere);
        peers.push(pods(NamespaceScope::Matching(elsewhere), Selector::everything()));
    }
    Some(peers)
}

/// All addresses outside but the asked ones; none where it is not known which of them are pods'.
fn outside_but(cluster: &Cluster, other: &End<'_>) -> Vec<IpBlock> {
    let mut out: BTreeSet<IpNet> = BTreeSet::new();
    if other.pods.is_some() {
        let ranges: Vec<IpNet> =
            cluster.nodes.values().flat_map(|node| node.pod_cidrs.iter().copied()).collect();
        let known = other.pods.iter().flat_map(|group| &group.pods).all(|pod| {
            let inside = |ip: &std::net::IpAddr| ranges.iter().any(|net| net.contains(ip));
            !pod.ips.is_empty() && pod.ips.iter().all(inside)
        });
        if !known {
            return Vec::new();
        }
        out.extend(ranges);
    }
    for block in &other.blocks {
        out.insert(block.cidr);
    }
    let all = ["0.0.0.0/0", "::/0"].into_iter().filter_map(|net| net.parse::<IpNet>().ok());
    let block = |all: IpNet| {
        let inside = out.iter().copied().filter(|net| all.contains(net));
        (!out.contains(&all)).then(|| IpBlock::new(all, inside))
    };
    all.filter_map(block).collect()
}

/// Every port but these; protocols without ports cannot be named.
fn ports_but(asked: &[PortSpec]) -> Vec<PortSpec> {
    let mut out = Vec::new();
    for protocol in Protocol::WITH_PORTS {
        let all = PortSet::range(protocol, PortRange::ALL);
        let rest = asked.iter().filter(|spec| spec.protocol == protocol).fold(all, |rest, spec| {
            let range = match &spec.port {
                PortMatch::Range(range) => *range,
                PortMatch::Any | PortMatch::Named(_) => PortRange::ALL,
            };
            rest.difference(&PortSet::range(protocol, range))
        });
        let specs = rest.iter().map(|(protocol, range)| PortSpec {
            protocol,
            port: if range == PortRange::ALL {
                PortMatch::Any
            } else {
                // No policy can name port 0, and no packet has it.
                PortMatch::Range(PortRange { first: range.first.max(1), last: range.last })
            },
        });
        out.extend(specs);
    }
    out
}

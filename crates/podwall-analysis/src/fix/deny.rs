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
    NamespaceScope, Peer as RulePeer, PodScope, Policy, Rule, RuleRef, Tier,
};
use podwall_policy::port::{PortMatch, PortRange, PortSet, PortSpec, Protocol};
use podwall_policy::selector::{Operator, Requirement, Selector};

use super::allow::free_name;
use super::change::{Change, RuleAt};
use super::ends::{End, Group, ports};
use super::side::Side;
use crate::can::{Answer, Case};

/// In how many combinations the rules that allow it are narrowed, at the most.
const COMBINED: usize = 18;

/// Proposals for each side that could stop it. `Err` says why no policy can.
pub(super) fn proposals(
    cluster: &Cluster,
    answer: &Answer<'_>,
) -> Result<Vec<Vec<Vec<Change>>>, Vec<String>> {
    let mut sides = Vec::new();
    let mut obstacles = Vec::new();
    for side in Side::both(answer) {
        let direction = side.direction;
        let subject = End::of(cluster, side.subject(), answer.ask.family);
        let other = End::of(cluster, side.other(), answer.ask.family);
        let Some(group) = &subject.pods else {
            obstacles.push(format!("no NetworkPolicy asks for {direction} here"));
            continue;
        };
        let passing = || answer.cases.iter().filter(|case| case.verdict == Verdict::Allowed);
        if let Some(exempt) = passing().find_map(|case| side.said(case).exempt) {
            obstacles.push(format!("{direction}: {}", why_exempt(exempt)));
            continue;
        }
        let isolated = passing().filter(|case| side.said(case).is_isolated()).count();
        let narrower = || narrower(cluster, side, &other);
        let isolating = || isolating(cluster, side, group, &other);
        sides.push(match (isolated, passing().count()) {
            (0, _) => isolating().into_iter().collect(),
            (some, all) if some == all => narrower(),
            // Those that nothing isolates need a policy, and it must not be undone by the rules that
            // the others have.
            _ => {
                let join = |first: Vec<Change>| Some([first, isolating()?].concat());
                narrower().into_iter().filter_map(join).collect()
            }
        });
    }
    if sides.is_empty() { Err(obstacles) } else { Ok(sides) }
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

/// Each rule that allows it with less: without the asked peer alone, without the asked ports, or not
/// at all; each rule in its own way, in every combination as long as there are few.
fn narrower(cluster: &Cluster, side: Side<'_, '_>, other: &End<'_>) -> Vec<Vec<Change>> {
    let Side { direction, answer } = side;
    let passing: Vec<&Case<'_>> =
        answer.cases.iter().filter(|case| case.verdict == Verdict::Allowed).collect();
    let mut rules: BTreeSet<RuleAt> = BTreeSet::new();
    for case in &passing {
        let allowed = &side.why(case).allowed_by;
        let own = allowed.iter().filter(|rule| rule.tier == Tier::NetworkPolicy);
        rules.extend(own.map(|rule: &RuleRef| RuleAt {
            policy: rule.policy.clone(),
            direction,
            index: rule.number as usize - 1,
        }));
    }
    let parties: Vec<(Party<'_>, Family)> =
        passing.iter().map(|case| (side.other_of(case), case.family)).collect();
    let asked = ports(answer);
    // Places move when items go: from the back to the front.
    let ways: Option<Vec<Vec<Vec<Change>>>> = rules
        .iter()
        .rev()
        .map(|at| {
            let key = (Tier::NetworkPolicy, at.policy.clone());
            let rule = cluster.policies.get(&key)?.rules(direction)?.get(at.index)?;
            let peers = match &rule.peers[..] {
                [] => for_the_rest(cluster, at, other),
                _ => without_peer(cluster, at, rule, &parties, other),
            };
            let ports = asked.as_ref().and_then(|asked| without_ports(at, rule, asked));
            let gone = vec![Change::RemoveRule { rule: at.clone() }];
            let mut ways: Vec<Vec<Change>> = peers.into_iter().chain(ports).collect();
            if !ways.contains(&gone) {
                ways.push(gone);
            }
            Some(ways)
        })
        .collect();
    let Some(ways) = ways.filter(|ways| !ways.is_empty()) else { return Vec::new() };
    if ways.iter().map(Vec::len).try_fold(1usize, usize::checked_mul).is_some_and(|n| n <= COMBINED)
    {
        return ways.iter().fold(vec![Vec::new()], |begun, ways| {
            let join = |first: &Vec<Change>| {
                ways.iter().map(|way| [&first[..], way].concat()).collect::<Vec<_>>()
            };
            begun.iter().flat_map(join).collect()
        });
    }
    // Each rule in its first way, in its second, and so on; in its last where it has no more.
    let most = ways.iter().map(Vec::len).max().unwrap_or_default();
    let nth =
        |n: usize| ways.iter().flat_map(|ways| &ways[n.min(ways.len() - 1)]).cloned().collect();
    (0..most).map(nth).collect()
}

/// A rule for anybody as one for everybody but the asked ones.
fn for_the_rest(cluster: &Cluster, at: &RuleAt, other: &End<'_>) -> Option<Vec<Change>> {
    let peers = everybody_else(cluster, &at.policy.namespace, other)?;
    Some(vec![Change::SetPeers { rule: at.clone(), peers }])
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
    let mut more = Vec::new();
    let mut left = rule.peers.len();
    // From the back: what is taken out moves only what comes behind it.
    for (index, peer) in rule.peers.iter().enumerate().rev() {
        let matches = |(party, family): &(Party<'_>, Family)| {
            !matches!(match_peer(cluster, peer, *party, *family), Match::No(_))
        };
        if !parties.iter().any(matches) {
            continue;
        }
        if own.contains(peer) {
            left -= 1;
            changes.push(Change::RemovePeer { rule: at.clone(), index });
            continue;
        }
        let mut rest = peer_without(peer, other)?.into_iter();
        changes.push(Change::ReplacePeer { rule: at.clone(), index, peer: rest.next()? });
        more.extend(rest.map(|peer| Change::AddPeer { rule: at.clone(), peer }));
    }
    changes.append(&mut more);
    // A rule without peers would allow anybody.
    Some(if left == 0 { vec![Change::RemoveRule { rule: at.clone() }] } else { changes })
        .filter(|changes| !changes.is_empty())
}

/// Peers that match all that one did but the asked ones.
fn peer_without(peer: &RulePeer, other: &End<'_>) -> Option<Vec<RulePeer>> {
    match peer {
        RulePeer::Pods(scope) => {
            // Who lacks one of the labels is none of them.
            let requirements = &other.pods.as_ref()?.selector.requirements;
            let without = |requirement: &Requirement| {
                let Operator::Equals(value) = &requirement.operator else { return None };
                let not = Operator::NotIn([value.clone()].into());
                let pods = scope.pods.clone().and(requirement.key.clone(), not);
                Some(RulePeer::Pods(PodScope { namespaces: scope.namespaces.clone(), pods }))
            };
            requirements.iter().map(without).collect()
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
                .then_some(vec![RulePeer::Block(IpBlock { cidr: block.cidr, except })])
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
    side: Side<'_, '_>,
    subject: &Group<'_>,
    other: &End<'_>,
) -> Option<Vec<Change>> {
    let own = &subject.namespace;
    let mut rules = vec![Rule::allow(everybody_else(cluster, own, other)?, Vec::new())];
    if let Some(asked) = ports(side.answer) {
        let ports = ports_but(&asked);
        if !ports.is_empty() {
            rules.push(Rule::allow(other.peers(own), ports));
        }
    }
    let name = free_name(cluster, own, &side.policy_name("not-to", "not-from"));
    let mut policy = Policy::network_policy(own.clone(), name, subject.selector.clone());
    *policy.rules_mut(side.direction) = Some(rules);
    let beside = subject.pods.iter().find_map(|pod| pod.source.clone());
    Some(vec![Change::AddPolicy { policy: Box::new(policy), beside }])
}

/// All pods and all addresses but the asked ones.
fn everybody_else(cluster: &Cluster, own: &str, other: &End<'_>) -> Option<Vec<RulePeer>> {
    let mut rest = everybody_but(own, other)?;
    // Blocks match pods too, so the pods that are kept out must not stand in one.
    rest.extend(outside_but(cluster, other).into_iter().map(RulePeer::Block));
    Some(rest)
}

/// All pods but the asked ones; `None` if labels do not tell them from others.
fn everybody_but(own: &str, other: &End<'_>) -> Option<Vec<RulePeer>> {
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
    // Also where the files know of one namespace alone: kube-system is in every cluster, and with it
    // the name server.
    let elsewhere = Operator::NotIn([out.namespace.clone()].into());
    let elsewhere = Selector::everything().and(METADATA_NAME, elsewhere);
    peers.push(pods(NamespaceScope::Matching(elsewhere), Selector::everything()));
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

//! How do links become policies?
//!
//! ```text
//!   links of one subject, one direction ──▶ peer : ports ──▶ peers with the same ports are one rule
//!   addresses with the same ports ──▶ the fewest CIDRs, or prefixes if they may be widened
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use podwall_manifest::flows::{FlowLog, clock};
use podwall_policy::address::{AddressRange, AddressSet, Family, IpBlock};
use podwall_policy::label::{Labels, METADATA_NAME};
use podwall_policy::policy::{Direction, NamespaceScope, Peer, PodScope, Policy, Rule};
use podwall_policy::port::{PortMatch, PortRange, PortSet, PortSpec};
use podwall_policy::selector::Selector;

use super::links::Links;
use super::places::Places;
use super::{End, Evidence, Link, Options, Proposed};
use crate::outside::{around, cidrs};

/// The policy that denies a whole namespace.
const DENY: &str = "default-deny";

/// The policies, by namespace.
pub(super) fn draft(
    places: &Places<'_>,
    links: &Links,
    namespaces: &BTreeSet<Arc<str>>,
    log: &FlowLog,
    options: &Options,
) -> Vec<Proposed> {
    // Units that no labels tell apart share a policy.
    let mut subjects: BTreeMap<(Arc<str>, Labels), Vec<usize>> = BTreeMap::new();
    for (at, unit) in places.units.iter().enumerate() {
        if namespaces.contains(&unit.namespace) {
            subjects.entry((unit.namespace.clone(), unit.identity.clone())).or_default().push(at);
        }
    }
    let mut by_subject: BTreeMap<(usize, Direction), Vec<&Link>> = BTreeMap::new();
    for link in links.list() {
        if let End::Unit(unit) = link.src {
            by_subject.entry((unit, Direction::Egress)).or_default().push(link);
        }
        if let End::Unit(unit) = link.dst {
            by_subject.entry((unit, Direction::Ingress)).or_default().push(link);
        }
    }
    let names = names(log);
    let mut out: Vec<Proposed> = Vec::new();
    for namespace in namespaces {
        if !options.default_deny.is_empty() {
            out.push(deny(namespace, &options.default_deny));
        }
        let mut taken: BTreeSet<String> = BTreeSet::from([DENY.to_owned()]);
        let mut own: Vec<_> = subjects.iter().filter(|((of, _), _)| of == namespace).collect();
        own.sort_by_key(|(_, units)| &places.units[units[0]].label);
        for ((_, identity), units) in own {
            let links_of = |direction| -> Vec<&Link> {
                let of = |unit: &usize| by_subject.get(&(*unit, direction));
                units.iter().filter_map(of).flatten().copied().collect()
            };
            let rules: Vec<(Direction, Drafted)> = options
                .directions
                .iter()
                .map(|direction| {
                    let links = links_of(*direction);
                    (*direction, rules(places, &links, *direction, namespace, &names, options))
                })
                .collect();
            if rules.iter().all(|(_, drafted)| drafted.rules.is_empty()) {
                continue;
            }
            let unit = &places.units[units[0]];
            let name = name(&unit.name, &unit.kind, &mut taken);
            let pods = Selector::labels(identity.iter());
            let mut policy = Policy::network_policy(namespace.clone(), name, pods);
            let mut notes = BTreeMap::new();
            for (direction, drafted) in rules {
                // What nothing denies has to be denied here.
                let said = options.default_deny.contains(&direction);
                if drafted.rules.is_empty() && said {
                    continue;
                }
                for ((rule, peer), note) in drafted.notes {
                    notes.insert((direction, rule, peer), note);
                }
                match direction {
                    Direction::Ingress => policy.ingress = Some(drafted.rules),
                    Direction::Egress => policy.egress = Some(drafted.rules),
                }
            }
            out.push(Proposed { policy, about: about(places, units), notes });
        }
    }
    out
}

fn deny(namespace: &Arc<str>, directions: &BTreeSet<Direction>) -> Proposed {
    let mut policy = Policy::network_policy(namespace.clone(), DENY, Selector::everything());
    let none = |direction| directions.contains(&direction).then(Vec::new);
    policy.ingress = none(Direction::Ingress);
    policy.egress = none(Direction::Egress);
    let about = vec!["All pods: nothing passes but what other policies allow.".to_owned()];
    Proposed { policy, about, notes: BTreeMap::new() }
}

fn about(places: &Places<'_>, units: &[usize]) -> Vec<String> {
    const SHOWN: usize = 5;
    let mut lines = Vec::new();
    for unit in units {
        let unit = &places.units[*unit];
        let pods = match (unit.template, unit.pods.len()) {
            (true, _) => "no pods now".to_owned(),
            (false, 1) => "1 pod".to_owned(),
            (false, many) => format!("{many} pods"),
        };
        lines.push(format!("{}, {pods}", unit.label));
    }
    let besides: BTreeSet<&podwall_policy::object::Name> =
        units.iter().flat_map(|unit| &places.units[*unit].besides).collect();
    let own = |pod: &&&podwall_policy::object::Name| {
        places.unit_of(pod).is_none_or(|unit| !units.contains(&unit))
    };
    let besides: Vec<String> = besides.iter().filter(own).map(ToString::to_string).collect();
    if !besides.is_empty() {
        let more = besides.len().saturating_sub(SHOWN);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        lines.push(format!(
            "No labels tell them apart from {}{more}: these get the same.",
            besides[..besides.len().min(SHOWN)].join(", ")
        ));
    }
    lines
}

/// `allow-web`; with its kind, or a number, where that is taken.
fn name(of: &str, kind: &str, taken: &mut BTreeSet<String>) -> String {
    let short = format!("allow-{of}");
    let mut name = if taken.contains(&short) && !kind.is_empty() {
        format!("{short}-{kind}")
    } else {
        short.clone()
    };
    let mut number = 2;
    while !taken.insert(name.clone()) {
        name = format!("{short}-{number}");
        number += 1;
    }
    name
}

/// The names by which addresses were looked up.
fn names(log: &FlowLog) -> BTreeMap<IpAddr, BTreeSet<Arc<str>>> {
    let mut out: BTreeMap<IpAddr, BTreeSet<Arc<str>>> = BTreeMap::new();
    for (party, names) in &log.names {
        if let Some(address) = log.parties[*party].address {
            out.entry(address).or_default().extend(names.iter().cloned());
        }
    }
    out
}

#[derive(Default)]
struct Drafted {
    rules: Vec<Rule>,
    notes: BTreeMap<(usize, usize), String>,
}

/// A peer, and what is said of it.
struct Item {
    peer: Peer,
    ports: PortSet,
    note: String,
}

fn rules(
    places: &Places<'_>,
    links: &[&Link],
    direction: Direction,
    namespace: &Arc<str>,
    names: &BTreeMap<IpAddr, BTreeSet<Arc<str>>>,
    options: &Options,
) -> Drafted {
    let mut pods: BTreeMap<Peer, (PortSet, Vec<String>, Evidence, bool)> = BTreeMap::new();
    let mut addresses: BTreeMap<End, (PortSet, Evidence)> = BTreeMap::new();
    for link in links {
        let ports = link.seen.union(&link.dns);
        let other = if direction == Direction::Egress { link.dst } else { link.src };
        match other {
            End::Unit(unit) => {
                let unit = &places.units[unit];
                let namespaces = if unit.namespace == *namespace {
                    NamespaceScope::Own(namespace.clone())
                } else {
                    NamespaceScope::Matching(Selector::labels([(METADATA_NAME, &*unit.namespace)]))
                };
                let pods_of = Selector::labels(unit.identity.iter());
                let peer = Peer::Pods(PodScope { namespaces, pods: pods_of });
                let entry = pods.entry(peer).or_default();
                entry.0 = entry.0.union(&ports);
                if !entry.1.contains(&unit.label) {
                    entry.1.push(unit.label.clone());
                }
                entry.2.add(link.evidence.count, link.evidence.times);
                entry.3 |= !link.dns.is_empty();
            }
            _ => {
                let entry = addresses.entry(other).or_default();
                entry.0 = entry.0.union(&ports);
                entry.1.add(link.evidence.count, link.evidence.times);
            }
        }
    }
    let mut items: Vec<Item> = pods
        .into_iter()
        .map(|(peer, (ports, labels, evidence, dns))| {
            let added = match (dns, evidence.count) {
                (true, 0) => "DNS, not seen",
                (true, _) => "DNS in part not seen",
                (false, _) => "",
            };
            let said = [labels.join(", "), seen(&evidence), added.to_owned()];
            let said: Vec<String> = said.into_iter().filter(|part| !part.is_empty()).collect();
            Item { peer, ports, note: said.join("; ") }
        })
        .collect();
    items.extend(blocks(places, addresses, names, options));
    group(items)
}

/// "120 times, 2026-11-21 10:00:00 to 11:00:00".
fn seen(evidence: &Evidence) -> String {
    let times = match evidence.count {
        0 => return String::new(),
        1 => "seen once".to_owned(),
        many => format!("seen {many} times"),
    };
    let Some(span) = evidence.times else { return times };
    let (first, last) = (clock(span.first), clock(span.last));
    if first == last {
        return format!("{times}, {first}");
    }
    let last = match (first.split_once(' '), last.split_once(' ')) {
        (Some((a, _)), Some((b, time))) if a == b => time,
        _ => &last,
    };
    format!("{times}, {first} to {last}")
}

/// Addresses with the same ports as few blocks.
fn blocks(
    places: &Places<'_>,
    addresses: BTreeMap<End, (PortSet, Evidence)>,
    names: &BTreeMap<IpAddr, BTreeSet<Arc<str>>>,
    options: &Options,
) -> Vec<Item> {
    let mut by_ports: BTreeMap<(bool, PortSet), Vec<(IpNet, Evidence)>> = BTreeMap::new();
    for (end, (ports, evidence)) in addresses {
        let (node, net) = match end {
            End::Node(address) => (true, IpNet::from(address)),
            End::Net(net) => (false, net),
            End::Unit(_) => continue,
        };
        by_ports.entry((node, ports)).or_default().push((net, evidence));
    }
    let mut out = Vec::new();
    for ((node, ports), seen_of) in by_ports {
        let nets: Vec<IpNet> = seen_of.iter().map(|(net, _)| *net).collect();
        let mut set: AddressSet = nets.iter().map(|net| AddressRange::from(*net)).collect();
        if !node {
            set = widen(&set, &nets, options.aggregate).difference(&places.pod_ranges).union(&set);
        }
        for block in as_blocks(&set) {
            let mut evidence = Evidence::default();
            let mut inside: Vec<&IpNet> = Vec::new();
            for (net, of) in seen_of.iter().filter(|(net, _)| block.contains(net.addr())) {
                evidence.add(of.count, of.times);
                inside.push(net);
            }
            let who = match (node, &inside[..]) {
                (true, [_]) => "a node".to_owned(),
                (true, _) => "nodes".to_owned(),
                (false, [] | [_]) => String::new(),
                (false, all) => format!("{} addresses", all.len()),
            };
            let called: BTreeSet<&Arc<str>> =
                inside.iter().filter_map(|net| names.get(&net.addr())).flatten().collect();
            let called: Vec<String> = called.iter().take(4).map(ToString::to_string).collect();
            let counted = match (evidence.count, inside.is_empty()) {
                (0, false) => "DNS, not seen".to_owned(),
                _ => seen(&evidence),
            };
            let said: Vec<String> = [called.join(", "), who, counted]
                .into_iter()
                .filter(|part| !part.is_empty())
                .collect();
            out.push(Item {
                peer: Peer::Block(block),
                ports: ports.clone(),
                note: said.join("; "),
            });
        }
    }
    out
}

/// Prefixes in which several single addresses lie, if that was asked for.
fn widen(set: &AddressSet, nets: &[IpNet], aggregate: [Option<u8>; 2]) -> AddressSet {
    let mut out = set.clone();
    for (family, length) in Family::BOTH.into_iter().zip(aggregate) {
        let Some(length) = length else { continue };
        let mut within: BTreeMap<IpNet, usize> = BTreeMap::new();
        for net in nets.iter().filter(|net| Family::of(net.addr()) == family) {
            if net.prefix_len() == net.max_prefix_len()
                && let Ok(wide) = IpNet::new(net.addr(), length)
            {
                *within.entry(wide.trunc()).or_default() += 1;
            }
        }
        for (wide, _) in within.into_iter().filter(|(_, count)| *count > 1) {
            out = out.union(&AddressSet::from(wide));
        }
    }
    out
}

/// As blocks, with exceptions where that is shorter.
pub(crate) fn as_blocks(set: &AddressSet) -> Vec<IpBlock> {
    let mut out = Vec::new();
    for family in Family::BOTH {
        let own = set.intersection(&AddressSet::from(AddressRange::all(family)));
        let all: Vec<IpNet> = own.ranges().iter().flat_map(AddressRange::cidrs).collect();
        if let Some(around) = around(&own).filter(|_| all.len() > 2) {
            let except = AddressSet::from(around).difference(&own);
            if cidrs(&except).len() + 1 < all.len() {
                let except = except.ranges().iter().flat_map(AddressRange::cidrs);
                out.push(IpBlock::new(around, except));
                continue;
            }
        }
        out.extend(all.into_iter().map(|net| IpBlock::new(net, [])));
    }
    out
}

/// Peers with the same ports are one rule.
fn group(items: Vec<Item>) -> Drafted {
    let mut drafted = Drafted::default();
    let mut known: Vec<PortSet> = Vec::new();
    for Item { peer, ports, note } in items {
        let rule = known.iter().position(|of| *of == ports).unwrap_or_else(|| {
            drafted.rules.push(Rule::allow(Vec::new(), specs(&ports)));
            known.push(ports);
            known.len() - 1
        });
        let peers = &mut drafted.rules[rule].peers;
        drafted.notes.insert((rule, peers.len()), note);
        peers.push(peer);
    }
    drafted
}

/// A set of ports as a rule writes it.
pub(crate) fn specs(ports: &PortSet) -> Vec<PortSpec> {
    if ports.is_everything() {
        return Vec::new();
    }
    let spec = |(protocol, range): (_, PortRange)| {
        let port = if range == PortRange::ALL { PortMatch::Any } else { PortMatch::Range(range) };
        PortSpec { protocol, port }
    };
    ports.iter().map(spec).collect()
}

//! Does everything pass that was seen, and what else?
//!
//! ```text
//!   links ──the engine──▶ failing          matrix with the new policies − links ──▶ beyond
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use podwall_policy::address::{AddressRange, AddressSet};
use podwall_policy::cluster::Cluster;
use podwall_policy::flow::Party;
use podwall_policy::object::{Name, Pod};
use podwall_policy::policy::Direction;
use podwall_policy::port::PortSet;

use super::places::Places;
use super::{Because, Beyond, End, Failing, Link, Options, Report, UnitInfo};
use crate::matrix::{By, Connection, Matrix, Row, matrix_of};
use crate::outside::describe;
use crate::reachability::Reachability;

pub(super) fn check(places: &Places<'_>, after: &Cluster, report: &mut Report, options: &Options) {
    let engine = Reachability::of(after);
    for link in &report.links.clone() {
        report.failing.extend(failing(places, &engine, link, report));
    }
    for (unit, info) in places.units.iter().zip(&mut report.units) {
        info.isolated = Direction::BOTH
            .map(|direction| unit.kinds().iter().all(|pod| is_isolated(&engine, pod, direction)));
    }
    beyond(places, &matrix_of(after, &engine, By::Workload, None), report, options);
}

fn is_isolated(engine: &Reachability<'_>, pod: &Pod, direction: Direction) -> bool {
    engine.policies_of(pod).iter().any(|policy| policy.rules(direction).is_some())
}

/// Asks for each pair of pods of a link that labels can tell apart; the first that fails speaks.
fn failing(
    places: &Places<'_>,
    engine: &Reachability<'_>,
    link: &Link,
    report: &Report,
) -> Option<Failing> {
    let wanted = link.seen.union(&link.dns);
    let pods = |end: End| match end {
        End::Unit(unit) => places.units[unit].kinds(),
        _ => Vec::new(),
    };
    let at = |end: End| match end {
        End::Node(address) => Some(Party::at(engine.cluster(), address)),
        End::Net(net) => Some(Party::Address(net.addr())),
        End::Unit(_) => None,
    };
    let (from, to) = (pods(link.src), pods(link.dst));
    // Between two of a kind: a pod always reaches itself.
    let twins: Vec<Pod> = to
        .iter()
        .map(|pod| {
            let name = Name::new(pod.name.namespace.clone(), format!("{}-twin", pod.name.name));
            let same = link.src == link.dst;
            if same { Pod { name, ..(*pod).clone() } } else { (*pod).clone() }
        })
        .collect();
    let sources: Vec<Party<'_>> =
        at(link.src).into_iter().chain(from.into_iter().map(Party::Pod)).collect();
    let destinations: Vec<Party<'_>> =
        at(link.dst).into_iter().chain(twins.iter().map(Party::Pod)).collect();
    for src in &sources {
        for dst in &destinations {
            let passage = engine.passage(*src, *dst);
            let lacking = wanted.difference(&passage.passes);
            if lacking.is_empty() || !passage.possible {
                continue;
            }
            let open = !lacking.intersection(&passage.open).is_empty();
            let mut isolated_by: BTreeSet<Name> = BTreeSet::new();
            for (party, direction) in [(src, Direction::Egress), (dst, Direction::Ingress)] {
                let policies = party.subject().map(|pod| engine.policies_of(pod));
                let isolating = policies.into_iter().flatten();
                let isolating = isolating.filter(|policy| policy.rules(direction).is_some());
                isolated_by.extend(isolating.map(|policy| policy.name.clone()));
            }
            return Some(Failing {
                src: report.end(link.src),
                dst: report.end(link.dst),
                ports: lacking,
                missing: if open { passage.missing } else { Vec::new() },
                isolated_by: isolated_by.into_iter().collect(),
                source: link.source.clone(),
            });
        }
    }
    None
}

/// What passes in the namespaces with policies, and was not seen.
fn beyond(places: &Places<'_>, found: &Matrix<'_>, report: &mut Report, options: &Options) {
    let seen = Seen::new(report);
    // Rows of pods that are alike are one unit.
    let unit = |row: usize| match &found.rows[row] {
        Row::Pods { pods, .. } => places.unit_of(&pods[0].name),
        Row::Outside(_) => None,
    };
    let vague = vague(report);
    let ours = |unit: usize| report.namespaces.contains(&report.units[unit].namespace);
    let mut between: BTreeMap<(usize, usize), PortSet> = BTreeMap::new();
    let mut out: BTreeMap<(String, String, PortSet), Because> = BTreeMap::new();
    // Most workloads leave the same addresses.
    let mut words: HashMap<AddressSet, String> = HashMap::new();
    for connection in &found.connections {
        let ports = all_ports(connection);
        match (unit(connection.src), unit(connection.dst)) {
            (Some(src), Some(dst)) if ours(src) || ours(dst) => {
                let all = between.entry((src, dst)).or_default();
                *all = all.union(&ports);
            }
            (Some(own), None) | (None, Some(own)) if ours(own) => {
                let direction = match unit(connection.src) {
                    Some(_) => Direction::Egress,
                    None => Direction::Ingress,
                };
                let row =
                    if direction == Direction::Egress { connection.dst } else { connection.src };
                let Row::Outside(class) = &found.rows[row] else { continue };
                for (addresses, ports) in seen.outside(own, direction, &class.addresses, &ports) {
                    let because =
                        why_outside(report, vague[own], own, direction, &addresses, options);
                    let other = words.entry(addresses).or_insert_with_key(describe).clone();
                    let own = report.units[own].label.clone();
                    let (src, dst) = match direction {
                        Direction::Egress => (own, other),
                        Direction::Ingress => (other, own),
                    };
                    out.insert((src, dst, ports), because);
                }
            }
            _ => {}
        }
    }
    for ((src, dst), passes) in between {
        report.open_pairs += 1;
        let (known, dns) = seen.between.get(&(src, dst)).cloned().unwrap_or_default();
        if !known.is_empty() {
            report.seen_pairs += 1;
        }
        let more = passes.difference(&known);
        if more.is_empty() {
            continue;
        }
        let because = if more.difference(&dns).is_empty() {
            Because::Dns
        } else if !report.units[src].isolated[0] && !report.units[dst].isolated[1] {
            Because::Open
        } else if vague[src] || vague[dst] {
            Because::Labels
        } else if report.staying.is_empty() {
            Because::Open
        } else {
            Because::Existing
        };
        let label = |unit: usize| report.units[unit].label.clone();
        out.insert((label(src), label(dst), more), because);
    }
    report.beyond = out
        .into_iter()
        .map(|((src, dst, ports), because)| Beyond { src, dst, ports, because })
        .collect();
    report.beyond.sort_by(|a, b| (b.because, &a.src, &a.dst).cmp(&(a.because, &b.src, &b.dst)));
}

/// By unit: whether another unit's labels take pods of this one, or the reverse.
fn vague(report: &Report) -> Vec<bool> {
    let mut taking: BTreeMap<&Arc<str>, Vec<&UnitInfo>> = BTreeMap::new();
    for unit in report.units.iter().filter(|unit| !unit.besides.is_empty()) {
        taking.entry(&unit.namespace).or_default().push(unit);
    }
    let is_vague = |own: &UnitInfo| {
        let mut others = taking.get(&own.namespace).into_iter().flatten();
        !own.besides.is_empty()
            || others.any(|other| super::places::has(&own.identity, &other.identity))
    };
    report.units.iter().map(is_vague).collect()
}

fn why_outside(
    report: &Report,
    is_vague: bool,
    own: usize,
    direction: Direction,
    addresses: &AddressSet,
    options: &Options,
) -> Because {
    let side = usize::from(direction == Direction::Ingress);
    if !report.units[own].isolated[side] {
        return Because::Open;
    }
    let of_dns = report.links.iter().any(|link| {
        !link.dns.is_empty()
            && link.src == End::Unit(own)
            && matches!(link.dst, End::Net(net) if AddressSet::from(net) == *addresses)
    });
    match options.aggregate {
        _ if of_dns => Because::Dns,
        [None, None] if is_vague => Because::Labels,
        [None, None] => Because::Existing,
        _ => Because::Aggregated,
    }
}

/// What passes over any family.
fn all_ports(connection: &Connection) -> PortSet {
    connection.families.iter().fold(connection.passes.clone(), |all, (_, set)| all.union(set))
}

/// What was seen, by ends.
struct Seen {
    /// Seen, and added for DNS.
    between: BTreeMap<(usize, usize), (PortSet, PortSet)>,
    outside: BTreeMap<(usize, Direction), Vec<(AddressSet, PortSet)>>,
}

impl Seen {
    fn new(report: &Report) -> Self {
        let mut between = BTreeMap::new();
        let mut ranges: BTreeMap<(usize, Direction), BTreeMap<PortSet, Vec<AddressRange>>> =
            BTreeMap::new();
        for link in &report.links {
            let range = |end: End| match end {
                End::Node(address) => Some(AddressRange::one(address)),
                End::Net(net) => Some(AddressRange::from(net)),
                End::Unit(_) => None,
            };
            let (own, other) = match (link.src, link.dst) {
                (End::Unit(src), End::Unit(dst)) => {
                    between.insert((src, dst), (link.seen.clone(), link.dns.clone()));
                    continue;
                }
                (End::Unit(own), other) => ((own, Direction::Egress), other),
                (other, End::Unit(own)) => ((own, Direction::Ingress), other),
                _ => continue,
            };
            let by_ports = ranges.entry(own).or_default();
            by_ports.entry(link.seen.clone()).or_default().extend(range(other));
        }
        let sets = |by_ports: BTreeMap<PortSet, Vec<AddressRange>>| {
            by_ports.into_iter().map(|(ports, all)| (all.into_iter().collect(), ports)).collect()
        };
        let outside = ranges.into_iter().map(|(own, all)| (own, sets(all))).collect();
        Self { between, outside }
    }

    /// The part of addresses and ports that was not seen.
    fn outside(
        &self,
        own: usize,
        direction: Direction,
        addresses: &AddressSet,
        ports: &PortSet,
    ) -> Vec<(AddressSet, PortSet)> {
        let mut left = vec![(addresses.clone(), ports.clone())];
        for (known, seen) in self.outside.get(&(own, direction)).into_iter().flatten() {
            let mut next = Vec::new();
            for (addresses, ports) in left {
                let inside = addresses.intersection(known);
                let rest = ports.difference(seen);
                if inside.is_empty() || rest == ports {
                    next.push((addresses, ports));
                    continue;
                }
                let others = addresses.difference(known);
                if !rest.is_empty() {
                    next.push((inside, rest));
                }
                if !others.is_empty() {
                    next.push((others, ports));
                }
            }
            left = next;
        }
        left
    }
}

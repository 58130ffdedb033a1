//! Do blocks of addresses cover what their author did not think of, or not what he did?
//!
//! PW501 to PW506. Addresses outside are what blocks are for, and say nothing; only addresses that
//! are known to be pods', nodes' or Services' do, and the few that mean the same everywhere.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use podwall_policy::address::{AddressSet, Family, IpBlock};
use podwall_policy::flow::Party;
use podwall_policy::policy::{Direction, Peer, Policy, Rule};
use podwall_policy::port::{PortMatch, Protocol};

use super::View;
use super::finding::{Change, Finding, Fix, Severity};
use super::flows::sentence;
use super::words::{count, json_at, list, peer_path, peers_key, rule_path};

/// Where clouds serve instances their credentials.
const METADATA: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

/// What a block covers of the cluster.
#[derive(Debug, Default)]
struct Covered {
    /// Classes of pods with an address in it.
    pods: Vec<usize>,
    /// Ranges of pods' addresses that it touches.
    ranges: Vec<String>,
    nodes: Vec<String>,
    services: Vec<String>,
}

pub(super) fn check(view: &View<'_>, found: &mut Vec<Finding>) {
    let mut known: HashMap<&IpBlock, Covered> = HashMap::new();
    let families = families(view);
    for policy in &view.policies {
        for direction in Direction::BOTH {
            for (i, rule) in policy.rules(direction).unwrap_or_default().iter().enumerate() {
                for (p, peer) in rule.peers.iter().enumerate() {
                    let Peer::Block(block) = peer else { continue };
                    let covered = known.entry(block).or_insert_with(|| covered(view, block));
                    let at = At { view, policy, direction, i, p };
                    found.extend(nothing(&at, block));
                    found.extend(odd(&at, block));
                    found.extend(inside(&at, block, covered));
                    found.extend(metadata(&at, rule, block));
                }
                found.extend(one_family(view, policy, (direction, i), rule, families));
                if direction == Direction::Egress && rule.peers.is_empty() && !rule.ports.is_empty()
                {
                    let at = At { view, policy, direction, i, p: 0 };
                    found.extend(metadata_of_all(&at, rule));
                }
            }
        }
    }
}

struct At<'p, 'a> {
    view: &'p View<'a>,
    policy: &'p Policy,
    direction: Direction,
    i: usize,
    p: usize,
}

impl At<'_, '_> {
    fn finding(&self, id: &str, message: String) -> Finding {
        let field = peer_path(self.direction, self.i, self.p).key("ipBlock").key("cidr");
        Finding::of_rule(id, self.policy, (self.direction, self.i), field, message)
    }

    fn subject(&self) -> Option<usize> {
        self.view.select(&self.policy.subject).classes.first().copied()
    }
}

fn covered(view: &View<'_>, block: &IpBlock) -> Covered {
    let inside = |address: &IpAddr| block.contains(*address);
    let pods = view.classes.iter().enumerate();
    let range = block.ranges();
    let touched = view
        .cluster
        .nodes
        .values()
        .flat_map(|node| &node.pod_cidrs)
        .filter(|net| !AddressSet::from(**net).intersection(&range).is_empty());
    let services = view.cluster.services.values();
    Covered {
        pods: pods.filter(|(_, c)| c.pod.ips.iter().any(inside)).map(|(class, _)| class).collect(),
        ranges: touched.map(ToString::to_string).collect(),
        nodes: view
            .cluster
            .nodes
            .values()
            .filter(|node| node.addresses.iter().any(inside))
            .map(|node| node.name.to_string())
            .collect(),
        services: services
            .filter(|service| service.cluster_ips.iter().any(inside))
            .map(|service| service.name.to_string())
            .collect(),
    }
}

/// PW506.
fn odd(at: &At<'_, '_>, block: &IpBlock) -> Vec<Finding> {
    let Some(raw) = at.view.written(at.policy) else { return Vec::new() };
    let path = peer_path(at.direction, at.i, at.p).key("ipBlock");
    let excepted = (0..block.except.len()).map(|e| path.key("except").item(e));
    let nets = std::iter::once(&block.cidr).chain(&block.except);
    let mut found = Vec::new();
    for (field, net) in std::iter::once(path.key("cidr")).chain(excepted).zip(nets) {
        let text = json_at(raw, &field).and_then(serde_json::Value::as_str);
        for (what, instead) in text.map(podwall_manifest::cidr_oddities).unwrap_or_default() {
            let rule = (at.direction, at.i);
            let fix = Fix {
                what: format!("write {net}"),
                changes: vec![Change::Value(field.clone(), net.to_string())],
                // With bits behind the prefix the one address may be meant.
                sure: text.is_some_and(|text| podwall_manifest::cidr_oddities(text).len() == 1)
                    && !what.contains("bits set"),
            };
            found.push(
                Finding::of_rule("PW506", at.policy, rule, field.clone(), what)
                    .about(text.unwrap_or_default().to_owned())
                    .proof(format!("it is taken as {net}"))
                    .help(format!("{instead}; newer API servers refuse it as it stands"))
                    .fix(Some(fix)),
            );
        }
    }
    found
}

/// PW505.
fn nothing(at: &At<'_, '_>, block: &IpBlock) -> Option<Finding> {
    if block.except.is_empty() || !block.ranges().is_empty() {
        return None;
    }
    let message = format!("{block} has no address left, so this matches nobody");
    let except: Vec<String> = block.except.iter().map(ToString::to_string).collect();
    Some(
        at.finding("PW505", message)
            .about(block.to_string())
            .proof(format!("{} together are the whole of {}", list(&except), block.cidr))
            .help("shorten `except`, or remove the peer"),
    )
}

/// PW501 and PW502.
fn inside(at: &At<'_, '_>, block: &IpBlock, covered: &Covered) -> Option<Finding> {
    let everything = block.cidr.prefix_len() == 0;
    if covered.pods.is_empty() && covered.ranges.is_empty() && covered.nodes.is_empty() {
        if covered.services.is_empty() || everything || at.direction == Direction::Ingress {
            return None;
        }
        let message = format!(
            "{block} covers Services, but policies see the pod behind a Service: this never matches \
             them"
        );
        return Some(
            at.finding("PW502", message)
                .about(block.to_string())
                .proof(format!("in it: Service {}", list(&covered.services)))
                .help("select the pods behind the Service by their labels"),
        );
    }
    let mut what = Vec::new();
    if !covered.pods.is_empty() {
        what.push(count(at.view.count(&covered.pods), "pod"));
    } else if !covered.ranges.is_empty() {
        what.push("the range that pods get addresses from".to_owned());
    }
    if !covered.nodes.is_empty() {
        what.push(count(covered.nodes.len(), "node"));
    }
    let pods = !covered.pods.is_empty() || !covered.ranges.is_empty();
    let message = format!("{block} covers {}, not just the outside", what.join(" and "));
    let mut finding = at.finding("PW501", message).about(block.to_string());
    // Nodes can be allowed by address only, and `0.0.0.0/0` says plainly that it is everybody.
    if !pods || everything {
        finding = finding.severity(Severity::Note);
    }
    if let (Some(subject), Some(pod)) = (at.subject(), covered.pods.first()) {
        let other = Party::Pod(at.view.classes[*pod].pod);
        finding.proof.extend(sentence(at.view, subject, other, at.direction, None));
    }
    if !covered.pods.is_empty() {
        finding = finding.proof(format!("in it: {}", at.view.name(&covered.pods)));
    } else if !covered.ranges.is_empty() {
        finding = finding.proof(format!("pods get addresses from {}", list(&covered.ranges)));
    }
    if !covered.nodes.is_empty() {
        finding = finding.proof(format!("in it: node {}", list(&covered.nodes)));
    }
    Some(finding.help(if pods && block.cidr.prefix_len() == block.cidr.max_prefix_len() {
        "a pod's address changes with the pod: select it by its labels"
    } else if pods {
        "take the cluster's own ranges out with `except`, and select pods by their labels"
    } else {
        "if nodes are not meant, take them out with `except`"
    }))
}

/// Which families addresses of the cluster are known of.
fn families(view: &View<'_>) -> [bool; 2] {
    let cluster = view.cluster;
    let pods = cluster.pods.values().flat_map(|pod| pod.ips.iter().copied());
    let nodes = cluster.nodes.values().flat_map(|node| node.addresses.iter().copied());
    let ranges = cluster.nodes.values().flat_map(|node| node.pod_cidrs.iter().map(IpNet::addr));
    let services = cluster.services.values().flat_map(|s| s.cluster_ips.iter().copied());
    let mut known = [false; 2];
    for address in pods.chain(nodes).chain(ranges).chain(services) {
        known[usize::from(Family::of(address) == Family::V6)] = true;
    }
    known
}

/// PW503.
fn one_family(
    view: &View<'_>,
    policy: &Policy,
    (direction, i): (Direction, usize),
    rule: &Rule,
    [v4, v6]: [bool; 2],
) -> Option<Finding> {
    if v4 && !v6 {
        return None; // a cluster without IPv6
    }
    let blocks = || {
        rule.peers.iter().enumerate().filter_map(|(p, peer)| match peer {
            Peer::Block(block) => Some((p, block)),
            Peer::Pods(_) => None,
        })
    };
    let wide = |family| {
        blocks().find(move |(_, block)| {
            Family::of(block.cidr.addr()) == family && block.cidr.prefix_len() == 0
        })
    };
    let (p, block) = wide(Family::V4)?;
    // Another rule of the policy may say it for IPv6.
    let elsewhere = policy.rules(direction).unwrap_or_default().iter().any(|other| {
        other.peers.is_empty()
            || other.peers.iter().any(
                |peer| matches!(peer, Peer::Block(b) if Family::of(b.cidr.addr()) == Family::V6),
            )
    });
    if wide(Family::V6).is_some() || elsewhere {
        return None;
    }
    let at = At { view, policy, direction, i, p };
    let message = format!("{} is the whole of IPv4 and nothing of IPv6", block.cidr);
    let mut finding = at
        .finding("PW503", message)
        .severity(if v6 { Severity::Warning } else { Severity::Note })
        .about(format!("{direction} {block}"));
    let address = super::flows::outside(Family::V6);
    if let Some(subject) = at.subject() {
        let said = sentence(view, subject, Party::Address(address), direction, None);
        finding.proof.extend(said);
    }
    if finding.proof.is_empty() {
        finding = finding.proof(format!("{address} is not in {block}"));
    }
    let fix = Fix {
        what: "add ::/0".to_owned(),
        changes: vec![Change::Append(
            rule_path(direction, i).key(peers_key(direction)),
            vec!["ipBlock:".to_owned(), "  cidr: \"::/0\"".to_owned()],
        )],
        sure: v6 && block.except.is_empty(),
    };
    Some(
        finding
            .help("add `ipBlock: {cidr: \"::/0\"}` beside it, if IPv6 is meant as well")
            .fix(Some(fix)),
    )
}

/// PW504.
fn metadata(at: &At<'_, '_>, rule: &Rule, block: &IpBlock) -> Option<Finding> {
    if at.direction != Direction::Egress || !is_http(rule) {
        return None;
    }
    let address = METADATA.into_iter().find(|address| block.contains(*address))?;
    let meant = block.cidr.prefix_len() >= 16;
    let message = format!("{block} includes {address}, where clouds hand out credentials");
    let finding = at
        .finding("PW504", message)
        .severity(if meant { Severity::Note } else { Severity::Warning })
        .about(block.to_string());
    let host = if address.is_ipv4() { 32 } else { 128 };
    Some(open(at, finding, address).help(if meant {
        "if these pods need the machine's own credentials, suppress this with a reason".to_owned()
    } else {
        format!("write `except: [{address}/{host}]`")
    }))
}

/// PW504 of a rule without peers.
fn metadata_of_all(at: &At<'_, '_>, rule: &Rule) -> Option<Finding> {
    if !is_http(rule) {
        return None;
    }
    let message =
        format!("anything may be reached, {} too, where clouds hand out credentials", METADATA[0]);
    let place = (at.direction, at.i);
    let field = rule_path(at.direction, at.i);
    let finding =
        Finding::of_rule("PW504", at.policy, place, field, message).about("egress to anybody");
    Some(open(at, finding, METADATA[0]).help(format!(
        "name the peers, or allow `ipBlock: {{cidr: 0.0.0.0/0, except: [{}/32]}}` and pods by their \
         labels",
        METADATA[0]
    )))
}

fn open(at: &At<'_, '_>, mut finding: Finding, address: IpAddr) -> Finding {
    if let Some(subject) = at.subject() {
        let port = Some((Protocol::TCP, 80));
        finding.proof.extend(sentence(
            at.view,
            subject,
            Party::Address(address),
            at.direction,
            port,
        ));
    }
    if finding.proof.is_empty() {
        finding = finding.proof(format!("{address} on TCP 80 matches this rule"));
    }
    finding
}

/// Whether a rule's ports include TCP 80, on which metadata is served.
fn is_http(rule: &Rule) -> bool {
    rule.ports.is_empty()
        || rule.ports.iter().any(|spec| {
            spec.protocol == Protocol::TCP
                && match &spec.port {
                    PortMatch::Any => true,
                    PortMatch::Range(range) => range.contains(80),
                    PortMatch::Named(_) => false,
                }
        })
}

//! Do tables and evaluator agree on this pair of addresses?

use std::collections::BTreeMap;
use std::net::IpAddr;

use podwall_policy::address::Family;
use podwall_policy::cluster::{Cluster, Strangers};
use podwall_policy::evaluate::{Exempt, Side, Verdict, side};
use podwall_policy::explain::Question;
use podwall_policy::flow::{Flow, Party};
use podwall_policy::matching::Match;
use podwall_policy::object::{Namespace, Phase, Pod};
use podwall_policy::policy::{Action, Direction, Tier};
use podwall_policy::port::{PortMatch, PortSpec, Protocol};
use podwall_policy::reason::Reason;

use super::random::{PROTOCOLS, interesting_ports};
use crate::atoms::Question as Asked;
use crate::tables::{
    Decision, NodeTables, Packet, Peer, PeerKey, PortKey, SubjectId, Verdict as TableVerdict,
};

/// How often each kind of outcome came up.
pub type Coverage = BTreeMap<&'static str, usize>;

/// Kinds of outcome that a long enough run must reach.
pub const KINDS: [&str; 45] = [
    "not local",
    "open",
    "loopback",
    "from own node",
    "allowed by exact port",
    "allowed by range",
    "allowed by any port",
    "allowed by any protocol",
    "allowed by default of a tier",
    "denied, no entry",
    "denied by default of a tier",
    "denied by a Deny rule",
    "own row",
    "own row before a group's or net's",
    "row of a group",
    "row of a group, after the peer's own",
    "row of a net",
    "row of a net, after another",
    "row for anybody",
    "row for anybody, after another",
    "whole namespace or large block, in order",
    "whole namespace or large block, after an Admin policy",
    "passed on",
    "dry run would have matched",
    "named port, ingress",
    "named port, egress",
    "named port, egress, for anybody",
    "hole of an except",
    "pod in a block",
    "node in a block",
    "hostNetwork pod",
    "contested address",
    "IPv6",
    "portless protocol",
    "stranger sends",
    "stranger is sent to",
    "stranger hears its own node",
    "nameless, in pod ranges",
    "nameless, elsewhere",
    "pod ranges: a pod, open",
    "pod ranges: a pod, isolated",
    "pod ranges: a pod of another node",
    "pod ranges: a pod that has ended",
    "pod ranges: let go",
    "pod ranges: the node itself",
];

/// The cluster as the kernel must take it: of a namespace whose labels nobody states only the name
/// is known, and that has to do; a pod without a node is on no node.
pub fn as_known(cluster: &Cluster) -> Cluster {
    let mut known = cluster.clone();
    let names: Vec<_> = known.pods.keys().map(|name| name.namespace.clone()).collect();
    for name in names {
        known.namespaces.entry(name.clone()).or_insert_with(|| Namespace::implied(name));
    }
    known.namespaces.values_mut().for_each(|namespace| namespace.labels_known = true);
    for pod in known.pods.values_mut() {
        pod.node.get_or_insert_with(|| "nowhere".into());
    }
    known
}

/// Holds the tables of a node (`None`: of the whole cluster) to the evaluator for all protocols
/// and interesting ports between two addresses of one family. The cluster must be [`as_known`].
pub fn check(
    cluster: &Cluster,
    node: Option<&str>,
    tables: &NodeTables,
    addresses: (IpAddr, IpAddr),
    coverage: &mut Coverage,
) -> Result<(), String> {
    let pair = Pair::new(cluster, node, addresses);
    pair.count(coverage);
    for protocol in PROTOCOLS {
        for port in interesting_ports().take(if protocol.has_ports() { 99 } else { 1 }) {
            pair.judge(tables, &pair.packet(protocol, port), coverage)?;
        }
    }
    Ok(())
}

/// Two addresses of one family, and all that the evaluator says of packets between them. It is
/// asked once: it answers for every protocol and port.
#[derive(Debug)]
pub struct Pair<'a> {
    cluster: &'a Cluster,
    node: Option<&'a str>,
    addresses: (IpAddr, IpAddr),
    flow: Flow<'a>,
    /// `None`: not local.
    sides: [(Direction, Option<Side>); 2],
    from_node: bool,
    to_node: bool,
}

impl<'a> Pair<'a> {
    /// Asks the evaluator. `None` takes all pods as local. The cluster must be [`as_known`].
    pub fn new(cluster: &'a Cluster, node: Option<&'a str>, (src, dst): (IpAddr, IpAddr)) -> Self {
        let family = Family::of(src);
        let flow = Flow { src: Party::at(cluster, src), dst: Party::at(cluster, dst), family };
        let own_node = |party: Party<'_>| match party {
            Party::Pod(pod) => pod.node.clone(),
            _ => None,
        };
        let from_node = match (flow.src, node) {
            (Party::Node(from), Some(node)) => *from.name == *node,
            (Party::Node(from), None) => own_node(flow.dst).is_some_and(|node| node == from.name),
            _ => false,
        };
        let to_node = match flow.dst {
            Party::Node(to) => node.is_none_or(|node| *to.name == *node),
            _ => false,
        };
        let local = |party: Party<'_>| match party {
            // No node is the whole cluster's, and isolates no strangers.
            Party::Address(address) => {
                node.is_some() && cluster.stranger_on(address).map(|on| &**on) == node
            }
            _ => party
                .subject()
                .is_some_and(|pod| node.is_none_or(|n| pod.node.as_deref() == Some(n))),
        };
        let asked = [(Direction::Egress, flow.src), (Direction::Ingress, flow.dst)];
        let sides = asked.map(|(direction, subject)| {
            (direction, local(subject).then(|| side(cluster, &flow, direction)))
        });
        Self { cluster, node, addresses: (src, dst), flow, sides, from_node, to_node }
    }

    /// A packet from the one to the other.
    pub fn packet(&self, protocol: Protocol, port: u16) -> Packet {
        let (src, dst) = self.addresses;
        let (from_node, to_node) = (self.from_node, self.to_node);
        Packet { src, dst, protocol, port, from_node, to_node }
    }

    /// What the evaluator says of a packet, per direction (egress, ingress); `None`: not local.
    pub fn verdicts(&self, packet: &Packet) -> [Option<Verdict>; 2] {
        let of = |side: &Side| side.verdict(packet.protocol, packet.port);
        self.sides.each_ref().map(|(_, side)| side.as_ref().map(of))
    }

    /// Holds the tables to the evaluator for one packet; what they say.
    pub fn judge(
        &self,
        tables: &NodeTables,
        packet: &Packet,
        coverage: &mut Coverage,
    ) -> Result<Decision, String> {
        let decision = tables.decide(packet);
        for (direction, expected) in &self.sides {
            let found = match direction {
                Direction::Egress => decision.egress,
                Direction::Ingress => decision.ingress,
            };
            let Some(expected) = expected else {
                if let Some(verdict) = found {
                    return Err(format!("{packet:?} {direction}: not local but {verdict:?}"));
                }
                continue;
            };
            // Whose address somebody was given stands in the tables; nobody else is closed here.
            let strangers = [SubjectId::STRANGER, SubjectId::CLOSED];
            let subject = tables.subject_of(packet, *direction);
            let stranger = subject.is_some_and(|subject| strangers.contains(&subject));
            if stranger != expected.stranger_on.is_some() {
                return Err(format!("{packet:?} {direction}: stranger {stranger}: {expected:#?}"));
            }
            compare(expected, found, packet)
                .and_then(|()| name_of_rule(expected, found, tables, packet))
                .map_err(|error| format!("{packet:?} {direction}: {error}"))?;
            count_entry(self.cluster, tables, *direction, packet, found, coverage);
        }
        Ok(decision)
    }

    /// Counts what kind of pair it is.
    pub fn count(&self, coverage: &mut Coverage) {
        for (direction, expected) in &self.sides {
            let (cluster, flow) = (self.cluster, &self.flow);
            count_setting(cluster, flow, *direction, expected.as_ref(), self.from_node, coverage);
            self.count_in_ranges(*direction, expected.as_ref(), coverage);
        }
    }
}

impl Pair<'_> {
    /// Counts who it is that has a local address in the node's pod ranges.
    fn count_in_ranges(
        &self,
        direction: Direction,
        expected: Option<&Side>,
        coverage: &mut Coverage,
    ) {
        let Some(node) = self.node else { return };
        let Some(its) = self.cluster.strangers.get(node) else { return };
        let Strangers { ranges, released, nameless } = its;
        let (src, dst) = self.addresses;
        let (address, party) = match direction {
            Direction::Egress => (src, self.flow.src),
            Direction::Ingress => (dst, self.flow.dst),
        };
        let mut count = |kind| *coverage.entry(kind).or_default() += 1;
        if nameless.contains(&address) && expected.is_some_and(|it| it.stranger_on.is_some()) {
            let inside = ranges.contains(address);
            count(if inside { "nameless, in pod ranges" } else { "nameless, elsewhere" });
        }
        if !ranges.contains(address) {
            return;
        }
        let ended = |pod: &Pod| pod.phase == Phase::Terminated && pod.ips.contains(&address);
        if self.cluster.pods.values().any(ended) && self.cluster.pod_by_ip(address).is_none() {
            count("pod ranges: a pod that has ended");
        }
        let stranger = expected.is_some_and(|side| side.stranger_on.is_some());
        match (party, direction) {
            (_, Direction::Egress) if stranger => count("stranger sends"),
            (_, Direction::Ingress) if stranger => count("stranger is sent to"),
            (Party::Address(_), _) if released.contains(&address) => count("pod ranges: let go"),
            (Party::Address(_), Direction::Ingress) if self.from_node => {
                count("stranger hears its own node");
            }
            (Party::Pod(_), _) if expected.is_none() => count("pod ranges: a pod of another node"),
            (Party::Pod(_), _) if expected.is_some_and(Side::is_isolated) => {
                count("pod ranges: a pod, isolated");
            }
            (Party::Pod(_), _) => count("pod ranges: a pod, open"),
            (Party::Node(_), _) => count("pod ranges: the node itself"),
            (Party::Address(_), _) => {}
        }
    }
}

fn compare(expected: &Side, found: Option<TableVerdict>, packet: &Packet) -> Result<(), String> {
    let passes = match expected.verdict(packet.protocol, packet.port) {
        Verdict::Allowed => true,
        Verdict::Denied => false,
        Verdict::Unknown => return Err(format!("evaluator does not know: {:?}", expected.missing)),
    };
    if passes == found.is_none_or(|verdict| verdict.allow) {
        Ok(())
    } else {
        Err(format!("tables say {found:?}, evaluator says passes={passes}: {expected:#?}"))
    }
}

/// The rule that the tables name must be one that the evaluator says decided it.
fn name_of_rule(
    expected: &Side,
    found: Option<TableVerdict>,
    tables: &NodeTables,
    packet: &Packet,
) -> Result<(), String> {
    let Some(verdict) = found else { return Ok(()) };
    // Explaining is slow; what holds for the first and the last port of each rule holds for all.
    if ![0, 53, 80, 443, 8080].contains(&packet.port) {
        return Ok(());
    }
    let explained = expected.explain(Question::Port(packet.protocol, Some(packet.port)));
    let rules = if verdict.allow { explained.allowed_by } else { explained.denied_by };
    let named = verdict.rule.map(|id| tables.rules.get(&id).ok_or(format!("no rule {id:?}")));
    let fits = match named.transpose()? {
        Some(rule) => rules.contains(rule),
        None => rules.is_empty(),
    };
    if fits { Ok(()) } else { Err(format!("{verdict:?} is not one of {rules:?}")) }
}

fn count_setting(
    cluster: &Cluster,
    flow: &Flow<'_>,
    direction: Direction,
    expected: Option<&Side>,
    from_node: bool,
    coverage: &mut Coverage,
) {
    let mut count = |kind| *coverage.entry(kind).or_default() += 1;
    let Some(side) = expected else { return count("not local") };
    match side.exempt {
        Some(Exempt::Itself) => return count("loopback"),
        Some(Exempt::OwnNode) => return count("from own node"),
        _ => {}
    }
    let (subject, peer) = match direction {
        Direction::Egress => (flow.src, flow.dst),
        Direction::Ingress => (flow.dst, flow.src),
    };
    if side.rules.is_empty()
        && !side.is_isolated()
        && !(from_node && direction == Direction::Ingress)
    {
        count("open");
    }
    if flow.family == Family::V6 && side.is_isolated() {
        count("IPv6");
    }
    let address = |party: Party<'_>| party.address(flow.family);
    let claims = |address| {
        cluster.pods.values().filter(|pod| pod.is_subject() && pod.ips.contains(&address)).count()
    };
    if [subject, peer].into_iter().filter_map(address).any(|address| claims(address) > 1) {
        count("contested address");
    }
    let host_network =
        |address| cluster.pods.values().any(|pod| pod.host_network && pod.ips.contains(&address));
    let by_block = side.rules.iter().any(|outcome| outcome.peers.is_yes());
    match peer {
        Party::Node(_) if by_block => count("node in a block"),
        Party::Pod(_) if by_block => count("pod in a block"),
        _ => {}
    }
    if address(peer).is_some_and(host_network) && side.is_isolated() {
        count("hostNetwork pod");
    }
    for outcome in &side.rules {
        let matched = outcome.peers.is_yes() && !outcome.ports.is_empty();
        if outcome.dry_run && matched {
            count("dry run would have matched");
        } else if outcome.action == Action::Pass && matched && outcome.rule.tier == Tier::Admin {
            count("passed on");
        }
        if let Match::No(reasons) = &outcome.peers
            && reasons.iter().any(|reason| matches!(reason, Reason::Excepted { .. }))
        {
            count("hole of an except");
        }
    }
}

fn count_entry(
    cluster: &Cluster,
    tables: &NodeTables,
    direction: Direction,
    packet: &Packet,
    found: Option<TableVerdict>,
    coverage: &mut Coverage,
) {
    let Some(verdict) = found else { return };
    let mut count = |kind| *coverage.entry(kind).or_default() += 1;
    let (local, remote) = match direction {
        Direction::Egress => (packet.src, packet.dst),
        Direction::Ingress => (packet.dst, packet.src),
    };
    if !packet.protocol.has_ports() {
        count("portless protocol");
    }
    let Some(subject) = tables.subjects.get(&(direction, local)) else { return };
    let found = tables.lookup(*subject, remote, packet.protocol, packet.port);
    let Some((key, _)) = found else {
        return count("denied, no entry");
    };
    let Peer { own, group } = tables.peer(remote);
    let has = |peer| {
        let mut rows = tables.verdicts.keys();
        rows.any(|key| key.subject == *subject && key.peer == peer)
    };
    let (own, group) = (has(PeerKey::Own(own)), has(PeerKey::Group(group)));
    let net = has(PeerKey::Net(tables.net(remote)));
    count(match key.peer {
        PeerKey::Own(_) if group || net => "own row before a group's or net's",
        PeerKey::Own(_) => "own row",
        PeerKey::Group(_) if own => "row of a group, after the peer's own",
        PeerKey::Group(_) => "row of a group",
        PeerKey::Net(_) if own || group => "row of a net, after another",
        PeerKey::Net(_) => "row of a net",
        PeerKey::Any if own || group || net => "row for anybody, after another",
        PeerKey::Any => "row for anybody",
    });
    count(match (verdict.allow, verdict.rule, key.ports) {
        (true, None, _) => "allowed by default of a tier",
        (false, None, _) => "denied by default of a tier",
        (false, Some(_), _) => "denied by a Deny rule",
        (true, _, PortKey::Port(..)) => "allowed by exact port",
        (true, _, PortKey::Range(..)) => "allowed by range",
        (true, _, PortKey::AnyPort(_)) => "allowed by any port",
        (true, _, PortKey::AnyProtocol) => "allowed by any protocol",
    });
    let rule = verdict.rule.and_then(|id| tables.rules.get(&id)).and_then(|name| {
        let policy = cluster.policies.get(&(name.tier, name.policy.clone()))?;
        policy.rules(direction)?.get(usize::try_from(name.number).ok()? - 1)
    });
    let Some(rule) = rule else { return };
    let named = |spec: &PortSpec| matches!(spec.port, PortMatch::Named(_));
    let broad = rule.peers.iter().any(|peer| Asked::of(peer).can_be_broad());
    let all_broad = broad && rule.peers.iter().all(|peer| Asked::of(peer).can_be_broad());
    if matches!(key.peer, PeerKey::Own(_)) && broad {
        let tier = verdict.rule.and_then(|id| tables.rules.get(&id)).map(|rule| rule.tier);
        if tier != Some(Tier::NetworkPolicy) {
            count("whole namespace or large block, in order");
        } else if all_broad && !rule.ports.iter().any(named) {
            // Alone it would have been a group's or a net's row.
            count("whole namespace or large block, after an Admin policy");
        }
    }
    if !rule.ports.is_empty() && rule.ports.iter().all(named) {
        count(match direction {
            Direction::Ingress => "named port, ingress",
            Direction::Egress if rule.peers.is_empty() => "named port, egress, for anybody",
            Direction::Egress => "named port, egress",
        });
    }
}

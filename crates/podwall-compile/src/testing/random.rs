//! What may a cluster look like, as odd as possible in as little space as possible?
//!
//! Few names, labels, addresses and ports, so that they meet: pods share addresses, blocks end
//! inside pod ranges, port names stand for several numbers, namespaces are stated, implied, absent.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use podwall_policy::address::{AddressRange, AddressSet, IpBlock};
use podwall_policy::cluster::{Cluster, Strangers};
use podwall_policy::label::{Labels, METADATA_NAME};
use podwall_policy::object::{Name, Namespace, Node, Owner, Phase, Pod};
use podwall_policy::policy::{Action, NamespaceScope, Peer, PodScope, Policy, Rule, Tier};
use podwall_policy::port::{ContainerPort, PortMatch, PortRange, PortSpec, Protocol};
use podwall_policy::selector::{Operator, Requirement, Selector};
use podwall_policy::source::Source;

use super::dice::Dice;

/// The nodes that random clusters have.
pub const NODES: [&str; 3] = ["n1", "n2", "n3"];
const NAMESPACES: [&str; 4] = ["a", "b", "c", "d"];
const KEYS: [&str; 3] = ["app", "env", "x"];
const VALUES: [&str; 3] = ["1", "2", ""];
const PORT_NAMES: [&str; 3] = ["http", "dns", "aux"];
/// Ports that pods declare and rules name.
const PORTS: [u16; 6] = [53, 80, 81, 443, 8080, 65535];
const CIDRS: [&str; 14] = [
    "0.0.0.0/0",
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.0.0/16",
    "10.0.1.0/24",
    "10.0.1.0/30",
    "10.0.1.2/32",
    "10.0.2.2/31",
    "192.0.2.0/24",
    "192.0.2.128/25",
    "::/0",
    "fd00::/16",
    "fd00::1:0/112",
    "2001:db8::/32",
];
const OUTSIDE: [&str; 8] = [
    "192.0.2.7",
    "192.0.2.200",
    "203.0.113.1",
    "10.0.1.3",
    "10.255.255.255",
    "2001:db8::7",
    "fd00::1:3",
    "3fff::1",
];

/// A cluster with none to four namespaces, up to ten pods on up to three nodes, up to seven
/// policies, and in a third of the cases Admin and Baseline tiers.
pub fn cluster(dice: &mut Dice) -> Cluster {
    let mut cluster = Cluster::default();
    for name in NODES {
        if dice.chance(80) {
            cluster.put_node(node(name));
        }
    }
    for name in NAMESPACES {
        if dice.chance(75) {
            cluster.put_namespace(namespace(dice, name));
        }
    }
    for _ in 0..dice.between(1, 10) {
        cluster.put_pod(pod(dice));
    }
    let tiers = dice.chance(33);
    for _ in 0..dice.between(0, 7) {
        cluster.put_policy(policy(dice, tiers));
    }
    for name in NODES {
        if dice.chance(25) {
            cluster.strangers.insert(name.into(), strangers(dice, name, &cluster));
        }
    }
    cluster
}

/// Makes workloads of a cluster's pods: so many in a hundred have an owner, and so many are replicas
/// on two nodes, which nothing but the node tells apart. Some lose their addresses.
pub fn workloads(dice: &mut Dice, cluster: &mut Cluster, owned: usize, replicated: usize) {
    let host_network = dice.chance(40);
    for pod in cluster.pods.values_mut() {
        if dice.chance(owned) {
            let name = *dice.pick(&["x", "y"]);
            pod.owner = Some(Owner { kind: "Deployment".into(), name: name.into() });
        }
        pod.host_network &= host_network;
        if dice.chance(20) {
            pod.ips.clear();
        }
    }
    let pods: Vec<Pod> =
        cluster.pods.values().filter(|_| dice.chance(replicated)).cloned().collect();
    for (number, pod) in (1u8..).zip(pods) {
        for (copy, node) in (0u8..).zip(["n1", "n2"]) {
            let mut replica = pod.clone();
            replica.name.name = format!("{}-{copy}", pod.name.name).into();
            replica.node = Some(node.into());
            if !replica.ips.is_empty() {
                replica.ips = vec![IpAddr::from([10, 0, 70 + copy, number])];
            }
            cluster.put_pod(replica);
        }
        cluster.pods.remove(&pod.name);
    }
    if dice.chance(70) {
        cluster.strangers.clear();
    }
}

/// What a node isolates until it knows whose it is: mostly where its pods are, sometimes with
/// addresses of other pods and its own.
pub fn strangers(dice: &mut Dice, node: &str, cluster: &Cluster) -> Strangers {
    let number = NODES.iter().position(|its| *its == node).unwrap_or_default() + 1;
    let own = self::node(node).addresses;
    let mut ranges = AddressSet::empty();
    for _ in 0..dice.between(0, 3) {
        let text = match dice.below(8) {
            0..3 => format!("10.0.{number}.0/{}", dice.between(24, 31)),
            3..5 => format!("fd00::{number}:0/{}", dice.between(112, 127)),
            5 => format!("10.0.{number}.{}/32", dice.between(1, 6)),
            6 => format!("{}/32", own[0]),
            _ => format!("{}/128", own[1]),
        };
        let net: Result<IpNet, _> = text.parse();
        ranges = net.map_or(ranges.clone(), |net| ranges.union(&AddressSet::from(net)));
    }
    let released = dice.some(0, 2, |dice| match in_ranges(dice, &ranges) {
        Some(address) if dice.chance(80) => address,
        _ => address(dice, cluster),
    });
    // Nobody gives a node's own address to a pod, or one of another node's.
    let elsewhere = IpAddr::from([10, 0, 30, u8::try_from(number).unwrap_or_default()]);
    let nameless = dice.some(0, 2, |dice| match in_ranges(dice, &ranges) {
        Some(address) if dice.chance(50) && !own.contains(&address) => address,
        _ => elsewhere,
    });
    let [released, nameless] = [released, nameless].map(|all| all.into_iter().collect());
    Strangers { ranges, released, nameless }
}

/// One of the first addresses of some range, which are those that pods have.
pub fn in_ranges(dice: &mut Dice, ranges: &AddressSet) -> Option<IpAddr> {
    let range = ranges.ranges().get(dice.below(ranges.ranges().len()))?;
    let (first, last) = range.bits();
    let bits = last.min(first + u128::try_from(dice.below(9)).unwrap_or_default());
    Some(AddressRange::from_bits(range.family(), bits, bits)?.first())
}

/// A node with an address of each family, inside the blocks that rules name.
pub fn node(name: &str) -> Node {
    let number = NODES.iter().position(|its| *its == name).unwrap_or_default() + 1;
    let addresses = [format!("10.0.9.{number}"), format!("fd00::9:{number}")];
    Node {
        name: name.into(),
        labels: Labels::default(),
        addresses: addresses.iter().filter_map(|text| text.parse().ok()).collect(),
        pod_cidrs: Vec::new(),
        source: None,
    }
}

/// A namespace, sometimes one whose labels nobody states.
pub fn namespace(dice: &mut Dice, name: &str) -> Namespace {
    if dice.chance(10) { Namespace::implied(name) } else { Namespace::new(name, &labels(dice)) }
}

/// The name of some namespace.
pub fn namespace_name(dice: &mut Dice) -> &'static str {
    NAMESPACES[dice.below(NAMESPACES.len())]
}

fn labels(dice: &mut Dice) -> Labels {
    dice.some(0, 2, |dice| (*dice.pick(&KEYS), *dice.pick(&VALUES))).into_iter().collect()
}

/// The name of some pod.
pub fn pod_name(dice: &mut Dice) -> Name {
    Name::new(namespace_name(dice), format!("p{}", dice.below(5)))
}

/// A pod with no, one or two addresses, which another pod may have too.
pub fn pod(dice: &mut Dice) -> Pod {
    let name = pod_name(dice);
    let mut pod = Pod::new(name.namespace, name.name, labels(dice));
    let node = dice.below(NODES.len());
    pod.node = (!dice.chance(5)).then(|| NODES[node].into());
    pod.host_network = dice.chance(10);
    pod.phase = if dice.chance(10) { Phase::Terminated } else { Phase::Alive };
    let number = dice.between(1, 6);
    let v4 = format!("10.0.{}.{number}", node + 1);
    let v6 = format!("fd00::{}:{number}", node + 1);
    let texts = match dice.below(10) {
        0 => vec![],
        1..5 => vec![v4],
        5..7 => vec![v6],
        _ => vec![v4, v6],
    };
    pod.ips = texts.iter().filter_map(|text| text.parse().ok()).collect();
    if pod.host_network {
        pod.ips = self::node(NODES[node]).addresses;
    }
    pod.ports = dice.some(0, 4, |dice| ContainerPort {
        name: dice.chance(90).then(|| Arc::from(*dice.pick(&PORT_NAMES))),
        number: *dice.pick(&PORTS),
        protocol: *dice.pick(&[Protocol::TCP, Protocol::TCP, Protocol::UDP]),
    });
    pod
}

/// The tier and name of some policy.
pub fn policy_name(dice: &mut Dice, tiers: bool) -> (Tier, Name) {
    let name = format!("q{}", dice.below(5));
    if tiers && dice.chance(50) {
        (*dice.pick(&[Tier::Admin, Tier::Baseline]), Name::new("", name))
    } else {
        (Tier::NetworkPolicy, Name::new(namespace_name(dice), name))
    }
}

/// A policy; with `tiers` half of them are of another tier than NetworkPolicy.
pub fn policy(dice: &mut Dice, tiers: bool) -> Policy {
    let (tier, name) = policy_name(dice, tiers);
    let namespace = name.namespace.clone();
    let pods = if dice.chance(50) { Selector::everything() } else { selector(dice, 1) };
    let mut policy = Policy::network_policy(namespace.clone(), name.name, pods);
    policy.tier = tier;
    if tier != Tier::NetworkPolicy {
        policy.subject.namespaces = NamespaceScope::Matching(selector(dice, 1));
        policy.priority = u16::try_from(dice.below(3)).unwrap_or_default();
        policy.dry_run = dice.chance(15);
    }
    let types = dice.below(5);
    policy.ingress = (types > 1).then(|| rules(dice, tier, &namespace));
    policy.egress = (types < 4).then(|| rules(dice, tier, &namespace));
    policy
}

fn rules(dice: &mut Dice, tier: Tier, namespace: &Arc<str>) -> Vec<Rule> {
    let most = if dice.chance(15) { 0 } else { 3 };
    dice.some(most.min(1), most, |dice| Rule {
        action: if tier == Tier::NetworkPolicy {
            Action::Allow
        } else {
            *dice.pick(&[Action::Allow, Action::Deny, Action::Pass])
        },
        peers: if dice.chance(20) {
            Vec::new()
        } else {
            dice.some(1, 2, |dice| peer(dice, namespace))
        },
        ports: dice.some(0, 2, port),
        source: dice.chance(50).then(|| Source::new("f.yaml", 1, 1)),
    })
}

fn peer(dice: &mut Dice, namespace: &Arc<str>) -> Peer {
    if dice.chance(40) {
        return Peer::Block(block(dice));
    }
    let namespaces = if dice.chance(50) && !namespace.is_empty() {
        NamespaceScope::Own(namespace.clone())
    } else {
        NamespaceScope::Matching(selector(dice, 2))
    };
    Peer::Pods(PodScope { namespaces, pods: selector(dice, 2) })
}

fn block(dice: &mut Dice) -> IpBlock {
    let net = |text: &&str| text.parse::<IpNet>().unwrap_or_default();
    let cidr = net(dice.pick(&CIDRS));
    let inside: Vec<IpNet> =
        CIDRS.iter().map(net).filter(|inner| *inner != cidr && cidr.contains(inner)).collect();
    let except =
        if inside.is_empty() { Vec::new() } else { dice.some(0, 2, |dice| *dice.pick(&inside)) };
    IpBlock::new(cidr, except)
}

fn port(dice: &mut Dice) -> PortSpec {
    let protocol =
        *dice.pick(&[Protocol::TCP, Protocol::TCP, Protocol::TCP, Protocol::UDP, Protocol::SCTP]);
    let port = match dice.below(10) {
        0 => PortMatch::Any,
        1..4 => PortMatch::Range(PortRange::one(*dice.pick(&PORTS))),
        4..6 => {
            let (a, b) = (*dice.pick(&PORTS), *dice.pick(&PORTS));
            PortMatch::Range(PortRange { first: a.min(b), last: a.max(b) })
        }
        6 => PortMatch::Range(PortRange { first: 1, last: u16::MAX }),
        _ => PortMatch::Named(Arc::from(*dice.pick(&PORT_NAMES))),
    };
    PortSpec { protocol, port }
}

fn selector(dice: &mut Dice, most: usize) -> Selector {
    let requirements = dice.some(0, most, |dice| {
        if dice.chance(8) {
            let name = dice.pick(&NAMESPACES);
            let operator = Operator::Equals((*name).into());
            return Requirement { key: METADATA_NAME.into(), operator };
        }
        let key = Arc::from(*dice.pick(&KEYS));
        let values = |dice: &mut Dice| -> BTreeSet<Arc<str>> {
            dice.some(1, 2, |dice| Arc::from(*dice.pick(&VALUES))).into_iter().collect()
        };
        let operator = match dice.below(10) {
            0..5 => Operator::Equals((*dice.pick(&VALUES)).into()),
            5 => Operator::In(values(dice)),
            6 => Operator::NotIn(values(dice)),
            7 | 8 => Operator::Exists,
            _ => Operator::DoesNotExist,
        };
        Requirement { key, operator }
    });
    Selector { requirements }
}

/// An address of a pod or node of the cluster, one that may be a pod's, or one outside.
pub fn address(dice: &mut Dice, cluster: &Cluster) -> IpAddr {
    let strangers: Vec<_> = cluster.strangers.values().collect();
    if !strangers.is_empty() && dice.chance(30) {
        let Strangers { ranges, nameless, .. } = *dice.pick(&strangers);
        let nameless: Vec<IpAddr> = nameless.iter().copied().collect();
        if !nameless.is_empty() && dice.chance(30) {
            return *dice.pick(&nameless);
        }
        if let Some(address) = in_ranges(dice, ranges) {
            return address;
        }
    }
    let pods = cluster.pods.values().flat_map(|pod| &pod.ips);
    let nodes = cluster.nodes.values().flat_map(|node| &node.addresses);
    let known: Vec<IpAddr> = pods.chain(nodes).copied().collect();
    let outside = || OUTSIDE.iter().filter_map(|text| text.parse().ok()).collect::<Vec<IpAddr>>();
    if known.is_empty() || dice.chance(25) { *dice.pick(&outside()) } else { *dice.pick(&known) }
}

/// Ports at which rules may change their mind, and their neighbours.
pub fn interesting_ports() -> impl Iterator<Item = u16> {
    let around = PORTS.iter().flat_map(|port| [port - 1, *port, port.saturating_add(1)]);
    [0, 1].into_iter().chain(around).collect::<BTreeSet<u16>>().into_iter()
}

/// Protocols with and without ports.
pub const PROTOCOLS: [Protocol; 5] =
    [Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol::ICMP, Protocol(47)];

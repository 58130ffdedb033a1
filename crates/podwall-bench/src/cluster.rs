//! What does the cluster look like in which everything is measured?
//!
//! ```text
//!   ns-0       127 pairs of pods, one of each pair on node-0, one on node-1
//!                pair 0  client      pair 1  server: near (node-0) and far (node-1)
//!                pair 2  stranger, whom no policy lets to the servers
//!   ns-1 …     12 pairs each, the same two nodes           250 pods a node
//!   ns-12 …    pods of other nodes, 100 to a namespace, as many as are asked for
//! ```
//!
//! Pods come as replicas: three of one `app` on each node, whose labels are the same. Policies select
//! apps of their namespace, and name apps of another, a whole namespace, or several. Their sizes are
//! those that were published of a real cluster of 13,678 policies: a policy selects 6 local pods in
//! the median and 13 in the mean, names 2 and 35 peer pods, one CIDR and one port; the heaviest is
//! 127 × 3,578. They are drawn from log-normal distributions with these medians and means. The same
//! seed gives the same cluster. A policy selects as many pods on either node, so both have the same
//! work.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use podwall_compile::testing::dice::Dice;
use podwall_policy::address::IpBlock;
use podwall_policy::cluster::Cluster;
use podwall_policy::label::Labels;
use podwall_policy::object::{Namespace, Pod};
use podwall_policy::policy::{NamespaceScope, Peer, PodScope, Policy, Rule};
use podwall_policy::port::{PortMatch, PortRange, PortSpec, Protocol};
use podwall_policy::selector::{Operator, Selector};

/// The nodes that are built; all others exist only as addresses.
pub(crate) const NODES: [&str; 2] = ["node-0", "node-1"];

/// Pods of each of the two nodes, the upper end of what a kubelet takes by custom.
pub(crate) const LOCAL: usize = 250;

/// The heaviest policy that was seen: local pods and peer pods.
const HEAVIEST: (usize, usize) = (127, 3578);

/// Pairs in the first namespace, from which the heaviest policy needs all.
const FIRST: usize = HEAVIEST.0;
/// Pairs in the other namespaces of the two nodes.
const OTHERS: usize = 12;
/// Pods of another node's namespace.
const REMOTE: usize = 100;
/// Replicas of an app that are on one node.
const REPLICAS: usize = 3;

/// The apps of the measured pods, in the first namespace.
pub(crate) const CLIENTS: usize = 0;
pub(crate) const SERVERS: usize = 1;

/// The port on which the servers answer, for TCP and UDP.
pub(crate) const PORT: u16 = 7000;

/// The measured pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seat {
    /// Opens connections; on the first node.
    Client,
    /// Answers, on the client's node.
    Near,
    /// Answers, on the other node.
    Far,
    /// Is denied; on the first node.
    Stranger,
}

impl Seat {
    pub(crate) const ALL: [Self; 4] = [Self::Client, Self::Near, Self::Far, Self::Stranger];

    fn number(self) -> usize {
        match self {
            Self::Client => 0,
            Self::Near => 2,
            Self::Far => 3,
            Self::Stranger => 4,
        }
    }

    /// The index in [`NODES`] of its node.
    pub(crate) fn node(self) -> usize {
        self.number() % 2
    }

    /// Its address.
    pub(crate) fn address(self) -> Ipv4Addr {
        address(self.number())
    }
}

/// How much of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Pods of the cluster, those of the two nodes included; at least 500, at most 200,000.
    pub pods: usize,
    /// Policies, each of which selects pods of both nodes.
    pub policies: usize,
}

/// A policy before it is written down in some engine's language.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Its number, and the namespace of the pods that it selects.
    pub number: usize,
    pub namespace: usize,
    /// The apps that it selects.
    pub apps: Vec<usize>,
    pub peers: Peers,
    /// A block of the outside.
    pub block: Option<(Ipv4Addr, u8)>,
    /// A port, for TCP; the first policy's for UDP too. `None` for every port and protocol.
    pub port: Option<u16>,
    pub ingress: bool,
    pub egress: bool,
}

impl Plan {
    /// For how many of TCP, UDP its port is meant.
    pub(crate) fn protocols(&self) -> usize {
        if self.number == 0 { 2 } else { 1 }
    }
}

/// Whom a policy names.
#[derive(Clone, Debug)]
pub(crate) enum Peers {
    /// Apps of a namespace.
    Apps(usize, Vec<usize>),
    /// All pods of namespaces.
    Namespaces(Vec<usize>),
}

impl Peers {
    /// The numbers of the pods that are meant, in a cluster of `pods`.
    pub(crate) fn numbers(&self, pods: usize) -> Vec<usize> {
        let mut numbers = match self {
            Self::Apps(namespace, apps) => {
                apps.iter().flat_map(|app| pods_of(*namespace, *app)).collect()
            }
            Self::Namespaces(all) => all.iter().flat_map(|n| members(*n)).collect::<Vec<_>>(),
        };
        numbers.retain(|number| *number < pods);
        numbers
    }
}

/// The numbers of a namespace's pods.
fn members(namespace: usize) -> std::ops::Range<usize> {
    match namespace {
        0 => 0..2 * FIRST,
        n if n < local_namespaces() => {
            let from = 2 * (FIRST + (n - 1) * OTHERS);
            from..(from + 2 * OTHERS).min(2 * LOCAL)
        }
        n => {
            let from = 2 * LOCAL + (n - local_namespaces()) * REMOTE;
            from..from + REMOTE
        }
    }
}

/// The app of a pod. Of the two nodes, neighbours in number are of different ones.
fn app_of(number: usize) -> usize {
    let index = number - members(namespace_of(number)).start;
    if number < 2 * LOCAL {
        let pair = index / 2;
        pair / (REPLICAS * REPLICAS) * REPLICAS + pair % REPLICAS
    } else {
        index / REPLICAS
    }
}

fn pods_of(namespace: usize, app: usize) -> impl Iterator<Item = usize> {
    members(namespace).filter(move |number| app_of(*number) == app)
}

/// How many apps a namespace has.
fn apps_in(namespace: usize) -> usize {
    members(namespace).map(app_of).max().map_or(0, |last| last + 1)
}

/// The pods of an app that are on one of the two nodes.
pub(crate) fn local_pods(plan: &Plan, node: usize) -> Vec<usize> {
    let all = plan.apps.iter().flat_map(|app| pods_of(plan.namespace, *app));
    all.filter(|number| number % 2 == node).collect()
}

/// The address of a pod.
pub(crate) fn address(number: usize) -> Ipv4Addr {
    let (high, low) = (number / LOCAL, number % LOCAL + 2);
    let byte = |n: usize| u8::try_from(n).unwrap_or(u8::MAX);
    Ipv4Addr::new(10, byte(high / 250), byte(high % 250), byte(low))
}

/// The namespace of a pod.
fn namespace_of(number: usize) -> usize {
    let pair = number / 2;
    if pair < FIRST {
        0
    } else if number < 2 * LOCAL {
        1 + (pair - FIRST) / OTHERS
    } else {
        local_namespaces() + (number - 2 * LOCAL) / REMOTE
    }
}

fn local_namespaces() -> usize {
    1 + (LOCAL - FIRST).div_ceil(OTHERS)
}

/// The policies of a shape. The first lets the client to the servers and nobody else; the heaviest
/// is among the first hundred.
pub(crate) fn plans(shape: &Shape) -> Vec<Plan> {
    let mut dice = Dice::seeded(20_261_121);
    let first = Plan {
        number: 0,
        namespace: 0,
        apps: vec![CLIENTS, SERVERS],
        peers: Peers::Apps(0, vec![CLIENTS, SERVERS]),
        block: None,
        port: Some(PORT),
        ingress: true,
        egress: true,
    };
    let rest = (1..).map(|number| plan(&mut dice, shape, number));
    std::iter::once(first).chain(rest).take(shape.policies).collect()
}

/// One policy of the shape's sizes.
pub(crate) fn plan(dice: &mut Dice, shape: &Shape, number: usize) -> Plan {
    let (local, peers) = if number == 50 {
        HEAVIEST
    } else {
        (log_normal(dice, 6.0, 13.0, HEAVIEST.0).max(1), log_normal(dice, 2.0, 35.0, HEAVIEST.1))
    };
    let apps = local.div_ceil(REPLICAS);
    let pair = if local > OTHERS { dice.below(FIRST) } else { dice.below(LOCAL) };
    let namespace = namespace_of(2 * pair);
    let apps = sample(dice, 0, apps_in(namespace), apps);
    let other = namespace_of(dice.below(shape.pods));
    let peers = match peers {
        few if few <= REMOTE / 2 => {
            Peers::Apps(other, sample(dice, 0, apps_in(other), few.div_ceil(REPLICAS)))
        }
        many => {
            let last = namespace_of(shape.pods - 1);
            Peers::Namespaces(sample(dice, 0, last + 1, many.div_ceil(REMOTE)))
        }
    };
    let byte = |n: usize| u8::try_from(n).unwrap_or(u8::MAX);
    let block =
        Ipv4Addr::new(byte(dice.between(11, 90)), byte(dice.below(256)), byte(dice.below(256)), 0);
    let kind = dice.below(10);
    Plan {
        number,
        namespace,
        apps,
        peers,
        block: Some((block, 24)),
        port: u16::try_from(dice.between(1, 30_000)).ok(),
        ingress: kind < 8,
        egress: kind >= 6,
    }
}

/// A number with this median and mean, at most `most`. The normal one is made of twelve equal ones.
fn log_normal(dice: &mut Dice, median: f64, mean: f64, most: usize) -> usize {
    let sigma = (2.0 * (mean / median).ln()).sqrt();
    let sum: usize = (0..12).map(|_| dice.below(10_001)).sum();
    let normal = sum as f64 / 10_000.0 - 6.0;
    // Small positive numbers: the conversion saturates and cannot surprise.
    ((median * (sigma * normal).exp()).round() as usize).min(most)
}

/// `count` different numbers of `size` from `from` on, ascending.
fn sample(dice: &mut Dice, from: usize, size: usize, count: usize) -> Vec<usize> {
    let mut left: Vec<usize> = Vec::new();
    if count * 4 < size {
        while left.len() < count {
            let number = from + dice.below(size);
            if !left.contains(&number) {
                left.push(number);
            }
        }
    } else {
        left = (from..from + size).collect();
        while left.len() > count {
            left.swap_remove(dice.below(left.len()));
        }
    }
    left.sort_unstable();
    left
}

/// The objects of a shape, as Kubernetes has them.
pub(crate) fn cluster(shape: &Shape) -> Cluster {
    let mut cluster = Cluster::default();
    for (name, labels) in namespaces(shape) {
        cluster.put_namespace(Namespace::new(name, &labels));
    }
    for number in 0..shape.pods {
        cluster.put_pod(pod(number));
    }
    for plan in plans(shape) {
        cluster.put_policy(policy(&plan));
    }
    cluster
}

/// The names and labels of all namespaces.
pub(crate) fn namespaces(shape: &Shape) -> impl Iterator<Item = (String, Labels)> {
    (0..=namespace_of(shape.pods.max(2 * LOCAL))).map(|number| {
        let labels = [("team", format!("t{}", number % 20))].into_iter().collect();
        (format!("ns-{number}"), labels)
    })
}

/// A pod by its number.
pub(crate) fn pod(number: usize) -> Pod {
    let labels: Labels = [("app", format!("a{}", app_of(number)))].into_iter().collect();
    let mut pod = Pod::new(format!("ns-{}", namespace_of(number)), format!("pod-{number}"), labels);
    let node = if number < 2 * LOCAL { number % 2 } else { number / LOCAL };
    pod.node = Some(format!("node-{node}").into());
    pod.ips = vec![IpAddr::V4(address(number))];
    pod
}

/// A plan as a NetworkPolicy.
pub(crate) fn policy(plan: &Plan) -> Policy {
    let among = |key: &str, word: &str, numbers: &[usize]| {
        let values = numbers.iter().map(|n| Arc::from(format!("{word}{n}"))).collect();
        Selector::everything().and(key, Operator::In(values))
    };
    let named = |namespaces: &[usize]| {
        NamespaceScope::Matching(among("kubernetes.io/metadata.name", "ns-", namespaces))
    };
    let scope = match &plan.peers {
        Peers::Apps(_, apps) if apps.is_empty() => None,
        Peers::Apps(namespace, apps) => {
            Some(PodScope { namespaces: named(&[*namespace]), pods: among("app", "a", apps) })
        }
        Peers::Namespaces(all) => {
            Some(PodScope { namespaces: named(all), pods: Selector::everything() })
        }
    };
    let mut peers: Vec<Peer> = scope.into_iter().map(Peer::Pods).collect();
    if let Some((address, length)) = plan.block
        && let Ok(cidr) = format!("{address}/{length}").parse()
    {
        peers.push(Peer::Block(IpBlock::new(cidr, [])));
    }
    let protocols = [Protocol::TCP, Protocol::UDP].into_iter().take(plan.protocols());
    let ports = plan.port.into_iter().flat_map(|port| {
        let port = PortMatch::Range(PortRange::one(port));
        protocols.clone().map(move |protocol| PortSpec { protocol, port: port.clone() })
    });
    let rule = Rule::allow(peers, ports.collect());
    let mut policy = Policy::network_policy(
        format!("ns-{}", plan.namespace),
        format!("policy-{}", plan.number),
        among("app", "a", &plan.apps),
    );
    policy.ingress = plan.ingress.then(|| vec![rule.clone()]);
    policy.egress = plan.egress.then(|| vec![rule]);
    policy
}

#[cfg(test)]
mod tests {
    use podwall_compile::compiler::compile;
    use podwall_compile::tables::Packet;

    use super::*;

    #[test]
    fn sizes_are_those_that_were_published() {
        let shape = Shape { pods: 100_000, policies: 10_000 };
        let plans = plans(&shape);
        let spread = |mut sizes: Vec<usize>| {
            sizes.sort_unstable();
            let mean = sizes.iter().sum::<usize>() as f64 / sizes.len() as f64;
            (sizes[sizes.len() / 2], mean, *sizes.last().unwrap())
        };
        let local = plans.iter().map(|plan| local_pods(plan, 0).len()).collect();
        let (median, mean, most) = spread(local);
        assert!((5..=7).contains(&median) && (9.0..15.0).contains(&mean), "{median} {mean}");
        assert_eq!(most, 127);
        let peers = plans.iter().map(|plan| plan.peers.numbers(shape.pods).len()).collect();
        let (median, mean, most) = spread(peers);
        assert!((2..=4).contains(&median) && (25.0..45.0).contains(&mean), "{median} {mean}");
        assert!((3200..=3600).contains(&most), "{most}");
    }

    #[test]
    fn the_client_reaches_the_servers_and_the_stranger_does_not() {
        for policies in [1, 200] {
            let cluster = cluster(&Shape { pods: 1000, policies });
            for server in [Seat::Near, Seat::Far] {
                for (source, expected) in [(Seat::Client, true), (Seat::Stranger, false)] {
                    let packet = Packet {
                        src: source.address().into(),
                        dst: server.address().into(),
                        protocol: Protocol::TCP,
                        port: PORT,
                        from_node: false,
                        to_node: false,
                    };
                    let passes = NODES
                        .iter()
                        .all(|node| compile(&cluster, Some(node)).decide(&packet).passes());
                    assert_eq!(passes, expected, "{source:?} to {server:?}, {policies} policies");
                }
            }
        }
    }
}

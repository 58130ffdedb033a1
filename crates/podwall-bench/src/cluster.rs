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
//! Policies have the sizes that were published of a large real cluster: a policy selects 6 local
//! pods in the median and 13 in the mean, names 2 and 35 peer pods, one CIDR and one port; the
//! heaviest is 127 × 3,578. The numbers are drawn from log-normal distributions with these medians
//! and means. Nothing else is random: the same seed gives the same cluster. A policy selects the
//! same number of pods on both nodes, so both have the same work.

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
/// Pods with one `app` label.
const APP: usize = 200;

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
    /// The pairs that it selects.
    pub pairs: Vec<usize>,
    /// The pairs, or the `app`s where there are many, that it names as peers.
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
    Pairs(Vec<usize>),
    Apps(Vec<usize>),
}

impl Peers {
    /// The numbers of the pods that are meant, in a cluster of `pods`.
    pub(crate) fn numbers(&self, pods: usize) -> Vec<usize> {
        match self {
            Self::Pairs(pairs) => pairs
                .iter()
                .flat_map(|pair| [2 * pair, 2 * pair + 1])
                .filter(|n| *n < pods)
                .collect(),
            Self::Apps(apps) => {
                let all = apps.iter().flat_map(|app| (app * APP)..((app + 1) * APP));
                all.filter(|n| *n < pods).collect()
            }
        }
    }
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
        local_namespaces() + (number - 2 * LOCAL) / 100
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
        pairs: vec![0, 1],
        peers: Peers::Pairs(vec![0, 1]),
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
    // A pair has one pod on each node.
    let pair = if local > OTHERS { dice.below(FIRST) } else { dice.below(LOCAL) };
    let namespace = namespace_of(2 * pair);
    let (from, size) = match namespace {
        0 => (0, FIRST),
        n => {
            let from = FIRST + (n - 1) * OTHERS;
            (from, OTHERS.min(LOCAL - from))
        }
    };
    let pairs = sample(dice, from, size, local);
    let peers = match peers {
        few if few <= 64 => Peers::Pairs(sample(dice, 0, shape.pods / 2, few.div_ceil(2))),
        many => Peers::Apps(sample(dice, 0, shape.pods.div_ceil(APP), many.div_ceil(APP))),
    };
    let byte = |n: usize| u8::try_from(n).unwrap_or(u8::MAX);
    let block =
        Ipv4Addr::new(byte(dice.between(11, 90)), byte(dice.below(256)), byte(dice.below(256)), 0);
    let kind = dice.below(10);
    Plan {
        number,
        namespace,
        pairs,
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
    let labels: Labels =
        [("id", format!("i{}", number / 2)), ("app", format!("a{}", number / APP))]
            .into_iter()
            .collect();
    let mut pod = Pod::new(format!("ns-{}", namespace_of(number)), format!("pod-{number}"), labels);
    let node = if number < 2 * LOCAL { number % 2 } else { number / LOCAL };
    pod.node = Some(format!("node-{node}").into());
    pod.ips = vec![IpAddr::V4(address(number))];
    pod
}

/// A plan as a NetworkPolicy.
pub(crate) fn policy(plan: &Plan) -> Policy {
    let among = |key: &str, letter: char, numbers: &[usize]| {
        let values = numbers.iter().map(|n| Arc::from(format!("{letter}{n}"))).collect();
        Selector::everything().and(key, Operator::In(values))
    };
    let pods = match &plan.peers {
        Peers::Pairs(pairs) => among("id", 'i', pairs),
        Peers::Apps(apps) => among("app", 'a', apps),
    };
    let mut peers = Vec::new();
    if !matches!(&plan.peers, Peers::Pairs(pairs) if pairs.is_empty()) {
        let namespaces = NamespaceScope::Matching(Selector::everything());
        peers.push(Peer::Pods(PodScope { namespaces, pods }));
    }
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
        among("id", 'i', &plan.pairs),
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
        let (median, mean, most) = spread(plans.iter().map(|plan| plan.pairs.len()).collect());
        assert!((5..=7).contains(&median) && (9.0..15.0).contains(&mean), "{median} {mean}");
        assert_eq!(most, 127);
        let peers = plans.iter().map(|plan| plan.peers.numbers(shape.pods).len()).collect();
        let (median, mean, most) = spread(peers);
        assert!((2..=4).contains(&median) && (25.0..45.0).contains(&mean), "{median} {mean}");
        assert_eq!(most, 3600);
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

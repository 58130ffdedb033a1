//! What does a large cluster look like to one of its nodes?
//!
//! Published counts (many tiny policies: median 6 local pods, 2 peer pods, 1 CIDR, 1 port) at the
//! upper end of cluster size, so that work per change can be counted and timed.

use podwall_policy::address::IpBlock;
use podwall_policy::cluster::Cluster;
use podwall_policy::label::Labels;
use podwall_policy::object::{Namespace, Pod};
use podwall_policy::policy::{NamespaceScope, Peer, PodScope, Policy, Rule};
use podwall_policy::port::{ContainerPort, PortMatch, PortRange, PortSpec, Protocol};
use podwall_policy::selector::Selector;

use super::dice::Dice;

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Pods of the cluster, at most 200,000.
    pub pods: usize,
    /// Pods of a node; the node that is looked from is [`NODE`].
    pub pods_per_node: usize,
    /// Policies; each selects pods of [`NODE`].
    pub policies: usize,
}

impl Shape {
    /// The size that the compiler is made for.
    pub const LARGE: Self = Self { pods: 100_000, pods_per_node: 250, policies: 10_000 };
}

/// The node that all policies select pods of.
pub const NODE: &str = "node-0";

/// Pods of the node in one of its namespaces.
const LOCAL_PER_NAMESPACE: usize = 12;

/// Kinds of labels that policies select local pods by; each selects one half.
const HALVES: [&str; 6] = ["half-0", "half-1", "half-2", "half-3", "half-4", "half-5"];

/// A cluster of this shape; the same for every run. Pods come in pairs with one label `id` each,
/// which policies name as their peers, and in namespaces `ns-0`, `ns-1`, …
pub fn cluster(shape: &Shape) -> Cluster {
    let mut dice = Dice::seeded(1);
    let mut cluster = Cluster::default();
    let namespaces = shape.pods.div_ceil(100);
    for number in 0..namespaces {
        let labels = [("team", format!("t{}", number % 20))].into_iter().collect();
        cluster.put_namespace(Namespace::new(format!("ns-{number}"), &labels));
    }
    for number in 0..shape.pods {
        cluster.put_pod(pod(&mut dice, shape, number));
    }
    let local_namespaces = shape.pods_per_node.div_ceil(LOCAL_PER_NAMESPACE);
    for number in 0..shape.policies {
        let namespace = number % local_namespaces;
        cluster.put_policy(policy(&mut dice, shape, number, namespace));
    }
    cluster
}

/// The namespace of a pod: those of the first node come a dozen to a namespace.
fn namespace_of(shape: &Shape, number: usize) -> usize {
    if number < shape.pods_per_node {
        number / LOCAL_PER_NAMESPACE
    } else {
        number % shape.pods.div_ceil(100)
    }
}

/// The pod with a number; those below [`Shape::pods_per_node`] are local.
pub fn pod(dice: &mut Dice, shape: &Shape, number: usize) -> Pod {
    let mut labels: Labels =
        [("id", format!("i{}", number / 2)), ("app", format!("a{}", number % 500))]
            .into_iter()
            .collect();
    for half in HALVES {
        labels = labels.with(half, if dice.chance(50) { "yes" } else { "no" });
    }
    let namespace = format!("ns-{}", namespace_of(shape, number));
    let mut pod = Pod::new(namespace, format!("pod-{number}"), labels);
    pod.node = Some(format!("node-{}", number / shape.pods_per_node).into());
    let (high, low) = (number / 250, number % 250 + 2);
    pod.ips = format!("10.{}.{}.{low}", high / 250, high % 250).parse().into_iter().collect();
    pod.ports =
        vec![ContainerPort { name: Some("http".into()), number: 8080, protocol: Protocol::TCP }];
    pod
}

/// A policy of a local namespace that selects one half of its pods.
pub fn policy(dice: &mut Dice, shape: &Shape, number: usize, namespace: usize) -> Policy {
    let half = Selector::labels([(*dice.pick(&HALVES), *dice.pick(&["yes", "no"]))]);
    let mut policy =
        Policy::network_policy(format!("ns-{namespace}"), format!("policy-{number}"), half);
    let kind = dice.below(10);
    if kind < 8 {
        policy.ingress = Some(vec![rule(dice, shape)]);
    }
    if kind >= 6 {
        policy.egress = Some(vec![rule(dice, shape)]);
    }
    policy
}

/// Two pods, a /24 of the outside, one port.
fn rule(dice: &mut Dice, shape: &Shape) -> Rule {
    let id = dice.below(shape.pods / 2);
    let pods = Selector::labels([("id", format!("i{id}"))]);
    let scope = PodScope { namespaces: NamespaceScope::Matching(Selector::everything()), pods };
    let block = format!("{}.{}.{}.0/24", dice.between(11, 90), dice.below(256), dice.below(256));
    let block = block.parse().ok().map(|cidr| Peer::Block(IpBlock::new(cidr, [])));
    let port = u16::try_from(dice.between(1, 20_000)).unwrap_or(1);
    let port = PortSpec { protocol: Protocol::TCP, port: PortMatch::Range(PortRange::one(port)) };
    Rule::allow([Peer::Pods(scope)].into_iter().chain(block).collect(), vec![port])
}

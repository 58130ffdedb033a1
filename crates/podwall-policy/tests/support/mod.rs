//! How do tests say a cluster and a question in a few words?
//!
//! ```text
//!   mk_cluster ── mk_namespace, mk_node, mk_pod, mk_policy(…, mk_rule(peers, ports)) ──▶ Cluster
//!   can(&cluster, "demo/web", "demo/db", tcp(5432)) ──▶ Verdict
//! ```
//!
//! A label list is `app=web,env=prod`, a pod is `NAMESPACE/NAME`, a node is `node/NAME`, anything
//! else that names a party is an address. Mistyped words panic: the test is wrong then.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses another part of this")]

pub mod conformance;
pub mod random;

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use podwall_policy::address::{Family, IpBlock};
use podwall_policy::cluster::Cluster;
use podwall_policy::evaluate::{Evaluation, Verdict, evaluate};
use podwall_policy::explain::{Question, SideExplanation};
use podwall_policy::flow::{Flow, Party};
use podwall_policy::label::Labels;
use podwall_policy::object::{Name, Namespace, Node, Phase, Pod};
use podwall_policy::policy::{
    Action, Direction, NamespaceScope, Peer, PodScope, Policy, Rule, Tier,
};
use podwall_policy::port::{ContainerPort, PortMatch, PortRange, PortSpec, Protocol};
use podwall_policy::selector::{Operator, Selector};

// ---- objects

/// Labels from `app=web,env=prod`; none from an empty text.
pub fn mk_labels(text: &str) -> Labels {
    pairs(text).collect()
}

/// A selector from `app=web,env=prod`; everything from an empty text.
pub fn mk_selector(text: &str) -> Selector {
    Selector::labels(pairs(text))
}

fn pairs(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split(',').filter(|part| !part.is_empty()).map(|part| part.split_once('=').unwrap())
}

/// `key in (values)`, for [`Selector::and`].
pub fn mk_in(values: &[&str]) -> Operator {
    Operator::In(values.iter().map(|v| Arc::from(*v)).collect())
}

/// `key notin (values)`, for [`Selector::and`].
pub fn mk_not_in(values: &[&str]) -> Operator {
    Operator::NotIn(values.iter().map(|v| Arc::from(*v)).collect())
}

/// A name from `NAMESPACE/NAME`.
pub fn mk_name(text: &str) -> Name {
    let (namespace, name) = text.split_once('/').unwrap();
    Name::new(namespace, name)
}

/// A namespace whose labels are stated.
pub fn mk_namespace(name: impl Into<Arc<str>>, labels: &str) -> Namespace {
    Namespace::new(name, &mk_labels(labels))
}

/// A node with addresses.
pub fn mk_node(name: impl Into<Arc<str>>, addresses: &[&str]) -> Node {
    Node {
        name: name.into(),
        labels: Labels::default(),
        addresses: addresses.iter().map(|a| mk_ip(a)).collect(),
        pod_cidrs: Vec::new(),
        source: None,
    }
}

/// A running pod on node `n1` that states nothing but labels and addresses.
pub fn mk_pod(name: &str, labels: &str, ips: &[&str]) -> Pod {
    let name = mk_name(name);
    let mut pod = Pod::new(name.namespace, name.name, mk_labels(labels));
    pod.node = Some("n1".into());
    pod.ips = ips.iter().map(|ip| mk_ip(ip)).collect();
    pod
}

/// Words to say about a pod.
pub trait PodWords {
    fn on(self, node: impl Into<Arc<str>>) -> Self;
    fn host_network(self) -> Self;
    fn terminated(self) -> Self;
    fn serving(self, name: &str, protocol: Protocol, number: u16) -> Self;
}

impl PodWords for Pod {
    fn on(mut self, node: impl Into<Arc<str>>) -> Self {
        self.node = Some(node.into());
        self
    }

    fn host_network(mut self) -> Self {
        self.host_network = true;
        self
    }

    fn terminated(mut self) -> Self {
        self.phase = Phase::Terminated;
        self
    }

    fn serving(mut self, name: &str, protocol: Protocol, number: u16) -> Self {
        let name = (!name.is_empty()).then(|| name.into());
        self.ports.push(ContainerPort { name, number, protocol });
        self
    }
}

pub fn mk_ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn mk_net(text: &str) -> IpNet {
    text.parse().unwrap()
}

// ---- policies

/// A NetworkPolicy that selects pods of its namespace and says nothing yet.
pub fn mk_policy(name: &str, pods: impl Into<SelectorWords>) -> Policy {
    let name = mk_name(name);
    Policy::network_policy(name.namespace, name.name, pods.into().0)
}

/// A policy of tier Admin or Baseline for pods of the namespaces that match.
pub fn mk_tier(tier: Tier, priority: u16, name: &str, namespaces: &str, pods: &str) -> Policy {
    let subject = PodScope {
        namespaces: NamespaceScope::Matching(mk_selector(namespaces)),
        pods: mk_selector(pods),
    };
    Policy { tier, priority, name: Name::new("", name), subject, ..mk_policy("-/-", "") }
}

/// A selector, or its text.
pub struct SelectorWords(pub Selector);

impl From<&str> for SelectorWords {
    fn from(text: &str) -> Self {
        Self(mk_selector(text))
    }
}

impl From<Selector> for SelectorWords {
    fn from(selector: Selector) -> Self {
        Self(selector)
    }
}

/// Words to say about a policy.
pub trait PolicyWords {
    fn ingress(self, rules: impl Into<Vec<Rule>>) -> Self;
    fn egress(self, rules: impl Into<Vec<Rule>>) -> Self;
    fn dry_run(self) -> Self;
}

impl PolicyWords for Policy {
    fn ingress(mut self, rules: impl Into<Vec<Rule>>) -> Self {
        self.ingress = Some(rules.into());
        self
    }

    fn egress(mut self, rules: impl Into<Vec<Rule>>) -> Self {
        self.egress = Some(rules.into());
        self
    }

    fn dry_run(mut self) -> Self {
        self.dry_run = true;
        self
    }
}

/// A rule that allows these peers (none: anybody) on these ports (none: everything).
pub fn mk_rule(peers: impl Into<Vec<Peer>>, ports: impl Into<Vec<PortSpec>>) -> Rule {
    Rule::allow(peers.into(), ports.into())
}

/// The same with another action.
pub fn mk_action(
    action: Action,
    peers: impl Into<Vec<Peer>>,
    ports: impl Into<Vec<PortSpec>>,
) -> Rule {
    Rule { action, ..mk_rule(peers, ports) }
}

/// `podSelector` alone, in a policy of this namespace.
pub fn own(namespace: &str, pods: impl Into<SelectorWords>) -> Peer {
    let namespaces = NamespaceScope::Own(namespace.into());
    Peer::Pods(PodScope { namespaces, pods: pods.into().0 })
}

/// `namespaceSelector` with `podSelector`; an empty `pods` is the same as none.
pub fn within(namespaces: impl Into<SelectorWords>, pods: impl Into<SelectorWords>) -> Peer {
    let namespaces = NamespaceScope::Matching(namespaces.into().0);
    Peer::Pods(PodScope { namespaces, pods: pods.into().0 })
}

/// `ipBlock`.
pub fn block(cidr: &str, except: &[&str]) -> Peer {
    Peer::Block(IpBlock::new(mk_net(cidr), except.iter().map(|net| mk_net(net))))
}

pub fn port(protocol: Protocol, number: u16) -> PortSpec {
    port_range(protocol, number, number)
}

pub fn port_range(protocol: Protocol, first: u16, last: u16) -> PortSpec {
    PortSpec { protocol, port: PortMatch::Range(PortRange::new(first, last).unwrap()) }
}

pub fn any_port(protocol: Protocol) -> PortSpec {
    PortSpec { protocol, port: PortMatch::Any }
}

pub fn named_port(protocol: Protocol, name: &str) -> PortSpec {
    PortSpec { protocol, port: PortMatch::Named(name.into()) }
}

// ---- clusters and questions

/// Anything that a cluster holds.
pub enum Thing {
    Namespace(Namespace),
    Node(Node),
    Pod(Pod),
    Policy(Policy),
}

macro_rules! things {
    ($($kind:ident),*) => {$(
        impl From<$kind> for Thing {
            fn from(it: $kind) -> Self {
                Self::$kind(it)
            }
        }
    )*};
}
things!(Namespace, Node, Pod, Policy);

/// A cluster of things: `mk_cluster![mk_pod(…), mk_policy(…)]`.
#[macro_export]
macro_rules! mk_cluster {
    ($($thing:expr),* $(,)?) => {
        $crate::support::put_all([$($crate::support::Thing::from($thing)),*])
    };
}

pub fn put_all(things: impl IntoIterator<Item = Thing>) -> Cluster {
    let mut cluster = Cluster::default();
    for thing in things {
        match thing {
            Thing::Namespace(it) => cluster.put_namespace(it),
            Thing::Node(it) => cluster.put_node(it),
            Thing::Pod(it) => cluster.put_pod(it),
            Thing::Policy(it) => cluster.put_policy(it),
        }
    }
    cluster
}

/// The cluster with one thing more, or changed.
pub fn with(cluster: &Cluster, thing: impl Into<Thing>) -> Cluster {
    let mut cluster = cluster.clone();
    let more = put_all([thing.into()]);
    more.namespaces.into_values().for_each(|n| {
        if n.labels_known || !cluster.namespaces.contains_key(&n.name) {
            cluster.put_namespace(n);
        }
    });
    more.nodes.into_values().for_each(|it| cluster.put_node(it));
    more.pods.into_values().for_each(|it| cluster.put_pod(it));
    more.policies.into_values().for_each(|it| cluster.put_policy(it));
    cluster
}

/// The party of a text: `NAMESPACE/POD`, `node/NAME`, or an address as it is resolved in life.
pub fn party<'a>(cluster: &'a Cluster, text: &str) -> Party<'a> {
    if let Ok(address) = text.parse() {
        return Party::at(cluster, address);
    }
    match text.strip_prefix("node/") {
        Some(node) => Party::Node(&cluster.nodes[node]),
        None => Party::Pod(&cluster.pods[&mk_name(text)]),
    }
}

/// The evaluations of all flows that are possible between two parties, one a family. Who is named
/// by an address is asked in that address's family only.
pub fn evaluations(cluster: &Cluster, src: &str, dst: &str) -> Vec<Evaluation> {
    let mut flows = Flow::between(party(cluster, src), party(cluster, dst));
    for address in [src, dst].into_iter().filter_map(|text| text.parse().ok()) {
        flows.retain(|flow| flow.family == Family::of(address));
    }
    assert!(!flows.is_empty(), "{src} and {dst} have no family in common");
    flows.iter().map(|flow| evaluate(cluster, flow)).collect()
}

/// The verdict on one port; both families must agree.
pub fn can(cluster: &Cluster, src: &str, dst: &str, ask: (Protocol, u16)) -> Verdict {
    let mut verdicts: Vec<Verdict> =
        evaluations(cluster, src, dst).iter().map(|e| e.verdict(ask.0, ask.1)).collect();
    verdicts.dedup();
    assert_eq!(verdicts.len(), 1, "{src} -> {dst}: the families differ: {verdicts:?}");
    verdicts[0]
}

/// The explanation of one side, IPv4 first where there are two.
pub fn why(
    cluster: &Cluster,
    src: &str,
    dst: &str,
    direction: Direction,
    ask: (Protocol, u16),
) -> SideExplanation {
    let evaluation = evaluations(cluster, src, dst).remove(0);
    let side = match direction {
        Direction::Ingress => evaluation.ingress,
        Direction::Egress => evaluation.egress,
    };
    side.explain(Question::Port(ask.0, Some(ask.1)))
}

pub fn tcp(number: u16) -> (Protocol, u16) {
    (Protocol::TCP, number)
}

pub fn udp(number: u16) -> (Protocol, u16) {
    (Protocol::UDP, number)
}

pub fn sctp(number: u16) -> (Protocol, u16) {
    (Protocol::SCTP, number)
}

pub const PING: (Protocol, u16) = (Protocol::ICMP, 0);

/// Asserts the verdicts of many questions: `yes!(cluster; "a/x" -> "b/y" tcp(80), …)`.
#[macro_export]
macro_rules! yes {
    ($cluster:expr; $($rest:tt)+) => { $crate::verdicts!(Allowed, $cluster; $($rest)+) };
}

/// As [`yes`]: all are denied.
#[macro_export]
macro_rules! no {
    ($cluster:expr; $($rest:tt)+) => { $crate::verdicts!(Denied, $cluster; $($rest)+) };
}

/// As [`yes`]: all are unknown.
#[macro_export]
macro_rules! unknown {
    ($cluster:expr; $($rest:tt)+) => { $crate::verdicts!(Unknown, $cluster; $($rest)+) };
}

/// The common part of [`yes`], [`no`] and [`unknown`].
#[macro_export]
macro_rules! verdicts {
    ($verdict:ident, $cluster:expr; $($src:literal -> $dst:literal $ask:expr),+ $(,)?) => {{
        let cluster = &$cluster;
        $(assert_eq!(
            $crate::support::can(cluster, $src, $dst, $ask),
            podwall_policy::evaluate::Verdict::$verdict,
            "{} -> {} {:?}", $src, $dst, $ask
        );)+
    }};
}

//! What do random clusters look like in tests?
//!
//! ```text
//!   namespaces a, b (stated or not) ── pods a/src, b/dst (address, node: known or not)
//!   nodes n1, n2 (address, pod CIDR: known or not)      1 to 5 policies of all tiers
//! ```
//!
//! Small on purpose: two values a label, four pod addresses, four kinds of packet. What matters is
//! that rules meet and that every fact is missing often enough.

use ipnet::IpNet;
use podwall_policy::cluster::Cluster;
use podwall_policy::flow::Party;
use podwall_policy::object::{Name, Namespace, Node, Pod};
use podwall_policy::policy::{
    Action, Direction, NamespaceScope, Peer, PodScope, Policy, Rule, Tier,
};
use podwall_policy::port::{PortSpec, Protocol};
use podwall_policy::selector::{Operator, Selector};
use proptest::prelude::*;

use super::*;

/// The kinds of packet that rules tell apart.
pub const ASKS: [(Protocol, u16); 5] = [
    (Protocol::TCP, 80),
    (Protocol::TCP, 8080),
    (Protocol::TCP, 443),
    (Protocol::UDP, 53),
    (Protocol::ICMP, 0),
];

/// A cluster and two ends of a flow in it.
#[derive(Clone, Debug)]
pub struct World {
    pub cluster: Cluster,
    pub src: End,
    pub dst: End,
}

/// One end of a flow.
#[derive(Clone, Debug)]
pub enum End {
    Pod(Name),
    Node(&'static str),
    Address(IpAddr),
}

impl End {
    pub fn party<'a>(&self, cluster: &'a Cluster) -> Party<'a> {
        match self {
            Self::Pod(name) => Party::Pod(&cluster.pods[name]),
            Self::Node(name) => Party::Node(&cluster.nodes[*name]),
            Self::Address(address) => Party::Address(*address),
        }
    }
}

impl World {
    pub fn evaluate(&self, cluster: &Cluster) -> Evaluation {
        let (src, dst) = (self.src.party(cluster), self.dst.party(cluster));
        evaluate(cluster, &Flow { src, dst, family: Family::V4 })
    }

    /// The world with its policies changed.
    pub fn with_policies(&self, policies: impl IntoIterator<Item = Policy>) -> Self {
        let mut world = self.clone();
        world.cluster.policies.clear();
        policies.into_iter().for_each(|policy| world.cluster.put_policy(policy));
        world
    }
}

/// Every label set that a namespace can turn out to have, as far as selectors here can tell.
pub fn namespace_labels() -> Vec<Labels> {
    let mut all = Vec::new();
    for env in ["", "env=prod", "env=dev", "env=other"] {
        for team in ["", "team=x"] {
            all.push(mk_labels(&format!("{env},{team}")));
        }
    }
    all
}

/// Every address that rules here can tell apart.
pub fn addresses() -> Vec<IpAddr> {
    (0..4u8).map(|i| [10, 0, 0, i].into()).chain([[10, 0, 0, 9].into()]).collect()
}

pub fn world() -> impl Strategy<Value = World> {
    let namespaces = (namespace("a"), namespace("b"));
    let nodes = (node("n1"), node("n2"));
    let pods = (pod("a", "src"), prop_oneof![pod("a", "dst"), pod("b", "dst")]);
    let policies = prop::collection::vec(policy(), 1..6);
    let ends = (end("a/src"), end("b/dst"));
    (namespaces, nodes, pods, policies, ends).prop_map(
        |(namespaces, nodes, pods, policies, (src, dst))| {
            let mut cluster = Cluster::default();
            [namespaces.0, namespaces.1].into_iter().for_each(|n| cluster.put_namespace(n));
            [nodes.0, nodes.1].into_iter().for_each(|n| cluster.put_node(n));
            let dst_pod = pods.1.name.clone();
            [pods.0, pods.1].into_iter().for_each(|p| cluster.put_pod(p));
            for (i, mut policy) in policies.into_iter().enumerate() {
                policy.name.name = format!("p{i}").into();
                cluster.put_policy(policy);
            }
            let dst = if matches!(dst, End::Pod(_)) { End::Pod(dst_pod) } else { dst };
            World { cluster, src, dst }
        },
    )
}

fn namespace(name: &'static str) -> impl Strategy<Value = Namespace> {
    let stated = prop::sample::select(namespace_labels())
        .prop_map(move |labels| Namespace::new(name, &labels));
    prop_oneof![3 => stated, 2 => Just(Namespace::implied(name))]
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop::sample::select(addresses())
}

fn node(name: &'static str) -> impl Strategy<Value = Node> {
    let cidrs = prop::sample::select(vec!["", "10.0.0.0/31", "10.0.0.2/31", "10.0.0.2/32"]);
    (prop::option::weighted(0.8, address()), cidrs).prop_map(move |(address, cidr)| {
        let mut node = mk_node(name, &[]);
        node.addresses.extend(address);
        node.pod_cidrs.extend(cidr.parse::<IpNet>());
        node
    })
}

fn pod(namespace: &'static str, name: &'static str) -> impl Strategy<Value = Pod> {
    let labels = prop::sample::select(vec!["", "app=web", "app=db"]);
    let node = prop::sample::select(vec![None, Some("n1"), Some("n1"), Some("n2")]);
    let ip = prop::option::weighted(0.5, address());
    let kind = prop::sample::select(vec!["", "", "", "", "", "", "", "", "host", "host", "ended"]);
    let http = prop::sample::select(vec![None, Some(80), Some(8080)]);
    (labels, node, ip, kind, http).prop_map(move |(labels, node, ip, kind, http)| {
        let mut pod = mk_pod(&format!("{namespace}/{name}"), labels, &[]);
        pod.node = node.map(Arc::from);
        pod.ips.extend(ip.filter(|_| kind != "host")); // a hostNetwork pod has its node's
        pod.host_network = kind == "host";
        if kind == "ended" {
            pod.phase = Phase::Terminated;
        }
        match http {
            Some(number) => pod.serving("http", Protocol::TCP, number),
            None => pod,
        }
    })
}

fn end(pod: &str) -> impl Strategy<Value = End> {
    prop_oneof![
        6 => Just(End::Pod(mk_name(pod))),
        1 => Just(End::Node("n1")),
        1 => address().prop_map(End::Address),
    ]
}

fn namespace_selector() -> impl Strategy<Value = Selector> {
    let all = Selector::everything;
    prop::sample::select(vec![
        all(),
        mk_selector("env=prod"),
        mk_selector("env=prod,team=x"),
        mk_selector("team=x"),
        mk_selector("kubernetes.io/metadata.name=a"),
        all().and("env", mk_in(&["prod", "dev"])),
        all().and("env", mk_not_in(&["prod"])),
        all().and("env", mk_not_in(&["prod", "dev"])),
        all().and("env", Operator::Exists),
        all().and("env", Operator::DoesNotExist),
    ])
}

fn pod_selector() -> impl Strategy<Value = Selector> {
    prop::sample::select(vec![
        Selector::everything(),
        Selector::everything(),
        mk_selector("app=web"),
        Selector::everything().and("app", mk_not_in(&["web"])),
    ])
}

pub fn peer(own: &'static str) -> impl Strategy<Value = Peer> {
    let scope = |(namespaces, pods)| Peer::Pods(PodScope { namespaces, pods });
    let matching = namespace_selector().prop_map(NamespaceScope::Matching);
    let blocks = prop::sample::select(vec![
        block("0.0.0.0/0", &[]),
        block("10.0.0.0/31", &[]),
        block("10.0.0.0/30", &["10.0.0.2/32"]),
        block("10.0.0.2/31", &["10.0.0.2/32"]),
        block("10.0.0.9/32", &[]),
        block("::/0", &[]),
    ]);
    prop_oneof![
        2 => (Just(NamespaceScope::Own(own.into())), pod_selector()).prop_map(scope),
        3 => (matching, pod_selector()).prop_map(scope),
        3 => blocks,
    ]
}

fn port_spec() -> impl Strategy<Value = PortSpec> {
    prop::sample::select(vec![
        port(Protocol::TCP, 80),
        port_range(Protocol::TCP, 80, 8080),
        any_port(Protocol::TCP),
        port(Protocol::UDP, 53),
        named_port(Protocol::TCP, "http"),
    ])
}

pub fn rule(own: &'static str) -> impl Strategy<Value = Rule> {
    let actions = prop::sample::select(vec![Action::Allow, Action::Deny, Action::Pass]);
    let peers = prop::collection::vec(peer(own), 0..3);
    let ports = prop::collection::vec(port_spec(), 0..3);
    (actions, peers, ports).prop_map(|(action, peers, ports)| mk_action(action, peers, ports))
}

fn policy() -> impl Strategy<Value = Policy> {
    prop_oneof![policy_of("a"), policy_of("b")]
}

fn policy_of(own: &'static str) -> impl Strategy<Value = Policy> {
    let tier = prop_oneof![
        1 => Just(Tier::Admin), 3 => Just(Tier::NetworkPolicy), 1 => Just(Tier::Baseline)
    ];
    let rules = || prop::option::weighted(0.8, prop::collection::vec(rule(own), 0..4));
    let subject = (namespace_selector(), pod_selector());
    (tier, 0u16..3, 0u8..8, subject, rules(), rules()).prop_map(
        move |(tier, priority, dry, (namespaces, pods), ingress, egress)| {
            let mut policy = mk_policy(&format!("{own}/p"), pods);
            policy.tier = tier;
            policy.dry_run = dry == 0;
            policy.ingress = ingress;
            policy.egress = egress;
            if tier == Tier::NetworkPolicy {
                let lists = [&mut policy.ingress, &mut policy.egress];
                let rules = lists.into_iter().flatten().flatten();
                rules.for_each(|rule| rule.action = Action::Allow);
            } else {
                policy.priority = priority;
                policy.name.namespace = "".into();
                policy.subject.namespaces = NamespaceScope::Matching(namespaces);
            }
            policy
        },
    )
}

/// The rules of a direction, to change them.
pub fn rules_mut(policy: &mut Policy, direction: Direction) -> Option<&mut Vec<Rule>> {
    match direction {
        Direction::Ingress => policy.ingress.as_mut(),
        Direction::Egress => policy.egress.as_mut(),
    }
}

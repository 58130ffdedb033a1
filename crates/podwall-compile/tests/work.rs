//! Does a change touch only what it is about? Counted in objects, not in time.

#![expect(clippy::unwrap_used, reason = "helpers of tests; only what fails a test")]

use std::sync::Arc;

use podwall_compile::compiler::{NodeCompiler, Stats, compile};
use podwall_compile::tables::{Delta, PeerId, SubjectId};
use podwall_compile::testing::realistic::{NODE, Shape, cluster};
use podwall_policy::address::{AddressRange, AddressSet, IpBlock};
use podwall_policy::cluster::Cluster;
use podwall_policy::object::{Name, Namespace, Pod};
use podwall_policy::policy::{Direction, NamespaceScope, Peer, PodScope, Policy, Rule, Tier};
use podwall_policy::port::{PortMatch, PortRange, PortSpec, Protocol};
use podwall_policy::selector::{Operator, Selector};

const SHAPE: Shape = Shape { pods: 10_000, pods_per_node: 60, policies: 1_000 };

/// A compiler that has compiled the cluster.
fn compiled() -> (Cluster, NodeCompiler) {
    let cluster = cluster(&SHAPE);
    let mut compiler = NodeCompiler::new(Some(NODE.into()));
    compiler.put_cluster(&cluster);
    compiler.commit();
    (cluster, compiler)
}

/// A pod of another node that some policy names as a peer.
fn peer_pod(cluster: &Cluster, compiler: &NodeCompiler) -> Pod {
    let remote = cluster.pods.values().filter(|pod| pod.node.as_deref() != Some(NODE));
    let is_peer = |pod: &&Pod| compiler.tables().peer(pod.ips[0]).own != PeerId::OTHER;
    remote.into_iter().find(is_peer).cloned().unwrap()
}

fn size(delta: &Delta) -> usize {
    let ranges = delta.blocks_added.len() + delta.nets_added.len();
    delta.peers.len() + delta.subjects.len() + delta.verdicts.len() + ranges
}

/// The compiler's tables are those of the cluster, as far as counts tell.
fn assert_current(compiler: &NodeCompiler, cluster: &Cluster) {
    let (found, expected) = (compiler.tables(), compile(cluster, Some(NODE)));
    assert_eq!(found.peers.len(), expected.peers.len());
    assert_eq!(found.blocks.len(), expected.blocks.len());
    assert_eq!(found.nets.len(), expected.nets.len());
    assert_eq!(found.verdicts.len(), expected.verdicts.len());
    assert_eq!(found.subjects.len(), expected.subjects.len());
}

#[test]
fn a_relabelled_peer_touches_its_own_address_and_rows() {
    let (mut cluster, mut compiler) = compiled();
    let mut pod = peer_pod(&cluster, &compiler);
    pod.labels = pod.labels.without("id");
    compiler.put_pod(&pod);
    let delta = compiler.commit();
    let work = compiler.stats().last;
    assert_eq!((work.pods, work.addresses, work.pods_walked, work.segments), (1, 1, 0, 0));
    assert!(work.peer_classes <= 2 && work.subject_classes == 0, "{work:?}");
    assert!((1..=2).contains(&delta.peers.len()) && delta.blocks_added.is_empty());
    cluster.put_pod(pod);
    assert_current(&compiler, &cluster);
}

#[test]
fn a_pod_that_no_policy_asks_for_is_one_address_more_and_no_class_or_row() {
    let (cluster, mut compiler) = compiled();
    let mut pod = peer_pod(&cluster, &compiler);
    pod.name = Name::new("ns-5", "stranger");
    pod.labels = Default::default();
    pod.ips = vec!["10.200.0.1".parse().unwrap()];
    compiler.put_pod(&pod);
    let delta = compiler.commit();
    let work = compiler.stats().last;
    assert_eq!((work.addresses, work.peer_classes, work.rows), (1, 0, 0));
    assert_eq!((delta.peers.len(), size(&delta)), (1, 1));
    assert_eq!(delta.peers[0].1.unwrap().own, PeerId::OTHER);
}

#[test]
fn pod_ranges_list_who_is_known_and_a_pod_more_touches_its_own_address() {
    let (mut cluster, mut compiler) = compiled();
    let local = cluster.pods.values().filter(|pod| pod.node.as_deref() == Some(NODE));
    let local: Vec<Pod> = local.cloned().collect();
    let before = compiler.tables().subjects.len();
    let all = ["0.0.0.0/0", "::/0"].map(|text| text.parse::<ipnet::IpNet>().unwrap());
    let ranges: AddressSet = AddressSet::from(AddressRange::one(local[0].ips[0]));
    compiler.set_pod_ranges(ranges.clone());
    let delta = compiler.commit();
    // Of both directions one at least is isolated, or it is open: an entry each in the end.
    assert_eq!(delta.pod_ranges, Some(ranges));
    let entries = |compiler: &NodeCompiler| compiler.tables().subjects.len();
    assert!(entries(&compiler) <= before + 2);
    // Everything there is, which nobody would do: every pod's address is known.
    compiler.set_pod_ranges(AddressSet::from(all[0]));
    compiler.commit();
    let addresses = cluster.pods.values().filter(|pod| pod.is_subject());
    let addresses: std::collections::BTreeSet<_> =
        addresses.flat_map(|pod| &pod.ips).filter(|ip| ip.is_ipv4()).copied().collect();
    assert_eq!(entries(&compiler), 2 * addresses.len());
    let mut pod = local[0].clone();
    pod.name = Name::new("ns-5", "one-more");
    pod.labels = Default::default();
    pod.ips = vec!["10.200.0.1".parse().unwrap()];
    compiler.put_pod(&pod);
    let delta = compiler.commit();
    assert_eq!((delta.subjects.len(), delta.pod_ranges.clone()), (2, None));
    assert_eq!(compiler.stats().last.addresses, 1);
    cluster.put_pod(pod.clone());
    compiler.remove_pod(&pod.name);
    assert_eq!(compiler.commit().subjects.len(), 2);
    // To be let go is as cheap.
    compiler.set_released([pod.ips[0]].into());
    let delta = compiler.commit();
    let open = |direction| ((direction, pod.ips[0]), Some(SubjectId::OPEN));
    assert!(Direction::BOTH.map(open).iter().all(|entry| delta.subjects.contains(entry)));
    assert_eq!(delta.subjects.len(), 2);
    // None of it is left behind.
    compiler.set_released(Default::default());
    compiler.set_pod_ranges(AddressSet::empty());
    compiler.commit();
    assert_eq!(entries(&compiler), before);
    assert_eq!(compiler.stats().open, 0);
}

#[test]
fn a_status_update_of_every_pod_touches_nothing() {
    let (cluster, mut compiler) = compiled();
    for pod in cluster.pods.values() {
        compiler.put_pod(&Pod { uid: Some("again".into()), ..pod.clone() });
    }
    let delta = compiler.commit();
    assert!(delta.is_empty());
    assert_eq!(compiler.stats().last, Default::default());
}

#[test]
fn a_policy_more_touches_its_subjects_and_its_peers() {
    let (mut cluster, mut compiler) = compiled();
    let before = compiler.stats();
    let mut policy =
        Policy::network_policy("ns-1", "one-more", Selector::labels([("half-0", "yes")]));
    let scope = PodScope {
        namespaces: NamespaceScope::Matching(Selector::everything()),
        pods: Selector::labels([("id", "i4000")]),
    };
    let block = IpBlock::new("99.1.2.0/24".parse().unwrap(), []);
    policy.ingress = Some(vec![Rule::allow(vec![Peer::Pods(scope), Peer::Block(block)], vec![])]);
    cluster.put_policy(policy.clone());
    compiler.put_policy(policy.clone());
    let delta = compiler.commit();
    let after: Stats = compiler.stats();
    let work = after.last;
    assert_eq!((work.pods, work.addresses), (0, 2));
    assert_eq!(work.segments, 1);
    assert!(work.pods_walked <= 12 + 2, "{work:?}");
    assert!(work.subject_classes <= 12 && work.peer_classes <= 4, "{work:?}");
    assert!(work.rows <= 12 * 5, "{work:?}");
    assert!(size(&delta) <= 12 * 5, "{delta:?}");
    assert_current(&compiler, &cluster);
    // Its going is as cheap, and leaves what was.
    compiler.remove_policy(Tier::NetworkPolicy, &policy.name);
    let delta = compiler.commit();
    assert!(size(&delta) <= 12 * 6, "{delta:?}");
    assert_eq!(Stats { last: before.last, ..compiler.stats() }, before);
}

/// However many policies select the same pods.
#[test]
fn a_policy_more_or_less_reads_none_of_the_others() {
    let (mut cluster, mut compiler) = compiled();
    let policy = |name: &str, pods: Selector, id: usize, port: u16| {
        let scope = PodScope {
            namespaces: NamespaceScope::Matching(Selector::everything()),
            pods: Selector::labels([("id", format!("i{id}"))]),
        };
        let port = PortMatch::Range(PortRange::one(port));
        let ports = vec![PortSpec { protocol: Protocol::TCP, port }];
        let mut policy = Policy::network_policy("ns-1", name, pods);
        policy.ingress = Some(vec![Rule::allow(vec![Peer::Pods(scope)], ports)]);
        policy
    };
    for number in 0..100 {
        let name = format!("one-of-many-{number}");
        let one = policy(&name, Selector::everything(), 3000 + number, 80);
        cluster.put_policy(one.clone());
        compiler.put_policy(one);
    }
    compiler.commit();
    let all = || Selector::everything();
    let some = || Selector::labels([("half-0", "yes")]);
    let mut for_anybody = policy("one-more", all(), 0, 443);
    for_anybody.ingress.iter_mut().flatten().for_each(|rule| rule.peers.clear());
    // Twelve pods of the namespace, each alone with its labels.
    for (what, policy, most) in [
        ("new", policy("one-more", all(), 4000, 80), (12, 12)),
        ("for another peer", policy("one-more", all(), 4001, 80), (24, 24)),
        ("for fewer pods", policy("one-more", some(), 4001, 80), (24, 12)),
        ("for all again", policy("one-more", all(), 4001, 80), (24, 12)),
        ("for anybody", for_anybody, (24, 24)),
    ] {
        cluster.put_policy(policy.clone());
        compiler.put_policy(policy);
        let delta = compiler.commit();
        let work = compiler.stats().last;
        assert!(work.policies <= most.0 && work.rows <= most.1, "{what}: {work:?}");
        assert!((1..=most.1).contains(&delta.verdicts.len()), "{what}: {delta:?}");
        assert_current(&compiler, &cluster);
    }
    let name = Name::new("ns-1", "one-more");
    cluster.policies.remove(&(Tier::NetworkPolicy, name.clone()));
    compiler.remove_policy(Tier::NetworkPolicy, &name);
    let delta = compiler.commit();
    let work = compiler.stats().last;
    assert!(work.policies <= 12 && work.rows <= 12, "{work:?}");
    assert!((1..=12).contains(&delta.verdicts.len()), "{delta:?}");
    assert_current(&compiler, &cluster);
}

#[test]
fn rules_for_all_pods_whole_namespaces_and_large_blocks_are_a_row_for_each_subject() {
    let (mut cluster, mut compiler) = compiled();
    let before = Stats { last: Default::default(), ..compiler.stats() };
    let all = |labels: Selector| {
        let pods = Selector::everything();
        Peer::Pods(PodScope { namespaces: NamespaceScope::Matching(labels), pods })
    };
    let block = |net: &str, except: &[&str]| {
        let except = except.iter().map(|net| net.parse().unwrap());
        Peer::Block(IpBlock::new(net.parse().unwrap(), except))
    };
    let team = Selector::labels([("team", "t3")]);
    for (name, peer, in_team) in [
        ("all", all(Selector::everything()), false),
        ("team", all(team), true),
        ("any", block("0.0.0.0/0", &[]), false),
        ("outside", block("0.0.0.0/0", &["10.0.0.0/8"]), false),
        ("pods", block("10.0.0.0/8", &[]), false),
    ] {
        let mut policy = Policy::network_policy("ns-1", name, Selector::everything());
        policy.ingress = Some(vec![Rule::allow(vec![peer], vec![])]);
        compiler.put_policy(policy.clone());
        let delta = compiler.commit();
        let work = compiler.stats().last;
        // Twelve pods of the namespace, each alone with its labels.
        assert!((1..=12).contains(&delta.verdicts.len()), "{name}: {delta:?}");
        assert!(work.rows <= 12 * 3, "{name}: {work:?}");
        assert_eq!((work.addresses, work.pods_walked), (0, 12), "{name}");
        let of_team = |pod: &&Pod| {
            let namespace = &cluster.namespaces[&pod.name.namespace];
            in_team && namespace.labels.get("team") == Some("t3")
        };
        let expected = cluster.pods.values().filter(of_team).count();
        assert_eq!(delta.peers.len(), expected, "{name}: pods whose group is another");
        assert!(delta.blocks_added.is_empty() && delta.nets_added.len() <= 2, "{name}");
        cluster.put_policy(policy.clone());
        assert_current(&compiler, &cluster);
        cluster.policies.remove(&(Tier::NetworkPolicy, policy.name.clone()));
        compiler.remove_policy(Tier::NetworkPolicy, &policy.name);
        compiler.commit();
        assert_eq!(Stats { last: before.last, ..compiler.stats() }, before, "{name}: is gone");
    }
}

/// However many pods elsewhere carry the same label.
#[test]
fn a_selector_of_apps_in_some_namespaces_walks_these_namespaces() {
    let (mut cluster, mut compiler) = compiled();
    let namespaces = 200;
    for number in 0..namespaces * 10_u32 {
        let place = number / 10;
        let zone = [("zone", format!("z{}", place / 2))].into_iter().collect();
        let namespace = Namespace::new(format!("web-{place}"), &zone);
        let labels = [("app", "web")].into_iter().collect();
        let mut pod = Pod::new(namespace.name.clone(), format!("pod-{number}"), labels);
        pod.ips = vec![std::net::Ipv4Addr::from(0x0ac8_0000 + number).into()];
        cluster.put_namespace(namespace.clone());
        cluster.put_pod(pod.clone());
        compiler.put_namespace(namespace);
        compiler.put_pod(&pod);
    }
    compiler.commit();
    let among = |key: &'static str, values: &[&str]| {
        let values = values.iter().map(|value| Arc::from(*value)).collect();
        Selector::everything().and(key, Operator::In(values))
    };
    let (name, zone) = ("kubernetes.io/metadata.name", "zone");
    for (namespaces, pods) in [
        (among(name, &["web-3"]), 10),
        (among(name, &["web-3", "web-70"]), 20),
        (Selector::labels([(name, "web-5")]), 10),
        (among(zone, &["z7"]), 20),
        (among(zone, &["z7", "z9"]), 40),
        (Selector::labels([(zone, "z8")]), 20),
    ] {
        let what = format!("{namespaces:?}");
        let scope = PodScope {
            namespaces: NamespaceScope::Matching(namespaces),
            pods: among("app", &["web", "db"]),
        };
        let mut policy = Policy::network_policy("ns-1", &*what, Selector::everything());
        policy.ingress = Some(vec![Rule::allow(vec![Peer::Pods(scope)], vec![])]);
        cluster.put_policy(policy.clone());
        compiler.put_policy(policy);
        let delta = compiler.commit();
        let work = compiler.stats().last;
        // Twelve pods of the policy's own namespace are subjects.
        assert_eq!((work.pods_walked, work.addresses), (12 + pods, pods), "{what}");
        assert!(delta.peers.len() <= pods, "{what}: {delta:?}");
    }
    assert_current(&compiler, &cluster);
}

#[test]
fn a_namespace_label_that_no_selector_asks_for_touches_nothing() {
    let (cluster, mut compiler) = compiled();
    let namespace: &Arc<str> = cluster.namespaces.keys().next().unwrap();
    let labels = [("note", "new")].into_iter().collect();
    compiler.put_namespace(Namespace::new(namespace.clone(), &labels));
    let delta = compiler.commit();
    assert!(delta.is_empty());
    assert_eq!(compiler.stats().last, Default::default());
}

//! Random clusters for packets: few names that meet, or hundreds of policies; and what happens to
//! them.

use std::sync::Arc;

use podwall_compile::testing::change::Change;
use podwall_compile::testing::dice::Dice;
use podwall_compile::testing::random;
use podwall_policy::address::IpBlock;
use podwall_policy::cluster::Cluster;
use podwall_policy::label::Labels;
use podwall_policy::object::{Name, Pod};
use podwall_policy::policy::{Peer, Policy, Tier};
use podwall_policy::port::{PortMatch, PortRange, Protocol};
use podwall_policy::selector::Selector;

/// The node whose packets are tried.
pub const NODE: &str = random::NODES[0];

/// How many pods a wide cluster has of its own.
const WIDE_PODS: usize = 60;

/// What a history starts from.
pub fn start(dice: &mut Dice, wide: bool) -> Cluster {
    let mut cluster = random::cluster(dice);
    cluster.put_node(random::node(NODE));
    if dice.chance(80) {
        let strangers = random::strangers(dice, NODE, &cluster);
        cluster.strangers.insert(NODE.into(), strangers);
    }
    let pods: Vec<Pod> = cluster.pods.values().cloned().collect();
    for mut pod in pods {
        fit(dice, &mut pod);
        cluster.put_pod(pod);
    }
    let policies: Vec<Policy> = cluster.policies.values().cloned().collect();
    for mut policy in policies {
        more_names(dice, &mut policy);
        cluster.put_policy(policy);
    }
    if wide {
        for _ in 0..WIDE_PODS {
            cluster.put_pod(wide_pod(dice));
        }
        for _ in 0..dice.between(150, 500) {
            cluster.put_policy(wide_policy(dice));
        }
    }
    cluster
}

/// Something that happens.
pub fn change(dice: &mut Dice, cluster: &Cluster, wide: bool) -> Change {
    if wide && dice.chance(70) {
        return match dice.below(5) {
            0 => Change::PutPod(wide_pod(dice)),
            1 => Change::RemovePod(wide_pod(dice).name),
            2 => {
                let policies: Vec<&(Tier, Name)> = cluster.policies.keys().collect();
                if policies.is_empty() {
                    return Change::PutPolicy(wide_policy(dice));
                }
                let (tier, name) = (*dice.pick(&policies)).clone();
                Change::RemovePolicy(tier, name)
            }
            _ => Change::PutPolicy(wide_policy(dice)),
        };
    }
    if dice.chance(15)
        && let Some(before) = cluster.strangers.get(NODE)
    {
        let mut strangers = random::strangers(dice, NODE, cluster);
        if dice.chance(70) {
            strangers.ranges = before.ranges.clone();
        }
        return Change::Strangers(NODE.into(), strangers);
    }
    match Change::random(dice, cluster) {
        Change::PutPod(mut pod) => {
            fit(dice, &mut pod);
            Change::PutPod(pod)
        }
        Change::PutPolicy(mut policy) => {
            more_names(dice, &mut policy);
            Change::PutPolicy(policy)
        }
        other => other,
    }
}

/// More rules that name ports only, for more than a peer or two; more large blocks beside pods.
fn more_names(dice: &mut Dice, policy: &mut Policy) {
    for rule in policy.ingress.iter_mut().chain(&mut policy.egress).flatten() {
        if dice.chance(10) && !rule.peers.is_empty() {
            let all: Option<ipnet::IpNet> = dice.pick(&["10.0.0.0/8", "::/0"]).parse().ok();
            rule.peers.extend(all.map(|net| Peer::Block(IpBlock::new(net, None))));
        }
        if dice.chance(40) && !rule.ports.is_empty() {
            for port in &mut rule.ports {
                port.protocol = *dice.pick(&[Protocol::TCP, Protocol::TCP, Protocol::UDP]);
                port.port = PortMatch::Named(Arc::from(*dice.pick(&["http", "dns", "aux"])));
            }
            if dice.chance(30) {
                rule.peers.clear();
            }
        }
    }
}

/// More pods on the node that is tried; nobody but a node and its hostNetwork pods has a node's
/// address, since no CNI plugin gives one to a pod.
fn fit(dice: &mut Dice, pod: &mut Pod) {
    if dice.chance(50) && !pod.host_network {
        pod.node = Some(NODE.into());
    }
    // One that was given an address of another node.
    if dice.chance(15) && !pod.host_network {
        pod.node = Some(random::NODES[1].into());
    }
    if pod.host_network {
        let node = pod.node.as_deref().unwrap_or(NODE);
        pod.ips = random::node(node).addresses;
    } else {
        let nodes = random::NODES.map(|node| random::node(node).addresses).concat();
        pod.ips.retain(|address| !nodes.contains(address));
    }
}

/// One of many, told from the others by a label; some are on the node.
fn wide_pod(dice: &mut Dice) -> Pod {
    let mut pod = random::pod(dice);
    let number = dice.below(WIDE_PODS);
    pod.name = Name::new(random::namespace_name(dice), format!("w{number}"));
    pod.labels = pod.labels.with("id", &number_label(number));
    pod.host_network = false;
    pod.node = Some(if number < WIDE_PODS / 3 { NODE } else { random::NODES[1] }.into());
    let texts = [format!("10.0.7.{}", number + 1), format!("fd00::7:{}", number + 1)];
    pod.ips = texts.iter().filter_map(|text| text.parse().ok()).collect();
    pod
}

fn number_label(number: usize) -> String {
    format!("i{number}")
}

/// Selects a pod or two, names a pod or two, a small block, ports anywhere.
fn wide_policy(dice: &mut Dice) -> Policy {
    let mut policy = random::policy(dice, dice.clone().chance(20));
    let name = format!("w{}", dice.below(1000));
    policy.name = Name::new(policy.name.namespace.clone(), name);
    let one = |dice: &mut Dice, below: usize| {
        let labels: Labels = [("id", number_label(dice.below(below)))].into_iter().collect();
        Selector::labels(labels.iter().map(|(key, value)| (key.to_owned(), value.to_owned())))
    };
    if dice.chance(80) {
        policy.subject.pods = one(dice, WIDE_PODS / 3);
    }
    let rules = policy.ingress.iter_mut().chain(&mut policy.egress).flatten();
    for rule in rules {
        for peer in &mut rule.peers {
            match peer {
                Peer::Pods(scope) if dice.chance(80) => scope.pods = one(dice, WIDE_PODS),
                Peer::Block(block) if dice.chance(60) => *block = small_block(dice),
                _ => {}
            }
        }
        for port in &mut rule.ports {
            if dice.chance(60) {
                let first = u16::try_from(dice.between(1, 19_000)).unwrap_or(1);
                let length = u16::try_from(*dice.pick(&[0, 0, 1, 7, 100, 999])).unwrap_or(0);
                port.port = PortMatch::Range(PortRange { first, last: first + length });
            }
        }
    }
    policy
}

/// Part of where pods of a wide cluster are, with a hole.
fn small_block(dice: &mut Dice) -> IpBlock {
    let (cidr, except) = if dice.chance(60) {
        let (length, host) = (dice.between(24, 32), dice.below(64));
        (format!("10.0.7.{host}/{length}"), format!("10.0.7.{}/{}", host & !1, length + 1))
    } else {
        let (length, host) = (dice.between(112, 128), dice.below(64));
        (format!("fd00::7:{host}/{length}"), format!("fd00::7:{}/{}", host & !1, length + 1))
    };
    let net = |text: &str| text.parse::<ipnet::IpNet>().ok().map(|net| net.trunc());
    let cidr = net(&cidr).unwrap_or_default();
    let except = net(&except).filter(|hole| dice.chance(40) && cidr.contains(hole));
    IpBlock::new(cidr, except)
}

/// A port that some rule names, or a neighbour of it; or one that a pod declares.
pub fn known_port(dice: &mut Dice, cluster: &Cluster) -> Option<u16> {
    if dice.chance(40) {
        let ports: Vec<_> = cluster.pods.values().flat_map(|pod| &pod.ports).collect();
        return (!ports.is_empty()).then(|| dice.pick(&ports).number);
    }
    let policy = cluster.policies.values().nth(dice.below(cluster.policies.len()))?;
    let rules = policy.ingress.iter().chain(&policy.egress).flatten();
    let specs: Vec<_> = rules.flat_map(|rule| &rule.ports).collect();
    if specs.is_empty() {
        return None;
    }
    let PortMatch::Range(range) = &dice.pick(&specs).port else { return None };
    let (first, last) = (range.first, range.last);
    Some(*dice.pick(&[first, last, first.saturating_sub(1), last.saturating_add(1)]))
}

//! Does a fix turn the evaluator's answer round, and is all that it does besides told?
//!
//! `PODWALL_FIXES` sets how many random questions are asked, `PODWALL_SEED` where to start.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests; only what fails a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use podwall_analysis::can::{Answer, Ask, PortAsk, can};
use podwall_analysis::fix::{Change, Fix, fixes};
use podwall_analysis::peer::{Peer, resolve};
use podwall_compile::testing::dice::Dice;
use podwall_compile::testing::random;
use podwall_policy::address::{AddressRange, AddressSet, IpBlock};
use podwall_policy::cluster::Cluster;
use podwall_policy::evaluate::{Verdict, evaluate};
use podwall_policy::explain::Question;
use podwall_policy::flow::{Flow, Party};
use podwall_policy::label::Labels;
use podwall_policy::object::{Name, Namespace, Owner, Phase, Pod};
use podwall_policy::policy::{
    Direction, NamespaceScope, Peer as RulePeer, PodScope, Policy, Rule, Tier,
};
use podwall_policy::port::{PortMatch, PortRange, PortSet, PortSpec, Protocol};
use podwall_policy::selector::Selector;

/// An address that is nobody's.
const GUEST: [u8; 4] = [192, 0, 2, 77];

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

/// What came up, and has to.
const KINDS: [&str; 20] = [
    "to allow",
    "to deny",
    "nothing else changes",
    "something else changes",
    "bystanders",
    "two sides at once",
    "an obstacle",
    "a port more",
    "a peer more",
    "a rule more",
    "a policy more",
    "a label more",
    "a peer written otherwise",
    "a peer less",
    "a port less",
    "a rule less",
    "a rule for the rest",
    "pods that differ",
    "several steps of one side to allow",
    "rules narrowed in different ways",
];

fn kind(change: &Change) -> &'static str {
    match change {
        Change::AddPort { .. } => "a port more",
        Change::AddPeer { .. } => "a peer more",
        Change::AddRule { .. } => "a rule more",
        Change::AddPolicy { .. } => "a policy more",
        Change::LabelPods { .. } | Change::LabelNamespace { .. } => "a label more",
        Change::ReplacePeer { .. } => "a peer written otherwise",
        Change::SetPeers { .. } => "a rule for the rest",
        Change::RemovePeer { .. } => "a peer less",
        Change::RemovePort { .. } => "a port less",
        Change::RemoveRule { .. } => "a rule less",
    }
}

/// A workload in the midst of a rollout: its old pods and its new ones are isolated by a policy each.
fn put_rollout(dice: &mut Dice, cluster: &mut Cluster) {
    cluster.put_namespace(Namespace::new("rollout", &Labels::default()));
    for (index, part) in ["old", "new", "next"].into_iter().enumerate() {
        let labels = Labels::from_iter([("app", "mixed"), ("part", part)]);
        let mut pod = Pod::new("rollout", part, labels);
        pod.ips.push(format!("10.201.0.{}", index + 1).parse().unwrap());
        pod.owner = Some(Owner { kind: "Deployment".into(), name: "mixed".into() });
        cluster.put_pod(pod);
        let selector = Selector::labels([("part", part)]);
        let mut policy = Policy::network_policy("rollout", part, selector);
        let namespaces = NamespaceScope::Matching(Selector::everything());
        let anybody = RulePeer::Pods(PodScope { namespaces, pods: Selector::everything() });
        let port = PortMatch::Range(PortRange::one(*dice.pick(&[80, 81, 82])));
        let port = PortSpec { protocol: Protocol::TCP, port };
        let direction = *dice.pick(&Direction::BOTH);
        *policy.rules_mut(direction) = Some(vec![Rule::allow(vec![anybody], vec![port])]);
        cluster.put_policy(policy);
    }
}

/// The direction of the rule that a change is about.
fn side(change: &Change) -> Option<Direction> {
    match change {
        Change::AddPort { rule, .. }
        | Change::AddPeer { rule, .. }
        | Change::ReplacePeer { rule, .. }
        | Change::SetPeers { rule, .. }
        | Change::RemovePeer { rule, .. }
        | Change::RemovePort { rule, .. }
        | Change::RemoveRule { rule } => Some(rule.direction),
        Change::AddRule { direction, .. } => Some(*direction),
        Change::AddPolicy { policy, .. } if policy.ingress.is_some() => Some(Direction::Ingress),
        Change::AddPolicy { .. } => Some(Direction::Egress),
        Change::LabelPods { .. } | Change::LabelNamespace { .. } => None,
    }
}

/// A random cluster whose facts are all known, without tiers for the most part.
fn cluster(dice: &mut Dice) -> Cluster {
    let mut cluster = random::cluster(dice);
    cluster.strangers.clear();
    for (index, pod) in cluster.pods.values_mut().enumerate() {
        if pod.ips.is_empty() {
            pod.ips.push(format!("10.200.0.{}", index + 1).parse().unwrap());
        }
    }
    // Workloads whose pods have different labels, as they have while a change is rolled out.
    for pod in cluster.pods.values_mut() {
        if dice.chance(40) && pod.owner.is_none() {
            pod.owner = Some(Owner { kind: "Deployment".into(), name: "mixed".into() });
        }
    }
    if dice.chance(80) {
        cluster.policies.retain(|(tier, _), _| *tier == Tier::NetworkPolicy);
    }
    // Somebody outside who is named in lists by his address.
    if dice.chance(20) {
        let rules = cluster.policies.values_mut().flat_map(|policy| {
            let [ingress, egress] = [&mut policy.ingress, &mut policy.egress];
            ingress.iter_mut().chain(egress).flatten()
        });
        for rule in rules.filter(|rule| !rule.peers.is_empty()) {
            rule.peers.push(RulePeer::Block(IpBlock::new(IpAddr::from(GUEST).into(), [])));
        }
    }
    if dice.chance(20) {
        put_rollout(dice, &mut cluster);
    }
    cluster
}

fn peer<'c>(dice: &mut Dice, cluster: &'c Cluster) -> Peer<'c> {
    if dice.chance(15) {
        let known = random::address(dice, cluster);
        let address = if dice.chance(30) { IpAddr::from(GUEST) } else { known };
        if let Party::Address(address) = Party::at(cluster, address) {
            let addresses = AddressSet::from(AddressRange::one(address));
            return Peer::Outside { text: address.to_string(), addresses };
        }
    }
    let pods: Vec<&Pod> = cluster.pods.values().filter(|pod| pod.phase == Phase::Alive).collect();
    let mut pod = pods[dice.below(pods.len())];
    if let (Some(rollout), true) =
        (pods.iter().find(|pod| &*pod.name.name == "old"), dice.chance(40))
    {
        pod = rollout;
    }
    match &pod.owner {
        Some(_) if dice.chance(60) => resolve(cluster, &label(pod), "").unwrap(),
        _ => Peer::Pod(pod),
    }
}

/// The pairs of pods whose connections differ, by the evaluator alone.
fn differing(before: &Cluster, after: &Cluster) -> BTreeMap<(Name, Name), PortSet> {
    let mut found = BTreeMap::new();
    let alive = || before.pods.iter().filter(|(_, pod)| pod.phase == Phase::Alive);
    for (from, src) in alive() {
        for (to, dst) in alive() {
            let (new_src, new_dst) = (&after.pods[from], &after.pods[to]);
            let old = Flow::between(Party::Pod(src), Party::Pod(dst));
            let new = Flow::between(Party::Pod(new_src), Party::Pod(new_dst));
            for (old, new) in old.iter().zip(&new) {
                let (old, new) = (evaluate(before, old).allowed(), evaluate(after, new).allowed());
                let differs = old.difference(&new).union(&new.difference(&old));
                if !differs.is_empty() {
                    let all: &mut PortSet = found.entry((from.clone(), to.clone())).or_default();
                    *all = all.union(&differs);
                }
            }
        }
    }
    found
}

fn label(pod: &Pod) -> String {
    match &pod.owner {
        Some(Owner { kind, name }) => format!("{}/{kind}/{name}", pod.name.namespace),
        None => pod.name.to_string(),
    }
}

/// Whether the row of a pod is one that was asked about.
fn asked(cluster: &Cluster, peer: &Peer<'_>, row: &str) -> bool {
    peer.pods(cluster).iter().any(|pod| label(pod) == row)
}

fn check(cluster: &Cluster, answer: &Answer<'_>, wanted: Verdict, fix: &Fix) {
    let mut after = cluster.clone();
    for change in &fix.changes {
        change.put_into(&mut after).unwrap();
    }
    // The evaluator's word on every flow of the asked ends.
    for case in &answer.cases {
        let at = |party: Party<'_>| match party {
            Party::Pod(pod) => Some(pod.name.clone()),
            _ => None,
        };
        let (from, to) = (case.src.party(), case.dst.party());
        let src = at(from).map_or(from, |name| Party::Pod(&after.pods[&name]));
        let dst = at(to).map_or(to, |name| Party::Pod(&after.pods[&name]));
        let verdict =
            evaluate(&after, &Flow { src, dst, family: case.family }).answer(case.question);
        if wanted == Verdict::Allowed || answer.cases.len() == 1 {
            assert_eq!(verdict, wanted, "{:?}", fix.changes);
        }
    }
    let ports = match answer.cases[0].question {
        Question::Port(protocol, Some(port)) => PortSet::range(protocol, PortRange::one(port)),
        _ => PortSet::everything(),
    };
    let mut unseen: BTreeSet<usize> = (0..fix.besides.len())
        .filter(|i| {
            let effect = &fix.besides[*i];
            !effect.opened.union(&effect.closed).is_empty()
        })
        .collect();
    for ((from, to), differs) in differing(cluster, &after) {
        let (src, dst) = (label(&cluster.pods[&from]), label(&cluster.pods[&to]));
        let own = asked(cluster, &answer.src, &src) && asked(cluster, &answer.dst, &dst);
        let differs = if own { differs.difference(&ports) } else { differs };
        if differs.is_empty() || from == to {
            continue;
        }
        let told = fix.besides.iter().position(|effect| effect.src == src && effect.dst == dst);
        let told = told.unwrap_or_else(|| panic!("{from} to {to}: {differs} of {:?}", fix.changes));
        let effect = &fix.besides[told];
        let said = effect.opened.union(&effect.closed).union(&effect.perhaps);
        assert!(differs.difference(&said).is_empty(), "{from} to {to}: {differs}, told {said}");
        unseen.remove(&told);
    }
    // What is told of pods is so; addresses outside are difference's own tests.
    let of_pods = |i: &usize| {
        let effect = &fix.besides[*i];
        [&effect.src, &effect.dst]
            .iter()
            .all(|row| cluster.pods.values().any(|p| label(p) == **row))
    };
    let unseen: Vec<_> = unseen.iter().filter(|i| of_pods(i)).map(|i| &fix.besides[*i]).collect();
    assert!(unseen.is_empty(), "{unseen:?} of {:?}", fix.changes);
}

#[test]
fn a_fix_does_what_it_says_and_nothing_else() {
    let (times, first) = (number("PODWALL_FIXES", 3000), number("PODWALL_SEED", 0));
    let mut coverage: BTreeMap<&'static str, usize> = BTreeMap::new();
    for seed in first..first + times {
        let dice = &mut Dice::seeded(seed);
        let cluster = cluster(dice);
        if !cluster.pods.values().any(|pod| pod.phase == Phase::Alive) {
            continue;
        }
        let (src, dst) = (peer(dice, &cluster), peer(dice, &cluster));
        let port = *dice.pick(&[80, 443, 8080, 53]);
        let protocol = *dice.pick(&[Protocol::TCP, Protocol::TCP, Protocol::UDP]);
        let asked = dice.chance(80);
        let ask = Ask {
            port: asked.then_some(PortAsk::Number(port)),
            protocol: asked.then_some(protocol),
            family: None,
        };
        let Ok(answer) = can(&cluster, &src, &dst, &ask) else { continue };
        let fixes = fixes(&cluster, &answer);
        let mut count = |what| *coverage.entry(what).or_default() += 1;
        let Some(wanted) = fixes.wanted else { continue };
        assert!(!fixes.fixes.is_empty() || !fixes.obstacles.is_empty(), "seed {seed}");
        if !fixes.obstacles.is_empty() {
            count("an obstacle");
        }
        for fix in &fixes.fixes {
            check(&cluster, &answer, wanted, fix);
            count(if wanted == Verdict::Allowed { "to allow" } else { "to deny" });
            count(if fix.is_exact() { "nothing else changes" } else { "something else changes" });
            if fix.bystanders > 0 {
                count("bystanders");
            }
            let sides: BTreeSet<_> = fix.changes.iter().filter_map(side).collect();
            if sides.len() > 1 {
                count("two sides at once");
            }
            // Changes of different policies of one direction, none of which is enough alone.
            let own: BTreeSet<&Name> = fix.changes.iter().filter_map(Change::policy).collect();
            let kinds: BTreeSet<_> = fix.changes.iter().map(kind).collect();
            if wanted == Verdict::Allowed && sides.len() == 1 && own.len() > 1 {
                count("several steps of one side to allow");
            }
            if wanted == Verdict::Denied && kinds.len() > 1 {
                count("rules narrowed in different ways");
            }
            if answer.cases.len() > 2 {
                count("pods that differ");
            }
            fix.changes.iter().for_each(|change| count(kind(change)));
        }
    }
    for kind in KINDS {
        let times = coverage.get(kind).copied().unwrap_or_default();
        assert!(times >= 1, "{kind}: {times} times; {coverage:?}");
    }
}

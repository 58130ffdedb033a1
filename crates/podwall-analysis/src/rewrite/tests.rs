use std::collections::BTreeMap;

use podwall_compile::testing::dice::Dice;
use podwall_compile::testing::random;
use podwall_policy::evaluate::side as evaluated;
use podwall_policy::flow::{Flow, Party};
use podwall_policy::label::Labels;
use podwall_policy::object::Pod;
use podwall_policy::policy::{Peer, Rule};
use podwall_policy::selector::Selector;

use super::*;

/// Policies of few namespaces, as odd as they come.
fn random_set(dice: &mut Dice) -> Cluster {
    let mut cluster = Cluster::default();
    for name in ["a", "b", "c", "new"] {
        cluster.put_namespace(random::namespace(dice, name));
    }
    for namespace in cluster.namespaces.values_mut() {
        namespace.labels_known = true;
    }
    for at in 0..dice.between(1, 7) {
        let mut policy = random::policy(dice, false);
        let namespace: Arc<str> = if dice.chance(80) { "a".into() } else { "b".into() };
        // Own scopes name the namespace of the policy.
        let old =
            std::mem::replace(&mut policy.name, Name::new(namespace.clone(), format!("p{at}")));
        rename(&mut policy, &old.namespace, &namespace);
        cluster.put_policy(policy);
    }
    cluster
}

fn rename(policy: &mut Policy, old: &str, new: &Arc<str>) {
    use podwall_policy::policy::NamespaceScope::Own;
    policy.subject.namespaces = Own(new.clone());
    for rules in [&mut policy.ingress, &mut policy.egress].into_iter().flatten() {
        for peer in rules.iter_mut().flat_map(|rule| &mut rule.peers) {
            if let Peer::Pods(scope) = peer
                && scope.namespaces == Own(old.into())
            {
                scope.namespaces = Own(new.clone());
            }
        }
    }
}

/// What the evaluator says of pods that are there and of such as are not.
fn verdicts(cluster: &Cluster, subjects: &[Pod], others: &[Party<'_>]) -> Vec<String> {
    let mut out = Vec::new();
    for subject in subjects {
        for other in others {
            for direction in Direction::BOTH {
                let (src, dst) = match direction {
                    Direction::Egress => (Party::Pod(subject), *other),
                    Direction::Ingress => (*other, Party::Pod(subject)),
                };
                for flow in Flow::between(src, dst) {
                    let side = evaluated(cluster, &flow, direction);
                    let isolated = side.is_isolated();
                    out.push(format!("{direction} {isolated} {} {}", side.allowed, side.denied));
                }
            }
        }
    }
    out
}

fn applied(cluster: &Cluster, made: &Rewritten) -> Cluster {
    let mut after = cluster.clone();
    after.policies.clear();
    for proposed in &made.policies {
        after.put_policy(proposed.policy.clone());
    }
    after
}

fn pods(dice: &mut Dice, many: usize) -> Vec<Pod> {
    let pod = |at: usize, dice: &mut Dice| {
        let mut pod = random::pod(dice);
        let namespace = *dice.pick(&["a", "a", "b", "c", "new"]);
        pod.name = Name::new(namespace, format!("pod-{at}"));
        pod.host_network = false;
        pod.phase = podwall_policy::object::Phase::Alive;
        if pod.ips.is_empty() {
            // The evaluator may be less sure of fewer rules where facts are missing.
            pod.ips = vec!["10.0.1.2".parse().unwrap(), "fd00::1:2".parse().unwrap()];
        }
        if dice.chance(30) {
            pod.labels = pod.labels.with("unheard", "of").with("app", "new");
        }
        pod
    };
    (0..many).map(|at| pod(at, dice)).collect()
}

#[test]
fn the_rewritten_set_says_the_same_is_stable_and_can_lose_nothing() {
    let mut reached: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in 0..150 {
        let dice = &mut Dice::seeded(seed);
        let cluster = random_set(dice);
        let made = rewrite(&cluster, &[]).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        assert!(made.too_hard.is_empty(), "seed {seed}");
        let after = applied(&cluster, &made);
        let (subjects, more) = (pods(dice, 6), pods(dice, 6));
        let addresses: Vec<_> = (0..6).map(|_| random::address(dice, &cluster)).collect();
        let others: Vec<Party<'_>> = more
            .iter()
            .map(Party::Pod)
            .chain(addresses.iter().map(|address| Party::Address(*address)))
            .collect();
        let (was, is) =
            (verdicts(&cluster, &subjects, &others), verdicts(&after, &subjects, &others));
        let differs = was.iter().zip(&is).find(|(was, is)| was != is);
        assert_eq!(differs, None, "seed {seed}");
        let again = rewrite(&after, &[]).unwrap();
        assert_eq!(again.policies.len(), made.policies.len(), "seed {seed}");
        for (one, two) in made.policies.iter().zip(&again.policies) {
            assert_eq!(one.policy, two.policy, "seed {seed}");
        }
        assert!(again.removed.is_empty(), "seed {seed}: {:?}", again.removed);
        for smaller in smaller(&after) {
            let namespace: Arc<str> = smaller.1.into();
            let of = |cluster: &Cluster| -> Vec<Policy> {
                let all = cluster.policies.values();
                all.filter(|policy| policy.name.namespace == namespace).cloned().collect()
            };
            let (a, b) = (of(&after), of(&smaller.0));
            let (a, b): (Vec<&Policy>, Vec<&Policy>) = (a.iter().collect(), b.iter().collect());
            assert!(same(&a, &b).is_err(), "seed {seed}: {} can go", smaller.2);
            *reached.entry(smaller.2).or_default() += 1;
        }
        for removed in &made.removed {
            let kind = if removed.whole { "policy gone" } else { "grant gone" };
            *reached.entry(kind).or_default() += 1;
        }
        if made.after != made.before {
            *reached.entry("changed").or_default() += 1;
        }
    }
    for kind in
        ["policy", "direction", "rule", "peer", "port", "policy gone", "grant gone", "changed"]
    {
        assert!(reached.get(kind).copied().unwrap_or(0) > 20, "{kind}: {reached:?}");
    }
}

/// The set without one thing, in each way there is.
fn smaller(cluster: &Cluster) -> Vec<(Cluster, String, &'static str)> {
    let mut out = Vec::new();
    for (key, policy) in &cluster.policies {
        let namespace = key.1.namespace.to_string();
        let mut without = cluster.clone();
        without.policies.remove(key);
        out.push((without, namespace.clone(), "policy"));
        let mut put = |policy: Policy, what| {
            let mut without = cluster.clone();
            without.policies.insert(key.clone(), policy);
            out.push((without, namespace.clone(), what));
        };
        for direction in Direction::BOTH {
            let Some(rules) = policy.rules(direction) else { continue };
            let with = |rules: Option<Vec<Rule>>| {
                let mut policy = policy.clone();
                match direction {
                    Direction::Ingress => policy.ingress = rules,
                    Direction::Egress => policy.egress = rules,
                }
                policy
            };
            put(with(None), "direction");
            for (at, rule) in rules.iter().enumerate() {
                let mut fewer = rules.to_vec();
                fewer.remove(at);
                put(with(Some(fewer)), "rule");
                for peer in 0..rule.peers.len() {
                    let mut fewer = rules.to_vec();
                    fewer[at].peers.remove(peer);
                    if !fewer[at].peers.is_empty() {
                        put(with(Some(fewer)), "peer");
                    }
                }
                for port in 0..rule.ports.len() {
                    let mut fewer = rules.to_vec();
                    fewer[at].ports.remove(port);
                    if !fewer[at].ports.is_empty() {
                        put(with(Some(fewer)), "port");
                    }
                }
            }
        }
    }
    out
}

/// Name, subject, and who may come in on which port.
type Spoken<'t> = (&'t str, &'t str, &'t [(&'t str, u16)]);

fn policies(list: &[Spoken<'_>]) -> Cluster {
    let mut cluster = Cluster::default();
    for (name, subject, rules) in list {
        let mut policy = Policy::network_policy("shop", *name, Selector::parse(subject).unwrap());
        let rule = |(peer, port): &(&str, u16)| {
            let scope = podwall_policy::policy::PodScope {
                namespaces: podwall_policy::policy::NamespaceScope::Own("shop".into()),
                pods: Selector::parse(peer).unwrap(),
            };
            let peer = match peer.parse::<ipnet::IpNet>() {
                Ok(net) => Peer::Block(podwall_policy::address::IpBlock::new(net, [])),
                Err(_) => Peer::Pods(scope),
            };
            let range = podwall_policy::port::PortRange::one(*port);
            let spec = podwall_policy::port::PortSpec {
                protocol: podwall_policy::port::Protocol::TCP,
                port: podwall_policy::port::PortMatch::Range(range),
            };
            Rule::allow(vec![peer], vec![spec])
        };
        policy.ingress = Some(rules.iter().map(rule).collect());
        cluster.put_policy(policy);
    }
    cluster.put_pod(Pod::new("shop", "web", [("app", "web")].into_iter().collect::<Labels>()));
    cluster
}

#[test]
fn what_several_say_together_is_said_with_their_names() {
    let cluster = policies(&[
        ("all-in", "", &[("app in (a,b)", 80), ("app notin (a,b),app", 80), ("!app", 80)]),
        ("web", "app=web", &[("tier=x", 80), ("", 443)]),
        ("web-again", "app in (web)", &[("", 444), ("10.0.0.0/9", 1), ("10.128.0.0/9", 1)]),
        ("never", "app=a,app=b", &[("", 1)]),
        ("deny", "app", &[]),
    ]);
    let made = rewrite(&cluster, &[]).unwrap();
    let names: Vec<String> = made.policies.iter().map(|p| p.policy.name.name.to_string()).collect();
    assert_eq!(names, ["all-in", "web"]);
    let web = &made.policies[1].policy.ingress.as_ref().unwrap();
    let peers: Vec<String> = web.iter().flat_map(|r| &r.peers).map(ToString::to_string).collect();
    assert_eq!(peers.len(), 2, "{peers:?}");
    assert!(peers.contains(&"10.0.0.0/8".to_owned()), "{peers:?}");
    let removed: Vec<String> =
        made.removed.iter().map(|r| format!("{}: {}: {}", r.policy.name, r.what, r.why)).collect();
    assert_eq!(
        removed,
        [
            "deny: the policy: all-in isolates these pods, too",
            "never: the policy: no pod can ever meet its podSelector",
            "web: ingress from pods tier=x in namespace shop on TCP 80: all-in allows it, too",
            "web-again: the policy: web selects the same pods and has its rules now",
        ]
    );
    assert_eq!((made.before.policies, made.after.policies), (5, 2));
}

#[test]
fn blocks_do_not_stand_for_pods() {
    // Data planes differ in whether 0.0.0.0/0 takes pods.
    let cluster = policies(&[("all", "", &[("0.0.0.0/0", 80), ("::/0", 80), ("app=web", 80)])]);
    let made = rewrite(&cluster, &[]).unwrap();
    assert!(made.removed.is_empty(), "{:?}", made.removed);
    assert_eq!(made.after.peers, 3);
}

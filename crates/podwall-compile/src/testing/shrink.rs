//! What is the smallest cluster that still shows it?

use podwall_policy::address::AddressSet;
use podwall_policy::cluster::Cluster;
use podwall_policy::policy::{Direction, Rule};

/// Takes objects, rules, peers and ports away as long as `fails` stays true.
pub fn shrink(cluster: &Cluster, fails: impl Fn(&Cluster) -> bool) -> Cluster {
    let mut best = cluster.clone();
    loop {
        let Some(smaller) = candidates(&best).into_iter().find(|candidate| fails(candidate)) else {
            return best;
        };
        best = smaller;
    }
}

/// Clusters with one thing less.
fn candidates(cluster: &Cluster) -> Vec<Cluster> {
    let mut out = Vec::new();
    let mut less = |change: &dyn Fn(&mut Cluster)| {
        let mut smaller = cluster.clone();
        change(&mut smaller);
        if smaller != *cluster {
            out.push(smaller);
        }
    };
    for key in cluster.policies.keys() {
        less(&|c| drop(c.policies.remove(key)));
    }
    for key in cluster.pods.keys() {
        less(&|c| drop(c.pods.remove(key)));
    }
    for key in cluster.namespaces.keys() {
        less(&|c| drop(c.namespaces.remove(key)));
    }
    for key in cluster.nodes.keys() {
        less(&|c| drop(c.nodes.remove(key)));
    }
    for (key, strangers) in &cluster.strangers {
        less(&|c| drop(c.strangers.remove(key)));
        for address in &strangers.released {
            less(&|c| {
                c.strangers.get_mut(key).into_iter().for_each(|its| {
                    its.released.remove(address);
                });
            });
        }
        for address in &strangers.nameless {
            less(&|c| {
                c.strangers.get_mut(key).into_iter().for_each(|its| {
                    its.nameless.remove(address);
                });
            });
        }
        for range in strangers.ranges.ranges() {
            less(&|c| {
                if let Some(its) = c.strangers.get_mut(key) {
                    its.ranges = its.ranges.difference(&AddressSet::from(*range));
                }
            });
        }
    }
    for (key, pod) in &cluster.pods {
        for at in 0..pod.ports.len() {
            less(&|c| drop(c.pods.get_mut(key).map(|pod| pod.ports.remove(at))));
        }
        for at in 0..pod.ips.len() {
            less(&|c| c.pods.get_mut(key).into_iter().for_each(|pod| drop(pod.ips.drain(at..=at))));
        }
    }
    for (key, policy) in &cluster.policies {
        for direction in Direction::BOTH {
            let rules = |c: &mut Cluster, change: &dyn Fn(&mut Vec<Rule>)| {
                let rules = c.policies.get_mut(key).and_then(|policy| match direction {
                    Direction::Ingress => policy.ingress.as_mut(),
                    Direction::Egress => policy.egress.as_mut(),
                });
                rules.into_iter().for_each(change);
            };
            less(&|c| {
                if let Some(policy) = c.policies.get_mut(key) {
                    match direction {
                        Direction::Ingress => policy.ingress = None,
                        Direction::Egress => policy.egress = None,
                    }
                }
            });
            for (at, rule) in policy.rules(direction).into_iter().flatten().enumerate() {
                less(&|c| rules(c, &|rules| drop(rules.drain(at..=at))));
                for peer in 0..rule.peers.len() {
                    less(&|c| rules(c, &|rules| drop(rules[at].peers.remove(peer))));
                }
                for port in 0..rule.ports.len() {
                    less(&|c| rules(c, &|rules| drop(rules[at].ports.remove(port))));
                }
            }
        }
    }
    out
}

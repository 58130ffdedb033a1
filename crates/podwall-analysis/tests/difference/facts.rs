//! Is what is unknown on both sides, and not said to be undecided, the same whatever the facts are?

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use podwall_analysis::difference::{Difference, Row};
use podwall_compile::testing::dice::Dice;
use podwall_compile::testing::random;
use podwall_policy::address::Family;
use podwall_policy::cluster::Cluster;
use podwall_policy::evaluate::evaluate;
use podwall_policy::flow::{Flow, Party};
use podwall_policy::object::{Name, Namespace};
use podwall_policy::port::PortSet;

use super::{Coverage, parties, states};

/// The same facts for both sides where they miss them, chosen at random.
fn complete(dice: &mut Dice, clusters: [&Cluster; 2]) -> [Cluster; 2] {
    let mut done = clusters.map(Clone::clone);
    let mut addresses: BTreeMap<Name, Vec<IpAddr>> = BTreeMap::new();
    let mut nodes: BTreeMap<Name, &str> = BTreeMap::new();
    let mut namespaces: BTreeMap<Arc<str>, Namespace> = BTreeMap::new();
    for cluster in &mut done {
        for pod in cluster.pods.values_mut() {
            if pod.ips.is_empty() {
                let address = addresses.entry(pod.name.clone()).or_insert_with(|| {
                    let ips = [0, 1, 2, 3].map(|_| random::pod(dice).ips);
                    ips.into_iter().find(|ips| !ips.is_empty()).unwrap_or_default()
                });
                pod.ips = address.clone();
            }
            if pod.node.is_none() {
                let node = nodes.entry(pod.name.clone());
                pod.node = Some((*node.or_insert_with(|| *dice.pick(&random::NODES))).into());
            }
        }
        for namespace in cluster.namespaces.values_mut().filter(|its| !its.labels_known) {
            let stated = namespaces
                .entry(namespace.name.clone())
                .or_insert_with(|| random::namespace(dice, &namespace.name));
            let labels = stated.labels.clone();
            *namespace = Namespace::new(namespace.name.clone(), &labels);
        }
    }
    done
}

/// What is unknown on both sides and not said to be undecided is the same, whatever the facts are.
pub(super) fn check_undecided(
    difference: &Difference<'_>,
    clusters: [&Cluster; 2],
    dice: &mut Dice,
    coverage: &mut Coverage,
) {
    let completed = complete(dice, clusters);
    let rows = &difference.rows;
    for (src, from) in rows.iter().enumerate() {
        for (dst, to) in rows.iter().enumerate() {
            let ends = [0, 1].map(|s| (parties(from, s), parties(to, s)));
            let named = |row: &Row<'_>| matches!(row, Row::Pods { .. });
            if src == dst || !named(from) || !named(to) {
                continue;
            }
            let found = difference.changes.iter().find(|c| c.src == src && c.dst == dst);
            let said = found.map_or_else(PortSet::empty, |its| its.shift.all.undecided.clone());
            let one = |s: usize| match (&ends[s].0[..], &ends[s].1[..]) {
                ([(_, src)], [(_, dst)]) => Some((*src, *dst)),
                _ => None,
            };
            let (Some(before), Some(after)) = (one(0), one(1)) else { continue };
            let open = [(0, before), (1, after)].map(|(s, (src, dst))| {
                let states = states(clusters[s], Some(src), Some(dst));
                states.map(|[a, d]| PortSet::everything().difference(&a).difference(&d))
            });
            let known = [(0, before), (1, after)].map(|(s, (src, dst))| {
                let cluster: &Cluster = &completed[s];
                let find = |party: Party<'_>| match party {
                    Party::Pod(pod) => cluster.pods.get(&pod.name).map(Party::Pod),
                    _ => None,
                };
                let (src, dst) = (find(src).unwrap(), find(dst).unwrap());
                let flows = Flow::between(src, dst);
                Family::BOTH.map(|family| {
                    let flow = flows.iter().find(|flow| flow.family == family)?;
                    Some(evaluate(cluster, flow).allowed())
                })
            });
            for f in [0, 1] {
                let silent = open[0][f].intersection(&open[1][f]).difference(&said);
                let (Some(before), Some(after)) = (&known[0][f], &known[1][f]) else { continue };
                let what = format!("{} to {}", from.label(), to.label());
                assert_eq!(silent.intersection(before), silent.intersection(after), "{what}");
                if !silent.is_empty() {
                    *coverage.entry("unknown on both sides, and the same").or_default() += 1;
                }
            }
        }
    }
}

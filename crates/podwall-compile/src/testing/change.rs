//! What can happen to a cluster?

use std::sync::Arc;

use podwall_policy::cluster::{Cluster, Strangers};
use podwall_policy::object::{Name, Namespace, Pod};
use podwall_policy::policy::{Policy, Tier};

use super::dice::Dice;
use super::random;
use crate::compiler::NodeCompiler;

/// One change, as a watch of the cluster would report it. Deletes may be of what is not there.
#[derive(Clone, Debug)]
pub enum Change {
    /// A namespace came or changed.
    PutNamespace(Namespace),
    /// A namespace went.
    RemoveNamespace(String),
    /// A pod came or changed.
    PutPod(Pod),
    /// A pod went.
    RemovePod(Name),
    /// A policy came or changed.
    PutPolicy(Policy),
    /// A policy went.
    RemovePolicy(Tier, Name),
    /// A node isolates other addresses that nobody knows, or lets others go.
    Strangers(Arc<str>, Strangers),
}

impl Change {
    /// Some change of a cluster that [`random::cluster`] made.
    pub fn random(dice: &mut Dice, cluster: &Cluster) -> Self {
        match dice.below(14) {
            0 => {
                let name = random::namespace_name(dice);
                Self::PutNamespace(random::namespace(dice, name))
            }
            1 => Self::RemoveNamespace(random::namespace_name(dice).into()),
            2 | 3 => Self::PutPod(random::pod(dice)),
            4 | 5 => match cluster.pods.values().collect::<Vec<_>>() {
                pods if pods.is_empty() => Self::PutPod(random::pod(dice)),
                pods => {
                    // The same pod with one thing changed.
                    let (mut pod, other) = ((*dice.pick(&pods)).clone(), random::pod(dice));
                    match dice.below(6) {
                        0 => pod.ips = other.ips,
                        1 => pod.ports = other.ports,
                        2 => pod.phase = other.phase,
                        3 => pod.node = other.node,
                        _ => pod.labels = other.labels,
                    }
                    Self::PutPod(pod)
                }
            },
            6 => Self::RemovePod(random::pod_name(dice)),
            7 | 8 => Self::PutPolicy(random::policy(dice, true)),
            9 | 10 => match cluster.policies.values().collect::<Vec<_>>() {
                policies if policies.is_empty() => Self::PutPolicy(random::policy(dice, true)),
                policies => {
                    let (mut policy, other) =
                        ((*dice.pick(&policies)).clone(), random::policy(dice, true));
                    match dice.below(7) {
                        0 => policy.dry_run = !policy.dry_run,
                        1 => policy.priority = other.priority,
                        2 => policy.subject.pods = other.subject.pods,
                        3 => policy.ingress.iter_mut().for_each(|rules| rules.reverse()),
                        4 => drop(policy.egress.as_mut().map(Vec::pop)),
                        5 if policy.tier == other.tier => policy.ingress = other.ingress,
                        _ if policy.tier == other.tier => policy.egress = other.egress,
                        _ => policy.ingress = None,
                    }
                    Self::PutPolicy(policy)
                }
            },
            11 => {
                let (tier, name) = random::policy_name(dice, true);
                Self::RemovePolicy(tier, name)
            }
            _ => {
                let node = *dice.pick(&random::NODES);
                let mut strangers = random::strangers(dice, node, cluster);
                if let Some(before) = cluster.strangers.get(node).filter(|_| dice.chance(70)) {
                    // Mostly an address is let go or taken back.
                    strangers.ranges = before.ranges.clone();
                }
                Self::Strangers(node.into(), strangers)
            }
        }
    }

    /// Makes the change in a cluster.
    pub fn apply(&self, cluster: &mut Cluster) {
        match self.clone() {
            Self::PutNamespace(namespace) => cluster.put_namespace(namespace),
            Self::RemoveNamespace(name) => drop(cluster.namespaces.remove(&*name)),
            Self::PutPod(pod) => cluster.put_pod(pod),
            Self::RemovePod(name) => drop(cluster.pods.remove(&name)),
            Self::PutPolicy(policy) => cluster.put_policy(policy),
            Self::RemovePolicy(tier, name) => drop(cluster.policies.remove(&(tier, name))),
            Self::Strangers(node, strangers) => {
                drop(cluster.strangers.insert(node, strangers));
            }
        }
    }

    /// Records the change in a compiler.
    pub fn record(&self, compiler: &mut NodeCompiler) {
        match self.clone() {
            Self::PutNamespace(namespace) => compiler.put_namespace(namespace),
            Self::RemoveNamespace(name) => compiler.remove_namespace(&name),
            Self::PutPod(pod) => compiler.put_pod(&pod),
            Self::RemovePod(name) => compiler.remove_pod(&name),
            Self::PutPolicy(policy) => compiler.put_policy(policy),
            Self::RemovePolicy(tier, name) => compiler.remove_policy(tier, &name),
            Self::Strangers(node, strangers) if compiler.node.as_ref() == Some(&node) => {
                compiler.set_pod_ranges(strangers.ranges);
                compiler.set_released(strangers.released);
                compiler.set_nameless(strangers.nameless);
            }
            Self::Strangers(..) => {}
        }
    }
}

/// The changes that turn one cluster into another: what is gone first, then what is new or
/// different.
pub fn changes(before: &Cluster, after: &Cluster) -> Vec<Change> {
    let mut changes = Vec::new();
    for name in before.policies.keys().filter(|name| !after.policies.contains_key(*name)) {
        changes.push(Change::RemovePolicy(name.0, name.1.clone()));
    }
    for name in before.pods.keys().filter(|name| !after.pods.contains_key(*name)) {
        changes.push(Change::RemovePod(name.clone()));
    }
    for name in before.namespaces.keys().filter(|name| !after.namespaces.contains_key(*name)) {
        changes.push(Change::RemoveNamespace(name.to_string()));
    }
    for (name, namespace) in &after.namespaces {
        if before.namespaces.get(name) != Some(namespace) {
            changes.push(Change::PutNamespace(namespace.clone()));
        }
    }
    for (name, pod) in &after.pods {
        if before.pods.get(name) != Some(pod) {
            changes.push(Change::PutPod(pod.clone()));
        }
    }
    for (name, policy) in &after.policies {
        if before.policies.get(name) != Some(policy) {
            changes.push(Change::PutPolicy(policy.clone()));
        }
    }
    for (node, strangers) in &after.strangers {
        if before.strangers.get(node) != Some(strangers) {
            changes.push(Change::Strangers(node.clone(), strangers.clone()));
        }
    }
    for node in before.strangers.keys().filter(|node| !after.strangers.contains_key(*node)) {
        changes.push(Change::Strangers(node.clone(), Strangers::default()));
    }
    changes
}

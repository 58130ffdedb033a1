//! Would pods and namespaces that do not exist yet be treated as before?
//!
//! ```text
//!   policies say the same, however spelt ──▶ yes, whatever comes           (proved)
//!   selectors of what differs ──▶ pods and namespaces that meet them ──▶ difference ──▶ an example
//!                                                                  └─ none found ──▶ not known
//! ```
//!
//! Today's pods may all have the same connections although the policies differ: because no pod has
//! the labels that a new rule asks for, say. An example is a pair for which the engine gives another
//! answer; that there is none is not concluded from not finding one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use podwall_policy::cluster::Cluster;
use podwall_policy::label::{Labels, METADATA_NAME};
use podwall_policy::object::{Namespace, Pod};
use podwall_policy::policy::{Direction, NamespaceScope, Peer, PodScope};
use podwall_policy::port::{ContainerPort, PortSet, Protocol};
use podwall_policy::selector::{Operator, Selector};

use super::spelling::changed;
use super::{Difference, Kind, Row};
use crate::matrix::By;
use crate::rule_ports::Ports;

/// How many pods are tried at most; the more selectors differ, the less one needs to find one.
const MOST: usize = 150;
/// How many examples are given.
const SHOWN: usize = 5;

/// What is known of pods that do not exist yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Future {
    /// All of them would be treated as before: the policies say the same.
    Same,
    /// Some would not.
    Differs(Vec<Example>),
    /// None was found among this many that were tried, which proves nothing.
    Unproved {
        /// How many kinds of pods.
        tried: usize,
    },
}

/// A connection that would be another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Who would open it.
    pub src: Somebody,
    /// Who would be asked.
    pub dst: Somebody,
    /// What passes with the new policies and would not with the old ones.
    pub opened: PortSet,
    /// The other way round.
    pub closed: PortSet,
}

/// Somebody who may come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Somebody {
    /// A pod.
    Pod {
        /// Its labels.
        labels: Labels,
        /// Its namespace.
        namespace: String,
        /// The labels of a namespace that does not exist yet; `None` for one that does.
        new_namespace: Option<Labels>,
    },
    /// Addresses outside.
    Outside(String),
}

impl Difference<'_> {
    /// What is known of pods and namespaces that do not exist yet.
    pub fn future(&self) -> Future {
        let clusters = [self.engines[0].cluster(), self.engines[1].cluster()];
        let changed = changed(clusters[0], clusters[1]);
        if changed.iter().all(super::spelling::Changed::is_empty) {
            return Future::Same;
        }
        let mut scopes: BTreeSet<PodScope> = BTreeSet::new();
        let mut names: BTreeSet<(Protocol, Arc<str>)> = BTreeSet::new();
        for (cluster, changed) in clusters.into_iter().zip(&changed) {
            for policy in cluster.policies.values() {
                for direction in Direction::BOTH {
                    if !changed.has(policy, direction) {
                        continue;
                    }
                    scopes.insert(super::spelling::scope(&policy.subject));
                    for rule in policy.rules(direction).into_iter().flatten() {
                        for peer in &rule.peers {
                            if let Peer::Pods(scope) = peer {
                                scopes.insert(super::spelling::scope(scope));
                            }
                        }
                        names.extend(Ports::of(rule).names);
                    }
                }
            }
        }
        let mut tried = Tried::new(clusters, ports(clusters, names));
        tried.plain();
        for scope in &scopes {
            tried.meeting(&[scope]);
        }
        // What is met by two may be treated otherwise than what is met by one.
        for (i, one) in scopes.iter().enumerate().take(MOST) {
            for other in scopes.iter().skip(i + 1).take(MOST) {
                tried.meeting(&[one, other]);
            }
        }
        tried.ask()
    }
}

/// Ports that have these names, all of them: what a rule says of a name is nothing for a pod
/// without it. The numbers are those of a pod that there is, else any.
fn ports(clusters: [&Cluster; 2], names: BTreeSet<(Protocol, Arc<str>)>) -> Vec<ContainerPort> {
    let made_up = MADE_UP..;
    let numbered = names.into_iter().zip(made_up).map(|((protocol, name), made_up)| {
        let mut pods = clusters.into_iter().flat_map(|cluster| cluster.pods.values());
        let stated = pods.find_map(|pod| pod.named_port(&name, protocol).next());
        ContainerPort { number: stated.unwrap_or(made_up), name: Some(name), protocol }
    });
    numbered.collect()
}

/// Clusters with the policies of each side and pods that may come.
struct Tried<'c> {
    real: [&'c Cluster; 2],
    /// What each of the pods declares.
    ports: Vec<ContainerPort>,
    bare: [Cluster; 2],
    /// What was tried already.
    seen: BTreeSet<(Arc<str>, Labels)>,
    /// Namespaces that do not exist, by their labels.
    namespaces: BTreeMap<Labels, Arc<str>>,
}

impl<'c> Tried<'c> {
    fn new(real: [&'c Cluster; 2], ports: Vec<ContainerPort>) -> Self {
        let bare = real.map(|cluster| Cluster {
            namespaces: cluster.namespaces.clone(),
            nodes: cluster.nodes.clone(),
            policies: cluster.policies.clone(),
            ..Cluster::default()
        });
        Self { real, ports, bare, seen: BTreeSet::new(), namespaces: BTreeMap::new() }
    }

    /// A pod without labels, in a namespace without labels and in each that has policies.
    fn plain(&mut self) {
        let mut homes: BTreeSet<Arc<str>> = BTreeSet::new();
        for cluster in self.real {
            let of = cluster.policies.keys().map(|(_, name)| name.namespace.clone());
            homes.extend(of.filter(|name| !name.is_empty()));
        }
        homes.insert(self.new_namespace(&Labels::default()));
        for home in homes {
            self.pod(&home, &Labels::default());
        }
    }

    /// A pod that all of these selectors match, if there can be one that is easily made.
    fn meeting(&mut self, scopes: &[&PodScope]) {
        if self.seen.len() >= MOST {
            return;
        }
        let pods = scopes.iter().map(|scope| &scope.pods);
        let Some(labels) = meeting(&pods) else { return };
        let own = scopes.iter().find_map(|scope| match &scope.namespaces {
            NamespaceScope::Own(name) => Some(name.clone()),
            NamespaceScope::Matching(_) => None,
        });
        let selectors = scopes.iter().filter_map(|scope| match &scope.namespaces {
            NamespaceScope::Own(_) => None,
            NamespaceScope::Matching(selector) => Some(selector),
        });
        let fits = |its: &Labels| selectors.clone().all(|selector| selector.matches(its));
        let same_own = scopes.iter().all(|scope| match &scope.namespaces {
            NamespaceScope::Own(name) => own.as_ref() == Some(name),
            NamespaceScope::Matching(_) => true,
        });
        let home = match own {
            _ if !same_own => return,
            Some(name) => {
                let stated =
                    self.bare[1].namespaces.get(&name).or(self.bare[0].namespaces.get(&name));
                if !stated
                    .map_or_else(|| selectors.clone().next().is_none(), |its| fits(&its.labels))
                {
                    return;
                }
                name
            }
            None => match meeting(&selectors) {
                Some(labels) if labels.get(METADATA_NAME).is_none() => {
                    let with_name = labels.with(METADATA_NAME, NEW);
                    if !fits(&with_name) {
                        return;
                    }
                    self.new_namespace(&labels)
                }
                _ => return,
            },
        };
        self.pod(&home, &labels);
    }

    fn new_namespace(&mut self, labels: &Labels) -> Arc<str> {
        if let Some(name) = self.namespaces.get(labels) {
            return name.clone();
        }
        let taken = |name: &str| self.real.iter().any(|its| its.namespaces.contains_key(name));
        let number = self.namespaces.len() + 1;
        let mut name: Arc<str> = format!("{NEW}-{number}").into();
        while taken(&name) {
            name = format!("{name}-").into();
        }
        for cluster in &mut self.bare {
            cluster.put_namespace(Namespace::new(name.clone(), labels));
        }
        self.namespaces.insert(labels.clone(), name.clone());
        name
    }

    fn pod(&mut self, namespace: &Arc<str>, labels: &Labels) {
        if !self.seen.insert((namespace.clone(), labels.clone())) {
            return;
        }
        // Two of each, so that they can be asked about each other.
        for copy in ["a", "b"] {
            let name = format!("{NEW}-{}-{copy}", self.seen.len());
            let mut pod = Pod::new(namespace.clone(), name.as_str(), labels.clone());
            pod.ports.clone_from(&self.ports);
            for cluster in &mut self.bare {
                cluster.put_pod(pod.clone());
            }
        }
    }

    fn ask(self) -> Future {
        let found = super::difference(&self.bare[0], &self.bare[1], By::Pod);
        let somebody = |row: &Row<'_>| match row {
            Row::Outside(_) => Somebody::Outside(row.label()),
            Row::Pods { before, after, .. } => {
                let pod = before.first().or(after.first());
                let namespace = row.namespace().unwrap_or_default();
                let new = self.namespaces.iter().find(|(_, name)| ***name == *namespace);
                Somebody::Pod {
                    labels: pod.map(|pod| pod.labels.clone()).unwrap_or_default(),
                    namespace: namespace.to_owned(),
                    new_namespace: new.map(|(labels, _)| labels.clone()),
                }
            }
        };
        let mut examples: Vec<Example> = Vec::new();
        for change in found.changes.iter().filter(|change| change.kind != Kind::Unknown) {
            let example = Example {
                src: somebody(&found.rows[change.src]),
                dst: somebody(&found.rows[change.dst]),
                opened: change.shift.all.opened.clone(),
                closed: change.shift.all.closed.clone(),
            };
            if !examples.contains(&example) && examples.len() < SHOWN {
                examples.push(example);
            }
        }
        if examples.is_empty() {
            Future::Unproved { tried: self.seen.len() }
        } else {
            Future::Differs(examples)
        }
    }
}

/// What pods and namespaces that do not exist are called.
const NEW: &str = "new";

/// The first number of a port that nobody has, from the range that nobody registers (RFC 6335 §6).
const MADE_UP: u16 = 49152;

/// Few labels that all of these selectors match.
fn meeting<'s>(selectors: &(impl Iterator<Item = &'s Selector> + Clone)) -> Option<Labels> {
    let mut labels: BTreeMap<Arc<str>, Arc<str>> = BTreeMap::new();
    for requirement in selectors.clone().flat_map(|selector| &selector.requirements) {
        let value = match &requirement.operator {
            Operator::Equals(value) => value.clone(),
            Operator::In(values) => match labels.get(&requirement.key) {
                Some(value) if values.contains(value) => continue,
                _ => values.first()?.clone(),
            },
            Operator::Exists if labels.contains_key(&requirement.key) => continue,
            Operator::Exists => "any".into(),
            Operator::NotIn(_) | Operator::DoesNotExist => continue,
        };
        labels.insert(requirement.key.clone(), value);
    }
    let labels: Labels = labels.into_iter().collect();
    let mut selectors = selectors.clone();
    selectors.all(|selector| selector.matches(&labels)).then_some(labels)
}

//! What do rules need to know of the cluster, again and again?
//!
//! ```text
//!   pods ──▶ classes (alike to every policy)       namespace ──▶ its classes, its policies
//!   scope ──▶ classes that it selects, once        class ──▶ the cluster as far as it selects the class
//! ```
//!
//! Who selects whom and what passes is the engine's word; this only keeps from asking twice.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use podwall_policy::address::Family;
use podwall_policy::cluster::Cluster;
use podwall_policy::evaluate::{Evaluation, Side, side};
use podwall_policy::flow::{Flow, Party};
use podwall_policy::label::Labels;
use podwall_policy::matching::{Match, selects};
use podwall_policy::object::{Name, Pod, Service};
use podwall_policy::policy::{Direction, NamespaceScope, Peer, PodScope, Policy, Tier};
use podwall_policy::selector::Selector;
use podwall_policy::source::FieldPath;
use serde_json::Value as Json;

use super::Input;
use super::words::{json_at, who};
use crate::blocks::Blocks;
use crate::outside;
use crate::podclass::{Key, Keys};

/// Pods that no policy can tell apart.
#[derive(Clone, Debug)]
pub(super) struct Class<'a> {
    /// The first of them.
    pub(super) pod: &'a Pod,
    /// How many.
    pub(super) count: usize,
    /// One of each workload, and those that are nobody's.
    pub(super) makers: Vec<&'a Pod>,
}

/// What a scope selects.
#[derive(Clone, Debug, Default)]
pub(super) struct Selected {
    /// Classes of pods that it certainly selects.
    pub(super) classes: Vec<usize>,
    /// Whether labels of namespaces are missing that could make it select more.
    pub(super) unknown: bool,
    /// Whether it selects the template of a workload that has no pods now.
    pub(super) templates: bool,
    /// How many pods it could have selected: those of the namespaces that it looks into.
    pub(super) looked_at: usize,
}

/// Everything about one cluster that rules ask for.
pub(super) struct View<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) complete: bool,
    written: &'a BTreeMap<Name, &'a Json>,
    /// NetworkPolicies that are in force, by name.
    pub(super) policies: Vec<&'a Policy>,
    /// Pods that policies can select.
    pub(super) classes: Vec<Class<'a>>,
    in_namespace: HashMap<&'a str, Vec<usize>>,
    policies_in: HashMap<&'a str, Vec<usize>>,
    templates: HashMap<&'a str, Vec<&'a Labels>>,
    /// Pods of the host's network and such as have ended.
    others: HashMap<&'a str, Vec<&'a Pod>>,
    services: HashMap<&'a str, Vec<&'a Service>>,
    scopes: RefCell<HashMap<PodScope, Rc<Selected>>>,
    namespaces: RefCell<HashMap<Selector, Rc<Namespaces<'a>>>>,
    selected: Vec<OnceCell<Vec<&'a Policy>>>,
    narrowed: Vec<OnceCell<Cluster>>,
}

/// The namespaces that a selector selects.
#[derive(Debug, Default)]
pub(super) struct Namespaces<'a> {
    pub(super) certain: Vec<&'a Arc<str>>,
    pub(super) unknown: bool,
}

impl<'a> View<'a> {
    pub(super) fn new(input: &Input<'a>) -> Self {
        let cluster = input.cluster;
        let keys = Keys::new(cluster, Blocks::new(outside::blocks(cluster)));
        let mut known: HashMap<Key<'a>, usize> = HashMap::new();
        let mut classes: Vec<Class<'a>> = Vec::new();
        let mut in_namespace: HashMap<&str, Vec<usize>> = HashMap::new();
        let mut others: HashMap<&str, Vec<&Pod>> = HashMap::new();
        for pod in cluster.pods.values() {
            if !pod.is_subject() {
                others.entry(&pod.name.namespace).or_default().push(pod);
                continue;
            }
            let next = classes.len();
            let class = *known.entry(keys.key(pod, false)).or_insert(next);
            if class == next {
                classes.push(Class { pod, count: 0, makers: Vec::new() });
                in_namespace.entry(&pod.name.namespace).or_default().push(class);
            }
            let class = &mut classes[class];
            class.count += 1;
            // Pods come by name, so those of one workload mostly one after the other.
            if class.makers.last().is_none_or(|last| pod.owner.is_none() || last.owner != pod.owner)
            {
                class.makers.push(pod);
            }
        }
        let mut templates: HashMap<&str, Vec<&Labels>> = HashMap::new();
        for workload in cluster.workloads.values() {
            let template = &workload.template;
            templates.entry(&workload.name.namespace).or_default().push(&template.labels);
        }
        let in_force = |policy: &&Policy| policy.tier == Tier::NetworkPolicy && !policy.dry_run;
        let policies: Vec<&Policy> = cluster.policies.values().filter(in_force).collect();
        let mut policies_in: HashMap<&str, Vec<usize>> = HashMap::new();
        for (i, policy) in policies.iter().enumerate() {
            policies_in.entry(&policy.name.namespace).or_default().push(i);
        }
        let mut services: HashMap<&str, Vec<&Service>> = HashMap::new();
        for service in cluster.services.values() {
            services.entry(&service.name.namespace).or_default().push(service);
        }
        let narrowed = classes.iter().map(|_| OnceCell::new()).collect();
        let selected = classes.iter().map(|_| OnceCell::new()).collect();
        Self {
            cluster,
            complete: input.complete,
            written: input.written,
            policies,
            classes,
            in_namespace,
            policies_in,
            templates,
            others,
            services,
            scopes: RefCell::default(),
            namespaces: RefCell::default(),
            selected,
            narrowed,
        }
    }

    /// The classes of pods of a namespace.
    pub(super) fn in_namespace(&self, namespace: &str) -> &[usize] {
        self.in_namespace.get(namespace).map_or(&[], Vec::as_slice)
    }

    /// How many pods a namespace has.
    pub(super) fn pods_in(&self, namespace: &str) -> usize {
        self.in_namespace(namespace).iter().map(|class| self.classes[*class].count).sum()
    }

    /// Whether a namespace has pods of any kind, or workloads that could make some.
    pub(super) fn is_populated(&self, namespace: &str) -> bool {
        self.in_namespace.contains_key(namespace)
            || self.templates.contains_key(namespace)
            || self.others.contains_key(namespace)
    }

    /// Pods of a namespace that no policy can select: of the host's network, or ended.
    pub(super) fn others(&self, namespace: &str) -> &[&'a Pod] {
        self.others.get(namespace).map_or(&[], Vec::as_slice)
    }

    /// The policies of a namespace.
    pub(super) fn policies_in(&self, namespace: &str) -> impl Iterator<Item = &'a Policy> {
        self.policies_in.get(namespace).into_iter().flatten().map(|i| self.policies[*i])
    }

    /// Every set of labels of a namespace: pods of any kind and templates.
    pub(super) fn labels_in(&self, namespace: &str) -> impl Iterator<Item = &'a Labels> {
        let pods =
            self.in_namespace(namespace).iter().map(|class| &self.classes[*class].pod.labels);
        let others = self.others(namespace).iter().map(|pod| &pod.labels);
        let templates = self.templates.get(namespace).into_iter().flatten().copied();
        pods.chain(others).chain(templates)
    }

    /// The Services whose selector takes a class.
    pub(super) fn services_of(&self, class: usize) -> impl Iterator<Item = &'a Service> {
        let pod = self.classes[class].pod;
        let services = self.services.get(&*pod.name.namespace).into_iter().flatten().copied();
        services.filter(|service| {
            service.selector.as_ref().is_some_and(|selector| {
                selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
            })
        })
    }

    /// The policy as it is written.
    pub(super) fn written(&self, policy: &Policy) -> Option<&'a Json> {
        self.written.get(&policy.name).copied()
    }

    /// A field of a policy as it is written.
    pub(super) fn written_at(&self, policy: &Name, path: &FieldPath) -> Option<&'a Json> {
        json_at(self.written.get(policy)?, path)
    }

    /// The namespaces that a selector selects.
    pub(super) fn namespaces(&self, selector: &Selector) -> Rc<Namespaces<'a>> {
        if let Some(known) = self.namespaces.borrow().get(selector) {
            return known.clone();
        }
        let mut found = Namespaces::default();
        for name in self.cluster.namespaces.keys() {
            let scope = PodScope {
                namespaces: NamespaceScope::Matching(selector.clone()),
                pods: Selector::everything(),
            };
            match selects(self.cluster, &scope, &Pod::new(name.clone(), "", Labels::default())) {
                Match::Yes => found.certain.push(name),
                Match::Unknown(_) => found.unknown = true,
                Match::No(_) => {}
            }
        }
        let found = Rc::new(found);
        self.namespaces.borrow_mut().insert(selector.clone(), found.clone());
        found
    }

    /// The classes that a scope selects.
    pub(super) fn select(&self, scope: &PodScope) -> Rc<Selected> {
        if let Some(known) = self.scopes.borrow().get(scope) {
            return known.clone();
        }
        let mut found = Selected::default();
        let namespaces: Vec<&str> = match &scope.namespaces {
            NamespaceScope::Own(own) => vec![own],
            NamespaceScope::Matching(selector) => {
                let namespaces = self.namespaces(selector);
                found.unknown = namespaces.unknown;
                namespaces.certain.iter().map(|name| &***name).collect()
            }
        };
        for namespace in namespaces {
            found.looked_at += self.pods_in(namespace);
            let matching = self.in_namespace(namespace).iter().copied();
            found.classes.extend(
                matching.filter(|class| scope.pods.matches(&self.classes[*class].pod.labels)),
            );
            let mut templates = self.templates.get(namespace).into_iter().flatten();
            found.templates |= templates.any(|labels| scope.pods.matches(labels));
        }
        found.classes.sort_unstable();
        let found = Rc::new(found);
        self.scopes.borrow_mut().insert(scope.clone(), found.clone());
        found
    }

    /// How many pods some classes stand for.
    pub(super) fn count(&self, classes: &[usize]) -> usize {
        classes.iter().map(|class| self.classes[*class].count).sum()
    }

    /// Some pods of classes by the names of their workloads, and how many more there are of these.
    pub(super) fn name(&self, classes: &[usize]) -> String {
        const SHOWN: usize = 3;
        let makers = classes.iter().flat_map(|class| &self.classes[*class].makers);
        let mut names: Vec<String> = makers.map(|pod| who(pod)).collect();
        names.sort();
        names.dedup();
        let list = names[..names.len().min(SHOWN)].join(", ");
        match names.len().saturating_sub(SHOWN) {
            0 => list,
            more => format!("{list} and {more} more"),
        }
    }

    /// The policies that select a class.
    pub(super) fn selected_by(&self, class: usize) -> &[&'a Policy] {
        self.selected[class].get_or_init(|| {
            let pod = self.classes[class].pod;
            let policies = self.policies_in(&pod.name.namespace);
            policies.filter(|policy| policy.subject.pods.matches(&pod.labels)).collect()
        })
    }

    /// Whether no rule of a class can match a pod of another, whatever is not known: a short cut
    /// past the evaluator, which would say the same.
    pub(super) fn is_closed(&self, class: usize, other: usize, direction: Direction) -> bool {
        let mut isolated = false;
        for rules in self.selected_by(class).iter().filter_map(|policy| policy.rules(direction)) {
            isolated = true;
            let may_match = rules.iter().any(|rule| {
                rule.peers.is_empty()
                    || rule.peers.iter().any(|peer| match peer {
                        Peer::Block(block) => {
                            let ips = &self.classes[other].pod.ips;
                            ips.is_empty() || ips.iter().any(|ip| block.contains(*ip))
                        }
                        Peer::Pods(scope) => {
                            let selected = self.select(scope);
                            selected.unknown || selected.classes.binary_search(&other).is_ok()
                        }
                    })
            });
            if may_match {
                return false;
            }
        }
        isolated
    }

    /// The cluster with only the policies that can select a class.
    pub(super) fn narrowed(&self, class: usize) -> &Cluster {
        self.narrowed[class].get_or_init(|| Cluster {
            namespaces: self.cluster.namespaces.clone(),
            nodes: self.cluster.nodes.clone(),
            policies: self
                .selected_by(class)
                .iter()
                .map(|policy| ((policy.tier, policy.name.clone()), (*policy).clone()))
                .collect(),
            ..Cluster::default()
        })
    }

    /// What the policies of a pod of a class say of a flow from or to it.
    pub(super) fn side(&self, class: usize, other: Party<'_>, direction: Direction) -> Vec<Side> {
        let own = Party::Pod(self.classes[class].pod);
        let (src, dst) = match direction {
            Direction::Egress => (own, other),
            Direction::Ingress => (other, own),
        };
        let flows = Flow::between(src, dst);
        flows.iter().map(|flow| side(self.narrowed(class), flow, direction)).collect()
    }

    /// What passes between pods of two classes, over each family.
    pub(super) fn between(&self, src: usize, dst: usize) -> Vec<(Family, Evaluation)> {
        let (from, to) = (self.classes[src].pod, self.classes[dst].pod);
        // Between two of a kind: a pod always reaches itself.
        let twin = (src == dst).then(|| Pod {
            name: Name::new(to.name.namespace.clone(), format!("{}-twin", to.name.name)),
            ..to.clone()
        });
        let to = twin.as_ref().unwrap_or(to);
        let ask = |flow: &Flow<'_>| Evaluation {
            egress: side(self.narrowed(src), flow, Direction::Egress),
            ingress: side(self.narrowed(dst), flow, Direction::Ingress),
        };
        let flows = Flow::between(Party::Pod(from), Party::Pod(to));
        flows.iter().map(|flow| (flow.family, ask(flow))).collect()
    }
}

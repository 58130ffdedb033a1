//! Which pods, as nobody has made them yet, can the rules of one side tell apart?
//!
//! ```text
//!   selectors in use      app=web · app in (db,web) · env exists
//!   values of a key       app: web | db | other | absent       env: any | absent
//!   kept, one of a kind   those that the selectors treat differently
//!   pods                  their combinations that meet a scope, the least matched first
//! ```
//!
//! A value that no selector names stands for all such values.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use podwall_policy::cluster::Cluster;
use podwall_policy::label::{Labels, METADATA_NAME};
use podwall_policy::object::{Namespace, Pod};
use podwall_policy::policy::{NamespaceScope, PodScope};
use podwall_policy::selector::{Operator, Requirement, Selector};

/// The name of pods that do not exist.
pub const ANY_POD: &str = "any-pod";

/// More combinations of the values of all keys than these are not tried: each key is varied by itself
/// then, and each other selector is met once.
const MOST: usize = 4_096;

/// A pod that does not exist, and the namespace that it would be in.
#[derive(Clone, Debug)]
pub(super) struct Stranger {
    pub(super) namespace: Namespace,
    pub(super) pod: Pod,
}

/// The selectors that one side of a pod uses.
pub(super) struct Candidates<'a> {
    cluster: &'a Cluster,
    scopes: &'a [PodScope],
    /// The workload's own namespace.
    own: &'a Arc<str>,
    /// A namespace's name that nobody uses.
    fresh: Arc<str>,
}

/// The value of a key, `None` where the label is not there.
type Value = Option<Arc<str>>;

impl<'a> Candidates<'a> {
    /// For the scopes of one side's rules.
    pub(super) fn new(cluster: &'a Cluster, own: &'a Arc<str>, scopes: &'a [PodScope]) -> Self {
        let mut named: BTreeSet<&str> = cluster.namespaces.keys().map(|name| &**name).collect();
        for scope in scopes {
            match &scope.namespaces {
                NamespaceScope::Own(name) => drop(named.insert(name)),
                NamespaceScope::Matching(selector) => {
                    named.extend(selector.requirements.iter().flat_map(mentioned));
                }
            }
        }
        let fresh = unused("any-namespace", |name| named.contains(name));
        Self { cluster, scopes, own, fresh }
    }

    /// Pods that meet a scope, one at least for each way in which the rules treat them (as long as
    /// there are not too many); none if nobody can meet it.
    pub(super) fn meeting(&self, scope: &PodScope) -> Vec<Stranger> {
        let asked: Vec<&Selector> = self.scopes.iter().map(|other| &other.pods).collect();
        let labels = combinations(&scope.pods, &asked, None).into_iter();
        let labels = one_of_each(labels.map(|labels| labels.into_iter().collect()), |labels| {
            asked.iter().map(|selector| selector.matches(labels)).collect()
        });
        let namespaces = one_of_each(self.namespaces(&scope.namespaces).into_iter(), |namespace| {
            let takes = |scope: &PodScope| match &scope.namespaces {
                NamespaceScope::Own(own) => *own == namespace.name,
                NamespaceScope::Matching(selector) => selector.matches(&namespace.labels),
            };
            self.scopes.iter().map(takes).collect()
        });
        let mut out: Vec<(Vec<bool>, Stranger)> = Vec::new();
        let mut seen: BTreeSet<Vec<bool>> = BTreeSet::new();
        for (takes, namespace) in &namespaces {
            for (fits, labels) in &labels {
                let met: Vec<bool> = takes.iter().zip(fits).map(|(a, b)| *a && *b).collect();
                if !seen.insert(met.clone()) {
                    continue;
                }
                let pod = Pod::new(namespace.name.clone(), ANY_POD, labels.clone());
                out.push((met, Stranger { namespace: namespace.clone(), pod }));
            }
        }
        out.sort_by_key(|(met, _)| met.iter().filter(|met| **met).count());
        out.into_iter().map(|(_, stranger)| stranger).collect()
    }

    fn namespaces(&self, wanted: &NamespaceScope) -> Vec<Namespace> {
        let selector = match wanted {
            NamespaceScope::Own(name) => {
                let stated = self.cluster.namespaces.get(name).cloned();
                return vec![stated.unwrap_or_else(|| Namespace::implied(name.clone()))];
            }
            NamespaceScope::Matching(selector) => selector,
        };
        let asked: Vec<&Selector> = self
            .scopes
            .iter()
            .filter_map(|scope| match &scope.namespaces {
                NamespaceScope::Matching(selector) => Some(selector),
                NamespaceScope::Own(_) => None,
            })
            .collect();
        let mut out: Vec<Namespace> = Vec::new();
        for labels in combinations(selector, &asked, Some(&self.fresh)) {
            let name = labels.iter().find(|(key, _)| **key == *METADATA_NAME);
            let name = name.map_or_else(|| self.fresh.clone(), |(_, name)| name.clone());
            let labels: Labels = labels.into_iter().collect();
            // One that is there is what it is, unless only other labels would do; to give the
            // workload's own another label would be to ask about another workload.
            let namespace = match self.cluster.namespaces.get(&name) {
                Some(its) if its.labels_known && selector.matches(&its.labels) => its.clone(),
                _ if name == *self.own => continue,
                _ => Namespace::new(name.clone(), &labels),
            };
            if !out.contains(&namespace) {
                out.push(namespace);
            }
        }
        out
    }
}

/// The first of each kind, with what tells it from the others.
fn one_of_each<T>(
    all: impl Iterator<Item = T>,
    kind: impl Fn(&T) -> Vec<bool>,
) -> Vec<(Vec<bool>, T)> {
    let mut seen: BTreeSet<Vec<bool>> = BTreeSet::new();
    all.map(|one| (kind(&one), one)).filter(|(kind, _)| seen.insert(kind.clone())).collect()
}

/// Sets of labels that meet a selector and that the others treat differently, the least matched
/// first. `name` is the value of a namespace's name where no selector names one.
fn combinations(
    selector: &Selector,
    others: &[&Selector],
    name: Option<&Arc<str>>,
) -> Vec<Vec<(Arc<str>, Arc<str>)>> {
    let mut keys: BTreeMap<&Arc<str>, Vec<&Requirement>> = BTreeMap::new();
    for wants in others.iter().flat_map(|other| &other.requirements).chain(&selector.requirements) {
        let all = keys.entry(&wants.key).or_default();
        if !all.contains(&wants) {
            all.push(wants);
        }
    }
    let mut choices: Vec<(&Arc<str>, Vec<Value>)> = Vec::new();
    for (key, requirements) in keys {
        let own = selector.requirements.iter().filter(|wants| wants.key == *key);
        let own: Vec<&Requirement> = own.collect();
        let values = values(key, &requirements, &own, name);
        if values.is_empty() {
            return Vec::new();
        }
        choices.push((key, values));
    }
    let product: usize =
        choices.iter().fold(1, |all: usize, (_, values)| all.saturating_mul(values.len()));
    let first: Vec<usize> = vec![0; choices.len()];
    let picks: Vec<Vec<usize>> = if product <= MOST {
        let all = |mut at: usize| {
            let mut pick = first.clone();
            for (place, (_, values)) in pick.iter_mut().zip(&choices) {
                *place = at % values.len();
                at /= values.len();
            }
            pick
        };
        (0..product).map(all).collect()
    } else {
        let mut picks = vec![first.clone()];
        for (at, (_, values)) in choices.iter().enumerate() {
            picks.extend((1..values.len()).map(|value| {
                let mut pick = first.clone();
                pick[at] = value;
                pick
            }));
        }
        picks.extend(others.iter().map(|other| meeting(other, &choices)));
        picks
    };
    let labels = |pick: Vec<usize>| {
        let pairs = choices.iter().zip(pick);
        pairs
            .filter_map(|((key, values), at)| Some(((*key).clone(), values.get(at)?.clone()?)))
            .collect()
    };
    picks.into_iter().map(labels).collect()
}

/// The choice that meets another selector as well, as far as there is one.
fn meeting(selector: &Selector, choices: &[(&Arc<str>, Vec<Value>)]) -> Vec<usize> {
    let fits = |(key, values): &(&Arc<str>, Vec<Value>)| {
        let fits = |value: &Value| {
            let labels: Labels =
                value.iter().map(|value| ((*key).clone(), value.clone())).collect();
            let own = selector.requirements.iter().filter(|wants| wants.key == **key);
            own.into_iter().all(|wants| wants.matches(&labels))
        };
        values.iter().position(fits).unwrap_or_default()
    };
    choices.iter().map(fits).collect()
}

/// The values of a key that meet the selector's own requirements, one of each kind that all
/// requirements tell apart, the least matched first.
fn values(
    key: &str,
    all: &[&Requirement],
    own: &[&Requirement],
    name: Option<&Arc<str>>,
) -> Vec<Value> {
    let stated: BTreeSet<&str> = all.iter().flat_map(|wants| mentioned(wants)).collect();
    let is_name = key == METADATA_NAME && name.is_some();
    let other = match name {
        Some(name) if is_name => name.clone(),
        _ => unused("other", |value| stated.contains(value)),
    };
    let absent = (!is_name).then_some(None);
    let known = stated.iter().map(|value| Some(Arc::from(*value)));
    let mut found: Vec<(usize, Vec<bool>, Value)> = Vec::new();
    for value in absent.into_iter().chain([Some(other)]).chain(known) {
        let labels: Labels =
            value.iter().map(|value| (Arc::<str>::from(key), value.clone())).collect();
        if !own.iter().all(|wants| wants.matches(&labels)) {
            continue;
        }
        let met: Vec<bool> = all.iter().map(|wants| wants.matches(&labels)).collect();
        if !found.iter().any(|(_, its, _)| *its == met) {
            found.push((met.iter().filter(|met| **met).count(), met, value));
        }
    }
    found.sort_by_key(|(met, _, _)| *met);
    found.into_iter().map(|(_, _, value)| value).collect()
}

/// The values that a requirement names.
fn mentioned(wants: &Requirement) -> Vec<&str> {
    match &wants.operator {
        Operator::Equals(value) => vec![value],
        Operator::In(values) | Operator::NotIn(values) => values.iter().map(|v| &**v).collect(),
        Operator::Exists | Operator::DoesNotExist => Vec::new(),
    }
}

/// A word that is not in use.
fn unused(word: &str, used: impl Fn(&str) -> bool) -> Arc<str> {
    let mut word = word.to_owned();
    while used(&word) {
        word.push_str("-x");
    }
    word.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(namespaces: &str, pods: &str) -> PodScope {
        PodScope {
            namespaces: NamespaceScope::Matching(Selector::parse(namespaces).unwrap()),
            pods: Selector::parse(pods).unwrap(),
        }
    }

    fn found(scopes: &[PodScope], of: usize) -> Vec<String> {
        let cluster = Cluster::default();
        let own = Arc::from("own");
        let candidates = Candidates::new(&cluster, &own, scopes);
        let found = candidates.meeting(&scopes[of]);
        found.iter().map(|it| format!("{} {}", it.namespace.name, it.pod.labels)).collect()
    }

    #[test]
    fn the_first_pod_has_no_more_labels_than_are_demanded() {
        let scopes = [scope("", "app=web"), scope("", "app in (db,web),env"), scope("", "")];
        assert_eq!(found(&scopes, 0), ["any-namespace app=web", "any-namespace app=web,env=other"]);
        assert_eq!(found(&scopes, 1).len(), 2, "app=db and app=web");
        assert_eq!(found(&scopes, 2).len(), 4, "in neither, in one, in the other, in both");
    }

    #[test]
    fn a_selector_that_nobody_can_meet_has_no_pod() {
        let scopes = [scope("", "app=web,app=db"), scope("x,!x", "")];
        assert!(found(&scopes, 0).is_empty());
        assert!(found(&scopes, 1).is_empty());
    }

    #[test]
    fn a_namespace_that_is_named_has_that_name() {
        let scopes = [scope("kubernetes.io/metadata.name=prod", ""), scope("", "")];
        assert_eq!(found(&scopes, 0).len(), 1);
        assert!(found(&scopes, 0)[0].starts_with("prod "));
        let names: Vec<_> = found(&scopes, 1);
        assert!(names[0].starts_with("any-namespace "), "{names:?}");
        assert!(names.iter().any(|name| name.starts_with("prod ")), "{names:?}");
    }

    #[test]
    fn too_many_keys_are_varied_one_by_one() {
        let all: Vec<PodScope> = (0..20).map(|i| scope("", &format!("key-{i}"))).collect();
        let found = found(&all, 0);
        assert_eq!(found.len(), 20);
        assert_eq!(found[0], "any-namespace key-0=other");
    }
}

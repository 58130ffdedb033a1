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

use rustc_hash::{FxHashMap, FxHashSet};

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
    /// The scopes that it meets, by place, ascending.
    pub(super) meets: Vec<usize>,
}

/// The selectors that one side of a pod uses.
pub(super) struct Candidates<'a> {
    cluster: &'a Cluster,
    /// The workload's own namespace.
    own: &'a Arc<str>,
    /// A namespace's name that nobody uses.
    fresh: Arc<str>,
    /// What the scopes ask of pods.
    pods: Asked<'a>,
    /// What they ask of namespaces.
    namespaces: Asked<'a>,
    /// The places of scopes that name a namespace.
    named: FxHashMap<&'a Arc<str>, Vec<usize>>,
}

/// Selectors, so that not each has to be asked. Owned by the candidates.
#[derive(Default)]
struct Asked<'a> {
    /// With the places of their scopes, ascending.
    list: Vec<(usize, &'a Selector)>,
    keys: BTreeMap<&'a Arc<str>, Wanted<'a>>,
    /// Selectors that demand one of certain values of a key, by key and value; places in the list.
    by_value: FxHashMap<(&'a str, &'a str), Vec<usize>>,
    /// Those that demand none.
    others: Vec<usize>,
}

/// What is asked of one key.
#[derive(Default)]
struct Wanted<'a> {
    requirements: Vec<&'a Requirement>,
    seen: FxHashSet<&'a Requirement>,
    /// The requirements that name a value, by place.
    mentions: BTreeMap<&'a str, Vec<usize>>,
    /// Those that only tell whether the label is there.
    presence: Vec<usize>,
    /// How many a value meets that none of them names.
    met_by_others: usize,
}

/// The value of a key, `None` where the label is not there.
type Value = Option<Arc<str>>;

impl<'a> Candidates<'a> {
    /// For the scopes of one side's rules.
    pub(super) fn new(cluster: &'a Cluster, own: &'a Arc<str>, scopes: &'a [PodScope]) -> Self {
        let mut taken: BTreeSet<&str> = cluster.namespaces.keys().map(|name| &**name).collect();
        let (mut pods, mut namespaces) = (Asked::default(), Asked::default());
        let mut named: FxHashMap<&Arc<str>, Vec<usize>> = FxHashMap::default();
        for (place, scope) in scopes.iter().enumerate() {
            pods.add(place, &scope.pods);
            match &scope.namespaces {
                NamespaceScope::Own(name) => {
                    taken.insert(name);
                    named.entry(name).or_default().push(place);
                }
                NamespaceScope::Matching(selector) => {
                    taken.extend(selector.requirements.iter().flat_map(mentioned));
                    namespaces.add(place, selector);
                }
            }
        }
        let fresh = unused("any-namespace", |name| taken.contains(name));
        Self { cluster, own, fresh, pods, namespaces, named }
    }

    /// Pods that meet one of the scopes, one at least for each way in which the rules treat them (as
    /// long as there are not too many); none if nobody can meet it.
    pub(super) fn meeting(&self, scope: &PodScope) -> Vec<Stranger> {
        let labels = combinations(&scope.pods, &self.pods, None).into_iter();
        let labels = labels.map(|labels| labels.into_iter().collect::<Labels>());
        let labels = one_of_each(labels, |labels| self.pods.met_by(labels));
        let namespaces = self.namespaces(&scope.namespaces).into_iter();
        let namespaces = one_of_each(namespaces, |namespace| {
            let mut takes = self.named.get(&namespace.name).cloned().unwrap_or_default();
            takes.extend(self.namespaces.met_by(&namespace.labels));
            takes.sort_unstable();
            takes
        });
        let mut out: Vec<Stranger> = Vec::new();
        let mut seen: FxHashSet<Vec<usize>> = FxHashSet::default();
        for (takes, namespace) in &namespaces {
            for (fits, labels) in &labels {
                let meets = common(takes, fits);
                if !seen.insert(meets.clone()) {
                    continue;
                }
                let pod = Pod::new(namespace.name.clone(), ANY_POD, labels.clone());
                out.push(Stranger { namespace: namespace.clone(), pod, meets });
            }
        }
        out.sort_by_key(|stranger| stranger.meets.len());
        out
    }

    fn namespaces(&self, wanted: &NamespaceScope) -> Vec<Namespace> {
        let selector = match wanted {
            NamespaceScope::Own(name) => {
                let stated = self.cluster.namespaces.get(name).cloned();
                return vec![stated.unwrap_or_else(|| Namespace::implied(name.clone()))];
            }
            NamespaceScope::Matching(selector) => selector,
        };
        let mut out: Vec<Namespace> = Vec::new();
        let mut names: FxHashMap<Arc<str>, Vec<usize>> = FxHashMap::default();
        for labels in combinations(selector, &self.namespaces, Some(&self.fresh)) {
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
            let namesakes = names.entry(name).or_default();
            if !namesakes.iter().any(|at| out[*at] == namespace) {
                namesakes.push(out.len());
                out.push(namespace);
            }
        }
        out
    }
}

impl<'a> Asked<'a> {
    fn add(&mut self, place: usize, selector: &'a Selector) {
        let at = self.list.len();
        self.list.push((place, selector));
        for wants in &selector.requirements {
            self.keys.entry(&wants.key).or_default().add(wants);
        }
        // It is enough to look for it under one of its requirements.
        let demands = selector.requirements.iter().find(|wants| !demanded(wants).is_empty());
        match demands {
            Some(wants) => {
                for value in demanded(wants) {
                    self.by_value.entry((&wants.key, value)).or_default().push(at);
                }
            }
            None => self.others.push(at),
        }
    }

    /// The places of the scopes whose selector labels meet, ascending.
    fn met_by(&self, labels: &Labels) -> Vec<usize> {
        let stated = labels.iter().filter_map(|(key, value)| self.by_value.get(&(key, value)));
        let asked = stated.flatten().chain(&self.others).filter_map(|at| self.list.get(*at));
        let met = asked.filter(|(_, selector)| selector.matches(labels));
        let mut places: Vec<usize> = met.map(|(place, _)| *place).collect();
        places.sort_unstable();
        places
    }
}

impl<'a> Wanted<'a> {
    fn add(&mut self, wants: &'a Requirement) {
        if !self.seen.insert(wants) {
            return;
        }
        let place = self.requirements.len();
        self.requirements.push(wants);
        for value in mentioned(wants) {
            self.mentions.entry(value).or_default().push(place);
        }
        match wants.operator {
            Operator::Exists | Operator::DoesNotExist => self.presence.push(place),
            _ => {}
        }
        self.met_by_others += usize::from(is_met_by_others(wants));
    }

    /// What tells a value from one that no requirement names: these requirements answer otherwise.
    fn otherwise(&self, value: Option<&str>) -> &[usize] {
        match value {
            Some(value) => self.mentions.get(value).map_or(&[], |places| places),
            None => &self.presence,
        }
    }

    /// How many requirements a value meets.
    fn met(&self, value: Option<&str>) -> usize {
        let others = self.otherwise(value).iter().filter_map(|at| self.requirements.get(*at));
        others.fold(
            self.met_by_others,
            |met, wants| {
                if is_met_by_others(wants) { met - 1 } else { met + 1 }
            },
        )
    }
}

/// Whether a value meets it that it does not name.
fn is_met_by_others(wants: &Requirement) -> bool {
    matches!(wants.operator, Operator::NotIn(_) | Operator::Exists)
}

/// The values one of which a label must have to meet it; none if that is not so.
fn demanded(wants: &Requirement) -> Vec<&str> {
    match &wants.operator {
        Operator::Equals(_) | Operator::In(_) => mentioned(wants),
        _ => Vec::new(),
    }
}

/// What two ascending lists have in common.
fn common(a: &[usize], b: &[usize]) -> Vec<usize> {
    let (few, many) = if a.len() < b.len() { (a, b) } else { (b, a) };
    few.iter().copied().filter(|place| many.binary_search(place).is_ok()).collect()
}

/// The first of each kind, with what tells it from the others.
fn one_of_each<T>(
    all: impl Iterator<Item = T>,
    kind: impl Fn(&T) -> Vec<usize>,
) -> Vec<(Vec<usize>, T)> {
    let mut seen: FxHashSet<Vec<usize>> = FxHashSet::default();
    all.map(|one| (kind(&one), one)).filter(|(kind, _)| seen.insert(kind.clone())).collect()
}

/// Sets of labels that meet one of the selectors and that the others treat differently, the least
/// matched first. `name` is the value of a namespace's name where no selector names one.
fn combinations(
    selector: &Selector,
    asked: &Asked<'_>,
    name: Option<&Arc<str>>,
) -> Vec<Vec<(Arc<str>, Arc<str>)>> {
    let mut choices: Vec<(&Arc<str>, Vec<Value>)> = Vec::new();
    for (key, wanted) in &asked.keys {
        let own = selector.requirements.iter().filter(|wants| wants.key == **key);
        let own: Vec<&Requirement> = own.collect();
        let values = values(key, wanted, &own, name);
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
        let places: Vec<FxHashMap<Option<&str>, usize>> = choices
            .iter()
            .map(|(_, values)| values.iter().map(Option::as_deref).zip(0..).collect())
            .collect();
        picks.extend(asked.list.iter().map(|(_, other)| meeting(other, &choices, &places)));
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

/// The choice that meets another selector as well, as far as there is one. `places` has the values
/// of each choice.
fn meeting(
    selector: &Selector,
    choices: &[(&Arc<str>, Vec<Value>)],
    places: &[FxHashMap<Option<&str>, usize>],
) -> Vec<usize> {
    let pick = |((key, values), places): (&(&Arc<str>, Vec<Value>), &FxHashMap<_, usize>)| {
        let own = selector.requirements.iter().filter(|wants| wants.key == **key);
        let own: Vec<&Requirement> = own.collect();
        if own.is_empty() {
            return 0; // the first will do
        }
        let fits = |at: &usize| {
            let value = values.get(*at).and_then(Option::as_ref);
            let labels: Labels =
                value.iter().map(|value| ((*key).clone(), (*value).clone())).collect();
            own.iter().all(|wants| wants.matches(&labels))
        };
        let demands = own.iter().map(|wants| demanded(wants)).find(|values| !values.is_empty());
        let found = match demands {
            Some(demands) => {
                let demands = demands.into_iter();
                let at = demands.filter_map(|value| places.get(&Some(value)).copied());
                at.filter(fits).min()
            }
            None => (0..values.len()).find(fits),
        };
        found.unwrap_or_default()
    };
    choices.iter().zip(places).map(pick).collect()
}

/// The values of a key that meet the selector's own requirements, one of each kind that all
/// requirements tell apart, the least matched first.
fn values(
    key: &str,
    wanted: &Wanted<'_>,
    own: &[&Requirement],
    name: Option<&Arc<str>>,
) -> Vec<Value> {
    let is_name = key == METADATA_NAME && name.is_some();
    let other = match name {
        Some(name) if is_name => name.clone(),
        _ => unused("other", |value| wanted.mentions.contains_key(value)),
    };
    let absent = (!is_name).then_some(None);
    let demands = own.iter().map(|wants| demanded(wants)).find(|values| !values.is_empty());
    let known: Vec<Value> = match demands {
        // No other can meet them.
        Some(mut demands) => {
            demands.sort_unstable();
            demands.into_iter().map(|value| Some(Arc::from(value))).collect()
        }
        None => {
            let stated = wanted.mentions.keys().map(|value| Some(Arc::from(*value)));
            absent.into_iter().chain([Some(other)]).chain(stated).collect()
        }
    };
    let mut found: Vec<(usize, Value)> = Vec::new();
    let mut seen: FxHashSet<&[usize]> = FxHashSet::default();
    for value in known {
        let labels: Labels =
            value.iter().map(|value| (Arc::<str>::from(key), value.clone())).collect();
        if own.iter().all(|wants| wants.matches(&labels))
            && seen.insert(wanted.otherwise(value.as_deref()))
        {
            found.push((wanted.met(value.as_deref()), value));
        }
    }
    found.sort_by_key(|(met, _)| *met);
    found.into_iter().map(|(_, value)| value).collect()
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

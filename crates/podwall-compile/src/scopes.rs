//! Which selectors match this pod, without asking each of them?
//!
//! ```text
//!   pod in ns "shop", app=web ─┬─ Own("shop")        ─┬─ app=web   → selectors that require it
//!                              ├─ ns label team=a    ─┤
//!                              └─ all namespaces     ─┴─ (rest)    → selectors without such a key
//! ```
//!
//! Selectors are kept by namespace scope, and in it by a label that a pod must carry to match. Most
//! selectors are one `matchLabels` pair, so a pod meets few candidates however many there are.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use podwall_policy::label::{Labels, METADATA_NAME};
use podwall_policy::policy::{NamespaceScope, PodScope};
use podwall_policy::selector::{Operator, Requirement, Selector};
use rustc_hash::{FxHashMap, FxHasher};

use crate::ids::Ids;

/// A `key=value` pair as a number. Two pairs may share one: it finds candidates, and each candidate
/// is then matched in full.
pub type LabelHash = u64;

/// The number of a `key=value` pair.
pub fn label_hash(key: &str, value: &str) -> LabelHash {
    let mut hasher = FxHasher::default();
    (key, value).hash(&mut hasher);
    hasher.finish()
}

/// Of what matches the requirement, everything carries one of these labels. `None`: no such list.
pub fn anchors_of(requirement: &Requirement) -> Option<Vec<LabelHash>> {
    match &requirement.operator {
        Operator::Equals(value) => Some(vec![label_hash(&requirement.key, value)]),
        Operator::In(values) => {
            Some(values.iter().map(|value| label_hash(&requirement.key, value)).collect())
        }
        Operator::NotIn(_) | Operator::Exists | Operator::DoesNotExist => None,
    }
}

/// The shortest list of labels of which everything that matches carries one; `None` where there
/// is no such list.
pub fn anchors(selector: &Selector) -> Option<Vec<LabelHash>> {
    selector.requirements.iter().filter_map(anchors_of).min_by_key(Vec::len)
}

/// The same scope in one spelling, so that equal scopes are one: requirements sorted, and a
/// namespace that is asked for by `kubernetes.io/metadata.name` alone is named.
pub fn normal(scope: &PodScope) -> PodScope {
    let sorted = |selector: &Selector| {
        let mut requirements = selector.requirements.clone();
        requirements.sort_unstable();
        requirements.dedup();
        Selector { requirements }
    };
    let namespaces = match &scope.namespaces {
        NamespaceScope::Own(name) => NamespaceScope::Own(name.clone()),
        NamespaceScope::Matching(selector) => match &selector.requirements[..] {
            [Requirement { key, operator: Operator::Equals(name) }] if **key == *METADATA_NAME => {
                NamespaceScope::Own(name.clone())
            }
            _ => NamespaceScope::Matching(sorted(selector)),
        },
    };
    PodScope { namespaces, pods: sorted(&scope.pods) }
}

/// Selectors with something that belongs to each. Owned by who asks the question.
///
/// A selector stands under each label of its list, which may be long; what stands there is shared.
#[derive(Debug)]
pub struct ScopeIndex<T> {
    groups: FxHashMap<u32, Group<T>>,
    numbers: FxHashMap<NamespaceScope, u32>,
    ids: Ids,
    /// Namespace selectors by a label that they require, and their groups.
    by_label: FxHashMap<LabelHash, Vec<(Arc<Selector>, u32)>>,
    /// Namespace selectors without such a label.
    rest: Vec<(Arc<Selector>, u32)>,
}

/// The selectors of pods that stand beside one of namespaces.
#[derive(Debug)]
struct Group<T> {
    by_label: FxHashMap<LabelHash, Vec<(Arc<PodScope>, T)>>,
    rest: Vec<(Arc<PodScope>, T)>,
    len: usize,
}

impl<T> Default for Group<T> {
    fn default() -> Self {
        Self { by_label: FxHashMap::default(), rest: Vec::new(), len: 0 }
    }
}

impl<T> Default for ScopeIndex<T> {
    fn default() -> Self {
        Self {
            groups: FxHashMap::default(),
            numbers: FxHashMap::default(),
            ids: Ids::from(0),
            by_label: FxHashMap::default(),
            rest: Vec::new(),
        }
    }
}

impl<T: Copy + Ord> ScopeIndex<T> {
    /// Whether there is no selector.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Adds a selector, which must be [`normal`].
    pub fn insert(&mut self, scope: &Arc<PodScope>, value: T) {
        let number = match self.numbers.get(&scope.namespaces) {
            Some(number) => *number,
            None => self.add_group(&scope.namespaces),
        };
        let group = self.groups.entry(number).or_default();
        group.len += 1;
        match anchors(&scope.pods) {
            Some(labels) => {
                for label in labels {
                    group.by_label.entry(label).or_default().push((scope.clone(), value));
                }
            }
            None => group.rest.push((scope.clone(), value)),
        }
    }

    fn add_group(&mut self, namespaces: &NamespaceScope) -> u32 {
        let number = self.ids.take();
        self.numbers.insert(namespaces.clone(), number);
        if let NamespaceScope::Matching(selector) = namespaces {
            let selector = Arc::new(selector.clone());
            match anchors(&selector) {
                Some(labels) => {
                    for label in labels {
                        self.by_label.entry(label).or_default().push((selector.clone(), number));
                    }
                }
                None => self.rest.push((selector, number)),
            }
        }
        number
    }

    /// Removes a selector that was added with the same value.
    pub fn remove(&mut self, scope: &PodScope, value: T) {
        let Some(number) = self.numbers.get(&scope.namespaces).copied() else { return };
        let Some(group) = self.groups.get_mut(&number) else { return };
        let gone = |(other, its): &(Arc<PodScope>, T)| *its == value && other.pods == scope.pods;
        let mut found = false;
        match anchors(&scope.pods) {
            Some(labels) => {
                // `In ()` matches nothing and stands under no label.
                found = labels.is_empty();
                for label in labels {
                    found |= remove_from(&mut group.by_label, label, gone);
                }
            }
            None => {
                if let Some(at) = group.rest.iter().position(gone) {
                    group.rest.swap_remove(at);
                    found = true;
                }
            }
        }
        group.len -= usize::from(found);
        if group.len == 0 {
            self.remove_group(&scope.namespaces, number);
        }
    }

    fn remove_group(&mut self, namespaces: &NamespaceScope, number: u32) {
        self.groups.remove(&number);
        self.numbers.remove(namespaces);
        if let NamespaceScope::Matching(selector) = namespaces {
            match anchors(selector) {
                Some(labels) => {
                    for label in labels {
                        remove_from(&mut self.by_label, label, |(_, its)| *its == number);
                    }
                }
                None => self.rest.retain(|(_, its)| *its != number),
            }
        }
        // Nobody keeps these numbers, so that they are free at once.
        self.ids.give_back(number);
        self.ids.settle();
    }

    /// What belongs to the selectors that match a pod with these labels in this namespace, sorted.
    pub fn matching(
        &self,
        namespace: &Arc<str>,
        namespace_labels: &Labels,
        labels: &Labels,
    ) -> Vec<T> {
        if self.groups.is_empty() {
            return Vec::new();
        }
        self.of_namespace(namespace, namespace_labels).matching(labels)
    }

    /// The selectors that can match pods of a namespace; for many of its pods.
    pub fn of_namespace(
        &self,
        namespace: &Arc<str>,
        namespace_labels: &Labels,
    ) -> OfNamespace<'_, T> {
        let own = self.numbers.get(&NamespaceScope::Own(namespace.clone())).copied();
        let others = self.namespace_selectors(namespace_labels).map(|(_, number)| *number);
        let mut numbers: Vec<u32> = own.into_iter().chain(others).collect();
        numbers.sort_unstable();
        numbers.dedup(); // a selector stands under each of its labels
        OfNamespace(numbers.iter().filter_map(|number| self.groups.get(number)).collect())
    }

    /// The selectors that might match pods of a namespace of whose labels only the name is known:
    /// those of every namespace selector. Each needs a closer look.
    pub fn of_unstated_namespace(&self, namespace: &Arc<str>) -> OfNamespace<'_, T> {
        let might = |scope: &NamespaceScope| match scope {
            NamespaceScope::Own(name) => name == namespace,
            NamespaceScope::Matching(_) => true,
        };
        let numbers = self.numbers.iter().filter(|(scope, _)| might(scope));
        OfNamespace(numbers.filter_map(|(_, number)| self.groups.get(number)).collect())
    }

    /// Whether some namespace selector matches one of the two sets of labels and not the other.
    pub fn tells_apart(&self, before: &Labels, after: &Labels) -> bool {
        let differs = |a: &Labels, b: &Labels| {
            self.namespace_selectors(a).any(|(selector, _)| !selector.matches(b))
        };
        differs(before, after) || differs(after, before)
    }

    /// The namespace selectors that match these labels, and their groups. One that is anchored to
    /// several labels may come twice.
    fn namespace_selectors<'a>(
        &'a self,
        labels: &'a Labels,
    ) -> impl Iterator<Item = &'a (Arc<Selector>, u32)> {
        labels
            .iter()
            .filter_map(|(key, value)| self.by_label.get(&label_hash(key, value)))
            .flatten()
            .chain(&self.rest)
            .filter(|(selector, _)| selector.matches(labels))
    }
}

/// What a [`ScopeIndex`] has for one namespace.
#[derive(Debug)]
pub struct OfNamespace<'a, T>(Vec<&'a Group<T>>);

impl<T: Copy + Ord> OfNamespace<'_, T> {
    /// What belongs to the selectors that match a pod of the namespace, sorted.
    pub fn matching(&self, labels: &Labels) -> Vec<T> {
        let mut found = Vec::new();
        for group in &self.0 {
            let under_labels = labels.iter().filter_map(|(key, value)| {
                (!group.by_label.is_empty())
                    .then(|| group.by_label.get(&label_hash(key, value)))
                    .flatten()
            });
            for (scope, value) in under_labels.flatten().chain(&group.rest) {
                if scope.pods.matches(labels) {
                    found.push(*value);
                }
            }
        }
        found.sort_unstable();
        found.dedup(); // a selector stands under each of its labels
        found
    }
}

/// Removes the first item that fits, and the list when it is empty.
fn remove_from<V>(
    lists: &mut FxHashMap<LabelHash, Vec<V>>,
    label: LabelHash,
    fits: impl Fn(&V) -> bool,
) -> bool {
    let Some(list) = lists.get_mut(&label) else { return false };
    let at = list.iter().position(fits);
    if let Some(at) = at {
        list.swap_remove(at);
    }
    if list.is_empty() {
        lists.remove(&label);
    }
    at.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&'static str, &'static str)]) -> Labels {
        pairs.iter().copied().collect()
    }

    fn values(list: &[&str]) -> Operator {
        Operator::In(list.iter().map(|v| Arc::from(*v)).collect())
    }

    fn scopes() -> Vec<Arc<PodScope>> {
        let own = |name: &str| NamespaceScope::Own(name.into());
        let of = NamespaceScope::Matching;
        let web = Selector::labels([("app", "web")]);
        let both = Selector::everything().and("app", values(&["web", "db"]));
        let none = Selector::everything().and("app", values(&[]));
        let no_env = Selector::everything().and("env", Operator::DoesNotExist);
        let team = Selector::labels([("team", "a")]);
        let named = Selector::labels([(METADATA_NAME, "shop")]);
        let all = Selector::everything();
        let mut list = Vec::new();
        for namespaces in [
            own("shop"),
            own("bank"),
            of(team),
            of(named),
            of(all.clone()),
            of(both.clone()),
            of(no_env.clone()),
            of(none.clone()),
        ] {
            for pods in [&web, &both, &none, &no_env, &all] {
                let scope = PodScope { namespaces: namespaces.clone(), pods: pods.clone() };
                list.push(Arc::new(normal(&scope)));
            }
        }
        list
    }

    fn naive(scope: &PodScope, ns: &str, ns_labels: &Labels, pod: &Labels) -> bool {
        (match &scope.namespaces {
            NamespaceScope::Own(name) => **name == *ns,
            NamespaceScope::Matching(selector) => selector.matches(ns_labels),
        }) && scope.pods.matches(pod)
    }

    #[test]
    fn the_index_finds_what_asking_each_selector_finds_also_after_removals() {
        let list = scopes();
        let mut index = ScopeIndex::default();
        for (i, scope) in list.iter().enumerate() {
            index.insert(scope, i);
        }
        let mut there: Vec<usize> = (0..list.len()).collect();
        let pods = [labels(&[]), labels(&[("app", "web")]), labels(&[("app", "db"), ("env", "x")])];
        let namespaces = [
            ("shop", labels(&[(METADATA_NAME, "shop")])),
            (
                "bank",
                labels(&[(METADATA_NAME, "bank"), ("team", "a"), ("app", "db"), ("env", "x")]),
            ),
        ];
        while !there.is_empty() {
            for (ns, ns_labels) in &namespaces {
                for pod in &pods {
                    let name: Arc<str> = Arc::from(*ns);
                    let found = index.matching(&name, ns_labels, pod);
                    let mut expected = there.clone();
                    expected.retain(|i| naive(&list[*i], ns, ns_labels, pod));
                    expected.sort_unstable();
                    assert_eq!(found, expected);
                }
            }
            let i = there.swap_remove(there.len() * 7 / 11);
            index.remove(&list[i], i);
        }
        assert!(index.is_empty() && index.by_label.is_empty() && index.rest.is_empty());
    }

    #[test]
    fn only_labels_that_a_namespace_selector_asks_for_tell_namespaces_apart() {
        let mut index = ScopeIndex::default();
        let selector = Selector::labels([("team", "a")]);
        let scope = PodScope {
            namespaces: NamespaceScope::Matching(selector),
            pods: Selector::everything(),
        };
        index.insert(&Arc::new(scope), 1);
        let (a, b) = (labels(&[("team", "a")]), labels(&[("team", "b")]));
        assert!(index.tells_apart(&a, &b) && index.tells_apart(&b, &a));
        assert!(!index.tells_apart(&b, &labels(&[("x", "y")])));
        assert!(!index.tells_apart(&a, &labels(&[("team", "a"), ("x", "y")])));
    }

    #[test]
    fn a_namespace_asked_for_by_its_name_label_is_named() {
        let by_label = PodScope {
            namespaces: NamespaceScope::Matching(Selector::labels([(METADATA_NAME, "shop")])),
            pods: Selector::labels([("b", "1"), ("a", "2")]),
        };
        let by_name = PodScope {
            namespaces: NamespaceScope::Own("shop".into()),
            pods: Selector::labels([("a", "2"), ("b", "1")]),
        };
        assert_eq!(normal(&by_label), normal(&by_name));
    }
}

//! Which pods can no selector tell apart, and which selectors do they meet?
//!
//! ```text
//!   web-1 ┐
//!   web-2 ├▶ shape (shop, app=web) ── meets ──▶ selectors with labels of pods
//!   web-3 ┘      └─▶ namespace shop ── meets ──▶ selectors of whole namespaces
//! ```
//!
//! Replicas have equal labels and are one shape, so that what a change costs goes with workloads and
//! not with pods, and a policy for whole namespaces costs one entry for each of them. Whether a
//! selector matches is the evaluator's word; the index only finds candidates.

use std::sync::Arc;

use podwall_compile::scopes::{LabelHash, OfNamespace, anchors, label_hash};
use podwall_policy::cluster::Cluster;
use podwall_policy::label::Labels;
use podwall_policy::matching::{Match, selects};
use podwall_policy::object::{Namespace, Pod};
use podwall_policy::policy::{NamespaceScope, PodScope};
use podwall_policy::reason::MissingFact;
use podwall_policy::selector::Selector;
use rustc_hash::{FxHashMap, FxHashSet};

use super::selectors::{Meets, ScopeId, Selectors, is_broad};

/// A shape's place while some pod has it.
pub(crate) type ShapeId = usize;

/// Below so many words a look for those that nobody uses is not worth it.
const FEW: usize = 1024;

/// All shapes, by what they are searched by. Owned by the engine.
#[derive(Debug, Default)]
pub(super) struct Shapes {
    /// By number.
    list: Vec<Option<Shape>>,
    free: Vec<ShapeId>,
    by_facts: FxHashMap<(Arc<str>, Labels), ShapeId>,
    by_label: FxHashMap<LabelHash, Vec<ShapeId>>,
    /// Namespaces that have pods.
    namespaces: FxHashMap<Arc<str>, Inhabited>,
    /// Keys and values of labels, each once: a selector that is held against many shapes then reads
    /// a few words many times, and not as many places in memory as there are shapes.
    words: FxHashSet<Arc<str>>,
    /// How many words there were when those that nobody used went.
    swept: usize,
    /// How many shapes and namespaces the last change was held against; tests hold it down.
    pub(super) walked: usize,
}

/// Pods of one namespace with the same labels.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) namespace: Arc<str>,
    pub(super) labels: Labels,
    pods: usize,
    /// The selectors with labels of pods that it meets.
    pub(super) meets: Meets,
}

#[derive(Debug, Default)]
struct Inhabited {
    shapes: Vec<ShapeId>,
    /// The selectors of whole namespaces that it meets.
    meets: Meets,
}

impl Shapes {
    /// A shape by its number.
    pub(super) fn get(&self, id: ShapeId) -> Option<&Shape> {
        self.list.get(id)?.as_ref()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.by_facts.len()
    }

    /// How many namespaces have pods.
    pub(super) fn namespaces(&self) -> usize {
        self.namespaces.len()
    }

    /// How many labels they have.
    pub(super) fn labels(&self) -> usize {
        self.by_label.len()
    }

    /// The selectors of whole namespaces that a namespace meets; `None` if it has no pods.
    pub(super) fn namespace(&self, name: &str) -> Option<&Meets> {
        self.namespaces.get(name).map(|its| &its.meets)
    }

    /// A pod comes: its shape.
    pub(super) fn enter(
        &mut self,
        cluster: &Cluster,
        selectors: &Selectors,
        namespace: &Arc<str>,
        labels: &Labels,
    ) -> ShapeId {
        let meets = || {
            Narrow::of(cluster, selectors, namespace).meets(cluster, selectors, namespace, labels)
        };
        self.enter_with(cluster, selectors, (namespace, labels), meets)
    }

    /// As [`Shapes::enter`]; the caller finds out what a new shape meets.
    pub(super) fn enter_with(
        &mut self,
        cluster: &Cluster,
        selectors: &Selectors,
        (namespace, labels): (&Arc<str>, &Labels),
        meets: impl FnOnce() -> Meets,
    ) -> ShapeId {
        let key = (namespace.clone(), labels.clone());
        if let Some(id) = self.by_facts.get(&key) {
            if let Some(shape) = &mut self.list[*id] {
                shape.pods += 1;
            }
            return *id;
        }
        let namespace = namespace.clone();
        let labels = self.in_known_words(labels);
        let key = (namespace.clone(), labels.clone());
        let shape = Shape { namespace: namespace.clone(), labels, pods: 1, meets: meets() };
        let id = self.free.pop().unwrap_or_else(|| {
            self.list.push(None);
            self.list.len() - 1
        });
        for (label, value) in shape.labels.iter() {
            self.by_label.entry(label_hash(label, value)).or_default().push(id);
        }
        self.namespaces
            .entry(namespace.clone())
            .or_insert_with(|| Inhabited {
                shapes: Vec::new(),
                meets: broad_meets(cluster, selectors, &namespace),
            })
            .shapes
            .push(id);
        self.by_facts.insert(key, id);
        self.list[id] = Some(shape);
        id
    }

    fn in_known_words(&mut self, labels: &Labels) -> Labels {
        if self.words.len() > 2 * self.swept + FEW {
            self.words.retain(|word| Arc::strong_count(word) > 1);
            self.swept = self.words.len();
        }
        let mut word = |text: &str| match self.words.get(text) {
            Some(word) => word.clone(),
            None => {
                let word: Arc<str> = text.into();
                self.words.insert(word.clone());
                word
            }
        };
        labels.iter().map(|(key, value)| (word(key), word(value))).collect()
    }

    /// A pod goes.
    pub(super) fn leave(&mut self, id: ShapeId) {
        let Some(place) = self.list.get_mut(id) else { return };
        let Some(shape) = place else { return };
        shape.pods -= 1;
        if shape.pods > 0 {
            return;
        }
        let Some(Shape { namespace, labels, .. }) = place.take() else { return };
        for (label, value) in labels.iter() {
            let hash = label_hash(label, value);
            if let Some(list) = self.by_label.get_mut(&hash) {
                list.retain(|other| *other != id);
                if list.is_empty() {
                    self.by_label.remove(&hash);
                }
            }
        }
        if let Some(inhabited) = self.namespaces.get_mut(&namespace) {
            inhabited.shapes.retain(|other| *other != id);
            if inhabited.shapes.is_empty() {
                self.namespaces.remove(&namespace);
            }
        }
        self.by_facts.remove(&(namespace, labels));
        self.free.push(id);
    }

    /// A selector that nobody used comes.
    pub(super) fn attach(&mut self, cluster: &Cluster, id: ScopeId, scope: &PodScope) {
        if is_broad(scope) {
            for (namespace, facts) in self.namespaces_in(cluster, scope) {
                if let Some(inhabited) = self.namespaces.get_mut(&namespace) {
                    inhabited.meets.insert(id, facts);
                }
            }
            return;
        }
        for (shape, facts) in self.matching(cluster, scope) {
            if let Some(shape) = &mut self.list[shape] {
                shape.meets.insert(id, facts);
            }
        }
    }

    /// A selector that nobody uses any more goes.
    pub(super) fn detach(&mut self, cluster: &Cluster, id: ScopeId, scope: &PodScope) {
        if is_broad(scope) {
            for (namespace, _) in self.namespaces_in(cluster, scope) {
                if let Some(inhabited) = self.namespaces.get_mut(&namespace) {
                    inhabited.meets.remove(id);
                }
            }
            return;
        }
        for (shape, _) in self.matching(cluster, scope) {
            if let Some(shape) = &mut self.list[shape] {
                shape.meets.remove(id);
            }
        }
    }

    /// A namespace has other labels, or they are stated now or no longer.
    pub(super) fn refresh(&mut self, cluster: &Cluster, selectors: &Selectors, name: &Arc<str>) {
        let Some(inhabited) = self.namespaces.get_mut(name) else { return };
        inhabited.meets = broad_meets(cluster, selectors, name);
        let narrow = Narrow::of(cluster, selectors, name);
        for id in &inhabited.shapes {
            if let Some(shape) = &mut self.list[*id] {
                shape.meets = narrow.meets(cluster, selectors, name, &shape.labels);
            }
        }
    }

    /// The inhabited namespaces that a selector takes, and the facts that it depends on.
    fn namespaces_in(&mut self, cluster: &Cluster, scope: &PodScope) -> Vec<(Arc<str>, Facts)> {
        let asked = whole(&scope.namespaces);
        let taken = |name: &Arc<str>| Some((name.clone(), in_namespace(cluster, &asked, name)?));
        if let NamespaceScope::Own(name) = &scope.namespaces {
            return self
                .namespaces
                .get_key_value(name)
                .and_then(|(name, _)| taken(name))
                .into_iter()
                .collect();
        }
        self.walked += self.namespaces.len();
        self.namespaces.keys().filter_map(taken).collect()
    }

    /// The shapes that a selector matches, and the facts that it depends on. The shorter list is
    /// walked: of the shapes with a label that it asks for, or of those of its namespaces.
    fn matching(&mut self, cluster: &Cluster, scope: &PodScope) -> Vec<(ShapeId, Facts)> {
        let labels = anchors(&scope.pods);
        let with_label =
            |label: &LabelHash| self.by_label.get(label).map_or(&[][..], Vec::as_slice);
        let labelled: Option<usize> =
            labels.as_ref().map(|labels| labels.iter().map(|label| with_label(label).len()).sum());
        let most = match &scope.namespaces {
            NamespaceScope::Own(name) => {
                self.namespaces.get(name).map_or(0, |its| its.shapes.len())
            }
            NamespaceScope::Matching(_) => self.namespaces.len(),
        };
        if let (Some(labels), Some(count)) = (&labels, labelled)
            && count <= most
        {
            self.walked += count;
            let mut ids: Vec<ShapeId> = labels.iter().flat_map(with_label).copied().collect();
            ids.sort_unstable();
            ids.dedup(); // labels may share a hash, and a shape may have two of them
            let asked = whole(&scope.namespaces);
            let found = ids.into_iter().filter_map(|id| {
                let shape = self.get(id).filter(|shape| scope.pods.matches(&shape.labels))?;
                Some((id, in_namespace(cluster, &asked, &shape.namespace)?))
            });
            return found.collect();
        }
        let mut found = Vec::new();
        for (namespace, facts) in self.namespaces_in(cluster, scope) {
            let Some(inhabited) = self.namespaces.get(&namespace) else { continue };
            self.walked += inhabited.shapes.len();
            let fits = |id: &&ShapeId| {
                self.get(**id).is_some_and(|shape| scope.pods.matches(&shape.labels))
            };
            let fitting = inhabited.shapes.iter().filter(fits);
            found.extend(fitting.map(|id| (*id, facts.clone())));
        }
        found
    }
}

/// `None`: certainly; else the facts that it depends on.
type Facts = Option<Arc<[MissingFact]>>;

/// The selectors with labels of pods that may match in one namespace.
#[derive(Debug)]
pub(super) struct Narrow<'a> {
    of: OfNamespace<'a, ScopeId>,
    /// Whether the namespace's labels are known, so that candidates match for certain.
    known: bool,
}

impl<'a> Narrow<'a> {
    /// Those of a namespace.
    pub(super) fn of(cluster: &Cluster, selectors: &'a Selectors, name: &Arc<str>) -> Self {
        let namespace = cluster.namespaces.get(name).filter(|namespace| namespace.labels_known);
        let of = match namespace {
            Some(namespace) => selectors.narrow.of_namespace(name, &namespace.labels),
            None => selectors.narrow.of_unstated_namespace(name),
        };
        Self { of, known: namespace.is_some() }
    }

    /// The selectors that pods with these labels meet.
    pub(super) fn meets(
        &self,
        cluster: &Cluster,
        selectors: &Selectors,
        namespace: &Arc<str>,
        labels: &Labels,
    ) -> Meets {
        let found = self.of.matching(labels);
        if self.known {
            return Meets { certain: found, perhaps: Vec::new() };
        }
        depending(cluster, selectors, namespace, found)
    }
}

/// The selectors of whole namespaces that a namespace meets.
pub(super) fn broad_meets(cluster: &Cluster, selectors: &Selectors, name: &Arc<str>) -> Meets {
    let namespace = cluster.namespaces.get(name).filter(|namespace| namespace.labels_known);
    let nothing = Labels::default();
    match namespace {
        Some(namespace) => Meets {
            certain: selectors.broad.matching(name, &namespace.labels, &nothing),
            perhaps: Vec::new(),
        },
        None => {
            let found = selectors.broad.of_unstated_namespace(name).matching(&nothing);
            depending(cluster, selectors, name, found)
        }
    }
}

/// Of selectors whose labels of pods match those that take the namespace, certainly or perhaps.
fn depending(
    cluster: &Cluster,
    selectors: &Selectors,
    namespace: &Arc<str>,
    found: Vec<ScopeId>,
) -> Meets {
    let mut meets = Meets::default();
    for id in found {
        let asked = selectors.get(id).map(|asked| whole(&asked.scope.namespaces));
        if let Some(facts) = asked.and_then(|asked| in_namespace(cluster, &asked, namespace)) {
            meets.insert(id, facts);
        }
    }
    meets
}

/// All pods of the namespaces of a scope.
fn whole(namespaces: &NamespaceScope) -> PodScope {
    PodScope { namespaces: namespaces.clone(), pods: Selector::everything() }
}

/// Whether a selector of whole namespaces takes this one; `None`: it does not.
fn in_namespace(cluster: &Cluster, asked: &PodScope, name: &Arc<str>) -> Option<Facts> {
    let stated = cluster.namespaces.get(name);
    let quick = |namespace: &Namespace| namespace.labels_known;
    match &asked.namespaces {
        NamespaceScope::Own(own) => return (own == name).then_some(None),
        // As the evaluator asks it, without the reasons that it gives.
        NamespaceScope::Matching(selector) if stated.is_some_and(quick) => {
            return stated.filter(|its| selector.matches(&its.labels)).map(|_| None);
        }
        NamespaceScope::Matching(_) => {}
    }
    let anybody = Pod::new(name.clone(), "", Labels::default());
    match selects(cluster, asked, &anybody) {
        Match::Yes => Some(None),
        Match::No(_) => None,
        Match::Unknown(facts) => Some(Some(facts.into())),
    }
}

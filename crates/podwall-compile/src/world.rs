//! What is known of the cluster, indexed for the compiler's questions?
//!
//! ```text
//!   address ─▶ pods that claim it ─▶ the one that has it (greatest name)
//!   selector ─▶ shortest of: pods with the label, pods of the namespaces ─▶ pods that match
//!   port name ─▶ pods that declare it
//! ```
//!
//! Only what tables depend on is kept: a pod that is neither subject nor peer (hostNetwork,
//! terminated) is not here at all, and a pod whose object changed elsewhere did not change.

use std::collections::BTreeSet;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;

use podwall_policy::address::AddressRange;
use podwall_policy::label::Labels;
use podwall_policy::object::{Name, Namespace, Pod};
use podwall_policy::policy::{NamespaceScope, PodScope};
use podwall_policy::port::Protocol;
use podwall_policy::selector::Selector;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::ids::Ids;
use crate::scopes::{LabelHash, anchors_of, label_hash};
use crate::slots::Slots;

/// A pod's place in the world while it is known.
pub(crate) type PodSlot = u32;

/// A namespace's place in the world while it is known.
pub(crate) type NamespaceSlot = u32;

/// A port name and its protocol.
pub(crate) type PortName = (Arc<str>, Protocol);

/// Pods and namespaces, by everything that they are searched by. Owned by the compiler.
#[derive(Debug)]
pub(crate) struct World {
    /// By slot.
    pods: Vec<Option<KnownPod>>,
    slots: FxHashMap<Name, PodSlot>,
    ids: Ids,
    namespaces: FxHashMap<Arc<str>, KnownNamespace>,
    namespace_names: FxHashMap<NamespaceSlot, Arc<str>>,
    namespace_ids: Ids,
    namespaces_by_label: FxHashMap<LabelHash, Slots>,
    local: FxHashSet<PodSlot>,
    owners: FxHashMap<IpAddr, Owners>,
    by_label: FxHashMap<LabelHash, Slots>,
    by_port_name: FxHashMap<PortName, Slots>,
}

/// A pod that policies can select and selectors can match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KnownPod {
    pub(crate) name: Name,
    pub(crate) labels: Labels,
    pub(crate) ips: Box<[IpAddr]>,
    /// Named ports only.
    pub(crate) ports: Box<[(PortName, u16)]>,
    pub(crate) local: bool,
}

/// The pods that claim an address; mostly one.
#[derive(Debug)]
enum Owners {
    One(PodSlot),
    Several(Vec<PodSlot>),
}

/// A namespace that is stated or has pods.
#[derive(Debug)]
struct KnownNamespace {
    slot: NamespaceSlot,
    labels: Labels,
    stated: bool,
    pods: FxHashSet<PodSlot>,
    local: FxHashSet<PodSlot>,
}

/// What a commit's changes of objects touch.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    /// Pods that changed or whose namespace did, and are known now.
    pub(crate) pods: FxHashSet<PodSlot>,
    /// Pods that are no longer known.
    pub(crate) gone: FxHashSet<PodSlot>,
    /// The addresses of all these, before and after.
    pub(crate) addresses: FxHashSet<IpAddr>,
    /// Namespaces that may have come or gone, have other labels, or may have got their first
    /// address or lost their last.
    pub(crate) namespaces: BTreeSet<NamespaceSlot>,
}

impl KnownPod {
    /// What matters of a pod; `None` if it is neither subject nor peer.
    pub(crate) fn of(pod: &Pod, node: Option<&str>) -> Option<Self> {
        if !pod.is_subject() {
            return None;
        }
        let mut ips = pod.ips.clone();
        ips.sort_unstable();
        ips.dedup();
        let ports = pod
            .ports
            .iter()
            .filter_map(|port| Some(((port.name.clone()?, port.protocol), port.number)))
            .collect();
        let local = node.is_none_or(|node| pod.node.as_deref() == Some(node));
        let (name, labels) = (pod.name.clone(), pod.labels.clone());
        Some(Self { name, labels, ips: ips.into(), ports, local })
    }

    /// The numbers of a port name, sorted.
    pub(crate) fn numbers(&self, name: &PortName) -> Box<[u16]> {
        let numbers: BTreeSet<u16> =
            self.ports.iter().filter(|(its, _)| its == name).map(|(_, number)| *number).collect();
        numbers.into_iter().collect()
    }
}

impl World {
    /// A world without objects.
    pub(crate) fn new() -> Self {
        Self {
            pods: Vec::new(),
            slots: FxHashMap::default(),
            ids: Ids::from(0),
            namespaces: FxHashMap::default(),
            namespace_names: FxHashMap::default(),
            namespace_ids: Ids::from(0),
            namespaces_by_label: FxHashMap::default(),
            local: FxHashSet::default(),
            owners: FxHashMap::default(),
            by_label: FxHashMap::default(),
            by_port_name: FxHashMap::default(),
        }
    }

    /// How many pods are known.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Makes room for so many pods more.
    pub(crate) fn reserve(&mut self, pods: usize) {
        if pods > self.slots.len() {
            self.pods.reserve(pods);
            self.slots.reserve(pods);
            self.owners.reserve(pods);
        }
    }

    /// Ends a commit: slots of pods that went may be used again.
    pub(crate) fn settle(&mut self) {
        self.ids.settle();
        self.namespace_ids.settle();
    }

    /// A pod.
    pub(crate) fn pod(&self, slot: PodSlot) -> Option<&KnownPod> {
        self.pods.get(usize::try_from(slot).ok()?)?.as_ref()
    }

    /// The pod that has an address: of several that claim it the one with the greatest name, as
    /// [`podwall_policy::cluster::Cluster::pod_by_ip`] has it.
    pub(crate) fn owner(&self, address: IpAddr) -> Option<(PodSlot, &KnownPod)> {
        let pod = |slot: &PodSlot| Some((*slot, self.pod(*slot)?));
        match self.owners.get(&address)? {
            Owners::One(one) => pod(one),
            Owners::Several(several) => {
                several.iter().filter_map(pod).max_by(|a, b| a.1.name.cmp(&b.1.name))
            }
        }
    }

    /// The labels of a namespace; only `kubernetes.io/metadata.name` where nobody states it.
    pub(crate) fn namespace_labels(&self, name: &Arc<str>) -> Labels {
        self.namespaces
            .get(name)
            .map_or_else(|| Namespace::implied(name.clone()).labels, |entry| entry.labels.clone())
    }

    /// The addresses of a range that pods claim: each address of a short range is asked for.
    pub(crate) fn addresses_in(&self, range: &AddressRange) -> Vec<IpAddr> {
        let (first, last) = range.bits();
        if last - first < 4096 {
            let addresses = (first..=last)
                .filter_map(|bits| AddressRange::from_bits(range.family(), bits, bits))
                .map(|one| one.first());
            return addresses.filter(|address| self.owners.contains_key(address)).collect();
        }
        self.owners.keys().copied().filter(|address| range.contains(*address)).collect()
    }

    /// Whether these are all addresses that pods claim, and perhaps more.
    pub(crate) fn are_all_addresses(&self, addresses: &FxHashSet<IpAddr>) -> bool {
        addresses.len() >= self.owners.len()
            && self.owners.keys().all(|address| addresses.contains(address))
    }

    /// All addresses that pods claim.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.owners.keys().copied()
    }

    /// All namespaces.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = NamespaceSlot> {
        self.namespaces.values().map(|entry| entry.slot)
    }

    /// The namespaces in a scope.
    pub(crate) fn namespaces_in(&self, scope: &NamespaceScope) -> Vec<NamespaceSlot> {
        match scope {
            NamespaceScope::Own(name) => {
                self.namespaces.get(name).map(|entry| entry.slot).into_iter().collect()
            }
            NamespaceScope::Matching(selector) => {
                self.namespaces_with(selector).into_iter().map(|entry| entry.slot).collect()
            }
        }
    }

    /// The namespaces that a selector matches. It mostly asks for labels that few of them have.
    fn namespaces_with(&self, selector: &Selector) -> Vec<&KnownNamespace> {
        let list = |label: &LabelHash| self.namespaces_by_label.get(label);
        let count = |labels: &[LabelHash]| -> usize {
            labels.iter().filter_map(list).map(Slots::len).sum()
        };
        let anchors = selector.requirements.iter().filter_map(anchors_of);
        let matches = |entry: &&KnownNamespace| selector.matches(&entry.labels);
        let Some(labels) = anchors.min_by_key(|labels| count(labels)) else {
            return self.namespaces.values().filter(matches).collect();
        };
        // Two labels may share a hash, and a selector may ask for one twice.
        let slots: BTreeSet<NamespaceSlot> =
            labels.iter().filter_map(list).flat_map(Slots::iter).collect();
        let entry = |slot: &NamespaceSlot| self.namespaces.get(self.namespace_names.get(slot)?);
        slots.iter().filter_map(entry).filter(matches).collect()
    }

    /// The place of a namespace.
    pub(crate) fn namespace(&self, name: &str) -> Option<NamespaceSlot> {
        Some(self.namespaces.get(name)?.slot)
    }

    /// The name of a namespace.
    pub(crate) fn namespace_name(&self, slot: NamespaceSlot) -> Option<&Arc<str>> {
        self.namespace_names.get(&slot)
    }

    /// The addresses that pods of a namespace have and no other pod takes from them.
    pub(crate) fn addresses_of(&self, namespace: &str) -> impl Iterator<Item = IpAddr> {
        self.pods_of(namespace).flat_map(|slot| self.own_addresses(slot))
    }

    /// The addresses that a pod has and no other pod takes from it.
    pub(crate) fn own_addresses(&self, slot: PodSlot) -> impl Iterator<Item = IpAddr> {
        let addresses = self.pod(slot).into_iter().flat_map(|pod| pod.ips.iter().copied());
        addresses.filter(move |ip| self.owner(*ip).is_some_and(|(owner, _)| owner == slot))
    }

    /// The pods of a namespace.
    pub(crate) fn pods_of(&self, namespace: &str) -> impl Iterator<Item = PodSlot> {
        self.namespaces.get(namespace).into_iter().flat_map(|entry| entry.pods.iter().copied())
    }

    /// The pods that declare a port name.
    pub(crate) fn pods_with_port(&self, name: &PortName) -> impl Iterator<Item = PodSlot> {
        self.by_port_name.get(name).into_iter().flat_map(Slots::iter)
    }

    /// States a namespace's labels, or takes the statement back. The labels before and after, if
    /// they differ.
    pub(crate) fn set_namespace(
        &mut self,
        name: &Arc<str>,
        namespace: Option<&Namespace>,
        touched: &mut Touched,
    ) -> Option<(Labels, Labels)> {
        let before = self.namespace_labels(name);
        let entry = self.known_namespace(name, touched)?;
        entry.stated = namespace.is_some();
        entry.labels = namespace
            .map_or_else(|| Namespace::implied(name.clone()).labels, |it| it.labels.clone());
        let (after, slot) = (entry.labels.clone(), entry.slot);
        if before != after {
            touched.namespaces.insert(slot);
            for (key, value) in before.iter() {
                drop_from(&mut self.namespaces_by_label, &label_hash(key, value), slot);
            }
            self.index_namespace(slot, &after);
        }
        self.forget_namespace_if_unused(name, touched);
        (before != after).then_some((before, after))
    }

    /// Sets what is known of a pod, or forgets it.
    pub(crate) fn set_pod(&mut self, name: &Name, pod: Option<KnownPod>, touched: &mut Touched) {
        let slot = self.slots.get(name).copied();
        let before = slot.and_then(|slot| self.pod(slot));
        if before == pod.as_ref() {
            return;
        }
        if let Some(slot) = slot {
            self.unlink(slot, touched);
        }
        match pod {
            Some(pod) => {
                let slot = slot.unwrap_or_else(|| self.ids.take());
                touched.pods.insert(slot);
                touched.addresses.extend(pod.ips.iter().copied());
                self.link(slot, pod, touched);
            }
            None => {
                if let Some(slot) = slot {
                    self.slots.remove(name);
                    self.ids.give_back(slot);
                    touched.pods.remove(&slot);
                    touched.gone.insert(slot);
                }
                self.forget_namespace_if_unused(&name.namespace, touched);
            }
        }
    }

    /// The entry of a namespace, new if need be.
    fn known_namespace(
        &mut self,
        name: &Arc<str>,
        touched: &mut Touched,
    ) -> Option<&mut KnownNamespace> {
        if !self.namespaces.contains_key(name) {
            let slot = self.namespace_ids.take();
            touched.namespaces.insert(slot);
            self.namespace_names.insert(slot, name.clone());
            let entry = KnownNamespace::new(slot, name);
            self.index_namespace(slot, &entry.labels);
            self.namespaces.insert(name.clone(), entry);
        }
        self.namespaces.get_mut(name)
    }

    fn index_namespace(&mut self, slot: NamespaceSlot, labels: &Labels) {
        for (key, value) in labels.iter() {
            self.namespaces_by_label.entry(label_hash(key, value)).or_default().insert(slot);
        }
    }

    /// Notes the namespaces of the pods that claim an address.
    fn touch_claimants(&self, address: IpAddr, touched: &mut Touched) {
        let slots = match self.owners.get(&address) {
            None => &[][..],
            Some(Owners::One(slot)) => std::slice::from_ref(slot),
            Some(Owners::Several(slots)) => slots,
        };
        let pods = slots.iter().filter_map(|slot| self.pod(*slot));
        touched.namespaces.extend(pods.filter_map(|pod| self.namespace(&pod.name.namespace)));
    }

    fn link(&mut self, slot: PodSlot, pod: KnownPod, touched: &mut Touched) {
        if let Some(entry) = self.known_namespace(&pod.name.namespace, touched) {
            let namespace = entry.slot;
            entry.pods.insert(slot);
            if pod.local {
                entry.local.insert(slot);
                self.local.insert(slot);
            }
            touched.namespaces.insert(namespace);
        }
        for address in &pod.ips {
            match self.owners.entry(*address) {
                Entry::Vacant(place) => drop(place.insert(Owners::One(slot))),
                Entry::Occupied(mut place) => {
                    match place.get_mut() {
                        Owners::Several(slots) => slots.push(slot),
                        one @ Owners::One(_) => {
                            if let Owners::One(first) = *one {
                                *one = Owners::Several(vec![first, slot]);
                            }
                        }
                    }
                    self.touch_claimants(*address, touched);
                }
            }
        }
        for (key, value) in pod.labels.iter() {
            let label = label_hash(key, value);
            self.by_label.entry(label).or_default().insert(slot);
        }
        for (name, _) in &pod.ports {
            match self.by_port_name.get_mut(name) {
                Some(slots) => slots.insert(slot),
                None => self.by_port_name.entry(name.clone()).or_default().insert(slot),
            }
        }
        self.slots.insert(pod.name.clone(), slot);
        let at = usize::try_from(slot).unwrap_or(usize::MAX);
        if at >= self.pods.len() {
            self.pods.resize_with(at + 1, || None);
        }
        self.pods[at] = Some(pod);
    }

    fn unlink(&mut self, slot: PodSlot, touched: &mut Touched) {
        let place = usize::try_from(slot).ok().and_then(|at| self.pods.get_mut(at));
        let Some(pod) = place.and_then(Option::take) else { return };
        touched.addresses.extend(pod.ips.iter().copied());
        if let Some(entry) = self.namespaces.get_mut(&pod.name.namespace) {
            entry.pods.remove(&slot);
            entry.local.remove(&slot);
            touched.namespaces.insert(entry.slot);
        }
        self.local.remove(&slot);
        for address in &pod.ips {
            self.touch_claimants(*address, touched);
            let left = match self.owners.remove(address) {
                None | Some(Owners::One(_)) => continue,
                Some(Owners::Several(mut slots)) => {
                    slots.retain(|owner| *owner != slot);
                    match slots[..] {
                        [one] => Owners::One(one),
                        _ => Owners::Several(slots),
                    }
                }
            };
            self.owners.insert(*address, left);
        }
        for (key, value) in pod.labels.iter() {
            drop_from(&mut self.by_label, &label_hash(key, value), slot);
        }
        for (name, _) in &pod.ports {
            drop_from(&mut self.by_port_name, name, slot);
        }
    }

    fn forget_namespace_if_unused(&mut self, name: &Arc<str>, touched: &mut Touched) {
        if self.namespaces.get(name).is_some_and(|entry| !entry.stated && entry.pods.is_empty())
            && let Some(entry) = self.namespaces.remove(name)
        {
            self.namespace_names.remove(&entry.slot);
            for (key, value) in entry.labels.iter() {
                drop_from(&mut self.namespaces_by_label, &label_hash(key, value), entry.slot);
            }
            self.namespace_ids.give_back(entry.slot);
            touched.namespaces.insert(entry.slot);
        }
    }

    /// The pods that a scope selects; `local`: on this node only. Walks the shortest list that has
    /// them all, and adds its length to `walked`.
    pub(crate) fn matching(
        &self,
        scope: &PodScope,
        local: bool,
        walked: &mut usize,
    ) -> Vec<PodSlot> {
        let set = |entry: &KnownNamespace| {
            if local { entry.local.len() } else { entry.pods.len() }
        };
        let namespaces: Vec<&KnownNamespace> = match &scope.namespaces {
            NamespaceScope::Own(name) => self.namespaces.get(name).into_iter().collect(),
            NamespaceScope::Matching(selector) => self.namespaces_with(selector),
        };
        let in_namespaces: usize = namespaces.iter().map(|entry| set(entry)).sum();
        let with_label = |labels: &[LabelHash]| -> usize {
            labels.iter().filter_map(|label| self.by_label.get(label)).map(Slots::len).sum()
        };
        let by_label = scope
            .pods
            .requirements
            .iter()
            .filter_map(anchors_of)
            .map(|labels| (with_label(&labels), labels))
            .min_by_key(|(count, _)| *count)
            .filter(|(count, _)| *count < in_namespaces);
        let mut found = Vec::new();
        let mut check = |slot: PodSlot, namespace_fits: bool| {
            *walked += 1;
            let Some(pod) = self.pod(slot) else { return };
            if (pod.local || !local)
                && scope.pods.matches(&pod.labels)
                && (namespace_fits || self.in_scope(&scope.namespaces, &pod.name.namespace))
            {
                found.push(slot);
            }
        };
        if let Some((_, labels)) = by_label {
            let lists = labels.iter().filter_map(|label| self.by_label.get(label));
            for slot in lists.flat_map(Slots::iter) {
                check(slot, false);
            }
            found.sort_unstable();
            found.dedup(); // two pairs may share a hash
            return found;
        }
        for entry in namespaces {
            let slots = if local { &entry.local } else { &entry.pods };
            for slot in slots {
                check(*slot, true);
            }
        }
        found.sort_unstable();
        found
    }

    fn in_scope(&self, scope: &NamespaceScope, namespace: &Arc<str>) -> bool {
        match scope {
            NamespaceScope::Own(name) => name == namespace,
            NamespaceScope::Matching(selector) => {
                self.namespaces.get(namespace).is_some_and(|entry| selector.matches(&entry.labels))
            }
        }
    }
}

impl KnownNamespace {
    fn new(slot: NamespaceSlot, name: &Arc<str>) -> Self {
        Self {
            slot,
            labels: Namespace::implied(name.clone()).labels,
            stated: false,
            pods: FxHashSet::default(),
            local: FxHashSet::default(),
        }
    }
}

fn drop_from<K: std::hash::Hash + Eq>(sets: &mut FxHashMap<K, Slots>, key: &K, slot: PodSlot) {
    if let Some(set) = sets.get_mut(key) {
        set.remove(slot);
        if set.is_empty() {
            sets.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use podwall_policy::selector::{Operator, Selector};

    fn pod(namespace: &str, name: &str, labels: &[(&'static str, &'static str)]) -> Pod {
        let mut pod = Pod::new(namespace, name, labels.iter().copied().collect());
        pod.ips = vec!["10.0.0.1".parse().unwrap()];
        pod.node = Some("n1".into());
        pod
    }

    fn put(world: &mut World, pod: &Pod) -> Touched {
        let mut touched = Touched::default();
        world.set_pod(&pod.name, KnownPod::of(pod, Some("n1")), &mut touched);
        touched
    }

    #[test]
    fn of_two_pods_with_one_address_the_greater_name_has_it_and_the_other_inherits() {
        let mut world = World::new();
        let address = "10.0.0.1".parse().unwrap();
        let (a, b) = (pod("x", "a", &[]), pod("x", "b", &[]));
        for pod in [&b, &a] {
            put(&mut world, pod);
        }
        assert_eq!(world.owner(address).unwrap().1.name, b.name);
        let ended = Pod { phase: podwall_policy::object::Phase::Terminated, ..b };
        let touched = put(&mut world, &ended);
        assert!(touched.addresses.contains(&address));
        assert_eq!(world.owner(address).unwrap().1.name, a.name);
    }

    #[test]
    fn a_pod_that_changed_in_nothing_that_matters_touches_nothing() {
        let mut world = World::new();
        let first = pod("x", "a", &[("app", "web")]);
        put(&mut world, &first);
        let again = Pod { uid: Some("other".into()), ..first };
        let touched = put(&mut world, &again);
        assert!(touched.pods.is_empty() && touched.addresses.is_empty());
    }

    #[test]
    fn a_search_walks_the_shortest_list_and_finds_the_same() {
        let mut world = World::new();
        for i in 0..50u8 {
            let mut pod =
                pod(if i < 10 { "small" } else { "large" }, &format!("p{i}"), &[("all", "x")]);
            if i % 10 == 3 {
                pod.labels = pod.labels.with("app", "web");
            }
            pod.node = Some(if i < 45 { "n1" } else { "n2" }.into());
            put(&mut world, &pod);
        }
        let count = |namespaces: NamespaceScope, pods: Selector, local| {
            let mut walked = 0;
            let found = world.matching(&PodScope { namespaces, pods }, local, &mut walked);
            (found.len(), walked)
        };
        let all = || NamespaceScope::Matching(Selector::everything());
        let web = Selector::labels([("all", "x"), ("app", "web")]);
        let not_web = Selector::everything().and("app", Operator::DoesNotExist);
        assert_eq!(count(all(), web.clone(), false), (5, 5));
        assert_eq!(count(NamespaceScope::Own("large".into()), web, false), (4, 5));
        assert_eq!(count(NamespaceScope::Own("small".into()), not_web.clone(), false), (9, 10));
        assert_eq!(count(all(), not_web, true), (40, 45));
    }
}

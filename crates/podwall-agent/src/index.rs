//! What does the cluster look like now, and what of it does the compiler not know yet?
//!
//! ```text
//!   watches ─── Said ──▶ Known (a kind each) ─┐
//!   runtime ─── CNI ───▶ Attachments ─────────┴─ batch ──▶ NodeCompiler   (pods of this node first)
//! ```
//!
//! Policies and namespaces of a list wait until it is complete, since half of it could allow what
//! neither the old nor the new whole does; pods only come, and go when it is complete.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;
use podwall_compile::compiler::NodeCompiler;
use podwall_local::Sandbox;
use podwall_policy::object::{Name, Pod};
use podwall_policy::policy::Tier;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::attachments::Attachments;
use crate::known::{Known, Said};
use crate::objects::{Kind, PodObject, SlimNamespace, SlimNode, SlimPod, SlimPolicy, Unusable};

/// What any watch says.
#[derive(Debug)]
pub(crate) enum Event {
    /// Of namespaces.
    Namespace(Said<SlimNamespace>),
    /// Of pods.
    Pod(Said<SlimPod>),
    /// Of policies.
    Policy(Said<SlimPolicy>),
    /// Of this node.
    Node(Said<SlimNode>),
}

impl Event {
    /// Of which kind it is.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Namespace(_) => Kind::Namespace,
            Self::Pod(_) => Kind::Pod,
            Self::Policy(_) => Kind::NetworkPolicy,
            Self::Node(_) => Kind::Node,
        }
    }
}

/// The cluster as the watches tell it, and what the container runtime says of this node's pods.
/// Owned by the thread that writes to the kernel.
pub(crate) struct Index {
    node: Arc<str>,
    namespaces: Known<SlimNamespace>,
    pods: Known<SlimPod>,
    policies: Known<SlimPolicy>,
    nodes: Known<SlimNode>,
    /// The pods of this node, as the API server states them and as the compiler was told of them.
    local: FxHashMap<Name, PodObject>,
    attachments: Attachments,
    /// The ranges that the node's pods have their addresses from.
    ranges: Vec<IpNet>,
    /// Whether the compiler may have to be told anew who is a stranger.
    strangers_changed: bool,
    /// When the oldest of what is pending was told.
    since: Option<Instant>,
}

// === impl Index ===

impl Index {
    /// Of a node: its pods go first.
    pub(crate) fn new(node: Arc<str>, attachments: Attachments) -> Self {
        Self {
            node,
            namespaces: Known::new(),
            pods: Known::new(),
            policies: Known::new(),
            nodes: Known::new(),
            local: FxHashMap::default(),
            attachments,
            ranges: Vec::new(),
            strangers_changed: true,
            since: None,
        }
    }

    /// Takes note of what a watch says.
    pub(crate) fn hear(&mut self, event: Event, when: Instant) {
        match event {
            Event::Namespace(said) => self.namespaces.hear(said, true),
            Event::Pod(said) => self.pods.hear(said, false),
            Event::Policy(said) => self.policies.hear(said, true),
            Event::Node(said) => self.nodes.hear(said, false),
        }
        self.note(when);
    }

    fn note(&mut self, when: Instant) {
        if self.is_pending() {
            self.since.get_or_insert(when);
        }
    }

    /// Takes note of what the container runtime says: `change` gives the pods that it concerns.
    pub(crate) fn attachments_change<E>(
        &mut self,
        when: Instant,
        change: impl FnOnce(&mut Attachments) -> Result<BTreeSet<Name>, E>,
    ) -> Result<(), E> {
        for name in change(&mut self.attachments)? {
            if let Some(object) = self.local.get(&name) {
                self.pods.pending.entry(name).or_insert_with(|| Some(object.clone()));
            }
        }
        self.strangers_changed = true;
        self.note(when);
        Ok(())
    }

    /// What the container runtime has said.
    pub(crate) fn attachments(&self) -> &Attachments {
        &self.attachments
    }

    /// Whether each kind was listed to the end once: before, nobody knows what should hold.
    pub(crate) fn is_synced(&self) -> bool {
        self.missing().next().is_none()
    }

    /// The kinds that were not listed to the end yet.
    pub(crate) fn missing(&self) -> impl Iterator<Item = Kind> {
        let synced = [
            (Kind::Namespace, self.namespaces.synced),
            (Kind::Pod, self.pods.synced),
            (Kind::NetworkPolicy, self.policies.synced),
            (Kind::Node, self.nodes.synced),
        ];
        synced.into_iter().filter(|(_, synced)| !synced).map(|(kind, _)| kind)
    }

    /// Whether the compiler has to be told something.
    pub(crate) fn is_pending(&self) -> bool {
        !(self.namespaces.pending.is_empty()
            && self.pods.pending.is_empty()
            && self.policies.pending.is_empty()
            && self.nodes.pending.is_empty()
            && !self.strangers_changed)
    }

    /// Somebody is a stranger no more, or is one now.
    pub(crate) fn strangers_change(&mut self) {
        self.strangers_changed = true;
    }

    /// Whether the compiler has to be told who is a stranger; whoever asks tells it.
    pub(crate) fn take_strangers_changed(&mut self) -> bool {
        std::mem::take(&mut self.strangers_changed)
    }

    /// How many objects are known of each kind.
    pub(crate) fn counts(&self) -> [(Kind, usize); 4] {
        [
            (Kind::Namespace, self.namespaces.keys.len()),
            (Kind::Pod, self.pods.keys.len()),
            (Kind::NetworkPolicy, self.policies.keys.len()),
            (Kind::Node, self.nodes.keys.len()),
        ]
    }

    /// What cannot be used, and why.
    pub(crate) fn unusable(&self) -> impl Iterator<Item = &Unusable> {
        let (namespaces, pods) = (self.namespaces.unusable.values(), self.pods.unusable.values());
        let (policies, nodes) = (self.policies.unusable.values(), self.nodes.unusable.values());
        namespaces.chain(pods).chain(policies).chain(nodes)
    }

    /// A pod of this node of which the compiler was told.
    pub(crate) fn local(&self, name: &Name) -> Option<&PodObject> {
        self.local.get(name)
    }

    /// The pods of this node of which the compiler was told.
    pub(crate) fn locals(&self) -> impl Iterator<Item = &PodObject> {
        self.local.values()
    }

    /// Whether the compiler was told of the pod that has this interface.
    pub(crate) fn knows(&self, sandbox: &Sandbox) -> bool {
        let Some(it) = self.attachments.get(sandbox) else { return false };
        let name = Name::new(it.namespace.as_str(), it.pod.as_str());
        let object = self.local.get(&name).filter(|object| object.pod.is_subject());
        object.is_some_and(|object| self.attachments.is_of(sandbox, object))
    }

    /// The addresses of this node's pods, by all that is said.
    pub(crate) fn addresses(&self) -> FxHashSet<IpAddr> {
        let given = self.attachments.live().flat_map(|it| &it.addresses);
        given.chain(self.local.values().flat_map(|object| &object.pod.ips)).copied().collect()
    }

    /// Addresses that were given to pods of which the API server has said nothing yet.
    pub(crate) fn nameless(&self) -> BTreeSet<IpAddr> {
        let live = self.attachments.live().filter(|it| !self.knows(&it.sandbox));
        live.flat_map(|it| it.addresses.iter().copied()).collect()
    }

    /// The ranges that the node's pods have their addresses from.
    pub(crate) fn ranges(&self) -> &[IpNet] {
        &self.ranges
    }

    /// Tells the compiler what it does not know yet, of pods of other nodes at most so many: a pod
    /// of this node does not wait behind them. When the oldest of it was told; `None`: there was
    /// nothing.
    pub(crate) fn batch(&mut self, compiler: &mut NodeCompiler, bulk: usize) -> Option<Instant> {
        let since = self.since.take()?;
        for (name, namespace) in self.namespaces.pending.drain() {
            match namespace {
                Some(namespace) => compiler.put_namespace(namespace),
                None => compiler.remove_namespace(&name),
            }
        }
        for (name, policy) in self.policies.pending.drain() {
            match policy {
                Some(policy) => compiler.put_policy(policy),
                None => compiler.remove_policy(Tier::NetworkPolicy, &name),
            }
        }
        for (name, ranges) in self.nodes.pending.drain() {
            if name == self.node {
                self.ranges = ranges.unwrap_or_default();
                self.strangers_changed = true;
            }
        }
        if self.pods.pending.len() <= bulk {
            for (name, object) in std::mem::take(&mut self.pods.pending) {
                self.tell(compiler, &name, object);
            }
            return Some(since);
        }
        let first = self.pods.pending.iter().filter(|(_, object)| self.is_ours(object.as_ref()));
        let others = self.pods.pending.iter().filter(|(_, object)| !self.is_ours(object.as_ref()));
        let names: Vec<Name> =
            first.chain(others.take(bulk)).map(|(name, _)| name.clone()).collect();
        for name in names {
            if let Some(object) = self.pods.pending.remove(&name) {
                self.tell(compiler, &name, object);
            }
        }
        if !self.pods.pending.is_empty() {
            self.since = Some(since);
        }
        Some(since)
    }

    fn is_ours(&self, object: Option<&PodObject>) -> bool {
        object.is_some_and(|it| it.pod.node.as_deref() == Some(&*self.node))
    }

    fn tell(&mut self, compiler: &mut NodeCompiler, name: &Name, object: Option<PodObject>) {
        let ours = self.is_ours(object.as_ref());
        if ours || self.local.contains_key(name) {
            self.attachments.note(name, object.as_ref().filter(|_| ours));
            self.strangers_changed = true;
        }
        match object {
            Some(object) if ours => {
                let ips = self.attachments.addresses(&object);
                compiler.put_pod(&Pod { ips, ..object.pod.clone() });
                self.local.insert(name.clone(), object);
            }
            Some(object) => {
                compiler.put_pod(&object.pod);
                self.local.remove(name);
            }
            None => {
                compiler.remove_pod(name);
                self.local.remove(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use podwall_compile::compiler::compile;
    use podwall_compile::testing::dice::Dice;
    use podwall_compile::testing::random;
    use podwall_policy::cluster::Cluster;
    use podwall_policy::label::Labels;
    use podwall_policy::policy::Policy;
    use podwall_policy::selector::Selector;

    use crate::objects::Read;

    use super::*;

    const NODE: &str = "n1";

    fn ok<T>(object: T) -> Read<T> {
        Read { object: Some(object), wrong: None }
    }

    fn mk_object(pod: &Pod) -> PodObject {
        PodObject { pod: pod.clone(), mirrors: None }
    }

    fn put_pod(pod: &Pod) -> Event {
        Event::Pod(Said::Put(pod.name.clone(), ok(mk_object(pod))))
    }

    fn put_policy(policy: &Policy) -> Event {
        Event::Policy(Said::Put(policy.name.clone(), ok(policy.clone())))
    }

    /// Policies as the watched kind has them.
    fn plain(cluster: &mut Cluster) {
        cluster.policies.retain(|(tier, _), _| *tier == Tier::NetworkPolicy);
        cluster.nodes.clear();
        cluster.services.clear();
        cluster.strangers.clear();
    }

    /// What the watches say of a cluster when they start.
    fn lists(cluster: &Cluster) -> Vec<Event> {
        let mut events = vec![
            Event::Namespace(Said::ListBegins),
            Event::Pod(Said::ListBegins),
            Event::Policy(Said::ListBegins),
            Event::Node(Said::ListBegins),
        ];
        events.extend(
            cluster
                .namespaces
                .values()
                .filter(|it| it.labels_known)
                .map(|it| Event::Namespace(Said::Listed(Arc::clone(&it.name), ok(it.clone())))),
        );
        events.extend(
            cluster
                .pods
                .values()
                .map(|it| Event::Pod(Said::Listed(it.name.clone(), ok(mk_object(it))))),
        );
        events.extend(
            cluster
                .policies
                .values()
                .map(|it| Event::Policy(Said::Listed(it.name.clone(), ok(it.clone())))),
        );
        events.extend([
            Event::Namespace(Said::ListEnds),
            Event::Pod(Said::ListEnds),
            Event::Node(Said::ListEnds),
            Event::Policy(Said::ListEnds),
        ]);
        events
    }

    struct Heard {
        index: Index,
        compiler: NodeCompiler,
    }

    impl Heard {
        fn new() -> Self {
            let node: Arc<str> = NODE.into();
            let index = Index::new(Arc::clone(&node), Attachments::default());
            Self { index, compiler: NodeCompiler::new(Some(node)) }
        }

        fn hear(&mut self, events: impl IntoIterator<Item = Event>) {
            events.into_iter().for_each(|event| self.index.hear(event, Instant::now()));
        }

        fn follow(&mut self, bulk: usize) {
            while self.index.batch(&mut self.compiler, bulk).is_some() {
                self.index.take_strangers_changed();
                self.compiler.commit();
            }
        }

        /// Numbers of classes depend on history; what packets meet does not.
        fn agrees(&self, cluster: &Cluster, dice: &mut Dice) {
            use podwall_compile::tables::Packet;
            use podwall_policy::port::Protocol;
            let whole = compile(cluster, Some(NODE));
            let tables = self.compiler.tables();
            assert_eq!(
                whole.subjects.keys().collect::<Vec<_>>(),
                tables.subjects.keys().collect::<Vec<_>>()
            );
            let ports: Vec<u16> = random::interesting_ports().collect();
            for _ in 0..200 {
                let packet = Packet {
                    src: random::address(dice, cluster),
                    dst: random::address(dice, cluster),
                    protocol: *dice.pick(&[Protocol::TCP, Protocol::UDP, Protocol::ICMP]),
                    port: *dice.pick(&ports),
                    from_node: dice.chance(5),
                    to_node: dice.chance(5),
                };
                if packet.src.is_ipv4() == packet.dst.is_ipv4() {
                    let passes = whole.decide(&packet).passes();
                    assert_eq!(tables.decide(&packet).passes(), passes, "{packet:?}");
                }
            }
        }
    }

    #[test]
    fn only_the_present_counts_whatever_was_told_before_and_in_which_order() {
        for seed in 0..150 {
            let mut dice = Dice::seeded(seed);
            let mut heard = Heard::new();
            // Worlds that were, or never were; some only in part.
            for _ in 0..dice.below(4) {
                let mut old = random::cluster(&mut dice);
                plain(&mut old);
                let mut events = lists(&old);
                if dice.chance(30) {
                    events.truncate(dice.between(1, events.len()));
                }
                heard.hear(events);
                if dice.chance(50) {
                    heard.follow(dice.between(1, 4));
                }
            }
            let mut now = random::cluster(&mut dice);
            plain(&mut now);
            heard.hear(lists(&now));
            // Told again, and told what is gone already.
            for pod in now.pods.values().filter(|_| dice.chance(30)).cloned().collect::<Vec<_>>() {
                let gone = Event::Pod(Said::Gone(pod.name.clone()));
                heard.hear([gone, put_pod(&pod), put_pod(&pod)]);
            }
            assert!(heard.index.is_synced());
            heard.follow(dice.between(1, 50));
            assert!(!heard.index.is_pending());
            heard.agrees(&now, &mut dice);
        }
    }

    fn mk_pod(name: &str, node: &str, app: &str, ip: [u8; 4]) -> Pod {
        Pod {
            node: Some(node.into()),
            ips: vec![ip.into()],
            ..Pod::new("shop", name, [("app", app)].into_iter().collect::<Labels>())
        }
    }

    fn mk_policy(name: &str) -> Policy {
        let closed = Some(Vec::new());
        Policy { ingress: closed, ..Policy::network_policy("shop", name, Selector::default()) }
    }

    #[test]
    fn nothing_counts_before_each_kind_was_listed_to_the_end() {
        let mut heard = Heard::new();
        for event in lists(&Cluster::default()) {
            assert!(!heard.index.is_synced());
            heard.hear([event]);
        }
        assert!(heard.index.is_synced());
    }

    #[test]
    fn policies_of_a_list_that_is_not_complete_wait_for_its_end() {
        let mut heard = Heard::new();
        heard.hear(lists(&Cluster::default()));
        heard.hear([put_policy(&mk_policy("old"))]);
        heard.follow(10);
        let (old, new) = (mk_policy("old"), mk_policy("new"));
        heard.hear([
            Event::Policy(Said::ListBegins),
            Event::Policy(Said::Listed(new.name.clone(), ok(new.clone()))),
        ]);
        assert!(!heard.index.is_pending(), "neither comes one, nor goes the other");
        heard.hear([Event::Policy(Said::ListEnds)]);
        assert!(heard.index.policies.pending[&old.name].is_none());
        assert!(heard.index.policies.pending[&new.name].is_some());
    }

    #[test]
    fn pods_of_this_node_do_not_wait_behind_those_of_others() {
        let mut heard = Heard::new();
        heard.hear(lists(&Cluster::default()));
        heard.follow(10);
        for number in 0..100_u8 {
            heard.hear([put_pod(&mk_pod(
                &format!("far-{number}"),
                "n2",
                "web",
                [10, 1, 0, number],
            ))]);
        }
        let ours = mk_pod("near", NODE, "web", [10, 0, 0, 1]);
        heard.hear([put_pod(&ours)]);
        assert!(heard.index.batch(&mut heard.compiler, 10).is_some());
        assert!(!heard.index.pods.pending.contains_key(&ours.name));
        assert_eq!(heard.index.pods.pending.len(), 90);
    }

    #[test]
    fn what_is_wrong_is_kept_until_the_object_is_right_or_gone() {
        let mut heard = Heard::new();
        let wrong = |reason: &str| Unusable {
            kind: Kind::Pod,
            name: "shop/a".into(),
            uid: None,
            reason: reason.into(),
        };
        let bad = || Read { object: None, wrong: Some(wrong("no address")) };
        let key = || Name::new("shop", "a");
        heard.hear([Event::Pod(Said::Put(key(), bad()))]);
        assert_eq!(heard.index.unusable().collect::<Vec<_>>(), [&wrong("no address")]);
        heard.hear([put_pod(&mk_pod("a", NODE, "web", [10, 0, 0, 1]))]);
        assert_eq!(heard.index.unusable().count(), 0);
        heard.hear([Event::Pod(Said::Put(key(), bad()))]);
        assert!(heard.index.pods.pending[&key()].is_none(), "the older state does not stay");
        heard.hear([Event::Pod(Said::ListBegins), Event::Pod(Said::ListEnds)]);
        assert_eq!(heard.index.unusable().count(), 0, "a list without it");
    }
}

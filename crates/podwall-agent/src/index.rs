//! What does the cluster look like now, and what of it does the compiler not know yet?
//!
//! ```text
//!   watches ── Said ──▶ Index: per kind, keys that are known │ what has changed, latest only
//!                         └─ batch ──▶ NodeCompiler          (pods of this node first)
//! ```
//!
//! Only the latest state of an object counts, so its result does not depend on how often it was
//! told, in which order, or what was missed. A list of all (a watch that starts anew) replaces what
//! was known: who is not in it is gone. Policies and namespaces of such a list wait until it is
//! complete, since half of it could allow what neither the old nor the new whole does; pods only
//! come, and go when it is complete.

use std::sync::Arc;
use std::time::Instant;

use podwall_compile::compiler::NodeCompiler;
use podwall_policy::object::{Name, Pod};
use podwall_policy::policy::Tier;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::objects::{Kind, Read, SlimNamespace, SlimPod, SlimPolicy, Unusable, Watched};

/// What a watch says of its kind.
#[derive(Debug)]
pub(crate) enum Said<W: Watched> {
    /// A list of all objects begins.
    ListBegins,
    /// One of the list.
    Listed(W::Key, Read<W::Object>),
    /// The list is complete.
    ListEnds,
    /// An object came or changed.
    Put(W::Key, Read<W::Object>),
    /// An object is gone.
    Gone(W::Key),
}

/// What any watch says.
#[derive(Debug)]
pub(crate) enum Event {
    /// Of namespaces.
    Namespace(Said<SlimNamespace>),
    /// Of pods.
    Pod(Said<SlimPod>),
    /// Of policies.
    Policy(Said<SlimPolicy>),
}

/// What is known of one kind. Owned by the index.
struct Known<W: Watched> {
    /// All objects of which the compiler was told, or will be with the next batches.
    keys: FxHashSet<W::Key>,
    /// What the compiler is to be told; `None`: it is gone.
    pending: FxHashMap<W::Key, Option<W::Object>>,
    /// A list that is not complete.
    list: Option<List<W>>,
    /// Whether there was a complete list.
    synced: bool,
    /// What cannot be used, and why.
    unusable: FxHashMap<W::Key, Unusable>,
}

/// A list that is coming in.
struct List<W: Watched> {
    seen: FxHashSet<W::Key>,
    /// Objects that wait for its end, where they do.
    waiting: Vec<(W::Key, Read<W::Object>)>,
}

impl<W: Watched> Default for List<W> {
    fn default() -> Self {
        Self { seen: FxHashSet::default(), waiting: Vec::new() }
    }
}

/// The cluster as the watches tell it. Owned by the thread that writes to the kernel.
pub(crate) struct Index {
    node: Arc<str>,
    namespaces: Known<SlimNamespace>,
    pods: Known<SlimPod>,
    policies: Known<SlimPolicy>,
    /// When the oldest of what is pending was told.
    since: Option<Instant>,
}

// === impl Known ===

impl<W: Watched> Known<W> {
    fn new() -> Self {
        Self {
            keys: FxHashSet::default(),
            pending: FxHashMap::default(),
            list: None,
            synced: false,
            unusable: FxHashMap::default(),
        }
    }

    /// Takes note; `waits`: what a list holds counts only once it is complete.
    fn hear(&mut self, said: Said<W>, waits: bool) {
        match said {
            Said::ListBegins => self.list = Some(List::default()),
            Said::Listed(key, read) => match &mut self.list {
                Some(list) => {
                    list.seen.insert(key.clone());
                    if waits {
                        list.waiting.push((key, read));
                    } else {
                        self.put(key, read);
                    }
                }
                None => self.put(key, read),
            },
            Said::ListEnds => {
                let Some(List { seen, waiting }) = self.list.take() else { return };
                for (key, read) in waiting {
                    self.put(key, read);
                }
                let known = self.keys.iter().chain(self.unusable.keys());
                let gone: FxHashSet<W::Key> =
                    known.filter(|key| !seen.contains(key)).cloned().collect();
                for key in gone {
                    self.put(key, Read::nothing());
                }
                self.synced = true;
            }
            Said::Put(key, read) => self.put(key, read),
            Said::Gone(key) => self.put(key, Read::nothing()),
        }
    }

    fn put(&mut self, key: W::Key, Read { object, wrong }: Read<W::Object>) {
        let kind = W::KIND;
        match wrong {
            Some(wrong) => {
                if self.unusable.get(&key) != Some(&wrong) {
                    tracing::warn!(%kind, object = wrong.name, reason = wrong.reason, "unusable");
                    self.unusable.insert(key.clone(), wrong);
                }
            }
            None => {
                if let Some(wrong) = self.unusable.remove(&key) {
                    tracing::info!(%kind, object = wrong.name, "usable again, or gone");
                }
            }
        }
        let known = match &object {
            Some(_) => !self.keys.insert(key.clone()),
            None => self.keys.remove(&key),
        };
        if object.is_some() || known {
            self.pending.insert(key, object);
        }
    }
}

// === impl Index ===

impl Index {
    /// Of a node: its pods go first.
    pub(crate) fn new(node: Arc<str>) -> Self {
        Self {
            node,
            namespaces: Known::new(),
            pods: Known::new(),
            policies: Known::new(),
            since: None,
        }
    }

    /// Takes note of what a watch says.
    pub(crate) fn hear(&mut self, event: Event, when: Instant) {
        match event {
            Event::Namespace(said) => self.namespaces.hear(said, true),
            Event::Pod(said) => self.pods.hear(said, false),
            Event::Policy(said) => self.policies.hear(said, true),
        }
        if self.is_pending() {
            self.since.get_or_insert(when);
        }
    }

    /// Whether each kind was listed to the end once: before, nobody knows what should hold.
    pub(crate) fn is_synced(&self) -> bool {
        self.namespaces.synced && self.pods.synced && self.policies.synced
    }

    /// Whether the compiler has to be told something.
    pub(crate) fn is_pending(&self) -> bool {
        !(self.namespaces.pending.is_empty()
            && self.pods.pending.is_empty()
            && self.policies.pending.is_empty())
    }

    /// How many objects are known of each kind.
    pub(crate) fn counts(&self) -> [(Kind, usize); 3] {
        [
            (Kind::Namespace, self.namespaces.keys.len()),
            (Kind::Pod, self.pods.keys.len()),
            (Kind::NetworkPolicy, self.policies.keys.len()),
        ]
    }

    /// What cannot be used, and why.
    pub(crate) fn unusable(&self) -> impl Iterator<Item = &Unusable> {
        let (namespaces, pods) = (self.namespaces.unusable.values(), self.pods.unusable.values());
        namespaces.chain(pods).chain(self.policies.unusable.values())
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
        let tell = |compiler: &mut NodeCompiler, name: Name, pod: Option<Pod>| match pod {
            Some(pod) => compiler.put_pod(&pod),
            None => compiler.remove_pod(&name),
        };
        if self.pods.pending.len() <= bulk {
            self.pods.pending.drain().for_each(|(name, pod)| tell(compiler, name, pod));
            return Some(since);
        }
        let ours = |pod: &Option<Pod>| {
            pod.as_ref().is_some_and(|pod| pod.node.as_deref() == Some(&*self.node))
        };
        let first = self.pods.pending.iter().filter(|(_, pod)| ours(pod));
        let others = self.pods.pending.iter().filter(|(_, pod)| !ours(pod)).take(bulk);
        let names: Vec<Name> = first.chain(others).map(|(name, _)| name.clone()).collect();
        for name in names {
            if let Some(pod) = self.pods.pending.remove(&name) {
                tell(compiler, name, pod);
            }
        }
        if self.is_pending() {
            self.since = Some(since);
        }
        Some(since)
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

    use super::*;

    const NODE: &str = "n1";

    fn ok<T>(object: T) -> Read<T> {
        Read { object: Some(object), wrong: None }
    }

    fn put_pod(pod: &Pod) -> Event {
        Event::Pod(Said::Put(pod.name.clone(), ok(pod.clone())))
    }

    fn put_policy(policy: &Policy) -> Event {
        Event::Policy(Said::Put(policy.name.clone(), ok(policy.clone())))
    }

    /// Policies as the watched kind has them.
    fn plain(cluster: &mut Cluster) {
        cluster.policies.retain(|(tier, _), _| *tier == Tier::NetworkPolicy);
        cluster.nodes.clear();
        cluster.services.clear();
    }

    /// What the watches say of a cluster when they start.
    fn lists(cluster: &Cluster) -> Vec<Event> {
        let mut events = vec![
            Event::Namespace(Said::ListBegins),
            Event::Pod(Said::ListBegins),
            Event::Policy(Said::ListBegins),
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
                .map(|it| Event::Pod(Said::Listed(it.name.clone(), ok(it.clone())))),
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
            Self { index: Index::new(Arc::clone(&node)), compiler: NodeCompiler::new(Some(node)) }
        }

        fn hear(&mut self, events: impl IntoIterator<Item = Event>) {
            events.into_iter().for_each(|event| self.index.hear(event, Instant::now()));
        }

        fn follow(&mut self, bulk: usize) {
            while self.index.batch(&mut self.compiler, bulk).is_some() {
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

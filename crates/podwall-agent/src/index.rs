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

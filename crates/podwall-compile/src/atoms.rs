//! What do the active policies ask of a peer?
//!
//! ```text
//!   policies ──use──▶ scope atom   pods app=web in namespaces team=a
//!                     block atom   10.0.0.0/8 except 10.1.0.0/16 (as ranges)
//!            ──name─▶ port atom    "http"/TCP is 8080 here          (egress only)
//! ```
//!
//! An atom is one yes-or-no question about an address. Two addresses that give the same answers are
//! one peer class. Equal questions of several policies are one atom.
//!
//! Broad atoms ask for whole namespaces or for many addresses, and make classes of their own
//! (groups and nets), so that they do not multiply with the others. Which questions can be broad is
//! their own nature. A rule that has to be read in order with others, or whose ports depend on the
//! pod, asks them as narrow ones.

use std::collections::BTreeSet;
use std::sync::Arc;

use podwall_policy::address::{AddressSet, Family};
use podwall_policy::policy::{Peer, PodScope};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::ids::Ids;
use crate::policies::PolicySlot;
use crate::scopes::{ScopeIndex, normal};
use crate::world::PortName;

/// An atom. Blocks sort after all others, so that a sorted list of atoms has its blocks at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct AtomId(pub(crate) u32);

const BLOCK: u32 = 1 << 31;
const BROAD: u32 = 1 << 30;

impl AtomId {
    /// Whether the atom asks for a block, and not for something about a pod.
    pub(crate) fn is_block(self) -> bool {
        self.0 & BLOCK != 0
    }

    /// Whether it makes groups or nets, and not peer classes.
    pub(crate) fn is_broad(self) -> bool {
        self.0 & BROAD != 0
    }
}

/// A set of more IPv4 addresses than a /17 can be asked for as a net; the number of bits.
const BROAD_V4: u32 = 16;
/// The same for IPv6 addresses: a /64 is one network.
const BROAD_V6: u32 = 64;

/// The question of an atom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Question {
    /// Is it the address of a pod in this scope?
    Scope(Arc<PodScope>),
    /// Does it lie in these ranges?
    Block(AddressSet),
    /// Is it the address of a pod on which this port name stands for this number?
    Port(PortName, u16),
}

impl Question {
    /// The question that a peer asks.
    pub(crate) fn of(peer: &Peer) -> Self {
        match peer {
            Peer::Pods(scope) => Self::Scope(Arc::new(normal(scope))),
            Peer::Block(block) => Self::Block(block.ranges()),
        }
    }

    /// Whether it asks for whole namespaces, or for many addresses.
    pub(crate) fn can_be_broad(&self) -> bool {
        match self {
            Self::Scope(scope) => scope.pods.requirements.is_empty(),
            Self::Block(set) => set.ranges().iter().any(|range| {
                let (first, last) = range.bits();
                let bits = if range.family() == Family::V4 { BROAD_V4 } else { BROAD_V6 };
                last - first >= (1 << bits) - 1
            }),
            Self::Port(..) => false,
        }
    }
}

/// All atoms and who uses them. Owned by the compiler.
#[derive(Debug)]
pub(crate) struct Atoms {
    atoms: FxHashMap<AtomId, Atom>,
    /// Narrow atoms, then broad ones.
    by_question: [FxHashMap<Arc<Question>, AtomId>; 2],
    names: FxHashMap<PortName, NameUse>,
    index: ScopeIndex<AtomId>,
    groups: ScopeIndex<AtomId>,
    /// Narrow, then broad.
    about_pods: [Ids; 2],
    about_blocks: [Ids; 2],
    fresh: BTreeSet<AtomId>,
    unused: BTreeSet<AtomId>,
    fresh_names: BTreeSet<PortName>,
    unused_names: BTreeSet<PortName>,
}

#[derive(Debug)]
struct Atom {
    question: Arc<Question>,
    users: FxHashSet<PolicySlot>,
}

#[derive(Debug, Default)]
struct NameUse {
    users: FxHashSet<PolicySlot>,
    numbers: FxHashMap<u16, AtomId>,
}

/// What became of the atoms since the last time.
#[derive(Debug, Default)]
pub(crate) struct AtomChanges {
    /// New scopes and blocks; scopes are not in the index yet.
    pub(crate) fresh: Vec<AtomId>,
    /// Scopes, blocks and ports that nobody uses any more; they still answer [`Atoms::question`]
    /// until [`Atoms::forget`].
    pub(crate) unused: Vec<AtomId>,
    /// Port names that nobody used before.
    pub(crate) fresh_names: Vec<PortName>,
}

impl Atoms {
    /// No atom.
    pub(crate) fn new() -> Self {
        Self {
            atoms: FxHashMap::default(),
            by_question: Default::default(),
            names: FxHashMap::default(),
            index: ScopeIndex::default(),
            groups: ScopeIndex::default(),
            about_pods: [0, BROAD].map(Ids::from),
            about_blocks: [BLOCK, BLOCK | BROAD].map(Ids::from),
            fresh: BTreeSet::new(),
            unused: BTreeSet::new(),
            fresh_names: BTreeSet::new(),
            unused_names: BTreeSet::new(),
        }
    }

    /// Makes room for what so many policies ask.
    pub(crate) fn reserve(&mut self, policies: usize) {
        if policies > self.atoms.len() {
            self.atoms.reserve(policies);
            self.by_question[0].reserve(policies);
        }
    }

    /// How many atoms there are.
    pub(crate) fn len(&self) -> usize {
        self.atoms.len()
    }

    /// Narrow scope atoms by what they select; without those that [`Atoms::take_changes`] has not
    /// reported or [`Atoms::index`] not added.
    pub(crate) fn scopes(&self) -> &ScopeIndex<AtomId> {
        &self.index
    }

    /// The same for broad ones.
    pub(crate) fn groups(&self) -> &ScopeIndex<AtomId> {
        &self.groups
    }

    /// Whether anybody asks for pods; `fresh` are atoms that are not indexed yet.
    pub(crate) fn ask_for_pods(&self, fresh: &[AtomId]) -> bool {
        !(self.index.is_empty() && self.groups.is_empty() && self.names.is_empty())
            || fresh.iter().any(|atom| !atom.is_block())
    }

    /// An atom's question.
    pub(crate) fn question(&self, atom: AtomId) -> Option<&Question> {
        self.atoms.get(&atom).map(|atom| &*atom.question)
    }

    /// The policies whose rows depend on the atom.
    pub(crate) fn users(&self, atom: AtomId) -> impl Iterator<Item = PolicySlot> {
        let users = self.atoms.get(&atom).map(|atom| match &*atom.question {
            Question::Port(name, _) => self.names.get(name).map(|name| &name.users),
            _ => Some(&atom.users),
        });
        users.flatten().into_iter().flatten().copied()
    }

    /// Whether an active egress rule uses a port name.
    pub(crate) fn uses_name(&self, name: &PortName) -> bool {
        !self.names.is_empty() && self.names.contains_key(name)
    }

    /// The port atoms of a name.
    pub(crate) fn ports_of(&self, name: &PortName) -> impl Iterator<Item = AtomId> {
        self.names.get(name).into_iter().flat_map(|name| name.numbers.values().copied())
    }

    /// Notes that a policy uses a scope or block, as a broad atom or a narrow one, and gives it.
    pub(crate) fn acquire(
        &mut self,
        question: Question,
        broad: bool,
        policy: PolicySlot,
    ) -> AtomId {
        let id = match self.by_question[usize::from(broad)].get(&question) {
            Some(id) => *id,
            None => {
                let id = self.add(question, broad);
                self.fresh.insert(id);
                id
            }
        };
        if let Some(atom) = self.atoms.get_mut(&id) {
            atom.users.insert(policy);
        }
        self.unused.remove(&id);
        id
    }

    /// Notes that a policy no longer uses an atom.
    pub(crate) fn release(&mut self, atom: AtomId, policy: PolicySlot) {
        if let Some(entry) = self.atoms.get_mut(&atom) {
            entry.users.remove(&policy);
            if entry.users.is_empty() {
                self.unused.insert(atom);
            }
        }
    }

    /// Notes that a policy uses a port name in egress.
    pub(crate) fn acquire_name(&mut self, name: &PortName, policy: PolicySlot) {
        if !self.names.contains_key(name) {
            self.fresh_names.insert(name.clone());
        }
        self.names.entry(name.clone()).or_default().users.insert(policy);
        self.unused_names.remove(name);
    }

    /// Notes that a policy no longer does.
    pub(crate) fn release_name(&mut self, name: &PortName, policy: PolicySlot) {
        if let Some(entry) = self.names.get_mut(name) {
            entry.users.remove(&policy);
            if entry.users.is_empty() {
                self.unused_names.insert(name.clone());
            }
        }
    }

    /// The atom for a number of a name that is in use.
    pub(crate) fn port(&mut self, name: &PortName, number: u16) -> AtomId {
        if let Some(id) = self.names.get(name).and_then(|entry| entry.numbers.get(&number)) {
            return *id;
        }
        let id = self.add(Question::Port(name.clone(), number), false);
        self.names.entry(name.clone()).or_default().numbers.insert(number, id);
        id
    }

    /// What changed since the last time. Scopes that nobody uses leave the index here.
    pub(crate) fn take_changes(&mut self) -> AtomChanges {
        let mut changes = AtomChanges::default();
        let fresh = std::mem::take(&mut self.fresh);
        for atom in std::mem::take(&mut self.unused) {
            if fresh.contains(&atom) {
                self.forget(atom); // came and went unseen
                continue;
            }
            if let Some(Question::Scope(scope)) = self.atoms.get(&atom).map(|a| &*a.question) {
                let index = if atom.is_broad() { &mut self.groups } else { &mut self.index };
                index.remove(scope, atom);
            }
            changes.unused.push(atom);
        }
        changes.fresh = fresh.into_iter().filter(|atom| self.atoms.contains_key(atom)).collect();
        let fresh_names = std::mem::take(&mut self.fresh_names);
        for name in std::mem::take(&mut self.unused_names) {
            if let Some(entry) = self.names.remove(&name) {
                changes.unused.extend(entry.numbers.into_values());
            }
        }
        changes.fresh_names =
            fresh_names.into_iter().filter(|name| self.names.contains_key(name)).collect();
        changes
    }

    /// Puts a fresh scope atom into the index.
    pub(crate) fn index(&mut self, atom: AtomId) {
        if let Some(Question::Scope(scope)) = self.atoms.get(&atom).map(|atom| &*atom.question) {
            let index = if atom.is_broad() { &mut self.groups } else { &mut self.index };
            index.insert(scope, atom);
        }
    }

    /// Forgets an atom that no class has any more.
    pub(crate) fn forget(&mut self, atom: AtomId) {
        let Some(entry) = self.atoms.remove(&atom) else { return };
        let broad = usize::from(atom.is_broad());
        self.by_question[broad].remove(&entry.question);
        if let Question::Port(name, number) = &*entry.question
            && let Some(name) = self.names.get_mut(name)
        {
            name.numbers.remove(number);
        }
        let ids = if atom.is_block() { &mut self.about_blocks } else { &mut self.about_pods };
        ids[broad].give_back(atom.0);
    }

    /// Ends a commit: numbers that were freed may be used again.
    pub(crate) fn settle(&mut self) {
        self.about_pods.iter_mut().chain(&mut self.about_blocks).for_each(Ids::settle);
    }

    fn add(&mut self, question: Question, broad: bool) -> AtomId {
        let is_block = matches!(question, Question::Block(_));
        let ids = if is_block { &mut self.about_blocks } else { &mut self.about_pods };
        let (id, question) = (AtomId(ids[usize::from(broad)].take()), Arc::new(question));
        self.by_question[usize::from(broad)].insert(question.clone(), id);
        self.atoms.insert(id, Atom { question, users: FxHashSet::default() });
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use podwall_policy::policy::NamespaceScope;
    use podwall_policy::port::Protocol;
    use podwall_policy::selector::Selector;

    fn scope(app: &'static str) -> Question {
        Question::Scope(Arc::new(PodScope {
            namespaces: NamespaceScope::Own("x".into()),
            pods: Selector::labels([("app", app)]),
        }))
    }

    #[test]
    fn equal_questions_are_one_atom_until_the_last_user_goes() {
        let mut atoms = Atoms::new();
        let web = atoms.acquire(scope("web"), false, 1);
        assert_eq!(atoms.acquire(scope("web"), false, 2), web);
        assert_eq!(atoms.take_changes().fresh, [web]);
        atoms.release(web, 1);
        assert!(atoms.take_changes().unused.is_empty());
        atoms.release(web, 2);
        atoms.acquire(scope("web"), false, 3);
        assert!(atoms.take_changes().unused.is_empty());
        atoms.release(web, 3);
        let db = atoms.acquire(scope("db"), false, 3);
        atoms.release(db, 3);
        let changes = atoms.take_changes();
        assert_eq!((changes.unused, changes.fresh), (vec![web], vec![]));
        atoms.forget(web);
        assert_eq!(atoms.len(), 0);
    }

    #[test]
    fn a_port_atom_goes_with_the_last_user_of_its_name() {
        let mut atoms = Atoms::new();
        let http: PortName = ("http".into(), Protocol::TCP);
        atoms.acquire_name(&http, 1);
        assert_eq!(atoms.take_changes().fresh_names, std::slice::from_ref(&http));
        let port = atoms.port(&http, 80);
        assert_eq!(atoms.port(&http, 80), port);
        assert_eq!(atoms.users(port).collect::<Vec<_>>(), [1]);
        atoms.release_name(&http, 1);
        assert_eq!(atoms.take_changes().unused, [port]);
        assert!(!atoms.uses_name(&http));
    }

    #[test]
    fn blocks_sort_after_everything_else() {
        let mut atoms = Atoms::new();
        let everything = || Question::Block(AddressSet::everything());
        let block = atoms.acquire(everything(), false, 1);
        let net = atoms.acquire(everything(), true, 1);
        let web = atoms.acquire(scope("web"), false, 1);
        assert!(block.is_block() && net.is_block() && !web.is_block());
        assert!(web < block && web < net);
        assert!(net.is_broad() && !block.is_broad());
    }

    #[test]
    fn whole_namespaces_and_many_addresses_can_be_broad() {
        let block = |nets: &[&str]| {
            let nets = nets.iter().map(|net| net.parse::<ipnet::IpNet>().unwrap());
            let set = nets.fold(AddressSet::empty(), |all, net| all.union(&AddressSet::from(net)));
            Question::Block(set).can_be_broad()
        };
        assert!(block(&["0.0.0.0/0"]) && block(&["10.1.0.0/16"]) && block(&["fd00::/64"]));
        assert!(!block(&["10.1.0.0/17"]) && !block(&["fd00::/65"]) && !block(&[]));
        assert!(block(&["10.1.0.0/17", "10.1.128.0/17"]));
        let all = PodScope {
            namespaces: NamespaceScope::Matching(Selector::labels([("team", "a")])),
            pods: Selector::everything(),
        };
        assert!(Question::Scope(Arc::new(all)).can_be_broad() && !scope("web").can_be_broad());
        assert!(!Question::Port(("http".into(), Protocol::TCP), 80).can_be_broad());
    }
}

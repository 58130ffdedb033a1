//! Which selectors do all policies use, and whom does each select?
//!
//! ```text
//!   policy a ─ subject ─┐
//!   policy b ─ subject ─┴▶ "app=web in shop" ◀─ peer ─ policy c        one number for all three
//! ```
//!
//! A selector of whole namespaces is *broad*: namespaces meet it, not each of their pods.

use std::sync::Arc;

use podwall_compile::scopes::{ScopeIndex, normal};
use podwall_policy::policy::{Direction, PodScope};
use podwall_policy::reason::MissingFact;
use rustc_hash::FxHashMap;

/// A policy's place while it is known.
pub(crate) type PolicySlot = usize;

/// A selector's number while some policy uses it.
pub(crate) type ScopeId = u32;

/// All selectors that some policy uses. Owned by the engine.
#[derive(Debug, Default)]
pub(super) struct Selectors {
    /// By number.
    list: Vec<Option<Asked>>,
    free: Vec<ScopeId>,
    numbers: FxHashMap<Arc<PodScope>, ScopeId>,
    /// Those with labels of pods, searched by pods.
    pub(super) narrow: ScopeIndex<ScopeId>,
    /// Those of whole namespaces, searched by namespaces.
    pub(super) broad: ScopeIndex<ScopeId>,
}

/// One selector.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) scope: Arc<PodScope>,
    /// How often policies use it.
    uses: usize,
    /// The policies whose subject it is, ascending.
    pub(super) selects: Vec<PolicySlot>,
    /// How many rules of egress and of ingress ask it of their peers.
    peers: [usize; 2],
}

/// What a selector is used for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Use {
    /// It is a policy's subject.
    Subject(PolicySlot),
    /// A rule of this direction asks it of peers.
    Peer(Direction),
}

/// The place of a direction in pairs: as in [`Direction::BOTH`].
pub(crate) fn side(direction: Direction) -> usize {
    match direction {
        Direction::Egress => 0,
        Direction::Ingress => 1,
    }
}

/// Whether it selects whole namespaces.
pub(super) fn is_broad(scope: &PodScope) -> bool {
    scope.pods.is_everything()
}

impl Selectors {
    /// A selector by its number.
    pub(super) fn get(&self, id: ScopeId) -> Option<&Asked> {
        self.list.get(usize::try_from(id).ok()?)?.as_ref()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether rules of a direction ask it of their peers.
    pub(super) fn is_peer(&self, id: ScopeId, direction: Direction) -> bool {
        self.get(id).is_some_and(|asked| asked.peers[side(direction)] > 0)
    }

    /// One use more of a selector; its number, and the selector if it is new.
    pub(super) fn take(&mut self, scope: &PodScope, used: Use) -> (ScopeId, Option<Arc<PodScope>>) {
        let scope = normal(scope);
        let (id, new) = match self.numbers.get(&scope) {
            Some(id) => (*id, None),
            None => {
                let scope = Arc::new(scope);
                (self.add(scope.clone()), Some(scope))
            }
        };
        if let Some(asked) = self.list.get_mut(id as usize).and_then(Option::as_mut) {
            asked.uses += 1;
            match used {
                Use::Subject(slot) => {
                    let at = asked.selects.partition_point(|other| *other < slot);
                    asked.selects.insert(at, slot);
                }
                Use::Peer(direction) => asked.peers[side(direction)] += 1,
            }
        }
        (id, new)
    }

    fn add(&mut self, scope: Arc<PodScope>) -> ScopeId {
        let asked = Asked { scope: scope.clone(), uses: 0, selects: Vec::new(), peers: [0; 2] };
        let id = self.free.pop().unwrap_or_else(|| {
            self.list.push(None);
            u32::try_from(self.list.len() - 1).unwrap_or(u32::MAX)
        });
        if is_broad(&scope) {
            self.broad.insert(&scope, id);
        } else {
            self.narrow.insert(&scope, id);
        }
        self.numbers.insert(scope, id);
        self.list[id as usize] = Some(asked);
        id
    }

    /// One use less; the selector if it was the last.
    pub(super) fn give_back(&mut self, id: ScopeId, used: Use) -> Option<Arc<PodScope>> {
        let place = self.list.get_mut(id as usize)?;
        let asked = place.as_mut()?;
        asked.uses -= 1;
        match used {
            Use::Subject(slot) => asked.selects.retain(|other| *other != slot),
            Use::Peer(direction) => asked.peers[side(direction)] -= 1,
        }
        if asked.uses > 0 {
            return None;
        }
        let scope = place.take()?.scope;
        self.numbers.remove(&scope);
        if is_broad(&scope) {
            self.broad.remove(&scope, id);
        } else {
            self.narrow.remove(&scope, id);
        }
        self.free.push(id);
        Some(scope)
    }
}

/// The selectors that something meets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Meets {
    /// Those that it certainly meets, ascending.
    pub(super) certain: Vec<ScopeId>,
    /// Those that it meets if these facts say so, ascending.
    pub(super) perhaps: Vec<(ScopeId, Arc<[MissingFact]>)>,
}

/// Whether a selector is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Met<'a> {
    No,
    Yes,
    Perhaps(&'a [MissingFact]),
}

impl Meets {
    /// Whether a selector is met.
    pub(super) fn of(&self, id: ScopeId) -> Met<'_> {
        if self.certain.binary_search(&id).is_ok() {
            return Met::Yes;
        }
        match self.perhaps.binary_search_by_key(&id, |(id, _)| *id) {
            Ok(at) => Met::Perhaps(&self.perhaps[at].1),
            Err(_) => Met::No,
        }
    }

    /// Each selector that is met, certainly (no facts) or perhaps.
    pub(super) fn iter(&self) -> impl Iterator<Item = (ScopeId, Option<&[MissingFact]>)> {
        let perhaps = self.perhaps.iter().map(|(id, facts)| (*id, Some(&**facts)));
        self.certain.iter().map(|id| (*id, None)).chain(perhaps)
    }

    /// Notes that a selector is met.
    pub(super) fn insert(&mut self, id: ScopeId, facts: Option<Arc<[MissingFact]>>) {
        match facts {
            None => {
                if let Err(at) = self.certain.binary_search(&id) {
                    self.certain.insert(at, id);
                }
            }
            Some(facts) => {
                if let Err(at) = self.perhaps.binary_search_by_key(&id, |(id, _)| *id) {
                    self.perhaps.insert(at, (id, facts));
                }
            }
        }
    }

    /// Forgets a selector.
    pub(super) fn remove(&mut self, id: ScopeId) {
        if let Ok(at) = self.certain.binary_search(&id) {
            self.certain.remove(at);
        }
        if let Ok(at) = self.perhaps.binary_search_by_key(&id, |(id, _)| *id) {
            self.perhaps.remove(at);
        }
    }
}

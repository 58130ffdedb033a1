//! To whom may anything pass at all, without asking each pair?
//!
//! ```text
//!   egress of src lets out to   selectors, blocks ──who meets them──▶ ends ┐
//!   ingress that lets src in    ◀──selectors that src meets, its blocks    ┴▶ both: worth asking
//! ```
//!
//! A pod that NetworkPolicies isolate reaches only whom one of its rules names, so most pairs of a
//! large cluster need no look. Who is in no rule and still may matter is in every answer: whom
//! tiers decide, whose selectors are not certain, who is special. Too many are no error, they are
//! asked; too few would be, and tests of the matrix hold that.

use podwall_policy::policy::{Direction, Tier};
use rustc_hash::FxHashMap;

use super::factored::{AddressClass, End, Factored};
use super::numbers::Id;
use super::program::Asks;
use super::selectors::{ScopeId, side};

/// Ends, and what finds those that may be reached. Owned by who asks for pairs.
#[derive(Debug, Default)]
pub(crate) struct Reached {
    /// By end: whom its egress names, what its ingress is found by, and what it is as a peer of
    /// egress and ingress.
    ends: Vec<Known>,
    /// Sets of what rules name; the first is everybody.
    named: Vec<Named>,
    /// By direction.
    found: [Found; 2],
    /// Everybody to everybody.
    always: Vec<usize>,
}

#[derive(Debug)]
struct Known {
    /// Its place in the sets, for egress and ingress.
    names: [usize; 2],
    peer: [As; 2],
    /// Nothing can be said of it.
    special: bool,
}

/// What an end is to rules.
#[derive(Clone, Debug, Default)]
struct As {
    scopes: Vec<ScopeId>,
    blocks: Vec<u32>,
    /// Any block may be around it.
    anywhere: bool,
}

/// Whom the rules of one side name.
#[derive(Clone, Debug, Default)]
struct Named {
    everybody: bool,
    scopes: Vec<ScopeId>,
    blocks: Vec<u32>,
}

/// For egress: ends by what they are. For ingress: ends by what their rules name.
#[derive(Debug, Default)]
struct Found {
    by_scope: FxHashMap<ScopeId, Vec<usize>>,
    by_block: FxHashMap<u32, Vec<usize>>,
    /// Egress: around whom any block may be. Ingress: whose rules name any block.
    by_any_block: Vec<usize>,
    /// Ingress: who lets everybody in.
    everybody: Vec<usize>,
}

impl Reached {
    /// For these ends.
    pub(crate) fn of<'e>(
        factored: &Factored<'e>,
        ends: impl IntoIterator<Item = &'e End<'e>>,
    ) -> Self {
        let mut reached = Self::default();
        reached.named.push(Named { everybody: true, ..Named::default() });
        let mut sets: [FxHashMap<Id, usize>; 2] = Default::default();
        for end in ends {
            let names = Direction::BOTH.map(|direction| {
                let Some(class) = factored.selected_by(end, direction) else { return 0 };
                let next = reached.named.len();
                let at = *sets[side(direction)].entry(class).or_insert(next);
                if at == next {
                    reached.named.push(factored.named(class, direction));
                }
                at
            });
            let peer = Direction::BOTH.map(|direction| factored.as_peer(end, direction));
            let special = end.kind().is_none();
            reached.add(Known { names, peer, special });
        }
        reached
    }

    fn add(&mut self, end: Known) {
        let at = self.ends.len();
        if end.special {
            self.always.push(at);
        }
        let [egress, ingress] = [Direction::Egress, Direction::Ingress].map(side);
        let its = &end.peer[egress];
        let found = &mut self.found[egress];
        its.scopes.iter().for_each(|id| found.by_scope.entry(*id).or_default().push(at));
        its.blocks.iter().for_each(|id| found.by_block.entry(*id).or_default().push(at));
        found.by_any_block.extend(its.anywhere.then_some(at));
        let found = &mut self.found[ingress];
        if let Some(named) = self.named.get(end.names[ingress]) {
            found.everybody.extend(named.everybody.then_some(at));
            named.scopes.iter().for_each(|id| found.by_scope.entry(*id).or_default().push(at));
            named.blocks.iter().for_each(|id| found.by_block.entry(*id).or_default().push(at));
            found.by_any_block.extend((!named.blocks.is_empty()).then_some(at));
        }
        self.ends.push(end);
    }

    /// The ends to which something may pass from one of them, by place, ascending; more than there
    /// are, perhaps.
    pub(crate) fn from(&self, src: usize) -> Vec<usize> {
        let Some(end) = self.ends.get(src).filter(|end| !end.special) else {
            return (0..self.ends.len()).collect();
        };
        let [egress, ingress] = [Direction::Egress, Direction::Ingress].map(side);
        // Who lets it in.
        let found = &self.found[ingress];
        let its = &end.peer[ingress];
        let mut let_in: Vec<usize> = found.everybody.clone();
        let_in.extend(its.scopes.iter().filter_map(|id| found.by_scope.get(id)).flatten());
        let_in.extend(its.blocks.iter().filter_map(|id| found.by_block.get(id)).flatten());
        if its.anywhere {
            let_in.extend(&found.by_any_block);
        }
        let_in.sort_unstable();
        let_in.dedup();
        // Whom it may speak to.
        let named = self.named.get(end.names[egress]).filter(|named| !named.everybody);
        if let Some(named) = named {
            let found = &self.found[egress];
            let mut let_out: Vec<usize> = Vec::new();
            let_out.extend(named.scopes.iter().filter_map(|id| found.by_scope.get(id)).flatten());
            let_out.extend(named.blocks.iter().filter_map(|id| found.by_block.get(id)).flatten());
            if !named.blocks.is_empty() {
                let_out.extend(&found.by_any_block);
            }
            let_out.sort_unstable();
            let_out.dedup();
            let_in.retain(|at| let_out.binary_search(at).is_ok());
        }
        let_in.extend(&self.always);
        let_in.sort_unstable();
        let_in.dedup();
        let_in
    }
}

impl<'e> Factored<'e> {
    /// The policies that select an end, as a number; `None` for whom none can.
    fn selected_by(&self, end: &End<'e>, direction: Direction) -> Option<Id> {
        let class = end.of.subject[side(direction)]?;
        let (selected, _) = self.subjects[side(direction)].list.get(class as usize)?;
        Some(*selected)
    }

    /// Whom the rules of these policies name; everybody if they do not isolate for certain.
    fn named(&self, selected: Id, direction: Direction) -> Named {
        let everybody = Named { everybody: true, ..Named::default() };
        let Some((slots, None)) = self.selected.list.get(selected as usize) else {
            return everybody;
        };
        if slots.is_empty() {
            return everybody;
        }
        let mut named = Named::default();
        for slot in slots {
            let Some(program) = self.engine.program(*slot) else { return everybody };
            if program.tier != Tier::NetworkPolicy {
                return everybody;
            }
            for clause in program.clauses(direction).unwrap_or_default() {
                if clause.peers.is_empty() {
                    return everybody;
                }
                for asks in &clause.peers {
                    match asks {
                        Asks::Scope(id) => named.scopes.push(*id),
                        Asks::Block { block, .. } => {
                            let Some(number) = self.blocks.number(block) else { return everybody };
                            named.blocks.push(number);
                        }
                    }
                }
            }
        }
        named.scopes.sort_unstable();
        named.scopes.dedup();
        named.blocks.sort_unstable();
        named.blocks.dedup();
        named
    }

    /// What an end is to rules of a direction.
    fn as_peer(&self, end: &End<'e>, direction: Direction) -> As {
        let d = side(direction);
        let mut its = As::default();
        for f in (0..2).filter(|f| end.of.speaks[*f]) {
            let Some(class) = self.peers[d][f].list.get(end.of.peer[d][f] as usize) else {
                its.anywhere = true;
                continue;
            };
            if let Some((certain, perhaps)) =
                class.met.and_then(|met| self.met.list.get(met as usize))
            {
                its.scopes.extend(certain);
                its.scopes.extend(perhaps.iter().flat_map(|(_, scopes)| scopes));
            }
            match self.addresses.list.get(class.address as usize) {
                Some(AddressClass::Known(blocks)) => its.blocks.extend(blocks),
                Some(AddressClass::Nobodys) => {}
                Some(AddressClass::Open(_) | AddressClass::Named(_)) | None => its.anywhere = true,
            }
        }
        its.scopes.sort_unstable();
        its.scopes.dedup();
        its.blocks.sort_unstable();
        its.blocks.dedup();
        its
    }
}

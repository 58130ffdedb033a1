//! What happens to ports, if this passed before and that passes after?
//!
//! ```text
//!              after  allowed         unknown          denied
//!   before allowed    the same        perhaps closed   closed
//!          unknown    perhaps opened  undecided?       perhaps closed
//!          denied     opened          perhaps opened   the same
//! ```

use podwall_policy::address::Family;
use podwall_policy::port::PortSet;
use podwall_policy::walk::Decided;

use super::{Shift, Shifts};

/// What a side leaves open.
pub(super) fn open(side: &Decided) -> PortSet {
    PortSet::everything().difference(&side.allowed).difference(&side.denied)
}

/// Of several pairs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// What passes between at least one pair.
    Some,
    /// What passes between all.
    All,
}

/// What passes over one family, of one pair or of several.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    allowed: PortSet,
    denied: PortSet,
}

impl Default for State {
    /// Nothing passes.
    fn default() -> Self {
        Self { allowed: PortSet::empty(), denied: PortSet::everything() }
    }
}

impl State {
    /// Of two pairs.
    pub(super) fn with(&self, other: &Self, which: Which) -> Self {
        let (allowed, denied) = (&self.allowed, &self.denied);
        match which {
            Which::Some => Self {
                allowed: allowed.union(&other.allowed),
                denied: denied.intersection(&other.denied),
            },
            Which::All => Self {
                allowed: allowed.intersection(&other.allowed),
                denied: denied.union(&other.denied),
            },
        }
    }
}

/// By family.
pub(super) fn states(flows: &[(Family, [Decided; 2])]) -> [Option<State>; 2] {
    Family::BOTH.map(|family| {
        let (_, [egress, ingress]) = flows.iter().find(|(its, _)| *its == family)?;
        Some(State {
            allowed: egress.allowed.intersection(&ingress.allowed),
            denied: egress.denied.union(&ingress.denied),
        })
    })
}

impl Shifts {
    /// What happens over both families; `doubts` are the ports that may be left open in another way
    /// than before.
    pub(super) fn of(states: &[[Option<State>; 2]; 2], doubts: impl Fn(Family) -> PortSet) -> Self {
        let mut found = Vec::new();
        for (f, family) in Family::BOTH.into_iter().enumerate() {
            let [before, after] = [&states[0][f], &states[1][f]];
            if before.is_none() && after.is_none() {
                continue;
            }
            let nothing = State::default();
            let state = |its: &Option<State>| its.clone().unwrap_or_else(|| nothing.clone());
            found.push((family, Shift::of(&state(before), &state(after), &doubts(family))));
        }
        Self::from_families(found)
    }

    /// Nothing happens.
    pub(super) fn unchanged(states: &[Option<State>; 2]) -> Self {
        let found = Family::BOTH.into_iter().zip(states).filter_map(|(family, state)| {
            let passes = state.as_ref()?.allowed.clone();
            Some((family, Shift { before: passes.clone(), after: passes, ..Shift::default() }))
        });
        Self::from_families(found.collect())
    }

    fn from_families(found: Vec<(Family, Shift)>) -> Self {
        let mut all = Shift::default();
        for (_, shift) in &found {
            all = all.and(shift);
        }
        all.settle();
        let same = found.iter().all(|(_, shift)| *shift == all);
        Self { all, families: if same { Vec::new() } else { found } }
    }

    pub(super) fn is_nothing(&self) -> bool {
        self.all.is_nothing()
    }

    /// Both together: of two pairs of pods.
    pub(super) fn and(&self, other: &Self) -> Self {
        let mut all = self.all.and(&other.all);
        all.settle();
        if self.families.is_empty() && other.families.is_empty() {
            return Self { all, families: Vec::new() };
        }
        let of = |shifts: &Self, family: Family| match shifts
            .families
            .iter()
            .find(|its| its.0 == family)
        {
            Some((_, shift)) => Some(shift.clone()),
            None if shifts.families.is_empty() => Some(shifts.all.clone()),
            None => None,
        };
        let families = Family::BOTH.into_iter().filter_map(|family| {
            let mut shift = match (of(self, family), of(other, family)) {
                (Some(one), Some(two)) => one.and(&two),
                (one, two) => one.or(two)?,
            };
            shift.settle();
            Some((family, shift))
        });
        Self { all, families: families.collect() }
    }
}

impl Shift {
    fn of(before: &State, after: &State, doubts: &PortSet) -> Self {
        let rest = |state: &State| {
            PortSet::everything().difference(&state.allowed).difference(&state.denied)
        };
        let [unknown_before, unknown_after] = [rest(before), rest(after)];
        Self {
            before: before.allowed.clone(),
            after: after.allowed.clone(),
            opened: before.denied.intersection(&after.allowed),
            closed: before.allowed.intersection(&after.denied),
            perhaps_opened: before
                .denied
                .intersection(&unknown_after)
                .union(&unknown_before.intersection(&after.allowed)),
            perhaps_closed: before
                .allowed
                .intersection(&unknown_after)
                .union(&unknown_before.intersection(&after.denied)),
            undecided: unknown_before.intersection(&unknown_after).intersection(doubts),
        }
    }

    /// What is certain of one pair or family needs no perhaps of another.
    fn settle(&mut self) {
        self.perhaps_opened = self.perhaps_opened.difference(&self.opened);
        self.perhaps_closed = self.perhaps_closed.difference(&self.closed);
    }
}

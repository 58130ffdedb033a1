//! What do the tiers come to, rule by rule?
//!
//! ```text
//!   rest  ■■■■■■■■■■■■■■■■   what nobody has decided yet
//!   rule  ──── allow ────▶ may_pass      rule ──── deny ────▶ may_drop
//!         certainly: taken out of rest   perhaps: it stays in rest, with the missing facts
//! ```
//!
//! The walk knows nothing of pods and selectors. Who asks it says which rules apply, certainly or
//! perhaps; rules that certainly do not need not be told. Both the evaluator and what answers from
//! indexes walk here, so that tiers, isolation and missing facts have one meaning.

use crate::matching::Match;
use crate::policy::{Action, Tier};
use crate::port::PortSet;
use crate::reason::MissingFact;

/// What is decided so far on one side. A port is in `may_pass` if some completion of the missing
/// facts lets it pass, in `may_drop` if some completion drops it, in `rest` if some completion has
/// not decided it yet. So what is not in `may_drop` certainly passes, and the other way round.
#[derive(Debug)]
pub struct Walk {
    may_pass: PortSet,
    may_drop: PortSet,
    rest: PortSet,
    tier: Tier,
    /// What was left when the tier began.
    tier_starts_with: PortSet,
    /// If the current policy selects the pod at all, its earlier rules have decided these ports.
    decided_here: PortSet,
    /// What a Pass rule may have taken out of the current tier.
    passed: PortSet,
    /// Which facts leave which ports open.
    doubts: Vec<(PortSet, Vec<MissingFact>)>,
}

/// What a rule says.
#[derive(Clone, Copy, Debug)]
pub struct Word<'a> {
    /// What it does with what it matches.
    pub action: Action,
    /// Its ports for this destination.
    pub ports: &'a PortSet,
}

/// What one side comes to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Decided {
    /// What certainly passes.
    pub allowed: PortSet,
    /// What certainly does not. What is in neither depends on `missing`.
    pub denied: PortSet,
    /// The facts that would decide the rest, sorted.
    pub missing: Vec<MissingFact>,
}

impl Decided {
    /// Everything passes.
    pub fn open() -> Self {
        Self { allowed: PortSet::everything(), ..Self::default() }
    }

    /// Nothing passes.
    pub fn closed() -> Self {
        Self { denied: PortSet::everything(), ..Self::default() }
    }

    /// If the source turns out to be the pod's own node, whatever the policies deny passes after
    /// all; these facts would tell.
    pub fn perhaps_own_node(&mut self, facts: Vec<MissingFact>) {
        if !facts.is_empty() && !self.denied.is_empty() {
            self.denied = PortSet::empty();
            self.missing.extend(facts);
            self.missing.sort();
            self.missing.dedup();
        }
    }
}

/// A rule has a word if its policy selects the pod and its peers match: both must hold.
pub fn both(selected: &Match, peers: &Match) -> Match {
    match (selected, peers) {
        (Match::Yes, peers) => peers.clone(),
        (selected, Match::Yes) => selected.clone(),
        (Match::Unknown(a), Match::Unknown(b)) => {
            Match::Unknown(a.iter().chain(b).cloned().collect())
        }
        (no @ Match::No(_), _) | (_, no) => no.clone(),
    }
}

impl Default for Walk {
    fn default() -> Self {
        Self::new()
    }
}

impl Walk {
    /// Nothing is decided.
    pub fn new() -> Self {
        Self {
            may_pass: PortSet::empty(),
            may_drop: PortSet::empty(),
            rest: PortSet::everything(),
            tier: Tier::Admin,
            tier_starts_with: PortSet::everything(),
            decided_here: PortSet::empty(),
            passed: PortSet::empty(),
            doubts: Vec::new(),
        }
    }

    /// The next tier begins; tiers come in the order of [`Tier::IN_ORDER`].
    pub fn begin_tier(&mut self, tier: Tier) {
        self.tier = tier;
        self.tier_starts_with = self.rest.clone();
        self.decided_here = PortSet::empty();
    }

    /// The next policy of the tier begins, in order of priority and name.
    pub fn begin_policy(&mut self) {
        self.decided_here = PortSet::empty();
    }

    /// The ports that get as far as the next rule: nothing before it has certainly decided them.
    /// All NetworkPolicies stand on one step, in the other tiers the first match decides.
    pub fn reach(&self) -> PortSet {
        match self.tier {
            Tier::NetworkPolicy => self.tier_starts_with.clone(), // additive: no order
            Tier::Admin | Tier::Baseline => self.rest.difference(&self.decided_here),
        }
    }

    /// The next rule of the policy: whether its peers match, and whether it applies at all, which
    /// is [`both`] of that and the policy's own subject. A rule of a `dry_run` policy has no word.
    pub fn rule(&mut self, word: Word<'_>, peers: &Match, applies: &Match, dry_run: bool) {
        if !dry_run {
            self.hear(word, applies);
        }
        if peers.is_yes() && self.tier != Tier::NetworkPolicy {
            self.decided_here = self.decided_here.union(word.ports);
        }
    }

    /// Takes one rule's word into account. Only a rule that certainly applies ends the walk for
    /// its ports; NetworkPolicies only allow, so among them that changes nothing.
    fn hear(&mut self, word: Word<'_>, applies: &Match) {
        if matches!(applies, Match::No(_)) {
            return;
        }
        // What is left is a part of what the tier began with.
        let mut hit = self.rest.intersection(word.ports);
        if self.tier != Tier::NetworkPolicy {
            hit = hit.difference(&self.decided_here);
        }
        match applies {
            Match::Unknown(facts) => self.doubts.push((hit.clone(), facts.clone())),
            _ => self.rest = self.rest.difference(&hit),
        }
        let heard = match word.action {
            Action::Allow => &mut self.may_pass,
            Action::Deny => &mut self.may_drop,
            Action::Pass => &mut self.passed,
        };
        *heard = heard.union(&hit);
    }

    /// The tier ends: what was passed goes on to the next. A pod that a NetworkPolicy isolates,
    /// certainly or if these facts say so, is closed for what no NetworkPolicy allows.
    pub fn end_tier(&mut self, isolated: bool, perhaps_isolated: Vec<MissingFact>) {
        self.rest = self.rest.union(&self.passed);
        self.passed = PortSet::empty();
        if self.tier != Tier::NetworkPolicy {
            return;
        }
        if isolated || !perhaps_isolated.is_empty() {
            self.may_drop = self.may_drop.union(&self.rest);
        }
        if isolated {
            self.rest = PortSet::empty();
        } else if !perhaps_isolated.is_empty() {
            self.doubts.push((self.rest.clone(), perhaps_isolated));
        }
    }

    /// All tiers have spoken.
    pub fn finish(self) -> Decided {
        let may_pass = self.may_pass.union(&self.rest); // no tier has a word on the rest: open
        let open = may_pass.intersection(&self.may_drop);
        let doubts = self.doubts.into_iter();
        let mut missing: Vec<MissingFact> = doubts
            .filter(|(ports, _)| !ports.intersection(&open).is_empty())
            .flat_map(|(_, facts)| facts)
            .collect();
        missing.sort();
        missing.dedup();
        Decided {
            allowed: PortSet::everything().difference(&self.may_drop),
            denied: PortSet::everything().difference(&may_pass),
            missing,
        }
    }
}

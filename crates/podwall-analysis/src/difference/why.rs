//! Which rules did it?
//!
//! ```text
//!   ports opened, on the side (egress or ingress) that shut them before
//!     └─ rules that allow them now; policies that isolated before, rules that denied before
//!   ports closed, on the side that shuts them now
//!     └─ rules that allowed them before; policies that isolate now, rules that deny now
//! ```

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use podwall_policy::address::Family;
use podwall_policy::evaluate::Side;
use podwall_policy::flow::{Flow, Party};
use podwall_policy::matching::Match;
use podwall_policy::object::Name;
use podwall_policy::policy::{Action, Direction, RuleRef, Tier};
use podwall_policy::port::PortSet;
use podwall_policy::reason::MissingFact;
use podwall_policy::source::Source;

use super::rows::party;
use super::{Change, Difference};
use crate::reachability::Reachability;

/// Why a connection is another than before. Lists are sorted; what says nothing is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Why {
    /// Rules that let pass now what is opened.
    pub allowed_by: Vec<RuleRef>,
    /// Policies that isolated the end before and do no longer, so that nothing shuts it.
    pub released_from: Vec<Isolation>,
    /// Rules that denied before what is opened.
    pub denied_before: Vec<RuleRef>,
    /// Rules that let pass before what is closed.
    pub allowed_before: Vec<RuleRef>,
    /// Policies that isolate the end now and let nothing of what is closed pass.
    pub isolated_by: Vec<Isolation>,
    /// Rules that deny now what is closed.
    pub denied_by: Vec<RuleRef>,
    /// Facts that would decide what is not known, before and after.
    pub missing: [Vec<MissingFact>; 2],
}

/// A policy that isolates.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Isolation {
    /// The policy.
    pub policy: Name,
    /// The direction.
    pub direction: Direction,
    /// Where the policy stands.
    pub source: Option<Source>,
}

/// Answers why, once for changes that are alike. Owned by who prints a difference.
#[derive(Debug)]
pub struct Whys<'d, 'a> {
    difference: &'d Difference<'a>,
    known: HashMap<(u32, u32), Arc<Why>>,
}

impl<'d, 'a> Whys<'d, 'a> {
    /// Nothing was asked yet.
    pub fn of(difference: &'d Difference<'a>) -> Self {
        Self { difference, known: HashMap::new() }
    }

    /// As [`Difference::why`].
    pub fn why(&mut self, change: &Change) -> Arc<Why> {
        if let Some(why) = change.like.and_then(|like| self.known.get(&like)) {
            return why.clone();
        }
        let why = Arc::new(self.difference.why(change));
        // Missing facts name pods.
        if let Some(like) = change.like.filter(|_| why.missing.iter().all(Vec::is_empty)) {
            self.known.insert(like, why.clone());
        }
        why
    }
}

impl Difference<'_> {
    /// Why a change of this difference is there, for a pair of pods that shows it.
    pub fn why(&self, change: &Change) -> Why {
        let ends = [0, 1].map(|s| {
            let (src, dst) = change.example[s]?;
            Some((party(&self.rows[change.src], s, src)?, party(&self.rows[change.dst], s, dst)?))
        });
        let shift = &change.shift.all;
        let mut found = Found::default();
        let sides = [0, 1]
            .map(|s| ends[s].map_or_else(Vec::new, |(src, dst)| said(&self.engines[s], src, dst)));
        let opened = shift.opened.union(&shift.perhaps_opened);
        let closed = shift.closed.union(&shift.perhaps_closed);
        for family in Family::BOTH {
            let of =
                |s: usize| sides[s].iter().find(|(its, _)| *its == family).map(|(_, sides)| sides);
            let (before, after) = (of(0), of(1));
            for d in [0, 1] {
                let (before, after) = (before.map(|its| &its[d]), after.map(|its| &its[d]));
                found.opening(&opened, before, after, &self.engines);
                found.closing(&closed, before, after, &self.engines);
            }
            for (s, sides) in [before, after].into_iter().enumerate() {
                let Some([egress, ingress]) = sides else { continue };
                let allowed = egress.allowed.intersection(&ingress.allowed);
                let denied = egress.denied.union(&ingress.denied);
                if PortSet::everything() != allowed.union(&denied) {
                    let facts = egress.missing.iter().chain(&ingress.missing).cloned();
                    found.missing[s].extend(facts);
                }
            }
        }
        found.done()
    }
}

/// Both sides of each family that the two speak.
fn said(engine: &Reachability<'_>, src: Party<'_>, dst: Party<'_>) -> Vec<(Family, [Side; 2])> {
    let flows = Flow::between(src, dst);
    flows
        .iter()
        .map(|flow| {
            let evaluation = engine.evaluate(flow);
            (flow.family, [evaluation.egress, evaluation.ingress])
        })
        .collect()
}

#[derive(Default)]
struct Found {
    allowed_by: BTreeSet<RuleRef>,
    released_from: BTreeSet<Isolation>,
    denied_before: BTreeSet<RuleRef>,
    allowed_before: BTreeSet<RuleRef>,
    isolated_by: BTreeSet<Isolation>,
    denied_by: BTreeSet<RuleRef>,
    missing: [BTreeSet<MissingFact>; 2],
}

impl Found {
    /// What of these ports this side lets pass now, or perhaps does, and did not certainly before.
    fn opening(
        &mut self,
        ports: &PortSet,
        before: Option<&Side>,
        after: Option<&Side>,
        engines: &[Arc<Reachability<'_>>; 2],
    ) {
        let Some(after) = after else { return };
        let was = before.map_or_else(PortSet::empty, |side| side.allowed.clone());
        let ports = ports.difference(&after.denied).difference(&was);
        if ports.is_empty() {
            return;
        }
        self.allowed_by.extend(rules(after, Action::Allow, &ports));
        let Some(before) = before else { return };
        self.denied_before.extend(rules(before, Action::Deny, &ports));
        if !after.is_isolated() {
            self.released_from.extend(isolations(before, &engines[0]));
        }
    }

    /// What of these ports this side let pass before, or perhaps did, and does not certainly now.
    fn closing(
        &mut self,
        ports: &PortSet,
        before: Option<&Side>,
        after: Option<&Side>,
        engines: &[Arc<Reachability<'_>>; 2],
    ) {
        let Some(before) = before else { return };
        let is = after.map_or_else(PortSet::empty, |side| side.allowed.clone());
        let ports = ports.difference(&before.denied).difference(&is);
        if ports.is_empty() {
            return;
        }
        let allowed: Vec<RuleRef> = rules(before, Action::Allow, &ports).collect();
        let mut isolations = after.map_or_else(Vec::new, |after| isolations(after, &engines[1]));
        if before.is_isolated() {
            // What isolates is no news; where the rule was that is gone is.
            let had = |its: &Isolation| allowed.iter().any(|rule| rule.policy == its.policy);
            if isolations.iter().any(had) {
                isolations.retain(had);
            }
        }
        self.isolated_by.extend(isolations);
        self.allowed_before.extend(allowed);
        let Some(after) = after else { return };
        self.denied_by.extend(rules(after, Action::Deny, &ports));
    }

    fn done(self) -> Why {
        let list = |set: BTreeSet<RuleRef>| set.into_iter().collect();
        Why {
            allowed_by: list(self.allowed_by),
            released_from: self.released_from.into_iter().collect(),
            denied_before: list(self.denied_before),
            allowed_before: list(self.allowed_before),
            isolated_by: self.isolated_by.into_iter().collect(),
            denied_by: list(self.denied_by),
            missing: self.missing.map(|facts| facts.into_iter().collect()),
        }
    }
}

/// Rules of a side that do this with some of the ports, certainly or perhaps.
fn rules<'s>(
    side: &'s Side,
    action: Action,
    ports: &'s PortSet,
) -> impl Iterator<Item = RuleRef> + use<'s> {
    let of = side.rules.iter().filter(move |its| {
        its.action == action && !its.dry_run && !matches!(its.peers, Match::No(_))
    });
    of.filter(|its| !its.ports.intersection(&its.reach).intersection(ports).is_empty())
        .map(|its| its.rule.clone())
}

fn isolations(side: &Side, engine: &Reachability<'_>) -> Vec<Isolation> {
    let policies = &engine.cluster().policies;
    let isolation = |name: &Name| Isolation {
        policy: name.clone(),
        direction: side.direction,
        source: policies
            .get(&(Tier::NetworkPolicy, name.clone()))
            .and_then(|policy| policy.source.clone()),
    };
    side.isolated_by.iter().map(isolation).collect()
}

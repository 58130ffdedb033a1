//! What do several cases come to?
//!
//! ```text
//!   cases ──pair of pods──▶ worst; with an end outside: best ──port──▶ worst of pairs ──▶ best
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::mem::discriminant;

use podwall_policy::address::{AddressSet, Family};
use podwall_policy::evaluate::{Evaluation, Verdict};
use podwall_policy::explain::{NearMiss, Question, SideExplanation};
use podwall_policy::matching::Match;
use podwall_policy::port::{PortRange, PortSet};

use super::{Answer, Case, End};
use crate::combine::{best, worst};

impl<'a> Answer<'a> {
    /// The case that speaks for the verdict.
    pub fn decisive(&self) -> Option<&Case<'a>> {
        self.cases.get(self.deciding)
    }

    /// The verdict over one address family; `None` if the ends have it not in common.
    pub fn family_verdict(&self, family: Family) -> Option<Verdict> {
        let cases = || self.cases.iter().filter(|case| case.family == family);
        cases().next().map(|_| verdict_of(cases()))
    }

    /// The addresses outside with a verdict, over all pods and ports by the rule in the module's
    /// head; empty where neither end is outside.
    pub fn outside(&self, verdict: Verdict) -> AddressSet {
        let mut ports: BTreeMap<Option<usize>, Vec<&Case<'_>>> = BTreeMap::new();
        for case in &self.cases {
            ports.entry(case.translation).or_default().push(case);
        }
        let mut sets: BTreeMap<Verdict, AddressSet> = BTreeMap::new();
        let union = |sets: &mut BTreeMap<Verdict, AddressSet>, verdict, set: &AddressSet| {
            let all = sets.entry(verdict).or_default();
            *all = all.union(set);
        };
        for cases in ports.values() {
            let of = |verdict| {
                let own = cases.iter().filter(|case| case.verdict == verdict);
                own.filter_map(|case| case.outside())
                    .fold(AddressSet::empty(), |all, set| all.union(set))
            };
            let (allowed, unknown, denied) =
                (of(Verdict::Allowed), of(Verdict::Unknown), of(Verdict::Denied));
            // Of several pods the worst counts.
            let unknown = unknown.difference(&denied);
            let allowed = allowed.difference(&denied).difference(&unknown);
            union(&mut sets, Verdict::Allowed, &allowed);
            union(&mut sets, Verdict::Unknown, &unknown);
            union(&mut sets, Verdict::Denied, &denied);
        }
        let of = |verdict| sets.get(&verdict).cloned().unwrap_or_default();
        // Of several ports the best counts.
        match verdict {
            Verdict::Allowed => of(Verdict::Allowed),
            Verdict::Unknown => of(Verdict::Unknown).difference(&of(Verdict::Allowed)),
            Verdict::Denied => of(Verdict::Denied)
                .difference(&of(Verdict::Allowed))
                .difference(&of(Verdict::Unknown)),
        }
    }

    /// Cases of which a reader would be told the same, those with the answer's verdict first.
    pub fn groups(&self) -> Vec<Vec<&Case<'a>>> {
        let mut groups: Vec<Vec<&Case<'a>>> = Vec::new();
        for case in &self.cases {
            match groups.iter_mut().find(|group| group[0].looks_like(case)) {
                Some(group) => group.push(case),
                None => groups.push(vec![case]),
            }
        }
        groups.sort_by_key(|group| group[0].verdict != self.verdict); // stable
        groups
    }
}

/// What a pair of ends comes to when looked at alone: the name of a pod, or nothing for addresses,
/// which are alternatives to each other.
type PairKey = (Option<usize>, String, String);

fn pair_key(case: &Case<'_>) -> PairKey {
    let of = |end: &End<'_>| match end {
        End::Outside(_) => String::new(),
        other => other.to_string(),
    };
    (case.translation, of(&case.src), of(&case.dst))
}

fn is_outside(case: &Case<'_>) -> bool {
    [&case.src, &case.dst].iter().any(|end| matches!(end, End::Outside(_)))
}

/// The verdict of several cases, by the rule in the module's head.
pub(super) fn verdict_of<'c, 'a: 'c>(cases: impl IntoIterator<Item = &'c Case<'a>>) -> Verdict {
    let mut pairs: BTreeMap<PairKey, Vec<&Case<'_>>> = BTreeMap::new();
    for case in cases {
        pairs.entry(pair_key(case)).or_default().push(case);
    }
    let mut ports: BTreeMap<Option<usize>, Vec<Verdict>> = BTreeMap::new();
    for ((translation, ..), cases) in pairs {
        let verdicts = cases.iter().map(|case| case.verdict);
        let verdict = if cases.iter().any(|case| is_outside(case)) {
            best(verdicts)
        } else {
            worst(verdicts)
        };
        ports.entry(translation).or_default().push(verdict);
    }
    best(ports.into_values().map(worst))
}

/// Everything that a question asks for.
fn asked(question: Question) -> PortSet {
    match question {
        Question::Anything => PortSet::everything(),
        Question::Port(protocol, port) => {
            PortSet::range(protocol, port.map_or(PortRange::ALL, PortRange::one))
        }
    }
}

/// What passes, by the same rule.
pub(super) fn passes_of(cases: &[Case<'_>]) -> PortSet {
    let mut pairs: BTreeMap<PairKey, PortSet> = BTreeMap::new();
    for case in cases {
        let passes = case.passes();
        pairs
            .entry(pair_key(case))
            .and_modify(|set| {
                *set =
                    if is_outside(case) { set.union(&passes) } else { set.intersection(&passes) };
            })
            .or_insert(passes);
    }
    let mut ports: BTreeMap<Option<usize>, PortSet> = BTreeMap::new();
    for ((translation, ..), set) in pairs {
        ports.entry(translation).and_modify(|all| *all = all.intersection(&set)).or_insert(set);
    }
    ports.into_values().fold(PortSet::empty(), |all, set| all.union(&set))
}

/// Puts classes of addresses together where a reader would see no difference.
pub(super) fn merge(cases: Vec<Case<'_>>) -> Vec<Case<'_>> {
    let mut out: Vec<Case<'_>> = Vec::new();
    for case in cases {
        if !is_outside(&case) {
            out.push(case);
            continue;
        }
        match out.iter_mut().find(|other| {
            is_outside(other)
                && other.family == case.family
                && other.question == case.question
                && pair_key(other) == pair_key(&case)
                && other.looks_like(&case)
        }) {
            None => out.push(case),
            Some(other) => {
                for (into, from) in [(&mut other.src, case.src), (&mut other.dst, case.dst)] {
                    if let (End::Outside(into), End::Outside(from)) = (into, from) {
                        into.addresses = into.addresses.union(&from.addresses);
                    }
                }
            }
        }
    }
    out
}

impl Case<'_> {
    /// Forgets rules that do not match but for so many of those that lack least. A policy of
    /// thousands of rules tells as many kinds of addresses apart, and none of each matches most.
    /// Whether there was something to forget.
    pub(super) fn tell_nearest(&mut self, misses: usize) -> bool {
        let mut forgot = false;
        let Evaluation { egress, ingress } = &mut self.evaluation;
        for (side, why) in [(egress, &mut self.egress), (ingress, &mut self.ingress)] {
            if why.near_misses.len() <= misses {
                continue;
            }
            forgot = true;
            why.near_misses.truncate(misses);
            why.near_misses.shrink_to_fit();
            // Of each policy one rule stays, which says that it was asked.
            let mut asked = BTreeSet::new();
            side.rules.retain(|outcome| {
                let rule = &outcome.rule;
                let first = asked.insert((rule.tier, rule.policy.clone(), outcome.dry_run));
                first || !matches!(outcome.peers, Match::No(_))
            });
            side.rules.shrink_to_fit();
        }
        forgot
    }

    /// What passes, within what was asked.
    pub fn passes(&self) -> PortSet {
        self.evaluation.allowed().intersection(&asked(self.question))
    }

    /// The addresses of the end that is outside; of the source, if both are.
    pub fn outside(&self) -> Option<&AddressSet> {
        [&self.src, &self.dst].into_iter().find_map(|end| match end {
            End::Outside(class) => Some(&class.addresses),
            _ => None,
        })
    }

    /// Whether a reader would be told the same of both: the same verdict by the same rules, and the
    /// same kinds of near misses.
    pub fn looks_like(&self, other: &Self) -> bool {
        self.verdict == other.verdict
            && self.translation == other.translation
            && self.evaluation.allowed() == other.evaluation.allowed()
            && self.evaluation.egress.exempt == other.evaluation.egress.exempt
            && self.evaluation.ingress.exempt == other.evaluation.ingress.exempt
            && look_alike(&self.egress, &other.egress)
            && look_alike(&self.ingress, &other.ingress)
    }
}

/// Whether a reader sees the same of one side, but for the names in reasons. What differs soonest is
/// asked first: cases are held against each other in pairs.
fn look_alike(one: &SideExplanation, other: &SideExplanation) -> bool {
    one.verdict == other.verdict
        && one.allowed_by == other.allowed_by
        && one.denied_by == other.denied_by
        && one.near_misses.len() == other.near_misses.len()
        && one.undecided.len() == other.undecided.len()
        && one.undecided.iter().zip(&other.undecided).all(|((a, _), (b, _))| a == b)
        && one.near_misses.iter().zip(&other.near_misses).all(|(a, b)| {
            let kinds = |miss: &NearMiss| miss.reasons.iter().map(discriminant).collect::<Vec<_>>();
            a.rule == b.rule && kinds(a) == kinds(b)
        })
}

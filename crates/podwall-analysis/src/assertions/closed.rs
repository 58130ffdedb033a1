//! May nobody else pass?
//!
//! ```text
//!   everybody ── same class, same permits ──▶ kinds: one of each is asked
//!                                              └─ something is wrong? then each of the kind is
//! ```
//!
//! A cluster of 3,000 pods has some 1,000 kinds, and almost all of them may not pass and do not. What
//! does not hold is told of each, so that nothing is lost.

use podwall_manifest::assertions::Ports;
use podwall_policy::address::Family;
use podwall_policy::policy::Direction;
use podwall_policy::port::PortSet;
use rustc_hash::{FxHashMap, FxHashSet};

use super::ask::EndKey;
use super::gathered::Walk;
use super::group::{Group, Wanted, every_port, wanted};
use super::judge::{Judge, both_outside, is_one};
use super::permits::Permit;
use crate::can::End;

/// Everybody, from the point of view of whom an assertion is about.
pub(super) struct Others<'a> {
    direction: Direction,
    ends: Vec<End<'a>>,
    /// By end: its kind.
    kind_of: Vec<usize>,
    kinds: Vec<Kind>,
}

/// Ends that neither policies nor permits tell apart.
struct Kind {
    /// Places of its ends, ascending, never empty.
    ends: Vec<usize>,
    /// The permits that are about them, as far as these go.
    permits: Vec<usize>,
}

/// What is asserted, and of whom.
struct About<'c, 'a> {
    subject: &'c Group<'a>,
    others: &'c Others<'a>,
    permits: &'c [Permit<'a>],
    universe: &'c Ports,
    families: &'c [Family],
}

impl<'a> Judge<'a> {
    /// Everybody, by kinds.
    pub(super) fn others(&mut self, direction: Direction, permits: &[Permit<'a>]) -> Others<'a> {
        let ends = self.everybody(direction, permits);
        let mut known: FxHashMap<(EndKey, Vec<usize>), usize> = FxHashMap::default();
        let mut kinds: Vec<Kind> = Vec::new();
        let mut kind_of = Vec::with_capacity(ends.len());
        for (at, end) in ends.iter().enumerate() {
            let own = permits_of(permits, end, direction.other());
            let next = kinds.len();
            let kind = *known.entry((self.asker.key(end), own.clone())).or_insert(next);
            if kind == next {
                kinds.push(Kind { ends: Vec::new(), permits: own });
            }
            kinds[kind].ends.push(at);
            kind_of.push(kind);
        }
        Others { direction, ends, kind_of, kinds }
    }

    /// Nobody but the permitted may pass.
    pub(super) fn closed(
        &mut self,
        subject: &Group<'a>,
        others: &Others<'a>,
        permits: &[Permit<'a>],
        universe: &Ports,
        families: &[Family],
        walk: &mut Walk<'a>,
    ) {
        let mut known: FxHashMap<(EndKey, [Vec<usize>; 2]), usize> = FxHashMap::default();
        let mut kinds: Vec<(FxHashSet<usize>, Vec<&End<'a>>)> = Vec::new();
        for own in &subject.ends {
            let its = permits_of(permits, own, others.direction);
            // Each is left out among the others: of which kind these lack one is a part of its own.
            let lacks = permits_of(permits, own, others.direction.other());
            let next = kinds.len();
            let key = (self.asker.key(own), [its.clone(), lacks]);
            let kind = *known.entry(key).or_insert(next);
            if kind == next {
                kinds.push((its.into_iter().collect(), Vec::new()));
            }
            kinds[kind].1.push(own);
        }
        let about = About { subject, others, permits, universe, families };
        for (its, alike) in kinds {
            let mut owns = alike.iter().copied();
            // Who wants the questions themselves wants all of them.
            if let Some(first) = owns.next().filter(|_| walk.packets.is_none()) {
                let mut tried = walk.alike();
                self.closed_to(&about, first, &its, &mut tried);
                let clean = tried.raw.is_empty();
                walk.absorb(tried, if clean { alike.len() } else { 1 });
                if walk.is_decided() {
                    return;
                }
                if clean || walk.brief {
                    continue;
                }
            } else {
                owns = alike.iter().copied();
            }
            owns.for_each(|own| self.closed_to(&about, own, &its, walk));
        }
    }

    /// Nobody but the permitted may pass to or from one end, which is in some of the permits.
    fn closed_to(
        &mut self,
        about: &About<'_, 'a>,
        own: &End<'a>,
        its: &FxHashSet<usize>,
        walk: &mut Walk<'a>,
    ) {
        let others = about.others;
        let is_other = |at: &usize| {
            let other = &others.ends[*at];
            !is_one(own, other) && !both_outside(own, other)
        };
        let (each, brief) = (walk.packets.is_some(), walk.brief);
        let mut clean = vec![false; others.kinds.len()];
        for (kind, clean) in others.kinds.iter().zip(&mut clean).filter(|_| !each) {
            let mut ends = kind.ends.iter().copied().filter(is_other);
            let Some(first) = ends.next() else { continue };
            let mut tried = walk.alike();
            self.closed_between(about, own, its, first, &mut tried);
            *clean = tried.raw.is_empty();
            if *clean || brief {
                walk.absorb(tried, 1 + ends.count());
            }
            if walk.is_decided() {
                return;
            }
        }
        for at in (0..others.ends.len()).filter(|at| !brief && !clean[others.kind_of[*at]]) {
            if is_other(&at) {
                self.closed_between(about, own, its, at, walk);
            }
        }
    }

    fn closed_between(
        &mut self,
        about: &About<'_, 'a>,
        own: &End<'a>,
        its: &FxHashSet<usize>,
        other: usize,
        walk: &mut Walk<'a>,
    ) {
        let direction = about.others.direction;
        let kind = &about.others.kinds[about.others.kind_of[other]];
        let other = &about.others.ends[other];
        let (src, dst) = match direction {
            Direction::Ingress => (other, own),
            Direction::Egress => (own, other),
        };
        if !self.asker.is_looked_at(src, dst) {
            walk.asked += 1;
            return;
        }
        // A Service's ports are those of the pods behind it; it stands at the destination.
        let service = about.subject.service.filter(|_| direction == Direction::Ingress);
        let all = match about.universe {
            Ports::Any => &Ports::All,
            these => these,
        };
        // A name that this destination does not have is none of its ports.
        let Ok(Wanted { ports, .. }) = wanted(&self.asker, all, dst, service) else { return };
        let permits = kind.permits.iter().filter(|at| its.contains(at));
        let permits: Vec<&Permit<'a>> = permits.map(|at| &about.permits[*at]).collect();
        let rest = ports.difference(&self.permitted(&permits, dst));
        if !rest.is_empty() {
            self.must_not(src, dst, &rest, about.families, true, walk);
        }
    }

    /// What permits let pass.
    fn permitted(&self, permits: &[&Permit<'a>], dst: &End<'a>) -> PortSet {
        let mut all = PortSet::empty();
        for permit in permits {
            let ports = match &permit.ports {
                Ports::Any => Ok(every_port()),
                ports => wanted(&self.asker, ports, dst, permit.dst.service).map(|it| it.ports),
            };
            if let Ok(ports) = ports {
                all = all.union(&ports);
            }
        }
        all
    }
}

/// The permits that are about an end whose policies of a direction are asked.
fn permits_of<'a>(permits: &[Permit<'a>], end: &End<'a>, direction: Direction) -> Vec<usize> {
    let has = |permit: &Permit<'a>| match direction {
        Direction::Ingress => permit.dst.has(end),
        Direction::Egress => permit.src.has(end),
    };
    (0..permits.len()).filter(|at| has(&permits[*at])).collect()
}

//! What did the elements count, and for whom?
//!
//! ```text
//!   element of a verdict map ── its rule (model) ──▶ rule:  packets - base + folded
//!   element of `unmatched` ── its class ───────────▶ class: packets - base + folded
//!
//!   base     what an element had counted when it came to its rule     (a rule's entries change)
//!   folded   what elements have counted for a rule that are no longer its
//! ```
//!
//! An element does not say whose it is, and what an earlier process' compiler called it is not known:
//! a new process starts at zero.

use podwall_compile::tables::{Delta, NodeTables, RuleId, SubjectId, Verdict, VerdictKey};
use rustc_hash::{FxHashMap, FxHashSet};

use super::set::{self, Element, Key, SetId};
use super::{Nftables, dump};
use crate::Error;
use crate::counters::{self, Counters, Owners};

/// An element that counts.
pub(super) type Place = (SetId, Key);

/// What elements have counted.
pub(super) type Packets = FxHashMap<Place, u64>;

/// Whose a number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Owner {
    Rule(RuleId),
    Class(SubjectId),
}

/// The bookkeeping beside the elements' own numbers.
#[derive(Debug, Default)]
pub(super) struct Book {
    base: Packets,
    /// Below zero for a rule that got the id, and some elements, of another.
    folded: FxHashMap<Owner, i64>,
    rules: Owners,
    classes: Owners,
    names: counters::Classes,
    /// What was told last.
    told: Counters,
}

fn signed(packets: u64) -> i64 {
    i64::try_from(packets).unwrap_or(i64::MAX)
}

/// Whose a verdict's packets are; nobody's where a default lets them pass.
fn decides(key: &VerdictKey, verdict: Verdict) -> Option<Owner> {
    match verdict.rule {
        Some(rule) => Some(Owner::Rule(rule)),
        None => (!verdict.allow).then_some(Owner::Class(key.subject)),
    }
}

/// Whose an element is.
fn owner(model: &NodeTables, (_, key): &Place) -> Option<Owner> {
    match key {
        Key::Row(row) => decides(row, *model.verdicts.get(row)?),
        Key::Class(class) => Some(Owner::Class(*class)),
        _ => None,
    }
}

/// Whether a class has a verdict that denies and is no rule's.
fn denies_by_default(tables: &NodeTables, subject: SubjectId) -> bool {
    let mut all = tables.verdicts_of(subject);
    all.any(|(_, verdict)| !verdict.allow && verdict.rule.is_none())
}

/// The elements that count for some owners. Nothing else is read for them: a dump of all takes a
/// third of a second for 100,000.
fn elements_of(model: &NodeTables, owners: &[Owner]) -> Vec<Place> {
    let mut places = Vec::new();
    let mut rules = FxHashSet::default();
    for owner in owners {
        match owner {
            Owner::Rule(rule) => drop(rules.insert(*rule)),
            Owner::Class(class) => {
                places.push((SetId::Unmatched, Key::Class(*class)));
                let verdicts = model.verdicts_of(*class);
                let denying = verdicts.filter(|(_, v)| !v.allow && v.rule.is_none());
                places.extend(denying.filter_map(|(key, _)| place(key)));
            }
        }
    }
    if !rules.is_empty() {
        let theirs =
            model.verdicts.iter().filter(|(_, v)| v.rule.is_some_and(|r| rules.contains(&r)));
        places.extend(theirs.filter_map(|(key, _)| place(key)));
    }
    places
}

fn place(row: &VerdictKey) -> Option<Place> {
    Some((set::row_set(row.ports)?, Key::Row(*row)))
}

impl Book {
    /// What an element has counted for its present owner.
    fn own(&self, place: &Place, packets: u64) -> i64 {
        signed(packets) - self.base.get(place).map_or(0, |base| signed(*base))
    }

    /// Elements go, or become another owner's: what they have counted stays with the one before. If
    /// that one is not known, it is nobody's.
    fn pass_on(
        &mut self,
        packets: &Packets,
        gone: &FxHashSet<Place>,
        before: impl Fn(&Place) -> Option<Owner>,
        after: impl Fn(&Place) -> Option<Owner>,
    ) {
        for (place, packets) in packets {
            let (had, gone) = (before(place), gone.contains(place));
            if !gone && had.is_some() && had == after(place) {
                continue;
            }
            if let Some(owner) = had {
                let own = self.own(place, *packets);
                *self.folded.entry(owner).or_default() += own;
            }
            if gone {
                self.base.remove(place);
            } else {
                self.base.insert(*place, *packets);
            }
        }
    }

    /// The elements are all gone, nobody knows with what numbers: those that were told last hold.
    fn rebuilt(&mut self) {
        self.base.clear();
        self.folded.clear();
        for (rule, packets) in &self.told.rules {
            self.folded.insert(Owner::Rule(*rule), signed(*packets));
        }
        for (class, packets) in &self.told.defaults {
            self.folded.insert(Owner::Class(*class), signed(*packets));
        }
    }

    fn total(&self, model: &NodeTables, packets: &Packets) -> FxHashMap<Owner, i64> {
        let mut total = self.folded.clone();
        for (place, packets) in packets {
            if let Some(owner) = owner(model, place) {
                *total.entry(owner).or_default() += self.own(place, *packets);
            }
        }
        total
    }

    /// Takes note of whose the ids are now. Gives those that were somebody else's.
    fn name(&mut self, kind: Kind, changes: &[(u32, Option<u64>)]) -> Vec<Owner> {
        let owners = match kind {
            Kind::Rules => &mut self.rules,
            Kind::Classes => &mut self.classes,
        };
        let mut others = Vec::new();
        for (id, name) in changes {
            let owner = match kind {
                Kind::Rules => Owner::Rule(RuleId(*id)),
                Kind::Classes => Owner::Class(SubjectId(*id)),
            };
            let before = match name {
                Some(name) => owners.insert(*id, *name),
                None => owners.remove(id),
            };
            if before != *name {
                self.told.rules.retain(|rule, _| Owner::Rule(*rule) != owner);
                self.told.defaults.retain(|class, _| Owner::Class(*class) != owner);
                match (before, name) {
                    (Some(_), Some(_)) => others.push(owner),
                    _ => drop(self.folded.remove(&owner)),
                }
            }
        }
        others
    }

    /// What leads to these owners of all ids.
    fn changes(&self, kind: Kind, after: &Owners) -> Vec<(u32, Option<u64>)> {
        let before = match kind {
            Kind::Rules => &self.rules,
            Kind::Classes => &self.classes,
        };
        let gone = before.keys().filter(|id| !after.contains_key(id)).map(|id| (*id, None));
        let now = after.iter().filter(|(id, name)| before.get(id) != Some(name));
        gone.chain(now.map(|(id, name)| (*id, Some(*name)))).collect()
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Rules,
    Classes,
}

impl Nftables {
    /// What all elements have counted.
    fn all_packets(&mut self) -> Result<Packets, Error> {
        let mut all = Packets::default();
        for set in SetId::ALL.into_iter().filter(|set| set.counts()) {
            let content = dump::elements(&mut self.socket, &self.config.table, set)?;
            let packets = content.unwrap_or_default().packets;
            all.extend(packets.into_iter().map(|(key, packets)| ((set, key), packets)));
        }
        Ok(all)
    }

    /// What those elements have counted that a change takes from their rules.
    pub(super) fn packets_before(&mut self, delta: &Delta) -> Result<Packets, Error> {
        let Some(model) = &self.model else { return Ok(Packets::default()) };
        let mut places: Vec<Place> = Vec::new();
        for (key, verdict) in &delta.verdicts {
            let before = model.verdicts.get(key);
            if before.is_some() && before != verdict.as_ref() {
                places.extend(place(key));
            }
        }
        places.sort_unstable_by_key(|(set, _)| *set);
        dump::packets_of(&mut self.socket, &self.config.table, &places)
    }

    /// A change is in force, and the model still what was before.
    pub(super) fn count_change(&mut self, packets: &Packets, delta: &Delta, remove: &[Element]) {
        let Some(model) = &self.model else { return };
        let gone = remove.iter().map(|element| (element.set, element.key)).collect();
        let now: FxHashMap<Place, Option<Owner>> = delta
            .verdicts
            .iter()
            .filter_map(|(key, now)| Some((place(key)?, now.and_then(|now| decides(key, now)))))
            .collect();
        let before = |place: &Place| owner(model, place);
        let after = |place: &Place| now.get(place).copied().flatten();
        self.book.pass_on(packets, &gone, before, after);
        for element in remove.iter().filter(|element| element.set == SetId::Unmatched) {
            self.book.base.remove(&(element.set, element.key));
        }
    }

    /// Full tables are in force, of which these elements were there before.
    pub(super) fn count_load(
        &mut self,
        packets: &Packets,
        before: Option<&NodeTables>,
        after: &NodeTables,
        remove: &[Element],
    ) {
        let gone = remove.iter().map(|element| (element.set, element.key)).collect();
        if before.is_none() {
            self.book.rebuilt();
        }
        let had = |place: &Place| before.and_then(|before| owner(before, place));
        self.book.pass_on(packets, &gone, had, |place| owner(after, place));
    }

    /// The table was made anew, or by somebody else.
    pub(super) fn count_from_zero(&mut self) {
        self.book.rebuilt();
    }

    /// Takes note of whose the ids are after a full load, or a change.
    pub(super) fn name_counters(&mut self, delta: Option<&Delta>) {
        let Some(tables) = self.limiter.admitted() else { return };
        let rules: Vec<(u32, Option<u64>)> = match delta {
            None => self.book.changes(Kind::Rules, &counters::rules(tables)),
            Some(delta) => {
                let name =
                    |(id, rule): &(RuleId, Option<_>)| (id.0, rule.as_ref().map(counters::rule));
                delta.rules.iter().map(name).collect()
            }
        };
        let after = match delta {
            None => Some(self.book.names.all(tables)),
            Some(delta) => self.book.names.after(tables, delta),
        };
        let classes = after.map(|after| self.book.changes(Kind::Classes, &after));
        let classes = classes.unwrap_or_default();
        let mut others = self.book.name(Kind::Rules, &rules);
        // A class that comes may have elements already that deny without a rule.
        let comes = |id: &u32| !self.book.classes.contains_key(id);
        others.extend(classes.iter().filter(|(id, name)| name.is_some() && comes(id)).filter_map(
            |(id, _)| {
                let class = SubjectId(*id);
                denies_by_default(tables, class).then_some(Owner::Class(class))
            },
        ));
        others.extend(self.book.name(Kind::Classes, &classes));
        if others.is_empty() {
            return;
        }
        // Their elements may have stayed. If they cannot be read, neither can they be told.
        let Some(model) = &self.model else { return };
        let mut places = elements_of(model, &others);
        places.sort_unstable_by_key(|(set, _)| *set);
        let packets = dump::packets_of(&mut self.socket, &self.config.table, &places);
        let packets = packets.unwrap_or_default();
        let total = self.book.total(model, &packets);
        for owner in others {
            let so_far = total.get(&owner).copied().unwrap_or(0);
            *self.book.folded.entry(owner).or_default() -= so_far;
        }
    }

    pub(super) fn read_counters(&mut self) -> Result<Counters, Error> {
        let packets = self.all_packets()?;
        let model = self.model.as_ref().ok_or(Error::NotLoaded)?;
        let total = self.book.total(model, &packets);
        let of =
            |owner| total.get(&owner).and_then(|packets| u64::try_from(*packets).ok()).unwrap_or(0);
        let rules = self.book.rules.keys().map(|id| RuleId(*id));
        let classes = self.book.classes.keys().map(|id| SubjectId(*id));
        let mut counters = Counters {
            rules: rules.map(|id| (id, of(Owner::Rule(id)))).collect(),
            defaults: classes.map(|id| (id, of(Owner::Class(id)))).collect(),
        };
        // Somebody may have made elements anew behind our back.
        for (id, before) in &self.book.told.rules {
            counters.rules.entry(*id).and_modify(|now| *now = (*now).max(*before));
        }
        for (id, before) in &self.book.told.defaults {
            counters.defaults.entry(*id).and_modify(|now| *now = (*now).max(*before));
        }
        self.book.told = counters.clone();
        Ok(counters)
    }
}

//! What stands in the kernel for each interface, and what leads from one such state to another?
//!
//! ```text
//!   State   chains  5 → v0, from 02:…:05          entries  (5, 10.0.0.5) (5, 02:…:05) (6, …)
//!   held, wanted ── changes ──▶ chains and entries that go, chains and entries that come
//! ```
//!
//! Everything has the interface's index in it, so that what is about one interface is found without
//! a look at the others, and nothing of an interface that is gone counts for the next of its name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Bound;

use super::rules::mac_text;
use super::steps::Set;
use super::{Allowed, Interface};

/// The chain of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// The name by which it hangs at the interface.
    pub(super) name: String,
    pub(super) mac: Option<[u8; 6]>,
}

/// Something that is an interface's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Own {
    Address(IpAddr),
    /// `None`: any.
    Mac(Option<[u8; 6]>),
}

/// An element of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    pub(super) index: u32,
    pub(super) own: Own,
}

impl Entry {
    pub(super) fn set(&self) -> Set {
        match self.own {
            Own::Address(IpAddr::V4(_)) => Set::Own4,
            Own::Address(IpAddr::V6(_)) => Set::Own6,
            Own::Mac(_) => Set::Mac,
        }
    }

    /// Its key, each part padded to four bytes.
    pub(super) fn key(&self) -> Vec<u8> {
        let mut key = self.index.to_ne_bytes().to_vec();
        match self.own {
            Own::Address(IpAddr::V4(v4)) => key.extend(v4.octets()),
            Own::Address(IpAddr::V6(v6)) => key.extend(v6.octets()),
            Own::Mac(mac) => key.extend(mac.unwrap_or_default()),
        }
        key.resize(key.len().next_multiple_of(4), 0);
        key
    }

    /// The reverse; `None` for a key that Podwall does not write.
    pub(super) fn read(set: Set, key: &[u8]) -> Option<Self> {
        let (index, rest) = key.split_first_chunk::<4>()?;
        let own = match set {
            Set::Own4 => Own::Address(Ipv4Addr::from(<[u8; 4]>::try_from(rest).ok()?).into()),
            Set::Own6 => Own::Address(Ipv6Addr::from(<[u8; 16]>::try_from(rest).ok()?).into()),
            Set::Mac => {
                let mac: [u8; 6] = rest.get(..set.width())?.try_into().ok()?;
                Own::Mac(Some(mac).filter(|mac| *mac != [0; 6]))
            }
        };
        Some(Self { index: u32::from_ne_bytes(*index), own })
    }

    pub(super) fn text(&self) -> String {
        let own = match self.own {
            Own::Address(address) => address.to_string(),
            Own::Mac(None) => "any hardware address".to_owned(),
            Own::Mac(Some(mac)) => mac_text(mac),
        };
        format!("{own} of interface number {}", self.index)
    }
}

/// What the kernel holds, or is to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) chains: BTreeMap<u32, Held>,
    pub(super) entries: BTreeSet<Entry>,
}

impl State {
    pub(super) fn of<'a>(wanted: impl IntoIterator<Item = (&'a Interface, &'a Allowed)>) -> Self {
        let mut state = Self::default();
        for (interface, allowed) in wanted {
            let Interface { index, ref name } = *interface;
            state.chains.insert(index, Held { name: name.clone(), mac: allowed.mac });
            let addresses = allowed.addresses.iter().copied().map(Own::Address);
            let own = addresses.chain([Own::Mac(allowed.mac)]);
            state.entries.extend(own.map(|own| Entry { index, own }));
        }
        state
    }

    /// Guarded interfaces as the caller knows them.
    pub(super) fn guarded(&self) -> BTreeMap<Interface, Allowed> {
        let one = |(index, held): (&u32, &Held)| {
            let addresses = self.entries_of(*index).filter_map(|entry| match entry.own {
                Own::Address(address) => Some(address),
                Own::Mac(_) => None,
            });
            let allowed = Allowed { addresses: addresses.collect(), mac: held.mac };
            (Interface { index: *index, name: held.name.clone() }, allowed)
        };
        self.chains.iter().map(one).collect()
    }

    fn entries_of(&self, index: u32) -> impl Iterator<Item = &Entry> {
        let from = Entry { index, own: Own::Address(Ipv4Addr::UNSPECIFIED.into()) };
        let all = self.entries.range((Bound::Included(from), Bound::Unbounded));
        all.take_while(move |entry| entry.index == index)
    }

    /// What is about an interface, by its number or its name.
    pub(super) fn about(&self, interface: &Interface) -> Self {
        let named = self.chains.iter().filter(|(_, held)| held.name == interface.name);
        let mut indexes: BTreeSet<u32> = named.map(|(index, _)| *index).collect();
        indexes.insert(interface.index);
        let chain = |index: &u32| Some((*index, self.chains.get(index)?.clone()));
        Self {
            chains: indexes.iter().filter_map(chain).collect(),
            entries: indexes.iter().flat_map(|index| self.entries_of(*index)).copied().collect(),
        }
    }

    /// Makes a change that the kernel has made.
    pub(super) fn apply(&mut self, changes: &Changes) {
        self.chains.retain(|index, _| !changes.chains_gone.contains(index));
        self.chains.extend(changes.chains.iter().map(|(index, held, _)| (*index, held.clone())));
        for entry in &changes.entries_gone {
            self.entries.remove(entry);
        }
        self.entries.extend(&changes.entries);
    }

    /// So many entries does the largest set have.
    pub(super) fn largest(&self) -> usize {
        let count = |set| self.entries.iter().filter(|entry| entry.set() == set).count();
        Set::ALL.into_iter().map(count).max().unwrap_or(0)
    }
}

/// What becomes of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fresh {
    /// It is made.
    Made,
    /// It hangs where it hung, and gets other rules.
    Rewritten,
}

/// A way from one state to another, which is one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Chains to delete, before others are made.
    pub(super) chains_gone: Vec<u32>,
    pub(super) chains: Vec<(u32, Held, Fresh)>,
    pub(super) entries_gone: Vec<Entry>,
    pub(super) entries: Vec<Entry>,
}

impl Changes {
    pub(super) fn between(held: &State, wanted: &State) -> Self {
        let mut changes = Self {
            entries_gone: held.entries.difference(&wanted.entries).copied().collect(),
            entries: wanted.entries.difference(&held.entries).copied().collect(),
            ..Self::default()
        };
        for (index, chain) in &held.chains {
            if wanted.chains.get(index).is_none_or(|other| other.name != chain.name) {
                changes.chains_gone.push(*index);
            }
        }
        for (index, chain) in &wanted.chains {
            let fresh = match held.chains.get(index) {
                Some(before) if before == chain => continue,
                Some(before) if before.name == chain.name => Fresh::Rewritten,
                _ => Fresh::Made,
            };
            changes.chains.push((*index, chain.clone(), fresh));
        }
        // In order of their sets.
        changes.entries_gone.sort_by_key(Entry::set);
        changes.entries.sort_by_key(Entry::set);
        changes
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(index: u32, name: &str) -> Interface {
        Interface { index, name: name.to_owned() }
    }

    fn allowed(addresses: &[&str], mac: Option<u8>) -> Allowed {
        let addresses = addresses.iter().map(|it| it.parse().unwrap()).collect();
        Allowed { addresses, mac: mac.map(|last| [2, 0, 0, 0, 0, last]) }
    }

    fn some() -> BTreeMap<Interface, Allowed> {
        BTreeMap::from([
            (interface(5, "v0"), allowed(&["10.0.0.5", "fd00::5"], Some(5))),
            (interface(6, "v1"), allowed(&["10.0.0.6"], None)),
            (interface(7, "v2"), allowed(&[], Some(7))),
        ])
    }

    #[test]
    fn a_state_says_what_it_was_made_of() {
        let state = State::of(&some());
        assert_eq!(state.guarded(), some());
        for entry in &state.entries {
            let read = Entry::read(entry.set(), &entry.key());
            assert_eq!(read, Some(*entry), "{}", entry.text());
        }
        assert_eq!(state.largest(), 3);
    }

    #[test]
    fn changes_lead_from_any_state_to_any_other() {
        let others = [
            BTreeMap::new(),
            BTreeMap::from([
                // Another address, another hardware address, another name for a number.
                (interface(5, "v0"), allowed(&["10.0.0.9", "fd00::5"], Some(5))),
                (interface(6, "v1"), allowed(&["10.0.0.6"], Some(6))),
                (interface(7, "v9"), allowed(&["10.0.0.7"], Some(7))),
            ]),
            // Another number for a name.
            BTreeMap::from([(interface(9, "v0"), allowed(&["10.0.0.5"], Some(5)))]),
            some(),
        ];
        for from in &others {
            for to in &others {
                let (mut held, wanted) = (State::of(from), State::of(to));
                let changes = Changes::between(&held, &wanted);
                assert_eq!(changes.is_empty(), from == to);
                held.apply(&changes);
                assert_eq!(held, wanted);
            }
        }
    }

    #[test]
    fn what_is_about_an_interface_is_of_its_number_or_of_its_name() {
        let state = State::of(&some());
        let numbers = |number, name| -> Vec<u32> {
            let about = state.about(&interface(number, name));
            let of_entries: BTreeSet<u32> = about.entries.iter().map(|it| it.index).collect();
            assert_eq!(of_entries, about.chains.keys().copied().collect());
            about.chains.into_keys().collect()
        };
        assert_eq!(numbers(5, "v0"), [5]);
        assert_eq!(numbers(8, "v0"), [5]);
        assert_eq!(numbers(6, "v0"), [5, 6]);
        assert_eq!(numbers(8, "v8"), [0; 0]);
    }

    #[test]
    fn a_chain_of_the_same_interface_stays_where_it_hangs() {
        let (held, mut with_mac) = (State::of(&some()), some());
        with_mac.insert(interface(6, "v1"), allowed(&["10.0.0.6"], Some(6)));
        let changes = Changes::between(&held, &State::of(&with_mac));
        assert_eq!(changes.chains_gone, [0; 0]);
        let what: Vec<_> =
            changes.chains.iter().map(|(index, _, fresh)| (*index, *fresh)).collect();
        assert_eq!(what, [(6, Fresh::Rewritten)]);
    }
}

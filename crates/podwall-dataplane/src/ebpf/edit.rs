//! Which entries change?
//!
//! ```text
//!   NodeTables ──Model::new──────▶ Model (what the kernel should hold) + Edit of everything
//!   Delta ───────Model::change──▶ Edit: per table keys that go, entries that come
//! ```
//!
//! The model keeps what a change cannot do without: which directions of a local address are
//! isolated, and which kinds of rows its classes have. Which ports a row has stands in the tables
//! before the change. Remote addresses and ranges pass through.

use std::collections::BTreeMap;
use std::net::IpAddr;

use podwall_compile::tables::{Delta, NodeTables, Peer, PeerKey, PortKey, SubjectId, Verdict};
use podwall_policy::address::{AddressRange, AddressSet, Family};
use podwall_policy::policy::Direction;
use rustc_hash::{FxHashMap, FxHashSet};

use super::layout::{self, Kinds, Local, Table};

/// Entries of one table that come and go. Applied in this order: what goes, what comes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entries {
    /// Keys, side by side.
    pub(crate) gone: Vec<u8>,
    /// Keys, side by side.
    pub(crate) keys: Vec<u8>,
    /// As many values.
    pub(crate) values: Vec<u8>,
}

impl Entries {
    fn set(&mut self, key: &[u8], value: &[u8]) {
        self.keys.extend_from_slice(key);
        self.values.extend_from_slice(value);
    }

    fn set_address(&mut self, address: IpAddr, value: &[u8]) {
        layout::put_address(address, &mut self.keys);
        self.values.extend_from_slice(value);
    }

    fn reserve(&mut self, table: Table, count: usize) {
        let (key, value) = table.sizes();
        self.keys.reserve(count * key);
        self.values.reserve(count * value);
    }
}

/// A change of all tables.
#[derive(Clone, Debug, Default)]
pub(crate) struct Edit {
    pub(crate) tables: BTreeMap<Table, Entries>,
    /// The pod ranges, if they change.
    pub(crate) pod_ranges: Option<AddressSet>,
}

impl Edit {
    /// Whether nothing changes.
    pub(crate) fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.pod_ranges.is_none()
    }

    fn of(&mut self, table: Table) -> &mut Entries {
        self.tables.entry(table).or_default()
    }
}

/// The ports of a (subject, peer).
#[derive(Clone, Debug, Default)]
struct Row {
    otherwise: Option<Verdict>,
    ports: Vec<PortKey>,
}

impl Row {
    /// A row of tables.
    fn of(tables: &NodeTables, (subject, peer): (SubjectId, PeerKey)) -> Self {
        let mut row = Self::default();
        for (key, verdict) in tables.verdicts_of_row(subject, peer) {
            row.set(key.ports, Some(*verdict));
        }
        row
    }

    fn set(&mut self, ports: PortKey, verdict: Option<Verdict>) {
        if ports == PortKey::AnyProtocol {
            self.otherwise = verdict;
            return;
        }
        let place = self.ports.iter().position(|its| *its == ports);
        match (place, verdict) {
            (None, Some(_)) => self.ports.push(ports),
            (Some(place), None) => drop(self.ports.swap_remove(place)),
            _ => {}
        }
    }

    fn is_empty(&self) -> bool {
        self.otherwise.is_none() && self.ports.is_empty()
    }

    /// Its entry in `rows`; see [`layout::row`].
    fn entry(&self) -> Option<[u8; 12]> {
        let lengths = self.ports.iter().fold(0, |bits, ports| bits | lengths(*ports));
        layout::row(lengths, self.otherwise)
    }
}

/// The lengths of the prefixes that stand for some ports, as bits.
fn lengths(ports: PortKey) -> u32 {
    let prefixes = layout::port_prefixes(ports).into_iter();
    prefixes.fold(0, |bits, (_, length, _)| bits | 1 << length)
}

/// What the kernel should hold, as far as a change has to know.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    locals: FxHashMap<IpAddr, Local>,
    /// How many rows of each kind a subject has.
    kinds: FxHashMap<SubjectId, [usize; 4]>,
    /// How many entries each table has.
    pub(crate) counts: BTreeMap<Table, usize>,
}

impl Model {
    /// The model of full tables, and the entries of all of them.
    pub(crate) fn new(tables: &NodeTables) -> (Self, Edit) {
        let (mut model, mut edit) = (Self::default(), Edit::default());
        edit.pod_ranges = Some(tables.pod_ranges.clone());
        model.all_rows(tables, &mut edit);
        for ((direction, address), class) in &tables.subjects {
            model.isolate(*direction, *address, Some(*class));
        }
        model.all_addresses(tables, &mut edit);
        ranges(
            &mut edit,
            Table::blocks,
            &[],
            tables.blocks.iter().map(|(range, class)| (*range, *class)),
            layout::block,
        );
        ranges(
            &mut edit,
            Table::nets,
            &[],
            tables.nets.iter().map(|(range, class)| (*range, *class)),
            layout::net,
        );
        for (table, entries) in &edit.tables {
            model.counts.insert(*table, entries.keys.len() / table.sizes().0);
        }
        (model, edit)
    }

    /// The rows of full tables, which stand together there.
    fn all_rows(&mut self, tables: &NodeTables, edit: &mut Edit) {
        let (mut rows, mut ports) = (Entries::default(), Entries::default());
        ports.reserve(Table::Ports, tables.verdicts.len()); // at most so many, mostly
        let mut end = |(subject, peer), bits, otherwise| {
            if let Some(bytes) = layout::row(bits, otherwise) {
                rows.set(&layout::row_key(subject, peer), &bytes);
            }
        };
        let mut last: Option<(SubjectId, PeerKey)> = None;
        let (mut bits, mut otherwise) = (0, None);
        for (key, verdict) in &tables.verdicts {
            let at = (key.subject, key.peer);
            if last != Some(at) {
                if let Some(last) = last {
                    end(last, bits, otherwise);
                }
                (last, bits, otherwise) = (Some(at), 0, None);
                self.kinds.entry(key.subject).or_default()[Kinds::place(key.peer)] += 1;
            }
            if key.ports == PortKey::AnyProtocol {
                otherwise = Some(*verdict);
            }
            for prefix in layout::port_prefixes(key.ports) {
                bits |= 1 << prefix.1;
                let bytes = layout::port_key(key.subject, key.peer, prefix);
                ports.set(&bytes, &layout::verdict(Some(*verdict)));
            }
        }
        if let Some(last) = last {
            end(last, bits, otherwise);
        }
        for (table, entries) in [(Table::Rows, rows), (Table::Ports, ports)] {
            if !entries.keys.is_empty() {
                edit.tables.insert(table, entries);
            }
        }
    }

    /// Makes a change in the model; the entries that it means. `before` is what the kernel holds.
    pub(crate) fn change(&mut self, before: &NodeTables, delta: &Delta) -> Edit {
        let mut edit = Edit { pod_ranges: delta.pod_ranges.clone(), ..Edit::default() };
        let other_kinds = self.change_rows(before, delta, &mut edit);
        self.change_addresses(before, delta, &other_kinds, &mut edit);
        let (gone, come) = (&delta.blocks_removed, delta.blocks_added.iter().copied());
        ranges(&mut edit, Table::blocks, gone, come, layout::block);
        let (gone, come) = (&delta.nets_removed, delta.nets_added.iter().copied());
        ranges(&mut edit, Table::nets, gone, come, layout::net);
        edit
    }

    fn isolate(&mut self, direction: Direction, address: IpAddr, class: Option<SubjectId>) {
        let local = self.locals.entry(address).or_default();
        match direction {
            Direction::Egress => local.egress = class,
            Direction::Ingress => local.ingress = class,
        }
    }

    /// What the kernel should know of an address.
    pub(crate) fn known(&self, address: &IpAddr, peer: Option<Peer>) -> Option<[u8; 16]> {
        let local = self.locals.get(address).copied().unwrap_or_default();
        let kinds =
            |subject: SubjectId| Kinds::of(self.kinds.get(&subject).copied().unwrap_or_default());
        layout::known(local, peer, kinds)
    }

    /// The addresses of full tables.
    fn all_addresses(&self, tables: &NodeTables, edit: &mut Edit) {
        for family in Family::BOTH {
            let of_family = |address: &IpAddr| Family::of(*address) == family;
            let pods = || tables.peers.iter().filter(|(address, _)| of_family(address));
            let others = || {
                let is_other = |a: &&IpAddr| of_family(a) && !tables.peers.contains_key(*a);
                self.locals.keys().filter(is_other)
            };
            let count = pods().count() + others().count();
            if count == 0 {
                continue;
            }
            let table = Table::addresses(family);
            let entries = edit.of(table);
            entries.reserve(table, count);
            let all = pods().map(|(address, peer)| (address, Some(*peer)));
            for (address, peer) in all.chain(others().map(|address| (address, None))) {
                if let Some(bytes) = self.known(address, peer) {
                    entries.set_address(*address, &bytes);
                }
            }
        }
    }

    /// `other_kinds`: subjects that have other kinds of rows than before.
    fn change_addresses(
        &mut self,
        before: &NodeTables,
        delta: &Delta,
        other_kinds: &FxHashSet<SubjectId>,
        edit: &mut Edit,
    ) {
        let peers: FxHashMap<IpAddr, Option<Peer>> = delta.peers.iter().copied().collect();
        let mut touched: Vec<IpAddr> = peers.keys().copied().collect();
        for ((direction, address), class) in &delta.subjects {
            self.isolate(*direction, *address, *class);
            touched.push(*address);
        }
        if !other_kinds.is_empty() {
            let changed = |side: Option<SubjectId>| side.is_some_and(|s| other_kinds.contains(&s));
            let locals = self.locals.iter();
            let of_these = locals.filter(|(_, its)| changed(its.egress) || changed(its.ingress));
            touched.extend(of_these.map(|(address, _)| *address));
        }
        touched.sort_unstable();
        touched.dedup();
        for address in touched {
            let unchanged = || before.peers.get(&address).copied();
            let peer = peers.get(&address).copied().unwrap_or_else(unchanged);
            let entries = edit.of(Table::addresses(Family::of(address)));
            match self.known(&address, peer) {
                Some(bytes) => entries.set_address(address, &bytes),
                None => layout::put_address(address, &mut entries.gone),
            }
            if self.locals.get(&address).is_some_and(|local| local.is_unlisted()) {
                self.locals.remove(&address);
            }
        }
    }

    /// The subjects that have other kinds of rows than before.
    fn change_rows(
        &mut self,
        before: &NodeTables,
        delta: &Delta,
        edit: &mut Edit,
    ) -> FxHashSet<SubjectId> {
        // What each row was, and what it is going to be.
        let mut rows: BTreeMap<(SubjectId, PeerKey), (Row, Row)> = BTreeMap::new();
        for (key, verdict) in &delta.verdicts {
            let at = (key.subject, key.peer);
            let (_, row) = rows.entry(at).or_insert_with(|| {
                let row = Row::of(before, at);
                (row.clone(), row)
            });
            row.set(key.ports, *verdict);
            let entries = edit.of(Table::Ports);
            for prefix in layout::port_prefixes(key.ports) {
                let bytes = layout::port_key(key.subject, key.peer, prefix);
                match verdict {
                    Some(_) => entries.set(&bytes, &layout::verdict(*verdict)),
                    None => entries.gone.extend(bytes),
                }
            }
        }
        let mut other_kinds = FxHashSet::default();
        for ((subject, peer), (old, row)) in rows {
            let key = layout::row_key(subject, peer);
            match (old.entry(), row.entry()) {
                (old, new) if old == new => {}
                (_, Some(bytes)) => edit.of(Table::Rows).set(&key, &bytes),
                (_, None) => edit.of(Table::Rows).gone.extend(key),
            }
            let was_there = !old.is_empty();
            if was_there != row.is_empty() {
                continue;
            }
            let counts = self.kinds.entry(subject).or_default();
            let count = &mut counts[Kinds::place(peer)];
            let before = *count;
            *count = if was_there { before.saturating_sub(1) } else { before + 1 };
            if (before == 0) != (*count == 0) {
                other_kinds.insert(subject);
            }
            if *counts == [0; 4] {
                self.kinds.remove(&subject);
            }
        }
        other_kinds
    }
}

/// Ranges that go and come, as the prefixes that make them up.
fn ranges<T: Copy>(
    edit: &mut Edit,
    table: impl Fn(Family) -> Table,
    removed: &[AddressRange],
    added: impl Iterator<Item = (AddressRange, T)>,
    value: impl Fn(T) -> [u8; 4],
) {
    for range in removed {
        let keys = layout::prefixes(*range).concat();
        edit.of(table(range.family())).gone.extend(keys);
    }
    for (range, class) in added {
        let entries = edit.of(table(range.family()));
        for key in layout::prefixes(range) {
            entries.set(&key, &value(class));
        }
    }
}

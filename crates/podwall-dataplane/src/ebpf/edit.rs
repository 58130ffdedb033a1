//! Which entries change?
//!
//! ```text
//!   NodeTables ──Model::new──────▶ Model (what the kernel should hold) + Edit of everything
//!   Delta ───────Model::change──▶ Edit: per table keys that go, entries that come
//! ```
//!
//! The model keeps what a change cannot do without: which directions of a local address are
//! isolated, which kinds of rows its classes have, and which ports a row has. Remote addresses and
//! ranges pass through.

use std::collections::BTreeMap;
use std::net::IpAddr;

use podwall_compile::tables::{Delta, NodeTables, PeerKey, PortKey, SubjectId, Verdict};
use podwall_policy::address::{AddressRange, Family};
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
}

/// A change of all tables.
#[derive(Clone, Debug, Default)]
pub(crate) struct Edit {
    pub(crate) tables: BTreeMap<Table, Entries>,
}

impl Edit {
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
    /// The lengths of its prefixes, as bits.
    fn lengths(&self) -> u32 {
        let prefixes = self.ports.iter().flat_map(|ports| layout::port_prefixes(*ports));
        prefixes.fold(0, |bits, (_, length, _)| bits | 1 << length)
    }

    fn bytes(&self) -> Vec<u8> {
        [self.lengths().to_ne_bytes().to_vec(), layout::verdict(self.otherwise)].concat()
    }

    fn is_empty(&self) -> bool {
        self.otherwise.is_none() && self.ports.is_empty()
    }
}

/// What the kernel should hold, as far as a change has to know.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    locals: FxHashMap<IpAddr, Local>,
    rows: FxHashMap<(SubjectId, PeerKey), Row>,
    /// How many rows of each kind a subject has.
    kinds: FxHashMap<SubjectId, [usize; 4]>,
    /// How many entries each table has.
    pub(crate) counts: BTreeMap<Table, usize>,
}

impl Model {
    /// The model of full tables, and the entries of all of them.
    pub(crate) fn new(tables: &NodeTables) -> (Self, Edit) {
        let mut model = Self::default();
        let all = Delta {
            subjects: tables.subjects.iter().map(|(key, class)| (*key, Some(*class))).collect(),
            peers: tables.peers.iter().map(|(ip, class)| (*ip, Some(*class))).collect(),
            blocks_added: tables.blocks.iter().map(|(range, class)| (*range, *class)).collect(),
            nets_added: tables.nets.iter().map(|(range, class)| (*range, *class)).collect(),
            verdicts: tables.verdicts.iter().map(|(key, v)| (*key, Some(*v))).collect(),
            ..Delta::default()
        };
        let edit = model.change(&all);
        for (table, entries) in &edit.tables {
            model.counts.insert(*table, entries.keys.len() / table.sizes().0);
        }
        (model, edit)
    }

    /// Makes a change in the model; the entries that it means.
    pub(crate) fn change(&mut self, delta: &Delta) -> Edit {
        let mut edit = Edit::default();
        let other_kinds = self.change_rows(delta, &mut edit);
        self.change_locals(delta, &other_kinds, &mut edit);
        for (address, peer) in &delta.peers {
            let (entries, key) = (edit.of(Table::peers(*address)), layout::address(*address));
            match peer {
                Some(peer) => entries.set(&key, &layout::peer(*peer)),
                None => entries.gone.extend(key),
            }
        }
        let class = layout::block;
        ranges(&mut edit, Table::blocks, &delta.blocks_removed, &delta.blocks_added, class);
        ranges(&mut edit, Table::nets, &delta.nets_removed, &delta.nets_added, layout::net);
        edit
    }

    /// `other_kinds`: subjects that have other kinds of rows than before.
    fn change_locals(
        &mut self,
        delta: &Delta,
        other_kinds: &FxHashSet<SubjectId>,
        edit: &mut Edit,
    ) {
        let mut touched: Vec<IpAddr> = Vec::new();
        for ((direction, address), class) in &delta.subjects {
            let local =
                self.locals.entry(*address).or_insert(Local { egress: None, ingress: None });
            match direction {
                Direction::Egress => local.egress = *class,
                Direction::Ingress => local.ingress = *class,
            }
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
        let kinds =
            |subject: SubjectId| Kinds::of(self.kinds.get(&subject).copied().unwrap_or_default());
        let mut open: Vec<IpAddr> = Vec::new();
        for address in touched {
            let (entries, key) = (edit.of(Table::local(address)), layout::address(address));
            match self.locals.get(&address) {
                Some(local) if local.egress.is_some() || local.ingress.is_some() => {
                    entries.set(&key, &local.bytes(kinds));
                }
                _ => {
                    entries.gone.extend(key);
                    open.push(address);
                }
            }
        }
        for address in open {
            self.locals.remove(&address);
        }
    }

    /// The subjects that have other kinds of rows than before.
    fn change_rows(&mut self, delta: &Delta, edit: &mut Edit) -> FxHashSet<SubjectId> {
        let mut other_kinds = FxHashSet::default();
        let mut touched: Vec<(SubjectId, PeerKey)> = Vec::new();
        for (key, verdict) in &delta.verdicts {
            let at = (key.subject, key.peer);
            let row = self.rows.entry(at).or_insert_with(|| {
                let count = &mut self.kinds.entry(key.subject).or_default()[Kinds::place(key.peer)];
                *count += 1;
                if *count == 1 {
                    other_kinds.insert(key.subject);
                }
                Row::default()
            });
            touched.push(at);
            if key.ports == PortKey::AnyProtocol {
                row.otherwise = *verdict;
                continue;
            }
            let place = row.ports.iter().position(|ports| *ports == key.ports);
            match (place, verdict) {
                (None, Some(_)) => row.ports.push(key.ports),
                (Some(place), None) => drop(row.ports.swap_remove(place)),
                _ => {}
            }
            let entries = edit.of(Table::Ports);
            for prefix in layout::port_prefixes(key.ports) {
                let bytes = layout::port_key(key.subject, key.peer, prefix);
                match verdict {
                    Some(_) => entries.set(&bytes, &layout::verdict(*verdict)),
                    None => entries.gone.extend(bytes),
                }
            }
        }
        touched.sort_unstable();
        touched.dedup();
        for (subject, peer) in touched {
            let (entries, key) = (edit.of(Table::Rows), layout::row_key(subject, peer));
            match self.rows.get(&(subject, peer)) {
                Some(row) if !row.is_empty() => entries.set(&key, &row.bytes()),
                _ => {
                    entries.gone.extend(key);
                    if self.rows.remove(&(subject, peer)).is_some()
                        && let Some(counts) = self.kinds.get_mut(&subject)
                    {
                        let count = &mut counts[Kinds::place(peer)];
                        *count -= 1;
                        if *count == 0 {
                            other_kinds.insert(subject);
                        }
                        if *counts == [0; 4] {
                            self.kinds.remove(&subject);
                        }
                    }
                }
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
    added: &[(AddressRange, T)],
    value: impl Fn(T) -> Vec<u8>,
) {
    for range in removed {
        let keys = layout::prefixes(*range).concat();
        edit.of(table(range.family())).gone.extend(keys);
    }
    for (range, class) in added {
        let entries = edit.of(table(range.family()));
        for key in layout::prefixes(*range) {
            entries.set(&key, &value(*class));
        }
    }
}

//! What fits, and what must be closed because something else does not?
//!
//! ```text
//!   peers, blocks    those that are there already ─▶ new ones ─▶ … until it is full
//!        left out ─▶ whoever would allow such an address more than it may have: isolated
//!   verdicts         classes as they were ─▶ grown ─▶ new, formerly closed ─▶ … in whole or not
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use podwall_compile::tables::{NodeTables, PeerId, PortKey, SubjectId, VerdictKey};
use podwall_policy::address::AddressRange;
use podwall_policy::port::Protocol;
use rustc_hash::{FxHashMap, FxHashSet};

use super::{Limits, Sizes, Table, Why, block_size, verdict_size};
use crate::Error;

/// What [`NodeTables::peer_class`] says of an address.
type Class = PeerId;

/// The peers whose rows a class can meet before those for any peer.
fn rows_of(class: Class) -> [PeerId; 1] {
    [class]
}

/// Tables of which something had to be left out.
#[derive(Clone, Debug)]
pub(super) struct Cut {
    /// What goes into the kernel.
    pub(super) admitted: NodeTables,
    pub(super) isolated: BTreeMap<SubjectId, Why>,
    pub(super) addresses: BTreeSet<IpAddr>,
    pub(super) ranges: BTreeSet<AddressRange>,
}

/// Entries that tables take.
pub(super) fn sizes(tables: &NodeTables) -> Sizes {
    let locals: BTreeSet<IpAddr> = tables.subjects.keys().map(|(_, address)| *address).collect();
    Sizes {
        locals: locals.len(),
        peers: tables.peers.len(),
        blocks: tables.blocks.keys().map(block_size).sum(),
        verdicts: tables.verdicts.keys().map(|key| verdict_size(key.ports)).sum(),
    }
}

/// What fits into the limits of what is wanted; `None`: all of it. What the kernel held before goes
/// first, so that nobody suffers for a newcomer.
///
/// # Errors
/// The local addresses do not fit.
pub(super) fn admit(
    wanted: &NodeTables,
    size: Sizes,
    limits: &Limits,
    before: Option<&NodeTables>,
) -> Result<Option<Cut>, Error> {
    if size.locals > limits.locals {
        let (table, wanted, size) = (Table::Locals.name(), size.locals, limits.locals);
        return Err(Error::Full { table, wanted, size });
    }
    if size.fit(limits) {
        return Ok(None);
    }
    let nothing = NodeTables::default();
    let before = before.unwrap_or(&nothing);
    let mut admitted = NodeTables {
        subjects: wanted.subjects.clone(),
        rules: wanted.rules.clone(),
        isolated_by: wanted.isolated_by.clone(),
        ..NodeTables::default()
    };
    let addresses = admit_peers(wanted, limits, before, &mut admitted);
    let ranges = admit_blocks(wanted, limits, before, &mut admitted);
    let mut isolated = leaking(wanted, &admitted, &addresses, &ranges);
    admit_verdicts(wanted, limits, before, &mut admitted, &mut isolated);
    for class in admitted.subjects.values_mut() {
        if isolated.contains_key(class) {
            *class = SubjectId::CLOSED;
        }
    }
    Ok(Some(Cut { admitted, isolated, addresses, ranges }))
}

fn admit_peers(
    wanted: &NodeTables,
    limits: &Limits,
    before: &NodeTables,
    admitted: &mut NodeTables,
) -> BTreeSet<IpAddr> {
    if wanted.peers.len() <= limits.peers {
        admitted.peers = wanted.peers.clone();
        return BTreeSet::new();
    }
    let mut order: Vec<IpAddr> = wanted.peers.keys().copied().collect();
    order.sort_unstable_by_key(|address| (!before.peers.contains_key(address), *address));
    let left_out = order.split_off(limits.peers);
    let entry = |address: IpAddr| wanted.peers.get(&address).map(|class| (address, *class));
    admitted.peers = order.into_iter().filter_map(entry).collect();
    left_out.into_iter().collect()
}

fn admit_blocks(
    wanted: &NodeTables,
    limits: &Limits,
    before: &NodeTables,
    admitted: &mut NodeTables,
) -> BTreeSet<AddressRange> {
    let mut order: Vec<_> = wanted.blocks.iter().collect();
    order.sort_by_key(|(range, _)| !before.blocks.contains_key(range));
    let (mut room, mut left_out) = (limits.blocks, BTreeSet::new());
    for (range, class) in order {
        match room.checked_sub(block_size(range)) {
            Some(left) => {
                room = left;
                admitted.blocks.insert(*range, *class);
            }
            None => drop(left_out.insert(*range)),
        }
    }
    left_out
}

fn admit_verdicts(
    wanted: &NodeTables,
    limits: &Limits,
    before: &NodeTables,
    admitted: &mut NodeTables,
    isolated: &mut BTreeMap<SubjectId, Why>,
) {
    let by_subject = |tables: &NodeTables| {
        let mut sizes: FxHashMap<SubjectId, usize> = FxHashMap::default();
        for key in tables.verdicts.keys() {
            *sizes.entry(key.subject).or_default() += verdict_size(key.ports);
        }
        sizes
    };
    let had = by_subject(before);
    let mut order: Vec<(SubjectId, usize)> = by_subject(wanted).into_iter().collect();
    order.retain(|(subject, _)| !isolated.contains_key(subject));
    order.sort_unstable_by_key(|(subject, size)| match had.get(subject) {
        Some(before) if before >= size => (0, *subject),
        Some(_) => (1, *subject),
        None => (2, *subject),
    });
    let mut room = limits.verdicts;
    for (subject, size) in order {
        match room.checked_sub(size) {
            Some(left) => room = left,
            None => drop(isolated.insert(subject, Why::Verdicts)),
        }
    }
    let fits = wanted.verdicts.iter().filter(|(key, _)| !isolated.contains_key(&key.subject));
    admitted.verdicts = fits.map(|(key, verdict)| (*key, *verdict)).collect();
}

/// The subjects that would allow an address more than it may have, if they took it for what the
/// tables say of it without what was left out.
fn leaking(
    wanted: &NodeTables,
    admitted: &NodeTables,
    addresses: &BTreeSet<IpAddr>,
    ranges: &BTreeSet<AddressRange>,
) -> BTreeMap<SubjectId, Why> {
    let of_addresses = addresses.iter().copied();
    // No address that is known lies in a range, for what matters here: its class is looked up first.
    let of_ranges = ranges.iter().map(|range| wanted.blocks.get(range).copied());
    let mut taken_for: FxHashSet<(Class, Class)> = of_addresses
        .map(|address| (wanted.peer_class(address), admitted.peer_class(address)))
        .collect();
    taken_for.extend(of_ranges.flatten().map(|class| (class, PeerId::OTHER)));
    taken_for.retain(|(own, other)| own != other);
    let mut out = BTreeMap::new();
    if taken_for.is_empty() {
        return out;
    }
    let mut subjects_of: FxHashMap<PeerId, BTreeSet<SubjectId>> = FxHashMap::default();
    for key in wanted.verdicts.keys() {
        subjects_of.entry(key.peer).or_default().insert(key.subject);
    }
    for (own, other) in taken_for {
        let rows = rows_of(own).into_iter().chain(rows_of(other));
        // Both classes meet the same rows of every other subject: those for any peer.
        let subjects: BTreeSet<SubjectId> =
            rows.filter_map(|peer| subjects_of.get(&peer)).flatten().copied().collect();
        for subject in subjects {
            if !out.contains_key(&subject) && allows_more(wanted, subject, other, own) {
                out.insert(subject, Why::Addresses);
            }
        }
    }
    out
}

/// Whether a subject allows one class something that it denies another.
fn allows_more(tables: &NodeTables, subject: SubjectId, class: Class, than: Class) -> bool {
    let peers: Vec<PeerId> =
        rows_of(class).into_iter().chain(rows_of(than)).chain([PeerId::ANY]).collect();
    let first = PortKey::Port(Protocol(0), 0);
    let row = |peer, ports| VerdictKey { subject, peer, ports };
    let all = row(PeerId(0), first)..=row(PeerId::ANY, PortKey::AnyProtocol);
    // Between two of these ports nothing changes.
    let mut ports: BTreeSet<(Protocol, u16)> = BTreeSet::from([(Protocol::ICMP, 0)]);
    ports.extend(Protocol::WITH_PORTS.map(|protocol| (protocol, 0)));
    for (key, _) in tables.verdicts.range(all).filter(|(key, _)| peers.contains(&key.peer)) {
        let (protocol, first, last) = match key.ports {
            PortKey::Port(protocol, port) => (protocol, port, port),
            PortKey::Range(protocol, range) => (protocol, range.first, range.last),
            PortKey::AnyPort(_) | PortKey::AnyProtocol => continue,
        };
        ports.insert((protocol, first));
        ports.extend(last.checked_add(1).map(|next| (protocol, next)));
    }
    let allows = |class, (protocol, port)| tables.verdict(subject, class, protocol, port).allow;
    ports.into_iter().any(|at| allows(class, at) && !allows(than, at))
}

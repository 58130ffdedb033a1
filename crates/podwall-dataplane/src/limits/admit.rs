//! What fits, and what must be closed because something else does not?
//!
//! ```text
//!   peers, blocks    those that are there already ─▶ new ones ─▶ … until it is full
//!        left out ─▶ whoever would allow such an address more than it may have: isolated
//!   verdicts         classes as they were ─▶ grown ─▶ new, formerly closed ─▶ … in whole or not
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use podwall_compile::tables::{
    GroupId, NetId, NodeTables, Peer, PeerId, PeerKey, PortKey, SubjectId,
};
use podwall_policy::address::AddressRange;
use podwall_policy::port::Protocol;
use rustc_hash::{FxHashMap, FxHashSet};

use super::{Limits, Sizes, Table, Why, block_size, verdict_size};
use crate::Error;

/// What tables say of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Class {
    peer: Peer,
    net: NetId,
}

impl Class {
    fn of(tables: &NodeTables, address: IpAddr) -> Self {
        Self { peer: tables.peer(address), net: tables.net(address) }
    }

    /// Of an address that is no pod's.
    fn outside(own: PeerId, net: NetId) -> Self {
        Self { peer: Peer { own, group: GroupId::NONE }, net }
    }

    /// The rows that it can meet before those for any peer.
    fn rows(self) -> [PeerKey; 3] {
        let Peer { own, group } = self.peer;
        [PeerKey::Own(own), PeerKey::Group(group), PeerKey::Net(self.net)]
    }
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
    Sizes(Limits {
        locals: locals.len(),
        peers: tables.peers.len(),
        blocks: tables.blocks.keys().chain(tables.nets.keys()).map(block_size).sum(),
        verdicts: tables.verdicts.keys().map(|key| verdict_size(key.ports)).sum(),
    })
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
    if size.0.locals > limits.locals {
        let (table, wanted, size) = (Table::Locals.name(), size.0.locals, limits.locals);
        return Err(Error::Full { table, wanted, size });
    }
    if size.fit(limits) {
        return Ok(None);
    }
    let nothing = NodeTables::default();
    let before = before.unwrap_or(&nothing);
    let mut admitted = NodeTables {
        subjects: wanted.subjects.clone(),
        pod_ranges: wanted.pod_ranges.clone(),
        rules: wanted.rules.clone(),
        isolated_by: wanted.isolated_by.clone(),
        policies: wanted.policies.clone(),
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
    let (mut room, mut left_out) = (limits.blocks, BTreeSet::new());
    let mut take = |range: &AddressRange| match room.checked_sub(block_size(range)) {
        Some(left) => {
            room = left;
            true
        }
        None => {
            left_out.insert(*range);
            false
        }
    };
    // Large ranges first: they are few, and many addresses lie in each.
    let mut nets: Vec<_> = wanted.nets.iter().collect();
    nets.sort_by_key(|(range, _)| !before.nets.contains_key(range));
    admitted.nets = nets.into_iter().filter(|(r, _)| take(r)).map(|(r, c)| (*r, *c)).collect();
    let mut blocks: Vec<_> = wanted.blocks.iter().collect();
    blocks.sort_by_key(|(range, _)| !before.blocks.contains_key(range));
    admitted.blocks = blocks.into_iter().filter(|(r, _)| take(r)).map(|(r, c)| (*r, *c)).collect();
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
    let mut taken_for: FxHashSet<(Class, Class)> = of_addresses
        .map(|address| (Class::of(wanted, address), Class::of(admitted, address)))
        .collect();
    // No address that is known lies in such a range, for what matters here: its class is looked up
    // first. The range may lie in several nets, and outside of all.
    for (range, own) in ranges.iter().filter_map(|range| wanted.blocks.get_key_value(range)) {
        let nets = wanted.nets.iter().filter(|(net, _)| overlap(net, range)).map(|(_, net)| *net);
        let nets = nets.chain([NetId::NONE]);
        taken_for.extend(
            nets.map(|net| (Class::outside(*own, net), Class::outside(PeerId::OTHER, net))),
        );
    }
    taken_for.retain(|(own, other)| own != other);
    // Whoever denies a net that is left out would fall through to what it allows anybody.
    let nets_gone: FxHashSet<NetId> =
        ranges.iter().filter_map(|range| wanted.nets.get(range).copied()).collect();
    let mut out = BTreeMap::new();
    if taken_for.is_empty() && nets_gone.is_empty() {
        return out;
    }
    let mut subjects_of: FxHashMap<PeerKey, BTreeSet<SubjectId>> = FxHashMap::default();
    for (key, verdict) in &wanted.verdicts {
        subjects_of.entry(key.peer).or_default().insert(key.subject);
        if matches!(key.peer, PeerKey::Net(net) if !verdict.allow && nets_gone.contains(&net)) {
            out.insert(key.subject, Why::Addresses);
        }
    }
    for (own, other) in taken_for {
        let rows = own.rows().into_iter().chain(other.rows());
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

fn overlap(a: &AddressRange, b: &AddressRange) -> bool {
    a.contains(b.first()) || b.contains(a.first())
}

/// Whether a subject allows one class something that it denies another.
fn allows_more(tables: &NodeTables, subject: SubjectId, class: Class, than: Class) -> bool {
    let peers: Vec<PeerKey> =
        class.rows().into_iter().chain(than.rows()).chain([PeerKey::Any]).collect();
    // Between two of these ports nothing changes.
    let mut ports: BTreeSet<(Protocol, u16)> = BTreeSet::from([(Protocol::ICMP, 0)]);
    ports.extend(Protocol::WITH_PORTS.map(|protocol| (protocol, 0)));
    for (key, _) in tables.verdicts_of(subject).filter(|(key, _)| peers.contains(&key.peer)) {
        let (protocol, first, last) = match key.ports {
            PortKey::Port(protocol, port) => (protocol, port, port),
            PortKey::Range(protocol, range) => (protocol, range.first, range.last),
            PortKey::AnyPort(_) | PortKey::AnyProtocol => continue,
        };
        ports.insert((protocol, first));
        ports.extend(last.checked_add(1).map(|next| (protocol, next)));
    }
    let allows = |class: Class, (protocol, port)| {
        let found = tables.lookup_classes(subject, class.peer, class.net, protocol, port);
        found.is_some_and(|(_, verdict)| verdict.allow)
    };
    ports.into_iter().any(|at| allows(class, at) && !allows(than, at))
}

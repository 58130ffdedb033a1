//! What does an entry look like in the kernel's maps?
//!
//! ```text
//!   subjects ┬▶ addresses4, addresses6   address → egress class, ingress class, each with its kinds
//!   peers    ┘                                    of rows; own class, group
//!   blocks   ──▶ blocks4, blocks6   prefixes that make up a range → own class
//!   nets     ──▶ nets4, nets6       the same → net
//!   verdicts ──▶ rows               (subject, peer) → lengths of port prefixes, verdict for the rest
//!            └─▶ ports              (subject, peer, protocol, prefix of a port) → verdict
//! ```
//!
//! The same as the structures of `podwall.bpf.c`, byte for byte: numbers in the machine's order,
//! addresses as in packets.

use std::net::IpAddr;

use ipnet::IpNet;
use podwall_compile::tables::{GroupId, NetId, Peer, PeerId, PeerKey, PortKey, SubjectId, Verdict};
use podwall_policy::address::{AddressRange, AddressSet, Family};
use podwall_policy::port::Protocol;

use super::hash::Form;

/// A change of this layout makes maps that an earlier program cannot read.
pub(crate) const LAYOUT: u32 = 4;

/// A table of which the kernel has two copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Table {
    Addresses4,
    Addresses6,
    Blocks4,
    Blocks6,
    Nets4,
    Nets6,
    Rows,
    Ports,
}

impl Table {
    pub(crate) const ALL: [Self; 8] = [
        Self::Addresses4,
        Self::Addresses6,
        Self::Blocks4,
        Self::Blocks6,
        Self::Nets4,
        Self::Nets6,
        Self::Rows,
        Self::Ports,
    ];

    /// Its name in the program.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Addresses4 => "addresses4",
            Self::Addresses6 => "addresses6",
            Self::Blocks4 => "blocks4",
            Self::Blocks6 => "blocks6",
            Self::Nets4 => "nets4",
            Self::Nets6 => "nets6",
            Self::Rows => "rows",
            Self::Ports => "ports",
        }
    }

    /// Bytes of a key and of a value.
    pub(crate) fn sizes(self) -> (usize, usize) {
        match self {
            Self::Addresses4 => (4, 16),
            Self::Addresses6 => (16, 16),
            Self::Blocks4 | Self::Nets4 => (8, 4),
            Self::Blocks6 | Self::Nets6 => (20, 4),
            Self::Rows => (8, 12),
            Self::Ports => (12, 8),
        }
    }

    /// How a hash of ours is laid out; none of a trie of prefixes.
    pub(crate) fn form(self) -> Option<Form> {
        let is_trie = matches!(self, Self::Blocks4 | Self::Blocks6 | Self::Nets4 | Self::Nets6);
        let (key, value) = self.sizes();
        (!is_trie).then_some(Form { key, value })
    }

    pub(crate) fn addresses(family: Family) -> Self {
        if family == Family::V4 { Self::Addresses4 } else { Self::Addresses6 }
    }

    pub(crate) fn blocks(family: Family) -> Self {
        if family == Family::V4 { Self::Blocks4 } else { Self::Blocks6 }
    }

    pub(crate) fn nets(family: Family) -> Self {
        if family == Family::V4 { Self::Nets4 } else { Self::Nets6 }
    }
}

/// Which rows a subject has, as bits beside its class, so that packets look up no
/// others. A compiler hands out less than 2²⁸ − 3 subject classes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kinds(pub(crate) u32);

impl Kinds {
    /// The place of a kind of row: 0 to 3.
    pub(crate) fn place(peer: PeerKey) -> usize {
        match peer {
            PeerKey::Own(_) => 0,
            PeerKey::Group(_) => 1,
            PeerKey::Net(_) => 2,
            PeerKey::Any => 3,
        }
    }

    /// Of how many rows of each kind.
    pub(crate) fn of(counts: [usize; 4]) -> Self {
        let bits = counts.iter().zip(28..).map(|(count, bit)| u32::from(*count > 0) << bit);
        Self(bits.sum())
    }
}

/// A direction of an address that nothing isolates.
const OPEN: u32 = SubjectId::OPEN.0;
/// The same, unless this node's pods get their addresses from there.
const UNLISTED: u32 = u32::MAX - 1;
/// A stranger, in events.
pub(crate) const STRANGER: u32 = (1 << 28) - 3;
/// Instead of an own class: it is no pod's.
const UNKNOWN: u32 = u32::MAX;

/// The subject classes of a local address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Local {
    pub(crate) egress: Option<SubjectId>,
    pub(crate) ingress: Option<SubjectId>,
}

impl Local {
    pub(crate) fn is_unlisted(self) -> bool {
        self == Self::default()
    }
}

/// All that is known of an address; nothing where it need not be known.
pub(crate) fn known(
    local: Local,
    peer: Option<Peer>,
    kinds: impl Fn(SubjectId) -> Kinds,
) -> Option<[u8; 16]> {
    if local.is_unlisted() && peer.is_none() {
        return None;
    }
    let subject = |side: Option<SubjectId>| match side {
        None => UNLISTED,
        Some(subject) if subject.is_open() => OPEN,
        Some(subject) => subject.0 | kinds(subject).0,
    };
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&pair(subject(local.egress), subject(local.ingress)));
    bytes[8..].copy_from_slice(&match peer {
        None => pair(UNKNOWN, 0),
        Some(peer) => {
            let group = match peer.group {
                GroupId::NONE => 0,
                group => PeerKey::Group(group).number(),
            };
            pair(PeerKey::Own(peer.own).number(), group)
        }
    });
    Some(bytes)
}

/// Two numbers side by side.
fn pair(first: u32, second: u32) -> [u8; 8] {
    let (mut bytes, second) = ([0; 8], second.to_ne_bytes());
    bytes[..4].copy_from_slice(&first.to_ne_bytes());
    bytes[4..].copy_from_slice(&second);
    bytes
}

/// Adds the bytes of an address.
pub(crate) fn put_address(address: IpAddr, bytes: &mut Vec<u8>) {
    match address {
        IpAddr::V4(v4) => bytes.extend_from_slice(&v4.octets()),
        IpAddr::V6(v6) => bytes.extend_from_slice(&v6.octets()),
    }
}

pub(crate) fn block(class: PeerId) -> [u8; 4] {
    PeerKey::Own(class).number().to_ne_bytes()
}

pub(crate) fn net(class: NetId) -> [u8; 4] {
    let number = if class == NetId::NONE { 0 } else { PeerKey::Net(class).number() };
    number.to_ne_bytes()
}

/// The keys of the prefixes that make up a range.
pub(crate) fn prefixes(range: AddressRange) -> Vec<Vec<u8>> {
    range
        .cidrs()
        .into_iter()
        .map(|net| {
            let mut key = u32::from(net.prefix_len()).to_ne_bytes().to_vec();
            put_address(net.network(), &mut key);
            key
        })
        .collect()
}

/// How many pod ranges there may be of a family.
const POD_RANGES: usize = crate::limits::POD_RANGES;
/// Bytes of one, of both families and copies.
const POD_RANGE: usize = 2 * 2 * (4 + 16);
/// Bytes of `control`.
pub(crate) const CONTROL: usize = 8 + POD_RANGES * POD_RANGE;

/// Where the bytes of a copy's pod ranges are in `control`: IPv4, then IPv6.
fn pod_range_places(copy: usize) -> impl Iterator<Item = [std::ops::Range<usize>; 2]> {
    (0..POD_RANGES).map(move |index| {
        let (v4, v6) = (8 + index * POD_RANGE + copy * 8, 8 + index * POD_RANGE + 16 + copy * 32);
        [v4..v4 + 8, v6..v6 + 32]
    })
}

/// The CIDRs of pod ranges, by family.
fn pod_nets(ranges: &AddressSet) -> [Vec<IpNet>; 2] {
    let nets = || ranges.ranges().iter().flat_map(AddressRange::cidrs);
    Family::BOTH.map(|family| nets().filter(|net| Family::of(net.network()) == family).collect())
}

/// Puts the pod ranges into a copy's place in `control`: address and mask.
pub(crate) fn put_pod_ranges(control: &mut [u8; CONTROL], copy: usize, ranges: &AddressSet) {
    let nets = pod_nets(ranges);
    for (index, places) in pod_range_places(copy).enumerate() {
        for (place, nets) in places.into_iter().zip(&nets) {
            let mut bytes = Vec::with_capacity(place.len());
            if let Some(net) = nets.get(index) {
                put_address(net.network(), &mut bytes);
                put_address(net.netmask(), &mut bytes);
            }
            bytes.resize(place.len(), 0);
            control[place].copy_from_slice(&bytes);
        }
    }
}

/// How many pod ranges there are, in the upper half of the word of `control`.
pub(crate) const POD_RANGE_COUNTS: u64 = 0xff << 34;

/// The same of these.
pub(crate) fn pod_range_counts(ranges: &AddressSet) -> u64 {
    let [v4, v6] = pod_nets(ranges).map(|nets| nets.len().min(POD_RANGES) as u64);
    v4 << 34 | v6 << 38
}

pub(crate) fn verdict(verdict: Option<Verdict>) -> [u8; 8] {
    let (allow, rule) = match verdict {
        None => (0_u32, u32::MAX),
        Some(verdict) => (1 + u32::from(verdict.allow), verdict.rule.map_or(u32::MAX, |r| r.0)),
    };
    pair(allow, rule)
}

pub(crate) fn row_key(subject: SubjectId, peer: PeerKey) -> [u8; 8] {
    pair(subject.0, peer.number())
}

/// What a row says beside single ports: the lengths of its prefixes as bits, and the verdict for the
/// rest. Nothing for most rows, which name single ports alone: those are found without.
pub(crate) fn row(lengths: u32, otherwise: Option<Verdict>) -> Option<[u8; 12]> {
    let lengths = lengths & !(1 << ONE);
    if lengths == 0 && otherwise.is_none() {
        return None;
    }
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&lengths.to_ne_bytes());
    bytes[4..].copy_from_slice(&verdict(otherwise));
    Some(bytes)
}

/// Any port of a protocol.
const ANY: u8 = 0;
/// A single port; apart from the prefixes of ranges, which it goes before.
const ONE: u8 = 17;

/// Protocol, length and value of the prefixes that stand for some ports; none for all protocols,
/// whose verdict is the row's own.
pub(crate) fn port_prefixes(ports: PortKey) -> Vec<(Protocol, u8, u16)> {
    match ports {
        PortKey::Port(protocol, port) => vec![(protocol, ONE, port)],
        PortKey::AnyPort(protocol) => vec![(protocol, ANY, 0)],
        PortKey::AnyProtocol => Vec::new(),
        PortKey::Range(protocol, range) => {
            let (mut first, last) = (u32::from(range.first), u32::from(range.last));
            let mut out = Vec::new();
            while first <= last {
                // As many ports as are aligned at `first` and do not go beyond `last`; not all of
                // them at once, which would be length 0.
                let aligned = if first == 0 { 15 } else { first.trailing_zeros().min(15) };
                let fits = (last - first + 1).ilog2();
                let bits = aligned.min(fits);
                #[expect(clippy::cast_possible_truncation, reason = "a port, and at most 16")]
                out.push((protocol, (16 - bits) as u8, first as u16));
                first += 1 << bits;
            }
            out
        }
    }
}

pub(crate) fn port_key(
    subject: SubjectId,
    peer: PeerKey,
    (protocol, length, port): (Protocol, u8, u16),
) -> [u8; 12] {
    let word = u32::from(port) << 16 | u32::from(protocol.0) << 8 | u32::from(length);
    let mut key = [0; 12];
    key[..8].copy_from_slice(&row_key(subject, peer));
    key[8..].copy_from_slice(&word.to_ne_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use podwall_policy::port::PortRange;

    #[test]
    fn the_prefixes_of_a_range_hold_its_ports_and_no_other() {
        for (first, last) in [
            (0, 65535),
            (1, 65535),
            (80, 90),
            (1024, 2047),
            (7, 8),
            (0, 1),
            (65534, 65535),
            (30000, 32767),
        ] {
            let prefixes = port_prefixes(PortKey::Range(Protocol::TCP, PortRange { first, last }));
            let mut held = vec![0_u8; 65536];
            for (_, length, port) in &prefixes {
                assert!((1..=16).contains(length));
                let start = usize::from(*port);
                for held in &mut held[start..start + (1 << (16 - length))] {
                    *held += 1;
                }
            }
            for (port, times) in held.into_iter().enumerate() {
                let inside = (usize::from(first)..=usize::from(last)).contains(&port);
                assert_eq!(times, u8::from(inside), "{first}-{last}: {port}");
            }
            assert!(prefixes.len() <= 30, "{}", prefixes.len());
        }
    }

    #[test]
    fn a_single_port_stands_apart_from_a_range_of_one_prefix() {
        let one = port_prefixes(PortKey::Port(Protocol::TCP, 80));
        assert_eq!(one, [(Protocol::TCP, 17, 80)]);
        assert_eq!(port_prefixes(PortKey::AnyPort(Protocol::UDP)), [(Protocol::UDP, 0, 0)]);
        assert!(port_prefixes(PortKey::AnyProtocol).is_empty());
    }
}

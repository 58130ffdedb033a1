//! Which sets does the table have, and what are their elements?
//!
//! ```text
//!   egress4 egress6 ingress4 ingress6   local address          → subject class
//!   peer4 peer6                         address of a pod       → class, group  (hash; * → none)
//!   block4 block6                       small range            → class         (tree; * → none)
//!   net4 net6                           large range            → net           (tree; * → none)
//!   self4 self6                         own address . own address
//!   by_port      subject . peer . protocol . port   → return | break  (* → continue)
//!   by_range     the same with ports first-last     → return | break  (* → continue)
//!   by_protocol  subject . peer . protocol          → return | break  (* → continue)
//!   by_peer      subject . peer                     → return | break  (* → continue)
//!   unmatched    subject class
//!   standing     what connections are that pass unseen: empty, or `confirmed` ([`super::standing`])
//! ```
//!
//! Elements of `by_…` and `unmatched` count the packets that meet them.
//!
//! Verdict maps never jump: the kernel validates a table again as soon as an element does. `return`
//! passes, `break` denies, `continue` is what is said of every other key: the rule goes on with its
//! next lookup.
//! Classes are numbers in the machine's byte order (nft's type `mark`), so that `nft list` shows
//! them as they are; before each stands 1, or 0 for what is said of every other key and of a local
//! address that is known and open: rules take it for one that they did not find.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use podwall_compile::tables::{
    Delta, GroupId, NetId, NodeTables, Peer, PeerId, PeerKey, PortKey, SubjectId, VerdictKey,
};
use podwall_policy::address::{AddressRange, Family};
use podwall_policy::policy::Direction;
use rustc_hash::{FxHashMap, FxHashSet};

/// One of the table's sets and maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum SetId {
    Egress(Family),
    Ingress(Family),
    Peer(Family),
    Block(Family),
    Net(Family),
    Own(Family),
    ByPort,
    ByRange,
    ByProtocol,
    ByPeer,
    Unmatched,
    Standing,
}

/// One field of a set's key; each starts on a register of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyField {
    Address(Family),
    /// A subject or peer class.
    Class,
    Protocol,
    Port,
    /// Bits of a connection's status.
    Status,
}

impl KeyField {
    /// Bytes without padding.
    pub(crate) fn width(self) -> usize {
        match self {
            Self::Address(Family::V4) | Self::Class | Self::Status => 4,
            Self::Address(Family::V6) => 16,
            Self::Protocol => 1,
            Self::Port => 2,
        }
    }
}

/// What a set says of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DataKind {
    /// Only that it is there.
    Nothing,
    Class,
    /// A peer class and a group.
    Classes,
    Fate,
}

impl SetId {
    /// All, in the order in which they are made.
    pub(crate) const ALL: [Self; 18] = [
        Self::Egress(Family::V4),
        Self::Egress(Family::V6),
        Self::Ingress(Family::V4),
        Self::Ingress(Family::V6),
        Self::Peer(Family::V4),
        Self::Peer(Family::V6),
        Self::Block(Family::V4),
        Self::Block(Family::V6),
        Self::Net(Family::V4),
        Self::Net(Family::V6),
        Self::Own(Family::V4),
        Self::Own(Family::V6),
        Self::ByPort,
        Self::ByRange,
        Self::ByProtocol,
        Self::ByPeer,
        Self::Unmatched,
        Self::Standing,
    ];

    /// Whether its elements count packets.
    pub(crate) fn counts(self) -> bool {
        use SetId::{ByPeer, ByPort, ByProtocol, ByRange, Unmatched};
        matches!(self, ByPort | ByRange | ByProtocol | ByPeer | Unmatched)
    }

    /// The map of local addresses of a direction.
    pub(crate) fn subjects(direction: Direction, family: Family) -> Self {
        match direction {
            Direction::Egress => Self::Egress(family),
            Direction::Ingress => Self::Ingress(family),
        }
    }

    /// Its name in the kernel.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Egress(Family::V4) => "egress4",
            Self::Egress(Family::V6) => "egress6",
            Self::Ingress(Family::V4) => "ingress4",
            Self::Ingress(Family::V6) => "ingress6",
            Self::Peer(Family::V4) => "peer4",
            Self::Peer(Family::V6) => "peer6",
            Self::Block(Family::V4) => "block4",
            Self::Block(Family::V6) => "block6",
            Self::Net(Family::V4) => "net4",
            Self::Net(Family::V6) => "net6",
            Self::Own(Family::V4) => "self4",
            Self::Own(Family::V6) => "self6",
            Self::ByPort => "by_port",
            Self::ByRange => "by_range",
            Self::ByProtocol => "by_protocol",
            Self::ByPeer => "by_peer",
            Self::Unmatched => "unmatched",
            Self::Standing => "standing",
        }
    }

    /// What it is for; the kernel keeps it as the set's comment.
    pub(crate) fn comment(self) -> &'static str {
        match self {
            Self::Egress(_) => "isolated for egress: local address to subject class",
            Self::Ingress(_) => "isolated for ingress: local address to subject class",
            Self::Peer(_) => "pods: address to peer class and group",
            Self::Block(_) => "other addresses: small range to peer class",
            Self::Net(_) => "all addresses: large range to net",
            Self::Own(_) => "a pod reaches itself",
            Self::ByPort => "verdicts: subject, peer, protocol, port",
            Self::ByRange => "verdicts: subject, peer, protocol, ports",
            Self::ByProtocol => "verdicts: subject, peer, protocol",
            Self::ByPeer => "verdicts: subject, peer",
            Self::Unmatched => "packets that no rule allows, by subject class",
            Self::Standing => "connections whose packets pass unseen",
        }
    }

    /// The fields of its key.
    pub(crate) fn key_fields(self) -> &'static [KeyField] {
        use KeyField::{Address, Class, Port, Protocol, Status};
        match self {
            Self::Egress(f) | Self::Ingress(f) | Self::Peer(f) | Self::Block(f) | Self::Net(f) => {
                match f {
                    Family::V4 => &[Address(Family::V4)],
                    Family::V6 => &[Address(Family::V6)],
                }
            }
            Self::Own(Family::V4) => &[Address(Family::V4), Address(Family::V4)],
            Self::Own(Family::V6) => &[Address(Family::V6), Address(Family::V6)],
            Self::ByPort | Self::ByRange => &[Class, Class, Protocol, Port],
            Self::ByProtocol => &[Class, Class, Protocol],
            Self::ByPeer => &[Class, Class],
            Self::Unmatched => &[Class],
            Self::Standing => &[Status],
        }
    }

    /// Bytes of a key with padding.
    pub(crate) fn key_len(self) -> usize {
        self.key_fields().iter().map(|f| f.width().next_multiple_of(4)).sum()
    }

    /// What it says of a key.
    pub(crate) fn data(self) -> DataKind {
        match self {
            Self::Egress(_) | Self::Ingress(_) | Self::Block(_) | Self::Net(_) => DataKind::Class,
            Self::Peer(_) => DataKind::Classes,
            Self::Own(_) | Self::Unmatched | Self::Standing => DataKind::Nothing,
            Self::ByPort | Self::ByRange | Self::ByProtocol | Self::ByPeer => DataKind::Fate,
        }
    }

    /// Whether its keys are ranges.
    pub(crate) fn is_interval(self) -> bool {
        self.is_tree() || self == Self::ByRange
    }

    /// Whether its keys are ranges of one field.
    pub(crate) fn is_tree(self) -> bool {
        matches!(self, Self::Block(_) | Self::Net(_))
    }

    /// What is said of a key that is not in it, for maps that always answer.
    pub(crate) fn otherwise(self) -> Option<Data> {
        match self {
            Self::Peer(_) => Some(Data::Classes(NO_CLASS, NO_CLASS)),
            Self::Block(_) | Self::Net(_) => Some(Data::Class(NO_CLASS)),
            Self::ByPort | Self::ByRange | Self::ByProtocol | Self::ByPeer => Some(Data::Silent),
            _ => None,
        }
    }
}

impl fmt::Display for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The key of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Key {
    Address(IpAddr),
    Range(AddressRange),
    Row(VerdictKey),
    Class(SubjectId),
    /// Connections whose first packet has passed and that are not revoked.
    Confirmed,
    /// Every key that has no element of its own.
    Otherwise,
}

/// What an element says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Data {
    Nothing,
    Class(u32),
    /// A peer class and a group, as keys of verdicts hold them.
    Classes(u32, u32),
    Allow,
    Deny,
    /// No verdict.
    Silent,
    /// Something that Podwall never writes.
    Strange,
}

/// Of a peer: no class. No verdict names it.
pub(crate) const NO_CLASS: u32 = 0;

/// The class of a local address that nothing is allowed.
pub(crate) const CLOSED: Data = Data::Class(SubjectId::CLOSED.0);

/// One element of one set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Element {
    pub(crate) set: SetId,
    pub(crate) key: Key,
    pub(crate) data: Data,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Range(range) => write!(f, "{range}"),
            Self::Class(class) => write!(f, "class {}", class.0),
            Self::Confirmed => f.write_str("confirmed"),
            Self::Otherwise => f.write_str("*"),
            Self::Row(VerdictKey { subject, peer, ports }) => {
                write!(f, "subject {} . {peer}", subject.0)?;
                match ports {
                    PortKey::Port(protocol, port) => write!(f, " . {protocol} {port}"),
                    PortKey::Range(protocol, range) => write!(f, " . {protocol} {range}"),
                    PortKey::AnyPort(protocol) => write!(f, " . {protocol}"),
                    PortKey::AnyProtocol => Ok(()),
                }
            }
        }
    }
}

impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("(present)"),
            Self::Class(class) if *class == SubjectId::OPEN.0 => f.write_str("open"),
            Self::Class(class) => match PeerKey::of_number(*class) {
                PeerKey::Own(PeerId(class)) => write!(f, "class {class}"),
                other => write!(f, "{other}"),
            },
            Self::Classes(own, NO_CLASS) => write!(f, "class {own}"),
            Self::Classes(own, group) => {
                write!(f, "class {own}, {}", PeerKey::of_number(*group))
            }
            Self::Allow => f.write_str("allow"),
            Self::Deny => f.write_str("deny"),
            Self::Silent => f.write_str("no verdict"),
            Self::Strange => f.write_str("something else"),
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "element {}", self.key)?;
        if self.data != Data::Nothing {
            write!(f, " : {}", self.data)?;
        }
        write!(f, " of {}", self.set)
    }
}

/// The map that a verdict's key belongs in; `None` for a key that no packet can meet (a port of a
/// protocol without ports), as [`NodeTables::decide`] never looks it up.
pub(crate) fn row_set(ports: PortKey) -> Option<SetId> {
    match ports {
        PortKey::Port(protocol, _) => protocol.has_ports().then_some(SetId::ByPort),
        PortKey::Range(protocol, _) => protocol.has_ports().then_some(SetId::ByRange),
        PortKey::AnyPort(protocol) => protocol.has_ports().then_some(SetId::ByProtocol),
        PortKey::AnyProtocol => Some(SetId::ByPeer),
    }
}

/// A class as keys of verdicts hold it.
fn word(key: PeerKey) -> u32 {
    match key {
        PeerKey::Group(GroupId::NONE) | PeerKey::Net(NetId::NONE) => NO_CLASS,
        _ => key.number(),
    }
}

fn classes(Peer { own, group }: Peer) -> Data {
    Data::Classes(word(PeerKey::Own(own)), word(PeerKey::Group(group)))
}

fn block(class: PeerId) -> Data {
    Data::Class(word(PeerKey::Own(class)))
}

fn net(class: NetId) -> Data {
    Data::Class(word(PeerKey::Net(class)))
}

/// Builders of elements, one for each kind of entry.
impl Element {
    pub(crate) fn subject(direction: Direction, address: IpAddr, class: SubjectId) -> Self {
        let set = SetId::subjects(direction, Family::of(address));
        Self { set, key: Key::Address(address), data: Data::Class(class.0) }
    }

    pub(crate) fn own(address: IpAddr) -> Self {
        let set = SetId::Own(Family::of(address));
        Self { set, key: Key::Address(address), data: Data::Nothing }
    }

    pub(crate) fn peer(address: IpAddr, peer: Peer) -> Self {
        let set = SetId::Peer(Family::of(address));
        Self { set, key: Key::Address(address), data: classes(peer) }
    }

    pub(crate) fn block(range: AddressRange, class: PeerId) -> Self {
        let set = SetId::Block(range.family());
        Self { set, key: Key::Range(range), data: block(class) }
    }

    pub(crate) fn net(range: AddressRange, class: NetId) -> Self {
        let set = SetId::Net(range.family());
        Self { set, key: Key::Range(range), data: net(class) }
    }

    pub(crate) fn row(key: VerdictKey, allow: bool) -> Option<Self> {
        let data = if allow { Data::Allow } else { Data::Deny };
        Some(Self { set: row_set(key.ports)?, key: Key::Row(key), data })
    }

    pub(crate) fn unmatched(class: SubjectId) -> Self {
        Self { set: SetId::Unmatched, key: Key::Class(class), data: Data::Nothing }
    }

    pub(crate) const STANDING: Self =
        Self { set: SetId::Standing, key: Key::Confirmed, data: Data::Nothing };

    pub(crate) fn otherwise(set: SetId) -> Option<Self> {
        Some(Self { set, key: Key::Otherwise, data: set.otherwise()? })
    }
}

/// Whether the address is a local one that is isolated in some direction.
pub(crate) fn is_subject(tables: &NodeTables, address: IpAddr) -> bool {
    [Direction::Egress, Direction::Ingress]
        .iter()
        .any(|direction| tables.subjects.contains_key(&(*direction, address)))
}

/// The classes that local addresses have and packets are counted for, that of strangers included.
pub(crate) fn subject_classes(tables: &NodeTables) -> BTreeSet<SubjectId> {
    let of_ranges = (!tables.pod_ranges.is_empty()).then_some(SubjectId::STRANGER);
    let classes = tables.subjects.values().copied().filter(|class| !class.is_open());
    classes.chain(of_ranges).collect()
}

/// The same after a change.
pub(crate) fn classes_after(model: &NodeTables, delta: &Delta) -> BTreeSet<SubjectId> {
    let changed: FxHashSet<_> = delta.subjects.iter().map(|(at, _)| at).collect();
    let stay = model.subjects.iter().filter(|(at, _)| !changed.contains(at));
    let come = delta.subjects.iter().filter_map(|(_, class)| *class);
    let classes = stay.map(|(_, class)| *class).chain(come).filter(|class| !class.is_open());
    let ranges = delta.pod_ranges.as_ref().unwrap_or(&model.pod_ranges);
    classes.chain((!ranges.is_empty()).then_some(SubjectId::STRANGER)).collect()
}

/// Every element that the tables ask for.
pub(crate) fn elements(tables: &NodeTables) -> impl Iterator<Item = Element> {
    let subjects = tables.subjects.iter().map(|((d, a), class)| Element::subject(*d, *a, *class));
    // An address with both directions stands twice in `subjects` but has one element.
    let own = tables
        .subjects
        .keys()
        .filter(|(direction, address)| {
            *direction == Direction::Egress
                || !tables.subjects.contains_key(&(Direction::Egress, *address))
        })
        .map(|(_, address)| Element::own(*address));
    let otherwise = SetId::ALL.into_iter().filter_map(Element::otherwise);
    otherwise
        .chain(tables.peers.iter().map(|(a, class)| Element::peer(*a, *class)))
        .chain(tables.blocks.iter().map(|(r, class)| Element::block(*r, *class)))
        .chain(tables.nets.iter().map(|(r, class)| Element::net(*r, *class)))
        .chain(tables.verdicts.iter().filter_map(|(key, v)| Element::row(*key, v.allow)))
        .chain(own)
        .chain(subject_classes(tables).into_iter().map(Element::unmatched))
        .chain(subjects)
}

/// How many elements each set is to have room for; `None` for ranges, which are kept in trees.
///
/// A hash of a known size neither grows nor has to be asked whether it does just now: elements go
/// in, and are found, faster. There is room for four times as many as there are; past that, the
/// table is made anew.
pub(crate) fn sizes(tables: &NodeTables) -> [(SetId, Option<u32>); SetId::ALL.len()] {
    const LEAST: u32 = 4096;
    let mut counts: FxHashMap<SetId, u32> = FxHashMap::default();
    for element in elements(tables) {
        *counts.entry(element.set).or_default() += 1;
    }
    SetId::ALL.map(|set| {
        let count = counts.get(&set).copied().unwrap_or(0);
        let size = match set {
            SetId::Standing => Some(1),
            _ if set.is_interval() => None,
            _ => Some(count.saturating_mul(4).max(LEAST)),
        };
        (set, size)
    })
}

/// How many these are, or a few more.
pub(crate) fn count(tables: &NodeTables) -> usize {
    // A local address may have its own class in its direction, and stand for itself.
    let locals = 3 * tables.subjects.len() + SetId::ALL.len();
    tables.peers.len() + tables.blocks.len() + tables.nets.len() + tables.verdicts.len() + locals
}

/// What the tables say of a key in a set; `None`: it does not belong there.
pub(crate) fn wanted(tables: &NodeTables, set: SetId, key: Key) -> Option<Data> {
    let class = |class: u32| Some(Data::Class(class));
    match (set, key) {
        (_, Key::Otherwise) => set.otherwise(),
        (SetId::Egress(_), Key::Address(address)) => {
            class(tables.subjects.get(&(Direction::Egress, address))?.0)
        }
        (SetId::Ingress(_), Key::Address(address)) => {
            class(tables.subjects.get(&(Direction::Ingress, address))?.0)
        }
        (SetId::Own(_), Key::Address(address)) => {
            is_subject(tables, address).then_some(Data::Nothing)
        }
        (SetId::Peer(_), Key::Address(address)) => tables.peers.get(&address).copied().map(classes),
        (SetId::Block(_), Key::Range(range)) => tables.blocks.get(&range).copied().map(block),
        (SetId::Net(_), Key::Range(range)) => tables.nets.get(&range).copied().map(net),
        (SetId::Unmatched, Key::Class(SubjectId::STRANGER)) => {
            (!tables.pod_ranges.is_empty()).then_some(Data::Nothing)
        }
        (SetId::Unmatched, Key::Class(class)) => {
            let has = tables.subjects.values().any(|it| *it == class);
            (has && !class.is_open()).then_some(Data::Nothing)
        }
        (_, Key::Row(row)) => {
            let allow = tables.verdicts.get(&row)?.allow;
            Some(if allow { Data::Allow } else { Data::Deny })
        }
        _ => None,
    }
}

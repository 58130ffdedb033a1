//! What does one node's kernel need to know?
//!
//! ```text
//!  packet ── local address ──▶ subject class ─────────────┐
//!     │      remote address ─▶ own class, group ─▶ (net) ──┼──▶ (subject, peer, protocol, port) ──▶ verdict, rule
//!     └───── protocol, port ──────────────────────────────┘
//!
//!  subject class   the policies that select a local pod in one direction; absent: not isolated,
//!                  unless it lies where this node's pods get their addresses from (a stranger)
//!  own class       the selectors and small CIDRs, of those that matter here, that an address meets
//!  group           the selectors of whole namespaces that a pod's namespace meets
//!  net             the large CIDRs that an address lies in
//! ```
//!
//! Three partitions that know nothing of each other: a rule for all pods or for 0.0.0.0/0 is one
//! row of its subject, however many own classes there are, and cuts none of them. Where rules only
//! add to what passes, the rows of the three are asked one after the other and the first that says
//! anything decides. A subject with rules in an order (Admin and Baseline tiers) has rows for own
//! classes and for [`PeerKey::Any`] alone, each complete: what such rules ask is asked of single
//! addresses, whole namespaces and large CIDRs included.
//!
//! The cost of a lookup does not depend on the number of policies. [`NodeTables::decide`] is the
//! written form of what both data planes do in the kernel, in the same order; property tests hold
//! it to the reference evaluator, packets hold the kernel to it.

mod delta;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use podwall_policy::address::{AddressRange, AddressSet, Family};
use podwall_policy::object::Name;
use podwall_policy::policy::{Direction, RuleRef};
use podwall_policy::port::{PortRange, Protocol};
use rustc_hash::FxHashMap;

pub use self::delta::Delta;

/// A subject class. Numbers are handed out by one compiler and mean nothing elsewhere; egress and
/// ingress classes are numbered from one space, so that a number alone says the direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubjectId(pub u32);

impl SubjectId {
    /// Isolated with no rule: for a local pod that is not compiled yet or cannot be, in either
    /// direction. No verdict ever names it.
    pub const CLOSED: Self = Self(0);

    /// Not isolated, and known: for addresses in [`NodeTables::pod_ranges`]. Others that nothing
    /// isolates have no entry. No verdict names it.
    pub const OPEN: Self = Self(u32::MAX);

    /// Isolated with no rule because nobody knows yet whose the address is. Never in a table: it is
    /// what [`NodeTables::subject`] says of an address in [`NodeTables::pod_ranges`] without an
    /// entry, and who denials and counters are about.
    pub const STRANGER: Self = Self(u32::MAX - 1);

    /// Whether nothing isolates it.
    pub fn is_open(self) -> bool {
        self == Self::OPEN
    }
}

/// What a single address meets: selectors of pods and CIDRs of few addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u32);

impl PeerId {
    /// Addresses that meet none. No verdict names it.
    pub const OTHER: Self = Self(0);
}

/// What a pod's namespace meets: selectors that take all pods of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(pub u32);

impl GroupId {
    /// Addresses that are no pod's. No verdict names it.
    pub const NONE: Self = Self(0);
}

/// What a part of the address line meets: CIDRs of many addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetId(pub u32);

impl NetId {
    /// Addresses in no such CIDR. No verdict names it.
    pub const NONE: Self = Self(0);
}

/// What is known of the address of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Peer {
    /// Its own class, which also covers the small CIDRs that it lies in.
    pub own: PeerId,
    /// The class of its namespace.
    pub group: GroupId,
}

/// Whose verdict it is. Looked up in this order; the first that has one for the packet decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PeerKey {
    /// Addresses of a class.
    Own(PeerId),
    /// Pods of namespaces of a class.
    Group(GroupId),
    /// Addresses in large CIDRs.
    Net(NetId),
    /// Whatever the peer is.
    Any,
}

impl PeerKey {
    const GROUP: u32 = 1 << 30;
    const NET: u32 = 1 << 31;

    /// The key as one number, as kernels hold it: bit 30 for groups, bit 31 for nets, all bits for
    /// any peer. A compiler hands out less than 2³⁰ numbers of each kind.
    pub fn number(self) -> u32 {
        match self {
            Self::Own(class) => class.0,
            Self::Group(class) => class.0 | Self::GROUP,
            Self::Net(class) => class.0 | Self::NET,
            Self::Any => u32::MAX,
        }
    }

    /// The key that a number stands for.
    pub fn of_number(number: u32) -> Self {
        if number == u32::MAX {
            Self::Any
        } else if number & Self::NET != 0 {
            Self::Net(NetId(number & !Self::NET))
        } else if number & Self::GROUP != 0 {
            Self::Group(GroupId(number & !Self::GROUP))
        } else {
            Self::Own(PeerId(number))
        }
    }
}

impl fmt::Display for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(class) => write!(f, "peer {}", class.0),
            Self::Group(class) => write!(f, "group {}", class.0),
            Self::Net(class) => write!(f, "net {}", class.0),
            Self::Any => f.write_str("any peer"),
        }
    }
}

/// The ports that a verdict is for. Looked up in this order; the first that is there decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PortKey {
    /// One port.
    Port(Protocol, u16),
    /// A range of at least two ports; ranges of one (subject, peer, protocol) do not overlap.
    Range(Protocol, PortRange),
    /// Every port of a protocol that nothing above names.
    AnyPort(Protocol),
    /// Every protocol and port that nothing above names, protocols without ports included.
    AnyProtocol,
}

/// The key of a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VerdictKey {
    /// Subject class, which also says the direction. Never [`SubjectId::CLOSED`].
    pub subject: SubjectId,
    /// Whose.
    pub peer: PeerKey,
    /// Protocol and ports.
    pub ports: PortKey,
}

/// The number of a policy in [`NodeTables::policies`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyId(pub u32);

/// The number of a rule in [`NodeTables::rules`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId(pub u32);

/// What happens to a packet, and which rule said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Verdict {
    /// Whether it passes this direction.
    pub allow: bool,
    /// The rule; `None` for a default (a tier that ends without a word).
    pub rule: Option<RuleId>,
}

/// Everything that one node's kernel needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeTables {
    /// Local addresses that some policy isolates, per direction; and in `pod_ranges` all that are
    /// known, with [`SubjectId::OPEN`] where nothing isolates them. Absent: that direction is open,
    /// in `pod_ranges` closed.
    pub subjects: BTreeMap<(Direction, IpAddr), SubjectId>,
    /// Where this node's pods get their addresses from: who has an address in them and is not in
    /// `subjects` in a direction is a stranger, and isolated there ([`SubjectId::STRANGER`]): a new
    /// pod's address is known only after its containers run. Empty: nobody is. A handful of CIDRs.
    pub pod_ranges: AddressSet,
    /// The addresses of all pods of the cluster, as long as any rule here asks for pods. An
    /// address's own class also covers the small CIDRs that it lies in, so `blocks` is not asked
    /// for it.
    pub peers: FxHashMap<IpAddr, Peer>,
    /// Disjoint ranges, ascending, IPv4 first, for addresses that are not in `peers`.
    pub blocks: BTreeMap<AddressRange, PeerId>,
    /// Disjoint ranges in the same order, for every address.
    pub nets: BTreeMap<AddressRange, NetId>,
    /// The verdicts, in order: all of a subject stand together, and in them all of a peer. A lookup
    /// that finds none denies.
    pub verdicts: BTreeMap<VerdictKey, Verdict>,
    /// Rule numbers to rules, for events, counters and words.
    pub rules: BTreeMap<RuleId, RuleRef>,
    /// The policies behind a subject class in order of evaluation, for words ("isolated by …").
    /// Numbers, because hundreds may stand behind each class of a busy node.
    pub isolated_by: BTreeMap<SubjectId, Arc<[PolicyId]>>,
    /// The names of the policies that stand behind some class.
    pub policies: BTreeMap<PolicyId, Name>,
}

/// A packet in the original direction of its connection, after destination NAT and before source
/// NAT. Replies and related ICMP errors never get here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Packet {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// IP protocol.
    pub protocol: Protocol,
    /// Destination port; 0 for protocols without ports.
    pub port: u16,
    /// Sent by this node itself (or a hostNetwork pod on it): ingress is not asked, nor egress of a
    /// stranger, since the node's bridge has an address among its pods'.
    pub from_node: bool,
    /// For this node itself, by whatever address: ingress is not asked.
    pub to_node: bool,
}

/// What the tables say of a packet, per direction. `None`: that direction is open on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Decision {
    /// The source's side.
    pub egress: Option<Verdict>,
    /// The destination's side.
    pub ingress: Option<Verdict>,
}

impl Decision {
    /// Whether the packet passes this node.
    pub fn passes(&self) -> bool {
        self.egress.is_none_or(|v| v.allow) && self.ingress.is_none_or(|v| v.allow)
    }
}

impl NodeTables {
    /// Decides a packet as the kernel does.
    pub fn decide(&self, packet: &Packet) -> Decision {
        let side = |direction, remote| {
            let subject = self.subject_of(packet, direction)?;
            Some(self.verdict(subject, remote, packet.protocol, packet.port))
        };
        Decision {
            egress: side(Direction::Egress, packet.dst),
            ingress: side(Direction::Ingress, packet.src),
        }
    }

    /// Who isolates a packet in a direction; `None`: nobody is asked.
    pub fn subject_of(&self, packet: &Packet, direction: Direction) -> Option<SubjectId> {
        let (local, exempt) = match direction {
            Direction::Egress => (packet.src, false),
            Direction::Ingress => (packet.dst, packet.from_node || packet.to_node),
        };
        let subject = self.subject(direction, local).filter(|_| !exempt)?;
        if subject == SubjectId::STRANGER {
            return (!packet.from_node).then_some(subject);
        }
        // A pod always reaches itself on its own address.
        (packet.src != packet.dst).then_some(subject)
    }

    /// The subject class of a local address; `None`: that direction is open.
    pub fn subject(&self, direction: Direction, local: IpAddr) -> Option<SubjectId> {
        match self.subjects.get(&(direction, local)) {
            Some(subject) => (!subject.is_open()).then_some(*subject),
            None => self.pod_ranges.contains(local).then_some(SubjectId::STRANGER),
        }
    }

    /// The own class of a remote address: the hash first, then the ranges; and its group.
    pub fn peer(&self, address: IpAddr) -> Peer {
        self.peers.get(&address).copied().unwrap_or_else(|| Peer {
            own: containing(&self.blocks, address).unwrap_or(PeerId::OTHER),
            group: GroupId::NONE,
        })
    }

    /// The large CIDRs of an address, as a class.
    pub fn net(&self, address: IpAddr) -> NetId {
        containing(&self.nets, address).unwrap_or(NetId::NONE)
    }

    /// The verdict on a packet between a subject and an address; no entry: denied.
    pub fn verdict(
        &self,
        subject: SubjectId,
        remote: IpAddr,
        protocol: Protocol,
        port: u16,
    ) -> Verdict {
        let denied = Verdict { allow: false, rule: None };
        self.lookup(subject, remote, protocol, port).map_or(denied, |(_, verdict)| verdict)
    }

    /// The entry that decides a packet between a subject and an address, if one does.
    pub fn lookup(
        &self,
        subject: SubjectId,
        remote: IpAddr,
        protocol: Protocol,
        port: u16,
    ) -> Option<(VerdictKey, Verdict)> {
        let row = |peer| self.row(subject, peer, protocol, port);
        let Peer { own, group } = self.peer(remote);
        row(PeerKey::Own(own))
            .or_else(|| row(PeerKey::Group(group)))
            .or_else(|| row(PeerKey::Net(self.net(remote))))
            .or_else(|| row(PeerKey::Any))
    }

    /// The entry that decides a packet between a subject and whoever has these classes.
    pub fn lookup_classes(
        &self,
        subject: SubjectId,
        peer: Peer,
        net: NetId,
        protocol: Protocol,
        port: u16,
    ) -> Option<(VerdictKey, Verdict)> {
        let keys = [PeerKey::Own(peer.own), PeerKey::Group(peer.group), PeerKey::Net(net)];
        let mut keys = keys.into_iter().chain([PeerKey::Any]);
        keys.find_map(|key| self.row(subject, key, protocol, port))
    }

    /// The names of the policies behind a subject class, in order of evaluation.
    pub fn names_behind(&self, subject: SubjectId) -> impl Iterator<Item = &Name> {
        let policies = self.isolated_by.get(&subject).into_iter().flat_map(|list| list.iter());
        policies.filter_map(|policy| self.policies.get(policy))
    }

    /// All verdicts of a subject.
    pub fn verdicts_of(
        &self,
        subject: SubjectId,
    ) -> impl Iterator<Item = (&VerdictKey, &Verdict)> + use<'_> {
        let row = |peer, ports| VerdictKey { subject, peer, ports };
        let first = row(PeerKey::Own(PeerId(0)), PortKey::Port(Protocol(0), 0));
        self.verdicts.range(first..=row(PeerKey::Any, PortKey::AnyProtocol))
    }

    /// All verdicts of a subject for a peer.
    pub fn verdicts_of_row(
        &self,
        subject: SubjectId,
        peer: PeerKey,
    ) -> impl Iterator<Item = (&VerdictKey, &Verdict)> + use<'_> {
        let row = |ports| VerdictKey { subject, peer, ports };
        let first = row(PortKey::Port(Protocol(0), 0));
        self.verdicts.range(first..=row(PortKey::AnyProtocol))
    }

    fn row(
        &self,
        subject: SubjectId,
        peer: PeerKey,
        protocol: Protocol,
        port: u16,
    ) -> Option<(VerdictKey, Verdict)> {
        let key = |ports| VerdictKey { subject, peer, ports };
        let get = |ports| self.verdicts.get(&key(ports)).map(|verdict| (key(ports), *verdict));
        if !protocol.has_ports() {
            return get(PortKey::AnyProtocol);
        }
        // The last range that starts at or below the port; ranges do not overlap.
        let in_range = || {
            let range = |first, last| key(PortKey::Range(protocol, PortRange { first, last }));
            let upto = range(0, 0)..=range(port, u16::MAX);
            let (found, verdict) = self.verdicts.range(upto).next_back()?;
            match found.ports {
                PortKey::Range(_, range) if range.contains(port) => Some((*found, *verdict)),
                _ => None,
            }
        };
        get(PortKey::Port(protocol, port))
            .or_else(in_range)
            .or_else(|| get(PortKey::AnyPort(protocol)))
            .or_else(|| get(PortKey::AnyProtocol))
    }

    /// Families that have a local isolated address; a data plane may leave out the other's tables.
    pub fn families(&self) -> impl Iterator<Item = Family> {
        let has = |f| {
            self.subjects.keys().any(|(_, address)| Family::of(*address) == f)
                || self.pod_ranges.ranges().iter().any(|range| range.family() == f)
        };
        Family::BOTH.into_iter().filter(move |f| has(*f))
    }
}

/// What stands for the range that an address lies in.
fn containing<T: Copy>(ranges: &BTreeMap<AddressRange, T>, address: IpAddr) -> Option<T> {
    let upto = ..=AddressRange::since(address);
    let (range, class) = ranges.range(upto).next_back()?;
    range.contains(address).then_some(*class)
}

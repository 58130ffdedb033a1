//! What does one node's kernel need to know?
//!
//! ```text
//!  packet ── local address ──▶ subject class ─┐
//!     │      remote address ─▶ peer class ────┼──▶ (subject, peer, protocol, port) ──▶ verdict, rule
//!     └───── protocol, port ──────────────────┘
//!
//!  subject class   the policies that select a local pod in one direction; absent: not isolated
//!  peer class      the selectors and CIDRs, of those that matter on this node, that an address meets
//! ```
//!
//! The cost of a lookup does not depend on the number of policies. [`NodeTables::decide`] is the
//! written form of what both data planes do in the kernel, in the same order; property tests hold
//! it to the reference evaluator, packets hold the kernel to it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use podwall_policy::address::{AddressRange, Family};
use podwall_policy::object::Name;
use podwall_policy::policy::{Direction, RuleRef};
use podwall_policy::port::{PortRange, Protocol};
use rustc_hash::FxHashMap;

/// A subject class. Numbers are handed out by one compiler and mean nothing elsewhere; egress and
/// ingress classes are numbered from one space, so that a number alone says the direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubjectId(pub u32);

impl SubjectId {
    /// Isolated with no rule: for a local pod that is not compiled yet or cannot be, in either
    /// direction. No verdict ever names it.
    pub const CLOSED: Self = Self(0);
}

/// A peer class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u32);

impl PeerId {
    /// Addresses that meet no selector and no CIDR.
    pub const OTHER: Self = Self(0);
    /// In a verdict's key: whatever the peer is. Looked up after the peer's own class.
    pub const ANY: Self = Self(u32::MAX);
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
    /// Peer class or [`PeerId::ANY`].
    pub peer: PeerId,
    /// Protocol and ports.
    pub ports: PortKey,
}

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
    /// Local addresses that some policy isolates, per direction. Absent: that direction is open.
    pub subjects: BTreeMap<(Direction, IpAddr), SubjectId>,
    /// Addresses of pods and nodes that meet a selector. Such an address's class also covers the
    /// CIDRs that it lies in, so `blocks` is not asked for it.
    pub peers: FxHashMap<IpAddr, PeerId>,
    /// Disjoint ranges, ascending, IPv4 first, for addresses that are not in `peers`.
    pub blocks: BTreeMap<AddressRange, PeerId>,
    /// The verdicts, in order: all of a subject stand together, and in them all of a peer. A lookup
    /// that finds none denies.
    pub verdicts: BTreeMap<VerdictKey, Verdict>,
    /// Rule numbers to rules, for events, counters and words.
    pub rules: BTreeMap<RuleId, RuleRef>,
    /// The policies behind a subject class, for words ("isolated by …").
    pub isolated_by: BTreeMap<SubjectId, Vec<Name>>,
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
    /// Sent by this node itself (or a hostNetwork pod on it): ingress is not asked.
    pub from_node: bool,
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
        if packet.src == packet.dst {
            return Decision::default(); // a pod always reaches itself on its own address
        }
        let side = |direction, local, remote| {
            let subject = *self.subjects.get(&(direction, local))?;
            Some(self.verdict(subject, self.peer_class(remote), packet.protocol, packet.port))
        };
        Decision {
            egress: side(Direction::Egress, packet.src, packet.dst),
            ingress: (!packet.from_node)
                .then(|| side(Direction::Ingress, packet.dst, packet.src))
                .flatten(),
        }
    }

    /// The class of a remote address: the hash first, then the ranges.
    pub fn peer_class(&self, address: IpAddr) -> PeerId {
        self.peers.get(&address).copied().unwrap_or_else(|| {
            let upto = ..=AddressRange::since(address);
            self.blocks
                .range(upto)
                .next_back()
                .filter(|(range, _)| range.contains(address))
                .map_or(PeerId::OTHER, |(_, class)| *class)
        })
    }

    /// The verdict of a (subject, peer, protocol, port): the peer's own rows, then those for any
    /// peer; none: denied.
    pub fn verdict(
        &self,
        subject: SubjectId,
        peer: PeerId,
        protocol: Protocol,
        port: u16,
    ) -> Verdict {
        let denied = Verdict { allow: false, rule: None };
        self.lookup(subject, peer, protocol, port).map_or(denied, |(_, verdict)| verdict)
    }

    /// The entry that decides a (subject, peer, protocol, port), if one does.
    pub fn lookup(
        &self,
        subject: SubjectId,
        peer: PeerId,
        protocol: Protocol,
        port: u16,
    ) -> Option<(VerdictKey, Verdict)> {
        let row = |peer| self.row(subject, peer, protocol, port);
        row(peer).or_else(|| row(PeerId::ANY))
    }

    fn row(
        &self,
        subject: SubjectId,
        peer: PeerId,
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

    /// Makes the change. After it the tables equal what a full compilation gives, class numbers
    /// aside.
    pub fn apply(&mut self, delta: &Delta) {
        for (key, class) in &delta.subjects {
            match class {
                Some(class) => drop(self.subjects.insert(*key, *class)),
                None => drop(self.subjects.remove(key)),
            }
        }
        for (address, class) in &delta.peers {
            match class {
                Some(class) => drop(self.peers.insert(*address, *class)),
                None => drop(self.peers.remove(address)),
            }
        }
        for range in &delta.blocks_removed {
            self.blocks.remove(range);
        }
        self.blocks.extend(delta.blocks_added.iter().copied());
        for (key, verdict) in &delta.verdicts {
            match verdict {
                Some(verdict) => drop(self.verdicts.insert(*key, *verdict)),
                None => drop(self.verdicts.remove(key)),
            }
        }
        for (id, rule) in &delta.rules {
            match rule {
                Some(rule) => drop(self.rules.insert(*id, rule.clone())),
                None => drop(self.rules.remove(id)),
            }
        }
        for (id, policies) in &delta.isolated_by {
            match policies {
                Some(policies) => drop(self.isolated_by.insert(*id, policies.clone())),
                None => drop(self.isolated_by.remove(id)),
            }
        }
    }

    /// Families that have a local isolated address; a data plane may leave out the other's tables.
    pub fn families(&self) -> impl Iterator<Item = Family> {
        let has = |f| self.subjects.keys().any(|(_, address)| Family::of(*address) == f);
        Family::BOTH.into_iter().filter(move |f| has(*f))
    }
}

/// A change of a node's tables: what to set (`Some`) and what to remove (`None`). Each key stands
/// at most once in its list. A data plane makes it visible to packets all at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Local addresses.
    pub subjects: Vec<((Direction, IpAddr), Option<SubjectId>)>,
    /// Remote addresses.
    pub peers: Vec<(IpAddr, Option<PeerId>)>,
    /// Ranges that go; exactly as they were added.
    pub blocks_removed: Vec<AddressRange>,
    /// Ranges that come; disjoint from all that stay. A range whose class alone changes stands in
    /// both lists.
    pub blocks_added: Vec<(AddressRange, PeerId)>,
    /// Verdicts.
    pub verdicts: Vec<(VerdictKey, Option<Verdict>)>,
    /// Rules that verdicts newly name or no longer name.
    pub rules: Vec<(RuleId, Option<RuleRef>)>,
    /// Policies behind subject classes.
    pub isolated_by: Vec<(SubjectId, Option<Vec<Name>>)>,
}

impl Delta {
    /// Whether nothing changes in the kernel.
    pub fn is_empty(&self) -> bool {
        self.subjects.is_empty()
            && self.peers.is_empty()
            && self.blocks_removed.is_empty()
            && self.blocks_added.is_empty()
            && self.verdicts.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(rows: &[(PeerId, PortKey, bool)]) -> NodeTables {
        let row = |(peer, ports, allow): &(PeerId, PortKey, bool)| {
            let key = VerdictKey { subject: SubjectId(1), peer: *peer, ports: *ports };
            (key, Verdict { allow: *allow, rule: None })
        };
        NodeTables { verdicts: rows.iter().map(row).collect(), ..NodeTables::default() }
    }

    fn passes(tables: &NodeTables, peer: PeerId, protocol: Protocol, port: u16) -> bool {
        tables.verdict(SubjectId(1), peer, protocol, port).allow
    }

    #[test]
    fn the_most_specific_entry_decides_and_the_peers_own_row_goes_first() {
        let (tcp, own) = (Protocol::TCP, PeerId(7));
        let range = |first, last| PortKey::Range(tcp, PortRange { first, last });
        let tables = tables(&[
            (own, PortKey::Port(tcp, 85), false),
            (own, range(80, 90), true),
            (own, range(100, 200), false),
            (own, PortKey::AnyPort(tcp), true),
            (own, PortKey::AnyProtocol, false),
            (PeerId::ANY, PortKey::AnyProtocol, true),
        ]);
        let table = [(84, true), (85, false), (90, true), (91, true), (150, false), (201, true)];
        for (port, expected) in table {
            assert_eq!(passes(&tables, own, tcp, port), expected, "port {port}");
        }
        assert!(!passes(&tables, own, Protocol::UDP, 85));
        assert!(!passes(&tables, own, Protocol::ICMP, 0));
        assert!(passes(&tables, PeerId::OTHER, Protocol::UDP, 85));
    }

    #[test]
    fn protocols_without_ports_meet_only_entries_for_every_protocol() {
        let tables = tables(&[(PeerId::ANY, PortKey::AnyPort(Protocol::TCP), true)]);
        assert!(passes(&tables, PeerId(7), Protocol::TCP, 0));
        assert!(!passes(&tables, PeerId(7), Protocol::ICMP, 0));
    }

    #[test]
    fn an_address_has_the_class_of_its_pod_before_that_of_its_range() {
        let net: ipnet::IpNet = "10.0.0.0/8".parse().unwrap();
        let at = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut tables = NodeTables::default();
        tables.blocks.insert(AddressRange::from(net), PeerId(1));
        tables.peers.insert(at("10.0.0.1"), PeerId(2));
        assert_eq!(tables.peer_class(at("10.0.0.1")), PeerId(2));
        assert_eq!(tables.peer_class(at("10.0.0.0")), PeerId(1));
        assert_eq!(tables.peer_class(at("11.0.0.0")), PeerId::OTHER);
        assert_eq!(tables.peer_class(at("::a00:1")), PeerId::OTHER);
    }
}

//! Which protocols and ports?
//!
//! ```text
//!   PortSpec      what a rule says        TCP 80 · UDP 53 · TCP 8000-8999 · TCP http · SCTP (any)
//!   PortSet       what it comes to        { TCP: 80, 8000-8999; UDP: 53 } · everything
//! ```
//!
//! A name is resolved against the container ports of the flow's *destination* pod (API document,
//! `NetworkPolicyPort.port`); a name that the pod does not have matches nothing.

use std::fmt;
use std::sync::Arc;

/// An IP protocol number. Policies can name TCP, UDP and SCTP; packets can carry any.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP for IPv4.
    pub const ICMP: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// ICMP for IPv6.
    pub const ICMPV6: Self = Self(58);
    /// SCTP.
    pub const SCTP: Self = Self(132);

    /// The three that a NetworkPolicy can name, and that have ports.
    pub const WITH_PORTS: [Self; 3] = [Self::TCP, Self::UDP, Self::SCTP];

    /// Whether packets of this protocol have a destination port.
    pub fn has_ports(self) -> bool {
        Self::WITH_PORTS.contains(&self)
    }

    /// The protocol of an API object: exactly `TCP`, `UDP` or `SCTP`.
    pub fn from_api(name: &str) -> Option<Self> {
        match name {
            "TCP" => Some(Self::TCP),
            "UDP" => Some(Self::UDP),
            "SCTP" => Some(Self::SCTP),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TCP => f.write_str("TCP"),
            Self::UDP => f.write_str("UDP"),
            Self::SCTP => f.write_str("SCTP"),
            Self::ICMP => f.write_str("ICMP"),
            Self::ICMPV6 => f.write_str("ICMPv6"),
            Self(number) => write!(f, "protocol {number}"),
        }
    }
}

impl fmt::Debug for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// An inclusive range of ports, `first <= last`. Port 0 is never in the range of a policy (the API
/// server refuses it) but a packet can carry it; only "any port" covers that.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    /// Lowest port, inclusive.
    pub first: u16,
    /// Highest port, inclusive.
    pub last: u16,
}

impl PortRange {
    /// Every port.
    pub const ALL: Self = Self { first: 0, last: u16::MAX };

    /// One port.
    pub fn one(port: u16) -> Self {
        Self { first: port, last: port }
    }

    /// Ports `first` to `last`; `None` if the range is turned round.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// Whether the port lies in the range.
    pub fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl fmt::Debug for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// One item of a rule's `ports`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortSpec {
    /// TCP where the manifest says nothing (API server default).
    pub protocol: Protocol,
    /// Which ports of that protocol.
    pub port: PortMatch,
}

/// The `port`/`endPort` part of a [`PortSpec`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PortMatch {
    /// No `port`: every port of the protocol.
    Any,
    /// A number, or a number with `endPort`.
    Range(PortRange),
    /// A container port's name, resolved on the destination pod.
    Named(Arc<str>),
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.port {
            PortMatch::Any => write!(f, "{} (any port)", self.protocol),
            PortMatch::Range(range) => write!(f, "{} {range}", self.protocol),
            PortMatch::Named(name) => write!(f, "{} \"{name}\"", self.protocol),
        }
    }
}

/// A port that a container declares.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerPort {
    /// `name`, if it has one; several containers may reuse a name with another protocol.
    pub name: Option<Arc<str>>,
    /// `containerPort`, 1 to 65535.
    pub number: u16,
    /// TCP where the manifest says nothing.
    pub protocol: Protocol,
}

/// A set of (protocol, port) pairs. `other` stands for every protocol without ports (ICMP, GRE, …).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct PortSet {
    tcp: Ranges,
    udp: Ranges,
    sctp: Ranges,
    other: bool,
}

/// Sorted, disjoint, non-adjacent ranges.
type Ranges = Vec<PortRange>;

impl PortSet {
    /// Nothing.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Every protocol and port.
    pub fn everything() -> Self {
        let all = || vec![PortRange::ALL];
        Self { tcp: all(), udp: all(), sctp: all(), other: true }
    }

    /// One range of one protocol. For a protocol without ports: all such protocols.
    pub fn range(protocol: Protocol, range: PortRange) -> Self {
        let mut set = Self::empty();
        match set.ranges_mut(protocol) {
            Some(ranges) => ranges.push(range),
            None => set.other = true,
        }
        set
    }

    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        !self.other && self.tcp.is_empty() && self.udp.is_empty() && self.sctp.is_empty()
    }

    /// Whether every protocol and port is in the set.
    pub fn is_everything(&self) -> bool {
        self.other && [&self.tcp, &self.udp, &self.sctp].iter().all(|ranges| is_all(ranges))
    }

    /// Whether protocols without ports are in the set.
    pub fn has_other_protocols(&self) -> bool {
        self.other
    }

    /// Whether a packet of this protocol and port is in the set. The port is ignored for protocols
    /// that have none.
    pub fn contains(&self, protocol: Protocol, port: u16) -> bool {
        match self.ranges(protocol) {
            Some(ranges) => ranges.iter().any(|r| r.contains(port)),
            None => self.other,
        }
    }

    /// The ranges of TCP, UDP and SCTP, in that order, each sorted and disjoint.
    pub fn iter(&self) -> impl Iterator<Item = (Protocol, PortRange)> {
        let of = |protocol, ranges: &Ranges| {
            ranges.clone().into_iter().map(move |range| (protocol, range))
        };
        of(Protocol::TCP, &self.tcp)
            .chain(of(Protocol::UDP, &self.udp))
            .chain(of(Protocol::SCTP, &self.sctp))
    }

    /// What is in either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a || b)
    }

    /// What is in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a && b)
    }

    /// What is in this set and not in the other.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a && !b)
    }

    fn ranges(&self, protocol: Protocol) -> Option<&Ranges> {
        match protocol {
            Protocol::TCP => Some(&self.tcp),
            Protocol::UDP => Some(&self.udp),
            Protocol::SCTP => Some(&self.sctp),
            _ => None,
        }
    }

    fn ranges_mut(&mut self, protocol: Protocol) -> Option<&mut Ranges> {
        match protocol {
            Protocol::TCP => Some(&mut self.tcp),
            Protocol::UDP => Some(&mut self.udp),
            Protocol::SCTP => Some(&mut self.sctp),
            _ => None,
        }
    }

    fn combine(&self, other: &Self, keep: impl Fn(bool, bool) -> bool + Copy) -> Self {
        Self {
            tcp: combine(&self.tcp, &other.tcp, keep),
            udp: combine(&self.udp, &other.udp, keep),
            sctp: combine(&self.sctp, &other.sctp, keep),
            other: keep(self.other, other.other),
        }
    }
}

fn is_all(ranges: &Ranges) -> bool {
    **ranges == [PortRange::ALL]
}

/// Merges two sorted lists over the port line: a boundary is any port where either list changes.
fn combine(a: &Ranges, b: &Ranges, keep: impl Fn(bool, bool) -> bool) -> Ranges {
    // Mostly one of them is empty or everything; then the other decides as a whole.
    for (known, other, with) in [(a, b, true), (b, a, false)] {
        if !known.is_empty() && !is_all(known) {
            continue;
        }
        let here = !known.is_empty();
        let keep = |there| if with { keep(here, there) } else { keep(there, here) };
        match (keep(false), keep(true)) {
            (false, false) => return Ranges::new(),
            (true, true) => return vec![PortRange::ALL],
            (false, true) => return other.clone(),
            (true, false) => {}
        }
    }
    let mut cuts: Vec<u32> = [a, b]
        .into_iter()
        .flatten()
        .flat_map(|r| [u32::from(r.first), u32::from(r.last) + 1])
        .chain([0, u32::from(u16::MAX) + 1])
        .collect();
    cuts.sort_unstable();
    cuts.dedup();
    let mut out: Ranges = Vec::new();
    for pair in cuts.windows(2) {
        let (Ok(first), Ok(last)) = (u16::try_from(pair[0]), u16::try_from(pair[1] - 1)) else {
            continue;
        };
        // Ranges of a set are in order.
        let within = |list: &Ranges| {
            let next = list.partition_point(|range| range.first <= first);
            next > 0 && list[next - 1].contains(first)
        };
        if keep(within(a), within(b)) {
            match out.last_mut() {
                Some(before) if u32::from(before.last) + 1 == pair[0] => before.last = last,
                _ => out.push(PortRange { first, last }),
            }
        }
    }
    out
}

impl fmt::Display for PortSet {
    /// `TCP 80,443; UDP 53`, `everything`, `nothing`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_everything() {
            return f.write_str("everything");
        }
        if self.is_empty() {
            return f.write_str("nothing");
        }
        let mut separator = "";
        for protocol in Protocol::WITH_PORTS {
            let Some(ranges) = self.ranges(protocol).filter(|r| !r.is_empty()) else { continue };
            write!(f, "{separator}{protocol}")?;
            if *ranges != [PortRange::ALL] {
                for (i, range) in ranges.iter().enumerate() {
                    write!(f, "{}{range}", if i == 0 { " " } else { "," })?;
                }
            }
            separator = "; ";
        }
        if self.other {
            write!(f, "{separator}other protocols")?;
        }
        Ok(())
    }
}

impl fmt::Debug for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tcp(first: u16, last: u16) -> PortSet {
        PortSet::range(Protocol::TCP, PortRange::new(first, last).unwrap())
    }

    #[test]
    fn sets_print_for_people() {
        assert_eq!(PortSet::everything().to_string(), "everything");
        assert_eq!(PortSet::empty().to_string(), "nothing");
        let set = tcp(80, 80)
            .union(&tcp(81, 90))
            .union(&PortSet::range(Protocol::UDP, PortRange::ALL))
            .union(&tcp(443, 443));
        assert_eq!(set.to_string(), "TCP 80-90,443; UDP");
        assert_eq!(
            PortSet::everything().difference(&tcp(5, 5)).to_string(),
            "TCP 0-4,6-65535; UDP; SCTP; other protocols"
        );
    }

    fn any_set() -> impl Strategy<Value = PortSet> {
        let edge = prop_oneof![0u16..6, 65530u16..=65535];
        let range = (edge.clone(), edge, 0usize..4);
        prop::collection::vec(range, 0..5).prop_map(|items| {
            items.into_iter().fold(PortSet::empty(), |set, (a, b, protocol)| {
                let protocol =
                    [Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol::ICMP][protocol];
                let range = PortRange { first: a.min(b), last: a.max(b) };
                set.union(&PortSet::range(protocol, range))
            })
        })
    }

    proptest! {
        #[test]
        fn set_algebra_is_pointwise(a in any_set(), b in any_set()) {
            let (or, and, minus) = (a.union(&b), a.intersection(&b), a.difference(&b));
            for protocol in [Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol::ICMP] {
                for port in (0..8).chain(65528..=65535) {
                    let (x, y) = (a.contains(protocol, port), b.contains(protocol, port));
                    prop_assert_eq!(or.contains(protocol, port), x || y);
                    prop_assert_eq!(and.contains(protocol, port), x && y);
                    prop_assert_eq!(minus.contains(protocol, port), x && !y);
                }
            }
            prop_assert_eq!(minus.union(&and), a);
        }
    }
}

//! Which addresses does a block cover?
//!
//! ```text
//!   IpBlock 10.0.0.0/8 except 10.1.0.0/16
//!   line    ──────■■■■■■■■■▁▁▁▁■■■■■■■■──────     two ranges, exact; another rule may still
//!                 10.0/8   10.1     10.255        allow the hole (policies are additive)
//! ```

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// IPv4 or IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, IPv4 first.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::V4 { "IPv4" } else { "IPv6" })
    }
}

/// An `ipBlock`: a CIDR without its exceptions.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IpBlock {
    /// Host bits cleared: stored objects may carry them (10.161.0.0/8).
    pub cidr: IpNet,
    /// Each strictly inside `cidr` in a valid object; one that is outside has no effect.
    pub except: Vec<IpNet>,
}

impl IpBlock {
    /// A block; clears host bits, and reads IPv4 written as IPv6 (`::ffff:10.0.0.0/104`) as the
    /// IPv4 block that it is: new objects may not carry either, stored ones may (KEP-4858).
    pub fn new(cidr: IpNet, except: impl IntoIterator<Item = IpNet>) -> Self {
        Self { cidr: canonical(cidr), except: except.into_iter().map(canonical).collect() }
    }

    /// Whether the block covers the address. A block never covers an address of the other family:
    /// `0.0.0.0/0` is not "any".
    pub fn contains(&self, address: IpAddr) -> bool {
        self.cidr.contains(&address) && !self.except.iter().any(|net| net.contains(&address))
    }

    /// The block as sorted disjoint ranges of one family.
    pub fn ranges(&self) -> AddressSet {
        self.except
            .iter()
            .fold(AddressSet::from(self.cidr), |set, net| set.difference(&AddressSet::from(*net)))
    }
}

impl fmt::Display for IpBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cidr)?;
        for (i, net) in self.except.iter().enumerate() {
            write!(f, "{}{net}", if i == 0 { " except " } else { ", " })?;
        }
        Ok(())
    }
}

impl fmt::Debug for IpBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Without host bits, and IPv4 as IPv4.
fn canonical(net: IpNet) -> IpNet {
    match net.trunc() {
        IpNet::V6(v6) => v6
            .addr()
            .to_ipv4_mapped()
            .zip(v6.prefix_len().checked_sub(96))
            .and_then(|(v4, prefix)| IpNet::new(v4.into(), prefix).ok())
            .unwrap_or(IpNet::V6(v6)),
        v4 @ IpNet::V4(_) => v4,
    }
}

/// An inclusive range of addresses of one family.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AddressRange {
    // As addresses, which sort as their families and numbers do and take less room.
    first: IpAddr,
    last: IpAddr,
}

impl AddressRange {
    /// All addresses of a family.
    pub fn all(family: Family) -> Self {
        Self { first: address(family, 0), last: address(family, highest(family)) }
    }

    /// The addresses from `first` to `last` as numbers: 32 bits of them for IPv4. `None` if the
    /// range is turned round or leaves the family.
    pub fn from_bits(family: Family, first: u128, last: u128) -> Option<Self> {
        (first <= last && last <= highest(family))
            .then(|| Self { first: address(family, first), last: address(family, last) })
    }

    /// Lowest and highest address as numbers.
    pub fn bits(&self) -> (u128, u128) {
        (bits(self.first), bits(self.last))
    }

    /// One address.
    pub fn one(address: IpAddr) -> Self {
        Self { first: address, last: address }
    }

    /// From `address` to the family's last. In the order of ranges it comes after every range that
    /// starts at or below `address`, so it bounds a search for the one that holds it.
    pub fn since(address: IpAddr) -> Self {
        Self { first: address, ..Self::all(Family::of(address)) }
    }

    /// The range's family.
    pub fn family(&self) -> Family {
        Family::of(self.first)
    }

    /// Lowest address.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// Highest address, inclusive.
    pub fn last(&self) -> IpAddr {
        self.last
    }

    /// Whether the address lies in the range.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.first <= address && address <= self.last
    }

    /// Whether a range that does not start before this one overlaps it or comes right behind it.
    fn meets(&self, next: &Self) -> bool {
        let behind = bits(self.last).checked_add(1);
        self.family() == next.family()
            && (next.first <= self.last || behind == Some(bits(next.first)))
    }

    /// The fewest CIDRs that cover exactly this range, in ascending order.
    pub fn cidrs(&self) -> Vec<IpNet> {
        match (self.first(), self.last()) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                ipnet::Ipv4Subnets::new(first, last, 0).map(IpNet::V4).collect()
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => {
                ipnet::Ipv6Subnets::new(first, last, 0).map(IpNet::V6).collect()
            }
            _ => Vec::new(),
        }
    }
}

impl From<IpNet> for AddressRange {
    fn from(net: IpNet) -> Self {
        Self { first: net.network(), last: net.broadcast() }
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first())
        } else {
            write!(f, "{}-{}", self.first(), self.last())
        }
    }
}

impl fmt::Debug for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A set of addresses of both families: sorted, disjoint, non-adjacent ranges.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub struct AddressSet(Vec<AddressRange>);

impl AddressSet {
    /// No address.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Every address of both families.
    pub fn everything() -> Self {
        Self(Family::BOTH.map(AddressRange::all).to_vec())
    }

    /// The ranges, IPv4 before IPv6, ascending.
    pub fn ranges(&self) -> &[AddressRange] {
        &self.0
    }

    /// Whether the set has no address.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the address is in the set.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|range| range.contains(address))
    }

    /// Whether every address of the set is in the other.
    pub fn is_within(&self, other: &Self) -> bool {
        self.difference(other).is_empty()
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

    /// Walks the address line once per family; a cut is any place where either set changes.
    fn combine(&self, other: &Self, keep: impl Fn(bool, bool) -> bool) -> Self {
        let mut out: Vec<AddressRange> = Vec::new();
        for family in Family::BOTH {
            let of = |set: &Self| -> Vec<(u128, u128)> {
                let ranges = set.0.iter().filter(|range| range.family() == family);
                ranges.map(AddressRange::bits).collect()
            };
            let (a, b) = (of(self), of(other));
            let end = highest(family);
            let cuts = a.iter().chain(&b);
            let cuts = cuts.flat_map(|(first, last)| [Some(*first), last.checked_add(1)]).flatten();
            let mut starts: Vec<u128> =
                std::iter::once(0).chain(cuts).filter(|start| *start <= end).collect();
            starts.sort_unstable();
            starts.dedup();
            let within = |list: &[(u128, u128)], at: u128| {
                let next = list.partition_point(|(first, _)| *first <= at);
                next > 0 && at <= list[next - 1].1
            };
            let mut kept: Vec<(u128, u128)> = Vec::new();
            for (i, first) in starts.iter().copied().enumerate() {
                let last = starts.get(i + 1).map_or(end, |next| next - 1);
                if keep(within(&a, first), within(&b, first)) {
                    match kept.last_mut() {
                        Some((_, before)) if before.checked_add(1) == Some(first) => *before = last,
                        _ => kept.push((first, last)),
                    }
                }
            }
            out.extend(
                kept.into_iter()
                    .filter_map(|(first, last)| AddressRange::from_bits(family, first, last)),
            );
        }
        Self(out)
    }
}

impl From<IpNet> for AddressSet {
    fn from(net: IpNet) -> Self {
        Self(vec![AddressRange::from(net)])
    }
}

impl From<AddressRange> for AddressSet {
    fn from(range: AddressRange) -> Self {
        Self(vec![range])
    }
}

impl FromIterator<AddressRange> for AddressSet {
    /// All addresses of these ranges, which may overlap and come in any order.
    fn from_iter<I: IntoIterator<Item = AddressRange>>(ranges: I) -> Self {
        let mut ranges: Vec<AddressRange> = ranges.into_iter().collect();
        ranges.sort_unstable();
        let mut out: Vec<AddressRange> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match out.last_mut() {
                Some(before) if before.meets(&range) => before.last = before.last.max(range.last),
                _ => out.push(range),
            }
        }
        Self(out)
    }
}

/// The family's last address as a number.
fn highest(family: Family) -> u128 {
    if family == Family::V4 { u128::from(u32::MAX) } else { u128::MAX }
}

/// The address as a number: 32 bits of it for IPv4.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn address(family: Family, bits: u128) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits(bits as u32).into(),
        Family::V6 => Ipv6Addr::from_bits(bits).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn a_block_is_its_cidr_without_the_exceptions() {
        let block = IpBlock::new(net("10.161.0.0/8"), [net("10.1.0.0/16")]);
        assert_eq!(block.to_string(), "10.0.0.0/8 except 10.1.0.0/16");
        assert!(block.contains("10.0.255.255".parse().unwrap()));
        assert!(!block.contains("10.1.0.0".parse().unwrap()));
        assert!(!block.contains("11.0.0.0".parse().unwrap()));
        assert!(!block.contains("::ffff:10.0.0.1".parse().unwrap()));
        let ranges: Vec<_> = block.ranges().ranges().iter().map(ToString::to_string).collect();
        assert_eq!(ranges, ["10.0.0.0-10.0.255.255", "10.2.0.0-10.255.255.255"]);
    }

    #[test]
    fn a_range_comes_back_from_its_numbers_and_stays_in_its_family() {
        let range = AddressRange::from(net("10.0.0.0/30"));
        let (first, last) = range.bits();
        assert_eq!(AddressRange::from_bits(Family::V4, first, last), Some(range));
        assert_eq!(AddressRange::from_bits(Family::V4, last, first), None);
        assert_eq!(AddressRange::from_bits(Family::V4, 0, 1 << 32), None);
        assert!(AddressRange::from_bits(Family::V6, 0, 1 << 32).is_some());
    }

    #[test]
    fn everything_without_a_range_comes_back_as_cidrs() {
        let set = AddressSet::everything().difference(&AddressSet::from(net("128.0.0.0/1")));
        assert_eq!(set.ranges()[0].cidrs(), [net("0.0.0.0/1")]);
        assert_eq!(set.ranges()[1].cidrs(), [net("::/0")]);
    }

    fn any_net() -> impl Strategy<Value = IpNet> {
        let v4 = (0u32..8, 28u8..=32).prop_map(|(a, len)| {
            IpNet::new(Ipv4Addr::from_bits(0x0a00_0000 | a).into(), len).unwrap()
        });
        let v6 = (0u128..8, 124u8..=128)
            .prop_map(|(a, len)| IpNet::new(Ipv6Addr::from_bits(a).into(), len).unwrap());
        prop_oneof![v4, v6, Just(net("0.0.0.0/0")), Just(net("::/0"))]
    }

    proptest! {
        #[test]
        fn set_algebra_is_pointwise(a in prop::collection::vec(any_net(), 0..4), b in prop::collection::vec(any_net(), 0..4)) {
            let set = |nets: &[IpNet]| nets.iter().fold(AddressSet::empty(), |s, n| s.union(&(*n).into()));
            let (x, y) = (set(&a), set(&b));
            let probes = (0u32..12).map(|i| IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 | i)))
                .chain((0u128..12).map(|i| IpAddr::from(Ipv6Addr::from_bits(i))))
                .chain(["255.255.255.255".parse().unwrap(), "ffff::".parse().unwrap()]);
            for probe in probes {
                let (in_a, in_b) = (a.iter().any(|n| n.contains(&probe)), b.iter().any(|n| n.contains(&probe)));
                prop_assert_eq!(x.union(&y).contains(probe), in_a || in_b);
                prop_assert_eq!(x.intersection(&y).contains(probe), in_a && in_b);
                prop_assert_eq!(x.difference(&y).contains(probe), in_a && !in_b);
            }
            prop_assert_eq!(x.is_within(&y), x.union(&y) == y);
            let together: AddressSet = a.iter().chain(&b).map(|n| AddressRange::from(*n)).collect();
            prop_assert_eq!(together, x.union(&y));
            let cidrs: Vec<IpNet> = x.ranges().iter().flat_map(AddressRange::cidrs).collect();
            prop_assert_eq!(set(&cidrs), x);
        }
    }
}

//! Which blocks cover which part of the address line?
//!
//! ```text
//!   block 1   ──────■■■■■■■■■■■■■■──────
//!   block 2   ──────────────■■■■■■■■■■──
//!   segments        [  1  ][ 1,2 ][ 2 ]        disjoint; equal neighbours are one
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use podwall_policy::address::{AddressRange, AddressSet, Family};

use crate::atoms::AtomId;

/// Where a segment starts.
pub(crate) type Start = (Family, u128);

/// A stretch of the address line that the same blocks cover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Its last address.
    last: u128,
    /// The blocks, sorted; at least one.
    pub(crate) atoms: Arc<[AtomId]>,
}

/// The address line. Owned by the compiler.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    line: BTreeMap<Start, Segment>,
    /// What stood where since the last [`Segments::take_changes`].
    before: BTreeMap<Start, Option<Segment>>,
}

/// What became of a start: the segment before and after.
pub(crate) type SegmentChange = (Start, Option<Segment>, Option<Segment>);

impl Segment {
    /// The segment as a range.
    pub(crate) fn range(&self, start: Start) -> Option<AddressRange> {
        AddressRange::from_bits(start.0, start.1, self.last)
    }
}

/// A start as an address.
pub(crate) fn start_address((family, bits): Start) -> IpAddr {
    match family {
        // The line of a family ends where its addresses end.
        Family::V4 => Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or(u32::MAX)).into(),
        Family::V6 => Ipv6Addr::from_bits(bits).into(),
    }
}

fn point(address: IpAddr) -> Start {
    (Family::of(address), AddressRange::one(address).bits().0)
}

impl Segments {
    /// The segment that starts at an address.
    pub(crate) fn starting_at(&self, address: IpAddr) -> Option<&Segment> {
        self.line.get(&point(address))
    }

    /// The blocks that cover an address.
    pub(crate) fn at(&self, address: IpAddr) -> &[AtomId] {
        let (family, bits) = point(address);
        self.line
            .range((family, 0)..=(family, bits))
            .next_back()
            .filter(|(_, segment)| bits <= segment.last)
            .map_or(&[], |(_, segment)| &segment.atoms)
    }

    /// Covers a set of addresses with a block.
    pub(crate) fn add(&mut self, set: &AddressSet, atom: AtomId) {
        for range in set.ranges() {
            let (first, last) = range.bits();
            self.cut(range);
            let inside: Vec<(u128, Segment)> = self.inside(range);
            let mut cursor = Some(first);
            for (start, segment) in inside {
                if let Some(gap) = cursor.filter(|gap| *gap < start) {
                    self.set(
                        (range.family(), gap),
                        Some(Segment { last: start - 1, atoms: [atom].into() }),
                    );
                }
                cursor = segment.last.checked_add(1);
                let mut atoms = segment.atoms.to_vec();
                if let Err(at) = atoms.binary_search(&atom) {
                    atoms.insert(at, atom);
                }
                self.set((range.family(), start), Some(Segment { atoms: atoms.into(), ..segment }));
            }
            if let Some(gap) = cursor.filter(|gap| *gap <= last) {
                self.set((range.family(), gap), Some(Segment { last, atoms: [atom].into() }));
            }
        }
    }

    /// Takes a block away from where it was added.
    pub(crate) fn remove(&mut self, set: &AddressSet, atom: AtomId) {
        for range in set.ranges() {
            self.cut(range);
            for (start, segment) in self.inside(range) {
                let atoms: Vec<AtomId> =
                    segment.atoms.iter().copied().filter(|its| *its != atom).collect();
                let left = (!atoms.is_empty()).then(|| Segment { atoms: atoms.into(), ..segment });
                self.set((range.family(), start), left);
            }
        }
    }

    /// Makes equal neighbours one, and says what changed since the last time.
    pub(crate) fn take_changes(&mut self) -> Vec<SegmentChange> {
        let starts: Vec<Start> = self.before.keys().copied().collect();
        for start in starts {
            self.join_with_next(start);
            let before = self.line.range((start.0, 0)..start).next_back().map(|(start, _)| *start);
            if let Some(before) = before {
                self.join_with_next(before);
            }
        }
        std::mem::take(&mut self.before)
            .into_iter()
            .map(|(start, before)| (start, before, self.line.get(&start).cloned()))
            .filter(|(_, before, after)| before != after)
            .collect()
    }

    fn join_with_next(&mut self, start: Start) {
        let Some(segment) = self.line.get(&start) else { return };
        let Some(next) = segment.last.checked_add(1).map(|bits| (start.0, bits)) else { return };
        if let Some(other) = self.line.get(&next)
            && other.atoms == segment.atoms
        {
            let joined = Segment { last: other.last, atoms: segment.atoms.clone() };
            self.set(next, None);
            self.set(start, Some(joined));
        }
    }

    /// Makes sure that no segment reaches over an end of the range.
    fn cut(&mut self, range: &AddressRange) {
        let (first, last) = range.bits();
        for at in [Some(first), last.checked_add(1)].into_iter().flatten() {
            let family = range.family();
            let across = self
                .line
                .range((family, 0)..(family, at))
                .next_back()
                .filter(|(_, segment)| at <= segment.last)
                .map(|(start, segment)| (*start, segment.clone()));
            if let Some((start, segment)) = across {
                self.set(start, Some(Segment { last: at - 1, ..segment.clone() }));
                self.set((family, at), Some(segment));
            }
        }
    }

    fn inside(&self, range: &AddressRange) -> Vec<(u128, Segment)> {
        let ((first, last), family) = (range.bits(), range.family());
        self.line
            .range((family, first)..=(family, last))
            .map(|((_, start), segment)| (*start, segment.clone()))
            .collect()
    }

    fn set(&mut self, start: Start, segment: Option<Segment>) {
        let before = match segment {
            Some(segment) => self.line.insert(start, segment),
            None => self.line.remove(&start),
        };
        self.before.entry(start).or_insert(before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use podwall_policy::address::IpBlock;
    use proptest::prelude::*;

    fn set(text: &str, except: &[&str]) -> AddressSet {
        IpBlock::new(text.parse().unwrap(), except.iter().map(|net| net.parse().unwrap())).ranges()
    }

    fn show(segments: &Segments) -> Vec<String> {
        segments
            .line
            .iter()
            .map(|(start, s)| {
                format!(
                    "{} {:?}",
                    s.range(*start).unwrap(),
                    s.atoms.iter().map(|a| a.0).collect::<Vec<_>>()
                )
            })
            .collect()
    }

    #[test]
    fn blocks_cut_the_line_and_equal_neighbours_join_again() {
        let mut line = Segments::default();
        line.add(&set("10.0.0.0/30", &["10.0.0.1/32"]), AtomId(1));
        line.add(&set("10.0.0.1/32", &[]), AtomId(1));
        line.take_changes();
        assert_eq!(show(&line), ["10.0.0.0-10.0.0.3 [1]"]);
        line.add(&set("10.0.0.2/31", &[]), AtomId(2));
        let changes = line.take_changes();
        assert_eq!(show(&line), ["10.0.0.0-10.0.0.1 [1]", "10.0.0.2-10.0.0.3 [1, 2]"]);
        assert_eq!(changes.len(), 2);
        line.remove(&set("10.0.0.2/31", &[]), AtomId(2));
        line.take_changes();
        assert_eq!(show(&line), ["10.0.0.0-10.0.0.3 [1]"]);
        line.remove(&set("0.0.0.0/0", &[]), AtomId(1));
        assert!(show(&line).is_empty());
    }

    #[test]
    fn what_comes_and_goes_between_two_looks_is_no_change() {
        let mut line = Segments::default();
        line.add(&set("0.0.0.0/0", &[]), AtomId(1));
        line.add(&set("::/0", &[]), AtomId(1));
        line.take_changes();
        line.add(&set("10.0.0.0/8", &["10.1.0.0/16"]), AtomId(2));
        line.remove(&set("10.0.0.0/8", &["10.1.0.0/16"]), AtomId(2));
        assert_eq!(line.take_changes(), []);
    }

    fn any_set() -> impl Strategy<Value = AddressSet> {
        prop::collection::vec((0u32..16, 28u8..=32, any::<bool>()), 1..4).prop_map(|nets| {
            nets.into_iter().fold(AddressSet::empty(), |all, (bits, len, v6)| {
                let net = if v6 {
                    format!("::{bits:x}/{}", len + 96)
                } else {
                    format!("255.255.255.{}/{len}", 240 + bits)
                };
                let net: ipnet::IpNet = net.parse().unwrap();
                all.union(&AddressSet::from(net))
            })
        })
    }

    proptest! {
        #[test]
        fn every_address_has_the_blocks_that_cover_it(
            steps in prop::collection::vec(prop::collection::vec((0usize..6, any_set()), 1..4), 1..8)
        ) {
            let mut line = Segments::default();
            let mut blocks: BTreeMap<usize, AddressSet> = BTreeMap::new();
            for step in steps {
                let start = line.line.clone();
                for (id, set) in step {
                    let atom = AtomId(u32::try_from(id).unwrap());
                    match blocks.remove(&id) {
                        Some(old) => line.remove(&old, atom),
                        None => {
                            line.add(&set, atom);
                            blocks.insert(id, set);
                        }
                    }
                }
                let mut replayed = start;
                for (start, before, after) in line.take_changes() {
                    prop_assert_eq!(replayed.get(&start), before.as_ref());
                    match after {
                        Some(segment) => { replayed.insert(start, segment); }
                        None => { replayed.remove(&start); }
                    }
                }
                prop_assert_eq!(&replayed, &line.line);
                for bits in 0..20u32 {
                    for address in [
                        IpAddr::from(Ipv4Addr::from_bits(u32::MAX - bits)),
                        IpAddr::from(Ipv6Addr::from_bits(u128::from(bits))),
                    ] {
                        let expected: Vec<u32> = blocks.iter()
                            .filter(|(_, set)| set.contains(address))
                            .map(|(id, _)| u32::try_from(*id).unwrap())
                            .collect();
                        let found: Vec<u32> = line.at(address).iter().map(|a| a.0).collect();
                        prop_assert_eq!(found, expected);
                    }
                }
                let list: Vec<_> = line.line.iter().collect();
                for pair in list.windows(2) {
                    let ((a, b), (sa, sb)) = ((pair[0].0, pair[1].0), (pair[0].1, pair[1].1));
                    let touching = a.0 == b.0 && sa.last.checked_add(1) == Some(b.1);
                    prop_assert!(a.0 != b.0 || sa.last < b.1);
                    prop_assert!(!(touching && sa.atoms == sb.atoms));
                }
            }
        }
    }
}

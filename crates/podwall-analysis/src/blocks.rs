//! Which blocks hold this address, without asking each of them?
//!
//! ```text
//!   address ──cut to /8, /16, /24, /32──▶ blocks with that very CIDR ──▶ those that do not except it
//! ```
//!
//! Policies use few lengths of prefixes, so that an address is looked up a dozen times however many
//! blocks there are.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;
use podwall_policy::address::{Family, IpBlock};

/// Blocks, by their CIDRs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Blocks {
    list: Vec<IpBlock>,
    by_cidr: HashMap<IpNet, Vec<u32>>,
    /// The lengths of prefixes that some block of IPv4, IPv6 has.
    lengths: [BTreeSet<u8>; 2],
}

impl Blocks {
    /// These blocks; they are numbered as they come.
    pub(crate) fn new(list: Vec<IpBlock>) -> Self {
        let mut blocks = Self { list, ..Self::default() };
        for (number, block) in (0u32..).zip(&blocks.list) {
            blocks.by_cidr.entry(block.cidr).or_default().push(number);
            let family = usize::from(Family::of(block.cidr.addr()) == Family::V6);
            blocks.lengths[family].insert(block.cidr.prefix_len());
        }
        blocks
    }

    /// The blocks.
    pub(crate) fn list(&self) -> &[IpBlock] {
        &self.list
    }

    /// The number of a block.
    pub(crate) fn number(&self, block: &IpBlock) -> Option<u32> {
        let twins = self.by_cidr.get(&block.cidr)?.iter().copied();
        twins.into_iter().find(|number| self.list.get(*number as usize) == Some(block))
    }

    /// The numbers of the blocks that hold an address, ascending.
    pub(crate) fn of(&self, address: IpAddr) -> Vec<u32> {
        let family = usize::from(Family::of(address) == Family::V6);
        let cut = |length: &u8| IpNet::new(address, *length).ok().map(|net| net.trunc());
        let cidrs = self.lengths[family].iter().filter_map(cut);
        let mut found: Vec<u32> = cidrs
            .filter_map(|net| self.by_cidr.get(&net))
            .flatten()
            .copied()
            .filter(|number| self.list[*number as usize].contains(address))
            .collect();
        found.sort_unstable();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_finds_what_asking_each_block_finds() {
        let block = |cidr: &str, except: &[&str]| {
            IpBlock::new(cidr.parse().unwrap(), except.iter().map(|net| net.parse().unwrap()))
        };
        let blocks = Blocks::new(vec![
            block("0.0.0.0/0", &["10.0.0.0/8"]),
            block("10.1.0.0/16", &["10.1.2.0/24", "10.1.3.3/32"]),
            block("10.1.0.0/16", &[]),
            block("10.1.2.3/32", &[]),
            block("::/0", &[]),
            block("2001:db8::/32", &["2001:db8:1::/48"]),
        ]);
        let mut found = BTreeSet::new();
        for text in ["9.9.9.9", "10.0.0.1", "10.1.1.1", "10.1.2.3", "10.1.2.4", "10.1.3.3", "::1"]
            .into_iter()
            .chain(["2001:db8::1", "2001:db8:1::1"])
        {
            let address: IpAddr = text.parse().unwrap();
            let all = (0u32..).zip(blocks.list());
            let expected: Vec<u32> =
                all.filter(|(_, block)| block.contains(address)).map(|(i, _)| i).collect();
            assert_eq!(blocks.of(address), expected, "{text}");
            found.insert(expected);
        }
        assert!(found.len() >= 6, "{found:?}");
    }
}

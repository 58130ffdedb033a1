//! Which addresses outside of the cluster can make a difference?
//!
//! ```text
//!   10.0.0.0/8 except 10.1.0.0/16 ──▶ 10.0.0.1 (in the block), 10.1.0.1 (in its hole)
//!   the rest of the world         ──▶ 203.0.113.7
//! ```

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use podwall_policy::address::{AddressSet, Family, IpBlock};
use podwall_policy::cluster::Cluster;
use podwall_policy::policy::{Direction, Peer};

use crate::plan;

/// The address that stands for "the internet" where no policy names another one: documentation
/// ranges (RFC 5737, RFC 3849), so nobody's.
pub const INTERNET: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 7)),
];

/// Addresses outside of the cluster that can make a difference: one for each block that policies
/// name and for each exception, those asked for, and one for the rest of the world.
pub fn addresses(cluster: &Cluster, externals: &[IpAddr], families: &[Family]) -> Vec<IpAddr> {
    let mut chosen: BTreeSet<IpAddr> = externals.iter().copied().chain(INTERNET).collect();
    let rules = cluster
        .policies
        .values()
        .flat_map(|policy| Direction::BOTH.into_iter().filter_map(|d| policy.rules(d)).flatten());
    let blocks: BTreeSet<&IpBlock> = rules
        .flat_map(|rule| &rule.peers)
        .filter_map(|peer| match peer {
            Peer::Block(block) => Some(block),
            Peer::Pods(_) => None,
        })
        .collect();
    let inside = cluster_addresses();
    for block in blocks {
        let holes = block.except.iter().map(|net| AddressSet::from(*net));
        for set in std::iter::once(block.ranges()).chain(holes) {
            let free = set.difference(&inside);
            if !chosen.iter().any(|address| free.contains(*address)) {
                chosen
                    .extend(free.ranges().first().map(|range| usable(range.first(), range.last())));
            }
        }
    }
    chosen.retain(|a| families.contains(&Family::of(*a)) && !inside.contains(*a));
    chosen.into_iter().collect()
}

/// The second address of a range that has one: the first may be a network's own.
pub(super) fn usable(first: IpAddr, last: IpAddr) -> IpAddr {
    let next = match first {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits().saturating_add(1)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits().saturating_add(1)).into(),
    };
    if next <= last { next } else { first }
}

/// Pods, Services and nodes; and what is nobody's on any network.
fn cluster_addresses() -> AddressSet {
    let reserved = [
        "10.244.0.0/16",
        "10.96.0.0/12",
        "172.18.0.0/16",
        "0.0.0.0/8",
        "127.0.0.0/8",
        "169.254.1.0/24",
        "224.0.0.0/3",
        "fd00:10:244::/48",
        "fd00:10:96::/112",
        "fd00:172:18::/64",
        "::/127",
        "fe80::/10",
        "ff00::/8",
        "::ffff:0:0/96",
    ];
    debug_assert_eq!(plan::cluster_cidrs(plan::Families::Dual).len(), 2);
    reserved
        .iter()
        .filter_map(|net| net.parse().ok())
        .fold(AddressSet::empty(), |set, net: ipnet::IpNet| set.union(&AddressSet::from(net)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use podwall_policy::policy::{Policy, Rule};
    use podwall_policy::selector::Selector;

    fn mk_cluster(blocks: &[(&str, &[&str])]) -> Cluster {
        let mut cluster = Cluster::default();
        let mut policy = Policy::network_policy("default", "p", Selector::everything());
        let peers = blocks
            .iter()
            .map(|(cidr, except)| {
                let except: Vec<ipnet::IpNet> = except.iter().map(|e| e.parse().unwrap()).collect();
                Peer::Block(IpBlock::new(cidr.parse().unwrap(), except))
            })
            .collect();
        policy.ingress = Some(vec![Rule::allow(peers, Vec::new())]);
        cluster.put_policy(policy);
        cluster
    }

    #[test]
    fn every_block_and_every_exception_has_an_address_that_tells_it_apart() {
        let cluster = mk_cluster(&[
            ("192.168.1.100/32", &[]),
            ("10.0.0.0/24", &[]),
            ("0.0.0.0/0", &["8.8.0.0/16"]),
            ("10.244.0.0/16", &[]),
        ]);
        let text: Vec<String> = addresses(&cluster, &["9.9.9.9".parse().unwrap()], &Family::BOTH)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            text,
            ["8.8.0.1", "9.9.9.9", "10.0.0.1", "192.168.1.100", "203.0.113.7", "2001:db8:113::7"]
        );
    }
}

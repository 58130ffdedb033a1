//! Which addresses outside of the cluster can policies tell apart?
//!
//! ```text
//!   ipBlocks      10.0.0.0/8 except 10.1.0.0/16          192.168.1.100/32
//!   line      ─────────■■■■■■■■■▁▁▁▁■■■■■■■■──────────────────│─────────
//!   class          0      1      0      1          0          2     0
//! ```
//!
//! Two addresses that lie in the same blocks are the same to every rule, so one question for each
//! class answers for all its addresses. Addresses of pods and nodes are not taken out: who asks
//! about such an address asks about the pod, who reads "0.0.0.0/0" reads "anybody outside". But a
//! class is never asked about by such an address, and one that has no other is no class.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::LazyLock;

use ipnet::IpNet;
use podwall_policy::address::{AddressRange, AddressSet, Family, IpBlock};
use podwall_policy::cluster::Cluster;
use podwall_policy::object::Phase;
use podwall_policy::policy::{Direction, Peer, Policy};

use crate::blocks::Blocks;

/// Addresses that no rule can tell apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// All of one family.
    pub family: Family,
    /// The addresses.
    pub addresses: AddressSet,
    /// One of them, to ask the evaluator with.
    pub example: IpAddr,
}

/// Every distinct ipBlock of every policy, sorted.
pub fn blocks(cluster: &Cluster) -> Vec<IpBlock> {
    blocks_of(cluster.policies.values())
}

/// Every distinct ipBlock of these policies, sorted.
pub fn blocks_of<'p>(policies: impl IntoIterator<Item = &'p Policy>) -> Vec<IpBlock> {
    let mut blocks = BTreeSet::new();
    for policy in policies {
        for direction in Direction::BOTH {
            for rule in policy.rules(direction).unwrap_or_default() {
                for peer in &rule.peers {
                    if let Peer::Block(block) = peer {
                        blocks.insert(block.clone());
                    }
                }
            }
        }
    }
    blocks.into_iter().collect()
}

/// Every address that a pod or a node has: not outside.
pub fn taken(cluster: &Cluster) -> BTreeSet<IpAddr> {
    let pods = cluster.pods.values().filter(|pod| pod.phase == Phase::Alive);
    let nodes = cluster.nodes.values().flat_map(|node| &node.addresses);
    pods.flat_map(|pod| &pod.ips).chain(nodes).copied().collect()
}

/// Ranges that are no one's on the internet: private, shared, link-local, for documentation, and the
/// like (the registries of RFC 6890, what is not globally reachable).
const SPECIAL: [&str; 16] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/3",
    "2001::/23",
    "2001:db8::/32",
];

/// The addresses of the internet proper.
pub fn public() -> AddressSet {
    static PUBLIC: LazyLock<AddressSet> = LazyLock::new(|| {
        let nets = ["0.0.0.0/0", "2000::/3"].iter().filter_map(|net| net.parse::<IpNet>().ok());
        let all = nets.fold(AddressSet::empty(), |all, net| all.union(&AddressSet::from(net)));
        let special = SPECIAL.iter().filter_map(|net| net.parse::<IpNet>().ok());
        special.fold(all, |rest, net| rest.difference(&AddressSet::from(net)))
    });
    PUBLIC.clone()
}

/// The classes of all addresses, IPv4 first, in the order of their lowest address.
pub fn classes(blocks: &[IpBlock], taken: &BTreeSet<IpAddr>) -> Vec<Class> {
    classes_within(blocks, &AddressSet::everything(), taken)
}

/// The classes of the addresses of a set.
pub fn classes_within(
    blocks: &[IpBlock],
    within: &AddressSet,
    taken: &BTreeSet<IpAddr>,
) -> Vec<Class> {
    let blocks = Blocks::new(blocks.to_vec());
    let mut out: Vec<Class> = Vec::new();
    for family in Family::BOTH {
        let mut index: HashMap<Vec<u32>, usize> = HashMap::new();
        let mut members: Vec<Vec<AddressRange>> = Vec::new();
        for range in segments(blocks.list(), within, family) {
            let next = members.len();
            let at = *index.entry(blocks.of(range.first())).or_insert(next);
            if at == next {
                members.push(Vec::new());
            }
            members[at].push(range);
        }
        out.extend(members.into_iter().map(|ranges| Class {
            family,
            example: ranges[0].first(),
            addresses: ranges.into_iter().collect(),
        }));
    }
    out.retain_mut(|class| match example(&class.addresses, class.family, taken) {
        Some(example) => {
            class.example = example;
            true
        }
        None => false,
    });
    out
}

/// The family's line, cut wherever a block or an exception begins or ends.
fn segments(blocks: &[IpBlock], within: &AddressSet, family: Family) -> Vec<AddressRange> {
    let mut starts: BTreeSet<IpAddr> = BTreeSet::new();
    let of_family = |net: &&IpNet| Family::of(net.addr()) == family;
    for net in
        blocks.iter().flat_map(|b| std::iter::once(&b.cidr).chain(&b.except)).filter(of_family)
    {
        starts.insert(net.network());
        starts.extend(after(net.broadcast()));
    }
    let starts: Vec<IpAddr> = starts.into_iter().collect();
    let mut out = Vec::new();
    for range in within.ranges().iter().filter(|r| r.family() == family) {
        // Cut at each start that lies in it.
        let inside = starts.partition_point(|start| *start <= range.first())
            ..starts.partition_point(|start| *start <= range.last());
        let (mut first, last) = range.bits();
        for start in &starts[inside] {
            let (cut, _) = AddressRange::one(*start).bits();
            out.extend(AddressRange::from_bits(family, first, cut - 1));
            first = cut;
        }
        out.extend(AddressRange::from_bits(family, first, last));
    }
    out
}

/// The next address, if there is one.
fn after(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => Some(IpAddr::V4(v4.to_bits().checked_add(1)?.into())),
        IpAddr::V6(v6) => Some(IpAddr::V6(v6.to_bits().checked_add(1)?.into())),
    }
}

/// An address that reads like one of the internet, where the class has one ("203.0.113.1" says
/// more than "0.0.0.0"), else its second or first that nobody has. Never a loopback address if
/// there is another: such packets do not leave the pod.
fn example(addresses: &AddressSet, family: Family, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    let known: [&str; 3] = match family {
        Family::V4 => ["203.0.113.1", "8.8.8.8", "10.0.0.1"],
        Family::V6 => ["2001:db8::1", "2606:4700::1111", "fd00::1"],
    };
    let known = known.iter().filter_map(|text| text.parse::<IpAddr>().ok());
    let second = addresses.ranges().first().and_then(|range| after(range.first()));
    let mut good = known.chain(second).filter(|a| addresses.contains(*a) && !taken.contains(a));
    good.find(|address| !address.is_loopback()).or_else(|| {
        let ranges = addresses.ranges().iter();
        // At most one step more than there are taken addresses.
        let free = |range: &AddressRange| {
            std::iter::successors(Some(range.first()), |address| after(*address))
                .take_while(|address| range.contains(*address))
                .find(|address| !taken.contains(address))
        };
        let free: Vec<IpAddr> = ranges.filter_map(free).collect();
        free.iter().find(|address| !address.is_loopback()).or(free.first()).copied()
    })
}

/// How a set of addresses is shown to people: its CIDRs, or, where those are many, the smallest
/// CIDR around them and what it holds besides.
pub fn describe(addresses: &AddressSet) -> String {
    const SHORT: usize = 3;
    let mut parts = Vec::new();
    for family in Family::BOTH {
        let own = addresses.intersection(&AddressSet::from(AddressRange::all(family)));
        if own.is_empty() {
            continue;
        }
        let cidrs = cidrs(&own);
        let around = around(&own).filter(|_| cidrs.len() > SHORT);
        let lacking = around.map(|net| self::cidrs(&AddressSet::from(net).difference(&own)));
        parts.push(match (around, lacking) {
            (Some(net), Some(lacking)) if lacking.len() < cidrs.len() => {
                format!("{net} except {}", shorten(&lacking))
            }
            _ => shorten(&cidrs),
        });
    }
    parts.join("; ")
}

/// The smallest CIDR that holds all addresses of a set of one family.
pub(crate) fn around(addresses: &AddressSet) -> Option<IpNet> {
    let ranges = addresses.ranges();
    let (first, last) = (ranges.first()?.first(), ranges.last()?.last());
    let mut net = IpNet::from(first);
    while !net.contains(&last) {
        net = net.supernet()?;
    }
    Some(net.trunc())
}

fn shorten(list: &[String]) -> String {
    const SHOWN: usize = 4;
    if list.len() > SHOWN + 1 {
        format!("{} and {} more", list[..SHOWN].join(", "), list.len() - SHOWN)
    } else {
        list.join(", ")
    }
}

/// The fewest CIDRs that cover exactly these addresses, IPv4 first, ascending.
pub fn cidrs(addresses: &AddressSet) -> Vec<String> {
    addresses.ranges().iter().flat_map(AddressRange::cidrs).map(|net| net.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(cidr: &str, except: &[&str]) -> IpBlock {
        IpBlock::new(cidr.parse().unwrap(), except.iter().map(|net| net.parse().unwrap()))
    }

    #[test]
    fn without_blocks_a_family_is_one_class() {
        let found: Vec<_> =
            classes(&[], &BTreeSet::new()).iter().map(|c| describe(&c.addresses)).collect();
        assert_eq!(found, ["0.0.0.0/0", "::/0"]);
    }

    #[test]
    fn addresses_in_the_same_blocks_are_one_class() {
        let blocks = [block("10.0.0.0/8", &["10.1.0.0/16"]), block("192.168.1.100/32", &[])];
        let found: Vec<_> =
            classes(&blocks, &BTreeSet::new()).iter().map(|c| describe(&c.addresses)).collect();
        assert_eq!(found.len(), 4);
        assert!(found[0].starts_with("0.0.0.0/0 except 10.0.0.0/16, "), "{}", found[0]);
        assert_eq!(found[1], "10.0.0.0/8 except 10.1.0.0/16");
        assert_eq!(found[2..], ["192.168.1.100/32", "::/0"]);
    }

    #[test]
    fn classes_are_disjoint_cover_everything_and_hold_their_example() {
        let blocks = [
            block("10.0.0.0/8", &["10.1.0.0/16", "10.2.3.0/24"]),
            block("10.1.128.0/17", &[]),
            block("0.0.0.0/0", &["255.255.255.255/32"]),
            block("2001:db8::/32", &["2001:db8:1::/48"]),
        ];
        let classes = classes(&blocks, &BTreeSet::new());
        let mut all = AddressSet::empty();
        for class in &classes {
            assert!(all.intersection(&class.addresses).is_empty());
            all = all.union(&class.addresses);
            assert!(class.addresses.contains(class.example), "{class:?}");
            for block in &blocks {
                let inside = class.addresses.intersection(&block.ranges());
                assert!(inside.is_empty() || inside == class.addresses, "{block} cuts {class:?}");
            }
        }
        assert_eq!(all, AddressSet::everything());
    }

    #[test]
    fn a_question_about_a_part_stays_within_it() {
        let within = AddressSet::from("10.0.0.0/23".parse::<IpNet>().unwrap());
        let found = classes_within(&[block("10.0.0.0/24", &[])], &within, &BTreeSet::new());
        let found: Vec<_> = found.iter().map(|c| describe(&c.addresses)).collect();
        assert_eq!(found, ["10.0.0.0/24", "10.0.1.0/24"]);
    }

    #[test]
    fn an_address_of_a_pod_never_stands_for_the_outside() {
        let blocks = [block("10.9.0.0/30", &[]), block("10.9.0.8/32", &[])];
        let taken = ["10.9.0.0", "10.9.0.1", "10.9.0.8"].map(|a| a.parse().unwrap());
        let found = classes(&blocks, &taken.into_iter().collect());
        let examples: Vec<String> = found.iter().map(|c| c.example.to_string()).collect();
        assert_eq!(examples, ["203.0.113.1", "10.9.0.2", "2001:db8::1"]);
    }
}

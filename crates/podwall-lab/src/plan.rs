//! Which address does everything in a lab get?
//!
//! ```text
//!   nodes     172.18.0.N+1     fd00:172:18::N+1      N = 1, 2, …
//!   pods      10.244.N.0/24    fd00:10:244:N::/64    .1 is the node's gateway, pods from .2
//!   Services  10.96.0.0/12     fd00:10:96::/112      kube-dns has .10
//!   outside   everything else
//! ```
//!
//! The ranges are those of kubeadm's and kind's documentation, so that addresses look familiar, and
//! they keep clear of the blocks that people write into policies most often (10.0.0.0/16,
//! 192.168.0.0/16).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use podwall_policy::address::Family;
use serde::{Deserialize, Serialize};

/// The most nodes that a lab can have: one /24 each.
pub const MAX_NODES: u32 = 200;

/// The address of the lab's name server Service, as clusters have it by habit.
pub const DNS_SERVICE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0xa)),
];

/// First and last port that NodePort Services get (kube-apiserver's default range).
pub const NODE_PORTS: std::ops::RangeInclusive<u16> = 30000..=32767;

/// Which address families a lab speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Families {
    /// IPv4 alone.
    V4,
    /// IPv6 alone.
    V6,
    /// Both.
    #[default]
    Dual,
}

impl Families {
    /// The families, IPv4 first.
    pub fn list(self) -> &'static [Family] {
        match self {
            Self::V4 => &[Family::V4],
            Self::V6 => &[Family::V6],
            Self::Dual => &Family::BOTH,
        }
    }

    /// Whether the lab speaks this one.
    pub fn has(self, family: Family) -> bool {
        self.list().contains(&family)
    }
}

/// The addresses of node number `n` (from 1).
pub fn node_addresses(n: u32, families: Families) -> Vec<IpAddr> {
    let host = n + 1; // .1 is the fabric's bridge
    let of = |family: &Family| match family {
        Family::V4 => IpAddr::from(Ipv4Addr::from_bits(0xac12_0000 + host)),
        Family::V6 => IpAddr::from(Ipv6Addr::new(0xfd00, 0x172, 0x18, 0, 0, 0, 0, host as u16)),
    };
    families.list().iter().map(of).collect()
}

/// The pod CIDRs of node number `n` (from 1, at most [`MAX_NODES`]).
pub fn pod_cidrs(n: u32, families: Families) -> Vec<IpNet> {
    let of = |family: &Family| -> IpNet {
        match family {
            Family::V4 => {
                let base = Ipv4Addr::from_bits(0x0af4_0000 + (n << 8));
                Ipv4Net::new_assert(base, 24).into()
            }
            Family::V6 => {
                let base = Ipv6Addr::new(0xfd00, 0x10, 0x244, n as u16, 0, 0, 0, 0);
                Ipv6Net::new_assert(base, 64).into()
            }
        }
    };
    families.list().iter().map(of).collect()
}

/// The ranges that hold every node's pods.
pub fn cluster_cidrs(families: Families) -> Vec<IpNet> {
    let of = |family: &Family| -> IpNet {
        match family {
            Family::V4 => Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16).into(),
            Family::V6 => {
                let base = Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0);
                Ipv6Net::new_assert(base, 48).into()
            }
        }
    };
    families.list().iter().map(of).collect()
}

/// The ranges that hold every Service.
pub fn service_cidrs(families: Families) -> Vec<IpNet> {
    let of = |family: &Family| -> IpNet {
        match family {
            Family::V4 => Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 12).into(),
            Family::V6 => {
                let base = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0);
                Ipv6Net::new_assert(base, 112).into()
            }
        }
    };
    families.list().iter().map(of).collect()
}

/// The first free host address of a pod CIDR, from .2 on; `None` when the node is full.
pub fn free_pod_address(cidr: IpNet, used: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    // A node's range is never larger than a /24's worth of pods, also for IPv6.
    (2..=254).map(|host| nth(cidr.network(), host)).find(|address| !used.contains(address))
}

/// The first free Service address of a family; .1 and .10 are spoken for.
pub fn free_service_address(family: Family, used: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    let base = match family {
        Family::V4 => IpAddr::from(Ipv4Addr::new(10, 96, 0, 0)),
        Family::V6 => IpAddr::from(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0)),
    };
    (11..=65_534).map(|host| nth(base, host)).find(|address| !used.contains(address))
}

/// The first free node port.
pub fn free_node_port(used: &BTreeSet<u16>) -> Option<u16> {
    NODE_PORTS.into_iter().find(|port| !used.contains(port))
}

fn nth(base: IpAddr, host: u32) -> IpAddr {
    match base {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() + host).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() + u128::from(host)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_is_as_the_module_says() {
        let text = |addresses: &[IpAddr]| -> Vec<String> {
            addresses.iter().map(ToString::to_string).collect()
        };
        assert_eq!(text(&node_addresses(1, Families::Dual)), ["172.18.0.2", "fd00:172:18::2"]);
        assert_eq!(pod_cidrs(3, Families::V4)[0].to_string(), "10.244.3.0/24");
        assert_eq!(pod_cidrs(3, Families::V6)[0].to_string(), "fd00:10:244:3::/64");
        assert_eq!(text(&DNS_SERVICE), ["10.96.0.10", "fd00:10:96::a"]);
        for n in [1, 2, MAX_NODES] {
            for (cidr, cluster) in
                pod_cidrs(n, Families::Dual).iter().zip(cluster_cidrs(Families::Dual))
            {
                assert!(cluster.contains(cidr), "{cidr} in {cluster}");
            }
        }
    }

    #[test]
    fn addresses_are_handed_out_once_and_a_full_node_says_so() {
        let cidr = pod_cidrs(1, Families::V4)[0];
        let mut used = BTreeSet::new();
        while let Some(address) = free_pod_address(cidr, &used) {
            assert!(cidr.contains(&address) && used.insert(address));
        }
        assert_eq!(used.len(), 253);
        let gateway: IpAddr = "10.244.1.1".parse().unwrap();
        assert!(!used.contains(&gateway));
    }
}

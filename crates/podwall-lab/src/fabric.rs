//! What does the lab's network look like, and how does it come to be so?
//!
//! ```text
//!   fabric's own namespace          fab0 ─┬─ eth0 of node-1   172.18.0.2   routes to every node's
//!                                         ├─ eth0 of node-2   172.18.0.3   pods, default: outside
//!                                         └─ eth0 of outside  172.18.0.254 owns all other addresses
//!   node, ptp      vethX ── eth0 of pod   host route; the pod's gateway is 169.254.1.1 / fe80::1
//!   node, bridge   cni0 ─┬─ eth0 of pod   the node's pod range on one Linux bridge, gateway .1
//!                        └─ eth0 of pod
//! ```
//!
//! Everybody's neighbours are told, not asked for: the kernel keeps 1024 that it has learned for *all*
//! namespaces of the machine (`net.ipv4.neigh.default.gc_thresh3`), too few for a hundred pods on
//! bridges, and entries made by hand do not count.
//!
//! Every step can be made again: a worker that takes over walks the same path and finds what exists.
//! Pods are plugged in two steps, so that the firewall can be programmed in between.

pub mod foreign;
mod pods;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use podwall_policy::address::Family;
use podwall_policy::object::Node;
use thiserror::Error;

use pods::PodNet;

use crate::link::{Batch, End, LinkError, Links, Mac, Route, RouteKind};
use crate::netns::{NetNs, NetNsError};
use crate::plan::{self, Families};
use crate::rpc::{LabConfig, NetworkMode};
use crate::sysctl::{self, SysctlError};

/// The outside's address among the nodes.
pub(crate) const OUTSIDE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(172, 18, 0, 254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x172, 0x18, 0, 0, 0, 0, 0xfe)),
];

/// A pod's next hop on point-to-point links; answered for by nobody, known by its MAC address.
const PTP_GATEWAY: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)),
];

/// The node's end of every point-to-point link.
const GATEWAY_MAC: Mac = Mac([0xee; 6]);

/// The node's bridge, as the `bridge` plugin calls it by default.
const BRIDGE: &str = "cni0";

/// Why the network could not be made.
#[derive(Debug, Error)]
pub enum FabricError {
    /// A namespace.
    #[error(transparent)]
    NetNs(#[from] NetNsError),
    /// An interface, address or route.
    #[error("{place}: {source}")]
    Link {
        /// Which node or pod.
        place: String,
        /// What went wrong.
        source: LinkError,
    },
    /// A kernel setting.
    #[error("{place}: {source}")]
    Sysctl {
        /// Which node or pod.
        place: String,
        /// What went wrong.
        source: SysctlError,
    },
    /// The directory of the namespaces' names.
    #[error("cannot use {}: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The rules of Services.
    #[error("node {node}: the Services' rules cannot be loaded: {reason}")]
    Services {
        /// The node.
        node: String,
        /// What `nft` said.
        reason: String,
    },
}

/// A pod to be plugged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPlug {
    /// Names the pod's namespace: its UID.
    pub id: String,
    /// The node that it runs on.
    pub node: String,
    /// Its addresses, at most one of each family.
    pub ips: Vec<IpAddr>,
}

/// The network of one lab. Owned by the engine; namespaces and interfaces are the kernel's and
/// outlive it.
#[derive(Debug)]
pub struct Fabric {
    /// Where namespaces have their names.
    dir: PathBuf,
    mode: NetworkMode,
    families: Families,
    /// Of the fabric's own namespace.
    links: Links,
    nodes: BTreeMap<String, NodeNet>,
    pods: BTreeMap<String, PodNet>,
}

/// A node, as the fabric holds it.
#[derive(Debug)]
struct NodeNet {
    ns: NetNs,
    links: Links,
    addresses: Vec<IpAddr>,
    cidrs: Vec<IpNet>,
    eth0: u32,
}

fn link_error(place: &str) -> impl FnOnce(LinkError) -> FabricError + '_ {
    move |source| FabricError::Link { place: place.to_owned(), source }
}

// === impl Fabric ===

impl Fabric {
    /// Makes or finds the fabric and the outside. The calling thread is in the fabric's namespace.
    pub fn open(inside: &Path, config: &LabConfig) -> Result<Self, FabricError> {
        let dir = Self::namespaces(inside);
        fs::create_dir_all(&dir)
            .map_err(|source| FabricError::Directory { path: dir.clone(), source })?;
        let links = Links::here().map_err(link_error("fabric"))?;
        links
            .change(Batch::new().bridge("fab0", mac_of("fab0")).up("lo").up("fab0"))
            .map_err(link_error("fabric"))?;
        let fabric = Self {
            dir,
            mode: config.network,
            families: config.families,
            links,
            nodes: BTreeMap::new(),
            pods: BTreeMap::new(),
        };
        fabric.ensure_outside()?;
        Ok(fabric)
    }

    /// The namespace that is mounted under a name; made if it is not there.
    fn ensure_ns(&self, name: &str) -> Result<NetNs, FabricError> {
        let path = self.dir.join(name);
        // A creation that was cut off leaves a plain file.
        match NetNs::open(&path) {
            Ok(ns) if ns.within(|| ()).is_ok() => Ok(ns),
            _ => {
                NetNs::unlink(&path)?;
                Ok(NetNs::create(&path)?)
            }
        }
    }

    /// Attaches a namespace's eth0 to the fabric's bridge.
    fn attach(&self, name: &str, ns: &NetNs, links: &Links) -> Result<u32, FabricError> {
        let error = || link_error(name);
        if links.find("eth0").map_err(error())?.is_none() {
            let port = port_name(name);
            let near = End { name: &port, index: 0, mac: None, ns: None };
            let far = End { name: "eth0", index: 0, mac: Some(mac_of(name)), ns: Some(ns.as_fd()) };
            self.links
                .change(Batch::new().delete_link(&port))
                .and_then(|()| self.links.change(Batch::new().veth(&near, &far)))
                .map_err(error())?;
        }
        let bridge = self.links.index("fab0").map_err(error())?;
        let port = port_name(name);
        self.links.change(Batch::new().port(&port, bridge).up(&port)).map_err(error())?;
        links.change(Batch::new().up("lo").up("eth0")).map_err(error())?;
        self.links.await_link(&port).map_err(error())?;
        links.index("eth0").map_err(error())
    }

    /// The outside: reached by every node's default route, it owns every address that nobody else
    /// has ("AnyIP"), and it knows the way to all pods.
    fn ensure_outside(&self) -> Result<(), FabricError> {
        let ns = self.ensure_ns("outside")?;
        let links = Links::of(&ns).map_err(link_error("outside"))?;
        settle(&ns, "outside", self.families, None)?;
        let eth0 = self.attach("outside", &ns, &links)?;
        let lo = links.index("lo").map_err(link_error("outside"))?;
        let mut batch = Batch::new();
        for family in self.families.list() {
            let all = AddressOf(*family).everything();
            let any = Route { kind: RouteKind::Local, ..Route::link(all, lo) };
            batch = batch.address(eth0, on_fabric(AddressOf(*family).outside())).route(any);
        }
        // The cluster's own addresses are not the outside's, even where nobody has them: a port
        // that a Service does not have must not be answered here.
        let cluster = plan::cluster_cidrs(self.families).into_iter();
        for to in cluster.chain(plan::service_cidrs(self.families)) {
            let none = RouteKind::Unreachable;
            batch = batch.route(Route { to, via: None, dev: None, src: None, kind: none });
        }
        links.change(batch).map_err(link_error("outside"))
    }

    /// Makes or finds a node, and the routes between it and all others.
    pub fn ensure_node(&mut self, node: &Node) -> Result<(), FabricError> {
        let name = &*node.name;
        if self.nodes.contains_key(name) {
            return Ok(());
        }
        let file = node_file(name);
        let ns = self.ensure_ns(&file)?;
        let links = Links::of(&ns).map_err(link_error(name))?;
        settle(&ns, name, self.families, Some(self.mode))?;
        let eth0 = self.attach(&file, &ns, &links)?;
        let mut batch = Batch::new();
        for address in &node.addresses {
            batch = batch.address(eth0, on_fabric(*address));
        }
        for family in self.families.list() {
            let family = AddressOf(*family);
            batch = batch.neighbour(eth0, family.outside(), mac_of("outside")).route(Route::via(
                family.everything(),
                family.outside(),
                eth0,
            ));
        }
        links.change(batch).map_err(link_error(name))?;
        if self.mode == NetworkMode::Bridge {
            links
                .change(Batch::new().bridge(BRIDGE, mac_of(&file)).up(BRIDGE))
                .map_err(link_error(name))?;
            let cni0 = links.index(BRIDGE).map_err(link_error(name))?;
            let gateways = node.pod_cidrs.iter().filter_map(|cidr| gateway(*cidr));
            let batch = gateways.fold(Batch::new(), |batch, net| batch.address(cni0, net));
            links.change(batch).map_err(link_error(name))?;
        }
        links.await_addresses(&node.addresses).map_err(link_error(name))?;
        let net = NodeNet {
            ns,
            links,
            addresses: node.addresses.clone(),
            cidrs: node.pod_cidrs.clone(),
            eth0,
        };
        self.join(name, &net)?;
        self.nodes.insert(name.to_owned(), net);
        Ok(())
    }

    /// Routes and neighbours between a new node and everybody.
    fn join(&self, name: &str, new: &NodeNet) -> Result<(), FabricError> {
        let towards = |name: &str, to: &NodeNet, dev: u32| -> Batch {
            let mac = mac_of(&node_file(name));
            let known = to
                .addresses
                .iter()
                .fold(Batch::new(), |batch, address| batch.neighbour(dev, *address, mac));
            to.cidrs.iter().fold(known, |batch, cidr| {
                match address_of_family(&to.addresses, *cidr) {
                    Some(via) => batch.route(Route::via(*cidr, via, dev)),
                    None => batch,
                }
            })
        };
        for (other, net) in &self.nodes {
            net.links.change(towards(name, new, net.eth0)).map_err(link_error(other))?;
            new.links.change(towards(other, net, new.eth0)).map_err(link_error(name))?;
        }
        let outside = Links::of(&self.outside()?).map_err(link_error("outside"))?;
        let eth0 = outside.index("eth0").map_err(link_error("outside"))?;
        outside.change(towards(name, new, eth0)).map_err(link_error("outside"))
    }

    /// The IDs of all pods that have a namespace.
    pub fn pods(&self) -> Result<Vec<String>, FabricError> {
        let error = |source| FabricError::Directory { path: self.dir.clone(), source };
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(error)? {
            let name = entry.map_err(error)?.file_name();
            ids.extend(name.to_str().and_then(|n| n.strip_prefix("pod-")).map(ToOwned::to_owned));
        }
        Ok(ids)
    }

    /// A handle to a pod's namespace.
    pub fn pod(&self, id: &str) -> Result<NetNs, FabricError> {
        Ok(NetNs::open(&self.pod_path(id))?)
    }

    /// The file that names a pod's namespace.
    pub fn pod_path(&self, id: &str) -> PathBuf {
        self.dir.join(format!("pod-{id}"))
    }

    /// A handle to a node's namespace.
    pub fn node(&self, name: &str) -> Result<NetNs, FabricError> {
        Ok(NetNs::open(&self.node_path(name))?)
    }

    /// Where namespaces have their names.
    fn namespaces(inside: &Path) -> PathBuf {
        inside.join("ns")
    }

    /// The file that names a node's namespace.
    pub fn node_path(&self, name: &str) -> PathBuf {
        self.dir.join(node_file(name))
    }

    /// A handle to the outside's namespace.
    pub fn outside(&self) -> Result<NetNs, FabricError> {
        Ok(NetNs::open(&self.dir.join("outside"))?)
    }

    /// Writes the rules of Services on every node.
    pub fn set_services(
        &self,
        rules: &[crate::service_nat::ServiceRule],
    ) -> Result<(), FabricError> {
        for (name, node) in &self.nodes {
            let text = crate::service_nat::ruleset(rules, name);
            let loaded = node.ns.within(|| crate::service_nat::load(&text))?;
            loaded.map_err(|reason| FabricError::Services { node: name.clone(), reason })?;
        }
        Ok(())
    }

    fn node_net(&self, name: &str) -> Result<&NodeNet, FabricError> {
        self.nodes.get(name).ok_or_else(|| FabricError::Directory {
            path: self.node_path(name),
            source: io::ErrorKind::NotFound.into(),
        })
    }
}

/// Kernel settings of a namespace, once; `router`: of a node, with how its pods are attached.
fn settle(
    ns: &NetNs,
    place: &str,
    families: Families,
    router: Option<NetworkMode>,
) -> Result<(), FabricError> {
    let mut settings = vec![
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", "0"),
        ("net/ipv4/ip_unprivileged_port_start", "0"),
    ];
    if families.has(Family::V6) {
        settings.extend([
            ("net/ipv6/conf/all/accept_ra", "0"),
            ("net/ipv6/conf/default/accept_ra", "0"),
            ("net/ipv6/conf/default/accept_dad", "0"),
            ("net/ipv6/conf/default/dad_transmits", "0"),
        ]);
    }
    if router.is_none() && families.has(Family::V6) {
        // No link-local address: it would be one that no policy knows of, and on a bridge every
        // pod could be reached by it. Neighbours are told, so nothing needs it.
        settings.push(("net/ipv6/conf/default/addr_gen_mode", "1"));
    }
    if let Some(mode) = router {
        settings.extend([
            ("net/ipv4/ip_forward", "1"),
            // A pod that is told of a shorter way would go round the firewall.
            ("net/ipv4/conf/all/send_redirects", "0"),
            ("net/ipv4/conf/default/send_redirects", "0"),
        ]);
        if families.has(Family::V6) {
            settings.extend([
                ("net/ipv6/conf/all/forwarding", "1"),
                // For pods of this node's range that run elsewhere; proxy ARP needs no switch.
                ("net/ipv6/conf/all/proxy_ndp", "1"),
            ]);
        }
        if mode == NetworkMode::Bridge {
            // What kubeadm demands of every node: packets between two ports of one bridge go
            // through the node's rules.
            settings.extend([
                ("net/bridge/bridge-nf-call-iptables", "1"),
                ("net/bridge/bridge-nf-call-ip6tables", "1"),
            ]);
        }
    }
    // Without addresses of its own choice, no pod can talk past policies that know of none.
    let off: &[_] = match families.has(Family::V6) {
        true => &[],
        false => {
            &[("net/ipv6/conf/all/disable_ipv6", "1"), ("net/ipv6/conf/default/disable_ipv6", "1")]
        }
    };
    let written =
        ns.within(|| sysctl::write_all(&settings).and_then(|()| sysctl::write_known(off)))?;
    written.map_err(|source| FabricError::Sysctl { place: place.to_owned(), source })
}

/// The constants of one family.
struct AddressOf(Family);

impl AddressOf {
    fn pick(&self, pair: [IpAddr; 2]) -> IpAddr {
        let [v4, v6] = pair;
        if self.0 == Family::V4 { v4 } else { v6 }
    }

    fn outside(&self) -> IpAddr {
        self.pick(OUTSIDE)
    }

    fn ptp_gateway(&self) -> IpAddr {
        self.pick(PTP_GATEWAY)
    }

    fn everything(&self) -> IpNet {
        match self.0 {
            Family::V4 => ipnet::Ipv4Net::default().into(),
            Family::V6 => ipnet::Ipv6Net::default().into(),
        }
    }
}

/// An address among the nodes, with the prefix of that network.
fn on_fabric(address: IpAddr) -> IpNet {
    let prefix = if address.is_ipv4() { 24 } else { 64 };
    IpNet::new(address, prefix).unwrap_or(IpNet::from(address))
}

/// The gateway of a pod range: its first host, with the range's prefix.
fn gateway(cidr: IpNet) -> Option<IpNet> {
    let first = match cidr.network() {
        IpAddr::V4(v4) => IpAddr::from(Ipv4Addr::from_bits(v4.to_bits() + 1)),
        IpAddr::V6(v6) => IpAddr::from(Ipv6Addr::from_bits(v6.to_bits() + 1)),
    };
    IpNet::new(first, cidr.prefix_len()).ok()
}

fn address_of_family(addresses: &[IpAddr], net: IpNet) -> Option<IpAddr> {
    addresses.iter().copied().find(|a| Family::of(*a) == Family::of(net.addr()))
}

/// What a node's namespace is called.
fn node_file(name: &str) -> String {
    format!("node-{name}")
}

/// 64 bits that depend on the name alone (FNV-1a): the same in every worker.
fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A locally administered unicast address.
fn mac_of(name: &str) -> Mac {
    let [_, _, a, b, c, d, e, f] = hash(name).to_be_bytes();
    Mac([a & 0xfc | 0x02, b, c, d, e, f])
}

/// The fabric's end of a node's link: at most 15 bytes.
fn port_name(name: &str) -> String {
    format!("fab{:011x}", hash(name) >> 20)
}

/// The node's end of a pod's link: at most 15 bytes.
fn veth_name(id: &str) -> String {
    format!("veth{:011x}", hash(id) >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_kernel_and_addresses_are_valid() {
        for name in ["node-1", "pod-00000000-0000-4000-8000-000000000002", ""] {
            assert!(port_name(name).len() < 16 && veth_name(name).len() < 16);
            let Mac([first, ..]) = mac_of(name);
            assert_eq!(first & 0x03, 0x02, "unicast, locally administered");
        }
        let cidr: IpNet = "10.244.3.0/24".parse().unwrap();
        assert_eq!(gateway(cidr).unwrap().to_string(), "10.244.3.1/24");
    }
}

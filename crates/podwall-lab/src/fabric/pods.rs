//! How is a pod plugged in, switched on and taken out?
//!
//! ```text
//!   plug_pod       namespace, veth pair, addresses           both ends down: nothing can be sent
//!        (the firewall is programmed)
//!   activate_pod   links up, routes, neighbours              packets pass from here on
//!   remove_pod     the pair first, then who knew of it, then the namespace's name
//! ```

use std::net::IpAddr;
use std::os::fd::AsFd;

use ipnet::IpNet;
use podwall_policy::address::Family;

use super::{
    AddressOf, BRIDGE, Fabric, FabricError, GATEWAY_MAC, NodeNet, PodPlug, address_of_family,
    gateway, link_error, mac_of, node_file, settle, veth_name,
};
use crate::link::{Batch, End, LinkError, Links, Mac, Route};
use crate::netns::NetNs;
use crate::rpc::NetworkMode;

/// A pod, as the fabric holds it.
#[derive(Debug)]
pub(super) struct PodNet {
    plug: PodPlug,
    /// Of the pod's namespace.
    links: Links,
    eth0: u32,
    /// Whether it is switched on.
    on: bool,
}

// === impl PodNet ===

impl PodNet {
    fn mac(&self) -> Mac {
        mac_of(&self.plug.id)
    }

    /// Tells this pod another one's hardware address, or that it is over.
    fn knows(&self, other: &Self, there: bool) -> Batch {
        other.plug.ips.iter().fold(Batch::new(), |batch, ip| match there {
            true => batch.neighbour(self.eth0, *ip, other.mac()),
            false => batch.delete_neighbour(self.eth0, *ip),
        })
    }
}

// === impl Fabric ===

impl Fabric {
    /// Makes a pod's namespace and link, addresses on it, both ends down.
    pub fn plug_pod(&mut self, plug: &PodPlug) -> Result<(), FabricError> {
        let place = format!("pod {}", plug.id);
        let ns = self.ensure_ns(&format!("pod-{}", plug.id))?;
        settle(&ns, &place, self.families, None)?;
        let links = Links::of(&ns).map_err(link_error(&place))?;
        let node = self.node_net(&plug.node)?;
        if links.find("eth0").map_err(link_error(&place))?.is_none() {
            let host = veth_name(&plug.id);
            let mac = match self.mode {
                NetworkMode::Ptp => Some(GATEWAY_MAC),
                NetworkMode::Bridge => None,
            };
            let near = End { name: &host, index: 0, mac, ns: None };
            let far =
                End { name: "eth0", index: 0, mac: Some(mac_of(&plug.id)), ns: Some(ns.as_fd()) };
            node.links
                .change(Batch::new().delete_link(&host))
                .and_then(|()| node.links.change(Batch::new().veth(&near, &far)))
                .map_err(link_error(&place))?;
        }
        let eth0 = links.index("eth0").map_err(link_error(&place))?;
        let batch = plug
            .ips
            .iter()
            .fold(Batch::new().up("lo"), |batch, ip| batch.address(eth0, self.pod_net(node, *ip)));
        links.change(batch).map_err(link_error(&place))?;
        let pod = PodNet { plug: plug.clone(), links, eth0, on: false };
        self.pods.insert(plug.id.clone(), pod);
        Ok(())
    }

    /// Switches a plugged pod on: from here on it sends and is reached.
    pub fn activate_pod(&mut self, id: &str) -> Result<(), FabricError> {
        let Some(pod) = self.pods.get(id) else { return Ok(()) };
        let (place, host) = (format!("pod {id}"), veth_name(id));
        let node = self.node_net(&pod.plug.node)?;
        let error = || link_error(&place);
        node.links.change(Batch::new().up(&host)).map_err(error())?;
        pod.links.change(Batch::new().up("eth0")).map_err(error())?;
        // Only now is the link a link, and can a bridge take it as a port that forwards.
        node.links.await_link(&host).map_err(error())?;
        match self.mode {
            NetworkMode::Ptp => self.connect_ptp(pod, node),
            NetworkMode::Bridge => self.connect_bridge(pod, node),
        }
        .map_err(error())?;
        pod.links.await_addresses(&pod.plug.ips).map_err(error())?;
        self.announce(&pod.plug, true)?;
        if let Some(pod) = self.pods.get_mut(id) {
            pod.on = true;
        }
        Ok(())
    }

    /// A host route to the pod, and the pod's way to its node.
    fn connect_ptp(&self, pod: &PodNet, node: &NodeNet) -> Result<(), LinkError> {
        let host = node.links.index(&veth_name(&pod.plug.id))?;
        let (mut inside, mut outside) = (Batch::new(), Batch::new());
        for ip in &pod.plug.ips {
            let family = AddressOf(Family::of(*ip));
            inside = inside
                .neighbour(pod.eth0, family.ptp_gateway(), GATEWAY_MAC)
                .route(Route::via(family.everything(), family.ptp_gateway(), pod.eth0));
            let source = address_of_family(&node.addresses, IpNet::from(*ip));
            outside = outside
                .neighbour(host, *ip, pod.mac())
                .route(Route::link(IpNet::from(*ip), host).with_source(source));
        }
        node.links.change(outside)?;
        pod.links.change(inside)
    }

    /// A port of the node's bridge, and acquaintance with everybody on it.
    fn connect_bridge(&self, pod: &PodNet, node: &NodeNet) -> Result<(), LinkError> {
        let cni0 = node.links.index(BRIDGE)?;
        let host = veth_name(&pod.plug.id);
        let mut outside = Batch::new().port(&host, cni0).hairpin(&host);
        let mut inside = Batch::new();
        for ip in &pod.plug.ips {
            outside = outside.neighbour(cni0, *ip, pod.mac());
            let cidr = node.cidrs.iter().find(|c| Family::of(c.addr()) == Family::of(*ip));
            let Some(gateway) = cidr.and_then(|c| gateway(*c)) else { continue };
            inside = inside
                .neighbour(pod.eth0, gateway.addr(), mac_of(&node_file(&pod.plug.node)))
                .route(Route::via(
                    AddressOf(Family::of(*ip)).everything(),
                    gateway.addr(),
                    pod.eth0,
                ));
        }
        node.links.change(outside)?;
        for sibling in self.siblings(&pod.plug) {
            sibling.links.change(sibling.knows(pod, true))?;
            inside = inside.and(pod.knows(sibling, true));
        }
        pod.links.change(inside)
    }

    /// The other pods on a pod's bridge that are switched on.
    fn siblings(&self, plug: &PodPlug) -> impl Iterator<Item = &PodNet> {
        let on_bridge = self.mode == NetworkMode::Bridge;
        self.pods.values().filter(move |pod| {
            on_bridge && pod.on && pod.plug.node == plug.node && pod.plug.id != plug.id
        })
    }

    /// Tells everybody the way to addresses of a pod that lie outside of its node's range, or that
    /// it is over.
    fn announce(&self, plug: &PodPlug, there: bool) -> Result<(), FabricError> {
        let node = self.node_net(&plug.node)?;
        let strays: Vec<IpAddr> = plug
            .ips
            .iter()
            .copied()
            .filter(|ip| !node.cidrs.iter().any(|cidr| cidr.contains(ip)))
            .collect();
        if strays.is_empty() {
            return Ok(());
        }
        for (name, other) in &self.nodes {
            let batch = self.point(name, other, plug, &strays, there)?;
            other.links.change(batch).map_err(link_error(name))?;
        }
        let outside = Links::of(&self.outside()?).map_err(link_error("outside"))?;
        let eth0 = outside.index("eth0").map_err(link_error("outside"))?;
        let mut batch = Batch::new();
        for ip in strays {
            let Some(via) = address_of_family(&node.addresses, IpNet::from(ip)) else { continue };
            let route = Route::via(IpNet::from(ip), via, eth0);
            batch = if there { batch.route(route) } else { batch.delete_route(route) };
        }
        outside.change(batch).map_err(link_error("outside"))
    }

    /// What one node has to know of a pod's addresses outside of the range of the pod's own node.
    fn point(
        &self,
        name: &str,
        at: &NodeNet,
        plug: &PodPlug,
        strays: &[IpAddr],
        there: bool,
    ) -> Result<Batch, FabricError> {
        let cni0 = match self.mode {
            NetworkMode::Ptp => None,
            NetworkMode::Bridge => Some(at.links.index(BRIDGE).map_err(link_error(name))?),
        };
        let home = self.node_net(&plug.node)?;
        let mut batch = Batch::new();
        for ip in strays {
            let route = match (name == plug.node, cni0) {
                // Point-to-point: the pod has its host route, which goes with its link.
                (true, None) => continue,
                (true, Some(cni0)) => Route::link(IpNet::from(*ip), cni0),
                (false, _) => match address_of_family(&home.addresses, IpNet::from(*ip)) {
                    Some(via) => Route::via(IpNet::from(*ip), via, at.eth0),
                    None => continue,
                },
            };
            batch = if there { batch.route(route) } else { batch.delete_route(route) };
            // The pods on the bridge whose range it is look for it on their own link.
            let asked = cni0.filter(|_| at.cidrs.iter().any(|cidr| cidr.contains(ip)));
            if let Some(cni0) = asked {
                batch = if there { batch.proxy(cni0, *ip) } else { batch.delete_proxy(cni0, *ip) };
            }
        }
        Ok(batch)
    }

    /// Takes a pod out: its link first, so that nothing more is sent, then its name. What runs in
    /// its namespace loses its network and keeps running.
    pub fn remove_pod(&mut self, id: &str) -> Result<(), FabricError> {
        let place = format!("pod {id}");
        if let Some(pod) = self.pods.remove(id) {
            let node = self.node_net(&pod.plug.node)?;
            let error = || link_error(&place);
            node.links.change(Batch::new().delete_link(&veth_name(id))).map_err(error())?;
            if self.mode == NetworkMode::Bridge {
                let cni0 = node.links.index(BRIDGE).map_err(error())?;
                let forget = pod
                    .plug
                    .ips
                    .iter()
                    .fold(Batch::new(), |batch, ip| batch.delete_neighbour(cni0, *ip));
                node.links.change(forget).map_err(error())?;
            }
            for sibling in self.siblings(&pod.plug) {
                sibling.links.change(sibling.knows(&pod, false)).map_err(error())?;
            }
            self.announce(&pod.plug, false)?;
        } else if let Ok(ns) = self.pod(id) {
            // Left by an earlier worker: its node is not known here, but the pair has two ends.
            let links = Links::of(&ns).map_err(link_error(&place))?;
            links.change(Batch::new().delete_link("eth0")).map_err(link_error(&place))?;
        }
        Ok(NetNs::unlink(&self.dir.join(format!("pod-{id}")))?)
    }

    /// A pod's address with the prefix of its interface: alone on its link, or among the pods of
    /// the bridge.
    fn pod_net(&self, node: &NodeNet, ip: IpAddr) -> IpNet {
        let cidr = node.cidrs.iter().find(|cidr| cidr.contains(&ip));
        match (self.mode, cidr) {
            (NetworkMode::Bridge, Some(cidr)) => {
                IpNet::new(ip, cidr.prefix_len()).unwrap_or(IpNet::from(ip))
            }
            _ => IpNet::from(ip),
        }
    }
}

//! On what path do measured packets travel?
//!
//! ```text
//!   client ─┐                                        ┌─ far
//!   stranger┼─ node 0 ──────────── veth ──────── node 1
//!   near   ─┘
//! ```
//!
//! Each engine gets a path of its own, all alike in everything but what the nodes enforce: then a
//! round can go through all of them with nothing to be taken down and loaded again. That two paths
//! alike are alike fast is measured too: "conntrack only" is there twice.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use podwall_lab::link::{Batch, End, Links, Mac, Route};
use podwall_lab::netns::NetNs;

use crate::cluster::Seat;

/// Pods' next hop, which their node answers for by its hardware address.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The nodes' addresses on the link between them.
const NODE: [Ipv4Addr; 2] = [Ipv4Addr::new(172, 30, 0, 1), Ipv4Addr::new(172, 30, 0, 2)];
const NODE_MAC: Mac = Mac([0xee; 6]);
/// Every pod's.
pub(crate) const POD_MAC: Mac = Mac([0xea; 6]);

/// One path. Everything on it ends with the process.
pub(crate) struct Site {
    pub nodes: [NetNs; 2],
    pods: Vec<(Seat, NetNs)>,
}

impl Site {
    /// Makes namespaces, interfaces and routes.
    pub(crate) fn new() -> Result<Self> {
        let nodes = [NetNs::unnamed()?, NetNs::unnamed()?];
        let links = [Links::of(&nodes[0])?, Links::of(&nodes[1])?];
        for (node, links) in nodes.iter().zip(&links) {
            settle(node, &[("net/ipv4/ip_forward", "1")])?;
            links.change(Batch::new().up("lo"))?;
        }
        let near = End { name: "eth0", index: 0, mac: Some(Mac([0xe0; 6])), ns: None };
        let far = End { mac: Some(Mac([0xe2; 6])), ns: Some(nodes[1].as_fd()), ..near };
        links[0].change(Batch::new().veth(&near, &far))?;
        for (index, mac) in [(0, [0xe2; 6]), (1, [0xe0; 6])] {
            let eth0 = links[index].index("eth0")?;
            links[index].change(
                Batch::new()
                    .up("eth0")
                    .address(eth0, IpNet::new(NODE[index].into(), 30)?)
                    .neighbour(eth0, NODE[1 - index].into(), Mac(mac)),
            )?;
        }
        let mut site = Self { nodes, pods: Vec::new() };
        for seat in Seat::ALL {
            let pod = site.plug(seat, &links).with_context(|| format!("{seat:?}"))?;
            site.pods.push((seat, pod));
        }
        Ok(site)
    }

    /// The namespace of a pod.
    pub(crate) fn pod(&self, seat: Seat) -> Result<&NetNs> {
        let found = self.pods.iter().find(|(other, _)| *other == seat);
        Ok(&found.context("no such pod")?.1)
    }

    fn plug(&self, seat: Seat, links: &[Links; 2]) -> Result<NetNs> {
        let pod = NetNs::unnamed()?;
        let home = seat.node();
        let port = port(seat);
        let host: IpNet = IpAddr::V4(seat.address()).into();
        let near = End { name: &port, index: 0, mac: Some(NODE_MAC), ns: None };
        let far = End { name: "eth0", index: 0, mac: Some(POD_MAC), ns: Some(pod.as_fd()) };
        links[home].change(Batch::new().veth(&near, &far).up(&port))?;
        let dev = links[home].index(&port)?;
        links[home].change(Batch::new().route(Route::link(host, dev)).neighbour(
            dev,
            host.addr(),
            POD_MAC,
        ))?;
        let uplink = links[1 - home].index("eth0")?;
        let via = Route::via(host, NODE[home].into(), uplink);
        links[1 - home].change(Batch::new().route(via))?;
        let inside = Links::of(&pod)?;
        inside.change(Batch::new().up("lo").up("eth0"))?;
        let eth0 = inside.index("eth0")?;
        let everything: IpNet = "0.0.0.0/0".parse()?;
        inside.change(
            Batch::new()
                .address(eth0, host)
                .neighbour(eth0, GATEWAY.into(), NODE_MAC)
                .route(Route::via(everything, GATEWAY.into(), eth0)),
        )?;
        settle(
            &pod,
            &[
                ("net/ipv4/ip_local_port_range", "1024 65000"),
                // Thousands of closed connections a second: nobody shall wait for them.
                ("net/ipv4/tcp_max_tw_buckets", "16"),
            ],
        )?;
        Ok(pod)
    }

    /// Forgets the connections that the nodes know, so that every measurement starts alike.
    pub(crate) fn forget_connections(&self) -> Result<()> {
        for node in &self.nodes {
            node.within(forget_connections)?.context("cannot clear the connection table")?;
        }
        Ok(())
    }
}

/// The name of a pod's interface on its node.
pub(crate) fn port(seat: Seat) -> String {
    format!("veth{}", format!("{seat:?}").to_lowercase())
}

fn settle(namespace: &NetNs, settings: &[(&str, &str)]) -> Result<()> {
    namespace.within(|| {
        settings.iter().try_for_each(|(name, value)| {
            std::fs::write(format!("/proc/sys/{name}"), value).with_context(|| (*name).to_owned())
        })
    })?
}

/// Asks ctnetlink to delete all entries of the calling thread's namespace
/// (`include/uapi/linux/netfilter/nfnetlink_conntrack.h`).
fn forget_connections() -> io::Result<()> {
    use nix::sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto,
        socket,
    };
    use std::os::fd::AsRawFd as _;
    const CTNETLINK_DELETE: u16 = 1 << 8 | 2;
    const REQUEST_ACK: u16 = 1 | 4;
    let fd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    let mut message = Vec::with_capacity(20);
    message.extend(20u32.to_ne_bytes());
    message.extend(CTNETLINK_DELETE.to_ne_bytes());
    message.extend(REQUEST_ACK.to_ne_bytes());
    message.extend([0; 8]); // sequence number, port
    message.extend([0; 4]); // any family
    sendto(fd.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = [0; 128];
    recv(fd.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    let errno = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
    if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-errno)) }
}

/// Puts this process, which has a single thread yet, into a mount namespace of its own with a
/// directory for pinned programs, so that nothing outlives it; returns the directory.
pub(crate) fn private_mounts() -> Result<PathBuf> {
    unshare(CloneFlags::CLONE_NEWNS).context("benches need root")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let place = Path::new("/sys/fs/bpf");
    mount(Some("bpf"), place, Some("bpf"), MsFlags::empty(), none).context("mount a bpffs")?;
    Ok(place.to_owned())
}

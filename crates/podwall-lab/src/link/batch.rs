//! Which changes go to the kernel together?
//!
//! ```text
//!   Batch::new()
//!     .veth(host end, pod end in another namespace)
//!     .address(2, 10.244.1.7/32) .route(default via 169.254.1.1 dev 2 onlink) .up("eth0")
//! ```
//!
//! Every step says in words what it does, for the error; steps that the kernel can do twice are
//! made so (replace instead of add, "is gone already" instead of an error).

use std::net::IpAddr;
use std::os::fd::AsRawFd;

use ipnet::IpNet;
use nix::libc::{self, c_ushort};

use super::values::{End, Mac, Route, RouteKind};
use super::wire::Message;

/// Leaves the counters out of answers about interfaces (`RTEXT_FILTER_SKIP_STATS`).
pub(super) const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;

// Numbers from include/uapi/linux that libc does not name.
const VETH_INFO_PEER: c_ushort = 1;
const IFLA_BR_MCAST_SNOOPING: c_ushort = 23;
const IFLA_BRPORT_MODE: c_ushort = 4;
const RTNH_F_ONLINK: u32 = 4;

/// Changes that go to the kernel together, in order.
#[derive(Debug, Default)]
pub struct Batch {
    messages: Vec<Message>,
}

// === impl Batch ===

impl Batch {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing was asked for.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// These changes and then those of another batch.
    #[must_use]
    pub fn and(mut self, mut other: Self) -> Self {
        self.messages.append(&mut other.messages);
        self
    }

    pub(super) fn into_messages(self) -> Vec<Message> {
        self.messages
    }

    /// Makes a veth pair. Both ends are down and have no IPv6 link-local address of their own
    /// making. Fails if either name is taken.
    #[must_use]
    pub fn veth(self, a: &End<'_>, b: &End<'_>) -> Self {
        let what = format!("make the interface pair {} and {}", a.name, b.name);
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        self.push(libc::RTM_NEWLINK, flags, &ifinfo(a.index, 0, 0), what, |m| {
            describe(m, a);
            m.nest(libc::IFLA_LINKINFO, &[], |m| {
                m.text(libc::IFLA_INFO_KIND, "veth");
                m.nest(libc::IFLA_INFO_DATA, &[], |m| {
                    m.nest(VETH_INFO_PEER, &ifinfo(b.index, 0, 0), |m| describe(m, b));
                });
            });
        })
    }

    /// Makes a bridge without spanning tree, which forwards at once, and without multicast
    /// snooping, which would hold back neighbour discovery. Fine if it exists.
    #[must_use]
    pub fn bridge(self, name: &str, mac: Mac) -> Self {
        let what = format!("make the bridge {name}");
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        self.push(libc::RTM_NEWLINK, flags, &ifinfo(0, 0, 0), what, |m| {
            m.fine = &[libc::EEXIST];
            m.text(libc::IFLA_IFNAME, name);
            m.attr(libc::IFLA_ADDRESS, &mac.0);
            m.nest(libc::IFLA_LINKINFO, &[], |m| {
                m.text(libc::IFLA_INFO_KIND, "bridge");
                m.nest(libc::IFLA_INFO_DATA, &[], |m| m.attr(IFLA_BR_MCAST_SNOOPING, &[0]));
            });
        })
    }

    /// Makes an interface a port of a bridge.
    #[must_use]
    pub fn port(self, name: &str, bridge: u32) -> Self {
        let what = format!("attach {name} to its bridge");
        self.push(libc::RTM_NEWLINK, 0, &ifinfo(0, 0, 0), what, |m| {
            m.text(libc::IFLA_IFNAME, name);
            m.number(libc::IFLA_MASTER, bridge);
        })
    }

    /// Lets a bridge send a packet out of the port that it came in by: a pod that reaches itself
    /// through a Service.
    #[must_use]
    pub fn hairpin(self, name: &str) -> Self {
        let what = format!("switch on hairpin mode of {name}");
        self.push(libc::RTM_NEWLINK, 0, &ifinfo(0, 0, 0), what, |m| {
            m.text(libc::IFLA_IFNAME, name);
            m.nest(libc::IFLA_LINKINFO, &[], |m| {
                m.text(libc::IFLA_INFO_SLAVE_KIND, "bridge");
                m.nest(libc::IFLA_INFO_SLAVE_DATA, &[], |m| m.attr(IFLA_BRPORT_MODE, &[1]));
            });
        })
    }

    /// Switches an interface on.
    #[must_use]
    pub fn up(self, name: &str) -> Self {
        let what = format!("switch on the interface {name}");
        let up = libc::IFF_UP as u32;
        self.push(libc::RTM_NEWLINK, 0, &ifinfo(0, up, up), what, |m| {
            m.text(libc::IFLA_IFNAME, name);
        })
    }

    /// Switches an interface off.
    #[must_use]
    pub fn down(self, name: &str) -> Self {
        let what = format!("switch off the interface {name}");
        self.push(libc::RTM_NEWLINK, 0, &ifinfo(0, 0, libc::IFF_UP as u32), what, |m| {
            m.text(libc::IFLA_IFNAME, name);
        })
    }

    /// Gives an interface another name; the interface must be down.
    #[must_use]
    pub fn rename(self, index: u32, name: &str) -> Self {
        let what = format!("name interface number {index} {name}");
        self.push(libc::RTM_NEWLINK, 0, &ifinfo(index, 0, 0), what, |m| {
            m.text(libc::IFLA_IFNAME, name);
        })
    }

    /// Removes an interface, with its peer and everything that hangs on them. Fine if it is gone.
    #[must_use]
    pub fn delete_link(self, name: &str) -> Self {
        let what = format!("remove the interface {name}");
        self.push(libc::RTM_DELLINK, 0, &ifinfo(0, 0, 0), what, |m| {
            m.fine = &[libc::ENODEV];
            m.text(libc::IFLA_IFNAME, name);
        })
    }

    /// Gives an interface an address, usable at once (no duplicate address detection). Fine if it
    /// has it.
    #[must_use]
    pub fn address(self, dev: u32, address: IpNet) -> Self {
        let what = format!("give interface number {dev} the address {address}");
        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        let [a, b, c, d] = dev.to_ne_bytes();
        let fixed =
            [family(address.addr()), address.prefix_len(), libc::IFA_F_NODAD as u8, 0, a, b, c, d];
        self.push(libc::RTM_NEWADDR, flags, &fixed, what, |m| {
            m.address(libc::IFA_LOCAL, address.addr());
            m.address(libc::IFA_ADDRESS, address.addr());
        })
    }

    /// Adds a route, or replaces the one to the same destination.
    #[must_use]
    pub fn route(self, route: Route) -> Self {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        self.put_route(libc::RTM_NEWROUTE, flags, route, format!("add the route {route}"), &[])
    }

    /// Removes a route. Fine if it is gone.
    #[must_use]
    pub fn delete_route(self, route: Route) -> Self {
        let what = format!("remove the route {route}");
        self.put_route(libc::RTM_DELROUTE, 0, route, what, &[libc::ESRCH, libc::ENODEV])
    }

    /// Says for good which hardware address a neighbour has.
    #[must_use]
    pub fn neighbour(self, dev: u32, address: IpAddr, mac: Mac) -> Self {
        let what = format!("make {mac} the neighbour {address} of interface number {dev}");
        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        let fixed = ndmsg(address, dev, libc::NUD_PERMANENT, 0);
        self.push(libc::RTM_NEWNEIGH, flags, &fixed, what, |m| {
            m.address(libc::NDA_DST, address);
            m.attr(libc::NDA_LLADDR, &mac.0);
        })
    }

    /// Removes a neighbour. Fine if it is gone.
    #[must_use]
    pub fn delete_neighbour(self, dev: u32, address: IpAddr) -> Self {
        let what = format!("remove the neighbour {address} of interface number {dev}");
        let fixed = ndmsg(address, dev, 0, 0);
        self.push(libc::RTM_DELNEIGH, 0, &fixed, what, |m| {
            m.fine = &[libc::ENOENT, libc::ENODEV];
            m.address(libc::NDA_DST, address);
        })
    }

    /// Answers for an address on an interface (proxy ARP; proxy neighbour discovery where
    /// `proxy_ndp` is on).
    #[must_use]
    pub fn proxy(self, dev: u32, address: IpAddr) -> Self {
        let what = format!("answer for {address} on interface number {dev}");
        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        let fixed = ndmsg(address, dev, libc::NUD_PERMANENT, libc::NTF_PROXY);
        self.push(libc::RTM_NEWNEIGH, flags, &fixed, what, |m| {
            m.address(libc::NDA_DST, address);
        })
    }

    /// Ends [`proxy`](Self::proxy). Fine if it is over.
    #[must_use]
    pub fn delete_proxy(self, dev: u32, address: IpAddr) -> Self {
        let what = format!("no longer answer for {address} on interface number {dev}");
        let fixed = ndmsg(address, dev, 0, libc::NTF_PROXY);
        self.push(libc::RTM_DELNEIGH, 0, &fixed, what, |m| {
            m.fine = &[libc::ENOENT, libc::ENODEV];
            m.address(libc::NDA_DST, address);
        })
    }

    fn put_route(
        self,
        kind: u16,
        flags: i32,
        route: Route,
        what: String,
        fine: &'static [i32],
    ) -> Self {
        let (scope, class) = match (route.kind, route.via) {
            (RouteKind::Local, _) => (libc::RT_SCOPE_HOST, libc::RTN_LOCAL),
            (RouteKind::Unreachable, _) => (libc::RT_SCOPE_UNIVERSE, libc::RTN_UNREACHABLE),
            (RouteKind::Unicast, None) => (libc::RT_SCOPE_LINK, libc::RTN_UNICAST),
            (RouteKind::Unicast, Some(_)) => (libc::RT_SCOPE_UNIVERSE, libc::RTN_UNICAST),
        };
        // struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
        let onlink = if route.via.is_some() { RTNH_F_ONLINK } else { 0 };
        let [a, b, c, d] = onlink.to_ne_bytes();
        let fixed = [
            family(route.to.addr()),
            route.to.prefix_len(),
            0,
            0,
            libc::RT_TABLE_MAIN,
            libc::RTPROT_STATIC,
            scope,
            class,
            a,
            b,
            c,
            d,
        ];
        self.push(kind, flags, &fixed, what, |m| {
            m.fine = fine;
            m.address(libc::RTA_DST, route.to.network());
            if let Some(via) = route.via {
                m.address(libc::RTA_GATEWAY, via);
            }
            if let Some(dev) = route.dev {
                m.number(libc::RTA_OIF, dev);
            }
            if let Some(src) = route.src {
                m.address(libc::RTA_PREFSRC, src);
            }
        })
    }

    fn push(
        mut self,
        kind: u16,
        flags: i32,
        fixed: &[u8],
        what: String,
        fill: impl FnOnce(&mut Message),
    ) -> Self {
        let flags = flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK;
        let mut message = Message::new(kind, flags, fixed, what);
        fill(&mut message);
        self.messages.push(message);
        self
    }
}

/// The attributes of one end of a pair.
fn describe(message: &mut Message, end: &End<'_>) {
    message.text(libc::IFLA_IFNAME, end.name);
    if let Some(mac) = end.mac {
        message.attr(libc::IFLA_ADDRESS, &mac.0);
    }
    if let Some(ns) = end.ns {
        message.number(libc::IFLA_NET_NS_FD, ns.as_raw_fd().cast_unsigned());
    }
}

/// `struct ifinfomsg`.
fn ifinfo(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&change.to_ne_bytes());
    bytes
}

/// `struct ndmsg`.
fn ndmsg(address: IpAddr, dev: u32, state: u16, flags: u8) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[0] = family(address);
    bytes[4..8].copy_from_slice(&dev.to_ne_bytes());
    bytes[8..10].copy_from_slice(&state.to_ne_bytes());
    bytes[10] = flags;
    bytes
}

fn family(address: IpAddr) -> u8 {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    u8::try_from(family).unwrap_or(0)
}

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

use std::fmt;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::IpNet;
use nix::libc::{self, c_ushort};

use super::wire::Message;

/// Leaves the counters out of answers about interfaces (`RTEXT_FILTER_SKIP_STATS`).
pub(super) const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;

// Numbers from include/uapi/linux that libc does not name.
const VETH_INFO_PEER: c_ushort = 1;
const IFLA_BR_MCAST_SNOOPING: c_ushort = 23;
const IFLA_BRPORT_MODE: c_ushort = 4;
const RTNH_F_ONLINK: u32 = 4;

/// A hardware address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// One end of a veth pair.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Interface name, at most 15 bytes.
    pub name: &'a str,
    /// Number in its namespace, 0 lets the kernel choose.
    pub index: u32,
    /// Hardware address, `None` for a random one.
    pub mac: Option<Mac>,
    /// Where it is put; `None`: the namespace of the socket.
    pub ns: Option<BorrowedFd<'a>>,
}

/// What happens to packets that a route matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// They are sent on.
    Unicast,
    /// They are this machine's: with a prefix, every address of it ("AnyIP").
    Local,
    /// They are refused with ICMP unreachable.
    Unreachable,
}

/// A route of the main table.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// Destination.
    pub to: IpNet,
    /// Next hop; `None`: the destination is on the link itself.
    pub via: Option<IpAddr>,
    /// Interface number; none for `Unreachable`.
    pub dev: Option<u32>,
    /// Source address of connections that this machine opens along it.
    pub src: Option<IpAddr>,
    /// What happens.
    pub kind: RouteKind,
}

// === impl Route ===

impl Route {
    /// To something on the link of an interface.
    pub fn link(to: impl Into<IpNet>, dev: u32) -> Self {
        Self { to: to.into(), via: None, dev: Some(dev), src: None, kind: RouteKind::Unicast }
    }

    /// By a next hop, which is taken to be on the link whatever its address (`onlink`).
    pub fn via(to: impl Into<IpNet>, via: IpAddr, dev: u32) -> Self {
        Self { via: Some(via), ..Self::link(to, dev) }
    }

    /// The same with a preferred source address.
    #[must_use]
    pub fn with_source(self, src: Option<IpAddr>) -> Self {
        Self { src, ..self }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            RouteKind::Unicast => {}
            RouteKind::Local => f.write_str("local ")?,
            RouteKind::Unreachable => f.write_str("unreachable ")?,
        }
        write!(f, "{}", self.to)?;
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        if let Some(dev) = self.dev {
            write!(f, " by interface number {dev}")?;
        }
        Ok(())
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Links;
    use crate::netns::NetNs;

    fn namespaces() -> Option<(NetNs, Links, NetNs, Links)> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: needs root");
            return None;
        }
        let (a, b) = (NetNs::unnamed().unwrap(), NetNs::unnamed().unwrap());
        let (la, lb) = (Links::of(&a).unwrap(), Links::of(&b).unwrap());
        Some((a, la, b, lb))
    }

    fn pair<'a>(ns: &'a NetNs) -> (End<'a>, End<'a>) {
        use std::os::fd::AsFd;
        let mac = Some(Mac([2, 0, 0, 0, 0, 1]));
        (
            End { name: "here", index: 0, mac: None, ns: None },
            End { name: "eth0", index: 2, mac, ns: Some(ns.as_fd()) },
        )
    }

    #[test]
    fn a_pair_spans_two_namespaces_and_carries_addresses_and_routes() {
        let Some((_a, la, b, lb)) = namespaces() else { return };
        let (here, there) = pair(&b);
        la.change(Batch::new().veth(&here, &there).up("here")).unwrap();
        let eth0 = lb.find("eth0").unwrap().unwrap();
        assert_eq!((eth0.index, eth0.up, eth0.mac), (2, false, Some(Mac([2, 0, 0, 0, 0, 1]))));

        let four: IpNet = "10.0.0.7/32".parse().unwrap();
        let six: IpNet = "fd00::7/128".parse().unwrap();
        let hop4: IpAddr = "169.254.1.1".parse().unwrap();
        let hop6: IpAddr = "fe80::1".parse().unwrap();
        let default4: IpNet = "0.0.0.0/0".parse().unwrap();
        let default6: IpNet = "::/0".parse().unwrap();
        let mac = Mac([0xee; 6]);
        let changes = || {
            Batch::new()
                .up("eth0")
                .address(2, four)
                .address(2, six)
                .neighbour(2, hop4, mac)
                .neighbour(2, hop6, mac)
                .route(Route::via(default4, hop4, 2))
                .route(Route::via(default6, hop6, 2))
        };
        lb.change(changes()).unwrap();
        lb.change(changes()).unwrap();
        let addresses = lb.addresses().unwrap();
        assert!(addresses.contains(&(2, four)) && addresses.contains(&(2, six)), "{addresses:?}");
        let routes = lb.routes().unwrap();
        assert!(routes.contains(&(default4, Some(hop4), Some(2))), "{routes:?}");
        assert!(routes.contains(&(default6, Some(hop6), Some(2))), "{routes:?}");

        la.change(Batch::new().delete_link("here").delete_link("here")).unwrap();
        assert_eq!(lb.find("eth0").unwrap(), None);
    }

    #[test]
    fn the_first_failure_of_a_batch_is_told_in_words_and_the_rest_is_done() {
        let Some((_a, la, b, lb)) = namespaces() else { return };
        let (here, there) = pair(&b);
        let error = la
            .change(
                Batch::new()
                    .up("nothing")
                    .veth(&here, &there)
                    .address(99, "10.0.0.1/8".parse().unwrap()),
            )
            .unwrap_err();
        assert!(
            error.to_string().starts_with("cannot switch on the interface nothing: No such device"),
            "{error}"
        );
        assert!(lb.find("eth0").unwrap().is_some());
        let again = la.change(Batch::new().veth(&here, &there)).unwrap_err();
        assert_eq!(again.errno(), Some(libc::EEXIST));
    }

    #[test]
    fn a_batch_longer_than_the_socket_holds_is_answered_in_full() {
        let Some((_a, la, b, _lb)) = namespaces() else { return };
        let (here, there) = pair(&b);
        la.change(Batch::new().veth(&here, &there).up("here")).unwrap();
        let dev = la.index("here").unwrap();
        let batch = (0..2000u32).fold(Batch::new(), |batch, n| {
            let to = IpNet::from(IpAddr::from((0x0a00_0000 + n).to_be_bytes()));
            batch.route(Route::link(to, dev))
        });
        la.change(batch).unwrap();
        assert_eq!(
            la.routes().unwrap().iter().filter(|(to, ..)| to.addr().is_ipv4()).count(),
            2000
        );
    }

    #[test]
    fn a_bridge_takes_ports_and_an_any_address_route_makes_every_address_local() {
        let Some((a, la, b, _lb)) = namespaces() else { return };
        let (here, there) = pair(&b);
        la.change(Batch::new().bridge("br0", Mac([2; 6])).bridge("br0", Mac([2; 6]))).unwrap();
        let bridge = la.index("br0").unwrap();
        let batch = Batch::new().veth(&here, &there).port("here", bridge).hairpin("here");
        la.change(batch.up("here").up("br0")).unwrap();
        assert_eq!(la.find("here").unwrap().unwrap().master, Some(bridge));

        let any = Route {
            kind: RouteKind::Local,
            ..Route::link("0.0.0.0/0".parse::<IpNet>().unwrap(), 1)
        };
        la.change(Batch::new().route(any)).unwrap();
        a.within(|| std::net::UdpSocket::bind("203.0.113.7:53")).unwrap().unwrap();
    }
}

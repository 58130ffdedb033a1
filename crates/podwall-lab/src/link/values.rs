//! What are interfaces, routes and neighbours made of?
//!
//! The values that a [`Batch`](super::Batch) is told in the caller's words.

use std::fmt;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use ipnet::IpNet;

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

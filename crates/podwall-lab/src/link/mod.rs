//! How do interfaces, addresses, routes and neighbours come about in a namespace?
//!
//! ```text
//!   Links (a netlink socket of one namespace)
//!     change( Batch: veth ─ address ─ route ─ neighbour ─ up )     one system call
//!     all(), index("eth0"), addresses(), routes()                  what is there
//! ```
//!
//! Changes are collected in a [`Batch`] and are idempotent where the kernel lets them be: adding
//! what is there and removing what is gone succeeds. Errors name the change in words.

mod batch;
mod ready;
mod socket;
#[cfg(test)]
mod tests;
mod values;
mod wire;

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use nix::libc;
use thiserror::Error;

pub use batch::Batch;
pub use values::{End, Mac, Route, RouteKind};

use crate::netns::{NetNs, NetNsError};
use socket::Socket;
use wire::{Message, address, attributes, text, u32_at};

/// Why a change of interfaces, addresses or routes failed.
#[derive(Debug, Error)]
pub enum LinkError {
    /// The socket itself.
    #[error("cannot speak to the kernel's routing (netlink): {0}")]
    Socket(#[source] io::Error),
    /// The kernel refused.
    #[error("cannot {what}: {source}{}", said.as_ref().map(|s| format!(" ({s})")).unwrap_or_default())]
    Refused {
        /// The change, in words.
        what: String,
        /// The kernel's own words, where it has some.
        said: Option<String>,
        /// The error number.
        source: io::Error,
    },
    /// No interface of that name.
    #[error("there is no interface {name} in this namespace")]
    NoSuchLink {
        /// The name.
        name: String,
    },
    /// The kernel took too long.
    #[error("waited 5 s in vain for {what}; is this machine overloaded?")]
    Late {
        /// For what.
        what: String,
    },
    /// The namespace could not be entered.
    #[error(transparent)]
    NetNs(#[from] NetNsError),
}

impl LinkError {
    fn refused(what: &str, errno: i32, said: Option<String>) -> Self {
        Self::Refused { what: what.to_owned(), said, source: io::Error::from_raw_os_error(errno) }
    }

    /// The error number, where the kernel gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } | Self::Socket(source) => source.raw_os_error(),
            _ => None,
        }
    }
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number in the namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether it is switched on (`IFF_UP`).
    pub up: bool,
    /// Hardware address, if it has one of six bytes.
    pub mac: Option<Mac>,
    /// The bridge that it is a port of.
    pub master: Option<u32>,
}

/// A route as it is listed: destination, next hop, interface.
pub type NextHop = (IpNet, Option<IpAddr>, Option<u32>);

/// The interfaces, addresses and routes of one namespace.
///
/// Holds a socket that belongs to the namespace and keeps it alive; usable from any thread.
#[derive(Debug)]
pub struct Links {
    socket: Socket,
}

// === impl Links ===

impl Links {
    /// Of the calling thread's namespace.
    pub fn here() -> Result<Self, LinkError> {
        Ok(Self { socket: Socket::open()? })
    }

    /// Of a namespace.
    pub fn of(ns: &NetNs) -> Result<Self, LinkError> {
        ns.within(Self::here)?
    }

    /// Makes all changes of the batch, in order. The first failure is reported after all were
    /// tried.
    pub fn change(&self, batch: Batch) -> Result<(), LinkError> {
        let mut messages = batch.into_messages();
        self.socket.change(&mut messages)
    }

    /// The number of an interface.
    pub fn index(&self, name: &str) -> Result<u32, LinkError> {
        Ok(self.find(name)?.ok_or_else(|| LinkError::NoSuchLink { name: name.to_owned() })?.index)
    }

    /// An interface by name, `None` if there is none.
    pub fn find(&self, name: &str) -> Result<Option<Link>, LinkError> {
        let mut found = None;
        match self.look(name, |payload| found = link(payload)) {
            Err(error) if error.errno() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
            Ok(()) => Ok(found),
        }
    }

    /// Hands what the kernel says of one interface to `each`.
    fn look(&self, name: &str, mut each: impl FnMut(&[u8])) -> Result<(), LinkError> {
        // A single answer has no end mark, so an acknowledgement is asked for.
        let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK;
        let what = format!("look up the interface {name}");
        let mut question = Message::new(libc::RTM_GETLINK, flags, &[0; 16], what);
        question.text(libc::IFLA_IFNAME, name);
        question.number(libc::IFLA_EXT_MASK, batch::RTEXT_FILTER_SKIP_STATS);
        self.socket.ask(question, |reply| each(reply.payload))
    }

    /// All interfaces.
    pub fn all(&self) -> Result<Vec<Link>, LinkError> {
        let mut links = Vec::new();
        self.dump(libc::RTM_GETLINK, &[0; 16], "list the interfaces", |payload| {
            links.extend(link(payload));
        })?;
        Ok(links)
    }

    /// All addresses with the number of the interface that has them.
    pub fn addresses(&self) -> Result<Vec<(u32, IpNet)>, LinkError> {
        let mut addresses = Vec::new();
        self.dump(libc::RTM_GETADDR, &[0; 8], "list the addresses", |payload| {
            let parse = || {
                let (prefix, index) = (*payload.get(1)?, u32_at(payload, 4)?);
                let mut found = None;
                for (kind, bytes) in attributes(payload.get(8..)?) {
                    match kind {
                        // IFA_LOCAL is the own address where both are given (point-to-point).
                        libc::IFA_LOCAL => found = address(bytes),
                        libc::IFA_ADDRESS if found.is_none() => found = address(bytes),
                        _ => {}
                    }
                }
                Some((index, IpNet::new(found?, prefix).ok()?))
            };
            addresses.extend(parse());
        })?;
        Ok(addresses)
    }

    /// The routes of the main table.
    pub fn routes(&self) -> Result<Vec<NextHop>, LinkError> {
        let mut routes = Vec::new();
        self.dump(libc::RTM_GETROUTE, &[0; 12], "list the routes", |payload| {
            let parse = || {
                let (family, prefix, table) =
                    (*payload.first()?, *payload.get(1)?, payload.get(4)?);
                if *table != libc::RT_TABLE_MAIN {
                    return None;
                }
                let unspecified: IpAddr = match i32::from(family) {
                    libc::AF_INET => [0; 4].into(),
                    libc::AF_INET6 => [0; 16].into(),
                    _ => return None,
                };
                let (mut to, mut via, mut dev) = (Some(unspecified), None, None);
                for (kind, bytes) in attributes(payload.get(12..)?) {
                    match kind {
                        libc::RTA_DST => to = address(bytes),
                        libc::RTA_GATEWAY => via = address(bytes),
                        libc::RTA_OIF => dev = u32_at(bytes, 0),
                        _ => {}
                    }
                }
                Some((IpNet::new(to?, prefix).ok()?, via, dev))
            };
            routes.extend(parse());
        })?;
        Ok(routes)
    }

    fn dump(
        &self,
        kind: u16,
        fixed: &[u8],
        what: &str,
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), LinkError> {
        let flags = libc::NLM_F_REQUEST | libc::NLM_F_DUMP;
        let mut question = Message::new(kind, flags, fixed, what.to_owned());
        if kind == libc::RTM_GETLINK {
            question.number(libc::IFLA_EXT_MASK, batch::RTEXT_FILTER_SKIP_STATS);
        }
        self.socket.ask(question, |reply| each(reply.payload))
    }
}

/// Reads an `ifinfomsg` with its attributes.
fn link(payload: &[u8]) -> Option<Link> {
    let flags = u32_at(payload, 8)?;
    let mut link = Link {
        index: u32_at(payload, 4)?,
        name: String::new(),
        up: flags & libc::IFF_UP as u32 != 0,
        mac: None,
        master: None,
    };
    for (kind, bytes) in attributes(payload.get(16..)?) {
        match kind {
            libc::IFLA_IFNAME => link.name = text(bytes),
            libc::IFLA_ADDRESS => link.mac = <[u8; 6]>::try_from(bytes).ok().map(Mac),
            libc::IFLA_MASTER => link.master = u32_at(bytes, 0),
            _ => {}
        }
    }
    Some(link)
}

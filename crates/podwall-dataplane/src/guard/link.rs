//! Which interface of the node is the other end of a pod's?
//!
//! ```text
//!   pod's namespace: eth0 (number 3) ── IFLA_LINK ──▶ 17     node: number 17 ── IFLA_LINK ──▶ 3
//!        hardware address, addresses                               its name
//! ```
//!
//! Both ends of a veth pair name each other by number (rtnetlink(7)).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::errno::Errno;
use nix::libc;

use super::Interface;
use crate::error::Error;
use crate::namespace::Namespace;
use crate::netlink::attribute::{Attributes, Message, Writer};
use crate::netlink::socket::{Socket, io_error, refused};
use crate::netlink::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};

/// What a pod's interface says from inside the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLink {
    /// Its number in the pod's namespace.
    pub index: u32,
    /// The number of its other end, in the namespace where that is.
    pub peer_index: u32,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Its addresses, without link-local ones: the guard lets through what needs those.
    pub addresses: Vec<IpAddr>,
}

/// Looks at a pod's interface, which must be an end of a veth pair.
///
/// # Errors
/// The namespace cannot be entered, has no such interface ([`Error::NoInterface`]), or the interface
/// is of another kind and so has no other end on the node ([`Error::NoVeth`]).
pub fn pod_link(namespace: &Namespace, name: &str) -> Result<PodLink, Error> {
    namespace.run(|| {
        let mut socket = Socket::route()?;
        let link = ask(&mut socket, Which::Name(name))?
            .ok_or_else(|| Error::NoInterface { interface: name.to_owned() })?;
        let no_veth = || Error::NoVeth { interface: name.to_owned(), kind: link.kind.clone() };
        if link.kind != "veth" {
            return Err(no_veth());
        }
        let (Some(peer_index), Some(mac)) = (link.peer, link.mac) else { return Err(no_veth()) };
        let addresses = addresses(&mut socket, link.index)?;
        Ok(PodLink { index: link.index, peer_index, mac, addresses })
    })
}

/// An interface as the kernel describes it.
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    /// `veth`, `bridge`; empty for a piece of hardware.
    kind: String,
    mac: Option<[u8; 6]>,
    /// The interface behind this one, if it is in another namespace.
    peer: Option<u32>,
}

/// An interface to ask for.
#[derive(Clone, Copy)]
pub(super) enum Which<'a> {
    Number(u32),
    Name(&'a str),
}

/// The other end of a pod's interface, in the namespace of the socket.
pub(super) fn other_end(socket: &mut Socket, pod: &PodLink) -> Result<Interface, Error> {
    let number = pod.peer_index;
    let gone = || Error::NoInterface { interface: format!("number {number}") };
    let link = ask(socket, Which::Number(number))?.ok_or_else(gone)?;
    if link.kind != "veth" || link.peer != Some(pod.index) {
        // The other end is in a third namespace, and the number is somebody else's here.
        return Err(Error::NoVeth { interface: link.name, kind: link.kind });
    }
    Ok(Interface { index: link.index, name: link.name })
}

/// An interface; `None`: there is none.
pub(super) fn ask(socket: &mut Socket, which: Which<'_>) -> Result<Option<Link>, Error> {
    let seq = socket.next_seq();
    let mut w = Writer::default();
    let flags = NLM_F_REQUEST | NLM_F_ACK;
    w.begin(libc::RTM_GETLINK, flags, seq, 0, 0);
    // The rest of struct ifinfomsg: index, flags, change.
    let number = if let Which::Number(number) = which { number } else { 0 };
    w.raw(&[number.to_ne_bytes(), [0; 4], [0; 4]].concat());
    if let Which::Name(name) = which {
        w.text(libc::IFLA_IFNAME, name);
    }
    w.end();
    let mut found = None;
    let answer = socket.ask(w.bytes(), seq, |message| found = read(message))?;
    match answer {
        Ok(()) => Ok(found),
        // A name that is too long to be one is refused with ERANGE.
        Err(Errno::ENODEV | Errno::ERANGE) => Ok(None),
        Err(errno) => Err(refused("the question for an interface")(errno)),
    }
}

fn read(message: &Message<'_>) -> Option<Link> {
    if message.kind != libc::RTM_NEWLINK {
        return None;
    }
    let index = u32::from_ne_bytes(message.body.get(4..8)?.try_into().ok()?);
    let attributes = Attributes(message.body.get(16..)?);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
    let elsewhere = attributes.get(libc::IFLA_LINK_NETNSID).is_some();
    let peer = attributes
        .get(libc::IFLA_LINK)
        .filter(|_| elsewhere)
        .and_then(|bytes| bytes.try_into().ok());
    let mac = attributes.get(libc::IFLA_ADDRESS).and_then(|bytes| bytes.try_into().ok());
    let kind = attributes.nest(libc::IFLA_LINKINFO).get(libc::IFLA_INFO_KIND);
    Some(Link {
        index,
        name: attributes.get(libc::IFLA_IFNAME).map(text)?,
        kind: kind.map(text).unwrap_or_default(),
        mac,
        peer: peer.map(u32::from_ne_bytes),
    })
}

/// The addresses of an interface that are not link-local.
fn addresses(socket: &mut Socket, index: u32) -> Result<Vec<IpAddr>, Error> {
    let seq = socket.next_seq();
    let mut w = Writer::default();
    w.begin(libc::RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, seq, 0, 0);
    // The rest of struct ifaddrmsg: the interface. Kernels that are not told to be strict list all.
    w.raw(&[0; 4]);
    w.end();
    let mut found = Vec::new();
    let answer =
        socket.ask(w.bytes(), seq, |message| found.extend(read_address(message, index)))?;
    answer.map_err(|errno| Error::Socket {
        doing: "list the addresses of an interface",
        source: io_error(errno as i32),
    })?;
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn read_address(message: &Message<'_>, index: u32) -> Option<IpAddr> {
    if message.kind != libc::RTM_NEWADDR {
        return None;
    }
    let body = message.body;
    let of = u32::from_ne_bytes(body.get(4..8)?.try_into().ok()?);
    let attributes = Attributes(body.get(8..)?);
    // Where both are there, IFA_ADDRESS is the other end's.
    let bytes = attributes.get(libc::IFA_LOCAL).or_else(|| attributes.get(libc::IFA_ADDRESS))?;
    let address: IpAddr = match bytes.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into(),
        _ => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into(),
    };
    let near = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    (of == index && !near).then_some(address)
}

//! Which connections does the kernel follow?
//!
//! ```text
//!   GET, dump ─▶ original: src, dst, protocol, ports │ reply: src … │ status │ zone
//!   NEW       ─▶ the same original, status with one more bit
//! ```
//!
//! Numbers are from `include/uapi/linux/netfilter/nfnetlink_conntrack.h` and
//! `nf_conntrack_common.h`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::errno::Errno;
use podwall_compile::tables::Packet;
use podwall_policy::port::Protocol;

use super::attribute::{Attributes, Message, Writer};
use super::socket::{Socket, refused};
use super::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use crate::Error;

const NEW: u16 = 1 << 8;
const GET: u16 = 1 << 8 | 1;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const ZONE: u16 = 18;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const V4_SOURCE: u16 = 1;
const V6_SOURCE: u16 = 3;
const NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;

/// Of a status: the first packet has passed all hooks.
pub(crate) const CONFIRMED: u32 = 1 << 3;
/// Of a status: no packet makes it live longer.
pub(crate) const FIXED_TIMEOUT: u32 = 1 << 10;

/// One connection, with what it takes to name it to the kernel.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    original: Vec<u8>,
    zone: Option<Vec<u8>>,
    family: u8,
    status: u32,
}

/// What a dump says of a connection.
#[derive(Clone, Copy)]
pub(crate) struct Listed<'a> {
    family: u8,
    attributes: Attributes<'a>,
    status: u32,
}

impl<'a> Listed<'a> {
    fn read(message: &Message<'a>) -> Option<Self> {
        let attributes = message.attributes();
        let family = *message.body.first()?;
        Some(Self { family, attributes, status: attributes.u32(STATUS)? })
    }

    /// Whether no packet makes it live longer.
    pub(crate) fn is_fixed(&self) -> bool {
        self.status & FIXED_TIMEOUT != 0
    }

    /// Its packets in the original direction, as policies see them: the source before source NAT,
    /// and the destination after destination NAT, which is where replies come from.
    pub(crate) fn packet(&self) -> Option<Packet> {
        let (original, reply) =
            (self.attributes.nest(TUPLE_ORIGINAL), self.attributes.nest(TUPLE_REPLY));
        let protocol = Protocol(*original.nest(TUPLE_PROTOCOL).get(NUMBER)?.first()?);
        let answering = reply.nest(TUPLE_PROTOCOL).get(SOURCE_PORT);
        let port = answering.and_then(|bytes| bytes.try_into().ok()).map(u16::from_be_bytes);
        let src = source(original.nest(TUPLE_IP))?;
        let dst = source(reply.nest(TUPLE_IP))?;
        let port = if protocol.has_ports() { port? } else { 0 };
        Some(Packet { src, dst, protocol, port, from_node: false, to_node: false })
    }

    /// What names it.
    pub(crate) fn named(&self) -> Option<Connection> {
        Some(Connection {
            original: self.attributes.get(TUPLE_ORIGINAL)?.to_vec(),
            zone: self.attributes.get(ZONE).map(<[u8]>::to_vec),
            family: self.family,
            status: self.status,
        })
    }
}

fn source(ip: Attributes<'_>) -> Option<IpAddr> {
    let v4 = ip.get(V4_SOURCE).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
    let v6 = || ip.get(V6_SOURCE).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
    v4.map(|bytes| Ipv4Addr::from(bytes).into()).or_else(|| Some(Ipv6Addr::from(v6()?).into()))
}

/// A list of all connections of a network namespace, of both families, that comes in parts. One
/// that begins meanwhile may be left out.
pub(crate) struct List {
    socket: Socket,
    seq: u32,
}

impl List {
    /// Asks for it, in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub(crate) fn ask() -> Result<Self, Error> {
        let mut socket = Socket::open()?;
        let seq = socket.next_seq();
        let mut w = Writer::default();
        w.begin(GET, NLM_F_REQUEST | NLM_F_DUMP, seq, 0, 0);
        w.end();
        socket.send(w.bytes())?;
        Ok(Self { socket, seq })
    }

    /// Looks at the next part; whether it was the last.
    ///
    /// # Errors
    /// The kernel refuses, or says what cannot be read.
    pub(crate) fn part(&mut self, look: &mut dyn FnMut(Listed<'_>)) -> Result<bool, Error> {
        let mut strange = false;
        let ended = self.socket.part(self.seq, |message| match Listed::read(message) {
            Some(listed) => look(listed),
            None => strange = true,
        })?;
        if strange {
            let words = "the kernel described a connection in an unknown way";
            return Err(Error::Lost(words.into()));
        }
        match ended {
            None => Ok(false),
            Some(Ok(())) => Ok(true),
            Some(Err(errno)) => Err(refused("the question for connections")(errno)),
        }
    }
}

/// Lets no packet make the connection live longer. False: its status has changed meanwhile, so that
/// it must be looked at again. One that is gone is fine.
///
/// # Errors
/// The kernel cannot be asked, or refuses.
pub(crate) fn fix(socket: &mut Socket, connection: &Connection) -> Result<bool, Error> {
    let seq = socket.next_seq();
    let mut w = Writer::default();
    w.begin(NEW, NLM_F_REQUEST | NLM_F_ACK, seq, connection.family, 0);
    w.nested_bytes(TUPLE_ORIGINAL, &connection.original);
    if let Some(zone) = &connection.zone {
        w.put(ZONE, zone);
    }
    w.u32(STATUS, connection.status | FIXED_TIMEOUT);
    w.end();
    match socket.ask(w.bytes(), seq, |_| {})? {
        Ok(()) | Err(Errno::ENOENT) => Ok(true),
        // `__nf_ct_change_status` takes no bit away, and answers so.
        Err(Errno::EBUSY) => Ok(false),
        Err(errno) => Err(refused("the revocation of a connection")(errno)),
    }
}

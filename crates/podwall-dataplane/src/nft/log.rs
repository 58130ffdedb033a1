//! How do dropped packets come out of NFLOG?
//!
//! ```text
//!   limit … log group N prefix "podwall egress " ──▶ nfnetlink_log ──▶ prefix, first bytes of the packet
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::SystemTime;

use nix::errno::Errno;
use podwall_policy::policy::Direction;
use podwall_policy::port::Protocol;

use super::{dump, program};
use crate::Error;
use crate::denied::{Denials, Denied};
use crate::namespace::Namespace;
use crate::netlink;
use crate::netlink::attribute::{Message, Writer};
use crate::netlink::socket::{Socket, io_error};

// uapi/linux/netfilter/nfnetlink_log.h
const PACKET: u16 = 4 << 8;
const CONFIG: u16 = 4 << 8 | 1;
const CFG_CMD: u16 = 1;
const CFG_MODE: u16 = 2;
const CFG_TIMEOUT: u16 = 4;
const CMD_BIND: u8 = 1;
const COPY_PACKET: u8 = 2;
const PAYLOAD: u16 = 9;
const PREFIX: u16 = 10;
/// As many bytes as headers may have.
const COPIED: u32 = 256;
/// How long the kernel may collect packets before it sends them, in hundredths of a second.
const COLLECT: u32 = 1;

/// Follows a group in a network namespace. A group has one reader.
pub(crate) fn follow(namespace: &Namespace, group: u16) -> Result<Denials, Error> {
    let open = || {
        let mut socket = Socket::open()?;
        bind(&mut socket, group)?;
        Ok(socket)
    };
    let mut socket = namespace.run(open)?;
    Denials::from_thread(move |sender| {
        let source = socket.duplicate()?;
        let read = move || {
            let each = |message: &Message<'_>| {
                if let Some(denied) = denied(message) {
                    let _ = sender.send(denied); // nobody listens any more
                }
            };
            match socket.read(each) {
                Err(Error::Lost(_)) => Ok(()), // too many at once: some are not reported
                done => done,
            }
        };
        Ok((source, read))
    })
}

fn bind(socket: &mut Socket, group: u16) -> Result<(), Error> {
    // All of nfnetlink refuses with EPERM whom it does not trust, and this command with the same
    // if the group is another's (`nfulnl_recv_config`). So ask for something else first.
    dump::generation(socket)?;
    let seq = socket.next_seq();
    let mut writer = Writer::default();
    writer.begin(CONFIG, netlink::NLM_F_REQUEST | netlink::NLM_F_ACK, seq, 0, group);
    writer.put(CFG_CMD, &[CMD_BIND]);
    let [a, b, c, d] = COPIED.to_be_bytes();
    writer.put(CFG_MODE, &[a, b, c, d, COPY_PACKET, 0]);
    writer.u32(CFG_TIMEOUT, COLLECT);
    writer.end();
    let answer = socket.ask(writer.bytes(), seq, |_| {})?;
    answer.map_err(|errno| match errno {
        Errno::EPERM | Errno::EBUSY => {
            Error::Config(format!("somebody else follows NFLOG group {group} already"))
        }
        other => Error::Socket { doing: "follow dropped packets", source: io_error(other as i32) },
    })
}

fn denied(message: &Message<'_>) -> Option<Denied> {
    if message.kind != PACKET {
        return None;
    }
    let prefix = message.attributes().get(PREFIX)?;
    let said = |direction, stranger| {
        let begins = prefix.starts_with(program::prefix(direction, stranger).as_bytes());
        begins.then_some((direction, stranger))
    };
    // The longer prefixes begin with the shorter ones.
    let mut all = [true, false].into_iter().flat_map(|stranger| {
        Direction::BOTH.into_iter().filter_map(move |direction| said(direction, stranger))
    });
    let (direction, stranger) = all.next()?;
    let packet = message.attributes().get(PAYLOAD)?;
    let (src, dst, protocol, behind) = match packet.first()? >> 4 {
        4 => v4(packet)?,
        _ => v6(packet)?,
    };
    let port = |at: usize| {
        let bytes = packet.get(behind? + at..behind? + at + 2)?.try_into().ok()?;
        Some(u16::from_be_bytes(bytes))
    };
    let (src_port, port) =
        if protocol.has_ports() { (port(0).unwrap_or(0), port(2).unwrap_or(0)) } else { (0, 0) };
    let when = SystemTime::now();
    Some(Denied { when, direction, src, dst, protocol, src_port, port, rule: None, stranger })
}

/// Addresses, protocol, and where its header is; none in a later fragment.
type Headers = (IpAddr, IpAddr, Protocol, Option<usize>);

fn v4(packet: &[u8]) -> Option<Headers> {
    let header: &[u8; 20] = packet.get(..20)?.try_into().ok()?;
    let address = |at: usize| -> Option<IpAddr> {
        let bytes: [u8; 4] = header.get(at..at + 4)?.try_into().ok()?;
        Some(Ipv4Addr::from(bytes).into())
    };
    let first = (header[6] & 0x1f) | header[7] == 0;
    let behind = first.then_some(usize::from(header[0] & 0xf) * 4);
    Some((address(12)?, address(16)?, Protocol(header[9]), behind))
}

fn v6(packet: &[u8]) -> Option<Headers> {
    let address = |at: usize| -> Option<IpAddr> {
        let bytes: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
        Some(Ipv6Addr::from(bytes).into())
    };
    let (mut next, mut at) = (*packet.get(6)?, 40);
    // RFC 8200 section 4: hop-by-hop, routing, fragment, authentication, destination options.
    while let (0 | 43 | 44 | 51 | 60, Some([following, length, ..])) =
        (next, packet.get(at..at + 8))
    {
        at += match next {
            44 => 8,
            51 => (usize::from(*length) + 2) * 4,
            _ => (usize::from(*length) + 1) * 8,
        };
        next = *following;
    }
    Some((address(8)?, address(24)?, Protocol(next), Some(at)))
}

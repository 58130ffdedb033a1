//! How are protocols without a connection of the kernel's probed?
//!
//! ```text
//!   UDP     MAGIC token            ──▶  ◀── MAGIC token who-is-here     connected socket
//!   SCTP    INIT, tag = token      ──▶  ◀── INIT ACK │ ABORT            raw socket
//!   ICMP    echo, MAGIC token      ──▶  ◀── echo reply                  raw socket
//!   others  MAGIC token            ──▶      (seen to arrive, or not)    raw socket
//! ```
//!
//! Every probe has a socket of its own, so that answers and ICMP errors find it; what a raw socket
//! hears of others' is told apart by the token.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, connect, recv, send, socket};
use podwall_policy::port::Protocol;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

use super::attempt::{Ended, Probe};
use super::errors::{self, Report};
use super::outcome::{Outcome, Refusal};
use crate::serve::identity::{Answer, probe_payload, read_probe};
use crate::serve::sctp_wire::{ABORT, Chunk, INIT, INIT_ACK, Init, Packet, u32_at};
use crate::serve::{read_cookie, socket as sockets, split_ipv4};

/// When a packet is sent again, counted from the first, in milliseconds.
const AGAIN: [u64; 6] = [40, 120, 300, 600, 1000, 1500];

/// How many packets are sent if silence is expected: one could be lost to an address that is being
/// resolved.
const IF_SILENT: usize = 2;

/// The socket, as the calling thread's namespace makes it.
pub(super) fn open(v6: bool, protocol: Protocol) -> io::Result<OwnedFd> {
    let socket = if protocol == Protocol::UDP {
        let family = if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        socket(family, SockType::Datagram, flags, None)?
    } else {
        sockets::raw_socket(v6, protocol)?
    };
    errors::keep(&socket, v6)?;
    Ok(socket)
}

/// Whether a destination answers probes of this protocol at all.
pub(super) fn has_answer(protocol: Protocol) -> bool {
    protocol.has_ports() || matches!(protocol, Protocol::ICMP | Protocol::ICMPV6)
}

/// Sends until something comes back.
pub(super) async fn run(probe: &Probe<'_>, socket: OwnedFd) -> Ended {
    let mut to = probe.to();
    if probe.protocol != Protocol::UDP {
        to.set_port(0);
    }
    if let Err(error) = connect(socket.as_raw_fd(), &sockets::address(to)) {
        return errors::ended(probe, &error.into());
    }
    let socket = match sockets::watched(socket) {
        Ok(socket) => socket,
        Err(error) => return errors::ended(probe, &error),
    };
    let packet = packet(probe);
    let packets = if probe.insistent { AGAIN.len() + 1 } else { IF_SILENT };
    let mut refused = 0;
    for sent in 0..packets {
        match send_one(&socket, &packet) {
            Ok(()) => {}
            Err(nix::Error::EPERM) => refused += 1,
            // Either an ICMP error that came before, which the queue explains, or our own.
            Err(error) => match look(probe, &socket) {
                Some(outcome) => return Ended::With(outcome),
                None => return errors::ended(probe, &error.into()),
            },
        }
        let until = match AGAIN.get(sent) {
            Some(millis) if sent + 1 < packets => probe.start + Duration::from_millis(*millis),
            // Silence ends it.
            _ => break,
        };
        if let Some(ended) = receive_until(probe, &socket, Some(until)).await {
            return ended;
        }
    }
    if refused == packets {
        return Ended::NotSent;
    }
    match receive_until(probe, &socket, None).await {
        Some(ended) => ended,
        None => std::future::pending().await,
    }
}

fn send_one(socket: &AsyncFd<OwnedFd>, packet: &[u8]) -> nix::Result<()> {
    let fd = socket.as_raw_fd();
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    match send(fd, packet, flags) {
        // A full queue loses the packet; the next is sent in a moment.
        Ok(_) | Err(nix::Error::EAGAIN | nix::Error::ENOBUFS) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Receives until something concerns the probe or the time has come.
async fn receive_until(
    probe: &Probe<'_>,
    socket: &AsyncFd<OwnedFd>,
    until: Option<Instant>,
) -> Option<Ended> {
    let receive = async {
        loop {
            let mut ready = match socket.ready(sockets::INTEREST).await {
                Ok(ready) => ready,
                Err(error) => return errors::ended(probe, &error),
            };
            if let Some(outcome) = look(probe, socket) {
                return Ended::With(outcome);
            }
            // Everything was read.
            ready.clear_ready();
        }
    };
    match until {
        None => Some(receive.await),
        Some(until) => tokio::select! {
            ended = receive => Some(ended),
            () = sleep_until(until) => None,
        },
    }
}

/// Reads everything that is there, errors first, and says what concerns the probe.
fn look(probe: &Probe<'_>, socket: &AsyncFd<OwnedFd>) -> Option<Outcome> {
    let mut buffer = [0; 2048];
    let mut errors_left = 16;
    while errors_left > 0 {
        while let Some(report) = errors::next(socket) {
            if concerns(probe, &report) {
                return Some(errors::outcome(probe, &report));
            }
        }
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => {
                let raw_v4 = probe.task.destination.is_ipv4() && probe.protocol != Protocol::UDP;
                let received = &buffer[..length];
                let transport = if raw_v4 {
                    split_ipv4(received).map(|(_, transport)| transport)
                } else {
                    Some(received)
                };
                if let Some(outcome) = transport.and_then(|bytes| read(probe, socket, bytes)) {
                    return Some(outcome);
                }
            }
            Err(nix::Error::EAGAIN) => return None,
            // The errno of an ICMP error whose report the queue has next, or had.
            Err(_) => errors_left -= 1,
        }
    }
    None
}

/// The bytes that are sent: what follows the IP header, for UDP the payload.
fn packet(probe: &Probe<'_>) -> Vec<u8> {
    let payload = probe_payload(probe.token);
    match probe.protocol {
        Protocol::SCTP => {
            let init = Init { tag: probe.token, tsn: probe.token, parameters: vec![] }.to_bytes();
            let chunks = vec![Chunk { kind: INIT, flags: 0, value: &init }];
            let (source, destination) = (sctp_port(probe), probe.task.port);
            Packet { source, destination, tag: 0, chunks }.to_bytes()
        }
        Protocol::ICMP => {
            let mut bytes = vec![8, 0, 0, 0, 0, 0, 0, 1];
            bytes[4..6].copy_from_slice(&probe.token.to_be_bytes()[2..]);
            bytes.extend(payload);
            let sum = internet_checksum(&bytes);
            bytes[2..4].copy_from_slice(&sum.to_be_bytes());
            bytes
        }
        Protocol::ICMPV6 => {
            // The kernel fills in the checksum (RFC 3542 §3.1).
            let mut bytes = vec![128, 0, 0, 0, 0, 0, 0, 1];
            bytes[4..6].copy_from_slice(&probe.token.to_be_bytes()[2..]);
            bytes.extend(payload);
            bytes
        }
        _ => payload.to_vec(),
    }
}

/// A source port of the dynamic range, spread by the token.
fn sctp_port(probe: &Probe<'_>) -> u16 {
    const FIRST: u16 = 49_152;
    FIRST + (probe.token % u32::from(u16::MAX - FIRST)) as u16
}

/// What a received packet says about the probe; `None` if it is not about it.
fn read(probe: &Probe<'_>, socket: &AsyncFd<OwnedFd>, bytes: &[u8]) -> Option<Outcome> {
    let millis = probe.millis();
    match probe.protocol {
        Protocol::UDP => {
            let by = read_probe(bytes)
                .filter(|(token, _)| *token == probe.token)
                .and_then(|(_, text)| Answer::parse(std::str::from_utf8(text).ok()?));
            // Whatever comes back from the connected address is an answer.
            Some(Outcome::Answered { by, millis })
        }
        Protocol::SCTP => {
            let packet = Packet::parse(bytes)?;
            if packet.tag != probe.token || packet.source != probe.task.port {
                return None;
            }
            let chunk = packet.chunks.first()?;
            match chunk.kind {
                ABORT => Some(Outcome::Refused { how: Refusal::Abort, millis }),
                INIT_ACK => {
                    let init = Init::parse(chunk.value)?;
                    // No association is wanted; connection tracking may forget it.
                    let abort = Packet {
                        source: packet.destination,
                        destination: packet.source,
                        tag: init.tag,
                        chunks: vec![Chunk { kind: ABORT, flags: 0, value: &[] }],
                    };
                    let _ = send_one(socket, &abort.to_bytes());
                    Some(Outcome::Answered { by: init.cookie().and_then(read_cookie), millis })
                }
                _ => None,
            }
        }
        Protocol::ICMP | Protocol::ICMPV6 => {
            let reply = if probe.protocol == Protocol::ICMP { 0 } else { 129 };
            let token = read_probe(bytes.get(8..)?)?.0;
            (bytes[0] == reply && token == probe.token)
                .then_some(Outcome::Answered { by: None, millis })
        }
        _ => None,
    }
}

/// Whether an ICMP error is about this probe: raw sockets with the same peer hear each other's.
fn concerns(probe: &Probe<'_>, report: &Report) -> bool {
    let about = report.about.as_slice();
    let token = match probe.protocol {
        // A socket of its own; some routers return no payload.
        Protocol::UDP => return true,
        Protocol::SCTP => u32_at(about, 16),
        Protocol::ICMP | Protocol::ICMPV6 => about.get(8..).and_then(read_probe).map(|p| p.0),
        _ => read_probe(about).map(|p| p.0),
    };
    token == Some(probe.token)
}

/// RFC 1071.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

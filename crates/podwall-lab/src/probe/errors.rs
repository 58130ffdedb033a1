//! What does an error of a socket say about the network?
//!
//! ```text
//!   ICMP error ──▶ error queue of the socket (IP_RECVERR) ──▶ type, code, who said it, whose packet
//! ```
//!
//! `errno` alone blurs the kinds; the queue (ip(7), `MSG_ERRQUEUE`) has them as they came.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;
use nix::sys::socket::sockopt::{Ipv4RecvErr, Ipv6RecvErr};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt};
use podwall_policy::port::Protocol;

use super::attempt::{Ended, Probe};
use super::outcome::{Icmp, Outcome, Refusal};

/// `SO_EE_ORIGIN_ICMP` and `SO_EE_ORIGIN_ICMP6` (linux/errqueue.h).
const FROM_ICMP: [u8; 2] = [2, 3];

/// One ICMP error, and the packet that it is about.
pub(super) struct Report {
    pub(super) icmp: Icmp,
    pub(super) from: Option<IpAddr>,
    /// The packet from behind its IP header; for UDP its payload.
    pub(super) about: Vec<u8>,
}

/// Has ICMP errors kept for the socket.
pub(super) fn keep(socket: &impl AsFd, v6: bool) -> io::Result<()> {
    if v6 {
        Ok(setsockopt(socket, Ipv6RecvErr, &true)?)
    } else {
        Ok(setsockopt(socket, Ipv4RecvErr, &true)?)
    }
}

/// The next ICMP error that was kept; errors of the kernel's own are passed over.
pub(super) fn next(socket: &impl AsFd) -> Option<Report> {
    let fd = socket.as_fd().as_raw_fd();
    let mut buffer = [0; 512];
    loop {
        let mut space = nix::cmsg_space!(
            (libc::sock_extended_err, libc::sockaddr_in6),
            (libc::sock_extended_err, libc::sockaddr_in6)
        );
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let message = recvmsg::<SockaddrStorage>(fd, &mut slices, Some(&mut space), flags).ok()?;
        let length = message.bytes;
        let mut found = None;
        for control in message.cmsgs().ok()? {
            let (error, from) = match control {
                ControlMessageOwned::Ipv4RecvErr(error, from) => {
                    let ip = |a: libc::sockaddr_in| {
                        IpAddr::V4(Ipv4Addr::from(a.sin_addr.s_addr.to_ne_bytes()))
                    };
                    (error, from.map(ip))
                }
                ControlMessageOwned::Ipv6RecvErr(error, from) => {
                    let ip =
                        |a: libc::sockaddr_in6| IpAddr::V6(Ipv6Addr::from(a.sin6_addr.s6_addr));
                    (error, from.map(ip))
                }
                _ => continue,
            };
            if FROM_ICMP.contains(&error.ee_origin) {
                let v6 = error.ee_origin == FROM_ICMP[1];
                found = Some((Icmp::of(v6, error.ee_type, error.ee_code), from));
            }
        }
        if let Some((icmp, from)) = found {
            return Some(Report { icmp, from, about: buffer[..length].to_vec() });
        }
    }
}

/// What an ICMP error means for a probe.
pub(super) fn outcome(probe: &Probe<'_>, report: &Report) -> Outcome {
    match report.icmp {
        Icmp::Port if probe.protocol.has_ports() => {
            Outcome::Refused { how: Refusal::PortUnreachable, millis: probe.millis() }
        }
        icmp => Outcome::Unreachable { icmp, from: report.from },
    }
}

/// What an error of `connect`, `send` or `receive` means, if no ICMP error explains it.
pub(super) fn ended(probe: &Probe<'_>, error: &io::Error) -> Ended {
    let to = probe.task.destination;
    let own = |icmp| Ended::With(Outcome::Unreachable { icmp, from: None });
    match error.raw_os_error() {
        // What nftables' drop in an output hook comes to for the sender.
        Some(libc::EPERM) => Ended::NotSent,
        Some(libc::ECONNREFUSED | libc::ECONNRESET) if probe.protocol == Protocol::TCP => {
            Ended::With(Outcome::Refused { how: Refusal::Reset, millis: probe.millis() })
        }
        Some(libc::ECONNREFUSED) => own(Icmp::Port),
        Some(libc::ENETUNREACH) => own(Icmp::Network),
        Some(libc::EHOSTUNREACH) => own(Icmp::Host),
        Some(libc::EACCES) => own(Icmp::Prohibited),
        Some(libc::ENOPROTOOPT | libc::EPROTO) => own(Icmp::Protocol),
        _ => Ended::With(Outcome::Error { what: format!("cannot send to {to}: {error}") }),
    }
}

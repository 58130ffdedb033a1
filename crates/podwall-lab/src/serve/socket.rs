//! Which sockets do servers and probes need?
//!
//! ```text
//!   TCP, UDP   one socket on [::] for both families (on 0.0.0.0 where the kernel has no IPv6)
//!   raw        one socket a family: SCTP, ICMP and protocols without sockets of their own
//! ```
//!
//! Every function here acts in the calling thread's network namespace; callers run them inside
//! [`NetNs::within`](crate::netns::NetNs::within). All sockets are non-blocking.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::sockopt::{
    IpFreebind, Ipv4PacketInfo, Ipv6RecvPacketInfo, Ipv6V6Only, RcvBuf, RcvBufForce, ReuseAddr,
};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
    SockaddrIn, SockaddrIn6, SockaddrStorage, bind, listen, recvmsg, sendmsg, setsockopt, socket,
};
use podwall_policy::port::Protocol;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Raises the soft limit of open descriptors to the hard one, once it matters: a lab of 150 pods
/// with three ports each needs more than the usual 1024. Failing is harmless here; a socket that
/// cannot be opened is reported where it happens.
pub(crate) fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// A listening TCP socket on every address of the namespace.
pub(crate) fn tcp_listener(port: u16) -> io::Result<std::net::TcpListener> {
    let (socket, _) = on_every_address(SockType::Stream, port)?;
    listen(&socket, Backlog::new(1024)?)?;
    Ok(socket.into())
}

/// A UDP socket on every address of the namespace that tells which one was asked, and whether it is
/// of the IPv6 family.
pub(crate) fn udp_socket(port: u16) -> io::Result<(OwnedFd, bool)> {
    let (socket, v6) = on_every_address(SockType::Datagram, port)?;
    deep_receive_buffer(&socket);
    Ok((socket, v6))
}

/// A listening socket of the kernel's SCTP on every address of the namespace.
pub(crate) fn sctp_listener(port: u16) -> io::Result<OwnedFd> {
    let socket = open(libc::AF_INET6, libc::SOCK_STREAM, Protocol::SCTP.0.into())?;
    setsockopt(&socket, Ipv6V6Only, &false)?;
    let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    bind(socket.as_raw_fd(), &address(any))?;
    listen(&socket, Backlog::new(1024)?)?;
    Ok(socket)
}

/// Accepts one connection and closes it.
pub(crate) fn accept(socket: &impl AsFd) -> io::Result<()> {
    let fd = nix::sys::socket::accept(socket.as_fd().as_raw_fd())?;
    Ok(nix::unistd::close(fd)?)
}

fn on_every_address(kind: SockType, port: u16) -> io::Result<(OwnedFd, bool)> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    match socket(AddressFamily::Inet6, kind, flags, None) {
        Ok(socket) => {
            setsockopt(&socket, Ipv6V6Only, &false)?;
            setsockopt(&socket, ReuseAddr, &(kind == SockType::Stream))?;
            tell_destination(&socket, true)?;
            any_source(&socket, true)?;
            bind(
                socket.as_raw_fd(),
                &address(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)),
            )?;
            Ok((socket, true))
        }
        Err(nix::Error::EAFNOSUPPORT) => {
            let socket = socket_v4(kind, flags)?;
            bind(
                socket.as_raw_fd(),
                &address(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)),
            )?;
            Ok((socket, false))
        }
        Err(error) => Err(error.into()),
    }
}

fn socket_v4(kind: SockType, flags: SockFlag) -> io::Result<OwnedFd> {
    let socket = socket(AddressFamily::Inet, kind, flags, None)?;
    setsockopt(&socket, ReuseAddr, &(kind == SockType::Stream))?;
    tell_destination(&socket, false)?;
    any_source(&socket, false)?;
    Ok(socket)
}

/// A raw socket of one family that tells which address was asked. IPv4 packets come with their
/// header and are sent without one.
pub(crate) fn raw_socket(v6: bool, protocol: Protocol) -> io::Result<OwnedFd> {
    let family = if v6 { libc::AF_INET6 } else { libc::AF_INET };
    let socket = open(family, libc::SOCK_RAW, i32::from(protocol.0))?;
    if v6 {
        // The kernel's own idea of a checksum in the first 64 KiB would overwrite the payload.
        tell_destination(&socket, true)?;
    }
    any_source(&socket, v6)?;
    deep_receive_buffer(&socket);
    Ok(socket)
}

/// `socket(2)` for kinds and protocols that nix's enumerations do not name.
#[expect(unsafe_code, reason = "nix's socket() takes an enumeration without SCTP")]
pub(crate) fn open(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    let kind = kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: socket(2) takes three numbers and touches no memory of ours.
    let fd = unsafe { libc::socket(family, kind, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Lets the socket bind to and send from any address: those of the outside world are local routes
/// without an interface, and a pod's address may still be tentative (RFC 4862 §5.4).
pub(crate) fn any_source(socket: &impl AsFd, v6: bool) -> io::Result<()> {
    if v6 {
        set_int(socket, libc::IPPROTO_IPV6, libc::IPV6_FREEBIND, 1)
    } else {
        Ok(setsockopt(socket, IpFreebind, &true)?)
    }
}

/// What is waited for: datagrams, and the ICMP errors that only the error queue shows.
pub(crate) const INTEREST: Interest = Interest::READABLE.add(Interest::ERROR);

/// Registers a socket with the runtime in whose context this is called.
#[expect(unsafe_code, reason = "tokio cannot see that the descriptor stays the same")]
pub(crate) fn watched(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd names one open descriptor until it is dropped, and AsyncFd drops it only
    // after it has taken it out of the runtime.
    Ok(unsafe { AsyncFd::register_with_interest(socket, INTEREST) }?)
}

/// `setsockopt(2)` with a number, for options that nix does not name.
#[expect(unsafe_code, reason = "nix has no IPV6_FREEBIND, TCP_QUEUE_SEQ and PACKET_* options")]
pub(crate) fn set_int(socket: &impl AsFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    let length = size_of::<i32>() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the pointer and the length describe `value`, which lives until the call returns.
    let result =
        unsafe { libc::setsockopt(fd, level, option, std::ptr::from_ref(&value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn tell_destination(socket: &impl AsFd, v6: bool) -> io::Result<()> {
    if v6 {
        Ok(setsockopt(socket, Ipv6RecvPacketInfo, &true)?)
    } else {
        Ok(setsockopt(socket, Ipv4PacketInfo, &true)?)
    }
}

/// Room for a burst of probes from every pod at once: 4 MiB where we may, else what is allowed.
pub(crate) fn deep_receive_buffer(socket: &impl AsFd) {
    const BYTES: usize = 4 << 20;
    if setsockopt(socket, RcvBufForce, &BYTES).is_err() {
        let _ = setsockopt(socket, RcvBuf, &BYTES);
    }
}

/// The kernel's form of an address.
pub(crate) fn address(address: SocketAddr) -> SockaddrStorage {
    SockaddrStorage::from(address)
}

/// Receives one datagram: its length, who sent it, and to which address (where the socket tells).
/// Addresses are unmapped: an IPv4 packet on an IPv6 socket has IPv4 addresses.
pub(crate) fn receive(
    socket: &impl AsFd,
    buffer: &mut [u8],
) -> io::Result<(usize, SocketAddr, Option<IpAddr>)> {
    let mut slices = [IoSliceMut::new(buffer)];
    let mut space = nix::cmsg_space!(libc::in_pktinfo, libc::in6_pktinfo);
    let fd = socket.as_fd().as_raw_fd();
    let message =
        recvmsg::<SockaddrStorage>(fd, &mut slices, Some(&mut space), MsgFlags::MSG_DONTWAIT)?;
    let from = message.address.as_ref().and_then(socket_address).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "a datagram without a sender's address")
    })?;
    let mut to = None;
    for control in message.cmsgs()? {
        match control {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                to = Some(IpAddr::V4(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes())));
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                to = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).to_canonical());
            }
            _ => {}
        }
    }
    Ok((message.bytes, from, to))
}

/// Sends one datagram `from` an address of the namespace, or from the one that routing takes.
/// `v6` says of which family the socket is; IPv4 addresses are mapped for a dual-stack socket.
pub(crate) fn send(
    socket: &impl AsFd,
    v6: bool,
    payload: &[u8],
    to: SocketAddr,
    from: Option<IpAddr>,
) -> io::Result<()> {
    let slices = [IoSlice::new(payload)];
    let fd = socket.as_fd().as_raw_fd();
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let to = address(if v6 { SocketAddr::new(mapped(to.ip()).into(), to.port()) } else { to });
    let to = Some(&to);
    match from {
        None => sendmsg(fd, &slices, &[], flags, to)?,
        Some(from) if v6 => {
            let info = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr { s6_addr: mapped(from).octets() },
                ipi6_ifindex: 0,
            };
            sendmsg(fd, &slices, &[ControlMessage::Ipv6PacketInfo(&info)], flags, to)?
        }
        Some(IpAddr::V4(from)) => {
            let source = libc::in_addr { s_addr: u32::from_ne_bytes(from.octets()) };
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: source,
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            sendmsg(fd, &slices, &[ControlMessage::Ipv4PacketInfo(&info)], flags, to)?
        }
        Some(IpAddr::V6(_)) => return Err(io::ErrorKind::InvalidInput.into()),
    };
    Ok(())
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// An address of the kernel's as Rust's; unmapped. `None` for another family.
fn socket_address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = |a: &SockaddrIn| SocketAddr::new(a.ip().into(), a.port());
    let v6 = |a: &SockaddrIn6| SocketAddr::new(a.ip().to_canonical(), a.port());
    storage.as_sockaddr_in().map(v4).or_else(|| storage.as_sockaddr_in6().map(v6))
}

//! A node on a wire: any packet in, and what comes out again.
//!
//! ```text
//!   test ── frame ──▶ in ─ node 10.0.9.1, fd00::9:1 ─ out ──▶ test        forwarded
//!                          └─▶ raw sockets ──▶ test                       to the node
//!   test ── raw socket of the node ──────────────── out ──▶ test          sent by the node
//! ```
//!
//! The node routes every address out of the other interface, so that any address may be a pod's.
//! One CPU carries all packets in order: when the *fence* that is sent last has come out, every
//! other packet has come out or never will.

use std::cell::Cell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{MsgFlags, SockaddrIn, SockaddrIn6, recv, sendto};
use nix::unistd::Pid;
use podwall_compile::tables::Packet;
use podwall_policy::address::Family;

use super::{Net, transport};

/// The node's own addresses.
pub const OWN: [&str; 2] = ["10.0.9.1", "fd00::9:1"];

/// Protocols besides those with ports; 58 on IPv6 stands for 1 on IPv4.
const PROTOCOLS: [u8; 6] = [6, 17, 132, 1, 47, super::EXPERIMENT];

/// A packet to be tried.
#[derive(Clone, Copy, Debug)]
pub struct Shot {
    pub packet: Packet,
    /// In two fragments.
    pub fragmented: bool,
    /// Behind hop-by-hop and destination options (IPv6).
    pub extended: bool,
}

pub struct Wire {
    pub node: Net,
    far: Net,
    /// Frames to the node, and what comes out.
    into: OwnedFd,
    out: OwnedFd,
    /// Packets of the node with a header of the test's, by family.
    own: [OwnedFd; 2],
    /// What arrives at the node itself.
    arrived: Vec<OwnedFd>,
    conntrack: OwnedFd,
    token: u32,
    sent: Cell<u32>,
    /// Every so manieth packet never gets to the node; 0: all do.
    pub loses: u32,
}

const MAGIC: &[u8; 8] = b"podwall!";
const IN: [u8; 6] = [2, 0, 0, 0, 0, 0x10];
const FAR: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
const FENCE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1)), IpAddr::V4(Ipv4Addr::new(198, 18, 0, 2))];

impl Wire {
    pub fn new() -> Self {
        let mut one = CpuSet::new();
        one.set(0).unwrap();
        // Order is kept by one CPU only. For this thread and those that it starts.
        sched_setaffinity(Pid::from_raw(0), &one).unwrap();
        let (node, far) = (Net::new(), Net::new());
        node.sysctl("ipv4/ip_forward", "1");
        node.sysctl("ipv6/conf/all/forwarding", "1");
        for which in ["all", "default"] {
            node.sysctl(&format!("ipv4/conf/{which}/rp_filter"), "0");
            node.sysctl(&format!("ipv6/conf/{which}/accept_dad"), "0");
        }
        let [v4, v6] = OWN;
        node.ip(&format!(
            "link set lo up\n\
             addr add {v4}/32 dev lo\naddr add {v6}/128 dev lo nodad\n\
             link add in address 02:00:00:00:00:10 type veth peer name in \
             address 02:00:00:00:00:11 netns {far}\n\
             link add out address 02:00:00:00:00:20 type veth peer name out \
             address 02:00:00:00:00:21 netns {far}\n\
             link set in up\nlink set out up\n",
            far = far.path()
        ));
        far.ip("link set in up\nlink set out up\n");
        node.ip("neigh add 169.254.1.1 lladdr 02:00:00:00:00:21 dev out nud permanent\n\
             neigh add fe80::1 lladdr 02:00:00:00:00:21 dev out nud permanent\n\
             route add default via 169.254.1.1 dev out onlink\n\
             route add ::/0 via fe80::1 dev out onlink\n");
        let (into, out) = far.run(|| (frames("in", 0), frames("out", ETH_P_ALL)));
        let (own, arrived, conntrack) = node.run(|| {
            let own = Family::BOTH.map(|family| {
                let socket = raw(family, libc::IPPROTO_RAW);
                if family == Family::V4 {
                    option(&socket, libc::IPPROTO_IP, libc::IP_HDRINCL, 1);
                } else {
                    option(&socket, libc::IPPROTO_IPV6, libc::IPV6_HDRINCL, 1);
                }
                socket
            });
            let all = Family::BOTH.into_iter().flat_map(|family| {
                PROTOCOLS.map(|protocol| {
                    let icmp6 = protocol == 1 && family == Family::V6;
                    raw(family, if icmp6 { 58 } else { protocol.into() })
                })
            });
            let arrived: Vec<_> = all.collect();
            arrived.iter().for_each(much_room);
            let conntrack = socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER);
            (own, arrived, conntrack)
        });
        much_room(&out);
        Self {
            node,
            far,
            into,
            out,
            own,
            arrived,
            conntrack,
            token: 1,
            sent: Cell::new(0),
            loses: 0,
        }
    }

    /// Sends the packets; which of them came out. All of them are new to conntrack if no portless
    /// one is another's reply.
    pub fn send(&mut self, shots: &[Shot]) -> Vec<bool> {
        self.forget_connections();
        let tokens = self.tokens(shots.len());
        self.send_as(shots, &tokens)
    }

    /// Sends the packets and keeps their connections; what [`Self::send_as`] needs to send them again
    /// as more packets of these.
    pub fn connect(&mut self, shots: &[Shot]) -> Vec<u32> {
        self.forget_connections();
        let tokens = self.tokens(shots.len());
        self.send_as(shots, &tokens);
        tokens
    }

    fn tokens(&mut self, count: usize) -> Vec<u32> {
        let tokens: Vec<u32> = (self.token..).take(count).collect();
        self.token += u32::try_from(count).unwrap();
        tokens
    }

    /// Sends the packets of the connections that these tokens stand for; which of them came out.
    pub fn send_as(&mut self, shots: &[Shot], tokens: &[u32]) -> Vec<bool> {
        for (token, shot) in tokens.iter().zip(shots) {
            self.send_one(shot, *token);
        }
        let tokens: HashMap<u32, usize> = tokens.iter().copied().zip(0..shots.len()).collect();
        let mut came = vec![false; shots.len()];
        self.collect(|token, addresses| {
            let Some(number) = tokens.get(&token) else { return };
            let packet = &shots[*number].packet;
            // An ICMP error has a token in it, too.
            came[*number] |= addresses.is_none_or(|found| found == (packet.src, packet.dst));
        });
        came
    }

    fn send_one(&self, shot: &Shot, token: u32) {
        let Packet { src, dst, from_node, .. } = shot.packet;
        self.sent.set(self.sent.get() + 1);
        if self.sent.get().checked_rem(self.loses) == Some(0) {
            return;
        }
        let packets = packets(shot, token);
        if from_node {
            let at = SocketAddr::new(dst, 0);
            for bytes in packets {
                let none = MsgFlags::empty();
                let sent = match at {
                    SocketAddr::V4(at) => {
                        sendto(self.own[0].as_raw_fd(), &bytes, &SockaddrIn::from(at), none)
                    }
                    SocketAddr::V6(at) => {
                        sendto(self.own[1].as_raw_fd(), &bytes, &SockaddrIn6::from(at), none)
                    }
                };
                assert!(matches!(sent, Ok(_) | Err(Errno::EPERM)), "{sent:?}");
            }
            return;
        }
        let kind: [u8; 2] = if src.is_ipv4() { [8, 0] } else { [0x86, 0xdd] };
        for bytes in packets {
            let frame = [&IN[..], &FAR, &kind, &bytes].concat();
            let sent = nix::sys::socket::send(self.into.as_raw_fd(), &frame, MsgFlags::empty());
            assert_eq!(sent, Ok(frame.len()));
        }
    }

    /// Takes what came out until the fence has; tokens and, where there is a header, addresses.
    fn collect(&mut self, mut found: impl FnMut(u32, Option<(IpAddr, IpAddr)>)) {
        let mut buffer = vec![0; 65536];
        for _ in 0..50 {
            let fence = self.token;
            self.token += 1;
            let packet = Packet {
                src: FENCE[0],
                dst: FENCE[1],
                protocol: podwall_policy::port::Protocol::UDP,
                port: 9,
                from_node: false,
                to_node: false,
            };
            self.send_one(&Shot { packet, fragmented: false, extended: false }, fence);
            let mut seen = false;
            while let Ok(length) = recv(self.out.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                let frame = &buffer[..length];
                let Some(token) = token_of(frame) else { continue };
                seen |= token == fence;
                if let Some(addresses) = addresses_of(frame) {
                    found(token, Some(addresses));
                }
            }
            for socket in &self.arrived {
                let fd = socket.as_raw_fd();
                while let Ok(length) = recv(fd, &mut buffer, MsgFlags::MSG_DONTWAIT) {
                    token_of(&buffer[..length]).into_iter().for_each(|token| found(token, None));
                }
            }
            if seen {
                return;
            }
            // Packets are on their way: another process has the CPU.
            std::thread::yield_now();
        }
        panic!("no fence came out: the wiring of the test is broken");
    }

    /// Every packet is to be the first of its connection.
    fn forget_connections(&self) {
        // nlmsghdr (length, IPCTNL_MSG_CT_DELETE of NFNL_SUBSYS_CTNETLINK, NLM_F_REQUEST and
        // NLM_F_ACK, sequence, port), nfgenmsg (any family, version, resource).
        let mut message = 20_u32.to_ne_bytes().to_vec();
        message.extend(0x0102_u16.to_ne_bytes());
        message.extend(5_u16.to_ne_bytes());
        message.extend([0; 12]);
        let fd = self.conntrack.as_raw_fd();
        nix::sys::socket::send(fd, &message, MsgFlags::empty()).unwrap();
        let mut answer = [0; 64];
        let length = recv(fd, &mut answer, MsgFlags::empty()).unwrap();
        // NLMSG_ERROR with 0: an acknowledgement.
        assert!(length >= 20 && answer[16..20] == [0; 4], "{:?}", &answer[..length]);
    }
}

/// The token that a packet ends with.
fn token_of(bytes: &[u8]) -> Option<u32> {
    let end = bytes.last_chunk::<12>()?;
    let (magic, token) = end.split_at(8);
    (magic == MAGIC).then(|| u32::from_be_bytes(token.try_into().unwrap()))
}

fn addresses_of(frame: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let packet = frame.get(14..)?;
    Some(match frame.get(12..14)? {
        [8, 0] => {
            let at = |n: usize| packet.get(n..n + 4)?.try_into().ok();
            let at = |n| at(n).map(|bytes: [u8; 4]| Ipv4Addr::from(bytes).into());
            (at(12)?, at(16)?)
        }
        [0x86, 0xdd] => {
            let at = |n: usize| packet.get(n..n + 16)?.try_into().ok();
            let at = |n| at(n).map(|bytes: [u8; 16]| Ipv6Addr::from(bytes).into());
            (at(8)?, at(24)?)
        }
        _ => return None,
    })
}

/// A shot as one or two IP packets.
fn packets(shot: &Shot, token: u32) -> Vec<Vec<u8>> {
    let Packet { src, dst, protocol, port, .. } = shot.packet;
    let padding: &[u8] = if shot.fragmented { &[0; 64] } else { &[] };
    let data = [padding, MAGIC, &token.to_be_bytes()].concat();
    // No destination port is among these, so no packet is another's reply.
    let source_port = 20_000 + u16::try_from(token % 40_000).unwrap();
    let body = transport(src, dst, protocol.0, source_port, port, &data);
    let cut = if shot.fragmented { 40 } else { body.len() };
    let pieces = [(0, &body[..cut]), (cut, &body[cut..])];
    let pieces = pieces.into_iter().filter(|(_, piece)| !piece.is_empty());
    pieces
        .map(|(offset, piece)| {
            let more = offset + piece.len() < body.len();
            match (src, dst) {
                (IpAddr::V4(src), IpAddr::V4(dst)) => {
                    let flags = u16::try_from(offset / 8).unwrap() | u16::from(more) << 13;
                    v4(src, dst, protocol.0, token, flags, piece)
                }
                (IpAddr::V6(src), IpAddr::V6(dst)) => {
                    let fragment = u16::try_from(offset).unwrap() | u16::from(more);
                    let fragment = shot.fragmented.then_some((fragment, token));
                    v6(src, dst, protocol.0, shot.extended, fragment, piece)
                }
                _ => panic!("{src} and {dst} are of two families"),
            }
        })
        .collect()
}

fn v4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, id: u32, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + body.len()).unwrap();
    let mut header = vec![0x45, 0];
    header.extend(length.to_be_bytes());
    header.extend(&id.to_be_bytes()[2..]);
    header.extend(flags.to_be_bytes());
    header.extend([64, protocol, 0, 0]);
    header.extend(src.octets());
    header.extend(dst.octets());
    let words = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum = words.sum::<u32>();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header.extend(body);
    header
}

fn v6(
    src: Ipv6Addr,
    dst: Ipv6Addr,
    protocol: u8,
    extended: bool,
    fragment: Option<(u16, u32)>,
    body: &[u8],
) -> Vec<u8> {
    // Next header, length, options (RFC 8200 §4.2): PadN; an experiment's that may be skipped (RFC
    // 4727 §3.4), since a node takes no more than seven bytes of padding.
    let mut next = protocol;
    let mut inside = body.to_vec();
    let mut wrap = |number: u8, mut header: Vec<u8>| {
        header[0] = std::mem::replace(&mut next, number);
        inside.splice(0..0, header);
    };
    if let Some((offset, id)) = fragment {
        wrap(44, [&[0, 0], &offset.to_be_bytes()[..], &id.to_be_bytes()].concat());
    }
    if extended {
        wrap(60, vec![0, 1, 0x1e, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        wrap(0, vec![0, 0, 1, 4, 0, 0, 0, 0]);
    }
    let length = u16::try_from(inside.len()).unwrap();
    let start = [0x60, 0, 0, 0].into_iter().chain(length.to_be_bytes()).chain([next, 64]);
    let mut header: Vec<u8> = start.collect();
    header.extend(src.octets());
    header.extend(dst.octets());
    header.extend(inside);
    header
}

#[expect(clippy::cast_possible_truncation, reason = "0x0003")]
pub const ETH_P_ALL: u16 = libc::ETH_P_ALL as u16;

fn socket(domain: i32, kind: i32, protocol: i32) -> OwnedFd {
    // SAFETY: takes numbers only; the result is checked and owned by nobody else.
    let fd = unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) };
    assert!(fd >= 0, "{}", Errno::last());
    // SAFETY: `fd` is open and was just made.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn raw(family: Family, protocol: i32) -> OwnedFd {
    let domain = if family == Family::V4 { libc::AF_INET } else { libc::AF_INET6 };
    socket(domain, libc::SOCK_RAW, protocol)
}

/// Frames of one interface; protocol 0 receives none.
pub fn frames(interface: &str, protocol: u16) -> OwnedFd {
    let fd = socket(libc::AF_PACKET, libc::SOCK_RAW, 0);
    let index = nix::net::if_::if_nametoindex(interface).unwrap();
    // SAFETY: numbers only, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).unwrap();
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = index.try_into().unwrap();
    let length = libc::socklen_t::try_from(size_of_val(&address)).unwrap();
    // SAFETY: the kernel reads `length` bytes, which the structure has.
    let done = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) };
    assert_eq!(done, 0, "{}", Errno::last());
    fd
}

fn option(fd: &OwnedFd, level: i32, name: i32, value: i32) {
    let length = libc::socklen_t::try_from(size_of_val(&value)).unwrap();
    // SAFETY: the kernel reads `length` bytes, which the number has.
    let done =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), length) };
    assert_eq!(done, 0, "{}", Errno::last());
}

/// Nothing is lost for want of room.
pub fn much_room(fd: &OwnedFd) {
    option(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 64 << 20);
}

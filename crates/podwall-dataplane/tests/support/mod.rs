//! A node, its pods and packets between them, in network namespaces that end with the test.
//!
//! ```text
//!   endpoint 0 = node 10.0.0.1 ── veth ── pods 10.0.0.11, .12 …   (ptp: routed; bridge: one br0)
//! ```
//!
//! Every endpoint has a second address that no test isolates, for *fences*: a packet that always
//! arrives, sent behind the one that is tried from the same CPU. When the fence is there, the packet
//! is there or was dropped: nothing waits for silence.
#![allow(dead_code, reason = "each test binary uses its part")]
#![expect(unreachable_pub, reason = "a module of test binaries has no other crates to serve")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a helper of tests stops the test"
)]
#![expect(unsafe_code, reason = "raw sockets of protocols that nix does not name")]

pub mod clusters;
pub mod frames;
pub mod hub;
pub mod random;
pub mod wire;
pub mod yaml;

use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns, unshare};
use nix::sys::socket::{MsgFlags, SockaddrIn, SockaddrIn6, bind, recv, sendto};
use nix::unistd::Pid;
use podwall_compile::tables::Packet;
use podwall_dataplane::{Config, DataPlane, Ebpf, Limits, Log, Nftables, ebpf};
use podwall_policy::address::Family;
use podwall_policy::port::Protocol;

/// Whether this test has to be left out; says so.
pub fn skipped() -> bool {
    let skip = !nix::unistd::geteuid().is_root();
    if skip {
        eprintln!("SKIPPED: needs root");
    }
    skip
}

/// A network namespace.
pub struct Net {
    file: File,
    /// Where its eBPF programs are pinned.
    pub pins: PathBuf,
}

impl Net {
    pub fn new() -> Self {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace");
                    let number = PINS.fetch_add(1, Ordering::Relaxed);
                    let name = format!("podwall-test-{}-{number}", std::process::id());
                    Self {
                        file: File::open("/proc/thread-self/ns/net").unwrap(),
                        pins: PathBuf::from("/sys/fs/bpf").join(name),
                    }
                })
                .join()
                .unwrap()
        })
    }

    /// Runs in the namespace, on a thread of its own.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            setns(&self.file, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Lines for `ip -batch`.
    pub fn ip(&self, lines: &str) {
        self.feed("ip", &["-batch", "-"], lines);
    }

    /// Text for `nft -f -`; its output.
    pub fn nft(&self, text: &str) -> String {
        self.feed("nft", &["-f", "-"], text)
    }

    pub fn command(&self, program: &str, args: &[&str]) -> String {
        self.feed(program, args, "")
    }

    fn feed(&self, program: &str, args: &[&str], text: &str) -> String {
        self.run(|| {
            let mut child = Command::new(program)
                .args(args)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap_or_else(|e| panic!("{program}: {e}"));
            child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
            let out = child.wait_with_output().unwrap();
            let errors = String::from_utf8_lossy(&out.stderr);
            let status = out.status;
            assert!(status.success(), "{program} {args:?}: {status} {errors}\n{text}");
            assert_eq!(errors, "", "{program} {args:?}");
            String::from_utf8(out.stdout).unwrap()
        })
    }

    /// A path for `ip … netns`.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    pub fn sysctl(&self, path: &str, value: &str) {
        self.run(|| std::fs::write(format!("/proc/sys/net/{path}"), value).unwrap());
    }

    pub fn nftables(&self) -> Nftables {
        self.run(|| Nftables::open(Config::default()).unwrap())
    }

    /// A data plane of a kind in this namespace, like that of a process that has just started.
    pub fn plane(&self, kind: Kind) -> Box<dyn DataPlane> {
        self.limited(kind, Limits::default())
    }

    /// The same with other limits.
    pub fn limited(&self, kind: Kind, limits: Limits) -> Box<dyn DataPlane> {
        match kind {
            Kind::Nftables => {
                let log = Some(Log { group: 4242, per_second: 1000, burst: 1000 });
                let config = Config { log, limits, ..Config::default() };
                Box::new(self.run(|| Nftables::open(config).unwrap()))
            }
            Kind::Ebpf => {
                let pins = self.pins.clone();
                let config = ebpf::Config { pins, limits, ..Default::default() };
                Box::new(self.run(|| Ebpf::open(config).unwrap()))
            }
        }
    }

    pub fn ebpf(&self) -> Ebpf {
        self.ebpf_with(ebpf::Config::default().counters)
    }

    /// With another number of counters it is another program.
    pub fn ebpf_with(&self, counters: u32) -> Ebpf {
        let config = ebpf::Config { pins: self.pins.clone(), counters, ..Default::default() };
        self.run(|| Ebpf::open(config).unwrap())
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.forget_pins();
    }
}

impl Net {
    /// What is pinned would hold the namespace's programs for ever.
    pub fn forget_pins(&self) {
        for program in std::fs::read_dir(&self.pins).into_iter().flatten().flatten() {
            for pin in std::fs::read_dir(program.path()).into_iter().flatten().flatten() {
                let _ = std::fs::remove_file(pin.path());
            }
            let _ = std::fs::remove_dir(program.path());
        }
        let _ = std::fs::remove_dir(&self.pins);
    }
}
static PINS: AtomicU32 = AtomicU32::new(0);

/// The kinds of data planes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ebpf,
    Nftables,
}

impl Kind {
    pub const BOTH: [Self; 2] = [Self::Ebpf, Self::Nftables];

    pub fn is_ebpf(self) -> bool {
        self == Self::Ebpf
    }
}

/// Every wiring with every kind of data plane.
pub fn everywhere() -> impl Iterator<Item = (Wiring, Kind)> {
    Wiring::BOTH.into_iter().flat_map(|wiring| Kind::BOTH.map(|kind| (wiring, kind)))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wiring {
    Ptp,
    Bridge,
}

impl Wiring {
    pub const BOTH: [Self; 2] = [Self::Ptp, Self::Bridge];
}

/// The node or a pod.
pub struct Endpoint {
    pub net: Net,
    pub v4: IpAddr,
    pub v6: IpAddr,
    fence: IpAddr,
    fence6: IpAddr,
    fences: [UdpSocket; 2],
    raw: Vec<(Family, u8, OwnedFd)>,
}

impl Endpoint {
    pub fn address(&self, family: Family) -> IpAddr {
        if family == Family::V4 { self.v4 } else { self.v6 }
    }
}

pub struct World {
    pub endpoints: Vec<Endpoint>,
}

/// A protocol number without a conntrack helper or ports (RFC 3692).
pub const EXPERIMENT: u8 = 253;
const PROTOCOLS: [u8; 6] = [1, 6, 17, 132, EXPERIMENT, 58];
const FENCE_PORT: u16 = 9;
static TOKEN: AtomicU32 = AtomicU32::new(1);

fn addresses(index: usize) -> [IpAddr; 4] {
    let host = if index == 0 { 1 } else { 10 + index as u8 };
    let v6 = |net| Ipv6Addr::new(net, 0, 0, 0, 0, 0, 0, host.into()).into();
    [
        Ipv4Addr::new(10, 0, 0, host).into(),
        v6(0xfd00),
        Ipv4Addr::new(10, 1, 0, host).into(),
        v6(0xfd01),
    ]
}

impl World {
    /// The addresses of the local pods, and with those of the node all that are known.
    pub fn addresses(&self) -> (Vec<IpAddr>, Vec<IpAddr>) {
        let of = |endpoint: &Endpoint| [endpoint.v4, endpoint.v6];
        let local: Vec<IpAddr> = self.endpoints[1..].iter().flat_map(of).collect();
        let all = [&local[..], &of(&self.endpoints[0])].concat();
        (local, all)
    }

    /// A node with so many pods.
    pub fn new(wiring: Wiring, pods: usize) -> Self {
        let mut one = CpuSet::new();
        one.set(0).unwrap();
        // Fences count on the order of packets, which only one CPU keeps. For this thread only.
        sched_setaffinity(Pid::from_raw(0), &one).unwrap();
        let node = Net::new();
        node.ip("link set lo up\n");
        node.sysctl("ipv4/ip_forward", "1");
        node.sysctl("ipv6/conf/all/forwarding", "1");
        node.sysctl("ipv6/conf/default/accept_dad", "0");
        // A protocol without ports is one connection for conntrack in both directions: what a pod
        // sends would be the reply to what it got just before.
        node.sysctl("netfilter/nf_conntrack_generic_timeout", "0");
        if wiring == Wiring::Bridge {
            node.ip("link add br0 type bridge\nlink set br0 up\n\
                 addr add 10.0.0.1/24 dev br0\naddr add 10.1.0.1/24 dev br0\n\
                 addr add fd00::1/64 dev br0 nodad\naddr add fd01::1/64 dev br0 nodad\n");
        }
        let mut nets = vec![];
        for index in 1..=pods {
            let pod = Net::new();
            pod.ip("link set lo up\n");
            let [v4, v6, fence, fence6] = addresses(index);
            node.ip(&format!(
                "link add veth{index} type veth peer name eth0 netns {}\n",
                pod.path()
            ));
            pod.ip("link set eth0 up\n");
            match wiring {
                Wiring::Ptp => {
                    let mut lines = format!("link set veth{index} up\n");
                    for own in addresses(0) {
                        lines += &format!("addr add {own} dev veth{index}{}\n", nodad(own));
                    }
                    for remote in [v4, v6, fence, fence6] {
                        lines += &format!("route add {remote} dev veth{index}\n");
                    }
                    node.ip(&lines);
                    pod.ip(&format!(
                        "addr add {v4}/32 dev eth0\naddr add {fence}/32 dev eth0\n\
                         addr add {v6}/128 dev eth0 nodad\naddr add {fence6}/128 dev eth0 nodad\n\
                         route add default via 10.0.0.1 dev eth0 onlink\n\
                         route add ::/0 via fd00::1 dev eth0 onlink\n"
                    ));
                }
                Wiring::Bridge => {
                    node.ip(&format!(
                        "link set veth{index} master br0\nlink set veth{index} up\n\
                         link set veth{index} type bridge_slave hairpin on\n"
                    ));
                    pod.ip(&format!(
                        "addr add {v4}/24 dev eth0\naddr add {fence}/24 dev eth0\n\
                         addr add {v6}/64 dev eth0 nodad\naddr add {fence6}/64 dev eth0 nodad\n\
                         route add default via 10.0.0.1\nroute add ::/0 via fd00::1\n"
                    ));
                }
            }
            nets.push(pod);
        }
        nets.insert(0, node);
        let endpoints = nets.into_iter().enumerate().map(|(i, net)| endpoint(net, i)).collect();
        let world = Self { endpoints };
        world.warm_up();
        world
    }

    pub fn node(&self) -> &Net {
        &self.endpoints[0].net
    }

    /// Every neighbour is resolved before the first packet counts.
    fn warm_up(&self) {
        for from in 0..self.endpoints.len() {
            for to in 0..self.endpoints.len() {
                for family in 0..2 {
                    self.fence(from, to, family);
                }
                for family in Family::BOTH {
                    if from != to {
                        assert!(self.probe(from, to, family, Protocol::ICMP, 0), "{from} {to}");
                    }
                }
            }
        }
    }

    /// A packet that arrives.
    fn fence(&self, from: usize, to: usize, family: usize) {
        let number = TOKEN.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let target = &self.endpoints[to];
        let address = if family == 0 { target.fence } else { target.fence6 };
        for _ in 0..20 {
            let socket = &self.endpoints[from].fences[family];
            socket.send_to(&number, SocketAddr::new(address, FENCE_PORT)).unwrap();
            let mut buffer = [0; 16];
            while let Ok(len) = target.fences[family].recv(&mut buffer) {
                if buffer[..len] == number {
                    return;
                }
            }
        }
        panic!("no fence from {from} to {to}: the wiring of the test is broken");
    }

    /// Whether a packet arrives. ICMP means each family's own.
    pub fn probe(
        &self,
        from: usize,
        to: usize,
        family: Family,
        protocol: Protocol,
        port: u16,
    ) -> bool {
        let address = self.endpoints[to].address(family);
        self.probe_at(from, to, address, protocol, port)
    }

    /// The same, to an address that another endpoint's packets are translated to.
    pub fn probe_at(
        &self,
        from: usize,
        to: usize,
        address: IpAddr,
        protocol: Protocol,
        port: u16,
    ) -> bool {
        let family = Family::of(address);
        let protocol = match (protocol, family) {
            (Protocol::ICMP, Family::V6) => 58,
            (protocol, _) => protocol.0,
        };
        let token = TOKEN.fetch_add(1, Ordering::Relaxed);
        let mark = [&b"podwall!"[..], &token.to_be_bytes()].concat();
        let source = self.endpoints[from].address(family);
        let bytes = transport(source, address, protocol, token as u16 | 0x8000, port, &mark);
        send_raw(self.raw(from, family, protocol), &bytes, address);
        self.arrived(from, to, family, protocol, &mark)
    }

    fn raw(&self, endpoint: usize, family: Family, protocol: u8) -> &OwnedFd {
        let all = &self.endpoints[endpoint].raw;
        &all.iter().find(|(f, p, _)| (*f, *p) == (family, protocol)).unwrap().2
    }

    /// Whether a packet with a mark, which `from` has sent just now, has come to `to`.
    pub fn arrived(
        &self,
        from: usize,
        to: usize,
        family: Family,
        protocol: u8,
        mark: &[u8],
    ) -> bool {
        self.fence(from, to, 0);
        let mut buffer = [0; 2048];
        let mut found = false;
        while let Some(len) = receive_raw(self.raw(to, family, protocol), &mut buffer) {
            found |= buffer[..len].windows(mark.len()).any(|window| window == mark);
        }
        found
    }

    /// The packet of a probe as the tables see it.
    pub fn packet(
        &self,
        from: usize,
        to: usize,
        family: Family,
        protocol: Protocol,
        port: u16,
    ) -> Packet {
        let protocol = if (protocol, family) == (Protocol::ICMP, Family::V6) {
            Protocol::ICMPV6
        } else {
            protocol
        };
        Packet {
            src: self.endpoints[from].address(family),
            dst: self.endpoints[to].address(family),
            protocol,
            port: if protocol.has_ports() { port } else { 0 },
            from_node: from == 0,
            to_node: to == 0,
        }
    }
}

fn nodad(address: IpAddr) -> &'static str {
    if address.is_ipv6() { " nodad" } else { "" }
}

fn endpoint(net: Net, index: usize) -> Endpoint {
    let [v4, v6, fence, fence6] = addresses(index);
    let open = |address: IpAddr| {
        net.run(|| {
            let socket = UdpSocket::bind(SocketAddr::new(address, FENCE_PORT)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            socket
        })
    };
    let fences = [open(fence), open(fence6)];
    let mut raw = Vec::new();
    for family in Family::BOTH {
        for protocol in PROTOCOLS {
            let source = if family == Family::V4 { v4 } else { v6 };
            raw.push((family, protocol, net.run(|| raw_socket(family, protocol, source))));
        }
    }
    Endpoint { net, v4, v6, fence, fence6, fences, raw }
}

fn raw_socket(family: Family, protocol: u8, source: IpAddr) -> OwnedFd {
    let domain = if family == Family::V4 { libc::AF_INET } else { libc::AF_INET6 };
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: takes numbers only; the result is checked and owned by nobody else.
    let fd = unsafe { libc::socket(domain, kind, protocol.into()) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: `fd` is open and was just made.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let at = SocketAddr::new(source, 0);
    match at {
        SocketAddr::V4(at) => bind(fd.as_raw_fd(), &SockaddrIn::from(at)).unwrap(),
        SocketAddr::V6(at) => bind(fd.as_raw_fd(), &SockaddrIn6::from(at)).unwrap(),
    }
    fd
}

fn send_raw(fd: &OwnedFd, bytes: &[u8], to: IpAddr) {
    let (fd, none) = (fd.as_raw_fd(), MsgFlags::empty());
    let sent = match SocketAddr::new(to, 0) {
        SocketAddr::V4(to) => sendto(fd, bytes, &SockaddrIn::from(to), none),
        SocketAddr::V6(to) => sendto(fd, bytes, &SockaddrIn6::from(to), none),
    };
    // EPERM: dropped on the sender's own way out.
    assert!(matches!(sent, Ok(_) | Err(Errno::EPERM)), "{sent:?}");
}

fn receive_raw(fd: &OwnedFd, buffer: &mut [u8]) -> Option<usize> {
    recv(fd.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT).ok()
}

/// A transport header with right checksums, so that conntrack takes the packet as new.
pub fn transport(
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    sport: u16,
    dport: u16,
    data: &[u8],
) -> Vec<u8> {
    let ports = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
    let (mut out, checksum_at) = match protocol {
        6 => {
            let rest = [0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0x20, 0, 0, 0, 0, 0];
            ([&ports[..], &rest].concat(), Some(16))
        }
        17 => {
            let len = (8 + data.len()) as u16;
            ([&ports[..], &len.to_be_bytes(), &[0, 0]].concat(), Some(6))
        }
        132 => {
            let mut init = vec![1, 0];
            init.extend_from_slice(&((20 + data.len()) as u16).to_be_bytes());
            init.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0xff, 0xff, 0, 1, 0, 1, 0, 0, 0, 1]);
            ([&ports[..], &[0; 8], &init].concat(), None)
        }
        1 => ([&[8, 0, 0, 0][..], &sport.to_be_bytes(), &[0, 1]].concat(), Some(2)),
        58 => ([&[128, 0, 0, 0][..], &sport.to_be_bytes(), &[0, 1]].concat(), Some(2)),
        _ => (Vec::new(), None),
    };
    out.extend_from_slice(data);
    if protocol == 132 {
        let crc = crc32c(&out).to_le_bytes();
        out[8..12].copy_from_slice(&crc);
    }
    if let Some(at) = checksum_at {
        let mut pseudo = Vec::new();
        if protocol != 1 {
            for address in [src, dst] {
                match address {
                    IpAddr::V4(v4) => pseudo.extend_from_slice(&v4.octets()),
                    IpAddr::V6(v6) => pseudo.extend_from_slice(&v6.octets()),
                }
            }
            pseudo.extend_from_slice(&(out.len() as u32).to_be_bytes());
            pseudo.extend_from_slice(&u32::from(protocol).to_be_bytes());
        }
        pseudo.extend_from_slice(&out);
        let sum = pseudo.chunks(2).fold(0u32, |sum, pair| {
            sum + u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]))
        });
        let folded = (sum & 0xffff) + (sum >> 16);
        let sum = !(((folded & 0xffff) + (folded >> 16)) as u16);
        out[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    out
}

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 0 { crc >> 1 } else { crc >> 1 ^ 0x82f6_3b78 }
        })
    })
}

/// Has a socket send hop-by-hop and destination options, one of them longer than eight bytes, in
/// front of every IPv6 packet.
pub fn extension_headers(socket: &UdpSocket) {
    // Both begin with the next header, which the kernel fills in, and the length beyond the first
    // eight bytes in units of eight; then options: PadN (RFC 8200 §4.2).
    let short = [0, 0, 1, 4, 0, 0, 0, 0];
    let long = [0, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (option, bytes) in [(libc::IPV6_HOPOPTS, &short[..]), (libc::IPV6_DSTOPTS, &long[..])] {
        let length = libc::socklen_t::try_from(bytes.len()).unwrap();
        // SAFETY: the kernel reads `length` bytes, which the slice has.
        let done = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_IPV6,
                option,
                bytes.as_ptr().cast(),
                length,
            )
        };
        assert_eq!(done, 0, "{}", Errno::last());
    }
}

/// Waits until the data plane has nothing left to do before the next change.
pub fn settle(plane: &mut dyn DataPlane) {
    settle_some(plane, usize::MAX);
}

/// The same, for so many steps.
pub fn settle_some(plane: &mut dyn DataPlane, steps: usize) {
    for _ in 0..steps {
        let Some(pause) = plane.settle().unwrap() else { return };
        thread::sleep(pause);
    }
}

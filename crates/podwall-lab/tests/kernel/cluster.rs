//! A small cluster for the cases of the network.
//!
//! ```text
//!   n1: a1 a2      n2: b1      n3: (empty)      outside
//! ```

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use podwall_lab::fabric::{Fabric, PodPlug};
use podwall_lab::holder::{Holder, StartOptions};
use podwall_lab::netns::NetNs;
use podwall_lab::plan::{self, Families};
use podwall_lab::rpc::{LabConfig, NetworkMode};
use podwall_policy::address::Family;
use podwall_policy::label::Labels;
use podwall_policy::object::Node;

/// Long enough for an answer, short enough to wait for none.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long to wait before silence is taken for an answer.
const SILENCE: Duration = Duration::from_millis(300);

fn config(network: NetworkMode, families: Families) -> LabConfig {
    LabConfig {
        name: "test".to_owned(),
        nodes: ["n1", "n2", "n3"].map(ToOwned::to_owned).to_vec(),
        network,
        families,
        externals: Vec::new(),
        enforce: false,
        dataplane: String::new(),
        limits: String::new(),
        mirrors: None,
    }
}

pub(crate) struct Cluster {
    pub(crate) fabric: Fabric,
}

/// Runs `work` inside a new lab of both families; its panics are the case's.
pub(crate) fn in_lab(temp: &Path, network: NetworkMode, work: impl FnOnce(&mut Cluster)) {
    in_lab_of(temp, network, Families::Dual, work);
}

/// Runs `work` inside a new lab; its panics are the case's.
pub(crate) fn in_lab_of(
    temp: &Path,
    network: NetworkMode,
    families: Families,
    work: impl FnOnce(&mut Cluster),
) {
    let options = StartOptions { die_with_parent: true };
    let holder = Holder::start(&temp.join("labs/a"), options).expect("start");
    let status = holder.run(|| {
        work(&mut Cluster::open_of(&holder.inside(), network, families));
        0
    });
    let status = status.expect("run");
    holder.stop().expect("stop");
    assert!(status.success(), "inside: {status}");
}

impl Cluster {
    /// The cluster of both families, made or taken over.
    pub(crate) fn open(inside: &Path, network: NetworkMode) -> Self {
        Self::open_of(inside, network, Families::Dual)
    }

    fn open_of(inside: &Path, network: NetworkMode, families: Families) -> Self {
        let config = config(network, families);
        let mut fabric = Fabric::open(inside, &config).expect("fabric");
        for (number, name) in (1..).zip(config.nodes) {
            let node = Node {
                name: Arc::from(name),
                labels: Labels::default(),
                addresses: plan::node_addresses(number, families),
                pod_cidrs: plan::pod_cidrs(number, families),
                source: None,
            };
            fabric.ensure_node(&node).expect("node");
        }
        fabric.set_services(&[]).expect("services");
        let mut cluster = Self { fabric };
        for (id, node) in [("a1", "n1"), ("a2", "n1"), ("b1", "n2")] {
            cluster.pod(id, node, families.list().iter().map(|f| ip(id, *f)).collect());
        }
        cluster
    }

    pub(crate) fn pod(&mut self, id: &str, node: &str, ips: Vec<IpAddr>) {
        let plug = PodPlug { id: id.to_owned(), node: node.to_owned(), ips };
        self.fabric.plug_pod(&plug).expect("plug");
        self.fabric.activate_pod(id).expect("activate");
    }

    /// A namespace: `a1`, `n2`, `outside`.
    pub(crate) fn ns(&self, place: &str) -> NetNs {
        let ns = match place {
            "outside" => self.fabric.outside(),
            node if node.starts_with('n') => self.fabric.node(node),
            pod => self.fabric.pod(pod),
        };
        ns.expect("namespace")
    }

    /// Serves TCP and UDP on a port of a place: the answer is the place's name and who asked.
    pub(crate) fn serve(&self, place: &str, port: u16) {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let made = self.ns(place).within(|| (TcpListener::bind(any), UdpSocket::bind(any)));
        let (tcp, udp) = made.expect("within");
        let (tcp, udp) = (tcp.expect("listen"), udp.expect("bind"));
        let name = place.to_owned();
        std::thread::spawn(move || {
            for stream in tcp.incoming() {
                let mut stream = stream.expect("accept");
                let peer = stream.peer_addr().expect("peer").ip().to_canonical();
                // The other side may have gone.
                let _ = write!(stream, "{name} {peer}");
            }
        });
        let name = place.to_owned();
        std::thread::spawn(move || {
            let mut buffer = [0; 16];
            while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
                let text = format!("{name} {}", peer.ip().to_canonical());
                let _ = udp.send_to(text.as_bytes(), peer);
            }
        });
    }

    /// Asks by TCP, from an address of one's choice: who answered and whom it saw.
    pub(crate) fn ask(&self, from: &str, source: Option<IpAddr>, to: SocketAddr) -> String {
        let asked = self.ns(from).within(|| -> std::io::Result<String> {
            let mut stream = connect(source, to)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        });
        asked.expect("within").unwrap_or_else(|e| format!("{from} to {to}: {e} ({:?})", e.kind()))
    }

    /// The same by UDP.
    pub(crate) fn ask_udp(&self, from: &str, to: SocketAddr) -> String {
        let asked = self.ns(from).within(|| -> std::io::Result<String> {
            let any: IpAddr = match to {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let socket = UdpSocket::bind((any, 0))?;
            socket.set_read_timeout(Some(SILENCE))?;
            socket.connect(to)?;
            let mut buffer = [0; 128];
            // Asked again: a datagram is not a promise.
            let mut last = Ok(0);
            for _ in 0..5 {
                socket.send(b"?")?;
                last = socket.recv(&mut buffer);
                if let Ok(length) = last {
                    return Ok(String::from_utf8_lossy(&buffer[..length]).into_owned());
                }
            }
            last.map(|_| String::new())
        });
        asked.expect("within").unwrap_or_else(|e| format!("{from} to {to}: {e} ({:?})", e.kind()))
    }

    /// Whether nothing at all comes back: neither an answer nor a refusal.
    pub(crate) fn is_silent(&self, from: &str, to: SocketAddr) -> bool {
        let tried = self.ns(from).within(|| TcpStream::connect_timeout(&to, SILENCE));
        match tried.expect("within") {
            Err(error) => error.kind() == std::io::ErrorKind::TimedOut,
            Ok(_) => false,
        }
    }

    /// Whether a connection comes about.
    pub(crate) fn connects(&self, from: &str, to: SocketAddr) -> bool {
        let tried = self.ns(from).within(|| TcpStream::connect_timeout(&to, SILENCE));
        tried.expect("within").is_ok()
    }

    /// Sends one datagram and waits for the answer; it is not sent a second time.
    pub(crate) fn ask_once(&self, from: &str, to: SocketAddr) -> std::io::Result<String> {
        let asked = self.ns(from).within(|| {
            let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            let mut buffer = [0; 128];
            socket.send_to(b"?", to)?;
            let length = socket.recv(&mut buffer)?;
            Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
        });
        asked.expect("within")
    }

    /// What the connection attempt comes to when it fails.
    pub(crate) fn refusal(&self, from: &str, to: SocketAddr) -> std::io::ErrorKind {
        let tried = self.ns(from).within(|| TcpStream::connect_timeout(&to, PATIENCE));
        tried.expect("within").expect_err("no connection").kind()
    }

    /// Loads rules into a node.
    pub(crate) fn nft(&self, node: &str, text: &str) {
        let loaded = self
            .ns(node)
            .within(|| Command::new("nft").arg(text).output().expect("nft").status.success());
        assert!(loaded.expect("within"), "{text}");
    }
}

/// Connects from an address that need not be an interface's.
fn connect(source: Option<IpAddr>, to: SocketAddr) -> std::io::Result<TcpStream> {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect,
        setsockopt, socket, sockopt,
    };
    use std::os::fd::AsRawFd;
    let Some(source) = source else { return TcpStream::connect_timeout(&to, PATIENCE) };
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp)?;
    // The outside has no address of its own among those that it speaks with.
    setsockopt(&fd, sockopt::IpFreebind, &true)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(source, 0)))?;
    connect(fd.as_raw_fd(), &SockaddrStorage::from(to))?;
    Ok(TcpStream::from(fd))
}

/// The address of a place.
pub(crate) fn ip(place: &str, family: Family) -> IpAddr {
    let (four, six) = match place {
        "a1" => ("10.244.1.11", "fd00:10:244:1::11"),
        "a2" => ("10.244.1.12", "fd00:10:244:1::12"),
        "b1" => ("10.244.2.11", "fd00:10:244:2::11"),
        "n1" => ("172.18.0.2", "fd00:172:18::2"),
        "n2" => ("172.18.0.3", "fd00:172:18::3"),
        "n3" => ("172.18.0.4", "fd00:172:18::4"),
        "outside" => ("203.0.113.7", "2001:db8::7"),
        "client" => ("198.51.100.9", "2001:db8:1::9"),
        "gateway1" => ("10.244.1.1", "fd00:10:244:1::1"),
        "service" => ("10.96.0.80", "fd00:10:96::80"),
        other => panic!("no address for {other}"),
    };
    let text = if family == Family::V4 { four } else { six };
    text.parse().expect("address")
}

pub(crate) fn at(place: &str, family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(ip(place, family), port)
}

/// The answer of a server that saw a place's address.
pub(crate) fn saw(server: &str, client: &str, family: Family) -> String {
    format!("{server} {}", ip(client, family))
}
